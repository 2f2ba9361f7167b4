"""Locks: one process at a time in a folder."""

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock

from alnb.store import stop


class Locked(Exception):
    """Another process works on the same folder."""


@contextmanager
def exclusive(folder: Path, *, wait: bool | float) -> Iterator[None]:
    """Hold `folder` against all other processes. The system releases it when the process ends, however it ends.

    Args:
        wait: True: until the folder is free; False: not at all; or seconds.
    Raises:
        Locked: another process holds it, also after the wait.
        stop.TimeIsUp: a stop was requested while this process waited until the folder is free.
        OSError: the folder is not writable.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror} while making {folder}: choose a folder that you may write to") from error
    owner, me = folder / ".owner", f"{os.getpid()} on {platform.node()}"
    lock = filelock.FileLock(folder / ".lock", timeout=-1 if wait is True else float(wait))
    try:
        hold = lock.acquire(cancel_check=stop.requested if wait is True else None)
    except filelock.Timeout as error:
        who = owner.read_text() if owner.exists() else "unknown"
        if wait is True:
            raise stop.TimeIsUp(f"stopped on request, while process {who} was using {folder}") from error
        here = " (this very process: close what uses it, or restart the kernel)" if who == me else ""
        raise Locked(f"{folder} is in use by process {who}{here}; wait until that process has ended, or stop it") from error
    with hold:
        try:
            owner.write_text(me)
        except OSError as error:
            reason = f"{error.strerror} while writing {owner}: nothing was started; free some space and start again"
            raise OSError(error.errno, reason) from error
        yield


def held(folder: Path) -> bool:
    """True if a process holds `folder`. Nothing in the folder is changed."""
    lock = folder / ".lock"
    if not lock.exists():
        return False
    try:
        with filelock.FileLock(lock, timeout=0):
            return False
    except filelock.Timeout:
        return True
