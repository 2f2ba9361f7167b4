"""Self-supervised pretexts as per-image losses, and `pretrain`: backbone, features and pretext losses, computed once and kept."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from alnb import store
from alnb.data import Images
from alnb.nets import Backbone, Net
from alnb.train import Learner, Report, fit, predict


@dataclass(frozen=True)
class Pretext:
    """A task whose labels come from the images themselves."""

    name: str
    outputs: int  # of the net's head
    loss: Callable[[Net, Tensor, Tensor], Tensor]  # as `train.Loss`; the labels are not looked at


def rotation(net: Net, x: Tensor, _: Tensor | None = None) -> Tensor:
    """Mean cross-entropy [B] of telling by which of 0, 90, 180 and 270 degrees images [B,3,H,W], square, were turned.

    The four views go through the net in one batch of 4B, so that batch normalisation sees all rotations mixed and cannot give the
    answer away. Source: Gidaris et al. 2018; Yi et al. 2022, equation 1.
    """
    views = torch.cat([torch.rot90(x, turns, dims=(2, 3)) for turns in range(4)])
    turns = torch.arange(4, device=x.device).repeat_interleave(len(x))
    return functional.cross_entropy(net(views), turns, reduction="none").view(4, -1).mean(dim=0)


PRETEXTS: dict[str, Pretext] = {"rotation": Pretext("rotation", 4, rotation)}


@dataclass(frozen=True)
class Pretrained:
    """What a pre-training leaves behind."""

    backbone: Backbone
    features: Tensor  # [N,D], without augmentation, of all images it was trained on
    losses: Tensor  # [N], the pretext's loss of each image, without augmentation
    seconds: float  # that the process took which finished it


def pretrain(
    pretext: Pretext, images: Images, learner: Learner, *, seed: int = 0, cache: Path | str, report: Report | None = None
) -> Pretrained:
    """Train `learner` on `pretext` over all `images`, or read what an earlier call with the same arguments left below `cache`.

    The folder there is named by a digest of everything that matters. Of two processes that want the same, the second waits for the
    first. Killed and called again, it continues from its last checkpoint.

    Raises:
        ValueError: images that are not square.
        store.Corrupted: a stored file is damaged; the message names it.
    """
    _, height, width = images.shape
    if height != width:
        raise ValueError(f"images of {height}x{width} pixels cannot be turned by 90 degrees: resize them to a square")
    learner = replace(learner, loss=pretext.loss)
    experiment = {"pretext": store.describe(pretext), "images": images.fingerprint, "learner": store.describe(learner), "seed": seed}
    run = store.Run.named(cache, pretext.name, experiment)
    result = run.path / "result.pt"
    with store.exclusive(run.path, wait=True):
        run.claim(experiment)
        if not result.exists():
            run.begin(experiment, images.device)
            _compute(pretext, images, learner, seed, run.path, report, store.fingerprint(experiment))
        content = store.read_tensors(result, images.device)
    if content["experiment"] != store.fingerprint(experiment):
        raise store.Corrupted(f"{result} is the result of another pre-training; {store.RECOMPUTE}")
    # named by the weights themselves: computed again on another device, they are another backbone
    backbone = Backbone(store.fingerprint(content["trunk"]), content["trunk"])
    return Pretrained(backbone, content["features"], content["losses"], content["seconds"])


def _compute(pretext: Pretext, images: Images, learner: Learner, seed: int, folder: Path, report: Report | None, experiment: str) -> None:
    start = time.monotonic()
    everything = torch.arange(len(images))
    net = learner.build(pretext.outputs, seed, pretext.name, device=images.device)
    checkpoint = folder / "checkpoint.pt"
    where = ("pretext", pretext.name)
    fit(
        net, images, everything, everything, learner.recipe, loss=learner.loss, seed=seed, where=where, checkpoint=checkpoint, report=report
    )
    content = {
        "experiment": experiment,
        "trunk": net.trunk.state_dict(),
        "features": predict(net.features, images),
        "losses": predict(lambda x: learner.loss(net, x, x), images),
        "seconds": time.monotonic() - start,
    }
    store.write_tensors(folder / "result.pt", content)
    checkpoint.unlink(missing_ok=True)
