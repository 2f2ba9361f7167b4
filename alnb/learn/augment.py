"""Batched augmentation on the device of the images; masks move with the images.

An `Augment` draws the parameters of a batch and applies the operations of `transforms`. The host never waits for the device.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from alnb.learn import transforms
from alnb.store.shapes import Bool, Float, Int, Shaped

TRIES = 10  # candidate boxes for each image before the centre crop, as torchvision
CHUNK_PIXELS = 2**16  # on the CPU, 64 images of 32x32 at a time: 0.8 MB of float32, which stays in the second-level cache


def _uniform(n: int, low: float, high: float, generator: Generator) -> Tensor:
    return torch.rand(n, generator=generator, device=generator.device).mul_(high - low).add_(low)


def draw_mask(n: int, p: float, generator: Generator) -> Bool[Tensor, " n"]:
    """True with probability `p`, for each of `n` images."""
    return torch.rand(n, generator=generator, device=generator.device) < p


def draw_corners(n: int, padding: int, generator: Generator) -> Int[Tensor, "n 2"]:
    """`corners` for `transforms.crop`: uniform in 0..2*padding."""
    return torch.randint(2 * padding + 1, (n, 2), generator=generator, device=generator.device)


def draw_boxes(
    n: int, height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float], generator: Generator
) -> Int[Tensor, "n 4"]:
    """Boxes (top, left, height, width) for `transforms.resized_crop`, distributed as in torchvision's RandomResizedCrop.

    Args:
        scale: range of a candidate's area, as a share of the image; uniform.
        ratio: range of width / height; log-uniform.
    """
    area = _uniform(n * TRIES, scale[0], scale[1], generator).mul_(height * width).view(n, TRIES)
    aspect = _uniform(n * TRIES, math.log(ratio[0]), math.log(ratio[1]), generator).exp_().view(n, TRIES)
    w, h = (area * aspect).sqrt_().round_(), (area / aspect).sqrt_().round_()
    fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)
    first, any_fits = fits.to(torch.uint8).argmax(1, keepdim=True), fits.any(1)
    # if no candidate fits, the box is the largest centred one of an allowed ratio
    centre_h, centre_w = min(height, round(width / ratio[0])), min(width, round(height * ratio[1]))
    h = torch.where(any_fits, h.gather(1, first)[:, 0], centre_h).long()
    w = torch.where(any_fits, w.gather(1, first)[:, 0], centre_w).long()
    place = torch.rand(2, n, generator=generator, device=generator.device)
    spare = torch.stack((height - h, width - w))
    corner = torch.where(any_fits, torch.minimum((place * (spare + 1)).long(), spare), spare // 2)
    return torch.stack((corner[0], corner[1], h, w), 1)


def draw_jitter(
    n: int, strengths: tuple[float, float, float, float], p: float, generator: Generator
) -> tuple[Float[Tensor, "n 4"], Int[Tensor, "n 3"]]:
    """`factors` and `order` for `transforms.jitter_matrices`. With probability 1 - p an image gets the factors that change nothing.

    Args:
        strengths: s of brightness, contrast and saturation, whose factors are uniform in max(0, 1 - s)..1 + s; and the largest turn of
            the hue, whose turn is uniform in -hue..hue. Every order is equally likely.
    """
    *three, hue = strengths
    ranges = [(max(0.0, 1 - s), 1 + s) for s in three] + [(-hue, hue)]
    changed = draw_mask(n, p, generator)
    drawn = [_uniform(n, low, high, generator) for low, high in ranges]
    factors = torch.stack([torch.where(changed, value, 1.0 if k < 3 else 0.0) for k, value in enumerate(drawn)], 1)
    return factors, torch.rand(n, 3, generator=generator, device=generator.device).argsort(1)


def draw_sigma(n: int, p: float, sigma: tuple[float, float], generator: Generator) -> Float[Tensor, " n"]:
    """`sigma` for `transforms.gaussian_blur`: uniform in the range `sigma` with probability `p`, else 0."""
    blurred = draw_mask(n, p, generator)
    return torch.where(blurred, _uniform(n, sigma[0], sigma[1], generator), 0.0)


class Draw(NamedTuple):
    """All random parameters of one batch, a row for each image; None where a step is off."""

    corners: Tensor | None = None
    boxes: Tensor | None = None
    flip: Tensor | None = None
    factors: Tensor | None = None
    order: Tensor | None = None
    grey: Tensor | None = None
    sigma: Tensor | None = None

    def rows(self, rows: slice) -> "Draw":
        """The parameters of the images in `rows`."""
        return Draw(*(None if t is None else t[rows] for t in self))


@dataclass(frozen=True)
class Augment:
    """An augmentation as plain numbers, called on uint8 images. A step whose number is 0 or None is off."""

    padding: int = 0  # pixels on each side, for the random crop
    scale: tuple[float, float] | None = None  # range of the random resized crop's area, as a share of the image
    ratio: tuple[float, float] = (3 / 4, 4 / 3)  # range of its width / height
    flip: float = 0.0  # probability
    brightness: float = 0.0  # strength s: factors in 1 - s..1 + s
    contrast: float = 0.0  # strength
    saturation: float = 0.0  # strength
    hue: float = 0.0  # largest turn, as a share of the colour circle, at most 0.5
    jitter_p: float = 0.8  # probability that an image's colours change
    grey_p: float = 0.0  # probability
    blur_p: float = 0.0  # probability
    blur_sigma: tuple[float, float] = (0.1, 2.0)  # range in pixels
    void: int = -1  # what masks hold where padding shows

    def __post_init__(self) -> None:
        """Raises: ValueError, which names the field, its value and what it may be."""
        for name in ("flip", "jitter_p", "grey_p", "blur_p"):
            self._require(name, 0 <= getattr(self, name) <= 1, "a probability in 0..1")
        for name in ("brightness", "contrast", "saturation"):
            self._require(name, 0 <= getattr(self, name) < math.inf, "a strength of 0 or more")
        self._require("hue", 0 <= self.hue <= 0.5, "a part of the colour circle in 0..0.5")
        self._require("padding", isinstance(self.padding, int) and self.padding >= 0, "a whole number of pixels, 0 or more")
        self._require("padding", not (self.padding and self.scale), "0 where scale is given: either a crop or a resized crop")
        self._require("scale", self.scale is None or _is_range(self.scale, 1), "None or two shares of the area, 0 < low <= high <= 1")
        self._require("ratio", _is_range(self.ratio), "two ratios width / height, 0 < low <= high")
        self._require("blur_sigma", _is_range(self.blur_sigma), "two widths in pixels, 0 < low <= high")

    def _require(self, name: str, holds: bool, allowed: str) -> None:
        if not holds:
            raise ValueError(f"Augment({name}={getattr(self, name)!r}): {name} must be {allowed}")

    def __call__(
        self, x: Shaped[Tensor, "B C H W"], generator: Generator, y: Shaped[Tensor, "B H W"] | None = None
    ) -> tuple[Float[Tensor, "B C H W"], Shaped[Tensor, "B H W"] | None]:
        """Augment uint8 images [B,3,H,W], and their integer masks [B,H,W] if given; the inputs do not change.

        The order is: crop or resized crop, flip, jitter, greyscale, blur. The hue of image i of B changes after floor(4 i / B) of the
        three other changes of colour. Training shuffles, so every image meets all four places over the epochs.

        Returns:
            float32 images in 0..1, and the masks in their dtype. Memory: O(output), several times the output on other devices than the CPU.
        Raises:
            ValueError: another dtype or shape, or the generator is on another device.
        """
        if x.device.type != generator.device.type or generator.device.index not in (None, x.device.index):  # None: the current one
            raise ValueError(f"Augment: the images are on {x.device}, the generator on {generator.device}; make it on that device")
        return self.apply(x, self.draw(len(x), x.shape[-2], x.shape[-1], generator), y)

    def draw(self, n: int, height: int, width: int, generator: Generator) -> Draw:
        """Draw the parameters for `n` images of this size, on the generator's device."""
        strengths = (self.brightness, self.contrast, self.saturation, self.hue)
        jitters = self.jitter_p > 0 and max(strengths) > 0
        factors, order = draw_jitter(n, strengths, self.jitter_p, generator) if jitters else (None, None)
        return Draw(
            corners=draw_corners(n, self.padding, generator) if self.padding else None,
            boxes=draw_boxes(n, height, width, self.scale, self.ratio, generator) if self.scale else None,
            flip=draw_mask(n, self.flip, generator) if self.flip else None,
            factors=factors,
            order=order,
            grey=draw_mask(n, self.grey_p, generator) if self.grey_p else None,
            sigma=draw_sigma(n, self.blur_p, self.blur_sigma, generator) if self.blur_p else None,
        )

    def apply(
        self, x: Shaped[Tensor, "B C H W"], draw: Draw, y: Shaped[Tensor, "B H W"] | None = None
    ) -> tuple[Float[Tensor, "B C H W"], Shaped[Tensor, "B H W"] | None]:
        """`__call__` with the parameters that `draw` has drawn."""
        self._check(x, y)
        out = torch.empty(x.shape, dtype=torch.float32, device=x.device)
        moved = None if y is None else torch.empty_like(y)
        matrices = None if draw.factors is None or draw.order is None else transforms.jitter_matrices(draw.factors, draw.order)
        for rows, hue_place in _chunks(x, transforms.HUE_PLACES if matrices and self.hue else 1):
            part = draw.rows(rows)
            self._colour(self._move(x[rows], part), part, matrices and (matrices[0][rows], matrices[1][rows]), hue_place, out[rows])
            if y is not None and moved is not None:
                moved[rows] = self._move(y[rows], part, masks=True)
        return out, moved

    def _move(self, x: Tensor, draw: Draw, *, masks: bool = False) -> Tensor:
        if draw.corners is not None:
            x = transforms.crop(x, draw.corners, self.padding, self.void if masks else 0)
        if draw.boxes is not None and not masks:
            return transforms.resized_crop(x, draw.boxes, draw.flip)
        if draw.boxes is not None:
            x = transforms.resized_crop_nearest(x, draw.boxes)
        return x if draw.flip is None else transforms.hflip(x, draw.flip)

    def _colour(self, x: Tensor, draw: Draw, matrices: tuple[Tensor, Tensor] | None, hue_place: int, out: Tensor) -> None:
        """The changes of colour. The last of them writes float32 in 0..1 into `out`."""
        x = transforms.unit(x)
        grey, blur = draw.grey is not None, draw.sigma is not None
        if matrices is not None and draw.factors is not None:
            place = hue_place if self.hue else None
            x = transforms.jitter(x, *matrices, draw.factors[:, 3], place, None if grey or blur else out)
        if draw.grey is not None:
            x = transforms.greyscale(x, draw.grey, None if blur else out)
        if draw.sigma is not None:
            x = transforms.gaussian_blur(x, draw.sigma, transforms.blur_kernel(x.shape[-2], x.shape[-1]))
        if x is not out:
            out.copy_(x)

    def _check(self, x: Tensor, y: Tensor | None) -> None:
        if x.dtype != torch.uint8 or x.ndim != 4 or x.shape[1] != 3:
            raise ValueError(f"Augment: images of {x.dtype} {list(x.shape)}; give uint8 [B,3,H,W], the net normalises them afterwards")
        if y is None:
            return
        if y.shape != (len(x), *x.shape[2:]) or y.is_floating_point() or y.dtype == torch.bool:
            raise ValueError(f"Augment: masks of {y.dtype} {list(y.shape)} for images {list(x.shape)}; give integers [B,H,W]")
        if self.padding and not torch.iinfo(y.dtype).min <= self.void <= torch.iinfo(y.dtype).max:
            raise ValueError(f"Augment: void={self.void} does not fit into masks of {y.dtype}; give int64 masks or Augment(void=255)")


