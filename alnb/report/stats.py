"""Statistics: intervals over replications, paired differences, tests, and rank correlation of losses.

Frames have a row for each cycle, with columns seed and accuracy, and others such as arm, strategy and n_labelled. A seed is a replication,
unless there is a column `replication`: runs with equal values there share a pretext or a backbone.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy
import scipy.stats
import torch
from pandas import DataFrame, Series
from torch import Tensor

from alnb.store import Stream
from alnb.store.checks import at_least
from alnb.store.shapes import Float, Int, Shaped

BAND = 0.95  # confidence of every band and interval
ENOUGH = 5  # replications; a test with fewer decides nothing
KEYS = (
    "dataset", "scale", "setting", "preset", "protocol", "arm", "strategy", "pretext", "regime", "part", "cycle", "n_labelled",
    "replication",
)  # fmt: skip
SHOWN = 1000  # points of a scatter plot: Yi et al. 2022, Figure 2
ROUNDING = 1e-12  # relative; values that differ by less are equal
BLOCK = 50  # bootstrap samples at once
BUDGETS = ("regime", "n_labelled")  # the columns in which paired rows agree, besides the seed
GRID = 50  # points between two budgets at which a number of labels is tested
Side = Mapping[str, Any]  # one side of a comparison: columns and their values, such as {"arm": "frozen"}


def unit(frame: DataFrame) -> str:
    """The column that names the replications: `replication` if it is there, else `seed`."""
    return "replication" if "replication" in frame else "seed"


def replications(frame: DataFrame) -> DataFrame:
    """The frame with one curve for each replication: the accuracy of runs that share a pretext or backbone is averaged.

    Bands and intervals over its column `seed`, which becomes the replication, are then over replications. `frame` itself if no runs share.
    """
    if "replication" not in frame or frame["replication"].equals(frame["seed"]):
        return frame
    keys = [name for name in KEYS if name in frame]
    others = {name: "first" for name in frame if name not in (*keys, "accuracy")}
    curves = frame.groupby(keys, sort=False, observed=True, dropna=False).agg({"accuracy": "mean", **others}).reset_index()
    return curves.assign(seed=curves["replication"])[list(frame)]


def interval(values: Series) -> tuple[float, float]:
    """The 95 % confidence interval of the mean over replications, by Student's t. For a single value, that value twice."""
    mean, n = float(values.mean()), len(values)
    if n < 2:
        return mean, mean
    half = float(scipy.stats.t.ppf((1 + BAND) / 2, n - 1)) * float(values.std(ddof=1)) / math.sqrt(n)
    return mean - half, mean + half


def seeds(frame: DataFrame) -> str:
    """The number of replications of each curve in `frame`, such as "3", or "2 to 5" if curves differ."""
    curve = [name for name in ("arm", "strategy", "regime", "dataset") if name in frame]
    counts = frame.groupby(curve, observed=True, dropna=False)[unit(frame)].nunique()
    return f"{counts.min()}" if counts.nunique() == 1 else f"{counts.min()} to {counts.max()}"


def labels_to_reach(labels: Iterable[float], accuracy: Iterable[float], level: float) -> float:
    """The number of labels at which a curve first reaches `level`, linear between its cycles. NaN if it never does."""
    curve = list(zip(labels, accuracy, strict=True))
    reached = next((k for k, (_, value) in enumerate(curve) if value >= level), None)
    if not reached:  # with the first labels, or never
        return math.nan if reached is None else float(curve[0][0])
    (n, below), (more, above) = curve[reached - 1 : reached + 1]
    return float(n + (level - below) / (above - below) * (more - n))


