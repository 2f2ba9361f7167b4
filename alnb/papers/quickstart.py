"""The experiment of `notebooks/quickstart.ipynb`: any data set, several ways to start, one run for each strategy and seed.

The notebook executes it in batch, `widgets.Explorer` a click at a time. Both ask here, so that a run has the same manifest, the same
folder and the same records in either: this module is a `widgets.explorer.factory.Factory`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alnb import store
from alnb.acquire import STRATEGIES
from alnb.acquire.query import Pool
from alnb.data import Images, ImageSet, load
from alnb.data.official import Root
from alnb.learn import train
from alnb.learn.augment import AUGMENTATIONS, Augment
from alnb.learn.nets import Net, linear, resnet18, small
from alnb.learn.pretrain import PRETEXTS, Pretrained, embed, pretrain
from alnb.learn.train import Learner, Recipe, Report
from alnb.loop import cycles as loop
from alnb.loop import oracle
from alnb.loop.cycles import Protocol

NAME = "quickstart"  # the folder of its runs, in runs/ of the project
ARMS: Sequence[str] = ("from scratch", "rotation", "frozen rotation")
"""How the net of each cycle starts: with fresh weights; from what was learned without labels; or as a linear classifier on that, frozen."""
EMBEDDINGS: Sequence[str] = ("rotation", "supervised", "pixels")
"""What images may be laid out by: features learned without labels, features learned from all labels (for looking back), or the pixels."""
SCALES: Sequence[str] = ("smoke", "laptop", "paper")
SMALL = 16  # pixels: the digits have 8, too few to turn over or to cut much from
PER_CLASS = {"smoke": 2, "laptop": 10, "paper": 100}  # labels of each class to begin with, and in each cycle
CYCLES = {"smoke": 3, "laptop": 8, "paper": 10}  # points on each curve


@dataclass(frozen=True)
class Setting:
    """All that the data set and the scale decide."""

    train: ImageSet
    test: ImageSet
    scale: str
    initial: int  # labels to begin with
    budget: int  # labels of each later cycle
    cycles: int  # points on each curve
    net: Callable[[int], Net]
    recipe: Recipe
    pretraining: Recipe
    head: Recipe  # of the linear classifier on frozen features


@dataclass(frozen=True)
class Start:
    """How the nets of an arm start: shared by its strategies and seeds."""

    arm: str
    images: Images  # of the pool: the images, or features that stand for them
    test: ImageSet
    learner: Learner
    pretrained: Pretrained | None = None


def setting(
    dataset: str,
    scale: str,
    *,
    initial: int = 0,
    budget: int = 0,
    cycles: int = 0,
    root: Root = None,
    device: str = "cpu",
    download: bool = False,
    image_size: int = 0,
    skip_bad: bool = False,
) -> Setting:
    """The experiment on `dataset`, a name or a folder of images in class sub-folders, at `scale`.

    Args:
        initial: labels to begin with; 0: two a class on tiny images, else `PER_CLASS`. budget: labels added in each later cycle; 0: three a
            class on tiny images, else as `initial`. cycles: 0: as `CYCLES`.
        root, device, download, image_size, skip_bad: as of `data.load`; 0 for its own size.

    Raises:
        ValueError: there is no such scale.
        data.DataError: the images are not there, or damaged; the message says what to do.
    """
    _one_of("scale", scale, SCALES)
    images, test = load(dataset, root=root, device=device, download=download, image_size=image_size or None, skip_bad=skip_bad)
    tiny, classes = images.images.shape[1] < SMALL, len(images.classes)
    initial = initial or (2 if tiny else PER_CLASS[scale]) * classes
    chosen = _smoke if scale == "smoke" else _laptop if scale == "laptop" else _paper
    return Setting(
        images, test, scale, initial, budget or (3 * classes if tiny else initial), cycles or CYCLES[scale],
        **chosen(tiny, AUGMENTATIONS["shift" if tiny else "crop_flip"]),
    )  # fmt: skip


def _one_of(what: str, name: str, allowed: Collection[str]) -> None:
    if name not in allowed:
        raise ValueError(f"{what} is {name!r}: it must be one of {', '.join(allowed)}")


def _smoke(tiny: bool, augment: Augment) -> dict[str, Any]:
    """Seconds: it shows the machinery, and no result."""
    return {
        "net": partial(small, width=8), "recipe": Recipe(epochs=2, batch=32, lr=0.05, augment=augment),
        "pretraining": Recipe(epochs=1, batch=64, lr=0.05, augment=augment),
        "head": Recipe(epochs=20, batch=32, lr=0.1, precision="float32"),
    }  # fmt: skip


def _laptop(tiny: bool, augment: Augment) -> dict[str, Any]:
    """Minutes on two CPU cores."""
    return {
        "net": partial(small, width=24 if tiny else 32), "recipe": Recipe(epochs=20, min_updates=100, batch=32, lr=0.1, augment=augment),
        "pretraining": Recipe(epochs=15, batch=64, lr=0.05, augment=augment),
        "head": Recipe(epochs=50, min_updates=100, batch=64, lr=0.1, precision="float32"),
    }  # fmt: skip


def _paper(tiny: bool, augment: Augment) -> dict[str, Any]:
    """ResNet-18 and 200 epochs: hours, a GPU."""
    recipe = Recipe(epochs=200, min_updates=2000, batch=128, lr=0.1, schedule="step", milestones=(0.8,), augment=augment)
    return {
        "net": resnet18, "recipe": recipe, "pretraining": Recipe(epochs=15, batch=256, lr=0.1, schedule="constant"),
        "head": Recipe(epochs=100, min_updates=2000, batch=128, lr=0.1, precision="float32"),
    }  # fmt: skip


# ---- learning without labels ---------------------------------------------------------------------------------------------------


def learned(setting: Setting, *, runs: Path | str, report: Report | None = None) -> Pretrained:
    """What the rotation pretext learns from the pool without a label, once: kept below `runs`, in pretrained/.

    Raises:
        pretrain.Collapsed, train.NonFiniteLoss, store.Corrupted: as `pretrain.pretrain`.
    """
    base = _base(setting, setting.pretraining)
    return pretrain(PRETEXTS["rotation"], setting.train.images, base, cache=Path(runs) / "pretrained", report=report)


def check(setting: Setting, arm: str, strategies: Iterable[str], embedding: str) -> None:
    """Raises: ValueError, before anything is learned, where a name is not known or the protocol asks for more images than there are."""
    _one_of("arm", arm, ARMS)
    for strategy in strategies:
        _one_of("strategy", strategy, STRATEGIES)
    _one_of("embedding", embedding, EMBEDDINGS)
    Protocol(setting.initial, setting.budget, setting.cycles).check(Pool.of(setting.train.images))


def start(setting: Setting, arm: str, *, runs: Path | str, report: Report | None = None) -> Start:
    """How the nets of `arm` start; learned, where that is to be, once.

    Raises:
        ValueError: there is no such arm; or as `learned`.
    """
    _one_of("arm", arm, ARMS)
    train, test, base = setting.train, setting.test, _base(setting, setting.recipe)
    if arm == "from scratch":
        return Start(arm, train.images, test, base)
    found = learned(setting, runs=runs, report=report)
    if arm == "rotation":
        return Start(arm, train.images, test, replace(base, backbone=found.backbone), found)
    frozen, cache = replace(base, backbone=found.backbone), Path(runs) / "pretrained"
    pool, tests = (embed(frozen, images, cache=cache) for images in (train.images, test.images))
    head = Learner(partial(linear, width=pool.shape[0]), setting.head)
    return Start(arm, pool, replace(test, images=tests), head, found)


def features(setting: Setting, embedding: str, *, runs: Path | str, report: Report | None = None) -> Tensor:
    """Features [N,D] of the pool, on the CPU, to lay it out by; learned once, and kept below `runs`. Memory: O(N D); D of pixels is 3 H W.

    Raises:
        ValueError: there is no such embedding, or as `learned`.
    """
    _one_of("embedding", embedding, EMBEDDINGS)
    if embedding == "rotation":
        return learned(setting, runs=runs, report=report).features.cpu()
    if embedding == "supervised":
        return _supervised(setting, runs, report)
    return pixels(setting.train.images)


def pixels(images: Images) -> Tensor:
    """Features float [N,D] that need no learning, on the CPU: the pixels themselves, in [0, 1]."""
    return train.predict(lambda x: x.flatten(1), images).cpu()


def _supervised(setting: Setting, runs: Path | str, report: Report | None) -> Tensor:
    """Features of a net that was given all labels."""
    learner, pool = _base(setting, setting.recipe), setting.train
    experiment = store.describe({"train": pool, "learner": learner, "what": "features from all labels"})

    def compute(folder: Path) -> dict[str, Any]:
        net = learner.build(len(pool.classes), 0, "supervised", device=pool.images.device)
        place: dict[str, Any] = {"where": ("supervised",), "checkpoint": folder / "checkpoint.pt", "report": report}
        train.fit(net, pool.images, torch.arange(len(pool)), pool.targets, learner.recipe, **place)
        return {"features": train.predict(net.features, pool.images).cpu()}

    found: Tensor = store.kept(Path(runs) / "supervised", pool.name, experiment, pool.images.device, compute, ("checkpoint.pt",))[
        "features"
    ]
    return found.cpu()


def _base(setting: Setting, recipe: Recipe) -> Learner:
    mean, std = setting.train.images.statistics  # type: ignore[attr-defined]  # of all that `data.load` gives
    return Learner(setting.net, recipe, mean=mean, std=std)


# ---- running -------------------------------------------------------------------------------------------------------------------


def arguments(setting: Setting, start: Start, strategy: str, seed: int) -> dict[str, Any]:
    """What `loop.cycles` takes for one run. The first labels of a seed are the same for all arms and strategies.

    Raises:
        ValueError: there is no such strategy.
    """
    _one_of("strategy", strategy, STRATEGIES)
    pool = setting.train
    facts: Mapping[str, Any] = {"dataset": pool.name, "classes": len(pool.classes), "pool": len(pool), "scale": setting.scale}
    return {
        "pool": Pool.of(start.images), "test": start.test, "learner": start.learner, "strategy": STRATEGIES[strategy],
        "oracle": oracle.simulated(pool.targets), "protocol": Protocol(setting.initial, setting.budget, setting.cycles, seed=seed),
        "columns": {**facts, "arm": start.arm, "strategy": strategy, "seed": seed},
    }  # fmt: skip


def run(arguments: Mapping[str, Any], runs: Path | str) -> store.Run:
    """The folder below `runs` of what `arguments` gave: named by all that decides its records."""
    columns = arguments["columns"]
    slug = f"{columns['arm'].replace(' ', '_')}-{columns['strategy']}-{columns['seed']}"
    return store.Run.named(runs, slug, loop.describe(**arguments))
