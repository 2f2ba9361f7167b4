"""What both widgets share: work in the background, errors shown in the widget, a picture for readers without a kernel."""

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from IPython.display import HTML, Image, display
from matplotlib.figure import Figure

from alnb import store
from alnb.data import DataError
from alnb.learn.checkpoint import NonFiniteLoss
from alnb.learn.pretrain import Collapsed
from alnb.store import stop
from alnb.widgets.static import as_png

DELAY = 2.0  # seconds between the last change of a widget and its new picture
SHOWN_ERRORS = (  # a user can act on these: the widget shows their message
    ValueError, DataError, store.ManifestDiffers, store.Corrupted, store.Locked, store.NewerFormat, NonFiniteLoss, Collapsed, OSError,
)  # fmt: skip


class Worker:
    """Does one job at a time. A job that is requested while another runs is ignored."""

    def __init__(self, name: str, *, background: bool, busy: Callable[[bool], None], problem: Callable[[str], None]) -> None:
        """An idle worker.

        Args:
            name, background: of the thread. Without `background`, jobs run before `do` returns, as tests and batch executions need.
            busy: called with True when a job begins and with False when it ends, also by an error.
            problem: called with the message of an error, and with an empty text when a job begins.
        """
        self._name, self._background, self._busy, self._problem = name, background, busy, problem
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._thread: threading.Thread | None = None
        self.working = False

    def do(self, job: Callable[[], None], stopped: Callable[[], None] = lambda: None) -> None:
        """Do `job`, or nothing while another job runs. `stopped` is called if the job was stopped before its end."""
        with self._lock:
            if self.working:
                return
            self.working = True
            self._stop.clear()
            self._problem("")
            self._busy(True)
        if self._background:
            self._thread = threading.Thread(target=self._run, args=(job, stopped), name=self._name, daemon=True)
            self._thread.start()
        else:
            self._run(job, stopped)

    def stop(self) -> None:
        """Ask the job to stop. It stops where it next calls `store.stop.check`."""
        self._stop.set()

    @property
    def stopping(self) -> bool:
        """Whether the job was asked to stop."""
        return self._stop.is_set()

    def wait(self) -> None:
        """Wait until the job has ended."""
        if self._thread is not None:
            self._thread.join()

    @contextmanager
    def errors_shown(self) -> Iterator[None]:
        """Show `SHOWN_ERRORS` in the widget instead of raising them."""
        try:
            yield
        except SHOWN_ERRORS as error:
            self._problem(str(error))

    def _run(self, job: Callable[[], None], stopped: Callable[[], None]) -> None:
        try:
            with self.errors_shown(), stop.requested_by(self._stop.is_set):
                job()
        except stop.TimeIsUp:
            stopped()
        except Exception as error:
            self._problem(f"{type(error).__name__}: {error} (this is a bug; everything on disk is safe)")
            raise
        finally:
            with self._lock:  # both at once, so that a click right afterwards is not lost
                self.working = False
                self._busy(False)


class BackgroundWidget(ABC):
    """A widget with a `Worker`, and a picture of it that is saved with the notebook. `view` is what it displays."""

    view: Any

    def __init__(self, name: str, background: bool) -> None:
        """`name` of the worker's thread; `background` as in `Worker`."""
        self._lock = threading.RLock()
        self._worker = Worker(name, background=background, busy=self._show_busy, problem=self._show_problem)
        self._handle: Any = None  # IPython's handle of the displayed picture
        self._timer = threading.Timer(DELAY, self._update)

    @abstractmethod
    def overview(self) -> Figure:
        """The widget's content as a figure. Raises: ValueError where there is none yet."""

    @abstractmethod
    def _show_busy(self, busy: bool) -> None:
        """Switch buttons on or off."""

    @abstractmethod
    def _show_problem(self, message: str) -> None:
        """Show the message of an error; an empty one removes it."""

    def picture(self) -> None:
        """Display `overview` in the cell that calls this. The picture follows later changes, and readers without a kernel see it."""
        self._handle = display(HTML("<i>A picture of the widget appears here.</i>"), display_id=True)
        self._refresh()

    def _refresh(self) -> None:
        """Draw the picture again after `DELAY` seconds without a further change."""
        if self._handle is not None:
            self._timer.cancel()
            self._timer = threading.Timer(DELAY, self._update)
            self._timer.daemon = True
            self._timer.start()

    def _update(self) -> None:
        picture, handle = self._draw_static(), self._handle
        if picture is not None and handle is not None:
            handle.update(Image(picture[0], alt=picture[1]))

    def _draw_static(self) -> tuple[bytes, str] | None:
        with self._lock:
            if self._worker.working:
                return None
            try:
                figure = self.overview()
            except (ValueError, OSError):  # nothing is open, or a file is gone: the widget shows the error
                return None
            return as_png(figure), str(figure.get_suptitle())

    def _ipython_display_(self) -> None:
        display(self.view)
