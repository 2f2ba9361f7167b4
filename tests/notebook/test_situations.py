"""What people do to notebooks and their parameters: each is done right, or refused at the start in a sentence that names it."""

import datetime
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import numpy
import pytest
from conftest import notebook_of
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from alnb import notebook, store
from alnb.__main__ import _split, main
from alnb.notebook import BadParameter, kernel_free, parameters
from alnb.notebook.execute import NotebookFailed, execute, runs_folder
from alnb.notebook.sweep import engine
from alnb.notebook.sweep.grid import grid, read_file, read_words

PROJECT = Path(__file__).parents[2]
NOTEBOOKS = sorted(p for p in (PROJECT / "notebooks").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)
situation = pytest.mark.situation
PARAMETERS = """\
x: int | None = 1  # a number, or none
y: str | None = None  # a text, or none
z: float | None = None  # a rate, or none
names: list[str] = []  # names
more: list[int] | None = None  # numbers, or none
texts: dict[str, str] = {}  # whatever
any = 3  # of any type
lr: float = 0.1  # rate
name: str = ""  # a text
data: str = ""  # a folder
runs: str = ""  # where records go"""


@pytest.fixture
def user(tmp_path: Path) -> Path:
    """A user's notebook."""
    return notebook_of(tmp_path / "user.ipynb", PARAMETERS, "print(repr((x, y, z, names, more, texts, any, lr, name)))")


def swept(user: Path, text: str) -> dict[str, Any]:
    """The parameters of a sweep file."""
    path = user.parent / "sweep.yaml"
    path.write_text(f"notebook: {user.name}\nparameters:\n{text}", encoding="utf-8")
    return read_file(path)[1]


# ---- types ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("  x: 010", {"x": 10}, marks=situation("B1", "x: int | None; 010 in a sweep file", "10, as the type reads it")),
        pytest.param("  x: None", {"x": None}, marks=situation("B1", "x: int | None; None in a sweep file", "None")),
        pytest.param("  y: None", {"y": None}, marks=situation("B1", "y: str | None; None in a sweep file", "None, no text")),
        pytest.param("  y: 'null'", {"y": "null"}, marks=situation("B1", "y: str | None; 'null' in quotes", "the text")),
        pytest.param("  z: 1e-4", {"z": 1e-4}, marks=situation("B1", "z: float | None; 1e-4 in a sweep file", "0.0001")),
        pytest.param("  z: 1", {"z": 1.0}, marks=situation("B1", "z: float | None; 1 in a sweep file", "1.0, a float")),
        pytest.param("  y: '123'", {"y": "123"}, marks=situation("B1", "y: str | None; '123' in a sweep file", "the text 123")),
        pytest.param("  y: 2024-01-31", {"y": "2024-01-31"}, marks=situation("B1", "y: str | None; a date in a sweep file", "its text")),
        pytest.param(
            "  texts: {a: no, b: 010}",
            {"texts": {"a": "no", "b": "010"}},
            marks=situation("B1", "dict[str, str]; no and 010 in it", "texts"),
        ),
        pytest.param(
            "  more: [3, 0:2]", {"more": [3, 0, 1]}, marks=situation("B1", "list[int] | None; a range in it", "a list of numbers")
        ),
        pytest.param("  any: '10'", {"any": "10"}, marks=situation("B1", "no type; '10' in quotes", "a text")),
        pytest.param("  any: 2024-01-31", {"any": "2024-01-31"}, marks=situation("B6", "no type; 2024-01-31 in a sweep file", "a text")),
        pytest.param(
            "  any: {day: 2024-01-31}", {"any": {"day": "2024-01-31"}}, marks=situation("B6", "no type; a date in a mapping", "a text")
        ),
    ],
)
def test_a_sweep_file_is_read_by_the_notebooks_types(user: Path, text: str, expected: dict[str, Any]) -> None:
    values = swept(user, text)
    assert values == expected and repr(values) == repr(expected)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        pytest.param(["x", "010"], 10, marks=situation("B1", "-p x 010; x: int | None", "10")),
        pytest.param(["y", "123"], "123", marks=situation("B1", "-p y 123; y: str | None", "the text 123")),
        pytest.param(["z", "1"], 1.0, marks=situation("B1", "-p z 1; z: float | None", "1.0")),
        pytest.param(["more", "4"], [4], marks=situation("B1", "-p more 4; list[int] | None", "[4]")),
        pytest.param(["more", "None"], None, marks=situation("B1", "-p more None; list[int] | None", "None")),
    ],
)
def test_the_command_line_is_read_by_the_notebooks_types(user: Path, words: list[str], expected: Any) -> None:
    (value,) = parameters.parse([words], parameters.read(user)).values()
    assert value == expected and type(value) is type(expected)


