"""Choosing by clusters: pure functions of features [N, D], and the strategies k-means, TypiClust and TCM.

All want features in which near means alike, such as self-supervised ones: of an embedded pool, or of a net that starts from them.
Before the first labels, without a net, they work on the images themselves, flattened.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from alnb.acquire import scores
from alnb.acquire.cover import SCAN, check
from alnb.acquire.query import Query
from alnb.store.checks import at_least
from alnb.store.shapes import Float, Int, Shaped

FEW, BATCH = 50, 5_000  # KMeans up to `FEW` clusters, above them MiniBatchKMeans with `BATCH` rows at a time: TypiClust's code
CLUSTERS, NEIGHBOURS, SMALLEST = 500, 20, 6  # at most; at most; points of a cluster that is not left to the end: TypiClust's code


def clustered(features: Float[Tensor, "N D"], k: int, seed: int = 0) -> tuple[Int[Tensor, " N"], Float[Tensor, "K D"]]:
    """The k-means cluster i64 [N] of each point, and the centres [K, D]: K is k or, where fewer points differ, their number.

    seed: taken modulo 2^32. It runs on the CPU in one thread: with more, sums would be rounded as threads come. Memory O(N D).
    """
    from sklearn.cluster import KMeans, MiniBatchKMeans  # not on every machine that trains
    from threadpoolctl import threadpool_limits

    x = features.float().cpu()
    k, options = min(k, len(x.unique(dim=0))), {"n_init": 1, "random_state": seed % 2**32}
    model = KMeans(k, **options) if k <= FEW else MiniBatchKMeans(k, batch_size=BATCH, **options)
    with threadpool_limits(1):
        model.fit(x.numpy())
    return torch.from_numpy(model.labels_).long().to(features.device), torch.from_numpy(model.cluster_centers_).to(features.device)


def central(features: Float[Tensor, "N D"], n: int, seed: int = 0) -> Int[Tensor, " n"]:
    """n points, i64 [n], one from each of n k-means clusters: the nearest to the centre, the largest cluster first.

    Where fewer than n clusters have points, the lowest other indices fill the rest. seed: of the clustering.
    Raises ValueError: n negative or more than N.
    """
    free = torch.ones(len(features), dtype=torch.bool, device=features.device)
    check(features, ~free, n)
    if n == 0:
        return free.nonzero()[:0, 0]
    labels, centres = clustered(features, n, seed)
    distance = torch.linalg.vector_norm(features.float() - centres[labels], dim=1)
    sizes = torch.bincount(labels, minlength=len(centres))
    order = sizes.argsort(descending=True, stable=True)[: int((sizes > 0).sum())].tolist()
    return _filled([int(torch.where(labels == cluster, distance, torch.inf).argmin()) for cluster in order], free, n)


def typical(features: Float[Tensor, "N D"], covered: Shaped[Tensor, " N"], n: int, seed: int = 0) -> Int[Tensor, " n"]:
    """n uncovered points, i64 [n], that TypiClust picks: the most typical ones of clusters without labels.

    covered: bool [N], True where a point is labelled. All points are clustered into at most `CLUSTERS` clusters, one for each covered
    and each new point. The clusters are visited in turns, those with the fewest covered points first, then the largest. Those of fewer
    than `SMALLEST` points are not visited; if no other point is left, the lowest indices follow. Typicality: the inverse of the mean
    squared distance to the nearest min(`NEIGHBOURS`, half the number) uncovered points of the cluster. Memory O(N D + SCAN * largest).
    Raises ValueError: n negative or more than the uncovered.
    Source: Hacohen et al. 2022, algorithm 1, and its code. Ours: typicality is computed once a query, not anew after each pick.
    """
    check(features, covered, n)
    if n == 0:
        return covered.nonzero()[:0, 0]
    labels, centres = clustered(features, min(int(covered.sum()) + n, CLUSTERS), seed)
    sizes, known = (torch.bincount(part, minlength=len(centres)).tolist() for part in (labels, labels[covered]))
    large = [c for c in range(len(centres)) if sizes[c] > known[c] and sizes[c] >= SMALLEST]
    order = sorted(large, key=lambda c: (known[c], -sizes[c]))[:n]
    visited = [_ranked(features, ((labels == c) & ~covered).nonzero()[:, 0]) for c in order]
    turns = [part[turn] for turn in range(max(map(len, visited), default=0)) for part in visited if turn < len(part)]
    return _filled(turns[:n], ~covered, n)


def _ranked(features: Tensor, rows: Tensor) -> list[int]:
    """The `rows` i64 [R], the most typical first; of equal ones the lowest."""
    near, x = min(NEIGHBOURS, len(rows) // 2), features[rows].float()
    if near == 0:
        return rows.tolist()
    means = []
    for members in torch.arange(len(x), device=x.device).split(SCAN):
        square = torch.cdist(x[members], x).square_()
        square[torch.arange(len(members)), members] = torch.inf  # a point is no neighbour of itself
        means.append(square.topk(near, dim=1, largest=False).values.mean(1))
    return rows[torch.cat(means).argsort(stable=True)].tolist()


def _filled(chosen: list[int], free: Tensor, n: int) -> Tensor:
    """`chosen`, then the lowest other indices where `free` [N], up to n."""
    picks = torch.tensor(chosen, dtype=torch.int64, device=free.device)
    return torch.cat([picks, free.index_fill(0, picks, False).nonzero()[:, 0]])[:n]


# ---- strategies ----------------------------------------------------------------------------------------------------------------


def points(query: Query) -> tuple[Tensor, Tensor, Tensor]:
    """Global indices [P] of the images asked for and of the candidates, their features [P, D] (`Query.space`), and which were asked for."""
    rows = torch.cat([query.pool.asked, query.candidates])
    features = query.space(rows)
    return rows, features, torch.arange(len(rows), device=features.device) < len(query.pool.asked)


def unit_points(query: Query) -> tuple[Tensor, Tensor, Tensor]:
    """As `points`, with features scaled to length 1; those of length 0 stay."""
    rows, features, covered = points(query)
    return rows, functional.normalize(features.float(), dim=1), covered


def kmeans(query: Query) -> Tensor:
    """The candidate nearest to the centre of each of n clusters, the largest cluster first; labels are not looked at.

    Source: k-means as in UCDvision's low-budget ImageNet; ours: features are not scaled.
    """
    _, features, asked = points(query)
    return query.candidates[central(features[~asked], query.n, (query.stream / "kmeans").seed).cpu()]


def typiclust(query: Query) -> Tensor:
    """The most typical candidates of clusters without labels. Source: Hacohen et al. 2022; see `typical` for what differs."""
    rows, features, covered = unit_points(query)
    return rows[typical(features, covered, query.n, (query.stream / "typiclust").seed).cpu()]


@dataclass(frozen=True)
class TCM:
    """TypiClust while `query.cycle` is below `cycles`, then margin. Source: Doucet et al. 2024, after a few rounds; 3 is ours."""

    cycles: int = 3

    def __post_init__(self) -> None:
        """Raises: ValueError where `cycles` is not a whole number above 0."""
        at_least("TCM.cycles", self.cycles, 1)

    def __call__(self, query: Query) -> Tensor:
        """Global indices i64 [n]."""
        if query.net is None or query.cycle < self.cycles:
            return typiclust(query)
        return query.candidates[scores.top(-scores.per_image(scores.margin(query.log_probs)), query.n)]
