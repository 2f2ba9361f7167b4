"""Learning Loss: a module on the net's stages learns whose loss is larger, and those with the largest prediction are asked for.

Source: Yoo and Kweon 2019 (Learning loss for active learning), section 3. Cut off from the start, the module only watches: "learning loss
(detached)" of Yi et al. 2022.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from alnb.acquire import scores
from alnb.acquire.query import Query
from alnb.learn.nets import Net
from alnb.learn.train import Learner, LossSwitch, Recipe, cross_entropy, predict

HIDDEN = 128  # width of a stage's layer; Yoo and Kweon 2019
PROBE = 32  # pixels of the image that shows how many channels each stage has
DETACH = 121 / 200  # the module's gradient reaches the trunk in epochs 0 to 120 of 200, as in the public re-implementations

Pairs = Callable[[Tensor, Tensor], Tensor]
"""(predicted [B], true losses [B]) -> loss [B/2] of the pairs (i, B-1-i)."""


# ---- the net -------------------------------------------------------------------------------------------------------------------


class LossModule(nn.Module):
    """From the stages' averaged maps to a predicted loss; 123,905 parameters on ResNet-18. Always in float32."""

    def __init__(self, widths: Sequence[int], hidden: int = HIDDEN) -> None:
        """For stages with so many channels."""
        super().__init__()
        self.stages = nn.ModuleList(nn.Linear(width, hidden) for width in widths)
        self.last = nn.Linear(hidden * len(widths), 1)

    def forward(self, pooled: Sequence[Tensor]) -> Tensor:
        """Predicted losses [B], of any unit: only their order was learned. `pooled`: [B,D_k] of each stage."""
        with torch.autocast(pooled[0].device.type, enabled=False):  # of two nearly equal predictions bfloat16 leaves no difference
            hidden = [functional.relu(stage(x.float())) for stage, x in zip(self.stages, pooled, strict=True)]
            out: Tensor = self.last(torch.cat(hidden, dim=1))
        return out.squeeze(1)


class LossNet(Net):
    """A plain net with a `LossModule`; as a classifier it is that plain net."""

    def __init__(self, plain: Net, hidden: int = HIDDEN) -> None:
        """Takes over the trunk and the head of `plain`.

        Raises:
            ValueError: it has no stages, or is no plain net.
        """
        if type(plain) is not Net or not plain.trunk:
            raise ValueError(
                f"a loss module looks at the stages of a plain Net, this is a {type(plain).__name__} with {len(plain.trunk)} stages: "
                "take one of nets.NETS"
            )
        super().__init__(list(plain.trunk), plain.width, 1)
        self.head = plain.head
        self.mean.copy_(plain.mean)
        self.std.copy_(plain.std)
        self.module = LossModule(_widths(plain), hidden)

    def both(self, x: Tensor, *, detached: bool = False) -> tuple[Tensor, Tensor]:
        """Logits [B,outputs] and predicted losses [B] of images [B,3,H,W]; `detached`: no gradient flows from these into the trunk."""
        pooled = [part.mean(dim=(2, 3)) for part in self.maps(x)]
        seen = [part.detach() for part in pooled] if detached else pooled
        return self.head(pooled[-1]), self.module(seen)

    def predicted_loss(self, x: Tensor) -> Tensor:
        """Predicted losses [B] of images [B,3,H,W] in [0, 1]; LARGE means that the net is expected to be wrong."""
        return self.both(x)[1]


def _widths(net: Net) -> list[int]:
    training = net.training
    net.eval()  # so that batch normalisation does not learn from the probe
    with torch.no_grad():
        widths = [part.shape[1] for part in net.maps(torch.zeros(1, 3, PROBE, PROBE))]
    net.train(training)
    return widths


def loss_net(outputs: int, *, net: Callable[[int], Net], hidden: int = HIDDEN) -> LossNet:
    """`net` with a loss module; its weights are drawn first, so that with equal seeds they are those of the net without one."""
    return LossNet(net(outputs), hidden)


# ---- the losses ----------------------------------------------------------------------------------------------------------------


def hinge_pairs(predicted: Tensor, losses: Tensor, margin: float = 1.0) -> Tensor:
    """For each pair how far the predictions are from the right order by `margin`: max(0, margin - s (p_i - p_j)), [B/2].

    s is 1 where loss i is the larger, else -1: ties count as -1. Source: Yoo and Kweon 2019, equation 2.

    Raises:
        ValueError: B is odd.
    """
    further, larger = _gaps(predicted, losses)
    return (margin - torch.where(larger, further, -further)).clamp(min=0)


def ranking_pairs(predicted: Tensor, losses: Tensor) -> Tensor:
    """For each pair the binary cross-entropy [B/2], in nats, of sigmoid(p_i - p_j) and whether loss i is the larger.

    Source: Kim et al. 2021 (TA-VAAL); Burges et al. 2005.

    Raises:
        ValueError: B is odd.
    """
    further, larger = _gaps(predicted, losses)
    return functional.binary_cross_entropy_with_logits(further, larger.float(), reduction="none")


