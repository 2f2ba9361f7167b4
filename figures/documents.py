"""What was measured of the papers, as documents: ``python -m figures.documents`` (`make readme`) writes them, ``--check`` only compares.

`figures/README.md` is written whole, from `figures/results.json`, `figures/texts.json` and the pictures there; of `README.md` the table
between its markers. ``python -m benchmarks bengar2021 yi2022 which_strategy digits opponents`` measures what `figures/results.json` holds.
"""

import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from string import Formatter
from typing import Any

from PIL import Image

from alnb import store
from alnb.papers.published import published
from alnb.report import records, stats

PROJECT = Path(__file__).parents[1]
SCALES = ("laptop", "overnight", "paper")
Row = dict[str, Any]
HEADLINES = (  # of README.md: the notebook, its table of claims, and the claim
    ("bengar2021/figure3", "claims cifar10", "C1b"),
    ("bengar2021/figure5", "claims tiny_imagenet", "C1b"),
    ("bengar2021/figure3", "claims cifar10", "C2b"),
    ("bengar2021/figure3", "claims cifar10", "C3a"),
    ("yi2022/figure2", "claims figure2", "H1"),
    ("yi2022/figure3", "claims figure3", "P1"),
    ("yi2022/figure5b", "claims figure5b", "P5"),
    ("yi2022/figure6", "claims figure6", "P9"),
    ("yi2022/table1", "claims table1", "P13"),
    ("yi2022/table1", "claims table1", "P14"),
)


def table(columns: Mapping[str, str], rows: Iterable[Mapping[str, Any]]) -> str:
    """Rows as a table in Markdown.

    Args:
        columns: the head of each column, and the format of its cells, such as ``{accuracy:.1%}``; numbers stand right. A cell is a dash
            where a value is None.
    """
    rule = ["--:" if ":" in form else "--" for form in columns.values()]
    lines = [list(columns), rule, *([_cell(form, row) for form in columns.values()] for row in rows)]
    return "\n".join(f"|{'|'.join(line)}|" for line in lines)


def _cell(form: str, row: Mapping[str, Any]) -> str:
    names = [name for _, name, _, _ in Formatter().parse(form) if name]
    return "–" if any(row.get(name) is None for name in names) else form.format(**row)


def points(rows: Iterable[Row], *names: str) -> Iterator[Row]:
    """`rows` with the shares called `names` as points of accuracy."""
    return ({**row, **{name: 100 * row[name] for name in names if row.get(name) is not None}} for row in rows)


def pictures(captions: Mapping[str, str], figures: Path) -> Iterator[str]:
    """Each picture of `captions`, at all scales, with its caption and what its file says it was made from."""
    for name, caption in captions.items():
        for path in [figures / f"{name}.png", *(figures / f"{name}-{scale}.png" for scale in SCALES)]:
            if path.exists():
                with Image.open(path) as image:
                    source = f" ({image.info['Description']})" if "Description" in image.info else ""
                yield f"![{name}]({path.name})\n\n*{caption}*{source}"


def claims(tables: Row) -> Iterator[str]:
    """Every claim under a heading of its own: the sentence, the verdict, and the figures behind it as a list."""
    for name in (name for name in tables if name.startswith("claims ")):
        yield f"### Claims: {name.removeprefix('claims ')}"
        for row in tables[name]:
            source = f" ({row['source']})" if row.get("source") else ""
            p = f" (p = {row['p']:.2g})" if row.get("p") is not None else ""
            yield f"#### {row['claim']}: {row['verdict']}{p}\n\n> {row['statement']}{source}"
            yield "\n".join(f"- {part}" for part in row["evidence"].split("; "))


def digits(tables: Row) -> Iterator[str]:
    """Labels saved by each strategy of the quickstart."""
    reached = {
        "labels to reach random's final accuracy": "{labels:.0f}",
        "fewer than random": "{saved:.0%}",
        "95 % interval": "{saved_low:.0%} to {saved_high:.0%}",
        "final accuracy": "{final:.1%}",
    }
    yield table({"net starts": "{arm}", "strategy": "{strategy}", **reached}, tables["savings"])
    yield tables["finding"]


