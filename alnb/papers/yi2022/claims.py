"""The claims of Yi et al. 2022 put to runs: differences paired by replication, and whether each statement holds.

The claims of a figure are one family: see `papers.claims.table`. How a statement is read, such as "every iteration", follows the paper's
words.

Frames are from `records.frame`, with columns strategy, pretext, seed, replication, cycle, n_labelled, accuracy, dataset, scale, preset.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import Literal

import numpy
from pandas import DataFrame, Series

from alnb.papers.claims import spread_parts as spread_parts
from alnb.papers.claims import table
from alnb.papers.experiment import Scale
from alnb.report.stats import Correlation, paired, paired_table, unit
from alnb.report.verdicts import Evidence, above, between, every, missing, most

IMBALANCED = ("random", "kcenter", "vaal", "learning_loss", "core_gcn", "pal")
DETACHED = "learning_loss_detached"
OTHERS = (*IMBALANCED, DETACHED)
CLOSE = 0.1  # of rho: a correlation within it counts as the value that it is compared with
SAME_ACCURACY = 1e-9  # accuracies that differ by less are equal but for rounding
STRONG = 0.5  # a correlation from here on is strong: Cohen 1988, section 3.2


@dataclass(frozen=True)
class Statement:
    """One sentence of the paper, as comparisons of accuracy: each of `first` better than each of `second`."""

    claim: str
    text: str
    source: str
    first: tuple[str, ...]
    second: tuple[str, ...]
    when: Literal["average", "every", "most", "first", "last", "ends"] = "average"  # over iterations; or in every one, most, the ends


STATEMENTS: dict[str, tuple[Statement, ...]] = {
    "figure3": (
        Statement("P1", "PT4AL is more accurate than every other method in every iteration.", "5.1", ("pt4al",), OTHERS, "every"),
        Statement(
            "P2", "In the first iteration PT4AL is more accurate than the others, which begin at random.", "5.1",
            ("pt4al",), ("random",), "first",
        ),
        Statement("P3", "PT4AL is more accurate than every other method in the last iteration.", "5.1", ("pt4al",), OTHERS, "last"),
        Statement("P4", "Detached, Learning Loss is clearly worse.", "5.1", ("learning_loss",), ("learning_loss_detached",)),
    ),
    "figure5b": (
        Statement(
            "P5", "On imbalanced CIFAR-10 PT4AL is more accurate than every other method in every iteration.", "5.3",
            ("pt4al",), IMBALANCED, "every",
        ),
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
        Statement("P12", "High loss first is better in the first and the last iteration.", "6.3", ("pt4al",), ("pt4al_low_first",), "ends"),
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


CALTECH = (
    Statement(
        "P1", "On Caltech-101 PT4AL is more accurate than each other method in most iterations.", "5.1", ("pt4al",), IMBALANCED, "most"
    ),
    Statement("P2", "There it is more accurate than random labels in the first iteration.", "5.1", ("pt4al",), ("random",), "first"),
)
"""What the paper says of Figure 3b, where it shows no detached Learning Loss."""


def claims(frame: DataFrame, figure: str) -> DataFrame:
    """The statements of a figure put to the records of its runs, as `claims.table` gives them, with a column source.

    Raises:
        ValueError: the runs are of several scales.
    """
    rows = labelled(frame)
    statements = CALTECH if figure == "figure3" and set(frame["dataset"]) == {"caltech101"} else STATEMENTS[figure]
    family = [(statement.claim, statement.text, _evidence(rows, statement)) for statement in statements]
    return table(family, _scale(frame)).assign(source=[f"section {statement.source}" for statement in statements])


def cold_start(frame: DataFrame) -> DataFrame:
    """The claims of Table 1, as `claims` gives them: about the mean, and about the spread."""
    family = [(s.claim, s.text, _evidence(labelled(frame), s)) for s in STATEMENTS["table1"]]
    family += [("P14", "PT4AL's first labels give less spread.", spread(frame))]
    return table(family, _scale(frame)).assign(source="section 5.4, Table 1")


def _scale(frame: DataFrame) -> str:
    scales = list(frame["scale"].unique())
    if len(scales) != 1:
        raise ValueError(f"the frame mixes several values of scale ({', '.join(sorted(scales))}): select one of them")
    return str(scales[0])


def _evidence(frame: DataFrame, statement: Statement) -> Evidence:
    """What the runs say of each of `first` over each of `second`, all of which must hold."""
    strategies, parts = set(frame["strategy"]), []
    for first, second in product(statement.first, statement.second):
        absent = [name for name in (first, second) if name not in strategies]
        parts.append(missing(f"{absent[0]} was not run") if absent else _comparison(frame, first, second, statement.when))
    return every(parts)


def _comparison(frame: DataFrame, first: str, second: str, when: str) -> Evidence:
    """Whether one strategy is more accurate than another: on average, in every or most iterations, or in an end."""
    ends = {"first": [frame["cycle"].min()], "last": [frame["cycle"].max()], "ends": [frame["cycle"].min(), frame["cycle"].max()]}
    if when in ends:
        frame = frame[frame["cycle"].isin(ends[when])]
    gains, label = paired_table(frame, {"strategy": first}, {"strategy": second}, ("cycle",)), f"{first} over {second}"
    whole = above(label, gains.mean(axis=1))
    if when not in ("every", "most", "ends"):
        return whole
    means = gains.mean()
    ahead = f"ahead in {(means > 0).sum()} of {len(means)} iterations, {100 * means.min():+.1f} in the worst"
    parts, text = [above("", gains[cycle]) for cycle in gains], f"{whole.text} on average, {ahead}"
    return most(parts, text) if when == "most" else every(parts, text)


def by_net(frame: DataFrame, strategy: str) -> DataFrame:
    """Accuracies of a strategy in the first cycle: a row for each replication, a column for each of its runs (its nets)."""
    rows = frame[(frame["strategy"] == strategy) & (frame["cycle"] == frame["cycle"].min())]
    replication = rows[unit(frame)]
    return rows.assign(row=replication, net=rows.groupby(replication)["seed"].rank(method="first")).pivot(
        index="row", columns="net", values="accuracy"
    )


def spread(frame: DataFrame, first: str = "pt4al", second: str = "random") -> Evidence:
    """Whether accuracies in the first cycle scatter less over replications with `first` (Table 1).

    A spread is that of a whole replication: over pretexts or first labels, and over nets. The test is Student's t on the `pseudo_values`,
    which does not suppose normal accuracies. It is approximate: a test simulates how often equal spreads are told apart.
    """
    tables = [by_net(frame, name).dropna() for name in (first, second)]
    shared = tables[0].index.intersection(tables[1].index)
    if len(shared) < 3:
        return missing("fewer than three replications")
    tables = [table.loc[shared] for table in tables]
    values = pseudo_values(*(table.to_numpy() for table in tables))
    if not numpy.isfinite(values).all():
        return missing("no spread, or none without one of the replications")
    sizes = ", ".join(f"{name} {math.sqrt(t.var().mean()):.2%}" for name, t in zip((first, second), tables, strict=True))
    return above(f"standard deviation {sizes}; logarithm of the second over the first", values, factor=1, unit="")


def pseudo_values(first: numpy.ndarray, second: numpy.ndarray) -> numpy.ndarray:
    """Jackknife pseudo-values [n] of the logarithm of a ratio: the standard deviation of `second` [n, nets] over that of `first`.

    A variance is over the n replications, and averaged over nets. NaN where a side has none, or none without one of the replications.
    Source: Miller 1968, for two variances; here a replication is left out on both sides at once, since these are paired.
    """
    n = len(first)
    chosen = [list(range(n)), *([j for j in range(n) if j != k] for k in range(n))]  # all, and all but each
    variances = numpy.array([[side[rows].var(axis=0, ddof=1).mean() for side in (first, second)] for rows in chosen])
    ratios = 0.5 * numpy.diff(numpy.log(numpy.where(variances < SAME_ACCURACY**2, math.nan, variances)))[:, 0]
    pseudo: numpy.ndarray = n * ratios[0] - (n - 1) * ratios[1:]
    return pseudo


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


def correlations(correlations: Mapping[str, Sequence[Correlation]], published: DataFrame, scale: str) -> DataFrame:
    """Hypothesis H1 and what the paper says of SimSiam, put to the correlations of Figure 2, as `claims.table` gives them.

    `correlations` are by pretext: one for each replication, a pair of nets. H1 is strong: a rho above `STRONG`. SimSiam's is within
    `STRONG` of 0. A printed value is met within `CLOSE`; printed values stand in the table at scale paper alone.
    """
    printed, rows = published.set_index("strategy")["value"], []
    for name, measured in correlations.items():
        rho, within = Series([each.rho for each in measured]), Series([each.within for each in measured]).mean()
        near, statements = partial(between, f"{name}: rho", rho, factor=1, unit=""), []
        if name in printed and Scale(scale) is Scale.PAPER:
            text, value = f"The correlation with {name} is {printed[name]:g}.", printed[name]
            statements.append(("H1 value", text, near(value - CLOSE, value + CLOSE)))
        if name == "simsiam":
            text = f"SimSiam's loss is not strongly correlated with the main task's: rho within {STRONG:g} of 0."
            statements.append(("H1 SimSiam", text, near(-STRONG, STRONG)))
        else:
            text = f"The loss of {name} is strongly correlated with the main task's: rho above {STRONG:g}."
            statements.append(("H1", text, above(f"{name}: rho", rho, STRONG, factor=1, unit="")))
        rows += [(claim, text, replace(e, text=f"{e.text}, within classes {within:.3f}")) for claim, text, e in statements]
    return table(rows, scale)
