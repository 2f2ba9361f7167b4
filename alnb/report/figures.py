"""Figures of runs. They are computed from the tables of `records` and `tables` alone."""

import io
import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy
import seaborn
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter
from pandas import DataFrame, Series
from PIL import Image, PngImagePlugin

from alnb import store
from alnb.report.palette import COLOURS, draw_legend, looks
from alnb.report.stats import Correlation, difference, interval, replications, seeds

LARGE = 300_000  # bytes; a larger PNG is saved in fewer colours


def draw_curves(frame: DataFrame, title: str, *, target: float | None = None, published: DataFrame | None = None) -> Figure:
    """Learning curves: mean accuracy over replications against labels, 95 % bands; a panel for each `arm`, a colour for each `strategy`.

    target: draws a dashed line at that accuracy.
    published: accuracies to draw as hollow markers, columns arm, strategy, n_labelled, value; those beyond the frame are left out.
    """
    frame = replications(frame)
    arms, look = list(frame["arm"].unique()), looks(frame["strategy"])
    palette, markers = ({name: style[key] for name, style in look.items()} for key in ("color", "marker"))
    figure = Figure(figsize=(2.9 + 4.6 * len(arms), 4.4), layout="constrained")
    axes = figure.subplots(1, len(arms), sharey=True, squeeze=False)[0]
    for axis, arm in zip(axes, arms, strict=True):
        seaborn.lineplot(
            frame[frame["arm"] == arm].astype({"strategy": object}), x="n_labelled", y="accuracy", hue="strategy", style="strategy",
            palette=palette, markers=markers, dashes=False, errorbar=interval, markersize=5, ax=axis, hue_order=list(look),
            style_order=list(look), legend=False, err_kws={"alpha": 0.12},
        )  # fmt: skip
        if published is not None:
            draw_published(axis, published[(published["arm"] == arm) & (published["n_labelled"] <= frame["n_labelled"].max())], look)
        if target is not None:
            axis.axhline(target, color="0.4", linestyle="--", linewidth=1)
        axis.set(title=arm, xlabel="labels", ylabel="test accuracy")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid(alpha=0.3)
    axes[0].set_ylim(numpy.clip(axes[0].get_ylim(), 0, 1))  # a band by Student's t may leave 0 to 1, an accuracy cannot
    draw_legend(figure, {name.replace("_", " "): {"linestyle": "-", "markersize": 5, **style} for name, style in look.items()})
    figure.suptitle(f"{title}; mean of n = {seeds(frame)}, 95 % bands", fontsize=11)
    return figure


def draw_published(axis: Any, published: DataFrame, look: Mapping[str, Mapping[str, Any]], filled: str = "none") -> None:
    """Draw published accuracies (columns strategy, n_labelled, value) of the strategies in `look` as large hollow markers.

    filled: the part of a marker that is filled, as matplotlib's `fillstyle`.
    """
    style = {"linestyle": "none", "markersize": 10, "fillstyle": filled, "markerfacecoloralt": "none"}
    for row in published[published["strategy"].isin(list(look))].itertuples():
        axis.plot(row.n_labelled, row.value, label="_published", **style, **look[row.strategy])


def draw_times(frame: DataFrame, title: str) -> Figure:
    """Mean accuracy against the mean seconds of all cycles until then (query, answers, training, test); a panel for each `arm`.

    The seconds leave out pre-training, and the time of a process that was stopped before it finished a cycle. Machines may differ.
    """
    arms, look = list(frame["arm"].unique()), looks(frame["strategy"])
    spent = frame.sort_values("cycle").assign(spent=lambda table: table.groupby("run", observed=True)["seconds"].cumsum())
    means = spent.groupby(["arm", "strategy", "cycle"], observed=True, sort=False)[["spent", "accuracy"]].mean()
    wide_range = means["spent"].max() > 30 * max(1e-3, means["spent"].min())
    figure = Figure(figsize=(1.5 + 4.6 * len(arms), 4.2), layout="constrained")
    axes = figure.subplots(1, len(arms), sharex=True, sharey=True, squeeze=False)[0]
    for axis, arm in zip(axes, arms, strict=True):
        for name, curve in means.loc[arm].groupby("strategy", observed=True, sort=False):
            axis.plot(curve["spent"], curve["accuracy"], markersize=5, label=name, **look[name])
        axis.set(title=arm, xlabel="seconds, pre-training not counted", ylabel="test accuracy")
        if wide_range:
            axis.set_xscale("log")
            axis.xaxis.set_minor_formatter(NullFormatter())
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    figure.suptitle(title, fontsize=11)
    return figure


