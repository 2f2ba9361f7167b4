"""Operations on batches of images, each a pure function of its parameters; `augment` draws the parameters.

uint8 images hold 0..255, floating-point images 0..1. An operation that interpolates or blends returns float32 in 0..1. No operation
makes the host wait for the device, and no shape depends on a value there.
"""

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from alnb.store.shapes import Bool, Float, Int, Shaped

LUMA = (0.2989, 0.587, 0.114)  # ITU-R BT.601, with torchvision's digits, which sum to 0.9999
SHARPEST = 1e-3  # pixels; a Gaussian this narrow is a single 1 in float32
HUE_PLACES = 4  # the hue changes before, between or after the three other changes of colour


def unit(x: Shaped[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    """Images as float32 in 0..1: uint8 is divided by 255, floating point is returned as it is."""
    return x.to(torch.float32).div_(255) if x.dtype == torch.uint8 else x


@lru_cache(maxsize=32)
def _constant(values: tuple[float, ...], device: torch.device) -> Tensor:
    """`values` on `device`, copied there once: a copy in each call would make the host wait."""
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=torch.float32, device=device)


def crop(x: Shaped[Tensor, "B *C H W"], corners: Int[Tensor, "B 2"], padding: int, fill: int = 0) -> Shaped[Tensor, "B *C H W"]:
    """Surround images or masks [B,H,W] by `padding` pixels of `fill`, and cut out a window of the original size. Memory: a padded copy.

    Args:
        corners: top and left of the window in the padded image, in 0..2*padding pixels.
    """
    padded = F.pad(x, (padding,) * 4, value=fill).contiguous()
    # All windows are one strided view with different starts: index_select copies them eight times as fast as indexing by (top, left).
    strides = padded.stride()
    span = sum((n - 1) * stride for n, stride in zip(x.shape[1:], strides[1:], strict=True))
    windows = padded.as_strided((max(0, padded.numel() - span), *x.shape[1:]), (1, *strides[1:]))
    start = torch.arange(len(x), device=x.device) * strides[0] + corners[:, 0] * strides[-2] + corners[:, 1]
    return windows.index_select(0, start)


def hflip(x: Shaped[Tensor, "B *C H W"], flip: Bool[Tensor, " B"]) -> Shaped[Tensor, "B *C H W"]:
    """Mirror left and right the images or masks [B,H,W] where `flip` is true."""
    # Picking images out of both versions is three times as fast as torch.where on the pixels.
    pick = torch.arange(len(x), device=x.device) + len(x) * flip
    return torch.cat((x, x.flip(-1))).index_select(0, pick)


def resized_crop(
    x: Shaped[Tensor, "B C H W"], boxes: Int[Tensor, "B 4"], flip: Bool[Tensor, " B"] | None = None
) -> Float[Tensor, "B C H W"]:
    """Cut `boxes` out of the images and enlarge them to the size of the images, bilinear, float32 in 0..1.

    Two products with small matrices do it, since enlarging is linear and separable: O(C * H * W * (H + W)) for each image.

    Args:
        boxes: top, left, height and width in pixels, inside the image.
        flip: where true, the result is mirrored left and right.
    """
    H, W = x.shape[-2:]
    start, length = boxes[:, :2].T, boxes[:, 2:].T
    if H == W:  # rows and columns at once
        across = None if flip is None else torch.stack((torch.zeros_like(flip), flip))
        rows, columns = _enlarging(start, length, H, across)
    else:
        rows, columns = _enlarging(start[0], length[0], H), _enlarging(start[1], length[1], W, flip)
    if x.dtype == torch.uint8:
        rows.div_(255)
    return _separable(x, rows, columns)


def resized_crop_nearest(y: Shaped[Tensor, "B H W"], boxes: Int[Tensor, "B 4"]) -> Shaped[Tensor, "B H W"]:
    """`resized_crop` for masks: each pixel takes the value under its centre, as torchvision's NEAREST_EXACT."""
    top, left, height, width = boxes.unbind(1)
    image = torch.arange(len(y), device=y.device)[:, None, None]
    return y[image, _nearest(top, height, y.shape[-2])[:, :, None], _nearest(left, width, y.shape[-1])[:, None, :]]


def _nearest(start: Tensor, length: Tensor, size: int) -> Tensor:
    """Source index [B,size] under the centre of each of `size` pixels that share [start, start+length)."""
    centre = (torch.arange(size, device=start.device) + 0.5) * (length.to(torch.float32) / size)[:, None]
    return start[:, None] + torch.minimum(centre.to(torch.int64), length[:, None] - 1)


def _enlarging(start: Tensor, length: Tensor, size: int, mirror: Tensor | None = None) -> Tensor:
    """Weights [*B,size,size] of linear interpolation from the pixels [start, start+length) to all `size` pixels."""
    begin, extent = start.to(torch.float32)[..., None, None], length.to(torch.float32)[..., None, None]
    share = torch.arange(0.5, size, device=start.device) / size
    if mirror is not None:
        share = torch.where(mirror[..., None, None], 1 - share, share)
    pixel = torch.arange(0.5, size, device=start.device)[:, None]
    place = torch.minimum(torch.maximum(begin + share * extent, begin + 0.5), begin + extent - 0.5)  # outside, the edge pixel continues
    return (pixel - place).abs_().neg_().add_(1).clamp_(min=0)


def _separable(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """``rows.T @ x @ columns`` for each image and channel: x [B,C,H,W], rows [B,H,H], columns [B,W,W] -> float32 [B,C,H,W]."""
    B, C, H, W = x.shape
    # The copy to float32 puts the channels inside: each product then covers all of them. Two buffers take turns, because fresh memory
    # costs more time than a product.
    first, second = (torch.empty(B * C * H * W, device=x.device) for _ in range(2))
    first.view(B, H, C, W).copy_(x.transpose(1, 2))
    with torch.autocast(x.device.type, enabled=False):  # bfloat16 is too coarse for weights times 0..255
        torch.bmm(first.view(B, H * C, W), columns, out=second.view(B, H * C, W))
        torch.bmm(rows.transpose(1, 2), second.view(B, H, C * W), out=first.view(B, H, C * W))
    return second.view(B, C, H, W).copy_(first.view(B, H, C, W).transpose(1, 2))


def blur_kernel(height: int, width: int) -> int:
    """Width in pixels of the Gaussian kernel for images of this size: 7 at 64 pixels. Source: the public SimSiam code of P. Hua."""
    return min(height, width) // 20 * 2 + 1


def gaussian_blur(x: Float[Tensor, "B C H W"], sigma: Float[Tensor, " B"], kernel: int) -> Float[Tensor, "B C H W"]:
    """Blur each image by a Gaussian of `sigma` pixels, cut off at a width of `kernel` pixels; 0 changes nothing. Edges are reflected.

    Raises:
        ValueError: the kernel is even, or too wide for the images.
    """
    H, W = x.shape[-2:]
    if kernel % 2 == 0 or not 0 < kernel // 2 + 1 <= min(H, W):
        raise ValueError(f"gaussian_blur: kernel {kernel} on {H}x{W} images; give an odd number below {2 * min(H, W)}")
    tap = torch.arange(kernel, device=x.device) - kernel // 2
    weight = (tap / sigma.clamp(min=SHARPEST)[:, None]).square().div_(-2).softmax(1)
    return _separable(x, _convolving(weight, H).transpose(1, 2), _convolving(weight, W).transpose(1, 2))


def _convolving(weight: Tensor, size: int) -> Tensor:
    """Matrices [B,size,size] that convolve a line of `size` pixels, reflected at its ends, with `weight` [B,kernel]."""
    kernel, pixel = weight.shape[1], torch.arange(size, device=weight.device)
    source = (pixel + (torch.arange(kernel, device=weight.device) - kernel // 2)[:, None]).abs_()
    source = size - 1 - (size - 1 - source).abs_()
    places = (source[:, :, None] == pixel).to(weight.dtype)
    with torch.autocast(weight.device.type, enabled=False):
        return (weight @ places.view(kernel, -1)).view(-1, size, size)


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
    """Set all three channels to the brightness in the images where `grey` is true. Writes to `out`, if given; `out` is not x."""
    same = torch.eye(3, device=x.device)
    return _mix(x, torch.where(grey[:, None, None], _constant(LUMA, x.device), same), out=out)


def shift_hue(
    x: Float[Tensor, "B 3 H W"], turn: Float[Tensor, " B"], out: Float[Tensor, "B 3 H W"] | None = None
) -> Float[Tensor, "B 3 H W"]:
    """Turn the hue of each image in 0..1 by `turn` in -0.5..0.5 of the colour circle; saturation and value of HSV stay.

    On the hexagon of hues |h| = 1 + (g + b - r - min) / (max - min) sixths from red, towards green where g > b and towards blue where
    b > g. From h in 0..1 and the distances d = |h - (1/2, 1/3, 2/3)|, cut to one to two sixths, follow
    red = min + (max - min) * (6 d - 1), green and blue = min + (max - min) * (2 - 6 d), without a case distinction.
    A turn of 0 returns x to about 1e-6. Writes to `out`, if given; it may be x.
    """
    r, g, b = (x[:, c : c + 1] for c in range(3))
    low = torch.minimum(r, g).minimum(b)
    chroma = torch.maximum(r, g).maximum(b).sub_(low).clamp_(min=1e-12)
    sixths = (g + b).sub_(r).sub_(low).div_(chroma).add_(1)
    hue = sixths.copysign_(g - b).div_(6).add_(turn[:, None, None, None] + 2).frac_()  # 2 keeps it positive
    distance = torch.sub(hue, _constant((1 / 2, 1 / 3, 2 / 3), x.device)[:, None, None], out=out).abs_().clamp_(1 / 6, 1 / 3)
    torch.addcmul(torch.sub(low, chroma, out=hue), chroma, distance[:, :1], value=6, out=distance[:, :1])
    torch.addcmul(low.add_(chroma, alpha=2), chroma, distance[:, 1:], value=-6, out=distance[:, 1:])
    return distance


def jitter_matrices(factors: Float[Tensor, "B 4"], order: Int[Tensor, "B 3"]) -> tuple[Float[Tensor, "B 3 3 3"], Float[Tensor, "B 3 1 3"]]:
    """The changes of brightness, contrast and saturation for `jitter`: matrices, and the weights of the channels' means in an offset.

    All three are ``keep * x + grey * luma + level * mean luma``, cut to 0..1: one product with a small matrix does any of them.

    Args:
        factors: of brightness, contrast and saturation (1 changes nothing), and the turn of the hue, which is not used here.
        order: a permutation of 0, 1, 2 (brightness, contrast, saturation) for each image.
    """
    keep = factors.gather(1, order)
    rest, luma = 1 - keep, _constant(LUMA, factors.device)
    matrix = (rest * (order == 2))[..., None, None] * luma + torch.diag_embed(keep[..., None].expand(-1, -1, 3))
    return matrix, (rest * (order == 1))[..., None, None] * luma


def jitter(x: Tensor, matrix: Tensor, level: Tensor, turn: Tensor, hue_place: int | None, out: Tensor | None = None) -> Tensor:
    """Change brightness, contrast, saturation and hue of each image, float [B,3,H,W] in 0..1, in its order.

    Args:
        matrix, level: results of `jitter_matrices`.
        turn: of the hue, [B]; 0 changes nothing.
        hue_place: how many of the three other changes come before the hue, in 0..3; None: the hue stays. It is the same for all images:
            the hue is the most expensive change, and a tensor would need four evaluations. A hue that comes first overwrites x.
        out: where the last change writes to, if given; not x.
    """
    for place in range(HUE_PLACES):
        if place == hue_place:
            x = shift_hue(x, turn, out if place == HUE_PLACES - 1 and out is not None else x)
        if place < HUE_PLACES - 1:
            last = place == HUE_PLACES - 2 and hue_place != HUE_PLACES - 1
            with torch.autocast(x.device.type, enabled=False):
                offset = torch.bmm(level[:, place], x.mean((2, 3))[:, :, None])
            x = _mix(x, matrix[:, place], offset, out if last else None).clamp_(0, 1)
    return x
