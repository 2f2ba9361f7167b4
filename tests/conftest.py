"""Small images that a small net can tell apart, and what every test needs."""

import ast
import functools
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import torch
from situations import pytest_addoption, pytest_runtest_setup, pytest_terminal_summary  # noqa: F401  # hooks

import alnb
from alnb.data import ImageSet, Resident
from alnb.learn.nets import small

PROJECT = Path(__file__).parents[1]
SHOTS = PROJECT / "build" / "screenshots"
NEEDS = {  # modules of tests that cannot be imported without a package, which a machine with a GPU may lack
    "nbformat": (
        "browser/*",
        "notebook/test_notebook.py",
        "notebook/test_sweep_*.py",
        "notebook/test_situations.py",
        "papers/test_lesson.py",
    ),
    "anywidget": ("widgets/*", "papers/test_advisor.py", "papers/test_which_strategy.py"),
    "openTSNE": ("papers/test_readme.py", "papers/test_yi2022_lookback.py", "report/test_layout.py", "report/test_queries.py"),
}
collect_ignore_glob = [pattern for package, patterns in NEEDS.items() if find_spec(package) is None for pattern in patterns]
# the same examples each time, at any speed of the machine; to look for others: pytest --hypothesis-profile default --hypothesis-seed 1
hypothesis.settings.register_profile("fixed", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("fixed")
torch.set_num_threads(1)  # the nets are so small that a second thread only costs time
os.environ["OMP_NUM_THREADS"] = "1"  # of kernels and other processes that tests start


def images_of(n: int, classes: int = 3, size: int = 8, seed: int = 0) -> ImageSet:
    """`n` noisy images; the class is where the bright bar is."""
    generator = (alnb.Stream(seed) / "test images").generator()
    targets = torch.arange(n) % classes
    pixels = torch.randint(0, 120, (n, 3, size, size), generator=generator)
    for index, label in enumerate(targets.tolist()):
        pixels[index, :, label * 2 : label * 2 + 2] += 100
    return ImageSet(Resident(pixels.to(torch.uint8)), targets, tuple(f"class {c}" for c in range(classes)), "bars")


@pytest.fixture
def train() -> ImageSet:
    return images_of(60)


@pytest.fixture
def test() -> ImageSet:
    return images_of(30, seed=1)


@pytest.fixture
def learner() -> alnb.Learner:
    recipe = alnb.Recipe(epochs=2, min_updates=12, batch=8, lr=0.05, augment=alnb.augment.AUGMENTATIONS["shift"])
    return alnb.Learner(functools.partial(small, width=4), recipe)


@contextmanager
def never_waiting() -> Iterator[None]:
    """In this block, an operation for which the host waits for the GPU raises a RuntimeError."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Synchronization debug mode is a prototype")
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def notebook_of(path: Path, *cells: str | tuple[str, str], tag: bool = True) -> Path:
    """A notebook at `path` with these code cells, the first tagged `parameters`; a pair is a cell's tag and its source."""
    import nbformat
    from nbformat.v4 import new_code_cell, new_notebook

    pairs = [cell if isinstance(cell, tuple) else ("parameters" if tag and not k else "", cell) for k, cell in enumerate(cells)]
    made = [new_code_cell(source, metadata={"tags": [name] if name else []}) for name, source in pairs]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(new_notebook(cells=made, metadata={"kernelspec": kernel}), path)
    return path


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    return functools.partial(notebook_of, tmp_path / "made.ipynb")


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The records of one run of the tiny experiment of `sweeping` to which nothing happened."""
    from sweeping import experiment_of, table

    from alnb.notebook import kernel_free

    folder = tmp_path_factory.mktemp("undisturbed")
    kernel_free.execute(experiment_of(folder), {"strategies": ["nearly_tied"], "seeds": [0], "runs": str(folder / "runs")})
    return table(folder / "runs")


@dataclass(frozen=True)
class Executed:
    """The quickstart, executed at smoke scale: first one strategy and seed, then two of each."""

    folder: Path
    arm: str  # of all its runs
    whole: Path  # the executed copy
    part: dict[Path, int]  # records of the part, with the times of their last change
    part_figures: list[Path]
    records: dict[Path, int]  # of the whole


@pytest.fixture(scope="session")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> Executed:
    from alnb.notebook import parameters
    from alnb.notebook.execute import execute

    path, folder = PROJECT / "notebooks/quickstart.ipynb", tmp_path_factory.mktemp("quickstart")
    arm = ast.literal_eval(parameters.read(path)["arms"].default)[-1]  # with a pre-training
    values = {"scale": "smoke", "runs": str(folder / "runs"), "figures": str(folder / "figures"), "arms": [arm], "device": "cpu"}
    execute(path, {**values, "strategies": ["margin"], "seeds": [1]}, folder / "part.ipynb")
    part = {path: path.stat().st_mtime_ns for path in (folder / "runs").rglob("record.json")}
    figures = list(folder.rglob("*.png"))
    whole = execute(path, {**values, "strategies": ["random", "margin"], "seeds": [0, 1]}, folder / "whole.ipynb")
    return Executed(folder, arm, whole, part, figures, {path: path.stat().st_mtime_ns for path in (folder / "runs").rglob("record.json")})


def pytest_report_header() -> list[str]:
    left = [package for package in NEEDS if find_spec(package) is None]
    return [f"left out, for want of {', '.join(left)}: {', '.join(collect_ignore_glob)}"] if left else []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):  # not `keywords`: they hold the names of folders, too
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device, and this machine has none"))


# ---- a browser -----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    import in_browser  # here, since it needs Jupyter

    with in_browser.serving(tmp_path_factory.mktemp("lab")) as found:
        yield found


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    import in_browser

    with in_browser.chromium() as found:
        yield found


@pytest.fixture
def opened(lab: tuple[str, Path], browser: Any) -> Iterator[Callable[..., Any]]:
    import in_browser

    pages = []

    def open_and_run(name: str, *cells: str) -> Any:
        pages.append(in_browser.opened(browser, *lab, name, *cells))
        return pages[-1]

    yield open_and_run
    for page in pages:
        in_browser.end_kernel(page)
        page.close()


@pytest.fixture
def shot() -> Callable[[Any, str], Path]:
    """Keeps a screenshot in build/screenshots."""

    def take(page: Any, name: str) -> Path:
        SHOTS.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=SHOTS / f"{name}.png")
        return SHOTS / f"{name}.png"

    return take
