"""What the lesson computes, against loops; its starts by the contract of strategies; its pictures and its controls."""

import functools
import math
import re
from pathlib import Path
from typing import Any

import nbformat
import pandas
import pytest
import torch
from conftest import images_of

import alnb
from alnb import papers
from alnb.acquire import STRATEGIES
from alnb.data import ImageSet
from alnb.notebook.cells import BATCH
from alnb.notebook.execute import execute
from alnb.papers import lesson as teaching
from alnb.papers import quickstart
from alnb.report import records, stats
from alnb.report.verdicts import missing
from alnb.widgets.static import as_png

LESSON = Path(__file__).parents[2] / "notebooks/teach.ipynb"


def naive_neighbours(features: torch.Tensor, i: int, k: int) -> list[int]:
    return sorted((j for j in range(len(features)) if j != i), key=lambda j: (math.dist(features[i].tolist(), features[j].tolist()), j))[:k]


def setting_of(train: ImageSet, test: ImageSet) -> quickstart.Setting:
    recipe = alnb.Recipe(epochs=1, batch=8, lr=0.05)
    net = functools.partial(alnb.nets.small, width=4)
    return quickstart.Setting(
        dataset="bars", scale="smoke", cycles=2, net=net, train=train, test=test, initial=6, budget=3, recipe=recipe, pretraining=recipe,
        head=recipe,
    )  # fmt: skip


def frame_of(accuracies: dict[tuple[str, str, int], list[float]]) -> pandas.DataFrame:
    """By arm, strategy and cycle the accuracy of each seed; ten labels a cycle."""
    rows = [
        {"arm": arm, "strategy": name, "cycle": k, "n_labelled": 10 * (k + 1), "seed": seed, "accuracy": value}
        for (arm, name, k), values in accuracies.items()
        for seed, value in enumerate(values)
    ]
    return pandas.DataFrame(rows)


# ---- ways to start ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", teaching.STARTS)
def test_starts_keep_the_contract(name: str, train: ImageSet, learner: alnb.Learner) -> None:
    first, later = teaching.starts(train.targets, learner, 3)[name]
    pool = alnb.Pool.of(train.images).acquire(torch.arange(5), train.targets[:5], 0)

    def asked(seed: int) -> list[int]:
        found: list[int] = first(alnb.Query(pool, None, pool.unlabelled, 6, alnb.Stream(seed))).tolist()
        return found

    assert len(set(asked(0))) == 6 and set(asked(0)) <= set(pool.unlabelled.tolist())
    assert asked(0) == asked(0) and len({tuple(asked(seed)) for seed in range(5)}) > 1
    assert later is STRATEGIES["random" if name.endswith("random") else "entropy"]
    assert not name.startswith("class-even") or torch.bincount(train.targets[asked(0)]).tolist() == [2, 2, 2]


def test_cold_starts_go_through_the_loop(tmp_path: Path) -> None:
    """And are found again; each start of a seed has a folder of its own."""
    setting = setting_of(images_of(60), images_of(30, seed=1))
    start, jobs = quickstart.start(setting, "scratch", runs=tmp_path), teaching.cold_jobs(setting, [0])
    finished = papers.run(jobs, lambda job: teaching.cold(setting, start, job), tmp_path)
    assert [tags["strategy"] for _, tags in finished] == list(teaching.STARTS) and not papers.find(jobs, tmp_path)[1]
    assert all([record["n_labelled"] for record in run.records()] == [3, 6] for run, _ in finished)
    asked = teaching.asked(finished)
    assert list(asked) == list(teaching.STARTS) and all(run[k].shape == (3,) for (run,) in asked.values() for k in (0, 1))
    assert asked["random, then random"][0][0].tolist() == asked["random, then entropy"][0][0].tolist()
    lines = teaching.about_starts(records.frame(finished), asked, setting.train.targets)
    classes = {name: len(set(setting.train.targets[run[0]].tolist())) for name, (run,) in asked.items()}
    assert len(lines) == 6 and "class-even, then entropy 3.0" in lines[0] and all(f"{k} {n:.1f}" in lines[0] for k, n in classes.items())
    assert all("is not decided" in line for line in lines[1:])
    assert teaching.draw_starts(records.frame(finished), [3, 6]).axes[1].get_title() == "6 labels"


# ---- what lies near what ---------------------------------------------------------------------------------------------------------


def test_neighbours_are_those_of_the_report_room() -> None:
    """`tests/report/test_queries.py` compares them with loops."""
    generator = torch.Generator().manual_seed(0)
    features, targets = torch.randn(25, 3, generator=generator), torch.randint(3, (25,), generator=generator)
    near = teaching.neighbours(features, 4)
    assert near.tolist() == [naive_neighbours(features, i, 4) for i in range(25)]
    expected = [sum(int(targets[j] == targets[i]) for j in near[i].tolist()) / 4 for i in range(25)]
    assert teaching.alike(near, targets).tolist() == pytest.approx(expected)
    with pytest.raises(ValueError, match="k is 25"):
        teaching.neighbours(features, 25)


