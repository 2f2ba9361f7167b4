"""A run, cycle by cycle: what the explorer shows, without a widget.

These functions see the true classes. They look back at a run; no strategy may use them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from copy import copy
from typing import Any

import torch
from torch import Tensor

from alnb import store
from alnb.data import ImageSet
from alnb.learn.train import Report
from alnb.loop import cycles as loop
from alnb.loop.cycles import PREDICTIONS
from alnb.loop.experiment import Cycle, Experiment
from alnb.store import Run

POOL, LABELLED, QUERIED = 0, 1, 2  # states of an image in a cycle


class Trail:
    """The finished cycles of one run, and a way to add the next."""

    def __init__(self, train: ImageSet, experiment: Experiment, run: Run) -> None:
        """Read the finished cycles of `run`, which `experiment` makes. `train`: the pool, with the true classes.

        Raises: store.ManifestDiffers, store.Corrupted, store.NewerFormat about the run folder. Nothing is overwritten.
        """
        self.train, self.experiment, self.run = train, experiment, run
        self.protocol = experiment.protocol
        self.tags: Mapping[str, Any] = experiment.tags  # what the experiment calls the run: arm, strategy, seed, scale, ...
        self.strategy: str = self.tags["strategy"]
        self.title = self.strategy.replace("_", " ")
        self.run.claim(experiment.manifest)
        self.cycles = [Cycle.read(record) for record in run.records()]

    def advance(self, report: Report | None = None) -> Cycle | None:
        """Compute the next cycle, or read it if another process was faster. Returns None if all cycles are finished.

        The run is locked only during this call, so papermill or another explorer may continue it in between. Raises: as `loop.cycles`.
        """
        with closing(loop.cycles(self.run, self.experiment, report)) as going:
            for cycle in going:
                if cycle.cycle == len(self.cycles):
                    self.cycles.append(cycle)
                    return cycle
        return None

    @property
    def last(self) -> int:
        """The number of the last cycle; -1 if there is none."""
        return len(self.cycles) - 1

    def until(self, k: int) -> Trail:
        """The run as it was after cycle `k`; -1: before the first."""
        earlier = copy(self)
        earlier.cycles = self.cycles[: k + 1]
        return earlier

    def states(self) -> Tensor:
        """`POOL`, `LABELLED` or (in the last cycle) `QUERIED` for each image, i64 [N]."""
        states = torch.full((len(self.train),), POOL)
        for cycle in self.cycles:
            states[list(cycle.queried)] = QUERIED if cycle is self.cycles[-1] else LABELLED
        return states

    def queried_in(self) -> dict[int, int]:
        """The cycle of each queried image, by global index."""
        return {image: cycle.cycle for cycle in self.cycles for image in cycle.queried}

    def counts(self) -> Tensor:
        """Labels of each class, i64 [C]."""
        zero = torch.zeros(len(self.train.classes), dtype=torch.int64)
        return sum((torch.tensor(cycle.class_counts) for cycle in self.cycles), zero)

    def predictions(self) -> Mapping[str, list[Any]] | None:
        """What the net before it predicted for the last query, as `loop.cycles` stores it; None if no net was trained yet."""
        if self.last < 1:
            return None
        query = store.read_json(self.run.folder(self.last) / "query.json")
        return {name: query[name] for name in PREDICTIONS}


def queries(trails: Iterable[Trail], iterations: Sequence[int]) -> dict[str, dict[int, Tensor]]:
    """The queries as `report.queries.draw_queries` takes them: by strategy and iteration. PT4AL's iteration 1 is cycle 0."""
    return {t.strategy: {i: torch.tensor(t.cycles[i - 1].queried) for i in iterations if i <= len(t.cycles)} for t in trails}
