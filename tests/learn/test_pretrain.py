import copy
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import images_of
from torch.nn import functional

import alnb
from alnb import store
from alnb.data import ImageSet, Resident
from alnb.learn import checkpoint
from alnb.learn.augment import AUGMENTATIONS
from alnb.learn.nets import NETS, small
from alnb.learn.pretexts import rotation
from alnb.learn.pretrain import (
    PRETEXTS,
    Collapsed,
    Monitor,
    Pretext,
    build,
    check_losses,
    draw_losses,
    embed,
    losses_of,
    pretrain,
)
from alnb.store import Stream


@pytest.fixture
def frequent_checkpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints may take all the time there is."""
    monkeypatch.setattr(checkpoint, "CHECKPOINT_SHARE", 1e9)


@pytest.mark.parametrize("name", sorted(NETS))
@pytest.mark.parametrize("pretext", PRETEXTS.values(), ids=lambda p: p.name)
def test_every_pretext_gives_a_loss_per_image(name: str, pretext: Pretext) -> None:
    net, views = build(alnb.Learner(NETS[name], alnb.Recipe()), pretext, 0).eval(), torch.rand(pretext.views, 3, 3, 8, 8)
    losses = pretext.loss(net, views.flatten(0, 1), torch.zeros(3))
    assert losses.shape == (3,) and bool(losses.isfinite().all())
    fewer = pretext.loss(net, views[:, 1:].flatten(0, 1), torch.zeros(2))
    torch.testing.assert_close(losses[1:], fewer)  # an image's loss does not depend on its neighbours


def test_manifests_tell_pretexts_apart_by_every_function() -> None:
    losses = [store.describe(pretext.loss) for pretext in PRETEXTS.values()]
    heads = {store.describe(pretext.head) for pretext in PRETEXTS.values()}
    assert len(set(losses)) == len(PRETEXTS) and len(heads) == 3 and all(name == pretext.name for name, pretext in PRETEXTS.items())


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
    torch.testing.assert_close(rotation.rotation_loss(net, x), torch.stack(expected))


def test_rotation_in_four_batches_written_naively() -> None:
    """View k of image i has angle i + k; batch normalisation sees as many views as there are images, with mixed angles."""
    with (Stream(0) / "net").scope():
        net = NETS["small"](4).train()
    reference, x, seen = copy.deepcopy(net), torch.rand(6, 3, 8, 8, generator=Stream(1).generator()), []
    net.trunk[0].register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    total = torch.zeros(6)
    for view in range(4):
        angles = [(place + view) % 4 for place in range(6)]
        logits = reference(torch.stack([torch.rot90(image, k, (1, 2)) for image, k in zip(x, angles, strict=True)]))
        total += functional.cross_entropy(logits, torch.tensor(angles), reduction="none") / 4
    torch.testing.assert_close(rotation.rotation_loss_in_four(net, x), total)
    assert seen == [6] * 4
    for mine, theirs in zip(net.state_dict().values(), reference.state_dict().values(), strict=True):
        torch.testing.assert_close(mine, theirs)  # the running statistics
    assert not torch.allclose(rotation.rotation_loss(net, x), total, rtol=1e-3)  # one batch normalises otherwise
    torch.testing.assert_close(rotation.rotation_loss_in_four(net.eval(), x), rotation.rotation_loss(net, x))


@pytest.mark.parametrize("name", ["rotation", "jigsaw", "jigsaw_gap"])
def test_right_answers_are_counted(name: str, learner: alnb.Learner, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss takes a cross-entropy of logits and classes; what is right follows from the same two."""
    net, x, answers = build(learner, PRETEXTS[name], 0).eval(), torch.rand(5, 3, 8, 8, generator=Stream(0).generator()), []

    def spy(logits: torch.Tensor, classes: torch.Tensor, **_: str) -> torch.Tensor:
        answers.append((logits.argmax(1) == classes).view(-1, 5))
        return torch.zeros(len(logits))

    correct = PRETEXTS[name].correct(net, x)
    monkeypatch.setattr(functional, "cross_entropy", spy)
    PRETEXTS[name].loss(net, x, x)
    assert correct.tolist() == pytest.approx(torch.cat(answers).double().mean(0).tolist()) and 0 < float(correct.sum()) < 5


