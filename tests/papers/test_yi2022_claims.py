"""Statements put to made-up records, and the tables and figures of `yi2022_report`."""

import math

import numpy
import pandas
import pytest
import scipy.stats

from alnb.papers.published import published
from alnb.papers.yi2022 import figures as yi2022_report
from alnb.papers.yi2022.claims import (
    CALTECH,
    STATEMENTS,
    claims,
    cold_start,
    correlations,
    labelled,
    protocol_effects,
    pseudo_values,
    spread,
    spread_parts,
)
from alnb.papers.yi2022.strategies import STRATEGIES
from alnb.report import stats
from alnb.report.verdicts import FAILS, HOLDS, NEITHER, OPEN, OPPOSITE, SAME, above

ALL = ("random", "kcenter", "vaal", "learning_loss", "learning_loss_detached", "core_gcn", "pal")


def made(levels: dict[str, list[float]], seeds: int = 5, **columns: object) -> pandas.DataFrame:
    """Accuracies of each strategy at each iteration, with the luck of the replication and a little of each run in them."""
    rows = [
        {"dataset": "cifar10", "scale": "paper", "strategy": name, "seed": seed, "replication": seed, "cycle": k,
         "n_labelled": 1000 * (k + 1), "accuracy": level + 0.001 * seed + 0.0001 * (seed * 7 % 3) * len(name), "run": f"{name}{seed}",
         "preset": "clean", "pretext": "", **columns}
        for name, own in levels.items() for seed in range(seeds) for k, level in enumerate(own)
    ]  # fmt: skip
    return pandas.DataFrame(rows)


def verdicts_of(frame: pandas.DataFrame, figure: str) -> dict[str, str]:
    table = claims(frame, figure)
    assert list(table.columns) == ["claim", "statement", "verdict", "p", "evidence", "source"] and "nan" not in "".join(table["evidence"])
    return dict(zip(table["claim"], table["verdict"], strict=True))


def test_statements_name_methods_that_there_are() -> None:
    every = [*(one for own in STATEMENTS.values() for one in own), *CALTECH]
    names = {name.split(", ")[0] for one in every for name in (*one.first, *one.second)}
    assert names <= set(STRATEGIES)
    numbers = [one.claim for own in STATEMENTS.values() for one in own]
    assert len(numbers) == len(set(numbers))


def levels(gain: float, *, cycles: int = 3, others: tuple[str, ...] = ALL) -> dict[str, list[float]]:
    """PT4AL ahead of all others by `gain` in each iteration, and Learning Loss ahead of the detached one."""
    result = {name: [0.2 + 0.1 * k for k in range(cycles)] for name in others}
    for name in ("learning_loss", "kcenter", "core_gcn"):
        result[name] = [value + gain / 4 for value in result[name]]
    return {**result, "pt4al": [0.2 + gain + 0.1 * k for k in range(cycles)]}


@pytest.mark.parametrize(
    ("scale", "as_claimed", "upside_down", "equal"),
    [
        ("paper", HOLDS, FAILS, OPEN),
        ("overnight", HOLDS, FAILS, OPEN),
        ("laptop", SAME, OPPOSITE, NEITHER),
        ("smoke", NEITHER, NEITHER, NEITHER),
    ],
)
def test_verdicts_at_every_scale(scale: str, as_claimed: str, upside_down: str, equal: str) -> None:
    for figure, names in (("figure3", ["P1", "P2", "P3", "P4"]), ("table1", ["P13"])):
        assert verdicts_of(made(levels(0.1), scale=scale), figure) == dict.fromkeys(names, as_claimed)
        assert verdicts_of(made(levels(-0.1), scale=scale), figure) == dict.fromkeys(names, upside_down)
        assert verdicts_of(made(levels(0.0), scale=scale).assign(accuracy=0.5), figure) == dict.fromkeys(names, equal)
    imbalanced = levels(0.2, others=ALL[:4] + ALL[5:])
    assert verdicts_of(made({**imbalanced, "pal": [0.2, 0.3, 0.4]}, scale=scale), "figure5b")["P5"] == as_claimed
    table = claims(made(levels(0.1), scale=scale), "figure3").set_index("claim")
    assert "pt4al over random +10.0 points" in table.loc["P3", "evidence"]
    assert ("smoke runs decide nothing" in table.loc["P1", "evidence"]) == (scale == "smoke")


