"""Fixtures of a real browser; skipped, with the reason, where there is no Chromium."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import in_browser
import pytest
from in_browser import CHROMIUM, PROJECT

SHOTS = PROJECT / "build" / "screenshots"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not Path(CHROMIUM).exists():
        for item in items:
            if Path(__file__).parent in item.path.parents:
                item.add_marker(pytest.mark.skip(reason=f"needs Chromium at {CHROMIUM}: apt-get install chromium, or set ALNB_CHROMIUM"))


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    with in_browser.serving(tmp_path_factory.mktemp("lab")) as found:
        yield found


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    with in_browser.chromium() as found:
        yield found


@pytest.fixture
def opened(lab: tuple[str, Path], browser: Any) -> Iterator[Callable[..., Any]]:
    pages = []

    def open_and_run(name: str, *cells: str) -> Any:
        pages.append(in_browser.opened(browser, *lab, name, *cells))
        return pages[-1]

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
