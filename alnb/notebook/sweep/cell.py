"""One cell of a sweep: a notebook with one value on each axis, executed by whichever worker gets it, on whichever machine.

Its folder tells everything about it: `cell.json` how far it is, `runs.txt` which run folders it has worked on, `log.txt` what it printed,
`notebook.ipynb` its executed copy. A sweep keeps nothing else, so that any number of them may share a folder.
"""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from alnb import store
from alnb.loop import cycles as loop
from alnb.notebook import parameters
from alnb.notebook.execute import PACKAGE, NotebookFailed, execute, python_path
from alnb.store import stop as pause

DONE, EMPTY, FAILED, STOPPED, DIED, RUNNING, BUSY, NEW = "done", "empty", "failed", "stopped", "died", "running", "busy", "new"
FINISHED = (DONE, EMPTY)  # EMPTY: the experiment has no such combination
GRACE = 20.0  # seconds that a cell has to reach a checkpoint when it is asked to stop
LOCK_SECONDS = 20  # that a run may still be held by a process that is being killed
PLACES = ("runs", "figures", "data_root", "download")  # parameters that say where things are: not part of an experiment
FORGET = "delete it: the cell's runs are found complete, and nothing is lost"


class OtherVersion(Exception):
    """A worker has another version of this package than the one who sweeps."""


@dataclass(frozen=True)
class Cell:
    """What to execute, and what it is called."""

    notebook: Path
    values: Mapping[str, Any]  # parameters that differ from the notebook's
    point: Mapping[str, Any]  # the value on each axis
    below: Path
    key: str  # of the notebook's code and all its parameters, whatever else is swept with it

    @property
    def name(self) -> str:
        """For people: the values on the axes."""
        return named(self.point) or self.notebook.stem

    @property
    def folder(self) -> Path:
        """Where everything about it is."""
        return self.below / self.key

    def runs(self) -> list[store.Run]:
        """The run folders that it has worked on or found complete, in order."""
        path = self.folder / store.RUNS
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        return [store.Run(Path(os.path.normpath(self.folder / line))) for line in dict.fromkeys(lines)]


def named(values: Mapping[str, Any]) -> str:
    """Parameters for people: texts say what they are, numbers have their parameter's name before them."""
    single = {name: value[0] if isinstance(value, list) and len(value) == 1 else value for name, value in values.items()}
    words = (v if isinstance(v, str) else f"{n} {v:g}" if isinstance(v, float) else f"{n} {v}" for n, v in single.items())
    return ", ".join(words)


@dataclass(frozen=True)
class Status:
    """How far a cell is: what `cell.json` holds."""

    state: str
    attempts: int = 0
    seconds: float = 0.0  # of all attempts that came to an end
    threads: int = 0
    began: float = 0.0  # the present or last attempt, seconds since the epoch
    host: str = ""
    package: str = ""
    kind: str = ""  # of the error
    reason: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)

    @property
    def finished(self) -> bool:
        """Nothing is left to do."""
        return self.state in FINISHED


@dataclass(frozen=True)
class Work:
    """What a worker gets: plain values only, so that any executor can send it."""

    cell: Cell
    kernel_free: bool
    environment: Mapping[str, str]
    threads: int
    package: str
    folder: str  # to work in
    stop: str  # a file: to stop once it is there
    deadline: float | None  # seconds since the epoch
    code: str  # `parameters.digest` when the sweep began
    wait: bool = False  # for others that work on the cell
    token: str = field(default_factory=lambda: uuid.uuid4().hex)  # no two are the same: Dask would take equal work for done

    @property
    def late(self) -> bool:
        """Whether it was to stop so long ago that it has to be killed."""
        asked = Path(self.stop)
        with suppress(OSError):
            if time.time() > asked.stat().st_mtime + GRACE:
                return True
        return self.deadline is not None and time.time() > self.deadline + GRACE


