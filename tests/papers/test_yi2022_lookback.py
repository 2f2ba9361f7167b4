"""Figures 2 and 4 of Yi et al. 2022: nets that know all labels are trained once, and what they show is read back without them."""

from dataclasses import asdict
from pathlib import Path

import pandas
import pytest
import torch

from alnb import papers, store
from alnb.papers.yi2022 import experiment as yi2022
from alnb.papers.yi2022 import lookback
from alnb.papers.yi2022.lookback import check_iterations, compare_losses, map_queries, queries, read_comparison, shown, supervised
from alnb.report import layout as tsne
from alnb.report.queries import summary

SETTING = yi2022.setting("cifar10", "smoke")


def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alnb.learn.train.fit", lambda *args, **kwargs: pytest.fail("trained again"))


def test_what_figure_2_shows_is_read_without_its_nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = yi2022.prepare(SETTING, tmp_path)
    assert read_comparison(SETTING, "rotation", 0, 1, tmp_path) is None
    comparison = compare_losses(data, "rotation", 1)
    for tensors in tmp_path.rglob("*.pt"):
        tensors.unlink()
    no_training(monkeypatch)
    again = compare_losses(yi2022.prepare(SETTING, tmp_path), "rotation", 1.0)
    assert repr(asdict(again)) == repr(asdict(comparison))  # NaN is not equal to itself
    sizes = (comparison.dataset, comparison.images, comparison.learned)
    assert sizes == ("digits", len(data.test), len(data.pool)) and -1 <= comparison.correlation.rho <= 1
    (path,) = tmp_path.glob("results/compared-*.json")
    assert path.stat().st_size < 100_000
    for other in (("jigsaw", 0, 1), ("rotation", 0, 2), ("rotation", 1, 1)):
        assert read_comparison(SETTING, *other, tmp_path) is None
    content = path.read_bytes()
    path.write_bytes(content[:-300])
    with pytest.raises(store.Corrupted, match=r"compared-.*delete it"):
        read_comparison(SETTING, "rotation", 0, 1, tmp_path)
    path.write_bytes(content)
    (numbers,) = tmp_path.glob("results/pretrained-*.json")
    store.write_json(numbers, {**store.read_json(numbers), "losses": "another"})  # learned anew
    assert read_comparison(SETTING, "rotation", 0, 1, tmp_path) is None


@pytest.mark.slow
@pytest.mark.parametrize("most", [10_000, 300])
def test_what_figure_4_shows_is_read_without_its_net(most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookback, "SHOWN", most)
    data, jobs = yi2022.prepare(SETTING, tmp_path), yi2022.jobs(SETTING, ["random"], [0])
    finished = papers.run(jobs, lambda job: yi2022.experiment(data, job), tmp_path)
    map_queries(data, finished, [1, 3], 1)
    net, asked = supervised(data, 1), queries(finished, [1, 3])
    images = shown(len(data.pool), asked, most)
    layout = tsne.layout(net.features[images], cache=tmp_path / "tsne")
    table = summary(asked, features=net.features, log_probs=net.log_probs, targets=data.pool.targets)
    for tensors in tmp_path.rglob("*.pt"):
        tensors.unlink()
    no_training(monkeypatch)
    unread = yi2022.prepare(SETTING, tmp_path)
    again = map_queries(unread, finished, [1, 3], 1.0)
    assert "images" not in unread.__dict__ and len(images) == min(most, len(data.pool)) and again.accuracy == net.accuracy
    assert torch.allclose(again.layout, layout, atol=0.005 + 1e-9) and torch.equal(again.targets, data.pool.targets[images])
    pandas.testing.assert_frame_equal(again.table, table)
    for k, rows in again.queries["random"].items():
        assert torch.equal(images[rows], asked["random"][k])


def test_queries_shown() -> None:
    asked = {"random": {1: torch.tensor([5, 7]), 2: torch.tensor([900])}}
    images = shown(1000, asked, most=50)
    assert len(images) == 50 and {5, 7, 900} <= set(images.tolist()) and images.tolist() == sorted(images.tolist())
    assert shown(40, asked, most=50).tolist() == list(range(40))


def test_an_iteration_that_a_run_does_not_have() -> None:
    for wrong in (0, 11):
        with pytest.raises(ValueError, match=f"no iteration {wrong}: a run has 3"):
            check_iterations([1, wrong], 3)
    check_iterations([1, 2, 3], 3)
