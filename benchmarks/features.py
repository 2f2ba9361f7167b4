"""Which features the experiment `which_strategy` stands on: pixels, rotation or SimSiam, by what random labels reach at scale laptop.

``python -m benchmarks.features [DATASET ...]`` prints a row for each pretext: CPU seconds of the pre-training, accuracy of nearest
neighbours with all labels, and accuracy of the linear classifier with few random labels a class. Seeds are from 100 on: no result has them.
"""

import sys
import time
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from alnb.data import Embedded, ImageSet
from alnb.learn.pretrain import Monitor
from alnb.learn.train import predict
from alnb.loop.cycles import cycles
from alnb.papers.which_strategy import experiment as which

PRETEXTS, SEEDS, REGIMES, NEIGHBOURS = ("pixels", "rotation", "simsiam"), (100,), (1, 5, 20), 20


class Pixels(which.PreparedData):
    """The pixels as features."""

    @cached_property
    def embedded(self) -> tuple[Embedded, ImageSet]:
        """As `which.PreparedData.embedded`."""
        pool, test = (Embedded(s.images, predict(lambda x: x.flatten(1), s.images)) for s in self.images)
        centre = pool.features.mean(dim=0)
        return which.unit(pool, centre), replace(self.test, images=which.unit(test, centre))


def measure(dataset: str, pretext: str, seed: int, runs: Path) -> dict[str, float]:
    """Seconds, and accuracies by what they are of."""
    setting = which.setting(dataset, "laptop", pretext="" if pretext == "pixels" else pretext)
    data = (Pixels if pretext == "pixels" else which.PreparedData)(setting, runs, seed=seed)
    len(data.pool)  # reading is not counted
    start = time.process_time()
    pool, test = data.embedded
    row = {"seconds": time.process_time() - start}
    data = replace(data, setting=replace(setting, width=pool.shape[0], cycles=2))
    vars(data)["embedded"] = pool, test
    net = which.head_net(data.setting)(len(test.classes))
    row["knn"] = Monitor(replace(data.pool, images=pool), test, NEIGHBOURS)(net)
    for job in which.jobs(data.setting, ["random"], REGIMES, [seed]):
        for cycle in cycles(runs / dataset / pretext / f"regime {job['regime']}", which.experiment(data, job)):
            row[f"{cycle.n_labelled // len(test.classes)} a class"] = cycle.metrics["accuracy"]
    return row


def main(names: list[str]) -> None:
    """Print the rows."""
    torch.set_num_threads(1)
    for dataset in names or ("digits", "fashion_mnist", "cifar10"):
        for pretext in PRETEXTS:
            for seed in SEEDS:
                with TemporaryDirectory() as folder:
                    row = measure(dataset, pretext, seed, Path(folder))
                shown = ", ".join(f"{name} {value:.0f}" if name == "seconds" else f"{name} {value:.1%}" for name, value in row.items())
                print(f"{dataset}, {pretext}, seed {seed}: {shown}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
