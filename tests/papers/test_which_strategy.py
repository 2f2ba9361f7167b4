"""Which strategy to take: the experiment, and what is concluded from its records."""

import csv
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy
import pandas
import pytest
import torch

import alnb
from alnb import store
from alnb.acquire import STRATEGIES
from alnb.notebook import parameters
from alnb.papers.which_strategy import choice
from alnb.papers.which_strategy import experiment as which
from alnb.widgets.labeller import rounds

PROJECT = Path(__file__).parents[2]
COLD = "kmeans"  # a strategy that can choose before there is a net


def runs(gain: Mapping[str, float], *, dataset: str = "digits", seeds: int = 10, noise: float = 0.01, draw: int = 0) -> pandas.DataFrame:
    """Cycles of two regimes: `gain` of each strategy over random from the second cycle on; "kmeans" has it in the first one, too."""
    rng, rows = numpy.random.default_rng(draw), []
    for regime, seed in ((regime, seed) for regime in (1, 5) for seed in range(seeds)):
        start = rng.normal(0.3, noise)
        for name in ("random", *gain):
            first = "strategy" if name in ("random", "kmeans") else "random"
            for cycle in range(5):
                own = name != "random" and (cycle > 0 or first == "strategy")
                accuracy = start + 0.05 * cycle + (gain[name] + rng.normal(0, noise) if own else 0)
                n = 10 * regime * (cycle + 1)
                rows.append((dataset, 10, 1000, "laptop", name, regime, first, seed, seed, cycle, n, accuracy))
    columns = ["dataset", "classes", "pool", "scale", "strategy", "regime", "first", "seed", "replication", "cycle", "n_labelled"]
    return pandas.DataFrame(rows, columns=[*columns, "accuracy"])


# --- the experiment ---


def test_who_can_choose_without_a_net_does(recwarn: pytest.WarningsRecorder) -> None:
    expected = {"random": "strategy", COLD: "strategy", "margin": "random", "entropy": "random", "svm_margin": "random"}
    assert {name: which.first(name) for name in expected} == expected and not recwarn.list
    for job in which.jobs(which.setting("digits", "smoke"), [COLD, "margin"], [1], [0]):
        assert which.starting(job) is STRATEGIES[COLD if job["strategy"] == COLD else "random"]


def test_jobs_are_of_every_strategy_that_suits_frozen_features() -> None:
    setting = which.setting("cifar10", "laptop")
    jobs = which.jobs(setting, [], [1, 5, 20, 7], [3, 4])
    assert {job["strategy"] for job in jobs} == set(STRATEGIES) - set(which.LEFT_OUT) - {"random_with_replacement"}
    assert which.LEFT_OUT.keys() <= STRATEGIES.keys() and {job["regime"] for job in jobs} == set(which.REGIMES)
    assert [job["replication"] for job in jobs] == sorted(job["replication"] for job in jobs)  # a backbone is used up before the next
    for wrong, message in ((["vaal"], "strategy.*'vaal'"), (["badger"], "strategy.*'badger'")):
        with pytest.raises(ValueError, match=message):
            which.jobs(setting, wrong, [1], [0])
    with pytest.raises(ValueError, match="regimes"):
        which.jobs(setting, [], [7], [0])
    for wrong, message in ((("mnist", "laptop"), "dataset.*'mnist'"), (("digits", "huge"), "scale.*'huge'")):
        with pytest.raises(ValueError, match=message):
            which.setting(*wrong)
    assert which.setting("caltech101", "overnight").regimes == (1, 5)


def test_features_are_centred_and_of_one_length() -> None:
    features = torch.randn(50, 16) + 3
    x = which.unit(which.featured(features), features.mean(dim=0)).features
    torch.testing.assert_close(x.norm(dim=1), torch.full((50,), 4.0))
    torch.testing.assert_close(x[0] / 4, (features[0] - features.mean(0)) / (features[0] - features.mean(0)).norm())


@pytest.mark.slow
def test_the_experiment_in_the_notebook_is_that_of_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Any, Callable[[Any], alnb.Experiment]]] = []
    monkeypatch.setattr("alnb.papers.jobs.run", lambda jobs, experiment, runs: asked.append((jobs, experiment)) or [])
    values = {"scale": "smoke", "runs": str(tmp_path), "figures": str(tmp_path), "seeds": [1], "device": "cpu"}
    names: dict[str, Any] = {}
    for source in parameters.code_cells(PROJECT / "notebooks/which_strategy.ipynb"):
        if "report" not in source.tags:
            exec(compile(source.text, f"cell {source.number}", "exec"), names)
        names.update(values if "parameters" in source.tags else {})
    ((jobs, experiment),) = asked
    assert len(jobs) == sum(regime <= which.LARGEST.get(name, regime) for regime in (1, 5) for name in which.strategies())
    for job in jobs:
        assert experiment(job).manifest == which.experiment(names["data"], job).manifest, job


# --- the conclusions ---


