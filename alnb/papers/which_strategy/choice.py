"""What to take: ranks, regrets and gains over random choice by budget, the answer in words, and the defaults of the labeller.

A frame is that of `records.frame`: a row for each cycle of the runs of `experiment`, with its tags. A budget is a number of labels a class.
Intervals are of 95 %, over replications. No strategy is chosen and tested on the same rows: all are tested, and Holm corrects them all.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from functools import partial
from typing import Any

import seaborn
import torch
from matplotlib.figure import Figure
from pandas import DataFrame
from torch import Tensor
from torch.nn import functional

from alnb.acquire import STRATEGIES
from alnb.acquire.query import Pool, Query
from alnb.data import Embedded
from alnb.learn.nets import linear
from alnb.learn.train import Learner, cross_entropy, fit
from alnb.papers.bengar2021.claims import held_out_best
from alnb.papers.experiment import Scale
from alnb.papers.jobs import TaggedRun
from alnb.papers.which_strategy.experiment import HEAD, featured, first
from alnb.report.palette import COLOURS, looks
from alnb.report.stats import difference, interval, paired_values
from alnb.report.verdicts import ENOUGH, FAILS, HOLDS, Evidence, above, decide, most
from alnb.store import Stream

RANDOM = "random"
ROUNDS = ("first", "later")  # the first labels, before there is a net; and the mean over all later cycles
WIDTH = 4  # panels of the toy in a row


def budgets(frame: DataFrame) -> DataFrame:
    """The frame with `labels`, those a class that each cycle has; smoke runs only where there is nothing else."""
    known = frame[frame["scale"] != Scale.SMOKE]
    rows = known if len(known) else frame
    return rows.assign(labels=rows["n_labelled"] / rows["classes"])


def standings(frame: DataFrame) -> DataFrame:
    """Rank and regret of each strategy by data set, regime and budget.

    Rank 1 is the most accurate of a replication; equal ones share the mean of their ranks. Regret, in accuracy, is what the best strategy
    has more: the best on the *other* replications, so that luck is no regret. It is below 0 where a strategy beats that one.

    Columns: dataset, regime, labels, strategy, accuracy, rank, rank_low, rank_high, regret, regret_low, regret_high, n.
    """
    rows = []
    for (dataset, regime, labels), part in budgets(frame).groupby(["dataset", "regime", "labels"], sort=True):
        table = part.pivot_table(index="seed", columns="strategy", values="accuracy", aggfunc="mean").dropna()
        ranks, regrets = table.rank(axis=1, ascending=False), table.rsub(held_out_best(table), axis=0)
        for name in table if len(table) else ():
            means = [value for each in (ranks, regrets) for value in (each[name].mean(), *interval(each[name]))]
            rows.append((dataset, regime, labels, name, table[name].mean(), *means, len(table)))
    measures = [f"{what}{end}" for what in ("rank", "regret") for end in ("", "_low", "_high")]
    return DataFrame(rows, columns=["dataset", "regime", "labels", "strategy", "accuracy", *measures, "n"])


def _compared(frame: DataFrame) -> list[tuple[dict[str, Any], Evidence]]:
    """Every strategy against random: by data set, regime, round and strategy. Who chooses the first labels at random has no first round."""
    rows = []
    for (dataset, regime), part in budgets(frame).groupby(["dataset", "regime"], sort=True):
        for round in ROUNDS:
            cycles = part[part["cycle"].eq(0) == (round == "first")]
            for name in [name for name in part["strategy"].unique() if name != RANDOM] if len(cycles) else ():
                chosen = cycles[cycles["strategy"] == name]
                if round == "later" or (chosen["first"] == "strategy").all():
                    values = paired_values(cycles, {"strategy": name}, {"strategy": RANDOM})
                    gain, low, high = difference(values), cycles["labels"].min(), cycles["labels"].max()
                    where = {"dataset": dataset, "classes": int(part["classes"].iloc[0]), "scale": str(part["scale"].iloc[0])}
                    where |= {"regime": int(regime), "round": round, "labels": float(low), "up_to": float(high), "strategy": name}
                    numbers = {"gain": gain.mean, "low": gain.low, "high": gain.high, "n": gain.n}
                    rows.append(({**where, **numbers}, above(dataset, values)))
    return rows


def gains(frame: DataFrame) -> DataFrame:
    """What each strategy gains over random, in accuracy, paired by replication: a row for each data set, regime, round and strategy.

    All rows of a data set are one family: the chance that any verdict is wrong where no strategy differs from random is at most 5 %.
    Columns: dataset, classes, scale, regime, round, labels and up_to (the first and the last budget), strategy, gain, low, high, n,
    p (two-sided, Holm), verdict: "beats random", "worse than random", "undecided".
    """
    compared, rows = _compared(frame), []
    for dataset in dict.fromkeys(row["dataset"] for row, _ in compared):
        family = [(row, evidence) for row, evidence in compared if row["dataset"] == dataset]
        decisions = decide([evidence for _, evidence in family])
        words = {HOLDS: "beats random", FAILS: "worse than random"}
        rows += [{**row, "p": d.p, "verdict": words.get(d.verdict, "undecided")} for (row, _), d in zip(family, decisions, strict=True)]
    return DataFrame(rows)


def answers(table: DataFrame) -> list[str]:
    """What to take, in a sentence for each data set, regime and round of a table from `gains`. It claims no more than the tests do."""
    return [_answer(rows) for _, rows in table.groupby(["dataset", "regime", "round"], sort=True)]


def _answer(rows: DataFrame) -> str:
    head, n = rows.iloc[0], int(rows["n"].min())
    where = f"With {_budget(rows)} on {head['dataset']} (n = {n}, scale {head['scale']})"
    if n < ENOUGH:
        return f"{where} fewer than {ENOUGH} replications decide nothing."
    better, worse = (rows[rows["verdict"] == verdict].sort_values("gain") for verdict in ("beats random", "worse than random"))
    harm = f" Worse than random: {', '.join(worse['strategy'])}." if len(worse) else ""
    if better.empty:
        best = rows.loc[rows["gain"].idxmax()]
        return f"{where} no strategy beats random: the largest mean gain is {_gain(best)}, and it is undecided.{harm}"
    *others, best = better.itertuples()
    more = f", as do {', '.join(_gain(row._asdict()) for row in reversed(others))}; which of them is best was not tested" if others else ""
    return f"{where} take {best.strategy}: {_gain(best._asdict())} beats random{more}.{harm}"


def _budget(rows: DataFrame) -> str:
    """The budget of rows of one regime and round, in words."""
    head, more = rows.iloc[0], f" to {rows['up_to'].max():g}" if rows["labels"].min() < rows["up_to"].max() else ""
    first = "the first " if head["round"] == "first" else ""
    return f"{first}{rows['labels'].min():g}{more} label{'s' if more or head['labels'] != 1 else ''} a class"


def _gain(row: Any) -> str:
    return f"{row['strategy']} {100 * row['gain']:+.1f} points (p = {row['p']:.2g})"


def defaults(frame: DataFrame) -> list[dict[str, Any]]:
    """What the labeller and the advisor take, by round and budget: the strategy with the largest mean gain among those that beat random on
    most data sets, else random. All strategies, budgets and rounds are one family.

    Columns: round, up_to (labels a class), strategy, reason, classes (of the data sets).
    """
    compared = _compared(frame)
    table = DataFrame([{**row, "place": k} for k, (row, _) in enumerate(compared)])
    groups = [rows for _, rows in table.groupby(["round", "regime", "strategy"], sort=True)]
    decisions = decide([most([compared[k][1] for k in rows["place"]]) for rows in groups])
    chosen: dict[Any, tuple[float, dict[str, Any]]] = {}
    for rows, decision in zip(groups, decisions, strict=True):
        head, sets, mean = rows.iloc[0], ", ".join(rows["dataset"]), float(rows["gain"].mean())
        row = {"round": head["round"], "up_to": float(rows["up_to"].max()), "strategy": RANDOM}
        row |= {"reason": f"no strategy beats random on most of {sets}", "classes": " ".join(map(str, sorted(set(rows["classes"]))))}
        gained, _ = chosen.setdefault((head["round"], head["regime"]), (0.0, row))
        if decision.verdict == HOLDS and mean > gained:
            reason = f"it beats random on most of {sets} (p = {decision.p:.2g}, Holm), by {100 * mean:.1f} points on average"
            chosen[head["round"], head["regime"]] = mean, {**row, "strategy": head["strategy"], "reason": reason}
    return [row for _, row in chosen.values()]


def seconds(finished: Iterable[TaggedRun]) -> DataFrame:
    """Seconds of a query after the first, by strategy and regime: the median over cycles and replications, and their number."""
    rows = [(tags["strategy"], tags["regime"], record["seconds"]["query"]) for run, tags in finished for record in run.records()[1:]]
    table = DataFrame(rows, columns=["strategy", "regime", "seconds"])
    return table.groupby(["strategy", "regime"], sort=False)["seconds"].agg(["median", "count"]).reset_index()


def draw(table: DataFrame, title: str) -> Figure:
    """Rank and regret of a table from `standings` of one data set as two maps: a row for each strategy, a column for each budget.

    A cell has the mean, and below it the 95 % interval; dark is good. Strategies are sorted by their mean regret.
    """
    order = table.groupby("strategy")["regret"].mean().sort_values().index
    columns = table[["regime", "labels"]].drop_duplicates()
    figure = Figure(figsize=(2.2 + 0.56 * len(columns), 1.6 + 0.66 * len(order)), layout="constrained")
    maps = ("rank", 1, "rank, 1 is best"), ("regret", 100, "points behind the best")
    cells = table.pivot(index="strategy", columns=["regime", "labels"]).loc[order]
    for axis, (what, factor, label) in zip(figure.subplots(2, 1), maps, strict=True):
        mean, low, high = (factor * cells[f"{what}{end}"] for end in ("", "_low", "_high"))
        texts = DataFrame({c: [f"{m:.1f}\n{a:.1f} to {b:.1f}" for m, a, b in zip(mean[c], low[c], high[c], strict=True)] for c in mean})
        seaborn.heatmap(mean, annot=texts, fmt="", cmap="Blues_r", cbar=False, robust=True, annot_kws={"fontsize": 6}, ax=axis)
        axis.set_yticks([k + 0.5 for k in range(len(order))], [name.replace("_", " ") for name in order], rotation=0)
        axis.set_xticks([k + 0.5 for k in range(len(columns))], [f"{labels:g}" for labels in columns["labels"]], rotation=0)
        axis.set(title=label, ylabel="", xlabel="labels a class")
        for k in columns["regime"].reset_index(drop=True).drop_duplicates().index[1:]:
            axis.axvline(k, color="white", linewidth=4)
    figure.suptitle(f"{title}; mean of n = {table['n'].min()}, 95 % intervals", fontsize=10)
    return figure


def draw_gains(table: DataFrame, title: str) -> Figure:
    """Gains over random of a table from `gains` of one data set, with 95 % intervals; filled where Holm's correction leaves a verdict."""
    groups = list(table.groupby(["regime", "round"], sort=True))
    names = list(table.groupby("strategy")["gain"].mean().sort_values(ascending=False).index)
    look = looks(names)
    figure = Figure(figsize=(1.8 + 2.1 * len(groups), 1.4 + 0.24 * len(names)), layout="constrained")
    for axis, (_, rows) in zip(figure.subplots(1, len(groups), sharey=True, squeeze=False)[0], groups, strict=True):
        for row in rows.itertuples():
            spread, style = [[100 * (row.gain - row.low)], [100 * (row.high - row.gain)]], look[row.strategy]
            filled = "none" if row.verdict == "undecided" else "full"
            axis.errorbar(100 * row.gain, names.index(row.strategy), xerr=spread, ls="none", capsize=2, fillstyle=filled, **style)
        axis.axvline(0, color="0.3", linewidth=1)
        axis.set_title(_budget(rows), fontsize=9)
        axis.grid(alpha=0.3, axis="x")
    axis.set(yticks=range(len(names)), yticklabels=[name.replace("_", " ") for name in names], ylim=(len(names) - 0.5, -0.5))
    figure.supxlabel("points over random, paired by replication", fontsize=9)
    figure.suptitle(f"{title}; n = {table['n'].min()}, 95 % intervals; filled: decided (Holm)", fontsize=10)
    return figure


