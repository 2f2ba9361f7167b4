"""Tiny ImageNet and Caltech-101: published archives of image files, in their official layouts."""

import os
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from alnb.data.files import Split, cached_images, check_split, class_files, decode_all, hold_out, image_files, shuffled, unreadable
from alnb.data.official import Root, remedy, root_folder, unpacked
from alnb.data.sets import ImageSet, proportional
from alnb.data.sources import DataError, Resident

CACHED_FROM = 8000  # images of a split: from here on decoding takes seconds, and the decoded images are cached beside the files
CALTECH_IMAGES, CALTECH_TEST, CALTECH_SIZE = 9144, 1098, 224  # Yi et al. 2022, section 5.1; the size in pixels a side

Listing = tuple[list[Path], Tensor, tuple[str, ...]]
"""The files of a split, their targets i64 [N], and the names of the classes."""


@dataclass(frozen=True)
class Archive:
    """A published archive of image files."""

    name: str  # of the data set
    folder: Path  # below the root
    url: str
    md5: str
    listing: Callable[[Path, Split], Listing]  # of a root and a split; raises a DataError if a part is missing
    side: int | None = None  # in pixels, which every file must have; None: any size

    def error(self, root: Path, sentence: str) -> DataError:
        """An error that ends with the remedy."""
        end = "\n" if "\n" in sentence else ". "
        return DataError(f"{self.name}: {sentence}{end}Delete or complete {root / self.folder}, then run {remedy(self.name, root)}")

    def fetch(self, root: Path) -> Path:
        """The folder. It is fetched and unpacked if it does not exist. Raises: DataError as `unpacked`, or if a part is missing."""
        place = root / self.folder
        if not place.exists():
            with unpacked(self.name, root, root, self.url, self.md5) as work:
                for inner in list(work.glob(f"**/{place.name}.tar.gz")):  # Caltech-101 is an archive in an archive
                    with tarfile.open(inner) as packed:
                        packed.extractall(work, filter="data")
                if not (work / place.name).is_dir():
                    raise DataError(f"{self.name}: {self.url} holds no {place.name}. Its layout is new: unpack it to {place}")
                place.parent.mkdir(parents=True, exist_ok=True)
                os.replace(work / place.name, place)
        self.listing(root, "train")
        self.listing(root, "test")
        return place

    def load(self, split: Split, root: Root, download: bool, device: torch.device | str, size: int) -> ImageSet:
        """A split, with images of `size` pixels a side. Raises: DataError if a file is missing or unreadable."""
        check_split(split)
        place = root_folder(root)
        if download:
            self.fetch(place)
        paths, targets, classes = self.listing(place, split)

        def decode() -> Tensor:
            images, reasons = decode_all(paths, size, self.side)
            if reasons:
                raise self.error(place, unreadable({paths[i]: reason for i, reason in reasons.items()}, len(paths)))
            return images

        file = place / self.folder / f".{split}-{size}.pt"
        images = cached_images(file, paths, decode) if len(paths) >= CACHED_FROM else decode()
        return ImageSet(Resident(images.to(device)), targets, classes, self.name)


def tiny_imagenet(
    split: Split, *, root: Root = None, download: bool = False, device: torch.device | str = "cpu", image_size: int = 64
) -> ImageSet:
    """Tiny ImageNet: 200 classes, 64x64. "train" is the official train, "test" the official val. `root` holds tiny-imagenet-200/.

    Classes are in the order of wnids.txt and named by words.txt. The full set has 500 and 50 images per class; fewer are accepted.
    Bengar et al. 2021 train on 90,000: `balanced(train, 450)`. The decoded images of a large split are cached, see `cached_images`.

    Args:
        image_size: side in pixels; images are resized to it as in `folder`.
    Raises:
        DataError: a file is missing, unreadable or not 64x64. The message names all such images.
    Source: http://cs231n.stanford.edu/tiny-imagenet-200.zip (Stanford CS231n).
    """
    return TINY.load(split, root, download, device, image_size)


def _tiny_listing(root: Path, split: Split) -> Listing:
    wnids = [fields[0] for fields in _tiny_lines(root, "wnids.txt")]
    words = {fields[0]: fields[-1] for fields in _tiny_lines(root, "words.txt")}
    unnamed = [wnid for wnid in wnids if wnid not in words]
    if unnamed:
        raise TINY.error(root, f"words.txt has no line for {', '.join(unnamed[:5])} of wnids.txt")
    return *(_tiny_train if split == "train" else _tiny_val)(root, wnids), tuple(words[wnid] for wnid in wnids)


