"""A notebook's experiment without Jupyter: as a kernel would have done it, also where there is torch and little else."""

import json
import linecache
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from bare import LITTLE_ELSE, site_without
from sweeping import CYCLES, experiment_of, table

from alnb import store
from alnb.__main__ import main
from alnb.notebook import BadParameter, kernel_free
from alnb.notebook.cells import BATCH
from alnb.notebook.execute import NotebookFailed, execute
from alnb.store.stop import TimeIsUp

PROJECT = Path(__file__).parents[2]
QUICKSTART = PROJECT / "notebooks/quickstart.ipynb"


# ---- cells -----------------------------------------------------------------------------------------------------------------------


def test_cells_are_executed_in_order_but_those_that_report(write: Callable[..., Path], capfd: pytest.CaptureFixture) -> None:
    path = write(
        "a: int = 3  # how many\nb: list[int] = [1]  # which", "a += 1", ("report", "print(1 / 0)"), ("check", "a *= 2"), "print(a, b)"
    )
    kernel_free.execute(path, {"a": 5})
    kernel_free.execute(path, {"b": [2, 3]})
    assert capfd.readouterr().out == "12 [1]\n8 [2, 3]\n"


def test_it_is_a_main_program_of_its_own_and_leaves_no_trace(
    write: Callable[..., Path], capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(
        "b: list[int] = []  # changed below",
        "import os, sys, __main__\nb.append(1)\nprint(__name__, __main__.b, sys.modules['__main__'] is __main__, os.environ['ALNB_BATCH'])",
    )
    values, before = {"b": [7]}, sys.modules["__main__"]
    for batch in (None, "0"):
        monkeypatch.delenv(BATCH, raising=False)
        if batch is not None:
            monkeypatch.setenv(BATCH, batch)
        kernel_free.execute(path, values)
        assert os.environ.get(BATCH) == batch and sys.modules["__main__"] is before and values == {"b": [7]}
    assert capfd.readouterr().out == "__main__ [7, 1] True 1\n" * 2
    assert "b" not in vars(before)


def test_only_the_check_is_executed_to_examine(write: Callable[..., Path], capfd: pytest.CaptureFixture) -> None:
    path = write(
        "a: int = 3  # how many", ("check", "print('looked')\nassert a < 9, f'a is {a}'"), "print('executed')", ("report", "1 / 0")
    )
    kernel_free.examine(path, {"a": 8})
    with pytest.raises(NotebookFailed) as error:
        kernel_free.examine(path, {"a": 9})
    assert (error.value.kind, error.value.reason) == ("AssertionError", "a is 9") and capfd.readouterr() == ("", "")
    with pytest.raises(BadParameter, match="'a' is 'x'"):
        kernel_free.examine(path, {"a": "x"})
    with pytest.raises(BadParameter, match="no parameter 'c'"):
        kernel_free.execute(path, {"c": 1})


# ---- errors ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "kind", "reason"),
    [
        ("x = 1\nraise KeyError('figure')", "KeyError", "'figure'"),
        (
            "import no_such_package.part",
            "ModuleNotFoundError",
            "install no_such_package, or tag the cell `report` if it only shows results",
        ),
        ("%matplotlib inline", "SyntaxError", "without Jupyter only plain Python runs: tag the cell `report`"),
        ("!ls", "SyntaxError", "without Jupyter only plain Python runs"),
        ("import sys\nsys.exit('enough')", "SystemExit", "enough"),
        ("import sys\nsys.exit(3)", "SystemExit", "3"),
    ],
)
def test_an_error_names_its_cell_and_what_helps(
    write: Callable[..., Path], capsys: pytest.CaptureFixture, source: str, kind: str, reason: str
) -> None:
    path = write("a: int = 3  # how many", ("report", "shown = 1"), source, "print('not reached')")
    with pytest.raises(NotebookFailed, match=rf"cell \[3\] of {path} raised {kind}: ") as error:
        kernel_free.execute(path, {})
    assert error.value.kind == kind and reason in error.value.reason and reason in str(error.value)
    out, errors = capsys.readouterr()
    assert out == "" and ("Traceback" in errors) == (kind != "SystemExit")
    if kind == "KeyError":
        assert "<cell [3] of made.ipynb>" in errors and "raise KeyError('figure')" in errors  # the line itself is shown


