"""Pictures for readers without a kernel: a widget's content as PNG, displayed in the notebook and saved with it."""

from __future__ import annotations

import io
import threading
from base64 import b64encode
from collections.abc import Callable
from html import escape
from typing import Any

from IPython.display import HTML, Image, display
from matplotlib.figure import Figure

DELAY = 2.0  # seconds between the last change of a widget and the new picture
DPI = 96


def as_png(figure: Figure, dpi: int = DPI) -> bytes:
    """A figure as a PNG file. pyplot is not used: callbacks in several threads would share its state."""
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=dpi, pil_kwargs={"compress_level": 1})  # a larger file, but a faster one
    return out.getvalue()


def as_img(content: bytes, alt: str, style: str = "max-width:100%") -> str:
    """HTML that shows a PNG file, with `alt` as its text for people who cannot see it."""
    return f'<img alt="{escape(alt)}" style="display:inline-block;{style}" src="data:image/png;base64,{b64encode(content).decode()}">'


class StaticPicture:
    """The picture of one widget. Nothing is drawn before `display`."""

    def __init__(self, draw: Callable[[], tuple[bytes, str] | None]) -> None:
        """`draw` returns a PNG and a text that describes it, or None if nothing can be drawn now. A timer's thread calls it."""
        self._draw = draw
        self._handle: Any = None  # IPython's handle of the displayed picture
        self._timer: threading.Timer | None = None

    def display(self) -> None:
        """Display the picture in the cell that calls this."""
        self._handle = display(HTML("<i>A picture of the widget appears here.</i>"), display_id=True)
        self.refresh()

    def refresh(self) -> None:
        """Draw the picture again after `DELAY` seconds without a further change."""
        if self._handle is not None:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = threading.Timer(DELAY, self._update)
            self._timer.daemon = True
            self._timer.start()

    def close(self) -> None:
        """Leave the picture as it is."""
        self._handle = None

    def _update(self) -> None:
        picture, handle = self._draw(), self._handle
        if picture is not None and handle is not None:
            handle.update(Image(picture[0], alt=picture[1]))
