"""PAL against its definitions, written as loops, and its queries."""

import math
from dataclasses import replace
from functools import partial

import pytest
import queries
import torch
from conftest import images_of
from hypothesis import given
from hypothesis import strategies as st
from queries import query_of
from torch import Tensor
from torch.nn.functional import cross_entropy

from alnb import store
from alnb.acquire.query import Pool, Query, check_query
from alnb.data import Embedded, Resident
from alnb.learn.augment import AUGMENTATIONS
from alnb.learn.nets import Net, linear, resnet18, small
from alnb.learn.pretexts import rotation
from alnb.learn.train import Order, Recipe
from alnb.papers.methods import pal
from alnb.papers.methods.pal import PAL, RECIPE, divergence_term, rotation_term
from alnb.store import Stream

TINY = PAL(
    net=partial(small, width=4),
    recipe=replace(RECIPE, epochs=2, batch=8),
    part=4,
    tuning=replace(RECIPE, epochs=2, lr=0.01, batch=4, schedule="constant"),
)


def net_of(classes: int = 3) -> Net:
    with (Stream(0) / "pal test").scope():
        return small(4 + classes, width=4).eval()


# ---- the score -----------------------------------------------------------------------------------------------------------------


@given(st.integers(1, 5), st.integers(1, 7), st.floats(0.1, 300), st.integers(0, 99))
def test_terms_against_loops(n: int, classes: int, scale: float, seed: int) -> None:
    generator = (Stream(seed) / "terms").generator()
    turned = (scale * torch.randn(n, 4, 4, generator=generator, dtype=torch.float64)).log_softmax(2)
    named = (scale * torch.randn(n, classes, generator=generator, dtype=torch.float64)).log_softmax(1)
    for i in range(n):
        expected = -sum(math.exp(turned[i, r, r]) for r in range(4))
        assert float(rotation_term(turned)[i]) == pytest.approx(expected, rel=1e-12, abs=1e-300)
        uniform = 1 / classes
        divergence = sum(uniform * (math.log2(uniform) - float(named[i, c]) / math.log(2)) for c in range(classes))
        assert float(divergence_term(named)[i]) == pytest.approx(-divergence, rel=1e-9, abs=1e-9)


def test_terms_at_their_ends() -> None:
    sure = torch.full((4, 4), -torch.inf).fill_diagonal_(0)
    assert rotation_term(torch.stack([sure, sure.roll(1, 1)])).tolist() == [-4, 0]  # all angles recognised, none
    assert float(divergence_term(torch.full((1, 4), math.log(0.25)))) == pytest.approx(0, abs=1e-6)
    assert float(divergence_term(torch.tensor([[0.5, 0.5, 1.0]]).log())) == pytest.approx(-(math.log2(1 / 3) + 2 / 3), abs=1e-6)
    assert divergence_term(torch.tensor([[0.0, -torch.inf]])).item() == -torch.inf
    far = torch.tensor([[0.0, -200.0], [0.0, -300.0]])  # probabilities that float32 rounds to 0 keep their order
    assert divergence_term(far).tolist() == pytest.approx([1 - 100 / math.log(2), 1 - 150 / math.log(2)])


# ---- the scoring net -----------------------------------------------------------------------------------------------------------


def test_losses_and_predictions_are_those_of_single_views() -> None:
    net = net_of()
    x, y = torch.rand(5, 3, 8, 8, generator=(Stream(0) / "x").generator()), torch.tensor([0, 1, 2, 1, 0])
    with torch.no_grad():
        both, alone, logs = pal.both_losses(net, x, y), rotation.rotation_loss(net, x), pal.predictions(net)(x)
        for i in range(5):
            logits = [net(torch.rot90(x[i], k, dims=(1, 2))[None])[0] for k in range(4)]
            turned = sum(-logits[k][:4].log_softmax(0)[k] for k in range(4)) / 4
            torch.testing.assert_close(alone[i], turned)
            torch.testing.assert_close(both[i], turned - logits[0][4:].log_softmax(0)[y[i]])
            torch.testing.assert_close(logs[i], torch.cat([*(view[:4].log_softmax(0) for view in logits), logits[0][4:].log_softmax(0)]))


