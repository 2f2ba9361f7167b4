import dataclasses
import functools
import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from conftest import images_of
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from sklearn.multiclass import OneVsRestClassifier
from sklearn.preprocessing import StandardScaler, normalize
from sklearn.svm import SVC, LinearSVC
from torch import Tensor

from alnb import store
from alnb.acquire import svm as module
from alnb.acquire.query import Pool, Query
from alnb.acquire.svm import RULES, SvmMargin, fit_svm, svm_accuracy
from alnb.acquire.query import check_query
from alnb.store import streams as rng


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=rng.generator(seed, "svm", *shape), dtype=torch.float64)


def blobs(L: int, D: int, classes: tuple[int, ...], seed: int = 0) -> tuple[Tensor, Tensor]:
    """Features float32 [L,D] around one centre for each class, not separable, and labels i64 [L]."""
    labels = torch.tensor(classes)[torch.arange(L) % len(classes)]
    return (normal(max(classes) + 1, D, seed=seed)[labels] + normal(L, D, seed=seed + 1)).float(), labels


def query_of(features: Tensor, labelled: dict[int, int], n: int, *, seed: int = 0, candidates: Tensor | None = None) -> Query:
    pool = Pool.of(images_of(len(features)).images)
    pool = pool.acquire(torch.tensor(list(labelled)), torch.tensor(list(labelled.values())), 0)
    query = Query(pool, None, pool.unlabelled if candidates is None else candidates, n, rng.generator(seed, "query"))
    vars(query)["features"] = features
    return query


# ---- margins: each against its definition, one row at a time -----------------------------------------------------------------------


def naive_top_two(f: list[float], w: list[Tensor]) -> float:
    ranked = sorted(f, reverse=True)
    return ranked[0] - ranked[1]


def naive_nearest(f: list[float], w: list[Tensor]) -> float:
    return min(abs(value) / math.sqrt(sum(x * x for x in row.tolist())) for value, row in zip(f, w, strict=True))


def naive_geometric(f: list[float], w: list[Tensor]) -> float:
    first, second = sorted(range(len(f)), key=lambda k: -f[k])[:2]
    return (f[first] - f[second]) / math.sqrt(sum(x * x for x in (w[first] - w[second]).tolist()))


NAIVE: dict[str, Callable[[list[float], list[Tensor]], float]] = {
    "top_two": naive_top_two,
    "nearest_hyperplane": naive_nearest,
    "geometric_top_two": naive_geometric,
}
SIZES = st.tuples(st.integers(0, 12), st.integers(2, 6), st.integers(1, 5))


@pytest.mark.parametrize("name", NAIVE)
@settings(deadline=None)
@given(sizes=SIZES, seed=st.integers(0, 99), ties=st.booleans())
def test_margins_equal_naive_loops(name: str, sizes: tuple[int, int, int], seed: int, ties: bool) -> None:
    M, K, D = sizes
    scores, weights = 2 * normal(M, K, seed=seed), normal(K, D, seed=seed)
    scores = scores.round() if ties else scores
    expected = torch.tensor([NAIVE[name](row.tolist(), list(weights)) for row in scores], dtype=torch.float64)
    torch.testing.assert_close(RULES[name](scores, weights), expected)


@settings(deadline=None)
@given(sizes=SIZES, seed=st.integers(0, 99))
def test_in_margin_takes_those_inside_first(sizes: tuple[int, int, int], seed: int) -> None:
    M, K, D = sizes
    scores, weights = 2 * normal(M, K, seed=seed), normal(K, D, seed=seed)
    rows = scores.tolist()
    expected = sorted(range(M), key=lambda i: (all(abs(f) >= 1 for f in rows[i]), naive_top_two(rows[i], []), i))
    assert RULES["in_margin"](scores, weights).sort(stable=True).indices.tolist() == expected


def test_in_margin_is_another_order_than_top_two() -> None:
    scores = torch.tensor([[2.0, 1.9], [3.0, 0.5], [0.5, 0.5], [5.0, 5.0], [0.3, 0.9]])  # 0 and 3 outside, though nearly or wholly tied
    assert RULES["in_margin"](scores, torch.eye(2)).sort(stable=True).indices.tolist() == [2, 4, 1, 3, 0]
    assert RULES["top_two"](scores, torch.eye(2)).sort(stable=True).indices.tolist() == [2, 3, 0, 4, 1]
    assert RULES["in_margin"](torch.tensor([[1.0, -1.0]]), torch.eye(2)).item() == 2  # exactly 1 is not inside


