"""Metrics of predictions, fractions in [0, 1]. The class axis is 1, trailing axes are free, targets equal to `void` do not count."""

import torch
import torch.nn.functional as F
from torch import Tensor

from alnb.store.shapes import Float, Int, Integer


def confusion(predictions: Integer[Tensor, "N ..."], targets: Integer[Tensor, "N ..."], classes: int, void: int = -1) -> Int[Tensor, "C C"]:
    """Counts, i64 [classes, classes], on the device of the predictions: rows are the true classes, columns the predicted ones.

    Matrices of several batches may be added. Raises: ValueError if a target other than `void`, or its prediction, is not in [0, classes).
    """
    labelled = targets != void
    for name, values in (("target", targets), ("prediction", predictions)):
        wrong = labelled & ((values < 0) | (values >= classes))
        if wrong.any():
            raise ValueError(
                f"{int(wrong.sum())} {name}s are outside [0, {classes}), the first is {int(values[wrong][0])}: "
                f"pass the data set's number of classes, and its mark for 'no label' as void (now {void})"
            )
    # i64, because uint8 masks would wrap at 256. The last cell counts what is void.
    cell = torch.where(labelled, targets.long() * classes + predictions.long(), classes**2)
    return torch.bincount(cell.flatten(), minlength=classes**2 + 1)[:-1].view(classes, classes)


def accuracy(confusion: Int[Tensor, "C C"]) -> Float[Tensor, ""]:
    """The fraction predicted correctly; NaN if nothing was counted. For segmentation: pixel accuracy."""
    return confusion.diagonal().sum() / confusion.sum()


def per_class_accuracy(confusion: Int[Tensor, "C C"]) -> Float[Tensor, " C"]:
    """The fraction of each true class that is predicted as such (recall); NaN for a class without targets."""
    return confusion.diagonal() / confusion.sum(1)


def mean_iou(confusion: Int[Tensor, "C C"]) -> Float[Tensor, ""]:
    """The mean over classes of intersection over union, TP / (TP + FP + FN).

    A class in neither targets nor predictions does not enter the mean, as in Cityscapes' evaluation; scikit-learn's counts it as 0.
    """
    hits = confusion.diagonal()
    return (hits / (confusion.sum(0) + confusion.sum(1) - hits)).nanmean()


def negative_log_likelihood(log_probs: Float[Tensor, "N C ..."], targets: Integer[Tensor, "N ..."], void: int = -1) -> Float[Tensor, ""]:
    """The mean of minus the log-probability of the target, in nats; NaN if every target is `void`."""
    return F.nll_loss(log_probs, targets.long(), ignore_index=void)


def calibration_error(
    log_probs: Float[Tensor, "N C ..."], targets: Integer[Tensor, "N ..."], bins: int = 15, void: int = -1
) -> Float[Tensor, ""]:
    """The expected calibration error, in [0, 1]: the mean over images of |accuracy - confidence| in the bin of their confidence.

    The bins have equal width: (0, 1/bins], ..., (1 - 1/bins, 1]. NaN if every target is `void`.
    Source: Guo et al. 2017, equation 3; 15 bins as in section 5.
    """
    confidence, predictions = log_probs.exp().max(1)
    labelled = targets != void
    gap = torch.where(labelled, (predictions == targets).to(confidence.dtype) - confidence, 0)
    edges = torch.linspace(0, 1, bins + 1, device=gap.device, dtype=gap.dtype)[1:-1]
    bin_of = torch.bucketize(confidence, edges)
    # A sum for each bin, not index_add: many float additions to one number lose digits, and on a GPU their order is not fixed.
    sums = torch.stack([torch.where(bin_of == b, gap, 0).sum() for b in range(bins)])
    return sums.abs().sum() / labelled.sum()
