"""Comparisons of strategies over seeds and settings, against scipy and against loops that do it by hand."""

import math
from typing import Any

import numpy
import pandas
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from alnb.papers.published import published
from alnb.report import comparisons
from alnb.report import figures as report

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


# ---- what may be compared -------------------------------------------------------------------------------------------------------


def test_one_setting_is_called_by_its_data_set() -> None:
    frame = comparisons.settings(runs())
    assert set(frame["setting"]) == {"bars"} == set(frame["panels"]) and len(frame) == 3 * 5 * 3


def test_settings_say_what_differs_and_arms_share_a_figure() -> None:
    frame = comparisons.settings(pandas.concat([runs(arm="a"), runs(arm="b"), runs(arm="b", dataset="dots")]))
    assert set(frame["setting"]) == {"bars, a", "bars, b", "dots, b"} and set(frame["panels"]) == {"bars", "dots"}


def test_a_parameter_that_tells_apart_what_is_else_the_same_makes_settings() -> None:
    frame = comparisons.settings(pandas.concat([runs(lr=0.1), runs(lr=0.2)]))
    assert set(frame["setting"]) == {"bars, learner.recipe.lr 0.1", "bars, learner.recipe.lr 0.2"}


def test_different_experiments_with_different_seeds_are_not_pooled() -> None:
    later = runs(lr=0.2).assign(seed=lambda frame: frame["seed"] + 5)
    frame = comparisons.settings(pandas.concat([runs(lr=0.1), later]))
    assert set(frame["setting"]) == {"bars, learner.recipe.lr 0.1", "bars, learner.recipe.lr 0.2"}


def test_as_few_parameters_are_named_as_tell_apart() -> None:
    one, two = (runs(lr=lr).assign(**{"learner.net.source": f"code{lr}", "zeal": lr}) for lr in (0.1, 0.2))
    frame = comparisons.settings(pandas.concat([one, two]))
    assert set(frame["setting"]) == {"bars, learner.recipe.lr 0.1", "bars, learner.recipe.lr 0.2"}


def test_a_backbone_for_each_seed_is_no_other_setting() -> None:
    frame = runs().assign(**{"learner.backbone.fingerprint": lambda table: table["seed"].map("f{}".format)})
    assert set(comparisons.settings(frame)["setting"]) == {"bars"}
    two = pandas.concat([frame, frame.assign(**{"learner.backbone.fingerprint": "0123456789ab", "run": "b" + frame["run"]})])
    found = comparisons.settings(two)["setting"].unique()
    assert len(found) == 6 and "bars, learner.backbone.fingerprint 01234567" in found


def test_a_column_of_a_run_called_setting_tells_apart_as_others_do() -> None:
    frame = comparisons.settings(pandas.concat([runs(setting="0123456789ab"), runs(setting="ba9876543210")]))
    assert set(frame["setting"]) == {"bars, run.setting 01234567", "bars, run.setting ba987654"} and "run.setting" in frame


def test_variants_of_a_strategy_are_two_strategies() -> None:
    frame = runs().assign(**{"experiment.strategy.beta": math.nan})
    margin = frame[frame["strategy"] == "margin"]
    variants = [margin.assign(**{"experiment.strategy.beta": beta, "run": f"{beta}" + margin["run"]}) for beta in (1.0, 10.0)]
    found = comparisons.settings(pandas.concat([frame[frame["strategy"] != "margin"], *variants]))
    assert set(found["strategy"]) == {"random", "kcenter", "margin (beta 1)", "margin (beta 10)"} and set(found["setting"]) == {"bars"}


def test_what_else_differs_between_strategies_is_told() -> None:
    frame = runs()
    assert comparisons.mixed(comparisons.settings(frame)).empty
    frame["learner.recipe.lr"] = frame["learner.recipe.lr"].where(frame["strategy"] != "margin", 0.05)
    table = comparisons.mixed(comparisons.settings(frame))
    assert table.to_numpy().tolist() == [["bars", "learner.recipe.lr", "0.1: kcenter, random; 0.05: margin"]]


def test_categorical_columns_of_the_loader_are_taken() -> None:
    frame = runs(seeds=2)
    typed = frame.astype({name: "category" for name in ("dataset", "arm", "strategy", "run", "protocol")})
    assert comparisons.settings(typed)["setting"].tolist() == comparisons.settings(frame)["setting"].tolist()


