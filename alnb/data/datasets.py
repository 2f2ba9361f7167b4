"""The data sets by name: `DATASETS`, `load`, `fetch`.

The function of each data set takes `split` ("train" or "test"), `root` (see `root_folder`), `download` (fetch first what is missing or
damaged) and `device`. It raises a DataError if a file is missing or damaged; the message names the file and the remedy.
"""

import difflib
import gzip
import importlib.util
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor

from alnb import store
from alnb.data import archives, official
from alnb.data.archives import caltech101, tiny_imagenet
from alnb.data.files import Split, check_split, folder, read_folder
from alnb.data.official import Root, root_folder
from alnb.data.sets import ImageSet, held_out, imbalanced
from alnb.data.sources import DataError, Resident
from alnb.store.streams import Stream

Device = torch.device | str

TEST_DIGITS = 50  # of each class, of 174 to 183
DEBIAN = Path("/usr/share/datasets/fashion-mnist")  # Debian's package dataset-fashion-mnist

# md5 of the unpacked files; torchvision states that of the .gz only. The tests show that the content is the official one.
FASHION_MNIST = {
    "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
    "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
    "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
    "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
}


def digits(split: Split, *, root: Root = None, download: bool = False, device: Device = "cpu") -> ImageSet:
    """The 1,797 handwritten digits of scikit-learn, 8x8, their 17 grey values scaled to 0..255, in three equal channels.

    1,297 to train; 500 to test, 50 of each digit, drawn from `Stream(0) / "digits" / "test" / digit`.
    scikit-learn contains the images: `root` and `download` are not used.

    Source: scikit-learn's `load_digits`, the test part of the UCI Optical Recognition of Handwritten Digits (Alpaydin and Kaynak 1998).
    """
    check_split(split)
    rows = _digits()
    grey = rows[:, :-1].reshape(-1, 8, 8).double().mul(255 / 16).round().to(torch.uint8)
    targets = rows[:, -1]
    test = torch.zeros(len(targets), dtype=torch.bool)
    for digit in range(10):
        members = (targets == digit).nonzero().flatten()
        test[members] = held_out(len(members), TEST_DIGITS, Stream(0) / "digits" / "test" / digit)
    mask = test if split == "test" else ~test
    return ImageSet(_three_channels(grey[mask], device), targets[mask], tuple("0123456789"), "digits")


def _digits() -> Tensor:
    """i64 [1797, 65]: 64 grey values from 0 to 16, and the digit.

    scikit-learn's file is read without importing scikit-learn, if it is in its usual place: this saves a second in every cell of a sweep.
    """
    path = _digits_folder() / "digits.csv.gz"
    if path.is_file():
        return torch.from_numpy(numpy.loadtxt(path, delimiter=",")).long()
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return torch.from_numpy(numpy.column_stack((bunch.data, bunch.target))).long()


def _digits_folder() -> Path:
    spec = importlib.util.find_spec("sklearn")
    if spec is None or spec.origin is None:
        raise DataError("digits comes with scikit-learn, which is not installed: pip install scikit-learn, or take another data set")
    return Path(spec.origin).parent / "datasets" / "data"


def _three_channels(grey: Tensor, device: Device) -> Resident:
    return Resident(grey.to(device)[:, None].expand(-1, 3, -1, -1).contiguous())


def fashion_mnist(split: Split, *, root: Root = None, download: bool = False, device: Device = "cpu") -> ImageSet:
    """60,000 and 10,000 grey images of clothes, 28x28, in three equal channels, in official order; `root` holds FashionMNIST/raw/.

    Source: Xiao, Rasul and Vollgraf 2017, arXiv 1708.07747.
    """
    dataset = _read("fashion_mnist", split, root, download)
    return ImageSet(_three_channels(dataset.data, device), dataset.targets.long(), tuple(dataset.classes), "fashion_mnist")


def cifar10(split: Split, *, root: Root = None, download: bool = False, device: Device = "cpu") -> ImageSet:
    """50,000 and 10,000 colour images of 10 classes, 32x32, in official order; `root` holds cifar-10-batches-py/.

    Source: Krizhevsky 2009, Learning Multiple Layers of Features from Tiny Images.
    """
    return _cifar("cifar10", split, root, download, device)


def cifar100(split: Split, *, root: Root = None, download: bool = False, device: Device = "cpu") -> ImageSet:
    """50,000 and 10,000 colour images of 100 (fine) classes, 32x32, in official order; `root` holds cifar-100-python/. See `cifar10`."""
    return _cifar("cifar100", split, root, download, device)


def cifar10_imbalanced(split: Split, *, root: Root = None, download: bool = False, device: Device = "cpu") -> ImageSet:
    """CIFAR-10 with 500 airplanes, 1,000 automobiles ... 5,000 trucks to train, 27,500 in all, and the balanced 10,000 to test.

    The first images of each class are taken, in official order: the paper does not say which.

    Source: Yi et al. 2022, section 5.3.
    """
    full = cifar10(split, root=root, download=download, device=device)
    return replace(imbalanced(full, range(500, 5001, 500)) if split == "train" else full, name="cifar10_imbalanced")


def _cifar(name: str, split: Split, root: Root, download: bool, device: Device) -> ImageSet:
    dataset = _read(name, split, root, download)
    images = torch.from_numpy(dataset.data).permute(0, 3, 1, 2).contiguous()
    return ImageSet(Resident(images.to(device)), torch.tensor(dataset.targets), tuple(dataset.classes), name)


