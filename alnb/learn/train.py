"""Training a net: `Recipe`, `Learner`, `fit`. Reading one: `predict` (the only loop over chunks), `evaluate`."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from alnb import store
from alnb.data import Embedded, Images
from alnb.learn import metrics
from alnb.learn.augment import AUGMENTATIONS, Augment
from alnb.learn.checkpoint import Checkpoint
from alnb.learn.nets import NO_CHANGE, Backbone, Net
from alnb.store.checks import at_least, one_of, within
from alnb.store.streams import Stream

REPORT_UPDATES = 50  # the host reads the losses from the device once in this many updates
CHUNK = 1000  # images of up to 64x64 in a forward pass; a fixed number, so that no bit of a result depends on the machine's memory

Report = Callable[[int, int, float], None]
"""Called with (updates done, updates in total, mean loss since the last call)."""
Look = Callable[[Net, int], None]
"""Called with the net, in evaluation mode, and the number of updates done."""
Loss = Callable[[Net, Tensor, Tensor], Tensor]
"""(net, images [B,3,H,W] in [0, 1], labels i64 [B]) -> loss of each image [B]."""


@dataclass(frozen=True)
class Recipe:
    """How a net is trained: SGD with momentum. A batch may reach from one pass over the images into the next, so all have one size."""

    epochs: float = 200  # passes over the labelled images
    min_updates: int = 0  # floor on the number of updates, for tiny labelled sets
    batch: int = 128  # images in an update; fewer if fewer are labelled
    lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 5e-4
    schedule: str = "cosine"  # "cosine" to 0, "constant", or "step": divided by 10 at each milestone
    milestones: tuple[float, ...] = (0.8,)  # for "step": fractions of the training
    augment: Augment = AUGMENTATIONS["none"]
    views: int = 1  # random views of each image in an update, concatenated along the batch axis
    precision: str = "auto"  # "auto": bfloat16 autocast on CUDA, float32 elsewhere; or "float32", "bfloat16"
    compile: bool = False  # torch.compile; it pays on a GPU and in long trainings
    stuck_in_eval: bool = False  # train in evaluation mode: a defect of VAAL's and PAL's code (`methods.md`, difference 7)
    checkpoint_seconds: float = field(default=60.0, metadata={"result": False})  # it changes no result, so manifests leave it out

    def __post_init__(self) -> None:
        """Raises: ValueError, which names the field, its value and what it may be."""
        for name in ("epochs", "lr"):
            within(f"Recipe.{name}", getattr(self, name), 0, math.inf, above=True)
        for name, low in {"batch": 1, "min_updates": 0, "views": 1}.items():
            at_least(f"Recipe.{name}", getattr(self, name), low)
        within("Recipe.momentum", self.momentum, 0, 1)
        one_of("Recipe.schedule", self.schedule, ("cosine", "constant", "step"))
        one_of("Recipe.precision", self.precision, ("auto", "float32", "bfloat16"))

    def updates(self, n: int) -> int:
        """Number of updates on `n` labelled images."""
        return max(self.min_updates, math.ceil(self.epochs * n / min(self.batch, n)))

    def epoch(self, n: int) -> int:
        """Number of updates in an epoch of a training on `n` labelled images, rounded, at least 1."""
        return max(1, round(self.updates(n) / self.epochs))

    def rate(self, step: int, updates: int) -> float:
        """Learning rate of update `step` (from 0) out of `updates`."""
        done = step / updates
        if self.schedule == "cosine":
            return self.lr * 0.5 * (1 + math.cos(math.pi * done))
        passed = sum(done >= milestone for milestone in self.milestones) if self.schedule == "step" else 0
        return self.lr * 0.1**passed


@dataclass(frozen=True)
class TrainingHook:
    """Functions that are called during a training and change nothing in it."""

    report: Report | None = None
    looks: tuple[tuple[Look, int], ...] = ()  # each with the updates between two of its calls; all are called after the last update too


def cross_entropy(net: Net, x: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy [B] in nats of images [B,3,H,W] in [0, 1] with labels i64 [B]."""
    return functional.cross_entropy(net(x), y, reduction="none")


@dataclass(frozen=True)
class LossSwitch:
    """Another loss for the rest of a training."""

    share: float  # of the updates, in (0, 1), after which the other loss takes over
    loss: Loss

    def __post_init__(self) -> None:
        """Raises: ValueError if the share is not a fraction."""
        within("LossSwitch.share", self.share, 0, 1, above=True)