@pytest.mark.parametrize("name", RULES)
@settings(deadline=None)
@given(sizes=SIZES, seed=st.integers(0, 99), factor=st.floats(0.1, 10))
def test_margins_have_the_shape_and_the_order_that_they_promise(name: str, sizes: tuple[int, int, int], seed: int, factor: float) -> None:
    M, K, D = sizes
    scores, weights = 2 * normal(M, K, seed=seed), normal(K, D, seed=seed)
    found = RULES[name](scores, weights)
    assert found.shape == (M,) and found.dtype == scores.dtype and not found.isnan().any()
    torch.testing.assert_close(found, torch.cat([RULES[name](row[None], weights) for row in scores] or [found]))  # row by row
    if name in ("nearest_hyperplane", "geometric_top_two"):  # a length in feature space does not depend on how f is scaled
        torch.testing.assert_close(RULES[name](factor * scores, factor * weights), found)


def test_planes_without_direction() -> None:
    scores, weights = torch.tensor([[1.0, -2.0], [0.0, 2.0], [3.0, 3.0]]), torch.tensor([[0.0, 0.0], [0.0, 4.0]])
    assert RULES["nearest_hyperplane"](scores, weights).tolist() == [0.5, 0, 0.75]
    assert RULES["geometric_top_two"](scores, torch.ones(2, 3)).tolist() == [math.inf, math.inf, 0]


@pytest.mark.parametrize("name", ["top_two", "geometric_top_two", "in_margin"])
def test_a_margin_between_classes_needs_two(name: str) -> None:
    with pytest.raises(ValueError, match=r"needs two of them, but scores is \(3, 1\)"):
        RULES[name](torch.zeros(3, 1), torch.ones(1, 2))


# ---- the machine -------------------------------------------------------------------------------------------------------------------


def by_sklearn(scale: str, features: Tensor, other: Tensor) -> tuple[Any, Any]:
    x, z = features.double().numpy(), other.double().numpy()
    if scale == "l2":
        return normalize(x), normalize(z)
    scaler = StandardScaler().fit(x)
    return (scaler.transform(x), scaler.transform(z)) if scale == "standard" else (x, z)


