"""Folders of images: which files there are, how one becomes a tensor, and `folder`, the data set of class sub-folders."""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import torch
from torch import Tensor

from alnb import store
from alnb.data.sets import ImageSet, held_out
from alnb.data.sources import DataError, Resident
from alnb.store import streams as rng

if TYPE_CHECKING:
    from PIL import Image

Row = TypeVar("Row")
Split = Literal["train", "test"]
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
TEST_SHARE = 0.2  # of each class, where a folder has no test images of its own
LABELS = "alnb-labels"  # where `labelling` keeps what was said of the images of a folder: no class of images
NAMED = 20  # files that an error names; of the rest it gives the number
WORKERS = 16  # threads at most: beyond, PIL's Python parts, which hold the interpreter's lock, are what takes the time

log = logging.getLogger("alnb")


# ---- one image ----------------------------------------------------------------------------------------------------------------


def decode(path: Path, image_size: int, exactly: int | None = None) -> Tensor:
    """One image file as uint8 [3, image_size, image_size]; how is written at `folder`.

    Args:
        image_size: in pixels.
        exactly: the side in pixels that the file must have; None for any size.

    Raises:
        Exception: of any kind, from PIL, where the file is damaged; ValueError where its pixels are not understood.
    """
    import numpy
    from PIL import Image, ImageOps

    with Image.open(path) as image:
        if exactly is not None and image.size != (exactly, exactly):
            raise ValueError(f"it has {image.width}x{image.height} pixels, not {exactly}x{exactly}")
        # A JPEG far larger than needed is decoded at 1/2, 1/4 or 1/8 of its size, never below twice what is wanted: photographs cost
        # a fraction of the time, and the resizing below still averages.
        image.draft(None, (2 * image_size, 2 * image_size))
        square = _square(as_rgb(ImageOps.exif_transpose(image)), image_size)
        return torch.from_numpy(numpy.array(square)).permute(2, 0, 1)


def as_rgb(image: Image.Image) -> Image.Image:
    """An image as 8-bit RGB: see `folder` for how. Raises: ValueError where its pixels are not understood."""
    from PIL import Image

    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers, whose range is not known; save it with 8 or 16 bits")
    if image.mode.startswith("I"):
        return _grey16(image).convert("RGB")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def _grey16(image: Image.Image) -> Image.Image:
    import numpy
    from PIL import Image

    values = numpy.asarray(image).astype(numpy.int64)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError(f"its grey values go from {values.min()} to {values.max()}, beyond 16 bits (0..65535); save it with 8 or 16 bits")
    return Image.fromarray(((values + 128) // 257).astype(numpy.uint8))


def _square(image: Image.Image, side: int) -> Image.Image:
    """The centred square. Its resizing also sees the pixels beside the square, as if the whole image were resized and then cropped."""
    from PIL import Image

    short = min(image.size)
    left, top = (image.width - short) / 2, (image.height - short) / 2
    return image.resize((side, side), Image.Resampling.BILINEAR, box=(left, top, left + short, top + short))


# ---- many images --------------------------------------------------------------------------------------------------------------


def in_threads(job: Callable[..., Row], *columns: Iterable[Any]) -> list[Row]:
    """What `job` gives for each row of `columns`, in their order: for work on files, which leaves the interpreter's lock."""
    with ThreadPoolExecutor(min(WORKERS, os.cpu_count() or 1)) as pool:
        return list(pool.map(job, *columns))


def decode_all(paths: Sequence[Path], image_size: int, exactly: int | None = None) -> tuple[Tensor, dict[int, str]]:
    """All files as uint8 [N,3,H,W] in their order, and why which could not be read (position: reason; black in the tensor)."""
    if image_size < 1:
        raise ValueError(f"image_size is {image_size}: it must be at least 1 pixel")
    images = torch.zeros(len(paths), 3, image_size, image_size, dtype=torch.uint8)

    def one(i: int) -> str | None:
        try:
            images[i] = decode(paths[i], image_size, exactly)
        except Exception as error:  # PIL's parsers raise nearly anything on damaged bytes
            return f"{type(error).__name__}: {error}"
        return None

    reasons = in_threads(one, range(len(paths)))
    return images, {i: reason for i, reason in enumerate(reasons) if reason is not None}


def decode_whole(name: str, paths: Sequence[Path], image_size: int, remedy: str, exactly: int | None = None) -> Tensor:
    """As `decode_all`, of the data set `name`, in which every file must be readable.

    Raises:
        DataError: it names the files that are not, and the `remedy`.
    """
    images, reasons = decode_all(paths, image_size, exactly)
    if reasons:
        sentence = unreadable({paths[i]: reason for i, reason in reasons.items()}, len(paths))
        raise DataError(f"{name}: {sentence}\nTo have them anew, {remedy}")
    return images


def unreadable(bad: Mapping[Path, str], n: int) -> str:
    """The sentence that names files that cannot be read, one a line."""
    lines = [f"  {path}: {reason}" for path, reason in list(bad.items())[:NAMED]]
    more = [f"  ... and {len(bad) - NAMED} more"] if len(bad) > NAMED else []
    return "\n".join([f"{len(bad)} of {n} images cannot be read:", *lines, *more])


def kept(file: Path, paths: Sequence[Path], make: Callable[[], Tensor]) -> Tensor:
    """`make()`, a tensor made from the files `paths`, read from `file` (.npy) where an earlier call left it there.

    It is made anew where a name, a size or a modification time among `paths` differs, PIL's version, or the sha256 of what is kept. A
    folder that cannot be written to keeps nothing.
    """
    import numpy
    import PIL

    stamps = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    key, note = store.fingerprint(PIL.__version__, stamps), file.with_suffix(".json")
    try:
        stated = store.read_json(note)
        tensor = torch.from_numpy(numpy.load(file))
        if stated == {"key": key, "digest": store.digest(tensor)}:
            return tensor
        log.info("%s was made from other files, or is damaged: it is made anew", file)
    except FileNotFoundError:
        pass
    except (store.Corrupted, OSError, ValueError, EOFError) as error:
        log.warning("%s is damaged (%s): it is made anew", file, error)
    tensor = make()
    try:
        _keep(file, tensor)
        store.write_json(note, {"key": key, "digest": store.digest(tensor)})
    except OSError as error:
        log.warning("%s cannot be kept (%s): the next start decodes the images again", file, error)
    return tensor


def _keep(file: Path, tensor: Tensor) -> None:
    """Atomically, without a second copy in memory."""
    import numpy

    part = file.with_name(f"{file.name}.{os.getpid()}.part")
    try:
        with open(part, "wb") as stream:
            numpy.save(stream, tensor.numpy())
        os.replace(part, file)
    finally:
        part.unlink(missing_ok=True)


# ---- which files there are ----------------------------------------------------------------------------------------------------


def natural(name: str) -> tuple[list[str | int], str]:
    """Sort key: letters without regard to case, whole numbers by value, so that 2 comes before 10."""
    parts = re.split("([0-9]+)", name.casefold())  # text and digits by turns, so that like meets like
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], name


def subfolders(folder: Path) -> list[Path]:
    """The visible ones, in natural order, that of labels left aside."""
    found = (path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".") and path.name != LABELS)
    return sorted(found, key=lambda path: natural(path.name))