def draw_areas(summary: DataFrame, title: str) -> Figure:
    """Areas under the budget curve with 95 % intervals, from `tables.summary`; a panel for each setting, a line for each strategy."""
    look, groups = looks(summary["strategy"]), list(summary.groupby("setting", sort=False))
    figure = Figure(figsize=(8.0, 1.2 + 0.3 * len(summary) + 0.5 * len(groups)), layout="constrained")
    axes = figure.subplots(len(groups), 1, squeeze=False, height_ratios=[len(rows) for _, rows in groups])[:, 0]
    for axis, (setting, rows) in zip(axes, groups, strict=True):
        for y, row in enumerate(rows.itertuples()):
            spread = [[row.area - row.low], [row.high - row.area]]
            axis.errorbar(row.area, y, xerr=spread, linestyle="none", capsize=3, **look[row.strategy])
        axis.set(yticks=range(len(rows)), yticklabels=rows["strategy"], ylim=(len(rows) - 0.5, -0.5))
        axis.set_title(textwrap.fill(setting, 110), fontsize=9, loc="left")
        axis.set_xlim(numpy.clip(axis.get_xlim(), 0, 1))
        axis.grid(alpha=0.3, axis="x")
    axes[-1].set_xlabel("area under the budget curve (mean accuracy over the budget)")
    figure.suptitle(title, fontsize=11)
    return figure


def draw_win_matrix(matrix: DataFrame, title: str) -> Figure:
    """The number of settings in which the strategy of a row beat that of a column, from `tables.win_matrix`. Empty: they never met."""
    n, top = len(matrix), max(1.0, float(numpy.nanmax(matrix.to_numpy(), initial=0.0)))
    figure = Figure(figsize=(2.6 + 0.62 * n, 1.9 + 0.5 * n), layout="constrained")
    axis = figure.subplots()
    seaborn.heatmap(matrix, cmap="Blues", vmin=0, vmax=1.5 * top, annot=True, fmt="g", cbar=False, ax=axis)
    axis.set_xticks(axis.get_xticks(), matrix.columns, rotation=40, ha="right", rotation_mode="anchor")
    axis.set(xlabel="… that of the column", ylabel="the row beats …")
    figure.suptitle(textwrap.fill(f"{title}: settings won", 46), fontsize=9)
    return figure


