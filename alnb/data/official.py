"""Published files: where they lie, how they are fetched, and the check of their md5."""

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


def damage(folder: Path, files: Mapping[str, str]) -> str:
    """What is missing or damaged of `files` (name: md5) in `folder`, as a sentence; empty if nothing is."""
    from torchvision.datasets.utils import calculate_md5

    missing = [file for file in files if not (folder / file).is_file()]
    if missing:
        return f"{', '.join(missing)} not found in {folder}"
    for file, md5 in files.items():
        path = folder / file
        if (actual := calculate_md5(path)) != md5:
            return f"{path} is damaged: it has {path.stat().st_size} bytes and md5 {actual}, expected md5 {md5}"
    return ""


def verify(name: str, root: Path, folder: Path, files: Mapping[str, str]) -> None:
    """Raises: DataError with the remedy, if `damage` of the data set `name` below `root`."""
    if problem := damage(folder, files):
        raise DataError(f"{name}: {problem}. Get it with {remedy(name, root)}, or set root (or $ALNB_DATA) to the folder that holds it")


@contextmanager
def unpacked(name: str, root: Path, folder: Path, url: str, md5: str) -> Iterator[Path]:
    """Fetch the archive at `url` into `folder`, unless it is there, and yield a temporary folder below it with the archive's content.

    Raises:
        DataError: there is no network, the md5 of the download differs (no file is left then), or it cannot be unpacked (a full disk).
    """
    from torchvision.datasets.utils import download_url, extract_archive

    archive = folder / url.rsplit("/", 1)[-1]
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder, prefix=".fetching-") as work:
        if damage(folder, {archive.name: md5}):
            try:
                download_url(url, work, filename=archive.name, md5=md5)
                os.replace(Path(work, archive.name), archive)
            except (OSError, RuntimeError, HTTPException) as error:
                raise DataError(
                    f"{name}: {url} could not be fetched ({error}). Without a network, bring {archive.name} (md5 {md5}) from another "
                    f"machine, put it into {folder}, and run {remedy(name, root)}"
                ) from error
        try:
            extract_archive(str(archive), work)
        except Exception as error:  # tarfile and zipfile raise a dozen kinds
            raise DataError(f"{name}: {archive} cannot be unpacked ({error}). Free disk space, or delete it, and try again") from error
        yield Path(work)