def visible_files(folder: Path) -> list[Path]:
    """Those in `folder` and below it, hidden files and folders left aside, in natural order."""
    found = []
    for where, below, names in os.walk(folder, onerror=_raise):
        below[:] = [name for name in below if not name.startswith(".")]
        found += [Path(where, name) for name in names if not name.startswith(".")]
    return sorted(found, key=lambda p: natural(p.relative_to(folder).as_posix()))


def _raise(error: OSError) -> None:
    raise error


def image_files(folder: Path) -> list[Path]:
    """The files in `folder` and below it that are images by their suffix.

    Raises:
        DataError: there is none.
    """
    files = visible_files(folder)
    images = [path for path in files if path.suffix.lower() in SUFFIXES]
    if not images:
        others = Counter(path.suffix.lower() or "without suffix" for path in files)
        have = "it is empty" if not files else "it holds only " + ", ".join(f"{n} {suffix}" for suffix, n in others.items())
        raise DataError(f"{folder} holds no image: {have}. Read are {' '.join(SUFFIXES)}; add images or remove the folder")
    return images


def class_files(folder: Path) -> dict[str, list[Path]]:
    """The image files of each class sub-folder, classes and files in natural order.

    Raises:
        DataError: fewer than two sub-folders, or one without an image.
    """
    classes = subfolders(folder)
    if len(classes) < 2:
        loose = sum(path.suffix.lower() in SUFFIXES for path in visible_files(folder))
        have = f"one, {classes[0].name!r}" if classes else "none"
        raise DataError(
            f"{folder} needs at least two sub-folders, one per class; it has {have}, and {loose} images in all. Put the images of each "
            "class in a sub-folder with its name"
        )
    return {sub.name: image_files(sub) for sub in classes}


def split_files(root: Path) -> dict[Split, dict[str, list[Path]]]:
    """The image files of both splits by class, as `folder` describes them."""
    if not root.exists():
        raise DataError(f"{root} does not exist (looked from {Path.cwd()}); give the path of a folder with one sub-folder per class")
    if not root.is_dir():
        raise DataError(f"{root} is a file; give the path of a folder with one sub-folder per class (an archive: unpack it first)")
    train = root / "train"
    if not (train.is_dir() and subfolders(train)):
        return _held_out(class_files(root), root)
    test = next((root / name for name in ("test", "val") if (root / name).is_dir()), None)
    if test is None:
        return _held_out(class_files(train), train)
    files: dict[Split, dict[str, list[Path]]] = {"train": class_files(train), "test": class_files(test)}
    only = sorted(files["train"].keys() ^ files["test"].keys())
    if only:
        raise DataError(f"{train} and {test} must have the same class sub-folders; one of them lacks {', '.join(only)}: add or rename it")
    return files


