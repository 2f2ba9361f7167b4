"""TA-VAAL: its game against the textbook loop, what the ranker decides, and that a killed one goes on."""

import functools
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import test_acquire
import test_learning_loss
import test_vaal
import torch
from conftest import images_of
from hypothesis import given
from hypothesis import strategies as st
from test_vaal import Stop, Watched, naive_side, parameters, pool_of, scene
from torch import Tensor, nn

import alnb
from alnb import store
from alnb.acquire import learning_loss
from alnb.acquire.learning_loss import LossNet, loss_net
from alnb.acquire.query import Pool, Query
from alnb.acquire.ta_vaal import AS_RELEASED, GAME, TAVAAL
from alnb.acquire.vaal import VAE, Given, _Game, discriminator, reconstruction_loss
from alnb.data import ImageSet, Resident
from alnb.learn.nets import small
from alnb.learn.train import Learner, NonFiniteLoss, Order, predict
from alnb.acquire.query import check_query
from alnb.loop.experiment import Protocol
from alnb.loop.oracle import simulated
from alnb.store import streams as rng

TINY = TAVAAL(replace(GAME, width=2, latent=3, hidden=8, batch=4, updates=3))


def net_of(seed: int = 0) -> LossNet:
    with rng.scope(seed, "ranker"):
        return loss_net(3, net=functools.partial(small, width=4)).eval()


def query_of(pool: Pool, n: int = 5, seed: int = 0, folder: Path | None = None, net: LossNet | None = None) -> Query:
    return replace(test_vaal.query_of(pool, n, seed, folder), net=net_of() if net is None else net)


# ---- the parts -----------------------------------------------------------------------------------------------------------------


def test_parameter_counts() -> None:
    assert parameters(VAE(32, 32, given=1)) == 22_835_139 + 1024 * 4 * 4
    assert parameters(discriminator(33)) == 280_065 + 512


@given(st.lists(st.floats(-3, 3), min_size=12, max_size=12), st.lists(st.floats(-3, 3), min_size=12, max_size=12))
def test_divergence_is_the_mean_over_images_and_dimensions(mu: list[float], log_variance: list[float]) -> None:
    nothing = torch.zeros(1)
    codes = torch.tensor(mu, dtype=torch.float64).view(4, 3), torch.tensor(log_variance, dtype=torch.float64).view(4, 3)
    terms = [-0.5 * (1 + s - m**2 - math.exp(s)) for m, s in zip(mu, log_variance, strict=True)]
    found = reconstruction_loss(nothing, nothing, *codes, beta=0.7, kl="mean_all")
    assert float(found) == pytest.approx(0.7 * sum(terms) / 12)


def test_settings_are_those_of_the_fact_sheet() -> None:
    game = TAVAAL().game
    assert (game.vae_steps, game.adv_steps, game.beta, game.adversary, game.kl) == (1, 1, 1, 1, "mean_all")
    assert (game.lr, game.batch, game.latent, game.eval_sampling) == (5e-4, 128, 32, True)
    assert game.count(1000 + 10_000) == 8593  # in the first query
    assert replace(AS_RELEASED.game, eval_sampling=True) == game and not AS_RELEASED.game.eval_sampling
    assert store.describe(AS_RELEASED) != store.describe(TAVAAL())


# ---- the game ------------------------------------------------------------------------------------------------------------------


def game_of(strategy: TAVAAL, pool: Pool, ranks: Tensor, seed: int = 0) -> _Game:
    given = Given(ranks[pool.labelled][:, None], ranks[pool.unlabelled][:, None], "")
    return _Game(strategy.game, pool.images, pool.labelled, pool.unlabelled, seed, None, given)


