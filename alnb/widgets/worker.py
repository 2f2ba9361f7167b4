"""What a widget computes, one thing at a time, beside the kernel's answers; what goes wrong is told in the widget."""

from __future__ import annotations

import threading
from collections.abc import Callable

from alnb import store
from alnb.data import DataError
from alnb.learn.checkpoint import NonFiniteLoss
from alnb.learn.pretrain import Collapsed
from alnb.store import stop as pause

TOLD = (  # what a person can do something about: shown as it is
    ValueError, DataError, store.ManifestDiffers, store.Corrupted, store.Locked, store.NewerFormat, NonFiniteLoss, Collapsed, OSError,
)  # fmt: skip


class Worker:
    """Does one job at a time; while it does, others are not begun."""

    def __init__(self, name: str, *, background: bool, busy: Callable[[bool], None], problem: Callable[[str], None]) -> None:
        """Nothing is done yet.

        Args:
            name: of the thread. background: in a thread of its own; False: before `do` returns, as tests want it.
            busy: called with True when a job begins and with False when it has ended, however it did.
            problem: called with what went wrong, in words; with an empty text when a job begins.
        """
        self._name, self._background, self._told_busy, self._problem = name, background, busy, problem
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._thread: threading.Thread | None = None
        self.working = False

    def do(self, job: Callable[[], None], stopped: Callable[[], None] = lambda: None) -> None:
        """Do it; `stopped` is called if it was stopped before its end. While something is done already, nothing happens."""
        with self._lock:
            if self.working:
                return
            self.working = True
            self._stop.clear()
            self._problem("")
            self._told_busy(True)
        if self._background:
            self._thread = threading.Thread(target=self._done, args=(job, stopped), name=self._name, daemon=True)
            self._thread.start()
        else:
            self._done(job, stopped)

    def stop(self) -> None:
        """Have the job stop where it next looks whether it should."""
        self._stop.set()

    @property
    def stopping(self) -> bool:
        """Whether the job was asked to stop."""
        return self._stop.is_set()

    def wait(self) -> None:
        """Until the job has ended."""
        if self._thread is not None:
            self._thread.join()

    def _done(self, job: Callable[[], None], stopped: Callable[[], None]) -> None:
        try:
            with pause.asked_by(self._stop.is_set):
                job()
        except pause.TimeIsUp:
            stopped()
        except TOLD as error:
            self._problem(str(error))
        except Exception as error:
            self._problem(f"{type(error).__name__}: {error} (this is a bug; what is on disk is kept)")
            raise
        finally:
            with self._lock:  # at once: a click right after it is not lost
                self.working = False
                self._told_busy(False)
