"""Learning Loss: its net and losses against naive loops, what its module does to the net, and the loop with it."""

import functools
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import queries
import torch
from conftest import images_of, never_waiting
from hypothesis import given
from hypothesis import strategies as st
from queries import query_of, with_module
from torch import Tensor, nn

import alnb
from alnb import store
from alnb.acquire import random
from alnb.acquire.query import Pool
from alnb.data import ImageSet
from alnb.learn.nets import NETS, Net, linear, resnet10, resnet18, small
from alnb.learn.train import Learner, LossSwitch, Recipe, cross_entropy, fit, predict
from alnb.loop.cycles import cycles
from alnb.loop.experiment import Cycle, Experiment, Protocol
from alnb.loop.oracle import simulated
from alnb.papers.methods import learning_loss
from alnb.papers.methods.learning_loss import LossNet, check, hinge_pairs, loss_net, ranking_pairs, total_loss
from alnb.store import Stream

TINY = functools.partial(small, width=4)
RECIPE = Recipe(epochs=1, min_updates=12, batch=8, lr=0.05)
BASE = Learner(TINY, RECIPE)


def batch_of(n: int = 8, seed: int = 0) -> tuple[Tensor, Tensor]:
    images = images_of(n, seed=seed)
    return images.images.batch(torch.arange(n)).float() / 255, images.targets


# ---- the net -------------------------------------------------------------------------------------------------------------------


def test_parameter_count_is_that_of_the_fact_sheet() -> None:
    net = learning_loss.learner(Learner(resnet18, Recipe())).net(10)
    assert isinstance(net, LossNet)
    assert sum(p.numel() for p in net.module.parameters()) == 123_905
    assert sum(p.numel() for p in net.parameters()) == 11_173_962 + 123_905


@pytest.mark.parametrize("make", [TINY, functools.partial(resnet10, width=4, stride=2)], ids=["small", "resnet10"])
@pytest.mark.parametrize("size", [8, 32, 33])
def test_prediction_against_layers_one_by_one(make: Callable[[int], Net], size: int) -> None:
    net = loss_net(5, net=make, hidden=6).eval()
    x = torch.rand(3, 3, size, size)
    hidden = []
    for part, layer in zip(net.maps(x), net.module.stages, strict=True):
        assert isinstance(layer, nn.Linear) and (layer.in_features, layer.out_features) == (part.shape[1], 6)
        pooled = torch.stack([torch.stack([channel.sum() / channel.numel() for channel in image]) for image in part])
        hidden.append((pooled @ layer.weight.T + layer.bias).clamp(min=0))
    expected = torch.cat(hidden, dim=1) @ net.module.last.weight[0] + net.module.last.bias
    torch.testing.assert_close(net.predicted_loss(x), expected)
    logits, predicted = net.both(x)
    assert torch.equal(logits, net(x)) and torch.equal(predicted, net.predicted_loss(x)) and predicted.shape == (3,)


@pytest.mark.parametrize("name", list(NETS))
def test_as_a_classifier_it_is_the_plain_net(name: str) -> None:
    make = functools.partial(NETS[name], **({} if name.startswith("resnet18") else {"width": 4}))
    base = Learner(make, RECIPE, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.2))
    plain, net = (made.build(10, Stream(3)) for made in (base, learning_loss.learner(base)))
    assert net.training and plain.training
    state = net.state_dict()
    assert all(torch.equal(state[key], value) for key, value in plain.state_dict().items())
    assert {key.split(".")[0] for key in set(state) - set(plain.state_dict())} == {"module"}
    x = torch.rand(4, 3, 16, 16)
    assert torch.equal(net.eval()(x), plain.eval()(x)) and torch.equal(net.features(x), plain.features(x))


