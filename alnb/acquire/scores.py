"""Uncertainty scores, and the one way to take the largest of them: pure functions of log-probabilities.

The class axis is 1 and trailing axes are free, as in `torch.nn.functional.cross_entropy`: `[N, C]` for classification,
`[N, C, H, W]` for segmentation. A score is `[N, ...]`; `per_image` reduces it to `[N]` and `top` takes the n largest.
Every function keeps the device and the dtype of its input.
"""

import torch
from torch import Tensor

from alnb.store.shapes import Float, Int, Shaped


def entropy(log_probs: Float[Tensor, "N C ..."]) -> Float[Tensor, "N ..."]:
    """The entropy of each predicted distribution, in nats, in [0, ln C]; LARGE means uncertain.

    log_probs: natural logarithms; -inf is a probability of exactly 0 and adds exactly 0. NaN stays NaN, so that `top` can refuse it.
    Source: Shannon 1948; the clamp makes 0 * log 0 = 0 instead of NaN.
    """
    finite = log_probs.clamp(min=torch.finfo(log_probs.dtype).min)
    return -(log_probs.exp() * finite).sum(1)


def least_confidence(log_probs: Float[Tensor, "N C ..."]) -> Float[Tensor, "N ..."]:
    """One minus the largest probability, in [0, 1 - 1/C]; LARGE means uncertain.

    Computed as -expm1(log p): 1 - exp(log p) rounds to 0 where log p is closer to 0 than the dtype's precision, and such images tie.
    Source: Lewis and Gale 1994.
    """
    return -torch.expm1(log_probs.amax(1))


def margin(log_probs: Float[Tensor, "N C ..."]) -> Float[Tensor, "N ..."]:
    """The largest probability minus the second largest, in [0, 1]; SMALL means uncertain, so query by `top(-margin(...), n)`.

    Raises ValueError where there are fewer than two classes.
    Source: Scheffer et al. 2001; computed as p1 * (1 - p2 / p1), which keeps its digits where the two are nearly equal.
    """
    if log_probs.shape[1] < 2:
        raise ValueError(f"a margin needs two classes on axis 1, but log_probs is {tuple(log_probs.shape)}: is the class axis 1?")
    first, second = log_probs.topk(2, dim=1).values.unbind(1)
    return first.exp() * -torch.expm1(second - first)


def per_image(scores: Float[Tensor, "N ..."]) -> Float[Tensor, " N"]:
    """One score per image: the mean over all axes but the first. Scores `[N]` come back as they are."""
    return scores if scores.ndim == 1 else scores.flatten(1).mean(1)


def top(scores: Shaped[Tensor, "..."], n: int) -> Int[Tensor, " n"]:
    """Positions, i64 [n], of the n largest scores, largest first, equal ones by position: the same on every device.

    scores: [M], one per candidate, real; -inf is allowed. Memory O(M).
    Raises ValueError where scores is not one-dimensional, n is not in [0, M], or a score is NaN, which has no place in any order.
    """
    if scores.ndim != 1:
        raise ValueError(f"scores must be [M], one per candidate, but are {tuple(scores.shape)}: reduce them with per_image first")
    if not 0 <= n <= len(scores):
        raise ValueError(f"n = {n} of {len(scores)} candidates were asked for: choose n in [0, {len(scores)}] or widen the candidates")
    nan = scores.isnan()
    if nan.any():
        raise ValueError(
            f"{int(nan.sum())} of {len(scores)} scores are NaN, the first at position {int(nan.long().argmax())}: "
            "look at the log-probabilities of that candidate; the net's outputs are probably not finite"
        )
    return scores.sort(descending=True, stable=True).indices[:n]
