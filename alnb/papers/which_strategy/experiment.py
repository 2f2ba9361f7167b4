"""The experiment of `notebooks/which_strategy.ipynb`: all strategies on frozen self-supervised features, at 1 to 100 labels a class.

A replication has a backbone, first labels, heads and an order of its own. The net of a cycle is a linear classifier of fixed features.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from alnb.acquire import STRATEGIES, Strategy, random
from alnb.acquire.query import Pool, Query
from alnb.data import Embedded, Images, ImageSet, Resident
from alnb.learn.augment import AUGMENTATIONS
from alnb.learn.nets import Net, linear, resnet10, resnet18, small
from alnb.learn.pretrain import PRETEXTS, Pretext, embed, pretrain
from alnb.learn.train import Learner, Recipe
from alnb.loop import oracle
from alnb.loop.experiment import Experiment, NothingToRun, Protocol
from alnb.papers import experiment as shared
from alnb.papers.experiment import Part, Scale, at_scale, replicated
from alnb.papers.jobs import Job, progress
from alnb.store import Stream
from alnb.store.checks import one_of

NAME = "which_strategy"
CYCLES = 5  # of each regime: the first budget, and four more of the same size
REGIMES = (1, 5, 20)  # labels a class that each cycle asks for: 1 to 5, 5 to 25, 20 to 100 in all
LEFT_OUT = {  # the strategies that this experiment has no place for, and why
    "vaal": "it trains a generator of images in each cycle, and the frozen arm has features",
}
LARGEST = {"batch_bald": 1}  # the largest regime of a strategy whose queries of more images take minutes
VIEWS = {"fashion_mnist": "crop"}  # augmentation for rotation; all its shoes point to the left, so no flips
# `python -m benchmarks.features` (seed 100): accuracy of nearest neighbours; of the head with 5 and 20 random labels a class; CPU seconds.
# digits: rotation 97 %; 82, 90 %; 14 s. SimSiam 80 %; 68, 78 %; 25 s. Pixels 98 %; 83, 90 %.
# With 10,000 images, fashion_mnist: rotation 81 %; 54, 67 %; 93 s. Pixels 83 %; 51, 69 %. cifar10: rotation 41 %; 20, 29 %; 110 s. Pixels
# 41 %; 16, 23 %. SimSiam was not measured on these two, and nothing on cifar100 and caltech101.
PRETEXT = {"digits": "rotation", "fashion_mnist": "rotation", "cifar10": "rotation", "cifar100": "simsiam", "caltech101": "simsiam"}


@dataclass(frozen=True, kw_only=True)
class Setting(shared.Setting):
    """A data set at a scale."""

    paper: str = NAME
    cycles: int = CYCLES
    width: int  # features of the net
    pretext: Pretext
    pretraining: Recipe
    head: Recipe  # of the linear classifier
    part: Part
    regimes: tuple[int, ...] = REGIMES


def setting(dataset: str, scale: str, *, pretext: str = "") -> Setting:
    """The experiment on `dataset` at `scale`. Raises: ValueError if a name is not known.

    pretext: what the features are learned by; empty: what `PRETEXT` says, which is what `benchmarks.features` found best.
    """
    one_of("dataset", dataset, PRETEXT)
    one_of("pretext", pretext or PRETEXT[dataset], ("rotation", "simsiam"))
    return at_scale(scale, SCALES)(dataset, PRETEXTS[pretext or PRETEXT[dataset]])


HEAD = Recipe(epochs=20, min_updates=100, batch=64, lr=0.1, weight_decay=1e-3, precision="float32")


def _smoke(dataset: str, pretext: Pretext) -> Setting:
    """Seconds, on the digits: it shows that the machinery works, and nothing else."""
    recipe = Recipe(epochs=1, batch=64, lr=0.05, augment=AUGMENTATIONS["shift"])
    return Setting(
        dataset="digits", scale="smoke", net=partial(small, width=8), width=32, pretext=PRETEXTS["rotation"], pretraining=recipe,
        head=replace(HEAD, min_updates=20), part=Part(per_class=30), cycles=2, regimes=REGIMES[:2],
    )  # fmt: skip


def _laptop(dataset: str, pretext: Pretext) -> Setting:
    """Minutes on two CPU cores: 7,000 images, a small net on half of their pixels a side."""
    tiny, views = dataset == "digits", AUGMENTATIONS["shift" if dataset == "digits" else VIEWS.get(dataset, "crop_flip")]
    net, width, recipe = partial(small, width=32, stride=1 if tiny else 2), 128, Recipe(epochs=30 if tiny else 10, batch=64, lr=0.05)
    if pretext.name == "simsiam":
        views, pretext = views if tiny else AUGMENTATIONS["simsiam"], replace(pretext, outputs=256, draws=1)
        net, recipe = partial(resnet10, width=16, stride=1 if tiny else 2), replace(recipe, epochs=40 if tiny else 15, lr=0.03)
    return Setting(
        dataset=dataset, scale="laptop", net=net, width=width, pretext=pretext, pretraining=replace(recipe, augment=views), head=HEAD,
        part=Part() if tiny else Part(per_class=700, test_per_class=200),
    )  # fmt: skip


def _overnight(dataset: str, pretext: Pretext) -> Setting:
    """A night on two CPU cores for each data set: all images, and SimSiam with a small ResNet for colour images. Caltech-101 ends early."""
    chosen = _laptop(dataset, pretext)
    if pretext.name == "simsiam":
        net, recipe = partial(resnet10, width=32, stride=2), replace(chosen.pretraining, epochs=30, batch=256, lr=0.06)
        chosen = replace(chosen, net=net, width=256, pretext=replace(pretext, outputs=512, draws=1), pretraining=recipe)
    caltech = dataset == "caltech101"  # its pool has 31 images of the smallest classes
    part, regimes = Part(image_size=64 if caltech else None), REGIMES[:2] if caltech else REGIMES
    return replace(chosen, scale="overnight", part=part, regimes=regimes)


def _paper(dataset: str, pretext: Pretext) -> Setting:
    """A GPU: all images, ResNet-18, and 800 epochs of SimSiam (of rotation 200)."""
    chosen, simsiam = _overnight(dataset, pretext), pretext.name == "simsiam"
    recipe = replace(chosen.pretraining, epochs=800 if simsiam else 200, batch=512 if simsiam else 128, lr=0.06 if simsiam else 0.1)
    return replace(chosen, scale="paper", net=resnet18, width=512, pretext=pretext, pretraining=recipe)


SCALES: dict[Scale, Callable[[str, Pretext], Setting]] = {
    Scale.SMOKE: _smoke, Scale.LAPTOP: _laptop, Scale.OVERNIGHT: _overnight, Scale.PAPER: _paper,
}  # fmt: skip


@dataclass(frozen=True)
class PreparedData(shared.PreparedData):
    """Images, backbone and features of a replication, cached below `runs`."""

    setting: Setting

    @cached_property
    def embedded(self) -> tuple[Embedded, ImageSet]:
        """The pool as features, and the test images as features. The backbone is learned first, without labels."""
        mean, std = self.pool.images.statistics  # type: ignore[attr-defined]  # of a Resident or a Selection
        base = Learner(self.setting.net, self.setting.pretraining, mean=mean, std=std)
        with progress(f"{self.setting.pretext.name}, replication {self.seed}") as report:
            learned = pretrain(self.setting.pretext, self.pool.images, base, seed=self.seed, cache=self.cache, report=report)
        net = replace(base, backbone=learned.backbone)
        pool, test = (embed(net, images.images, cache=self.cache) for images in self.images)
        centre = pool.features.mean(dim=0)
        return unit(pool, centre), replace(self.test, images=unit(test, centre))

    def images_of(self, job: Mapping[str, Any]) -> tuple[Images, ImageSet]:
        """The features."""
        return self.embedded


prepare = PreparedData


def head_net(setting: Setting) -> Callable[[int], Net]:
    """The net of each cycle: a linear classifier of features."""
    return partial(linear, width=setting.width)


def unit(images: Embedded, centre: Tensor) -> Embedded:
    """The features minus `centre` [D], as vectors of length sqrt(D): what TypiClust, ProbCover and MaxHerding measure distances in."""
    return replace(images, features=functional.normalize(images.features - centre, dim=1) * len(centre) ** 0.5)


@cache
def first(name: str) -> str:
    """Who chooses the first labels: the "strategy" itself if it can choose before there is a net, else "random". The rule of all runs.

    It can if it answers a query without a net on a few points, and does not warn that it only draws at random then.
    """
    pool = Pool.of(featured(torch.randn(40, 4, generator=Stream(0).generator())))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            STRATEGIES[name](Query(pool, None, pool.unlabelled, 5, Stream(0)))
    except (ValueError, RuntimeWarning):  # of `Query.trained`, and of strategies that fall back on random choice
        return "random"
    return "strategy"


def featured(features: Tensor) -> Embedded:
    """Features [N,D] without images behind them."""
    return Embedded(Resident(torch.zeros(len(features), 3, 1, 1, dtype=torch.uint8)), features)


def starting(job: Job) -> Strategy:
    """What chooses the first labels of a job: its strategy or random choice, as its tag `first` says."""
    return STRATEGIES[job["strategy"]] if job["first"] == "strategy" else random


def strategies() -> list[str]:
    """The names of all strategies that take part, random first."""
    return [name for name in STRATEGIES if name not in LEFT_OUT]


def jobs(setting: Setting, names: Iterable[str], regimes: Iterable[int], seeds: Iterable[int]) -> list[Job]:
    """The runs to make; those of a replication one after the other, since they share its features. No names: all strategies.

    Raises: ValueError for a strategy that does not take part, a regime that the scale or the data set does not have, or nothing to run.
    """
    names, regimes = list(names) or strategies(), [regime for regime in regimes if regime in setting.regimes]
    for name in names:
        one_of("strategy", name, strategies())
    every = [
        {**setting.tags, "arm": "frozen", "strategy": name, "regime": regime, "first": first(name), **replication}
        for replication, regime, name in product(replicated(seeds), regimes, names)
        if regime <= LARGEST.get(name, regime)
    ]
    if not every:
        raise NothingToRun(f"nothing to run: name a seed and one of the regimes {setting.regimes} of {setting.dataset}")
    return every


def experiment(prepared: PreparedData, job: Job) -> Experiment:
    """What makes the run of a job."""
    data = prepared.of(job)
    (pool, test), n = data.embedded, job["regime"] * len(data.pool.classes)
    return Experiment(
        Pool.of(pool), test, Learner(head_net(data.setting), data.setting.head), STRATEGIES[job["strategy"]],
        oracle.simulated(data.pool.targets), Protocol(n, n, data.setting.cycles, seed=job["seed"]), initial=starting(job),
        tags=data.tags(job),
    )  # fmt: skip
