"""Sweeps: a notebook over a grid of parameters, each cell by whichever worker is free, and then once over the whole."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, CancelledError, Executor, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from alnb import store
from alnb.notebook.execute import NotebookFailed, execute
from alnb.notebook.sweep import cell as cells_of
from alnb.notebook.sweep import table
from alnb.notebook.sweep.cell import BUSY, DIED, FAILED, Cell, OtherVersion, Status, Work
from alnb.notebook.sweep.grid import Grid, grid
from alnb.store import stop as pause

MOST_WORKERS = 8  # that are started unasked: each is a process of half a gigabyte
REFRESH = 1.0  # seconds between two looks at what runs
BUSY_ROUNDS = 3  # how often a cell is handed out again because a run of it is in use elsewhere
RESERVE = 2.0  # seconds before a time limit in which nothing is begun
FORWARDED = ("ALNB_DATA", "ALNB_OTHER_ENVIRONMENT")  # variables that workers get from whoever sweeps


@dataclass(repr=False)
class Sweep:
    """What came of a sweep."""

    grid: Grid
    cells: list[Cell]
    statuses: dict[str, Status]  # by the cell's key
    reports: list[Path] = field(default_factory=list)  # executed notebooks over the whole grid
    reports_failed: list[str] = field(default_factory=list)  # what was wrong with the others
    left_seconds: float | None = None  # of work, as finished cells suggest; None: not known
    why_no_report: str = ""  # where no report was begun
    late: bool = False  # that is because time was up

    def __repr__(self) -> str:
        """In a line."""
        return f"<Sweep of {self.grid.notebook}: {table.number(len(self.cells))}: {table.counted(self.statuses.values())}>"

    @property
    def failed(self) -> list[Cell]:
        """Cells whose error was kept."""
        return [cell for cell in self.cells if self.statuses[cell.key].state in (FAILED, DIED)]

    @property
    def left(self) -> list[Cell]:
        """Cells that are neither finished nor failed."""
        return [c for c in self.cells if not self.statuses[c.key].finished and self.statuses[c.key].state not in (FAILED, DIED)]

    def wanted(self, retry: bool) -> list[Cell]:
        """Cells that a sweep executes: all that are not finished, failed ones if they are to be tried again."""
        statuses = self.statuses
        return [c for c in self.cells if not statuses[c.key].finished and (statuses[c.key].state != FAILED or retry)]

    @property
    def finished(self) -> bool:
        """Whether all cells are finished."""
        return not self.failed and not self.left


@dataclass
class Workers:
    """Who works, and how many cells they take at once, which may change meanwhile."""

    executor: Executor
    capacity: int  # cells that are handed out at once
    threads: int | None = None  # of each cell; None: one
    gpus: tuple[str, ...] = ()  # given out one by one; empty: workers have their own
    size: int = 0  # cells that can run at once; 0: as many as are handed out
    link: str = ""  # where the engine shows itself


@contextmanager
def local(workers: int | None = None, threads: int | None = None) -> Iterator[Workers]:
    """A pool of threads on this machine, each of which waits for a process: on a GPU of its own, or on its share of the cores.

    Raises:
        ValueError: less than one worker or thread.
    """
    for name, value in (("workers", workers), ("threads", threads)):
        if value is not None and value < 1:
            raise ValueError(f"{name} is {value}: it must be at least 1")
    cores, gpus = _cores(), _gpus()
    workers = workers or min(len(gpus) or cores, MOST_WORKERS)
    pool = ThreadPoolExecutor(workers)
    try:
        yield Workers(pool, workers, threads or max(1, cores // workers), gpus)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _gpus() -> tuple[str, ...]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if not torch.cuda.is_available():
        return ()
    return tuple(named.split(",")) if named else tuple(map(str, range(torch.cuda.device_count())))


def given(executor: Executor, threads: int | None = None) -> Workers:
    """Any executor: as many cells at once as it says it has workers, else all."""
    most = getattr(executor, "_max_workers", None)
    return Workers(executor, most if isinstance(most, int) else sys.maxsize, threads)


def sweep(
    path: Path | str,
    parameters: Mapping[str, Any] | None = None,
    *,
    over: Iterable[str] | None = None,
    executor: Executor | AbstractContextManager[Workers] | None = None,
    workers: int | None = None,
    threads: int | None = None,
    kernel_free: bool | None = None,
    retry: bool = False,
    retries: int = 2,
    time_limit: float | None = None,
    dry_run: bool = False,
) -> Sweep:
    """Execute a notebook once for each combination of values, in parallel; then once over the whole grid, where all runs are complete.

    Called again it does only what is missing. Each cell's runs, log, executed copy and error are kept below `runs`, in cells/.

    Args:
        path: the notebook.
        parameters: values by name; those that are lists are cut into single values, each a cell.
        over: the list parameters to cut; None: all.
        executor: who works: any executor that can send plain values, or what `cluster.connect` gives; None: processes on this machine.
        workers: how many cells at once on this machine; None: one for each GPU, else one for each core, at most 8.
        threads: of each cell; None: its share of the cores, or what it was begun with.
        kernel_free: without Jupyter, see `kernel_free`; None: where papermill is not installed. The whole is executed only where
            it is.
        retry: cells that failed earlier are tried again.
        retries: how often a cell whose process was killed is started again.
        time_limit: seconds after which cells stop at a checkpoint, to be gone on with later.
        dry_run: nothing is executed; the result says what would be, and how long it may take.

    Raises:
        BadParameter: all that is wrong with the grid, before anything is started.
        OSError: the runs' folder cannot be written to.
        KeyboardInterrupt: by Ctrl-C, or SIGTERM; cells have stopped, and nothing is lost.
    """
    deadline = None if time_limit is None else time.time() + time_limit
    chosen = grid(_found(Path(path)), dict(parameters or {}), over)
    cells = chosen.cells()
    result = Sweep(chosen, cells, {cell.key: cells_of.look(cell) for cell in cells})
    if dry_run:
        with local(workers, threads) if executor is None else nullcontext() as crew:
            result.left_seconds = table.estimate(result.wanted(retry))
            print(table.plan(result.cells, result.statuses, result.left_seconds, crew.capacity if crew else None), flush=True)
        return result
    _writable(chosen.root)
    kernel_free = find_spec("papermill") is None if kernel_free is None else kernel_free
    with asked_to_end():
        with _entered(executor, workers, threads) as crew:  # within: what it launches is ended by SIGTERM too
            _Driver(result, crew, kernel_free, threads, retries, deadline, retry).run()
        result.left_seconds = table.estimate(result.wanted(False))
        _report(result, deadline)
    return result


def _found(path: Path) -> Path:
    """As it is, or where there is no such notebook, in the project: a notebook's kernel works in the folder that the notebook is in."""
    there = store.workspace() / path
    return there if there.is_file() and not path.is_file() else path


