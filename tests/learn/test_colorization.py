"""Colorization: colours and bins against formulae written naively, both losses image by image, and what the net sees."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

import alnb
from alnb.learn.nets import NETS, Backbone, Net, small
from alnb.learn.pretexts import colorization
from alnb.learn.pretexts.colorization import BINS, bins, colour_bin_loss, colour_regression_loss, lab, nearest
from alnb.learn.pretrain import PRETEXTS, build
from alnb.store import Stream

LOSSES = {"colorization": colour_regression_loss, "colorization_ab": colour_bin_loss}
LEARNER = alnb.Learner(lambda n: small(n, 4), alnb.Recipe())


def images_of(*size: int, seed: int = 0) -> Tensor:
    return torch.rand(*size, generator=(Stream(seed) / "coloured").generator())


def net_of(name: str) -> Net:
    return build(LEARNER, PRETEXTS[name], 0).eval()


def naive_lab(rgb: list[float]) -> list[float]:
    red, green, blue = (((v + 0.055) / 1.055) ** 2.4 if v > 0.04045 else v / 12.92 for v in rgb)
    x = (0.4124 * red + 0.3576 * green + 0.1805 * blue) / 0.9505
    y = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    z = (0.0193 * red + 0.1192 * green + 0.9505 * blue) / 1.0890
    fx, fy, fz = (t ** (1 / 3) if t > 216 / 24389 else (24389 / 27 * t + 16) / 116 for t in (x, y, z))
    return [116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)]


def naive_colours(image: Tensor) -> Tensor:
    height, width = image.shape[1:]
    return torch.tensor([[naive_lab(image[:, i, j].tolist()) for j in range(width)] for i in range(height)]).permute(2, 0, 1)


# ---- colours -------------------------------------------------------------------------------------------------------------------


def test_lab_against_the_formulae_written_naively() -> None:
    x = images_of(3, 3, 5, 4) ** 3  # dark ones too, below both bends
    torch.testing.assert_close(lab(x), torch.stack([naive_colours(image) for image in x]), atol=2e-3, rtol=1e-4)


@pytest.mark.parametrize(
    ("rgb", "expected"),
    [
        ((1.0, 0.0, 0.0), (53.24, 80.09, 67.20)),  # the primaries as they stand in tables of sRGB under D65
        ((0.0, 1.0, 0.0), (87.73, -86.18, 83.18)),
        ((0.0, 0.0, 1.0), (32.30, 79.19, -107.86)),
        ((1.0, 1.0, 1.0), (100.0, 0.0, 0.0)),
        ((0.0, 0.0, 0.0), (0.0, 0.0, 0.0)),
    ],
)
def test_lab_of_published_colours(rgb: tuple[float, ...], expected: tuple[float, ...]) -> None:
    colours = lab(torch.tensor(rgb).view(1, 3, 1, 1)).flatten()
    torch.testing.assert_close(colours, torch.tensor(expected), atol=0.03, rtol=0)


def test_autocast_leaves_colours_alone() -> None:
    x = images_of(2, 3, 4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        inside = lab(x)
    assert torch.equal(inside, lab(x)) and inside.dtype == torch.float32


def test_bins_are_those_of_the_grid_that_a_screen_can_show() -> None:
    inverse = np.linalg.inv([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]).tolist()
    expected = [[a, b] for a in range(-110, 111, 10) for b in range(-110, 111, 10) if any(shown(L, a, b, inverse) for L in range(101))]
    assert bins().tolist() == expected and len(expected) == BINS == PRETEXTS["colorization_ab"].outputs


def shown(lightness: int, a: int, b: int, inverse: list[list[float]]) -> bool:
    y = (lightness + 16) / 116
    f = (y + a / 500, y, y - b / 200)
    xyz = [w * (t**3 if t > 6 / 29 else 108 / 841 * (t - 4 / 29)) for w, t in zip((0.9505, 1.0, 1.089), f, strict=True)]
    return all(0 <= sum(m * v for m, v in zip(row, xyz, strict=True)) <= 1 for row in inverse)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), st.integers(1, 6))
def test_nearest_is_the_nearest(images: int, height: int, width: int, count: int) -> None:
    ab = torch.randint(-40, 40, (images, 2, height, width), generator=(Stream(count) / "ab").generator()).float()
    centres = torch.randint(-3, 4, (count, 2), generator=(Stream(count) / "centres").generator()).float() * 10  # some of them twice
    bins_of_places = nearest(ab, centres)
    for n in range(images):
        for i in range(height):
            for j in range(width):
                far = [sum((float(ab[n, k, i, j]) - float(c[k])) ** 2 for k in range(2)) for c in centres]
                assert int(bins_of_places[n, i, j]) == far.index(min(far))


def test_every_centre_is_its_own_bin() -> None:
    assert torch.equal(nearest(bins().T[None, :, :, None], bins()).flatten(), torch.arange(BINS))


# ---- losses --------------------------------------------------------------------------------------------------------------------


def predicted(net: Net, image: Tensor) -> Tensor:
    """The head's output for one image, [outputs,h,w]."""
    grey = (naive_colours(image)[:1] / 100).repeat(3, 1, 1)
    out: Tensor = net.head(net.maps(grey[None])[-1], (image.shape[1] // 4, image.shape[2] // 4))
    return out[0]


def enlarged(x: list[list[float]], height: int, width: int) -> list[list[float]]:
    """Bilinear, with the pixels' centres where they are and the border repeated."""

    def at(i: int, new: int, old: int) -> tuple[int, int, float]:
        place = max((i + 0.5) * old / new - 0.5, 0.0)
        return int(place), min(int(place) + 1, old - 1), place - int(place)

    rows, columns = ([at(i, new, old) for i in range(new)] for new, old in ((height, len(x)), (width, len(x[0]))))
    return [
        [(1 - u) * ((1 - v) * x[t][left] + v * x[t][right]) + u * ((1 - v) * x[b][left] + v * x[b][right]) for left, right, v in columns]
        for t, b, u in rows
    ]


@pytest.mark.parametrize("size", [(8, 8), (12, 16), (9, 14)])
def test_regression_against_a_loop_over_images_and_pixels(size: tuple[int, int]) -> None:
    net, x = net_of("colorization"), images_of(3, 3, *size)
    expected = []
    for image in x:
        colours, maps = (naive_colours(image)[1:] / 110).tolist(), predicted(net, image).tolist()
        pairs = [(maps[k], colours[k]) for k in range(2)]
        errors = [
            (p - c) ** 2
            for prediction, true in pairs
            for p_row, c_row in zip(enlarged(prediction, *size), true, strict=True)
            for p, c in zip(p_row, c_row, strict=True)
        ]
        expected.append(sum(errors) / len(errors))
    torch.testing.assert_close(colour_regression_loss(net, x), torch.tensor(expected), atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("size", [(8, 8), (12, 16)])
def test_quantised_against_a_loop_over_images_and_places(size: tuple[int, int]) -> None:
    net, x, centres = net_of("colorization_ab"), images_of(3, 3, *size), bins().tolist()
    expected = []
    for image in x:
        colours, logits = naive_colours(image)[1:], predicted(net, image).detach()
        places = [(i, j) for i in range(size[0] // 4) for j in range(size[1] // 4)]
        losses = []
        for i, j in places:
            a, b = colours[:, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4].mean(dim=(1, 2)).tolist()
            near = min(range(BINS), key=lambda q: math.dist((a, b), centres[q]))
            losses.append(-float(logits[:, i, j].log_softmax(dim=0)[near]))
        expected.append(sum(losses) / len(losses))
    torch.testing.assert_close(colour_bin_loss(net, x), torch.tensor(expected), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", LOSSES)
def test_the_net_sees_lightness_alone(name: str) -> None:
    net, x = net_of(name), images_of(4, 3, 8, 8)
    seen: list[Tensor] = []
    net.trunk[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    LOSSES[name](net, x)
    (grey,) = seen
    assert torch.equal(grey[:, 0], grey[:, 1]) and torch.equal(grey[:, 0], grey[:, 2])
    torch.testing.assert_close(grey[:, 0], lab(x)[:, 0] / 100)
    assert 0 <= float(grey.min()) < float(grey.max()) <= 1


def test_grey_images_are_easy() -> None:
    net, x = net_of("colorization"), images_of(4, 3, 8, 8)
    x[2:] = x[2:, :1]
    with torch.no_grad():
        net.head.last.weight.zero_()
        net.head.last.bias.zero_()  # no colour anywhere: what a net says that has learned nothing but the mean of grey images
        losses = colour_regression_loss(net, x)
    assert float(losses[2:].max()) < 1e-9 and float(losses[:2].min()) > 1e-3


@pytest.mark.parametrize("name", sorted(NETS))
def test_the_trunk_is_a_backbone_of_coloured_images(name: str) -> None:
    learner = alnb.Learner(NETS[name], alnb.Recipe())
    trained, x = build(learner, PRETEXTS["colorization"], 0).eval(), images_of(2, 3, 8, 8)
    other = replace(learner, backbone=Backbone("colours", trained.trunk.state_dict())).build(10, Stream(1)).eval()
    torch.testing.assert_close(other.features(x), trained.features(x))
    assert other(x).shape == (2, 10)
    heads = sum(p.numel() for p in trained.head.parameters()) / sum(p.numel() for p in trained.trunk.parameters())
    assert heads < 0.3  # a light head


@pytest.mark.parametrize("name", LOSSES)
def test_it_is_learned(name: str) -> None:
    x = images_of(16, 1, 8, 8, seed=1).repeat(1, 3, 1, 1) * 0.2
    x[:8, 0, :, :4] += 0.8
    x[8:, 2, :, 4:] += 0.8  # red on the left or blue on the right, which differ in lightness too
    net = build(LEARNER, PRETEXTS[name], 0)
    optimiser = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    before = float(LOSSES[name](net.eval(), x).detach().mean())
    net.train()
    for _ in range(60):
        optimiser.zero_grad()
        LOSSES[name](net, x).mean().backward()
        optimiser.step()
    after = float(LOSSES[name](net.eval(), x).detach().mean())
    assert after < 0.7 * before and all(p.grad is not None for p in net.parameters())
    best = (lab(x)[:, 1:] / 110).var(dim=(0, 2, 3), correction=0).mean()  # of all constant answers
    assert after < (0.5 * float(best) if name == "colorization" else 1.5)  # ln 226 is 5.4


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("size", [(7, 8), (8, 4)])
def test_small_images_are_refused(name: str, size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=rf"images of {size[0]}x{size[1]} pixels are too small for colorization.*resize them to 8x8"):
        LOSSES[name](net_of(name), images_of(1, 3, *size))


def test_the_head_of_another_pretext_is_told() -> None:
    with pytest.raises(AssertionError, match=r"build it with pretrain\.build"):
        colour_regression_loss(small(2, 4), images_of(1, 3, 8, 8))


def test_the_head_resizes_between_its_layers() -> None:
    head = colorization.ColourHead(8, 3).eval()
    last = images_of(2, 8, 2, 3)
    between = functional.interpolate(head.before(last), (4, 5), mode="bilinear", align_corners=False)
    torch.testing.assert_close(head(last, (4, 5)), head.last(head.after(between)))
    assert not any("centres" in name for name in head.state_dict())
