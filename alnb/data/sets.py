"""`ImageSet`, images with their classes, and parts of one: `subset`, `imbalanced`, `balanced`, `at_most`."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from alnb import store
from alnb.data.sources import DataError, Images, Resident, Selection, check_indices
from alnb.store.checks import one_of
from alnb.store.streams import Stream


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Facts: N images and the true class of each. Only the oracle and the evaluation may see `targets`."""

    images: Images
    targets: Tensor  # i64 [N], on the CPU, in [0, C)
    classes: tuple[str, ...]  # C names
    name: str

    def __post_init__(self) -> None:
        """Raises: DataError if the fields do not fit together."""
        where = f"image set {self.name!r}"
        targets, classes = self.targets, self.classes
        if not self.name:
            raise DataError("an image set needs a name: manifests and titles state it")
        if targets.dtype != torch.int64 or targets.dim() != 1 or targets.device.type != "cpu":
            kind = f"{targets.dtype} {list(targets.shape)} on {targets.device}"
            raise DataError(f"{where}: targets must be a vector of int64 on the CPU, not {kind}")
        if not len(self.images) == len(targets) > 0:
            raise DataError(f"{where}: {len(self.images)} images but {len(targets)} targets: give one target per image, at least one")
        if len(classes) < 2 or len(set(classes)) != len(classes) or not all(classes):
            raise DataError(f"{where}: classes must be at least two different, non-empty names, not {list(classes)}")
        outside = ((targets < 0) | (targets >= len(classes))).nonzero().flatten()
        if len(outside):
            image = int(outside[0])
            raise DataError(f"{where}: target {int(targets[image])} of image {image} is not one of the classes 0..{len(classes) - 1}")

    def __len__(self) -> int:
        """Number N of images."""
        return len(self.targets)

    @cached_property
    def fingerprint(self) -> str:
        """Hexadecimal sha256 of images, targets and class names; the same on every device."""
        return store.fingerprint(self.images.fingerprint, self.targets, self.classes)


def subset(image_set: ImageSet, indices: Tensor) -> ImageSet:
    """The images at `indices` i64 [n] with their targets, in that order, under the same name and classes.

    Raises:
        IndexError: an index is not in [0, N).
        ValueError: there is no index, or one occurs twice; the message names it.
    """
    indices = indices.cpu()
    check_indices(indices, len(image_set))
    if len(indices) == 0:
        raise ValueError(f"subset of image set {image_set.name!r}: no index; give at least one of 0 to {len(image_set) - 1}")
    values, times = indices.unique(return_counts=True)
    if len(values) != len(indices):
        raise ValueError(f"subset of image set {image_set.name!r}: index {int(values[times > 1][0])} occurs twice; give each index once")
    images = image_set.images
    part = Resident(images.batch(indices)) if isinstance(images, Resident) else Selection(images, indices)
    return ImageSet(part, image_set.targets[indices], image_set.classes, image_set.name)


def imbalanced(image_set: ImageSet, counts: Sequence[int], seed: int | None = None) -> ImageSet:
    """A part with `counts` images of each class, in the order of the full set.

    Args:
        counts: one number per class, in the order of `classes`.
        seed: None takes the first images of each class; a number takes random ones, from `Stream(seed) / "imbalanced" / class`. With
            the same seed, a smaller count takes a part of what a larger one takes.
    Raises:
        ValueError: not one count per class, or a count below 1 or above the number of images.
    """
    classes, where = image_set.classes, f"image set {image_set.name!r}"
    if len(counts) != len(classes):
        raise ValueError(f"{where} has {len(classes)} classes, but there are {len(counts)} counts: give one per class")
    members = [(image_set.targets == label).nonzero().flatten() for label in range(len(classes))]
    pairs = list(zip(counts, members, strict=True))
    wrong = [f"{classes[i]}: asked {count}, available {len(m)}" for i, (count, m) in enumerate(pairs) if not 1 <= count <= len(m)]
    if wrong:
        raise ValueError(f"{where}: a class keeps at least one image and at most all it has: {'; '.join(wrong)}")
    if seed is not None:
        generators = [(Stream(seed) / "imbalanced" / label).generator() for label in range(len(classes))]
        members = [m[torch.randperm(len(m), generator=generator)] for m, generator in zip(members, generators, strict=True)]
    return subset(image_set, torch.cat([m[:count] for m, count in zip(members, counts, strict=True)]).sort().values)


def balanced(image_set: ImageSet, per_class: int, seed: int | None = None) -> ImageSet:
    """A part with `per_class` images of each class, see `imbalanced`. Tiny ImageNet with 450 is the "90K" of Bengar et al. 2021."""
    return imbalanced(image_set, [per_class] * len(image_set.classes), seed)


def at_most(image_set: ImageSet, per_class: int | None) -> ImageSet:
    """A random balanced part with `per_class` images of each class, or with as many as the rarest class has. None: all images."""
    fewest = int(torch.bincount(image_set.targets, minlength=len(image_set.classes)).min())
    return image_set if per_class is None else balanced(image_set, min(per_class, fewest), seed=0)


def proportional(counts: Sequence[int], total: int, at_least: int = 1) -> list[int]:
    """`counts` reduced in proportion to whole numbers that sum to `total`, by largest remainders; among equals the first wins.

    Args:
        counts: positive numbers. No result exceeds its count.
        total: from `at_least` for each to the sum of `counts`.
        at_least: 0 or 1; no result is below it, however small its share.
    Raises:
        ValueError: a number is out of these bounds; the message names it.
    """
    available = sum(counts)
    if min(counts, default=0) < 1:
        raise ValueError(f"counts must be positive numbers, at least one, not {list(counts)}: leave classes without images out")
    one_of("at_least", at_least, (0, 1))
    low = at_least * len(counts)
    if not low <= total <= available:
        raise ValueError(f"total is {total}: {len(counts)} counts with sum {available} allow {low} to {available}")
    shares = [max(at_least, count * total // available) for count in counts]
    while missing := total - sum(shares):  # at most len(counts) times: each share is off by less than one
        step = 1 if missing > 0 else -1
        free = [k for k, share in enumerate(shares) if share + step >= at_least]
        k = max(free, key=lambda k: step * (counts[k] * total - shares[k] * available))
        shares[k] += step
    return shares


def held_out(n: int, count: int, stream: Stream) -> Tensor:
    """Mask [n] of the `count` out of `n` images of a class that are held out for the test."""
    mask = torch.zeros(n, dtype=torch.bool)
    mask[torch.randperm(n, generator=stream.generator())[:count]] = True
    return mask
