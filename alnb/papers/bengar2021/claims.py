"""The claims of Bengar et al. 2021 put to runs. `thresholds` has their Figure 6.

A frame has a row for each cycle: dataset, classes, pool, arm ("scratch", "frozen"), strategy, regime (percent of the paper's training set
that each cycle labels), seed, cycle, n_labelled, accuracy, scale. Percentages are the paper's: they are computed from labels per class, so
that a run on a part of the pool compares with the paper at equal labels per class.

Intervals are of 95 %, by Student's t over replications. The claims of a data set are one family: see `papers.claims.table`.

Source: Bengar et al. 2021, sections 5 and 6. The names C1 to C7 of the claims are ours.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import product

import numpy
from pandas import DataFrame, Series

from alnb.papers.bengar2021.experiment import ARMS
from alnb.papers.claims import table
from alnb.papers.experiment import Scale
from alnb.papers.published import published
from alnb.report.stats import difference, labels_needed, paired_table, paired_values, replications
from alnb.report.verdicts import Evidence, above, at_least, every, missing
from alnb.store.checks import one_of

PER_CLASS = {"cifar10": 5000, "cifar100": 500, "tiny_imagenet": 450}  # the paper's training images per class, its section 4
FEW = 2  # percent: the paper's section 5 calls smaller regimes low budgets
CAUGHT_UP = 0.01  # accuracy; the paper's Table 1 calls gaps of 0.003 closed
STEP = 2500  # labels either way; the paper reads its savings off curves with a point every 5,000
ALL = (0, 101)  # percent labelled: any number
Names = Sequence[str]


def select(frame: DataFrame, dataset: str) -> DataFrame:
    """The rows of `dataset` at its most faithful scale, with `labels` per class and `percent` of the paper's images labelled.

    `regime` becomes what a cycle really labelled, in percent of the paper's images: a small pool has no regime of 10 %.

    Raises:
        ValueError: there is no row of `dataset`, or one of an unknown scale.
    """
    rows = replications(frame[frame["dataset"] == dataset])
    if rows.empty:
        raise ValueError(f"no runs of data set {dataset!r}: the frame has {', '.join(sorted(frame['dataset'].unique())) or 'no rows'}")
    for scale in rows["scale"].unique():
        one_of("scale", scale, Scale)
    rows = rows[rows["scale"] == max(rows["scale"], key=list(Scale).index)]
    labels = rows["n_labelled"] / rows["classes"]
    percent = 100 * labels / PER_CLASS.get(dataset, math.nan)
    regime = (percent / (rows["cycle"] + 1)).fillna(rows["regime"].astype(float))
    return rows.assign(labels=labels, percent=percent.round(6), regime=regime.round(6))


def claims(frame: DataFrame, dataset: str) -> DataFrame:
    """What the paper claims of `dataset`, as `papers.claims.table` gives it. Other data sets only have claim C1.

    Parts that were not run, such as a strategy of the paper, leave a statement open. Only the most faithful scale of `dataset` counts.
    No strategy is chosen and tested on the same rows, see `_best_above`. Strategies are compared after cycle 0, in which none has chosen.

    Raises:
        ValueError: there are no runs of `dataset`, or an unknown scale.
    """
    runs = select(frame, dataset)
    scale, pools = runs["scale"].iloc[0], " or ".join(f"{pool:g}" for pool in sorted(runs["pool"].unique()))
    statements = sorted((*EVERY, *STATEMENTS.get(dataset, ())), key=lambda statement: statement[0])
    rows = [(claim, says, every(list(compare(runs)))) for claim, says, compare in statements]
    return table(rows, scale, f"scale {scale}, pool of {pools} images")


def gains_over(rows: DataFrame, reference: str, by: Sequence[str]) -> DataFrame:
    """Mean gain over `reference` by the levels `by` of seed, regime and labels, by strategy (column); empty if there is no pair."""
    cells = rows.pivot_table(index=["seed", "regime", "labels"], columns="strategy", values="accuracy", aggfunc="mean")
    if reference not in cells:
        return cells.iloc[:0, :0]
    gains = cells.drop(columns=reference).sub(cells[reference], axis=0).dropna(how="all")
    return gains.groupby(level=list(by)).mean()


def _compared(rows: DataFrame, label: str, values: Series) -> Evidence:
    """Whether a mean over replications is above 0; with the regime and the budgets of `rows`."""
    low, high = rows["labels"].min(), rows["labels"].max()
    budgets = f"{low:g}{f' to {high:g}' if high > low else ''} labels per class"
    return above(f"regime {rows['regime'].iloc[0]:g} ({budgets}): {label}", values)


def _missing(regime: float, what: str) -> Evidence:
    return missing(f"no runs of regime {regime:g}{what}")


def _chosen(runs: DataFrame, arm: str, regime: float, percent: tuple[float, float]) -> DataFrame:
    """Rows of an arm and a regime after cycle 0, with a labelled share within `percent`, both ends excluded."""
    low, high = percent
    inside = (runs["percent"] > low) & (runs["percent"] < high)
    return runs[(runs["arm"] == arm) & (runs["regime"] == regime) & (runs["cycle"] > 0) & inside]


def held_out_best(table: DataFrame) -> Series:
    """By seed (row), the value of the strategy (column) with the highest mean over the other seeds; NaN if there is none."""
    values = table.to_numpy(dtype=float)
    known = ~numpy.isnan(values)
    filled, count = numpy.where(known, values, 0), known.sum(0) - known
    others = numpy.divide(filled.sum(0) - filled, count, out=numpy.full_like(values, -math.inf), where=known & (count > 0))
    if len(table) == 1:
        others = numpy.where(known, values, -math.inf)
    best = others.argmax(1)[:, None]
    chosen = numpy.where(numpy.isneginf(numpy.take_along_axis(others, best, 1)), math.nan, numpy.take_along_axis(values, best, 1))
    return Series(chosen[:, 0], table.index)


def _several_beat_random(runs: DataFrame, arm: str, regimes: Sequence[float], percent: tuple[float, float] = ALL) -> Iterator[Evidence]:
    """Whether at least two strategies beat random in `arm`, in each regime: the paper speaks of them in the plural."""
    for regime in regimes:
        yield at_least(2, list(_strategies(runs, (regime,), ARMS[arm][1:], ("random",), arm, percent)))


def _strategies(
    runs: DataFrame, regimes: Sequence[float], first: Names, second: Names = (), arm: str = "frozen", percent: tuple[float, float] = ALL
) -> Iterator[Evidence]:
    """Each of `first` against each of `second` (by default all others of the arm in the paper), a part for each pair and regime."""
    for regime in regimes:
        rows = _chosen(runs, arm, regime, percent)
        for a, b in product(first, second or [name for name in ARMS[arm] if name not in first]):
            values = paired_values(rows, {"strategy": a}, {"strategy": b})
            yield _missing(regime, f" of {a} and {b} in the {arm} arm") if values.empty else _compared(rows, f"{a} over {b}", values)


def _best_above(first: DataFrame, second: DataFrame, limit: float = 0.0) -> Evidence:
    """Whether the best column of `first` is more than `limit` above the best of `second`: one of its columns is above all others.

    A row is a replication. All pairs are tested; a test of the columns with the highest means, or of those that are best in the other
    replications, errs too often, as it is chosen by what it tests.
    """
    return at_least(1, [every([above("", first[a] - second[b], limit) for b in second]) for a in first], "")


def _gap_shrinks(runs: DataFrame, regimes: tuple[float, float]) -> list[Evidence]:
    """Whether random's lead over the best strategy in the frozen arm is larger in the first of `regimes` than in the second."""
    gains = []
    for regime in regimes:
        gains.append(gains_over(_chosen(runs, "frozen", regime, ALL), "random", ["seed"]))
        if gains[-1].empty:
            return [_missing(regime, " of random and another strategy in the frozen arm")]
    means = (difference(-held_out_best(table)) for table in gains)
    text = ", ".join(f"regime {regime:g}: {mean}" for regime, mean in zip(regimes, means, strict=True))
    return [replace(_best_above(gains[1], gains[0]), text=f"random's lead over the best strategy, {text}")]


