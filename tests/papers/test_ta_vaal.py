"""TA-VAAL: its game against the textbook loop, the effect of the predicted losses, and that it continues after a kill."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import queries
import torch
from conftest import images_of
from games import STREAM, Stop, Watched, game_of, naive_game, naive_logits, parameters, pool_of, query_of_pool, scene, weights
from torch import Tensor

from alnb import store
from alnb.acquire.query import Pool, Query, check_query
from alnb.acquire.scopes import RandomSubset, Scoped
from alnb.acquire.vaal import HALF, VAE, _Game, discriminator
from alnb.data import ImageSet, Resident
from alnb.learn.nets import small
from alnb.learn.train import Learner, predict
from alnb.loop.cycles import cycles
from alnb.loop.experiment import Experiment, Protocol
from alnb.loop.oracle import simulated
from alnb.papers.methods import learning_loss
from alnb.papers.methods.learning_loss import LossNet, loss_net
from alnb.papers.methods.ta_vaal import AS_RELEASED, CIFAR10, GAME, PAPER, TAVAAL
from alnb.store import Stream

TINY_GAME = {"width": 2, "latent": 3, "hidden": 8, "batch": 4, "updates": 3}
TINY = TAVAAL(replace(GAME, **TINY_GAME))


def net_of(seed: int = 0) -> LossNet:
    with (Stream(seed) / "ranker").scope():
        return loss_net(3, net=partial(small, width=4)).eval()


def query_of(pool: Pool, n: int = 5, seed: int = 0, folder: Path | None = None, net: LossNet | None = None) -> Query:
    return replace(query_of_pool(pool, n, seed, folder), net=net_of() if net is None else net)


def test_settings_are_those_of_the_fact_sheet() -> None:
    game = TAVAAL().game
    assert (game.vae_steps, game.adv_steps, game.beta, game.adversary, game.kl) == (1, 1, 1, 1, "mean_all")
    assert (game.lr, game.batch, game.latent, game.eval_sampling) == (5e-4, 128, 32, True)
    assert game.count(1000 + 10_000) == 8593  # in the first query
    assert replace(AS_RELEASED.game, eval_sampling=True, colours=(HALF, HALF)) == game
    assert replace(AS_RELEASED.game, kl="mean") == PAPER.game and not AS_RELEASED.game.eval_sampling
    assert store.describe(AS_RELEASED) != store.describe(TAVAAL())
    assert parameters(VAE(32, 32, conditions=1)) == 22_835_139 + 1024 * 4 * 4
    assert parameters(discriminator(33)) == 280_065 + 512


def test_as_released_sees_six_times_the_variance() -> None:
    x = torch.rand(8, 3, 32, 32, generator=STREAM.generator())
    ours, theirs = (VAE(32, 32, channels=1, colours=preset.game.colours).prepare(x) for preset in (TAVAAL(), AS_RELEASED))
    ratios = [float(b.var() / a.var()) for a, b in zip(ours.unbind(1), theirs.unbind(1), strict=True)]
    assert ratios == pytest.approx([(0.5 / std) ** 2 for std in CIFAR10[1]], rel=1e-4) and 6 < sum(ratios) / 3 < 6.3
    grey = torch.tensor(CIFAR10[0])[:, None, None].expand(1, 3, 32, 32)
    assert float(VAE(32, 32, channels=1, colours=CIFAR10).prepare(grey).abs().max()) == 0


@pytest.mark.parametrize("eval_sampling", [True, False])
def test_the_game_is_the_textbook_loop(eval_sampling: bool) -> None:
    settings = replace(AS_RELEASED.game if not eval_sampling else GAME, **TINY_GAME, beta=0.1, adversary=0.7)
    pool, ranks = scene(), 3 * torch.randn(30, generator=(Stream(0) / "ranks").generator())
    game, expected, other = game_of(settings, pool, ranks), game_of(settings, pool, ranks), game_of(settings, pool, torch.zeros(30))
    game.play(3)
    naive_game(expected, 3, ranks)
    torch.testing.assert_close(weights(game), weights(expected), rtol=1e-3, atol=1e-5)
    logits, reference = game.logits(), torch.zeros(20)
    for part in torch.randperm(20, generator=(STREAM / "scoring").generator()).split(4):  # with ranks that are not squashed
        reference[part] = naive_logits(game, pool.unlabelled[part], ranks)
    torch.testing.assert_close(logits, reference, rtol=1e-4, atol=1e-5)
    other.play(3)
    assert float((logits - other.logits()).abs().max()) > 0.01  # the ranks matter


# ---- the strategy --------------------------------------------------------------------------------------------------------------


def hidden_rank(x: Tensor) -> Tensor:
    """From -4 to 3, by the last three bits of one pixel, which the VAE does not learn."""
    return (x[:, 0, 0, 0] * 255).round() % 8 - 4


class Clairvoyant(LossNet):
    """Predicts the hidden rank."""

    def predicted_loss(self, x: Tensor) -> Tensor:
        return hidden_rank(x)


@pytest.mark.parametrize("seed", range(2))
def test_it_asks_for_the_largest_predictions_where_labelled_ones_are_small(seed: int) -> None:
    settings = replace(GAME, width=2, latent=4, hidden=32, batch=16, lr=1e-2, adversary=0.0, updates=20)
    g = (Stream(seed) / "ranked").generator()
    images = torch.randint(0, 248, (90, 3, 8, 8), generator=g)  # noise
    rank = torch.randint(0, 8, (90,), generator=g)
    rank[::3] %= 4  # labelled images have ranks below 0
    images[:, 0, 0, 0] = images[:, 0, 0, 0] // 8 * 8 + rank
    pool = pool_of(Resident(images.to(torch.uint8)))
    query = query_of(pool, 8, seed, net=Clairvoyant(small(3, width=2)).eval())
    chosen = TAVAAL(settings)(query)
    largest = (rank - 4)[query.candidates].sort(descending=True).values[:8]
    assert (rank - 4)[chosen].sort(descending=True).values.tolist() == largest.tolist()
    assert float((rank - 4)[settings(query)].double().mean()) < 1.5  # VAAL cannot see them: -0.5 by chance


@pytest.mark.parametrize("eval_sampling", [True, False])
def test_contract(eval_sampling: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    queries.check_all(TAVAAL(replace(TINY.game, batch=8, eval_sampling=eval_sampling)), monkeypatch, queries.with_module)


def test_predictions_are_computed_once_for_labelled_and_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    pool, seen, played = scene(), [], []

    def spy(function: Callable[[Tensor], Tensor], images: Resident, indices: Tensor) -> Tensor:
        seen.append(indices.tolist())
        return predict(function, images, indices)

    monkeypatch.setattr("alnb.papers.methods.ta_vaal.predict", spy)
    original = _Game.play
    monkeypatch.setattr(_Game, "play", lambda game, updates: (played.append(updates), original(game, updates))[1])
    query = replace(query_of(pool, 4), candidates=pool.unlabelled[5:12])
    TAVAAL(replace(TINY.game, updates=None, epochs=2))(query)
    assert seen == [[*pool.labelled.tolist(), *query.candidates.tolist()]]
    assert played == [2 * (10 + 7) // 4]  # passes over both sets, not over the pool


def test_what_it_cannot_choose_from() -> None:
    with pytest.raises(ValueError, match="a Net predicts no losses"):
        TINY(replace(query_of(scene()), net=small(3, width=4).eval()))
    with pytest.raises(ValueError, match="no trained net"):
        TINY(replace(query_of(scene()), net=None))
    with pytest.raises(ValueError, match="0 labelled images and 30 candidates"):
        TINY(query_of(Pool.of(scene().images)))


# ---- safety --------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> TAVAAL:
    """Writes a checkpoint after each update."""
    monkeypatch.setattr("alnb.learn.checkpoint.CHECKPOINT_SHARE", 1e9)
    return TAVAAL(replace(TINY.game, updates=6, checkpoint_seconds=0.0))


@pytest.mark.parametrize("stop", [0, 8, 15])  # while predicting, in the fourth update, while scoring
def test_an_interrupted_one_continues(stop: int, eager: TAVAAL, tmp_path: Path) -> None:
    undisturbed = eager(query_of(scene()))
    with pytest.raises(Stop):
        eager(query_of(pool_of(Watched(scene().images, last=stop)), folder=tmp_path))
    done = min(max(stop - 1, 0) // 2, 5)  # one batch predicts losses, then two an update; none after the last
    watched = Watched(scene().images)
    assert torch.equal(undisturbed, eager(query_of(pool_of(watched), folder=tmp_path)))
    assert len(watched.calls) == 1 + (6 - done) * 2 + 5  # it did not start again; five chunks are scored
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_of_another_net_is_refused(eager: TAVAAL, tmp_path: Path) -> None:
    with pytest.raises(Stop):
        eager(query_of(pool_of(Watched(scene().images, last=9)), folder=tmp_path))
    with pytest.raises(store.Corrupted, match=r"vaal\.pt belongs to another"):
        eager(query_of(scene(), folder=tmp_path, net=net_of(1)))
    with pytest.raises(store.Corrupted, match=r"vaal\.pt belongs to another"):
        eager.game(query_of(scene(), folder=tmp_path))  # VAAL itself, with the same settings
    eager(query_of(scene(), folder=tmp_path))  # the same net, built again


@pytest.mark.slow
def test_the_loop_continues_after_being_killed(eager: TAVAAL, tmp_path: Path, learner: Learner, test: ImageSet) -> None:
    known, ranker = images_of(60), learning_loss.learner(learner, ranking=True)

    def run(folder: Path, last: float = float("inf")) -> tuple[list[dict], int]:
        watched = Watched(known.images, last=last)
        experiment = Experiment(
            Pool.of(watched), test, ranker, Scoped(RandomSubset(20), eager), simulated(known.targets), Protocol(12, 8, 3)
        )
        return [cycle.reproducible for cycle in cycles(folder, experiment)], len(watched.calls)

    undisturbed, calls = run(tmp_path / "undisturbed")
    assert [record["n_labelled"] for record in undisturbed] == [12, 20, 28]
    for part in (0.45, 0.95):  # of all batches that an undisturbed run reads
        with pytest.raises(Stop):
            run(tmp_path / f"{part}", last=int(part * calls))
        records, left = run(tmp_path / f"{part}")
        assert records == undisturbed and left < calls


@pytest.mark.gpu
def test_cuda_answers_on_the_cpu() -> None:
    pool = scene()
    query = query_of(replace(pool, images=pool.images.to("cuda")), net=net_of().to("cuda"))
    chosen = TINY(query)
    assert chosen.device.type == "cpu"
    check_query(chosen, query, "TA-VAAL")
