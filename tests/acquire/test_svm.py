import functools
import itertools
import math
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from conftest import images_of
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from sklearn.preprocessing import normalize
from sklearn.svm import SVC, LinearSVC
from torch import Tensor

from alnb.acquire import svm as module
from alnb.acquire.query import Pool, Query, check_query
from alnb.acquire.svm import SvmMargin, fit_svm, one_versus_rest, svm_accuracy, top_two
from alnb.store import Stream


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=Stream(seed, ("svm", *shape)).generator(), dtype=torch.float64)


def blobs(L: int, D: int, classes: tuple[int, ...], seed: int = 0) -> tuple[Tensor, Tensor]:
    """Features float32 [L,D] around one centre for each class, not separable, and labels i64 [L]."""
    labels = torch.tensor(classes)[torch.arange(L) % len(classes)]
    return (normal(max(classes) + 1, D, seed=seed)[labels] + normal(L, D, seed=seed + 1)).float(), labels


def query_of(features: Tensor, labelled: dict[int, int], n: int, *, seed: int = 0, candidates: Tensor | None = None) -> Query:
    pool = Pool.of(images_of(len(features)).images)
    pool = pool.acquire(torch.tensor(list(labelled)), torch.tensor(list(labelled.values())), 0)
    query = Query(pool, None, pool.unlabelled if candidates is None else candidates, n, Stream(seed) / "query")
    vars(query)["features"] = features
    return query


# ---- the margin ------------------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(M=st.integers(0, 12), K=st.integers(2, 6), seed=st.integers(0, 99), ties=st.booleans())
def test_margins_equal_naive_loops(M: int, K: int, seed: int, ties: bool) -> None:
    scores = 2 * normal(M, K, seed=seed)
    scores = scores.round() if ties else scores
    ranked = [sorted(row, reverse=True) for row in scores.tolist()]
    torch.testing.assert_close(top_two(scores), torch.tensor([row[0] - row[1] for row in ranked], dtype=torch.float64))


def test_a_margin_between_classes_needs_two() -> None:
    with pytest.raises(ValueError, match=r"\(3, 1\)"):
        top_two(torch.zeros(3, 1))


