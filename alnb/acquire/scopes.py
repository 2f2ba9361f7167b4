"""Side conditions for every strategy: on the candidates (scopes, in `Scoped`), or on the picks (`Quota`, `RandomShare`).

They nest: ``RandomShare(Scoped(Distinct(0.95), Quota(STRATEGIES["margin"], most=20)), 0.1)``. A condition that cannot be met is an error.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from alnb.acquire import cover
from alnb.acquire.query import Query
from alnb.learn.task import VOID
from alnb.learn.train import Learner
from alnb.store.checks import at_least, within

Scope = Callable[[Query], Tensor]
"""From a query to the candidates that may be chosen, global indices i64 [M], in an order that strategies may use."""


def narrowed(query: Query, candidates: Tensor, **changes: Any) -> Query:
    """The query among some of its candidates, with the views that it has computed already. No change may touch net or images."""
    other, views = replace(query, candidates=candidates, **changes), vars(query)
    if "features" in views:
        vars(other)["features"] = views["features"]
    if "log_probs" in views:
        place = torch.full((len(query.pool),), -1).index_put((query.candidates,), torch.arange(len(query.candidates)))
        vars(other)["log_probs"] = views["log_probs"][place[candidates]]
    return other


@dataclass(frozen=True)
class Scoped:
    """A strategy among the candidates of a scope."""

    scope: Scope
    strategy: Callable[[Query], Tensor]  # as `acquire.Strategy`

    def __call__(self, query: Query) -> Tensor:
        """Global indices i64 [n]. Raises: as the scope and the strategy."""
        return self.strategy(narrowed(query, self.scope(query)))


@dataclass(frozen=True)
class RandomSubset:
    """`size` candidates, drawn at random in each cycle without replacement; all candidates if there are fewer.

    The others stay in the pool. Source: Beluch et al. 2018; Yoo and Kweon 2019, section 4.1 (10,000 of CIFAR-10).
    """

    size: int = 10_000

    def __post_init__(self) -> None:
        """Raises: ValueError where the size is not a whole number above 0."""
        at_least("RandomSubset.size", self.size, 1)

    def __call__(self, query: Query) -> Tensor:
        """Global indices i64 [M], ascending. Raises ValueError if more images are asked for than the subset has."""
        if query.n > self.size:
            raise ValueError(f"RandomSubset.size is {self.size}, but {query.n} images are asked for: score a larger subset")
        drawn = torch.randperm(len(query.candidates), generator=(query.stream / "subset").generator())[: self.size]
        return query.candidates[drawn].sort().values


@dataclass(frozen=True)
class Arrived:
    """A pool that grows between cycles: ``side["arrives"]`` i64 [N] is the cycle from which each image may be asked for, 0 from the start.

    All images have their index from the start, so records and resumed runs need nothing new. `Experiment.initial` needs this scope too.
    """

    side: str = "arrives"  # its name among the side information

    def __call__(self, query: Query) -> Tensor:
        """Global indices i64 [M]. Raises ValueError: no arrivals [N], an image asked for before it arrived, or fewer than n are left."""
        arrives, acquired, asked = query.side.get(self.side), query.pool.acquired, query.pool.asked
        if not isinstance(arrives, Tensor) or arrives.shape != acquired.shape:
            raise ValueError(f"Arrived needs side[{self.side!r}], i64 [{len(acquired)}]: the cycle in which each image arrives")
        for image in asked[acquired[asked] < arrives[asked]].tolist():
            place = f"image {image} was asked for in cycle {int(acquired[image])}, but arrives in cycle {int(arrives[image])}"
            raise ValueError(f"{place}: put Arrived into Experiment.initial too")
        return _enough(query, query.candidates[arrives[query.candidates] <= query.cycle], f"Arrived in cycle {query.cycle}")


@dataclass(frozen=True)
class Distinct:
    """The candidates without near-duplicates: a cosine above `cosine` to an image asked for, or to an earlier candidate that stays.

    The cosine is that of penultimate features; before the first labels that of pixels, or of the features that the images are. It is
    computed in float64. Time O(N K D) for K that stay, memory O(N + BLOCK (D + BLOCK)).
    """

    cosine: float = 0.95

    def __post_init__(self) -> None:
        """Raises: ValueError where the cosine is not in (0, 1)."""
        within("Distinct.cosine", self.cosine, 0, 1, above=True)

    def __call__(self, query: Query) -> Tensor:
        """Global indices i64 [M], in their order. Raises ValueError if fewer than n are left, or a feature is not finite."""
        features = query.space()
        cover.check_norms(torch.linalg.vector_norm(features, dim=1))
        kept = query.pool.asked
        for block in query.candidates.split(cover.BLOCK):
            for part in kept.split(cover.BLOCK):
                block = block[~self.near(features, block, part).any(1)]
            near, stays = self.near(features, block, block).triu(1), torch.ones(len(block), dtype=torch.bool)
            for row in near.any(1).nonzero()[:, 0].tolist():
                stays &= ~near[row] | ~stays[row]
            kept = torch.cat([kept, block[stays]])
        return _enough(query, kept[len(query.pool.asked) :], f"Distinct.cosine is {self.cosine}")

    def near(self, features: Tensor, rows: Tensor, others: Tensor) -> Tensor:
        """Bool [R,P], on the CPU: whether the features [N,D] at `rows` and `others` have a cosine above `cosine`; zeros have none."""
        a, b = (functional.normalize(features[index.to(features.device)].double()) for index in (rows, others))
        return (a @ b.T > self.cosine).cpu()


def _enough(query: Query, left: Tensor, place: str) -> Tensor:
    if len(left) < query.n:
        message = f"{place}: {len(left)} of {len(query.candidates)} candidates are left, but {query.n} images are asked for"
        raise ValueError(f"{message}: ask for fewer, or loosen this condition")
    return left


@dataclass(frozen=True)
class Quota:
    """A strategy with at most `most` picks of each predicted class in a query; None: evenly, n // C of each class or one more.

    The strategy's picks stand up to the first of a class that is full. It is then asked again, among the other classes, with these picks
    as images asked for: at most 2 C times. So a quota that does not bind changes nothing, and a greedy strategy stays greedy.
    """

    strategy: Callable[[Query], Tensor]
    most: int | None = None

    def __post_init__(self) -> None:
        """Raises: ValueError where `most` is not a whole number above 0, or the strategy is a `RandomShare`, whose chances change."""
        at_least("Quota.most", 1 if self.most is None else self.most, 1)
        if isinstance(self.strategy, RandomShare):
            raise ValueError("Quota around RandomShare bends the chances of its draws: write RandomShare(Quota(...), share)")

    def __call__(self, query: Query) -> Tensor:
        """Global indices i64 [n]. Raises ValueError if the classes have too few candidates, or there is no net; as the strategy."""
        predicted = query.log_probs.argmax(1)
        room, spare = self.rooms(query.n, torch.bincount(predicted, minlength=query.log_probs.shape[1]))
        kinds = torch.full_like(query.pool.labels, -1).index_put((query.candidates,), predicted)
        rest, chosen, full = query, query.candidates[:0], True
        while full:
            picks = self.strategy(rest)
            for position, kind in enumerate(kinds[picks].tolist()):
                if full := bool(room[kind] < (spare == 0)):
                    picks = picks[:position]
                    break
                spare -= int(room[kind] == 0)
                room[kind] -= 1
            chosen = torch.cat([chosen, picks])
            left = query.candidates[(room >= (spare == 0))[predicted] & ~torch.isin(query.candidates, chosen)]
            pool = query.pool.acquire(chosen, torch.full_like(chosen, VOID), query.cycle)
            address = query.stream / "quota" / len(chosen)
            rest = narrowed(query, left, n=query.n - len(chosen), pool=pool, stream=address, folder=None)
        return chosen

    def rooms(self, n: int, available: Tensor) -> tuple[Tensor, int]:
        """How many picks each class may have, i64 [C], and how many classes one more. Raises ValueError if that allows fewer than `n`."""
        low, spare = divmod(n, len(available)) if self.most is None else (self.most, 0)
        possible = int(available.clamp(max=low).sum()) + min(spare, int((available > low).sum()))
        if possible < n:
            message = f"Quota.most is {self.most}: it allows {possible} images, but {n} are asked for"
            raise ValueError(f"{message}; candidates by predicted class: {available.tolist()}. Ask for fewer, or set a larger Quota.most")
        return torch.full_like(available, low), spare


@dataclass(frozen=True)
class RandomShare:
    """A strategy that leaves a share of each query, its LAST picks, to chance, so that accuracy can be estimated honestly.

    The strategy chooses its part first; the others are drawn evenly from the rest. So the chance of each pick is known. The answers test
    the net that asked, which has not seen them, on all candidates; a scope around `RandomShare` would narrow these, so put it inside:

        query, cycle = store.read_json(run.folder(k) / "query.json"), Cycle.read(run.records()[k])
        right = torch.tensor(query["predicted"]) == torch.tensor(cycle.labels)
        accuracy, error = stats.weighted_mean(right, strategy.probabilities(len(right), candidates=len(pool) - asked_before))
    """

    strategy: Callable[[Query], Tensor]
    share: float = 0.1

    def __post_init__(self) -> None:
        """Raises: ValueError where the share is not in (0, 1)."""
        within("RandomShare.share", self.share, 0, 1, above=True)

    def __call__(self, query: Query) -> Tensor:
        """Global indices i64 [n]. Raises ValueError if either part would be empty; as the strategy."""
        drawn = self.drawn(query.n)
        chosen = self.strategy(narrowed(query, query.candidates, n=query.n - drawn))
        rest = query.candidates[~torch.isin(query.candidates, chosen)]
        return torch.cat([chosen, rest[torch.randperm(len(rest), generator=(query.stream / "share").generator())[:drawn]]])

    def drawn(self, n: int) -> int:
        """How many of `n` picks are drawn at random. Raises ValueError if that is none or all."""
        drawn = int(self.share * n + 0.5)
        if not 0 < drawn < n:
            raise ValueError(f"RandomShare.share is {self.share}: of {n} images it draws {drawn}; ask for more, both parts need one")
        return drawn

    def probabilities(self, n: int, candidates: int) -> Tensor:
        """The chance of each pick of a query, float64 [n]: 1 for the strategy's, their share of the rest for those drawn."""
        drawn = self.drawn(n)
        return torch.tensor([1.0] * (n - drawn) + [drawn / (candidates - n + drawn)] * drawn, dtype=torch.float64)


@dataclass(frozen=True)
class Untrained:
    """A strategy for the first query that asks a net with random weights, which has learned nothing."""

    learner: Learner  # builds the net
    outputs: int
    strategy: Callable[[Query], Tensor]

    def __call__(self, query: Query) -> Tensor:
        """Global indices i64 [n]. Raises: as the strategy."""
        net = self.learner.build(self.outputs, query.stream / "untrained", query.pool.images.device).eval()
        return self.strategy(replace(query, net=net))


def check_both(name: str, labelled: Tensor, candidates: Tensor) -> None:
    """Raises ValueError if there is nothing labelled or no candidate, for the strategy `name`, which compares the two."""
    if not len(labelled) or not len(candidates):
        raise ValueError(
            f"{name} compares labelled with unlabelled images, but there are {len(labelled)} labelled images and {len(candidates)} "
            "candidates: choose the first images with another strategy, such as random"
        )
