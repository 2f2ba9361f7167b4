"""Which strategy to spend a labelling budget with: the guideline of Bengar et al. 2021, section 6, from runs or else from papers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from typing import TYPE_CHECKING, Any, Literal

from alnb.papers.bengar2021 import claims
from alnb.papers.published import published
from alnb.report import palette, stats

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

ADVISED = ("random", "entropy", "margin", "kcenter", "svm_margin")
SEEDS = 2  # fewer show no spread, so what they say is no evidence
REACH = 2  # records speak of so many times fewer or more classes than theirs: thresholds grow with the number of classes
NO_RECORDS = "no records were given"


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
class _Anchor:
    """The threshold of a data set, in labels per class; `bound`: known only to lie above."""

    dataset: str
    classes: int
    labels: float
    bound: bool
    evidence: tuple[str, ...]

    def __str__(self) -> str:
        return f"{'more than ' if self.bound else ''}{self.labels:.4g}"


def advise(classes: int, pool: int, budget: int, self_supervised: bool, frame: DataFrame | None = None) -> Advice:
    """The strategy for labelling `budget` of `pool` images of `classes` classes in total, with or without self-supervised features.

    Labels per class are held against the threshold from which on active learning beats random sampling, interpolated linearly in the
    number of classes between data sets, beyond them that of the nearest. `frame`, as in `alnb.claims`, gives thresholds and strategies
    where it has runs at scale paper or laptop, with 2 seeds or more, up to that many labels per class and of no more than `REACH` times
    fewer or more classes; else published numbers do. From records, only what beats random sampling beyond its 95 % interval is advised.

    Raises:
        ValueError: a number is not a whole one, or out of range.
    """
    _check(classes, pool, budget)
    arm = "frozen" if self_supervised else "scratch"
    anchors, why_not = _measured(frame, arm)
    known = _interpolate(anchors, classes) if anchors else None
    if anchors and not min(a.classes for a in anchors) / REACH <= classes <= max(a.classes for a in anchors) * REACH:
        why_not = f"the records are of {' and '.join(sorted({str(a.classes) for a in anchors}, key=int))} classes only"
        known = None
    if known is not None and known.bound and budget / classes >= known.labels:
        why_not = f"the records end at {known.labels:.4g} labels per class, and up to there random was not beaten to the end"
        known = None
    if frame is not None and known is not None:
        advice = _from_records(frame, arm, known, anchors, classes, budget)
    else:
        advice = _from_papers(arm, classes, budget, why_not)
    if budget == pool:
        advice = replace(advice, strategy="random", why=f"The budget labels the whole pool, so there is nothing to choose. {advice.why}")
    return advice if self_supervised else _with_first_advice(advice, frame, classes)


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


def _interpolate(anchors: Sequence[_Anchor], classes: int) -> _Anchor:
    """The threshold for `classes`: linear between the two anchors around it, else the nearest one's; a bound if one of them is."""
    ranked = sorted(anchors, key=lambda anchor: anchor.classes)
    left = [anchor for anchor in ranked if anchor.classes <= classes]
    right = [anchor for anchor in ranked if anchor.classes >= classes]
    if not left or not right or left[-1].classes == right[0].classes:
        return left[-1] if left else right[0]
    low, high = left[-1], right[0]
    share = (classes - low.classes) / (high.classes - low.classes)
    labels = low.labels + share * (high.labels - low.labels)
    return _Anchor(f"{low.dataset} and {high.dataset}", classes, labels, low.bound or high.bound, (*low.evidence, *high.evidence))


def _nearest(anchors: Sequence[_Anchor], classes: int) -> _Anchor:
    return min(anchors, key=lambda anchor: (abs(anchor.classes - classes), anchor.classes))


