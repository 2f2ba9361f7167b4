"""The explorer without a browser: its buttons, its messages, and how it stops and continues."""

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
from alnb.papers import quickstart
from alnb.widgets import Choices, Explorer
from alnb.widgets.explorer import panel

QUICK = {"arm": quickstart.ARMS[0], "embedding": "pixels", "scale": "smoke"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the layout of the digits, which takes a while."""
    folder = tmp_path_factory.mktemp("explorer")
    explorer(folder)
    return folder


def explorer(runs: Path, background: bool = False, image_size: int = 0, **changed: Any) -> Explorer:
    return Explorer(quickstart, Choices(**{**QUICK, **changed}), runs=runs, background=background, image_size=image_size)


def messages(widget: Explorer) -> str:
    return widget.status.value + widget.doing.value + widget.problem.value


def times(widget: Explorer) -> list[tuple[Path, int]]:
    return [(path, path.stat().st_mtime_ns) for path in sorted(widget.trails[0].run.path.rglob("record.json"))]


def png_of(html: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(html.split("base64,")[1].split('"')[0])))


def click(widget: Explorer, name: str) -> None:
    widget.buttons[name].click()


def test_step_run_reset_and_the_slider(runs: Path) -> None:
    widget = explorer(runs, seed=30)  # no other test has stepped this run
    assert widget.cycle == -1 and "none labelled yet" in messages(widget) and widget.slider.disabled and widget.buttons["reset"].disabled
    click(widget, "step")
    assert widget.cycle == 0 and "cycle 0 of 2: 20 labels" in messages(widget)
    click(widget, "run to the end")
    assert widget.cycle == 2 and "cycle 2 of 2: 80 labels" in messages(widget) and (widget.slider.max, widget.slider.value) == (2, 2)
    assert widget.buttons["step"].disabled and widget.buttons["run to the end"].disabled and not widget.buttons["reset"].disabled
    last = widget.progress.value
    widget.slider.value = 1
    assert widget.cycle == 1 and "cycle 1 of 2: 50 labels" in messages(widget) and widget.progress.value != last
    assert widget.panels[0].strip.value.count("<img") == 30
    made = times(widget)
    click(widget, "reset")
    assert widget.cycle == -1 and "none labelled yet" in messages(widget)
    click(widget, "step")
    assert widget.cycle == 0 and widget.slider.max == 0
    click(widget, "run to the end")
    assert widget.cycle == 2 and widget.progress.value == last
    assert made == [(path, path.stat().st_mtime_ns) for path in sorted(widget.trails[0].run.path.rglob("record.json"))], (
        "a reset keeps records"
    )


def test_another_explorer_continues_this_run(runs: Path) -> None:
    widget = explorer(runs, seed=4)
    widget.step()
    other = explorer(runs, seed=4)
    assert other.cycle == 0
    other.step()
    widget.step()  # finished by the other meanwhile: read, and not computed again
    assert widget.cycle == 1 and widget.trails[0].cycles == other.trails[0].cycles


@pytest.mark.slow
def test_two_strategies_side_by_side(runs: Path) -> None:
    widget = explorer(runs, seed=5, beside="random")
    widget.run()
    assert [trail.strategy for trail in widget.trails] == ["entropy", "random"] and len(widget._columns.children) == 2
    assert "entropy" in messages(widget) and "random" in messages(widget)
    first, second = (trail.cycles for trail in widget.trails)
    assert first[0].queried == second[0].queried and first[1].queried != second[1].queried, "the first labels are the same"
    widget.buttons["as in Figure 4"].value = True
    assert png_of(widget.figure4.value).width > 400
    widget.overview().savefig(io.BytesIO())
    same = explorer(runs, seed=5, beside="entropy")
    assert len(same.trails) == 1


def test_points_are_drawn_as_the_cycle_has_them(runs: Path) -> None:
    widget = explorer(runs, seed=3)
    widget.run()
    for k in (0, 2, 1):
        widget.slider.value = k
        points = widget.panels[0].scatter.widget.points
        assert (2 * points[:, 3]).tolist() == widget.trails[0].until(k).states().tolist()
        assert points[:, 2].tolist() == widget.trails[0].train.targets.tolist()


def test_pointing_and_selecting(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    widget = explorer(runs, seed=3)
    widget.run()
    asked = widget.trails[0].cycles[1].queried[0]
    plot = widget.panels[0].scatter.widget
    pointed, sent = widget.panels[0].pointed, []
    assert pointed.plot is plot and pointed.queried[str(asked)] == 1
    pointed.image = asked  # as the browser does
    assert widget.panels[0].number.value == asked
    widget.slider.value = 0
    assert str(asked) not in pointed.queried, "the text is about the cycle that is shown"
    widget.panels[0].number.value = asked + 1  # by keyboard
    assert pointed.image == asked + 1
    train = widget.trails[0].train
    monkeypatch.setattr(pointed, "send", lambda content, buffers: sent.append((content["images"], buffers[0])))
    for wanted, images in ((asked, [asked]), (None, list(range(len(train))))):
        pointed._handle_custom_msg({"image": wanted}, [])
        expected = torch.stack([train.images.batch(torch.tensor([image]))[0].permute(1, 2, 0) for image in images])
        assert sent.pop() == (images, expected.numpy().tobytes())
    monkeypatch.setattr(panel, "MAX_BYTES", 3 * 64 * len(train) - 1)
    large = panel.Pointed(train, plot)
    monkeypatch.setattr(large, "send", lambda *message: sent.append(message))
    large._handle_custom_msg({"image": None}, [])
    assert not sent, "a large pool is never sent as a whole"
    plot.selection = list(range(100))
    assert widget.selected.value.count("<img") == 60 and "images selected: 100, 60 of them shown" in widget.selected.value
    plot.selection = []
    assert widget.selected.value == ""


def test_numbers_of_labels_are_chosen_and_impossible_ones_are_shown(runs: Path) -> None:
    widget = explorer(runs, budget=100_000)
    assert "budget" in widget.problem.value and "Nothing is open" in widget.doing.value
    for name, value in (("initial", 10), ("budget", 5), ("cycles", 2)):
        widget.controls[name].value = value
    click(widget, "open")
    click(widget, "run to the end")
    assert widget.cycle == 1 and "15 labels" in messages(widget) and widget.problem.value == ""
    widget.controls["initial"].value = -3
    click(widget, "open")
    assert "initial" in widget.problem.value and "-3" in widget.problem.value


def test_a_finished_run_is_reported(runs: Path) -> None:
    widget = explorer(runs, seed=3)
    widget.run()
    again = explorer(runs, seed=3)
    assert "This run is finished: 3 cycles" in again.doing.value and again.buttons["step"].disabled
    click(again, "reset")
    assert "read from their records" in again.doing.value and not again.buttons["step"].disabled


def test_a_selection_in_one_plot_is_one_in_the_other(runs: Path) -> None:
    widget = explorer(runs, seed=5, beside="random")
    widget.panels[1].scatter.widget.selection = [4, 9]
    assert list(widget.panels[0].scatter.widget.selection) == [4, 9] and "images selected: 2" in widget.selected.value
    widget.panels[0].scatter.widget.selection = []
    assert list(widget.panels[1].scatter.widget.selection) == [] and widget.selected.value == ""


def test_without_webgl_a_picture_stands_in(runs: Path) -> None:
    widget = explorer(runs, seed=3)
    panel = widget.panels[0]
    assert panel.fallback.value == ""
    widget.browser.webgl = "no"
    assert png_of(panel.fallback.value).width > 400 and panel._plot.layout.display == "none"


@pytest.mark.slow
def test_stopped_in_a_training_and_continued_the_record_is_the_same(runs: Path, tmp_path: Path) -> None:
    common = {"scale": "laptop", "seed": 6}
    layouts = tmp_path / "layouts"
    layouts.symlink_to(runs / "layouts")
    widget = explorer(tmp_path, **common)
    seen: list[int] = []

    def stop_once(done: int, updates: int, loss: float) -> None:
        seen.append(done)
        if len(seen) == 1:
            widget.stop()

    widget._report = stop_once  # type: ignore[method-assign]
    widget.step()
    assert widget.cycle == -1 and "Stopped" in messages(widget) and not widget.trails[0].cycles and seen[0] < 100
    assert not widget.buttons["step"].disabled
    widget.step()
    undisturbed = explorer(runs, **common)
    undisturbed.step()
    assert widget.cycle == 0 and [c.reproducible for c in widget.trails[0].cycles] == [c.reproducible for c in undisturbed.trails[0].cycles]


def test_the_kernel_answers_and_a_second_click_does_nothing(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    widget, gate = explorer(runs, seed=7, background=True).wait(), threading.Event()
    advance = widget.trails[0].advance
    monkeypatch.setattr(widget.trails[0], "advance", lambda report: gate.wait(60) and advance(report))
    widget.step()
    widget.step()
    assert widget.buttons["step"].disabled and not widget.buttons["stop"].disabled and widget.cycle == -1
    gate.set()
    widget.wait()
    assert widget.cycle == 0 and [b.disabled for n, b in widget.buttons.items() if n in ("step", "stop")] == [False, True]
    assert len(list(widget.trails[0].run.path.rglob("record.json"))) == 1


def test_new_choices_must_be_opened_before_a_step(runs: Path) -> None:
    widget = explorer(runs, seed=3)
    widget.controls["seed"].value = 10
    assert widget.buttons["step"].disabled and widget.buttons["run to the end"].disabled and "open" in messages(widget)
    widget.controls["seed"].value = 3
    click(widget, "reset")
    assert not widget.buttons["step"].disabled
    widget.controls["seed"].value = 17
    click(widget, "open")
    click(widget, "step")
    assert widget.cycle == 0 and widget.trails[0].run.manifest is not None
    assert widget.trails[0].run.manifest["experiment"]["protocol"]["seed"] == 17


def test_runs_that_are_not_equally_far_begin_where_both_are(runs: Path) -> None:
    explorer(runs, seed=12).run()
    widget = explorer(runs, seed=12, beside="random")
    assert widget.cycle == -1 and [len(trail.cycles) for trail in widget.trails] == [3, 0]
    widget.step()
    assert widget.cycle == 0 and [len(trail.cycles) for trail in widget.trails] == [3, 1]


@pytest.mark.slow
def test_two_at_once_in_one_kernel_make_the_records_of_one_after_the_other(runs: Path, tmp_path: Path) -> None:
    """Both draw weights from torch's own generator, which is the process's."""
    at_once = [explorer(runs, seed=13, strategy=strategy, background=True) for strategy in ("margin", "random")]
    for widget in at_once:
        widget.wait()
    for widget in at_once:
        widget.run()
    for widget in at_once:
        widget.wait()
    (tmp_path / "layouts").symlink_to(runs / "layouts")
    for widget in at_once:
        alone = explorer(tmp_path, seed=13, strategy=widget.trails[0].strategy)
        alone.run()
        assert [c.reproducible for c in alone.trails[0].cycles] == [c.reproducible for c in widget.trails[0].cycles]


def test_the_error_of_a_strategy_is_shown_and_the_other_run_is_kept(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    widget = explorer(runs, seed=14, beside="random")

    def fail(report: object) -> None:
        raise ValueError("out of luck")

    monkeypatch.setattr(widget.trails[1], "advance", fail)
    widget.step()
    assert "out of luck" in widget._problem and widget.cycle == -1 and len(widget.trails[0].cycles) == 1
    monkeypatch.undo()
    widget.step()
    assert widget.cycle == 0 and widget.problem.value == ""


def test_a_damaged_query_is_shown_when_the_slider_reaches_it(runs: Path) -> None:
    explorer(runs, seed=15).run()
    widget = explorer(runs, seed=15)
    path = widget.trails[0].run.folder(1) / "query.json"
    path.write_text(path.read_text().replace("0", "1", 1))
    widget.slider.value = 1
    assert str(path) in widget._problem


def test_stopped_in_the_pre_training(tmp_path: Path) -> None:
    widget = Explorer(quickstart, runs=tmp_path)
    for _ in range(6000):
        if "Learning" in widget.doing.value or widget.problem.value:
            break
        time.sleep(0.01)
    widget.stop()
    widget.wait()
    assert "Stopped" in messages(widget) and "open" in messages(widget) and not widget.trails and not widget.buttons["open"].disabled
    widget.close()


def of_noise(tmp_path: Path, classes: int) -> Explorer:
    """Of a folder of images, ten of each class to learn from."""
    for label in range(classes):
        for split, k in [("train", k) for k in range(10)] + [("test", 0)]:
            folder = tmp_path / "images" / split / f"class {label:02d}"
            folder.mkdir(parents=True, exist_ok=True)
            Image.effect_noise((12, 12), 20 + label * 9).save(folder / f"{k}.png")
    numbers = {"initial": classes, "budget": classes, "cycles": 2, "image_size": 12}
    return explorer(tmp_path / "runs", dataset=str(tmp_path / "images"), **numbers)


def test_a_small_folder_has_a_layout_too(tmp_path: Path) -> None:
    widget = of_noise(tmp_path, 2)
    widget.step()
    assert widget.problem.value == "" and widget.cycle == 0


def test_a_closed_panel_is_released(runs: Path) -> None:
    widget = explorer(runs, seed=31)
    gone = [weakref.ref(widget.panels[0]), weakref.ref(widget.panels[0].pointed), weakref.ref(widget.panels[0].scatter)]
    click(widget, "open")
    gc.collect()
    assert [there() for there in gone] == [None] * 3


def test_the_picture_for_readers_follows_the_slider(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    widget, refreshed = explorer(runs, seed=3), []
    widget.run()
    monkeypatch.setattr(widget, "_refresh", lambda: refreshed.append(widget.cycle))
    widget.slider.value = 1
    drawn, words = widget._draw_static()
    assert refreshed == [1] and "cycle 1 of 2" in words and Image.open(io.BytesIO(drawn)).width > 600


def test_more_classes_than_colours_are_shown_by_state(tmp_path: Path) -> None:
    widget = of_noise(tmp_path, 12)
    widget.step()
    assert widget.problem.value == "" and widget.cycle == 0
    plot = widget.panels[0].scatter.widget
    assert plot.color_by == plot.size_by == plot.opacity_by == "valueA", "one column, so one coordinate of the points"
    assert (2 * plot.points[:, 2]).tolist() == widget.trails[0].states().tolist()
    widget.overview().savefig(io.BytesIO())


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"dataset": "digit"}, "'digit'.*'digits'"),
        ({"dataset": "./nowhere"}, "nowhere"),
        ({"strategy": "best"}, "strategy.*'best'"),
        ({"arm": "lukewarm"}, "arm.*'lukewarm'"),
        ({"scale": "tiny"}, "scale.*'tiny'"),
        ({"embedding": "umap"}, "embedding.*'umap'"),
    ],
)
def test_impossible_choices_are_shown_and_can_be_corrected(runs: Path, changed: dict[str, str], message: str) -> None:
    widget = explorer(runs, **changed)
    assert widget.buttons["step"].disabled and not widget.buttons["open"].disabled
    with pytest.raises(ValueError, match=f"(?s){message}"):
        widget.wait()
    assert 'role="alert"' in widget.problem.value
    widget.step()  # does nothing harmful
    with pytest.raises(ValueError):
        widget.overview()
    for name, value in {"dataset": "digits", "strategy": "entropy", **QUICK}.items():
        widget.controls[name].value = value
    click(widget, "open")
    assert widget.problem.value == "" and widget.trails and widget.controls["beside"].value == ""


def test_a_run_folder_of_another_experiment_is_refused_and_kept(runs: Path) -> None:
    widget = explorer(runs, seed=8)
    widget.step()
    path = widget.trails[0].run.path / "manifest.json"
    manifest = store.read_json(path)
    manifest["experiment"]["dataset"] = "fashion_mnist"
    store.write_json(path, manifest)
    before = path.read_bytes()
    other = explorer(runs, seed=8)
    assert "fashion_mnist" in other._problem and "fashion_mnist" in messages(other)
    other.step()
    assert path.read_bytes() == before and not other.trails


def test_a_damaged_record_is_named(runs: Path) -> None:
    widget = explorer(runs, seed=9)
    widget.step()
    record = widget.trails[0].run.folder(0) / "record.json"
    record.write_text(record.read_text().replace("20", "21", 1))
    assert str(record) in explorer(runs, seed=9)._problem
