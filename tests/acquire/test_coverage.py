"""Coverage against the textbook: one full scan of all gains per pick, in float64, with the same rule for ties."""

import math
from dataclasses import replace

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from queries import query_of
from test_cover import KINDS, features, mask
from torch import Tensor
from torch.nn import functional

from alnb.acquire import coverage
from alnb.acquire.cover import squares
from alnb.acquire.coverage import DCoM, Herding, ProbCover
from alnb.acquire.scores import margin


def unit(kind: str, N: int, D: int, seed: int = 0) -> Tensor:
    return functional.normalize(features(kind, N, D, seed), dim=1)


def pairs(x: Tensor) -> Tensor:
    """Squared distances, float64 [N, N], by differences."""
    return torch.cdist(x.double(), x.double(), compute_mode="donot_use_mm_for_euclid_dist").square()


def herding(x: Tensor, covered: Tensor, n: int, sigma: float = 1.0, weights: Tensor | None = None) -> Tensor:
    return coverage.greedy(x, covered, n, coverage.gaussian(sigma), weights)


def covering(x: Tensor, covered: Tensor, n: int, radius: float) -> Tensor:
    return coverage.greedy(x, covered, n, coverage.ball(radius))


def naive(similar: Tensor, covered: Tensor, n: int, weights: Tensor) -> list[int]:
    """The lowest index of the largest gains, one full scan per pick."""
    best = similar[covered].amax(0) if covered.any() else torch.zeros(len(similar), dtype=torch.float64)
    weights, free, picks = weights.double() * ~covered, ~covered, []
    for _ in range(n):
        gain = ((similar - best).clamp(min=0) @ weights).masked_fill(~free, -torch.inf)
        picks.append(int((gain >= gain.amax() - coverage.TIE * float(weights.sum())).nonzero()[0, 0]))
        free = free.index_fill(0, torch.tensor(picks), False)
        best = best.maximum(similar[picks[-1]])
    return picks


@pytest.mark.parametrize(("N", "D", "n"), [(400, 16, 100), pytest.param(2000, 32, 300, marks=pytest.mark.slow)])
@pytest.mark.parametrize("known", [0, 20])
@pytest.mark.parametrize("sigma", [1.0, 0.4])
@pytest.mark.parametrize("weighted", [False, True])
def test_max_herding_picks_as_the_textbook(N: int, D: int, n: int, known: int, sigma: float, weighted: bool) -> None:
    x, covered, weights = unit("clustered", N, D), mask(N, range(known)), torch.linspace(0, 1, N) if weighted else torch.ones(N)
    expected = naive((pairs(x) / -(sigma**2)).exp(), covered, n, weights)
    assert herding(x, covered, n, sigma, weights if weighted else None).tolist() == expected


@pytest.mark.parametrize("known", [0, 20])
@pytest.mark.parametrize("radius", [0.3, 0.7, 1.1])
@pytest.mark.parametrize("kind", ["gaussian", "clustered", "flat"])
def test_prob_cover_picks_as_the_textbook(known: int, radius: float, kind: str) -> None:
    x, covered = unit(kind, 400, 12), mask(400, range(known))
    expected = naive((pairs(x) < radius**2).double(), covered, 100, torch.ones(400))
    assert covering(x, covered, 100, radius).tolist() == expected


@given(st.sampled_from(KINDS), st.integers(1, 25), st.integers(1, 5), st.sampled_from([0.25, 1.0]), st.data())
@settings(deadline=None, max_examples=15)
def test_any_features_are_covered_as_well(kind: str, N: int, D: int, sigma: float, data: st.DataObject) -> None:
    """With duplicates, exact ties and rows of length 0, and with blocks of all sizes."""
    x = unit(kind, N, D, data.draw(st.integers(0, 9)))
    covered = mask(N, data.draw(st.lists(st.integers(0, N - 1), max_size=N)))
    n, similar = data.draw(st.integers(0, int((~covered).sum()))), (pairs(x) / -(sigma**2)).exp()
    with pytest.MonkeyPatch.context() as patch:
        for name, size in (("BLOCK", 7), ("SCAN", 11), ("RING", 5), ("BATCH", 3)):
            patch.setattr(coverage, name, size)
        picks = herding(x, covered, n, sigma).tolist()
    assert picks == naive(similar, covered, n, torch.ones(N))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("D", [2, 512])
