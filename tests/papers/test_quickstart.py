"""The experiment of the quickstart: what a scale decides, how nets start, and that notebook and explorer make the same records."""

from pathlib import Path

import pytest
import torch

import alnb
from alnb import notebook
from alnb.loop.cycles import Cycle
from alnb.papers import quickstart
from alnb.report import records
from alnb.widgets.explorer.trail import Trail

PROJECT = Path(__file__).parents[2]
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
    with pytest.raises(ValueError, match=r"scale is 'tiny': it must be one of smoke, laptop, paper"):
        quickstart.setting("digits", "tiny")


def test_how_the_nets_of_an_arm_start(setting: quickstart.Setting, runs: Path) -> None:
    scratch, tuned, frozen = (quickstart.start(setting, arm, runs=runs) for arm in quickstart.ARMS)
    assert scratch.learner.backbone is None and scratch.pretrained is None
    assert tuned.pretrained is not None and frozen.pretrained is not None
    weights = tuned.learner.build(10, 0).trunk.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in tuned.pretrained.backbone.state.items())
    everything = torch.arange(len(setting.train))
    torch.testing.assert_close(frozen.images.batch(everything), tuned.pretrained.features)  # frozen: the very features
    assert [name for name, _ in frozen.learner.build(10, 0).named_parameters()] == ["head.weight", "head.bias"]
    with pytest.raises(ValueError, match=r"arm is 'warm': it must be one of from scratch, rotation, frozen rotation"):
        quickstart.start(setting, "warm", runs=runs)


def test_what_images_are_laid_out_by(setting: quickstart.Setting, runs: Path) -> None:
    N = len(setting.train)
    pixels = quickstart.features(setting, "pixels", runs=runs)
    assert torch.equal(pixels, setting.train.images.batch(torch.arange(N)).flatten(1).float() / 255)
    rotation, supervised = (quickstart.features(setting, name, runs=runs) for name in ("rotation", "supervised"))
    assert rotation.shape == supervised.shape == (N, setting.net(10).width) and not torch.equal(rotation, supervised)
    assert torch.equal(supervised, quickstart.features(setting, "supervised", runs=runs))  # kept
    with pytest.raises(ValueError, match=r"embedding is 'umap': it must be one of rotation, supervised, pixels"):
        quickstart.features(setting, "umap", runs=runs)


def test_an_unknown_strategy(setting: quickstart.Setting, runs: Path) -> None:
    with pytest.raises(ValueError, match=r"strategy is 'best': it must be one of random, entropy"):
        quickstart.arguments(setting, quickstart.start(setting, "from scratch", runs=runs), "best", 0)


@pytest.mark.parametrize("arm", ["rotation", "frozen rotation"])
def test_stepped_and_executed_by_papermill_the_records_are_the_same(setting: quickstart.Setting, arm: str, tmp_path: Path) -> None:
    """Bit for bit, in folders of the same name, for three strategies."""
    values = {"scale": "smoke", "arms": [arm], "strategies": STRATEGIES, "seeds": [1], "device": "cpu"}
    places = {"runs": str(tmp_path / "batch"), "figures": str(tmp_path / "figures")}
    notebook.execute(PROJECT / "notebooks/quickstart.ipynb", {**values, **places}, tmp_path / "executed.ipynb")
    start = quickstart.start(setting, arm, runs=tmp_path / "stepped")
    for strategy in STRATEGIES:
        arguments = quickstart.arguments(setting, start, strategy, 1)
        trail = Trail(setting.train, arguments, quickstart.run(arguments, tmp_path / "stepped"))
        while trail.advance() is not None:
            pass
        executed = alnb.Run(tmp_path / "batch/quickstart" / trail.run.path.name)
        assert executed.manifest is not None and executed.manifest["experiment"] == trail.run.manifest["experiment"]
        assert [Cycle.read(record).reproducible for record in executed.records()] == [cycle.reproducible for cycle in trail.cycles]
    assert len(records.find(tmp_path / "batch")) == len(STRATEGIES)