def labels_needed(curves: DataFrame, level: Series) -> "Difference":
    """The number of labels that the mean curve needs for the mean `level`, and its 95 % interval, by tests of every number of labels.

    The interval holds the numbers of labels at which the accuracy may equal the level, by Student's t over replications; its upper end is
    `math.inf` unless the accuracy is surely above the level with the most labels. NaN if the level is never reached.

    Args:
        curves: accuracy, a row for each replication and a column for each number of labels, increasing; linear in between.
        level: accuracy, for each replication of `curves`.
    Source: Fieller 1954, for the inversion of a paired test.
    """
    labels = [float(n) for n in curves.columns]
    mean = labels_to_reach(labels, curves.mean(), float(level.mean()))
    if len(curves) < 2:
        return Difference(mean, math.nan, math.nan, len(curves))
    steps = numpy.linspace(0, len(labels) - 1, (len(labels) - 1) * GRID + 1)
    tried = numpy.interp(steps, range(len(labels)), labels)
    gaps = numpy.stack([numpy.interp(tried, labels, row) for row in curves.to_numpy()]) - level[curves.index].to_numpy()[:, None]
    half = float(scipy.stats.t.ppf((1 + BAND) / 2, len(curves) - 1)) * gaps.std(0, ddof=1) / math.sqrt(len(curves))
    possible = tried[abs(gaps.mean(0)) <= half]
    low, high = (possible[0], possible[-1]) if len(possible) else (mean, mean)  # none: the curves jump over the level, or never reach it
    return Difference(mean, float(low), float(high) if gaps.mean(0)[-1] > half[-1] else math.inf, len(curves))


@dataclass(frozen=True)
class Difference:
    """A mean difference, its 95 % interval and the number of replications `n`. If there are no pairs, n is 0 and the rest NaN."""

    mean: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        """The difference in points of accuracy, with its interval and the number of replications."""
        return self.text(100, "+.1f", " points")

    def text(self, factor: float, form: str, unit: str = "") -> str:
        """The difference times `factor`, in a format such as "+.1f". For quantities other than accuracy."""
        if self.n == 0:
            return "nothing to compare"
        mean, low, high = (f"{factor * value:{form}}" for value in (self.mean, self.low, self.high))
        return f"{mean}{unit} ({f'95 % interval {low} to {high}, n = {self.n}' if self.n > 1 else 'n = 1, no interval'})"


def difference(values: Series) -> Difference:
    """The mean of differences, one value for each replication. NaN are left out."""
    values = values.dropna()
    if values.empty:
        return Difference(math.nan, math.nan, math.nan, 0)
    return Difference(float(values.mean()), *interval(values), len(values))


def paired(frame: DataFrame, first: Side, second: Side, on: Sequence[str] = BUDGETS) -> Difference:
    """How much more accurate the rows that match `first` are than those that match `second`.

    Rows pair where the seed and all columns `on` agree. Differences are averaged within each replication, then over replications.
    Raises ValueError if a column is missing, or one side mixes data sets or scales.
    """
    return difference(paired_values(frame, first, second, on))


def paired_values(frame: DataFrame, first: Side, second: Side, on: Sequence[str] = BUDGETS) -> Series:
    """As `paired`, but the mean difference of each replication."""
    return paired_table(frame, first, second, on).mean(axis=1)


def paired_table(frame: DataFrame, first: Side, second: Side, on: Sequence[str]) -> DataFrame:
    """As `paired`, but a row of differences for each replication, and a column for each value of the columns `on`."""
    missing = {"seed", "accuracy", *on, *first, *second} - set(frame.columns)
    if missing:
        raise ValueError(f"the frame has no column {', '.join(sorted(missing))}: it has {', '.join(frame.columns)}")
    left, right = (_accuracy(frame, side, [unit(frame), "seed", *on]) for side in (first, second))
    left, right = left.align(right, join="inner")
    return (left - right).groupby(level=[0, *on]).mean().unstack(list(on))


def _accuracy(frame: DataFrame, side: Side, keys: list[str]) -> Series:
    """Mean accuracy by `keys` of the rows that match `side`."""
    rows = frame
    for column, value in side.items():
        rows = rows[rows[column] == value]
    for column in ("dataset", "scale"):
        if column in rows and rows[column].nunique() > 1:
            values = ", ".join(sorted(rows[column].unique()))
            raise ValueError(f"rows of {dict(side)} mix several values of {column} ({values}): add {column} to both sides")
    return rows.groupby(list(dict.fromkeys(keys)))["accuracy"].mean()