@pytest.mark.parametrize("kernel", [coverage.gaussian(0.3), coverage.gaussian(30.0), coverage.ball(0.7)])
def test_first_bounds_are_at_least_the_gains(kind: str, D: int, kernel: coverage.Kernel) -> None:
    """In float32, less than a quarter of the possible error of a square occurs: 0.16 of it at D = 2."""
    x, weights = unit(kind, 600, D), torch.linspace(0, 1, 600).double()
    square = pairs(x)
    error = (squares(x, x)[0] - square).abs() / squares(x, x)[1]
    assert float(error.amax()) < coverage.SLACK
    similar = kernel(square.clone())
    for cover in (torch.zeros(600).double(), similar[:300].amax(0)):
        lazy = coverage._Lazy(x, cover, kernel, weights)
        assert bool((lazy.bound >= (similar - cover).clamp(min=0) @ weights - 1e-12).all())


def test_blocks_and_rings_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x, covered = unit("clustered", 300, 16), mask(300, range(10))
    herded, covers = herding(x, covered, 80, 0.5), covering(x, covered, 80, 0.6)
    for name, size in (("BLOCK", 100), ("SCAN", 64), ("RING", 12), ("BATCH", 5)):
        monkeypatch.setattr(coverage, name, size)
    assert herding(x, covered, 80, 0.5).equal(herded)
    assert covering(x, covered, 80, 0.6).equal(covers)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_equal_features_are_picked_in_order(value: float) -> None:
    x, covered = functional.normalize(torch.full((100, 4), value), dim=1), mask(100, [3])
    expected = [i for i in range(100) if i != 3]
    assert herding(x, covered, 99).tolist() == covering(x, covered, 99, 0.5).tolist() == expected


def test_points_without_weight_are_chosen_last() -> None:
    x = unit("gaussian", 40, 8)
    weights = torch.zeros(40).index_fill_(0, torch.tensor([7, 30]), 1.0)
    picks = herding(x, mask(40, []), 40, 0.05, weights).tolist()
    assert picks[:2] == [7, 30] and picks[2:] == [i for i in range(40) if i not in (7, 30)]


@pytest.mark.parametrize("n", [-1, 4])
def test_refuses_more_than_there_is(n: int) -> None:
    with pytest.raises(ValueError, match=rf"n = {n} .*3 of 4"):
        herding(torch.zeros(4, 2), mask(4, [0]), n)


# ---- scikit-activeml -----------------------------------------------------------------------------------------------------------


def labels_of(covered: Tensor) -> numpy.ndarray:
    return numpy.where(covered.numpy(), 0.0, numpy.nan)


@pytest.mark.filterwarnings("ignore:The maximum purity")  # it is not computed for one radius
def test_each_pick_is_one_of_the_best_of_scikit_activeml() -> None:
    """It draws among ties at random, and we take the lowest index: so each of our picks has the largest of its utilities."""
    x, covered = unit("clustered", 300, 12), mask(300, range(5))
    for pick in covering(x, covered, 30, 0.5).tolist():
        theirs = pytest.importorskip("skactiveml.pool").ProbCover(n_classes=2, deltas=[0.5], random_state=0)
        utilities = theirs.query(x.double().numpy(), labels_of(covered), return_utilities=True)[1][0]
        assert pick == int(numpy.nanargmax(utilities))
        covered[pick] = True


def test_balls_are_pure_up_to_the_radius() -> None:
    """The share of pure balls falls below the purity just above it."""
    x = unit("clustered", 300, 12)
    clusters = torch.arange(300) % 3
    radius, square = coverage.pure_radius(x, clusters, 0.95), pairs(x)
    impure = clusters[:, None] != clusters
    for delta, pure in ((radius - 1e-4, True), (radius + 1e-2, False)):
        share = 1 - float(((square.sqrt() <= delta) & impure).any(1).double().mean())
        assert (share >= 0.95) == pure
    assert coverage.pure_radius(x, torch.zeros(300).long(), 0.95) == torch.inf


