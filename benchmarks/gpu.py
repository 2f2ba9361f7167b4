"""What one GPU does, in two minutes: loop efficiency, ResNet-18 images a second with 1, 4 and 8 processes, SimSiam views a second.

``python -m benchmarks gpu`` on a GPU alone. ``python -m benchmarks.gpu SECONDS DEVICE`` is one of the processes.
"""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import torch

import alnb
from alnb.learn import nets
from alnb.learn.augment import AUGMENTATIONS
from alnb.learn.train import Recipe, TrainingHook, fit
from benchmarks.made import STREAM
from benchmarks.simsiam import UPDATES, views_a_second
from benchmarks.training import BATCH, cifar_like, efficiency

SECONDS = 8.0  # that the processes of one measurement train beside each other
WARM = 50  # updates before the measurement, and between two looks at the clock; a multiple of those between two reports, which wait
PROCESSES = {1: 20_000, 4: 50_000, 8: 50_000}  # images a second, at least


def rate(length: float, device: torch.device, make: Any = nets.resnet18) -> dict[str, float]:
    """Train for `length` seconds after a warm-up: images a second, and when it began and ended, in seconds since the epoch."""
    images, targets, _ = cifar_like(20 * BATCH)
    images, everything = images.to(device), torch.arange(len(targets))
    updates, begun = [0], [0.0]

    class Over(Exception):
        pass

    def look(_: nets.Net, step: int) -> None:
        if step == WARM:
            begun[0] = time.time()
        updates[0] = step - WARM
        if step > WARM and time.time() > begun[0] + length:
            raise Over

    recipe = Recipe(epochs=1e-9, min_updates=10**7, batch=BATCH, lr=0.01, augment=AUGMENTATIONS["crop_flip"])
    learner, hook = alnb.Learner(make, recipe), TrainingHook(lambda *_: None, ((look, WARM),))
    with suppress(Over):
        fit(learner.build(10, STREAM, device), images, everything, targets, learner, STREAM, hook=hook)
    if device.type == "cuda":
        torch.cuda.synchronize()
    end = time.time()
    return {"rate": updates[0] * BATCH / (end - begun[0]), "begin": begun[0], "end": end}


def beside(processes: int, device: str, length: float = SECONDS) -> tuple[float, str]:
    """Images a second of several processes together, and how."""
    command = [sys.executable, "-m", "benchmarks.gpu", str(length), device]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(processes)]
    answers = [json.loads(process.communicate()[0].splitlines()[-1]) for process in running]
    together = min(a["end"] for a in answers) - max(a["begin"] for a in answers)
    each = ", ".join(f"{a['rate']:,.0f}" for a in answers)
    return sum(
        a["rate"] for a in answers
    ), f"images/s; batch {BATCH}, {length:.0f} s each, {together:.1f} s of them all together; each: {each}"


def measure() -> Iterator[dict[str, Any]]:
    """The rows; not measured where there is no GPU."""
    there, cuda = torch.cuda.is_available(), torch.device("cuda")
    rows: list[tuple[str, float, Any]] = [("loop efficiency of `fit`, ResNet-18", 0.9, lambda: efficiency(nets.resnet18, cuda, 300, 3))]
    for n, bar in PROCESSES.items():
        rows.append((f"ResNet-18, training, {n} process{'es' if n > 1 else ''}", bar, lambda n=n: beside(n, "cuda")))
    rows.append(("SimSiam, ResNet-18, one process", 60_000, lambda: views_a_second(cuda, UPDATES, 2, False)))
    for name, bar, work in rows:
        value, detail = work() if there else (float("nan"), "needs a GPU, and this machine has none")
        place = f", {torch.cuda.get_device_name(cuda)}" if there else ""
        yield {"name": name, "ratio": value, "bar": bar, "sense": ">=", "detail": f"{detail}{place}"}


if __name__ == "__main__":
    print(json.dumps(rate(float(sys.argv[1]), torch.device(sys.argv[2]))))
