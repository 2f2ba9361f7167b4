"""BADGE, Cluster-Margin and power sampling, each against its definition."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from queries import query_of
from torch import Tensor

from alnb.acquire import STRATEGIES, scores
from alnb.acquire.bayes import BALD
from alnb.acquire.hybrid import ClusterMargin, Power, average_linkage, round_robin, seeds, uncertainty
from alnb.store import Stream


def points(m: int, classes: int = 5, width: int = 16, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Probabilities [M,C] and features [M,D] in float64."""
    generator = (Stream(seed) / "points").generator()
    draw = torch.randn(m, classes + width, generator=generator, dtype=torch.float64)
    return (2 * draw[:, :classes]).softmax(1), draw[:, classes:].relu()


def residuals_of(probs: Tensor) -> Tensor:
    return probs - torch.nn.functional.one_hot(probs.argmax(1), probs.shape[1])


def naive_seeds(residuals: Tensor, features: Tensor, uniform: list[float]) -> list[int]:
    """With every gradient, and every distance to every seed."""
    gradients = (residuals[:, :, None] * features[:, None]).flatten(1).numpy()
    chosen = [int(np.square(gradients).sum(1).argmax())]
    for draw in uniform[1:]:
        distance = np.min([np.square(gradients - gradients[c]).sum(1) for c in chosen], axis=0)
        total = np.cumsum(distance)
        chosen.append(int(np.searchsorted(total, draw * total[-1], side="right")))
    return chosen


@pytest.mark.parametrize(("m", "n"), [(50, 50), (2000, 20)])
def test_badge_draws_as_kmeans_plus_plus_among_all_gradients(m: int, n: int) -> None:
    probs, features = points(m)
    uniform = torch.rand(n, generator=Stream(1).generator(), dtype=torch.float64)
    assert seeds(residuals_of(probs), features, uniform).tolist() == naive_seeds(residuals_of(probs), features, uniform.tolist())


def test_scikit_activeml_draws_badge_with_the_origin_as_a_seed() -> None:
    """Its weights equal ours only where no point is nearer to the origin than to every seed; the paper has no origin."""
    pool = pytest.importorskip("skactiveml.pool")
    from skactiveml.base import SkactivemlClassifier

    probs, features = points(100)

    class Fixed(SkactivemlClassifier):  # type: ignore[misc]
        def fit(self, X: np.ndarray, y: np.ndarray) -> "Fixed":
            return self

        def predict_proba(self, X: np.ndarray) -> np.ndarray:
            return probs.numpy()

    unknown = np.full(100, np.nan)
    strategy = pool.Badge(random_state=3)
    theirs, weights = strategy.query(features.numpy(), unknown, Fixed(classes=range(5)), fit_clf=False, batch_size=4, return_utilities=True)
    gradients = (residuals_of(probs)[:, :, None] * features[:, None]).flatten(1).numpy()
    assert theirs[0] == int(seeds(residuals_of(probs), features, torch.zeros(1, dtype=torch.float64)))
    distance = np.min([np.square(gradients - gradients[c]).sum(1) for c in theirs[:3]], axis=0)
    with_origin = np.minimum(distance, np.square(gradients).sum(1))
    free = ~np.isnan(weights[3])
    assert weights[3][free] == pytest.approx((with_origin / with_origin.sum())[free], abs=1e-12)
    assert (with_origin < distance).any()


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 12), st.integers(2, 4), st.integers(1, 3), st.integers(1, 4), st.floats(0, 1, exclude_max=True))
def test_seeds_differ_however_many_points_are_equal(different: int, classes: int, width: int, times: int, draw: float) -> None:
    probs, features = (x.repeat(times, 1).float() for x in points(different, classes, width))
    chosen = seeds(residuals_of(probs), features, torch.full((len(features),), draw, dtype=torch.float64)).tolist()
    assert sorted(chosen) == list(range(len(features)))
    gradients = (residuals_of(probs)[:, :, None] * features[:, None]).flatten(1)
    distinct = len(gradients[gradients.norm(dim=1) > 0].unique(dim=0))
    first = gradients[chosen[:distinct]]
    assert len(first.unique(dim=0)) == distinct  # no equal point before all that differ


