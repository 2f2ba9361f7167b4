"""Pictures of runs: HTML for the explorer, and figures for readers without a kernel."""

import io
from collections.abc import Sequence
from html import escape
from typing import Any

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from PIL import Image, ImageOps
from torch import Tensor

from alnb.data import ImageSet
from alnb.report.palette import CLASS_COLOURS, class_colour, draw_legend, looks
from alnb.report.queries import draw_queries
from alnb.widgets.explorer.trail import LABELLED, POOL, QUERIED, Trail, queries
from alnb.widgets.static import as_img, as_png

PALE = "#bbbbbb"  # pool images, if there are more classes than colours
RUN_COLOURS = ("#333333", "#A0A0A0")  # grey curves and bars: colours stand for classes here
STATE_COLOURS = ("#0072B2", "#D55E00")  # labelled and queried images, if there are more classes than colours
SCORES = {"entropy": "entropy", "least_confidence": "confidence", "margin": "margin"}  # the score to show; else the confidence
LIMIT = 60  # images in one grid
ITERATIONS = (1, 5, 10)  # as in PT4AL's Figure 4, which counts from 1: iteration 1 is cycle 0
Look = dict[str, Any]


def has_class_colours(classes: Sequence[str]) -> bool:
    """Whether there are enough colours to give each class a different one."""
    return len(classes) <= len(CLASS_COLOURS)


def colours(classes: Sequence[str]) -> list[str]:
    """A colour for each class, or the same one for all if there are too many classes."""
    return [class_colour(c) for c in range(len(classes))] if has_class_colours(classes) else [PALE] * len(classes)


def progress(trails: Sequence[Trail], layout: Tensor) -> str:
    """Learning curves and class counts."""
    return as_img(as_png(draw_progress(trails)), "test accuracy by number of labels, and labels of each class")


def positions(trails: Sequence[Trail], layout: Tensor) -> str:
    """The scatter plot of the first run as a picture, for browsers without WebGL."""
    return as_img(as_png(draw_positions(trails[0], layout)), "t-SNE plot of all images; queried images are large")


def figure4(trails: Sequence[Trail], layout: Tensor) -> str:
    """Figure 4 of PT4AL, with the iterations that the runs have."""
    train, iterations = trails[0].train, [i for i in ITERATIONS if i <= len(trails[0].cycles)]
    title = "Queries by iteration"
    figure = draw_queries(layout, train.targets, queries(trails, iterations), train.classes, title, iterations)
    return as_img(as_png(figure), f"{title}: circles, triangles and squares in the t-SNE plot")


def strip(trails: Sequence[Trail], layout: Tensor) -> str:
    """The first run's last query in order of choice: each image with its class, the net's prediction and its score."""
    trail = trails[0]
    if not trail.cycles:
        return ""
    cycle, predictions, names = trail.cycles[-1], trail.predictions(), trail.train.classes
    images, score = cycle.queried[:LIMIT], SCORES.get(trail.strategy, "confidence")
    captions, alts = [], []
    for place, image in enumerate(images):
        true = names[int(trail.train.targets[image])]
        captions.append(true)
        alts.append(f"image {image}, class {true}")
        if predictions is not None:
            guess, value = names[predictions["predicted"][place]], f"{predictions[score][place]:.2f}"
            captions[-1] += f" {'=' if guess == true else '≠'} {guess} {value}"
            alts[-1] += f", predicted {guess}, {score} {value}"
    more = f"<p>and {len(cycle.queried) - LIMIT} more</p>" if len(cycle.queried) > LIMIT else ""
    name = "entropy in nats" if score == "entropy" else score
    legend = f"queried images in order of choice: true class, = or ≠ predicted class, {name} of the prediction"
    if predictions is None:
        legend = "queried images in order of choice: true class; there was no trained net to predict it"
    return f'<p style="margin:2px 0;font-size:12px;color:#444">{legend}</p>{thumbnails(trail.train, images, captions, alts)}{more}'