def _is_range(value: tuple[float, float], highest: float = math.inf) -> bool:
    return len(value) == 2 and 0 < value[0] <= value[1] <= highest and math.isfinite(value[1])


def _chunks(x: Tensor, groups: int) -> Iterator[tuple[slice, int]]:
    """Slices of the batch, each within one of `groups` groups, and the number of its group.

    A slice fits the cache on the CPU, and is a whole group elsewhere.
    """
    size = max(1, CHUNK_PIXELS // max(1, x.shape[-2] * x.shape[-1])) if x.device.type == "cpu" else max(1, len(x))
    ends = [-(-len(x) * k // groups) for k in range(groups + 1)]
    for k in range(groups):
        for start in range(ends[k], ends[k + 1], size):
            yield slice(start, min(start + size, ends[k + 1])), k


SIMSIAM = Augment(scale=(0.2, 1.0), flip=0.5, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, grey_p=0.2)

AUGMENTATIONS: dict[str, Augment] = {
    "none": Augment(),
    "crop": Augment(padding=4),
    "crop_flip": Augment(padding=4, flip=0.5),
    "shift": Augment(padding=1),
    "resized_crop": Augment(scale=(0.08, 1.0), flip=0.5),
    "simsiam": SIMSIAM,
    "simsiam_blur": replace(SIMSIAM, blur_p=0.5),
}