@pytest.mark.parametrize("scale", ["l2", "standard", "none"])
@pytest.mark.parametrize(("L", "dual"), [(30, True), (31, False)])  # of 30 features
def test_linear_svc_is_scikit_learns(scale: str, L: int, dual: bool) -> None:
    features, labels = blobs(L, 30, (0, 3, 7))
    other = normal(50, 30).float()
    x, z = by_sklearn(scale, features, other)
    model = LinearSVC(C=5, dual=dual, max_iter=5000, random_state=0).fit(x, labels.numpy())
    svm = fit_svm(features, labels, scale=scale)
    torch.testing.assert_close(svm.weights, torch.from_numpy(model.coef_), rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(svm.bias, torch.from_numpy(model.intercept_), rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(svm.scores(other), torch.from_numpy(model.decision_function(z)), rtol=1e-6, atol=1e-9)
    assert svm.predict(other).tolist() == model.predict(z).tolist() and svm.classes.tolist() == [0, 3, 7]


@pytest.mark.parametrize("scale", ["l2", "standard", "none"])
def test_one_vs_rest_is_scikit_learns(scale: str) -> None:
    features, labels = blobs(40, 6, (0, 3, 7, 9))
    other = normal(50, 6).float()
    x, z = by_sklearn(scale, features, other)
    svm = fit_svm(features, labels, estimator="one_vs_rest", scale=scale)
    torch.testing.assert_close([svm.scaled(features), svm.scaled(other)], [torch.from_numpy(x), torch.from_numpy(z)])
    # of the very same numbers: libsvm stops at 1e-3, and a last bit can change the way to there
    model = OneVsRestClassifier(SVC(kernel="linear", C=5)).fit(svm.scaled(features).numpy(), labels.numpy())
    z = svm.scaled(other).numpy()
    torch.testing.assert_close(svm.scores(other), torch.from_numpy(model.decision_function(z)), rtol=1e-6, atol=1e-6)
    assert svm.predict(other).tolist() == model.predict(z).tolist()


def test_the_two_estimators_differ() -> None:
    features, labels = blobs(60, 4, (0, 1, 2))
    assert (fit_svm(features, labels).weights - fit_svm(features, labels, estimator="one_vs_rest").weights).abs().max() > 0.1


@pytest.mark.parametrize("estimator", ["linear_svc", "one_vs_rest"])
def test_two_classes_have_two_opposite_rows(estimator: str) -> None:
    features, labels = blobs(40, 5, (2, 6))
    x, _ = by_sklearn("l2", features, features)
    model: Any = LinearSVC(C=5, dual=False, random_state=0) if estimator == "linear_svc" else SVC(kernel="linear", C=5)
    expected = torch.from_numpy(model.fit(x, labels.numpy()).decision_function(x))
    svm = fit_svm(features, labels, estimator=estimator)
    assert svm.classes.tolist() == [2, 6] and svm.weights.shape == (2, 5) and svm.bias.shape == (2,)
    torch.testing.assert_close(svm.scores(features), torch.stack([-expected, expected], dim=1), rtol=1e-6, atol=1e-6)
    assert svm.predict(features).tolist() == model.predict(x).tolist()


@settings(deadline=None, max_examples=25)
@given(
    classes=st.sets(st.integers(0, 20), min_size=2, max_size=5),
    D=st.integers(1, 6),
    more=st.integers(0, 9),
    M=st.integers(0, 9),
    scale=st.sampled_from(module.SCALES),
    seed=st.integers(0, 9),
)
def test_shapes_and_absent_classes(classes: set[int], D: int, more: int, M: int, scale: str, seed: int) -> None:
    features, labels = blobs(len(classes) + more, D, tuple(classes), seed)
    svm = fit_svm(features, labels, scale=scale)
    K = len(classes)
    assert svm.classes.tolist() == sorted(classes) and svm.classes.dtype == torch.int64
    assert svm.weights.shape == (K, D) and svm.bias.shape == (K,)
    other = normal(M, D, seed=seed).float()
    scores, predicted = svm.scores(other), svm.predict(other)
    assert scores.shape == (M, K) and scores.dtype == torch.float64 and scores.isfinite().all()
    assert predicted.shape == (M,) and predicted.dtype == torch.int64 and set(predicted.tolist()) <= classes
    torch.testing.assert_close(scores, svm.scaled(other) @ svm.weights.T + svm.bias)


@settings(deadline=None, max_examples=25)
@given(factor=st.floats(1e-6, 1e6), seed=st.integers(0, 9))
def test_l2_forgets_the_length_of_features(factor: float, seed: int) -> None:
    features, labels = blobs(40, 5, (0, 1, 2), seed)
    features, other = features.double(), normal(100, 5, seed=seed)
    lengths = normal(100, 1, seed=seed + 1).exp()
    expected, found = fit_svm(features, labels, scale="l2"), fit_svm(factor * features, labels, scale="l2")
    torch.testing.assert_close(found.weights, expected.weights, rtol=1e-5, atol=1e-5)
    assert found.predict(factor * lengths * other).equal(expected.predict(other))


def test_without_scaling_the_length_matters() -> None:
    features, labels = blobs(40, 5, (0, 1, 2))
    other = normal(100, 5)
    assert not fit_svm(features, labels, scale="none").predict(0.01 * other).equal(fit_svm(features, labels, scale="none").predict(other))


@pytest.mark.parametrize("scale", ["l2", "standard", "none"])
def test_dead_features_and_rows_of_zeros_stay_finite(scale: str) -> None:
    features, labels = blobs(30, 6, (0, 1, 2))
    features = features.relu()
    features[:, 2], features[4] = 0.1, 0.0
    features[:, 3] = 0.0
    svm = fit_svm(features, labels, scale=scale)
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
        ({"labels": torch.full((6,), 4)}, r"only class 4 among 6 labels.*label images of another class"),
        ({"features": torch.zeros(0, 2), "labels": torch.zeros(0, dtype=torch.long)}, r"no class among 0 labels"),
        ({"features": torch.tensor([[0, 1]] * 4 + [[0, math.nan], [math.inf, 0]])}, r"row 4, and 1 more, have features that are NaN"),
        ({"labels": torch.tensor([0, 1, 2, -1, 0, -1])}, r"label of row 3 is -1"),
        ({"labels": torch.arange(5)}, r"6 rows of features, but labels \[5\]"),
        ({"C": 0.0}, r"C is 0.0: it must be above 0"),
        ({"C": math.nan}, r"C is nan"),
        ({"estimator": "svc"}, r"estimator is 'svc': it must be one of linear_svc, one_vs_rest"),
        ({"scale": "max"}, r"scale is 'max': it must be one of l2, standard, none"),
    ],
)
def test_fit_svm_refuses(change: dict[str, Any], message: str) -> None:
    arguments = {"features": torch.rand(6, 2, generator=rng.generator(0)), "labels": torch.arange(6) % 3, **change}
    with pytest.raises(ValueError, match=f"fit_svm: .*{message}"):
        fit_svm(**arguments)


