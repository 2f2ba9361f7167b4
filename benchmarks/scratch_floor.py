"""Whether more updates or other crops would help training from scratch, in Bengar et al. 2021 at scale `laptop`: a fair opponent?

On CIFAR-10, from class-uniform starts; some ten minutes, with the pre-training of `benchmarks.bengar2021` where that ran before.
Alone: ``python -m benchmarks.scratch_floor``.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas

import alnb
from alnb import acquire
from alnb.loop import oracle
from alnb.papers.bengar2021 import experiment as bengar2021
from alnb.report import stats
from benchmarks.bengar2021 import PROJECT, SCALE, plain

UPDATES = {50: (100, 400, 1600), 250: (100, 400)}  # by labels; the least of scale laptop is 100
SEEDS = range(5)


def prepared(seed: int = 0) -> bengar2021.Prepared:
    """The images with a pre-training of `seed`; of 0, the one of the notebooks."""
    chosen, runs = bengar2021.setting("cifar10", SCALE), PROJECT / "build" / "bengar2021"
    folder = bengar2021.folder(SCALE, runs / f"pretraining-{seed}" if seed else runs)
    return bengar2021.prepare(chosen, *bengar2021.images(chosen), runs=folder, seed=seed)


def accuracy(prepared: bengar2021.Prepared, arm: str, learner: alnb.Learner, labels: int, seed: int) -> float:
    """Test accuracy of one training on a class-uniform start."""
    train = prepared.train
    roles: dict[str, Any] = {
        "learner": learner, "strategy": acquire.random, "oracle": oracle.simulated(train.targets),
        "protocol": alnb.Protocol(labels, labels, 1, seed=seed), "initial": oracle.class_uniform(train.targets, len(train.classes)),
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        (cycle,) = alnb.cycles(Path(folder), alnb.Pool.of(prepared.pools[arm]), prepared.tests[arm], **roles)
    return float(cycle.metrics["accuracy"])


def trainings(prepared: bengar2021.Prepared) -> Iterator[tuple[int, str, alnb.Learner]]:
    """Labels, name and learner of everything that is compared; "frozen" is what the others are held against."""
    scratch = prepared.learners["scratch"]
    for labels, counts in UPDATES.items():
        yield labels, "frozen", prepared.learners["frozen"]
        for preset, augment in bengar2021.PRESETS.items():
            for updates in counts:
                recipe = replace(scratch.recipe, epochs=1e-9, min_updates=updates, augment=augment)
                yield labels, f"{preset}, {updates} updates", replace(scratch, recipe=recipe)


def measure() -> Iterator[dict[str, Any]]:
    """One row: how far the frozen arm is above the best way to train from scratch on the fewest labels; all of them in its `table`."""
    images = prepared()
    rows = [
        {"n_labelled": labels, "arm": name, "seed": seed, "accuracy": accuracy(images, arm, learner, labels, seed)}
        for labels, name, learner in trainings(images)
        for arm in ["frozen" if name == "frozen" else "scratch"]
        for seed in SEEDS
    ]
    frame = pandas.DataFrame(rows)
    table = [
        {"n_labelled": labels, "training": name, "accuracy": own.mean(), "low": low, "high": high, "seeds": len(own)}
        for (labels, name), own in frame.groupby(["n_labelled", "arm"], sort=False)["accuracy"]
        for low, high in [stats.interval(own)]
    ]
    few = frame[frame["n_labelled"] == min(UPDATES)]
    best = few[few["arm"] != "frozen"].groupby("arm")["accuracy"].mean().idxmax()
    gain = stats.paired(few, {"arm": "frozen"}, {"arm": best}, on=("n_labelled",))
    yield {
        "name": f"self-supervision over the best of {2 * len(UPDATES[min(UPDATES)])} ways to train from scratch, {min(UPDATES)} labels of "
        "CIFAR-10: lower end of the interval",
        "ratio": 100 * gain.low,
        "bar": 0.0,
        "sense": ">=",
        "detail": f"points of accuracy: {gain}, paired by seed; the best was {best}; scale {SCALE}",
        "table": plain(pandas.DataFrame(table)),
    }


if __name__ == "__main__":
    import torch

    from benchmarks.__main__ import show

    torch.set_num_threads(2)
    show(measure())
