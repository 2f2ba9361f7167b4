"""A tiny experiment as a notebook, and what may befall it in the middle of a training."""

import os
import signal
import time
from pathlib import Path

from conftest import notebook_of

import alnb
from alnb import store
from alnb.report import records
from alnb.store import stop

ORDER = "ALNB_TEST_ORDER"  # a file that says once what is to happen in which cycle, as "kill 1"
CYCLES, UPDATES = 5, 100  # updates of each; `harm` is called after each 50
PARAMETERS = """\
strategies: list[str] = ["random", "nearly_tied"]  # names
seeds: list[int] = [0]  # one run for each
runs: str = ""  # where records go"""
IMAGES = """\
from functools import partial

import torch
from sweeping import CYCLES, UPDATES, harm

import alnb
from alnb import acquire, notebook
from alnb.loop import oracle
from alnb.data import ImageSet, Resident


def images(n, seed):
    targets = torch.arange(n) % 3
    pixels = torch.randint(0, 120, (n, 3, 8, 8), generator=torch.Generator().manual_seed(seed))
    for index, label in enumerate(targets.tolist()):
        pixels[index, :, label * 2 : label * 2 + 2] += 60
    return ImageSet(Resident(pixels.to(torch.uint8)), targets, ("a", "b", "c"), "bars")


train, test = images(60, 0), images(30, 1)
shift = lambda x, generator: (x + 0.0, None)"""
STRATEGY = """\
SIGN = -1


def nearly_tied(query: alnb.Query) -> torch.Tensor:
    return query.candidates[acquire.scores.top(SIGN * acquire.scores.margin(query.log_probs), query.n)]"""  # no line end after the last
LOOP = """\
known = notebook.choose({"random": acquire.STRATEGIES["random"], "nearly_tied": nearly_tied}, strategies, "strategy")
recipe = alnb.Recipe(epochs=1, min_updates=UPDATES, batch=8, lr=0.05, augment=shift)
for name, strategy in known.items():
    for seed in seeds:
        experiment = alnb.Experiment(
            alnb.Pool.of(train.images), test, alnb.Learner(partial(alnb.nets.small, width=4), recipe), strategy,
            oracle.simulated(train.targets), alnb.Protocol(6, 4, CYCLES, seed=seed), tags={"strategy": name, "seed": seed},
        )
        run = experiment.run(runs, f"{name}-{seed}")
        for cycle in alnb.cycles(run, experiment, partial(harm, run)):
            print(name, cycle.n_labelled, f"{cycle.metrics['accuracy']:.1%}")"""


def experiment_of(folder: Path, *more: str | tuple[str, str]) -> Path:
    """The notebook, with more cells at its end."""
    return notebook_of(folder / "tiny.ipynb", PARAMETERS, IMAGES, STRATEGY, LOOP, *more)


def harm(run: alnb.Run, done: int, updates: int, loss: float) -> None:
    """What $ALNB_TEST_ORDER says, in the middle of a training."""
    order = Path(os.environ.get(ORDER, "nowhere"))
    if done == updates or not order.exists() or int(order.read_text().split()[1]) != len(run.records()):
        return
    what = order.read_text().split()[0]
    order.rename(order.with_suffix(".here"))
    if what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "late" and os.environ[stop.DEADLINE]:
        os.environ[stop.DEADLINE] = str(time.time())
    if what == "wait":
        end = time.monotonic() + 120
        while not stop.requested() and time.monotonic() < end:
            time.sleep(0.02)
    if what == "hang":
        time.sleep(120)


def table(folder: Path) -> dict[str, list[store.Json]]:
    """All records below `folder` but for what was measured, by the name of their run; and what should not be there."""
    found = {run.path.name: [alnb.Cycle.read(record).reproducible for record in run.records()] for run in records.runs(folder)}
    return {**found, "left behind": [{"path": str(path)} for path in folder.rglob("*.part")]}
