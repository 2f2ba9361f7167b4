"""The lesson of `notebooks/teach.ipynb`: ways to start, what lies near what, pictures of it, and sentences that say what was measured.

These functions see the targets: they are for looking back, and no strategy may use them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from alnb import acquire
from alnb.acquire import Strategy
from alnb.acquire.scopes import Untrained
from alnb.data import Images
from alnb.learn.train import Learner
from alnb.loop import oracle
from alnb.loop.experiment import Experiment, Protocol
from alnb.papers import quickstart
from alnb.report import palette, stats, tables
from alnb.report import queries as query_analysis
from alnb.report.palette import CLASS_COLOURS, class_colour, class_edge, draw_legend
from alnb.report.queries import coverage_radius, knn_label_entropy
from alnb.report.records import TaggedRun
from alnb.widgets.explorer import trail as exploration

if TYPE_CHECKING:
    import ipywidgets
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from pandas import DataFrame, Series

RIGHT, WRONG = palette.COLOURS[0], palette.COLOURS[1]  # blue and vermilion; a sign says the same
SHOWN = 10  # images of a query that a picture shows
NEAR = 10  # neighbours whose classes are looked at
STARTS = (
    "random, then random", "random, then entropy", "typical, then entropy", "class-even, then entropy", "entropy from the first query on",
)  # fmt: skip
COLD_CYCLES = {"smoke": 2, "laptop": 4, "paper": 4}  # points on each curve of a start
WORDS = {stats.HOLDS: "holds here", stats.FAILS: "is wrong here, it is the other way round", stats.OPEN: "is not decided by these runs"}


# ---- ways to start -------------------------------------------------------------------------------------------------------------


def starts(targets: Tensor, learner: Learner, classes: int) -> dict[str, tuple[Strategy, Strategy]]:
    """Ways to spend the first labels: by name, of `STARTS`, who chooses the first query, and who chooses all later ones.

    Args:
        targets: i64 [N]; the class-even start looks at them, as published protocols do.
    """
    random, entropy = acquire.STRATEGIES["random"], acquire.STRATEGIES["entropy"]
    first = (random, random, acquire.typical, oracle.class_uniform(targets, classes), Untrained(learner, classes, entropy))
    return dict(zip(STARTS, zip(first, (random, entropy, entropy, entropy, entropy), strict=True), strict=True))


def cold(setting: quickstart.Setting, start: quickstart.Start, name: str, seed: int) -> Experiment:
    """The experiment of one run of the start called `name`: one label a class to begin with, one a class in each cycle.

    Raises:
        KeyError: there is no such start.
    """
    base, classes = quickstart.experiment(setting, start, "random", seed), len(setting.train.classes)
    initial, later = starts(setting.train.targets, start.learner, classes)[name]
    protocol = Protocol(classes, classes, COLD_CYCLES[setting.scale], seed=seed)
    return replace(base, strategy=later, initial=initial, protocol=protocol, tags={**base.tags, "strategy": name})


# ---- what lies near what -------------------------------------------------------------------------------------------------------


def neighbours(features: Tensor, k: int = NEAR) -> Tensor:
    """The `k` nearest others, i64 [N,k], nearest first, of each of `features` [N,D], by Euclidean distance.

    Raises:
        ValueError: there are not `k` others.
    """
    return query_analysis.neighbours(features, torch.arange(len(features)), k)


def alike(near: Tensor, targets: Tensor) -> Tensor:
    """Of each image the share, f64 [N] in [0, 1], of its neighbours `near` i64 [N,k] that have its own class."""
    return (targets[near] == targets[:, None]).double().mean(dim=1)


def told_apart(shares: Mapping[str, Tensor]) -> int:
    """The image about which spaces differ most: where the largest share less the smallest is largest; the first of such.

    Args:
        shares: [N] by space, as `alike` gives.
    """
    both = torch.stack(list(shares.values()))
    return int((both.amax(dim=0) - both.amin(dim=0)).argmax())


def classes_asked(said: Tensor, targets: Tensor, queries: Mapping[str, Tensor]) -> DataFrame:
    """What each query is like: a row for each, of images i64 [n].

    Columns: `classes` in it; `wrong`, the share that the net would have got wrong; `probability`, the mean of what it gave to its first
    class.

    Args:
        said: log-probabilities [N,C] of the net that was asked. targets: i64 [N].
    """
    import pandas

    top, first = said.exp().max(dim=1)
    rows = {
        name: {
            "classes": len(targets[some].unique()),
            "wrong": float((first[some] != targets[some]).double().mean()),
            "probability": float(top[some].mean()),
        }
        for name, some in queries.items()
    }
    return pandas.DataFrame.from_dict(rows, orient="index")


def asked(found: Iterable[TaggedRun]) -> dict[str, list[dict[int, Tensor]]]:
    """By strategy, of each of its runs the queries i64 [n] by cycle.

    Args:
        found: runs and their columns, as for `records.frame`.
    """
    queries: dict[str, list[dict[int, Tensor]]] = {}
    for run, columns in found:
        own = {record["cycle"]: torch.tensor(record["queried"]) for record in run.records()}
        queries.setdefault(columns["strategy"], []).append(own)
    return queries


def variety(asked: Mapping[str, Sequence[Mapping[int, Tensor]]], targets: Tensor) -> dict[str, float]:
    """By strategy the number of classes in its first query, mean over its runs.

    Args:
        asked: as `asked` gives. targets: i64 [N].
    """
    return {name: sum(len(targets[run[0]].unique()) for run in runs) / len(runs) for name, runs in asked.items()}


def spread(features: Tensor, targets: Tensor, asked: Mapping[str, Sequence[Mapping[int, Tensor]]], cycle: int) -> DataFrame:
    """Where queries lie in `features` [N,D]: a row for each run of each strategy.

    Columns: `strategy`; `run`, its place among those of the strategy; `radius`, the largest distance of any image to the nearest that was
    asked for up to `cycle`; `mixed`, the entropy in nats of the classes among the `NEAR` nearest others of those asked for in it, LARGE
    where classes meet.

    Args:
        targets: i64 [N]. asked: as `asked` gives.
    Raises:
        ValueError: as the functions of `query_analysis`.
    """
    import pandas

    rows = [
        {
            "strategy": name,
            "run": place,
            "radius": coverage_radius(features, torch.cat([run[k] for k in range(cycle + 1)])),
            "mixed": float(knn_label_entropy(features, targets, run[cycle], NEAR).mean()),
        }
        for name, runs in asked.items()
        for place, run in enumerate(runs)
    ]
    return pandas.DataFrame(rows)


# ---- sentences -----------------------------------------------------------------------------------------------------------------


def about_queries(table: DataFrame, classes: int) -> list[str]:
    """What a table of `classes_asked` says, of a data set with so many classes."""
    return [
        f"the net was wrong, in percent of the query: {ordered(100 * table['wrong'], '.0f')}",
        f"classes in the query, of {classes}: {ordered(table['classes'], '.0f')}",
        f"what the net gave to its first choice, in percent, mean over the query: {ordered(100 * table['probability'], '.0f')}",
    ]


def about_coverage(frame: DataFrame, where: DataFrame) -> list[str]:
    """What the runs of random, margin and kcenter say of both ideas, after the first query and at the end; and a table of `spread`.

    Args:
        frame: of `records.frame`, of one arm.
    """
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
        told = f"With {int(frame[frame['cycle'] == cycle]['n_labelled'].max())} labels"
        lines += [verdict(f"{told} {folklore}", over(frame, *pair, cycle)) for folklore, pair in pairs.items()]
    return lines


def _verdict(folklore: str, where: DataFrame, column: str, more: str, less: str) -> str:
    """As `verdict`, of a column of `spread` that should be more for one strategy than for another, by run."""
    values = where.pivot(index="run", columns="strategy", values=column)
    found = stats.difference(values[more] - values[less])
    return f"“{folklore}” {WORDS[stats.verdict(found)]}: {found.text(1, '+.2f')}."


def about_starts(frame: DataFrame, asked: Mapping[str, Sequence[Mapping[int, Tensor]]], targets: Tensor) -> list[str]:
    """What the runs of all `STARTS` say of the first labels, and of the ones that follow.

    Args:
        frame: of `records.frame`. asked: of the same runs. targets: i64 [N].
    """
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
    """What the runs of two arms, "from scratch" and "rotation", say of self-supervision.

    Args:
        frame: of `records.frame`; with the strategies random and margin in both arms.
        shares: by space, as `alike` gives, [N].
    """
    pretrained, scratch = ({"arm": arm, "strategy": "random"} for arm in ("rotation", "from scratch"))
    leads = {one["arm"]: over(frame, {**one, "strategy": "margin"}, one) for one in (scratch, pretrained)}
    return [
        f"neighbours of the same class, in percent: {ordered({name: 100 * float(share.mean()) for name, share in shares.items()}, '.1f')}",
        verdict("With the first labels pre-training helps", over(frame, pretrained, scratch, 0)),
        verdict("With the last labels it still helps", over(frame, pretrained, scratch, int(frame["cycle"].max()))),
        *(f"what margin gains over random choice, {arm}, over all cycles: {lead}" for arm, lead in leads.items()),
        tables.finding(frame),
    ]


def verdict(folklore: str, found: stats.Difference) -> str:
    """What is said, and whether the runs say so too: by the 95 % interval of the difference that should be above 0."""
    return f"“{folklore}” {WORDS[stats.verdict(found)]}: {found}."


def over(frame: DataFrame, first: Mapping[str, Any], second: Mapping[str, Any], cycle: int | None = None) -> stats.Difference:
    """How much more accurate the runs that match `first` are than those of `second`, paired by seed; in one cycle, or over all (None).

    Raises:
        ValueError: as `stats.paired`.
    """
    rows = frame if cycle is None else frame[frame["cycle"] == cycle]
    return stats.paired(rows, first, second, on=("n_labelled",))


def ordered(values: Mapping[str, float] | Series, form: str) -> str:
    """Names and values, the largest first, as "a 3.1; b 2.0"; `form` is a format such as ".1f"."""
    return "; ".join(f"{name} {value:{form}}" for name, value in sorted(values.items(), key=lambda item: -item[1]))


# ---- pictures ------------------------------------------------------------------------------------------------------------------


def draw_query(images: Images, targets: Tensor, said: Tensor, query: Tensor, title: str) -> Figure:
    """The first `SHOWN` images of a query i64 [n] in order of choice; below each what the net gave to every class.

    Args:
        targets: i64 [N]. said: log-probabilities [N,C].
    """
    some, classes = query[:SHOWN], said.shape[1]
    figure = _figure(12.6, 3.9)
    axes = figure.subplots(2, SHOWN, squeeze=False, height_ratios=(1, 1.25))
    for column, image in enumerate(some.tolist()):
        share = said[image].exp()
        _picture(axes[0, column], images, image)
        axes[0, column].set_title(f"true {int(targets[image])}", fontsize=10)
        colours = [RIGHT if label == int(targets[image]) else "0.65" for label in range(classes)]
        axes[1, column].barh(range(classes), share.tolist(), color=colours)
        axes[1, column].set(xlim=(0, 1), xticks=(0, 1), ylim=(classes - 0.5, -0.5), yticks=range(classes) if not column else ())
    for axis in axes[:, len(some) :].flatten():
        axis.set_axis_off()
    axes[1, 0].set_ylabel("class (blue: the true one)", fontsize=9)
    figure.supxlabel("probability that the net gives", fontsize=10)
    figure.suptitle(title, fontsize=12)
    return figure


def draw_queries(images: Images, targets: Tensor, said: Tensor, queries: Mapping[str, Tensor], title: str) -> Figure:
    """The first `SHOWN` images of each query i64 [n], a row a query; those that the net gets wrong have a vermilion frame and say so.

    Args:
        targets: i64 [N]. said: log-probabilities [N,C].
    """
    first = said.argmax(dim=1)
    figure = _figure(12.6, 0.6 + 1.45 * len(queries))
    for (name, query), axes in zip(queries.items(), figure.subplots(len(queries), SHOWN, squeeze=False), strict=True):
        for place, axis in enumerate(axes):
            if place >= len(query):
                axis.set_axis_off()
                continue
            image = int(query[place])
            true, told = int(targets[image]), int(first[image])
            _picture(axis, images, image, None if true == told else WRONG)
            axis.set_title(f"{true}" if true == told else f"{true}, not {told}", fontsize=10)
        axes[0].set_ylabel(name.replace("_", "\n"), fontsize=10)
    figure.suptitle(title, fontsize=12)
    return figure


def draw_asked(layout: Tensor, targets: Tensor, queries: Mapping[str, tuple[Tensor, Tensor]], classes: Sequence[str], title: str) -> Figure:
    """Where queries lie among all images, a panel each: large points are asked for, crosses had been, small points are all images.

    Args:
        layout: positions [N,2]. targets: i64 [N].
        queries: by name, the images asked for before and those asked for now, i64 [m] and [n].
        classes: their names, at most ten.
    Raises:
        ValueError: more than ten classes, for which there are no colours.
    """
    if len(classes) > len(CLASS_COLOURS):
        raise ValueError(f"{len(classes)} classes, but colours for {len(CLASS_COLOURS)}: show fewer")
    figure = _figure(8.6, 6.0) if len(queries) == 1 else _figure(1.6 + 3.7 * len(queries), 4.6)
    (x, y), colours = layout.detach().cpu().T.numpy(), [class_colour(label) for label in targets.tolist()]
    for axis, (name, (before, asked)) in zip(figure.subplots(1, len(queries), squeeze=False)[0], queries.items(), strict=True):
        edges = [class_edge(label) for label in targets[asked].tolist()]
        axis.scatter(x, y, s=9, c=colours, alpha=0.35, linewidths=0)
        axis.scatter(x[before], y[before], s=26, c="black", marker="x", linewidths=1.2)
        axis.scatter(x[asked], y[asked], s=80, c=[colours[i] for i in asked.tolist()], edgecolors=edges, linewidths=1.4)
        axis.set(title=name, xticks=[], yticks=[], xlabel="layout, first axis", ylabel="layout, second axis")
    marks: dict[str, dict[str, Any]] = {
        "asked for now": {"color": "black", "markersize": 9, "markerfacecolor": "white"},
        "labelled before": {"color": "black", "marker": "x"},
    }
    draw_legend(figure, marks, classes)
    figure.suptitle(title, fontsize=12)
    return figure


def draw_starts(frame: DataFrame, labels: Sequence[int]) -> Figure:
    """Accuracy with so many labels, a panel each: of each of `STARTS` a dot for each seed, and the mean with its 95 % interval.

    The axis is the same for all numbers of labels, so that figures compare.

    Raises:
        ValueError: no run had so many labels.
    """
    missing = sorted(set(labels) - set(frame["n_labelled"]))
    if missing:
        there = ", ".join(map(str, sorted(frame["n_labelled"].unique())))
        raise ValueError(f"no run has a cycle with {missing[0]} labels: there are {there}")
    figure = _figure(9.6 if len(labels) == 1 else 2.6 + 2.6 * len(labels), 4.4)
    axes = figure.subplots(1, len(labels), sharex=True, sharey=True, squeeze=False)[0]
    for axis, n in zip(axes, labels, strict=True):
        for y, name in enumerate(STARTS):  # `palette.looks` would give one of them yellow, which a projector loses on white
            values = frame[(frame["n_labelled"] == n) & (frame["strategy"] == name)]["accuracy"]
            _strip(axis, y, values, {"color": palette.COLOURS[y], "marker": palette.MARKERS[y]})
        axis.set_title(f"{n} labels", fontsize=11)
        axis.set_xlabel("test accuracy")
        axis.grid(alpha=0.3, axis="x")
    least, most = frame["accuracy"].min(), frame["accuracy"].max()
    axes[0].set(xlim=(max(0.0, least - 0.05), min(1.0, most + 0.05)), ylim=(len(STARTS) - 0.5, -0.6))
    axes[0].set_yticks(range(len(STARTS)), [name.replace(", ", ",\n").replace(" the ", "\nthe ") for name in STARTS])
    told = f"small: each of {stats.seeds(frame)} seeds; large: their mean, with its 95 % interval"
    figure.suptitle(f"How the first labels were chosen, then who chose the rest ({told})", fontsize=12 if len(labels) > 2 else 10)
    return figure


def _strip(axis: Axes, y: int, values: Series, look: Mapping[str, Any]) -> None:
    mean, (low, high) = values.mean(), stats.interval(values)
    axis.scatter(values, [y - 0.2] * len(values), s=22, alpha=0.7, linewidths=0, **look)
    axis.errorbar(mean, y + 0.12, xerr=[[mean - low], [high - mean]], capsize=4, markersize=7, **look)


def draw_neighbours(images: Images, targets: Tensor, near: Mapping[str, Tensor], image: int) -> Figure:
    """An image and its nearest others in several spaces, a row a space: a blue frame and a tick where the class is its own.

    Args:
        targets: i64 [N]. near: by space, as `neighbours` gives, [N,k]; of up to `SHOWN`.
    """
    figure = _figure(12.6, 0.6 + 1.42 * len(near))
    own = int(targets[image])
    for (name, found), axes in zip(near.items(), figure.subplots(len(near), SHOWN + 1, squeeze=False), strict=True):
        _picture(axes[0], images, image, "black")
        axes[0].set_title(f"image of a {own}", fontsize=10)
        axes[0].set_ylabel(name.replace(" ", "\n"), fontsize=10)
        for axis in axes[1 + found.shape[1] :]:
            axis.set_axis_off()
        for axis, other in zip(axes[1:], found[image, :SHOWN].tolist(), strict=False):
            same = int(targets[other]) == own
            _picture(axis, images, other, RIGHT if same else WRONG)
            axis.set_title(f"{int(targets[other])} {'✓' if same else '✗'}", fontsize=10, color=RIGHT if same else WRONG)
    figure.suptitle(f"Image {image}, a {own}, and the images nearest to it in each space, the nearest first", fontsize=12)
    return figure


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _picture(axis: Axes, images: Images, image: int, frame: str | None = None) -> None:
    axis.imshow(images.batch(torch.tensor([image]))[0].permute(1, 2, 0).cpu().numpy())
    axis.set(xticks=[], yticks=[])
    for spine in axis.spines.values():
        spine.set(visible=frame is not None, color=frame or "black", linewidth=3)


# ---- in JupyterLab -------------------------------------------------------------------------------------------------------------


def as_html(figure: Figure, dpi: int = 100) -> str:
    """The figure as an HTML image, a PNG within; its title is the text for those who do not see it."""
    return exploration.as_img(exploration.as_png(figure, dpi), figure.get_suptitle())


def controls(draw: Callable[..., Figure], **choices: Iterable[Any]) -> ipywidgets.VBox:
    """A menu or a slider for each of `choices`, and below them what `draw` makes of what is chosen; drawn anew at each change.

    No pyplot is used, and nothing is kept between two drawings, so that it does no harm if they overlap.

    Args:
        draw: called with one value of each choice, by name.
        choices: a range becomes a slider, anything else a menu.
    Raises:
        ValueError: nothing to choose from.
    """
    import ipywidgets

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
    import ipywidgets

    shown: dict[str, Any] = {"description": name, "tooltip": f"choose {name}; arrow keys change it", "style": {"description_width": "8em"}}
    if isinstance(values, range):
        slider = {"min": values.start, "max": values[-1], "step": values.step, "continuous_update": False}
        return ipywidgets.IntSlider(value=values.start, **slider, layout={"width": "40em"}, **shown)
    return ipywidgets.Dropdown(options=list(values), **shown)
