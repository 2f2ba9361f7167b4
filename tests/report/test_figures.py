import math
from pathlib import Path

import numpy
import pandas
import pytest
import torch

from alnb.report import figures, tables
from alnb.report.palette import looks
from alnb.report.stats import Correlation, correlate, interval


def runs(curves: dict[tuple[str, str], list[float]], seeds: int = 3) -> pandas.DataFrame:
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


FRAME = runs({("a", "random"): [0.5, 0.6, 0.7, 0.8], ("a", "margin"): [0.5, 0.7, 0.85, 0.95], ("a", "bad"): [0.5, 0.5, 0.6, 0.7]})


def test_curves_draw_every_strategy_with_its_band(tmp_path: Path) -> None:
    frame = pandas.concat([FRAME, FRAME.assign(arm="b")])
    figure = figures.draw_curves(frame, "bars, smoke", target=0.8)
    for axis in figure.axes:
        assert len(axis.collections) == 3  # bands
        assert {tuple(line.get_ydata()) for line in axis.lines} > {(0.8, 0.8)}
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["random", "margin", "bad"] and "mean of n = 3, 95 % bands" in figure.get_suptitle()
    path = figures.save(figure, tmp_path / "deep/figure.png", "what it shows")
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG") and b"what it shows" in content and len(content) < 300_000


def test_published_accuracies_are_hollow() -> None:
    printed = pandas.DataFrame(
        [("a", "margin", 20, 0.72), ("a", "margin", 900, 0.9), ("b", "margin", 20, 0.8), ("a", "other", 20, 0.1)],
        columns=["arm", "strategy", "n_labelled", "value"],
    )
    figure = figures.draw_curves(FRAME, "bars", published=printed)
    hollow = [line for line in figure.axes[0].lines if line.get_fillstyle() == "none"]
    assert [(*line.get_xdata(), *line.get_ydata()) for line in hollow] == [(20, 0.72)]
    assert hollow[0].get_color() == looks(["margin"])["margin"]["color"]


RUNS = FRAME.assign(run=FRAME["strategy"] + FRAME["seed"].astype(str), seconds=2.0, protocol="10 + 3 x 10 labels, fresh", commit="abc")


def test_provenance_says_n_protocol_and_commit(tmp_path: Path) -> None:
    assert figures.provenance(RUNS) == "n = 3 replications a curve, 9 runs; protocol 10 + 3 x 10 labels, fresh; commit abc"
    uneven = RUNS[RUNS["run"] != "margin0"].assign(commit=RUNS["run"])
    assert figures.provenance(uneven).startswith("n = 2 to 3 replications a curve, 8 runs") and figures.provenance(uneven).endswith(
        "and 5 more"
    )
    assert figures.provenance(RUNS[RUNS["run"] == "bad1"]).startswith("n = 1 replication a curve, 1 run;")
    figure = figures.draw_curves(RUNS, "bars")
    figures.save(figure, tmp_path / "f.png", "c", RUNS)
    assert figure.get_supxlabel().replace("\n", " ") == figures.provenance(RUNS)


def test_areas_are_drawn_with_their_intervals() -> None:
    table = tables.summary(tables.areas(RUNS.assign(setting="all")))
    figure = figures.draw_areas(table, "areas")
    (axis,) = figure.axes
    assert [text.get_text() for text in axis.get_yticklabels()] == list(table["strategy"])
    assert [container.lines[0].get_xdata()[0] for container in axis.containers] == pytest.approx(list(table["area"]))


def test_the_win_matrix_is_readable() -> None:
    matrix = pandas.DataFrame([[math.nan, 2.0], [0.0, math.nan]], index=["a", "b"], columns=["a", "b"])
    (axis,) = figures.draw_win_matrix(matrix, "wins").axes
    assert {(text.get_text(), *text.get_position()) for text in axis.texts} == {("2", 1.5, 0.5), ("0", 0.5, 1.5)}


