"""Augmentation: the draws, and all steps together against torchvision's on the same parameters."""

import dataclasses
import json

import pytest
import torch
from augmentation import close, images, masks, naive
from conftest import never_waiting
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms import RandomResizedCrop

from alnb.learn import augment
from alnb.learn.augment import AUGMENTATIONS, Augment, Draw
from alnb.store import Stream

# --- the draws -------------------------------------------------------------------------------------------------------------------


def test_corners_are_uniform_over_all_offsets():
    corners = augment.draw_corners(90_000, 1, Stream(0).generator())
    counts = torch.bincount(corners[:, 0] * 3 + corners[:, 1], minlength=9)
    assert (counts - 10_000).abs().max() < 500


def test_flip_rate():
    for p in (0.0, 0.2, 0.5, 1.0):
        assert abs(augment.draw_mask(40_000, p, Stream(0).generator()).float().mean() - p) < 0.012


@pytest.mark.parametrize(("H", "W"), [(32, 32), (8, 8), (24, 60), (60, 24)])
@pytest.mark.parametrize("scale", [(0.08, 1.0), (0.2, 1.0), (0.9, 1.0)])
def test_boxes_are_distributed_as_torchvisions(H, W, scale):
    ratio = (3 / 4, 4 / 3)
    ours = augment.draw_boxes(20_000, H, W, scale, ratio, Stream(0).generator())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        blank = torch.empty(3, H, W)
        theirs = torch.tensor([RandomResizedCrop.get_params(blank, list(scale), list(ratio)) for _ in range(4_000)])
    top, left, height, width = ours.unbind(1)
    assert (ours >= 0).all() and (height > 0).all() and (width > 0).all()
    assert (top + height <= H).all() and (left + width <= W).all()
    for column in range(4):
        grid = torch.arange(max(H, W) + 1)
        distance = (ours[:, column, None] <= grid).float().mean(0) - (theirs[:, column, None] <= grid).float().mean(0)
        assert distance.abs().max() < 0.035  # Kolmogorov-Smirnov at p = 0.0005


def test_area_and_ratio_of_boxes_keep_to_their_ranges():
    height, width = augment.draw_boxes(20_000, 224, 224, (0.2, 0.6), (0.5, 2.0), Stream(0).generator()).unbind(1)[2:]
    area, ratio = height * width / 224**2, width / height
    assert 0.195 < area.min() < 0.21 and 0.59 < area.max() < 0.61
    assert 0.49 < ratio.min() < 0.52 and 1.95 < ratio.max() < 2.03
    assert abs(ratio.log().mean()) < 0.02


@pytest.mark.parametrize(("H", "W", "box"), [(8, 32, [0, 10, 8, 11]), (32, 8, [10, 0, 11, 8]), (32, 32, [0, 0, 32, 32])])
def test_where_no_candidate_fits_the_centre_is_cut_out(H, W, box):
    ours = augment.draw_boxes(3, H, W, (4.0, 5.0), (3 / 4, 4 / 3), Stream(0).generator())  # larger than the image
    assert list(RandomResizedCrop.get_params(torch.empty(3, H, W), [4.0, 5.0], [3 / 4, 4 / 3])) == box
    assert ours.tolist() == [box] * 3


def test_jitter_factors_and_orders():
    factors, order = augment.draw_jitter(60_000, (0.4, 0.2, 1.5, 0.1), 0.8, Stream(0).generator())
    untouched = (factors == torch.tensor([1.0, 1.0, 1.0, 0.0])).all(1)
    assert abs(untouched.float().mean() - 0.2) < 0.01
    drawn = factors[~untouched]
    close(drawn.amin(0), torch.tensor([0.6, 0.8, 0.0, -0.1]), 1e-3)
    close(drawn.amax(0), torch.tensor([1.4, 1.2, 2.5, 0.1]), 1e-3)
    close(drawn.mean(0), torch.tensor([1.0, 1.0, 1.25, 0.0]), 0.02)
    kinds, counts = order.unique(dim=0, return_counts=True)
    assert len(kinds) == 6 and (counts - 10_000).abs().max() < 500


def test_sigmas():
    sigma = augment.draw_sigma(20_000, 0.5, (0.1, 2.0), Stream(0).generator())
    assert abs((sigma > 0).float().mean() - 0.5) < 0.02
    assert 0.1 <= sigma[sigma > 0].min() < 0.11 and 1.99 < sigma.max() <= 2.0


