"""Images per second: batched augmentation of resident images against PIL transforms in a DataLoader with two workers."""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from alnb.learn.augment import AUGMENTATIONS
from benchmarks.made import STREAM

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)  # CIFAR-10, training set
WORKERS, PREFETCH = 2, 2  # torch's default prefetch, per worker
REPEATS = 7
SECONDS = 1.0  # of either side, per repeat


def cifar10() -> tuple[Any, str]:
    """Images [N,32,32,3] as a numpy array and where they come from."""
    root = Path(os.environ.get("ALNB_DATA", Path(__file__).parents[1] / "data"))
    if (root / "cifar-10-batches-py").is_dir():
        from torchvision.datasets import CIFAR10

        return CIFAR10(str(root)).data, "CIFAR-10"
    pixels = torch.randint(0, 256, (50_000, 32, 32, 3), dtype=torch.uint8, generator=(STREAM / "images").generator())
    return pixels.numpy(), f"random pixels, as {root} has no CIFAR-10"


class PilImages(torch.utils.data.Dataset[Tensor]):
    """What `torchvision.datasets.CIFAR10` does for each image."""

    def __init__(self, images: Any, transform: Callable[[Any], Tensor]) -> None:
        self.images, self.transform = images, transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        from PIL import Image

        return self.transform(Image.fromarray(self.images[index]))


def usual(name: str) -> Callable[[Any], Tensor]:
    """The usual PIL transforms that do what the preset of that name does."""
    from torchvision import transforms as T

    if name == "crop_flip":
        moves = [T.RandomCrop(32, padding=4), T.RandomHorizontalFlip()]
    else:
        jitter = T.RandomApply([T.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8)
        moves = [T.RandomResizedCrop(32, scale=(0.2, 1.0)), T.RandomHorizontalFlip(), jitter, T.RandomGrayscale(0.2)]
    return T.Compose([*moves, T.ToTensor(), T.Normalize(MEAN, STD)])


def loaded(images: Any, name: str, batch: int) -> Iterator[Tensor]:
    """Batches without end from warm workers."""
    data = PilImages(images, usual(name))
    sampler = torch.utils.data.RandomSampler(data, replacement=True, num_samples=10**8)
    yield from torch.utils.data.DataLoader(data, batch, sampler=sampler, num_workers=WORKERS, prefetch_factor=PREFETCH)


def batched(images: Any, name: str, batch: int) -> Iterator[Tensor]:
    """Batches without end by `alnb.augment`."""
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    draw, augment = STREAM.generator(), AUGMENTATIONS[name]
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    while True:
        x, _ = augment(pixels.index_select(0, torch.randint(len(pixels), (batch,), generator=draw)), draw)
        yield x.sub_(mean).div_(std)


def rate(batches: Iterator[Tensor]) -> float:
    """Images per second over about `SECONDS`."""
    images, start = 0, time.perf_counter()
    while time.perf_counter() - start < SECONDS:
        images += len(next(batches))
    return images / (time.perf_counter() - start)


def rate_with(threads: int, batches: Iterator[Tensor]) -> float:
    torch.set_num_threads(threads)
    return rate(batches)


def compare(images: Any, name: str, batch: int) -> tuple[list[float], list[float]]:
    """Images per second of both sides, interleaved, one number per repeat."""
    theirs, ours = loaded(images, name, batch), batched(images, name, batch)
    rates: tuple[list[float], list[float]] = ([], [])
    rate_with(1, ours)
    # where other programs want the cores, two threads wait for each other at every operation and one is faster
    torch.set_num_threads(max((1, 2), key=lambda threads: rate_with(threads, ours)))
    rate(theirs)
    for _ in range(REPEATS):
        for _ in range(WORKERS * PREFETCH + 1):  # batches made before the clock starts do not count
            next(theirs)
        rates[0].append(rate(theirs))
        time.sleep(WORKERS * PREFETCH * batch / rates[0][-1])  # until the workers have filled their queue and rest
        rates[1].append(rate(ours))
    return rates


def measure() -> Iterator[dict[str, Any]]:
    """One row per set of augmentations."""
    threads = torch.get_num_threads()
    try:
        images, source = cifar10()
        for name, batch, bar in (("crop_flip", 128, 6.0), ("simsiam", 256, 8.0)):
            theirs, ours = compare(images, name, batch)
            yield {
                "name": f"augmentation {name}",
                "ratio": median(b / a for a, b in zip(theirs, ours, strict=True)),
                "bar": bar,
                "sense": ">=",
                "detail": f"{median(ours):,.0f} against {median(theirs):,.0f} images/s, batch {batch}, {source}, "
                f"threads: {torch.get_num_threads()}",
            }
    finally:
        torch.set_num_threads(threads)
