"""The experiments of Bengar et al. 2021, at smoke scale and in their numbers."""

from dataclasses import replace
from pathlib import Path

import pandas
import pytest
import torch
from conftest import images_of
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

import alnb
from alnb.acquire.query import Query
from alnb.data import Embedded
from alnb.loop.oracle import class_uniform
from alnb.papers.bengar2021 import experiment as bengar2021
from alnb.papers.bengar2021.experiment import ARMS, DATASETS, Prepared, grid, setting, split_tiny, step
from alnb.report import stats


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    chosen = setting("cifar10", "smoke")
    return bengar2021.prepare(chosen, *bengar2021.images(chosen), runs=tmp_path_factory.mktemp("prepared"))


def test_settings_are_those_of_the_paper() -> None:
    chosen = setting("cifar10", "paper")
    ssl, head = chosen.pretraining, chosen.head  # section 4, implementation details
    assert (ssl.epochs, ssl.batch, ssl.momentum, ssl.weight_decay, ssl.schedule) == (800, 512, 0.9, 1e-4, "cosine")
    assert ssl.lr == pytest.approx(0.03 * 512 / 256) and ssl.augment.blur_p == 0 and chosen.pretext.outputs == 2048
    assert (head.epochs, head.batch, head.momentum, head.weight_decay, head.lr) == (100, 256, 0.9, 0, 30)
    assert (
        setting("tiny_imagenet", "paper").pretraining.augment.blur_p == 0.5
        and setting("cifar10", "paper", weight_decay=5e-4).pretraining.weight_decay == 5e-4
    )
    assert setting("cifar10", "paper", preset="strong").scratch.augment.padding == 4 and chosen.scratch.augment.scale == (0.08, 1.0)
    assert chosen.scratch.updates(50) == 2000  # the floor for tiny labelled sets


def test_switches_name_other_runs() -> None:
    plain = setting("cifar10", "laptop")
    others = [setting("cifar10", "laptop", **switch) for switch in ({"preset": "strong"}, {"weight_decay": 5e-4}, {"views": 0})]
    assert len({plain.fingerprint, setting("cifar10", "paper").fingerprint, *(other.fingerprint for other in others)}) == 5
    assert replace(plain, regimes=(10.0,), watched=1).fingerprint == plain.fingerprint


@pytest.mark.parametrize(
    ("dataset", "sizes"), [("cifar10", [50, 100, 500, 1000, 5000]), ("cifar100", [500, 1000, 5000]), ("tiny_imagenet", [900, 1800, 9000])]
)
def test_steps_are_those_of_the_paper(dataset: str, sizes: list[int]) -> None:
    known, chosen = DATASETS[dataset], setting(dataset, "paper")
    assert [step(chosen, regime, known.size, known.classes) for regime in known.regimes] == sizes
    assert (chosen.points - 1) * sizes[-1] + sizes[-1] == known.size / 2  # the last point is Table 1's


def test_a_small_pool_is_asked_for_a_tenth_at_most() -> None:
    assert step(setting("cifar10", "laptop"), 10, 10_000, 10) == 1000 and step(setting("cifar10", "laptop"), 0.1, 10_000, 10) == 50
    assert step(setting("tiny_imagenet", "laptop"), 1, 4600, 200) == 460


@settings(deadline=None)
@given(st.integers(200, 1200))
def test_a_start_that_is_no_whole_number_a_class_is_as_even_as_can_be(n: int) -> None:
    targets = torch.arange(2000) % 200
    pool = alnb.Pool.of(images_of(2000).images)
    query = Query(pool, None, pool.unlabelled, n, alnb.rng.generator(0, "query", 0))
    counts = torch.bincount(targets[class_uniform(targets, 200)(query)], minlength=200)
    assert int(counts.sum()) == n and int(counts.max() - counts.min()) <= 1


