"""Caltech-101: its official layout, decoded from its files, and a split of the size that PT4AL uses."""

from __future__ import annotations

import functools
import os
import tarfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from alnb.data.files import Split, check_split, class_files, decode_whole, kept, shuffled
from alnb.data.official import Root, remedy, root_folder, unpacked
from alnb.data.sets import ImageSet, held_out, proportional
from alnb.data.sources import DataError, Resident

FOLDER = Path("caltech101", "101_ObjectCategories")  # as torchvision has it
URL = "https://data.caltech.edu/records/mzrjq-6wc02/files/caltech-101.zip"
MD5 = "3138e1922a9193bfa496528edbbc45d0"  # torchvision's
SIZE = 224  # pixels a side: Yi et al. 2022, section 5.1
IMAGES, TEST = 9144, 1098  # Yi et al. 2022, section 5.1
KEPT_FROM = 2000  # images of a split, from which on the decoded ones are kept beside the files


def caltech101(
    split: Split, *, root: Root = None, download: bool = False, device: torch.device | str = "cpu", image_size: int = SIZE
) -> ImageSet:
    """Caltech-101: 8,046 images to train on and 1,098 to test on, of 102 folders; `root` holds caltech101/101_ObjectCategories/.

    The folder of background images counts as a class: without it there are 8,677 images, and Yi et al. 2022 have 9,144. Their split is
    not published. Ours takes 1,098 of 9,144 of each class, rounded so that the sum is right (by largest remainders), drawn from the
    stream (0, "caltech101", "test", class); of a part of the images, the same share. Which are drawn depends on the number and
    the order of the files only. Classes are in natural order, upper and lower case alike; the images come in a fixed random order.

    The decoded images of train are kept beside the files, see `files.kept`. At 224 pixels they take 1.2 GB, and two threads decode them
    in 30 s on a busy machine (14 s of processor time), against 4 s from what is kept; at 64 pixels 13 s (7 s) against 1 s.

    Args:
        download: fetch what is missing.
        image_size: the shorter side is resized to it and the centred square cut out, see `folder`.

    Raises:
        DataError: the folder is missing, has fewer than two classes, one with a single image, or too few images to test on any; or a
            file cannot be read: all such files of the split are named.

    Memory: O(N `image_size`²): 1.4 GB at 224.
    Source: Fei-Fei et al. 2004; https://data.caltech.edu/records/mzrjq-6wc02
    """
    check_split(split)
    place = root_folder(root)
    if download:
        fetch_caltech101(place)
    files = _files(place)
    rows = shuffled([(path, label) for label, paths in enumerate(_split(files)[split]) for path in paths])
    paths = [path for path, _ in rows]
    make = functools.partial(_decode, paths, image_size, place)
    file = place / FOLDER.parent / f".{split}-{image_size}.npy"
    images = kept(file, paths, make) if len(paths) >= KEPT_FROM else make()
    return ImageSet(Resident(images.to(device)), torch.tensor([label for _, label in rows]), tuple(files), "caltech101")


def _files(root: Path) -> dict[str, list[Path]]:
    """Raises: DataError where there is no folder, or too little in it to split."""
    if not (root / FOLDER).is_dir():
        raise DataError(f"caltech101: {FOLDER} not found in {root}; get it with {remedy('caltech101', root)}")
    files = class_files(root / FOLDER)
    lonely = [name for name, paths in files.items() if len(paths) < 2]
    if lonely:
        raise DataError(f"caltech101: one image only of {', '.join(lonely[:5])} ({len(lonely)} classes); {_remedy(root)}")
    n = sum(map(len, files.values()))
    if tested(n) == 0:
        raise DataError(f"caltech101: {root / FOLDER} has {n} images, too few to test on any; {_remedy(root)}")
    return files


def _remedy(root: Path) -> str:
    return f"delete or complete {root / FOLDER} and run {remedy('caltech101', root)}"


def tested(n: int) -> int:
    """How many of n images are tested on: `TEST` of `IMAGES`, rounded."""
    return round(n * TEST / IMAGES)


def _split(files: Mapping[str, list[Path]]) -> dict[Split, list[list[Path]]]:
    splits: dict[Split, list[list[Path]]] = {"train": [], "test": []}
    sizes = [len(paths) for paths in files.values()]
    for (name, paths), count in zip(files.items(), proportional(sizes, tested(sum(sizes)), at_least=0), strict=True):
        mask = held_out(len(paths), count, "caltech101", "test", name).tolist()
        splits["train"].append([path for path, held in zip(paths, mask, strict=True) if not held])
        splits["test"].append([path for path, held in zip(paths, mask, strict=True) if held])
    return splits


def _decode(paths: list[Path], image_size: int, root: Path) -> Tensor:
    return decode_whole("caltech101", paths, image_size, _remedy(root))


def fetch_caltech101(root: Path) -> Path:
    """The folder of Caltech-101, fetched and unpacked where there is none.

    Raises:
        DataError: as `official.unpacked`, or the archive does not hold what it should.
    """
    place = root / FOLDER
    if not place.exists():
        with unpacked("caltech101", root, URL, MD5) as work:
            archive = next(work.glob(f"**/{FOLDER.name}.tar.gz"), None)
            if archive is None:
                raise DataError(
                    f"caltech101: {URL} holds no {FOLDER.name}.tar.gz: it has another layout now; unpack it to {place} yourself"
                )
            with tarfile.open(archive) as packed:
                packed.extractall(work, filter="data")
            place.parent.mkdir(parents=True, exist_ok=True)
            os.replace(work / FOLDER.name, place)
    _files(root)
    return place
