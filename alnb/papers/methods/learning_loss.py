"""Learning Loss: a module on the net's stages learns to rank losses; the images with the largest predicted loss are queried.

Source: Yoo and Kweon 2019 (Learning loss for active learning), section 3. Detached from the start, the module does not change the net:
"learning loss (detached)" of Yi et al. 2022.
"""

import copy
import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from alnb.acquire import scores
from alnb.acquire.query import Query
from alnb.learn.nets import Net
from alnb.learn.train import Learner, LossSwitch, Recipe, cross_entropy, predict
from alnb.store.checks import at_least, within

HIDDEN = 128  # width of a stage's layer; Yoo and Kweon 2019
PROBE = 32  # pixels, the side of an image that is sent through a net to count the channels of its stages
DETACH = 121 / 200  # the module's gradient reaches the trunk in epochs 0 to 120 of 200, as in the public re-implementations

Pairs = Callable[[Tensor, Tensor], Tensor]
"""(predicted [B], true losses [B]) -> loss [B/2] of the pairs (i, B-1-i)."""


class LossModule(nn.Module):
    """Predicts a loss from the averaged maps of the stages; 123,905 parameters on ResNet-18. Always in float32."""

    def __init__(self, widths: Sequence[int], hidden: int = HIDDEN) -> None:
        """widths: channels of each stage. hidden: width of each stage's layer."""
        super().__init__()
        self.stages = nn.ModuleList(nn.Linear(width, hidden) for width in widths)
        self.last = nn.Linear(hidden * len(widths), 1)

    def forward(self, pooled: Sequence[Tensor]) -> Tensor:
        """Predicted losses [B] from `pooled` [B,D_k] of each stage. They have no unit: only their order was learned."""
        with torch.autocast(pooled[0].device.type, enabled=False):  # bfloat16 would round two nearly equal predictions to one number
            hidden = [functional.relu(stage(x.float())) for stage, x in zip(self.stages, pooled, strict=True)]
            return self.last(torch.cat(hidden, dim=1)).squeeze(1)


class LossNet(Net):
    """A plain net with a `LossModule`. As a classifier it equals the plain net."""

    def __init__(self, plain: Net, hidden: int = HIDDEN) -> None:
        """Take the trunk and the head of `plain`. Raises ValueError if that has no stages, or is not a plain `Net`."""
        if type(plain) is not Net or not plain.trunk:
            raise ValueError(
                f"a loss module needs the stages of a plain Net, but this is a {type(plain).__name__} with {len(plain.trunk)} stages: "
                "take one of nets.NETS"
            )
        super().__init__(list(plain.trunk), plain.width, 1)
        self.head = plain.head
        self.mean.copy_(plain.mean)
        self.std.copy_(plain.std)
        self.module = LossModule(_widths(plain), hidden)

    def both(self, x: Tensor, *, detached: bool = False) -> tuple[Tensor, Tensor]:
        """Logits [B,outputs] and predicted losses [B] of images [B,3,H,W].

        detached: no gradient flows from the predicted losses into the trunk.
        """
        pooled = [part.mean(dim=(2, 3)) for part in self.maps(x)]
        inputs = [part.detach() for part in pooled] if detached else pooled
        return self.head(pooled[-1]), self.module(inputs)

    def predicted_loss(self, x: Tensor) -> Tensor:
        """Predicted losses [B] of images [B,3,H,W] in [0, 1]; LARGE means that the net is expected to be wrong."""
        return self.both(x)[1]


def _widths(net: Net) -> list[int]:
    copied = copy.deepcopy(net).eval()  # so that batch normalisation does not learn from the probe
    with torch.no_grad():
        return [part.shape[1] for part in copied.maps(torch.zeros(1, 3, PROBE, PROBE))]


def loss_net(outputs: int, *, net: Callable[[int], Net], hidden: int = HIDDEN) -> LossNet:
    """`net` with a loss module. The weights of `net` are drawn first, and so equal those of the plain net with the same seed."""
    return LossNet(net(outputs), hidden)


def hinge_pairs(predicted: Tensor, losses: Tensor, margin: float = 1.0) -> Tensor:
    """The hinge loss [B/2] of each pair: max(0, margin - s (p_i - p_j)).

    s is 1 where loss i is larger, else -1; ties count as -1. Source: Yoo and Kweon 2019, equation 2. Raises ValueError if B is odd.
    """
    gaps, larger = _gaps(predicted, losses)
    return (margin - torch.where(larger, gaps, -gaps)).clamp(min=0)


