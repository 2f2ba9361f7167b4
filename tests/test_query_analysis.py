import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alnb import query_analysis
from alnb.query_analysis import class_entropy, coverage_radius, draw_queries, knn_label_entropy, margins, summary


def points(n: int = 40, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(3, (n,), generator=generator)
    return torch.randn(n, 4, generator=generator), torch.randn(n, 3, generator=generator).log_softmax(1), targets


@given(st.integers(2, 30), st.integers(0, 5), st.data())
def test_neighbours_and_radius_against_loops(n: int, seed: int, data: st.DataObject) -> None:
    features, _, targets = points(n, seed)
    k, m = data.draw(st.integers(1, n - 1)), data.draw(st.integers(1, n))
    chosen = torch.randperm(n, generator=torch.Generator().manual_seed(seed))[:m]
    found = knn_label_entropy(features, targets, chosen, k)
    for value, i in zip(found.tolist(), chosen.tolist(), strict=True):
        order = sorted((j for j in range(n) if j != i), key=lambda j: (math.dist(features[i].tolist(), features[j].tolist()), j))
        labels = [int(targets[j]) for j in order[:k]]
        shares = [labels.count(c) / k for c in set(labels)]
        assert math.isclose(value, -sum(p * math.log(p) for p in shares), abs_tol=1e-9)
    naive = max(min(math.dist(row, features[j].tolist()) for j in chosen.tolist()) for row in features.tolist())
    assert math.isclose(coverage_radius(features, chosen), naive, rel_tol=1e-9, abs_tol=1e-9)


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    features, _, targets = points()
    chosen = torch.arange(0, 40, 3)
    before = knn_label_entropy(features, targets, chosen, 5), coverage_radius(features, chosen)
    monkeypatch.setattr(query_analysis, "CHUNK", 3)
    assert torch.equal(before[0], knn_label_entropy(features, targets, chosen, 5)) and before[1] == coverage_radius(features, chosen)


def test_margins_and_class_entropy() -> None:
    _, log_probs, targets = points()
    chosen = torch.tensor([3, 7, 20])
    for value, i in zip(margins(log_probs, chosen).tolist(), chosen.tolist(), strict=True):
        high, second = sorted(log_probs[i].exp().tolist(), reverse=True)[:2]
        assert math.isclose(value, high - second, rel_tol=1e-4)
    assert class_entropy(torch.tensor([0, 1, 2, 0]), torch.tensor([0, 1, 2]), 3) == pytest.approx(math.log(3))
    assert class_entropy(targets, (targets == 1).nonzero().flatten(), 3) == 0


def test_summary_has_a_row_each_and_random_ones_to_compare_with() -> None:
    features, log_probs, targets = points()
    queries = {"random": {1: torch.arange(5), 5: torch.arange(5, 10)}, "pt4al": {1: torch.arange(20, 25)}}
    table = summary(queries, features=features, log_probs=log_probs, targets=targets, k=3, references=9)
    assert table[["method", "iteration", "n"]].to_numpy().tolist() == [
        ["random", 1, 5], ["random", 5, 5], ["pt4al", 1, 5], ["random (reference)", 0, 5],
    ]  # fmt: skip
    assert table["radius"].iloc[0] == coverage_radius(features, torch.arange(5))
    last = table.iloc[-1]
    assert last["margin_low"] <= last["margin"] <= last["margin_high"] and table["margin_low"].isna().sum() == 3
    with pytest.raises(ValueError, match="k is 40: of 40 images one has at most 39 neighbours"):
        knn_label_entropy(features, targets, torch.arange(2), 40)


def test_drawing_has_a_panel_and_markers_for_each() -> None:
    features, _, targets = points()
    queries = {"random": {1: torch.arange(5), 5: torch.arange(5, 10), 10: torch.arange(10, 14)}, "pt4al": {1: torch.arange(20, 25)}}
    figure = draw_queries(features[:, :2], targets, queries, ["a", "b", "c"], "where")
    assert [axis.get_title() for axis in figure.axes] == ["random", "pt4al"]
    assert [len(axis.collections) for axis in figure.axes] == [4, 2]  # all images, and a mark for each iteration
    assert [len(mark.get_offsets()) for mark in figure.axes[0].collections] == [40, 5, 5, 4]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["iteration 1", "iteration 5", "iteration 10", "a", "b", "c"]
