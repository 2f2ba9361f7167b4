"""PAL: a second net learns turns and classes from the labelled images alone; images whose turns and class it tells least are asked for.

Source: Bhatnagar et al. 2020 (PAL: Pretext-based active learning), with the settings of the authors' code (shubhangb97/PAL).
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

from alnb import store
from alnb.acquire import scores
from alnb.acquire.query import Query
from alnb.data import pixels
from alnb.learn import train
from alnb.learn.augment import AUGMENTATIONS
from alnb.learn.nets import Net, resnet18
from alnb.learn.pretexts import rotation
from alnb.learn.train import Learner, Recipe
from alnb.store.shapes import Float
from alnb.store.streams import Stream

TURNS = rotation.TURNS
TRAINED, TUNED, CHOSEN = "pal.pt", "pal-tuned.pt", "pal-chosen.pt"  # in the query's folder until it is answered
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

    KL(U || p) = -log C - mean(log p). It has no lower bound: a probability of exactly 0 makes it -inf, which no finite logits do.
    """
    return (math.log(log_probs.shape[1]) + log_probs.mean(1)) / math.log(2)


# ---- the scoring net -----------------------------------------------------------------------------------------------------------


def both_losses(net: Net, x: Tensor, y: Tensor) -> Tensor:
    """`rotation.loss` plus the cross-entropy [B] of the class, of the view that was not turned."""
    logits = net(rotation.turned(x))
    return rotation.losses_of_logits(logits[:, :TURNS]) + functional.cross_entropy(logits[: len(x), TURNS:], y, reduction="none")


def predictions(net: Net) -> Callable[[Tensor], Tensor]:
    """The function of images [B,3,H,W] to log-probabilities [B,16 + C] that `train.predict` takes, of a net in evaluation mode.

    First those of the four turns for each of the four views, then those of the class for the view that was not turned. The views pass
    one after the other, which changes nothing in evaluation mode, and needs a quarter of the memory.
    """

    def function(x: Tensor) -> Tensor:
        logits = [net(view).float() for view in rotation.turned(x).chunk(TURNS)]
        return torch.cat([*(one[:, :TURNS].log_softmax(dim=1) for one in logits), logits[0][:, TURNS:].log_softmax(dim=1)], dim=1)

    return function


