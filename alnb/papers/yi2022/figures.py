"""Runs of `yi2022` to the figures and tables of the paper that `report` does not have for all."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from alnb.loop.experiment import Cycle
from alnb.papers.bengar2021.claims import at
from alnb.papers.published import published as read_published
from alnb.report import palette, tables
from alnb.report.records import TaggedRun
from alnb.report.stats import FAILS, HOLDS, OPEN, Correlation, Verdict, interval
from alnb.store import streams as rng

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

CLOSE = 0.1  # of rho: within it a correlation is held to be the value that it is compared with


def whole(frame: DataFrame, least: Mapping[str, int], preset: str = "clean", *, by_preset: bool = True) -> bool:
    """Whether runs have at least so many different values of each column, under the clean protocol: less must not replace a figure.

    by_preset: all runs must be of the clean protocol themselves.
    """
    clean = preset == "clean" and (not by_preset or set(frame["preset"]) == {"clean"})
    return clean and all(frame[column].nunique() >= n for column, n in least.items())


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
    """The printed accuracies of what the figure shows, for `report.draw_curves`; none for runs of another scale than paper."""
    told = tables.printed(frame, read_published("yi2022"))
    own = told[told["item"].isin(ITEMS[figure])]
    return own.assign(arm=ORDER) if figure == "figure6" else own


def panels(frame: DataFrame) -> DataFrame:
    """The runs of Figure 6 with a panel, as column `arm`, for each of its parts; PT4AL and random choice stand in all of them."""
    import pandas

    parts = {
        "(a) parts": ("sampling_only", "pretext_high", "pretext_low"),
        "(b) pretexts": tuple(name for name in frame["strategy"].unique() if ", " in name),
        ORDER: ("pt4al_low_first", "pt4al_top_k", "pt4al_random_first"),
    }
    shared = ["random", "pt4al"]
    return pandas.concat([frame[frame["strategy"].isin([*shared, *own])].assign(arm=title) for title, own in parts.items()])


def balance(counts: DataFrame) -> DataFrame:
    """How evenly each strategy's labels are spread over the classes: entropy over ln C, after the first iteration and after all.

    Args:
        counts: from `records.class_counts`.
    Returns:
        Mean over runs; a row for each strategy, columns "first iteration" and "all iterations"; 1 where all classes are as frequent.
    """
    import pandas
    from scipy import stats

    def evenness(rows: DataFrame) -> float:
        by_run = [own.groupby("class")["count"].sum() for _, own in rows.groupby("run", observed=True)]
        return sum(float(stats.entropy(one)) / math.log(len(one)) for one in by_run) / len(by_run)

    rows = {
        name: {"first iteration": evenness(own[own["cycle"] == own["cycle"].min()]), "all iterations": evenness(own)}
        for name, own in counts.groupby("strategy", sort=False, observed=True)
    }
    return pandas.DataFrame.from_dict(rows, orient="index")


def draw_cold_start(frame: DataFrame, published: DataFrame, title: str) -> Figure:
    """Table 1 as a figure: accuracy of the first iteration for each `part` of the pool; dots are seeds, bars means with 95 % intervals.

    Dashed is the mean of random choice. At scale paper the published accuracies stand beside theirs as hollow markers.
    """
    from matplotlib.figure import Figure

    names = list(frame["part"].unique())
    figure = Figure(figsize=(1.8 + 0.62 * len(names), 4.2), layout="constrained")
    axis = figure.subplots()
    for x, name in enumerate(names):
        values = frame[frame["part"] == name]["accuracy"]
        colour = palette.COLOURS[{"float": 0, "text": 1}.get(name.split()[0], 2)]
        jitter = (torch.rand(len(values), generator=rng.generator(0, "jitter", x)) - 0.5).numpy() * 0.35
        axis.scatter(x + jitter, values, s=10, color=colour, alpha=0.4, linewidths=0)
        low, high = interval(values)
        axis.errorbar(x, values.mean(), [[values.mean() - low], [high - values.mean()]], fmt="s", color=colour, capsize=4)
    if "random" in names:
        axis.axhline(frame[frame["part"] == "random"]["accuracy"].mean(), color="0.3", linestyle="--", linewidth=1)
    for name, strategy in (("float 0", "pt4al"), ("random", "random")):
        if name in names and set(frame["scale"]) == {"paper"}:
            value = published[published["strategy"] == strategy]["value"].iloc[0]
            axis.plot(names.index(name), value, "o", markersize=10, fillstyle="none", color="0.3")
    axis.set(xticks=range(len(names)), ylabel="test accuracy")
    axis.set_xticklabels([{"float": "by loss\n", "text": "as text\n"}.get(name.split()[0], "") + name.split()[-1] for name in names])
    axis.set_xlabel("part of the pool that the first labels come from; 0 has the highest losses")
    axis.grid(alpha=0.3, axis="y")
    figure.suptitle(f"{title}; {frame['seed'].nunique()} seeds", fontsize=11)
    return figure


def timed(runs: Path) -> Path:
    """The folder, beside that of all other runs, of those whose time is compared."""
    return runs.with_name(f"{runs.name}-table2")


def costs(finished: Iterable[TaggedRun], pretexts: Mapping[str, float], published: DataFrame) -> DataFrame:
    """Table 2: seconds of each stage of each method, and the total over that of random choice.

    Args:
        finished: the runs, from `yi2022.find`.
        pretexts: seconds that each pretext took to learn, which a method that sorts by its losses pays once.
        published: the minutes of the paper's table.
    Returns:
        Columns strategy, pretext, query, fit, evaluate, total (means over runs), ratio, published (the paper's ratio, NaN where none).
    """
    import pandas

    rows = []
    for run, columns in finished:
        cycles = [Cycle.read(record) for record in run.records()]
        stages = {stage: sum(cycle.seconds[stage] for cycle in cycles) for stage in ("query", "fit", "evaluate")}
        rows.append({"strategy": columns["strategy"], "pretext": pretexts.get(columns["pretext"], 0.0), **stages})
    mean = pandas.DataFrame(rows).groupby("strategy", sort=False).mean()
    mean["total"] = mean.sum(axis=1)
    table = mean.reset_index()
    printed = published.set_index("strategy")["value"]
    alone = mean["total"].get("random", math.nan)
    table["ratio"] = table["total"] / alone
    table["published"] = [printed.get(name, math.nan) / printed["random"] for name in table["strategy"]]
    return pandas.DataFrame(table)


def draw_costs(table: DataFrame, title: str) -> Figure:
    """`costs` as bars, stage by stage, in units of random choice, or in seconds where that was not run; hollow markers are the paper's."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.4, 1.3 + 0.42 * len(table)), layout="constrained")
    axis = figure.subplots()
    known = bool(table["ratio"].notna().all())
    left, unit = [0.0] * len(table), table["total"] / table["ratio"] if known else 1.0
    for colour, stage in zip(palette.COLOURS, ("pretext", "query", "fit", "evaluate"), strict=False):
        width = table[stage] / unit
        axis.barh(range(len(table)), width, left=left, color=colour, label=stage)
        left = [a + b for a, b in zip(left, width, strict=True)]
    end = 1.12 * max([*left, *(table["published"].dropna() if known else [])])
    for y, printed in enumerate(table["published"]):
        beside = known and -0.02 < (printed - left[y]) / end < 0.08  # the marker would stand on the number
        place, gap = (printed, 8) if beside else (left[y], 4)
        axis.annotate(f"{left[y]:.2f}", (place, y), xytext=(gap, 0), textcoords="offset points", va="center", fontsize=9)
    if known:
        axis.plot(table["published"], range(len(table)), "o", markersize=9, fillstyle="none", color="0.2", label="published")
    label = "time, as a multiple of random choice" if known else "seconds"
    axis.set(yticks=range(len(table)), yticklabels=table["strategy"].str.replace("_", " "), xlabel=label)
    axis.set_xlim(0, end)
    axis.invert_yaxis()
    axis.legend(fontsize=8)
    axis.grid(alpha=0.3, axis="x")
    figure.suptitle(title, fontsize=11)
    return figure


def correlations(found: Mapping[str, Correlation], published: DataFrame, scale: str) -> DataFrame:
    """Hypothesis H1 and what is said of SimSiam, put to the correlations of Figure 2.

    A value is met where the whole interval lies within `CLOSE` of it, and not where none of it does; so with SimSiam's 0. Scale smoke
    decides nothing.

    Returns:
        Columns: claim, statement, verdict, evidence.
    """
    import pandas

    printed = published.set_index("strategy")["value"]
    rows = []
    for name, one in found.items():
        told = f"rho {one.rho:.3f} (95 % interval {one.low:.3f} to {one.high:.3f}), within classes {one.within:.3f}"
        if name in printed:
            value = printed[name]
            rows.append(("H1 value", f"The correlation with {name} is {value:g}.", _met(one, value) if scale == "paper" else OPEN, told))
        if name == "simsiam":
            rows.append(("H1 SimSiam", "SimSiam's loss is not correlated with the main task's.", at(scale, _met(one, 0.0)), told))
        else:
            verdict = at(scale, HOLDS if one.low > 0 else FAILS if one.high < 0 else OPEN)
            rows.append(("H1", f"The loss of {name} is positively correlated with the main task's.", verdict, told))
    return pandas.DataFrame(rows, columns=["claim", "statement", "verdict", "evidence"])


def _met(one: Correlation, value: float) -> Verdict:
    if value - CLOSE <= one.low and one.high <= value + CLOSE:
        return HOLDS
    return FAILS if one.high < value - CLOSE or one.low > value + CLOSE else OPEN


def draw_worth(table: DataFrame, title: str) -> Figure:
    """A table of `yi2022_claims.worth`: accuracy against the clean protocol, and, where random choice was run, PT4AL over it under each."""
    from matplotlib.figure import Figure

    presets, gains = list(table["preset"].unique()), bool(table["gain"].notna().any())
    places = {name: y for y, name in enumerate(presets)}
    figure = Figure(figsize=(11.0 if gains else 6.5, 1.6 + 0.42 * len(presets)), layout="constrained")
    axes = figure.subplots(1, 2 if gains else 1, sharey=True, squeeze=False)[0]
    look, names = palette.looks(table["strategy"]), list(table["strategy"].unique())
    for k, (strategy, rows) in enumerate(table.groupby("strategy", sort=False)):
        _bars(axes[0], rows, places, (k - (len(names) - 1) / 2) * 0.22, ("difference", "low", "high"), label=strategy, **look[strategy])
        gained = rows.dropna(subset="gain")
        if len(gained):
            _bars(axes[1], gained, places, 0.0, ("gain", "gain_low", "gain_high"), label=f"{strategy} over random", **look[strategy])
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
