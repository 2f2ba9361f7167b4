"""The loop: one generator for sweeps and widgets alike. It knows no strategy by name."""

import sys
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from alnb import store
from alnb.acquire import Strategy, scores
from alnb.acquire.query import VOID, Pool, Query, as_tensor, check_query
from alnb.learn.checkpoint import BestNet
from alnb.learn.nets import Net
from alnb.learn.task import Task
from alnb.learn.train import Report, TrainingHook, fit, log_probs, predict
from alnb.loop.experiment import Cycle, Experiment
from alnb.store import Json, Run, stop

PREDICTIONS = ("predicted", "confidence", "margin", "entropy")  # of each queried image, in the query's file, see `_predictions`
PEEKED = "looked at the test images: each training kept the net that was best on them, so its accuracy is too high"


def cycles(run: Run | Path | str, experiment: Experiment, report: Report | None = None) -> Generator[Cycle, None, None]:
    """Active learning, one `Cycle` at a time: ask, get the answers, train, evaluate, write the record.

    Finished cycles are read from `run` and yielded first. Then the run continues where it stopped.

    Args:
        run: the run, or its folder; `experiment.run(runs)` names one.
        report: called with (updates done, updates in all, mean loss) during each training.
    Raises:
        ValueError: a strategy's or oracle's answer is not valid.
        store.ManifestDiffers, store.Locked, store.Corrupted: about the run folder. Nothing is overwritten.
        stop.TimeIsUp: a stop was requested; call again to continue.
    """
    run = run if isinstance(run, Run) else Run(run)
    protocol, pool = experiment.protocol, experiment.pool
    run.claim(experiment.manifest)
    finished = [Cycle.read(record) for record in run.records()]
    if len(finished) >= protocol.cycles:
        yield from finished
        return
    with run.lock():
        notes = run.begin(experiment.manifest, pool.images.device)
        notes += (PEEKED,) if protocol.checkpoint == "best_test" else ()
        work = _CycleWork(run, experiment, report, notes)
        finished = [Cycle.read(record) for record in run.records()]
        for cycle in finished:
            queried, labels = (torch.tensor(numbers, dtype=torch.int64) for numbers in (cycle.queried, cycle.labels))
            pool = pool.acquire(queried, labels, cycle.cycle)
            yield cycle
        net = None
        for k in range(len(finished), protocol.cycles):
            stop.check(f"{run.path}, before cycle {k} of {protocol.cycles}")
            pool, net, cycle = work(pool, net, k)
            yield cycle


