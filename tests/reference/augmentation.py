"""Augmentation image by image through torchvision, and images to try it on."""

import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from alnb.learn import transforms
from alnb.learn.augment import Augment, Draw
from alnb.store import Stream


def images(B: int, H: int, W: int, seed: int = 0) -> torch.Tensor:
    """Random pixels, with smooth, grey, black and white ones among them, where colour arithmetic has its special cases."""
    x = torch.randint(0, 256, (B, 3, H, W), dtype=torch.uint8, generator=(Stream(seed) / "images").generator())
    if B >= 4:
        x[0] = x[0, :1]
        x[1, :, : H // 2] = 0
        x[1, :, H // 2 :] = 255
        x[2] = torch.linspace(0, 255, W).to(torch.uint8)
        x[2, 1] = x[2, 1].flip(-1)
    return x


def masks(B: int, H: int, W: int, dtype: torch.dtype = torch.int64) -> torch.Tensor:
    return torch.randint(0, 20, (B, H, W), generator=(Stream(1) / "masks").generator()).to(dtype)


def per_image(x: torch.Tensor, change) -> torch.Tensor:
    return torch.stack([change(image, k) for k, image in enumerate(x)])


def close(ours: torch.Tensor, theirs: torch.Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=0)


def naive_jitter(x: torch.Tensor, factors: list[float], order: list[int]) -> torch.Tensor:
    change = (tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation, tv.adjust_hue)
    for which in order:
        x = change[which](x, factors[which])
    return x


def naive(augmentation: Augment, x: torch.Tensor, draw: Draw, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What `Augment.apply` does, image by image through torchvision."""
    out, labels = torch.empty(x.shape), torch.empty_like(y)
    H, W = x.shape[2:]
    for k in range(len(x)):
        image, mask = x[k], y[k, None]
        if draw.corners is not None:
            p, corner = augmentation.padding, draw.corners[k].tolist()
            image, mask = tv.crop(tv.pad(image, [p]), *corner, H, W), tv.crop(tv.pad(mask, [p], fill=-1), *corner, H, W)
        image = image / 255
        if draw.boxes is not None:
            box = draw.boxes[k].tolist()
            image = tv.resized_crop(image, *box, [H, W])
            mask = tv.resized_crop(mask, *box, [H, W], interpolation=InterpolationMode.NEAREST_EXACT)
        if draw.flip is not None and draw.flip[k]:
            image, mask = tv.horizontal_flip(image), tv.horizontal_flip(mask)
        if draw.factors is not None and draw.order is not None:
            order = draw.order[k].tolist()
            order.insert(4 * k // len(x), 3)  # the place of the hue
            image = naive_jitter(image, draw.factors[k].tolist(), order)
        if draw.grey is not None and draw.grey[k]:
            image = tv.rgb_to_grayscale(image, 3)
        if draw.sigma is not None and draw.sigma[k] > 0:
            image = tv.gaussian_blur(image, [transforms.blur_kernel(H, W)] * 2, [draw.sigma[k].item()])
        out[k], labels[k] = image, mask[0]
    return out, labels
