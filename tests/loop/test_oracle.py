import pytest
import torch
from conftest import images_of
from hypothesis import given
from hypothesis import strategies as st

from alnb import Stream
from alnb.acquire.query import Pool, Query
from alnb.loop.oracle import class_uniform, simulated


def test_simulated_knows() -> None:
    assert simulated(torch.tensor([4, 5, 6]))(torch.tensor([2, 0])).tolist() == [6, 4]


def start(n: int, targets: torch.Tensor, classes: int, seed: int = 0) -> torch.Tensor:
    images = images_of(len(targets)).images
    return class_uniform(targets, classes)(Query(Pool.of(images), None, torch.arange(len(targets)), n, Stream(seed)))


@given(st.integers(1, 6), st.integers(0, 20), st.integers(0, 5))
def test_a_class_uniform_start_is_uniform(classes: int, more: int, seed: int) -> None:
    targets = torch.arange(40 * classes) % classes
    chosen = start(classes + more, targets, classes, seed)
    counts = torch.bincount(targets[chosen], minlength=classes)
    assert len(chosen.unique()) == classes + more and int(counts.max() - counts.min()) <= 1


def test_a_class_uniform_start_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="with 2 labels cannot cover 3 classes"):
        start(2, torch.arange(9) % 3, 3)
    with pytest.raises(ValueError, match="wants 2 images of class 2, the pool has 0"):
        start(6, torch.arange(10) % 2, 3)
