"""Sweeps on Dask: real schedulers and workers, each a process of its own, that are killed, late, wrong or not there."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from conftest import notebook_of
from hypothesis import given
from hypothesis import strategies as st

import alnb
from alnb import store
from alnb.__main__ import main
from alnb.notebook import BadParameter, kernel_free
from alnb.notebook.sweep import cell as cells_of
from alnb.notebook.sweep import cluster, engine, sweep
from alnb.notebook.sweep.cell import DIED, DONE, Status, beside
from alnb.notebook.sweep.cluster import connect

distributed = pytest.importorskip("distributed", reason="what is beyond one machine needs pip install 'alnb[cluster]'")

PROJECT = Path(__file__).parents[2]
ALONE = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(PROJECT)}  # this package, wherever else another is installed
PATIENCE = 90  # seconds after which a test does not wait any more
PARAMETERS = """\
seeds: list[int] = [0]  # one run each
pause: float = 0.0  # seconds after each cycle
runs: str = ""  # where everything goes"""
EXPERIMENT = """\
import functools, json, os, time
import torch
import alnb

began = time.time()
torch.set_num_threads(1)
alnb.train.CHECKPOINT_SHARE = 1e9  # a checkpoint after every update


def bars(n, seed):
    pixels = torch.randint(0, 120, (n, 3, 8, 8), generator=alnb.rng.generator(seed, "bars"))
    for index in range(n):
        pixels[index, :, index % 3 * 2 : index % 3 * 2 + 2] += 100
    return alnb.ImageSet(alnb.data.Resident(pixels.to(torch.uint8)), torch.arange(n) % 3, ("a", "b", "c"), "bars")


train, test = bars(60, 0), bars(30, 1)
recipe = alnb.Recipe(epochs=0.01, min_updates=15, batch=8, lr=0.05, checkpoint_seconds=0.0)
roles = {"learner": alnb.Learner(functools.partial(alnb.nets.small, width=4), recipe), "oracle": alnb.oracle.simulated(train.targets)}
for seed in seeds:
    protocol = alnb.Protocol(initial=6, budget=4, cycles=3, init="warm", seed=seed)
    asked = {**roles, "strategy": alnb.acquire.STRATEGIES["entropy"], "protocol": protocol}
    for cycle in alnb.cycles(alnb.Run(f"{runs}/seed-{seed}"), alnb.Pool.of(train.images), test, **asked):
        time.sleep(pause)
names = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")
told = {"worker": os.getppid(), "began": began, "ended": time.time(), **{name: os.environ.get(name) for name in names}}
with open(f"{runs}/told-{os.getpid()}.json", "w") as file:
    json.dump(told, file)"""


@pytest.fixture(scope="module")
def bars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return notebook_of(tmp_path_factory.mktemp("notebook") / "bars.ipynb", PARAMETERS, EXPERIMENT)