# --- together --------------------------------------------------------------------------------------------------------------------

EVERYTHING = Augment(scale=(0.2, 1.0), flip=0.5, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, grey_p=0.2, blur_p=0.5)


@pytest.mark.parametrize("name", [*AUGMENTATIONS, "everything", "no hue"])
@pytest.mark.parametrize("B", [1, 7, 16])
def test_all_steps_together_are_those_of_torchvision(name, B, monkeypatch):
    monkeypatch.setattr(augment, "CHUNK_PIXELS", 3 * 40 * 48)  # several chunks, not all equally long
    augmentation = {"everything": EVERYTHING, "no hue": dataclasses.replace(EVERYTHING, hue=0.0), **AUGMENTATIONS}[name]
    x, y = images(B, 40, 48), masks(B, 40, 48)
    draw = augmentation.draw(B, 40, 48, Stream(3).generator())
    image, mask = augmentation.apply(x, draw, y)
    expected_image, expected_mask = naive(augmentation, x, draw, y)
    close(image, expected_image)
    assert mask is not None and torch.equal(mask, expected_mask)


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(list(AUGMENTATIONS)), B=st.integers(0, 9), H=st.integers(8, 70), W=st.integers(8, 70), seed=st.integers(0, 2**62)
)
def test_shapes_dtypes_ranges_and_seeds(name, B, H, W, seed):
    x, y = images(B, H, W), masks(B, H, W, torch.int16)
    before = x.clone(), y.clone()
    image, mask = AUGMENTATIONS[name](x, Stream(seed).generator(), y)
    again, _ = AUGMENTATIONS[name](x, Stream(seed).generator())
    assert image.shape == x.shape and image.dtype == torch.float32 and mask is not None and mask.shape == y.shape and mask.dtype == y.dtype
    assert torch.equal(image, again) and image.isfinite().all()
    assert not B or (image.min() >= -1e-5 and image.max() <= 1 + 1e-5)
    assert torch.equal(x, before[0]) and torch.equal(y, before[1])


def test_224_pixels():
    image, mask = AUGMENTATIONS["simsiam_blur"](images(3, 224, 224), Stream(0).generator(), masks(3, 224, 224))
    assert image.shape == (3, 3, 224, 224) and mask is not None and mask.shape == (3, 224, 224)


