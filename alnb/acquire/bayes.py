"""Bayesian acquisition: how much a label would tell about the head, for one image (BALD) or for a batch together (BatchBALD).

A head is one of K draws; how it is drawn is an explicit choice, `Draws`. The functions take log-probabilities [M,C,K] of M candidates.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from alnb.acquire import scores
from alnb.acquire.query import Query
from alnb.learn import heads
from alnb.store.checks import at_least, one_of, within
from alnb.store.shapes import Float, Int

BLOCK = 256  # candidates whose joint entropies are computed together: 20 MB at 1,000 configurations and 10 classes
ROUNDING = 1e-5  # nats; a bound below the best gain by less may belong to a larger one


@dataclass(frozen=True)
class Draws:
    """K predictions of every candidate, by K heads on the same features."""

    source: str = "dropout"  # of the net's head; or "ensemble": of heads fitted to the labelled images, as of `heads.ensemble`
    K: int = 20
    rate: float = heads.DROPOUT  # for "dropout"

    def __post_init__(self) -> None:
        """Raises: ValueError, which names the field, its value and what it may be."""
        one_of("Draws.source", self.source, ("dropout", "ensemble"))
        at_least("Draws.K", self.K, 2)
        within("Draws.rate", self.rate, 0, 1)

    def __call__(self, query: Query) -> Float[Tensor, "M C K"]:
        """Log-probabilities of the candidates, on the device of the images. Raises: ValueError before the first labels."""
        head, known, generator = heads.linear_head(query.trained), query.pool.labelled, (query.stream / "draws").generator()
        if self.source == "dropout":
            drawn = heads.dropout(head, self.K, generator, self.rate)
        else:
            drawn = heads.ensemble(query.features, known, query.pool.labels[known], head.out_features, self.K, generator)
        return drawn.log_probs(query.features[query.candidates.to(query.features.device)].float())


def bald(log_probs: Float[Tensor, "M C K"]) -> Float[Tensor, " M"]:
    """The information in nats, in [0, ln min(C, K)], that the label of each candidate has about the draw; LARGE: ask for it.

    The entropy of the mean prediction, minus the mean entropy. Source: Houlsby et al. 2011, equation 2; Gal et al. 2017.
    """
    mean = log_probs.logsumexp(2) - math.log(log_probs.shape[2])
    return (scores.entropy(mean) - scores.entropy(log_probs).mean(1)).clamp(min=0)


@dataclass(frozen=True)
class BALD:
    """The candidates whose labels tell most about the head, each by itself. Source: as `bald`."""

    draws: Draws = Draws()

    def score(self, query: Query) -> Float[Tensor, " M"]:
        """`bald` of each candidate, on the CPU; also for `Power`."""
        return bald(self.draws(query)).cpu()

    def __call__(self, query: Query) -> Int[Tensor, " n"]:
        """Global indices. Raises: as the draws."""
        return query.candidates[scores.top(self.score(query), query.n)]


@dataclass(frozen=True)
class BatchBALD:
    """The candidates whose labels together tell most about the head, chosen greedily. Source: as `batch_bald`."""

    draws: Draws = Draws()
    configurations: int = 1_000

    def __post_init__(self) -> None:
        """Raises: ValueError where `configurations` is not a whole number above 0."""
        at_least("BatchBALD.configurations", self.configurations, 1)

    def __call__(self, query: Query) -> Int[Tensor, " n"]:
        """Global indices. Raises: as the draws."""
        generator = (query.stream / "batch_bald").generator()
        return query.candidates[batch_bald(self.draws(query), query.n, generator, self.configurations).cpu()]


def batch_bald(log_probs: Float[Tensor, "M C K"], n: int, generator: torch.Generator, configurations: int = 1_000) -> Int[Tensor, " n"]:
    """n rows, i64 [n], each with the largest gain of information about the draw, given the labels of those before; equal ones by position.

    The gain is a mean over configurations, the possible labels of the rows before: over all C^j of them while these are at most
    `configurations`, over that many drawn ones later, as many of each draw. Lazy: the mean of entropies is at most the entropy of the
    mean, over all configurations or over some. Only rows whose bounds reach the best gain are computed: a full scan picks the same.

    Time O(n M C K + R configurations C K) for R computed rows, memory O(M C K + BLOCK C configurations).
    Source: Kirsch et al. 2019, equations 9 to 13, by the chain rule.
    """
    probs, conditional = log_probs.exp(), scores.entropy(log_probs).mean(1)
    classes, draws = probs.shape[1:]
    of = torch.arange(configurations) % draws  # the draw that each drawn configuration is of
    joint, exact, chosen = probs.new_zeros(1, draws), True, []  # [R,K] log-probability of each configuration under each draw
    free = torch.ones_like(conditional, dtype=torch.bool)
    for _ in range(n):
        share = joint.logsumexp(1).softmax(0) if exact else torch.full_like(joint[:, 0], 1 / len(joint))
        row = _best(probs, conditional, free, joint.softmax(1), share)
        chosen.append(row)
        free[row] = False
        if exact and len(joint) * classes <= configurations:
            joint = (joint[:, None] + log_probs[row]).flatten(0, 1)
            continue
        if exact:
            joint, exact = joint[joint.T.exp().cpu()[of].multinomial(1, generator=generator)[:, 0].to(joint.device)], False
        labels = probs[row].T.cpu()[of].multinomial(1, generator=generator)[:, 0]
        joint = joint + log_probs[row][labels.to(joint.device)]
    return torch.tensor(chosen, dtype=torch.int64, device=probs.device)


def _best(probs: Tensor, conditional: Tensor, free: Tensor, posterior: Tensor, share: Tensor) -> int:
    """The `free` row with the largest gain, given the `posterior` [R,K] of the draws in each configuration, and its `share` [R]."""
    likeliest = torch.nn.functional.one_hot(posterior.argmax(1), posterior.shape[1]).to(share) * share[:, None]  # [R,K], K groups
    weight = likeliest.sum(0)
    groups = likeliest.T @ posterior / weight.clamp(min=torch.finfo(weight.dtype).tiny)[:, None]
    rows = free.nonzero()[:, 0]
    bound = _entropy(probs[rows], (share @ posterior)[None], share.sum()[None]) - conditional[rows]
    bound, order = bound.sort(descending=True, stable=True)
    row, best = -1, -math.inf
    for block, limit in zip(rows[order].split(BLOCK), bound.split(BLOCK), strict=True):
        if limit[0] < best - ROUNDING:
            break
        block = block[_entropy(probs[block], groups, weight) - conditional[block] >= best - ROUNDING]
        if not len(block):
            continue
        gain = _entropy(probs[block], posterior, share) - conditional[block]
        value, first = float(gain.max()), int(block[gain == gain.max()].min())
        if (value, -first) > (best, -row):
            row, best = first, value
    return row


def _entropy(probs: Tensor, posterior: Tensor, share: Tensor) -> Tensor:
    """The mean, weighted by `share` [R], of the entropies of the predictions under each `posterior` [R,K]: [M] of probs [M,C,K]."""
    mean = probs.reshape(-1, probs.shape[2]) @ posterior.T
    return torch.special.entr(mean).view(*probs.shape[:2], -1).sum(1) @ share
