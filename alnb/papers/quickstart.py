"""The experiment of `notebooks/quickstart.ipynb`: any data set, three arms, one run for each strategy and seed.

The notebook computes whole runs, `widgets.Explorer` one cycle at a time. Both build their experiments here, so that a run has the same
manifest, the same folder and the same records in either. This module is a `factory` for `widgets.Explorer`.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from torch import Tensor

from alnb.acquire import Strategy
from alnb.acquire.query import Pool
from alnb.data import Images, ImageSet, load
from alnb.learn.augment import AUGMENTATIONS, Augment
from alnb.learn.nets import linear, resnet18, small
from alnb.learn.pretrain import PRETEXTS, Pretrained, embed, pretrain
from alnb.learn.train import Learner, Recipe, Report, predict
from alnb.loop import oracle
from alnb.loop.experiment import Experiment, Protocol
from alnb.papers import experiment as shared
from alnb.papers.experiment import Scale, at_scale, supervised
from alnb.papers.jobs import Job, run_of
from alnb.papers.methods import STRATEGIES
from alnb.store.checks import one_of

PRETEXT = "rotation"
NAME = "quickstart"  # the folder of its runs, in runs/ of the project
ARMS: Sequence[str] = ("scratch", "warm", "frozen")
"""How the net of each cycle starts: with fresh weights; with what was learned without labels; or as a linear classifier on that, frozen."""
EMBEDDINGS: Sequence[str] = ("rotation", "supervised", "pixels")
"""Features for a layout of the images: learned without labels, learned from all labels (to look back with), or the pixels."""
SMALL = 16  # pixels: the digits have 8, too few to turn over or to cut much from


@dataclass(frozen=True, kw_only=True)
class Setting(shared.Setting):
    """A data set at a scale."""

    paper: str = NAME
    train: ImageSet
    test: ImageSet
    initial: int  # labels of cycle 0
    budget: int  # labels of each later cycle
    recipe: Recipe
    pretraining: Recipe
    head: Recipe  # of the linear classifier on frozen features

    def learner(self, recipe: Recipe) -> Learner:
        """A plain learner, which normalises images by the mean and deviation of the pool's colours."""
        mean, std = self.train.images.statistics  # type: ignore[attr-defined]  # of all that `data.load` gives
        return Learner(self.net, recipe, mean=mean, std=std)


@dataclass(frozen=True)
class Start:
    """How the nets of an arm start in a replication: shared by its strategies."""

    arm: str
    images: Images  # of the pool: the images, or their features
    test: ImageSet
    learner: Learner
    pretrained: Pretrained | None = None


def setting(dataset: str, scale: str, *, initial: int = 0, budget: int = 0, cycles: int = 0, **source: Any) -> Setting:
    """The experiment on `dataset`, a name or a folder of images in class sub-folders, at `scale`. Raises: data.DataError.

    Args:
        initial: labels of cycle 0. 0: two of each class on tiny images, else as many of each class as the scale says.
        budget: labels of each later cycle. 0: three of each class on tiny images, else as `initial`.
        cycles: 0: as the scale says.
        source: root, device, download, image_size, skip_bad, as of `data.load`; an image_size of 0 is the data set's own.
    """
    make = at_scale(scale, SIZES)
    images, test = load(dataset, **{**source, "image_size": source.get("image_size") or None})
    tiny, classes = images.images.shape[1] < SMALL, len(images.classes)
    values = make(tiny, AUGMENTATIONS["shift" if tiny else "crop_flip"])
    initial = initial or (2 if tiny else values["per_class"]) * classes
    return Setting(
        dataset=images.name, scale=scale, train=images, test=test, initial=initial, budget=budget or (3 * classes if tiny else initial),
        cycles=cycles or values["cycles"], **{name: values[name] for name in ("net", "recipe", "pretraining", "head")},
    )  # fmt: skip


def _smoke(tiny: bool, augment: Augment) -> dict[str, Any]:
    """Seconds: it shows that the machinery works, and nothing else."""
    return {
        "per_class": 2, "cycles": 3, "net": partial(small, width=8), "recipe": Recipe(epochs=2, batch=32, lr=0.05, augment=augment),
        "pretraining": Recipe(epochs=1, batch=64, lr=0.05, augment=augment),
        "head": Recipe(epochs=20, batch=32, lr=0.1, precision="float32"),
    }  # fmt: skip


def _laptop(tiny: bool, augment: Augment) -> dict[str, Any]:
    """Minutes on two CPU cores."""
    return {
        "per_class": 10, "cycles": 8, "net": partial(small, width=24 if tiny else 32),
        "recipe": Recipe(epochs=20, min_updates=100, batch=32, lr=0.1, augment=augment),
        "pretraining": Recipe(epochs=15, batch=64, lr=0.05, augment=augment),
        "head": Recipe(epochs=50, min_updates=100, batch=64, lr=0.1, precision="float32"),
    }  # fmt: skip


def _paper(tiny: bool, augment: Augment) -> dict[str, Any]:
    """ResNet-18 and 200 epochs: hours, a GPU."""
    recipe = Recipe(epochs=200, min_updates=2000, batch=128, lr=0.1, schedule="step", milestones=(0.8,), augment=augment)
    return {
        "per_class": 100, "cycles": 10, "net": resnet18, "recipe": recipe,
        "pretraining": Recipe(epochs=15, batch=256, lr=0.1, schedule="constant"),
        "head": Recipe(epochs=100, min_updates=2000, batch=128, lr=0.1, precision="float32"),
    }  # fmt: skip


