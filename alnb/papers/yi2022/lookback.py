"""What Figures 2 and 4 of Yi et al. 2022 look back with: a net that knows all labels.

What a figure shows lies beside the runs as a small result, so that neither images nor nets are needed to draw the figure again.

An *iteration* is the paper's: it counts from 1, and iteration 1 is cycle 0.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pandas
import torch
from pandas import DataFrame
from torch import Tensor

from alnb.learn.pretrain import losses_of
from alnb.loop.experiment import Cycle
from alnb.papers import experiment as shared
from alnb.papers.experiment import Supervised
from alnb.papers.jobs import TaggedRun, cached_result, progress
from alnb.papers.yi2022.experiment import PreparedData, Setting, summary_file
from alnb.report import layout as tsne
from alnb.report.queries import summary
from alnb.report.stats import Correlation, correlate
from alnb.store import Stream

SHOWN = 10_000  # images of a t-SNE plot, at most
STRATEGIES = ("random", "learning_loss", "pt4al")  # of Figure 4


def supervised(prepared: PreparedData, epochs: float) -> Supervised:
    """The main task on all labels, trained once. See `experiment.supervised`."""
    learner = prepared.learner_of(replace(prepared.setting.main, epochs=epochs))
    with progress("all labels") as report:
        return shared.supervised(learner, prepared.pool, prepared.test, seed=prepared.seed, runs=prepared.runs, report=report)


@dataclass(frozen=True)
class LossComparison:
    """A pretext's losses of the test images compared with those of the main task."""

    correlation: Correlation
    dataset: str  # what the images are: at scale smoke the digits
    images: int  # test images
    learned: int  # images that both nets learned from
    accuracy: float  # of the main task's net, on the test images


def read_comparison(setting: Setting, pretext: str, seed: int, epochs: float, runs: Path | str) -> LossComparison | None:
    """What `compare_losses` left below `runs`; None if it left nothing, or if the pretext was learned anew since."""
    name, key = _comparison_file(setting, pretext, seed, epochs, runs)
    numbers = cached_result(runs, name, key) if key else None
    if numbers is None:
        return None
    values = numbers["correlation"]
    values |= {"classes": tuple(values["classes"]), "shown": tuple((x, y) for x, y in values["shown"])}
    values["by_draws"] = {int(draws): rho for draws, rho in values["by_draws"].items()}
    sizes = {field: numbers[field] for field in ("dataset", "images", "learned", "accuracy")}
    return LossComparison(Correlation(**values), **sizes)


def compare_losses(prepared: PreparedData, pretext: str, epochs: float) -> LossComparison:
    """Learn `pretext` and the main task from the pool, the latter for `epochs`, and compare their losses of the test images; or read it.

    `prepared` is of a replication: its seed is that of both nets.

    Raises: as `PreparedData.pretrained`, and ValueError as `stats.correlate`.
    """
    setting, runs = prepared.setting, prepared.runs
    comparison = read_comparison(setting, pretext, prepared.seed, epochs, runs)
    if comparison is None:
        result, net, pool, test = prepared.pretrained(pretext), supervised(prepared, epochs), prepared.pool, prepared.test
        learner = prepared.learner_of(setting.recipe(pretext))
        draws = losses_of(setting.pretexts[pretext], result, learner, test.images, seed=prepared.seed)
        correlation = correlate(draws.cpu(), net.test_losses, test.targets.cpu(), len(test.classes))
        comparison = LossComparison(correlation, pool.name, len(test), len(pool), net.accuracy)
        numbers = asdict(comparison)
        cached_result(runs, *_comparison_file(setting, pretext, prepared.seed, epochs, runs), lambda: numbers)
    return comparison


def _comparison_file(setting: Setting, pretext: str, seed: int, epochs: float, runs: Path | str) -> tuple[str, Any]:
    """The name and the key of the result; the key is None if the pretext was not learned."""
    pretraining = cached_result(runs, *summary_file(setting, pretext, seed))
    key = (setting.digest, pretext, float(epochs), pretraining["losses"]) if pretraining else None
    return f"compared-{setting.dataset}-{setting.scale}-{pretext}-{seed}", key