def _tiny_lines(root: Path, file: str) -> list[list[str]]:
    folder = root / TINY.folder
    if not (folder / file).is_file():
        missing = folder / file if folder.is_dir() else folder
        raise TINY.error(root, f"{missing.name} not found in {missing.parent}")
    return [line.split("\t") for line in (folder / file).read_text(encoding="utf-8").splitlines() if line.strip()]


def _tiny_train(root: Path, wnids: list[str]) -> tuple[list[Path], Tensor]:
    folders = [root / TINY.folder / "train" / wnid / "images" for wnid in wnids]
    missing = [wnid for wnid, folder in zip(wnids, folders, strict=True) if not folder.is_dir()]
    if missing:
        raise TINY.error(root, f"train has no images of {', '.join(missing[:5])} ({len(missing)} classes)")
    return shuffled(image_files(folder) for folder in folders)


def _tiny_val(root: Path, wnids: list[str]) -> tuple[list[Path], Tensor]:
    folder, label = root / TINY.folder / "val" / "images", {wnid: i for i, wnid in enumerate(wnids)}
    wnid_of = {fields[0]: fields[1] for fields in _tiny_lines(root, "val/val_annotations.txt") if len(fields) > 1}
    paths = image_files(folder) if folder.is_dir() else []
    if not paths:
        raise TINY.error(root, f"no images in {folder}")
    unknown = [path.name for path in paths if wnid_of.get(path.name) not in label]
    if unknown:
        raise TINY.error(root, f"val_annotations.txt states no known class for {len(unknown)} images ({', '.join(unknown[:5])})")
    absent = sorted(label.keys() - {wnid_of[path.name] for path in paths})
    if absent:
        raise TINY.error(root, f"{folder} has no image of {', '.join(absent[:5])} ({len(absent)} classes)")
    return paths, torch.tensor([label[wnid_of[path.name]] for path in paths])


def caltech101(
    split: Split, *, root: Root = None, download: bool = False, device: torch.device | str = "cpu", image_size: int = CALTECH_SIZE
) -> ImageSet:
    """Caltech-101: 8,046 images to train and 1,098 to test, of 102 classes. `root` holds caltech101/101_ObjectCategories/.

    The folder of background images is a class: Yi et al. 2022 have 9,144 images, and without it there are 8,677. Their split is not
    published. Ours takes the same share of each class, rounded by largest remainders, from `Stream(0) / "caltech101" / "test" /
    class`. It depends on the number and the order of the files only. Classes are in natural order; images are in a fixed random order.

    The decoded train images are cached, see `cached_images`: with two threads 224 pixels take 30 s, and 4 s from the cache.

    Args:
        image_size: side in pixels; images are resized to it as in `folder`.
    Raises:
        DataError: the folder is missing, has fewer than two classes, a class with one image, or too few images for a test; or files
            are unreadable. The message names all such files.
    Memory: O(N `image_size`²): 1.4 GB at 224.
    Source: Fei-Fei et al. 2004; https://data.caltech.edu/records/mzrjq-6wc02
    """
    return CALTECH.load(split, root, download, device, image_size)


def _caltech_listing(root: Path, split: Split) -> Listing:
    folder = root / CALTECH.folder
    if not folder.is_dir():
        raise CALTECH.error(root, f"{folder.name} not found in {folder.parent}")
    files = class_files(folder)
    sizes = [len(paths) for paths in files.values()]
    held_out = round(sum(sizes) * CALTECH_TEST / CALTECH_IMAGES)
    if held_out == 0:
        raise CALTECH.error(root, f"{folder} has {sum(sizes)} images, too few for a test")
    files = hold_out(files, proportional(sizes, held_out, at_least=0), CALTECH.name)[split]
    return *shuffled(files.values()), tuple(files)


TINY = Archive(
    "tiny_imagenet",
    Path("tiny-imagenet-200"),
    "http://cs231n.stanford.edu/tiny-imagenet-200.zip",  # 248,100,043 bytes
    "90528d7ca1a48142e341f4ef8d21d0de",  # as in avalanche-lib and a dozen other public loaders
    _tiny_listing,
    side=64,
)
CALTECH = Archive(
    "caltech101",
    Path("caltech101", "101_ObjectCategories"),  # address, md5 and folder as in torchvision
    "https://data.caltech.edu/records/mzrjq-6wc02/files/caltech-101.zip",
    "3138e1922a9193bfa496528edbbc45d0",
    _caltech_listing,
)
