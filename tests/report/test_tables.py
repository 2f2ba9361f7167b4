"""Comparisons of strategies over seeds and settings, against scipy and against loops that do it by hand."""

import math
from typing import Any

import numpy
import pandas
import pytest
from scipy import stats

from alnb.papers.published import published
from alnb.report import tables
from alnb.report.stats import holm, interval, labels_needed, replications

GAINS = {"random": 0.0, "margin": 0.05, "kcenter": 0.02}


def runs(seeds: int = 5, cycles: int = 3, drop: tuple[Any, ...] = (), **columns: Any) -> pandas.DataFrame:
    """As `records.load` lays it out; accuracies of a seed differ between strategies by their gain and a little noise."""
    rows = []
    for strategy, gain in GAINS.items():
        for seed in range(seeds):
            noise = numpy.random.default_rng([seed, len(strategy)]).normal(0, 0.004, cycles)
            for k in range(cycles):
                head = {"dataset": "bars", "arm": "a", "strategy": strategy, "seed": seed, **columns}
                measured = {
                    "cycle": k,
                    "n_labelled": 10 * (k + 1),
                    "accuracy": 0.5 + 0.1 * k + gain + noise[k] + 0.01 * seed,
                    "seconds": 2.0,
                }
                tail = {"protocol": "10 + 2 x 10 labels, fresh", "commit": "abc", "protocol.cycles": cycles, "protocol.seed": seed}
                where = "/".join(map(str, (*columns.values(), strategy, seed)))
                rows.append({**head, **measured, "peak_memory_mb": 1.0, **tail, "learner.recipe.lr": columns.get("lr", 0.1), "run": where})
    frame = pandas.DataFrame(rows).drop(columns=list(columns.keys() & {"lr"}))
    return frame[~frame["run"].isin(drop)]


def curves(by_name: dict[tuple[str, str], list[float]], seeds: int = 3) -> pandas.DataFrame:
    """Accuracy at 10, 20, 30, … labels by arm and strategy; seeds are spread around it."""
    rows = [
        (arm, strategy, seed, k, 10 * (k + 1), value + (seed - (seeds - 1) / 2) * 0.01)
        for (arm, strategy), curve in by_name.items()
        for seed in range(seeds)
        for k, value in enumerate(curve)
    ]
    return pandas.DataFrame(rows, columns=["arm", "strategy", "seed", "cycle", "n_labelled", "accuracy"])


FRAME = curves({("a", "random"): [0.5, 0.6, 0.7, 0.8], ("a", "margin"): [0.5, 0.7, 0.85, 0.95], ("a", "bad"): [0.5, 0.5, 0.6, 0.7]})


# ---- settings -------------------------------------------------------------------------------------------------------


def test_one_setting_is_called_by_its_data_set() -> None:
    frame = tables.settings(runs())
    assert set(frame["setting"]) == {"bars"} == set(frame["panels"]) and len(frame) == 3 * 5 * 3


def test_settings_say_what_differs_and_arms_share_a_figure() -> None:
    frame = tables.settings(pandas.concat([runs(arm="a"), runs(arm="b"), runs(arm="b", dataset="dots")]))
    assert set(frame["setting"]) == {"bars, a", "bars, b", "dots, b"} and set(frame["panels"]) == {"bars", "dots"}


def test_a_parameter_that_tells_apart_what_is_else_the_same_makes_settings() -> None:
    frame = tables.settings(pandas.concat([runs(lr=0.1), runs(lr=0.2)]))
    assert set(frame["setting"]) == {"bars, learner.recipe.lr 0.1", "bars, learner.recipe.lr 0.2"}


def test_different_experiments_with_different_seeds_are_not_pooled() -> None:
    later = runs(lr=0.2).assign(seed=lambda frame: frame["seed"] + 5)
    frame = tables.settings(pandas.concat([runs(lr=0.1), later]))
    assert set(frame["setting"]) == {"bars, learner.recipe.lr 0.1", "bars, learner.recipe.lr 0.2"}


def test_as_few_parameters_are_named_as_tell_apart() -> None:
    one, two = (runs(lr=lr).assign(**{"learner.net.source": f"code{lr}", "zeal": lr}) for lr in (0.1, 0.2))
    frame = tables.settings(pandas.concat([one, two]))
    assert set(frame["setting"]) == {"bars, learner.recipe.lr 0.1", "bars, learner.recipe.lr 0.2"}


def test_a_backbone_for_each_seed_is_no_other_setting() -> None:
    frame = runs().assign(**{"learner.backbone.fingerprint": lambda table: table["seed"].map("f{}".format)})
    assert set(tables.settings(frame)["setting"]) == {"bars"}
    two = pandas.concat([frame, frame.assign(**{"learner.backbone.fingerprint": "0123456789ab", "run": "b" + frame["run"]})])
    found = tables.settings(two)["setting"].unique()
    assert len(found) == 6 and "bars, learner.backbone.fingerprint 01234567" in found


