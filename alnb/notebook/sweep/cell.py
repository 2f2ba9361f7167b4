"""One cell of a sweep: a notebook with one value on each axis, executed by whichever worker takes it, on any machine.

A cell's folder holds all that is known about it: `cell.json` (its status), `log.txt` (what it printed) and `notebook.ipynb` (its executed
copy). A sweep keeps nothing else, so several sweeps may share a folder.

Killing any process at any instant is safe. A cell is done only when its notebook has reached its end and `cell.json`, written
atomically while the folder is locked, says so.
"""

import functools
import os
import platform
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from alnb import store
from alnb.notebook import parameters
from alnb.notebook.execute import PACKAGE, NotebookFailed, execute, python_path
from alnb.report import records
from alnb.store import stop

DONE = "done"  # the notebook has reached its end, or the experiment has no such combination (kind "NothingToRun")
FAILED = "failed"  # a cell of the notebook raised an error; only `retry` executes it again
KILLED = "killed"  # its process died
RUNNING = "running"
BUSY = "in use elsewhere"  # another sweep has it, or another process has one of its runs
TODO = "to do"  # not begun, or stopped at a checkpoint
CORE = ("store", "data", "learn", "acquire", "loop", "papers/methods")  # the rooms whose code decides what a run's records are
GRACE = 20.0  # seconds that a cell has to reach a checkpoint when it is asked to stop
LOCK_SECONDS = 20  # seconds to wait for a run whose process is being killed
FORGET = "delete it: nothing is lost, since the next sweep reads the cell's runs"


class OtherVersion(Exception):
    """A worker has another version of this package than the sweep."""


class CodeChanged(Exception):
    """The package or the notebook was edited while the sweep ran."""


def code_version(*rooms: str) -> str:
    """The package's version, and a digest of the code on disk in these rooms; of all code if none is named."""
    files = sorted(path for room in rooms or ("",) for path in (PACKAGE / "alnb" / room).rglob("*.py"))
    content = {path.relative_to(PACKAGE).as_posix(): path.read_text(encoding="utf-8") for path in files}
    return f"{store.version()} {store.fingerprint(content)[:10]}"


@functools.cache
def package_version() -> str:
    """The version of all code of this process. A worker must have the same."""
    return code_version()


@functools.cache
def core_version() -> str:
    """The version of the code in `CORE` of this process. A finished cell of another core version is executed again.

    Other rooms do not count. They decide which runs there are, not what a run records: if a paper's settings change, so do the names of
    its runs, and the execution over the whole grid computes them.
    """
    return code_version(*CORE)


@dataclass(frozen=True)
class Cell:
    """What to execute, and its name."""

    notebook: Path
    values: Mapping[str, Any]  # the parameters that differ from the notebook's defaults
    point: Mapping[str, Any]  # the value on each axis
    below: Path  # RUNS/cells/NOTEBOOK
    key: str  # names the notebook's code and all parameters, whatever else is swept with it

    @property
    def name(self) -> str:
        """The values on the axes, for people."""
        return named(self.point) or self.notebook.stem

    @property
    def folder(self) -> Path:
        """Where all that is known about it is."""
        return self.below / self.key


def named(values: Mapping[str, Any]) -> str:
    """Parameters for people, such as "margin, seeds 3": texts stand alone, numbers have their parameter's name before them."""
    single = {name: value[0] if isinstance(value, list) and len(value) == 1 else value for name, value in values.items()}
    words = (v if isinstance(v, str) else f"{n} {v:g}" if isinstance(v, float) else f"{n} {v}" for n, v in single.items())
    return ", ".join(words)


@dataclass(frozen=True)
class Status:
    """What `cell.json` holds."""

    state: str
    attempts: int = 0
    seconds: float = 0.0  # of all attempts that ended
    threads: int = 0
    core: str = ""  # `core_version`
    kind: str = ""  # the type of the error
    reason: str = ""  # its message
    runs: tuple[str, ...] = ()  # the run folders that the cell worked on, relative to its own

    @property
    def wrong(self) -> bool:
        """Whether the last attempt ended in an error or died."""
        return self.state in (FAILED, KILLED)


def read(cell: Cell) -> Status:
    """What `cell.json` says. Raises: store.Corrupted if it is damaged, or written by another version."""
    path = cell.folder / "cell.json"
    if not path.exists():
        return Status(TODO)
    content = store.read_json(path, FORGET)
    unknown = sorted(set(content) - {each.name for each in fields(Status)})
    if unknown:
        raise store.Corrupted(f"{path} has unknown fields ({', '.join(unknown)}), as another version may write; {FORGET}")
    return Status(**{**content, "runs": tuple(content["runs"])})


