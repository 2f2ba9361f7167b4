"""What the experiments of all papers share: scales, settings, prepared data, and the net that knows all labels."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from functools import cached_property, lru_cache
from itertools import product
from pathlib import Path
from typing import Any, Self, TypeVar

import torch
from torch import Tensor

from alnb import store
from alnb.data import Images, ImageSet, at_most, load
from alnb.data.official import Root, root_folder
from alnb.learn import train
from alnb.learn.nets import Net
from alnb.learn.train import Learner, Report
from alnb.store import Stream
from alnb.store.checks import at_least, one_of

T = TypeVar("T")
NESTED = 1000  # runs of a nested replication, at most


class Scale(StrEnum):
    """How much of an experiment is run, from the least faithful to the most."""

    SMOKE = "smoke"  # seconds, on scikit-learn's digits: it shows that the machinery works, and decides nothing
    LAPTOP = "laptop"  # minutes on two CPU cores: a part of the images, a small net
    OVERNIGHT = "overnight"  # a night on two cores: the paper's pool and budgets, a small ResNet
    PAPER = "paper"  # as published: a GPU

    @property
    def informs(self) -> bool:
        """Whether its runs say anything about a claim: at least in which direction an effect goes."""
        return self is not Scale.SMOKE

    @property
    def decides(self) -> bool:
        """Whether its runs have the paper's whole pool, budgets and cycles: they decide its claims, and git keeps their records."""
        return self in (Scale.OVERNIGHT, Scale.PAPER)


def at_scale(scale: str, table: Mapping[Scale, T]) -> T:
    """The entry of an experiment's table for `scale`. Raises: ValueError if it has none; the message lists those it has."""
    one_of("scale", scale, table)
    return table[Scale(scale)]


def replicated(seeds: Iterable[int], shared: Iterable[int] = ()) -> list[dict[str, int]]:
    """The tags `seed` and `replication` of the runs of each curve. A replication is all that is random: pretext, first labels, nets, order.

    Args:
        seeds: each is a replication, with a pretext (or backbone) of its own.
        shared: pretexts (or backbones) that several runs share, to save time: the design is then *nested*. In each of these replications,
            `seeds` count the runs; replication 2 and seed 1 make the run with seed 2001. Intervals are over replications alone.
    Raises:
        ValueError: a number is below 0, or, in a nested design, a seed is `NESTED` or more.
    """
    seeds, shared = list(seeds), list(shared)
    for name, values in (("seeds", seeds), ("pretexts or backbones", shared)):
        for value in values:
            at_least(name, value, 0)
    if shared and max(seeds, default=0) >= NESTED:
        raise ValueError(f"seeds has {max(seeds)}: in a nested design seeds count the runs of a replication, from 0 to {NESTED - 1}")
    if not shared:
        return [{"seed": seed, "replication": seed} for seed in seeds]
    return [{"seed": NESTED * replication + seed, "replication": replication} for seed, replication in product(seeds, shared)]


def runs_folder(paper: str, scale: str, runs: Path | str = "") -> Path:
    """The folder of a paper's runs: below `runs`, by default in runs/ of the project, or in runs/paper if git keeps their records."""
    project = store.workspace() / "runs" / ("paper" if Scale(scale).decides else "")
    return Path(runs or project) / paper


@dataclass(frozen=True, kw_only=True)
class Part:
    """The part of a data set that is used."""

    per_class: int | None = None  # training images of each class; None: all
    test_per_class: int | None = None  # test images of each class; None: all
    image_size: int | None = None  # pixels; None: the data set's own size

    def load(self, dataset: str, *, root: Root = None, device: str = "cpu", download: bool = False) -> tuple[ImageSet, ImageSet]:
        """The pool and the test images. Raises: data.DataError if they are missing or damaged; the message says what to do."""
        pool, test = self.select(*_load(dataset, root_folder(root), device, download, self.image_size))
        return at_most(pool, self.per_class), at_most(test, self.test_per_class)

    def select(self, pool: ImageSet, test: ImageSet) -> tuple[ImageSet, ImageSet]:
        """What a paper does with the whole data set first."""
        return pool, test


