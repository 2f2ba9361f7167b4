"""CIFAR-10 in two parts of 49 MiB that travel: its official files, with their pixels as lossless pictures of a hundred images."""

import io
import pickle
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from alnb import store
from alnb.data import datasets, official
from alnb.data.sources import DataError as DataError

NAME = "cifar10"
SIDE, TILES = 32, 10  # pixels of an image; images on a side of a picture
METHOD = 2  # of WebP: 17 MB and 7 s for each file; 0 makes 18 MB in a second, 4 makes 16.5 MB in 80 s
PARTS = (("batches.meta", "data_batch_1", "data_batch_2", "data_batch_3"), ("data_batch_4", "data_batch_5", "test_batch"))


def pack(folder: Path, root: official.Root = None) -> list[Path]:
    """Write the two parts below `folder`, each into a folder of its own. Raises: data.DataError if CIFAR-10 is missing or damaged."""
    place = datasets.fetch(NAME, root)
    paths = []
    for number, names in enumerate(PARTS, start=1):
        path = folder / str(number) / f"{NAME}.zip"
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for name in names:
                for member, data in _pictures((place / name).read_bytes()).items():
                    archive.writestr(f"{name}/{member}", data)
        store.write_atomic(path, buffer.getvalue())
        paths.append(path)
    return paths


def unpack(parts: Iterable[Path], root: official.Root = None) -> Path:
    """Write the official files of some parts where `data.load` looks for them; it verifies their md5. Returns the folder."""
    folder = official.root_folder(root) / "cifar-10-batches-py"
    for part in parts:
        with zipfile.ZipFile(part) as archive:
            members = sorted(archive.namelist())
            for name in {member.partition("/")[0] for member in members} & {*PARTS[0], *PARTS[1]}:
                pieces = [(member, archive.read(member)) for member in members if member.startswith(f"{name}/")]
                store.write_atomic(folder / name, b"".join(_bytes(data) if m.endswith(".webp") else data for m, data in pieces))
    return folder


def _pictures(content: bytes) -> dict[str, bytes]:
    """An official file in pieces whose names are in their order: what stands before the pixels, pictures, what stands after."""
    pixels = pickle.loads(content, encoding="latin1").get("data")  # the md5 of the file was verified
    if pixels is None:
        return {"0": content}
    start = content.index(pixels[:1].tobytes())
    pictures = {}
    for number, rows in enumerate(pixels.reshape(-1, TILES, TILES, 3, SIDE, SIDE)):
        buffer = io.BytesIO()
        picture = rows.transpose(0, 3, 1, 4, 2).reshape(TILES * SIDE, TILES * SIDE, 3)
        Image.fromarray(picture).save(buffer, "WEBP", lossless=True, method=METHOD, quality=100)
        pictures[f"1-{number:03d}.webp"] = buffer.getvalue()
    return {"0": content[:start], **pictures, "2": content[start + pixels.size :]}


def _bytes(picture: bytes) -> bytes:
    pixels: NDArray[np.uint8] = np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"))
    return pixels.reshape(TILES, SIDE, TILES, SIDE, 3).transpose(0, 2, 4, 1, 3).tobytes()
