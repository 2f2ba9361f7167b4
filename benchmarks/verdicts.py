"""How often claims are decided, by simulated records: under equal strategies (the bar), and with effects as large as the papers' (power).

Every experiment is made anew from random numbers: a replication has luck that its runs share, a strategy has luck of its own in each
replication, and each cycle has noise. `SPREAD` is a choice, near the standard deviations of Table 1 in figures/results.json. Scale is
"paper", so that verdicts decide.
"""

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy
import pandas
from pandas import DataFrame

from alnb.papers.bengar2021 import claims as bengar
from alnb.papers.bengar2021.experiment import ARMS, CYCLES, DATASETS
from alnb.papers.published import published
from alnb.papers.yi2022 import claims as yi
from alnb.report.verdicts import FAILS, HOLDS, OPEN

EXPERIMENTS, POWERED = 1000, 200  # simulated, without and with an effect
SPREAD = {"replication": 0.02, "strategy": 0.01, "cycle": 0.005}  # standard deviations of accuracy
LIMIT = 0.05  # of claims that may be decided without an effect
POWER = {5: 0.2, 20: 0.5}  # by replications: of claims that must hold with an effect; some of them save no labels, so never all
TRUE_WITHOUT = {  # statements that are true, or false, without an effect; of all others neither side is
    claim[1]: {"C6": HOLDS, "C7": FAILS}[claim[0]]
    for name in ("cifar10", "cifar100")
    for claim in bengar.STATEMENTS[name]
    if claim[0] in ("C6", "C7")
}
Effect = Mapping[str, float]


def noise(draw: numpy.random.Generator, n: int, curves: int, cycles: int) -> numpy.ndarray:
    """Deviations [n, curves, cycles] of accuracy; in cycle 0 curves of a replication differ as later."""
    shared = draw.normal(0, SPREAD["replication"], (n, 1, 1))
    return shared + draw.normal(0, SPREAD["strategy"], (n, curves, 1)) + draw.normal(0, SPREAD["cycle"], (n, curves, cycles))


def frame_of(curves: DataFrame, values: numpy.ndarray) -> DataFrame:
    """A row for each replication, curve and cycle; `values` are accuracies [n, curves, cycles]."""
    n, _, cycles = values.shape
    index = pandas.MultiIndex.from_product([range(n), range(len(curves)), range(cycles)], names=["seed", "curve", "cycle"])
    rows = DataFrame({"accuracy": values.reshape(-1)}, index=index).reset_index()
    return rows.join(curves, on="curve").assign(replication=rows["seed"], scale="paper")


def of_yi(draw: numpy.random.Generator, figure: str, n: int, effect: Effect) -> DataFrame:
    """Runs of all strategies that a figure's claims name."""
    statements = yi.STATEMENTS[figure]
    names = dict.fromkeys(name for s in statements for name in (*s.first, *s.second))
    parts = [(name.split(", ")[0], name.partition(", ")[2] or ("rotation" if name.startswith("pt4al") else "")) for name in names]
    curves = DataFrame(parts, columns=["strategy", "pretext"]).assign(dataset="cifar10", preset="clean", arm="scratch")
    cycles = 1 if figure == "table1" else 10
    levels = numpy.array([effect.get(name, 0.0) for name in names])[None, :, None] + 0.5 + 0.04 * numpy.arange(cycles)
    rows = frame_of(curves, levels + noise(draw, n, len(curves), cycles))
    return rows.assign(n_labelled=1000 * (rows["cycle"] + 1), run=rows["seed"].astype(str) + rows["strategy"] + rows["pretext"])