def all_equal(values: Series, limit: float = 0.0) -> bool:
    """Whether two `values` or more are equal except for rounding, beside 1 and `limit`."""
    return float(values.std(ddof=1)) <= ROUNDING * max(1.0, abs(limit))


def one_sided_t(values: Series, limit: float = 0.0) -> tuple[float, float]:
    """One-sided p-values of Student's t-test: small if the mean of two `values` or more is above `limit`; small if it is below."""
    gap, rounding = float(values.mean()) - limit, ROUNDING * max(1.0, abs(limit))
    if all_equal(values, limit):
        return float(gap <= rounding), float(gap >= -rounding)
    t, freedom = gap / (float(values.std(ddof=1)) / math.sqrt(len(values))), len(values) - 1
    return float(scipy.stats.t.sf(t, freedom)), float(scipy.stats.t.cdf(t, freedom))


def paired_t(differences: Iterable[float]) -> float:
    """Two-sided p of Student's t-test that the mean of paired `differences` is zero. NaN for fewer than `ENOUGH` of them."""
    values = Series(list(differences), dtype=float)
    return math.nan if len(values) < ENOUGH else min(1.0, 2 * min(one_sided_t(values)))


def holm(p: Iterable[float]) -> list[float]:
    """Holm's correction of the p-values of one family. NaN stay NaN and do not count.

    Source: S. Holm, A Simple Sequentially Rejective Multiple Test Procedure, 1979.
    """
    values = numpy.fromiter(p, dtype=float)
    order = values.argsort()[: numpy.isfinite(values).sum()]  # NaN sort last
    values[order] = numpy.maximum.accumulate(numpy.minimum(1.0, numpy.arange(len(order), 0, -1) * values[order]))
    return list(map(float, values))


def friedman(table: DataFrame) -> float:
    """p of Friedman's test on a table with a row for each seed and a column for each strategy.

    NaN for fewer than three strategies or `ENOUGH` replications, or if all columns are equal.
    """
    if table.shape[1] < 3 or len(table) < ENOUGH or table.eq(table.iloc[:, 0], axis=0).all(axis=None):
        return math.nan
    return float(scipy.stats.friedmanchisquare(*(table[name] for name in table)).pvalue)


def spearman(first: Float[Tensor, " N"], second: Float[Tensor, " N"], names: tuple[str, str] = ("first", "second")) -> float:
    """Spearman's rho in [-1, 1]. Equal values share the mean of their ranks.

    It raises ValueError, as the functions below, for sides of different lengths, fewer than two values, NaN, or values that are all equal.
    """
    _check_pairs(first, second, names)
    return float(scipy.stats.spearmanr(first.double().cpu().numpy(), second.double().cpu().numpy()).statistic)


def bootstrap(first: Float[Tensor, " N"], second: Float[Tensor, " N"], *, resamples: int = 1000, seed: int = 0) -> tuple[float, float]:
    """The 95 % percentile interval of `spearman` over `resamples` samples of the N pairs with replacement.

    Samples in which one side is constant have no correlation and are left out. Values are sorted once, so that the time is
    O(`resamples` N). Memory: O(`BLOCK` N). Source: Efron 1979.
    Raises ValueError for no samples, or no sample with a correlation.
    """
    _check_pairs(first, second, ("first", "second"))
    at_least("bootstrap: resamples", resamples, 1)
    generator, n, parts = (Stream(seed) / "bootstrap").generator(), len(first), []
    places = [values.unique(return_inverse=True)[1] for values in (first.cpu(), second.cpu())]  # on the CPU: equal on every device
    for start in range(0, resamples, BLOCK):
        drawn = torch.randint(n, (min(BLOCK, resamples - start), n), generator=generator)
        parts.append(_pearson(*(_ranks_of_places(place[drawn], n) for place in places)))
    values = torch.cat(parts)
    values = values[values.isfinite()]
    if not len(values):
        raise ValueError(f"none of {resamples} samples of {n} pairs has two different values on both sides: take more pairs or samples")
    low, high = torch.quantile(values, torch.tensor([(1 - BAND) / 2, (1 + BAND) / 2], dtype=values.dtype)).tolist()
    return low, high


