import math
from pathlib import Path

import numpy
import pandas
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alnb.report import comparisons
from alnb.report import figures as report


def table(curves: dict[tuple[str, str], list[float]], seeds: int = 3) -> pandas.DataFrame:
    """Accuracy at 10, 20, 30, … labels; seeds are spread around it."""
    rows = []
    for (arm, strategy), curve in curves.items():
        for seed in range(seeds):
            for k, value in enumerate(curve):
                spread = (seed - (seeds - 1) / 2) * 0.01
                rows.append(
                    {"arm": arm, "strategy": strategy, "seed": seed, "cycle": k, "n_labelled": 10 * (k + 1), "accuracy": value + spread}
                )
    return pandas.DataFrame(rows)


FRAME = table({("a", "random"): [0.5, 0.6, 0.7, 0.8], ("a", "margin"): [0.5, 0.7, 0.85, 0.95], ("a", "bad"): [0.5, 0.5, 0.6, 0.7]})


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.floats(0, 1))
def test_labels_to_reach_against_a_fine_search(accuracy: list[float], level: float) -> None:
    labels = [10.0 * (k + 1) for k in range(len(accuracy))]
    found = report.labels_to_reach(labels, accuracy, level)
    grid = numpy.union1d(numpy.linspace(labels[0], labels[-1], 20001), labels)
    reached = grid[numpy.interp(grid, labels, accuracy) >= level]
    if len(reached):
        assert found == pytest.approx(reached[0], abs=0.01)
    else:
        assert math.isnan(found) or found == pytest.approx(labels[-1], abs=0.01) or max(accuracy) >= level


def test_interval_is_students() -> None:
    low, high = report.interval(pandas.Series([0.8, 0.9, 1.0]))
    assert (low + high) / 2 == pytest.approx(0.9)
    assert (high - low) / 2 == pytest.approx(
        4.302653 * 0.1 / math.sqrt(3), rel=1e-6
    )  # t of 0.975 with two degrees of freedom, from a table
    assert report.interval(pandas.Series([0.5])) == (0.5, 0.5)


def test_savings_and_the_sentence_are_computed() -> None:
    found = report.savings(FRAME).set_index("strategy")
    assert found.loc["margin", "labels"] == pytest.approx(80 / 3) and found.loc["margin", "saved"] == pytest.approx(1 / 3)
    assert found.loc["random", "saved"] == pytest.approx(0) and math.isnan(found.loc["bad", "saved"])
    sentence = report.finding(FRAME)
    assert "random reached 80.0% with 40 labels; margin needed 27 (33% fewer); not reached by bad." in sentence
    assert report.most_saved(report.savings(FRAME), ["margin", "bad"]) == pytest.approx(1 / 3)
    assert math.isnan(report.most_saved(report.savings(FRAME), ["bad"])) and math.isnan(report.most_saved(report.savings(FRAME), []))


def test_a_sentence_for_when_nothing_was_gained() -> None:
    frame = table({("a", "random"): [0.5, 0.9], ("a", "margin"): [0.5, 0.8]}, seeds=1)
    assert "no other strategy reached that with fewer" in report.finding(frame)


def test_arms_are_compared_at_the_first_labels() -> None:
    frame = table({("a", "random"): [0.5, 0.9], ("b", "random"): [0.62, 0.9]})
    assert "With the first 10 labels b gives +12.0 points over a (95 % interval +12.0 to +12.0)" in report.finding(frame)


def test_without_the_reference_it_says_so() -> None:
    with pytest.raises(ValueError, match="no run of strategy 'random' in arm 'a'"):
        report.savings(table({("a", "margin"): [0.5, 0.6]}))


def test_labels_table() -> None:
    found = report.labels_table(FRAME, [0.7, 0.9])
    assert found.loc[("a", "random"), "70.0%"] == pytest.approx(30) and math.isnan(found.loc[("a", "random"), "90.0%"])
    assert found.loc[("a", "margin"), "final accuracy"] == pytest.approx(0.95)


def test_curves_draw_every_strategy_with_its_band(tmp_path: Path) -> None:
    frame = pandas.concat([FRAME, FRAME.assign(arm="b")])
    figure = report.curves(frame, "bars, smoke", target=0.8)
    for axis in figure.axes:
        assert len(axis.collections) == 3  # bands
        assert {tuple(line.get_ydata()) for line in axis.lines} > {(0.8, 0.8)}
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["random", "margin", "bad"] and "3 seeds, 95 % bands" in figure.get_suptitle()
    path = report.save(figure, tmp_path / "deep/figure.png", "what it shows")
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG") and b"what it shows" in content and len(content) < 300_000