@pytest.mark.parametrize(
    ("value", "named"),
    [
        pytest.param(datetime.date(2024, 1, 31), "of type date", marks=situation("B6", "sweep(Q, any=date(2024, 1, 31))", "refused")),
        pytest.param({1: 2}, "of type dict", marks=situation("S1", "sweep(Q, any={1: 2}): papermill makes the key a text", "refused")),
        pytest.param(float("nan"), "is nan", marks=situation("S2", "sweep(Q, any=nan): no JSON", "refused")),
        pytest.param({"a": {1, 2}}, "of type dict", marks=situation("S3", "sweep(Q, any={'a': a set})", "refused")),
    ],
)
def test_a_value_that_no_file_holds_is_refused(user: Path, value: Any, named: str) -> None:
    with pytest.raises(BadParameter, match=rf"'any' .*{named}"):
        parameters.check({"any": value}, parameters.read(user))


@situation("D6", "sweep(Q, names=('a',), more=np.arange(3), x=np.int64(2))", "lists and numbers")
def test_numbers_of_numpy_and_ranges_are_numbers_and_lists(user: Path) -> None:
    values = {"more": numpy.arange(3), "x": numpy.int64(2), "names": ("a",), "lr": numpy.float32(0.5)}
    checked = parameters.check(values, parameters.read(user))
    assert repr(checked) == repr({"more": [0, 1, 2], "x": 2, "names": ["a"], "lr": 0.5})
    made = grid(user, {"x": range(2), "more": list(numpy.arange(2))})
    assert [(cell.values["x"], cell.values["more"]) for cell in made.cells()] == [(0, [0]), (0, [1]), (1, [0]), (1, [1])]


@situation("B16", "a parameter twice in a sweep file", "refused; both lines are named")
def test_a_key_that_stands_twice_is_refused(user: Path) -> None:
    with pytest.raises(BadParameter, match="'x' stands in lines 3 and 5"):
        swept(user, "  x: 1\n  y: a\n  x: 2")


@situation("S4", "a sweep file with a BOM and CRLF, as Notepad saves it", "read")
def test_a_sweep_file_of_windows(user: Path) -> None:
    path = user.parent / "windows.yaml"
    path.write_bytes(b"\xef\xbb\xbfnotebook: user.ipynb\r\nparameters:\r\n  name: \xc3\xbc\r\n  x: 1:3\r\n")
    assert read_file(path)[1] == {"name": "ü", "x": [1, 2]}


# ---- the command line ------------------------------------------------------------------------------------------------------------


def run_here(capsys: pytest.CaptureFixture, *arguments: str) -> tuple[int, str, str]:
    """Exit status, output and errors of the command."""
    try:
        status = main(arguments)
    except SystemExit as error:  # of argparse
        status = int(error.code or 0)
    out, err = capsys.readouterr()
    return status, out, err