def test_unfinished_runs_are_left_out() -> None:
    frame = runs()
    cut = frame[~((frame["run"] == "margin/3") & (frame["cycle"] == 2))]
    kept = comparisons.settings(cut)
    assert "margin/3" not in set(kept["run"]) and kept["run"].nunique() == 14
    with pytest.raises(ValueError, match="none of the 15 runs is finished"):
        comparisons.settings(frame[frame["cycle"] < 2])


def test_the_same_experiment_in_two_folders_is_named() -> None:
    frame = runs(seeds=2)
    copy = frame[frame["run"] == "margin/1"].assign(run="copy of margin/1")
    with pytest.raises(ValueError, match="twice, as margin/1 and copy of margin/1: move one of them away"):
        comparisons.settings(pandas.concat([frame, copy]))


# ---- areas ----------------------------------------------------------------------------------------------------------------------


def test_areas_against_numpy() -> None:
    frame = comparisons.settings(runs())
    found = comparisons.areas(frame).set_index(["strategy", "seed"])["area"]
    for (strategy, seed), own in frame.groupby(["strategy", "seed"]):
        assert found[strategy, seed] == pytest.approx(numpy.trapezoid(own["accuracy"], own["n_labelled"]) / 20)
    table = comparisons.summary(comparisons.areas(frame))
    assert list(table["strategy"]) == ["margin", "kcenter", "random"] and set(table["seeds"]) == {5}
    low, high = report.interval(found["margin"])
    assert table.loc[0, ["area", "low", "high"]].tolist() == pytest.approx([found["margin"].mean(), low, high])


def test_areas_are_over_the_labels_that_all_runs_have() -> None:
    short = runs(cycles=2).query("strategy == 'margin'").assign(protocol="same")
    frame = comparisons.settings(pandas.concat([runs().query("strategy != 'margin'").assign(protocol="same"), short]))
    found = comparisons.areas(frame).set_index(["strategy", "seed"])["area"]
    own = frame[(frame["strategy"] == "random") & (frame["seed"] == 0) & (frame["n_labelled"] <= 20)]
    assert found["random", 0] == pytest.approx(own["accuracy"].mean())
    assert comparisons.areas(comparisons.settings(runs(cycles=1))).empty


# ---- wins -----------------------------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(-1, 1), min_size=3, max_size=10).filter(lambda values: numpy.std(values) > 1e-3))
def test_the_paired_test_is_scipys(values: list[float]) -> None:
    assert comparisons.paired_t(values) == pytest.approx(stats.ttest_1samp(values, 0).pvalue, rel=1e-6)


def test_equal_differences_and_too_few_seeds() -> None:
    assert comparisons.paired_t([0.0] * 5) == 1.0 and comparisons.paired_t([0.1] * 5) == 0.0
    assert math.isnan(comparisons.paired_t([0.3, 0.3])) and math.isnan(comparisons.paired_t([]))


@given(st.lists(st.floats(0, 1) | st.just(math.nan), max_size=8))
def test_holm_against_its_definition(p: list[float]) -> None:
    found, valid = comparisons.holm(p), sorted(value for value in p if not math.isnan(value))
    for value, corrected in zip(p, found, strict=True):
        if math.isnan(value):
            assert math.isnan(corrected)
            continue
        rank = max(k for k, other in enumerate(valid) if other == value)
        assert corrected == min(1.0, max((len(valid) - k) * valid[k] for k in range(rank + 1)))


def test_holm_keeps_the_error_of_the_family() -> None:
    """Of equals, one family of 20 tests in twenty has a winner; without a correction it would be two in three."""
    draw = numpy.random.default_rng(0)
    families = [[comparisons.paired_t(row) for row in draw.normal(size=(20, 6))] for _ in range(400)]
    corrected = numpy.mean([min(comparisons.holm(family)) <= 0.05 for family in families])
    assert corrected < 0.08 and numpy.mean([min(family) <= 0.05 for family in families]) > 0.5


def test_wins_and_their_matrix() -> None:
    frame = comparisons.settings(pandas.concat([runs(arm="a"), runs(arm="b")]))
    areas = comparisons.areas(frame)
    found = comparisons.wins(areas)
    assert len(found) == 2 * 3 and list(found["p_corrected"]) == comparisons.holm(found["p"])
    row = found[(found["first"] == "margin") | (found["second"] == "margin")].iloc[0]
    wide = areas[areas["setting"] == row["setting"]].pivot(index="seed", columns="strategy", values="area")
    assert row["p"] == pytest.approx(stats.ttest_rel(wide[row["first"]], wide[row["second"]]).pvalue)
    assert row["difference"] == pytest.approx(wide[row["first"]].mean() - wide[row["second"]].mean())
    matrix = comparisons.win_matrix(found)
    assert matrix.loc["margin", "random"] == 2 and matrix.loc["random", "margin"] == 0 and math.isnan(matrix.loc["margin", "margin"])


