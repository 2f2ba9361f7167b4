"""Tiny ImageNet: its official layout, read and fetched."""

from __future__ import annotations

import functools
import os
from pathlib import Path

import torch
from torch import Tensor

from alnb.data.files import Split, check_split, decode_whole, image_files, kept, shuffled
from alnb.data.official import Root, remedy, root_folder, unpacked
from alnb.data.sets import ImageSet
from alnb.data.sources import DataError, Resident

FOLDER = "tiny-imagenet-200"
URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"  # 248,100,043 bytes
MD5 = "90528d7ca1a48142e341f4ef8d21d0de"  # stated alike by avalanche-lib and a dozen other public loaders

KEPT_FROM = 20_000  # images of a split: from here decoding takes seconds, while reading what was decoded takes a fraction of one


def tiny_imagenet(
    split: Split, *, root: Root = None, download: bool = False, device: torch.device | str = "cpu", image_size: int = 64
) -> ImageSet:
    """Tiny ImageNet: 200 classes, 64x64; train is the official train, test the official val. `root` holds tiny-imagenet-200/.

    Classes are in the order of wnids.txt and named by words.txt. Any number of images per class will do: the whole has 500 and 50; of
    val, those that are there. Bengar et al. 2021 have 90,000 to train: `balanced(train, 450)`. The decoded images of a large split
    are kept beside the files, see `files.kept`.

    Args:
        download: fetch what is missing.
        image_size: another one than 64 resizes, see `folder`.

    Raises:
        DataError: a file is missing, cannot be read or is not 64x64; all such images are named.

    Source: http://cs231n.stanford.edu/tiny-imagenet-200.zip (Stanford CS231n).
    """
    check_split(split)
    place = root_folder(root)
    if download:
        fetch_tiny_imagenet(place)
    wnids, classes = _classes(place)
    paths, targets = (_train if split == "train" else _val)(place, wnids)
    file = place / FOLDER / f".{split}-{image_size}.npy"
    make = functools.partial(_decode, paths, image_size, place)
    images = kept(file, paths, make) if len(paths) >= KEPT_FROM else make()
    return ImageSet(Resident(images.to(device)), torch.tensor(targets), classes, "tiny_imagenet")


def _remedy(root: Path) -> str:
    return f"delete or complete {root / FOLDER} and run {remedy('tiny_imagenet', root)}"


def _lines(root: Path, file: str) -> list[list[str]]:
    path = root / FOLDER / file
    if not path.is_file():
        missing = path if (root / FOLDER).is_dir() else root / FOLDER
        raise DataError(f"tiny_imagenet: {missing.name} not found in {missing.parent}; get it with {remedy('tiny_imagenet', root)}")
    return [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def _classes(root: Path) -> tuple[list[str], tuple[str, ...]]:
    wnids = [fields[0] for fields in _lines(root, "wnids.txt")]
    words = {fields[0]: fields[-1] for fields in _lines(root, "words.txt")}
    unnamed = [wnid for wnid in wnids if wnid not in words]
    if unnamed:
        raise DataError(f"{root / FOLDER / 'words.txt'} has no line for {', '.join(unnamed[:5])} of wnids.txt; {_remedy(root)}")
    return wnids, tuple(words[wnid] for wnid in wnids)


def _train(root: Path, wnids: list[str]) -> tuple[list[Path], list[int]]:
    train = root / FOLDER / "train"
    missing = [wnid for wnid in wnids if not (train / wnid / "images").is_dir()]
    if missing:
        raise DataError(f"{train} has no images of {', '.join(missing[:5])} ({len(missing)} classes); {_remedy(root)}")
    files = [image_files(train / wnid / "images") for wnid in wnids]
    rows = shuffled([(path, label) for label, paths in enumerate(files) for path in paths])
    return [path for path, _ in rows], [label for _, label in rows]


def _val(root: Path, wnids: list[str]) -> tuple[list[Path], list[int]]:
    folder, label = root / FOLDER / "val" / "images", {wnid: i for i, wnid in enumerate(wnids)}
    wnid_of = {fields[0]: fields[1] if len(fields) > 1 else "" for fields in _lines(root, "val/val_annotations.txt")}
    paths = image_files(folder) if folder.is_dir() else []
    unknown = [path.name for path in paths if wnid_of.get(path.name) not in label]
    if unknown or not paths:
        what = f"{len(unknown)} images without a class in val_annotations.txt ({', '.join(unknown[:5])})" if unknown else "no images"
        raise DataError(f"{folder}: {what}; {_remedy(root)}")
    absent = sorted(label.keys() - {wnid_of[path.name] for path in paths})
    if absent:
        raise DataError(f"{folder}: no image of {', '.join(absent[:5])} ({len(absent)} classes); {_remedy(root)}")
    return paths, [label[wnid_of[path.name]] for path in paths]


def _decode(paths: list[Path], image_size: int, root: Path) -> Tensor:
    return decode_whole("tiny_imagenet", paths, image_size, _remedy(root), exactly=64)


def fetch_tiny_imagenet(root: Path) -> Path:
    """The folder of Tiny ImageNet with all its parts, fetched and unpacked where there is none.

    Raises:
        DataError: as `official.unpacked`; or the folder is there, but a part of it is missing.
    """
    place = root / FOLDER
    if not place.exists():
        with unpacked("tiny_imagenet", root, URL, MD5) as work:
            os.replace(work / FOLDER, place)
    wnids, _ = _classes(root)
    _train(root, wnids)
    _val(root, wnids)
    return place
