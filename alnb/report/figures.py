"""Tables of records to curves, comparisons and sentences. Everything here is computed from frames of `alnb.records`."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Mapping
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alnb import store
from alnb.acquire import STRATEGIES
from alnb.learn.metrics import area_under_budget_curve

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame, Series

LARGE = 300_000  # bytes of a PNG from which on it is kept in fewer colours
BAND = 0.95  # confidence of every band and interval
# Okabe and Ito's colours, which colour-blind people can tell apart; each strategy has its marker as well
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
# beside those of STRATEGIES; modulo the number of colours, methods of one figure of Yi et al. 2022 differ
PLACES = {
    "learning_loss_detached": 7, "random_with_replacement": 8, "pt4al": 9, "learning_loss": 10, "core_gcn": 11, "uncertain_gcn": 12,
    "pal": 13, "ta_vaal": 14, "sampling_only": 18, "pretext_high": 19, "pretext_low": 21, "pt4al_low_first": 26, "pt4al_top_k": 27,
    "pt4al_random_first": 29, "pt4al, colorization": 34, "pt4al, jigsaw": 35, "pt4al, colorization_ab": 36, "pt4al, simsiam": 37,
    "pt4al, jigsaw_gap": 38,
}  # fmt: skip


def interval(values: Series) -> tuple[float, float]:
    """The 95 % confidence interval of the mean over seeds, by Student's t; of a single value, that value twice."""
    from scipy import stats

    mean, n = float(values.mean()), len(values)
    if n < 2:
        return mean, mean
    half = float(stats.t.ppf((1 + BAND) / 2, n - 1)) * float(values.std(ddof=1)) / math.sqrt(n)
    return mean - half, mean + half


