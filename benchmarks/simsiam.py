"""Views a second through SimSiam at the paper's size: ResNet-18, batches of 512 CIFAR-10 images, two views of each, with augmentation.

On a GPU alone. alone: ``python -m benchmarks.simsiam``.
"""

import statistics
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

from alnb import Learner, Stream
from alnb.learn import pretrain
from alnb.learn.train import fit
from alnb.papers.bengar2021 import experiment as bengar2021
from benchmarks.training import cifar_like, seconds

UPDATES, REPEATS = 100, 5
BAR = 30_000  # views a second, forward and backward


def views_a_second(device: torch.device, updates: int, repeats: int, compiled: bool) -> tuple[float, str]:
    """Median over `repeats` of `fit` as the pre-training does it, everything included, after one that warms up; and how."""
    chosen = bengar2021.setting("cifar10", "paper")
    images, _, kind = cifar_like(10 * chosen.pretraining.batch)
    images, everything = images.to(device), torch.arange(10 * chosen.pretraining.batch)
    recipe = replace(chosen.pretraining, epochs=1e-9, min_updates=updates, views=2, compile=compiled)
    learner = Learner(chosen.net, recipe, loss=chosen.pretext.loss)
    net = pretrain.build(learner, chosen.pretext, 0, device)
    rates = []
    for repeat in range(repeats + 1):
        took = seconds(lambda: fit(net, images, everything, everything, learner, Stream()), device)
        if repeat:
            rates.append(2 * recipe.batch * updates / took)
    how = "torch.compile" if compiled else "without torch.compile"
    return statistics.median(rates), f"views/s; batch {recipe.batch}, {updates} updates, {how}, {kind}; median of {repeats}"


def measure() -> Iterator[dict[str, Any]]:
    """A row as the notebooks have it, and one with torch.compile; not measured where there is no GPU."""
    for compiled in (False, True):
        rate, detail = float("nan"), "needs a GPU, and this machine has none"
        if torch.cuda.is_available():
            cuda = torch.device("cuda")
            rate, detail = views_a_second(cuda, UPDATES, REPEATS, compiled)
            detail = f"{detail}, {torch.cuda.get_device_name(cuda)}"
        name = f"SimSiam, ResNet-18, GPU, {'with torch.compile' if compiled else 'as the notebooks train it'}"
        yield {"name": name, "ratio": rate, "bar": BAR, "sense": ">=", "detail": detail}