def selection(train: ImageSet, images: Sequence[int]) -> str:
    """The images of a selection, at most `LIMIT`, with their classes."""
    shown = list(map(int, images[:LIMIT]))
    names = [train.classes[int(train.targets[image])] for image in shown]
    grid = thumbnails(train, shown, names, [f"image {image}, class {name}" for image, name in zip(shown, names, strict=True)])
    more = f", {LIMIT} of them shown" if len(images) > LIMIT else ""
    return f'<p style="margin:4px 0;font-weight:600">images selected: {len(images):,}{more}</p>{grid}'


def thumbnails(train: ImageSet, images: Sequence[int], captions: Sequence[str], alts: Sequence[str], side: int = 48) -> str:
    """A grid of images by global index, each with a caption and a text for people who cannot see it."""
    batch = train.images.batch(torch.tensor(list(images), dtype=torch.int64)) if len(images) else ()
    cells = [
        f'<figure title="{escape(alt)}" style="margin:0;text-align:center;font-size:12px;line-height:1.2">'
        f"{as_img(thumbnail(image, side), alt, f'width:{side}px')}<figcaption>{escape(caption)}</figcaption></figure>"
        for image, caption, alt in zip(batch, captions, alts, strict=True)
    ]
    grid = f"grid-template-columns:repeat(auto-fill,minmax({side + 24}px,1fr))"
    return f'<div style="display:grid;gap:4px;{grid}">{"".join(cells)}</div>'


def thumbnail(image: Tensor, side: int) -> bytes:
    """An image uint8 [3,H,W] as a PNG file whose longer side has `side` pixels. Enlarging keeps edges sharp; shrinking smooths."""
    pixels, out = Image.fromarray(image.permute(1, 2, 0).cpu().numpy()), io.BytesIO()
    method = Image.Resampling.NEAREST if side > max(pixels.size) else Image.Resampling.LANCZOS
    ImageOps.contain(pixels, (side, side), method).save(out, "PNG")
    return out.getvalue()


def legend(classes: Sequence[str]) -> str:
    """The colours of classes and the sizes of states, in one line."""

    def mark(name: str, colour: str, side: int) -> str:
        dot = f"display:inline-block;width:{side}px;height:{side}px;border-radius:50%;background:{colour};margin-right:4px"
        return f'<span style="margin-right:14px;white-space:nowrap"><span style="{dot}"></span>{escape(name)}</span>'

    coloured = has_class_colours(classes)
    labelled, queried = ("#555", "#555") if coloured else STATE_COLOURS
    marks = [mark("pool", PALE, 5), mark("labelled", labelled, 9), mark("queried now", queried, 16)]
    marks += [mark(name, colour, 11) for name, colour in zip(classes, colours(classes), strict=True)] if coloured else []
    return f'<div style="font-size:14px">{"".join(marks)}</div>'


def draw_progress(trails: Sequence[Trail]) -> Figure:
    """Learning curves and class counts."""
    figure = Figure(figsize=(10.4, 2.9))  # fixed margins: a layout engine takes longer than all the rest, and the slider waits for it
    left, right = figure.subplots(1, 2)
    figure.subplots_adjust(left=0.07, right=0.99, top=0.95, bottom=0.19, wspace=0.14)
    _curves(left, trails)
    _histogram(right, trails)
    return figure


def draw_overview(trails: Sequence[Trail], layout: Tensor, title: str) -> Figure:
    """The explorer as a figure: the last query at `layout` [N,2], learning curves and class counts."""
    figure = Figure(figsize=(10.4, 8.0 if len(trails) == 1 else 7.2), layout="constrained")
    parts: Any = figure.subfigures(2, 1, height_ratios=(1.8, 1))
    above, below = parts
    for axis, trail in zip(above.subplots(1, len(trails), squeeze=False)[0], trails, strict=True):
        _scatter(axis, trail, layout)
    classes = trails[0].train.classes
    labelled, queried = ("0.4", "0.8") if has_class_colours(classes) else STATE_COLOURS
    marks = {
        "pool": {"color": PALE, "markersize": 3}, "labelled": {"color": labelled, "markersize": 5},
        "queried now": {"color": queried, "markeredgecolor": "black", "markersize": 9},
    }  # fmt: skip
    draw_legend(above, marks, classes)
    left, right = below.subplots(1, 2)
    _curves(left, trails)
    _histogram(right, trails)
    figure.suptitle(title, fontsize=11)
    return figure


