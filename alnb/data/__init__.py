"""Images and what is true of them: `ImageSet`, the data sets by name, parts of them, and where images lie.

`sources` holds tensors and selections of them, `sets` facts and their parts, `files` decodes folders of images, `official` verifies
and fetches published files, `datasets` puts them together.
"""

from alnb.data.datasets import (
    DATASETS,
    caltech101,
    check_name,
    cifar10,
    cifar10_imbalanced,
    cifar100,
    digits,
    fashion_mnist,
    fetch,
    load,
    root_folder,
    tiny_imagenet,
)
from alnb.data.files import SUFFIXES, Split, folder
from alnb.data.sets import IMBALANCED_CIFAR10, ImageSet, at_most, balanced, bgr, imbalanced, proportional, subset
from alnb.data.sources import DataError, Embedded, Images, Resident, Selection, pixels

__all__ = [
    "DATASETS",
    "IMBALANCED_CIFAR10",
    "SUFFIXES",
    "DataError",
    "Embedded",
    "ImageSet",
    "Images",
    "Resident",
    "Selection",
    "Split",
    "at_most",
    "balanced",
    "bgr",
    "caltech101",
    "check_name",
    "cifar10",
    "cifar10_imbalanced",
    "cifar100",
    "digits",
    "fashion_mnist",
    "fetch",
    "folder",
    "imbalanced",
    "load",
    "pixels",
    "proportional",
    "root_folder",
    "subset",
    "tiny_imagenet",
]