@pytest.mark.parametrize("seeds", [1, 2])
def test_few_seeds_decide_nothing(seeds: int) -> None:
    found = comparisons.wins(comparisons.areas(comparisons.settings(runs(seeds=seeds))))
    assert found["p"].isna().all() and (found["winner"] == "").all() and comparisons.win_matrix(found).isna().all(axis=None)


def test_equals_have_no_winner() -> None:
    same = runs().assign(accuracy=lambda frame: 0.5 + 0.01 * frame["seed"] + 0.1 * frame["cycle"])
    found = comparisons.wins(comparisons.areas(comparisons.settings(same)))
    assert (found["winner"] == "").all() and (found["p"] == 1).all()


# ---- ranks ----------------------------------------------------------------------------------------------------------------------


def test_ranks_over_the_seeds_that_all_strategies_have() -> None:
    frame = comparisons.settings(runs(drop=("margin/4",)))
    areas = comparisons.areas(frame)
    table = comparisons.ranks(areas)
    assert list(table["strategy"]) == ["margin", "kcenter", "random"] and set(table["seeds"]) == {4}
    wide = areas.pivot(index="seed", columns="strategy", values="area").dropna()
    naive = {name: numpy.mean([1 + sum(row[name] < other for other in row) for _, row in wide.iterrows()]) for name in wide}
    assert dict(zip(table["strategy"], table["rank"], strict=True)) == pytest.approx(naive)
    assert table["p"].nunique() == 1 and table["p"][0] == pytest.approx(stats.friedmanchisquare(*(wide[name] for name in wide)).pvalue)


def test_settings_count_once_in_the_mean_rank_and_only_with_all_strategies() -> None:
    few = runs(arm="c", seeds=9).query("strategy != 'kcenter'")
    frame = comparisons.settings(pandas.concat([runs(arm="a"), runs(arm="b", seeds=3), few]))
    found = comparisons.ranks(comparisons.areas(frame))
    table = comparisons.rank_table(found)
    assert list(table.columns) == ["bars, a", "bars, b", "bars, c", "mean"] and math.isnan(table.loc["kcenter", "bars, c"])
    assert table.loc["margin", "mean"] == pytest.approx((table.loc["margin", "bars, a"] + table.loc["margin", "bars, b"]) / 2)
    assert found[found["setting"] == "bars, c"]["p"].isna().all()


def test_ranks_where_there_is_nothing_to_rank() -> None:
    areas = comparisons.areas(comparisons.settings(runs(seeds=2, drop=("margin/0", "random/1"))))
    assert comparisons.ranks(areas).empty and comparisons.rank_table(comparisons.ranks(areas)).empty


# ---- beside the published numbers -----------------------------------------------------------------------------------------------


def test_published_numbers_beside_runs_of_scale_paper() -> None:
    frame = runs(dataset="cifar10", scale="paper", arm="scratch").assign(n_labelled=lambda table: 25_000 - 1000 * (2 - table["cycle"]))
    found = comparisons.beside(comparisons.settings(frame), published())
    row = found[(found["arm"] == "scratch") & (found["strategy"] == "kcenter")].iloc[0]
    last = frame[(frame["strategy"] == "kcenter") & (frame["cycle"] == 2)]["accuracy"]
    assert row["published"] == 0.895 and row["measured"] == pytest.approx(last.mean()) and row["seeds"] == 5
    assert found[found["arm"] == "frozen"]["measured"].isna().all()
    twice = comparisons.settings(pandas.concat([frame.assign(regime=10.0), frame.assign(regime=2.0, run="b" + frame["run"])]))
    apart = comparisons.beside(twice, published())
    assert len(apart[(apart["arm"] == "scratch") & (apart["strategy"] == "kcenter")]) == 2 and apart["seeds"].max() == 5
    assert set(comparisons.printed(frame, published())["dataset"]) == {"cifar10"}
    laptop = comparisons.settings(frame.assign(scale="laptop"))
    assert comparisons.beside(laptop, published())["measured"].isna().all() and comparisons.printed(laptop, published()).empty
