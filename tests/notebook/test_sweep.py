"""Which cells a sweep executes, in which order of events, and what is kept of each: with cells that only pretend to work."""

import errno
import os
import pickle
import platform
import random
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import notebook_of
from hypothesis import given, settings
from hypothesis import strategies as st

from alnb import store
from alnb.__main__ import main
from alnb.notebook import BadParameter
from alnb.notebook.execute import NotebookFailed
from alnb.notebook.sweep import Sweep, child, command, engine, sweep, table
from alnb.notebook.sweep import cell as cells_of
from alnb.notebook.sweep.cell import BUSY, CORE, DONE, FAILED, KILLED, RUNNING, TODO, Outcome, Work
from alnb.notebook.sweep.engine import Options, Workers
from alnb.notebook.sweep.grid import grid
from alnb.store import stop as pause

PARAMETERS = """\
names: list[str] = ["a", "b"]  # of cells
seeds: list[int] = [0, 1]  # of each
kind: str = "x"  # a report for each
scale: str = "smoke"  # how much
runs: str = ""  # where everything goes"""
CHECK = 'assert kind != "bad" and "bad" not in names, "bad is none of the kinds"'
DONE_WELL: Outcome = (DONE, "", "")


class Pretended:
    """In the place of a cell's process, and of the execution over the whole: what was asked for, and what comes of it."""

    def __init__(self) -> None:
        self.works: list[Work] = []
        self.reports: list[dict[str, Any]] = []
        self.act: Callable[[Work], Outcome] = lambda work: DONE_WELL
        self.draw: Callable[[dict[str, Any]], None] = lambda values: None

    def work(self, work: Work, processes: list[int]) -> Outcome:
        self.works.append(work)
        processes.append(process_of(work))
        return self.act(work)

    def report(self, path: Path, values: dict[str, Any], output: Path, **options: Any) -> Path:
        self.reports.append(values)
        self.draw(values)
        return output

    @property
    def names(self) -> list[str]:
        return [work.cell.name for work in self.works]


def process_of(work: Work) -> int:
    """The number of the process that the cell pretends to have."""
    return int(work.token[:7], 16)


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> Pretended:
    made = Pretended()
    monkeypatch.setattr(cells_of, "_by_itself", made.work)
    monkeypatch.setattr(engine, "execute", made.report)
    return made


@pytest.fixture
def path(write: Callable[..., Path]) -> Path:
    return write(PARAMETERS, ("check", CHECK), "print(names)")


@pytest.fixture
def start(path: Path, tmp_path: Path) -> Callable[..., Sweep]:
    def started(**options: Any) -> Sweep:
        parameters = {"runs": str(tmp_path / "runs"), **options.pop("parameters", {})}
        return sweep(path, parameters, **{"kernel_free": True, "workers": 1, "threads": 1, **options})

    return started


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """A time that passes only where a test says so."""
    now = SimpleNamespace(time=time.time(), strftime=time.strftime)
    module = SimpleNamespace(time=lambda: now.time, monotonic=lambda: now.time, strftime=time.strftime)
    monkeypatch.setattr(engine, "time", module)
    monkeypatch.setattr(cells_of, "time", module)
    yield now


