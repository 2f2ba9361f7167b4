"""Verdicts: tests over replications, statements of several parts, and Holm's correction over a family of statements.

A statement is decided either way. Each way has a p-value: `holds` is small if the records speak for the statement, `fails` if they speak
against it. Both are of one-sided tests by Student's t over replications, and valid whatever the other replications share.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Literal

import numpy
import scipy.stats
from pandas import Series
from scipy.optimize import brentq

from alnb.report.stats import ENOUGH, all_equal, difference, holm, one_sided_t

Verdict = Literal["holds", "does not hold", "undecided", "same direction", "opposite direction", "no direction"]
HOLDS: Verdict = "holds"
FAILS: Verdict = "does not hold"
OPEN: Verdict = "undecided"
SAME: Verdict = "same direction"
OPPOSITE: Verdict = "opposite direction"
NEITHER: Verdict = "no direction"
ALPHA = 0.05  # chance that any statement of a family is decided, either way, if all effects are 0
POWER = 0.8  # chance to detect the smallest detectable effect


@dataclass(frozen=True)
class Evidence:
    """What records say of a statement, or of a part of one."""

    holds: float  # p-value of the test whose rejection means that the statement holds
    fails: float  # p-value of the test whose rejection means that it does not hold
    text: str
    unit: str = ""  # of `errors`, such as " points"
    errors: tuple[tuple[float, int, int], ...] = field(default=(), repr=False)
    """Of each part: its standard error, in `unit`, its replications, and by how many tests its p-value is multiplied."""


def missing(text: str) -> Evidence:
    """No evidence: `text` says why."""
    return Evidence(1.0, 1.0, text)


def above(label: str, values: Iterable[float], limit: float = 0.0, *, factor: float = 100.0, unit: str = " points") -> Evidence:
    """Whether the mean of `values`, one of each replication, is above `limit`. NaN are left out.

    factor, unit: of the numbers in the text; by default accuracies become points.
    """
    known = Series(list(values), dtype=float).dropna()
    text = f"{label} {difference(known).text(factor, '+.1f' if factor == 100 else '+.2f', unit)}"
    if len(known) < ENOUGH:
        return missing(f"{text}: fewer than {ENOUGH} replications")
    error = factor * float(known.std(ddof=1)) / math.sqrt(len(known))
    return Evidence(*one_sided_t(known, limit), text, unit, () if all_equal(known, limit) else ((error, len(known), 1),))


def between(label: str, values: Iterable[float], low: float, high: float, *, factor: float = 100.0, unit: str = " points") -> Evidence:
    """Whether the mean of `values`, one of each replication, lies between two limits: above one, and below the other."""
    known = Series(list(values), dtype=float)
    sides = [above("", known, low, factor=factor, unit=unit), above("", -known, -high, factor=factor, unit=unit)]
    return every(sides, above(label, known, factor=factor, unit=unit).text)


def at_least(needed: int, parts: Sequence[Evidence], text: str | None = None) -> Evidence:
    """Whether `needed` or more of the parts hold. `text`: by default those of all parts.

    Source: Benjamini and Heller 2008 (Screening for partial conjunction hypotheses), equation 5, by Bonferroni: valid however the parts
    depend on each other.
    Raises: ValueError if there is no part, or `needed` is not between 1 and their number.
    """
    m = len(parts)
    if not 1 <= needed <= m:
        raise ValueError(f"at_least: {needed} of {m} parts: give parts, and need between 1 and all of them")
    holds, fails = sorted(part.holds for part in parts), sorted(part.fails for part in parts)
    tests = m - needed + 1  # the statement fails if so many parts fail
    p = min(1.0, tests * holds[needed - 1]), min(1.0, needed * fails[m - needed])
    errors = tuple((error, n, tests * others) for part in parts for error, n, others in part.errors)
    if sum(bool(part.errors) or part.holds < 1 for part in parts) < needed:
        errors = ()  # too many parts are missing: whatever the effect, the statement cannot hold
    shown = "; ".join(dict.fromkeys(part.text for part in parts)) if text is None else text
    return Evidence(*p, shown, next((part.unit for part in parts if part.errors), ""), errors)


def every(parts: Sequence[Evidence], text: str | None = None) -> Evidence:
    """Whether all parts hold. It fails if one of them does."""
    return at_least(len(parts), parts, text)


def most(parts: Sequence[Evidence], text: str | None = None) -> Evidence:
    """Whether more than half of the parts hold."""
    return at_least(len(parts) // 2 + 1, parts, text)


@cache
def noncentrality(n: int, alpha: float, power: float) -> float:
    """The true mean, in standard errors, that a one-sided t-test of `n` values at level `alpha` detects with probability `power`."""
    critical = float(scipy.stats.t.isf(alpha, n - 1))
    return float(brentq(lambda effect: scipy.stats.nct.sf(critical, n - 1, effect) - power, 0, critical + 50))


def detectable(evidence: Evidence, family: int) -> float:
    """The smallest effect, the same in every part, by which a statement holds with probability `POWER` in a family of `family` of them.

    A bound: it adds up the chances to miss single parts, and takes Holm's first step. In the unit of the evidence; NaN without a spread.
    """
    alpha, miss = ALPHA / 2 / family, (1 - POWER) / max(1, len(evidence.errors))
    return max((error * noncentrality(n, alpha / tests, 1 - miss) for error, n, tests in evidence.errors), default=math.nan)


@dataclass(frozen=True)
class Decision:
    """The verdict on a statement of a family."""

    verdict: Verdict
    p: float  # two-sided, corrected for the family; NaN without evidence
    text: str  # of the evidence; if undecided, with the smallest detectable effect


def decide(family: Sequence[Evidence], *, directions: bool = False) -> list[Decision]:
    """The verdicts on all statements of a family. The chance that any is decided, either way, without an effect is at most `ALPHA`.

    directions: the records are of another scale than the statements: they show a direction, and decide nothing.
    """
    corrected = holm(min(1.0, 2 * min(evidence.holds, evidence.fails)) for evidence in family)
    words = (SAME, OPPOSITE, NEITHER) if directions else (HOLDS, FAILS, OPEN)
    decisions = []
    for evidence, p in zip(family, corrected, strict=True):
        verdict = words[2] if p > ALPHA else words[0] if evidence.holds < evidence.fails else words[1]
        effect = detectable(evidence, len(family)) if p > ALPHA else math.nan
        power = f"; detects {effect:.2g}{evidence.unit} with power {POWER:.0%}" if math.isfinite(effect) else ""
        known = bool(evidence.errors) or min(evidence.holds, evidence.fails) < 1
        decisions.append(Decision(verdict, p if known else math.nan, evidence.text + power))
    return decisions


def components(values: Iterable[Iterable[float]]) -> tuple[float, float]:
    """Standard deviations within and between groups, by one-way analysis of variance; `values` are those of each group.

    The second is 0 if the means of groups scatter less than the values within them explain; the first is NaN if no group has two values.
    Source: Searle, Casella and McCulloch 1992, section 3.6.
    """
    groups = [numpy.fromiter(group, dtype=float) for group in values]
    sizes, means = numpy.array([len(group) for group in groups]), numpy.array([group.mean() for group in groups])
    n, k = sizes.sum(), len(groups)
    if n == k or k < 2:
        return math.nan, float(means.std(ddof=1)) if k > 1 else math.nan
    within = sum(((group - mean) ** 2).sum() for group, mean in zip(groups, means, strict=True)) / (n - k)
    between = (sizes * (means - (sizes * means).sum() / n) ** 2).sum() / (k - 1)
    size = (n - (sizes**2).sum() / n) / (k - 1)
    return math.sqrt(within), math.sqrt(max(0.0, (between - within) / size))
