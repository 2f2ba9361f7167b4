"""What is true of images: `ImageSet`, parts of one (`subset`, `imbalanced`, `balanced`), and one in another order of colours (`bgr`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from alnb import store
from alnb.data.sources import DataError, Images, Resident, Selection, check_indices, pixels
from alnb.store import streams as rng

IMBALANCED_CIFAR10 = (500, 1000, 1500, 2000, 2500, 3000, 3500, 4000, 4500, 5000)
"""Training images of airplane, automobile, bird, cat, deer, dog, frog, horse, ship, truck; 27,500 in all.
Source: Yi et al. 2022 (PT4AL), section 5.3. Which images of a class are kept is not stated there: see `imbalanced`."""


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Facts: N images and, for each, its true class. Only the oracle and the evaluation may see `targets`."""

    images: Images
    targets: Tensor  # i64 [N], on the CPU, in [0, C)
    classes: tuple[str, ...]  # C names
    name: str

    def __post_init__(self) -> None:
        """Raises: DataError where the parts do not belong together."""
        where = f"image set {self.name!r}"
        targets, classes = self.targets, self.classes
        if not self.name:
            raise DataError("an image set needs a name: it stands in manifests and titles")
        if targets.dtype != torch.int64 or targets.dim() != 1 or targets.device.type != "cpu":
            have = f"{targets.dtype} {list(targets.shape)} on {targets.device}"
            raise DataError(f"{where}: targets are one vector of int64 on the CPU, not {have}")
        if not len(self.images) == len(targets) > 0:
            raise DataError(f"{where}: {len(self.images)} images and {len(targets)} targets; there must be as many, and at least one")
        if len(classes) < 2 or len(set(classes)) != len(classes) or not all(classes):
            raise DataError(f"{where}: classes are at least two different, non-empty names, not {list(classes)}")
        outside = ((targets < 0) | (targets >= len(classes))).nonzero().flatten()
        if len(outside):
            first = int(outside[0])
            raise DataError(f"{where}: target {int(targets[first])} of image {first} is not one of the classes 0..{len(classes) - 1}")

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
        ValueError: none, or one that occurs twice; the message names it.
    """
    indices = indices.cpu()
    check_indices(indices, len(image_set))
    if len(indices) == 0:
        raise ValueError(f"an empty subset of image set {image_set.name!r}: name at least one of its {len(image_set)} images")
    values, times = indices.unique(return_counts=True)
    if len(values) != len(indices):
        twice = int(values[times > 1][0])
        raise ValueError(f"subset of image set {image_set.name!r}: index {twice} occurs more than once; name each image once")
    images = image_set.images
    part = Resident(images.batch(indices)) if isinstance(images, Resident) else Selection(images, indices)
    return ImageSet(part, image_set.targets[indices], image_set.classes, image_set.name)


def imbalanced(image_set: ImageSet, counts: Sequence[int], seed: int | None = None) -> ImageSet:
    """So many images of each class, in the order of the whole set.

    Args:
        counts: one number per class, in the order of `classes`, such as `IMBALANCED_CIFAR10`.
        seed: None keeps the first of each class; a number keeps a random choice, from the stream (seed, "imbalanced", class).
            With one seed, a smaller count keeps a part of what a larger one keeps.

    Raises:
        ValueError: not one count per class, or one that is below 1 or above what there is.
    """
    classes = image_set.classes
    if len(counts) != len(classes):
        raise ValueError(f"image set {image_set.name!r} has {len(classes)} classes, {len(counts)} counts were given: give one per class")
    members = [(image_set.targets == label).nonzero().flatten() for label in range(len(classes))]
    both = list(zip(counts, members, strict=True))
    wrong = [f"{classes[i]}: asked {count}, available {len(m)}" for i, (count, m) in enumerate(both) if not 1 <= count <= len(m)]
    if wrong:
        raise ValueError(f"image set {image_set.name!r}: a class keeps at least one image and at most all it has: {'; '.join(wrong)}")
    chosen = [m[_order(len(m), seed, label)[:count]] for label, (count, m) in enumerate(both)]
    return subset(image_set, torch.cat(chosen).sort().values)


def balanced(image_set: ImageSet, per_class: int, seed: int | None = None) -> ImageSet:
    """`per_class` images of each class; see `imbalanced`. Tiny ImageNet with 450 is the "90K" of Bengar et al. 2021."""
    return imbalanced(image_set, [per_class] * len(image_set.classes), seed)


def proportional(counts: Sequence[int], total: int, at_least: int = 1) -> list[int]:
    """`counts` made smaller in proportion: whole numbers that sum to `total` exactly, by largest remainders, the first among equals.

    `proportional(IMBALANCED_CIFAR10, 2750)`, for `imbalanced`, is the paper's imbalance for a laptop.

    Args:
        counts: positive numbers.
        total: from `at_least` for each to the sum of `counts`.
        at_least: 0 or 1; every result is at least that, however small its share. None is above what it is made from.

    Raises:
        ValueError: a number outside these bounds; the message names it.
    """
    whole = sum(counts)
    if min(counts, default=0) < 1:
        raise ValueError(f"counts are positive numbers, at least one, not {list(counts)}: leave classes without images out")
    if at_least not in (0, 1):
        raise ValueError(f"at_least is {at_least}: it must be 0 or 1")
    if not at_least * len(counts) <= total <= whole:
        raise ValueError(f"total is {total}: {len(counts)} counts with {whole} in all make {at_least * len(counts)} to {whole}")
    shares = [max(at_least, count * total // whole) for count in counts]
    while missing := total - sum(shares):  # as often as there are counts, at most: each is off by less than one
        step = 1 if missing > 0 else -1
        free = [k for k, share in enumerate(shares) if share + step >= at_least]
        k = max(free, key=lambda k: step * (counts[k] * total - shares[k] * whole))
        shares[k] += step
    return shares


def bgr(image_set: ImageSet) -> ImageSet:
    """The images with their channels reversed, as programs see them that read files by OpenCV; " (BGR)" is added to the name.

    PT4AL's released code trains and tests on such images. Twice is once too often: it gives the first order back, under a longer name.
    Grey images do not change, and nor does their fingerprint.

    Raises:
        DataError: features stand for the images: reverse the images, and embed those.

    Memory: O(N) images, once: a copy in `Resident` form, also of a `Selection`.
    """
    images = pixels(image_set.images)
    if images is not image_set.images:
        raise DataError(f"image set {image_set.name!r} holds features, which have no colours: take `bgr` of its images, and embed those")
    turned = torch.empty(len(images), *images.shape, dtype=torch.uint8, device=images.device)
    for some in torch.arange(len(images)).split(1000):
        turned[some[0] : some[-1] + 1] = images.batch(some).flip(1)
    return ImageSet(Resident(turned), image_set.targets, image_set.classes, f"{image_set.name} (BGR)")


def at_most(image_set: ImageSet, per_class: int | None) -> ImageSet:
    """A balanced part with `per_class` images of each class, or with as many as the rarest has; all images where it is None."""
    fewest = int(torch.bincount(image_set.targets, minlength=len(image_set.classes)).min())
    return image_set if per_class is None else balanced(image_set, min(per_class, fewest), seed=0)


def _order(n: int, seed: int | None, label: int) -> Tensor:
    return torch.arange(n) if seed is None else torch.randperm(n, generator=rng.generator(seed, "imbalanced", label))


def held_out(n: int, count: int, *where: str | int) -> Tensor:
    """Mask [n] of the `count` among `n` images of one class that are kept for the test, from the fixed stream (0, *where)."""
    mask = torch.zeros(n, dtype=torch.bool)
    mask[torch.randperm(n, generator=rng.generator(0, *where))[:count]] = True
    return mask


__all__ = ["IMBALANCED_CIFAR10", "DataError", "ImageSet", "at_most", "balanced", "bgr", "held_out", "imbalanced", "proportional", "subset"]
