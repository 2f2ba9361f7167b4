"""One cycle of the frozen arm at the size of CIFAR-10: query, answers, linear classifier, evaluation, record, on the CPU with two threads.

The features are made up: as many as CIFAR-10 has images, as wide as those of ResNet-18. What they are changes the time of k-center alone.
"""

import statistics
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

import alnb
from alnb import acquire
from alnb.data import Embedded, ImageSet, Resident
from alnb.loop import oracle
from alnb.papers.bengar2021 import experiment as bengar2021
from benchmarks.kcenter import CLUSTERED, D, N, clustered
from benchmarks.made import STREAM

CLASSES, TEST, LABELLED, BUDGET, VIEWS = 10, 10_000, 5_000, 500, 2
CYCLES = 4  # the first, of 5,000 labels, is not timed
BAR = 5.0  # seconds


def embedded(features: torch.Tensor, views: int = 0) -> ImageSet:
    """Features, each with the class of the nearest of ten of them, and with one pixel as its image."""
    targets = torch.cdist(features, features[:CLASSES]).argmin(dim=1)
    noise = [0.1 * torch.randn(features.shape, generator=(STREAM / "view" / k).generator()) for k in range(views)]
    drawn = torch.stack([features + one_view for one_view in noise]) if views else None
    images = Resident(torch.zeros(len(features), 3, 1, 1, dtype=torch.uint8))
    return ImageSet(Embedded(images, features, drawn), targets, tuple("0123456789"), "made up")  # type: ignore[arg-type]


def seconds(strategy: str, train: ImageSet, test: ImageSet) -> list[float]:
    """Of each cycle after the first, until its record is on disk."""
    protocol = alnb.Protocol(LABELLED, BUDGET, CYCLES)
    learner = alnb.Learner(partial(alnb.nets.linear, width=D), bengar2021.HEAD)
    pool, truth = alnb.Pool.of(train.images), oracle.simulated(train.targets)
    experiment = alnb.Experiment(pool, test, learner, acquire.STRATEGIES[strategy], truth, protocol)
    times = []
    with tempfile.TemporaryDirectory() as folder:
        steps = alnb.cycles(Path(folder), experiment)
        next(steps)
        for _ in range(1, CYCLES):
            start = time.perf_counter()
            next(steps)
            times.append(time.perf_counter() - start)
    return times


def measure() -> Iterator[dict[str, Any]]:
    """A row for each strategy, in seconds."""
    features = clustered()
    train, test = embedded(features, VIEWS), embedded(features[:TEST].flip(0).contiguous())
    for strategy in ("entropy", "kcenter"):
        times = seconds(strategy, train, test)
        detail = (
            f"seconds; median of cycles 1 to {CYCLES - 1}; {N} x {D} cached features ({CLUSTERED}) with {VIEWS} views, "
            f"{LABELLED} labelled, {BUDGET} asked for, 100 epochs of the head, {TEST} test features, {torch.get_num_threads()} threads"
        )
        yield {
            "name": f"one cycle of the frozen arm, {strategy}",
            "ratio": statistics.median(times),
            "bar": BAR,
            "sense": "<=",
            "detail": detail,
        }
