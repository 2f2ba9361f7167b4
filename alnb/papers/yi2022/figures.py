"""The figures and tables of Yi et al. 2022 that `report` does not draw for all papers."""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path

import pandas
import seaborn
from matplotlib.figure import Figure
from pandas import DataFrame, Series
from scipy import stats

from alnb.loop.experiment import Cycle
from alnb.papers.jobs import TaggedRun
from alnb.papers.published import published as read_published
from alnb.papers.yi2022.claims import labelled
from alnb.report import palette, tables
from alnb.report.stats import interval, replications

ORDER = "6.3: first labels, order"  # a panel of Figure 6
ITEMS = {
    "figure3": ("CIFAR-10, first iteration", "CIFAR-10, last iteration"),
    "figure6": (
        "CIFAR-10, low loss first, first iteration",
        "CIFAR-10, low loss first, last iteration",
        "CIFAR-10, sampling in the first batch",
    ),
}  # of `published.csv`, that belong to a figure


def printed(frame: DataFrame, figure: str) -> DataFrame:
    """The accuracies that the paper prints of what its figure shows, for `figures.draw_curves`; none unless runs are at scale paper."""
    accuracies = tables.printed(frame, read_published("yi2022"))
    shown = accuracies[accuracies["item"].isin(ITEMS[figure])]
    return shown.assign(arm=ORDER) if figure == "figure6" else shown


def panels(frame: DataFrame) -> DataFrame:
    """The runs of Figure 6 by label, with a panel for each of its parts as column `arm`; PT4AL and random choice stand in all of them."""
    frame = labelled(frame)
    parts = {
        "(a) parts": ("sampling_only", "pretext_high", "pretext_low"),
        "(b) pretexts": tuple(frame[~frame["pretext"].isin(["", "rotation"])]["strategy"].unique()),
        ORDER: ("pt4al_low_first", "pt4al_top_k", "pt4al_random_first"),
    }
    shared = ["random", "pt4al"]
    return pandas.concat([frame[frame["strategy"].isin([*shared, *names])].assign(arm=title) for title, names in parts.items()])


def balance(counts: DataFrame) -> DataFrame:
    """How evenly each strategy's labels are spread over the classes, of `records.class_counts`: entropy over ln C, mean over runs.

    Returns: a row for each strategy, columns "first iteration" and "all iterations"; 1 if all classes are equally frequent.
    """
    columns = {}
    for name, rows in {"first iteration": counts[counts["cycle"] == counts["cycle"].min()], "all iterations": counts}.items():
        shares = rows.groupby(["strategy", "run", "class"], sort=False, observed=True)["count"].sum().unstack("class")
        evenness = Series(stats.entropy(shares, axis=1) / math.log(shares.shape[1]), shares.index)
        columns[name] = evenness.groupby("strategy", sort=False, observed=True).mean()
    return DataFrame(columns)


def draw_cold_start(frame: DataFrame, published: DataFrame, title: str) -> Figure:
    """Table 1 as a figure: accuracy of the first cycle for each `part` of the pool; dots are runs, bars means with 95 % intervals
    over replications.

    A dashed line is the mean of random choice. At scale paper the published accuracies are hollow markers.
    """
    names, rows = list(frame["part"].unique()), frame.astype({"part": object})
    means = replications(rows)
    figure = Figure(figsize=(1.8 + 0.62 * len(names), 4.2), layout="constrained")
    axis = figure.subplots()
    colours = {name: palette.COLOURS[{"float": 0, "text": 1}.get(name.split()[0], 2)] for name in names}
    look = {"order": names, "palette": colours, "errorbar": interval, "capsize": 0.3, "linewidth": 1.5, "legend": False}
    axis.scatter(rows["part"].map(names.index) - 0.25, rows["accuracy"], s=10, c=rows["part"].map(colours), alpha=0.4, linewidths=0)
    seaborn.pointplot(means, x="part", y="accuracy", hue="part", linestyle="none", markers="s", ax=axis, **look)
    axis.axhline(frame[frame["part"] == "random"]["accuracy"].mean(), color="0.3", linestyle="--", linewidth=1)
    accuracies = tables.printed(frame, published).set_index("strategy")["value"]
    for name, strategy in (("float 0", "pt4al"), ("random", "random")):
        if name in names and strategy in accuracies:
            axis.plot(names.index(name), accuracies[strategy], "o", markersize=10, fillstyle="none", color="0.3")
    ticks = [{"float": "by loss\n", "text": "as text\n"}.get(name.split()[0], "") + name.split()[-1] for name in names]
    axis.set_xticks(range(len(names)), ticks)
    axis.set(xlabel="part of the pool that the first labels come from; 0 has the highest losses", ylabel="test accuracy")
    axis.grid(alpha=0.3, axis="y")
    figure.suptitle(f"{title}; n = {means['seed'].nunique()}, {frame['seed'].nunique()} runs each", fontsize=11)
    return figure


