"""Claims of a paper put to runs: the table of verdicts that the papers share."""

from collections.abc import Iterable
from dataclasses import replace

from pandas import DataFrame

from alnb.papers.experiment import Scale
from alnb.report.verdicts import Evidence, decide, missing


def table(statements: Iterable[tuple[str, str, Evidence]], scale: str, *notes: str) -> DataFrame:
    """A row for each statement of a family, given as the claim's name, its text, and the evidence; `notes` stand after each evidence.

    The statements of a table are one family: the chance that any of them is decided, either way, without an effect is at most 5 %. Scale
    laptop shows directions, and smoke nothing.

    Returns:
        Columns: claim, statement, verdict, p (two-sided, corrected by Holm), evidence.
    """
    at, rows = Scale(scale), list(statements)
    family = [evidence if at.informs else missing(f"{evidence.text}; {scale} runs decide nothing") for _, _, evidence in rows]
    family = [replace(evidence, text="; ".join([evidence.text, *notes])) for evidence in family]
    decisions = decide(family, directions=not at.decides)
    lines = [(claim, text, d.verdict, d.p, d.text) for (claim, text, _), d in zip(rows, decisions, strict=True)]
    return DataFrame(lines, columns=["claim", "statement", "verdict", "p", "evidence"])
