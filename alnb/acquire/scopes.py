"""Scopes: which candidates a cycle may choose from. `Scoped` puts one before any strategy, so that scopes and strategies combine freely."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from alnb.acquire.query import Query

Scope = Callable[[Query], Tensor]
"""From a query to those of its candidates that may be chosen, global indices i64 [M], in an order that strategies may use."""


@dataclass(frozen=True)
class Scoped:
    """A strategy among the candidates of a scope."""

    scope: Scope
    strategy: Callable[[Query], Tensor]  # as `acquire.Strategy`

    def __call__(self, query: Query) -> Tensor:
        """Global indices i64 [n]. Raises: as the two parts."""
        return self.strategy(replace(query, candidates=self.scope(query)))


@dataclass(frozen=True)
class RandomSubset:
    """So many candidates, drawn at random in each cycle without replacement; all where there are no more.

    What is left over remains in the pool. Source: Beluch et al. 2018; Yoo and Kweon 2019, section 4.1 (10,000 of CIFAR-10).
    """

    size: int = 10_000

    def __post_init__(self) -> None:
        """Raises: ValueError where the size is none."""
        if type(self.size) is not int or self.size < 1:
            raise ValueError(f"RandomSubset.size is {self.size!r}: it must be a whole number, at least 1")

    def __call__(self, query: Query) -> Tensor:
        """Global indices i64 [M], ascending.

        Raises:
            ValueError: more images are asked for than the subset has.
        """
        if query.n > self.size:
            raise ValueError(f"RandomSubset.size is {self.size}, fewer than the {query.n} images asked for: score a larger subset")
        drawn = torch.randperm(len(query.candidates), generator=(query.stream / "subset").generator())[: self.size]
        return query.candidates[drawn].sort().values
