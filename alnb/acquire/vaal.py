"""VAAL: a variational autoencoder (VAE) and a discriminator play a game, and the images that look least like labelled ones are queried.

Source: Sinha et al. 2019 (Variational adversarial active learning), algorithm 1 and equations 1 to 5, with the architecture and the
settings of the authors' code (sinhasam/vaal).
"""

import math
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from alnb import store
from alnb.acquire import scores
from alnb.acquire.query import Query
from alnb.acquire.scopes import check_both
from alnb.data import Images, pixels
from alnb.learn import train, transforms
from alnb.learn.augment import draw_mask
from alnb.learn.checkpoint import Checkpoint
from alnb.learn.train import Order
from alnb.store.checks import at_least, one_of, within
from alnb.store.streams import Stream

HALVINGS = 4  # strided convolutions of the encoder: sides must be multiples of 2**HALVINGS
SMALLEST = 32  # pixels; the encoder then leaves 2x2, as in the authors' code
LABELLED, UNLABELLED = 1.0, 0.0  # targets of the discriminator
HALF = (0.5, 0.5, 0.5)

Colours = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation of each colour, of pixels in [0, 1]."""
_Batch = tuple[Tensor, Tensor]
"""Prepared images [B,3,*size], and their conditions [B,K]; the decoder gets the sigmoids of these."""


def side(length: int) -> int:
    """The side in pixels that the VAE works on for images of side `length`: the next multiple of 16 that is at least 32."""
    unit = 2**HALVINGS
    return max(SMALLEST, math.ceil(length / unit) * unit)


class VAE(nn.Module):
    """Four strided convolutions to `latent` means and log-variances; 22,835,139 parameters at 32x32, with the decoder.

    `decoder` reconstructs prepared images [B,3,*size] from codes [B,latent + conditions].

    Images with other sides than `side` gives are enlarged bilinearly; the VAE then reconstructs the enlarged image. At 64x64 the decoder
    starts from 8x8, as in deep-al.

    Source: Sinha et al. 2019. Weights start as in the authors' code: He normal for the convolutions and the decoder's linear layer,
    torch's defaults for the transposed convolutions and the two heads of the encoder.
    """

    centre: Tensor
    spread: Tensor

    def __init__(
        self, height: int, width: int, *, channels: int = 128, latent: int = 32, conditions: int = 0, colours: Colours = (HALF, HALF)
    ) -> None:
        """For images of `height` x `width` pixels.

        channels: of the first convolution; the last one has 8 times as many.
        conditions: numbers per image that are joined to its code before decoding. They are not encoded.
        colours: mean and standard deviation of each colour, by which `prepare` normalises; by default it gives [-1, 1].
        """
        super().__init__()
        for name, values in zip(("centre", "spread"), colours, strict=True):
            self.register_buffer(name, torch.tensor(values)[:, None, None], persistent=False)
        self.size = side(height), side(width)
        widths = [channels * 2**level for level in range(HALVINGS)]
        low, start = [length // 2**HALVINGS for length in self.size], [length // 2 ** (HALVINGS - 1) for length in self.size]
        downs = zip((3, *widths[:-1]), widths, strict=True)
        self.encoder = nn.Sequential(*(layer for pair in downs for layer in _block(nn.Conv2d, *pair)), nn.Flatten())
        self.mean = nn.Linear(widths[-1] * low[0] * low[1], latent)
        self.log_variance = nn.Linear(widths[-1] * low[0] * low[1], latent)
        ups = zip(widths[:0:-1], widths[-2::-1], strict=True)
        self.decoder = nn.Sequential(
            nn.Linear(latent + conditions, widths[-1] * start[0] * start[1]),
            nn.Unflatten(1, (widths[-1], *start)),
            *(layer for pair in ups for layer in _block(nn.ConvTranspose2d, *pair)),
            nn.ConvTranspose2d(channels, 3, 1),
        )
        _he_normal(self.encoder)
        _he_normal(self.decoder)

    def prepare(self, x: Tensor) -> Tensor:
        """The input of the VAE, normalised and of its size, from images [B,3,H,W] in [0, 1]."""
        if x.shape[2:] != self.size:
            x = functional.interpolate(x, size=self.size, mode="bilinear", align_corners=False)
        return ((x - self.centre) / self.spread).contiguous(memory_format=torch.channels_last)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Means and log-variances [B,latent] of prepared images."""
        features = self.encoder(x)
        return self.mean(features), self.log_variance(features)


def discriminator(latent: int = 32, hidden: int = 512) -> nn.Sequential:
    """From codes [B,latent] to logits [B,1] of being labelled; 280,065 parameters."""
    net = nn.Sequential(nn.Linear(latent, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 1))
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


