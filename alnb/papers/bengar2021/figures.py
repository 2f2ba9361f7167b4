"""Figures 3 to 5 and Table 1 of Bengar et al. 2021, and the milestones of SimSiam's training."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy
import seaborn
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from pandas import DataFrame

from alnb.papers.bengar2021.experiment import ARMS, PAPER
from alnb.papers.claims import spread_parts
from alnb.papers.published import published
from alnb.report import palette, stats, tables
from alnb.report.figures import draw_published

MILESTONES = {100: (0.70, 0.75), 200: (0.76, 0.82), 400: (0.85, 0.88), 800: (0.885, 0.905)}
"""Accuracy of the nearest-neighbour vote by epoch of SimSiam with ResNet-18 on CIFAR-10. Source: Chen and He 2021, Figure D.1, and the
logs of lightly's benchmark, PatrickHua/SimSiam and ahmdtaha/simsiam."""
ARM_STYLES: dict[str, tuple[Any, str, Any]] = {  # line style, label, filled part of the published markers
    "frozen": ("-", "self-supervised, frozen", "none"),
    "scratch": ("--", "from scratch", "bottom"),
}


def milestones(history: Iterable[Mapping[str, float]]) -> DataFrame:
    """`MILESTONES` beside the nearest-neighbour accuracy of a pre-training on CIFAR-10 at those epochs; NaN if it was not measured."""
    measured = {round(look["epoch"], 2): look["knn"] for look in history if "knn" in look}
    rows = [(epoch, low, high, measured.get(epoch, float("nan"))) for epoch, (low, high) in MILESTONES.items()]
    return DataFrame(rows, columns=["epoch", "low", "high", "measured"])


def table1(frame: DataFrame) -> DataFrame:
    """Table 1: accuracy at the end of the curves of the 10 % regime, with half of the pool labelled, beside the published number.

    Columns: dataset, arm, strategy, published, n_labelled, and those of `claims.spread_parts`; NaN if not published or not measured.
    """
    keys = ["dataset", "arm", "strategy"]
    printed = published(PAPER, item="Table 1")[[*keys, "value"]].rename(columns={"value": "published"})
    half = frame[(frame["regime"] == 10) & (frame["cycle"] == frame["cycle"].max())]
    measured = spread_parts(half, [*keys, "n_labelled"]).reset_index()
    return printed[printed["dataset"].isin(frame["dataset"])].merge(measured, how="outer", on=keys)


def draw_table1(table: DataFrame, title: str) -> Figure:
    """A table from `table1`: hollow markers published, filled ones measured with 95 % intervals; a panel for each data set."""
    datasets = list(table["dataset"].unique())
    figure = Figure(figsize=(2.4 + 4.4 * len(datasets), 3.6), layout="constrained")
    for axis, dataset in zip(figure.subplots(1, len(datasets), squeeze=False)[0], datasets, strict=True):
        rows = table[table["dataset"] == dataset].reset_index(drop=True)
        axis.scatter(rows["published"], rows.index, marker="o", s=70, facecolors="none", edgecolors="0.3", label="published")
        for colour, (arm, (_, label, _)) in zip(palette.COLOURS, ARM_STYLES.items(), strict=False):
            ours = rows[rows["arm"] == arm]
            interval = [ours["mean"] - ours["low"], ours["high"] - ours["mean"]]
            axis.errorbar(ours["mean"], ours.index, xerr=interval, fmt="s", color=colour, capsize=3, label=label)
        axis.set(title=dataset, xlabel="test accuracy", yticks=rows.index, yticklabels=rows["strategy"].str.replace("_", " "))
        axis.grid(alpha=0.3)
        axis.margins(x=0.15, y=0.15)
    axis.legend(fontsize=8)
    figure.suptitle(title, fontsize=11)
    return figure


def draw_regimes(frame: DataFrame, title: str) -> Figure:
    """Figures 3 to 5: accuracy against labels, a panel for each regime, a colour for each strategy; mean over seeds with 95 % bands.

    Lines are solid with self-supervision and dashed without, as in the paper. The colours are ours, for
    colour-blind readers. At scale paper the published accuracies are hollow markers, those of training from scratch half filled.
    """
    frame = stats.replications(frame)
    regimes, looks = sorted(frame["regime"].unique()), palette.looks(ARMS["frozen"])
    printed = tables.printed(frame, published(PAPER))
    figure = Figure(figsize=(1.9 + 4.2 * len(regimes), 4.4), layout="constrained")
    for axis, regime in zip(figure.subplots(1, len(regimes), squeeze=False)[0], regimes, strict=True):
        rows = frame[frame["regime"] == regime]
        for (arm, name), runs in rows.groupby(["arm", "strategy"], sort=False, observed=True):
            style = {"linestyle": ARM_STYLES[arm][0], "markersize": 5, "err_kws": {"alpha": 0.1}}
            seaborn.lineplot(runs, x="n_labelled", y="accuracy", errorbar=stats.interval, ax=axis, **looks[name], **style)
        shown = printed[printed["n_labelled"].between(rows["n_labelled"].min(), rows["n_labelled"].max())]
        for arm, (_, _, filled) in ARM_STYLES.items():
            draw_published(axis, shown[shown["arm"] == arm], looks, filled)
        ticks = sorted(rows["n_labelled"].unique())
        per_class = ticks[0] / frame["classes"].iloc[0]
        axis.set(title=f"{ticks[0]} labels a cycle, {per_class:g} per class", xlabel="labels", ylabel="test accuracy", xticks=ticks)
        axis.set_ylim(numpy.clip(axis.get_ylim(), 0, 1))  # a band by Student's t may leave 0 to 1, an accuracy cannot
        axis.grid(alpha=0.3)
    figure.legend(handles=_handles(frame, looks, not printed.empty), loc="outside right center", frameon=False)
    figure.suptitle(f"{title}; mean of n = {stats.seeds(frame)}, 95 % bands", fontsize=11)
    return figure


def _handles(frame: DataFrame, looks: Mapping[str, Mapping[str, Any]], printed: bool) -> list[Line2D]:
    """The legend of `draw_regimes`."""
    names, arms = set(frame["strategy"]), set(frame["arm"])
    handles = [Line2D([], [], label=name.replace("_", " "), **look) for name, look in looks.items() if name in names]
    marker: dict[str, Any] = {"color": "0.3", "linestyle": "none", "marker": "o", "markersize": 9, "markerfacecoloralt": "none"}
    for arm, (line, text, filled) in ARM_STYLES.items():
        if arm in arms:
            handles.append(Line2D([], [], color="0.3", linestyle=line, label=text))
            handles += [Line2D([], [], fillstyle=filled, label=f"published, {text}", **marker)] if printed else []
    return handles
