"""The explorer without a browser: what its buttons do, what it tells, and that it can be stopped and gone on with."""

import io
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from alnb import store
from alnb.widgets import Explorer
from alnb.widgets.explorer import NONE

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


def click(one: Explorer, name: str) -> None:
    one.buttons[name].click()


def test_step_run_reset_and_the_slider(runs: Path) -> None:
    one = explorer(runs, seed=3)
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
    assert one.figure4.layout.display == "" and Image.open(io.BytesIO(one.figure4.value)).width > 400
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


def test_pointing_and_selecting(runs: Path) -> None:
    one = explorer(runs, seed=3)
    one.run()
    asked = one.trails[0].cycles[1].queried[0]
    plot = one.panels[0].scatter.widget
    plot.hovering = asked
    assert f"image {asked}, class" in one.panels[0].caption.value and "asked for in cycle 1" in one.panels[0].caption.value
    assert Image.open(io.BytesIO(one.panels[0].picture.value)).size == (96, 96)
    one.slider.value = 0
    plot.hovering = None
    plot.hovering = asked
    assert "not asked for yet" in one.panels[0].caption.value
    plot.selection = list(range(100))
    assert one.selected.value.count("<img") == 60 and "100 images selected, 60 of them shown" in one.selected.value
    plot.selection = []
    assert one.selected.value == ""


def test_a_selection_in_one_plot_is_one_in_the_other(runs: Path) -> None:
    one = explorer(runs, seed=5, beside="random")
    one.panels[1].scatter.widget.selection = [4, 9]
    assert list(one.panels[0].scatter.widget.selection) == [4, 9] and "2 images selected" in one.selected.value
    one.panels[0].scatter.widget.selection = []
    assert list(one.panels[1].scatter.widget.selection) == [] and one.selected.value == ""


def test_without_webgl_a_picture_stands_in(runs: Path) -> None:
    one = explorer(runs, seed=3)
    panel = one.panels[0]
    assert panel.flat.layout.display == "none"
    one.webgl.webgl = "no"
    assert (
        panel.flat.layout.display == "" and panel._drawing.layout.display == "none" and Image.open(io.BytesIO(panel.flat.value)).width > 400
    )


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


def test_the_kernel_answers_and_a_second_click_does_nothing(runs: Path) -> None:
    one = explorer(runs, seed=7, background=True)
    one.wait()
    before = time.perf_counter()
    one.step()
    one.step()
    assert time.perf_counter() - before < 0.5
    one.wait()
    assert one.cycle == 0 and [b.disabled for n, b in one.buttons.items() if n in ("step", "stop")] == [False, True]
    assert len(list(one.trails[0].run.path.rglob("record.json"))) == 1


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
