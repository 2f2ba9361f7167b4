"""The experiments of Yi et al. 2022 at smoke scale: protocols, methods under one harness, records found again."""

from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from alnb import papers, store
from alnb.acquire import vaal
from alnb.acquire.scopes import RandomSubset, Scoped
from alnb.loop import cycles as loop
from alnb.loop.experiment import Cycle
from alnb.papers.jobs import Job, TaggedRun
from alnb.papers.methods import pt4al, ta_vaal
from alnb.papers.yi2022 import experiment as yi2022
from alnb.papers.yi2022.experiment import PreparedData, jobs, ladder, prepare, setting
from alnb.papers.yi2022.strategies import STRATEGIES, SUBSET
from alnb.papers.yi2022.switches import CLEAN, PRESETS, Switches, name_of
from alnb.report import records, stats


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    return prepare(setting("cifar10", "smoke"), tmp_path_factory.mktemp("yi2022"))


def run(prepared: PreparedData, every: list[Job], runs: Path | None = None) -> list[TaggedRun]:
    return papers.run(every, lambda job: yi2022.experiment(prepared, job), prepared.runs if runs is None else runs)


def cycles_of(tagged: TaggedRun) -> list[Cycle]:
    return [Cycle.read(record) for record in tagged[0].records()]


def test_presets_are_what_the_fact_sheet_says() -> None:
    assert asdict(CLEAN) == {
        "key": "float", "first_batch": 0, "confidence": "softmax", "init": "fresh", "checkpoint": "last", "colour": "rgb",
        "augment": "crop_flip", "pretext_epoch": "last", "rotation": "one_batch", "normalise": "pool", "baselines": "clean",
    }  # fmt: skip
    assert asdict(PRESETS["as_released"]) == {
        "key": "text", "first_batch": 0, "confidence": "normalised", "init": "warm", "checkpoint": "best_test", "colour": "bgr",
        "augment": "crop_flip", "pretext_epoch": "best", "rotation": "four_batches", "normalise": "authors", "baselines": "as_released",
    }  # fmt: skip
    paper = PRESETS["paper"]
    assert (paper.key, paper.confidence, paper.colour, paper.augment) == ("float", "softmax", "rgb", "resized_crop")
    assert (paper.pretext_epoch, paper.rotation, paper.normalise, paper.baselines) == ("best", "four_batches", "authors", "paper")


@pytest.mark.parametrize("scale", yi2022.SCALES)
def test_baselines_follow_their_preset(scale: str) -> None:
    """At every scale: mirrored images, colours, weights and clustering space of the three methods."""
    games = {
        "clean": (vaal.CLEAN, ta_vaal.TAVAAL()),
        "paper": (vaal.PAPER, ta_vaal.PAPER),
        "as_released": (vaal.AS_RELEASED, ta_vaal.AS_RELEASED),
    }
    for preset, (plain, aware) in games.items():
        chosen = setting("cifar10", scale, preset=preset)
        for mine, theirs in ((chosen.vaal, plain), (chosen.ta_vaal.game, aware.game)):
            for name in ("kl", "eval_sampling", "beta", "flip", "colours", "vae_steps", "adversary", "lr"):
                assert getattr(mine, name) == getattr(theirs, name)
        core = STRATEGIES["core_gcn"].later(chosen).strategy
        assert core.space == ("hidden_logit" if preset == "as_released" else "hidden")
    assert setting("cifar10", scale, baselines="as_released").vaal.flip == 0.5


def test_paper_scale_is_the_papers() -> None:
    full = setting("cifar10", "paper")
    assert (full.initial, full.budget, full.cycles, full.batches, full.subset) == (1000, 1000, 10, 10, 10_000)
    assert (full.main.epochs, full.main.batch, full.main.lr, full.main.milestones, full.pretext.epochs) == (200, 128, 0.1, (0.8,), 15)
    assert sum(p.numel() for p in full.net(10).parameters()) == 11_173_962
    assert sum(p.numel() for p in full.net(4).parameters()) == 11_170_884
    assert setting("caltech101", "paper").part.image_size == 224
    for scale in yi2022.SCALES:  # a batch is a tenth of the pool, of which the budget is at most all
        yi2022.check(setting("cifar10", scale), STRATEGIES)


