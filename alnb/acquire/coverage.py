"""Choosing what covers most: ProbCover, MaxHerding, UHerding and DCoM, exact and lazy.

A point x covers a point y by a similarity k(x, y) in [0, 1]. A set covers y by its best, c(y). The gain of x is the sum over y of
w(y) max(0, k(x, y) - c(y)): what it adds. This objective is submodular: a gain can only fall as points are chosen. So an earlier gain
is an upper bound now, and only points whose bound is not below the best gain are measured again. Their similarities stay in a ring of
`RING` rows, so that their gains follow each pick exactly, at the cost of the points whose cover changed.

The first pass over all pairs is half a matrix product of N x N, block by block: 50,000 x 512 features take about 20 s on a core.
Where that is too long, restrict the candidates: `Scoped(RandomSubset(10_000), STRATEGIES["uherding"])` takes 25 times less.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from alnb.acquire import scores
from alnb.acquire.clusters import lloyd, points
from alnb.acquire.cover import BLOCK, SCAN, farthest_first, largest
from alnb.acquire.query import Query
from alnb.store.checks import within
from alnb.store.shapes import Float, Int, Shaped
from alnb.store.streams import Stream

RING = 512  # rows of similarities kept: 100 MB at N = 50,000
BATCH = 32  # rows measured together
ROUNDING = 2.0**-20  # of a squared distance between features of unit length, in float32 products; 8 times the largest that we saw
TIE = 1e-5  # gains closer than this share are equal, and the lowest index is chosen: rounding decides nothing

Kernel = Callable[[Tensor], Tensor]  # from squared distances to similarities, in place


def gaussian(sigma: float) -> Kernel:
    """exp(-(distance / sigma)^2)."""
    return lambda square: square.mul_(-1 / sigma**2).exp_()


def ball(radius: float) -> Kernel:
    """1 where the distance is below the radius, 0 elsewhere."""
    return lambda square: square.lt_(radius**2)


def max_herding(
    features: Float[Tensor, "N D"], covered: Shaped[Tensor, " N"], n: int, sigma: float = 1.0, weights: Float[Tensor, " N"] | None = None
) -> Int[Tensor, " n"]:
    """n uncovered points, i64 [n], in order of choice: each adds most to the kernel coverage of all points.

    features: of unit length. covered: bool [N], True where a point is labelled. sigma: of the Gaussian kernel exp(-(distance/sigma)^2).
    weights: of the points to be covered, at least 0; None: 1 each. Gains within 1e-5 max(1, 1 / sigma^2) of the best tie: the lowest index.
    Memory O(RING N). Source: Bae et al. 2024 (MaxHerding), equation 5; with weights Bae et al. 2025 (UHerding).
    """
    free = _free(covered, n)
    x = features[free].float()
    cover = gaussian(sigma)(nearest_square(x, features[covered].float()))
    scale = max(1, sigma**-2)
    return free[_Lazy(x, cover, gaussian(sigma), torch.ones_like(cover) if weights is None else weights[free].float(), scale).picks(n)]


def prob_cover(features: Float[Tensor, "N D"], covered: Shaped[Tensor, " N"], n: int, radius: float) -> Int[Tensor, " n"]:
    """n uncovered points, i64 [n], in order of choice: each has most points within `radius` that no chosen or covered point is near.

    features, covered: as `max_herding`. Equal numbers: the lowest index. Memory O(RING N).
    Source: Yehuda et al. 2022 (ProbCover), algorithm 1; a point counts as its own neighbour.
    """
    free = _free(covered, n)
    x = features[free].float()
    cover = ball(radius)(nearest_square(x, features[covered].float()))
    return free[_Lazy(x, cover, ball(radius), torch.ones_like(cover)).picks(n)]


def pure_radius(features: Float[Tensor, "N D"], labels: Int[Tensor, " N"], purity: float, seed: int = 0, sample: int = 1_000) -> float:
    """The largest radius at which a share `purity` of the balls hold points of one cluster alone: infinite if there is but one.

    labels: the cluster of each point. It is a quantile of the distance to the nearest point of another cluster, over `sample` balls.
    Source: Yehuda et al. 2022, section 3.2; ours: of a sample, but exact instead of on a grid of radii.
    """
    rows = torch.randperm(len(features), generator=Stream(seed).generator())[:sample].to(features.device)
    nearest = torch.full((len(rows),), torch.inf, device=features.device)
    for part, cluster in zip(features.split(SCAN), labels.split(SCAN), strict=True):
        square = squares(features[rows].float(), part.float())
        nearest = torch.minimum(nearest, square.masked_fill_(labels[rows][:, None] == cluster, torch.inf).amin(1))
    ranked = nearest.clamp_(min=0).sqrt_().sort().values
    return float(ranked[min(int((1 - purity) * len(ranked)), len(ranked) - 1)])


def squares(rows: Tensor, others: Tensor, norms: Tensor | None = None) -> Tensor:
    """Squared distances [R, P] by one matrix product. norms: the squared lengths [P] of `others`."""
    norms = others.square().sum(1) if norms is None else norms
    return torch.addmm(norms, rows, others.T, alpha=-2).add_(rows.square().sum(1)[:, None])


def nearest_square(x: Tensor, centres: Tensor) -> Tensor:
    """Squared distances [N] to the nearest centre; infinity where there is none."""
    nearest = torch.full_like(x[:, 0], torch.inf)
    for part in centres.split(BLOCK) if len(centres) else ():
        nearest = torch.minimum(nearest, torch.cat([squares(rows, part).amin(1) for rows in x.split(SCAN)]))
    return nearest.clamp_(min=0)


def _free(covered: Tensor, n: int) -> Tensor:
    free = (~covered).nonzero()[:, 0]
    if not 0 <= n <= len(free):
        raise ValueError(f"n = {n} points were asked for, but {len(free)} of {len(covered)} are not covered: choose n in [0, {len(free)}]")
    return free


class _Lazy:
    """Lazy greedy: points x [N, D] may be chosen; those T of them that have weight and are not fully covered are to be covered."""

    def __init__(self, x: Tensor, cover: Tensor, kernel: Kernel, weight: Tensor, scale: float = 0.0) -> None:
        """cover, weight: [N]. scale: of rounding in similarities; 0 where they are whole numbers."""
        self.x, self.kernel, self.noise, self.tie = x, kernel, ROUNDING * scale, TIE * scale
        self.targets = ((weight > 0) & (cover < 1)).nonzero()[:, 0]
        self.y = x if len(self.targets) == len(x) else x[self.targets]
        self.norms, self.cover, self.weight = self.y.square().sum(1), cover[self.targets], weight[self.targets]
        self.bound = self._first()  # float64 [N] at least the gain; -inf where chosen
        self.fresh = torch.zeros(len(x), dtype=torch.bool, device=x.device)  # the bound is the gain, and the ring holds the similarities
        self.ring = x.new_empty(min(RING, len(x)), len(self.targets))
        self.rows = torch.full((len(self.ring),), -1, device=x.device)  # of the ring; -1: none yet
        self.slot = 0  # the next of the ring to be overwritten

    def _first(self) -> Tensor:
        """Upper bounds of all gains. A product of two blocks of points to be covered serves both."""
        total = torch.zeros(len(self.x), dtype=torch.float64, device=self.x.device)
        others = torch.ones(len(self.x), dtype=torch.bool, device=self.x.device).index_fill_(0, self.targets, False).nonzero()[:, 0]
        blocks = torch.arange(len(self.targets), device=self.x.device).split(BLOCK)
        norms = self.norms - ROUNDING
        for i, rows in enumerate([*self.targets.split(BLOCK), *others.split(BLOCK)]):
            for j, block in enumerate(blocks[i if i < len(blocks) else 0 :], i):
                similar = self.kernel(squares(self.x[rows], self.y[block], norms[block]))
                total[rows] += (similar - self.cover[block]).clamp_(min=0) @ self.weight[block]
                if i < j < len(blocks):
                    total[self.targets[block]] += self.weight[blocks[i]] @ (similar.sub_(self.cover[blocks[i], None])).clamp_(min=0)
        return total

    def _gain(self, similar: Tensor, cover: Tensor, columns: Tensor) -> Tensor:
        """The gains, float64 [R], of rows with similarities [R, P] to the `columns`. The same in every order of picks."""
        return (similar - (cover + self.noise)).clamp_(min=0).double() @ self.weight[columns].double()

    def _measure(self, index: Tensor) -> None:
        """Make the bounds of `index` exact."""
        slots = (torch.arange(len(index), device=index.device) + self.slot) % len(self.ring)
        self.slot = (self.slot + len(index)) % len(self.ring)
        self.fresh[self.rows[slots][self.rows[slots] >= 0]] = False
        self.rows[slots], self.fresh[index], self.bound[index] = index, True, 0.0
        for columns in torch.arange(len(self.targets), device=index.device).split(SCAN):
            similar = self.kernel(squares(self.x[index], self.y[columns], self.norms[columns]))
            self.ring[slots, columns[0] : columns[-1] + 1] = similar
            self.bound[index] += self._gain(similar, self.cover[columns], columns)

    def best(self, score: Callable[[Tensor], Tensor] = lambda bound: bound) -> int:
        """The lowest index with the largest score. score: from gains [N], or bounds of them, to scores; it must not fall in a gain."""
        while True:
            key, fresh = score(self.bound), self.fresh | (self.bound <= 0)
            known = key.where(fresh & (self.bound > -torch.inf), -torch.inf)
            best = float(known.amax())
            limit = best - self.tie * abs(best) if best > -torch.inf else best
            first = int((known >= limit).nonzero()[0, 0])
            key = key.where(~fresh, -torch.inf)
            key[first:].masked_fill_(key[first:] <= best, -torch.inf)  # an equal one with a higher index does not matter
            index = largest(key, BATCH)
            index = index[(key[index] >= limit) & (key[index] > -torch.inf)]
            if not len(index):
                return first
            self._measure(index)

    def choose(self, pick: int) -> None:
        """Cover what `pick` is near, and lower the gains in the ring."""
        self.bound[pick] = -torch.inf
        if not self.fresh[pick]:  # its gain is 0
            return
        row = self.ring[int((self.rows == pick).nonzero()[0, 0])]
        filled = (self.rows >= 0).nonzero()[:, 0]
        for columns in (row > self.cover).nonzero()[:, 0].split(SCAN):
            similar, cover = self.ring[filled[:, None], columns], row[columns]
            self.bound[self.rows[filled]] += self._gain(similar, cover, columns) - self._gain(similar, self.cover[columns], columns)
            self.cover[columns] = cover

    def picks(self, n: int, score: Callable[[Tensor, float], Tensor] | None = None) -> Tensor:
        """The n points, i64 [n]. score: as in `best`, also of the largest gain; None: the gain itself."""
        chosen: list[int] = []
        for _ in range(n):
            pick = self.best()
            if score is not None:
                pick = self.best(partial(score, largest=float(self.bound[pick])))
            chosen.append(pick)
            self.choose(pick)
        return torch.tensor(chosen, dtype=torch.int64, device=self.x.device)


# ---- DCoM ----------------------------------------------------------------------------------------------------------------------


def pure_radii(x: Tensor, predicted: Tensor, centres: Tensor, labels: Tensor, threshold: float, radii: Tensor) -> Tensor:
    """For each centre [L, D] with a label i64 [L], the largest of the ascending `radii` [R] whose ball is pure: float [L].

    Pure: at least a share `threshold` of the points x [N, D] in it have its label as their `predicted` class i64 [N]. An empty ball is
    pure; where no radius is, it is the smallest.
    """
    width, result = len(radii) + 1, []
    for rows, own in zip(centres.split(BATCH), labels.split(BATCH), strict=True):
        counts = torch.zeros(2, len(rows) * width, device=x.device)
        for part, classes in zip(x.split(SCAN), predicted.split(SCAN), strict=True):
            inside = torch.bucketize(squares(rows, part), radii.square(), right=True)  # of the first radius that is larger
            inside += torch.arange(len(rows), device=x.device)[:, None] * width
            for count, keep in zip(counts, (inside, inside[classes == own[:, None]]), strict=True):
                count += torch.bincount(keep.flatten(), minlength=len(count))
        every, same = counts.view(2, len(rows), width)[..., :-1].cumsum(2)
        last = ((same >= threshold * every) * torch.arange(1, width, device=x.device)).amax(1)
        result.append(radii[(last - 1).clamp(min=0)])
    return torch.cat(result) if result else radii[:0]


def competence(coverage: float, middle: float = 0.8, steepness: float = 50.0) -> float:
    """The weight of uncertainty in [0, 1], rising from 0 to 1 about the coverage `middle`. Source: DCoM's paper, equation of S."""
    return (1 + math.exp(-steepness * (1 - middle))) / (1 + math.exp(-steepness * (coverage - middle)))


