"""Parcels: files of at most `MOST_BYTES` that hold what runs leave, and how they are put into a folder of runs.

A parcel is a tar archive whose first member lists the sha256 of all others; one that is too large is cut into parts. All is verified
before anything is written.
"""

import hashlib
import io
import json
import lzma
import os
import re
import sys
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from alnb import store
from benchmarks.loan import weights

MOST_FILES, MOST_BYTES, MOST_TOGETHER = 8, 15 << 20, 60 << 20  # a loan brings back 8 files of 16 MiB, 64 MiB together
LIST = "parcel.json"
PART = re.compile(r"(.+)\.([0-9a-f]{16})\.(\d+)-of-(\d+)")
FINAL = ("record.json", "manifest.json")  # are never written anew
KNOWN = (".json", ".pt")
Content = dict[str, tuple[bytes, int]]
"""By path below the runs: bytes, and when they were written, in seconds since the epoch."""


class BadParcel(Exception):
    """A parcel is incomplete, damaged, or does not fit to what is there. Nothing was written."""


@dataclass(frozen=True)
class Brought:
    """What `bring` did."""

    written: int
    same: int  # files that were there already
    kept: tuple[str, ...]  # paths whose files here are newer


def records(root: Path) -> Content:
    """All JSON files below `root`, and the losses of finished pre-trainings without their weights; cells without logs.

    Features of a frozen backbone stay behind: they are a gigabyte, and made again in seconds. A damaged result stays behind, too.
    """
    content: Content = {}
    for path in sorted(root.rglob("*")):
        name, moment = path.relative_to(root).as_posix(), int(path.stat().st_mtime)
        if path.parent.name.startswith("embedded-") or path.name in ("values.json", "outcome.json"):
            continue
        if path.suffix == ".json":
            content[name] = path.read_bytes(), moment
        elif path.name == "result.pt" and path.parent.parent.name == "pretrained" and (state := _state(path)):
            content[name] = weights.small(state, without=("trunk", "head", "features")), moment - 1  # older than one with weights
    return content


def pretrainings(root: Path, names: Iterable[str], most: int) -> Content:
    """Weights of pre-trainings whose pretext is in `names`, as many as fit into `most` bytes; those not finished come first.

    A checkpoint is rounded to bfloat16, with its momentum. A finished backbone is exact, since runs are named by its bits; its head is
    rounded, and its features are left out.
    """
    content: Content = {}
    folders = [folder for name in names for folder in root.glob(f"**/pretrained/{name}-*") if any(folder.glob("*.pt"))]
    for folder in sorted(folders, key=lambda folder: ((folder / "result.pt").exists(), -folder.stat().st_mtime)):
        packed: Content = {}
        for path in folder.glob("*.pt"):
            state, moment = _state(path), int(path.stat().st_mtime)
            if state.get("trunk", state):  # an empty one stayed behind on an earlier journey
                exact = (*weights.EXACT, "trunk")
                packed[path.relative_to(root).as_posix()] = weights.small(state, exact=exact, without=("features",)), moment
        size = sum(len(data) for data, _ in packed.values())
        if size <= most:
            content, most = content | packed, most - size
    return content


def _state(path: Path) -> store.Json:
    """The content of a torch file; nothing, and a message, if it is damaged: the rest must travel."""
    try:
        return store.read_tensors(path)
    except store.Corrupted as error:
        print(f"left behind: {error}", file=sys.stderr, flush=True)
        return {}


def write(content: Mapping[str, tuple[bytes, int]], out: Path, name: str) -> list[Path]:
    """Write a parcel of `content` to `out`: the file `name`, or its parts. A `name` that ends in .xz is compressed."""
    listing = json.dumps({path: hashlib.sha256(data).hexdigest() for path, (data, _) in content.items()}, indent=1).encode()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path, (data, moment) in {LIST: (listing, 0), **content}.items():
            member = tarfile.TarInfo(path)
            member.size, member.mtime = len(data), moment
            archive.addfile(member, io.BytesIO(data))
    data = lzma.compress(buffer.getvalue(), preset=2) if name.endswith(".xz") else buffer.getvalue()
    for earlier in [*out.glob(f"{name}.*-of-*"), out / name]:
        earlier.unlink(missing_ok=True)
    pieces = [data[start : start + MOST_BYTES] for start in range(0, len(data), MOST_BYTES)]
    digest, n = hashlib.sha256(data).hexdigest()[:16], len(pieces)
    files = [out / name if n == 1 else out / f"{name}.{digest}.{k}-of-{n}" for k in range(1, n + 1)]
    for file, piece in zip(files, pieces, strict=True):
        store.write_atomic(file, piece)
    return files


