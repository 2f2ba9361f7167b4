"""The explorer in JupyterLab in Chromium: from a click to everything redrawn, the slider, the pointer, and 50,000 points.

It leaves the README's picture, `figures/explorer.png`, as it goes. Times are of a browser on a machine without a GPU, where WebGL is drawn
in software.
"""

import re
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

sys.path.append(str(Path(__file__).parents[1] / "tests"))
import in_browser

STEP, FROZEN, REDRAW, SLIDER, HOVER, PAUSE = 5.0, 1.0, 0.5, 0.2, 0.1, 0.5  # seconds, the bars
POINTS, HOVERS = 50_000, 20
Row = dict[str, Any]
OPEN = """from alnb.papers import quickstart
from alnb.widgets import Choices, Explorer
explorer = Explorer(quickstart, Choices(arm={arm!r}), runs={runs!r})
explorer"""
MANY = f"""import torch
from types import SimpleNamespace as N
from alnb.data import ImageSet, Resident
from alnb.widgets.explorer.widget import Panel
g = torch.Generator().manual_seed(0)
targets = torch.randint(10, ({POINTS},), generator=g)
train = ImageSet(Resident(torch.zeros({POINTS}, 3, 8, 8, dtype=torch.uint8)), targets, tuple("0123456789"), "many")
positions = torch.randn(10, 2, generator=g)[targets] * 3 + torch.randn({POINTS}, 2, generator=g)
trail = N(train=train, title="random", tags={{"arm": "many"}})
panel = Panel(trail, positions, print)
panel.view.add_class("alnb-explorer")
panel.view"""
TOLD = """() => {
  let moved = performance.now();
  document.addEventListener('mousemove', (event) => { moved = event.timeStamp; }, { capture: true });
  window.alnbTold = new Promise((done, failed) => {
    setTimeout(() => failed(new Error('no image told of after a minute')), 60000);
    new MutationObserver((_, observer) => {
      observer.disconnect();
      requestAnimationFrame(() => done(performance.now() - moved));
    }).observe(document.querySelector('.alnb-pointed'), { attributes: true, attributeFilter: ['data-image'] });
  });
}"""
COUNTED = """() => {
  const before = window.alnbDrawn, context = CanvasRenderingContext2D.prototype;
  if (before === undefined) {
    const drawImage = context.drawImage; // with which a plot that was drawn is shown: it waits for the drawing
    context.drawImage = function (...what) {
      const start = performance.now();
      drawImage.apply(this, what);
      window.alnbDrawn += performance.now() - start;
    };
  }
  window.alnbDrawn = 0;
  return before ?? 0;
}"""
FRAMES = """() => { window.alnbGaps = []; let last = performance.now();
  const look = (now) => { window.alnbGaps.push(now - last); last = now; window.alnbLoop = requestAnimationFrame(look); };
  window.alnbLoop = requestAnimationFrame(look); }"""


def until(page: Any, text: str) -> None:
    """Wait until the explorer's title says `text` and two more frames are drawn."""
    page.wait_for_function("(text) => document.querySelector('.alnb-explorer')?.innerText.includes(text)", arg=text)
    page.evaluate(in_browser.DRAWN)


def steps(page: Any) -> tuple[list[float], list[float]]:
    """Seconds from each click on *step* to everything redrawn, and how much of that was not asking and training."""
    whole, redrawn = [], []
    for k in range(8):
        start = time.perf_counter()
        in_browser.click(page, "step")
        until(page, f"cycle {k} of 7")
        whole.append(time.perf_counter() - start)
        until(page, f"Cycle {k} took")
        told = re.search(rf"Cycle {k} took ([0-9.]+) s", page.locator(".alnb-explorer").inner_text())
        assert told is not None
        redrawn.append(whole[-1] - float(told[1]))
    return whole, redrawn


def picture(page: Any) -> None:
    """The README's."""
    page.set_viewport_size({"width": 1280, "height": 1700})
    page.wait_for_timeout(1000)
    page.locator(".alnb-explorer").screenshot(path=in_browser.PROJECT / "figures/explorer.png")
    page.set_viewport_size({"width": 1280, "height": 900})


