from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional

import alnb
from alnb import store
from alnb.data import ImageSet, Resident
from alnb.nets import NETS
from alnb.pretrain import PRETEXTS, pretrain, rotation


@pytest.mark.parametrize("name", sorted(NETS))
@pytest.mark.parametrize("pretext", PRETEXTS.values(), ids=lambda p: p.name)
def test_every_pretext_gives_a_loss_per_image(name: str, pretext: alnb.pretrain.Pretext) -> None:
    net, x = NETS[name](pretext.outputs).eval(), torch.rand(5, 3, 16, 16)
    losses = pretext.loss(net, x, torch.zeros(5))
    assert losses.shape == (5,) and bool((losses > 0).all())
    torch.testing.assert_close(losses[2:4], pretext.loss(net, x[2:4], torch.zeros(2)))  # an image's loss does not depend on its neighbours


def test_rotation_against_the_paper_written_naively() -> None:
    net, x = NETS["small"](4).eval(), torch.rand(3, 3, 8, 8)
    expected = []
    for image in x:
        losses = []
        for quarter in range(4):
            turned = image
            for _ in range(quarter):  # a quarter counter-clockwise: transpose, then turn the rows upside down
                turned = turned.transpose(1, 2).flip(1)
            losses.append(functional.cross_entropy(net(turned[None]), torch.tensor([quarter])))
        expected.append(sum(losses) / 4)
    torch.testing.assert_close(rotation(net, x), torch.stack(expected))


def test_pretraining_is_done_once(train: ImageSet, learner: alnb.Learner, tmp_path: Path) -> None:
    first = pretrain(PRETEXTS["rotation"], train.images, learner, cache=tmp_path)
    again = pretrain(PRETEXTS["rotation"], train.images, learner, cache=tmp_path, report=lambda *_: pytest.fail("computed again"))
    assert torch.equal(first.features, again.features) and first.features.shape == (60, 16)
    assert torch.equal(first.losses, again.losses) and first.losses.shape == (60,)
    assert first.backbone.fingerprint == again.backbone.fingerprint
    assert not list(tmp_path.glob("*/checkpoint.pt"))
    calls: list[int] = []
    for other in ({"seed": 1}, {"learner": replace(learner, mean=(0.5, 0.5, 0.5))}):
        found = pretrain(
            PRETEXTS["rotation"], train.images, **{"learner": learner, "cache": tmp_path, "report": lambda s, *_: calls.append(s), **other}
        )
        assert found.backbone.fingerprint != first.backbone.fingerprint
    assert calls


def test_pretraining_helps_the_pretext(train: ImageSet, learner: alnb.Learner, tmp_path: Path) -> None:
    found = pretrain(PRETEXTS["rotation"], train.images, replace(learner, recipe=replace(learner.recipe, epochs=40)), cache=tmp_path)
    assert float(found.losses.mean()) < 0.7 * float(torch.log(torch.tensor(4.0)))


def test_an_interrupted_pretraining_goes_on(train: ImageSet, learner: alnb.Learner, tmp_path: Path) -> None:
    learner = replace(learner, recipe=replace(learner.recipe, min_updates=110, checkpoint_seconds=0.0))
    whole = pretrain(PRETEXTS["rotation"], train.images, learner, cache=tmp_path / "whole")
    steps: list[int] = []

    def stop(step: int, updates: int, mean: float) -> None:
        steps.append(step)
        if len(steps) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretrain(PRETEXTS["rotation"], train.images, learner, cache=tmp_path / "cut", report=stop)
    later: list[int] = []
    found = pretrain(PRETEXTS["rotation"], train.images, learner, cache=tmp_path / "cut", report=lambda s, *_: later.append(s))
    assert later[0] > 1 and torch.equal(found.features, whole.features) and torch.equal(found.losses, whole.losses)


def test_damaged_results_are_named(train: ImageSet, learner: alnb.Learner, tmp_path: Path) -> None:
    pretrain(PRETEXTS["rotation"], train.images, learner, cache=tmp_path)
    (result,) = tmp_path.glob("*/result.pt")
    result.write_bytes(result.read_bytes()[:500])
    with pytest.raises(store.Corrupted, match=r"result\.pt is truncated"):
        pretrain(PRETEXTS["rotation"], train.images, learner, cache=tmp_path)


def test_only_squares_can_be_turned(learner: alnb.Learner, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="8x9 pixels cannot be turned"):
        pretrain(PRETEXTS["rotation"], Resident(torch.zeros(4, 3, 8, 9, dtype=torch.uint8)), learner, cache=tmp_path)