def looks(strategies: Iterable[str]) -> dict[str, dict[str, Any]]:
    """A colour and a marker for each strategy, as keyword arguments for matplotlib: those of this package have the same in every figure.

    No two are the same for up to 64 of them; those that stand in one figure of a paper have different colours.
    """
    names = list(dict.fromkeys(strategies))
    known = {name: k for k, name in enumerate(STRATEGIES)} | PLACES
    free = (k for k in count() if k not in known.values())
    places = known | dict(zip(sorted(set(names) - set(known)), free, strict=False))
    colours, shapes = len(COLOURS), len(MARKERS)
    return {name: {"color": COLOURS[(k := places[name]) % colours], "marker": MARKERS[(k + k // colours) % shapes]} for name in names}


def curves(frame: DataFrame, title: str, *, target: float | None = None, published: DataFrame | None = None) -> Figure:
    """Learning curves: mean accuracy over seeds against labels, with 95 % bands; a panel for each `arm`, a colour for each `strategy`.

    Args:
        target: draws a dashed line at that accuracy.
        published: accuracies to draw as hollow markers: columns arm, strategy, n_labelled, value; those of other arms, strategies and
            numbers of labels are left out.
    """
    import seaborn
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    arms, look = list(frame["arm"].unique()), looks(frame["strategy"])
    palette, markers = ({name: one[key] for name, one in look.items()} for key in ("color", "marker"))
    figure = Figure(figsize=(2.9 + 4.6 * len(arms), 4.4), layout="constrained")
    axes = figure.subplots(1, len(arms), sharey=True, squeeze=False)[0]
    for axis, arm in zip(axes, arms, strict=True):
        seaborn.lineplot(
            frame[frame["arm"] == arm].astype({"strategy": object}), x="n_labelled", y="accuracy", hue="strategy", style="strategy",
            palette=palette, markers=markers, dashes=False, errorbar=interval, markersize=5, ax=axis, hue_order=list(look),
            style_order=list(look), legend=False, err_kws={"alpha": 0.12},
        )  # fmt: skip
        if published is not None:
            hollow(axis, published[(published["arm"] == arm) & (published["n_labelled"] <= frame["n_labelled"].max())], look)
        if target is not None:
            axis.axhline(target, color="0.4", linestyle="--", linewidth=1)
        axis.set(title="" if arms == ["scratch"] else arm, xlabel="labels", ylabel="test accuracy")  # an arm alone needs no name
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid(alpha=0.3)
    low, high = axes[0].get_ylim()
    axes[0].set_ylim(max(0.0, low), min(1.0, high))  # a band by Student's t may leave 0 to 1, accuracy may not
    figure.legend(handles=_handles(look), loc="outside right center", frameon=False, fontsize=9)
    figure.suptitle(f"{title}; mean of {seeds(frame)} seeds, 95 % bands", fontsize=11)
    return figure


def _handles(look: Mapping[str, Mapping[str, Any]]) -> list[Any]:
    from matplotlib.lines import Line2D

    return [Line2D([], [], label=name.replace("_", " "), markersize=5, **one) for name, one in look.items()]


def hollow(axis: Any, published: DataFrame, looks: Mapping[str, Mapping[str, Any]], filled: str = "none") -> None:
    """Draw published accuracies (columns strategy, n_labelled, value) of the strategies in `looks` as large hollow markers.

    filled: the part of them that is not hollow, as matplotlib's `fillstyle`.
    """
    style = {"linestyle": "none", "markersize": 10, "fillstyle": filled, "markerfacecoloralt": "none"}
    for row in published[published["strategy"].isin(list(looks))].itertuples():
        axis.plot(row.n_labelled, row.value, label="_published", **style, **looks[row.strategy])


def areas(summary: DataFrame, title: str) -> Figure:
    """Areas under the budget curve with 95 % intervals, from `comparisons.summary`: a line for each setting and strategy."""
    from matplotlib.figure import Figure

    look, groups = looks(summary["strategy"]), list(summary.groupby("setting", sort=False))
    figure = Figure(figsize=(8.0, 1.2 + 0.3 * len(summary) + 0.5 * len(groups)), layout="constrained")
    axes = figure.subplots(len(groups), 1, squeeze=False, height_ratios=[len(own) for _, own in groups])[:, 0]
    for axis, (setting, own) in zip(axes, groups, strict=True):
        for y, row in enumerate(own.itertuples()):
            spread = [[row.area - row.low], [row.high - row.area]]
            axis.errorbar(row.area, y, xerr=spread, linestyle="none", capsize=3, **look[row.strategy])
        axis.set(yticks=range(len(own)), yticklabels=own["strategy"], ylim=(len(own) - 0.5, -0.5))
        axis.set_title(textwrap.fill(setting, 110), fontsize=9, loc="left")
        left, right = axis.get_xlim()
        axis.set_xlim(max(0.0, left), min(1.0, right))
        axis.grid(alpha=0.3, axis="x")
    axes[-1].set_xlabel("area under the budget curve (mean accuracy over the budget)")
    figure.suptitle(title, fontsize=11)
    return figure


def win_matrix(matrix: DataFrame, title: str) -> Figure:
    """In how many settings the strategy of a row clearly beat that of a column, from `comparisons.win_matrix`; empty: they never met."""
    import numpy
    from matplotlib.figure import Figure

    names, values = list(matrix.index), matrix.to_numpy(dtype=float)
    figure = Figure(figsize=(2.6 + 0.62 * len(names), 1.9 + 0.5 * len(names)), layout="constrained")
    axis = figure.subplots()
    top = max(1.0, float(numpy.nanmax(values, initial=0.0)))
    axis.imshow(values, cmap="Blues", vmin=0, vmax=1.5 * top)
    for (row, column), value in numpy.ndenumerate(values):
        if not math.isnan(value):
            axis.text(column, row, f"{value:g}", ha="center", va="center")
    axis.set_xticks(range(len(names)), names, rotation=40, ha="right", rotation_mode="anchor")
    axis.set_yticks(range(len(names)), names)
    axis.set(xlabel="… that of the column", ylabel="the row beats …")
    figure.suptitle(textwrap.fill(f"{title}: settings won", 46), fontsize=9)
    return figure


def time_against_accuracy(frame: DataFrame, title: str) -> Figure:
    """Mean accuracy against the mean seconds that all cycles up to then took (query, answers, training, test); a panel for each `arm`.

    Pre-training is not counted, nor the time of a process that was killed or stopped before the one that finished a cycle. Lines join the
    cycles of one strategy; they are means over seeds, of runs on perhaps different machines.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter

    arms, look = list(frame["arm"].unique()), looks(frame["strategy"])
    spent = frame.sort_values("cycle").assign(spent=lambda table: table.groupby("run", observed=True)["seconds"].cumsum())
    means = spent.groupby(["arm", "strategy", "cycle"], observed=True, sort=False)[["spent", "accuracy"]].mean()
    least = max(1e-3, means["spent"].min())
    figure = Figure(figsize=(1.5 + 4.6 * len(arms), 4.2), layout="constrained")
    axes = figure.subplots(1, len(arms), sharex=True, sharey=True, squeeze=False)[0]
    for axis, arm in zip(axes, arms, strict=True):
        own = means.loc[arm]
        for name in own.index.unique("strategy"):
            curve = own.loc[name].sort_index()
            axis.plot(curve["spent"], curve["accuracy"], markersize=5, label=name, **look[name])
        axis.set(title=arm, xlabel="seconds, pre-training not counted", ylabel="test accuracy")
        if means["spent"].max() > 30 * least:
            axis.set_xscale("log")
            axis.xaxis.set_minor_formatter(NullFormatter())
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    figure.suptitle(title, fontsize=11)
    return figure


def class_histograms(counts: DataFrame, title: str) -> Figure:
    """Which classes were asked for: the mean labels of each class over seeds, from `records.class_counts`; a panel for each strategy.

    A dashed line is what an even choice would have asked of each class.
    """
    from matplotlib.figure import Figure

    strategies, classes = list(counts["strategy"].unique()), int(counts["class"].max()) + 1
    total = counts.groupby(["strategy", "run", "class"], observed=True, sort=False)["count"].sum()
    mean = total.groupby(["strategy", "class"], observed=True, sort=False).mean()
    columns = min(3, len(strategies))
    rows = math.ceil(len(strategies) / columns)
    figure = Figure(figsize=(1.2 + 3.4 * columns, 0.9 + 2.0 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flatten()
    for axis, name in zip(axes, strategies, strict=False):
        own = mean[name]
        axis.bar(own.index, own, width=0.8 if classes <= 30 else 1.0, color=looks(strategies)[name]["color"])
        axis.axhline(own.sum() / classes, color="0.3", linestyle="--", linewidth=1)
        axis.set_title(name.replace("_", " "), fontsize=9)
    for place, axis in enumerate(axes):
        if place >= len(strategies):
            axis.set_axis_off()
        elif place + columns >= len(strategies):  # the last of its column
            axis.tick_params(labelbottom=True)
    figure.supylabel("labels, mean over runs", fontsize=9)
    figure.suptitle(f"{title}: classes of the labels asked for, by class number", fontsize=11)
    return figure


def seeds(frame: DataFrame) -> str:
    """How many seeds a curve of `frame` is made of: a number, or where curves differ "2 to 5"."""
    curve = [name for name in ("arm", "strategy", "regime", "dataset") if name in frame]
    found = frame.groupby(curve, observed=True, dropna=False)["seed"].nunique()
    return f"{found.min()}" if found.nunique() == 1 else f"{found.min()} to {found.max()}"


def provenance(frame: DataFrame) -> str:
    """What the runs of `frame` are, for under a figure: their number and seeds, protocol and commit."""
    runs = frame.drop_duplicates("run")
    n = seeds(runs)
    told = [f"n = {n} seed{'' if n == '1' else 's'} a curve, {len(runs)} run{'' if len(runs) == 1 else 's'}"]
    for name in ("protocol", "commit"):
        found = list(dict.fromkeys(map(str, runs[name]))) if name in runs else []
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        told += [f"{name} {' / '.join(found[:3])}{more}"] if found else []
    return "; ".join(told)


def save(figure: Figure, path: Path, caption: str, runs: DataFrame | str | None = None) -> Path:
    """Write `figure` as PNG, atomically, with `caption` among its metadata; returns `path`.

    runs: those that it shows: what they are (see `provenance`) is written under it; or a sentence that says it.
    """
    import io

    if runs is not None:
        wide = int(16 * figure.get_figwidth())  # characters of that size
        figure.supxlabel(
            textwrap.fill(runs if isinstance(runs, str) else provenance(runs), wide), x=0.01, ha="left", fontsize=7, color="0.35"
        )
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100, metadata={"Description": caption})
    store.write_atomic(path, buffer.getvalue() if buffer.tell() < LARGE else _fewer_colours(buffer.getvalue(), caption))
    return path


def _fewer_colours(png: bytes, caption: str) -> bytes:
    """The picture in 256 colours, which takes a third of the bytes; thousands of half-transparent points make that many more."""
    import io

    from PIL import Image, PngImagePlugin

    told, out = PngImagePlugin.PngInfo(), io.BytesIO()
    told.add_text("Description", caption)
    Image.open(io.BytesIO(png)).convert("RGB").quantize(256).save(out, "png", optimize=True, pnginfo=told)
    return out.getvalue()


def labels_to_reach(labels: Iterable[float], accuracy: Iterable[float], level: float) -> float:
    """Labels at which a learning curve first reaches `level`, linear between its points; NaN where it does not, within the budget."""
    before: tuple[float, float] | None = None
    for n, value in zip(labels, accuracy, strict=True):
        if value >= level:
            if before is None:
                return float(n)
            share = (level - before[1]) / (value - before[1])
            return before[0] + share * (n - before[0])
        before = float(n), value
    return math.nan


def labels_table(frame: DataFrame, levels: Iterable[float]) -> DataFrame:
    """Labels needed to reach each accuracy of `levels`, on the mean curve over seeds; a row for each arm and strategy."""
    import pandas

    mean = mean_curves(frame)
    rows = {
        key: {f"{level:.1%}": labels_to_reach(curve.index.get_level_values("n_labelled"), curve, level) for level in levels}
        | {
            "final accuracy": float(curve.iloc[-1]),
            "area under curve": area_under_budget_curve(*_points(curve)) if len(curve) > 1 else math.nan,
        }
        for key, curve in mean.groupby(["arm", "strategy"], sort=False)
    }
    return pandas.DataFrame.from_dict(rows, orient="index").rename_axis(["arm", "strategy"])


def mean_curves(frame: DataFrame) -> Series:
    """Mean accuracy over seeds, by arm, strategy and n_labelled."""
    return frame.groupby(["arm", "strategy", "n_labelled"], sort=False)["accuracy"].mean()


def _points(curve: Series) -> tuple[list[float], list[float]]:
    return list(curve.index.get_level_values("n_labelled")), list(curve)


def savings(frame: DataFrame, reference: str = "random") -> DataFrame:
    """What each strategy saves against `reference` in the same arm, on the mean curves over seeds.

    Columns: `level`, the final accuracy of the reference; `labels`, needed to reach it; `budget`, the labels that the reference had;
    `saved`, the share of them not needed (NaN where the level is not reached); `final`, the strategy's own final accuracy.

    Raises:
        ValueError: there is no run of `reference` in an arm.
    """
    import pandas

    mean, rows = mean_curves(frame), []
    for (arm, strategy), curve in mean.groupby(["arm", "strategy"], sort=False):
        if (arm, reference) not in mean.index.droplevel("n_labelled"):
            raise ValueError(f"no run of strategy {reference!r} in arm {arm!r} to compare with: add {reference!r} to the strategies")
        level, budget = float(mean[arm, reference].iloc[-1]), int(mean[arm, reference].index[-1])
        labels = labels_to_reach(*_points(curve), level)
        rows.append(
            {
                "arm": arm,
                "strategy": strategy,
                "level": level,
                "labels": labels,
                "budget": budget,
                "saved": 1 - labels / budget,
                "final": curve.iloc[-1],
            }
        )
    return pandas.DataFrame(rows)


def most_saved(savings: DataFrame, strategies: Iterable[str]) -> float:
    """The largest share of labels that one of `strategies` saved, in the first arm of a table from `savings`; NaN where none did."""
    first = savings[savings["arm"] == savings["arm"].iloc[0]]
    return float(first[first["strategy"].isin(list(strategies))]["saved"].max())


def finding(frame: DataFrame, reference: str = "random") -> str:
    """What the runs show, in sentences computed from them: for each arm the strategy that saved most labels, or that none did."""
    table, sentences = savings(frame, reference), []
    for arm, rows in table[table["strategy"] != reference].groupby("arm", sort=False):
        level, budget = rows["level"].iloc[0], rows["budget"].iloc[0]
        head = f"{arm}: {reference} reached {level:.1%} with {budget} labels"
        reached = rows.dropna(subset="labels").sort_values("labels")
        if reached.empty or reached["labels"].iloc[0] >= budget:
            sentences.append(f"{head}; no other strategy reached that with fewer.")
            continue
        best = reached.iloc[0]
        others = "".join(f", {row.strategy} {row.labels:.0f}" for row in reached.iloc[1:].itertuples())
        missed = ", ".join(rows[rows["labels"].isna()]["strategy"])
        failed = f"; not reached by {missed}" if missed else ""
        sentences.append(f"{head}; {best.strategy} needed {best.labels:.0f} ({best.saved:.0%} fewer){others}{failed}.")
    return " ".join([*sentences, *_between_arms(frame, reference)]) + f" (Means of {seeds(frame)} seeds.)"


def _between_arms(frame: DataFrame, reference: str) -> list[str]:
    """How the first labels count in the later arms against the first one, for the reference strategy, paired by seed."""
    arms = list(frame["arm"].unique())
    start = frame[(frame["strategy"] == reference) & (frame["cycle"] == 0)].set_index("seed")
    sentences = []
    for arm in arms[1:]:
        gain = start[start["arm"] == arm]["accuracy"] - start[start["arm"] == arms[0]]["accuracy"]
        low, high = interval(gain)
        spread = f" (95 % interval {100 * low:+.1f} to {100 * high:+.1f})" if len(gain) > 1 else ""
        n = int(start["n_labelled"].iloc[0])
        sentences.append(f"With the first {n} labels {arm} gives {100 * gain.mean():+.1f} points over {arms[0]}{spread}.")
    return sentences
