"""The claims of Bengar et al. 2021 put to runs: differences paired by seed, verdicts, thresholds, their Figure 6.

The functions take a frame with a row for each cycle: dataset, classes, pool, arm ("scratch", "frozen"), strategy, regime (percent of the
paper's training set that each step labels), seed, cycle, n_labelled, accuracy, scale ("smoke", "laptop", "paper"). Percentages are the
paper's: they are computed from labels per class, so that a run on a part of the pool compares with the paper at equal labels per class.

Intervals are of 95 %, by Student's t over seeds, those of labels saved and of thresholds by a bootstrap over seeds. All seeds share one
pre-training and one set of images, so no interval holds what another pre-training would change. They are not corrected for their number:
a claim of several parts holds only where all do, which needs no correction, but of 40 comparisons of equals one is refuted by luck.

Source: Bengar et al. 2021, sections 5 and 6. The names C1 to C7 of the claims are ours.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy

from alnb.papers.published import published
from alnb.report.palette import COLOURS, MARKERS
from alnb.report.stats import BAND, FAILS, HOLDS, OPEN, Verdict, by_budget, difference, every, labels_to_reach, paired_by_seed, verdict
from alnb.store import streams as rng

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame, Series

PER_CLASS = {"cifar10": 5000, "cifar100": 500, "tiny_imagenet": 450}  # the paper's training images per class, its section 4
SCALES = ("paper", "laptop", "smoke")  # the most faithful first
CAUGHT_UP = 0.01  # accuracy; the paper's Table 1 calls gaps of 0.003 closed
STEP = 5000  # labels; the paper reads its savings off curves with a point every 10 %
DRAWS = 1000  # of every bootstrap
SEEDS = 5  # fewer leave what a bootstrap would decide undecided, as its intervals are then far too short


def select(frame: DataFrame, dataset: str) -> DataFrame:
    """The rows of `dataset` at the most faithful scale it was run at, with `labels` per class and `percent` of the paper's labelled.

    `regime` becomes what a step labelled indeed, in percent of the paper's images: a small pool has no regime of 10 %.

    Raises:
        ValueError: there is no row of `dataset`, or one of an unknown scale.
    """
    rows = frame[frame["dataset"] == dataset]
    if rows.empty:
        raise ValueError(f"no runs of data set {dataset!r}: the frame has {', '.join(sorted(frame['dataset'].unique())) or 'no rows'}")
    unknown = set(rows["scale"]) - set(SCALES)
    if unknown:
        raise ValueError(f"unknown scale {', '.join(map(repr, unknown))}: use one of {', '.join(SCALES)}")
    scale = min(rows["scale"], key=SCALES.index)
    rows = rows[rows["scale"] == scale]
    labels = rows["n_labelled"] / rows["classes"]
    percent = 100 * labels / PER_CLASS.get(dataset, math.nan)
    step = (percent / (rows["cycle"] + 1)).fillna(rows["regime"].astype(float))
    return rows.assign(labels=labels, percent=percent.round(6), regime=step.round(6))


# --- claims ---


@dataclass(frozen=True)
class _Part:
    """One comparison: what it decides, and the figures."""

    verdict: Verdict
    text: str


@dataclass(frozen=True)
class _Statement:
    claim: str
    says: str
    parts: Callable[[DataFrame], list[_Part]]


def claims(frame: DataFrame, dataset: str) -> DataFrame:
    """What the paper claims of `dataset`, a row a statement: claim, says, verdict, figures. Other data sets only have claim C1.

    A statement of several parts holds where all do, and does not where one does not; parts that were not run leave it open. Only the most
    faithful scale that `dataset` was run at counts, and scale smoke decides nothing. "Best strategy" is chosen for each seed on the other
    seeds, so that no strategy wins by the luck that is then measured. Strategies are compared after the first cycle: before it is over,
    none has chosen.

    Raises:
        ValueError: there are no runs of `dataset`, or an unknown scale.
    """
    import pandas

    runs = select(frame, dataset)
    scale, pools = runs["scale"].iloc[0], " or ".join(f"{pool:g}" for pool in sorted(runs["pool"].unique()))
    rows = []
    for statement in sorted((*EVERY, *STATEMENTS.get(dataset, ())), key=lambda statement: statement.claim):
        parts = statement.parts(runs)
        decided = at(scale, every(part.verdict for part in parts))
        tail = "; smoke runs decide nothing" if scale == "smoke" else ""
        figures = "; ".join(part.text for part in parts) + f" [scale {scale}, pool of {pools} images{tail}]"
        rows.append({"claim": statement.claim, "says": statement.says, "verdict": decided, "figures": figures})
    return pandas.DataFrame(rows, columns=["claim", "says", "verdict", "figures"])


def at(scale: str, found: Verdict) -> Verdict:
    """The verdict of runs at this scale: smoke runs, on other images than the paper's, decide nothing."""
    return OPEN if scale == "smoke" else found


