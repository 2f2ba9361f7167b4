"""Folders of images: which files they hold, how a file becomes a tensor, and `folder`, the data set of class sub-folders."""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy
import torch
from torch import Tensor

from alnb import store
from alnb.data.sets import ImageSet, held_out
from alnb.data.sources import DataError, Resident
from alnb.store.checks import at_least, one_of
from alnb.store.streams import Stream

if TYPE_CHECKING:
    from PIL import Image

Row = TypeVar("Row")
Split = Literal["train", "test"]
Files = dict[str, list[Path]]  # image files by class
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
TEST_SHARE = 0.2  # of each class, if a folder has no test images
LABELS = "alnb-labels"  # the folder in which the labeller stores its answers: not a class
NAMED = 20  # unreadable files that an error names; it counts the rest
WORKERS = 16  # maximum number of threads: beyond it PIL's Python code, which holds the interpreter's lock, sets the pace

log = logging.getLogger("alnb")


def decode(path: Path, image_size: int, exactly: int | None = None) -> Tensor:
    """One image file as uint8 [3, image_size, image_size], see `folder`; `exactly` is the side that the file must have, None any.

    Raises:
        Exception: of any kind, from PIL, if the file is damaged; ValueError if its size or its kind of pixels is not accepted.
    """
    from PIL import Image, ImageOps

    with Image.open(path) as image:
        if exactly is not None and image.size != (exactly, exactly):
            raise ValueError(f"it has {image.width}x{image.height} pixels, not {exactly}x{exactly}")
        # A large JPEG is decoded at 1/2, 1/4 or 1/8 of its size, at least twice the size asked for. This takes a fraction of the time,
        # and the resizing below still averages.
        image.draft(None, (2 * image_size, 2 * image_size))
        # The centred square is resized with the pixels next to it, as if the image were resized first and cropped then.
        square = ImageOps.fit(as_rgb(ImageOps.exif_transpose(image)), (image_size, image_size), Image.Resampling.BILINEAR)
        return torch.from_numpy(numpy.array(square)).permute(2, 0, 1)


def as_rgb(image: Image.Image) -> Image.Image:
    """An image as 8-bit RGB. `folder` says how. Raises: ValueError if its kind of pixels is not accepted."""
    from PIL import Image

    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers of unknown range; save it with 8 or 16 bits")
    if image.mode.startswith("I"):
        return _grey16(image).convert("RGB")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def _grey16(image: Image.Image) -> Image.Image:
    from PIL import Image

    values = numpy.asarray(image).astype(numpy.int64)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError(f"its grey values go from {values.min()} to {values.max()}, beyond 16 bits (0..65535); save it with 8 or 16 bits")
    return Image.fromarray(((values + 128) // 257).astype(numpy.uint8))


def in_threads(job: Callable[..., Row], *columns: Iterable[Any]) -> list[Row]:
    """`job(*row)` of each row of `columns`, in order. For work on files, which releases the interpreter's lock."""
    with ThreadPoolExecutor(min(WORKERS, os.cpu_count() or 1)) as pool:
        return list(pool.map(job, *columns))


def decode_all(paths: Sequence[Path], image_size: int, exactly: int | None = None) -> tuple[Tensor, dict[int, str]]:
    """All files as uint8 [N,3,image_size,image_size], and the reason for each unreadable one by its position. Those are black."""
    at_least("image_size", image_size, 1)
    images = torch.zeros(len(paths), 3, image_size, image_size, dtype=torch.uint8)

    def fill(i: int) -> str | None:
        try:
            images[i] = decode(paths[i], image_size, exactly)
        except Exception as error:  # PIL's parsers raise nearly anything on damaged bytes
            return f"{type(error).__name__}: {error}"
        return None

    reasons = in_threads(fill, range(len(paths)))
    return images, {i: reason for i, reason in enumerate(reasons) if reason is not None}


def unreadable(reasons: Mapping[Path, str], n: int) -> str:
    """The sentence that names the unreadable files out of `n`, one a line."""
    lines = [f"  {path}: {reason}" for path, reason in list(reasons.items())[:NAMED]]
    more = [f"  ... and {len(reasons) - NAMED} more"] if len(reasons) > NAMED else []
    return "\n".join([f"{len(reasons)} of {n} images cannot be read:", *lines, *more])


def cached_images(file: Path, paths: Sequence[Path], make: Callable[[], Tensor]) -> Tensor:
    """`make()`, a tensor made from the files `paths`; read from `file` if an earlier call stored it there.

    It is made again if `file` is damaged, or if PIL's version or the name, size or modification time of one of `paths` differs. If
    `file` cannot be written, a warning says so.
    """
    import PIL

    stamps = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    key = store.fingerprint(PIL.__version__, stamps)
    if file.exists():
        try:
            content = store.read_tensors(file)
            if content["key"] == key:
                return content["images"]
        except (store.Corrupted, OSError) as error:
            log.warning("%s is damaged (%s): the images are decoded again", file, error)
    images = make()
    part = file.with_name(f"{file.name}.{os.getpid()}.part")
    try:
        torch.save({"key": key, "images": images}, part)  # straight to the disk: `store.write_tensors` would copy the images in memory
        os.replace(part, file)
    except (OSError, RuntimeError) as error:  # torch raises a RuntimeError if it cannot write
        log.warning("%s cannot be written (%s): the next start decodes the images again", file, error)
    finally:
        part.unlink(missing_ok=True)
    return images


def natural(name: str) -> tuple[list[str | int], str]:
    """Sort key: letters without regard to case, whole numbers by value, so that 2 comes before 10."""
    parts = re.split("([0-9]+)", name.casefold())  # text and digits alternate, so that like is compared with like
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], name


def subfolders(folder: Path) -> list[Path]:
    """The visible sub-folders in natural order, without `LABELS`."""
    folders = (path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".") and path.name != LABELS)
    return sorted(folders, key=lambda path: natural(path.name))


