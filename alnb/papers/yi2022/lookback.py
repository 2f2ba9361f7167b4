"""What Figures 2 and 4 of Yi et al. 2022 look back with, nets that know all labels, and what they show, kept small.

The nets' features and losses lie in folders that git ignores. What a figure shows of them is a JSON file beside the runs' records: where
it is, neither images nor nets are needed to draw the figure again.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from alnb import store
from alnb.data import ImageSet
from alnb.learn import train
from alnb.learn.pretrain import losses_of
from alnb.learn.train import Report
from alnb.loop.experiment import Cycle
from alnb.papers.yi2022.experiment import Setting, base, learned, pretext_learner, summary
from alnb.report import layout as tsne
from alnb.report import queries as query_analysis
from alnb.report.records import TaggedRun
from alnb.report.stats import Correlation, correlate
from alnb.store import Stream
from alnb.store import streams as rng

if TYPE_CHECKING:
    from pandas import DataFrame

SHOWN = 10_000  # images of a t-SNE plot, at most
EPOCHS = {"smoke": 5, "laptop": 20, "paper": 200}  # of the net that knows all labels, by scale
ITERATIONS = {"smoke": [1, 2, 3], "laptop": [1, 5, 10], "paper": [1, 5, 10]}  # whose queries are shown
METHODS = ("random", "learning_loss", "pt4al")  # and of which methods
REMEDY = "delete it, and it is made again"


# ---- Figure 2 ------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Compared:
    """A pretext's losses of the test images compared with those of the main task."""

    correlation: Correlation
    losses: str  # fingerprint of those of the images learned from, as in `yi2022.summary`: by it another pre-training is known
    dataset: str  # what the images are: at scale smoke not what the setting is named after
    images: int  # test images
    learned: int  # images that both nets learned from
    accuracy: float  # of the main task's net, on the test images


def read_compared(setting: Setting, pretext: str, epochs: float, runs: Path | str) -> Compared | None:
    """What `compared` wrote below `runs`, None where it did not, or of another pre-training than the one whose summary is there.

    Raises:
        store.Corrupted: the file is damaged, or the summary is not there.
    """
    path = _place("compared", setting, runs, pretext, epochs)
    if not path.exists():
        return None
    told = store.read_json(path, REMEDY)
    if told.get("losses") != summary(setting, pretext, runs)["losses"]:
        return None  # of an earlier pre-training
    own = _numbers(told.pop("correlation"))
    own["by_draws"] = {int(m): rho for m, rho in own["by_draws"].items()}
    own |= {"classes": tuple(own["classes"]), "shown": tuple((x, y) for x, y in own["shown"])}
    return Compared(Correlation(**own), **told)


def compared(
    setting: Setting, train_set: ImageSet, test: ImageSet, pretext: str, *, epochs: float, runs: Path | str, report: Report | None = None
) -> Compared:
    """Learn `pretext` and the main task from the pool, and compare their losses of the test images; kept below `runs`.

    Args:
        epochs: of the main task, see `supervised`.
    Raises:
        As `yi2022.learned`, and ValueError as `stats.correlate`.
    """
    found = learned(setting, train_set, pretext, runs=runs, report=report)
    main = supervised(setting, train_set, test, epochs=epochs, runs=runs, report=report)
    draws = losses_of(setting.pretexts[pretext], found, pretext_learner(setting, train_set, pretext), test.images)
    one = correlate(draws.cpu(), main.test_losses, test.targets.cpu(), len(test.classes))
    told = Compared(one, store.fingerprint(found.losses.cpu()), train_set.name, len(test), len(train_set), main.accuracy)
    store.write_json(_place("compared", setting, runs, pretext, epochs), _plain(asdict(told)))
    return told