def _part(label: str, by_seed: Series) -> _Part:
    found = difference(by_seed)
    return _Part(verdict(found), f"{label} {found}")


def _chosen(runs: DataFrame, regime: float, percent: tuple[float, float]) -> DataFrame:
    """Rows of a regime after its first cycle, where the labelled share is within `percent`, both ends excluded."""
    low, high = percent
    return runs[(runs["regime"] == regime) & (runs["cycle"] > 0) & (runs["percent"] > low) & (runs["percent"] < high)]


def _where(rows: DataFrame, regime: float) -> str:
    low, high = rows["labels"].min(), rows["labels"].max()
    return f"regime {regime:g} ({low:g}{f' to {high:g}' if high > low else ''} labels per class):"


def _held_out_best(table: DataFrame) -> Series:
    """By seed (row), the value of the strategy (column) that has the highest mean over the other seeds; NaN where there is none."""
    import pandas

    values = table.to_numpy(dtype=float)
    known = ~numpy.isnan(values)
    filled, count = numpy.where(known, values, 0), known.sum(0) - known
    others = numpy.divide(filled.sum(0) - filled, count, out=numpy.full_like(values, -math.inf), where=known & (count > 0))
    if len(table) == 1:
        others = numpy.where(known, values, -math.inf)
    best = others.argmax(1)[:, None]
    chosen = numpy.where(numpy.isneginf(numpy.take_along_axis(others, best, 1)), math.nan, numpy.take_along_axis(values, best, 1))
    return pandas.Series(chosen[:, 0], table.index)


def _over(rows: DataFrame, reference: str, by: Sequence[str]) -> DataFrame:
    """Mean gain over `reference` by the levels `by` of seed, regime and labels, a column for each other strategy; empty without both."""
    cells = rows.pivot_table(index=["seed", "regime", "labels"], columns="strategy", values="accuracy", aggfunc="mean")
    if reference not in cells:
        return cells.iloc[:0, :0]
    gains = cells.drop(columns=reference).sub(cells[reference], axis=0).dropna(how="all")
    return gains.groupby(level=list(by)).mean()


def _best_against_random(
    runs: DataFrame, arm: str, regimes: Sequence[float], *, percent: tuple[float, float] = (0, 101), random_first: bool = False
) -> list[_Part]:
    """The best strategy against random sampling in `arm`, a part for each regime; `random_first`: random against each, a part for each too.

    A strategy that is the best on other seeds is on the average a little worse than the best, which would flatter random sampling.
    """
    parts = []
    for regime in regimes:
        rows = _chosen(runs[runs["arm"] == arm], regime, percent)
        gains = _over(rows, "random", ["seed"])
        if gains.empty:
            needs = " of random and another strategy" if not rows.empty else ""
            parts.append(_Part(OPEN, f"no runs of regime {regime:g}{needs} in the {arm} arm"))
            continue
        if random_first:
            parts += [_part(f"{_where(rows, regime)} random over {name}", -gains[name]) for name in gains]
        else:
            parts.append(_part(f"{_where(rows, regime)} best strategy ({gains.mean().idxmax()}) over random", _held_out_best(gains)))
    return parts


