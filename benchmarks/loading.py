"""`alnb.load` of 2,000 runs of 10 cycles: every manifest and record read, its sha256 verified, as one table.

The runs are made up, with the manifest of a real one and 100 to 500 images asked for in each cycle; they were written just before, so the
system has them in memory.
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
from alnb import acquire, store
from alnb.data import ImageSet, Resident
from alnb.loop import oracle
from benchmarks.made import STREAM

RUNS, CYCLES, CLASSES, POOL = 2_000, 10, 10, 50_000
SIZES = (100, 200, 300, 400, 500)  # images asked for in each cycle, in turn over the runs
REPEATS = 3
BAR = 5.0  # seconds


def manifest(k: int, budget: int) -> dict[str, Any]:
    """The experiment of run `k`, as the loop describes it."""
    images = Resident(torch.zeros(4, 3, 1, 1, dtype=torch.uint8))
    test = ImageSet(images, torch.arange(4) % 2, ("a", "b"), "made up")
    learner = alnb.Learner(partial(alnb.nets.small, width=8), alnb.Recipe(epochs=2))
    strategy = list(acquire.STRATEGIES)[k % 4]
    seed, truth = k // 4, oracle.simulated(test.targets)
    tags = {"dataset": "made up", "classes": CLASSES, "pool": POOL, "scale": "paper", "arm": "a", "strategy": strategy, "seed": seed}
    pool = alnb.Pool.of(Resident(torch.zeros(budget * CYCLES, 3, 1, 1, dtype=torch.uint8)))
    protocol = alnb.Protocol(budget, budget, CYCLES, seed=seed)
    return alnb.Experiment(pool, test, learner, acquire.STRATEGIES[strategy], truth, protocol, tags=tags).manifest


def record(cycle: int, budget: int, k: int) -> dict[str, Any]:
    """A cycle as the loop records it."""
    drawn = (STREAM / k / cycle).generator()
    queried = torch.randperm(POOL, generator=drawn)[:budget]
    labels = torch.randint(CLASSES, (budget,), generator=drawn)
    scores = torch.rand(CLASSES + 3, generator=drawn).tolist()
    return {
        "cycle": cycle, "n_labelled": budget * (cycle + 1),
        "metrics": {"accuracy": scores[0], "per_class": scores[3:], "negative_log_likelihood": scores[1], "calibration_error": scores[2]},
        "queried": queried.tolist(), "labels": labels.tolist(), "class_counts": torch.bincount(labels, minlength=CLASSES).tolist(),
        "seconds": {"query": 0.1234, "oracle": 0.0001, "fit": 12.3456, "evaluate": 0.5}, "peak_memory_mb": 1234.5, "notes": [],
    }  # fmt: skip


def write(path: Path, content: dict[str, Any]) -> None:
    """As `store.write_json` writes it, but not made durable, which for so many files takes minutes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(store.encode(content))


def make(root: Path) -> None:
    """All runs, below `root`."""
    environment = store.environment(torch.device("cpu"))
    for k in range(RUNS):
        budget, folder = SIZES[k % len(SIZES)], root / f"run-{k:04d}"
        write(folder / "manifest.json", {"format": store.FORMAT, "experiment": manifest(k, budget), "environment": environment})
        for cycle in range(CYCLES):
            write(folder / f"cycle_{cycle:03d}/record.json", record(cycle, budget, k))


def measure() -> Iterator[dict[str, Any]]:
    """One row, in seconds."""
    times = []
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder))
        for _ in range(REPEATS):
            start = time.perf_counter()
            frame = alnb.load(folder)
            times.append(time.perf_counter() - start)
        size = sum(path.stat().st_size for path in Path(folder).rglob("*.json")) / 1e6
    assert len(frame) == RUNS * CYCLES
    detail = (
        f"seconds; median of {REPEATS}, {min(times):.1f} to {max(times):.1f}; {RUNS} runs x {CYCLES} cycles of {SIZES[0]} to {SIZES[-1]} "
        f"images, {size:.0f} MB, every sha256 verified; {len(frame)} rows x {len(frame.columns)} columns"
    )
    yield {"name": "`alnb.load` of 20,000 records", "ratio": statistics.median(times), "bar": BAR, "sense": "<=", "detail": detail}
