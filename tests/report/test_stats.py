import math
from typing import Any

import numpy
import pandas
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alnb.report.stats import (
    Difference,
    bootstrap,
    correlate,
    friedman,
    holm,
    interval,
    labels_needed,
    labels_to_reach,
    paired,
    paired_t,
    paired_table,
    paired_values,
    reliability,
    replications,
    seeds,
    spearman,
    within_classes,
)
from alnb.store import Stream

FROZEN, SCRATCH = {"arm": "frozen"}, {"arm": "scratch"}


def runs(seeds: int = 4, noise: float = 0.01, gain: float = 0.02, **columns: Any) -> pandas.DataFrame:
    """Two arms, two strategies, two regimes, two cycles. A seed's luck is the same in both arms."""
    rows = []
    for seed in range(seeds):
        draw = numpy.random.default_rng(seed)
        luck = draw.normal(0, 0.05)
        for arm in ("scratch", "frozen"):
            for strategy in ("random", "entropy"):
                for regime in (1, 10):
                    for cycle in (1, 2):
                        accuracy = 0.5 + gain * (arm == "frozen") + luck + draw.normal(0, noise)
                        rows.append((arm, strategy, regime, seed, 100 * regime * cycle, accuracy))
    frame = pandas.DataFrame(rows, columns=["arm", "strategy", "regime", "seed", "n_labelled", "accuracy"])
    return frame.assign(**{"dataset": "bars", "scale": "laptop", **columns})


# ---- over seeds -----------------------------------------------------------------------------------------------------------------


def test_interval_is_students() -> None:
    low, high = interval(pandas.Series([0.8, 0.9, 1.0]))
    half = 4.302653 * 0.1 / math.sqrt(3)  # t of 0.975 with two degrees of freedom, from a table
    assert (low + high) / 2 == pytest.approx(0.9) and (high - low) / 2 == pytest.approx(half, rel=1e-6)
    assert interval(pandas.Series([0.5])) == (0.5, 0.5)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.floats(0, 1))
def test_labels_to_reach_against_a_fine_search(accuracy: list[float], level: float) -> None:
    labels = [10.0 * (k + 1) for k in range(len(accuracy))]
    n = labels_to_reach(labels, accuracy, level)
    grid = numpy.union1d(numpy.linspace(labels[0], labels[-1], 20001), labels)
    reached = grid[numpy.interp(grid, labels, accuracy) >= level]
    if len(reached):
        assert n == pytest.approx(reached[0], abs=0.01)
    else:
        assert math.isnan(n) or n == pytest.approx(labels[-1], abs=0.01) or max(accuracy) >= level


def drawn_curves(seed: int, n: int, noise: float = 0.02, rise: float = 0.05) -> tuple[pandas.DataFrame, pandas.Series]:
    """Curves of four budgets that rise evenly from 0.5, and the level that they reach on average with 250 labels."""
    rng = numpy.random.default_rng(seed)
    luck, labels = rng.normal(0, 0.05, (n, 1)), [100, 200, 300, 400]
    curves = 0.5 + rise * numpy.arange(4) + luck + rng.normal(0, noise, (n, 4))
    return pandas.DataFrame(curves, columns=labels), pandas.Series(0.5 + 1.5 * rise + luck[:, 0] + rng.normal(0, noise, n))


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 10**6), st.integers(2, 6), st.sampled_from([0.005, 0.02, 0.1]))
def test_labels_needed_against_a_naive_inversion(seed: int, n: int, noise: float) -> None:
    """Every number of labels is tested: those that pass as enough and too few at once make the interval."""
    curves, level = drawn_curves(seed, n, noise)
    needed, labels = labels_needed(curves, level), list(curves)
    grid = numpy.linspace(100, 400, 601)
    gaps = numpy.array([[numpy.interp(x, labels, curves.loc[k]) - level[k] for k in curves.index] for x in grid])
    p = scipy.stats.ttest_1samp(gaps, 0, axis=1)
    possible = grid[p.pvalue >= 0.05]
    assert needed.n == n and needed.low == pytest.approx(possible[0], abs=2.1)
    assert needed.high == pytest.approx(possible[-1], abs=2.1) if p.pvalue[-1] < 0.05 and p.statistic[-1] > 0 else needed.high == math.inf
    expected = labels_to_reach(labels, curves.mean(), level.mean())
    assert needed.mean == pytest.approx(expected, nan_ok=True)


