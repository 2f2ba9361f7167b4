"""Yi et al. 2022, *PT4AL: Using Self-Supervised Pretext Tasks for Active Learning*: its data, methods, protocols and budgets.

A `Setting` says everything that a data set, a scale and a protocol decide; `prepare` learns the pretexts and keeps their losses;
`cycles` runs one method. All methods stand under one harness: the same first labels (but PT4AL's, whose point they are), the same
nets, checkpoints and seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alnb import store
from alnb.acquire import STRATEGIES, Strategy, learning_loss, pt4al, random, random_with_replacement
from alnb.acquire.gcn import CoreGCN, Training, UncertainGCN
from alnb.acquire.pal import PAL
from alnb.acquire.pt4al import LossBatch
from alnb.acquire.query import Pool
from alnb.acquire.scopes import RandomSubset, Scoped
from alnb.acquire.ta_vaal import TAVAAL
from alnb.acquire.vaal import SANE, VAAL
from alnb.data import ImageSet, at_most, imbalanced, load, proportional
from alnb.data.official import Root
from alnb.learn.augment import AUGMENTATIONS
from alnb.learn.nets import Net, resnet18, resnet18_large, small
from alnb.learn.pretrain import PRETEXTS, Pretext, Pretrained, pretrain
from alnb.learn.train import Learner, Recipe, Report, fit
from alnb.loop import oracle
from alnb.loop.cycles import cycles as active_learning
from alnb.loop.experiment import Cycle, Experiment, NothingToRun, Protocol
from alnb.papers.experiment import runs_folder
from alnb.report.records import TaggedRun
from alnb.report.records import find as find_runs
from alnb.store import Stream

PAPER = "yi2022"
PAPER_PRETEXTS = ("rotation", "colorization", "jigsaw", "simsiam")  # of Figure 6b
# of the training's first 121 of 200 epochs, as in the code of Learning Loss, and for half of TA-VAAL's 200 likewise
DETACH = learning_loss.DETACH


# ---- protocols -----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Switches:
    """Where the paper, its published code and what we hold for clean differ. Every value is a choice that changes accuracies."""

    key: str = "float"  # losses are sorted as numbers, or, as in the code, as "text"
    first_batch: int = 0  # the batch of the first labels; the code for the cold start takes 5
    confidence: str = "softmax"  # of the net's logits, or of the "normalised" ones, as in the code
    init: str = "fresh"  # each cycle's net, or "warm": from the one before, as in the code
    checkpoint: str = "last"  # epoch, or "best_test", as in the code
    colour: str = "rgb"  # order of the channels; "bgr" in the code
    augment: str = "crop_flip"  # of the main task, as in the code; the paper says "resized_crop"

    def __post_init__(self) -> None:
        """Raises: ValueError, which names the switch, its value and what it may be."""
        for name, allowed in VALUES.items():
            value = getattr(self, name)
            if value not in allowed or type(value) is not type(allowed[0]):  # True is 1 to Python, and has another fingerprint
                raise ValueError(f"{name} is {value!r}: it must be one of {', '.join(map(str, allowed))}")


VALUES: dict[str, tuple[Any, ...]] = {
    "key": ("float", "text"), "first_batch": tuple(range(10)), "confidence": ("softmax", "normalised"), "init": ("fresh", "warm"),
    "checkpoint": ("last", "best_test"), "colour": ("rgb", "bgr"), "augment": ("crop_flip", "resized_crop", "none"),
}  # fmt: skip
CLEAN = Switches()
PRESETS = {
    "clean": CLEAN,
    # what the paper states, and where it is silent (nets' start, reported checkpoint) what its code does
    "paper": replace(CLEAN, init="warm", checkpoint="best_test", augment="resized_crop"),
    "as_released": replace(CLEAN, key="text", confidence="normalised", init="warm", checkpoint="best_test", colour="bgr"),
}


def name_of(switches: Switches) -> str:
    """The preset, or the nearest one and what differs from it, as "clean, init=warm"."""

    def differing(preset: Switches) -> dict[str, Any]:
        return {name: value for name, value in asdict(switches).items() if value != getattr(preset, name)}

    nearest = min(PRESETS, key=lambda name: len(differing(PRESETS[name])))
    return ", ".join([nearest, *(f"{name}={value}" for name, value in differing(PRESETS[nearest]).items())])


# ---- settings ------------------------------------------------------------------------------------------------------------------

# 200 epochs, a tenth of the rate from epoch 160 on: the authors' code; the paper says "multi-stage" and refers to a supplement
MAIN = Recipe(epochs=200, batch=128, lr=0.1, weight_decay=5e-4, schedule="step", milestones=(0.8,))
# 15 epochs without augmentation at one rate: the authors' code since 2023; the paper does not state them
PRETEXT = Recipe(epochs=15, batch=256, lr=0.1, weight_decay=5e-4, schedule="constant")
# nothing is stated of SimSiam; 200 epochs are our choice, the rest is SimSiam's own for CIFAR
SIMSIAM = Recipe(epochs=200, batch=512, lr=0.06, weight_decay=5e-4, augment=AUGMENTATIONS["simsiam"])


@dataclass(frozen=True)
class Setting:
    """An experiment at one scale and under one protocol: all that changes a result."""

    dataset: str
    scale: str
    source: str  # of the images, as `data.load` takes it
    net: Callable[[int], Net]
    switches: Switches
    main: Recipe
    pretext: Recipe  # of all pretexts but SimSiam
    simsiam: Recipe
    pretexts: Mapping[str, Pretext]
    initial: int  # labels of the first iteration
    budget: int  # of each later one
    points: int  # iterations, the first included
    batches: int  # that PT4AL cuts the pool into
    subset: int  # candidates drawn at random that are scored by the methods of `SUBSET`
    vaal: VAAL
    ta_vaal: TAVAAL
    pal: PAL
    gcn: Training
    per_class: int | None = None  # training images taken of each class; None: all
    test_per_class: int | None = None
    pool: int | None = None  # images of the imbalanced pool; None: all
    image_size: int | None = None

    @property
    def fingerprint(self) -> str:
        """What runs of this very setting are called by."""
        return store.fingerprint({name: getattr(self, name) for name in self.__dataclass_fields__})[:10]

    @property
    def preset(self) -> str:
        """See `name_of`."""
        return name_of(self.switches)


DATASETS = {"cifar10": "CIFAR-10", "cifar10_imbalanced": "CIFAR-10, imbalanced", "caltech101": "Caltech-101"}


def setting(dataset: str, scale: str, *, preset: str = "clean", points: int | None = None, **switches: Any) -> Setting:
    """The experiment on `dataset` at `scale` under a protocol: a preset, and switches that differ from it.

    Args:
        points: iterations, instead of those of the paper.

    Raises:
        ValueError: a name or a switch is not known, or a value not allowed.
    """
    for name, value, allowed in (("dataset", dataset, DATASETS), ("scale", scale, SCALES), ("preset", preset, PRESETS)):
        if value not in allowed:
            raise ValueError(f"{name} is {value!r}: it must be one of {', '.join(allowed)}")
    unknown = [name for name in switches if name not in VALUES]
    if unknown:
        raise ValueError(f"there is no switch {unknown[0]!r}: there are {', '.join(VALUES)}")
    if points is not None and (type(points) is not int or points < 1):
        raise ValueError(f"points is {points!r}: it must be a whole number of iterations, at least 1")
    chosen = replace(PRESETS[preset], **switches)
    caltech = dataset == "caltech101"
    full = Setting(
        dataset=dataset, scale=scale, source=dataset, net=resnet18_large if caltech else resnet18, switches=chosen,
        main=_augmented(MAIN, chosen), pretext=PRETEXT, simsiam=SIMSIAM, pretexts={name: PRETEXTS[name] for name in PRETEXTS},
        initial=1000, budget=1000, points=8 if caltech else 10, batches=8 if caltech else 10, subset=10_000,
        vaal=replace(SANE, epoch="scored"), ta_vaal=TAVAAL(), pal=PAL(part=128 if caltech else 512), gcn=Training(),
        image_size=224 if caltech else None,
    )  # fmt: skip
    scaled = SCALES[scale](full)
    if chosen.first_batch >= scaled.batches:
        raise ValueError(f"first_batch is {chosen.first_batch}, but on {dataset} the pool is cut into {scaled.batches} batches, from 0 on")
    return scaled if points is None else replace(scaled, points=points)


def ladder(dataset: str, scale: str, points: int | None = None) -> dict[str, Setting]:
    """Every protocol by name: the clean one, it with one switch changed at a time, and the presets; what each difference is worth."""
    changed: set[tuple[str, Any]] = {
        (name, getattr(preset, name)) for preset in PRESETS.values() for name in VALUES if getattr(preset, name) != getattr(CLEAN, name)
    } | {("first_batch", 5)}  # of the authors' script for the cold start, and so in no preset
    single = [replace(CLEAN, **{name: value}) for name, value in sorted(changed, key=lambda one: list(VALUES).index(one[0]))]
    return {
        name_of(switches): setting(dataset, scale, points=points, **asdict(switches)) for switches in (CLEAN, *single, *PRESETS.values())
    }


def _augmented(recipe: Recipe, switches: Switches) -> Recipe:
    return replace(recipe, augment=AUGMENTATIONS[switches.augment])


def _small(full: Setting, net: Callable[[int], Net], **changes: Any) -> Setting:
    """`full` with a small net for the main task and all methods, and recipes to match."""
    vaal = changes.pop("vaal")
    pal_epochs, part = changes.pop("pal_epochs"), full.pal.part * changes["budget"] // full.budget
    return replace(
        full, net=net, vaal=replace(full.vaal, **vaal), ta_vaal=TAVAAL(replace(full.ta_vaal.game, **vaal)),
        pal=replace(full.pal, net=net, recipe=replace(full.pal.recipe, epochs=pal_epochs), part=part), **changes,
    )  # fmt: skip


def _laptop(full: Setting) -> Setting:
    """Minutes on two CPU cores: a part of the real images, a small net. A batch is a tenth of the pool, of which a fifth is asked for."""
    caltech = full.dataset == "caltech101"
    simsiam = replace(full.pretexts["simsiam"], outputs=256)
    return _small(
        full, partial(small, width=16, stride=2), main=replace(full.main, epochs=50, batch=64, lr=0.05),
        pretext=replace(full.pretext, epochs=6, batch=64, lr=0.05), simsiam=replace(full.simsiam, epochs=6, batch=128, lr=0.03),
        pretexts={**full.pretexts, "simsiam": simsiam}, initial=50, budget=50, subset=500,
        per_class=None if full.dataset != "cifar10" else 250, pool=2500 if full.dataset == "cifar10_imbalanced" else None,
        test_per_class=None if caltech else 200, image_size=32 if caltech else None,
        points=full.points if caltech else 10, vaal={"width": 8, "hidden": 64, "updates": 30, "batch": 32}, pal_epochs=10,
        gcn=replace(full.gcn, steps=100),
    )  # fmt: skip


def _smoke(full: Setting) -> Setting:
    """Seconds, on the digits that scikit-learn brings, whatever the data set: it shows that the machinery works, and nothing else."""
    uneven = full.dataset == "cifar10_imbalanced"
    augment = AUGMENTATIONS["shift" if full.switches.augment == "crop_flip" else full.switches.augment]
    recipe = replace(full.main, epochs=2, min_updates=8, batch=32, lr=0.05, augment=augment)
    simsiam = replace(full.pretexts["simsiam"], outputs=16, draws=2)
    return _small(
        full, partial(small, width=4), source="digits", main=recipe, pretext=replace(full.pretext, epochs=1, batch=64, lr=0.05),
        simsiam=replace(full.simsiam, epochs=1, batch=64, lr=0.03, augment=AUGMENTATIONS["shift"]),
        pretexts={**full.pretexts, "simsiam": simsiam},
        initial=10, budget=10, points=3, batches=10, subset=100, vaal={"width": 2, "hidden": 8, "updates": 2, "batch": 8}, pal_epochs=1,
        gcn=replace(full.gcn, steps=3), test_per_class=20, image_size=None,
        per_class=None if uneven else 60, pool=330 if uneven else None,
    )  # fmt: skip


SCALES: dict[str, Callable[[Setting], Setting]] = {"smoke": _smoke, "laptop": _laptop, "paper": lambda full: full}


# ---- methods -------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Method:
    """How a method chooses, what it changes in the training, and whether it sorts by a pretext's losses."""

    title: str
    strategy: Callable[[Setting], Strategy]
    initial: Callable[[Setting], Strategy] = field(default=lambda _: random)
    learner: Callable[[Learner], Learner] = field(default=lambda base: base)
    pretext: bool = False
    exact: bool = True


