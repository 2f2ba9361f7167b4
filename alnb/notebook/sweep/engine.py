"""Sweeps: a notebook over a grid of parameters, each cell by whichever worker is free, then once over the whole grid."""

import errno
import math
import os
import shutil
import signal
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, CancelledError, Executor, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from alnb import store
from alnb.notebook.execute import NotebookFailed, execute
from alnb.notebook.parameters import BadParameter
from alnb.notebook.sweep import cell as cells_of
from alnb.notebook.sweep import table
from alnb.notebook.sweep.cell import BUSY, DONE, FAILED, KILLED, Cell, OtherVersion, Status, Work
from alnb.notebook.sweep.grid import Grid, grid
from alnb.store import stop
from alnb.store.checks import at_least

MOST_WORKERS = 8  # unless the call asks for more: each is a process of half a gigabyte
REFRESH = 1.0  # seconds between two looks at what runs
BUSY_ROUNDS = 3  # how often a cell is tried again because another process uses one of its runs
LEAST_FREE = 50e6  # bytes: the records and checkpoints of a few runs
RESERVE = 2.0  # seconds before a time limit in which nothing begins
TIME_IS_UP = "time is up"
FORWARDED = ("ALNB_DATA", "ALNB_OTHER_ENVIRONMENT")  # variables that workers get from the sweep


@dataclass(frozen=True)
class Options:
    """How `sweep` works."""

    workers: int | None = None  # cells at once on this machine; None: `per_gpu` for each GPU, otherwise one for each core, at most 8
    per_gpu: int = 1  # cells at once on each GPU of this machine, each a process of its own; it counts nothing without a GPU
    threads: int | None = None  # of each cell; None: its share of the cores, those it was begun with, or 1 with an executor
    kernel_free: bool | None = None  # without Jupyter, see `kernel_free`; None: if papermill is not installed
    retry: bool = False  # execute failed cells again
    retries: int = 2  # how often a cell whose process was killed is started again
    time_limit: float | None = None  # seconds after which cells stop at a checkpoint
    dry_run: bool = False  # execute nothing, print what would be executed and how long it may take

    def __post_init__(self) -> None:
        """Raises: ValueError if there is less than one worker or thread."""
        at_least("workers", 1 if self.workers is None else self.workers, 1)
        at_least("per_gpu", self.per_gpu, 1)
        at_least("threads", 1 if self.threads is None else self.threads, 1)


@dataclass(repr=False)
class Sweep:
    """The result of a sweep."""

    grid: Grid
    cells: list[Cell]
    statuses: dict[str, Status]  # by the cell's key
    reports: list[Path] = field(default_factory=list)  # executed notebooks over the whole grid
    reports_failed: list[str] = field(default_factory=list)  # the errors of the others
    why_no_report: str = ""

    def __repr__(self) -> str:
        """One line."""
        return f"<Sweep of {self.grid.notebook}: {table.number(len(self.cells))}: {table.counted(self.statuses.values())}>"

    @property
    def failed(self) -> list[Cell]:
        """The cells whose last attempt ended in an error or died."""
        return [cell for cell in self.cells if self.statuses[cell.key].wrong]

    @property
    def left(self) -> list[Cell]:
        """The cells that are neither done nor failed."""
        return [cell for cell in self.cells if self.statuses[cell.key].state != DONE and not self.statuses[cell.key].wrong]

    @property
    def finished(self) -> bool:
        """Whether all cells are done."""
        return not self.pending(retry=True)

    def estimate(self, retry: bool = False) -> float | None:
        """Seconds of work that are left, see `table.estimate`."""
        return table.estimate(self.pending(retry), self.cells, self.statuses)

    def pending(self, retry: bool) -> list[Cell]:
        """The cells that a sweep executes: all that are not done; failed ones only with `retry`."""
        skipped = (DONE,) if retry else (DONE, FAILED)
        return [cell for cell in self.cells if self.statuses[cell.key].state not in skipped]


