"""Every operation on images against torchvision's, image by image, with the same parameters."""

import itertools

import pytest
import torch
from augmentation import close, images, masks, naive_jitter, per_image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from alnb.learn import augment, transforms
from alnb.store import Stream

SIZES = [(8, 8), (32, 32), (24, 40), (65, 33)]


def jitter(x: torch.Tensor, factors: torch.Tensor, order: torch.Tensor, hue_place: int | None) -> torch.Tensor:
    return transforms.jitter(x.clone(), *transforms.jitter_matrices(factors, order), factors[:, 3], hue_place)


@pytest.mark.parametrize(("H", "W"), SIZES)
@pytest.mark.parametrize("padding", [1, 4])
def test_crop(H, W, padding):
    x, y = images(9, H, W), masks(9, H, W)
    corners = augment.draw_corners(9, padding, Stream(0).generator())
    expected = per_image(x, lambda image, k: tv.crop(tv.pad(image, [padding]), *corners[k].tolist(), H, W))
    assert torch.equal(transforms.crop(x, corners, padding), expected)
    labels = per_image(y[:, None], lambda mask, k: tv.crop(tv.pad(mask, [padding], fill=-1), *corners[k].tolist(), H, W))
    assert torch.equal(transforms.crop(y, corners, padding, fill=-1), labels[:, 0])


@pytest.mark.parametrize(("H", "W"), SIZES)
def test_hflip(H, W):
    x, y, flip = images(6, H, W), masks(6, H, W), torch.tensor([True, False, True, True, False, False])
    assert torch.equal(transforms.hflip(x, flip), per_image(x, lambda image, k: tv.horizontal_flip(image) if flip[k] else image))
    assert torch.equal(transforms.hflip(y, flip), per_image(y, lambda mask, k: tv.horizontal_flip(mask) if flip[k] else mask))


@pytest.mark.parametrize(("H", "W"), SIZES)
def test_resized_crop(H, W):
    x = images(12, H, W)
    boxes = augment.draw_boxes(12, H, W, (0.08, 1.0), (3 / 4, 4 / 3), Stream(0).generator())
    boxes[0] = torch.tensor([0, 0, H, W])
    boxes[1] = torch.tensor([H - 1, W - 2, 1, 2])
    expected = per_image(x, lambda image, k: tv.resized_crop(image / 255, *boxes[k].tolist(), [H, W], antialias=True))
    close(transforms.resized_crop(x, boxes), expected)
    close(transforms.resized_crop(x / 255, boxes), expected)
    flip = torch.arange(12) % 2 == 0
    close(transforms.resized_crop(x, boxes, flip), torch.where(flip[:, None, None, None], expected.flip(-1), expected))


def test_resized_crop_of_the_whole_image_changes_nothing():
    x = images(4, 32, 32)
    close(transforms.resized_crop(x, torch.tensor([[0, 0, 32, 32]] * 4)), x / 255, 1e-6)


@pytest.mark.parametrize(("H", "W"), SIZES)
def test_resized_crop_nearest(H, W):
    y = masks(40, H, W)
    boxes = augment.draw_boxes(40, H, W, (0.08, 1.0), (3 / 4, 4 / 3), Stream(0).generator())
    how = InterpolationMode.NEAREST_EXACT
    expected = per_image(y[:, None], lambda mask, k: tv.resized_crop(mask, *boxes[k].tolist(), [H, W], interpolation=how))
    assert torch.equal(transforms.resized_crop_nearest(y, boxes), expected[:, 0])


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_jitter_in_each_of_the_24_orders(order):
    x = images(16, 24, 40) / 255
    factors, _ = augment.draw_jitter(16, (0.8, 0.8, 0.8, 0.5), 1.0, Stream(0).generator())
    three = torch.tensor([k for k in order if k != 3]).expand(16, 3)
    expected = per_image(x, lambda image, k: naive_jitter(image, factors[k].tolist(), order))
    close(jitter(x, factors, three, order.index(3)), expected)


def test_jitter_takes_an_order_per_image_and_may_leave_the_hue_alone():
    x = images(16, 8, 8) / 255
    factors, order = augment.draw_jitter(16, (0.4, 0.4, 0.4, 0.1), 0.8, Stream(0).generator())
    assert len(order.unique(dim=0)) > 1
    expected = per_image(x, lambda image, k: naive_jitter(image, factors[k].tolist(), order[k].tolist()))
    close(jitter(x, factors, order, None), expected)


@pytest.mark.parametrize("turn", [-0.5, -0.3, -0.1, 0.0, 0.05, 0.25, 0.5])
def test_shift_hue(turn):
    x = images(8, 32, 32) / 255
    expected = tv.adjust_hue(x, turn)
    close(transforms.shift_hue(x, torch.full((8,), turn)), expected)
    assert transforms.shift_hue(x, torch.full((8,), turn), out=x) is x
    close(x, expected)


def test_shift_hue_on_every_corner_and_edge_of_the_colour_cube():
    x = torch.cartesian_prod(*[torch.tensor([0.0, 1 / 255, 0.5, 254 / 255, 1.0])] * 3).T.reshape(1, 3, 25, 5)
    for turn in (0.0, 1 / 6, 1 / 3, 0.5):
        close(transforms.shift_hue(x, torch.tensor([turn])), tv.adjust_hue(x, turn))


def test_greyscale():
    x, grey = images(5, 8, 8) / 255, torch.tensor([True, False, True, False, False])
    close(transforms.greyscale(x, grey), per_image(x, lambda image, k: tv.rgb_to_grayscale(image, 3) if grey[k] else image), 1e-6)
    assert torch.equal(transforms.greyscale(x, grey)[~grey], x[~grey])
    assert torch.equal(transforms.greyscale(x, grey, out := torch.empty_like(x)), out)


@pytest.mark.parametrize(("H", "W"), [(32, 32), (64, 64), (40, 61), (120, 224)])
def test_gaussian_blur(H, W):
    x, kernel = images(6, H, W) / 255, transforms.blur_kernel(H, W)
    sigma = torch.tensor([0.1, 0.3, 1.0, 2.0, 5.0, 0.0])
    expected = per_image(x[:5], lambda image, k: tv.gaussian_blur(image, [kernel, kernel], [sigma[k].item()]))
    blurred = transforms.gaussian_blur(x, sigma, kernel)
    close(blurred[:5], expected)
    assert torch.equal(blurred[5], x[5])


def test_blur_kernel_is_seven_pixels_at_64():
    assert [transforms.blur_kernel(size, size) for size in (8, 32, 64, 224)] == [1, 3, 7, 23]


@pytest.mark.parametrize("kernel", [4, 0, -1, 17])
def test_a_kernel_that_does_not_fit_is_named(kernel):
    with pytest.raises(ValueError, match=rf"kernel {kernel} on 8x8 images.*odd.*16"):
        transforms.gaussian_blur(torch.rand(1, 3, 8, 8), torch.ones(1), kernel)


def test_constants_made_under_inference_mode_serve_training():
    transforms._constant.cache_clear()
    x, grey = torch.rand(1, 3, 8, 8, requires_grad=True), torch.ones(1, dtype=torch.bool)
    with torch.inference_mode():
        transforms.greyscale(x, grey)
    factors = torch.tensor([[1.0, 0.5, 0.5, 0.0]], requires_grad=True)
    transforms.jitter_matrices(factors, torch.tensor([[0, 1, 2]]))[0].sum().backward()
    assert factors.grad is not None