def visible_files(folder: Path) -> list[Path]:
    """The files in `folder` and below it in natural order, without hidden files and folders."""
    files = []
    for where, below, names in os.walk(folder, onerror=_raise):
        below[:] = [name for name in below if not name.startswith(".")]
        files += [Path(where, name) for name in names if not name.startswith(".")]
    return sorted(files, key=lambda path: natural(path.relative_to(folder).as_posix()))


def _raise(error: OSError) -> None:
    raise error


def image_files(folder: Path) -> list[Path]:
    """The files in `folder` and below it with a suffix of `SUFFIXES`. Raises: DataError if there is none."""
    files = visible_files(folder)
    images = [path for path in files if path.suffix.lower() in SUFFIXES]
    if not images:
        others = Counter(path.suffix.lower() or "without suffix" for path in files)
        content = "it holds only " + ", ".join(f"{n} {suffix}" for suffix, n in others.items()) if files else "it is empty"
        raise DataError(f"{folder} holds no image: {content}. Add images ({' '.join(SUFFIXES)}) or remove the folder")
    return images


def class_files(folder: Path) -> Files:
    """The image files of each class sub-folder, in natural order. Raises: DataError if there are fewer than two, or one has no image."""
    classes = subfolders(folder)
    if len(classes) < 2:
        loose = sum(path.suffix.lower() in SUFFIXES for path in visible_files(folder))
        have = f"one, {classes[0].name!r}" if classes else "none"
        raise DataError(
            f"{folder} needs at least two sub-folders, one per class; it has {have}, and {loose} images in all. Put the images of each "
            "class into a sub-folder with its name"
        )
    return {path.name: image_files(path) for path in classes}


def split_files(root: Path) -> dict[Split, Files]:
    """The image files of both splits by class, as `folder` describes them."""
    if not root.is_dir():
        problem = "is a file. Unpack it if it is an archive, and" if root.exists() else f"does not exist (looked from {Path.cwd()});"
        raise DataError(f"{root} {problem} give the path of a folder with one sub-folder per class")
    train = root / "train"
    splits = train.is_dir() and bool(subfolders(train))
    test = next((root / name for name in ("test", "val") if splits and (root / name).is_dir()), None)
    if test is None:
        held_in = class_files(train if splits else root)
        return hold_out(held_in, [max(1, round(TEST_SHARE * len(paths))) for paths in held_in.values()], "folder")
    files: dict[Split, Files] = {"train": class_files(train), "test": class_files(test)}
    only = sorted(files["train"].keys() ^ files["test"].keys())
    if only:
        raise DataError(f"{train} and {test} must have the same sub-folders, but one of them lacks {', '.join(only)}: add or rename it")
    return files


