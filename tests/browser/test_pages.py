"""Explorer and labeller as pages without code: Voilà, and `make app` itself."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import in_browser
import nbformat
import pytest
from in_browser import CHROMIUM, PROJECT, press, ready, zeros_and_ones

from alnb.widgets.labeller.folder import Labelling

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path(CHROMIUM).exists(), reason=f"needs Chromium at {CHROMIUM}: apt-get install chromium"),
]


@pytest.fixture
def visited(browser: Any) -> Iterator[Callable[[str], Any]]:
    pages = []

    def visit(url: str) -> Any:
        pages.append(in_browser.guarded(browser, url))
        pages[-1].goto(url)
        return pages[-1]

    yield visit
    for page in pages:
        page.close()


def with_parameters(name: str, place: Path, values: str) -> Path:
    """A copy of a notebook, with other parameters, below `place`."""
    content = nbformat.read(PROJECT / f"notebooks/{name}.ipynb", 4)
    content.cells[1].source += f"\nscale, runs, figures = 'smoke', {str(place / 'runs')!r}, {str(place)!r}\n{values}"
    nbformat.write(content, place / f"{name}.ipynb")
    return place / f"{name}.ipynb"


def test_the_explorer_as_a_page(visited: Callable, shot: Callable, tmp_path: Path) -> None:
    with in_browser.voila(tmp_path, with_parameters("explore", tmp_path, "")) as url:
        page = visited(url)
        page.wait_for_selector(".alnb-explorer :text('none labelled yet')")
        page.wait_for_timeout(1000)
        shot(page, "explore-page")
        assert "from alnb" not in page.locator("body").inner_text() and page.outside == []
        assert "A picture of the widget" not in page.locator("body").inner_text(), "it is for readers without a kernel"


def test_the_labeller_as_a_page(visited: Callable, shot: Callable, tmp_path: Path) -> None:
    folder = zeros_and_ones(tmp_path / "digits", 30)
    with in_browser.voila(tmp_path, with_parameters("label", tmp_path, f"folder, classes = {str(folder)!r}, ['zero']")) as url:
        page = visited(url)
        ready(page).focus()
        press(page, "1")
        shot(page, "label-page")
        assert "from alnb" not in page.locator("body").inner_text() and page.outside == []
    with Labelling(folder) as state:
        assert list(state.labels.values()) == ["zero"]


@pytest.mark.skipif(not (Path(sys.prefix) / "bin/.ok").exists(), reason="needs the environment that make has set up")
def test_the_app_lists_its_pages_and_opens_a_folder(visited: Callable, tmp_path: Path) -> None:
    folder = zeros_and_ones(tmp_path / "my pictures", 30)
    with in_browser.app(tmp_path, folder) as url:
        page = visited(url)
        for name in ("explore", "label"):
            page.get_by_text(f"{name}.ipynb", exact=True).wait_for()
        page.goto(f"{url}/voila/render/label.ipynb")
        page.wait_for_selector(".alnb-status:has-text('learning from 30 images without labels')")
        assert page.outside == []
