"""Training: the order of images, the textbook loop, resuming, a loss that fails; reading a net; building one."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import images_of, never_waiting
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from alnb import store
from alnb.data import ImageSet
from alnb.learn import checkpoint
from alnb.learn import train as training
from alnb.learn.augment import AUGMENTATIONS
from alnb.learn.checkpoint import NonFiniteLoss
from alnb.learn.nets import Backbone, Net, resnet18, small
from alnb.learn.train import Learner, Loss, LossSwitch, Order, Recipe, TrainingHook, cross_entropy, evaluate, fit, log_probs, predict
from alnb.store import Stream

CPU = torch.device("cpu")
STREAM = Stream(0) / "cycle" / 4


def fit_all(net: Net, train: ImageSet, learner: Learner, n: int = 60, **options: object) -> None:
    """`fit` on the first `n` images."""
    fit(net, train.images, torch.arange(n), train.targets[:n], learner, STREAM, **options)  # type: ignore[arg-type]


def with_recipe(learner: Learner, **changes: object) -> Learner:
    return replace(learner, recipe=replace(learner.recipe, **changes))


def same_weights(first: Net, second: Net) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True))


@pytest.fixture
def frequent_checkpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints may take all the time there is."""
    monkeypatch.setattr(checkpoint, "CHECKPOINT_SHARE", 1e9)


# ---- recipe and order ----------------------------------------------------------------------------------------------------------


