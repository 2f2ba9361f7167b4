"""Self-supervised pretexts as per-image losses, and `pretrain`: backbone, features and pretext losses, computed once and kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from alnb import store
from alnb.data import Embedded, Images, ImageSet
from alnb.learn.augment import AUGMENTATIONS, Augment
from alnb.learn.nets import Backbone, Net
from alnb.learn.pretexts import colorization, jigsaw, rotation, simsiam
from alnb.learn.train import CHUNK, Learner, Report, TrainingHook, chunk_of, fit, predict
from alnb.store.streams import Stream

COLLAPSED = 0.1  # a spread below this is an alarm; healthy runs stay near 1 (Chen and He 2021, section 4.1)

LEFTOVERS = ("checkpoint.pt", "history.json")  # of a pre-training, once it is done


class Collapsed(Exception):
    """The net gives nearly the same output for every image: what it learns is worth nothing."""


@dataclass(frozen=True)
class Pretext:
    """A task whose labels come from the images themselves."""

    name: str
    outputs: int  # of the net's head
    loss: Callable[[Net, Tensor, Tensor], Tensor]  # as `train.Loss`; the labels are not looked at
    head: Callable[[int, int], nn.Module] = nn.Linear  # from the width of the trunk and the number of outputs
    views: int = 1  # random views of each image that the loss wants at once
    draws: int = 0  # an image's loss is the mean over so many draws of views; 0: the image as it is, once
    spread: Callable[[Net, Tensor], float] | None = None  # of images [B,3,H,W]: near 1 when healthy, 0 when collapsed


PRETEXTS: dict[str, Pretext] = {
    "rotation": Pretext("rotation", rotation.TURNS, rotation.loss),
    "simsiam": Pretext("simsiam", 2048, simsiam.loss, simsiam.Head, views=2, draws=8, spread=simsiam.spread),
    "colorization": Pretext("colorization", 2, colorization.regression, colorization.Head),
    "colorization_ab": Pretext("colorization_ab", colorization.BINS, colorization.quantised, colorization.Head),
    "jigsaw": Pretext("jigsaw", len(jigsaw.ORDERS), jigsaw.loss),
    "jigsaw_gap": Pretext("jigsaw_gap", len(jigsaw.ORDERS), jigsaw.with_gap),
}


@dataclass(frozen=True)
class Monitor:
    """What is looked at during a pre-training: kNN accuracy on held-out images. Diagnostic only: it looks at labels, the net does not."""

    memory: ImageSet
    held_out: ImageSet
    neighbours: int = 200
    temperature: float = 0.1

    def __call__(self, net: Net) -> float:
        """Accuracy in [0, 1] of a vote of the nearest `neighbours`, by cosine, weighted by exp(cosine / `temperature`).

        Source: Wu et al. 2018, section 3.4; the values are those of the SimSiam code bases.
        """
        memory, held_out = (functional.normalize(predict(net.features, s.images).float(), dim=1) for s in (self.memory, self.held_out))
        known, truth = (s.targets.to(memory.device) for s in (self.memory, self.held_out))
        right = 0
        for rows, answers in zip(held_out.split(CHUNK), truth.split(CHUNK), strict=True):
            cosine, nearest = (rows @ memory.T).topk(min(self.neighbours, len(memory)))
            votes = torch.zeros(len(rows), len(self.memory.classes), device=rows.device)
            votes.scatter_add_(1, known[nearest], (cosine / self.temperature).exp())
            right += int((votes.argmax(dim=1) == answers).sum())
        return right / len(held_out)


@dataclass(frozen=True)
class Pretrained:
    """What a pre-training leaves behind."""

    backbone: Backbone
    features: Tensor  # [N,D], without augmentation, of all images it was trained on
    losses: Tensor  # [N], the pretext's loss of each image
    seconds: float  # that the process took which finished it
    head: Mapping[str, Tensor]  # weights of the pretext's head
    history: tuple[dict[str, float], ...] = ()  # at about forty updates: `update`, `epoch`, and `spread` and `knn` where measured


def build(learner: Learner, pretext: Pretext, seed: int, device: torch.device | str = "cpu") -> Net:
    """A fresh net with the head of `pretext`."""
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
) -> Pretrained:
    """Train `learner` on `pretext` over all `images`, or read what an earlier call with the same arguments left below `cache`.

    The folder there is named by a digest of everything that matters. Of two processes that want the same, the second waits for the
    first. Killed and called again, it continues from its last checkpoint. `monitor` changes nothing in the result but its `history`,
    and is not asked again where the result is there already.

    Raises:
        ValueError: the pretext cannot take such images, which is told before a folder is claimed; or its losses are worth nothing,
            see `check_losses`.
        Collapsed: all images get nearly the same output; the message says when, and what to try.
        store.Corrupted: a stored file is damaged; the message names it.
    """
    learner = replace(learner, loss=pretext.loss, recipe=replace(learner.recipe, views=pretext.views))
    experiment = {"pretext": store.describe(pretext), "images": images.fingerprint, "learner": store.describe(learner), "seed": seed}
    _try(pretext, learner, images, seed)

    def compute(folder: Path) -> dict[str, Any]:
        return _compute(pretext, images, learner, seed, folder, report, monitor)

    content = store.kept(cache, pretext.name, experiment, images.device, compute, LEFTOVERS)
    check_losses(content["losses"], f"the pretext {pretext.name}")
    # named by the weights themselves: computed again on another device, they are another backbone
    backbone = Backbone(store.fingerprint(content["trunk"]), content["trunk"])
    return Pretrained(backbone, content["features"], content["losses"], content["seconds"], content["head"], tuple(content["history"]))


def losses_of(pretext: Pretext, pretrained: Pretrained, learner: Learner, images: Images, *, seed: int = 0) -> Tensor:
    """The pretext's losses [M,N] of any images, such as held-out ones, by draw; M is 1 where the pretext draws nothing.

    Args:
        learner, seed: as `pretrain` was given them.
    Raises:
    """
    net = build(replace(learner, backbone=pretrained.backbone), pretext, seed, images.device)
    net.head.load_state_dict(dict(pretrained.head))
    return draw_losses(pretext, net, images, learner.recipe.augment, seed)


def check_losses(losses: Tensor, what: str) -> None:
    """Refuse losses [N] that cannot order images.

    Args:
        what: whose they are, for the message.
    Raises:
        ValueError: one is not finite, and the first such image is named; or all of several are equal.
    """
    bad = (~losses.isfinite()).nonzero().flatten()
    if len(bad):
        raise ValueError(
            f"{len(bad)} of {len(losses)} losses of {what} are not finite, the first that of image {int(bad[0])} "
            f"({float(losses[bad[0]])}): look at that image, and train again with a lower learning rate"
        )
    if len(losses) > 1 and bool((losses == losses[0]).all()):
        raise ValueError(f"all {len(losses)} losses of {what} are {float(losses[0])}: they order nothing; train it longer, or take another")


def embed(
    learner: Learner,
    images: Images,
    *,
    views: int = 0,
    augment: Augment = AUGMENTATIONS["resized_crop"],
    seed: int = 0,
    cache: Path | str,
) -> Embedded:
    """`images` by the features of `learner`'s backbone, frozen, or what an earlier call with the same arguments left below `cache`.

    Args:
        views: random views of each image, by `augment`, that are embedded as well, for training; 0: none.
    Memory: O((1 + views) N D).
    Raises:
        ValueError: the learner has no backbone.
        store.Corrupted: a stored file is damaged; the message names it.
    """
    if learner.backbone is None:
        raise ValueError("there is no backbone to embed images with: give the learner one, Learner(…, backbone=pretrain(…).backbone)")
    named = {"net": learner.net, "mean": learner.mean, "std": learner.std, "backbone": learner.backbone.fingerprint}
    drawn = {"views": views, "augment": augment, "seed": seed} if views else {}
    experiment = store.describe({"images": images.fingerprint, **named, **drawn})

    def compute(folder: Path) -> dict[str, Any]:
        net = learner.build(1, Stream(0), images.device).eval()
        sources = [_Viewed(images, augment, Stream(seed) / "embed" / view) for view in range(views)]
        stacked = torch.stack([predict(net.features, source) for source in sources]) if views else None
        return {"features": predict(net.features, images), "views": stacked}

    content = store.kept(cache, "embedded", experiment, images.device, compute)
    return Embedded(images, content["features"], content["views"])


# ---- computing ----------------------------------------------------------------------------------------------------------------


def _compute(
    pretext: Pretext, images: Images, learner: Learner, seed: int, folder: Path, report: Report | None, monitor: Monitor | None
) -> dict[str, Any]:
    start = time.monotonic()
    everything = torch.arange(len(images))
    net = build(learner, pretext, seed, images.device)
    looks = _History(pretext, images, monitor, folder, learner.recipe.updates(len(images)), learner.recipe.epochs)
    stream, hook = Stream(seed) / "pretext" / pretext.name, looks.hook(report)
    fit(net, images, everything, everything, learner, stream, checkpoint=folder / "checkpoint.pt", hook=hook)
    return {
        "trunk": net.trunk.state_dict(),
        "head": net.head.state_dict(),
        "features": predict(net.features, images),
        "losses": image_losses(pretext, net, images, learner.recipe.augment, seed),
        "seconds": time.monotonic() - start,
        "history": looks.history,
    }


@dataclass
class _History:
    """What is measured some forty times during a pre-training; kept in a file, so that it survives a kill."""

    pretext: Pretext
    images: Images
    monitor: Monitor | None
    folder: Path
    updates: int
    epochs: float
    times: int = 40  # of 800 epochs, every twentieth
    history: list[dict[str, float]] = field(default_factory=list)

    def hook(self, report: Report | None) -> TrainingHook:
        """The hook that measures; without a monitor and a spread it only reports."""
        if self.monitor is None and self.pretext.spread is None:
            return TrainingHook(report)
        path = self.folder / "history.json"
        self.history = store.read_json(path)["history"] if path.exists() else []
        return TrainingHook(report, self.look, max(1, self.updates // self.times))

    def look(self, net: Net, step: int) -> None:
        """Measure after `step` updates, and store it. Raises: Collapsed."""
        entry: dict[str, float] = {"update": step, "epoch": round(step / self.updates * self.epochs, 2)}
        if self.monitor is not None:
            entry["knn"] = self.monitor(net)
        if self.pretext.spread is not None:
            some = self.images.batch(torch.arange(min(chunk_of(self.images), len(self.images)))).float() / 255
            entry["spread"] = self.pretext.spread(net, some)
        self.history = [*(earlier for earlier in self.history if earlier["update"] < step), entry]
        store.write_json(self.folder / "history.json", {"history": self.history})
        if entry.get("spread", 1.0) < COLLAPSED:
            raise Collapsed(
                f"{self.pretext.name} collapsed by update {step} of {self.updates}: the outputs of {len(some)} images are nearly the same "
                f"(spread {entry['spread']:.3f}, healthy near 1); lower the learning rate, raise the batch, and see that no gradient flows "
                f"through the projections. What was measured lies in {self.folder / 'history.json'}"
            )


@dataclass(frozen=True)
class _Viewed:
    """A random view of each image, as a source: float [B,3,H,W]; a function of the place and of where the batch begins."""

    images: Images
    augment: Augment
    stream: Stream

    def __len__(self) -> int:
        return len(self.images)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.images.shape

    @property
    def device(self) -> torch.device:
        return self.images.device

    @property
    def fingerprint(self) -> str:
        return store.fingerprint(self.images.fingerprint, self.augment, self.stream)

    def batch(self, indices: Tensor) -> Tensor:
        generator = (self.stream / int(indices[0])).generator(self.device)
        return self.augment(self.images.batch(indices), generator)[0]


def image_losses(pretext: Pretext, net: Net, images: Images, augment: Augment, seed: int) -> Tensor:
    """The pretext's loss [N] of each image, in evaluation mode: as it is, or the mean over `pretext.draws` draws of views by `augment`."""
    return draw_losses(pretext, net, images, augment, seed).mean(dim=0)


