"""Labelling a folder of images by hand: which images there are, what was said of them, what to ask next. No widget is in here.

Everything lies in one folder beside the images, or elsewhere where those cannot be written to: ``labels.jsonl``, a log of all that was
said, durable line by line; ``queue.json``, what is asked now; ``rounds.jsonl``, how good the net was after each training. An image is
known by the sha256 of its bytes, so that renamed files keep their labels and copies are asked for once.

A fifth of the images, chosen by their sha256, is held out: a part of each batch comes from there, is never learned from, and is a random
sample of the folder, however the rest was chosen. So the accuracy on it is an honest estimate; labels that were taken over from elsewhere,
which may be of the easy images, do not count in it.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from alnb import store
from alnb.data import DataError, at_most, load
from alnb.data.files import LABELS, as_rgb, image_files, in_threads

PLACE = LABELS  # the folder beside the images
HELD_OUT = 0.2  # share of the images that is never learned from
UNSURE = "not sure"  # what `Labelling.label` takes beside class names
KEYS = "123456789abcdefhijklmopqrtvwxyz"  # of the classes, in the order they were named; g, n, s and u have another meaning
LONGEST = 60  # characters of a class name
NO_NAME = '/\\:*?"<>|\0\n\r\t'  # what no folder's name may hold on some system
NAMED = 5  # files that a message names; of the rest it gives the number
COLUMNS = ("file", "label", "held_out", "person", "time", "sha256")
SMALL = 64  # pixels to which a JPEG is decoded where it only matters whether it can be
FORGET = "delete it: what has changed in the folder is not told then, and no label is lost"
Stamp = tuple[int, int, str]  # of a file: its size, its time of modification in ns, its sha256
RESTORE = "restore the file from a copy, or delete that line: the others are kept"


class Refused(ValueError):
    """Something that a person asked for cannot be; the message says why, and what can."""


@dataclass(frozen=True)
class Item:
    """One image, in as many files as have the same bytes."""

    key: str  # hexadecimal sha256 of the bytes
    files: tuple[str, ...]  # relative to the folder, in natural order

    @property
    def held_out(self) -> bool:
        """Whether it is never learned from: the same on every machine, whatever else is in the folder."""
        return int(hashlib.sha256(f"held out {self.key}".encode()).hexdigest()[:8], 16) < HELD_OUT * 16**8


def keys_of(classes: Iterable[str]) -> list[str]:
    """The key of each class: of one that is called by a digit or letter this very one, of others the first of `KEYS` that is free."""
    found: list[str] = []
    for name in classes:
        own = name.lower() if name.lower() in {"0", *KEYS} else ""
        found.append(own if own and own not in found else next(key for key in KEYS if key not in found))
    return found


def place_of(folder: Path, place: Path | str | None) -> Path:
    """Where the labels of a folder are kept, where `place` was asked for; None or empty: `PLACE` in the folder."""
    return Path(place).expanduser() if place else folder / PLACE


def scan(folder: Path, place: Path, known: Mapping[str, Stamp] | None = None) -> tuple[list[Item], dict[str, str], dict[str, Stamp]]:
    """The images in `folder` and below it, `place` left aside.

    Args:
        known: what an earlier scan said of files: those that have not changed since are not read again.
    Returns:
        The images; why which files cannot be read (file: reason); of each other file its size, time of modification and sha256.
    Raises:
        DataError: there is no image, or none that can be read.
    """
    aside, before = place.resolve(), known or {}
    files = [path for path in image_files(folder) if not path.parent.resolve().is_relative_to(aside)]
    names = [path.relative_to(folder).as_posix() for path in files]
    found = dict(zip(names, in_threads(lambda path, name: _stamp(path, before.get(name)), files, names), strict=True))
    bad = {name: stamp for name, stamp in found.items() if isinstance(stamp, str)}
    stamps = {name: stamp for name, stamp in found.items() if not isinstance(stamp, str)}
    if not stamps:
        raise DataError(f"{folder}: none of {len(files)} images can be read, such as {next(iter(bad.items()))}: put readable ones there")
    by_key: dict[str, list[str]] = {}
    for name, (_, _, key) in stamps.items():
        by_key.setdefault(key, []).append(name)
    return [Item(key, tuple(names)) for key, names in by_key.items()], bad, stamps


def _stamp(path: Path, before: Stamp | None) -> Stamp | str:
    """Size, time of modification and sha256 of an image file; why, where it cannot be read. Decoded unless it is as it was `before`."""
    from PIL import Image

    try:
        status = path.stat()
        if before is not None and list(before[:2]) == [status.st_size, status.st_mtime_ns]:
            return status.st_size, status.st_mtime_ns, before[2]
        content = path.read_bytes()
        with Image.open(io.BytesIO(content)) as image:
            image.draft(None, (SMALL, SMALL))  # of a JPEG all is read, but little computed
            as_rgb(image)
        return status.st_size, status.st_mtime_ns, hashlib.sha256(content).hexdigest()
    except Exception as error:  # PIL's parsers raise nearly anything on damaged bytes
        return f"{type(error).__name__}: {error}"


class Labelling:
    """A folder that one person labels; it is held against others until `close`."""

    def __init__(self, folder: Path | str, place: Path | str | None = None, *, classes: Iterable[str] = (), person: str = "") -> None:
        """Take hold of the folder, and read what there is.

        Args:
            folder: of images, at any depth.
            place: where labels are kept; None: `PLACE` in the folder.
            classes: names to begin with; those of earlier sessions are there already.
            person: written beside each label.
        Raises:
            DataError: no folder, no image, or none that can be read.
            store.Locked: somebody else labels it; the message says who.
            store.Corrupted: a line of the log is damaged.
            Refused: a class name cannot be.
            OSError: the place cannot be written to.
        """
        self.folder, self.person = Path(folder).expanduser(), person
        self.place = place_of(self.folder, place)
        if not self.folder.is_dir():
            raise DataError(f"{self.folder} is no folder (looked from {Path.cwd()}): give the path of a folder of images")
        self._held = ExitStack()
        with ExitStack() as held:
            held.enter_context(store.exclusive(self.place, wait=False))
            before = store.read_json(self._seen, FORGET) if self._seen.exists() else None
            self.items, self.unreadable, stamps = scan(self.folder, self.place, (before or {}).get("stamps"))
            self.by_key = {item.key: item for item in self.items}
            self.classes: list[str] = []
            self._said: list[dict[str, Any]] = []  # the answers that count, the oldest first
            self.gone: set[str] = set()  # keys of images that could not be shown since: not asked for until the folder is opened anew
            for entry in store.read_lines(self.log, RESTORE):
                self._apply(entry)
            self.news = _news(self, before)
            store.write_json(self._seen, {"files": {item.key: list(item.files) for item in self.items}, "stamps": stamps})
            for name in classes:
                if name.strip() not in self.classes:
                    self.add_class(name)
            self._held = held.pop_all()

    def close(self) -> None:
        """Let go of the folder."""
        self._held.close()

    def __enter__(self) -> Labelling:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """As `close`."""
        self.close()

    @property
    def log(self) -> Path:
        """All that was said, one entry a line."""
        return self.place / "labels.jsonl"

    @property
    def _seen(self) -> Path:
        return self.place / "images.json"  # what was in the folder when it was last opened

    @property
    def answers(self) -> dict[str, dict[str, Any]]:
        """The last answer to each image, by key: image, label (None for "not sure"), files, person, time; source, where it was taken over.

        Also of images now missing.
        """
        return {entry["image"]: entry for entry in self._said}

    @property
    def labels(self) -> dict[str, str | None]:
        """Class name, or None for "not sure", of the images in the folder, by key, in the order in which they were first asked."""
        return {key: entry["label"] for key, entry in self.answers.items() if key in self.by_key}

    def add_class(self, name: str) -> None:
        """Name one more class; durable when this returns.

        Raises:
            Refused: an empty name, one that is there already or differs in case alone, one that cannot name a folder, or too many.
        """
        name = name.strip()
        same = [known for known in self.classes if known.casefold() == name.casefold()]
        if not name:
            raise Refused("a class needs a name: type one")
        if same:
            raise Refused(f"there is a class {same[0]!r} already: choose another name")
        if set(name) & set(NO_NAME) or name.startswith(".") or name.casefold() == UNSURE or len(name) > LONGEST:
            raise Refused(
                f"{name[: 2 * LONGEST]!r} cannot name a class, since on export a folder gets its name: do without {' '.join(NO_NAME[:9])}, "
                f"line breaks, a dot in front, more than {LONGEST} characters and the name {UNSURE!r}"
            )
        if len(self.classes) >= len(KEYS):
            raise Refused(f"there are {len(KEYS)} classes already, one for each key: {name!r} would have none")
        self._write({"class": name})

    def label(self, key: str, label: str, source: str = "") -> None:
        """Say what an image shows: a class name, or `UNSURE`. Durable when this returns; a later answer replaces an earlier one.

        Args:
            source: where it was taken from; empty: somebody was asked.
        Raises:
            Refused: there is no such image or class.
            OSError: the disk is full or not writable; nothing was said then.
        """
        if key not in self.by_key:
            raise Refused(f"there is no image {key[:16]} in {self.folder}: open the folder anew")
        if label != UNSURE and label not in self.classes:
            raise Refused(f"there is no class {label!r}: there are {', '.join(self.classes) or 'none yet'}; add it first")
        said = {"label": None if label == UNSURE else label, "files": list(self.by_key[key].files), "person": self.person}
        said |= {"source": source} if source else {}
        self._write({"image": key, **said, "time": datetime.now(UTC).isoformat(timespec="seconds")})

    def undo(self) -> str | None:
        """Take the last answer back, and say of which image it was: its key, None where there is no answer to an image in the folder."""
        key = next((entry["image"] for entry in reversed(self._said) if entry["image"] in self.by_key), None)
        if key is not None:
            self._write({"undo": key})
        return key

    def _write(self, entry: dict[str, Any]) -> None:
        store.append_line(self.log, entry)
        self._apply(entry)

    def _apply(self, entry: dict[str, Any]) -> None:
        if "class" in entry:
            self.classes.append(entry["class"])
        elif "undo" in entry:
            del self._said[max(k for k, earlier in enumerate(self._said) if earlier["image"] == entry["undo"])]
        else:
            self._said.append(entry)


def _news(state: Labelling, before: dict[str, Any] | None) -> list[str]:
    """What a person should be told of the folder: nothing is lost, but not all is as it was."""
    told = []
    copies = [item for item in state.items if len(item.files) > 1]
    if copies:
        told.append(f"copies of other files, asked for once ({sum(len(item.files) - 1 for item in copies)}): {_some(copies)}")
    if state.unreadable:
        told.append(f"files that cannot be read, and are left out ({len(state.unreadable)}): {_listed(state.unreadable)}")
    if before is None:
        return told
    files: dict[str, list[str]] = before["files"]
    here = {name: item.key for item in state.items for name in item.files}
    added = [item for item in state.items if item.key not in files]
    gone = [key for key in files if key not in state.by_key]
    answers = state.answers
    changed = [name for key in gone for name in files[key] if name in here]
    moved = [item for item in state.items if item.key in files and not set(files[item.key]) & set(item.files)]
    lost = [key for key in gone if key in answers]
    told += [f"images that are new since the folder was last opened ({len(added)}): {_some(added)}"] if added else []
    told += [f"images with another name, which keep their labels ({len(moved)}): {_some(moved)}"] if moved else []
    told += [f"files with other content, which count as new images ({len(changed)}): {_listed(changed)}"] if changed else []
    if gone:
        names = _listed(files[key][0] for key in gone)
        told.append(f"images that are gone ({len(gone)}, {len(lost)} of them labelled): {names}. Labels are kept, and count if they return")
    return told


def _some(items: Iterable[Item]) -> str:
    return _listed(item.files[0] for item in items)


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")


def digits_folder(path: Path, per_class: int) -> Path:
    """A folder of real handwritten digits, those that scikit-learn brings, to try labelling on; made where it is not there yet."""
    import torch
    from PIL import Image

    if not path.exists():
        some = at_most(load("digits")[0], per_class)
        with _made(path) as part:
            for k in range(len(some)):
                pixels = some.images.batch(torch.tensor([k]))[0].permute(1, 2, 0)
                Image.fromarray(pixels.numpy()).save(part / f"{k}.png")
    return path


@contextmanager
def _made(path: Path) -> Iterator[Path]:
    """A folder to fill, which becomes `path` when all is in it, and is removed where something goes wrong."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.mkdir(parents=True)
    try:
        yield part
        part.rename(path)
    except BaseException:
        shutil.rmtree(part)
        raise


