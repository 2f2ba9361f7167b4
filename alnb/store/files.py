"""Files: atomic writes, JSON with checksums, tensors."""

import errno
import hashlib
import io
import json
import os
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

Json = dict[str, Any]
RECOMPUTE = "restore it from a copy, or delete that file to have it computed again"


class Corrupted(Exception):
    """A stored file is truncated, altered or missing where it must be."""


def workspace() -> Path:
    """The project folder: $ALNB_WORKSPACE, else the nearest folder above with notebooks/ and pyproject.toml, else the current folder."""
    if "ALNB_WORKSPACE" in os.environ:
        return Path(os.environ["ALNB_WORKSPACE"]).expanduser().resolve()
    here = Path.cwd()
    candidates = (p for p in (here, *here.parents) if (p / "notebooks").is_dir() and (p / "pyproject.toml").is_file())
    return next(candidates, here)


def write_atomic(path: Path, content: bytes) -> None:
    """Write `content` so that `path` holds either the old content or the new, at every instant and after a power cut.

    Raises:
        OSError: the disk is full or not writable. `path` is unchanged, and no half-written file remains.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(part, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
        sync_folder(path.parent)
    except OSError as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        reason = f"{error.strerror or error} while writing {path}: nothing that was complete is lost; free some space and start again"
        raise OSError(error.errno, reason) from error


def sync_folder(folder: Path) -> None:
    """Make a rename inside `folder` durable."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


SHA256, END = b'"sha256": "', b'"\n}\n'  # how the last entry of a file begins and ends


def encode(content: Json) -> bytes:
    """`content` as JSON whose last entry is the sha256 of the text before that entry."""
    head, key, _ = json.dumps({**content, "sha256": ""}, indent=1, allow_nan=False).encode().rpartition(SHA256)
    return head + key + hashlib.sha256(head).hexdigest().encode() + END


def write_json(path: Path, content: Json) -> None:
    """Write `content` atomically, in the form of `encode`."""
    write_atomic(path, encode(content))


def read_json(path: Path, remedy: str = RECOMPUTE) -> Json:
    """The content that `write_json` wrote.

    Raises:
        Corrupted: the file is truncated, or its checksum does not match its content.
    """
    with open(path, "rb") as file:
        text = file.read()
    try:
        content: Json = json.loads(text)
        stated = content.pop("sha256")
        head, _, tail = text.rpartition(SHA256)
        if tail != stated.encode() + END or hashlib.sha256(head).hexdigest() != stated:
            raise ValueError(f"checksum mismatch: file says {stated}")
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise Corrupted(f"{path} is truncated or was altered ({error}); {remedy}") from error
    return content


def write_tensors(path: Path, content: Json) -> None:
    """Write `content`, nested dicts of tensors and plain values, atomically as a torch file. Memory: O(size of content)."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_atomic(path, buffer.getvalue())


def read_tensors(path: Path, device: torch.device | str = "cpu") -> Json:
    """The content that `write_tensors` wrote, on `device`. The checksums of the zip members are verified; torch itself ignores them.

    Raises:
        Corrupted: the file is missing, truncated or altered.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
        if bad is not None:
            raise ValueError(f"checksum of its member {bad} is wrong")
        loaded: Json = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise Corrupted(f"{path} is missing; {RECOMPUTE}") from error
    except Exception as error:  # zipfile and torch.load raise a dozen kinds on damaged bytes; EINVAL is zipfile's at an altered offset
        if isinstance(error, OSError | MemoryError) and getattr(error, "errno", None) != errno.EINVAL:
            raise  # not allowed, no memory, a broken disk: the file may well be whole
        raise Corrupted(f"{path} is truncated or was altered ({error}); {RECOMPUTE}") from error
    return _moved(loaded, torch.device(device))


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return type(value)((key, _moved(item, device)) for key, item in value.items())
    return [_moved(item, device) for item in value] if isinstance(value, list) else value
