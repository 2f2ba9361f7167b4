"""Yi et al. 2022 at scale `laptop`, with its notebooks: how long each takes, what PT4AL costs over random choice, and its claims.

More than an hour, so it is not among those that run when none is named: ``python -m benchmarks yi2022``. It wants the images of CIFAR-10
and Caltech-101 ($ALNB_DATA). Each notebook begins with nothing: its records go to a folder of its own below `build/yi2022/`, and those
that have been executed there are not executed again. The figures go to `figures/`. Those with many curves are executed as their sweep
files say, by two workers of one thread each, and once over the whole grid: that is what two cores are for.
"""

import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import nbformat
import pandas

from alnb import notebook, store
from alnb.notebook import sweep as sweeps
from alnb.papers.published import published
from alnb.papers.yi2022 import claims as yi2022_claims
from alnb.papers.yi2022 import experiment as yi2022
from alnb.papers.yi2022 import figures as yi2022_report
from alnb.papers.yi2022 import lookback as yi2022_analysis
from alnb.report import records
from benchmarks.bengar2021 import plain, there

SCALE = "laptop"
NOTEBOOKS: dict[str, tuple[str, dict[str, Any]]] = {  # what is measured: the data set, and parameters
    "table2": ("cifar10", {}), "figure3": ("cifar10", {}), "figure6": ("cifar10", {}), "figure5b": ("cifar10", {}),
    "table1": ("cifar10", {}), "protocols": ("cifar10", {}), "figure2": ("cifar10", {}), "figure4": ("cifar10", {}),
    "figure3 caltech101": ("caltech101", {"dataset": "caltech101"}),
}  # fmt: skip
SWEPT = {"figure3": "figure3-cifar10", "figure6": "figure6", "figure5b": "figure5b", "protocols": "protocols"}  # sweep files
MINUTES, RATIO = 15, 1.6  # the bars; the paper's own ratio is 1.59
FIRST = 1000  # labels of the paper's first iteration
CLAIMS = {  # notebooks whose runs have claims: the figure of `yi2022_claims.STATEMENTS`, and the data set
    "figure3": ("figure3", "cifar10"), "figure3 caltech101": ("figure3", "caltech101"), "figure5b": ("figure5b", "cifar10_imbalanced"),
    "figure6": ("figure6", "cifar10"), "table1": ("table1", "cifar10"),
}  # fmt: skip
PROJECT = Path(__file__).parents[1]
BUILD = PROJECT / "build" / "yi2022"
Row = dict[str, Any]


def executed(name: str) -> Path:
    """The executed copy of a notebook: there already, or made now.

    Raises:
        SystemExit: an execution was interrupted, so that what is left of it would take too short a time.
    """
    runs = BUILD / name.replace(" ", "-")
    copy = runs / "executed.ipynb"
    if any(copy.with_suffix(f".{state}.ipynb").exists() for state in ("running", "failed")):
        raise SystemExit(f"{name} was interrupted, and what is left of it would take too short a time: delete {runs} to begin anew")
    if copy.exists():
        return copy
    values = {"scale": SCALE, "runs": str(runs), "figures": str(PROJECT / "figures"), "device": "cpu", **NOTEBOOKS[name][1]}
    return notebook.execute(PROJECT / f"notebooks/yi2022/{name.split()[0]}.ipynb", values, copy)


def swept(name: str) -> float:
    """Minutes of a sweep of two workers with one thread each, and its whole: as it was measured, or measured now.

    Raises:
        SystemExit: it was interrupted, so that what is left of it would take too short a time; or a cell of it failed.
    """
    runs = BUILD / name
    told = runs / "minutes.json"
    if told.exists():
        return float(store.read_json(told)["minutes"])
    if runs.exists():
        raise SystemExit(f"{name} was interrupted, and what is left of it would take too short a time: delete {runs} to begin anew")
    target, values, over = sweeps.read_file(PROJECT / f"notebooks/sweeps/yi2022-{SWEPT[name]}.yaml")
    places = {"scale": SCALE, "runs": str(runs), "figures": str(PROJECT / "figures"), "device": "cpu"}
    start = time.monotonic()
    done = sweeps.sweep(target, {**values, **places}, over=over, workers=2, threads=1)
    if done.failed or done.left or not done.reports:
        raise SystemExit(f"{name}: {done}; {done.reports_failed or done.why_no_report}")
    store.write_json(told, {"minutes": (time.monotonic() - start) / 60})
    return swept(name)


