"""A run looked at cycle by cycle, and taken further by the loop that everything else uses: what the explorer shows, without a widget.

These functions see the targets: they are for looking back, and no strategy may use them.
"""

from __future__ import annotations

import html
import io
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from alnb.learn.train import Report
from alnb.loop import cycles as loop
from alnb.loop.experiment import Cycle
from alnb.papers import quickstart
from alnb.papers.quickstart import Setting, Start
from alnb.report.palette import CLASS_COLOURS, class_colour, draw_legend, looks

if TYPE_CHECKING:
    from matplotlib.figure import Figure

POOL, LABELLED, ASKED = 0, 1, 2  # states of an image in a cycle
PALE = "#bbbbbb"  # the pool, where there are more classes than colours
RUN_COLOURS = ("#333333", "#A0A0A0")  # of curves and bars, since colours are of classes here
STATE_COLOURS = ("#0072B2", "#D55E00")  # labelled and asked now, where classes have none
SCORES = {"entropy": "entropy", "least_confidence": "confidence", "margin": "margin"}  # by which a strategy chose; of others the confidence
SHOWN = 60  # queried images in a strip, at most


class Trail:
    """One run: its finished cycles, and how to add one."""

    def __init__(self, setting: Setting, start: Start, strategy: str, seed: int, runs: Path | str) -> None:
        """Find the run below `runs`, and read what is finished.

        Raises:
            ValueError: there is no such strategy.
            store.ManifestDiffers, store.Corrupted, store.NewerFormat: about the run folder. Nothing is overwritten.
        """
        self.setting, self.arm, self.strategy, self.seed = setting, start.arm, strategy, seed
        self.experiment = quickstart.experiment(setting, start, strategy, seed)
        self.run = quickstart.run(self.experiment, runs)
        self.run.claim(self.experiment.manifest)
        self.cycles = [Cycle.read(record) for record in self.run.records()]

    @property
    def columns(self) -> Mapping[str, Any]:
        """What the experiment calls the run, for `records.frame`."""
        return self.experiment.tags

    def advance(self, report: Report | None = None) -> Cycle | None:
        """Compute the next cycle, or read it where another process was faster; None where all are there.

        The run is held only meanwhile: papermill, or another explorer, may go on with it in between.

        Raises: as `loop.cycles`.
        """
        with closing(loop.cycles(self.run, self.experiment, report)) as going:
            for cycle in going:
                if cycle.cycle == len(self.cycles):
                    self.cycles.append(cycle)
                    return cycle
        return None

    @property
    def last(self) -> int:
        """The last one that is there; -1: none."""
        return len(self.cycles) - 1

    def until(self, k: int) -> Trail:
        """The same run as it was after cycle `k`, to be looked at; -1: before the first."""
        found = copy(self)
        found.cycles = self.cycles[: k + 1]
        return found

    def states(self) -> Tensor:
        """`POOL`, `LABELLED` or, of the last cycle, `ASKED` of each image, i64 [N]."""
        found = torch.full((len(self.setting.train),), POOL)
        for cycle in self.cycles:
            found[list(cycle.queried)] = ASKED if cycle is self.cycles[-1] else LABELLED
        return found

    def asked_in(self) -> dict[int, int]:
        """The cycle in which each image was asked for, by global index, of those that were."""
        return {image: cycle.cycle for cycle in self.cycles for image in cycle.queried}

    def counts(self) -> Tensor:
        """Labels of each class, i64 [C]."""
        none = torch.zeros(len(self.setting.train.classes), dtype=torch.int64)
        return sum((torch.tensor(cycle.class_counts) for cycle in self.cycles), none)

    def said(self) -> Mapping[str, list[Any]] | None:
        """What the net had said of the images that the last cycle asked for, as `loop.beliefs`."""
        return loop.beliefs(self.run, self.last)


# ---- pictures ------------------------------------------------------------------------------------------------------------------


def png(image: Tensor, side: int) -> bytes:
    """An image uint8 [3,H,W] as a PNG file with the longer side of `side` pixels: enlarged with hard edges, made smaller softly."""
    from PIL import Image

    drawn = Image.fromarray(image.permute(1, 2, 0).cpu().numpy())
    ratio = side / max(drawn.size)
    size = (max(1, round(drawn.width * ratio)), max(1, round(drawn.height * ratio)))
    out = io.BytesIO()
    drawn.resize(size, Image.Resampling.NEAREST if ratio > 1 else Image.Resampling.LANCZOS).save(out, "PNG")
    return out.getvalue()


def as_img(content: bytes, alt: str, style: str = "max-width:100%") -> str:
    """HTML: a PNG file as a picture, with a text for those who do not see it."""
    return f'<img alt="{html.escape(alt)}" style="display:inline-block;{style}" src="data:image/png;base64,{b64encode(content).decode()}">'