def naive_updates(game: _Game, ranks: Tensor, updates: int) -> None:
    """The algorithm as its authors wrote it down: sigmoids, whole passes, plain Adam; the ranks of an image as a column beside its code."""
    settings, vae, judge = game.vaal, game.vae, game.judge
    optimisers = [torch.optim.Adam(net.parameters(), lr=settings.lr, foreach=False) for net in (vae, judge)]
    entropy, error = nn.BCELoss(), nn.MSELoss()
    orders = [
        Order(len(rows), settings.batch, 0, ("vaal", name), torch.device("cpu"))
        for rows, name in zip(game.rows, ("labelled", "unlabelled"), strict=True)
    ]

    def verdict(mu: Tensor, r: Tensor, said: float) -> Tensor:
        return entropy(judge(torch.cat([mu, r], 1)).sigmoid(), torch.full((len(mu), 1), float(said)))

    vae.train()
    for step in range(updates):
        noise, first = rng.generator(0, "vaal", "noise", step), rng.generator(0, "vaal", "given", step)
        loss, seen = torch.zeros(()), []
        for rows, order in zip(game.rows, orders, strict=True):
            chosen = rows[order(step)]
            x, r = vae.prepare(game.images.batch(chosen).float() / 255), ranks[chosen][:, None]
            r, soft = (r, 1 / (1 + (-r).exp())) if step else [torch.rand(len(x), 1, generator=first)] * 2
            mu, logs = vae.encode(x)
            z = mu + logs.mul(0.5).exp() * torch.randn(mu.shape, generator=noise)
            loss = loss + error(vae.decode(torch.cat([z, soft], 1)), x) + settings.adversary * verdict(mu, r, 1)
            loss = loss - settings.beta * 0.5 * (1 + logs - mu**2 - logs.exp()).mean()
            seen.append((x, r))
        vae.zero_grad()
        loss.backward()
        optimisers[0].step()
        told = [verdict(vae.encode(x)[0].detach(), r, said) for (x, r), said in zip(seen, (1, 0), strict=True)]
        judge.zero_grad()
        (told[0] + told[1]).backward()
        optimisers[1].step()


@pytest.mark.parametrize("eval_sampling", [True, False])
def test_the_game_is_the_textbook_loop(eval_sampling: bool) -> None:
    strategy = TAVAAL(replace(TINY.game, beta=0.1, adversary=0.7, eval_sampling=eval_sampling))
    pool, ranks = scene(), 3 * torch.randn(30, generator=rng.generator(0, "ranks"))
    found, expected = game_of(strategy, pool, ranks), game_of(strategy, pool, ranks)
    found.play(3)
    naive_updates(expected, ranks, 3)
    for net, reference in ((found.vae, expected.vae), (found.judge, expected.judge)):
        for (name, p), q in zip(net.named_parameters(), reference.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-3, atol=1e-5, msg=name)
    logits = found.logits()
    reference = torch.zeros(20)
    with torch.no_grad():
        for part in torch.randperm(20, generator=rng.generator(0, "vaal", "scoring")).split(4):  # with their own ranks, not squashed
            rows = pool.unlabelled[part]
            mu = found.vae.encode(found.vae.prepare(pool.images.batch(rows).float() / 255))[0]
            reference[part] = found.judge(torch.cat([mu, ranks[rows][:, None]], 1))[:, 0]
    torch.testing.assert_close(logits, reference, rtol=1e-4, atol=1e-5)


def test_what_is_given_changes_the_game() -> None:
    pool, logits = scene(), []
    for ranks in (torch.zeros(30), torch.linspace(-3, 3, 30)):
        game = game_of(TINY, pool, ranks)
        game.play(3)
        logits.append(game.logits())
    assert float((logits[0] - logits[1]).abs().max()) > 0.01


# ---- the strategy --------------------------------------------------------------------------------------------------------------


def hidden_rank(x: Tensor) -> Tensor:
    """From -4 to 3 by the last three bits of one pixel, which no eye sees: what the VAE learns of the images does not tell it."""
    return (x[:, 0, 0, 0] * 255).round() % 8 - 4


class Told(LossNet):
    """Predicts what one pixel says."""

    def predicted_loss(self, x: Tensor) -> Tensor:
        return hidden_rank(x)