def test_names_of_protocols_and_the_ladder() -> None:
    assert name_of(replace(CLEAN, init="warm")) == "clean, init=warm"
    assert [name_of(one) for one in PRESETS.values()] == list(PRESETS)
    steps = ladder("cifar10", "smoke")
    assert next(iter(steps)) == "clean" and {"paper", "as_released"} < set(steps) and len(steps) == 13
    assert len({one.digest for one in steps.values()}) == 13
    assert {"clean, pretext_epoch=best", "clean, rotation=four_batches", "clean, normalise=authors"} < set(steps)
    single = [one.switches for name, one in steps.items() if "=" in name]
    assert all(sum(a != b for a, b in zip(asdict(one).values(), asdict(CLEAN).values(), strict=True)) == 1 for one in single)


@pytest.mark.slow
def test_every_strategy_runs_and_is_found_again(ready: PreparedData) -> None:
    every = jobs(ready.setting, STRATEGIES, [0])
    assert len(every) == len(STRATEGIES) and {job["pretext"] for job in every} == {"", "rotation"}
    finished = run(ready, every)
    assert [tags["strategy"] for _, tags in finished] == list(STRATEGIES) and not papers.find(every, ready.runs)[1]
    for tagged in finished:
        expected = 10 if STRATEGIES[tagged[1]["strategy"]].exact else 5
        assert len(cycles_of(tagged)) == 3 and all(len(cycle.queried) >= expected for cycle in cycles_of(tagged))
    start = {tags["strategy"]: run.records()[0]["queried"] for run, tags in finished}
    plain = [name for name, strategy in STRATEGIES.items() if not strategy.pretext and strategy.exact]
    assert all(start[name] == start["random"] for name in plain)  # one harness: the same first labels
    frame = records.frame(finished)
    nets = frame[frame["cycle"] == 0].set_index("strategy")["accuracy"]
    assert nets["random"] == nets["learning_loss_detached"] == nets["kcenter"]  # and the same nets; detached, the module changes nothing
    # no strategy's files stay behind
    runs = Path(ready.runs)
    assert not list(runs.glob("*/cycle_*/vaal.pt")) and not list(runs.glob("*/cycle_*/pal*.pt"))


def test_pt4al_chooses_from_the_batches_of_the_losses(ready: PreparedData) -> None:
    high, low = run(ready, jobs(ready.setting, ["pt4al", "pt4al_low_first"], [0]))
    ranked = pt4al.ranking(ready.side("rotation")[pt4al.LOSS])
    for cycle in cycles_of(high):
        inside = pt4al.batch(ranked, 10, cycle.cycle).tolist()
        assert set(cycle.queried) <= set(inside)
        if not cycle.cycle:
            assert list(cycle.queried) == inside[::6]  # even intervals: 10 of 60
    assert set(cycles_of(low)[0].queried) <= set(pt4al.batch(ranked.flip(0), 10, 0).tolist())


def test_switches_reach_the_run(ready: PreparedData) -> None:
    chosen = setting("cifar10", "smoke", preset="as_released", cycles=2)
    released = prepare(chosen, ready.runs)
    assert released.pool.name.endswith("(BGR)")
    assert torch.equal(released.pool.images.batch(torch.arange(9)), ready.pool.images.batch(torch.arange(9)).flip(1))
    assert (released.learner.mean, released.learner.std) == ta_vaal.CIFAR10  # red's first, though blue comes first
    turned = prepare(setting("cifar10", "smoke", colour="bgr"), ready.runs)
    assert turned.learner.mean == ready.learner.mean  # of red, in the order red, green, blue, though blue comes first
    (tagged,) = run(released, jobs(chosen, ["pt4al"], [0]))
    assert len(cycles_of(tagged)) == 2 and any(loop.PEEKED in note for cycle in cycles_of(tagged) for note in cycle.notes)
    experiment, tags = (tagged[0].manifest or {})["experiment"], tagged[1]
    rules = experiment["protocol"]
    assert (rules["init"], rules["checkpoint"], tags["preset"], tags["key"]) == ("warm", "best_test", "as_released", "text")
    assert experiment["strategy"]["strategy"] == "normalised_confidence"


