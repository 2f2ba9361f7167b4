"""Which strategy to spend a labelling budget with: what `which_strategy` measured of so many labels a class, where it fits; else the
guideline of Bengar et al. 2021, section 6, from runs or from papers."""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter
from pandas import DataFrame

from alnb.papers.bengar2021 import claims, thresholds
from alnb.papers.experiment import Scale
from alnb.papers.published import published
from alnb.report import palette, stats
from alnb.report.verdicts import ENOUGH
from alnb.store.checks import at_least, one_of
from alnb.widgets.labeller.rounds import advised, defaults

ADVISED = ("random", "entropy", "margin", "kcenter", "svm_margin")
SIDE = {  # what the records lack, and what to do about it
    "imbalanced": "Those of the records are even: acquire.scopes.Quota around the strategy gives each predicted class its share.",
    "duplicates": "The records have none: acquire.scopes.Distinct around the strategy leaves near-duplicates out.",
}
REACH = 2  # records count for at most this many times fewer or more classes than theirs: thresholds grow with the number of classes


@dataclass(frozen=True)
class Advice:
    """`strategy`, of `ADVISED` or `labeller.rounds.defaults`; `why` in sentences; whether it comes from "records" or "papers"; evidence."""

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


def advise(
    classes: int, pool: int, budget: int, self_supervised: bool, frame: DataFrame | None = None, *, sides: Iterable[str] = ()
) -> Advice:
    """The strategy for labelling `budget` of `pool` images of `classes` classes in total, with or without self-supervised features.

    `sides`: those of `SIDE` that are true of the pool. With features, what `labeller.rounds.defaults` holds counts first, up to its largest
    budget and for at most `REACH` times fewer or more classes.

    Where that does not fit, labels per class are compared with the threshold from which on active learning beats random sampling. It is
    linear in the number of classes between data sets; beyond them the nearest counts. Thresholds and strategies come from `frame`, a frame
    of `claims`, if it has runs of a scale but smoke, with `verdicts.ENOUGH` replications, up to that many labels per class, and as near in
    classes; else from published numbers. In records the upper bound of a threshold counts: without an effect at most 5 % of answers are a
    strategy other than random.

    Raises:
        ValueError: a number is not a whole one, or out of range.
    """
    for name, value, least in (("classes", classes, 2), ("pool", pool, 1), ("budget", budget, 1)):
        at_least(name, value, least)
    if budget > pool:
        raise ValueError(f"budget is {budget}, but the pool has only {pool} images: pass {pool} or less, or a larger pool")
    for side in sides:
        one_of("side", side, SIDE)
    arm, labels = "frozen" if self_supervised else "scratch", budget / classes
    measured, why_not = _measured(frame, arm)
    if measured and not min(t.classes for t in measured) / REACH <= classes <= max(t.classes for t in measured) * REACH:
        why_not = f"the records are of {' and '.join(map(str, sorted({t.classes for t in measured})))} classes only"
    elif measured and (limit := _interpolate(measured, classes)).bound and labels >= limit.labels:
        why_not = f"the records end at {limit.labels:.4g} labels per class, and up to there random was not beaten to the end"
    if tried := _tried(classes, labels) if self_supervised else None:
        advice = tried
    elif frame is None or why_not:
        advice = _from_papers(arm, classes, labels, why_not)
    else:
        advice = _from_records(frame, arm, measured, classes, labels)
    if budget == pool:
        advice = replace(advice, strategy="random", why=f"The budget labels the whole pool, so there is nothing to choose. {advice.why}")
    advice = replace(advice, why=" ".join([advice.why, *(SIDE[side] for side in sides)]))
    if self_supervised:
        return advice
    before, after = (_independent(name, classes, 1)[1]["random"] for name in ("scratch", "frozen"))
    first = f"First pre-train without labels: in independent numbers it lifts random sampling from {before:.1%} to {after:.1%}."
    return replace(advice, why=f"{first} If you cannot, this holds. {advice.why}")


def _tried(classes: int, labels: float) -> Advice | None:
    """What `which_strategy` measured of so many labels a class, if anything is near."""
    rows = [row for row in defaults() if row["classes"]]
    tried = sorted(int(n) for row in rows for n in row["classes"].split())
    if not tried or labels > max(float(row["up_to"]) for row in rows) or not tried[0] / REACH <= classes <= tried[-1] * REACH:
        return None
    (first, why_first), (later, why) = (advised(name, labels) for name in ("first", "later"))
    amount = f"{labels:.4g} label{'' if labels == 1 else 's'} per class, with self-supervised features"
    text = f"The budget makes {amount}. Choose the first labels by {first} ({why_first}), and later ones by {later} ({why})."
    return Advice(
        later, text, "records", (f"notebooks/which_strategy.ipynb, data sets of {', '.join(map(str, dict.fromkeys(tried)))} classes",)
    )


