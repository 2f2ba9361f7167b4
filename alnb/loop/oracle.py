"""Who answers: oracles, each a callable ``(indices i64 [n]) -> labels i64 [n]``.

Truth lives here and in the evaluation, and nowhere else.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from alnb.acquire import Strategy
from alnb.acquire.query import Query

Oracle = Callable[[Tensor], Tensor]
"""From global indices i64 [n] to labels i64 [n]; VOID is an answer too: the image was asked for, its class is not known."""


def simulated(targets: Tensor) -> Oracle:
    """An oracle that knows `targets` i64 [N] and is always right."""

    def answer_truly(indices: Tensor) -> Tensor:
        return targets[indices]

    return answer_truly


def class_uniform(targets: Tensor, classes: int) -> Strategy:
    """A first query with the same number of images of each class. If n is not divisible, random classes get one image more.

    It reads the true classes, as published protocols do, so it is no ordinary strategy. Source: Bengar et al. 2021, section 4.

    Raises:
        ValueError: when called with fewer images than classes, or when a class has too few.
    """

    def class_uniform_start(query: Query) -> Tensor:
        if query.n < classes:
            raise ValueError(
                f"a class-uniform start with {query.n} labels cannot cover {classes} classes: ask for {classes} or more, or start at random"
            )
        generator = (query.stream / "class_uniform").generator()
        extra = torch.randperm(classes, generator=generator)[: query.n % classes]
        counts = torch.full((classes,), query.n // classes).index_add(0, extra, torch.ones_like(extra))
        known = targets[query.candidates]
        chosen = []
        for label, count in enumerate(counts.tolist()):
            members = query.candidates[known == label]
            if len(members) < count:
                raise ValueError(
                    f"a class-uniform start wants {count} images of class {label}, the pool has {len(members)}: start smaller, or at random"
                )
            chosen.append(members[torch.randperm(len(members), generator=generator)[:count]])
        joined = torch.cat(chosen)
        return joined[torch.randperm(len(joined), generator=generator)]

    return class_uniform_start
