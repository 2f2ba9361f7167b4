"""Tables of records to curves, comparisons and sentences. Everything here is computed from frames of `alnb.records`."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from alnb import store
from alnb.metrics import area_under_budget_curve

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame, Series

BAND = 0.95  # confidence of every band and interval
# Okabe and Ito's colours, which colour-blind people can tell apart; each strategy has its marker as well
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")


def interval(values: Series) -> tuple[float, float]:
    """The 95 % confidence interval of the mean over seeds, by Student's t; of a single value, that value twice."""
    from scipy import stats

    mean, n = float(values.mean()), len(values)
    if n < 2:
        return mean, mean
    half = float(stats.t.ppf((1 + BAND) / 2, n - 1)) * float(values.std(ddof=1)) / math.sqrt(n)
    return mean - half, mean + half


def curves(frame: DataFrame, title: str, *, target: float | None = None) -> Figure:
    """Learning curves: mean accuracy over seeds against labels, with 95 % bands; a panel for each `arm`, a colour for each `strategy`.

    `target` draws a dashed line at that accuracy.
    """
    import seaborn
    from matplotlib.figure import Figure

    arms, strategies = list(frame["arm"].unique()), list(frame["strategy"].unique())
    figure = Figure(figsize=(1.5 + 4.6 * len(arms), 4.4), layout="constrained")
    axes = figure.subplots(1, len(arms), sharey=True, squeeze=False)[0]
    palette = dict(zip(strategies, COLOURS * len(strategies), strict=False))
    markers = dict(zip(strategies, MARKERS * len(strategies), strict=False))
    for axis, arm in zip(axes, arms, strict=True):
        seaborn.lineplot(
            frame[frame["arm"] == arm], x="n_labelled", y="accuracy", hue="strategy", style="strategy", palette=palette, markers=markers,
            dashes=False, errorbar=interval, markersize=5, ax=axis, legend=axis is axes[0], err_kws={"alpha": 0.12},
        )  # fmt: skip
        if target is not None:
            axis.axhline(target, color="0.4", linestyle="--", linewidth=1)
        axis.set(title=arm, xlabel="labels", ylabel="test accuracy")
        axis.grid(alpha=0.3)
    low, high = axes[0].get_ylim()
    axes[0].set_ylim(max(0.0, low), min(1.0, high))  # a band by Student's t may leave 0 to 1, accuracy may not
    figure.suptitle(f"{title}; mean of {frame['seed'].nunique()} seeds, 95 % bands", fontsize=11)
    return figure


def save(figure: Figure, path: Path, caption: str) -> Path:
    """Write `figure` as PNG, atomically, with `caption` among its metadata; returns `path`."""
    import io

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100, metadata={"Description": caption})
    store.write_atomic(path, buffer.getvalue())
    return path


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
    return " ".join([*sentences, *_between_arms(frame, reference)]) + f" (Means of {frame['seed'].nunique()} seeds.)"


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
