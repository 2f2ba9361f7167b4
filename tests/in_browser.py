"""JupyterLab and Voilà on a free port of 127.0.0.1, and Chromium without a screen."""

import contextlib
import math
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
from nbformat.v4 import new_code_cell, new_notebook

CHROMIUM = os.environ.get("ALNB_CHROMIUM", "/usr/bin/chromium")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-sync"]
PROJECT = Path(__file__).parents[1]
RUN_ALL = """async () => {
  const app = window.jupyterapp;
  await app.restored;
  let widget;
  for (let i = 0; i < 100; i++) {
    widget = app.shell.currentWidget;
    if (widget && widget.sessionContext) break;
    await new Promise((done) => setTimeout(done, 100));
  }
  await widget.context.ready;
  await widget.sessionContext.ready;
  await app.commands.execute('notebook:run-all-cells');
}"""


@contextlib.contextmanager
def serving(root: Path) -> Iterator[tuple[str, Path]]:
    """JupyterLab with its own settings below `root`: its address, and the folder that it serves."""
    work, settings = root / "work", root / "settings_dir/@jupyterlab/apputils-extension"
    for folder in (work, settings):
        folder.mkdir(parents=True)
    (settings / "notification.jupyterlab-settings").write_text('{"fetchNews": "false", "checkForUpdates": false}')
    port = free_port()
    options = [
        "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}", "--ServerApp.port_retries=0", "--IdentityProvider.token=t",
        "--LabApp.news_url=None", "--LabApp.expose_app_in_browser=True", f"--ServerApp.root_dir={work}",
    ]  # fmt: skip
    with started(root, f"http://127.0.0.1:{port}", "api?token=t", sys.executable, "-m", "jupyterlab", *options) as url:
        yield url, work


@contextlib.contextmanager
def voila(root: Path, notebook: Path) -> Iterator[str]:
    """Voilà, as `make app` starts it, on one notebook: its address."""
    port = free_port()
    options = [str(notebook), f"--port={port}", f"--Voila.config_file_paths={PROJECT / 'notebooks'}", "--Voila.port_retries=0"]
    with started(root, f"http://127.0.0.1:{port}", "voila/static/voila.js", sys.executable, "-m", "voila", *options) as url:
        yield url


@contextlib.contextmanager
def app(root: Path, folder: Path) -> Iterator[str]:
    """The pages of `make app`, with a folder to label: their address."""
    port = free_port()
    options = ["-C", str(PROJECT), "app", f"VENV={sys.prefix}", f"APP={root / 'app'}", f"PORT={port}", f"FOLDER={folder}"]
    with started(root, f"http://127.0.0.1:{port}", "", "make", *options) as url:
        yield url


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


@contextlib.contextmanager
def started(root: Path, url: str, page: str, *command: str) -> Iterator[str]:
    """A server with its own settings below `root`. Yields `url` once its `page` answers."""
    places = {f"JUPYTER_{name}": str(root / name.lower()) for name in ("CONFIG_DIR", "DATA_DIR")}
    places |= {f"JUPYTERLAB_{name}": str(root / name.lower()) for name in ("SETTINGS_DIR", "WORKSPACES_DIR")}
    environment = {**os.environ, **places, "PYTHONPATH": str(PROJECT)}
    with (
        open(root / "server.log", "w") as log,
        subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True) as process,
    ):
        try:
            for _ in range(240):
                with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/{page}", timeout=1):
                    break
                time.sleep(0.5)
            else:
                raise RuntimeError((root / "server.log").read_text())
            yield url
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)


@contextlib.contextmanager
def chromium(*flags: str) -> Iterator[Any]:
    """A browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=[*FLAGS, *flags])
        yield browser
        browser.close()


def opened(browser: Any, url: str, work: Path, name: str, *cells: str) -> Any:
    """A page of JupyterLab that runs a new notebook with these cells. `page.outside` lists its requests to other hosts."""
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(new_notebook(cells=[new_code_cell(cell) for cell in cells], metadata={"kernelspec": kernel}), work / name)
    page = guarded(browser, url)
    page.goto(f"{url}/doc/tree/{name}?token=t")
    page.wait_for_selector('.jp-Notebook-ExecutionIndicator[data-status="idle"]')
    page.evaluate(RUN_ALL)
    return page


def saved(page: Any) -> None:
    """Save the notebook."""
    page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")
    page.wait_for_function("() => !window.jupyterapp.shell.currentWidget.context.model.dirty")


def reloaded(page: Any) -> None:
    """Save the notebook and reload the page. The kernel continues."""
    saved(page)
    page.reload()


def end_kernel(page: Any) -> None:
    """Shut the kernel down. It would outlive the page."""
    page.evaluate("async () => { await window.jupyterapp.shell.currentWidget.sessionContext.shutdown(); }")


def run_again(page: Any) -> None:
    """Restart the kernel, and run all cells."""
    page.evaluate("async () => { await window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart(); }")
    page.wait_for_selector('.jp-Notebook-ExecutionIndicator[data-status="idle"]')
    page.evaluate("async () => { await window.jupyterapp.commands.execute('notebook:run-all-cells'); }")


def guarded(browser: Any, url: str) -> Any:
    """A page that can reach nothing but `url`. `page.outside` lists its requests to other hosts."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(120_000)
    page.outside = []

    def check(route: Any) -> None:
        if route.request.url.startswith((url, "data:", "blob:")):
            route.continue_()
        else:
            page.outside.append(route.request.url)
            route.abort()

    page.route("**/*", check)
    return page


