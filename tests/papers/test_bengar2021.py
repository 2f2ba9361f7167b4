"""The experiments of Bengar et al. 2021, at smoke scale and in their numbers."""

from collections.abc import Iterable
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
from alnb import papers
from alnb.acquire.query import Query
from alnb.acquire.svm import SvmMargin
from alnb.data import Embedded
from alnb.loop.oracle import class_uniform
from alnb.papers.bengar2021 import experiment as bengar2021
from alnb.papers.bengar2021 import figures
from alnb.papers.bengar2021.experiment import ARMS, DATASETS, PreparedData, jobs, setting, split_tiny
from alnb.papers.jobs import TaggedRun
from alnb.report import stats


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    return bengar2021.prepare(setting("cifar10", "smoke"), tmp_path_factory.mktemp("prepared"))


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


OTHERS: tuple[dict, ...] = (
    {"preset": "strong"}, {"weight_decay": 5e-4}, {"views": 0}, {"vaal": "paper"}, {"vaal": "as_released"}, {"svm": "svc"},
)  # fmt: skip


def test_switches_name_other_runs() -> None:
    plain = setting("cifar10", "laptop")
    others = [setting("cifar10", "laptop", **switch) for switch in OTHERS]
    assert len({plain.digest, setting("cifar10", "paper").digest, *(other.digest for other in others)}) == 2 + len(OTHERS)
    assert (
        bengar2021.strategy_of(others[-1], "svm_margin").estimator == "svc" and bengar2021.strategy_of(plain, "svm_margin") == SvmMargin()
    )
    assert replace(plain, regimes=(10.0,), watched=1).digest == plain.digest


@pytest.mark.parametrize(
    ("dataset", "sizes"), [("cifar10", [50, 100, 500, 1000, 5000]), ("cifar100", [500, 1000, 5000]), ("tiny_imagenet", [900, 1800, 9000])]
)
def test_budgets_are_those_of_the_paper(dataset: str, sizes: list[int]) -> None:
    known, chosen = DATASETS[dataset], setting(dataset, "paper")
    assert [chosen.budget(regime, known.size, known.classes) for regime in known.regimes] == sizes
    assert chosen.cycles * sizes[-1] == known.size / 2  # the last point is Table 1's


def test_a_small_pool_is_asked_for_a_tenth_at_most() -> None:
    laptop = setting("cifar10", "laptop")
    assert laptop.budget(10, 10_000, 10) == 1000 and laptop.budget(0.1, 10_000, 10) == 50
    assert setting("tiny_imagenet", "laptop").budget(1, 4600, 200) == 460


EVEN = alnb.Pool.of(images_of(2000).images)