def test_seeds_fill_by_position_where_all_gradients_are_zero() -> None:
    uniform = torch.full((4,), 0.7, dtype=torch.float64)
    assert seeds(torch.zeros(6, 3), torch.ones(6, 2), uniform).tolist() == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="7 seeds of 6"):
        seeds(torch.zeros(6, 3), torch.ones(6, 2), torch.zeros(7))


def test_badge_asks_for_the_largest_gradient_first() -> None:
    query = query_of(5)
    residuals, features = residuals_of(query.log_probs.exp()), query.features[query.candidates]
    assert STRATEGIES["badge"](query)[0] == query.candidates[(residuals.norm(dim=1) * features.norm(dim=1)).argmax()]


def naive_round_robin(clusters: list[int], n: int, order: list[int]) -> list[int]:
    members = [[row for row in order if clusters[row] == c] for c in range(max(clusters) + 1)]
    members.sort(key=len)
    chosen: list[int] = []
    while len(chosen) < n:
        for rows in members:
            if rows and len(chosen) < n:
                chosen.append(rows.pop(0))
    return chosen


@given(st.lists(st.integers(0, 4), min_size=1, max_size=30), st.integers(0, 99), st.data())
def test_round_robin_visits_small_clusters_first(labels: list[int], seed: int, data: st.DataObject) -> None:
    n = data.draw(st.integers(1, len(labels)))
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed)).tolist()
    chosen = round_robin(torch.tensor(labels), n, torch.Generator().manual_seed(seed))
    assert chosen.tolist() == naive_round_robin(labels, n, order)


def test_average_linkage_is_that_of_scikit_learn() -> None:
    from sklearn.cluster import AgglomerativeClustering
    from sklearn.metrics import adjusted_rand_score

    features = points(200)[1]
    theirs = AgglomerativeClustering(20, linkage="average").fit_predict(features.numpy())
    assert adjusted_rand_score(average_linkage(features, 20).numpy(), theirs) == 1
    assert average_linkage(features[:1], 1).tolist() == [0]


def test_cluster_margin_asks_for_small_margins_alone() -> None:
    query = query_of(8)
    near = query.candidates[scores.top(-scores.margin(query.log_probs), 10)]  # 1.25 times 8
    chosen = ClusterMargin(factor=1.25)(query)
    assert set(chosen.tolist()) < set(near.tolist())
    assert ClusterMargin(most=1)(query).tolist() == chosen.tolist()  # never fewer than 1.25 n
    with pytest.raises(ValueError, match=r"factor is 1\.2:"):
        ClusterMargin(factor=1.2)


def test_power_draws_in_proportion_to_the_power_of_the_score() -> None:
    """The first pick has probability s^beta / sum s^beta."""
    query, counts = query_of(1), torch.zeros(60)
    score = uncertainty(query)
    for seed in range(1000):
        counts[Power(lambda _: score, beta=2.0)(replace(query, stream=Stream(seed)))] += 1
    expected = 1000 * score.square() / score.square().sum()
    deviation = (counts[query.candidates] - expected).square() / expected
    assert float(deviation.sum()) < 90  # chi-squared with 49 degrees of freedom exceeds it in 3 of 10,000


def test_power_of_any_score_and_its_limits() -> None:
    query = query_of()
    bald = BALD()
    assert Power(bald.score, beta=1e6)(query).tolist() == bald(query).tolist()
    assert Power(lambda q: torch.zeros(len(q.candidates)))(query).tolist() == query.candidates[:7].tolist()
    with pytest.raises(ValueError, match=r"Power\.beta is 0"):
        Power(beta=0)
