"""Nets: ResNet-18 in two forms, two smaller nets for laptops, and a linear classifier."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

NO_CHANGE = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


@dataclass(frozen=True)
class Backbone:
    """Pre-trained weights of a net's trunk, named by a fingerprint."""

    fingerprint: str
    state: Mapping[str, Tensor]


class Net(nn.Module):
    """A trunk of stages, global average pooling, and a linear head. The input is images float [B,3,H,W] in [0, 1], of any H and W.

    The net normalises its input, so that no caller can forget it or do it differently. A net without stages is a head alone: its input
    is features [B,D].
    """

    mean: Tensor
    std: Tensor
    head: nn.Module

    def __init__(self, stages: Sequence[nn.Module], width: int, outputs: int) -> None:
        """`width` is the number of channels of the last stage, `outputs` that of the head."""
        super().__init__()
        self.trunk = nn.ModuleList(stages)
        self.width = width
        self.head = nn.Linear(width, outputs)
        self.register_buffer("mean", torch.tensor(NO_CHANGE[0]))
        self.register_buffer("std", torch.tensor(NO_CHANGE[1]))

    def maps(self, x: Tensor) -> list[Tensor]:
        """The output [B,D_k,H_k,W_k] of each stage."""
        x = (x - self.mean[:, None, None]) / self.std[:, None, None]
        out = []
        for stage in self.trunk:
            x = stage(x)
            out.append(x)
        return out

    def features(self, x: Tensor) -> Tensor:
        """Penultimate features [B,D]: the last stage's map, averaged over space."""
        return self.maps(x)[-1].mean(dim=(2, 3)) if self.trunk else x

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B,outputs]."""
        return self.head(self.features(x))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut. Source: He et al. 2016, section 3.3."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        """From `before` to `after` channels."""
        super().__init__()
        self.first = convolution(before, after, stride)
        self.second = nn.Sequential(nn.Conv2d(after, after, 3, padding=1, bias=False), nn.BatchNorm2d(after))
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or before != after:
            self.shortcut = nn.Sequential(nn.Conv2d(before, after, 1, stride=stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, x: Tensor) -> Tensor:
        """[B,before,H,W] to [B,after,H/stride,W/stride]."""
        return relu(self.second(self.first(x)) + self.shortcut(x), inplace=True)


def convolution(before: int, after: int, stride: int = 1, side: int = 3) -> nn.Sequential:
    """A convolution of `side` pixels, batch normalisation and ReLU."""
    conv = nn.Conv2d(before, after, side, stride=stride, padding=side // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(after), nn.ReLU(inplace=True))


def resnet18(outputs: int) -> Net:
    """ResNet-18 in its CIFAR form: 3x3 stem of stride 1 and no max-pooling; 11,173,962 parameters with 10 outputs.

    Source: He et al. 2016; the variant is that of the active-learning code bases (Yoo and Kweon 2019; Yi et al. 2022).
    """
    return _resnet(outputs, 64, 2, lambda: convolution(3, 64))


def resnet18_large(outputs: int) -> Net:
    """ResNet-18 in its ImageNet form, for images of 224x224: 7x7 stem of stride 2 and max-pooling. Source: He et al. 2016."""
    return _resnet(outputs, 64, 2, lambda: nn.Sequential(*convolution(3, 64, 2, side=7), nn.MaxPool2d(3, 2, 1)))


def resnet10(outputs: int, width: int = 64, stride: int = 1) -> Net:
    """ResNet-18 with one block in each stage instead of two, `width` to 8 `width` channels, and a stem of `stride`.

    For laptops: 690,552 parameters below the head with width 24. It is deep enough to learn from SimSiam; `small` is not.
    """
    return _resnet(outputs, width, 1, lambda: convolution(3, width, stride))


def _resnet(outputs: int, width: int, blocks: int, stem: Callable[[], nn.Module]) -> Net:
    """Four stages of `blocks` blocks, `width` to 8 `width` channels, the first of them after the `stem`."""
    widths = [width * 2**k for k in range(4)]
    stages = []
    for k, (before, after) in enumerate(zip((width, *widths[:-1]), widths, strict=True)):
        first = BasicBlock(before, after, 2 if k else 1)
        stages.append(nn.Sequential(first, *(BasicBlock(after, after, 1) for _ in range(blocks - 1))))
    stages[0] = nn.Sequential(stem(), *stages[0])
    return Net(stages, widths[-1], outputs)


def small(outputs: int, width: int = 32, stride: int = 1) -> Net:
    """Three convolutions, `width` to 4 `width` channels, for laptops: 93,000 parameters at width 32; images from 8x8 up.

    `stride` is that of the first convolution: with 2 the net works on a quarter of the pixels, and is about five times as fast.
    """
    stages = [convolution(3, width, stride), convolution(width, 2 * width, 2), convolution(2 * width, 4 * width, 2)]
    return Net(stages, 4 * width, outputs)


def linear(outputs: int, width: int) -> Net:
    """A linear classifier of features [B,`width`]: weights from N(0, 0.01), biases 0.

    Source: the linear evaluation of SimSiam's published code (Chen and He 2021).
    """
    net = Net([], width, outputs)
    net.head = head = nn.Linear(width, outputs)
    nn.init.normal_(head.weight, std=0.01)
    nn.init.zeros_(head.bias)
    return net


NETS: dict[str, Callable[..., Net]] = {"resnet18": resnet18, "resnet18_large": resnet18_large, "resnet10": resnet10, "small": small}
