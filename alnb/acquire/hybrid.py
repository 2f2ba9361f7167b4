"""Uncertain and diverse at once: BADGE, Cluster-Margin, and random draws in proportion to a power of any score."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import zip_longest

import torch
from torch import Tensor

from alnb.acquire import scores
from alnb.acquire.query import Query
from alnb.store.checks import at_least, within
from alnb.store.shapes import Float, Int

EQUAL = 32  # rounding units; squared distances below this share of the squared norms are rounding errors of equal points


def badge(query: Query) -> Int[Tensor, " n"]:
    """k-means++ seeds among the gradients that the candidates would give the head, if each had its predicted class.

    Source: Ash et al. 2020, algorithm 1. As in their code, the first seed has the largest gradient; the paper draws it.
    """
    features = query.features[query.candidates.to(query.features.device)].float()
    residuals = query.log_probs.exp()
    predicted = query.log_probs.argmax(1, keepdim=True)
    residuals.scatter_(1, predicted, -scores.least_confidence(query.log_probs)[:, None])  # p - 1 keeps its digits where p is nearly 1
    uniform = torch.rand(query.n, generator=(query.stream / "badge").generator(), dtype=torch.float64)
    return query.candidates[seeds(residuals.to(features), features, uniform).cpu()]


def seeds(residuals: Float[Tensor, "M C"], features: Float[Tensor, "M D"], uniform: Float[Tensor, " n"]) -> Int[Tensor, " n"]:
    """k-means++ seeds, i64 [n], among the outer products g = residual x feature; g itself [M,C D] is never stored.

    The first has the largest norm. Each later one is drawn in proportion to its squared distance to the nearest seed: the first row at
    which the sum of these exceeds `uniform` [n], in [0, 1), of the total. Where all rows equal a seed, the lowest other rows follow.

    Time O(n M (C + D)), memory O(M). Raises ValueError: n is larger than M. Source: Arthur and Vassilvitskii 2007.
    """
    if len(uniform) > len(features):
        raise ValueError(f"n = {len(uniform)} seeds of {len(features)} candidates were asked for: choose n in [0, {len(features)}]")
    square = residuals.square().sum(1) * features.square().sum(1)  # |g|^2
    distance, free = square, torch.ones_like(square, dtype=torch.bool)
    chosen: list[int] = []
    for draw in uniform.tolist():
        total = distance.double().cumsum(0)
        if total[-1] <= 0:
            row = int(free.int().argmax())
        elif not chosen:
            row = int(square.argmax())
        else:  # rounding may carry the draw to the end of the sum, but not past the last row that adds to it
            row = min(int(torch.searchsorted(total, total[-1:] * draw, right=True)), int(torch.searchsorted(total, total[-1:])))
        chosen.append(row)
        free[row] = False
        both = square + square[row]
        gap = both.sub((residuals @ residuals[row]).mul_(features @ features[row]), alpha=2)
        gap[gap < EQUAL * torch.finfo(gap.dtype).eps * both] = 0
        gap[row] = 0
        distance = gap if len(chosen) == 1 else torch.minimum(distance, gap)
    return torch.tensor(chosen, dtype=torch.int64, device=features.device)


@dataclass(frozen=True)
class ClusterMargin:
    """Cluster the candidates with the smallest margins; take one of each cluster in turn, at random, from the smallest cluster up.

    Average linkage needs the distances of all pairs, so only these candidates are clustered, in each query anew; the paper clusters the
    whole pool once. It takes 1.25 to 10 times n candidates. Memory O(max(most, 1.25 n)^2): 0.2 GB at 5,000.
    Source: Citovsky et al. 2021, algorithms 1 and 2.
    """

    factor: float = 10.0  # candidates that are clustered, as a multiple of n
    most: int = 5_000  # of them; but never fewer than 1.25 n
    size: int = 10  # images in a cluster, on average; ours: the paper gives a distance

    def __post_init__(self) -> None:
        """Raises: ValueError, which names the field, its value and what it may be."""
        within("ClusterMargin.factor", self.factor, 1.25)
        at_least("ClusterMargin.most", self.most, 1)
        at_least("ClusterMargin.size", self.size, 1)

    def __call__(self, query: Query) -> Int[Tensor, " n"]:
        """Global indices. Raises: ValueError before the first labels."""
        number = max(math.ceil(1.25 * query.n), min(math.ceil(self.factor * query.n), self.most))
        margins = scores.per_image(scores.margin(query.log_probs))
        rows = query.candidates[scores.top(-margins, min(number, len(query.candidates)))]
        clusters = average_linkage(query.features[rows.to(query.features.device)], max(1, len(rows) // self.size))
        return rows[round_robin(clusters, query.n, (query.stream / "cluster_margin").generator())]


def average_linkage(features: Float[Tensor, "M D"], number: int) -> Int[Tensor, " M"]:
    """The cluster, from 0, of each row: at most `number` clusters by average linkage of Euclidean distances. On the CPU, memory O(M^2)."""
    if len(features) < 2:
        return torch.zeros(len(features), dtype=torch.int64)
    from scipy.cluster.hierarchy import fcluster, linkage  # slow to import

    tree = linkage(torch.pdist(features.float()).cpu().double().numpy(), "average")
    return torch.from_numpy(fcluster(tree, number, "maxclust")).long() - 1


def round_robin(clusters: Int[Tensor, " M"], n: int, generator: torch.Generator) -> Int[Tensor, " n"]:
    """n rows, i64 [n]: at random one of each cluster in turn, from the smallest to the largest, then again of those with rows left."""
    order = torch.randperm(len(clusters), generator=generator)
    members = sorted((order[clusters[order] == cluster].tolist() for cluster in clusters.unique()), key=len)
    return torch.tensor([row for turn in zip_longest(*members) for row in turn if row is not None][:n])


def uncertainty(query: Query) -> Float[Tensor, " M"]:
    """One minus the margin of each candidate, in [0, 1]; LARGE means uncertain."""
    return 1 - scores.per_image(scores.margin(query.log_probs))


@dataclass(frozen=True)
class Power:
    """Draws without replacement, each in proportion to the score to the power of `beta`: the largest log score + Gumbel noise / beta.

    `beta` near 0 is random, infinity the n largest scores. Scores of 0 come last, by position.
    Source: Kirsch et al. 2023 (Stochastic batch acquisition), section 3, "power"; 1 is their value.
    """

    score: Callable[[Query], Tensor] = uncertainty  # to a score of each candidate, [M], 0 or more, LARGE means that it should be asked for
    beta: float = 1.0

    def __post_init__(self) -> None:
        """Raises: ValueError where beta is not above 0."""
        within("Power.beta", self.beta, 0, above=True)

    def __call__(self, query: Query) -> Int[Tensor, " n"]:
        """Global indices. Raises: as the score."""
        noise = -torch.empty(len(query.candidates), dtype=torch.float64).exponential_(generator=(query.stream / "power").generator()).log()
        return query.candidates[scores.top(self.score(query).cpu().double().clamp(min=0).log() + noise / self.beta, query.n)]
