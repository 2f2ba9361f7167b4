"""Logs: lines of JSON, each with a checksum, appended one by one."""

import errno
import json
import mmap
import os
import zlib
from contextlib import suppress
from pathlib import Path
from typing import IO

from alnb.store import Corrupted, Json
from alnb.store.files import sync_folder


def append_line(path: Path, entry: Json) -> None:
    """Append one line to a log, durable on disk before this returns. The caller holds the log's folder, see `store.exclusive`.

    A last line that a kill cut in two was never acknowledged; it is removed first.

    Raises:
        OSError: the disk is full or not writable. The log is unchanged.
    """
    new = not path.exists()
    with open(path, "ab+", buffering=0) as file:  # unbuffered: nothing is left to be written when it is closed
        complete, line = _complete_bytes(file), _line(entry)
        if complete < file.seek(0, os.SEEK_END):
            file.truncate(complete)
        try:
            if file.write(line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(file.fileno())
        except OSError as error:
            with suppress(OSError):
                file.truncate(complete)
            reason = f"{error.strerror or error} while writing {path}: its earlier lines are complete; free some space and try again"
            raise OSError(error.errno, reason) from error
    if new:
        sync_folder(path.parent)


def read_lines(path: Path, remedy: str) -> list[Json]:
    """The entries of a log that `append_line` wrote; none if there is no file. A last line cut in two is ignored.

    Raises:
        Corrupted: a line is damaged; the message names the line and the `remedy`.
    """
    content = path.read_bytes() if path.exists() else b""
    entries = []
    for number, line in enumerate(content[: content.rfind(b"\n") + 1].splitlines(keepends=True), start=1):
        try:
            entry: Json = json.loads(line)
            del entry["crc"]
            if _line(entry) != line:
                raise ValueError("checksum mismatch")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise Corrupted(f"{path}, line {number} is damaged ({line[:60]!r}); {remedy}") from error
        entries.append(entry)
    return entries


def _line(entry: Json) -> bytes:
    """An entry as a line with a checksum."""
    text = json.dumps(entry)
    return f'{text[:-1]}, "crc": {zlib.crc32(text.encode())}}}\n'.encode()


def _complete_bytes(file: IO[bytes]) -> int:
    """Bytes of the complete lines, searched from the end."""
    if file.seek(0, os.SEEK_END) == 0:
        return 0
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.rfind(b"\n") + 1
