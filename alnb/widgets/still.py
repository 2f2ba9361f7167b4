"""A picture of what a widget shows, for readers without a kernel: it follows what is done, and is saved with the notebook."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

RESTED = 2.0  # seconds after the last work, until it is drawn anew


class Still:
    """The picture of one widget; until `display`, nothing is drawn."""

    def __init__(self, draw: Callable[[], tuple[bytes, str] | None]) -> None:
        """`draw` gives a PNG and what it shows, in words; None: nothing can be drawn now. It is called in a thread of its own."""
        self._draw = draw
        self._shown: Any = None  # IPython's handle of what is displayed
        self._resting: threading.Timer | None = None

    def display(self) -> None:
        """Display it in the cell that calls this."""
        from IPython.display import HTML, display

        self._shown = display(HTML("<i>A picture of what is shown above follows.</i>"), display_id=True)
        self.rest()

    def rest(self) -> None:
        """Something was done: draw it anew once nothing more is."""
        if self._shown is not None:
            if self._resting is not None:
                self._resting.cancel()
            self._resting = threading.Timer(RESTED, self._follow)
            self._resting.daemon = True
            self._resting.start()

    def close(self) -> None:
        """Leave it as it is."""
        self._shown = None

    def _follow(self) -> None:
        from IPython.display import Image

        found, shown = self._draw(), self._shown
        if found is not None and shown is not None:
            shown.update(Image(found[0], alt=found[1]))