@pytest.mark.parametrize("seeds", [1, 4])
def test_fewer_than_five_replications_decide_nothing(seeds: int) -> None:
    assert set(verdicts_of(made(levels(0.1), seeds), "figure3").values()) == {OPEN}
    nets = pandas.concat([made(levels(0.1), seeds).assign(seed=k) for k in range(5)])  # many nets of few pretexts
    assert set(verdicts_of(nets, "figure3").values()) == {OPEN}


def test_noise_as_large_as_the_effect_decides_nothing() -> None:
    rng, frame = numpy.random.default_rng(0), made(levels(0.01))
    assert set(verdicts_of(frame.assign(accuracy=frame["accuracy"] + rng.normal(0, 0.02, len(frame))), "figure3").values()) == {OPEN}


def test_every_iteration_is_every_one() -> None:
    """P1 fails with a single iteration in which a single method is better, which an average over iterations hides."""
    behind = {**levels(0.1, cycles=5), "vaal": [0.2, 0.3, 0.6, 0.5, 0.6]}
    table = claims(made(behind), "figure3").set_index("claim")
    assert table["verdict"].to_dict() == {"P1": FAILS, "P2": HOLDS, "P3": HOLDS, "P4": HOLDS}
    assert "pt4al over vaal +6.0 points" in table.loc["P1", "evidence"] and "ahead in 4 of 5 iterations" in table.loc["P1", "evidence"]
    late = {**levels(0.1), "pt4al": [0.3, 0.4, 0.1]}
    assert verdicts_of(made(late), "figure3") == {"P1": FAILS, "P2": HOLDS, "P3": FAILS, "P4": HOLDS}
    assert verdicts_of(made(behind), "figure5b")["P5"] == FAILS


def test_caltech_is_most_iterations_without_the_detached_learning_loss() -> None:
    others = tuple(name for name in ALL if name != "learning_loss_detached")
    once = {**levels(0.1, cycles=5, others=others), "vaal": [0.2, 0.3, 0.6, 0.5, 0.6]}
    assert verdicts_of(made(once, dataset="caltech101"), "figure3") == {"P1": HOLDS, "P2": HOLDS}
    mostly = {**once, "vaal": [0.2, 0.5, 0.6, 0.7, 0.6]}
    assert verdicts_of(made(mostly, dataset="caltech101"), "figure3") == {"P1": FAILS, "P2": HOLDS}
    with_detached = made({**once, "learning_loss_detached": [0.9] * 5}, dataset="caltech101")
    assert verdicts_of(with_detached, "figure3") == {"P1": HOLDS, "P2": HOLDS}


def test_methods_that_were_not_run_leave_a_statement_open() -> None:
    partly = claims(made({"random": [0.2], "pt4al": [0.3]}), "figure3").set_index("claim")
    assert partly.loc["P1", "verdict"] == OPEN and "kcenter was not run" in partly.loc["P1", "evidence"]
    assert partly.loc["P2", "verdict"] == HOLDS
    lost = claims(made({"random": [0.9], "pt4al": [0.3]}), "figure3").set_index("claim")
    assert lost.loc["P1", "verdict"] == FAILS  # one comparison is enough to refute


def test_scales_do_not_mix() -> None:
    frame = made(levels(0.1))
    with pytest.raises(ValueError, match=r"several values of scale .laptop, paper."):
        claims(pandas.concat([frame, frame.assign(scale="laptop")]), "table1")


# ---- the spread of Table 1 -------------------------------------------------------------------------------------------------------


def nested(values: dict[str, numpy.ndarray], **columns: object) -> pandas.DataFrame:
    """First accuracies [replications, nets] by strategy."""
    rows = [
        {"strategy": name, "pretext": "", "replication": k, "seed": 1000 * k + net, "cycle": 0, "n_labelled": 50, "accuracy": value,
         "dataset": "cifar10", "scale": "paper", "preset": "clean", "part": name, "run": f"{name}{k}{net}", **columns}
        for name, table in values.items() for k, row in enumerate(table) for net, value in enumerate(row)
    ]  # fmt: skip
    return pandas.DataFrame(rows)


