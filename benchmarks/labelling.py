"""The labeller: from a key press to the next image, in JupyterLab in Chromium, and whether kills lose labels.

A process that has imported everything and done no arithmetic forks the victims, so that each need not import torch anew.
"""

import math
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from alnb.widgets.labeller.folder import Labelling

sys.path.append(str(Path(__file__).parents[1] / "tests"))
import in_browser

PRESSES, KILLS = 100, 100
MILLISECONDS = 100  # the bar
Row = dict[str, Any]


def latencies(presses: int) -> list[float]:
    """Milliseconds of each key press."""
    with (
        tempfile.TemporaryDirectory() as place,
        in_browser.serving(Path(place) / "lab") as (url, work),
        in_browser.chromium() as browser,
    ):
        folder = in_browser.zeros_and_ones(Path(place) / "digits", 2 * presses)
        page = in_browser.opened(browser, url, work, "labeller.ipynb", in_browser.LABELLER.format(folder=str(folder), batch=presses + 1))
        in_browser.ready(page).focus()
        return [in_browser.press(page, "1") for _ in range(presses)]


def victim(folder: Path, acknowledged: int) -> None:
    """Labels one image after the other, and says which once the label is on disk; never returns."""
    state = Labelling(folder, classes=["odd", "even"])
    for k, item in enumerate(state.items):
        state.label(item.key, "odd" if k % 2 else "even")
        os.write(acknowledged, item.key.encode())
    while True:
        signal.pause()


def kills(times: int) -> tuple[int, int, int]:
    """How many labels were acknowledged, how many of them lost, and how many answers are in the log twice, over so many kills."""
    generator, all_said, lost, doubled = random.Random(0), 0, 0, 0
    with tempfile.TemporaryDirectory() as place:
        folder = in_browser.zeros_and_ones(Path(place) / "digits", 300)
        for _ in range(times):
            heard, said = os.pipe()
            child = os.fork()
            if not child:
                try:
                    victim(folder, said)
                finally:
                    os._exit(1)
            os.close(said)
            time.sleep(generator.uniform(0.15, 0.6))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            keys = os.fdopen(heard, "rb").read().decode()
            acknowledged = {keys[k : k + 64] for k in range(0, len(keys) - len(keys) % 64, 64)}
            with Labelling(folder) as state:
                lost += len(acknowledged - set(state.labels))
                doubled += len(state._entries) - len(state.answers)
                all_said += len(acknowledged)
                while state.undo():
                    pass
    return all_said, lost, doubled


def measure() -> Iterator[Row]:
    """One row for kills, which forks and so comes before there is a browser, one for the time of a key press."""
    said, lost, doubled = kills(KILLS)
    if not said:
        raise SystemExit(f"no label was acknowledged before any of {KILLS} kills: this measures nothing")
    yield {
        "name": "the labeller killed at random instants: labels lost or doubled", "ratio": lost + doubled, "bar": 0, "sense": "<=",
        "detail": f"{KILLS} SIGKILLs while {said:,} labels were acknowledged; {lost} lost, {doubled} doubled",
    }  # fmt: skip
    there = Path(in_browser.CHROMIUM).exists()
    times = latencies(PRESSES) if there else [math.nan]
    detail = f"median of {len(times)}, slowest {max(times):.0f} ms; the label is on disk by then; JupyterLab in Chromium without a screen"
    yield {
        "name": "the labeller: from a key press to the next image", "ratio": median(times), "bar": MILLISECONDS, "sense": "<=",
        "detail": f"milliseconds; {detail}" if there else f"there is no Chromium at {in_browser.CHROMIUM}",
    }  # fmt: skip
