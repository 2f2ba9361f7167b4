"""Caltech-101 on small files in the official layout, the order of colours, and the imbalanced CIFAR-10."""

import os
from pathlib import Path

import pytest
import torch
from conftest import images_of
from PIL import Image

from alnb.data import IMBALANCED_CIFAR10, DataError, ImageSet, Resident, Selection, balanced, bgr, load, proportional
from alnb.data.caltech import FOLDER, caltech101, counts

DATA = Path(os.environ.get("ALNB_DATA") or Path(__file__).parents[1] / "data")


def make(root: Path, **sizes: int) -> Path:
    for label, (name, n) in enumerate(sizes.items()):
        (root / FOLDER / name).mkdir(parents=True)
        for k in range(1, n + 1):
            colour = (50 * label, k, 200)
            Image.new("L" if k == 1 else "RGB", (30 + k, 20), colour[0] if k == 1 else colour).save(
                root / FOLDER / name / f"image_{k:04d}.png"
            )
    return root


def test_the_split_is_whole_and_stratified(tmp_path: Path) -> None:
    make(tmp_path, BACKGROUND_Google=12, ant=25, wheel=31)
    train, test = load("caltech101", root=tmp_path, image_size=16)
    assert train.classes == ("ant", "BACKGROUND_Google", "wheel") and train.images.shape == (3, 16, 16)
    assert len(train) + len(test) == 68 and len(test) == round(68 * 1098 / 9144)
    assert torch.bincount(test.targets, minlength=3).tolist() == counts([25, 12, 31])
    pixels = torch.cat([s.images.tensor[:, :2, 0, 0] for s in (train, test)]).tolist()
    assert len({tuple(p) for p in pixels}) == 68  # every file once
    assert not torch.equal(train.targets, train.targets.sort().values)  # an index says nothing of the class
    again = load("caltech101", root=tmp_path, image_size=16)
    assert all(a.fingerprint == b.fingerprint for a, b in zip((train, test), again, strict=True))
    assert caltech101("test", root=tmp_path).images.shape == (3, 224, 224)


def test_counts_are_the_papers() -> None:
    sizes = [40 + 7 * k % 90 for k in range(101)]
    sizes.append(9144 - sum(sizes))
    found = counts(sizes)
    assert sum(found) == 1098 and all(abs(n - size * 1098 / 9144) < 1 for n, size in zip(found, sizes, strict=True))


def test_what_is_missing_or_damaged_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"101_ObjectCategories not found in .*; get it with .*caltech101"):
        load("caltech101", root=tmp_path)
    make(tmp_path, ant=12, wheel=14)
    (tmp_path / FOLDER / "ant" / "image_0003.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"image_0003.png"):
        _ = [caltech101(split, root=tmp_path, image_size=16) for split in ("train", "test")]


def test_real_caltech101() -> None:
    if not (DATA / FOLDER).is_dir():
        pytest.skip(f"Caltech-101 is not in {DATA}: python ../shared/data/unpack.py data caltech101")
    train, test = load("caltech101", root=DATA, image_size=16)
    assert (len(train), len(test), len(train.classes)) == (8046, 1098, 102)
    assert int(torch.bincount(test.targets, minlength=102).min()) >= 3


@pytest.mark.parametrize("selected", [False, True])
def test_bgr_reverses_the_channels(selected: bool) -> None:
    plain = images_of(12)
    images = Selection(plain.images, torch.arange(12)) if selected else plain.images
    turned = bgr(ImageSet(images, plain.targets, plain.classes, "x"))
    assert isinstance(turned.images, Resident) and turned.name == "x (BGR)"
    assert torch.equal(turned.images.tensor, plain.images.tensor[:, [2, 1, 0]]) and torch.equal(turned.targets, plain.targets)
    assert turned.fingerprint != plain.fingerprint and bgr(turned).images.fingerprint == plain.images.fingerprint


def test_imbalanced_counts() -> None:
    assert tuple(range(500, 5001, 500)) == IMBALANCED_CIFAR10 and sum(IMBALANCED_CIFAR10) == 27_500  # airplane to truck
    assert proportional(IMBALANCED_CIFAR10, 2750) == [50 * k for k in range(1, 11)]
    assert proportional(IMBALANCED_CIFAR10, 20) == [1, 1, 1, 1, 2, 2, 3, 3, 3, 4]
    if not (DATA / "cifar-10-batches-py").is_dir():
        pytest.skip(f"CIFAR-10 is not in {DATA}: python ../shared/data/unpack.py data cifar10")
    train, test = load("cifar10_imbalanced", root=DATA)
    assert torch.bincount(train.targets).tolist() == list(IMBALANCED_CIFAR10) and train.name == "cifar10_imbalanced"
    assert torch.bincount(test.targets).tolist() == [1000] * 10
    assert train.classes[0] == "airplane" and train.classes[-1] == "truck"
    whole = load("cifar10", root=DATA)[0]
    assert torch.equal(balanced(train, 500).images.tensor, balanced(whole, 500).images.tensor)  # the first ones of each class
