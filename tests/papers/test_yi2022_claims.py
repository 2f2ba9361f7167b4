"""Statements put to made-up records, and the tables and figures of `yi2022_report`."""

import math

import pandas
import pytest

from alnb.papers.published import published
from alnb.papers.yi2022 import figures as yi2022_report
from alnb.papers.yi2022.claims import STATEMENTS, claims, correlations, labelled, protocol_effects, spread
from alnb.papers.yi2022.strategies import STRATEGIES
from alnb.report import stats
from alnb.report.stats import FAILS, HOLDS, OPEN, every


def made(levels: dict[str, list[float]], seeds: int = 4, **columns: object) -> pandas.DataFrame:
    """Accuracies of each strategy at each iteration, with a little of the seed in them."""
    rows = [
        {"dataset": "cifar10", "scale": "laptop", "strategy": name, "seed": seed, "cycle": k, "n_labelled": 50 * (k + 1),
         "accuracy": level + 0.001 * seed + 0.0001 * (seed * 7 % 3) * len(name), "run": f"{name}{seed}",
         "preset": "clean", "pretext": "", **columns}
        for name, own in levels.items() for seed in range(seeds) for k, level in enumerate(own)
    ]  # fmt: skip
    return pandas.DataFrame(rows)


def test_statements_name_methods_that_there_are() -> None:
    names = {name.split(", ")[0] for own in STATEMENTS.values() for one in own for name in (*one.first, *one.second)}
    assert names <= set(STRATEGIES)
    numbers = [one.claim for own in STATEMENTS.values() for one in own]
    assert len(numbers) == len(set(numbers))


def test_verdicts() -> None:
    better = {name: [0.2, 0.3] for name in ("random", "kcenter", "vaal", "learning_loss", "learning_loss_detached", "core_gcn", "pal")}
    found = claims(made({**better, "pt4al": [0.3, 0.4], "learning_loss": [0.25, 0.35]}), "figure3").set_index("claim")
    assert found["verdict"].to_dict() == {"P1": HOLDS, "P2": HOLDS, "P3": HOLDS, "P4": HOLDS}
    assert "pt4al over random +10.0 points" in found.loc["P1", "evidence"]
    worse = claims(made({**better, "pt4al": [0.3, 0.1]}), "figure3").set_index("claim")["verdict"]
    assert worse["P2"] == HOLDS and worse["P3"] == FAILS and worse["P1"] == FAILS
    evenly = {name: [0.2] for name in (*better, "pt4al")}
    uneven = claims(made({**{k: v for k, v in evenly.items() if k != "learning_loss_detached"}, "pt4al": [0.3]}), "figure5b").set_index(
        "claim"
    )
    assert uneven.loc["P5", "verdict"] == HOLDS  # the methods that its notebook runs decide it
    partly = claims(made({"random": [0.2], "pt4al": [0.3]}), "figure3").set_index("claim")
    assert partly.loc["P1", "verdict"] == OPEN and "kcenter was not run" in partly.loc["P1", "evidence"]
    assert claims(made({"random": [0.2], "pt4al": [0.3]}, seeds=1), "figure3").set_index("claim").loc["P2", "verdict"] == OPEN
    assert every([]) == OPEN and every([HOLDS, OPEN]) == OPEN and every([HOLDS, FAILS, OPEN]) == FAILS


def test_smoke_decides_nothing() -> None:
    smoke = made({"random": [0.2, 0.3], "pt4al": [0.3, 0.4]}, scale="smoke")
    assert set(claims(smoke, "table1")["verdict"]) == {OPEN} and "smoke runs decide nothing" in claims(smoke, "table1").loc[0, "evidence"]
    assert claims(smoke.assign(scale="laptop"), "table1").loc[0, "verdict"] == HOLDS
    with pytest.raises(ValueError, match=r"several values of scale .laptop, smoke."):
        claims(pandas.concat([smoke, smoke.assign(scale="laptop")]), "table1")
    wide = smoke.assign(accuracy=[(0.001 if row.strategy == "pt4al" else 0.05) * math.sin(row.seed) for row in smoke.itertuples()])
    assert spread(wide)[0] == OPEN


def test_spread_of_first_accuracies() -> None:
    frame = made({"pt4al": [0.5], "random": [0.5]}, seeds=20)
    wide = frame.assign(accuracy=[0.5 + (0.001 if row.strategy == "pt4al" else 0.05) * math.sin(row.seed) for row in frame.itertuples()])
    verdict, told = spread(wide)
    assert verdict == HOLDS and "ratio 0.02 (0.01 to 0.03)" in told
    assert spread(wide, "random", "pt4al")[0] == FAILS
    assert spread(made({"pt4al": [0.5], "random": [0.5]}, seeds=1))[0] == OPEN


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
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["random", "pt4al"]
    without = yi2022_report.costs(finished[2:], {"rotation": 5.0}, published("yi2022", item="Table 2"))
    assert yi2022_report.draw_costs(without, "in seconds").axes[0].get_xlabel() == "seconds"


def test_cold_start_shows_every_seed() -> None:
    frame = pandas.concat([made({"pt4al": [0.5]}).assign(part=part) for part in ("float 0", "text 5", "random")])
    figure = yi2022_report.draw_cold_start(frame, published("yi2022", item="Table 1"), "cold")
    (axis,) = figure.axes
    assert [label.get_text() for label in axis.get_xticklabels()] == ["by loss\n0", "as text\n5", "random"]
    assert [len(dots.get_offsets()) for dots in axis.collections if len(dots.get_offsets()) == 4] == [4, 4, 4]


def test_correlations_and_balance() -> None:
    printed = published("yi2022", metric="correlation", dataset="cifar10")

    def verdicts(low: float, high: float, scale: str = "paper") -> list[tuple[str, str]]:
        one = stats.Correlation((low + high) / 2, low, high, 0.15, (), {1: low}, math.nan, ())
        table = correlations({"rotation": one, "simsiam": one}, printed, scale)
        return [(row.claim, row.verdict) for row in table.itertuples()]

    assert verdicts(0.15, 0.3) == [("H1 value", FAILS), ("H1", HOLDS), ("H1 value", FAILS), ("H1 SimSiam", FAILS)]
    assert verdicts(-0.05, 0.05) == [("H1 value", FAILS), ("H1", OPEN), ("H1 value", HOLDS), ("H1 SimSiam", HOLDS)]
    assert verdicts(-0.3, 0.3)[-1] == ("H1 SimSiam", OPEN)  # no evidence is none
    assert verdicts(0.75, 0.85)[0] == ("H1 value", HOLDS) and verdicts(0.75, 0.85, "laptop")[0] == ("H1 value", OPEN)
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
