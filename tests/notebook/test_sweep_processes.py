"""Sweeps of real processes, which are killed and interrupted, and end with the records of one that was left in peace."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import psutil
import pytest
from conftest import notebook_of
from sweeping import ORDER, UPDATES, experiment_of, table

from alnb import store
from alnb.__main__ import main
from alnb.notebook.sweep import Sweep, command, engine, sweep
from alnb.notebook.sweep import cell as cells_of
from alnb.notebook.sweep.cell import DONE, FAILED, TODO
from alnb.report import records


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv(ORDER, str(tmp_path / "order"))


def until(happened: Callable[[], object], process: subprocess.Popen) -> None:
    end = time.monotonic() + 120
    while not happened():
        assert process.poll() is None and time.monotonic() < end, process.communicate()[0]
        time.sleep(0.02)


@pytest.mark.slow
def test_whatever_befalls_a_sweep_it_ends_with_the_same_bits(
    tmp_path: Path, undisturbed: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """In the middle of the training of each cycle in turn: its time is up, Ctrl-C, SIGKILL of the sweep, SIGKILL of the cell.

    One test, since each process that imports torch takes seconds.
    """
    path, runs, order = experiment_of(tmp_path), tmp_path / "runs", tmp_path / "order"
    monkeypatch.setattr(engine, "_report", lambda result, deadline: None)  # the execution over the whole is another test's
    one = {"strategies": ["nearly_tied"], "seeds": [0]}

    def start(**options: Any) -> Sweep:
        return sweep(path, {**one, "runs": str(runs)}, kernel_free=True, workers=1, threads=1, **options)

    order.write_text("late 0")  # so that the time is up just there, however slow the machine
    done = start(time_limit=3600)
    (cell,) = done.cells
    assert done.statuses[cell.key].state == TODO and command.conclude(done) == 75
    assert f"cycle 0, update {UPDATES // 2} of {UPDATES}" in done.statuses[cell.key].reason
    assert "1 cell left: the time left is known once" in capsys.readouterr().err
    (run,) = records.runs(runs)
    assert store.read_tensors(run.folder(0) / "net.pt")["step"] == UPDATES // 2 and run.records() == []

    for cycle, what, number in ((1, "wait", signal.SIGINT), (2, "hang", signal.SIGKILL)):
        order.write_text(f"{what} {cycle}")
        end_sweep(path, runs, number, order.with_suffix(".here"))
        assert len(run.records()) == cycle
        assert number is signal.SIGKILL or store.read_tensors(run.folder(cycle) / "net.pt")["step"] == UPDATES // 2

    order.write_text("kill 3")
    capsys.readouterr()
    done = start()
    log = cell.folder / "log.txt"
    line = f"killed Died: its process ended by signal SIGKILL (out of memory?); what it printed: {log}"
    assert order.with_suffix(".here").exists() and line in capsys.readouterr().out and "nearly_tied 22" in log.read_text()
    assert done.finished and done.statuses[cell.key].attempts == 5 and cells_of.look(cell) == done.statuses[cell.key]
    assert table(runs) == undisturbed and [len(cycles) for cycles in undisturbed.values()] == [5, 0]
    assert [cell.folder / name for name in done.statuses[cell.key].runs] == [cell.folder / os.path.relpath(run.path, cell.folder)]


def end_sweep(path: Path, runs: Path, number: signal.Signals, here: Path) -> None:
    """Start the sweep, send it the signal when its cell is `here`, and see that nothing goes on."""
    here.unlink(missing_ok=True)
    grid = ["-p", "strategies", "nearly_tied", "-p", "seeds", "0", "-p", "runs", str(runs), "--threads", "1", "--workers", "1"]
    call = [sys.executable, "-m", "alnb", "sweep", str(path), "--kernel-free", *grid]
    options: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "start_new_session": True}
    with subprocess.Popen(call, **options) as process:
        until(here.exists, process)
        children = psutil.Process(process.pid).children(recursive=True)
        os.killpg(process.pid, number)  # as a terminal does; cells are in groups of their own
        message = process.communicate(timeout=60)[0]
        gone, alive = psutil.wait_procs(children, timeout=15)
    assert len(gone) == 1 and not alive, f"{alive} went on after {number.name}"
    if number is signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL
    else:
        assert process.returncode == 130 and "what is complete is kept; the same command continues from there" in message
    assert not list((runs / "cells").glob(".*"))  # no file that asks to stop


@pytest.mark.slow
@pytest.mark.parametrize("free", [True, False], ids=["process", "kernel"])
def test_who_does_not_stop_when_time_is_up_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: bool) -> None:
    monkeypatch.setattr(cells_of, "GRACE", 0.5)
    path = notebook_of(tmp_path / "stubborn.ipynb", "runs: str = ''  # where it goes", "import time\ntime.sleep(300)")
    began = time.monotonic()
    monkeypatch.setattr(engine, "RESERVE", 0.0)
    limit = 1 if free else 4  # a kernel that does not run yet would not be the case
    done = sweep(path, {"runs": str(tmp_path / "runs")}, kernel_free=free, workers=1, threads=1, time_limit=limit)
    assert time.monotonic() - began < 60
    assert done.statuses[done.cells[0].key].state == TODO and cells_of.look(done.cells[0]).state == TODO and len(done.left) == 1


CELLS = """\
import os, signal
from pathlib import Path