def test_a_notebook_may_end_early_as_with_papermill(write: Callable[..., Path], capfd: pytest.CaptureFixture) -> None:
    kernel_free.execute(write("a: int = 3  # how many", "import sys\nprint('first')\nsys.exit()", "print('second')"), {})
    kernel_free.execute(write("a: int = 3  # how many", "import sys\nsys.exit(0)", "print('second')"), {})
    assert capfd.readouterr().out == "first\n"


def test_who_was_asked_to_stop_has_not_failed(write: Callable[..., Path], capsys: pytest.CaptureFixture) -> None:
    path = write("a: int = 3  # how many", "from alnb.store.stop import TimeIsUp\nraise TimeIsUp('stopped')")
    with pytest.raises(TimeIsUp, match="stopped"):
        kernel_free.execute(path, {})
    assert capsys.readouterr().err == ""


def test_the_command(write: Callable[..., Path], capfd: pytest.CaptureFixture) -> None:
    path = write("a: int = 3  # how many", "assert a < 9, f'a is {a}'\nprint('a is', a)")
    assert main(["run", str(path), "--kernel-free", "-p", "a", "7"]) == 0
    place, *lines = capfd.readouterr().out.splitlines()
    assert "results go to " in place and lines == ["a is 7", "runs complete. Run again with Jupyter to draw the figures"]
    assert main(["run", str(path), "--kernel-free", "-p", "a", "9"]) == 1
    assert f"alnb: cell [2] of {path} raised AssertionError: a is 9" in capfd.readouterr().err
    assert main(["run", str(path), "--kernel-free", "-p", "a", "x"]) == 2


# ---- the same as in a kernel -----------------------------------------------------------------------------------------------------

DESCRIBED = """\
from dataclasses import dataclass
from functools import partial

from alnb import store

SETTING = 2


@dataclass(frozen=True)
class Margin:
    power: float = 1.0

    def __call__(self, query: "Query") -> int:
        return SETTING


def plain(query: int, n: int = 3) -> int:
    # a comment is a part of it
    return query * SETTING + n


def made(k):
    def inner(x):
        return x + k

    return inner


first, second = lambda x: x + 1, lambda x: x + 2
shift = lambda x, generator: (x + 0.0, None)"""  # the last line of a cell, without an end
WRITTEN = """\
import json
from pathlib import Path

def last(x): return [y for y in range(x)]
things = [plain, made(1), made(2), first, second, shift, last, partial(plain, n=4), Margin(2.0), Margin]
described = [store.describe(thing) for thing in things]
Path(where).write_text(json.dumps([described, str(plain.__annotations__["query"])]))"""


