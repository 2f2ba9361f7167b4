"""The lesson of `notebooks/teach.ipynb`: ways to start, what lies near what, sentences that say what was measured, and pictures.

These functions see the targets. They are for looking back: no strategy may use them.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import ipywidgets
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pandas import DataFrame, Series
from torch import Tensor

from alnb.acquire import STRATEGIES, Strategy
from alnb.acquire.scopes import Untrained
from alnb.data import Images
from alnb.learn.train import Learner
from alnb.loop import oracle
from alnb.loop.experiment import Experiment, Protocol
from alnb.papers import quickstart
from alnb.papers.experiment import Scale, at_scale
from alnb.papers.jobs import Job, TaggedRun
from alnb.report import palette, queries, stats, tables
from alnb.report.palette import CLASS_COLOURS, class_colour, class_edge, draw_legend
from alnb.report.queries import coverage_radius, knn_label_entropy
from alnb.widgets.static import as_img, as_png

RIGHT, WRONG = palette.COLOURS[0], palette.COLOURS[1]  # blue and vermilion; a sign says the same
SHOWN = 10  # images of a query that a picture shows
NEAR = 10  # neighbours whose classes are looked at
STARTS = (
    "random, then random", "random, then entropy", "typical, then entropy", "class-even, then entropy", "entropy from the first query on",
)  # fmt: skip
COLD_CYCLES = {Scale.SMOKE: 2, Scale.LAPTOP: 4, Scale.PAPER: 4}  # points on each curve of a start
WORDS = {stats.HOLDS: "holds here", stats.FAILS: "is wrong here, it is the other way round", stats.OPEN: "is not decided by these runs"}
Queries = Mapping[str, Sequence[Mapping[int, Tensor]]]
"""By strategy, the queries i64 [n] of each of its runs, by cycle."""


# ---- ways to start -------------------------------------------------------------------------------------------------------------


def starts(targets: Tensor, learner: Learner, classes: int) -> dict[str, tuple[Strategy, Strategy]]:
    """Ways to spend the first labels: by name, of `STARTS`, the strategy of cycle 0, and that of all later ones.

    Args:
        targets: i64 [N]; the class-even start looks at them, as published protocols do.
        learner: builds the untrained net, which the last start asks.
    """
    random, entropy = STRATEGIES["random"], STRATEGIES["entropy"]
    first = (random, random, STRATEGIES["typical"], oracle.class_uniform(targets, classes), Untrained(learner, classes, entropy))
    return dict(zip(STARTS, zip(first, (random, entropy, entropy, entropy, entropy), strict=True), strict=True))


def cold_jobs(setting: quickstart.Setting, seeds: Iterable[int]) -> list[Job]:
    """The runs of part 3: each of `STARTS` with each seed."""
    base = {**setting.tags, "arm": "scratch", "pretext": ""}
    return [{**base, "strategy": name, "seed": seed} for name in STARTS for seed in seeds]


def cold(setting: quickstart.Setting, start: quickstart.Start, job: Job) -> Experiment:
    """The experiment of one of the `cold_jobs`: one label a class in cycle 0, one a class in each later cycle."""
    base, classes = quickstart.experiment(setting, start, "random", job["seed"]), len(setting.train.classes)
    initial, later = starts(setting.train.targets, start.learner, classes)[job["strategy"]]
    protocol = Protocol(classes, classes, at_scale(setting.scale, COLD_CYCLES), seed=job["seed"])
    return replace(base, strategy=later, initial=initial, protocol=protocol, tags={**base.tags, **job})


# ---- what lies near what -------------------------------------------------------------------------------------------------------


def neighbours(features: Tensor, k: int = NEAR) -> Tensor:
    """The `k` nearest others, i64 [N,k], nearest first, of each of `features` [N,D], by Euclidean distance.

    Raises:
        ValueError: there are not `k` others.
    """
    return queries.neighbours(features.double(), torch.arange(len(features)), k)


def alike(near: Tensor, targets: Tensor) -> Tensor:
    """For each image the share, f64 [N] in [0, 1], of its neighbours `near` i64 [N,k] that have its class."""
    return (targets[near] == targets[:, None]).double().mean(dim=1)


def most_different(shares: Mapping[str, Tensor]) -> int:
    """The image about which spaces differ most, the first of such.

    Args:
        shares: [N] by space, as `alike` gives.
    """
    both = torch.stack(list(shares.values()))
    return int((both.amax(dim=0) - both.amin(dim=0)).argmax())


def classes_asked(log_probs: Tensor, targets: Tensor, queries: Mapping[str, Tensor]) -> DataFrame:
    """What queries i64 [n] are like, a row each.

    Columns: `classes` in it; `wrong`, the share that the net would have got wrong; `probability`, the mean that it gave to its first class.

    Args:
        log_probs: [N,C], of the net that was asked. targets: i64 [N].
    """
    top, first = log_probs.exp().max(dim=1)
    wrong = (first != targets).double()
    rows = {
        name: {"classes": len(targets[query].unique()), "wrong": float(wrong[query].mean()), "probability": float(top[query].mean())}
        for name, query in queries.items()
    }
    return DataFrame.from_dict(rows, orient="index")


def asked(runs: Iterable[TaggedRun]) -> dict[str, list[dict[int, Tensor]]]:
    """The `Queries` of runs."""
    every: dict[str, list[dict[int, Tensor]]] = {}
    for run, tags in runs:
        every.setdefault(tags["strategy"], []).append({record["cycle"]: torch.tensor(record["queried"]) for record in run.records()})
    return every


def variety(asked: Queries, targets: Tensor) -> dict[str, float]:
    """By strategy, the number of classes in its first query, mean over its runs. targets: i64 [N]."""
    return {name: sum(len(targets[run[0]].unique()) for run in runs) / len(runs) for name, runs in asked.items()}


def spread(features: Tensor, targets: Tensor, asked: Queries, cycle: int) -> DataFrame:
    """Where queries lie in `features` [N,D]: a row for each run of each strategy. targets: i64 [N].

    Columns: `strategy`; `run`, its place among those of the strategy; `radius`, the largest distance of any image to the nearest image
    queried up to `cycle`; `mixed`, the entropy in nats of the classes among the `NEAR` nearest others of the images queried in it, LARGE
    where classes meet.
    """
    rows = []
    for name, runs in asked.items():
        for place, run in enumerate(runs):
            radius = coverage_radius(features, torch.cat([run[k] for k in range(cycle + 1)]))
            rows.append((name, place, radius, float(knn_label_entropy(features, targets, run[cycle], NEAR).mean())))
    return DataFrame(rows, columns=["strategy", "run", "radius", "mixed"])


# ---- sentences -----------------------------------------------------------------------------------------------------------------


def about_queries(table: DataFrame, classes: int) -> list[str]:
    """What a table of `classes_asked` says, for a data set with so many classes."""
    return [
        f"the net was wrong, in percent of the query: {ordered(100 * table['wrong'], '.0f')}",
        f"classes in the query, of {classes}: {ordered(table['classes'], '.0f')}",
        f"what the net gave to its first choice, in percent, mean over the query: {ordered(100 * table['probability'], '.0f')}",
    ]


def about_coverage(frame: DataFrame, where: DataFrame) -> list[str]:
    """What the runs of random, margin and kcenter, of one arm, and a table of `spread` say of both ideas, in cycle 1 and at the end."""
    random, margin, kcenter = ({"strategy": name} for name in ("random", "margin", "kcenter"))
    pairs = {"uncertainty beats random choice": (margin, random), "coverage beats random choice": (kcenter, random)}
    pairs["uncertainty beats coverage"] = (margin, kcenter)
    means = where.groupby("strategy")[["radius", "mixed"]].mean()
    lines = [
        f"distance of the farthest image from any label, in pixel values: {ordered(means['radius'], '.2f')}",
        _verdict("Coverage leaves less far away than random choice", where, "radius", "random", "kcenter"),
        "how mixed the classes are around the images of the query, in pixels (0: one class alone; 0.69: two alike): "
        f"{ordered(means['mixed'], '.2f')}",
        _verdict("Uncertainty asks where classes meet, more than random choice", where, "mixed", "margin", "random"),
        _verdict("Uncertainty asks where classes meet, more than coverage", where, "mixed", "margin", "kcenter"),
    ]
    for cycle in (1, int(frame["cycle"].max())):
        labels = f"With {int(frame[frame['cycle'] == cycle]['n_labelled'].max())} labels"
        lines += [verdict(f"{labels} {folklore}", over(frame, *pair, cycle)) for folklore, pair in pairs.items()]
    return lines


def _verdict(folklore: str, where: DataFrame, column: str, more: str, less: str) -> str:
    """As `verdict`, about a column of `spread` that should be more for one strategy than for another, by run."""
    values = where.pivot(index="run", columns="strategy", values=column)
    difference = stats.difference(values[more] - values[less])
    return f"“{folklore}” {WORDS[stats.verdict(difference)]}: {difference.text(1, '+.2f')}."


def about_starts(frame: DataFrame, asked: Queries, targets: Tensor) -> list[str]:
    """What the runs of all `STARTS` and their queries say of the first labels, and of the ones that follow. targets: i64 [N]."""
    random, unsure, typical, even, blind = ({"strategy": name} for name in STARTS)
    return [
        f"classes in the first query, mean over seeds: {ordered(variety(asked, targets), '.1f')}",
        verdict("An untrained net asks for worse first labels than chance", over(frame, unsure, blind, 0)),
        verdict("Typical first labels beat random ones", over(frame, typical, unsure, 0)),
        verdict("Class-even first labels beat random ones", over(frame, even, unsure, 0)),
        verdict("After a random start, going on at random beats entropy at first", over(frame, random, unsure, 1)),
        verdict("A blind start is still behind in the last cycle", over(frame, unsure, blind, int(frame["cycle"].max()))),
    ]


def about_pretraining(frame: DataFrame, shares: Mapping[str, Tensor]) -> list[str]:
    """What the runs of random and margin in the arms "scratch" and "warm" say of self-supervision. shares: [N] by space, from `alike`."""
    warm, scratch = ({"arm": arm, "strategy": "random"} for arm in ("warm", "scratch"))
    leads = {side["arm"]: over(frame, {**side, "strategy": "margin"}, side) for side in (scratch, warm)}
    return [
        f"neighbours of the same class, in percent: {ordered({name: 100 * float(share.mean()) for name, share in shares.items()}, '.1f')}",
        verdict("With the first labels pre-training helps", over(frame, warm, scratch, 0)),
        verdict("With the last labels it still helps", over(frame, warm, scratch, int(frame["cycle"].max()))),
        *(f"what margin gains over random choice, {arm}, over all cycles: {lead}" for arm, lead in leads.items()),
        tables.finding(frame),
    ]


def verdict(folklore: str, difference: stats.Difference) -> str:
    """What is often said, and whether the runs say so too: by the 95 % interval of the difference, which should be above 0."""
    return f"“{folklore}” {WORDS[stats.verdict(difference)]}: {difference}."


def over(frame: DataFrame, first: Mapping[str, Any], second: Mapping[str, Any], cycle: int | None = None) -> stats.Difference:
    """How much more accurate the runs that match `first` are than those of `second`, paired by seed; in one cycle, or over all (None)."""
    return stats.paired(frame if cycle is None else frame[frame["cycle"] == cycle], first, second, on=("n_labelled",))


def ordered(values: Mapping[str, float] | Series, form: str) -> str:
    """Names and values, the largest first, as "a 3.1; b 2.0"; `form` is a format such as ".1f"."""
    return "; ".join(f"{name} {value:{form}}" for name, value in sorted(values.items(), key=lambda item: -item[1]))


# ---- pictures ------------------------------------------------------------------------------------------------------------------


def draw_query(images: Images, targets: Tensor, log_probs: Tensor, query: Tensor, title: str) -> Figure:
    """The first `SHOWN` images of a query i64 [n] in order of choice; below each what the net gave to every class.

    Args:
        targets: i64 [N]. log_probs: [N,C].
    """
    classes, figure = log_probs.shape[1], Figure(figsize=(12.6, 3.9), layout="constrained")
    axes = figure.subplots(2, SHOWN, squeeze=False, height_ratios=(1, 1.25))
    for column, image in enumerate(query[:SHOWN].tolist()):
        true = int(targets[image])
        _picture(axes[0, column], images, image)
        axes[0, column].set_title(f"true {true}", fontsize=10)
        colours = [RIGHT if label == true else "0.65" for label in range(classes)]
        axes[1, column].barh(range(classes), log_probs[image].exp().tolist(), color=colours)
        axes[1, column].set(xlim=(0, 1), xticks=(0, 1), ylim=(classes - 0.5, -0.5), yticks=range(classes) if not column else ())
    for axis in axes[:, len(query) :].flatten():
        axis.set_axis_off()
    axes[1, 0].set_ylabel("class (blue: the true one)", fontsize=9)
    figure.supxlabel("probability that the net gives", fontsize=10)
    figure.suptitle(title, fontsize=12)
    return figure


def draw_queries(images: Images, targets: Tensor, log_probs: Tensor, queries: Mapping[str, Tensor], title: str) -> Figure:
    """The first `SHOWN` images of each query i64 [n], a row a query; those that the net gets wrong have a vermilion frame and say so.

    Args:
        targets: i64 [N]. log_probs: [N,C].
    """
    first, figure = log_probs.argmax(dim=1), Figure(figsize=(12.6, 0.6 + 1.45 * len(queries)), layout="constrained")
    for (name, query), axes in zip(queries.items(), figure.subplots(len(queries), SHOWN, squeeze=False), strict=True):
        for axis in axes[len(query) :]:
            axis.set_axis_off()
        for axis, image in zip(axes, query[:SHOWN].tolist(), strict=False):
            true, predicted = int(targets[image]), int(first[image])
            _picture(axis, images, image, None if true == predicted else WRONG)
            axis.set_title(f"{true}" if true == predicted else f"{true}, not {predicted}", fontsize=10)
        axes[0].set_ylabel(name.replace("_", "\n"), fontsize=10)
    figure.suptitle(title, fontsize=12)
    return figure


def draw_asked(layout: Tensor, targets: Tensor, queries: Mapping[str, tuple[Tensor, Tensor]], classes: Sequence[str], title: str) -> Figure:
    """Where queries lie among all images, a panel each: large points are queried now, crosses were before, small points are all images.

    Args:
        layout: positions [N,2]. targets: i64 [N].
        queries: by name, the images queried before and those queried now, i64 [m] and [n].
        classes: their names, at most ten.
    Raises:
        ValueError: more than ten classes, for which there are no colours.
    """
    if len(classes) > len(CLASS_COLOURS):
        raise ValueError(f"{len(classes)} classes, but colours for {len(CLASS_COLOURS)}: show fewer")
    size = (8.6, 6.0) if len(queries) == 1 else (1.6 + 3.7 * len(queries), 4.6)
    figure, (x, y) = Figure(figsize=size, layout="constrained"), layout.detach().cpu().T.numpy()
    colours = [class_colour(label) for label in targets.tolist()]
    for axis, (name, (before, now)) in zip(figure.subplots(1, len(queries), squeeze=False)[0], queries.items(), strict=True):
        edges = [class_edge(label) for label in targets[now].tolist()]
        axis.scatter(x, y, s=9, c=colours, alpha=0.35, linewidths=0)
        axis.scatter(x[before], y[before], s=26, c="black", marker="x", linewidths=1.2)
        axis.scatter(x[now], y[now], s=80, c=[colours[i] for i in now.tolist()], edgecolors=edges, linewidths=1.4)
        axis.set(title=name, xticks=[], yticks=[], xlabel="layout, first axis", ylabel="layout, second axis")
    marks: dict[str, dict[str, Any]] = {
        "asked for now": {"color": "black", "markersize": 9, "markerfacecolor": "white"},
        "labelled before": {"color": "black", "marker": "x"},
    }
    draw_legend(figure, marks, classes)
    figure.suptitle(title, fontsize=12)
    return figure


def draw_starts(frame: DataFrame, labels: Sequence[int]) -> Figure:
    """Accuracy with these numbers of labels, a panel each: for each of `STARTS` a dot for each seed, and the mean with its 95 % interval.

    The axis is the same for all numbers of labels, so that figures compare.

    Raises:
        ValueError: no run had so many labels.
    """
    missing = sorted(set(labels) - set(frame["n_labelled"]))
    if missing:
        known = ", ".join(map(str, sorted(frame["n_labelled"].unique())))
        raise ValueError(f"no run has a cycle with {missing[0]} labels: there are {known}")
    figure = Figure(figsize=(9.6 if len(labels) == 1 else 2.6 + 2.6 * len(labels), 4.4), layout="constrained")
    axes = figure.subplots(1, len(labels), sharex=True, sharey=True, squeeze=False)[0]
    for axis, n in zip(axes, labels, strict=True):
        for y, name in enumerate(STARTS):  # `palette.looks` would give one of them yellow, which a projector loses on white
            values = frame[(frame["n_labelled"] == n) & (frame["strategy"] == name)]["accuracy"]
            _strip(axis, y, values, {"color": palette.COLOURS[y], "marker": palette.MARKERS[y]})
        axis.set_title(f"{n} labels", fontsize=11)
        axis.set_xlabel("test accuracy")
        axis.grid(alpha=0.3, axis="x")
    low, high = frame["accuracy"].min(), frame["accuracy"].max()
    axes[0].set(xlim=(max(0.0, low - 0.05), min(1.0, high + 0.05)), ylim=(len(STARTS) - 0.5, -0.6))
    axes[0].set_yticks(range(len(STARTS)), [name.replace(", ", ",\n").replace(" the ", "\nthe ") for name in STARTS])
    legend = f"small: each of {stats.seeds(frame)} seeds; large: their mean, with its 95 % interval"
    title = f"How the first labels were chosen, then who chose the rest ({legend})"
    figure.suptitle(textwrap.fill(title, int(11 * figure.get_figwidth())), fontsize=12)
    return figure


def _strip(axis: Axes, y: int, values: Series, look: Mapping[str, Any]) -> None:
    mean, (low, high) = values.mean(), stats.interval(values)
    axis.scatter(values, [y - 0.2] * len(values), s=22, alpha=0.7, linewidths=0, **look)
    axis.errorbar(mean, y + 0.12, xerr=[[mean - low], [high - mean]], capsize=4, markersize=7, **look)


def draw_neighbours(images: Images, targets: Tensor, near: Mapping[str, Tensor], image: int) -> Figure:
    """An image and its nearest others in several spaces, a row a space: a blue frame and a tick if the class is the same.

    Args:
        targets: i64 [N]. near: by space, as `neighbours` gives, [N,k]; at most `SHOWN` are shown.
    """
    figure = Figure(figsize=(12.6, 0.6 + 1.42 * len(near)), layout="constrained")
    label = int(targets[image])
    for (name, nearest), axes in zip(near.items(), figure.subplots(len(near), SHOWN + 1, squeeze=False), strict=True):
        _picture(axes[0], images, image, "black")
        axes[0].set_title(f"image of a {label}", fontsize=10)
        axes[0].set_ylabel(name.replace(" ", "\n"), fontsize=10)
        for axis in axes[1 + nearest.shape[1] :]:
            axis.set_axis_off()
        for axis, other in zip(axes[1:], nearest[image, :SHOWN].tolist(), strict=False):
            colour, sign = (RIGHT, "✓") if int(targets[other]) == label else (WRONG, "✗")
            _picture(axis, images, other, colour)
            axis.set_title(f"{int(targets[other])} {sign}", fontsize=10, color=colour)
    figure.suptitle(f"Image {image}, a {label}, and the images nearest to it in each space, the nearest first", fontsize=12)
    return figure


def _picture(axis: Axes, images: Images, image: int, frame: str | None = None) -> None:
    axis.imshow(images.batch(torch.tensor([image]))[0].permute(1, 2, 0).cpu().numpy())
    axis.set(xticks=[], yticks=[])
    for spine in axis.spines.values():
        spine.set(visible=frame is not None, color=frame or "black", linewidth=3)


# ---- in JupyterLab -------------------------------------------------------------------------------------------------------------


def as_html(figure: Figure, dpi: int = 100) -> str:
    """The figure as an HTML image; its title is the text for people who cannot see it."""
    return as_img(as_png(figure, dpi), figure.get_suptitle())


def controls(draw: Callable[..., Figure], **choices: Iterable[Any]) -> ipywidgets.VBox:
    """A slider for each range of `choices`, a menu for each other one, and below them what `draw` makes of the values, called by name.

    No pyplot is used, and nothing is kept between two drawings, so that they may overlap.

    Raises:
        ValueError: nothing to choose from.
    """
    empty = [name for name, values in choices.items() if not len(list(values))]
    if empty:
        raise ValueError(f"there is nothing to choose from in {', '.join(empty)}")
    handles, picture = {name: _control(name, values) for name, values in choices.items()}, ipywidgets.HTML()

    def redraw(change: Any = None) -> None:
        picture.value = as_html(draw(**{name: handle.value for name, handle in handles.items()}))

    for handle in handles.values():
        handle.observe(redraw, names="value")
    redraw()
    return ipywidgets.VBox([*handles.values(), picture])


def _control(name: str, values: Iterable[Any]) -> Any:
    shown: dict[str, Any] = {"description": name, "tooltip": f"choose {name}; arrow keys change it", "style": {"description_width": "8em"}}
    if isinstance(values, range):
        slider = {"min": values.start, "max": values[-1], "step": values.step, "continuous_update": False}
        return ipywidgets.IntSlider(value=values.start, **slider, layout={"width": "40em"}, **shown)
    return ipywidgets.Dropdown(options=list(values), **shown)