def divergence(mu: Tensor, log_variance: Tensor) -> Tensor:
    """Kullback-Leibler divergence [B], in nats, of the normals with `mu` and `log_variance` [B,latent] from the standard normal."""
    return -0.5 * (1 + log_variance - mu.square() - log_variance.exp()).sum(dim=1)


def reconstruction_loss(x: Tensor, decoded: Tensor, mu: Tensor, log_variance: Tensor, *, beta: float, kl: str) -> Tensor:
    """Mean squared error over all pixels, plus `beta` times the divergence.

    kl: the divergence is the "sum" over the images, as in the authors' code; their "mean", which is the paper's expectation; or
    "mean_all", the mean over images and latent dimensions, as in TA-VAAL's code. Source: Sinha et al. 2019, equation 1.
    """
    total = divergence(mu, log_variance).sum()
    return functional.mse_loss(decoded, x) + beta * total / {"sum": 1, "mean": len(mu), "mean_all": mu.numel()}[kl]


def adversarial_loss(labelled: Tensor, unlabelled: Tensor) -> Tensor:
    """The VAE's part of the game, from logits [B,1]: both kinds of images should look labelled. Source: equation 3."""
    return _cross_entropy(labelled, LABELLED) + _cross_entropy(unlabelled, LABELLED)


def discriminator_loss(labelled: Tensor, unlabelled: Tensor) -> Tensor:
    """The discriminator's part of the game, from logits [B,1]: it should tell the two kinds apart. Source: equation 4."""
    return _cross_entropy(labelled, LABELLED) + _cross_entropy(unlabelled, UNLABELLED)


def _cross_entropy(logits: Tensor, target: float) -> Tensor:
    return functional.binary_cross_entropy_with_logits(logits, torch.full_like(logits, target))


@dataclass(frozen=True)
class VAAL:
    """Queries the images that the discriminator thinks least likely to be labelled. The task's net is not used.

    An epoch is a pass over the whole pool, as in the authors' code, so the number of updates does not depend on the number of labels.
    Batches are never larger than the labelled set. Candidates are shuffled and scored in chunks of `batch`, because without
    `eval_sampling` a score depends on the other images of its chunk. Logits are ranked, not sigmoids: certain sigmoids tie.

    Memory: four times the weights of the two nets (weights, gradients, Adam's two averages), and the activations of two batches.
    """

    kl: str = "mean"  # or "sum", "mean_all": see `reconstruction_loss`
    eval_sampling: bool = True  # False: when scoring, batch normalisation takes its statistics from each chunk
    beta: float = 1e-3  # weight of the divergence
    adversary: float = 1.0  # weight of the adversarial loss
    lr: float = 5e-4  # of Adam, for both nets
    batch: int = 128  # labelled images in a step, and as many unlabelled ones; fewer if either set is smaller
    vae_steps: int = 2  # in an update
    adv_steps: int = 1  # in an update, of the discriminator
    latent: int = 32  # dimensions of a code; deep-al takes 64 for images of 64x64
    width: int = 128  # channels of the VAE's first convolution
    hidden: int = 512  # width of the discriminator
    epochs: float = 100  # passes over the pool; one batch of it is an update
    updates: int | None = None  # instead of `epochs`
    flip: float = 0.0  # probability that an image is mirrored, in training and in scoring
    colours: Colours = (HALF, HALF)  # mean and deviation that normalise the images: [-1, 1]; TA-VAAL's code takes those of CIFAR-10
    epoch: str = "pool"  # images in an epoch: the "pool"; or labelled and "scored" ones, as in the code of CoreGCN and TA-VAAL
    checkpoint_seconds: float = field(default=60.0, metadata={"result": False})  # changes no result, so it is not in the manifest

    def __post_init__(self) -> None:
        """Raises: ValueError, which names the field, its value and what it may be."""
        for name in ("lr", "epochs"):
            within(f"VAAL.{name}", getattr(self, name), 0, above=True)
        for name in ("beta", "adversary", "checkpoint_seconds"):
            within(f"VAAL.{name}", getattr(self, name), 0)
        for name in ("batch", "vae_steps", "adv_steps", "latent", "width", "hidden"):
            at_least(f"VAAL.{name}", getattr(self, name), 1)
        within("VAAL.flip", self.flip, 0, 1)
        if self.updates is not None:
            at_least("VAAL.updates", self.updates, 1)
        one_of("VAAL.kl", self.kl, ("sum", "mean", "mean_all"))
        one_of("VAAL.epoch", self.epoch, ("pool", "scored"))
        if type(self.eval_sampling) is not bool:
            raise ValueError(f"VAAL.eval_sampling is {self.eval_sampling!r}: it must be True or False")

    def __call__(self, query: Query) -> Tensor:
        """Global indices i64 [n], least labelled first. Raises: as `least_labelled`."""
        images = len(query.pool) if self.epoch == "pool" else len(query.pool.labelled) + len(query.candidates)
        return least_labelled(self, query, self.count(images))

    def count(self, n: int) -> int:
        """Number of updates, if an epoch has `n` images."""
        return self.updates if self.updates is not None else max(1, math.floor(self.epochs * n / self.batch))