def draw_losses(pretext: Pretext, net: Net, images: Images, augment: Augment, seed: int) -> Tensor:
    """The losses [M,N] that `image_losses` takes the mean of, by draw."""
    net.eval()
    if not pretext.draws:
        return predict(lambda x: pretext.loss(net, x, x), images)[None]
    found = torch.zeros(pretext.draws, len(images), device=images.device)
    for draw in range(pretext.draws):
        sources = [_Viewed(images, augment, Stream(seed) / "losses" / draw / view) for view in range(pretext.views)]
        for some in torch.arange(len(images)).split(chunk_of(images)):
            x = torch.cat([source.batch(some) for source in sources])
            with torch.no_grad():
                found[draw, some] = pretext.loss(net, x, some)
    return found


def _try(pretext: Pretext, learner: Learner, images: Images, seed: int) -> None:
    """The pretext on one image, before a folder is claimed: what it cannot take, it says now."""
    if isinstance(images, Embedded):
        raise ValueError("a pretext learns from images, not from features: give it the images themselves (alnb.data.pixels)")
    x = images.batch(torch.zeros(1, dtype=torch.int64)).float() / 255
    with torch.no_grad():
        pretext.loss(build(learner, pretext, seed, images.device).eval(), x.repeat(pretext.views, 1, 1, 1), x)
