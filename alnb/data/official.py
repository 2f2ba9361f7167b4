"""Published files: where they lie, how they are fetched, and the check of their md5."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from tempfile import TemporaryDirectory

from alnb.data.sources import DataError
from alnb.store import workspace

Root = Path | str | None


def root_folder(root: Root = None) -> Path:
    """The folder of all data sets: `root`, else $ALNB_DATA, else data/ in the project folder."""
    path = root or os.environ.get("ALNB_DATA")
    return Path(path).expanduser() if path else workspace() / "data"


def remedy(name: str, root: Path) -> str:
    """The command that fetches a data set."""
    return f"`alnb data {name} --root {shlex.quote(str(root))}`"


def intact(folder: Path, files: Mapping[str, str]) -> bool:
    """True if `folder` holds all `files` (name: md5)."""
    from torchvision.datasets.utils import check_integrity

    return all(check_integrity(folder / file, md5) for file, md5 in files.items())


def verify(name: str, root: Path, folder: Path, files: Mapping[str, str]) -> None:
    """Raises: DataError if one of `files` (name: md5) in `folder` is missing or damaged. `name` and `root` are those of the data set."""
    from torchvision.datasets.utils import calculate_md5

    missing = [file for file in files if not (folder / file).is_file()]
    if missing:
        raise DataError(
            f"{name}: {', '.join(missing)} not found in {folder}. Get the data with {remedy(name, root)}, or set root (or $ALNB_DATA) "
            "to the folder that holds them"
        )
    for file, md5 in files.items():
        path = folder / file
        if (actual := calculate_md5(path)) != md5:
            raise DataError(
                f"{name}: {path} is damaged: it has {path.stat().st_size} bytes and md5 {actual}, expected md5 {md5}. "
                f"Replace it with {remedy(name, root)}"
            )


@contextmanager
def unpacked(name: str, root: Path, folder: Path, url: str, md5: str) -> Iterator[Path]:
    """Fetch the archive at `url` into `folder`, and yield a temporary folder below it with the archive's content.

    Raises:
        DataError: the archive cannot be fetched (see `download`) or unpacked (the disk is full).
    """
    from torchvision.datasets.utils import extract_archive

    archive = download(name, root, folder, url, md5)
    with TemporaryDirectory(dir=folder, prefix=".unpacking-") as work:
        try:
            extract_archive(str(archive), work)
        except Exception as error:  # tarfile and zipfile raise a dozen kinds
            raise DataError(f"{name}: {archive} cannot be unpacked ({error}). Free disk space, or delete it, and try again") from error
        yield Path(work)


def download(name: str, root: Path, folder: Path, url: str, md5: str) -> Path:
    """The file at `url`, in `folder`. It is fetched only if `folder` lacks it or its md5 differs. A partial download leaves no file.

    Raises:
        DataError: there is no network, or the md5 of the download differs.
    """
    from torchvision.datasets.utils import download_url

    file = url.rsplit("/", 1)[-1]
    if intact(folder, {file: md5}):
        return folder / file
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder, prefix=".fetching-") as work:
            download_url(url, work, filename=file, md5=md5)
            os.replace(Path(work, file), folder / file)
    except (OSError, RuntimeError, HTTPException) as error:
        raise DataError(
            f"{name}: {url} could not be fetched ({error}). Without a network, bring {file} (md5 {md5}) from another machine, "
            f"put it into {folder}, and run {remedy(name, root)}"
        ) from error
    return folder / file
