"""Choosing what covers most: ProbCover, MaxHerding, UHerding and DCoM, exact and lazy; and k-center.

A point x covers a point y by a similarity k(x, y) in [0, 1]. A set covers y by its best, c(y). The gain of x is the sum over y of
w(y) max(0, k(x, y) - c(y)): what it adds. This objective is submodular: a gain can only fall as points are chosen. So an earlier gain
is an upper bound now, and only points whose bound is not below the best gain are measured again, in float64. The similarities of the
`RING` points measured last are kept, so that most are not computed twice.

The first bounds take half a matrix product of N x N, block by block: 50,000 x 512 features take about 20 s on a core.
Where that is too long, restrict the candidates: `Scoped(RandomSubset(10_000), STRATEGIES["uherding"])` takes 25 times less.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from alnb.acquire.clusters import clustered, points, unit_points
from alnb.acquire.cover import BLOCK, SCAN, check, farthest_first, largest, squares
from alnb.acquire.hybrid import uncertainty
from alnb.acquire.query import Query
from alnb.store.checks import within
from alnb.store.shapes import Float, Int, Shaped
from alnb.store.streams import Stream

RING = 512  # points whose similarities are kept: 200 MB at N = 50,000
BATCH = 32  # points measured together
SLACK = 2.0**-2  # of the largest possible rounding error of a squared distance, and
ABOVE = 1 + 2.0**-18  # times a similarity: first bounds are at least the gains, as tests/acquire/test_coverage.py measures
TIE = 1e-9  # gains closer than this share of the sum of weights are equal, and the lowest index is chosen: rounding decides nothing

Kernel = Callable[[Tensor], Tensor]  # from squared distances to similarities, in place


def gaussian(sigma: float) -> Kernel:
    """exp(-(distance / sigma)^2)."""
    return lambda square: square.mul_(-1 / sigma**2).exp_()


def ball(radius: float) -> Kernel:
    """1 where the distance is below the radius, 0 elsewhere."""
    return lambda square: square.lt_(radius**2)


def greedy(
    features: Float[Tensor, "N D"], covered: Shaped[Tensor, " N"], n: int, kernel: Kernel, weights: Float[Tensor, " N"] | None = None
) -> Int[Tensor, " n"]:
    """n uncovered points, i64 [n], in order of choice: each has the largest gain.

    features: of unit length for all the methods here. covered: bool [N], True where a point is labelled. weights: of the points to be
    covered, at least 0; None: 1 each. Gains within 1e-9 of the sum of the weights tie: the lowest index. Memory O(RING N).
    Raises ValueError: covered not bool [N]; n negative or more than the uncovered.
    Source: with `gaussian` kernel Bae et al. 2024 (MaxHerding), equation 5, and with weights Bae et al. 2025 (UHerding); with `ball`
    Yehuda et al. 2022 (ProbCover), algorithm 1, where a point counts as its own neighbour.
    """
    check(features, covered, n)
    free = (~covered).nonzero()[:, 0]
    x = features[free].float()
    cover = kernel(nearest_square(x, features[covered]))
    return free[_Lazy(x, cover, kernel, torch.ones_like(cover) if weights is None else weights[free].double()).picks(n)]


def pure_radius(features: Float[Tensor, "N D"], labels: Int[Tensor, " N"], purity: float, seed: int = 0, sample: int = 1_000) -> float:
    """The largest radius at which a share `purity` of the balls hold points of one cluster alone: infinite if there is but one.

    labels: the cluster of each point. It is a quantile of the distance to the nearest point of another cluster, over `sample` balls.
    Source: Yehuda et al. 2022, section 3.2; ours: of a sample, but exact instead of on a grid of radii.
    """
    rows = torch.randperm(len(features), generator=Stream(seed).generator())[:sample].to(features.device)
    nearest = torch.full((len(rows),), torch.inf, device=features.device)
    for part, cluster in zip(features.split(SCAN), labels.split(SCAN), strict=True):
        square = squares(features[rows], part)[0].masked_fill_(labels[rows, None] == cluster, torch.inf)
        nearest = torch.minimum(nearest, square.amin(1))
    ranked = nearest.clamp_(min=0).sqrt_().sort().values
    return float(ranked[min(int((1 - purity) * len(ranked)), len(ranked) - 1)])


def nearest_square(x: Tensor, centres: Tensor) -> Tensor:
    """Squared distances, float64 [N], to the nearest centre; infinity where there is none."""
    nearest = torch.full_like(x[:, 0], torch.inf, dtype=torch.float64)
    for part in centres.double().split(BLOCK) if len(centres) else ():
        nearest = torch.minimum(nearest, torch.cat([squares(rows.double(), part)[0].amin(1) for rows in x.split(SCAN)]))
    return nearest.clamp_(min=0)


class _Lazy:
    """Lazy greedy: points x [N, D] may be chosen; those T of them that have weight and are not fully covered are to be covered."""

    def __init__(self, x: Tensor, cover: Tensor, kernel: Kernel, weight: Tensor) -> None:
        """cover, weight: float64 [N]."""
        self.x, self.kernel, self.tie = x, kernel, TIE * float(weight.sum())
        self.targets = ((weight > 0) & (cover < 1)).nonzero()[:, 0]
        self.cover, self.weight = cover[self.targets], weight[self.targets]
        self.bound = self._first()  # float64 [N] at least the gain; -inf where chosen
        self.fresh = torch.zeros(len(x), dtype=torch.bool, device=x.device)  # the bound is the gain
        self.ring = x.new_empty(min(RING, len(x)), len(self.targets), dtype=torch.float64)
        self.row = torch.full((len(self.ring),), len(x), device=x.device)  # of each slot of the ring; N: none yet
        self.slot = torch.full((len(x) + 1,), -1, device=x.device)  # of each row; -1: none
        self.used, self.time = torch.full((len(self.ring),), -1, device=x.device), 0  # when each slot was used last

    def _first(self) -> Tensor:
        """Upper bounds of all gains. A product of two blocks of points to be covered serves both."""
        total = torch.zeros(len(self.x), dtype=torch.float64, device=self.x.device)
        others = torch.ones_like(total, dtype=torch.bool).index_fill_(0, self.targets, False).nonzero()[:, 0]
        blocks = self.targets.split(BLOCK) if len(self.targets) else ()
        weight, cover = self.weight.float().split(BLOCK), self.cover.float().split(BLOCK)
        for i, rows in enumerate([*blocks, *others.split(BLOCK)]):
            for j in range(i if i < len(blocks) else 0, len(blocks)):
                square, error = squares(self.x[rows], self.x[blocks[j]])
                similar = self.kernel(square.sub_(SLACK * error)).mul_(ABOVE)
                total[rows] += (similar - cover[j]).clamp_(min=0) @ weight[j]
                if i < j and i < len(blocks):
                    total[blocks[j]] += weight[i] @ similar.sub_(cover[i][:, None]).clamp_(min=0)
        return total

    def _measure(self, index: Tensor) -> None:
        """Make the bounds of `index` exact."""
        slots, self.time = self.slot[index], self.time + 1
        self.used[slots[slots >= 0]] = self.time
        new = index[slots < 0]
        if len(new):
            slots = self.used.argsort()[: len(new)]
            self.slot[self.row[slots]] = -1
            self.row[slots], self.slot[new], self.used[slots] = new, slots, self.time
            for columns in torch.arange(len(self.targets), device=index.device).split(SCAN):
                square = squares(self.x[new].double(), self.x[self.targets[columns]].double())[0]
                self.ring[slots[:, None], columns] = self.kernel(square)
        self.bound[index] = self.ring[self.slot[index]].sub_(self.cover).clamp_(min=0) @ self.weight
        self.fresh[index] = True

    def best(self, score: Callable[[Tensor], Tensor] = lambda bound: bound) -> int:
        """The lowest index with the largest score. score: from gains [N], or bounds of them, to scores; it must not fall in a gain."""
        while True:
            key, fresh = score(self.bound), self.fresh | (self.bound <= 0)
            known = key.where(fresh & (self.bound > -torch.inf), -torch.inf)
            best = float(known.amax())
            first = int((known >= best - self.tie).nonzero()[0, 0])
            key = key.where(~fresh, -torch.inf)
            key[first:].masked_fill_(key[first:] <= best, -torch.inf)  # an equal one with a higher index does not matter
            index = largest(key, BATCH)
            index = index[(key[index] >= best - self.tie) & (key[index] > -torch.inf)]
            if not len(index):
                return first
            self._measure(index)

    def choose(self, pick: int) -> None:
        """Cover what `pick` is near."""
        if self.bound[pick] > 0:
            self._measure(torch.tensor([pick], device=self.x.device))
            self.cover = self.cover.maximum(self.ring[self.slot[pick]])
            self.fresh[:] = False
        self.bound[pick] = -torch.inf

    def picks(self, n: int, score: Callable[[float, Tensor], Tensor] | None = None) -> Tensor:
        """The n points, i64 [n]. score: as in `best`, of the largest gain and all; None: the gain itself."""
        chosen: list[int] = []
        for _ in range(n):
            pick = self.best()
            if score is not None:
                pick = self.best(partial(score, float(self.bound[pick])))
            chosen.append(pick)
            self.choose(pick)
        return torch.tensor(chosen, dtype=torch.int64, device=self.x.device)


def pure_radii(
    x: Tensor, predicted: Tensor, centres: Tensor, labels: Tensor, threshold: float, radii: list[float]
) -> tuple[Tensor, Tensor]:
    """For each centre [L, D] with a label i64 [L], the largest of the ascending `radii` whose ball is pure: [L]; and what they cover.

    Pure: at least a share `threshold` of the points x [N, D] in it have its label as their `predicted` class i64 [N]. An empty ball is
    pure; where no radius is, it is the smallest. Covered: bool [N], whether a point is in the ball of any centre. Memory O(BATCH N).
    """
    result, covered = [], torch.zeros_like(predicted, dtype=torch.bool)
    for rows, classes in zip(centres.split(BATCH), labels.split(BATCH), strict=True):
        square, same = squares(rows, x)[0], classes[:, None] == predicted
        pure = torch.full_like(square[:, 0], radii[0])
        for radius in radii:
            inside = square < radius**2
            pure = pure.masked_fill((inside & same).sum(1) >= threshold * inside.sum(1), radius)
        covered |= (square < pure.square()[:, None]).any(0)
        result.append(pure)
    return torch.cat(result), covered


# ---- strategies: all need features in which near means alike, such as self-supervised ones -------------------------------------


def kcenter(query: Query) -> Tensor:
    """Greedy k-center over features, see `points`: each pick is the candidate farthest from all images asked for so far.

    Source: Sener and Savarese 2018 (core-set), algorithm 1.
    """
    rows, features, covered = points(query)
    return rows[farthest_first(features, covered, query.n)[0].cpu()]


@dataclass(frozen=True)
class ProbCover:
    """The candidates that have most points within a radius that no labelled one is near. Source: Yehuda et al. 2022.

    radius: None takes the largest at which a share `purity` of balls hold points of one k-means cluster alone, see `pure_radius`. There
    are as many clusters as classes; before the first labels, as many as labels are asked for. The paper's: 0.75 for SimCLR on CIFAR-10.
    """

    radius: float | None = None
    purity: float = 0.95

    def __post_init__(self) -> None:
        """Raises: ValueError where a setting is not possible."""
        within("ProbCover.purity", self.purity, 0, 1)
        if self.radius is not None:
            within("ProbCover.radius", self.radius, 0, above=True)

    def __call__(self, query: Query) -> Tensor:
        """Global indices i64 [n]."""
        rows, features, covered = unit_points(query)
        radius = self.radius
        if radius is None:
            seed, classes = (query.stream / "prob_cover").seed, query.n if query.net is None else query.log_probs.shape[1]
            radius = pure_radius(features, clustered(features, classes, seed)[0], self.purity, seed)
        return rows[greedy(features, covered, query.n, ball(radius)).cpu()]


@dataclass(frozen=True)
class Herding:
    """MaxHerding; UHerding if `uncertain`. Source: Bae et al. 2024 and 2025. Equations and ties: `greedy`.

    UHerding weighs each candidate by 1 - margin, and its kernel is as wide as the smallest distance between labelled points, at most
    `sigma`. Ours: probabilities are not scaled on a validation set, as there is none; distances below 1e-3 are duplicates, and left out.
    """

    uncertain: bool = False
    sigma: float = 1.0

    def __post_init__(self) -> None:
        """Raises: ValueError where sigma is not above 0."""
        within("Herding.sigma", self.sigma, 0, above=True)

    def __call__(self, query: Query) -> Tensor:
        """Global indices i64 [n]."""
        rows, features, covered = unit_points(query)
        sigma, weights = self.sigma, None
        if self.uncertain and query.net is not None:
            weights = torch.zeros(len(rows), device=features.device)
            weights[~covered] = uncertainty(query).to(weights)
            asked = features[covered].double()
            for part in asked.split(BLOCK):
                square = squares(part, asked)[0]
                sigma = min(sigma, math.sqrt(square.where(square >= 1e-6, torch.inf).amin()))
        return rows[greedy(features, covered, query.n, gaussian(sigma), weights).cpu()]


@dataclass(frozen=True)
class DCoM:
    """ProbCover while little is covered, margin when most is. Source: Mishal and Weinshall 2024; constants as in its code.

    A labelled point covers a ball of its own: the largest of up to `largest` in steps of 0.05 whose share of predictions that agree with
    its label is at least 0.4 + 0.2 of the coverage with radius `radius`. Candidates cover balls of the mean radius. Each pick has the
    largest s (1 - margin) + (1 - s) (new points in its ball), both scaled to at most 1; s rises from 0 to 1 about a coverage of 0.8.
    Ours: no state between cycles, so the radii are found anew; the number of new points is divided by its maximum, its minimum is not
    subtracted; 1 - margin is scaled once. Before the first labels it is ProbCover.
    """

    radius: float = 0.75
    largest: float = 1.1

    def __post_init__(self) -> None:
        """Raises: ValueError where `radius` is not above 0, or `largest` is below the first step."""
        within("DCoM.radius", self.radius, 0, above=True)
        within("DCoM.largest", self.largest, 0.05)

    def __call__(self, query: Query) -> Tensor:
        """Global indices i64 [n]."""
        rows, features, covered = unit_points(query)
        if query.net is None or not covered.any():
            return rows[greedy(features, covered, query.n, ball(self.radius)).cpu()]
        x, centres, unsure = features[~covered], features[covered], uncertainty(query).to(features).double()
        predicted, labels = query.log_probs.argmax(1).to(x.device), query.pool.labels[query.pool.asked].to(x.device)
        share = float((nearest_square(x, centres) < self.radius**2).double().mean())
        grid = [0.05 * step for step in range(1, int(self.largest / 0.05 + 1e-6) + 1)]
        radii, cover = pure_radii(x, predicted, centres, labels, 0.4 + 0.2 * share, grid)
        s = (1 + math.exp(-50 * (1 - 0.8))) / (1 + math.exp(-50 * (float(cover.double().mean()) - 0.8)))  # the paper's S
        unsure = (unsure - unsure.amin()) / (unsure.amax() - unsure.amin()).clamp(min=1e-12)

        def score(largest: float, gain: Tensor) -> Tensor:
            return s * unsure * max(largest, 1) + (1 - s) * gain

        lazy = _Lazy(x, cover.double(), ball(float(radii.mean())), torch.ones_like(unsure))
        return query.candidates[lazy.picks(query.n, score).cpu()]