# ---- strategies ----------------------------------------------------------------------------------------------------------------


def test_uherding_weighs_by_margin_and_narrows_the_kernel() -> None:
    query = query_of()
    x = functional.normalize(query.features[torch.cat([query.pool.asked, query.candidates])], dim=1)
    square, covered = pairs(x), mask(60, range(10))
    sigma = min(1.0, float(square[:10, :10][square[:10, :10] > 1e-6].amin().sqrt()))
    weights = torch.cat([torch.zeros(10), 1 - margin(query.log_probs)])
    expected = herding(x, covered, query.n, sigma, weights) - 10
    assert Herding(uncertain=True)(query).tolist() == query.candidates[expected].tolist()
    plain = herding(x, covered, query.n) - 10
    assert Herding()(query).tolist() == query.candidates[plain].tolist()


def test_before_the_first_labels_herding_is_the_same_for_both() -> None:
    query = replace(query_of(5), net=None)
    assert Herding(uncertain=True)(query).equal(Herding()(query))


def test_radii_are_the_largest_pure_ones() -> None:
    x, labels = unit("clustered", 200, 6), torch.arange(200) % 3
    radii = [0.05 * step for step in range(1, 22)]
    result, covers = coverage.pure_radii(x[20:], labels[20:], x[:20], labels[:20], 0.5, radii)
    distance = pairs(x).sqrt()[:20, 20:]
    for row, radius in enumerate(result.tolist()):
        pure = [r for r in radii if not (near := distance[row] < r).any() or (labels[20:][near] == labels[row]).double().mean() >= 0.5]
        assert radius == pytest.approx(max(pure) if pure else radii[0])
    assert covers.equal((distance < result[:, None]).any(0))


@pytest.mark.parametrize("radius", [0.1, 0.3, 2.0])
def test_dcom_mixes_margin_and_coverage(radius: float) -> None:
    query = query_of()
    x = functional.normalize(query.features, dim=1)
    free, asked, largest = query.candidates, query.pool.asked, radius
    strategy, square = DCoM(radius, largest), pairs(x)
    covered = (square[asked][:, free] < radius**2).any(0)
    grid, threshold = [0.05 * step for step in range(1, round(largest / 0.05) + 1)], 0.4 + 0.2 * float(covered.double().mean())
    labels = query.pool.labels[asked]
    radii, covered = coverage.pure_radii(x[free], query.log_probs.argmax(1), x[asked], labels, threshold, grid)
    s = (1 + math.exp(-10)) / (1 + math.exp(-50 * (float(covered.double().mean()) - 0.8)))
    unsure = 1 - margin(query.log_probs).double()
    unsure = (unsure - unsure.min()) / (unsure.max() - unsure.min())
    expected: list[int] = []
    near = square[free][:, free] < float(radii.mean()) ** 2
    for _ in range(query.n):
        gain = (near & ~covered).sum(1).double().index_fill(0, torch.tensor(expected, dtype=torch.long), -torch.inf)
        expected.append(int((s * unsure + (1 - s) * gain / max(float(gain.max()), 1)).nan_to_num(-torch.inf).argmax()))
        covered = covered | near[expected[-1]]
    assert strategy(query).tolist() == free[expected].tolist()


def test_dcom_before_the_first_labels_is_prob_cover() -> None:
    cold = replace(query_of(), net=None)
    assert DCoM()(cold).equal(ProbCover(radius=0.75)(cold))


@pytest.mark.gpu
@pytest.mark.parametrize("kind", KINDS)
def test_the_gpu_covers_as_well(kind: str) -> None:
    x, covered = unit(kind, 2000, 64), mask(2000, range(100))
    assert herding(x.to("cuda"), covered.to("cuda"), 300).cpu().equal(herding(x, covered, 300))