# ---- Figure 4 ------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Viewed:
    """Where queries lie, by a net that knows all labels."""

    accuracy: float  # of that net, on the test images
    layout: Tensor  # f64 [n,2]: a t-SNE plot of some images
    targets: Tensor  # i64 [n]
    classes: tuple[str, ...]
    queries: dict[str, dict[int, Tensor]]  # by method and iteration from 1: i64, rows of `layout`
    table: DataFrame  # of `query_analysis.summary`


def read_viewed(
    setting: Setting, finished: Iterable[TaggedRun], iterations: Sequence[int], epochs: float, runs: Path | str
) -> Viewed | None:
    """What `viewed` wrote below `runs` of these runs, None where it did not.

    Raises:
        ValueError: a run has no such iteration.
        store.Corrupted: the file is damaged.
    """
    import pandas

    path = _view(setting, queries(finished, iterations), epochs, runs)
    if not path.exists():
        return None
    told = store.read_json(path, REMEDY)
    rows = {method: {int(k): _values(own, torch.int64) for k, own in of.items()} for method, of in told["queries"].items()}
    layout, targets = _values(told["layout"], torch.float64).reshape(-1, 2), _values(told["targets"], torch.int64)
    return Viewed(told["accuracy"], layout, targets, tuple(told["classes"]), rows, pandas.DataFrame(_numbers(told["table"])))


def viewed(
    setting: Setting,
    finished: Iterable[TaggedRun],
    iterations: Sequence[int],
    train_set: ImageSet,
    known: Supervised,
    *,
    epochs: float,
    runs: Path | str,
) -> Viewed:
    """The layout and the numbers of Figure 4; kept below `runs`.

    Args:
        finished: the runs whose queries are shown. known: from `supervised`, with the same `epochs`.
    Raises:
        ValueError: as `queries`, `tsne.layout` and `query_analysis.summary`.
    """  # fmt: skip
    asked = queries(finished, iterations)
    some = shown(len(train_set), asked, SHOWN)
    layout = tsne.layout(known.features[some], cache=Path(runs) / "tsne")
    targets = train_set.targets.cpu()
    table = query_analysis.summary(asked, features=known.features, log_probs=known.log_probs, targets=targets)
    told = {
        "accuracy": known.accuracy, "classes": list(train_set.classes), "targets": _line(targets[some]), "layout": _line(layout),
        "queries": {name: {k: _line(torch.searchsorted(some, own)) for k, own in of.items()} for name, of in asked.items()},
        "table": _plain(table.to_dict("records")),
    }  # fmt: skip
    store.write_json(_view(setting, asked, epochs, runs), told)
    found = read_viewed(setting, finished, iterations, epochs, runs)
    assert found is not None  # just written
    return found


def queries(finished: Iterable[TaggedRun], iterations: Sequence[int]) -> dict[str, dict[int, Tensor]]:
    """What each method of some runs asked for in the `iterations`, from 1: global indices i64 [n]; the first run of a method counts.

    Raises:
        ValueError: a run has no such iteration.
    """
    found: dict[str, dict[int, Tensor]] = {}
    for run, columns in finished:
        cycles = [Cycle.read(record) for record in run.records()]
        check_iterations(iterations, len(cycles))
        own = {k: torch.tensor(cycles[k - 1].queried) for k in iterations}
        found.setdefault(columns["strategy"], own)
    return found


def check_iterations(iterations: Iterable[int], points: int) -> None:
    """Raises: ValueError where one of them is none of the `points` iterations of a run."""
    wrong = [k for k in iterations if not 1 <= k <= points]
    if wrong:
        raise ValueError(f"there is no iteration {wrong[0]}: a run has {points}, the first of which is 1")


def shown(n: int, queries: Mapping[str, Mapping[int, Tensor]], most: int) -> Tensor:
    """All `n` images, or `most` of them at random with every queried one: global indices i64, ascending."""
    if n <= most:
        return torch.arange(n)
    asked = torch.cat([indices for own in queries.values() for indices in own.values()]).unique()
    others = torch.randperm(n, generator=rng.generator(0, "shown"))
    others = others[~torch.isin(others, asked)][: max(0, most - len(asked))]
    return torch.cat([asked, others]).sort().values