AS_RELEASED = VAAL(kl="sum", eval_sampling=False, beta=1.0, flip=0.5)
"""As in the authors' code: its one loader mirrors images both for training and for scoring."""

PAPER = replace(AS_RELEASED, kl="mean")
"""The paper's objective, whose divergence (equation 1) is an expectation. All that the paper leaves open is as in the code."""

# The error is averaged over 3 * 32 * 32 numbers: the evidence bound of a decoder with unit variance has beta = 2 / 3072 = 0.65e-3.
CLEAN = VAAL(kl="mean", eval_sampling=True, beta=1e-3)
"""The paper's objective, weighted about as in the evidence bound, with scores that do not depend on one another."""


@dataclass(frozen=True)
class Conditioning:
    """K numbers per image that the decoder and the discriminator receive together with the code."""

    values: Tensor  # float [L + M,K], of `pool.labelled` and of the query's candidates, in their order
    origin: str  # fingerprint of their source; a checkpoint with another origin is refused


def least_labelled(vaal: VAAL, query: Query, updates: int, conditioning: Conditioning | None = None) -> Tensor:
    """Train for `updates` and return the `query.n` candidates that look least labelled, least first.

    Raises:
        ValueError: nothing is labelled, or there are no candidates.
        NonFiniteLoss: a loss or a weight is not finite; the message names the update.
        store.Corrupted: the checkpoint in `query.folder` is damaged, or belongs to another training.
    """
    images, labelled = pixels(query.pool.images), query.pool.labelled
    check_both("VAAL", labelled, query.candidates)
    path = None if query.folder is None else query.folder / "vaal.pt"
    game = _Game(vaal, images, (labelled, query.candidates), query.stream / "vaal", path, conditioning)
    game.play(updates)
    chosen = query.candidates[scores.top(-game.logits(), query.n)]
    if path is not None:
        path.unlink(missing_ok=True)
    return chosen