@pytest.mark.parametrize("estimator", ["linear_svc", "one_vs_rest"])
def test_a_second_attempt_has_more_iterations(estimator: str, monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = blobs(40, 50, (0, 1, 2))
    expected = fit_svm(features, labels, estimator=estimator)
    monkeypatch.setitem(module.ITERATIONS, estimator, 8)
    monkeypatch.setattr(module, "MORE", 1000)
    assert fit_svm(features, labels, estimator=estimator).weights.equal(expected.weights)  # and no warning: in pytest it is an error


@pytest.mark.parametrize("estimator", ["linear_svc", "one_vs_rest"])
def test_without_convergence_the_solution_stays_with_a_plain_warning(estimator: str, monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = blobs(40, 50, (0, 1, 2))
    monkeypatch.setitem(module.ITERATIONS, estimator, 1)
    monkeypatch.setattr(module, "MORE", 2)
    with pytest.warns(RuntimeWarning, match=rf"{estimator} with C = 5.0 on 40 labels, 50 features, has not converged after 2 it") as seen:
        svm = fit_svm(features, labels, estimator=estimator)
    assert len(seen) == 1 and svm.weights.isfinite().all()


def test_accuracy_is_that_of_the_predictions() -> None:
    pixels, digits = load_digits(return_X_y=True)
    features, targets = torch.from_numpy(pixels).float(), torch.from_numpy(digits).long()
    labelled, test = torch.arange(200), torch.arange(200, 1797)
    found = svm_accuracy(features[labelled], targets[labelled], features[test], targets[test], C=5.0, estimator="linear_svc", scale="l2")
    model = LinearSVC(C=5, dual=False, random_state=0).fit(normalize(pixels[:200]), digits[:200])
    assert found == model.score(normalize(pixels[200:]), digits[200:]) and found > 0.75
    few = labelled[targets[labelled] < 5]
    of_those = svm_accuracy(features[few], targets[few], features[test], targets[test])
    assert of_those <= float((targets[test] < 5).double().mean())  # a class without labels is always missed


def test_accuracy_refuses() -> None:
    features, labels = blobs(12, 2, (0, 1))
    with pytest.raises(ValueError, match=r"0 rows of test features, but targets \[0\]"):
        svm_accuracy(features, labels, features[:0], labels[:0])
    with pytest.raises(ValueError, match=r"12 rows of test features, but targets \[11\]"):
        svm_accuracy(features, labels, features, labels[:11])
    with pytest.raises(ValueError, match="test row 3, and 0 more"):
        svm_accuracy(features, labels, features.index_put((torch.tensor(3),), torch.tensor(math.nan)), labels)


# ---- the strategy ------------------------------------------------------------------------------------------------------------------


def two_sides(n: int = 80) -> tuple[Tensor, dict[int, int]]:
    """Points on a line from (-1, 0) to (1, 0), somewhat off it; the first of the left and of the right end are labelled 3 and 5."""
    features = torch.stack([torch.linspace(-1, 1, n), 0.05 * normal(n).float()], dim=1)
    return features, {i: 3 if i < n / 2 else 5 for i in (0, 1, 2, 3, n - 4, n - 3, n - 2, n - 1)}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("scale", ["standard", "none"])
def test_points_near_the_boundary_are_chosen(rule: str, scale: str) -> None:
    features, labelled = two_sides()
    query = query_of(features, labelled, 8)
    chosen = SvmMargin(rule=rule, scale=scale)(query)
    check_query(chosen, query, "it")
    assert float(features[chosen, 0].abs().max()) < 0.2 < float(features[query.candidates, 0].abs().mean())
    assert int(chosen[0]) in (39, 40)  # the two nearest to 0


def test_with_l2_the_angle_decides() -> None:
    angle = torch.linspace(0.05, 1.5, 60)
    features = torch.stack([angle.cos(), angle.sin()], dim=1) * torch.rand(60, 1, generator=rng.generator(0)).add(0.1)
    chosen = SvmMargin()(query_of(features, {0: 0, 1: 0, 58: 1, 59: 1}, 6))
    assert float((angle[chosen] - angle[[0, 1, 58, 59]].mean()).abs().max()) < 0.2


FITS: tuple[dict[str, Any], ...] = ({}, {"estimator": "one_vs_rest"}, {"scale": "standard", "C": 0.1})


@pytest.mark.parametrize("fit", FITS, ids=str)
@pytest.mark.parametrize("rule", RULES)
def test_margins_are_ranked_by_the_rule_on_the_candidates(rule: str, fit: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK", 16)  # so that candidates come in several blocks
    features, labels = blobs(80, 5, (0, 1, 2, 3))
    labelled = {i: int(labels[i]) for i in range(0, 80, 3)}
    candidates = torch.tensor([i for i in range(80) if i not in labelled and i % 7])
    query = query_of(features, labelled, 9, candidates=candidates)
    known = query.pool.labelled
    svm = fit_svm(features[known], query.pool.labels[known], **fit)
    margins = RULES[rule](svm.scores(features[candidates]), svm.weights)
    chosen = SvmMargin(rule=rule, **fit)(query)
    check_query(chosen, query, "it")
    assert chosen.tolist() == candidates[margins.sort(stable=True).indices[:9]].tolist()
    assert len(svm.classes) == 4


@pytest.mark.parametrize("strategy", [SvmMargin(), SvmMargin("in_margin", estimator="one_vs_rest"), SvmMargin(scale="standard")])
def test_same_query_same_answer(strategy: SvmMargin) -> None:
    features, labels = blobs(80, 100, (0, 1, 2, 3))  # fewer labels than features: the dual, which shuffles
    labelled = {i: int(labels[i]) for i in range(20)}
    np.random.seed(1)
    torch.manual_seed(1)
    first = strategy(query_of(features, labelled, 10))
    np.random.seed(2)
    torch.manual_seed(2)
    assert first.equal(strategy(query_of(features.clone(), labelled, 10, seed=5)))


def test_one_class_gives_a_random_choice_and_a_warning() -> None:
    features, _ = two_sides()

    def chosen(seed: int) -> Tensor:
        query = query_of(features, {3: 7, 9: 7}, 6, seed=seed)
        with pytest.warns(RuntimeWarning, match=r"2 labels, of the classes \[7\].*at random"):
            found = SvmMargin()(query)
        check_query(found, query, "it")
        return found

    assert chosen(0).equal(chosen(0)) and not chosen(0).equal(chosen(1))
    assert len(torch.cat([chosen(seed) for seed in range(120)]).unique()) == 78  # each candidate now and then


def test_images_that_were_asked_for_without_an_answer_are_not_fitted() -> None:
    features, labelled = two_sides()
    asked = query_of(features, {**labelled, 39: -1, 40: -1}, 4)
    features[[39, 40]] = math.nan  # so it would be noticed
    assert set(SvmMargin(scale="none")(asked).tolist()) < set(range(30, 50)) - {39, 40}


@pytest.mark.parametrize("broken", [3, 55])  # labelled, and a candidate
def test_features_that_are_not_finite_name_the_image(broken: int) -> None:
    features, labelled = two_sides()
    features[broken, 1] = math.inf
    with pytest.raises(ValueError, match=rf"SvmMargin: image {broken}, and 0 more, have features that are NaN or infinite"):
        SvmMargin()(query_of(features, labelled, 4))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rule": "margin"}, r"rule is 'margin': it must be one of top_two, nearest_hyperplane, geometric_top_two, in_margin"),
        ({"C": -1.0}, r"C is -1.0"),
        ({"C": math.inf}, r"C is inf"),
        ({"estimator": "svm"}, r"estimator is 'svm'"),
        ({"scale": ""}, r"scale is ''"),
    ],
)
def test_fields_are_checked(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"SvmMargin: {message}"):
        SvmMargin(**fields)


def test_a_manifest_can_name_it() -> None:
    described = store.describe(SvmMargin(rule="in_margin"))
    assert {field.name: described[field.name] for field in dataclasses.fields(SvmMargin)} == {
        "rule": "in_margin", "C": 5, "estimator": "linear_svc", "scale": module.SCALE
    }  # fmt: skip


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("rule", RULES)
def test_same_on_the_gpu(rule: str) -> None:
    features, labels = blobs(80, 100, (0, 1, 2, 3))
    query = functools.partial(query_of, labelled={i: int(labels[i]) for i in range(20)}, n=10)
    assert SvmMargin(rule)(query(features.to("cuda"))).equal(SvmMargin(rule)(query(features)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        svm = fit_svm(features.to("cuda"), labels.to("cuda"))
    assert svm.predict(features.to("cuda")).device.type == svm.weights.device.type == "cpu"