def test_a_backbone_fits_it() -> None:
    trunk = {key: value + 1 for key, value in TINY(3).trunk.state_dict().items()}
    base = replace(BASE, backbone=alnb.nets.Backbone("0123456789abcdef", trunk))
    net = learning_loss.learner(base).build(3, Stream())
    assert all(torch.equal(value, trunk[key]) for key, value in net.trunk.state_dict().items())


def test_wrapping_a_trained_net_leaves_it_as_it_is() -> None:
    plain = TINY(3).eval()
    before = {key: value.clone() for key, value in plain.state_dict().items()}
    LossNet(plain)
    assert not plain.training and all(torch.equal(before[key], value) for key, value in plain.state_dict().items())


def test_a_net_that_has_no_stages_or_is_another_one() -> None:
    with pytest.raises(ValueError, match=r"a Net with 0 stages"):
        loss_net(3, net=functools.partial(linear, width=8))
    with pytest.raises(ValueError, match="a LossNet with 3 stages"):
        loss_net(3, net=functools.partial(loss_net, net=TINY))


# ---- the losses ----------------------------------------------------------------------------------------------------------------

values = st.sampled_from([-2.0, -0.5, 0.0, 0.25, 1.0, 3.0])  # few values, so many ties
batches = st.integers(1, 5).flatmap(lambda half: st.tuples(*[st.lists(values, min_size=2 * half, max_size=2 * half)] * 2))


