"""Sweeps on the digits: what a cell costs beside its experiment, and two workers against one.

Ten minutes, so it is not among those that run when none is named: ``python -m benchmarks sweeping``. See also `sweep_kills`.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import alnb
from alnb import store
from alnb.report import records

PROJECT = Path(__file__).parents[1]
QUICKSTART = PROJECT / "notebooks/quickstart.ipynb"
GRID = ["-p", "strategies", "random", "entropy", "margin", "kcenter", "-p", "seeds", "0:3", "-p", "scale", "smoke"]  # x 2 arms: 24 cells
FIRST = ["-p", "strategies", "random", "-p", "arms", "warm", "-p", "seeds", "9", "-p", "scale", "smoke"]  # does the pre-training
REPEATS = 5
EMPTY = (
    "n: list[int] = [0]  # only to have an axis\nruns: str = ''  # where cells go",
    "import torch\n\nimport alnb\nfrom alnb import acquire, oracle",
)
Row = dict[str, Any]


def command(folder: Path, *words: str, notebook: Path = QUICKSTART, workers: int = 2) -> list[str]:
    """A sweep below `folder`, with one thread for each worker."""
    places = ["-p", "runs", str(folder)] + (["-p", "figures", str(folder / "figures")] if notebook == QUICKSTART else [])
    return [sys.executable, "-m", "alnb", "sweep", str(notebook), *words, *places, "--workers", str(workers), "--threads", "1"]


def run(folder: Path, *words: str, **options: Any) -> float:
    """Seconds of a sweep from its first line to its end."""
    start = time.perf_counter()
    subprocess.run(command(folder, *words, **options), check=True, capture_output=True)
    return time.perf_counter() - start


def seconds(folder: Path) -> list[float]:
    """What each cell below `folder` took."""
    return [store.read_json(path)["seconds"] for path in sorted(folder.glob("cells/*/*/cell.json"))]


def again(folder: Path, *words: str, **options: Any) -> list[float]:
    """What cells take whose runs are all complete: the cells are forgotten, not the runs."""
    for path in folder.glob("cells/*/*/cell.json"):
        path.unlink()
    run(folder, *words, **options)
    return seconds(folder)


def importing() -> float:
    """Seconds of a process that imports torch and ends."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import torch"], check=True)
    return time.perf_counter() - start


def empty_notebook(folder: Path) -> Path:
    """A notebook that imports this package and does nothing."""
    cells = [
        {"cell_type": "code", "id": str(k), "metadata": {"tags": tags}, "outputs": [], "execution_count": None, "source": source}
        for k, (source, tags) in enumerate(zip(EMPTY, (["parameters"], []), strict=True))
    ]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "empty.ipynb"
    path.write_text(json.dumps({"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}))
    return path


def overhead(folder: Path) -> Iterator[Row]:
    """What a cell costs beside its experiment, with papermill and without."""
    seeds = ["-p", "n", f"0:{REPEATS}"]
    run(folder, *seeds, notebook=empty_notebook(folder), workers=1)
    bare = seconds(folder)
    few = ["-p", "strategies", "random", "-p", "arms", "scratch", "-p", "seeds", f"0:{REPEATS}", "-p", "scale", "smoke"]
    run(folder / "q", *few, workers=1)
    whole, free = again(folder / "q", *few, workers=1), again(folder / "q", *few, "--kernel-free", workers=1)
    torch = [importing() for _ in range(REPEATS)]
    told = f"seconds; median of {REPEATS} cells one after the other, {min(bare):.1f} to {max(bare):.1f}; `import torch` alone takes"
    yield {
        "name": "a sweep's cell: papermill, kernel, `import torch, alnb`", "ratio": statistics.median(bare), "bar": 6.0, "sense": "<=",
        "detail": f"{told} {statistics.median(torch):.1f} here; a finished cell of the quickstart, which also draws its part of the "
        f"figure: {statistics.median(whole):.1f}",
    }  # fmt: skip
    yield {
        "name": "a sweep's cell without Jupyter, beyond `import torch`", "ratio": statistics.median(free) - statistics.median(torch),
        "bar": 1.0, "sense": "<=", "detail": f"seconds; medians of {REPEATS}: a finished cell of the quickstart "
        f"{statistics.median(free):.2f}, `import torch` in a fresh process {statistics.median(torch):.2f}",
    }  # fmt: skip


def table(folder: Path) -> list[Any]:
    """All records below `folder` but for what was measured, in the order of their runs."""
    return [(run.path.name, alnb.Cycle.read(record).reproducible) for run in records.runs(folder) for record in run.records()]


def speed(folder: Path) -> Iterator[Row]:
    """24 cells on two workers against one; the pre-training, which cells share, is done before."""
    for name in ("one", "two"):
        run(folder / name, *FIRST, workers=1)
    one, two = run(folder / "one", *GRID, workers=1), run(folder / "two", *GRID)
    assert table(folder / "one") == table(folder / "two")
    yield {
        "name": "24 cells of digits: two workers against one", "ratio": one / two, "bar": 1.5, "sense": ">=",
        "detail": f"scale smoke, papermill, 1 thread for each worker, the whole grid's execution at the end included: {one:.0f} s and "
        f"{two:.0f} s; one run",
    }  # fmt: skip


def measure() -> Iterator[Row]:
    """Three rows."""
    with tempfile.TemporaryDirectory() as folder:
        yield from overhead(Path(folder) / "overhead")
        yield from speed(Path(folder))