def draw_class_histograms(counts: DataFrame, title: str) -> Figure:
    """The mean number of labels of each class over seeds, from `records.class_counts`; a panel for each strategy.

    A dashed line is the number of labels of each class if all were equally frequent.
    """
    strategies, classes = list(counts["strategy"].unique()), int(counts["class"].max()) + 1
    total = counts.groupby(["strategy", "run", "class"], observed=True, sort=False)["count"].sum()
    means, look = total.groupby(["strategy", "class"], observed=True, sort=False).mean(), looks(strategies)
    columns = min(3, len(strategies))
    rows = math.ceil(len(strategies) / columns)
    figure = Figure(figsize=(1.2 + 3.4 * columns, 0.9 + 2.0 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flatten()
    for axis, name in zip(axes, strategies, strict=False):
        mean = means[name]
        axis.bar(mean.index, mean, width=0.8 if classes <= 30 else 1.0, color=look[name]["color"])
        axis.axhline(mean.sum() / classes, color="0.3", linestyle="--", linewidth=1)
        axis.set_title(name.replace("_", " "), fontsize=9)
    for axis in axes[len(strategies) :]:
        axis.set_axis_off()
    for axis in axes[: len(strategies)][-columns:]:  # the last of each column
        axis.tick_params(labelbottom=True)
    figure.supylabel("labels, mean over runs", fontsize=9)
    figure.suptitle(f"{title}: classes of the labels asked for, by class number", fontsize=11)
    return figure


def draw_correlations(correlations: Mapping[str, Sequence[Correlation]], title: str, printed: Mapping[str, float] | None = None) -> Figure:
    """Normalised ranks of both losses of random images; a panel for each pretext, with rho over all images in its title.

    correlations: by pretext, one for each replication. Points are of the first, rho is their mean, with its 95 % interval.
    printed: the paper's rho by pretext, to be written beside ours. Raises ValueError if there is no pretext.
    Source: Yi et al. 2022, Figure 2.
    """
    if not correlations:
        raise ValueError("there is no pretext to draw: give at least one")
    figure = Figure(figsize=(3.5 * len(correlations), 4.9), layout="constrained")
    axes = figure.subplots(1, len(correlations), squeeze=False)[0]
    for k, (axis, (name, results)) in enumerate(zip(axes, correlations.items(), strict=True)):
        rho, within = difference(Series([each.rho for each in results])), Series([each.within for each in results]).mean()
        axis.scatter(*zip(*results[0].shown, strict=True), s=6, alpha=0.5, color=COLOURS[k % len(COLOURS)], linewidths=0)
        paper = f"; paper: {printed[name]:g}" if printed and name in printed else ""
        spread = f" ({rho.low:.3f} to {rho.high:.3f})" if rho.n > 1 else ""
        axis.set_title(f"{name}{paper}\nρ = {rho.mean:.3f}{spread}\nwithin classes {within:.3f}", fontsize=10)
        axis.set(xlabel="rank of the main-task loss", xlim=(0, 1), ylim=(0, 1), aspect="equal")
    axes[0].set_ylabel("rank of the pretext loss")
    figure.suptitle(textwrap.fill(title, int(11 * figure.get_figwidth())) + "\n", fontsize=11)
    return figure


def provenance(frame: DataFrame) -> str:
    """The text under a figure of the runs in `frame`: their number, that of replications, protocol and commit."""
    runs = frame.drop_duplicates("run")
    n = seeds(runs)
    parts = [f"n = {n} replication{'' if n == '1' else 's'} a curve, {len(runs)} run{'' if len(runs) == 1 else 's'}"]
    for name in ("protocol", "commit"):
        values = list(dict.fromkeys(map(str, runs[name]))) if name in runs else []
        more = f" and {len(values) - 3} more" if len(values) > 3 else ""
        parts += [f"{name} {' / '.join(values[:3])}{more}"] if values else []
    return "; ".join(parts)


def save(figure: Figure, path: Path, caption: str, runs: DataFrame | str | None = None) -> Path:
    """Write `figure` as PNG, atomically, with `caption` in its metadata. Returns `path`.

    runs: those that it shows; their `provenance` is written under it. Or the text to write there.
    """
    if runs is not None:
        width = int(16 * figure.get_figwidth())  # in characters of this size
        text = textwrap.fill(runs if isinstance(runs, str) else provenance(runs), width)
        figure.supxlabel(text, x=0.01, ha="left", fontsize=7, color="0.35")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100, metadata={"Description": caption})
    if buffer.tell() >= LARGE:  # thousands of half-transparent points make very many colours: 256 of them need a third of the bytes
        picture, buffer, info = Image.open(buffer).convert("RGB"), io.BytesIO(), PngImagePlugin.PngInfo()
        info.add_text("Description", caption)
        picture.quantize(256).save(buffer, "png", optimize=True, pnginfo=info)
    store.write_atomic(path, buffer.getvalue())
    return path
