"""PAL against its definitions, written as loops."""

import math
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from conftest import images_of
from test_acquire import query_of

from alnb import pause, rng
from alnb.acquire import pal
from alnb.acquire.pal import PAL, RECIPE, divergence_term, rotation_term
from alnb.data import Resident
from alnb.loop import check_query
from alnb.nets import Net, small
from alnb.pool import Pool, Query

TINY = PAL(
    net=partial(small, width=4), recipe=replace(RECIPE, epochs=2, batch=8), part=4, tuning=replace(RECIPE, epochs=1, lr=0.01, batch=4)
)


def test_terms_against_loops() -> None:
    generator = torch.Generator().manual_seed(0)
    turned = torch.randn(9, 4, 4, generator=generator).log_softmax(2)
    named = torch.randn(9, 5, generator=generator).double().log_softmax(1)
    for i in range(9):
        assert math.isclose(float(rotation_term(turned)[i]), -sum(math.exp(turned[i, r, r]) for r in range(4)), rel_tol=1e-5)
        kl = sum(0.2 * math.log2(0.2 / math.exp(named[i, c])) for c in range(5))
        assert math.isclose(float(divergence_term(named)[i]), -kl, rel_tol=1e-9)
    assert float(divergence_term(torch.full((1, 4), math.log(0.25)))) == pytest.approx(0, abs=1e-6)
    assert divergence_term(torch.tensor([[0.0, -torch.inf]])).isfinite().all()


def test_losses_and_views_are_those_of_single_images() -> None:
    with rng.scope(0, "pal test"):
        net = small(4 + 3, width=4).eval()
    x, y = torch.rand(5, 3, 8, 8), torch.tensor([0, 1, 2, 1, 0])
    with torch.no_grad():
        both, alone, found = pal.both_losses(net, x, y), pal.turn_loss(net, x), pal.turns(net)(x)
        for i in range(5):
            logits = [net(torch.rot90(x[i], k, dims=(1, 2))[None])[0] for k in range(4)]
            turned = sum(-logits[k][:4].log_softmax(0)[k] for k in range(4)) / 4
            assert torch.allclose(alone[i], turned, atol=1e-5)
            assert torch.allclose(both[i], turned - logits[0][4:].log_softmax(0)[y[i]], atol=1e-5)
            assert torch.allclose(found[i], torch.stack([one[:4].log_softmax(0) for one in logits]), atol=1e-5)


@pytest.mark.parametrize("n", [1, 3, 4, 8, 10, 50])
def test_contract(n: int) -> None:
    query = query_of(n)
    before = [p.clone() for p in query.net.parameters()]
    chosen = TINY(query)
    check_query(chosen, query, "PAL")
    assert all(torch.equal(a, b) for a, b in zip(before, query.net.parameters(), strict=True))
    torch.manual_seed(7)
    assert torch.equal(chosen, TINY(query_of(n)))


def test_parts_against_a_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """With scores that are given: the first part by the first score, every later one by it plus the term after tuning on all before."""
    query = query_of(10)
    base = {int(i): float(torch.rand((), generator=rng.generator(0, "base", int(i)))) for i in query.candidates}

    class Stub(Net):
        def __init__(self, known: tuple[int, ...]) -> None:
            super().__init__([], 1, 8)
            self.known = known

    def later(known: tuple[int, ...], i: int) -> float:
        return float(torch.rand((), generator=rng.generator(0, "later", len(known), i)))

    monkeypatch.setattr(PAL, "first", lambda self, net, images, candidates: torch.tensor([base[int(i)] for i in candidates]))
    monkeypatch.setattr(PAL, "tuned", lambda self, net, images, chosen, seed, query: Stub(tuple(chosen.tolist())))
    monkeypatch.setattr(pal, "turns", lambda net: net)
    monkeypatch.setattr(pal.train, "predict", lambda net, images, candidates: torch.tensor([later(net.known, int(i)) for i in candidates]))
    monkeypatch.setattr(pal, "rotation_term", lambda values: values)
    found = replace(TINY, diversity=3.0).choose(Stub(()), query.pool.images, query.candidates, 10, 0, query).tolist()
    naive: list[int] = []
    while len(naive) < 10:
        value = {i: base[i] + (3 * later(tuple(naive), i) if naive else 0) for i in base if i not in naive}
        naive += sorted(value, key=value.__getitem__, reverse=True)[: min(4, 10 - len(naive))]
    assert found == naive


def test_stopped_and_called_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = TINY(query_of(10))
    impatient = replace(TINY, recipe=replace(TINY.recipe, checkpoint_seconds=0))
    stops = iter([True] + [False] * 10_000)  # later checkpoints come as often as the disk allows
    real = pause.check

    def stop(place: str) -> None:
        if next(stops):
            raise pause.TimeIsUp(place)
        real(place)

    monkeypatch.setattr("alnb.train.pause.check", stop)
    found, interruptions = None, 0
    while found is None:
        try:
            found = impatient(replace(query_of(10), folder=tmp_path))
        except pause.TimeIsUp:
            interruptions += 1
    assert interruptions == 1 and torch.equal(found, whole) and not list(tmp_path.iterdir())


def test_bad_input() -> None:
    for changes, message in (
        ({"part": 0}, r"PAL.part is 0: it must be"),
        ({"rotation": -1.0}, r"PAL.rotation is -1.0: it must not be negative"),
    ):
        with pytest.raises(ValueError, match=message):
            PAL(**changes)
    images = images_of(20).images
    nothing = Query(Pool.of(images), None, torch.arange(20), 3, rng.generator(0))
    with pytest.raises(ValueError, match="learns from the labelled images, of 0 classes: at least two"):
        TINY(nothing)
    one = Query(Pool.of(images).acquire(torch.tensor([1, 2]), torch.tensor([2, 2]), 0), None, torch.arange(3, 20), 3, rng.generator(0))
    with pytest.raises(ValueError, match="of 1 classes: at least two are needed"):
        TINY(one)
    wide = Resident(torch.zeros(6, 3, 8, 10, dtype=torch.uint8))
    pool = Pool.of(wide).acquire(torch.tensor([0, 1]), torch.tensor([0, 1]), 0)
    with pytest.raises(ValueError, match="8x10 pixels do not allow: resize them to a square"):
        TINY(Query(pool, None, torch.arange(2, 6), 1, rng.generator(0)))