def ranking_pairs(predicted: Tensor, losses: Tensor) -> Tensor:
    """The binary cross-entropy [B/2] of each pair, in nats: sigmoid(p_i - p_j) predicts that loss i is larger.

    Source: Kim et al. 2021 (TA-VAAL); Burges et al. 2005. Raises ValueError if B is odd.
    """
    gaps, larger = _gaps(predicted, losses)
    return functional.binary_cross_entropy_with_logits(gaps, larger.float(), reduction="none")


def _gaps(predicted: Tensor, losses: Tensor) -> tuple[Tensor, Tensor]:
    """p_i - p_j [B/2], and True [B/2] where loss i is larger than loss j; j = B-1-i."""
    size = len(losses)
    if size % 2:
        raise ValueError(f"a batch of {size} images {_remedy(size)}")
    half = size // 2
    predicted = predicted.float()  # the losses are only compared, so no gradient flows into them
    return predicted[:half] - predicted[half:].flip(0), losses[:half] > losses[half:].flip(0)


def _remedy(size: int) -> str:
    fitting = f"set Recipe.batch to an even number up to {size - 1}" if size > 2 else "ask for more labels"
    return f"leaves one image without a partner, but losses are learned from pairs: {fitting}, or choose an even number of labels"


def total_loss(net: Net, x: Tensor, y: Tensor, *, weight: float, pairs: Pairs, detached: bool) -> Tensor:
    """Loss [B] of images [B,3,H,W] with labels i64 [B]: the cross-entropy of the image plus `weight` times the loss of its pair.

    Its mean is the mean cross-entropy plus `weight` times the mean over pairs. Raises ValueError if B is odd.
    """
    logits, predicted = with_module(net).both(x, detached=detached)
    losses = functional.cross_entropy(logits.float(), y, reduction="none")
    pair_losses = pairs(predicted, losses)
    return losses + weight * torch.cat([pair_losses, pair_losses.flip(0)])


def learner(
    base: Learner, *, detach: float = DETACH, weight: float = 1.0, margin: float = 1.0, ranking: bool = False, hidden: int = HIDDEN
) -> Learner:
    """`base` with a loss module on its net; both are trained together.

    Detached from the start (`detach` 0) the module changes nothing: on the CPU, trunk and head equal those of `base` bit for bit.
    Call `check` before a run to be sure that all batches will be even.
    Differs from the paper: one optimiser, with the recipe's rate, trains both. The public re-implementations use two with equal rates.

    Args:
        detach: share of the training, in [0, 1], after which the module's gradient no longer reaches the trunk; 1: it always does.
        weight: of the pairs' loss against cross-entropy.
        margin: between the two predictions of a pair; unused if `ranking`.
        ranking: learn the order by TA-VAAL's cross-entropy instead of the hinge.
        hidden: width of each stage's layer.

    Raises ValueError if a number is out of range, or `base` has its own loss.
    """
    if not 0 <= detach <= 1:
        raise ValueError(f"learning_loss.learner: detach is {detach}: it must be in [0, 1], a share of the training")
    within("learning_loss.learner: weight", weight, 0)
    within("learning_loss.learner: margin", margin, 0)
    at_least("learning_loss.learner: hidden", hidden, 1)
    if base.loss not in (None, cross_entropy) or base.switch is not None:
        raise ValueError("learning_loss.learner: base.loss is not train.cross_entropy and would be replaced: give a learner without a loss")
    pairs = ranking_pairs if ranking else functools.partial(hinge_pairs, margin=margin)
    joined, cut = (functools.partial(total_loss, weight=weight, pairs=pairs, detached=detached) for detached in (False, True))
    switch = LossSwitch(detach, cut) if 0 < detach < 1 else None
    return replace(base, net=functools.partial(loss_net, net=base.net, hidden=hidden), loss=joined if detach else cut, switch=switch)


def check(recipe: Recipe, sizes: Iterable[int]) -> None:
    """Raises ValueError if batches are odd for one of `sizes`, numbers of labelled images. A batch is never larger than that number."""
    for n in sizes:
        batch = min(recipe.batch, n)
        if batch % 2:
            raise ValueError(f"Recipe.batch is {recipe.batch}: with {n} labelled images a batch of {batch} {_remedy(batch)}")


def learning_loss(query: Query) -> Tensor:
    """Candidates with the largest predicted loss. Source: Yoo and Kweon 2019, section 3.1. Raises: as `with_module`."""
    net = with_module(query.trained)
    return query.candidates[scores.top(predict(net.predicted_loss, query.pool.images, query.candidates).cpu(), query.n)]


def with_module(net: Net) -> LossNet:
    """The same net. Raises: ValueError where it has no loss module."""
    if not isinstance(net, LossNet):
        raise ValueError(f"a {type(net).__name__} predicts no losses: train it with learning_loss.learner(base)")
    return net
