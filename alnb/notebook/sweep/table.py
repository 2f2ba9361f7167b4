"""A sweep as text: what it will do, how far it is, and how long the rest may take."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any, Self

from alnb import store
from alnb.notebook.cells import BATCH
from alnb.notebook.sweep import cell as cells_of
from alnb.notebook.sweep.cell import BUSY, DONE, FAILED, KILLED, PLACES, RUNNING, TODO, Cell, Status

STATES = (DONE, FAILED, KILLED, RUNNING, BUSY, TODO)  # in the order in which they are counted
COSTLY = ("scale", "dataset")  # parameters that decide how long a cell takes
MOST_ROWS = 40  # of cells in one table
REST = 1.0  # seconds that the last cells are said to take at least
Row = tuple[str, str, str]  # cell, state, remark


# ---- how long -----------------------------------------------------------------------------------------------------------------


def span(seconds: float) -> str:
    """A length of time for people."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def estimate(left: Sequence[Cell]) -> float | None:
    """Seconds of work that these cells may take; None if no such cell has finished.

    Each cell takes the mean of those finished cells of the same notebook that share most values with it. They may differ only along the
    axes.
    """
    return _estimate(left, list(_finished(left[0]))) if left else 0.0


def _finished(cell: Cell) -> Iterator[Status]:
    shared = [name for name in cell.values if name in COSTLY or name not in (*cell.point, *PLACES)]
    for path in cell.below.glob("*/cell.json"):
        with suppress(store.Corrupted, FileNotFoundError):  # another sweep's cell, which that sweep reports
            status = cells_of.read_status(path)
            if all(status.values.get(name) == cell.values[name] for name in shared):
                yield status


def _estimate(left: Iterable[Cell], statuses: Iterable[Status]) -> float | None:
    finished = [status for status in statuses if status.state == DONE and not status.kind]
    if not finished:
        return None
    total = 0.0
    for cell in left:
        shared = [sum(status.values.get(name) == cell.values[name] for name in cell.point) for status in finished]
        nearest = [status.seconds for status, count in zip(finished, shared, strict=True) if count == max(shared)]
        total += sum(nearest) / len(nearest)
    return total


def time_left(seconds: float | None, workers: int = 1) -> str:
    """The estimate in a sentence."""
    if seconds is None:
        return "how long the rest takes is known once one such cell has finished"
    if seconds == 0:
        return "no cell is left"
    return f"the rest may take {span(seconds)} of work{f', {span(seconds / workers)} on {workers} workers' if workers > 1 else ''}"


# ---- lines --------------------------------------------------------------------------------------------------------------------


def number(cells: int) -> str:
    """ "1 cell", "2 cells"."""
    return f"{cells} cell" if cells == 1 else f"{cells} cells"


def counted(statuses: Iterable[Status]) -> str:
    """How many cells are in each state."""
    counts = Counter(status.state for status in statuses)
    return ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])


def plan(cells: Sequence[Cell], statuses: Mapping[str, Status], left_seconds: float | None, workers: int = 1) -> str:
    """The grid, how much of it is done, and how long the rest may take."""
    rows = [(cell.name, statuses[cell.key].state, _remark(statuses[cell.key])) for cell in cells[:MOST_ROWS]]
    widths = [max((len(row[column]) for row in rows), default=0) for column in (0, 1)]
    lines = [f"  {_plain(name):{widths[0]}}  {state:{widths[1]}}  {remark}".rstrip() for name, state, remark in rows]
    more = [f"… and {len(cells) - MOST_ROWS} more"] if len(cells) > MOST_ROWS else []
    return "\n".join([*lines, *more, f"{number(len(cells))}: {counted(statuses.values())}", time_left(left_seconds, workers)])


def _remark(status: Status) -> str:
    if status.wrong or status.state == BUSY:
        return _plain(f"{status.kind}: {status.reason}")
    return _plain(status.reason) or (span(status.seconds) if status.state == DONE else "")


def _plain(text: str) -> str:
    """The text without tabs, line ends, colours and movements of the cursor."""
    return "".join(character if character.isprintable() else " " for character in text)


# ---- the live table -----------------------------------------------------------------------------------------------------------


