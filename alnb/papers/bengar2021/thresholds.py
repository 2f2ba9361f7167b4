"""Figure 6 of Bengar et al. 2021: from how many labels per class on active learning beats random sampling, by number of classes.

Frames are those of `claims`. The gain at a budget is of the strategy that is best on the other replications: no strategy is chosen and
measured on the same rows. Bounds need no choice: they test all strategies. They are one-sided, at 97.5 % each: 95 % together.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy
import scipy.stats
import seaborn
from matplotlib.figure import Figure
from pandas import DataFrame

from alnb.papers.bengar2021.claims import gains_over, held_out_best, select
from alnb.papers.published import published
from alnb.report.palette import COLOURS, MARKERS
from alnb.report.verdicts import ALPHA, above, at_least


def gains(frame: DataFrame, arm: str = "frozen") -> DataFrame:
    """Gains over random: a row for each replication and number of labels per class, a column for each other strategy.

    Cycle 0, in which no strategy has chosen, is left out; regimes that share a budget are averaged. Empty if there is nothing to compare.
    Raises:
        ValueError: the frame is not of one data set.
    """
    names = list(frame["dataset"].unique())
    if len(names) != 1:
        raise ValueError(f"a threshold is one data set's, but the frame has {', '.join(names) or 'none'}: select one of them")
    rows = select(frame, names[0])
    return gains_over(rows[(rows["arm"] == arm) & (rows["cycle"] > 0)], "random", ["seed", "labels"])


def _by_budget(table: DataFrame) -> dict[float, DataFrame]:
    return {float(labels): part.droplevel("labels") for labels, part in table.groupby(level="labels")}


def threshold(frame: DataFrame, arm: str = "frozen") -> float:
    """Labels per class at the smallest budget from which on, at every larger one too, the best strategy's mean gain is above 0.

    `frame` is of one data set. The budgets of all regimes count together. `math.inf` if random is not beaten, or not to the end. Equal
    strategies often cross by luck: read it with `bounds`.

    Raises:
        ValueError: not one data set, or nothing to compare.
    Source: Bengar et al. 2021, section 6, which does not say how; this reading is ours.
    """
    table = gains(frame, arm)
    if table.empty:
        raise ValueError(f"no runs of random and another strategy in arm {arm!r} after the first cycle: run both, with equal seeds")
    return _threshold(table)


def bounds(table: DataFrame) -> tuple[float, float]:
    """The 95 % bounds of `threshold`, in labels per class; of a table from `gains`.

    The upper bound is the smallest budget from which on one strategy at least is better than random, by `verdicts.at_least`; budgets are
    tested from the largest down, so that none has to pay for the others. `math.inf` if not even the largest passes. The lower bound is the
    budget after the largest at which all strategies are worse by a test (by Bonferroni), else the smallest budget. Without
    `verdicts.ENOUGH` replications nothing is shown.

    A test of the strategy that is best on the other replications would err too often, since the choices depend on each other.
    """
    budgets = {labels: part.dropna(axis=1, how="all") for labels, part in _by_budget(table).items()}
    tests, labels = [at_least(1, [above("", part[name]) for name in part]) for part in budgets.values()], list(budgets)
    high = _first([test.holds <= ALPHA / 2 for test in tests], labels)
    losses = [k for k, test in enumerate(tests) if test.fails <= ALPHA / 2 / len(tests)]
    return labels[0] if not losses else [*labels[1:], math.inf][losses[-1]], high


def _threshold(table: DataFrame) -> float:
    means = {labels: held_out_best(part).mean() for labels, part in _by_budget(table).items()}
    return _first([bool(mean > 0) for mean in means.values()], list(means))


def _first(passed: list[bool], labels: list[float]) -> float:
    """The first of `labels` from which on all have passed; `math.inf` if the last one has not."""
    failed = [k for k, each in enumerate(passed) if not each]
    return float([*labels, math.inf][failed[-1] + 1 if failed else 0])


def figure6(frame: DataFrame, arm: str = "frozen") -> DataFrame:
    """The threshold of every data set that has runs in `arm`, a row each.

    Columns: dataset, classes, labels_per_class (inf if random was not beaten), low, high (95 % bounds, inf allowed), censored (the largest
    labels per class tried, if labels_per_class is inf; else NaN), tried (the same, always), seeds, scale.
    """
    rows = []
    for dataset, runs in frame.groupby("dataset", sort=False):
        table = gains(runs, arm)
        if table.size:
            value, replications, labels = _threshold(table), *(table.index.unique(level) for level in ("seed", "labels"))
            tried, scale = float(labels.max()), select(runs, dataset)["scale"].iloc[0]
            censored, classes = tried if math.isinf(value) else math.nan, int(runs["classes"].iloc[0])
            rows.append((dataset, classes, value, *bounds(table), censored, tried, len(replications), scale))
    columns = ["dataset", "classes", "labels_per_class", "low", "high", "censored", "tried", "seeds", "scale"]
    return DataFrame(rows, columns=columns).sort_values("classes", ignore_index=True)


@dataclass(frozen=True)
class Pearson:
    """Pearson's r of `n` points, and its two-sided p by Student's t; both NaN if undefined. `note` says why, or what was left out."""

    r: float
    p: float
    n: int
    note: str = ""

    def __str__(self) -> str:
        """The statistics, or why there are none."""
        text = "no correlation" if math.isnan(self.r) else f"r = {self.r:.2f}, p = {self.p:.2g}"
        return f"{text}; {self.n} points{self.note and f', {self.note}'}"


def significance(r: float, n: int) -> Pearson:
    """How far a correlation `r` of `n` points, 3 or more, is from none.

    Raises:
        ValueError: fewer points.
    """
    if n < 3:
        raise ValueError(f"r = {r} of n = {n} points has no significance: it needs 3 points or more")
    t = math.inf if abs(r) == 1 else abs(r) * math.sqrt((n - 2) / (1 - r * r))
    return Pearson(r, float(2 * scipy.stats.t.sf(t, n - 2)), n)


def correlation(classes: Iterable[float], thresholds: Iterable[float]) -> Pearson:
    """The correlation of thresholds with numbers of classes, over the points whose threshold is finite."""
    points = DataFrame({"classes": list(classes), "thresholds": list(thresholds)}, dtype=float)
    finite = points[numpy.isfinite(points["thresholds"])]
    n, left_out = len(finite), len(points) - len(finite)
    note = f"{left_out} of {len(points)} left out, as random was not beaten there" if left_out else ""
    if n < 3 or finite.nunique().min() == 1:
        return Pearson(math.nan, math.nan, n, note or ("it needs 3" if n < 3 else "all have one value"))
    r, p = scipy.stats.pearsonr(finite["classes"], finite["thresholds"])
    return Pearson(float(r), float(p), n, note)


def draw_figure6(table: DataFrame) -> Figure:
    """Thresholds of a table from `figure6` against numbers of classes, with 95 % bounds.

    If random was not beaten, an arrow points up from the most labels tried; if an interval has no upper end, from the threshold. A dashed
    line of least squares joins three points or more. Hollow markers are the thresholds that the paper's text gives for the frozen arm, with
    an arrow for a lower bound; the paper's own figure cannot be read.

    Raises:
        ValueError: the table has no row.
    """
    if table.empty:
        raise ValueError("there is no threshold to draw: run random and another strategy in the arm of the table, then call figure6 again")
    figure = Figure(figsize=(6.4, 4.6), layout="constrained")
    axis = figure.subplots()
    heights = table["labels_per_class"].where(table["censored"].isna(), table["censored"])
    ends = table["high"].where(numpy.isfinite(table["high"].astype(float)), heights)
    printed = published("bengar2021", metric="threshold_per_class", arm="frozen")
    top = 1.3 * float(max(heights.max(), ends.max(), printed["value"].max()))
    for k, row in enumerate(printed.itertuples()):
        place = row.n_labelled / row.value, row.value
        axis.plot(*place, "o", markersize=9, markerfacecolor="none", color="0.5", label="_" if k else "published")
        if row.kind == "bound":
            _arrow(axis, *place, place[1] + 0.1 * top, "0.5")
    for k, (row, y, high) in enumerate(zip(table.itertuples(), heights, ends, strict=True)):
        colour, marker = COLOURS[k % len(COLOURS)], MARKERS[k % len(MARKERS)]
        down = y - row.low if row.low < y else 0.0
        axis.errorbar(row.classes, y, [[down], [max(high - y, 0.0)]], color=colour, marker=marker, capsize=3)
        if math.isinf(row.labels_per_class) or math.isinf(row.high):
            _arrow(axis, row.classes, y, top, colour)
        text = f"{row.dataset}\n{'> ' if math.isinf(row.labels_per_class) else ''}{y:g} per class"
        axis.annotate(text, (row.classes, y), (7, 4), textcoords="offset points", fontsize=8)
    finite = table[numpy.isfinite(table["labels_per_class"].astype(float))]
    if len(finite) > 2:
        line = {"color": "0.4", "linestyle": "--", "linewidth": 1}
        seaborn.regplot(finite, x="classes", y="labels_per_class", ci=None, scatter=False, line_kws=line, ax=axis)
    right = 1.3 * max(table["classes"].max(), (printed["n_labelled"] / printed["value"]).max())
    axis.set(xlabel="classes", ylabel="labels per class to beat random", xlim=(0, right), ylim=(0, 1.05 * top))
    axis.legend(loc="upper right")
    axis.grid(alpha=0.3)
    seeds = " to ".join(map(str, sorted({table["seeds"].min(), table["seeds"].max()})))
    title = f"Where active learning overtakes random: {seeds} replications, scale {' and '.join(table['scale'].unique())}; 95 % bounds"
    figure.suptitle(f"{title}\n{correlation(table['classes'], table['labels_per_class'])}", fontsize=9)
    return figure


def _arrow(axis: Any, x: float, y: float, top: float, colour: str) -> None:
    axis.annotate("", (x, top), (x, y), arrowprops={"arrowstyle": "-|>", "color": colour, "linewidth": 1.5})
