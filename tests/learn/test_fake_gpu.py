"""What runs on a GPU, run on one that does not exist: PyTorch's fake tensors know shapes and devices, but no values.

They raise where tensors lie on two devices, and where the host would have to wait for a value. Backward passes, optimisers, autocast and
CUDA's own generators need a real one: see the tests marked `gpu`.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TypeVar

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode, unset_fake_temporarily

from alnb.acquire import scores, vaal
from alnb.data import Resident, Selection
from alnb.learn import metrics
from alnb.learn.augment import AUGMENTATIONS, Augment, Draw
from alnb.learn.nets import NETS, Net, linear
from alnb.learn.pretexts import PRETEXTS, Pretext
from alnb.learn.pretexts.rotation import rotation_loss_in_four
from alnb.learn.train import cross_entropy, log_probs, predict
from alnb.papers.methods import gcn, learning_loss, pal
from alnb.store import Stream

B, SIDE = 8, 32
M = TypeVar("M", bound=nn.Module)


@pytest.fixture(autouse=True)
def fake() -> Iterator[FakeTensorMode]:
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        yield mode


def there(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.zeros(shape, dtype=dtype, device="cuda")


def net_of(make: Callable[[int], Net], outputs: int = 10, head: Callable[[int, int], nn.Module] | None = None) -> Net:
    with unset_fake_temporarily():
        net = make(outputs)
        net.head = net.head if head is None else head(net.width, outputs)
    return moved(net)


def moved(net: M) -> M:
    """A net that was built on the CPU, as by `Learner.build`; `Module.to` cannot move it to fake tensors."""
    for module in net.modules():
        for name, value in module._parameters.items():
            module._parameters[name] = None if value is None else nn.Parameter(torch.empty_like(value, device="cuda"))
        for name, value in module._buffers.items():
            module._buffers[name] = None if value is None else torch.empty_like(value, device="cuda")
    return net


def on_gpu(value: Tensor, *shape: int) -> bool:
    return value.device.type == "cuda" and tuple(value.shape) == shape


def test_the_instrument_sees_what_it_is_for() -> None:
    with pytest.raises(DataDependentOutputException):
        there(3).sum().item()
    with pytest.raises(Exception, match="device"):
        there(3) + torch.zeros(3)


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("training", [False, True])
def test_nets(name: str, training: bool) -> None:
    net = net_of(NETS[name]).train(training)
    x, y = there(B, 3, SIDE, SIDE), there(B, dtype=torch.int64)
    assert on_gpu(net(x), B, 10) and on_gpu(net.features(x), B, net.width) and on_gpu(cross_entropy(net, x, y), B)


def test_a_linear_head() -> None:
    assert on_gpu(net_of(partial(linear, width=16))(there(B, 16)), B, 10)


@pytest.mark.parametrize("augment", AUGMENTATIONS.values(), ids=AUGMENTATIONS)
def test_augmentation(augment: Augment) -> None:
    """With parameters that were drawn on the CPU, where a generator exists; drawing reads no value either."""
    drawn = augment.draw(B, SIDE, SIDE, Stream(0).generator())
    moved = Draw(*(None if part is None else torch.empty_like(part, device="cuda") for part in drawn))
    x, y = augment.apply(there(B, 3, SIDE, SIDE, dtype=torch.uint8), moved, there(B, SIDE, SIDE, dtype=torch.int64))
    assert on_gpu(x, B, 3, SIDE, SIDE) and y is not None and on_gpu(y, B, SIDE, SIDE)


IN_FOUR = Pretext("rotation_in_four", 4, rotation_loss_in_four)


@pytest.mark.parametrize("pretext", [*PRETEXTS.values(), IN_FOUR], ids=[*PRETEXTS, IN_FOUR.name])
@pytest.mark.parametrize("training", [False, True])
def test_losses_of_pretexts(pretext: Pretext, training: bool) -> None:
    net = net_of(NETS["small"], pretext.outputs, pretext.head)
    x = there(B * pretext.views, 3, SIDE, SIDE)
    assert on_gpu(pretext.loss(net.train(training), x, x), B)
    if pretext.correct is not None:
        assert on_gpu(pretext.correct(net.eval(), x), B)


@pytest.mark.parametrize("ranking", [False, True])
def test_losses_of_learning_loss(learner: Any, ranking: bool) -> None:
    made = learning_loss.learner(learner, ranking=ranking)
    net = net_of(made.net).train()
    x, y = there(B, 3, 8, 8), there(B, dtype=torch.int64)
    assert made.loss is not None and on_gpu(made.loss(net, x, y), B)
    assert on_gpu(predict(net.eval().predicted_loss, Resident(there(B, 3, 8, 8, dtype=torch.uint8))), B)


SOURCES: dict[str, Callable[[], Any]] = {
    "resident": lambda: Resident(there(B, 3, SIDE, SIDE, dtype=torch.uint8)),
    "selection": lambda: Selection(Resident(there(2 * B, 3, SIDE, SIDE, dtype=torch.uint8)), there(B, dtype=torch.int64)),
}


@pytest.mark.parametrize("source", SOURCES)
def test_reading_a_net(source: str) -> None:
    """The parts of `evaluate` and `Query`, up to the place where numbers go to the host."""
    images, net = SOURCES[source](), net_of(NETS["small"]).eval()
    logs = predict(log_probs(net), images, there(5, dtype=torch.int64))
    assert on_gpu(logs, 5, 10) and on_gpu(predict(net.features, images), B, net.width)
    y = there(5, dtype=torch.int64)
    for measure in (metrics.negative_log_likelihood, metrics.calibration_error):
        assert measure(logs, y).device.type == "cuda"
    table = there(10, 10, dtype=torch.int64)  # `confusion` itself checks its targets, so the host waits once in an evaluation
    assert metrics.accuracy(table).device.type == metrics.per_class_accuracy(table).device.type == "cuda"


@pytest.mark.parametrize("score", [scores.entropy, scores.least_confidence, scores.margin])
@pytest.mark.parametrize("trailing", [(), (4, 4)])
def test_scores(score: Callable[[Tensor], Tensor], trailing: tuple[int, ...]) -> None:
    assert on_gpu(scores.per_image(score(there(B, 10, *trailing))), B)


@pytest.mark.parametrize("conditions", [0, 1])  # TA-VAAL has one, the predicted loss
def test_the_nets_and_losses_of_vaal(conditions: int) -> None:
    with unset_fake_temporarily():
        vae, judge = vaal.VAE(SIDE, SIDE, channels=4, latent=5, conditions=conditions), vaal.discriminator(5 + conditions, 6)
    vae, judge = moved(vae), moved(judge)
    x, more = vae.prepare(there(B, 3, SIDE, SIDE)), there(B, conditions)
    mu, log_variance = vae.encode(x)
    decoded = vae.decoder(torch.cat([mu, more], dim=1))
    assert on_gpu(decoded, B, 3, SIDE, SIDE)
    logits = judge(torch.cat([mu, more], dim=1))
    assert on_gpu(vaal.reconstruction_loss(x, decoded, mu, log_variance, beta=1.0, kl="mean"))
    assert on_gpu(vaal.adversarial_loss(logits, logits)) and on_gpu(vaal.discriminator_loss(logits, logits))


def test_the_net_and_the_loss_of_the_graph() -> None:
    graph = gcn.Graph(there(B, 6), there(B), there(B))
    with unset_fake_temporarily():
        net = gcn.GCN(6, 4)
    hidden = moved(net).hidden(graph.product(graph.x))
    logits = net.logits(graph, hidden)
    assert on_gpu(hidden, B, 4) and on_gpu(logits, B) and on_gpu(gcn.labelled_loss(logits, 3, 1.2))


def test_the_loss_and_the_terms_of_pal() -> None:
    net, x = net_of(NETS["small"], 4 + 10), there(B, 3, SIDE, SIDE)
    assert on_gpu(pal.both_losses(net.train(), x, there(B, dtype=torch.int64)), B)
    logs = predict(pal.predictions(net.eval()), Resident(there(B, 3, SIDE, SIDE, dtype=torch.uint8)))
    assert on_gpu(pal.rotation_term(logs[:, :16].unflatten(1, (4, 4))), B) and on_gpu(pal.divergence_term(logs[:, 16:]), B)