def test_ranks_and_regrets_are_those_of_a_naive_count() -> None:
    frame = runs({"kmeans": 0.05, "margin": -0.02}, seeds=4, noise=0.05)
    table = choice.standings(frame)
    assert len(table) == 2 * 5 * 3
    for row in table.itertuples():
        part = frame[(frame["regime"] == row.regime) & (frame["n_labelled"] == 10 * row.labels)]
        cells = {seed: rows.set_index("strategy")["accuracy"].to_dict() for seed, rows in part.groupby("seed")}
        ranks, regrets = [], []
        for seed, accuracy in cells.items():
            others = [values for other, values in cells.items() if other != seed]
            best = max(accuracy, key=lambda name: numpy.mean([values[name] for values in others]))
            above, equal = (sum(value > accuracy[row.strategy] for value in accuracy.values()), list(accuracy.values()))
            ranks.append(above + (equal.count(accuracy[row.strategy]) + 1) / 2)
            regrets.append(accuracy[best] - accuracy[row.strategy])
        assert row.rank == pytest.approx(numpy.mean(ranks)) and row.regret == pytest.approx(numpy.mean(regrets)), row


def test_an_effect_is_named_and_what_is_not_decided_is_not_claimed() -> None:
    table = choice.gains(runs({"kmeans": 0.05, "kcenter": 0.02, "margin": -0.05, "entropy": 0.0}))
    first = table[table["round"] == "first"]
    assert set(first["strategy"]) == {"kmeans"} and set(first["labels"]) == {1.0, 5.0}  # the others start at random
    later = table[(table["round"] == "later") & (table["regime"] == 5)].set_index("strategy")
    assert (later["labels"].iloc[0], later["up_to"].iloc[0]) == (10.0, 25.0)
    assert later["verdict"].to_dict() == {
        "kmeans": "beats random", "kcenter": "beats random", "margin": "worse than random", "entropy": "undecided",
    }  # fmt: skip
    text = choice.answers(table)[1]
    assert text.startswith("With 2 to 5 labels a class on digits (n = 10, scale laptop) take kmeans: kmeans +") and "as do kcenter" in text
    assert "not tested" in text and text.endswith("Worse than random: margin.") and "entropy" not in text
    few = choice.gains(runs({"kmeans": 0.05}, seeds=4))
    assert set(few["verdict"]) == {"undecided"} and all("decide nothing" in text for text in choice.answers(few))


def test_without_an_effect_at_most_one_family_in_twenty_names_a_strategy() -> None:
    names = ("kmeans", "kcenter", "margin")
    tables = [choice.gains(runs(dict.fromkeys(names, 0.0), seeds=6, draw=draw)) for draw in range(100)]
    wrong = sum(any(table["verdict"] != "undecided") for table in tables)
    assert wrong <= 10  # 100 draws at 5 %: more than 10 have a chance of 1 %
    calm = next(table for table in tables if set(table["verdict"]) == {"undecided"})
    assert all("no strategy beats random" in text for text in choice.answers(calm))


def test_a_default_beats_random_on_most_data_sets() -> None:
    everywhere = [{"kmeans": 0.05, "margin": gain} for gain in (0.2, -0.2, 0.0)]
    sets = zip(("digits", "fashion_mnist", "cifar10"), everywhere, strict=True)
    frame = pandas.concat([runs(gain, dataset=name, draw=k) for k, (name, gain) in enumerate(sets)])
    rows = choice.defaults(frame)
    assert [(row["round"], row["up_to"], row["strategy"]) for row in rows] == [
        ("first", 1, "kmeans"), ("first", 5, "kmeans"), ("later", 5, "kmeans"), ("later", 25, "kmeans"),
    ]  # fmt: skip
    assert "cifar10, digits, fashion_mnist" in rows[0]["reason"] and rows[0]["classes"] == "10"
    nothing = choice.defaults(runs({"kmeans": 0.0, "margin": -0.2}))
    assert {row["strategy"] for row in nothing} == {"random"} and "no strategy beats random" in nothing[0]["reason"]


def test_the_labeller_has_what_the_committed_results_say() -> None:
    results = store.read_json(PROJECT / "figures/results.json").get("which_strategy", {})
    with (PROJECT / "alnb/widgets/labeller/defaults.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows == list(rounds.defaults())
    if not results:
        assert all(row["reason"].startswith("not measured yet") and not row["classes"] for row in rows)
    for measured in results.values():
        assert rows == [{name: str(value) for name, value in row.items()} for row in measured["tables"]["defaults"]]


def test_kcenter_finds_each_cluster_of_the_toy() -> None:
    """Those of k-means do not: two centres in the largest cluster save more than one in the smallest."""
    figure = choice.draw_toy(["kcenter", "margin"])
    shown = [axis for axis in figure.axes if axis.get_title()]
    assert shown[0].get_title() == "kcenter: 5 of 5 clusters" and len(shown) == 2
    assert [text.get_text() for text in shown[1].texts] == ["1", "2", "3", "4", "5"]
    assert [len(line.get_xdata()) for axis in shown for line in axis.lines] == [0, 5]  # who needs a net knows a label of each cluster