def _frozen_against_scratch(runs: DataFrame, *, random_only: bool) -> list[Evidence]:
    """The frozen arm over scratch in the smallest regime of both: the same strategy, or frozen random over every other from scratch."""
    both = set(runs[runs["arm"] == "frozen"]["regime"]) & set(runs[runs["arm"] == "scratch"]["regime"])
    if min(both, default=FEW) >= FEW:
        return [missing(f"no regime below {FEW} % was run in both arms")]
    rows = runs[runs["regime"] == min(both)]
    parts = []
    for name in ARMS["scratch"][1:] if random_only else ARMS["scratch"]:
        frozen = "random" if random_only else name
        chosen = rows if name == "random" else rows[rows["cycle"] > 0]  # in cycle 0 all are random
        first, second = {"arm": "frozen", "strategy": frozen}, {"arm": "scratch", "strategy": name}
        gaps = paired_table(chosen, first, second, ("n_labelled",))
        if gaps.empty:
            parts.append(_missing(min(both), f" of {frozen} frozen and {name} from scratch"))
            continue
        part, ends = _compared(chosen, f"frozen {frozen} over scratch {name}", gaps.mean(axis=1)), gaps.mean()
        text = f"{part.text}, from {100 * ends.iloc[0]:+.1f} at the first budget to {100 * ends.iloc[-1]:+.1f}"
        parts.append(replace(part, text=text))
    return parts