def _write(cell: Cell, status: Status) -> None:
    store.write_json(cell.folder / "cell.json", asdict(status))


def look(cell: Cell) -> Status:
    """How far `cell` is. A cell that is stored as running but is not locked was killed. Raises: as `read`."""
    status = read(cell)
    if status.state == RUNNING and not store.held(cell.folder):
        return replace(status, state=KILLED, kind="Died", reason="its process was killed, or its machine went down")
    if status.state == DONE and not _valid(cell, status):
        return replace(status, state=TODO)
    return status


def _valid(cell: Cell, status: Status) -> bool:
    """Whether a finished cell has this core version and all its runs are still complete."""
    return status.core == core_version() and all(complete(store.Run(cell.folder / name)) for name in status.runs)


def complete(run: store.Run) -> bool:
    """Whether a run has all its cycles. False for a damaged run: the next execution says what is damaged."""
    with suppress(store.Corrupted, store.NewerFormat, OSError):
        protocol = (run.manifest or {"experiment": {}})["experiment"].get("protocol", {})  # a pre-training has none
        return len(run.records()) == protocol.get("cycles")
    return False


def _worked_on(cell: Cell, processes: list[int]) -> Iterator[str]:
    """The complete runs that one of these processes of this machine locked last, relative to the cell's folder.

    Runs that were complete before the cell began are not listed: they belong to the cell that made them.
    """
    owners = [f"{process} on {platform.node()}" for process in processes]
    for run in records.runs(cell.below.parents[1]):
        owner = run.path / ".owner"
        if owner.exists() and owner.read_text() in owners and complete(run):
            yield os.path.relpath(run.path, cell.folder)


@dataclass(frozen=True)
class Work:
    """What a worker gets: plain values only, so that any executor can send it."""

    cell: Cell
    kernel_free: bool
    environment: Mapping[str, str]
    threads: int
    package: str  # `package_version` of the sweep
    folder: str  # the working folder
    stop: str  # a file: stop once it exists
    deadline: float | None  # seconds since the epoch
    code: str  # `parameters.digest` of the notebook when the sweep began
    wait: bool = False  # if another sweep has the cell
    token: str = field(default_factory=lambda: uuid.uuid4().hex)  # different each time: Dask computes equal work only once

    @property
    def late(self) -> bool:
        """Whether it was asked to stop more than `GRACE` ago, so that it has to be killed."""
        asked = [] if self.deadline is None else [self.deadline]
        with suppress(OSError):
            asked.append(Path(self.stop).stat().st_mtime)
        return any(time.time() > moment + GRACE for moment in asked)


def run(work: Work) -> Status:
    """Execute a cell: the one function that goes to a worker. An error of the notebook is in the status, not raised.

    Raises: OtherVersion if this worker has other code than the sweep; OSError if the cell's folder is not writable.
    """
    if package_version() != work.package:
        worker = f"worker {platform.node()} (process {os.getpid()}) has alnb {package_version()} in {PACKAGE}"
        raise OtherVersion(f"{worker}, the sweep has {work.package}: install the same version there")
    while True:
        if stop.exists(Path(work.stop)) or (work.deadline is not None and time.time() > work.deadline):
            return replace(read(work.cell), state=TODO)
        try:
            with store.exclusive(work.cell.folder, wait=1.0 if work.wait else False):
                return _attempt(work)
        except store.Locked as error:
            if not work.wait:
                return replace(read(work.cell), state=BUSY, kind="Locked", reason=str(error))


def _attempt(work: Work) -> Status:
    """Execute the cell, whose folder is locked, unless another sweep has done so meanwhile."""
    before, began = read(work.cell), time.monotonic()
    if before.state == DONE and _valid(work.cell, before):
        return before
    status = Status(RUNNING, before.attempts + 1, before.seconds, work.threads, core_version(), runs=before.runs)
    _write(work.cell, status)
    with _watched(work) as processes:
        try:
            _unchanged(work)
            state, kind, reason = (_by_itself if work.kernel_free else _by_papermill)(work, processes)
        except KeyboardInterrupt:
            state, kind, reason = TODO, "KeyboardInterrupt", "interrupted"
        except Exception as error:  # outside the notebook: papermill is missing here, for example, or the disk is full
            state, kind, reason = FAILED, type(error).__name__, str(error) or repr(error)
    earlier = {name for name in before.runs if complete(store.Run(work.cell.folder / name))}
    runs = tuple(sorted({*earlier, *_worked_on(work.cell, processes)}))
    seconds = before.seconds + (0 if before.state == DONE else time.monotonic() - began)  # looking at complete runs again does not count
    ended = replace(status, state=state, seconds=seconds, kind=kind, reason=reason, runs=runs)
    _write(work.cell, ended)
    return ended