def _strategies(
    runs: DataFrame, first: Sequence[str], second: Sequence[str], regimes: Sequence[float], *, percent: tuple[float, float] = (0, 101)
) -> list[_Part]:
    """Each of `first` against each of `second` in the frozen arm, a part for each pair and regime."""
    parts = []
    for regime in regimes:
        rows = _chosen(runs[runs["arm"] == "frozen"], regime, percent)
        for one, other in [(one, other) for one in first for other in second]:
            by_seed = paired_by_seed(rows, {"strategy": one}, {"strategy": other})
            if by_seed.empty:
                parts.append(_Part(OPEN, f"no runs of regime {regime:g} of {one} and {other} in the frozen arm"))
            else:
                parts.append(_part(f"{_where(rows, regime)} {one} over {other}", by_seed))
    return parts


def _gap_shrinks(runs: DataFrame, regimes: tuple[float, float]) -> list[_Part]:
    """Whether random's lead over the best strategy in the frozen arm is larger in the first of `regimes` than in the second."""
    leads = []
    for regime in regimes:
        gains = _over(_chosen(runs[runs["arm"] == "frozen"], regime, (0, 101)), "random", ["seed"])
        if gains.empty:
            return [_Part(OPEN, f"no runs of regime {regime:g} of random and another strategy in the frozen arm")]
        leads.append(-_held_out_best(gains))
    text = ", ".join(f"regime {regime:g}: {difference(lead)}" for regime, lead in zip(regimes, leads, strict=True))
    return [_part(f"random's lead ({text}) shrinks by", leads[0] - leads[1])]


def _frozen_against_scratch(runs: DataFrame, *, random_only: bool) -> list[_Part]:
    """The frozen arm over scratch in the smallest regime of both: the same strategy, or frozen random over every other from scratch."""
    both = set(runs[runs["arm"] == "frozen"]["regime"]) & set(runs[runs["arm"] == "scratch"]["regime"])
    if not both:
        return [_Part(OPEN, "no regime was run in both arms")]
    rows = runs[runs["regime"] == min(both)]
    parts = []
    for name in rows[rows["arm"] == "scratch"]["strategy"].unique():
        one = "random" if random_only else name
        chosen = rows if name == "random" else rows[rows["cycle"] > 0]  # before, all are random
        first, second = {"arm": "frozen", "strategy": one}, {"arm": "scratch", "strategy": name}
        by_seed = paired_by_seed(chosen, first, second)
        if by_seed.empty or (random_only and name == "random"):
            continue
        label = f"frozen {one} over scratch {name}" if random_only else f"{name}, frozen over scratch"
        part, ends = _part(f"{_where(chosen, min(both))} {label}", by_seed), by_budget(chosen, first, second)["mean"]
        parts.append(_Part(part.verdict, f"{part.text}, from {100 * ends.iloc[0]:+.1f} at the first budget to {100 * ends.iloc[-1]:+.1f}"))
    needs = "random frozen and another strategy from scratch" if random_only else "one strategy in both arms"
    return parts or [_Part(OPEN, f"no runs of regime {min(both):g} of {needs}")]


def _at_half(runs: DataFrame, arm: str) -> DataFrame:
    """Accuracy in `arm` with half of the paper's training set labelled: a row for each seed, a column for each strategy."""
    rows = runs[(runs["arm"] == arm) & (runs["percent"] - 50).abs().lt(0.01)]
    return rows.pivot_table(index="seed", columns="strategy", values="accuracy", aggfunc="mean")


def _gap_at_half(runs: DataFrame, *, closed: bool) -> list[_Part]:
    """The best of the frozen arm against the best from scratch with half the data set labelled; `closed`: within `CAUGHT_UP` either way."""
    tables = [_at_half(runs, arm) for arm in ("frozen", "scratch")]
    if any(table.empty for table in tables):
        return [_Part(OPEN, "no runs of regime 10 up to 50 % labelled in both arms")]
    gap = difference(_held_out_best(tables[0]) - _held_out_best(tables[1]))
    names = [table.mean().idxmax() for table in tables]
    text = f"50 % labelled: frozen {names[0]} over scratch {names[1]} {gap}"
    if not closed:
        return [_Part(verdict(gap), text)]
    paper = published("bengar2021", item="Table 1", dataset=runs["dataset"].iloc[0]).groupby("arm")["value"].max()
    text += f", closed if within {100 * CAUGHT_UP:g} point, in the paper {100 * (paper['frozen'] - paper['scratch']):+.1f}"
    return [_Part(_within(gap.low, gap.high, gap.n, -CAUGHT_UP, CAUGHT_UP), text)]


