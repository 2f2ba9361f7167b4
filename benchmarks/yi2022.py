"""Yi et al. 2022 at scale `laptop`, with its notebooks: how long each takes, what PT4AL costs over random choice, and its claims.

More than an hour, so it is not among those that run when none is named: ``python -m benchmarks yi2022``. It wants the images of CIFAR-10
and Caltech-101 ($ALNB_DATA). Each notebook begins with nothing: its records go to a folder of its own below `build/yi2022/`, and those
that have been executed there are not executed again. The figures go to `figures/`.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pandas
import torch

from alnb import notebook, records, yi2022, yi2022_claims, yi2022_report
from alnb.published import published
from benchmarks.bengar2021 import plain, there

SCALE = "laptop"
NOTEBOOKS: dict[str, tuple[str, dict[str, Any]]] = {  # what is measured: the data set, and parameters
    "table2": ("cifar10", {}), "figure3": ("cifar10", {}), "figure6": ("cifar10", {}), "figure5b": ("cifar10", {}),
    "table1": ("cifar10", {}), "protocols": ("cifar10", {}), "figure2": ("cifar10", {}), "figure4": ("cifar10", {}),
    "figure3 caltech101": ("caltech101", {"dataset": "caltech101"}),
}  # fmt: skip
MINUTES, RATIO = 15, 1.6  # the bars; the paper's own ratio is 1.59
CLAIMS = ("figure3", "figure5b", "figure6")  # notebooks whose runs have claims in `yi2022_claims.STATEMENTS`
PROJECT = Path(__file__).parents[1]
BUILD = PROJECT / "build" / "yi2022"
Row = dict[str, Any]


def executed(name: str) -> Path:
    """The executed copy of a notebook: there already, or made now.

    Raises:
        SystemExit: an execution was interrupted, so that what is left of it would take too short a time.
    """
    runs = BUILD / name.replace(" ", "-")
    copy = runs / "executed.ipynb"
    if any(copy.with_suffix(f".{state}.ipynb").exists() for state in ("running", "failed")):
        raise SystemExit(f"{name} was interrupted, and what is left of it would take too short a time: delete {runs} to begin anew")
    if copy.exists():
        return copy
    values = {"scale": SCALE, "runs": str(runs), "figures": str(PROJECT / "figures"), "device": "cpu", **NOTEBOOKS[name][1]}
    return notebook.execute(PROJECT / f"notebooks/yi2022/{name.split()[0]}.ipynb", values, copy)


def found(name: str) -> list[records.Found]:
    """The runs of an executed notebook."""
    return records.find(BUILD / name.replace(" ", "-"), paper=yi2022.PAPER)


def measure() -> Iterator[Row]:
    """A row of minutes for each notebook, one for PT4AL's cost, with all that was measured in its `table`."""
    done = []
    for name, (dataset, _) in NOTEBOOKS.items():
        took = float(nbformat.read(executed(name), 4).metadata.papermill.duration) / 60 if there(dataset) else math.nan
        done += [] if math.isnan(took) else [name]
        detail = f"minutes; scale {SCALE}, {torch.get_num_threads()} CPU threads, the pretexts included; one run"
        detail = f"the images of {dataset} were not on the machine" if math.isnan(took) else detail
        yield {"name": f"Yi et al. 2022, {name}", "ratio": took, "bar": MINUTES, "sense": "<=", "detail": detail}
    if "table2" not in done:
        return
    rotation = yi2022.summary(yi2022.setting("cifar10", SCALE), "rotation", BUILD / "table2" / yi2022.PAPER)["seconds"]
    costs = yi2022_report.costs(found("table2"), {"rotation": rotation}, published("yi2022", item="Table 2"))
    yield {
        "name": "cost of PT4AL over random choice, CIFAR-10, the pretext included", "ratio": float(_ratio(costs, "pt4al")), "bar": RATIO,
        "sense": "<=", "detail": f"of wall time, in one run; VAAL {_ratio(costs, 'vaal'):.2f}; scale {SCALE}",
        "table": {"costs": plain(costs), **{name: plain(told) for name, told in tables(done)}},
    }  # fmt: skip


def _ratio(costs: pandas.DataFrame, strategy: str) -> float:
    return float(costs.set_index("strategy")["ratio"][strategy])


def tables(done: list[str]) -> Iterator[tuple[str, pandas.DataFrame]]:
    """The claims of each notebook in `CLAIMS`, Table 1, and what each protocol is worth."""
    for name in set(CLAIMS) & set(done):
        yield f"claims {name}", yi2022_claims.claims(records.frame(found(name)), name)
    cold = records.frame(found("table1"))
    cold["part"] = cold["strategy"].where(cold["strategy"] == "random", cold["key"] + " " + cold["first_batch"].astype(str))
    yield "table1", cold.groupby("part", sort=False)["accuracy"].agg(["mean", "std", "min", "max", "count"]).reset_index()
    yield "protocols", yi2022_claims.worth(records.frame(found("protocols")), "clean")
