"""Which strategy to spend a labelling budget with: the guideline of Bengar et al. 2021, section 6, from runs or else from papers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any, Literal

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter
from pandas import DataFrame

from alnb.papers.bengar2021 import claims, thresholds
from alnb.papers.experiment import Scale
from alnb.papers.published import published
from alnb.report import palette, stats

ADVISED = ("random", "entropy", "margin", "kcenter", "svm_margin")
SEEDS = 2  # records with fewer show no spread, and are no evidence
REACH = 2  # records count for at most this many times fewer or more classes than theirs: thresholds grow with the number of classes
WEAK = "That thresholds grow linearly with the number of classes (r = {r:g}) rests on {n} data sets, which is weak: p = {p:.2f}. "


@dataclass(frozen=True)
class Advice:
    """One of `ADVISED` as `strategy`; `why` in sentences; whether it comes from "records" or "papers"; what that rests on."""

    strategy: str
    why: str
    source: Literal["records", "papers"]
    evidence: tuple[str, ...]

    def __str__(self) -> str:
        """One paragraph."""
        return f"Label by {self.strategy}. {self.why} Evidence ({self.source}): {'; '.join(self.evidence)}."


@dataclass(frozen=True)
class Threshold:
    """From how many labels per class on active learning beats random, on a data set; `bound`: only known to lie above `labels`."""

    dataset: str
    classes: int
    labels: float
    bound: bool
    evidence: tuple[str, ...]

    def __str__(self) -> str:
        """The number."""
        return f"{'more than ' if self.bound else ''}{self.labels:.4g}"


def advise(classes: int, pool: int, budget: int, self_supervised: bool, frame: DataFrame | None = None) -> Advice:
    """The strategy for labelling `budget` of `pool` images of `classes` classes in total, with or without self-supervised features.

    Labels per class are compared with the threshold from which on active learning beats random sampling. It is linear in the number of
    classes between data sets; beyond them the nearest counts. Thresholds and strategies come from `frame`, a frame of `claims`, if it has
    runs of a scale that decides, with `SEEDS` seeds or more, up to that many labels per class, and of at most `REACH` times fewer or more
    classes; else from published numbers. Records advise only what beats random sampling beyond its 95 % interval.

    Raises:
        ValueError: a number is not a whole one, or out of range.
    """
    _check(classes, pool, budget)
    arm = "frozen" if self_supervised else "scratch"
    measured, why_not = _measured(frame, arm)
    if measured and not min(t.classes for t in measured) / REACH <= classes <= max(t.classes for t in measured) * REACH:
        why_not = f"the records are of {' and '.join(map(str, sorted({t.classes for t in measured})))} classes only"
    elif measured and (limit := _interpolate(measured, classes)).bound and budget / classes >= limit.labels:
        why_not = f"the records end at {limit.labels:.4g} labels per class, and up to there random was not beaten to the end"
    if frame is None or why_not:
        advice = _from_papers(arm, classes, budget, why_not)
    else:
        advice = _from_records(frame, arm, measured, classes, budget)
    if budget == pool:
        advice = replace(advice, strategy="random", why=f"The budget labels the whole pool, so there is nothing to choose. {advice.why}")
    if self_supervised:
        return advice
    gain, place = _pretraining(frame, classes)
    first = f"First of all pre-train without labels, which costs none (claim C1 of the paper): {gain}. If you cannot: "
    return replace(advice, why=first + advice.why[0].lower() + advice.why[1:], evidence=(*advice.evidence, place))


def _check(classes: int, pool: int, budget: int) -> None:
    for name, value in (("classes", classes), ("pool", pool), ("budget", budget)):
        if not isinstance(value, Integral) or isinstance(value, bool):
            raise ValueError(f"{name} is {value!r}, not a whole number: pass an int")
    if classes < 2:
        raise ValueError(f"classes is {classes}, but there is nothing to tell apart below 2: pass the number of classes to distinguish")
    if budget < 1:
        raise ValueError(f"budget is {budget}, but advice needs 1 label or more: pass how many labels you can pay for in total")
    if budget > pool:
        raise ValueError(f"budget is {budget}, but the pool has only {pool} images: pass {pool} or less, or a larger pool")


def _interpolate(points: Sequence[Threshold], classes: int) -> Threshold:
    """The threshold for `classes`: linear between the two around it, else the nearest one; a bound if one of them is."""
    ranked = sorted(points, key=lambda point: point.classes)
    left = [point for point in ranked if point.classes <= classes]
    right = [point for point in ranked if point.classes >= classes]
    if not left or not right or left[-1].classes == right[0].classes:
        return left[-1] if left else right[0]
    low, high = left[-1], right[0]
    labels = low.labels + (classes - low.classes) / (high.classes - low.classes) * (high.labels - low.labels)
    return Threshold(f"{low.dataset} and {high.dataset}", classes, labels, low.bound or high.bound, (*low.evidence, *high.evidence))


def _nearest(points: Sequence[Threshold], classes: int) -> Threshold:
    return min(points, key=lambda point: (abs(point.classes - classes), point.classes))


def _compared(limit: Threshold, classes: int, labels: float) -> str:
    side = "below" if labels < limit.labels else "at or above"
    amount = f"{labels:.4g} label{'' if labels == 1 else 's'} per class"
    return f"The budget makes {amount}, {side} the threshold of {limit} for {classes} classes, from which on active learning beats random"


# ---- from records --------------------------------------------------------------------------------------------------------------


def _measured(frame: DataFrame | None, arm: str) -> tuple[list[Threshold], str]:
    """The thresholds that the records of `arm` show; or, if there are none, why not."""
    if frame is None:
        return [], "no records were given"
    decisive = frame[frame["scale"].isin([scale for scale in Scale if scale.decides])]
    if decisive.empty:
        return [], "the records hold no runs at a scale that decides anything"
    table = thresholds.figure6(decisive, arm)
    if table.empty:
        return [], f"the records have no runs of random and another strategy in the {arm} arm"
    points = []
    for row in table[table["seeds"] >= SEEDS].itertuples():
        bound = math.isinf(row.labels_per_class)
        result = f"random not beaten up to {row.tried:.4g} labels" if bound else f"threshold {row.labels_per_class:.4g}"
        where = f"{row.dataset}, {row.classes} classes, {arm} arm, scale {row.scale}, {row.seeds} seeds"
        evidence = f"{where}: {result} per class (bootstrap 95 % interval {row.low:.4g} to {row.high:.4g})"
        points.append(Threshold(row.dataset, row.classes, row.tried if bound else row.labels_per_class, bound, (evidence,)))
    return points, "" if points else f"the records have fewer than {SEEDS} seeds"


def _from_records(frame: DataFrame, arm: str, measured: Sequence[Threshold], classes: int, budget: int) -> Advice:
    labels, limit, nearest = budget / classes, _interpolate(measured, classes), _nearest(measured, classes)
    rows = claims.select(frame, nearest.dataset)
    rows = rows[(rows["arm"] == arm) & (rows["cycle"] > 0)]
    below = labels < limit.labels
    rows = rows[rows["labels"] <= min(labels, nearest.labels) if below else rows["labels"] >= nearest.labels]
    sides = {name: stats.paired(rows, {"strategy": name}, {"strategy": "random"}) for name in ADVISED if name != "random"}
    gains = {name: gain for name, gain in sides.items() if gain.n}
    best = "kcenter" if below else max(gains, key=lambda name: gains[name].mean, default="random")
    strategy = best if best in gains and stats.verdict(gains[best]) == stats.HOLDS else "random"
    means = ", ".join(f"{name} {gain}" for name, gain in gains.items()) or "nothing was compared"
    scale = " and ".join(sorted(rows["scale"].unique())) or "none"
    why = (
        f"{_compared(limit, classes, labels)} in our records. On {nearest.dataset}, "
        f"{'up to this budget' if below else 'from its threshold on'}, at scale {scale}, over random: {means}. "
        "Our records count before the papers, as they are of this code."
    )
    return Advice(strategy, why, "records", limit.evidence)


# ---- from the papers -----------------------------------------------------------------------------------------------------------


def _from_papers(arm: str, classes: int, budget: int, why_not: str) -> Advice:
    labels, printed = budget / classes, _printed(arm)
    limit, (place, means) = _interpolate(printed, classes), _independent(arm, classes, labels)
    best = max(means, key=lambda name: means[name])
    if labels < limit.labels:
        strategy, then = "random", "Below it random sampling is best."
    elif limit.bound:
        strategy, then = best, f"The papers do not say how far above that it lies; {best} has the best mean in the independent numbers."
    elif arm == "frozen":
        strategy = _table1(arm, classes)
        then = f"From there on active learning is better, and {strategy} is the most accurate in the paper's Table 1."
    else:
        strategy, then = best, f"From there on active learning is better, and {best} has the best mean in the independent numbers."
    numbers = ", ".join(f"{name} {mean:.1%}" for name, mean in means.items())
    tied = strategy != "random" and means.get(strategy, 1) <= means["random"]
    doubt = f", where {strategy} was no better than random: a toss-up" if tied else ""
    ends = [point.classes for point in printed]
    if not min(ends) <= classes <= max(ends):
        doubt += f". The paper has {min(ends)} to {max(ends)} classes: for {classes} the threshold of the nearest stands in"
    why = (
        f"{_compared(limit, classes, labels)} by the paper. {then} Independent numbers, by area under the budget curve: {numbers}{doubt}. "
        f"{_caveat() if arm == 'frozen' else ''}The papers count here because {why_not}."
    )
    return Advice(strategy, why, "papers", (*limit.evidence, place))


def _printed(arm: str) -> list[Threshold]:
    """The thresholds of `arm` in Bengar et al. 2021."""
    points = []
    for row in published("bengar2021", metric="threshold_per_class", arm=arm).itertuples():
        text = f"{row.source}: {'' if row.exact else 'more than '}{row.value:g} labels per class on {row.dataset} ({row.note})"
        points.append(Threshold(row.dataset, round(row.n_labelled / row.value), row.value, not row.exact, (text,)))
    return points


def _of_nearest(table: DataFrame, arm: str, classes: int) -> tuple[Threshold, DataFrame]:
    """The data set of a published table that is nearest in classes, and its rows of `ADVISED`."""
    nearest = _nearest([point for point in _printed(arm) if point.dataset in set(table["dataset"])], classes)
    return nearest, table[(table["dataset"] == nearest.dataset) & table["strategy"].isin(ADVISED)]


def _table1(arm: str, classes: int) -> str:
    """The most accurate strategy of `arm` in Table 1 of Bengar et al. 2021."""
    _, rows = _of_nearest(published("bengar2021", item="Table 1", arm=arm), arm, classes)
    return str(rows.loc[rows["value"].idxmax(), "strategy"])


def _independent(arm: str, classes: int, labels: float) -> tuple[str, dict[str, float]]:
    """The place, and the mean of each strategy, in Lüth et al. 2023: for the budgets around ours."""
    nearest, rows = _of_nearest(published("luth2023", arm="finetuned" if arm == "frozen" else arm), arm, classes)
    ends = sorted(rows["n_labelled"].unique())
    rows = rows[rows["n_labelled"] == next((end for end in ends if end / nearest.classes >= labels), ends[-1])]
    source, note = rows.iloc[0][["source", "note"]]
    how = "; ".join(note.split("; ")[:2])  # the rest is the spread of one strategy
    return f"{source}: {nearest.dataset}, {how}", dict(zip(rows["strategy"], rows["value"], strict=True))


def _caveat() -> str:
    figure = published("bengar2021", item="Figure 6").set_index("metric")["value"]
    pearson = thresholds.significance(float(figure["correlation"]), int(figure["points"]))
    return WEAK.format(r=pearson.r, n=pearson.n, p=pearson.p)


def _pretraining(frame: DataFrame | None, classes: int) -> tuple[str, str]:
    """What self-supervision gives random sampling at the smallest budget, by our records or else by Lüth et al. 2023; and the place."""
    scales = [scale for scale in Scale if scale.decides]
    records = None if frame is None else frame[frame["scale"].isin(scales) & (frame["strategy"] == "random")]
    measured = []
    for dataset in [] if records is None else records["dataset"].unique():
        rows = claims.select(records, dataset)
        regimes = set(rows[rows["arm"] == "frozen"]["regime"]) & set(rows[rows["arm"] == "scratch"]["regime"])
        rows = rows[rows["regime"] == min(regimes, default=None)]
        gain = stats.paired(rows, {"arm": "frozen"}, {"arm": "scratch"})
        if gain.n >= SEEDS:
            place = f"{dataset}, regime {min(regimes):g}, both arms, scale {rows['scale'].iloc[0]}, {gain.n} seeds"
            measured.append((abs(int(rows["classes"].iloc[0]) - classes), f"in our records it gives random sampling {gain}", place))
    if measured:
        return min(measured)[1:]
    (before_place, before), (after_place, after) = (_independent(arm, classes, 1) for arm in ("scratch", "frozen"))
    text = f"in independent numbers it lifts random sampling from {before['random']:.1%} to {after['random']:.1%}"
    return text, f"{before_place}, beside {after_place}"


# ---- picture -------------------------------------------------------------------------------------------------------------------


def draw(classes: int, budget: int, self_supervised: bool, frame: DataFrame | None = None) -> Figure:
    """The question as a star among the thresholds by number of classes: those of the paper, and those of the records of `frame`.

    Lines are solid between known thresholds; dashed, with arrows up, where one is only a lower bound. The axes are logarithmic.
    """
    arm = "frozen" if self_supervised else "scratch"
    figure = Figure(figsize=(7.0, 4.6), layout="constrained")
    axis = figure.subplots()
    sources = {"the paper": _printed(arm), "our records": _measured(frame, arm)[0]}
    for (source, points), colour, marker in zip(sources.items(), palette.COLOURS, palette.MARKERS, strict=False):
        _draw_thresholds(axis, sorted(points, key=lambda point: point.classes), source, colour, marker)
    axis.plot(classes, budget / classes, color="black", marker="*", markersize=15, linestyle="none", label="this budget")
    about = "with self-supervised features" if self_supervised else "from scratch"
    axis.set(xscale="log", yscale="log", xlabel="classes", ylabel="labels per class", title=f"From where on choosing pays, {about}")
    low, high = axis.get_ylim()
    axis.set(ylim=(low / 1.5, 3 * high), xlim=(axis.get_xlim()[0] / 1.2, 2 * axis.get_xlim()[1]))
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    for side in (axis.xaxis, axis.yaxis):
        side.set_major_formatter(StrMethodFormatter("{x:g}"))
        side.set_minor_formatter(NullFormatter())
    axis.grid(alpha=0.3, which="both")
    axis.legend(loc="upper left")
    return figure


def _draw_thresholds(axis: Any, ranked: Sequence[Threshold], source: str, colour: str, marker: str) -> None:
    for left, right in itertools.pairwise(ranked):
        between = range(left.classes, right.classes + 1)
        dashes = "--" if left.bound or right.bound else "-"
        axis.plot(between, [_interpolate([left, right], n).labels for n in between], color=colour, linestyle=dashes, linewidth=1)
    for k, point in enumerate(ranked):
        place = point.classes, point.labels
        axis.plot(*place, color=colour, marker=marker, linestyle="none", label="_" if k else f"by {source}")
        axis.annotate(point.dataset, place, (8, -12), textcoords="offset points", fontsize=8, color=colour)
        if point.bound:
            axis.annotate("", (point.classes, 1.5 * point.labels), place, arrowprops={"arrowstyle": "-|>", "color": colour})
