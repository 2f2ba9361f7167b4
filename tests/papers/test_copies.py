"""The executed notebooks that visitors look at."""

import json
import re

import pytest

from alnb.notebook import parameters
from alnb.papers import quickstart
from figures import copies


@pytest.mark.parametrize("name", copies.NOTEBOOKS)
def test_a_copy_is_whole_small_and_of_the_notebook_as_it_is_now(name: str) -> None:
    path = copies.COPIES / f"{name}.ipynb"
    cells = [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    assert path.stat().st_size <= copies.MAX_BYTES and all(cell["execution_count"] for cell in cells)
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert not any(output["output_type"] == "error" for output in outputs)
    assert any("image/png" in json.dumps(output) for output in outputs), "there is nothing to look at"
    assert not re.search(r"/(work|home|root|tmp)/", path.read_text(encoding="utf-8")), "it names a folder of the machine that made it"
    current = parameters.digest(copies.PROJECT / "notebooks" / copies.NOTEBOOKS[name])
    assert copies.made_from(name)["notebook"] == current, f"notebooks/{copies.NOTEBOOKS[name]} was edited since: make copies"


def test_the_quickstarts_copy_has_the_runs_that_the_code_would_make_now() -> None:
    """The name of a run's folder changes with everything that decides its records."""
    setting, names = quickstart.setting("digits", "laptop"), copies.made_from("quickstart")["runs"]
    start = quickstart.start(setting, "scratch", runs="unused")
    expected = [quickstart.run(quickstart.experiment(setting, start, strategy, 0), "unused").path.name for strategy in ("random", "margin")]
    assert set(expected) <= set(names), "records changed since the copy was made: make copies"