def test_each_switch_of_the_pretext_gives_other_losses(ready: PreparedData) -> None:
    """And each its summary beside the runs."""
    chosen = [setting("cifar10", "smoke", **switch) for switch in ({"rotation": "four_batches"}, {"normalise": "authors"}, {})]
    longer = [replace(one, pretext=replace(one.pretext, epochs=5, lr=2.0)) for one in chosen]  # so fast that the last epoch is not the best
    longer.append(replace(longer[-1], switches=replace(CLEAN, pretext_epoch="best")))
    losses = [prepare(one, ready.runs).side("rotation")[pt4al.LOSS] for one in longer]
    assert len({store.fingerprint(one) for one in losses}) == len({yi2022.summary_file(one, "rotation", 0)[1] for one in longer}) == 4
    numbers = [yi2022.summary(one, "rotation", 0, ready.runs)["loss"] for one in longer]
    assert numbers == pytest.approx([float(one.mean()) for one in losses]) and min(numbers) > 0


def test_scopes_of_strategies(ready: PreparedData) -> None:
    chosen = setting("cifar10", "smoke")
    scoped = {name: strategy.later(chosen) for name, strategy in STRATEGIES.items() if strategy.exact}
    random_part = {name for name, one in scoped.items() if isinstance(one, Scoped) and one.scope == RandomSubset(chosen.subset)}
    assert random_part == set(SUBSET)
    switch = STRATEGIES["learning_loss"].learner(ready.learner).switch
    assert switch is not None and switch.share == 121 / 200


def test_tags_say_what_was_used(ready: PreparedData) -> None:
    (job,) = jobs(ready.setting, ["pt4al"], [3], tasks=["jigsaw"])
    assert (job["dataset"], job["strategy"], job["pretext"], job["arm"], job["seed"], job["replication"]) == (
        "digits",
        "pt4al",
        "jigsaw",
        "scratch",
        3,
        3,
    )
    assert setting("cifar10", "laptop").tags["dataset"] == "cifar10" and ready.tags(job)["pool"] == 600


@pytest.mark.slow
def test_a_replication_has_a_pretext_and_first_labels_of_its_own(ready: PreparedData, tmp_path: Path) -> None:
    """Runs that share a pretext share PT4AL's first labels; random ones are of each run."""
    nested = jobs(ready.setting, ["pt4al", "random"], [0, 1], [0, 2])
    assert [(job["replication"], job["seed"], job["strategy"]) for job in nested[:4]] == [
        (0, 0, "pt4al"), (0, 0, "random"), (2, 2000, "pt4al"), (2, 2000, "random"),
    ]  # fmt: skip
    other = ready.of(nested[2])
    assert not torch.equal(other.side("rotation")[pt4al.LOSS], ready.side("rotation")[pt4al.LOSS])
    assert other.pool.images.fingerprint == ready.pool.images.fingerprint
    finished = run(ready, nested, tmp_path)
    first = {(tags["strategy"], tags["seed"]): run_.records()[0]["queried"] for run_, tags in finished}
    assert first["pt4al", 0] == first["pt4al", 1] and first["pt4al", 2000] == first["pt4al", 2001] != first["pt4al", 0]
    assert len({tuple(first["random", seed]) for seed in (0, 1, 2000, 2001)}) == 4
    frame = stats.replications(records.frame(finished))
    assert sorted(frame["seed"].unique()) == [0, 2] and len(frame) == 2 * 2 * 3 and len(papers.find(nested, tmp_path)[0]) == 8