def test_the_interval_of_labels_needed_covers_the_true_number() -> None:
    covered = 0
    for draw in range(1000):
        needed = labels_needed(*drawn_curves(draw, 5))
        covered += needed.low <= 250 <= needed.high
    assert 0.93 <= covered / 1000 <= 0.97


def test_labels_that_are_not_surely_enough() -> None:
    curves, level = drawn_curves(0, 5, noise=0.001)
    assert 240 < labels_needed(curves, level).low < labels_needed(curves, level).high < 260
    above = labels_needed(curves, level + 0.0755)  # about the last accuracy: reached or not, it is not sure
    assert above.low > 380 and above.high == math.inf
    never = labels_needed(curves, level + 1)
    assert math.isnan(never.mean) and never.high == math.inf
    fallen = curves.assign(**{"500": 0.1}).rename(columns={"500": 500})  # reached on the way, and lost again
    assert labels_needed(fallen, level).mean == pytest.approx(250, abs=2) and labels_needed(fallen, level).high == math.inf
    same = pandas.DataFrame([[0.5, 0.75]] * 3, columns=[10, 20])
    assert labels_needed(same, pandas.Series([0.625] * 3)) == Difference(15, 15, 15, 3)
    assert labels_needed(same, pandas.Series([0.4] * 3)) == Difference(10, 10, 10, 3)
    one = labels_needed(same.iloc[:1], pandas.Series([0.625]))
    assert one.mean == 15 and math.isnan(one.low) and math.isnan(one.high) and one.n == 1


# ---- replications ---------------------------------------------------------------------------------------------------------------


def nested(sizes: list[int], draws: int = 3, *, between: float = 0.0148, within: float = 0.0084, gain: float = 0.02) -> pandas.DataFrame:
    """Two strategies whose runs share a pretext in each replication, so many runs in each. Cycles are draws, which share nothing."""
    rng, rows = numpy.random.default_rng(sum(sizes)), []
    for replication, size in enumerate(sizes):
        for strategy, level in (("pt4al", gain), ("random", 0.0)):
            shared = rng.normal(0.5 + level, between, draws)
            for run in range(size):
                accuracy = shared + rng.normal(0, within, draws)
                rows += [(strategy, replication, 1000 * replication + run, k, 50, value) for k, value in enumerate(accuracy)]
    return pandas.DataFrame(rows, columns=["strategy", "replication", "seed", "cycle", "n_labelled", "accuracy"])


@pytest.mark.parametrize("sizes", [[3] * 5, [2, 4, 3, 2, 4]])
def test_intervals_over_replications_cover(sizes: list[int]) -> None:
    """The 95 % interval of a gain covers it in 93 to 97 % of 1,000 draws of 5 pretexts; over single runs it covers far less."""
    frame, draws, gain = nested(sizes, 1000), 1000, 0.02
    sides = {"strategy": "pt4al"}, {"strategy": "random"}

    def coverage(rows: pandas.DataFrame) -> float:
        table = paired_table(rows, *sides, ("cycle",))
        assert table.shape[1] == draws
        return sum(low <= gain <= high for low, high in (interval(table[k]) for k in table)) / draws

    right = coverage(frame)
    assert 0.93 <= right <= 0.97
    assert coverage(replications(frame)) == right
    assert coverage(frame.drop(columns="replication")) < 0.8  # each run for a replication
    rows = frame[frame["cycle"] == 0]
    table = paired_table(frame, *sides, ("cycle",))
    pandas.testing.assert_series_equal(paired_values(rows, *sides, ["n_labelled"]), table[0], check_names=False)
    for strategy, level in (("pt4al", 0.52), ("random", 0.5)):  # and so does that of an accuracy
        means = replications(frame[frame["strategy"] == strategy]).pivot(index="seed", columns="cycle", values="accuracy")
        assert 0.93 <= sum(low <= level <= high for low, high in (interval(means[k]) for k in means)) / draws <= 0.97