def _files(name: str) -> tuple[Any, Path, dict[str, str]]:
    """torchvision's class for a data set, the folder of its files below the root, and their md5 by name."""
    from torchvision import datasets

    if name == "fashion_mnist":
        return datasets.FashionMNIST, Path("FashionMNIST", "raw"), FASHION_MNIST
    source = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    return source, Path(source.base_folder), {source.meta["filename"]: source.meta["md5"], **dict(source.train_list + source.test_list)}


def _read(name: str, split: Split, root: Root, download: bool) -> Any:
    """torchvision's data set. Raises: DataError if a file is missing or damaged."""
    check_split(split)
    place = root_folder(root)
    if download:
        fetch(name, place)
    source, folder, files = _files(name)
    if name == "fashion_mnist":  # torchvision verifies its archives only
        official.verify(name, place, place / folder, files)
    try:
        return source(place, train=split == "train")
    except RuntimeError:  # a file is missing or damaged; torchvision does not say which
        official.verify(name, place, place / folder, files)
        raise


def _fetch(name: str, root: Path) -> Path:
    """`fetch` of a data set that torchvision reads. Raises: DataError as `official.unpacked`, or if the archive lacks a file."""
    source, folder, files = _files(name)
    place = root / folder
    if name == "fashion_mnist":  # four archives of one file each, below `place`
        archives = [(place, source.mirrors[0] + file, md5, Path(), [file.removesuffix(".gz")]) for file, md5 in source.resources]
        for packed in DEBIAN.glob("*ubyte.gz"):
            if official.damage(place, {packed.stem: files[packed.stem]}):
                store.write_atomic(place / packed.stem, gzip.decompress(packed.read_bytes()))
    else:
        archives = [(root, source.url, source.tgz_md5, folder, list(files))]
    for target, url, md5, inside, names in archives:
        expected = {file: files[file] for file in names}
        if official.damage(place, expected):
            with official.unpacked(name, root, target, url, md5) as work:
                official.verify(name, root, work / inside, expected)
                place.mkdir(exist_ok=True)
                for file in names:
                    os.replace(work / inside / file, place / file)
    return place


DATASETS: dict[str, Callable[..., ImageSet]] = {
    "digits": digits,
    "fashion_mnist": fashion_mnist,
    "cifar10": cifar10,
    "cifar10_imbalanced": cifar10_imbalanced,
    "cifar100": cifar100,
    "tiny_imagenet": tiny_imagenet,
    "caltech101": caltech101,
    "folder": folder,
}


def load(
    name: str | Path,
    *,
    root: Root = None,
    device: Device = "cpu",
    download: bool = False,
    image_size: int | None = None,
    skip_bad: bool = False,
) -> tuple[ImageSet, ImageSet]:
    """(train, test) of the data set `name`.

    Args:
        name: a key of `DATASETS`, or the path of a folder with one sub-folder per class (./digits for a folder with the name of a key).
        root: see `root_folder`; for "folder" the folder itself.
        download: fetch what is missing.
        image_size: side in pixels, for folders (default 64), tiny_imagenet (64) and caltech101 (224). The others have a fixed size.
        skip_bad: for folders: leave unreadable files out.
    Raises:
        DataError: the name is unknown, or data are missing or damaged.
        ValueError: an option that this data set does not have.
    """
    size = {} if image_size is None else {"image_size": image_size}
    key = check_name(name)
    if key == "folder":
        if name != "folder" and root is not None:
            raise ValueError(f"name is the folder {name}, and root={root} another one: leave root out")
        train, test = read_folder(["train", "test"], root=root if name == "folder" else name, device=device, skip_bad=skip_bad, **size)
        return train, test
    loader = DATASETS[key]
    if skip_bad:
        raise ValueError(f"skip_bad is for folders of images, not for {name}: leave it out, and fetch damaged files again")
    options = size if loader in (tiny_imagenet, caltech101) else {}
    train, test = (loader(split, root=root, download=download, device=device, **options) for split in ("train", "test"))
    if image_size not in (None, train.images.shape[-1]):
        raise ValueError(f"image_size is {image_size}, but {name} has {train.images.shape[-1]} pixels a side: leave image_size out")
    return train, test


def check_name(name: str | Path) -> str:
    """The key of `DATASETS`; it is "folder" for a path. Raises: DataError if there is no data set of that name, and no such folder."""
    if isinstance(name, str) and name in DATASETS:
        return name
    if isinstance(name, Path) or os.sep in name or name.startswith((".", "~")) or Path(name).exists():
        return "folder"
    near = difflib.get_close_matches(name.lower().replace("-", "_").replace(" ", "_"), DATASETS, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    known = f"Choose one of {', '.join(DATASETS)}, or the path of a folder of images"
    raise DataError(f"there is no data set {name!r}, and no such folder in {Path.cwd()}.{hint} {known}")


def fetch(name: str, root: Root = None) -> Path:
    """The folder of a data set. What is missing or damaged is fetched first.

    Raises:
        DataError: the name is unknown, or there is no network; the message says how to continue without one.
    """
    place = root_folder(root)
    match check_name(name):
        case "digits" | "folder" as key:
            print(f"{name}: there is nothing to fetch")
            return _digits_folder() if key == "digits" else place if name == "folder" else Path(name)
        case "tiny_imagenet":
            return archives.TINY.fetch(place)
        case "caltech101":
            return archives.CALTECH.fetch(place)
        case key:
            return _fetch(key.removesuffix("_imbalanced"), place)