def test_batch_normalisation_sees_all_turns_at_once() -> None:
    """In a batch of one angle, its statistics would give the angle away."""
    seen: list[Tensor] = []
    net, x = net_of().train(), torch.rand(2, 3, 8, 8, generator=(Stream(0) / "x").generator())
    net.trunk[0].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    for loss in (rotation.rotation_loss, pal.both_losses):
        loss(net, x, torch.tensor([0, 1]))
    expected = torch.stack([torch.rot90(image, k, dims=(1, 2)) for k in range(4) for image in x])
    assert len(seen) == 2 and all(torch.equal(batch, expected) for batch in seen)


def test_turns_of_the_chosen_are_learned_by_a_copy_as_in_a_textbook() -> None:
    strategy = replace(TINY, tuning=replace(TINY.tuning, augment=AUGMENTATIONS["none"], weight_decay=0.01, epochs=3, lr=0.1))
    query, net, expected = query_of(), net_of(), net_of()
    chosen = query.candidates[[3, 1, 20, 7, 11, 40]]
    before = {name: value.clone() for name, value in net.state_dict().items()}
    tuned = strategy.tuned(net, query, chosen, Stream(5))
    optimiser = torch.optim.SGD(expected.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01)
    order = Order(6, 4, Stream(5) / "part" / 6, torch.device("cpu"))
    expected.train()
    for step in range(5):  # three epochs of six images, four in a step, rounded up
        x = query.pool.images.batch(chosen[order(step)]).float() / 255
        losses = cross_entropy(
            expected(torch.cat([torch.rot90(x, k, dims=(2, 3)) for k in range(4)]))[:, :4], torch.arange(16) // 4, reduction="none"
        )
        optimiser.zero_grad()
        losses.mean().backward()
        optimiser.step()
    for (name, p), q in zip(tuned.named_parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-6, msg=name)
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in before.items())  # the original stays as it was
    assert float((tuned.trunk[0][0].weight - net.trunk[0][0].weight).detach().abs().max()) > 1e-2 and not tuned.training


# ---- parts ---------------------------------------------------------------------------------------------------------------------


QUERY = query_of()


class Scored(PAL):
    """PAL with scores from a function: a "net" is the tuple of images that it was tuned on."""

    def terms(self, net: tuple[int, ...], query: Query, rows: Tensor, stream: Stream, chosen: int) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        assert chosen == len(net)
        return tuple(torch.tensor([given_term(what, net, i) for i in rows.tolist()]) for what in ("turns", "class"))  # type: ignore[return-value]

    def tuned(self, net: tuple[int, ...], query: Query, chosen: Tensor, stream: Stream) -> tuple[int, ...]:  # type: ignore[override]
        assert net == ()  # the original, not one that was tuned before
        return tuple(chosen.tolist())


def given_term(what: str, known: tuple[int, ...], i: int) -> float:
    """A small whole number, so that there are ties: a function of the images that the net was tuned on, and of the image."""
    return -float(Stream(0, (what, *known, i)).seed % 5)


@given(st.integers(1, 12), st.integers(0, 17), st.permutations(range(30, 47)), st.sampled_from([0.0, 1.0, 3.0]))
def test_parts_against_a_loop(part: int, n: int, candidates: list[int], diversity: float) -> None:
    strategy = Scored(part=part, rotation=2.0, divergence=0.5, diversity=diversity)
    query = replace(QUERY, candidates=torch.tensor(candidates), n=n)
    chosen = strategy.choose((), query, Stream()).tolist()  # type: ignore[arg-type]
    first = {i: 2.0 * given_term("turns", (), i) + 0.5 * given_term("class", (), i) for i in candidates}
    naive: list[int] = []
    while len(naive) < n:
        now = dict(first)
        if naive:
            now = {i: first[i] + diversity * given_term("turns", tuple(naive), i) for i in candidates}
        for i in naive:
            del now[i]
        for _ in range(min(part, n - len(naive))):
            best = max(now, key=lambda i: now[i])  # the first of equal ones
            naive.append(best)
            del now[best]
    assert chosen == naive


