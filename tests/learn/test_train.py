import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import alnb
from alnb import store
from alnb.data import ImageSet
from alnb.learn import train
from alnb.learn.nets import Backbone, Net, resnet18, small
from alnb.learn.train import NonFiniteLoss, Order, Recipe, evaluate, fit, log_probs, predict

CPU = torch.device("cpu")


def naive_batches(n: int, batch: int, steps: int, order: Order) -> list[list[int]]:
    """All passes written one after the other, cut into batches."""
    passes = [order._shuffle(number) for number in range(steps * batch // n + 2)]
    line = torch.cat(passes).tolist()
    return [line[step * batch : (step + 1) * batch] for step in range(steps)]


@given(st.integers(1, 30), st.integers(1, 30), st.integers(1, 20))
def test_order_cuts_shuffled_passes_into_equal_batches(n: int, batch: int, steps: int) -> None:
    batch = min(batch, n)
    order = Order(n, batch, 0, ("cycle", 1), CPU)
    found = [order(step).tolist() for step in range(steps)]
    assert found == naive_batches(n, batch, steps, order)
    assert sorted(order._shuffle(0).tolist()) == list(range(n))
    alone = Order(n, batch, 0, ("cycle", 1), CPU)
    assert alone(steps - 1).tolist() == found[-1]  # whatever came before


@given(st.integers(1, 500), st.integers(1, 256), st.floats(0.1, 50), st.integers(0, 300))
def test_number_of_updates(n: int, batch: int, epochs: float, floor: int) -> None:
    updates = Recipe(epochs=epochs, batch=batch, min_updates=floor).updates(n)
    assert updates >= floor and updates * min(batch, n) >= epochs * n * (1 - 1e-9)


def test_rates() -> None:
    cosine = Recipe(lr=2.0, schedule="cosine")
    assert [round(cosine.rate(s, 4), 6) for s in range(4)] == [round(1 + math.cos(math.pi * s / 4), 6) for s in range(4)]
    step = Recipe(lr=0.1, schedule="step", milestones=(0.5, 0.75))
    assert [step.rate(s, 4) for s in range(4)] == pytest.approx([0.1, 0.1, 0.01, 0.001])
    warm = Recipe(lr=1.0, schedule="constant", warmup=0.5)
    assert [warm.rate(s, 4) for s in range(4)] == pytest.approx([0.5, 1.0, 1.0, 1.0])


@pytest.mark.parametrize("bad", [{"epochs": 0}, {"batch": 0}, {"lr": -1.0}, {"schedule": "linear"}, {"precision": "int8"}])
def test_a_bad_recipe_is_refused_by_name(bad: dict) -> None:
    with pytest.raises(ValueError, match=f"Recipe.{next(iter(bad))} is "):
        Recipe(**bad)


def naive_fit(net: Net, images: ImageSet, indices: torch.Tensor, labels: torch.Tensor, recipe: Recipe) -> None:
    """The textbook loop, with torch's own optimiser in its plainest form, on the same batches."""
    updates, batch = recipe.updates(len(indices)), min(recipe.batch, len(indices))
    order = Order(len(indices), batch, 0, ("here",), CPU)
    optimiser = torch.optim.SGD(net.parameters(), lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay, foreach=False)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, updates)
    net.train()
    for step in range(updates):
        chosen = order(step)
        x = images.images.batch(indices[chosen]).float() / 255
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(net(x), labels[chosen]).backward()
        optimiser.step()
        scheduler.step()


def test_fit_is_the_textbook_loop(train: ImageSet) -> None:
    recipe, indices = Recipe(epochs=3, batch=8, lr=0.05), torch.arange(0, 40, 2)
    learner = alnb.Learner(small, recipe)
    net, reference = learner.build(3, 0), learner.build(3, 0)
    fit(net, train.images, indices, train.targets[indices], recipe, where=("here",))
    naive_fit(reference, train, indices, train.targets[indices], recipe)
    for (name, found), expected in zip(net.state_dict().items(), reference.state_dict().values(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5, msg=name)


def test_fit_learns(train: ImageSet, test: ImageSet, learner: alnb.Learner) -> None:
    net = learner.build(3, 0)
    before = evaluate(net, test.images, test.targets, 3)["accuracy"]
    fit(net, train.images, torch.arange(60), train.targets, replace(learner.recipe, epochs=30))
    assert evaluate(net, test.images, test.targets, 3)["accuracy"] > max(0.9, before)


class Stop(Exception):
    pass


def stop_after(steps: int) -> train.Report:
    def report(step: int, updates: int, mean: float) -> None:
        if step >= steps:
            raise Stop

    return report


@pytest.mark.parametrize("stop", [1, 5, 17, 59])
def test_fit_continues_bit_for_bit(
    train: ImageSet, learner: alnb.Learner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    monkeypatch.setattr("alnb.learn.train.CHECKPOINT_SHARE", 1e9)
    recipe, everything = replace(learner.recipe, min_updates=60, checkpoint_seconds=0.0), torch.arange(60)
    whole, cut, path = learner.build(3, 0), learner.build(3, 0), tmp_path / "net.pt"
    fit(whole, train.images, everything, train.targets, recipe)
    with pytest.raises(Stop):
        fit(cut, train.images, everything, train.targets, recipe, checkpoint=path, report=stop_after(stop + 1))
    again = learner.build(3, 1)
    steps: list[int] = []
    fit(again, train.images, everything, train.targets, recipe, checkpoint=path, report=lambda step, *_: steps.append(step))
    assert steps[0] == stop + 1  # it did not begin anew
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), again.state_dict().values(), strict=True))
    fit(
        learner.build(3, 2),
        train.images,
        everything,
        train.targets,
        recipe,
        checkpoint=path,
        report=lambda *_: pytest.fail("it was finished"),
    )