# ---- out and in ----------------------------------------------------------------------------------------------------------------


def export_csv(state: Labelling, path: Path | str) -> Path:
    """Write the labels, copies included, as a table: file, label (empty for "not sure"), held_out, person, time, sha256.

    A table that is there is replaced.

    Raises:
        OSError: it cannot be written; an earlier one is left as it was.
    """
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(COLUMNS)
    for key, entry in state.answers.items():
        for item in [state.by_key[key]] if key in state.by_key else []:
            for name in item.files:
                rows.writerow([name, entry["label"] or "", int(item.held_out), entry["person"], entry["time"], key])
    store.write_atomic(Path(path).expanduser(), text.getvalue().encode())
    return Path(path)


def export_folders(state: Labelling, path: Path | str) -> Path:
    """Make a folder of links to the images, a sub-folder for each class, as `torchvision.datasets.ImageFolder` and `alnb.data` read it.

    Links are symbolic where the system has them, else hard, else copies.

    Raises:
        Refused: there is something at `path`, it is among the images, or nothing is labelled.
    """
    path = Path(path).expanduser()
    labelled = [(state.by_key[key], label) for key, label in state.labels.items() if label]
    if path.exists():
        raise Refused(f"{path} is there already: name a folder that is not, or remove it")
    if state.folder.resolve() in path.resolve().parents:
        raise Refused(f"{path} is in {state.folder}, where its links would count as images: name a folder elsewhere")
    if not labelled:
        raise Refused("no image has a class yet: label some first")
    with _made(path) as part:
        for item, label in labelled:
            for name in item.files:
                _link((state.folder / name).resolve(), part / label / name)
    return path


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    for make in (os.symlink, os.link, shutil.copy2):
        try:
            make(source, target)
        except (OSError, NotImplementedError):
            continue
        return
    raise OSError(f"{target} can be made neither as a link nor as a copy of {source}")