@settings(deadline=None, max_examples=30)
@given(st.integers(200, 1200))
def test_a_start_that_is_no_whole_number_a_class_is_as_even_as_can_be(n: int) -> None:
    targets, pool = torch.arange(2000) % 200, EVEN
    query = Query(pool, None, pool.unlabelled, n, alnb.Stream(0))
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
        ({"vaal": "x"}, "vaal is 'x': it must be one of clean, paper, as_released"),
        ({"svm": "x"}, "svm is 'x': it must be one of linear_svc, svc"),
        ({"views": -7}, "views is -7: .* at least 0"),
    ],
)
def test_unknown_names_are_refused(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        setting(**{"dataset": "cifar10", "scale": "smoke", **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"arms": ["frozn"]}, "arm is 'frozn'"),
        ({"strategies": ["coreset"]}, "strategy is 'coreset'"),
        ({"regimes": [3]}, "regime is 3.*0.1, 0.2, 1, 2, 10"),
        ({"seeds": []}, "nothing to run with arms .'frozen'"),
        ({"arms": ["scratch"], "strategies": ["svm_margin"]}, "svm_margin needs the arm frozen"),
    ],
)
def test_jobs_of_what_the_paper_has(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        jobs(setting("cifar10", "smoke"), **{"arms": ["frozen"], "strategies": ["random"], "regimes": [1], "seeds": [0], **change})
    every = jobs(setting("cifar10", "smoke"), ["frozen", "scratch"], ["random", "svm_margin"], [0.1], [0, 1])
    pairs = [("frozen", "random")] * 2 + [("frozen", "svm_margin")] * 2 + [("scratch", "random")] * 2
    assert [(job["arm"], job["strategy"]) for job in every] == pairs


def run(prepared: PreparedData, runs: Path, arms: Iterable[str] = ("frozen",), strategies: Iterable[str] = ("random",)) -> list[TaggedRun]:
    every = jobs(prepared.setting, arms, strategies, [0.1], [0])
    return papers.run(every, lambda job: bengar2021.experiment(prepared, job), runs)


@pytest.mark.slow
def test_first_labels_are_shared_by_arms_and_strategies(prepared: PreparedData, tmp_path: Path) -> None:
    cycles = [alnb.Cycle.read(run.records()[0]) for run, _ in run(prepared, tmp_path, ARMS, ARMS["frozen"])]
    assert len({cycle.queried for cycle in cycles}) == 1 and cycles[0].class_counts == (5,) * 10
    frame = bengar2021.read(tmp_path, "smoke")
    assert set(frame["strategy"]) == set(ARMS["frozen"]) and set(frame["arm"]) == {"frozen", "scratch"}
    assert set(frame["dataset"]) == {"digits"} and len(frame) == 9 * 3 and bengar2021.read(tmp_path, "laptop").empty
    figure = figures.draw_regimes(frame, "digits")
    assert isinstance(figure, Figure) and sum(len(line.get_xdata()) == 3 for line in figure.axes[0].lines) == 9
    styles = {line.get_linestyle() for line in figure.axes[0].lines}
    assert {"-", "--"} <= styles


def test_the_backbone_stays_as_it_is(prepared: PreparedData, tmp_path: Path) -> None:
    pool, backbone = prepared.pools["frozen"], prepared.pretrained.backbone
    assert isinstance(pool, Embedded)
    features, weights = pool.features.clone(), {name: value.clone() for name, value in backbone.state.items()}
    run(prepared, tmp_path, strategies=["kcenter"])
    assert torch.equal(pool.features, features) and all(torch.equal(value, weights[name]) for name, value in backbone.state.items())
    net = replace(prepared.base, backbone=backbone).build(1, alnb.Stream(0)).eval()
    torch.testing.assert_close(alnb.train.predict(net.features, prepared.pool.images), features)  # they are the backbone's


def test_the_svm_is_scored_beside_the_linear_classifier(prepared: PreparedData, tmp_path: Path) -> None:
    finished, here = run(prepared, tmp_path, strategies=["random", "svm_margin"]), replace(prepared, runs=tmp_path)
    here.__dict__.update(pools=prepared.pools, tests=prepared.tests, images=prepared.images)
    table = bengar2021.svm_accuracies(finished, {prepared.setting.digest: here})
    cycles = [alnb.Cycle.read(record) for record in finished[1][0].records()]
    assert list(table["n_labelled"]) == [50, 100, 150] and list(table["linear"]) == [cycle.metrics["accuracy"] for cycle in cycles]
    pool, test = prepared.pools["frozen"], prepared.tests["frozen"]
    known = torch.tensor(cycles[0].queried)
    expected = bengar2021.svm_accuracy(pool.features[known], prepared.pool.targets[known], test.images.features, test.targets)
    assert table["svm"].iloc[0] == pytest.approx(expected)
    unread = bengar2021.prepare(prepared.setting, tmp_path)  # where the result lies, no image is read and nothing is learned
    assert bengar2021.svm_accuracies(finished, {prepared.setting.digest: unread}).equals(table) and "images" not in unread.__dict__
    (result,) = (tmp_path / "results").glob("svm-*.json")
    result.unlink()
    here.__dict__["pools"] = {**prepared.pools, "frozen": Embedded(prepared.pool.images, pool.features + 1)}
    with pytest.raises(ValueError, match=r"frozen-svm_margin-0.1-0-.* learned from other features"):
        bengar2021.svm_accuracies(finished, {prepared.setting.digest: here})


def test_runs_of_other_switches_are_not_found(prepared: PreparedData, tmp_path: Path) -> None:
    run(prepared, tmp_path)
    other = jobs(setting("cifar10", "smoke", views=0), ["frozen"], ["random"], [0.1], [0])
    assert papers.find(other, tmp_path) == ([], other)


@pytest.mark.slow
def test_a_replication_has_a_backbone_of_its_own(prepared: PreparedData, tmp_path: Path) -> None:
    every = jobs(prepared.setting, ["frozen", "scratch"], ["random"], [0.1], [0], [0, 3])
    assert [(job["arm"], job["replication"], job["seed"]) for job in every] == [
        ("frozen", 0, 0), ("frozen", 3, 3000), ("scratch", 0, 0), ("scratch", 3, 3000),
    ]  # fmt: skip
    other = prepared.of(every[1])
    assert prepared.of(every[0]) is prepared and prepared.of(every[3]) is other
    assert not torch.equal(other.pools["frozen"].features, prepared.pools["frozen"].features)
    assert other.pool.images.fingerprint == prepared.pool.images.fingerprint and other.pool is prepared.pool  # read once
    finished = papers.run(every, lambda job: bengar2021.experiment(prepared, job), tmp_path)
    assert [tags["replication"] for _, tags in finished] == [0, 3, 0, 3]
    alike, apart = (
        bengar2021.pretraining(prepared.setting, seed, prepared.runs) for seed in (0, 3)
    )  # what was learned lies beside the runs of each
    assert alike["loss"] != apart["loss"]


def test_runs_of_two_backbones_are_not_mixed(prepared: PreparedData, tmp_path: Path) -> None:
    every = jobs(prepared.setting, ["frozen"], ["random"], [0.1], [0, 1], [0])
    papers.run(every[:1], lambda job: bengar2021.experiment(prepared, job), tmp_path)
    other = replace(prepared)
    features = Embedded(prepared.pool.images, prepared.pools["frozen"].features + 1)
    other.__dict__.update(prepared.__dict__, pools={**prepared.pools, "frozen": features})
    with pytest.raises(ValueError, match="images and backbone"):
        papers.run(every, lambda job: bengar2021.experiment(other, job), tmp_path)
    papers.run(every[1:], lambda job: bengar2021.experiment(other, job), tmp_path / "b")
    with pytest.raises(ValueError, match="images and backbone"):
        bengar2021.read(tmp_path, "smoke", "cifar10")


def test_milestones_stand_beside_what_was_measured() -> None:
    table = figures.milestones([{"epoch": 100.0, "knn": 0.71}, {"epoch": 200.004, "knn": 0.8}, {"epoch": 300.0, "knn": 0.9}])
    assert list(table["epoch"]) == [100, 200, 400, 800]
    assert list(table["measured"][:2]) == [0.71, 0.8] and table["measured"][2:].isna().all()


def test_what_was_learned_without_labels_lies_beside_the_runs(prepared: PreparedData, tmp_path: Path) -> None:
    result, numbers = prepared.pretrained, bengar2021.pretraining(prepared.setting, 0, prepared.runs)
    assert numbers["history"] == list(result.history) and numbers["loss"] == pytest.approx(float(result.losses.mean()))
    with pytest.raises(alnb.store.Corrupted, match=r"pretrained-digits-smoke-.* is missing"):
        bengar2021.pretraining(setting("cifar10", "smoke"), 0, tmp_path)


def test_records_of_all_scales_are_none_where_there_are_none(tmp_path: Path) -> None:
    assert bengar2021.all_records(tmp_path) is None


def test_table_1_stands_beside_the_published_one() -> None:
    rows = [
        {"dataset": "cifar10", "arm": arm, "strategy": strategy, "cycle": cycle, "n_labelled": round(500 * regime * (cycle + 1)),
         "regime": regime, "accuracy": 0.5 + 0.1 * cycle + 0.02 * seed - 0.3 * (regime < 10), "seed": seed}
        for arm, strategy in (("frozen", "entropy"), ("scratch", "kcenter"), ("frozen", "random")) for cycle in range(5) for seed in (0, 1)
        for regime in (0.1, 10)
    ]  # fmt: skip
    table = figures.table1(pandas.DataFrame(rows)).set_index(["arm", "strategy"])
    entropy = table.loc[("frozen", "entropy")]
    assert (
        entropy["published"] == 0.911
        and entropy["mean"] == pytest.approx(0.91)
        and entropy["n_labelled"] == 25_000
        and entropy["replications"] == 2
    )
    low, high = stats.interval(pandas.Series([0.9, 0.92]))
    assert (entropy["low"], entropy["high"]) == pytest.approx((low, high))
    assert pandas.isna(table.loc[("frozen", "svm_margin")]["mean"]) and pandas.isna(table.loc[("frozen", "random")]["published"])
    assert set(table["dataset"]) == {"cifar10"}  # the other column was not run
    assert isinstance(figures.draw_table1(table.reset_index(), "t"), Figure)
