"""Official files: what they must be, byte for byte, and how they are fetched."""

from __future__ import annotations

import gzip
import hashlib
import os
import shlex
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from alnb import store
from alnb.data.sources import DataError
from alnb.store import workspace

# Unpacked files of http://fashion-mnist.s3-website.eu-central-1.amazonaws.com. torchvision knows the md5 of the .gz only. These are
# the md5 of what is in Debian's /usr/share/datasets/fashion-mnist/*.gz (package dataset-fashion-mnist). Debian compressed with
# `gzip -n`: with the file name and the time (1504176606 for train, 1504176627 for t10k) put back into the gzip header, all four have
# the md5 that torchvision lists, so the content is the official one.
FASHION_MNIST = {
    "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
    "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
    "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
    "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
}
FASHION_MNIST_FOLDER = Path("FashionMNIST", "raw")  # as torchvision has it
DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")

Root = Path | str | None


def root_folder(root: Root = None) -> Path:
    """Where the data sets lie: `root`, else $ALNB_DATA, else data/ in the project folder."""
    given = root or os.environ.get("ALNB_DATA")
    return Path(given).expanduser() if given else workspace() / "data"


def remedy(name: str, root: Path) -> str:
    """The command that gets a data set."""
    return f"`alnb data {name} --root {shlex.quote(str(root))}`"


def md5(content: bytes) -> str:
    """Hexadecimal md5, as the publishers state it: against damage, not against malice."""
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def intact(folder: Path, files: Mapping[str, str]) -> bool:
    """Whether `folder` holds all `files` (name: md5)."""
    return all((folder / name).is_file() and md5((folder / name).read_bytes()) == digest for name, digest in files.items())


def verified(name: str, root: Path, folder: Path, files: Mapping[str, str]) -> Iterator[bytes]:
    """The content of each of `files` (name: md5) in `folder`; what is yielded is what was checked.

    Args:
        name, root: of the data set, for the remedy.

    Raises:
        DataError: a file is missing or its md5 is another one.
    """
    missing = [file for file in files if not (folder / file).is_file()]
    if missing:
        at = f"{', '.join(missing)} not found in {folder}"
        raise DataError(f"{name}: {at}; get the data with {remedy(name, root)}, or give the root (or $ALNB_DATA) where they lie")
    for file, expected in files.items():
        content = (folder / file).read_bytes()
        found = md5(content)
        if found != expected:
            raise DataError(
                f"{name}: {folder / file} is damaged: {len(content)} bytes with md5 {found}, expected md5 {expected}; "
                f"have it replaced with {remedy(name, root)}"
            )
        yield content


def cifar(name: str) -> Any:
    """torchvision's class for cifar10 or cifar100: it states addresses, file names and md5."""
    from torchvision import datasets

    return {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]


def fetch_cifar(name: str, root: Path) -> Path:
    """The folder with the verified official files of cifar10 or cifar100, fetched where needed; raises DataError as `unpacked`."""
    facts = cifar(name)
    files = {**dict(facts.train_list), **dict(facts.test_list), facts.meta["filename"]: facts.meta["md5"]}
    folder = root / facts.base_folder
    if not intact(folder, files):
        with unpacked(name, root, facts.url, facts.tgz_md5) as work:
            for file, content in zip(files, verified(name, root, work / facts.base_folder, files), strict=True):
                store.write_atomic(folder / file, content)
    return folder


def fetch_fashion_mnist(root: Path) -> Path:
    """The folder with the four verified files: as they lie, from .gz files beside them, from Debian's package, or from the network.

    Raises:
        DataError: the network does not give what is missing.
    """
    from torchvision import datasets

    folder = root / FASHION_MNIST_FOLDER
    packed = dict(datasets.FashionMNIST.resources)
    for file, digest in FASHION_MNIST.items():
        if intact(folder, {file: digest}):
            continue
        content = _gunzip(folder / f"{file}.gz", digest) or _gunzip(DEBIAN_FASHION_MNIST / f"{file}.gz", digest)
        if content is None:
            url = f"{datasets.FashionMNIST.mirrors[0]}{file}.gz"
            content = _gunzip(download("fashion_mnist", root, folder, url, packed[f"{file}.gz"]), digest)
        if content is None:
            raise DataError(f"fashion_mnist: {folder / file}.gz does not hold the official {file} (md5 {digest}); delete it and try again")
        store.write_atomic(folder / file, content)
    return folder


def _gunzip(path: Path, digest: str) -> bytes | None:
    """What is in a .gz file, if that has this md5."""
    try:
        content = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error):
        return None
    return content if md5(content) == digest else None


@contextmanager
def unpacked(name: str, root: Path, url: str, digest: str) -> Iterator[Path]:
    """A temporary folder below `root` with the content of the archive at `url`, whose md5 is `digest`.

    Raises:
        DataError: as `download`, or the archive cannot be unpacked (a full disk).
    """
    from torchvision.datasets.utils import extract_archive

    archive = download(name, root, root, url, digest)
    with TemporaryDirectory(dir=root, prefix=".unpacking-") as work:
        try:
            extract_archive(str(archive), work)
        except Exception as error:  # tarfile and zipfile have a dozen kinds
            raise DataError(f"{name}: {archive} cannot be unpacked ({error}); free some space, or delete it and try again") from error
        yield Path(work)


def download(name: str, root: Path, folder: Path, url: str, digest: str) -> Path:
    """The file at `url`, in `folder`, with the md5 `digest`; one that lies there already is taken. It gets its name when it is complete.

    Args:
        name, root: of the data set, for the remedy.

    Raises:
        DataError: no network, or something else came; the message says what was tried and how to go without a network.
    """
    from torchvision.datasets.utils import download_url

    file = url.rsplit("/", 1)[-1]
    if intact(folder, {file: digest}):
        return folder / file
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder, prefix=".fetching-") as work:
            download_url(url, work, filename=file, md5=digest)
            os.replace(Path(work, file), folder / file)
    except (OSError, RuntimeError, HTTPException) as error:
        raise DataError(
            f"{name}: {url} could not be fetched ({error}). Without a network, bring {file} (md5 {digest}) from there on another way, "
            f"put it into {folder}, and run {remedy(name, root)}: it takes the file that lies there"
        ) from error
    return folder / file
