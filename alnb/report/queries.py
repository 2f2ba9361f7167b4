"""Queries, as a net that learned from all labels sees them: numbers, and the figure of PT4AL.

These functions read the targets. They are for looking back: no strategy may use them. They raise ValueError for bad indices, features
or targets; the message says where.
"""

import textwrap
from collections.abc import Mapping, Sequence
from itertools import product

import pandas
import torch
from matplotlib.figure import Figure
from pandas import DataFrame
from sklearn.metrics import pairwise_distances_argmin
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from alnb.acquire import scores
from alnb.acquire.cover import check_features, check_norms
from alnb.report.palette import class_colour, class_edge, draw_legend
from alnb.report.stats import check_targets
from alnb.store import Stream
from alnb.store.shapes import Float, Int

RANDOM = "random (reference)"  # the strategy of a summary's reference rows
INTERLEAVED = 8  # a query is drawn in this many parts, in turn with the other queries, so that none covers another
SHAPES = ("o", "^", "s", "D", "P")  # of the iterations that are drawn; circle, triangle and square as in the paper

Queries = Mapping[str, Mapping[int, Tensor]]
"""The queried images, global indices i64 [n], by strategy and iteration. As in the paper, iterations count from 1: the first is cycle 0."""


def neighbours(features: Float[Tensor, "N D"], indices: Int[Tensor, " n"], k: int) -> Int[Tensor, "n k"]:
    """The `k` nearest other images of each queried image by Euclidean distance, nearest first. Memory: O(N D)."""
    if not 1 <= k < len(features):
        raise ValueError(f"k is {k}, but each of {len(features)} images has {len(features) - 1} neighbours: choose k from 1 to that")
    points = _centred(features, indices)
    index = NearestNeighbors(n_neighbors=k + 1, algorithm="brute").fit(points.numpy())
    near = torch.from_numpy(index.kneighbors(points[indices.cpu()].numpy(), return_distance=False)).to(indices.device)
    other = near != indices[:, None]
    other[other.all(dim=1), -1] = False  # more than k images lie exactly where the queried one does
    return near[other].view(-1, k)


def knn_label_entropy(
    features: Float[Tensor, "N D"], targets: Int[Tensor, " N"], indices: Int[Tensor, " n"], k: int
) -> Float[Tensor, " n"]:
    """Entropy f64, in nats, of the labels among the `k` nearest others of each queried image. LARGE where classes meet."""
    check_targets(targets, len(features))
    label = torch.nn.functional.one_hot(targets[neighbours(features, indices, k)])
    return torch.special.entr(label.double().mean(dim=1)).sum(dim=1)


def class_entropy(targets: Int[Tensor, " N"], indices: Int[Tensor, " n"], classes: int) -> float:
    """Entropy, in nats, of the classes of the queried images; ln C if all are equally frequent."""
    _check_indices(indices, len(targets))
    check_targets(targets, len(targets), classes)
    return float(torch.special.entr(torch.bincount(targets[indices]).double() / len(indices)).sum())


def coverage_radius(features: Float[Tensor, "N D"], indices: Int[Tensor, " n"]) -> float:
    """The largest Euclidean distance of any image to the queried image nearest to it. Memory: O(N D)."""
    points = _centred(features, indices)
    centres = points[indices.cpu()]
    nearest = torch.from_numpy(pairwise_distances_argmin(points.numpy(), centres.numpy()))
    return float(torch.linalg.vector_norm(points - centres[nearest], dim=1).amax())


def summary(
    queries: Queries, *, features: Tensor, log_probs: Tensor, targets: Tensor, k: int = 10, references: int = 20, seed: int = 0
) -> DataFrame:
    """A row for each strategy and iteration, and a reference row for each size of a query, of random queries of that size.

    Args:
        features, log_probs: [N,D] and [N,C], of a net that learned from all labels. targets: i64 [N].
        k: how many neighbours count.
        references: random queries of each size. Their row has the mean, and `…_low` and `…_high`, between which 95 % of them lie.
    Returns:
        Columns: strategy, iteration, n, margin (mean; of the first two probabilities, SMALL near a boundary), neighbour_entropy (mean),
        class_entropy, radius. Reference rows have strategy `RANDOM`, iteration 0, and the limits, which are NaN in other rows.
    """
    N, classes = log_probs.shape
    named = {(strategy, i): indices for strategy, by_iteration in queries.items() for i, indices in by_iteration.items()}
    if not named or references < 1:
        raise ValueError(f"{len(named)} queries, {references} references: give at least one of each")
    for (strategy, i), indices in named.items():
        _check_indices(indices, N, f"iteration {i} of {strategy}")
    draw = Stream(seed) / "reference"
    drawn = {
        n: [torch.randperm(N, generator=(draw / n / k).generator())[:n].to(targets.device) for k in range(references)]
        for n in sorted({len(indices) for indices in named.values()})
    }
    # an image may be in several queries, and is looked up once
    images = torch.cat([*named.values(), *(indices for draws in drawn.values() for indices in draws)]).unique()
    entropies = torch.zeros(N, dtype=torch.float64, device=images.device)
    entropies[images] = knn_label_entropy(features, targets, images, k)

    def measures(indices: Tensor) -> dict[str, float]:
        return {
            "margin": float(scores.margin(log_probs[indices]).mean()),
            "neighbour_entropy": float(entropies[indices].mean()),
            "class_entropy": class_entropy(targets, indices, classes),
            "radius": coverage_radius(features, indices),
        }

    rows = [{"strategy": name, "iteration": i, "n": len(indices), **measures(indices)} for (name, i), indices in named.items()]
    for n, draws in drawn.items():
        many = pandas.DataFrame([measures(indices) for indices in draws])
        limits = {f"{name}_{side}": many[name].quantile(q) for name in many for side, q in (("low", 0.025), ("high", 0.975))}
        rows.append({"strategy": RANDOM, "iteration": 0, "n": n, **many.mean().to_dict(), **limits})
    return pandas.DataFrame(rows)


