"""What makes a run: the rules (`Protocol`), everything else (`Experiment`), and the record of a cycle (`Cycle`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from alnb import store
from alnb.acquire import Strategy, random
from alnb.acquire.query import Pool
from alnb.data import ImageSet
from alnb.learn.task import Task, classification
from alnb.learn.train import Learner
from alnb.loop.oracle import Oracle
from alnb.store import Json, Run
from alnb.store.checks import at_least, one_of
from alnb.store.streams import Stream

MEASURED = ("seconds", "peak_memory_mb")  # the fields of a record that differ between two executions


class NothingToRun(ValueError):
    """This combination of parameters is not part of the experiment. An error for a whole grid; a single cell of a sweep is skipped."""


@dataclass(frozen=True)
class Protocol:
    """The rules of an experiment. After cycle k, `initial + k * budget` labels are paid for, besides those of the pool at the start."""

    initial: int  # labels of cycle 0; 0: its net learns from the labels that the pool has at the start, see `Pool.acquire`
    budget: int  # labels of each later cycle
    cycles: int  # in all, cycle 0 included
    init: str = "fresh"  # the net of a cycle starts "fresh", or "warm" from the net of the cycle before
    seed: int = 0  # of the whole replication: first labels, nets, order
    checkpoint: str = "last"  # the net that a training keeps: the "last", or that of the epoch that was "best_test" on the test images
    exact: bool = True  # False: a strategy may choose fewer, as draws with replacement do

    def __post_init__(self) -> None:
        """Raises: ValueError, which names the field, its value and what it may be."""
        for name, low in {"initial": 0, "budget": 1, "cycles": 1, "seed": 0}.items():
            at_least(f"Protocol.{name}", getattr(self, name), low)
            object.__setattr__(self, name, int(getattr(self, name)))  # a number of NumPy, too
        one_of("Protocol.init", self.init, ("fresh", "warm"))
        one_of("Protocol.checkpoint", self.checkpoint, ("last", "best_test"))

    def size(self, cycle: int) -> int:
        """How many images are asked for in `cycle`."""
        return self.budget if cycle else self.initial

    def check(self, pool: Pool) -> None:
        """Raises: ValueError if the pool has fewer images than will be asked for, or nothing to learn from in cycle 0."""
        if not self.initial and not len(pool.labelled):
            raise ValueError("Protocol.initial is 0, but the pool has no labels: ask for some, or give it Pool.of(images).acquire(..., 0)")
        wanted, available = self.initial + (self.cycles - 1) * self.budget, len(pool.unlabelled)
        if wanted > available:
            raise ValueError(
                f"Protocol asks for {wanted} labels ({self.initial} + {self.cycles - 1} x {self.budget}), the pool has "
                f"{available} unlabelled images: lower initial, budget or cycles"
            )


@dataclass(frozen=True)
class Experiment:
    """The values that make a run. Two experiments with the same `manifest` give the same records."""

    pool: Pool
    test: ImageSet  # for the evaluation alone
    learner: Learner
    strategy: Strategy
    oracle: Oracle
    protocol: Protocol
    initial: Strategy = random  # chooses the first images, with `query.net` None
    side: Mapping[str, Any] = field(default_factory=dict)  # other facts about the images, which strategies get as `query.side`
    tags: Mapping[str, Any] = field(default_factory=dict)  # what the experiment calls this run, such as its arm: columns of `records`
    task: Task | None = None  # None: classification into the classes of `test`

    def __post_init__(self) -> None:
        """Fill in the task. Raises: ValueError where the pool has fewer images than the protocol asks for."""
        object.__setattr__(self, "task", self.task or classification(len(self.test.classes)))
        self.protocol.check(self.pool)

    @property
    def stream(self) -> Stream:
        """The root of all random numbers of the run."""
        return Stream(self.protocol.seed)

    @cached_property
    def manifest(self) -> Json:
        """The experiment as plain JSON: the content of `manifest.json`, of which a digest names the run's folder.

        Raises: TypeError, which names the field and the value, if a value has no description.
        """
        described: Json = {"dataset": self.test.name}
        for name in ("pool", "test", "learner", "strategy", "oracle", "protocol", "initial", "side", "tags", "task"):
            try:
                described[name] = store.describe(getattr(self, name))
            except TypeError as error:
                raise TypeError(f"Experiment.{name}: {error}") from error
        return described

    def run(self, runs: Path | str, name: str = "run") -> Run:
        """The run below `runs`, in a folder called `name` and a digest of the manifest. Nothing is written yet."""
        return Run.named(runs, name, self.manifest)


@dataclass(frozen=True)
class Cycle:
    """One cycle's record: what was asked, and how good the net became with all labels up to and including these."""

    cycle: int
    n_labelled: int
    metrics: Mapping[str, Any]  # on the test images, as `Task.evaluate` gives them
    queried: tuple[int, ...]  # global indices, in order of choice
    labels: tuple[int, ...]  # the answers to them
    class_counts: tuple[int, ...]  # of the answers, per class
    seconds: Mapping[str, float]  # wall time of query, oracle, fit, evaluate, in the process that finished the cycle
    peak_memory_mb: float  # of the GPU if there is one, else of the process
    notes: tuple[str, ...] = ()

    @classmethod
    def read(cls, record: Json) -> Cycle:
        """From the content of a `record.json`."""
        sequences = {name: tuple(record[name]) for name in ("queried", "labels", "class_counts", "notes")}
        return cls(**{**record, **sequences})

    @property
    def reproducible(self) -> Json:
        """The record without what was measured. On the CPU it is equal bit for bit, however often the run was killed."""
        return {name: value for name, value in asdict(self).items() if name not in MEASURED}
