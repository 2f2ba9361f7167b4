"""The measures of `benchmarks/house.py`, on a small tree made here."""

from pathlib import Path

import pytest

from benchmarks import house

TWICE = """
def {name}({parameters}):
    '''A docstring, which counts for nothing.

    Nor does its third line.
    '''
    {total} = 0
    for {item} in range({number}):  # a comment
        if {item} > {number}:
            {total} += {item}

        else:
            {total} -= {item}
    return {total}
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for room in house.ROOMS:
        (tmp_path / "alnb" / room).mkdir(parents=True)
        (tmp_path / "alnb" / room / "__init__.py").write_text("import os\n" * 2)
    (tmp_path / "alnb" / "README.md").write_text("before\n<!-- house -->\nstale\n<!-- /house -->\nafter\n")
    (tmp_path / "README.md").write_text("é" * 10)
    first = TWICE.format(name="first", parameters="self, a, *, b, **c", total="total", item="item", number=3)
    (tmp_path / "alnb" / "learn" / "train.py").write_text(first)
    return tmp_path


def values(tree: Path) -> dict[str, int]:
    return {row.name: row.value for row in house.measure(tree)}


def test_lines_files_and_rooms(tree: Path) -> None:
    assert values(tree)["lines of the package"] == 9 * 2 + 14 and values(tree)["lines of the core (store to loop)"] == 5 * 2 + 14
    assert values(tree)["modules at the top of `alnb/`"] == 9 and values(tree)["bytes of README.md"] == 20
    assert values(tree)["lines to read to add a strategy"] == 2 and values(tree)["lines to read to follow a cycle"] == 2 + 14
    (tree / "alnb" / "data" / "large.py").write_text("\n" * 401)
    assert values(tree)["files over 400 lines"] == 1


def test_functions(tree: Path) -> None:
    (first,) = house.functions(tree / "alnb" / "learn" / "train.py", "learn/train.py")
    assert first == ("learn/train.py:first", 9, 3)  # of 13 lines 4 are docstring; self is none of the parameters
    wide = f"def wide({', '.join(f'p{k}' for k in range(9))}):\n" + "    pass\n" * 40
    (tree / "alnb" / "loop" / "wide.py").write_text(wide)
    assert [values(tree)[name] for name in ("functions over 40 lines, docstring aside", "functions of over 8 parameters")] == [1, 1]


def test_runs_of_the_same_shape_are_duplicates(tree: Path) -> None:
    assert house.duplicates(tree) == 0
    other = TWICE.format(name="other", parameters="cls, x, *, y, **z", total="sum_", item="k", number=77)
    (tree / "tests").mkdir()
    (tree / "tests" / "test_other.py").write_text(other)
    assert house.duplicates(tree) == 1  # one run of eight lines, not three of six
    (tree / "tests" / "test_other.py").write_text(other.replace("sum_ -= k", "k -= sum_"))
    assert house.duplicates(tree) == 1  # its first six lines are still the same
    (tree / "tests" / "test_other.py").write_text(other.replace("sum_ += k", "k += sum_"))
    assert house.duplicates(tree) == 0


def test_figures_are_written_between_the_markers(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    readme = tree / "alnb" / "README.md"
    assert house.main(["--check"], tree) == 1 and "stale" in readme.read_text()  # loop/experiment.py, of a cycle, is missing
    assert house.main([], tree) == 1 and "MISS  files of these two that do not exist: " in capsys.readouterr().out
    text = readme.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "stale" not in text and "| `learn` | 2 | 16 |" in text
    for name in house.CYCLE:
        (tree / "alnb" / name).touch()
    assert house.main([], tree) == 0 and "**missed**" not in readme.read_text()