@dataclass(frozen=True)
class Learner:
    """How a net is built and trained."""

    net: Callable[[int], Net]  # from the number of outputs, as in `nets.NETS`
    recipe: Recipe
    loss: Loss | None = None  # None: the loss of the task, see `learn.task`; cross-entropy in a bare `fit`
    mean: tuple[float, ...] = NO_CHANGE[0]  # of the images, per channel, in [0, 1]
    std: tuple[float, ...] = NO_CHANGE[1]
    backbone: Backbone | None = None  # pre-trained weights of the trunk; None: random ones
    switch: LossSwitch | None = None

    def build(self, outputs: int, stream: Stream, device: torch.device | str = "cpu") -> Net:
        """A net with fresh weights, the same on every device, channels-last. Raises: ValueError if the backbone is of another net."""
        with (stream / "init").scope():
            net = self.net(outputs)
        net.mean.copy_(torch.tensor(self.mean))
        net.std.copy_(torch.tensor(self.std))
        if self.backbone is not None:
            try:
                net.trunk.load_state_dict(dict(self.backbone.state))
            except RuntimeError as error:
                raise ValueError(f"the backbone {self.backbone.fingerprint[:10]} does not fit {self.net}: {error}") from error
        return net.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # its stub lacks this form


@dataclass
class Order:
    """Which of `n` images each update sees: shuffled passes, cut into batches of one size. It depends on the update's number alone."""

    n: int
    batch: int
    stream: Stream
    device: torch.device
    passes: dict[int, Tensor] = field(default_factory=dict)  # those of the last update

    def __call__(self, step: int) -> Tensor:
        """Positions i64 [batch] in [0, n) of update `step`."""
        start, end = step * self.batch, (step + 1) * self.batch
        first, last = start // self.n, (end - 1) // self.n
        self.passes = {number: self.passes[number] if number in self.passes else self._shuffle(number) for number in range(first, last + 1)}
        line = torch.cat(list(self.passes.values())) if last > first else self.passes[first]
        return line[start - first * self.n : end - first * self.n]

    def _shuffle(self, number: int) -> Tensor:
        generator = (self.stream / "order" / number).generator()
        return torch.randperm(self.n, generator=generator).to(self.device, non_blocking=True)


def fit(
    net: Net,
    images: Images,
    indices: Tensor,
    labels: Tensor,
    learner: Learner,
    stream: Stream,
    *,
    checkpoint: Path | None = None,
    hook: TrainingHook | None = None,
) -> None:
    """Train `net` in place on the images at global `indices` i64 [L] with `labels` i64 [L], and leave it in evaluation mode.

    Killed and called again with the same arguments, it continues from `checkpoint`; on the CPU the result is the same to the bit. In the
    end the checkpoint holds the trained net. The host waits for the device once in `REPORT_UPDATES` updates.

    Args:
        hook: after a resume, it may see the same updates again.
    Raises:
        ValueError: there are no labelled images.
        NonFiniteLoss: the message names the place, the update and the last good checkpoint.
        stop.TimeIsUp: a stop was requested; the checkpoint is of this update.
        store.Corrupted: the checkpoint is damaged, or of another training.
    """
    hook = hook or TrainingHook()
    training = _Training(net, images, indices.to(images.device), labels.to(images.device), learner, stream, checkpoint)
    state, updates = training.state, training.updates
    losses: list[Tensor] = []  # of the updates since the last report, still on the device
    net.train(not learner.recipe.stuck_in_eval)
    while state.step < updates:
        losses.append(training.update())
        state.step += 1
        last = state.step == updates
        training.look([look for look, every in hook.looks if last or state.step % every == 0])
        if last or len(losses) == REPORT_UPDATES or state.due:
            mean = state.mean(losses)
            losses.clear()
            if hook.report is not None:
                hook.report(state.step, updates, mean)
            if last or state.due:
                training.save(finished=last)
                if not last:
                    state.stop_if_requested(updates)
    net.eval()