def cold(rng: numpy.random.Generator, between: float, within: float, n: int = 8, nets: int = 3) -> numpy.ndarray:
    return 0.3 + rng.normal(0, between, (n, 1)) + rng.normal(0, within, (n, nets))


def naive_spread(first: numpy.ndarray, second: numpy.ndarray) -> list[float]:
    """Jackknife pseudo-values of the logarithm of the ratio of standard deviations over replications, `second` over `first`."""

    def log_ratio(rows: list[int]) -> float:
        sums = [0.0, 0.0]
        for side, table in enumerate((first, second)):
            for net in range(table.shape[1]):
                values = [table[k, net] for k in rows]
                sums[side] += sum((value - sum(values) / len(values)) ** 2 for value in values) / (len(values) - 1)
        return math.log(math.sqrt(sums[1] / sums[0]))

    n = len(first)
    return [n * log_ratio(list(range(n))) - (n - 1) * log_ratio([j for j in range(n) if j != k]) for k in range(n)]


def test_spread_against_a_naive_jackknife() -> None:
    rng = numpy.random.default_rng(1)
    first, second = cold(rng, 0.005, 0.005), cold(rng, 0.03, 0.01)
    pseudo = naive_spread(first, second)
    evidence = spread(nested({"pt4al": first, "random": second}))
    assert evidence.holds == pytest.approx(scipy.stats.ttest_1samp(pseudo, 0, alternative="greater").pvalue, rel=1e-6)
    sizes = [math.sqrt(table.var(0, ddof=1).mean()) for table in (first, second)]
    assert f"pt4al {sizes[0]:.2%}, random {sizes[1]:.2%}" in evidence.text and f"{numpy.mean(pseudo):+.2f} (95 %" in evidence.text
    frame = nested({"pt4al": first, "random": second})
    assert cold_start(frame).set_index("claim").loc["P14", "verdict"] == HOLDS
    turned = nested({"pt4al": second, "random": first})
    assert cold_start(turned).set_index("claim").loc["P14", "verdict"] == FAILS
    assert spread(turned).holds == pytest.approx(evidence.fails)
    assert cold_start(nested({"pt4al": first, "random": second}, scale="laptop")).set_index("claim").loc["P14", "verdict"] == SAME


@pytest.mark.parametrize(
    "values",
    [
        [[0.1], [0.2], [0.3], [0.4]],  # fewer than five
        [[0.1, 0.2]] * 6,  # no spread over replications
        [[0.1]] * 5 + [[0.2]],  # none without one of them
    ],
)
def test_a_spread_that_cannot_be_compared(values: list[list[float]]) -> None:
    first, second = numpy.array(values), cold(numpy.random.default_rng(0), 0.02, 0.01, len(values), len(values[0]))
    for pair in ((first, second), (second, first)):
        evidence = spread(nested(dict(zip(("pt4al", "random"), pair, strict=True))))
        assert (evidence.holds, evidence.fails) == (1, 1)
    absent = spread(nested({"pt4al": first}))
    assert (absent.holds, absent.fails) == (1, 1)


def test_pseudo_replicates_do_not_make_a_spread() -> None:
    """Of one pretext and many nets there is one replication."""
    rng = numpy.random.default_rng(0)
    evidence = spread(nested({"pt4al": cold(rng, 0.01, 0.001, 1, 20), "random": cold(rng, 0.02, 0.02, 1, 20)}))
    assert (evidence.holds, evidence.fails) == (1, 1)


@pytest.mark.slow
def test_equal_spreads_are_rarely_told_apart() -> None:
    """8 pretexts x 3 nets with both parts of the spread: at most 7 % of 1,000 two-sided tests at 5 % reject."""
    rng, wrong, detected = numpy.random.default_rng(0), 0, 0
    for _ in range(1000):
        a, b = (cold(rng, 0.0148, 0.0084) for _ in range(2))
        equal, third = above("", pseudo_values(a, b)), above("", pseudo_values(0.3 + (a - 0.3) / 3, b))
        wrong += 2 * min(equal.holds, equal.fails) <= 0.05
        detected += third.holds <= 0.025
    assert wrong / 1000 <= 0.07 and detected / 1000 > 0.7


