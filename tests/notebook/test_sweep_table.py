"""A sweep as text: estimates, lines where nobody looks on, a table that stays within a terminal, one output in a notebook."""

import io
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import nbclient
import nbformat
import pytest
import rich.live
from conftest import notebook_of
from rich.console import Console

from alnb import store
from alnb.notebook.cells import BATCH
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


def cell_of(folder: Path, name: str, seed: int, **values: object) -> Cell:
    """A cell along `names` and `seeds`, the other values being the same in all of its grid."""
    point = {"names": name, "seeds": seed}
    return Cell(Path("n.ipynb"), {"names": [name], "seeds": [seed], **values}, point, folder / "cells/n", f"{name}-{seed}-{len(values)}")


def leave(cell: Cell, state: str, seconds: float = 0.0, **fields: object) -> Status:
    status = replace(Status(state, seconds=seconds, began=time.time(), values=dict(cell.values)), **fields)  # type: ignore[arg-type]
    store.write_json(cell.folder / "cell.json", asdict(status))
    return status


def test_the_estimate_is_that_of_the_cells_most_alike(tmp_path: Path) -> None:
    left = [cell_of(tmp_path, name, seed) for name, seed in (("a", 2), ("b", 2), ("c", 3))]
    assert table.estimate([]) == 0 and table.estimate(left) is None
    leave(cell_of(tmp_path, "a", 0), DONE, 10)
    leave(cell_of(tmp_path, "a", 1), DONE, 30)
    leave(cell_of(tmp_path, "b", 0), FAILED, 1000)
    leave(cell_of(tmp_path, "b", 1), DONE, 1000, kind="NothingToRun")
    leave(cell_of(tmp_path, "c", 4), DONE, 80)
    assert table.estimate(left) == (10 + 30) / 2 + (10 + 30 + 80) / 3 + 80
    leave(cell_of(tmp_path, "b", 5), DONE, 7)
    assert table.estimate(left) == 20 + 7 + 80


def test_the_estimate_is_only_of_what_differs_along_the_axes(tmp_path: Path) -> None:
    leave(cell_of(tmp_path, "a", 0, scale="smoke"), DONE, 10)
    leave(cell_of(tmp_path, "a", 0), DONE, 500)
    assert table.estimate([cell_of(tmp_path, "a", 1, scale="paper")]) is None
    assert table.estimate([cell_of(tmp_path, "a", 1, scale="smoke")]) == 10


def test_the_estimate_passes_over_what_is_damaged_or_of_a_later_version(tmp_path: Path) -> None:
    leave(cell_of(tmp_path, "a", 0), DONE, 10)
    leave(cell_of(tmp_path, "a", 1), DONE, 10)
    (cell_of(tmp_path, "a", 1).folder / "cell.json").write_text("{")
    newer = {**asdict(leave(cell_of(tmp_path, "a", 2), DONE, 70)), "mood": "good"}
    store.write_json(cell_of(tmp_path, "a", 2).folder / "cell.json", newer)
    (tmp_path / "cells/n/empty").mkdir()
    assert table.estimate([cell_of(tmp_path, "a", 3)]) == 10


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


# ---- how far a cell is -----------------------------------------------------------------------------------------------------------


def test_a_cell_that_runs_says_what_it_is_at(tmp_path: Path) -> None:
    cell = cell_of(tmp_path, "a", 0)
    assert table._row(cell, table._running(cell)) == ("a, seeds 0", "waiting", "for a worker")
    leave(cell, RUNNING, began=time.time() - 200)
    assert table._row(cell, table._running(cell)) == ("a, seeds 0", "running", "3 min")
    (cell.folder / "log.txt").write_bytes(b"x" * 900 + b"\n\xff first\nsecond 1%\r second 2%\n")
    assert table._row(cell, table._running(cell))[2] == "3 min, second 2%"
    (cell.folder / "log.txt").write_text(" \n")
    assert table._row(cell, table._running(cell))[2] == "3 min"
    (cell.folder / "cell.json").write_text("{")  # the sweep that looks at it goes on
    assert table._row(cell, table._running(cell))[1] == "waiting"


# ---- the view --------------------------------------------------------------------------------------------------------------------


def view_of(folder: Path, n: int = 3) -> tuple[table.View, list[Cell], dict[str, Status]]:
    cells = [cell_of(folder, "a", seed) for seed in range(n)]
    statuses = {cell.key: Status(TODO) for cell in cells}
    return table.View(cells, statuses, 2, n), cells, statuses


