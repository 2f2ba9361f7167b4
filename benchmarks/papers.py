"""The sweeps of the quickstart and of both papers at scale `laptop`: the minutes they take, and what `figures/results.json` holds of them.

Hours, so it runs only where named: ``python -m benchmarks digits bengar2021 yi2022``. It needs the images of CIFAR-10, Tiny ImageNet and
Caltech-101 ($ALNB_DATA). The sweeps of a paper share their runs and pre-trainings, below `build/papers/`: the
first one pays for them. One that is done there is not run again, and one that was interrupted continues; its minutes are then unknown. The
pictures go to `figures/`.
"""

import csv
import math
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas
import torch

from alnb import data, store
from alnb.papers import find, runs_folder
from alnb.papers.bengar2021 import claims as bengar2021_claims
from alnb.papers.bengar2021 import experiment as bengar2021
from alnb.papers.bengar2021 import figures as bengar2021_figures
from alnb.papers.bengar2021 import thresholds
from alnb.papers.published import published
from alnb.papers.which_strategy import choice
from alnb.papers.yi2022 import claims as yi2022_claims
from alnb.papers.yi2022 import experiment as yi2022
from alnb.papers.yi2022 import figures as yi2022_figures
from alnb.papers.yi2022 import lookback
from alnb.papers.yi2022.strategies import STRATEGIES
from alnb.report import records, stats, tables
from alnb.report.verdicts import ALPHA

SCALE, MINUTES, COST = "laptop", 15, 1.6  # the bars: minutes of a sweep, cost of PT4AL over random choice (the paper's is 1.59)
FIRST = 1000  # labels of the first iteration of Yi et al.
PAIRS = 20  # of nets that Figure 2 compares, at most
SWEEPS = {  # of each paper, and the data set that each needs
    "digits": {"quickstart": "digits"},
    "which_strategy": {
        "which_strategy": "digits", "which_strategy-fashion_mnist": "fashion_mnist", "which_strategy-cifar10": "cifar10",
    },
    "bengar2021": {
        "bengar2021-figure3": "cifar10", "bengar2021-table1": "cifar10", "bengar2021-figure6": "cifar10",
        "bengar2021-figure4": "cifar100", "bengar2021-figure5": "tiny_imagenet",
    },
    "yi2022": {
        "yi2022-table2": "cifar10", "yi2022-figure3-cifar10": "cifar10", "yi2022-figure6": "cifar10", "yi2022-figure5b": "cifar10",
        "yi2022-table1": "cifar10", "yi2022-protocols": "cifar10", "yi2022-figure2-cifar10": "cifar10", "yi2022-figure4": "cifar10",
        "yi2022-figure3-caltech101": "caltech101",
    },
}  # fmt: skip
CLAIMS = {  # the sweeps whose runs have claims: the title in results.json, the figure of `yi2022_claims.STATEMENTS`, the data set
    "yi2022-figure3-cifar10": ("figure3", "figure3", "cifar10"),
    "yi2022-figure3-caltech101": ("figure3 caltech101", "figure3", "caltech101"),
    "yi2022-figure5b": ("figure5b", "figure5b", "cifar10_imbalanced"),
    "yi2022-figure6": ("figure6", "figure6", "cifar10"),
    "yi2022-table1": ("table1", "table1", "cifar10"),
}
PROJECT = Path(__file__).parents[1]
BUILD = PROJECT / "build" / "papers"
Row = dict[str, Any]


def there(dataset: str) -> bool:
    """Whether the images of `dataset` are on this machine."""
    try:
        data.load(dataset)
    except data.DataError:
        return False
    return True


def minutes(paper: str, sweep: str) -> float:
    """How long a sweep takes, measured before or now; NaN if it was interrupted. Raises: CalledProcessError if a cell failed."""
    runs = BUILD / paper
    measured = runs / "minutes" / f"{sweep}.json"
    if not measured.exists() or not store.read_json(measured)["done"]:
        begun = measured.exists()
        store.write_json(measured, {"done": False})
        workers = "1" if sweep == "yi2022-table2" else "2"  # Table 2 compares times, so nothing may run beside it
        places = ["-p", "runs", str(runs), "-p", "figures", str(PROJECT / "figures"), "-p", "device", "cpu", "--scale", SCALE]
        command = [sys.executable, "-m", "alnb", "sweep", f"notebooks/sweeps/{sweep}.yaml", "--workers", workers, "--threads", "1", *places]
        start = time.monotonic()
        subprocess.run(command, cwd=PROJECT, check=True)
        store.write_json(measured, {"done": True, "minutes": None if begun else (time.monotonic() - start) / 60})
    value = store.read_json(measured)["minutes"]
    return math.nan if value is None else float(value)


