"""SimSiam: the net predicts one view of an image from another, and no gradient flows into what it predicts.

Source: X. Chen, K. He: *Exploring Simple Siamese Representation Learning*, 2021.
"""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional

from alnb.learn.nets import Net


class SimSiamHead(nn.Module):
    """Projector and predictor, in place of a net's linear head.

    The projector is the one for CIFAR: two layers, the last followed by batch normalisation without affine part and without ReLU. The
    predictor is a bottleneck of a quarter of the width. Source: Chen and He 2021, section 4 and appendix D.
    """

    def __init__(self, width: int, outputs: int = 2048) -> None:
        """From features [B,`width`] to projections [B,`outputs`]."""
        super().__init__()
        self.projector = nn.Sequential(
            *_layer(width, outputs), nn.Linear(outputs, outputs, bias=False), nn.BatchNorm1d(outputs, affine=False)
        )
        self.predictor = nn.Sequential(*_layer(outputs, outputs // 4), nn.Linear(outputs // 4, outputs))

    def forward(self, features: Tensor) -> Tensor:
        """Projections z [B,`outputs`]."""
        return self.projector(features)


def _layer(before: int, after: int) -> list[nn.Module]:
    return [nn.Linear(before, after, bias=False), nn.BatchNorm1d(after), nn.ReLU(inplace=True)]


def simsiam_loss(net: Net, x: Tensor, _: Tensor | None = None) -> Tensor:
    """The negative cosine similarity [B], in [-1, 1], of each view's prediction and the other view's projection, both ways.

    `x` [2B,3,H,W] holds the first views of all images and then the second ones. Each half goes through the net separately, so that
    batch normalisation never mixes them. Source: Chen and He 2021, equations 1 to 4.
    """
    head = _head(net)
    first, second = (head(net.features(view)) for view in x.chunk(2))
    return (_distance(head.predictor(first), second) + _distance(head.predictor(second), first)) / 2


def _distance(p: Tensor, z: Tensor) -> Tensor:
    return -functional.cosine_similarity(p.float(), z.detach().float(), dim=1)


def spread(net: Net, x: Tensor) -> float:
    """How different the projections of images [B,3,H,W] in [0, 1] are: 1 if their directions are scattered, 0 if all are the same.

    It is the standard deviation of z / |z| per channel, averaged, over the 1 / sqrt(outputs) of scattered directions. A copy of the
    projector in training mode computes z, because running statistics would hide a collapse. It detects a collapse to one direction,
    not to a few: without the stop-gradient the accuracy of `Monitor` falls first. Source: Chen and He 2021, section 4.1.
    """
    projector = copy.deepcopy(_head(net).projector).train()
    with torch.no_grad():
        z: Tensor = functional.normalize(projector(net.features(x)).float(), dim=1)
    return float(z.std(dim=0).mean() * z.shape[1] ** 0.5)


def _head(net: Net) -> SimSiamHead:
    assert isinstance(net.head, SimSiamHead), "a SimSiam net needs its own head: build it with pretrain.build"
    return net.head