def draw(classes: int, budget: int, self_supervised: bool, frame: DataFrame | None = None) -> Figure:
    """The question as a star among the thresholds by number of classes: those of the paper, and those of the records of `frame`.

    Solid where a threshold is known, dashed with arrows up where it is only known to lie above; on logarithmic axes.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    arm = "frozen" if self_supervised else "scratch"
    figure = Figure(figsize=(7.0, 4.6), layout="constrained")
    axis = figure.subplots()
    found = {"the paper": _printed(arm), "our records": _measured(frame, arm)[0]}
    for (source, anchors), colour, marker in zip(found.items(), palette.COLOURS, palette.MARKERS, strict=False):
        _draw_thresholds(axis, sorted(anchors, key=lambda anchor: anchor.classes), source, colour, marker)
    axis.plot(classes, budget / classes, color="black", marker="*", markersize=15, linestyle="none", label="this budget")
    about = "with self-supervised features" if self_supervised else "from scratch"
    axis.set(xscale="log", yscale="log", xlabel="classes", ylabel="labels per class", title=f"From where on choosing pays, {about}")
    low, high = axis.get_ylim()
    axis.set(ylim=(low / 1.5, 3 * high), xlim=(axis.get_xlim()[0] / 1.2, 2 * axis.get_xlim()[1]))
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    for one in (axis.xaxis, axis.yaxis):
        one.set_major_formatter(StrMethodFormatter("{x:g}"))
        one.set_minor_formatter(NullFormatter())
    axis.grid(alpha=0.3, which="both")
    axis.legend(loc="upper left")
    return figure


def _draw_thresholds(axis: Any, ranked: Sequence[_Anchor], source: str, colour: str, marker: str) -> None:
    for left, right in itertools.pairwise(ranked):
        between = range(left.classes, right.classes + 1)
        dashes = "--" if left.bound or right.bound else "-"
        axis.plot(between, [_interpolate([left, right], n).labels for n in between], color=colour, linestyle=dashes, linewidth=1)
    for k, anchor in enumerate(ranked):
        place = anchor.classes, anchor.labels
        axis.plot(*place, color=colour, marker=marker, linestyle="none", label="_" if k else f"by {source}")
        axis.annotate(anchor.dataset, place, (8, -12), textcoords="offset points", fontsize=8, color=colour)
        if anchor.bound:
            axis.annotate("", (anchor.classes, 1.5 * anchor.labels), place, arrowprops={"arrowstyle": "-|>", "color": colour})


# --- from records ---


def _measured(frame: DataFrame | None, arm: str) -> tuple[list[_Anchor], str]:
    """The thresholds that the records of `arm` show, and why there are none where there are none."""
    if frame is None:
        return [], NO_RECORDS
    usable = frame[frame["scale"].isin([scale for scale in claims.SCALES if scale != "smoke"])]
    if usable.empty:
        return [], "the records hold no runs at scale paper or laptop"
    table = claims.figure6(usable, arm)
    if table.empty:
        return [], f"the records have no runs of random and another strategy in the {arm} arm"
    table = table[table["seeds"] >= SEEDS]
    anchors = []
    for row in table.itertuples():
        bound = math.isinf(row.labels_per_class)
        what = f"random not beaten up to {row.tried:.4g} labels per class" if bound else f"threshold {row.labels_per_class:.4g} per class"
        where = f"{row.dataset}, {row.classes} classes, {arm} arm, scale {row.scale}, {row.seeds} seeds"
        interval = f"bootstrap 95 % interval {row.low:.4g} to {row.high:.4g}"
        labels = row.tried if bound else row.labels_per_class
        anchors.append(_Anchor(row.dataset, row.classes, labels, bound, (f"{where}: {what} ({interval})",)))
    return anchors, "" if anchors else f"the records have fewer than {SEEDS} seeds"


def _runs(frame: DataFrame, dataset: str, arm: str) -> DataFrame:
    """Runs of a data set in `arm` after the first cycle, at its most faithful scale, with `labels` per class."""
    rows = claims.select(frame[frame["scale"] != "smoke"], dataset)
    return rows[(rows["arm"] == arm) & (rows["cycle"] > 0)]


def _from_records(frame: DataFrame, arm: str, known: _Anchor, anchors: Sequence[_Anchor], classes: int, budget: int) -> Advice:
    labels, nearest = budget / classes, _nearest(anchors, classes)
    rows = _runs(frame, nearest.dataset, arm)
    below = labels < known.labels
    rows = rows[rows["labels"] <= min(labels, nearest.labels) if below else rows["labels"] >= nearest.labels]
    gains = {
        name: stats.paired(rows, {"strategy": name}, {"strategy": "random"})
        for name in ADVISED
        if name != "random" and name in set(rows["strategy"])
    }
    gains = {name: gain for name, gain in gains.items() if gain.n}
    strategy = "random"
    if below and "kcenter" in gains and stats.verdict(gains["kcenter"]) == stats.HOLDS:
        strategy = "kcenter"
    if not below and gains:
        best = max(gains, key=lambda name: gains[name].mean)
        strategy = best if stats.verdict(gains[best]) == stats.HOLDS else "random"
    scales = " and ".join(sorted({row.scale for row in rows.itertuples()})) or "none"
    side = "below" if below else "at or above"
    compared = f"On {nearest.dataset}, {'up to this budget' if below else 'from its threshold on'}"
    means = ", ".join(f"{name} {gain}" for name, gain in gains.items()) or "nothing was compared"
    why = (
        f"{_amount(labels)}, {side} the threshold of {known} for {classes} classes, from which on active learning beats random "
        f"sampling in our records. {compared}, at scale {scales}, over random: {means}. "
        "Our records count before the papers, as they are of this code."
    )
    return Advice(strategy, why, "records", known.evidence)


def _amount(labels: float) -> str:
    return f"The budget makes {labels:.4g} label{'' if labels == 1 else 's'} per class"


# --- from the papers ---


def _from_papers(arm: str, classes: int, budget: int, why_not: str) -> Advice:
    labels, anchors = budget / classes, _printed(arm)
    known, place, means = _interpolate(anchors, classes), *_independent(arm, classes, labels)
    best = max(means, key=lambda name: means[name])
    if labels < known.labels:
        strategy, side, then = "random", "below", "Below it random sampling is best."
    elif known.bound:
        strategy, side = best, "at or above"
        then = f"How far above that it lies the papers do not say; {best} has the best mean in the independent numbers."
    elif arm == "frozen":
        strategy, side = _table1(arm, classes), "at or above"
        then = f"From there on active learning is better, and {strategy} is the most accurate in the paper's Table 1."
    else:
        strategy, side = best, "at or above"
        then = f"From there on active learning is better, and {best} has the best mean in the independent numbers."
    numbers = ", ".join(f"{name} {mean:.1%}" for name, mean in means.items())
    doubt = (
        ""
        if strategy == "random" or means.get(strategy, 1) > means["random"]
        else f", where {strategy} was no better than random: a toss-up"
    )
    ends = [anchor.classes for anchor in anchors]
    if not min(ends) <= classes <= max(ends):
        doubt += f". The paper has {min(ends)} to {max(ends)} classes: for {classes} the threshold of the nearest stands in"
    why = (
        f"{_amount(labels)}, {side} the threshold of {known} for {classes} classes, from which on active learning beats random sampling "
        f"by the paper. {then} Independent numbers, by area under the budget curve: {numbers}{doubt}. "
        f"{_caveat() if arm == 'frozen' else ''}The papers count here because {why_not}."
    )
    return Advice(strategy, why, "papers", (*known.evidence, place))


def _printed(arm: str) -> list[_Anchor]:
    """The thresholds of `arm` in Bengar et al. 2021."""
    anchors = []
    for row in published("bengar2021", metric="threshold_per_class", arm=arm).itertuples():
        text = f"{row.source}: {'' if row.exact else 'more than '}{row.value:g} labels per class on {row.dataset} ({row.note})"
        anchors.append(_Anchor(row.dataset, round(row.n_labelled / row.value), row.value, not row.exact, (text,)))
    return anchors


def _table1(arm: str, classes: int) -> str:
    """The most accurate strategy of `arm` in Table 1 of Bengar et al. 2021, for its data set nearest in classes."""
    table = published("bengar2021", item="Table 1", arm=arm)
    nearest = _nearest([anchor for anchor in _printed(arm) if anchor.dataset in set(table["dataset"])], classes)
    rows = table[(table["dataset"] == nearest.dataset) & table["strategy"].isin(ADVISED)]
    return str(rows.loc[rows["value"].idxmax(), "strategy"])


def _independent(arm: str, classes: int, labels: float) -> tuple[str, dict[str, float]]:
    """The place, and the means of the strategies of `ADVISED`, in Lüth et al. 2023: the nearest data set, the budgets around ours."""
    table = published("luth2023", arm="finetuned" if arm == "frozen" else arm)
    nearest = _nearest([anchor for anchor in _printed(arm) if anchor.dataset in set(table["dataset"])], classes)
    rows = table[(table["dataset"] == nearest.dataset) & table["strategy"].isin(ADVISED)]
    ends = sorted(rows["n_labelled"].unique())
    rows = rows[rows["n_labelled"] == next((end for end in ends if end / nearest.classes >= labels), ends[-1])]
    source, note = rows.iloc[0][["source", "note"]]
    how = "; ".join(note.split("; ")[:2])  # what follows is the spread of one strategy
    return f"{source}: {nearest.dataset}, {how}", dict(zip(rows["strategy"], rows["value"], strict=True))


def _caveat() -> str:
    figure = published("bengar2021", item="Figure 6").set_index("metric")["value"]
    found = claims.significance(float(figure["correlation"]), int(figure["points"]))
    return (
        f"That thresholds grow linearly with the number of classes (r = {found.r:g}) rests on {found.n} data sets, which is weak: "
        f"p = {found.p:.2f}. "
    )


# --- without self-supervision ---


def _with_first_advice(advice: Advice, frame: DataFrame | None, classes: int) -> Advice:
    """`advice`, with the paper's claim C1 before it."""
    gain, place = _pretraining(frame, classes)
    first = f"First of all pre-train without labels, which costs none (claim C1 of the paper): {gain}. If you cannot: "
    return replace(advice, why=first + advice.why[0].lower() + advice.why[1:], evidence=(*advice.evidence, place))


