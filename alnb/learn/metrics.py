"""How good predictions are: pure functions, most of them of one confusion matrix. Fractions in [0, 1], never percent.

Classification and segmentation share them: the class axis of log-probabilities is 1, trailing axes are free, and targets equal to `void`
(no label there) count for nothing.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from alnb.store.shapes import Float, Int, Integer, Shaped


def confusion(predictions: Integer[Tensor, "N ..."], targets: Integer[Tensor, "N ..."], classes: int, void: int = -1) -> Int[Tensor, "C C"]:
    """Counts, i64 [classes, classes], on the device of the predictions: rows are the true classes, columns the predicted ones.

    Matrices of several batches may be added. Where the target is `void`, the prediction may be anything.
    Raises ValueError where another target or its prediction lies outside [0, classes): it would be counted in a wrong cell.
    """
    labelled = targets != void
    for name, values in (("target", targets), ("prediction", predictions)):
        wrong = labelled & ((values < 0) | (values >= classes))
        if wrong.any():
            raise ValueError(
                f"a {name} is {int(values[wrong][0])} in {int(wrong.sum())} places, or another outside [0, {classes}): "
                f"pass classes as the data set has them, and its mark for 'no label' as void (now {void})"
            )
    # i64, because uint8 targets, which segmentation masks are, would wrap at 256; the last cell takes what is void
    cell = torch.where(labelled, targets.long() * classes + predictions.long(), classes**2)
    return torch.bincount(cell.flatten(), minlength=classes**2 + 1)[:-1].view(classes, classes)


def accuracy(confusion: Int[Tensor, "C C"]) -> Float[Tensor, ""]:
    """The fraction predicted correctly; NaN where nothing was counted. For segmentation: pixel accuracy."""
    return confusion.diagonal().sum() / confusion.sum()


def per_class_accuracy(confusion: Int[Tensor, "C C"]) -> Float[Tensor, " C"]:
    """The fraction of each true class predicted as such (recall); NaN where a class is absent from the targets."""
    return confusion.diagonal() / confusion.sum(1)


def mean_iou(confusion: Int[Tensor, "C C"]) -> Float[Tensor, ""]:
    """The mean over classes of intersection over union, TP / (TP + FP + FN).

    A class that is in neither targets nor predictions has no union and is left out of the mean, as Cityscapes' evaluation does;
    scikit-learn's `jaccard_score` with all labels listed counts it as 0.
    """
    hits = confusion.diagonal()
    return (hits / (confusion.sum(0) + confusion.sum(1) - hits)).nanmean()


def negative_log_likelihood(log_probs: Float[Tensor, "N C ..."], targets: Integer[Tensor, "N ..."], void: int = -1) -> Float[Tensor, ""]:
    """The mean of minus the log-probability of the target, in nats; NaN where every target is `void`."""
    return F.nll_loss(log_probs, targets.long(), ignore_index=void)


def calibration_error(
    log_probs: Float[Tensor, "N C ..."], targets: Integer[Tensor, "N ..."], bins: int = 15, void: int = -1
) -> Float[Tensor, ""]:
    """The expected calibration error: the mean over images of |accuracy - confidence| of the bin their confidence falls in; in [0, 1].

    bins: of equal width, (0, 1/bins], ..., (1 - 1/bins, 1]. NaN where every target is `void`.
    Source: Guo et al. 2017, equation 3, and its 15 bins (their section 5).
    """
    confidence, predictions = log_probs.exp().max(1)
    labelled = targets != void
    gap = torch.where(labelled, (predictions == targets).to(confidence.dtype) - confidence, 0)
    edges = torch.linspace(0, 1, bins + 1, device=gap.device, dtype=gap.dtype)[1:-1]
    bin_of = torch.bucketize(confidence, edges)
    # a sum per bin, not index_add: many float additions to one number lose digits, and on a GPU their order is not fixed
    sums = torch.stack([torch.where(bin_of == b, gap, 0).sum() for b in range(bins)])
    return sums.abs().sum() / labelled.sum()


def area_under_budget_curve(labelled: Sequence[float] | Shaped[Tensor, " K"], accuracy: Sequence[float] | Shaped[Tensor, " K"]) -> float:
    """The area under accuracy over the number of labels, divided by the range of labels: a mean accuracy over the budget.

    labelled: how many images were labelled at each point, increasing; accuracy: in [0, 1], as many. Trapezoid rule.
    Raises ValueError where the lengths differ, there are fewer than two points, or the labels do not increase.
    Source: Lüth et al. 2023 (realistic-al).
    """
    x, y = (torch.as_tensor(values, dtype=torch.float64, device="cpu") for values in (labelled, accuracy))
    if x.shape != y.shape or len(x) < 2:
        raise ValueError(f"a curve needs two points or more, but has {len(x)} numbers of labels, {len(y)} accuracies: pass one per cycle")
    if not (x.diff() > 0).all():
        raise ValueError(f"the numbers of labels must increase, but are {x.tolist()}: sort the cycles, and pass each once")
    return float(torch.trapezoid(y, x) / (x[-1] - x[0]))
