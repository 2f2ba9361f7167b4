"""Yi et al. 2022, *PT4AL: Using Self-Supervised Pretext Tasks for Active Learning*: its data, protocols, budgets and runs.

`setting` says what data set, scale and protocol decide; `prepare` gives images and pretext losses; `experiment` makes one run.
`strategies` says how each strategy chooses. All share the first labels (except PT4AL, whose point they are), nets and seeds.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alnb import store
from alnb.acquire import vaal as vaal_presets
from alnb.acquire.query import Pool
from alnb.acquire.vaal import VAAL
from alnb.data import ImageSet, imbalanced, proportional
from alnb.data.official import Root
from alnb.learn.augment import AUGMENTATIONS
from alnb.learn.nets import Net, resnet10, resnet18, resnet18_large, small
from alnb.learn.pretexts.rotation import rotation_loss_in_four
from alnb.learn.pretrain import PRETEXTS, Pretext, Pretrained, pretrain
from alnb.learn.train import Learner, Recipe, fit
from alnb.loop import oracle
from alnb.loop.experiment import Experiment, NothingToRun, Protocol
from alnb.papers import experiment as shared
from alnb.papers.experiment import Scale, at_scale
from alnb.papers.jobs import Job, cached_result, progress, read_result
from alnb.papers.methods import learning_loss, pt4al
from alnb.papers.methods import ta_vaal as ta_vaal_presets
from alnb.papers.methods.gcn import Training
from alnb.papers.methods.pal import PAL
from alnb.papers.methods.ta_vaal import CIFAR10, TAVAAL
from alnb.papers.yi2022.data import IMBALANCED_CIFAR10, bgr
from alnb.papers.yi2022.strategies import STRATEGIES, SUBSET
from alnb.papers.yi2022.switches import CLEAN, PRESETS, VALUES, Switches, name_of
from alnb.store import Stream
from alnb.store.checks import at_least, one_of

PAPER = "yi2022"
PAPER_PRETEXTS = ("rotation", "colorization", "jigsaw", "simsiam")  # of Figure 6b
DATASETS = ("cifar10", "cifar10_imbalanced", "caltech101")

# The text gives Caltech-101 the budgets of CIFAR-10, and says nothing of the number of iterations. Eight would cut its 8,046 images into
# batches of 1,005, of which a cycle asks for 1,000: nothing to choose, and 8,000 of 8,046 labelled in the end. Four leave half of each.
CALTECH_CYCLES = 4
# 200 epochs, a tenth of the rate from epoch 160 on: the authors' code; the paper says "multi-stage" and refers to a supplement
MAIN = Recipe(epochs=200, batch=128, lr=0.1, weight_decay=5e-4, schedule="step", milestones=(0.8,))
# 15 epochs without augmentation at one rate: the authors' code since 2023; the paper does not state them
PRETEXT = Recipe(epochs=15, batch=256, lr=0.1, weight_decay=5e-4, schedule="constant")
# the paper states nothing of SimSiam; 200 epochs are our choice, the rest is SimSiam's own for CIFAR
SIMSIAM = Recipe(epochs=200, batch=512, lr=0.06, weight_decay=5e-4, augment=AUGMENTATIONS["simsiam"])
# VAAL and TA-VAAL by the switch `baselines`; CoreGCN's space is in `strategies`
BASELINES: dict[str, tuple[VAAL, TAVAAL]] = {
    "clean": (vaal_presets.CLEAN, TAVAAL()),
    "paper": (vaal_presets.PAPER, ta_vaal_presets.PAPER),
    "as_released": (vaal_presets.AS_RELEASED, ta_vaal_presets.AS_RELEASED),
}


@dataclass(frozen=True, kw_only=True)
class Part(shared.Part):
    """The images of a setting."""

    pool: int | None = None  # images of the imbalanced pool; None: all
    colour: str = "rgb"  # order of the channels

    def select(self, pool: ImageSet, test: ImageSet) -> tuple[ImageSet, ImageSet]:
        """Cut the pool to the shares of the imbalanced CIFAR-10."""
        return pool if self.pool is None else imbalanced(pool, proportional(IMBALANCED_CIFAR10, self.pool)), test

    def load(self, dataset: str, *, root: Root = None, device: str = "cpu", download: bool = False) -> tuple[ImageSet, ImageSet]:
        """As `experiment.Part.load`, in the order of colours."""
        pool, test = super().load(dataset, root=root, device=device, download=download)
        return (bgr(pool), bgr(test)) if self.colour == "bgr" else (pool, test)


@dataclass(frozen=True, kw_only=True)
class Setting(shared.Setting):
    """An experiment at one scale under one protocol."""

    paper: str = PAPER
    part: Part = Part()
    switches: Switches
    main: Recipe
    pretext: Recipe  # of all pretexts except SimSiam
    simsiam: Recipe
    pretexts: Mapping[str, Pretext]
    initial: int  # labels of cycle 0
    budget: int  # labels of each later cycle
    batches: int  # into which PT4AL cuts the pool
    subset: int  # random candidates, from which the strategies of `SUBSET` choose
    vaal: VAAL
    ta_vaal: TAVAAL
    pal: PAL
    gcn: Training
    supervised_epochs: float = field(default=200, metadata={"result": False})  # of the net that knows all labels: Figures 2 and 4
    iterations: tuple[int, ...] = field(default=(1, 5, 10), metadata={"result": False})  # whose queries Figure 4 shows, from 1 on

    @property
    def preset(self) -> str:
        """The name of the protocol: see `name_of`."""
        return name_of(self.switches)

    @property
    def tags(self) -> dict[str, Any]:
        """The tags that all runs of this setting have: also the protocol and its switches."""
        return {**super().tags, "preset": self.preset, **asdict(self.switches), "arm": "scratch"}

    def recipe(self, pretext: str) -> Recipe:
        """How a pretext is learned."""
        return self.simsiam if pretext == "simsiam" else self.pretext


def setting(dataset: str, scale: str, *, preset: str = "clean", cycles: int | None = None, **switches: Any) -> Setting:
    """The experiment on `dataset` at `scale` under a protocol: a preset, and the switches that differ from it.

    `cycles`: None for as many as in the paper. Raises: ValueError if a name, a switch or a value is not known.
    """
    one_of("dataset", dataset, DATASETS)
    one_of("preset", preset, PRESETS)
    for name in switches:
        one_of("switch", name, VALUES)
    chosen, caltech = replace(PRESETS[preset], **switches), dataset == "caltech101"
    vaal, ta_vaal = BASELINES[chosen.baselines]
    rotation = {"rotation": replace(PRETEXTS["rotation"], loss=rotation_loss_in_four)} if chosen.rotation == "four_batches" else {}
    full = Setting(
        dataset=dataset, scale=scale, net=resnet18_large if caltech else resnet18, switches=chosen,
        part=Part(image_size=224 if caltech else None, colour=chosen.colour),
        main=replace(MAIN, augment=AUGMENTATIONS[chosen.augment]), pretext=PRETEXT, simsiam=SIMSIAM, pretexts=PRETEXTS | rotation,
        initial=1000, budget=1000, cycles=CALTECH_CYCLES if caltech else 10, batches=CALTECH_CYCLES if caltech else 10, subset=10_000,
        vaal=replace(vaal, epoch="scored"), ta_vaal=ta_vaal, pal=PAL(part=128 if caltech else 512), gcn=Training(),
    )  # fmt: skip
    scaled = at_scale(scale, SCALES)(full)
    if chosen.first_batch >= scaled.batches:
        raise ValueError(f"first_batch is {chosen.first_batch}, but on {dataset} the pool has {scaled.batches} batches, numbered from 0")
    if cycles is None:
        return scaled
    at_least("cycles", cycles, 1)
    return replace(scaled, cycles=cycles)


def ladder(dataset: str, scale: str, cycles: int | None = None) -> dict[str, Setting]:
    """Every protocol by name: the clean one, the clean one with one switch changed at a time, and the presets.

    `baselines` alone is not changed: it changes no run of random or PT4AL.
    """
    switches = [name for name in VALUES if name != "baselines"]
    changed: set[tuple[str, Any]] = {
        (name, getattr(preset, name)) for preset in PRESETS.values() for name in switches if getattr(preset, name) != getattr(CLEAN, name)
    } | {("first_batch", 5)}  # of the authors' script for the cold start, which no preset has
    single = [replace(CLEAN, **{name: value}) for name, value in sorted(changed, key=lambda change: list(VALUES).index(change[0]))]
    return {
        name_of(switches): setting(dataset, scale, cycles=cycles, **asdict(switches)) for switches in (CLEAN, *single, *PRESETS.values())
    }


def _small(full: Setting, net: Callable[[int], Net], *, vaal: Mapping[str, Any], pal_epochs: int, budget: int, **changes: Any) -> Setting:
    """`full` with a small net for the main task and all strategies, and with recipes to match."""
    pal = replace(full.pal, net=net, recipe=replace(full.pal.recipe, epochs=pal_epochs), part=full.pal.part * budget // full.budget)
    return replace(
        full, net=net, initial=budget, budget=budget, vaal=replace(full.vaal, **vaal),
        ta_vaal=TAVAAL(replace(full.ta_vaal.game, **vaal)), pal=pal, **changes,
    )  # fmt: skip


def _laptop(full: Setting) -> Setting:
    """Minutes on two CPU cores: a part of the real images, a small net. A cycle asks for a fifth of a batch; of Caltech-101 for less."""
    caltech, uneven = full.dataset == "caltech101", full.dataset == "cifar10_imbalanced"
    simsiam = replace(full.pretexts["simsiam"], outputs=256)
    part = replace(
        full.part, per_class=None if caltech or uneven else 250, pool=2500 if uneven else None,
        test_per_class=None if caltech else 200, image_size=32 if caltech else None,
    )  # fmt: skip
    return _small(
        full, partial(small, width=16, stride=2), part=part, main=replace(full.main, epochs=35, min_updates=50, batch=64, lr=0.05),
        pretext=replace(full.pretext, epochs=6, batch=64, lr=0.05), simsiam=replace(full.simsiam, epochs=6, batch=128, lr=0.03),
        pretexts={**full.pretexts, "simsiam": simsiam}, budget=50, subset=500,
        vaal={"width": 8, "hidden": 64, "updates": 30, "batch": 32}, pal_epochs=10, gcn=replace(full.gcn, steps=100), supervised_epochs=20,
    )  # fmt: skip


def _overnight(full: Setting) -> Setting:
    """Nights on two CPU cores: the paper's whole pool, budgets and cycles, with a small ResNet.

    Net and recipe were chosen by their speed, and by their accuracy with 1,000 random labels. VAAL, PAL and SimSiam learn far less than in
    their papers, so that a curve of theirs costs less than twice one of random choice.
    """
    caltech = full.dataset == "caltech101"
    simsiam = replace(full.pretexts["simsiam"], outputs=512)
    return _small(
        full, partial(resnet10, width=32, stride=4 if caltech else 2), part=replace(full.part, image_size=64 if caltech else None),
        main=replace(full.main, epochs=80, batch=64, schedule="cosine"), pretexts={**full.pretexts, "simsiam": simsiam},
        simsiam=replace(full.simsiam, epochs=30), budget=full.budget, vaal={"width": 16, "hidden": 128, "updates": 500, "batch": 64},
        pal_epochs=20, supervised_epochs=40,
    )  # fmt: skip


def _smoke(full: Setting) -> Setting:
    """Seconds, on the digits: it shows that the machinery works, and nothing else."""
    uneven = full.dataset == "cifar10_imbalanced"
    augment = AUGMENTATIONS["shift" if full.switches.augment == "crop_flip" else full.switches.augment]
    simsiam = replace(full.pretexts["simsiam"], outputs=16, draws=2)
    return _small(
        full, partial(small, width=4), dataset="digits",
        part=replace(full.part, test_per_class=20, image_size=None, per_class=None if uneven else 60, pool=330 if uneven else None),
        main=replace(full.main, epochs=2, min_updates=8, batch=32, lr=0.05, augment=augment),
        pretext=replace(full.pretext, epochs=1, batch=64, lr=0.05),
        simsiam=replace(full.simsiam, epochs=1, batch=64, lr=0.03, augment=AUGMENTATIONS["shift"]),
        pretexts={**full.pretexts, "simsiam": simsiam},
        budget=10, cycles=3, batches=10, subset=100, vaal={"width": 2, "hidden": 8, "updates": 2, "batch": 8}, pal_epochs=1,
        gcn=replace(full.gcn, steps=3), supervised_epochs=5, iterations=(1, 2, 3),
    )  # fmt: skip


SCALES: dict[Scale, Callable[[Setting], Setting]] = {
    Scale.SMOKE: _smoke, Scale.LAPTOP: _laptop, Scale.OVERNIGHT: _overnight, Scale.PAPER: lambda full: full,
}  # fmt: skip


@dataclass(frozen=True)
class PreparedData(shared.PreparedData):
    """Images and pretext losses of a setting, cached below `runs`: shared by all runs of a replication."""

    setting: Setting
    losses: dict[str, Tensor] = field(default_factory=dict, init=False)  # [N] of each pretext that was asked for

    @cached_property
    def learner(self) -> Learner:
        """Of the main task."""
        return self.learner_of(self.setting.main)

    def learner_of(self, recipe: Recipe) -> Learner:
        """A plain learner of the setting's net. It normalises images by the mean and deviation of the pool's colours, or the authors'."""
        if self.setting.switches.normalise == "authors":  # in the order red, green, blue, whatever comes first
            return Learner(self.setting.net, recipe, mean=CIFAR10[0], std=CIFAR10[1])
        mean, std = self.pool.images.statistics  # type: ignore[attr-defined]  # of a Resident or a Selection
        if self.setting.part.colour == "bgr":  # blue comes first, and is normalised as red, as in the authors' code
            mean, std = mean[::-1], std[::-1]
        return Learner(self.setting.net, recipe, mean=mean, std=std)

    def pretrained(self, pretext: str) -> Pretrained:
        """What a pretext learns from the pool, once: cached below `runs`. `summary` reads what is written beside the runs.

        Raises:
            ValueError: there is no such pretext, or the summary beside the runs is of a pre-training with other losses.
            pretrain.Collapsed, train.NonFiniteLoss, store.Corrupted: as `pretrain.pretrain`.
        """
        one_of("pretext", pretext, self.setting.pretexts)
        task, learner = self.setting.pretexts[pretext], self.learner_of(self.setting.recipe(pretext))
        with progress(f"pretext {pretext}") as report:
            learned = partial(pretrain, task, self.pool.images, learner, seed=self.seed, cache=self.cache)
            result = learned(report=report, checkpoint=self.setting.switches.pretext_epoch)
        ranked = (pt4al.ranking(result.losses, key=key) for key in ("float", "text"))
        by_number, by_text = (set(pt4al.batch(order, self.setting.batches, 0).tolist()) for order in ranked)
        numbers = {
            "seconds": result.seconds, "loss": float(result.losses.mean()), "images": len(result.losses), "first_batch": len(by_number),
            "below_1e-4": int((result.losses < 1e-4).sum()), "overlap": len(by_number & by_text),
            "losses": store.fingerprint(result.losses.cpu()),
        }  # fmt: skip
        name, key = summary_file(self.setting, pretext, self.seed)
        written = cached_result(self.runs, name, key, lambda: numbers)
        if written is not None and written["losses"] != numbers["losses"]:
            raise ValueError(
                f"results/{name}-*.json in {self.runs} was written by a different {pretext} pre-training, with other losses: copy that "
                f"pre-training's folder into {self.cache}, or move this file and its runs elsewhere"
            )
        return result

    def side(self, pretext: str) -> dict[str, Tensor]:
        """What a strategy may know besides: the losses of its pretext; nothing for the pretext "". Raises: as `pretrained`."""
        if pretext and pretext not in self.losses:
            self.losses[pretext] = self.pretrained(pretext).losses
        return {pt4al.LOSS: self.losses[pretext]} if pretext else {}