def draw_queries(
    layout: Tensor, targets: Tensor, queries: Queries, classes: Sequence[str], title: str = "", iterations: Sequence[int] = (1, 5, 10)
) -> Figure:
    """Figure 4: where queries lie among all images; a panel for each strategy, a colour for each class, a marker for each iteration.

    Args:
        layout: positions [N,2], the same for all strategies. targets: i64 [N].
        classes: their names; in the legend if there are at most ten.
        iterations: which queries are drawn, at most as many as `SHAPES`; those that a strategy lacks are left out.
    """
    if not queries:
        raise ValueError("there are no queries to draw: give those of at least one strategy")
    if layout.ndim != 2 or layout.shape[1] != 2:
        raise ValueError(f"layout must be positions [N, 2], but is {list(layout.shape)}: see report.layout")
    if len(iterations) > len(SHAPES) or len(set(iterations)) < len(iterations):
        raise ValueError(f"iterations are {list(iterations)}: choose at most {len(SHAPES)}, all different")
    check_targets(targets, len(layout), len(classes))
    for strategy, by_iteration in queries.items():
        for k, indices in by_iteration.items():
            _check_indices(indices, len(layout), f"iteration {k} of {strategy}")
    figure = Figure(figsize=(1.7 + 3.7 * len(queries), 4.4), layout="constrained")
    marker = dict(zip(iterations, SHAPES, strict=False))
    for axis, (strategy, by_iteration) in zip(figure.subplots(1, len(queries), squeeze=False)[0], queries.items(), strict=True):
        points, classes_of = layout.detach().cpu().numpy(), targets.tolist()
        axis.scatter(*points.T, s=5, c=[class_colour(c) for c in classes_of], alpha=0.3, linewidths=0, rasterized=True)
        for part, k in product(range(INTERLEAVED), [k for k in iterations if k in by_iteration]):
            images = by_iteration[k].tolist()[part::INTERLEAVED]
            face, edge = [class_colour(classes_of[i]) for i in images], [class_edge(classes_of[i]) for i in images]
            axis.scatter(*points[images].T, s=24, marker=marker[k], c=face, edgecolors=edge, linewidths=0.5, zorder=2, label=str(k))
        axis.set(title=strategy.replace("_", " "), xticks=[], yticks=[])
    looks = {f"iteration {k}": {"marker": shape, "color": "0.6", "markeredgecolor": "black"} for k, shape in marker.items()}
    draw_legend(figure, looks, classes)
    figure.suptitle(textwrap.fill(title, int(11 * figure.get_figwidth())), fontsize=11)
    return figure


def _centred(features: Tensor, indices: Tensor) -> Tensor:
    """`features` in f64 on the CPU, minus their mean: scikit-learn's distances lose digits far from zero."""
    check_features(features)
    _check_indices(indices, len(features))
    points = features.detach().double().cpu()
    check_norms(torch.linalg.vector_norm(points, dim=1))
    return points - points.mean(dim=0)


def _check_indices(indices: Tensor, N: int, name: str = "the query") -> None:
    if indices.ndim != 1 or indices.dtype != torch.int64 or not len(indices):
        raise ValueError(f"{name} must be indices i64 [n], n of at least 1, but is {indices.dtype} {list(indices.shape)}")
    bad = ((indices < 0) | (indices >= N)).nonzero().flatten()
    if len(bad):
        raise ValueError(f"{name} has {int(indices[bad[0]])} at {int(bad[0])}: indices of {N} images are in [0, {N})")