def _within(low: float, high: float, n: int, least: float, most: float) -> Verdict:
    """Whether an interval of `n` seeds lies wholly between `least` and `most`, wholly outside, or neither."""
    if n < 2:
        return OPEN
    if least <= low and high <= most:
        return HOLDS
    return FAILS if high < least or low > most else OPEN


def _curve(runs: DataFrame, arm: str) -> tuple[str, DataFrame]:
    """The strategy of `arm` that is best at 50 %, and its accuracy in regime 10: a row for each whole seed, a column for each budget."""
    best = _at_half(runs, arm).mean().idxmax()
    rows = runs[(runs["regime"] == 10) & (runs["arm"] == arm) & (runs["strategy"] == best) & (runs["percent"] <= 50.01)]
    return best, rows.pivot_table(index="seed", columns="n_labelled", values="accuracy", aggfunc="mean").dropna()


def _saved(runs: DataFrame) -> list[_Part]:
    """Labels that the frozen arm saves: those it needs for the accuracy that scratch has at 50 %, on mean curves of the best strategies.

    The 50 % are our reading: the paper's 20 % less after 30 %, and its 10 % less after 40 %, both add up to them.
    """
    if _at_half(runs, "frozen").empty or _at_half(runs, "scratch").empty:
        return [_Part(OPEN, "no runs of regime 10 up to 50 % labelled in both arms")]
    (frozen_best, frozen), (scratch_best, scratch) = (_curve(runs, arm) for arm in ("frozen", "scratch"))
    seeds = frozen.index.intersection(scratch.index)
    if seeds.empty:
        return [_Part(OPEN, "no seed has all cycles of regime 10 in both arms")]
    labels, half = list(frozen.columns), int(scratch.columns[-1])
    curve, level = frozen.loc[seeds].to_numpy(), scratch.loc[seeds, half].to_numpy()

    def saved(weights: Any) -> float:
        needed = labels_to_reach(labels, weights @ curve, float(weights @ level))
        return -math.inf if math.isnan(needed) else half - needed

    n = len(seeds)
    mean, draws = saved(numpy.full(n, 1 / n)), [saved(draw / n) for draw in _resampled(n, DRAWS, 0, "saving")]
    low, high = _percentiles(draws)
    paper = published("bengar2021", dataset=runs["dataset"].iloc[0], metric="labels_saved")["value"].item()
    amount = "does not reach that" if math.isinf(mean) else f"saves {mean:.0f} labels"
    spread = f"bootstrap 95 % interval {_labels(low)} to {_labels(high)}, {n} seeds" if n > 1 else "1 seed, no interval"
    text = (
        f"scratch {scratch_best} has {level.mean():.1%} with {half} labels; frozen {frozen_best} {amount} ({spread}); "
        f"the paper saves {paper:.0f}, with one step of {STEP} labels either way allowed"
    )
    return [_Part(_within(low, high, n if n >= SEEDS else 0, paper - STEP, paper + STEP), text)]


def _labels(value: float) -> str:
    return "none" if math.isinf(value) else f"{value:.0f}"


def _resampled(n: int, draws: int, seed: int, purpose: str) -> Any:
    """How often each of `n` seeds occurs in each of `draws` samples of n with replacement; i64 [draws, n]."""
    picks = numpy.random.default_rng(rng.integer(seed, purpose)).integers(n, size=(draws, n))
    return (picks[:, :, None] == numpy.arange(n)).sum(1)


def _percentiles(values: Sequence[float]) -> tuple[float, float]:
    """The 2.5 and 97.5 percentiles, each one of `values`, as infinities cannot be averaged."""
    tail = round((1 - BAND) / 2, 9)  # the digits beyond would move it to the next draw
    low, high = numpy.quantile(values, [tail, 1 - tail], method="inverted_cdf")
    return float(low), float(high)


