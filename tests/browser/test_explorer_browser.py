"""The explorer in JupyterLab and Voilà: clicks, the slider by keyboard, pointing, the lasso, a restarted kernel, no WebGL."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import in_browser
import nbformat
import pytest
import torch
from in_browser import CHROMIUM, EXPLORER, click, hover, lasso, pointed_at, reloaded, run_again, says
from PIL import Image

from alnb.data import load
from alnb.papers import quickstart
from alnb.report.palette import CLASS_COLOURS
from alnb.widgets import Choices, Explorer

TRIES = 2  # without the repeated drawing, every second one failed on a busy machine

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path(CHROMIUM).exists(), reason=f"needs Chromium at {CHROMIUM}: apt-get install chromium"),
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the layout of the digits, which takes a while."""
    folder = tmp_path_factory.mktemp("explorer")
    explorer(folder)
    return folder


def explorer(runs: Path, strategy: str = "entropy") -> Explorer:
    choices = Choices(arm=quickstart.ARMS[0], strategy=strategy, embedding="pixels", scale="smoke")
    return Explorer(quickstart, choices, runs=runs, background=False)


def cell(runs: Path, beside: str = "", scale: str = "smoke") -> str:
    return EXPLORER.format(scale=scale, runs=str(runs), beside=beside)


def test_stepping_pointing_and_selecting(opened: Callable, shot: Callable, runs: Path) -> None:
    from playwright.sync_api import expect

    page = opened("explorer.ipynb", cell(runs, beside="random"))
    says(page, "none labelled yet")
    click(page, "step")
    says(page, "cycle 0 of 2: 20 labels")
    click(page, "run to the end")
    says(page, "cycle 2 of 2: 80 labels")
    page.set_viewport_size({"width": 1280, "height": 1600})
    hover(page)
    first, text = pointed_at(page), page.locator(".alnb-pointed").first.inner_text()
    assert f"image {first}, class " in text
    expect(page.get_by_role("spinbutton", name="image").first).to_have_value(first)
    drawn = page.locator(".alnb-pointed canvas").first.evaluate(
        "(c) => [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data].filter((_, k) => k % 4 === 0)"
    )
    assert drawn == load("digits")[0].images.batch(torch.tensor([int(first)]))[0, 0].flatten().tolist(), (
        "exactly the pixels of this grey image"
    )
    sizes = "(plot) => [jupyterScatter.renderer.canvas, plot].map((canvas) => [canvas.width, canvas.height].join())"
    assert len(set(page.locator(".alnb-plot canvas").first.evaluate(sizes))) == 1, "each plot is drawn on a canvas of its size"
    lasso(page)
    page.wait_for_selector(".alnb-explorer :text('images selected:')")
    assert page.locator(".alnb-explorer figure").count() > 60  # two strips of 30, and the selected images
    shot(says(page, "cycle 2 of 2"), "explorer")
    slider = page.get_by_role("slider")
    slider.focus()
    page.keyboard.press("ArrowLeft")
    says(page, "cycle 1 of 2: 50 labels")
    click(page, "as in Figure 4")
    page.wait_for_function("[...document.querySelectorAll('.alnb-explorer img')].some((image) => image.naturalHeight > 400)")
    click(page, "reset")
    says(page, "none labelled yet")
    assert page.outside == []


def test_a_reloaded_page_and_a_restarted_kernel_continue(opened: Callable, shot: Callable, lab: tuple[str, Path], runs: Path) -> None:
    page = opened("explorer-again.ipynb", cell(runs, beside="least_confidence"), "explorer.picture()")
    page.wait_for_selector(".jp-RenderedImage img")
    first = page.locator(".jp-RenderedImage img").get_attribute("src")
    click(page, "step")
    says(page, "cycle 0 of 2: 20 labels")
    page.wait_for_function("(first) => document.querySelector('.jp-RenderedImage img').src !== first", arg=first)
    reloaded(page)
    says(page, "cycle 0 of 2: 20 labels")
    assert "image/png" in nbformat.read(lab[1] / "explorer-again.ipynb", 4).cells[1].outputs[0].data, "for readers without a kernel"
    hover(page)
    shot(page, "explorer-reload")
    run_again(page)
    says(page, "cycle 0 of 2: 20 labels")
    page.get_by_role("button", name="step", exact=True).focus()
    for k in (1, 2):  # by keyboard: the button gets the focus back once it is enabled
        page.wait_for_selector("button:text-is('step'):focus:not([disabled])")
        page.keyboard.press("Enter")
        says(page, f"cycle {k} of 2")


