"""The labeller in JupyterLab: keys, buttons, a restarted kernel, a second window."""

from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from in_browser import CHROMIUM, LABELLER, end_kernel, press, ready, reloaded, run_again, zeros_and_ones

from alnb.widgets.labeller.folder import Labelling

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path(CHROMIUM).exists(), reason=f"needs Chromium at {CHROMIUM}: apt-get install chromium"),
]


def truth(page: Any) -> str:
    """The key of the image's true class, which its file name says."""
    return str(int(page.locator(".alnb-image").get_attribute("alt").removeprefix("image ")[0]) + 1)


def add_classes(page: Any) -> None:
    """Add a class that is refused and one that is accepted. Keys typed in the field label nothing."""
    field = page.get_by_label("name of a new class")
    for name, left in (("One", "One"), ("two", "")):  # the refused name stays in the field
        field.fill(name)
        page.keyboard.press("Enter")
        page.wait_for_selector(".alnb-problem:has-text('there is already a class')" if left else ".alnb-classes button:has-text('two')")
        page.wait_for_function("(left) => document.querySelector('.alnb-add input').value === left", arg=left)
    page.keyboard.press("n")  # typed in the field
    assert field.input_value() == "n" and "0 not sure" in page.locator(".alnb-status").inner_text()
    field.fill("")
    page.keyboard.press("Escape")  # back to the image


def test_labelling_by_keys(opened: Callable, shot: Callable, tmp_path: Path) -> None:
    folder = zeros_and_ones(tmp_path / "digits", 60)
    page = opened("labeller.ipynb", LABELLER.format(folder=str(folder), batch=8), "labeller.picture()")
    ready(page).focus()
    cells = page.locator(".jp-Cell").count()
    times = [press(page, truth(page)) for _ in range(4)]
    for key in "bddx":  # JupyterLab would add and delete cells
        page.keyboard.press(key)
    page.wait_for_function("document.querySelector('.alnb-status').textContent.includes('4 to go')")
    assert page.locator(".jp-Cell").count() == cells
    press(page, "n")
    press(page, "u")
    press(page, "s")
    page.keyboard.press("g")
    page.wait_for_selector(".alnb-guess:has-text('the model has not learned yet')")
    add_classes(page)
    for _ in range(4):
        page.wait_for_selector(".alnb-labeller:not(.alnb-busy)")
        press(page, truth(page))
    page.wait_for_selector(".alnb-status:has-text('Round 2')")
    page.wait_for_selector(".alnb-guess:has-text('the model says')")
    while page.locator(".alnb-status:has-text('Round 4')").count() == 0:
        ready(page)
        times.append(press(page, truth(page)))
    shot(ready(page), "labeller")
    page.wait_for_selector(".jp-RenderedImage img")  # for readers without a kernel
    labelled = int(page.locator(".alnb-status").inner_text().split("; ")[1].split()[0])
    page.locator(".alnb-classes button").nth(1).click()
    page.wait_for_selector(f".alnb-status:has-text('{labelled + 1} labelled')")
    page.get_by_role("button", name="write CSV").click()
    page.wait_for_selector(".alnb-news :text('labels.csv')")
    assert page.outside == []
    end_kernel(page)
    page.wait_for_timeout(1000)
    with Labelling(folder) as state:
        assert len(state.labels) == labelled + 1 == len((folder / "alnb-labels/labels.csv").read_text().splitlines()) - 1
    assert median(times) < 1000  # milliseconds, on a busy machine; `python -m benchmarks labelling` has the bar


def test_a_reloaded_page_and_a_restarted_kernel_continue_and_a_second_person_is_refused(
    opened: Callable, shot: Callable, tmp_path: Path
) -> None:
    folder = zeros_and_ones(tmp_path / "digits", 30)
    page = opened("restart.ipynb", LABELLER.format(folder=str(folder), batch=8))
    ready(page).focus()
    for key in ("1", "2", "2"):
        press(page, key)
    shown = page.locator(".alnb-labeller").get_attribute("data-shown")
    other = opened("other.ipynb", LABELLER.format(folder=str(folder), batch=8))
    other.wait_for_selector(".alnb-problem:has-text('is in use by process')")
    shot(other, "labeller-in-use")
    for again in (reloaded, run_again):
        again(page)
        page.wait_for_selector(".alnb-status:has-text('5 to go; 3 labelled')")
        assert ready(page).get_attribute("data-shown") == shown
    ready(page).focus()
    press(page, "1")
    page.wait_for_selector(".alnb-status:has-text('4 to go; 4 labelled')")
