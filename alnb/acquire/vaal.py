"""VAAL: a variational autoencoder and a discriminator play a game, and the images that look the least labelled are asked for.

Source: Sinha et al. 2019 (Variational adversarial active learning), algorithm 1 and equations 1 to 5, with the architecture and the
settings of the authors' code (sinhasam/vaal).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from alnb import store
from alnb.acquire import scores
from alnb.acquire.query import Query
from alnb.data import Images, pixels
from alnb.learn import train
from alnb.learn.checkpoint import Checkpoint
from alnb.learn.train import Order
from alnb.store.streams import Stream

HALVINGS = 4  # strided convolutions of the encoder: sides must be multiples of 2**HALVINGS
SMALLEST = 32  # pixels; the encoder then leaves 2x2, as in the authors' code
LABELLED, UNLABELLED = 1.0, 0.0  # what the discriminator is to say


# ---- the two nets --------------------------------------------------------------------------------------------------------------


def side(length: int) -> int:
    """The side in pixels that the VAE works on for images of side `length`: the next multiple of 16 that is at least 32."""
    unit = 2**HALVINGS
    return max(SMALLEST, math.ceil(length / unit) * unit)


class VAE(nn.Module):
    """Four strided convolutions to `latent` means and log-variances, and the way back; 22,835,139 parameters at 32x32.

    Images of a side that four halvings do not divide, or below 32, are enlarged bilinearly to `side`; what is reconstructed is then
    the enlarged image. At 64x64 the decoder starts from 8x8, as in deep-al.

    Source: Sinha et al. 2019, with the weights' initialisation of the authors' code: He normal for the convolutions and for the
    decoder's linear layer, torch's defaults for the transposed convolutions and the two heads of the encoder.
    """

    def __init__(self, height: int, width: int, *, channels: int = 128, latent: int = 32, given: int = 0) -> None:
        """For images of `height` x `width` pixels; `channels` are those of the first convolution, the last has 8 times as many.

        `given` numbers of each image, which are not encoded, come to its code when it is decoded.
        """
        super().__init__()
        self.size = side(height), side(width)
        widths = [channels * 2**level for level in range(HALVINGS)]
        low, start = [length // 2**HALVINGS for length in self.size], [length // 2 ** (HALVINGS - 1) for length in self.size]
        downs = zip((3, *widths[:-1]), widths, strict=True)
        self.encoder = nn.Sequential(*(layer for pair in downs for layer in _block(nn.Conv2d, *pair)), nn.Flatten())
        self.mean = nn.Linear(widths[-1] * low[0] * low[1], latent)
        self.log_variance = nn.Linear(widths[-1] * low[0] * low[1], latent)
        ups = zip(widths[:0:-1], widths[-2::-1], strict=True)
        self.decoder = nn.Sequential(
            nn.Linear(latent + given, widths[-1] * start[0] * start[1]),
            nn.Unflatten(1, (widths[-1], *start)),
            *(layer for pair in ups for layer in _block(nn.ConvTranspose2d, *pair)),
            nn.ConvTranspose2d(channels, 3, 1),
        )
        _he_normal(self.encoder)
        _he_normal(self.decoder)

    def prepare(self, x: Tensor) -> Tensor:
        """Images [B,3,H,W] in [0, 1] as the VAE sees them: in [-1, 1], and of its size."""
        if x.shape[2:] != self.size:
            x = functional.interpolate(x, size=self.size, mode="bilinear", align_corners=False)
        return ((x - 0.5) / 0.5).contiguous(memory_format=torch.channels_last)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Means and log-variances [B,latent] of prepared images."""
        features = self.encoder(x)
        return self.mean(features), self.log_variance(features)

    def decode(self, z: Tensor) -> Tensor:
        """Images [B,3,*size], prepared ones if all is well, of codes [B,latent + given]."""
        out: Tensor = self.decoder(z)
        return out


def discriminator(latent: int = 32, hidden: int = 512) -> nn.Sequential:
    """From codes [B,latent] to logits [B,1] of being labelled; 280,065 parameters."""
    layers = nn.Linear(latent, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 1)
    net = nn.Sequential(*layers)
    _he_normal(net)
    return net


