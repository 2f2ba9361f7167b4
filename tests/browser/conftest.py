"""JupyterLab on a free port of 127.0.0.1, and Chromium without a screen; skipped, with the reason, where there is no Chromium."""

import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

CHROMIUM = os.environ.get("ALNB_CHROMIUM", "/usr/bin/chromium")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-sync"]
PROJECT = Path(__file__).parents[2]
SHOTS = PROJECT / "build" / "screenshots"
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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not Path(CHROMIUM).exists():
        for item in items:
            if Path(__file__).parent in item.path.parents:
                item.add_marker(pytest.mark.skip(reason=f"needs Chromium at {CHROMIUM}: apt-get install chromium, or set ALNB_CHROMIUM"))


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """Its address, and the folder that it serves."""
    root = tmp_path_factory.mktemp("lab")
    work = root / "work"
    work.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    places = {f"JUPYTER_{name}": str(root / name.lower()) for name in ("CONFIG_DIR", "DATA_DIR")}
    places |= {f"JUPYTERLAB_{name}": str(root / name.lower()) for name in ("SETTINGS_DIR", "WORKSPACES_DIR")}
    told = root / "settings_dir/@jupyterlab/apputils-extension"
    told.mkdir(parents=True)
    (told / "notification.jupyterlab-settings").write_text('{"fetchNews": "false", "checkForUpdates": false}')
    options = [
        "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}", "--ServerApp.port_retries=0", "--IdentityProvider.token=t",
        "--LabApp.news_url=None", "--LabApp.expose_app_in_browser=True", f"--ServerApp.root_dir={work}",
    ]  # fmt: skip
    environment = {**os.environ, **places, "PYTHONPATH": str(PROJECT)}
    with (
        open(root / "lab.log", "w") as log,
        subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *options], env=environment, stdout=log, stderr=log, start_new_session=True
        ) as process,
    ):
        url = f"http://127.0.0.1:{port}"
        for _ in range(240):
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/api?token=t", timeout=1):
                break
            time.sleep(0.5)
        else:
            pytest.fail((root / "lab.log").read_text())
        yield url, work
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=FLAGS)
        yield found
        found.close()


@pytest.fixture
def opened(lab: tuple[str, Path], browser: Any) -> Iterator[Callable[..., Any]]:
    """Opens a page of JupyterLab with a notebook of some cells, and runs them; `page.outside` are the requests to anywhere else."""
    url, work = lab
    pages = []

    def open_and_run(name: str, *cells: str, run: bool = True) -> Any:
        kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
        if cells:
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
        if run:
            page.evaluate(RUN_ALL)
        pages.append(page)
        return page

    yield open_and_run
    for page in pages:
        page.close()


@pytest.fixture
def shot() -> Callable[[Any, str], Path]:
    """Keeps a screenshot in build/screenshots."""

    def take(page: Any, name: str) -> Path:
        SHOTS.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=SHOTS / f"{name}.png")
        return SHOTS / f"{name}.png"

    return take