def tree(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Every file below `folder`, with the time of its last change and its content."""
    return {str(p.relative_to(folder)): (p.stat().st_mtime_ns, p.read_bytes()) for p in folder.rglob("*") if p.is_file()}


def edit_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the core had been edited before this process began."""
    monkeypatch.setattr(cells_of, "code_version", lambda *rooms: "another")
    monkeypatch.setattr(cells_of, "core_version", lambda: "another")


def states(done: Sweep) -> list[str]:
    return [done.statuses[cell.key].state for cell in done.cells]


def leave_run(work: Work, name: str, finished: int = 2, cycles: int = 2) -> Path:
    """A run folder such as `loop.cycles` makes, and the process of the cell locked it."""
    folder = work.cell.below.parents[1] / name
    store.write_json(folder / "manifest.json", {"format": 1, "experiment": {"protocol": {"cycles": cycles}}, "environment": {}})
    for cycle in range(finished):
        store.write_json(
            folder / f"cycle_{cycle:03d}" / "record.json", {"cycle": cycle, "metrics": {"accuracy": 0.5}, "seconds": {"fit": 0.0}}
        )
    (folder / ".owner").write_text(f"{process_of(work)} on {platform.node()}")
    return folder


# ---- only what is missing --------------------------------------------------------------------------------------------------------


def test_cells_are_executed_in_order_and_then_the_whole(start: Callable[..., Sweep], pretended: Pretended, tmp_path: Path) -> None:
    done = start()
    assert pretended.names == ["a, seeds 0", "a, seeds 1", "b, seeds 0", "b, seeds 1"]
    assert done.finished and states(done) == [DONE] * 4 and done.estimate() == 0
    assert pretended.reports == [{"names": ["a", "b"], "seeds": [0, 1], "runs": str(tmp_path / "runs")}]
    assert len(done.reports) == 1 and done.reports[0].parent == tmp_path / "runs/made/notebooks"
    assert not list((tmp_path / "runs/cells").glob(".*"))  # neither probe nor stop file


def test_a_second_call_changes_nothing_and_a_larger_one_does_the_rest(
    start: Callable[..., Sweep], pretended: Pretended, tmp_path: Path
) -> None:
    pretended.act = lambda work: (leave_run(work, work.cell.name), DONE_WELL)[1]
    start()
    before = tree(tmp_path / "runs")
    assert len(pretended.works) == 4 and len(before) > 4 * 5
    again = start()
    assert again.finished and tree(tmp_path / "runs") == before and len(pretended.works) == 4 and len(pretended.reports) == 2
    start(parameters={"seeds": [1, 2], "names": ["b", "c"]})
    assert pretended.names[4:] == ["b, seeds 2", "c, seeds 1", "c, seeds 2"]
    start(parameters={"kind": ["x", "y"], "seeds": [0]})  # what was no axis then is one now
    assert pretended.names[7:] == ["y, a, seeds 0", "y, b, seeds 0"]


@pytest.mark.parametrize("harm", ["record", "run", "damage", "version"])
def test_a_cell_whose_runs_are_not_whole_is_executed_again(
    start: Callable[..., Sweep], pretended: Pretended, monkeypatch: pytest.MonkeyPatch, harm: str
) -> None:
    runs: list[Path] = []
    pretended.act = lambda work: (runs.append(leave_run(work, f"{harm} {len(pretended.works)}")), DONE_WELL)[1]
    start(parameters={"seeds": [0]})
    if harm == "record":
        (runs[1] / "cycle_000/record.json").unlink()
    elif harm == "run":
        (runs[1] / "manifest.json").unlink()
        (runs[1] / "cycle_000/record.json").unlink()
        (runs[1] / "cycle_001/record.json").unlink()
    elif harm == "damage":
        (runs[1] / "cycle_001/record.json").write_text("{")
    else:
        edit_core(monkeypatch)
    assert start(parameters={"seeds": [0]}).finished
    assert pretended.names[2:] == (["a, seeds 0", "b, seeds 0"] if harm == "version" else ["b, seeds 0"])
    assert start(parameters={"seeds": [0]}).finished and len(pretended.works) == (4 if harm == "version" else 3)  # old runs are forgotten


def test_lines_are_printed_as_things_happen(start: Callable[..., Sweep], pretended: Pretended, capsys: pytest.CaptureFixture) -> None:
    outcomes = {"a": DONE_WELL, "b": (FAILED, "ValueError", "no\nmore")}
    pretended.act = lambda work: outcomes[work.cell.values["names"][0]]
    start(parameters={"seeds": [0]})
    place, *lines = capsys.readouterr().out.splitlines()
    assert place.startswith("results go to ") and lines == [
        "2 cells, 2 of them to do",
        "a, seeds 0: handed to a worker",
        "[1/2] a, seeds 0: done 0 s; the rest may take 0 s of work",
        "b, seeds 0: handed to a worker",
        "[1/2] b, seeds 0: failed ValueError: no more; no cell is left",
    ]


def test_combinations_that_there_are_not_are_finished(
    start: Callable[..., Sweep], pretended: Pretended, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    pretended.act = lambda work: cells_of._outcome("NothingToRun", "b has no 1", False) if work.cell.name == "b, seeds 1" else DONE_WELL
    done = start()
    assert states(done) == [DONE] * 4 and done.finished and len(pretended.reports) == 1
    assert command.conclude(done) == 0 and "4 cells: 4 done" in capsys.readouterr().out
    assert states(start()) == [DONE] * 4 and len(pretended.works) == 4
    edit_core(monkeypatch)  # which may have it
    pretended.act = lambda work: DONE_WELL
    assert states(start()) == [DONE] * 4 and pretended.names[4:] == pretended.names[:4]


# ---- failures --------------------------------------------------------------------------------------------------------------------


def test_a_failed_cell_is_kept_with_its_error_and_the_rest_goes_on(
    start: Callable[..., Sweep], pretended: Pretended, capsys: pytest.CaptureFixture
) -> None:
    pretended.act = lambda work: (FAILED, "ValueError", "a of 1\nis too much") if work.cell.name == "a, seeds 1" else DONE_WELL
    done = start()
    (bad,) = done.failed
    assert states(done) == [DONE, FAILED, DONE, DONE] and pretended.reports == [] and not done.left and not done.finished
    assert command.conclude(done) == 1
    out, err = capsys.readouterr()
    assert "a, seeds 1: ValueError: a of 1\nis too much" in out and str(bad.folder / "log.txt") in out and "--retry" in err
    status = cells_of.read(bad)
    assert (status.state, status.kind, status.reason, status.attempts) == (FAILED, "ValueError", "a of 1\nis too much", 1)
    assert states(start()) == [DONE, FAILED, DONE, DONE] and len(pretended.works) == 4  # not again by itself
    pretended.act = lambda work: DONE_WELL
    mended = start(retry=True)
    assert mended.finished and pretended.names[4:] == ["a, seeds 1"] and mended.statuses[bad.key].attempts == 2
    assert len(pretended.reports) == 1


def test_an_error_of_the_worker_is_kept_too(start: Callable[..., Sweep], pretended: Pretended) -> None:
    def act(work: Work) -> Outcome:
        raise ModuleNotFoundError("No module named 'papermill'")

    pretended.act = act
    done = start(parameters={"seeds": [0], "names": ["a"]})
    status = cells_of.read(done.cells[0])
    assert status == done.statuses[done.cells[0].key] and (status.state, status.kind) == (FAILED, "ModuleNotFoundError")
    assert states(start(parameters={"seeds": [0], "names": ["a"]})) == [FAILED] and len(pretended.works) == 1


@pytest.mark.parametrize(("deaths", "retries", "executed"), [(1, 2, 2), (2, 2, 3), (3, 2, 3), (1, 0, 1)])
def test_a_killed_cell_is_started_again_so_many_times(
    start: Callable[..., Sweep], pretended: Pretended, deaths: int, retries: int, executed: int
) -> None:
    pretended.act = lambda work: (KILLED, "Died", "by SIGKILL") if len(pretended.works) <= deaths else DONE_WELL
    one = {"seeds": [0], "names": ["a"]}
    done = start(parameters=one, retries=retries)
    survived = executed > deaths
    assert len(pretended.works) == executed and states(done) == [DONE if survived else KILLED] and done.finished is survived
    assert command.conclude(done) == (0 if survived else 1)
    assert done.statuses[done.cells[0].key].attempts == executed
    assert start(parameters=one, retries=10).finished  # the next call tries anew, without --retry


@pytest.mark.parametrize(
    ("program", "died"),
    [
        ("exit 3", "its process ended by exit status 3 (out of memory?); what it printed: "),
        ("echo words; kill -9 $$", "its process ended by signal SIGKILL (out of memory?); what it printed: "),
    ],
)
def test_a_process_that_says_nothing_has_died(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, died: str) -> None:
    (tmp_path / "python").write_text(f"#!/bin/sh\n{program}\n")
    (tmp_path / "python").chmod(0o755)
    monkeypatch.setattr(cells_of, "sys", SimpleNamespace(executable=str(tmp_path / "python")))
    done = sweep(path, {"runs": str(tmp_path / "runs"), "names": ["a"], "seeds": [0]}, kernel_free=True, workers=1, retries=0)
    (cell,) = done.cells
    message = done.statuses[cell.key]
    assert (message.state, message.kind, message.reason) == (KILLED, "Died", died + str(cell.folder / "log.txt"))
    assert (cell.folder / "log.txt").read_text() == ("words\n" if "words" in program else "")


@pytest.mark.parametrize(
    ("source", "outcome", "state"),
    [
        ("print(names)", ("", ""), DONE),
        ("raise ValueError('no such thing')", ("ValueError", "no such thing"), FAILED),
        ("from alnb.store.stop import TimeIsUp\nraise TimeIsUp('stopped')", ("TimeIsUp", "stopped"), TODO),
        ("class NothingToRun(Exception): pass\nraise NothingToRun('none')", ("NothingToRun", "none"), DONE),
        ("from alnb.store import Locked\nraise Locked('in use')", ("Locked", "in use"), BUSY),
    ],
)
def test_what_the_process_of_a_cell_tells(
    write: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, outcome: tuple[str, str], state: str
) -> None:
    monkeypatch.setattr(child, "follow", lambda parent: None)
    values = {"notebook": str(write(PARAMETERS, source)), "values": {"names": ["a"]}}
    store.write_json(tmp_path / "values.json", values)
    assert child.main(tmp_path, 0) == 0
    assert store.read_json(tmp_path / "outcome.json") == {"kind": outcome[0], "reason": outcome[1]}
    assert not outcome[0] or cells_of._outcome(*outcome, False)[0] == state
    store.write_json(tmp_path / "values.json", {**values, "values": {"names": "a"}})
    child.main(tmp_path, 0)
    assert store.read_json(tmp_path / "outcome.json")["kind"] == "BadParameter"


def test_what_says_that_it_runs_and_is_held_by_nobody_has_died(start: Callable[..., Sweep], pretended: Pretended) -> None:
    (cell,) = start(parameters={"seeds": [0], "names": ["a"]}).cells
    cells_of._write(cell, replace(cells_of.read(cell), state=RUNNING))
    assert cells_of.look(cell).state == KILLED and "killed" in cells_of.look(cell).reason
    with store.exclusive(cell.folder, wait=False):
        seen: list[str] = []
        thread = threading.Thread(target=lambda: seen.append(cells_of.look(cell).state))
        thread.start()
        thread.join()
        assert seen == [RUNNING]
    assert start(parameters={"seeds": [0], "names": ["a"]}).finished and len(pretended.works) == 2


def test_a_cell_file_that_is_damaged_is_named(
    start: Callable[..., Sweep], pretended: Pretended, tmp_path: Path, capsys: pytest.CaptureFixture, path: Path
) -> None:
    done = start()
    file = done.cells[1].folder / "cell.json"
    file.write_text(file.read_text().replace('"done"', '"gone"'))
    with pytest.raises(store.Corrupted, match=r"cell\.json is truncated or was altered .*delete it: nothing is lost"):
        start()
    assert main(["sweep", str(path), "--kernel-free", "-p", "runs", str(tmp_path / "runs")]) == 1
    assert str(file) in capsys.readouterr().err and len(pretended.works) == 4
    assert start(parameters={"names": ["b", "c"]}).finished  # a sweep that has no such cell, which reads it for its estimate
    file.unlink()
    assert start().finished and pretended.names[6:] == ["a, seeds 1"]
    store.write_json(file, {**store.read_json(file), "mood": "good"})
    with pytest.raises(store.Corrupted, match=r"cell\.json has unknown fields .mood."):
        start()


def test_a_worker_of_another_version_is_refused_and_named(start: Callable[..., Sweep], pretended: Pretended, tmp_path: Path) -> None:
    class Elsewhere(ThreadPoolExecutor):
        def submit(self, function: Any, /, work: Work) -> Future:
            return super().submit(function, replace(work, package="0.0.9 abcdef"))

    with Elsewhere(1) as executor:
        done = start(executor=executor)
    message = done.statuses[done.cells[0].key]
    assert states(done) == [FAILED] * 4 and message.kind == "OtherVersion" and pretended.works == []
    parts = (
        f"(process {os.getpid()})",
        f"has alnb {cells_of.package_version()}",
        "the sweep has 0.0.9 abcdef",
        "install the same version there",
    )
    assert all(part in message.reason for part in parts)
    assert start().finished  # a cell that was never begun is no failed one


# ---- disks -----------------------------------------------------------------------------------------------------------------------


def test_a_folder_that_cannot_be_written_to_is_named_before_anything_starts(
    start: Callable[..., Sweep], pretended: Pretended, tmp_path: Path, path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match=rf"cannot write results below {tmp_path / 'file/runs'}: Not a directory; choose another"):
        start(parameters={"runs": str(tmp_path / "file/runs")})
    assert main(["sweep", str(path), "--kernel-free", "-p", "runs", str(tmp_path / "file")]) == 1
    assert f"cannot write results below {tmp_path / 'file'}" in capsys.readouterr().err
    assert pretended.works == [] and (tmp_path / "file").read_text() == "in the way"


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A disk that is full while `full.now` is set."""
    disk, fsync = SimpleNamespace(now=False), os.fsync

    def limited(handle: int) -> None:
        if disk.now:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", limited)
    return disk


def test_a_disk_that_is_full_before_it_begins(
    start: Callable[..., Sweep], pretended: Pretended, full: SimpleNamespace, tmp_path: Path
) -> None:
    full.now = True
    with pytest.raises(OSError, match=rf"cannot write results below {tmp_path / 'runs'}: No space left on device"):
        start()
    assert pretended.works == [] and tree(tmp_path / "runs") == {}


@pytest.mark.parametrize("at_once", [True, False])
def test_a_disk_that_fills_up_fails_a_cell_and_leaves_nothing_half_written(
    start: Callable[..., Sweep], pretended: Pretended, full: SimpleNamespace, tmp_path: Path, at_once: bool
) -> None:
    """In a cell's own files, or in those of a run, of which its process tells."""

    def act(work: Work) -> Outcome:
        full.now = at_once and work.cell.name == "a, seeds 1"
        where = tmp_path / "runs/made/record.json"
        if work.cell.name == "b, seeds 0":
            full.now = True
            with pytest.raises(OSError) as error:
                store.write_json(where, {})
            full.now = False
            return FAILED, "OSError", str(error.value)
        return DONE_WELL

    pretended.act = act
    with ThreadPoolExecutor(1) as executor:
        submit = executor.submit

        def freed(*arguments: Any) -> Future:
            full.now = False  # somebody frees space before the next cell
            return submit(*arguments)

        executor.submit = freed  # type: ignore[method-assign]
        done = start(executor=executor)
    assert states(done) == [DONE, FAILED if at_once else DONE, FAILED, DONE]
    reasons = [done.statuses[cell.key].reason for cell in done.failed]
    places = [str(done.cells[1].folder / "cell.json")] * at_once + [str(tmp_path / "runs/made/record.json")]
    assert all("No space left on device while writing " + place in reason for place, reason in zip(places, reasons, strict=True))
    assert not [name for name in tree(tmp_path / "runs") if name.endswith(".part")]
    pretended.act = lambda work: DONE_WELL
    assert start(retry=True).finished and len(pretended.works) == 4 + len(places)


# ---- several at once -------------------------------------------------------------------------------------------------------------


def test_a_cell_that_is_held_elsewhere_is_waited_for(start: Callable[..., Sweep], pretended: Pretended) -> None:
    (cell,) = grid_of(start).cells
    free, seen = threading.Event(), threading.Event()

    def hold() -> None:
        with store.exclusive(cell.folder, wait=False):
            seen.set()
            free.wait(20)

    holder = threading.Thread(target=hold)
    holder.start()
    assert seen.wait(20)
    submitted: list[Work] = []

    class Watched(ThreadPoolExecutor):
        def submit(self, function: Any, /, work: Work) -> Future:
            submitted.append(work)
            if work.wait:
                free.set()
            return super().submit(function, work)

    with Watched(1) as executor:
        done = start(parameters={"seeds": [0], "names": ["a"]}, executor=executor)
    holder.join()
    assert done.finished and [work.wait for work in submitted] == [False, True] and len(pretended.works) == 1


def grid_of(start: Callable[..., Sweep]) -> Sweep:
    """The cells of a sweep of one, of which nothing was executed."""
    return start(parameters={"seeds": [0], "names": ["a"]}, dry_run=True)


def test_a_cell_whose_run_is_in_use_is_begun_again_after_the_others(start: Callable[..., Sweep], pretended: Pretended) -> None:
    busy = cells_of._outcome("Locked", "in use by process 1", False)
    pretended.act = lambda work: busy if pretended.names.count("a, seeds 0") < 3 and work.cell.name == "a, seeds 0" else DONE_WELL
    done = start()
    assert busy[0] == BUSY and done.finished
    assert pretended.names == ["a, seeds 0", "a, seeds 1", "b, seeds 0", "b, seeds 1", "a, seeds 0", "a, seeds 0"]


def test_a_run_that_stays_in_use_is_not_waited_for_without_end(
    start: Callable[..., Sweep], pretended: Pretended, capsys: pytest.CaptureFixture
) -> None:
    pretended.act = lambda work: (BUSY, "Locked", "in use by process 1") if work.cell.name == "a, seeds 0" else DONE_WELL
    done = start()
    assert states(done) == [BUSY, DONE, DONE, DONE] and pretended.names.count("a, seeds 0") == 1 + engine.BUSY_ROUNDS
    assert command.conclude(done) == 75 and "a, seeds 0: in use by process 1" in capsys.readouterr().out


def test_no_two_pieces_of_work_are_equal(start: Callable[..., Sweep], pretended: Pretended) -> None:
    """An engine that takes equal work for done, as Dask does, would hand out the outcome of the first attempt again."""
    pretended.act = lambda work: (KILLED, "Died", "killed")
    start(parameters={"seeds": [0], "names": ["a"]})
    assert len(set(map(repr, pretended.works))) == len(pretended.works) == 3


def test_who_was_begun_with_other_threads_keeps_them_whatever_befalls_it(start: Callable[..., Sweep], pretended: Pretended) -> None:
    pretended.act = lambda work: (TODO, "TimeIsUp", "")
    start(parameters={"seeds": [0], "names": ["a"]}, threads=3)

    class Broken(ThreadPoolExecutor):
        def submit(self, function: Any, /, *arguments: Any) -> Future:
            return super().submit(_raise if not pretended.works[1:] else function, *arguments)

    def _raise(work: Work) -> None:
        pretended.works.append(work)
        raise RuntimeError("the worker is gone")

    pretended.act = lambda work: DONE_WELL
    with Broken(1) as executor:
        done = start(parameters={"seeds": [0], "names": ["a"]}, threads=None, executor=executor)
    assert done.finished and [work.threads for work in pretended.works] == [3, 3, 3]


def test_a_notebook_that_was_edited_meanwhile_is_not_executed(start: Callable[..., Sweep], pretended: Pretended, path: Path) -> None:
    def act(work: Work) -> Outcome:
        path.write_text(path.read_text().replace("print(names)", "print(seeds)"))
        return DONE_WELL

    pretended.act = act
    done = start()
    assert states(done) == [DONE, FAILED, FAILED, FAILED] and len(pretended.works) == 1
    assert (
        "made.ipynb was edited while the sweep ran: nothing was computed; start the sweep again" in done.statuses[done.cells[1].key].reason
    )
    assert start(retry=True).finished


def test_nothing_is_computed_after_the_core_was_edited(
    start: Callable[..., Sweep], pretended: Pretended, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new process would run the new code, and records would mix two versions."""

    def act(work: Work) -> Outcome:
        monkeypatch.setattr(cells_of, "code_version", lambda *rooms: "0.1.0 of now")
        return DONE_WELL

    pretended.act = act
    cells_of.core_version(), cells_of.package_version()
    done = start()
    assert states(done) == [DONE, FAILED, FAILED, FAILED] and len(pretended.works) == 1
    status = done.statuses[done.cells[1].key]
    assert status.kind == "CodeChanged" and "alnb in " in status.reason and "nothing was computed" in status.reason


def test_only_the_core_counts_for_what_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rooms = ("store", "data", "learn", "acquire", "loop", "report", "notebook", "widgets", "papers")
    for room in rooms:
        (tmp_path / "alnb" / room / "part").mkdir(parents=True)
        (tmp_path / "alnb" / room / "part/file.py").write_text("a = 1")
    monkeypatch.setattr(cells_of, "PACKAGE", tmp_path)
    before = {"core": cells_of.code_version(*CORE), "all": cells_of.code_version()}
    for room in rooms:
        (tmp_path / "alnb" / room / "part/file.py").write_text("a = 2")
        assert (cells_of.code_version(*CORE) != before["core"]) == (room in CORE) and cells_of.code_version() != before["all"]
        (tmp_path / "alnb" / room / "part/file.py").write_text("a = 1")
    assert {"core": cells_of.code_version(*CORE), "all": cells_of.code_version()} == before


def test_a_second_look_at_complete_runs_is_no_work(
    start: Callable[..., Sweep], pretended: Pretended, clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def act(work: Work) -> Outcome:
        clock.time += 500 if len(pretended.works) <= 2 else 3
        return DONE_WELL

    pretended.act = act
    one = {"seeds": [0]}
    assert [status.seconds for status in start(parameters=one).statuses.values()] == [500, 500]
    edit_core(monkeypatch)
    assert [status.seconds for status in start(parameters=one).statuses.values()] == [500, 500] and len(pretended.works) == 4
    assert start(parameters={"seeds": [0, 1]}, dry_run=True).estimate() == 1000


def test_two_sweeps_share_a_folder(start: Callable[..., Sweep], pretended: Pretended, tmp_path: Path) -> None:
    both = threading.Barrier(2, timeout=30)

    def act(work: Work) -> Outcome:
        if len(pretended.works) <= 2:
            both.wait()  # each has begun a cell
        return DONE_WELL

    pretended.act = act
    results: list[Sweep] = []
    threads = [threading.Thread(target=lambda: results.append(start())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(results) == 2 and all(done.finished for done in results)
    assert sorted(pretended.names) == ["a, seeds 0", "a, seeds 1", "b, seeds 0", "b, seeds 1"]  # each by one of them
    assert not list((tmp_path / "runs/cells").glob(".*"))


def test_any_executor_will_do_and_gets_plain_values(start: Callable[..., Sweep], pretended: Pretended) -> None:
    class Sent(Executor):
        """Says nothing of how many workers it has, and sends everything through pickle."""

        waiting: list[tuple[Future, Any]] = []  # noqa: RUF012

        def submit(self, function: Any, /, *arguments: Any) -> Future:
            future: Future = Future()
            self.waiting.append((future, pickle.loads(pickle.dumps((function, arguments)))))
            if len(self.waiting) == 4:
                for one, (called, given) in self.waiting:
                    one.set_result(called(*given))
            return future

    assert start(executor=Sent()).finished and len(pretended.works) == 4
    with engine._workers(Sent(), Options()) as many, ThreadPoolExecutor(3) as pool, engine._workers(pool, Options(threads=2)) as few:
        assert (many.capacity > 1000, many.threads, few.capacity, few.threads) == (True, 1, 3, 2)


def test_no_more_cells_are_handed_out_than_there_are_workers(start: Callable[..., Sweep], pretended: Pretended) -> None:
    running, most, lock, together = [0], [0], threading.Lock(), threading.Barrier(3, timeout=60)

    def act(work: Work) -> Outcome:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        together.wait()
        with lock:
            running[0] -= 1
        return DONE_WELL

    pretended.act = act
    assert start(parameters={"seeds": list(range(6))}, workers=3).finished
    assert most == [3] and len(pretended.works) == 12


def test_workers_get_a_gpu_each_and_their_share_of_the_cores(
    start: Callable[..., Sweep], pretended: Pretended, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ALNB_DATA", "/data/sets")
    both = threading.Barrier(2, timeout=30)
    pretended.act = lambda work: (both.wait(), DONE_WELL)[1]
    with ThreadPoolExecutor(2) as pool:
        monkeypatch.setattr(engine, "_workers", lambda *_: nullcontext(Workers(pool, 2, threads=3, gpus=("4", "7"))))
        done = start(threads=None)
    assert done.finished
    given = [work.environment["CUDA_VISIBLE_DEVICES"] for work in pretended.works]
    assert {*given[:2]} == {*given[2:]} == {"4", "7"}
    for work in pretended.works:
        environment = cells_of.environment(work)
        assert work.threads == 3 and {environment[name] for name in environment if name.endswith("_NUM_THREADS")} == {"3"}
        assert environment["ALNB_DATA"] == "/data/sets" and environment["OMP_WAIT_POLICY"] == "PASSIVE"
        assert environment["ALNB_WORKSPACE"] == str(store.workspace())
        assert environment[pause.STOP] == work.stop and environment[pause.DEADLINE] == "" and work.cell.folder.is_absolute()
        assert environment["PYTHONPATH"].split(os.pathsep)[0] == str(Path(cells_of.__file__).parents[3])


def test_a_cell_goes_on_with_the_threads_it_was_begun_with(start: Callable[..., Sweep], pretended: Pretended) -> None:
    one = {"seeds": [0], "names": ["a"]}
    pretended.act = lambda work: (TODO, "TimeIsUp", "")
    start(parameters=one, threads=3)
    start(parameters=one, threads=None)
    start(parameters=one, threads=2)
    assert [work.threads for work in pretended.works] == [3, 3, 2]


@pytest.mark.parametrize(("name", "value"), [("workers", 0), ("threads", -1)])
def test_less_than_one_is_refused(start: Callable[..., Sweep], pretended: Pretended, name: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"{name} is {value}: it must be a whole number, at least 1"):
        start(**{name: value})
    with pytest.raises(ValueError, match=f"{name} is {value}"):
        start(dry_run=True, **{name: value})
    assert pretended.works == []


def test_cores_and_gpus_are_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine.os, "sched_getaffinity", lambda _: range(6))
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)

    def share(**options: Any) -> tuple[int, int | None, tuple[str, ...]]:
        with engine._workers(None, Options(**options)) as crew:
            return crew.capacity, crew.threads, crew.gpus

    assert share() == (6, 1, ()) and share(workers=4) == (4, 1, ()) and share(workers=2) == (2, 3, ())
    assert share(workers=2, threads=9) == (2, 9, ()) and share(workers=7) == (7, 1, ())
    monkeypatch.setattr(engine.os, "sched_getaffinity", lambda _: range(64))
    assert share() == (engine.MOST_WORKERS, 8, ())
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert share() == (2, 32, ("0", "1"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-5,6")
    assert share() == (3, 21, ("3", "GPU-5", "6")) and share(per_gpu=4) == (12, 5, ("3", "GPU-5", "6"))
    assert share(per_gpu=4, workers=2) == (2, 32, ("3", "GPU-5", "6"))
    with pytest.raises(ValueError, match="per_gpu is 0"):
        Options(per_gpu=0)


def test_an_executor_that_breaks_ends_the_sweep_and_asks_its_cells_to_stop(
    start: Callable[..., Sweep], pretended: Pretended, tmp_path: Path
) -> None:
    class Broken(ThreadPoolExecutor):
        def submit(self, function: Any, /, work: Work) -> Future:
            if work.cell.name != "a, seeds 0":
                assert begun.wait(20)
                raise RuntimeError("the pool is broken")
            return super().submit(function, work)

    begun = threading.Event()
    pretended.act = lambda work: (begun.set(), until_asked_to_stop(work))[1]
    with Broken(2) as executor, pytest.raises(RuntimeError, match="the pool is broken"):
        start(executor=executor)
    assert len(pretended.works) == 1 and not list((tmp_path / "runs/cells").glob(".*"))
    assert cells_of.read(pretended.works[0].cell).state == TODO


def until_asked_to_stop(work: Work) -> Outcome:
    """What a cell that trains does."""
    deadline = time.monotonic() + 20
    while not Path(work.stop).exists():
        assert time.monotonic() < deadline, "nobody asked"
        time.sleep(0.01)
    return cells_of._outcome("TimeIsUp", "stopped as asked for", work.late)


# ---- time limits and interruptions -----------------------------------------------------------------------------------------------


def test_nothing_is_begun_when_time_is_up_and_what_is_left_is_said(
    start: Callable[..., Sweep], pretended: Pretended, clock: SimpleNamespace, capsys: pytest.CaptureFixture
) -> None:
    def act(work: Work) -> Outcome:
        clock.time += 30
        return (TODO, "TimeIsUp", "stopped as asked for") if clock.time > (work.deadline or clock.time) else DONE_WELL

    pretended.act = act
    began = clock.time
    done = start(time_limit=80)
    assert states(done) == [DONE, DONE, TODO, TODO] and len(pretended.works) == 3 and pretended.reports == []
    assert {work.deadline for work in pretended.works} == {began + 80}
    assert command.conclude(done) == command.LEFT == 75
    message = capsys.readouterr().err
    assert "2 cells left: the rest may take 60 s of work; the same command continues from there" in message
    assert states(start(time_limit=1)) == [DONE, DONE, TODO, TODO] and len(pretended.works) == 3  # too short for anything
    assert start().finished and pretended.names[3:] == ["b, seeds 0", "b, seeds 1"]


def test_when_time_is_up_before_the_whole_is_drawn_that_is_left(
    start: Callable[..., Sweep], pretended: Pretended, clock: SimpleNamespace, capsys: pytest.CaptureFixture
) -> None:
    def act(work: Work) -> Outcome:
        clock.time += 10
        return DONE_WELL

    pretended.act = act
    done = start(time_limit=41)
    assert done.finished and pretended.reports == [] and command.conclude(done) == 75
    assert "not executed over the whole grid: time is up" in capsys.readouterr().err
    assert command.conclude(start()) == 0 and len(pretended.works) == 4 and len(pretended.reports) == 1


def test_a_notebook_is_found_in_the_project_too(pretended: Pretended, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALNB_WORKSPACE", str(path.parent))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    done = sweep(path.name, {"runs": str(tmp_path / "runs")}, kernel_free=True, workers=1)
    assert done.finished and repr(done) == f"<Sweep of {path}: 4 cells: 4 done>"


def test_workers_of_this_machine_are_none_of_a_cluster(path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["sweep", str(path), "--scheduler", "tcp://127.0.0.1:1", "--workers", "2"]) == 2
    assert "--workers and --per-gpu are for this machine" in capsys.readouterr().err


def test_the_whole_is_stopped_too_when_time_is_up(start: Callable[..., Sweep], pretended: Pretended) -> None:
    def draw(values: dict[str, Any]) -> None:
        raise NotebookFailed("cell 3 raised TimeIsUp", "TimeIsUp", "stopped as asked for")

    pretended.draw = draw
    done = start(time_limit=60)
    assert done.finished and done.reports_failed == [] and command.conclude(done) == 75


def test_who_has_not_stopped_yet_can_still_see_that_it_is_to(start: Callable[..., Sweep], pretended: Pretended, tmp_path: Path) -> None:
    class Never(ThreadPoolExecutor):
        def submit(self, function: Any, /, work: Work) -> Future:
            if len(pretended.works):
                raise KeyboardInterrupt
            pretended.works.append(work)
            return Future()

    with pytest.MonkeyPatch.context() as patch, Never(2) as executor, pytest.raises(KeyboardInterrupt):
        patch.setattr(cells_of, "GRACE", -10.0)  # no waiting
        start(executor=executor)
    assert len(list((tmp_path / "runs/cells").glob(".stop-*"))) == 1


def test_a_worker_that_is_late_begins_nothing(start: Callable[..., Sweep], pretended: Pretended, tmp_path: Path) -> None:
    start(parameters={"seeds": [0], "names": ["a"]})
    work = pretended.works[0]
    begun = replace(cells_of.read(work.cell), state=TODO, core="other")
    cells_of._write(work.cell, begun)
    assert cells_of.run(replace(work, deadline=time.time() - 1)) == begun
    (tmp_path / "stop").touch()
    assert cells_of.run(replace(work, stop=str(tmp_path / "stop"))) == begun and len(pretended.works) == 1


def test_who_does_not_stop_when_asked_is_late_after_some_time(start: Callable[..., Sweep], pretended: Pretended, tmp_path: Path) -> None:
    start(parameters={"seeds": [0], "names": ["a"]})
    now, stop = time.time(), tmp_path / "stop"
    work = replace(pretended.works[0], stop=str(stop))
    assert not work.late and not replace(work, deadline=now - 1).late and replace(work, deadline=now - cells_of.GRACE - 1).late
    stop.touch()
    assert not work.late
    os.utime(stop, (now - cells_of.GRACE - 1, now - cells_of.GRACE - 1))
    assert work.late
    assert cells_of._outcome("DeadKernelError", "it was killed", False)[0] == KILLED
    assert cells_of._outcome("DeadKernelError", "it was killed", True)[0] == TODO
    assert cells_of._outcome("RuntimeError", "Kernel died before replying to kernel_info", False)[0] == KILLED
    assert cells_of._outcome("RuntimeError", "mat1 and mat2 shapes cannot be multiplied", False)[0] == FAILED


def test_ctrl_c_stops_at_a_checkpoint(
    pretended: Pretended, path: Path, tmp_path: Path, capsys: pytest.CaptureFixture, start: Callable[..., Sweep]
) -> None:
    def act(work: Work) -> Outcome:
        os.kill(os.getpid(), signal.SIGINT)
        return until_asked_to_stop(work)

    pretended.act = act
    arguments = ["sweep", str(path), "--kernel-free", "--workers", "1", "-p", "runs", str(tmp_path / "runs")]
    assert main(arguments) == 130
    assert "stopping at the next checkpoint" in capsys.readouterr().err and not list((tmp_path / "runs/cells").glob(".*"))
    assert len(pretended.works) == 1 and cells_of.look(pretended.works[0].cell).state == TODO
    pretended.act = lambda work: DONE_WELL
    assert main(arguments) == 0 and len(pretended.works) == 5


def test_a_request_to_end_is_as_ctrl_c_while_it_sweeps(start: Callable[..., Sweep], pretended: Pretended) -> None:
    def act(work: Work) -> Outcome:
        os.kill(os.getpid(), signal.SIGTERM)
        return until_asked_to_stop(work)

    pretended.act = act
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        start()
    assert signal.getsignal(signal.SIGTERM) is before and cells_of.look(pretended.works[0].cell).state == TODO


def test_a_second_ctrl_c_gives_no_more_time(start: Callable[..., Sweep], pretended: Pretended, tmp_path: Path) -> None:
    def act(work: Work) -> Outcome:
        os.kill(os.getpid(), signal.SIGINT)
        until_asked_to_stop(work)
        os.kill(os.getpid(), signal.SIGINT)
        deadline = time.monotonic() + cells_of.GRACE / 2
        while not work.late and time.monotonic() < deadline:
            time.sleep(0.01)
        return cells_of._outcome("Died", "killed", work.late)

    pretended.act = act
    with pytest.raises(KeyboardInterrupt):
        start()
    assert cells_of.look(pretended.works[0].cell).state == TODO and not list((tmp_path / "runs/cells").glob(".*"))


# ---- dry runs --------------------------------------------------------------------------------------------------------------------


def test_a_dry_run_writes_nothing(start: Callable[..., Sweep], pretended: Pretended, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    done = start(dry_run=True)
    assert states(done) == [TODO] * 4 and done.estimate() is None and pretended.works == []
    printed = capsys.readouterr().out
    assert "a, seeds 0  to do" in printed and "4 cells: 4 to do" in printed and "is known once one such cell has finished" in printed
    assert not (tmp_path / "runs").exists()


def test_a_dry_run_says_what_is_done_and_how_long_the_rest_may_take(
    start: Callable[..., Sweep], pretended: Pretended, clock: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    seconds = {"a, seeds 0": 100, "b, seeds 0": 400, "b, seeds 1": 10}

    def act(work: Work) -> Outcome:
        clock.time += seconds[work.cell.name]
        return (FAILED, "ValueError", "no") if work.cell.name == "b, seeds 1" else DONE_WELL

    pretended.act = act
    start(parameters={"seeds": [0]})
    start(parameters={"seeds": [1], "names": ["b"]})
    cells_of._write(pretended.works[2].cell, replace(cells_of.read(pretended.works[2].cell), state=RUNNING))  # it has died
    before = tree(tmp_path / "runs")
    capsys.readouterr()
    done = start(parameters={"seeds": [0, 1]}, dry_run=True, workers=2)
    assert {name: held for name, held in tree(tmp_path / "runs").items() if not name.endswith("/.lock")} == {
        name: held for name, held in before.items() if not name.endswith("/.lock")
    }
    assert states(done) == [DONE, TODO, DONE, KILLED] and done.estimate() == 500  # as those of the same name took
    printed = capsys.readouterr().out
    assert "a, seeds 0  done    2 min" in printed and "2 done, 1 killed, 1 to do" in printed
    assert "the rest may take 8 min of work, 4 min on 2 workers" in printed
    cells_of._write(pretended.works[2].cell, replace(cells_of.read(pretended.works[2].cell), state=FAILED, kind="ValueError", reason="no"))
    assert start(dry_run=True).estimate() == 100 and "the rest may take 2 min of work" in capsys.readouterr().out
    start(dry_run=True, retry=True)
    printed = capsys.readouterr().out
    assert "b, seeds 1  failed  ValueError: no" in printed and "the rest may take 8 min of work" in printed


# ---- the whole -------------------------------------------------------------------------------------------------------------------


def test_each_single_value_has_a_report_and_one_that_fails_is_told(
    start: Callable[..., Sweep], pretended: Pretended, capsys: pytest.CaptureFixture
) -> None:
    def draw(values: dict[str, Any]) -> None:
        if values["kind"] == "x":
            raise NotebookFailed("cell 5 of it raised KeyError: 'figure'")

    pretended.draw = draw
    done = start(parameters={"kind": ["x", "y"], "seeds": [0]})
    assert [(values["kind"], values["names"], values["seeds"]) for values in pretended.reports] == [
        ("x", ["a", "b"], [0]),
        ("y", ["a", "b"], [0]),
    ]
    assert len(done.reports) == 1 and command.conclude(done) == 1
    out, err = capsys.readouterr()
    assert f"executed notebook: {done.reports[0]}" in out and "over the whole grid: cell 5 of it raised KeyError" in err


def test_without_papermill_the_whole_is_left_to_another_machine(
    start: Callable[..., Sweep], pretended: Pretended, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(engine, "find_spec", lambda name: None)
    done = start(kernel_free=None)
    assert done.finished and len(pretended.works) == 4 and pretended.reports == [] and command.conclude(done) == 0
    assert "papermill is not installed here: start the same sweep where it is" in capsys.readouterr().err


# ---- the command -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "expected"), [("90s", 90), ("9m", 540), ("1h30m", 5400), ("1.5h", 5400), ("2d", 172800)])
def test_lengths_of_time(text: str, expected: float) -> None:
    assert command.seconds(text) == expected


@pytest.mark.parametrize("text", ["9", "m", "", "0s", "-5m", "5m x", "5 m", "1h,5m", "inf", "5M"])
def test_no_lengths_of_time(text: str) -> None:
    with pytest.raises(Exception, match="is no length of time: write it as 90s, 9m or 1h30m"):
        command.seconds(text)


def test_the_command_says_what_it_is_told(
    pretended: Pretended, path: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sheet = tmp_path / "one.yaml"
    sheet.write_text("notebook: made.ipynb\nover: [names]\nparameters: {seeds: 0:3, names: [a, b], runs: some}")
    assert main(["sweep", str(sheet), "made.ipynb", "--kernel-free", "--workers", "1", "--scale", "laptop", "-p", "names", "c"]) == 0
    assert pretended.names == ["c", "c, seeds 0", "c, seeds 1"]
    assert all(work.cell.values["scale"] == "laptop" for work in pretended.works) and pretended.works[0].cell.values["seeds"] == [0, 1, 2]
    assert [work.cell.below for work in pretended.works] == [tmp_path / f"{name}/cells/made" for name in ("some", "runs", "runs")]
    out = capsys.readouterr().out
    assert "== made.ipynb" in out and "1 cell: 1 done" in out and "2 cells: 2 done" in out
    assert main(["sweep", "made.ipynb", "--over", "names", "--dry-run", "-p", "kind", "x", "y"]) == 0
    assert "4 cells: 4 to do" in capsys.readouterr().out and len(pretended.works) == 3


def test_wrong_calls_start_nothing(pretended: Pretended, path: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    other = notebook_of(tmp_path / "other.ipynb", PARAMETERS, ("check", CHECK))
    runs = ["-p", "runs", str(tmp_path / "runs")]
    assert main(["sweep", str(other), *runs, "-p", "sede", "1"]) == 2
    assert capsys.readouterr().err.startswith(f"alnb: {other}: there is no parameter 'sede' (did you mean 'seeds'?)")
    (tmp_path / "bad.yaml").write_text("notebook: other.ipynb\nparameters: {kind: bad}")
    assert main(["sweep", str(path), str(tmp_path / "bad.yaml"), *runs]) == 2  # the first is not begun either
    assert capsys.readouterr().err == f"alnb: {tmp_path / 'bad.yaml'}: bad is none of the kinds\n"
    assert main(["sweep", str(tmp_path / "none.ipynb"), *runs]) == 2
    with pytest.raises(SystemExit) as status:
        main(["sweep", str(path), "--time-limit", "soon"])
    assert status.value.code == 2 and "'soon' is no length of time" in capsys.readouterr().err
    assert pretended.works == [] and not (tmp_path / "runs").exists()


def test_exit_statuses_of_several_are_that_of_the_worst(
    pretended: Pretended, path: Path, tmp_path: Path, clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """0 done, 1 failed, 75 left; the time limit is for all of them together."""
    passed = [0.0]
    monkeypatch.setattr(command, "time", SimpleNamespace(monotonic=lambda: passed[0]))
    others = [notebook_of(tmp_path / f"{name}.ipynb", PARAMETERS) for name in ("n1", "n2", "n3")]

    def act(work: Work) -> Outcome:
        passed[0] += 10
        clock.time += 10
        return (FAILED, "ValueError", "no") if work.cell.notebook.stem in failing else DONE_WELL

    pretended.act, failing = act, {"n1"}
    call = ["sweep", *map(str, others), "--kernel-free", "--workers", "1", "--time-limit", "60s", "-p", "runs", str(tmp_path / "runs")]
    assert main(call) == 1 and len(pretended.works) == 6
    failing.clear()
    again = [*call[:-1], str(tmp_path / "more")]
    assert main(again) == 75 and len(pretended.works) == 12
    assert main(again) == 75 and len(pretended.works) == 18
    assert main(again) == 0 and len(pretended.works) == 18


def test_the_grid_is_that_of_the_words(path: Path) -> None:
    with pytest.raises(BadParameter, match="'names' names 'a' twice"):
        grid(path, {"names": ["a", "a"]})


def test_cells_that_failed_before_are_counted(start: Callable[..., Sweep], pretended: Pretended, capsys: pytest.CaptureFixture) -> None:
    pretended.act = lambda work: (FAILED, "ValueError", "no") if work.cell.name == "a, seeds 1" else DONE_WELL
    start()
    capsys.readouterr()
    start()
    assert ", 0 of them to do; 1 failed before: --retry" in capsys.readouterr().out


# ---- clocks, folders, files that go ------------------------------------------------------------------------------------------------


@pytest.mark.situation("S40", "the clock is set back by an hour while a cell runs", "its seconds are not negative")
def test_a_clock_that_is_set_back(start: Callable[..., Sweep], pretended: Pretended, monkeypatch: pytest.MonkeyPatch) -> None:
    real = time.time
    pretended.act = lambda work: monkeypatch.setattr(time, "time", lambda: real() - 3600 * len(pretended.works)) or DONE_WELL
    done = start()
    assert done.finished and all(0 <= status.seconds < 60 for status in done.statuses.values())


@pytest.mark.situation("S41", "the folder of the runs is deleted while a cell runs", "the rest goes on; what is lost is computed again")
def test_the_folder_of_the_runs_goes(start: Callable[..., Sweep], pretended: Pretended, tmp_path: Path) -> None:
    def act(work: Work) -> Outcome:
        if len(pretended.works) == 2:
            shutil.rmtree(tmp_path / "runs")
        return DONE_WELL

    pretended.act = act
    start()
    pretended.works.clear()
    pretended.act = lambda work: DONE_WELL
    again = start()
    assert again.finished and "a, seeds 0" in pretended.names and len(pretended.works) < 4


@pytest.mark.situation("S42", "the notebook is deleted while its sweep runs", "later cells fail and name it; done ones stay done")
def test_the_notebook_goes(start: Callable[..., Sweep], pretended: Pretended, path: Path) -> None:
    text = path.read_bytes()
    pretended.act = lambda work: path.unlink(missing_ok=True) or DONE_WELL
    done = start()
    assert states(done) == [DONE, FAILED, FAILED, FAILED] and all(str(path) in done.statuses[cell.key].reason for cell in done.failed)
    path.write_bytes(text)
    pretended.act = lambda work: DONE_WELL
    assert start(retry=True).finished and len(pretended.works) == 4


@pytest.mark.situation("S43", "a file where a cell's folder should be", "that cell fails and names it; the others are done")
def test_a_file_in_the_place_of_a_cell(start: Callable[..., Sweep], pretended: Pretended, path: Path, tmp_path: Path) -> None:
    first = grid(path, {"runs": str(tmp_path / "runs")}).cells()[0]
    first.below.mkdir(parents=True)
    first.folder.write_text("in the way")
    done = start()
    assert states(done) == [FAILED, DONE, DONE, DONE] and str(first.folder) in done.statuses[first.key].reason


@pytest.mark.situation("S44", "halves of files that a kill left in a cell's folder (.cell.json.123.part)", "ignored: the cell is done")
def test_halves_of_files_are_no_cells(start: Callable[..., Sweep], pretended: Pretended, path: Path, tmp_path: Path) -> None:
    first = grid(path, {"runs": str(tmp_path / "runs")}).cells()[0]
    first.folder.mkdir(parents=True)
    (first.folder / ".cell.json.123.part").write_text('{"state": "do')
    assert start().finished and len(pretended.works) == 4


@pytest.mark.situation("S45", "two sweeps of one grid at once", "each cell is computed once")
def test_two_sweeps_of_one_grid_at_once(start: Callable[..., Sweep], pretended: Pretended) -> None:
    pretended.act = lambda work: time.sleep(0.05) or DONE_WELL
    with ThreadPoolExecutor(2) as executor:
        both = [executor.submit(start) for _ in range(2)]
    assert sorted(pretended.names) == ["a, seeds 0", "a, seeds 1", "b, seeds 0", "b, seeds 1"]
    assert any(future.result().finished for future in both)


@pytest.mark.situation("S46", "a log that is not there yet, or ends in half a letter", "no line, or a replacement")
def test_a_log_that_is_not_there(start: Callable[..., Sweep], pretended: Pretended) -> None:
    cell = start().cells[0]
    assert table.last_line(cell) == ""
    (cell.folder / "log.txt").write_bytes(b"first\r50 % \xff")
    assert table.last_line(cell) == "50 % \ufffd"


@pytest.mark.situation("S47", "cells/ is a link to another disk", "done there, once")
def test_cells_behind_a_link(start: Callable[..., Sweep], pretended: Pretended, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/cells").symlink_to(tmp_path / "disk")
    assert start().finished and len(list((tmp_path / "disk").rglob("cell.json"))) == 4
    pretended.works.clear()
    assert start().finished and pretended.works == []


# ---- random grids, random ends ---------------------------------------------------------------------------------------------------

ENDS = ("done", "done", "done", "killed", "failed", "stopped", "ctrl-c", "disk full", "sweep killed")


@pytest.mark.situation("P3", "random small grids; cells and sweeps that end in any way, then go on", "as undisturbed")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=3, unique=True), st.integers(1, 3), st.randoms(use_true_random=False))
@settings(max_examples=25)
def test_whatever_befalls_a_random_grid_it_ends_as_if_nothing_had(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], seeds: int, chance: random.Random
) -> None:
    folder = tmp_path_factory.mktemp("grid")
    path = notebook_of(folder / "made.ipynb", PARAMETERS)
    values = {"names": names, "seeds": list(range(seeds)), "runs": str(folder / "runs")}
    ends = [chance.choice(ENDS) for _ in range(chance.randrange(12))]
    finished: list[str] = []

    def act(work: Work, processes: list[int]) -> Outcome:
        processes.append(process_of(work))
        end = ends.pop() if ends else "done"
        if end == "sweep killed":
            raise SystemExit  # neither `cell.json` nor anything else is written after it
        if end == "ctrl-c":
            raise KeyboardInterrupt
        if end == "disk full":
            raise OSError(errno.ENOSPC, "No space left on device")
        if end != "done":
            return {"killed": KILLED, "failed": FAILED, "stopped": TODO}[end], end, end
        leave_run(work, work.cell.key)
        finished.append(work.cell.name)
        return DONE_WELL

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cells_of, "_by_itself", act)
        patch.setattr(engine, "execute", lambda path, values, output, **options: output)
        for attempt in range(20):
            try:
                done = sweep(path, values, kernel_free=True, workers=1, threads=1, retry=attempt > 0)
            except (SystemExit, KeyboardInterrupt):
                continue
            if done.finished:
                break
        assert done.finished and states(done) == [DONE] * len(names) * seeds and len(done.reports) == 1
        assert sorted(finished) == sorted(cell.name for cell in done.cells), "a cell was computed twice, or never"
        before = tree(folder / "runs")
        assert sweep(path, values, kernel_free=True, workers=1, threads=1).finished and tree(folder / "runs") == before