def as_png(figure: Figure, dpi: int) -> bytes:
    """A figure as a PNG file; drawn without pyplot, whose state callbacks of widgets would share."""
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=dpi, pil_kwargs={"compress_level": 1})  # larger and sooner there
    return out.getvalue()


def thumbnails(setting: Setting, images: Sequence[int], captions: Sequence[str], alts: Sequence[str], side: int = 48) -> str:
    """HTML: a grid of the images with these global indices, each with a caption below and a text for those who do not see it."""
    batch = setting.train.images.batch(torch.tensor(list(images), dtype=torch.int64)) if len(images) else ()
    cells = [
        f'<figure title="{html.escape(alt)}" style="margin:0;text-align:center;font-size:12px;line-height:1.2">'
        f"{as_img(png(image, side), alt, f'width:{side}px')}<figcaption>{html.escape(caption)}</figcaption></figure>"
        for image, caption, alt in zip(batch, captions, alts, strict=True)
    ]
    wide = f"grid-template-columns:repeat(auto-fill,minmax({side + 24}px,1fr))"
    return f'<div style="display:grid;gap:4px;{wide}">{"".join(cells)}</div>'


def strip(trail: Trail) -> str:
    """HTML: the images that the last cycle asked for, in order of choice, with their classes, what the net had said, and the score."""
    if not trail.cycles:
        return ""
    cycle, said, names = trail.cycles[-1], trail.said(), trail.setting.train.classes
    some, score = cycle.queried[:SHOWN], SCORES.get(trail.strategy, "confidence")
    captions, alts = [], []
    for place, image in enumerate(some):
        true = names[int(trail.setting.train.targets[image])]
        told = "" if said is None else names[said["predicted"][place]]
        value = "" if said is None else f"{score} {said[score][place]:.2f}"
        captions.append(true if said is None else f"{true} {'=' if told == true else '≠'} {told} {said[score][place]:.2f}")
        alts.append(f"image {image}, class {true}" + (f", the net said {told}, {value}" if told else ""))
    more = f"<p>and {len(cycle.queried) - SHOWN} more</p>" if len(cycle.queried) > SHOWN else ""
    name = "entropy in nats" if score == "entropy" else score
    legend = "true class; what the net said of it then is not known"
    if said is not None:
        legend = f"below each image: true class, = or ≠ the class that the net had said, and {name} of what it said; in order of choice"
    return f'<p style="margin:2px 0;font-size:12px;color:#444">{legend}</p>{thumbnails(trail.setting, some, captions, alts)}{more}'


def legend(classes: Sequence[str]) -> str:
    """HTML: the colours of classes and the sizes of states, in a line."""

    def mark(name: str, colour: str, side: int) -> str:
        dot = f"display:inline-block;width:{side}px;height:{side}px;border-radius:50%;background:{colour};margin-right:4px"
        return f'<span style="margin-right:14px;white-space:nowrap"><span style="{dot}"></span>{html.escape(name)}</span>'

    several = len(classes) <= len(CLASS_COLOURS)
    labelled, asked = ("#555", "#555") if several else STATE_COLOURS
    states = [mark("pool", PALE, 5), mark("labelled", labelled, 9), mark("asked now", asked, 16)]
    named = list(zip(classes, colours(classes), strict=True)) if several else []
    return f'<div style="font-size:14px">{"".join([*states, *(mark(name, colour, 11) for name, colour in named)])}</div>'


# ---- figures -------------------------------------------------------------------------------------------------------------------


def draw_progress(trails: Sequence[Trail]) -> Figure:
    """Learning curves, and the labels of each class."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.4, 2.9))  # with its own margins: a layout engine takes longer than all the rest, and a slider waits for it
    left, right = figure.subplots(1, 2)
    figure.subplots_adjust(left=0.07, right=0.99, top=0.95, bottom=0.19, wspace=0.14)
    _curves(left, trails)
    _histogram(right, trails)
    return figure


def draw_overview(trails: Sequence[Trail], layout: Tensor, title: str) -> Figure:
    """What the explorer shows, for readers without a kernel: where the last query lies at `layout` [N,2], learning curves, classes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.4, 8.0 if len(trails) == 1 else 7.2), layout="constrained")
    parts: Any = figure.subfigures(2, 1, height_ratios=(1.8, 1))
    above, below = parts
    for axis, trail in zip(above.subplots(1, len(trails), squeeze=False)[0], trails, strict=True):
        _where(axis, trail, layout)
    classes = trails[0].setting.train.classes
    labelled, asked = ("0.4", "0.8") if len(classes) <= len(CLASS_COLOURS) else STATE_COLOURS
    marks = {
        "pool": {"color": PALE, "markersize": 3}, "labelled": {"color": labelled, "markersize": 5},
        "asked now": {"color": asked, "markeredgecolor": "black", "markersize": 9},
    }  # fmt: skip
    draw_legend(above, marks, classes)
    left, right = below.subplots(1, 2)
    _curves(left, trails)
    _histogram(right, trails)
    figure.suptitle(title, fontsize=11)
    return figure