@pytest.mark.parametrize(
    ("order", "seen"),
    [
        pytest.param(["Q", "-p", "lr", "-1e-3"], "-0.001", marks=situation("B3", "alnb run Q -p lr -1e-3", "lr is -0.001")),
        pytest.param(["Q", "-p", "name", "-x"], "'-x'", marks=situation("B3", "alnb run Q -p name -x", "the text -x")),
        pytest.param(["Q", "-p", "more", "-1", "-2"], "[-1, -2]", marks=situation("B3", "alnb run Q -p more -1 -2", "two numbers")),
        pytest.param(["-p", "lr", "0.5", "Q"], "0.5", marks=situation("B4", "alnb run -p lr 0.5 Q", "Q is the notebook")),
        pytest.param(["-p", "names", "a", "b", "Q"], "['a', 'b']", marks=situation("B4", "alnb run -p names a b Q", "Q is the notebook")),
        pytest.param(
            ["-p", "name", "a b=c", "--kernel-free", "Q"],
            "'a b=c'",
            marks=situation("S5", "alnb run -p name 'a b=c' --kernel-free Q", "run"),
        ),
    ],
)
def test_words_with_a_dash_are_values_and_a_notebook_is_a_notebook(
    user: Path, capsys: pytest.CaptureFixture, order: list[str], seen: str
) -> None:
    places = ["-p", "runs", str(user.parent / "runs"), "--kernel-free"]
    status, out, err = run_here(capsys, "run", *places, *(str(user) if word == "Q" else word for word in order))
    assert status == 0 and seen in out, err


@pytest.mark.parametrize(
    "order",
    [
        pytest.param(["run", "Q", "-p"], marks=situation("S6", "alnb run Q -p", "refused: write -p NAME VALUE")),
        pytest.param(["data", "-p", "x", "1", "digits"], marks=situation("S7", "alnb data -p x 1 digits", "refused")),
        pytest.param(["run", "Q", "-p", "x", "1", "--kernel-fre", "7"], marks=situation("S8", "alnb run Q -p x 1 --dry-rn", "refused")),
    ],
)
def test_a_call_that_means_nothing_is_refused(user: Path, capsys: pytest.CaptureFixture, order: list[str]) -> None:
    status, out, err = run_here(capsys, *(str(user) if word == "Q" else word for word in order))
    assert status == 2 and out == "" and "error: " in err


@situation("B12", "PYTHONIOENCODING=ascii; a run that prints ü, kernel-free and in a cell of a sweep", "printed with replacements")
@pytest.mark.slow
def test_a_terminal_without_a_letter(tmp_path: Path) -> None:
    path = notebook_of(tmp_path / "ü.ipynb", "name: str = ''  # a text\nruns: str = ''  # where", "print('ü', name)")
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONPATH": str(PROJECT), "ALNB_WORKSPACE": str(tmp_path)}
    call = [str(path), "--kernel-free", "-p", "name", "my pics ü", "-p", "runs", str(tmp_path / "runs ü")]
    for command, status in (("run", 0), ("sweep", 0)):
        done = subprocess.run(
            [sys.executable, "-m", "alnb", command, *call], env=environment, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == status and "Traceback" not in done.stderr, done.stderr
        assert "my pics ?" in done.stdout
    (log,) = (tmp_path / "runs ü").rglob("log.txt")
    assert log.read_text(encoding="utf-8") == "ü my pics ü\n"


# ---- notebook files --------------------------------------------------------------------------------------------------------------


def latin(path: Path) -> None:
    path.write_bytes(path.read_text(encoding="utf-8").replace("a rate", "ein Maß").encode("latin-1"))


def bom(path: Path) -> None:
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())


def old(path: Path) -> None:
    path.write_text(json.dumps({"nbformat": 3, "nbformat_minor": 0, "metadata": {}, "worksheets": [{"cells": []}]}))


def magic(path: Path) -> None:
    notebook_of(path, "x: int = 1  # a number\n%matplotlib inline", "print(x)")


def merged(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    path.write_text(f"<<<<<<< HEAD\n{text}\n=======\n{text}\n>>>>>>> other\n")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:500])


@pytest.mark.parametrize(
    ("harm", "named"),
    [
        pytest.param(latin, "in UTF-8 .*byte 0xdf in position", marks=situation("B9", "a notebook in Latin-1", "refused: byte and line")),
        pytest.param(bom, "BOM", marks=situation("B9", "a notebook with a BOM", "refused: save it without")),
        pytest.param(old, "nbformat 4", marks=situation("B9", "a notebook of nbformat 3", "refused: open it and save it")),
        pytest.param(
            magic, r"line 2 of cell \[1\].*%matplotlib", marks=situation("B9", "%matplotlib among the parameters", "refused: line")
        ),
        pytest.param(merged, "is not a notebook", marks=situation("S9", "a notebook with marks of a merge", "refused")),
        pytest.param(cut, "is not a notebook", marks=situation("S10", "a notebook cut in two", "refused")),
    ],
)
def test_a_file_that_is_no_notebook_is_named_with_what_is_wrong(
    user: Path, capsys: pytest.CaptureFixture, harm: Callable[[Path], None], named: str
) -> None:
    harm(user)
    for call in (["run", str(user)], ["run", str(user), "--help-notebook"], ["sweep", str(user), "--dry-run"]):
        status, _, err = run_here(capsys, *call)
        assert status == 2 and str(user) in err and len(err) < 400
        with pytest.raises(BadParameter, match=named):
            parameters.read(user)


