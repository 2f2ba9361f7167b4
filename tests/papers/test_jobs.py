"""Jobs and their runs: found by tags, computed once, never mixed; and what the experiments share."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import images_of, notebook_of

import alnb
from alnb import papers, store
from alnb.acquire import STRATEGIES
from alnb.data import ImageSet
from alnb.papers import jobs as papers_jobs
from alnb.papers.experiment import NESTED, Part, PreparedData, Scale, at_scale, replicated, runs_folder, supervised
from alnb.papers.jobs import Job, begun, cached_result, find, is_full_figure, run

TAGS = {"paper": "none", "setting": "s", "arm": "scratch", "pretext": ""}


def job(seed: int = 0, strategy: str = "random", **tags: object) -> Job:
    return {**TAGS, "strategy": strategy, "seed": seed, **tags}


class Maker:
    """Makes small experiments, and counts them."""

    def __init__(self, train: ImageSet, learner: alnb.Learner) -> None:
        self.train, self.learner, self.made = train, learner, list[Job]()

    def __call__(self, job: Job) -> alnb.Experiment:
        self.made.append(job)
        return alnb.Experiment(
            alnb.Pool.of(self.train.images), self.train, self.learner, STRATEGIES[job["strategy"]],
            alnb.oracle.simulated(self.train.targets), alnb.Protocol(3, 3, 2, seed=job["seed"]), tags={**job, "pool": len(self.train)},
        )  # fmt: skip


@pytest.fixture
def maker(train: ImageSet, learner: alnb.Learner) -> Maker:
    return Maker(train, learner)


def test_jobs_are_computed_once_and_found_without_images(maker: Maker, tmp_path: Path) -> None:
    every = [job(seed, strategy) for strategy in ("random", "entropy") for seed in (0, 1)]
    assert find(every, tmp_path) == ([], every)
    finished = run(every[1:3], maker, tmp_path)
    assert [(tags["strategy"], tags["seed"]) for _, tags in finished] == [("random", 1), ("entropy", 0)]
    assert maker.made == every[1:3] and finished[0][0].path.name.startswith("scratch-random-1-")
    maker.made.clear()
    assert [tags["seed"] for _, tags in run(every, maker, tmp_path)] == [0, 1, 0, 1] and maker.made == [every[0], every[3]]
    again, left = find([dict(reversed(list(every[2].items())))], tmp_path)
    assert not left and again[0][1]["strategy"] == "entropy"
    assert find([job(regime=1.0)], tmp_path)[1] and run([], maker, tmp_path) == []


def test_a_run_that_is_begun_is_left_to_do(maker: Maker, tmp_path: Path) -> None:
    experiment = maker(job())
    next(alnb.cycles(papers.run_of(experiment, tmp_path), experiment))
    assert find([job()], tmp_path) == ([], [job()]) and len(begun(tmp_path, paper="none")) == 1
    ((found, _),) = run([job()], maker, tmp_path)
    assert len(found.records()) == 2 and begun(tmp_path, paper="other") == []


def test_two_runs_of_one_job_are_an_error(maker: Maker, tmp_path: Path) -> None:
    run([job()], maker, tmp_path)
    maker.learner = replace(maker.learner, recipe=replace(maker.learner.recipe, lr=0.2))
    experiment = maker(job())
    list(alnb.cycles(papers.run_of(experiment, tmp_path), experiment))
    with pytest.raises(ValueError, match=r"scratch-random-0-.* and .*scratch-random-0-[\s\S]*learner.recipe.lr"):
        find([job()], tmp_path)


@pytest.mark.parametrize("change", ["images", "backbone", "losses"])
def test_other_images_backbones_and_losses_are_an_error_before_anything_is_computed(change: str, maker: Maker, tmp_path: Path) -> None:
    run([job()], maker, tmp_path)
    if change == "images":
        maker.train = images_of(60, seed=7)
    net = maker.learner.build(3, alnb.Stream(0))
    backbone = alnb.nets.Backbone("another", {name: value for name, value in net.trunk.state_dict().items()})
    maker.learner = replace(maker.learner, backbone=backbone) if change == "backbone" else maker.learner
    side = {"losses": torch.arange(60)} if change == "losses" else {}
    with pytest.raises(ValueError, match=r"scratch-random-0-.* this notebook's data "):
        run([job(), job(1)], lambda job: replace(maker(job), side=side), tmp_path)
    assert len(begun(tmp_path)) == 1
    experiment = replace(maker(job(1)), side=side)
    list(alnb.cycles(papers.run_of(experiment, tmp_path), experiment))
    for look in (lambda: find([job()], tmp_path), lambda: begun(tmp_path, paper="none")):
        with pytest.raises(ValueError, match=r"scratch-random-0-.*(images and backbone|pretext losses)"):
            look()
    other = replace(experiment, tags={**experiment.tags, "setting": "t"})  # of another setting: no conflict
    assert papers_jobs._sources(other.manifest).keys().isdisjoint(papers_jobs._sources(maker(job()).manifest))


def test_replications_need_not_share_their_sources(maker: Maker, tmp_path: Path) -> None:
    """Each has a pretext of its own; the runs of one have the same."""
    losses = {0: torch.arange(60), 1: torch.arange(60).flip(0)}
    every = [job(tags["seed"], replication=tags["replication"]) for tags in replicated([0, 1], [0, 1])]
    finished = run(every, lambda job: replace(maker(job), side={"losses": losses[job["replication"]]}), tmp_path)
    assert [(tags["replication"], tags["seed"]) for _, tags in finished] == [(0, 0), (1, 1000), (0, 1), (1, 1001)]
    with pytest.raises(ValueError, match="pretext losses"):
        run([*every, job(2, replication=0)], lambda job: replace(maker(job), side={"losses": losses[1]}), tmp_path)


def test_an_experiment_must_have_the_tags_of_its_job(maker: Maker, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"lacks the tag 'seed'"):
        run([job()], lambda job: replace(maker(job), tags={**job, "seed": 1}), tmp_path)


def test_names_of_folders() -> None:
    assert papers_jobs.slug(job(3, "random, then entropy", dataset="cats/x", regime=0.1)) == "cats_x-scratch-random_then_entropy-0.1-3"


# ---- figures and results ---------------------------------------------------------------------------------------------------------


def test_a_part_of_a_figure_is_not_the_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cell = (
        "dataset: str = 'cifar10'  # a\nseeds: list[int] = [0, 1]  # b\nregimes: list[float] = []  # c\nscale: str = 'laptop'  # d\n"
        "epochs: float = 0.0  # e"
    )
    notebook_of(tmp_path / "figure.ipynb", cell)
    monkeypatch.setattr(papers_jobs, "NOTEBOOKS", tmp_path)
    values = {"dataset": "cifar10", "seeds": [0, 1], "regimes": [], "scale": "smoke", "epochs": 0, "other": 1}
    assert is_full_figure("figure", values) and is_full_figure("figure", {**values, "seeds": [2, 1, 0]})
    for less in ({"seeds": [0]}, {"regimes": [1.0]}, {"epochs": 1.0}, {"dataset": "caltech101"}):
        assert not is_full_figure("figure", {**values, **less})
    assert is_full_figure("figure", {**values, "dataset": "caltech101"}, but=["dataset"])
    with pytest.raises(alnb.notebook.BadParameter, match="other"):
        is_full_figure("other", values)


def test_results_are_computed_once_and_hold_nan(tmp_path: Path) -> None:
    assert cached_result(tmp_path, "numbers", 1) is None
    first = cached_result(tmp_path, "numbers", 1, lambda: {"a": math.nan, "b": [1.5, {"c": (1, math.nan)}], "d": {2: "x"}})
    assert first is not None and math.isnan(first["a"]) and math.isnan(first["b"][1]["c"][1]) and first["d"] == {"2": "x"}
    again = cached_result(tmp_path, "numbers", 1, lambda: pytest.fail("computed again"))
    assert repr(again) == repr(first) and cached_result(tmp_path, "numbers", 2) is None
    (path,) = (tmp_path / "results").glob("numbers-*.json")
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(store.Corrupted, match=r"numbers-.*delete it"):
        cached_result(tmp_path, "numbers", 1)


def test_the_net_that_knows_all_labels_is_trained_once(
    train: ImageSet, test: ImageSet, learner: alnb.Learner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = supervised(learner, train, test, runs=tmp_path)
    assert known.features.shape[0] == 60 and known.log_probs.shape == (60, 3) and known.test_losses.shape == (30,)
    assert known.test_losses.dtype == torch.float64 and 0 <= known.accuracy <= 1
    monkeypatch.setattr("alnb.learn.train.fit", lambda *args, **kwargs: pytest.fail("trained again"))
    again = supervised(learner, train, test, runs=tmp_path)
    assert torch.equal(again.log_probs, known.log_probs) and again.accuracy == known.accuracy


# ---- scales ----------------------------------------------------------------------------------------------------------------------


def test_scales() -> None:
    table = {Scale.SMOKE: 1, Scale.PAPER: 2}
    assert at_scale("paper", table) == at_scale(Scale.PAPER, table) == 2
    for missing in ("huge", "overnight"):
        with pytest.raises(ValueError, match=f"scale is .*{missing}.*smoke, paper"):
            at_scale(missing, table)
    assert [str(scale) for scale in Scale] == ["smoke", "laptop", "overnight", "paper"]  # the most faithful last
    assert [scale.informs for scale in Scale] == [False, True, True, True]
    assert [scale.decides for scale in Scale] == [False, False, True, True]  # those with the paper's pool, budgets and cycles


def test_records_of_scale_paper_are_where_git_keeps_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALNB_WORKSPACE", str(tmp_path))
    for scale in ("paper", "overnight"):
        assert runs_folder("a", scale) == tmp_path.resolve() / "runs/paper/a"
    assert runs_folder("a", "laptop") == tmp_path.resolve() / "runs/a" and runs_folder("a", "paper", tmp_path / "x") == tmp_path / "x/a"


def test_nothing_is_read_before_it_is_used(tmp_path: Path) -> None:
    data = PreparedData(None, tmp_path)
    assert data.cache == tmp_path / "pretrained" and not data.cache.exists()


# ---- replications ----------------------------------------------------------------------------------------------------------------


def test_seeds_are_replications_unless_they_share_a_pretext() -> None:
    assert replicated([0, 3]) == [{"seed": 0, "replication": 0}, {"seed": 3, "replication": 3}]
    nested = replicated(iter([0, 1]), iter([2, 5]))  # runs outside, so that a design that is cut short has every replication
    assert [(tags["replication"], tags["seed"]) for tags in nested] == [(2, 2000), (5, 5000), (2, 2001), (5, 5001)]
    assert replicated([]) == replicated([], [1]) == []
    many = replicated(range(NESTED), range(3))
    assert len({tags["seed"] for tags in many}) == 3 * NESTED  # no two runs have one seed
    assert replicated([NESTED])[0] == {"seed": NESTED, "replication": NESTED}


@pytest.mark.parametrize(
    ("seeds", "shared", "message"),
    [
        ([-1], [], "seeds is -1"),
        ([0, 1.5], [], r"seeds is 1\.5"),
        ([0], [0, -2], "pretexts or backbones is -2"),
        ([0], ["rotation"], "pretexts or backbones is 'rotation'"),
        ([0, NESTED], [0], f"seeds has {NESTED}: .*0 to {NESTED - 1}"),
    ],
)
def test_seeds_that_name_no_replication(seeds: list, shared: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replicated(seeds, shared)


def test_data_of_a_replication(tmp_path: Path) -> None:
    """The same images; what is learned from them has another seed. It is made once."""
    from types import SimpleNamespace

    data = PreparedData(SimpleNamespace(dataset="digits", part=Part(per_class=3, test_per_class=2)), tmp_path, seed=1)
    same, other = data.of({"replication": 1}), data.of({"replication": 4})
    assert same is data and data.of({"replication": 4, "seed": 4001}) is other and not data.of({"replication": 0}).seed
    assert (other.seed, other.runs, other.setting) == (4, tmp_path, data.setting) and "images" not in vars(other)
    assert other.pool.images.fingerprint == data.pool.images.fingerprint and torch.equal(other.test.targets, data.test.targets)
    assert len(data.pool) == 30 and other.cache == data.cache
