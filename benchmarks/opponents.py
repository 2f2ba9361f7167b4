"""Is training from scratch a fair opponent in Bengar et al. 2021 at scale `laptop`? Two checks, into `figures/results.json`.

More updates and weaker crops for training from scratch; and another pre-training for the frozen arm. CIFAR-10, from starts that are even
over the classes; twenty minutes: ``python -m benchmarks opponents``.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pandas

import alnb
from alnb import acquire
from alnb.loop import oracle
from alnb.papers.bengar2021 import experiment as bengar2021
from alnb.report import stats
from benchmarks.papers import BUILD, SCALE, Row, keep, plain

UPDATES = {50: (100, 400, 1600), 250: (100, 400)}  # by labels; the least of scale laptop is 100
LABELS, PRETRAININGS, SEEDS = (50, 150, 250), (0, 1), range(5)


def prepared(seed: int) -> bengar2021.PreparedData:
    """The images with a pre-training of `seed`."""
    chosen = bengar2021.setting("cifar10", SCALE)
    folder = bengar2021.folder(SCALE, BUILD / f"opponents-{seed}")
    return bengar2021.prepare(chosen, folder, seed=seed)


def accuracy(prepared: bengar2021.PreparedData, arm: str, learner: alnb.Learner, labels: int, seed: int) -> float:
    """Test accuracy of one training on a start that is even over the classes."""
    train = prepared.pool
    pool, truth, protocol = alnb.Pool.of(prepared.pools[arm]), oracle.simulated(train.targets), alnb.Protocol(labels, labels, 1, seed=seed)
    even = oracle.class_uniform(train.targets, len(train.classes))
    experiment = alnb.Experiment(pool, prepared.tests[arm], learner, acquire.random, truth, protocol, initial=even)
    with tempfile.TemporaryDirectory() as folder:
        (cycle,) = alnb.cycles(Path(folder), experiment)
    return float(cycle.metrics["accuracy"])


def trainings(prepared: bengar2021.PreparedData) -> Iterator[tuple[int, str, str, alnb.Learner]]:
    """Labels, name, arm and learner of everything that is compared; "frozen" is what the others are held against."""
    scratch = prepared.learners["scratch"]
    for labels, counts in UPDATES.items():
        yield labels, "frozen", "frozen", prepared.learners["frozen"]
        for preset, augment in bengar2021.PRESETS.items():
            for updates in counts:
                recipe = replace(scratch.recipe, epochs=1e-9, min_updates=updates, augment=augment)
                yield labels, f"{preset}, {updates} updates", "scratch", replace(scratch, recipe=recipe)


def ways(images: bengar2021.PreparedData) -> tuple[pandas.DataFrame, Row]:
    """Every way to train, and a bar: the frozen arm over the best way from scratch, with the fewest labels."""
    rows = [
        {"n_labelled": labels, "arm": name, "seed": seed, "accuracy": accuracy(images, arm, learner, labels, seed)}
        for labels, name, arm, learner in trainings(images)
        for seed in SEEDS
    ]
    frame = pandas.DataFrame(rows)
    table = [
        {"n_labelled": labels, "training": name, "accuracy": values.mean(), "low": low, "high": high, "seeds": len(values)}
        for (labels, name), values in frame.groupby(["n_labelled", "arm"], sort=False)["accuracy"]
        for low, high in [stats.interval(values)]
    ]
    few = frame[frame["n_labelled"] == min(UPDATES)]
    means = few[few["arm"] != "frozen"].groupby("arm")["accuracy"].mean()
    gain = stats.paired(few, {"arm": "frozen"}, {"arm": means.idxmax()}, on=("n_labelled",))
    name = f"self-supervision over the best of {len(means)} ways to train from scratch, {min(UPDATES)} labels: lower end of the interval"
    detail = f"points of accuracy: {gain}, paired by seed; the best was {means.idxmax()}; scale {SCALE}"
    return pandas.DataFrame(table), {"name": name, "ratio": 100 * gain.low, "bar": 0.0, "sense": ">=", "detail": detail}


def leads(images: dict[int, bengar2021.PreparedData]) -> tuple[list[Row], Row]:
    """The lead of random choice in the frozen arm with each pre-training, and a bar: the smallest, with the fewest labels."""
    places = [("scratch", 0), *(("frozen", number) for number in images)]
    rows = [
        {"pretraining": number, "arm": arm, "n_labelled": labels, "seed": seed, "regime": 0.1,
         "accuracy": accuracy(images[number], arm, images[number].learners[arm], labels, seed)}
        for arm, number in places for labels in LABELS for seed in SEEDS
    ]  # fmt: skip
    frame, table = pandas.DataFrame(rows), []
    for number, one in images.items():
        pair = frame[(frame["arm"] == "scratch") | (frame["pretraining"] == number)]
        gaps = stats.by_budget(pair, {"arm": "frozen"}, {"arm": "scratch"})
        table += [{"pretraining": number, "knn": one.pretrained.history[-1]["knn"], **gap} for gap in plain(gaps)]
    lowest = min((row for row in table if row["n_labelled"] == min(LABELS)), key=lambda row: row["mean"])
    name = f"self-supervision over training from scratch, {min(LABELS)} labels, worst of {len(images)} pre-trainings: lower end"
    detail = f"of the 95 % interval, points of accuracy; {100 * lowest['mean']:+.1f} in the mean, {lowest['n']} seeds; scale {SCALE}"
    return table, {"name": name, "ratio": 100 * lowest["low"], "bar": 0.0, "sense": ">=", "detail": detail}


def measure() -> Iterator[Row]:
    """No row of speed; both tables and their bars go to `figures/results.json`."""
    images = {seed: prepared(seed) for seed in PRETRAININGS}
    (table, first), (lead, second) = ways(images[0]), leads(images)
    keep("opponents", {"trainings": plain(table), "pretrainings": lead}, [first, second])
    yield from ()