def test_spread_has_two_parts() -> None:
    """Means over many draws are near the true standard deviations; an interval over replications, not over nets."""
    rng = numpy.random.default_rng(0)
    frame = nested({"pt4al": cold(rng, 0.0148, 0.0084, 400), "random": cold(rng, 0.0, 0.01, 400), "flat": cold(rng, 0.01, 0.01, 5, 1)})
    table = spread_parts(frame)
    assert table.loc["pt4al", ["within", "between"]].tolist() == pytest.approx([0.0084, 0.0148], rel=0.1)
    assert table.loc["random", "within"] == pytest.approx(0.01, rel=0.1) and table.loc["random", "between"] < 0.003
    assert math.isnan(table.loc["flat", "within"])
    means = frame[frame["part"] == "pt4al"].groupby("replication")["accuracy"].mean()
    assert table.loc["pt4al", ["mean", "low", "high"]].tolist() == pytest.approx([means.mean(), *stats.interval(means)])
    assert table[["replications", "runs"]].astype(int).to_numpy().tolist() == [[400, 1200], [400, 1200], [5, 5]]
    arms = spread_parts(frame.assign(arm="scratch"), ["arm", "part"])
    pandas.testing.assert_frame_equal(arms.loc["scratch"], table)


# ---- protocols, costs, pictures ---------------------------------------------------------------------------------------------------


def test_worth_is_paired_with_the_clean_protocol() -> None:
    clean = made({"random": [0.2, 0.3], "pt4al": [0.25, 0.35]})
    warm = made({"random": [0.22, 0.32], "pt4al": [0.26, 0.36]}, preset="clean, init=warm")
    table = protocol_effects(pandas.concat([clean, warm]), "clean").set_index(["preset", "strategy"])
    assert table.loc[("clean, init=warm", "random"), "difference"] == pytest.approx(0.02)
    assert table.loc[("clean, init=warm", "pt4al"), "gain"] == pytest.approx(0.04, abs=1e-3)
    assert table.loc[("clean", "pt4al"), "difference"] == 0 and math.isnan(table.loc[("clean", "random"), "gain"])
    figure = yi2022_report.draw_protocol_effects(table.reset_index(), "worth")
    assert len(figure.axes) == 2 and len(figure.axes[0].get_yticklabels()) == 2


def test_costs_are_sums_over_cycles_and_ratios_to_random(monkeypatch: pytest.MonkeyPatch) -> None:
    class Made:
        def __init__(self, scale: float) -> None:
            self.scale = scale

        def records(self) -> list[dict]:
            seconds = {"query": self.scale, "oracle": 9.0, "fit": 2.0, "evaluate": 0.5}
            empty = {"metrics": {}, "queried": [], "labels": [], "class_counts": [], "notes": [], "peak_memory_mb": 0.0}
            return [{"cycle": k, "n_labelled": 1, "seconds": seconds, **empty} for k in range(2)]

    alone = {"strategy": "random", "pretext": ""}
    finished = [(Made(0.5), alone), (Made(0.5), alone), (Made(1.0), {"strategy": "pt4al", "pretext": "rotation"})]
    table = yi2022_report.costs(finished, {"rotation": 5.0}, published("yi2022", item="Table 2")).set_index("strategy")
    assert table.loc["random", "total"] == 6 and table.loc["pt4al", "total"] == 12 and table.loc["pt4al", "pretext"] == 5
    assert table.loc["pt4al", "ratio"] == 2 and table.loc["pt4al", "published"] == pytest.approx(216 / 136)
    figure = yi2022_report.draw_costs(table.reset_index(), "costs")
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["random  1.00", "pt4al  2.00"]
    without = yi2022_report.costs(finished[2:], {"rotation": 5.0}, published("yi2022", item="Table 2"))
    assert yi2022_report.draw_costs(without, "in seconds").axes[0].get_xlabel() == "seconds"


def test_cold_start_shows_every_run() -> None:
    frame = pandas.concat([made({"pt4al": [0.5]}).assign(part=part) for part in ("float 0", "text 5", "random")])
    figure = yi2022_report.draw_cold_start(frame, published("yi2022", item="Table 1"), "cold")
    (axis,) = figure.axes
    assert [label.get_text() for label in axis.get_xticklabels()] == ["by loss\n0", "as text\n5", "random"]
    assert len(axis.collections[0].get_offsets()) == len(frame) == 15