def _ranks_of_places(places: Tensor, n: int) -> Tensor:
    """Average ranks of whole numbers [R,N] in [0, n), by counting, which is faster than sorting."""
    ones = torch.ones((), dtype=torch.float64).expand(places.shape)
    count = torch.zeros(len(places), n, dtype=torch.float64).scatter_add_(1, places, ones)
    return (count.cumsum(1) - (count - 1) / 2).gather(1, places)


def _pearson(a: Tensor, b: Tensor) -> Tensor:
    a, b = a - a.mean(dim=-1, keepdim=True), b - b.mean(dim=-1, keepdim=True)
    scale = a.square().sum(dim=-1).sqrt() * b.square().sum(dim=-1).sqrt()
    return ((a * b).sum(dim=-1) / scale).clamp(-1, 1)


def within_classes(
    first: Float[Tensor, " N"], second: Float[Tensor, " N"], targets: Int[Tensor, " N"], classes: int
) -> tuple[list[float], float]:
    """Rho within each class, NaN where it is undefined, and the mean weighted by the number of images.

    What is left of a correlation without the differences between class means.
    """
    _check_pairs(first, second, ("first", "second"))
    check_targets(targets, len(first), classes)
    values, weights = [], []
    for label in range(classes):
        a, b = first[targets == label], second[targets == label]
        defined = len(a) > 1 and bool((a != a[0]).any()) and bool((b != b[0]).any())
        values.append(spearman(a, b) if defined else math.nan)
        weights.append(len(a) if defined else 0)
    weighted = [value * weight for value, weight in zip(values, weights, strict=True) if weight]
    return values, sum(weighted) / sum(weights) if weighted else math.nan


def reliability(draws: Float[Tensor, "M N"]) -> float:
    """How well the order by the mean over M draws would agree with the order by M other draws, in [-1, 1].

    Rho between the means of the even and of the odd draws, corrected to M draws: 2 rho / (1 + rho). A negative rho is returned as it is,
    since the correction does not apply. If M is odd, the halves have (M + 1) / 2 and (M - 1) / 2 draws. Source: Spearman; Brown 1910.
    """
    if draws.ndim != 2 or len(draws) < 2:
        raise ValueError(f"draws are {list(draws.shape)}, expected [M, N] with M of at least 2: draw more views of each image")
    half = spearman(draws[0::2].double().mean(dim=0), draws[1::2].double().mean(dim=0), ("even draws", "odd draws"))
    return 2 * half / (1 + half) if half > 0 else half


@dataclass(frozen=True)
class Correlation:
    """Rank correlation between the losses of a pretext and those of the main task, and what a plot of it needs."""

    rho: float
    low: float  # of the 95 % bootstrap interval
    high: float
    within: float  # weighted mean of the values within classes
    classes: tuple[float, ...]  # within each
    by_draws: dict[int, float]  # rho of the mean of the first 1, 2, 4, 8, … draws
    reliability: float  # of the order by all draws; NaN if there is one draw
    shown: tuple[tuple[float, float], ...]  # of `SHOWN` random images: the ranks in (0, 1) of main-task and pretext loss


def correlate(draws: Tensor, main: Tensor, targets: Tensor, classes: int, *, resamples: int = 1000, seed: int = 0) -> Correlation:
    """The `Correlation` of a pretext's losses [M,N] by draw, which are averaged, and those of the main task [N]; targets i64 [N]."""
    if draws.ndim != 2 or not len(draws):
        raise ValueError(f"the pretext's losses are {list(draws.shape)}: give [M, N], with M = 1 where nothing is drawn")
    draws, main = draws.double().cpu(), main.cpu()
    pretext, n = draws.mean(dim=0), len(main)
    rho = spearman(pretext, main, ("pretext loss", "main-task loss"))
    low, high = bootstrap(pretext, main, resamples=resamples, seed=seed)
    each, mean = within_classes(pretext, main, targets.cpu(), classes)
    by_draws = {m: spearman(draws[:m].mean(dim=0), main) for m in (2**k for k in range(len(draws).bit_length()))}
    stable = reliability(draws) if len(draws) > 1 else math.nan
    shown = torch.randperm(n, generator=(Stream(seed) / "shown").generator())[:SHOWN].numpy()
    ranks = ((scipy.stats.rankdata(values.double().numpy())[shown] - 0.5) / n for values in (main, pretext))
    points = tuple((round(float(x), 6), round(float(y), 6)) for x, y in zip(*ranks, strict=True))
    return Correlation(rho, low, high, mean, tuple(each), by_draws, stable, points)