def test_a_column_of_a_run_called_setting_tells_apart_as_others_do() -> None:
    frame = tables.settings(pandas.concat([runs(setting="0123456789ab"), runs(setting="ba9876543210")]))
    assert set(frame["setting"]) == {"bars, run.setting 01234567", "bars, run.setting ba987654"} and "run.setting" in frame


def test_variants_of_a_strategy_are_two_strategies() -> None:
    frame = runs().assign(**{"experiment.strategy.beta": math.nan})
    margin = frame[frame["strategy"] == "margin"]
    variants = [margin.assign(**{"experiment.strategy.beta": beta, "run": f"{beta}" + margin["run"]}) for beta in (1.0, 10.0)]
    found = tables.settings(pandas.concat([frame[frame["strategy"] != "margin"], *variants]))
    assert set(found["strategy"]) == {"random", "kcenter", "margin (beta 1)", "margin (beta 10)"} and set(found["setting"]) == {"bars"}


def test_a_strategy_with_several_pretexts_is_several_strategies_of_one_setting() -> None:
    plain = runs(pretext="").query("strategy != 'margin'")
    both = [runs(pretext=name).query("strategy == 'margin'") for name in ("rotation", "jigsaw")]
    table = tables.settings(pandas.concat([plain, *both]))
    assert {"random", "margin, rotation", "margin, jigsaw"} <= set(table["strategy"]) and set(table["setting"]) == {"bars"}
    assert "margin" in set(tables.settings(pandas.concat([plain, both[0]]))["strategy"])


def test_what_else_differs_between_strategies_is_told() -> None:
    frame = runs()
    assert tables.mixed(tables.settings(frame)).empty
    frame["learner.recipe.lr"] = frame["learner.recipe.lr"].where(frame["strategy"] != "margin", 0.05)
    table = tables.mixed(tables.settings(frame))
    assert table.to_numpy().tolist() == [["bars", "learner.recipe.lr", "0.1: kcenter, random; 0.05: margin"]]


def test_categorical_columns_of_the_loader_are_taken() -> None:
    frame = runs(seeds=2)
    typed = frame.astype({name: "category" for name in ("dataset", "arm", "strategy", "run", "protocol")})
    assert tables.settings(typed)["setting"].tolist() == tables.settings(frame)["setting"].tolist()


def test_unfinished_runs_are_left_out() -> None:
    frame = runs()
    cut = frame[~((frame["run"] == "margin/3") & (frame["cycle"] == 2))]
    kept = tables.settings(cut)
    assert "margin/3" not in set(kept["run"]) and kept["run"].nunique() == 14
    with pytest.raises(ValueError, match="none of the 15 runs"):
        tables.settings(frame[frame["cycle"] < 2])


def test_the_same_experiment_in_two_folders_is_named() -> None:
    frame = runs(seeds=2)
    copy = frame[frame["run"] == "margin/1"].assign(run="copy of margin/1")
    with pytest.raises(ValueError, match="margin/1 and copy of margin/1"):
        tables.settings(pandas.concat([frame, copy]))


# ---- labels saved ---------------------------------------------------------------------------------------------------------------


def test_savings_and_the_sentence_are_computed() -> None:
    found = tables.savings(FRAME).set_index("strategy")
    assert found.loc["margin", "labels"] == pytest.approx(80 / 3) and found.loc["margin", "saved"] == pytest.approx(1 / 3)
    assert found.loc["random", "saved"] == pytest.approx(0) and math.isnan(found.loc["bad", "saved"])
    sentence = tables.finding(FRAME)
    assert "margin needed 27 (33% fewer, 95 % interval 33% to 33%); not reached by bad." in sentence