def hold_out(files: Mapping[str, Sequence[Path]], counts: Iterable[int], name: str) -> dict[Split, Files]:
    """`counts` of each class are for the test, from `Stream(0) / name / "test" / class`. Raises: DataError if a class has one image."""
    splits: dict[Split, Files] = {"train": {}, "test": {}}
    for (label, paths), count in zip(files.items(), counts, strict=True):
        if len(paths) < 2:
            raise DataError(f"{paths[0].parent} has one image; each class needs one to train and one to test: add images, or remove it")
        mask = held_out(len(paths), count, Stream(0) / name / "test" / label)
        splits["train"][label] = [paths[i] for i in (~mask).nonzero().flatten().tolist()]
        splits["test"][label] = [paths[i] for i in mask.nonzero().flatten().tolist()]
    return splits


def shuffled(classes: Iterable[Sequence[Path]]) -> tuple[list[Path], Tensor]:
    """The files of all classes with their targets i64 [N], in a fixed random order: else the index would tell the class."""
    rows = [(path, label) for label, paths in enumerate(classes) for path in paths]
    order = torch.randperm(len(rows), generator=(Stream(0) / "order").generator()).tolist()
    return [rows[i][0] for i in order], torch.tensor([rows[i][1] for i in order], dtype=torch.int64)


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

    Which files: those with a suffix of `SUFFIXES`, at any depth, without hidden ones. Classes and files are in natural order (2 before
    10). Without test/ and val/, a fifth of each class, at least one image, is held out for the test, from `Stream(0) / "folder" /
    "test" / class`: the same on every machine as long as the file names stay. The images of a split are in a fixed random order, so that
    an index tells nothing about the class.

    How a file becomes a tensor: it is turned upright by its EXIF data. Grey becomes three channels; transparency (RGBA, LA, palettes)
    is laid on white; CMYK and the like become RGB; 16-bit grey is divided by 257 and rounded. Of an animation or a TIFF with pages the
    first image is taken. Floating-point pixels are an error. The shorter side is then resized to `image_size` pixels (bilinear,
    antialiased) and the centred square cut out. A large JPEG is first shrunk by a power of two, to at least twice `image_size`.

    Args:
        root: the folder; required.
        download: not used.
        skip_bad: leave unreadable files out, and name them in a warning of the logger "alnb".
    Raises:
        DataError: no such folder, fewer than two classes, a class without images, or unreadable files (all of this split are named).
    Memory: O(N) images at `image_size`.
    """
    return read_folder([split], root=root, device=device, image_size=image_size, skip_bad=skip_bad)[0]


def read_folder(
    wanted: Sequence[Split], *, root: Path | str | None, device: torch.device | str = "cpu", image_size: int = 64, skip_bad: bool = False
) -> list[ImageSet]:
    """The splits `wanted` of a folder of images, see `folder`. One error names the unreadable files of all of them."""
    if root is None:
        raise DataError("root is missing: give root=PATH, a folder with one sub-folder per class")
    place = Path(root).expanduser()
    check_split(*wanted)
    splits = split_files(place)
    files = {split: shuffled(splits[split].values()) for split in wanted}
    decoded = {split: decode_all(paths, image_size) for split, (paths, _) in files.items()}
    bad = {files[split][0][i]: reason for split, (_, reasons) in decoded.items() for i, reason in reasons.items()}
    if bad:
        message = f"{place}: {unreadable(bad, sum(len(paths) for paths, _ in files.values()))}"
        if not skip_bad:
            raise DataError(f"{message}\nRepair or remove them, or leave them out with skip_bad=True (alnb run … --skip-bad)")
        log.warning("%s\nThey are left out.", message)
    parts, classes = [], tuple(splits["train"])
    for split, (images, reasons) in decoded.items():
        targets = files[split][1]
        if reasons:
            readable = torch.tensor([i for i in range(len(images)) if i not in reasons], dtype=torch.int64)
            images, targets = images[readable], targets[readable]
        empty = [name for label, name in enumerate(classes) if not (targets == label).any()]
        if empty:
            raise DataError(f"{place}: no image of {', '.join(empty)} in the {split} split can be read; repair some, or remove the class")
        parts.append(ImageSet(Resident(images.to(device)), targets, classes, place.resolve().name or "folder"))
    return parts


def check_split(*splits: str) -> None:
    """Raises: ValueError if one of them is not "train" or "test"."""
    for split in splits:
        one_of("split", split, ("train", "test"))