def _at_half(runs: DataFrame, arm: str) -> DataFrame:
    """Accuracy in `arm` with half of the paper's training set labelled: a row for each seed, a column for each strategy."""
    rows = runs[(runs["arm"] == arm) & (runs["percent"] - 50).abs().lt(0.01)]
    return rows.pivot_table(index="seed", columns="strategy", values="accuracy", aggfunc="mean")


def _gap_at_half(runs: DataFrame, *, closed: bool) -> list[Evidence]:
    """The best of the frozen arm against the best from scratch with half the data set labelled; `closed`: within `CAUGHT_UP` either way."""
    frozen, scratch = (_at_half(runs, arm) for arm in ("frozen", "scratch"))
    if frozen.empty or scratch.empty:
        return [_missing(10, " up to 50 % labelled in both arms")]
    names, gap = (frozen.mean().idxmax(), scratch.mean().idxmax()), held_out_best(frozen) - held_out_best(scratch)
    text = f"50 % labelled: frozen {names[0]} over scratch {names[1]} {difference(gap)}"
    if not closed:
        return [replace(_best_above(frozen, scratch), text=text)]
    paper = published("bengar2021", item="Table 1", dataset=runs["dataset"].iloc[0]).groupby("arm")["value"].max()
    note = f"closed if within {100 * CAUGHT_UP:g} point, in the paper {100 * (paper['frozen'] - paper['scratch']):+.1f}"
    sides = [_best_above(frozen, scratch, -CAUGHT_UP), _best_above(scratch, frozen, -CAUGHT_UP)]
    return [every(sides, f"{text}, {note}")]


def _curves(runs: DataFrame, arm: str) -> dict[str, DataFrame]:
    """Accuracy of each strategy of `arm` in regime 10 up to 50 %: a row for each complete replication, a column for each budget."""
    rows = runs[(runs["regime"] == 10) & (runs["arm"] == arm) & (runs["percent"] <= 50.01)]
    table = rows.pivot_table(index="seed", columns=["strategy", "n_labelled"], values="accuracy", aggfunc="mean").dropna()
    return {name: table[name] for name in table.columns.unique(0)}


def _saved(runs: DataFrame) -> list[Evidence]:
    """Labels that the frozen arm saves: those it needs for the accuracy that scratch has at 50 %, on curves of the best strategies.

    The 50 % are our reading: the paper's 20 % less after 30 %, and its 10 % less after 40 %, both add up to them. To save as many labels as
    the paper, `STEP` either way, is to be above scratch with the fewer labels saved, and below it with the more.
    """
    if _at_half(runs, "frozen").empty or _at_half(runs, "scratch").empty:
        return [_missing(10, " up to 50 % labelled in both arms")]
    frozen, scratch = _curves(runs, "frozen"), _curves(runs, "scratch")
    half = DataFrame({name: curve.iloc[:, -1] for name, curve in scratch.items()})
    seeds = half.index.intersection(next(iter(frozen.values())).index) if frozen else half.index[:0]
    if seeds.empty:
        return [missing("no replication has all cycles of regime 10 in both arms")]
    budget, paper = int(next(iter(scratch.values())).columns[-1]), _paper_saves(runs)
    names = max(frozen, key=lambda name: frozen[name].iloc[:, -1].mean()), half.mean().idxmax()
    needed = labels_needed(frozen[names[0]].loc[seeds], half.loc[seeds, names[1]])
    amount = "does not reach that" if math.isnan(needed.mean) else f"saves {budget - needed.mean:.0f} labels"
    ends = f" ({_saving(budget - needed.high)} to {_saving(budget - needed.low)}, n = {needed.n})" if needed.n > 1 else ""
    text = (
        f"scratch {names[1]} has {half[names[1]].mean():.1%} with {budget} labels; frozen {names[0]} {amount}{ends}; "
        f"the paper saves {paper:.0f}, with {STEP} labels either way allowed"
    )

    def with_saved(labels: float) -> DataFrame:
        """Accuracy of each strategy of the frozen arm with that many labels fewer, on lines between its budgets."""
        read = {name: [numpy.interp(budget - labels, list(c), row) for row in c.loc[seeds].to_numpy()] for name, c in frozen.items()}
        return DataFrame(read, index=seeds)

    level = half.loc[seeds]
    return [every([_best_above(with_saved(paper - STEP), level), _best_above(level, with_saved(paper + STEP))], text)]


