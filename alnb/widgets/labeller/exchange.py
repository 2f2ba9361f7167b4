"""Labels out of a folder and into it: tables, folders of links, and digits to practise on."""

import csv
import io
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from PIL import Image

from alnb import store
from alnb.data import at_most, load
from alnb.widgets.labeller.folder import Labelling, Refused, listed

COLUMNS = ("file", "label", "held_out", "person", "time", "sha256")
SUB_FOLDERS = "sub-folders"  # instead of a CSV file: the labels are the names of sub-folders


def digits_folder(path: Path, per_class: int) -> Path:
    """A folder of handwritten digits to try the labeller on, made from scikit-learn's if it does not exist."""
    if not path.exists():
        digits = at_most(load("digits")[0], per_class)
        with _new_folder(path) as part:
            for k in range(len(digits)):
                pixels = digits.images.batch(torch.tensor([k]))[0].permute(1, 2, 0)
                Image.fromarray(pixels.numpy()).save(part / f"{k}.png")
    return path


@contextmanager
def _new_folder(path: Path) -> Iterator[Path]:
    """A temporary folder that becomes `path` at the end, or is removed after an error."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.mkdir(parents=True)
    try:
        yield part
        part.rename(path)
    except BaseException:
        shutil.rmtree(part)
        raise


def export_csv(state: Labelling, path: Path | str) -> Path:
    """Write a table with a row for each labelled file; the label is "" for "not sure". An OSError leaves an earlier table unchanged."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(COLUMNS)
    for key, label in state.labels.items():
        item, answer = state.by_key[key], state.answers[key]
        for name in item.files:
            rows.writerow([name, label or "", int(item.held_out), answer["person"], answer["time"], key])
    store.write_atomic(Path(path).expanduser(), text.getvalue().encode())
    return Path(path)


def export_folders(state: Labelling, path: Path | str) -> Path:
    """Make a folder with a sub-folder of links for each class, as `torchvision.datasets.ImageFolder` and `alnb.data` read it.

    Links are symbolic if the system allows, else hard, else copies.

    Raises: Refused if `path` exists or is inside the folder of images, or if no image has a class.
    """
    path = Path(path).expanduser()
    labelled = [(state.by_key[key], label) for key, label in state.labels.items() if label]
    if path.exists():
        raise Refused(f"{path} exists already: remove it, or give another path")
    if state.folder.resolve() in path.resolve().parents:
        raise Refused(f"{path} is inside {state.folder}, where its links would count as images: give a path elsewhere")
    if not labelled:
        raise Refused("no image has a class yet: label some first")
    with _new_folder(path) as part:
        for item, label in labelled:
            for name in item.files:
                _link((state.folder / name).resolve(), part / label / name)
    return path


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    for make in (os.symlink, os.link):
        with suppress(OSError, NotImplementedError):
            return make(source, target)
    shutil.copy2(source, target)


def import_labels(state: Labelling, labels: Path | str) -> int:
    """Import the labels of a CSV file, or of the images' sub-folders if `labels` is "sub-folders". Returns how many are new.

    A CSV file needs the columns file and label; rows without a label are ignored. A sub-folder is the first part of an image's path.
    Classes that are new are added. Images that have an answer keep it; if it differs, `state.news` says so.

    Raises: OSError, or Refused if columns or sub-folders are missing, a file is not in the folder, or an image has two labels. No label
    is imported then.
    """
    if str(labels) == SUB_FOLDERS:
        pairs = [(name, name.split("/")[0]) for item in state.items for name in item.files if "/" in name]
        if not pairs:
            raise Refused(f"{state.folder} has no images in sub-folders: there are no labels to import")
        return _import(state, pairs, str(state.folder))
    path = Path(labels).expanduser()
    with open(path, newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file)
        if not {"file", "label"} <= set(rows.fieldnames or ()):
            raise Refused(f"{path} has the columns {', '.join(rows.fieldnames or ()) or '(none)'}: it needs file and label")
        pairs = [(row["file"], row["label"].strip()) for row in rows if row["label"] and row["label"].strip()]
    return _import(state, pairs, str(path))


def _import(state: Labelling, pairs: Sequence[tuple[str, str]], source: str) -> int:
    keys = {name: item.key for item in state.items for name in item.files}
    absent = [name for name, _ in pairs if name not in keys]
    labels: dict[str, set[str]] = {}
    for name, label in pairs:
        if name in keys:
            labels.setdefault(keys[name], set()).add(label)
    ambiguous = [state.by_key[key].files[0] for key, names in labels.items() if len(names) > 1]
    problems = [f"{len(absent)} files are not in {state.folder}: {listed(absent)}"] if absent else []
    problems += [f"{len(ambiguous)} images have several labels: {listed(ambiguous)}"] if ambiguous else []
    if problems:
        raise Refused(f"{source}: {'; '.join(problems)}. Correct these first; no label was imported")
    for name in dict.fromkeys(label for _, label in pairs):
        if name not in state.classes:
            state.add_class(name)
    new = {key: label for key, (label,) in labels.items() if key not in state.labels}
    for key, label in new.items():
        state.label(key, label, source)
    differing = [state.by_key[key].files[0] for key, (label,) in labels.items() if state.labels[key] != label]
    if differing:
        state.news.append(f"images that keep their answer, which differs from {source} ({len(differing)}): {listed(differing)}")
    return len(new)
