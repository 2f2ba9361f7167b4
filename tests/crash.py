"""Runs an experiment in processes that are killed, and prints what came of it. Called by test_crash.py.

    python crash.py FOLDER random KILLS     kill at random instants; resume until the run is complete and KILLS have happened
    python crash.py FOLDER points           end the process at its first file operation, then at its second, and so on

A process that has done no arithmetic yet forks the victims, so that each need not import torch anew.
"""

import functools
import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path

import torch
import torch._dynamo  # the first step of any optimiser imports it, a second or two

torch.set_num_threads(1)

from conftest import images_of  # noqa: E402

import alnb  # noqa: E402
from alnb import store  # noqa: E402
from alnb.acquire import STRATEGIES  # noqa: E402
from alnb.acquire.scopes import RandomSubset, Scoped  # noqa: E402
from alnb.learn import checkpoint  # noqa: E402
from alnb.learn.pretrain import PRETEXTS, pretrain  # noqa: E402


def work(folder: Path, updates: int) -> None:
    """A pre-training and three cycles of so many updates each, with a checkpoint after every one."""
    checkpoint.CHECKPOINT_SHARE = 1e9
    train, test = images_of(60), images_of(30, seed=1)
    recipe = alnb.Recipe(
        epochs=0.01, min_updates=updates, batch=8, lr=0.05, augment=alnb.augment.AUGMENTATIONS["shift"], checkpoint_seconds=0.0
    )
    learner = alnb.Learner(functools.partial(alnb.nets.small, width=4), recipe)
    found = pretrain(PRETEXTS["rotation"], train.images, learner, cache=folder / "pretrained")
    learner = alnb.Learner(learner.net, recipe, backbone=found.backbone)
    protocol = alnb.Protocol(initial=6, budget=4, cycles=3, init="warm")
    strategy, answers = Scoped(RandomSubset(20), STRATEGIES["kcenter"]), alnb.oracle.simulated(train.targets)
    experiment = alnb.Experiment(alnb.Pool.of(train.images), test, learner, strategy, answers, protocol)
    for _ in alnb.cycles(folder / "run", experiment):
        pass


def attempt(folder: Path, updates: int, *, seconds: float | None = None, point: int | None = None) -> bool:
    """One process; whether it came to its end."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            if point is not None:
                end_at(point)
            work(folder, updates)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status) not in (0, 9):
        raise SystemExit("the process failed by itself; see the traceback above")
    return os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0


def end_at(point: int) -> None:
    """Let the process die before its file operation number `point`, as a power cut would."""
    count = iter(range(10**9))

    def dying(operation):
        def wrapped(*args, **kwargs):
            if next(count) == point:
                os._exit(9)
            return operation(*args, **kwargs)

        return wrapped

    os.replace, os.fsync, Path.unlink = dying(os.replace), dying(os.fsync), dying(Path.unlink)


def records(folder: Path) -> list[dict]:
    cycles = [alnb.Cycle.read(record).reproducible for record in store.Run(folder / "run").records()]
    leftovers = [str(p) for p in folder.glob("**/.*.part")]
    return [*cycles, {"leftovers": leftovers}]


def at_random(folder: Path, kills: int) -> tuple[int, int]:
    """Kill at random instants; start a new run whenever one was completed. Returns the numbers of kills and of runs."""
    start = time.monotonic()
    assert attempt(folder / "whole", 25)
    longest, expected = 0.7 * (time.monotonic() - start), records(folder / "whole")
    draw, happened, completed = random.Random(0), 0, 0
    while happened < kills:
        here = folder / f"run{completed}"
        while not attempt(here, 25, seconds=draw.uniform(0.02, longest)):
            happened += 1
        completed += 1
        assert records(here) == expected, f"records differ after {happened} kills"
    return happened, completed


def at_points(folder: Path) -> tuple[int, int]:
    """End at each file operation of a run in turn, and resume. Returns how many points there were, and as many runs."""
    assert attempt(folder / "whole", 3)
    expected, here, happened = records(folder / "whole"), folder / "run", 0
    while not attempt(here, 3, point=happened):
        happened += 1
        assert attempt(here, 3), f"it does not go on after an end at file operation {happened}"
        assert records(here) == expected, f"records differ after an end at file operation {happened}"
        shutil.rmtree(here)
    return happened, happened


if __name__ == "__main__":
    place, mode = Path(sys.argv[1]), sys.argv[2]
    ended, finished = at_random(place, int(sys.argv[3])) if mode == "random" else at_points(place)
    print(json.dumps({"kills": ended, "completed": finished}))
