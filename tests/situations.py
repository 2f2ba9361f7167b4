"""What people do to such tools: tests marked `situation`, and the table of them in tests/SITUATIONS.md.

    @pytest.mark.situation("B3", "alnb run Q -p lr -1e-3", "lr is -0.001")        # also as marks= of a pytest.param

The three words are the situation's name, its input, and what should happen. `pytest -m situation --situations` executes these tests
and writes the table: all rows anew, with the outcome of each. A row without a result, or a failed one, says so in the table.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

REPORT = Path(__file__).parent / "SITUATIONS.md"
MARK = "situation"
HEAD = """\
# Situations

What people do to such tools, and what this one makes of it. Written by `make situations` from the tests marked `situation`; do not edit.
"""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--situations", action="store_true", help=f"write the table of the tests marked {MARK} to {REPORT.name}")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    item.user_properties += [(MARK, list(words(mark))) for mark in item.iter_markers(MARK)]


def words(mark: pytest.Mark) -> tuple[str, str, str]:
    """Name, input and outcome."""
    if len(mark.args) != 3 or not all(isinstance(word, str) and word for word in mark.args):
        raise pytest.UsageError(f"{MARK}{mark.args}: give three texts: name, input, outcome")
    return mark.args


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """In the process that has all reports, also with xdist."""
    if config.getoption("--situations"):
        rows = sorted(set(_rows(terminalreporter.stats)))
        failed = sum(result != "ok" for *_, result in rows)
        REPORT.write_text(table(rows), encoding="utf-8")
        terminalreporter.write_line(f"{len(rows)} situations, {failed} of them not as they should be: {REPORT}")


def _rows(stats: dict[str, list[Any]]) -> Iterator[tuple[str, ...]]:
    results = {"passed": "ok", "failed": "**fails**", "error": "**fails**", "skipped": "not tried here", "xfailed": "**open**"}
    for outcome, result in results.items():
        for report in stats.get(outcome, []):
            test = report.nodeid.removeprefix("tests/")
            for name, value in report.user_properties:
                if name == MARK:
                    yield test.partition("/")[0], *value, test.partition("[")[0], result


def table(rows: list[tuple[str, ...]]) -> str:
    """The rows (room, name, input, outcome, test, result) as Markdown."""
    lines = ["| room | id | input | what happens | test | result |", "|---|---|---|---|---|---|"]
    lines += [f"| {' | '.join(' '.join(cell.split()).replace('|', chr(92) + '|') for cell in row)} |" for row in rows]
    results = [row[-1] for row in rows]
    counts = ", ".join(f"{results.count(result)} {result}" for result in dict.fromkeys(results))
    return "\n".join([HEAD, f"{len(rows)} situations: {counts}.", "", *lines, ""])