EVERY = (
    _Statement(
        "C1a",
        "With few labels every strategy is more accurate on self-supervised features than from scratch.",
        partial(_frozen_against_scratch, random_only=False),
    ),
    _Statement(
        "C1b",
        "With few labels random sampling on self-supervised features beats every active learning strategy from scratch.",
        partial(_frozen_against_scratch, random_only=True),
    ),
)
"""Statements about every data set, in the smallest regime that was run."""

STATEMENTS: dict[str, tuple[_Statement, ...]] = {
    "cifar10": (
        _Statement(
            "C2a",
            "With self-supervision random sampling is best below 1 % labelled.",
            partial(_best_against_random, arm="frozen", regimes=(0.1, 0.2), percent=(0, 1), random_first=True),
        ),
        _Statement(
            "C2b",
            "With self-supervision active learning beats random sampling from 1 % on.",
            partial(_best_against_random, arm="frozen", regimes=(1, 2, 10)),
        ),
        _Statement(
            "C2c",
            "From scratch random sampling is best below 10 % labelled.",
            partial(_best_against_random, arm="scratch", regimes=(0.1, 0.2, 1, 2), percent=(0, 10), random_first=True),
        ),
        _Statement(
            "C2d",
            "From scratch active learning beats random sampling above 10 %.",
            partial(_best_against_random, arm="scratch", regimes=(10,), percent=(10, 101)),
        ),
        _Statement(
            "C3a",
            "With self-supervision entropy beats k-center, here from 1 % on.",
            partial(_strategies, first=("entropy",), second=("kcenter",), regimes=(1, 2, 10)),
        ),
        _Statement(
            "C3b",
            "With self-supervision entropy beats VAAL, here from 1 % on.",
            partial(_strategies, first=("entropy",), second=("vaal",), regimes=(1, 2, 10)),
        ),
        _Statement("C6", "At 50 % labelled training from scratch has caught up.", partial(_gap_at_half, closed=True)),
        _Statement(
            "C7", "The most that self-supervision saves is 20 % of the data set, 10000 labels: 30 % do for 50 % from scratch.", _saved
        ),
    ),
    "cifar100": (
        _Statement(
            "C4a",
            "With self-supervision random sampling is best below 10 % labelled.",
            partial(_best_against_random, arm="frozen", regimes=(1, 2), percent=(0, 10), random_first=True),
        ),
        _Statement(
            "C4b",
            "From scratch random sampling is best below 10 % labelled.",
            partial(_best_against_random, arm="scratch", regimes=(1, 2), percent=(0, 10), random_first=True),
        ),
        _Statement(
            "C4c",
            "With self-supervision k-center and VAAL, which seek representatives, beat entropy below 10 % labelled.",
            partial(_strategies, first=("kcenter", "vaal"), second=("entropy",), regimes=(1, 2), percent=(0, 10)),
        ),
        _Statement("C6", "At 50 % labelled training from scratch has caught up.", partial(_gap_at_half, closed=True)),
        _Statement("C7", "Self-supervision saves 10 % of the data set, 5000 labels: 40 % do for 50 % from scratch.", _saved),
    ),
    "tiny_imagenet": (
        _Statement(
            "C5a",
            "With self-supervision random sampling is best throughout.",
            partial(_best_against_random, arm="frozen", regimes=(1, 2, 10), random_first=True),
        ),
        _Statement(
            "C5b", "With self-supervision the lead of random sampling shrinks with more labels.", partial(_gap_shrinks, regimes=(1, 10))
        ),
        _Statement(
            "C5c",
            "From scratch random sampling is best below 10 % labelled.",
            partial(_best_against_random, arm="scratch", regimes=(1, 2), percent=(0, 10), random_first=True),
        ),
        _Statement(
            "C5d",
            "From scratch active learning beats random sampling above 10 %.",
            partial(_best_against_random, arm="scratch", regimes=(10,), percent=(10, 101)),
        ),
        _Statement("C6", "At 50 % labelled self-supervision is still ahead: to catch up takes more.", partial(_gap_at_half, closed=False)),
    ),
}
"""What the paper says of single data sets, in its section 5."""