@given(batches, st.sampled_from([0.0, 0.5, 1.0]))
def test_hinge_against_a_loop(batch: tuple[list[float], list[float]], margin: float) -> None:
    predicted, losses = batch
    expected = []
    for i in range(len(losses) // 2):
        for j in range(len(losses)):
            if i + j == len(losses) - 1:
                sign = 1 if losses[i] > losses[j] else -1
                expected.append(max(0.0, margin - sign * (predicted[i] - predicted[j])))
    assert hinge_pairs(torch.tensor(predicted), torch.tensor(losses), margin).tolist() == pytest.approx(expected)


@given(batches)
def test_ranking_against_a_loop(batch: tuple[list[float], list[float]]) -> None:
    predicted, losses = batch
    expected = []
    for i in range(len(losses) // 2):
        for j in range(len(losses)):
            if i + j == len(losses) - 1:
                first = 1 / (1 + math.exp(predicted[j] - predicted[i]))
                expected.append(-math.log(first if losses[i] > losses[j] else 1 - first))
    assert ranking_pairs(torch.tensor(predicted), torch.tensor(losses)).tolist() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("pairs", [hinge_pairs, ranking_pairs])
def test_the_right_order_costs_less_and_true_losses_get_no_gradient(pairs: learning_loss.Pairs) -> None:
    losses = torch.tensor([3.0, 0.1, 0.5, 0.2], requires_grad=True)
    right = torch.tensor([4.0, -4.0, 4.0, -4.0], requires_grad=True)
    cost = pairs(right, losses).sum()
    cost.backward()
    assert float(cost.detach()) < 0.01 < 10 < float(pairs(-right.detach(), losses).sum())
    assert losses.grad is None and right.grad is not None


@pytest.mark.parametrize("pairs", [hinge_pairs, ranking_pairs])
def test_halves_are_computed_in_float32(pairs: learning_loss.Pairs) -> None:
    predicted, losses = torch.randn(6).bfloat16(), torch.rand(6).bfloat16()
    assert torch.equal(pairs(predicted, losses), pairs(predicted.float(), losses.float()))
    net, (x, y) = loss_net(3, net=TINY), batch_of()
    with torch.autocast("cpu", torch.bfloat16):
        logits, predicted = net.both(x)
        loss = total_loss(net, x, y, weight=1.0, pairs=pairs, detached=False)
    assert (logits.dtype, predicted.dtype, loss.dtype) == (torch.bfloat16, torch.float32, torch.float32)


@pytest.mark.parametrize("ranking", [False, True])
def test_total_loss_has_the_mean_of_both_parts(ranking: bool) -> None:
    net, (x, y) = loss_net(3, net=TINY), batch_of()
    made = learning_loss.learner(BASE, weight=0.3, margin=0.7, ranking=ranking)
    loss = made.loss(net.eval(), x, y)
    with torch.no_grad():
        losses = [-float(row.log_softmax(0)[label]) for row, label in zip(net(x), y, strict=True)]
        predicted = net.predicted_loss(x).tolist()
    each = []
    for i in range(4):
        gap, right = predicted[i] - predicted[7 - i], losses[i] > losses[7 - i]
        hinge = max(0.0, 0.7 - (gap if right else -gap))
        each.append(math.log(1 + math.exp(-gap if right else gap)) if ranking else hinge)
    assert loss.shape == (8,)
    assert float(loss.detach().mean()) == pytest.approx(sum(losses) / 8 + 0.3 * sum(each) / 4, rel=1e-5)
    assert loss.tolist() == pytest.approx([losses[i] + 0.3 * each[min(i, 7 - i)] for i in range(8)], rel=1e-5)


def gradients(net: Net, loss: alnb.train.Loss) -> dict[str, Tensor]:
    x, y = batch_of()
    net.zero_grad()
    loss(net, x, y).mean().backward()
    return {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("ranking", [False, True])
def test_gradient_of_the_module_reaches_the_trunk_only_before_it_is_cut_off(ranking: bool) -> None:
    made = learning_loss.learner(BASE, ranking=ranking)
    assert made.switch is not None
    net = made.build(3, Stream())
    plain, joined, cut = (gradients(net, loss) for loss in (cross_entropy, made.loss, made.switch.loss))
    inner = [name for name in plain if not name.startswith("module.")]
    assert any(name.startswith("trunk.0") for name in inner) and not any(name.startswith("module.") for name in plain)
    for name in inner:
        assert torch.equal(cut[name], plain[name])
        assert name.startswith("head.") == torch.equal(joined[name], plain[name])  # the head is above what the module sees
    learned = [name for name in cut if name.startswith("module.")]
    assert len(learned) == 8 and all(torch.equal(cut[name], joined[name]) for name in learned)
    assert [name for name in learned if not cut[name].any()] == ["module.last.bias"]  # differences of predictions do not depend on it


# ---- training ------------------------------------------------------------------------------------------------------------------


def trained(made: Learner, images: ImageSet) -> Net:
    net, rows = made.build(3, Stream()), torch.arange(40)
    fit(net, images.images, rows, images.targets[rows], made, Stream())
    return net


@pytest.mark.parametrize(
    ("make", "ranking"), [(TINY, False), (functools.partial(resnet10, width=4, stride=2), True)], ids=["small", "resnet10"]
)
def test_detached_from_the_start_it_changes_no_bit_of_the_net(make: Callable[[int], Net], ranking: bool, train: ImageSet) -> None:
    base = Learner(make, replace(RECIPE, augment=alnb.augment.AUGMENTATIONS["shift"]))
    plain, net = trained(base, train), trained(learning_loss.learner(base, detach=0, ranking=ranking), train)
    state = net.state_dict()
    assert all(torch.equal(state[key], value) for key, value in plain.state_dict().items())
    joined = trained(learning_loss.learner(base, ranking=ranking), train).state_dict()
    assert not any(torch.equal(joined[key], state[key]) for key in plain.state_dict() if key.endswith("weight"))


@pytest.mark.parametrize(("detach", "changes"), [(0.5, 6), (121 / 200, 8), (0.3, 4)])
def test_it_is_cut_off_at_its_update(detach: float, changes: int, train: ImageSet) -> None:
    made = learning_loss.learner(BASE, detach=detach)
    seen = []

    def spy(net: Net, x: Tensor, y: Tensor, *, inner: functools.partial) -> Tensor:
        seen.append(inner.keywords["detached"])
        return inner(net, x, y)

    first, rest = (functools.partial(spy, inner=loss) for loss in (made.loss, made.switch.loss))
    trained(replace(made, loss=first, switch=LossSwitch(made.switch.share, rest)), train)
    assert seen == [False] * changes + [True] * (12 - changes)  # of 12 updates; the switch is the first update after the share


def test_never_and_always_cut_off() -> None:
    never, always = learning_loss.learner(BASE, detach=1), learning_loss.learner(BASE, detach=0)
    assert never.switch is None and not never.loss.keywords["detached"]
    assert always.switch is None and always.loss.keywords["detached"]
    assert 200 * learning_loss.DETACH == 121  # epochs 0 to 120 of 200


@pytest.mark.slow
def test_the_module_learns_which_losses_are_large() -> None:
    """Images of the first class have a random label, so their losses stay large; on all others the net is soon right."""
    images = images_of(120)
    rows = torch.arange(120)
    wild = images.targets == 0
    noisy = torch.where(wild, torch.randint(3, (120,), generator=(Stream(0) / "noise").generator()), images.targets)
    for ranking in (False, True):
        made = learning_loss.learner(replace(BASE, recipe=replace(RECIPE, min_updates=150)), detach=0, ranking=ranking)
        net = made.build(3, Stream())
        fit(net, images.images, rows, noisy, made, Stream())
        predicted = predict(net.predicted_loss, images_of(60, seed=5).images)
        larger = predicted[0::3][:, None] > torch.cat([predicted[1::3], predicted[2::3]])[None]
        assert float(larger.float().mean()) > 0.9  # of all pairs of a wild and another image; 0.5 would be chance


@pytest.mark.parametrize("n", [1, 3, 7, 41])
def test_an_odd_batch_is_an_error_that_says_what_to_do(n: int, train: ImageSet) -> None:
    made = learning_loss.learner(replace(BASE, recipe=replace(RECIPE, batch=64)))
    net, rows = made.build(3, Stream()), torch.arange(n)
    remedy = f"even number up to {n - 1}" if n > 1 else "more labels"
    with pytest.raises(ValueError, match=f"a batch of {n} images .*{remedy}"):
        fit(net, train.images, rows, train.targets[rows], made, Stream())


@given(st.integers(1, 40), st.lists(st.integers(1, 60), min_size=1, max_size=4))
def test_check_finds_what_a_training_would(batch: int, sizes: list[int]) -> None:
    recipe, odd = Recipe(batch=batch), []
    for n in sizes:
        try:
            hinge_pairs(torch.zeros(min(batch, n)), torch.zeros(min(batch, n)))
        except ValueError:
            odd.append(n)
    if odd:
        with pytest.raises(ValueError, match=rf"Recipe\.batch is {batch}: with {odd[0]} labelled images a batch of \d+ "):
            check(recipe, sizes)
    else:
        check(recipe, sizes)


def test_check_passes_the_sizes_of_the_papers() -> None:
    check(Recipe(), range(1000, 10_001, 1000))
    with pytest.raises(ValueError, match=r"Recipe\.batch is 128: with 101 labelled .* up to 100"):
        check(Recipe(), [100, 101])
    check(Recipe(batch=100), [100, 101])  # the remedy helps


@pytest.mark.parametrize(
    "bad",
    [{"detach": -0.1}, {"detach": 1.1}, {"detach": math.nan}, {"weight": -1.0}, {"margin": math.inf}, {"hidden": 0}, {"hidden": 1.5}],
    ids=str,
)
def test_a_bad_setting_is_refused_by_name(bad: dict) -> None:
    name, value = next(iter(bad.items()))
    with pytest.raises(ValueError, match=f"learning_loss.learner: {name} is {value}"):
        learning_loss.learner(BASE, **bad)


def test_a_base_with_a_loss_of_its_own_is_refused() -> None:
    made = learning_loss.learner(BASE)
    for base in (replace(BASE, loss=made.loss), replace(BASE, switch=made.switch)):
        with pytest.raises(ValueError, match=r"base\.loss"):
            learning_loss.learner(base)


def test_manifests_tell_the_settings_apart() -> None:
    options = [{}, {"detach": 0}, {"detach": 1}, {"detach": 0.5}, {"weight": 0.5}, {"margin": 2.0}, {"ranking": True}, {"hidden": 64}]
    prints = {store.fingerprint(learning_loss.learner(BASE, **option)) for option in options} | {store.fingerprint(BASE)}
    assert len(prints) == len(options) + 1
    assert store.fingerprint(learning_loss.learner(BASE)) in prints  # the same settings, the same print


@pytest.mark.slow
def test_it_can_be_compiled(train: ImageSet) -> None:
    made = learning_loss.learner(BASE)
    net, (x, y) = made.build(3, Stream()), batch_of()
    compiled = torch.compile(made.loss, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(net, x, y), made.loss(net, x, y))


# ---- the strategy --------------------------------------------------------------------------------------------------------------


def test_it_takes_the_largest_predictions_in_order() -> None:
    query = with_module()
    with torch.no_grad():
        one_by_one = [float(query.net.predicted_loss(query.pool.images.batch(i[None]).float() / 255)) for i in query.candidates]
    expected = sorted(range(len(one_by_one)), key=lambda i: -one_by_one[i])[: query.n]
    assert learning_loss.learning_loss(query).tolist() == query.candidates[expected].tolist()


def test_contract(monkeypatch: pytest.MonkeyPatch) -> None:
    queries.check_all(learning_loss.learning_loss, monkeypatch, with_module)


def test_a_net_that_predicts_no_losses() -> None:
    with pytest.raises(ValueError, match=r"a Net predicts no losses"):
        learning_loss.learning_loss(query_of())
    with pytest.raises(ValueError, match="no trained net"):
        learning_loss.learning_loss(replace(query_of(), net=None))


# ---- the loop ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("init", ["fresh", "warm"])
def test_the_loop(init: str, tmp_path: Path, learner: Learner, train: ImageSet, test: ImageSet) -> None:
    ranker, oracle = learning_loss.learner(learner), simulated(train.targets)

    def run(folder: Path) -> list[Cycle]:
        protocol = Protocol(initial=12, budget=8, cycles=3, init=init)
        return list(cycles(folder, Experiment(Pool.of(train.images), test, ranker, learning_loss.learning_loss, oracle, protocol)))

    records = run(tmp_path / "a")
    assert [cycle.n_labelled for cycle in records] == [12, 20, 28]
    assert len({i for cycle in records for i in cycle.queried}) == 28
    assert [cycle.reproducible for cycle in records] == [cycle.reproducible for cycle in run(tmp_path / "b")]


def test_detached_records_are_those_of_the_plain_learner_but_for_the_choice(
    tmp_path: Path, learner: Learner, train: ImageSet, test: ImageSet
) -> None:
    """With a strategy that ignores the module, such as random, the two experiments give the same records."""
    records = []
    for name, made in (("plain", learner), ("detached", learning_loss.learner(learner, detach=0))):
        experiment = Experiment(Pool.of(train.images), test, made, random, simulated(train.targets), Protocol(12, 8, 2))
        records.append([cycle.reproducible for cycle in cycles(tmp_path / name, experiment)])
    assert records[0] == records[1]


@pytest.mark.gpu
def test_cuda_trains_in_half_precision_without_waiting(train: ImageSet) -> None:
    made, images = learning_loss.learner(BASE), train.images.to("cuda")
    net, rows = made.build(3, Stream(), "cuda"), torch.arange(40)
    fit(net, images, rows, train.targets[rows], made, Stream())  # warm
    x, y = (part.cuda() for part in batch_of())
    torch.cuda.synchronize()
    with never_waiting(), torch.autocast("cuda", torch.bfloat16):
        made.loss(net.train(), x, y).mean().backward()
    assert predict(net.eval().predicted_loss, images).isfinite().all()
