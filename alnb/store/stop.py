"""When to stop at the next checkpoint: a deadline, or a file that somebody lays down; both reach a kernel through its environment.

Within a process, `asked_by` lets one thread be stopped alone, as a button does.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path

DEADLINE = "ALNB_DEADLINE"  # seconds since the epoch
STOP = "ALNB_STOP"  # the file's path
LOOK = 0.5  # seconds between two looks at the file, which may lie on another machine
_looked = [0.0]
_asked: ContextVar[Callable[[], bool] | None] = ContextVar("asked", default=None)  # of this thread


class TimeIsUp(Exception):
    """Not a failure: what is complete is kept, and the same command goes on from there."""


def requested() -> bool:
    """Whether to stop now. Called in every update: it costs about a microsecond."""
    asked = _asked.get()
    if asked is not None and asked():
        return True
    deadline, file = os.environ.get(DEADLINE), os.environ.get(STOP)
    if deadline and time.time() >= float(deadline):
        return True
    if not file or time.monotonic() - _looked[0] < LOOK:
        return False
    if there(Path(file)):
        return True
    _looked[0] = time.monotonic()
    return False


@contextmanager
def asked_by(asked: Callable[[], bool]) -> Iterator[None]:
    """Stop also when `asked()` is true, such as a `threading.Event`'s `is_set`: what this thread does, and no other."""
    token = _asked.set(asked)
    try:
        yield
    finally:
        _asked.reset(token)


def there(file: Path) -> bool:
    """Whether `file` is there, asked of its folder: NFS remembers for up to a minute that a file was not."""
    with suppress(OSError):
        return file.name in os.listdir(file.parent)
    return False


def check(where: str) -> None:
    """Raises: TimeIsUp, naming `where`, if it was asked for. Called where everything is stored."""
    if requested():
        raise TimeIsUp(f"stopped as asked for, {where}: what is complete is kept, and the same command goes on from there")
