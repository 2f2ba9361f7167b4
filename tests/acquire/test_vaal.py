"""VAAL: its nets and losses against naive references, its batches, its queries, and that it continues after a kill."""

import math
from dataclasses import replace
from itertools import chain
from pathlib import Path

import pytest
import torch
from conftest import never_waiting
from games import STREAM, Stop, Watched, game_of, naive_game, naive_logits, naive_side, parameters, pool_of, query_of_pool, scene, weights
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from alnb import store
from alnb.acquire.query import VOID, Pool, check_query
from alnb.acquire.vaal import (
    AS_RELEASED,
    CLEAN,
    HALF,
    PAPER,
    VAAL,
    VAE,
    _Game,
    adversarial_loss,
    discriminator,
    discriminator_loss,
    divergence,
    reconstruction_loss,
    side,
)
from alnb.data import Embedded
from alnb.learn.checkpoint import NonFiniteLoss
from alnb.store import Stream

TINY = replace(CLEAN, width=2, latent=3, hidden=8, batch=4, updates=3)
presets = pytest.mark.parametrize("preset", [AS_RELEASED, PAPER, CLEAN], ids=["as_released", "paper", "clean"])


# ---- the nets ------------------------------------------------------------------------------------------------------------------


def test_parameter_counts_are_those_of_the_authors_code() -> None:
    assert parameters(VAE(32, 32)) == 22_835_139
    assert parameters(discriminator()) == 280_065


@given(st.integers(1, 300))
def test_side_is_the_next_that_fits(length: int) -> None:
    assert side(length) == naive_side(length)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (32, 32), (64, 64), (33, 50)])