def minutes(name: str) -> float:
    """How long a notebook takes from nothing on."""
    return swept(name) if name in SWEPT else float(nbformat.read(executed(name), 4).metadata.papermill.duration) / 60


def found(name: str) -> list[records.TaggedRun]:
    """The runs of an executed notebook."""
    return records.find(BUILD / name.replace(" ", "-"), paper=yi2022.PAPER)


def threads(name: str) -> str:
    """Of the CPU, which the runs or pre-trainings of an executed notebook say they had."""
    manifests = (store.read_json(path) for path in (BUILD / name.replace(" ", "-")).rglob("manifest.json"))
    return " or ".join(sorted({str(one["environment"]["threads"]) for one in manifests}))


def measure() -> Iterator[Row]:
    """A row of minutes for each notebook, one for PT4AL's cost, with all that was measured in its `table`."""
    done = []
    for name, (dataset, _) in NOTEBOOKS.items():
        took = minutes(name) if there(dataset) else math.nan
        done += [] if math.isnan(took) else [name]
        if math.isnan(took):
            detail = f"the images of {dataset} were not on the machine"
        else:
            how = "a sweep of two workers, each with" if name in SWEPT else "one kernel with"
            detail = f"minutes; scale {SCALE}, {how} {threads(name)} CPU thread(s), the pretexts included; one run"
        yield {"name": f"Yi et al. 2022, {name}", "ratio": took, "bar": MINUTES, "sense": "<=", "detail": detail}
    if "table2" not in done:
        return
    rotation = yi2022.summary(yi2022.setting("cifar10", SCALE), "rotation", yi2022_report.timed(BUILD / "table2" / yi2022.PAPER))["seconds"]
    costs = yi2022_report.costs(found("table2"), {"rotation": rotation}, published("yi2022", item="Table 2"))
    costs = costs.sort_values("strategy", key=lambda names: names.map(list(yi2022.METHODS).index))
    yield {
        "name": "cost of PT4AL over random choice, CIFAR-10, the pretext included", "ratio": float(_ratio(costs, "pt4al")), "bar": RATIO,
        "sense": "<=", "detail": f"of wall time, in one run; VAAL {_ratio(costs, 'vaal'):.2f}; scale {SCALE}",
        "table": {"costs": plain(costs), "beside": everything(done), **{name: plain(told) for name, told in tables(done)}},
    }  # fmt: skip


def _ratio(costs: pandas.DataFrame, strategy: str) -> float:
    return float(costs.set_index("strategy")["ratio"][strategy])


