"""Where images come from: `Resident`, one tensor on the device, `Selection`, a part of any source, and `Embedded`, their features."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from alnb import store

CHUNK_BYTES = 1 << 26  # bytes of images looked at in one piece when a whole source is read: bounds the memory, never the result

Statistics = tuple[tuple[float, ...], tuple[float, ...]]
"""(mean, standard deviation), each one number per channel in [0, 1]."""


class DataError(Exception):
    """Data are missing, damaged or not as they must be; the message names the file or the value, the place and the remedy."""


@runtime_checkable  # for the type checks of the tests; nothing here asks isinstance
class Images(Protocol):
    """N images of one size."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(3, H, W); (D,) where features stand for the images."""

    @property
    def device(self) -> torch.device:
        """Where `batch` puts its images."""

    @property
    def fingerprint(self) -> str:
        """Hexadecimal sha256 of number, shape and bytes."""

    def __len__(self) -> int:
        """Number N of images."""

    def batch(self, indices: Tensor) -> Tensor:
        """Images uint8 [B,3,H,W] for indices i64 [B]; or, float, what a net takes as it is."""


@dataclass(frozen=True, eq=False)
class Resident:
    """Images that lie as one tensor uint8 [N,3,H,W] on their device. Nobody may write to the tensor."""

    tensor: Tensor

    def __post_init__(self) -> None:
        """Raises: DataError where it is no such tensor."""
        shape = tuple(self.tensor.shape)
        if self.tensor.dtype != torch.uint8 or len(shape) != 4 or shape[1] != 3 or 0 in shape:
            raise DataError(f"images are one tensor uint8 [N,3,H,W] with N > 0, not {self.tensor.dtype} {list(shape)}; convert them first")

    def __len__(self) -> int:
        """Number N of images."""
        return self.tensor.shape[0]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(3, H, W)."""
        _, channels, height, width = self.tensor.shape
        return channels, height, width

    @property
    def device(self) -> torch.device:
        """Where the tensor lies."""
        return self.tensor.device

    def batch(self, indices: Tensor) -> Tensor:
        """Images uint8 [B,3,H,W] on the device for indices i64 [B], which may lie on the CPU or on the device.

        Raises:
            IndexError: an index on the CPU is not in [0, N). Indices on a GPU are checked there, by the kernel, since looking at them
                would make the host wait.
            TypeError: not a vector of i64.
        """
        check_indices(indices, len(self))
        return self.tensor.index_select(0, indices.to(self.device, non_blocking=True))

    def to(self, device: torch.device | str) -> Resident:
        """The same images on another device."""
        return Resident(self.tensor.to(device))

    @cached_property
    def fingerprint(self) -> str:
        """Hexadecimal sha256 of number, shape and bytes: the same on every device."""
        return _fingerprint(self, self.tensor.split(_step(self.shape)))

    @cached_property
    def statistics(self) -> Statistics:
        """Mean and standard deviation over all pixels of all images, per channel, in [0, 1]."""
        return _statistics(self.tensor.split(_step(self.shape)))


@dataclass(frozen=True, eq=False)
class Selection:
    """The images of another source at `indices` i64 [N], in that order, without a copy."""

    images: Images
    indices: Tensor

    def __post_init__(self) -> None:
        """Raises: IndexError, TypeError as `Resident.batch`."""
        check_indices(self.indices, len(self.images))

    def __len__(self) -> int:
        """Number N of images."""
        return len(self.indices)

    @property
    def shape(self) -> tuple[int, ...]:
        """As that of the other source."""
        return self.images.shape

    @property
    def device(self) -> torch.device:
        """Where `batch` puts its images."""
        return self.images.device

    def batch(self, indices: Tensor) -> Tensor:
        """Images uint8 [B,3,H,W] for indices i64 [B] into this selection; raises as `Resident.batch`."""
        check_indices(indices, len(self))
        return self.images.batch(self._placed.index_select(0, indices.to(self.device, non_blocking=True)))

    @cached_property
    def _placed(self) -> Tensor:
        return self.indices.to(self.device)

    @cached_property
    def fingerprint(self) -> str:
        """As that of a `Resident` with the same images."""
        return _fingerprint(self, _parts(self))

    @cached_property
    def statistics(self) -> Statistics:
        """As `Resident.statistics`."""
        return _statistics(_parts(self))


@dataclass(frozen=True, eq=False)
class Embedded:
    """Images by the features that a frozen net gives them: what a linear classifier is trained on, and what coverage is measured in.

    Raises: DataError where the numbers do not fit together, or a feature is not finite.
    """

    images: Images
    features: Tensor  # float [N,D], of the images as they are
    views: Tensor | None = None  # float [V,N,D], of V random views of each; None: training sees `features` too

    def __post_init__(self) -> None:
        """Check every field."""
        if self.features.ndim != 2 or len(self.features) != len(self.images) or not self.features.is_floating_point():
            raise DataError(
                f"features are float [{len(self.images)},D], one row an image, not {self.features.dtype} "
                f"{list(self.features.shape)}: embed these very images"
            )
        if self.views is not None and self.views.shape[1:] != self.features.shape:
            raise DataError(f"views are [V,N,D] with features [N,D], not {list(self.views.shape)} with {list(self.features.shape)}")
        if not bool(self.features.isfinite().all()):
            raise DataError(
                f"features of {int((~self.features.isfinite()).any(1).sum())} images are not finite: look at the net that made them"
            )

    def __len__(self) -> int:
        """Number N of images."""
        return len(self.features)

    @property
    def shape(self) -> tuple[int]:
        """(D,)."""
        return (self.features.shape[1],)

    @property
    def device(self) -> torch.device:
        """Where the features lie."""
        return self.features.device

    def batch(self, indices: Tensor) -> Tensor:
        """Features float [B,D] for indices i64 [B]; raises as `Resident.batch`."""
        check_indices(indices, len(self))
        return self.features.index_select(0, indices.to(self.device, non_blocking=True))

    def view(self, indices: Tensor, generator: torch.Generator) -> Tensor:
        """Features float [B,D] of a random view of each image at `indices` i64 [B]; of the image itself where there are no views."""
        if self.views is None:
            return self.batch(indices)
        check_indices(indices, len(self))
        chosen = torch.randint(len(self.views), indices.shape, generator=generator, device=self.device)
        return self.views[chosen, indices.to(self.device, non_blocking=True)]

    @cached_property
    def fingerprint(self) -> str:
        """Hexadecimal sha256 of the features, the views and the images."""
        return store.fingerprint(self.features, self.views, self.images)


def pixels(images: Images) -> Images:
    """The images themselves, also where features stand for them."""
    return images.images if isinstance(images, Embedded) else images


def check_indices(indices: Tensor, n: int) -> None:
    """Make sure that `indices` is a vector i64 and, where that needs no waiting for a GPU, that all lie in [0, n).

    Raises:
        IndexError: one does not; the message names it and its position.
        TypeError: not a vector of i64.
    """
    if indices.dtype != torch.int64 or indices.dim() != 1:
        have = f"{indices.dtype} {list(indices.shape)}"
        raise TypeError(f"indices are one vector of int64, not {have}; a mask becomes one by .nonzero().squeeze(1)")
    if indices.device.type != "cpu" or len(indices) == 0:
        return
    low, high = indices.aminmax()
    if low < 0 or high >= n:
        position = int(((indices < 0) | (indices >= n)).nonzero()[0])
        value = int(indices[position])
        raise IndexError(f"index {value} (at position {position}) lies outside the {n} images; indices go from 0 to {n - 1}")


def _step(shape: tuple[int, ...]) -> int:
    return max(1, CHUNK_BYTES // math.prod(shape))


def _parts(images: Images) -> Iterator[Tensor]:
    return (images.batch(indices) for indices in torch.arange(len(images)).split(_step(images.shape)))


def _fingerprint(images: Images, parts: Iterable[Tensor]) -> str:
    digest = hashlib.sha256(repr((len(images), *images.shape)).encode())
    for part in parts:
        digest.update(part.cpu().contiguous().numpy())  # type: ignore[arg-type]  # an array is a buffer
    return digest.hexdigest()


def _statistics(parts: Iterable[Tensor]) -> Statistics:
    """From counts of the 256 values per channel: exact, and faster than sums of squares in float64."""
    counts = torch.zeros(3, 256, dtype=torch.int64)
    for part in parts:
        counts += torch.stack([torch.bincount(part[:, c].flatten(), minlength=256) for c in range(3)]).cpu()
    share = counts.double() / counts.sum(dim=1, keepdim=True)
    level = torch.arange(256, dtype=torch.float64) / 255
    mean = share @ level
    std = (share * (level - mean[:, None]).square()).sum(dim=1).sqrt()
    return tuple(mean.tolist()), tuple(std.tolist())
