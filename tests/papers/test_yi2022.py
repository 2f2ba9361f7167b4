"""The experiments of Yi et al. 2022 at smoke scale: protocols, methods under one harness, records found again."""

from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import pytest
import torch

from alnb import store
from alnb.acquire import pt4al
from alnb.acquire.scopes import RandomSubset, Scoped
from alnb.loop import cycles as loop
from alnb.papers.yi2022 import experiment as yi2022
from alnb.papers.yi2022.experiment import CLEAN, METHODS, PRESETS, Prepared, Switches, cycles, find, grid, ladder, needed, setting
from alnb.report import records


@cache
def prepared() -> tuple[Prepared, Path]:
    runs, chosen = Path(mkdtemp()), setting("cifar10", "smoke")
    train, test = yi2022.images(chosen)
    return yi2022.prepare(chosen, train, test, ["rotation"], runs=runs), runs


def test_presets_are_what_the_fact_sheet_says() -> None:
    assert asdict(CLEAN) == {
        "key": "float", "first_batch": 0, "confidence": "softmax", "init": "fresh", "checkpoint": "last", "colour": "rgb",
        "augment": "crop_flip",
    }  # fmt: skip
    assert asdict(PRESETS["as_released"]) == {
        "key": "text", "first_batch": 0, "confidence": "normalised", "init": "warm", "checkpoint": "best_test", "colour": "bgr",
        "augment": "crop_flip",
    }  # fmt: skip
    paper = PRESETS["paper"]
    assert (paper.key, paper.confidence, paper.colour, paper.augment) == ("float", "softmax", "rgb", "resized_crop")


def test_paper_scale_is_the_papers() -> None:
    full = setting("cifar10", "paper")
    assert (full.initial, full.budget, full.points, full.batches, full.subset) == (1000, 1000, 10, 10, 10_000)
    assert (full.main.epochs, full.main.batch, full.main.lr, full.main.milestones, full.pretext.epochs) == (200, 128, 0.1, (0.8,), 15)
    assert sum(p.numel() for p in full.net(10).parameters()) == 11_173_962
    assert sum(p.numel() for p in full.net(4).parameters()) == 11_170_884
    assert setting("caltech101", "paper").image_size == 224
    for scale in yi2022.SCALES:  # a batch is a tenth of the pool, of which the budget is at most all
        yi2022.check(setting("cifar10", scale), METHODS)


def test_names_of_protocols_and_the_ladder() -> None:
    assert yi2022.name_of(replace(CLEAN, init="warm")) == "clean, init=warm"
    assert [yi2022.name_of(one) for one in PRESETS.values()] == list(PRESETS)
    steps = ladder("cifar10", "smoke")
    assert next(iter(steps)) == "clean" and {"paper", "as_released"} < set(steps) and len(steps) == 10
    assert len({one.fingerprint for one in steps.values()}) == 10
    single = [one.switches for name, one in steps.items() if "=" in name]
    assert all(sum(a != b for a, b in zip(asdict(one).values(), asdict(CLEAN).values(), strict=True)) == 1 for one in single)


def test_every_method_runs_and_is_found_again() -> None:
    ready, runs = prepared()
    jobs = grid(ready.setting, METHODS, [0])
    assert needed(jobs) == ["rotation"] and len(jobs) == len(METHODS)
    for job in jobs:
        found = list(cycles(ready, **job, runs=runs))
        assert len(found) == 3
        expected = 10 if METHODS[job["method"]].exact else 5
        assert all(len(cycle.queried) >= expected for cycle in found)
    finished, left = find(ready.setting, jobs, runs)
    assert not left and [columns["method"] for _, columns in finished] == list(METHODS)
    frame = records.frame(finished)
    first = {name: own["run"].iloc[0] for name, own in frame.groupby("strategy")}
    start = {name: store.read_json(Path(path) / "cycle_000" / "record.json")["queried"] for name, path in first.items()}
    plain = [name for name in METHODS if not METHODS[name].pretext and METHODS[name].exact]
    assert all(start[name] == start["random"] for name in plain)  # one harness: the same first labels
    nets = frame[frame["cycle"] == 0].set_index("strategy")["accuracy"]
    assert nets["random"] == nets["learning_loss_detached"] == nets["kcenter"]  # and the same nets; detached, the module changes nothing
    # no method's files stay behind
    assert not list(runs.glob("*/cycle_*/vaal.pt")) and not list(runs.glob("*/cycle_*/pal*.pt"))