# --- thresholds and Figure 6 ---


@dataclass(frozen=True)
class _Effects:
    """Gains over the reference [seeds, points, strategies], NaN where there was no run; the points as labels per class, increasing."""

    gains: Any
    labels: Any

    def threshold(self, weights: Any) -> Any:
        """The threshold f64 [draws] where seed s counts `weights` [draws, s] times: see the function `threshold`."""
        known = ~numpy.isnan(self.gains)
        total = numpy.tensordot(weights, numpy.where(known, self.gains, 0), 1)
        count = numpy.tensordot(weights, known.astype(float), 1)
        best = numpy.divide(total, count, out=numpy.full_like(total, -math.inf), where=count > 0).max(-1)
        missing = numpy.isneginf(best)
        onwards = numpy.logical_and.accumulate(((best > 0) | missing)[:, ::-1], axis=1)[:, ::-1] & ~missing
        return numpy.where(onwards.any(1), self.labels[onwards.argmax(1)], math.inf)


def _effects(frame: DataFrame, arm: str, reference: str) -> _Effects:
    """Gains over `reference` after the first cycle, by seed and labels per class; regimes that share a point are averaged."""
    import pandas

    names = list(frame["dataset"].unique())
    if len(names) != 1:
        raise ValueError(f"a threshold is one data set's, but the frame has {', '.join(names) or 'none'}: select one of them")
    rows = select(frame, names[0])
    rows = rows[(rows["arm"] == arm) & (rows["cycle"] > 0)]
    gains = _over(rows, reference, ["seed", "labels"])
    if gains.empty:
        return _Effects(numpy.empty((0, 0, 0)), numpy.empty(0))
    seeds, labels = (sorted(gains.index.unique(level)) for level in ("seed", "labels"))
    full = gains.reindex(pandas.MultiIndex.from_product([seeds, labels]))
    return _Effects(full.to_numpy(dtype=float).reshape(len(seeds), len(labels), -1), numpy.asarray(labels, dtype=float))


def _known(frame: DataFrame, arm: str, reference: str) -> _Effects:
    effects = _effects(frame, arm, reference)
    if not effects.gains.size:
        raise ValueError(f"no runs of {reference!r} and another strategy in arm {arm!r} after the first cycle: run both, with equal seeds")
    return effects


def threshold(frame: DataFrame, arm: str = "frozen", reference: str = "random") -> float:
    """Labels per class at the smallest budget from which on, at every larger one too, the best strategy's mean beats that of `reference`.

    `frame` is of one data set. Budgets of all regimes stand in one row; first cycles, in which no strategy has chosen yet, are left out.
    `math.inf` where random is not beaten, or not to the end. As the best of several means is taken, and no error of theirs into account,
    equal strategies often cross by luck: read it with `bootstrap_threshold`.

    Raises:
        ValueError: not one data set, or nothing to compare.
    Source: Bengar et al. 2021, section 6, which does not say how; this reading is ours.
    """
    effects = _known(frame, arm, reference)
    return float(effects.threshold(numpy.ones((1, len(effects.gains))))[0])


def bootstrap_threshold(
    frame: DataFrame, draws: int = DRAWS, seed: int = 0, *, arm: str = "frozen", reference: str = "random"
) -> list[float]:
    """`threshold` of `draws` resamples of the seeds, with replacement, each seed with all its runs; some may be `math.inf`.

    Raises:
        ValueError: as `threshold` does.
    """
    effects = _known(frame, arm, reference)
    return [float(value) for value in effects.threshold(_resampled(len(effects.gains), draws, seed, "threshold"))]