prepare = PreparedData


def summary_file(setting: Setting, pretext: str, seed: int) -> tuple[str, Any]:
    """The name and the key of a pre-training's numbers, for `cached_result`."""
    learned = (setting.pretexts[pretext], setting.recipe(pretext), setting.switches.pretext_epoch, setting.switches.normalise)
    key = (setting.dataset, setting.part, setting.net, *learned, setting.batches, seed)
    return f"pretrained-{setting.dataset}-{setting.scale}-{pretext}-{seed}", key


def summary(setting: Setting, pretext: str, seed: int, runs: Path | str) -> dict[str, Any]:
    """Numbers of a pre-training whose runs lie below `runs`, also of one on another machine. Raises: as `read_result`.

    Returns:
        seconds (in the process that finished it), loss (mean over images), images, first_batch (its size), below_1e-4 (losses that are
        written with an exponent), overlap (images that the first batch shares with that of the text order), losses (their fingerprint).
    """
    return read_result(runs, *summary_file(setting, pretext, seed))


def warm_up(prepared: PreparedData) -> None:
    """One update of the plain learner, whose result is dropped: the first optimiser of a process spends seconds on imports."""
    learner, images = prepared.learner, prepared.pool.images
    stream, short = Stream(0) / "warm up", replace(learner, recipe=replace(learner.recipe, epochs=1, min_updates=0, batch=2))
    net = learner.build(len(prepared.pool.classes), stream, images.device)
    fit(net, images, torch.arange(2), prepared.pool.targets[:2], short, stream)


