"""The figures and tables of Yi et al. 2022 that `report` does not draw for all papers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas
import torch
from matplotlib.figure import Figure
from pandas import DataFrame
from scipy import stats

from alnb.loop.experiment import Cycle
from alnb.papers.jobs import TaggedRun
from alnb.papers.published import published as read_published
from alnb.papers.yi2022.claims import labelled
from alnb.report import palette, tables
from alnb.report.stats import interval
from alnb.store import Stream

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
    """How evenly each strategy's labels are spread over the classes: entropy over ln C, after the first cycle and after all.

    Args:
        counts: from `records.class_counts`.
    Returns:
        Mean over runs; a row for each strategy, columns "first iteration" and "all iterations"; 1 if all classes are equally frequent.
    """

    def evenness(rows: DataFrame) -> float:
        by_run = [run.groupby("class")["count"].sum() for _, run in rows.groupby("run", observed=True)]
        return sum(float(stats.entropy(shares)) / math.log(len(shares)) for shares in by_run) / len(by_run)

    rows = {
        name: {"first iteration": evenness(run[run["cycle"] == run["cycle"].min()]), "all iterations": evenness(run)}
        for name, run in counts.groupby("strategy", sort=False, observed=True)
    }
    return DataFrame.from_dict(rows, orient="index")


def draw_cold_start(frame: DataFrame, published: DataFrame, title: str) -> Figure:
    """Table 1 as a figure: accuracy of the first cycle for each `part` of the pool; dots are seeds, bars means with 95 % intervals.

    A dashed line is the mean of random choice. At scale paper the published accuracies are hollow markers.
    """
    names = list(frame["part"].unique())
    figure = Figure(figsize=(1.8 + 0.62 * len(names), 4.2), layout="constrained")
    axis = figure.subplots()
    for x, name in enumerate(names):
        values = frame[frame["part"] == name]["accuracy"]
        colour = palette.COLOURS[{"float": 0, "text": 1}.get(name.split()[0], 2)]
        jitter = (torch.rand(len(values), generator=(Stream(0) / "jitter" / x).generator()) - 0.5).numpy() * 0.35
        axis.scatter(x + jitter, values, s=10, color=colour, alpha=0.4, linewidths=0)
        low, high = interval(values)
        axis.errorbar(x, values.mean(), [[values.mean() - low], [high - values.mean()]], fmt="s", color=colour, capsize=4)
    if "random" in names:
        axis.axhline(frame[frame["part"] == "random"]["accuracy"].mean(), color="0.3", linestyle="--", linewidth=1)
    accuracies = tables.printed(frame, published).set_index("strategy")["value"]
    for name, strategy in (("float 0", "pt4al"), ("random", "random")):
        if name in names and strategy in accuracies:
            axis.plot(names.index(name), accuracies[strategy], "o", markersize=10, fillstyle="none", color="0.3")
    axis.set(xticks=range(len(names)), ylabel="test accuracy")
    axis.set_xticklabels([{"float": "by loss\n", "text": "as text\n"}.get(name.split()[0], "") + name.split()[-1] for name in names])
    axis.set_xlabel("part of the pool that the first labels come from; 0 has the highest losses")
    axis.grid(alpha=0.3, axis="y")
    figure.suptitle(f"{title}; {frame['seed'].nunique()} seeds", fontsize=11)
    return figure


def timed(runs: Path) -> Path:
    """The folder, beside that of all other runs, for runs whose time is compared."""
    return runs.with_name(f"{runs.name}-table2")


def costs(finished: Iterable[TaggedRun], pretexts: Mapping[str, float], published: DataFrame) -> DataFrame:
    """Table 2: seconds of each stage of each strategy, and the total over that of random choice.

    Args:
        pretexts: seconds that each pretext took to learn; a strategy that sorts by its losses pays them once.
        published: the minutes of the paper's table.
    Returns:
        Columns strategy, pretext, query, fit, evaluate, total (means over runs), ratio, published (the paper's ratio, NaN if none).
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
    """`costs` as bars, stage by stage, in units of random choice, or in seconds if that was not run; hollow markers are the paper's."""
    figure = Figure(figsize=(8.4, 1.3 + 0.42 * len(table)), layout="constrained")
    axis = figure.subplots()
    relative = bool(table["ratio"].notna().all())
    left, unit = [0.0] * len(table), table["total"] / table["ratio"] if relative else 1.0
    for colour, stage in zip(palette.COLOURS, ("pretext", "query", "fit", "evaluate"), strict=False):
        width = table[stage] / unit
        axis.barh(range(len(table)), width, left=left, color=colour, label=stage)
        left = [a + b for a, b in zip(left, width, strict=True)]
    end = 1.12 * max([*left, *(table["published"].dropna() if relative else [])])
    for y, value in enumerate(table["published"]):
        covered = relative and -0.02 < (value - left[y]) / end < 0.08  # the marker would stand on the number
        place, gap = (value, 8) if covered else (left[y], 4)
        axis.annotate(f"{left[y]:.2f}", (place, y), xytext=(gap, 0), textcoords="offset points", va="center", fontsize=9)
    if relative:
        axis.plot(table["published"], range(len(table)), "o", markersize=9, fillstyle="none", color="0.2", label="published")
    label = "time, as a multiple of random choice" if relative else "seconds"
    axis.set(yticks=range(len(table)), yticklabels=table["strategy"].str.replace("_", " "), xlabel=label)
    axis.set_xlim(0, end)
    axis.invert_yaxis()
    axis.legend(fontsize=8)
    axis.grid(alpha=0.3, axis="x")
    figure.suptitle(title, fontsize=11)
    return figure


def draw_protocol_effects(table: DataFrame, title: str) -> Figure:
    """A table of `claims.protocol_effects`: accuracy against the clean protocol and, if random was run, the gain over random under each."""
    presets, gains = list(table["preset"].unique()), bool(table["gain"].notna().any())
    places = {name: y for y, name in enumerate(presets)}
    figure = Figure(figsize=(11.0 if gains else 6.5, 1.6 + 0.42 * len(presets)), layout="constrained")
    axes = figure.subplots(1, 2 if gains else 1, sharey=True, squeeze=False)[0]
    looks, names = palette.looks(table["strategy"]), list(table["strategy"].unique())
    for k, (strategy, rows) in enumerate(table.groupby("strategy", sort=False)):
        _bars(axes[0], rows, places, (k - (len(names) - 1) / 2) * 0.22, ("difference", "low", "high"), label=strategy, **looks[strategy])
        gained = rows.dropna(subset="gain")
        if len(gained):
            _bars(axes[1], gained, places, 0.0, ("gain", "gain_low", "gain_high"), label=f"{strategy} over random", **looks[strategy])
    axes[0].set(yticks=range(len(presets)), yticklabels=presets)
    axes[0].invert_yaxis()
    for axis, label in zip(axes, ("the clean protocol", "random choice, same protocol"), strict=False):
        axis.set_xlabel(f"points of accuracy over {label}")
        axis.axvline(0, color="0.3", linewidth=1)
        axis.grid(alpha=0.3, axis="x")
        axis.legend(fontsize=8)
    figure.suptitle(f"{title}; {int(table['seeds'].max())} seeds, 95 % intervals", fontsize=11)
    return figure


def _bars(axis: Any, rows: DataFrame, places: Mapping[str, int], shift: float, columns: tuple[str, str, str], **look: Any) -> None:
    mean, low, high = (100 * rows[name] for name in columns)
    y = [places[name] + shift for name in rows["preset"]]
    axis.errorbar(mean, y, xerr=[mean - low, high - mean], linestyle="none", capsize=3, **look)