def measure(paper: str) -> Iterator[Row]:
    """A row of minutes for each sweep of `paper`, one for PT4AL's cost; writes the paper's part of `figures/results.json`."""
    done = [sweep for sweep, dataset in SWEEPS[paper].items() if there(dataset)]
    for sweep, dataset in SWEEPS[paper].items():
        workers = "one worker" if sweep == "yi2022-table2" else "two workers"
        detail = f"minutes; scale {SCALE}, {workers} of one CPU thread, the pre-training included; one run"
        detail = detail if sweep in done else f"the images of {dataset} were not on the machine"
        yield {
            "name": f"`{sweep}`",
            "ratio": minutes(paper, sweep) if sweep in done else math.nan,
            "bar": MINUTES,
            "sense": "<=",
            "detail": detail,
        }
    tables, bars = TABLES[paper](done)
    keep(paper, tables, bars)
    if "costs" in tables:
        ratio = {row["strategy"]: row["ratio"] for row in tables["costs"]}
        detail = f"of wall time, in one run; VAAL {ratio['vaal']:.2f}; scale {SCALE}"
        name = "cost of PT4AL over random choice, CIFAR-10, the pretext included"
        yield {"name": name, "ratio": ratio["pt4al"], "bar": COST, "sense": "<=", "detail": detail}


def keep(paper: str, tables: Row, bars: list[Row]) -> None:
    """Write what was measured into `figures/results.json`."""
    path = PROJECT / "figures" / "results.json"
    results = store.read_json(path)
    results[paper] = {
        **results.get(paper, {}),
        SCALE: {"environment": store.environment(torch.device("cpu")), "tables": tables, "bars": bars},
    }
    store.write_json(path, results)


def plain(table: pandas.DataFrame) -> list[Row]:
    """The rows of a table as JSON takes them."""
    return [
        {name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in row.items()}
        for row in table.astype(object).to_dict("records")
    ]


# ---- the tables of each paper ---------------------------------------------------------------------------------------------------


def digits(done: list[str]) -> tuple[Row, list[Row]]:
    """Labels saved on the digits, and two bars: the share saved by the better of entropy and margin, and the lowest final accuracy."""
    frame = records.frame(records.find(BUILD / "digits"))
    rank = 10 * (frame["arm"] != "scratch") + (frame["strategy"] != "random")
    frame = frame.assign(rank=rank).sort_values(["rank", "strategy", "seed", "cycle"]).drop(columns="rank")
    rows = plain(tables.savings(frame))
    first = [row for row in rows if row["arm"] == rows[0]["arm"]]
    best = min((row for row in first if row["strategy"] in ("entropy", "margin")), key=lambda row: row["labels"] or math.inf)
    spared = 1 - best["labels"] / int(frame["n_labelled"].max())
    lowest = min(first, key=lambda row: row["final"])
    how = {"sense": ">=", "detail": f"quickstart notebook, scale {SCALE}, from scratch, mean curves of {frame['seed'].nunique()} seeds"}
    bars = [
        {
            "name": f"digits: share of all labels not needed for random's final accuracy ({best['strategy']})",
            "ratio": spared,
            "bar": 0.30,
            **how,
        },
        {"name": f"digits: lowest final accuracy of any strategy ({lowest['strategy']})", "ratio": lowest["final"], "bar": 0.95, **how},
    ]
    return {"savings": rows, "finding": tables.finding(frame)}, bars


