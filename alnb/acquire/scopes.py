"""Strategies made of other strategies: `Scoped` restricts the candidates first, `Untrained` gives a net before there are labels."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from alnb.acquire.query import Query
from alnb.learn.train import Learner
from alnb.store.checks import at_least

Scope = Callable[[Query], Tensor]
"""From a query to the candidates that may be chosen, global indices i64 [M], in an order that strategies may use."""


@dataclass(frozen=True)
class Scoped:
    """A strategy among the candidates of a scope."""

    scope: Scope
    strategy: Callable[[Query], Tensor]  # as `acquire.Strategy`

    def __call__(self, query: Query) -> Tensor:
        """Global indices i64 [n]. Raises: as the scope and the strategy."""
        return self.strategy(replace(query, candidates=self.scope(query)))


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