def read(files: Iterable[Path]) -> Content:
    """The verified content of parcels; where two hold a file, the later one counts.

    Raises: BadParcel, which names the file, if a part is missing, anything is damaged, or a path leads out of the folder.
    """
    content: Content = {}
    for name, data in _joined(sorted(files)):
        try:
            with tarfile.open(fileobj=io.BytesIO(data)) as archive:
                members = [(each, archive.extractfile(each)) for each in archive.getmembers()]
                opened = {each.name: (file.read() if file else b"", int(each.mtime)) for each, file in members}
            listing = json.loads(opened.pop(LIST)[0])
        except (tarfile.TarError, lzma.LZMAError, EOFError, KeyError, ValueError, OSError) as error:
            raise BadParcel(f"{name} is no parcel, or is damaged ({error!r}): bring it again") from error
        if listing != {path: hashlib.sha256(inside).hexdigest() for path, (inside, _) in opened.items()}:
            raise BadParcel(f"{name} is damaged: its files are not those of its list: bring it again")
        for path in opened:
            pure = PurePosixPath(path)
            if pure.is_absolute() or ".." in pure.parts or "\\" in path or ":" in path or pure.suffix not in KNOWN or path != str(pure):
                raise BadParcel(f"{name} holds {path!r}, which is no {' or '.join(KNOWN)} file below the runs: do not use this parcel")
        content |= {path: each for path, each in opened.items() if path not in content or content[path][1] <= each[1]}
    return content


def _joined(files: list[Path]) -> Iterator[tuple[str, bytes]]:
    """Each parcel's name and bytes, of one file or of parts. Raises: BadParcel if a part is missing or damaged."""
    groups: dict[tuple[str, str, int], dict[int, Path]] = {}
    for file in files:
        if (match := PART.fullmatch(file.name)) is None:
            yield str(file), file.read_bytes()
        else:
            groups.setdefault((match[1], match[2], int(match[4])), {})[int(match[3])] = file
    for (name, digest, n), parts in groups.items():
        if missing := sorted({*range(1, n + 1)} - parts.keys()):
            raise BadParcel(f"{name}.{digest} lacks part {missing[0]} of {n}: name all parts in one call")
        data = b"".join(parts[k].read_bytes() for k in range(1, n + 1))
        if hashlib.sha256(data).hexdigest()[:16] != digest:
            raise BadParcel(f"the parts of {name}.{digest} are damaged: bring them again")
        yield name, data


def bring(files: Iterable[Path], root: Path) -> Brought:
    """Put the content of parcels below `root`. A newer file there stays; records are written after what belongs to them.

    Raises: BadParcel, before anything is written: as `read`; if a record or manifest there differs, or a process uses a folder.
    """
    content, todo, same, kept = read(files), dict[str, bytes](), 0, list[str]()
    for folder in sorted({folder for path in content for folder in (root / path).parents if root in folder.parents}):
        if store.held(folder):
            raise BadParcel(f"{folder} is in use by a process: stop it, and bring the parcel again")
    for path, (packed, moment) in content.items():
        place, data = root / path, packed if path.endswith(".json") else weights.large(packed)
        if place.exists() and place.read_bytes() == data:
            same += 1
        elif place.exists() and place.name in FINAL:
            raise BadParcel(f"{place} differs from that of the parcel: move its run elsewhere, or bring the parcel to another folder")
        elif place.exists() and int(place.stat().st_mtime) >= moment:
            kept.append(path)
        else:
            todo[path] = data
    for path in sorted(todo, key=lambda path: (path.startswith("cells/"), path.endswith("record.json"), path)):
        store.write_atomic(root / path, todo[path])
        os.utime(root / path, (content[path][1],) * 2)
    return Brought(len(todo), same, tuple(kept))
