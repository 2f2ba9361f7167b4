"""CoreGCN and UncertainGCN: the graph and its gradients against dense formulas, the training against a plain one, and the queries."""

import math
import sys
from dataclasses import replace

import pytest
import queries
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from queries import query_of
from torch import Tensor, nn

from alnb.acquire.query import VOID, Pool, Query, check_query
from alnb.acquire.scopes import RandomSubset, Scoped
from alnb.data import Embedded, Resident
from alnb.learn.checkpoint import NonFiniteLoss
from alnb.learn.nets import linear
from alnb.papers.methods import gcn
from alnb.papers.methods.gcn import GCN, SPACES, CoreGCN, Graph, Training, UncertainGCN, labelled_loss, learn, needed
from alnb.store import Stream

SHORT = Training(hidden=8, steps=15)
both = pytest.mark.parametrize("strategy", [CoreGCN(SHORT), UncertainGCN(SHORT)], ids=["core", "uncertain"])


def random_features(n: int, d: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.rand(n, d, generator=(Stream(seed) / "features").generator(), dtype=torch.float64).to(dtype)


def dense(features: Tensor) -> Tensor:
    """A [N,N] in float64 by its definition, node by node; a node that shares nothing with the others has the column of I."""
    rows = [row / row.norm() if float(row.norm()) > 0 else row for row in features.double()]
    n = len(rows)
    eye = torch.eye(n, dtype=torch.float64)
    S = eye + torch.stack([torch.stack([rows[i] @ rows[j] * (i != j) for j in range(n)]) for i in range(n)])
    A = torch.zeros(n, n, dtype=torch.float64)
    for j in range(n):
        column = (S - eye)[:, j]
        A[:, j] = (column / column.sum() if float(column.sum()) > 0 else column) + eye[:, j]
    return A


# ---- the graph -----------------------------------------------------------------------------------------------------------------


@st.composite
def feature_tables(draw: st.DrawFn) -> Tensor:
    """Not negative, of any length; with rows of zeros, equal rows, and rows that share nothing with the others."""
    n, d = draw(st.integers(1, 8)), draw(st.integers(1, 6))
    values = draw(st.lists(st.sampled_from([0.0, 0.0, 0.25, 0.5, 1.0, 3.0]), min_size=n * d, max_size=n * d))
    scale = draw(st.lists(st.sampled_from([1e-3, 1.0, 1e4]), min_size=n, max_size=n))
    return torch.tensor(values, dtype=torch.float64).view(n, d) * torch.tensor(scale, dtype=torch.float64)[:, None]


@settings(max_examples=50, deadline=None)  # the reference is two loops
@given(feature_tables(), st.integers(1, 3), st.sampled_from([torch.float64, torch.float32, torch.float16]))
def test_products_are_those_of_the_dense_graph(features: Tensor, K: int, dtype: torch.dtype) -> None:
    features = features.to(dtype)
    before = features.clone()
    A, graph = dense(features), Graph.of(features)
    v = torch.randn(len(features), K, generator=(Stream(0) / "v").generator(), dtype=torch.float64)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    product = graph.product(v.to(wide))
    assert product.dtype == wide
    torch.testing.assert_close(product.double(), A @ v, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(graph.product(graph.x).double(), A @ graph.x.double(), rtol=tolerance, atol=tolerance)
    assert torch.equal(features, before)


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 15), st.integers(2, 8), st.integers(0, 1000))
def test_negative_features_where_the_sums_are_positive(N: int, D: int, seed: int) -> None:
    features = random_features(N, D, seed) - 0.3
    S = nn.functional.normalize(features) @ nn.functional.normalize(features).T
    assume(float((S.sum(0) - 1).min()) > 0.01)
    torch.testing.assert_close(Graph.of(features).product(features), dense(features) @ features, rtol=1e-10, atol=1e-10)


def test_a_row_of_zeros_and_a_row_that_shares_nothing_stand_alone() -> None:
    features = torch.tensor([[1.0, 0, 0], [0, 0, 0], [2.0, 0, 0], [0, 5.0, 0]])
    A = Graph.of(features).product(torch.eye(4))
    assert torch.equal(A, torch.tensor([[1.0, 0, 1, 0], [0, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 1]]))
    assert torch.equal(Graph.of(features[:1]).product(torch.ones(1, 1)), torch.ones(1, 1))  # no division by 0
    nearly = torch.tensor([[1.0, 1e-4, 0], [0, 1, 1]])  # a cosine below ALONE: the quotient would be noise
    assert torch.equal(Graph.of(nearly).product(torch.eye(2)), torch.eye(2))
    assert Graph.of(torch.tensor([[1.0, 1e-2, 0], [0, 1, 1]])).product(torch.eye(2))[0, 1] == pytest.approx(1, rel=1e-3)


