"""PT4AL: pretext losses cut the pool into batches, one for each cycle, and the net chooses within the batch.

`LossBatch` is a scope: it gives a cycle its candidates, in order. `scopes.Scoped` puts it before the strategy that chooses among them.
The losses [N] are `query.side["pretext_loss"]`.

Source: Yi et al. 2022 (PT4AL), section 3. Where the authors' code (johnsk95/PT4AL) differs from the paper, there is a switch.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from alnb.acquire import scores
from alnb.acquire.query import Query
from alnb.learn.pretrain import check_losses
from alnb.learn.train import predict
from alnb.store.checks import at_least, one_of
from alnb.store.shapes import Float, Int
from alnb.store.streams import Stream

LOSS = "pretext_loss"  # key of the losses in `query.side`
KEYS = ("float", "text", "random")
ORDERS = ("high_first", "low_first")


def ranking(losses: Float[Tensor, " N"], *, key: str = "float", order: str = "high_first", seed: int = 0) -> Int[Tensor, " N"]:
    """All images by their losses; equal ones by index.

    Args:
        key: "float" compares numbers. "text" compares their decimal texts, as the authors' code does: losses below 1e-4 are written
            with an exponent, as 9.9e-05, and come out among the largest. "random" ignores the losses: it shuffles by `seed`.
    Raises:
        ValueError: a loss is not finite, all are equal, so that they order nothing, or `key` or `order` is unknown.
    Source: Yi et al. 2022, section 3.2; the authors' make_batches.py.
    """
    one_of("key", key, KEYS)
    one_of("order", order, ORDERS)
    if key == "random":
        return torch.randperm(len(losses), generator=(Stream(seed) / "pt4al" / "shuffle").generator())
    losses = losses.detach().cpu()
    check_losses(losses, "the pretext")
    high = order == "high_first"
    if key == "float":
        return losses.sort(descending=high, stable=True).indices
    texts = list(map(str, losses.tolist()))
    return torch.tensor(sorted(range(len(texts)), key=texts.__getitem__, reverse=high))


def batch(ranked: Int[Tensor, " N"], batches: int, number: int) -> Int[Tensor, " M"]:
    """Part `number`, from 0, of `ranked` cut into `batches` of equal size. If N is not divisible, the first ones have one image more.

    Raises ValueError if there is no such batch, or there are fewer images than batches.
    """
    if not 1 <= batches <= len(ranked):
        raise ValueError(f"{len(ranked)} images cannot be cut into {batches} batches: choose from 1 to {len(ranked)}")
    if not 0 <= number < batches:
        raise ValueError(
            f"batch {number} was asked for, but there are {batches}, from 0: ask for at most {batches} cycles, or cut more batches"
        )
    return ranked.tensor_split(batches)[number]


@dataclass(frozen=True)
class LossBatch:
    """The scope of PT4AL: in cycle k the candidates in batch k, in the order of their losses.

    Images of batch k that cycle k does not query are never candidates again. With `first` = f != 0, batch f is offered in cycles 0 and f,
    and batch 0 never. Source: Yi et al. 2022, section 3.2.
    """

    batches: int = 10
    key: str = "float"  # see `ranking`
    order: str = "high_first"
    first: int = 0  # the batch of cycle 0; the authors' script for the cold start reads their sixth, 5
    seed: int = 0  # of the key "random"

    def __post_init__(self) -> None:
        """Raises: ValueError, which names the field, its value and what it may be."""
        at_least("LossBatch.batches", self.batches, 1)
        at_least("LossBatch.first", self.first, 0)
        one_of("LossBatch.first", self.first, range(self.batches))
        one_of("LossBatch.key", self.key, KEYS)
        one_of("LossBatch.order", self.order, ORDERS)

    def __call__(self, query: Query) -> Tensor:
        """Global indices i64 [M], some of the query's candidates.

        Raises ValueError if there are no losses, they order nothing, the batches are used up, or a query is larger than its batch.
        """
        losses = torch.zeros(len(query.pool)) if self.key == "random" else pretext_losses(query)
        ranked = ranking(losses, key=self.key, order=self.order, seed=self.seed)
        number = query.cycle if query.cycle else self.first
        members = batch(ranked, self.batches, number)
        candidates = members[torch.isin(members, query.candidates)]
        if query.n > len(candidates):
            raise ValueError(
                f"PT4AL in cycle {query.cycle}: {query.n} images are asked for, but batch {number} of {self.batches} has {len(candidates)} "
                f"candidates: lower the budget, or cut the pool of {len(ranked)} into fewer batches"
            )
        return candidates


def pretext_losses(query: Query) -> Tensor:
    """The losses [N] in the query's side information. Raises ValueError if there is not one for each image of the pool."""
    losses = query.side.get(LOSS)
    if not isinstance(losses, Tensor) or losses.shape != (len(query.pool),):
        have = f"a tensor of shape {list(losses.shape)}" if isinstance(losses, Tensor) else repr(losses)[:60]
        raise ValueError(
            f"PT4AL sorts the pool by a pretext's losses: side[{LOSS!r}] must hold [{len(query.pool)}] of them, and is {have}; "
            f"give the experiment side={{{LOSS!r}: pretrain(…).losses}}"
        )
    return losses


def evenly(query: Query) -> Tensor:
    """Candidates at even intervals of their order, from the first: ranks 0, 5, 10, … for 1,000 of 5,000 candidates.

    Source: Yi et al. 2022, section 3.3 (first batch).
    """
    return query.candidates[torch.arange(query.n) * len(query.candidates) // query.n]


def highest(query: Query) -> Tensor:
    """The first candidates in their order: the highest losses of a batch. Source: Yi et al. 2022, section 6.3 (top-K)."""
    return query.candidates[: query.n]


def lowest(query: Query) -> Tensor:
    """The last candidates in their order, the very last first: the lowest losses of a batch. Source: section 6.1."""
    return query.candidates.flip(0)[: query.n]


def normalised_confidence(query: Query) -> Tensor:
    """Candidates with the smallest largest probability, after the logits [M,C] were divided by their Euclidean norm.

    The score depends only on the direction of the logits; with 10 classes it lies in (0.1, 0.2417].
    Source: the authors' main.py. The paper takes the posterior itself, which is `acquire.least_confidence`.
    """
    logits = predict(query.trained, query.pool.images, query.candidates).float().cpu()
    return query.candidates[scores.top(scores.least_confidence(functional.normalize(logits, dim=1).log_softmax(dim=1)), query.n)]
