"""The lesson of `notebooks/teach.ipynb`: ways to start, what lies near what, sentences that say what was measured, and pictures.

These functions see the targets, i64 [N]. They are for looking back: no strategy may use them.
"""

import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import ipywidgets
import seaborn
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
from alnb.report.palette import class_colour, class_edge, draw_legend
from alnb.report.queries import coverage_radius, knn_label_entropy
from alnb.report.verdicts import FAILS, HOLDS, OPEN, Evidence, above, decide
from alnb.widgets.static import as_img, as_png

RIGHT, WRONG = palette.COLOURS[0], palette.COLOURS[1]  # blue and vermilion; a sign says the same
SHOWN = 10  # images of a query that a picture shows
NEAR = 10  # neighbours whose classes are looked at
STARTS = (
    "random, then random", "random, then entropy", "typical, then entropy", "class-even, then entropy", "entropy from the first query on",
)  # fmt: skip
COLD_CYCLES = {Scale.SMOKE: 2, Scale.LAPTOP: 4, Scale.PAPER: 4}  # points on each curve of a start
WORDS = {HOLDS: "holds here", FAILS: "is wrong here, it is the other way round", OPEN: "is not decided by these runs"}
Queries = Mapping[str, Sequence[Mapping[int, Tensor]]]
"""By strategy, the queries i64 [n] of each of its runs, by cycle."""
Picture = tuple[int, str, str | None]
"""An image, its caption, and the colour of its frame."""


def starts(targets: Tensor, learner: Learner, classes: int) -> dict[str, tuple[Strategy, Strategy]]:
    """Ways to spend the first labels: by name, of `STARTS`, the strategy of cycle 0, and that of all later ones.

    The class-even start looks at the targets, as published protocols do; the last start asks an untrained net of `learner`.
    """
    random, entropy = STRATEGIES["random"], STRATEGIES["entropy"]
    even, blind = oracle.class_uniform(targets, classes), Untrained(learner, classes, entropy)
    first: tuple[Strategy, ...] = (random, random, STRATEGIES["kmeans"], even, blind)
    return {name: (start, random if name == STARTS[0] else entropy) for name, start in zip(STARTS, first, strict=True)}


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


def neighbours(features: Tensor, k: int = NEAR) -> Tensor:
    """The `k` nearest others, i64 [N,k], nearest first, of each of `features` [N,D], by Euclidean distance."""
    return queries.neighbours(features.double(), torch.arange(len(features)), k)


def alike(near: Tensor, targets: Tensor) -> Tensor:
    """For each image the share, f64 [N] in [0, 1], of its neighbours `near` i64 [N,k] that have its class."""
    return (targets[near] == targets[:, None]).double().mean(dim=1)


def most_different(shares: Mapping[str, Tensor]) -> int:
    """The image about which spaces differ most, the first of such. shares: [N] by space, as `alike` gives."""
    both = torch.stack(list(shares.values()))
    return int((both.amax(dim=0) - both.amin(dim=0)).argmax())


def classes_asked(log_probs: Tensor, targets: Tensor, queries: Mapping[str, Tensor]) -> DataFrame:
    """What queries i64 [n] are like, a row each. log_probs: [N,C], of the net that was asked.

    Columns: `classes` in it; `wrong`, the share that the net would have got wrong; `probability`, the mean that it gave to its first class.
    """
    top, first = log_probs.exp().max(dim=1)
    wrong = (first != targets).double()
    rows = {name: (len(targets[query].unique()), float(wrong[query].mean()), float(top[query].mean())) for name, query in queries.items()}
    return DataFrame.from_dict(rows, orient="index", columns=["classes", "wrong", "probability"])


def asked(runs: Iterable[TaggedRun]) -> dict[str, list[dict[int, Tensor]]]:
    """The `Queries` of runs."""
    every: dict[str, list[dict[int, Tensor]]] = {}
    for run, tags in runs:
        every.setdefault(tags["strategy"], []).append({record["cycle"]: torch.tensor(record["queried"]) for record in run.records()})
    return every


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


def about_queries(table: DataFrame, classes: int) -> list[str]:
    """What a table of `classes_asked` says, for a data set with so many classes."""
    return [
        f"the net was wrong, in percent of the query: {ordered(100 * table['wrong'], '.0f')}",
        f"classes in the query, of {classes}: {ordered(table['classes'], '.0f')}",
        f"what the net gave to its first choice, in percent, mean over the query: {ordered(100 * table['probability'], '.0f')}",
    ]


