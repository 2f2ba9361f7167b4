"""A query of CoreGCN and of UncertainGCN on 10,000 candidates and 5,000 labelled images, on the CPU with two threads.

The time is that of the whole strategy call, from features that are given.
"""

import os
import time
from collections.abc import Iterator
from typing import Any

import torch

from alnb.acquire.query import Pool, Query
from alnb.data import Embedded, Resident
from alnb.learn import nets
from alnb.papers.methods.gcn import CoreGCN, UncertainGCN, needed
from benchmarks.made import STREAM, clusters, extra_memory

CANDIDATES, LABELLED, D, PICKS, CLUSTERS = 10_000, 5_000, 512, 1_000, 10
N = CANDIDATES + LABELLED
FAST, SMALL, PREDICTED = 90.0, 0.25, 1.1  # the bars: seconds; extra memory over the dense graph, and over what was predicted
STRATEGIES = {"CoreGCN": CoreGCN(), "UncertainGCN": UncertainGCN()}


def query() -> Query:
    """A query whose features are computed already."""
    features = clusters(N, D, CLUSTERS, STREAM / "gcn")
    images = Embedded(Resident(torch.zeros(N, 3, 1, 1, dtype=torch.uint8)), features)
    pool = Pool.of(images).acquire(torch.arange(LABELLED), torch.zeros(LABELLED, dtype=torch.int64), 0)
    made = Query(pool, nets.linear(10, D), pool.unlabelled, PICKS, STREAM / "gcn" / "query")
    assert made.features.shape == (N, D)
    return made


def speed(name: str) -> dict[str, Any]:
    asked = query()
    start, cores = time.perf_counter(), time.process_time()
    chosen = STRATEGIES[name](asked)
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


PREPARE = """
from alnb.papers.methods.gcn import CoreGCN, Graph, Training, learn
from benchmarks import gcn, made
learn(Graph.of(torch.rand(200, gcn.D)), 100, Training(steps=3), made.STREAM)  # what torch allocates once and for all
query = gcn.query()
"""


def memory() -> Iterator[dict[str, Any]]:
    """Memory of a query beyond its features, over the dense graph and over what the strategy predicts."""
    extra, failure = extra_memory(PREPARE, "CoreGCN(Training(steps=20))(query)")
    predicted = needed(N, D, CoreGCN().training.hidden)
    for what, size, bar in (("the dense graph", N * N * 4, SMALL), ("what it foretells", predicted, PREDICTED)):
        yield {
            "name": f"CoreGCN: extra peak memory over {what}",
            "ratio": extra / size,
            "bar": bar,
            "sense": "<=",
            "detail": failure or f"{extra / 1e6:.0f} MB over {size / 1e6:.0f} MB, in a fresh process that has the features; 20 steps",
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
