"""Is training from scratch a fair opponent in Bengar et al. 2021 at scale `laptop`? More updates and weaker crops.

The table goes to `figures/results.json`. CIFAR-10, from starts that are even over the classes. A seed is a replication: its pre-training
is that of ``python -m benchmarks bengar2021``, or else made here. Twenty minutes without these: ``python -m benchmarks opponents``.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pandas

import alnb
from alnb import acquire
from alnb.loop import oracle
from alnb.papers import runs_folder
from alnb.papers.bengar2021 import experiment as bengar2021
from alnb.report import stats
from benchmarks.papers import BUILD, SCALE, Row, keep, plain

UPDATES = {50: (100, 400, 1600), 250: (100, 400)}  # by labels; the least of scale laptop is 100
SEEDS = range(5)


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
    """Every way to train, and a bar: the frozen arm over each way from scratch, with the fewest labels."""
    rows = [
        {"n_labelled": labels, "arm": name, "seed": seed, "accuracy": accuracy(data, arm, learner, labels, seed)}
        for seed, data in ((seed, images.of({"replication": seed})) for seed in SEEDS)
        for labels, name, arm, learner in trainings(data)
    ]
    frame = pandas.DataFrame(rows)
    table = [
        {"n_labelled": labels, "training": name, "accuracy": values.mean(), "low": low, "high": high, "seeds": len(values)}
        for (labels, name), values in frame.groupby(["n_labelled", "arm"], sort=False)["accuracy"]
        for low, high in [stats.interval(values)]
    ]
    few = frame[frame["n_labelled"] == min(UPDATES)]
    others = [name for name in few["arm"].unique() if name != "frozen"]
    gains = {name: stats.paired(few, {"arm": "frozen"}, {"arm": name}, on=("n_labelled",)) for name in others}
    hardest, gain = min(gains.items(), key=lambda item: item[1].low)
    name = f"self-supervision over each of {len(gains)} ways to train from scratch, {min(UPDATES)} labels: lowest end of the intervals"
    detail = f"{gain}, over {hardest}; paired by replication; scale {SCALE}"
    return pandas.DataFrame(table), {"name": name, "ratio": 100 * gain.low, "bar": 0.0, "sense": ">=", "detail": detail}


def measure() -> Iterator[Row]:
    """No row of speed; the table and its bar go to `figures/results.json`."""
    runs = runs_folder(bengar2021.PAPER, SCALE, BUILD / bengar2021.PAPER)
    table, bar = ways(bengar2021.prepare(bengar2021.setting("cifar10", SCALE), runs))
    keep("opponents", {"trainings": plain(table)}, [bar])
    yield from ()
