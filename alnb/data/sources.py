"""Where images come from: `Resident`, one tensor on the device; `Selection`, a part of any source; `Embedded`, their features."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from alnb import store

CHUNK_BYTES = 1 << 26  # bytes of images read at once when a whole source is read: bounds the memory, never changes the result


class DataError(Exception):
    """Data are missing, damaged or not as they must be. The message names the file or the value, the place and the remedy."""


@runtime_checkable  # for the type checks of the tests; the package itself does not use isinstance
class Images(Protocol):
    """N images of one size."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(3, H, W); (D,) for features."""

    @property
    def device(self) -> torch.device:
        """The device of what `batch` returns."""

    @property
    def fingerprint(self) -> str:
        """Hexadecimal sha256 of number, shape and content."""

    def __len__(self) -> int:
        """Number N of images."""

    def batch(self, indices: Tensor) -> Tensor:
        """Images uint8 [B,3,H,W] at `indices` i64 [B], which may lie on the CPU or on the device; or float, as a net takes it.

        Raises:
            IndexError: an index on the CPU is not in [0, N). Indices on a GPU are checked by its kernel: a check here would make the
                host wait.
            TypeError: not a vector of i64.
        """


class _Pixels:
    """Fingerprint and statistics of a source of uint8 images. Both are the same on every device."""

    @cached_property
    def fingerprint(self) -> str:
        """Hexadecimal sha256 of number, shape and bytes."""
        digest = hashlib.sha256(repr((len(self), *self.shape)).encode())  # type: ignore[attr-defined, arg-type]
        for chunk in _chunks(self):  # type: ignore[arg-type]
            digest.update(chunk.cpu().contiguous().numpy())  # type: ignore[arg-type]  # an array is a buffer
        return digest.hexdigest()

    @cached_property
    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """(mean, standard deviation) over all pixels of all images, each one number per channel in [0, 1]."""
        counts = torch.zeros(3, 256, dtype=torch.int64)  # of each value: exact, and faster than sums of squares in float64
        for chunk in _chunks(self):  # type: ignore[arg-type]
            counts += torch.stack([torch.bincount(chunk[:, c].flatten(), minlength=256) for c in range(3)]).cpu()
        share = counts.double() / counts.sum(dim=1, keepdim=True)
        level = torch.arange(256, dtype=torch.float64) / 255
        mean = share @ level
        std = (share * (level - mean[:, None]).square()).sum(dim=1).sqrt()
        return tuple(mean.tolist()), tuple(std.tolist())


@dataclass(frozen=True, eq=False)
class Resident(_Pixels):
    """Images as one tensor uint8 [N,3,H,W] on their device. The tensor must not be written to."""

    tensor: Tensor

    def __post_init__(self) -> None:
        """Raises: DataError if it is not such a tensor."""
        shape = tuple(self.tensor.shape)
        if self.tensor.dtype != torch.uint8 or len(shape) != 4 or shape[1] != 3 or 0 in shape:
            raise DataError(f"images must be a tensor uint8 [N,3,H,W], N > 0, not {self.tensor.dtype} {list(shape)}: convert them first")

    def __len__(self) -> int:
        """Number N of images."""
        return len(self.tensor)

    @property
    def shape(self) -> tuple[int, ...]:
        """(3, H, W)."""
        return tuple(self.tensor.shape[1:])

    @property
    def device(self) -> torch.device:
        """The device of the tensor."""
        return self.tensor.device

    def batch(self, indices: Tensor) -> Tensor:
        """As `Images.batch`."""
        return _rows(self.tensor, indices)

    def to(self, device: torch.device | str) -> Resident:
        """The same images on another device."""
        return Resident(self.tensor.to(device))


@dataclass(frozen=True, eq=False)
class Derived:
    """Base of a source made from another one, `images`: it has that one's length, shape and device."""

    images: Images

    def __len__(self) -> int:
        """Number N of images."""
        return len(self.images)

    @property
    def shape(self) -> tuple[int, ...]:
        """(3, H, W)."""
        return self.images.shape

    @property
    def device(self) -> torch.device:
        """The device of what `batch` returns."""
        return self.images.device


