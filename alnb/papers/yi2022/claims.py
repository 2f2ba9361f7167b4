"""The claims of Yi et al. 2022 put to runs: differences paired by seed, and whether each statement holds.

Intervals are of 95 %, by Student's t over seeds; all seeds share one pre-training and one set of images. They are not corrected for
their number: a statement of several parts holds only where all do.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from alnb.papers.bengar2021.claims import at
from alnb.report.stats import FAILS, HOLDS, OPEN, Difference, Verdict, every, paired, verdict

if TYPE_CHECKING:
    from pandas import DataFrame, Series

IMBALANCED = ("random", "kcenter", "vaal", "learning_loss", "core_gcn", "pal")
OTHERS = (*IMBALANCED, "learning_loss_detached")


@dataclass(frozen=True)
class Statement:
    """One sentence of the paper, as comparisons of accuracy: each of `first` better than each of `second`."""

    claim: str
    text: str
    source: str
    first: tuple[str, ...]
    second: tuple[str, ...]
    iterations: str = "all"  # averaged over all, or only the "first" or the "last"


STATEMENTS: dict[str, tuple[Statement, ...]] = {
    "figure3": (
        Statement("P1", "PT4AL is more accurate than every other method over all iterations.", "5.1", ("pt4al",), OTHERS),
        Statement("P2", "PT4AL is more accurate than the others in the first iteration.", "5.1", ("pt4al",), ("random",), "first"),
        Statement("P3", "PT4AL is more accurate than every other method in the last iteration.", "5.1", ("pt4al",), OTHERS, "last"),
        Statement("P4", "Detached, Learning Loss is clearly worse.", "5.1", ("learning_loss",), ("learning_loss_detached",)),
    ),
    "figure5b": (
        Statement("P5", "On imbalanced CIFAR-10 PT4AL is more accurate than every other method.", "5.3", ("pt4al",), IMBALANCED),
        Statement(
            "P6", "There Core-Set and CoreGCN are more accurate than VAAL and Learning Loss.", "5.3",
            ("kcenter", "core_gcn"), ("vaal", "learning_loss"),
        ),
    ),
    "figure6": (
        Statement("P7", "Both parts are needed: sampling only is worse.", "6.1", ("pt4al",), ("sampling_only",)),
        Statement("P8", "Both parts are needed: pretext only is worse.", "6.1", ("pt4al",), ("pretext_high", "pretext_low")),
        Statement("P9", "Rotation is the best pretext.", "6.2", ("pt4al",), ("pt4al, colorization", "pt4al, jigsaw", "pt4al, simsiam")),
        Statement("P10", "SimSiam is the worst pretext.", "6.2", ("pt4al", "pt4al, colorization", "pt4al, jigsaw"), ("pt4al, simsiam",)),
        Statement(
            "P11", "Even intervals are the best choice within the first batch.", "6.3",
            ("pt4al",), ("pt4al_random_first", "pt4al_top_k"), "first",
        ),
        Statement("P12", "High loss first is better at the end than low loss first.", "6.3", ("pt4al",), ("pt4al_low_first",), "last"),
    ),
    "table1": (
        Statement("P13", "PT4AL's first labels are better than random ones.", "5.4, Table 1", ("pt4al",), ("random",), "first"),
    ),
}  # fmt: skip


def select(frame: DataFrame, figure: str, dataset: str) -> DataFrame:
    """The runs of `dataset` under the clean protocol that a figure is about: of one iteration for Table 1, else the longest."""
    rows = frame[(frame["preset"] == "clean") & (frame["dataset"] == dataset)] if len(frame) else frame
    if not len(rows):
        return rows
    last = rows.groupby("run")["cycle"].transform("max")
    return rows[last == (0 if figure == "table1" else max(1, last.max()))]


def cold_start(frame: DataFrame) -> DataFrame:
    """The claims of Table 1, as of `claims`, and of the spread."""
    found, (decided, told) = claims(frame, "table1"), spread(frame)
    found.loc[len(found)] = ["P14", "PT4AL's first labels give less spread.", decided, told, "section 5.4, Table 1"]
    return found


def claims(frame: DataFrame, figure: str) -> DataFrame:
    """The statements of a figure put to the records of its runs, one row each. Scale smoke decides nothing.

    Args:
        frame: from `records.frame`, with columns strategy, seed, cycle, n_labelled, accuracy, dataset, scale.
    Returns:
        Columns: claim, statement, verdict, evidence (the differences, or what was not run), source.
    Raises:
        ValueError: the runs are of several scales.
    """
    import pandas

    rows, scale = [], _scale(frame)
    for one in STATEMENTS[figure]:
        verdicts, told = _parts(frame, one)
        rows.append(
            {
                "claim": one.claim,
                "statement": one.text,
                "verdict": at(scale, every(verdicts)),
                "evidence": "; ".join([*told, *(["smoke runs decide nothing"] if scale == "smoke" else [])]),
                "source": f"section {one.source}",
            }
        )
    return pandas.DataFrame(rows)


def _scale(frame: DataFrame) -> str:
    return ", ".join(frame["scale"].unique())  # one: `paired` refuses several


def _parts(frame: DataFrame, one: Statement) -> tuple[list[Verdict], list[str]]:
    rows = _iterations(frame, one.iterations)
    there, verdicts, told = set(rows["strategy"]), [], []
    for first in one.first:
        for second in one.second:
            if {first, second} <= there:
                found = paired(rows, {"strategy": first}, {"strategy": second}, on=("n_labelled",))
                verdicts.append(verdict(found))
                told.append(f"{first} over {second} {found}")
            else:
                verdicts.append(OPEN)
                told.append(f"{first if first not in there else second} was not run")
    return verdicts, list(dict.fromkeys(told))


def _iterations(frame: DataFrame, which: str) -> DataFrame:
    """The rows of all iterations, or of the first or the last one."""
    if which == "all":
        return frame
    return frame[frame["cycle"] == (frame["cycle"].min() if which == "first" else frame["cycle"].max())]


def spread(frame: DataFrame, first: str = "pt4al", second: str = "random") -> tuple[Verdict, str]:
    """Whether accuracies in the first iteration scatter less over seeds with `first` (Table 1), by the F-interval of the variances' ratio.

    Returns:
        The verdict, and both standard deviations with the 95 % interval of their ratio.
    """
    from scipy import stats

    rows = _iterations(frame, "first")
    one, other = (_accuracies(rows, name) for name in (first, second))
    if min(len(one), len(other)) < 2 or not one.std() or not other.std():
        return OPEN, "fewer than two seeds, or no spread"
    ratio = float(one.var() / other.var())
    low, high = (ratio / float(stats.f.ppf(q, len(one) - 1, len(other) - 1)) for q in (0.975, 0.025))
    limits = f"ratio {math.sqrt(ratio):.2f} ({math.sqrt(low):.2f} to {math.sqrt(high):.2f})"
    told = f"standard deviation {first} {one.std():.2%}, {second} {other.std():.2%}; {limits}"
    return at(_scale(frame), HOLDS if high < 1 else FAILS if low > 1 else OPEN), told


def _accuracies(rows: DataFrame, strategy: str) -> Series:
    return rows[rows["strategy"] == strategy].groupby("seed")["accuracy"].mean()


def worth(frame: DataFrame, base: str, strategies: Iterable[str] = ("random", "pt4al")) -> DataFrame:
    """What each protocol is worth against `base`: differences of accuracy paired by seed and number of labels, averaged over iterations.

    Args:
        frame: with a column `preset`, as of runs of several settings.
    Returns:
        Columns: preset, strategy, difference, low, high (95 % interval), seeds, and `gain`, `gain_low`, `gain_high`: that of the
        strategy over random under that same protocol (NaN for random itself).
    """
    import pandas

    rows = []
    for preset in frame["preset"].unique():
        for strategy in strategies:
            own = {"preset": preset, "strategy": strategy}
            if not ((frame["preset"] == preset) & (frame["strategy"] == strategy)).any():
                continue
            change = paired(frame, own, {"preset": base, "strategy": strategy}, on=("n_labelled",))
            gain = paired(frame, own, {"preset": preset, "strategy": "random"}, on=("n_labelled",)) if strategy != "random" else NONE
            rows.append(
                {
                    "preset": preset, "strategy": strategy, "difference": change.mean, "low": change.low, "high": change.high,
                    "seeds": change.n, "gain": gain.mean, "gain_low": gain.low, "gain_high": gain.high,
                }
            )  # fmt: skip
    return pandas.DataFrame(rows)


NONE = Difference(math.nan, math.nan, math.nan, 0)