def test_bad_input(ready: PreparedData) -> None:
    smoke = ready.setting
    for call, message in (
        (lambda: setting("cifar-10", "smoke"), "dataset is 'cifar-10': it must be one of cifar10"),
        (lambda: setting("cifar10", "smoke", preset="dirty"), "preset is 'dirty': it must be one of clean, paper, as_released"),
        (lambda: setting("cifar10", "smoke", warmth=1), "switch is 'warmth': it must be one of key, first_batch"),
        (lambda: setting("caltech101", "laptop", first_batch=4), "first_batch is 4, .* has 4 batches"),
        (lambda: setting("cifar10", "smoke", cycles=0), "cycles is 0"),
        (lambda: setting("cifar10", "smoke", first_batch=True), "first_batch is True: it must be one of 0, 1"),
        (lambda: Switches(key="number"), "key is 'number': it must be one of float, text"),
        (lambda: jobs(smoke, ["coreset"], [0]), "strategy is 'coreset': it must be one of random"),
        (lambda: jobs(smoke, ["pt4al"], [0], tasks=["rotate"]), "pretext is 'rotate'"),
        (lambda: jobs(setting("cifar10", "smoke", cycles=11), ["pt4al"], [0]), "11 cycles, .*10 batches"),
        (lambda: jobs(replace(smoke, subset=5), ["vaal"], [0]), "subset is 5, .*10 images"),
        (lambda: jobs(replace(smoke, initial=11), ["learning_loss"], [0]), "with 11 labelled images a batch of 11"),
        (lambda: jobs(smoke, [], [0]), "nothing to run with strategies"),
        (lambda: ready.side("rot"), "pretext is 'rot'"),
        (
            lambda: yi2022.experiment(replace(ready, setting=replace(smoke, budget=70)), jobs(smoke, ["pt4al"], [0])[0]),
            "70 labels, .*60 images",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_runs_sorted_by_two_pre_trainings_are_an_error(ready: PreparedData, tmp_path: Path) -> None:
    other = prepare(ready.setting, ready.runs)
    other.losses["rotation"] = ready.side("rotation")[pt4al.LOSS].flip(0)
    every = jobs(ready.setting, ["pt4al"], [0, 1], [0])
    run(ready, every[:1], tmp_path)
    with pytest.raises(ValueError, match="share their pretext losses"):
        run(other, every, tmp_path)


def test_another_pre_training_is_not_mixed_into_the_runs_of_the_first(ready: PreparedData, tmp_path: Path) -> None:
    here = prepare(ready.setting, tmp_path)
    here.pretrained("rotation")
    (path,) = tmp_path.glob("results/pretrained-*.json")
    numbers = yi2022.summary(here.setting, "rotation", 0, tmp_path)
    assert numbers["images"] == len(here.pool)
    store.write_json(path, {**numbers, "losses": "of another machine"})
    with pytest.raises(ValueError, match=r"pretrained-digits-smoke-rotation-.* different rotation pre-training"):
        here.pretrained("rotation")
    path.unlink()
    with pytest.raises(store.Corrupted, match=r"pretrained-digits-smoke-rotation-.* is missing"):
        yi2022.summary(here.setting, "rotation", 0, tmp_path)


def test_the_imbalanced_pool_is_imbalanced_at_every_scale(tmp_path: Path) -> None:
    counts = torch.bincount(prepare(setting("cifar10_imbalanced", "smoke"), tmp_path).pool.targets).tolist()
    assert counts == sorted(counts) and counts[-1] == 10 * counts[0] and sum(counts) == 330


def test_warming_up_leaves_nothing_behind(ready: PreparedData) -> None:
    before = sorted(Path(ready.runs).rglob("*"))
    yi2022.warm_up(ready)
    assert sorted(Path(ready.runs).rglob("*")) == before
