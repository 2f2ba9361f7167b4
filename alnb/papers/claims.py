"""Claims of a paper put to runs: the table of verdicts, and that of the spread, which the papers share."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from pandas import DataFrame, Index, MultiIndex

from alnb.papers.experiment import Scale
from alnb.report.stats import interval, unit
from alnb.report.verdicts import Evidence, components, decide, missing


def table(statements: Iterable[tuple[str, str, Evidence]], scale: str, *notes: str) -> DataFrame:
    """A row for each statement, given as the claim's name, its text, and the evidence; `notes` stand after each evidence.

    The statements are one family: without an effect the chance that any is decided, either way, is at most 5 %. Scale laptop shows
    directions, and smoke nothing.

    Returns:
        Columns: claim, statement, verdict, p (two-sided, corrected by Holm), evidence.
    Raises: ValueError if there is no such scale.
    """
    at, rows = Scale(scale), list(statements)
    family = [evidence if at.informs else missing(f"{evidence.text}; {scale} runs decide nothing") for _, _, evidence in rows]
    family = [replace(evidence, text="; ".join([evidence.text, *notes])) for evidence in family]
    decisions = decide(family, directions=not at.decides)
    lines = [(claim, text, d.verdict, d.p, d.text) for (claim, text, _), d in zip(rows, decisions, strict=True)]
    return DataFrame(lines, columns=["claim", "statement", "verdict", "p", "evidence"])


def spread_parts(frame: DataFrame, by: Sequence[str] = ("part",)) -> DataFrame:
    """Accuracy and the two parts of its spread, for each value of the columns `by`; one cycle of each run.

    Columns: mean, low, high (95 % interval over replications), within, between (standard deviations of runs that share a pretext or
    backbone, and of replications; within is NaN without such runs), replications, runs.
    """
    rows = {}
    for name, runs in frame.groupby(list(by), sort=False):
        groups = runs.groupby(unit(runs))["accuracy"]
        means, (within, between) = groups.mean(), components(group for _, group in groups)
        rows[name] = (means.mean(), *interval(means), within, between, len(means), len(runs))
    table = DataFrame.from_dict(rows, orient="index", columns=["mean", "low", "high", "within", "between", "replications", "runs"])
    return table.set_axis(MultiIndex.from_tuples(rows, names=by) if len(by) > 1 else Index([name for (name,) in rows], name=by[0]))
