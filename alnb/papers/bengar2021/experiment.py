"""Zolfaghari Bengar et al. 2021, *Reducing Label Effort: Self-Supervised meets Active Learning*: its data, arms, budgets and runs.

`setting` says what data set, scale and switches decide; `prepare` gives images, backbone and features; `experiment` makes one run.
Arm "scratch" trains a net anew in each cycle, arm "frozen" a linear classifier on the features of a self-supervised backbone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from alnb import store
from alnb.acquire import STRATEGIES, Strategy
from alnb.acquire.query import Pool
from alnb.acquire.svm import ESTIMATORS, SvmMargin, svm_accuracy
from alnb.acquire.vaal import AS_RELEASED, CLEAN, VAAL
from alnb.acquire.vaal import PAPER as VAAL_PAPER
from alnb.data import Embedded, Images, ImageSet, at_most, subset
from alnb.learn.augment import AUGMENTATIONS, Augment
from alnb.learn.nets import linear, resnet10, resnet18, small
from alnb.learn.pretrain import PRETEXTS, Monitor, Pretext, Pretrained, embed, pretrain
from alnb.learn.train import Learner, Recipe
from alnb.loop import oracle
from alnb.loop.experiment import Cycle, Experiment, NothingToRun, Protocol
from alnb.papers import experiment as shared
from alnb.papers.experiment import Scale, at_scale, runs_folder
from alnb.papers.jobs import Job, TaggedRun, begun, cached_result, progress, read_result
from alnb.report import records
from alnb.store import Stream
from alnb.store.checks import at_least, one_of

if TYPE_CHECKING:
    from pandas import DataFrame

PAPER = "bengar2021"
CYCLES = 5  # on each curve: the regimes of 0.1, 0.2, 1, 2, 10 % then tile the axis up to 50 %, where Table 1 is read; not stated
LARGEST = 0.1  # share of a pool that a cycle asks for at most: the paper's largest regime
ARMS = {  # the strategies of each, in the paper's order
    "frozen": ("random", "entropy", "kcenter", "svm_margin", "vaal"),
    "scratch": ("random", "entropy", "kcenter", "vaal"),
}


@dataclass(frozen=True)
class Dataset:
    """Training images, classes, and the percentages of the images that cycles label, as the paper says (section 4)."""

    size: int
    classes: int
    regimes: tuple[float, ...]


DATASETS = {
    "cifar10": Dataset(50_000, 10, (0.1, 0.2, 1, 2, 10)),
    "cifar100": Dataset(50_000, 100, (1, 2, 10)),
    "tiny_imagenet": Dataset(90_000, 200, (1, 2, 10)),
}

# section 4, implementation details; the learning rate is SimSiam's 0.03 for 256 images, scaled to the batch
SIMSIAM = Recipe(epochs=800, batch=512, lr=0.06, weight_decay=1e-4, augment=AUGMENTATIONS["simsiam"])
HEAD = Recipe(epochs=100, batch=256, lr=30, weight_decay=0, precision="float32")  # section 4, implementation details
# of the scratch arm the paper states only the augmentation ("paper"); 2,000 updates keep the smallest sets from being under-trained
SCRATCH = Recipe(epochs=200, min_updates=2000, batch=128, lr=0.1, weight_decay=5e-4, augment=AUGMENTATIONS["resized_crop"])
VAALS = {"clean": CLEAN, "paper": VAAL_PAPER, "as_released": AS_RELEASED}
PRESETS = {"paper": AUGMENTATIONS["resized_crop"], "strong": AUGMENTATIONS["crop_flip"]}  # augmentation of the scratch arm
SPLITS = ("official", "held_out")


@dataclass(frozen=True, kw_only=True)
class Part(shared.Part):
    """The images of a setting."""

    split: str = ""  # of Tiny ImageNet: see `split_tiny`

    def select(self, pool: ImageSet, test: ImageSet) -> tuple[ImageSet, ImageSet]:
        """Split Tiny ImageNet."""
        return split_tiny(pool, test, self.split) if self.split else (pool, test)


@dataclass(frozen=True, kw_only=True)
class Setting(shared.Setting):
    """An experiment at one scale."""

    paper: str = PAPER
    cycles: int = CYCLES
    published: Dataset
    width: int  # features of the net
    pretext: Pretext
    pretraining: Recipe
    head: Recipe
    scratch: Recipe
    vaal: VAAL
    svm: SvmMargin
    views: int  # random views of each training image that the head learns from; 0: the images as they are
    view_augment: Augment = AUGMENTATIONS["resized_crop"]
    part: Part = Part()
    regimes: tuple[float, ...] = field(default=(), metadata={"result": False})  # that a notebook draws
    watched: int = field(default=0, metadata={"result": False})  # images of each class that the kNN monitor looks at; 0: all

    def labels(self, regime: float, pool: ImageSet) -> int:
        """`budget` of a pool."""
        return self.budget(regime, len(pool), len(pool.classes))

    def budget(self, regime: float, pool: int, classes: int) -> int:
        """Images that each cycle asks for, of `pool` images: as many of each class as in the paper, but at most a tenth of the pool.

        That may be no whole number of each class (4.5 for Tiny ImageNet at 1 %): `oracle.class_uniform` then draws who gets one more.
        """
        per_class = self.published.size * regime / 100 / self.published.classes
        return min(round(per_class * classes), int(pool * LARGEST))


def setting(
    dataset: str,
    scale: str,
    *,
    preset: str = "paper",
    weight_decay: float = 1e-4,
    views: int | None = None,
    vaal: str = "clean",
    svm: str = "linear_svc",
    split: str = "official",
) -> Setting:
    """The experiment on `dataset` at `scale`.

    Args:
        preset: augmentation of the scratch arm: "paper" (random resized crops from 8 % of the area on) or "strong" (padded crops).
        weight_decay: of SimSiam: the paper's 1e-4, or 5e-4, which SimSiam's authors take on CIFAR.
        views: see `Setting`; None: as the scale says.
        vaal: as its authors' code does ("as_released"; the paper used it), as their "paper" says, or "clean": see `acquire.vaal`.
        svm: "linear_svc" (clean), or "svc", the words of the paper read literally: see `acquire.svm.ESTIMATORS`.
        split: of Tiny ImageNet, see `split_tiny`.
    Raises: ValueError if a name is not known, or `views` is negative.
    """
    for name, value, allowed in (
        ("dataset", dataset, DATASETS), ("preset", preset, PRESETS), ("vaal", vaal, VAALS), ("svm", svm, ESTIMATORS),
        ("split", split, SPLITS),
    ):  # fmt: skip
        one_of(name, value, allowed)
    if views is not None:
        at_least("views", views, 0)
    published, large = DATASETS[dataset], dataset == "tiny_imagenet"
    full = Setting(
        dataset=dataset, scale=scale, net=resnet18, published=published, width=512, pretext=PRETEXTS["simsiam"],
        pretraining=replace(SIMSIAM, weight_decay=weight_decay, augment=AUGMENTATIONS["simsiam_blur" if large else "simsiam"]),
        head=HEAD, scratch=replace(SCRATCH, augment=PRESETS[preset]), vaal=replace(VAALS[vaal], latent=64 if large else 32),
        svm=SvmMargin(estimator=svm), views=10,
        part=Part(split=split if large else ""), regimes=published.regimes,
    )  # fmt: skip
    scaled = at_scale(scale, SCALES)(full)
    return scaled if views is None else replace(scaled, views=views)


def _laptop(full: Setting) -> Setting:
    """Minutes on two CPU cores: a part of the real images, a small net, a short pre-training; labels per class as in the paper.

    Net, rates and numbers of updates were chosen for CIFAR-10, on seeds 10 to 13 and on training images that are not in the part. On images
    of 64x64 the stem has stride 4, so that the net costs as much as on 32x32; its 3x3 kernel then skips every fourth row and column.
    """
    stride, classes = 4 if full.part.split else 2, full.published.classes
    return replace(
        full, net=partial(resnet10, width=24, stride=stride), width=192, pretext=replace(full.pretext, outputs=512, draws=1),
        pretraining=replace(full.pretraining, epochs=20, batch=128, lr=0.06), head=replace(full.head, lr=0.03),
        scratch=replace(full.scratch, epochs=10, min_updates=100, batch=64),
        vaal=replace(full.vaal, width=8, hidden=64, updates=30, batch=64), views=4,
        part=replace(full.part, per_class=10_000 // classes, test_per_class=2_000 // classes), regimes=full.regimes[:1], watched=200,
    )  # fmt: skip


def _overnight(full: Setting) -> Setting:
    """Nights on two CPU cores: the paper's whole pool, budgets and cycles, with a small ResNet and 50 epochs of SimSiam."""
    return replace(
        full, net=partial(resnet10, width=32, stride=4 if full.part.split else 2), width=256,
        pretext=replace(full.pretext, outputs=512, draws=1), pretraining=replace(full.pretraining, epochs=50, batch=256),
        head=replace(full.head, lr=0.03), scratch=replace(full.scratch, epochs=40, min_updates=500, batch=64),
        vaal=replace(full.vaal, width=16, hidden=128, updates=500, batch=64), views=4, watched=200,
    )  # fmt: skip