@dataclass
class View:
    """How far a sweep is: a live table in a terminal and in a notebook; elsewhere a line whenever a cell's state changes."""

    cells: Sequence[Cell]
    statuses: Mapping[str, Status]
    workers: int
    todo: int  # cells to be executed
    began: float = field(default_factory=time.time)
    printed: dict[str, str] = field(default_factory=dict)  # the state of each cell that the last line about it named
    stack: ExitStack = field(default_factory=ExitStack)
    display: Any = None  # of rich in a terminal, of IPython in a notebook; None: lines

    def __enter__(self) -> Self:
        """Print what is to be done."""
        print(f"{number(len(self.cells))}, {self.todo} of them to do", flush=True)
        self.printed = {cell.key: self.statuses[cell.key].state for cell in self.cells}
        if find_spec("rich") is None:
            return self
        if _in_notebook():
            from IPython.display import display

            self.display = display(self._table({}), display_id=True)
        elif sys.stdout.isatty():
            from rich.console import Console
            from rich.live import Live

            self.display = self.stack.enter_context(Live(self._table({}), console=Console(), auto_refresh=False))
        return self

    def __exit__(self, *error: Any) -> None:
        """Show it a last time."""
        self.show(set())
        self.stack.close()

    def show(self, submitted: set[str]) -> None:
        """Show the present state. `submitted`: the keys of the cells that were handed to a worker."""
        now = {cell.key: _running(cell) for cell in self.cells if cell.key in submitted}
        if self.display is None:
            self._print_changes(now)
        elif _in_notebook():
            self.display.update(self._table(now))
        else:
            self.display.update(self._table(now), refresh=True)

    def _table(self, now: Mapping[str, Status]) -> Any:
        """The cells that run, wait for a worker, or failed."""
        from rich.table import Table
        from rich.text import Text

        table = Table(title=Text(self._title(now), no_wrap=True), title_justify="left", box=None, show_header=False, expand=True)
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True, ratio=1)
        for row in self._rows(now):
            table.add_row(*(Text(_plain(word)) for word in row))
        return table

    def _title(self, now: Mapping[str, Status]) -> str:
        left = [cell for cell in self.cells if self.statuses[cell.key].state != DONE]
        work, end = _estimate(left, self.statuses.values()), ""
        if work is not None and now:
            spent = sum(min(work / len(left), time.time() - status.began) for status in now.values() if status.state == RUNNING)
            rest = max((work - spent) / max(1, min(self.workers, len(left))), REST)
            end = f"; expected end {time.strftime('%H:%M', time.localtime(time.time() + rest))}, in {span(rest)}"
        present = (now.get(cell.key, self.statuses[cell.key]) for cell in self.cells)
        return f"{counted(present)}; {span(time.time() - self.began)} so far{end}"

    def _rows(self, now: Mapping[str, Status]) -> list[Row]:
        submitted = [_row(cell, now[cell.key]) for cell in self.cells if cell.key in now]
        wrong = [cell for cell in self.cells if cell.key not in now and self.statuses[cell.key].wrong]
        return [*submitted, *((c.name, self.statuses[c.key].state, _remark(self.statuses[c.key])) for c in wrong)][:MOST_ROWS]

    def _print_changes(self, now: Mapping[str, Status]) -> None:
        done = sum(status.state == DONE for status in self.statuses.values())
        for cell in self.cells:
            status = now.get(cell.key, self.statuses[cell.key])
            if self.printed[cell.key] != status.state and (status.state != TODO or status.reason):
                print(f"[{done}/{len(self.cells)}] {cell.name}: {status.state} {_remark(status)}".rstrip(), flush=True)
                self.printed[cell.key] = status.state


def _in_notebook() -> bool:
    if "IPython" not in sys.modules or os.environ.get(BATCH) == "1":
        return False
    from IPython import get_ipython

    return type(get_ipython()).__name__ == "ZMQInteractiveShell"


def _running(cell: Cell) -> Status:
    """The status of a cell that was handed out: it runs, or waits for a worker."""
    with suppress(store.Corrupted, OSError):
        status = cells_of.read(cell)
        if status.state == RUNNING:
            return status
    return Status(TODO)


def _row(cell: Cell, status: Status) -> Row:
    if status.state != RUNNING:
        return cell.name, "waiting", "for a worker"
    return cell.name, RUNNING, ", ".join(filter(None, (span(time.time() - status.began), _last_line(cell))))


def _last_line(cell: Cell) -> str:
    """Of the log: the progress bar, mostly, which overwrites its line."""
    path = cell.folder / "log.txt"
    if not path.exists():
        return ""
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - 500))
        lines = file.read().decode("utf-8", "replace").replace("\r", "\n").strip().splitlines()
    return lines[-1].strip()[:80] if lines else ""
