"""t-SNE of 10,000 x 512 features: the time of the first call, and of a second one, which reads what the first left."""

import os
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import torch

from alnb.report.layout import layout
from benchmarks.made import STREAM, clusters

N, D, CLUSTERS = 10_000, 512, 10
FIRST, AGAIN = 60.0, 1.0  # seconds: the bars


def measure() -> Iterator[dict[str, Any]]:
    x, seconds = clusters(N, D, CLUSTERS, STREAM / "tsne"), []
    load = f"{torch.get_num_threads()} threads, load of the machine before {os.getloadavg()[0]:.1f}"
    with tempfile.TemporaryDirectory() as cache:
        for _ in range(2):
            start = time.perf_counter()
            layout(x, cache=cache)
            seconds.append(time.perf_counter() - start)
    what = f"t-SNE of {N:,} x {D} features"
    yield {"name": f"{what}, seconds", "ratio": seconds[0], "bar": FIRST, "sense": "<=", "detail": load}
    yield {
        "name": f"{what}, found kept, seconds",
        "ratio": seconds[1],
        "bar": AGAIN,
        "sense": "<=",
        "detail": "reads what the first call left",
    }
