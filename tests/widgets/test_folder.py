"""A folder that a person labels: no answer is ever lost, and changes of the images are reported."""

import csv
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from flat_images import flat_image
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from alnb import store
from alnb.data import DataError, load
from alnb.widgets.labeller.exchange import export_csv, export_folders, import_labels
from alnb.widgets.labeller.folder import KEYS, UNSURE, Labelling, Refused, keys_of


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for k in range(12):
        flat_image(tmp_path / "pictures" / f"{k}.png", 20 * k)
    return tmp_path / "pictures"


def test_answers_are_there_in_the_next_session(folder: Path) -> None:
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
@given(answers=st.lists(st.one_of(st.tuples(st.integers(0, 11), st.sampled_from(["cat", "dog", UNSURE])), st.just("undo")), max_size=25))
def test_any_order_of_answers_is_a_stack(answers: list, folder: Path) -> None:
    (folder / "alnb-labels/labels.jsonl").unlink(missing_ok=True)
    stack: list[tuple[str, str | None]] = []
    with Labelling(folder, classes=["cat", "dog"]) as state:
        for one in answers:
            if one == "undo":
                assert state.undo() == (stack.pop()[0] if stack else None)
            else:
                state.label(state.items[one[0]].key, one[1])
                stack.append((state.items[one[0]].key, None if one[1] == UNSURE else one[1]))
        assert state.labels == dict(stack)
    with Labelling(folder) as again:
        assert again.labels == dict(stack)


def test_the_second_person_is_refused(folder: Path) -> None:
    with Labelling(folder), pytest.raises(store.Locked, match=f"alnb-labels.*{os.getpid()}"):
        Labelling(folder)
    Labelling(folder).close()


def test_impossible_class_names(folder: Path) -> None:
    with Labelling(folder, classes=["cat"]) as state:
        for name, message in (
            ("", "a class needs a name"), ("  ", "a class needs a name"), ("CAT", "'cat'"),
            ("a/b", "'a/b'"), ("..", "'..'"), ("Not sure", "'Not sure'"), ("a\nb", "line breaks"),
        ):  # fmt: skip
            with pytest.raises(Refused, match=message):
                state.add_class(name)
        for k in range(len(KEYS) - 1):
            state.add_class(f"class {k}")
        with pytest.raises(Refused, match=f"'more'.*{len(KEYS)} classes"):
            state.add_class("more")
        with pytest.raises(Refused, match="'cow', only cat, class 0"):
            state.label(state.items[0].key, "cow")
        with pytest.raises(Refused, match="image beef"):
            state.label("beef", "cat")
    assert len(set(KEYS)) == len(KEYS) and not set(KEYS) & set("gnsu")
    with pytest.raises(Refused):
        Labelling(folder, classes=["new", "a/b"])
    Labelling(folder).close()  # the failed one unlocked the folder


@pytest.mark.parametrize(
    ("classes", "keys"),
    [
        ("cat dog", "12"), ([str(k) for k in range(10)], "0123456789"), ("cat 1 2", "123"), ("B a c", "bac"), ("g n s", "123"), ([], ""),
        ("2 cat dog", "213"),
    ],
)  # fmt: skip
def test_a_class_named_like_a_key_has_that_key(classes: str | list[str], keys: str) -> None:
    names = classes.split() if isinstance(classes, str) else classes
    assert keys_of(names) == list(keys)
    for k in range(len(names)):
        assert keys_of(names[:k]) == list(keys[:k]), "a class that is added changes the key of no other"


def test_many_classes_have_different_keys() -> None:
    names = [f"class {k}" for k in range(len(KEYS))]
    assert keys_of(names) == list(KEYS)
    assert len(set(keys_of(["z", *names[1:]]))) == len(KEYS)


def test_folders_that_cannot_be_labelled(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(DataError, match=r"missing"):
        Labelling(tmp_path / "missing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty"):
        Labelling(tmp_path / "empty")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/a.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"bad: none of its 1 .*a\.png.*UnidentifiedImageError"):
        Labelling(tmp_path / "bad")
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"file/labels"):
        Labelling(folder, tmp_path / "file/labels")


