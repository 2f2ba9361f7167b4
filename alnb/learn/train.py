"""How a net is trained: `Recipe`, `Learner`, `fit`; and read: `predict` (the one chunk loop), `evaluate`."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from alnb import store
from alnb.data import Embedded, Images
from alnb.learn import metrics
from alnb.learn.augment import AUGMENTATIONS, Augment
from alnb.learn.nets import NO_CHANGE, Backbone, Net
from alnb.store import stop as pause
from alnb.store import streams as rng

REPORT_UPDATES = 50  # losses are read from the device once in so many updates
CHUNK = 1000  # images of up to 64x64 a forward pass, see `chunk_of`: fixed, so that the last bits never depend on the machine's memory
CHECKPOINT_SHARE = 0.01  # checkpoints may cost this share of the time, whatever `checkpoint_seconds` says

Report = Callable[[int, int, float], None]
"""Called with (updates done, updates in all, mean loss since the last call)."""
Loss = Callable[[Net, Tensor, Tensor], Tensor]
"""(net, images [B,3,H,W] in [0, 1], labels i64 [B]) -> loss of each image [B]."""


class NonFiniteLoss(Exception):
    """The loss became infinite or not a number."""


@dataclass(frozen=True)
class Recipe:
    """How a net is trained: SGD with momentum.

    A batch may reach from one pass over the data into the next, so that all batches have the same size, nothing is dropped and every
    image is seen equally often.
    """

    epochs: float = 200  # passes over the labelled images
    min_updates: int = 0  # floor on the number of updates, for tiny labelled sets
    batch: int = 128  # images an update; fewer where fewer are labelled
    lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 5e-4
    schedule: str = "cosine"  # "cosine" to 0, "constant", or "step": a tenth from each milestone on
    milestones: tuple[float, ...] = (0.8,)  # of "step", as fractions of the training
    warmup: float = 0.0  # fraction of the training in which the rate climbs linearly
    augment: Augment = AUGMENTATIONS["none"]
    views: int = 1  # random views of each image in an update, one after the other along the batch axis
    precision: str = "auto"  # "auto": bfloat16 autocast on CUDA, float32 elsewhere; or one of the two
    compile: bool = False  # torch.compile; worth it on a GPU and in long trainings
    stuck_in_eval: bool = field(default=False, metadata={"added": True})  # a defect of VAAL's and PAL's code
    checkpoint_seconds: float = field(default=60.0, metadata={"result": False})  # changes no result, so no manifest either

    def __post_init__(self) -> None:
        """Raises: ValueError, which names the field, its value and what it may be."""
        for name, number in {"epochs": self.epochs, "batch": self.batch, "lr": self.lr}.items():
            if not 0 < number < math.inf:
                raise ValueError(f"Recipe.{name} is {number}: it must be above 0, and finite")
        for name, least in {"batch": 1, "min_updates": 0, "views": 1}.items():
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise ValueError(f"Recipe.{name} is {value!r}: it must be a whole number, at least {least}")
        for name, share in {"momentum": self.momentum, "warmup": self.warmup}.items():
            if not 0 <= share < 1:
                raise ValueError(f"Recipe.{name} is {share}: it must be in [0, 1)")
        for name, value, allowed in (
            ("schedule", self.schedule, ("cosine", "constant", "step")),
            ("precision", self.precision, ("auto", "float32", "bfloat16")),
        ):
            if value not in allowed:
                raise ValueError(f"Recipe.{name} is {value!r}: it must be one of {', '.join(allowed)}")

    def updates(self, n: int) -> int:
        """Number of updates on `n` labelled images."""
        return max(self.min_updates, math.ceil(self.epochs * n / min(self.batch, n)))

    def rate(self, step: int, updates: int) -> float:
        """Learning rate of update `step` (from 0) out of `updates`."""
        done = step / updates
        rising = min(1.0, (done + 1 / updates) / self.warmup) if self.warmup else 1.0
        if self.schedule == "cosine":
            return self.lr * rising * 0.5 * (1 + math.cos(math.pi * done))
        passed = sum(done >= milestone for milestone in self.milestones) if self.schedule == "step" else 0
        return self.lr * rising * 0.1**passed


@dataclass(frozen=True)
class Watch:
    """Something looked at during a training, which changes nothing in it."""

    every: int  # updates; the last one is looked at too
    look: Callable[[Net, int], None]  # called with the net, in evaluation mode, and the number of updates done


def cross_entropy(net: Net, x: Tensor, y: Tensor) -> Tensor:
    """Loss [B] of images [B,3,H,W] in [0, 1] with labels i64 [B]."""
    return functional.cross_entropy(net(x), y, reduction="none")


@dataclass(frozen=True)
class Later:
    """Another loss for the rest of a training."""

    share: float  # of the updates, after which it takes over, in (0, 1)
    loss: Loss

    def __post_init__(self) -> None:
        """Raises: ValueError where the share is not one."""
        if not 0 < self.share < 1:
            raise ValueError(f"Later.share is {self.share}: it must be in (0, 1), a part of the training")


@dataclass(frozen=True)
class Learner:
    """How a net is built and trained."""

    net: Callable[[int], Net]  # from the number of outputs, as in `nets.NETS`
    recipe: Recipe
    loss: Loss = cross_entropy
    mean: tuple[float, ...] = NO_CHANGE[0]  # of the images, per channel, in [0, 1]
    std: tuple[float, ...] = NO_CHANGE[1]
    backbone: Backbone | None = None  # where the trunk's weights start; None: at random
    later: Later | None = field(default=None, metadata={"added": True})

    def build(self, outputs: int, seed: int, *where: str | int, device: torch.device | str = "cpu") -> Net:
        """A net with fresh weights, the same on every device; channels last, which is faster on GPUs and CPUs alike.

        Raises:
            ValueError: the backbone was made for another net.
        """
        with rng.scope(seed, "init", *where):
            net = self.net(outputs)
        net.mean.copy_(torch.tensor(self.mean))
        net.std.copy_(torch.tensor(self.std))
        if self.backbone is not None:
            try:
                net.trunk.load_state_dict(dict(self.backbone.state))
            except RuntimeError as error:
                raise ValueError(f"the backbone {self.backbone.fingerprint[:10]} does not fit {self.net}: {error}") from error
        return net.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # its stub lacks this form


# ---- training -----------------------------------------------------------------------------------------------------------------


@dataclass
class Order:
    """Which of `n` images each update sees: shuffled passes, cut into batches of one size. A function of the step alone."""

    n: int
    batch: int
    seed: int
    where: tuple[str | int, ...]
    device: torch.device
    passes: dict[int, Tensor] = field(default_factory=dict)

    def __call__(self, step: int) -> Tensor:
        """Positions i64 [batch] in [0, n) of update `step`."""
        start, end = step * self.batch, (step + 1) * self.batch
        first, last = start // self.n, (end - 1) // self.n
        self.passes = {number: self.passes[number] if number in self.passes else self._shuffle(number) for number in range(first, last + 1)}
        joined = torch.cat([self.passes[number] for number in range(first, last + 1)]) if last > first else self.passes[first]
        return joined[start - first * self.n : end - first * self.n]

    def _shuffle(self, number: int) -> Tensor:
        generator = rng.generator(self.seed, "order", *self.where, number)
        return torch.randperm(self.n, generator=generator).to(self.device, non_blocking=True)


@dataclass
class Training:
    """The state of one training: what a checkpoint holds, and when the next one is due."""

    net: Net
    optimiser: torch.optim.Optimizer
    identity: str  # of what is trained on what; a checkpoint of anything else is refused
    checkpoint: Path | None
    pause: float  # seconds between checkpoints
    step: int = 0
    saved_step: int | None = None
    saved_time: float = field(default_factory=time.monotonic)

    def resume(self) -> None:
        """Continue from the checkpoint where there is one.

        Raises:
            store.Corrupted: it is damaged, or belongs to another training.
        """
        if self.checkpoint is None or not self.checkpoint.exists():
            return
        saved = store.read_tensors(self.checkpoint, self.net.mean.device)
        if saved["identity"] != self.identity:
            raise store.Corrupted(f"{self.checkpoint} belongs to another training (other recipe, labels or seed); delete it to begin anew")
        self.net.load_state_dict(saved["net"])
        if saved["optimiser"]:
            self.optimiser.load_state_dict(saved["optimiser"])
        self.step = self.saved_step = saved["step"]

    def due(self) -> bool:
        """Whether the last checkpoint is old enough for a new one, or somebody asked to stop."""
        return self.checkpoint is not None and (pause.requested() or time.monotonic() - self.saved_time > self.pause)

    def save(self, *, finished: bool) -> None:
        """Write the checkpoint. A finished training needs its optimiser no more."""
        if self.checkpoint is None:
            return
        before = time.monotonic()
        optimiser = {} if finished else self.optimiser.state_dict()
        content = {"identity": self.identity, "step": self.step, "net": self.net.state_dict(), "optimiser": optimiser}
        store.write_tensors(self.checkpoint, content)
        self.saved_step, self.saved_time = self.step, time.monotonic()
        self.pause = max(self.pause, (self.saved_time - before) / CHECKPOINT_SHARE)


def fit(
    net: Net,
    images: Images,
    indices: Tensor,
    labels: Tensor,
    recipe: Recipe,
    *,
    loss: Loss = cross_entropy,
    later: Later | None = None,
    seed: int = 0,
    where: tuple[str | int, ...] = (),
    checkpoint: Path | None = None,
    report: Report | None = None,
    watch: Watch | None = None,
) -> None:
    """Train `net` in place on the images at global `indices` i64 [L] with `labels` i64 [L], and leave it in evaluation mode.

    Killed and called again with the same arguments, it continues from `checkpoint` and ends, on the CPU, with the same bits. At the
    end the checkpoint holds the trained net. The host waits for the device once in `REPORT_UPDATES` updates.

    Args:
        later: another loss for the last part of the training.
        seed, where: the place in the experiment; the only source of randomness.
        watch: looked at during the training; after a resume, the same updates may be looked at again.
    Raises:
        NonFiniteLoss: it names the place, the update and the last good checkpoint.
        pause.TimeIsUp: somebody asked to stop; there is a checkpoint of this very update.
        store.Corrupted: the checkpoint is damaged.
    """
    if len(indices) == 0:
        raise ValueError(f"nothing to train on at {_place(where)}: there are no labelled images")
    indices, labels = indices.to(images.device), labels.to(images.device)
    optimiser = torch.optim.SGD(
        net.parameters(), lr=recipe.lr, momentum=recipe.momentum, nesterov=recipe.nesterov, weight_decay=recipe.weight_decay, fused=True
    )
    identity = store.fingerprint(recipe, indices, labels, seed, where, images.fingerprint)
    training = Training(net, optimiser, identity, checkpoint, recipe.checkpoint_seconds)
    training.resume()
    updates = recipe.updates(len(indices))
    order = Order(len(indices), min(recipe.batch, len(indices)), seed, where, images.device)
    changes = updates if later is None else math.ceil(later.share * updates)  # the first update of the later loss
    first, rest = (_update(training, recipe, one) for one in (loss, loss if later is None else later.loss))
    losses: list[Tensor] = []  # of the updates since the last report, still on the device
    net.train(not recipe.stuck_in_eval)
    while training.step < updates:
        chosen = order(training.step)
        generator = rng.generator(seed, "augment", *where, training.step, device=images.device)
        x = _views(images, indices[chosen], recipe, generator)
        update = first if training.step < changes else rest
        losses.append(update(x, labels[chosen], recipe.rate(training.step, updates)))
        training.step += 1
        last = training.step == updates
        if watch is not None and (last or training.step % watch.every == 0):
            _look(watch, net, training.step, recipe)
        if last or len(losses) == REPORT_UPDATES or training.due():
            mean = _read(losses, training, where)
            losses.clear()
            if report is not None:
                report(training.step, updates, mean)
            if last or training.due():
                _check_weights(training, where)
                training.save(finished=last)
                if not last:
                    pause.check(f"{_place(where)}, update {training.step} of {updates}")
    net.eval()


def _views(images: Images, indices: Tensor, recipe: Recipe, generator: torch.Generator) -> Tensor:
    """What the net sees in an update: float [views * B,3,H,W] in [0, 1], or features [views * B,D] where they stand for the images."""
    if isinstance(images, Embedded):
        views = [images.view(indices, generator) for _ in range(recipe.views)]
    else:
        x = images.batch(indices)
        views = [recipe.augment(x, generator)[0] for _ in range(recipe.views)]
    return torch.cat(views) if len(views) > 1 else views[0]


@torch.no_grad()
def _look(watch: Watch, net: Net, step: int, recipe: Recipe) -> None:
    net.eval()
    watch.look(net, step)
    net.train(not recipe.stuck_in_eval)


def _update(training: Training, recipe: Recipe, loss: Loss) -> Callable[[Tensor, Tensor, float], Tensor]:
    """One update: what the net sees, labels [B] and a learning rate to the mean loss, which stays on the device."""
    device = training.net.mean.device
    loss = torch.compile(loss) if recipe.compile else loss
    half = recipe.precision == "bfloat16" or (recipe.precision == "auto" and device.type == "cuda")

    def update(x: Tensor, y: Tensor, rate: float) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            mean = loss(training.net, x, y).mean()
        training.optimiser.zero_grad(set_to_none=True)
        mean.backward()
        for group in training.optimiser.param_groups:
            group["lr"] = rate
        training.optimiser.step()
        return mean.detach()

    return update


def _check_weights(training: Training, where: tuple[str | int, ...]) -> None:
    """The loss is that of the weights before the last step: what that step made of them is looked at before they are stored."""
    if not bool(torch.stack([value.isfinite().all() for value in training.net.state_dict().values()]).all()):
        raise NonFiniteLoss(f"weights are not finite after {_place(where)}, update {training.step - 1}; {_remedy(training)}")


def _remedy(training: Training) -> str:
    last = f"the last good checkpoint is {training.checkpoint}, update {training.saved_step}"
    return f"{'there is no checkpoint before it' if training.saved_step is None else last}. Lower the learning rate, or look at the images"


def _read(losses: list[Tensor], training: Training, where: tuple[str | int, ...]) -> float:
    """The mean of the losses of the last updates, which it waits for."""
    values = torch.stack(losses).tolist()
    for back, value in zip(range(len(values), 0, -1), values, strict=True):
        if not math.isfinite(value):
            raise NonFiniteLoss(f"the loss is {value} at {_place(where)}, update {training.step - back}; {_remedy(training)}")
    return float(sum(values) / len(values))


def _place(where: tuple[str | int, ...]) -> str:
    return " ".join(map(str, where)) or "the only training"


# ---- reading ------------------------------------------------------------------------------------------------------------------


def chunk_of(images: Images) -> int:
    """Images to a forward pass: `CHUNK`, and of images beyond 64x64 as many as have as many pixels."""
    pixels = math.prod(images.shape[1:])  # 1 of features
    return max(1, CHUNK * 64**2 // max(pixels, 64**2))


@torch.no_grad()
def predict(function: Callable[[Tensor], Tensor], images: Images, indices: Tensor | None = None, *, chunk: int | None = None) -> Tensor:
    """`function` of the images at global `indices` (None: of all), without augmentation: the chunk loop of the whole package.

    Args:
        function: float images [B,3,H,W] in [0, 1] to a tensor [B,...], as `net.features`.
        chunk: images to a forward pass; None: `chunk_of` them.
    Returns:
        [M,...] on the device of the images, in the order of `indices`. Memory: O(result + chunk).
    """
    indices = torch.arange(len(images), device=images.device) if indices is None else indices.to(images.device)
    out: Tensor | None = None
    chunk = chunk_of(images) if chunk is None else chunk
    for start in range(0, max(len(indices), 1), chunk):
        x = images.batch(indices[start : start + chunk])
        part = function(x if x.is_floating_point() else x.float() / 255)
        out = part.new_empty((len(indices), *part.shape[1:])) if out is None else out
        out[start : start + chunk] = part
    assert out is not None  # the loop runs at least once
    return out


def log_probs(net: Net) -> Callable[[Tensor], Tensor]:
    """The function of images to log-probabilities [B,C] that `predict` takes."""
    return lambda x: net(x).float().log_softmax(dim=1)


def evaluate(net: Net, images: Images, targets: Tensor, classes: int) -> dict[str, float | list[float | None]]:
    """Metrics of `net` on all `images` with `targets` i64 [N]: accuracy, per_class (None where a class is absent), negative
    log-likelihood in nats, and calibration error.
    """
    net.eval()
    logs = predict(log_probs(net), images)
    targets = targets.to(logs.device)
    table = metrics.confusion(logs.argmax(dim=1), targets, classes)
    per_class = [None if math.isnan(value) else value for value in metrics.per_class_accuracy(table).tolist()]
    return {
        "accuracy": float(metrics.accuracy(table)),
        "per_class": per_class,
        "negative_log_likelihood": float(metrics.negative_log_likelihood(logs, targets)),
        "calibration_error": float(metrics.calibration_error(logs, targets)),
    }
