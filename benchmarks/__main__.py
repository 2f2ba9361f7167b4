"""The benchmarks, each a ratio measured in one run: prints them, writes `results.json` and `README.md` beside this file.

``python -m benchmarks [NAME ...]`` measures; with ``--readme`` nothing is measured and `README.md` is written from `results.json`.
"""

import importlib
import math
import sys
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from alnb import store

NAMES = ("training", "augmentation", "kcenter", "importing", "frozen", "simsiam", "loading", "tsne", "gcn", "labelling", "exploring")
PAPERS = ("digits", "which_strategy", "bengar2021", "yi2022")  # minutes of notebooks; all of them are measured by benchmarks/papers.py
LONG = (  # measured only where named
    "teaching", *PAPERS, "opponents", "sweeping", "sweep_kills", "verdicts", "strategies", "calibration", "gpu",
)  # fmt: skip
FOLDER = Path(__file__).parent
RESULTS = FOLDER / "results.json"
LOAN = FOLDER / "loan.md"  # the last section
INTRODUCTION = """# Benchmarks

`make bench` measures these, on two threads, and writes this page; `python -m benchmarks NAME` measures one of them. Each figure is a
ratio to a peer measured in the same run, or a time, beside the bar that it must meet. A ratio of two similar times may pass 1 by noise.
Results of the papers are in [figures](../figures/README.md)."""
SIGNS = {"<=": "≤", ">=": "≥"}
Row = dict[str, Any]


def met(row: Row) -> bool:
    """Whether the row's ratio reaches its bar."""
    return bool(row["ratio"] >= row["bar"] if row["sense"] == ">=" else row["ratio"] <= row["bar"])


def verdict(row: Row) -> str:
    """Whether the bar is met, in words."""
    return "not measured" if row["ratio"] is None or math.isnan(row["ratio"]) else "met" if met(row) else "**missed**"


def value(row: Row) -> str:
    """What was measured, or a dash."""
    return "–" if row["ratio"] is None else f"{row['ratio']:.3g}"


def line(row: Row) -> str:
    """The row as text: ratio, bar, whether it is met, name, detail."""
    return f"{row['ratio']:10.3g}  {SIGNS[row['sense']]} {row['bar']:<6g} {verdict(row)}  {row['name']}\n{'':29}{row['detail']}"


def show(rows: Iterable[Row]) -> list[Row]:
    """Print rows as they are measured; returns them."""
    shown = []
    for row in rows:
        print(line(row), flush=True)
        shown.append(row)
    return shown


def document(results: dict[str, Any]) -> str:
    """The whole of `README.md`."""
    text = [INTRODUCTION]
    for name in (name for name in (*NAMES, *LONG) if name in results):
        on = results[name]["environment"]
        rows = [
            f"|{row['name']}|{value(row)}|{SIGNS[row['sense']]} {row['bar']:g}|{verdict(row)}|{row['detail']}|"
            for row in results[name]["rows"]
        ]
        place = f"Commit {on['commit']}, torch {on['torch']}, {on['threads']} threads on {on['cpu']}."
        text.append("\n".join([f"## {name}", "", place, "", "|what|measured|bar||how|", "|---|--:|--:|---|---|", *rows]))
    missing = [f"`{name}`" for name in (*NAMES, *LONG) if name not in results and name not in ("digits", "opponents")]
    text += [f"Not measured yet: {', '.join(missing)}."] if missing else []
    return "\n\n".join([*text, LOAN.read_text()])


def measured(name: str) -> list[Row]:
    """The rows of the benchmark `name`, printed as they come; None for what could not be measured here."""
    module = importlib.import_module(f"benchmarks.{'papers' if name in PAPERS else name}")
    rows = show(partial(module.measure, name)() if name in PAPERS else module.measure())
    return [{**row, "ratio": None if math.isnan(row["ratio"]) else row["ratio"]} for row in rows]


def main(names: list[str]) -> None:
    """Measure the benchmarks called `names`, all but the long ones where there is none; the results of others are kept."""
    torch.set_num_threads(min(2, torch.get_num_threads()))
    results = store.read_json(RESULTS) if RESULTS.exists() else {}
    unknown = set(names) - {*NAMES, *LONG, "--readme"}
    if unknown:
        raise SystemExit(f"no benchmark {', '.join(unknown)}: there are {', '.join((*NAMES, *LONG))}")
    for name in () if "--readme" in names else names or NAMES:
        rows = measured(name)
        if rows:
            results[name] = {"rows": rows, "environment": store.environment(torch.device("cpu"))}
            store.write_json(RESULTS, results)
    store.write_atomic(FOLDER / "README.md", document(results).encode())


if __name__ == "__main__":
    main(sys.argv[1:])
