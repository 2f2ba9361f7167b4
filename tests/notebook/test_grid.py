"""What a sweep is made of: cells, their keys, the reports over the whole, and all that is wrong before anything starts."""

import itertools
import json
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import notebook_of
from hypothesis import given, settings
from hypothesis import strategies as st

from alnb.notebook import BadParameter, kernel_free, parameters
from alnb.notebook.execute import NotebookFailed
from alnb.notebook.sweep.grid import Grid, grid, read_file, read_words

PROJECT = Path(__file__).parents[2]
PARAMETERS = """\
strategies: list[str] = ["random", "margin"]  # names
seeds: list[int] = [0, 1, 2]  # one run for each
regimes: list[float] = []  # empty: what the scale says
dataset: str = "digits"  # which images
lr: float = 0.1  # of the nets
cycles: int = 3  # points on the curve
limit: int | None = None  # of images
settings: dict[str, int] = {}  # whatever else
download: bool = False  # fetch them
runs: str = ""  # where records go
figures: str = ""  # where figures go"""
CHECK = """\
from alnb import acquire, notebook

class NothingToRun(Exception): pass  # its name counts

notebook.choose(acquire.STRATEGIES, strategies, "strategy")
notebook.choose({"digits": 0, "cifar10": 0, "nothing": 0}, dataset, "dataset")
print("seen by nobody")
if strategies == ["kcenter"] and dataset == "digits":
    raise NothingToRun("kcenter is not for digits")
assert not (set(strategies) == {"entropy", "margin"} and lr > 1), "these two do not go with such a rate\""""