def _held_out(files: Mapping[str, list[Path]], where: Path) -> dict[Split, dict[str, list[Path]]]:
    splits: dict[Split, dict[str, list[Path]]] = {"train": {}, "test": {}}
    for name, paths in files.items():
        if len(paths) < 2:
            raise DataError(f"{where / name} has one image; it needs one to train and one to test: add some, or make train/ and test/")
        test = held_out(len(paths), max(1, round(TEST_SHARE * len(paths))), "folder", "test", name).tolist()
        splits["train"][name] = [path for path, held in zip(paths, test, strict=True) if not held]
        splits["test"][name] = [path for path, held in zip(paths, test, strict=True) if held]
    return splits


# ---- the data set -------------------------------------------------------------------------------------------------------------


def folder(
    split: Split,
    *,
    root: Path | str | None = None,
    download: bool = False,
    device: torch.device | str = "cpu",
    image_size: int = 64,
    skip_bad: bool = False,
) -> ImageSet:
    """Your own images: `root` holds one sub-folder per class, or train/ and test/ (or val/) that do.

    Which files: those with the suffixes `SUFFIXES`, at any depth; hidden ones and others are left aside. Classes and files are in
    natural order (2 before 10). Without test/ and val/, a fifth of each class, at least one image, is held out for the test, by the
    stream (0, "folder", "test", class): the same on every machine as long as the file names stay. The images of a split come in a
    fixed random order, so that an index tells nothing about the class.

    How a file becomes a tensor: turned upright as its EXIF data say; grey made three channels; transparency (RGBA, LA, palettes) laid
    on white; CMYK and the like converted to RGB; 16-bit grey divided by 257 and rounded; of an animation or a TIFF with pages the
    first; floating-point pixels are not read. The shorter side is then resized to `image_size` pixels (bilinear, antialiased) and the
    centred square cut out. A JPEG is first shrunk by a power of two, if it stays at least twice as large as asked for.

    Args:
        root: the folder; it has no default.
        download: has no meaning here.
        skip_bad: leave files out that cannot be read, and name them in a warning of the logger "alnb".

    Raises:
        DataError: no such folder, fewer than two classes, a class without images, or files that cannot be read (all of this split).

    Memory: O(N) images at `image_size`.
    """
    return read_folder([split], root=root, device=device, image_size=image_size, skip_bad=skip_bad)[0]


def read_folder(
    wanted: Sequence[Split], *, root: Path | str | None, device: torch.device | str = "cpu", image_size: int = 64, skip_bad: bool = False
) -> list[ImageSet]:
    """The splits `wanted` of a folder of images, see `folder`; one error names the unreadable files of all of them."""
    if root is None:
        raise DataError("which folder? give root=PATH, a folder with one sub-folder per class")
    place = Path(root).expanduser()
    splits = split_files(place)
    check_split(*wanted)
    rows: list[tuple[Split, int, Path]] = []
    for split in wanted:
        rows += shuffled([(split, label, path) for label, paths in enumerate(splits[split].values()) for path in paths])
    images, reasons = decode_all([path for _, _, path in rows], image_size)
    if reasons:
        _complain({rows[i][2]: reason for i, reason in reasons.items()}, len(rows), place, skip_bad)
    classes, name = tuple(splits["train"]), place.resolve().name or "folder"
    return [_part(split, rows, images, reasons.keys(), classes, name, device) for split in wanted]


def shuffled(rows: Sequence[Row]) -> list[Row]:
    """In a fixed random order, by the stream (0, "order"): files sorted by class would tell each image's class by its index."""
    order = torch.randperm(len(rows), generator=rng.generator(0, "order"))
    return [rows[i] for i in order.tolist()]


def check_split(*wanted: str) -> None:
    """Raises: ValueError where one of them is no split."""
    for split in wanted:
        if split not in ("train", "test"):
            raise ValueError(f"split is {split!r}: it must be 'train' or 'test'")


def _complain(bad: Mapping[Path, str], n: int, place: Path, skip_bad: bool) -> None:
    sentence = f"{place}: {unreadable(bad, n)}"
    if not skip_bad:
        raise DataError(f"{sentence}\nRepair or remove them, or leave them out with skip_bad=True (alnb run … --skip-bad)")
    log.warning("%s\nThey are left out.", sentence)


def _part(
    split: Split,
    rows: Sequence[tuple[Split, int, Path]],
    images: Tensor,
    bad: Iterable[int],
    classes: tuple[str, ...],
    name: str,
    device: torch.device | str,
) -> ImageSet:
    left_out = set(bad)
    good = [i for i, row in enumerate(rows) if row[0] == split and i not in left_out]
    targets = torch.tensor([rows[i][1] for i in good], dtype=torch.int64)
    empty = [classes[label] for label in range(len(classes)) if not (targets == label).any()]
    if empty:
        raise DataError(f"{name}: no image of the {split} split can be read for {', '.join(empty)}; repair some, or remove the class")
    whole = len(good) == len(images)  # then no copy is made
    return ImageSet(Resident((images if whole else images[good]).to(device)), targets, classes, name)


__all__ = ["SUFFIXES", "Split", "decode", "decode_all", "folder", "image_files", "kept", "natural", "read_folder"]