def toy() -> tuple[Embedded, Tensor]:
    """Directions [N,3] around an axis, and the cluster i64 [N] of each: five clusters of 80 to 5, two of which touch.

    They are points of a plane as they are seen from afar, so that strategies that scale features to unit length see the same clusters.
    """
    sizes, generator = torch.tensor([80, 40, 20, 10, 5]), Stream(2).generator()
    centres = torch.tensor([[0.0, 0.0], [1.8, 0.4], [0.2, 2.4], [-2.4, 0.6], [-1.0, -2.2]])
    clusters = torch.arange(5).repeat_interleave(sizes)
    plane = centres[clusters] + 0.4 * torch.randn(len(clusters), 2, generator=generator)
    return featured(functional.normalize(torch.cat([plane / 2, torch.ones(len(plane), 1)], dim=1), dim=1)), clusters


def draw_toy(names: Iterable[str], n: int = 5) -> Figure:
    """What each strategy asks for first on the toy; a panel for each. Points are grey, choices numbered in order.

    Who can choose without a net does; the others see a linear classifier that knows one label of each cluster (crosses).
    """
    (images, clusters), names = toy(), list(names)
    points = images.features[:, :2] / images.features[:, 2:]
    known = torch.stack([(clusters == c).nonzero()[0, 0] for c in range(5)])
    learner = Learner(partial(linear, width=3), HEAD, loss=cross_entropy)
    net = learner.build(5, Stream(0))
    fit(net, images, known, clusters[known], learner, Stream(0))
    rows = math.ceil(len(names) / WIDTH)
    figure = Figure(figsize=(2.1 * WIDTH, 2.2 * rows), layout="constrained")
    axes = figure.subplots(rows, WIDTH, squeeze=False).flatten()
    for axis, name in itertools.zip_longest(axes, names):
        axis.set_axis_off()
        if name is None:
            continue
        cold = first(name) == "strategy"
        pool = Pool.of(images) if cold else Pool.of(images).acquire(known, clusters[known], 0)
        chosen = STRATEGIES[name](Query(pool, None if cold else net, pool.unlabelled, n, Stream(0), cycle=int(not cold)))
        axis.scatter(*points.T, s=5, color="0.7", linewidths=0)
        axis.plot(*points[pool.labelled].T, "x", color="0.2", markersize=5)
        for k, (x, y) in enumerate(points[chosen].tolist()):
            axis.text(x, y, str(k + 1), color=COLOURS[1], fontsize=9, fontweight="bold", ha="center", va="center")
        axis.set_title(f"{name.replace('_', ' ')}: {len(clusters[chosen].unique())} of 5 clusters", fontsize=8)
    return figure
