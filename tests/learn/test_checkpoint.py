"""Checkpoints: what is stored and read again, when the next one is due, and the messages when a computation fails."""

import math
from pathlib import Path

import pytest
import torch

from alnb import store
from alnb.learn import checkpoint
from alnb.learn.checkpoint import Checkpoint, NonFiniteLoss
from alnb.store import stop

CPU = torch.device("cpu")


def of(path: Path | None, identity: str = "mine", seconds: float = 20.0) -> Checkpoint:
    return Checkpoint(path, identity, seconds, "cycle 3")


def test_a_checkpoint_comes_back_with_its_step(tmp_path: Path) -> None:
    first = of(tmp_path / "net.pt")
    assert first.resume(CPU) is None and first.step == 0
    first.step = 5
    first.save({"weights": torch.arange(3)})
    again = of(tmp_path / "net.pt")
    content = again.resume(CPU)
    assert content is not None and list(content) == ["weights"] and content["weights"].tolist() == [0, 1, 2]
    assert again.step == again.saved_step == 5


def test_a_checkpoint_of_another_computation_is_refused(tmp_path: Path) -> None:
    of(tmp_path / "net.pt").save({})
    with pytest.raises(store.Corrupted, match=r"net\.pt.*delete it"):
        of(tmp_path / "net.pt", "another").resume(CPU)
    checkpoint.write(tmp_path / "other.pt", "mine", {})
    with pytest.raises(store.Corrupted, match=r"other\.pt"):
        checkpoint.read(tmp_path / "other.pt", "another")


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    of(path).save({"weights": torch.arange(300)})
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(store.Corrupted, match=r"net\.pt"):
        of(path).resume(CPU)


def test_without_a_path_nothing_is_stored_or_due(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stop, "requested", lambda: True)
    state = of(None, seconds=0.0)
    state.save({"weights": torch.arange(3)})
    assert state.resume(CPU) is None and not state.due


def test_a_checkpoint_is_due_after_its_seconds_or_when_a_stop_is_requested(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    state = of(tmp_path / "net.pt")
    state.saved_time = 100.0
    clock[0] = 119.0
    assert not state.due
    clock[0] = 121.0
    assert state.due
    state.save({})
    assert not state.due
    monkeypatch.setattr(stop, "requested", lambda: True)
    assert state.due


def test_checkpoints_take_a_hundredth_of_the_time_at_most(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    state = of(tmp_path / "net.pt")
    clock = iter([100.0, 100.5])  # before a save and after it
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    state.save({})
    assert state.seconds == 50.0


def test_a_requested_stop_names_the_place(monkeypatch: pytest.MonkeyPatch) -> None:
    state = of(None)
    state.step = 7
    state.stop_if_requested(90)  # nobody asked for a stop
    monkeypatch.setattr(stop, "requested", lambda: True)
    with pytest.raises(stop.TimeIsUp, match="cycle 3, update 7 of 90"):
        state.stop_if_requested(90)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_names_its_update(bad: float, tmp_path: Path) -> None:
    losses = [torch.tensor(value) for value in (1.0, 2.0, bad, 4.0)]
    state = of(tmp_path / "net.pt")
    state.step = 10
    assert state.mean(losses[:2]) == 1.5
    with pytest.raises(NonFiniteLoss, match=f"cycle 3: the VAE's loss is {bad} at update 8; there is no checkpoint.*learning rate"):
        state.mean(losses, "VAE's loss")
    state.save({})
    with pytest.raises(NonFiniteLoss, match=r"net\.pt, update 10"):
        state.mean(losses)


def test_weights_that_are_not_finite_are_not_stored() -> None:
    nets = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    state = of(None)
    state.step = 4
    state.check_weights(*nets)
    with torch.no_grad():
        nets[1].bias[0] = math.inf
    with pytest.raises(NonFiniteLoss, match="cycle 3: weights are not finite after update 3"):
        state.check_weights(*nets)