SUBSET = ("vaal", "learning_loss", "learning_loss_detached", "core_gcn", "uncertain_gcn", "pal", "ta_vaal")
"""Methods that score a random part of the pool. Learning Loss does so in its paper, CoreGCN and TA-VAAL in their code, which runs VAAL so
too; PAL alone does not: with all of a large pool its score is of outliers, and PT4AL's paper does not say what it did."""


def _subset(strategy: Callable[[Setting], Strategy]) -> Callable[[Setting], Strategy]:
    return lambda setting: Scoped(RandomSubset(setting.subset), strategy(setting))


def _batch(setting: Setting, order: str = "high_first") -> LossBatch:
    switches = setting.switches
    return LossBatch(setting.batches, key=switches.key, order=order, first=switches.first_batch)


CONFIDENCES = {"softmax": STRATEGIES["least_confidence"], "normalised": pt4al.normalised_confidence}


def _pt4al(title: str, first: Strategy = pt4al.evenly, later: Strategy | None = None, order: str = "high_first") -> Method:
    """PT4AL with other choices: in the first batch, in later ones (None: the least confident), or the other way round."""
    return Method(
        title,
        lambda setting: Scoped(_batch(setting, order), later or CONFIDENCES[setting.switches.confidence]),
        lambda setting: Scoped(_batch(setting, order), first),
        pretext=True,
    )