def naive_batches(n: int, batch: int, steps: int) -> list[list[int]]:
    """All passes written one after the other, cut into batches."""
    generators = [(STREAM / "order" / number).generator() for number in range(steps * batch // n + 2)]
    line = torch.cat([torch.randperm(n, generator=generator) for generator in generators]).tolist()
    return [line[step * batch : (step + 1) * batch] for step in range(steps)]


@given(st.integers(1, 30), st.integers(1, 30), st.integers(1, 20))
def test_order_cuts_shuffled_passes_into_equal_batches(n: int, batch: int, steps: int) -> None:
    batch = min(batch, n)
    order = Order(n, batch, STREAM, CPU)
    batches = [order(step).tolist() for step in range(steps)]
    assert batches == naive_batches(n, batch, steps)
    assert Order(n, batch, STREAM, CPU)(steps - 1).tolist() == batches[-1]  # whatever came before


@given(st.integers(1, 500), st.integers(1, 256), st.floats(0.1, 50), st.integers(0, 300))
def test_number_of_updates(n: int, batch: int, epochs: float, floor: int) -> None:
    updates = Recipe(epochs=epochs, batch=batch, min_updates=floor).updates(n)
    assert updates >= floor and updates * min(batch, n) >= epochs * n * (1 - 1e-9)


def test_rates() -> None:
    cosine = Recipe(lr=2.0, schedule="cosine")
    assert [round(cosine.rate(s, 4), 6) for s in range(4)] == [round(1 + math.cos(math.pi * s / 4), 6) for s in range(4)]
    step = Recipe(lr=0.1, schedule="step", milestones=(0.5, 0.75))
    assert [step.rate(s, 4) for s in range(4)] == pytest.approx([0.1, 0.1, 0.01, 0.001])
    constant = Recipe(lr=0.1, schedule="constant")
    assert [constant.rate(s, 4) for s in range(4)] == [0.1] * 4


@pytest.mark.parametrize("bad", [{"epochs": 0}, {"batch": 0}, {"lr": -1.0}, {"schedule": "linear"}, {"precision": "int8"}])
def test_a_bad_recipe_is_refused_by_name(bad: dict) -> None:
    ((name, value),) = bad.items()
    with pytest.raises(ValueError, match=f"Recipe.{name} is {value!r}"):
        Recipe(**bad)


# ---- fit -----------------------------------------------------------------------------------------------------------------------


def naive_fit(net: Net, images: ImageSet, indices: Tensor, labels: Tensor, recipe: Recipe) -> None:
    """The textbook loop, with torch's own optimiser in its plainest form, on the same batches."""
    updates, batch = recipe.updates(len(indices)), min(recipe.batch, len(indices))
    optimiser = torch.optim.SGD(net.parameters(), lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay, foreach=False)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, updates)
    net.train()
    for chosen in naive_batches(len(indices), batch, updates):
        x = images.images.batch(indices[chosen]).float() / 255
        optimiser.zero_grad()
        functional.cross_entropy(net(x), labels[chosen]).backward()
        optimiser.step()
        scheduler.step()


def test_fit_is_the_textbook_loop(train: ImageSet) -> None:
    indices = torch.arange(0, 40, 2)
    learner = Learner(small, Recipe(epochs=3, batch=8, lr=0.05))
    net, reference = learner.build(3, STREAM), learner.build(3, STREAM)
    fit(net, train.images, indices, train.targets[indices], learner, STREAM)
    naive_fit(reference, train, indices, train.targets[indices], learner.recipe)
    for (name, value), expected in zip(net.state_dict().items(), reference.state_dict().values(), strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-5, msg=name)


def test_fit_learns(train: ImageSet, test: ImageSet, learner: Learner) -> None:
    net = learner.build(3, STREAM)
    before = evaluate(net, test.images, test.targets, 3)["accuracy"]
    fit_all(net, train, with_recipe(learner, epochs=30))
    assert evaluate(net, test.images, test.targets, 3)["accuracy"] > max(0.9, before)
    assert not net.training


def test_views_of_an_update_are_drawn_from_its_address(train: ImageSet, learner: Learner) -> None:
    learner = with_recipe(learner, views=2, augment=AUGMENTATIONS["simsiam"])
    trained = training._Training(learner.build(3, STREAM), train.images, torch.arange(60), train.targets, learner, STREAM, None)
    trained.state.step, indices = 7, torch.tensor([5, 0, 33])
    generator = (STREAM / "augment" / 7).generator()
    x = train.images.batch(indices)
    expected = [learner.recipe.augment(x, generator)[0] for _ in range(2)]
    assert torch.equal(trained.views(indices), torch.cat(expected))


class Stop(Exception):
    pass


def stop_after(steps: int) -> TrainingHook:
    def report(step: int, updates: int, mean: float) -> None:
        if step >= steps:
            raise Stop

    return TrainingHook(report)


@pytest.mark.parametrize("stop", [1, 9, 23])
def test_fit_continues_bit_for_bit(train: ImageSet, learner: Learner, tmp_path: Path, frequent_checkpoints: None, stop: int) -> None:
    learner, path = with_recipe(learner, min_updates=24, checkpoint_seconds=0.0), tmp_path / "net.pt"
    undisturbed = learner.build(3, STREAM)
    fit_all(undisturbed, train, learner)
    with pytest.raises(Stop):
        fit_all(learner.build(3, STREAM), train, learner, checkpoint=path, hook=stop_after(stop + 1))
    again, steps = learner.build(3, Stream(1)), []
    fit_all(again, train, learner, checkpoint=path, hook=TrainingHook(lambda step, *_: steps.append(step)))
    assert steps[0] == stop + 1  # it did not begin anew
    assert same_weights(undisturbed, again)
    finished = learner.build(3, Stream(2))
    fit_all(finished, train, learner, checkpoint=path, hook=TrainingHook(lambda *_: pytest.fail("it was finished")))
    assert same_weights(undisturbed, finished)


def test_a_checkpoint_of_another_training_is_refused(train: ImageSet, learner: Learner, tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    fit_all(learner.build(3, STREAM), train, learner, checkpoint=path)
    for other in ({"n": 9}, {"learner": with_recipe(learner, lr=0.06)}, {"learner": replace(learner, loss=cross_entropy)}):
        with pytest.raises(store.Corrupted, match=r"net\.pt"):
            fit_all(learner.build(3, STREAM), train, **{"learner": learner, "checkpoint": path, **other})  # type: ignore[arg-type]
    with pytest.raises(store.Corrupted, match=r"net\.pt"):
        fit(learner.build(3, STREAM), train.images, torch.arange(60), train.targets, learner, Stream(1), checkpoint=path)


@pytest.mark.parametrize("saved", [True, False])
def test_a_loss_that_is_not_finite_stops_the_run(
    train: ImageSet, learner: Learner, tmp_path: Path, frequent_checkpoints: None, saved: bool
) -> None:
    calls: list[int] = []

    def loss(net: Net, x: Tensor, y: Tensor) -> Tensor:
        calls.append(len(calls))
        return cross_entropy(net, x, y) * (math.nan if calls[-1] == 7 else 1.0)

    learner = with_recipe(replace(learner, loss=loss), min_updates=70, checkpoint_seconds=0.0 if saved else 60.0)
    with pytest.raises(NonFiniteLoss, match=r"cycle 4: the loss is nan at update 7") as caught:
        fit_all(learner.build(3, STREAM), train, learner, checkpoint=tmp_path / "net.pt")
    assert ("net.pt, update 7" if saved else "no checkpoint") in str(caught.value)
    assert not saved or all(torch.isfinite(v).all() for v in store.read_tensors(tmp_path / "net.pt")["net"].values())


def test_nothing_to_train_on(train: ImageSet, learner: Learner) -> None:
    with pytest.raises(ValueError, match="cycle 4: there are no labelled images"):
        fit_all(learner.build(3, STREAM), train, learner, n=0)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_another_loss_takes_over(share: float, train: ImageSet, learner: Learner) -> None:
    calls: list[str] = []

    def named(name: str) -> Loss:
        def loss(net: Net, x: Tensor, y: Tensor) -> Tensor:
            calls.append(name)
            return cross_entropy(net, x, y)

        return loss

    switching, updates = replace(learner, loss=named("first"), switch=LossSwitch(share, named("second"))), learner.recipe.updates(20)
    net, plain = learner.build(3, STREAM), learner.build(3, STREAM)
    fit_all(net, train, switching, n=20)
    first = math.ceil(share * updates)
    assert calls == ["first"] * first + ["second"] * (updates - first)
    fit_all(plain, train, learner, n=20)
    assert same_weights(net, plain)


@pytest.mark.parametrize("share", [0, 1, -0.5])
def test_a_bad_share_is_named(share: float) -> None:
    with pytest.raises(ValueError, match=f"LossSwitch.share is {share}"):
        LossSwitch(share, cross_entropy)


@pytest.mark.parametrize("stuck", [True, False])
def test_a_net_stuck_in_evaluation_mode_never_learns_its_statistics(stuck: bool, train: ImageSet, learner: Learner) -> None:
    net = learner.build(3, STREAM)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    fit_all(net, train, with_recipe(learner, stuck_in_eval=stuck), hook=TrainingHook(looks=((lambda net, step: None, 3),)))
    moved = {name for name, value in net.state_dict().items() if not torch.equal(value, before[name])}
    assert any("running_mean" in name for name in moved) is not stuck and "head.weight" in moved


def test_a_hook_looks_at_a_net_in_evaluation_mode_and_changes_nothing(train: ImageSet, learner: Learner) -> None:
    steps: list[int] = []
    others: list[int] = []

    def look(net: Net, step: int) -> None:
        assert not net.training and not torch.is_grad_enabled()
        steps.append(step)

    net, plain = learner.build(3, STREAM), learner.build(3, STREAM)
    fit_all(
        net, train, with_recipe(learner, min_updates=20), hook=TrainingHook(looks=((look, 6), (lambda net, step: others.append(step), 7)))
    )
    fit_all(plain, train, with_recipe(learner, min_updates=20))
    assert steps == [6, 12, 18, 20] and others == [7, 14, 20] and same_weights(net, plain)


# ---- reading -------------------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(0, 59), max_size=40), st.integers(1, 45))
def test_predict_is_the_same_for_any_chunk(indices: list[int], chunk: int) -> None:
    images, net = images_of(60).images, small(3, width=4).eval()
    features = predict(net.features, images, torch.tensor(indices, dtype=torch.int64), chunk=chunk)
    expected = [net.features(images.batch(torch.tensor([i])).float() / 255)[0] for i in indices]
    assert features.shape == (len(indices), 16)
    if indices:
        torch.testing.assert_close(features, torch.stack(expected), rtol=1e-4, atol=1e-6)


def test_evaluate_against_scikit_learn(test: ImageSet, learner: Learner) -> None:
    from sklearn.metrics import accuracy_score, log_loss

    net = learner.build(4, STREAM)
    metrics = evaluate(net, test.images, test.targets, 4)
    probabilities = predict(log_probs(net.eval()), test.images).exp().double()
    assert metrics["accuracy"] == pytest.approx(accuracy_score(test.targets, probabilities.argmax(1)))
    assert metrics["negative_log_likelihood"] == pytest.approx(
        log_loss(test.targets, probabilities / probabilities.sum(1, keepdim=True), labels=range(4)), rel=1e-4
    )
    assert isinstance(metrics["per_class"], list) and metrics["per_class"][3] is None  # no such image among the test images


# ---- learner -------------------------------------------------------------------------------------------------------------------


def test_build_is_a_function_of_its_address() -> None:
    learner = Learner(small, Recipe(), mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 3.0))
    first, again, other = (learner.build(3, Stream(0) / place) for place in (5, 5, 6))
    assert same_weights(first, again) and not torch.equal(first.head.weight, other.head.weight)
    assert first.mean.tolist() == pytest.approx([0.1, 0.2, 0.3])


def test_a_backbone_is_where_the_trunk_starts(learner: Learner) -> None:
    backbone = Backbone("abc", learner.build(4, Stream(7)).trunk.state_dict())
    started = replace(learner, backbone=backbone).build(3, STREAM)
    assert all(torch.equal(value, started.trunk.state_dict()[name]) for name, value in backbone.state.items())
    with pytest.raises(ValueError, match="the backbone abc does not fit"):
        replace(learner, net=small, backbone=backbone).build(3, STREAM)


# ---- on a GPU ------------------------------------------------------------------------------------------------------------------


@pytest.mark.gpu
def test_fit_on_cuda_in_bfloat16(train: ImageSet, test: ImageSet) -> None:
    learner = Learner(resnet18, Recipe(epochs=20, batch=32, lr=0.05))
    net = learner.build(3, STREAM, "cuda")
    fit_all(net, replace(train, images=train.images.to("cuda")), learner)  # type: ignore[attr-defined]
    assert evaluate(net, test.images.to("cuda"), test.targets, 3)["accuracy"] > 0.9  # type: ignore[attr-defined]


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores")  # torch.compile advises them
@pytest.mark.parametrize("compiled", [False, True])
def test_cuda_and_cpu_agree_in_float32(train: ImageSet, compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn.conv, "fp32_precision", "ieee")  # convolutions round to ten bits otherwise
    learner = Learner(small, Recipe(epochs=2, batch=16, lr=0.01, precision="float32"))
    here, there = learner.build(3, STREAM), learner.build(3, STREAM, "cuda")
    fit_all(here, train, learner)
    fit_all(there, replace(train, images=train.images.to("cuda")), with_recipe(learner, compile=compiled))  # type: ignore[attr-defined]
    for a, b in zip(here.parameters(), there.parameters(), strict=True):
        torch.testing.assert_close(a, b.cpu(), rtol=1e-2, atol=1e-3)


@pytest.mark.gpu
def test_the_step_loop_does_not_wait_for_the_device(train: ImageSet) -> None:
    learner = Learner(small, Recipe(epochs=1, batch=16, lr=0.01, augment=AUGMENTATIONS["simsiam"]))
    net, images, device = learner.build(3, STREAM, "cuda"), train.images.to("cuda"), torch.device("cuda")  # type: ignore[attr-defined]
    everything, labels = torch.arange(60, device=device), train.targets.to(device)
    fit(net, images, everything, labels, learner, STREAM)  # constants are copied the first time
    trained = training._Training(net, images, everything, labels, learner, STREAM, None)
    with never_waiting():
        for _ in range(4):
            trained.update()
            trained.state.step += 1
