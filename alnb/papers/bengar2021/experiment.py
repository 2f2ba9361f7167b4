"""Zolfaghari Bengar et al. 2021, *Reducing Label Effort: Self-Supervised meets Active Learning*: its data, arms and budgets.

A `Setting` says everything that a scale decides, `prepare` gets the images, learns without labels and embeds, `cycles` runs one curve.
Two arms: "scratch" trains a net anew in each cycle, "frozen" a linear classifier on the features of a self-supervised backbone.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from alnb import store
from alnb.acquire import STRATEGIES, Strategy
from alnb.acquire.query import Pool
from alnb.acquire.svm import SvmMargin, svm_accuracy
from alnb.acquire.vaal import FAITHFUL, SANE, VAAL
from alnb.data import Embedded, Images, ImageSet, at_most, load, subset
from alnb.data.official import Root
from alnb.learn.augment import AUGMENTATIONS
from alnb.learn.nets import Net, linear, resnet10, resnet18, small
from alnb.learn.pretrain import PRETEXTS, Monitor, Pretext, Pretrained, embed, pretrain
from alnb.learn.train import Learner, Recipe, Report
from alnb.loop import oracle
from alnb.loop.cycles import cycles as active_learning
from alnb.loop.experiment import Cycle, Experiment, NothingToRun, Protocol
from alnb.papers.experiment import runs_folder
from alnb.report import figures as report
from alnb.report import palette, stats, tables
from alnb.report.records import TaggedRun
from alnb.report.records import find as find_runs
from alnb.report.records import frame as as_frame
from alnb.store import streams as rng

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

PAPER = "bengar2021"
SVM = "svm.json"  # in a run of "svm_margin": the test accuracy of the SVM itself at each cycle
MILESTONES = {100: (0.70, 0.75), 200: (0.76, 0.82), 400: (0.85, 0.88), 800: (0.885, 0.905)}
"""Accuracy of the nearest-neighbour vote by epoch of SimSiam with ResNet-18 on CIFAR-10. Source: Chen and He 2021, Figure D.1, and the
logs of lightly's benchmark, PatrickHua/SimSiam and ahmdtaha/simsiam."""
POINTS = 5  # on each curve: the regimes of 0.1, 0.2, 1, 2, 10 % then tile the axis up to 50 %, where Table 1 is read; not stated
MOST = 0.1  # share of a pool asked for in one step, at most: the paper's largest regime
ARMS = {  # the strategies of each, in the paper's order
    "frozen": ("random", "entropy", "kcenter", "svm_margin", "vaal"),
    "scratch": ("random", "entropy", "kcenter", "vaal"),
}


@dataclass(frozen=True)
class Dataset:
    """What the paper says of a data set (section 4)."""

    title: str
    size: int  # training images
    classes: int
    regimes: tuple[float, ...]  # percent of the training images labelled in each step, the first included


DATASETS = {
    "cifar10": Dataset("CIFAR-10", 50_000, 10, (0.1, 0.2, 1, 2, 10)),
    "cifar100": Dataset("CIFAR-100", 50_000, 100, (1, 2, 10)),
    "tiny_imagenet": Dataset("Tiny ImageNet", 90_000, 200, (1, 2, 10)),
}

# section 4, implementation details; the learning rate is SimSiam's 0.03 for 256 images, scaled to the batch
SIMSIAM = Recipe(epochs=800, batch=512, lr=0.06, weight_decay=1e-4, augment=AUGMENTATIONS["simsiam"])
HEAD = Recipe(epochs=100, batch=256, lr=30, weight_decay=0, precision="float32")  # section 4, implementation details
# nothing is stated of the scratch arm but its augmentation ("paper"); 2,000 updates keep the smallest sets from being under-trained
SCRATCH = Recipe(epochs=200, min_updates=2000, batch=128, lr=0.1, weight_decay=5e-4, augment=AUGMENTATIONS["resized_crop"])
VAALS = {"sane": SANE, "faithful": FAITHFUL}
PRESETS = {"paper": AUGMENTATIONS["resized_crop"], "strong": AUGMENTATIONS["crop_flip"]}  # of the scratch arm


