"""Coverage against the textbook: one full scan of all gains per pick, in float64, with the same rule for ties."""

from dataclasses import replace

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from queries import query_of
from skactiveml.pool import ProbCover as TheirProbCover
from test_cover import KINDS, features, mask
from torch import Tensor
from torch.nn import functional

from alnb.acquire import coverage
from alnb.acquire.coverage import DCoM, Herding, ProbCover
from alnb.acquire.scores import margin


def unit(kind: str, N: int, D: int, seed: int = 0) -> Tensor:
    return functional.normalize(features(kind, N, D, seed), dim=1)


def pairs(x: Tensor) -> Tensor:
    """Squared distances, float64 [N, N], by differences."""
    return torch.cdist(x.double(), x.double(), compute_mode="donot_use_mm_for_euclid_dist").square()


def naive(similar: Tensor, covered: Tensor, n: int, weights: Tensor, tie: float) -> tuple[list[int], list[float]]:
    """The lowest index of the largest gains, one full scan per pick. Picks, and the gain of each."""
    best = similar[covered].amax(0) if covered.any() else torch.zeros(len(similar), dtype=torch.float64)
    weights, free, picks, gains = weights.double() * ~covered, ~covered, [], []
    for _ in range(n):
        gain = ((similar - best).clamp(min=0) @ weights).masked_fill(~free, -1)
        picks.append(int((gain >= gain.amax() * (1 - tie)).nonzero()[0, 0]) if gain.amax() > 0 else int(free.nonzero()[0, 0]))
        gains.append(float(gain[picks[-1]]))
        free = free.index_fill(0, torch.tensor(picks), False)
        best = best.maximum(similar[picks[-1]])
    return picks, gains


def objective(similar: Tensor, covered: Tensor, picks: list[int], weights: Tensor) -> list[float]:
    """The weighted coverage of the uncovered points after each pick."""
    best = similar[covered].amax(0) if covered.any() else torch.zeros(len(similar), dtype=torch.float64)
    values = []
    for pick in picks:
        best = best.maximum(similar[pick])
        values.append(float((best * weights)[~covered].sum()))
    return values


@pytest.mark.parametrize(("N", "D", "n"), [(600, 16, 150), pytest.param(2000, 32, 300, marks=pytest.mark.slow)])
@pytest.mark.parametrize("known", [0, 20])
@pytest.mark.parametrize("sigma", [1.0, 0.4])
def test_max_herding_picks_as_the_textbook(N: int, D: int, n: int, known: int, sigma: float) -> None:
    x, covered, weights = unit("clustered", N, D), mask(N, range(known)), torch.linspace(0, 1, N)
    similar = (pairs(x) / -(sigma**2)).exp()
    for weight in (None, weights):
        w = torch.ones(N) if weight is None else weight
        picks = coverage.max_herding(x, covered, n, sigma, weight).tolist()
        expected = naive(similar, covered, n, w, coverage.TIE * max(1, sigma**-2))[0]
        assert picks == expected or objective(similar, covered, picks, w) == pytest.approx(
            objective(similar, covered, expected, w), rel=1e-6
        )  # gains at the edge of a tie may round to either side, and later picks differ


@pytest.mark.parametrize("known", [0, 20])
@pytest.mark.parametrize("radius", [0.3, 0.7, 1.1])
@pytest.mark.parametrize("kind", ["gaussian", "clustered", "flat"])
def test_prob_cover_picks_as_the_textbook(known: int, radius: float, kind: str) -> None:
    """Exactly: gains are whole numbers. No pair of these features is nearer to the radius than rounding."""
    x, covered = unit(kind, 700, 12), mask(700, range(known))
    square = pairs(x)
    assert float((square - radius**2).abs().amin()) > 1e-6
    expected = naive((square < radius**2).double(), covered, 200, torch.ones(700), 0)[0]
    assert coverage.prob_cover(x, covered, 200, radius).tolist() == expected


@given(st.sampled_from(KINDS), st.integers(1, 40), st.integers(1, 5), st.sampled_from([0.25, 1.0]), st.data())
@settings(deadline=None, max_examples=60)
def test_any_features_are_covered_as_well(kind: str, N: int, D: int, sigma: float, data: st.DataObject) -> None:
    """With duplicates, exact ties and rows of length 0 the objective is that of the textbook within 1e-4, and it never falls."""
    x = unit(kind, N, D, data.draw(st.integers(0, 9)))
    covered = mask(N, data.draw(st.lists(st.integers(0, N - 1), max_size=N)))
    n, similar = data.draw(st.integers(0, int((~covered).sum()))), (pairs(x) / -(sigma**2)).exp()
    with pytest.MonkeyPatch.context() as patch:
        for name, size in (("BLOCK", 7), ("SCAN", 11), ("RING", 5), ("BATCH", 3)):
            patch.setattr(coverage, name, size)
        picks = coverage.max_herding(x, covered, n, sigma).tolist()
    assert len(set(picks)) == n and not covered[picks].any()
    values = objective(similar, covered, picks, torch.ones(N))
    assert values == sorted(values)
    expected = objective(similar, covered, naive(similar, covered, n, torch.ones(N), coverage.TIE)[0], torch.ones(N))
    assert values[-1:] == pytest.approx(expected[-1:], rel=1e-4, abs=1e-4)