@situation("S11", "a notebook in a folder called a{b} {lr}", "executed there: papermill formats paths, we do not")
@pytest.mark.slow
def test_a_path_with_braces(tmp_path: Path) -> None:
    (tmp_path / "a{b} {lr}").mkdir()
    path = notebook_of(tmp_path / "a{b} {lr}/n{}.ipynb", "lr: float = 0.1  # rate", "print(lr)")
    out = execute(path, {"lr": 0.5}, tmp_path / "a{b} {lr}/out{lr}.ipynb")
    assert out.name == "out{lr}.ipynb" and "0.5" in nbformat.read(out, 4).cells[2]["outputs"][0]["text"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a{b} {lr}"]


# ---- plain papermill -------------------------------------------------------------------------------------------------------------


def plainly(path: Path, values: dict[str, Any]) -> None:
    """The cells `parameters` and `check`, with values that nobody looked at between them, as papermill alone does."""
    names: dict[str, Any] = {}
    for cell in parameters.code_cells(path):
        if {"parameters", "check"} & set(cell.tags):
            exec(compile(cell.text, f"{path.name}, cell {cell.number}", "exec"), names)
        if "parameters" in cell.tags:
            names.update(values)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.relative_to(PROJECT / "notebooks").with_suffix("").as_posix())
@situation("B14", "papermill alone, each parameter of each notebook with a wrong type", "its check cell says what the command would")
def test_papermill_alone_says_what_the_command_would(path: Path) -> None:
    known = parameters.read(path)
    plainly(path, {})
    for name, parameter in known.items():
        wrong = ["0"] if parameter.annotation == "list[int]" else "from scratch" if parameter.annotation != "str" else 3
        with pytest.raises(BadParameter, match=f"parameter {name!r} is ") as ours:
            plainly(path, {name: wrong})
        with pytest.raises(BadParameter) as command:
            parameters.check({name: wrong}, known)
        assert str(command.value).startswith(str(ours.value))


@situation("B14", "notebook.check(globals()) after other annotated names of a user's notebook", "only parameters count")
def test_a_users_other_annotations_are_no_parameters(write: Callable[..., Path]) -> None:
    path = write("a: int = 3  # how many", ("check", "from alnb import notebook\nb: complex = 1j\nnotebook.check(globals())"))
    plainly(path, {"a": 4})
    with pytest.raises(BadParameter, match=r"'a' is 1\.5"):
        plainly(path, {"a": 1.5})


# ---- told at the start -------------------------------------------------------------------------------------------------------------

TEXTS = {"strategy": "randm", "strategies": ["randm"], "features": "resnet", "arm": "scratsh", "arms": ["scratsh"], "scale": "smok"}
TEXTS |= {"embedding": "pixls", "preset": "papre", "tasks": ["rotatoin"], "beside": "margn", "dataset": "cifar01", "device": "cdua"}
NAMED = [(path, name) for path in NOTEBOOKS for name in TEXTS if name in parameters.read(path)]