def test_every_strategy_has_its_own_look_and_keeps_it() -> None:
    names = [f"s{k}" for k in range(40)]
    found = report.looks(names)
    assert len({tuple(look.values()) for look in found.values()}) == 40
    assert report.looks(["vaal", "random"]) == {
        name: report.looks(["margin", "random", "entropy", "vaal"])[name] for name in ("vaal", "random")
    }


def test_published_accuracies_are_hollow() -> None:
    printed = pandas.DataFrame(
        [("a", "margin", 20, 0.72), ("a", "margin", 900, 0.9), ("b", "margin", 20, 0.8), ("a", "other", 20, 0.1)],
        columns=["arm", "strategy", "n_labelled", "value"],
    )
    figure = report.curves(FRAME, "bars", published=printed)
    hollow = [line for line in figure.axes[0].lines if line.get_fillstyle() == "none"]
    assert [(*line.get_xdata(), *line.get_ydata()) for line in hollow] == [(20, 0.72)]
    assert hollow[0].get_color() == report.looks(["margin"])["margin"]["color"]


RUNS = FRAME.assign(run=FRAME["strategy"] + FRAME["seed"].astype(str), seconds=2.0, protocol="10 + 3 x 10 labels, fresh", commit="abc")


def test_provenance_says_n_protocol_and_commit(tmp_path: Path) -> None:
    assert report.provenance(RUNS) == "n = 3 seeds a curve, 9 runs; protocol 10 + 3 x 10 labels, fresh; commit abc"
    uneven = RUNS[RUNS["run"] != "margin0"].assign(commit=RUNS["run"])
    assert report.provenance(uneven).startswith("n = 2 to 3 seeds a curve, 8 runs") and report.provenance(uneven).endswith("and 5 more")
    assert report.provenance(RUNS[RUNS["run"] == "bad1"]).startswith("n = 1 seed a curve, 1 run;")
    figure = report.curves(RUNS, "bars")
    report.save(figure, tmp_path / "f.png", "c", RUNS)
    assert figure.get_supxlabel().replace("\n", " ") == report.provenance(RUNS)


def test_areas_are_drawn_with_their_intervals() -> None:
    table = comparisons.summary(comparisons.areas(RUNS.assign(setting="all")))
    figure = report.areas(table, "areas")
    (axis,) = figure.axes
    assert [text.get_text() for text in axis.get_yticklabels()] == list(table["strategy"])
    assert [container.lines[0].get_xdata()[0] for container in axis.containers] == pytest.approx(list(table["area"]))


def test_the_win_matrix_is_readable() -> None:
    matrix = pandas.DataFrame([[math.nan, 2.0], [0.0, math.nan]], index=["a", "b"], columns=["a", "b"])
    (axis,) = report.win_matrix(matrix, "wins").axes
    assert {(text.get_text(), *text.get_position()) for text in axis.texts} == {("2", 1, 0), ("0", 0, 1)}


def test_time_adds_up_over_cycles() -> None:
    (axis,) = report.time_against_accuracy(RUNS, "time").axes
    lines = {line.get_label(): line for line in axis.lines}
    assert list(lines["margin"].get_xdata()) == [2, 4, 6, 8] and list(lines["margin"].get_ydata()) == pytest.approx([0.5, 0.7, 0.85, 0.95])


def test_class_histograms_are_means_over_runs() -> None:
    rows = [("a", f"r{r}", cycle, c, (r + 1) * (c + 1)) for r in range(2) for cycle in range(2) for c in range(3)]
    counts = pandas.DataFrame(rows, columns=["strategy", "run", "cycle", "class", "count"])
    axis = report.class_histograms(counts, "all").axes[0]
    assert [bar.get_height() for bar in axis.patches] == [3, 6, 9] and axis.lines[0].get_ydata()[0] == 6  # mean of 1 + 1 and 2 + 2, …


def test_a_large_picture_is_kept_in_fewer_colours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = report.save(report.curves(FRAME, "bars"), tmp_path / "whole.png", "what it shows").read_bytes()
    monkeypatch.setattr(report, "LARGE", 1000)
    fewer = report.save(report.curves(FRAME, "bars"), tmp_path / "fewer.png", "what it shows").read_bytes()
    assert len(fewer) < 0.7 * len(whole) and fewer.startswith(b"\x89PNG") and b"what it shows" in fewer
