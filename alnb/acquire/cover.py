"""Choosing in feature space: pure functions of features [N, D].

`kcenter` is exact, and lazy. The distance of a point to the covered set can only fall as centres are added. So an earlier distance is
an upper bound now, and a point whose bound is below another's true distance cannot be the farthest. Only the points with the largest
bounds are updated, many at a time, and picks are made among them as long as no other point could be farther.

Matrix products give only bounds: |x|^2 + |c|^2 - 2 x.c loses digits where norms are large against distances, so each bound is widened
by its largest rounding error. Picks are decided by norms of differences, computed pair by pair, so the answer does not depend on the
block size.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from alnb.store.shapes import Float, Int, Shaped

BLOCK = 1024  # points updated together: 2 MB of features at D = 512, which stays in a core's cache
SCAN = 4096  # rows converted, centred and multiplied together in the one pass over all features
FIRST = 8  # that pass measures one covered point in 8; the others wait until a point is nearly picked
REDUCED = 2.0**-7  # relative error of products in TF32 (2**-11) or bfloat16 (2**-8), doubled


def kcenter(features: Shaped[Tensor, "N D"], covered: Shaped[Tensor, "..."], n: int) -> Int[Tensor, " n"]:
    """The n points, i64 [n], that greedy k-center picks: each is the farthest from all points covered so far, in order of choice.

    features: [N, D], any float dtype, finite; half precision is widened to float32 block by block. Distance: Euclidean.
    covered: bool [N], True where a point is a centre already; centres are never picked. Equal distances: the lowest index.
    If nothing is covered, the first pick is the point nearest to the mean, which is never an outlier.

    Memory O(N + (BLOCK + SCAN) * (D + BLOCK)) besides the features.
    Raises ValueError: covered not bool [N]; n negative or more than the uncovered; features with NaN, infinity or overflowing norms.
    Source: Sener & Savarese 2018, algorithm 1 (greedy, without the mixed-integer refinement).
    """
    return farthest_first(features, covered, n)[0]


def farthest_first(
    features: Shaped[Tensor, "N D"], covered: Shaped[Tensor, "..."], n: int
) -> tuple[Int[Tensor, " n"], Float[Tensor, " n"]]:
    """The picks of `kcenter`, and the distance of each: the covering radius just before that pick, non-increasing.

    Where nothing is covered, the first distance is infinity.
    """
    check(features, covered, n)
    # autocast would compute the products in bfloat16, whose error exceeds the slack
    with torch.no_grad(), torch.autocast(features.device.type, enabled=False):
        pairs = list(_picks(features, covered, n))
    picks, distances = [pick for pick, _ in pairs], [distance for _, distance in pairs]
    dtype = torch.promote_types(features.dtype, torch.float32)
    return torch.tensor(picks, dtype=torch.long, device=features.device), torch.tensor(distances, dtype=dtype, device=features.device)


@dataclass(frozen=True)
class _Search:
    """The state of the search: a bound for every point."""

    features: Tensor  # [N, D]
    shift: Tensor  # [D] about the middle of the features; products are computed relative to it
    bound: Tensor  # [N] at least the distance to the nearest centre; -inf for centres
    seen: Tensor  # i64 [N] the bound is the exact distance to the nearest of the first `seen` centres; 0: only a bound
    centres: Tensor  # i64 [covered + n] covered points, then picks; filled as they are made

    def rows(self, index: Tensor) -> Tensor:
        return self.features[index].to(self.shift.dtype)


def _picks(features: Tensor, covered: Tensor, n: int) -> Iterator[tuple[int, float]]:
    """The picks with their distances, in order."""
    if n == 0:
        return
    known = covered.nonzero()[:, 0]
    cold = len(known) == 0
    if cold:
        known = _medoid(features)
        yield int(known), torch.inf
    centres = torch.cat([*(known[i::FIRST] for i in range(FIRST)), known.new_empty(n - cold)])
    search = _scan(features, centres, len(known))
    count = len(known)
    while count < len(centres):
        for pick, distance in _round(search, count):
            count += 1
            yield pick, distance


def _round(search: _Search, count: int) -> Iterator[tuple[int, float]]:
    """Update the points with the largest bounds, and make the picks that are certain then, perhaps none.

    `count` centres are known before the round. Points that are not picked keep a valid bound.
    """
    near = largest(search.bound, BLOCK)
    near = near[search.bound[near] > -torch.inf]
    _update(search, near, count)
    others = search.bound.index_fill(0, near, -torch.inf)
    rival = int(others.argmax())
    limit = float(others[rival])
    distance = search.bound[near]
    # below the limit another point might be farther, and at the limit one with a lower index might tie
    near = near[(distance > limit) | ((distance == limit) & (near < rival))]
    if len(near) == 0:
        return
    distance, rows, names = search.bound[near], search.rows(near), near.tolist()
    square, slack = squares(rows - search.shift, rows - search.shift)
    gap = square.sub_(slack).clamp_(min=0).sqrt_().fill_diagonal_(torch.inf)
    crowded = (gap < distance).any(1).tolist()  # a pick that is far from all others, as most are in many dimensions, changes nothing
    for _ in range(min(len(near), len(search.centres) - count)):
        best = int(distance.argmax())
        value = float(distance[best])
        if (value, -names[best]) < (limit, -rival):
            break
        search.centres[count] = names[best]
        count += 1
        yield names[best], value
        distance[best] = -torch.inf
        if crowded[best]:
            closer = (gap[best] < distance).nonzero()[:, 0]
            distance[closer] = torch.minimum(distance[closer], _distance(rows[closer], rows[best]))
    search.bound[near] = distance
    search.seen[near] = count


def _update(search: _Search, index: Tensor, count: int) -> None:
    """Set the bounds of `index` to the exact distances to the nearest of the first `count` centres."""
    index = index[search.seen[index] < count]
    if len(index) == 0:
        return
    seen, bound, rows = search.seen[index], search.bound[index], search.rows(index)
    for start in range(int(seen.min()), count, BLOCK):
        stop = min(start + BLOCK, count)
        stale = (seen < stop).nonzero()[:, 0]
        bound[stale] = _nearest(rows[stale], search.rows(search.centres[start:stop]), bound[stale], search.shift)
    search.bound[index] = bound
    search.seen[index] = count


def _nearest(rows: Tensor, centres: Tensor, bound: Tensor, shift: Tensor) -> Tensor:
    """The smaller of `bound` [R] and the exact distance of each row [R, D] to its nearest centre [P, D]."""
    square, slack = squares(rows - shift, centres - shift)
    limit = torch.minimum(bound.square(), square.amin(1) + slack[:, 0]) + slack[:, 0]
    row, centre = (square <= limit[:, None]).nonzero(as_tuple=True)
    # usually one pair per row; among many equal features every pair, hence the slices
    for i, j in zip(row.split(BLOCK), centre.split(BLOCK), strict=True):
        bound = bound.scatter_reduce(0, i, _distance(rows[i], centres[j]), "amin")
    return bound


def squares(rows: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Squared distances [R, P] by one matrix product, and the largest rounding error [R, 1] in each row."""
    norm, other = torch.linalg.vector_norm(rows, dim=1), torch.linalg.vector_norm(others, dim=1)
    square = torch.addmm(other.square(), rows, others.T, alpha=-2).add_(norm.square()[:, None])
    # Higham 2002, section 3.1: an inner product of D terms errs by at most D u |x|.|y|, here u = eps / 2; 8 more for the square root
    relative = (rows.shape[1] + 8) * torch.finfo(rows.dtype).eps
    # torch.get_float32_matmul_precision raises once the newer settings of a backend were used, so the backend is asked
    backend = torch.backends.cuda if rows.is_cuda else torch.backends.mkldnn
    if rows.dtype == torch.float32 and backend.matmul.fp32_precision not in ("none", "ieee"):
        relative += REDUCED
    return square, (relative * (norm + other.max()).square())[:, None]