@pytest.fixture
def path(write: Callable[..., Path]) -> Path:
    return write(PARAMETERS, ("check", CHECK), "print(seeds)", ("report", "print('done')"))


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Without a check, for properties that are looked at many times."""
    return notebook_of(tmp_path_factory.mktemp("bare") / "bare.ipynb", PARAMETERS, "print(seeds)")


# ---- cells and reports -----------------------------------------------------------------------------------------------------------

# of nothing on disk: the key of a cell looks into a folder that a value names, and other tests change the working folder
NAMES = st.text("abcXYZ019-_. /é,'{}", min_size=1, max_size=100).filter(lambda name: not os.path.lexists(name))
AXES = st.fixed_dictionaries(
    {},
    optional={
        "strategies": st.lists(NAMES, min_size=1, max_size=4, unique=True),
        "seeds": st.lists(st.integers(-3, 10**6), min_size=1, max_size=4, unique=True),
        "regimes": st.lists(st.floats(0, 100), min_size=1, max_size=3, unique=True),
        "dataset": st.lists(NAMES, min_size=1, max_size=3, unique=True),
        "lr": st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=3, unique=True),
    },
)


@given(AXES)
@settings(max_examples=60, deadline=None)
def test_cells_are_the_product_of_the_axes_the_last_running_fastest(bare: Path, values: dict) -> None:
    made = grid(bare, values)
    lists = {"strategies": ["random", "margin"], "seeds": [0, 1, 2], **values}
    scalars = [name for name in values if name in ("dataset", "lr")]
    order = [*scalars, *(name for name in ("strategies", "seeds", "regimes") if name in lists)]
    cells = made.cells()
    assert [tuple(cell.point.values()) for cell in cells] == list(itertools.product(*(lists[name] for name in order)))
    assert len({cell.folder for cell in cells}) == len({cell.key for cell in cells}) == len(cells)
    assert all(cell.folder.parent == made.root / "cells" / "bare" and len(cell.folder.name.encode()) < 100 for cell in cells)
    for cell in cells:
        assert all(cell.values[name] == (value if name in scalars else [value]) for name, value in cell.point.items())
        assert parameters.check(cell.values, parameters.read(bare)) == cell.values


@given(AXES)
@settings(max_examples=40, deadline=None)
def test_there_is_a_report_for_each_combination_of_single_values(bare: Path, values: dict) -> None:
    reports = grid(bare, values).reports()
    single = {name: value for name, value in values.items() if name in ("dataset", "lr")}
    assert [tuple(report[name] for name in single) for report in reports] == list(itertools.product(*single.values()))
    whole = {"strategies": ["random", "margin"], "seeds": [0, 1, 2], **values}
    assert all(report[name] == whole[name] for report in reports for name in whole if name not in single)


def test_a_grid_without_axes_is_one_cell(bare: Path) -> None:
    (cell,) = grid(bare, {"cycles": 2}, over=[]).cells()
    assert cell.point == {} and cell.values == {"cycles": 2} and cell.name == "bare"


def test_over_says_which_lists_are_cut(bare: Path) -> None:
    made = grid(bare, {"strategies": ["a", "b"], "lr": [0.1, 0.2]}, over=["seeds", "lr"])
    assert [tuple(cell.point.values()) for cell in made.cells()] == list(itertools.product((0.1, 0.2), (0, 1, 2)))
    assert all(cell.values["strategies"] == ["a", "b"] for cell in made.cells())
    assert made.reports() == [{"strategies": ["a", "b"], "seeds": [0, 1, 2], "lr": lr} for lr in (0.1, 0.2)]


def test_what_may_be_a_list_is_none_of_several(bare: Path) -> None:
    """An optional value may be an axis; an empty list, and a default that is no literal, are none."""
    assert [cell.values["limit"] for cell in grid(bare, {"limit": [None, 5], "seeds": [0], "strategies": ["a"]}).cells()] == [None, 5]
    assert all("regimes" not in cell.point for cell in grid(bare, {"regimes": []}).cells())
    assert [cell.values["settings"] for cell in grid(bare, {"settings": [{"a": 1}, {"a": 2}]}, over=[]).cells()] == [{"a": 1}, {"a": 2}]


def test_a_default_that_is_no_literal_is_no_axis(write: Callable[..., Path]) -> None:
    path = write("seeds: list[int] = list(range(2))  # computed\nn: int = 2 * 3  # computed\nodd: complex = 1j  # unknown")
    assert [cell.point for cell in grid(path, {}).cells()] == [{}]
    assert [cell.point for cell in grid(path, {"seeds": [4], "n": [1, 2]}).cells()] == [{"n": 1, "seeds": 4}, {"n": 2, "seeds": 4}]


# ---- keys ------------------------------------------------------------------------------------------------------------------------


def keys(made: Grid) -> dict[tuple, str]:
    return {tuple(sorted((name, str(value)) for name, value in cell.values.items())): cell.key for cell in made.cells()}


def test_a_key_is_none_of_places(path: Path, tmp_path: Path) -> None:
    here, there = grid(path, {"runs": str(tmp_path / "a")}), grid(path, {"runs": "b", "figures": "c", "download": True})
    assert [cell.key for cell in here.cells()] == [cell.key for cell in there.cells()]
    assert here.root == tmp_path / "a" and there.root == Path.cwd() / "b"
    assert [cell.folder for cell in here.cells()] == [here.root / "cells" / "made" / cell.key for cell in there.cells()]


@given(AXES, st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_a_cell_is_the_same_in_any_grid(bare: Path, values: dict, chance: random.Random) -> None:
    """Whatever else is swept, in whichever order things are named, and whether a value is given or the default."""
    cells = grid(bare, values).cells()
    shuffled = {name: chance.sample(value, len(value)) for name, value in chance.sample(list(values.items()), len(values))}
    assert {cell.folder for cell in grid(bare, shuffled).cells()} == {cell.folder for cell in cells}
    one = chance.choice(cells)
    alone = {**one.values, "figures": "elsewhere", "cycles": 3}
    assert [cell.folder for cell in grid(bare, alone, over=[]).cells()] == [one.folder]


def test_a_key_is_of_the_code_and_not_of_what_it_shows(tmp_path: Path) -> None:
    def key(*cells: str | tuple[str, str], parameters: str = PARAMETERS) -> str:
        path = notebook_of(tmp_path / "n.ipynb", parameters, ("check", CHECK), *cells)
        return grid(path, {"seeds": [0], "strategies": ["random"]}).cells()[0].key

    key_of = key("a = 1", ("report", "print(a)"))
    assert key("a = 1", ("report", "print(a, a)"), ("report", "1")) == key_of
    assert key("a = 1", parameters=PARAMETERS.replace("# names", "# of strategies")) == key_of
    others = [key("a = 2"), key("a = 1", "b = 1"), key("a = 1", parameters=PARAMETERS.replace("= 3", "= 4"))]
    assert len({key_of, *others}) == 4


# ---- words -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([["seeds", "0:5"]], {"seeds": [0, 1, 2, 3, 4]}),
        ([["seeds", "7", "0:6:2"]], {"seeds": [7, 0, 2, 4]}),
        ([["seeds", "3:0:-1"]], {"seeds": [3, 2, 1]}),
        ([["cycles", "1:4"]], {"cycles": [1, 2, 3]}),
        ([["cycles", "2", "5:7"]], {"cycles": [2, 5, 6]}),
        ([["cycles", "4:5"]], {"cycles": 4}),
        ([["cycles", "4"]], {"cycles": 4}),
        ([["lr", "1", "3e-2"]], {"lr": [1.0, 0.03]}),
        ([["dataset", "digits", "cifar10"]], {"dataset": ["digits", "cifar10"]}),
        ([["dataset", "1:5"]], {"dataset": "1:5"}),
        ([["limit", "null", "5"]], {"limit": [None, 5]}),
        ([["strategies", "random"], ["regimes", "[]"]], {"strategies": ["random"], "regimes": []}),
        ([["settings", '{"a": 1}']], {"settings": {"a": 1}}),
    ],
)
def test_words_are_values_or_axes(bare: Path, words: list, expected: dict) -> None:
    values = read_words(bare, words)
    assert values == expected and repr(values) == repr(expected)
    assert grid(bare, values).cells()


def test_several_words_of_a_single_value_are_an_axis_with_a_report_each(path: Path) -> None:
    made = grid(path, read_words(path, [["dataset", "digits", "cifar10"], ["seeds", "0:2"]]))
    assert [(cell.values["dataset"], cell.name) for cell in made.cells()][::2] == [
        ("digits", "digits, random, seeds 0"),
        ("digits", "digits, margin, seeds 0"),
        ("cifar10", "cifar10, random, seeds 0"),
        ("cifar10", "cifar10, margin, seeds 0"),
    ]
    assert [report["dataset"] for report in made.reports()] == ["digits", "cifar10"]
    assert all(report["seeds"] == [0, 1] and report["strategies"] == ["random", "margin"] for report in made.reports())


# ---- what is wrong ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "over", "message"),
    [
        ({"sede": 1}, None, r"no parameter 'sede' \(did you mean 'seeds'"),
        ({"seeds": ["a"]}, None, r"'seeds' is \['a'\], of type list: it must be list\[int\]"),
        ({"lr": [0.1, "x"]}, None, "'lr' is 'x', of type str: it must be float"),
        ({"cycles": []}, None, "'cycles' has no value"),
        ({"dataset": ["digits", "digits"]}, None, "'dataset' names 'digits' twice"),
        ({"runs": ["a", "b"]}, None, "'runs' says where things are: it has one value in a sweep"),
        ({}, ["seeds", "limit"], "over 'limit': it has only one value"),
        ({}, ["lots"], "over 'lots': there is no such list: strategies, seeds"),
        ({"strategies": ["random", "margn"]}, None, "strategy 'margn' is not known: there are random, entropy"),
        ({"dataset": ["digits", "digit"]}, None, "dataset 'digit' is not known"),
    ],
)
def test_what_is_wrong_with_values_is_named(path: Path, wrong: dict, over: list[str] | None, message: str) -> None:
    with pytest.raises(BadParameter, match=message):
        grid(path, wrong, over)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([["sede", "1"]], "no parameter 'sede'"),
        ([["seeds", "x"]], r"list\[int\]"),
        ([["cycles", "5:0"]], "range 5:0 is empty"),
        ([["lr", "1"], ["lr", "2"]], "'lr' is given twice"),
        ([["lr"]], "'lr' has no value"),
        ([["seeds"]], "'seeds' has no value"),
    ],
)
def test_what_is_wrong_with_words_is_named(path: Path, words: list, message: str) -> None:
    with pytest.raises(BadParameter, match=message):
        read_words(path, words)


def test_minutes_are_no_whole_numbers(bare: Path) -> None:
    with pytest.raises(BadParameter, match="'lr' is '1:05', of type str: it must be float"):
        read_words(bare, [["lr", "1:05"]])
    with pytest.raises(BadParameter, match="'cycles' is '1:05:00', of type str"):
        parameters.parse([["cycles", "1:05:00"]], parameters.read(bare))


def test_the_notebook_looks_at_values_by_themselves_and_together(path: Path, capsys: pytest.CaptureFixture) -> None:
    assert len(grid(path, {"strategies": ["random", "kcenter"]}).cells()) == 6  # there is a combination to run
    with pytest.raises(BadParameter, match=r"^kcenter is not for digits$"):
        grid(path, {"strategies": ["kcenter"]})
    with pytest.raises(BadParameter, match=r"^these two do not go with such a rate$"):
        grid(path, {"strategies": ["entropy", "margin"], "lr": 2.0})
    assert capsys.readouterr().out == ""


def test_no_notebook(tmp_path: Path) -> None:
    with pytest.raises(BadParameter, match="there is no notebook"):
        grid(tmp_path / "none.ipynb", {})


def test_the_paper_s_notebook_says_which_combinations_there_are() -> None:
    path = PROJECT / "notebooks/bengar2021/figure3.ipynb"
    values = {"strategies": ["random", "svm_margin"], "arms": ["scratch"], "seeds": [0], "scale": "smoke"}
    assert [cell.point["strategies"] for cell in grid(path, values).cells()] == ["random", "svm_margin"]
    with pytest.raises(NotebookFailed) as error:
        kernel_free.examine(path, {**values, "strategies": ["svm_margin"]})
    assert error.value.kind == "NothingToRun"
    with pytest.raises(BadParameter, match=r"nothing to run with .*svm_margin needs the arm frozen"):
        grid(path, {**values, "strategies": ["svm_margin"]})


# ---- files -----------------------------------------------------------------------------------------------------------------------


def file_of(folder: Path, text: str) -> Path:
    (folder / "sweeps").mkdir(exist_ok=True)
    path = folder / "sweeps" / "one.yaml"
    path.write_text(text)
    return path


def test_a_file_means_what_the_command_line_means(bare: Path) -> None:
    path = file_of(
        bare.parent,
        """