def _entered(
    executor: Executor | AbstractContextManager[Workers] | None, workers: int | None, threads: int | None
) -> AbstractContextManager[Workers]:
    if executor is None:
        return local(workers, threads)
    return nullcontext(given(executor, threads)) if isinstance(executor, Executor) else executor


@contextmanager
def asked_to_end() -> Iterator[None]:
    """SIGTERM, as a cluster sends it before it kills, is the same as Ctrl-C."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _writable(root: Path) -> None:
    """Raises: OSError, naming the folder, if nothing can be written below it."""
    try:
        probe = root / "cells" / f".{uuid.uuid4().hex}"
        store.write_atomic(probe, b"")
        probe.unlink()
    except OSError as error:
        remedy = "choose another with -p runs FOLDER, or make it writable"
        raise OSError(error.errno, f"runs cannot be kept below {root}: {error.strerror or error}; {remedy}") from error


@dataclass
class _Driver:
    """Hands out cells until none is left to do, or time is up."""

    result: Sweep
    crew: Workers
    kernel_free: bool
    threads: int | None
    retries: int
    deadline: float | None
    retry: bool
    session: str = field(default_factory=lambda: uuid.uuid4().hex[:8])
    running: dict[Future[Status], Cell] = field(default_factory=dict)
    slots: dict[str, int] = field(default_factory=dict)  # by the cell's key: which place of the crew it has
    died: Counter[str] = field(default_factory=Counter)
    busy: Counter[str] = field(default_factory=Counter)

    def run(self) -> None:
        """Raises: KeyboardInterrupt, when the cells that were running have stopped."""
        todo = self.result.wanted(self.retry)
        view = table.View(self.result.cells, self.result.statuses, self.crew.link, self.crew.size or self.crew.capacity, len(todo))
        try:
            with view:
                while (todo or self.running) and not self.past:
                    while todo and len(self.running) < self.crew.capacity and not self.over:
                        self.submit(todo.pop(0))
                    if not self.running:
                        break
                    ended, _ = wait(self.running, REFRESH, FIRST_COMPLETED)
                    todo += [cell for future in ended if (cell := self.collect(future))]
                    view.show({cell.key for cell in self.running.values()})
        except BaseException:  # Ctrl-C, or an executor that is broken
            self.end()
            raise
        finally:
            if all(future.done() for future in self.running):  # else it is still to be seen by somebody
                self.stop.unlink(missing_ok=True)

    @property
    def over(self) -> bool:
        """Whether it is too late to begin anything."""
        return _over(self.deadline)

    @property
    def past(self) -> bool:
        """Whether all that ran has stopped or was killed: what is left waits for workers that do not come."""
        return self.deadline is not None and time.time() > self.deadline + cells_of.GRACE + 10

    @property
    def stop(self) -> Path:
        """The file whose being there asks this sweep's cells to stop."""
        return self.result.grid.root / "cells" / f".stop-{self.session}"

    def submit(self, cell: Cell) -> None:
        """Hand `cell` to whoever is free."""
        used = set(self.slots.values())
        slot = self.slots[cell.key] = next(number for number in range(len(used) + 1) if number not in used)
        gpus, before = self.crew.gpus, self.result.statuses[cell.key]
        extra = {"CUDA_VISIBLE_DEVICES": gpus[slot % len(gpus)]} if gpus else {}
        kept = {name: os.environ[name] for name in FORWARDED if name in os.environ}
        threads = self.threads or before.threads or self.crew.threads or 1
        spinning = {"OMP_WAIT_POLICY": "PASSIVE"} if threads > 1 and self.crew.capacity > 1 else {}
        surroundings = {"ALNB_WORKSPACE": str(store.workspace()), **spinning, **kept, **extra}
        work = Work(
            cell,
            self.kernel_free,
            surroundings,
            threads,
            store.package(),
            str(Path.cwd()),
            str(self.stop),
            self.deadline,
            self.result.grid.code,
            cell.key in self.busy,
        )
        self.running[self.crew.executor.submit(cells_of.run, work)] = cell

    def collect(self, future: Future[Status]) -> Cell | None:
        """Note what came of a cell; the cell itself if it is to be executed once more."""
        cell = self.running.pop(future)
        del self.slots[cell.key]
        try:
            status = future.result()
        except CancelledError:  # not by this sweep: the executor has come to its end, as by the loss of Dask's scheduler
            raise
        except Exception as error:  # what `run` raises of itself, or else of an executor whose worker died
            state = FAILED if isinstance(error, OtherVersion | OSError | store.Corrupted) else DIED
            before = self.result.statuses[cell.key]
            status = replace(before, state=state, kind=type(error).__name__, reason=str(error) or repr(error))
        self.result.statuses[cell.key] = status
        if status.state == DIED:
            self.died[cell.key] += 1
            return cell if self.died[cell.key] <= self.retries else None
        if status.state == BUSY and not self.over and self.busy[cell.key] < BUSY_ROUNDS:
            self.busy[cell.key] += 1  # next time it waits, when all others have been handed out
            return cell
        return None

    def end(self) -> None:
        """Ask all that runs to stop at a checkpoint, and wait until it has; interrupted once more, until it was killed."""
        if not self.running:
            return
        print("stopping at the next checkpoint … (interrupt again to stop at once)", file=sys.stderr, flush=True)
        with suppress(OSError):
            self.stop.touch()  # cells that have not begun end at once; Dask could not tell whether one was cancelled in time
        try:
            wait(self.running, cells_of.GRACE + 10)
        except KeyboardInterrupt:
            with suppress(OSError):
                os.utime(self.stop, (0, 0))  # long ago: see `Work.late`
            wait(self.running, cells_of.GRACE)
            raise


def _over(deadline: float | None) -> bool:
    return deadline is not None and time.time() > deadline - RESERVE


def _report(result: Sweep, deadline: float | None) -> None:
    """Execute the notebook over the whole grid, once for each combination of what it takes one at a time."""
    if not result.finished:
        result.why_no_report = "not all cells are finished"
    elif _over(deadline):
        result.why_no_report, result.late = "time is up", True
    elif find_spec("papermill") is None:
        result.why_no_report = "papermill is not installed here: execute the same sweep where it is, and it finds all runs complete"
    else:
        path, threads = result.grid.notebook, max(status.threads for status in result.statuses.values())
        for values in result.grid.reports():
            print(f"\nover the whole grid: {path}", flush=True)
            name = f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}-{len(result.reports)}.ipynb"
            copy = result.grid.root / path.stem / "notebooks" / name
            surroundings = {"OMP_NUM_THREADS": str(max(1, threads)), pause.DEADLINE: "" if deadline is None else str(deadline)}
            try:
                result.reports.append(execute(path, values, copy, environment=surroundings))
            except NotebookFailed as error:
                if error.kind == "TimeIsUp":
                    result.why_no_report, result.late = "time is up", True
                    break
                result.reports_failed.append(str(error))
