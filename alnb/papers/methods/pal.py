"""PAL: a second net learns rotations and classes from the labelled images; the images that it predicts worst are queried.

Source: Bhatnagar et al. 2020 (PAL: Pretext-based active learning), with the settings of the authors' code (shubhangb97/PAL).
"""

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
from alnb.learn import checkpoint, train
from alnb.learn.augment import AUGMENTATIONS
from alnb.learn.nets import NO_CHANGE, Net, resnet18
from alnb.learn.pretexts import rotation
from alnb.learn.pretexts.rotation import TURNS
from alnb.learn.train import Learner, Recipe
from alnb.store.checks import at_least, within
from alnb.store.shapes import Float
from alnb.store.streams import Stream

TRAINED, TUNED, CHOSEN = "pal.pt", "pal-tuned.pt", "pal-chosen.pt"  # in the query's folder until it is answered
RECIPE = Recipe(
    epochs=100, batch=64, lr=0.01, nesterov=True, schedule="step", milestones=(0.25, 0.5, 0.75), augment=AUGMENTATIONS["crop_flip"]
)


def rotation_term(log_probs: Float[Tensor, "N 4 4"]) -> Float[Tensor, " N"]:
    """Minus the sum of the probabilities of the right angle over the four views, in [-4, 0]; LARGE means badly recognised.

    log_probs: natural logarithms; axis 1 is the angle by which the view was turned, axis 2 the predicted angle.
    """
    return -log_probs.diagonal(dim1=1, dim2=2).exp().sum(1)


def divergence_term(log_probs: Float[Tensor, "N C"]) -> Float[Tensor, " N"]:
    """Minus the Kullback-Leibler divergence, in bits, of the prediction from the uniform distribution, at most 0; LARGE means unsure.

    KL(U || p) = -log C - mean(log p). It has no lower bound: a probability of exactly 0 gives -inf, but no finite logits do.
    """
    return (math.log(log_probs.shape[1]) + log_probs.mean(1)) / math.log(2)


def both_losses(net: Net, x: Tensor, y: Tensor) -> Tensor:
    """`rotation.rotation_loss` plus the cross-entropy [B] of the class of the unturned view."""
    logits = net(rotation.turned(x))
    return rotation.losses_of_logits(logits[:, :TURNS]) + functional.cross_entropy(logits[: len(x), TURNS:], y, reduction="none")


def predictions(net: Net) -> Callable[[Tensor], Tensor]:
    """The function from images [B,3,H,W] to log-probabilities [B,16 + C] for `train.predict`, of a net in evaluation mode.

    First the four angles for each of the four views, then the classes for the unturned view. The views pass one after the other, which
    needs a quarter of the memory.
    """

    def function(x: Tensor) -> Tensor:
        logits = [net(view).float() for view in rotation.turned(x).chunk(TURNS)]
        return torch.cat([*(view[:, :TURNS].log_softmax(dim=1) for view in logits), logits[0][:, TURNS:].log_softmax(dim=1)], dim=1)

    return function


