"""The lesson, `notebooks/teach.ipynb`, as a teacher executes it at home: minutes from nothing, and in class, where its runs are found."""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat

from alnb.notebook.execute import execute

NOTEBOOK = Path(__file__).parents[1] / "notebooks/teach.ipynb"
HOME, CLASS, SIZE = 15, 1, 2  # the bars: minutes, minutes, megabytes
Row = dict[str, Any]


def row(name: str, value: float, bar: float, detail: str) -> Row:
    return {"name": f"the lesson: {name}", "ratio": value, "bar": bar, "sense": "<=", "detail": detail}


def measure() -> Iterator[Row]:
    """A row for each bar."""
    with tempfile.TemporaryDirectory() as place:
        values = {"scale": "laptop", "device": "cpu", "runs": f"{place}/runs", "figures": f"{place}/figures"}
        copies, minutes = [Path(place) / f"{name}.ipynb" for name in ("home", "class")], []
        for copy in copies:
            start = time.perf_counter()
            execute(NOTEBOOK, values, copy)
            minutes.append((time.perf_counter() - start) / 60)
        told = "minutes at scale laptop, top to bottom unattended"
        yield row("from nothing", minutes[0], HOME, told)
        yield row("with its runs there", minutes[1], CLASS, f"{told}, as in class")
        size = copies[0].stat().st_size / 2**20
        cells = len(nbformat.read(copies[0], 4).cells)
        yield row("its executed copy", size, SIZE, f"megabytes, with the figures of {cells} cells for readers without a kernel")
