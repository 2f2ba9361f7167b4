"""A run looked at cycle by cycle: against its records, naively."""

import io
from pathlib import Path

import pytest
import torch
from PIL import Image

from alnb import store
from alnb.learn.train import log_probs, predict
from alnb.loop import cycles as loop
from alnb.papers import quickstart
from alnb.widgets.explorer import trail as exploration
from alnb.widgets.explorer.trail import ASKED, LABELLED, POOL, Trail

POSITIONS = torch.randn(1297, 2, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def trail(tmp_path_factory: pytest.TempPathFactory) -> Trail:
    setting, runs = quickstart.setting("digits", "smoke"), tmp_path_factory.mktemp("runs")
    found = Trail(setting, quickstart.start(setting, "from scratch", runs=runs), "entropy", 0, runs)
    while found.advance() is not None:
        pass
    return found


def test_it_goes_on_from_what_is_there(trail: Trail) -> None:
    assert len(trail.cycles) == trail.setting.cycles == 3 and trail.last == 2
    again = Trail(trail.setting, quickstart.start(trail.setting, "from scratch", runs=""), "entropy", 0, trail.run.path.parent)
    assert again.cycles == trail.cycles and again.advance() is None
    assert not store.held(trail.run.path), "a run is held only while a cycle is computed"


def test_states_and_counts(trail: Trail) -> None:
    for k in range(-1, 3):
        seen, expected = trail.until(k), [POOL] * len(trail.setting.train)
        for cycle in trail.cycles[: k + 1]:
            for image in cycle.queried:
                expected[image] = ASKED if cycle.cycle == k else LABELLED
        assert seen.states().tolist() == expected and seen.last == k
        labels = [label for cycle in trail.cycles[: k + 1] for label in cycle.labels]
        assert seen.counts().tolist() == [labels.count(c) for c in range(10)]
    image = trail.cycles[1].queried[0]
    assert trail.asked_in()[image] == 1 and image not in trail.until(0).asked_in()
    assert len(trail.cycles) == 3  # looking changed nothing


def test_what_the_net_had_said(trail: Trail) -> None:
    """Of the last query, by the net of the cycle before, which is trained here once more."""
    arguments = quickstart.arguments(trail.setting, quickstart.start(trail.setting, "from scratch", runs=""), "entropy", 0)
    before = trail.cycles[:2]
    known = torch.tensor([image for cycle in before for image in cycle.queried]).sort().values
    net = arguments["learner"].build(10, 0, 1)
    alnb_labels = trail.setting.train.targets[known]
    loop.fit(net, trail.setting.train.images, known, alnb_labels, arguments["learner"].recipe, seed=0, where=("cycle", 1))
    logs = predict(log_probs(net), trail.setting.train.images, torch.tensor(trail.cycles[2].queried))
    said = trail.said()
    assert said is not None and said["predicted"] == logs.argmax(1).tolist()
    first, second = logs.exp().sort(1, descending=True).values[:, :2].unbind(1)
    for name, expected in (("confidence", first), ("margin", first - second), ("entropy", -(logs.exp() * logs).sum(1))):
        torch.testing.assert_close(torch.tensor(said[name]), expected, atol=6e-5, rtol=0)
    assert trail.until(0).said() is None, "nothing was learned before the first labels"


def test_a_run_of_an_earlier_version_has_no_beliefs(trail: Trail, tmp_path: Path) -> None:
    run = store.Run(tmp_path / "old")
    store.write_json(run.folder(1) / "query.json", {"queried": [1, 2]})
    assert loop.beliefs(run, 1) is None and loop.beliefs(run, 7) is None


def test_the_strip(trail: Trail) -> None:
    said = trail.said()
    assert said is not None
    shown = exploration.strip(trail)
    assert shown.count("<img") == len(trail.cycles[2].queried) == 30
    for place, image in enumerate(trail.cycles[2].queried):
        entropy = f"entropy {said['entropy'][place]:.2f}"
        true = trail.setting.train.classes[int(trail.setting.train.targets[image])]
        assert f'alt="image {image}, class {true}, the net said {said["predicted"][place]}, {entropy}"' in shown
    assert "is not known" in exploration.strip(trail.until(0)) and exploration.strip(trail.until(-1)) == ""


def test_pictures(trail: Trail) -> None:
    image = trail.setting.train.images.batch(torch.tensor([3]))[0]
    drawn = Image.open(io.BytesIO(exploration.png(image, 32)))
    assert drawn.size == (32, 32) and drawn.getpixel((1, 1)) == tuple(image[:, 0, 0].tolist())
    wide = torch.zeros(3, 10, 40, dtype=torch.uint8)
    assert Image.open(io.BytesIO(exploration.png(wide, 20))).size == (20, 5)


def test_names_are_escaped(trail: Trail) -> None:
    assert "<b>" not in exploration.legend(["<b>", "two"]) and "&lt;b&gt;" in exploration.legend(["<b>", "two"])


@pytest.mark.parametrize("k", [-1, 0, 2])
def test_figures_in_every_cycle(trail: Trail, k: int) -> None:
    seen = trail.until(k)
    progress = exploration.draw_progress([seen])
    (curve,), bars = progress.axes[0].get_lines() or (None,), progress.axes[1].patches
    assert (curve is None) == (k < 0) and [bar.get_height() for bar in bars] == seen.counts().tolist()
    if curve is not None:
        assert list(curve.get_xdata()) == [20, 50, 80][: k + 1]
    where = exploration.draw_where(seen, POSITIONS).axes[0]
    points = [len(part.get_offsets()) for part in where.collections]
    assert points == [int((seen.states() == state).sum()) for state in (POOL, LABELLED, ASKED)]
    exploration.draw_overview([seen, seen], POSITIONS, "two").savefig(io.BytesIO())


def test_more_classes_than_colours() -> None:
    assert len(set(exploration.colours([str(c) for c in range(10)]))) == 10
    assert set(exploration.colours([str(c) for c in range(11)])) == {exploration.PALE}
    assert exploration.legend([str(c) for c in range(11)]).count("border-radius") == 3


def test_queries_by_iteration(trail: Trail) -> None:
    found = exploration.queries([trail], (1, 2, 10))
    assert {i: q.tolist() for i, q in found["entropy"].items()} == {1: list(trail.cycles[0].queried), 2: list(trail.cycles[1].queried)}