def told(seed: int) -> Pool:
    """Noise; the labelled ones have ranks below 0, the others any."""
    g = rng.generator(seed, "told")
    images = torch.randint(0, 248, (90, 3, 8, 8), generator=g)
    rank = torch.randint(0, 8, (90,), generator=g)
    rank[::3] %= 4
    images[:, 0, 0, 0] = images[:, 0, 0, 0] // 8 * 8 + rank
    return pool_of(Resident(images.to(torch.uint8)))


@pytest.mark.parametrize("seed", range(2))
def test_it_asks_for_the_largest_predictions_where_labelled_ones_are_small(seed: int) -> None:
    settings = replace(GAME, width=2, latent=4, hidden=32, batch=16, lr=1e-2, adversary=0.0, updates=20)
    pool = told(seed)
    with rng.scope(0, "told"):
        query = query_of(pool, 8, seed, net=Told(small(3, width=2)).eval())
    ranks = hidden_rank(pool.images.batch(torch.arange(90)).float() / 255)
    chosen = TAVAAL(settings)(query)
    largest = ranks[query.candidates].sort(descending=True).values[:8]
    assert ranks[chosen].sort(descending=True).values.tolist() == largest.tolist()
    assert float(ranks[settings(replace(query, rng=rng.generator(seed, "query")))].mean()) < 1.5  # VAAL cannot see them: -0.5 by chance


