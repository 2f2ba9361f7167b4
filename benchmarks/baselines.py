"""What the choices of Yi et al.'s presets and baselines are worth at scale laptop: the numbers of the table in `alnb/README.md`.

``python -m benchmarks.baselines`` writes them into `baselines.json` beside this file, in about ten minutes of one thread.
"""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from pandas import Series

from alnb import acquire, papers, store
from alnb.learn.pretrain import pretrain
from alnb.loop.experiment import Experiment
from alnb.papers.methods import pt4al
from alnb.papers.yi2022 import experiment as yi
from alnb.report import stats

PRETEXT_SEEDS, SEEDS, CYCLES = range(4), range(100, 105), 5
PRETEXT = ({"pretext_epoch": "best"}, {"rotation": "four_batches"}, {"normalise": "authors"})
QUERIES = (("vaal", "paper"), ("vaal", "as_released"), ("ta_vaal", "as_released"), ("core_gcn", "as_released"))


def losses(folder: Path, seed: int, **switches: Any) -> torch.Tensor:
    """The rotation losses [N] of CIFAR-10's part."""
    prepared = yi.prepare(yi.setting("cifar10", "laptop", **switches), folder)
    setting, learner, cache = prepared.setting, prepared.learner_of(prepared.setting.recipe("rotation")), folder / "pretrained"
    task, epoch = setting.pretexts["rotation"], setting.switches.pretext_epoch
    return pretrain(task, prepared.pool.images, learner, seed=seed, cache=cache, checkpoint=epoch).losses


def likeness(*orders: torch.Tensor) -> dict[str, float]:
    """How alike two orders are: rank correlation, and the first labels that they share, of 50."""
    first, second = (set(pt4al.batch(pt4al.ranking(values), 10, 0)[::5].tolist()) for values in orders)
    return {"rho": stats.spearman(*orders), "first labels": len(first & second)}


def curve(folder: Path, name: str, seed: int, change: Callable[[Experiment], Experiment], **switches: Any) -> float:
    """The accuracy of a run, averaged over its cycles."""
    prepared = yi.prepare(yi.setting("cifar10", "laptop", cycles=CYCLES, **switches), folder)
    run = papers.run(yi.jobs(prepared.setting, [name], [seed]), lambda job: change(yi.experiment(prepared, job)), folder)[0][0]
    return sum(record["metrics"]["accuracy"] for record in run.records()) / CYCLES


def paired(before: list[float], after: list[float]) -> dict[str, Any]:
    """Points that `after` has more than `before`, with a 95 % interval of Student's t over the seeds."""
    gap = stats.difference(100 * (Series(after) - Series(before)))
    return {"points": gap.mean, "low": gap.low, "high": gap.high, "seeds": gap.n}


def measure(folder: Path) -> dict[str, Any]:
    """Every number, computed below `folder`."""
    result: dict[str, Any] = {"pretext": {}, "accuracy": {}}
    clean = [losses(folder, seed) for seed in PRETEXT_SEEDS]
    others = {"another seed": [losses(folder, seed + 10) for seed in PRETEXT_SEEDS]}
    others |= {"=".join(*switch.items()): [losses(folder, seed, **switch) for seed in PRETEXT_SEEDS] for switch in PRETEXT}
    for name, changed in others.items():
        result["pretext"][name] = [likeness(*orders) for orders in zip(clean, changed, strict=True)]
        print(name, result["pretext"][name], flush=True)
    plain = {name: [curve(folder, name, seed, lambda made: made) for seed in SEEDS] for name in dict(QUERIES)}
    for name, preset in QUERIES:
        changed_runs = [curve(folder, name, seed, lambda made: made, baselines=preset) for seed in SEEDS]
        result["accuracy"][f"{name}, {preset}"] = paired(plain[name], changed_runs)
        print(name, preset, result["accuracy"][f"{name}, {preset}"], flush=True)
    scoped = [curve(folder / "subset", "kcenter", seed, lambda made: made) for seed in SEEDS]
    whole = [curve(folder / "whole", "kcenter", seed, lambda made: replace(made, strategy=acquire.kcenter)) for seed in SEEDS]
    result["accuracy"]["kcenter, subset"] = paired(whole, scoped)
    return result


if __name__ == "__main__":
    with TemporaryDirectory() as temporary:
        numbers = measure(Path(sys.argv[1] if len(sys.argv) > 1 else temporary))
        store.write_json(Path(__file__).with_suffix(".json"), {"environment": store.environment(torch.device("cpu")), **numbers})