def about_coverage(frame: DataFrame, where: DataFrame) -> list[str]:
    """What the runs of random, margin and kcenter, of one arm, and a table of `spread` say of both ideas, in cycle 1 and at the end."""
    pairs = {
        "uncertainty beats random choice": ("margin", "random"),
        "coverage beats random choice": ("kcenter", "random"),
        "uncertainty beats coverage": ("margin", "kcenter"),
    }
    places = {
        "Coverage leaves less far away than random choice": ("radius", "random", "kcenter"),
        "Uncertainty asks where classes meet, more than random choice": ("mixed", "margin", "random"),
        "Uncertainty asks where classes meet, more than coverage": ("mixed", "margin", "kcenter"),
    }
    table = where.pivot(index="run", columns="strategy", values=["radius", "mixed"])
    lines = [
        f"distance of the farthest image from any label, in pixel values: {ordered(table['radius'].mean(), '.2f')}",
        f"how mixed the classes are around the query, in pixels (0: one class; 0.69: two alike): {ordered(table['mixed'].mean(), '.2f')}",
    ]
    beliefs = {
        folklore: above("", table[column][more] - table[column][less], factor=1, unit="")
        for folklore, (column, more, less) in places.items()
    }
    for cycle in (1, int(frame["cycle"].max())):
        labels = f"With {int(frame[frame['cycle'] == cycle]['n_labelled'].max())} labels"
        for folklore, (more, less) in pairs.items():
            beliefs[f"{labels} {folklore}"] = over(frame, {"strategy": more}, {"strategy": less}, cycle)
    return [*lines, *verdicts(beliefs)]


def about_starts(frame: DataFrame, asked: Queries, targets: Tensor) -> list[str]:
    """What the runs of all `STARTS` and their queries say of the first labels, and of the ones that follow."""
    random, unsure, typical, even, blind = ({"strategy": name} for name in STARTS)
    variety = {name: sum(len(targets[run[0]].unique()) for run in runs) / len(runs) for name, runs in asked.items()}
    return [
        f"classes in the first query, mean over seeds: {ordered(variety, '.1f')}",
        *verdicts(
            {
                "An untrained net asks for worse first labels than chance": over(frame, unsure, blind, 0),
                "Typical first labels beat random ones": over(frame, typical, unsure, 0),
                "Class-even first labels beat random ones": over(frame, even, unsure, 0),
                "After a random start, going on at random beats entropy at first": over(frame, random, unsure, 1),
                "A blind start is still behind in the last cycle": over(frame, unsure, blind, int(frame["cycle"].max())),
            }
        ),
    ]


def about_pretraining(frame: DataFrame, shares: Mapping[str, Tensor]) -> list[str]:
    """What the runs of random and margin in the arms "scratch" and "warm" say of self-supervision. shares: [N] by space, from `alike`."""
    warm, scratch = ({"arm": arm, "strategy": "random"} for arm in ("warm", "scratch"))
    leads = {side["arm"]: over(frame, {**side, "strategy": "margin"}, side) for side in (scratch, warm)}
    return [
        f"neighbours of the same class, in percent: {ordered({name: 100 * float(share.mean()) for name, share in shares.items()}, '.1f')}",
        *verdicts(
            {
                "With the first labels pre-training helps": over(frame, warm, scratch, 0),
                "With the last labels it still helps": over(frame, warm, scratch, int(frame["cycle"].max())),
            }
        ),
        *(f"what margin gains over random choice, {arm}, over all cycles:{lead.text}" for arm, lead in leads.items()),
        tables.finding(frame),
    ]


def verdicts(beliefs: Mapping[str, Evidence]) -> list[str]:
    """What is often said, and whether the runs say so too: one family of tests that a difference is above 0."""
    decisions = zip(beliefs, decide(list(beliefs.values())), strict=True)
    return [f"“{folklore}” {WORDS[decision.verdict]}:{decision.text}." for folklore, decision in decisions]


def over(frame: DataFrame, first: Mapping[str, Any], second: Mapping[str, Any], cycle: int | None = None) -> Evidence:
    """Whether the runs that match `first` are more accurate than those of `second`, paired by seed; in one cycle, or over all (None)."""
    rows = frame if cycle is None else frame[frame["cycle"] == cycle]
    return above("", stats.paired_values(rows, first, second, on=("n_labelled",)))


