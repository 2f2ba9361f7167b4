"""The command line's sweeps on a Dask scheduler that runs already. `alnb.sweep` takes any executor: notebooks/README.md shows one on Slurm.

    dask scheduler --scheduler-file s.json
    dask worker --scheduler-file s.json --nthreads 1     # on each machine
    alnb sweep NOTEBOOK --scheduler s.json

A worker that is killed costs what its cell did since the last checkpoint: Dask hands the cell to another worker. All machines share the
project's folder, on a file system with working locks (`flock`), and have the same version of this package: a cell refuses any other
(`cell.run`). A worker that lacks the package cannot even refuse: Dask hands it the cell again and again, and its log says why. Start one
worker with one thread for each GPU; `threads` are those of a cell on the CPU.
"""

import asyncio
import json
import logging
from collections.abc import Iterator
from concurrent.futures import CancelledError, Executor, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alnb.notebook.parameters import BadParameter
from alnb.notebook.sweep.cell import OtherVersion, package_version

ANSWER = 10  # seconds that a scheduler has to answer
ARRIVE = 60  # seconds in which a first worker has to come


class Unreachable(Exception):
    """No scheduler answers, or no worker comes."""


@contextmanager
def connect(scheduler: str) -> Iterator[Executor]:
    """The executor of a Dask scheduler: its address (tcp://HOST:PORT) or file (.json). Workers that come later get cells, too.

    Raises:
        Unreachable: no scheduler answers there, no worker comes, or the scheduler ends before the sweep.
        OtherVersion: a worker has another version of this package, or none; the message names all such workers.
        BadParameter: dask.distributed is not installed.
    """
    with _client(scheduler) as client:
        try:
            client.wait_for_workers(1, timeout=ARRIVE)
        except TimeoutError as error:
            start = f"start some with: dask worker {client.scheduler.address} --nthreads 1"
            raise Unreachable(f"no worker of {scheduler} came in {ARRIVE} s: {start}") from error
        _check_versions(client)
        print(f"Dask shows its work at {client.dashboard_link}", flush=True)
        executor: Executor = client.get_executor()
        try:
            yield executor
        except CancelledError as error:
            logging.getLogger("distributed.client").setLevel(logging.CRITICAL)  # it would log that it cannot close its connection
            raise Unreachable(
                f"the Dask scheduler at {scheduler} has ended: what is complete is kept, and the same command continues from there"
            ) from error
        finally:
            executor.shutdown(wait=False)  # the sweep has waited for all that it needs


def _client(scheduler: str) -> Any:
    try:
        import distributed
    except ImportError as error:
        raise BadParameter("a Dask scheduler needs dask.distributed: pip install 'alnb[cluster]'") from error
    try:
        address = str(json.loads(Path(scheduler).read_text(encoding="utf-8"))["address"]) if scheduler.endswith(".json") else scheduler
        with ThreadPoolExecutor(1) as beside:  # a notebook's own thread has a running event loop
            beside.submit(asyncio.run, _greet(address)).result()
        return distributed.Client(address, timeout=ANSWER)
    except (OSError, ValueError, TypeError, KeyError) as error:  # TypeError: also of a tls:// without certificates
        raise Unreachable(
            f"no Dask scheduler answers at {scheduler} ({type(error).__name__}: {error}): is it running, and is this what it printed?"
        ) from error


async def _greet(address: str) -> None:
    """Raises: OSError if nobody answers. `Client` alone waits for ever for a machine that accepts a connection and hangs."""
    from distributed.comm import connect

    async with asyncio.timeout(ANSWER + 1):
        await (await connect(address, timeout=ANSWER)).close()


def _check_versions(client: Any) -> None:
    """Raises: OtherVersion. A worker that comes later is refused by the cell that it gets."""
    versions = client.run(package_version, on_error="return")
    wrong = [
        f"worker {worker}: {version if isinstance(version, str) else f'{type(version).__name__}: {version}'}"
        for worker, version in versions.items()
        if version != package_version() and not isinstance(version, OSError)  # OSError: it has just gone
    ]
    if wrong:
        lines = "\n  ".join(wrong)
        raise OtherVersion(
            f"these workers have another version of alnb than this sweep ({package_version()}):\n  {lines}\n"
            "Install the same version there (pip install -e . in the shared folder), and restart them"
        )