# ---- strategies: all need features in which near means alike, such as self-supervised ones -------------------------------------


def kcenter(query: Query) -> Tensor:
    """Greedy k-center over penultimate features: each pick is the candidate farthest from all images asked for so far.

    Source: Sener and Savarese 2018 (core-set), algorithm 1.
    """
    asked = query.pool.asked
    rows = torch.cat([asked, query.candidates])
    covered = torch.arange(len(rows)) < len(asked)
    features = query.features[rows.to(query.features.device)]
    return rows[farthest_first(features, covered.to(features.device), query.n)[0].cpu()]


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
        rows, features, covered = points(query)
        radius = self.radius
        if radius is None:
            seed, classes = (query.stream / "prob_cover").seed, query.n if query.net is None else query.log_probs.shape[1]
            radius = pure_radius(features, lloyd(features, classes, seed)[0], self.purity, seed)
        return rows[prob_cover(features, covered, query.n, radius).cpu()]


@dataclass(frozen=True)
class Herding:
    """MaxHerding; UHerding if `uncertain`. Source: Bae et al. 2024 and 2025. Equations and ties: `max_herding`.

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
        rows, features, covered = points(query)
        sigma, weights = self.sigma, None
        if self.uncertain and query.net is not None:
            weights = torch.zeros(len(rows), device=features.device)
            weights[~covered] = _uncertainty(query).to(weights)
            sigma = min(sigma, _smallest_distance(features[covered]))
        return rows[max_herding(features, covered, query.n, sigma, weights).cpu()]


@dataclass(frozen=True)
class DCoM:
    """ProbCover while little is covered, margin when most is. Source: Mishal and Weinshall 2024; constants as in its code.

    A labelled point covers a ball of its own: the largest of up to `largest` in steps of 0.05 whose share of predictions that agree with
    its label is at least 0.4 + 0.2 of the coverage with radius `radius`. Candidates cover balls of the mean radius. Each pick has the
    largest s (1 - margin) + (1 - s) (new points in its ball), both scaled to at most 1, s by `competence` of the coverage.
    Ours: no state between cycles, so the radii are found anew; the number of new points is divided by its maximum, its minimum is not
    subtracted; 1 - margin is scaled once. Before the first labels it is ProbCover.
    """

    radius: float = 0.75
    largest: float = 1.1

    def __post_init__(self) -> None:
        """Raises: ValueError where a radius is not above 0."""
        within("DCoM.radius", self.radius, 0, above=True)
        within("DCoM.largest", self.largest, 0, above=True)

    def __call__(self, query: Query) -> Tensor:
        """Global indices i64 [n]."""
        rows, features, covered = points(query)
        if query.net is None or not covered.any():
            return rows[prob_cover(features, covered, query.n, self.radius).cpu()]
        x, centres, uncertainty = features[~covered], features[covered], _uncertainty(query).to(features)
        predicted, labels = query.log_probs.argmax(1).to(x.device), query.pool.labels[query.pool.asked].to(x.device)
        share = float((nearest_square(x, centres) < self.radius**2).float().mean())
        grid = torch.arange(0.05, self.largest + 1e-6, 0.05, device=x.device)
        radii = pure_radii(x, predicted, centres, labels, 0.4 + 0.2 * share, grid)
        cover = torch.zeros(len(x), device=x.device)
        for radius in radii.unique():
            cover[nearest_square(x, centres[radii == radius]) < radius**2] = 1
        greedy, s = _Lazy(x, cover, ball(float(radii.mean())), torch.ones_like(cover)), competence(float(cover.mean()))
        uncertainty = (uncertainty - uncertainty.amin()) / (uncertainty.amax() - uncertainty.amin()).clamp(min=1e-12)

        def score(gain: Tensor, largest: float) -> Tensor:
            return s * uncertainty + (1 - s) * gain / max(largest, 1)

        return query.candidates[greedy.picks(query.n, score).cpu()]


def _uncertainty(query: Query) -> Tensor:
    """1 - margin, [M], of the candidates."""
    return 1 - scores.per_image(scores.margin(query.log_probs))


def _smallest_distance(x: Tensor) -> float:
    """The smallest distance of at least 1e-3 between rows; infinity where there is none."""
    smallest = math.inf
    for rows in x.split(BLOCK):
        square = squares(rows, x)
        smallest = min(smallest, float(square.where(square >= 1e-6, torch.inf).amin()))
    return math.sqrt(smallest)
