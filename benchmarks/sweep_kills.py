"""Twenty SIGKILLs at random instants of a sweep of 24 cells, of its workers and of itself: the final table is that of an undisturbed sweep.

Ten minutes, so it is not among those that run when none is named: ``python -m benchmarks sweep_kills``.
"""

import os
import random
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from benchmarks.sweeping import GRID, Row, command, run, table

KILLS = 20
PAUSE = (2.0, 14.0)  # seconds between two kills


def is_kernel(process: psutil.Process) -> bool:
    try:
        return "ipykernel_launcher" in " ".join(process.cmdline())
    except psutil.NoSuchProcess:  # it ended between the list and the look, or nobody has waited for it yet
        return False


def victim(sweep: subprocess.Popen, draw: random.Random) -> int:
    """The process to kill: the sweep itself one time in three, else one of the kernels that work for it."""
    kernels = [child.pid for child in psutil.Process(sweep.pid).children() if is_kernel(child)]
    return draw.choice(kernels) if kernels and draw.random() < 2 / 3 else sweep.pid


def kills(folder: Path, expected: list[Any]) -> Iterator[Row]:
    """SIGKILL at random instants, the sweep started again whenever it was hit; a new folder when it came to its end."""
    draw, hits, folders = random.Random(0), {"sweep": 0, "worker": 0}, 0
    while sum(hits.values()) < KILLS:
        here = folder / f"killed{folders}"
        status, calm = None, 0  # sweeps without a kill after which cells had failed
        while status != 0:
            before = sum(hits.values())
            status = disturbed(here, draw, hits)
            calm += status == 1 and sum(hits.values()) == before
            assert status in (0, 1, -signal.SIGKILL) and calm < 2, f"the sweep ended with status {status}: see {here}"
        folders += 1
        assert table(here) == expected, f"records differ after {hits}"
    yield {
        "name": "SIGKILLs at random instants of a 24-cell sweep, after which all records are the same bit for bit",
        "ratio": sum(hits.values()), "bar": KILLS, "sense": ">=",
        "detail": f"{hits['sweep']} of the sweep itself, {hits['worker']} of a worker's kernel; {folders} sweeps brought to their end",
    }  # fmt: skip


def disturbed(folder: Path, draw: random.Random, hits: dict[str, int]) -> int:
    """One sweep, with kills until it is hit itself or there were enough; its exit status."""
    with subprocess.Popen(command(folder, *GRID), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True) as sweep:
        while sweep.poll() is None and sum(hits.values()) < KILLS:
            try:
                return sweep.wait(draw.uniform(*PAUSE))
            except subprocess.TimeoutExpired:
                pid = victim(sweep, draw)
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
            hits["sweep" if pid == sweep.pid else "worker"] += 1
        return sweep.wait()


def measure() -> Iterator[Row]:
    """One row."""
    with tempfile.TemporaryDirectory() as folder:
        run(Path(folder) / "whole", *GRID)
        yield from kills(Path(folder), table(Path(folder) / "whole"))