class _Training:
    """One training: the net, its optimiser, what it is trained on, and its position."""

    def __init__(
        self, net: Net, images: Images, indices: Tensor, labels: Tensor, learner: Learner, stream: Stream, checkpoint: Path | None
    ) -> None:
        """At its start, or at the position of `checkpoint`."""
        place = str(stream) or "the only training"
        if len(indices) == 0:
            raise ValueError(f"{place}: there are no labelled images to train on")
        recipe = learner.recipe
        self.net, self.images, self.indices, self.labels, self.recipe, self.stream = net, images, indices, labels, recipe, stream
        self.optimiser = torch.optim.SGD(
            net.parameters(), lr=recipe.lr, momentum=recipe.momentum, nesterov=recipe.nesterov, weight_decay=recipe.weight_decay, fused=True
        )
        identity = "" if checkpoint is None else store.fingerprint(learner, indices, labels, stream, images.fingerprint)
        self.state = Checkpoint(checkpoint, identity, recipe.checkpoint_seconds, place)
        self.updates = recipe.updates(len(indices))
        self.order = Order(len(indices), min(recipe.batch, len(indices)), stream, images.device)
        losses = [learner.loss or cross_entropy, *([learner.switch.loss] if learner.switch else [])]
        self.switch_step = math.ceil(learner.switch.share * self.updates) if learner.switch else self.updates
        self.losses = [torch.compile(loss) if recipe.compile else loss for loss in losses]
        self.half = recipe.precision == "bfloat16" or (recipe.precision == "auto" and images.device.type == "cuda")
        saved = self.state.resume(images.device)
        if saved is not None:
            net.load_state_dict(saved["net"])
            if saved["optimiser"]:
                self.optimiser.load_state_dict(saved["optimiser"])

    def update(self) -> Tensor:
        """Do one update. Returns: its mean loss, still on the device."""
        chosen = self.order(self.state.step)
        x, loss = self.views(self.indices[chosen]), self.losses[0 if self.state.step < self.switch_step else -1]
        x = x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.half):
            mean = loss(self.net, x, self.labels[chosen]).mean()
        self.optimiser.zero_grad(set_to_none=True)
        mean.backward()
        for group in self.optimiser.param_groups:
            group["lr"] = self.recipe.rate(self.state.step, self.updates)
        self.optimiser.step()
        return mean.detach()

    def views(self, indices: Tensor) -> Tensor:
        """The net's input in an update: images float [views * B,3,H,W] in [0, 1], or features [views * B,D] of embedded images."""
        generator = (self.stream / "augment" / self.state.step).generator(self.images.device)
        if isinstance(self.images, Embedded):
            views = [self.images.view(indices, generator) for _ in range(self.recipe.views)]
        else:
            x = self.images.batch(indices)
            views = [self.recipe.augment(x, generator)[0] for _ in range(self.recipe.views)]
        return torch.cat(views) if len(views) > 1 else views[0]

    @torch.no_grad()
    def look(self, looks: Sequence[Look]) -> None:
        """Call `looks` with the net in evaluation mode."""
        for look in looks:
            self.net.eval()
            look(self.net, self.state.step)
            self.net.train(not self.recipe.stuck_in_eval)

    def save(self, *, finished: bool) -> None:
        """Write the checkpoint; without the optimiser, if the training is finished."""
        self.state.check_weights(self.net)
        self.state.save({"net": self.net.state_dict(), "optimiser": {} if finished else self.optimiser.state_dict()})


# ---- reading a net ------------------------------------------------------------------------------------------------------------------


def chunk_of(images: Images) -> int:
    """Images in a forward pass: `CHUNK`, or fewer if they are larger than 64x64, so that the number of pixels is the same."""
    pixels = math.prod(images.shape[1:])  # 1 for features
    return max(1, CHUNK * 64**2 // max(pixels, 64**2))


@torch.no_grad()
def predict(function: Callable[[Tensor], Tensor], images: Images, indices: Tensor | None = None, *, chunk: int | None = None) -> Tensor:
    """`function` of the images at global `indices` (None: all images), without augmentation, chunk by chunk.

    Args:
        function: from images float [B,3,H,W] in [0, 1], or features, to a tensor [B,...]; for example `net.features`.
        chunk: images in a forward pass; None: `chunk_of(images)`.
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
    """The function from images to log-probabilities [B,C], for `predict`."""
    return lambda x: net(x).float().log_softmax(dim=1)


def evaluate(net: Net, images: Images, targets: Tensor, classes: int) -> dict[str, float | list[float | None]]:
    """Metrics of `net` on all `images` with `targets` i64 [N], in evaluation mode.

    Returns:
        accuracy, per_class (None for a class without images), negative_log_likelihood in nats, calibration_error; see `metrics`.
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
