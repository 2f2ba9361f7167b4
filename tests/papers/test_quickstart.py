"""The experiment of the quickstart: what a scale decides, how nets start, and that notebook and explorer make the same records."""

import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import images_of

import alnb
from alnb import papers
from alnb.loop.experiment import Cycle
from alnb.notebook import kernel_free
from alnb.papers import quickstart

STRATEGIES = ["random", "margin", "kcenter"]


@pytest.fixture(scope="module")
def setting() -> quickstart.Setting:
    return quickstart.setting("digits", "smoke")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("quickstart")


def test_what_a_scale_decides(setting: quickstart.Setting) -> None:
    assert (setting.initial, setting.budget, setting.cycles) == (20, 30, 3)  # two and three of each of ten classes
    other = quickstart.setting("digits", "laptop", initial=7, cycles=2)
    assert (other.initial, other.budget, other.cycles) == (7, 30, 2)
    assert setting.net(10).width < other.net(10).width
    for missing in ("tiny", "overnight"):
        with pytest.raises(ValueError, match=f"scale is '{missing}'.*smoke, laptop, paper"):
            quickstart.setting("digits", missing)


def test_changed_images_are_another_setting(setting: quickstart.Setting) -> None:
    """A folder may change between two executions: its runs are then not found."""
    other = replace(setting, train=images_of(60))
    assert setting.digest == quickstart.setting("digits", "smoke").digest != other.digest


def test_how_the_nets_of_an_arm_start(setting: quickstart.Setting, runs: Path) -> None:
    scratch, warm, frozen = (quickstart.start(setting, arm, runs=runs) for arm in quickstart.ARMS)
    assert scratch.learner.backbone is None and scratch.pretrained is None
    assert warm.pretrained is not None and frozen.pretrained is not None
    weights = warm.learner.build(10, alnb.Stream(0)).trunk.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in warm.pretrained.backbone.state.items())
    everything = torch.arange(len(setting.train))
    torch.testing.assert_close(frozen.images.batch(everything), warm.pretrained.features)  # frozen: the very features
    assert [name for name, _ in frozen.learner.build(10, alnb.Stream(0)).named_parameters()] == ["head.weight", "head.bias"]


def test_what_images_are_laid_out_by(setting: quickstart.Setting, runs: Path) -> None:
    N = len(setting.train)
    pixels = quickstart.features(setting, "pixels", runs=runs)
    assert torch.equal(pixels, setting.train.images.batch(torch.arange(N)).flatten(1).float() / 255)
    rotation, supervised = (quickstart.features(setting, name, runs=runs) for name in ("rotation", "supervised"))
    assert rotation.shape == supervised.shape == (N, setting.net(10).width) and not torch.equal(rotation, supervised)
    assert torch.equal(supervised, quickstart.features(setting, "supervised", runs=runs))  # cached


def test_unknown_names(setting: quickstart.Setting, runs: Path) -> None:
    start = quickstart.start(setting, "scratch", runs=runs)
    for call, message in (
        (lambda: quickstart.start(setting, "from scratch", runs=runs), r"arm is 'from scratch'.*scratch, warm, frozen"),
        (lambda: quickstart.jobs(setting, ["rotation"], ["random"], [0]), r"arm is 'rotation'"),
        (lambda: quickstart.jobs(setting, ["warm"], ["best"], [0]), r"strategy is 'best'"),
        (lambda: quickstart.experiment(setting, start, "best", 0), r"strategy is 'best'.*random, entropy"),
        (lambda: quickstart.features(setting, "umap", runs=runs), r"embedding is 'umap'.*rotation, supervised, pixels"),
        (lambda: quickstart.check(replace(setting, initial=5000), "warm", ["random"], "pixels"), r"5060 labels"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.slow
@pytest.mark.parametrize("arm", ["warm", "frozen"])
def test_stepped_and_run_at_once_the_records_are_the_same(setting: quickstart.Setting, arm: str, tmp_path: Path) -> None:
    """Bit for bit, in folders of the same name, for three strategies. The explorer steps as here: a generator for each click."""
    jobs, start = quickstart.jobs(setting, [arm], STRATEGIES, [1]), quickstart.start(setting, arm, runs=tmp_path / "stepped")
    batch = quickstart.start(setting, arm, runs=tmp_path / "batch")
    finished = papers.run(jobs, lambda job: quickstart.experiment(setting, batch, job["strategy"], job["seed"]), tmp_path / "batch")
    for (executed, tags), job in zip(finished, jobs, strict=True):
        experiment = quickstart.experiment(setting, start, job["strategy"], job["seed"])
        run, cycles = quickstart.run(experiment, tmp_path / "stepped"), list[Cycle]()
        while len(cycles) < setting.cycles:
            with closing(alnb.cycles(run, experiment)) as clicks:
                cycles = [next(clicks) for _ in range(len(cycles) + 1)]
        assert executed.path.name == run.path.name and executed.path != run.path and tags["pretext"] == "rotation"
        assert (executed.manifest or {})["experiment"] == (run.manifest or {})["experiment"]
        assert [Cycle.read(record).reproducible for record in executed.records()] == [cycle.reproducible for cycle in cycles]


@pytest.mark.slow
@pytest.mark.parametrize("name", quickstart.STRATEGIES)
@pytest.mark.parametrize("arm", ["scratch", "frozen"])
@pytest.mark.situation("SCALE", "each strategy at scale smoke, on images and on features", "it ends within 20 s of one core")
def test_smoke_reaches_every_strategy(name: str, arm: str, tmp_path: Path) -> None:
    began = time.process_time()
    values = {"strategies": [name], "arms": [arm], "seeds": [0], "scale": "smoke", "runs": str(tmp_path), "device": "cpu"}
    kernel_free.execute(Path(__file__).parents[2] / "notebooks/quickstart.ipynb", values)
    assert time.process_time() - began < 20 and len(list(tmp_path.rglob("record.json"))) == 3
