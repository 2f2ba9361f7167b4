"""The images of Yi et al. 2022 (PT4AL): the class counts of its imbalanced CIFAR-10, and its order of colours."""

import torch

from alnb.data import DataError, ImageSet, Resident, pixels

IMBALANCED_CIFAR10 = (500, 1000, 1500, 2000, 2500, 3000, 3500, 4000, 4500, 5000)
"""Training images of airplane, automobile, bird, cat, deer, dog, frog, horse, ship, truck: those of the data set "cifar10_imbalanced".
Source: section 5.3."""


def bgr(image_set: ImageSet) -> ImageSet:
    """The images with reversed channels, as programs see them that read files with OpenCV; " (BGR)" is added to the name.

    The released code trains and tests on such images. Calling it twice restores the order, under a longer name. Grey images and
    their fingerprint do not change.

    Raises:
        DataError: the set holds features.

    Memory: O(N) images, once: a copy as `Resident`, also of a `Selection`.
    """
    images = pixels(image_set.images)
    if images is not image_set.images:
        raise DataError(f"image set {image_set.name!r} holds features, which have no colours: use `bgr` on its images, and embed those")
    reversed_ = torch.empty(len(images), *images.shape, dtype=torch.uint8, device=images.device)
    for indices in torch.arange(len(images)).split(1000):
        reversed_[indices[0] : indices[-1] + 1] = images.batch(indices).flip(1)
    return ImageSet(Resident(reversed_), image_set.targets, image_set.classes, f"{image_set.name} (BGR)")
