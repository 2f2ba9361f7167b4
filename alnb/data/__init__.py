"""Images and their classes: `ImageSet`, parts of one, the data sets by name, and the sources of images.

`sources` holds tensors, selections and features; `sets` image sets and their parts; `files` folders of images; `official` fetches and
verifies published files; `archives` and `datasets` are the published data sets.
"""

from alnb.data.archives import caltech101, tiny_imagenet
from alnb.data.datasets import DATASETS, check_name, cifar10, cifar10_imbalanced, cifar100, digits, fashion_mnist, fetch, load
from alnb.data.files import folder
from alnb.data.official import root_folder
from alnb.data.sets import ImageSet, at_most, balanced, imbalanced, proportional, subset
from alnb.data.sources import DataError, Derived, Embedded, Images, Resident, Selection, pixels
