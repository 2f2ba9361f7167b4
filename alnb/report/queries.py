"""What a query is like, in the eyes of a net that learned from all labels: numbers, and the figure of PT4AL.

These functions see the targets: they are for looking back, and no strategy may use them.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from alnb.acquire import scores
from alnb.report import figures as report
from alnb.store import streams as rng
from alnb.store.shapes import Float, Int

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

CHUNK = 1000  # images whose distances are held at once
RANDOM = "random (reference)"  # the method of a summary's rows to compare with
INTERLEAVED = 8  # parts of a query that are drawn in turn with those of the others, so that none covers another
SHAPES = ("o", "^", "s", "D", "P")  # of the iterations that are drawn: circle, triangle and square, as in the paper


def margins(log_probs: Float[Tensor, "N C"], indices: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Probability of the first class minus that of the second, in [0, 1], of each queried image; SMALL near a decision boundary.

    Raises:
        ValueError: no index, or one that is not in [0, N).
    """
    _check_indices(indices, len(log_probs))
    return scores.margin(log_probs[indices])


def knn_label_entropy(
    features: Float[Tensor, "N D"], targets: Int[Tensor, " N"], indices: Int[Tensor, " n"], k: int
) -> Float[Tensor, " n"]:
    """Entropy f64, in nats, of the labels among the `k` nearest others of each queried image; LARGE where classes meet.

    Euclidean distances, exact to the rounding of f64; of equally far ones the lower index. Memory: O(N D + `CHUNK` N).

    Raises:
        ValueError: there are not `k` others; indices, features or targets that are not what they should be, by place.
    """
    if not 1 <= k < len(features):
        raise ValueError(f"k is {k}: of {len(features)} images one has at most {len(features) - 1} neighbours")
    _check(features, indices)
    _check_targets(targets, len(features))
    features, classes = features.double(), int(targets.max()) + 1
    found = []
    for some in indices.split(CHUNK):
        label = torch.nn.functional.one_hot(targets[neighbours(features, some, k)], classes)
        found.append(torch.special.entr(label.double().mean(dim=1)).sum(dim=1))
    return torch.cat(found)


def class_entropy(targets: Int[Tensor, " N"], indices: Int[Tensor, " n"], classes: int) -> float:
    """Entropy, in nats, of the classes of the queried images; ln C where all are as frequent.

    Raises:
        ValueError: indices or targets that are not what they should be, by place.
    """
    _check_indices(indices, len(targets))
    _check_targets(targets, len(targets), classes)
    share = torch.bincount(targets[indices], minlength=classes).double() / len(indices)
    return float(torch.special.entr(share).sum())