@pytest.fixture(scope="module")
def undisturbed(bars: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """What a run's records are, by the run's name, if nothing happens to it."""
    runs, share = tmp_path_factory.mktemp("undisturbed"), alnb.train.CHECKPOINT_SHARE
    try:
        kernel_free.execute(bars, {"seeds": [0, 1, 2, 3], "runs": str(runs)})
    finally:
        alnb.train.CHECKPOINT_SHARE = share
    return records(runs)


def records(runs: Path) -> dict[str, list[dict[str, Any]]]:
    folders = sorted(runs.glob("seed-*"))
    return {folder.name: [alnb.Cycle.read(record).reproducible for record in store.Run(folder).records()] for folder in folders}


def begun(runs: Path, seed: int) -> bool:
    """Whether the training of the second cycle has a checkpoint."""
    return (runs / f"seed-{seed}/cycle_001/net.pt").exists()


# ---- processes ------------------------------------------------------------------------------------------------------------------


def started(log: Path, module: str, *words: str, **variables: str) -> subprocess.Popen[bytes]:
    """In the log's folder, which Python looks for modules in first: not in this project's."""
    with open(log, "ab") as file:
        options: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": file, "stderr": subprocess.STDOUT, "start_new_session": True}
        return subprocess.Popen([sys.executable, "-m", module, *words], env={**os.environ, **ALONE, **variables}, cwd=log.parent, **options)


def killed(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def worker(folder: Path, address: str, name: str, *words: str, **variables: str) -> subprocess.Popen[bytes]:
    plain = ("--name", name, "--no-nanny", "--no-dashboard", "--local-directory", str(folder))
    return started(folder / f"{name}.log", "distributed.cli.dask_worker", address, *plain, *words, **variables)


def wait_for(condition: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.02)


@contextmanager
def meanwhile(condition: Callable[[], Any], action: Callable[[], Any]) -> Iterator[None]:
    """Beside what is done within, `action` is done as soon as `condition` holds."""
    happened = list[bool]()

    def follow(ended: threading.Event) -> None:
        while not ended.wait(0.02):
            if condition():
                action()
                happened.append(True)
                return

    with beside(follow):
        yield
    assert happened, "all was over before it could happen"


@dataclass
class Machines:
    """A scheduler and workers that take two cells at once, but for the one GPU that each has."""

    folder: Path
    scheduler: subprocess.Popen[bytes] | None = None
    workers: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def file(self) -> Path:
        return self.folder / "scheduler.json"

    @property
    def address(self) -> str:
        return str(json.loads(self.file.read_text())["address"])

    def start(self, least: int) -> None:
        """Whatever is not there."""
        if self.scheduler is None or self.scheduler.poll() is not None:
            self.file.unlink(missing_ok=True)
            words = ["--host", "127.0.0.1", "--port", "0", "--dashboard-address", "127.0.0.1:0", "--scheduler-file", str(self.file)]
            self.scheduler = started(self.folder / "scheduler.log", "distributed.cli.dask_scheduler", *words)
            wait_for(lambda: self.file.exists() and self.file.read_text().endswith("}"), "a scheduler")
        self.workers = {number: process for number, process in self.workers.items() if process.poll() is None}
        for number in [number for number in range(3) if number not in self.workers][: max(0, least - len(self.workers))]:
            words = ["--nthreads", "2", "--resources", "GPU=1"]
            self.workers[number] = worker(self.folder, self.address, f"w{number}", *words, CUDA_VISIBLE_DEVICES=str(number + 5))
        with distributed.Client(self.address) as client:
            client.wait_for_workers(least, timeout=PATIENCE)

    def who(self, runs: Path, seed: int) -> subprocess.Popen[bytes]:
        """The worker that executes the cell."""
        (path,) = [p for p in runs.glob("cells/bars/*/cell.json") if json.loads(p.read_text())["values"]["seeds"] == [seed]]
        pid = int((path.parent / ".owner").read_text().split()[0])
        (process,) = [process for process in self.workers.values() if process.pid == pid]
        return process

    def end(self) -> None:
        for process in [*self.workers.values(), *([self.scheduler] if self.scheduler else [])]:
            killed(process)


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    made = Machines(tmp_path_factory.mktemp("machines"))
    yield made
    made.end()


@pytest.fixture
def nearby() -> Iterator[Callable[..., Any]]:
    """Schedulers in this process, whose workers are threads of it, or else come from elsewhere."""
    made: list[Any] = []

    def make(workers: int = 0, **options: Any) -> Any:
        plain = {"processes": False, "threads_per_worker": 1, "dashboard_address": ":0", "protocol": "tcp", "host": "127.0.0.1"}
        made.append(distributed.LocalCluster(n_workers=workers, **{**plain, **options}))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def call(bars: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """`alnb sweep` of the notebook, without the execution over the whole."""
    monkeypatch.setattr(engine, "find_spec", lambda name: None)

    def called(*words: str, runs: Path = tmp_path / "runs") -> int:
        return main(["sweep", str(bars), "-p", "runs", str(runs), "--kernel-free", *words])

    return called


# ---- three workers ----------------------------------------------------------------------------------------------------------------


def test_a_worker_that_is_killed_costs_nothing_but_time(
    machines: Machines, undisturbed: Mapping[str, Any], call: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Three workers with a GPU each, the fourth cell waits; the one that is killed is in the middle of another."""
    machines.start(3)
    runs, victims = tmp_path / "runs", list[subprocess.Popen[bytes]]()

    def kill() -> None:
        victims.append(machines.who(runs, 1))
        killed(victims[0])

    with meanwhile(lambda: begun(runs, 1), kill):
        assert call("-p", "seeds", "0:4", "-p", "pause", "0.3", "--cluster", machines.address) == 0
    out, err = capsys.readouterr()
    assert records(runs) == undisturbed and "4 cells: 4 done" in out
    assert err.startswith("not executed over the whole grid") and err.count("\n") == 1  # nothing of Dask's own
    cells = sorted((json.loads(path.read_text()) for path in runs.glob("told-*.json")), key=lambda one: one["began"])
    by_worker = {pid: [one for one in cells if one["worker"] == pid] for pid in {one["worker"] for one in cells}}
    assert len(cells) == 4 and victims[0].pid not in by_worker and by_worker.keys() <= {w.pid for w in machines.workers.values()}
    assert all(first["ended"] <= then["began"] for own in by_worker.values() for first, then in pairwise(own))  # one GPU, one cell
    own = {process.pid: str(number + 5) for number, process in machines.workers.items()}
    assert all(one["CUDA_VISIBLE_DEVICES"] == own[one["worker"]] and one["OMP_NUM_THREADS"] == "1" for one in cells)
    attempts = [json.loads(path.read_text())["attempts"] for path in runs.glob("cells/bars/*/cell.json")]
    assert sorted(attempts) == [1, 1, 1, 2]
    first = out.splitlines()[0]
    assert first.startswith("4 cells, 4 of them to do; the engine's own view: http://127.0.0.1:")
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(first.split()[-1]) as page:
        assert page.status == 200 and b"Dask" in page.read()


def test_ctrl_c_stops_at_a_checkpoint_and_the_same_command_goes_on(
    machines: Machines, undisturbed: Mapping[str, Any], call: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """The second time its worker is ended as at a walltime, by SIGTERM and soon after by SIGKILL, and another goes on."""
    machines.start(2)
    runs, words = tmp_path / "runs", ["--cluster", str(machines.file), "-p", "seeds", "2", "-p", "pause", "0.6"]
    with meanwhile(lambda: begun(runs, 2), lambda: os.kill(os.getpid(), signal.SIGINT)):
        assert call(*words) == 130
    assert "stopping at the next checkpoint" in capsys.readouterr().err
    (path,) = runs.glob("cells/bars/*/cell.json")
    assert json.loads(path.read_text())["state"] == "stopped" and not list((runs / "cells").glob(".*"))
    before = records(runs)["seed-2"]
    assert 1 <= len(before) < 3 and before == undisturbed["seed-2"][: len(before)]
    victims = list[subprocess.Popen[bytes]]()

    def end() -> None:
        victims.append(machines.who(runs, 2))
        victims[0].terminate()
        time.sleep(0.5)
        killed(victims[0])

    with meanwhile(lambda: json.loads(path.read_text())["state"] == "running", end):
        assert call(*words) == 0
    (told,) = [json.loads(path.read_text()) for path in runs.glob("told-*.json")]
    assert records(runs)["seed-2"] == undisturbed["seed-2"] and told["worker"] != victims[0].pid


def test_a_time_limit_says_what_is_left(
    machines: Machines, call: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Each worker has a cell that is asked to stop; the others do not begin."""
    machines.start(1)
    with connect(machines.address) as crew:
        assert 1 <= crew.size <= 3  # it may take a new worker some seconds to introduce itself
    assert call("--cluster", machines.address, "-p", "seeds", "0:4", "-p", "pause", "3", "--time-limit", "5s") == 75
    out, err = capsys.readouterr()
    assert "4 cells left" in err and "stopped at a checkpoint" in out and "done" not in out
    assert len(list((tmp_path / "runs").rglob("cell.json"))) == crew.size and not list((tmp_path / "runs/cells").glob(".*"))


def test_a_scheduler_that_goes_away_is_named(
    machines: Machines, call: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "ANSWER", 1)
    machines.start(1)
    runs, address, scheduler = tmp_path / "runs", machines.address, machines.scheduler
    assert scheduler is not None
    with meanwhile(lambda: begun(runs, 0), lambda: killed(scheduler)):
        assert call("--cluster", address, "-p", "pause", "1") == 1
    told = capsys.readouterr().err
    assert f"alnb: the Dask scheduler at {address} went away: what is complete is kept" in told


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


@pytest.mark.parametrize(("times", "state"), [(2, DONE), (3, DIED)])
def test_what_dask_gives_up_is_begun_anew(times: int, state: str, bars: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "find_spec", lambda name: None)
    done = sweep(bars, {"runs": str(tmp_path)}, executor=Dead(times), retries=2)
    (status,) = done.statuses.values()
    assert status.state == state and (state == DONE or (status.kind == "KilledWorker" and "workers died" in status.reason))


class Nobody(Executor):
    """In the place of Dask's, when all workers have left."""

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **named: Any) -> Future[Any]:
        return Future()


def test_a_time_limit_holds_where_nobody_takes_a_cell(bars: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "RESERVE", 0)
    monkeypatch.setattr(cells_of, "GRACE", -10)
    done = sweep(bars, {"runs": str(tmp_path)}, executor=Nobody(), time_limit=0.5)
    assert done.left == done.cells and not list((tmp_path / "cells").glob(".*"))


# ---- workers that are none of ours ------------------------------------------------------------------------------------------------


@pytest.fixture
def stranger(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Workers whose `alnb` is another."""
    made = list[subprocess.Popen[bytes]]()

    def start(address: str, name: str, **modules: str) -> subprocess.Popen[bytes]:
        package = tmp_path / name / "alnb"
        package.mkdir(parents=True)
        for module, source in modules.items():
            (package / f"{module}.py").write_text(source)
        made.append(worker(tmp_path, address, name, "--nthreads", "1", PYTHONPATH=str(package.parent)))
        return made[-1]

    yield start
    for process in made:
        killed(process)


WITHOUT = {"__init__": "raise ModuleNotFoundError('No module named alnb')"}
OLDER = {"__init__": "", "store": "def package(): return '0.0.9 0123456789'"}


def test_workers_without_the_package_or_with_another_version_are_named_before_anything_starts(
    nearby: Callable[..., Any], stranger: Callable[..., Any], call: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    scheduler = nearby(1)
    stranger(scheduler.scheduler_address, "without", **WITHOUT)
    stranger(scheduler.scheduler_address, "older", **OLDER)
    scheduler.wait_for_workers(3, timeout=PATIENCE)
    assert call("--cluster", scheduler.scheduler_address) == 1
    told = capsys.readouterr().err
    assert f"the sweep has alnb {store.package()}; not so" in told and "start these workers anew" in told
    assert "ModuleNotFoundError: No module named alnb" in told and "alnb 0.0.9 0123456789" in told and told.count("worker tcp://") == 2
    assert not list((tmp_path / "runs").rglob("cell.json"))


def test_such_workers_that_come_later_are_sent_away_and_named(
    nearby: Callable[..., Any], stranger: Callable[..., Any], capsys: pytest.CaptureFixture
) -> None:
    def task() -> str:
        time.sleep(0.2)
        return str(distributed.get_worker().address)

    scheduler = nearby(1)
    with connect(scheduler.scheduler_address) as crew:
        (ours,) = scheduler.scheduler_info["workers"]
        strangers = [stranger(scheduler.scheduler_address, name, **kind) for name, kind in (("without", WITHOUT), ("older", OLDER))]
        scheduler.wait_for_workers(3, timeout=PATIENCE)
        futures = [crew.executor.submit(task) for _ in range(8)]
        assert {future.result(PATIENCE) for future in futures} == {ours}
        assert [process.wait(PATIENCE) for process in strangers] == [0, 0]
    told = capsys.readouterr().err
    assert told.count("was sent away: the sweep has alnb") == 2
    assert "not so it: ModuleNotFoundError: No module named alnb" in told and "not so it: alnb 0.0.9 0123456789" in told


def test_workers_that_come_later_are_reckoned_with(nearby: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "LOOK", 0.05)
    scheduler = nearby(1, threads_per_worker=2)
    with connect(scheduler.scheduler_address) as crew:
        assert (crew.size, crew.capacity) == (2, 4)
        scheduler.scale(3)
        wait_for(lambda: (crew.size, crew.capacity) == (6, 12), "two more workers")
        scheduler.scale(0)
        wait_for(lambda: (crew.size, crew.capacity) == (0, 2), "none")


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
        assert call("--cluster", str(broken)) == 1
        assert f"no Dask scheduler answers at {broken} (" in capsys.readouterr().err
    for address in ("tcp://127.0.0.1:1", "127.0.0.1:1", silent, "tls://127.0.0.1:1", "http://127.0.0.1:1", "nonsense", ""):
        before = time.monotonic()
        assert call("--cluster", address) == 1
        assert time.monotonic() - before < 3 and f"no Dask scheduler answers at {address} (" in capsys.readouterr().err
    assert call("--cluster", "none.json") == 1
    assert capsys.readouterr().err == (
        "alnb: there is no scheduler file none.json: start one with dask scheduler --scheduler-file none.json\n"
    )
    assert not list((tmp_path / "runs").rglob("cell.json"))


def test_a_scheduler_without_workers_is_named(
    nearby: Callable[..., Any], call: Callable[..., int], capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "ARRIVE", 0.3)
    address = nearby().scheduler_address
    assert call("--cluster", address) == 1
    told = capsys.readouterr().err
    assert told == (
        f"waiting for a first worker of {address} …\n"
        f"alnb: no worker of {address} came in 0.3 s: start some with dask worker {address} --nthreads 1\n"
    )


def test_dask_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(BadParameter, match=r"pip install 'alnb.cluster.'"), connect("tcp://127.0.0.1:1"):
        pass


# ---- threads ------------------------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sets(st.integers(0, 15), min_size=1), st.integers(1, 4)), min_size=1, max_size=8))
def test_each_cell_has_its_share_of_its_machine(workers: list[tuple[str, set[int], int]]) -> None:
    """Never more threads than cores on a machine, and one more would be too many on some machine, unless a cell has but one."""
    told = {str(k): {"host": host, "cpus": sorted(cpus)} for k, (host, cpus, _) in enumerate(workers)}
    share = cluster._threads(told, {str(k): cells for k, (_, _, cells) in enumerate(workers)})

    def fits(threads: int) -> bool:
        machines = {host for host, _, _ in workers}
        cores = {name: len({cpu for host, cpus, _ in workers if host == name for cpu in cpus}) for name in machines}
        return all(threads * sum(cells for host, _, cells in workers if host == name) <= cores[name] for name in machines)

    assert share >= 1 and (share == 1 or fits(share)) and not fits(share + 1)


def test_threads_are_those_asked_for_or_the_share(nearby: Callable[..., Any]) -> None:
    address = nearby(2, threads_per_worker=2, resources={"GPU": 1}).scheduler_address
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    with connect(address) as crew:
        assert crew.threads == max(1, cores // 2) and crew.size == 2 and crew.gpus == ()
    with connect(address, threads=7) as crew:
        assert crew.threads == 7


# ---- workers that a file starts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "must have `launcher`, one of slurm, pbs, lsf"),
        ("jobs: 2", "must have `launcher`"),
        ("launcher: kubernetes", "must have `launcher`"),
        ("launcher: [slurm]", "must have `launcher`"),
        ("{launcher: local, n_workers: 2}", "may have `options` and `jobs`"),
        ("launcher: {", "cannot be read"),
        ("{launcher: local, options: [2]}", "`options` must be names with values, as distributed.LocalCluster takes them"),
        (
            "{launcher: local, options: {n_workers: 0, dashboard_address: ':0', nonsense: 1}, jobs: 1}",
            "LocalCluster does not take its options",
        ),
        ("{launcher: local, jobs: 0}", "`jobs` is 0: it must be a whole number, at least 1"),
        ("{launcher: local, jobs: two}", "`jobs` is 'two'"),
        ("{launcher: slurm, options: {cores: 1, memory: 1GB}}", "`jobs` is None: it must be a whole number"),
        ("{launcher: slurm, options: {cores: 1}, jobs: 1}", "SLURMCluster does not take its options: You must specify how much"),
        ("{launcher: slurm, options: {cores: 1, memory: 1GB, nonsense: 2}, jobs: 1}", "unexpected keyword argument 'nonsense'"),
        ("{launcher: pbs, options: {cores: 1, memory: 1GB}, jobs: 1}", "there is no command qsub here"),
        ("{launcher: ssh, jobs: 2}", "`jobs` is not for ssh, which starts what `options` says"),
        ("{launcher: ssh, options: {nonsense: 2}}", "SSHCluster does not take its options"),
    ],
)
@pytest.mark.filterwarnings("ignore:unclosed cluster with a broken:ResourceWarning")  # dask-jobqueue's, of one that it has not begun
def test_files_that_say_nothing_that_can_be_started(
    content: str, message: str, call: Callable[..., int], slurm: "Slurm", tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text(content)
    assert call("--cluster", str(path)) == 2
    told = capsys.readouterr().err
    assert f"alnb: cluster file {path}" in told and message in told
    assert slurm.submitted == 0 and not list((tmp_path / "runs").rglob("cell.json"))


def test_a_file_that_is_not_there(call: Callable[..., int], capsys: pytest.CaptureFixture) -> None:
    assert call("--cluster", "none.yaml") == 2
    assert "cluster file none.yaml cannot be read" in capsys.readouterr().err


def test_workers_of_this_machine(tmp_path: Path) -> None:
    """Processes that do not hear Ctrl-C, which in a terminal reaches them too: the sweep tells them."""
    path, options = tmp_path / "cluster.yaml", {"threads_per_worker": 1, "dashboard_address": ":0"}
    path.write_text(yaml.safe_dump({"launcher": "local", "options": options, "jobs": 1}))
    with connect(path) as crew:
        pid, deaf = crew.executor.submit(lambda: (os.getpid(), signal.getsignal(signal.SIGINT) == signal.SIG_IGN)).result(PATIENCE)
        assert pid != os.getpid() and deaf and crew.size == 1 and crew.link.startswith("http://")


def test_a_sweep_through_a_file(call: Callable[..., int], undisturbed: Mapping[str, Any], tmp_path: Path) -> None:
    path, options = tmp_path / "cluster.yaml", {"processes": False, "threads_per_worker": 1, "dashboard_address": ":0"}
    path.write_text(yaml.safe_dump({"launcher": "local", "options": options, "jobs": 2}))
    assert call("--cluster", str(path), "-p", "seeds", "3") == 0
    assert records(tmp_path / "runs") == {"seed-3": undisturbed["seed-3"]}


# ---- a queue ------------------------------------------------------------------------------------------------------------------------

SHEET = """\
launcher: slurm
jobs: 2
options:
  queue: gpu
  account: my-project
  cores: 1
  processes: 1
  job_cpu: 8
  memory: 4GB
  walltime: "00:30:00"
  local_directory: {folder}
  log_directory: {folder}/logs
  job_extra_directives: ["--gres=gpu:1"]
  worker_extra_args: ["--resources GPU=1"]
  scheduler_options: {{host: 127.0.0.1, dashboard_address: ":0"}}
"""
SBATCH = """\
#!/bin/sh
# As Slurm's: the script is kept, and executed once there is room.
cp "$1" {folder}/$$.sh
if [ -e {folder}/full ] && ! mkdir {folder}/room 2> /dev/null; then
    touch {folder}/$$.refused
    echo "sbatch: error: QOSMaxSubmitJobPerUserLimit" >&2
    exit 1
fi
touch {folder}/$$.submitted
[ -e {folder}/busy ] || {{ setsid sh {folder}/$$.sh > {folder}/$$.log 2>&1 < /dev/null & echo $! > {folder}/$$.pid; }}
echo "Submitted batch job $$"
"""
SCANCEL = """\
#!/bin/sh
touch {folder}/$1.cancelled
[ ! -e {folder}/$1.pid ] || kill -KILL -- -$(cat {folder}/$1.pid) 2> /dev/null || true
"""


@dataclass
class Slurm:
    """What its commands have done in a folder."""

    folder: Path
    sheet: Path  # a cluster file

    def jobs(self, what: str) -> set[str]:
        return {path.stem for path in self.folder.glob(f"*.{what}")}

    @property
    def submitted(self) -> int:
        return len(self.jobs("submitted"))

    def take(self, jobs: int) -> None:
        """So many more, none or one."""
        (self.folder / "full").touch()
        (self.folder / "room").mkdir() if jobs == 0 else None

    def kill(self, job: str) -> None:
        with suppress(ProcessLookupError):
            os.killpg(int((self.folder / f"{job}.pid").read_text()), signal.SIGKILL)


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Slurm]:
    if find_spec("dask_jobqueue") is None:
        pytest.skip("queues need pip install 'alnb[cluster]'")
    folder, programs = tmp_path / "slurm", tmp_path / "bin"
    folder.mkdir()
    programs.mkdir()
    for name, text in (("sbatch", SBATCH), ("scancel", SCANCEL)):
        (programs / name).write_text(text.format(folder=folder))
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    for name, value in ALONE.items():
        monkeypatch.setenv(name, value)
    sheet = tmp_path / "slurm.yaml"
    sheet.write_text(SHEET.format(folder=folder))
    made = Slurm(folder, sheet)
    yield made
    for job in made.jobs("pid"):
        made.kill(job)


def test_a_sweep_through_a_queue_outlives_a_job(
    slurm: Slurm,
    call: Callable[..., int],
    undisturbed: Mapping[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A job that ends, as at its walltime, is followed by another as soon as the queue takes it; at the end all are cancelled."""
    import dask

    monkeypatch.setattr(cluster, "RENEW", 0.5)
    monkeypatch.setattr(cluster, "LOOK", 0.1)
    runs = tmp_path / "runs"

    def end() -> None:
        slurm.take(0)
        slurm.kill(min(slurm.jobs("pid")))
        wait_for(lambda: slurm.jobs("refused"), "a job that is refused")
        (slurm.folder / "full").unlink()

    with dask.config.set({"distributed.deploy.lost-worker-timeout": "500ms"}), meanwhile(lambda: begun(runs, 0), end):
        assert call("--cluster", str(slurm.sheet), "-p", "seeds", "0", "1", "-p", "pause", "0.2") == 0
    assert records(runs) == {name: undisturbed[name] for name in ("seed-0", "seed-1")}
    assert slurm.submitted == 3 and slurm.jobs("cancelled") == slurm.jobs("submitted")
    script = next(slurm.folder.glob("*.sh")).read_text()
    wanted = ("-p gpu", "-A my-project", "--cpus-per-task=8", "-t 00:30:00", "--gres=gpu:1")
    assert all(f"#SBATCH {words}\n" in script for words in wanted) and "--nthreads 1 " in script and "--resources GPU=1" in script
    out, err = capsys.readouterr()
    assert "2 cells: 2 done" in out and "not all jobs could be submitted, the others will be tried again: Command exited" in err


def test_a_queue_that_takes_longer_than_the_time_limit(slurm: Slurm, call: Callable[..., int], capsys: pytest.CaptureFixture) -> None:
    (slurm.folder / "busy").touch()
    assert call("--cluster", str(slurm.sheet), "--time-limit", "2s") == 1
    assert "s: its queue takes longer" in capsys.readouterr().err
    assert slurm.submitted == 2 and slurm.jobs("cancelled") == slurm.jobs("submitted")


def test_a_sweep_that_is_ended_while_it_waits_in_a_queue_leaves_no_job(slurm: Slurm, call: Callable[..., int]) -> None:
    (slurm.folder / "busy").touch()
    before = signal.signal(signal.SIGTERM, lambda *_: pytest.fail("too late"))
    try:
        with meanwhile(lambda: slurm.submitted == 2, lambda: os.kill(os.getpid(), signal.SIGTERM)):
            assert call("--cluster", str(slurm.sheet)) == 130
    finally:
        signal.signal(signal.SIGTERM, before)
    assert slurm.jobs("cancelled") == slurm.jobs("submitted")


def test_a_queue_that_takes_no_job_is_named(slurm: Slurm, call: Callable[..., int], capsys: pytest.CaptureFixture) -> None:
    slurm.take(0)
    assert call("--cluster", str(slurm.sheet)) == 1
    told = capsys.readouterr().err
    assert f"alnb: cluster file {slurm.sheet}: no job could be submitted: " in told and "QOSMaxSubmitJobPerUserLimit" in told
    assert slurm.submitted == 0


def test_a_queue_that_takes_fewer_jobs_is_tried_again(
    slurm: Slurm, call: Callable[..., int], capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "RENEW", 0.1)
    (slurm.folder / "busy").touch()
    slurm.take(1)
    with meanwhile(lambda: len(slurm.jobs("refused")) > 3, lambda: os.kill(os.getpid(), signal.SIGINT)):
        assert call("--cluster", str(slurm.sheet)) == 130
    told = capsys.readouterr().err
    assert told.count("not all jobs could be submitted, the others will be tried again: Command exited") == 1
    assert slurm.submitted == 1 and slurm.jobs("cancelled") == slurm.jobs("submitted")
