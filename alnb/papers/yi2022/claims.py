"""The claims of Yi et al. 2022 put to runs: differences paired by seed, and whether each statement holds.

Intervals are of 95 %, by Student's t over seeds. All seeds share one pre-training and one set of images. The intervals are not corrected
for their number: a statement of several parts holds only if all do.

Frames are from `records.frame`, with columns strategy, pretext, seed, cycle, n_labelled, accuracy, dataset, scale, preset.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product

import pandas
from pandas import DataFrame
from scipy import stats

from alnb.papers.claims import Comparison, compared, table, within
from alnb.papers.experiment import Scale
from alnb.report.stats import OPEN, Correlation, Verdict, paired

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


def claims(frame: DataFrame, figure: str) -> DataFrame:
    """The statements of a figure put to the records of its runs, as `claims.table` gives them, with a column source.

    Raises:
        ValueError: the runs are of several scales.
    """
    statements, rows = STATEMENTS[figure], labelled(frame)
    parts = [(statement.claim, statement.text, _parts(rows, statement)) for statement in statements]
    return table(parts, _scale(frame)).assign(source=[f"section {statement.source}" for statement in statements])


def cold_start(frame: DataFrame) -> DataFrame:
    """The claims of Table 1, as `claims` gives them, and the claim about the spread."""
    last = table([("P14", "PT4AL's first labels give less spread.", [spread(frame)])], _scale(frame)).assign(source="section 5.4, Table 1")
    return pandas.concat([claims(frame, "table1"), last], ignore_index=True)


def _scale(frame: DataFrame) -> str:
    scales = list(frame["scale"].unique())
    if len(scales) != 1:
        raise ValueError(f"the frame mixes several values of scale ({', '.join(sorted(scales))}): select one of them")
    return str(scales[0])


def _parts(frame: DataFrame, statement: Statement) -> Iterator[Comparison]:
    rows = _cycles(frame, statement.cycles)
    strategies = set(rows["strategy"])
    for first, second in product(statement.first, statement.second):
        if {first, second} <= strategies:
            yield compared(f"{first} over {second}", paired(rows, {"strategy": first}, {"strategy": second}, on=("n_labelled",)))
        else:
            yield Comparison(OPEN, f"{first if first not in strategies else second} was not run")


def _cycles(frame: DataFrame, which: str) -> DataFrame:
    """The rows of all cycles, or of the first or the last one."""
    if which == "all":
        return frame
    return frame[frame["cycle"] == (frame["cycle"].min() if which == "first" else frame["cycle"].max())]


def spread(frame: DataFrame, first: str = "pt4al", second: str = "random") -> Comparison:
    """Whether accuracies in the first cycle scatter less over seeds with `first` (Table 1), by the F-interval of the variances' ratio."""
    by_seed = _cycles(frame, "first").groupby(["strategy", "seed"])["accuracy"].mean()
    a, b = (by_seed[by_seed.index.get_level_values("strategy") == name] for name in (first, second))
    if min(len(a), len(b)) < 2 or not a.std() or not b.std():
        return Comparison(OPEN, "fewer than two seeds, or no spread")
    ratio = float(a.var() / b.var())
    low, high = (ratio / float(stats.f.ppf(q, len(a) - 1, len(b) - 1)) for q in (0.975, 0.025))
    limits = f"ratio {math.sqrt(ratio):.2f} ({math.sqrt(low):.2f} to {math.sqrt(high):.2f})"
    return Comparison(within(low, high, (0, 1)), f"standard deviation {first} {a.std():.2%}, {second} {b.std():.2%}; {limits}")


def protocol_effects(frame: DataFrame, base: str, strategies: Iterable[str] = ("random", "pt4al")) -> DataFrame:
    """What each protocol changes against `base`: differences of accuracy paired by seed and number of labels, averaged over cycles.

    Returns: columns preset, strategy, difference, low, high (95 % interval), seeds, and `gain`, `gain_low`, `gain_high`: the difference of
    the strategy and random under the same protocol (NaN for random itself).
    """
    rows = []
    for preset, strategy in product(frame["preset"].unique(), strategies):
        sides = {"preset": base, "strategy": strategy}, {"preset": preset, "strategy": "random"}
        change, gain = (paired(frame, {"preset": preset, "strategy": strategy}, side, on=("n_labelled",)) for side in sides)
        if change.n:
            rows.append((preset, strategy, change.mean, change.low, change.high, change.n, gain.mean, gain.low, gain.high))
    effects = DataFrame(rows, columns=["preset", "strategy", "difference", "low", "high", "seeds", "gain", "gain_low", "gain_high"])
    effects.loc[effects["strategy"] == "random", ["gain", "gain_low", "gain_high"]] = math.nan
    return effects


def correlations(correlations: Mapping[str, Correlation], published: DataFrame, scale: str) -> DataFrame:
    """Hypothesis H1 and what the paper says of SimSiam, put to the correlations of Figure 2 by pretext: as `claims.table` gives them.

    A printed value is met if the whole interval lies within `CLOSE` of it, and is not met if no part does; the same for SimSiam's 0. Only
    scale paper decides about printed values.
    """
    printed = published.set_index("strategy")["value"]
    rows = []
    for name, measured in correlations.items():
        evidence = f"rho {measured.rho:.3f} (95 % interval {measured.low:.3f} to {measured.high:.3f}), within classes {measured.within:.3f}"
        if name in printed:
            met = _met(measured, printed[name]) if Scale(scale) is Scale.PAPER else OPEN
            rows.append(("H1 value", f"The correlation with {name} is {printed[name]:g}.", [Comparison(met, evidence)]))
        if name == "simsiam":
            met = _met(measured, 0.0)
            rows.append(("H1 SimSiam", "SimSiam's loss is not correlated with the main task's.", [Comparison(met, evidence)]))
        else:
            text = f"The loss of {name} is positively correlated with the main task's."
            rows.append(("H1", text, [Comparison(within(measured.low, measured.high, (0, 1)), evidence)]))
    return table(rows, scale)


def _met(measured: Correlation, value: float) -> Verdict:
    return within(measured.low, measured.high, (value - CLOSE, value + CLOSE))
