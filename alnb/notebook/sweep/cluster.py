"""Beyond one machine: Dask's scheduler and workers, which share the project's folder, also started by Slurm and its like.

Wants ``pip install 'alnb[cluster]'`` (dask.distributed and dask-jobqueue).
"""

from __future__ import annotations

import asyncio
import importlib
import json
import logging
import os
import shlex
import shutil
import signal
import sys
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import CancelledError, Executor, Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from alnb import store
from alnb.notebook import BadParameter
from alnb.notebook.sweep.cell import OtherVersion, beside
from alnb.notebook.sweep.engine import Workers

ANSWER = 10  # seconds that a scheduler has to answer
ARRIVE = 60  # seconds that a first worker has to come to a scheduler that was there before
LOOK = 2  # seconds between two looks at how many workers there are
RENEW = 30  # seconds between two looks for jobs that have ended, as at their walltime
LAUNCHERS = {
    "slurm": "dask_jobqueue.SLURMCluster", "pbs": "dask_jobqueue.PBSCluster", "lsf": "dask_jobqueue.LSFCluster",
    "sge": "dask_jobqueue.SGECluster", "htcondor": "dask_jobqueue.HTCondorCluster", "local": "distributed.LocalCluster",
    "ssh": "distributed.SSHCluster",
}  # fmt: skip
FIELDS = ("launcher", "options", "jobs")
# In a terminal Ctrl-C reaches workers of this machine too, who would end before their cells have stopped.
DEAF = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"


class Unreachable(Exception):
    """No scheduler, or no worker, answers."""


@contextmanager
def connect(where: str | Path, *, threads: int | None = None, patience: float | None = None) -> Iterator[Workers]:
    """The workers of a Dask scheduler, as `sweep` takes them; those that come later are welcome too.

    Where every worker has a resource named GPU, a cell takes one of it. A machine's cores are shared out among the cells that it takes.

    Args:
        where: the scheduler's address; its scheduler file (.json); or a YAML file with `launcher` (slurm, pbs, lsf, sge,
            htcondor, local, ssh), `options` for that class of dask-jobqueue or dask.distributed, and `jobs`, how many of it to start.
        threads: of each cell; None: its share of its machine's cores.
        patience: seconds in which a first worker has to come; None: as long as a queue takes, but `ARRIVE` where nothing is launched.

    Raises:
        Unreachable: nobody answers there, no worker came, or the scheduler went away later.
        OtherVersion: a worker lacks this package, or has another version; it is named. One that comes later is sent away instead.
        BadParameter: the file says nothing that can be started; or dask is not installed.
    """
    with ExitStack() as stack:
        client, arrive = _client(str(where), stack)
        limits = [seconds for seconds in (arrive, patience) if seconds is not None]
        _wait(client, str(where), min(limits, default=None))
        told, workers = _introductions(client), client.scheduler_info(n_workers=-1)["workers"]
        gpu = bool(workers) and all("GPU" in worker["resources"] for worker in workers.values())
        most = _most(workers, gpu)
        dask = client.get_executor(pure=False, **({"resources": {"GPU": 1}} if gpu else {}))
        stack.callback(dask.shutdown, wait=False)  # the sweep has waited for all that it wants to
        topic = f"alnb-{uuid.uuid4().hex}"
        client.subscribe_topic(topic, lambda event: print(event[1], file=sys.stderr, flush=True))
        crew = Workers(_Guarded(dask, topic), 1, threads or _threads(told, most), link=client.dashboard_link or "")
        _resize(crew, most)
        following = asyncio.run_coroutine_threadsafe(_follow(client, crew, gpu), client.loop.asyncio_loop)
        stack.callback(following.cancel)
        try:
            yield crew
        except CancelledError as error:
            logging.getLogger("distributed.client").setLevel(logging.CRITICAL)  # that it cannot say goodbye either is no news
            raise Unreachable(
                f"the Dask scheduler at {where} went away: what is complete is kept, and the same command goes on from there"
            ) from error


