import errno
import functools
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy
import pytest
import torch

import alnb
from alnb import Cycle, Experiment, Pool, Protocol, Run, Stream, cycles, store
from alnb.acquire import STRATEGIES, margin, random, random_with_replacement
from alnb.acquire.query import Query, check_query
from alnb.acquire.scopes import RandomSubset, Scoped
from alnb.data import ImageSet
from alnb.learn.task import classification
from alnb.loop.oracle import class_uniform, simulated

situation = pytest.mark.situation
PROTOCOL = Protocol(initial=6, budget=4, cycles=3)


@pytest.fixture
def experiment(train: ImageSet, test: ImageSet, learner: alnb.Learner) -> Experiment:
    return Experiment(Pool.of(train.images), test, learner, margin, simulated(train.targets), PROTOCOL)


@pytest.fixture
def go(experiment: Experiment, tmp_path: Path) -> Callable[..., list[Cycle]]:
    def run(path: Path | str = "run", **changes: object) -> list[Cycle]:
        return list(cycles(tmp_path / path, replace(experiment, **changes)))

    return run


def same(one: list[Cycle], other: list[Cycle]) -> bool:
    return [c.reproducible for c in one] == [c.reproducible for c in other]


def test_the_loop_is_the_naive_loop(go: Callable, train: ImageSet, test: ImageSet, learner: alnb.Learner) -> None:
    """The whole of active learning, once more, in ten lines."""
    found = go()
    labels: dict[int, int] = {}
    net = None
    for k, cycle in enumerate(found):
        pool = Pool.of(train.images)
        for index in labels:
            pool = pool.acquire(torch.tensor([index]), torch.tensor([labels[index]]), 0)
        query = Query(pool, net, pool.unlabelled, 4 if k else 6, Stream(0) / "cycle" / k / "query")
        chosen = (margin if k else random)(query).tolist()
        labels.update({index: int(train.targets[index]) for index in chosen})
        known = torch.tensor(sorted(labels))
        net = learner.build(3, Stream(0) / "cycle" / k)
        alnb.train.fit(net, train.images, known, train.targets[known], learner, Stream(0) / "cycle" / k)
        assert list(cycle.queried) == chosen and list(cycle.labels) == train.targets[chosen].tolist()
        assert cycle.metrics == alnb.train.evaluate(net, test.images, test.targets, 3)
        assert cycle.n_labelled == len(labels) == 6 + 4 * k
        assert list(cycle.class_counts) == torch.bincount(train.targets[chosen], minlength=3).tolist()


def test_records_hold_what_the_readme_promises(go: Callable, tmp_path: Path) -> None:
    found = go()
    manifest = json.loads((tmp_path / "run/manifest.json").read_text())
    assert {"experiment", "environment"} <= set(manifest) and manifest["experiment"]["protocol"]["budget"] == 4
    for k, cycle in enumerate(found):
        record = json.loads((tmp_path / f"run/cycle_{k:03d}/record.json").read_text())
        assert {"cycle", "n_labelled", "metrics", "queried", "seconds"} <= set(record) and record["cycle"] == k
        assert record["metrics"]["accuracy"] == cycle.metrics["accuracy"] and tuple(record["queried"]) == cycle.queried
        assert set(record["seconds"]) == {"query", "oracle", "fit", "evaluate"} and min(record["seconds"].values()) >= 0
    assert [p.name for p in tmp_path.glob("run/*/net.pt")] == ["net.pt"]  # the last one only


@pytest.mark.parametrize("init", ["fresh", "warm"])
@pytest.mark.parametrize("stop", [1, 2])
def test_a_run_that_was_left_goes_on_bit_for_bit(go: Callable, experiment: Experiment, tmp_path: Path, init: str, stop: int) -> None:
    changes = {"protocol": replace(PROTOCOL, init=init), "strategy": Scoped(RandomSubset(20), margin)}
    whole = go("whole", **changes)
    left = cycles(tmp_path / "left", replace(experiment, **changes))
    for _ in range(stop):
        next(left)
    left.close()
    assert same(go("left", **changes), whole)
    assert same(go("left", **changes), whole)  # complete: read only


def test_warm_and_fresh_differ(go: Callable) -> None:
    fresh, warm = go("a"), go("b", protocol=replace(PROTOCOL, init="warm"))
    assert fresh[0].reproducible == warm[0].reproducible and fresh[-1].metrics != warm[-1].metrics


