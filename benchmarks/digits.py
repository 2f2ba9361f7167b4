"""Labels saved on the digits, with the quickstart notebook itself over five seeds at laptop scale."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas

from alnb.notebook.execute import execute
from alnb.report import records, tables
from alnb.store import Run

SEEDS = [0, 1, 2, 3, 4]
QUICKSTART = Path(__file__).parents[1] / "notebooks" / "quickstart.ipynb"


def runs_below(folder: Path) -> Iterator[tuple[Run, dict[str, Any]]]:
    """Every run there, with arm, strategy and seed from its manifest."""
    for path in sorted(folder.rglob("manifest.json")):
        experiment = (Run(path.parent).manifest or {})["experiment"]
        if "strategy" in experiment:
            arm = "from scratch" if experiment["learner"]["backbone"] is None else "rotation"
            strategy = experiment["strategy"].rpartition(".")[2]
            yield Run(path.parent), {"arm": arm, "strategy": strategy, "seed": experiment["protocol"]["seed"]}


def in_order(frame: pandas.DataFrame) -> pandas.DataFrame:
    """From scratch before pre-trained, random before all others."""
    rank = frame["arm"].map({"from scratch": 0, "rotation": 10}) + (frame["strategy"] != "random")
    return frame.assign(rank=rank).sort_values(["rank", "strategy", "seed", "cycle"]).drop(columns="rank")


def measure() -> Iterator[dict[str, Any]]:
    """Two rows: the share of labels saved by the better of entropy and margin, and the lowest final accuracy of all strategies."""
    with tempfile.TemporaryDirectory() as folder:
        execute(QUICKSTART, {"seeds": SEEDS, "runs": folder, "figures": folder, "device": "cpu"}, Path(folder) / "quickstart.ipynb")
        frame = in_order(records.frame(runs_below(Path(folder))))
    table = tables.savings(frame)
    rows = table.astype(object).where(table.notna(), None).to_dict("records")
    first = table[table["arm"] == "from scratch"]
    best = first[first["strategy"].isin(["entropy", "margin"])].set_index("strategy")["saved"]
    found = {"level": float(first["level"].iloc[0]), "rows": rows, "finding": tables.finding(frame)}
    common = {"sense": ">=", "detail": f"quickstart notebook, laptop scale, from scratch, mean curves of {len(SEEDS)} seeds"}
    yield {
        "name": f"digits: share of labels saved against random ({best.idxmax()})",
        "ratio": float(best.max()),
        "bar": 0.30,
        **common,
        "table": found,
    }
    lowest = first.loc[first["final"].idxmin()]
    yield {
        "name": f"digits: lowest final accuracy of any strategy ({lowest['strategy']})",
        "ratio": float(lowest["final"]),
        "bar": 0.95,
        **common,
    }


if __name__ == "__main__":
    from benchmarks.__main__ import show

    show(measure())