def look(cell: Cell) -> Status:
    """How far `cell` is, for everybody. What says of itself that it runs, yet is held by nobody, has died.

    Raises:
        store.Corrupted: its `cell.json` is damaged.
    """
    status = read(cell)
    if status.state == RUNNING and not store.held(cell.folder):
        return replace(status, state=DIED, kind="Died", reason="its process was killed, or its machine went down")
    if status.finished and not _stands(cell, status, store.package()):
        return replace(status, state=NEW)  # a look at its runs, which are found complete, or are made again
    return status


def read(cell: Cell) -> Status:
    """What `cell.json` says."""
    path = cell.folder / "cell.json"
    return read_status(path) if path.exists() else Status(NEW)


def read_status(path: Path) -> Status:
    """Of any cell, from its `cell.json`.

    Raises:
        store.Corrupted: it is damaged, or a later version's.
    """
    content = store.read_json(path, FORGET)
    unknown = sorted(set(content) - {each.name for each in fields(Status)})
    if unknown:
        raise store.Corrupted(f"{path} has {', '.join(unknown)}, of which this version knows nothing; {FORGET}")
    return Status(**content)


def _stands(cell: Cell, status: Status, package: str) -> bool:
    """Whether what a finished cell came to is what `package` would make of it, and all its runs are still there and complete."""
    try:
        return status.package == package and all(0 < cycles == finished for finished, cycles, _ in map(loop.progress, cell.runs()))
    except (store.Corrupted, store.NewerFormat):
        return False  # it is executed again, and says what is damaged


def run(work: Work) -> Status:
    """Execute a cell: the one function that goes to a worker. What the cell did wrong is in its status, not raised.

    Raises:
        OtherVersion: this worker would do something else than was asked for.
        OSError: the cell's folder cannot be written to.
    """
    if store.package() != work.package:
        raise OtherVersion(
            f"worker {platform.node()} (process {os.getpid()}) has alnb {store.package()} in {PACKAGE}, "
            f"the sweep has {work.package}: install the same version there"
        )
    while True:
        if pause.there(Path(work.stop)) or (work.deadline is not None and time.time() > work.deadline):
            return replace(read(work.cell), state=STOPPED)
        try:
            with store.exclusive(work.cell.folder, wait=1.0 if work.wait else False):
                return _attempt(work)
        except store.Locked as error:
            if not work.wait:
                return replace(read(work.cell), state=BUSY, kind="Locked", reason=str(error))


def _attempt(work: Work) -> Status:
    """With the cell held: execute it, unless somebody else has done so meanwhile."""
    before = read(work.cell)
    if before.finished and _stands(work.cell, before, work.package):
        return before
    began = Status(
        RUNNING,
        before.attempts + 1,
        before.seconds,
        work.threads,
        time.time(),
        platform.node(),
        work.package,
        values=dict(work.cell.values),
    )
    _write(work.cell, began)
    (work.cell.folder / store.RUNS).unlink(missing_ok=True)  # each execution names them all
    try:
        _unchanged(work)
        state, kind, reason = (_by_itself if work.kernel_free else _by_papermill)(work)
    except KeyboardInterrupt:
        state, kind, reason = STOPPED, "KeyboardInterrupt", "interrupted"
    except Exception as error:  # not of the notebook: papermill is missing here, say, or the disk is full
        state, kind, reason = FAILED, type(error).__name__, str(error) or repr(error)
    spent = before.seconds + (0 if before.state == DONE else time.time() - began.began)  # a second look is no work
    if state == DONE:
        spent = max(spent, _recorded(work.cell))  # runs that were there before
    ended = replace(began, state=state, seconds=spent, kind=kind, reason=reason)
    _write(work.cell, ended)
    return ended


def _unchanged(work: Work) -> None:
    """Raises: CodeChanged, where the notebook was edited since the sweep began."""
    if parameters.digest(work.cell.notebook) != work.code:
        raise store.CodeChanged(f"{work.cell.notebook} was edited while the sweep ran: nothing was computed; start the sweep again")


def _recorded(cell: Cell) -> float:
    """Seconds that the cycles of its runs took, as far as they can be read."""
    with suppress(store.Corrupted, store.NewerFormat):
        return sum(sum(record["seconds"].values()) for run in cell.runs() for record in run.records())
    return 0.0


