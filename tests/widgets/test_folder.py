"""A folder that a person labels: nothing said is ever lost, and what became of the images is told."""

import csv
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from alnb import store
from alnb.data import DataError, load
from alnb.widgets.labeller.folder import KEYS, UNSURE, Labelling, Refused, export_csv, export_folders, import_csv, import_folders, keys_of


def drawn(path: Path, shade: int, size: int = 12) -> Path:
    """A picture of one shade, with a pixel of its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", (size, size), (shade % 256, shade // 256, 90))
    image.save(path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for k in range(12):
        drawn(tmp_path / "pictures" / f"{k}.png", 20 * k)
    return tmp_path / "pictures"


def test_what_is_said_is_there_when_it_is_opened_again(folder: Path) -> None:
    with Labelling(folder, classes=["cat", "dog"], person="Ada") as state:
        one, two, three = (item.key for item in state.items[:3])
        state.label(one, "cat")
        state.label(two, UNSURE)
        state.label(three, "dog")
        state.label(one, "dog")
        state.add_class(" bird ")
    with Labelling(folder, classes=["dog"]) as state:
        assert state.classes == ["cat", "dog", "bird"] and state.labels == {one: "dog", two: None, three: "dog"}
        assert state.undo() == one and state.labels[one] == "cat"  # the answer before counts again
        assert [state.undo() for _ in range(4)] == [three, two, one, None]
    with Labelling(folder) as state:
        assert state.labels == {} and state.news == []


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(said=st.lists(st.one_of(st.tuples(st.integers(0, 11), st.sampled_from(["cat", "dog", UNSURE])), st.just("undo")), max_size=25))
def test_any_order_of_answers_is_a_stack(said: list, folder: Path) -> None:
    (folder / "alnb-labels/labels.jsonl").unlink(missing_ok=True)
    stack: list[tuple[str, str | None]] = []
    with Labelling(folder, classes=["cat", "dog"]) as state:
        for one in said:
            if one == "undo":
                assert state.undo() == (stack.pop()[0] if stack else None)
            else:
                state.label(state.items[one[0]].key, one[1])
                stack.append((state.items[one[0]].key, None if one[1] == UNSURE else one[1]))
        assert state.labels == dict(stack)
    with Labelling(folder) as again:
        assert again.labels == dict(stack)


def test_the_second_person_is_told(folder: Path) -> None:
    with Labelling(folder), pytest.raises(store.Locked, match=f"alnb-labels is in use by process {os.getpid()}"):
        Labelling(folder)
    Labelling(folder).close()


def test_class_names_that_cannot_be(folder: Path) -> None:
    with Labelling(folder, classes=["cat"]) as state:
        for name, message in (
            ("", "a class needs a name"), ("  ", "a class needs a name"), ("CAT", "there is a class 'cat' already"),
            ("a/b", "'a/b' cannot name a class"), ("..", "cannot name a class"), ("Not sure", "cannot name a class"), ("a\nb", "cannot"),
        ):  # fmt: skip
            with pytest.raises(Refused, match=message):
                state.add_class(name)
        for k in range(len(KEYS) - 1):
            state.add_class(f"class {k}")
        with pytest.raises(Refused, match=f"there are {len(KEYS)} classes already, one for each key"):
            state.add_class("more")
        with pytest.raises(Refused, match="there is no class 'cow': there are cat, class 0"):
            state.label(state.items[0].key, "cow")
        with pytest.raises(Refused, match="there is no image beef"):
            state.label("beef", "cat")
    assert len(set(KEYS)) == len(KEYS) and not set(KEYS) & set("gnsu")
    with pytest.raises(Refused):
        Labelling(folder, classes=["new", "a/b"])
    Labelling(folder).close()  # the one that failed let go of the folder


@pytest.mark.parametrize(
    ("classes", "keys"),
    [
        ("cat dog", "12"), ([str(k) for k in range(10)], "0123456789"), ("cat 1 2", "123"), ("B a c", "bac"), ("g n s", "123"), ([], ""),
        ("2 cat dog", "213"),
    ],
)  # fmt: skip
def test_a_class_that_is_called_by_a_key_has_it(classes: str | list[str], keys: str) -> None:
    names = classes.split() if isinstance(classes, str) else classes
    assert keys_of(names) == list(keys)
    for k in range(len(names)):
        assert keys_of(names[:k]) == list(keys[:k]), "a class that is added changes the key of no other"


def test_each_of_many_classes_has_a_key_of_its_own() -> None:
    names = [f"class {k}" for k in range(len(KEYS))]
    assert keys_of(names) == list(KEYS)
    assert len(set(keys_of(["z", *names[1:]]))) == len(KEYS)


def test_folders_that_cannot_be_labelled(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(DataError, match=r"missing is no folder .looked from"):
        Labelling(tmp_path / "missing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty holds no image: it is empty"):
        Labelling(tmp_path / "empty")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/a.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"none of 1 images can be read, such as .*a\.png.*UnidentifiedImageError"):
        Labelling(tmp_path / "bad")
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"while making .*file/labels: choose a folder that you may write to"):
        Labelling(folder, tmp_path / "file/labels")


def test_copies_and_unreadable_files_are_told(folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "sub/copy.png").write_bytes((folder / "3.png").read_bytes())
    (folder / "broken.jpg").write_bytes(b"")
    with Labelling(folder) as state:
        assert len(state.items) == 12 and set(state.unreadable) == {"broken.jpg"}
        assert any("copies of other files, asked for once (1): 3.png" in line for line in state.news)
        assert any("files that cannot be read, and are left out (1): broken.jpg" in line for line in state.news)


def test_pixels_of_an_unknown_range_are_told_and_left_out(folder: Path) -> None:
    Image.new("F", (8, 8), 0.5).save(folder / "depth.tiff")
    with Labelling(folder) as state:
        assert len(state.items) == 12 and "floating-point" in state.unreadable["depth.tiff"] and "depth.tiff" in state.news[0]


def test_the_place_of_labels_is_left_aside_however_it_is_spelled(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn(folder / "kept/figure.png", 777)
    monkeypatch.chdir(folder.parent)
    with Labelling("pictures", folder / "kept") as state:
        assert len(state.items) == 12


def test_what_became_of_the_images_is_told_and_no_label_is_lost(folder: Path) -> None:
    with Labelling(folder, classes=["cat"]) as state:
        keys = {item.files[0]: item.key for item in state.items}
        for name in ("0.png", "1.png", "2.png"):
            state.label(keys[name], "cat")
    (folder / "0.png").rename(folder / "renamed.png")
    gone = (folder / "1.png").read_bytes()
    (folder / "1.png").unlink()
    drawn(folder / "2.png", 999)
    drawn(folder / "new.png", 777)
    with Labelling(folder) as state:
        text = "\n".join(state.news)
        assert "images that are new since the folder was last opened (2): 2.png, new.png" in text
        assert "images with another name, which keep their labels (1): renamed.png" in text
        assert "files with other content, which count as new images (1): 2.png" in text
        assert "images that are gone (2, 2 of them labelled): 1.png, 2.png. Labels are kept" in text
        assert state.labels == {keys["0.png"]: "cat"}
    (folder / "1.png").write_bytes(gone)
    with Labelling(folder) as state:
        assert state.labels == {keys["0.png"]: "cat", keys["1.png"]: "cat"}


def test_out_and_in_again(folder: Path, tmp_path: Path) -> None:
    (folder / "copy.png").write_bytes((folder / "3.png").read_bytes())
    with Labelling(folder, classes=["cat", "dog"], person="Ada") as state:
        with pytest.raises(Refused, match="no image has a class yet"):
            export_folders(state, tmp_path / "out")
        with pytest.raises(Refused, match="its links would count as images"):
            export_folders(state, folder / "sub/out")
        for k, item in enumerate(state.items[:5]):
            state.label(item.key, ("cat", "dog", UNSURE)[k % 3])
        labels, items = state.labels, state.items
        rows = list(csv.DictReader(export_csv(state, tmp_path / "labels.csv").read_text().splitlines()))
        assert len(rows) == 6 and {row["label"] for row in rows} == {"cat", "dog", ""} and rows[0]["person"] == "Ada"
        made = export_folders(state, tmp_path / "out")
        with pytest.raises(Refused, match="out is there already"):
            export_folders(state, tmp_path / "out")
    files = sorted(path.relative_to(made).as_posix() for path in made.rglob("*.png"))
    assert len(files) == 5 and {name.split("/")[0] for name in files} == {"cat", "dog"} and not list(tmp_path.glob(".*.part"))
    assert all((made / name).read_bytes() == (folder / name.split("/")[1]).read_bytes() for name in files)
    with Labelling(folder, tmp_path / "elsewhere") as state:
        assert import_csv(state, tmp_path / "labels.csv") == 4 and import_csv(state, tmp_path / "labels.csv") == 0
        assert state.labels == {key: label for key, label in labels.items() if label} and len(items) == 12
    with Labelling(made) as state:
        assert import_folders(state) == 4 and sorted(state.classes) == ["cat", "dog"]


def test_what_is_taken_over_never_replaces_an_answer(folder: Path, tmp_path: Path) -> None:
    old = tmp_path / "old.csv"
    old.write_text("file,label\n0.png,cat\n1.png,cat\n2.png,cat\n")
    with Labelling(folder, classes=["dog"]) as state:
        keys = {name: item.key for item in state.items for name in item.files}
        state.label(keys["0.png"], "dog")
        state.label(keys["1.png"], UNSURE)
        for taken in (1, 0):  # a cell that is run again
            assert import_csv(state, old) == taken
        assert [state.labels[keys[f"{k}.png"]] for k in range(3)] == ["dog", None, "cat"]
        assert "keep the answer they have, which differs" in state.news[-1] and "(2): 0.png, 1.png" in state.news[-1]
        assert [state.answers[keys[f"{k}.png"]].get("source") for k in range(3)] == [None, None, str(old)]


def test_files_that_are_as_they_were_are_not_read_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Labelling(folder) as state:
        items = state.items
    real, read = Path.read_bytes, []
    monkeypatch.setattr(Path, "read_bytes", lambda path: (read.append(path.name), real(path))[1])
    (folder / "3.png").rename(folder / "moved.png")
    drawn(folder / "4.png", 4000, size=20)
    with Labelling(folder) as state:
        assert sorted(name for name in read if name.endswith(".png")) == ["4.png", "moved.png"]
        now = {name: item.key for item in state.items for name in item.files}
        assert set(now.values()) ^ {item.key for item in items} == {items[4].key, now["4.png"]} and now["moved.png"] == items[3].key


def test_a_folder_that_was_labelled_is_a_data_set_still(tmp_path: Path) -> None:
    for k in range(12):
        drawn(tmp_path / f"{'cat' if k % 2 else 'dog'}/{k}.png", 20 * k)
    with Labelling(tmp_path) as state:
        assert import_folders(state) == 12
    assert load(str(tmp_path), image_size=12)[0].classes == ("cat", "dog")


def test_labels_that_cannot_be_taken_leave_all_as_it_was(folder: Path, tmp_path: Path) -> None:
    (folder / "copy.png").write_bytes((folder / "3.png").read_bytes())
    bad = tmp_path / "bad.csv"
    with Labelling(folder) as state:
        bad.write_text("file,label\n1.png,cat\n99.png,cat\n3.png,cat\ncopy.png,dog\n")
        with pytest.raises(Refused, match=r"1 files are not in .*: 99\.png; 1 images have several labels: 3\.png.*no label was taken"):
            import_csv(state, bad)
        bad.write_text("name,label\n1.png,cat\n")
        with pytest.raises(Refused, match="has the columns name, label: it needs file and label"):
            import_csv(state, bad)
        with pytest.raises(Refused, match="lies in a sub-folder"):
            import_folders(state)
        assert state.labels == {} and state.classes == []


def test_a_full_disk_says_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Labelling(folder, classes=["cat"]) as state:
        state.label(state.items[0].key, "cat")
        before = state.log.read_bytes()
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match=r"No space left .*free some space"):
            state.label(state.items[1].key, "cat")
        monkeypatch.undo()
        assert state.log.read_bytes() == before and len(state.labels) == 1
        state.label(state.items[1].key, "cat")
        assert len(state.labels) == 2


def full(handle: int) -> None:
    raise OSError(28, "No space left on device")


VICTIM = """
import sys
from alnb.widgets.labeller.folder import Labelling
state = Labelling(sys.argv[1], classes=["cat", "dog"])
print("ready", flush=True)
for line in sys.stdin:
    k, label = line.split()
    state.label(state.items[int(k)].key, label)
    print(k, flush=True)  # acknowledged