@dataclass(frozen=True)
class Workers:
    """An executor, and how it is used."""

    executor: Executor
    capacity: int  # how many cells it gets at once
    threads: int = 1  # of each cell
    gpus: tuple[str, ...] = ()  # given out one by one; empty: each worker has its own


@contextmanager
def _workers(executor: Executor | None, options: Options) -> Iterator[Workers]:
    """The workers of this machine, or of `executor`, which gets as many cells at once as it has workers; all if that is unknown.

    The workers of this machine are threads. Each waits for the process of a cell, which gets a GPU, or a share of the cores.
    """
    if executor is not None:
        most = getattr(executor, "_max_workers", None)
        yield Workers(executor, most if isinstance(most, int) else sys.maxsize, options.threads or 1)
        return
    cores, gpus = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1, _gpus()
    workers = options.workers or len(gpus) * options.per_gpu or min(cores, MOST_WORKERS)
    pool = ThreadPoolExecutor(workers)
    try:
        yield Workers(pool, workers, options.threads or max(1, cores // workers), gpus)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _gpus() -> tuple[str, ...]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if not torch.cuda.is_available():
        return ()
    return tuple(visible.split(",")) if visible else tuple(map(str, range(torch.cuda.device_count())))


def sweep(
    path: Path | str,
    parameters: Mapping[str, Any] | None = None,
    *,
    over: Iterable[str] | None = None,
    executor: Executor | None = None,
    **options: Any,
) -> Sweep:
    """Execute a notebook once for each combination of values, in parallel; then once over the whole grid, where all runs are complete.

    A second call does only what is missing. Runs are below `runs`; each cell's log, executed copy and error are in cells/ there.

    Args:
        path: the notebook.
        parameters: values by name. Lists are cut into single values, each a cell.
        over: the list parameters to cut; None: all.
        executor: runs the cells: any executor that can send plain values, such as Dask's; None: processes on this machine.
        options: the fields of `Options`.

    Raises:
        BadParameter: before anything starts; it names the first problem of the grid.
        OSError: the folder of the runs is not writable.
        KeyboardInterrupt: by Ctrl-C or SIGTERM, after the cells have stopped; nothing is lost.
    """
    chosen = Options(**options)
    deadline = None if chosen.time_limit is None else time.time() + chosen.time_limit
    made = grid(_located(Path(path)), dict(parameters or {}), over)
    cells = made.cells()
    result = Sweep(made, cells, {cell.key: cells_of.look(cell) for cell in cells})
    if chosen.dry_run:
        with _workers(executor, chosen) as workers:
            left = result.estimate(chosen.retry)
            print(table.plan(cells, result.statuses, left, 1 if executor else workers.capacity), flush=True)
        return result
    print(_place(made.root, inside="cells"), flush=True)
    with asked_to_end():
        with _workers(executor, chosen) as workers:
            _Driver(result, workers, chosen, deadline).run()
        _report(result, deadline)
    return result


def _located(path: Path) -> Path:
    """The notebook, also from another folder: the kernel of a notebook works in the folder that the notebook is in."""
    in_project = store.workspace() / path
    return in_project if in_project.is_file() and not path.is_file() else path


@contextmanager
def asked_to_end() -> Iterator[None]:
    """SIGTERM, which clusters send before they kill, means the same as Ctrl-C."""
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


def plan(path: Path, values: Mapping[str, Any], output: Path | None = None) -> None:
    """Look at all that is known before one execution of the notebook at `path` costs a second, and print where its runs go.

    How long it may take is known where a sweep of the same folder has finished such cells.

    Raises: BadParameter, of the notebook's own check too; OSError if a folder is not writable, or its disk is full.
    """
    made = grid(path, values)
    itself = output is not None and os.path.realpath(output) == os.path.realpath(path)
    if output is not None and (itself or os.path.isdir(output)):
        raise BadParameter(f"-o {output} is {'the notebook itself' if itself else 'a folder'}: give the name of a new file")
    print(_place(made.root), flush=True)
    for folder in (output and output.parent, values.get("figures") and Path(values["figures"]).expanduser()):
        if folder:
            _place(folder, "choose another with -p figures FOLDER, or -o FILE")
    cells = made.cells()
    with suppress(store.Corrupted):  # no reason not to run
        if left := Sweep(made, cells, {cell.key: cells_of.look(cell) for cell in cells}).estimate():
            print(table.time_left(left), flush=True)


def _place(folder: Path, remedy: str = "choose another with -p runs FOLDER, or make it writable", inside: str = "") -> str:
    """What there is to say about a folder of results. Raises: OSError, which names it, if it is not writable, or its disk is full."""
    try:
        probe = folder / inside / f".{uuid.uuid4().hex}"
        store.write_atomic(probe, b"")
        probe.unlink()
        free = shutil.disk_usage(folder).free
        if free < LEAST_FREE:
            raise OSError(errno.ENOSPC, f"only {free / 1e6:.0f} MB are free")
    except OSError as error:
        raise OSError(error.errno, f"cannot write results below {folder}: {error.strerror or error}; {remedy}") from error
    return f"results go to {folder} ({free / 1e9:.1f} GB free)"


@dataclass
class _Driver:
    """Hands out cells until none is left, or the time is up."""

    result: Sweep
    workers: Workers
    options: Options
    deadline: float | None
    session: str = field(default_factory=lambda: uuid.uuid4().hex[:8])
    running: dict[Future[Status], Cell] = field(default_factory=dict)
    slots: dict[str, int] = field(default_factory=dict)  # by the cell's key: which worker's GPU it has
    deaths: Counter[str] = field(default_factory=Counter)
    busy: Counter[str] = field(default_factory=Counter)

    def run(self) -> None:
        """Raises: KeyboardInterrupt, after the cells that were running have stopped."""
        todo = self.result.pending(self.options.retry)
        failed = len(self.result.pending(retry=True)) - len(todo)  # 0 with `retry`
        hint = f"; {failed} failed before: --retry executes them again" if failed else ""
        print(f"{table.number(len(self.result.cells))}, {len(todo)} of them to do{hint}", flush=True)
        try:
            with table.live(lambda: [(cell.name, "runs", table.last_line(cell)) for cell in list(self.running.values())]):
                self.execute(todo)
        except BaseException:  # Ctrl-C, or a broken executor
            self.end()
            raise
        finally:
            if all(future.done() for future in self.running):  # otherwise a cell must still see it
                self.stop.unlink(missing_ok=True)

    def execute(self, todo: list[Cell]) -> None:
        """Keep the workers busy until no cell is left, or the time is up."""
        past = math.inf if self.deadline is None else self.deadline + cells_of.GRACE + 10  # all that ran was killed by then
        while (todo or self.running) and time.time() <= past:
            while todo and len(self.running) < self.workers.capacity and not _over(self.deadline):
                self.submit(todo.pop(0))
            if not self.running:
                break
            ended, _ = wait(self.running, REFRESH, FIRST_COMPLETED)
            todo += [cell for future in ended if (cell := self.collect(future))]

    @property
    def stop(self) -> Path:
        """This sweep's cells stop once this file exists."""
        return self.result.grid.root / "cells" / f".stop-{self.session}"

    def submit(self, cell: Cell) -> None:
        """Hand `cell` to a free worker."""
        used = set(self.slots.values())
        slot = self.slots[cell.key] = next(number for number in range(len(used) + 1) if number not in used)
        threads = self.options.threads or self.result.statuses[cell.key].threads or self.workers.threads
        variables = {name: os.environ[name] for name in FORWARDED if name in os.environ} | {"ALNB_WORKSPACE": str(store.workspace())}
        if threads > 1 and self.workers.capacity > 1:
            variables["OMP_WAIT_POLICY"] = "PASSIVE"  # threads that spin slow the other cells down
        if gpus := self.workers.gpus:
            variables["CUDA_VISIBLE_DEVICES"] = gpus[slot % len(gpus)]
        free = find_spec("papermill") is None if self.options.kernel_free is None else self.options.kernel_free
        work = Work(
            cell, free, variables, threads, cells_of.package_version(), str(Path.cwd()), str(self.stop), self.deadline,
            self.result.grid.code, cell.key in self.busy,
        )  # fmt: skip
        self.running[self.workers.executor.submit(cells_of.run, work)] = cell
        print(f"{table.plain(cell.name)}: handed to a worker", flush=True)

    def collect(self, future: Future[Status]) -> Cell | None:
        """Note the result of a cell. Returns the cell if it is to be executed once more."""
        cell = self.running.pop(future)
        del self.slots[cell.key]
        try:
            status = future.result()
        except CancelledError:  # by the executor itself: Dask's scheduler is gone, for example
            raise
        except Exception as error:  # of `run`, or of an executor whose worker died
            state = FAILED if isinstance(error, OtherVersion | OSError | store.Corrupted | ImportError) else KILLED
            before = self.result.statuses[cell.key]
            status = replace(before, state=state, kind=type(error).__name__, reason=str(error) or repr(error))
        self.result.statuses[cell.key] = status
        self.tell(cell, status)
        if status.state == KILLED:
            self.deaths[cell.key] += 1
            return cell if self.deaths[cell.key] <= self.options.retries else None
        if status.state == BUSY and not _over(self.deadline) and self.busy[cell.key] < BUSY_ROUNDS:
            self.busy[cell.key] += 1  # then it waits for the other process, after all other cells
            return cell
        return None

    def tell(self, cell: Cell, status: Status) -> None:
        """Print how `cell` ended, and how far the sweep is."""
        done = sum(each.state == DONE for each in self.result.statuses.values())
        rest = table.time_left(self.result.estimate(), min(self.workers.capacity, len(self.running) + 1))
        ended = f"{table.plain(cell.name)}: {status.state} {table.remark(status)}".rstrip()
        print(f"[{done}/{len(self.result.cells)}] {ended}; {rest}", flush=True)

    def end(self) -> None:
        """Ask all that runs to stop at a checkpoint, and wait for it. A second interruption kills it."""
        if not self.running:
            return
        print("stopping at the next checkpoint … (interrupt again to stop at once)", file=sys.stderr, flush=True)
        with suppress(OSError):
            self.stop.touch()  # cells that have not begun end at once, too; Dask does not say whether it cancelled one in time
        try:
            wait(self.running, cells_of.GRACE + 10)
        except KeyboardInterrupt:
            with suppress(OSError):
                os.utime(self.stop, (0, 0))  # long ago: see `Work.late`
            wait(self.running, cells_of.GRACE)
            raise


def _over(deadline: float | None) -> bool:
    """Whether it is too late to begin a cell."""
    return deadline is not None and time.time() > deadline - RESERVE


def _report(result: Sweep, deadline: float | None) -> None:
    """Execute the notebook over the whole grid, once for each combination of the parameters that take a single value."""
    if not result.finished:
        result.why_no_report = "not all cells are done"
    elif _over(deadline):
        result.why_no_report = TIME_IS_UP
    elif find_spec("papermill") is None:
        result.why_no_report = "papermill is not installed here: start the same sweep where it is, and it finds all runs complete"
    else:
        path, threads = result.grid.notebook, max(status.threads for status in result.statuses.values())
        variables = {"OMP_NUM_THREADS": str(max(1, threads)), stop.DEADLINE: "" if deadline is None else str(deadline)}
        for values in result.grid.reports():
            print(f"\nover the whole grid: {path}", flush=True)
            name = f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}-{len(result.reports)}.ipynb"
            try:
                result.reports.append(execute(path, values, result.grid.root / path.stem / "notebooks" / name, environment=variables))
            except NotebookFailed as error:
                if error.kind == "TimeIsUp":
                    result.why_no_report = TIME_IS_UP
                    break
                result.reports_failed.append(str(error))