# ---- the scheduler ------------------------------------------------------------------------------------------------------------


def _client(where: str, stack: ExitStack) -> tuple[Any, float | None]:
    """A client, and the seconds in which its first worker has to come; None: as long as the queue takes."""
    try:
        import distributed
    except ImportError as error:
        raise BadParameter("a cluster needs dask.distributed: pip install 'alnb[cluster]'") from error
    if where.endswith((".yaml", ".yml")):
        cluster = stack.enter_context(_launched(Path(where)))
        return stack.enter_context(distributed.Client(cluster, timeout=ANSWER)), None
    try:
        address = _address(Path(where)) if where.endswith(".json") else where
        with ThreadPoolExecutor(1) as thread:  # there may be a loop in this one, as in a notebook
            thread.submit(asyncio.run, _greet(address)).result()
        return stack.enter_context(distributed.Client(address, timeout=ANSWER)), ARRIVE
    except (OSError, ValueError, TypeError) as error:  # TypeError: of a tls:// without certificates
        raise Unreachable(
            f"no Dask scheduler answers at {where} ({type(error).__name__}: {error}): is it running, and is the address what it printed?"
        ) from error


def _address(file: Path) -> str:
    """What a scheduler file says.

    Raises:
        Unreachable: it is not there.
        ValueError: it is no scheduler file.
    """
    if not file.is_file():
        raise Unreachable(f"there is no scheduler file {file}: start one with dask scheduler --scheduler-file {file}")
    content = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(content, dict) or not isinstance(content.get("address"), str):
        raise ValueError("the file names no address")
    return str(content["address"])


async def _greet(address: str) -> None:
    """Raises: OSError, where nobody answers as Dask does. A client alone would wait for ever for an answer that does not come."""
    from distributed.comm import connect

    async with asyncio.timeout(ANSWER + 1):
        comm = await connect(address, timeout=ANSWER)
        await comm.close()


# ---- workers that are started here --------------------------------------------------------------------------------------------


@contextmanager
def _launched(path: Path) -> Iterator[Any]:
    """A cluster that is started as the file says, and ended at the end."""
    content = _read(path)
    module, _, name = LAUNCHERS[content["launcher"]].rpartition(".")
    queue, jobs = module == "dask_jobqueue", content.get("jobs", 0)
    try:
        kind = getattr(_imported(module), name)
    except ImportError as error:
        raise BadParameter(f"cluster file {path} needs {module}: pip install 'alnb[cluster]'") from error
    if queue and not shutil.which(command := shlex.split(kind.job_cls.submit_command)[0]):
        raise BadParameter(f"cluster file {path}: there is no command {command} here: sweep from a machine that may submit jobs")
    try:
        cluster = kind(**(content.get("options") or {}), **_further(content))
    except Exception as error:  # of many kinds, also from processes that were begun with
        raise BadParameter(f"cluster file {path}: {name} does not take its options: {_root(error)}") from error
    with cluster, _kept(cluster, jobs, path) if queue else nullcontext():
        yield cluster


def _read(path: Path) -> dict[str, Any]:
    """Raises: BadParameter, where the file is none or says what cannot be."""
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise BadParameter(f"cluster file {path} cannot be read: {error}") from error
    if not isinstance(content, dict) or set(content) - set(FIELDS) or content.get("launcher") not in list(LAUNCHERS):
        raise BadParameter(f"cluster file {path} must have `launcher`, one of {', '.join(LAUNCHERS)}, and may have `options` and `jobs`")
    launcher, jobs = content["launcher"], content.get("jobs")
    if not isinstance(content.get("options") or {}, dict):
        raise BadParameter(f"cluster file {path}: `options` must be names with values, as {LAUNCHERS[launcher]} takes them")
    if launcher == "ssh" and jobs is not None:
        raise BadParameter(f"cluster file {path}: `jobs` is not for ssh, which starts what `options` says: hosts, worker_options")
    if (launcher not in ("ssh", "local") or jobs is not None) and (type(jobs) is not int or jobs < 1):
        raise BadParameter(f"cluster file {path}: `jobs` is {jobs!r}: it must be a whole number, at least 1")
    return content


