"""Stop requests: a deadline or a file that another process writes. Both reach a kernel through its environment.

Within a process, `requested_by` stops one thread alone, as a button does.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path

DEADLINE = "ALNB_DEADLINE"  # seconds since the epoch
STOP = "ALNB_STOP"  # path of a file: stop when it exists
LOOK_SECONDS = 0.5  # between two looks at the file, which may lie on another machine
_last_look = [0.0]
_thread_request: ContextVar[Callable[[], bool] | None] = ContextVar("thread_request", default=None)


class TimeIsUp(Exception):
    """A stop was requested. Not a failure: complete cycles and checkpoints are stored, and the same command continues from there."""


def requested() -> bool:
    """True if the work should stop now. Called in every update: it costs about a microsecond."""
    thread_request = _thread_request.get()
    if thread_request is not None and thread_request():
        return True
    deadline, file = os.environ.get(DEADLINE), os.environ.get(STOP)
    if deadline and time.time() >= float(deadline):
        return True
    if not file or time.monotonic() - _last_look[0] < LOOK_SECONDS:
        return False
    if exists(Path(file)):
        return True
    _last_look[0] = time.monotonic()
    return False


@contextmanager
def requested_by(request: Callable[[], bool]) -> Iterator[None]:
    """In this block, this thread also stops when `request()` is true, such as a `threading.Event`'s `is_set`."""
    token = _thread_request.set(request)
    try:
        yield
    finally:
        _thread_request.reset(token)


def exists(file: Path) -> bool:
    """True if `file` is listed in its folder. NFS remembers for up to a minute that a file did not exist; a listing is fresh."""
    with suppress(OSError):
        return file.name in os.listdir(file.parent)
    return False


def check(place: str) -> None:
    """Raises: TimeIsUp, naming `place`, if a stop was requested. Called where the state has just been stored."""
    if requested():
        raise TimeIsUp(f"stopped on request, {place}: complete cycles and checkpoints are stored; the same command continues from there")
