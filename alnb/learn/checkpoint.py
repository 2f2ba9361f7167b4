"""Checkpoints: a long computation stores its state, and continues from there after a kill."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from alnb import store
from alnb.learn.nets import Net
from alnb.store import Json, stop

CHECKPOINT_SHARE = 0.01  # of the time, which checkpoints may take; if they are slow, there are more seconds between them


class NonFiniteLoss(Exception):
    """A loss or a weight became infinite or not a number."""


def read(path: Path | None, identity: str, device: torch.device | str = "cpu") -> Json | None:
    """The content of a checkpoint; None if there is none. `identity` is the fingerprint of the computation that wants to continue.

    Raises:
        store.Corrupted: the file is damaged, or belongs to another computation.
    """
    if path is None or not path.exists():
        return None
    content = store.read_tensors(path, device)
    if content.pop("identity", None) != identity:
        raise store.Corrupted(f"{path} belongs to another computation (other settings, images, labels or seed): delete it to start again")
    return content


def write(path: Path | None, identity: str, content: Json) -> None:
    """Write a checkpoint atomically. A `path` of None does nothing."""
    if path is not None:
        store.write_tensors(path, {"identity": identity, **content})


@dataclass
class Checkpoint:
    """The checkpoint file of one training, and the training's position."""

    path: Path | None  # None: nothing is stored
    identity: str  # fingerprint of the training; the checkpoint of another one is refused
    seconds: float  # between two checkpoints, at least
    place: str  # of the training, for messages
    remedy: str = "Lower the learning rate, or look at the images"
    step: int = 0  # updates done
    saved_step: int | None = None  # `step` of the last checkpoint; None: there is none
    saved_time: float = field(default_factory=time.monotonic)

    def resume(self, device: torch.device) -> Json | None:
        """`read` the stored state, and set `step` to that of the checkpoint."""
        content = read(self.path, self.identity, device)
        if content is not None:
            self.step = self.saved_step = content.pop("step")
        return content

    @property
    def due(self) -> bool:
        """True if it is time for a new checkpoint, or a stop was requested."""
        return self.path is not None and (stop.requested() or time.monotonic() - self.saved_time > self.seconds)

    def save(self, content: Json) -> None:
        """Store the state after `step` updates."""
        start = time.monotonic()
        write(self.path, self.identity, {"step": self.step, **content})
        self.saved_step, self.saved_time = self.step, time.monotonic()
        self.seconds = max(self.seconds, (self.saved_time - start) / CHECKPOINT_SHARE)

    def stop_if_requested(self, updates: int) -> None:
        """Call it right after `save`. Raises: stop.TimeIsUp."""
        stop.check(f"{self.place}, update {self.step} of {updates}")

    def mean(self, losses: list[Tensor], name: str = "loss") -> float:
        """The mean of the losses of the last updates. The host waits for the device.

        Raises:
            NonFiniteLoss: the message names the first bad update and the last good checkpoint.
        """
        values = torch.stack(losses).tolist()
        for back, value in zip(range(len(values), 0, -1), values, strict=True):
            if not math.isfinite(value):
                raise NonFiniteLoss(f"{self.place}: the {name} is {value} at update {self.step - back}; {self._remedy()}")
        return float(sum(values) / len(values))

    def check_weights(self, *nets: torch.nn.Module) -> None:
        """Raises: NonFiniteLoss if a weight is not finite. The last loss does not show it: it belongs to the weights before the update."""
        finite = [value.isfinite().all() for net in nets for value in net.state_dict().values()]
        if not bool(torch.stack(finite).all()):
            raise NonFiniteLoss(f"{self.place}: weights are not finite after update {self.step - 1}; {self._remedy()}")

    def _remedy(self) -> str:
        saved = f"the last good checkpoint is {self.path}, update {self.saved_step}"
        return f"{'there is no checkpoint before it' if self.saved_step is None else saved}. {self.remedy}"


@dataclass
class BestNet:
    """Of a training, the net with the largest score; of equal ones the first. It lies in a file.

    After a kill, the training looks again at epochs that it looked at before. They give the same score, and change nothing.
    """

    path: Path
    identity: str  # of the training
    score: Callable[[Net], float]  # of a net in evaluation mode
    best: float = math.nan  # the largest score; NaN: there is none yet

    def __post_init__(self) -> None:
        """Read the score that an earlier process reached."""
        saved = read(self.path, self.identity)
        self.best = saved["score"] if saved is not None else math.nan

    def look(self, net: Net, step: int) -> None:
        """Store the net of update `step` if it is the best so far. A first one is, even if its score is not a number."""
        score = self.score(net)
        if score > self.best or math.isnan(self.best):
            self.best = score
            write(self.path, self.identity, {"score": score, "step": step, "net": net.state_dict()})

    def restore(self, net: Net, device: torch.device) -> None:
        """Load the best net's weights into `net`."""
        saved = read(self.path, self.identity, device)
        assert saved is not None  # the last update was looked at
        net.load_state_dict(saved["net"])
