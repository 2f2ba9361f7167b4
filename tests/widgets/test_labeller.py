"""The labeller without a browser: what its messages do, and what it would show."""

import io
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flat_images import flat_image
from PIL import Image

from alnb.learn.train import Recipe
from alnb.widgets.labeller.folder import Labelling
from alnb.widgets.labeller.rounds import Settings
from alnb.widgets.labeller.widget import Labeller, View, as_picture, sheet


def send(labeller: Labeller, **content: object) -> View:
    labeller.view._handle_custom_msg(content, [])
    return labeller.view


def key(labeller: Labeller, index: int) -> View:
    return send(labeller, label=index, image=labeller.view.shown)


def act(labeller: Labeller, action: str) -> View:
    return send(labeller, action=action, image=labeller.view.shown)


@pytest.fixture
def short_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """The classifier is trained for one epoch: for tests of what is asked and stored."""
    monkeypatch.setattr("alnb.widgets.labeller.rounds.RECIPE", Recipe(epochs=1, batch=64, lr=0.1))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for k in range(30):
        flat_image(tmp_path / "pictures" / f"{k}.png", 8 * k, size=8)
    return tmp_path / "pictures"


@pytest.fixture
def opened(folder: Path) -> Iterator[Callable[..., Labeller]]:
    made: list[Labeller] = []

    def make(**options: Any) -> Labeller:
        settings = Settings("pixels", batch=options.pop("batch", 5), image_size=8)
        made.append(Labeller(folder, settings, **{"classes": ["cat", "dog"], "background": False, **options}))
        return made[-1]

    yield make
    for labeller in made:
        labeller.close()


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


def test_every_key(opened: Callable) -> None:
    labeller = opened()
    first = labeller.view.shown
    act(labeller, "skip")
    second = labeller.view.shown
    assert second != first
    act(labeller, "not sure")
    assert labeller.state.labels == {second: None}
    act(labeller, "undo")
    assert labeller.view.shown == second and labeller.state.labels == {}
    assert "no answer to take back" in act(labeller, "undo").problem
    for _ in range(4):
        key(labeller, 0)
    assert labeller.view.shown == first and labeller.view.problem == ""  # the skipped one comes last
    assert labeller.view.guess == "" and "has not learned" in act(labeller, "guess").guess
    assert act(labeller, "guess").guess == ""


def test_a_second_press_before_the_next_image_labels_nothing(opened: Callable) -> None:
    labeller = opened()
    shown = labeller.view.shown
    for _ in range(2):
        send(labeller, label=0, image=shown)
    assert len(labeller.state.labels) == 1
    shown = labeller.view.shown
    for _ in range(2):
        send(labeller, action="not sure", image=shown)
    assert len(labeller.state.labels) == 2
    shown = labeller.view.shown
    for _ in range(2):
        send(labeller, action="skip", image=shown)
    assert labeller.view.shown != shown and len(labeller.asked) == 3 and labeller.asked[-1] == shown


def test_a_missing_image_is_reported_and_no_other_gets_its_label(opened: Callable, folder: Path) -> None:
    labeller = opened()
    files = {image: labeller.state.by_key[image].files[0] for image in labeller.asked}
    first, second, third, *rest = labeller.asked
    (folder / files[second]).unlink()
    (folder / files[rest[0]]).write_bytes(b"damaged")
    key(labeller, 0)
    assert labeller.view.shown == third and f"{files[second]} can no longer be shown" in labeller.view.news[-1]
    key(labeller, 1)
    assert labeller.view.shown == rest[1] and "UnidentifiedImageError" in labeller.view.news[-1]
    key(labeller, 1)
    assert list(labeller.state.labels) == [first, third, rest[1]]
    assert "Round 2" in labeller.view.status and not {second, rest[0]} & set(labeller.asked)
    for image in labeller.asked:
        (folder / labeller.state.by_key[image].files[0]).unlink()
    act(labeller, "guess")
    assert "Round 3" in labeller.view.status and labeller.view.shown == labeller.asked[0], "a missing batch is not the end"
    for path in folder.glob("*.png"):
        path.unlink()
    act(labeller, "guess")
    assert labeller.view.shown == "" and len(labeller.state.labels) == 3 and not labeller.view.busy


def test_a_cell_may_be_run_again(opened: Callable) -> None:
    first = opened()
    key(first, 0)
    shown = first.view.shown
    again = opened()
    assert first.view.closed and "opened again" in first.view.status
    assert again.view.shown == shown and len(again.state.labels) == 1 and again.view.problem == ""


