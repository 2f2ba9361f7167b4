"""A sweep as text: estimates, a plan, and the lines that a sweep prints in a notebook."""

import io
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import nbclient
import nbformat
import pytest
import rich.console
from conftest import notebook_of

from alnb.notebook import cells
from alnb.notebook.sweep import table
from alnb.notebook.sweep.cell import BUSY, DONE, FAILED, KILLED, RUNNING, TODO, Cell, Status


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (0.4, "0 s"), (89.4, "89 s"), (90, "2 min"), (600, "10 min"), (5399, "90 min"), (5400, "1.5 h"), (86400, "24.0 h")],
)
def test_lengths_of_time_for_people(seconds: float, words: str) -> None:
    assert table.span(seconds) == words


def test_states_are_counted_in_one_order() -> None:
    states = [RUNNING, DONE, FAILED, DONE, TODO, KILLED, BUSY, TODO]
    words = "2 done, 1 failed, 1 killed, 1 running, 1 in use elsewhere, 2 to do"
    assert table.counted(map(Status, states)) == words and table.counted([]) == ""


# ---- estimates -------------------------------------------------------------------------------------------------------------------


def cell_of(folder: Path, name: str, seed: int) -> Cell:
    """A cell along `names` and `seeds`."""
    return Cell(Path("n.ipynb"), {}, {"names": name, "seeds": seed}, folder / "cells/n", f"{name}-{seed}")


def test_the_estimate_is_that_of_the_cells_most_alike(tmp_path: Path) -> None:
    cells = {(name, seed): cell_of(tmp_path, name, seed) for name in "abc" for seed in range(6)}
    statuses = {cell.key: Status(TODO) for cell in cells.values()}
    left = [cells["a", 2], cells["b", 2], cells["c", 3]]

    def estimate(left: list[Cell]) -> float | None:
        return table.estimate(left, list(cells.values()), statuses)

    assert estimate([]) == 0 and estimate(left) is None
    ended = {("a", 0): Status(DONE, seconds=10), ("a", 1): Status(DONE, seconds=30), ("b", 0): Status(FAILED, seconds=1000)}
    ended |= {("b", 1): Status(DONE, seconds=1000, kind="NothingToRun"), ("c", 4): Status(DONE, seconds=80)}
    statuses |= {cells[place].key: status for place, status in ended.items()}
    assert estimate(left) == (10 + 30) / 2 + (10 + 30 + 80) / 3 + 80
    statuses[cells["b", 5].key] = Status(DONE, seconds=7)
    assert estimate(left) == 20 + 7 + 80


def test_a_plan_shows_the_grid(tmp_path: Path) -> None:
    cells = [cell_of(tmp_path, "a", seed) for seed in range(table.MOST_ROWS + 2)]
    statuses = {cell.key: Status(TODO) for cell in cells}
    statuses[cells[0].key] = Status(DONE, seconds=200)
    statuses[cells[1].key] = Status(FAILED, kind="ValueError", reason="two\nlines")
    lines = table.plan(cells, statuses, 7200, 4).splitlines()
    assert lines[0] == "  a, seeds 0   done    3 min" and lines[1] == "  a, seeds 1   failed  ValueError: two lines"
    assert lines[2] == "  a, seeds 2   to do" and len(lines) == table.MOST_ROWS + 3
    assert lines[-3:] == [
        "… and 2 more",
        "42 cells: 1 done, 1 failed, 40 to do",
        "the rest may take 2.0 h of work, 30 min on 4 workers",
    ]
    assert table.plan(cells[:1], statuses, 0.0).splitlines()[-1] == "no cell is left"
    assert table.time_left(60, 1) == "the rest may take 60 s of work" and "is known once" in table.time_left(None)


@pytest.mark.slow
def test_a_sweep_in_a_real_kernel(tmp_path: Path, write: Callable[..., Path]) -> None:
    """From a notebook, with kernels that it starts for its cells and for the whole."""
    swept = notebook_of(tmp_path / "swept.ipynb", "seeds: list[int] = [0, 1]  # cells\nruns: str = ''  # there", "print('seeds', seeds)")
    call = f"done = alnb.sweep({str(swept)!r}, {{'runs': {str(tmp_path / 'runs')!r}}}, workers=2)\nprint(done.finished, len(done.reports))"
    content = nbformat.read(write("import alnb", call, tag=False), 4)
    nbclient.NotebookClient(content, resources={"metadata": {"path": str(tmp_path)}}).execute()
    text = "".join(output.text for output in content.cells[1].outputs if output.output_type == "stream")
    plan, *lines = text.splitlines()
    assert (
        plan.startswith("results go to ")
        and lines[0] == "2 cells, 2 of them to do"
        and {lines[1], lines[2]} == {f"seeds {seed}: handed to a worker" for seed in (0, 1)}
    )
    assert lines[3].startswith("[1/2] seeds ") and lines[4].startswith("[2/2] seeds ") and lines[4].endswith("; no cell is left")
    assert lines[5:] == ["", f"over the whole grid: {swept}", "seeds [0, 1]", "True 1"]


def test_a_terminal_shows_the_running_cells_below_the_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    console = rich.console.Console(file=screen, force_terminal=True, width=60, color_system=None)
    monkeypatch.setattr("rich.console.Console", lambda: console)
    monkeypatch.delenv(cells.BATCH, raising=False)
    with table.live(lambda: [("seeds=0 [bold]", "runs", "50 %\x1b[2J " + "x" * 99)]):
        console.print("a line")
    text = screen.getvalue()
    assert "a line" in text and "seeds=0 [bold]  runs  50 %" in text and "\x1b[2J" not in text
    assert max(len(line) for line in re.sub(r"\x1b\[[0-9?]*[a-zA-Z]", "", text).replace("\r", "\n").splitlines()) <= 60


@pytest.mark.parametrize("batch", ["1", ""])
def test_elsewhere_there_are_lines_alone(batch: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setenv(cells.BATCH, batch)
    with table.live(lambda: [("seeds=0", "runs", "")]):
        print("a line")
    assert capsys.readouterr().out == "a line\n"


def test_the_last_line_of_a_log_is_what_a_progress_bar_shows_now(tmp_path: Path) -> None:
    cell = SimpleNamespace(folder=tmp_path)
    assert table.last_line(cell) == ""
    (tmp_path / "log.txt").write_text("started\n 10 %\r 20 % ä\r")
    assert table.last_line(cell) == "20 % ä"