def coverage_radius(features: Float[Tensor, "N D"], indices: Int[Tensor, " n"]) -> float:
    """The largest Euclidean distance of any image to the queried image nearest to it, exact to the rounding of f64.

    Memory: O(N D + `CHUNK` n).

    Raises:
        ValueError: indices or features that are not what they should be, by place.
    """
    _check(features, indices)
    features = features.double()
    centres = features[indices]
    bounds = [(square.amin(dim=1), slack[:, 0]) for square, slack in (_squares(rows, centres) for rows in features.split(CHUNK))]
    nearest, slack = (torch.cat(parts) for parts in zip(*bounds, strict=True))
    # only of these can one be the farthest: a handful, unless all are equally far
    far = (nearest + slack >= (nearest - slack).amax()).nonzero().flatten()
    exact = [torch.cdist(features[some], centres, compute_mode="donot_use_mm_for_euclid_dist").amin(dim=1) for some in far.split(CHUNK)]
    return float(torch.cat(exact).amax())


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
        k: neighbours whose labels are looked at.
        references: random queries; their rows have the mean, and `…_low` and `…_high`, between which 95 % of them are.

    Returns:
        Columns: method, iteration, n, margin (mean), neighbour_entropy (mean), class_entropy, radius; of `RANDOM`, with iteration 0, also
        the limits, which are NaN in other rows.

    Raises:
        ValueError: nothing to summarise, fewer than one reference, or as the functions above; a query is named.
    """
    import pandas

    N, classes = log_probs.shape
    named = {(method, iteration): indices for method, own in queries.items() for iteration, indices in own.items()}
    if not named or references < 1:
        raise ValueError(f"{len(named)} queries, {references} references: at least one of each is needed")
    for (method, iteration), indices in named.items():
        _check_indices(indices, N, f"iteration {iteration} of {method}")
    drawn = {
        n: [torch.randperm(N, generator=rng.generator(seed, "reference", n, r))[:n].to(targets.device) for r in range(references)]
        for n in sorted({len(indices) for indices in named.values()})
    }
    # once for each image, of which many are in several queries
    needed = torch.cat([*named.values(), *(indices for draws in drawn.values() for indices in draws)]).unique()
    features = features.double()
    entropies = torch.zeros(N, dtype=torch.float64, device=features.device)
    entropies[needed] = knn_label_entropy(features, targets, needed, k)

    def measured(indices: Tensor) -> dict[str, float]:
        return {
            "margin": float(margins(log_probs, indices).mean()),
            "neighbour_entropy": float(entropies[indices].mean()),
            "class_entropy": class_entropy(targets, indices, classes),
            "radius": coverage_radius(features, indices),
        }

    rows = [
        {"method": method, "iteration": iteration, "n": len(indices), **measured(indices)} for (method, iteration), indices in named.items()
    ]
    for n, draws in drawn.items():
        many = pandas.DataFrame([measured(indices) for indices in draws])
        limits = {f"{name}_{side}": many[name].quantile(q) for name in many for side, q in (("low", 0.025), ("high", 0.975))}
        rows.append({"method": RANDOM, "iteration": 0, "n": n, **many.mean().to_dict(), **limits})
    return pandas.DataFrame(rows)


def draw_queries(
    layout: Tensor,
    targets: Tensor,
    queries: Mapping[str, Mapping[int, Tensor]],
    classes: Sequence[str],
    title: str = "",
    iterations: Sequence[int] = (1, 5, 10),
) -> Figure:
    """Figure 4: where queries lie among all images; a panel for each method, a colour for each class, a marker for each iteration.

    Args:
        layout: positions [N,2], the same for all methods. targets: i64 [N]. queries: as for `summary`.
        classes: their names; those of up to ten, which all have another colour, are told beside the panels.
        iterations: which of them are drawn, as circle, triangle, square, …; those that a method does not have are left out.

    Raises:
        ValueError: no method, more iterations than `SHAPES`, or layout, targets or indices that are not what they should be.
    """
    from matplotlib.figure import Figure

    _check_drawing(layout, targets, queries, classes, iterations)
    figure = Figure(figsize=(1.7 + 3.7 * len(queries), 4.4), layout="constrained")
    for axis, (method, own) in zip(figure.subplots(1, len(queries), squeeze=False)[0], queries.items(), strict=True):
        _draw_panel(
            axis, layout.detach().cpu().numpy(), targets.tolist(), [(i, own[i].tolist()) for i in iterations if i in own], iterations
        )
        axis.set(title=method.replace("_", " "), xticks=[], yticks=[])
    looks = {f"iteration {i}": {"marker": SHAPES[k], "color": "0.6", "markeredgecolor": "black"} for k, i in enumerate(iterations)}
    draw_legend(figure, looks, classes)
    figure.suptitle(textwrap.fill(title, int(11 * figure.get_figwidth())), fontsize=11)
    return figure


def _draw_panel(axis: Any, layout: Any, targets: list[int], chosen: list[tuple[int, list[int]]], iterations: Sequence[int]) -> None:
    axis.scatter(*layout.T, s=5, c=[class_colour(c) for c in targets], alpha=0.3, linewidths=0, rasterized=True)
    for part in range(INTERLEAVED):
        for iteration, indices in chosen:
            some = indices[part::INTERLEAVED]
            face, edge = [class_colour(targets[i]) for i in some], [class_edge(targets[i]) for i in some]
            shape = SHAPES[list(iterations).index(iteration)]
            axis.scatter(*layout[some].T, s=24, marker=shape, c=face, edgecolors=edge, linewidths=0.5, zorder=2, label=str(iteration))


def draw_legend(figure: Any, marks: Mapping[str, Mapping[str, Any]], classes: Sequence[str]) -> None:
    """Beside a figure: what each mark means, by name, with properties of its `Line2D`, and the colour of each class that has one."""
    from matplotlib.lines import Line2D

    several = len(classes) <= len(CLASS_COLOURS)
    coloured = {name: {"color": class_colour(c), "markeredgecolor": class_edge(c)} for c, name in enumerate(classes)} if several else {}
    common: dict[str, Any] = {"linestyle": "none", "marker": "o", "markersize": 6}
    marked = [Line2D([], [], label=name, **common | dict(look)) for part in (marks, coloured) for name, look in part.items()]
    figure.legend(handles=marked, loc="outside right center", frameon=False, fontsize=9)


def class_colour(label: int) -> str:
    """Of `CLASS_COLOURS`, the one of class number `label`; beyond ten they come again."""
    return CLASS_COLOURS[label % len(CLASS_COLOURS)]


def class_edge(label: int) -> str:
    """The colour of an edge that can be seen around `class_colour`."""
    return "white" if class_colour(label) in DARK else "black"


def neighbours(features: Tensor, some: Tensor, k: int) -> Tensor:
    """The `k` nearest others, i64 [n,k], nearest first, of `some` [n] among `features` f64 [N,D]."""
    rows, local = features[some], torch.arange(len(some), device=some.device)
    square, slack = _squares(rows, features)
    square[local, some] = torch.inf
    row, near = (square <= square.kthvalue(k, dim=1, keepdim=True).values + 2 * slack).nonzero(as_tuple=True)
    # usually k pairs a row; among many equal features every pair, hence the slices
    pairs = zip(row.split(CHUNK), near.split(CHUNK), strict=True)
    distance = torch.cat([torch.linalg.vector_norm(rows[i] - features[j], dim=1) for i, j in pairs])
    order = distance.sort(stable=True).indices
    order = order[row[order].sort(stable=True).indices]  # by row, then distance, then index
    count = torch.bincount(row, minlength=len(some))
    place = torch.arange(len(row), device=row.device) - (count.cumsum(0) - count)[row]
    return near[order][place < k].view(len(some), k)


def _squares(rows: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Squared distances f64 [R,P] by one matrix product, and the most [R,1] by which rounding can have moved any of a row.

    Source: Higham 2002, section 3.1: an inner product of D terms is off by at most D eps / 2 |x| |y|; twice that is allowed here.
    """
    norm, other = torch.linalg.vector_norm(rows, dim=1), torch.linalg.vector_norm(others, dim=1)
    square = torch.addmm(other.square(), rows, others.T, alpha=-2).add_(norm.square()[:, None])
    relative = (rows.shape[1] + 8) * torch.finfo(rows.dtype).eps
    return square, (relative * (norm + other.amax()).square())[:, None]


