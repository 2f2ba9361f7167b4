import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_cover import KINDS, features

from alnb.acquire import clusters
from alnb.store import Stream


def test_central_points_are_one_of_each_cluster_the_largest_first() -> None:
    sizes = torch.tensor([10, 40, 25])
    centres = torch.tensor([[0.0, 0.0], [50.0, 0.0], [0.0, 50.0]])
    cluster = torch.repeat_interleave(torch.arange(3), sizes)
    x = centres[cluster] + torch.randn(75, 2, generator=Stream().generator())
    points = clusters.central(x, 3)
    assert cluster[points].tolist() == [1, 2, 0] and points.dtype == torch.int64
    for point, c in zip(points.tolist(), (1, 2, 0), strict=True):
        distance = (x - x[cluster == c].mean(dim=0)).norm(dim=1)
        assert point == int(distance.argmin())
    assert clusters.central(x, 3, seed=2**62).equal(points)


@given(st.sampled_from(KINDS), st.integers(1, 20), st.integers(1, 3), st.data())
@settings(deadline=None, max_examples=30)
def test_central_points_are_all_different(kind: str, N: int, D: int, data: st.DataObject) -> None:
    n = data.draw(st.integers(0, N))
    points = clusters.central(features(kind, N, D), n)
    assert len(set(points.tolist())) == len(points) == n


def test_equal_points_are_central_in_order() -> None:
    assert clusters.central(torch.zeros(5, 2), 4).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("n", [-1, 6])
def test_central_refuses_more_than_there_is(n: int) -> None:
    with pytest.raises(ValueError, match=f"n = {n} .* of 5"):
        clusters.central(torch.zeros(5, 2), n)