def test_savings_have_an_interval_over_replications() -> None:
    """Each replication has two runs. Below, "sure" saves in each of them, "unsure" on average alone."""
    rng, rows = numpy.random.default_rng(0), []
    gains = {"random": [0.0] * 5, "sure": [0.1, 0.11, 0.1, 0.09, 0.1], "unsure": [0.3, -0.1, 0.2, -0.1, 0.1]}
    for strategy, of_replications in gains.items():
        for replication, gain in enumerate(of_replications):
            for run in range(2):
                noise = rng.normal(0, 0.002, 4)
                for k, labels in enumerate((10, 20, 30, 40)):
                    accuracy = 0.5 + 0.1 * k + (gain if k else 0) + noise[k]
                    rows.append(("a", strategy, replication, 1000 * replication + run, k, labels, accuracy))
    frame = pandas.DataFrame(rows, columns=["arm", "strategy", "replication", "seed", "cycle", "n_labelled", "accuracy"])
    table = tables.savings(frame).set_index("strategy")
    sure, unsure, random = (table.loc[name] for name in ("sure", "unsure", "random"))
    assert 0.2 < sure["saved_low"] < sure["saved"] < sure["saved_high"] < 0.3 and unsure["saved"] > 0 > unsure["saved_low"]
    assert (random["saved"], random["saved_low"]) == (pytest.approx(0, abs=1e-9), -math.inf)
    curves = replications(frame).pivot_table(index=["strategy", "seed"], columns="n_labelled", values="accuracy")
    needed = labels_needed(curves.loc["sure"], curves.loc["random"][40])
    assert (sure["labels"], sure["saved_low"], sure["saved_high"]) == (needed.mean, 1 - needed.high / 40, 1 - needed.low / 40)
    text = tables.finding(frame)
    assert f"({sure['saved']:.0%} fewer, 95 % interval {sure['saved_low']:.0%} to {sure['saved_high']:.0%})" in text.replace(
        "no saving", ""
    )
    assert tables.finding(frame[frame["strategy"] != "sure"]).count("95 % interval no saving to") == 1 and "(Means, n = 5; " in text
    alone = tables.savings(frame[frame["seed"] == 0]).set_index("strategy").loc["sure"]
    assert alone["saved"] > 0.2 and math.isnan(alone["saved_low"]) and "95 %" not in tables.finding(frame[frame["seed"] == 0])


def test_a_sentence_for_when_nothing_was_gained() -> None:
    frame = curves({("a", "random"): [0.5, 0.9], ("a", "margin"): [0.5, 0.8]}, seeds=1)
    assert "no other strategy reached that with fewer" in tables.finding(frame)


def test_arms_are_compared_at_the_first_labels() -> None:
    frame = curves({("a", "random"): [0.5, 0.9], ("b", "random"): [0.62, 0.9]})
    assert "With the first 10 labels b over a: +12.0 points (95 % interval +12.0 to +12.0, n = 3)." in tables.finding(frame)
    nested = pandas.concat([frame.assign(replication=frame["seed"], seed=1000 * frame["seed"] + run) for run in range(2)])
    assert tables.finding(nested) == tables.finding(frame)  # two runs of each replication


def test_without_the_reference_it_says_so() -> None:
    with pytest.raises(ValueError, match="no run of strategy 'random' in arm 'a'"):
        tables.savings(curves({("a", "margin"): [0.5, 0.6]}))


def test_labels_table() -> None:
    found = tables.labels_table(FRAME, [0.7, 0.9])
    assert found.loc[("a", "random"), "70.0%"] == pytest.approx(30) and math.isnan(found.loc[("a", "random"), "90.0%"])
    assert found.loc[("a", "margin"), "final accuracy"] == pytest.approx(0.95)


# ---- areas ----------------------------------------------------------------------------------------------------------------------


def test_areas_against_numpy() -> None:
    frame = tables.settings(runs())
    found = tables.areas(frame).set_index(["strategy", "seed"])["area"]
    for (strategy, seed), own in frame.groupby(["strategy", "seed"]):
        assert found[strategy, seed] == pytest.approx(numpy.trapezoid(own["accuracy"], own["n_labelled"]) / 20)
    table = tables.summary(tables.areas(frame))
    assert list(table["strategy"]) == ["margin", "kcenter", "random"] and set(table["seeds"]) == {5}
    low, high = interval(found["margin"])
    assert table.loc[0, ["area", "low", "high"]].tolist() == pytest.approx([found["margin"].mean(), low, high])


def test_areas_are_over_the_labels_that_all_runs_have() -> None:
    short = runs(cycles=2).query("strategy == 'margin'").assign(protocol="same")
    frame = tables.settings(pandas.concat([runs().query("strategy != 'margin'").assign(protocol="same"), short]))
    found = tables.areas(frame).set_index(["strategy", "seed"])["area"]
    own = frame[(frame["strategy"] == "random") & (frame["seed"] == 0) & (frame["n_labelled"] <= 20)]
    assert found["random", 0] == pytest.approx(own["accuracy"].mean())
    assert tables.areas(tables.settings(runs(cycles=1))).empty


# ---- wins -----------------------------------------------------------------------------------------------------------------------