def test_pt4al_chooses_from_the_batches_of_the_losses() -> None:
    ready, runs = prepared()
    ranked = pt4al.ranking(ready.losses["rotation"])
    for cycle in cycles(ready, method="pt4al", pretext="rotation", seed=0, runs=runs):
        inside = pt4al.batch(ranked, 10, cycle.cycle).tolist()
        assert set(cycle.queried) <= set(inside)
        if not cycle.cycle:
            assert list(cycle.queried) == inside[::6]  # even intervals: 10 of 60
    low = next(cycles(ready, method="pt4al_low_first", pretext="rotation", seed=0, runs=runs))
    assert set(low.queried) <= set(pt4al.batch(ranked.flip(0), 10, 0).tolist())


def test_switches_reach_the_run() -> None:
    ready, runs = prepared()
    chosen = setting("cifar10", "smoke", preset="as_released", points=2)
    train, test = yi2022.images(chosen)
    assert train.name.endswith("(BGR)") and torch.equal(train.images.tensor, ready.train.images.tensor.flip(1))
    released = yi2022.prepare(chosen, train, test, ["rotation"], runs=runs)
    assert released.learner.mean == ready.learner.mean  # of red, in the order red, green, blue, though blue comes first
    found = list(cycles(released, method="pt4al", pretext="rotation", seed=0, runs=runs))
    assert len(found) == 2 and any(loop.PEEKED in note for cycle in found for note in cycle.notes)
    ((run, columns),) = find(chosen, grid(chosen, ["pt4al"], [0]), runs)[0]
    rules = run.manifest["experiment"]["protocol"]
    assert (rules["init"], rules["checkpoint"], columns["preset"], columns["key"]) == ("warm", "best_test", "as_released", "text")
    assert run.manifest["experiment"]["strategy"]["strategy"] == "normalised_confidence"


def test_scopes_of_methods() -> None:
    chosen = setting("cifar10", "smoke")
    scoped = {name: one.strategy(chosen) for name, one in METHODS.items() if one.exact}
    some = {name for name, one in scoped.items() if isinstance(one, Scoped) and one.scope == RandomSubset(chosen.subset)}
    assert some == set(yi2022.SUBSET)
    assert METHODS["learning_loss"].learner(prepared()[0].learner).later.share == 121 / 200