# ---- the best epoch ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["rotation", "jigsaw", "colorization", "simsiam"])
def test_the_best_epoch_is_kept(name: str, train: ImageSet, learner: alnb.Learner, tmp_path: Path) -> None:
    pretext = replace(PRETEXTS[name], outputs=16, draws=2) if name == "simsiam" else PRETEXTS[name]
    learner = replace(learner, recipe=replace(learner.recipe, epochs=12, lr=0.3, schedule="constant"))
    best, last = (pretrain(pretext, train.images, learner, cache=tmp_path, checkpoint=one) for one in ("best", "last"))
    assert len(list(tmp_path.iterdir())) == 2 and not list(tmp_path.glob("*/best.pt"))
    seen: list[tuple[float, dict]] = []

    def look(net: alnb.nets.Net, step: int) -> None:
        if name in ("rotation", "jigsaw"):
            score = float(alnb.train.predict(lambda x: pretext.correct(net, x), train.images).double().mean())
        else:
            score = -float(draw_losses(pretext, net, train.images, learner.recipe.augment, 0)[0].double().mean())
        seen.append((score, {key: value.clone() for key, value in net.trunk.state_dict().items()}))

    full = replace(learner, loss=pretext.loss, recipe=replace(learner.recipe, views=pretext.views))
    net, every = build(full, pretext, 0), torch.arange(60)
    hook = alnb.train.TrainingHook(looks=((look, round(full.recipe.updates(60) / 12)),))
    alnb.train.fit(net, train.images, every, every, full, Stream(0) / "pretext" / name, hook=hook)
    scores = [score for score, _ in seen]
    expected = seen[scores.index(max(scores))][1]
    assert scores.index(max(scores)) < len(scores) - 1  # else the best is the last
    assert len(seen) >= 12 and all(torch.equal(best.backbone.state[key], value) for key, value in expected.items())
    assert all(torch.equal(last.backbone.state[key], value) for key, value in seen[-1][1].items())


