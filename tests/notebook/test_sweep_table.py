"""A sweep as text: estimates, lines where nobody looks on, a table that stays within a terminal, one output in a notebook."""

import io
import os
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import nbclient
import nbformat
import pytest
from conftest import notebook_of
from hypothesis import given
from hypothesis import strategies as st

from alnb import store
from alnb.notebook.cells import BATCH
from alnb.notebook.sweep import table
from alnb.notebook.sweep.cell import BUSY, DIED, DONE, EMPTY, FAILED, NEW, RUNNING, STOPPED, Cell, Status


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (0.4, "0 s"), (89.4, "89 s"), (90, "2 min"), (600, "10 min"), (5399, "90 min"), (5400, "1.5 h"), (86400, "24.0 h")],
)
def test_lengths_of_time_for_people(seconds: float, words: str) -> None:
    assert table.span(seconds) == words


def test_states_are_counted_in_one_order() -> None:
    states = [RUNNING, DONE, FAILED, DONE, NEW, STOPPED, DIED, BUSY, EMPTY, NEW]
    words = "2 done, 1 no such combination, 1 failed, 1 stopped at a checkpoint, 1 killed, 1 running, 1 in use elsewhere, 2 to do"
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
    leave(cell_of(tmp_path, "b", 1), EMPTY, 1000)
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
    statuses = {cell.key: Status(NEW) for cell in cells}
    statuses[cells[0].key] = Status(DONE, seconds=200)
    statuses[cells[1].key] = Status(FAILED, kind="ValueError", reason="two\nlines " + "x" * 200)
    lines = table.plan(cells, statuses, 7200, 4).splitlines()
    assert lines[0] == "  a, seeds 0   done    3 min" and lines[1].startswith("  a, seeds 1   failed  ValueError: two lines xxx")
    assert lines[2] == "  a, seeds 2   to do" and len(lines) == table.MOST_ROWS + 3 and max(map(len, lines)) <= table.WIDTH
    assert lines[-3:] == [
        "… and 2 more",
        "42 cells: 1 done, 1 failed, 40 to do",
        "the rest may take 2.0 h of work, 30 min on 4 workers, as finished cells suggest",
    ]
    assert table.plan(cells[:1], statuses, 0.0).splitlines()[-1] == "no cell is left to be executed"
    assert table.time_left(None) == "how long the rest takes is not known before one such cell has finished"
    assert table.time_left(60, 1) == "the rest may take 60 s of work, as finished cells suggest"


# ---- how far a cell is -----------------------------------------------------------------------------------------------------------


def run_of(cell: Cell, name: str, finished: int, cycles: int = 3) -> Path:
    folder = cell.below.parent / name
    store.write_json(folder / "manifest.json", {"experiment": {"protocol": {"cycles": cycles}}})
    for cycle in range(finished):
        store.write_json(folder / f"cycle_{cycle:03d}/record.json", {"metrics": {"accuracy": 0.5 + cycle / 10}})
    with open(cell.folder / store.RUNS, "a") as file:
        file.write(os.path.relpath(folder, cell.folder) + "\n")
    return folder


def test_a_cell_that_runs_says_what_it_is_at(tmp_path: Path) -> None:
    cell = cell_of(tmp_path, "a", 0)
    assert table._running(cell, table._begun(cell)) == ("a, seeds 0", "waiting", "for a worker")
    leave(cell, RUNNING, began=time.time() - 200)
    assert table._running(cell, table._begun(cell)) == ("a, seeds 0", "running", "3 min")
    (cell.folder / "log.txt").write_bytes(b"x" * 900 + b"\n\xff first\nsecond 1%\r second 2%\n")
    assert table._running(cell, table._begun(cell))[2] == "3 min, second 2%"
    (cell.folder / "log.txt").write_text(" \n")
    assert table._running(cell, table._begun(cell))[2] == "3 min"
    run_of(cell, "r0", 0)
    assert table._running(cell, table._begun(cell))[2] == "3 min, cycle 0 of 3"
    run_of(cell, "r1", 2)
    assert (
        table._running(cell, table._begun(cell))[2] == "3 min, run 2, cycle 2 of 3, accuracy 60.0%"
        and table._result(cell) == "(accuracy 60.0%)"
    )


@pytest.mark.parametrize("harm", ["record", "manifest", "cell", "gone"])
def test_what_is_damaged_does_not_end_the_sweep_that_looks_at_it(tmp_path: Path, harm: str) -> None:
    cell = cell_of(tmp_path, "a", 0)
    leave(cell, RUNNING)
    folder = run_of(cell, "r", 2)
    names = {"record": folder / "cycle_001/record.json", "manifest": folder / "manifest.json", "cell": cell.folder / "cell.json"}
    if harm == "gone":
        names["record"].unlink()
        names["record"].parent.rmdir()
        names["manifest"].unlink()
    else:
        names[harm].write_text("{")
    name, state, _ = table._running(cell, table._begun(cell))
    assert (name, state) == ("a, seeds 0", "waiting" if harm == "cell" else "running")
    assert table._result(cell) == ("(accuracy 60.0%)" if harm == "cell" else "")


# ---- the view --------------------------------------------------------------------------------------------------------------------


def view_of(folder: Path, n: int = 3) -> tuple[table.View, list[Cell], dict[str, Status]]:
    cells = [cell_of(folder, "a", seed) for seed in range(n)]
    statuses = {cell.key: Status(NEW) for cell in cells}
    return table.View(cells, statuses, "", 2, n), cells, statuses