def test_tiny_imagenet_is_split_as_documented() -> None:
    train, test = images_of(3 * 50), images_of(30, seed=1)
    kept, official = split_tiny(train, test, "official")
    same, held_out = split_tiny(train, test, "held_out")
    assert len(kept) == 135 and official is test and kept.images.fingerprint == same.images.fingerprint
    assert torch.bincount(held_out.targets).tolist() == [5, 5, 5]
    rows = [tuple(image.flatten().tolist()) for part in (kept, held_out) for image in part.images.batch(torch.arange(len(part)))]
    assert len(set(rows)) == 150  # every image is in one of the two


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dataset": "cifar"}, "dataset is 'cifar': it must be one of cifar10, cifar100, tiny_imagenet"),
        ({"scale": "huge"}, "scale is 'huge'"),
        ({"preset": "weak"}, "preset is 'weak': it must be one of paper, strong"),
        ({"split": "x"}, "split is 'x'"),
        ({"vaal": "x"}, "vaal is 'x': it must be one of sane, faithful"),
        ({"views": -7}, "views is -7: it must be 0"),
    ],
)
def test_unknown_names_are_refused(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        setting(**{"dataset": "cifar10", "scale": "smoke", **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"arms": ["frozn"]}, "arm 'frozn'"),
        ({"strategies": ["coreset"]}, "strategy 'coreset' is not one"),
        ({"regimes": [3]}, "regime 3 is not .*0.1, 0.2, 1, 2, 10"),
        ({"seeds": []}, "nothing to run with arms .'frozen'.*name at least one of each"),
        ({"arms": ["scratch"], "strategies": ["svm_margin"]}, "nothing to run .*svm_margin needs the arm frozen"),
    ],
)
def test_a_grid_of_what_the_paper_has(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        grid(setting("cifar10", "smoke"), **{"arms": ["frozen"], "strategies": ["random"], "regimes": [1], "seeds": [0], **change})
    jobs = grid(setting("cifar10", "smoke"), ["frozen", "scratch"], ["random", "svm_margin"], [0.1], [0, 1])
    assert [(job["arm"], job["strategy"]) for job in jobs] == [("frozen", "random")] * 2 + [("frozen", "svm_margin")] * 2 + [
        ("scratch", "random")
    ] * 2


def run(prepared: Prepared, runs: Path, **job: object) -> list[alnb.Cycle]:
    return list(bengar2021.cycles(prepared, **{"arm": "frozen", "strategy": "random", "regime": 0.1, "seed": 0, "runs": runs, **job}))


def test_first_labels_are_shared_by_arms_and_strategies(prepared: Prepared, tmp_path: Path) -> None:
    firsts = {
        run(prepared, tmp_path, arm=arm, strategy=strategy)[0].queried
        for arm, strategies in bengar2021.ARMS.items() for strategy in strategies
    }  # fmt: skip
    assert len(firsts) == 1 and len(next(iter(firsts))) == 50
    assert run(prepared, tmp_path)[0].class_counts == (5,) * 10
    frame = bengar2021.read(tmp_path, "smoke")
    assert set(frame["strategy"]) == set(bengar2021.ARMS["frozen"]) and set(frame["arm"]) == {"frozen", "scratch"}
    assert set(frame["dataset"]) == {"digits"} and len(frame) == 9 * 3 and bengar2021.read(tmp_path, "laptop").empty
    figure = bengar2021.draw(frame, "digits")
    assert isinstance(figure, Figure) and sum(len(line.get_xdata()) == 3 for line in figure.axes[0].lines) == 9
    styles = {line.get_linestyle() for line in figure.axes[0].lines}
    assert {"-", "--"} <= styles


def test_the_backbone_stays_as_it_is(prepared: Prepared, tmp_path: Path) -> None:
    pool, backbone = prepared.pools["frozen"], prepared.pretrained.backbone
    features, weights = pool.features.clone(), {name: value.clone() for name, value in backbone.state.items()}
    run(prepared, tmp_path, strategy="kcenter")
    assert torch.equal(pool.features, features) and all(torch.equal(value, weights[name]) for name, value in backbone.state.items())
    learner = replace(alnb.Learner(prepared.setting.net, prepared.setting.pretraining, mean=prepared.learners["scratch"].mean,
                                   std=prepared.learners["scratch"].std), backbone=backbone)  # fmt: skip
    net = learner.build(1, 0).eval()
    torch.testing.assert_close(alnb.train.predict(net.features, prepared.train.images), features)  # they are the backbone's


def test_the_svm_is_scored_beside_the_linear_classifier(prepared: Prepared, tmp_path: Path) -> None:
    job = {"arm": "frozen", "strategy": "svm_margin", "regime": 0.1, "seed": 0}
    cycles = run(prepared, tmp_path, **job)
    finished, _ = bengar2021.find(prepared.setting, [job], tmp_path)
    table = bengar2021.svm_accuracies(finished)
    assert list(table["n_labelled"]) == [50, 100, 150] and list(table["linear"]) == [cycle.metrics["accuracy"] for cycle in cycles]
    pool, test = prepared.pools["frozen"], prepared.tests["frozen"]
    known = torch.tensor(cycles[0].queried)
    expected = bengar2021.svm_accuracy(pool.features[known], prepared.train.targets[known], test.images.features, test.targets)
    assert table["svm"].iloc[0] == pytest.approx(expected)
    (finished[0][0].path / "svm.json").unlink()  # killed before it was written
    assert bengar2021.find(prepared.setting, [job], tmp_path) == ([], [job])
    run(prepared, tmp_path, **job)
    assert bengar2021.svm_accuracies(bengar2021.find(prepared.setting, [job], tmp_path)[0]).equals(table)


def test_finished_runs_are_found_without_images_or_backbone(prepared: Prepared, tmp_path: Path) -> None:
    jobs = grid(prepared.setting, ["frozen"], ["random", "entropy"], [0.1], [0, 1])
    assert bengar2021.find(prepared.setting, jobs, tmp_path) == ([], jobs)
    for job in jobs[:2]:
        run(prepared, tmp_path, **job)
    next(bengar2021.cycles(prepared, **jobs[2], runs=tmp_path))  # begun, not finished
    finished, left = bengar2021.find(prepared.setting, jobs, tmp_path)
    assert [columns["seed"] for _, columns in finished] == [0, 1] and left == jobs[2:]
    assert bengar2021.find(setting("cifar10", "smoke", views=0), jobs, tmp_path) == ([], jobs)  # another setting


def test_runs_of_two_backbones_are_not_mixed(prepared: Prepared, tmp_path: Path) -> None:
    other = replace(prepared, pools={**prepared.pools, "frozen": Embedded(prepared.train.images, prepared.pools["frozen"].features + 1)})
    jobs = grid(prepared.setting, ["frozen"], ["random"], [0.1], [0, 1])
    run(prepared, tmp_path, **jobs[0])
    run(other, tmp_path, **jobs[1])
    for look in (lambda: bengar2021.find(prepared.setting, jobs, tmp_path), lambda: bengar2021.read(tmp_path, "smoke", "cifar10")):
        with pytest.raises(ValueError, match=r"of other images or another backbone: move the runs of one of the two away"):
            look()


def test_a_part_of_a_figure_is_not_the_figure() -> None:
    chosen = setting("cifar10", "smoke")
    every = {"arms": ARMS, "strategies": ARMS["frozen"], "regimes": chosen.regimes, "seeds": [0, 1]}
    assert bengar2021.whole(chosen, grid(chosen, **every))
    for less in ({"arms": ["frozen"]}, {"strategies": ["random"]}, {"regimes": chosen.regimes[:1]}, {"seeds": [0]}):
        assert not bengar2021.whole(chosen, grid(chosen, **{**every, **less}))
    assert not bengar2021.whole(setting("cifar10", "smoke", views=0), grid(chosen, **every))
    laptop = setting("cifar10", "laptop")
    five = {**every, "regimes": laptop.regimes}
    assert bengar2021.whole(laptop, grid(laptop, **{**five, "seeds": range(5)})) and not bengar2021.whole(laptop, grid(laptop, **five))


def test_milestones_stand_beside_what_was_measured() -> None:
    table = bengar2021.milestones([{"epoch": 100.0, "knn": 0.71}, {"epoch": 200.004, "knn": 0.8}, {"epoch": 300.0, "knn": 0.9}])
    assert (
        list(table["epoch"]) == [100, 200, 400, 800] and list(table["measured"][:2]) == [0.71, 0.8] and table["measured"][2:].isna().all()
    )


def test_a_missing_summary_is_named(tmp_path: Path) -> None:
    with pytest.raises(alnb.store.Corrupted, match=r"pretrained-cifar10-smoke-.* is missing: copy it from where the runs"):
        bengar2021.pretraining(setting("cifar10", "smoke"), tmp_path)


def test_what_was_learned_without_labels_is_kept_beside_the_runs(tmp_path: Path) -> None:
    chosen = setting("cifar10", "smoke")
    found = bengar2021.prepare(chosen, *bengar2021.images(chosen), runs=tmp_path).pretrained
    kept = bengar2021.pretraining(chosen, tmp_path)
    assert kept["history"] == list(found.history) and kept["loss"] == pytest.approx(float(found.losses.mean()))


def test_runs_of_scale_paper_are_where_git_keeps_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALNB_WORKSPACE", str(tmp_path))
    assert bengar2021.folder("paper") == tmp_path.resolve() / "runs/paper/bengar2021"
    assert bengar2021.folder("laptop") == tmp_path.resolve() / "runs/bengar2021"
    assert bengar2021.folder("paper", tmp_path / "x") == tmp_path / "x/bengar2021" and bengar2021.records(tmp_path) is None


def test_table_1_stands_beside_the_published_one() -> None:
    rows = [
        {"dataset": "cifar10", "arm": arm, "strategy": strategy, "cycle": cycle, "n_labelled": round(500 * regime * (cycle + 1)),
         "regime": regime, "accuracy": 0.5 + 0.1 * cycle + 0.02 * seed - 0.3 * (regime < 10), "seed": seed}
        for arm, strategy in (("frozen", "entropy"), ("scratch", "kcenter"), ("frozen", "random")) for cycle in range(5) for seed in (0, 1)
        for regime in (0.1, 10)
    ]  # fmt: skip
    table = bengar2021.table1(pandas.DataFrame(rows)).set_index(["arm", "strategy"])
    entropy = table.loc[("frozen", "entropy")]
    assert (
        entropy["published"] == 0.911
        and entropy["measured"] == pytest.approx(0.91)
        and entropy["n_labelled"] == 25_000
        and entropy["seeds"] == 2
    )
    low, high = stats.interval(pandas.Series([0.9, 0.92]))
    assert (entropy["low"], entropy["high"]) == pytest.approx((low, high))
    assert pandas.isna(table.loc[("frozen", "svm_margin")]["measured"]) and pandas.isna(table.loc[("frozen", "random")]["published"])
    assert set(table["dataset"]) == {"cifar10"}  # the other column was not run
    assert isinstance(bengar2021.draw_table1(table.reset_index(), "t"), Figure)