def test_copies_and_unreadable_files_are_reported(folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "sub/copy.png").write_bytes((folder / "3.png").read_bytes())
    (folder / "broken.jpg").write_bytes(b"")
    with Labelling(folder) as state:
        assert len(state.items) == 12 and set(state.unreadable) == {"broken.jpg"}
        assert any("copies of other files, asked only once (1): sub/copy.png" in line for line in state.news)
        assert any("unreadable files, left out (1): broken.jpg" in line for line in state.news)


def test_pixels_of_an_unknown_range_are_reported_and_left_out(folder: Path) -> None:
    Image.new("F", (8, 8), 0.5).save(folder / "depth.tiff")
    with Labelling(folder) as state:
        assert len(state.items) == 12 and "floating-point" in state.unreadable["depth.tiff"] and "depth.tiff" in state.news[0]


def test_the_folder_of_labels_is_excluded_however_it_is_spelled(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flat_image(folder / "kept/figure.png", 777)
    monkeypatch.chdir(folder.parent)
    with Labelling("pictures", folder / "kept") as state:
        assert len(state.items) == 12


def test_changes_of_the_images_are_reported_and_no_label_is_lost(folder: Path) -> None:
    with Labelling(folder, classes=["cat"]) as state:
        keys = {item.files[0]: item.key for item in state.items}
        for name in ("0.png", "1.png", "2.png"):
            state.label(keys[name], "cat")
    (folder / "0.png").rename(folder / "renamed.png")
    gone = (folder / "1.png").read_bytes()
    (folder / "1.png").unlink()
    flat_image(folder / "2.png", 999)
    flat_image(folder / "new.png", 777)
    with Labelling(folder) as state:
        text = "\n".join(state.news)
        assert "new images since the last session (2): 2.png, new.png" in text
        assert "renamed images, which keep their labels (1): renamed.png" in text
        assert "files with new content, which count as new images (1): 2.png" in text
        assert "missing images (2): 1.png, 2.png. Their 2 labels are kept" in text
        assert state.labels == {keys["0.png"]: "cat"}
    (folder / "1.png").write_bytes(gone)
    with Labelling(folder) as state:
        assert state.labels == {keys["0.png"]: "cat", keys["1.png"]: "cat"}


def test_export_and_import(folder: Path, tmp_path: Path) -> None:
    (folder / "copy.png").write_bytes((folder / "3.png").read_bytes())
    with Labelling(folder, classes=["cat", "dog"], person="Ada") as state:
        with pytest.raises(Refused, match="no image has a class yet"):
            export_folders(state, tmp_path / "out")
        with pytest.raises(Refused, match="sub/out"):
            export_folders(state, folder / "sub/out")
        for k, item in enumerate(state.items[:5]):
            state.label(item.key, ("cat", "dog", UNSURE)[k % 3])
        labels, items = state.labels, state.items
        rows = list(csv.DictReader(export_csv(state, tmp_path / "labels.csv").read_text().splitlines()))
        assert len(rows) == 6 and {row["label"] for row in rows} == {"cat", "dog", ""} and rows[0]["person"] == "Ada"
        made = export_folders(state, tmp_path / "out")
        with pytest.raises(Refused, match="out exists"):
            export_folders(state, tmp_path / "out")
    files = sorted(path.relative_to(made).as_posix() for path in made.rglob("*.png"))
    assert len(files) == 5 and {name.split("/")[0] for name in files} == {"cat", "dog"} and not list(tmp_path.glob(".*.part"))
    assert all((made / name).read_bytes() == (folder / name.split("/")[1]).read_bytes() for name in files)
    with Labelling(folder, tmp_path / "elsewhere") as state:
        assert import_labels(state, tmp_path / "labels.csv") == 4 and import_labels(state, tmp_path / "labels.csv") == 0
        assert state.labels == {key: label for key, label in labels.items() if label} and len(items) == 12
    with Labelling(made) as state:
        assert import_labels(state, "sub-folders") == 4 and sorted(state.classes) == ["cat", "dog"]


def test_an_import_never_replaces_an_answer(folder: Path, tmp_path: Path) -> None:
    old = tmp_path / "old.csv"
    old.write_text("file,label\n0.png,cat\n1.png,cat\n2.png,cat\n")
    with Labelling(folder, classes=["dog"]) as state:
        keys = {name: item.key for item in state.items for name in item.files}
        state.label(keys["0.png"], "dog")
        state.label(keys["1.png"], UNSURE)
        for imported in (1, 0):  # a cell that is run again
            assert import_labels(state, old) == imported
        assert [state.labels[keys[f"{k}.png"]] for k in range(3)] == ["dog", None, "cat"]
        assert "keep their answer, which differs" in state.news[-1] and "(2): 0.png, 1.png" in state.news[-1]
        assert [state.answers[keys[f"{k}.png"]].get("source") for k in range(3)] == [None, None, str(old)]


def test_unchanged_files_are_not_read_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Labelling(folder) as state:
        items = state.items
    real, read = Path.read_bytes, []
    monkeypatch.setattr(Path, "read_bytes", lambda path: (read.append(path.name), real(path))[1])
    (folder / "3.png").rename(folder / "moved.png")
    flat_image(folder / "4.png", 4000, size=20)
    with Labelling(folder) as state:
        assert sorted(name for name in read if name.endswith(".png")) == ["4.png", "moved.png"]
        now = {name: item.key for item in state.items for name in item.files}
        assert set(now.values()) ^ {item.key for item in items} == {items[4].key, now["4.png"]} and now["moved.png"] == items[3].key


def test_a_labelled_folder_is_still_a_data_set(tmp_path: Path) -> None:
    for k in range(12):
        flat_image(tmp_path / f"{'cat' if k % 2 else 'dog'}/{k}.png", 20 * k)
    with Labelling(tmp_path) as state:
        assert import_labels(state, "sub-folders") == 12
    assert load(str(tmp_path), image_size=12)[0].classes == ("cat", "dog")


def test_a_refused_import_changes_nothing(folder: Path, tmp_path: Path) -> None:
    (folder / "copy.png").write_bytes((folder / "3.png").read_bytes())
    bad = tmp_path / "bad.csv"
    with Labelling(folder) as state:
        bad.write_text("file,label\n1.png,cat\n99.png,cat\n3.png,cat\ncopy.png,dog\n")
        with pytest.raises(Refused, match=r"bad\.csv: 1 files .*99\.png.*1 images .*3\.png"):
            import_labels(state, bad)
        bad.write_text("name,label\n1.png,cat\n")
        with pytest.raises(Refused, match=r"bad\.csv has the columns name, label"):
            import_labels(state, bad)
        with pytest.raises(Refused, match="pictures has no images in sub-folders"):
            import_labels(state, "sub-folders")
        assert state.labels == {} and state.classes == []


def test_a_full_disk_counts_no_label(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Labelling(folder, classes=["cat"]) as state:
        state.label(state.items[0].key, "cat")
        before = state.log.read_bytes()
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match=r"No space left .*labels\.jsonl"):
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


@pytest.mark.slow
def test_kills_lose_no_acknowledged_answer(folder: Path) -> None:
    acknowledged: dict[int, str] = {}
    for kill in range(2):
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
        stored = {k: state.labels.get(item.key) for k, item in enumerate(state.items)}
        assert all(stored[k] == label for k, label in acknowledged.items())
        assert state.classes == ["cat", "dog"] and len(state.answers) == len(set(state.answers))


def test_held_out_images_are_a_fifth_and_do_not_change(tmp_path: Path, write: Callable) -> None:
    for k in range(400):
        flat_image(tmp_path / f"{k}.png", k + 1, size=2)
    with Labelling(tmp_path) as state:
        held = {item.files[0] for item in state.items if item.held_out}
        assert 55 < len(held) < 105
    for k in range(0, 400, 2):
        (tmp_path / f"{k}.png").unlink()
    with Labelling(tmp_path) as state:
        assert {item.files[0] for item in state.items if item.held_out} == {name for name in held if int(name[:-4]) % 2}