def ordered(values: Mapping[str, float] | Series, form: str) -> str:
    """Names and values, the largest first, as "a 3.1; b 2.0"; `form` is a format such as ".1f"."""
    return "; ".join(f"{name} {value:{form}}" for name, value in sorted(values.items(), key=lambda item: -item[1]))


def draw_query(images: Images, targets: Tensor, log_probs: Tensor, query: Tensor, title: str) -> Figure:
    """The first `SHOWN` images of a query i64 [n] in order of choice; below each what the net gave to every class, log_probs [N,C]."""
    classes, figure = log_probs.shape[1], Figure(figsize=(12.6, 3.9), layout="constrained")
    pictures, bars = figure.subplots(2, SHOWN, squeeze=False, height_ratios=(1, 1.25))
    _draw_row(pictures, images, [(image, f"true {int(targets[image])}", None) for image in query.tolist()])
    for axis, image in zip(bars, query.tolist(), strict=False):
        colours = [RIGHT if label == int(targets[image]) else "0.65" for label in range(classes)]
        axis.barh(range(classes), log_probs[image].exp().tolist(), color=colours)
        axis.set(xlim=(0, 1), xticks=(0, 1), ylim=(classes - 0.5, -0.5), yticks=range(classes) if axis is bars[0] else ())
    for axis in bars[len(query) :]:
        axis.set_axis_off()
    bars[0].set_ylabel("class (blue: the true one)", fontsize=9)
    figure.supxlabel("probability that the net gives", fontsize=10)
    figure.suptitle(title, fontsize=12)
    return figure


def draw_queries(images: Images, targets: Tensor, log_probs: Tensor, queries: Mapping[str, Tensor], title: str) -> Figure:
    """The first `SHOWN` images of each query i64 [n], a row a query; those that the net gets wrong have a vermilion frame and say so."""

    def shown(image: int) -> Picture:
        true, first = int(targets[image]), int(log_probs[image].argmax())
        return (image, f"{true}", None) if true == first else (image, f"{true}, not {first}", WRONG)

    return _draw_rows(
        images, {name.replace("_", "\n"): [shown(image) for image in query.tolist()] for name, query in queries.items()}, title
    )


def draw_neighbours(images: Images, targets: Tensor, near: Mapping[str, Tensor], image: int) -> Figure:
    """An image and its nearest others by space, `near` [N,k], a row a space: a blue frame and a tick if the class is the same."""
    label = int(targets[image])

    def shown(other: int) -> Picture:
        return (other, f"{label} ✓", RIGHT) if int(targets[other]) == label else (other, f"{int(targets[other])} ✗", WRONG)

    first = (image, f"image of a {label}", "black")
    rows = {name.replace(" ", "\n"): [first, *map(shown, nearest[image].tolist())] for name, nearest in near.items()}
    return _draw_rows(images, rows, f"Image {image}, a {label}, and the images nearest to it in each space, the nearest first", SHOWN + 1)


def _draw_rows(images: Images, rows: Mapping[str, Sequence[Picture]], title: str, columns: int = SHOWN) -> Figure:
    figure = Figure(figsize=(12.6, 0.6 + 1.45 * len(rows)), layout="constrained")
    for (name, pictures), axes in zip(rows.items(), figure.subplots(len(rows), columns, squeeze=False), strict=True):
        _draw_row(axes, images, pictures)
        axes[0].set_ylabel(name, fontsize=10)
    figure.suptitle(title, fontsize=12)
    return figure


def _draw_row(axes: Sequence[Axes], images: Images, pictures: Sequence[Picture]) -> None:
    for axis in axes[len(pictures) :]:
        axis.set_axis_off()
    for axis, (image, caption, frame) in zip(axes, pictures, strict=False):
        axis.imshow(images.batch(torch.tensor([image]))[0].permute(1, 2, 0).cpu().numpy())
        axis.set(xticks=[], yticks=[])
        axis.set_title(caption, fontsize=10, color=frame or "black")
        for spine in axis.spines.values():
            spine.set(visible=frame is not None, color=frame or "black", linewidth=3)