"""


def test_kills_lose_nothing_that_was_acknowledged(folder: Path) -> None:
    acknowledged: dict[int, str] = {}
    for kill in range(4):
        with subprocess.Popen(
            [sys.executable, "-c", VICTIM, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:  # fmt: skip
            assert process.stdin is not None and process.stdout is not None and process.stdout.readline() == "ready\n"
            for k in range(3 * kill, 3 * kill + 3):
                label = "cat" if k % 2 else "dog"
                process.stdin.write(f"{k} {label}\n")
                process.stdin.flush()
                if k < 3 * kill + 2:
                    assert process.stdout.readline() == f"{k}\n"
                    acknowledged[k] = label
            process.send_signal(signal.SIGKILL)  # while it writes the last one
            process.stdout.close()
    with Labelling(folder) as state:
        found = {k: state.labels.get(item.key) for k, item in enumerate(state.items)}
        assert all(found[k] == label for k, label in acknowledged.items())
        assert state.classes == ["cat", "dog"] and len(state.answers) == len(set(state.answers))


def test_held_out_images_are_a_fifth_and_stay(tmp_path: Path, write: Callable) -> None:
    for k in range(400):
        drawn(tmp_path / f"{k}.png", k + 1, size=2)
    with Labelling(tmp_path) as state:
        held = {item.files[0] for item in state.items if item.held_out}
        assert 55 < len(held) < 105
    for k in range(0, 400, 2):
        (tmp_path / f"{k}.png").unlink()
    with Labelling(tmp_path) as state:
        assert {item.files[0] for item in state.items if item.held_out} == {name for name in held if int(name[:-4]) % 2}