def timed(runs: Path) -> Path:
    """The folder, beside that of all other runs, for runs whose time is compared."""
    return runs.with_name(f"{runs.name}-table2")


def costs(finished: Iterable[TaggedRun], pretexts: Mapping[str, float], published: DataFrame) -> DataFrame:
    """Table 2: seconds of each stage of each strategy, means over runs, and the total over that of random choice.

    Args:
        pretexts: seconds that each pretext took to learn; a strategy that sorts by its losses pays them once.
        published: the minutes of the paper's table.
    Returns: columns strategy, pretext, query, fit, evaluate, total, ratio, published (the paper's ratio, NaN if none).
    """
    rows = []
    for run, tags in finished:
        cycles = [Cycle.read(record) for record in run.records()]
        stages = {stage: sum(cycle.seconds[stage] for cycle in cycles) for stage in ("query", "fit", "evaluate")}
        rows.append({"strategy": tags["strategy"], "pretext": pretexts.get(tags["pretext"], 0.0), **stages})
    mean = DataFrame(rows).groupby("strategy", sort=False).mean()
    mean["total"] = mean.sum(axis=1)
    mean["ratio"] = mean["total"] / mean["total"].get("random", math.nan)
    minutes = published.set_index("strategy")["value"]
    mean["published"] = [minutes.get(name, math.nan) / minutes["random"] for name in mean.index]
    return mean.reset_index()


def draw_costs(table: DataFrame, title: str) -> Figure:
    """`costs` as bars by stage, in units of random choice (in seconds if it was not run), totals left; hollow markers are the paper's."""
    figure = Figure(figsize=(8.4, 1.3 + 0.42 * len(table)), layout="constrained")
    axis = figure.subplots()
    relative = bool(table["ratio"].notna().all())
    stages = table[["pretext", "query", "fit", "evaluate"]].div(table["total"] / table["ratio"] if relative else 1.0, axis=0)
    stages.index = table["strategy"].str.replace("_", " ") + stages.sum(axis=1).map("  {:.2f}".format)
    stages.plot.barh(stacked=True, color=palette.COLOURS[:4], width=0.8, ax=axis)
    if relative:
        axis.plot(table["published"], range(len(table)), "o", markersize=9, fillstyle="none", color="0.2", label="published")
    axis.set(xlabel="time, as a multiple of random choice" if relative else "seconds", ylabel="")
    axis.invert_yaxis()
    axis.legend(fontsize=8)
    axis.grid(alpha=0.3, axis="x")
    figure.suptitle(title, fontsize=11)
    return figure


def draw_protocol_effects(table: DataFrame, title: str) -> Figure:
    """A table of `claims.protocol_effects`: accuracy against the clean protocol and, if random was run, the gain over random under each."""
    places = {name: y for y, name in enumerate(table["preset"].unique())}
    columns = {"the clean protocol": ("difference", "low", "high"), "random choice, same protocol": ("gain", "gain_low", "gain_high")}
    panels = {label: names for label, names in columns.items() if table[names[0]].notna().any()}
    figure = Figure(figsize=(2.0 + 4.5 * len(panels), 1.6 + 0.42 * len(places)), layout="constrained")
    looks = palette.looks(table["strategy"])
    for axis, (label, names) in zip(figure.subplots(1, len(panels), sharey=True, squeeze=False)[0], panels.items(), strict=True):
        for k, (strategy, rows) in enumerate(table.dropna(subset=names[0]).groupby("strategy", sort=False)):
            mean, low, high = (100 * rows[name] for name in names)
            y = rows["preset"].map(places) + 0.22 * k
            axis.errorbar(mean, y, xerr=[mean - low, high - mean], linestyle="none", capsize=3, label=strategy, **looks[strategy])
        axis.set(xlabel=f"points of accuracy over {label}", yticks=range(len(places)), yticklabels=places)
        axis.axvline(0, color="0.3", linewidth=1)
        axis.grid(alpha=0.3, axis="x")
        axis.legend(fontsize=8)
    axis.invert_yaxis()  # of all panels
    figure.suptitle(f"{title}; {int(table['seeds'].max())} seeds, 95 % intervals", fontsize=11)
    return figure