def _interpolate(points: Iterable[Threshold], classes: int) -> Threshold:
    """The threshold for `classes`: linear between the two around it, else the nearest one; a bound if one of them is."""
    ranked = sorted(points, key=lambda point: point.classes)
    low = [point for point in ranked if point.classes <= classes][-1:] or ranked[:1]
    high = [point for point in ranked if point.classes >= classes][:1] or ranked[-1:]
    labels = numpy.interp(classes, [point.classes for point in ranked], [point.labels for point in ranked])
    around = list(dict.fromkeys(low + high))
    evidence = tuple(text for point in around for text in point.evidence)
    return Threshold(" and ".join(p.dataset for p in around), classes, float(labels), any(p.bound for p in around), evidence)


def _nearest(points: Iterable[Threshold], classes: int) -> Threshold:
    return min(points, key=lambda point: (abs(point.classes - classes), point.classes))


def _why(limit: Threshold, labels: float, source: str, gains: Mapping[str, object]) -> str:
    """What all advice begins with."""
    amount, bound = f"{labels:.4g} label{'' if labels == 1 else 's'} per class", "more than " if limit.bound else ""
    side, compared = "below" if labels < limit.labels else "at or above", ", ".join(f"{name} {gain}" for name, gain in gains.items())
    threshold = f"{side} the threshold of {bound}{limit.labels:.4g} for {limit.classes} classes, from which on active learning beats random"
    if limit.bound and labels >= limit.labels:
        threshold = f"above {limit.labels:.4g} for {limit.classes} classes, up to which active learning does not beat random"
    return f"The budget makes {amount}, {threshold} {source}: {compared or 'nothing was compared'}."


def _measured(frame: DataFrame | None, arm: str) -> tuple[list[Threshold], str]:
    """The thresholds that the records of `arm` show; or, if there are none, why not."""
    if frame is None:
        return [], "no records were given"
    points, table = [], thresholds.figure6(frame[frame["scale"].isin([scale for scale in Scale if scale.informs])], arm)
    for row in table[table["seeds"] >= ENOUGH].itertuples():
        bound = math.isinf(row.high)
        result = f"random not clearly beaten up to {row.tried:.4g} labels" if bound else f"random beaten from {row.high:.4g} labels on"
        where = f"{row.dataset}, {row.classes} classes, {arm} arm, scale {row.scale}, {row.seeds} replications"
        evidence = f"{where}: {result} per class (threshold {row.labels_per_class:.4g}, 95 % bounds {row.low:.4g} to {row.high:.4g})"
        points.append(Threshold(row.dataset, row.classes, row.tried if bound else row.high, bound, (evidence,)))
    needs = f"the records have no {ENOUGH} replications of random and another strategy in the {arm} arm, at a scale above smoke"
    return points, "" if points else needs


def _from_records(frame: DataFrame, arm: str, measured: Sequence[Threshold], classes: int, labels: float) -> Advice:
    limit, nearest = _interpolate(measured, classes), _nearest(measured, classes)
    rows, below = claims.select(frame, nearest.dataset), labels < limit.labels
    rows = rows[(rows["arm"] == arm) & (rows["cycle"] > 0)]
    rows = rows[rows["labels"] <= min(labels, nearest.labels) if below else rows["labels"] >= nearest.labels]
    sides = {name: stats.paired(rows, {"strategy": name}, {"strategy": "random"}) for name in ADVISED if name != "random"}
    gains = {name: gain for name, gain in sides.items() if gain.n}
    tried = ["kcenter"] if below else list(gains)  # below: one, named before, as a choice among all would need a test of the choice
    better = {name: gains[name].mean for name in tried if name in gains and gains[name].n >= ENOUGH and gains[name].low > 0}
    strategy = max(better, key=lambda name: better[name], default="random")
    part = f"in our records. On {nearest.dataset}, {'up to this budget' if below else 'from its threshold on'}, over random"
    return Advice(strategy, _why(limit, labels, part, gains), "records", limit.evidence)


