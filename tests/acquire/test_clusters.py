"""Clusters: k-means, and the points that k-means and TypiClust pick."""

from dataclasses import replace

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from queries import query_of
from test_cover import KINDS, features, mask
from threadpoolctl import threadpool_limits
from torch import Tensor

from alnb.acquire import STRATEGIES, clusters
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


# ---- k-means -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("few", [0, 50])
def test_every_point_is_in_the_nearest_cluster(kind: str, few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """By both algorithms, in as many threads as there are; of four points that differ there are four clusters, without a warning."""
    monkeypatch.setattr(clusters, "FEW", few)
    x = features(kind, 300, 8)
    labels, centres = clusters.clustered(x, 5)
    assert len(centres) == (4 if kind == "few" else 5)
    nearest = torch.cdist(x, centres).square()
    assert nearest.gather(1, labels[:, None])[:, 0].tolist() == pytest.approx(nearest.amin(1).tolist(), abs=1e-4)
    torch.set_num_threads(2)
    try:
        with threadpool_limits(2):
            again = clusters.clustered(x, 5)
    finally:
        torch.set_num_threads(1)
    assert again[0].equal(labels) and again[1].equal(centres)


# ---- TypiClust -----------------------------------------------------------------------------------------------------------------


def naive_typical(x: Tensor, covered: Tensor, n: int, seed: int) -> list[int]:
    """As TypiClust's code visits clusters, one pick at a time, with the typicality of the first visit."""
    labels = clusters.clustered(x, min(int(covered.sum()) + n, 500), seed)[0]
    names = [c for c in labels.unique().tolist() if (labels == c).sum() > 5 and ((labels == c) & ~covered).any()]
    names.sort(key=lambda c: (int((covered & (labels == c)).sum()), -int((labels == c).sum())))
    typicality = {}
    for c in names:
        members = ((labels == c) & ~covered).nonzero()[:, 0].tolist()
        for i in members:
            square = sorted(float((x[i].double() - x[j].double()).square().sum()) for j in members if j != i)[: min(20, len(members) // 2)]
            typicality[i] = (c, 1 / (sum(square) / max(len(square), 1) + 1e-5))
    picks: list[int] = []
    while len(picks) < min(n, len(typicality)):
        for c in names:
            rest = [i for i, (cluster, _) in typicality.items() if cluster == c and i not in picks]
            if rest and len(picks) < n:
                picks.append(max(rest, key=lambda i: (typicality[i][1], -i)))
    return picks


@pytest.mark.parametrize("known", [0, 3, 30])
@pytest.mark.parametrize("n", [1, 9, 40])
def test_typical_points_are_those_of_the_code(known: int, n: int) -> None:
    x, covered = features("clustered", 200, 6), mask(200, range(known))
    expected = naive_typical(x, covered, n, 3)
    picks = clusters.typical(x, covered, n, 3).tolist()
    assert picks[: len(expected)] == expected and len(set(picks)) == n and not covered[picks].any()


def test_typical_points_are_those_of_scikit_activeml() -> None:
    """Its typicality is of 5 neighbours, by distances, and counts the point itself; the middle of a star is the most typical by both."""
    centres, sizes = 20 * torch.eye(4, 64), (30, 26, 22, 18)
    stars = []
    for centre, size in zip(centres, sizes, strict=True):
        rays = torch.nn.functional.normalize(torch.randn(size, 64, generator=(Stream(0) / size).generator()), dim=1)
        stars.append(torch.cat([centre[None], centre + rays]))
    x, covered = torch.cat(stars), mask(100, [5])
    labels = numpy.where(covered.numpy(), 0.0, numpy.nan)
    theirs = pytest.importorskip("skactiveml.pool").TypiClust(random_state=0).query(x.numpy(), labels, batch_size=3)
    assert clusters.typical(x, covered, 3).tolist() == theirs.tolist() == [31, 58, 81]


@given(st.sampled_from(KINDS), st.integers(1, 30), st.data())
@settings(deadline=None, max_examples=30)
def test_any_number_of_typical_points_can_be_had(kind: str, N: int, data: st.DataObject) -> None:
    covered = mask(N, data.draw(st.lists(st.integers(0, N - 1), max_size=N)))
    n = data.draw(st.integers(0, int((~covered).sum())))
    picks = clusters.typical(features(kind, N, 3), covered, n).tolist()
    assert len(set(picks)) == n and not covered[picks].any()


def test_tcm_is_typiclust_first_and_margin_later() -> None:
    query = query_of()
    for cycle, name in ((0, "typiclust"), (2, "typiclust"), (3, "margin")):
        at = replace(query, cycle=cycle)
        assert STRATEGIES["tcm"](at).equal(STRATEGIES[name](at))
    with pytest.raises(ValueError, match=r"TCM\.cycles.*0"):
        clusters.TCM(0)


@pytest.mark.gpu
def test_the_gpu_clusters_as_well() -> None:
    x = torch.eye(3)[torch.arange(2000) % 3] + 0.01 * torch.randn(2000, 3, generator=Stream().generator())
    labels = clusters.clustered(x.to("cuda"), 3)[0].cpu()
    assert labels.equal(clusters.clustered(x, 3)[0])
    assert clusters.typical(x.to("cuda"), mask(2000, [1]).to("cuda"), 20).cpu().unique().numel() == 20