def opaque(page: Any, plot: int) -> int:
    """Pixels of a plot in the pure colour of a class. Only images with a label have it."""
    shown = Image.open(io.BytesIO(page.locator(".alnb-plot").nth(plot).screenshot())).convert("RGB")
    pixels = torch.frombuffer(bytearray(shown.tobytes()), dtype=torch.uint8).reshape(-1, 3).int()
    colours = torch.tensor([[int(colour[k : k + 2], 16) for k in (1, 3, 5)] for colour in CLASS_COLOURS])
    return int(((pixels[:, None] - colours).abs().amax(dim=2) <= 2).any(dim=1).sum())


def test_a_finished_run_is_drawn_completely_each_time_it_is_opened(opened: Callable, runs: Path) -> None:
    for strategy in ("entropy", "margin"):
        explorer(runs, strategy).run()
    page = opened("explorer-open.ipynb", cell(runs, beside="margin"))
    for k in range(TRIES):
        says(page, "cycle 2 of 2: 80 labels")
        page.wait_for_selector("button:text-is('open'):not([disabled])")
        for _ in range(10):  # plots are drawn once more when they are idle
            page.wait_for_timeout(1000)
            drawn = [opaque(page, plot) for plot in (0, 1)]
            if min(drawn) > 500:
                break
        assert min(drawn) > 500, f"opened {k + 1} times: {drawn} pixels"
        click(page, "open")
        page.wait_for_selector("button:text-is('open')[disabled]")


def test_stopped_while_it_computes(opened: Callable, runs: Path) -> None:
    page = opened("explorer-stop.ipynb", cell(runs, scale="laptop"))
    says(page, "none labelled yet")
    click(page, "run to the end")
    says(page, "cycle 0 of 7")
    click(page, "stop")
    says(page, "Stopped. Finished cycles are saved")
    click(page, "step")
    page.wait_for_selector(".alnb-explorer :text-matches('cycle [1-7] of 7')")


def test_an_impossible_choice_is_shown(opened: Callable, shot: Callable, runs: Path) -> None:
    page = opened("explorer-wrong.ipynb", cell(runs).replace('"digits"', '"digit"'))
    page.wait_for_selector(".alnb-explorer [role=alert]:has-text(\"Did you mean 'digits'\")")
    shot(page, "explorer-wrong")
    assert page.get_by_role("button", name="step", exact=True).is_disabled()
    page.get_by_placeholder("a name, or a folder").fill("digits")
    page.keyboard.press("Enter")
    click(page, "open")
    page.wait_for_selector(".alnb-explorer :text-matches('digits(:|, cycle)')")


def test_without_webgl(lab: tuple[str, Path], runs: Path, shot: Callable) -> None:
    import concurrent.futures

    def look() -> None:  # in another thread: this thread has the event loop of the first browser
        with in_browser.chromium("--disable-3d-apis") as other:
            page = in_browser.opened(other, *lab, "explorer-flat.ipynb", cell(runs, beside="kcenter"))
            says(page, "none labelled yet")
            click(page, "step")
            says(page, "cycle 0 of 2")
            drawn = "[...document.querySelectorAll('.alnb-explorer img')].filter((image) => image.offsetParent && image.naturalWidth > 500)"
            page.wait_for_function(f"{drawn}.length == 3")  # two plots, and the curves
            assert page.locator(".alnb-explorer canvas:visible").count() == 0
            shot(page, "explorer-flat")

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        pool.submit(look).result()