def _smoke(full: Setting) -> Setting:
    """Seconds, on the digits: it shows that the machinery works, and nothing else."""
    shift = AUGMENTATIONS["shift"]
    return replace(
        full, dataset="digits", part=Part(), net=partial(small, width=8), width=32, pretext=replace(full.pretext, outputs=32, draws=1),
        pretraining=replace(full.pretraining, epochs=2, batch=64, augment=shift), head=replace(full.head, epochs=20, lr=3.0),
        scratch=replace(full.scratch, epochs=2, min_updates=10, batch=32, augment=shift), view_augment=shift,
        vaal=replace(full.vaal, width=2, hidden=16, updates=2, batch=16), views=2, cycles=3, regimes=full.regimes[:2], watched=20,
    )  # fmt: skip


SCALES: dict[Scale, Callable[[Setting], Setting]] = {
    Scale.SMOKE: _smoke, Scale.LAPTOP: _laptop, Scale.OVERNIGHT: _overnight, Scale.PAPER: lambda full: full,
}  # fmt: skip


def split_tiny(pool: ImageSet, test: ImageSet, split: str) -> tuple[ImageSet, ImageSet]:
    """Tiny ImageNet as 90,000 images to train on and 10,000 to test on: a tenth of each class is held out of the released 100,000.

    The paper does not say which 10,000 it tests on: the release's validation images ("official"), or that tenth ("held_out").
    """
    first, tenth = [], []
    for label in range(len(pool.classes)):
        members = (pool.targets == label).nonzero().flatten()
        stream = Stream(0) / "tiny_imagenet" / "held out" / label
        order = members[torch.randperm(len(members), generator=stream.generator())]
        first.append(order[len(order) // 10 :])
        tenth.append(order[: len(order) // 10])
    remaining, held_out = torch.cat(first).sort().values, torch.cat(tenth).sort().values
    return subset(pool, remaining), subset(pool, held_out) if split == "held_out" else test


@dataclass(frozen=True)
class PreparedData(shared.PreparedData):
    """Images, backbone and features of a setting, cached below `runs`: shared by all runs of a replication."""

    setting: Setting

    @cached_property
    def base(self) -> Learner:
        """How the backbone is trained."""
        mean, std = self.pool.images.statistics  # type: ignore[attr-defined]  # of a Resident or a Selection
        return Learner(self.setting.net, self.setting.pretraining, mean=mean, std=std)

    @cached_property
    def pretrained(self) -> Pretrained:
        """What SimSiam learned from the pool without labels; `pretraining` reads what is written beside the runs."""
        memory, held_out = (at_most(images, self.setting.watched or None) for images in self.images)
        with progress("SimSiam") as report:
            learned = partial(pretrain, self.setting.pretext, self.pool.images, self.base, seed=self.seed, cache=self.cache)
            result = learned(report=report, monitor=Monitor(memory, held_out))
        numbers = {"seconds": result.seconds, "loss": float(result.losses.mean()), "history": list(result.history)}
        cached_result(self.runs, *_summary_file(self.setting, self.seed), lambda: numbers)
        return result

    @cached_property
    def pools(self) -> Mapping[str, Images]:
        """The pool of each arm: images, or their features."""
        augment = self.setting.view_augment
        features = embed(self._frozen, self.pool.images, views=self.setting.views, augment=augment, seed=self.seed, cache=self.cache)
        return {"frozen": features, "scratch": self.pool.images}

    @cached_property
    def tests(self) -> Mapping[str, ImageSet]:
        """The test images of each arm, or their features."""
        return {"frozen": replace(self.test, images=embed(self._frozen, self.test.images, cache=self.cache)), "scratch": self.test}

    def images_of(self, job: Mapping[str, Any]) -> tuple[Images, ImageSet]:
        """Those of the job's arm."""
        return self.pools[job["arm"]], self.tests[job["arm"]]

    @cached_property
    def learners(self) -> Mapping[str, Learner]:
        """The learner of each arm."""
        return {
            "frozen": Learner(partial(linear, width=self.setting.width), self.setting.head),
            "scratch": replace(self.base, recipe=self.setting.scratch),
        }

    @property
    def _frozen(self) -> Learner:
        return replace(self.base, backbone=self.pretrained.backbone)


prepare = PreparedData


def _summary_file(setting: Setting, seed: int) -> tuple[str, Any]:
    return f"pretrained-{setting.dataset}-{setting.scale}-{seed}", (setting.digest, seed)


def pretraining(setting: Setting, seed: int, runs: Path | str) -> dict[str, Any]:
    """Numbers of a pre-training whose runs lie below `runs`: seconds, loss (mean over images), history. Raises: as `read_result`."""
    return read_result(runs, *_summary_file(setting, seed))


def jobs(
    setting: Setting,
    arms: Iterable[str],
    strategies: Iterable[str],
    regimes: Iterable[float],
    seeds: Iterable[int],
    backbones: Iterable[int] = (),
) -> list[Job]:
    """The runs to make. An arm takes those of the strategies that it has in the paper.

    `seeds` and `backbones` are those of `experiment.replicated`: seeds of whole replications, or of runs that share backbones.

    Raises:
        ValueError: an arm, strategy or regime that the paper does not have, or nothing to run.
    """
    arms, strategies, regimes, seeds = list(arms), list(strategies), list(regimes), list(seeds)
    replications = shared.replicated(seeds, backbones)
    known: Any = (("arm", arms, ARMS), ("strategy", strategies, ARMS["frozen"]), ("regime", regimes, setting.published.regimes))
    for what, values, allowed in known:
        for value in values:
            one_of(what, value, allowed)
    every = [
        {**setting.tags, "arm": arm, "strategy": strategy, "regime": float(regime), **replication}
        for regime, arm, strategy, replication in product(regimes, arms, strategies, replications)
        if strategy in ARMS[arm]
    ]
    if not every:
        chosen = f"arms {arms}, strategies {strategies}, regimes {regimes}, seeds {seeds}"
        raise NothingToRun(f"nothing to run with {chosen}: name at least one of each; svm_margin needs the arm frozen")
    return every


def strategy_of(setting: Setting, name: str) -> Strategy:
    """The strategy `name` in this setting."""
    chosen: dict[str, Strategy] = {"vaal": setting.vaal, "svm_margin": setting.svm}
    return chosen.get(name) or STRATEGIES[name]


def experiment(prepared: PreparedData, job: Job) -> Experiment:
    """What makes the run of a job."""
    prepared = prepared.of(job)
    setting, pool, arm = prepared.setting, prepared.pool, job["arm"]
    n = setting.labels(job["regime"], pool)
    return Experiment(
        Pool.of(prepared.pools[arm]), prepared.tests[arm], prepared.learners[arm], strategy_of(setting, job["strategy"]),
        oracle.simulated(pool.targets), Protocol(n, n, setting.cycles, seed=job["seed"]),
        initial=oracle.class_uniform(pool.targets, len(pool.classes)), tags=prepared.tags(job),
    )  # fmt: skip


def read(runs: Path | str, scale: str, dataset: str | None = None) -> DataFrame:
    """All records below `runs` of the settings as they are now, with default switches. Raises: ValueError as `jobs.begun`."""
    from pandas import DataFrame

    names = DATASETS if dataset is None else (dataset,)
    tagged = [run for name in names for run in begun(runs, setting=setting(name, scale).digest)]
    return records.frame(tagged) if tagged else DataFrame()


def all_records(runs: Path | str = "") -> DataFrame | None:
    """The records of every scale but smoke, below `runs` or in the project, for `advisor.advise`; None if there are none."""
    import pandas

    frames = [frame for scale in SCALES if scale.informs and len(frame := read(runs_folder(PAPER, scale, runs), scale))]
    return pandas.concat(frames, ignore_index=True) if frames else None


def svm_accuracies(finished: Iterable[TaggedRun], prepared: Mapping[str, PreparedData]) -> DataFrame:
    """Test accuracy of the SVM itself in every cycle of the runs of "svm_margin", beside that of the linear classifier.

    The paper does not say which of the two it plots. Each result is computed once, from the data `prepared` by digest of the setting, and
    lies beside the runs.

    Raises:
        ValueError: the prepared data has another backbone than a run whose result is missing.
    """
    from pandas import DataFrame

    rows = []
    for run, tags in finished:
        if tags["strategy"] == "svm_margin":
            cycles, data = [Cycle.read(record) for record in run.records()], prepared[tags["setting"]]
            asked, compute = [cycle.queried for cycle in cycles], partial(_svm_curve, data.of(tags), run, cycles)
            result = cached_result(data.runs, f"svm-{run.path.name}", asked, compute)
            assert result is not None  # it is computed if it is not there
            for cycle, accuracy in zip(cycles, result["svm"], strict=True):
                rows.append({**tags, "n_labelled": cycle.n_labelled, "svm": accuracy, "linear": cycle.metrics["accuracy"]})
    return DataFrame(rows)


def _svm_curve(prepared: PreparedData, run: store.Run, cycles: Iterable[Cycle]) -> dict[str, list[float]]:
    pool, test, svm = prepared.pools["frozen"], prepared.tests["frozen"], prepared.setting.svm
    assert isinstance(pool, Embedded) and isinstance(test.images, Embedded)
    if store.describe(pool) != (run.manifest or {})["experiment"]["pool"]["images"]:
        raise ValueError(f"{run.path} learned from other features than those in {prepared.cache}: copy the pre-training's folder there")
    labelled: list[int] = []
    curve = []
    for cycle in cycles:
        labelled += cycle.queried
        known: Tensor = torch.tensor(labelled)
        fitted = pool.features[known], prepared.pool.targets[known], test.images.features, test.targets
        curve.append(svm_accuracy(*fitted, C=svm.C, estimator=svm.estimator))
    return {"svm": curve}
