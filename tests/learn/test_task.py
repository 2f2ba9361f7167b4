"""A task: the learner it completes, the labels it refuses, and classification."""

from dataclasses import replace

import pytest
import torch

from alnb.data import ImageSet
from alnb.learn.nets import Net
from alnb.learn.task import VOID, classification
from alnb.learn.train import Learner, cross_entropy, evaluate
from alnb.store import Stream

TASK = classification(3)
IMAGES = torch.tensor([8, 2, 5])


def other_loss(net: Net, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return cross_entropy(net, x, y) * 2


def test_a_task_completes_a_learner_without_a_loss(learner: Learner) -> None:
    assert learner.loss is None
    assert TASK.complete(learner) == replace(learner, loss=cross_entropy)
    complete = replace(learner, loss=other_loss)
    assert TASK.complete(complete) is complete


def test_labels_and_void_are_accepted() -> None:
    TASK.check_labels(torch.tensor([0, VOID, 2]), IMAGES, "cycle 4")
    TASK.check_labels(torch.empty(0, dtype=torch.int64), IMAGES[:0], "cycle 4")
    replace(TASK, void=255).check_labels(torch.tensor([0, 255, 2]), IMAGES, "cycle 4")


@pytest.mark.parametrize("label", [3, -2, 255])
def test_a_wrong_label_is_named_with_its_image_and_place(label: int) -> None:
    with pytest.raises(ValueError, match=rf"cycle 4.*label {label} of image 2\b.*3 classes"):
        TASK.check_labels(torch.tensor([0, label, label]), IMAGES, "cycle 4")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.tensor([0, 1]), r"cycle 4.*\[2\].*3 images"),
        (torch.tensor([0.0, 1.0, 2.0]), r"cycle 4.*torch\.float32.*3 images"),
        (torch.zeros((), dtype=torch.int64), r"cycle 4.*\[\].*3 images"),
    ],
)
def test_labels_of_another_shape_or_type_are_refused(labels: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TASK.check_labels(labels, IMAGES, "cycle 4")


def test_a_wrong_label_of_a_pixel_is_named_too() -> None:
    labels = torch.zeros(3, 4, 5, dtype=torch.int64)
    labels[2, 1, 4] = 9
    with pytest.raises(ValueError, match="label 9 of image 5"):
        TASK.check_labels(labels, IMAGES, "cycle 4")


def test_classification_is_cross_entropy_and_accuracy(learner: Learner, test: ImageSet) -> None:
    assert TASK.outputs == 3 and TASK.loss is cross_entropy and TASK.void == VOID
    net = learner.build(TASK.outputs, Stream(0))
    metrics = TASK.evaluate(net, test.images, test.targets, TASK.outputs)
    assert metrics == evaluate(net, test.images, test.targets, 3) and 0 <= metrics["accuracy"] <= 1
