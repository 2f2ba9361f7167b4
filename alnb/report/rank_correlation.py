"""How much the order of one loss says of the order of another: Spearman's rank correlation, with intervals, within classes, over draws."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from alnb.report import figures as report
from alnb.store import streams as rng
from alnb.store.shapes import Float, Int

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = 1000  # points of a scatter plot: Yi et al. 2022, Figure 2
BLOCK = 50  # bootstrap samples at once


def ranks(values: Float[Tensor, "... N"]) -> Float[Tensor, "... N"]:
    """Average ranks f64, from 1, along the last axis: equal values share the mean of their places."""
    order = values.double().sort(dim=-1)
    first = torch.searchsorted(order.values, order.values, right=False).double()
    after = torch.searchsorted(order.values, order.values, right=True).double()
    mean = (first + 1 + after) / 2
    out: Tensor = torch.empty_like(mean).scatter_(-1, order.indices, mean)
    return out


def spearman(one: Float[Tensor, " N"], other: Float[Tensor, " N"], names: tuple[str, str] = ("first", "second")) -> float:
    """Spearman's rho in [-1, 1]: Pearson's correlation of average ranks.

    Raises:
        ValueError: other lengths, fewer than two values, values that are not numbers, or all equal; `names` says which.
    """
    _check(one, other, names)
    return float(_pearson(ranks(one), ranks(other)))


def bootstrap(
    one: Float[Tensor, " N"], other: Float[Tensor, " N"], *, resamples: int = 1000, level: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Percentile interval of `spearman` over `resamples` samples of the N pairs with replacement.

    Samples in which one of the two is constant have no correlation and are left out. Time: O(`resamples` N), since values are sorted but
    once. Memory: O(`BLOCK` N).

    Raises:
        ValueError: fewer than one sample, a level that is not in (0, 1), no sample with a correlation, or as `spearman`.
    Source: Efron 1979.
    """
    _check(one, other, ("first", "second"))
    if resamples < 1 or not 0 < level < 1:
        raise ValueError(f"resamples is {resamples}, level {level}: choose at least 1, and a level in (0, 1) such as 0.95")
    generator, n, found = rng.generator(seed, "bootstrap"), len(one), []
    places = [values.unique(return_inverse=True)[1] for values in (one.cpu(), other.cpu())]  # drawn on the CPU: the same on every device
    for start in range(0, resamples, BLOCK):
        drawn = torch.randint(n, (min(BLOCK, resamples - start), n), generator=generator)
        found.append(_pearson(*(_ranks_of_places(place[drawn], n) for place in places)))
    values = torch.cat(found)
    values = values[values.isfinite()]
    if not len(values):
        raise ValueError(f"none of {resamples} samples of {n} pairs has two different values on both sides: take more pairs or samples")
    tail = (1 - level) / 2
    low, high = torch.quantile(values, torch.tensor([tail, 1 - tail], dtype=values.dtype)).tolist()
    return low, high


def within_classes(
    one: Float[Tensor, " N"], other: Float[Tensor, " N"], targets: Int[Tensor, " N"], classes: int
) -> tuple[list[float], float]:
    """Rho within each class, NaN where it is not defined, and their mean weighted by the number of images.

    What is left of a correlation when the class means no longer count.

    Raises:
        ValueError: targets that are not one of `classes` for each image, or as `spearman`.
    """
    _check(one, other, ("first", "second"))
    _check_targets(targets, len(one), classes)
    values, weights = [], []
    for label in range(classes):
        member = targets == label
        a, b = one[member], other[member]
        defined = len(a) > 1 and bool((a != a[0]).any()) and bool((b != b[0]).any())
        values.append(spearman(a, b) if defined else math.nan)
        weights.append(len(a) if defined else 0)
    known = [(v, w) for v, w in zip(values, weights, strict=True) if w]
    return values, sum(v * w for v, w in known) / sum(weights) if known else math.nan


def reliability(draws: Float[Tensor, "M N"]) -> float:
    """How far the order by the mean over M draws would come out again with M other draws, in [-1, 1].

    Rho between the means over the even and over the odd draws, stepped up to M draws: 2 rho / (1 + rho). A negative rho, where halves
    contradict each other, has no such step and is returned as it is. Of an odd M, the halves are of (M + 1) / 2 and (M - 1) / 2 draws.

    Raises:
        ValueError: fewer than two draws, or as `spearman`.
    Source: Spearman 1910; Brown 1910.
    """
    if draws.ndim != 2 or len(draws) < 2:
        raise ValueError(f"draws are [M, N] with M of at least 2, these are {list(draws.shape)}: draw more views of each image")
    half = spearman(draws[0::2].double().mean(dim=0), draws[1::2].double().mean(dim=0), ("even draws", "odd draws"))
    return 2 * half / (1 + half) if half > 0 else half


@dataclass(frozen=True)
class Correlation:
    """What `correlate` finds between a pretext's losses and those of the main task, with what a plot of it shows."""

    rho: float
    low: float  # of the 95 % bootstrap interval
    high: float
    within: float  # weighted mean of the values within classes
    classes: tuple[float, ...]  # within each
    by_draws: dict[int, float]  # rho by the mean of the first 1, 2, 4, 8, … draws
    reliability: float  # of the order by all draws, NaN of one draw
    shown: tuple[tuple[float, float], ...]  # of `SHOWN` random images: the ranks in (0, 1) of main-task and pretext loss