def test_the_image_that_spaces_differ_about() -> None:
    shares = {"a": torch.tensor([0.5, 0.9, 0.1]), "b": torch.tensor([0.4, 0.2, 0.8]), "c": torch.tensor([0.5, 0.5, 0.5])}
    assert teaching.most_different(shares) == 1
    assert teaching.most_different({"a": torch.tensor([1.0, 1.0])}) == 0


def test_pixels(train: ImageSet) -> None:
    found = quickstart.pixels(train.images)
    assert found.shape == (60, 192) and torch.equal(found[3], train.images.batch(torch.tensor([3])).flatten().float() / 255)


def test_queries_are_counted() -> None:
    said = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.5, 0.4], [0.2, 0.2, 0.6]]).log()
    table = teaching.classes_asked(said, torch.tensor([0, 2, 2]), {"all": torch.arange(3), "last": torch.tensor([2])})
    assert table.loc["all"].tolist() == pytest.approx([2, 1 / 3, 0.6]) and table.loc["last"].tolist() == pytest.approx([1, 0, 0.6])
    assert teaching.about_queries(table, 3)[1] == "classes in the query, of 3: all 2; last 1"


def test_spread_against_loops() -> None:
    generator = torch.Generator().manual_seed(0)
    features, targets = torch.randn(30, 4, generator=generator), torch.randint(3, (30,), generator=generator)
    runs = [{0: torch.tensor([1, 2]), 1: torch.tensor([5])}, {0: torch.tensor([3, 9]), 1: torch.tensor([20])}]
    found = teaching.spread(features, targets, {"random": runs}, 1)

    def radius(some: list[int]) -> float:
        return max(min(math.dist(row, features[j].tolist()) for j in some) for row in features.tolist())

    def mixed(i: int) -> float:
        labels = [int(targets[j]) for j in naive_neighbours(features, i, teaching.NEAR)]
        return -sum(labels.count(c) / len(labels) * math.log(labels.count(c) / len(labels)) for c in set(labels))

    assert found["strategy"].tolist() == ["random"] * 2 and found["run"].tolist() == [0, 1]
    assert found["radius"].tolist() == pytest.approx([radius([1, 2, 5]), radius([3, 9, 20])])
    assert found["mixed"].tolist() == pytest.approx([mixed(5), mixed(20)])


# ---- sentences -------------------------------------------------------------------------------------------------------------------


def about_five_seeds(seeds: int = 5) -> list[str]:
    """Random is better than margin and worse than kcenter; coverage leaves less far away; where queries lie differs by chance."""
    luck = [0.004 * (k * 3 % 5) for k in range(seeds)]
    gains = {"random": 0.8, "margin": 0.7, "kcenter": 0.9}
    values = {("scratch", name, k): [gain + x + 0.001 * (x > 0.006) for x in luck] for name, gain in gains.items() for k in range(3)}
    places = {"random": (2.0, 0.2, 1), "margin": (1.5, 0.2, -1), "kcenter": (1.0, 0.8, 0)}
    rows = [
        {"strategy": name, "run": k, "radius": r + 10 * luck[k] * (name == "random"), "mixed": m + sign * (0.1 if k % 2 else -0.1)}
        for name, (r, m, sign) in places.items()
        for k in range(seeds)
    ]
    return teaching.about_coverage(frame_of(values), pandas.DataFrame(rows))


def test_sentences_say_what_was_measured_and_not_what_is_said() -> None:
    lines = about_five_seeds()
    assert lines[0].endswith("random 2.08; margin 1.50; kcenter 1.00") and "kcenter 0.80" in lines[1]
    low, high = stats.interval(pandas.Series([1 + 0.04 * (k * 3 % 5) for k in range(5)]))
    assert lines[2].endswith(f"than random choice” holds here: +1.08 (95 % interval {low:+.2f} to {high:+.2f}, n = 5).")
    assert "more than random choice” is not decided by these runs: " in lines[3] and "; detects " in lines[3]
    assert "more than coverage” is wrong here, it is the other way round: -0.58 (95 %" in lines[4]
    assert lines[5].startswith("“With 20 labels uncertainty beats random choice” is wrong here, it is the other way round: -10.0 points")
    assert lines[9].startswith("“With 30 labels coverage beats random choice” holds here: +10.0 points")
    assert len(lines) == 11 and not any("  " in line or "nan" in line for line in lines)


def test_a_lesson_of_few_seeds_decides_nothing() -> None:
    for seeds in (1, 4):
        lines = about_five_seeds(seeds)[2:]
        assert all("is not decided by these runs: " in line and "fewer than 5 replications." in line for line in lines)
    assert "n = 1, no interval" in about_five_seeds(1)[2]


def test_a_family_of_beliefs_is_corrected() -> None:
    """A difference that holds alone is not decided among many."""
    values = {("a", "random", 0): [0.5] * 5, ("a", "margin", 0): [0.51, 0.53, 0.52, 0.50, 0.54]}
    evidence = teaching.over(frame_of(values), {"strategy": "margin"}, {"strategy": "random"}, 0)
    assert "holds here: +2.0 points" in teaching.verdicts({"It helps": evidence})[0]
    many = teaching.verdicts({f"It helps {k}": evidence if not k else missing("nothing") for k in range(9)})
    assert "is not decided by these runs: +2.0 points" in many[0]


