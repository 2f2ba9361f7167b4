"""Rotation: the net predicts by which of four angles an image is turned. Source: Gidaris et al. 2018."""

import torch
from torch import Tensor
from torch.nn import functional

from alnb.learn.nets import Net

TURNS = 4  # 0, 90, 180 and 270 degrees
SMALLEST = 8  # pixels, the side of the digits: smaller images do not show how they are turned


def turned(x: Tensor) -> Tensor:
    """The four rotations [4B,...,H,W] of square images [B,...,H,W]: all images at one angle, then all at the next.

    Raises: ValueError for images that are not square, or smaller than `SMALLEST`.
    """
    height, width = x.shape[-2:]
    if height != width or height < SMALLEST:
        raise ValueError(f"images of {height}x{width} pixels: rotation needs squares of {SMALLEST} pixels or more; resize the images")
    return torch.cat([torch.rot90(x, turns, dims=(-2, -1)) for turns in range(TURNS)])


def rotation_loss(net: Net, x: Tensor, _: Tensor | None = None) -> Tensor:
    """Mean cross-entropy [B] over the four angles of each image [B,3,H,W]. The first `TURNS` outputs of the net are the logits.

    The four views pass through the net in one batch of 4B. So batch normalisation sees all angles mixed, and cannot give the answer away.
    Source: Gidaris et al. 2018; Yi et al. 2022, equation 1.
    """
    return losses_of_logits(net(turned(x))[:, :TURNS])


def rotation_loss_in_four(net: Net, x: Tensor, _: Tensor | None = None) -> Tensor:
    """`rotation_loss`, but in training the views pass in four batches of B, one of each image, with equal shares of the four angles.

    So batch normalisation sees B images at a time, as in the code of Yi et al. 2022. Theirs turns each image in an order drawn at random.
    Here view k of the image at place i has angle (i + k) modulo 4: every pass is shuffled, so images change places.
    """
    if not net.training:
        return rotation_loss(net, x)
    views, place, losses = turned(x).unflatten(0, (TURNS, len(x))), torch.arange(len(x), device=x.device), []
    for view in range(TURNS):
        angles = (place + view) % TURNS
        losses.append(functional.cross_entropy(net(views[angles, place])[:, :TURNS], angles, reduction="none"))
    return torch.stack(losses).mean(dim=0)


def rotation_correct(net: Net, x: Tensor) -> Tensor:
    """Share [B] of the four angles of each image [B,3,H,W] that the net gets right."""
    return (net(turned(x))[:, :TURNS].argmax(dim=1).view(TURNS, -1) == torch.arange(TURNS, device=x.device)[:, None]).float().mean(dim=0)


def losses_of_logits(logits: Tensor) -> Tensor:
    """Mean cross-entropy [B] over the four angles, from the logits [4B,4] of `turned` images."""
    angles = torch.arange(TURNS, device=logits.device).repeat_interleave(len(logits) // TURNS)
    return functional.cross_entropy(logits, angles, reduction="none").view(TURNS, -1).mean(dim=0)