def figure6(frame: DataFrame, arm: str = "frozen") -> DataFrame:
    """The threshold of every data set that has runs in `arm`, a row each.

    Columns: dataset, classes, labels_per_class (inf where random was not beaten), low, high (bootstrap 95 % percentiles, inf allowed; NaN
    with one seed), censored (the largest labels per class tried, where labels_per_class is inf; else NaN), tried (the same, everywhere),
    seeds, scale.
    """
    import pandas

    rows = []
    for dataset, runs in frame.groupby("dataset", sort=False):
        effects = _effects(runs, arm, "random")
        if not effects.gains.size:
            continue
        value, tried = threshold(runs, arm), float(effects.labels[-1])
        seeds = len(effects.gains)
        low, high = _percentiles(bootstrap_threshold(runs, arm=arm)) if seeds > 1 else (math.nan, math.nan)
        rows.append(
            {
                "dataset": dataset,
                "classes": int(runs["classes"].iloc[0]),
                "labels_per_class": value,
                "low": low,
                "high": high,
                "censored": tried if math.isinf(value) else math.nan,
                "tried": tried,
                "seeds": seeds,
                "scale": select(runs, dataset)["scale"].iloc[0],
            }
        )
    columns = ["dataset", "classes", "labels_per_class", "low", "high", "censored", "tried", "seeds", "scale"]
    return pandas.DataFrame(rows, columns=columns).sort_values("classes", ignore_index=True)


@dataclass(frozen=True)
class Correlation:
    """Pearson's r of `n` points, Student's t of it with `df` degrees of freedom, two-sided p; NaN where undefined, `note` says why."""

    r: float
    t: float
    df: int
    p: float
    n: int
    note: str = ""

    def __str__(self) -> str:
        """The statistics, or why there are none."""
        if math.isnan(self.r):
            return self.note
        return f"r = {self.r:.2f} of n = {self.n} points, t = {self.t:.1f}, df = {self.df}, p = {self.p:.2g}" + (
            f" ({self.note})" if self.note else ""
        )


def significance(r: float, n: int) -> Correlation:
    """How far a correlation `r` of `n` points, 3 or more, is from none."""
    from scipy import stats

    if n < 3 or not -1 <= r <= 1:
        raise ValueError(f"r = {r} of n = {n} points has no significance: it needs 3 points or more, and r from -1 to 1")
    df = n - 2
    t = math.copysign(math.inf, r) if abs(r) == 1 else r * math.sqrt(df / (1 - r * r))
    return Correlation(r, t, df, float(2 * stats.t.sf(abs(t), df)), n)


def correlation(classes: Iterable[float], thresholds: Iterable[float]) -> Correlation:
    """The correlation of thresholds with numbers of classes, over the points whose threshold is finite."""
    pairs = list(zip(classes, thresholds, strict=True))
    points = numpy.asarray([pair for pair in pairs if math.isfinite(pair[1])], dtype=float).reshape(-1, 2)
    n, left_out = len(points), len(pairs) - len(points)
    dropped = f"{left_out} of {len(pairs)} left out, as random was not beaten there" if left_out else ""
    x, y = points.T - points.mean(0, keepdims=True).T if n else (numpy.empty(0), numpy.empty(0))
    spread = math.sqrt(float(x @ x) * float(y @ y))
    if n < 3 or spread == 0:
        why = f"{n} finite threshold{'' if n == 1 else 's'}, and a correlation needs 3" if n < 3 else "all points have one value"
        note = f"no correlation: {why}" + (f" ({dropped})" if dropped else "")
        return Correlation(math.nan, math.nan, max(0, n - 2), math.nan, n, note)
    found = significance(min(1.0, max(-1.0, float(x @ y) / spread)), n)
    return Correlation(found.r, found.t, found.df, found.p, n, dropped)


def bootstrap_correlation(frame: DataFrame, arm: str = "frozen", draws: int = DRAWS, seed: int = 0) -> str:
    """How the correlation of `figure6` moves when the seeds of each data set are drawn again, in a sentence.

    It adds the spread over seeds to the significance over points, and takes nothing of the doubt from there being so few data sets.
    """
    groups = [
        (int(runs["classes"].iloc[0]), runs) for _, runs in frame.groupby("dataset", sort=False) if _effects(runs, arm, "random").gains.size
    ]
    if len(groups) < 3:
        return f"no bootstrap of the correlation: {len(groups)} data sets, and it needs 3"
    columns = [bootstrap_threshold(runs, draws, rng.integer(seed, "correlation", k), arm=arm) for k, (_, runs) in enumerate(groups)]
    found = [correlation([classes for classes, _ in groups], drawn).r for drawn in zip(*columns, strict=True)]
    known = [r for r in found if not math.isnan(r)]
    if not known:
        return f"no bootstrap of the correlation: in none of {draws} draws are all thresholds finite and different"
    low, high = _percentiles(known)
    return f"bootstrap 95 % interval of r {low:.2f} to {high:.2f}, of the {len(known)} of {draws} draws in which r is defined"