def test_bad_input() -> None:
    for call, message in (
        (lambda: setting("cifar-10", "smoke"), "dataset is 'cifar-10': it must be one of cifar10"),
        (lambda: setting("cifar10", "smoke", preset="dirty"), "preset is 'dirty': it must be one of clean, paper, as_released"),
        (lambda: setting("cifar10", "smoke", warmth=1), "there is no switch 'warmth': there are key, first_batch"),
        (lambda: setting("caltech101", "laptop", first_batch=8), "first_batch is 8, but on caltech101 the pool is cut into 8 batches"),
        (lambda: Switches(key="number"), "key is 'number': it must be one of float, text"),
        (lambda: grid(setting("cifar10", "smoke"), ["coreset"], [0]), "there is no method 'coreset': there are random"),
        (lambda: grid(setting("cifar10", "smoke"), ["pt4al"], [0], ["rotate"]), "there is no pretext 'rotate': there are"),
        (lambda: grid(setting("cifar10", "smoke", points=11), ["pt4al"], [0]), "11 iterations, but PT4AL cuts the pool into 10 batches"),
        (lambda: grid(replace(setting("cifar10", "smoke"), subset=5), ["vaal"], [0]), "subset is 5, fewer than the 10 images asked for"),
        (lambda: grid(replace(setting("cifar10", "smoke"), initial=11), ["learning_loss"], [0]), "with 11 labelled images a batch of 11"),
        (lambda: grid(setting("cifar10", "smoke"), [], [0]), "nothing to run with methods"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_two_runs_of_one_job_are_an_error(tmp_path: Path) -> None:
    ready, _ = prepared()
    other = replace(ready, test=replace(ready.test, name="another"))
    for one in (ready, replace(other, train=ready.test, learner=ready.learner)):
        list(cycles(one, method="random", pretext="", seed=0, runs=tmp_path))
    with pytest.raises(ValueError, match="are one experiment on other images or losses: move one of the two away"):
        find(ready.setting, grid(ready.setting, ["random"], [0]), tmp_path)


def test_runs_sorted_by_two_pre_trainings_are_an_error(tmp_path: Path) -> None:
    ready, _ = prepared()
    other = replace(ready, losses={"rotation": ready.losses["rotation"].flip(0)})
    jobs = grid(ready.setting, ["pt4al"], [0, 1])
    for one, job in zip((ready, other), jobs, strict=True):
        list(cycles(one, **job, runs=tmp_path))
    with pytest.raises(ValueError, match="are one experiment on other images or losses"):
        find(ready.setting, jobs, tmp_path)


def test_another_pre_training_is_not_mixed_into_the_runs_of_the_first(tmp_path: Path) -> None:
    ready, _ = prepared()
    yi2022.learned(ready.setting, ready.train, "rotation", runs=tmp_path)
    path = next(tmp_path.glob("pretrained-*.json"))
    assert yi2022.summary(ready.setting, "rotation", tmp_path)["images"] == len(ready.train)
    store.write_json(path, {**yi2022.summary(ready.setting, "rotation", tmp_path), "losses": "of another machine"})
    with pytest.raises(ValueError, match="tells of another pre-training on rotation"):
        yi2022.learned(ready.setting, ready.train, "rotation", runs=tmp_path)
    path.unlink()
    with pytest.raises(store.Corrupted, match="is missing: copy it from where the runs beside it were made"):
        yi2022.summary(ready.setting, "rotation", tmp_path)


def test_runs_of_an_earlier_version_of_a_method_are_not_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ready, _ = prepared()
    list(cycles(ready, method="vaal", pretext="", seed=0, runs=tmp_path))
    jobs = grid(ready.setting, ["vaal"], [0])
    assert len(find(ready.setting, jobs, tmp_path)[0]) == 1
    monkeypatch.setitem(METHODS, "vaal", replace(METHODS["vaal"], strategy=lambda setting: setting.vaal))
    assert find(ready.setting, jobs, tmp_path)[1] == jobs


def test_names_that_the_api_does_not_know_are_named(tmp_path: Path) -> None:
    ready, runs = prepared()
    for call, message in (
        (lambda: next(cycles(ready, method="pt4all", pretext="", seed=0, runs=runs)), "there is no method 'pt4all': there are random"),
        (lambda: next(cycles(ready, method="pt4al", pretext="jigsaw", seed=0, runs=runs)), "'jigsaw' was not prepared, but rotation: name"),
        (lambda: yi2022.prepare(ready.setting, ready.train, ready.test, ["rot"], runs=tmp_path), "there is no pretext 'rot'"),
        (lambda: setting("cifar10", "smoke", points=0), "points is 0: it must be a whole number of iterations"),
        (lambda: setting("cifar10", "smoke", first_batch=True), "first_batch is True: it must be one of 0, 1"),
        (
            lambda: yi2022.prepare(replace(ready.setting, budget=70), ready.train, ready.test, ["rotation"], runs=tmp_path),
            "a batch of PT4AL is 60",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_the_imbalanced_pool_is_imbalanced_at_every_scale() -> None:
    train, _ = yi2022.images(setting("cifar10_imbalanced", "smoke"))
    counts = torch.bincount(train.targets).tolist()
    assert counts == sorted(counts) and counts[-1] == 10 * counts[0] and sum(counts) == 330


def test_warming_up_leaves_nothing_behind() -> None:
    ready, runs = prepared()
    before = sorted(runs.rglob("*"))
    yi2022.warm_up(ready)
    assert sorted(runs.rglob("*")) == before
