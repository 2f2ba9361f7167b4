"""Batched augmentation on the device the images are on; masks move with the images.

Every operation is a pure function of given parameters, and beside it stands the draw of those parameters. `Augment` joins them:
``x, y = AUGMENTATIONS["simsiam"](images, generator, masks)``. Nothing here asks the device for a value, and no shape depends on one.

uint8 images hold 0..255, floating-point images 0..1; an operation that must interpolate or blend returns float32 in 0..1.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from alnb.store.shapes import Bool, Float, Int, Shaped

LUMA = (0.2989, 0.587, 0.114)  # ITU-R BT.601 to the digits that torchvision has: they sum to 0.9999
TRIES = 10  # candidate boxes per image before the centre crop, as torchvision
SHARPEST = 1e-3  # pixels; a Gaussian this narrow is a single 1 in float32
CHUNK_PIXELS = 2**16  # on the CPU 64 images of 32x32 at a time: 0.8 MB of float32, which stays in the second-level cache
HUE_PLACES = 4  # hue comes before, between or after the three other changes of colour


def unit(x: Shaped[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    """Images as float32 in 0..1: uint8 is divided by 255, floating point is returned as it is."""
    return x.to(torch.float32).div_(255) if x.dtype == torch.uint8 else x


@lru_cache(maxsize=32)
def _per_channel(values: tuple[float, ...], device: torch.device) -> Tensor:
    """`values` as [C,1,1] on `device`, copied there once: a copy per call would make the host wait."""
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=torch.float32, device=device).view(-1, 1, 1)


def normalise(
    x: Shaped[Tensor, "B C H W"], mean: Sequence[float], std: Sequence[float], out: Float[Tensor, "B C H W"] | None = None
) -> Float[Tensor, "B C H W"]:
    """``(unit(x) - mean) / std`` per channel, as float32; `mean` and `std` hold one number per channel, in units of 0..1.

    Writes to `out` where given; that may be `x`, and fresh memory costs the CPU more time than the arithmetic.
    Raises ValueError where the numbers do not fit the channels.
    """
    if not len(mean) == len(std) == x.shape[1] or min(std) <= 0:
        raise ValueError(f"normalise: mean {mean} and std {std} for {x.shape[1]} channels; give one mean and one positive std per channel")
    centred = torch.sub(unit(x), _per_channel(tuple(mean), x.device), out=out)
    return centred.div_(_per_channel(tuple(std), x.device))


# ---------------------------------------------------------------------------------------------------------------- where pixels go


def crop(x: Shaped[Tensor, "B *C H W"], corners: Int[Tensor, "B 2"], padding: int, fill: int = 0) -> Shaped[Tensor, "B *C H W"]:
    """Surround each image (or mask [B,H,W]) by `padding` pixels of `fill` and cut out a window of the image's size.

    `corners` holds top and left in 0..2*padding, in pixels of the padded image; any dtype, which is kept.
    Memory: one padded copy.
    """
    padded = F.pad(x, (padding,) * 4, value=fill).contiguous()
    # every window is the same view from another start, which index_select copies eight times as fast as indexing by (top, left) does
    strides = padded.stride()
    span = sum((n - 1) * stride for n, stride in zip(x.shape[1:], strides[1:], strict=True))
    windows = padded.as_strided((max(0, padded.numel() - span), *x.shape[1:]), (1, *strides[1:]))
    start = torch.arange(len(x), device=x.device) * strides[0] + corners[:, 0] * strides[-2] + corners[:, 1]
    return windows.index_select(0, start)


def hflip(x: Shaped[Tensor, "B *C H W"], flip: Bool[Tensor, " B"]) -> Shaped[Tensor, "B *C H W"]:
    """Mirror left and right the images (or masks [B,H,W]) where `flip` is true."""
    # picking whole images out of both versions is three times as fast as torch.where on the pixels
    pick = torch.arange(len(x), device=x.device) + len(x) * flip
    return torch.cat((x, x.flip(-1))).index_select(0, pick)


def resized_crop(
    x: Shaped[Tensor, "B C H W"], boxes: Int[Tensor, "B 4"], size: tuple[int, int] | None = None, flip: Bool[Tensor, " B"] | None = None
) -> Float[Tensor, "B C H2 W2"]:
    """Cut `boxes` out of the images and resize each to `size` (default: that of `x`), bilinear with antialiasing, float32 in 0..1.

    `boxes` holds top, left, height, width in pixels, inside the image; where `flip` is true the result is mirrored left and right.
    Resizing is linear and separable, so that it is two products with small matrices that hold the triangle filter; cost per image
    O(C * H2 * H * (W + W2)).
    """
    H, W = x.shape[-2:]
    H2, W2 = size or (H, W)
    start, length = boxes[:, :2].T, boxes[:, 2:].T
    if H == W and H2 == W2:  # rows and columns at once
        across = None if flip is None else torch.stack((torch.zeros_like(flip), flip))
        rows, columns = _triangle(start, length, H, H2, across)
    else:
        rows, columns = _triangle(start[0], length[0], H, H2), _triangle(start[1], length[1], W, W2, flip)
    if x.dtype == torch.uint8:
        rows.div_(255)
    return _separable(x, rows, columns)


def resized_crop_nearest(
    y: Shaped[Tensor, "B H W"], boxes: Int[Tensor, "B 4"], size: tuple[int, int] | None = None
) -> Shaped[Tensor, "B H2 W2"]:
    """What `resized_crop` does to images, for masks: each pixel takes the value under its centre (torchvision's NEAREST_EXACT).

    torchvision's plain NEAREST, its default for masks, lies half a pixel away from the bilinear images.
    """
    H2, W2 = size or (y.shape[-2], y.shape[-1])
    top, left, height, width = boxes.unbind(1)
    image = torch.arange(len(y), device=y.device)[:, None, None]
    return y[image, _nearest(top, height, H2)[:, :, None], _nearest(left, width, W2)[:, None, :]]


def _nearest(start: Tensor, length: Tensor, out: int) -> Tensor:
    """Source index [B,out] under the centre of each of `out` pixels that share [start, start+length)."""
    centre = (torch.arange(out, device=start.device) + 0.5) * (length.to(torch.float32) / out)[:, None]
    return start[:, None] + torch.minimum(centre.to(torch.int64), length[:, None] - 1)


def _triangle(start: Tensor, length: Tensor, size: int, out: int, mirror: Tensor | None = None) -> Tensor:
    """Weights [*B,size,out] of the antialiased linear filter from the pixels [start, start+length) of `size` to `out` pixels."""
    begin, extent = start.to(torch.float32)[..., None, None], length.to(torch.float32)[..., None, None]
    share = torch.arange(0.5, out, device=start.device) / out
    if mirror is not None:
        share = torch.where(mirror[..., None, None], 1 - share, share)
    pixel = torch.arange(0.5, size, device=start.device)[:, None]
    centre = begin + share * extent
    if out >= size:  # no box is larger than the image, so that nothing shrinks: two neighbours at most, and the edge goes on outside
        place = torch.minimum(torch.maximum(centre, begin + 0.5), begin + extent - 0.5)
        return (pixel - place).abs_().neg_().add_(1).clamp_(min=0)
    reach = (extent / out).clamp(min=1)
    inside = (pixel > begin) & (pixel < begin + extent)
    distance = (pixel / reach - centre / reach).abs_()
    weight = (1 - distance).clamp_(min=0).mul_(inside.to(torch.float32))
    return weight.div_(weight.sum(-2, keepdim=True))


def _separable(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """``rows.T @ x @ columns`` per image and channel: x [B,C,H,W], rows [B,H,H2], columns [B,W,W2] -> float32 [B,C,H2,W2]."""
    B, C, H, W = x.shape
    H2, W2 = rows.shape[2], columns.shape[2]
    # the copy to float32 also brings the channels inside, so that each product covers all of them at once; and two buffers take turns,
    # since the system wants more time to hand out fresh memory than a product takes
    lines, across = (torch.empty(B * C * n, device=x.device) for n in (max(H * W, H2 * W2), max(H * W2, H2 * W2)))
    source = lines[: B * C * H * W].view(B, H * C, W)
    source.view(B, H, C, W).copy_(x.transpose(1, 2))
    half = across[: B * C * H * W2].view(B, H * C, W2)
    both = lines[: B * C * H2 * W2].view(B, H2, C * W2)
    with torch.autocast(x.device.type, enabled=False):  # eight bits of mantissa are too few for weights times 0..255
        torch.bmm(source, columns, out=half)
        torch.bmm(rows.transpose(1, 2), half.view(B, H, C * W2), out=both)
    return across[: B * C * H2 * W2].view(B, C, H2, W2).copy_(both.view(B, H2, C, W2).transpose(1, 2))


def blur_kernel(height: int, width: int) -> int:
    """Width in pixels of the Gaussian kernel for images of this size: 7 at 64 pixels. Source: the public SimSiam code of P. Hua."""
    return min(height, width) // 20 * 2 + 1


def gaussian_blur(x: Float[Tensor, "B C H W"], sigma: Float[Tensor, " B"], kernel: int) -> Float[Tensor, "B C H W"]:
    """Blur each image by a Gaussian of `sigma` pixels cut off at `kernel` (odd) pixels, edges reflected; where sigma is 0, unchanged."""
    H, W = x.shape[-2:]
    if kernel % 2 == 0 or not 0 < kernel // 2 + 1 <= min(H, W):
        raise ValueError(f"gaussian_blur: kernel {kernel} on {H}x{W} images; give an odd number below {2 * min(H, W)}")
    tap = torch.arange(kernel, device=x.device) - kernel // 2
    weight = (tap / sigma.clamp(min=SHARPEST)[:, None]).square().div_(-2).softmax(1)
    return _separable(x, _spread(weight, H).transpose(1, 2), _spread(weight, W).transpose(1, 2))


def _spread(weight: Tensor, size: int) -> Tensor:
    """Matrices [B,size,size] that convolve a line of `size` pixels, reflected at its ends, with `weight` [B,kernel]."""
    kernel, pixel = weight.shape[1], torch.arange(size, device=weight.device)
    source = (pixel + (torch.arange(kernel, device=weight.device) - kernel // 2)[:, None]).abs_()
    source = size - 1 - (size - 1 - source).abs_()
    places = (source[:, :, None] == pixel).to(weight.dtype)
    with torch.autocast(weight.device.type, enabled=False):
        return (weight @ places.view(kernel, -1)).view(-1, size, size)


# ------------------------------------------------------------------------------------------------------------------------- colour


def _luma(device: torch.device) -> Tensor:
    """The three channels' shares in the brightness of a pixel, [3]."""
    return _per_channel(LUMA, device).view(3)


def _mix(x: Tensor, matrix: Tensor, offset: Tensor | None = None, out: Tensor | None = None) -> Tensor:
    """``matrix @ pixel + offset`` for every pixel: x [B,3,H,W], matrix [B,3,3], offset [B,1,1]. `out` is not x."""
    out = torch.empty_like(x, memory_format=torch.contiguous_format) if out is None else out
    pixels, mixed = x.flatten(2), out.view(len(x), 3, -1)
    with torch.autocast(x.device.type, enabled=False):
        if offset is None:
            torch.bmm(matrix, pixels, out=mixed)
        else:
            torch.baddbmm(offset, matrix, pixels, out=mixed)
    return out


def greyscale(
    x: Float[Tensor, "B 3 H W"], grey: Bool[Tensor, " B"], out: Float[Tensor, "B 3 H W"] | None = None
) -> Float[Tensor, "B 3 H W"]:
    """Set all three channels to the brightness in the images where `grey` is true; into `out`, where given, which is not x."""
    same = torch.eye(3, device=x.device)
    return _mix(x, torch.where(grey[:, None, None], _luma(x.device), same), out=out)


def shift_hue(
    x: Float[Tensor, "B 3 H W"], turn: Float[Tensor, " B"], out: Float[Tensor, "B 3 H W"] | None = None
) -> Float[Tensor, "B 3 H W"]:
    """Turn the hue of each image by `turn` in -0.5..0.5 of the colour circle; saturation and value (of HSV) stay. x lies in 0..1.

    On the hexagon of hues |h| = 1 + (g + b - r - min) / (max - min) sixths from red, towards green where g > b and towards blue where
    b > g. From h in 0..1 and the distances d = |h - (1/2, 1/3, 2/3)|, cut to one to two sixths, come
    red = min + (max - min) * (6 d - 1), green and blue = min + (max - min) * (2 - 6 d). That needs no case distinction.
    Writes to `out` where given, which may be x. A turn of 0 gives the image back to about 1e-6.
    """
    r, g, b = (x[:, c : c + 1] for c in range(3))
    low = torch.minimum(r, g).minimum(b)
    chroma = torch.maximum(r, g).maximum(b).sub_(low).clamp_(min=1e-12)
    sixths = (g + b).sub_(r).sub_(low).div_(chroma).add_(1)
    hue = sixths.copysign_(g - b).div_(6).add_(turn[:, None, None, None] + 2).frac_()  # 2 keeps it positive
    away = torch.sub(hue, _per_channel((1 / 2, 1 / 3, 2 / 3), x.device), out=out).abs_().clamp_(1 / 6, 1 / 3)
    torch.addcmul(torch.sub(low, chroma, out=hue), chroma, away[:, :1], value=6, out=away[:, :1])
    torch.addcmul(low.add_(chroma, alpha=2), chroma, away[:, 1:], value=-6, out=away[:, 1:])
    return away


def jitter(
    x: Float[Tensor, "B 3 H W"], factors: Float[Tensor, "B 4"], order: Int[Tensor, "B 3"], hue_place: int | None
) -> Float[Tensor, "B 3 H W"]:
    """Change brightness, contrast, saturation and hue of each image (in 0..1) by its own `factors`, in its own order.

    `factors` holds, in this sequence, three factors (1 changes nothing) and the turn of the hue (0 changes nothing). `order` is a
    permutation of 0, 1, 2 (brightness, contrast, saturation) per image. `hue_place` in 0..3 says how many of the three come before the
    hue; None leaves the hue alone. It is a number and no tensor because the hue is the dearest: four evaluations would be needed.
    """
    return _jitter(x.clone() if hue_place == 0 else x, *_blends(factors, order), factors[:, 3], hue_place)


def _blends(factors: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
    """What each of the three changes does to a pixel: matrices [B,3,3,3], and the channels' weights in what is added, [B,3,1,3].

    Brightness, contrast and saturation are all ``keep * x + grey * luma + level * mean luma``, cut to 0..1, so that one product with a
    small matrix serves images which need different ones.
    """
    keep = factors.gather(1, order)
    rest, luma = 1 - keep, _luma(factors.device)
    matrix = (rest * (order == 2))[..., None, None] * luma + torch.diag_embed(keep[..., None].expand(-1, -1, 3))
    return matrix, (rest * (order == 1))[..., None, None] * luma


def _jitter(x: Tensor, matrix: Tensor, level: Tensor, turn: Tensor, hue_place: int | None, out: Tensor | None = None) -> Tensor:
    """`jitter` by the results of `_blends`; the last change writes to `out`, which is not x; a hue that comes first overwrites x."""
    for place in range(HUE_PLACES):
        if place == hue_place:
            x = shift_hue(x, turn, out if place == HUE_PLACES - 1 and out is not None else x)
        if place < HUE_PLACES - 1:
            last = place == HUE_PLACES - 2 and hue_place != HUE_PLACES - 1
            with torch.autocast(x.device.type, enabled=False):
                offset = torch.bmm(level[:, place], x.mean((2, 3))[:, :, None])
            x = _mix(x, matrix[:, place], offset, out if last else None).clamp_(0, 1)
    return x


# -------------------------------------------------------------------------------------------------------------------------- draws


def _uniform(n: int, low: float, high: float, generator: Generator) -> Tensor:
    return torch.rand(n, generator=generator, device=generator.device).mul_(high - low).add_(low)


def draw_mask(n: int, p: float, generator: Generator) -> Bool[Tensor, " n"]:
    """True with probability `p`, for each of `n` images."""
    return torch.rand(n, generator=generator, device=generator.device) < p


def draw_corners(n: int, padding: int, generator: Generator) -> Int[Tensor, "n 2"]:
    """`corners` for `crop`: whole numbers, uniform in 0..2*padding."""
    return torch.randint(2 * padding + 1, (n, 2), generator=generator, device=generator.device)


def draw_boxes(
    n: int, height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float], generator: Generator
) -> Int[Tensor, "n 4"]:
    """Boxes (top, left, height, width) for `resized_crop`, in distribution those of torchvision's RandomResizedCrop.

    A box has an area uniform in `scale` (share of the image) and a ratio width / height log-uniform in `ratio`. The first of ten
    candidates that fits the image is taken, the largest centred box of an allowed ratio where none does.
    """
    device = generator.device
    area = _uniform(n * TRIES, scale[0], scale[1], generator).mul_(height * width).view(n, TRIES)
    aspect = _uniform(n * TRIES, math.log(ratio[0]), math.log(ratio[1]), generator).exp_().view(n, TRIES)
    w, h = (area * aspect).sqrt_().round_(), (area / aspect).sqrt_().round_()
    fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)
    first, any_fits = fits.to(torch.uint8).argmax(1, keepdim=True), fits.any(1)
    centre_h = min(height, round(width / ratio[0]))
    centre_w = min(width, round(height * ratio[1]))
    h = torch.where(any_fits, h.gather(1, first)[:, 0], centre_h).long()
    w = torch.where(any_fits, w.gather(1, first)[:, 0], centre_w).long()
    place = torch.rand(2, n, generator=generator, device=device)
    spare = torch.stack((height - h, width - w))
    corner = torch.minimum((place * (spare + 1)).long(), spare)
    corner = torch.where(any_fits, corner, spare // 2)
    return torch.stack((corner[0], corner[1], h, w), 1)


def draw_jitter(
    n: int, brightness: float, contrast: float, saturation: float, hue: float, p: float, generator: Generator
) -> tuple[Float[Tensor, "n 4"], Int[Tensor, "n 3"]]:
    """`factors` and `order` for `jitter`; with probability 1 - p an image gets the factors that change nothing.

    A factor is uniform in max(0, 1 - s)..1 + s where s is the strength, and the hue's turn in -hue..hue; every order is equally likely.
    """
    ranges = [(max(0.0, 1 - s), 1 + s) for s in (brightness, contrast, saturation)] + [(-hue, hue)]
    on = draw_mask(n, p, generator)
    drawn = [_uniform(n, low, high, generator) for low, high in ranges]
    factors = torch.stack([torch.where(on, value, 1.0 if k < 3 else 0.0) for k, value in enumerate(drawn)], 1)
    return factors, torch.rand(n, 3, generator=generator, device=generator.device).argsort(1)


def draw_sigma(n: int, p: float, sigma: tuple[float, float], generator: Generator) -> Float[Tensor, " n"]:
    """`sigma` for `gaussian_blur`: uniform in the given range with probability `p`, else 0."""
    on = draw_mask(n, p, generator)
    return torch.where(on, _uniform(n, sigma[0], sigma[1], generator), 0.0)


# ------------------------------------------------------------------------------------------------------------------------ the whole


class Draw(NamedTuple):
    """All random parameters for one batch, as the draws above return them, or None where a step is off; a row belongs to an image."""

    corners: Tensor | None = None
    boxes: Tensor | None = None
    flip: Tensor | None = None
    factors: Tensor | None = None
    order: Tensor | None = None
    grey: Tensor | None = None
    sigma: Tensor | None = None

    def to(self, device: torch.device | str) -> "Draw":
        """The same parameters on another device."""
        return Draw(*(None if t is None else t.to(device) for t in self))

    def rows(self, rows: slice) -> "Draw":
        """The parameters of some images."""
        return Draw(*(None if t is None else t[rows] for t in self))


@dataclass(frozen=True)
class Augment:
    """An augmentation as plain numbers, to be called on uint8 images; what is 0 or None is off.

    padding: pixels on each side for the random crop; scale, ratio: ranges of the random resized crop (share of the area, width / height);
    flip, jitter_p, grey_p, blur_p: probabilities per image; brightness, contrast, saturation: strengths s, for factors in 1 - s..1 + s;
    hue: largest turn, in turns of the colour circle, at most 0.5; blur_sigma: range in pixels; void: what masks get where padding shows.

    Raises ValueError where a field is outside its range.
    """

    padding: int = 0
    scale: tuple[float, float] | None = None
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    jitter_p: float = 0.8
    grey_p: float = 0.0
    blur_p: float = 0.0
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    void: int = -1

    def __post_init__(self) -> None:
        """Check every field."""
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

    def _require(self, name: str, holds: bool, what: str) -> None:
        if not holds:
            raise ValueError(f"Augment({name}={getattr(self, name)!r}): {name} must be {what}")

    @property
    def _jitters(self) -> bool:
        return self.jitter_p > 0 and max(self.brightness, self.contrast, self.saturation, self.hue) > 0

    def __call__(
        self, x: Shaped[Tensor, "B C H W"], generator: Generator, y: Shaped[Tensor, "B H W"] | None = None
    ) -> tuple[Float[Tensor, "B C H W"], Shaped[Tensor, "B H W"] | None]:
        """Augment a batch: uint8 images [B,3,H,W] -> float32 in 0..1; integer masks [B,H,W] keep their dtype and move along.

        The same state of `generator`, which must be on the device of `x`, gives the same result. Inputs are not changed. In this order, as
        far as switched on: crop or resized crop, flip, jitter, greyscale, blur.
        Where the hue comes among the changes of colour follows from the position in the batch, image i of B after floor(4 i / B) of the
        other three (whose order is random): training shuffles, so that every image meets all four places over the epochs.
        Raises ValueError for other dtypes, shapes or devices.
        Memory: O(output), plus a chunk on the CPU; several times the output on other devices.
        """
        if x.device != generator.device:
            raise ValueError(f"Augment: the images are on {x.device}, the generator on {generator.device}; make it on that device")
        return self.apply(x, self.draw(len(x), x.shape[-2], x.shape[-1], generator), y)

    def draw(self, n: int, height: int, width: int, generator: Generator) -> Draw:
        """Draw the parameters for `n` images of this size, on the generator's device."""
        strengths = (self.brightness, self.contrast, self.saturation, self.hue)
        factors, order = draw_jitter(n, *strengths, self.jitter_p, generator) if self._jitters else (None, None)
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
        """Augment a batch by parameters already drawn; as `__call__` otherwise."""
        self._check(x, y)
        out = torch.empty(x.shape, dtype=torch.float32, device=x.device)
        moved = None if y is None else torch.empty_like(y)
        blends = None if draw.factors is None or draw.order is None else _blends(draw.factors, draw.order)
        for rows, hue_place in _chunks(x, HUE_PLACES if blends and self.hue else 1):
            part = draw.rows(rows)
            self._colour(self._move(x[rows], part), part, blends and (blends[0][rows], blends[1][rows]), hue_place, out[rows])
            if y is not None and moved is not None:
                moved[rows] = self._move_masks(y[rows], part)
        return out, moved

    def _move(self, x: Tensor, draw: Draw) -> Tensor:
        if draw.corners is not None:
            x = crop(x, draw.corners, self.padding)
        if draw.boxes is None:
            return x if draw.flip is None else hflip(x, draw.flip)
        return resized_crop(x, draw.boxes, flip=draw.flip)

    def _colour(self, x: Tensor, draw: Draw, blends: tuple[Tensor, Tensor] | None, hue_place: int, out: Tensor) -> None:
        """The changes of colour, for images [n,3,H,W]; float32 in 0..1 into `out`, by the last step directly."""
        x = unit(x)
        later = draw.grey is not None, draw.sigma is not None
        if blends is not None and draw.factors is not None:
            x = _jitter(x, *blends, draw.factors[:, 3], hue_place if self.hue else None, None if any(later) else out)
        if draw.grey is not None:
            x = greyscale(x, draw.grey, None if later[1] else out)
        if draw.sigma is not None:
            x = gaussian_blur(x, draw.sigma, blur_kernel(x.shape[-2], x.shape[-1]))
        if x.data_ptr() != out.data_ptr():
            out.copy_(x)

    def _move_masks(self, y: Tensor, draw: Draw) -> Tensor:
        if draw.corners is not None:
            y = crop(y, draw.corners, self.padding, self.void)
        if draw.boxes is not None:
            y = resized_crop_nearest(y, draw.boxes)
        return y if draw.flip is None else hflip(y, draw.flip)

    def _check(self, x: Tensor, y: Tensor | None) -> None:
        if x.dtype != torch.uint8 or x.ndim != 4 or x.shape[1] != 3:
            raise ValueError(f"Augment: images of {x.dtype} {list(x.shape)}; give uint8 [B,3,H,W] and normalise afterwards")
        if y is None:
            return
        if y.shape != (len(x), *x.shape[2:]) or y.is_floating_point() or y.dtype == torch.bool:
            raise ValueError(f"Augment: masks of {y.dtype} {list(y.shape)} for images {list(x.shape)}; give integers [B,H,W]")
        if self.padding and not torch.iinfo(y.dtype).min <= self.void <= torch.iinfo(y.dtype).max:
            raise ValueError(f"Augment: void={self.void} does not fit into masks of {y.dtype}; give int64 masks or Augment(void=255)")


def _is_range(value: tuple[float, float], most: float = math.inf) -> bool:
    return len(value) == 2 and 0 < value[0] <= value[1] <= most and math.isfinite(value[1])


def _chunks(x: Tensor, groups: int) -> Iterator[tuple[slice, int]]:
    """Slices of the batch and the group each lies in, none across two groups; cache-sized on the CPU, whole groups elsewhere."""
    size = max(1, CHUNK_PIXELS // max(1, x.shape[-2] * x.shape[-1])) if x.device.type == "cpu" else max(1, len(x))
    ends = [-(-len(x) * k // groups) for k in range(groups + 1)]
    for k in range(groups):
        for start in range(ends[k], ends[k + 1], size):
            yield slice(start, min(start + size, ends[k + 1])), k


AUGMENTATIONS: dict[str, Augment] = {
    "none": Augment(),
    "crop": Augment(padding=4),
    "crop_flip": Augment(padding=4, flip=0.5),
    "shift": Augment(padding=1),
    "resized_crop": Augment(scale=(0.08, 1.0), flip=0.5),
    "simsiam": Augment(scale=(0.2, 1.0), flip=0.5, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, grey_p=0.2),
    "simsiam_blur": Augment(scale=(0.2, 1.0), flip=0.5, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, grey_p=0.2, blur_p=0.5),
}