def test_the_best_epoch_survives_a_kill(
    train: ImageSet, learner: alnb.Learner, tmp_path: Path, frequent_checkpoints: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ended at every other look in turn: after the net of an earlier one was written, and before."""
    learner = replace(learner, recipe=replace(learner.recipe, epochs=8, lr=0.3, checkpoint_seconds=0.0))
    run = partial(pretrain, images=train.images, learner=learner, checkpoint="best")
    whole, looks = run(PRETEXTS["rotation"], cache=tmp_path / "whole"), []

    original = alnb.pretrain._score

    def dying(*arguments: object) -> float:
        looks.append(1)
        if len(looks) % 2 == 0:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(alnb.pretrain, "_score", dying)
    for _ in range(50):
        try:
            killed = run(PRETEXTS["rotation"], cache=tmp_path / "killed")
            break
        except KeyboardInterrupt:
            continue
    assert len(looks) >= 10 and len(list((tmp_path / "killed").iterdir())) == 1
    assert torch.equal(killed.losses, whole.losses) and torch.equal(killed.features, whole.features)
    assert killed.backbone.fingerprint == whole.backbone.fingerprint
    assert not list((tmp_path / "killed").glob("*/*best.pt")) and not list((tmp_path / "killed").glob("*/checkpoint.pt"))


def test_an_unknown_checkpoint_is_refused(train: ImageSet, learner: alnb.Learner, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="checkpoint is 'first': it must be one of last, best"):
        pretrain(PRETEXTS["rotation"], train.images, learner, cache=tmp_path, checkpoint="first")
    assert not list(tmp_path.iterdir())


def test_pretraining_is_done_once(train: ImageSet, learner: alnb.Learner, tmp_path: Path) -> None:
    first = pretrain(PRETEXTS["rotation"], train.images, learner, cache=tmp_path)
    again = pretrain(PRETEXTS["rotation"], train.images, learner, cache=tmp_path, report=lambda *_: pytest.fail("computed again"))
    assert torch.equal(first.features, again.features) and first.features.shape == (60, 16)
    assert torch.equal(first.losses, again.losses) and first.losses.shape == (60,)
    assert first.backbone.fingerprint == again.backbone.fingerprint
    assert not list(tmp_path.glob("*/checkpoint.pt"))
    calls: list[int] = []
    for other in ({"seed": 1}, {"learner": replace(learner, mean=(0.5, 0.5, 0.5))}):
        pretrained = pretrain(
            PRETEXTS["rotation"], train.images, **{"learner": learner, "cache": tmp_path, "report": lambda s, *_: calls.append(s), **other}
        )
        assert pretrained.backbone.fingerprint != first.backbone.fingerprint
    assert calls


@pytest.mark.parametrize("name", sorted(set(PRETEXTS) - {"simsiam"}))
def test_every_pretext_is_cached(
    name: str, train: ImageSet, learner: alnb.Learner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = pretrain(PRETEXTS[name], train.images, learner, cache=tmp_path)
    assert first.losses.shape == (60,) and len(first.losses.unique()) > 1
    net = replace(learner, backbone=first.backbone).build(2, Stream(0)).eval()
    assert torch.equal(alnb.train.predict(net.features, train.images), first.features)  # the trunk is like any other
    monkeypatch.setattr(alnb.pretrain, "fit", lambda *_, **__: pytest.fail("computed again"))
    again = pretrain(PRETEXTS[name], train.images, learner, cache=tmp_path)
    assert torch.equal(first.losses, again.losses) and first.backbone.fingerprint == again.backbone.fingerprint


@pytest.mark.parametrize("name", sorted(set(PRETEXTS) - {"simsiam"}))
def test_losses_are_those_of_each_image_alone(name: str, train: ImageSet, learner: alnb.Learner) -> None:
    net = build(learner, PRETEXTS[name], 0)
    losses = draw_losses(PRETEXTS[name], net, train.images, learner.recipe.augment, 0)[0]
    x = train.images.batch(torch.arange(4)).float() / 255
    with torch.no_grad():
        alone = [PRETEXTS[name].loss(net, image[None], image) for image in x]
    torch.testing.assert_close(losses[:4], torch.cat(alone))


def test_pretraining_helps_the_pretext(train: ImageSet, learner: alnb.Learner, tmp_path: Path) -> None:
    learner = replace(learner, recipe=replace(learner.recipe, epochs=40))
    pretrained = pretrain(PRETEXTS["rotation"], train.images, learner, cache=tmp_path)
    assert float(pretrained.losses.mean()) < 0.7 * float(torch.log(torch.tensor(4.0)))


def stop_after(reports: int) -> Callable[..., None]:
    calls: list[int] = []

    def report(step: int, *_: object) -> None:
        calls.append(step)
        if len(calls) == reports:
            raise KeyboardInterrupt

    return report


@pytest.mark.parametrize("name", PRETEXTS)
def test_an_interrupted_pretraining_goes_on(
    name: str, train: ImageSet, test: ImageSet, learner: alnb.Learner, tmp_path: Path, frequent_checkpoints: None
) -> None:
    learner = replace(learner, recipe=replace(learner.recipe, epochs=0.1, min_updates=10, checkpoint_seconds=0.0))
    pretext = replace(PRETEXTS[name], outputs=16, draws=2) if name == "simsiam" else PRETEXTS[name]
    run = partial(pretrain, pretext, train.images, learner, monitor=Monitor(train, test, neighbours=5))
    undisturbed = run(cache=tmp_path / "undisturbed")
    with pytest.raises(KeyboardInterrupt):
        run(cache=tmp_path / "cut", report=stop_after(4))
    steps: list[int] = []
    resumed = run(cache=tmp_path / "cut", report=lambda step, *_: steps.append(step))
    assert steps[0] == 4  # it did not begin anew
    assert torch.equal(resumed.features, undisturbed.features) and torch.equal(resumed.losses, undisturbed.losses)
    assert resumed.history == undisturbed.history and [entry["update"] for entry in resumed.history] == list(range(1, 11))
    assert {"knn", "epoch"} <= set(resumed.history[0]) and ("spread" in resumed.history[0]) == (name == "simsiam")


def test_measuring_changes_nothing(train: ImageSet, test: ImageSet, learner: alnb.Learner, tmp_path: Path) -> None:
    measured = pretrain(PRETEXTS["rotation"], train.images, learner, cache=tmp_path / "a", monitor=Monitor(train, test, neighbours=5))
    plain = pretrain(PRETEXTS["rotation"], train.images, learner, cache=tmp_path / "b")
    assert torch.equal(measured.features, plain.features) and measured.history and not plain.history


def test_damaged_results_are_named(train: ImageSet, learner: alnb.Learner, tmp_path: Path) -> None:
    pretrain(PRETEXTS["rotation"], train.images, learner, cache=tmp_path)
    (result,) = tmp_path.glob("*/result.pt")
    result.write_bytes(result.read_bytes()[:500])
    with pytest.raises(store.Corrupted, match=r"result\.pt is truncated"):
        pretrain(PRETEXTS["rotation"], train.images, learner, cache=tmp_path)


def test_only_squares_can_be_turned(learner: alnb.Learner, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="8x9 pixels"):
        pretrain(PRETEXTS["rotation"], Resident(torch.zeros(4, 3, 8, 9, dtype=torch.uint8)), learner, cache=tmp_path)
    assert not list(tmp_path.iterdir())  # no folder was claimed for it


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("jigsaw", (9, 8), "9x8 pixels cannot be cut into 2x2 tiles"),
        ("jigsaw_gap", (6, 6), "resize them to 8x8"),
        ("colorization", (8, 6), "8x6 pixels are too small for colorization"),
        ("colorization_ab", (4, 4), "resize them to 8x8"),
    ],
)
def test_images_that_do_not_fit_claim_no_folder(
    name: str, size: tuple[int, int], message: str, learner: alnb.Learner, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        pretrain(PRETEXTS[name], Resident(torch.zeros(4, 3, *size, dtype=torch.uint8)), learner, cache=tmp_path)
    assert not list(tmp_path.iterdir())


def test_losses_that_order_nothing_are_refused() -> None:
    check_losses(torch.tensor([0.5, 0.25, 0.5]), "x")
    check_losses(torch.tensor([0.5]), "x")  # a single loss cannot differ
    with pytest.raises(ValueError, match=r"2 of 4 losses of the pretext x.*image 1 \(inf\)"):
        check_losses(torch.tensor([1.0, torch.inf, 0.0, torch.nan]), "the pretext x")
    with pytest.raises(ValueError, match=r"all 3 losses of the pretext x are 0\.25"):
        check_losses(torch.full((3,), 0.25), "the pretext x")


def test_a_pretraining_whose_losses_order_nothing_is_told(train: ImageSet, learner: alnb.Learner, tmp_path: Path) -> None:
    for pretext, message in (
        (Pretext("broken", 2, broken), "1 of 60 losses of the pretext broken.*image 7"),
        (Pretext("same", 2, same), "all 60 losses of the pretext same are 1.0"),
    ):
        for _ in range(2):  # a cached result is checked too
            with pytest.raises(ValueError, match=message):
                pretrain(pretext, train.images, learner, cache=tmp_path)


def broken(net: alnb.nets.Net, x: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    """A loss that is finite in training, and in evaluation finite for all images but image 7."""
    losses = net(x).square().mean(dim=1)
    return losses if net.training else losses.index_fill(0, torch.arange(len(x))[7:8], torch.nan)


def same(net: alnb.nets.Net, x: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    """A loss that does not look at images."""
    return net(x).sum(dim=1) * 0 + 1


def test_simsiam_takes_images_that_are_not_square(learner: alnb.Learner, tmp_path: Path) -> None:
    pretext = replace(PRETEXTS["simsiam"], outputs=8)
    images = Resident(torch.randint(0, 255, (6, 3, 8, 12), dtype=torch.uint8))
    assert pretrain(pretext, images, learner, cache=tmp_path).losses.shape == (6,)


def test_other_settings_begin_anew_and_leave_the_checkpoint_alone(
    train: ImageSet, learner: alnb.Learner, tmp_path: Path, frequent_checkpoints: None
) -> None:
    pretext, learner = PRETEXTS["rotation"], replace(learner, recipe=replace(learner.recipe, checkpoint_seconds=0.0))
    with pytest.raises(KeyboardInterrupt):
        pretrain(pretext, train.images, learner, cache=tmp_path, report=stop_after(3))
    (path,) = tmp_path.glob("*/checkpoint.pt")
    before = path.read_bytes()
    pretrain(pretext, train.images, replace(learner, recipe=replace(learner.recipe, weight_decay=1e-4)), cache=tmp_path)
    assert path.read_bytes() == before
    path.write_bytes(before[:400])
    with pytest.raises(store.Corrupted, match=r"checkpoint\.pt"):
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
    pretrained = pretrain(PRETEXTS["rotation"], train.images, learner, cache=tmp_path)
    frozen = replace(learner, backbone=pretrained.backbone)
    clean = embed(frozen, train.images, cache=tmp_path)
    assert torch.equal(clean.features, pretrained.features) and clean.views is None and clean.shape == (16,)
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


@pytest.mark.parametrize("name", ["rotation", "simsiam", "colorization_ab"])
def test_losses_of_other_images_are_those_of_the_trained_net(name: str, tmp_path: Path) -> None:
    pretext, images, other = PRETEXTS[name], images_of(24).images, images_of(10, seed=1).images
    pretext = replace(pretext, draws=2, outputs=16) if name == "simsiam" else pretext
    learner = alnb.Learner(partial(small, width=4), alnb.Recipe(epochs=1, batch=8, lr=0.01, augment=AUGMENTATIONS["shift"]))
    pretrained = pretrain(pretext, images, learner, cache=tmp_path)
    again = losses_of(pretext, pretrained, learner, images)
    assert again.shape == (pretext.draws or 1, 24) and torch.allclose(again.mean(dim=0), pretrained.losses)
    assert losses_of(pretext, pretrained, learner, other).shape == (pretext.draws or 1, 10)


def test_draws_of_views_are_those_of_their_addresses(learner: alnb.Learner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alnb.train, "CHUNK", 7)
    pretext, images, augment = replace(PRETEXTS["simsiam"], outputs=16, draws=2), images_of(10).images, AUGMENTATIONS["simsiam"]
    net = build(learner, pretext, 3).eval()
    expected = torch.empty(2, 10)
    for draw in range(2):
        for start, end in ((0, 7), (7, 10)):
            x = images.batch(torch.arange(start, end))
            streams = [Stream(3) / "losses" / draw / view / start for view in range(2)]
            first, second = (augment(x, stream.generator())[0] for stream in streams)
            expected[draw, start:end] = pretext.loss(net, torch.cat([first, second]), x).detach()
    losses = draw_losses(pretext, net, images, augment, 3)
    assert torch.equal(losses, expected) and not torch.equal(losses[0], losses[1])
