"""The explorer without a browser: what its buttons do, what it tells, and that it can be stopped and gone on with."""

import base64
import gc
import io
import threading
import time
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from alnb import store
from alnb.widgets import Explorer
from alnb.widgets.explorer import panel
from alnb.widgets.explorer.widget import NONE

QUICK: dict[str, Any] = {"arm": "from scratch", "embedding": "pixels", "scale": "smoke", "background": False}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the layout of the digits, which takes a while."""
    folder = tmp_path_factory.mktemp("explorer")
    Explorer(**QUICK, runs=folder)
    return folder


def explorer(runs: Path, **changed: Any) -> Explorer:
    return Explorer(**{**QUICK, "runs": runs, **changed})


def told(one: Explorer) -> str:
    return one.status.value + one.doing.value + one.problem.value


def times(one: Explorer) -> list[tuple[Path, int]]:
    return [(path, path.stat().st_mtime_ns) for path in sorted(one.trails[0].run.path.rglob("record.json"))]


def png_of(html: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(html.split("base64,")[1].split('"')[0])))


def click(one: Explorer, name: str) -> None:
    one.buttons[name].click()


def test_step_run_reset_and_the_slider(runs: Path) -> None:
    one = explorer(runs, seed=30)  # no other test has stepped this one
    assert one.cycle == -1 and "none labelled yet" in told(one) and one.slider.disabled and one.buttons["reset"].disabled
    click(one, "step")
    assert one.cycle == 0 and "cycle 0 of 2: 20 labels" in told(one)
    click(one, "run to the end")
    assert one.cycle == 2 and "cycle 2 of 2: 80 labels" in told(one) and (one.slider.max, one.slider.value) == (2, 2)
    assert one.buttons["step"].disabled and one.buttons["run to the end"].disabled and not one.buttons["reset"].disabled
    last = one.progress.value
    one.slider.value = 1
    assert one.cycle == 1 and "cycle 1 of 2: 50 labels" in told(one) and one.progress.value != last
    assert one.panels[0].strip.value.count("<img") == 30
    made = times(one)
    click(one, "reset")
    assert one.cycle == -1 and "none labelled yet" in told(one)
    click(one, "step")
    assert one.cycle == 0 and one.slider.max == 0
    click(one, "run to the end")
    assert one.cycle == 2 and one.progress.value == last
    assert made == [(path, path.stat().st_mtime_ns) for path in sorted(one.trails[0].run.path.rglob("record.json"))], (
        "a reset keeps records"
    )


def test_another_explorer_goes_on_where_this_one_was(runs: Path) -> None:
    one = explorer(runs, seed=4)
    one.step()
    other = explorer(runs, seed=4)
    assert other.cycle == 0
    other.step()
    one.step()  # finished by the other meanwhile: read, and not computed again
    assert one.cycle == 1 and one.trails[0].cycles == other.trails[0].cycles


def test_two_strategies_side_by_side(runs: Path) -> None:
    one = explorer(runs, seed=5, beside="random")
    one.run()
    assert [trail.strategy for trail in one.trails] == ["entropy", "random"] and len(one._places.children) == 2
    assert "entropy" in told(one) and "random" in told(one)
    first, second = (trail.cycles for trail in one.trails)
    assert first[0].queried == second[0].queried and first[1].queried != second[1].queried, "the first labels are the same"
    one.buttons["as in Figure 4"].value = True
    assert png_of(one.figure4.value).width > 400
    one.overview().savefig(io.BytesIO())
    same = explorer(runs, seed=5, beside="entropy")
    assert len(same.trails) == 1


def test_points_are_drawn_as_the_cycle_has_them(runs: Path) -> None:
    one = explorer(runs, seed=3)
    one.run()
    for k in (0, 2, 1):
        one.slider.value = k
        points = one.panels[0].scatter.widget.points
        assert (2 * points[:, 3]).tolist() == one.trails[0].until(k).states().tolist()
        assert points[:, 2].tolist() == one.trails[0].setting.train.targets.tolist()


def test_pointing_and_selecting(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = explorer(runs, seed=3)
    one.run()
    asked = one.trails[0].cycles[1].queried[0]
    plot = one.panels[0].scatter.widget
    pointed, sent = one.panels[0].pointed, []
    assert pointed.plot is plot and pointed.asked[str(asked)] == 1
    pointed.image = asked  # as the browser does
    assert one.panels[0].number.value == asked
    one.slider.value = 0
    assert str(asked) not in pointed.asked, "what is said of it is of the cycle that is shown"
    one.panels[0].number.value = asked + 1  # by keyboard
    assert pointed.image == asked + 1
    train = one.trails[0].setting.train
    monkeypatch.setattr(pointed, "send", lambda content, buffers: sent.append((content["images"], buffers[0])))
    for wanted, images in ((asked, [asked]), (None, list(range(len(train))))):
        pointed._handle_custom_msg({"image": wanted}, [])
        expected = torch.stack([train.images.batch(torch.tensor([image]))[0].permute(1, 2, 0) for image in images])
        assert sent.pop() == (images, expected.numpy().tobytes())
    monkeypatch.setattr(panel, "HELD", 3 * 64 * len(train) - 1)
    large = panel.Pointed(train, plot)
    monkeypatch.setattr(large, "send", lambda *told: sent.append(told))
    large._handle_custom_msg({"image": None}, [])
    assert not sent, "a large pool is not sent whole"
    plot.selection = list(range(100))
    assert one.selected.value.count("<img") == 60 and "images selected: 100, 60 of them shown" in one.selected.value
    plot.selection = []
    assert one.selected.value == ""


def test_numbers_of_labels_are_chosen_and_what_does_not_fit_is_told(runs: Path) -> None:
    one = explorer(runs, budget=100_000)
    assert "budget" in one.problem.value and "Nothing is open" in one.doing.value
    for name, value in (("initial", 10), ("budget", 5), ("cycles", 2)):
        one.choices[name].value = value
    click(one, "open")
    click(one, "run to the end")
    assert one.cycle == 1 and "15 labels" in told(one) and one.problem.value == ""
    one.choices["initial"].value = -3
    click(one, "open")
    assert "initial" in one.problem.value and "-3" in one.problem.value


def test_what_was_found_finished_is_told(runs: Path) -> None:
    one = explorer(runs, seed=3)
    one.run()
    again = explorer(runs, seed=3)
    assert "Found finished up to cycle 2" in again.doing.value and again.buttons["step"].disabled
    click(again, "reset")
    assert "come again from their records" in again.doing.value and not again.buttons["step"].disabled


def test_a_selection_in_one_plot_is_one_in_the_other(runs: Path) -> None:
    one = explorer(runs, seed=5, beside="random")
    one.panels[1].scatter.widget.selection = [4, 9]
    assert list(one.panels[0].scatter.widget.selection) == [4, 9] and "images selected: 2" in one.selected.value
    one.panels[0].scatter.widget.selection = []
    assert list(one.panels[1].scatter.widget.selection) == [] and one.selected.value == ""


def test_without_webgl_a_picture_stands_in(runs: Path) -> None:
    one = explorer(runs, seed=3)
    panel = one.panels[0]
    assert panel.flat.value == ""
    one.browser.webgl = "no"
    assert png_of(panel.flat.value).width > 400 and panel._drawing.layout.display == "none"


def test_stopped_within_a_training_and_gone_on_with_the_record_is_the_same(runs: Path, tmp_path: Path) -> None:
    common = {"scale": "laptop", "seed": 6}
    layouts = tmp_path / "layouts"
    layouts.symlink_to(runs / "layouts")
    one = explorer(tmp_path, **common)
    seen: list[int] = []

    def stop_once(done: int, updates: int, loss: float) -> None:
        seen.append(done)
        if len(seen) == 1:
            one.stop()

    one._report = stop_once  # type: ignore[method-assign]
    one.step()
    assert one.cycle == -1 and "Stopped" in told(one) and not one.trails[0].cycles and seen[0] < 100
    assert not one.buttons["step"].disabled
    one.step()
    undisturbed = explorer(runs, **common)
    undisturbed.step()
    assert one.cycle == 0 and [c.reproducible for c in one.trails[0].cycles] == [c.reproducible for c in undisturbed.trails[0].cycles]


def test_the_kernel_answers_and_a_second_click_does_nothing(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, gate = explorer(runs, seed=7, background=True).wait(), threading.Event()
    advance = one.trails[0].advance
    monkeypatch.setattr(one.trails[0], "advance", lambda report: gate.wait(60) and advance(report))
    one.step()
    one.step()
    assert one.buttons["step"].disabled and not one.buttons["stop"].disabled and one.cycle == -1
    gate.set()
    one.wait()
    assert one.cycle == 0 and [b.disabled for n, b in one.buttons.items() if n in ("step", "stop")] == [False, True]
    assert len(list(one.trails[0].run.path.rglob("record.json"))) == 1


def test_what_is_chosen_has_to_be_opened_before_it_is_stepped(runs: Path) -> None:
    one = explorer(runs, seed=3)
    one.choices["seed"].value = 10
    assert one.buttons["step"].disabled and one.buttons["run to the end"].disabled and "open" in told(one)
    one.choices["seed"].value = 3
    click(one, "reset")
    assert not one.buttons["step"].disabled
    one.choices["seed"].value = -10  # any whole number
    click(one, "open")
    click(one, "step")
    assert one.cycle == 0 and one.trails[0].run.manifest is not None
    assert one.trails[0].run.manifest["experiment"]["protocol"]["seed"] == -10


def test_runs_that_are_not_equally_far_begin_where_both_are(runs: Path) -> None:
    explorer(runs, seed=12).run()
    one = explorer(runs, seed=12, beside="random")
    assert one.cycle == -1 and [len(trail.cycles) for trail in one.trails] == [3, 0]
    one.step()
    assert one.cycle == 0 and [len(trail.cycles) for trail in one.trails] == [3, 1]


def test_two_at_once_in_one_kernel_make_the_records_of_one_after_the_other(runs: Path, tmp_path: Path) -> None:
    """Both draw weights from torch's own generator, which is the process's."""
    at_once = [explorer(runs, seed=13, strategy=strategy, background=True) for strategy in ("margin", "random")]
    for one in at_once:
        one.wait()
    for one in at_once:
        one.run()
    for one in at_once:
        one.wait()
    (tmp_path / "layouts").symlink_to(runs / "layouts")
    for one in at_once:
        alone = explorer(tmp_path, seed=13, strategy=one.trails[0].strategy)
        alone.run()
        assert [c.reproducible for c in alone.trails[0].cycles] == [c.reproducible for c in one.trails[0].cycles]


def test_a_strategy_that_fails_is_told_and_the_other_run_is_kept(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = explorer(runs, seed=14, beside="random")

    def fail(report: object) -> None:
        raise ValueError("no memory of it")

    monkeypatch.setattr(one.trails[1], "advance", fail)
    one.step()
    assert "no memory of it" in one._problem and one.cycle == -1 and len(one.trails[0].cycles) == 1
    monkeypatch.undo()
    one.step()
    assert one.cycle == 0 and one.problem.value == ""


def test_a_damaged_query_is_told_where_the_slider_finds_it(runs: Path) -> None:
    explorer(runs, seed=15).run()
    one = explorer(runs, seed=15)
    path = one.trails[0].run.folder(1) / "query.json"
    path.write_text(path.read_text().replace("0", "1", 1))
    one.slider.value = 1
    assert str(path) in one._problem


def test_stopped_while_it_learns_without_labels(tmp_path: Path) -> None:
    one = Explorer(scale="laptop", runs=tmp_path, background=True)
    for _ in range(6000):
        if "Learning" in one.doing.value or one.problem.value:
            break
        time.sleep(0.01)
    one.stop()
    one.wait()
    assert "Stopped" in told(one) and "open" in told(one) and not one.trails and not one.buttons["open"].disabled
    one.close()


def of_noise(tmp_path: Path, classes: int) -> Explorer:
    """Of a folder of images, ten of each class to learn from."""
    for label in range(classes):
        for split, k in [("train", k) for k in range(10)] + [("test", 0)]:
            folder = tmp_path / "images" / split / f"class {label:02d}"
            folder.mkdir(parents=True, exist_ok=True)
            Image.effect_noise((12, 12), 20 + label * 9).save(folder / f"{k}.png")
    numbers = {"initial": classes, "budget": classes, "cycles": 2, "image_size": 12}
    return Explorer(str(tmp_path / "images"), **{**QUICK, "runs": tmp_path / "runs"}, **numbers)


def test_a_small_folder_has_a_layout_too(tmp_path: Path) -> None:
    one = of_noise(tmp_path, 2)
    one.step()
    assert one.problem.value == "" and one.cycle == 0


def test_what_was_open_is_let_go_of(runs: Path) -> None:
    one = explorer(runs, seed=31)
    gone = [weakref.ref(one.panels[0]), weakref.ref(one.panels[0].pointed), weakref.ref(one.panels[0].scatter)]
    click(one, "open")
    gc.collect()
    assert [there() for there in gone] == [None] * 3


def test_the_picture_for_readers_follows_the_slider(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, rested = explorer(runs, seed=3), []
    one.run()
    monkeypatch.setattr(one._still, "rest", lambda: rested.append(one.cycle))
    one.slider.value = 1
    drawn, words = one._drawn_still()
    assert rested == [1] and "cycle 1 of 2" in words and Image.open(io.BytesIO(drawn)).width > 600


def test_more_classes_than_colours_are_shown_by_state(tmp_path: Path) -> None:
    one = of_noise(tmp_path, 12)
    one.step()
    assert one.problem.value == "" and one.cycle == 0
    plot = one.panels[0].scatter.widget
    assert plot.color_by == plot.size_by == plot.opacity_by == "valueA", "one column, so one coordinate of the points"
    assert (2 * plot.points[:, 2]).tolist() == one.trails[0].states().tolist()
    one.overview().savefig(io.BytesIO())


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"dataset": "digit"}, "there is no data set 'digit'.*Did you mean 'digits'"),
        ({"dataset": "./nowhere"}, "nowhere"),
        ({"strategy": "best"}, "strategy is 'best': it must be one of random"),
        ({"arm": "warm"}, "arm is 'warm': it must be one of from scratch"),
        ({"scale": "tiny"}, "scale is 'tiny'"),
        ({"embedding": "umap"}, "embedding is 'umap'"),
    ],
)
def test_what_cannot_be_is_told_and_can_be_mended(runs: Path, changed: dict[str, str], message: str) -> None:
    one = explorer(runs, **changed)
    assert one.buttons["step"].disabled and not one.buttons["open"].disabled
    with pytest.raises(ValueError, match=f"(?s){message}"):
        one.wait()
    assert 'role="alert"' in one.problem.value
    one.step()  # does nothing harmful
    with pytest.raises(ValueError):
        one.overview()
    mended = {"data set": "digits", "start": "from scratch", "strategy": "entropy", "scale": "smoke", "laid out by": "pixels"}
    for name, value in mended.items():
        one.choices[name].value = value
    click(one, "open")
    assert one.problem.value == "" and one.trails and one.choices["beside"].value == NONE


def test_a_run_folder_of_another_experiment_is_refused_and_kept(runs: Path) -> None:
    one = explorer(runs, seed=8)
    one.step()
    path = one.trails[0].run.path / "manifest.json"
    manifest = store.read_json(path)
    manifest["experiment"]["dataset"] = "fashion_mnist"
    store.write_json(path, manifest)
    before = path.read_bytes()
    other = explorer(runs, seed=8)
    assert "dataset: the folder has 'fashion_mnist', you ask for 'digits'" in other._problem and "fashion_mnist" in told(other)
    other.step()
    assert path.read_bytes() == before and not other.trails


def test_a_damaged_record_is_named(runs: Path) -> None:
    one = explorer(runs, seed=9)
    one.step()
    record = one.trails[0].run.folder(0) / "record.json"
    record.write_text(record.read_text().replace("20", "21", 1))
    assert str(record) in explorer(runs, seed=9)._problem