def _check(features: Tensor, indices: Tensor) -> None:
    if features.ndim != 2 or not features.is_floating_point():
        raise ValueError(f"features must be float [N, D], but are {features.dtype} {list(features.shape)}: pool or flatten them first")
    _check_indices(indices, len(features))
    bad = (~features.double().square().sum(dim=1).isfinite()).nonzero().flatten()
    if len(bad):
        raise ValueError(f"features[{int(bad[0])}] is not finite, or too large to be squared ({len(bad)} such rows): look at the net")


def _check_indices(indices: Tensor, N: int, what: str = "the query") -> None:
    if indices.ndim != 1 or indices.dtype != torch.int64 or not len(indices):
        raise ValueError(f"{what} must be indices i64 [n], n of at least 1, but is {indices.dtype} {list(indices.shape)}")
    bad = ((indices < 0) | (indices >= N)).nonzero().flatten()
    if len(bad):
        raise ValueError(f"{what} has {int(indices[bad[0]])} at {int(bad[0])}: of {N} images, indices are in [0, {N})")


def _check_targets(targets: Tensor, N: int, classes: int | None = None) -> None:
    if targets.shape != (N,):
        raise ValueError(f"targets are {list(targets.shape)}, of {N} images: one for each")
    bad = ((targets < 0) | (targets >= (targets.max() + 1 if classes is None else classes))).nonzero().flatten()
    if len(bad):
        allowed = "at least 0" if classes is None else f"in [0, {classes})"
        raise ValueError(f"targets[{int(bad[0])}] is {int(targets[bad[0]])}: classes are {allowed}; leave images without one out")


def _check_drawing(
    layout: Tensor, targets: Tensor, queries: Mapping[str, Mapping[int, Tensor]], classes: Sequence[str], iterations: Sequence[int]
) -> None:
    if not queries:
        raise ValueError("there are no queries to draw: give those of one method at least")
    if layout.ndim != 2 or layout.shape[1] != 2:
        raise ValueError(f"layout must be positions [N, 2], but is {list(layout.shape)}: see tsne.layout")
    if len(iterations) > len(SHAPES) or len(set(iterations)) < len(iterations):
        raise ValueError(
            f"iterations are {list(iterations)}: choose up to {len(SHAPES)} different ones, which is as many as there are markers"
        )
    _check_targets(targets, len(layout), len(classes))
    for method, own in queries.items():
        for iteration, indices in own.items():
            _check_indices(indices, len(layout), f"iteration {iteration} of {method}")


DARK = ("#000000", "#6600CC", "#663300")
CLASS_COLOURS = (*report.COLOURS, *DARK[1:])
"""Ten; no two are nearer than two of `report.COLOURS`, to normal sight and as protanopes, deuteranopes and tritanopes see them (a colour
difference of 16 in CIE L*a*b* after Machado et al. 2009)."""