def _view(setting: Setting, asked: Mapping[str, Mapping[int, Tensor]], epochs: float, runs: Path | str) -> Path:
    told = {name: {k: own.tolist() for k, own in of.items()} for name, of in asked.items()}
    return _place("viewed", setting, runs, "queries", epochs, told)


def _place(what: str, setting: Setting, runs: Path | str, name: str, *told: Any) -> Path:
    key = store.fingerprint(setting.fingerprint, name, *(float(one) if isinstance(one, int) else one for one in told))[:10]
    return Path(runs) / f"{what}-{setting.dataset}-{setting.scale}-{name}-{key}.json"


def _line(values: Tensor) -> str:
    """All values in one line: a JSON text with a line for each would be twice as long."""
    return " ".join(f"{value:.2f}" if values.is_floating_point() else str(value) for value in values.flatten().tolist())


def _values(line: str, dtype: torch.dtype) -> Tensor:
    return torch.tensor([float(word) for word in line.split()], dtype=dtype)


def _plain(value: Any) -> Any:
    """NaN, which JSON does not have, as None."""
    if isinstance(value, dict):
        return {name: _plain(own) for name, own in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(own) for own in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _numbers(value: Any) -> Any:
    """None as NaN."""
    if isinstance(value, dict):
        return {name: _numbers(own) for name, own in value.items()}
    return [_numbers(own) for own in value] if isinstance(value, list) else math.nan if value is None else value


# ---- the net that knows all labels ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Supervised:
    """A net trained on all labels of the pool, to look back with: Figures 2 and 4."""

    features: Tensor  # [N,D] of the pool
    log_probs: Tensor  # [N,C] of the pool
    test_losses: Tensor  # f64 [T], cross-entropy of the test images in nats
    accuracy: float  # on the test images
    seconds: float


def supervised(
    setting: Setting, train_set: ImageSet, test: ImageSet, *, epochs: float | None = None, runs: Path | str, report: Report | None = None
) -> Supervised:
    """Train the main task on all labels, once: kept below `runs`, in supervised/. Killed and called again, it goes on.

    Args:
        epochs: instead of those of the main recipe, which are many for so many images.
    Raises:
        train.NonFiniteLoss, store.Corrupted: as `train.fit`.
    """
    recipe = setting.main if epochs is None else replace(setting.main, epochs=epochs)
    learner = base(setting, train_set, recipe)
    experiment = store.describe({"train": train_set, "test": test, "learner": learner})

    def compute(folder: Path) -> dict[str, Any]:
        start, device = time.monotonic(), train_set.images.device
        stream, hook = Stream(0) / "supervised", train.TrainingHook(report)
        net = learner.build(len(train_set.classes), stream, device)
        everything = torch.arange(len(train_set))
        train.fit(net, train_set.images, everything, train_set.targets, learner, stream, checkpoint=folder / "checkpoint.pt", hook=hook)
        # in double precision: of images that are easy, a softmax in float32 gives losses of exactly 0, which then tie
        logs = train.predict(lambda x: net(x).double().log_softmax(dim=1), test.images).cpu()
        return {
            "features": train.predict(net.features, train_set.images).cpu(),
            "log_probs": train.predict(train.log_probs(net), train_set.images).cpu(),
            "test_losses": -logs.gather(1, test.targets[:, None])[:, 0],
            "accuracy": float((logs.argmax(dim=1) == test.targets).double().mean()),
            "seconds": time.monotonic() - start,
        }

    found = store.kept(Path(runs) / "supervised", setting.dataset, experiment, train_set.images.device, compute, ("checkpoint.pt",))
    values: dict[str, Any] = {name: found[name] for name in Supervised.__dataclass_fields__}
    moved: dict[str, Any] = {name: value.cpu() if isinstance(value, Tensor) else value for name, value in values.items()}
    return Supervised(**moved)
