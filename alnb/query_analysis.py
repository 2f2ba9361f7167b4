"""What a query is like, in the eyes of a net that learned from all labels: numbers, and the figure of PT4AL.

These functions see the targets: they are for looking back, and no strategy may use them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from alnb import report, rng
from alnb.acquire import scores
from alnb.shapes import Float, Int

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

CHUNK = 1000  # queried images whose distances to all are held at once
SHAPES = ("o", "^", "s", "D", "P")  # of the iterations that are drawn: circle, triangle and square, as in the paper


def margins(log_probs: Float[Tensor, "N C"], indices: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Probability of the first class minus that of the second, in [0, 1], of each queried image; SMALL near a decision boundary."""
    return scores.margin(log_probs[indices])


def knn_label_entropy(
    features: Float[Tensor, "N D"], targets: Int[Tensor, " N"], indices: Int[Tensor, " n"], k: int
) -> Float[Tensor, " n"]:
    """Entropy, in nats, of the labels among the `k` nearest neighbours of each queried image, itself left out; LARGE where classes meet.

    Euclidean distances; of equally far ones the lower index. Memory: O(`CHUNK` N).

    Raises:
        ValueError: there are not `k` others.
    """
    if not 1 <= k < len(features):
        raise ValueError(f"k is {k}: of {len(features)} images one has at most {len(features) - 1} neighbours")
    classes, found = int(targets.max()) + 1, []
    for some in indices.split(CHUNK):
        distance = torch.cdist(features[some].double(), features.double(), compute_mode="donot_use_mm_for_euclid_dist")
        distance[torch.arange(len(some)), some] = math.inf
        nearest = distance.sort(dim=1, stable=True).indices[:, :k]
        share = torch.nn.functional.one_hot(targets[nearest], classes).double().mean(dim=1)
        found.append(torch.special.entr(share).sum(dim=1))
    return torch.cat(found) if found else torch.zeros(0, dtype=torch.float64)


def class_entropy(targets: Int[Tensor, " N"], indices: Int[Tensor, " n"], classes: int) -> float:
    """Entropy, in nats, of the classes of the queried images; ln C where all are as frequent."""
    share = torch.bincount(targets[indices], minlength=classes).double() / len(indices)
    return float(torch.special.entr(share).sum())


def coverage_radius(features: Float[Tensor, "N D"], indices: Int[Tensor, " n"]) -> float:
    """The largest distance of any image to the queried image nearest to it. Memory: O(`CHUNK` n)."""
    centres, worst = features[indices].double(), 0.0
    for rows in features.split(CHUNK):
        distance = torch.cdist(rows.double(), centres, compute_mode="donot_use_mm_for_euclid_dist")
        worst = max(worst, float(distance.amin(dim=1).max()))
    return worst


def summary(
    queries: Mapping[str, Mapping[int, Tensor]],
    *,
    features: Tensor,
    log_probs: Tensor,
    targets: Tensor,
    k: int = 10,
    references: int = 20,
    seed: int = 0,
) -> DataFrame:
    """A row for each method and iteration, and one of random queries of the same size to compare with.

    Args:
        queries: by method, and by iteration from 1, the queried images, global indices i64 [n].
        features, log_probs: [N,D] and [N,C], of a net that learned from all labels. targets: i64 [N].
        references: random queries; their rows have the mean, and `…_low` and `…_high`, between which 95 % of them are.

    Returns:
        Columns: method, iteration, n, margin (mean), neighbour_entropy (mean), class_entropy, radius; of "random (reference)" also
        the limits, which are NaN in other rows.
    """
    import pandas

    classes = log_probs.shape[1]

    def measured(indices: Tensor) -> dict[str, float]:
        return {
            "margin": float(margins(log_probs, indices).mean()),
            "neighbour_entropy": float(knn_label_entropy(features, targets, indices, k).mean()),
            "class_entropy": class_entropy(targets, indices, classes),
            "radius": coverage_radius(features, indices),
        }

    rows = [
        {"method": method, "iteration": iteration, "n": len(indices), **measured(indices)}
        for method, own in queries.items()
        for iteration, indices in own.items()
    ]
    for n in sorted({len(indices) for own in queries.values() for indices in own.values()}):
        draws = [torch.randperm(len(targets), generator=rng.generator(seed, "reference", n, r))[:n] for r in range(references)]
        many = pandas.DataFrame([measured(indices) for indices in draws])
        limits = {f"{name}_{side}": many[name].quantile(q) for name in many for side, q in (("low", 0.025), ("high", 0.975))}
        rows.append({"method": "random (reference)", "iteration": 0, "n": n, **many.mean().to_dict(), **limits})
    return pandas.DataFrame(rows)


def draw_queries(
    layout: Tensor,
    targets: Tensor,
    queries: Mapping[str, Mapping[int, Tensor]],
    classes: Sequence[str],
    title: str,
    iterations: Sequence[int] = (1, 5, 10),
) -> Figure:
    """Figure 4: where queries lie among all images; a panel for each method, a colour for each class, a marker for each iteration.

    Args:
        layout: positions [N,2], the same for all methods. targets: i64 [N]. queries: as for `summary`.
        iterations: which of them are drawn, as circle, triangle, square, …; those that a method does not have are left out.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    colours = [report.COLOURS[c % len(report.COLOURS)] if c < len(report.COLOURS) else TENTH[c % len(TENTH)] for c in range(len(classes))]
    figure = Figure(figsize=(1.7 + 4.1 * len(queries), 4.6), layout="constrained")
    x, y = layout[:, 0].numpy(), layout[:, 1].numpy()
    of_class = [colours[int(c)] for c in targets]
    for axis, (method, own) in zip(figure.subplots(1, len(queries), squeeze=False)[0], queries.items(), strict=True):
        axis.scatter(x, y, s=3, c=of_class, alpha=0.15, linewidths=0, rasterized=True)
        for shape, iteration in zip(SHAPES, iterations, strict=False):
            if iteration in own:
                chosen = own[iteration].tolist()
                axis.scatter(x[chosen], y[chosen], s=22, marker=shape, c=[of_class[i] for i in chosen], edgecolors="black", linewidths=0.5)
        axis.set(title=method.replace("_", " "), xticks=[], yticks=[])
    marks = [Line2D([], [], linestyle="none", marker=m, color="0.5", markeredgecolor="black") for m in SHAPES[: len(iterations)]]
    dots = [Line2D([], [], linestyle="none", marker="o", color=colour) for colour in colours]
    shown = [f"iteration {iteration}" for iteration in iterations]
    if len(classes) <= 10:
        marks, shown = [*marks, *dots], [*shown, *classes]
    figure.legend(marks, shown, loc="outside right center", frameon=False, fontsize=8)
    figure.suptitle(title, fontsize=11)
    return figure


TENTH = ("#7F7F7F", "#8B4513")  # where there are more classes than `report.COLOURS`
