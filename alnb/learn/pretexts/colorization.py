"""Colorization: the net predicts the colours of an image from its grey version, as numbers or as bins.

The net sees lightness alone, on three channels, so that its trunk takes coloured images too. Source: R. Zhang, P. Isola, A. A. Efros:
*Colorful Image Colorization*, 2016. PT4AL (Yi et al. 2022) names the pretext and publishes no code of it.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from alnb.learn.nets import Net, convolution
from alnb.store.shapes import Float, Int

# Linear sRGB to CIE XYZ. The white point D65 is what (1, 1, 1) becomes, so that grey has exactly no colour. Source: IEC 61966-2-1
XYZ = ((0.4124, 0.3576, 0.1805), (0.2126, 0.7152, 0.0722), (0.0193, 0.1192, 0.9505))
WHITE = tuple(map(sum, XYZ))
BEND = 6 / 29  # below its cube, Lab replaces the cube root by a straight line. Source: CIE 15:2004, 8.2.1

SCALE = 110.0  # of a and b: no colour of sRGB reaches further. Source: Zhang et al. 2016, their code
GRID = 10  # distance between the bins of a and b. Source: Zhang et al. 2016, section 2.1
BINS = 226  # `len(bins())`. The paper has 313, although colours of sRGB fall into only 261 cells of the grid
SMALLEST = 8  # pixels a side: the prediction has a quarter of it


def lab(x: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
    """CIE Lab of sRGB images in [0, 1]: L in [0, 100], a and b in [-110, 110], under the white point D65.

    It works element by element: autocast would round a matrix product to bfloat16. Source: IEC 61966-2-1; CIE 15:2004, 8.2.1.
    """
    x = x.float()
    red, green, blue = torch.where(x > 0.04045, ((x + 0.055) / 1.055) ** 2.4, x / 12.92).unbind(dim=1)
    fx, fy, fz = (_root((r * red + g * green + b * blue) / white) for (r, g, b), white in zip(XYZ, WHITE, strict=True))
    return torch.stack([116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)], dim=1)


def _root(t: Tensor) -> Tensor:
    return torch.where(t > BEND**3, t.clamp(min=BEND**3) ** (1 / 3), t / (3 * BEND**2) + 4 / 29)


def bins() -> Float[Tensor, "Q 2"]:
    """The points (a, b) of the grid that are a colour of sRGB at one of the lightnesses 0, 1, ..., 100; sorted by a, then b.

    Source: Zhang et al. 2016, section 2.1 and figure 3.
    """
    line = torch.arange(-SCALE, SCALE + 1, GRID, dtype=torch.float64)
    a, b = (grid.flatten() for grid in torch.meshgrid(line, line, indexing="ij"))
    fy = (torch.arange(101, dtype=torch.float64)[:, None] + 16) / 116
    f = torch.stack(torch.broadcast_tensors(fy + a / 500, fy, fy - b / 200))
    xyz = torch.where(f > BEND, f**3, 3 * BEND**2 * (f - 4 / 29)) * torch.tensor(WHITE, dtype=torch.float64)[:, None, None]
    linear = torch.einsum("ij,jlq->ilq", torch.linalg.inv(torch.tensor(XYZ, dtype=torch.float64)), xyz)
    inside = ((linear >= 0) & (linear <= 1)).all(dim=0).any(dim=0)
    return torch.stack([a, b], dim=1)[inside].float()


def nearest(ab: Float[Tensor, "B 2 H W"], centres: Float[Tensor, "Q 2"]) -> Int[Tensor, "B H W"]:
    """The bin whose centre is nearest to each colour; the first if several are. Memory: O(B Q H W)."""
    a, b = centres[:, :, None, None].unbind(dim=1)
    return ((ab[:, :1] - a) ** 2 + (ab[:, 1:] - b) ** 2).argmin(dim=1)


class ColourHead(nn.Module):
    """A decoder in place of a net's linear head: from the trunk's last map to `outputs` values at each of h x w places.

    Two convolutions, 1x1 and 3x3, halve the channels; a bilinear resizing stands between them.
    """

    centres: Tensor

    def __init__(self, width: int, outputs: int) -> None:
        """From maps of `width` channels."""
        super().__init__()
        self.before, self.after = convolution(width, width // 2, side=1), convolution(width // 2, width // 4)
        self.last = nn.Conv2d(width // 4, outputs, 1)
        self.register_buffer("centres", bins(), persistent=False)

    def forward(self, last: Tensor, size: tuple[int, int]) -> Tensor:
        """[B,width,H',W'] to [B,outputs,h,w] with `size` (h, w)."""
        return self.last(self.after(_resize(self.before(last), size)))


def _resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    return functional.interpolate(x, size, mode="bilinear", align_corners=False)


def colour_regression_loss(net: Net, x: Tensor, _: Tensor | None = None) -> Tensor:
    """The squared error [B] of a / 110 and b / 110, averaged over both and over the pixels of images [B,3,H,W] in [0, 1].

    The net predicts at a quarter of the resolution; the loss compares at the full one. A grey image is always easy, whatever it shows.
    Raises: ValueError for images below 8x8.
    """
    colours = lab(x)
    predicted = _resize(_predict(net, colours).float(), (x.shape[2], x.shape[3]))
    return (predicted - colours[:, 1:] / SCALE).square().mean(dim=(1, 2, 3))


def colour_bin_loss(net: Net, x: Tensor, _: Tensor | None = None) -> Tensor:
    """Mean cross-entropy [B] of predicting the bin of (a, b), of `BINS`, at a quarter of the resolution of images [B,3,H,W] in [0, 1].

    The colour of a place is the mean of its 4x4 pixels, and its bin the nearest one. Rare colours weigh no more than common ones: weights
    would order the images by how rare their colours are. Grey is the commonest colour, so grey images are easy here too.
    Source: Zhang et al. 2016, section 2.1. They spread a colour over its 5 nearest bins, and give rare colours more weight.
    Raises: ValueError for images below 8x8.
    """
    colours = lab(x)
    predicted = _predict(net, colours).float()
    pooled = functional.adaptive_avg_pool2d(colours[:, 1:], (predicted.shape[2], predicted.shape[3]))
    target = nearest(pooled, _head(net).centres)
    return functional.cross_entropy(predicted, target, reduction="none").mean(dim=(1, 2))


def _predict(net: Net, colours: Tensor) -> Tensor:
    """The head's output [B,outputs,H // 4,W // 4] for the lightness of `colours` [B,3,H,W], in [0, 1] and on three channels."""
    height, width = colours.shape[2:]
    if min(height, width) < SMALLEST:
        raise ValueError(
            f"images of {height}x{width} pixels are too small for colorization, which predicts at a quarter of their resolution; "
            f"resize them to {SMALLEST}x{SMALLEST} or more"
        )
    grey = (colours[:, :1] / 100).expand(-1, 3, -1, -1)
    return _head(net)(net.maps(grey)[-1], (height // 4, width // 4))


def _head(net: Net) -> ColourHead:
    assert isinstance(net.head, ColourHead), "a net for colorization needs its own head: build it with pretrain.build"
    return net.head