@pytest.mark.parametrize(
    ("path", "name"), [pytest.param(*pair, id=f"{pair[0].stem}-{pair[1]}") for pair in NAMED if pair[0].stem != "figure5b"]
)
@situation("C15", "a misspelt name in each parameter of each notebook, such as label -p strategy margn", "refused before a kernel starts")
def test_a_misspelt_name_is_refused_before_anything_starts(path: Path, name: str, capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    words = TEXTS[name] if isinstance(TEXTS[name], list) else [TEXTS[name]]
    status, out, err = run_here(capsys, "run", str(path), "-p", "runs", str(tmp_path), "-p", name, *words)
    assert status == 2 and words[0] in err and out == "" and not list(tmp_path.rglob("*"))
    assert "did you mean" in err.lower() or name in ("dataset", "device")


@situation("A19", "a folder with fewer images than the protocol asks for, in the arm warm", "refused before the pre-training")
@pytest.mark.slow
def test_a_folder_smaller_than_the_protocol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image

    for label, k in ((label, k) for label in range(2) for k in range(8)):
        (tmp_path / f"few/class{label}").mkdir(parents=True, exist_ok=True)
        Image.new("L", (16, 16), 9 * k).save(tmp_path / f"few/class{label}/{k}.png")
    monkeypatch.setattr("alnb.papers.quickstart.start", lambda *args, **options: pytest.fail("it has begun to train"))
    values = {"dataset": str(tmp_path / "few"), "arms": ["warm"], "scale": "smoke", "runs": str(tmp_path), "budget": 50, "device": "cpu"}
    with pytest.raises(NotebookFailed, match=r"asks for 104 labels .* the pool has 1[0-9] unlabelled images"):
        kernel_free.execute(PROJECT / "notebooks/quickstart.ipynb", values)


@pytest.mark.parametrize(
    ("option", "named"),
    [
        pytest.param("folder", "is a folder", marks=situation("S12", "alnb run Q -o FOLDER", "refused before it runs")),
        pytest.param(
            "user.ipynb", "the notebook itself", marks=situation("S13", "alnb run Q -o Q", "refused: it would replace the notebook")
        ),
        pytest.param("file/out.ipynb", "cannot write", marks=situation("S14", "alnb run Q -o below a file", "refused before it runs")),
        pytest.param("x" * 300 + "/o.ipynb", "cannot write", marks=situation("S15", "a folder's name of 300 bytes for -o", "refused")),
    ],
)
def test_a_place_for_the_copy_that_is_none_is_refused_before_it_runs(
    user: Path, capsys: pytest.CaptureFixture, option: str, named: str
) -> None:
    (user.parent / "folder").mkdir()
    (user.parent / "file").touch()
    before = user.read_bytes()
    places = ["-p", "runs", str(user.parent / "runs"), "-o", str(user.parent / option)]
    status, _, err = run_here(capsys, "run", str(user), *places)
    assert status in (1, 2) and named in err and user.read_bytes() == before


@situation("S16", "a disk with 7 MB free", "refused at the start, with the number")
def test_a_disk_that_is_nearly_full(user: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine.shutil, "disk_usage", lambda folder: type("usage", (), {"free": 7e6}))
    for command in ("run", "sweep"):
        status, _, err = run_here(capsys, command, str(user), "--kernel-free", "-p", "runs", str(user.parent / "runs"))
        assert status == 1 and "only 7 MB are free" in err and "runs FOLDER" in err


@situation("S17", "alnb run Q, of which a sweep has finished cells", "prints how long it may take")
def test_what_a_sweep_knows_the_time_of_is_told(user: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    made = grid(user, {"names": ["a", "b"], "runs": str(user.parent / "runs")})
    first = made.cells()[0]
    from alnb.notebook.sweep import cell as cells_of

    cells_of._write(first, cells_of.Status(cells_of.DONE, 1, 120.0, core=cells_of.core_version()))
    engine.plan(user, {"names": ["a", "b"], "runs": str(user.parent / "runs")})
    out = capsys.readouterr().out
    assert "the rest may take 2 min of work" in out and f"results go to {user.parent / 'runs'} (" in out


@situation("D11", "a working folder that is not to be written to, -p runs elsewhere", "nothing is written to ./runs")
def test_all_that_is_written_is_below_runs(user: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("ALNB_WORKSPACE", str(tmp_path / "work"))
    written: list[Path] = []
    monkeypatch.setattr("papermill.execute_notebook", lambda path, out, **options: (Path(out).touch(), written.append(Path(out))))
    out = execute(user, {"runs": str(tmp_path / "elsewhere")})
    assert out.is_relative_to(tmp_path / "elsewhere/user/notebooks") and out.exists() and len(written) == 1
    assert main(["run", str(user), "-p", "runs", "../elsewhere"]) == 0
    assert main(["run", str(user), "-p", "runs", str(tmp_path / "elsewhere"), "--kernel-free"]) == 0
    assert not list((tmp_path / "work").iterdir()) and runs_folder({"runs": "../elsewhere"}).samefile(tmp_path / "elsewhere")


# ---- the folder that a parameter names ---------------------------------------------------------------------------------------------


def key(user: Path, **values: Any) -> str:
    (cell,) = grid(user, {"names": [], **values}).cells()
    return cell.key


def pictures(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return folder


def add(folder: Path) -> None:
    pictures(folder, "a/2.png")


def remove(folder: Path) -> None:
    (folder / "a/1.png").unlink()


def rename(folder: Path) -> None:
    (folder / "a").rename(folder / "b")


def edit(folder: Path) -> None:
    (folder / "a/1.png").write_text("another picture")


def behind_a_link(folder: Path) -> None:
    (folder.parent / "real/2.png").write_text("2")


def nothing(folder: Path) -> None:
    pictures(folder, ".hidden", "alnb-labels/labels.jsonl", "runs/cells/x/cell.json")
    (folder / "a/lost.png").symlink_to("nowhere")
    (folder / "a/again").symlink_to("..")  # a loop


@pytest.mark.parametrize(
    ("change", "another"),
    [
        pytest.param(add, True, marks=situation("D7", "a sweep of -p data pics; an image is added", "other cells: it is computed again")),
        pytest.param(remove, True, marks=situation("D7", "an image is removed", "other cells")),
        pytest.param(rename, True, marks=situation("D7", "a class folder is renamed", "other cells")),
        pytest.param(edit, True, marks=situation("D7", "an image is replaced", "other cells")),
        pytest.param(behind_a_link, True, marks=situation("S18", "an image is added behind a link to a class folder", "other cells")),
        pytest.param(nothing, False, marks=situation("S19", "labels, hidden files, its own runs, a loop of links", "the same cells")),
    ],
)
def test_a_cell_is_of_the_files_that_a_parameter_names(
    user: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None], another: bool
) -> None:
    folder = pictures(tmp_path / "pics", "a/1.png")
    pictures(tmp_path / "real", "1.png")
    (folder / "linked").symlink_to(tmp_path / "real")
    monkeypatch.chdir(tmp_path)
    values = {"data": "pics", "runs": str(folder / "runs")}
    before = key(user, **values)
    assert key(user, **values) == before
    change(folder)
    assert (key(user, **values) != before) == another


@situation("D7", "two projects with a folder `images` and one -p runs", "cells of their own")
def test_two_folders_of_one_name(user: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = set()
    for project, name in (("one", "a/1.png"), ("two", "a/2.png")):
        pictures(tmp_path / project / "images", name)
        monkeypatch.chdir(tmp_path / project)
        keys.add(key(user, data="images", runs=str(tmp_path / "runs")))
    assert len(keys) == 2


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("x" * 255, marks=situation("S20", "a value of 255 bytes that could be a file's name", "a cell")),
        pytest.param("x" * 5000, marks=situation("S21", "a value of 5,000 bytes", "a cell")),
        pytest.param("~nobody-of-this-name/x", marks=situation("S22", "a value that begins with ~nobody", "a cell")),
        pytest.param("a\udcffb", marks=situation("S23", "a value of bytes that are no UTF-8", "a cell")),
    ],
)
def test_values_that_are_no_paths(user: Path, name: str) -> None:
    made = key(user, data=name)
    assert made.isascii() and len(made) < 100


# ---- properties ------------------------------------------------------------------------------------------------------------------

TEXT = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\x00"), max_size=12)
FLOAT = st.floats(allow_nan=False, allow_infinity=False)
INT = st.integers(-(10**20), 10**20)
BASE = {"int": INT, "float": FLOAT, "str": TEXT, "bool": st.booleans()}
OF = {
    **BASE,
    **{f"list[{name}]": st.lists(values, max_size=4, unique=True) for name, values in BASE.items()},
    **{f"dict[str, {name}]": st.dictionaries(TEXT, values, max_size=3) for name, values in BASE.items()},
}
TYPES = {**OF, **{f"{name} | None": st.none() | values for name, values in OF.items()}}
VALUES = st.sampled_from(sorted(TYPES)).flatmap(lambda name: st.tuples(st.just(name), TYPES[name]))


def as_words(value: Any, annotation: str) -> list[str]:
    """What a person types."""
    if isinstance(value, list) and value and not (len(value) == 1 and str(value[0]).startswith("[")):
        return [as_words(item, annotation)[0] for item in value]
    return [value if isinstance(value, str) else repr(value) if isinstance(value, bool | None) else json.dumps(value)]


@given(VALUES)
@settings(max_examples=300, deadline=None)
@situation("P1", "any value of any type, by the command line", "the notebook gets it, and the manifest holds it")
def test_a_value_survives_the_command_line_papermill_and_the_manifest(pair: tuple[str, Any]) -> None:
    annotation, value = pair
    known = {"p": parameters.Parameter("p", annotation, "None", "")}
    words = as_words(value, annotation)
    assume(not any(word.startswith("--") or word in ("-p", "-o", "-h") for word in words))  # options
    assume("| None" not in annotation or value is None or words[0] not in ("None", "null"))  # which mean None there
    assume(not (annotation.startswith("list[str]") and len(words) == 1 and words[0].startswith("[") and value != []))
    rest, (entry,) = _split(["run", "n.ipynb", "-p", "p", *words])
    parsed = parameters.parse([entry], known)["p"]
    assert rest == ["run", "n.ipynb"] and parsed == value and repr(parsed) == repr(value)
    arrives(parsed)


def arrives(value: Any) -> None:
    """By papermill's cell, by the file of a cell without Jupyter, and in a manifest, read back."""
    from papermill.translators import PythonTranslator

    names: dict[str, Any] = {}
    exec(PythonTranslator.codify({"p": value}), names)
    stored = json.loads(store.encode({"values": {"p": value}}))["values"]["p"]
    assert repr(names["p"]) == repr(value) == repr(stored)
    described = store.describe(value)
    assert described == value and json.loads(store.encode({"p": described}))["p"] == described


@given(VALUES)
@settings(max_examples=150, deadline=None)
@situation("P2", "any value of any type, by a sweep file", "the notebook gets it, whatever YAML makes of it")
def test_a_value_survives_a_sweep_file(tmp_path_factory: pytest.TempPathFactory, pair: tuple[str, Any]) -> None:
    import yaml

    annotation, value = pair
    assume(annotation.startswith("str") or value not in (["None"], "None"))
    folder = tmp_path_factory.getbasetemp()
    path = notebook_of(folder / "typed.ipynb", f"p: {annotation} = None  # of any type")
    text = yaml.safe_dump({"notebook": path.name, "over": [], "parameters": {"p": value}}, allow_unicode=True, sort_keys=False)
    assume("None" not in text or "| None" not in annotation)  # YAML writes the text None without quotes
    (folder / "typed.yaml").write_text(text, encoding="utf-8", newline="")
    (read,) = read_file(folder / "typed.yaml")[1].values()
    if isinstance(value, list) and "list" not in annotation:  # an axis
        return
    assert read == value and repr(read) == repr(value)
    assert read_words(path, [["p", value]]) == {"p": value}


@given(TEXT)
@settings(max_examples=100, deadline=None)
@situation("X1", "any text as a parameter, such as '\"; import os #'", "a text in the kernel, never code")
def test_a_text_is_never_executed(text: str) -> None:
    arrives(text)
    arrives('"; raise SystemExit("executed")  # ' + text)


def test_check_of_the_notebook_room_is_public() -> None:
    assert notebook.check({"__annotations__": {"a": int}, "a": 3}) is None


# ---- a second sweep of our own ------------------------------------------------------------------------------------------------------


@situation("S24", "-p more 0:1000000000", "refused at once, not a list of 8 GB")
def test_a_range_without_end(user: Path) -> None:
    for text in ("0:1000000000", f"0:{10**30}"):
        with pytest.raises(BadParameter, match=f"{text} has more than 100,000 numbers"):
            read_words(user, [["more", text]])
    assert len(parameters.parse([["more", "0:100000"]], parameters.read(user))["more"]) == 100_000


@situation("S25", "two cells tagged `parameters`", "refused: a kernel and a run without one would differ")
def test_two_cells_of_parameters(tmp_path: Path) -> None:
    path = notebook_of(tmp_path / "two.ipynb", "a: int = 3  # one", ("parameters", "a: int = 4  # two"), "print(a)")
    with pytest.raises(BadParameter, match=r"two\.ipynb has 2 cells of parameters"):
        parameters.read(path)


@situation("S26", "an executed copy, executed again without Jupyter with other values", "the new values count")
def test_the_values_of_an_executed_copy_do_not_count(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    path = notebook_of(tmp_path / "copy.ipynb", "a: int = 3  # one", ("injected-parameters", "a = 9"), "print('a is', a)")
    kernel_free.execute(path, {"a": 5})
    assert capfd.readouterr().out == "a is 5\n"


@situation("S28", "alnb sweep good.yaml bad.yaml", "refused before the first begins")
def test_all_files_are_read_before_the_first_begins(user: Path, capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text(f"notebook: user.ipynb\nparameters: {{x: 1:3, runs: {tmp_path / 'runs'}}}")
    bad.write_text("notebook: user.ipynb\nparameters: {x: a}")
    status, out, err = run_here(capsys, "sweep", str(good), str(bad), "--kernel-free")
    assert status == 2 and str(bad) in err and "'x' is 'a'" in err and out == "" and not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("  any: &a [1, *a]", marks=situation("S29", "a list in itself in a sweep file (&a [1, *a])", "refused")),
        pytest.param(
            "  any: &a [1, 2]\n  names: [*a, *a]", marks=situation("S30", "aliases in a sweep file: nine levels make 10^9 items", "refused")
        ),
    ],
)
def test_aliases_are_refused(user: Path, text: str) -> None:
    with pytest.raises(BadParameter, match=r"cannot be read: line [34] has a \*"):
        swept(user, text)


@situation("S31", "a notebook of 100,000 brackets in one another", "refused, no traceback")
def test_json_without_a_floor(user: Path) -> None:
    user.write_text("[" * 100_000)
    with pytest.raises(BadParameter, match="is not a notebook"):
        parameters.read(user)


@situation("S32", "runs: ~/x in a sweep file, where no shell expands it", "the home folder, not a folder called ~")
def test_home_is_home(user: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    values = swept(user, "  runs: ~/x\n  name: ~/x")
    assert values == {"runs": str(tmp_path / "home/x"), "name": "~/x"} and grid(user, values).root == tmp_path / "home/x"


@situation("S33", "a text of bytes that are no UTF-8, such as a file's name, in a kernel", "refused; no copy that looks finished")
@pytest.mark.slow
def test_a_text_that_is_no_utf8(user: Path) -> None:
    out = user.parent / "out.ipynb"
    with pytest.raises((NotebookFailed, BadParameter), match=r"name|surrogates"):
        execute(user, {"name": "a\udcffb"}, out)
    assert not out.exists() and not out.with_suffix(".running.ipynb").exists()


@situation("S34", "alnb run Q while a sweep's cell.json is damaged", "runs: its time is not known")
def test_a_damaged_cell_is_no_reason_not_to_run(user: Path, capsys: pytest.CaptureFixture) -> None:
    values = {"names": ["a"], "runs": str(user.parent / "runs")}
    (cell,) = grid(user, values).cells()
    cell.folder.mkdir(parents=True)
    (cell.folder / "cell.json").write_text("{")
    engine.plan(user, values)
    assert "may take" not in capsys.readouterr().out


@situation("S35", "a notebook's name of 246 bytes", "swept: no file's name is longer than its file system allows")
@pytest.mark.slow
def test_a_notebook_with_a_long_name(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = notebook_of(tmp_path / f"{'n' * 240}.ipynb", "a: int = 3  # one\nruns: str = ''  # where", "print('a is', a)")
    status, out, err = run_here(capsys, "sweep", str(path), "--kernel-free", "-p", "a", "1", "2", "-p", "runs", str(tmp_path / "runs"))
    assert status == 0 and "2 cells: 2 done" in out, err