def _paper_saves(runs: DataFrame) -> float:
    return float(published("bengar2021", dataset=runs["dataset"].iloc[0], metric="labels_saved")["value"].item())


def _saving(labels: float) -> str:
    return f"{labels:.0f}" if math.isfinite(labels) else "none"


Statement = tuple[str, str, Callable[[DataFrame], Iterable[Evidence]]]
"""The name of a claim, what it says, and the evidence of its parts, all of which must hold."""
_random_is_best = partial(_strategies, first=("random",))
EVERY: tuple[Statement, ...] = (
    ("C1a", "With few labels every strategy is more accurate on self-supervised features than from scratch.",
     partial(_frozen_against_scratch, random_only=False)),
    ("C1b", "With few labels random sampling on self-supervised features beats every active learning strategy from scratch.",
     partial(_frozen_against_scratch, random_only=True)),
)  # fmt: skip
"""Statements about every data set, in the smallest regime that was run, if it is below `FEW`."""
STATEMENTS: dict[str, tuple[Statement, ...]] = {
    "cifar10": (
        ("C2a", "With self-supervision random sampling is best below 1 % labelled.",
         partial(_random_is_best, arm="frozen", regimes=(0.1, 0.2), percent=(0, 1))),
        ("C2b", "With self-supervision active learning strategies beat random sampling from 1 % on.",
         partial(_several_beat_random, arm="frozen", regimes=(1, 2, 10))),
        ("C2c", "From scratch random sampling is best below 10 % labelled.",
         partial(_random_is_best, arm="scratch", regimes=(0.1, 0.2, 1, 2), percent=(0, 10))),
        ("C2d", "From scratch active learning strategies beat random sampling above 10 %.",
         partial(_several_beat_random, arm="scratch", regimes=(10,), percent=(10, 101))),
        ("C3a", "With self-supervision entropy beats k-center, here from 1 % on.",
         partial(_strategies, first=("entropy",), second=("kcenter",), regimes=(1, 2, 10))),
        ("C3b", "With self-supervision entropy beats VAAL, here from 1 % on.",
         partial(_strategies, first=("entropy",), second=("vaal",), regimes=(1, 2, 10))),
        ("C6", "At 50 % labelled training from scratch has caught up.", partial(_gap_at_half, closed=True)),
        ("C7", "Self-supervision saves 20 % of the data set, 10000 labels: 30 % do for 50 % from scratch.", _saved),
    ),
    "cifar100": (
        ("C4a", "With self-supervision random sampling is best with budgets below 2 %.",
         partial(_random_is_best, arm="frozen", regimes=(1,))),
        ("C4b", "From scratch random sampling is best with budgets below 2 %.",
         partial(_random_is_best, arm="scratch", regimes=(1,))),
        ("C4c", "With self-supervision k-center and VAAL, which seek representatives, beat entropy with budgets below 2 %.",
         partial(_strategies, first=("kcenter", "vaal"), second=("entropy",), regimes=(1,))),
        ("C6", "At 50 % labelled training from scratch has caught up.", partial(_gap_at_half, closed=True)),
        ("C7", "Self-supervision saves 10 % of the data set, 5000 labels: 40 % do for 50 % from scratch.", _saved),
    ),
    "tiny_imagenet": (
        ("C5a", "With self-supervision random sampling is best throughout.",
         partial(_random_is_best, arm="frozen", regimes=(1, 2, 10))),
        ("C5b", "With self-supervision the lead of random sampling shrinks with more labels.", partial(_gap_shrinks, regimes=(1, 10))),
        ("C5c", "From scratch random sampling is best below 10 % labelled.",
         partial(_random_is_best, arm="scratch", regimes=(1, 2), percent=(0, 10))),
        ("C5d", "From scratch active learning strategies beat random sampling above 10 %.",
         partial(_several_beat_random, arm="scratch", regimes=(10,), percent=(10, 101))),
        ("C6", "At 50 % labelled self-supervision is still ahead: to catch up takes more.", partial(_gap_at_half, closed=False)),
    ),
}  # fmt: skip
"""What the paper says of single data sets, in its section 5."""
