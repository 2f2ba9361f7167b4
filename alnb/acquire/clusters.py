"""Choosing by clusters: pure functions of features [N, D], and the strategies k-means, TypiClust and TCM.

All want features in which near means alike, such as self-supervised ones: of an embedded pool, or of a net that starts from them.
Before the first labels, without a net, they work on the images themselves, flattened.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from alnb.acquire import scores
from alnb.acquire.cover import SCAN
from alnb.acquire.query import Query
from alnb.learn.train import predict
from alnb.store.checks import at_least
from alnb.store.shapes import Float, Int, Shaped
from alnb.store.streams import Stream

SAMPLE = 5_000  # rows on which centres are fitted, at least; MiniBatchKMeans of TypiClust's code takes as many at a time
PER_CLUSTER = 20  # rows of the sample for each cluster, at least
ITERATIONS = 10  # of Lloyd; later ones move few points, and 500 clusters of 50,000 x 512 take 2 s of a core


def lloyd(features: Float[Tensor, "N D"], k: int, seed: int = 0) -> tuple[Int[Tensor, " N"], Float[Tensor, "K D"]]:
    """The cluster i64 [N] of each point, and the centres [K, D]: the means of the clusters.

    K is k or, where fewer points differ, fewer; a cluster may be empty. k-means++ and Lloyd's iterations work on a sample of
    max(`SAMPLE`, `PER_CLUSTER` k) rows; then all rows join the nearest centre. Memory O(SCAN * (K + D)) besides the results.
    Source: Lloyd 1982; Arthur and Vassilvitskii 2007.
    """
    order = torch.randperm(len(features), generator=Stream(seed).generator()).to(features.device)
    sample = features[order[: max(SAMPLE, PER_CLUSTER * k)].sort().values].float()
    centres, labels = _seeds(sample, k, seed), None
    for _ in range(ITERATIONS):
        before, labels = labels, _assigned(sample, centres)
        if before is not None and labels.equal(before):
            break
        centres = _means(sample, labels, centres)
    labels = _assigned(features, centres)
    return labels, _means(features, labels, centres)


def _seeds(sample: Tensor, k: int, seed: int) -> Tensor:
    """Up to k different rows by k-means++."""
    draws = torch.rand(k, generator=(Stream(seed) / "seeds").generator()).tolist()
    norms, chosen = sample.square().sum(1), [int(draws[0] * len(sample))]
    nearest = torch.full_like(norms, torch.inf)
    for draw in draws[1:]:
        row = sample[chosen[-1]]
        square = torch.addmv(norms, sample, row, alpha=-2).add_(norms[chosen[-1]])
        nearest = torch.minimum(nearest, square.where(square > 1e-5 * (norms + norms[chosen[-1]]), 0))  # the rest is rounding
        total = nearest.double().cumsum(0)
        if total[-1] == 0:
            break
        chosen.append(min(int(torch.searchsorted(total, draw * total[-1], right=True)), len(sample) - 1))
    return sample[chosen]


def _assigned(features: Tensor, centres: Tensor) -> Tensor:
    """The nearest centre, i64 [N], of each row."""
    norms = centres.square().sum(1)
    return torch.cat([torch.addmm(norms, rows.float(), centres.T, alpha=-2).argmin(1) for rows in features.split(SCAN)])


def _means(features: Tensor, labels: Tensor, centres: Tensor) -> Tensor:
    """The means [K, D] of the clusters; that of an empty cluster is its old centre."""
    sums, counts = torch.zeros_like(centres), torch.bincount(labels, minlength=len(centres))[:, None]
    for rows, part in zip(features.split(SCAN), labels.split(SCAN), strict=True):
        if rows.is_cuda:  # where index_add_ adds in any order
            sums += functional.one_hot(part, len(centres)).T.float() @ rows.float()
        else:
            sums.index_add_(0, part, rows.float())
    return torch.where(counts > 0, sums / counts.clamp(min=1), centres)


def central(features: Float[Tensor, "N D"], n: int, seed: int = 0) -> Int[Tensor, " n"]:
    """n points, i64 [n], one from each of n k-means clusters: the nearest to the centre, the largest cluster first.

    Where fewer than n clusters have points, the lowest other indices fill the rest. seed: of the clustering.
    Raises ValueError: n negative or more than N.
    """
    _check(n, len(features), "central")
    if n == 0:
        return torch.empty(0, dtype=torch.int64, device=features.device)
    labels, centres = lloyd(features, n, seed)
    parts = zip(features.split(SCAN), labels.split(SCAN), strict=True)
    distance = torch.cat([torch.linalg.vector_norm(rows.float() - centres[part], dim=1) for rows, part in parts])
    sizes = torch.bincount(labels, minlength=len(centres))
    order = sizes.argsort(descending=True, stable=True)[: int((sizes > 0).sum())].tolist()
    return _filled([int(torch.where(labels == cluster, distance, torch.inf).argmin()) for cluster in order], torch.ones_like(labels), n)


def typical(
    features: Float[Tensor, "N D"],
    covered: Shaped[Tensor, " N"],
    n: int,
    seed: int = 0,
    *,
    clusters: int = 500,
    neighbours: int = 20,
    smallest: int = 6,
) -> Int[Tensor, " n"]:
    """n uncovered points, i64 [n], that TypiClust picks: the most typical ones of clusters without labels.

    covered: bool [N], True where a point is labelled. All points are clustered into at most `clusters` clusters, one for each covered
    and each new point. Those of fewer than `smallest` points come last. The others are visited in turns, those with the fewest covered
    points first, then the largest. Typicality: the inverse of the mean squared distance to the nearest min(`neighbours`, half the
    number) uncovered points of the cluster. Memory O(N + SCAN * largest cluster).
    Raises ValueError: n negative or more than the uncovered.
    Source: Hacohen et al. 2022, algorithm 1, and its code. Ours: typicality is computed once a query, not anew after each pick.
    """
    _check(n, int((~covered).sum()), "typical")
    if n == 0:
        return torch.empty(0, dtype=torch.int64, device=features.device)
    labels, centres = lloyd(features, min(int(covered.sum()) + n, clusters), seed)
    sizes, known = (torch.bincount(part, minlength=len(centres)).tolist() for part in (labels, labels[covered]))
    order = sorted(range(len(centres)), key=lambda c: (sizes[c] < smallest, known[c], -sizes[c]))
    large = [c for c in order if sizes[c] > known[c] and sizes[c] >= smallest]
    visited = [_ranked(features, ((labels == c) & ~covered).nonzero()[:, 0], neighbours) for c in large[:n]]
    turns = [row for turn in range(max(map(len, visited), default=0)) for row in (part[turn] for part in visited if turn < len(part))]
    return _filled(turns[:n], ~covered, n)


def _ranked(features: Tensor, rows: Tensor, neighbours: int) -> list[int]:
    """The `rows` i64 [R], the most typical first; of equal ones the lowest."""
    near, x = min(neighbours, len(rows) // 2), features[rows].float()
    if near == 0:
        return rows.tolist()
    means = []
    for start in range(0, len(x), SCAN):
        part = x[start : start + SCAN]
        square = torch.cdist(part, x).square_()
        square[torch.arange(len(part)), torch.arange(start, start + len(part))] = torch.inf  # a point is no neighbour of itself
        means.append(square.topk(near, dim=1, largest=False).values.mean(1))
    return rows[torch.cat(means).argsort(stable=True)].tolist()


def _filled(chosen: list[int], free: Tensor, n: int) -> Tensor:
    """`chosen`, then the lowest other indices where `free` [N], up to n."""
    picks = torch.tensor(chosen, dtype=torch.int64, device=free.device)
    return torch.cat([picks, free.bool().index_fill(0, picks, False).nonzero()[:, 0]])[:n]


def _check(n: int, free: int, kind: str) -> None:
    if not 0 <= n <= free:
        raise ValueError(f"n = {n} {kind} points of {free} were asked for: choose n in [0, {free}]")


# ---- strategies ----------------------------------------------------------------------------------------------------------------


def points(query: Query) -> tuple[Tensor, Tensor, Tensor]:
    """What coverage works on: global indices [P] of the images asked for and of the candidates, their features [P, D], covered bool [P].

    Features are scaled to unit length; those of length 0 stay. They are penultimate features, of the flattened images if there is no net.
    """
    rows = torch.cat([query.pool.asked, query.candidates])
    if query.net is None:
        features = predict(lambda x: x.flatten(1), query.pool.images, rows)
    else:
        features = query.features[rows.to(query.features.device)]
    covered = torch.arange(len(rows), device=features.device) < len(query.pool.asked)
    return rows, functional.normalize(features.float(), dim=1), covered


def kmeans(query: Query) -> Tensor:
    """The candidate nearest to the centre of each of n clusters, the largest cluster first; labels are not looked at.

    Source: k-means as in UCDvision's low-budget ImageNet; ours: features are not scaled, and centres are fitted on a sample, see `lloyd`.
    """
    function = (lambda x: x.flatten(1)) if query.net is None else query.net.features
    rows = predict(function, query.pool.images, query.candidates)
    return query.candidates[central(rows, query.n, (query.stream / "kmeans").seed).cpu()]


def typiclust(query: Query) -> Tensor:
    """The most typical candidates of clusters without labels. Source: Hacohen et al. 2022; see `typical` for what differs."""
    rows, features, covered = points(query)
    return rows[typical(features, covered, query.n, (query.stream / "typiclust").seed).cpu()]


@dataclass(frozen=True)
class TCM:
    """TypiClust in the first `cycles` queries, margin in the later ones. Source: Doucet et al. 2024, who switch after a few rounds."""

    cycles: int = 3

    def __post_init__(self) -> None:
        """Raises: ValueError where `cycles` is not a whole number above 0."""
        at_least("TCM.cycles", self.cycles, 1)

    def __call__(self, query: Query) -> Tensor:
        """Global indices i64 [n]."""
        if query.net is None or query.cycle < self.cycles:
            return typiclust(query)
        return query.candidates[scores.top(-scores.per_image(scores.margin(query.log_probs)), query.n)]
