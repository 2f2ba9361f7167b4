"""The claims of Yi et al. 2022 put to runs: differences paired by seed, and whether each statement holds.

Intervals are of 95 %, by Student's t over seeds. All seeds share one pre-training and one set of images. The intervals are not corrected
for their number: a statement of several parts holds only if all do.

Frames are from `records.frame`, with columns strategy, pretext, seed, cycle, n_labelled, accuracy, dataset, scale, preset.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pandas import DataFrame, Series
from scipy import stats

from alnb.papers.experiment import Scale, decided
from alnb.report.stats import FAILS, HOLDS, OPEN, Correlation, Difference, Verdict, every, paired, verdict

IMBALANCED = ("random", "kcenter", "vaal", "learning_loss", "core_gcn", "pal")
OTHERS = (*IMBALANCED, "learning_loss_detached")
CLOSE = 0.1  # of rho: a correlation within it counts as the value that it is compared with


@dataclass(frozen=True)
class Statement:
    """One sentence of the paper, as comparisons of accuracy: each of `first` better than each of `second`."""

    claim: str
    text: str
    source: str
    first: tuple[str, ...]
    second: tuple[str, ...]
    cycles: str = "all"  # averaged over all, or only the "first" or the "last"


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


def labelled(frame: DataFrame) -> DataFrame:
    """`frame` with labels of curves as column `strategy`: the strategy, and its pretext if that is not rotation, as "pt4al, jigsaw"."""
    usual = frame["pretext"].isin(["", "rotation"])
    return frame.assign(strategy=frame["strategy"].where(usual, frame["strategy"] + ", " + frame["pretext"]))


def select(frame: DataFrame, figure: str, dataset: str) -> DataFrame:
    """The runs of `dataset` under the clean protocol that a figure is about: those of one cycle for Table 1, else the longest."""
    rows = frame[(frame["preset"] == "clean") & (frame["dataset"] == dataset)] if len(frame) else frame
    if not len(rows):
        return rows
    last = rows.groupby("run")["cycle"].transform("max")
    return rows[last == (0 if figure == "table1" else max(1, last.max()))]


def cold_start(frame: DataFrame) -> DataFrame:
    """The claims of Table 1, as `claims` gives them, and the claim about the spread."""
    table, (outcome, evidence) = claims(frame, "table1"), spread(frame)
    table.loc[len(table)] = ["P14", "PT4AL's first labels give less spread.", outcome, evidence, "section 5.4, Table 1"]
    return table


def claims(frame: DataFrame, figure: str) -> DataFrame:
    """The statements of a figure put to the records of its runs, a row each. Scale smoke decides nothing.

    Returns:
        Columns: claim, statement, verdict, evidence (the differences, or what was not run), source.
    Raises:
        ValueError: the runs are of several scales.
    """
    rows, scale = [], _scale(frame)
    for statement in STATEMENTS[figure]:
        verdicts, evidence = _parts(labelled(frame), statement)
        evidence += [] if Scale(scale).decides else [f"{scale} runs decide nothing"]
        source = f"section {statement.source}"
        rows.append((statement.claim, statement.text, decided(scale, every(verdicts)), "; ".join(evidence), source))
    return DataFrame(rows, columns=["claim", "statement", "verdict", "evidence", "source"])


def _scale(frame: DataFrame) -> str:
    scales = list(frame["scale"].unique())
    if len(scales) != 1:
        raise ValueError(f"the frame mixes several values of scale ({', '.join(sorted(scales))}): select one of them")
    return str(scales[0])


def _parts(frame: DataFrame, statement: Statement) -> tuple[list[Verdict], list[str]]:
    rows = _cycles(frame, statement.cycles)
    strategies, verdicts, evidence = set(rows["strategy"]), [], []
    for first in statement.first:
        for second in statement.second:
            if {first, second} <= strategies:
                difference = paired(rows, {"strategy": first}, {"strategy": second}, on=("n_labelled",))
                verdicts.append(verdict(difference))
                evidence.append(f"{first} over {second} {difference}")
            else:
                verdicts.append(OPEN)
                evidence.append(f"{first if first not in strategies else second} was not run")
    return verdicts, list(dict.fromkeys(evidence))


def _cycles(frame: DataFrame, which: str) -> DataFrame:
    """The rows of all cycles, or of the first or the last one."""
    if which == "all":
        return frame
    return frame[frame["cycle"] == (frame["cycle"].min() if which == "first" else frame["cycle"].max())]


def spread(frame: DataFrame, first: str = "pt4al", second: str = "random") -> tuple[Verdict, str]:
    """Whether accuracies in the first cycle scatter less over seeds with `first` (Table 1), by the F-interval of the variances' ratio.

    Returns:
        The verdict, and both standard deviations with the 95 % interval of their ratio.
    """
    rows = _cycles(frame, "first")
    a, b = (_accuracies(rows, name) for name in (first, second))
    if min(len(a), len(b)) < 2 or not a.std() or not b.std():
        return OPEN, "fewer than two seeds, or no spread"
    ratio = float(a.var() / b.var())
    low, high = (ratio / float(stats.f.ppf(q, len(a) - 1, len(b) - 1)) for q in (0.975, 0.025))
    limits = f"ratio {math.sqrt(ratio):.2f} ({math.sqrt(low):.2f} to {math.sqrt(high):.2f})"
    evidence = f"standard deviation {first} {a.std():.2%}, {second} {b.std():.2%}; {limits}"
    return decided(_scale(frame), HOLDS if high < 1 else FAILS if low > 1 else OPEN), evidence


def _accuracies(rows: DataFrame, strategy: str) -> Series:
    return rows[rows["strategy"] == strategy].groupby("seed")["accuracy"].mean()


def protocol_effects(frame: DataFrame, base: str, strategies: Iterable[str] = ("random", "pt4al")) -> DataFrame:
    """What each protocol changes against `base`: differences of accuracy paired by seed and number of labels, averaged over cycles.

    Returns:
        Columns: preset, strategy, difference, low, high (95 % interval), seeds, and `gain`, `gain_low`, `gain_high`: the difference of the
        strategy and random under the same protocol (NaN for random itself).
    """
    rows = []
    for preset in frame["preset"].unique():
        for strategy in strategies:
            mine = {"preset": preset, "strategy": strategy}
            if not ((frame["preset"] == preset) & (frame["strategy"] == strategy)).any():
                continue
            change = paired(frame, mine, {"preset": base, "strategy": strategy}, on=("n_labelled",))
            gain = paired(frame, mine, {"preset": preset, "strategy": "random"}, on=("n_labelled",)) if strategy != "random" else NONE
            rows.append((preset, strategy, change.mean, change.low, change.high, change.n, gain.mean, gain.low, gain.high))
    return DataFrame(rows, columns=["preset", "strategy", "difference", "low", "high", "seeds", "gain", "gain_low", "gain_high"])


NONE = Difference(math.nan, math.nan, math.nan, 0)


def correlations(correlations: Mapping[str, Correlation], published: DataFrame, scale: str) -> DataFrame:
    """Hypothesis H1 and what the paper says of SimSiam, put to the correlations of Figure 2 by pretext.

    A printed value is met if the whole interval lies within `CLOSE` of it, and is not met if no part does; the same for SimSiam's 0. Scale
    smoke decides nothing, and only scale paper decides about printed values.

    Returns:
        Columns: claim, statement, verdict, evidence.
    """
    printed = published.set_index("strategy")["value"]
    rows = []
    for name, measured in correlations.items():
        interval = f"95 % interval {measured.low:.3f} to {measured.high:.3f}"
        evidence = f"rho {measured.rho:.3f} ({interval}), within classes {measured.within:.3f}"
        if name in printed:
            met = _met(measured, printed[name]) if Scale(scale) is Scale.PAPER else OPEN
            rows.append(("H1 value", f"The correlation with {name} is {printed[name]:g}.", met, evidence))
        if name == "simsiam":
            met = decided(scale, _met(measured, 0.0))
            rows.append(("H1 SimSiam", "SimSiam's loss is not correlated with the main task's.", met, evidence))
        else:
            positive = HOLDS if measured.low > 0 else FAILS if measured.high < 0 else OPEN
            text = f"The loss of {name} is positively correlated with the main task's."
            rows.append(("H1", text, decided(scale, positive), evidence))
    return DataFrame(rows, columns=["claim", "statement", "verdict", "evidence"])


def _met(measured: Correlation, value: float) -> Verdict:
    if value - CLOSE <= measured.low and measured.high <= value + CLOSE:
        return HOLDS
    return FAILS if measured.high < value - CLOSE or measured.low > value + CLOSE else OPEN
