"""A folder of images that a person labels: the images in it and the answers so far. No widget is in here.

Everything is stored in one folder, by default beside the images: `labels.jsonl`, a log with one durable line for each answer;
`queue.json`, the current questions; `rounds.jsonl`, the model's accuracy after each training. An image is identified by the sha256 of
its bytes: a renamed file keeps its label, and copies are asked once.

One fifth of the images, selected by their sha256, is held out and never trained on. A part of each batch comes from it, so the labelled
held-out images are a random sample of the folder, and the accuracy on them is unbiased. Imported labels do not count in it: they may be
those of the easy images.
"""

import hashlib
import io
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from PIL import Image

from alnb import store
from alnb.data import DataError
from alnb.data.files import LABELS, as_rgb, image_files, in_threads
from alnb.widgets.labeller import log

HELD_OUT = 0.2  # share of the images that is never trained on
UNSURE = "not sure"  # an answer that is no class
KEYS = "123456789abcdefhijklmopqrtvwxyz"  # for classes, in order; g, n, s and u are taken by actions
MAX_NAME = 60  # characters of a class name
FORBIDDEN = '/\\:*?"<>|\0\n\r\t'  # characters that folder names cannot have on some systems
MAX_LISTED = 5  # files that a message names
DRAFT = 64  # pixels: JPEG files are only decoded to this size to check them
DELETE = "delete it: no label is lost, but changes in the folder since the last session are not reported"
RESTORE = "restore the file from a copy, or delete that line: all other lines are valid"
Stamp = tuple[int, int, str]  # size in bytes, modification time in ns and sha256 of a file


class Refused(ValueError):
    """A request that cannot be met. The message says why, and what to do instead."""


@dataclass(frozen=True)
class Item:
    """One image, with all files that contain it."""

    key: str  # sha256 of the bytes, hexadecimal
    files: tuple[str, ...]  # relative to the folder, in natural order

    @property
    def held_out(self) -> bool:
        """Whether it is never trained on. Depends on the image only, so it is the same on every machine."""
        return int(hashlib.sha256(f"held out {self.key}".encode()).hexdigest()[:8], 16) < HELD_OUT * 16**8


def keys_of(classes: Iterable[str]) -> list[str]:
    """The key of each class: its name if that is a single free digit or letter, else the first free one of `KEYS`."""
    keys: list[str] = []
    for name in classes:
        letter = name.lower() if name.lower() in {"0", *KEYS} else ""
        keys.append(letter if letter and letter not in keys else next(key for key in KEYS if key not in keys))
    return keys


def place_of(folder: Path, place: Path | str | None) -> Path:
    """The folder with the labels: `place`, or `LABELS` in `folder` if it is None or empty."""
    return Path(place).expanduser() if place else folder / LABELS


def listed(names: Iterable[str]) -> str:
    """The first names, and how many more there are."""
    names = list(names)
    return ", ".join(names[:MAX_LISTED]) + (f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else "")


def scan(folder: Path, place: Path, stamps: Mapping[str, Stamp] | None = None) -> tuple[list[Item], dict[str, str], dict[str, Stamp]]:
    """The images in `folder`, except in `place`; the error of each unreadable file; the stamp of each readable file.

    Files that have not changed since `stamps`, those of an earlier scan, are not read again.

    Raises: DataError if no file is a readable image.
    """
    excluded, before = place.resolve(), stamps or {}
    files = [path for path in image_files(folder) if not path.parent.resolve().is_relative_to(excluded)]
    names = [path.relative_to(folder).as_posix() for path in files]
    results = dict(zip(names, in_threads(lambda path, name: _stamp(path, before.get(name)), files, names), strict=True))
    errors = {name: result for name, result in results.items() if isinstance(result, str)}
    readable = {name: result for name, result in results.items() if not isinstance(result, str)}
    if not readable:
        raise DataError(f"{folder}: none of its {len(files)} images is readable, e.g. {next(iter(errors.items()))}: add readable images")
    by_key: dict[str, list[str]] = {}
    for name, (_, _, key) in readable.items():
        by_key.setdefault(key, []).append(name)
    return [Item(key, tuple(names)) for key, names in by_key.items()], errors, readable


def _stamp(path: Path, before: Stamp | None) -> Stamp | str:
    """The stamp of an image file, or an error message if it is unreadable. A file that is as `before` says is not decoded."""
    try:
        status = path.stat()
        if before is not None and list(before[:2]) == [status.st_size, status.st_mtime_ns]:
            return status.st_size, status.st_mtime_ns, before[2]
        content = path.read_bytes()
        with Image.open(io.BytesIO(content)) as image:
            image.draft(None, (DRAFT, DRAFT))  # reads all of a JPEG, but computes little
            as_rgb(image)
        return status.st_size, status.st_mtime_ns, hashlib.sha256(content).hexdigest()
    except Exception as error:  # PIL's parsers raise nearly anything on damaged bytes
        return f"{type(error).__name__}: {error}"


