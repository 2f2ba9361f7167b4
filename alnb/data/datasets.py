"""The data sets by name: `DATASETS`, `load`, `fetch`."""

from __future__ import annotations

import difflib
import gzip
import importlib.util
import os
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from alnb.data import official
from alnb.data.caltech import caltech101, fetch_caltech101
from alnb.data.files import Split, check_split, folder, read_folder
from alnb.data.official import Root, root_folder
from alnb.data.sets import IMBALANCED_CIFAR10, ImageSet, held_out, imbalanced
from alnb.data.sources import DataError, Resident
from alnb.data.tiny import fetch_tiny_imagenet, tiny_imagenet

Device = torch.device | str

TEST_DIGITS = 50  # of each class, of 174 to 183


# ---- the data sets ------------------------------------------------------------------------------------------------------------


def digits(split: Split, *, root: Root = None, download: bool = False, device: Device = "cpu") -> ImageSet:
    """The 1,797 handwritten digits of scikit-learn, 8x8, their 17 grey values scaled to 0..255, in three equal channels.

    1,297 to train; 500 to test, 50 of each digit, drawn from the stream (0, "digits", "test", digit).

    Args:
        root, download: have no meaning here: scikit-learn brings the images.

    Raises:
        DataError: scikit-learn is not installed.

    Source: scikit-learn's `load_digits`, the test part of the UCI Optical Recognition of Handwritten Digits (Alpaydin and Kaynak 1998).
    """
    check_split(split)
    rows = _digits()
    grey = rows[:, :-1].reshape(-1, 8, 8).double().mul(255 / 16).round().to(torch.uint8)
    targets = rows[:, -1]
    test = torch.zeros(len(targets), dtype=torch.bool)
    for digit in range(10):
        members = (targets == digit).nonzero().flatten()
        test[members] = held_out(len(members), TEST_DIGITS, "digits", "test", digit)
    mine = test if split == "test" else ~test
    return ImageSet(_three_channels(grey[mine], device), targets[mine], tuple("0123456789"), "digits")


def _digits() -> Tensor:
    """i64 [1797, 65]: 64 grey values from 0 to 16 and the digit. Scikit-learn's file is read without importing scikit-learn, which would
    take a second in every cell of a sweep; where the file has moved, its loader is asked.

    Raises: DataError where scikit-learn is not installed.
    """
    found = importlib.util.find_spec("sklearn")
    if found is None or found.origin is None:
        raise DataError("the digits come with scikit-learn, which is not installed here: pip install scikit-learn, or take another dataset")
    path = Path(found.origin).parent / "datasets" / "data" / "digits.csv.gz"
    if path.is_file():
        lines = gzip.decompress(path.read_bytes()).decode().split()
        return torch.tensor([[int(float(value)) for value in line.split(",")] for line in lines])
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return torch.cat((torch.from_numpy(bunch.data), torch.from_numpy(bunch.target)[:, None]), dim=1).long()


def fashion_mnist(split: Split, *, root: Root = None, download: bool = False, device: Device = "cpu") -> ImageSet:
    """60,000 and 10,000 grey images of clothes, 28x28, in three equal channels, in official order.

    Args:
        root: holds FashionMNIST/raw/, as torchvision has it.
        download: call `fetch` first.

    Raises:
        DataError: a file is missing or damaged.

    Source: Xiao, Rasul and Vollgraf 2017, arXiv 1708.07747.
    """
    from torchvision.datasets import FashionMNIST

    check_split(split)
    place = root_folder(root)
    if download:
        fetch("fashion_mnist", place)
    prefix = {"train": "train", "test": "t10k"}[split]
    files = {name: md5 for name, md5 in official.FASHION_MNIST.items() if name.startswith(prefix)}
    grey, targets = (_idx(content) for content in official.verified("fashion_mnist", place, place / official.FASHION_MNIST_FOLDER, files))
    return ImageSet(_three_channels(grey, device), targets.to(torch.int64), tuple(FashionMNIST.classes), "fashion_mnist")


def cifar10(split: Split, *, root: Root = None, download: bool = False, device: Device = "cpu") -> ImageSet:
    """50,000 and 10,000 colour images of 10 classes, 32x32, in official order; `root` holds cifar-10-batches-py/.

    Args:
        download: call `fetch` first.

    Raises:
        DataError: a file is missing or damaged.

    Source: Krizhevsky 2009, Learning Multiple Layers of Features from Tiny Images.
    """
    return _cifar("cifar10", "labels", split, root, download, device)


def cifar10_imbalanced(split: Split, *, root: Root = None, download: bool = False, device: Device = "cpu") -> ImageSet:
    """CIFAR-10 with 500 airplanes to 5,000 trucks to train on, see `sets.IMBALANCED_CIFAR10`, and the balanced 10,000 to test on.

    Of each class the first ones are kept, in official order: Yi et al. 2022, section 5.3, do not say which. A smaller one with the same
    shares is `imbalanced(train, proportional(IMBALANCED_CIFAR10, total))`.
    """
    whole = cifar10(split, root=root, download=download, device=device)
    return replace(imbalanced(whole, IMBALANCED_CIFAR10) if split == "train" else whole, name="cifar10_imbalanced")


def cifar100(split: Split, *, root: Root = None, download: bool = False, device: Device = "cpu") -> ImageSet:
    """50,000 and 10,000 colour images of 100 (fine) classes, 32x32, in official order; `root` holds cifar-100-python/. See `cifar10`."""
    return _cifar("cifar100", "fine_labels", split, root, download, device)


