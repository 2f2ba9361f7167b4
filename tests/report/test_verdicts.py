"""Verdicts against scipy and naive formulas, and by simulation: how often they err, and what they detect."""

import itertools
import math

import numpy
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from alnb.report import verdicts
from alnb.report.verdicts import (
    ALPHA,
    ENOUGH,
    FAILS,
    HOLDS,
    NEITHER,
    OPEN,
    OPPOSITE,
    POWER,
    SAME,
    Evidence,
    above,
    at_least,
    between,
    components,
    decide,
    detectable,
    every,
    missing,
    most,
)

P = st.floats(0, 1)
PARTS = st.lists(st.tuples(P, P), min_size=1, max_size=6)


def parts_of(p: list[tuple[float, float]]) -> list[Evidence]:
    return [Evidence(holds, fails, f"part {k}") for k, (holds, fails) in enumerate(p)]


def both_sides(values: numpy.ndarray) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Both p-values of `above` on the last axis, for many samples at once."""
    n = values.shape[-1]
    t = values.mean(-1) / (values.std(-1, ddof=1) / math.sqrt(n))
    return scipy.stats.t.sf(t, n - 1), scipy.stats.t.cdf(t, n - 1)


# ---- one comparison --------------------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(-1, 1), min_size=ENOUGH, max_size=12).filter(lambda v: numpy.std(v) > 1e-3), st.floats(-0.5, 0.5))
def test_above_is_students_test_of_one_side(values: list[float], limit: float) -> None:
    evidence = above("a over b", values, limit)
    for side, p in (("greater", evidence.holds), ("less", evidence.fails)):
        assert p == pytest.approx(scipy.stats.ttest_1samp(values, limit, alternative=side).pvalue, rel=1e-6, abs=1e-12)
    ((error, n),) = [part[:2] for part in evidence.errors]
    assert error == pytest.approx(100 * numpy.std(values, ddof=1) / math.sqrt(len(values))) and n == len(values)
    assert evidence.text.startswith("a over b ") and evidence.unit == " points"
    assert above("", [*values, math.nan], limit).holds == evidence.holds  # NaN are left out


@pytest.mark.parametrize(
    ("value", "expected"), [(0.1, (0, 1)), (-0.1, (1, 0)), (0.0, (1, 1)), (0.1 + 0.2 - 0.3, (1, 1)), (0.3 - 0.1 - 0.2, (1, 1))]
)
def test_equal_values_speak_for_their_sign(value: float, expected: tuple[float, float]) -> None:
    """But not for the sign of a rounding error."""
    evidence = above("", [value] * ENOUGH)
    assert (evidence.holds, evidence.fails) == expected and not evidence.errors
    shifted = above("", [0.7 + value] * ENOUGH, 0.7)
    assert (shifted.holds, shifted.fails) == expected


@pytest.mark.parametrize("n", range(ENOUGH))
def test_fewer_replications_decide_nothing(n: int) -> None:
    evidence = above("a", [0.3 + 0.001 * k for k in range(n)])
    assert (evidence.holds, evidence.fails) == (1, 1) and f"fewer than {ENOUGH}" in evidence.text
    assert above("a", [0.3] * n + [math.nan] * ENOUGH).holds == 1
    enough = above("a", [0.3 + 0.001 * k for k in range(ENOUGH)])
    assert enough.holds < 1e-6 and "fewer" not in enough.text


def test_between_is_above_the_lower_limit_and_below_the_upper_one() -> None:
    values = numpy.random.default_rng(0).normal(0.1, 0.05, 8)
    evidence = between("rho", values, -0.1, 0.1, factor=1, unit="")
    low, high = above("", values, -0.1), above("", -values, -0.1)
    assert evidence.holds == max(low.holds, high.holds) and evidence.fails == min(1, 2 * min(low.fails, high.fails))
    assert evidence.text == above("rho", values, factor=1, unit="").text and evidence.unit == ""
    assert between("", [0.5 + 0.01 * k for k in range(6)], -0.1, 0.1).fails < 1e-4 > between("", [0.01 * k for k in range(6)], -1, 1).holds


# ---- statements of several parts -------------------------------------------------------------------------------------------------


@given(PARTS, st.data())
def test_at_least_against_all_subsets(p: list[tuple[float, float]], data: st.DataObject) -> None:
    """Fewer than u of m parts hold only if some m - u + 1 parts all do not: each such set is tested by Bonferroni."""
    m, needed = len(p), data.draw(st.integers(1, len(p)))
    evidence = at_least(needed, parts_of(p))

    def naive(values: list[float], u: int) -> float:
        size = m - u + 1
        return min(1.0, max(size * min(group) for group in itertools.combinations(values, size)))

    assert evidence.holds == pytest.approx(naive([holds for holds, _ in p], needed))
    assert evidence.fails == pytest.approx(naive([fails for _, fails in p], m - needed + 1))


@given(PARTS)
def test_every_part_must_hold_and_a_single_one_refutes(p: list[tuple[float, float]]) -> None:
    evidence = every(parts_of(p))
    assert evidence.holds == max(holds for holds, _ in p) and evidence.fails == min(1.0, len(p) * min(fails for _, fails in p))
    assert evidence.text == "; ".join(f"part {k}" for k in range(len(p))) and every(parts_of(p), "short").text == "short"
    assert most(parts_of(p)) == at_least(len(p) // 2 + 1, parts_of(p))


@pytest.mark.parametrize(("needed", "parts"), [(0, 2), (3, 2), (1, 0)])
def test_parts_that_cannot_be_counted(needed: int, parts: int) -> None:
    with pytest.raises(ValueError, match=rf"{needed} of {parts} parts"):
        at_least(needed, [missing("x")] * parts)


# ---- families --------------------------------------------------------------------------------------------------------------------


@given(PARTS)
def test_decisions_are_holms_over_both_sides(p: list[tuple[float, float]]) -> None:
    two_sided = [min(1.0, 2 * min(pair)) for pair in p]
    order, corrected, largest = sorted(range(len(p)), key=lambda k: two_sided[k]), {}, 0.0
    for place, k in enumerate(order):
        largest = max(largest, min(1.0, (len(p) - place) * two_sided[k]))
        corrected[k] = largest
    for directions, words in ((False, (HOLDS, FAILS, OPEN)), (True, (SAME, OPPOSITE, NEITHER))):
        for k, decision in enumerate(decide(parts_of(p), directions=directions)):
            assert decision.p == pytest.approx(math.nan if p[k] == (1, 1) else corrected[k], nan_ok=True)
            word = words[2] if corrected[k] > ALPHA else words[0] if p[k][0] < p[k][1] else words[1]
            assert decision.verdict == word or corrected[k] == pytest.approx(ALPHA)
            assert decision.text.startswith(f"part {k}")


def test_only_a_statement_without_evidence_has_no_p_value() -> None:
    equal = [above("part", [-1.0, -0.5, 0.1, 0.5, 1.0])] * 4  # p of 0.5 on each side: Bonferroni makes 1 of both
    assert math.isnan(decide([missing("nothing")])[0].p) and decide([at_least(2, equal)])[0].p == 1.0


def test_the_words_of_decisions() -> None:
    family = [Evidence(0.001, 1, "for"), Evidence(1, 0.001, "against"), missing("nothing")]
    assert [d.verdict for d in decide(family)] == ["holds", "does not hold", "undecided"]
    assert [d.verdict for d in decide(family, directions=True)] == ["same direction", "opposite direction", "no direction"]
    assert decide([]) == []
    alone, among = Evidence(0.02, 1, "a"), [Evidence(0.02, 1, "a"), missing("b")]
    assert decide([alone])[0].verdict == HOLDS and decide(among)[0].verdict == OPEN  # a family costs


def test_undecided_statements_say_what_they_could_have_detected() -> None:
    noisy = above("a", [0.03, -0.02, 0.01, 0.02, -0.03])
    (decision,) = decide([noisy])
    assert decision.text == f"{noisy.text}; detects {detectable(noisy, 1):.2g} points with power 80%"
    assert "detects" not in decide([above("a", [0.3, 0.31, 0.3, 0.29, 0.3])])[0].text  # decided
    assert "detects" not in decide([missing("a")])[0].text and math.isnan(detectable(missing("a"), 1))
    assert math.isnan(detectable(every([noisy, missing("a")]), 1)) and detectable(at_least(1, [noisy, missing("a")]), 1) > 0
    assert detectable(noisy, 1) < detectable(noisy, 5) < detectable(every([noisy] * 3), 5)
    wide = above("b", [0.3, -0.2, 0.1, 0.2, -0.3])
    assert detectable(every([noisy, wide]), 2) == pytest.approx(10 * detectable(every([noisy, noisy]), 2))  # the part with the most noise


@pytest.mark.parametrize("equal", [False, True])
def test_an_effect_of_the_detectable_size_is_detected(equal: bool) -> None:
    """In 80 % of draws with one part, and at least as often with several, however these depend on each other."""
    draws, n, family, needs = 1000, 5, 4, {"one": (1, 1), "every": (3, 3), "most": (5, 3), "two": (4, 2)}
    for name, (m, needed) in needs.items():
        noise = numpy.random.default_rng(3).normal(size=(draws, 1 if equal else m, n)) + numpy.zeros((1, m, 1))
        sample = at_least(needed, [above("", 0.01 * noise[0, k]) for k in range(m)])
        exact = Evidence(1, 1, "", "", tuple((1 / math.sqrt(n), *error[1:]) for error in sample.errors))  # the true spread is 1
        holds, fails = both_sides(noise + detectable(exact, family))
        others = [missing("")] * (family - 1)
        words = [
            decide([at_least(needed, [Evidence(*p, "") for p in zip(*pair, strict=True)]), *others])[0].verdict
            for pair in zip(holds, fails, strict=True)
        ]
        power, error = words.count(HOLDS) / draws, 3 * math.sqrt(POWER * (1 - POWER) / draws)
        assert power >= POWER - error, name
        assert name != "one" or power <= POWER + error


@pytest.mark.parametrize("n", [5, 20])
def test_equal_nulls_are_rarely_decided(n: int) -> None:
    """Of 1,000 families without an effect at most 5 % have any decision. Their comparisons share a side, as those with random do."""
    draws, rng = 1000, numpy.random.default_rng(n)
    values = rng.normal(size=(draws, 6, 3, n)) - rng.normal(size=(draws, 1, 1, n))
    holds, fails = both_sides(values)
    combine, wrong, naive = (every, most, lambda parts: at_least(2, parts)), 0, 0
    for p in zip(holds, fails, strict=True):
        parts = [[Evidence(*pair, "") for pair in zip(*rows, strict=True)] for rows in zip(*p, strict=True)]
        family = [parts[0][0], parts[1][0], *(combine[k % 3](group) for k, group in enumerate(parts))]
        wrong += any(decision.verdict != OPEN for decision in decide(family))
        naive += any(min(part.holds, part.fails) <= ALPHA / 2 for group in parts for part in group)
    assert wrong / draws <= ALPHA + 3 * math.sqrt(ALPHA * (1 - ALPHA) / draws)
    assert naive / draws > 3 * ALPHA  # what no correction would do


# ---- parts of a spread -----------------------------------------------------------------------------------------------------------


@given(st.lists(st.lists(st.floats(-1, 1), min_size=1, max_size=4), min_size=2, max_size=6).filter(lambda g: max(map(len, g)) > 1))
def test_components_against_a_naive_analysis_of_variance(groups: list[list[float]]) -> None:
    everything, k = [value for group in groups for value in group], len(groups)
    n, grand = len(everything), sum(everything) / len(everything)
    inside = outside = 0.0
    for group in groups:
        mean = sum(group) / len(group)
        inside += sum((value - mean) ** 2 for value in group)
        outside += len(group) * (mean - grand) ** 2
    inside, outside = inside / (n - k), outside / (k - 1)
    size = (n - sum(len(group) ** 2 for group in groups) / n) / (k - 1)
    within, between_groups = components(groups)
    assert within**2 == pytest.approx(inside, abs=1e-12) and between_groups**2 == pytest.approx(max(0, (outside - inside) / size), abs=1e-9)


def test_components_without_nested_values() -> None:
    within, outside = components([[0.1], [0.2], [0.4]])
    assert math.isnan(within) and outside == pytest.approx(numpy.std([0.1, 0.2, 0.4], ddof=1))
    assert all(map(math.isnan, components([[0.1, 0.2]])))


def test_components_are_unbiased() -> None:
    """Variances 1 within and 4 between, averaged over 300 unbalanced draws of 8 groups."""
    rng, squares = numpy.random.default_rng(0), []
    for _ in range(300):
        groups = [rng.normal(rng.normal(0, 2), 1, size) for size in (2, 3, 4, 2, 3, 4, 1, 3)]
        squares.append([part**2 for part in components(groups)])
    assert numpy.mean(squares, axis=0) == pytest.approx([1, 4], rel=0.1)


def test_numbers_of_the_method() -> None:
    assert (ALPHA, POWER, ENOUGH) == (0.05, 0.8, 5)
    for n, alpha in ((5, 0.025), (20, 0.001)):
        effect = verdicts.noncentrality(n, alpha, POWER)
        assert scipy.stats.nct.sf(scipy.stats.t.isf(alpha, n - 1), n - 1, effect) == pytest.approx(POWER)
