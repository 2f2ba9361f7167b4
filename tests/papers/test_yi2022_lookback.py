"""Figures 2 and 4 of Yi et al. 2022: nets that know all labels are trained once, and what they show is read back without them."""

from dataclasses import asdict
from pathlib import Path

import pandas
import pytest
import torch

from alnb import store
from alnb.papers.yi2022 import experiment as yi2022
from alnb.papers.yi2022 import lookback as yi2022_analysis
from alnb.papers.yi2022.lookback import check_iterations, compared, queries, read_compared, read_viewed, shown, supervised, viewed
from alnb.report import layout as tsne
from alnb.report import queries as query_analysis

SETTING = yi2022.setting("cifar10", "smoke")


def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alnb.learn.train.fit", lambda *args, **kwargs: pytest.fail("trained again"))


def test_the_net_that_knows_all_labels_is_trained_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = yi2022.images(SETTING)
    known = supervised(SETTING, train, test, epochs=1, runs=tmp_path)
    assert known.features.shape[0] == len(train) and known.log_probs.shape == (len(train), len(train.classes))
    assert known.test_losses.shape == (len(test),)
    no_training(monkeypatch)
    again = supervised(SETTING, train, test, epochs=1, runs=tmp_path)
    assert torch.equal(again.log_probs, known.log_probs) and again.accuracy == known.accuracy


def test_what_figure_2_shows_is_kept_without_its_nets(tmp_path: Path) -> None:
    train, test = yi2022.images(SETTING)
    assert read_compared(SETTING, "rotation", 1, tmp_path) is None
    one = compared(SETTING, train, test, "rotation", epochs=1, runs=tmp_path)
    for tensors in tmp_path.rglob("*.pt"):
        tensors.unlink()
    again = read_compared(SETTING, "rotation", 1.0, tmp_path)
    assert again is not None and repr(asdict(again)) == repr(asdict(one))  # NaN is not equal to itself
    assert (one.dataset, one.images, one.learned) == (train.name, len(test), len(train)) and -1 <= one.correlation.rho <= 1
    (path,) = tmp_path.glob("compared-*.json")
    assert path.stat().st_size < 100_000
    for other in (("jigsaw", 1), ("rotation", 2)):
        assert read_compared(SETTING, *other, tmp_path) is None
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(store.Corrupted, match=r"compared-.*truncated or was altered .*delete it, and it is made again"):
        read_compared(SETTING, "rotation", 1, tmp_path)


def test_what_another_pretraining_gave_is_not_read(tmp_path: Path) -> None:
    train, test = yi2022.images(SETTING)
    compared(SETTING, train, test, "rotation", epochs=1, runs=tmp_path)
    (told,) = tmp_path.glob("pretrained-*.json")
    store.write_json(told, {**store.read_json(told), "losses": "another"})
    assert read_compared(SETTING, "rotation", 1, tmp_path) is None


@pytest.mark.parametrize("most", [10_000, 300])
def test_what_figure_4_shows_is_kept_without_its_net(most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yi2022_analysis, "SHOWN", most)
    train, test = yi2022.images(SETTING)
    prepared = yi2022.prepare(SETTING, train, test, [], runs=tmp_path)
    jobs = yi2022.grid(SETTING, ["random"], [0])
    list(yi2022.cycles(prepared, **jobs[0], runs=tmp_path))
    finished, left = yi2022.find(SETTING, jobs, tmp_path)
    assert not left and read_viewed(SETTING, finished, [1, 3], 1, tmp_path) is None
    known = supervised(SETTING, train, test, epochs=1, runs=tmp_path)
    viewed(SETTING, finished, [1, 3], train, known, epochs=1, runs=tmp_path)
    asked = queries(finished, [1, 3])
    some = shown(len(train), asked, most)
    layout = tsne.layout(known.features[some], cache=tmp_path / "tsne")
    table = query_analysis.summary(asked, features=known.features, log_probs=known.log_probs, targets=train.targets)
    for tensors in tmp_path.rglob("*.pt"):
        tensors.unlink()
    no_training(monkeypatch)
    found = read_viewed(SETTING, finished, [1, 3], 1, tmp_path)
    assert found is not None and len(some) == min(most, len(train)) and found.accuracy == known.accuracy
    assert torch.allclose(found.layout, layout, atol=0.005 + 1e-9) and torch.equal(found.targets, train.targets[some])
    pandas.testing.assert_frame_equal(found.table, table)
    for k, rows in found.queries["random"].items():
        assert torch.equal(some[rows], asked["random"][k])
    assert read_viewed(SETTING, finished, [1, 2], 1, tmp_path) is None and read_viewed(SETTING, finished, [1, 3], 2, tmp_path) is None


def test_queries_shown() -> None:
    asked = {"random": {1: torch.tensor([5, 7]), 2: torch.tensor([900])}}
    some = shown(1000, asked, most=50)
    assert len(some) == 50 and {5, 7, 900} <= set(some.tolist()) and some.tolist() == sorted(some.tolist())
    assert shown(40, asked, most=50).tolist() == list(range(40))


def test_an_iteration_that_a_run_does_not_have() -> None:
    for wrong in (0, 11):
        with pytest.raises(ValueError, match=f"there is no iteration {wrong}: a run has 3, the first of which is 1"):
            check_iterations([1, wrong], 3)
    check_iterations([1, 2, 3], 3)
