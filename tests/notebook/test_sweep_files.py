"""The grids under version control: each is whole, and together they make all of figures/."""

import re
from pathlib import Path
from typing import Any

import pytest

from alnb.notebook import parameters
from alnb.notebook.cells import BATCH
from alnb.notebook.sweep import read_file
from alnb.notebook.sweep.grid import grid

PROJECT = Path(__file__).parents[2]
PARTS = ("bengar2021-figure3", "bengar2021-figure6", "bengar2021-table1", "yi2022-figure2-cifar10", "yi2022-figure4", "yi2022-table1")
FILES = sorted((PROJECT / "notebooks/sweeps").glob("*.yaml"))
NIGHTS = sorted((PROJECT / "notebooks/sweeps/overnight").glob("*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
@pytest.mark.parametrize("scale", ["smoke", "laptop", "paper"])
def test_every_sweep_file_is_one_the_notebook_takes(path: Path, scale: str) -> None:
    target, values, over = read_file(path)
    swept = grid(target, {**values, "scale": scale}, over)
    assert len(swept.cells()) == len({cell.folder for cell in swept.cells()}) >= 2
    (whole,) = swept.reports()
    assert all(whole[name] == swept.lists[name] for name in over or ())


@pytest.mark.parametrize("path", NIGHTS, ids=lambda path: path.stem)
def test_every_file_of_the_nights_is_one_its_notebook_takes(path: Path) -> None:
    target, values, over = read_file(path)
    assert values["scale"] == "overnight" and len(grid(target, values, over).cells()) >= 2


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_file_repeats_no_default(path: Path) -> None:
    """So the whole of a sweep is the whole of the notebook's figure, except for what its file says."""
    target, values, _ = read_file(path)
    known = parameters.read(target)
    assert not [name for name, value in values.items() if repr(value) == known[name].default]
    assert set(values) <= {"dataset", "seeds"}


def test_every_figure_has_its_sweep_file() -> None:
    parts = re.compile("(-gains|-regret|-toy)?(-laptop)?$")
    drawn = {parts.sub("", path.stem).removesuffix("-digits") for path in (PROJECT / "figures").glob("*.png")}
    assert {name for name in drawn if "smoke" not in name and "advisor" not in name} <= {path.stem for path in FILES} | {
        "yi2022-figure5b-classes",
        "labeller",
        "explorer",
    }


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("path", [path for path in FILES if path.stem in PARTS], ids=lambda path: path.stem)
def test_a_part_of_each_sweep_alone_is_no_failure(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the last cell of the grid is: one strategy, one seed. Its figure may be a part, or none.

    Of the notebooks that `test_notebook` executes whole; it has a part of the others. Executed here, since kernels take their time.
    """
    monkeypatch.setenv(BATCH, "1")
    target, values, over = read_file(path)
    small = {"scale": "smoke", "runs": str(tmp_path / "runs"), "figures": str(tmp_path / "figures"), "device": "cpu"}
    cell = grid(target, {**values, **small}, over).cells()[-1]
    names: dict[str, Any] = {}
    for source in parameters.code_cells(target):
        exec(compile(source.text, f"{target.name}, cell {source.number}", "exec"), names)
        names.update(cell.values if "parameters" in source.tags else {})
    assert list((tmp_path / "runs").rglob("record.json")) or list((tmp_path / "runs").rglob("result.pt"))
    assert not list((tmp_path / "figures").glob("*")), "a part replaced the figure of the whole"