def test_blocks_and_rings_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x, covered = unit("clustered", 500, 16), mask(500, range(10))
    herded, covering = coverage.max_herding(x, covered, 200, 0.5), coverage.prob_cover(x, covered, 200, 0.6)
    for name, size in (("BLOCK", 100), ("SCAN", 64), ("RING", 12), ("BATCH", 5)):
        monkeypatch.setattr(coverage, name, size)
    assert coverage.max_herding(x, covered, 200, 0.5).equal(herded)
    assert coverage.prob_cover(x, covered, 200, 0.6).equal(covering)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_equal_features_are_picked_in_order(value: float) -> None:
    x, covered = functional.normalize(torch.full((100, 4), value), dim=1), mask(100, [3])
    expected = [i for i in range(100) if i != 3]
    assert coverage.max_herding(x, covered, 99).tolist() == coverage.prob_cover(x, covered, 99, 0.5).tolist() == expected


def test_points_without_weight_are_chosen_last() -> None:
    x = unit("gaussian", 40, 8)
    weights = torch.zeros(40).index_fill_(0, torch.tensor([7, 30]), 1.0)
    picks = coverage.max_herding(x, mask(40, []), 40, 0.05, weights).tolist()
    assert picks[:2] == [7, 30] and picks[2:] == [i for i in range(40) if i not in (7, 30)]


@pytest.mark.parametrize("n", [-1, 4])
def test_refuses_more_than_there_is(n: int) -> None:
    with pytest.raises(ValueError, match=rf"n = {n} .*3 of 4"):
        coverage.max_herding(torch.zeros(4, 2), mask(4, [0]), n)


# ---- scikit-activeml -----------------------------------------------------------------------------------------------------------


def labels_of(covered: Tensor) -> numpy.ndarray:
    return numpy.where(covered.numpy(), 0.0, numpy.nan)


@pytest.mark.filterwarnings("ignore:The maximum purity")  # it is not computed for one radius
def test_each_pick_is_one_of_the_best_of_scikit_activeml() -> None:
    """It draws among ties at random, and we take the lowest index: so each of our picks has the largest of its utilities."""
    x, covered = unit("clustered", 300, 12), mask(300, range(5))
    for pick in coverage.prob_cover(x, covered, 30, 0.5).tolist():
        theirs = TheirProbCover(n_classes=2, deltas=[0.5], random_state=0)
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
    expected = coverage.max_herding(x, covered, query.n, sigma, weights) - 10
    assert Herding(uncertain=True)(query).tolist() == query.candidates[expected].tolist()
    plain = coverage.max_herding(x, covered, query.n) - 10
    assert Herding()(query).tolist() == query.candidates[plain].tolist()


def test_before_the_first_labels_herding_is_the_same_for_both() -> None:
    query = replace(query_of(5), net=None)
    assert Herding(uncertain=True)(query).equal(Herding()(query))


def test_radii_are_the_largest_pure_ones() -> None:
    x, labels = unit("clustered", 200, 6), torch.arange(200) % 3
    radii = torch.arange(0.05, 1.1, 0.05)
    result = coverage.pure_radii(x[20:], labels[20:], x[:20], labels[:20], 0.5, radii)
    distance = pairs(x).sqrt()[:20, 20:]
    for row, radius in enumerate(result.tolist()):
        pure = [
            r for r in radii.tolist() if not (near := distance[row] < r).any() or (labels[20:][near] == labels[row]).double().mean() >= 0.5
        ]
        assert radius == (max(pure) if pure else radii.tolist()[0])


@pytest.mark.parametrize("radius", [0.1, 0.3, 2.0])
def test_dcom_mixes_margin_and_coverage(radius: float) -> None:
    query = query_of()
    x = functional.normalize(query.features, dim=1)
    free, asked, largest = query.candidates, query.pool.asked, radius
    strategy, square = DCoM(radius, largest), pairs(x)
    covered = (square[asked][:, free] < radius**2).any(0)
    grid = torch.arange(0.05, largest + 1e-6, 0.05)
    radii = coverage.pure_radii(
        x[free], query.log_probs.argmax(1), x[asked], query.pool.labels[asked], 0.4 + 0.2 * float(covered.double().mean()), grid
    )
    covered = (square[asked][:, free] < radii.double().square()[:, None]).any(0)
    s = coverage.competence(float(covered.double().mean()))
    unsure = 1 - margin(query.log_probs).double()
    unsure = (unsure - unsure.min()) / (unsure.max() - unsure.min())
    near, expected = square[free][:, free] < float(radii.mean()) ** 2, []
    for _ in range(query.n):
        gain = (near & ~covered).sum(1).double().index_fill(0, torch.tensor(expected, dtype=torch.long), -torch.inf)
        expected.append(int((s * unsure + (1 - s) * gain / max(float(gain.max()), 1)).nan_to_num(-torch.inf).argmax()))
        covered = covered | near[expected[-1]]
    assert strategy(query).tolist() == free[expected].tolist()


def test_competence_rises_about_the_middle() -> None:
    assert coverage.competence(1.0) == 1 and coverage.competence(0.5) < 1e-6 and coverage.competence(0.8) == pytest.approx(0.5, abs=1e-3)


def test_dcom_before_the_first_labels_is_prob_cover() -> None:
    cold = replace(query_of(), net=None)
    assert DCoM()(cold).equal(ProbCover(radius=0.75)(cold))


@pytest.mark.gpu
@pytest.mark.parametrize("kind", KINDS)
def test_the_gpu_covers_as_well(kind: str) -> None:
    x, covered = unit(kind, 2000, 64), mask(2000, range(100))
    similar = pairs(x).neg().exp()
    picks = [coverage.max_herding(x.to(device), covered.to(device), 300).tolist() for device in ("cpu", "cuda")]
    ours, gpu = (objective(similar, covered, p, torch.ones(2000)) for p in picks)
    assert gpu == pytest.approx(ours, rel=1e-5)