def test_shapes(height: int, width: int) -> None:
    vae = VAE(height, width, channels=2, latent=5)
    expected = naive_side(height), naive_side(width)
    x = vae.prepare(torch.rand(3, 3, height, width))
    assert x.shape == (3, 3, *expected)
    mu, log_variance = vae.encode(x)
    assert mu.shape == log_variance.shape == (3, 5)
    assert vae.decoder(mu).shape == x.shape
    assert vae.decoder[1](vae.decoder[0](mu)).shape == (3, 16, expected[0] // 8, expected[1] // 8)


def test_layers_are_those_of_the_fact_sheet() -> None:
    vae = VAE(32, 32, channels=4)
    kinds = [type(layer).__name__ for layer in vae.encoder], [type(layer).__name__ for layer in vae.decoder]
    assert kinds[0] == ["Conv2d", "BatchNorm2d", "ReLU"] * 4 + ["Flatten"]
    assert kinds[1] == ["Linear", "Unflatten"] + ["ConvTranspose2d", "BatchNorm2d", "ReLU"] * 3 + ["ConvTranspose2d"]
    downs = [layer for layer in vae.encoder if isinstance(layer, nn.Conv2d)]
    assert [(c.in_channels, c.out_channels) for c in downs] == [(3, 4), (4, 8), (8, 16), (16, 32)]
    ups = [layer for layer in vae.decoder if isinstance(layer, nn.ConvTranspose2d)]
    assert [(c.in_channels, c.out_channels) for c in ups] == [(32, 16), (16, 8), (8, 4), (4, 3)]
    assert {(c.kernel_size, c.stride, c.padding, c.bias is None) for c in (*downs, *ups[:-1])} == {((4, 4), (2, 2), (1, 1), True)}
    assert ups[-1].kernel_size == (1, 1) and ups[-1].bias is not None
    assert [type(layer).__name__ for layer in discriminator()] == ["Linear", "ReLU", "Linear", "ReLU", "Linear"]


def test_initial_weights() -> None:
    with (Stream(0) / "init").scope():
        vae, judge = VAE(32, 32, channels=16), discriminator()
    he = [(vae.encoder[9].weight, 64 * 16), (vae.decoder[0].weight, 32), (judge[0].weight, 32), (judge[2].weight, 512)]
    for weight, fan_in in he:
        assert float(weight.detach().std()) == pytest.approx(math.sqrt(2 / fan_in), rel=0.05)
    assert not vae.decoder[0].bias.any() and not any(layer.bias.any() for layer in judge[::2])
    bound = 1 / math.sqrt(vae.mean.in_features)  # torch's default for linear layers: uniform in +-1/sqrt(fan in)
    for head in (vae.mean, vae.log_variance):
        assert 0.95 * bound < float(head.weight.detach().abs().max()) <= bound and head.bias.any()


def test_pixels_become_minus_one_to_one_and_are_enlarged_bilinearly() -> None:
    vae = VAE(8, 8, channels=2)
    flat = torch.tensor([0.0, 0.5, 1.0])[:, None, None, None].expand(3, 3, 8, 8)
    assert vae.prepare(flat).amin(dim=(1, 2, 3)).tolist() == vae.prepare(flat).amax(dim=(1, 2, 3)).tolist() == [-1.0, 0.0, 1.0]
    ramp = torch.arange(8.0).expand(1, 3, 8, 8) / 8
    place = ((torch.arange(32.0) + 0.5) / 4 - 0.5).clamp(0, 7)  # pixels' centres, the edge repeated
    torch.testing.assert_close(vae.prepare(ramp)[0, 0], (place / 8 * 2 - 1).expand(32, 32))
    fitting = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(VAE(32, 32, channels=2).prepare(fitting), fitting * 2 - 1)


# ---- the losses ----------------------------------------------------------------------------------------------------------------

numbers = st.lists(st.floats(-5, 5, width=32), min_size=12, max_size=12)


@given(numbers, numbers)
def test_divergence_against_torch_distributions(mu: list[float], log_variance: list[float]) -> None:
    means, logs = torch.tensor(mu, dtype=torch.float64).view(4, 3), torch.tensor(log_variance, dtype=torch.float64).view(4, 3)
    normal = torch.distributions.Normal(means, (0.5 * logs).exp())
    expected = torch.distributions.kl_divergence(normal, torch.distributions.Normal(torch.zeros_like(means), torch.ones_like(means)))
    torch.testing.assert_close(divergence(means, logs), expected.sum(dim=1))


@pytest.mark.parametrize("kl", ["sum", "mean", "mean_all"])
def test_reconstruction_loss_against_loops(kl: str) -> None:
    g = (Stream(0) / "losses").generator()
    x, decoded = torch.randn(2, 3, 4, 4, generator=g, dtype=torch.float64), torch.randn(2, 3, 4, 4, generator=g, dtype=torch.float64)
    mu, logs = torch.randn(2, 5, generator=g, dtype=torch.float64), torch.randn(2, 5, generator=g, dtype=torch.float64)
    pairs = list(zip(x.flatten().tolist(), decoded.flatten().tolist(), strict=True))
    error = sum((a - b) ** 2 for a, b in pairs) / len(pairs)
    terms = zip(mu.flatten().tolist(), logs.flatten().tolist(), strict=True)
    total = -0.5 * sum(1 + s - m**2 - math.exp(s) for m, s in terms)
    expected = error + 0.3 * total / {"sum": 1, "mean": 2, "mean_all": 10}[kl]
    assert float(reconstruction_loss(x, decoded, mu, logs, beta=0.3, kl=kl)) == pytest.approx(expected)


@given(st.lists(st.floats(-9, 9), min_size=1, max_size=6), st.lists(st.floats(-9, 9), min_size=1, max_size=6))
def test_game_losses_against_sigmoid_and_logarithm(labelled: list[float], unlabelled: list[float]) -> None:
    def cost(logits: list[float], target: float) -> float:
        shares = [1 / (1 + math.exp(-value)) for value in logits]
        return -sum(math.log(p if target else 1 - p) for p in shares) / len(shares)

    first, second = torch.tensor(labelled, dtype=torch.float64)[:, None], torch.tensor(unlabelled, dtype=torch.float64)[:, None]
    assert float(adversarial_loss(first, second)) == pytest.approx(cost(labelled, 1) + cost(unlabelled, 1))
    assert float(discriminator_loss(first, second)) == pytest.approx(cost(labelled, 1) + cost(unlabelled, 0))


# ---- the game ------------------------------------------------------------------------------------------------------------------


@presets
@pytest.mark.parametrize(("vae_steps", "adv_steps"), [(2, 1), (1, 3)])
def test_the_game_is_the_textbook_loop(preset: VAAL, vae_steps: int, adv_steps: int) -> None:
    vaal = replace(preset, width=2, latent=3, hidden=8, batch=4, beta=0.1, adversary=0.7, vae_steps=vae_steps, adv_steps=adv_steps)
    game, expected = game_of(vaal, scene()), game_of(vaal, scene())
    before = weights(game)
    game.play(2)
    naive_game(expected, 2)
    torch.testing.assert_close(weights(game), weights(expected), rtol=1e-3, atol=1e-5)
    assert float((weights(game) - before).abs().sum()) > 1
    torch.testing.assert_close(game.logits(), expected.logits(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("vae_steps", "adv_steps", "batch"), [(2, 1, 4), (1, 2, 64)])
def test_batches(vae_steps: int, adv_steps: int, batch: int) -> None:
    watched = Watched(scene().images)
    pool = pool_of(watched)
    vaal = replace(TINY, vae_steps=vae_steps, adv_steps=adv_steps, batch=batch, updates=4)
    vaal(query_of_pool(replace(pool, labels=pool.labels.index_put((torch.tensor(0),), torch.tensor(VOID)))))  # asked, without an answer
    draws = 4 * (vae_steps + adv_steps - 1)
    games, scoring = watched.calls[: 2 * draws], watched.calls[2 * draws :]
    labelled, unlabelled = pool.labelled[1:].tolist(), pool.unlabelled.tolist()
    assert {len(call) for call in games} == {min(batch, 9)}  # 9 of 30 are labelled, fewer than the larger batch
    for calls, allowed in ((games[0::2], labelled), (games[1::2], unlabelled)):
        line = list(chain(*calls))
        for start in range(0, len(line), len(allowed)):  # complete passes, then a part of a pass
            part = line[start : start + len(allowed)]
            assert len(set(part)) == len(part) and set(part) <= set(allowed)
    scored = list(chain(*scoring))
    assert sorted(scored) == unlabelled and scored != unlabelled  # each once, shuffled
    assert [len(call) for call in scoring] == [len(part) for part in torch.arange(20).split(batch)]


def test_scores_in_both_modes() -> None:
    pool = scene()
    clean, released = game_of(TINY, pool), game_of(replace(TINY, eval_sampling=False, flip=0.5), pool)
    for game in (clean, released):
        game.play(2)
    logits = {"clean": clean.logits(), "released": released.logits()}
    alone = torch.cat([naive_logits(clean, row) for row in pool.unlabelled.split(1)])  # a score does not depend on other images
    torch.testing.assert_close(logits["clean"], alone, rtol=1e-4, atol=1e-5)
    expected, coin = torch.zeros(len(pool.unlabelled)), (STREAM / "flip" / "scoring").generator()
    for part in torch.randperm(20, generator=(STREAM / "scoring").generator()).split(4):
        expected[part] = naive_logits(released, pool.unlabelled[part], coin=coin)
    torch.testing.assert_close(logits["released"], expected, rtol=1e-4, atol=1e-5)
    assert float((logits["clean"] - logits["released"]).abs().max()) > 1e-3


# ---- the strategy --------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_it_asks_for_what_no_labelled_image_looks_like() -> None:
    """Bright images, which are half of the candidates; without the adversary, with which so short a game can end either way.

    Even so one seed in twelve turned out the other way round (2 of 24), hence two of three.
    """
    vaal = replace(CLEAN, width=4, latent=8, hidden=64, batch=16, lr=5e-3, adversary=0.0, adv_steps=3, vae_steps=1, updates=60)
    bright = [float((vaal(query_of_pool(scene(120, size=32, seed=seed), 20, seed)) % 3 == 2).float().mean()) for seed in range(3)]
    assert sorted(bright)[1] >= 0.8


@presets
def test_contract(preset: VAAL) -> None:
    vaal = replace(TINY, kl=preset.kl, eval_sampling=preset.eval_sampling, beta=preset.beta, flip=preset.flip)
    pool = scene()
    query = replace(query_of_pool(pool, 7), candidates=pool.unlabelled[3:17])
    tensors = pool.labels, pool.acquired, pool.images.batch(torch.arange(30)), query.candidates
    before = [tensor.clone() for tensor in tensors]
    torch.manual_seed(1)
    chosen = vaal(query)
    check_query(chosen, query, "VAAL")
    assert all(torch.equal(a, b) for a, b in zip(before, tensors, strict=True))
    torch.manual_seed(2)  # the global stream does not matter
    assert torch.equal(chosen, vaal(query))
    assert vaal(replace(query, n=3)).tolist() == chosen[:3].tolist()  # in order of choice
    everything = replace(query, n=14)
    assert vaal(everything).tolist() != vaal(replace(everything, stream=Stream(1) / "query")).tolist()


def test_features_are_ignored() -> None:
    pool = scene()
    embedded = replace(pool, images=Embedded(pool.images, torch.zeros(30, 4)))
    assert torch.equal(TINY(query_of_pool(pool)), TINY(query_of_pool(embedded)))


def test_nothing_to_tell_apart() -> None:
    pool = Pool.of(scene().images)
    with pytest.raises(ValueError, match="0 labelled images and 30 candidates"):
        TINY(query_of_pool(pool))
    with pytest.raises(ValueError, match="10 labelled images and 0 candidates"):
        TINY(replace(query_of_pool(scene(), 0), candidates=torch.empty(0, dtype=torch.int64)))


def test_one_labelled_image_is_enough() -> None:
    images = scene().images
    pool = Pool.of(images).acquire(torch.tensor([4]), torch.tensor([0]), 0)
    assert len(TINY(query_of_pool(pool))) == 5


@settings(max_examples=20)
@given(st.integers(1, 60_000), st.integers(1, 256), st.integers(1, 200))
def test_number_of_updates(n: int, batch: int, epochs: int) -> None:
    assert VAAL(epochs=epochs, batch=batch).count(n) == max(1, epochs * n // batch)
    assert VAAL(epochs=epochs, batch=batch, updates=7).count(n) == 7


def test_presets() -> None:
    assert AS_RELEASED.count(50_000) == CLEAN.count(50_000) == 39_062
    assert (AS_RELEASED.kl, AS_RELEASED.eval_sampling, AS_RELEASED.beta, AS_RELEASED.adversary) == ("sum", False, 1.0, 1.0)
    assert (CLEAN.kl, CLEAN.eval_sampling, CLEAN.flip) == ("mean", True, 0) and 1e-3 <= CLEAN.beta <= 1
    assert replace(CLEAN, kl="sum", eval_sampling=False, beta=1.0, flip=0.5) == AS_RELEASED  # they differ in nothing else
    assert replace(AS_RELEASED, kl="mean") == PAPER and {one.colours for one in (CLEAN, PAPER, AS_RELEASED)} == {(HALF, HALF)}
    assert store.describe(CLEAN) == store.describe(replace(CLEAN, checkpoint_seconds=1.0)) != store.describe(AS_RELEASED)


BAD = [
    {"kl": "max"}, {"epoch": "batch"}, {"eval_sampling": 1}, {"beta": -1.0}, {"adversary": math.inf}, {"lr": 0.0}, {"batch": 0},
    {"vae_steps": 0}, {"adv_steps": 1.5}, {"latent": True}, {"width": -1}, {"hidden": 0}, {"epochs": math.nan}, {"updates": 0},
    {"checkpoint_seconds": -1.0}, {"flip": 1.5},
]  # fmt: skip


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: next(iter(bad)))
def test_a_bad_setting_is_refused_by_name(bad: dict) -> None:
    with pytest.raises(ValueError, match=f"VAAL.{next(iter(bad))} is .*{next(iter(bad.values()))}"):
        VAAL(**bad)


# ---- safety --------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> VAAL:
    """Writes a checkpoint after each update."""
    monkeypatch.setattr("alnb.learn.checkpoint.CHECKPOINT_SHARE", 1e9)
    return replace(TINY, updates=6, checkpoint_seconds=0.0)


@presets
@pytest.mark.parametrize("stop", [3, 17, 27])  # in the first update, in the fifth, while scoring
def test_an_interrupted_one_continues_bit_for_bit(
    preset: VAAL, stop: int, eager: VAAL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    states: list[Tensor] = []
    original = _Game.logits

    def spy(game: _Game) -> Tensor:
        logits = original(game)
        states.append(torch.cat([logits, weights(game)]))
        return logits

    monkeypatch.setattr(_Game, "logits", spy)
    vaal = replace(eager, kl=preset.kl, eval_sampling=preset.eval_sampling)
    undisturbed = vaal(query_of_pool(scene()))
    with pytest.raises(Stop):
        vaal(query_of_pool(pool_of(Watched(scene().images, last=stop)), folder=tmp_path))
    done = min(stop // 4, 5)  # updates in the checkpoint: four batches each; none is written after the sixth and last
    assert (tmp_path / "vaal.pt").exists() == (done > 0)
    watched = Watched(scene().images)
    again = vaal(query_of_pool(pool_of(watched), folder=tmp_path))
    assert torch.equal(undisturbed, again) and torch.equal(*states)  # the scores and every weight
    assert len(watched.calls) == (6 - done) * 4 + 5  # it did not start again; five chunks are scored
    assert not list(tmp_path.iterdir())


def interrupted(vaal: VAAL, folder: Path) -> Path:
    with pytest.raises(Stop):
        vaal(query_of_pool(pool_of(Watched(scene().images, last=17)), folder=folder))
    return folder / "vaal.pt"


@pytest.mark.parametrize("what", ["settings", "seed", "labels", "candidates", "images"])
def test_a_checkpoint_of_another_training_is_refused(what: str, eager: VAAL, tmp_path: Path) -> None:
    interrupted(eager, tmp_path)
    query = query_of_pool(scene(), folder=tmp_path)
    others = {
        "seed": {"stream": Stream(1) / "query"},
        "labels": {"pool": replace(query.pool, labels=query.pool.labels.index_put((torch.tensor(0),), torch.tensor(VOID)))},
        "candidates": {"candidates": query.candidates[1:]},
        "images": {"pool": scene(seed=1)},
    }
    vaal = replace(eager, beta=0.5) if what == "settings" else eager
    with pytest.raises(store.Corrupted, match=r"vaal\.pt belongs to another"):
        vaal(replace(query, **others.get(what, {})))


def test_a_damaged_checkpoint_is_named(eager: VAAL, tmp_path: Path) -> None:
    path = interrupted(eager, tmp_path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(store.Corrupted, match=r"vaal\.pt"):
        eager(query_of_pool(scene(), folder=tmp_path))


def test_a_loss_that_is_not_finite_stops_it(eager: VAAL, tmp_path: Path) -> None:
    with pytest.raises(NonFiniteLoss, match=r"VAAL: .* (at|after) update \d; .*VAAL\.lr"):
        replace(eager, lr=1e30)(query_of_pool(scene(), folder=tmp_path))
    assert not (tmp_path / "vaal.pt").exists()


@pytest.mark.parametrize(("column", "name"), [(0, "VAE"), (1, "discriminator")])
def test_the_update_of_a_bad_loss_is_named(column: int, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    game = game_of(TINY, scene())
    losses = torch.ones(5, 2)
    losses[3, column] = math.nan
    monkeypatch.setattr(game, "update", lambda: losses[game.state.step])
    with pytest.raises(NonFiniteLoss, match=rf"loss of the {name} is nan at update 3"):
        game.play(5)


def test_weights_are_checked_too() -> None:
    """The loss of the last step does not show what the step did to them."""
    game = game_of(TINY, scene())
    with torch.no_grad():
        game.discriminator[0].bias[0] = math.inf
    game.update = lambda: torch.ones(2)  # type: ignore[method-assign]
    with pytest.raises(NonFiniteLoss, match="weights are not finite after update 4"):
        game.play(5)


@pytest.mark.gpu
def test_cuda_waits_for_nothing_and_answers_on_the_cpu() -> None:
    pool = scene()
    there = replace(pool, images=pool.images.to("cuda"))
    game = game_of(TINY, there)
    game.play(2)  # warm
    with never_waiting():
        game.vae.train()
        game.update()
    chosen = TINY(query_of_pool(there))
    assert chosen.device.type == "cpu"
    check_query(chosen, query_of_pool(there), "VAAL")