def test_lines_are_printed_as_things_happen(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    view, cells, statuses = view_of(tmp_path)
    view.link = "http://there"
    with view:
        view.show({cells[0].key, cells[1].key, cells[2].key})  # which wait for a worker
        leave(cells[0], RUNNING), leave(cells[1], RUNNING)
        view.show({cells[0].key, cells[1].key})
        view.show({cells[0].key, cells[1].key})
        leave(cells[0], DONE)
        run_of(cells[0], "r", 3)
        statuses[cells[0].key] = Status(DONE)
        statuses[cells[1].key] = Status(FAILED, kind="ValueError", reason="no\nmore")
        view.show(set())
    assert capsys.readouterr().out.splitlines() == [
        "3 cells, 3 of them to do; the engine's own view: http://there",
        "[0/3] a, seeds 0: running",
        "[0/3] a, seeds 1: running",
        "[1/3] a, seeds 0: done (accuracy 70.0%)",
        "[1/3] a, seeds 1: failed ValueError: no more",
    ]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def screen(text: str, columns: int) -> list[str]:
    """What a terminal shows after such a text: lines that are too long go on in the next one, and the cursor may be moved up."""
    lines, row = [""], 0
    for part in text.split("\n"):
        while part.startswith("\x1b["):
            number, _, rest = part[2:].partition("A")
            assert rest.startswith("\x1b[J"), repr(part)
            row -= int(number)
            assert row >= 0, "above the top"
            del lines[row + 1 :]
            lines[row], part = "", rest[3:]
        assert part.isprintable(), repr(part)
        for start in range(0, max(1, len(part)), columns):
            lines[row] = part[start : start + columns]
            row += 1
            lines.append("")
    return lines


@given(st.integers(20, 120), st.integers(4, 30), st.lists(st.tuples(st.integers(1, 2**5 - 1), st.text(max_size=150)), max_size=4))
def test_a_terminal_shows_one_table_however_small_it_is(columns: int, lines: int, steps: list[tuple[int, str]]) -> None:
    view, cells, statuses = view_of(Path("nowhere"), 5)
    out = Terminal()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdout", out)
        patch.setattr("shutil.get_terminal_size", lambda default: os.terminal_size((columns, lines)))
        with view:
            for submitted, reason in steps:
                handed = {cell.key for k, cell in enumerate(cells) if submitted >> k & 1}
                statuses[cells[0].key] = Status(FAILED, kind="ValueError", reason=reason)
                view.show(handed)
                shown = screen(out.getvalue(), columns)
                assert shown[0] == "5 cells, 5 of them to do"[:columns] or columns < 25
                assert len([line for line in shown if "so far" in line]) <= 1
                assert len(shown) <= max(lines, 3) + 2
                running = sum("for a worker" in line for line in shown)
                assert columns < 60 or running == min(len(handed), max(1, lines - 3))


def test_a_terminal_says_when_it_will_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    view, cells, statuses = view_of(tmp_path, 5)
    statuses[cells[0].key] = Status(DONE, seconds=100, values=cells[0].values)
    out = Terminal()
    monkeypatch.setattr("sys.stdout", out)
    leave(cells[1], RUNNING), leave(cells[2], RUNNING)
    with view:
        view.show({cells[1].key, cells[2].key})
        head = screen(out.getvalue(), 200)[1]
        assert head.startswith("1 done, 2 running, 2 to do; 0 s so far; expected end ") and head.endswith("in 3 min")  # 400 s by two
    assert "expected end" not in screen(out.getvalue(), 200)[1]


def test_a_notebook_has_one_output_that_is_updated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []

    def display(page: SimpleNamespace, display_id: bool) -> SimpleNamespace:
        assert display_id and not shown
        shown.append(page.data)
        return SimpleNamespace(update=lambda page: shown.append(page.data))

    monkeypatch.setattr("IPython.display.display", display)
    monkeypatch.setattr(table, "_in_notebook", lambda: True)
    view, cells, statuses = view_of(tmp_path)
    with view:
        view.show({cells[0].key})
        statuses[cells[0].key] = Status(FAILED, kind="ValueError", reason="a < b & c")
        view.show({cells[1].key})
    assert len(shown) == 3 and '<td style="text-align:left">waiting</td>' in shown[0] and "ValueError: a &lt; b &amp; c" in shown[1]


def test_outside_a_notebook_and_in_one_executed_by_alnb_there_are_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    import IPython

    class ZMQInteractiveShell:
        pass

    assert not table._in_notebook()
    monkeypatch.setattr(IPython, "get_ipython", ZMQInteractiveShell)
    assert table._in_notebook()
    monkeypatch.setenv(BATCH, "1")
    assert not table._in_notebook()


def test_a_sweep_in_a_real_kernel(tmp_path: Path, write: Callable[..., Path]) -> None:
    """From a notebook, with kernels that it starts for its cells and for the whole."""
    swept = notebook_of(tmp_path / "swept.ipynb", "seeds: list[int] = [0, 1]  # cells\nruns: str = ''  # there", "print('seeds', seeds)")
    call = f"done = alnb.sweep({str(swept)!r}, {{'runs': {str(tmp_path / 'runs')!r}}}, workers=2)\nprint(done.finished, len(done.reports))"
    content = nbformat.read(write("import alnb", call, tag=False), 4)
    nbclient.NotebookClient(content, resources={"metadata": {"path": str(tmp_path)}}).execute()
    pages = [output.data["text/html"] for output in content.cells[1].outputs if output.output_type == "display_data"]
    assert len(pages) == 1 and pages[0].startswith("<p>2 done; ") and "running" not in pages[0]
    text = "".join(output.text for output in content.cells[1].outputs if output.output_type == "stream")
    assert text == f"2 cells, 2 of them to do\n\nover the whole grid: {swept}\nseeds [0, 1]\nTrue 1\n"
