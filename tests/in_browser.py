"""JupyterLab on a free port of 127.0.0.1, and Chromium without a screen."""

import contextlib
import os
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
  app.commands.execute('notebook:run-all-cells');
}"""


@contextlib.contextmanager
def serving(root: Path) -> Iterator[tuple[str, Path]]:
    """JupyterLab with settings of its own below `root`: its address, and the folder that it serves."""
    work, told = root / "work", root / "settings_dir/@jupyterlab/apputils-extension"
    for folder in (work, told):
        folder.mkdir(parents=True)
    (told / "notification.jupyterlab-settings").write_text('{"fetchNews": "false", "checkForUpdates": false}')
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    places = {f"JUPYTER_{name}": str(root / name.lower()) for name in ("CONFIG_DIR", "DATA_DIR")}
    places |= {f"JUPYTERLAB_{name}": str(root / name.lower()) for name in ("SETTINGS_DIR", "WORKSPACES_DIR")}
    options = [
        "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}", "--ServerApp.port_retries=0", "--IdentityProvider.token=t",
        "--LabApp.news_url=None", "--LabApp.expose_app_in_browser=True", f"--ServerApp.root_dir={work}",
    ]  # fmt: skip
    environment, url = {**os.environ, **places, "PYTHONPATH": str(PROJECT)}, f"http://127.0.0.1:{port}"
    with (
        open(root / "lab.log", "w") as log,
        subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *options], env=environment, stdout=log, stderr=log, start_new_session=True
        ) as process,
    ):
        try:
            for _ in range(240):
                with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/api?token=t", timeout=1):
                    break
                time.sleep(0.5)
            else:
                raise RuntimeError((root / "lab.log").read_text())
            yield url, work
        finally:
            process.terminate()
            process.wait(30)


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
    """A browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=FLAGS)
        yield found
        found.close()


def opened(browser: Any, url: str, work: Path, name: str, *cells: str) -> Any:
    """A page of JupyterLab with a new notebook of some cells, running; `page.outside` are the requests to anywhere else."""
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(new_notebook(cells=[new_code_cell(cell) for cell in cells], metadata={"kernelspec": kernel}), work / name)
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(60_000)
    page.outside = []

    def route(one: Any) -> None:
        if one.request.url.startswith((url, "data:", "blob:")):
            one.continue_()
        else:
            page.outside.append(one.request.url)
            one.abort()

    page.route("**/*", route)
    page.goto(f"{url}/doc/tree/{name}?token=t")
    page.wait_for_selector('.jp-Notebook-ExecutionIndicator[data-status="idle"]')
    page.evaluate(RUN_ALL)
    return page


# ---- the labeller --------------------------------------------------------------------------------------------------------------

LABELLER = """from alnb.widgets import Labeller
labeller = Labeller({folder!r}, classes=["zero", "one"], features="pixels", batch={batch}, image_size=8)
labeller"""


def zeros_and_ones(folder: Path, n: int) -> Path:
    """Real handwritten digits as files."""
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
  document.addEventListener('keydown', () => { start = performance.now(); }, { capture: true, once: true });
  window.alnbNext = new Promise((done) => {
    const observer = new MutationObserver(() => {
      if (root.dataset.shown === before) return;
      observer.disconnect();
      requestAnimationFrame(() => done(performance.now() - start));
    });
    observer.observe(root, { attributes: true, attributeFilter: ['data-shown'] });
  });
}"""


def press(page: Any, key: str) -> float:
    """Press a key, and say after how many milliseconds, by the browser's clock, another image is drawn."""
    page.evaluate(ARM)
    page.keyboard.press(key)
    found: float = page.evaluate("() => window.alnbNext")
    return found
