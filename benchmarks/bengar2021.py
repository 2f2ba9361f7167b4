"""Bengar et al. 2021 at scale `laptop`, with its notebooks: how long each takes, whether the first claim is seen, and what was measured.

Half an hour and more, so it is not among those that run when none is named: ``python -m benchmarks bengar2021``. It wants the images of
CIFAR-10 and Tiny ImageNet ($ALNB_DATA). The figures go to `figures/`, the records to `build/bengar2021/`: notebooks that have been
executed there are not executed again.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pandas

from alnb import data, notebook
from alnb.papers.bengar2021 import claims
from alnb.papers.bengar2021 import experiment as bengar2021
from alnb.report import stats

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


def executed(name: str, runs: Path) -> Path:
    """The executed copy of a notebook below `runs`: there already, or made now.

    Raises:
        SystemExit: an execution was interrupted, so that what is left of it would take too short a time.
    """
    copy = runs / f"{name}.ipynb"
    if any(copy.with_suffix(f".{state}.ipynb").exists() for state in ("running", "failed")):
        raise SystemExit(f"{name} was interrupted, and what is left of it would take too short a time: delete {runs} to begin anew")
    if copy.exists():
        return copy
    values = {"scale": SCALE, "runs": str(runs), "figures": str(PROJECT / "figures"), "device": "cpu"}
    return notebook.execute(PROJECT / f"notebooks/bengar2021/{name}.ipynb", values, copy)


def minutes(name: str, runs: Path) -> float:
    """What an executed notebook took, as papermill wrote it down, with what an earlier notebook had done for it: pre-training, curves."""
    took = float(nbformat.read(executed(name, runs), 4).metadata.papermill.duration)
    first = next(other for other, dataset in NOTEBOOKS.items() if dataset == NOTEBOOKS[name])
    if name == "figure6":  # its curves of the smallest regime are those of figure3
        took += reused(runs)
    if name != first:
        took += float(bengar2021.pretraining(bengar2021.setting(NOTEBOOKS[name], SCALE), bengar2021.folder(SCALE, runs))["seconds"])
    return took / 60


def reused(runs: Path) -> float:
    """Seconds of the curves of Figure 3 that Figure 6 draws too."""
    frame = bengar2021.read(bengar2021.folder(SCALE, runs), SCALE, "cifar10")
    both = (frame["arm"] == "frozen") & (frame["strategy"] != "vaal") & (frame["regime"] == frame["regime"].min())
    return float(frame[both]["seconds"].sum())


def plain(table: pandas.DataFrame) -> list[Row]:
    """The rows of a table as JSON takes them."""
    return [
        {name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in row.items()}
        for row in table.astype(object).to_dict("records")
    ]


def measure() -> Iterator[Row]:
    """A row of minutes for each notebook; one for the first claim, with all that was measured in its `table`."""
    runs = PROJECT / "build" / "bengar2021"
    for name, dataset in NOTEBOOKS.items():
        took = minutes(name, runs) if there(dataset) else math.nan
        detail = f"minutes; scale {SCALE}, 2 CPU threads, the pre-training included; one run"
        detail = f"the images of {dataset} were not on the machine" if math.isnan(took) else detail
        yield {"name": f"Bengar et al. 2021, {name}", "ratio": took, "bar": MINUTES, "sense": "<=", "detail": detail}
    frame = bengar2021.read(bengar2021.folder(SCALE, runs), SCALE)
    gain = first_claim(frame)
    found = {
        "claims": {name: plain(claims.claims(frame, name)) for name in frame["dataset"].unique()},
        "table1": plain(bengar2021.table1(frame)),
        "figure6": plain(claims.figure6(frame)),
        "ends": plain(ends(frame)),
        "knn": {name: knn(name, runs) for name in frame["dataset"].unique()},
    }
    yield {
        "name": "self-supervision over training from scratch, random choice, smallest regime of CIFAR-10: lower end of the interval",
        "ratio": 100 * gain.low,
        "bar": 0.0,
        "sense": ">=",
        "detail": f"points of accuracy: {gain}, paired by seed, means over 5 to 25 labels per class; scale {SCALE}",
        "table": found,
    }


def knn(dataset: str, runs: Path) -> float:
    """Accuracy of the nearest-neighbour vote at the end of the pre-training."""
    learned = bengar2021.pretraining(bengar2021.setting(dataset, SCALE), bengar2021.folder(SCALE, runs))
    return float(learned["history"][-1]["knn"])


def first_claim(frame: pandas.DataFrame) -> stats.Difference:
    """How much more accurate random choice is with the frozen backbone than from scratch, in the smallest regime of CIFAR-10."""
    rows = frame[(frame["dataset"] == "cifar10") & (frame["strategy"] == "random")]
    rows = rows[rows["regime"] == rows["regime"].min()]
    return stats.paired(rows, {"arm": "frozen"}, {"arm": "scratch"})


def ends(frame: pandas.DataFrame) -> pandas.DataFrame:
    """The last point of each curve: mean accuracy over seeds and their number, by data set, arm, strategy and labels.

    Where a pool is so small that two regimes label the same in a step, their runs are the same, and count once.
    """
    last = frame[frame["cycle"] == frame["cycle"].max()].drop_duplicates(["dataset", "arm", "strategy", "seed", "n_labelled"])
    keys = ["dataset", "arm", "n_labelled", "pool", "strategy"]
    table = last.groupby(keys)["accuracy"].agg(accuracy="mean", seeds="count").reset_index()
    return table.astype({"n_labelled": int, "pool": int, "seeds": int})


if __name__ == "__main__":
    import torch

    from benchmarks.__main__ import show

    torch.set_num_threads(2)
    show(measure())