@pytest.mark.parametrize("init", ["fresh", "warm"])
def test_a_lost_net_is_trained_again_from_the_records(go: Callable, tmp_path: Path, init: str) -> None:
    protocol = replace(PROTOCOL, init=init)
    whole = go("whole", protocol=protocol)
    go("run", protocol=protocol)
    for path in (tmp_path / "run").glob("cycle_*/net.pt"):
        path.unlink()
    for name in ("record.json", "query.json"):
        (tmp_path / "run/cycle_002" / name).unlink()
    assert same(go("run", protocol=protocol), whole)


@pytest.mark.parametrize("name", ["manifest.json", "cycle_000/record.json", "cycle_001/record.json"])
def test_a_damaged_file_is_named_and_not_used(go: Callable, tmp_path: Path, name: str) -> None:
    go()
    path = tmp_path / "run" / name
    text = path.read_text()
    path.write_text(text.replace("0", "1", 1))
    with pytest.raises(store.Corrupted, match=f"{path.name} is truncated or was altered"):
        go()
    path.write_text(text)
    go()


def test_a_damaged_query_and_net_are_named(tmp_path: Path, go: Callable) -> None:
    go()
    (tmp_path / "run/cycle_002/record.json").unlink()
    for name in ("query.json", "net.pt"):
        path = tmp_path / "run/cycle_002" / name
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(store.Corrupted, match=f"{name} is truncated"):
            go()
        path.write_bytes(whole)
    go()


def test_another_experiment_in_the_folder(go: Callable, learner: alnb.Learner) -> None:
    go()
    with pytest.raises(store.ManifestDiffers) as caught:
        go(
            strategy=STRATEGIES["entropy"],
            protocol=replace(PROTOCOL, seed=3),
            learner=replace(learner, recipe=replace(learner.recipe, lr=0.5)),
        )
    message = str(caught.value)
    for line in (
        "strategy: the folder has 'margin'",
        "protocol.seed: the folder has 0, you ask for 3",
        "learner.recipe.lr: the folder has 0.05",
    ):
        assert line in message
    assert "budget" not in message


def test_other_images_are_another_experiment(go: Callable, test: ImageSet) -> None:
    go()
    with pytest.raises(store.ManifestDiffers, match=r"pool\.images\.fingerprint"):
        go(pool=Pool.of(test.images))


def test_two_at_once(experiment: Experiment, tmp_path: Path, go: Callable) -> None:
    first = cycles(tmp_path / "run", experiment)
    next(first)
    with pytest.raises(store.Locked, match="is in use by process"):
        go()
    first.close()
    go()


def test_a_full_disk_loses_nothing(go: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, real, count = go("whole"), os.fsync, iter(range(100))

    def full(handle: int) -> None:
        if next(count) == 12:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(handle)

    with (
        monkeypatch.context() as patch,
        pytest.raises(OSError, match=r"No space left on device while writing .*nothing that was complete is lost"),
    ):
        patch.setattr("os.fsync", full)
        go()
    assert not list((tmp_path / "run").glob("**/.*.part"))
    assert 0 < len(Run(tmp_path / "run").records()) < 3
    assert same(go(), whole)


# ---- bad input -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("strategy", "message"),
    [
        (lambda q: q.candidates[:1].repeat(q.n), "occur more than once"),
        (lambda q: q.pool.labelled[: q.n], "were asked for before"),
        (lambda q: q.candidates[:-1], "returned [0-9]+ indices, expected 4"),
        (lambda q: torch.arange(4) + 1000, "outside the pool of 60 images"),
        (lambda q: torch.rand(q.n), "indices must be int64"),
    ],
)
def test_a_strategy_that_answers_wrongly(go: Callable, tmp_path: Path, strategy: Callable, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        go(strategy=strategy)
    assert "in cycle 1" in str(caught.value)
    assert len(Run(tmp_path / "run").records()) == 1 and not (tmp_path / "run/cycle_001/query.json").exists()


class Plain:
    """A strategy whose state no manifest can hold."""

    def __call__(self, query: Query) -> torch.Tensor:
        return query.candidates[: query.n]

    def method(self, query: Query) -> torch.Tensor:
        return query.candidates[: query.n]


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        pytest.param(lambda q: None, "NoneType", marks=situation("D1", "a strategy returns None", "refused: its name and the type")),
        pytest.param(lambda q: set(q.candidates[: q.n].tolist()), "set", marks=situation("D1", "a strategy returns a set", "refused")),
        pytest.param(lambda q: (q.candidates[: q.n], torch.rand(q.n)), "tuple", marks=situation("D1", "(indices, scores)", "refused")),
        pytest.param(lambda q: (i for i in range(4)), "generator", marks=situation("S50", "a strategy is a generator", "refused")),
        pytest.param(lambda q: [[1], [2, 3]], "list", marks=situation("S51", "a strategy returns lists of unequal length", "refused")),
        pytest.param(lambda q: "margin", "str", marks=situation("S52", "a strategy returns a text", "refused")),
    ],
)
def test_a_strategy_that_returns_no_indices(go: Callable, tmp_path: Path, answer: Callable, kind: str) -> None:
    with pytest.raises(ValueError, match=rf"strategy .*<lambda> in cycle 1 returned a {kind}, expected indices i64 \[4\]"):
        go(strategy=answer)
    assert len(Run(tmp_path / "run").records()) == 1 and not (tmp_path / "run/cycle_001/query.json").exists()


