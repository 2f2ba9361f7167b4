"""A sweep as text: what it will do, how far it is, and how long the rest may take."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from statistics import mean

from alnb.notebook.cells import BATCH
from alnb.notebook.sweep.cell import BUSY, DONE, FAILED, KILLED, RUNNING, TODO, Cell, Status

STATES = (DONE, FAILED, KILLED, RUNNING, BUSY, TODO)  # in the order in which they are counted
MOST_ROWS = 40  # of cells in one table


def span(seconds: float) -> str:
    """A length of time for people."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def estimate(left: Sequence[Cell], cells: Sequence[Cell], statuses: Mapping[str, Status]) -> float | None:
    """Seconds of work that the cells `left` may take; None if none of `cells` has finished.

    Each takes the mean of those finished cells that share most values with it.
    """
    finished = [cell for cell in cells if statuses[cell.key].state == DONE and not statuses[cell.key].kind]
    if not finished:
        return None if left else 0.0
    total = 0.0
    for cell in left:
        shared = [sum(other.point[name] == value for name, value in cell.point.items()) for other in finished]
        most = max(shared)
        total += mean(statuses[other.key].seconds for other, count in zip(finished, shared, strict=True) if count == most)
    return total


def time_left(seconds: float | None, workers: int = 1) -> str:
    """The estimate in a sentence."""
    if seconds is None:
        return "the time left is known once one such cell has finished"
    if seconds == 0:
        return "no cell is left"
    return f"the rest may take {span(seconds)} of work{f', {span(seconds / workers)} on {workers} workers' if workers > 1 else ''}"


def number(cells: int) -> str:
    """ "1 cell", "2 cells"."""
    return f"{cells} cell" if cells == 1 else f"{cells} cells"


def counted(statuses: Iterable[Status]) -> str:
    """How many cells are in each state."""
    counts = Counter(status.state for status in statuses)
    return ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])


def plan(cells: Sequence[Cell], statuses: Mapping[str, Status], left_seconds: float | None, workers: int = 1) -> str:
    """The grid, how much of it is done, and how long the rest may take."""
    rows = [(plain(cell.name), statuses[cell.key].state, remark(statuses[cell.key])) for cell in cells[:MOST_ROWS]]
    widths = [max((len(row[column]) for row in rows), default=0) for column in (0, 1)]
    lines = [f"  {name:{widths[0]}}  {state:{widths[1]}}  {text}".rstrip() for name, state, text in rows]
    more = [f"… and {len(cells) - MOST_ROWS} more"] if len(cells) > MOST_ROWS else []
    return "\n".join([*lines, *more, f"{number(len(cells))}: {counted(statuses.values())}", time_left(left_seconds, workers)])


def remark(status: Status) -> str:
    """What there is to say about a cell: its error, or how long it took."""
    if status.wrong or status.state == BUSY:
        return plain(f"{status.kind}: {status.reason}")
    return plain(status.reason) or (span(status.seconds) if status.state == DONE else "")


def plain(text: str) -> str:
    """The text without tabs, line ends, colours and movements of the cursor."""
    return "".join(character if character.isprintable() else " " for character in text)


@contextmanager
def live(rows: Callable[[], Iterable[Sequence[str]]]) -> Iterator[None]:
    """Show a table of `rows` below what the block prints, and redraw it each second. Only in a terminal or a notebook."""
    try:
        from rich.console import Console, RenderableType
        from rich.live import Live
        from rich.table import Table
        from rich.text import Text
    except ImportError:  # a machine that has torch and little else
        yield
        return

    def draw() -> RenderableType:
        table = Table(box=None, show_header=False, pad_edge=False)
        for row in rows():
            table.add_row(*(Text(plain(word), overflow="ellipsis", no_wrap=True) for word in row))
        return table

    console = Console()
    if os.environ.get(BATCH) == "1" or not (console.is_terminal or console.is_jupyter):
        yield
        return
    redirect = not console.is_jupyter  # there, printed lines and the table are two outputs
    with Live(get_renderable=draw, console=console, refresh_per_second=1, transient=True, redirect_stdout=redirect):
        yield


def last_line(cell: Cell) -> str:
    """The last line of the cell's log: a progress bar, as a rule, which overwrites its line."""
    path = cell.folder / "log.txt"
    with suppress(OSError), open(path, "rb") as file:  # it may not be there yet, or go at any moment
        file.seek(max(0, path.stat().st_size - 500))
        lines = file.read().decode("utf-8", "replace").replace("\r", "\n").strip().splitlines()
        return lines[-1].strip()[:80] if lines else ""
    return ""