def _unchanged(work: Work) -> None:
    """Raises: CodeChanged if the notebook or the core was edited since the sweep began: records must not mix two versions."""
    edited = [str(work.cell.notebook)] if parameters.digest(work.cell.notebook) != work.code else []
    edited += [f"alnb in {PACKAGE}"] if code_version(*CORE) != core_version() else []
    if edited:
        raise CodeChanged(f"{', '.join(edited)} was edited while the sweep ran: nothing was computed; start the sweep again")


Outcome = tuple[str, str, str]  # state, kind of error, its message


def _outcome(kind: str, reason: str, late: bool) -> Outcome:
    """What an error in the notebook means for the cell."""
    states = {"TimeIsUp": TODO, "NothingToRun": DONE, "Locked": BUSY, "DeadKernelError": KILLED, "Died": KILLED}
    if kind == "RuntimeError" and reason.startswith("Kernel died"):  # before its first answer
        kind = "Died"
    return TODO if late else states.get(kind, FAILED), kind, reason


def environment(work: Work) -> dict[str, str]:
    """The variables that the process of a cell gets, added to those of the worker."""
    threads = {name: str(work.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    requests = {stop.STOP: work.stop, stop.DEADLINE: "" if work.deadline is None else str(work.deadline)}
    always = {store.LOCK_SECONDS: str(LOCK_SECONDS), "PYTHONPATH": python_path(), "PYTHONIOENCODING": "utf-8"}  # as log.txt is read
    return {**threads, **requests, **always, **work.environment}


def _by_papermill(work: Work, processes: list[int]) -> Outcome:
    cell, copy = work.cell, work.cell.folder / "notebook.ipynb"
    with open(cell.folder / "log.txt", "w", encoding="utf-8") as log:
        try:
            execute(
                cell.notebook, cell.values, copy, environment=environment(work), folder=Path(work.folder), log=log,
                started=lambda manager: processes.append(manager.provisioner.pid),
            )  # fmt: skip
        except NotebookFailed as error:
            return _outcome(error.kind, error.reason or str(error), work.late)
        finally:
            _close_loop()
    copy.with_suffix(".failed.ipynb").unlink(missing_ok=True)
    return DONE, "", ""


def _close_loop() -> None:
    """Close this thread's event loop, which nbclient makes and leaves open."""
    with suppress(ImportError):
        from jupyter_core.utils import ensure_event_loop

        loop = ensure_event_loop()
        if not loop.is_running():  # a running one belongs to a notebook
            loop.close()


def _by_itself(work: Work, processes: list[int]) -> Outcome:
    """Without Jupyter, in a process of its own: see `child`."""
    folder = work.cell.folder
    outcome = folder / "outcome.json"
    outcome.unlink(missing_ok=True)
    store.write_json(folder / "values.json", {"notebook": str(work.cell.notebook), "values": dict(work.cell.values)})
    command = [sys.executable, "-m", "alnb.notebook.sweep.child", str(folder), str(os.getpid())]
    with open(folder / "log.txt", "wb") as log:
        options: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": subprocess.STDOUT, "start_new_session": True}
        with subprocess.Popen(command, env={**os.environ, **environment(work)}, cwd=work.folder, **options) as process:
            processes.append(process.pid)
            status = process.wait()
    if not outcome.exists():
        end = f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
        return _outcome("Died", f"its process ended by {end} (out of memory?); what it printed: {folder / 'log.txt'}", work.late)
    answer = store.read_json(outcome)
    return _outcome(answer["kind"], answer["reason"], work.late) if answer["kind"] else (DONE, "", "")


@contextmanager
def _watched(work: Work) -> Iterator[list[int]]:
    """While it is open, the processes in the list are killed, with their children, once the work is late."""
    processes: list[int] = []
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.5):
            for process in processes if work.late else ():
                with suppress(ProcessLookupError, PermissionError):  # each leads a process group of its own
                    os.killpg(process, signal.SIGKILL) if os.name == "posix" else os.kill(process, signal.SIGTERM)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield processes
    finally:
        ended.set()
        thread.join()
