"""Jigsaw: an image is cut into 2x2 tiles, they are put together in another order, and the net predicts which of the 24 orders it is.

Source: M. Noroozi, P. Favaro: *Unsupervised Learning of Visual Representations by Solving Jigsaw Puzzles*, 2016. They cut 3x3 tiles and
send each through a net of its own; here the whole image goes through one net, as in rotation. PT4AL (Yi et al. 2022) names the pretext,
without its code.
"""

from collections.abc import Callable
from itertools import permutations

import torch
from torch import Tensor
from torch.nn import functional

from alnb.learn.nets import Net
from alnb.store.shapes import Float, Int

ORDERS = tuple(permutations(range(4)))  # by class; cell j (top left, top right, bottom left, bottom right) shows tile ORDERS[c][j]
VIEWS = 4  # of each image in an update, as many as in rotation: the classes of one remainder modulo GROUPS
GROUPS = len(ORDERS) // VIEWS
SMALLEST = 8  # pixels a side: with a gap, tiles of 4x4 keep 2x2
GAP = 16  # pixels of a tile for each pixel of margin; the margin is 1 at least
MIXING = ((16, 0x85EBCA6B), (13, 0xC2B2AE35))  # shifts and factors of a 32-bit hash. Source: the last step of MurmurHash3
FLAT = 1 / 255  # added to a tile's standard deviation, so that a flat tile stays flat


def reassembled(
    x: Float[Tensor, "B 3 H W"], classes: Int[Tensor, " V"], offsets: Int[Tensor, "V 4 2"] | None = None, margin: int = 0
) -> Float[Tensor, "V 4 h w 3"]:
    """The cells of V views, in the order of each view's class; channels are last. View v is of image v modulo B.

    Args:
        offsets: row and column, in 0..2*margin, at which each cell begins within its tile; None: all at `margin`.
        margin: pixels that a cell is smaller than its tile on each side, on average: h = H / 2 - 2 * margin.
    """
    views, (height, width) = len(classes), (x.shape[2] // 2, x.shape[3] // 2)
    tile = torch.tensor(ORDERS).to(x.device, non_blocking=True)[classes]
    corner = torch.stack([tile // 2 * height, tile % 2 * width], dim=2) + (margin if offsets is None else offsets)
    rows, columns = (
        corner[:, :, axis, None] + torch.arange(side - 2 * margin, device=x.device) for axis, side in enumerate((height, width))
    )
    image = torch.arange(views, device=x.device)[:, None, None, None] % len(x)
    return x.permute(0, 2, 3, 1)[image, rows[..., None], columns[:, :, None]]


def joined(cells: Float[Tensor, "V 4 h w 3"]) -> Float[Tensor, "V 3 H W"]:
    """Four cells side by side, two above two, without a seam."""
    return cells.unflatten(1, (2, 2)).transpose(2, 3).flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)


def standardised(cells: Float[Tensor, "V 4 h w 3"]) -> Float[Tensor, "V 4 h w 3"]:
    """Each cell with mean 0 and standard deviation 1 in each channel; 0 if it is flat. Source: Noroozi and Favaro 2016, section 4.2."""
    centred = cells - cells.mean(dim=(2, 3), keepdim=True)
    return centred / (centred.square().mean(dim=(2, 3), keepdim=True).sqrt() + FLAT)


def jigsaw_loss(net: Net, x: Tensor, _: Tensor | None = None) -> Tensor:
    """Mean cross-entropy [B] of predicting the order of the tiles of images [B,3,H,W] in [0, 1].

    In evaluation it is the mean over all 24 orders. In training each image is seen in four of them: those whose number is the image's
    place in the batch, modulo 6. Every pass is shuffled, so each image sees all orders in time. The four views go through the net in one
    batch, so that batch normalisation sees all orders mixed. The edges of neighbouring tiles fit, and the net will use that: see
    `jigsaw_gap_loss`. Source: Noroozi and Favaro 2016, section 4. Raises: ValueError for sides that are odd, or below 8 pixels.
    """
    return _mean(net, x, _touching, _losses)


def jigsaw_correct(net: Net, x: Tensor) -> Tensor:
    """Share [B] of the orders of each image [B,3,H,W] that the net gets right, of those that `jigsaw_loss` sees."""
    return _mean(net, x, _touching, _hits)


def jigsaw_gap_loss(net: Net, x: Tensor, _: Tensor | None = None) -> Tensor:
    """`jigsaw_loss` of tiles that are cropped, 16x16 to 14x14, and have the net's mean and standard deviation in each channel.

    So neither fitting edges nor a gradient of light or colour over the image tells the order. In evaluation the crop is central. In
    training it lies anywhere in the tile, by a hash of the image's pixels and its place in the batch, because a loss gets no generator.
    The net sees an image of 28x28, in which the tiles touch. Source: Noroozi and Favaro 2016, section 4.2. Raises: as `jigsaw_loss`.
    """
    return _mean(net, x, _apart, _losses)


def jigsaw_gap_correct(net: Net, x: Tensor) -> Tensor:
    """As `jigsaw_correct`, of tiles with a gap."""
    return _mean(net, x, _apart, _hits)


def _touching(net: Net, x: Tensor, classes: Tensor) -> Tensor:
    return joined(reassembled(x, classes))


def _apart(net: Net, x: Tensor, classes: Tensor) -> Tensor:
    margin = max(1, min(x.shape[2:]) // 2 // GAP)
    offsets = _offsets(x, len(classes), margin) if net.training else None
    return joined(net.mean + net.std * standardised(reassembled(x, classes, offsets, margin)))


def _losses(logits: Tensor, classes: Tensor) -> Tensor:
    return functional.cross_entropy(logits, classes, reduction="none")


def _hits(logits: Tensor, classes: Tensor) -> Tensor:
    return (logits.argmax(dim=1) == classes).float()


def _mean(net: Net, x: Tensor, view: Callable[[Net, Tensor, Tensor], Tensor], measure: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Mean [B] of the `measure` of logits over the views that are seen; `view` makes them from their classes i64 [4B]."""
    _check(x)
    place, values = torch.arange(len(x), device=x.device), []
    for group in [place % GROUPS] if net.training else [torch.full_like(place, group) for group in range(GROUPS)]:
        classes = (torch.arange(VIEWS, device=x.device)[:, None] * GROUPS + group).flatten()
        values.append(measure(net(view(net, x, classes)), classes).view(VIEWS, -1))
    return torch.cat(values).mean(dim=0)


def _offsets(x: Tensor, views: int, margin: int) -> Tensor:
    """Pseudo-random integers [views,4,2] in 0..2*margin, the same on every device."""
    pixels = (x * 255).round().long().sum(dim=(1, 2, 3))
    key = (torch.arange(views * 8, device=x.device).view(views, 4, 2) + pixels.repeat(views // len(x))[:, None, None]) % 2**32
    for shift, factor in MIXING:  # a single multiplication would move neighbouring cells together
        key = (key ^ key >> shift) * factor % 2**32
    return (key ^ key >> 16) % (2 * margin + 1)


def _check(x: Tensor) -> None:
    height, width = x.shape[2:]
    rows, columns = (max(SMALLEST, side + side % 2) for side in (height, width))
    if (rows, columns) != (height, width):
        raise ValueError(
            f"images of {height}x{width} pixels cannot be cut into 2x2 tiles for jigsaw: sides must be even, and at least {SMALLEST}; "
            f"resize them to {rows}x{columns}"
        )
