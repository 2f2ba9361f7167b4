"""Beyond one machine: Dask's scheduler and workers, which share the project's folder, also started by Slurm and its like.

Wants ``pip install 'alnb[cluster]'`` (dask.distributed and dask-jobqueue).
"""

from __future__ import annotations

import importlib
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from alnb import store
from alnb.notebook import BadParameter
from alnb.sweeps.cell import OtherVersion
from alnb.sweeps.engine import Workers

ANSWER = 10  # seconds that a scheduler has to answer
ARRIVE = 60  # seconds that a first worker has to come to a scheduler that was there before
LAUNCHERS = {
    "slurm": "dask_jobqueue.SLURMCluster", "pbs": "dask_jobqueue.PBSCluster", "lsf": "dask_jobqueue.LSFCluster",
    "sge": "dask_jobqueue.SGECluster", "htcondor": "dask_jobqueue.HTCondorCluster", "local": "distributed.LocalCluster",
    "ssh": "distributed.SSHCluster",
}  # fmt: skip
FIELDS = ("launcher", "options", "jobs")


class Unreachable(Exception):
    """No scheduler, or no worker, answers."""


@contextmanager
def connect(where: str | Path, *, threads: int | None = None) -> Iterator[Workers]:
    """The workers of a Dask scheduler, as `sweep` takes them.

    Where every worker has a resource named GPU, a cell takes one of it. A machine's cores are shared out among the workers it has.

    Args:
        where: the scheduler's address; its scheduler file (.json); or a YAML file with `launcher` (slurm, pbs, lsf, sge,
            htcondor, local, ssh), `options` for that class of dask-jobqueue or dask.distributed, and `jobs`, how many of it to start.
        threads: of each cell; None: its share of its machine's cores.

    Raises:
        Unreachable: nobody answers there, or no worker came.
        OtherVersion: a worker lacks this package, or has another version; it is named.
        BadParameter: the file says nothing that can be started; or dask is not installed.
    """
    with ExitStack() as stack:
        client, arrive = _client(str(where), stack)
        _wait(client, str(where), arrive)
        told = _introductions(client)
        workers = client.scheduler_info(n_workers=-1)["workers"]
        share = threads or _threads(told, {name: worker["nthreads"] for name, worker in workers.items()})
        gpu = bool(workers) and all("GPU" in worker["resources"] for worker in workers.values())
        size = sum(worker["nthreads"] for worker in workers.values())
        executor = stack.enter_context(client.get_executor(pure=False, **({"resources": {"GPU": 1}} if gpu else {})))
        yield Workers(executor, max(64, 2 * size), share, size=size, link=client.dashboard_link or "")


def _client(where: str, stack: ExitStack) -> tuple[Any, float | None]:
    """A client, and the seconds in which its first worker has to come; None: as long as the queue takes."""
    try:
        import distributed
    except ImportError as error:
        raise BadParameter("a cluster needs dask.distributed: pip install 'alnb[cluster]'") from error
    if where.endswith((".yaml", ".yml")):
        cluster = stack.enter_context(_launched(Path(where)))
        return stack.enter_context(distributed.Client(cluster)), None
    file = {"scheduler_file": where} if where.endswith(".json") else {"address": where}
    if "scheduler_file" in file and not Path(where).is_file():
        raise Unreachable(f"there is no scheduler file {where}: start one with dask scheduler --scheduler-file {where}")
    try:
        return stack.enter_context(distributed.Client(**file, timeout=ANSWER)), ARRIVE
    except (OSError, ValueError, TimeoutError) as error:
        raise Unreachable(
            f"no Dask scheduler answers at {where} ({type(error).__name__}: {error}): is it running, and is the address what it printed?"
        ) from error


@contextmanager
def _launched(path: Path) -> Iterator[Any]:
    """A cluster that is started as the file says, and ended at the end."""
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise BadParameter(f"cluster file {path} cannot be read: {error}") from error
    if not isinstance(content, dict) or set(content) - set(FIELDS) or content.get("launcher") not in LAUNCHERS:
        raise BadParameter(f"cluster file {path} must have `launcher`, one of {', '.join(LAUNCHERS)}, and may have `options` and `jobs`")
    module, _, name = LAUNCHERS[content["launcher"]].rpartition(".")
    try:
        kind = getattr(importlib.import_module(module), name)
        cluster = kind(**(content.get("options") or {}))
    except ImportError as error:
        raise BadParameter(f"cluster file {path} needs {module}: pip install 'alnb[cluster]'") from error
    except (TypeError, ValueError) as error:
        raise BadParameter(f"cluster file {path}: {name} does not take its options: {error}") from error
    with cluster:
        jobs = content.get("jobs")
        if jobs is not None:
            cluster.scale(jobs=jobs) if module == "dask_jobqueue" else cluster.scale(jobs)
        yield cluster


def _wait(client: Any, where: str, seconds: float | None) -> None:
    if not client.scheduler_info(n_workers=-1)["workers"]:
        print(f"waiting for a first worker of {where} …", file=sys.stderr, flush=True)
    try:
        client.wait_for_workers(1, timeout=seconds)
    except TimeoutError as error:
        address = client.scheduler.address
        raise Unreachable(f"the scheduler {where} has no workers: start some with dask worker {address} --nthreads 1") from error


def _introductions(client: Any) -> dict[str, Mapping[str, Any]]:
    """What each worker says of itself.

    Raises: OtherVersion, which names all that have not this package as it is here.
    """
    told = client.run(_introduce())
    here, wrong = store.package(), []
    for worker, says in told.items():
        if says["package"] != here:
            wrong.append(f"worker {worker} on {says['host']}: {says['error'] or 'alnb ' + says['package']}")
    if wrong:
        lines = "\n  ".join(wrong)
        raise OtherVersion(
            f"the sweep has alnb {here}; not so\n  {lines}\nInstall the same version there (pip install -e . in the shared folder)"
        )
    return dict(told)


def _introduce() -> Callable[[], dict[str, Any]]:
    """A function that is sent as it is written, so that a worker without this package can say so."""

    def introduce() -> dict[str, Any]:
        import os
        import platform

        cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
        says = {"host": platform.node(), "cores": cores, "package": "", "error": ""}
        try:
            from alnb import store
        except Exception as error:
            return {**says, "error": f"{type(error).__name__}: {error}"}
        return {**says, "package": store.package()}

    return introduce


def _threads(told: Mapping[str, Mapping[str, Any]], tasks: Mapping[str, int]) -> int:
    """Threads for a cell: the cores of its machine over the cells that may run there at once; of the scarcest machine."""
    hosts: dict[str, list[str]] = defaultdict(list)
    for worker, says in told.items():
        hosts[says["host"]].append(worker)
    shares = [told[names[0]]["cores"] // max(1, sum(tasks.get(name, 1) for name in names)) for names in hosts.values()]
    return max(1, min(shares, default=1))