def bengar2021(tables: Row) -> Iterator[str]:
    """The numbers of Bengar et al. 2021 beside ours, the ends of the curves, and the claims."""
    curve = {"data set": "{dataset}", "net": "{arm}", "strategy": "{strategy}"}
    yield "Half of the pool labelled (Table 1):"
    beside = {"labels": "{n_labelled:,.0f}", "paper": "{published:.3f}", "ours": "{mean:.3f}", "n": "{replications:.0f}"}
    yield table({**curve, **beside}, tables["table1"])
    yield "Labels per class from which choosing pays, on self-supervised features (Figure 6), with 95 % bounds:"
    printed = published("bengar2021", metric="threshold_per_class", arm="frozen").set_index("dataset")
    paper = {name: f"{'more than ' if row['kind'] == 'bound' else ''}{row['value']:g}" for name, row in printed.iterrows()}
    rows = [{**row, "paper": paper[row["dataset"]]} for row in tables["figure6"]]
    thresholds = {"paper": "{paper}", "ours": "{labels_per_class:g}", "from": "{low:g}", "to": "{high:g}", "tried up to": "{tried:g}"}
    yield table({"data set": "{dataset}", **thresholds, "n": "{seeds:.0f}"}, rows)
    yield "A dash says that random choice was not beaten within what was tried. The last cycle of each curve of Figures 3 to 5:"
    yield table({**curve, "labels": "{n_labelled:,}", "pool": "{pool:,}", "accuracy": "{accuracy:.1%}", "n": "{seeds:.0f}"}, tables["ends"])
    accuracies = ", ".join(f"{value:.1%} on {name}" for name, value in tables["knn"].items())
    yield f"Nearest-neighbour accuracy of the self-supervised features: {accuracies}."
    yield from claims(tables)


def opponents(tables: Row) -> Iterator[str]:
    """Ways to train from scratch beside the frozen arm."""
    yield "More updates, or weaker crops (`strong`), for training from scratch. CIFAR-10, first labels even over the classes:"
    interval = {"accuracy": "{accuracy:.1%}", "95 % interval": "{low:.1%} to {high:.1%}", "n": "{seeds:.0f}"}
    yield table({"labels": "{n_labelled:,}", "training": "{training}", **interval}, tables["trainings"])


def yi2022(tables: Row) -> Iterator[str]:
    """The numbers of Yi et al. 2022 beside ours, costs, protocols, and the claims."""
    beside = {"paper": "{published:.3f}", "": "{kind}", "ours": "{measured:.3f}", "n": "{seeds:.0f}"}
    yield table({"item": "{item}", "strategy": "{strategy}", "what": "{metric}", **beside}, tables["beside"])
    yield "What each strategy costs in one run (Table 2), in seconds, the pretext included; means of two seeds:"
    seconds = {"total": "{total:.0f}", "pretext": "{pretext:.0f}", "queries": "{query:.0f}"}
    ratios = {"ratio to random": "{ratio:.2f}", "the paper's ratio": "{published:.2f}"}
    yield table({"strategy": "{strategy}", **seconds, **ratios}, tables["costs"])
    yield "What each difference of protocol is worth, over five cycles:"
    worth = {
        "over clean": "{difference:+.1f} ({low:+.1f} to {high:+.1f})",
        "over random": "{gain:+.1f} ({gain_low:+.1f} to {gain_high:+.1f})",
    }
    rows = points(tables["protocols"], "difference", "low", "high", "gain", "gain_low", "gain_high")
    yield table({"protocol": "{preset}", "strategy": "{strategy}", **worth, "n": "{seeds:.0f}"}, rows)
    yield "Accuracy with the first labels (Table 1), from each part of the pool by loss, sorted as numbers or as text:"
    spread = {"standard deviation within pretexts": "{within:.1%}", "between": "{between:.1%}", "pretexts": "{replications}"}
    first = {"mean": "{mean:.1%}", "95 % interval": "{low:.1%} to {high:.1%}", **spread, "runs": "{runs}"}
    yield table({"part": "{part}", **first}, tables["table1"])
    yield from claims(tables)


def which_strategy(tables: Row) -> Iterator[str]:
    """What to take by budget: the sentences, the defaults, the gains, and the times of queries."""
    yield "\n".join(f"- {sentence}" for sentence in tables["answers"])
    yield "What the labeller and the advisor take, by labels a class. All strategies, budgets and rounds are one family (Holm):"
    yield table({"labels": "{round}", "up to, a class": "{up_to:g}", "strategy": "{strategy}", "reason": "{reason}"}, tables["defaults"])
    yield "What is decided of gains over random choice: points, paired by replication, and p with Holm's correction over all of a data set:"
    gain = {"gain": "{gain:+.1f}", "95 % interval": "{low:+.1f} to {high:+.1f}", "n": "{n:.0f}", "p": "{p:.2g}", "verdict": "{verdict}"}
    where = {"data set": "{dataset}", "labels": "{round}", "a class": "{labels:g} to {up_to:g}", "strategy": "{strategy}"}
    decided = [row for row in tables["gains"] if row["verdict"] != "undecided"]
    yield table({**where, **gain}, points(decided, "gain", "low", "high")) if decided else "Nothing."
    yield "Rank and regret (points behind the best strategy of the other replications), means over the budgets:"
    rank = {"data set": "{dataset}", "strategy": "{strategy}", "rank": "{rank:.1f}", "regret": "{regret:+.1f}"}
    yield table(rank, points(tables["standings"], "regret"))
    yield "Seconds of a query after the first, with 1, 5 or 20 labels a class in each cycle; the median:"
    yield table({"data set": "{dataset}", "strategy": "{strategy}", "regime": "{regime:.0f}", "seconds": "{median:.3f}"}, tables["seconds"])