# ---- the labeller --------------------------------------------------------------------------------------------------------------

LABELLER = """from alnb.widgets import Labeller, Settings
labeller = Labeller({folder!r}, Settings("pixels", batch={batch}, image_size=8), classes=["zero", "one"])
labeller"""


def zeros_and_ones(folder: Path, n: int) -> Path:
    """A folder of handwritten zeros and ones."""
    import numpy
    from PIL import Image
    from sklearn.datasets import load_digits

    images, targets = load_digits(return_X_y=True)
    folder.mkdir(parents=True)
    for k in numpy.flatnonzero(targets < 2)[:n]:
        Image.fromarray((255 - images[k].reshape(8, 8) * 15.9).astype("uint8")).save(folder / f"{targets[k]}-{k}.png")
    return folder


def ready(page: Any) -> Any:
    """The widget, once it shows an image."""
    page.wait_for_selector(".alnb-labeller:not(.alnb-busy) .alnb-image:not([hidden])")
    return page.locator(".alnb-labeller")


ARM = """() => {
  const root = document.querySelector('.alnb-labeller'), before = root.dataset.shown;
  let start = performance.now();
  window.alnbKeys = 0;
  document.addEventListener('keydown', () => { start = performance.now(); window.alnbKeys += 1; }, { capture: true, once: true });
  window.alnbNext = new Promise((done, failed) => {
    const focus = () => document.activeElement.className;
    const state = () => `${window.alnbKeys} keys arrived, the focus is on "${focus()}"; the widget shows: ${root.innerText}`;
    setTimeout(() => failed(new Error(`no other image after a minute; ${state()}`)), 60000);
    const observer = new MutationObserver(() => {
      if (root.dataset.shown === before) return;
      observer.disconnect();
      requestAnimationFrame(() => done(performance.now() - start));
    });
    observer.observe(root, { attributes: true, attributeFilter: ['data-shown'] });
  });
}"""


def press(page: Any, key: str) -> float:
    """Press a key, and return the milliseconds until another image is drawn, by the browser's clock."""
    page.evaluate(ARM)
    page.keyboard.press(key)
    milliseconds: float = page.evaluate("() => window.alnbNext")
    return milliseconds


# ---- the explorer --------------------------------------------------------------------------------------------------------------

EXPLORER = """from alnb.papers import quickstart
from alnb.widgets import Choices, Explorer
choices = Choices("digits", arm=quickstart.ARMS[0], embedding="pixels", scale={scale!r}, beside={beside!r})
explorer = Explorer(quickstart, choices, runs={runs!r})
explorer"""


def says(page: Any, text: str) -> Any:
    """The explorer, once it shows `text`."""
    page.wait_for_selector(f".alnb-explorer :text({text!r})")
    return page.locator(".alnb-explorer")


def click(page: Any, name: str) -> None:
    """Press one of its buttons, once it is enabled."""
    page.get_by_role("button", name=name, exact=True).click()


POINTED = """(was) => {
  const root = document.querySelector('.alnb-pointed'), image = root?.dataset.image, drawn = root?.querySelector('canvas:not([hidden])');
  return image >= 0 && image !== was && drawn?.ariaLabel?.startsWith(`image ${image},`);
}"""
DRAWN = "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"  # two frames later


def pointed_at(page: Any) -> str:
    """The number of the image that is described below the first plot."""
    return str(page.locator(".alnb-pointed").first.get_attribute("data-image"))


def hover(page: Any, apart: tuple[float, float] = (-math.inf, -math.inf)) -> tuple[float, float]:
    """Move over the first plot until the pointer is at another image, 80 pixels or more from `apart`. Returns the position."""
    before = pointed_at(page)
    box = page.locator(".alnb-explorer canvas").first.bounding_box()
    for y in range(int(box["height"] * 0.3), int(box["height"] * 0.7), 8):
        for x in range(int(box["width"] * 0.3), int(box["width"] * 0.7), 8):
            place = (box["x"] + x, box["y"] + y)
            if math.dist(place, apart) < 80:
                continue
            page.mouse.move(*place)
            page.evaluate(DRAWN)  # so that the description belongs to this position
            if page.evaluate(POINTED, before):
                return place
    raise AssertionError("no image is described, wherever the pointer is")


def lasso(page: Any) -> None:
    """Draw a circle around the middle of the first plot."""
    page.get_by_title("Activate lasso selection").first.click()
    box = page.locator(".alnb-explorer canvas").first.bounding_box()
    x, y, radius = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, box["height"] / 4
    page.mouse.move(x + radius, y)
    page.mouse.down()
    for part in range(41):
        angle = 2 * math.pi * part / 40
        page.mouse.move(x + radius * math.cos(angle), y + radius * math.sin(angle))
    page.mouse.up()
