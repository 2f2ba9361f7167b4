"""A sweep as text: what it will do, how far it is while it runs, and what came of it."""

from __future__ import annotations

import html
import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Self

from alnb import store
from alnb.loop import cycles as loop
from alnb.notebook.cells import BATCH
from alnb.notebook.sweep import cell as cells_of
from alnb.notebook.sweep.cell import BUSY, DIED, DONE, EMPTY, FAILED, NEW, PLACES, RUNNING, STOPPED, Cell, Status

WORDS = {
    DONE: "done", EMPTY: "no such combination", FAILED: "failed", STOPPED: "stopped at a checkpoint", DIED: "killed",
    RUNNING: "running", BUSY: "in use elsewhere", NEW: "to do",
}  # fmt: skip
TELLING = ("scale", "dataset")  # parameters that say how long a cell takes, also where they are an axis
MOST_ROWS = 40  # of cells in one table
WIDTH = 100  # characters, where it is not known
REST = 1.0  # seconds that the last cells are said to take at least
Row = tuple[str, str, str]  # cell, state, remark


def span(seconds: float) -> str:
    """A length of time for people."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def estimate(left: Sequence[Cell]) -> float | None:
    """Seconds of work that these cells may take, from finished ones of the same notebook that differ only along the axes: of these, for
    each cell, the mean of those that have most values in common with it. None where there is no such cell.
    """
    return _estimate(left, list(_finished(left[0]))) if left else 0.0


def _finished(cell: Cell) -> Iterable[Status]:
    for path in cell.below.glob("*/cell.json"):
        with suppress(store.Corrupted, FileNotFoundError):  # of another sweep, which will say so
            status = cells_of.read_status(path)
            alike = (n for n in cell.values if n in TELLING or n not in (*cell.point, *PLACES))
            if status.state == DONE and all(status.values.get(n) == cell.values[n] for n in alike):
                yield status


def _estimate(left: Iterable[Cell], told: Sequence[Status]) -> float | None:
    if not told:
        return None
    total = 0.0
    for cell in left:
        alike = [sum(status.values.get(n) == cell.values[n] for n in cell.point) for status in told]
        nearest = [status.seconds for status, score in zip(told, alike, strict=True) if score == max(alike)]
        total += sum(nearest) / len(nearest)
    return total


def number(cells: int) -> str:
    """So many cells."""
    return f"{cells} cell" if cells == 1 else f"{cells} cells"


def counted(statuses: Iterable[Status]) -> str:
    """How many cells are in which state."""
    counts = Counter(status.state for status in statuses)
    return ", ".join(f"{counts[state]} {word}" for state, word in WORDS.items() if counts[state])


def plan(cells: Sequence[Cell], statuses: Mapping[str, Status], left_seconds: float | None, workers: int | None = None) -> str:
    """The grid, what of it is done, and how long the rest may take."""
    rows = [(cell.name, WORDS[statuses[cell.key].state], _remark(statuses[cell.key])) for cell in cells]
    shown = _lines(rows[:MOST_ROWS], WIDTH)
    more = [f"… and {len(rows) - MOST_ROWS} more"] if len(rows) > MOST_ROWS else []
    return "\n".join([*shown, *more, f"{number(len(cells))}: {counted(statuses.values())}", time_left(left_seconds, workers)])


def time_left(seconds: float | None, workers: int | None = None) -> str:
    """The estimate in a sentence."""
    if seconds is None:
        return "how long the rest takes is not known before one such cell has finished"
    if seconds == 0:
        return "no cell is left to be executed"
    side = f", {span(seconds / workers)} on {workers} workers" if workers and workers > 1 else ""
    return f"the rest may take {span(seconds)} of work{side}, as finished cells suggest"


def _remark(status: Status) -> str:
    if status.state == BUSY:
        return f"it is waited for: {status.reason}"
    if status.state in (FAILED, DIED):
        return f"{status.kind}: {status.reason}".replace("\n", " ")
    return span(status.seconds) if status.finished else ""


def _lines(rows: Sequence[Row], width: int) -> list[str]:
    if not rows:
        return []
    name, state = (max(len(row[k]) for row in rows) for k in (0, 1))
    return [_plain(f"  {row[0]:{name}}  {row[1]:{state}}  {row[2]}".rstrip())[:width] for row in rows]


def _plain(text: str) -> str:
    """`text` where each character takes one place: no tabs, no colours, no movements of the cursor."""
    return "".join(character if character.isprintable() else " " for character in text)


@dataclass
class View:
    """One table that is kept up to date: drawn anew in a terminal and in a notebook, lines as things happen elsewhere."""

    cells: Sequence[Cell]
    statuses: Mapping[str, Status]
    link: str
    workers: int
    todo: int  # cells to be executed
    began: float = field(default_factory=time.time)
    drawn: int = 0  # lines that the terminal shows of the last drawing
    told: dict[str, str] = field(default_factory=dict)
    handle: Any = None  # of the display in a notebook
    kind: str = ""

    def __enter__(self) -> Self:
        """Say what is to be done."""
        self.kind = "notebook" if _in_notebook() else "terminal" if sys.stdout.isatty() else "lines"
        link = f"; the engine's own view: {self.link}" if self.link else ""
        print(f"{number(len(self.cells))}, {self.todo} of them to do{link}", flush=True)
        self.told = {cell.key: self.statuses[cell.key].state for cell in self.cells}
        return self

    def __exit__(self, *error: Any) -> None:
        """Draw it a last time."""
        self.show(set())

    def show(self, submitted: set[str]) -> None:
        """Draw it as it is now, `submitted` being the keys of the cells that were handed out."""
        now = {cell.key: _begun(cell) for cell in self.cells if cell.key in submitted}
        if self.kind == "lines":
            return self._tell(now)
        head, rows = self._head(now), self._rows(now)
        if self.kind == "notebook":
            return self._display(head, rows)
        size = shutil.get_terminal_size((WIDTH, 24))
        lines = [head[: size.columns], *_lines(rows[: max(1, size.lines - 3)], size.columns)]
        up = f"\x1b[{self.drawn}A\x1b[J" if self.drawn else ""
        print(up + "\n".join(lines), flush=True)
        self.drawn = len(lines)
        return None

    def _head(self, now: Mapping[str, Status]) -> str:
        left = [cell for cell in self.cells if not self.statuses[cell.key].finished]
        work = _estimate(left, [s for s in self.statuses.values() if s.state == DONE])
        when = ""
        if work is not None and now:
            spent = sum(min(work / len(left), time.time() - status.began) for status in now.values() if status.state == RUNNING)
            end = time.time() + max((work - spent) / max(1, min(self.workers, len(left))), REST)
            when = f"; expected end {time.strftime('%H:%M', time.localtime(end))}, in {span(end - time.time())}"
        shown = [now.get(cell.key, self.statuses[cell.key]) for cell in self.cells]
        return f"{counted(shown)}; {span(time.time() - self.began)} so far{when}"

    def _rows(self, now: Mapping[str, Status]) -> list[Row]:
        """Cells that were handed out, and those that failed."""
        handed = [_running(cell, now[cell.key]) for cell in self.cells if cell.key in now]
        bad = [cell for cell in self.cells if cell.key not in now and self.statuses[cell.key].state in (FAILED, DIED)]
        failed = [(cell.name, WORDS[self.statuses[cell.key].state], _remark(self.statuses[cell.key])) for cell in bad]
        return [*handed, *failed][:MOST_ROWS]

    def _tell(self, now: Mapping[str, Status]) -> None:
        """A line for each cell whose state is another than when it was last told."""
        done = sum(status.finished for status in self.statuses.values())
        for cell in self.cells:
            status = now.get(cell.key, self.statuses[cell.key])
            if self.told.get(cell.key) != status.state and status.state != NEW:
                remark = "" if status.state == RUNNING else _result(cell) if status.state == DONE else _remark(status)
                print(f"[{done}/{len(self.cells)}] {cell.name}: {WORDS[status.state]} {remark}".rstrip(), flush=True)
                self.told[cell.key] = status.state

    def _display(self, head: str, rows: Sequence[Row]) -> None:
        from IPython.display import HTML, display

        cells = ("".join(f'<td style="text-align:left">{html.escape(word)}</td>' for word in row) for row in rows)
        body = "".join(f"<tr>{row}</tr>" for row in cells)
        page = HTML(f"<p>{html.escape(head)}</p><table><tr><th>cell</th><th>state</th><th></th></tr>{body}</table>")
        if self.handle is None:
            self.handle = display(page, display_id=True)
        else:
            self.handle.update(page)


def _in_notebook() -> bool:
    if "IPython" not in sys.modules or os.environ.get(BATCH) == "1":
        return False
    from IPython import get_ipython

    shell = get_ipython()
    return shell is not None and type(shell).__name__ == "ZMQInteractiveShell"


def _begun(cell: Cell) -> Status:
    """How far a cell is that was handed out: it runs, or waits for a worker."""
    with suppress(store.Corrupted, OSError):
        status = cells_of.read(cell)
        if status.state == RUNNING:
            return status
    return Status(NEW)


def _running(cell: Cell, status: Status) -> Row:
    """Where a cell is that was handed out: from its runs, or where it has none yet from what it printed last."""
    if status.state != RUNNING:
        return cell.name, "waiting", "for a worker"
    where = _progress(cell) or _last_line(cell)
    return cell.name, WORDS[RUNNING], f"{span(time.time() - status.began)}, {where}" if where else span(time.time() - status.began)


def _progress(cell: Cell) -> str:
    finished, cycles, accuracy = _last(cell)
    if not cycles:
        return ""
    runs = len(cell.runs())
    which = f"run {runs}, " if runs > 1 else ""
    reached = "" if accuracy is None else f", accuracy {accuracy:.1%}"
    return f"{which}cycle {finished} of {cycles}{reached}"


def _result(cell: Cell) -> str:
    accuracy = _last(cell)[2]
    return "" if accuracy is None else f"(accuracy {accuracy:.1%})"


def _last(cell: Cell) -> tuple[int, int, float | None]:
    """How far the last of its runs is. What is damaged there, the cell itself will say: the sweep goes on."""
    runs = cell.runs()
    with suppress(store.Corrupted, store.NewerFormat, OSError):
        return loop.progress(runs[-1]) if runs else (0, 0, None)
    return 0, 0, None


def _last_line(cell: Cell) -> str:
    """Of the log, which progress bars overwrite."""
    path = cell.folder / "log.txt"
    if not path.exists():
        return ""
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - 500))
        words = file.read().decode("utf-8", "replace").replace("\r", "\n").strip().splitlines()
    return words[-1].strip()[:80] if words else ""