def _distance(rows: Tensor, others: Tensor) -> Tensor:
    """The Euclidean distances of paired rows, exact to rounding; a pair's value does not depend on the other pairs."""
    return torch.linalg.vector_norm(rows - others, dim=1)


def largest(bound: Tensor, k: int) -> Tensor:
    """The indices, ascending, of the k largest bounds; of equal bounds the lowest indices, which `topk` does not promise."""
    limit = bound.topk(min(k, len(bound)), sorted=False).values.amin()
    above, equal = (bound > limit).nonzero()[:, 0], (bound == limit).nonzero()[:, 0]
    return torch.cat([above, equal[: max(k - len(above), 0)]]).sort().values


def _scan(features: Tensor, centres: Tensor, known: int) -> _Search:
    """A bound for every point, from one known centre in `FIRST`: the one pass over all features."""
    dtype = torch.promote_types(features.dtype, torch.float32)
    shift = features[:: max(1, len(features) // SCAN)].to(dtype).mean(0)
    first = -(-known // FIRST)
    bound = torch.empty(len(features), dtype=dtype, device=features.device)
    for start in range(0, len(features), SCAN):
        rows = features[start : start + SCAN].to(dtype) - shift
        nearest = torch.full_like(rows[:, 0], torch.inf)
        for part in centres[:first].split(BLOCK):
            square, slack = squares(rows, features[part].to(dtype) - shift)
            nearest = torch.minimum(nearest, square.amin(1) + slack[:, 0])
        bound[start : start + SCAN] = nearest.clamp_(min=0).sqrt_()
    if not bound.isfinite().all():  # one bad row may have spoilt all bounds
        check_norms(torch.cat([torch.linalg.vector_norm(rows.to(dtype), dim=1) for rows in features.split(SCAN)]))
        raise ValueError(f"distances between features overflow {dtype}: scale the features down")
    bound[centres[:known]] = -torch.inf
    # these bounds contain slack, so `seen` is 0 even for the centres that they come from
    return _Search(features, shift, bound, torch.zeros_like(bound, dtype=torch.long), centres)


def _medoid(features: Tensor) -> Tensor:
    """The index, i64 [1], of the point nearest to the mean."""
    dtype = torch.promote_types(features.dtype, torch.float32)
    # in slices of a fixed size: another size would round the mean differently, and near ties with it
    mean = torch.stack([rows.to(dtype).sum(0) for rows in features.split(SCAN)]).sum(0) / len(features)
    return torch.cat([_distance(rows.to(dtype), mean) for rows in features.split(SCAN)]).argmin()[None]


def check_features(features: Tensor) -> None:
    """Raises ValueError if features are not float [N, D]."""
    if features.ndim != 2 or not features.is_floating_point():
        raise ValueError(f"features must be float [N, D], but are {features.dtype} {list(features.shape)}: pool or flatten them first")


def check_norms(norms: Tensor) -> None:
    """Raises ValueError if the square of a norm [N] of features is not finite."""
    bad = (~norms.square().isfinite()).nonzero().flatten()
    if len(bad):
        where = f"features[{int(bad[0])}] ({len(bad)} such rows)"
        raise ValueError(f"{where} holds NaN, infinity or values too large to be squared in {norms.dtype}: look at the net, or scale down")


def check(features: Tensor, covered: Tensor, n: int) -> None:
    """Raises ValueError if features are not float [N, D], covered is not bool [N], or n is negative or more than the uncovered."""
    check_features(features)
    if covered.dtype != torch.bool or covered.shape != features.shape[:1]:
        raise ValueError(
            f"covered must be bool [{len(features)}], True where a point is covered, but is {covered.dtype} {list(covered.shape)}: "
            "make a mask of indices, e.g. covered = torch.zeros(N, dtype=torch.bool); covered[indices] = True"
        )
    free = len(covered) - int(covered.sum())
    if not 0 <= n <= free:
        raise ValueError(f"n = {n} points were asked for, but {free} of {len(covered)} are not covered yet: choose n in [0, {free}]")
