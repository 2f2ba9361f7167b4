"""Sweeps on Dask: real schedulers and workers, each a process of its own, that are killed, interrupted, wrong or not there."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, Future
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sweeping import ORDER, experiment_of, table

from alnb import store
from alnb.__main__ import main
from alnb.notebook import BadParameter
from alnb.notebook.sweep import cell as cells_of
from alnb.notebook.sweep import cluster, engine, sweep
from alnb.notebook.sweep.cell import DONE, KILLED, Status
from alnb.notebook.sweep.cluster import Unreachable

distributed = pytest.importorskip("distributed", reason="a cluster needs pip install 'alnb[cluster]'")

PROJECT = Path(__file__).parents[2]
PATHS = os.pathsep.join((str(PROJECT), str(PROJECT / "tests")))
PATIENCE = 90  # seconds after which a test does not wait any more


# ---- processes ------------------------------------------------------------------------------------------------------------------


def started(folder: Path, module: str, *words: str, **variables: str) -> subprocess.Popen[bytes]:
    with open(folder / f"{module}.log", "ab") as file:
        options: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": file, "stderr": subprocess.STDOUT, "start_new_session": True}
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": PATHS, **variables}
        return subprocess.Popen([sys.executable, "-m", module, *words], env=environment, cwd=folder, **options)


def worker(folder: Path, address: str, **variables: str) -> subprocess.Popen[bytes]:
    plain = ("--nthreads", "1", "--no-nanny", "--no-dashboard", "--local-directory", str(folder))
    return started(folder, "distributed.cli.dask_worker", address, *plain, **variables)


def killed(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def wait_for(condition: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.02)


@contextmanager
def meanwhile(condition: Callable[[], Any], action: Callable[[], Any]) -> Iterator[None]:
    """While it is open, `action` is done once, as soon as `condition` holds."""
    happened, ended = list[bool](), threading.Event()

    def follow() -> None:
        while not ended.wait(0.02):
            if condition():
                action()
                happened.append(True)
                return

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
    assert happened, "all was over before it could happen"


@pytest.fixture
def nearby() -> Iterator[Callable[..., Any]]:
    """Schedulers in this process, whose workers are threads of it, or come from elsewhere."""
    made: list[Any] = []

    def make(workers: int = 0) -> Any:
        plain = {"processes": False, "threads_per_worker": 1, "dashboard_address": ":0", "protocol": "tcp", "host": "127.0.0.1"}
        made.append(distributed.LocalCluster(n_workers=workers, **plain))
        return made[-1]

    yield make
    for scheduler in made:
        scheduler.close()


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """`alnb sweep` of one cell of the tiny experiment, without the execution over the whole."""
    monkeypatch.setattr(engine, "find_spec", lambda name: None)
    path = experiment_of(tmp_path)

    def called(*words: str, seed: str = "0") -> int:
        cell = ["-p", "strategies", "nearly_tied", "-p", "seeds", seed, "-p", "runs", str(tmp_path / "runs")]
        return main(["sweep", str(path), "--kernel-free", *cell, *words])

    return called


# ---- killed and interrupted -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_ctrl_c_and_a_worker_that_is_killed_cost_nothing_but_time(
    call: Callable[..., int], undisturbed: Mapping[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """In the training of cycle 1 Ctrl-C stops the sweep at a checkpoint. In that of cycle 2 the worker is killed, and another goes on.

    One test, since each worker takes seconds to start. At last the scheduler is killed, too, and is named.
    """
    runs, order, file = tmp_path / "runs", tmp_path / "order", tmp_path / "scheduler.json"
    words = ["--host", "127.0.0.1", "--port", "0", "--dashboard-address", "127.0.0.1:0", "--scheduler-file", str(file)]
    scheduler, workers = started(tmp_path, "distributed.cli.dask_scheduler", *words), list[subprocess.Popen[bytes]]()
    here, victims = order.with_suffix(".here"), list[subprocess.Popen[bytes]]()

    def kill() -> None:
        (owner,) = runs.glob("cells/tiny/*/.owner")
        victims.append(next(process for process in workers if str(process.pid) == owner.read_text().split()[0]))
        killed(victims[0])

    try:
        wait_for(lambda: file.exists() and file.read_text().endswith("}"), "a scheduler")
        workers += [worker(tmp_path, json.loads(file.read_text())["address"], **{ORDER: str(order)}) for _ in range(2)]
        order.write_text("wait 1")
        with meanwhile(here.exists, lambda: os.kill(os.getpid(), signal.SIGINT)):
            assert call("--scheduler", str(file)) == 130
        (path,) = runs.glob("cells/tiny/*/cell.json")
        stopped = cells_of.Status(**store.read_json(path))
        assert "stopping at the next checkpoint" in capsys.readouterr().err and not list((runs / "cells").glob(".*"))
        assert stopped.state == "to do" and "cycle 1, update" in stopped.reason
        here.unlink()
        order.write_text("hang 2")
        with meanwhile(here.exists, kill):
            assert call("--scheduler", str(file)) == 0
        out, err = capsys.readouterr()
        assert table(runs) == undisturbed and "1 cell: 1 done" in out and "Dask shows its work at http://127.0.0.1:" in out
        assert err.startswith("not executed over the whole grid") and err.count("\n") == 1  # nothing of Dask's own
        assert cells_of.Status(**store.read_json(path)).attempts == 3 and len(victims) == 1
        with pytest.raises(Unreachable, match=r"scheduler\.json has ended"), cluster.connect(str(file)) as executor:
            future = executor.submit(time.sleep, PATIENCE)
            killed(scheduler)
            future.result(PATIENCE)
    finally:
        for process in [*workers, scheduler]:
            killed(process)


class Dead(Executor):
    """In the place of Dask's, when all workers that try die, so many times."""

    def __init__(self, times: int) -> None:
        self.left = times

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **named: Any) -> Future[Any]:
        future = Future[Any]()
        if self.left:
            self.left -= 1
            future.set_exception(distributed.KilledWorker("cell-1", SimpleNamespace(address="tcp://127.0.0.1:1"), 3))
        else:
            future.set_result(Status(DONE))
        return future