@pytest.mark.parametrize(("n", "tunings"), [(3, 0), (4, 0), (5, 1), (8, 1), (10, 2)])
def test_the_net_is_tuned_between_parts_only(n: int, tunings: int, monkeypatch: pytest.MonkeyPatch) -> None:
    tuned_on: list[list[int]] = []
    original = PAL.tuned

    def spy(self: PAL, net: Net, query: Query, chosen: Tensor, stream: Stream) -> Net:
        tuned_on.append(chosen.tolist())
        return original(self, net, query, chosen, stream)

    monkeypatch.setattr(PAL, "tuned", spy)
    chosen = TINY(query_of(n)).tolist()
    assert tuned_on == [chosen[: 4 * k] for k in range(1, tunings + 1)]
    assert TINY(query_of(3)).tolist() == chosen[:3]  # in order of choice


# ---- the strategy --------------------------------------------------------------------------------------------------------------


batches = pytest.fixture(queries.batches_of)


def test_contract_at_the_ends_of_its_parts() -> None:
    """`test_acquire` tests the rest of the contract."""
    for n, part in ((0, 4), (4, 4), (50, 30)):
        queries.check_contract(replace(TINY, part=part), n)
    assert TINY(query_of(10)).tolist() != TINY(query_of(10, seed=1)).tolist()


def test_what_is_looked_at_when(batches: list[list[int]]) -> None:
    """It trains on the labelled images, tunes on the chosen, scores the other candidates, and sees no other image."""
    candidates = torch.tensor([50, 5, 9, 13, 33, 1, 59])  # in the order of a scope
    query = query_of(6, candidates=candidates)
    chosen = TINY(query).tolist()
    labelled = set(query.pool.labelled.tolist())
    assert [len(batch) for batch in batches] == [8, 8, 8, 7, 4, 4, 3]  # three updates, all scored, two updates, three scored
    assert all(set(batch) <= labelled for batch in batches[:3]) and set(batches[0]) | set(batches[1]) == labelled
    assert batches[3] == candidates.tolist() and batches[6] == [i for i in candidates.tolist() if i not in chosen[:4]]
    assert set(batches[4]) == set(batches[5]) == set(chosen[:4])


def test_features_and_names_of_classes_do_not_matter() -> None:
    query = query_of(6)
    expected = TINY(query)
    embedded = replace(query.pool, images=Embedded(query.pool.images, torch.zeros(60, 5)))
    assert torch.equal(expected, TINY(replace(query_of(6), pool=embedded, net=linear(3, 5))))
    assert torch.equal(expected, TINY(replace(query_of(6), net=None)))  # FIXED normalises nothing
    renamed = replace(query.pool, labels=query.pool.labels.where(query.pool.labels < 0, 7 + 2 * query.pool.labels))
    assert torch.equal(expected, TINY(replace(query_of(6), pool=renamed)))


def test_images_are_normalised_as_for_the_task() -> None:
    query = query_of()
    query.net.mean.fill_(0.4)
    query.net.std.copy_(torch.tensor([0.1, 0.2, 0.3]))
    net = TINY.build(2, Stream(0), query.net, torch.device("cpu"))
    assert torch.equal(net.mean, query.net.mean) and torch.equal(net.std, query.net.std) and net.head.out_features == 6
    other = TINY.build(2, Stream(1), None, torch.device("cpu"))
    assert not torch.equal(net.head.weight, other.head.weight) and other.std.tolist() == [1, 1, 1]


def oriented(seed: int) -> Pool:
    """All labelled images and a third of the others are bright at the top; the rest are bright at the left, or everywhere."""
    generator = (Stream(seed) / "oriented").generator()
    pixels = torch.randint(0, 60, (90, 3, 8, 8), generator=generator)
    kind = torch.arange(90) % 3
    kind[:30] = 0
    pixels[kind == 0, :, :4] += 150
    pixels[kind == 1, :, :, :4] += 150
    pixels[kind == 2] += 75
    labels = torch.arange(30) % 2
    pixels[:30][labels == 1, 0] //= 2  # a class with less red
    return Pool.of(Resident(pixels.to(torch.uint8))).acquire(torch.arange(30), labels, 0)


@pytest.mark.parametrize("seed", range(3))
def test_it_asks_for_what_it_cannot_turn_back(seed: int) -> None:
    """Forty of the sixty candidates are such images: by chance two of three."""
    strategy = replace(TINY, divergence=0.0, recipe=replace(RECIPE, epochs=10, batch=10, lr=0.05, augment=AUGMENTATIONS["none"]), part=20)
    pool = oriented(seed)
    chosen = strategy(Query(pool, None, pool.unlabelled, 40, Stream(seed) / "query"))
    assert float((chosen % 3 > 0).float().mean()) >= 0.95