@pytest.mark.parametrize(
    ("strategy", "numbers"),
    [
        pytest.param(lambda q: q.candidates[: q.n].tolist(), list, marks=situation("D1", "a strategy and an oracle return lists", "taken")),
        pytest.param(lambda q: q.candidates[: q.n].numpy(), numpy.array, marks=situation("S53", "they return arrays of NumPy", "taken")),
    ],
)
def test_lists_and_arrays_are_answers(experiment: Experiment, tmp_path: Path, strategy: Callable, numbers: Callable) -> None:
    class Answers:
        fingerprint = "of the targets"

        def __call__(self, indices: torch.Tensor) -> object:
            return numbers(experiment.test.targets[indices % 30].tolist())

    made = replace(experiment, strategy=strategy, oracle=Answers())
    assert [cycle.n_labelled for cycle in cycles(tmp_path / "run", made)] == [6, 10, 14]


@pytest.mark.parametrize(
    ("oracle", "kind"),
    [
        pytest.param(lambda i: None, "NoneType", marks=situation("D1", "an oracle returns None", "refused: cycle and type")),
        pytest.param(lambda i: {int(k): 0 for k in i}, "dict", marks=situation("S54", "an oracle returns a mapping", "refused")),
        pytest.param(lambda i: ["cat"] * len(i), "list", marks=situation("S55", "an oracle returns names", "refused")),
    ],
)
def test_an_oracle_that_returns_no_labels(go: Callable, oracle: Callable, kind: str) -> None:
    with pytest.raises(ValueError, match=f"cycle 0: the oracle returned a {kind}, expected int64 labels of all 6 images"):
        go(oracle=oracle)


@pytest.mark.parametrize(
    "strategy",
    [
        pytest.param(Plain(), marks=situation("D6", "an instance of a plain class as a strategy", "refused in a sentence, at once")),
        pytest.param(Plain().method, marks=situation("D6", "a bound method as a strategy", "refused in a sentence, at once")),
        pytest.param(functools.partial(Plain().method), marks=situation("D6", "a partial of a bound method", "refused, at once")),
    ],
)
def test_a_strategy_that_no_manifest_can_hold(go: Callable, tmp_path: Path, strategy: Callable) -> None:
    with pytest.raises(TypeError, match=r"Experiment.strategy: a .*Plain.* use a function, a functools.partial or a dataclass"):
        go(strategy=strategy)
    assert not (tmp_path / "run").exists()


def first_of(query: Query, sign: int) -> torch.Tensor:
    return query.candidates[: sign * query.n]


@pytest.mark.parametrize(
    "strategy",
    [
        pytest.param(lambda q: q.candidates[: q.n], marks=situation("D6", "a lambda as a strategy", "runs")),
        pytest.param(functools.partial(first_of, sign=1), marks=situation("D6", "a functools.partial as a strategy", "runs")),
    ],
)
def test_a_strategy_that_a_manifest_can_hold(go: Callable, strategy: Callable) -> None:
    assert len(go(strategy=strategy)) == 3


@situation("D6", "Protocol(np.int64(6), …), seeds from np.arange, tags of NumPy", "the run of Python's numbers, bit for bit")
def test_numbers_of_numpy_are_numbers(go: Callable, experiment: Experiment) -> None:
    plain = replace(experiment, protocol=Protocol(6, 4, 2, seed=1), tags={"seed": 1, "lr": 0.5, "fast": True})
    numbers = Protocol(*numpy.array([6, 4, 2]), seed=numpy.arange(2)[1])
    other = replace(experiment, protocol=numbers, tags={"seed": numpy.int64(1), "lr": numpy.float32(0.5), "fast": numpy.bool_(True)})
    assert plain.manifest == other.manifest
    assert same(go("plain", protocol=plain.protocol), go("numpy", protocol=numbers))
    assert (Stream(numpy.int64(3)) / numpy.int64(1) / "x").seed == (Stream(3) / 1 / "x").seed


