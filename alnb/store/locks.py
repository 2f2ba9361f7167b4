"""Locks: one process at a time in a folder."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alnb.store import stop


class Locked(Exception):
    """Another process works on the same folder."""


@contextmanager
def exclusive(folder: Path, *, wait: bool | float) -> Iterator[None]:
    """Hold `folder` against all others; the system lets go of it when the process ends, however it ends.

    Args:
        wait: for as long as it takes, not at all, or for so many seconds.
    Raises:
        Locked: somebody else holds it, and did so until the wait was over.
        stop.TimeIsUp: somebody was still holding it when this process, waiting for as long as it takes, was asked to stop.
        OSError: it cannot be written to.
    """
    import filelock

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror} while making {folder}: choose a folder that you may write to") from error
    owner, me = folder / ".owner", f"{os.getpid()} on {platform.node()}"
    lock = filelock.FileLock(folder / ".lock", timeout=-1 if wait is True else float(wait))
    try:
        lock.acquire(cancel_check=stop.requested if wait is True else None)
    except filelock.Timeout as error:
        who = owner.read_text() if owner.exists() else "unknown"
        if wait is True:
            raise stop.TimeIsUp(f"stopped as asked for, while process {who} was using {folder}") from error
        here = " (this very process: close what uses it, or restart the kernel)" if who == me else ""
        raise Locked(f"{folder} is in use by process {who}{here}; wait until it has ended, or stop it") from error
    try:
        try:
            owner.write_text(me)
        except OSError as error:
            raise OSError(
                error.errno, f"{error.strerror} while writing {owner}: nothing was begun; free some space and start again"
            ) from error
        yield
    finally:
        lock.release()


def held(folder: Path) -> bool:
    """Whether somebody holds `folder`; nothing in it is changed."""
    import filelock

    lock = folder / ".lock"
    if not lock.exists():
        return False
    try:
        with filelock.FileLock(lock, timeout=0):
            return False
    except filelock.Timeout:
        return True
