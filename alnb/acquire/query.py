"""The pool: what is known and since when; and the query: all that a strategy receives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alnb.data import Images
from alnb.learn.nets import Net
from alnb.learn.train import log_probs, predict

VOID = -1  # no label; or, in `acquired`, not asked for yet


@dataclass(frozen=True)
class Pool:
    """N images, with the labels that were paid for. It holds no other labels."""

    images: Images
    labels: Tensor  # i64 [N]; VOID where unknown
    acquired: Tensor  # i64 [N]; the cycle in which each image was asked for, VOID = not yet

    @classmethod
    def of(cls, images: Images) -> Pool:
        """A pool without any label."""
        return cls(images, torch.full((len(images),), VOID), torch.full((len(images),), VOID))

    def __post_init__(self) -> None:
        """Raises: ValueError where the lengths differ, or a label came from nowhere."""
        if not len(self.images) == len(self.labels) == len(self.acquired):
            raise ValueError(
                f"{len(self.images)} images, {len(self.labels)} labels and {len(self.acquired)} acquisition cycles: they must be as many"
            )
        if bool(((self.labels != VOID) & (self.acquired == VOID)).any()):
            raise ValueError(
                "a label is known of an image that was not asked for: `acquired` must hold a cycle, 0 say, where `labels` is not VOID"
            )

    def __len__(self) -> int:
        """N."""
        return len(self.labels)

    @property
    def labelled(self) -> Tensor:
        """Global indices i64 of the images with a label, ascending."""
        return (self.labels != VOID).nonzero().flatten()

    @property
    def unlabelled(self) -> Tensor:
        """Global indices i64 of the images that nobody has been asked about, ascending."""
        return (self.acquired == VOID).nonzero().flatten()

    def acquire(self, indices: Tensor, labels: Tensor, cycle: int) -> Pool:
        """A new pool in which the images at `indices` i64 [n] have `labels` i64 [n] since `cycle`. This one stays as it is.

        A label may be VOID: asked, without an answer.

        Raises:
            ValueError: an index is out of range, stands twice, or was asked for before.
        """
        if len(indices) != len(labels):
            raise ValueError(f"{len(indices)} indices, but {len(labels)} labels")
        check_indices(indices, self, f"cycle {cycle}")
        return replace(
            self, labels=self.labels.index_put((indices,), labels), acquired=self.acquired.index_put((indices,), torch.tensor(cycle))
        )


def check_indices(indices: Tensor, pool: Pool, what: str) -> None:
    """Make sure that `indices` can be asked for: whole numbers, within the pool, all different, none of them before.

    Raises:
        ValueError: it names `what` returned them, and the first offending ones.
    """
    if indices.dtype != torch.int64 or indices.ndim != 1:
        raise ValueError(f"{what}: indices must be i64 of one dimension, these are {indices.dtype} of shape {list(indices.shape)}")
    outside = indices[(indices < 0) | (indices >= len(pool))]
    if len(outside):
        raise ValueError(f"{what}: indices {_first(outside)} lie outside the pool of {len(pool)} images; indices are global, from 0")
    values, counts = indices.unique(return_counts=True)
    if bool((counts > 1).any()):
        raise ValueError(f"{what}: indices {_first(values[counts > 1])} stand there more than once")
    before = indices[pool.acquired[indices] != VOID]
    if len(before):
        raise ValueError(f"{what}: images {_first(before)} were asked for before (the first in cycle {int(pool.acquired[before[0]])})")


def _first(values: Tensor) -> str:
    shown = ", ".join(map(str, values[:5].tolist()))
    return f"{shown} and {len(values) - 5} more" if len(values) > 5 else shown


@dataclass(frozen=True)
class Query:
    """The only thing that a strategy receives. Nothing in it holds a target."""

    pool: Pool
    net: Net | None  # trained on the pool's labels, in evaluation mode; None before the first labels
    candidates: Tensor  # global indices i64 [M]: ascending, or in the order that a scope gives them
    n: int  # how many to choose
    rng: torch.Generator  # on the CPU
    side: Mapping[str, Any] = field(default_factory=dict)  # what else is known of the images, such as a pretext's losses [N]
    folder: Path | None = None  # where a long computation may keep its checkpoint; None: nowhere
    cycle: int = 0  # which it is for

    @cached_property
    def log_probs(self) -> Tensor:
        """Log-probabilities [M,C] of the candidates, on the CPU."""
        return predict(log_probs(self._net), self.pool.images, self.candidates).cpu()

    @cached_property
    def features(self) -> Tensor:
        """Penultimate features [N,D] of the whole pool, on the device of the images."""
        return predict(self._net.features, self.pool.images)

    @property
    def _net(self) -> Net:
        if self.net is None:
            raise ValueError("there is no trained net before the first labels: choose the first ones with another strategy, such as random")
        return self.net
