"""The labeller's widget without a browser: what messages from one do, and what it would show."""

import io
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image
from test_labelling import drawn

from alnb.labelling import Labelling
from alnb.widgets.labeller import Labeller, View, picture, sheet


def send(labeller: Labeller, **content: object) -> View:
    labeller.view._handle_custom_msg(content, [])
    return labeller.view


def key(labeller: Labeller, index: int) -> View:
    return send(labeller, label=index, image=labeller.view.shown)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for k in range(30):
        drawn(tmp_path / "pictures" / f"{k}.png", 8 * k, size=8)
    return tmp_path / "pictures"


@pytest.fixture
def opened(folder: Path) -> Iterator[Callable[..., Labeller]]:
    made: list[Labeller] = []

    def make(**options: object) -> Labeller:
        usual = {"classes": ["cat", "dog"], "features": "pixels", "batch": 5, "image_size": 8, "background": False}
        made.append(Labeller(folder, **{**usual, **options}))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_images_are_shown_one_by_one_and_the_answer_is_on_disk_first(opened: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    labeller = opened()
    view, seen = labeller.view, []
    synced: list[int] = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (synced.append(handle), real(handle))[1])
    view.observe(lambda change: seen.append((change.new, len(synced))), "shown")
    for k in range(5):
        shown = view.shown
        assert Image.open(io.BytesIO(view.image)).size == (8, 8) and "to go" in view.status
        key(labeller, k % 2)
        assert labeller.state.labels[shown] == ("cat", "dog")[k % 2]
    assert [n >= k + 1 for k, (_, n) in enumerate(seen)] == [True] * len(seen)
    assert view.counts == [3, 2] and view.status.startswith("Round 2, 5 to go; 5 labelled") and not view.busy


def test_every_key_does_what_it_says(opened: Callable) -> None:
    labeller = opened()
    first = labeller.view.shown
    send(labeller, action="skip")
    second = labeller.view.shown
    assert second != first
    send(labeller, action="not sure")
    assert labeller.state.labels == {second: None}
    send(labeller, action="undo")
    assert labeller.view.shown == second and labeller.state.labels == {}
    assert "nothing to take back" in send(labeller, action="undo").problem
    for _ in range(4):
        key(labeller, 0)
    assert labeller.view.shown == first and labeller.view.problem == ""  # the skipped one comes last
    assert labeller.view.guess == "" and "has not learned" in send(labeller, action="guess").guess
    assert send(labeller, action="guess").guess == ""


def test_a_second_press_before_the_next_image_came_labels_nothing(opened: Callable) -> None:
    labeller = opened()
    shown = labeller.view.shown
    send(labeller, label=0, image=shown)
    send(labeller, label=0, image=shown)
    assert len(labeller.state.labels) == 1


def test_the_model_guesses_only_where_it_is_asked_to(opened: Callable) -> None:
    labeller = opened()
    for k in range(5):
        key(labeller, k % 2)
    assert labeller.view.guess == "" and send(labeller, action="guess").guess.startswith("the model says ")


def test_a_class_can_be_added_and_a_bad_name_is_told(opened: Callable) -> None:
    labeller = opened()
    send(labeller, add="bird")
    assert labeller.view.classes == ["cat", "dog", "bird"] and labeller.view.problem == ""
    assert "there is a class 'cat' already" in send(labeller, add="Cat").problem
    key(labeller, 2)
    assert labeller.view.counts == [0, 0, 1] and labeller.view.problem == ""


def test_to_the_end_and_a_second_session(opened: Callable, folder: Path) -> None:
    labeller = opened(batch=7)
    for k in range(12):
        key(labeller, k % 2)
    left = labeller.view.shown
    labeller.close()
    assert labeller.view.closed and "every label is on disk" in labeller.view.status
    again = opened(batch=7)
    assert again.view.shown == left and len(again.state.labels) == 12  # the very image it stopped at
    while again.view.shown:
        key(again, 0)
    assert "Every image has been asked about: 30 labelled, 0 not sure." in again.view.status and "Every image" in again.view.estimate
    send(again, action="undo")
    assert again.view.shown and key(again, 1).shown == ""


def test_what_cannot_be_opened_is_told_in_the_widget(tmp_path: Path, opened: Callable, folder: Path) -> None:
    (tmp_path / "empty").mkdir()
    opened()
    for labeller, message in (
        (Labeller(tmp_path / "empty"), "empty holds no image"),
        (Labeller(tmp_path / "none"), "none is no folder"),
        (Labeller(folder), "is in use by process"),
        (Labeller(folder, features="magic"), "choose one of rotation, resnet18, pixels"),
        (Labeller(tmp_path / "empty", classes=["a/b"]), "holds no image"),
        (Labeller(folder, place="/proc/labels"), "/proc/labels"),  # where nobody may write, root included
    ):
        assert message in labeller.view.problem and labeller.view.closed and not labeller.view.busy
        send(labeller, label=0, image="")  # a dead widget takes no harm


def test_a_full_disk_keeps_the_image_in_place(opened: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    labeller = opened()
    shown = labeller.view.shown

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert "free some space and do it again" in key(labeller, 0).problem and labeller.view.shown == shown
    monkeypatch.undo()
    assert key(labeller, 0).problem == "" and labeller.view.shown != shown and len(labeller.state.labels) == 1


def test_in_the_background_the_buttons_are_off_until_it_is_done(opened: Callable) -> None:
    labeller = opened(background=True)
    for thread in threading.enumerate():
        if thread.name == "alnb labeller":
            thread.join(60)
    assert not labeller.view.busy and labeller.view.shown and labeller.view.problem == ""
    labeller.view.busy = True
    key(labeller, 0)
    assert labeller.state.labels == {}


def test_pictures_and_the_sheet(tmp_path: Path) -> None:
    Image.new("RGB", (1200, 600), "red").save(tmp_path / "large.jpg")
    Image.new("LA", (20, 10), (0, 0)).save(tmp_path / "clear.png")
    large, small = (Image.open(io.BytesIO(picture(tmp_path / name))) for name in ("large.jpg", "clear.png"))
    assert large.size == (400, 200) and large.format == "JPEG"
    assert small.size == (20, 10) and small.format == "PNG" and small.getpixel((3, 3)) == (255, 255, 255)
    with Labelling(tmp_path, classes=["a long name of a class"]) as state:
        state.label(state.items[0].key, "a long name of a class")
        figure = sheet(state, [item.key for item in state.items], "what was asked")
        assert [axis.get_title() for axis in figure.axes[:2]] == ["a long nam…", "?"]
        sheet(state, [], "nothing").draw_without_rendering()
