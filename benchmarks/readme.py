"""The README's tables, from `results.json`.  ``python -m benchmarks.readme`` writes them, with ``--check`` it only compares."""

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas

from alnb import store
from alnb.papers.bengar2021 import claims
from alnb.papers.bengar2021 import experiment as bengar2021
from alnb.papers.published import published
from alnb.papers.yi2022 import experiment as yi2022
from alnb.report import records
from benchmarks.__main__ import LONG, NAMES, RESULTS, met
from benchmarks.yi2022 import CLAIMS, beside, claimed, compared, correlations

README = Path(__file__).parents[1] / "README.md"


def bars(results: dict[str, Any]) -> str:
    """A row for each benchmark: what, ratio, bar, met or not, how it was measured."""
    lines = ["| what | measured | bar | | how |", "|---|--:|--:|---|---|"]
    for row in (row for name in (*NAMES, *LONG) if name in results for row in results[name]["rows"]):
        verdict = "not measured" if row["ratio"] is None else "met" if met(row) else "**missed**"
        value = "–" if row["ratio"] is None else f"{row['ratio']:.3g}"
        sign = "≥" if row["sense"] == ">=" else "≤"
        lines.append(f"| {row['name']} | {value} | {sign} {row['bar']:g} | {verdict} | {row['detail']} |")
    missing = [name for name in (*NAMES, *LONG) if name not in results]
    lines += [f"| `python -m benchmarks {name}` | – | – | not measured | was not run to its end here |" for name in missing]
    places = {f"Python {on['python']}, torch {on['torch']}, {on['threads']} threads on {on['cpu']}" for on in _environments(results)}
    lines.append(
        f"\nMeasured with {'; '.join(sorted(places))}. A ratio of two times that are alike, as in the first row, may pass 1 by noise."
    )
    return "\n".join(lines)


def _environments(results: dict[str, Any]) -> list[dict[str, Any]]:
    return [results[name]["environment"] for name in (*NAMES, *LONG) if name in results]


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


NOT_YET = "not yet"


def bengar(results: dict[str, Any]) -> str:
    """Each number that Bengar et al. 2021 print, beside ours at scale paper, from the records that git keeps, and at scale laptop."""
    laptop = _laptop(results)
    frame = bengar2021.read(bengar2021.folder("paper"), "paper")
    paper = (
        {} if frame.empty else {"table1": bengar2021.table1(frame).to_dict("records"), "figure6": claims.figure6(frame).to_dict("records")}
    )
    lines = ["| | paper | ours, scale `paper` | ours, scale `laptop` | seeds (`paper`, `laptop`) |", "|---|--:|--:|--:|---|"]
    for row in published("bengar2021", item="Table 1").itertuples():
        name = f"accuracy, half labelled: {row.dataset}, {ARM[row.arm]}, {row.strategy}"
        same = {"dataset": row.dataset, "arm": row.arm, "strategy": row.strategy}
        ours = [_find(table.get("table1", ()), same) for table in (paper, laptop)]
        lines.append(_beside(name, f"{row.value:.3f}", [None if one is None else one["measured"] for one in ours], ours, "{:.3f}"))
    for row in published("bengar2021", metric="threshold_per_class", arm="frozen").itertuples():
        ours = [_find(table.get("figure6", ()), {"dataset": row.dataset}) for table in (paper, laptop)]
        name = f"labels per class from which choosing pays: {row.dataset}, {ARM['frozen']}"
        printed = f"{'' if row.exact else 'more than '}{row.value:g}"
        lines.append(_beside(name, printed, [None if one is None else _threshold(one) for one in ours], ours, "{}"))
    knn = ", ".join(f"{value:.1%} on {name}" for name, value in laptop["knn"].items())
    lines.append(f"\nAt scale `laptop` the nearest-neighbour accuracy of the self-supervised features is {knn}.")
    return "\n".join(lines)


ARM = {"frozen": "self-supervised", "scratch": "from scratch"}