def import_csv(state: Labelling, path: Path | str) -> int:
    """Take labels from a table with columns file and label, and say how many; classes it names are added, rows without a label left out.

    Images that were answered already keep their answers; where these differ, `state.news` says so.

    Raises:
        Refused: no such columns, or rows about files that are not there, or two labels of one image: all are named, and none is taken.
    """
    path = Path(path).expanduser()
    with open(path, newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file)
        if not {"file", "label"} <= set(rows.fieldnames or ()):
            raise Refused(f"{path} has the columns {', '.join(rows.fieldnames or ()) or 'of an empty file'}: it needs file and label")
        return _take(state, [(row["file"], row["label"].strip()) for row in rows if row["label"] and row["label"].strip()], str(path))


def import_folders(state: Labelling) -> int:
    """Take the label of each image in a sub-folder from the name of that sub-folder (the first of its path), and say how many.

    Images that were answered already keep their answers; where these differ, `state.news` says so.

    Raises:
        Refused: no image lies in a sub-folder, or copies of one image lie in two: they are named, and no label is taken.
    """
    pairs = [(name, name.split("/")[0]) for item in state.items for name in item.files if "/" in name]
    if not pairs:
        raise Refused(f"no image of {state.folder} lies in a sub-folder: there are no labels to take")
    return _take(state, pairs, str(state.folder))