def test_scores_on_augmented_views_are_a_defect_that_can_be_had() -> None:
    query, net = query_of(), net_of()
    rows = query.candidates[:9]
    clean = TINY.terms(net, query, rows, Stream(3), 0)
    defect = replace(TINY, augmented_scores=True)
    terms = defect.terms(net, query, rows, Stream(3), 0)
    x = RECIPE.augment(query.pool.images.batch(rows), (Stream(3) / "scoring" / 0).generator())[0]
    with torch.no_grad():
        logs = pal.predictions(net)(x).double()
    torch.testing.assert_close(terms[0], rotation_term(logs[:, :16].view(9, 4, 4)))
    torch.testing.assert_close(terms[1], divergence_term(logs[:, 16:]))
    assert all(float((a - b).abs().max()) > 1e-6 for a, b in zip(clean, terms, strict=True))
    check_query(defect(query_of(6)), query_of(6), "PAL")
    assert store.describe(TINY) != store.describe(defect)


def test_defaults_are_those_of_the_fact_sheet() -> None:
    strategy = PAL()
    assert (strategy.rotation, strategy.divergence, strategy.diversity, strategy.part) == (1, 1, 1, 512)
    assert strategy.net is resnet18 and not strategy.augmented_scores
    for recipe, epochs in ((strategy.recipe, 100), (strategy.tuning, 5)):
        assert (recipe.epochs, recipe.batch, recipe.momentum, recipe.nesterov, recipe.weight_decay) == (epochs, 64, 0.9, True, 5e-4)
        assert recipe.augment == AUGMENTATIONS["crop_flip"] and not recipe.stuck_in_eval
    rates = [strategy.recipe.rate(step, 100) for step in range(100)]
    assert rates == pytest.approx([0.01 / 10 ** (step // 25) for step in range(100)])
    assert {strategy.tuning.rate(step, 100) for step in range(100)} == {0.001}


# ---- bad input -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"part": 0}, r"PAL.part is 0"),
        ({"part": True}, r"PAL.part is True"),
        ({"part": 1.5}, r"PAL.part is 1.5"),
        ({"rotation": -1.0}, r"PAL.rotation is -1.0"),
        ({"divergence": math.inf}, r"PAL.divergence is inf"),
        ({"diversity": math.nan}, r"PAL.diversity is nan"),
        ({"rotation": 0.0, "divergence": 0.0}, r"PAL.rotation and PAL.divergence are 0"),
        ({"recipe": Recipe(views=2)}, r"PAL.recipe has views 2"),
        ({"tuning": Recipe(views=3)}, r"PAL.tuning has views 3"),
        ({"augmented_scores": 1}, r"PAL.augmented_scores is 1"),
    ],
)
def test_a_bad_setting_is_refused_by_name(bad: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PAL(**bad)


def test_what_it_cannot_choose_from_is_refused_before_it_trains(batches: list[list[int]]) -> None:
    images = images_of(20).images
    nothing = Query(Pool.of(images), None, torch.arange(20), 3, Stream())
    single = Query(Pool.of(images).acquire(torch.tensor([1, 2]), torch.tensor([2, 2]), 0), None, torch.arange(3, 20), 3, Stream())
    wide = Pool.of(Resident(torch.zeros(6, 3, 8, 10, dtype=torch.uint8))).acquire(torch.tensor([0, 1]), torch.tensor([0, 1]), 0)
    for query, message in (
        (nothing, r"0 labels, of 0 classes"),
        (single, r"2 labels, of 1 classes"),
        (
            Query(wide, None, torch.arange(2, 6), 1, Stream()),
            r"8x10 pixels",
        ),
        (query_of(8, candidates=torch.tensor([1, 5])), r"8 of 2 candidates"),
    ):
        with pytest.raises(ValueError, match=message):
            TINY(query)
    assert not batches


@pytest.mark.gpu
def test_cuda_answers_on_the_cpu() -> None:
    query = query_of(10)
    there = replace(query, pool=replace(query.pool, images=query.pool.images.to("cuda")))
    chosen = TINY(there)
    assert chosen.device.type == "cpu"
    check_query(chosen, there, "PAL")