def draw_positions(trail: Trail, layout: Tensor) -> Figure:
    """The last query among all images, at `layout` [N,2]. The explorer shows the legend."""
    figure = Figure(figsize=(6.2, 4.4))
    axis = figure.subplots()
    figure.subplots_adjust(left=0.01, right=0.99, top=0.93, bottom=0.01)
    _scatter(axis, trail, layout)
    return figure


def _scatter(axis: Any, trail: Trail, layout: Tensor) -> None:
    states, palette, coloured = trail.states(), colours(trail.train.classes), has_class_colours(trail.train.classes)
    marks: dict[int, Look] = {
        POOL: {"s": 8, "alpha": 0.35, "linewidths": 0}, LABELLED: {"s": 20, "linewidths": 0.4}, QUERIED: {"s": 70, "linewidths": 1.4},
    }  # fmt: skip
    for state, look in marks.items():
        images = (states == state).nonzero().flatten()
        faces = [palette[c] if coloured or state == POOL else STATE_COLOURS[state - 1] for c in trail.train.targets[images].tolist()]
        edges = "black" if state == QUERIED else "white"
        axis.scatter(*layout[images].T.numpy(), c=faces, edgecolors=edges, rasterized=True, **look)
    axis.set(title=trail.title + (f", cycle {trail.last}" if trail.cycles else ""), xticks=[], yticks=[])


def _looks(trails: Sequence[Trail]) -> list[Look]:
    """For each run: the marker that its strategy has in every figure, and a grey, as keyword arguments for matplotlib."""
    markers = looks(trail.strategy for trail in trails)
    return [{**markers[trail.strategy], "color": colour} for trail, colour in zip(trails, RUN_COLOURS, strict=False)]


def _curves(axis: Any, trails: Sequence[Trail]) -> None:
    for trail, look in zip(trails, _looks(trails), strict=True):
        points = [(cycle.n_labelled, cycle.metrics["accuracy"]) for cycle in trail.cycles]
        if points:
            axis.plot(*zip(*points, strict=True), label=trail.title, markersize=5, clip_on=False, **look)
    protocol = trails[0].protocol
    last = protocol.initial + (protocol.cycles - 1) * protocol.budget
    axis.set(xlabel="labels", ylabel="test accuracy", xlim=(0, last * 1.03), ylim=(0, 1))
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.yaxis.set_major_formatter(PercentFormatter(1))
    axis.grid(alpha=0.3)
    if any(trail.cycles for trail in trails):
        axis.legend(frameon=False, fontsize=9, loc="best")


def _histogram(axis: Any, trails: Sequence[Trail]) -> None:
    names, width = trails[0].train.classes, 0.8 / len(trails)
    for place, (trail, look) in enumerate(zip(trails, _looks(trails), strict=True)):
        centres = [c + (place - (len(trails) - 1) / 2) * width for c in range(len(names))]
        axis.bar(centres, trail.counts().tolist(), width=width, color=look["color"])
    short = len(names) <= 20 and max(map(len, names)) <= 10
    axis.set(xlabel="class" if short else "class number", ylabel="labels so far")
    if short:
        axis.set_xticks(range(len(names)), names, rotation=0 if sum(map(len, names)) <= 40 else 45)
    axis.yaxis.set_major_locator(MaxNLocator(integer=True))
    axis.grid(alpha=0.3, axis="y")