def _write(cell: Cell, status: Status) -> None:
    store.write_json(cell.folder / "cell.json", asdict(status))


Outcome = tuple[str, str, str]  # state, kind of error, its message


def _outcome(kind: str, reason: str, late: bool) -> Outcome:
    """What an error means for the cell."""
    known = {"TimeIsUp": STOPPED, "NothingToRun": EMPTY, "Locked": BUSY, "DeadKernelError": DIED, "Died": DIED}
    if kind == "RuntimeError" and reason.startswith("Kernel died"):  # before it could answer for the first time
        return STOPPED if late else DIED, "Died", reason
    return STOPPED if late else known.get(kind, FAILED), kind, reason


def environment(work: Work) -> dict[str, str]:
    """The variables of the process that executes the cell, beside those that are there."""
    threads = {name: str(work.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    asked = {pause.STOP: work.stop, pause.DEADLINE: "" if work.deadline is None else str(work.deadline)}
    own = {
        store.CELL: str(work.cell.folder),
        store.LOCK_SECONDS: str(LOCK_SECONDS),
        store.CODE: work.package,
        "PYTHONPATH": python_path(),
    }
    return {**threads, **own, **asked, **work.environment}


def _by_papermill(work: Work) -> Outcome:
    cell, copy = work.cell, work.cell.folder / "notebook.ipynb"
    with open(cell.folder / "log.txt", "w", encoding="utf-8") as log, _watch(work) as kill:
        try:
            execute(
                cell.notebook, cell.values, copy, environment=environment(work), folder=Path(work.folder), log=log,
                started=lambda manager: kill.append(lambda: _kill(manager.provisioner.pid)),
            )  # fmt: skip
        except NotebookFailed as error:
            return _outcome(error.kind, error.reason or str(error), work.late)
        finally:
            _close_loop()
        copy.with_suffix(".failed.ipynb").unlink(missing_ok=True)
    return DONE, "", ""


def _close_loop() -> None:
    """That of this thread, which nbclient makes and leaves open."""
    with suppress(ImportError):
        from jupyter_core.utils import ensure_event_loop

        own = ensure_event_loop()
        if not own.is_running():  # it is no notebook's own
            own.close()


def _by_itself(work: Work) -> Outcome:
    """Without Jupyter, in a process of its own: see `child`."""
    folder = work.cell.folder
    outcome = folder / "outcome.json"
    outcome.unlink(missing_ok=True)
    store.write_json(folder / "values.json", {"notebook": str(work.cell.notebook), "values": dict(work.cell.values)})
    command = [sys.executable, "-m", "alnb.notebook.sweep.child", str(folder), str(os.getpid())]
    with open(folder / "log.txt", "wb") as log, _watch(work) as kill:
        options: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": subprocess.STDOUT, "start_new_session": True}
        with subprocess.Popen(command, env={**os.environ, **environment(work)}, cwd=work.folder, **options) as process:
            kill.append(lambda: _kill(process.pid))
            status = process.wait()
    if not outcome.exists():
        died = f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
        return _outcome("Died", f"its process ended by {died} (out of memory?); what it printed: {folder / 'log.txt'}", work.late)
    told = store.read_json(outcome)
    return _outcome(told["kind"], told["reason"], work.late) if told["kind"] else (DONE, "", "")


def _kill(pid: int) -> None:
    """End a process that leads a group of its own, and its children."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL) if os.name == "posix" else os.kill(pid, signal.SIGTERM)


@contextmanager
def _watch(work: Work) -> Iterator[list[Callable[[], None]]]:
    """While it is open, what is in the list is called once the work is late."""
    kill: list[Callable[[], None]] = []

    def watching(ended: threading.Event) -> None:
        while not ended.wait(0.5):
            if work.late:
                for one in kill:
                    one()

    with beside(watching):
        yield kill


@contextmanager
def beside(follow: Callable[[threading.Event], None]) -> Iterator[None]:
    """While it is open, `follow` runs in a thread of its own; it is to return soon after the event that it is given is set."""
    ended = threading.Event()
    thread = threading.Thread(target=follow, args=(ended,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