def _gaps(predicted: Tensor, losses: Tensor) -> tuple[Tensor, Tensor]:
    """p_i - p_j [B/2], and whether loss i is larger than loss j; j = B-1-i."""
    size = len(losses)
    if size % 2:
        raise ValueError(f"a batch of {size} images {_remedy(size)}")
    half = size // 2
    predicted = predicted.float()  # the losses are only compared, so no gradient flows into them
    return predicted[:half] - predicted[half:].flip(0), losses[:half] > losses[half:].flip(0)


def _remedy(size: int) -> str:
    fitting = f"set Recipe.batch to an even number up to {size - 1}" if size > 2 else "ask for more labels"
    return f"leaves one without a partner, and losses are learned from pairs: {fitting}, or let the number of labels be even"


def total_loss(net: Net, x: Tensor, y: Tensor, *, weight: float, pairs: Pairs, detached: bool) -> Tensor:
    """Loss [B] of images [B,3,H,W] with labels i64 [B]: cross-entropy plus `weight` times that of its pair, so that the mean is
    the mean cross-entropy plus `weight` times the mean over pairs.

    Raises:
        ValueError: B is odd, or the net has no loss module.
    """
    logits, predicted = _with_module(net).both(x, detached=detached)
    losses = functional.cross_entropy(logits.float(), y, reduction="none")
    each = pairs(predicted, losses)
    return losses + weight * torch.cat([each, each.flip(0)])


# ---- the learner ---------------------------------------------------------------------------------------------------------------


def learner(
    base: Learner, *, detach: float = DETACH, weight: float = 1.0, margin: float = 1.0, ranking: bool = False, hidden: int = HIDDEN
) -> Learner:
    """`base` with a loss module on its net, trained together with it.

    Cut off from the start (`detach` 0) the module changes nothing: on the CPU trunk and head become, bit for bit, those of `base`.
    Use `check` to learn before a run whether all its batches will be even.

    Differs from the paper: one optimiser, with the recipe's rate, for both; the public re-implementations do the same with two.

    Args:
        detach: part of the training, in [0, 1], after which the module's gradient no longer reaches the trunk; 1: never cut off.
        weight: of the pairs' loss against cross-entropy.
        margin: between the predictions of a pair, in their unit; without effect where `ranking`.
        ranking: learn the order by TA-VAAL's cross-entropy instead of the hinge.
        hidden: width of each stage's layer.
    Raises:
        ValueError: a number out of range, or a `base` with a loss of its own; it names which and what it may be.
    """
    if not 0 <= detach <= 1:
        raise ValueError(f"learning_loss.learner: detach is {detach}: it must be in [0, 1], a part of the training")
    for name, value in {"weight": weight, "margin": margin}.items():
        if not 0 <= value < math.inf:
            raise ValueError(f"learning_loss.learner: {name} is {value}: it must not be negative, and finite")
    if type(hidden) is not int or hidden < 1:
        raise ValueError(f"learning_loss.learner: hidden is {hidden!r}: it must be a whole number, at least 1")
    if base.loss not in (None, cross_entropy) or base.switch is not None:
        raise ValueError("learning_loss.learner: the base has another loss than train.cross_entropy, which it would lose: give a plain one")
    pairs = ranking_pairs if ranking else functools.partial(hinge_pairs, margin=margin)
    joined, cut = (functools.partial(total_loss, weight=weight, pairs=pairs, detached=detached) for detached in (False, True))
    switch = LossSwitch(detach, cut) if 0 < detach < 1 else None
    return replace(base, net=functools.partial(loss_net, net=base.net, hidden=hidden), loss=joined if detach else cut, switch=switch)


def check(recipe: Recipe, sizes: Iterable[int]) -> None:
    """Make sure that every batch is even with each of `sizes`, numbers of labelled images; batches are no larger than those.

    Raises:
        ValueError: it names the first size whose batches are odd, and the remedy.
    """
    for n in sizes:
        batch = min(recipe.batch, n)
        if batch % 2:
            raise ValueError(f"Recipe.batch is {recipe.batch}: with {n} labelled images a batch of {batch} {_remedy(batch)}")


# ---- the strategy --------------------------------------------------------------------------------------------------------------


def learning_loss(query: Query) -> Tensor:
    """Those with the largest predicted loss. Source: Yoo and Kweon 2019, section 3.1.

    Raises:
        ValueError: the query's net has no loss module, or there is none yet.
    """
    net = net_of(query)
    return query.candidates[scores.top(predict(net.predicted_loss, query.pool.images, query.candidates).cpu(), query.n)]


def net_of(query: Query) -> LossNet:
    """The query's net. Raises: ValueError where it has no loss module, or where there is none yet."""
    if query.net is None:
        raise ValueError("there is no trained net before the first labels: choose the first ones with another strategy, such as random")
    return _with_module(query.net)


def _with_module(net: Net) -> LossNet:
    if not isinstance(net, LossNet):
        raise ValueError(f"a {type(net).__name__} predicts no losses: train it with learning_loss.learner(base), not with the base alone")
    return net
