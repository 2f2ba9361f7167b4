"""The loop: one generator for sweeps and widgets alike. It knows no strategy by name."""

from __future__ import annotations

import sys
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alnb import store
from alnb.acquire import Strategy, random, scores
from alnb.acquire.query import VOID, Pool, Query, check_indices
from alnb.data import ImageSet
from alnb.learn.nets import Net
from alnb.learn.train import Learner, Report, Watch, evaluate, fit, log_probs, predict
from alnb.loop.oracle import Oracle, Pending, human
from alnb.store import Json, Run
from alnb.store import stop as pause
from alnb.store import streams as rng

MEASURED = ("seconds", "peak_memory_mb")  # the fields of a record that no two executions share
BELIEFS = ("predicted", "confidence", "margin", "entropy")  # what `beliefs` gives

PEEKED = "looked at the test images: of each training the net that was best on them was kept, so its accuracy is too high"


class NothingToRun(ValueError):
    """A combination of choices that an experiment does not have: of a whole grid an error, of one of its cells none."""


@dataclass(frozen=True)
class Protocol:
    """The rules of an experiment: after cycle k, `initial + k * budget` labels are paid for."""

    initial: int  # labels of cycle 0
    budget: int  # labels of each later cycle
    cycles: int  # points on the learning curve, the first included
    subset: int | None = None  # score only so many candidates, drawn at random in each cycle; None: all
    init: str = "fresh"  # each cycle's net starts "fresh", or "warm" from that of the cycle before
    seed: int = 0
    checkpoint: str = field(default="last", metadata={"added": True})  # of each training the "last" net, or that of the "best_test" epoch
    exact: bool = field(default=True, metadata={"added": True})  # False: a strategy may choose fewer, as draws with replacement do

    def __post_init__(self) -> None:
        """Raises: ValueError, which names the field, its value and what it may be."""
        for name in ("initial", "budget", "cycles"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ValueError(f"Protocol.{name} is {value!r}: it must be a whole number, at least 1")
        for name, value, allowed in (("init", self.init, ("fresh", "warm")), ("checkpoint", self.checkpoint, ("last", "best_test"))):
            if value not in allowed:
                raise ValueError(f"Protocol.{name} is {value!r}: it must be one of {', '.join(allowed)}")
        if self.subset is not None and self.subset < max(self.initial, self.budget):
            raise ValueError(
                f"Protocol.subset is {self.subset}: fewer than the {max(self.initial, self.budget)} images asked for in one cycle"
            )

    def size(self, cycle: int) -> int:
        """How many images are asked for in `cycle`."""
        return self.budget if cycle else self.initial

    def check(self, pool: Pool) -> None:
        """Raises: ValueError where the pool has fewer images than will be asked for."""
        wanted = self.initial + (self.cycles - 1) * self.budget
        if wanted > len(pool.unlabelled):
            raise ValueError(
                f"Protocol asks for {wanted} labels ({self.initial} + {self.cycles - 1} x {self.budget}), the pool has "
                f"{len(pool.unlabelled)} unlabelled images: lower initial, budget or cycles"
            )


@dataclass(frozen=True)
class Cycle:
    """One cycle's record: what was asked, and how good the net became with all labels up to and including these."""

    cycle: int
    n_labelled: int
    metrics: Mapping[str, Any]  # as `train.evaluate` gives them, on the test images
    queried: tuple[int, ...]  # global indices, in order of choice
    labels: tuple[int, ...]  # the answers to them
    class_counts: tuple[int, ...]  # of the answers, per class
    seconds: Mapping[str, float]  # wall time of query, oracle, fit, evaluate, in the process that finished the cycle
    peak_memory_mb: float  # of the device where it is a GPU, else of the process
    notes: tuple[str, ...] = ()

    @classmethod
    def read(cls, record: Json) -> Cycle:
        """From the content of a `record.json`."""
        sequences = {name: tuple(record[name]) for name in ("queried", "labels", "class_counts", "notes")}
        return cls(**{**record, **sequences})

    @property
    def reproducible(self) -> Json:
        """The record without what was measured: on the CPU, equal bit for bit however often the run was killed."""
        return {name: value for name, value in asdict(self).items() if name not in MEASURED}


def describe(
    pool: Pool,
    test: ImageSet,
    *,
    learner: Learner,
    strategy: Strategy,
    oracle: Oracle,
    protocol: Protocol,
    initial: Strategy = random,
    side: Mapping[str, Any] | None = None,
    columns: Mapping[str, Any] | None = None,
) -> Json:
    """The experiment as plain JSON: what `manifest.json` holds, and what a run's folder may be named by (`Run.named`)."""
    parts = {"pool": pool, "test": test, "learner": learner, "strategy": strategy, "oracle": oracle, "protocol": protocol}
    named = {"columns": dict(columns)} if columns else {}
    described: Json = store.describe({"dataset": test.name, **parts, "initial": initial, "side": side or {}, **named})
    return described


def cycles(
    run: Run | Path | str,
    pool: Pool,
    test: ImageSet,
    *,
    learner: Learner,
    strategy: Strategy,
    oracle: Oracle,
    protocol: Protocol,
    initial: Strategy = random,
    side: Mapping[str, Any] | None = None,
    columns: Mapping[str, Any] | None = None,
    report: Report | None = None,
) -> Generator[Cycle, None, Pending | None]:
    """Active learning, one `Cycle` at a time: ask, get the answers, train, evaluate, write the record.

    Finished cycles are read from `run` and yielded first; then the run goes on from where it was, whatever ended it. The generator
    ends early, and returns the `Pending` question, where a human has to answer first: call again when the answers are there.

    Args:
        initial: chooses the first images, with `query.net` None.
        side: what else strategies may know of the images, as `query.side`.
        columns: what the experiment calls this run, such as its arm: plain values by name, for `records.read`.
        report: called with (updates done, updates in all, mean loss) during each training.
    Raises:
        ValueError: the protocol asks for more than the pool has, or a strategy's or oracle's answer is not valid.
        store.ManifestDiffers, store.Locked, store.Corrupted: about the run folder. Nothing is overwritten.
        pause.TimeIsUp: somebody asked to stop; call again to go on.
    """
    run = run if isinstance(run, Run) else Run(run)
    protocol.check(pool)
    roles: dict[str, Any] = {"learner": learner, "strategy": strategy, "oracle": oracle, "protocol": protocol, "initial": initial}
    experiment = describe(pool, test, **roles, side=side, columns=columns)
    run.claim(experiment)
    run.announce()
    finished = [Cycle.read(record) for record in run.records()]
    if len(finished) < protocol.cycles:
        with run.lock():
            notes = run.begin(experiment, pool.images.device)
            notes += (PEEKED,) if protocol.checkpoint == "best_test" else ()
            step = _Step(run, test, learner, oracle, protocol, side or {}, report, notes)
            finished = [Cycle.read(record) for record in run.records()]
            for cycle in finished:
                pool = pool.acquire(torch.tensor(cycle.queried), torch.tensor(cycle.labels), cycle.cycle)
                yield cycle
            net = None
            for k in range(len(finished), protocol.cycles):
                pause.check(f"{run.path}, before cycle {k} of {protocol.cycles}")
                done = step(pool, net, k, strategy if k else initial)
                if isinstance(done, Pending):
                    return done
                pool, net, cycle = done
                yield cycle
    else:
        yield from finished
    return None


def pending(run: Run | Path | str) -> Pending | None:
    """The question of `run` that a human still has to answer, in part or wholly; None if there is none."""
    run = run if isinstance(run, Run) else Run(run)
    k = len(run.records())
    path, manifest = run.folder(k) / "query.json", run.manifest
    if manifest is None or manifest["experiment"]["oracle"] != store.describe(human) or not path.exists():
        return None
    found = human(run, k, torch.tensor(store.read_json(path)["queried"]))
    return found if isinstance(found, Pending) else None


def beliefs(run: Run, cycle: int) -> Mapping[str, list[Any]] | None:
    """What the net that `cycle` of `run` began with said of the images that it asked for, in their order, before it was told.

    `predicted`: the class number; `confidence`: its probability; `margin` and, in nats, `entropy` as in `acquire.scores`.

    Returns:
        None where nothing had been learned yet, or where the run is of a version that did not write it.
    Raises:
        store.Corrupted: the file is damaged.
    """
    path = run.folder(cycle) / "query.json"
    said = store.read_json(path) if path.exists() else {}
    return {name: said[name] for name in BELIEFS} if set(said) >= set(BELIEFS) else None


def progress(run: Run) -> tuple[int, int, float | None]:
    """How far `run` is: finished cycles, cycles in all (0 where it has not begun), accuracy of the last finished one.

    Raises:
        store.Corrupted: its manifest or its last record is damaged.
    """
    manifest = run.manifest
    if manifest is None:
        return 0, 0, None
    cycles = manifest["experiment"]["protocol"]["cycles"]
    finished = sorted(run.path.glob("cycle_*/record.json"), key=lambda path: int(path.parent.name.removeprefix("cycle_")))
    return len(finished), cycles, store.read_json(finished[-1])["metrics"]["accuracy"] if finished else None


@dataclass(frozen=True)
class _Step:
    """One cycle's work, the same whether the cycle before was computed just now or by a process that was killed."""

    run: Run
    test: ImageSet
    learner: Learner
    oracle: Oracle
    protocol: Protocol
    side: Mapping[str, Any]
    report: Report | None
    notes: tuple[str, ...]

    def __call__(self, pool: Pool, net: Net | None, k: int, strategy: Strategy) -> tuple[Pool, Net, Cycle] | Pending:
        device, classes = pool.images.device, len(self.test.classes)
        seconds: dict[str, float] = {}
        reset_peak(device)
        with _timed(seconds, "query"):
            queried = self.query(pool, net, k, strategy)
        with _timed(seconds, "oracle"):
            labels = self.oracle(self.run, k, queried)
        if isinstance(labels, Pending):
            return labels
        self.check_labels(labels, queried, k)
        pool = pool.acquire(queried, labels, k)
        with _timed(seconds, "fit"):
            net = self.trained(pool, k)
        with _timed(seconds, "evaluate"):
            scored = evaluate(net, self.test.images, self.test.targets, classes)
        counts = torch.bincount(labels[labels != VOID], minlength=classes)
        answers = {"queried": tuple(queried.tolist()), "labels": tuple(labels.tolist()), "class_counts": tuple(counts.tolist())}
        cycle = Cycle(k, len(pool.labelled), scored, **answers, seconds=seconds, peak_memory_mb=peak(device), notes=self.notes)
        store.write_json(self.run.folder(k) / "record.json", asdict(cycle))
        for earlier in range(k):
            for name in ("net.pt", "best.pt"):
                self.checkpoint(earlier).with_name(name).unlink(missing_ok=True)
        return pool, net, cycle

    def query(self, pool: Pool, net: Net | None, k: int, strategy: Strategy) -> Tensor:
        """The query of cycle `k`: written before anybody is asked, and never chosen anew."""
        path = self.run.folder(k) / "query.json"
        if not path.exists():
            net = self.trained(pool, k - 1) if net is None and k else net
            n, seed = self.protocol.size(k), self.protocol.seed
            query = Query(pool, net, self.candidates(pool, k), n, rng.generator(seed, "query", k), self.side, self.run.folder(k), k)
            chosen = torch.as_tensor(strategy(query)).cpu()
            check_query(chosen, query, f"strategy {store.describe(strategy)!r} in cycle {k}", exact=self.protocol.exact)
            store.write_json(path, {"queried": chosen.tolist(), **({} if net is None else _beliefs(net, pool, chosen))})
        return torch.tensor(store.read_json(path)["queried"])

    def candidates(self, pool: Pool, k: int) -> Tensor:
        """All unlabelled images, or a random subset of them."""
        unlabelled = pool.unlabelled
        if self.protocol.subset is None or self.protocol.subset >= len(unlabelled):
            return unlabelled
        generator = rng.generator(self.protocol.seed, "subset", k)
        return unlabelled[torch.randperm(len(unlabelled), generator=generator)[: self.protocol.subset]].sort().values

    def check_labels(self, labels: Tensor, queried: Tensor, k: int) -> None:
        """Raises: ValueError where the oracle's answer is not one class, or VOID, for each image."""
        classes = len(self.test.classes)
        if labels.dtype != torch.int64 or labels.shape != queried.shape:
            raise ValueError(f"oracle in cycle {k}: asked for {len(queried)} labels, it gave {labels.dtype} of shape {list(labels.shape)}")
        wrong = ((labels < VOID) | (labels >= classes)).nonzero().flatten()
        if len(wrong):
            image, label = int(queried[wrong[0]]), int(labels[wrong[0]])
            raise ValueError(f"oracle in cycle {k}: label {label} of image {image} is none of the {classes} classes, from 0 on")

    def trained(self, pool: Pool, k: int) -> Net:
        """The net of cycle `k`: trained on the labels known then, or, where that was done before, read from its checkpoint."""
        images, known = pool.images, ((pool.acquired <= k) & (pool.labels != VOID)).nonzero().flatten()
        seed, checkpoint = self.protocol.seed, self.checkpoint(k)
        net = self.learner.build(len(self.test.classes), seed, k, device=images.device)
        if self.protocol.init == "warm" and k and not checkpoint.exists():
            net.load_state_dict(self.trained(pool, k - 1).state_dict())
        recipe, best = self.learner.recipe, None
        if self.protocol.checkpoint == "best_test":
            identity = store.fingerprint(self.learner, self.protocol, known, pool.labels[known])
            best = _Best(self.test, checkpoint.with_name("best.pt"), identity)
        fit(
            net, images, known, pool.labels[known], recipe, loss=self.learner.loss, later=self.learner.later, seed=seed,
            where=("cycle", k), checkpoint=checkpoint, report=self.report,
            watch=None if best is None else Watch(max(1, round(recipe.updates(len(known)) / recipe.epochs)), best.look),
        )  # fmt: skip
        if best is not None:
            best.restore(net)
        return net

    def checkpoint(self, k: int) -> Path:
        """Where cycle `k` keeps its training, and at the end its net, until the next cycle is finished."""
        return self.run.folder(k) / "net.pt"


@dataclass
class _Best:
    """The net of a training that was the most accurate on the test images, of equally accurate ones the first; kept in a file.

    After a kill, epochs are looked at again that were looked at before: they find the same accuracy, and change nothing.
    """

    test: ImageSet
    path: Path
    identity: str  # of the training
    accuracy: float = -1.0

    def __post_init__(self) -> None:
        """Know what an earlier process found."""
        if self.path.exists():
            self.accuracy = self.saved()["accuracy"]

    def look(self, net: Net, step: int) -> None:
        found = evaluate(net, self.test.images, self.test.targets, len(self.test.classes))["accuracy"]
        assert isinstance(found, float)
        if found > self.accuracy:
            self.accuracy = found
            store.write_tensors(self.path, {"identity": self.identity, "accuracy": found, "step": step, "net": net.state_dict()})

    def restore(self, net: Net) -> None:
        net.load_state_dict(self.saved()["net"])

    def saved(self) -> Any:
        content = store.read_tensors(self.path, self.test.images.device)
        if content["identity"] != self.identity:
            raise store.Corrupted(f"{self.path} belongs to another training (other recipe, labels or seed); delete it to begin anew")
        return content


def _beliefs(net: Net, pool: Pool, chosen: Tensor) -> Json:
    """See `beliefs`. Four digits are enough to be shown, and small."""
    said = predict(log_probs(net), pool.images, chosen).cpu()
    if said.ndim != 2 or said.shape[1] < 2:
        return {}
    numbers = (1 - scores.least_confidence(said), scores.margin(said), scores.entropy(said))
    found = (said.argmax(1).tolist(), *([round(value, 4) for value in one.tolist()] for one in numbers))
    return dict(zip(BELIEFS, found, strict=True))


def check_query(chosen: Tensor, query: Query, what: str, *, exact: bool = True) -> None:
    """Raises: ValueError where a strategy's answer is not `query.n` different candidates (or, not `exact`, from 1 to as many); it says
    what is wrong with which.
    """
    check_indices(chosen, query.pool, what)
    if len(chosen) != query.n and (exact or not 0 < len(chosen) < query.n):
        raise ValueError(f"{what}: it was to choose {query.n} images, it chose {len(chosen)}")
    outside = chosen[~torch.isin(chosen, query.candidates)]
    if len(outside):
        raise ValueError(f"{what}: image {int(outside[0])} is not among the {len(query.candidates)} candidates")


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[stage] = round(time.perf_counter() - start, 4)


def reset_peak(device: torch.device) -> None:
    """Begin to measure peak memory anew, where the device can."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak(device: torch.device) -> float:
    """Peak memory in MB: of the GPU since `reset_peak`, else of the process since it began."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 1e6, 1)
    if sys.platform == "win32":
        return 0.0
    import resource

    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB on Linux
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6, 1)