@pytest.mark.slow
def test_runs_are_those_of_a_kernel_and_so_is_what_they_are_named_by(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    """One real kernel: functions of a notebook are described alike, run folders have the same names, records the same bits."""
    path = experiment_of(tmp_path, ("", DESCRIBED), ("", f"where = runs + '/described.json'\n{WRITTEN}"))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    values = {name: {"strategies": ["nearly_tied"], "seeds": [3], "runs": str(tmp_path / name)} for name in ("with", "without")}
    execute(path, values["with"], tmp_path / "out.ipynb", environment={"OMP_NUM_THREADS": "1"})
    (tmp_path / "without").mkdir()
    kernel_free.execute(path, values["without"])
    described = [json.loads((tmp_path / name / "described.json").read_text()) for name in values]
    assert described[0] == described[1] and len({json.dumps(one) for one in described[0][0]}) == 10
    assert described[1][1] == "<class 'int'>"  # no `from __future__` came from somewhere else
    tables = [table(tmp_path / name) for name in values]
    assert tables[0] == tables[1] and len(tables[0]) == 2 and not tables[0]["left behind"]
    (run,) = (tmp_path / "with").glob("nearly_tied-*")
    manifests = [store.read_json(tmp_path / name / run.name / "manifest.json") for name in values]
    for manifest in manifests:
        del manifest["environment"]["commit"]  # which somebody may make while the tests run
    assert manifests[0] == manifests[1]
    before = {p: p.stat().st_mtime_ns for p in run.rglob("record.json")}
    kernel_free.execute(path, values["with"])  # what the other made is complete
    assert {p: p.stat().st_mtime_ns for p in run.rglob("record.json")} == before and len(before) == CYCLES
    capfd.readouterr()


def test_a_function_is_what_it_is_in_a_kernel(write: Callable[..., Path]) -> None:
    """Its source ends in a line end, also where the cell does not, and its annotations are no texts."""
    looked = "import inspect\nassert (inspect.getsource(f), f.__annotations__) == ('def f(x: int):\\n    return x\\n', {'x': int})"
    path = write("a: int = 3  # how many", "def f(x: int):\n    return x", looked)
    kernel_free.execute(path, {})
    assert linecache.getline("<cell [2] of made.ipynb>", 2) == "    return x\n"


# ---- torch and little else -------------------------------------------------------------------------------------------------------


@pytest.fixture
def bare(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess]:
    """Runs a program, and what that starts, where the packages of `LITTLE_ELSE` are not importable."""
    surroundings = {"PYTHONPATH": str(site_without(LITTLE_ELSE, tmp_path)), "OMP_NUM_THREADS": "1", "ALNB_WORKSPACE": str(tmp_path)}

    def run(*arguments: str) -> subprocess.CompletedProcess:
        command = [sys.executable, *arguments]
        return subprocess.run(
            command, cwd=PROJECT, env={**os.environ, **surroundings}, capture_output=True, text=True, timeout=300, check=False
        )

    return run


@pytest.mark.slow
def test_the_quickstart_where_there_is_torch_and_little_else(
    bare: Callable[..., subprocess.CompletedProcess], tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    """By `alnb run`, by `alnb sweep`, which finds what is there, and then here with all packages, where all is there."""
    few = ["-p", "scale", "smoke", "-p", "seeds", "0", "-p", "device", "cpu", "-p", "runs", str(tmp_path / "runs")]
    lone = bare("-m", "alnb", "run", str(QUICKSTART), *few, "-p", "strategies", "random", "-p", "arms", "scratch")  # unasked
    assert lone.returncode == 0, lone.stdout + lone.stderr
    assert "runs complete" in lone.stdout and "of 3" in lone.stderr  # lines in the place of a bar
    first = {p: p.stat().st_mtime_ns for p in (tmp_path / "runs").rglob("record.json")}
    both = ["-p", "strategies", "random", "margin", "-p", "arms", "scratch"]
    swept = bare("-m", "alnb", "sweep", "--kernel-free", str(QUICKSTART), *few, *both, "--workers", "2", "--threads", "1")
    assert swept.returncode == 0, swept.stdout + swept.stderr
    assert "2 cells: 2 done" in swept.stdout and "papermill is not installed here" in swept.stderr
    second = {p: p.stat().st_mtime_ns for p in (tmp_path / "runs").rglob("record.json")}
    assert len(first) == 3 and len(second) == 6 and first.items() <= second.items()
    values = {"scale": "smoke", "seeds": [0], "device": "cpu", "runs": str(tmp_path / "runs"), "arms": ["scratch"]}
    kernel_free.execute(QUICKSTART, {**values, "strategies": ["random", "margin"]})
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "runs").rglob("record.json")} == second
    capfd.readouterr()


@pytest.mark.slow
def test_where_nothing_is_installed_what_needs_it_says_so(bare: Callable[..., subprocess.CompletedProcess], tmp_path: Path) -> None:
    script = f"""
import sys
from pathlib import Path
from alnb.__main__ import main
print(sorted(set(sys.modules) & {set(LITTLE_ELSE)!r}))
print(main(["sweep", "some.yaml"]))
print(main(["sweep", {str(QUICKSTART)!r}, "--dry-run", "-p", "download", "true", "-p", "seeds", "[0, 1]", "-p", "strategies", "entropi"]))
print(main(["sweep", {str(QUICKSTART)!r}, "--scheduler", "tcp://127.0.0.1:1", "-p", "scale", "smoke"]))
"""
    done = bare("-c", script)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["[]", "2", "2", "2"]
    assert "sweep file some.yaml needs PyYAML" in done.stderr and "strategy 'entropi' is not known" in done.stderr
    assert "needs dask.distributed" in done.stderr
