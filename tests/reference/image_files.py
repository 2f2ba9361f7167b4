"""Images for the tests of data: small ones in memory, small files, and the real ones where they are."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from alnb import data


def real(folder: Path | str, pack: str) -> Path:
    """The root of the real data sets; skips the test if `folder` is not there."""
    root = data.root_folder()
    if not (root / folder).is_dir():
        pytest.skip(f"{root / folder} is not there: python ../shared/data/unpack.py {root} {pack}, or set ALNB_DATA")
    return root


def resident(n: int = 6, side: int = 4, seed: int = 0) -> data.Resident:
    return data.Resident(torch.randint(256, (n, 3, side, side), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8))


def picture(path: Path, value: int = 0, size: tuple[int, int] = (8, 8), mode: str = "RGB") -> Path:
    """A file of one grey value."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value if mode == "L" else (value,) * 3).save(path)
    return path
