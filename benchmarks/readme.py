"""The README's tables, from `results.json`.  ``python -m benchmarks.readme`` writes them, with ``--check`` it only compares."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from alnb import store
from benchmarks.__main__ import NAMES, RESULTS, met

README = Path(__file__).parents[1] / "README.md"


def bars(results: dict[str, Any]) -> str:
    """A row for each benchmark: what, ratio, bar, met or not, how it was measured."""
    lines = ["| what | measured | bar | | how |", "|---|--:|--:|---|---|"]
    for row in (row for name in NAMES for row in results[name]["rows"]):
        verdict = "not measured" if row["ratio"] is None else "met" if met(row) else "**missed**"
        value = "–" if row["ratio"] is None else f"{row['ratio']:.3g}"
        sign = "≥" if row["sense"] == ">=" else "≤"
        lines.append(f"| {row['name']} | {value} | {sign} {row['bar']:g} | {verdict} | {row['detail']} |")
    places = {f"Python {on['python']}, torch {on['torch']}, {on['threads']} threads on {on['cpu']}" for on in _environments(results)}
    lines.append(
        f"\nMeasured with {'; '.join(sorted(places))}. A ratio of two times that are alike, as in the first row, may pass 1 by noise."
    )
    return "\n".join(lines)


def _environments(results: dict[str, Any]) -> list[dict[str, Any]]:
    return [results[name]["environment"] for name in NAMES]


def digits(results: dict[str, Any]) -> str:
    """A row for each arm and strategy on the digits."""
    found = results["digits"]["rows"][0]["table"]
    head = "labels to reach random's final accuracy in the same arm"
    lines = [f"| net starts | strategy | {head} | fewer than random | final accuracy |", "|---|---|--:|--:|--:|"]
    for row in found["rows"]:
        labels = "not reached" if row["labels"] is None else f"{row['labels']:.0f}"
        saved = "–" if row["labels"] is None else f"{row['saved']:.0%}"
        lines.append(f"| {row['arm']} | {row['strategy']} | {labels} | {saved} | {row['final']:.1%} |")
    lines.append(f"\n{found['finding']}")
    return "\n".join(lines)


TABLES: dict[str, Callable[[dict[str, Any]], str]] = {"bars": bars, "digits": digits}


def filled(text: str, results: dict[str, Any]) -> str:
    """`text` with what stands between ``<!-- NAME -->`` and ``<!-- /NAME -->`` made anew."""
    for name, table in TABLES.items():
        begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
        head, rest = text.split(begin)
        text = head + begin + table(results) + "\n" + end + rest.split(end)[1]
    return text


def main(arguments: list[str]) -> int:
    """Exit status 1 if `--check` finds another README than it would write."""
    text = README.read_text()
    new = filled(text, store.read_json(RESULTS))
    if "--check" in arguments:
        print("README.md is as the results are" if new == text else "README.md is stale: `make readme` makes its tables anew")
        return int(new != text)
    store.write_atomic(README, new.encode())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
