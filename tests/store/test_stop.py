"""Stopping when asked to: a deadline or a file, seen in the middle of a training, and said in words."""

import os
import threading
import time
from pathlib import Path

import pytest

import alnb
from alnb.data import ImageSet
from alnb.store import stop
from alnb.store.stop import TimeIsUp


@pytest.fixture(autouse=True)
def nothing_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (stop.DEADLINE, stop.STOP):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(stop, "_last_look", [0.0])


def test_nobody_asked() -> None:
    assert not stop.requested()
    stop.check("here")


@pytest.mark.parametrize(("given", "asked"), [("", False), ("0", True), ("1e12", False)])
def test_a_deadline_is_seconds_since_the_epoch(monkeypatch: pytest.MonkeyPatch, given: str, asked: bool) -> None:
    monkeypatch.setenv(stop.DEADLINE, given)
    assert stop.requested() is asked


def test_a_deadline_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(stop.DEADLINE, str(time.time() + 5))
    assert not stop.requested()
    monkeypatch.setattr(stop, "time", type("Later", (), {"time": staticmethod(lambda: time.time() + 6), "monotonic": time.monotonic}))
    assert stop.requested()


def test_a_stop_file_is_looked_for_now_and_then(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    now, looks = [100.0], [0]
    monkeypatch.setattr(stop, "time", type("Clock", (), {"time": time.time, "monotonic": staticmethod(lambda: now[0])}))
    listed = os.listdir
    monkeypatch.setattr(os, "listdir", lambda folder: (looks.__setitem__(0, looks[0] + 1), listed(folder))[1])
    monkeypatch.setenv(stop.STOP, str(tmp_path / "stop"))
    assert not any(stop.requested() for _ in range(1000)) and looks == [1]
    (tmp_path / "stop").touch()
    assert not stop.requested()
    now[0] += stop.LOOK_SECONDS
    assert stop.requested() and stop.requested()  # and stays so
    (tmp_path / "stop").unlink()
    assert not stop.requested()


def test_a_question_costs_little(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It is asked in every update: 20,000 of them within a second, thirty times what was measured."""
    monkeypatch.setenv(stop.STOP, str(tmp_path / "stop"))
    monkeypatch.setenv(stop.DEADLINE, str(time.time() + 3600))
    start = time.perf_counter()
    assert not any(stop.requested() for _ in range(20_000))
    assert time.perf_counter() - start < 1


def test_the_message_says_where_and_that_nothing_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(stop.DEADLINE, "1")
    with pytest.raises(TimeIsUp, match=r"^stopped on request, in cycle 3: .* are stored"):
        stop.check("in cycle 3")


def test_a_training_stops_at_a_checkpoint_and_ends_with_the_same_bits(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, train: ImageSet, test: ImageSet, learner: alnb.Learner
) -> None:
    """Stopped after each update in turn."""
    strategy, answers = alnb.acquire.STRATEGIES["margin"], alnb.oracle.simulated(train.targets)
    experiment = alnb.Experiment(alnb.Pool.of(train.images), test, learner, strategy, answers, alnb.Protocol(6, 4, 2))

    def run(folder: Path) -> list[dict]:
        return [cycle.reproducible for cycle in alnb.cycles(folder, experiment)]

    undisturbed, asked, places = run(tmp_path / "whole"), [0], list[str]()

    def soon() -> bool:
        asked[0] += 1
        return asked[0] > 1  # the first question is the loop's, the second that after an update

    monkeypatch.setattr(stop, "requested", soon)
    found: list[dict] = []
    while not found:
        asked[0] = 0
        try:
            found = run(tmp_path / "stopped")
        except TimeIsUp as error:
            places.append(str(error).partition(":")[0])
    assert found == undisturbed
    trainings = [f"stopped on request, cycle {cycle}, update {update} of 12" for cycle in (0, 1) for update in range(1, 12)]
    assert [place for place in places if "update" in place] == trainings
    assert f"stopped on request, {tmp_path / 'stopped'}, before cycle 1 of 2" in places


def test_requested_by_is_of_one_thread() -> None:
    event, found = threading.Event(), []
    with stop.requested_by(event.is_set):
        assert not stop.requested()
        event.set()
        assert stop.requested()
        other = threading.Thread(target=lambda: found.append(stop.requested()))
        other.start()
        other.join()
        with pytest.raises(TimeIsUp, match="here"):
            stop.check("here")
    assert not stop.requested() and found == [False]