@lru_cache(maxsize=2)  # the settings of a notebook share their images
def _load(dataset: str, root: Path, device: str, download: bool, image_size: int | None) -> tuple[ImageSet, ImageSet]:
    return load(dataset, root=root, device=device, download=download, image_size=image_size)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What data set, scale and switches decide. Each paper adds fields. A field with metadata "result" False changes no result."""

    paper: str
    dataset: str  # that is really used: at scale smoke the papers use the digits
    scale: str
    cycles: int
    net: Callable[[int], Net]

    @property
    def digest(self) -> str:
        """Ten digits that name this setting and no other."""
        return store.fingerprint(self)[:10]

    @property
    def tags(self) -> dict[str, Any]:
        """The tags that all runs of this setting have."""
        return {"paper": self.paper, "dataset": self.dataset, "scale": str(self.scale), "setting": self.digest}


@dataclass(frozen=True)
class PreparedData:
    """Images, and what is learned from them without labels. Each part is read or learned when it is first used, and then kept."""

    setting: Any  # a `Setting` of the paper, with a field `part`
    runs: Path | str
    root: Root = None
    device: str = "cpu"
    download: bool = False
    seed: int = 0  # of what is learned without labels
    origin: Self | None = field(default=None, repr=False, compare=False)  # of a replication: the data whose images it shares
    replicas: dict[int, Self] = field(default_factory=dict, init=False, repr=False, compare=False)

    def of(self, job: Mapping[str, Any]) -> Self:
        """The data of a job's replication: the same images, with a pretext or backbone of its own."""
        seed = job["replication"]
        return self if seed == self.seed else self.replicas.setdefault(seed, replace(self, seed=seed, origin=self))

    @cached_property
    def images(self) -> tuple[ImageSet, ImageSet]:
        """The pool and the test images. Raises: as `Part.load`."""
        if self.origin is not None:
            return self.origin.images
        loaded: tuple[ImageSet, ImageSet] = self.setting.part.load(
            self.setting.dataset, root=self.root, device=self.device, download=self.download
        )
        return loaded

    @property
    def pool(self) -> ImageSet:
        """The images to choose from, with their targets."""
        return self.images[0]

    @property
    def test(self) -> ImageSet:
        """The images to test on."""
        return self.images[1]

    @property
    def cache(self) -> Path:
        """Where pre-trainings are kept."""
        return Path(self.runs) / "pretrained"

    def images_of(self, job: Mapping[str, Any]) -> tuple[Images, ImageSet]:
        """The pool and the test images of a job's run."""
        return self.pool.images, self.test

    def tags(self, job: Mapping[str, Any]) -> dict[str, Any]:
        """The tags of a job's run: those of the job, and the sizes of the data set."""
        return {**job, "classes": len(self.pool.classes), "pool": len(self.pool)}


@dataclass(frozen=True)
class Supervised:
    """A net trained on all labels of the pool, to look back with."""

    features: Tensor  # [N,D] of the pool
    log_probs: Tensor  # [N,C] of the pool
    test_losses: Tensor  # f64 [T], cross-entropy of the test images in nats
    accuracy: float  # on the test images
    seconds: float


def supervised(
    learner: Learner, pool: ImageSet, test: ImageSet, *, seed: int = 0, runs: Path | str, report: Report | None = None
) -> Supervised:
    """Train on all labels, once: cached below `runs`, in supervised/. After a kill the training continues. Raises: as `train.fit`."""
    described = store.describe({"train": pool, "test": test, "learner": learner, "seed": seed})

    def compute(folder: Path) -> dict[str, Any]:
        start, stream = time.monotonic(), Stream(seed) / "supervised"
        net = learner.build(len(pool.classes), stream, pool.images.device)
        everything, hook = torch.arange(len(pool)), train.TrainingHook(report)
        train.fit(net, pool.images, everything, pool.targets, learner, stream, checkpoint=folder / "checkpoint.pt", hook=hook)
        # in double precision: a softmax in float32 gives losses of exactly 0 for easy images, and these would tie
        logs = train.predict(lambda x: net(x).double().log_softmax(dim=1), test.images).cpu()
        return {
            "features": train.predict(net.features, pool.images).cpu(),
            "log_probs": train.predict(train.log_probs(net), pool.images).cpu(),
            "test_losses": -logs.gather(1, test.targets.cpu()[:, None])[:, 0],
            "accuracy": float((logs.argmax(dim=1) == test.targets.cpu()).double().mean()),
            "seconds": time.monotonic() - start,
        }

    result = store.cached(Path(runs) / "supervised", pool.name, described, pool.images.device, compute, ("checkpoint.pt",))
    values: dict[str, Any] = {field.name: result[field.name] for field in fields(Supervised)}
    values |= {name: value.cpu() for name, value in values.items() if isinstance(value, Tensor)}
    return Supervised(**values)