SIZES: dict[Scale, Callable[[bool, Augment], dict[str, Any]]] = {Scale.SMOKE: _smoke, Scale.LAPTOP: _laptop, Scale.PAPER: _paper}
SCALES: Sequence[str] = tuple(SIZES)
QUICK: dict[str, dict[str, Any]] = {  # fields of strategies that train nets of their own, at scale smoke
    "vaal": {"width": 2, "hidden": 8, "updates": 2, "batch": 8},
    "pal": {"net": partial(small, width=4), "recipe": Recipe(epochs=1), "tuning": Recipe(epochs=1)},
}


def strategy(setting: Setting, name: str) -> Strategy:
    """The strategy `name` as the setting's scale trains it. Raises: ValueError if there is no such strategy."""
    one_of("strategy", name, STRATEGIES)
    chosen: Any = STRATEGIES[name]
    return replace(chosen, **QUICK[name]) if setting.scale == Scale.SMOKE and name in QUICK else chosen


def check(setting: Setting, arm: str, strategies: Iterable[str], embedding: str) -> None:
    """Raises: ValueError if a name is unknown, or the protocol asks for more images than there are. Nothing is trained for it."""
    one_of("arm", arm, ARMS)
    for strategy in strategies:
        one_of("strategy", strategy, STRATEGIES)
    one_of("embedding", embedding, EMBEDDINGS)
    Protocol(setting.initial, setting.budget, setting.cycles).check(Pool.of(setting.train.images))


def learned(setting: Setting, seed: int = 0, *, runs: Path | str, report: Report | None = None) -> Pretrained:
    """What the rotation pretext learns from the pool without a label, once: cached below `runs`. Raises: as `pretrain.pretrain`."""
    learner = setting.learner(setting.pretraining)
    return pretrain(PRETEXTS[PRETEXT], setting.train.images, learner, seed=seed, cache=Path(runs) / "pretrained", report=report)


def start(setting: Setting, arm: str, seed: int = 0, *, runs: Path | str, report: Report | None = None) -> Start:
    """How the nets of `arm` start in the replication `seed`. Pre-training happens here, once for each.

    Raises: ValueError if there is no such arm; or as `learned`.
    """
    one_of("arm", arm, ARMS)
    train, test, base = setting.train, setting.test, setting.learner(setting.recipe)
    if arm == "scratch":
        return Start(arm, train.images, test, base)
    result = learned(setting, seed, runs=runs, report=report)
    backbone = replace(base, backbone=result.backbone)
    if arm == "warm":
        return Start(arm, train.images, test, backbone, result)
    pool, tests = (embed(backbone, images, cache=Path(runs) / "pretrained") for images in (train.images, test.images))
    head = Learner(partial(linear, width=pool.shape[0]), setting.head)
    return Start(arm, pool, replace(test, images=tests), head, result)


def features(setting: Setting, embedding: str, seed: int = 0, *, runs: Path | str, report: Report | None = None) -> Tensor:
    """Features [N,D] of the pool for a layout, on the CPU, D of pixels being 3 H W; learned once, and cached below `runs`."""
    one_of("embedding", embedding, EMBEDDINGS)
    if embedding == "rotation":
        return learned(setting, seed, runs=runs, report=report).features.cpu()
    if embedding == "supervised":
        return supervised(setting.learner(setting.recipe), setting.train, setting.test, runs=runs, report=report).features
    return pixels(setting.train.images)


def pixels(images: Images) -> Tensor:
    """Features float [N,D] that need no learning, on the CPU: the pixels themselves, in [0, 1]."""
    return predict(lambda x: x.flatten(1), images).cpu()


def jobs(setting: Setting, arms: Iterable[str], strategies: Iterable[str], seeds: Iterable[int]) -> list[Job]:
    """The runs to make: one for each arm, strategy and seed. Raises: ValueError if there is no such arm or strategy."""
    every = [_job(setting, *names) for names in product(arms, strategies, seeds)]
    for job in every:
        one_of("arm", job["arm"], ARMS)
        one_of("strategy", job["strategy"], STRATEGIES)
    return every


def _job(setting: Setting, arm: str, strategy: str, seed: int) -> dict[str, Any]:
    pretext = "" if arm == "scratch" else PRETEXT
    return {**setting.tags, "arm": arm, "pretext": pretext, "strategy": strategy, "seed": seed, "replication": seed}


def experiment(setting: Setting, start: Start, name: str, seed: int) -> Experiment:
    """What makes one run. The first labels of a seed are the same for all arms and strategies."""
    pool, asking = setting.train, strategy(setting, name)
    tags = {**_job(setting, start.arm, name, seed), "classes": len(pool.classes), "pool": len(pool)}
    protocol = Protocol(setting.initial, setting.budget, setting.cycles, seed=seed)
    answers = oracle.simulated(pool.targets)
    return Experiment(Pool.of(start.images), start.test, start.learner, asking, answers, protocol, tags=tags)


run = run_of  # by the name that the explorer calls