class _Game:
    """One training: the two nets, their optimisers and their position. Every update depends on its number and the stream alone."""

    def __init__(
        self, vaal: VAAL, images: Images, rows: tuple[Tensor, Tensor], stream: Stream, path: Path | None, conditioning: Conditioning | None
    ) -> None:
        """Start afresh, or continue from the checkpoint at `path`. rows: global indices of the labelled and the unlabelled images."""
        self.vaal, self.images, self.stream = vaal, images, stream
        self.device, (_, height, width) = images.device, images.shape
        self.rows = [indices.to(self.device) for indices in rows]
        conditioning = conditioning or Conditioning(torch.empty(sum(map(len, rows)), 0), "")
        self.conditions = conditioning.values.to(self.device).split([len(indices) for indices in rows])
        dimensions = conditioning.values.shape[1]
        with (stream / "init").scope():
            vae = VAE(height, width, channels=vaal.width, latent=vaal.latent, conditions=dimensions, colours=vaal.colours)
            judge = discriminator(vaal.latent + dimensions, vaal.hidden)
        self.vae: VAE = vae.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # its stub lacks this form
        self.discriminator = judge.to(self.device)
        self.optimisers = [torch.optim.Adam(net.parameters(), lr=vaal.lr, fused=True) for net in (self.vae, self.discriminator)]
        size = min(vaal.batch, *map(len, rows))
        self.orders = [Order(len(r), size, stream / name, self.device) for r, name in zip(rows, ("labelled", "unlabelled"), strict=True)]
        identity = store.fingerprint(vaal, images.fingerprint, *rows, stream, conditioning.origin)
        remedy = "Lower VAAL.lr or VAAL.beta, or take kl='mean'; and look at the images"
        self.state = Checkpoint(path, identity, vaal.checkpoint_seconds, "VAAL", remedy)
        self.parts = [self.vae, self.discriminator, *self.optimisers]
        content = self.state.resume(self.device)
        for part, values in zip(self.parts, content["parts"], strict=True) if content is not None else ():
            part.load_state_dict(values)

    def play(self, updates: int) -> None:
        """Do the remaining updates. The host waits for the device once in `train.REPORT_UPDATES` updates."""
        losses: list[Tensor] = []  # as `update` returns them, since the last check
        self.vae.train()
        while self.state.step < updates:
            losses.append(self.update())
            self.state.step += 1
            last = self.state.step == updates
            if last or len(losses) == train.REPORT_UPDATES or self.state.due:
                for column, name in enumerate(("loss of the VAE", "loss of the discriminator")):
                    self.state.mean([pair[column] for pair in losses], name)
                self.state.check_weights(self.vae, self.discriminator)
                losses.clear()
                if not last and self.state.due:
                    self.state.save({"parts": [part.state_dict() for part in self.parts]})
                    self.state.stop_if_requested(updates)

    def update(self) -> Tensor:
        """`vae_steps`, then `adv_steps`; returns the last losses [2] of the VAE and of the discriminator, on the device.

        Each step draws a new batch, except that the discriminator's first step reuses the batch of the VAE's last step.
        """
        noise = (self.stream / "noise" / self.state.step).generator(self.device)
        draws = self.vaal.vae_steps + self.vaal.adv_steps - 1
        for draw in range(draws):
            labelled, unlabelled = self.batches(self.state.step * draws + draw)
            if draw < self.vaal.vae_steps:
                of_vae = self.vae_step(labelled, unlabelled, noise)
            if draw >= self.vaal.vae_steps - 1:
                of_discriminator = self.adv_step(labelled, unlabelled)
        return torch.stack((of_vae, of_discriminator))

    def batches(self, draw: int) -> list[_Batch]:
        """Labelled and unlabelled images. In the first update, noise in [0, 1) replaces the conditions, as in TA-VAAL's code."""
        noise, mirror = ((self.stream / name / draw).generator(self.device) for name in ("conditions", "flip"))
        batches = []
        for rows, conditions, order in zip(self.rows, self.conditions, self.orders, strict=True):
            chosen = order(draw)
            x, raw = self.prepared(self.images.batch(rows[chosen]).float() / 255, mirror), conditions[chosen]
            batches.append((x, raw if self.state.step else torch.rand(raw.shape, generator=noise, device=self.device)))
        return batches

    def prepared(self, x: Tensor, mirror: torch.Generator) -> Tensor:
        """Images [B,3,H,W] in [0, 1], mirrored with probability `flip`, as input of the VAE."""
        x = transforms.hflip(x, draw_mask(len(x), self.vaal.flip, mirror)) if self.vaal.flip else x
        return self.vae.prepare(x)

    def vae_step(self, labelled: _Batch, unlabelled: _Batch, noise: torch.Generator) -> Tensor:
        """One step of the VAE. The two kinds of images pass separately, so batch normalisation never mixes them."""
        parts, logits = [], []
        for x, raw in (labelled, unlabelled):
            mu, log_variance = self.vae.encode(x)
            z = mu + (0.5 * log_variance).exp() * torch.randn(mu.shape, generator=noise, device=self.device)
            squashed = raw.sigmoid() if self.state.step else raw  # noise is in [0, 1) already
            decoded = self.vae.decoder(torch.cat([z, squashed], dim=1))
            parts.append(reconstruction_loss(x, decoded, mu, log_variance, beta=self.vaal.beta, kl=self.vaal.kl))
            logits.append(self.discriminator(torch.cat([mu, raw], dim=1)))
        loss = parts[0] + parts[1] + self.vaal.adversary * adversarial_loss(*logits)
        self.optimisers[0].zero_grad(set_to_none=True)
        loss.backward(inputs=list(self.vae.parameters()))
        self.optimisers[0].step()
        return loss.detach()

    def adv_step(self, labelled: _Batch, unlabelled: _Batch) -> Tensor:
        """One step of the discriminator. It sees means, not samples."""
        with torch.no_grad():
            codes = [torch.cat([self.vae.encode(x)[0], raw], dim=1) for x, raw in (labelled, unlabelled)]
        loss = discriminator_loss(*map(self.discriminator, codes))
        self.optimisers[1].zero_grad(set_to_none=True)
        loss.backward()
        self.optimisers[1].step()
        return loss.detach()

    def logits(self) -> Tensor:
        """Logits [M] of being labelled, of the unlabelled images in their order, on the CPU."""
        rows, conditions = self.rows[1], self.conditions[1]
        self.vae.train(not self.vaal.eval_sampling)
        shuffled = torch.randperm(len(rows), generator=(self.stream / "scoring").generator())
        order, chunk, mirror = shuffled.to(self.device), self.vaal.batch, (self.stream / "flip" / "scoring").generator(self.device)
        means = train.predict(lambda x: self.vae.encode(self.prepared(x, mirror))[0], self.images, rows[order], chunk=chunk)
        with torch.no_grad():  # in the same chunks, so that the last bits are those of one pass through both nets
            parts = torch.cat([means, conditions[order]], dim=1).split(chunk)
            logits = torch.cat([self.discriminator(codes) for codes in parts]).flatten().cpu()
        return torch.empty_like(logits).index_copy_(0, shuffled, logits)