def _cifar(name: str, key: str, split: Split, root: Root, download: bool, device: Device) -> ImageSet:
    """The pickles are read here rather than by torchvision, so that the bytes that are read are those that were verified."""
    check_split(split)
    place, facts = root_folder(root), official.cifar(name)
    if download:
        fetch(name, place)
    files = dict(facts.train_list if split == "train" else facts.test_list)
    contents = official.verified(name, place, place / facts.base_folder, {facts.meta["filename"]: facts.meta["md5"], **files})
    classes = tuple(_unpickle(next(contents))[facts.meta["key"]])
    batches = [_unpickle(content) for content in contents]
    pixels = torch.cat([torch.from_numpy(batch["data"]) for batch in batches]).view(-1, 3, 32, 32)
    targets = torch.tensor([label for batch in batches for label in batch[key]], dtype=torch.int64)
    return ImageSet(Resident(pixels.to(device)), targets, classes, name)


def _unpickle(content: bytes) -> dict:
    # A pickle can run code. These come from `official.verified`: they are the files that torchvision would unpickle too.
    loaded: dict = pickle.loads(content, encoding="latin1")
    return loaded


def _idx(content: bytes) -> Tensor:
    """A verified IDX file of bytes: two zeros, type 8, number of dimensions, their sizes (big-endian), the data."""
    dimensions = content[3]
    sizes = [int.from_bytes(content[4 + 4 * i : 8 + 4 * i], "big") for i in range(dimensions)]
    return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=4 + 4 * dimensions).view(sizes)


def _three_channels(grey: Tensor, device: Device) -> Resident:
    return Resident(grey.to(device)[:, None].expand(-1, 3, -1, -1).contiguous())


# ---- by name ------------------------------------------------------------------------------------------------------------------

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
        name: a key of `DATASETS`, or the path of a folder with one sub-folder per class (write ./digits for a folder named as a key).
        root: see `root_folder`; for "folder" the folder itself.
        download: fetch what is missing.
        image_size: pixels; for folders (64 by default), tiny_imagenet (64) and caltech101 (224). Others have their own, and take no other.
        skip_bad: for folders: leave out files that cannot be read.

    Raises:
        DataError: an unknown name, or data that are missing or damaged.
        ValueError: an option that this data set does not have.
    """
    size = {} if image_size is None else {"image_size": image_size}
    if name == "folder" or _is_path(name):
        if name != "folder" and root is not None:
            raise ValueError(f"{name} is a folder of images and root={root} another: leave root away")
        train, test = read_folder(["train", "test"], root=root if name == "folder" else name, device=device, skip_bad=skip_bad, **size)
        return train, test
    loader = DATASETS[_known(str(name))]
    if skip_bad:
        raise ValueError(f"skip_bad is for folders of images; {name} is verified as a whole: leave skip_bad away, fetch what is damaged")
    options = size if loader in (tiny_imagenet, caltech101) else {}
    train, test = (loader(split, root=root, download=download, device=device, **options) for split in ("train", "test"))
    if image_size not in (None, train.images.shape[-1]):
        raise ValueError(f"image_size is {image_size}, and {name} has {train.images.shape[-1]} pixels a side: leave image_size away")
    return train, test


def check_name(name: str | Path) -> None:
    """Raises: DataError, where `load` would find no data set or folder of that name; nothing is read."""
    if name != "folder" and not _is_path(name):
        _known(str(name))


def _is_path(name: str | Path) -> bool:
    if isinstance(name, Path):
        return True
    return name not in DATASETS and (os.sep in name or name.startswith((".", "~")) or Path(name).exists())


def _known(name: str) -> str:
    if name in DATASETS:
        return name
    near = difflib.get_close_matches(name.lower().replace("-", "_").replace(" ", "_"), DATASETS, n=1, cutoff=0.5)
    perhaps = f" Did you mean {near[0]!r}?" if near else ""
    known = f"Known are {', '.join(DATASETS)}, or the path of a folder of images"
    raise DataError(f"there is no data set {name!r}, and no such folder in {Path.cwd()}.{perhaps} {known}")


def fetch(name: str, root: Root = None) -> Path:
    """Have a data set verified on the disk, fetching only what is missing or damaged; returns the folder where it lies.

    Raises:
        DataError: an unknown name, or no network; the message says how to go without one.
    """
    place = root_folder(root)
    match _known(name):
        case "digits":
            import sklearn.datasets

            print("digits comes with scikit-learn: nothing has to be fetched")
            return Path(sklearn.datasets.__file__).parent / "data"
        case "folder":
            print("a folder of your own images is read where it lies: nothing has to be fetched")
            return place
        case "fashion_mnist":
            return official.fetch_fashion_mnist(place)
        case "tiny_imagenet":
            return fetch_tiny_imagenet(place)
        case "caltech101":
            return fetch_caltech101(place)
        case "cifar10_imbalanced":
            return official.fetch_cifar("cifar10", place)
        case cifar:
            return official.fetch_cifar(cifar, place)


__all__ = [
    "DATASETS",
    "caltech101",
    "cifar10",
    "cifar10_imbalanced",
    "cifar100",
    "digits",
    "fashion_mnist",
    "fetch",
    "folder",
    "load",
    "root_folder",
    "tiny_imagenet",
]
