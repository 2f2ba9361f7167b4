"""VAAL and TA-VAAL for tests: their images, and the game as its authors wrote it down."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import torch
from torch import Tensor, nn

from alnb.acquire.query import Pool, Query
from alnb.acquire.vaal import VAAL, Conditioning, _Game
from alnb.data import Images, Resident
from alnb.data.sources import Derived
from alnb.learn.train import Order
from alnb.store import Stream

STREAM = Stream(0) / "vaal"


def scene(n: int = 30, size: int = 8, seed: int = 0) -> Pool:
    """Noise: a third is labelled and dark, a third unlabelled and dark, a third unlabelled and bright."""
    images = torch.randint(0, 80, (n, 3, size, size), generator=(Stream(seed) / "scene").generator())
    images[2::3] += 150
    return pool_of(Resident(images.to(torch.uint8)))


def pool_of(images: Images) -> Pool:
    labelled = torch.arange(0, len(images), 3)
    return Pool.of(images).acquire(labelled, torch.zeros_like(labelled), 0)


def query_of_pool(pool: Pool, n: int = 5, seed: int = 0, folder: Path | None = None) -> Query:
    return Query(pool, None, pool.unlabelled, n, Stream(seed) / "query", folder=folder)


class Stop(Exception):
    pass


@dataclass(frozen=True, eq=False)
class Watched(Derived):
    """Images that record the indices they are asked for, and can break."""

    calls: list[list[int]] = field(default_factory=list)
    last: float = math.inf  # the call at which they break

    @property
    def fingerprint(self) -> str:
        return self.images.fingerprint

    def batch(self, indices: Tensor) -> Tensor:
        if len(self.calls) >= self.last:
            raise Stop
        self.calls.append(indices.tolist())
        return self.images.batch(indices)


def parameters(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def naive_side(length: int) -> int:
    while length < 32 or length % 16:
        length += 1
    return length


def game_of(vaal: VAAL, pool: Pool, ranks: Tensor | None = None) -> _Game:
    """A game on the pool, conditioned on `ranks` [N] unless they are None."""
    conditioning = None if ranks is None else Conditioning(ranks[torch.cat([pool.labelled, pool.unlabelled])][:, None], "")
    return _Game(vaal, pool.images, (pool.labelled, pool.unlabelled), STREAM, None, conditioning)


def weights(game: _Game) -> Tensor:
    """All weights and buffers of both nets."""
    return torch.cat([v.detach().flatten() for net in (game.vae, game.discriminator) for v in net.state_dict().values()])


Batch = list[tuple[Tensor, Tensor, Tensor]]  # labelled and unlabelled: images, ranks, squashed ranks


def naive_batches(game: _Game, ranks: Tensor | None, per_update: int) -> Iterator[Batch]:
    """Endless pairs of batches. In the first update noise replaces the ranks."""
    named = zip(game.rows, ("labelled", "unlabelled"), strict=True)
    orders = [Order(len(rows), game.vaal.batch, STREAM / name, torch.device("cpu")) for rows, name in named]
    for position in count():
        uniform, batch = (STREAM / "conditions" / position).generator(), []
        coin = (STREAM / "flip" / position).generator()
        for rows, order in zip(game.rows, orders, strict=True):
            chosen = rows[order(position)]
            x = naive_inputs(game, chosen, coin)
            r = torch.empty(len(x), 0) if ranks is None else ranks[chosen][:, None]
            soft = 1 / (1 + (-r).exp())
            if ranks is not None and position < per_update:
                r = soft = torch.rand(len(x), 1, generator=uniform)
            batch.append((x, r, soft))
        yield batch


def naive_inputs(game: _Game, rows: Tensor, coin: torch.Generator) -> Tensor:
    """The VAE's input: each image mirrored where its coin is below `flip`, then normalised and enlarged."""
    x = game.images.batch(rows).float() / 255
    if game.vaal.flip:
        coins = torch.rand(len(x), generator=coin).tolist()
        backwards = list(range(x.shape[3]))[::-1]
        x = torch.stack([image[:, :, backwards] if c < game.vaal.flip else image for image, c in zip(x, coins, strict=True)])
    if x.shape[2:] != game.vae.size:
        x = nn.functional.interpolate(x, size=game.vae.size, mode="bilinear")
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in game.vaal.colours)
    return (x - mean) / std


def naive_game(game: _Game, updates: int, ranks: Tensor | None = None) -> None:
    """The algorithm as its authors wrote it down: sigmoids, plain Adam, all gradients cleared before each step.

    ranks [N], of TA-VAAL, are a column next to the code.
    """
    vaal, vae, judge = game.vaal, game.vae, game.discriminator
    optimisers = [torch.optim.Adam(net.parameters(), lr=vaal.lr, foreach=False) for net in (vae, judge)]
    entropy, error = nn.BCELoss(), nn.MSELoss()
    batches = naive_batches(game, ranks, vaal.vae_steps + vaal.adv_steps - 1)

    def verdict(mu: Tensor, r: Tensor, target: float) -> Tensor:
        return entropy(judge(torch.cat([mu, r], 1)).sigmoid(), torch.full((len(mu), 1), float(target)))

    vae.train()
    for step in range(updates):
        noise = (STREAM / "noise" / step).generator()
        for _ in range(vaal.vae_steps):
            batch, loss = next(batches), torch.zeros(())
            for x, r, soft in batch:
                mu, logs = vae.encode(x)
                z = mu + logs.mul(0.5).exp() * torch.randn(mu.shape, generator=noise)
                share = vaal.beta / {"sum": 1, "mean": len(x), "mean_all": mu.numel()}[vaal.kl]
                kl = -0.5 * (1 + logs - mu**2 - logs.exp()).sum()
                loss = loss + error(vae.decoder(torch.cat([z, soft], 1)), x) + share * kl + vaal.adversary * verdict(mu, r, 1)
            vae.zero_grad()
            loss.backward()
            optimisers[0].step()
        for number in range(vaal.adv_steps):
            batch = next(batches) if number else batch
            loss = sum(verdict(vae.encode(x)[0].detach(), r, target) for (x, r, _), target in zip(batch, (1, 0), strict=True))
            judge.zero_grad()
            loss.backward()
            optimisers[1].step()


def naive_logits(game: _Game, rows: Tensor, ranks: Tensor | None = None, coin: torch.Generator | None = None) -> Tensor:
    """Logits of the images at `rows` in one pass through both nets."""
    with torch.no_grad():
        mu = game.vae.encode(naive_inputs(game, rows, (STREAM / "flip" / "scoring").generator() if coin is None else coin))[0]
        return game.discriminator(mu if ranks is None else torch.cat([mu, ranks[rows][:, None]], 1))[:, 0]