@pytest.mark.parametrize(("times", "state"), [(2, DONE), (3, KILLED)])
def test_what_dask_gives_up_is_begun_anew(times: int, state: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "find_spec", lambda name: None)
    done = sweep(experiment_of(tmp_path), {"runs": str(tmp_path)}, over=["seeds"], executor=Dead(times), retries=2)
    (status,) = done.statuses.values()
    assert status.state == state and (state == DONE or (status.kind == "KilledWorker" and "workers died" in status.reason))


class Nobody(Executor):
    """In the place of Dask's, when all workers have left."""

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **named: Any) -> Future[Any]:
        return Future()


def test_a_time_limit_holds_where_nobody_takes_a_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "RESERVE", 0)
    monkeypatch.setattr(cells_of, "GRACE", -10)
    done = sweep(experiment_of(tmp_path), {"runs": str(tmp_path)}, executor=Nobody(), time_limit=0.5)
    assert done.left == done.cells and not list((tmp_path / "cells").glob(".*"))


# ---- workers with another version -------------------------------------------------------------------------------------------------


WITHOUT = "raise ModuleNotFoundError('No module named alnb')"
OLDER = "def package_version(): return '0.0.9 0123456789'"


@pytest.mark.slow
def test_workers_without_the_package_or_with_another_version_are_named_before_anything_starts(
    nearby: Callable[..., Any], call: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Where nobody looks first, as with an executor of one's own, the cell itself refuses: see `test_sweep`."""
    scheduler, strangers = nearby(), list[subprocess.Popen[bytes]]()
    for name, source in (("without", WITHOUT), ("older", OLDER)):
        package = tmp_path / name / "alnb/notebook/sweep"
        package.mkdir(parents=True)
        for folder in (package, package.parent, package.parent.parent):
            (folder / "__init__.py").write_text(source if name == "without" else "")
        (package / "cell.py").write_text(source)
        strangers.append(worker(tmp_path, scheduler.scheduler_address, PYTHONPATH=str(tmp_path / name)))
    try:
        scheduler.wait_for_workers(2, timeout=PATIENCE)
        assert call("--scheduler", scheduler.scheduler_address) == 1
        message = capsys.readouterr().err
        assert f"another version of alnb than this sweep ({cells_of.package_version()})" in message
        assert "No module named alnb" in message and "0.0.9 0123456789" in message
        assert message.count("worker tcp://") == 2 and not list((tmp_path / "runs").rglob("cell.json"))
    finally:
        for process in strangers:
            killed(process)


# ---- nobody there -------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def silent() -> Iterator[str]:
    """An address where somebody listens and never answers, as a scheduler whose machine hangs."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"tcp://127.0.0.1:{server.getsockname()[1]}"


def test_a_scheduler_that_does_not_answer_is_named(
    silent: str, call: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "ANSWER", 0.3)
    broken = tmp_path / "broken.json"
    for content in ("{nonsense", "[]", '{"id": 3}', '{"address": "tcp://127.0.0.1:1"}'):
        broken.write_text(content)
        assert call("--scheduler", str(broken)) == 1
        assert f"no Dask scheduler answers at {broken} (" in capsys.readouterr().err
    for address in ("tcp://127.0.0.1:1", silent, "tls://127.0.0.1:1", "nonsense", "none.json"):
        before = time.monotonic()
        assert call("--scheduler", address) == 1
        assert time.monotonic() - before < 5 and f"no Dask scheduler answers at {address} (" in capsys.readouterr().err
    assert not list((tmp_path / "runs").rglob("cell.json"))


def test_a_scheduler_without_workers_is_named(
    nearby: Callable[..., Any], call: Callable[..., int], capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "ARRIVE", 0.3)
    address = nearby().scheduler_address
    assert call("--scheduler", address) == 1
    assert f"no worker of {address} came in 0.3 s: start some with: dask worker {address}" in capsys.readouterr().err


def test_dask_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(BadParameter, match=r"pip install 'alnb.cluster.'"), cluster.connect("tcp://127.0.0.1:1"):
        pass