def _block(kind: type[nn.Conv2d] | type[nn.ConvTranspose2d], before: int, after: int) -> tuple[nn.Module, ...]:
    return kind(before, after, 4, stride=2, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU(inplace=True)


def _he_normal(net: nn.Sequential) -> None:
    for layer in net:
        if isinstance(layer, nn.Linear | nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


# ---- the losses ----------------------------------------------------------------------------------------------------------------


def divergence(mu: Tensor, log_variance: Tensor) -> Tensor:
    """Kullback-Leibler divergence [B], in nats, of the normal distributions with `mu`, `log_variance` [B,latent] from the standard one."""
    return -0.5 * (1 + log_variance - mu.square() - log_variance.exp()).sum(dim=1)


def reconstruction_loss(x: Tensor, decoded: Tensor, mu: Tensor, log_variance: Tensor, *, beta: float, kl: str) -> Tensor:
    """Mean squared error over all pixels, plus `beta` times the divergence, which `kl` is "sum" or "mean" over the images, or
    "mean_all", over the code's dimensions too.

    The paper's expectation is the mean; the authors' code sums, which with B images makes beta B times as large. TA-VAAL's code takes the
    mean of all. Source: Sinha et al. 2019, equation 1.
    """
    each = divergence(mu, log_variance)
    total = each.sum() if kl == "sum" else each.mean() if kl == "mean" else each.mean() / mu.shape[1]
    return functional.mse_loss(decoded, x) + beta * total


def fooling_loss(labelled: Tensor, unlabelled: Tensor) -> Tensor:
    """What the VAE minimises, of the discriminator's logits [B,1]: both are to look labelled. Source: equation 3."""
    return _cross_entropy(labelled, LABELLED) + _cross_entropy(unlabelled, LABELLED)


def telling_loss(labelled: Tensor, unlabelled: Tensor) -> Tensor:
    """What the discriminator minimises, of its logits [B,1]: it is to tell them apart. Source: equation 4."""
    return _cross_entropy(labelled, LABELLED) + _cross_entropy(unlabelled, UNLABELLED)


def _cross_entropy(logits: Tensor, target: float) -> Tensor:
    return functional.binary_cross_entropy_with_logits(logits, torch.full_like(logits, target))


# ---- the strategy --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class VAAL:
    """Those that a discriminator, trained against a VAE on all pixels, holds for the least labelled. The task's net is not looked at.

    An epoch counts the whole pool, as in the authors' code: the number of updates does not depend on how many are labelled. (The code
    of CoreGCN and TA-VAAL counts the labelled and the scored images: `epoch="scored"`.) Batches
    are no larger than the labelled set. Scores are computed in chunks of `batch` candidates, shuffled, since with `eval_sampling`
    off each depends on those in its chunk. We rank by logits: sigmoids tie where the discriminator is certain.

    Memory: four times the two nets' weights (themselves, gradients and Adam's two averages), and the activations of two batches.
    """

    kl: str = "mean"  # the divergence is "sum" or "mean" over the images of a batch; "mean_all": also over the code's dimensions
    eval_sampling: bool = True  # False: batch normalisation takes its statistics from the chunk that is scored
    beta: float = 1e-3  # weight of the divergence
    adversary: float = 1.0  # weight of fooling the discriminator
    lr: float = 5e-4  # of Adam, for both nets
    batch: int = 128  # labelled images a step, and as many unlabelled ones; fewer where there are fewer
    vae_steps: int = 2  # an update
    adv_steps: int = 1  # an update
    latent: int = 32  # dimensions of a code; deep-al takes 64 for images of 64x64
    width: int = 128  # channels of the VAE's first convolution
    hidden: int = 512  # width of the discriminator
    epochs: float = 100  # passes over the pool, a batch of it an update
    updates: int | None = None  # instead of `epochs`
    epoch: str = field(default="pool", metadata={"added": True})  # counts the "pool", or labelled and "scored" images, as later code does
    checkpoint_seconds: float = field(default=60.0, metadata={"result": False})  # changes no result, so no manifest either

    def __post_init__(self) -> None:
        """Raises: ValueError, which names the field, its value and what it may be."""
        for name in ("lr", "epochs"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"VAAL.{name} is {getattr(self, name)}: it must be above 0, and finite")
        for name in ("beta", "adversary", "checkpoint_seconds"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"VAAL.{name} is {getattr(self, name)}: it must not be negative, and finite")
        for name in ("batch", "vae_steps", "adv_steps", "latent", "width", "hidden"):
            if type(getattr(self, name)) is not int or getattr(self, name) < 1:
                raise ValueError(f"VAAL.{name} is {getattr(self, name)!r}: it must be a whole number, at least 1")
        if self.updates is not None and (type(self.updates) is not int or self.updates < 1):
            raise ValueError(f"VAAL.updates is {self.updates!r}: it must be a whole number, at least 1, or None to go by epochs")
        if self.kl not in ("sum", "mean", "mean_all"):
            raise ValueError(f"VAAL.kl is {self.kl!r}: it must be one of sum, mean, mean_all")
        if self.epoch not in ("pool", "scored"):
            raise ValueError(f"VAAL.epoch is {self.epoch!r}: it must be pool or scored")
        if type(self.eval_sampling) is not bool:
            raise ValueError(f"VAAL.eval_sampling is {self.eval_sampling!r}: it must be True or False")

    def __call__(self, query: Query) -> Tensor:
        """The `query.n` candidates whose logits of being labelled are the smallest, smallest first.

        Raises:
            ValueError: nothing is labelled, or there are no candidates.
            train.NonFiniteLoss: it names the update.
            store.Corrupted: the checkpoint in `query.folder` is damaged, or belongs to another training.
        """
        counted = len(query.pool) if self.epoch == "pool" else len(query.pool.labelled) + len(query.candidates)
        return least_labelled(self, query, self.count(counted))

    def count(self, n: int) -> int:
        """Number of updates where an epoch counts `n` images."""
        return self.updates if self.updates is not None else max(1, math.floor(self.epochs * n / self.batch))


FAITHFUL = VAAL(kl="sum", eval_sampling=False, beta=1.0)
"""As the authors' code does it."""

# The error is averaged over 3 * 32 * 32 numbers: the evidence bound of a decoder with unit variance has beta = 2 / 3072 = 0.65e-3.
SANE = VAAL(kl="mean", eval_sampling=True, beta=1e-3)
"""The paper's objective, with about the weight of the evidence bound, and scores that do not depend on one another."""


@dataclass(frozen=True)
class Given:
    """K numbers of each image that the decoder and the discriminator are told, beside the code."""

    labelled: Tensor  # float [L,K], in the order of `pool.labelled`
    candidates: Tensor  # float [M,K], in the order of the query's
    origin: str  # fingerprint of what they were computed with: a checkpoint of another one is refused


def least_labelled(vaal: VAAL, query: Query, updates: int, given: Given | None = None) -> Tensor:
    """The `query.n` candidates whose logits of being labelled are the smallest after so many `updates`, smallest first.

    Raises:
        ValueError, train.NonFiniteLoss, store.Corrupted: as `VAAL`.
    """
    images, labelled = pixels(query.pool.images), query.pool.labelled
    if not len(labelled) or not len(query.candidates):
        raise ValueError(
            f"VAAL tells labelled images from unlabelled ones, but there are {len(labelled)} labelled and {len(query.candidates)} "
            "candidates: choose the first images with another strategy, such as random"
        )
    checkpoint = None if query.folder is None else query.folder / "vaal.pt"
    game = _Game(vaal, images, (labelled, query.candidates), query.stream / "vaal", checkpoint, given)
    game.play(updates)
    chosen = query.candidates[scores.top(-game.logits(), query.n)]
    if checkpoint is not None:
        checkpoint.unlink(missing_ok=True)
    return chosen


class _Batch(NamedTuple):
    x: Tensor  # [B,3,H,W], prepared
    raw: Tensor  # [B,K], what is given of each, as the discriminator is told it
    squashed: Tensor  # the same as the decoder is told it: its sigmoid


class _Game:
    """One training: the two nets, their optimisers and their position. Every update is a function of its number and the stream."""

    def __init__(
        self, vaal: VAAL, images: Images, rows: tuple[Tensor, Tensor], stream: Stream, checkpoint: Path | None, given: Given | None
    ) -> None:
        """The start, or the position of `checkpoint`. `rows` are global indices of labelled and of unlabelled images."""
        self.vaal, self.images, self.stream = vaal, images, stream
        self.device, (_, height, width) = images.device, images.shape
        self.rows = [indices.to(self.device) for indices in rows]
        told = [torch.empty(len(indices), 0) for indices in rows] if given is None else [given.labelled, given.candidates]
        self.given = [values.to(self.device) for values in told]
        dimensions = self.given[0].shape[1]
        with (stream / "init").scope():
            vae = VAE(height, width, channels=vaal.width, latent=vaal.latent, given=dimensions)
            judge = discriminator(vaal.latent + dimensions, vaal.hidden)
        self.vae: VAE = vae.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # its stub lacks this form
        self.judge = judge.to(self.device)
        self.weights = list(self.vae.parameters())
        self.optimisers = [torch.optim.Adam(net.parameters(), lr=vaal.lr, fused=True) for net in (self.vae, self.judge)]
        size = min(vaal.batch, *map(len, rows))
        self.orders = [Order(len(r), size, stream / name, self.device) for r, name in zip(rows, ("labelled", "unlabelled"), strict=True)]
        identity = store.fingerprint(vaal, images.fingerprint, *rows, stream, "" if given is None else given.origin)
        remedy = "Lower VAAL.lr or VAAL.beta, or take kl='mean'; and look at the images"
        self.state = Checkpoint(checkpoint, identity, vaal.checkpoint_seconds, "VAAL", remedy)
        self.resume()

    def play(self, updates: int) -> None:
        """Do the rest of `updates`. The host waits for the device once in `train.REPORT_UPDATES` of them."""
        losses: list[Tensor] = []  # [2] each, since the last check, still on the device
        self.vae.train()
        while self.state.step < updates:
            losses.append(self.update())
            self.state.step += 1
            last = self.state.step == updates
            if last or len(losses) == train.REPORT_UPDATES or self.state.due:
                for column, name in enumerate(("loss of the VAE", "loss of the discriminator")):
                    self.state.mean([pair[column] for pair in losses], name)
                self.state.check_weights(self.vae, self.judge)
                losses.clear()
                if not last and self.state.due:
                    optimisers = [optimiser.state_dict() for optimiser in self.optimisers]
                    self.state.save({"vae": self.vae.state_dict(), "judge": self.judge.state_dict(), "optimisers": optimisers})
                    self.state.stop_if_requested(updates)

    def update(self) -> Tensor:
        """`vae_steps`, then `adv_steps`; the last losses [2] of the VAE and of the discriminator. All but the first step of the
        discriminator, which sees the batches of the VAE's last, are on new batches.
        """
        noise = (self.stream / "noise" / self.state.step).generator(self.device)
        draws = self.vaal.vae_steps + self.vaal.adv_steps - 1
        found = {}
        for draw in range(draws):
            labelled, unlabelled = self.batches(self.state.step * draws + draw)
            if draw < self.vaal.vae_steps:
                found["vae"] = self.vae_step(labelled, unlabelled, noise)
            if draw >= self.vaal.vae_steps - 1:
                found["judge"] = self.adv_step(labelled, unlabelled)
        return torch.stack((found["vae"], found["judge"]))

    def batches(self, draw: int) -> list[_Batch]:
        """Labelled and unlabelled images. In the first update what is given is noise in [0, 1), as TA-VAAL's code has it."""
        noise = None if self.state.step else (self.stream / "given" / draw).generator(self.device)
        found = []
        for rows, given, order in zip(self.rows, self.given, self.orders, strict=True):
            chosen = order(draw)
            x, told = self.vae.prepare(self.images.batch(rows[chosen]).float() / 255), given[chosen]
            first = None if noise is None else torch.rand(told.shape, generator=noise, device=self.device)
            found.append(_Batch(x, told, told.sigmoid()) if first is None else _Batch(x, first, first))
        return found

    def vae_step(self, labelled: _Batch, unlabelled: _Batch, noise: torch.Generator) -> Tensor:
        """One step of the VAE. Labelled and unlabelled images pass separately: batch normalisation never mixes them."""
        parts, logits = [], []
        for x, raw, squashed in (labelled, unlabelled):
            mu, log_variance = self.vae.encode(x)
            z = mu + (0.5 * log_variance).exp() * torch.randn(mu.shape, generator=noise, device=self.device)
            decoded = self.vae.decode(torch.cat([z, squashed], dim=1))
            parts.append(reconstruction_loss(x, decoded, mu, log_variance, beta=self.vaal.beta, kl=self.vaal.kl))
            logits.append(self.judge(torch.cat([mu, raw], dim=1)))
        loss = parts[0] + parts[1] + self.vaal.adversary * fooling_loss(*logits)
        self.optimisers[0].zero_grad(set_to_none=True)
        loss.backward(inputs=self.weights)
        self.optimisers[0].step()
        return loss.detach()

    def adv_step(self, labelled: _Batch, unlabelled: _Batch) -> Tensor:
        """One step of the discriminator, on means, not on samples."""
        with torch.no_grad():
            codes = [torch.cat([self.vae.encode(batch.x)[0], batch.raw], dim=1) for batch in (labelled, unlabelled)]
        loss = telling_loss(self.judge(codes[0]), self.judge(codes[1]))
        self.optimisers[1].zero_grad(set_to_none=True)
        loss.backward()
        self.optimisers[1].step()
        return loss.detach()

    def logits(self) -> Tensor:
        """Logits [M] of being labelled of the unlabelled images, on the CPU, in their order."""
        rows, given = self.rows[1], self.given[1]
        self.vae.train(not self.vaal.eval_sampling)
        shuffled = torch.randperm(len(rows), generator=(self.stream / "scoring").generator())
        order, chunk = shuffled.to(self.device), self.vaal.batch
        means = train.predict(lambda x: self.vae.encode(self.vae.prepare(x))[0], self.images, rows[order], chunk=chunk)
        with torch.no_grad():  # in the same chunks, so that the last bits are those of one pass through both nets
            found = torch.cat([self.judge(codes) for codes in torch.cat([means, given[order]], dim=1).split(chunk)]).flatten().cpu()
        return torch.empty_like(found).index_copy_(0, shuffled, found)

    def resume(self) -> None:
        """Continue from the checkpoint if there is one. Raises: store.Corrupted."""
        saved = self.state.resume(self.device)
        if saved is not None:
            self.vae.load_state_dict(saved["vae"])
            self.judge.load_state_dict(saved["judge"])
            for optimiser, state in zip(self.optimisers, saved["optimisers"], strict=True):
                optimiser.load_state_dict(state)
