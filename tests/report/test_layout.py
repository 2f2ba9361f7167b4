from pathlib import Path

import pytest
import torch

from alnb.report import layout as tsne
from alnb.store import stop


def blobs(n: int = 120, dimensions: int = 60) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, dimensions, generator=generator) + 20 * torch.eye(3, dimensions).repeat(n // 3, 1)


def test_layout_keeps_neighbours_and_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    features = blobs()
    first = tsne.layout(features, perplexity=10, cache=tmp_path)
    assert first.shape == (120, 2) and first.dtype == torch.float64 and bool(first.isfinite().all())
    nearest = torch.cdist(first, first).fill_diagonal_(torch.inf).argmin(dim=1)
    assert float((nearest % 3 == torch.arange(120) % 3).float().mean()) > 0.95
    again = tsne.layout(features, perplexity=10, cache=tmp_path / "other")
    assert torch.equal(first, again)
    monkeypatch.setattr(tsne, "_embed", lambda *_: pytest.fail("computed again"))
    assert torch.equal(tsne.layout(features, perplexity=10, cache=tmp_path), first)


def test_threads_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """1,000 points are as many as openTSNE would begin to look for approximate neighbours at, others with more threads."""
    monkeypatch.setattr(tsne, "EARLY", 3)
    monkeypatch.setattr(tsne, "LATER", 3)
    features, layouts = blobs(1002), []
    for threads in (1, 2):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        layouts.append(tsne.layout(features, cache=tmp_path / str(threads)))
    assert torch.equal(*layouts)


def test_each_argument_has_a_layout_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(tsne, "_embed", lambda x, *rest: asked.append(rest) or torch.zeros(len(x), 2))
    threads = torch.get_num_threads()
    for features, perplexity, seed in ((blobs(), 10, 0), (blobs(), 11, 0), (blobs(), 10, 1), (-blobs(), 10, 0), (blobs(), 10.0, 0)):
        tsne.layout(features.requires_grad_(), perplexity=perplexity, seed=seed, cache=tmp_path)
    assert asked == [(10, 0), (11, 0), (10, 1), (10, 0)] and torch.get_num_threads() == threads


def test_equal_points_and_half_precision(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Points that lie on each other are no error, and nothing is printed."""
    positions = tsne.layout(blobs(12).repeat(5, 1).half(), perplexity=5, cache=tmp_path)
    assert positions.shape == (60, 2) and bool(positions.isfinite().all()) and capfd.readouterr() == ("", "")


def test_it_is_stopped_midway(tmp_path: Path) -> None:
    answers = iter([*[False] * 3, True, True])
    with stop.requested_by(lambda: next(answers)), pytest.raises(stop.TimeIsUp, match="within the layout"):
        tsne.layout(blobs(), perplexity=10, cache=tmp_path)
    assert not list(tmp_path.rglob("result.pt"))
    assert tsne.layout(blobs(), perplexity=10, cache=tmp_path).shape == (120, 2), "it goes on afterwards"


def test_bad_input(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"perplexity is 30.* 60 points: choose from 1 to 19.67"):
        tsne.layout(blobs(60), cache=tmp_path)
    with pytest.raises(ValueError, match="3 points: give at least 4"):
        tsne.layout(torch.rand(3, 2), cache=tmp_path)
    spoilt = blobs()
    spoilt[7, 3] = torch.nan
    with pytest.raises(ValueError, match=r"features\[7\] is not finite in float32 \(1 such rows\)"):
        tsne.layout(spoilt, cache=tmp_path)
    with pytest.raises(ValueError, match=r"features\[0\] is not finite in float32 \(120 such rows\)"):
        tsne.layout(torch.full((120, 4), 1e300, dtype=torch.float64), cache=tmp_path)
    for shape in ((2, 3, 4), (200, 1)):
        with pytest.raises(ValueError, match=r"\[N, D\] with D of at least 2, but are torch.float32 \[2"):
            tsne.layout(torch.rand(shape), cache=tmp_path)
    with pytest.raises(ValueError, match="120 features are equal"):
        tsne.layout(torch.ones(120, 4), cache=tmp_path)
    assert not list(tmp_path.iterdir())