@dataclass(frozen=True)
class _CycleWork:
    """One cycle's work, the same whether this process or a killed one computed the cycle before."""

    run: Run
    experiment: Experiment
    report: Report | None
    notes: tuple[str, ...]

    @property
    def task(self) -> Task:
        assert self.experiment.task is not None  # `Experiment.__post_init__` fills it in
        return self.experiment.task

    def __call__(self, pool: Pool, net: Net | None, k: int) -> tuple[Pool, Net, Cycle]:
        """The pool, the net and the record after cycle `k`; `net` is that of cycle k - 1, None if another process trained it."""
        test, device, place = self.experiment.test, pool.images.device, f"cycle {k}"
        seconds: dict[str, float] = {}
        reset_peak(device)
        with _timed(seconds, "query"):
            queried = self.query(pool, net, k)
        with _timed(seconds, "oracle"):
            labels = as_tensor(self.experiment.oracle(queried), f"{place}: the oracle", f"int64 labels of all {len(queried)} images")
        self.task.check_labels(labels, queried, place)
        pool = pool.acquire(queried, labels, k)
        with _timed(seconds, "fit"):
            net = self.trained(pool, k)
        with _timed(seconds, "evaluate"):
            metrics = self.task.evaluate(net, test.images, test.targets, self.task.outputs)
        counts = torch.bincount(labels[labels != self.task.void], minlength=self.task.outputs)
        answers = {"queried": tuple(queried.tolist()), "labels": tuple(labels.tolist()), "class_counts": tuple(counts.tolist())}
        cycle = Cycle(k, len(pool.labelled), metrics, **answers, seconds=seconds, peak_memory_mb=peak(device), notes=self.notes)
        store.write_json(self.run.folder(k) / "record.json", asdict(cycle))
        for earlier in range(k):
            for name in ("net.pt", "best.pt"):
                (self.run.folder(earlier) / name).unlink(missing_ok=True)
        return pool, net, cycle

    def query(self, pool: Pool, net: Net | None, k: int) -> Tensor:
        """The query of cycle `k`, global indices i64 [n]. It is written before the oracle answers, and never chosen again."""
        path, protocol = self.run.folder(k) / "query.json", self.experiment.protocol
        if not path.exists():
            net = self.trained(pool, k - 1) if net is None and k else net
            strategy: Strategy = self.experiment.strategy if k else self.experiment.initial
            stream = self.experiment.stream / "cycle" / k / "query"
            query = Query(pool, net, pool.unlabelled, protocol.size(k), stream, self.experiment.side, self.run.folder(k), k)
            place = f"strategy {getattr(strategy, '__qualname__', type(strategy).__name__)} in cycle {k}"
            chosen = as_tensor(strategy(query), place, f"indices i64 [{query.n}]")
            check_query(chosen, query, place, exact=protocol.exact)
            store.write_json(path, {"queried": chosen.tolist(), **({} if net is None else _predictions(net, pool, chosen))})
        return torch.tensor(store.read_json(path)["queried"], dtype=torch.int64)

    def trained(self, pool: Pool, k: int) -> Net:
        """The net of cycle `k`: trained on the labels of that cycle, or read from its checkpoint if it was trained before."""
        known = ((pool.acquired <= k) & (pool.labels != VOID)).nonzero().flatten()
        protocol, learner = self.experiment.protocol, self.task.complete(self.experiment.learner)
        stream, path = self.experiment.stream / "cycle" / k, self.run.folder(k) / "net.pt"
        net = learner.build(self.task.outputs, stream, pool.images.device)
        if protocol.init == "warm" and k and not path.exists():
            net.load_state_dict(self.trained(pool, k - 1).state_dict())
        hook, best = TrainingHook(self.report), None
        if protocol.checkpoint == "best_test":
            identity = store.fingerprint("best", learner, protocol, known, pool.labels[known])
            best = BestNet(path.with_name("best.pt"), identity, self.accuracy)
            hook = replace(hook, looks=((best.look, learner.recipe.epoch(len(known))),))
        fit(net, pool.images, known, pool.labels[known], learner, stream, checkpoint=path, hook=hook)
        if best is not None:
            best.restore(net, pool.images.device)
        return net

    def accuracy(self, net: Net) -> float:
        """Of `net` on the test images."""
        test = self.experiment.test
        return float(self.task.evaluate(net, test.images, test.targets, self.task.outputs)["accuracy"])


def _predictions(net: Net, pool: Pool, chosen: Tensor) -> Json:
    """What the net predicts for the images at `chosen` i64 [n], before it knows their labels; the explorer shows it.

    `predicted`: the class number; `confidence`: its probability; `margin` and, in nats, `entropy` as in `acquire.scores`. Four digits are
    enough to be shown, and small. Empty for a net with one output or with maps.
    """
    log_p = predict(log_probs(net), pool.images, chosen).cpu()
    if log_p.ndim != 2 or log_p.shape[1] < 2:
        return {}
    numbers = (1 - scores.least_confidence(log_p), scores.margin(log_p), scores.entropy(log_p))
    columns = (log_p.argmax(1).tolist(), *([round(value, 4) for value in column.tolist()] for column in numbers))
    return dict(zip(PREDICTIONS, columns, strict=True))


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[stage] = round(time.perf_counter() - start, 4)


def reset_peak(device: torch.device) -> None:
    """Measure peak memory from now on, if the device is a GPU."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak(device: torch.device) -> float:
    """Peak memory in MB: of the GPU since `reset_peak`, else of the process since its start."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 1e6, 1)
    if sys.platform == "win32":
        return 0.0
    import resource

    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB on Linux
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6, 1)