@pytest.mark.parametrize("eval_sampling", [True, False])
def test_contract(eval_sampling: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(test_acquire, "query_of", test_learning_loss.with_module)
    strategy = TAVAAL(replace(TINY.game, batch=8, eval_sampling=eval_sampling))
    for n in (1, 50):
        test_acquire.test_contract(strategy, n)
    test_acquire.test_same_seed_same_answer(strategy)
    test_acquire.test_only_candidates_are_chosen(strategy)
    test_acquire.test_no_hidden_target_can_be_reached(strategy)
    test_acquire.test_same_for_any_chunk_size(strategy, 7, monkeypatch)


def test_predictions_are_computed_once_for_labelled_and_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    pool, seen = scene(), []

    def spy(function: Callable[[Tensor], Tensor], images: Resident, indices: Tensor) -> Tensor:
        seen.append(indices.tolist())
        return predict(function, images, indices)

    monkeypatch.setattr("alnb.acquire.ta_vaal.predict", spy)
    some = replace(query_of(pool, 4), candidates=pool.unlabelled[5:12])
    played: list[int] = []
    original = _Game.play
    monkeypatch.setattr(_Game, "play", lambda game, updates: (played.append(updates), original(game, updates))[1])
    TAVAAL(replace(TINY.game, updates=None, epochs=2))(some)
    assert seen == [[*pool.labelled.tolist(), *some.candidates.tolist()]]
    assert played == [2 * (10 + 7) // 4]  # passes over both sets, not over the pool


def test_a_net_that_predicts_no_losses() -> None:
    pool = scene()
    with pytest.raises(ValueError, match=r"a Net predicts no losses: train it with learning_loss\.learner\(base\)"):
        TINY(replace(query_of(pool), net=small(3, width=4).eval()))
    with pytest.raises(ValueError, match="there is no trained net before the first labels"):
        TINY(replace(query_of(pool), net=None))


def test_nothing_to_tell_apart() -> None:
    with pytest.raises(ValueError, match="there are 0 labelled and 30 candidates: choose the first images with another strategy"):
        TINY(query_of(Pool.of(scene().images)))
    with pytest.raises(ValueError, match="10 labelled and 0 candidates"):
        TINY(replace(query_of(scene(), 0), candidates=torch.empty(0, dtype=torch.int64)))


@pytest.mark.parametrize("size", [8, 33])
def test_images_of_any_size(size: int) -> None:
    query = query_of(scene(12, size), 3)
    check_query(TINY(query), query, "TA-VAAL")
    assert VAE(size, size, channels=2, given=1).size == (naive_side(size), naive_side(size))


def test_a_loss_that_is_not_finite_stops_it() -> None:
    with pytest.raises(NonFiniteLoss, match=r"VAAL: .* (at|after) update \d of 3; lower VAAL\.lr"):
        TAVAAL(replace(TINY.game, lr=1e30))(query_of(scene()))


# ---- safety --------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> TAVAAL:
    """Writes a checkpoint after each update."""
    monkeypatch.setattr("alnb.learn.train.CHECKPOINT_SHARE", 1e9)
    return TAVAAL(replace(TINY.game, updates=6, checkpoint_seconds=0.0))


@pytest.mark.parametrize("eval_sampling", [True, False])
@pytest.mark.parametrize("stop", [0, 2, 8, 15])  # while predicting, in the first update, in the fourth, while scoring
def test_an_interrupted_one_goes_on_bit_for_bit(
    stop: int, eval_sampling: bool, eager: TAVAAL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    states: list[Tensor] = []
    original = _Game.logits

    def spy(game: _Game) -> Tensor:
        logits = original(game)
        states.append(torch.cat([logits, *(v.flatten() for v in (*game.vae.state_dict().values(), *game.judge.state_dict().values()))]))
        return logits

    monkeypatch.setattr(_Game, "logits", spy)
    strategy = TAVAAL(replace(eager.game, eval_sampling=eval_sampling))
    whole = strategy(query_of(scene()))
    with pytest.raises(Stop):
        strategy(query_of(pool_of(Watched(scene().images, last=stop)), folder=tmp_path))
    done = min(max(stop - 1, 0) // 2, 5)  # two batches an update, after one for the predictions; none is written after the sixth and last
    assert (tmp_path / "vaal.pt").exists() == (done > 0)
    watched = Watched(scene().images)
    again = strategy(query_of(pool_of(watched), folder=tmp_path))
    assert torch.equal(whole, again) and torch.equal(*states)  # the scores and every weight
    assert len(watched.calls) == 1 + (6 - done) * 2 + 5  # it did not begin anew; five chunks are scored
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_of_another_net_is_refused(eager: TAVAAL, tmp_path: Path) -> None:
    with pytest.raises(Stop):
        eager(query_of(pool_of(Watched(scene().images, last=9)), folder=tmp_path))
    with pytest.raises(store.Corrupted, match=r"vaal\.pt belongs to another training"):
        eager(query_of(scene(), folder=tmp_path, net=net_of(1)))
    with pytest.raises(store.Corrupted, match=r"vaal\.pt belongs to another training"):
        eager.game(query_of(scene(), folder=tmp_path))  # VAAL itself, with the same settings
    eager(query_of(scene(), folder=tmp_path))  # the same net, built anew


def test_the_whole_loop_goes_on_after_being_killed(eager: TAVAAL, tmp_path: Path, learner: Learner, test: ImageSet) -> None:
    ranker = learning_loss.learner(learner, ranking=True)
    known = images_of(60)

    def run(folder: Path, last: float = math.inf) -> tuple[list[dict], int]:
        watched = Watched(known.images, last=last)
        protocol = Protocol(initial=12, budget=8, cycles=3, subset=20)
        options = {"learner": ranker, "strategy": eager, "oracle": simulated(known.targets), "protocol": protocol}
        return [cycle.reproducible for cycle in alnb.cycles(folder, Pool.of(watched), test, **options)], len(watched.calls)

    whole, calls = run(tmp_path / "whole")
    assert [record["n_labelled"] for record in whole] == [12, 20, 28]
    for part in (0.45, 0.95):  # of all that an undisturbed run reads
        with pytest.raises(Stop):
            run(tmp_path / f"{part}", last=int(part * calls))
        found, left = run(tmp_path / f"{part}")
        assert found == whole and left < calls


@pytest.mark.gpu
def test_cuda_answers_on_the_cpu() -> None:
    pool = scene()
    there = replace(pool, images=pool.images.to("cuda"))
    query = query_of(there, net=net_of().to("cuda"))
    chosen = TINY(query)
    assert chosen.device.type == "cpu"
    check_query(chosen, query, "TA-VAAL")
