"""Figure 6 of Bengar et al. 2021: from how many labels per class on active learning beats random sampling, by number of classes.

Frames are those of `claims`. Intervals are of 95 %, by a bootstrap over seeds.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy
import scipy.stats
import seaborn
from matplotlib.figure import Figure
from pandas import DataFrame, MultiIndex

from alnb.papers.bengar2021.claims import DRAWS, gains_over, percentiles, resampled, select
from alnb.papers.published import published
from alnb.report.palette import COLOURS, MARKERS
from alnb.store import Stream


@dataclass(frozen=True)
class _Gains:
    """Gains over random [seeds, budgets, strategies], NaN if there was no run; the budgets as labels per class, increasing."""

    gains: Any
    labels: Any

    def threshold(self, weights: Any) -> Any:
        """The threshold f64 [draws] if seed s counts `weights` [draws, s] times: see the function `threshold`."""
        known = ~numpy.isnan(self.gains)
        total = numpy.tensordot(weights, numpy.where(known, self.gains, 0), 1)
        count = numpy.tensordot(weights, known.astype(float), 1)
        best = numpy.divide(total, count, out=numpy.full_like(total, -math.inf), where=count > 0).max(-1)
        missing = numpy.isneginf(best)
        onwards = numpy.logical_and.accumulate(((best > 0) | missing)[:, ::-1], axis=1)[:, ::-1] & ~missing
        return numpy.where(onwards.any(1), self.labels[onwards.argmax(1)], math.inf)


def _gains(frame: DataFrame, arm: str) -> _Gains:
    """Gains after cycle 0, by seed and labels per class; regimes that share a budget are averaged. Empty if there is nothing to compare."""
    names = list(frame["dataset"].unique())
    if len(names) != 1:
        raise ValueError(f"a threshold is one data set's, but the frame has {', '.join(names) or 'none'}: select one of them")
    rows = select(frame, names[0])
    gains = gains_over(rows[(rows["arm"] == arm) & (rows["cycle"] > 0)], "random", ["seed", "labels"])
    if gains.empty:
        return _Gains(numpy.empty((0, 0, 0)), numpy.empty(0))
    seeds, labels = (sorted(gains.index.unique(level)) for level in ("seed", "labels"))
    full = gains.reindex(MultiIndex.from_product([seeds, labels]))
    return _Gains(full.to_numpy(dtype=float).reshape(len(seeds), len(labels), -1), numpy.asarray(labels, dtype=float))


def threshold(frame: DataFrame, arm: str = "frozen") -> float:
    """Labels per class at the smallest budget from which on, at every larger one too, the best strategy's mean beats that of random.

    `frame` is of one data set. The budgets of all regimes count together; cycle 0, in which no strategy has chosen, is left out. `math.inf`
    if random is not beaten, or not to the end. The best of several means is taken, without regard to their errors, so equal strategies
    often cross by luck: read it with `bootstrap_threshold`.

    Raises:
        ValueError: not one data set, or nothing to compare.
    Source: Bengar et al. 2021, section 6, which does not say how; this reading is ours.
    """
    gains = _gains(frame, arm)
    if not gains.gains.size:
        raise ValueError(f"no runs of random and another strategy in arm {arm!r} after the first cycle: run both, with equal seeds")
    return float(gains.threshold(numpy.ones((1, len(gains.gains))))[0])


def bootstrap_threshold(frame: DataFrame, draws: int = DRAWS, seed: int = 0, *, arm: str = "frozen") -> list[float]:
    """`threshold` of `draws` resamples of the seeds, with replacement, each seed with all its runs; some may be `math.inf`."""
    gains = _gains(frame, arm)
    return gains.threshold(resampled(len(gains.gains), draws, Stream(seed) / "threshold")).tolist()


def figure6(frame: DataFrame, arm: str = "frozen") -> DataFrame:
    """The threshold of every data set that has runs in `arm`, a row each.

    Columns: dataset, classes, labels_per_class (inf if random was not beaten), low, high (bootstrap 95 % percentiles, inf allowed; NaN with
    one seed), censored (the largest labels per class tried, if labels_per_class is inf; else NaN), tried (the same, always), seeds, scale.
    """
    rows = []
    for dataset, runs in frame.groupby("dataset", sort=False):
        gains = _gains(runs, arm)
        if gains.gains.size:
            value, tried, seeds = threshold(runs, arm), float(gains.labels[-1]), len(gains.gains)
            low, high = percentiles(bootstrap_threshold(runs, arm=arm)) if seeds > 1 else (math.nan, math.nan)
            scale, censored = select(runs, dataset)["scale"].iloc[0], tried if math.isinf(value) else math.nan
            rows.append((dataset, int(runs["classes"].iloc[0]), value, low, high, censored, tried, seeds, scale))
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


def bootstrap_correlation(frame: DataFrame, draws: int = DRAWS, seed: int = 0) -> str:
    """How the correlation of `figure6` moves when the seeds of each data set are drawn again. The doubt from few data sets remains."""
    groups = [runs for _, runs in frame.groupby("dataset", sort=False) if _gains(runs, "frozen").gains.size]
    streams = [Stream(seed) / "correlation" / k for k in range(len(groups))]
    columns = [bootstrap_threshold(runs, draws, stream.seed) for runs, stream in zip(groups, streams, strict=True)]
    classes = [int(runs["classes"].iloc[0]) for runs in groups]
    values = [r for drawn in zip(*columns, strict=True) if math.isfinite(r := correlation(classes, drawn).r)]
    if not values:
        return f"no bootstrap of the correlation: {len(groups)} data sets; it needs 3, with thresholds that are finite and different"
    low, high = percentiles(values)
    return f"bootstrap 95 % interval of r {low:.2f} to {high:.2f}, of the {len(values)} of {draws} draws in which r is defined"


def draw_figure6(table: DataFrame) -> Figure:
    """Thresholds of a table from `figure6` against numbers of classes, with bootstrap 95 % intervals.

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
        if not row.exact:
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
    title = (
        f"Where active learning overtakes random: {seeds} seeds, scale {' and '.join(table['scale'].unique())}; 95 % bootstrap intervals"
    )
    figure.suptitle(f"{title}\n{correlation(table['classes'], table['labels_per_class'])}", fontsize=9)
    return figure


def _arrow(axis: Any, x: float, y: float, top: float, colour: str) -> None:
    axis.annotate("", (x, top), (x, y), arrowprops={"arrowstyle": "-|>", "color": colour, "linewidth": 1.5})