def test_labels_are_imported_before_anything_is_asked(opened: Callable, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("file,label\n" + "".join(f"{k}.png,cat\n" for k in range(28)))
    labeller = opened(labels=tmp_path / "labels.csv")
    assert len(labeller.state.labels) == 28 and labeller.view.counts == [28, 0] and len(labeller.asked) == 2
    assert "labels.csv: 28" in labeller.view.news[0]
    labeller.close()
    wrong = opened(labels="sub-folders")
    assert "sub-folders" in wrong.view.problem and wrong.view.closed
    with Labelling(folder) as state:  # it unlocked the folder
        assert len(state.labels) == 28


def test_a_key_without_a_class_is_reported(opened: Callable) -> None:
    labeller = opened(classes=[])
    assert "There is no class yet" in labeller.view.status and "1" in labeller.view.free_keys
    assert "no class has the key 1" in send(labeller, free="1").problem
    send(labeller, add="3")
    assert "There is no class yet" not in labeller.view.status
    assert labeller.view.class_keys == ["3"] and "3" not in labeller.view.free_keys and labeller.view.received == 2


def test_the_guess_is_hidden_at_first(opened: Callable) -> None:
    labeller = opened()
    for k in range(5):
        key(labeller, k % 2)
    assert labeller.view.guess == "" and act(labeller, "guess").guess.startswith("the model says ")


def test_a_class_can_be_added_and_a_bad_name_is_refused(opened: Callable) -> None:
    labeller = opened()
    send(labeller, add="bird")
    assert labeller.view.classes == ["cat", "dog", "bird"] and labeller.view.problem == ""
    assert "'cat'" in send(labeller, add="Cat").problem
    key(labeller, 2)
    assert labeller.view.counts == [0, 0, 1] and labeller.view.problem == ""


@pytest.mark.usefixtures("short_training")
def test_to_the_end_and_a_second_session(opened: Callable, folder: Path) -> None:
    labeller = opened(batch=7)
    for k in range(12):
        key(labeller, k % 2)
    left = labeller.view.shown
    labeller.close()
    assert labeller.view.closed and "every label is on disk" in labeller.view.status
    again = opened(batch=7)
    assert again.view.shown == left and len(again.state.labels) == 12  # the image at which it stopped
    while again.view.shown:
        key(again, 0)
    assert "Every image has an answer: 30 labelled, 0 not sure." in again.view.status and "Every image" in again.view.estimate
    act(again, "undo")
    assert again.view.shown and key(again, 1).shown == ""


def test_folders_that_cannot_be_opened_are_reported_in_the_widget(tmp_path: Path, opened: Callable, folder: Path) -> None:
    (tmp_path / "empty").mkdir()
    holder = Labelling(folder)
    for labeller, message in (
        (Labeller(tmp_path / "empty"), "empty"),
        (Labeller(tmp_path / "none"), "none is not a folder"),
        (Labeller(folder), str(os.getpid())),
        (Labeller(folder, Settings(features="magic")), "magic"),
        (Labeller(tmp_path / "empty", classes=["a/b"]), "empty"),
        (Labeller(folder, place="/proc/labels"), "/proc/labels"),  # where nobody may write, root included
    ):
        assert message in labeller.view.problem and labeller.view.closed and not labeller.view.busy
        send(labeller, label=0, image="")  # a dead widget takes no harm
        assert message in labeller.view.problem, "and still shows the reason"
    holder.close()


def test_a_full_disk_keeps_the_image_in_place(opened: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    labeller = opened()
    shown = labeller.view.shown

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert "No space left" in key(labeller, 0).problem and labeller.view.shown == shown
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
    large, small = (Image.open(io.BytesIO(as_picture(tmp_path / name))) for name in ("large.jpg", "clear.png"))
    assert large.size == (400, 200) and large.format == "JPEG"
    assert small.size == (20, 10) and small.format == "PNG" and small.getpixel((3, 3)) == (255, 255, 255)
    with Labelling(tmp_path, classes=["a long name of a class"]) as state:
        state.label(state.items[0].key, "a long name of a class")
        figure = sheet(state, [item.key for item in state.items], "questions")
        assert [axis.get_title() for axis in figure.axes[:2]] == ["a long nam…", "?"]
        sheet(state, [], "nothing").draw_without_rendering()


def test_labels_so_far_are_written_as_a_table(opened: Callable, folder: Path) -> None:
    labeller = opened()
    key(labeller, 1)
    for _ in range(2):
        view = act(labeller, "write CSV")
    assert [line for line in view.news if "written" in line] == [f"written: {folder / 'alnb-labels/labels.csv'}"] and not view.problem
    assert [line.split(",")[1] for line in (folder / "alnb-labels/labels.csv").read_text().splitlines()] == ["label", "dog"]


def test_an_image_of_an_earlier_round_has_no_guess(opened: Callable) -> None:
    labeller = opened()
    act(labeller, "guess")
    assert labeller.view.guess == "the model has not learned yet"
    for k in range(5):
        key(labeller, k % 2)
    assert labeller.round == 2 and labeller.view.guess.startswith("the model says")
    act(labeller, "undo")
    assert labeller.view.guess == "the model has no guess for this image"


def test_a_picture_for_readers_without_a_kernel(opened: Callable) -> None:
    labeller = opened()
    key(labeller, 1)
    png, words = labeller._draw_static()
    assert words == "1 of 30 images labelled; questions of round 1" and Image.open(io.BytesIO(png)).width > 300


def test_changes_of_two_threads_at_once_all_reach_the_browser(opened: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    labeller, sent, sends = opened(), set(), threading.Event()

    def slowly(names: set[str]) -> None:
        sent.update(names)
        if not sends.is_set():
            sends.set()
            time.sleep(0.2)  # long enough for the other thread

    monkeypatch.setattr(labeller.view, "send_state", slowly)
    first = threading.Thread(target=lambda: labeller._show(status="learning"))
    second = threading.Thread(target=lambda: labeller._show(guess="the model says cat"))
    labeller.view.observe(lambda _: first.join(), "guess")  # the first ends just before this change is sent
    first.start()
    sends.wait()
    second.start()
    first.join()
    second.join()
    assert sent == {"status", "guess"}