def test_gradients_are_products_with_the_transposed_graph() -> None:
    features = random_features(9, 4)
    features[3] = 0
    graph, A = Graph.of(features), dense(features)
    v, g = (random_features(9, 2, seed).requires_grad_(seed == 1) for seed in (1, 2))
    graph.product(v).backward(g)
    torch.testing.assert_close(v.grad, A.T @ g, rtol=1e-12, atol=1e-12)
    assert not torch.allclose(A, A.T)
    assert torch.autograd.gradcheck(graph.product, random_features(9, 2, 3).requires_grad_())


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (torch.zeros(3), r"features must be float \[N, D\], but are torch.float32 \[3\]"),
        (torch.zeros(3, 2, dtype=torch.int64), r"features must be float \[N, D\], but are torch.int64 \[3, 2\]"),
        (torch.tensor([[1.0, 2], [3, math.nan]]), r"features\[1\] .*holds NaN, infinity or values too large"),
        (torch.tensor([[1e30, 1e30], [3, 1]]), r"features\[0\] .*holds NaN, infinity or values too large"),
        (torch.tensor([[1.0, 0], [-1, 0], [1, 0]]), r"features\[0\] has cosines that add up to 0 over .*: take features that are not neg"),
        (torch.tensor([[1.0, 1], [1, 2], [-1, 0]]), r"features\[2\] has cosines that add up to -1.15"),
    ],
)
def test_features_that_make_no_graph(features: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Graph.of(features)


# ---- the net and its training --------------------------------------------------------------------------------------------------


def test_parameter_counts_are_those_of_the_authors_code() -> None:
    net = GCN(512)
    counts = [sum(p.numel() for p in layer.parameters()) for layer in (net.first, net.second)]
    assert counts == [65_664, 129]


def test_initial_weights() -> None:
    with (Stream(0) / "init").scope():
        net = GCN(512)
    for values, bound in ((net.first.weight, 128**-0.5), (net.first.bias, 128**-0.5), (net.second.weight, 1.0), (net.second.bias, 1.0)):
        assert float(values.detach().abs().max()) <= bound and bool(values.any())
    for values, bound in ((net.first.weight, 128**-0.5), (net.second.weight, 1.0)):
        assert float(values.detach().std()) == pytest.approx(bound / math.sqrt(3), rel=0.15)


def naive_forward(net: GCN, A: Tensor, x: Tensor, mask: Tensor | float = 1.0) -> tuple[Tensor, Tensor]:
    """By the formula: each layer multiplies by the weights, then by the graph."""
    hidden = (A @ (x @ net.first.weight.T) + net.first.bias).clamp(min=0)
    return hidden, (A @ ((hidden * mask) @ net.second.weight.T) + net.second.bias)[:, 0]


def naive_loss(s: Tensor, labelled: int, weight: float) -> Tensor:
    return -sum(s[i].log() for i in range(labelled)) / labelled - weight * sum((1 - s[i]).log() for i in range(labelled, len(s))) / (
        len(s) - labelled
    )


def test_loss_and_gradients_of_all_weights_are_the_dense_ones() -> None:
    features = random_features(14, 5)
    features[2] = features[9] = 0
    graph, A = Graph.of(features), dense(features)
    with (Stream(0) / "net").scope():
        net = GCN(5, 6).double()
    mask = gcn.dropout_mask(torch.empty(14, 6, dtype=torch.float64), 0.3, Stream())
    loss = labelled_loss(net.logits(graph, net.hidden(graph.product(graph.x)) * mask), 4, 1.2)
    gradients = torch.autograd.grad(loss, list(net.parameters()))
    expected_loss = naive_loss(naive_forward(net, A, graph.x, mask)[1].sigmoid(), 4, 1.2)
    torch.testing.assert_close(loss, expected_loss, rtol=1e-12, atol=1e-12)
    for got, wanted in zip(gradients, torch.autograd.grad(expected_loss, list(net.parameters())), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-12)
        assert bool(wanted.any())


def test_loss_is_stable_where_the_net_is_certain() -> None:
    logits = torch.tensor([-300.0, 200.0, 250.0, -400.0], requires_grad=True)
    loss = labelled_loss(logits, 2, 2.0)
    assert float(loss.detach()) == pytest.approx(150 + 2 * 125)
    loss.backward()
    assert logits.grad.tolist() == pytest.approx([-0.5, 0, 1, 0])


def test_dropout_depends_on_the_stream_alone() -> None:
    like = torch.empty(200, 100)
    first = gcn.dropout_mask(like, 0.3, Stream(5))
    torch.manual_seed(3)
    assert torch.equal(first, gcn.dropout_mask(like, 0.3, Stream(5)))
    assert not torch.equal(first, gcn.dropout_mask(like, 0.3, Stream(6)))
    assert first.unique().tolist() == pytest.approx([0.0, 1 / 0.7])
    assert float((first == 0).float().mean()) == pytest.approx(0.3, abs=0.02)
    assert bool((gcn.dropout_mask(like, 0.0, Stream(5)) == 1).all())


def naive_learn(features: Tensor, labelled: int, training: Training, stream: Stream) -> tuple[Tensor, Tensor]:
    """Full-batch Adam with L2 in the gradient, written out, on the dense graph."""
    A, x = dense(features), nn.functional.normalize(features)
    with (stream / "init").scope():
        net = GCN(features.shape[1], training.hidden)
    net = net.double()
    weights = list(net.parameters())
    averages = [(torch.zeros_like(w), torch.zeros_like(w)) for w in weights]
    for step in range(training.steps):
        mask = gcn.dropout_mask(torch.empty(len(x), training.hidden, dtype=torch.float64), training.dropout, stream / "dropout" / step)
        loss = naive_loss(naive_forward(net, A, x, mask)[1].sigmoid(), labelled, training.unlabelled)
        with torch.no_grad():
            for w, g, (m, v) in zip(weights, torch.autograd.grad(loss, weights), averages, strict=True):
                g = g + training.weight_decay * w
                m.mul_(0.9).add_(0.1 * g)
                v.mul_(0.999).add_(0.001 * g * g)
                w -= training.lr * (m / (1 - 0.9 ** (step + 1))) / ((v / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8)
    with torch.no_grad():
        return naive_forward(net, A, x)


def test_training_is_that_of_a_plain_one() -> None:
    features, training = random_features(12, 5), Training(hidden=6, steps=5, lr=0.01, weight_decay=0.05)
    hidden, logits = learn(Graph.of(features), 5, training, Stream(3))
    expected = naive_learn(features, 5, training, Stream(3))
    torch.testing.assert_close(hidden, expected[0], rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(logits, expected[1], rtol=1e-8, atol=1e-10)
    assert not hidden.requires_grad and not logits.requires_grad
    long = Training(hidden=6, dropout=0.0)  # the authors' 200 steps and rates
    for mine, reference in zip(learn(Graph.of(features), 5, long, Stream(3)), naive_learn(features, 5, long, Stream(3)), strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-7, atol=1e-9)
    for changes in ({"dropout": 0.0}, {"weight_decay": 0.0}, {"unlabelled": 1.0}, {"lr": 0.02}, {"steps": 4}):
        assert not torch.allclose(logits, learn(Graph.of(features), 5, replace(training, **changes), Stream(3))[1])


def test_the_net_learns_which_are_labelled() -> None:
    """All labelled nodes are in one of two clusters, and the logits separate the clusters."""
    features = torch.rand(60, 8, generator=(Stream(0) / "clusters").generator())
    features[::2, :4] += 3
    features[1::2, 4:] += 3
    order = torch.cat([torch.arange(0, 20, 2), torch.arange(20, 60)])
    _, logits = learn(Graph.of(features[order]), 10, replace(Training(), hidden=32, lr=0.02), Stream())
    same, other = logits[10:][::2], logits[10:][1::2]
    assert float(same.min()) > float(other.max())


def test_a_loss_that_is_not_finite_is_named() -> None:
    graph = Graph.of(random_features(10, 4, dtype=torch.float32))
    with pytest.raises(NonFiniteLoss, match=r"GCN: the loss is \w+ at step [12] of 5; .*Training\.lr"):
        learn(graph, 3, Training(hidden=4, steps=5, lr=1e30), Stream())
    with pytest.raises(NonFiniteLoss, match=r"not finite after step 0 of 1; .*Training\.lr"):
        learn(graph, 3, Training(hidden=4, steps=1, lr=1e37), Stream())


# ---- the strategies ------------------------------------------------------------------------------------------------------------


@both
def test_another_seed_or_a_scope_gives_another_answer(strategy: CoreGCN | UncertainGCN) -> None:
    """`test_acquire` tests the contract itself."""
    assert not torch.equal(strategy(query_of()), strategy(query_of(seed=1)))
    subset = Scoped(RandomSubset(12), strategy)
    queries.check_contract(subset, 5)
    assert subset(query_of()).tolist() != strategy(query_of()).tolist()


GCN_STREAM = Stream(0) / "query" / 1 / "gcn"  # of `query_of`


def nodes_by_hand(query: Query) -> tuple[list[int], int]:
    """Rows, and how many were asked for."""
    asked = [i for i in range(len(query.pool)) if int(query.pool.acquired[i]) >= 0]
    return asked + query.candidates.tolist(), len(asked)


def unanswered() -> Query:
    """A query; two images of its pool were asked for without an answer."""
    query = query_of(6)
    pool = query.pool.acquire(torch.tensor([1, 2]), torch.full((2,), VOID), 0)
    return replace(query, pool=pool, candidates=pool.unlabelled)


@pytest.mark.parametrize("space", SPACES)
def test_core_takes_the_farthest_from_all_that_were_asked_for(space: str) -> None:
    query = unanswered()
    rows, asked = nodes_by_hand(query)
    assert asked == len(query.pool.labelled) + 2
    hidden, logits = learn(Graph.of(query.features[rows]), asked, SHORT, GCN_STREAM)
    spaces = {"hidden": hidden, "hidden_logit": torch.cat([hidden, logits[:, None]], 1), "features": query.features[rows]}
    points, covered, expected = spaces[space].double(), list(range(asked)), []
    for _ in range(6):
        distances = [min(float((points[i] - points[j]).norm()) for j in covered) for i in range(len(rows))]
        best = max(range(len(rows)), key=lambda i: distances[i])
        covered.append(best)
        expected.append(rows[best])
    assert CoreGCN(SHORT, space)(query).tolist() == expected
    assert all(CoreGCN(SHORT, other)(query).tolist() != expected for other in SPACES if other != space)


@pytest.mark.parametrize("margin", [0.1, 0.5, 1.0])
def test_uncertain_takes_the_nearest_to_the_margin(margin: float) -> None:
    query = unanswered()
    rows, asked = nodes_by_hand(query)
    _, logits = learn(Graph.of(query.features[rows]), asked, SHORT, GCN_STREAM)
    distance = {rows[i]: abs(1 / (1 + math.exp(-float(logits[i]))) - margin) for i in range(asked, len(rows))}
    assert UncertainGCN(SHORT, margin)(query).tolist() == sorted(distance, key=distance.__getitem__)[:6]


def test_defaults_are_those_of_the_fact_sheet() -> None:
    assert CoreGCN().training == UncertainGCN().training == Training(128, 0.3, 1.2, 1e-3, 5e-4, 200) and UncertainGCN().margin == 0.1


def test_embedded_images_in_half_precision() -> None:
    features = random_features(30, 6, dtype=torch.float16)
    images = Embedded(Resident(torch.zeros(30, 3, 1, 1, dtype=torch.uint8)), features)
    pool = Pool.of(images).acquire(torch.arange(5), torch.zeros(5, dtype=torch.int64), 0)
    for strategy in (CoreGCN(SHORT), UncertainGCN(SHORT)):
        query = Query(pool, linear(2, 6), pool.unlabelled, 4, Stream())
        check_query(strategy(query), query, "GCN")


@both
def test_nothing_labelled_or_no_candidates(strategy: CoreGCN | UncertainGCN) -> None:
    query, name = query_of(), type(strategy).__name__
    with pytest.raises(ValueError, match=f"{name} .* 0 labelled images and 60 candidates"):
        strategy(replace(query, pool=Pool.of(query.pool.images), candidates=torch.arange(60)))
    with pytest.raises(ValueError, match=f"{name} .* 10 labelled images and 0 candidates"):
        strategy(replace(query, candidates=torch.arange(0)))
    with pytest.raises(ValueError, match="no trained net"):
        strategy(replace(query, net=None))


BAD = [
    {"hidden": 0}, {"hidden": 1.5}, {"steps": True}, {"dropout": 1.0}, {"dropout": -0.1}, {"unlabelled": 0.0}, {"lr": math.inf},
    {"weight_decay": -1.0}, {"weight_decay": math.nan},
]  # fmt: skip


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: next(iter(bad)))
def test_a_bad_setting_is_refused_by_name(bad: dict) -> None:
    (name, value) = next(iter(bad.items()))
    with pytest.raises(ValueError, match=f"Training.{name} is {value}"):
        Training(**bad)


def test_fields_are_checked() -> None:
    for strategy in (CoreGCN, UncertainGCN):  # the margin comes second
        with pytest.raises(ValueError, match=rf"{strategy.__name__}\.training is 0\.1"):
            strategy(0.1)
    for margin in (-0.1, 1.5, math.nan):
        with pytest.raises(ValueError, match=rf"UncertainGCN\.margin is {margin}"):
            UncertainGCN(margin=margin)


# ---- memory --------------------------------------------------------------------------------------------------------------------


@both
def test_a_graph_that_does_not_fit_is_refused_before_it_is_begun(strategy: CoreGCN | UncertainGCN, monkeypatch: pytest.MonkeyPatch) -> None:
    query = query_of()
    bytes_needed = needed(60, 16, 8)
    monkeypatch.setattr(gcn, "free", lambda device: bytes_needed)
    strategy(query)
    monkeypatch.setattr(gcn, "free", lambda device: bytes_needed - 1)
    monkeypatch.setattr(gcn, "learn", lambda *_: pytest.fail("it began"))
    with pytest.raises(MemoryError, match=rf"{type(strategy).__name__}: .* N = 60 images .* D = 16 .* GB, but cpu has .* GB"):
        strategy(query)


def test_need_is_linear_in_nodes_and_numbers() -> None:
    assert needed(15_000, 512, 128) == 15_000 * (2 * 512 + 8 * 128) * 4
    assert needed(10, 5, 2, size=8) == 2 * needed(10, 5, 2)
    with pytest.raises(MemoryError, match=r"X: a graph of N = 1,000,000,000,000 .* D = 512 .* takes 8.19e\+06 GB"):
        gcn.check_memory("X", 10**12, torch.empty(0, 512), 128)
    gcn.check_memory("X", 10, torch.empty(0, 512, dtype=torch.float16), 128)


def test_free_memory_is_that_of_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 2**20 < gcn.free(torch.device("cpu")) < 2**50
    monkeypatch.setitem(sys.modules, "psutil", None)  # if it is not installed, nothing is refused
    assert gcn.free(torch.device("cpu")) == math.inf


class Sizes(torch.utils._python_dispatch.TorchDispatchMode):
    """Records the size of the largest tensor that any operation makes."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for value in out if isinstance(out, tuple | list) else (out,):
            if isinstance(value, Tensor):
                self.largest = max(self.largest, value.untyped_storage().nbytes() // value.element_size())
        return out


def test_nothing_of_the_size_of_the_dense_graph_is_made() -> None:
    features = random_features(500, 10, dtype=torch.float32)
    with Sizes() as sizes:
        learn(Graph.of(features), 100, Training(hidden=20, steps=2), Stream())
    assert 500 * 10 <= sizes.largest <= 500 * 20  # the dense graph has 500 * 500


@pytest.mark.gpu
def test_cuda_agrees_with_the_cpu_on_the_graph_and_answers_on_the_cpu() -> None:
    features = random_features(50, 8, dtype=torch.float32)
    here, there = Graph.of(features), Graph.of(features.to("cuda"))
    torch.testing.assert_close(there.product(there.x).cpu(), here.product(here.x), rtol=1e-4, atol=1e-5)
    query = query_of()
    moved = replace(query, pool=replace(query.pool, images=query.pool.images.to("cuda")), net=query.net.to("cuda"))
    for strategy in (CoreGCN(SHORT), UncertainGCN(SHORT)):
        chosen = strategy(moved)
        assert chosen.device.type == "cpu"
        check_query(chosen, moved, "GCN")