def test_a_replication_becomes_one_curve() -> None:
    frame = nested([2, 4, 3]).assign(arm="scratch", run="r", dataset="bars", scale="laptop")
    curves = replications(frame)
    assert list(curves) == list(frame) and len(curves) == 2 * 3 * 3 and curves["seed"].equals(curves["replication"])
    for row in curves.itertuples():
        runs_of = [
            other.accuracy
            for other in frame.itertuples()
            if (other.strategy, other.replication, other.cycle) == (row.strategy, row.seed, row.cycle)
        ]
        assert row.accuracy == pytest.approx(sum(runs_of) / len(runs_of))
    assert seeds(frame) == seeds(curves) == "3"
    both = pandas.concat([frame.assign(protocol="a"), frame.assign(protocol="b", accuracy=0.0)])
    assert len(replications(both)) == 2 * len(curves)  # runs under other rules are no runs of one replication


def test_frames_without_nesting_come_back() -> None:
    frame = runs()
    assert replications(frame) is frame
    plain = frame.assign(replication=frame["seed"])
    assert replications(plain) is plain and seeds(plain) == "4"
    assert paired(plain, FROZEN, SCRATCH) == paired(frame, FROZEN, SCRATCH)


# ---- differences ---------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10**6), st.floats(0, 0.7))
def test_paired_against_naive_loops(seed: int, missing: float) -> None:
    frame = runs()
    rows = frame[numpy.random.default_rng(seed).random(len(frame)) >= missing].to_dict("records")
    by_seed: dict[int, list[float]] = {}
    for row in rows:
        for other in rows:
            same = all(other[name] == row[name] for name in ("seed", "regime", "n_labelled"))
            if same and (row["arm"], row["strategy"], other["arm"], other["strategy"]) == ("frozen", "random", "scratch", "entropy"):
                by_seed.setdefault(row["seed"], []).append(row["accuracy"] - other["accuracy"])
    naive = pandas.Series([numpy.mean(values) for values in by_seed.values()], dtype=float)
    left = pandas.DataFrame(rows, columns=frame.columns)
    gain = paired(left, {**FROZEN, "strategy": "random"}, {**SCRATCH, "strategy": "entropy"})
    assert gain.n == len(naive)
    if gain.n:
        assert (gain.mean, gain.low, gain.high) == pytest.approx((naive.mean(), *interval(naive)))


def test_pairing_takes_the_luck_of_a_seed_out() -> None:
    frame = runs(noise=0, seeds=5, gain=0.01)
    gain = paired(frame, FROZEN, SCRATCH)
    assert (gain.mean, gain.low, gain.high, gain.n) == pytest.approx((0.01, 0.01, 0.01, 5))
    assert frame.groupby("seed")["accuracy"].mean().std() > 0.01
    assert str(gain) == "+1.0 points (95 % interval +1.0 to +1.0, n = 5)" and gain.text(1, ".2f").startswith("0.01 (95 %")


def test_nothing_to_pair() -> None:
    nothing = paired(runs(), FROZEN, {"strategy": "badge"})
    assert nothing.n == 0 and math.isnan(nothing.mean) and str(nothing) == "nothing to compare"
    assert paired(runs().iloc[:0], FROZEN, SCRATCH).n == 0
    one = paired(runs(seeds=1, gain=0.3), FROZEN, SCRATCH)
    assert one.n == 1 and one.mean > 0.2 and str(one).endswith("(n = 1, no interval)")


def test_missing_columns_and_mixed_rows_are_named() -> None:
    with pytest.raises(ValueError, match="armm"):
        paired(runs(), {"armm": "frozen"}, SCRATCH)
    for column, values in (("scale", ("laptop", "paper")), ("dataset", ("bars", "dots"))):
        both = pandas.concat([runs(**{column: value}) for value in values])
        with pytest.raises(ValueError, match=rf"{column} \({', '.join(values)}\)"):
            paired(both, FROZEN, SCRATCH)
        assert paired(both, {**FROZEN, column: values[0]}, {**SCRATCH, column: values[0]}).n == 4