def first(name):
    path = Path(runs) / name
    return not path.exists() and (path.touch() or True)

print("seeds", seeds, "threads", os.environ["OMP_NUM_THREADS"], "in", os.getcwd(), flush=True)
if seeds == [1] and first("failed"):
    raise ValueError("no such seed\\nas 1")
if seeds == [2] and first("died"):
    os.kill(os.getpid(), signal.SIGKILL)"""


@pytest.mark.slow
def test_a_sweep_by_papermill(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    """One cell fails, one is killed; then, the cause being mended, the rest, and the notebook over the whole grid."""
    path = notebook_of(
        tmp_path / "cells.ipynb",
        "seeds: list[int] = [0, 1, 2]  # a cell each\nruns: str = ''  # where they go",
        CELLS,
        "'whole' * len(seeds)",
    )
    call = ["sweep", str(path), "--workers", "2", "--threads", "1", "-p", "runs", str(tmp_path / "runs")]
    assert main(call) == 1
    out, err = capfd.readouterr()
    folders = {name: next((tmp_path / "runs/cells/cells").glob(f"seeds-{name}-*")) for name in (0, 1, 2)}
    statuses = {name: cells_of.Status(**store.read_json(folder / "cell.json")) for name, folder in folders.items()}
    assert [status.state for status in statuses.values()] == [DONE, FAILED, DONE] and statuses[2].attempts == 2
    assert (statuses[1].kind, statuses[1].reason) == ("ValueError", "no such seed\nas 1")
    assert "seeds 2: killed DeadKernelError" in out and "over the whole grid" not in out and "1 cell failed" in err
    failed = nbformat.read(folders[1] / "notebook.failed.ipynb", 4)
    assert any(o.output_type == "error" and "no such seed" in "".join(o.traceback) for c in failed.cells for o in c.get("outputs", []))
    for name in (0, 2):
        text = f"seeds [{name}] threads 1 in {Path.cwd()}\n"
        assert (folders[name] / "log.txt").read_text() == text
        cells = nbformat.read(folders[name] / "notebook.ipynb", 4).cells
        assert cells[2].outputs[0].text == text and f"seeds = [{name}]" in cells[1].source
    assert not (folders[1] / "notebook.ipynb").exists() and not list((tmp_path / "runs").rglob("*.running.ipynb"))
    before = {p: p.stat().st_mtime_ns for name in (0, 2) for p in folders[name].iterdir()}
    assert main([*call, "--retry"]) == 0
    out, _ = capfd.readouterr()
    assert f"over the whole grid: {path}\nseeds [0, 1, 2] threads 1" in out and "3 cells: 3 done" in out
    (report,) = (tmp_path / "runs/cells/notebooks").glob("*.ipynb")
    assert f"executed notebook: {report}" in out and nbformat.read(report, 4).cells[3].outputs[0].data["text/plain"] == f"'{'whole' * 3}'"
    assert (folders[1] / "notebook.ipynb").exists() and not (folders[1] / "notebook.failed.ipynb").exists()
    assert {p: p.stat().st_mtime_ns for name in (0, 2) for p in folders[name].iterdir()} == before
