"""Claims of a paper put to runs: comparisons, what each decides, and the table of both that the papers share."""

from collections.abc import Iterable
from dataclasses import dataclass

from pandas import DataFrame

from alnb.papers.experiment import Scale, decided
from alnb.report import stats
from alnb.report.stats import FAILS, HOLDS, OPEN, Difference, Verdict


@dataclass(frozen=True)
class Comparison:
    """What one comparison decides, and its figures."""

    verdict: Verdict
    text: str


def compared(label: str, difference: Difference) -> Comparison:
    """Whether a difference is above 0."""
    return Comparison(stats.verdict(difference), f"{label} {difference}")


def within(low: float, high: float, limits: tuple[float, float]) -> Verdict:
    """Whether an interval lies wholly within the limits, wholly outside, or neither."""
    if limits[0] <= low and high <= limits[1]:
        return HOLDS
    return FAILS if high < limits[0] or low > limits[1] else OPEN


def table(statements: Iterable[tuple[str, str, Iterable[Comparison]]], scale: str, *notes: str) -> DataFrame:
    """A row for each statement, given as the claim's name, its text, and its parts. `notes` stand after the evidence of each.

    A statement holds if all its parts hold, and does not hold if one does not. Scale smoke decides nothing.

    Returns:
        Columns: claim, statement, verdict, evidence.
    """
    notes = notes if Scale(scale).decides else (*notes, f"{scale} runs decide nothing")
    rows = []
    for claim, text, comparisons in statements:
        parts = list(comparisons)
        evidence = "; ".join(dict.fromkeys([*(part.text for part in parts), *notes]))
        rows.append((claim, text, decided(scale, stats.every(part.verdict for part in parts)), evidence))
    return DataFrame(rows, columns=["claim", "statement", "verdict", "evidence"])