@dataclass(frozen=True, eq=False)
class Selection(Derived, _Pixels):
    """The images of another source at `indices` i64 [N], in that order, without a copy."""

    indices: Tensor

    def __post_init__(self) -> None:
        """Raises: IndexError, TypeError as `Images.batch`."""
        check_indices(self.indices, len(self.images))

    def __len__(self) -> int:
        """Number N of images."""
        return len(self.indices)

    def batch(self, indices: Tensor) -> Tensor:
        """As `Images.batch`; the indices count in this selection."""
        return self.images.batch(_rows(self._moved, indices))

    @cached_property
    def _moved(self) -> Tensor:
        return self.indices.to(self.device)


@dataclass(frozen=True, eq=False)
class Embedded(Derived):
    """Images by the features that a frozen net gives them: a linear classifier is trained on them, and coverage is measured in them.

    Raises: DataError if the sizes do not fit together, or a feature is not finite.
    """

    features: Tensor  # float [N,D], of the images without augmentation
    views: Tensor | None = None  # float [V,N,D], of V random views of each image; None: training uses `features` too

    def __post_init__(self) -> None:
        """Check every field."""
        sizes = list(self.features.shape)
        if self.features.ndim != 2 or len(self.features) != len(self.images) or not self.features.is_floating_point():
            raise DataError(f"features must be float [{len(self.images)},D], one row an image, not {self.features.dtype} {sizes}")
        if self.views is not None and self.views.shape[1:] != self.features.shape:
            raise DataError(f"views must be [V,{sizes[0]},{sizes[1]}], as the features are {sizes}, not {list(self.views.shape)}")
        infinite = int((~self.features.isfinite()).any(1).sum())
        if infinite:
            raise DataError(f"features of {infinite} images are not finite: check the net that made them")

    @property
    def shape(self) -> tuple[int, ...]:
        """(D,)."""
        return (self.features.shape[1],)

    @property
    def device(self) -> torch.device:
        """The device of the features."""
        return self.features.device

    def batch(self, indices: Tensor) -> Tensor:
        """Features float [B,D] at `indices` i64 [B]; raises as `Images.batch`."""
        return _rows(self.features, indices)

    def view(self, indices: Tensor, generator: torch.Generator) -> Tensor:
        """Features float [B,D] of a random view of each image at `indices` i64 [B]; of the image itself if there are no views."""
        if self.views is None:
            return self.batch(indices)
        check_indices(indices, len(self))
        drawn = torch.randint(len(self.views), indices.shape, generator=generator, device=self.device)
        return self.views[drawn, indices.to(self.device, non_blocking=True)]

    @cached_property
    def fingerprint(self) -> str:
        """Hexadecimal sha256 of the features, the views and the images."""
        return store.fingerprint(self.features, self.views, self.images)


def pixels(images: Images) -> Images:
    """The images themselves, also if `images` are features."""
    return images.images if isinstance(images, Embedded) else images


def check_indices(indices: Tensor, n: int) -> None:
    """Raises: as `Images.batch`, if `indices` do not fit to `n` images."""
    if indices.dtype != torch.int64 or indices.dim() != 1:
        kind = f"{indices.dtype} {list(indices.shape)}"
        raise TypeError(f"indices must be a vector of int64, not {kind}; turn a mask into one with .nonzero().squeeze(1)")
    if indices.device.type != "cpu" or len(indices) == 0:
        return
    low, high = indices.aminmax()
    if low < 0 or high >= n:
        position = int(((indices < 0) | (indices >= n)).nonzero()[0])
        raise IndexError(f"index {int(indices[position])} (at position {position}) is outside the {n} images: use 0 to {n - 1}")


def _rows(tensor: Tensor, indices: Tensor) -> Tensor:
    check_indices(indices, len(tensor))
    return tensor.index_select(0, indices.to(tensor.device, non_blocking=True))


def _chunks(images: Images) -> Iterator[Tensor]:
    size = max(1, CHUNK_BYTES // math.prod(images.shape))
    return (images.batch(indices) for indices in torch.arange(len(images)).split(size))