@dataclass(frozen=True)
class QueryMap:
    """Where queries lie, as a net sees them that knows all labels."""

    accuracy: float  # of that net, on the test images
    layout: Tensor  # f64 [n,2]: a t-SNE plot of n images
    targets: Tensor  # i64 [n]
    classes: tuple[str, ...]
    queries: dict[str, dict[int, Tensor]]  # by strategy and iteration: i64, rows of `layout`
    table: DataFrame  # of `queries.summary`


def map_queries(prepared: PreparedData, finished: Iterable[TaggedRun], iterations: Sequence[int], epochs: float) -> QueryMap:
    """The layout and the numbers of Figure 4; computed once, the result lies beside the runs.

    Args:
        finished: the runs whose queries are shown; the first run of a strategy counts.
        epochs: of the net that knows all labels.
    Raises: ValueError as `queries`, `tsne.layout` and `queries.summary`.
    """
    setting, asked = prepared.setting, queries(finished, iterations)
    key = setting.digest, float(epochs), {name: {k: images.tolist() for k, images in lists.items()} for name, lists in asked.items()}
    name = f"queries-{setting.dataset}-{setting.scale}"
    numbers = cached_result(prepared.runs, name, key, lambda: _map(prepared, asked, epochs))
    assert numbers is not None  # it is computed if it is not there
    rows = {name: {int(k): _values(line, torch.int64) for k, line in lists.items()} for name, lists in numbers["queries"].items()}
    layout, targets = _values(numbers["layout"], torch.float64).reshape(-1, 2), _values(numbers["targets"], torch.int64)
    return QueryMap(numbers["accuracy"], layout, targets, tuple(numbers["classes"]), rows, pandas.DataFrame(numbers["table"]))


def _map(prepared: PreparedData, asked: Mapping[str, Mapping[int, Tensor]], epochs: float) -> dict[str, Any]:
    pool, net = prepared.pool, supervised(prepared, epochs)
    images, targets = shown(len(pool), asked, SHOWN), pool.targets.cpu()
    table = summary(asked, features=net.features, log_probs=net.log_probs, targets=targets)
    return {
        "accuracy": net.accuracy, "classes": list(pool.classes), "targets": _line(targets[images]),
        "layout": _line(tsne.layout(net.features[images], cache=Path(prepared.runs) / "tsne")),
        "queries": {name: {k: _line(torch.searchsorted(images, lists[k])) for k in lists} for name, lists in asked.items()},
        "table": table.to_dict("records"),
    }  # fmt: skip


def queries(finished: Iterable[TaggedRun], iterations: Sequence[int]) -> dict[str, dict[int, Tensor]]:
    """The queries of runs by strategy and iteration: global indices i64 [n]. The first run of a strategy counts."""
    asked: dict[str, dict[int, Tensor]] = {}
    for run, tags in finished:
        cycles = [Cycle.read(record) for record in run.records()]
        check_iterations(iterations, len(cycles))
        asked.setdefault(tags["strategy"], {k: torch.tensor(cycles[k - 1].queried) for k in iterations})
    return asked


def check_iterations(iterations: Iterable[int], cycles: int) -> None:
    """Raises: ValueError if an iteration is none of the `cycles` of a run."""
    wrong = [k for k in iterations if not 1 <= k <= cycles]
    if wrong:
        raise ValueError(f"there is no iteration {wrong[0]}: a run has {cycles}, numbered from 1")


def shown(n: int, queries: Mapping[str, Mapping[int, Tensor]], most: int) -> Tensor:
    """All `n` images, or `most` of them at random with every queried one: global indices i64, ascending."""
    if n <= most:
        return torch.arange(n)
    asked = torch.cat([indices for lists in queries.values() for indices in lists.values()]).unique()
    others = torch.randperm(n, generator=(Stream(0) / "shown").generator())
    others = others[~torch.isin(others, asked)][: max(0, most - len(asked))]
    return torch.cat([asked, others]).sort().values


def _line(values: Tensor) -> str:
    """All values in one line of text: a JSON list has a line for each value, and is twice as long."""
    return " ".join(f"{value:.2f}" if values.is_floating_point() else str(value) for value in values.flatten().tolist())


def _values(line: str, dtype: torch.dtype) -> Tensor:
    return torch.tensor([float(word) for word in line.split()], dtype=dtype)