@dataclass(frozen=True)
class Setting:
    """An experiment of the paper at one scale: all that changes a result, and, at the end, what does not."""

    dataset: str  # of the paper, as in DATASETS
    scale: str
    source: str  # of the images, as `data.load` takes it
    net: Callable[[int], Net]
    width: int  # features of that net
    pretext: Pretext
    pretraining: Recipe
    head: Recipe
    scratch: Recipe
    vaal: VAAL
    views: int  # random views of each training image that the head learns from; 0: the images as they are
    per_class: int | None = None  # training images taken of each class; None: all
    test_per_class: int | None = None
    points: int = POINTS
    split: str = "official"  # of Tiny ImageNet: see `split_tiny`
    regimes: tuple[float, ...] = field(default=(), metadata={"result": False})  # that a notebook draws
    watched: int = field(default=0, metadata={"result": False})  # images of each class that the kNN monitor looks at; 0: all

    @property
    def fingerprint(self) -> str:
        """What runs of this very setting are called by."""
        return store.fingerprint({f: getattr(self, f) for f in self.__dataclass_fields__ if f not in ("regimes", "watched")})[:10]


def setting(
    dataset: str,
    scale: str,
    *,
    preset: str = "paper",
    weight_decay: float = 1e-4,
    views: int | None = None,
    vaal: str = "sane",
    split: str = "official",
) -> Setting:
    """The experiment on `dataset` at `scale`.

    Args:
        preset: of the scratch arm's augmentation: "paper" (random resized crops from 8 % of the area on) or "strong" (padded crops).
        weight_decay: of SimSiam: the paper's 1e-4, or 5e-4, which SimSiam's authors take on CIFAR.
        views: see `Setting`; None: 10 at paper scale, 4 on a laptop.
        vaal: "faithful" to its authors' code, or "sane": see `acquire.vaal`.
        split: of Tiny ImageNet, see `split_tiny`.

    Raises:
        ValueError: a name is not known, or `views` is below 0.
    """
    for name, value, allowed in (
        ("dataset", dataset, DATASETS),
        ("scale", scale, SCALES),
        ("preset", preset, PRESETS),
        ("vaal", vaal, VAALS),
        ("split", split, SPLITS),
    ):
        if value not in allowed:
            raise ValueError(f"{name} is {value!r}: it must be one of {', '.join(allowed)}")
    if views is not None and views < 0:
        raise ValueError(f"views is {views}: it must be 0 (the images as they are), or the number of random views")
    known = DATASETS[dataset]
    large = dataset == "tiny_imagenet"
    decayed = replace(SIMSIAM, weight_decay=weight_decay, augment=AUGMENTATIONS["simsiam_blur" if large else "simsiam"])
    full = Setting(
        dataset=dataset, scale=scale, source=dataset, net=resnet18, width=512, pretext=PRETEXTS["simsiam"], pretraining=decayed, head=HEAD,
        scratch=replace(SCRATCH, augment=PRESETS[preset]), vaal=replace(VAALS[vaal], latent=64 if large else 32),
        views=10 if views is None else views, split=split, regimes=known.regimes,
    )  # fmt: skip
    return SCALES[scale](full, views)


def _laptop(full: Setting, views: int | None) -> Setting:
    """Minutes on two CPU cores: a part of the real images, a small net, a short pre-training; labels per class as in the paper.

    Net, rates and numbers of updates were chosen for CIFAR-10, on seeds 10 to 13 and on training images that are not in the part. On images
    of 64x64 the stem has stride 4, so that the net costs as much as on 32x32; its 3x3 kernel then leaves out every fourth row and column.
    """
    stride = 4 if full.dataset == "tiny_imagenet" else 2
    return replace(
        full, net=partial(resnet10, width=24, stride=stride), width=192, pretext=replace(full.pretext, outputs=512, draws=1),
        pretraining=replace(full.pretraining, epochs=60, batch=128, lr=0.06), head=replace(full.head, lr=0.03),
        scratch=replace(full.scratch, epochs=10, min_updates=100, batch=64),
        vaal=replace(full.vaal, width=8, hidden=64, updates=30, batch=64), views=4 if views is None else views,
        per_class=10_000 // DATASETS[full.dataset].classes, test_per_class=2_000 // DATASETS[full.dataset].classes,
        regimes=full.regimes[:1], watched=200,
    )  # fmt: skip