def correlate(draws: Tensor, main: Tensor, targets: Tensor, classes: int, *, resamples: int = 1000, seed: int = 0) -> Correlation:
    """All of it, for a pretext's losses [M,N] by draw, whose mean counts, those of the main task [N], and targets i64 [N].

    Raises:
        ValueError: losses that are not [M,N], or as `spearman`.
    """
    if draws.ndim != 2 or not len(draws):
        raise ValueError(f"the pretext's losses are {list(draws.shape)}: give [M, N], with M = 1 where nothing is drawn")
    pretext, main = draws.double().mean(dim=0).cpu(), main.cpu()
    rho = spearman(pretext, main, ("pretext loss", "main-task loss"))
    low, high = bootstrap(pretext, main, resamples=resamples, seed=seed)
    each, mean = within_classes(pretext, main, targets.cpu(), classes)
    sizes = [2**k for k in range(len(draws).bit_length())]
    by_draws = {m: spearman(draws[:m].double().mean(dim=0).cpu(), main) for m in sizes}
    some = torch.randperm(len(main), generator=rng.generator(seed, "shown"))[:SHOWN]
    shown = torch.stack([(ranks(values) - 0.5) / len(values) for values in (main, pretext)], dim=1)[some]
    stable = reliability(draws.cpu()) if len(draws) > 1 else math.nan
    points = tuple((round(x, 6), round(y, 6)) for x, y in shown.tolist())
    return Correlation(rho, low, high, mean, tuple(each), by_draws, stable, points)


def draw(found: Mapping[str, Correlation], title: str, printed: Mapping[str, float] | None = None) -> Figure:
    """Figure 2: normalised ranks of both losses of `SHOWN` random images; a panel for each pretext, rho over all images in its title.

    Args:
        printed: what the paper prints for rho, by pretext; it stands beside ours.
    Raises:
        ValueError: there is no pretext.
    """
    from matplotlib.figure import Figure

    if not found:
        raise ValueError("there is no pretext to draw: give one at least")
    figure = Figure(figsize=(3.5 * len(found), 4.9), layout="constrained")
    for k, (axis, (name, one)) in enumerate(zip(figure.subplots(1, len(found), squeeze=False)[0], found.items(), strict=True)):
        axis.scatter(*zip(*one.shown, strict=True), s=6, alpha=0.5, color=report.COLOURS[k % len(report.COLOURS)], linewidths=0)
        theirs = f"; paper: {printed[name]:g}" if printed and name in printed else ""
        axis.set_title(f"{name}{theirs}\nρ = {one.rho:.3f} ({one.low:.3f} to {one.high:.3f})\nwithin classes {one.within:.3f}", fontsize=10)
        axis.set(
            xlabel="rank of the main-task loss",
            ylabel="rank of the pretext loss" if not k else "",
            xlim=(0, 1),
            ylim=(0, 1),
            aspect="equal",
        )
    figure.suptitle(textwrap.fill(title, int(11 * figure.get_figwidth())) + "\n", fontsize=11)
    return figure


def _ranks_of_places(places: Tensor, n: int) -> Tensor:
    """As `ranks`, of whole numbers [R,N] in [0, n), by counting instead of sorting."""
    count = torch.zeros(len(places), n, dtype=torch.float64).scatter_add_(
        1, places, torch.ones((), dtype=torch.float64).expand(places.shape)
    )
    return (count.cumsum(1) - (count - 1) / 2).gather(1, places)


def _pearson(a: Tensor, b: Tensor) -> Tensor:
    a, b = a - a.mean(dim=-1, keepdim=True), b - b.mean(dim=-1, keepdim=True)
    scale = a.square().sum(dim=-1).sqrt() * b.square().sum(dim=-1).sqrt()
    return ((a * b).sum(dim=-1) / scale).clamp(-1, 1)


def _check_targets(targets: Tensor, n: int, classes: int) -> None:
    if targets.shape != (n,):
        raise ValueError(f"targets are {list(targets.shape)}, of {n} images: one for each")
    bad = ((targets < 0) | (targets >= classes)).nonzero().flatten()
    if len(bad):
        raise ValueError(f"targets[{int(bad[0])}] is {int(targets[bad[0]])}: classes are in [0, {classes}); leave images without one out")


def _check(one: Tensor, other: Tensor, names: tuple[str, str]) -> None:
    if one.ndim != 1 or one.shape != other.shape or len(one) < 2:
        raise ValueError(f"{names[0]} is {list(one.shape)}, {names[1]} {list(other.shape)}: both are [N], with N of at least 2")
    for values, name in zip((one, other), names, strict=True):
        if bool(values.isnan().any()):
            raise ValueError(f"{name} is not a number at {int(values.isnan().nonzero()[0])}: it has no rank")
        if bool((values == values[0]).all()):
            raise ValueError(f"{name} is {float(values[0])} everywhere: without an order there is no rank correlation")