METHODS: dict[str, Method] = {
    "random": Method("Random", lambda _: random),
    "entropy": Method("Entropy", lambda _: STRATEGIES["entropy"]),
    "kcenter": Method("Core-Set", lambda _: STRATEGIES["kcenter"]),
    "vaal": Method("VAAL", _subset(lambda setting: setting.vaal)),
    "learning_loss": Method("Learning Loss", _subset(lambda _: learning_loss.learning_loss), learner=learning_loss.learner),
    "learning_loss_detached": Method(
        "Learning Loss, detached", _subset(lambda _: learning_loss.learning_loss), learner=partial(learning_loss.learner, detach=0)
    ),
    "core_gcn": Method("CoreGCN", _subset(lambda setting: CoreGCN(setting.gcn))),
    "uncertain_gcn": Method("UncertainGCN", _subset(lambda setting: UncertainGCN(setting.gcn))),
    "pal": Method("PAL", _subset(lambda setting: setting.pal)),
    "ta_vaal": Method("TA-VAAL", _subset(lambda setting: setting.ta_vaal), learner=partial(learning_loss.learner, ranking=True)),
    "pt4al": _pt4al("PT4AL"),
    "pt4al_low_first": _pt4al("PT4AL, low loss first", order="low_first"),
    "pt4al_top_k": _pt4al("PT4AL, first labels top-K", pt4al.foremost),
    "pt4al_random_first": _pt4al("PT4AL, first labels at random", random),
    "pretext_high": _pt4al("Pretext only, high loss", pt4al.foremost, pt4al.foremost),
    "pretext_low": _pt4al("Pretext only, low loss", pt4al.hindmost, pt4al.hindmost),
    "sampling_only": Method("Sampling only", lambda setting: Scoped(LossBatch(setting.batches, key="random"), STRATEGIES["entropy"])),
    "random_with_replacement": Method("Random, with replacement", _subset(lambda _: random_with_replacement), exact=False),
}
"""Every method of the paper, its ablations (section 6), and a defect of published baselines (the last)."""