def _smoke(full: Setting, views: int | None) -> Setting:
    """Seconds, on the digits that scikit-learn brings, whatever the data set: it shows that the machinery works, and nothing else."""
    return replace(
        full, source="digits", net=partial(small, width=8), width=32, pretext=replace(full.pretext, outputs=32, draws=1),
        pretraining=replace(full.pretraining, epochs=2, batch=64, augment=AUGMENTATIONS["shift"]),
        head=replace(full.head, epochs=20, lr=3.0),
        scratch=replace(full.scratch, epochs=2, min_updates=10, batch=32, augment=AUGMENTATIONS["shift"]),
        vaal=replace(full.vaal, width=2, hidden=16, updates=2, batch=16), views=2 if views is None else views,
        points=3, regimes=full.regimes[:2], watched=20,
    )  # fmt: skip


SCALES: dict[str, Callable[[Setting, int | None], Setting]] = {"smoke": _smoke, "laptop": _laptop, "paper": lambda full, _: full}
SPLITS = ("official", "held_out")


def step(setting: Setting, regime: float, pool: int, classes: int) -> int:
    """Images asked for in each step, the first included: as many of each class as in the paper, but at most a tenth of the pool.

    Where that is no whole number of each class (4.5 of Tiny ImageNet's 200 at 1 %), `oracle.class_uniform` draws who gets one more.
    """
    published = DATASETS[setting.dataset]
    return min(round(published.size * regime / 100 / published.classes * classes), int(pool * MOST))


