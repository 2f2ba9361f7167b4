"""The pool: the labels that are known, and since which cycle. The query: all that a strategy receives."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor

from alnb.data import Images
from alnb.learn.nets import Net
from alnb.learn.task import VOID
from alnb.learn.train import log_probs, predict
from alnb.store.streams import Stream

NOT_ASKED = -1  # in `Pool.acquired`


@dataclass(frozen=True)
class Pool:
    """N images, with the labels that were paid for. It holds no other labels."""

    images: Images
    labels: Tensor  # i64 [N]; VOID = unknown
    acquired: Tensor  # i64 [N]; the cycle in which each image was asked for, NOT_ASKED = not yet

    @classmethod
    def of(cls, images: Images) -> Pool:
        """A pool without any label."""
        return cls(images, torch.full((len(images),), VOID), torch.full((len(images),), NOT_ASKED))

    def __post_init__(self) -> None:
        """Raises: ValueError if the lengths differ, or an image has a label but was not asked for."""
        if not len(self.images) == len(self.labels) == len(self.acquired):
            raise ValueError(
                f"{len(self.images)} images, {len(self.labels)} labels, {len(self.acquired)} cycles: give one label and cycle per image"
            )
        unpaid = ((self.labels != VOID) & (self.acquired == NOT_ASKED)).nonzero().flatten()
        if len(unpaid):
            image = int(unpaid[0])
            raise ValueError(f"image {image} has a label but acquired[{image}] is {NOT_ASKED}: set it to the label's cycle, such as 0")

    def __len__(self) -> int:
        """N."""
        return len(self.labels)

    @property
    def labelled(self) -> Tensor:
        """Global indices i64 of the images with a label, ascending."""
        return (self.labels != VOID).nonzero().flatten()

    @property
    def asked(self) -> Tensor:
        """Global indices i64 of the images that were asked for, answered or not, ascending."""
        return (self.acquired != NOT_ASKED).nonzero().flatten()

    @property
    def unlabelled(self) -> Tensor:
        """Global indices i64 of the images that were not asked for, ascending."""
        return (self.acquired == NOT_ASKED).nonzero().flatten()

    def acquire(self, indices: Tensor, labels: Tensor, cycle: int) -> Pool:
        """A new pool in which the images at `indices` i64 [n] have `labels` i64 [n] since `cycle`. This pool does not change.

        A label may be VOID: asked for, but not answered.

        Raises:
            ValueError: an index is out of range, occurs twice, or was asked for before.
        """
        if len(indices) != len(labels):
            raise ValueError(f"{len(indices)} indices, but {len(labels)} labels: give one label per index")
        check_indices(indices, self, f"cycle {cycle}")
        acquired = self.acquired.index_put((indices,), torch.tensor(cycle))
        return replace(self, labels=self.labels.index_put((indices,), labels), acquired=acquired)


def as_tensor(answer: Any, place: str, expected: str) -> Tensor:
    """A tensor, or a list of numbers, as a tensor on the CPU. Raises: ValueError, which names the `place`, for any other answer."""
    if isinstance(answer, Tensor | list | numpy.ndarray):
        with suppress(TypeError, ValueError, RuntimeError):
            return torch.as_tensor(answer).cpu()
    raise ValueError(f"{place} returned a {type(answer).__name__}, expected {expected}")


def check_indices(indices: Tensor, pool: Pool, place: str) -> None:
    """Check that `indices` can be asked for: whole numbers within the pool, all different, none asked for before.

    Raises:
        ValueError: the message names the `place` and the first wrong indices.
    """
    if indices.dtype != torch.int64 or indices.ndim != 1:
        raise ValueError(f"{place}: indices must be int64 [n], but are {indices.dtype} {list(indices.shape)}")
    outside = indices[(indices < 0) | (indices >= len(pool))]
    if len(outside):
        raise ValueError(f"{place}: indices {_first(outside)} are outside the pool of {len(pool)} images; indices are global, from 0")
    values, counts = indices.unique(return_counts=True)
    if bool((counts > 1).any()):
        raise ValueError(f"{place}: indices {_first(values[counts > 1])} occur more than once")
    repeated = indices[pool.acquired[indices] != NOT_ASKED]
    if len(repeated):
        raise ValueError(f"{place}: images {_first(repeated)} were asked for before (the first in cycle {int(pool.acquired[repeated[0]])})")


def _first(values: Tensor) -> str:
    return ", ".join(map(str, values[:5].tolist())) + (f" and {len(values) - 5} more" if len(values) > 5 else "")


@dataclass(frozen=True)
class Query:
    """The only thing that a strategy receives. Nothing in it holds a target."""

    pool: Pool
    net: Net | None  # trained on the pool's labels, in evaluation mode; None before the first labels
    candidates: Tensor  # global indices i64 [M]: ascending, or in the order that a scope gives them
    n: int  # number of images to choose
    stream: Stream  # the address of this query's random numbers; each strategy and scope adds its name
    side: Mapping[str, Any] = field(default_factory=dict)  # other facts about the images, such as a pretext's losses [N]
    folder: Path | None = None  # where a long computation stores its checkpoint; None: nowhere
    cycle: int = 0

    @cached_property
    def log_probs(self) -> Tensor:
        """Log-probabilities [M,C] of the candidates, on the CPU."""
        return predict(log_probs(self.trained), self.pool.images, self.candidates).cpu()

    @cached_property
    def features(self) -> Tensor:
        """Penultimate features [N,D] of the whole pool, on the device of the images."""
        return predict(self.trained.features, self.pool.images)

    def space(self, rows: Tensor | None = None) -> Tensor:
        """Features [P,D] of the images at global indices `rows` (None: all), to compare images by: without a net, the flattened images."""
        if self.net is None:
            return predict(lambda x: x.flatten(1), self.pool.images, rows)
        return self.features if rows is None else self.features[rows.to(self.features.device)]

    @property
    def trained(self) -> Net:
        """The net. Raises: ValueError before the first labels, where there is none."""
        if self.net is None:
            raise ValueError("there is no trained net before the first labels: choose those with another strategy, such as random")
        return self.net


def check_query(chosen: Tensor, query: Query, place: str, *, exact: bool = True) -> None:
    """Check a strategy's answer: `query.n` different candidates; at least one of them, if not `exact`.

    Raises:
        ValueError: the message names the `place` and what is wrong.
    """
    check_indices(chosen, query.pool, place)
    if len(chosen) != query.n and (exact or not 0 < len(chosen) < query.n):
        raise ValueError(f"{place}: returned {len(chosen)} indices, expected {query.n}: see Protocol.exact if fewer are right")
    outside = chosen[~torch.isin(chosen, query.candidates)]
    if len(outside):
        raise ValueError(f"{place}: image {int(outside[0])} is not among the {len(query.candidates)} candidates: choose one of these")