def of_bengar(draw: numpy.random.Generator, dataset: str, n: int, effect: float) -> DataFrame:
    """Runs of both arms, all strategies and regimes. `effect` moves every claim's strategies as the paper says; 0: all are equal."""
    known = DATASETS[dataset]
    curves = DataFrame(
        [(arm, name, float(regime)) for regime in known.regimes for arm in ARMS for name in ARMS[arm]],
        columns=["arm", "strategy", "regime"],
    ).assign(dataset=dataset, classes=known.classes, pool=known.size)
    percent = curves["regime"].to_numpy()[:, None] * numpy.arange(1, CYCLES + 1)
    names = curves[["arm", "strategy"]].itertuples(index=False)
    shifts = [[shift(*row, p, dataset) for p in line] for row, line in zip(names, percent, strict=True)]
    levels = 0.3 + 0.6 * percent / 50 + effect * numpy.array(shifts)
    rows = frame_of(curves, levels[None] + noise(draw, n, len(curves), CYCLES))
    return rows.assign(n_labelled=(rows["regime"] / 100 * known.size * (rows["cycle"] + 1)).round().astype(int))


def shift(arm: str, strategy: str, percent: float, dataset: str) -> float:
    """What the paper says, in units of the effect: self-supervision ahead until 50 %, choosing behind below its threshold, ahead above."""
    from_percent = {("cifar10", "frozen"): 1, ("cifar10", "scratch"): 10, ("tiny_imagenet", "scratch"): 10.5}.get((dataset, arm), 60)
    better = {"random": 0, "entropy": 2, "kcenter": 1, "vaal": 1, "svm_margin": 1}[strategy]
    worse = {"random": 0, "entropy": -2, "kcenter": -1, "vaal": -1, "svm_margin": -1}[strategy]
    return (better if percent >= from_percent else worse) + 5 * (arm == "frozen") * (1 - percent / 50)


def tables(paper: str, n: int, effect: float, repeats: int) -> Iterator[DataFrame]:
    """The claims of `repeats` experiments with `n` replications, in turn over a paper's figures or data sets."""
    draw = numpy.random.default_rng(n)
    parts = itertools.islice(itertools.cycle(yi.STATEMENTS if paper == "yi2022" else DATASETS), repeats)
    for part in parts:
        if paper == "bengar2021":
            yield bengar.claims(of_bengar(draw, part, n, effect), part)
        else:
            second = ("kcenter", "core_gcn") if part == "figure5b" else ("learning_loss", "pt4al, colorization", "pt4al, jigsaw")
            rows = of_yi(draw, part, n, {"pt4al": effect, **dict.fromkeys(second, effect / 2)})
            yield yi.cold_start(rows) if part == "table1" else yi.claims(rows, part)


def measure() -> Iterator[dict[str, Any]]:
    """For each paper the share of claims that are decided wrongly without an effect, and of those decided with the paper's."""
    last = published("yi2022", item="CIFAR-10, last iteration").set_index("strategy")["value"]
    first = published("bengar2021", item="Table 1", dataset="cifar10", arm="scratch").set_index("strategy")["value"]
    effects = {  # the smallest lead of PT4AL that is printed; the lead of entropy over k-center from scratch, for one step of `shift`
        "yi2022": float(last["pt4al"] - last["learning_loss"]),
        "bengar2021": float(first["entropy"] - first["kcenter"]),
    }
    for paper, effect in effects.items():
        for n in POWER:
            verdicts = pandas.concat([table[["statement", "verdict"]] for table in tables(paper, n, 0.0, EXPERIMENTS)])
            true = verdicts["statement"].map(TRUE_WITHOUT).fillna(OPEN)
            wrong = float((verdicts["verdict"].ne(OPEN) & verdicts["verdict"].ne(true)).mean())
            detail = f"{EXPERIMENTS} experiments, {len(verdicts):,} verdicts; equal arms do close the gap (C6), and save nothing (C7)"
            name = f"{paper}: claims decided although all strategies and arms are equal, n = {n}"
            yield {"name": name, "ratio": wrong, "bar": LIMIT, "sense": "<=", "detail": detail}
        for n, least in POWER.items():
            verdicts = pandas.concat([table["verdict"] for table in tables(paper, n, effect, POWERED)])
            name, holds = f"{paper}: claims that hold with effects as large as the paper's, n = {n}", float((verdicts == HOLDS).mean())
            detail = f"effect {100 * effect:.1f} points; {float((verdicts == FAILS).mean()):.1%} do not hold; {POWERED} experiments"
            yield {"name": name, "ratio": holds, "bar": least, "sense": ">=", "detail": detail}
