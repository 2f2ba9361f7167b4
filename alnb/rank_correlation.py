"""How much the order of one loss says of the order of another: Spearman's rank correlation, with intervals, within classes, over draws."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from alnb import report, rng
from alnb.shapes import Float, Int

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = 1000  # points of a scatter plot: Yi et al. 2022, Figure 2
BLOCK = 50  # bootstrap samples at once


def ranks(values: Float[Tensor, "... N"]) -> Float[Tensor, "... N"]:
    """Average ranks f64, from 1, along the last axis: equal values share the mean of their places."""
    order = values.double().sort(dim=-1)
    n = values.shape[-1]
    first = torch.searchsorted(order.values, order.values, right=False).double()
    after = torch.searchsorted(order.values, order.values, right=True).double()
    mean = (first + 1 + after) / 2
    out: Tensor = torch.empty_like(mean).scatter_(-1, order.indices, mean)
    assert out.shape[-1] == n
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

    Samples in which one of the two is constant have no correlation and are left out. Memory: O(`BLOCK` N).
    Raises: as `spearman`.
    """
    _check(one, other, ("first", "second"))
    generator, n, found = rng.generator(seed, "bootstrap"), len(one), []
    for start in range(0, resamples, BLOCK):
        drawn = torch.randint(n, (min(BLOCK, resamples - start), n), generator=generator)
        found.append(_pearson(ranks(one[drawn]), ranks(other[drawn])))
    values = torch.cat(found)
    values = values[values.isfinite()]
    tail = (1 - level) / 2
    low, high = torch.quantile(values, torch.tensor([tail, 1 - tail], dtype=values.dtype)).tolist()
    return low, high


def within_classes(
    one: Float[Tensor, " N"], other: Float[Tensor, " N"], targets: Int[Tensor, " N"], classes: int
) -> tuple[list[float], float]:
    """Rho within each class, NaN where it is not defined, and their mean weighted by the number of images.

    What is left of a correlation when the class means no longer count.
    """
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

    Rho between the means over the even and over the odd draws, stepped up to M draws by Spearman and Brown: 2 rho / (1 + rho).

    Raises:
        ValueError: fewer than two draws, or as `spearman`.
    """
    if draws.ndim != 2 or len(draws) < 2:
        raise ValueError(f"draws are [M, N] with M of at least 2, these are {list(draws.shape)}: draw more views of each image")
    half = spearman(draws[0::2].double().mean(dim=0), draws[1::2].double().mean(dim=0), ("even draws", "odd draws"))
    return 2 * half / (1 + half) if half > -1 else -1.0


@dataclass(frozen=True)
class Correlation:
    """What `correlate` finds between a pretext's losses and those of the main task."""

    rho: float
    low: float  # of the 95 % bootstrap interval
    high: float
    within: float  # weighted mean of the values within classes
    classes: tuple[float, ...]  # within each


def correlate(pretext: Tensor, main: Tensor, targets: Tensor, classes: int, *, resamples: int = 1000, seed: int = 0) -> Correlation:
    """All of it, for losses [N] and targets i64 [N]. Raises: as `spearman`."""
    rho = spearman(pretext, main, ("pretext loss", "main-task loss"))
    low, high = bootstrap(pretext, main, resamples=resamples, seed=seed)
    each, mean = within_classes(pretext, main, targets, classes)
    return Correlation(rho, low, high, mean, tuple(each))


def draw(pretexts: Mapping[str, Tensor], main: Tensor, found: Mapping[str, Correlation], title: str, seed: int = 0) -> Figure:
    """Figure 2: normalised ranks of both losses of `SHOWN` random images; a panel for each pretext, rho over all images in its title."""
    from matplotlib.figure import Figure

    shown = torch.randperm(len(main), generator=rng.generator(seed, "shown"))[:SHOWN]
    horizontal = ((ranks(main) - 0.5) / len(main))[shown].numpy()
    figure = Figure(figsize=(3.5 * len(pretexts), 4.1), layout="constrained")
    for k, (axis, (name, losses)) in enumerate(zip(figure.subplots(1, len(pretexts), squeeze=False)[0], pretexts.items(), strict=True)):
        vertical = ((ranks(losses) - 0.5) / len(losses))[shown].numpy()
        axis.scatter(horizontal, vertical, s=6, alpha=0.5, color=report.COLOURS[k % len(report.COLOURS)], linewidths=0)
        one = found[name]
        axis.set_title(f"{name}\nρ = {one.rho:.3f} ({one.low:.3f} to {one.high:.3f})\nwithin classes {one.within:.3f}", fontsize=10)
        axis.set(
            xlabel="rank of the main-task loss",
            ylabel="rank of the pretext loss" if not k else "",
            xlim=(0, 1),
            ylim=(0, 1),
            aspect="equal",
        )
    figure.suptitle(title, fontsize=11)
    return figure


def _pearson(a: Tensor, b: Tensor) -> Tensor:
    a, b = a - a.mean(dim=-1, keepdim=True), b - b.mean(dim=-1, keepdim=True)
    scale = a.square().sum(dim=-1).sqrt() * b.square().sum(dim=-1).sqrt()
    return ((a * b).sum(dim=-1) / scale).clamp(-1, 1)


def _check(one: Tensor, other: Tensor, names: tuple[str, str]) -> None:
    if one.ndim != 1 or one.shape != other.shape or len(one) < 2:
        raise ValueError(f"{names[0]} is {list(one.shape)}, {names[1]} {list(other.shape)}: both are [N], with N of at least 2")
    for values, name in zip((one, other), names, strict=True):
        if bool(values.isnan().any()):
            raise ValueError(f"{name} is not a number at {int(values.isnan().nonzero()[0])}: it has no rank")
        if bool((values == values[0]).all()):
            raise ValueError(f"{name} is {float(values[0])} everywhere: without an order there is no rank correlation")