says: what it is for
notebook: ../bare.ipynb
over: [seeds, dataset]
parameters:
  seeds: 1:5
  strategies: [yes, no, 010]
  regimes: []
  cycles: [2, 4:6]
  lr: 3e-2
  dataset: ["1", x:y]
  limit: null
  settings: {a: 1, b: 0x10}
  download: true
  runs:
""",
    )
    notebook, values, over = read_file(path)
    assert notebook.resolve() == bare.resolve() and over == ["seeds", "dataset"]
    expected = {
        "seeds": [1, 2, 3, 4], "strategies": ["yes", "no", "010"], "regimes": [], "cycles": [2, 4, 5], "lr": 0.03,
        "dataset": ["1", "x:y"], "limit": None, "settings": {"a": 1, "b": 16}, "download": True, "runs": "",
    }  # fmt: skip
    assert values == expected and repr(values) == repr(expected)
    assert len(grid(notebook, values, over).cells()) == 4 * 3 * 2
    replaced = read_file(path, [["seeds", "9"], ["figures", "f"]])[1]
    assert replaced == {**expected, "seeds": [9], "figures": "f"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- 1", "has no entries: write a line such as notebook: ../quickstart.ipynb"),
        ("parameters: {seeds: 1}", "names no notebook"),
        ("notebook: [", "cannot be read: while parsing"),
        ("parameter: {seeds: 1}", r"'parameter' .did you mean 'parameters'.*; there are notebook, parameters"),
        ("2: 3", "'2'"),
        ("notebook: n.ipynb\nparameters: [seeds]", r"'parameters' is \['seeds'\], of type list: it must be dict"),
        ("notebook: n.ipynb\nover: seeds", r"'over' is 'seeds', of type str: it must be list.* such as \[strategies, seeds\]"),
        ("notebook: n.ipynb\nover: [[1]]", r"'over' is \[\['1'\]\]"),
        ("notebook: n.ipynb", r"there is no notebook .*sweeps/n\.ipynb"),
        ("notebook: ../bare.ipynb\nparameters: {sede: 0:2, cycles: 1}", "there is no parameter 'sede'"),
        ("notebook: ../bare.ipynb\nparameters: {seeds: 2020-13-45}", r"'seeds' is \['2020-13-45'\]"),
    ],
)
def test_bad_files_are_named(bare: Path, text: str, message: str) -> None:
    with pytest.raises(BadParameter, match=message):
        read_file(file_of(bare.parent, text))


def test_files_that_are_not_there_or_no_text(tmp_path: Path) -> None:
    with pytest.raises(BadParameter, match=r"sweep file .*none\.yaml cannot be read: .*No such file"):
        read_file(tmp_path / "none.yaml")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadParameter, match=r"bytes\.yaml cannot be read"):
        read_file(tmp_path / "bytes.yaml")


def test_keys_are_plain_names(bare: Path) -> None:
    """They name folders, also those of a cell with the most awkward values, and differ where folders that ignore case would not."""
    cells = grid(bare, {"dataset": ["../a b", "../A B", "ä" * 300, "."], "seeds": [0], "strategies": ["x"]}).cells()
    assert all(cell.key.replace("-", "").replace(".", "").isalnum() and cell.key.isascii() for cell in cells)
    assert len({cell.key.lower() for cell in cells}) == 4


def test_examine_leaves_no_trace(path: Path) -> None:
    import sys

    main, out = sys.modules["__main__"], sys.stdout
    kernel_free.examine(path, {"seeds": [1]})
    assert sys.modules["__main__"] is main and sys.stdout is out and json.loads(path.read_text())["cells"]