def draw_figure6(table: DataFrame) -> Figure:
    """Thresholds of a table from `figure6` against numbers of classes, with bootstrap 95 % intervals.

    Where random was not beaten, an arrow points up from the most labels tried; where an interval has no upper end, from the threshold.
    A dashed line of least squares joins three points or more. Hollow are the thresholds that the paper's text gives for the frozen arm,
    with an arrow where it gives a lower bound; its own figure cannot be read.

    Raises:
        ValueError: the table has no row.
    """
    from matplotlib.figure import Figure

    if table.empty:
        raise ValueError("there is no threshold to draw: run random and another strategy in the arm of the table, then call figure6 again")
    figure = Figure(figsize=(6.4, 4.6), layout="constrained")
    axis = figure.subplots()
    heights = table["labels_per_class"].where(table["censored"].isna(), table["censored"])
    ends = table["high"].where(numpy.isfinite(table["high"].astype(float)), heights)
    printed = published("bengar2021", metric="threshold_per_class", arm="frozen")
    top = 1.3 * float(max(heights.max(), ends.max(), printed["value"].max()))
    for k, row in enumerate(printed.itertuples()):
        place = row.n_labelled / row.value, row.value
        axis.plot(*place, "o", markersize=9, markerfacecolor="none", color="0.5", label="_" if k else "published")
        if not row.exact:
            axis.annotate("", (place[0], place[1] + 0.1 * top), place, arrowprops={"arrowstyle": "-|>", "color": "0.5"})
    for k, (row, y, high) in enumerate(zip(table.itertuples(), heights, ends, strict=True)):
        colour, marker = COLOURS[k % len(COLOURS)], MARKERS[k % len(MARKERS)]
        down = y - row.low if row.low < y else 0.0
        axis.errorbar(row.classes, y, [[down], [max(high - y, 0.0)]], color=colour, marker=marker, capsize=3)
        if math.isinf(row.labels_per_class) or math.isinf(row.high):
            arrow = {"arrowstyle": "-|>", "color": colour, "linewidth": 1.5}
            axis.annotate("", (row.classes, top), (row.classes, y), arrowprops=arrow)
        text = f"{row.dataset}\n{'> ' if math.isinf(row.labels_per_class) else ''}{y:g} per class"
        axis.annotate(text, (row.classes, y), (7, 4), textcoords="offset points", fontsize=8)
    _line(axis, table)
    right = 1.3 * max(table["classes"].max(), (printed["n_labelled"] / printed["value"]).max())
    axis.set(xlabel="classes", ylabel="labels per class to beat random", xlim=(0, right), ylim=(0, 1.05 * top))
    axis.legend(loc="upper right")
    axis.grid(alpha=0.3)
    figure.suptitle(_title(table), fontsize=9)
    return figure


def _title(table: DataFrame) -> str:
    seeds = " to ".join(map(str, sorted({table["seeds"].min(), table["seeds"].max()})))
    scales = " and ".join(scale for scale in SCALES if scale in set(table["scale"]))
    about = textwrap.fill(str(correlation(table["classes"], table["labels_per_class"])), 84)
    return f"Where active learning overtakes random: {seeds} seeds, scale {scales}; 95 % bootstrap intervals\n{about}"


def _line(axis: Any, table: DataFrame) -> None:
    finite = table[numpy.isfinite(table["labels_per_class"].astype(float))]
    if len(finite) >= 3 and finite["classes"].nunique() > 1:
        slope, offset = numpy.polyfit(finite["classes"], finite["labels_per_class"], 1)
        ends = numpy.asarray([finite["classes"].min(), finite["classes"].max()])
        axis.plot(ends, slope * ends + offset, color="0.4", linestyle="--", linewidth=1)
