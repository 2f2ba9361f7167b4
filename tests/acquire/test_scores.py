import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats  # type: ignore[import-untyped]
from torch import Tensor

from alnb.acquire import scores
from alnb.store import Stream

MAPS = st.tuples(st.integers(1, 3), st.integers(2, 4), st.integers(1, 3), st.integers(1, 4))
SHAPES = st.tuples(st.integers(1, 5), st.integers(2, 6)) | MAPS


def log_probs(shape: tuple[int, ...], seed: int = 0, spread: float = 3.0) -> Tensor:
    return (spread * torch.randn(shape, generator=(Stream(seed) / "scores").generator(), dtype=torch.float64)).log_softmax(1)


def each(values: Any, function: Callable[[Any], float]) -> Tensor:
    """Naive: the function of the probabilities, one place at a time."""
    rows = np.moveaxis(values.exp().numpy(), 1, -1)
    flat = [function(row) for row in rows.reshape(-1, rows.shape[-1])]
    return torch.tensor(flat, dtype=values.dtype).view(rows.shape[:-1])


@settings(deadline=None)
@given(SHAPES, st.integers(0, 99))
def test_scores_equal_naive_loops(shape: tuple[int, ...], seed: int) -> None:
    values = log_probs(shape, seed)
    torch.testing.assert_close(scores.entropy(values), each(values, stats.entropy))
    torch.testing.assert_close(scores.entropy(values), each(values, lambda p: -sum(x * math.log(x) for x in p)))
    torch.testing.assert_close(scores.least_confidence(values), each(values, lambda p: 1 - max(p)))
    torch.testing.assert_close(scores.margin(values), each(values, lambda p: sorted(p)[-1] - sorted(p)[-2]))


@settings(deadline=None)
@given(SHAPES, st.integers(0, 99))
def test_scores_stay_in_their_ranges(shape: tuple[int, ...], seed: int) -> None:
    values, classes = log_probs(shape, seed).float(), shape[1]
    assert (scores.entropy(values) >= 0).all() and (scores.entropy(values) <= math.log(classes) + 1e-6).all()
    assert (scores.least_confidence(values) >= 0).all() and (scores.least_confidence(values) <= 1 - 1 / classes + 1e-6).all()
    assert (scores.margin(values) >= 0).all() and (scores.margin(values) <= 1).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_an_impossible_class_adds_nothing(dtype: torch.dtype) -> None:
    certain, half = [0.0, -math.inf, -math.inf], [math.log(0.5), math.log(0.5), -math.inf]
    values = torch.tensor([certain, half], dtype=dtype)
    atol = 4 * torch.finfo(dtype).eps
    torch.testing.assert_close(scores.entropy(values), torch.tensor([0, math.log(2)], dtype=dtype), atol=atol, rtol=0)
    torch.testing.assert_close(scores.least_confidence(values), torch.tensor([0, 0.5], dtype=dtype), atol=atol, rtol=0)
    torch.testing.assert_close(scores.margin(values), torch.tensor([1, 0], dtype=dtype), atol=atol, rtol=0)


def test_uniform_is_the_most_uncertain() -> None:
    values = torch.full((1, 10), -math.log(10), dtype=torch.float64)
    assert scores.entropy(values).item() == pytest.approx(math.log(10))
    assert scores.least_confidence(values).item() == pytest.approx(0.9)
    assert scores.margin(values).item() == 0


def test_very_certain_images_keep_their_order() -> None:
    values = torch.tensor([[-1e-13, -30], [-2e-9, -20], [-1e-11, -25]])
    assert scores.top(scores.least_confidence(values), 3).tolist() == [1, 2, 0]


def test_a_margin_needs_two_classes() -> None:
    with pytest.raises(ValueError, match=r"two classes on axis 1.*\(3, 1\)"):
        scores.margin(torch.zeros(3, 1))


def test_per_image_is_the_mean_of_what_is_left() -> None:
    maps = torch.rand(3, 4, 5, generator=Stream().generator())
    torch.testing.assert_close(scores.per_image(maps), torch.stack([image.mean() for image in maps]))
    assert scores.per_image(maps[:, 0, 0]).equal(maps[:, 0, 0])


@settings(deadline=None)
@given(st.lists(st.integers(-3, 3), max_size=40), st.data())
def test_top_is_a_stable_descending_sort(values: Any, data: st.DataObject) -> None:
    n = data.draw(st.integers(0, len(values)))
    expected = sorted(range(len(values)), key=lambda i: (-values[i], i))[:n]
    positions = scores.top(torch.tensor(values, dtype=torch.float32), n)
    assert positions.tolist() == expected and positions.dtype == torch.int64


def test_top_takes_infinities_in_order() -> None:
    assert scores.top(torch.tensor([-math.inf, 1, math.inf, -math.inf]), 4).tolist() == [2, 1, 0, 3]


@pytest.mark.parametrize(
    ("values", "n", "message"),
    [
        (torch.zeros(3), 4, r"n = 4 of 3 candidates"),
        (torch.zeros(3), -1, r"n = -1 of 3 candidates"),
        (torch.zeros(3, 2), 1, r"\(3, 2\).*per_image"),
        (torch.tensor([0, math.nan, 1, math.nan]), 1, r"2 of 4 scores are NaN, the first at position 1"),
    ],
)
def test_top_refuses(values: Any, n: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        scores.top(values, n)


@pytest.mark.gpu
def test_top_is_the_same_on_the_gpu() -> None:
    values = torch.randint(9, (10_000,), generator=Stream().generator()).float()
    assert scores.top(values.to("cuda"), 1000).cpu().equal(scores.top(values, 1000))