# ---- preparing -----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Prepared:
    """Images, and what was learned from them without labels: shared by all methods and seeds."""

    setting: Setting
    train: ImageSet
    test: ImageSet
    losses: Mapping[str, Tensor]  # [N] of each pretext
    learner: Learner  # of the main task


def images(setting: Setting, *, root: Root = None, device: str = "cpu", download: bool = False) -> tuple[ImageSet, ImageSet]:
    """The images to choose from and those to test on, in the setting's order of colours.

    Raises:
        data.DataError: they are not there, or damaged; the message says what to do.
    """
    train, test = load(setting.source, root=root, device=device, download=download, image_size=setting.image_size)
    if setting.pool is not None:
        train = imbalanced(train, proportional(IMBALANCED_CIFAR10, setting.pool))
    train, test = at_most(train, setting.per_class), at_most(test, setting.test_per_class)
    return (bgr(train), bgr(test)) if setting.switches.colour == "bgr" else (train, test)


def base(setting: Setting, train: ImageSet, recipe: Recipe) -> Learner:
    """A plain learner of the setting's net, which normalises images by those of the pool, in the order red, green, blue."""
    mean, std = train.images.statistics  # type: ignore[attr-defined]  # of a Resident or a Selection
    if setting.switches.colour == "bgr":  # blue comes first, and is normalised as red, as in the authors' code
        mean, std = mean[::-1], std[::-1]
    return Learner(setting.net, recipe, mean=mean, std=std)


