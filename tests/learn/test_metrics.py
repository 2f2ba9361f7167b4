import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk
from torch import Tensor

from alnb.learn import metrics
from alnb.report import stats
from alnb.store import Stream

SHAPES = st.tuples(st.integers(1, 30)) | st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 6))


def labels(shape: tuple[int, ...], classes: int, seed: int = 0, low: int = 0) -> Tensor:
    return torch.randint(low, classes, shape, generator=(Stream(seed) / "labels" / low).generator())


def log_probs(shape: tuple[int, ...], seed: int = 0, spread: float = 2.0) -> Tensor:
    return (spread * torch.randn(shape, generator=(Stream(seed) / "log_probs").generator())).log_softmax(1)


@pytest.mark.filterwarnings("ignore:A single label")
@settings(deadline=None)
@given(SHAPES, st.integers(1, 7), st.integers(0, 99))
def test_confusion_is_scikit_learns(shape: tuple[int, ...], classes: int, seed: int) -> None:
    predictions, targets = labels(shape, classes, seed + 1), labels(shape, classes, seed)
    expected = sk.confusion_matrix(targets.flatten(), predictions.flatten(), labels=range(classes))
    counts = metrics.confusion(predictions, targets, classes)
    assert counts.dtype == torch.int64 and counts.tolist() == expected.tolist()
    assert metrics.accuracy(counts).item() == pytest.approx(sk.accuracy_score(targets.flatten(), predictions.flatten()))
    jaccard = sk.jaccard_score(targets.flatten(), predictions.flatten(), average="macro")  # over the classes that occur
    assert metrics.mean_iou(counts).item() == pytest.approx(jaccard)


@settings(deadline=None)
@given(SHAPES, st.integers(1, 7), st.integers(0, 99))
def test_void_counts_for_nothing(shape: tuple[int, ...], classes: int, seed: int) -> None:
    predictions, targets = labels(shape, classes, seed + 1), labels(shape, classes, seed, low=-1)
    naive = [[0] * classes for _ in range(classes)]
    for prediction, target in zip(predictions.flatten().tolist(), targets.flatten().tolist(), strict=True):
        if target != -1:
            naive[target][prediction] += 1
    assert metrics.confusion(predictions, targets, classes).tolist() == naive
    assert metrics.confusion(predictions, torch.where(targets == -1, 255, targets), classes, void=255).tolist() == naive


def test_small_integers_do_not_wrap() -> None:
    values = torch.tensor([30, 29], dtype=torch.uint8)
    assert metrics.confusion(values, values, 31).nonzero().tolist() == [[29, 29], [30, 30]]


def test_matrices_of_batches_add_up() -> None:
    predictions, targets = labels((40,), 5, 1), labels((40,), 5, 2)
    parts = [metrics.confusion(p, t, 5) for p, t in zip(predictions.split(7), targets.split(7), strict=True)]
    assert torch.stack(parts).sum(0).equal(metrics.confusion(predictions, targets, 5))


@pytest.mark.parametrize(
    ("prediction", "target", "message"),
    [(0, 3, "1 targets.*is 3:"), (0, -2, "1 targets.*is -2:"), (5, 0, "1 predictions.*is 5:")],
)
def test_labels_out_of_range_are_refused(prediction: int, target: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        metrics.confusion(torch.tensor([0, prediction]), torch.tensor([1, target]), 3)


def test_absent_classes() -> None:
    counts = torch.tensor([[3, 1, 0, 0], [0, 2, 2, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    torch.testing.assert_close(metrics.per_class_accuracy(counts), torch.tensor([0.75, 0.5, math.nan, math.nan]), equal_nan=True)
    assert metrics.mean_iou(counts).item() == pytest.approx((3 / 4 + 2 / 5 + 0 / 2) / 3)
    assert metrics.accuracy(torch.zeros(2, 2, dtype=torch.long)).isnan()


@settings(deadline=None)
@given(st.integers(2, 30), st.integers(2, 6), st.integers(0, 99))
def test_recall_and_log_loss_are_scikit_learns(N: int, classes: int, seed: int) -> None:
    values, targets = log_probs((N, classes), seed), labels((N,), classes, seed)
    present = targets.unique()
    recall = metrics.per_class_accuracy(metrics.confusion(values.argmax(1), targets, classes))
    expected = sk.recall_score(targets, values.argmax(1), labels=present, average=None)
    assert recall[present].tolist() == pytest.approx(expected.tolist())
    loss = sk.log_loss(targets, values.double().log_softmax(1).exp(), labels=range(classes))
    assert metrics.negative_log_likelihood(values, targets).item() == pytest.approx(loss, rel=1e-5)


def test_log_loss_of_maps_leaves_void_out() -> None:
    values, targets = log_probs((2, 3, 4, 5)), labels((2, 4, 5), 3, low=-1)
    naive = [-values[n, targets[n, h, w], h, w].item() for n, h, w in (targets != -1).nonzero().tolist()]
    assert metrics.negative_log_likelihood(values, targets).item() == pytest.approx(np.mean(naive), rel=1e-5)


def naive_calibration_error(values: Any, targets: Tensor, bins: int) -> float:
    confidence, prediction = values.exp().max(1)
    keep = targets != -1
    edges, error = torch.linspace(0, 1, bins + 1), 0.0
    for low, high in itertools.pairwise(edges):
        inside = keep & (confidence > low) & (confidence <= high)
        if inside.any():
            right, sure = (prediction == targets)[inside].double().mean(), confidence[inside].double().mean()
            error += float((right - sure).abs() * inside.sum() / keep.sum())
    return error


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(2, 5), st.integers(1, 20), st.integers(0, 99))
def test_calibration_error_is_the_naive_one(N: int, classes: int, bins: int, seed: int) -> None:
    values, targets = log_probs((N, classes), seed), labels((N,), classes, seed)
    expected = naive_calibration_error(values, targets, bins)
    assert metrics.calibration_error(values, targets, bins).item() == pytest.approx(expected, abs=1e-5)


def test_calibration_error_of_maps_and_of_certainty() -> None:
    values, targets = log_probs((2, 3, 4, 5)), labels((2, 4, 5), 3, low=-1)
    assert metrics.calibration_error(values, targets).item() == pytest.approx(naive_calibration_error(values, targets, 15), abs=1e-5)
    certain = torch.tensor([[0.0, -math.inf]] * 4)
    assert metrics.calibration_error(certain, torch.tensor([0, 0, 0, 1])).item() == pytest.approx(0.25)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 100), st.floats(0, 1)), min_size=2, max_size=10))
def test_area_is_scikit_learns_over_the_range(points: list[tuple[int, float]]) -> None:
    labelled, accuracy = np.cumsum([step for step, _ in points]), [value for _, value in points]
    expected = sk.auc(labelled, accuracy) / (labelled[-1] - labelled[0])
    assert stats.area_under_budget_curve(labelled.tolist(), accuracy) == pytest.approx(expected)
    assert stats.area_under_budget_curve(torch.tensor(labelled), torch.tensor(accuracy)) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("labelled", "message"),
    [([1], "1 numb.*1 acc"), ([1, 2, 3], "3 numb.*2 acc"), ([2, 1], r"\[2\.0, 1"), ([1, 1], r"\[1\.0, 1")],
)
def test_area_refuses(labelled: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        stats.area_under_budget_curve(labelled, [0.5, 0.6][: max(1, min(2, len(labelled)))])