def _from_papers(arm: str, classes: int, labels: float, why_not: str) -> Advice:
    printed = _printed(arm)
    limit, (place, means) = _interpolate(printed, classes), _independent(arm, classes, labels)
    reached = labels >= limit.labels
    named = max(means, key=lambda name: means[name])
    if arm == "frozen":  # the most accurate of the paper
        _, rows = _of_nearest(published("bengar2021", item="Table 1", arm=arm), arm, classes)
        named = str(rows.loc[rows["value"].idxmax(), "strategy"])
    confirmed = means.get(named, 1) > means["random"]
    strategy = named if reached and not limit.bound and confirmed else "random"
    shown = {name: f"{mean:.1%}" for name, mean in means.items()}
    why = _why(limit, labels, "by the paper. Independent numbers, by area under the budget curve", shown)
    ends, figure = [point.classes for point in printed], published("bengar2021", item="Figure 6").set_index("metric")["value"]
    pearson = thresholds.significance(float(figure["correlation"]), int(figure["points"]))
    notes = {
        f"The paper names {named}, which was no better than random there.": reached and not limit.bound and not confirmed,
        "How far above that choosing pays is not known.": reached and limit.bound,
        f"The paper has {min(ends)} to {max(ends)} classes: the nearest stands in.": not min(ends) <= classes <= max(ends),
        f"That thresholds grow with the number of classes rests on {pearson.n} data sets: p = {pearson.p:.2f}.": arm == "frozen",
        f"The papers count here because {why_not}.": True,
    }
    return Advice(strategy, " ".join([why, *(text for text, applies in notes.items() if applies)]), "papers", (*limit.evidence, place))


def _printed(arm: str) -> list[Threshold]:
    """The thresholds of `arm` in Bengar et al. 2021."""
    points = []
    for row in published("bengar2021", metric="threshold_per_class", arm=arm).itertuples():
        text = f"{row.source}: {'more than ' if row.kind == 'bound' else ''}{row.value:g} labels per class on {row.dataset} ({row.note})"
        points.append(Threshold(row.dataset, round(row.n_labelled / row.value), row.value, row.kind == "bound", (text,)))
    return points


def _of_nearest(table: DataFrame, arm: str, classes: int) -> tuple[Threshold, DataFrame]:
    """The data set of a published table that is nearest in classes, and its rows of `ADVISED`."""
    nearest = _nearest([point for point in _printed(arm) if point.dataset in set(table["dataset"])], classes)
    return nearest, table[(table["dataset"] == nearest.dataset) & table["strategy"].isin(ADVISED)]


def _independent(arm: str, classes: int, labels: float) -> tuple[str, dict[str, float]]:
    """The place, and the mean of each strategy, in Lüth et al. 2023: for the budgets around ours."""
    nearest, rows = _of_nearest(published("luth2023", arm="finetuned" if arm == "frozen" else arm), arm, classes)
    ends = sorted(rows["n_labelled"].unique())
    rows = rows[rows["n_labelled"] == next((end for end in ends if end / nearest.classes >= labels), ends[-1])]
    source, note = rows.iloc[0][["source", "note"]]
    how = "; ".join(note.split("; ")[:2])  # the rest is the spread of one strategy
    return f"{source}: {nearest.dataset}, {how}", dict(zip(rows["strategy"], rows["value"], strict=True))


def draw(classes: int, budget: int, self_supervised: bool, frame: DataFrame | None = None) -> Figure:
    """The question as a star among the thresholds by number of classes: those of the paper, and those of the records of `frame`.

    Lines are solid between known thresholds; dashed, with arrows up, where one is only a lower bound. The axes are logarithmic.
    """
    arm = "frozen" if self_supervised else "scratch"
    figure = Figure(figsize=(7.0, 4.6), layout="constrained")
    axis = figure.subplots()
    sources = {"the paper": _printed(arm), "our records": _measured(frame, arm)[0]}
    for (source, points), colour, marker in zip(sources.items(), palette.COLOURS, palette.MARKERS, strict=False):
        for left, right in itertools.pairwise(sorted(points, key=lambda point: point.classes)):
            between, dashes = range(left.classes, right.classes + 1), "--" if left.bound or right.bound else "-"
            axis.plot(between, [_interpolate([left, right], n).labels for n in between], dashes, color=colour, linewidth=1)
        for k, point in enumerate(points):
            place = point.classes, point.labels
            axis.plot(*place, color=colour, marker=marker, linestyle="none", label="_" if k else f"by {source}")
            axis.annotate(point.dataset, place, (8, -12), textcoords="offset points", fontsize=8, color=colour)
            if point.bound:
                axis.annotate("", (point.classes, 1.5 * point.labels), place, arrowprops={"arrowstyle": "-|>", "color": colour})
    axis.plot(classes, budget / classes, color="black", marker="*", markersize=15, linestyle="none", label="this budget")
    about = "with self-supervised features" if self_supervised else "from scratch"
    axis.set(xscale="log", yscale="log", xlabel="classes", ylabel="labels per class", title=f"From where on choosing pays, {about}")
    low, high = axis.get_ylim()
    axis.set(ylim=(low / 1.5, 3 * high), xlim=(axis.get_xlim()[0] / 1.2, 2 * axis.get_xlim()[1]))
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    for side in (axis.xaxis, axis.yaxis):
        side.set(major_formatter=StrMethodFormatter("{x:g}"), minor_formatter=NullFormatter())
    axis.grid(alpha=0.3, which="both")
    axis.legend(loc="upper left")
    return figure