def test_the_hue_has_each_of_its_places_in_a_quarter_of_the_batch():
    places = [
        [place for rows, place in augment._chunks(torch.empty(n, 3, 8, 8), 4) for _ in range(rows.stop - rows.start)] for n in range(14)
    ]
    assert places == [[4 * k // n for k in range(n)] for n in range(14)]


def test_masks_move_with_their_images():
    y = masks(32, 32, 32)
    x = (y * 10).to(torch.uint8)[:, None].expand(-1, 3, -1, -1)
    image, mask = Augment(padding=4, flip=0.5, void=0)(x, Stream(0).generator(), y)
    assert mask is not None and torch.equal((image[:, 0] * 25.5).round().long(), mask)
    assert not torch.equal(mask, y)


def test_other_seeds_give_other_images_and_the_generator_moves_on():
    x, generator = images(8, 32, 32), Stream(0).generator()
    first, second = AUGMENTATIONS["crop_flip"](x, generator)[0], AUGMENTATIONS["crop_flip"](x, generator)[0]
    assert not torch.equal(first, second)


def test_chunks_do_not_change_the_result(monkeypatch):
    x = images(21, 16, 16)
    expected = EVERYTHING(x, Stream(0).generator())[0]
    monkeypatch.setattr(augment, "CHUNK_PIXELS", 2 * 256)
    close(EVERYTHING(x, Stream(0).generator())[0], expected, 1e-6)


def test_autocast_does_not_coarsen_the_images():
    x = images(4, 64, 64)
    exact = EVERYTHING(x, Stream(0).generator())[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        close(EVERYTHING(x, Stream(0).generator())[0], exact, 1e-6)


def test_none_is_the_image_itself():
    x = images(5, 8, 8)
    image, mask = AUGMENTATIONS["none"](x, Stream(0).generator())
    assert torch.equal(image, x / 255) and mask is None


@pytest.mark.parametrize("augmentation", AUGMENTATIONS.values(), ids=AUGMENTATIONS.keys())
def test_the_fields_go_into_a_manifest_and_come_back(augmentation):
    stored = json.loads(json.dumps(dataclasses.asdict(augmentation)))
    assert Augment(**{name: tuple(value) if isinstance(value, list) else value for name, value in stored.items()}) == augmentation


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ({"flip": 1.5}, r"flip=1\.5"),
        ({"jitter_p": -0.1}, r"jitter_p=-0\.1"),
        ({"grey_p": float("nan")}, "grey_p=nan"),
        ({"blur_p": 2.0}, r"blur_p=2\.0"),
        ({"brightness": -0.4}, r"brightness=-0\.4"),
        ({"contrast": float("inf")}, "contrast=inf"),
        ({"saturation": -1.0}, r"saturation=-1\.0"),
        ({"hue": 0.6}, r"hue=0\.6"),
        ({"padding": -1}, "padding=-1"),
        ({"padding": 4, "scale": (0.2, 1.0)}, "padding=4.*scale"),
        ({"scale": (0.2, 1.1)}, r"scale=\(0\.2, 1\.1\)"),
        ({"scale": (1.0, 0.2)}, r"scale=\(1\.0, 0\.2\)"),
        ({"ratio": (0.0, 1.0)}, r"ratio=\(0\.0, 1\.0\)"),
        ({"blur_sigma": (2.0, 0.1)}, r"blur_sigma=\(2\.0, 0\.1\)"),
    ],
)
def test_bad_fields_are_named(field, message):
    with pytest.raises(ValueError, match=message):
        Augment(**field)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (torch.rand(2, 3, 8, 8), None, r"images of torch\.float32 \[2, 3, 8, 8\]"),
        (torch.zeros(2, 1, 8, 8, dtype=torch.uint8), None, r"images of torch\.uint8 \[2, 1, 8, 8\]"),
        (images(2, 8, 8), torch.rand(2, 8, 8), r"masks of torch\.float32 \[2, 8, 8\]"),
        (images(2, 8, 8), torch.zeros(2, 8, 8, dtype=torch.bool), r"masks of torch\.bool"),
        (images(2, 8, 8), torch.zeros(2, 8, 8, dtype=torch.uint8), r"void=-1.*torch\.uint8.*void=255"),
    ],
)
def test_bad_batches_are_named(x, y, message):
    with pytest.raises(ValueError, match=message):
        AUGMENTATIONS["crop_flip"](x, Stream(0).generator(), y)


def test_uint8_masks_with_their_own_void():
    _, mask = Augment(padding=4, void=255)(images(16, 8, 8), Stream(0).generator(), masks(16, 8, 8, torch.uint8))
    assert mask is not None and mask.dtype == torch.uint8 and (mask == 255).any()


def test_a_generator_elsewhere_is_named():
    with pytest.raises(ValueError, match=r"images are on meta.*generator on cpu"):
        AUGMENTATIONS["crop"](images(2, 8, 8).to("meta"), Stream(0).generator())


@pytest.mark.gpu
@pytest.mark.parametrize("B", [0, 1, 50])
@pytest.mark.parametrize("augmentation", [*AUGMENTATIONS.values(), EVERYTHING], ids=[*AUGMENTATIONS, "everything"])
def test_cuda_agrees_with_the_cpu(augmentation, B):
    x, y = images(B, 64, 48), masks(B, 64, 48)
    draw = augmentation.draw(B, 64, 48, Stream(0).generator())
    image, mask = augmentation.apply(x, draw, y)
    there, mask_there = augmentation.apply(x.cuda(), Draw(*(None if t is None else t.cuda() for t in draw)), y.cuda())
    close(there.cpu(), image, 1e-4)
    assert mask is not None and mask_there is not None and torch.equal(mask_there.cpu(), mask)


@pytest.mark.gpu
def test_cuda_is_never_waited_for():
    x, y, generator = images(50, 64, 48).cuda(), masks(50, 64, 48).cuda(), Stream(0).generator("cuda")
    step = [lambda a=a: a(x, generator, y) for a in (EVERYTHING, AUGMENTATIONS["crop_flip"])]
    [run() for run in step]  # constants are copied the first time
    with never_waiting():
        [run() for run in step]