# ---- the machine -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("L", "dual"), [(30, True), (31, False)])  # of 30 features
def test_linear_svc_is_scikit_learns(L: int, dual: bool) -> None:
    features, labels = blobs(L, 30, (0, 3, 7))
    other = normal(50, 30).float()
    x, z = normalize(features.double().numpy()), normalize(other.double().numpy())
    model = LinearSVC(C=5, dual=dual, max_iter=5000, random_state=0).fit(x, labels.numpy())
    svm = fit_svm(features, labels)
    torch.testing.assert_close(svm.weights, torch.from_numpy(model.coef_), rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(svm.bias, torch.from_numpy(model.intercept_), rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(svm.scores(other), torch.from_numpy(model.decision_function(z)), rtol=1e-6, atol=1e-9)
    assert svm.predict(other).tolist() == model.predict(z).tolist() and svm.classes.tolist() == [0, 3, 7]


@pytest.mark.parametrize("classes", [(0, 2), (0, 1, 4), (0, 1, 2, 3, 5)])
@pytest.mark.parametrize("L", [15, 60])
def test_svc_is_scikit_learns(L: int, classes: tuple[int, ...]) -> None:
    features, labels = blobs(L, 6, classes)
    reference = SVC(C=5, kernel="linear", decision_function_shape="ovr", break_ties=len(classes) > 2)
    reference.fit(features.double().numpy(), labels.numpy())
    test = normal(200, 6, seed=7)
    expected = torch.from_numpy(reference.decision_function(test.numpy()))
    expected = torch.stack([-expected, expected], 1) if len(classes) == 2 else expected
    svm = fit_svm(features, labels, estimator="svc")
    torch.testing.assert_close(svm.scores(test), expected, rtol=1e-9, atol=1e-9)
    assert svm.predict(test).tolist() == reference.predict(test.numpy()).tolist()
    linear = fit_svm(features, labels)
    assert not torch.allclose(linear.scores(test), expected, rtol=0.1)


@given(M=st.integers(1, 5), K=st.integers(2, 6), seed=st.integers(0, 99))
def test_wins_of_pairs_against_loops(M: int, K: int, seed: int) -> None:
    values = normal(M, K * (K - 1) // 2, seed=seed)
    for row, scores in zip(values.tolist(), one_versus_rest(values, K).tolist(), strict=True):
        wins, sums = [0] * K, [0.0] * K
        for (i, j), value in zip(itertools.combinations(range(K), 2), row, strict=True):
            wins[i if value >= 0 else j] += 1
            sums[i], sums[j] = sums[i] + value, sums[j] - value
        assert scores == pytest.approx(sums if K == 2 else [w + s / (3 * abs(s) + 3) for w, s in zip(wins, sums, strict=True)])


def test_two_classes_have_two_opposite_rows() -> None:
    features, labels = blobs(40, 5, (2, 6))
    x = normalize(features.double().numpy())
    model = LinearSVC(C=5, dual=False, random_state=0)
    expected = torch.from_numpy(model.fit(x, labels.numpy()).decision_function(x))
    svm = fit_svm(features, labels)
    assert svm.classes.tolist() == [2, 6] and svm.weights.shape == (2, 5) and svm.bias.shape == (2,)
    torch.testing.assert_close(svm.scores(features), torch.stack([-expected, expected], dim=1), rtol=1e-6, atol=1e-6)
    assert svm.predict(features).tolist() == model.predict(x).tolist()


@settings(deadline=None, max_examples=25)
@given(
    classes=st.sets(st.integers(0, 20), min_size=2, max_size=5),
    D=st.integers(1, 6),
    more=st.integers(0, 9),
    M=st.integers(0, 9),
    seed=st.integers(0, 9),
)
def test_shapes_and_absent_classes(classes: set[int], D: int, more: int, M: int, seed: int) -> None:
    features, labels = blobs(len(classes) + more, D, tuple(classes), seed)
    svm = fit_svm(features, labels)
    K = len(classes)
    assert svm.classes.tolist() == sorted(classes) and svm.classes.dtype == torch.int64
    assert svm.weights.shape == (K, D) and svm.bias.shape == (K,)
    other = normal(M, D, seed=seed).float()
    scores, predicted = svm.scores(other), svm.predict(other)
    assert scores.shape == (M, K) and scores.dtype == torch.float64 and scores.isfinite().all()
    assert predicted.shape == (M,) and predicted.dtype == torch.int64 and set(predicted.tolist()) <= classes
    torch.testing.assert_close(scores, module.unit_rows(other) @ svm.weights.T + svm.bias)


@settings(deadline=None, max_examples=25)
@given(factor=st.floats(1e-6, 1e6), seed=st.integers(0, 9))
def test_the_length_of_features_does_not_matter(factor: float, seed: int) -> None:
    features, labels = blobs(40, 5, (0, 1, 2), seed)
    features, other = features.double(), normal(100, 5, seed=seed)
    lengths = normal(100, 1, seed=seed + 1).exp()
    expected, scaled = fit_svm(features, labels), fit_svm(factor * features, labels)
    torch.testing.assert_close(scaled.weights, expected.weights, rtol=1e-5, atol=1e-5)
    assert scaled.predict(factor * lengths * other).equal(expected.predict(other))


def test_dead_features_and_rows_of_zeros_stay_finite() -> None:
    features, labels = blobs(30, 6, (0, 1, 2))
    features = features.relu()
    features[:, 2], features[4] = 0.1, 0.0
    features[:, 3] = 0.0
    svm = fit_svm(features, labels)
    assert svm.scores(features).isfinite().all() and svm.weights[:, 3].abs().max() == 0


def test_rows_scored_in_blocks_are_all_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = blobs(30, 4, (0, 1, 2))
    svm = fit_svm(features, labels)
    expected = svm.scores(features)
    monkeypatch.setattr(module, "BLOCK", 7)
    torch.testing.assert_close(svm.scores(features), expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": torch.full((6,), 4)}, r"only class 4 among 6 labels"),
        ({"features": torch.zeros(0, 2), "labels": torch.zeros(0, dtype=torch.long)}, r"no class among 0 labels"),
        ({"features": torch.tensor([[0, 1]] * 4 + [[0, math.nan], [math.inf, 0]])}, r"row 4, and 1 more"),
        ({"labels": torch.tensor([0, 1, 2, -1, 0, -1])}, r"label of row 3 is -1"),
        ({"labels": torch.arange(5)}, r"6 rows of features, but labels \[5\]"),
        ({"C": 0.0}, r"C is 0.0"),
        ({"C": math.nan}, r"C is nan"),
        ({"estimator": "svm"}, r"estimator is 'svm': it must be one of linear_svc, svc"),
    ],
)
def test_fit_svm_refuses(change: dict[str, Any], message: str) -> None:
    arguments = {"features": torch.rand(6, 2, generator=Stream().generator()), "labels": torch.arange(6) % 3, **change}
    with pytest.raises(ValueError, match=f"fit_svm: .*{message}"):
        fit_svm(**arguments)


def test_without_convergence_the_last_solution_comes_with_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = blobs(40, 50, (0, 1, 2))
    expected = fit_svm(features, labels)
    monkeypatch.setattr(module, "ITERATIONS", 8000)
    assert fit_svm(features, labels).weights.equal(expected.weights)  # the limit alone changes nothing; a warning would be an error
    monkeypatch.setattr(module, "ITERATIONS", 2)
    with pytest.warns(RuntimeWarning, match=r"C = 5.0 on 40 labels, 50 features, .* 2 iterations") as seen:
        svm = fit_svm(features, labels)
    assert len(seen) == 1 and svm.weights.isfinite().all()


def test_accuracy_is_that_of_the_predictions() -> None:
    pixels, digits = load_digits(return_X_y=True)
    features, targets = torch.from_numpy(pixels).float(), torch.from_numpy(digits).long()
    labelled, test = torch.arange(200), torch.arange(200, 1797)
    accuracy = svm_accuracy(features[labelled], targets[labelled], features[test], targets[test], C=5.0)
    model = LinearSVC(C=5, dual=False, random_state=0).fit(normalize(pixels[:200]), digits[:200])
    assert accuracy == model.score(normalize(pixels[200:]), digits[200:]) and accuracy > 0.75
    few = labelled[targets[labelled] < 5]
    of_five = svm_accuracy(features[few], targets[few], features[test], targets[test])
    assert of_five <= float((targets[test] < 5).double().mean())  # a class without labels is always missed


def test_accuracy_refuses() -> None:
    features, labels = blobs(12, 2, (0, 1))
    with pytest.raises(ValueError, match=r"0 rows .* \[0\]"):
        svm_accuracy(features, labels, features[:0], labels[:0])
    with pytest.raises(ValueError, match=r"12 rows .* \[11\]"):
        svm_accuracy(features, labels, features, labels[:11])
    with pytest.raises(ValueError, match="test row 3, and 0 more"):
        svm_accuracy(features, labels, features.index_put((torch.tensor(3),), torch.tensor(math.nan)), labels)


# ---- the strategy ------------------------------------------------------------------------------------------------------------------


def two_sides(n: int = 80) -> tuple[Tensor, dict[int, int]]:
    """Points on a line from (-1, 0) to (1, 0), somewhat off it; the images at the left and right end are labelled 3 and 5."""
    features = torch.stack([torch.linspace(-1, 1, n), 0.05 * normal(n).float()], dim=1)
    return features, {i: 3 if i < n / 2 else 5 for i in (0, 1, 2, 3, n - 4, n - 3, n - 2, n - 1)}


def test_the_angle_decides() -> None:
    angle = torch.linspace(0.05, 1.5, 60)
    features = torch.stack([angle.cos(), angle.sin()], dim=1) * torch.rand(60, 1, generator=Stream().generator()).add(0.1)
    chosen = SvmMargin()(query_of(features, {0: 0, 1: 0, 58: 1, 59: 1}, 6))
    assert float((angle[chosen] - angle[[0, 1, 58, 59]].mean()).abs().max()) < 0.2


@pytest.mark.parametrize("fit", [{}, {"C": 0.1}, {"estimator": "svc"}], ids=str)
def test_candidates_are_ranked_by_their_margins(fit: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK", 16)  # so that there are several blocks of candidates
    features, labels = blobs(80, 5, (0, 1, 2, 3))
    labelled = {i: int(labels[i]) for i in range(0, 80, 3)}
    candidates = torch.tensor([i for i in range(80) if i not in labelled and i % 7])
    query = query_of(features, labelled, 9, candidates=candidates)
    known = query.pool.labelled
    svm = fit_svm(features[known], query.pool.labels[known], **fit)
    margins = top_two(svm.scores(features[candidates]))
    chosen = SvmMargin(**fit)(query)
    check_query(chosen, query, "it")
    assert chosen.tolist() == candidates[margins.sort(stable=True).indices[:9]].tolist()
    assert len(svm.classes) == 4


def test_same_query_same_answer() -> None:
    features, labels = blobs(80, 100, (0, 1, 2, 3))  # fewer labels than features: the dual, which shuffles
    labelled = {i: int(labels[i]) for i in range(20)}
    np.random.seed(1)
    torch.manual_seed(1)
    first = SvmMargin()(query_of(features, labelled, 10))
    np.random.seed(2)
    torch.manual_seed(2)
    assert first.equal(SvmMargin()(query_of(features.clone(), labelled, 10, seed=5)))


def test_one_class_gives_a_random_choice_and_a_warning() -> None:
    features, _ = two_sides()

    def chosen(seed: int) -> Tensor:
        query = query_of(features, {3: 7, 9: 7}, 6, seed=seed)
        with pytest.warns(RuntimeWarning, match=r"2 labels, of the classes \[7\].*at random"):
            indices = SvmMargin()(query)
        check_query(indices, query, "it")
        return indices

    assert chosen(0).equal(chosen(0)) and not chosen(0).equal(chosen(1))
    assert len(torch.cat([chosen(seed) for seed in range(120)]).unique()) == 78  # every candidate is chosen sometimes


def test_images_that_were_asked_for_without_an_answer_are_not_fitted() -> None:
    features, labelled = two_sides()
    asked = query_of(features, {**labelled, 39: -1, 40: -1}, 4)
    features[[39, 40]] = math.nan  # using them would be an error
    assert set(SvmMargin()(asked).tolist()) < set(range(20, 60)) - {39, 40}


@pytest.mark.parametrize("broken", [3, 55])  # labelled, and a candidate
def test_features_that_are_not_finite_name_the_image(broken: int) -> None:
    features, labelled = two_sides()
    features[broken, 1] = math.inf
    with pytest.raises(ValueError, match=rf"SvmMargin: image {broken}, and 0 more"):
        SvmMargin()(query_of(features, labelled, 4))


@pytest.mark.parametrize("C", [-1.0, 0.0, math.inf])
def test_c_is_checked(C: float) -> None:
    with pytest.raises(ValueError, match=rf"SvmMargin\.C is {C}"):
        SvmMargin(C)


@pytest.mark.gpu
def test_same_on_the_gpu() -> None:
    features, labels = blobs(80, 100, (0, 1, 2, 3))
    query = functools.partial(query_of, labelled={i: int(labels[i]) for i in range(20)}, n=10)
    assert SvmMargin()(query(features.to("cuda"))).equal(SvmMargin()(query(features)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        svm = fit_svm(features.to("cuda"), labels.to("cuda"))
    assert svm.predict(features.to("cuda")).device.type == svm.weights.device.type == "cpu"