def jobs(
    setting: Setting, strategies: Iterable[str], seeds: Iterable[int], pretexts: Iterable[int] = (), tasks: Iterable[str] = ("rotation",)
) -> list[Job]:
    """The runs to make. A strategy that sorts by pretext losses has one for each of the `tasks`; the pretext of the others is "".

    `seeds` and `pretexts` are those of `experiment.replicated`: seeds of whole replications, or of nets that share pre-trainings.
    Raises:
        ValueError: a name is not known, the setting does not fit a strategy, or there is nothing to run.
    """
    strategies, replications, tasks = list(strategies), shared.replicated(seeds, pretexts), list(tasks)
    for name in strategies:
        one_of("strategy", name, STRATEGIES)
    for name in tasks:
        one_of("pretext", name, setting.pretexts)
    check(setting, strategies)
    tags = setting.tags
    every = [
        {**tags, "strategy": strategy, "pretext": task, **replication}
        for replication, strategy in product(replications, strategies)  # so that other load on the machine falls on all strategies alike
        for task in (tasks if STRATEGIES[strategy].pretext else [""])
    ]
    if not every:
        raise NothingToRun(f"nothing to run with strategies {strategies}, tasks {tasks}, seeds {list(seeds)}: name at least one of each")
    return every


def check(setting: Setting, strategies: Iterable[str]) -> None:
    """Raises: ValueError if a strategy cannot run to the end in this setting. The message says what would help."""
    budget = max(setting.initial, setting.budget)
    if setting.cycles > setting.batches:
        raise ValueError(
            f"{setting.cycles} cycles, but PT4AL cuts the pool into {setting.batches} batches, one for each cycle: ask for at most "
            f"{setting.batches} cycles, or cut more batches"
        )
    if budget > setting.subset and set(strategies) & set(SUBSET):
        raise ValueError(f"subset is {setting.subset}, but a cycle asks for {budget} images: raise subset")
    if {"learning_loss", "learning_loss_detached", "ta_vaal"} & set(strategies):
        learning_loss.check(setting.main, [setting.initial + k * setting.budget for k in range(setting.cycles)])


def experiment(prepared: PreparedData, job: Job) -> Experiment:
    """What makes the run of a job. Raises: ValueError if a batch of the pool is smaller than a query."""
    prepared = prepared.of(job)
    setting, pool = prepared.setting, prepared.pool
    strategy, budget, batch = STRATEGIES[job["strategy"]], max(setting.initial, setting.budget), len(pool) // setting.batches
    if strategy.pretext and batch < budget:
        raise ValueError(
            f"a cycle asks for {budget} labels, but a batch of PT4AL has {batch} images ({len(pool)} in {setting.batches} batches): "
            "ask for fewer labels, or cut fewer batches"
        )
    protocol = Protocol(
        setting.initial, setting.budget, setting.cycles, init=setting.switches.init, seed=job["seed"],
        checkpoint=setting.switches.checkpoint, exact=strategy.exact,
    )  # fmt: skip
    return Experiment(
        Pool.of(pool.images), prepared.test, strategy.learner(prepared.learner), strategy.later(setting), oracle.simulated(pool.targets),
        protocol, initial=strategy.first(setting), side=prepared.side(job["pretext"]), tags=prepared.tags(job),
    )  # fmt: skip