def which_strategy_tables(done: list[str]) -> tuple[Row, list[Row]]:
    """Answers, defaults, gains, standings and seconds; and bars for 1 to 5 labels a class. Also writes the labeller's defaults."""
    sets = [SWEEPS["which_strategy"][sweep] for sweep in done]
    tagged = {name: records.find(BUILD / "which_strategy", dataset=name, scale=SCALE) for name in sets}
    frame = records.frame(run for found in tagged.values() for run in found)
    gains, defaults = choice.gains(frame), choice.defaults(frame)
    with (PROJECT / "alnb/widgets/labeller/defaults.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(defaults[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(defaults)
    means = choice.standings(frame).groupby(["dataset", "strategy"])[["rank", "regret"]].mean().sort_values(["dataset", "regret"])
    seconds = pandas.concat([choice.seconds(found).assign(dataset=name) for name, found in tagged.items()])
    bars = []
    for name in [name for name in ("digits", "fashion_mnist") if name in sets]:
        few = gains[(gains["dataset"] == name) & (gains["regime"] == 1) & (gains["gain"] > 0)].fillna({"p": 1.0}).sort_values("p").iloc[0]
        what = f"{name}, 1 to 5 labels a class: p (Holm) that a strategy beats random"
        gain, low, high = (f"{100 * few[name]:+.1f}" for name in ("gain", "low", "high"))
        shown = f"{few['strategy']}, {few['round']} labels: {gain} points ({low} to {high})"
        bars.append({"name": what, "ratio": few["p"], "bar": ALPHA, "sense": "<=", "detail": f"{shown}; n = {few['n']}, scale {SCALE}"})
    tables = {"answers": choice.answers(gains), "defaults": defaults, "gains": plain(gains)}
    return {**tables, "standings": plain(means.reset_index()), "seconds": plain(seconds)}, bars


def bengar2021_tables(done: list[str]) -> tuple[Row, list[Row]]:
    """Claims, Table 1, Figure 6 and the ends of the curves; and one bar, for the first claim."""
    frame = bengar2021.read(BUILD / "bengar2021", SCALE)
    rows = frame[(frame["dataset"] == "cifar10") & (frame["strategy"] == "random")]
    gain = stats.paired(rows[rows["regime"] == rows["regime"].min()], {"arm": "frozen"}, {"arm": "scratch"})
    name = "self-supervision over training from scratch, random choice, smallest regime of CIFAR-10: lower end of the interval"
    detail = f"points of accuracy: {gain}, paired by seed, means over 5 to 25 labels per class; scale {SCALE}"
    tables = {
        "table1": plain(bengar2021_figures.table1(frame)),
        "figure6": plain(thresholds.figure6(frame)),
        "ends": plain(ends(frame)),
        "knn": {SWEEPS["bengar2021"][sweep]: knn(sweep) for sweep in done},
        **{f"claims {dataset}": plain(bengar2021_claims.claims(frame, dataset)) for dataset in frame["dataset"].unique()},
    }
    return tables, [{"name": name, "ratio": 100 * gain.low, "bar": 0.0, "sense": ">=", "detail": detail}]


def knn(sweep: str) -> float:
    """Accuracy of the nearest-neighbour vote at the end of the pre-training, in replication 0."""
    chosen = bengar2021.setting(SWEEPS["bengar2021"][sweep], SCALE)
    return float(bengar2021.pretraining(chosen, 0, runs_folder(bengar2021.PAPER, SCALE, BUILD / "bengar2021"))["history"][-1]["knn"])


def ends(frame: pandas.DataFrame) -> pandas.DataFrame:
    """The last cycle of each curve: mean accuracy over replications and their number, by data set, arm, strategy and labels.

    Where a pool is so small that two regimes label the same in a cycle, their runs are the same, and count once.
    """
    last = stats.replications(frame[frame["cycle"] == frame["cycle"].max()]).drop_duplicates(
        ["dataset", "arm", "strategy", "seed", "n_labelled"]
    )
    keys = ["dataset", "arm", "n_labelled", "pool", "strategy"]
    table = last.groupby(keys)["accuracy"].agg(accuracy="mean", seeds="count").reset_index()
    return table.astype({"n_labelled": int, "pool": int, "seeds": int})


def yi2022_tables(done: list[str]) -> tuple[Row, list[Row]]:
    """Costs, our numbers beside the paper's, claims, Table 1 and protocols; no bars."""
    chosen, runs = yi2022.setting("cifar10", SCALE), BUILD / "yi2022" / yi2022.PAPER
    frame, alone, narrow = records.frame(records.find(runs)), yi2022_figures.timed(runs), runs.with_name(f"{runs.name}-default")
    rotation = yi2022.summary(chosen, "rotation", 0, alone)["seconds"]
    costs = yi2022_figures.costs(records.find(alone), {"rotation": rotation}, published("yi2022", item="Table 2"))
    rho = compared(runs)
    kernels = [records.frame(records.find(narrow))] if narrow.exists() else []
    length = frame.groupby("run")["cycle"].transform("max") + 1
    cold, ladder_runs = frame[length == 1], frame[length == frame[frame["preset"] != "clean"]["cycle"].max() + 1]
    cold = cold.assign(part=cold["strategy"].where(cold["strategy"] == "random", cold["key"] + " " + cold["first_batch"].astype(str)))
    effects = yi2022_claims.protocol_effects(pandas.concat([ladder_runs, *kernels]), "clean")
    ladder = {name: place for place, name in enumerate(yi2022.ladder("cifar10", SCALE))}
    correlations = {name: [pair.correlation for pair in pairs] for name, pairs in rho.items()}
    printed = published("yi2022", metric="correlation", dataset="cifar10")
    return {
        "costs": plain(costs.sort_values("strategy", key=lambda names: names.map(list(STRATEGIES).index))),
        "beside": beside(yi2022_claims.labelled(frame), rho),
        **{f"claims {CLAIMS[sweep][0]}": plain(claimed(frame, sweep)) for sweep in CLAIMS if sweep in done},
        "claims figure2": plain(yi2022_claims.correlations(correlations, printed, SCALE)),
        "table1": plain(yi2022_claims.spread_parts(cold.sort_values("part", kind="stable"), ["part"]).reset_index()),
        "protocols": plain(effects.sort_values("preset", key=lambda names: names.map(ladder), kind="stable")),
        "figure4": plain(viewed(runs)),
    }, []


def claimed(frame: pandas.DataFrame, sweep: str) -> pandas.DataFrame:
    """The claims that a sweep of `CLAIMS` puts to its runs, found among those of `frame`; an empty table where there are none."""
    _, figure, dataset = CLAIMS[sweep]
    rows = yi2022_claims.select(frame, figure, dataset)
    if not len(rows):
        return pandas.DataFrame(columns=["claim", "statement", "verdict", "evidence"])
    return yi2022_claims.cold_start(rows) if figure == "table1" else yi2022_claims.claims(rows, figure)


def compared(runs: Path) -> dict[str, list[lookback.LossComparison]]:
    """What Figure 2 kept below `runs` of CIFAR-10, by pretext: a comparison for each replication."""
    chosen, results = yi2022.setting("cifar10", SCALE), {}
    for name in yi2022.PAPER_PRETEXTS:
        pairs = (lookback.read_comparison(chosen, name, seed, chosen.supervised_epochs, runs) for seed in range(PAIRS))
        results[name] = [pair for pair in pairs if pair is not None]
    return {name: pairs for name, pairs in results.items() if pairs}


def viewed(runs: Path) -> pandas.DataFrame:
    """The measures of the queries that Figure 4 plots."""
    chosen = yi2022.setting("cifar10", SCALE)
    finished, left = find(yi2022.jobs(chosen, lookback.STRATEGIES, [0]), runs)
    assert not left, f"{runs} lacks runs that its notebook makes"
    return lookback.map_queries(yi2022.prepare(chosen, runs), finished, chosen.iterations, chosen.supervised_epochs).table


def beside(frame: pandas.DataFrame, rho: Mapping[str, list[lookback.LossComparison]]) -> list[Row]:
    """Each accuracy, spread and correlation that the paper prints of CIFAR-10, with what was measured: None where nothing was.

    Args:
        frame: records of runs under the clean protocol (others are left out): of whole curves, and of one cycle for Table 1.
        rho: what Figure 2 kept, by pretext.
    """
    runs = {figure: yi2022_claims.select(frame, figure, "cifar10") for figure in ("figure3", "table1")}
    rows = []
    for printed in published("yi2022", dataset="cifar10").itertuples():
        row: Row = {
            "item": printed.item,
            "strategy": printed.strategy,
            "metric": printed.metric,
            "published": printed.value,
            "kind": printed.kind,
        }
        row |= {"measured": None, "seeds": None}
        if printed.metric == "correlation" and printed.strategy in rho:
            values = [pair.correlation.rho for pair in rho[printed.strategy]]
            row |= {"measured": sum(values) / len(values), "seeds": len(values)}
        curves = runs["table1" if printed.item.startswith("Table 1") else "figure3"]
        if printed.metric in ("accuracy", "standard_deviation") and len(curves):
            curves = curves[curves["strategy"] == printed.strategy]
            cycle = 0 if printed.n_labelled == FIRST else curves["cycle"].max()
            nets = yi2022_claims.by_net(curves[curves["cycle"] == cycle], printed.strategy)
            value = nets.mean(axis=1).mean() if printed.metric == "accuracy" else math.sqrt(nets.var().mean())
            row |= {"measured": float(value), "seeds": len(nets)} if len(nets) else {}
        rows += [row] if printed.metric != "minutes" else []
    return rows


TABLES = {"digits": digits, "which_strategy": which_strategy_tables, "bengar2021": bengar2021_tables, "yi2022": yi2022_tables}
