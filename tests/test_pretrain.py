from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

import alnb
from alnb import store
from alnb.data import ImageSet, Resident
from alnb.nets import NETS
from alnb.pretrain import PRETEXTS, Collapsed, Monitor, build, embed, pretrain, rotation


@pytest.mark.parametrize("name", sorted(NETS))
@pytest.mark.parametrize("pretext", PRETEXTS.values(), ids=lambda p: p.name)
def test_every_pretext_gives_a_loss_per_image(name: str, pretext: alnb.pretrain.Pretext) -> None:
    net, views = build(alnb.Learner(NETS[name], alnb.Recipe()), pretext, 0).eval(), torch.rand(pretext.views, 5, 3, 16, 16)
    losses = pretext.loss(net, views.flatten(0, 1), torch.zeros(5))
    assert losses.shape == (5,) and bool(losses.isfinite().all())
    some = pretext.loss(net, views[:, 2:4].flatten(0, 1), torch.zeros(2))
    torch.testing.assert_close(losses[2:4], some)  # an image's loss does not depend on its neighbours


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


@pytest.mark.parametrize("name", sorted(PRETEXTS))
def test_an_interrupted_pretraining_goes_on(name: str, train: ImageSet, test: ImageSet, learner: alnb.Learner, tmp_path: Path) -> None:
    learner = replace(learner, recipe=replace(learner.recipe, min_updates=110, checkpoint_seconds=0.0))
    pretext = replace(PRETEXTS[name], outputs=min(16, PRETEXTS[name].outputs))
    monitor = Monitor(train, test, neighbours=5)
    whole = pretrain(pretext, train.images, learner, cache=tmp_path / "whole", monitor=monitor)
    steps: list[int] = []

    def stop(step: int, updates: int, mean: float) -> None:
        steps.append(step)
        if len(steps) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretrain(pretext, train.images, learner, cache=tmp_path / "cut", report=stop, monitor=monitor)
    later: list[int] = []
    found = pretrain(pretext, train.images, learner, cache=tmp_path / "cut", report=lambda s, *_: later.append(s), monitor=monitor)
    assert later[0] > 1 and torch.equal(found.features, whole.features) and torch.equal(found.losses, whole.losses)
    assert found.history == whole.history and len(found.history) > 20 and found.history[-1]["update"] == 110
    assert {"knn", "epoch"} <= set(found.history[0]) and ("spread" in found.history[0]) == (name == "simsiam")
    unwatched = pretrain(pretext, train.images, learner, cache=tmp_path / "unwatched")
    assert torch.equal(unwatched.features, whole.features)  # being looked at changes nothing


def test_damaged_results_are_named(train: ImageSet, learner: alnb.Learner, tmp_path: Path) -> None:
    pretrain(PRETEXTS["rotation"], train.images, learner, cache=tmp_path)
    (result,) = tmp_path.glob("*/result.pt")
    result.write_bytes(result.read_bytes()[:500])
    with pytest.raises(store.Corrupted, match=r"result\.pt is truncated"):
        pretrain(PRETEXTS["rotation"], train.images, learner, cache=tmp_path)


def test_only_squares_can_be_turned(learner: alnb.Learner, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="8x9 pixels cannot be turned"):
        pretrain(PRETEXTS["rotation"], Resident(torch.zeros(4, 3, 8, 9, dtype=torch.uint8)), learner, cache=tmp_path)
    assert not list(tmp_path.iterdir())  # no folder was claimed for it


def test_simsiam_takes_images_that_are_not_square(learner: alnb.Learner, tmp_path: Path) -> None:
    pretext = replace(PRETEXTS["simsiam"], outputs=8)
    images = Resident(torch.randint(0, 255, (6, 3, 8, 12), dtype=torch.uint8))
    assert pretrain(pretext, images, learner, cache=tmp_path).losses.shape == (6,)


def test_other_settings_begin_anew_and_leave_the_checkpoint_alone(train: ImageSet, learner: alnb.Learner, tmp_path: Path) -> None:
    pretext = replace(PRETEXTS["simsiam"], outputs=8)
    learner = replace(learner, recipe=replace(learner.recipe, min_updates=110, checkpoint_seconds=0.0))

    steps: list[int] = []

    def stop(step: int, *_: object) -> None:
        steps.append(step)
        if len(steps) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretrain(pretext, train.images, learner, cache=tmp_path, report=stop)
    (checkpoint,) = tmp_path.glob("*/checkpoint.pt")
    before = checkpoint.read_bytes()
    pretrain(pretext, train.images, replace(learner, recipe=replace(learner.recipe, weight_decay=1e-4)), cache=tmp_path)
    assert checkpoint.read_bytes() == before
    checkpoint.write_bytes(before[:400])
    with pytest.raises(store.Corrupted, match=r"checkpoint\.pt is truncated"):
        pretrain(pretext, train.images, learner, cache=tmp_path)


def test_a_collapse_is_told(train: ImageSet, learner: alnb.Learner, tmp_path: Path) -> None:
    pretext = replace(PRETEXTS["simsiam"], outputs=8, loss=pull_together)
    learner = replace(learner, recipe=replace(learner.recipe, epochs=200, lr=0.5))
    with pytest.raises(Collapsed, match=r"simsiam collapsed by update \d+ of 1500.*lower the learning rate"):
        pretrain(pretext, train.images, learner, cache=tmp_path)
    assert list(tmp_path.glob("*/history.json"))


def pull_together(net: alnb.nets.Net, x: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    """A loss that only a constant feature satisfies."""
    return net.features(x).square().sum(dim=1).view(2, -1).mean(dim=0)


def test_the_monitor_against_scikit_learn(train: ImageSet, test: ImageSet) -> None:
    from sklearn.neighbors import KNeighborsClassifier

    net = NETS["small"](3).eval()
    features = [functional.normalize(alnb.train.predict(net.features, s.images), dim=1).numpy() for s in (train, test)]
    reference = KNeighborsClassifier(20, weights=lambda d: np.exp((1 - d**2 / 2) / 0.1), algorithm="brute")  # of unit vectors
    expected = reference.fit(features[0], train.targets.numpy()).score(features[1], test.targets.numpy())
    assert Monitor(train, test, neighbours=20)(net) == pytest.approx(expected)


def test_features_are_embedded_once(train: ImageSet, learner: alnb.Learner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = pretrain(PRETEXTS["rotation"], train.images, learner, cache=tmp_path)
    frozen = replace(learner, backbone=found.backbone)
    clean = embed(frozen, train.images, cache=tmp_path)
    assert torch.equal(clean.features, found.features) and clean.views is None and clean.shape == (16,)
    viewed = embed(frozen, train.images, views=3, cache=tmp_path)
    assert viewed.views is not None and viewed.views.shape == (3, 60, 16) and torch.equal(viewed.features, clean.features)
    assert not torch.equal(viewed.views[0], viewed.views[1]) and viewed.fingerprint != clean.fingerprint
    monkeypatch.setattr(alnb.pretrain, "predict", lambda *_: pytest.fail("computed again"))
    again = embed(frozen, train.images, views=3, cache=tmp_path)
    assert again.views is not None and torch.equal(again.views, viewed.views)
    with pytest.raises(ValueError, match="no backbone to embed images with"):
        embed(learner, train.images, cache=tmp_path)
    with pytest.raises(ValueError, match="learns from images, not from features"):
        pretrain(PRETEXTS["rotation"], clean, learner, cache=tmp_path)
