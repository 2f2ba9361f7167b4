"""Whether Bengar et al. 2021 at scale `laptop` hangs on the one pre-training that all its curves share: the first claim with two of them.

On CIFAR-10; ten minutes, with the first pre-training of `benchmarks.bengar2021` where that ran before.
Alone: ``python -m benchmarks.pretraining_seeds``.
"""

from collections.abc import Iterator
from typing import Any

import pandas

from alnb.report import stats
from benchmarks.bengar2021 import SCALE, plain
from benchmarks.scratch_floor import accuracy, prepared

PRETRAININGS = (0, 1)
LABELS = (50, 150, 250)
SEEDS = range(5)


def measure() -> Iterator[dict[str, Any]]:
    """One row: the smallest lead of the frozen arm with the fewest labels over the pre-trainings; each of them in its `table`."""
    images = {seed: prepared(seed) for seed in PRETRAININGS}
    rows = [
        {
            "pretraining": pretraining,
            "arm": arm,
            "n_labelled": labels,
            "seed": seed,
            "accuracy": accuracy(one, arm, one.learners[arm], labels, seed),
        }
        for pretraining, one in images.items()
        for arm in (("frozen", "scratch") if pretraining == PRETRAININGS[0] else ("frozen",))
        for labels in LABELS
        for seed in SEEDS
    ]
    frame, table = pandas.DataFrame(rows), []
    scratch = frame[frame["arm"] == "scratch"]
    for pretraining, one in images.items():
        own = frame[(frame["arm"] == "frozen") & (frame["pretraining"] == pretraining)]
        gaps = stats.by_budget(pandas.concat([own, scratch]).assign(regime=0.1), {"arm": "frozen"}, {"arm": "scratch"})
        knn = one.pretrained.history[-1]["knn"]
        table += [{"pretraining": pretraining, "knn": knn, **gap} for gap in plain(gaps)]
    least = min((row for row in table if row["n_labelled"] == min(LABELS)), key=lambda row: row["mean"])
    spread = f"of the 95 % interval, points of accuracy; {100 * least['mean']:+.1f} in the mean, {least['n']} seeds"
    yield {
        "name": f"self-supervision over training from scratch, {min(LABELS)} labels, worst of {len(PRETRAININGS)} pre-trainings: lower end",
        "ratio": 100 * least["low"],
        "bar": 0.0,
        "sense": ">=",
        "detail": f"{spread}, starts even over the classes; CIFAR-10, scale {SCALE}",
        "table": table,
    }


if __name__ == "__main__":
    import torch

    from benchmarks.__main__ import show

    torch.set_num_threads(2)
    show(measure())