def split_tiny(train: ImageSet, test: ImageSet, split: str) -> tuple[ImageSet, ImageSet]:
    """Tiny ImageNet as 90,000 images to train on and 10,000 to test on: a tenth of each class is held out of the released 100,000.

    Which 10,000 the paper tests on is not said. "official": the release's validation images, and nothing uses the held-out tenth;
    "held_out": that tenth. Of a part of the release, the same shares.
    """
    first, tenth = [], []
    for label in range(len(train.classes)):
        members = (train.targets == label).nonzero().flatten()
        order = members[torch.randperm(len(members), generator=rng.generator(0, "tiny_imagenet", "held out", label))]
        first.append(order[len(order) // 10 :])
        tenth.append(order[: len(order) // 10])
    kept, held_out = torch.cat(first).sort().values, torch.cat(tenth).sort().values
    return subset(train, kept), subset(train, held_out) if split == "held_out" else test


# ---- preparing ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Prepared:
    """Images, and what was learned from them without labels: shared by all strategies, seeds and regimes."""

    setting: Setting
    train: ImageSet
    test: ImageSet
    pretrained: Pretrained
    pools: Mapping[str, Images]  # of each arm
    tests: Mapping[str, ImageSet]
    learners: Mapping[str, Learner]


def images(setting: Setting, *, root: Root = None, device: str = "cpu", download: bool = False) -> tuple[ImageSet, ImageSet]:
    """The images to choose from and those to test on.

    Raises:
        data.DataError: they are not there, or damaged; the message says what to do.
    """
    train, test = load(setting.source, root=root, device=device, download=download)
    if setting.source == "tiny_imagenet":
        train, test = split_tiny(train, test, setting.split)
    return at_most(train, setting.per_class), at_most(test, setting.test_per_class)


def prepare(
    setting: Setting, train: ImageSet, test: ImageSet, *, runs: Path | str, seed: int = 0, report: Report | None = None
) -> Prepared:
    """Learn from `train` without labels, and embed all images; done once and kept below `runs`, in pretrained/. See `pretraining`.

    Another `seed` makes another backbone, whose curves belong below other `runs`.

    Raises:
        pretrain.Collapsed, train.NonFiniteLoss, store.Corrupted: as `pretrain.pretrain`.
    """
    mean, std = train.images.statistics  # type: ignore[attr-defined]  # of a Resident or a Selection
    base, cache = Learner(setting.net, setting.pretraining, mean=mean, std=std), Path(runs) / "pretrained"
    memory, held_out = (at_most(s, setting.watched or None) for s in (train, test))
    found = pretrain(setting.pretext, train.images, base, seed=seed, cache=cache, report=report, monitor=Monitor(memory, held_out))
    summary = {"seconds": found.seconds, "loss": float(found.losses.mean()), "history": list(found.history)}
    store.write_json(_summary(setting, runs), summary)
    frozen = replace(base, backbone=found.backbone)
    pool = embed(
        frozen,
        train.images,
        views=setting.views,
        augment=AUGMENTATIONS["resized_crop" if setting.scale != "smoke" else "shift"],
        cache=cache,
    )
    embedded_test = replace(test, images=embed(frozen, test.images, cache=cache))
    learners = {
        "frozen": Learner(partial(linear, width=setting.width), setting.head),
        "scratch": Learner(setting.net, setting.scratch, mean=mean, std=std),
    }
    return Prepared(
        setting, train, test, found, {"frozen": pool, "scratch": train.images}, {"frozen": embedded_test, "scratch": test}, learners
    )


# ---- running ------------------------------------------------------------------------------------------------------------------


def grid(
    setting: Setting, arms: Iterable[str], strategies: Iterable[str], regimes: Iterable[float], seeds: Iterable[int]
) -> list[dict[str, Any]]:
    """The curves to run, each as the arguments of `cycles`: an arm takes those strategies that it has in the paper.

    Raises:
        ValueError: an arm, strategy or regime that the paper does not have, or nothing to run.
    """
    known = DATASETS[setting.dataset].regimes
    arms, strategies, regimes = list(arms), list(strategies), list(regimes)
    everything = dict.fromkeys(name for names in ARMS.values() for name in names)
    for what, values, allowed in (("arm", arms, ARMS), ("strategy", strategies, everything), ("regime", regimes, known)):
        for value in values:
            if value not in allowed:
                raise ValueError(f"{what} {value!r} is not one of the paper's on {setting.dataset}: {', '.join(map(str, allowed))}")
    seeds = list(seeds)
    jobs = [
        {"arm": arm, "strategy": strategy, "regime": float(regime), "seed": seed}
        for regime, arm, strategy, seed in product(regimes, arms, strategies, seeds)
        if strategy in ARMS[arm]
    ]
    if not jobs:
        chosen = f"arms {arms}, strategies {strategies}, regimes {regimes}, seeds {seeds}"
        raise NothingToRun(f"nothing to run with {chosen}: name at least one of each; svm_margin needs the arm frozen")
    return jobs


def whole(chosen: Setting, jobs: Iterable[Mapping[str, Any]]) -> bool:
    """Whether `jobs` are all curves of a figure, with default switches and the seeds of its notebook; less must not replace that figure."""
    jobs = list(jobs)
    least = 2 if chosen.scale == "smoke" else 3 if chosen.dataset == "tiny_imagenet" else 5
    seeds = {job["seed"] for job in jobs}
    every = grid(chosen, ARMS, ARMS["frozen"], chosen.regimes, seeds)
    default = chosen.fingerprint == setting(chosen.dataset, chosen.scale).fingerprint
    return default and len(seeds) >= least and {_key(job) for job in every} <= {_key(job) for job in jobs}


def cycles(
    prepared: Prepared, *, arm: str, strategy: str, regime: float, seed: int, runs: Path | str, report: Report | None = None
) -> Generator[Cycle, None, None]:
    """One curve, as `loop.cycles.cycles`, below `runs`; at its end the curve of the SVM itself, if it has one."""
    run, experiment = _run(prepared, arm, strategy, regime, seed, runs)
    yield from active_learning(run, experiment, report)
    if strategy == "svm_margin" and not (run.path / SVM).exists():
        store.write_json(run.path / SVM, {"svm": _svm_curve(prepared, map(Cycle.read, run.records()))})


def _run(prepared: Prepared, arm: str, strategy: str, regime: float, seed: int, runs: Path | str) -> tuple[store.Run, Experiment]:
    chosen, train, pool = prepared.setting, prepared.train, Pool.of(prepared.pools[arm])
    n = step(chosen, regime, len(train), len(train.classes))
    tags = {
        "paper": PAPER, "dataset": "digits" if chosen.scale == "smoke" else chosen.dataset,
        "classes": len(train.classes), "pool": len(train), "scale": chosen.scale, "setting": chosen.fingerprint,
        "arm": arm, "strategy": strategy, "regime": float(regime), "seed": seed,
    }  # fmt: skip
    experiment = Experiment(
        pool, prepared.tests[arm], prepared.learners[arm], _strategy(chosen, strategy), oracle.simulated(train.targets),
        Protocol(n, n, chosen.points, seed=seed), initial=oracle.class_uniform(train.targets, len(train.classes)), tags=tags,
    )  # fmt: skip
    return experiment.run(runs, f"{chosen.dataset}-{arm}-{strategy}-{regime:g}-{seed}"), experiment


def _strategy(chosen: Setting, name: str) -> Strategy:
    return chosen.vaal if name == "vaal" else STRATEGIES[name]


# ---- results ------------------------------------------------------------------------------------------------------------------


def folder(scale: str, runs: Path | str = "") -> Path:
    """Where the runs of a scale are: below `runs`, else in runs/ of the project, those of scale paper in its part that git keeps."""
    return runs_folder(PAPER, scale, runs)


def find(setting: Setting, jobs: Iterable[Mapping[str, Any]], runs: Path | str) -> tuple[list[TaggedRun], list[Mapping[str, Any]]]:
    """Of `jobs` as from `grid`: the finished runs below `runs`, and the jobs that are left to do.

    Found by what their manifests say, so neither images nor backbone are needed: records brought from a GPU are found on a laptop.

    Raises:
        store.Corrupted: a manifest or a record is damaged.
        ValueError: runs of one arm are of different images or backbones.
    """
    below = {_key(columns): (run, columns) for run, columns in _below(runs, setting) if _finished(run, columns, setting)}
    jobs = list(jobs)
    for run in (below[_key(job)][0] for job in jobs if _key(job) in below):
        run.announce()
    return [below[_key(job)] for job in jobs if _key(job) in below], [job for job in jobs if _key(job) not in below]


def _below(runs: Path | str, setting: Setting) -> list[TaggedRun]:
    """The runs of `setting` below `runs`, all of an arm on the same images or features.

    Raises: as `find`.
    """
    found: list[TaggedRun] = []
    places: dict[tuple[Any, ...], Path] = {}
    first: dict[str, tuple[Any, Path]] = {}
    for run, columns in find_runs(runs, paper=PAPER, setting=setting.fingerprint):
        if not (run.folder(0) / "record.json").exists():
            continue
        experiment = (run.manifest or {})["experiment"]
        sources = experiment["pool"]["images"], experiment["test"]
        known, where = first.setdefault(columns["arm"], (sources, run.path))
        twin = places.setdefault(_key(columns), run.path)
        if known != sources or twin != run.path:
            raise ValueError(
                f"{where if known != sources else twin} and {run.path} are of one experiment, but of other images or another backbone: "
                "move the runs of one of the two away"
            )
        found.append((run, columns))
    return found


def _finished(run: store.Run, columns: Mapping[str, Any], setting: Setting) -> bool:
    scored = columns["strategy"] != "svm_margin" or (run.path / SVM).exists()
    return scored and len(run.records()) == setting.points


def _key(columns: Mapping[str, Any]) -> tuple[Any, ...]:
    return columns["arm"], columns["strategy"], float(columns["regime"]), columns["seed"]


def pretraining(setting: Setting, runs: Path | str) -> dict[str, Any]:
    """What `prepare` wrote of the pre-training below `runs`: seconds, loss (the mean over images) and history; see `Pretrained`.

    Raises:
        store.Corrupted: it is damaged, or not there.
    """
    path = _summary(setting, runs)
    if not path.exists():
        raise store.Corrupted(f"{path} is missing: copy it from where the runs beside it were made, or move these away to begin anew")
    return store.read_json(path, "copy it anew from where the runs beside it were made")


def _summary(setting: Setting, runs: Path | str) -> Path:
    return Path(runs) / f"pretrained-{setting.dataset}-{setting.scale}-{setting.fingerprint}.json"


def milestones(history: Iterable[Mapping[str, float]]) -> DataFrame:
    """`MILESTONES` beside the nearest-neighbour accuracy of a pre-training on CIFAR-10 at those epochs; NaN where it was not looked at."""
    import pandas

    looked = {round(look["epoch"], 2): look["knn"] for look in history if "knn" in look}
    rows = [
        {"epoch": epoch, "low": low, "high": high, "measured": looked.get(epoch, float("nan"))} for epoch, (low, high) in MILESTONES.items()
    ]
    return pandas.DataFrame(rows)


def read(runs: Path | str, scale: str, dataset: str | None = None) -> DataFrame:
    """All records below `runs` of the settings as they are now, with default switches, one row a cycle; empty where there are none."""
    import pandas

    names = DATASETS if dataset is None else (dataset,)
    found = [one for name in names for one in _below(runs, setting(name, scale))]
    return as_frame(found) if found else pandas.DataFrame()


def records(runs: Path | str = "") -> DataFrame | None:
    """All there is below `runs`, or in the project, at scale paper and laptop, as `advisor.advise` takes it; None where there is none."""
    import pandas

    frames = [frame for scale in ("paper", "laptop") if len(frame := read(folder(scale, runs), scale))]
    return pandas.concat(frames, ignore_index=True) if frames else None


def svm_accuracies(finished: Iterable[TaggedRun]) -> DataFrame:
    """Test accuracy of the SVM itself on the labels of every cycle of the runs of "svm_margin", beside that of the linear classifier.

    The paper does not say which of the two it plots.
    """
    import pandas

    rows = []
    for run, columns in finished:
        if columns["strategy"] == "svm_margin":
            scored = store.read_json(run.path / SVM, "delete it, and run the experiment again to have it computed anew")["svm"]
            for cycle, svm in zip(map(Cycle.read, run.records()), scored, strict=True):
                rows.append({**columns, "n_labelled": cycle.n_labelled, "svm": svm, "linear": cycle.metrics["accuracy"]})
    return pandas.DataFrame(rows)


def _svm_curve(prepared: Prepared, cycles: Iterable[Cycle]) -> list[float]:
    pool, test, rule = prepared.pools["frozen"], prepared.tests["frozen"], STRATEGIES["svm_margin"]
    assert isinstance(pool, Embedded) and isinstance(test.images, Embedded) and isinstance(rule, SvmMargin)
    options: dict[str, Any] = {"C": rule.C, "estimator": rule.estimator, "scale": rule.scale}
    labelled: list[int] = []
    curve = []
    for cycle in cycles:
        labelled += cycle.queried
        known = torch.tensor(labelled)
        curve.append(svm_accuracy(pool.features[known], prepared.train.targets[known], test.images.features, test.targets, **options))
    return curve


def table1(frame: DataFrame) -> DataFrame:
    """Table 1: accuracy at the end of the curves of the 10 % regime, half of the pool being labelled, beside the published number.

    Columns: dataset, arm, strategy, n_labelled, published, measured, low, high (95 % interval over seeds), seeds; NaN where not published
    or not measured.
    """
    import pandas

    from alnb.papers.published import published

    printed = published(PAPER, item="Table 1")[["dataset", "arm", "strategy", "value"]].rename(columns={"value": "published"})
    rows, half = [], frame[(frame["regime"] == 10) & (frame["cycle"] == frame["cycle"].max())]
    for (dataset, arm, strategy), own in half.groupby(["dataset", "arm", "strategy"], sort=False):
        low, high = stats.interval(own["accuracy"])
        measured = {
            "n_labelled": int(own["n_labelled"].iloc[0]),
            "measured": own["accuracy"].mean(),
            "low": low,
            "high": high,
            "seeds": len(own),
        }
        rows.append({"dataset": dataset, "arm": arm, "strategy": strategy, **measured})
    both = printed[printed["dataset"].isin(frame["dataset"])].merge(pandas.DataFrame(rows), how="outer", on=["dataset", "arm", "strategy"])
    return both[["dataset", "arm", "strategy", "n_labelled", "published", "measured", "low", "high", "seeds"]]


def draw_table1(table: DataFrame, title: str) -> Figure:
    """A table from `table1` as a figure: hollow markers published, filled ones measured with 95 % intervals; a panel for each data set."""
    from matplotlib.figure import Figure

    datasets = list(table["dataset"].unique())
    figure = Figure(figsize=(2.4 + 4.4 * len(datasets), 3.6), layout="constrained")
    for axis, dataset in zip(figure.subplots(1, len(datasets), squeeze=False)[0], datasets, strict=True):
        rows = table[table["dataset"] == dataset].reset_index(drop=True)
        axis.scatter(rows["published"], rows.index, marker="o", s=70, facecolors="none", edgecolors="0.3", label="published")
        for colour, arm, label in ((palette.COLOURS[0], "frozen", "self-supervised"), (palette.COLOURS[1], "scratch", "from scratch")):
            own = rows[rows["arm"] == arm]
            spread = [own["measured"] - own["low"], own["high"] - own["measured"]]
            axis.errorbar(own["measured"], own.index, xerr=spread, fmt="s", color=colour, capsize=3, label=label)
        axis.set(title=dataset, xlabel="test accuracy", yticks=rows.index, yticklabels=rows["strategy"].str.replace("_", " "))
        axis.grid(alpha=0.3)
        axis.margins(x=0.15, y=0.15)
    axis.legend(fontsize=8)
    figure.suptitle(title, fontsize=11)
    return figure


def draw(frame: DataFrame, title: str) -> Figure:
    """Figures 3 to 5: accuracy against labels, a panel for each regime, a colour for each strategy; solid with self-supervision, dashed
    without, as in the paper; mean over seeds with 95 % bands. The colours are ours, which colour-blind people can tell apart.

    At scale paper the published accuracies stand beside them as hollow markers, those of training from scratch half filled.
    """
    import seaborn
    from matplotlib.figure import Figure

    from alnb.papers.published import published

    regimes, look = sorted(frame["regime"].unique()), palette.looks(ARMS["frozen"])
    printed = tables.printed(frame, published(PAPER))
    figure = Figure(figsize=(1.9 + 4.2 * len(regimes), 4.4), layout="constrained")
    for axis, regime in zip(figure.subplots(1, len(regimes), squeeze=False)[0], regimes, strict=True):
        rows = frame[frame["regime"] == regime]
        for (arm, name), own in rows.groupby(["arm", "strategy"], sort=False, observed=True):
            style = {"linestyle": DASHES[arm], "markersize": 5, "err_kws": {"alpha": 0.1}}
            seaborn.lineplot(own, x="n_labelled", y="accuracy", errorbar=stats.interval, ax=axis, **look[name], **style)
        within = printed[printed["n_labelled"].between(rows["n_labelled"].min(), rows["n_labelled"].max())]
        for arm, filled in (("frozen", "none"), ("scratch", "bottom")):
            report.draw_published(axis, within[within["arm"] == arm], look, filled)
        ticks = sorted(rows["n_labelled"].unique())
        per_class = ticks[0] / frame["classes"].iloc[0]
        axis.set(title=f"{ticks[0]} labels a step, {per_class:g} per class", xlabel="labels", ylabel="test accuracy", xticks=ticks)
        axis.grid(alpha=0.3)
    figure.legend(handles=_handles(frame, look, not printed.empty), loc="outside right center", frameon=False)
    figure.suptitle(f"{title}; mean of {stats.seeds(frame)} seeds, 95 % bands", fontsize=11)
    return figure


DASHES: dict[str, Any] = {"frozen": "-", "scratch": "--"}


def _handles(frame: DataFrame, look: Mapping[str, Mapping[str, Any]], printed: bool) -> list[Any]:
    """What the legend of `draw` shows."""
    from matplotlib.lines import Line2D

    names, arms = set(frame["strategy"]), set(frame["arm"])
    handles = [Line2D([], [], label=name.replace("_", " "), **one) for name, one in look.items() if name in names]
    for arm, text, filled in (("frozen", "self-supervised, frozen", "none"), ("scratch", "from scratch", "bottom")):
        if arm in arms:
            handles.append(Line2D([], [], color="0.3", linestyle=DASHES[arm], label=text))
            published: dict[str, Any] = {
                "marker": "o",
                "markersize": 9,
                "fillstyle": filled,
                "markerfacecoloralt": "none",
                "label": f"published, {text}",
            }
            handles += [Line2D([], [], color="0.3", linestyle="none", **published)] if printed else []
    return handles