def drawn(page: Any) -> float:
    """Seconds that the browser spent on drawing plots since this was asked before."""
    found: float = page.evaluate(COUNTED)
    return found / 1000


def slides(page: Any) -> tuple[list[float], list[float]]:
    """Seconds from each arrow key on the slider to the other cycle shown, and those in which the plot was drawn."""
    page.get_by_role("slider").focus()
    found: list[float] = []
    plot: list[float] = []
    drawn(page)
    for k in [*range(6, -1, -1), *range(1, 8)]:
        start = time.perf_counter()
        page.keyboard.press("ArrowLeft" if len(found) < 7 else "ArrowRight")
        until(page, f"cycle {k} of 7")
        found.append(time.perf_counter() - start)
        plot.append(drawn(page))
    return found, plot


def hovers(page: Any) -> tuple[list[float], list[float]]:
    """Seconds, by the browser's clock, from the pointer's move to the frame that has the image told, and those of drawing the plot."""
    one = in_browser.hover(page)
    places = [in_browser.hover(page, one), one]
    found: list[float] = []
    plot: list[float] = []
    for place in (places[::-1] * HOVERS)[:HOVERS]:
        page.wait_for_timeout(300)
        drawn(page)
        page.evaluate(TOLD)
        page.mouse.move(*place)
        found.append(page.evaluate("() => window.alnbTold") / 1000)
        plot.append(drawn(page))
    return found, plot


def frames(page: Any) -> list[float]:
    """Seconds between frames while many points are dragged and zoomed."""
    canvas = page.locator(".alnb-explorer canvas").first
    canvas.wait_for()
    page.wait_for_timeout(3000)
    box = canvas.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.evaluate(FRAMES)
    page.mouse.move(x, y)
    page.mouse.down()
    for k in range(40):
        page.mouse.move(x + 3 * k, y + 2 * k)
    page.mouse.up()
    for _ in range(20):
        page.mouse.wheel(0, -60)
        page.wait_for_timeout(30)
    return [gap / 1000 for gap in page.evaluate("() => { cancelAnimationFrame(window.alnbLoop); return window.alnbGaps; }")]


def row(name: str, seconds: float, bar: float, detail: str) -> Row:
    return {"name": f"the explorer: {name}", "ratio": seconds, "bar": bar, "sense": "<=", "detail": f"seconds; {detail}"}


def measure() -> Iterator[Row]:
    """A row for each bar."""
    with tempfile.TemporaryDirectory() as place, in_browser.serving(Path(place) / "lab") as (url, work), in_browser.chromium() as browser:
        for arm, bar in (("warm", STEP), ("frozen", FROZEN)):
            page = in_browser.opened(browser, url, work, f"{arm}.ipynb", OPEN.format(arm=arm, runs=str(Path(place) / "runs")))
            page.set_default_timeout(300_000)
            until(page, "none labelled yet")
            whole, redrawn = steps(page)
            told = f"digits at scale laptop, entropy, start {arm}; median of {len(whole)}, the slowest {max(whole):.2f}"
            yield row(f"a step, {arm}, from click to redrawn", median(whole), bar, told)
            if arm == "warm":
                yield row("redrawing of that", median(redrawn), REDRAW, f"what is not asking and training; median of {len(redrawn)}")
                picture(page)
                for name, (found, plot), bar in (
                    ("slider to another cycle", slides(page), SLIDER),
                    ("pointer to the image told", hovers(page), HOVER),
                ):
                    told = f"median of {len(found)}, the slowest {max(found):.2f}; {median(plot):.2f} of it are the plot, drawn in software"
                    yield row(name, median(found), bar, told)
            page.close()
        page = in_browser.opened(browser, url, work, "many.ipynb", MANY)
        gaps = frames(page)
        told = f"{POINTS:,} points dragged and zoomed: the longest of {len(gaps)} gaps between frames; the median is {median(gaps):.3f}"
        yield row(f"longest pause with {POINTS:,} points", max(gaps), PAUSE, told)
        page.close()
