"""Loop efficiency of `fit`, and its throughput against the usual loop over a DataLoader."""

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch.nn import functional

import alnb
from alnb.data import Resident
from alnb.learn import nets
from alnb.learn.augment import AUGMENTATIONS
from alnb.learn.train import Recipe, fit
from benchmarks.made import STREAM

BATCH = 128
Net = Callable[[int], nets.Net]


def cifar_like(n: int) -> tuple[Resident, torch.Tensor, str]:
    """`n` CIFAR-10 images where $ALNB_DATA has them, else noise of their shape; and which of the two."""
    try:
        real = alnb.data.cifar10("train")
        return Resident(real.images.batch(torch.arange(n))), real.targets[:n], "CIFAR-10 images"
    except alnb.data.DataError:
        generator = STREAM.generator()
        pixels = torch.randint(0, 256, (n, 3, 32, 32), generator=generator, dtype=torch.uint8)
        return Resident(pixels), torch.randint(0, 10, (n,), generator=generator), "random images of CIFAR-10's shape"


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Wall time of `work`, the device's queue included."""
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def bare(net: nets.Net, recipe: Recipe, x: torch.Tensor, y: torch.Tensor, updates: int) -> None:
    """Forward, backward and step on one fixed batch, `updates` times: what no loop can be faster than."""
    optimiser = torch.optim.SGD(net.parameters(), lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay, fused=True)
    net.train()
    for _ in range(updates):
        with torch.autocast(x.device.type, torch.bfloat16, enabled=x.device.type == "cuda"):
            loss = functional.cross_entropy(net(x), y)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()


def efficiency(make: Net, device: torch.device, updates: int, repeats: int) -> tuple[float, str]:
    """Median over interleaved repeats of: time of the bare steps, divided by that of `fit` with crop, flip and reports."""
    images, targets, kind = cifar_like(20 * BATCH)
    images, everything = images.to(device), torch.arange(len(targets))
    recipe = Recipe(epochs=1e-9, min_updates=updates, batch=BATCH, lr=0.01, augment=AUGMENTATIONS["crop_flip"])
    learner = alnb.Learner(make, recipe)
    net = learner.build(10, STREAM, device)
    x, y = (images.batch(everything[:BATCH]).float() / 255).contiguous(memory_format=torch.channels_last), targets[:BATCH].to(device)
    sides = [lambda: bare(net, recipe, x, y, updates), lambda: fit(net, images, everything, targets, learner, STREAM)]
    ratios = []
    for repeat in range(repeats + 1):
        times = {side: seconds(sides[side], device) for side in ((0, 1) if repeat % 2 else (1, 0))}  # each goes first as often
        if repeat:  # the first pair warms up
            ratios.append(times[0] / times[1])
    spread = f"median of {repeats} interleaved pairs, {min(ratios):.2f} to {max(ratios):.2f}"
    return statistics.median(ratios), f"batch {BATCH}, {updates} updates, crop and flip, {kind}; {spread}"


def usual(make: Net, images: Resident, targets: torch.Tensor, updates: int) -> float:
    """Seconds per update of the loop that tutorials write: PIL transforms, a DataLoader with two workers, torch's default optimiser."""
    from torchvision import transforms
    from torchvision.transforms.functional import to_pil_image

    stages = [
        transforms.RandomCrop(32, 4),
        transforms.RandomHorizontalFlip(),
        transforms.ToTensor(),
        transforms.Normalize((0.5,) * 3, (0.25,) * 3),
    ]
    transform = transforms.Compose(stages)
    pictures = [to_pil_image(image) for image in images.batch(torch.arange(len(targets)))]

    class Usual(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return len(pictures)

        def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
            return transform(pictures[index]), int(targets[index])

    loader = torch.utils.data.DataLoader(Usual(), BATCH, shuffle=True, num_workers=2, drop_last=True, persistent_workers=True)
    net = make(10).train()
    optimiser = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    done, start = -2, 0.0
    while True:
        for x, y in loader:
            optimiser.zero_grad()
            loss = functional.cross_entropy(net(x), y)
            loss.backward()
            optimiser.step()
            loss.item()
            done += 1
            if done == 0:  # the workers are running, and two updates have warmed everything up
                start = time.perf_counter()
            if done == updates:
                return (time.perf_counter() - start) / updates


def throughput(make: Net, updates: int, repeats: int) -> tuple[float, str]:
    """Median over interleaved repeats of: seconds per update of the usual loop, divided by those of `fit`."""
    images, targets, kind = cifar_like(min(40, updates + 4) * BATCH)
    recipe = Recipe(epochs=1e-9, min_updates=updates, batch=BATCH, lr=0.01, augment=AUGMENTATIONS["crop_flip"])
    everything, learner, ratios = torch.arange(len(targets)), alnb.Learner(make, recipe), []
    net = learner.build(10, STREAM)
    fit(net, images, everything, targets, replace(learner, recipe=replace(recipe, min_updates=2)), STREAM)
    for _ in range(repeats):
        theirs = usual(make, images, targets, updates)
        ours = seconds(lambda: fit(net, images, everything, targets, learner, STREAM), torch.device("cpu")) / updates
        ratios.append(theirs / ours)
    return statistics.median(ratios), f"batch {BATCH}, {updates} updates, crop and flip, {kind}; median of {repeats} interleaved pairs"


def measure() -> Iterator[dict[str, Any]]:
    """Rows for the CPU, and for a GPU where there is one."""
    cpu = torch.device("cpu")
    rows: list[tuple[str, float, Callable[[], tuple[float, str]]]] = [
        ("loop efficiency of `fit`, ResNet-18, CPU", 0.95, lambda: efficiency(nets.resnet18, cpu, 4, 6)),
        ("training against PIL and DataLoader, ResNet-18", 1.0, lambda: throughput(nets.resnet18, 4, 5)),
        ("training against PIL and DataLoader, laptop net", 1.1, lambda: throughput(partial(nets.small), 60, 5)),
    ]
    if torch.cuda.is_available():
        cuda = torch.device("cuda")
        rows.append(("loop efficiency of `fit`, ResNet-18, GPU", 0.90, lambda: efficiency(nets.resnet18, cuda, 500, 5)))
    for name, bar, work in rows:
        ratio, detail = work()
        yield {"name": name, "ratio": ratio, "bar": bar, "sense": ">=", "detail": detail}
