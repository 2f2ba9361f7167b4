"""Pre-training on a pretext: backbone, features and pretext losses, computed once and cached."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from alnb import store
from alnb.data import Embedded, Images, ImageSet
from alnb.learn.augment import AUGMENTATIONS, Augment
from alnb.learn.checkpoint import BestNet
from alnb.learn.nets import Backbone, Net
from alnb.learn.pretexts import PRETEXTS as PRETEXTS
from alnb.learn.pretexts import Pretext as Pretext
from alnb.learn.train import CHUNK, Learner, Recipe, Report, TrainingHook, chunk_of, fit, predict
from alnb.store.checks import one_of
from alnb.store.streams import Stream

COLLAPSED = 0.1  # a spread below this is a collapse; healthy runs stay near 1 (Chen and He 2021, section 4.1)
MEASUREMENTS = 40  # during a pre-training: of 800 epochs, every twentieth
TEMPERATURE = 0.1  # of the vote of nearest neighbours; this and their number are those of the SimSiam code bases
CHECKPOINTS = ("last", "best")
TEMPORARY = ("checkpoint.pt", "best.pt", "history.json")  # files of a pre-training that are deleted once its result is stored


class Collapsed(Exception):
    """The net gives nearly the same output for every image: its features are useless."""


@dataclass(frozen=True)
class Monitor:
    """Accuracy of nearest neighbours on held-out images, measured during a pre-training. The net never sees their labels."""

    memory: ImageSet
    held_out: ImageSet
    neighbours: int = 200

    def __call__(self, net: Net) -> float:
        """Accuracy in [0, 1] of a vote of the nearest `neighbours`, weighted by exp(cosine / 0.1). Source: Wu et al. 2018, section 3.4."""
        memory, held_out = (functional.normalize(predict(net.features, s.images).float(), dim=1) for s in (self.memory, self.held_out))
        memory_labels, labels = (s.targets.to(memory.device) for s in (self.memory, self.held_out))
        correct = 0
        for rows, answers in zip(held_out.split(CHUNK), labels.split(CHUNK), strict=True):
            cosine, nearest = (rows @ memory.T).topk(min(self.neighbours, len(memory)))
            votes = torch.zeros(len(rows), len(self.memory.classes), device=rows.device)
            votes.scatter_add_(1, memory_labels[nearest], (cosine / TEMPERATURE).exp())
            correct += int((votes.argmax(dim=1) == answers).sum())
        return correct / len(held_out)


@dataclass(frozen=True)
class Pretrained:
    """The result of a pre-training."""

    backbone: Backbone
    features: Tensor  # [N,D], without augmentation, of all images it was trained on
    losses: Tensor  # [N], the pretext's loss of each image
    seconds: float  # of the process that finished the pre-training
    head: Mapping[str, Tensor]  # weights of the pretext's head
    history: tuple[dict[str, float], ...] = ()  # about `MEASUREMENTS` entries: `update`, `epoch`, and `spread` and `knn` if measured


def build(learner: Learner, pretext: Pretext, seed: int, device: torch.device | str = "cpu") -> Net:
    """A net with fresh weights and the head of `pretext`."""
    stream = Stream(seed) / "pretext" / pretext.name
    net = learner.build(pretext.outputs, stream, device)
    if pretext.head is not nn.Linear:
        with (stream / "init" / "head").scope():
            net.head = pretext.head(net.width, pretext.outputs).to(device)
    return net


def pretrain(
    pretext: Pretext,
    images: Images,
    learner: Learner,
    *,
    seed: int = 0,
    cache: Path | str,
    report: Report | None = None,
    monitor: Monitor | None = None,
    checkpoint: str = "last",
) -> Pretrained:
    """Train `learner` on `pretext` over all `images`, or read the result of an earlier call with the same arguments, see `store.cached`.

    Killed and called again, the pre-training continues from its last checkpoint. `monitor` changes only the `history`, and is not called
    if the result is already there.

    checkpoint: the net that is kept: the "last", or that of the "best" epoch on the images themselves, as Yi et al. 2022 (section 4.2) say.
    The best has the highest accuracy, see `Pretext.correct`; where the pretext has none, the lowest mean loss.

    Raises:
        ValueError: the checkpoint is not known, the pretext cannot take these images (no folder is made then), or its losses cannot order
            them.
        Collapsed: all images get nearly the same output; the message says when, and what to try.
        store.Corrupted: a stored file is damaged; the message names it.
    """
    learner = replace(learner, loss=pretext.loss, recipe=replace(learner.recipe, views=pretext.views))
    one_of("checkpoint", checkpoint, CHECKPOINTS)
    experiment = {"pretext": store.describe(pretext), "images": images.fingerprint, "learner": store.describe(learner), "seed": seed}
    experiment |= {"best": store.describe(pretext.correct)} if checkpoint == "best" else {}  # so "last" keeps its earlier name
    _check_images(pretext, learner, images, seed)

    def compute(folder: Path) -> dict[str, Any]:
        start, everything, net = time.monotonic(), torch.arange(len(images)), build(learner, pretext, seed, images.device)
        history = _History(pretext, images, monitor, folder / "history.json", learner.recipe)
        stream, hook = Stream(seed) / "pretext" / pretext.name, history.hook(report)
        best = BestNet(folder / "best.pt", store.fingerprint(experiment), partial(_score, pretext, images, learner, seed))
        looks = ((best.look, learner.recipe.epoch(len(images))),) if checkpoint == "best" else ()
        hook = replace(hook, looks=hook.looks + looks)
        fit(net, images, everything, everything, learner, stream, checkpoint=folder / "checkpoint.pt", hook=hook)
        if looks:
            best.restore(net, images.device)
        return {
            "trunk": net.trunk.state_dict(),
            "head": net.head.state_dict(),
            "features": predict(net.features, images),
            "losses": draw_losses(pretext, net, images, learner.recipe.augment, seed).mean(dim=0),
            "seconds": time.monotonic() - start,
            "history": history.entries,
        }

    content = store.cached(cache, pretext.name, experiment, images.device, compute, TEMPORARY)
    check_losses(content["losses"], f"the pretext {pretext.name}")
    backbone = Backbone(store.fingerprint(content["trunk"]), content["trunk"])  # named by its weights: another device gives others
    return Pretrained(backbone, content["features"], content["losses"], content["seconds"], content["head"], tuple(content["history"]))


def losses_of(pretext: Pretext, pretrained: Pretrained, learner: Learner, images: Images, *, seed: int = 0) -> Tensor:
    """`draw_losses` of any images, such as held-out ones. `learner` and `seed` are those of `pretrain`."""
    net = build(replace(learner, backbone=pretrained.backbone), pretext, seed, images.device)
    net.head.load_state_dict(dict(pretrained.head))
    return draw_losses(pretext, net, images, learner.recipe.augment, seed)


def check_losses(losses: Tensor, name: str) -> None:
    """Raises: ValueError if losses [N] of `name` cannot order images: one is not finite, or all of several are equal."""
    bad = (~losses.isfinite()).nonzero().flatten()
    if len(bad):
        raise ValueError(
            f"{len(bad)} of {len(losses)} losses of {name} are not finite, the first that of image {int(bad[0])} "
            f"({float(losses[bad[0]])}): look at that image, and train again with a lower learning rate"
        )
    if len(losses) > 1 and bool((losses == losses[0]).all()):
        raise ValueError(
            f"all {len(losses)} losses of {name} are {float(losses[0])}, so they cannot order images: train longer, or take another pretext"
        )


def embed(
    learner: Learner, images: Images, *, views: int = 0, augment: Augment = AUGMENTATIONS["resized_crop"], seed: int = 0, cache: Path | str
) -> Embedded:
    """`images` as features of `learner`'s frozen backbone, or the result of an earlier call with the same arguments below `cache`.

    Args:
        views: random views of each image, by `augment`, that are embedded too, for training; 0: none.
    Memory: O((1 + views) N D).
    Raises:
        ValueError: the learner has no backbone.
        store.Corrupted: a stored file is damaged; the message names it.
    """
    if learner.backbone is None:
        raise ValueError("there is no backbone to embed images with: give the learner one, Learner(…, backbone=pretrain(…).backbone)")
    net_of = {"net": learner.net, "mean": learner.mean, "std": learner.std, "backbone": learner.backbone.fingerprint}
    drawn = {"views": views, "augment": augment, "seed": seed} if views else {}
    experiment = store.describe({"images": images.fingerprint, **net_of, **drawn})

    def compute(folder: Path) -> dict[str, Any]:
        net, stream = learner.build(1, Stream(0), images.device).eval(), Stream(seed) / "embed"
        embedded = [_predict_views(net.features, images, augment, [stream / view]) for view in range(views)]
        return {"features": predict(net.features, images), "views": torch.stack(embedded) if views else None}

    content = store.cached(cache, "embedded", experiment, images.device, compute)
    return Embedded(images, content["features"], content["views"])


@dataclass
class _History:
    """What is measured during a pre-training. It is stored in a file, so that it survives a kill."""

    pretext: Pretext
    images: Images
    monitor: Monitor | None
    path: Path
    recipe: Recipe
    entries: list[dict[str, float]] = field(default_factory=list)

    def hook(self, report: Report | None) -> TrainingHook:
        """The hook that reports, and measures if there is something to measure."""
        if self.monitor is None and self.pretext.spread is None:
            return TrainingHook(report)
        self.entries = store.read_json(self.path)["history"] if self.path.exists() else []
        return TrainingHook(report, ((self.measure, max(1, self.recipe.updates(len(self.images)) // MEASUREMENTS)),))

    def measure(self, net: Net, step: int) -> None:
        """Measure after `step` updates, and store the entry. Raises: Collapsed."""
        updates = self.recipe.updates(len(self.images))
        entry: dict[str, float] = {"update": step, "epoch": round(step / updates * self.recipe.epochs, 2)}
        n = min(chunk_of(self.images), len(self.images))
        if self.monitor is not None:
            entry["knn"] = self.monitor(net)
        if self.pretext.spread is not None:
            entry["spread"] = self.pretext.spread(net, self.images.batch(torch.arange(n)).float() / 255)
        self.entries = [*(earlier for earlier in self.entries if earlier["update"] < step), entry]
        store.write_json(self.path, {"history": self.entries})
        if entry.get("spread", 1.0) < COLLAPSED:
            raise Collapsed(
                f"{self.pretext.name} collapsed by update {step} of {updates}: the outputs of {n} images are nearly the same "
                f"(spread {entry['spread']:.3f}, healthy near 1); lower the learning rate, raise the batch, and check that no gradient "
                f"flows through the projections. The measurements are in {self.path}"
            )


def _score(pretext: Pretext, images: Images, learner: Learner, seed: int, net: Net) -> float:
    """How good `net` is at the pretext, on the images themselves: LARGE is good. Losses of views are of the first draw alone."""
    if (correct := pretext.correct) is not None:
        return float(predict(lambda x: correct(net, x), images).double().mean())
    return -float(draw_losses(replace(pretext, draws=min(1, pretext.draws)), net, images, learner.recipe.augment, seed).double().mean())


def draw_losses(pretext: Pretext, net: Net, images: Images, augment: Augment, seed: int) -> Tensor:
    """The pretext's losses [M,N], in evaluation mode: of M draws of views by `augment`, or, with M = 1, of the images themselves."""
    net.eval()
    if not pretext.draws:
        return predict(lambda x: pretext.loss(net, x, x), images)[None]
    streams = [[Stream(seed) / "losses" / draw / view for view in range(pretext.views)] for draw in range(pretext.draws)]
    return torch.stack([_predict_views(lambda x: pretext.loss(net, x, x), images, augment, views) for views in streams])


@torch.no_grad()
def _predict_views(function: Callable[[Tensor], Tensor], images: Images, augment: Augment, streams: Sequence[Stream]) -> Tensor:
    """`function` [N,...] of random views of all images, one view from each stream: all first views of a chunk, then all second ones."""
    parts = []
    for chunk in torch.arange(len(images)).split(chunk_of(images)):
        generators = [(stream / int(chunk[0])).generator(images.device) for stream in streams]
        x = images.batch(chunk)
        parts.append(function(torch.cat([augment(x, generator)[0] for generator in generators])))
    return torch.cat(parts)


def _check_images(pretext: Pretext, learner: Learner, images: Images, seed: int) -> None:
    """Try the pretext on one image, so that it refuses images it cannot take before a folder is made."""
    if isinstance(images, Embedded):
        raise ValueError("a pretext learns from images, not from features: give it the images themselves (alnb.data.pixels)")
    x = images.batch(torch.zeros(1, dtype=torch.int64)).float() / 255
    with torch.no_grad():
        pretext.loss(build(learner, pretext, seed, images.device).eval(), x.repeat(pretext.views, 1, 1, 1), x)