def draw_asked(layout: Tensor, targets: Tensor, queries: Mapping[str, tuple[Tensor, Tensor]], classes: Sequence[str], title: str) -> Figure:
    """Where queries lie in a layout [N,2], a panel each: large points are queried now, crosses were before, small points are all images.

    `queries`: by name, the images queried before and those queried now, i64 [m] and [n].
    """
    size = (8.6, 6.0) if len(queries) == 1 else (1.6 + 3.7 * len(queries), 4.6)
    figure, (x, y) = Figure(figsize=size, layout="constrained"), layout.detach().cpu().T.numpy()
    colours = [class_colour(label) for label in targets.tolist()]
    for axis, (name, (before, now)) in zip(figure.subplots(1, len(queries), squeeze=False)[0], queries.items(), strict=True):
        edges = [class_edge(label) for label in targets[now].tolist()]
        axis.scatter(x, y, s=9, c=colours, alpha=0.35, linewidths=0)
        axis.scatter(x[before], y[before], s=26, c="black", marker="x", linewidths=1.2)
        axis.scatter(x[now], y[now], s=80, c=[colours[i] for i in now.tolist()], edgecolors=edges, linewidths=1.4)
        axis.set(title=name, xticks=[], yticks=[], xlabel="layout, first axis", ylabel="layout, second axis")
    marks: Any = {"asked for now": {"color": "black", "markersize": 9, "markerfacecolor": "white"}}
    marks["labelled before"] = {"color": "black", "marker": "x"}
    draw_legend(figure, marks, classes)
    figure.suptitle(title, fontsize=12)
    return figure


def draw_starts(frame: DataFrame, labels: Sequence[int]) -> Figure:
    """Accuracy with these numbers of labels, a panel each: for each of `STARTS` a dot for each seed, the mean and its 95 % interval."""
    figure = Figure(figsize=(9.6 if len(labels) == 1 else 2.6 + 2.6 * len(labels), 4.4), layout="constrained")
    colours = dict(zip(STARTS, palette.COLOURS, strict=False))  # `palette.looks` would give one of them yellow, lost on a projector
    for axis, n in zip(figure.subplots(1, len(labels), sharex=True, sharey=True, squeeze=False)[0], labels, strict=True):
        rows = frame[frame["n_labelled"] == n].astype({"strategy": object})
        look = {"order": STARTS, "palette": colours, "errorbar": stats.interval, "capsize": 0.15, "linewidth": 1.5, "legend": False}
        seaborn.pointplot(rows, x="accuracy", y="strategy", hue="strategy", linestyle="none", ax=axis, **look)
        axis.scatter(rows["accuracy"], rows["strategy"].map(STARTS.index) - 0.25, s=18, c=rows["strategy"].map(colours), alpha=0.7)
        axis.set(title=f"{n} labels", xlabel="test accuracy", ylabel="")
        axis.grid(alpha=0.3, axis="x")
    low, high = frame["accuracy"].min(), frame["accuracy"].max()
    axis.set_xlim(max(0.0, low - 0.05), min(1.0, high + 0.05))
    axis.set_yticks(range(len(STARTS)), [name.replace(", ", ",\n").replace(" the ", "\nthe ") for name in STARTS])
    legend = f"small: each of {stats.seeds(frame)} seeds; large: their mean, with its 95 % interval"
    title = f"How the first labels were chosen, then who chose the rest ({legend})"
    figure.suptitle(textwrap.fill(title, int(11 * figure.get_figwidth())), fontsize=12)
    return figure


def controls(draw: Callable[..., Figure], **choices: Iterable[Any]) -> ipywidgets.VBox:
    """A slider for each range of `choices`, a menu for each other one, and below them what `draw` makes of the values, called by name."""
    handles: dict[str, Any] = {}
    for name, values in choices.items():
        shown: Any = {"description": name, "tooltip": f"choose {name}; arrow keys change it", "style": {"description_width": "8em"}}
        if isinstance(values, range):
            slider = {"min": values.start, "max": values[-1], "step": values.step, "continuous_update": False}
            handles[name] = ipywidgets.IntSlider(value=values.start, **slider, layout={"width": "40em"}, **shown)
        else:
            handles[name] = ipywidgets.Dropdown(options=list(values), **shown)
    picture = ipywidgets.HTML()

    def redraw(change: Any = None) -> None:
        figure = draw(**{name: handle.value for name, handle in handles.items()})
        picture.value = as_img(as_png(figure, 100), figure.get_suptitle())

    for handle in handles.values():
        handle.observe(redraw, names="value")
    redraw()
    return ipywidgets.VBox([*handles.values(), picture])