@pytest.mark.parametrize("seed", [1.5, 1.0, True, numpy.float64(1), "1"])
def test_a_seed_that_is_no_whole_number_is_refused(seed: object) -> None:
    with pytest.raises(ValueError, match=r"Protocol\.seed is "):
        replace(PROTOCOL, seed=seed)


def test_images_that_are_no_candidates_are_refused(train: ImageSet) -> None:
    query = Query(Pool.of(train.images), None, torch.arange(6), 2, Stream(0))
    with pytest.raises(ValueError, match="here: image 8 is not among the 6 candidates"):
        check_query(torch.tensor([3, 8]), query, "here")


@pytest.mark.parametrize(
    ("oracle", "message"),
    [
        (lambda indices: torch.full((len(indices),), 3), "cycle 0: label 3 of image [0-9]+ .* 3 classes"),
        (lambda indices: torch.zeros(2, dtype=torch.int64), r"cycle 0: .*int64 \[2\].* 6 images"),
    ],
)
def test_an_oracle_that_answers_wrongly(go: Callable, oracle: Callable, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        go(oracle=oracle)


def test_a_budget_beyond_the_pool(go: Callable, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"asks for 66 labels \(6 \+ 15 x 4\), the pool has 60"):
        go(protocol=Protocol(6, 4, 16))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("initial", [0, 6])
def test_labels_from_elsewhere_are_a_start(
    go: Callable, experiment: Experiment, train: ImageSet, test: ImageSet, learner: alnb.Learner, tmp_path: Path, initial: int
) -> None:
    """Cycle 0 learns from the labels that the pool has, and from those that it asks for; a run that was left is the same."""
    start = torch.arange(0, 40, 4)
    pool, protocol = Pool.of(train.images).acquire(start, train.targets[start], 0), replace(PROTOCOL, initial=initial)
    whole = go("whole", pool=pool, protocol=protocol)
    assert [cycle.n_labelled for cycle in whole] == [10 + initial, 14 + initial, 18 + initial]
    asked = [*whole[0].queried, *whole[1].queried, *whole[2].queried]
    assert len(whole[0].queried) == initial and len({*asked, *start.tolist()}) == 10 + initial + 8
    known = torch.tensor(sorted([*start.tolist(), *whole[0].queried]))
    net = learner.build(3, Stream(0) / "cycle" / 0)
    alnb.train.fit(net, train.images, known, train.targets[known], learner, Stream(0) / "cycle" / 0)
    assert whole[0].metrics == alnb.train.evaluate(net, test.images, test.targets, 3)
    for stop in (1, 2):
        left = cycles(tmp_path / f"left{stop}", replace(experiment, pool=pool, protocol=protocol))
        for _ in range(stop):
            next(left)
        left.close()
        assert same(go(f"left{stop}", pool=pool, protocol=protocol), whole)
    other = Pool.of(train.images).acquire(start, train.targets[start].flip(0), 0)
    manifests = [replace(experiment, pool=p, protocol=protocol).manifest["pool"] for p in (pool, other)]
    assert manifests[0] != manifests[1]  # a manifest holds the start


def test_a_start_without_labels_is_refused(experiment: Experiment) -> None:
    with pytest.raises(ValueError, match=r"Protocol.initial is 0"):
        replace(experiment, protocol=replace(PROTOCOL, initial=0))


@pytest.mark.parametrize("bad", [{"initial": -1}, {"budget": -1}, {"cycles": 0}, {"init": "hot"}, {"checkpoint": "best"}, {"seed": 1.5}])
def test_a_bad_protocol_is_refused_by_name(bad: dict) -> None:
    with pytest.raises(ValueError, match=f"Protocol.{next(iter(bad))} is "):
        replace(PROTOCOL, **bad)


def test_a_class_uniform_start_with_too_few_labels(go: Callable, train: ImageSet) -> None:
    assert go("enough", initial=class_uniform(train.targets, 3))[0].class_counts == (2, 2, 2)
    with pytest.raises(ValueError, match="with 2 labels cannot cover 3 classes"):
        go("few", initial=class_uniform(train.targets, 3), protocol=Protocol(2, 2, 2))


def test_images_without_an_answer_are_not_asked_again(go: Callable, train: ImageSet) -> None:
    def unsure(indices: torch.Tensor) -> torch.Tensor:
        return train.targets[indices].where(torch.arange(len(indices)) > 0, -1)

    found = go(oracle=unsure)
    assert [c.n_labelled for c in found] == [5, 8, 11] and [sum(c.class_counts) for c in found] == [5, 3, 3]
    assert len({index for c in found for index in c.queried}) == 14


def test_the_manifest_is_known_before_the_run(experiment: Experiment, tmp_path: Path) -> None:
    run = experiment.run(tmp_path, "digits")
    assert run.path.name.startswith("digits-") and run.manifest is None
    list(cycles(run, experiment))
    assert run.manifest["experiment"] == experiment.manifest


def test_what_a_manifest_cannot_hold_is_named(experiment: Experiment) -> None:
    with pytest.raises(TypeError, match=r"Experiment\.strategy: a Generator .*functools\.partial"):
        replace(experiment, strategy=torch.Generator()).run("runs")


def test_a_move_to_another_module_changes_no_run_folder(experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = experiment.run(tmp_path).path
    for moved in (Protocol, alnb.Recipe, margin, random):
        monkeypatch.setattr(moved, "__module__", "alnb.a_room.another_file")
    again = replace(experiment)
    assert "manifest" not in vars(again) and again.run(tmp_path).path == before


def test_a_task_decides_outputs_loss_and_evaluation(go: Callable, train: ImageSet) -> None:
    task = alnb.Task("two metrics", 4, lambda net, x, y: net(x)[:, 3] ** 2, lambda net, images, targets, outputs: {"accuracy": outputs / 8})
    records = go(task=task, strategy=random)
    assert [cycle.metrics for cycle in records] == [{"accuracy": 0.5}] * 3 and len(records[0].class_counts) == 4


def test_best_on_test_is_the_best_epoch_and_says_so(go: Callable, train: ImageSet, test: ImageSet, learner: alnb.Learner) -> None:
    peeking = replace(PROTOCOL, checkpoint="best_test")
    found = go(protocol=peeking)
    labels: list[int] = []
    for k, cycle in enumerate(found):
        labels += cycle.queried
        stream, seen = Stream(0) / "cycle" / k, []
        known, net = torch.tensor(sorted(labels)), learner.build(3, stream)
        look = lambda net, _, seen=seen: seen.append(alnb.train.evaluate(net, test.images, test.targets, 3))  # noqa: E731
        hook = alnb.train.TrainingHook(looks=((look, round(learner.recipe.updates(len(known)) / 2)),))
        alnb.train.fit(net, train.images, known, train.targets[known], learner, stream, hook=hook)
        assert cycle.metrics["accuracy"] == max(one["accuracy"] for one in seen) and len(seen) >= 2
        assert any("looked at the test images" in note for note in cycle.notes)
    assert not any("looked at" in note for cycle in go("other") for note in cycle.notes)


@dataclass
class Box:
    """A number that a manifest does not hold."""

    number: int = field(default=0, metadata={"result": False})


def test_best_on_test_survives_a_kill(go: Callable, learner: alnb.Learner, tmp_path: Path) -> None:
    """Ended at every look in turn: after the net was written, and before."""
    roles = {
        "protocol": replace(PROTOCOL, checkpoint="best_test", init="warm"),
        "learner": replace(learner, recipe=replace(learner.recipe, epochs=4, checkpoint_seconds=0)),
    }
    whole = go("whole", **roles)
    original, looks = alnb.train.evaluate, Box()

    def dying(*args: object, **kwargs: object) -> object:
        looks.number += 1
        if looks.number % 3 == 0:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    task, found = replace(classification(3), evaluate=dying), None
    for _ in range(100):
        try:
            found = go("killed", task=task, **roles)
            break
        except KeyboardInterrupt:
            continue
    assert found is not None and same(found, whole) and looks.number > 9
    assert sorted(path.name for path in (tmp_path / "killed").glob("cycle_*/*.pt")) == ["best.pt", "net.pt"]


def test_draws_with_replacement_choose_fewer_where_that_is_allowed(go: Callable) -> None:
    with pytest.raises(ValueError, match=r"returned [0-9]+ indices, expected 30"):
        go(strategy=random_with_replacement, protocol=Protocol(6, 30, 2))
    found = go("inexact", strategy=random_with_replacement, protocol=Protocol(6, 30, 2, exact=False))
    assert 6 < found[1].n_labelled < 36 and len(set(found[1].queried)) == len(found[1].queried)