def test_wins_and_their_matrix() -> None:
    frame = tables.settings(pandas.concat([runs(arm="a"), runs(arm="b")]))
    areas = tables.areas(frame)
    found = tables.wins(areas)
    assert len(found) == 2 * 3 and list(found["p_corrected"]) == holm(found["p"])
    row = found[(found["first"] == "margin") | (found["second"] == "margin")].iloc[0]
    wide = areas[areas["setting"] == row["setting"]].pivot(index="seed", columns="strategy", values="area")
    assert row["p"] == pytest.approx(stats.ttest_rel(wide[row["first"]], wide[row["second"]]).pvalue)
    assert row["difference"] == pytest.approx(wide[row["first"]].mean() - wide[row["second"]].mean())
    matrix = tables.win_matrix(found)
    assert matrix.loc["margin", "random"] == 2 and matrix.loc["random", "margin"] == 0 and math.isnan(matrix.loc["margin", "margin"])


@pytest.mark.parametrize("seeds", [1, 2])
def test_few_seeds_decide_nothing(seeds: int) -> None:
    found = tables.wins(tables.areas(tables.settings(runs(seeds=seeds))))
    assert found["p"].isna().all() and (found["winner"] == "").all() and tables.win_matrix(found).isna().all(axis=None)


def test_equals_have_no_winner() -> None:
    same = runs().assign(accuracy=lambda frame: 0.5 + 0.01 * frame["seed"] + 0.1 * frame["cycle"])
    found = tables.wins(tables.areas(tables.settings(same)))
    assert (found["winner"] == "").all() and (found["p"] == 1).all()


# ---- ranks ----------------------------------------------------------------------------------------------------------------------


def test_ranks_over_the_seeds_that_all_strategies_have() -> None:
    frame = tables.settings(runs(seeds=6, drop=("margin/4",)))
    areas = tables.areas(frame)
    table = tables.ranks(areas)
    assert list(table["strategy"]) == ["margin", "kcenter", "random"] and set(table["seeds"]) == {5}
    wide = areas.pivot(index="seed", columns="strategy", values="area").dropna()
    naive = {name: numpy.mean([1 + sum(row[name] < other for other in row) for _, row in wide.iterrows()]) for name in wide}
    assert dict(zip(table["strategy"], table["rank"], strict=True)) == pytest.approx(naive)
    assert table["p"].nunique() == 1 and table["p"][0] == pytest.approx(stats.friedmanchisquare(*(wide[name] for name in wide)).pvalue)


def test_settings_count_once_in_the_mean_rank_and_only_with_all_strategies() -> None:
    few = runs(arm="c", seeds=9).query("strategy != 'kcenter'")
    frame = tables.settings(pandas.concat([runs(arm="a"), runs(arm="b", seeds=3), few]))
    found = tables.ranks(tables.areas(frame))
    table = tables.rank_table(found)
    assert list(table.columns) == ["bars, a", "bars, b", "bars, c", "mean"] and math.isnan(table.loc["kcenter", "bars, c"])
    assert table.loc["margin", "mean"] == pytest.approx((table.loc["margin", "bars, a"] + table.loc["margin", "bars, b"]) / 2)
    assert found[found["setting"] == "bars, c"]["p"].isna().all()


def test_ranks_where_there_is_nothing_to_rank() -> None:
    areas = tables.areas(tables.settings(runs(seeds=2, drop=("margin/0", "random/1"))))
    assert tables.ranks(areas).empty and tables.rank_table(tables.ranks(areas)).empty


# ---- beside the published numbers -----------------------------------------------------------------------------------------------


def test_published_numbers_beside_runs_of_scale_paper() -> None:
    frame = runs(dataset="cifar10", scale="paper", arm="scratch").assign(n_labelled=lambda table: 25_000 - 1000 * (2 - table["cycle"]))
    found = tables.with_published(tables.settings(frame), published())
    row = found[(found["arm"] == "scratch") & (found["strategy"] == "kcenter")].iloc[0]
    last = frame[(frame["strategy"] == "kcenter") & (frame["cycle"] == 2)]["accuracy"]
    assert row["published"] == 0.895 and row["measured"] == pytest.approx(last.mean()) and row["seeds"] == 5
    assert found[found["arm"] == "frozen"]["measured"].isna().all()
    nested = pandas.concat(
        [frame.assign(replication=frame["seed"], seed=1000 * frame["seed"] + k, run=f"{k}" + frame["run"]) for k in (0, 1)]
    )
    assert tables.with_published(tables.settings(nested), published()).equals(found)  # two runs of each replication
    twice = tables.settings(pandas.concat([frame.assign(regime=10.0), frame.assign(regime=2.0, run="b" + frame["run"])]))
    apart = tables.with_published(twice, published())
    assert len(apart[(apart["arm"] == "scratch") & (apart["strategy"] == "kcenter")]) == 2 and apart["seeds"].max() == 5
    assert set(tables.printed(frame, published())["dataset"]) == {"cifar10"}
    laptop = tables.settings(frame.assign(scale="laptop"))
    assert tables.with_published(laptop, published())["measured"].isna().all() and tables.printed(laptop, published()).empty
