"""A task says what is learned: the outputs of a net, its loss, its evaluation, and the label that means "unknown"."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from alnb.data import Images
from alnb.learn.nets import Net
from alnb.learn.train import Learner, Loss, cross_entropy, evaluate

VOID = -1  # no label: never asked for, or not answered

Evaluate = Callable[[Net, Images, Tensor, int], Mapping[str, Any]]
"""(net, test images, targets, outputs) -> metrics, plain values by name; `accuracy` or `miou` among them."""


@dataclass(frozen=True)
class Task:
    """All that differs between tasks. One loop serves them all."""

    name: str
    outputs: int  # channels of the net's output: the class axis
    loss: Loss  # used if the learner has none
    evaluate: Evaluate
    void: int = VOID  # this label never reaches the loss and the evaluation

    def complete(self, learner: Learner) -> Learner:
        """The learner, with the task's loss if it has none."""
        return learner if learner.loss is not None else replace(learner, loss=self.loss)

    def check_labels(self, labels: Tensor, indices: Tensor, place: str) -> None:
        """Raises: ValueError if an oracle's answer is not a class, or `void`, for each image of `indices` i64 [n]."""
        if labels.dtype != torch.int64 or labels.shape[:1] != indices.shape:
            raise ValueError(
                f"{place}: the oracle returned labels {labels.dtype} {list(labels.shape)}; it must return int64 labels of all "
                f"{len(indices)} images"
            )
        wrong = ((labels != self.void) & ((labels < 0) | (labels >= self.outputs))).nonzero()
        if len(wrong):
            image, label = int(indices[wrong[0, 0]]), int(labels[tuple(wrong[0])])
            raise ValueError(f"{place}: label {label} of image {image} is not one of the {self.outputs} classes, which are numbered from 0")


def classification(outputs: int) -> Task:
    """One class for each image: cross-entropy, accuracy."""
    return Task("classification", outputs, cross_entropy, evaluate)