def test_pretraining_is_compared_in_the_first_and_in_the_last_cycle() -> None:
    gains = {"scratch": (0.5, 0.8), "warm": (0.6, 0.7)}
    both = [(arm, name, k) for arm in gains for name in ("random", "margin") for k in (0, 1)]
    values = {(arm, name, k): [gains[arm][k] + 0.01 * seed for seed in range(5)] for arm, name, k in both}
    lines = teaching.about_pretraining(frame_of(values), {"pixels": torch.tensor([1.0, 0.5]), "net": torch.tensor([1.0, 1.0])})
    assert lines[0].endswith("net 100.0; pixels 75.0")
    assert "first labels pre-training helps” holds here: +10.0 points" in lines[1]
    assert "last labels it still helps” is wrong here" in lines[2] and "-10.0 points" in lines[2]
    assert "scratch, over all cycles: +0.0 points" in lines[3] and "warm, over all cycles: +0.0 points" in lines[4]


# ---- pictures and controls -------------------------------------------------------------------------------------------------------


def pictured(train: ImageSet) -> dict[str, Any]:
    said = torch.randn(60, 3, generator=torch.Generator().manual_seed(0)).log_softmax(1)
    layout, few = torch.randn(60, 2, generator=torch.Generator().manual_seed(1)), torch.arange(4)
    near = teaching.neighbours(quickstart.pixels(train.images), 3)
    frame = frame_of({("a", name, k): [0.5, 0.6] for name in teaching.STARTS for k in (0, 1)})
    return {
        "query": teaching.draw_query(train.images, train.targets, said, few, "one"),
        "queries": teaching.draw_queries(train.images, train.targets, said, {"least_confidence": few, "all": torch.arange(20)}, "two"),
        "asked": teaching.draw_asked(layout, train.targets, {"a": (few, few + 9), "b": (few[:0], few)}, train.classes, "three"),
        "starts": teaching.draw_starts(frame, [10]),
        "neighbours": teaching.draw_neighbours(train.images, train.targets, {"pixels": near, "the same": near}, 7),
    }


@pytest.mark.slow
def test_pictures_tell_their_title_and_name_their_axes(train: ImageSet) -> None:
    figures = pictured(train)
    for figure in figures.values():
        assert as_png(figure, 40).startswith(b"\x89PNG") and figure.get_suptitle()
    assert all(axis.get_xlabel() and axis.get_ylabel() for axis in figures["asked"].axes)
    assert figures["starts"].axes[0].get_xlabel() == "test accuracy" and "each of 2 seeds" in figures["starts"].get_suptitle()
    wrong = [axis.get_title() for axis in figures["queries"].axes if "not" in axis.get_title()]
    assert wrong and all(text[0] != text[-1] for text in wrong)
    titles = [axis.get_title() for axis in figures["neighbours"].axes]
    assert titles.count(f"image of a {int(train.targets[7])}") == 2 and any("✓" in title for title in titles)


def test_controls_draw_anew_what_is_chosen() -> None:
    from matplotlib.figure import Figure

    drawn = []

    def draw(strategy: str, cycle: int) -> Figure:
        drawn.append((strategy, cycle))
        figure = Figure(figsize=(1, 1))
        figure.suptitle(f"{strategy} <{cycle}>")
        return figure

    menu, slider, picture = teaching.controls(draw, strategy=["random", "margin"], cycle=range(1, 7, 2)).children
    menu.value = "margin"
    slider.value = 5
    assert drawn == [("random", 1), ("margin", 1), ("margin", 5)] and slider.max == 5 and slider.description == "cycle" and menu.tooltip
    assert 'alt="margin &lt;5&gt;"' in picture.value


@pytest.mark.slow
def test_the_lesson_with_somebody_looking_at_it(tmp_path: Path) -> None:
    """Each part has controls, and beside them a figure for readers without a kernel; one seed is enough."""
    places = {"runs": str(tmp_path / "runs"), "figures": str(tmp_path / "figures")}
    values = {**places, "scale": "smoke", "seeds": [1], "start_seeds": [1], "device": "cpu"}
    out = execute(LESSON, values, tmp_path / "out.ipynb", environment={BATCH: ""})
    cells = nbformat.read(out, 4).cells
    shown = {cell["id"]: [kind for output in cell.get("outputs", []) for kind in output.get("data", {})] for cell in cells}
    parts = ("query", "cover", "cold", "ssl")
    assert all("application/vnd.jupyter.widget-view+json" in shown[f"{part}-control"] for part in parts)
    assert all("image/png" in shown[f"{part}-figure"] for part in parts)


def test_the_lesson_lasts_45_minutes() -> None:
    title = nbformat.read(LESSON, 4).cells[0].source
    assert sum(int(minutes) for minutes in re.findall(r"\| (\d+) \|$", title, re.MULTILINE)) == 45