# ---- the strategy --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PAL:
    """Those whose turns and class a net of its own, trained on the labelled images alone, tells least; diverse, since chosen in parts.

    The budget is filled in parts of `part` images. After each, a copy of the scoring net as it was learns the turns of all that were
    chosen so far, and what it still cannot turn back counts on top of the first score, of which turns are a part already. The task's
    net is not looked at, but for how it normalises images.

    The class term is over the classes that have a label: nothing teaches the net the others.

    Differs from the authors' code: the scoring net is the project's ResNet-18 and not torchvision's, whose stem, made for ImageNet,
    leaves one pixel of 32x32; its last epoch is taken, and not the best one on a validation set, which costs labels.

    Memory: four times the scoring net's weights (the net, its copy, gradients and momentum), 4 (16 + C) bytes a candidate, and one
    forward pass of `train.CHUNK` images.
    """

    net: Callable[[int], Net] = resnet18  # the scoring net, from the number of its outputs
    recipe: Recipe = RECIPE  # of its training
    rotation: float = 1.0  # weight of `rotation_term`
    divergence: float = 1.0  # weight of `divergence_term`
    diversity: float = 1.0  # weight of `rotation_term` after tuning
    part: int = 512  # images chosen before the net is tuned on them; the authors take 256 on SVHN and 128 on Caltech-101
    tuning: Recipe = field(default=replace(RECIPE, epochs=5, lr=0.001, schedule="constant"))
    # a defect of the authors' code: candidates are scored on views by the recipe's augmentation, which depend on the chunk they are in
    augmented_scores: bool = field(default=False, metadata={"added": True})

    def __post_init__(self) -> None:
        """Raises: ValueError, which names the field, its value and what it may be."""
        if type(self.part) is not int or self.part < 1:
            raise ValueError(f"PAL.part is {self.part!r}: it must be a whole number, at least 1")
        for name in ("rotation", "divergence", "diversity"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"PAL.{name} is {getattr(self, name)}: it must not be negative, and finite")
        if self.rotation == self.divergence == 0:
            raise ValueError("PAL.rotation and PAL.divergence are 0: one must be above 0, or the first images would all score the same")
        for name in ("recipe", "tuning"):
            if getattr(self, name).views != 1:
                raise ValueError(f"PAL.{name} has views {getattr(self, name).views}: it must be 1, since PAL turns each image itself")
        if type(self.augmented_scores) is not bool:
            raise ValueError(f"PAL.augmented_scores is {self.augmented_scores!r}: it must be True or False")

    def __call__(self, query: Query) -> Tensor:
        """The `query.n` candidates of the largest scores, part by part, the largest of each part first.

        Killed and called again, it continues from what it left in `query.folder`.

        Raises:
            ValueError: fewer than two classes have a label, images are not square, or there are fewer candidates than asked for.
            train.NonFiniteLoss, pause.TimeIsUp: as `train.fit`.
            store.Corrupted: a file in `query.folder` is damaged, or belongs to another training.
        """
        _check(query)
        images, labelled = pixels(query.pool.images), query.pool.labelled
        seen, labels = query.pool.labels[labelled].unique(return_inverse=True)
        stream = query.stream / "pal"
        net = self.build(len(seen), stream, query.net, images.device)
        trained = _file(query, TRAINED)
        train.fit(net, images, labelled, labels, Learner(self.net, self.recipe, both_losses), stream, checkpoint=trained)
        chosen = self.choose(net, query, stream)
        if query.folder is not None:
            for name in (TUNED, CHOSEN, TRAINED):
                (query.folder / name).unlink(missing_ok=True)
        return chosen

    def build(self, classes: int, stream: Stream, like: Net | None, device: torch.device) -> Net:
        """A fresh scoring net: its head gives 4 logits of turns and then those of the classes; images normalised as `like` does."""
        with (stream / "init").scope():
            net = self.net(TURNS + classes)
        if like is not None:
            net.mean.copy_(like.mean)
            net.std.copy_(like.std)
        return net.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # its stub lacks this form

    def choose(self, net: Net, query: Query, stream: Stream) -> Tensor:
        """Global indices i64 [n], in order of choice, by the trained scoring net, which stays as it is."""
        turned, named = self.terms(net, query, query.candidates, stream, 0)
        first = self.rotation * turned + self.divergence * named
        identity = "" if query.folder is None else store.fingerprint(self, query.candidates, query.n, stream, net.state_dict())
        chosen = _remembered(query, identity)
        while len(chosen) < query.n:
            free = ~torch.isin(query.candidates, chosen)
            rows, total = query.candidates[free], first[free]
            if len(chosen):
                tuned = self.tuned(net, query, chosen, stream)
                total = total + self.diversity * self.terms(tuned, query, rows, stream, len(chosen))[0]
            chosen = torch.cat([chosen, rows[scores.top(total, min(self.part, query.n - len(chosen)))]])
            _remember(query, identity, chosen)
        return chosen

    def terms(self, net: Net, query: Query, rows: Tensor, stream: Stream, chosen: int) -> tuple[Tensor, Tensor]:
        """`rotation_term` and `divergence_term` [M] of the images at `rows` i64 [M], on the CPU, when so many were `chosen`.

        In double precision: a net that is nearly certain of all turns has sums that float32 rounds to 4.
        """
        images, look = pixels(query.pool.images), predictions(net)
        generator = (stream / "scoring" / chosen).generator(images.device)

        def look_at_views(x: Tensor) -> Tensor:
            return look(self.recipe.augment((x * 255).round().to(torch.uint8), generator)[0])  # it takes bytes, which these were

        found = train.predict(look_at_views if self.augmented_scores else look, images, rows).cpu().double()
        turns, classes = found[:, : TURNS**2], found[:, TURNS**2 :]
        return rotation_term(turns.unflatten(1, (TURNS, TURNS))), divergence_term(classes)

    def tuned(self, net: Net, query: Query, chosen: Tensor, stream: Stream) -> Net:
        """A copy of the scoring net that learned the turns of the images at `chosen` i64, all of its weights with them."""
        copied, images = copy.deepcopy(net), pixels(query.pool.images)
        unused = torch.zeros_like(chosen)  # turns are labels enough
        checkpoint = _file(query, TUNED)
        learner = Learner(self.net, self.tuning, rotation.loss)
        train.fit(copied, images, chosen, unused, learner, stream / "part" / len(chosen), checkpoint=checkpoint)
        return copied


# ---- what is checked and kept --------------------------------------------------------------------------------------------------


def _check(query: Query) -> None:
    """Raises: ValueError where PAL cannot choose, before anything is trained."""
    height, width = pixels(query.pool.images).shape[-2:]
    if height != width:
        raise ValueError(f"PAL: images of {height}x{width} pixels cannot be turned by 90 degrees: resize them to a square")
    labels = query.pool.labels[query.pool.labelled]
    if len(labels.unique()) < 2:
        raise ValueError(
            f"PAL learns to tell the classes of the labelled images apart, but has {len(labels)} labels, of {len(labels.unique())} of the "
            "two classes that it needs at least: choose the first images with another strategy, such as random"
        )
    if query.n > len(query.candidates):
        raise ValueError(f"PAL was asked for {query.n} of {len(query.candidates)} candidates: ask for fewer, or widen the candidates")


def _file(query: Query, name: str) -> Path | None:
    return None if query.folder is None else query.folder / name


def _remembered(query: Query, identity: str) -> Tensor:
    """What an interrupted call had chosen, or nothing.

    Raises: store.Corrupted.
    """
    path = _file(query, CHOSEN)
    if path is None or not path.exists():
        return query.candidates[:0]
    saved = store.read_tensors(path)
    if saved["identity"] != identity:
        raise store.Corrupted(f"{path} belongs to another query (other settings, candidates or scoring net); delete it to begin anew")
    chosen: Tensor = saved["chosen"]
    return chosen


def _remember(query: Query, identity: str, chosen: Tensor) -> None:
    if query.folder is not None:
        (query.folder / TUNED).unlink(missing_ok=True)  # first, since it was tuned on fewer, and would be refused
        store.write_tensors(query.folder / CHOSEN, {"identity": identity, "chosen": chosen})
