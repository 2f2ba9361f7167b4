"""Bengar et al. 2021 at scale `laptop`, with its notebooks: how long each takes, whether the first claim is seen, and what was measured.

Half an hour and more, so it is not among those that run when none is named: ``python -m benchmarks bengar2021``. It wants the images of
CIFAR-10 and Tiny ImageNet ($ALNB_DATA). The figures go to `figures/`, the records to `build/bengar2021/`, which is emptied before, so that
times are true.
"""

import math
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas

from alnb import bengar2021, claims, data, notebook, store

SCALE = "laptop"
NOTEBOOKS = {  # and the data set whose images they need
    "figure3": "cifar10", "table1": "cifar10", "figure6": "cifar10", "figure4": "cifar100", "figure5": "tiny_imagenet"
}  # fmt: skip
MINUTES = 15
PROJECT = Path(__file__).parents[1]
Row = dict[str, Any]


def there(dataset: str) -> bool:
    """Whether the images of `dataset` are on this machine."""
    try:
        data.load(dataset)
    except data.DataError:
        return False
    return True


def seconds(name: str, runs: Path) -> float:
    """Wall time of one notebook, the pre-training included also where another notebook has done it before."""
    chosen = bengar2021.setting(NOTEBOOKS[name], SCALE)
    before = next(bengar2021.folder(SCALE, runs).glob(f"pretrained-{chosen.dataset}-*"), None)
    values = {"scale": SCALE, "runs": str(runs), "figures": str(PROJECT / "figures"), "device": "cpu"}
    start = time.perf_counter()
    notebook.execute(PROJECT / f"notebooks/bengar2021/{name}.ipynb", values, runs / f"{name}.ipynb")
    took = time.perf_counter() - start
    return took if before is None else took + float(store.read_json(before)["seconds"])


def plain(table: pandas.DataFrame) -> list[Row]:
    """The rows of a table as JSON takes them."""
    return [
        {name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in row.items()}
        for row in table.astype(object).to_dict("records")
    ]


def measure() -> Iterator[Row]:
    """A row of minutes for each notebook; one for the first claim, with all that was measured in its `table`."""
    threads = "2 CPU threads, the pre-training included; one run"
    runs = PROJECT / "build" / "bengar2021"
    shutil.rmtree(runs, ignore_errors=True)
    for name, dataset in NOTEBOOKS.items():
        minutes = seconds(name, runs) / 60 if there(dataset) else math.nan
        detail = f"minutes; scale {SCALE}, {threads}" if minutes == minutes else f"the images of {dataset} are not on this machine"
        yield {"name": f"Bengar et al. 2021, {name}", "ratio": minutes, "bar": MINUTES, "sense": "<=", "detail": detail}
    frame = bengar2021.read(bengar2021.folder(SCALE, runs), SCALE)
    pretraining = [store.read_json(path) for path in sorted(bengar2021.folder(SCALE, runs).glob("pretrained-*.json"))]
    gain = first_claim(frame)
    found = {
        "claims": {name: plain(claims.claims(frame, name)) for name in frame["dataset"].unique()},
        "table1": plain(bengar2021.table1(frame[frame["regime"] == 10])),
        "figure6": plain(claims.figure6(frame)),
        "ends": plain(ends(frame)),
        "knn": {name: one["history"][-1]["knn"] for name, one in zip(sorted(frame["dataset"].unique()), pretraining, strict=True)},
    }
    yield {
        "name": "self-supervision over training from scratch, random choice, smallest regime of CIFAR-10: lower end of the interval",
        "ratio": 100 * gain.low,
        "bar": 0.0,
        "sense": ">=",
        "detail": f"points of accuracy: {gain}, paired by seed, means over 5 to 25 labels per class; scale {SCALE}",
        "table": found,
    }


def first_claim(frame: pandas.DataFrame) -> claims.Difference:
    """How much more accurate random choice is with the frozen backbone than from scratch, in the smallest regime of CIFAR-10."""
    rows = frame[(frame["dataset"] == "cifar10") & (frame["strategy"] == "random")]
    rows = rows[rows["regime"] == rows["regime"].min()]
    return claims.paired(rows, {"arm": "frozen"}, {"arm": "scratch"})


def ends(frame: pandas.DataFrame) -> pandas.DataFrame:
    """The last point of each curve: mean accuracy over seeds and their number, by data set, regime, arm and strategy."""
    last = frame[frame["cycle"] == frame["cycle"].max()]
    keys = ["dataset", "regime", "arm", "strategy", "n_labelled", "pool"]
    table = last.groupby(keys, sort=False)["accuracy"].agg(accuracy="mean", seeds="count").reset_index()
    return table.astype({"n_labelled": int, "pool": int, "seeds": int})


if __name__ == "__main__":
    import torch

    from benchmarks.__main__ import show

    torch.set_num_threads(2)
    show(measure())