def check_targets(targets: Tensor, n: int, classes: int | None = None) -> None:
    """Raises: ValueError if `targets` are not [n], or not in [0, classes); by default, if one is negative."""
    if targets.shape != (n,):
        raise ValueError(f"targets are {list(targets.shape)}, of {n} images: give one target per image")
    bad = ((targets < 0) | (targets >= (targets.max() + 1 if classes is None else classes))).nonzero().flatten()
    if len(bad):
        allowed = "at least 0" if classes is None else f"in [0, {classes})"
        raise ValueError(f"targets[{int(bad[0])}] is {int(targets[bad[0]])}, but classes are {allowed}: leave out images without a class")


def _check_pairs(first: Tensor, second: Tensor, names: tuple[str, str]) -> None:
    if first.ndim != 1 or first.shape != second.shape or len(first) < 2:
        raise ValueError(f"{names[0]} is {list(first.shape)}, {names[1]} {list(second.shape)}: both must be [N], with N of at least 2")
    for values, name in zip((first, second), names, strict=True):
        if bool(values.isnan().any()):
            raise ValueError(f"{name} is NaN at {int(values.isnan().nonzero()[0])}: it has no rank")
        if bool((values == values[0]).all()):
            raise ValueError(f"{name} is {float(values[0])} everywhere: constant values have no rank correlation")


def area_under_budget_curve(labelled: Sequence[float] | Shaped[Tensor, " K"], accuracy: Sequence[float] | Shaped[Tensor, " K"]) -> float:
    """The area under accuracy over the number of labels, divided by the range of labels: a mean accuracy over the budget.

    Args:
        labelled: number of labelled images in each cycle, increasing.
        accuracy: in [0, 1], as many. The trapezoid rule joins them.
    Raises:
        ValueError: the lengths differ, there are fewer than two cycles, or the labels do not increase.
    Source: Lüth et al. 2023 (realistic-al).
    """
    x, y = (torch.as_tensor(values, dtype=torch.float64, device="cpu") for values in (labelled, accuracy))
    if x.shape != y.shape or len(x) < 2:
        raise ValueError(f"{len(x)} numbers of labels and {len(y)} accuracies: a curve needs one of each per cycle, for two cycles or more")
    if not (x.diff() > 0).all():
        raise ValueError(f"the numbers of labels {x.tolist()} do not increase: sort the cycles, and pass each once")
    return float(torch.trapezoid(y, x) / (x[-1] - x[0]))


def weighted_mean(values: Tensor, probabilities: Tensor) -> tuple[float, float]:
    """The mean of a value over all candidates of a query, and its standard error, from the picks alone. Unbiased.

    values: [n], finite. probabilities: [n] in (0, 1], as from `RandomShare`; equal ones below 1 are a stratum, drawn without replacement.
    The error is NaN if a stratum has one pick. Raises ValueError where sizes differ or a probability is not in (0, 1].
    Source: Horvitz and Thompson 1952; Cochran 1977, section 5.4. Farquhar et al. 2021 weight by draws in sequence instead.
    """
    if values.shape != probabilities.shape or not bool(((probabilities > 0) & (probabilities <= 1)).all()):
        raise ValueError(f"probabilities must be {list(values.shape)} numbers in (0, 1], but are {probabilities}: give one for each value")
    values, weights = values.double(), 1 / probabilities.double()
    variance = torch.zeros((), dtype=torch.float64)
    for weight in weights[weights > 1].unique():
        stratum = values[weights == weight]
        spread = stratum.var() if len(stratum) > 1 else torch.nan
        variance = variance + len(stratum) * weight * (weight - 1) * spread
    return float(weights @ values / weights.sum()), float(variance.sqrt() / weights.sum())