def test_differences_by_budget() -> None:
    frame = runs()
    table = paired_table(frame, FROZEN, SCRATCH, ("n_labelled",))
    assert list(table) == [100, 200, 1000, 2000] and list(table.count()) == [4] * 4
    means = frame.groupby(["n_labelled", "arm"])["accuracy"].mean().unstack()
    numpy.testing.assert_allclose(table.mean(), means["frozen"] - means["scratch"])


# ---- tests ----------------------------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(-1, 1), min_size=5, max_size=10).filter(lambda values: numpy.std(values) > 1e-3))
def test_the_paired_test_is_students(values: list[float]) -> None:
    t = abs(numpy.mean(values)) / (numpy.std(values, ddof=1) / math.sqrt(len(values)))
    assert paired_t(values) == pytest.approx(2 * scipy.stats.t.sf(t, len(values) - 1), rel=1e-6)


def test_equal_differences_and_too_few_seeds() -> None:
    assert paired_t([0.0] * 5) == 1.0 and paired_t([0.1] * 5) == 0.0 and paired_t([1 / 3, 2 / 6, 0.1 / 0.3, 3 / 9, 4 / 12]) == 0.0
    assert math.isnan(paired_t([0.3, 0.3])) and math.isnan(paired_t([]))
    assert paired_t([5e-17] * 5) == 1.0  # rounding is no difference


@given(st.lists(st.floats(0, 1) | st.just(math.nan), max_size=8))
def test_holm_against_its_definition(p: list[float]) -> None:
    valid = sorted(value for value in p if not math.isnan(value))
    for value, corrected in zip(p, holm(p), strict=True):
        if math.isnan(value):
            assert math.isnan(corrected)
            continue
        rank = max(k for k, other in enumerate(valid) if other == value)
        assert corrected == min(1.0, max((len(valid) - k) * valid[k] for k in range(rank + 1)))


def test_holm_keeps_the_error_of_the_family() -> None:
    """If all are equal, one family of 20 tests in twenty has a winner; without a correction it would be two in three."""
    samples = numpy.random.default_rng(0).normal(size=(400, 20, 6))
    p = scipy.stats.ttest_1samp(samples, 0, axis=2).pvalue
    corrected = numpy.mean([min(holm(family)) <= 0.05 for family in p])
    assert corrected < 0.08 and numpy.mean(p.min(axis=1) <= 0.05) > 0.5


def test_friedman_where_it_is_undefined() -> None:
    values = numpy.random.default_rng(0).random((5, 3))
    assert friedman(pandas.DataFrame(values)) == pytest.approx(scipy.stats.friedmanchisquare(*values.T).pvalue)
    for table in (values[:2], values[:, :2], numpy.ones((5, 3))):
        assert math.isnan(friedman(pandas.DataFrame(table)))


# ---- rank correlation -----------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=3, max_size=40))
def test_spearman_against_its_definition(pairs: list[tuple[int, int]]) -> None:
    """The correlation of ranks, where equal values share the mean of their ranks."""
    sides = torch.tensor(pairs, dtype=torch.float64).unbind(1)
    if all(len(side.unique()) > 1 for side in sides):
        ranks = [[sum(v < w for v in side) + (1 + sum(v == w for v in side)) / 2 for w in side] for side in (s.tolist() for s in sides)]
        assert spearman(*sides) == pytest.approx(numpy.corrcoef(*ranks)[0, 1], abs=1e-12)


