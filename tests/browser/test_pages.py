"""Explorer and labeller as pages without code: Voilà, and `make app` itself."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import in_browser
import nbformat
import pytest
from in_browser import CHROMIUM, PROJECT, press, ready, zeros_and_ones

from alnb.labelling import Labelling

pytestmark = pytest.mark.skipif(not Path(CHROMIUM).exists(), reason=f"needs Chromium at {CHROMIUM}: apt-get install chromium")


def test_the_explorer_as_a_page(browser: Any, shot: Callable, tmp_path: Path) -> None:
    content = nbformat.read(PROJECT / "notebooks/explore.ipynb", 4)
    content.cells[1].source += f"\nscale, runs, figures = 'smoke', {str(tmp_path / 'runs')!r}, {str(tmp_path)!r}"
    nbformat.write(content, tmp_path / "explore.ipynb")
    with in_browser.voila(tmp_path, tmp_path / "explore.ipynb") as url:
        page = in_browser.guarded(browser, url)
        page.goto(url)
        page.wait_for_selector(".alnb-explorer :text('none labelled yet')")
        page.wait_for_timeout(1000)
        shot(page, "explore-page")
        assert "from alnb" not in page.locator("body").inner_text() and page.outside == []
        assert page.locator(".jp-RenderedImage").count() == 0, "the picture is for readers without a kernel"
        page.close()


@pytest.mark.skipif(not (Path(sys.prefix) / "bin/.ok").exists(), reason="needs the environment that make has set up")
def test_the_app_lists_its_pages_and_labels_a_folder(browser: Any, shot: Callable, tmp_path: Path) -> None:
    folder = zeros_and_ones(tmp_path / "my pictures", 30)
    with in_browser.app(tmp_path, folder) as url:
        page = in_browser.guarded(browser, url)
        page.goto(url)
        for name in ("explore", "label"):
            page.get_by_text(f"{name}.ipynb", exact=True).wait_for()
        page.goto(f"{url}/voila/render/label.ipynb")
        ready(page).focus()
        page.get_by_label("name of a new class").fill("zero")
        page.keyboard.press("Enter")
        page.wait_for_selector(".alnb-classes button:has-text('zero')")
        page.keyboard.press("Escape")
        press(page, "1")
        page.get_by_role("button", name="write CSV").click()
        page.wait_for_selector(".alnb-news :text('labels.csv')")
        shot(page, "label-page")
        assert "from alnb" not in page.locator("body").inner_text() and page.outside == []
        page.close()
    assert len((folder / "alnb-labels/labels.csv").read_text().splitlines()) == 2
    with Labelling(folder) as state:
        assert list(state.labels.values()) == ["zero"]