@dataclass(frozen=True)
class PAL:
    """Queries the images whose rotation and class a separate scoring net predicts worst.

    The scoring net is trained on the labelled images only; the task's net gives just its normalisation. For diversity the budget is
    filled in parts of `part` images: after each part, a copy of the scoring net learns the rotations of all images chosen so far, and
    its rotation term is added to the first score, which has such a term already. The class term covers only classes that have a label.

    Differs from the authors' code: the scoring net is our ResNet-18, because torchvision's stem for ImageNet leaves one pixel of 32x32;
    and the last epoch is taken, not the best one on a validation set, which would cost labels.

    Memory: four times the scoring net's weights, 4 (16 + C) bytes per candidate, and one forward pass of `train.CHUNK` images.
    """

    net: Callable[[int], Net] = resnet18  # the scoring net, from the number of its outputs
    recipe: Recipe = RECIPE  # of its training
    rotation: float = 1.0  # weight of `rotation_term`
    divergence: float = 1.0  # weight of `divergence_term`
    diversity: float = 1.0  # weight of `rotation_term` after tuning
    part: int = 512  # images chosen before the net is tuned on them; the authors take 256 on SVHN and 128 on Caltech-101
    tuning: Recipe = field(default=replace(RECIPE, epochs=5, lr=0.001, schedule="constant"))
    augmented_scores: bool = False  # a defect of the authors' code: scores are of augmented views, and depend on the image's chunk

    def __post_init__(self) -> None:
        """Raises ValueError, which names the field, its value and what it may be."""
        at_least("PAL.part", self.part, 1)
        for name in ("rotation", "divergence", "diversity"):
            within(f"PAL.{name}", getattr(self, name), 0)
        if self.rotation == self.divergence == 0:
            raise ValueError("PAL.rotation and PAL.divergence are 0: set one above 0, or the first images would all score the same")
        for name in ("recipe", "tuning"):
            if getattr(self, name).views != 1:
                raise ValueError(f"PAL.{name} has views {getattr(self, name).views}: it must be 1, since PAL turns each image itself")
        if type(self.augmented_scores) is not bool:
            raise ValueError(f"PAL.augmented_scores is {self.augmented_scores!r}: it must be True or False")

    def __call__(self, query: Query) -> Tensor:
        """Global indices i64 [n], part by part, the largest scores of each part first.

        Killed and called again, it continues from its files in `query.folder`.

        Raises:
            ValueError: fewer than two classes have a label, images are not square, or there are fewer than `query.n` candidates.
            NonFiniteLoss, stop.TimeIsUp: as `train.fit`.
            store.Corrupted: a file in `query.folder` is damaged, or belongs to another query.
        """
        images, labelled, stream = pixels(query.pool.images), query.pool.labelled, query.stream / "pal"
        classes, labels = query.pool.labels[labelled].unique(return_inverse=True)
        _check(query, len(classes))
        net = self.build(len(classes), stream, query.net, images.device)
        learner = Learner(self.net, self.recipe, both_losses)
        train.fit(net, images, labelled, labels, learner, stream, checkpoint=_file(query, TRAINED))
        chosen = self.choose(net, query, stream)
        _delete(query, TUNED, CHOSEN, TRAINED)
        return chosen

    def build(self, classes: int, stream: Stream, like: Net | None, device: torch.device) -> Net:
        """A fresh scoring net, with logits of 4 angles and then of the classes. It normalises images as `like` does."""
        mean, std = NO_CHANGE if like is None else (like.mean.tolist(), like.std.tolist())
        return Learner(self.net, self.recipe, mean=tuple(mean), std=tuple(std)).build(TURNS + classes, stream, device)

    def choose(self, net: Net, query: Query, stream: Stream) -> Tensor:
        """Global indices i64 [n], in order of choice, by the trained scoring net, which does not change."""
        angle, label = self.terms(net, query, query.candidates, stream, 0)
        first = self.rotation * angle + self.divergence * label
        path = _file(query, CHOSEN)
        identity = "" if path is None else store.fingerprint(self, query.candidates, query.n, stream, net.state_dict())
        content = checkpoint.read(path, identity)
        chosen = query.candidates[:0] if content is None else content["chosen"]
        while len(chosen) < query.n:
            free = ~torch.isin(query.candidates, chosen)
            rows, total = query.candidates[free], first[free]
            if len(chosen):
                tuned = self.tuned(net, query, chosen, stream)
                total = total + self.diversity * self.terms(tuned, query, rows, stream, len(chosen))[0]
            chosen = torch.cat([chosen, rows[scores.top(total, min(self.part, query.n - len(chosen)))]])
            _delete(query, TUNED)  # before the write: its net saw fewer images, so it would be refused
            checkpoint.write(path, identity, {"chosen": chosen})
        return chosen

    def terms(self, net: Net, query: Query, rows: Tensor, stream: Stream, chosen: int) -> tuple[Tensor, Tensor]:
        """`rotation_term` and `divergence_term` [M] of the images at `rows` i64 [M], on the CPU, after `chosen` images were chosen.

        In double precision: if a net is nearly certain of all angles, float32 rounds the sum to 4.
        """
        images, function = pixels(query.pool.images), predictions(net)
        generator = (stream / "scoring" / chosen).generator(images.device)

        def of_augmented_views(x: Tensor) -> Tensor:
            return function(self.recipe.augment((x * 255).round().to(torch.uint8), generator)[0])  # `augment` takes uint8

        logs = train.predict(of_augmented_views if self.augmented_scores else function, images, rows).cpu().double()
        angles, classes = logs[:, : TURNS**2], logs[:, TURNS**2 :]
        return rotation_term(angles.unflatten(1, (TURNS, TURNS))), divergence_term(classes)

    def tuned(self, net: Net, query: Query, chosen: Tensor, stream: Stream) -> Net:
        """A copy of the scoring net, all of whose weights have learned the rotations of the images at `chosen` i64."""
        copied, images = copy.deepcopy(net), pixels(query.pool.images)
        unused = torch.zeros_like(chosen)  # the rotation loss takes no labels
        learner, place = Learner(self.net, self.tuning, rotation.rotation_loss), stream / "part" / len(chosen)
        train.fit(copied, images, chosen, unused, learner, place, checkpoint=_file(query, TUNED))
        return copied


def _check(query: Query, classes: int) -> None:
    """Raises: ValueError where PAL cannot choose, before anything is trained."""
    height, width = pixels(query.pool.images).shape[-2:]
    if height != width:
        raise ValueError(f"PAL: images of {height}x{width} pixels cannot be turned by 90 degrees: resize them to a square")
    if classes < 2:
        raise ValueError(
            f"PAL needs labels of two classes, but has {len(query.pool.labelled)} labels, of {classes} classes: choose the first images "
            "with another strategy, such as random"
        )
    if query.n > len(query.candidates):
        raise ValueError(f"PAL was asked for {query.n} of {len(query.candidates)} candidates: ask for fewer, or widen the candidates")


def _file(query: Query, name: str) -> Path | None:
    return None if query.folder is None else query.folder / name


def _delete(query: Query, *names: str) -> None:
    if query.folder is not None:
        for name in names:
            (query.folder / name).unlink(missing_ok=True)
