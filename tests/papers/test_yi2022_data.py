import pytest
import torch
from conftest import images_of

from alnb.data import DataError, Embedded, ImageSet, Resident, Selection, datasets
from alnb.papers.yi2022.data import IMBALANCED_CIFAR10, bgr


@pytest.mark.parametrize("selected", [False, True])
@pytest.mark.parametrize("n", [1, 12, 1000, 1001])
def test_bgr_reverses_the_channels(selected: bool, n: int) -> None:
    plain = images_of(n)
    before = plain.images.batch(torch.arange(n)).clone()
    order = torch.arange(n).flip(0) if selected else torch.arange(n)
    images = Selection(plain.images, order) if selected else plain.images
    turned = bgr(ImageSet(images, plain.targets, plain.classes, "x"))
    assert isinstance(turned.images, Resident) and turned.name == "x (BGR)" and turned.classes == plain.classes
    assert torch.equal(turned.images.tensor, before[order][:, [2, 1, 0]]) and torch.equal(turned.targets, plain.targets)
    assert turned.images.fingerprint != images.fingerprint
    assert bgr(turned).images.fingerprint == images.fingerprint
    assert torch.equal(plain.images.batch(torch.arange(n)), before)  # the argument is not written to


def test_features_have_no_colours() -> None:
    plain = images_of(4)
    embedded = ImageSet(Embedded(plain.images, torch.ones(4, 3)), plain.targets, plain.classes, "x")
    with pytest.raises(DataError, match="'x' holds features"):
        bgr(embedded)


def test_the_counts_are_those_of_the_data_set(monkeypatch: pytest.MonkeyPatch) -> None:
    full = ImageSet(Resident(torch.zeros(50_000, 3, 1, 1, dtype=torch.uint8)), torch.arange(50_000) % 10, tuple("abcdefghij"), "cifar10")
    monkeypatch.setattr(datasets, "cifar10", lambda split, **options: full)
    assert tuple(datasets.cifar10_imbalanced("train").targets.bincount().tolist()) == IMBALANCED_CIFAR10
    assert sum(IMBALANCED_CIFAR10) == 27_500 and datasets.cifar10_imbalanced("test").images is full.images