PRINTED = published("yi2022", metric="correlation", dataset="cifar10")


def correlated(rho: float, n: int = 5, spread: float = 0.01) -> list[stats.Correlation]:
    """So many replications, whose rho lie evenly around `rho`."""
    values = [rho + spread * (k - (n - 1) / 2) for k in range(n)]
    return [stats.Correlation(value, value - 0.01, value + 0.01, 0.15, (), {1: value}, math.nan, ()) for value in values]


def about_rho(rho: float, scale: str = "paper", **options: float) -> list[tuple[str, str]]:
    every = correlated(rho, **options)
    table = correlations({"rotation": every, "simsiam": every}, PRINTED, scale)
    return [(row.claim, row.verdict) for row in table.itertuples()]


@pytest.mark.parametrize(
    ("rho", "expected"),
    [
        (0.8, (HOLDS, HOLDS, FAILS, FAILS)),  # rotation's printed value, strong; SimSiam's, 0
        (0.45, (FAILS, FAILS, FAILS, HOLDS)),  # clearly positive, but not strong
        (0.6, (FAILS, HOLDS, FAILS, FAILS)),
        (0.0, (FAILS, FAILS, HOLDS, HOLDS)),
        (-0.6, (FAILS, FAILS, FAILS, FAILS)),
    ],
)
def test_strong_is_a_rho_above_one_half(rho: float, expected: tuple[str, ...]) -> None:
    assert about_rho(rho) == list(zip(("H1 value", "H1", "H1 value", "H1 SimSiam"), expected, strict=True))
    words = {HOLDS: SAME, FAILS: OPPOSITE}
    assert about_rho(rho, "laptop") == [("H1", words[expected[1]]), ("H1 SimSiam", words[expected[3]])]  # printed values are of scale paper


def test_correlations_of_few_or_noisy_replications_decide_nothing() -> None:
    for verdicts in (about_rho(0.8, n=4), about_rho(0.52, spread=0.2), about_rho(0.8, "smoke")):
        assert {verdict for _, verdict in verdicts} <= {OPEN, NEITHER}
    single = correlations({"rotation": correlated(0.8, 1)}, PRINTED, "laptop").iloc[0]
    assert "rho +0.80" in single["evidence"] and "within classes 0.150" in single["evidence"] and single["verdict"] == NEITHER


def test_balance() -> None:
    counts = pandas.DataFrame(
        [
            {"strategy": "a", "run": "r", "cycle": k, "class": c, "count": n}
            for k, own in enumerate(([4, 0], [0, 4]))
            for c, n in enumerate(own)
        ]
    )
    assert yi2022_report.balance(counts).loc["a"].tolist() == [0, 1]


def test_panels_share_pt4al_and_random() -> None:
    frame = pandas.concat(
        [made({name: [0.1] for name in ("random", "pt4al", "sampling_only", "pt4al_top_k")}), made({"pt4al": [0.2]}, pretext="jigsaw")]
    )
    assert set(labelled(frame)["strategy"]) == {"random", "pt4al", "sampling_only", "pt4al_top_k", "pt4al, jigsaw"}
    parts = yi2022_report.panels(frame)
    assert {arm: set(own["strategy"]) for arm, own in parts.groupby("arm")} == {
        "(a) parts": {"random", "pt4al", "sampling_only"}, "(b) pretexts": {"random", "pt4al", "pt4al, jigsaw"},
        "6.3: first labels, order": {"random", "pt4al", "pt4al_top_k"},
    }  # fmt: skip


def test_a_pretext_is_a_strategy_of_its_own_in_claims() -> None:
    frame = pandas.concat(
        [made({"pt4al": [0.4]}, pretext="rotation"), *(made({"pt4al": [0.2]}, pretext=name) for name in ("jigsaw", "simsiam"))]
    )
    table = claims(frame, "figure6").set_index("claim")
    assert "pt4al over pt4al, jigsaw +20" in table.loc["P9", "evidence"] and "colorization was not run" in table.loc["P9", "evidence"]