@pytest.mark.parametrize("tied", [False, True])
def test_bootstrap_against_a_loop(tied: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(1)
    one = torch.randn(60, generator=generator)
    other = one + torch.randn(60, generator=generator)
    if tied:
        one, other = one.round(), other.round()
    low, high = bootstrap(one, other, resamples=120)
    g, naive = (Stream(0) / "bootstrap").generator(), []
    for count in (50, 50, 20):
        for drawn in torch.randint(60, (count, 60), generator=g):
            naive.append(scipy.stats.spearmanr(one[drawn].numpy(), other[drawn].numpy()).statistic)
    assert (low, high) == pytest.approx(tuple(numpy.quantile(naive, [0.025, 0.975])), abs=1e-9)
    assert low < spearman(one, other) < high
    assert bootstrap(one, other, resamples=120) == (low, high) != bootstrap(one, other, resamples=120, seed=1)
    monkeypatch.setattr("alnb.report.stats.BLOCK", 7)
    assert bootstrap(one, other, resamples=120) == pytest.approx((low, high), abs=1e-12)


def test_within_classes_takes_class_means_away() -> None:
    """Two classes whose means make all of the correlation."""
    generator = torch.Generator().manual_seed(0)
    targets = torch.arange(400) % 2
    one, other = (10 * targets + torch.randn(400, generator=generator) for _ in range(2))
    each, mean = within_classes(one, other, targets, 3)
    assert spearman(one, other) > 0.7 and abs(mean) < 0.15 and math.isnan(each[2])
    assert mean == pytest.approx((each[0] + each[1]) / 2)
    found = correlate(one[None], other, targets, 3, resamples=20)
    assert found.rho == spearman(one, other) and found.within == mean and found.low <= found.high


def test_reliability_of_noise_and_of_a_signal() -> None:
    generator = torch.Generator().manual_seed(0)
    signal, noise = torch.randn(500, generator=generator), torch.randn(8, 500, generator=generator)
    half = spearman((signal + 0.3 * noise)[0::2].mean(0), (signal + 0.3 * noise)[1::2].mean(0))
    assert reliability(signal + 0.3 * noise) == pytest.approx(2 * half / (1 + half), abs=1e-6)
    assert reliability(signal + 0.3 * noise) > 0.9 and abs(reliability(noise)) < 0.2
    halves = spearman(torch.arange(5.0), torch.tensor([4.0, 2, 3, 1, 0]))
    assert reliability(torch.tensor([[0.0, 1, 2, 3, 4], [4, 2, 3, 1, 0]])) == halves == pytest.approx(-0.9)
    with pytest.raises(ValueError, match=r"odd draws is 1\.0 everywhere"):
        reliability(torch.stack([signal, torch.ones(500)]))
    with pytest.raises(ValueError, match=r"draws are \[1, 500\]"):
        reliability(noise[:1])


def drawn_both(seed: int) -> bool:
    drawn = torch.randint(1000, (1, 1000), generator=(Stream(seed) / "bootstrap").generator())
    return bool((drawn == 0).any() and (drawn == 999).any())


def test_bad_input() -> None:
    with pytest.raises(ValueError, match=r"main is 2\.0 everywhere"):
        spearman(torch.rand(4), torch.full((4,), 2.0), ("pretext", "main"))
    with pytest.raises(ValueError, match="pretext is NaN at 2"):
        spearman(torch.tensor([0.0, 1.0, torch.nan]), torch.rand(3), ("pretext", "main"))
    with pytest.raises(ValueError, match="resamples is 0"):
        bootstrap(torch.rand(9), torch.rand(9), resamples=0)
    rare = torch.eye(1000)[0]
    with pytest.raises(ValueError, match="none of 1 samples of 1000 pairs"):
        bootstrap(rare, rare.flip(0), resamples=1, seed=next(s for s in range(99) if not drawn_both(s)))
    with pytest.raises(ValueError, match=r"targets\[1\] is -1.* \[0, 3\)"):
        within_classes(torch.rand(3), torch.rand(3), torch.tensor([0, -1, 2]), 3)
    with pytest.raises(ValueError, match=r"\[2\], of 3 images"):
        within_classes(torch.rand(3), torch.rand(3), torch.tensor([0, 2]), 3)
    with pytest.raises(ValueError, match=r"first is \[3\], second \[4\]"):
        spearman(torch.rand(3), torch.rand(4))


def test_draws_are_averaged() -> None:
    draws, main = torch.rand(5, 40, generator=torch.Generator().manual_seed(1)), torch.arange(40.0)
    one = correlate(draws, main, torch.zeros(40, dtype=torch.int64), 1, resamples=10)
    assert one.rho == pytest.approx(scipy.stats.spearmanr(draws.double().mean(dim=0), main).statistic)
    assert list(one.by_draws) == [1, 2, 4] and one.by_draws[1] == pytest.approx(scipy.stats.spearmanr(draws[0], main).statistic)
    assert one.reliability == reliability(draws)
    with pytest.raises(ValueError, match=r"losses are \[40\]"):
        correlate(draws[0], main, torch.zeros(40, dtype=torch.int64), 1)