def tables(done: list[str]) -> Iterator[tuple[str, pandas.DataFrame]]:
    """The claims of each notebook, Table 1, what each protocol is worth, and the numbers beside the plot of the queries."""
    for name in (name for name in CLAIMS if name in done):
        yield f"claims {name}", claimed(records.frame(found(name)), name)
    if "figure2" in done:
        yield "claims figure2", correlations(BUILD / "figure2" / yi2022.PAPER, SCALE)
    if "table1" in done:
        cold = records.frame(found("table1"))
        cold["part"] = cold["strategy"].where(cold["strategy"] == "random", cold["key"] + " " + cold["first_batch"].astype(str))
        yield "table1", cold.groupby("part", sort=False)["accuracy"].agg(["mean", "std", "min", "max", "count"]).reset_index()
    if "protocols" in done:
        worth = yi2022_claims.worth(records.frame(found("protocols")), "clean")
        yield (
            "protocols",
            worth.sort_values("preset", key=lambda names: names.map(list(yi2022.ladder("cifar10", SCALE)).index), kind="stable"),
        )
    if "figure4" in done:
        setting, runs = yi2022.setting("cifar10", SCALE), BUILD / "figure4" / yi2022.PAPER
        finished, _ = yi2022.find(setting, yi2022.grid(setting, yi2022_analysis.METHODS, [0]), runs)
        view = yi2022_analysis.read_viewed(setting, finished, yi2022_analysis.ITERATIONS[SCALE], yi2022_analysis.EPOCHS[SCALE], runs)
        assert view is not None, f"{runs} lacks what its notebook writes"
        yield "figure4", view.table


def claimed(frame: pandas.DataFrame, name: str) -> pandas.DataFrame:
    """The claims that a notebook of `CLAIMS` puts to its runs, found among those of `frame`; an empty table where there are none."""
    figure, dataset = CLAIMS[name]
    rows = yi2022_claims.select(frame, figure, dataset)
    if not len(rows):
        return pandas.DataFrame(columns=["claim", "statement", "verdict", "evidence"])
    return yi2022_claims.cold_start(rows) if figure == "table1" else yi2022_claims.claims(rows, figure)


def correlations(runs: Path, scale: str) -> pandas.DataFrame:
    """The claims of Figure 2, of what its notebook kept below `runs` of CIFAR-10."""
    rho = {name: one.correlation for name, one in compared(runs, scale).items()}
    return yi2022_report.correlations(rho, published("yi2022", metric="correlation", dataset="cifar10"), scale)


def compared(runs: Path, scale: str) -> dict[str, yi2022_analysis.Compared]:
    """What Figure 2 kept below `runs` of CIFAR-10, by pretext."""
    setting = yi2022.setting("cifar10", scale)
    kept = {name: yi2022_analysis.read_compared(setting, name, yi2022_analysis.EPOCHS[scale], runs) for name in yi2022.PAPER_PRETEXTS}
    return {name: one for name, one in kept.items() if one is not None}


def everything(done: list[str]) -> list[Row]:
    """The paper's numbers beside those of all notebooks that were executed."""
    frames = [records.frame(found(name)) for name in ("figure3", "figure6", "table1") if name in done]
    return beside(pandas.concat(frames), compared(BUILD / "figure2" / yi2022.PAPER, SCALE)) if frames else []


def beside(frame: pandas.DataFrame, rho: Mapping[str, yi2022_analysis.Compared]) -> list[Row]:
    """Each accuracy, spread and correlation that the paper prints of CIFAR-10, with what was measured: None where nothing was.

    Args:
        frame: records of runs under the clean protocol (others are left out): of whole curves, and of one iteration for Table 1.
    """
    runs = {figure: yi2022_claims.select(frame, figure, "cifar10") for figure in ("figure3", "table1")}
    rows = []
    for row in published("yi2022", dataset="cifar10").itertuples():
        told = {"item": row.item, "strategy": row.strategy, "metric": row.metric, "published": row.value, "measured": None, "seeds": None}
        if row.metric == "correlation" and row.strategy in rho:
            told |= {"measured": rho[row.strategy].correlation.rho, "seeds": 1}
        of = runs["table1" if row.item.startswith("Table 1") else "figure3"]
        if row.metric in ("accuracy", "standard_deviation") and len(of):
            of = of[of["strategy"] == row.strategy]
            own = of[of["cycle"] == (0 if row.n_labelled == FIRST else of["cycle"].max())].groupby("seed")["accuracy"].mean()
            value = own.mean() if row.metric == "accuracy" else own.std()
            told |= {"measured": float(value), "seeds": len(own)} if len(own) else {}
        rows += [told] if row.metric != "minutes" else []
    return rows