def _pretraining(frame: DataFrame | None, classes: int) -> tuple[str, str]:
    """What self-supervision gives random sampling at the smallest budget, by our records or else by Lüth et al. 2023; and the place."""
    records = None if frame is None else frame[(frame["scale"] != "smoke") & (frame["strategy"] == "random")]
    both = []
    for dataset in [] if records is None else records["dataset"].unique():
        rows = claims.select(records, dataset)
        shared = set(rows[rows["arm"] == "frozen"]["regime"]) & set(rows[rows["arm"] == "scratch"]["regime"])
        rows = rows[rows["regime"] == min(shared, default=None)]
        gain = stats.paired(rows, {"arm": "frozen"}, {"arm": "scratch"})
        if gain.n >= SEEDS:
            place = f"{dataset}, regime {min(shared):g}, both arms, scale {rows['scale'].iloc[0]}, {gain.n} seeds"
            both.append((abs(int(rows["classes"].iloc[0]) - classes), f"in our records it gives random sampling {gain}", place))
    if both:
        return min(both)[1:]
    (before_place, before), (after_place, after) = (_independent(arm, classes, 1) for arm in ("scratch", "frozen"))
    text = f"in independent numbers it lifts random sampling from {before['random']:.1%} to {after['random']:.1%}"
    return text, f"{before_place}, beside {after_place}"