def _laptop(results: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = results["bengar2021"]["rows"][-1]["table"]
    return found


def _find(rows: Any, wanted: dict[str, Any]) -> dict[str, Any] | None:
    """The first of `rows` with the values `wanted` that was measured."""
    fits = (row for row in rows if all(row[name] == value for name, value in wanted.items()) and row["seeds"] == row["seeds"])
    return next((row for row in fits if row["seeds"] is not None), None)


def _threshold(row: dict[str, Any]) -> str:
    """With its bootstrap interval; None and infinity both say that random was not beaten within what was tried."""

    def shown(value: float | None) -> str:
        return f"more than {row['tried']:g}" if value is None or value == float("inf") else f"{value:g}"

    return f"{shown(row['labels_per_class'])} ({shown(row['low'])} to {shown(row['high'])})"


def _beside(name: str, printed: str, values: list[Any], ours: list[Any], form: str) -> str:
    shown = [NOT_YET if value is None else form.format(value) for value in values]
    seeds = ", ".join("–" if one is None else f"{one['seeds']:.0f}" for one in ours)
    return f"| {name} | {printed} | {shown[0]} | {shown[1]} | {seeds} |"


def ends(results: dict[str, Any]) -> str:
    """The last point of each curve of Figures 3 to 5 at scale laptop, a row for each step and arm, a column for each strategy."""
    rows, names = _laptop(results)["ends"], bengar2021.ARMS["frozen"]
    lines = [f"| | labels | {' | '.join(names)} | seeds |", "|---|--:|" + "--:|" * len(names) + "---|"]
    for key in dict.fromkeys((row["dataset"], row["arm"], row["n_labelled"], row["pool"]) for row in rows):
        own = {row["strategy"]: row for row in rows if (row["dataset"], row["arm"], row["n_labelled"], row["pool"]) == key}
        dataset, arm, labels, pool = key
        seeds = " to ".join(map(str, sorted({row["seeds"] for row in own.values()})))
        values = (f"{own[name]['accuracy']:.1%}" if name in own else "–" for name in names)
        lines.append(f"| {dataset}, {ARM[arm]} | {labels:,} of {pool:,} | {' | '.join(values)} | {seeds} |")
    return "\n".join(lines)


def floors(results: dict[str, Any]) -> str:
    """Ways to train from scratch on few labels, beside the frozen arm."""
    lines = ["| labels | training | accuracy | 95 % interval | seeds |", "|--:|---|--:|---|--:|"]
    for row in results["scratch_floor"]["rows"][0]["table"]:
        name = "linear classifier on the frozen backbone" if row["training"] == "frozen" else f"from scratch, {row['training']}"
        spread = f"{row['low']:.1%} to {row['high']:.1%}"
        lines.append(f"| {row['n_labelled']} | {name} | {row['accuracy']:.1%} | {spread} | {row['seeds']} |")
    return "\n".join(lines)


def pretrainings(results: dict[str, Any]) -> str:
    """The lead of random choice on frozen features over training from scratch, a row for each pre-training, a column for each budget."""
    rows = results["pretraining_seeds"]["rows"][0]["table"]
    labels = sorted({row["n_labelled"] for row in rows})
    lines = [
        f"| pre-training | nearest neighbours | {' | '.join(f'{n} labels' for n in labels)} | seeds |",
        "|--:|--:|" + "---|" * len(labels) + "--:|",
    ]
    for number in dict.fromkeys(row["pretraining"] for row in rows):
        own = {row["n_labelled"]: row for row in rows if row["pretraining"] == number}
        gaps = (f"{100 * own[n]['mean']:+.1f} ({100 * own[n]['low']:+.1f} to {100 * own[n]['high']:+.1f})" for n in labels)
        first = own[labels[0]]
        lines.append(f"| {number} | {first['knn']:.1%} | {' | '.join(gaps)} | {first['n']} |")
    return "\n".join(lines)


def said(results: dict[str, Any]) -> str:
    """The paper's claims with their verdicts at both scales, and the figures behind those at scale laptop."""
    frame = bengar2021.read(bengar2021.folder("paper"), "paper")
    lines = ["| claim | | scale `paper` | scale `laptop` | figures at scale `laptop` |", "|---|---|---|---|---|"]
    for dataset, rows in _laptop(results)["claims"].items():
        run = not frame.empty and dataset in set(frame["dataset"])
        verdicts = dict(claims.claims(frame, dataset)[["claim", "verdict"]].to_numpy()) if run else {}
        for row in rows:
            verdict = verdicts.get(row["claim"], NOT_YET)
            lines.append(f"| {row['claim']}, {dataset} | {row['says']} | {verdict} | **{row['verdict']}** | {row['figures']} |")
    return "\n".join(lines)


def yi(results: dict[str, Any]) -> str:
    """Each number that Yi et al. 2022 print of CIFAR-10, beside ours: at scale paper, from the records that git keeps, and at laptop."""
    paper = beside(_paper(), compared(yi2022.folder("paper"), "paper"))
    laptop = {(row["item"], row["strategy"], row["metric"]): row for row in _pt4al(results).get("beside", ())}
    lines = ["| | paper | ours, scale `paper` | ours, scale `laptop` | seeds (`paper`, `laptop`) |", "|---|--:|--:|--:|---|"]
    for row in paper:
        found = (row, laptop.get((row["item"], row["strategy"], row["metric"])))
        ours = [one if one and one["measured"] is not None else None for one in found]
        form = "{:.3f}" if row["metric"] == "correlation" else "{:.2%}"
        name = f"{row['metric'].replace('_', ' ')}: {row['item']}, {row['strategy']}"
        lines.append(_beside(name, form.format(row["published"]), [one and one["measured"] for one in ours], ours, form))
    return "\n".join(lines)


def _pt4al(results: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = results.get("yi2022", {"rows": [{}]})["rows"][-1].get("table", {})
    return found


def _paper() -> pandas.DataFrame:
    finished = records.find(yi2022.folder("paper"), paper=yi2022.PAPER)
    return records.frame(finished) if finished else pandas.DataFrame()


def yi_costs(results: dict[str, Any]) -> str:
    """Table 2 at scale laptop."""
    lines = ["| method | seconds | of these, pretext | queries | ratio to random | the paper's ratio |", "|---|--:|--:|--:|--:|--:|"]
    for row in _pt4al(results).get("costs", ()):
        printed = "–" if row["published"] is None else f"{row['published']:.2f}"
        seconds = " | ".join(f"{row[name]:.0f}" for name in ("total", "pretext", "query"))
        lines.append(f"| {row['strategy']} | {seconds} | {row['ratio']:.2f} | {printed} |")
    return "\n".join(lines)


def yi_protocols(results: dict[str, Any]) -> str:
    """What each switch is worth at scale laptop, in points of accuracy."""
    lines = ["| protocol | random, over clean | PT4AL, over clean | PT4AL over random under it | seeds |", "|---|---|---|---|--:|"]
    rows = _pt4al(results).get("protocols", ())
    for preset in dict.fromkeys(row["preset"] for row in rows):
        own = {row["strategy"]: row for row in rows if row["preset"] == preset}
        cells = [_points(own[name], "difference", "low", "high") for name in ("random", "pt4al")]
        cells.append(_points(own["pt4al"], "gain", "gain_low", "gain_high"))
        lines.append(f"| {preset} | {' | '.join(cells)} | {own['pt4al']['seeds']} |")
    return "\n".join(lines)


def _points(row: dict[str, Any], *names: str) -> str:
    mean, low, high = (math.nan if row[name] is None else 100 * row[name] for name in names)
    return f"{mean:+.1f} ({low:+.1f} to {high:+.1f})"


def yi_claims(results: dict[str, Any]) -> str:
    """The claims of Yi et al. 2022 with their verdicts at both scales, and the figures behind those at scale laptop."""
    frame, lines = _paper(), ["| claim | | scale `paper` | scale `laptop` | figures at scale `laptop` |", "|---|---|---|---|---|"]
    for name in ("figure2", *CLAIMS):
        found = correlations(yi2022.folder("paper"), "paper") if name == "figure2" else claimed(frame, name)
        paper = {(row.claim, row.statement): row.verdict for row in found.itertuples()}
        for row in _pt4al(results).get(f"claims {name}", ()):
            verdict = paper.get((row["claim"], row["statement"]), NOT_YET)
            lines.append(f"| {row['claim']}, `{name}` | {row['statement']} | {verdict} | **{row['verdict']}** | {row['evidence']} |")
    return "\n".join(lines)


TABLES: dict[str, Callable[[dict[str, Any]], str]] = {
    "bars": bars,
    "digits": digits,
    "bengar": bengar,
    "ends": ends,
    "floors": floors,
    "pretrainings": pretrainings,
    "claims": said,
    "yi2022": yi,
    "yi2022_costs": yi_costs,
    "yi2022_protocols": yi_protocols,
    "yi2022_claims": yi_claims,
}


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