def _further(content: Mapping[str, Any]) -> dict[str, Any]:
    """Options beside those of the file."""
    if content["launcher"] != "local":
        return {}
    number = {"n_workers": content["jobs"]} if "jobs" in content else {}
    apart = (content.get("options") or {}).get("processes") is not False
    return {**number, "preload": DEAF} if apart else number


def _imported(module: str) -> ModuleType:
    """With Ctrl-C as it was: by its import dask-jobqueue 0.9 makes that end the program at once, with status 0."""
    before = signal.getsignal(signal.SIGINT)
    try:
        return importlib.import_module(module)
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, before)


def _root(error: BaseException) -> BaseException:
    """What began it."""
    return error if error.__cause__ is None else _root(error.__cause__)


@contextmanager
def _kept(cluster: Any, jobs: int, path: Path) -> Iterator[None]:
    """While it is open, so many jobs are submitted: one that has ended is followed by another.

    Raises:
        Unreachable: the queue takes none.
    """
    from distributed import Status

    if (problem := cluster.sync(_fill, cluster, jobs)) and not cluster.workers:
        raise Unreachable(f"cluster file {path}: no job could be submitted: {problem}")
    try:
        with beside(partial(_keep, cluster, jobs, problem)):
            yield
    finally:
        for job in cluster.workers.values():
            job.status = Status.closing  # dask-jobqueue does not say so itself, and Dask may insist on it


def _keep(cluster: Any, jobs: int, problem: str, ended: threading.Event) -> None:
    told = False
    while True:
        if problem and not told:
            print(f"not all jobs could be submitted, the others will be tried again: {problem}", file=sys.stderr, flush=True)
        told = bool(problem)
        if ended.wait(RENEW):
            return
        problem = cluster.sync(_fill, cluster, jobs)


async def _whole(cluster: Any) -> None:
    await cluster


async def _fill(cluster: Any, jobs: int) -> str:
    """Submit what is missing of so many jobs; what was wrong with one, or nothing. Dask's own `scale` would only log that."""
    from distributed import Status

    while len(cluster.worker_spec) < jobs:
        cluster.worker_spec.update(cluster.new_worker_spec())
    try:
        await asyncio.shield(_whole(cluster))  # interrupted while it submits a job, Dask would not know its number, nor cancel it
    except (OSError, RuntimeError, ValueError) as error:
        for name in [name for name, job in cluster.workers.items() if job.status == Status.created]:
            cluster.workers.pop(name).status = Status.failed  # else it counts as submitted
        return str(error)
    return ""


# ---- the workers --------------------------------------------------------------------------------------------------------------


def _most(workers: Mapping[str, Mapping[str, Any]], gpu: bool) -> dict[str, int]:
    """How many cells each worker takes at once."""
    return {name: int(min(w["nthreads"], w["resources"].get("GPU", 0))) if gpu else w["nthreads"] for name, w in workers.items()}


def _resize(crew: Workers, most: Mapping[str, int]) -> None:
    """As many cells run as there is room for, and as many wait with Dask: it thinks ill of those that wait on workers that die."""
    crew.size = sum(most.values())
    crew.capacity = max(2, 2 * crew.size)


async def _follow(client: Any, crew: Workers, gpu: bool) -> None:
    """Keep the crew as large as there are workers."""
    while True:
        await asyncio.sleep(LOOK)
        with suppress(OSError):  # that the scheduler has gone is noticed by its tasks
            _resize(crew, _most((await client.scheduler.identity())["workers"], gpu))


