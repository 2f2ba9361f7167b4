"""PAL: a second net learns rotations and classes from the labelled images alone; what it cannot turn back or is too sure of is asked for.

Source: Bhatnagar et al. 2020 (PAL: Pretext-based active learning), section 3, with the settings of the authors' code (shubhangb97/PAL).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from alnb import rng, train
from alnb.acquire import scores
from alnb.augment import AUGMENTATIONS
from alnb.data import Images, pixels
from alnb.nets import Net, resnet18
from alnb.pool import Query
from alnb.shapes import Float
from alnb.train import Recipe

TURNS = 4
RECIPE = Recipe(
    epochs=100, batch=64, lr=0.01, nesterov=True, schedule="step", milestones=(0.25, 0.5, 0.75), augment=AUGMENTATIONS["crop_flip"]
)


# ---- the score -----------------------------------------------------------------------------------------------------------------


def rotation_term(log_probs: Float[Tensor, "N 4 4"]) -> Float[Tensor, " N"]:
    """Minus the sum of the probabilities of the right turn over the four views, in [-4, 0]; LARGE means that it was not recognised.

    log_probs: natural logarithms; view r of an image, on axis 1, was turned r times; axis 2 is what was predicted.
    """
    return -log_probs.diagonal(dim1=1, dim2=2).exp().sum(1)


def divergence_term(log_probs: Float[Tensor, "N C"]) -> Float[Tensor, " N"]:
    """Minus the Kullback-Leibler divergence, in bits, of the prediction from the uniform distribution, at most 0; LARGE means unsure.

    KL(U || p) = -log C - mean(log p). Where a probability is 0 it is taken as the smallest normal number, so that the score stays finite.
    """
    least = math.log(torch.finfo(log_probs.dtype).tiny)
    return (math.log(log_probs.shape[1]) + log_probs.clamp(min=least).mean(1)) / math.log(2)


# ---- the strategy --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PAL:
    """Those whose turns and class a net of its own, trained on the labelled images alone, recognises least; diverse by sub-batches.

    The budget is filled in parts of `part` images. After each, a copy of the scoring net learns the turns of all that were chosen so
    far, and what it still cannot turn back counts on top of the first score.

    Differs from the authors' code: the scoring net is the project's ResNet-18 and not torchvision's, whose stem leaves one pixel of
    32x32; its last epoch is taken, not the best on a validation set; candidates are scored without augmentation. The class term is
    over the classes that have a label.

    Memory: three times the scoring net's weights, and one forward pass of 4 `train.CHUNK` views.
    """

    net: Callable[[int], Net] = resnet18  # the scoring net
    recipe: Recipe = RECIPE  # of its training
    rotation: float = 1.0  # weight of `rotation_term`
    divergence: float = 1.0  # weight of `divergence_term`
    diversity: float = 1.0  # weight of the rotation term after fine-tuning
    part: int = 512  # images chosen before the net is tuned on them
    tuning: Recipe = field(default=replace(RECIPE, epochs=5, lr=0.001, schedule="constant"))

    def __post_init__(self) -> None:
        """Raises: ValueError, which names the field, its value and what it may be."""
        if type(self.part) is not int or self.part < 1:
            raise ValueError(f"PAL.part is {self.part!r}: it must be a whole number, at least 1")
        for name in ("rotation", "divergence", "diversity"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"PAL.{name} is {getattr(self, name)}: it must not be negative, and finite")

    def __call__(self, query: Query) -> Tensor:
        """Global indices i64 [n], in order of choice.

        Raises:
            ValueError: nothing is labelled, or one class only; images that are not square.
            train.NonFiniteLoss, pause.TimeIsUp, store.Corrupted: as `train.fit`.
        """
        images, labelled = pixels(query.pool.images), query.pool.labelled
        _check(images, query)
        seen, labels = query.pool.labels[labelled].unique(return_inverse=True)
        seed = int(torch.randint(2**rng.BITS - 1, (), generator=query.rng))
        net = self.build(len(seen), seed, query.net, images.device)
        options = {"loss": both_losses, "seed": seed, "where": ("pal",)}
        train.fit(net, images, labelled, labels, self.recipe, **options, checkpoint=_file(query, "pal.pt"))  # type: ignore[arg-type]
        chosen = self.choose(net, images, query.candidates, query.n, seed, query)
        for left in ("pal.pt", "pal-tuned.pt"):
            if (path := _file(query, left)) is not None:
                path.unlink(missing_ok=True)
        return chosen

    def build(self, classes: int, seed: int, like: Net | None, device: torch.device) -> Net:
        """A fresh scoring net: its head gives 4 logits of turns and then those of the classes; images normalised as `like` does."""
        with rng.scope(seed, "pal", "init"):
            net = self.net(TURNS + classes)
        if like is not None:
            net.mean.copy_(like.mean)
            net.std.copy_(like.std)
        return net.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # its stub lacks this form

    def choose(self, net: Net, images: Images, candidates: Tensor, n: int, seed: int, query: Query) -> Tensor:
        """The `n` candidates, part by part."""
        first = self.first(net, images, candidates)
        total, chosen = first, candidates[:0]
        while len(chosen) < n:
            free = ~torch.isin(candidates, chosen)
            best = scores.top(total[free], min(self.part, n - len(chosen)))
            chosen = torch.cat([chosen, candidates[free][best]])
            if len(chosen) < n:
                tuned = self.tuned(net, images, chosen, seed, query)
                total = self.diversity * rotation_term(train.predict(turns(tuned), images, candidates).cpu()) + first
        return chosen

    def first(self, net: Net, images: Images, candidates: Tensor) -> Tensor:
        """The score [M] before anything was chosen."""
        net.eval()
        turned = rotation_term(train.predict(turns(net), images, candidates).cpu())
        named = train.predict(lambda x: net(x)[:, TURNS:].float().log_softmax(dim=1), images, candidates).cpu()
        return self.rotation * turned + self.divergence * divergence_term(named)

    def tuned(self, net: Net, images: Images, chosen: Tensor, seed: int, query: Query) -> Net:
        """A copy of the scoring net that learned the turns of `chosen`."""
        copied, checkpoint = copy.deepcopy(net), _file(query, "pal-tuned.pt")
        if checkpoint is not None:
            checkpoint.unlink(missing_ok=True)  # of another part, or of a process that was killed: a matter of seconds
        options = {"loss": turn_loss, "seed": seed, "where": ("pal", "part", len(chosen)), "checkpoint": checkpoint}
        train.fit(copied, images, chosen, torch.zeros(len(chosen), dtype=torch.int64), self.tuning, **options)  # type: ignore[arg-type]
        return copied


def turn_loss(net: Net, x: Tensor, _: Tensor | None = None) -> Tensor:
    """Mean cross-entropy [B] of the four turns of images [B,3,H,W]; all 4B views are one batch, so that it has all turns mixed."""
    logits = net(_views(x))[:, :TURNS]
    return functional.cross_entropy(logits, _labels(x), reduction="none").view(TURNS, -1).mean(dim=0)


def both_losses(net: Net, x: Tensor, y: Tensor) -> Tensor:
    """`turn_loss` plus the cross-entropy [B] of the class, of the view that was not turned."""
    logits = net(_views(x))
    turned = functional.cross_entropy(logits[:, :TURNS], _labels(x), reduction="none").view(TURNS, -1).mean(dim=0)
    return turned + functional.cross_entropy(logits[: len(x), TURNS:], y, reduction="none")


def turns(net: Net) -> Callable[[Tensor], Tensor]:
    """From images to log-probabilities [B,4,4] of the turns of their four views, as `train.predict` takes it."""
    return lambda x: net(_views(x))[:, :TURNS].float().log_softmax(dim=1).view(TURNS, len(x), TURNS).transpose(0, 1)


def _views(x: Tensor) -> Tensor:
    return torch.cat([torch.rot90(x, k, dims=(2, 3)) for k in range(TURNS)])


def _labels(x: Tensor) -> Tensor:
    return torch.arange(TURNS, device=x.device).repeat_interleave(len(x))


def _file(query: Query, name: str) -> Path | None:
    return None if query.folder is None else query.folder / name


def _check(images: Images, query: Query) -> None:
    height, width = images.shape[-2:]
    if height != width:
        raise ValueError(f"PAL turns images by 90 degrees, which {height}x{width} pixels do not allow: resize them to a square")
    known = query.pool.labels[query.pool.labelled].unique()
    if len(known) < 2:
        raise ValueError(
            f"PAL's scoring net learns from the labelled images, of {len(known)} classes: at least two are needed; choose the first images "
            "with another strategy, such as random"
        )