SECTIONS = {
    "digits": digits, "which_strategy": which_strategy, "bengar2021": bengar2021, "opponents": opponents, "yi2022": yi2022,
    "widgets": claims,
}  # fmt: skip
"""What writes the tables of each section of `figures/README.md`."""


def at_paper_scale(runs: Path) -> Iterator[str]:
    """What is there of Yi et al. at scale `paper`, from the records below `runs`: accuracies, with those that the paper prints."""
    tagged = records.find(runs, scale="paper", preset="clean")
    if not tagged:
        return
    frame = stats.replications(records.frame(tagged))
    printed = published("yi2022", metric="accuracy").query("kind == 'printed'")
    rows = []
    for (dataset, strategy, labels), values in frame.groupby(["dataset", "strategy", "n_labelled"])["accuracy"]:
        beside = printed[(printed["dataset"] == dataset) & (printed["strategy"] == strategy) & (printed["n_labelled"] == labels)]["value"]
        low, high = stats.interval(values)
        where = {"dataset": dataset, "strategy": strategy, "labels": labels, "n": len(values)}
        rows.append({**where, "mean": values.mean(), "low": low, "high": high, "paper": ", ".join(f"{value:.1%}" for value in beside)})
    machines = sorted({run.manifest["environment"]["device"] for run, _ in tagged if run.manifest})
    yield "## At the papers' own scale, so far"
    yield f"Yi et al., clean protocol, whole pool, ResNet-18, 200 epochs a cycle; on {', '.join(machines)}. Records: `runs/paper`."
    ours = {"ours": "{mean:.1%}", "95 % interval": "{low:.1%} to {high:.1%}", "n": "{n}", "the paper prints": "{paper}"}
    yield table({"data set": "{dataset}", "strategy": "{strategy}", "labels": "{labels:,}", **ours}, rows)


def document(results: Row, texts: Row, figures: Path) -> str:
    """The whole of `figures/README.md`."""
    text = ["# Figures and results", texts["introduction"], *at_paper_scale(figures.parent / "runs" / "paper" / "yi2022")]
    for name, write in SECTIONS.items():
        text += [f"## {texts[name]['title']}", texts[name]["note"], *pictures(texts[name]["pictures"], figures)]
        for scale, measured in results.get(name, {}).items():
            machine = "commit {commit}, torch {torch}, {threads} threads on {device} ({cpu})".format(**measured["environment"])
            text += [f"Measured at scale `{scale}`: {machine}.", *write(measured["tables"])]
            bars = {"bar": "{name}", "measured": "{ratio:.3g}", "": "{sense}", "at": "{bar:g}", "how": "{detail}"}
            text += [table(bars, measured["bars"])] if measured["bars"] else []
    return "\n\n".join(text) + "\n"


def headlines(results: Row) -> str:
    """The table of README.md: claims of the papers with our numbers at scale `laptop`."""
    rows = []
    for place, name, claim in HEADLINES:
        paper = place.split("/")[0]
        row = next(row for row in results[paper]["laptop"]["tables"][name] if row["claim"] == claim)
        leads = sorted(map(float, re.findall(r"([+-][\d.]+) points \(", row["evidence"])))
        first = re.split(r"; | \(", row["evidence"])[0]
        ours = " to ".join(dict.fromkeys(f"{lead:+.1f}" for lead in (leads[0], leads[-1]))) if leads else first
        rows.append(
            {
                **row,
                "paper": f"{paper.rstrip('0123456789').title()} {claim}, {name.removeprefix('claims ')}",
                "ours": ours,
                "verdict": row["verdict"],
                "notebook": f"[{place.split('/')[1]}](notebooks/{place}.ipynb)",
            }
        )
    return table({"claim": "{statement}", "paper": "{paper}", "ours": "{ours}", "verdict": "{verdict}", "notebook": "{notebook}"}, rows)


def main(arguments: list[str], project: Path = PROJECT) -> int:
    """Write what is stale, or with ``--check`` only name it; returns 1 if it then is."""
    figures, readme = project / "figures", project / "README.md"
    results, texts = store.read_json(figures / "results.json"), json.loads((figures / "texts.json").read_text())
    filled = re.sub(
        r"(?s)(<!-- results -->\n).*?(?=<!-- /results -->)", lambda match: f"{match[1]}{headlines(results)}\n", readme.read_text()
    )
    documents = {figures / "README.md": document(results, texts, figures), readme: filled}
    stale = {path: text for path, text in documents.items() if not path.exists() or path.read_text() != text}
    for path, text in stale.items():
        print(path.relative_to(project), "is stale: run `make readme`" if "--check" in arguments else "written")
        if "--check" not in arguments:
            store.write_atomic(path, text.encode())
    return int("--check" in arguments and bool(stale))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
