"""A run, cycle by cycle, compared with its records."""

import io
from pathlib import Path

import pytest
import torch
from PIL import Image

from alnb import Stream, store
from alnb.learn.train import fit, log_probs, predict
from alnb.papers import quickstart
from alnb.widgets.explorer import pictures
from alnb.widgets.explorer.trail import LABELLED, POOL, QUERIED, Trail, queries

POSITIONS = torch.randn(1297, 2, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def trail(tmp_path_factory: pytest.TempPathFactory) -> Trail:
    trail = entropy_trail(tmp_path_factory.mktemp("runs"))
    while trail.advance() is not None:
        pass
    return trail


def entropy_trail(runs: Path) -> Trail:
    setting = quickstart.setting("digits", "smoke")
    experiment = quickstart.experiment(setting, quickstart.start(setting, quickstart.ARMS[0], runs=runs), "entropy", 0)
    return Trail(setting.train, experiment, quickstart.run(experiment, runs))


def test_it_continues_from_the_records(trail: Trail) -> None:
    assert len(trail.cycles) == trail.protocol.cycles == 3 and trail.last == 2
    again = entropy_trail(trail.run.path.parent)
    assert again.cycles == trail.cycles and again.advance() is None
    assert not store.held(trail.run.path), "a run is locked only while a cycle is computed"


def test_states_and_counts(trail: Trail) -> None:
    for k in range(-1, 3):
        seen, expected = trail.until(k), [POOL] * len(trail.train)
        for cycle in trail.cycles[: k + 1]:
            for image in cycle.queried:
                expected[image] = QUERIED if cycle.cycle == k else LABELLED
        assert seen.states().tolist() == expected and seen.last == k
        labels = [label for cycle in trail.cycles[: k + 1] for label in cycle.labels]
        assert seen.counts().tolist() == [labels.count(c) for c in range(10)]
    image = trail.cycles[1].queried[0]
    assert trail.queried_in()[image] == 1 and image not in trail.until(0).queried_in()
    assert len(trail.cycles) == 3  # looking changed nothing


def test_predictions_of_the_net_before(trail: Trail) -> None:
    """The net of cycle 1 is trained here once more, and predicts for the query of cycle 2."""
    learner, stream = trail.experiment.learner, Stream(0) / "cycle" / 1
    before = trail.cycles[:2]
    known = torch.tensor([image for cycle in before for image in cycle.queried]).sort().values
    net = learner.build(10, stream)
    labels = trail.train.targets[known]
    fit(net, trail.train.images, known, labels, learner, stream)
    logs = predict(log_probs(net), trail.train.images, torch.tensor(trail.cycles[2].queried))
    predictions = trail.predictions()
    assert predictions is not None and predictions["predicted"] == logs.argmax(1).tolist()
    first, second = logs.exp().sort(1, descending=True).values[:, :2].unbind(1)
    for name, expected in (("confidence", first), ("margin", first - second), ("entropy", -(logs.exp() * logs).sum(1))):
        torch.testing.assert_close(torch.tensor(predictions[name]), expected, atol=6e-5, rtol=0)
    assert trail.until(0).predictions() is None, "no net was trained before the first labels"


def test_the_strip(trail: Trail) -> None:
    predictions = trail.predictions()
    assert predictions is not None
    shown = pictures.strip([trail], POSITIONS)
    assert shown.count("<img") == len(trail.cycles[2].queried) == 30
    for place, image in enumerate(trail.cycles[2].queried):
        entropy = f"entropy {predictions['entropy'][place]:.2f}"
        true = trail.train.classes[int(trail.train.targets[image])]
        assert f'alt="image {image}, class {true}, predicted {predictions["predicted"][place]}, {entropy}"' in shown
    assert "no trained net" in pictures.strip([trail.until(0)], POSITIONS) and pictures.strip([trail.until(-1)], POSITIONS) == ""


def test_pictures(trail: Trail) -> None:
    image = trail.train.images.batch(torch.tensor([3]))[0]
    drawn = Image.open(io.BytesIO(pictures.thumbnail(image, 32)))
    assert drawn.size == (32, 32) and drawn.getpixel((1, 1)) == tuple(image[:, 0, 0].tolist())
    wide = torch.zeros(3, 10, 40, dtype=torch.uint8)
    assert Image.open(io.BytesIO(pictures.thumbnail(wide, 20))).size == (20, 5)


def test_names_are_escaped(trail: Trail) -> None:
    assert "<b>" not in pictures.legend(["<b>", "two"]) and "&lt;b&gt;" in pictures.legend(["<b>", "two"])


@pytest.mark.parametrize("k", [-1, 0, 2])
def test_figures_in_every_cycle(trail: Trail, k: int) -> None:
    seen = trail.until(k)
    progress = pictures.draw_progress([seen])
    (curve,), bars = progress.axes[0].get_lines() or (None,), progress.axes[1].patches
    assert (curve is None) == (k < 0) and [bar.get_height() for bar in bars] == seen.counts().tolist()
    if curve is not None:
        assert list(curve.get_xdata()) == [20, 50, 80][: k + 1]
    where = pictures.draw_positions(seen, POSITIONS).axes[0]
    points = [len(part.get_offsets()) for part in where.collections]
    assert points == [int((seen.states() == state).sum()) for state in (POOL, LABELLED, QUERIED)]
    pictures.draw_overview([seen, seen], POSITIONS, "two").savefig(io.BytesIO())


def test_more_classes_than_colours() -> None:
    assert len(set(pictures.colours([str(c) for c in range(10)]))) == 10
    assert set(pictures.colours([str(c) for c in range(11)])) == {pictures.PALE}
    assert pictures.legend([str(c) for c in range(11)]).count("border-radius") == 3


def test_queries_by_iteration(trail: Trail) -> None:
    by_iteration = queries([trail], (1, 2, 10))
    expected = {k + 1: list(trail.cycles[k].queried) for k in (0, 1)}
    assert {i: q.tolist() for i, q in by_iteration["entropy"].items()} == expected
