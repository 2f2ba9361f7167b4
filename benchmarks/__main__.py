"""The benchmarks: prints a table and writes `results.json` beside this file.  ``python -m benchmarks [NAME ...]``"""

import importlib
import math
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from alnb import store

NAMES = (
    "training",
    "augmentation",
    "kcenter",
    "importing",
    "frozen",
    "simsiam",
    "digits",
    "loading",
    "tsne",
    "gcn",
    "labelling",
    "exploring",
)
LONG = ("teaching", "bengar2021", "yi2022", "scratch_floor", "pretraining_seeds", "sweeping", "sweep_kills")  # only where named
RESULTS = Path(__file__).with_name("results.json")
Row = dict[str, Any]


def met(row: Row) -> bool:
    """Whether the row's ratio reaches its bar."""
    return bool(row["ratio"] >= row["bar"] if row["sense"] == ">=" else row["ratio"] <= row["bar"])


def line(row: Row) -> str:
    """The row as text: ratio, bar, whether it is met, name, detail."""
    sign = "≥" if row["sense"] == ">=" else "≤"
    verdict = "n/a " if math.isnan(row["ratio"]) else "met " if met(row) else "MISS"
    return f"{row['ratio']:10.3g}  {sign} {row['bar']:<6g} {verdict}  {row['name']}\n{'':29}{row['detail']}"


def show(rows: Iterable[Row]) -> list[Row]:
    """Print rows as they are measured; returns them."""
    shown = []
    for row in rows:
        print(line(row), flush=True)
        shown.append(row)
    return shown


def main(names: list[str]) -> None:
    """Measure the benchmarks called `names`, all but the long ones where there is none; the results of others are kept."""
    torch.set_num_threads(min(2, torch.get_num_threads()))
    unknown = set(names) - {*NAMES, *LONG}
    if unknown:
        raise SystemExit(f"no benchmark {', '.join(unknown)}: there are {', '.join((*NAMES, *LONG))}")
    results = store.read_json(RESULTS) if RESULTS.exists() else {}
    print(f"{'ratio':>10}  bar            what")
    for name in names or NAMES:
        rows = show(importlib.import_module(f"benchmarks.{name}").measure())
        kept = [{**row, "ratio": None if math.isnan(row["ratio"]) else row["ratio"]} for row in rows]
        results[name] = {"rows": kept, "environment": store.environment(torch.device("cpu"))}
        store.write_json(RESULTS, results)
    print(f"written to {RESULTS}; `make readme` puts them into README.md")


if __name__ == "__main__":
    main(sys.argv[1:])