def learned(setting: Setting, train: ImageSet, pretext: str, *, runs: Path | str, report: Report | None = None) -> Pretrained:
    """What `pretext` learns from the pool, once: kept below `runs`, in pretrained/; see `summary` for what is written beside.

    Raises:
        ValueError, pretrain.Collapsed, train.NonFiniteLoss, store.Corrupted: as `pretrain.pretrain`; or there is
            no such pretext, or was another pre-training, on another machine, whose runs are here.
    """
    _check_name("pretext", pretext, setting.pretexts)
    task, learner = setting.pretexts[pretext], pretext_learner(setting, train, pretext)
    found = pretrain(task, train.images, learner, cache=Path(runs) / "pretrained", report=report)
    orders = [pt4al.batch(pt4al.ranking(found.losses, key=key), setting.batches, 0).tolist() for key in ("float", "text")]
    told = {
        "seconds": found.seconds, "loss": float(found.losses.mean()), "images": len(found.losses), "first_batch": len(orders[0]),
        "below_1e-4": int((found.losses < 1e-4).sum()), "overlap": len(set(orders[0]) & set(orders[1])),
        "losses": store.fingerprint(found.losses.cpu()),
    }  # fmt: skip
    before = _summary(setting, pretext, runs)
    if before.exists() and summary(setting, pretext, runs).get("losses") != told["losses"]:
        raise ValueError(
            f"{before} tells of another pre-training on {pretext}, whose runs sort by other losses than this one's: bring its folder in "
            f"{Path(runs) / 'pretrained'} from where it was made, or move that file and its runs away"
        )
    store.write_json(_summary(setting, pretext, runs), told)
    return found


def pretext_learner(setting: Setting, train: ImageSet, pretext: str) -> Learner:
    """How the pretext is learned."""
    return base(setting, train, _pretext_recipe(setting, pretext))


def _pretext_recipe(setting: Setting, pretext: str) -> Recipe:
    return setting.simsiam if pretext == "simsiam" else setting.pretext


def prepare(
    setting: Setting, train: ImageSet, test: ImageSet, pretexts: Collection[str], *, runs: Path | str, report: Report | None = None
) -> Prepared:
    """Learn the `pretexts` that the jobs need, see `needed`, or read what was learned before.

    Raises:
        ValueError: a batch of the pool is smaller than what one iteration asks for; or as `learned`.
    """
    batch, asked = len(train) // setting.batches, max(setting.initial, setting.budget)
    if pretexts and batch < asked:
        raise ValueError(
            f"{asked} labels an iteration, but a batch of PT4AL is {batch} images, {len(train)} in {setting.batches} batches: ask for "
            "fewer, or cut fewer batches"
        )
    losses = {name: learned(setting, train, name, runs=runs, report=report).losses for name in pretexts}
    return Prepared(setting, train, test, losses, base(setting, train, setting.main))


def warm_up(prepared: Prepared) -> None:
    """One update of the plain learner, of which nothing is kept: the first optimiser of a process imports for seconds."""
    learner, images = prepared.learner, prepared.train.images
    stream, short = Stream(0) / "warm up", replace(learner, recipe=replace(learner.recipe, epochs=1, min_updates=0, batch=2))
    net = learner.build(len(prepared.train.classes), stream, images.device)
    fit(net, images, torch.arange(2), prepared.train.targets[:2], short, stream)