def test_time_adds_up_over_cycles() -> None:
    (axis,) = figures.draw_times(RUNS, "time").axes
    lines = {line.get_label(): line for line in axis.lines}
    assert list(lines["margin"].get_xdata()) == [2, 4, 6, 8] and list(lines["margin"].get_ydata()) == pytest.approx([0.5, 0.7, 0.85, 0.95])


def test_class_histograms_are_means_over_runs() -> None:
    rows = [("a", f"r{r}", cycle, c, (r + 1) * (c + 1)) for r in range(2) for cycle in range(2) for c in range(3)]
    counts = pandas.DataFrame(rows, columns=["strategy", "run", "cycle", "class", "count"])
    axis = figures.draw_class_histograms(counts, "all").axes[0]
    assert [bar.get_height() for bar in axis.patches] == [3, 6, 9] and axis.lines[0].get_ydata()[0] == 6  # mean of 1 + 1 and 2 + 2, …


def test_a_large_picture_is_kept_in_fewer_colours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = figures.save(figures.draw_curves(FRAME, "bars"), tmp_path / "whole.png", "what it shows").read_bytes()
    monkeypatch.setattr(figures, "LARGE", 1000)
    fewer = figures.save(figures.draw_curves(FRAME, "bars"), tmp_path / "fewer.png", "what it shows").read_bytes()
    assert len(fewer) < 0.7 * len(whole) and fewer.startswith(b"\x89PNG") and b"what it shows" in fewer


def correlations(*names: str, n: int = 1) -> dict[str, list[Correlation]]:
    """By pretext, one for each of `n` replications."""
    generator = torch.Generator().manual_seed(0)
    main, targets = torch.rand(1500, generator=generator), torch.zeros(1500, dtype=torch.int64)
    return {name: [correlate(torch.rand(1, 1500, generator=generator), main, targets, 1, resamples=10) for _ in range(n)] for name in names}


def test_correlations_are_drawn_with_their_ranks() -> None:
    both = {**correlations("rotation", n=5), **correlations("jigsaw")}
    figure = figures.draw_correlations(both, "correlation", {"jigsaw": 0.25})
    for axis, results in zip(figure.axes, both.values(), strict=True):
        shown = axis.collections[0].get_offsets().tolist()
        assert len(shown) == 1000 and [tuple(point) for point in shown] == list(results[0].shown)
    rho = pandas.Series([one.rho for one in both["rotation"]])
    low, high = interval(rho)
    assert f"ρ = {rho.mean():.3f} ({low:.3f} to {high:.3f})\n" in figure.axes[0].get_title()
    assert f"ρ = {both['jigsaw'][0].rho:.3f}\n" in figure.axes[1].get_title()  # a single replication has no interval
    assert "paper: 0.25" in figure.axes[1].get_title() and "paper" not in figure.axes[0].get_title()
    with pytest.raises(ValueError, match="no pretext"):
        figures.draw_correlations({}, "correlation")


def test_bands_are_over_replications() -> None:
    """Two runs of each replication make one curve: their mean."""
    nested = pandas.concat(
        FRAME.assign(replication=FRAME["seed"], seed=1000 * FRAME["seed"] + run, accuracy=FRAME["accuracy"] + gap)
        for run, gap in ((0, -0.01), (1, 0.01))
    )
    bands = [
        [path.vertices.tolist() for path in axis.collections[0].get_paths()]
        for axis in (figures.draw_curves(curves, "bars").axes[0] for curves in (FRAME, nested))
    ]
    numpy.testing.assert_allclose(bands[0], bands[1])
    assert "mean of n = 3" in figures.draw_curves(nested, "bars").get_suptitle()


def test_a_single_correlation_is_not_cut_off() -> None:
    figure = figures.draw_correlations(
        correlations("colorization"), "CIFAR-10, test images: the pretext loss against that of the main task"
    )
    figure.draw_without_rendering()
    title, above = figure.axes[0].title.get_window_extent(), figure._suptitle.get_window_extent()
    assert above.x0 >= 0 and above.x1 <= figure.bbox.x1 and above.y1 <= figure.bbox.y1 and title.y1 <= above.y0
