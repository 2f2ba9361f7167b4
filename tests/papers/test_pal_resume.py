"""PAL continues after an interruption, from any file it has stored, and refuses files of another query."""

from collections.abc import Iterator
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import pytest
import queries
import torch
from queries import query_of
from torch import Tensor

from alnb import store
from alnb.learn.checkpoint import NonFiniteLoss
from alnb.learn.nets import small
from alnb.papers.methods.pal import PAL, RECIPE
from alnb.store import Stream, stop

TINY = PAL(
    net=partial(small, width=4),
    recipe=replace(RECIPE, epochs=2, batch=8),
    part=4,
    tuning=replace(RECIPE, epochs=2, lr=0.01, batch=4, schedule="constant"),
)
batches = pytest.fixture(queries.batches_of)

EAGER = replace(TINY, recipe=replace(TINY.recipe, checkpoint_seconds=0), tuning=replace(TINY.tuning, checkpoint_seconds=0))
SCORED = 1  # batch that scores all candidates; there are 3 updates of the training, and 2 and 4 of the tunings on 4 and on 8 images


@cache
def undisturbed() -> Tensor:
    """The answer without an interruption."""
    return TINY(query_of(10))


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Writes a checkpoint after each update, and stops at the checkpoint whose number, from 0, is in the list."""
    monkeypatch.setattr("alnb.learn.checkpoint.CHECKPOINT_SHARE", 1e9)
    stops, count = [-1], iter(range(1000))

    def check(place: str) -> None:
        if next(count) == stops[0]:
            raise stop.TimeIsUp(place)

    monkeypatch.setattr("alnb.store.stop.check", check)
    yield stops


@pytest.mark.parametrize(
    ("at", "left"),  # batches after the interruption: nothing is trained or chosen twice
    [
        (0, 2 + SCORED + 2 + 1 + 4 + 1),
        (1, 1 + SCORED + 2 + 1 + 4 + 1),
        (2, 0 + SCORED + 1 + 1 + 4 + 1),  # in the first tuning
        (3, 0 + SCORED + 0 + 0 + 3 + 1),  # in the second
        (5, 0 + SCORED + 0 + 0 + 1 + 1),
    ],
)
def test_an_interrupted_one_continues(at: int, left: int, eager: list[int], batches: list[list[int]], tmp_path: Path) -> None:
    assert len(undisturbed()) == 10
    eager[0] = at
    query = replace(query_of(10), folder=tmp_path)
    with pytest.raises(stop.TimeIsUp):
        EAGER(query)
    assert list(tmp_path.iterdir())
    batches.clear()  # the fingerprint of the images, which reads them, is known by now
    assert torch.equal(undisturbed(), EAGER(query))
    assert len(batches) == left and not list(tmp_path.iterdir())


@pytest.mark.parametrize("write", range(10))
def test_one_killed_at_any_write_continues(write: int, eager: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Writes: three checkpoints of the training, the first part, two checkpoints, the second part, four more, the third part."""
    original, count = store.write_tensors, iter(range(1000))

    class Killed(Exception):
        pass

    def killed(path: Path, content: store.Json) -> None:
        if next(count) == write:
            raise Killed
        original(path, content)

    monkeypatch.setattr("alnb.store.write_tensors", killed)
    with pytest.raises(Killed):
        EAGER(replace(query_of(10), folder=tmp_path))
    monkeypatch.setattr("alnb.store.write_tensors", original)
    assert torch.equal(undisturbed(), EAGER(replace(query_of(10), folder=tmp_path))) and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("what", "file"),
    [
        ("part", "pal-chosen"),
        ("diversity", "pal-chosen"),
        ("candidates", "pal-chosen"),
        ("n", "pal-chosen"),
        ("seed", "pal"),
        ("epochs", "pal"),
    ],
)
def test_what_belongs_to_another_query_is_refused(what: str, file: str, eager: list[int], tmp_path: Path) -> None:
    eager[0] = 3
    query = replace(query_of(10), folder=tmp_path)
    with pytest.raises(stop.TimeIsUp):
        EAGER(query)
    other = {
        "part": replace(EAGER, part=5),
        "diversity": replace(EAGER, diversity=2.0),
        "epochs": replace(EAGER, recipe=replace(EAGER.recipe, epochs=3)),
    }.get(what, EAGER)
    changes = {"candidates": {"candidates": query.candidates[1:]}, "n": {"n": 9}, "seed": {"stream": Stream(9)}}.get(what, {})
    with pytest.raises(store.Corrupted, match=rf"/{file}\.pt belongs to another"):
        other(replace(query_of(10), folder=tmp_path, **changes))


def test_parts_chosen_by_another_scoring_net_are_refused(eager: list[int], tmp_path: Path) -> None:
    """As if somebody deleted the net's checkpoint, and it was trained again on another device."""
    eager[0] = 3
    with pytest.raises(stop.TimeIsUp):
        EAGER(replace(query_of(10), folder=tmp_path))
    (tmp_path / "pal.pt").unlink()
    query = replace(query_of(10), folder=tmp_path)
    query.net.mean.fill_(0.1)
    with pytest.raises(store.Corrupted, match=r"pal-chosen\.pt belongs to another"):
        EAGER(query)


def test_a_loss_that_is_not_finite_stops_it(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteLoss, match=r"pal: .* update \d"):
        replace(TINY, recipe=replace(TINY.recipe, lr=1e30))(replace(query_of(), folder=tmp_path))
    assert not list(tmp_path.iterdir())