def summary(setting: Setting, pretext: str, runs: Path | str) -> dict[str, Any]:
    """What `learned` wrote of a pretext below `runs`; records brought from elsewhere have it too.

    Returns:
        seconds (that it took, in the process that finished it), loss (mean over images), images, first_batch (its size), below_1e-4
        (losses that are written with an exponent), overlap (images of the first batch that the text order has in it too).
    Raises:
        store.Corrupted: it was not learned there, or the file is damaged.
    """
    path, remedy = _summary(setting, pretext, runs), "copy it from where the runs beside it were made"
    if not path.exists():
        raise store.Corrupted(f"{path} is missing: {remedy}")
    found: dict[str, Any] = store.read_json(path, remedy)
    return found


def _summary(setting: Setting, pretext: str, runs: Path | str) -> Path:
    images = (setting.source, setting.per_class, setting.pool, setting.image_size, setting.switches.colour)
    told = store.fingerprint(setting.pretexts[pretext], _pretext_recipe(setting, pretext), setting.net, images)[:10]
    return Path(runs) / f"pretrained-{setting.dataset}-{setting.scale}-{pretext}-{told}.json"


# ---- running -------------------------------------------------------------------------------------------------------------------


def grid(setting: Setting, methods: Iterable[str], seeds: Iterable[int], pretexts: Iterable[str] = ("rotation",)) -> list[dict[str, Any]]:
    """The curves to run, each as the arguments of `cycles`: methods that sort by losses once for each pretext.

    Raises:
        ValueError: a name is not known, there are more iterations than batches, or batches that a method's training cannot take.
        NothingToRun: there is nothing to run.
    """
    methods, seeds, pretexts = list(methods), list(seeds), list(pretexts)
    for what, values, allowed in (("method", methods, METHODS), ("pretext", pretexts, setting.pretexts)):
        for value in values:
            _check_name(what, value, allowed)
    check(setting, methods)
    jobs = [
        {"method": method, "pretext": pretext, "seed": seed}
        for seed, method in product(seeds, methods)  # so that what a machine does beside falls on all methods alike
        for pretext in (pretexts if METHODS[method].pretext else [""])
    ]
    if not jobs:
        raise NothingToRun(f"nothing to run with methods {methods}, pretexts {pretexts}, seeds {seeds}: name at least one of each")
    return jobs


def _check_name(what: str, value: str, allowed: Iterable[str]) -> None:
    if value not in (known := list(allowed)):
        raise ValueError(f"there is no {what} {value!r}: there are {', '.join(known)}")


def check(setting: Setting, methods: Iterable[str]) -> None:
    """Raises: ValueError where a method cannot run to the end in this setting; it says what would."""
    if setting.points > setting.batches:
        raise ValueError(
            f"{setting.points} iterations, but PT4AL cuts the pool into {setting.batches} batches, one for each: ask for at most "
            f"{setting.batches}, or cut more batches"
        )
    if max(setting.initial, setting.budget) > setting.subset:
        raise ValueError(f"subset is {setting.subset}, fewer than the {max(setting.initial, setting.budget)} images asked for: score more")
    if {"learning_loss", "learning_loss_detached", "ta_vaal"} & set(methods):
        learning_loss.check(setting.main, [setting.initial + k * setting.budget for k in range(setting.points)])


def needed(jobs: Iterable[Mapping[str, Any]]) -> list[str]:
    """The pretexts whose losses the jobs sort by."""
    return list(dict.fromkeys(job["pretext"] for job in jobs if job["pretext"]))