class Labelling(AbstractContextManager["Labelling"]):
    """The images and labels of a folder, locked against other people until `close`."""

    def __init__(self, folder: Path | str, place: Path | str | None = None, *, classes: Iterable[str] = (), person: str = "") -> None:
        """Lock the folder and read what is there.

        Args:
            folder: images, at any depth.
            place: the folder with the labels; None: `LABELS` in `folder`.
            classes: names to add to those of earlier sessions.
            person: written beside each label.
        Raises:
            DataError: there is no such folder, or no readable image in it.
            store.Locked, store.Corrupted: somebody else labels it, or a line of the log is damaged.
            Refused, OSError: a class name is not possible, or `place` cannot be written to.
        """
        self.folder, self.person = Path(folder).expanduser(), person
        self.place = place_of(self.folder, place)
        self.log = self.place / "labels.jsonl"  # one line for each answer, undo and class
        if not self.folder.is_dir():
            raise DataError(f"{self.folder} is not a folder (searched from {Path.cwd()}): give the path of a folder of images")
        self._lock = ExitStack()
        with ExitStack() as lock:
            lock.enter_context(store.exclusive(self.place, wait=False))
            session = self.place / "images.json"  # the folder as it was in the last session
            before = store.read_json(session, DELETE) if session.exists() else {}
            self.items, self.unreadable, stamps = scan(self.folder, self.place, before.get("stamps"))
            self.by_key = {item.key: item for item in self.items}
            self.classes: list[str] = []
            self.answers: dict[str, dict[str, Any]] = {}  # the latest entry for each image by key, also of images now missing
            self.labels: dict[str, str | None] = {}  # class name, or None for "not sure", by key; in the order of the first answers
            self.missing: set[str] = set()  # keys of images that could not be shown in this session
            self._entries: list[dict[str, Any]] = []  # all valid answers, the oldest first
            for entry in log.read_lines(self.log, RESTORE):
                self._apply(entry)
            self.news = _news(self, before.get("files"))
            store.write_json(session, {"files": {item.key: list(item.files) for item in self.items}, "stamps": stamps})
            for name in classes:
                if name.strip() not in self.classes:
                    self.add_class(name)
            self._lock = lock.pop_all()

    def close(self, *_: object) -> None:
        """Unlock the folder."""
        self._lock.close()

    __exit__ = close

    def add_class(self, name: str) -> None:
        """Add a class. It is on disk when this returns.

        Raises: Refused if the name is empty, differs from another only in case, cannot name a folder, or all keys are taken.
        """
        name = name.strip()
        same = [known for known in self.classes if known.casefold() == name.casefold()]
        if not name:
            raise Refused("a class needs a name: type one")
        if same:
            raise Refused(f"there is already a class {same[0]!r}: choose another name")
        if set(name) & set(FORBIDDEN) or name.startswith(".") or name.casefold() == UNSURE or len(name) > MAX_NAME:
            raise Refused(
                f"{name[: 2 * MAX_NAME]!r} cannot name a class, because exports use the name for a folder. Use at most {MAX_NAME} "
                f"characters, no {' '.join(FORBIDDEN[:9])} or line breaks, no dot in front, and not {UNSURE!r}"
            )
        if len(self.classes) >= len(KEYS):
            raise Refused(f"no key is left for {name!r}: there are {len(KEYS)} classes already")
        self._write({"class": name})

    def label(self, key: str, label: str, source: str = "") -> None:
        """Label an image with a class name or `UNSURE`. The answer is on disk when this returns; it replaces an earlier one.

        `source`: the file that an imported label comes from; "": a person gave the answer.

        Raises: Refused if there is no such image or class; OSError if the disk is full: the label is not counted then.
        """
        if key not in self.by_key:
            raise Refused(f"there is no image {key[:16]} in {self.folder}: open the folder again")
        if label != UNSURE and label not in self.classes:
            raise Refused(f"there is no class {label!r}, only {', '.join(self.classes) or 'none yet'}: add it first")
        answer = {"label": None if label == UNSURE else label, "files": list(self.by_key[key].files), "person": self.person}
        answer |= {"source": source} if source else {}
        self._write({"image": key, **answer, "time": datetime.now(UTC).isoformat(timespec="seconds")})

    def undo(self) -> str | None:
        """Take back the last answer to an image in the folder, and return its key; None if there is no answer."""
        key = next((entry["image"] for entry in reversed(self._entries) if entry["image"] in self.by_key), None)
        if key is not None:
            self._write({"undo": key})
        return key

    def _write(self, entry: dict[str, Any]) -> None:
        log.append_line(self.log, entry)
        self._apply(entry)

    def _apply(self, entry: dict[str, Any]) -> None:
        if "class" in entry:
            self.classes.append(entry["class"])
        elif "undo" in entry:
            key = entry["undo"]
            last, *earlier = (k for k in reversed(range(len(self._entries))) if self._entries[k]["image"] == key)
            if earlier:
                self._count(self._entries[earlier[0]])
            else:
                del self.answers[key]
                self.labels.pop(key, None)
            del self._entries[last]
        else:
            self._entries.append(entry)
            self._count(entry)

    def _count(self, entry: dict[str, Any]) -> None:
        self.answers[entry["image"]] = entry
        if entry["image"] in self.by_key:
            self.labels[entry["image"]] = entry["label"]


def _news(state: Labelling, files: Mapping[str, list[str]] | None) -> list[str]:
    """What a person should know about the folder. `files` by key as in the last session; None: there was none."""
    news: list[str] = []

    def add(what: str, names: Iterable[str], advice: str = "") -> None:
        names = list(names)
        if names:
            news.append(f"{what} ({len(names)}): {listed(names)}{advice}")

    add("copies of other files, asked only once", (name for item in state.items for name in item.files[1:]))
    add("unreadable files, left out", state.unreadable)
    if files is not None:
        here = {name for item in state.items for name in item.files}
        gone = [key for key in files if key not in state.by_key]
        add("new images since the last session", (item.files[0] for item in state.items if item.key not in files))
        moved = (item for item in state.items if item.key in files and not set(files[item.key]) & set(item.files))
        add("renamed images, which keep their labels", (item.files[0] for item in moved))
        add("files with new content, which count as new images", (name for key in gone for name in files[key] if name in here))
        labelled = sum(key in state.answers for key in gone)
        add("missing images", (files[key][0] for key in gone), f". Their {labelled} labels are kept and count again if they return")
    return news
