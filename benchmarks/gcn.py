"""A query of CoreGCN and of UncertainGCN on 10,000 candidates and 5,000 labelled images, on the CPU with two threads.

The time is that of the whole strategy call, from features that are given. Alone: ``python -m benchmarks gcn``.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import torch

from alnb.acquire.gcn import CoreGCN, UncertainGCN, needed
from alnb.acquire.query import Pool, Query
from alnb.data import Embedded, Resident
from alnb.learn import nets
from alnb.store.streams import generator

CANDIDATES, LABELLED, D, PICKS, CLUSTERS = 10_000, 5_000, 512, 1_000, 10
N = CANDIDATES + LABELLED
FAST, SMALL, FORETOLD = 90.0, 0.25, 1.1  # the bars: seconds; extra memory over the dense graph, and over what was foretold
STRATEGIES = {"CoreGCN": CoreGCN(), "UncertainGCN": UncertainGCN()}


def features() -> torch.Tensor:
    """As pooled features of a ResNet are: Gaussian clusters through ReLU."""
    g = generator(0, "benchmark", "gcn")
    means = torch.randn(CLUSTERS, D, generator=g)
    return torch.randn(N, D, generator=g).add_(means[torch.randint(CLUSTERS, (N,), generator=g)]).relu_()


def query() -> Query:
    """With its features computed already."""
    images = Embedded(Resident(torch.zeros(N, 3, 1, 1, dtype=torch.uint8)), features())
    pool = Pool.of(images).acquire(torch.arange(LABELLED), torch.zeros(LABELLED, dtype=torch.int64), 0)
    made = Query(pool, nets.linear(10, D), pool.unlabelled, PICKS, generator(0, "benchmark", "gcn", "query"))
    assert made.features.shape == (N, D)
    return made


def speed(name: str) -> dict[str, Any]:
    given = query()
    start, cores = time.perf_counter(), time.process_time()
    chosen = STRATEGIES[name](given)
    taken, used = time.perf_counter() - start, time.process_time() - cores
    assert len(chosen.unique()) == PICKS
    return {
        "name": f"{name}: a query, seconds",
        "ratio": taken,
        "bar": FAST,
        "sense": "<=",
        "detail": f"{PICKS:,} of {CANDIDATES:,} candidates, {LABELLED:,} labelled, {D} features, {STRATEGIES[name].training.steps} steps; "
        f"{torch.get_num_threads()} threads, {used:.0f} s of a core, load of the machine {os.getloadavg()[0]:.1f}",
    }


MEMORY = """
import pathlib, re, torch
from alnb.acquire.gcn import CoreGCN, Graph, Training, learn
from benchmarks import gcn as b
def status(field):
    return 1024 * int(re.search(field + r":\\s+(\\d+) kB", pathlib.Path("/proc/self/status").read_text())[1])
torch.set_num_threads(2)
learn(Graph.of(torch.rand(200, b.D)), 100, Training(steps=3), 0)  # what torch allocates once and for all
query = b.query()
pathlib.Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far; ru_maxrss would keep even the parent's
before = status("VmRSS")
CoreGCN(Training(steps=20))(query)
print(status("VmHWM") - before)
"""


def memory() -> Iterator[dict[str, Any]]:
    """The growth of the peak resident size (Linux: VmHWM) of a fresh process over what it holds with the features given."""
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True)
    extra = float(done.stdout) if done.returncode == 0 else float("nan")
    failed = f"not measured: {done.stderr.strip().splitlines()[-1]}" if done.returncode else ""
    foretold = needed(N, D, CoreGCN().training.hidden)
    for what, size, bar in (("the dense graph", N * N * 4, SMALL), ("what it foretells", foretold, FORETOLD)):
        yield {
            "name": f"CoreGCN: extra peak memory over {what}",
            "ratio": extra / size,
            "bar": bar,
            "sense": "<=",
            "detail": failed or f"{extra / 1e6:.0f} MB over {size / 1e6:.0f} MB, in a fresh process that has the features; 20 steps",
        }


def measure() -> Iterator[dict[str, Any]]:
    """Rows for the table of benchmarks: about a minute."""
    threads = torch.get_num_threads()
    torch.set_num_threads(min(2, threads))
    try:
        for name in STRATEGIES:
            yield speed(name)
        yield from memory()
    finally:
        torch.set_num_threads(threads)


if __name__ == "__main__":
    for row in measure():
        print(f"{row['name']}: {row['ratio']:.3g} (bar {row['sense']} {row['bar']:g}); {row['detail']}", flush=True)