def draw_where(trail: Trail, layout: Tensor) -> Figure:
    """Where the images that the last cycle asked for lie among all, at `layout` [N,2]: for browsers that cannot draw the scatter plot."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.2, 4.4))
    axis = figure.subplots()
    figure.subplots_adjust(left=0.01, right=0.99, top=0.93, bottom=0.01)
    _where(axis, trail, layout)  # the explorer has the legend
    return figure


def colours(classes: Sequence[str]) -> list[str]:
    """A colour for each class; one for all where there are more than can be told apart."""
    return [class_colour(c) for c in range(len(classes))] if len(classes) <= len(CLASS_COLOURS) else [PALE] * len(classes)


def _where(axis: Any, trail: Trail, layout: Tensor) -> None:
    states, targets, classes = trail.states(), trail.setting.train.targets, trail.setting.train.classes
    palette, several = colours(classes), len(classes) <= len(CLASS_COLOURS)
    marks: dict[int, dict[str, Any]] = {
        POOL: {"s": 8, "alpha": 0.35, "linewidths": 0}, LABELLED: {"s": 20, "linewidths": 0.4}, ASKED: {"s": 70, "linewidths": 1.4},
    }  # fmt: skip
    for state, look in marks.items():
        some = (states == state).nonzero().flatten()
        found = [palette[c] if several or state == POOL else STATE_COLOURS[state - 1] for c in targets[some].tolist()]
        edges = "black" if state == ASKED else "white"  # of dark classes the size tells
        axis.scatter(*layout[some].T.numpy(), c=found, edgecolors=edges, rasterized=True, **look)
    axis.set(title=trail.strategy.replace("_", " ") + (f", cycle {trail.last}" if trail.cycles else ""), xticks=[], yticks=[])


def _looks(trails: Sequence[Trail]) -> list[dict[str, Any]]:
    """Of each run, as keyword arguments for matplotlib: the marker that its strategy has in every figure, and a grey."""
    found = looks(trail.strategy for trail in trails)
    return [{**found[trail.strategy], "color": colour} for trail, colour in zip(trails, RUN_COLOURS, strict=False)]


def _curves(axis: Any, trails: Sequence[Trail]) -> None:
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    protocol = trails[0].setting
    for trail, look in zip(trails, _looks(trails), strict=True):
        points = [(cycle.n_labelled, cycle.metrics["accuracy"]) for cycle in trail.cycles]
        if points:
            name = trail.strategy.replace("_", " ")
            axis.plot(*zip(*points, strict=True), label=name, markersize=5, clip_on=False, **look)
    last = protocol.initial + (protocol.cycles - 1) * protocol.budget
    axis.set(xlabel="labels", ylabel="test accuracy", xlim=(0, last * 1.03), ylim=(0, 1))
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.yaxis.set_major_formatter(PercentFormatter(1))
    axis.grid(alpha=0.3)
    if any(trail.cycles for trail in trails):
        axis.legend(frameon=False, fontsize=9, loc="best")


def _histogram(axis: Any, trails: Sequence[Trail]) -> None:
    from matplotlib.ticker import MaxNLocator

    names, width = trails[0].setting.train.classes, 0.8 / len(trails)
    for place, (trail, look) in enumerate(zip(trails, _looks(trails), strict=True)):
        counts = trail.counts()
        where = [c + (place - (len(trails) - 1) / 2) * width for c in range(len(names))]
        axis.bar(where, counts.tolist(), width=width, color=look["color"])
    short = len(names) <= 20 and max(map(len, names)) <= 10
    axis.set(xlabel="class" if short else "class number", ylabel="labels so far")
    if short:
        axis.set_xticks(range(len(names)), names, rotation=0 if sum(map(len, names)) <= 40 else 45)
    axis.yaxis.set_major_locator(MaxNLocator(integer=True))
    axis.grid(alpha=0.3, axis="y")


def queries(trails: Iterable[Trail], iterations: Iterable[int]) -> dict[str, dict[int, Tensor]]:
    """What was asked, as `query_analysis.draw_queries` takes it: by strategy and iteration, of which cycle 0 is number 1."""
    wanted = tuple(iterations)
    return {t.strategy: {i: torch.tensor(t.cycles[i - 1].queried) for i in wanted if i <= len(t.cycles)} for t in trails}