def test_a_checkpoint_of_another_training_is_refused(train: ImageSet, learner: alnb.Learner, tmp_path: Path) -> None:
    everything, path = torch.arange(60), tmp_path / "net.pt"
    fit(learner.build(3, 0), train.images, everything, train.targets, learner.recipe, checkpoint=path)
    with pytest.raises(store.Corrupted, match=r"net\.pt belongs to another training"):
        fit(learner.build(3, 0), train.images, everything[:9], train.targets[:9], learner.recipe, checkpoint=path)


def test_a_damaged_checkpoint_is_named(train: ImageSet, learner: alnb.Learner, tmp_path: Path) -> None:
    everything, path = torch.arange(60), tmp_path / "net.pt"
    fit(learner.build(3, 0), train.images, everything, train.targets, learner.recipe, checkpoint=path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(store.Corrupted, match=r"net\.pt is truncated"):
        fit(learner.build(3, 0), train.images, everything, train.targets, learner.recipe, checkpoint=path)


def test_checkpoints_take_a_hundredth_of_the_time_at_most(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    clock = iter([100.0, 100.5])  # before a save and after it
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    net = small(3)
    training = train.Training(net, torch.optim.SGD(net.parameters()), "x", tmp_path / "net.pt", 20.0)
    training.save(finished=False)
    assert training.pause == 50.0


@pytest.mark.parametrize("saved", [True, False])
def test_a_loss_that_is_not_finite_stops_the_run(
    train: ImageSet, learner: alnb.Learner, tmp_path: Path, saved: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alnb.learn.train.CHECKPOINT_SHARE", 1e9)
    recipe = replace(learner.recipe, min_updates=70, checkpoint_seconds=0.0 if saved else 60.0)
    count = iter(range(70))

    def loss(net: Net, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return train_loss(net, x, y) * (math.nan if next(count) == 7 else 1.0)

    train_loss = alnb.train.cross_entropy
    with pytest.raises(NonFiniteLoss) as caught:
        fit(
            learner.build(3, 0),
            train.images,
            torch.arange(60),
            train.targets,
            recipe,
            loss=loss,
            where=("cycle", 4),
            checkpoint=tmp_path / "net.pt",
        )
    message = str(caught.value)
    assert "the loss is nan at cycle 4, update 7" in message
    assert ("net.pt, update 7" if saved else "there is no checkpoint before it") in message
    assert not saved or all(torch.isfinite(v).all() for v in store.read_tensors(tmp_path / "net.pt")["net"].values())


def test_nothing_to_train_on(train: ImageSet, learner: alnb.Learner) -> None:
    with pytest.raises(ValueError, match="there are no labelled images"):
        fit(learner.build(3, 0), train.images, torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int64), learner.recipe)


# ---- reading -------------------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(0, 59), max_size=40), st.integers(1, 45))
def test_predict_is_the_same_for_any_chunk(indices: list[int], chunk: int) -> None:
    from conftest import images_of

    images, net = images_of(60).images, small(3, width=4).eval()
    chosen = torch.tensor(indices, dtype=torch.int64)
    found = predict(net.features, images, chosen, chunk=chunk)
    expected = [net.features(images.batch(torch.tensor([i])).float() / 255)[0] for i in indices]
    assert found.shape == (len(indices), 16)
    if indices:
        torch.testing.assert_close(found, torch.stack(expected), rtol=1e-4, atol=1e-6)


def test_evaluate_against_scikit_learn(test: ImageSet, learner: alnb.Learner) -> None:
    from sklearn.metrics import accuracy_score, log_loss

    net = learner.build(4, 0)
    found = evaluate(net, test.images, test.targets, 4)
    probabilities = predict(log_probs(net.eval()), test.images).exp().double()
    assert found["accuracy"] == pytest.approx(accuracy_score(test.targets, probabilities.argmax(1)))
    assert found["negative_log_likelihood"] == pytest.approx(
        log_loss(test.targets, probabilities / probabilities.sum(1, keepdim=True), labels=range(4)), rel=1e-4
    )
    assert isinstance(found["per_class"], list) and found["per_class"][3] is None  # no such image among the test images


# ---- learner -------------------------------------------------------------------------------------------------------------------


def test_build_is_a_function_of_its_place() -> None:
    learner = alnb.Learner(small, Recipe(), mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 3.0))
    one, same, other = learner.build(3, 0, 5), learner.build(3, 0, 5), learner.build(3, 0, 6)
    assert torch.equal(one.head.weight, same.head.weight) and not torch.equal(one.head.weight, other.head.weight)
    assert one.mean.tolist() == pytest.approx([0.1, 0.2, 0.3])


def test_a_backbone_is_where_the_trunk_starts(learner: alnb.Learner) -> None:
    source = learner.build(4, 7)
    started = replace(learner, backbone=Backbone("abc", source.trunk.state_dict())).build(3, 0)
    assert all(torch.equal(a, b) for a, b in zip(source.trunk.state_dict().values(), started.trunk.state_dict().values(), strict=True))
    with pytest.raises(ValueError, match="the backbone abc does not fit"):
        replace(learner, net=small, backbone=Backbone("abc", source.trunk.state_dict())).build(3, 0)


@pytest.mark.gpu
def test_fit_on_cuda_in_bfloat16(train: ImageSet, test: ImageSet) -> None:
    images = train.images.to("cuda")
    learner = alnb.Learner(resnet18, Recipe(epochs=20, batch=32, lr=0.05))
    net = learner.build(3, 0, device="cuda")
    fit(net, images, torch.arange(60), train.targets, learner.recipe)
    assert evaluate(net, test.images.to("cuda"), test.targets, 3)["accuracy"] > 0.9


@pytest.mark.gpu
@pytest.mark.parametrize("compiled", [False, True])
def test_cuda_and_cpu_agree_in_float32(train: ImageSet, compiled: bool) -> None:
    recipe = Recipe(epochs=2, batch=16, lr=0.01, precision="float32", compile=compiled)
    learner = alnb.Learner(small, recipe)
    here, there = learner.build(3, 0), learner.build(3, 0, device="cuda")
    fit(here, train.images, torch.arange(60), train.targets, replace(recipe, compile=False))
    fit(there, train.images.to("cuda"), torch.arange(60), train.targets, recipe)
    for a, b in zip(here.parameters(), there.parameters(), strict=True):
        torch.testing.assert_close(a, b.cpu(), rtol=1e-2, atol=1e-3)


@pytest.mark.gpu
def test_the_step_loop_does_not_wait_for_the_device(train: ImageSet) -> None:
    recipe = Recipe(epochs=1, min_updates=train_updates(), batch=16, lr=0.01, augment=alnb.augment.AUGMENTATIONS["simsiam"])
    net, images = alnb.Learner(small, recipe).build(3, 0, device="cuda"), train.images.to("cuda")
    fit(net, images, torch.arange(60), train.targets, recipe)  # warm
    torch.cuda.set_sync_debug_mode("error")
    try:
        order = Order(60, 16, 0, (), torch.device("cuda"))
        update = train_module_update(net, recipe)
        for step in range(4):
            chosen = order(step)
            x = train._views(images, chosen, recipe, alnb.rng.generator(0, step, device="cuda"))
            update(x, torch.zeros(16, dtype=torch.int64, device="cuda"), 0.1)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def train_updates() -> int:
    return train.REPORT_UPDATES


def train_module_update(net: Net, recipe: Recipe) -> object:
    optimiser = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, fused=True)
    return train._update(train.Training(net, optimiser, "x", None, 60.0), recipe, train.cross_entropy)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_another_loss_takes_over_and_a_resume_knows_it(share: float, train: ImageSet, learner: alnb.Learner, tmp_path: Path) -> None:
    calls: list[str] = []

    def named(name: str) -> alnb.train.Loss:
        def loss(net: Net, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            calls.append(name)
            return alnb.train.cross_entropy(net, x, y)

        return loss

    indices, updates = torch.arange(20), learner.recipe.updates(20)
    later = alnb.train.Later(share, named("second"))
    net = learner.build(3, 0)
    fit(net, train.images, indices, train.targets[indices], learner.recipe, loss=named("first"), later=later)
    first = math.ceil(share * updates)
    assert calls == ["first"] * first + ["second"] * (updates - first)
    plain = learner.build(3, 0)
    fit(plain, train.images, indices, train.targets[indices], learner.recipe)
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), plain.state_dict().values(), strict=True))
    for bad in (0, 1, -0.5):
        with pytest.raises(ValueError, match=f"Later.share is {bad}: it must be in"):
            alnb.train.Later(bad, named("x"))


def test_a_net_stuck_in_evaluation_mode_never_learns_its_statistics(train: ImageSet, learner: alnb.Learner) -> None:
    indices = torch.arange(20)
    for stuck in (True, False):
        net, recipe = learner.build(3, 0), replace(learner.recipe, stuck_in_eval=stuck)
        before = {name: value.clone() for name, value in net.state_dict().items()}
        watch = alnb.train.Watch(3, lambda net, step: None)
        fit(net, train.images, indices, train.targets[indices], recipe, watch=watch)
        moved = {name for name, value in net.state_dict().items() if not torch.equal(value, before[name])}
        assert any("running_mean" in name for name in moved) is not stuck and "head.weight" in moved