@pytest.mark.parametrize("installed", [True, False], ids=["rich", "no rich"])
def test_lines_are_printed_as_things_happen(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, installed: bool
) -> None:
    if not installed:
        monkeypatch.setattr(table, "find_spec", lambda name: None)
        monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    view, cells, statuses = view_of(tmp_path)
    with view:
        view.show({cells[0].key, cells[1].key, cells[2].key})  # they wait for a worker
        leave(cells[0], RUNNING), leave(cells[1], RUNNING)
        view.show({cells[0].key, cells[1].key})
        view.show({cells[0].key, cells[1].key})
        statuses[cells[0].key] = Status(DONE, seconds=70)
        statuses[cells[1].key] = Status(FAILED, kind="ValueError", reason="no\nmore")
        statuses[cells[2].key] = Status(TODO, kind="TimeIsUp", reason="stopped as asked for")
        view.show(set())
    assert capsys.readouterr().out.splitlines() == [
        "3 cells, 3 of them to do",
        "[0/3] a, seeds 0: running",
        "[0/3] a, seeds 1: running",
        "[1/3] a, seeds 0: done 70 s",
        "[1/3] a, seeds 1: failed ValueError: no more",
    ]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_one_table_that_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    view, cells, statuses = view_of(tmp_path, 12)
    statuses[cells[0].key] = Status(DONE, seconds=100, values=cells[0].values)
    statuses[cells[3].key] = Status(FAILED, kind="ValueError", reason="[bold]no[/bold]\t\x1b[2J\n" + "x" * 200)
    leave(cells[1], RUNNING), leave(cells[2], RUNNING)
    made: list[rich.live.Live] = []
    out = Terminal()
    monkeypatch.setattr("sys.stdout", out)
    console = Console(file=out, force_terminal=True, width=80, height=10, color_system=None)
    monkeypatch.setattr("rich.console.Console", lambda: console)
    monkeypatch.setattr(rich.live, "Live", lambda *words, **options: made.append(LIVE(*words, **options)) or made[-1])
    with view:
        view.show({cell.key for cell in cells[1:3] + cells[4:]})
        lines = console.render_lines(made[0]._live_render)
        shown = ["".join(segment.text for segment in line if not segment.control).rstrip() for line in lines]
        assert len(shown) <= 10 and all(len(line) <= 80 for line in shown)
        assert shown[0].startswith("1 done, 1 failed, 2 running, 8 to do; 0 s so far; expected end ") and "in 9 min" in shown[0]
        assert shown[1].split() == ["a,", "seeds", "1", "running", "0", "s"] and "waiting" in shown[3]
    assert "[bold]no[/bold]  [2J xxx" in out.getvalue() and "expected end" not in out.getvalue().rpartition("so far")[2]


LIVE = rich.live.Live


def test_a_notebook_has_one_output_that_is_updated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []

    def page(table: object) -> str:
        return str(table._repr_mimebundle_([], [])["text/html"])  # type: ignore[attr-defined]

    def display(table: object, display_id: bool) -> SimpleNamespace:
        assert display_id and not shown
        shown.append(page(table))
        return SimpleNamespace(update=lambda table: shown.append(page(table)))

    monkeypatch.setattr("IPython.display.display", display)
    monkeypatch.setattr(table, "_in_notebook", lambda: True)
    view, cells, statuses = view_of(tmp_path)
    with view:
        view.show({cells[0].key})
        statuses[cells[0].key] = Status(FAILED, kind="ValueError", reason="a < b & c")
        view.show({cells[1].key})
    assert len(shown) == 4 and "waiting" in shown[1] and "ValueError: a &lt; b &amp; c" in shown[2]


def test_outside_a_notebook_and_in_one_executed_by_alnb_there_are_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    import IPython

    class ZMQInteractiveShell:
        pass

    assert not table._in_notebook()
    monkeypatch.setattr(IPython, "get_ipython", ZMQInteractiveShell)
    assert table._in_notebook()
    monkeypatch.setenv(BATCH, "1")
    assert not table._in_notebook()


@pytest.mark.slow
def test_a_sweep_in_a_real_kernel(tmp_path: Path, write: Callable[..., Path]) -> None:
    """From a notebook, with kernels that it starts for its cells and for the whole."""
    swept = notebook_of(tmp_path / "swept.ipynb", "seeds: list[int] = [0, 1]  # cells\nruns: str = ''  # there", "print('seeds', seeds)")
    call = f"done = alnb.sweep({str(swept)!r}, {{'runs': {str(tmp_path / 'runs')!r}}}, workers=2)\nprint(done.finished, len(done.reports))"
    content = nbformat.read(write("import alnb", call, tag=False), 4)
    nbclient.NotebookClient(content, resources={"metadata": {"path": str(tmp_path)}}).execute()
    pages = [output.data["text/html"] for output in content.cells[1].outputs if output.output_type == "display_data"]
    assert len(pages) == 1 and "2 done; " in pages[0] and "running" not in pages[0]
    text = "".join(output.text for output in content.cells[1].outputs if output.output_type == "stream")
    assert text == f"2 cells, 2 of them to do\n\nover the whole grid: {swept}\nseeds [0, 1]\nTrue 1\n"