def take_over(state: Labelling, labels: Path | str) -> int:
    """Take labels that there are already, and say how many: of a CSV file, or "sub-folders" for those that the images lie in.

    Raises: as `import_csv` and `import_folders`; OSError: there is no such file.
    """
    return import_folders(state) if str(labels) == "sub-folders" else import_csv(state, labels)


def _take(state: Labelling, pairs: Sequence[tuple[str, str]], where: str) -> int:
    keys = {name: item.key for item in state.items for name in item.files}
    absent = [name for name, _ in pairs if name not in keys]
    wanted: dict[str, set[str]] = {}
    for name, label in pairs:
        wanted.setdefault(keys.get(name, ""), set()).add(label)
    twice = [state.by_key[key].files[0] for key, own in wanted.items() if key and len(own) > 1]
    problems = [f"{len(absent)} files are not in {state.folder}: {_listed(absent)}"] if absent else []
    problems += [f"{len(twice)} images have several labels: {_listed(twice)}"] if twice else []
    if problems:
        raise Refused(f"{where}: {'; '.join(problems)}. Mend these; no label was taken")
    for name in dict.fromkeys(label for _, label in pairs):
        if name not in state.classes:
            state.add_class(name)
    said = state.labels
    new = {key: label for key, (label,) in wanted.items() if key not in said}
    for key, label in new.items():
        state.label(key, label, where)
    other = [state.by_key[key].files[0] for key, (label,) in wanted.items() if said.get(key, label) != label]
    if other:
        state.news.append(f"images that keep the answer they have, which differs from {where} ({len(other)}): {_listed(other)}")
    return len(new)