def cycles(
    prepared: Prepared, *, method: str, pretext: str, seed: int, runs: Path | str, report: Report | None = None
) -> Generator[Cycle, None, None]:
    """One curve, as `loop.cycles.cycles`, in a folder below `runs` named by its manifest.

    Raises:
        ValueError: there is no such method, or its pretext was not prepared.
    """
    _check_name("method", method, METHODS)
    if pretext and pretext not in prepared.losses:
        have = ", ".join(prepared.losses) or "none"
        raise ValueError(f"the pretext {pretext!r} was not prepared, but {have}: name it in `prepare`, see `needed`")
    setting, one, trained = prepared.setting, METHODS[method], prepared.train
    protocol = Protocol(
        setting.initial, setting.budget, setting.points, init=setting.switches.init, seed=seed, checkpoint=setting.switches.checkpoint,
        exact=one.exact,
    )  # fmt: skip
    experiment = Experiment(
        Pool.of(trained.images), prepared.test, one.learner(prepared.learner), one.strategy(setting), oracle.simulated(trained.targets),
        protocol, initial=one.initial(setting), side={pt4al.LOSS: prepared.losses[pretext]} if pretext else {},
        tags=_columns(prepared, method, pretext, seed),
    )  # fmt: skip
    slug = "-".join(filter(None, (setting.dataset, method, pretext, str(seed))))
    yield from active_learning(experiment.run(runs, slug), experiment, report)


def _columns(prepared: Prepared, method: str, pretext: str, seed: int) -> dict[str, Any]:
    setting, train = prepared.setting, prepared.train
    return {
        "paper": PAPER, "dataset": "digits" if setting.scale == "smoke" else setting.dataset, "classes": len(train.classes),
        "pool": len(train), "scale": setting.scale, "setting": setting.fingerprint, "preset": setting.preset, **asdict(setting.switches),
        "arm": "scratch", "strategy": label(method, pretext), "method": method, "pretext": pretext, "seed": seed,
    }  # fmt: skip


def label(method: str, pretext: str) -> str:
    """What a curve is called: the method, and the pretext where it is not the usual one."""
    return method if pretext in ("", "rotation") else f"{method}, {pretext}"


def folder(scale: str, runs: Path | str = "") -> Path:
    """Where the runs of a scale are: below `runs`, else in runs/ of the project, those of scale paper in its part that git keeps."""
    return runs_folder(PAPER, scale, runs)


def find(setting: Setting, jobs: Iterable[Mapping[str, Any]], runs: Path | str) -> tuple[list[TaggedRun], list[Mapping[str, Any]]]:
    """Of `jobs` as from `grid`: the finished runs below `runs`, and the jobs that are left to do.

    Found by what their manifests say, so no images are needed: records brought from a GPU are found on a laptop.

    Raises:
        store.Corrupted: a manifest or a record is damaged.
        ValueError: two runs are of one job, or not all of the same images.
    """
    below: dict[tuple[Any, ...], TaggedRun] = {}
    first: dict[str, tuple[Any, Path]] = {}  # images, and the losses of each pretext, and a run that has them
    for run, columns in find_runs(runs, paper=PAPER, setting=setting.fingerprint):
        if len(run.records()) < setting.points:
            continue
        experiment = (run.manifest or {})["experiment"]
        if not _current(setting, columns["method"], experiment):
            continue  # by an earlier version of the method
        twin = below.setdefault(_key(columns), (run, columns))[0]
        parts = {"images": (experiment["pool"]["images"], experiment["test"]), columns["pretext"]: experiment["side"]}
        firsts = [first.setdefault(name, (part, run.path)) for name, part in parts.items()]
        others = [where for (part, where), own in zip(firsts, parts.values(), strict=True) if part != own]
        for other in [*others, *([twin.path] if twin.path != run.path else [])]:
            raise ValueError(f"{other} and {run.path} are one experiment on other images or losses: move one of the two away")
    jobs = list(jobs)
    for run, _ in (below[_key(job)] for job in jobs if _key(job) in below):
        run.announce()
    return [below[_key(job)] for job in jobs if _key(job) in below], [job for job in jobs if _key(job) not in below]


def _current(setting: Setting, method: str, experiment: store.Json) -> bool:
    """Whether a run chose and learned as the method does now; mean and deviation of the images aside, which need the images."""
    one = METHODS[method]
    learner = store.describe(one.learner(Learner(setting.net, setting.main)))
    same = all(experiment["learner"][name] == value for name, value in learner.items() if name not in ("mean", "std"))
    strategies = (store.describe(one.strategy(setting)), store.describe(one.initial(setting)))
    return same and (experiment["strategy"], experiment["initial"]) == strategies


def _key(columns: Mapping[str, Any]) -> tuple[Any, ...]:
    return columns["method"], columns["pretext"], columns["seed"]
