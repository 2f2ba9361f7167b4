import math
import statistics
from typing import Any

import numpy
import pandas
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alnb.report import queries as query_analysis
from alnb.report.queries import class_entropy, coverage_radius, draw_queries, knn_label_entropy, neighbours, summary
from alnb.store import Stream


def points(n: int = 40, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(3, (n,), generator=generator)
    return torch.randn(n, 4, generator=generator), torch.randn(n, 3, generator=generator).log_softmax(1), targets


def naive_neighbours(features: torch.Tensor, i: int, k: int) -> list[int]:
    return sorted((j for j in range(len(features)) if j != i), key=lambda j: (math.dist(features[i].tolist(), features[j].tolist()), j))[:k]


def naive_entropy(labels: list[int]) -> float:
    shares = [labels.count(c) / len(labels) for c in set(labels)]
    return -sum(p * math.log(p) for p in shares)


def naive_radius(features: torch.Tensor, chosen: torch.Tensor) -> float:
    return max(min(math.dist(row, features[j].tolist()) for j in chosen.tolist()) for row in features.tolist())


@given(st.integers(2, 30), st.integers(0, 5), st.sampled_from(["apart", "tied", "far from zero"]), st.data())
def test_neighbours_and_radius_against_loops(n: int, seed: int, kind: str, data: st.DataObject) -> None:
    """Also where many distances are equal, and where a matrix product alone loses their digits."""
    features, _, targets = points(n, seed)
    features = {"apart": features, "tied": features.round(), "far from zero": features.double() + 1e8}[kind]
    k, m = data.draw(st.integers(1, n - 1)), data.draw(st.integers(1, n))
    chosen = torch.randperm(n, generator=torch.Generator().manual_seed(seed))[:m]
    entropies = knn_label_entropy(features, targets, chosen, k).tolist()
    for row, entropy, i in zip(neighbours(features, chosen, k).tolist(), entropies, chosen.tolist(), strict=True):
        naive = naive_neighbours(features, i, k)
        distances = [[math.dist(features[i].tolist(), features[j].tolist()) for j in near] for near in (row, naive)]
        assert i not in row and len(set(row)) == k and distances[0] == pytest.approx(distances[1], rel=1e-9, abs=1e-7)
        assert kind == "tied" or row == naive
        assert math.isclose(entropy, naive_entropy([int(targets[j]) for j in row]), abs_tol=1e-9)
    assert math.isclose(coverage_radius(features, chosen), naive_radius(features, chosen), rel_tol=1e-9, abs_tol=1e-9)


def test_images_at_one_place_are_neighbours_of_each_other_but_not_of_themselves() -> None:
    features, chosen = torch.ones(6, 3), torch.tensor([0, 1, 5])
    for k in (1, 2, 5):
        near = neighbours(features, chosen, k)
        assert near.shape == (3, k) and all(i not in row and len(set(row)) == k for i, row in zip([0, 1, 5], near.tolist(), strict=True))
    assert coverage_radius(features, torch.tensor([4])) == 0


def test_class_entropy() -> None:
    _, _, targets = points()
    assert class_entropy(torch.tensor([0, 1, 2, 0]), torch.tensor([0, 1, 2]), 3) == pytest.approx(math.log(3))
    assert class_entropy(targets, (targets == 1).nonzero().flatten(), 3) == 0


def test_summary_has_a_row_each_and_random_ones_to_compare_with() -> None:
    features, log_probs, targets = points()
    queries = {"random": {1: torch.arange(5), 5: torch.arange(5, 10)}, "pt4al": {1: torch.arange(20, 25)}}
    table = summary(queries, features=features, log_probs=log_probs, targets=targets, k=3, references=9)
    assert table[["strategy", "iteration", "n"]].to_numpy().tolist() == [
        ["random", 1, 5], ["random", 5, 5], ["pt4al", 1, 5], ["random (reference)", 0, 5],
    ]  # fmt: skip
    assert table["radius"].iloc[0] == coverage_radius(features, torch.arange(5))
    last = table.iloc[-1]
    assert last["margin_low"] <= last["margin"] <= last["margin_high"] and table["margin_low"].isna().sum() == 3
    pandas.testing.assert_frame_equal(table, summary(queries, features=features, log_probs=log_probs, targets=targets, k=3, references=9))


def test_summary_against_loops() -> None:
    features, log_probs, targets = points()
    first = torch.tensor([3, 9, 22, 31])
    table = summary({"pt4al": {1: first}}, features=features, log_probs=log_probs, targets=targets, k=3, references=7, seed=4)

    def naive(chosen: torch.Tensor) -> list[float]:
        high, second = (log_probs[chosen].exp().sort(dim=1, descending=True).values[:, c].tolist() for c in (0, 1))
        entropies = [naive_entropy([int(targets[j]) for j in naive_neighbours(features, i, 3)]) for i in chosen.tolist()]
        margin = statistics.fmean(a - b for a, b in zip(high, second, strict=True))
        return [margin, statistics.fmean(entropies), naive_entropy(targets[chosen].tolist()), naive_radius(features, chosen)]

    names = ["margin", "neighbour_entropy", "class_entropy", "radius"]
    assert table.loc[0, names].tolist() == pytest.approx(naive(first), rel=1e-5)
    drawn = numpy.array([naive(torch.randperm(40, generator=(Stream(4) / "reference" / 4 / r).generator())[:4]) for r in range(7)])
    last = table.iloc[-1]
    assert last["strategy"] == query_analysis.RANDOM and last[names].tolist() == pytest.approx(drawn.mean(axis=0), rel=1e-5)
    for side, q in (("low", 0.025), ("high", 0.975)):
        assert last[[f"{name}_{side}" for name in names]].tolist() == pytest.approx(numpy.quantile(drawn, q, axis=0), rel=1e-5)


def test_bad_input() -> None:
    features, log_probs, targets = points()
    chosen = torch.arange(2)
    with pytest.raises(ValueError, match="k is 40"):
        knn_label_entropy(features, targets, chosen, 40)
    for empty in (torch.zeros(0, dtype=torch.int64), torch.zeros(2)):
        for call in (lambda e: class_entropy(targets, e, 3), lambda e: coverage_radius(features, e)):
            with pytest.raises(ValueError, match=r"the query must be indices"):
                call(empty)
    with pytest.raises(ValueError, match=r"the query has 40 at 1.* \[0, 40\)"):
        class_entropy(targets, torch.tensor([3, 40]), 3)
    with pytest.raises(ValueError, match="the query has -1 at 0"):
        coverage_radius(features, torch.tensor([-1]))
    with pytest.raises(ValueError, match=r"targets\[5\] is -1"):
        knn_label_entropy(features, torch.where(torch.arange(40) == 5, -1, targets), chosen, 3)
    with pytest.raises(ValueError, match=r"targets\[\d+\] is 2.* \[0, 2\)"):
        class_entropy(targets, chosen, 2)
    with pytest.raises(ValueError, match=r"\[39\], of 40 images"):
        knn_label_entropy(features, targets[1:], chosen, 3)
    with pytest.raises(ValueError, match=r"float \[N, D\].* \[40\]"):
        coverage_radius(features[:, 0], chosen)
    spoilt = features.clone()
    spoilt[7, 1] = torch.nan
    with pytest.raises(ValueError, match=r"features\[7\] \(1 such rows\) holds NaN"):
        coverage_radius(spoilt, chosen)
    everything = {"features": features, "log_probs": log_probs, "targets": targets}
    with pytest.raises(ValueError, match="iteration 5 of pt4al has 77 at 1"):
        summary({"pt4al": {1: chosen, 5: torch.tensor([0, 77])}}, **everything)
    with pytest.raises(ValueError, match="0 queries, 20 references"):
        summary({}, **everything)


def drawing() -> dict[str, Any]:
    queries = {"random": {1: torch.arange(5), 5: torch.arange(5, 10), 10: torch.arange(10, 14)}, "learning_loss": {1: torch.arange(20, 25)}}
    features, _, targets = points()
    return {"layout": features[:, :2], "targets": targets, "queries": queries, "classes": ["a", "b", "c"]}


def test_drawing_has_a_panel_and_markers_for_each() -> None:
    given = drawing()
    figure = draw_queries(**given, title="where")
    assert [axis.get_title() for axis in figure.axes] == ["random", "learning loss"]
    for axis, own in zip(figure.axes, given["queries"].values(), strict=True):
        everything, *marks = axis.collections
        assert torch.equal(torch.tensor(everything.get_offsets().data), given["layout"].double())
        shapes = {}
        for iteration, indices in own.items():
            drawn = [mark for mark in marks if mark.get_label() == str(iteration)]
            places = sorted(point for mark in drawn for point in mark.get_offsets().tolist())
            assert places == sorted(given["layout"][indices].tolist())
            (shapes[iteration],) = {len(mark.get_paths()[0].vertices) for mark in drawn}
        assert len(set(shapes.values())) == len(own)
        assert sum(len(mark.get_offsets()) for mark in marks) == sum(map(len, own.values()))
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["iteration 1", "iteration 5", "iteration 10", "a", "b", "c"]


@pytest.mark.parametrize("methods", [1, 3])
def test_drawing_is_not_cut_off(methods: int) -> None:
    given = drawing()
    given["queries"] = {f"method {k}": given["queries"]["random"] for k in range(methods)}
    given["classes"] = [f"automobile {k}" for k in range(10)]
    figure = draw_queries(**given, title="CIFAR-10: where queries lie among all images, embedded by a net that learned from all labels")
    figure.draw_without_rendering()
    parts = [figure.legends[0], figure._suptitle, *(axis.title for axis in figure.axes)]
    for box in (part.get_window_extent() for part in parts):
        assert box.x0 >= 0 and box.x1 <= figure.bbox.x1 and box.y0 >= 0 and box.y1 <= figure.bbox.y1
    assert methods < 3 or figure.bbox.width == pytest.approx(1280)


def test_drawing_of_many_classes_and_bad_input() -> None:
    given = drawing()
    figure = draw_queries(**{**given, "classes": [str(c) for c in range(11)]})
    assert len(figure.legends[0].get_texts()) == 3
    for wrong, message in (
        ({"queries": {}}, "no queries"),
        ({"layout": torch.rand(40, 3)}, r"\[N, 2\], but is \[40, 3\]"),
        ({"iterations": (1, 2, 3, 4, 5, 6)}, r"\[1, 2, 3, 4, 5, 6\].*at most 5"),
        ({"iterations": (1, 1)}, r"\[1, 1\].*different"),
        ({"classes": ["a"]}, r"targets\[\d+\] is \d.* \[0, 1\)"),
        ({"queries": {"pt4al": {1: torch.tensor([40])}}}, "iteration 1 of pt4al has 40 at 0"),
    ):
        with pytest.raises(ValueError, match=message):
            draw_queries(**{**given, **wrong})