def _wait(client: Any, where: str, seconds: float | None) -> None:
    """Raises: Unreachable, where no worker comes in time."""
    if client.scheduler_info(n_workers=-1)["workers"]:
        return
    print(f"waiting for a first worker of {where} …", file=sys.stderr, flush=True)
    try:
        client.wait_for_workers(1, timeout=None if seconds is None else max(seconds, 0.1))  # 0 would be for ever
        time.sleep(LOOK)  # others that came with it count when a machine's cores are shared out
    except TimeoutError as error:
        address, waited = client.scheduler.address, f"no worker of {where} came in {seconds:.2g} s"
        start = f"start some with dask worker {address} --nthreads 1" if client.cluster is None else "its queue takes longer"
        raise Unreachable(f"{waited}: {start}") from error


def _introductions(client: Any) -> dict[str, Mapping[str, Any]]:
    """What each worker says of itself.

    Raises:
        OtherVersion: it names all that have not this package as it is here.
    """
    told: dict[str, Mapping[str, Any]] = {}
    for worker, says in client.run(_introduce(), on_error="return").items():
        if isinstance(says, dict):
            told[worker] = says
        elif not isinstance(says, OSError):  # that is one that has just gone
            told[worker] = {"host": "its machine", "package": "", "has": f"{type(says).__name__}: {says}"}
    here = store.package()
    wrong = [f"worker {worker} on {says['host']}: {says['has']}" for worker, says in told.items() if says["package"] != here]
    if wrong:
        lines = "\n  ".join(wrong)
        raise OtherVersion(
            f"the sweep has alnb {here}; not so\n  {lines}\n"
            "Install the same version there (pip install -e . in the shared folder), and start these workers anew"
        )
    return told


def _introduce() -> Callable[[], dict[str, Any]]:
    """A function that is sent as it is written, so that a worker without this package can say so."""

    def introduce() -> dict[str, Any]:
        import platform

        from dask.system import CPU_COUNT  # as few as a container may use

        cpus = sorted(os.sched_getaffinity(0)) if sys.platform == "linux" else range(os.cpu_count() or 1)
        says = {"host": platform.node(), "cpus": list(cpus)[:CPU_COUNT], "package": ""}
        try:
            from alnb import store

            return {**says, "package": store.package(), "has": f"alnb {store.package()}"}
        except Exception as error:
            return {**says, "has": f"{type(error).__name__}: {error}"}

    return introduce


def _threads(told: Mapping[str, Mapping[str, Any]], most: Mapping[str, int]) -> int:
    """Threads for a cell: the cores of its machine over the cells that may run there at once; of the scarcest machine."""
    cores: dict[str, set[int]] = defaultdict(set)
    cells: dict[str, int] = defaultdict(int)
    for worker, says in told.items():
        cores[says["host"]] |= set(says["cpus"])
        cells[says["host"]] += most.get(worker, 1)
    return max(1, min((len(cores[host]) // cells[host] for host in cores), default=1))


@dataclass
class _Guarded(Executor):
    """Dask's executor, whose tasks see to it that they are on a worker with this package as it is here."""

    dask: Any
    topic: str  # under which a worker that is sent away is told of

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **named: Any) -> Future[Any]:
        from distributed.protocol import pickle

        parcel = pickle.dumps((function, arguments, named))
        future: Future[Any] = self.dask.submit(_task(_introduce()), store.package(), self.topic, parcel)
        return future


def _task(introduce: Callable[[], dict[str, Any]]) -> Callable[[str, str, bytes], Any]:
    """A function that is sent as it is written: it does what is in the parcel, or has its worker sent away and the task done elsewhere."""

    def cell(package: str, topic: str, parcel: bytes) -> Any:
        import time

        import distributed
        from distributed.protocol import pickle

        says = introduce()
        if says["package"] == package:
            function, arguments, named = pickle.loads(parcel)
            return function(*arguments, **named)
        worker = distributed.get_worker()
        who = f"worker {worker.address} on {says['host']}"
        worker.log_event(topic, f"{who} was sent away: the sweep has alnb {package}, not so it: {says['has']}")
        worker.loop.add_callback(worker.close_gracefully, reason="it has not the sweep's version of alnb")
        time.sleep(1)  # until the scheduler knows that
        raise distributed.Reschedule

    return cell
