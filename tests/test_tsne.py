import sys
from pathlib import Path

import pytest
import torch

from alnb import tsne


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


def test_without_opentsne_scikit_learn_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "openTSNE", None)
    found = tsne.layout(blobs(60), perplexity=5, cache=tmp_path)
    assert found.shape == (60, 2) and bool(found.isfinite().all())


def test_bad_input(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"perplexity is 30, of 60 points: .* choose from 1 to 19.67"):
        tsne.layout(blobs(60), cache=tmp_path)
    with pytest.raises(ValueError, match="at least 4 points are needed"):
        tsne.layout(torch.rand(3, 2), cache=tmp_path)
    spoilt = blobs()
    spoilt[7, 3] = torch.nan
    with pytest.raises(ValueError, match=r"features\[7\] is not finite \(1 such rows\)"):
        tsne.layout(spoilt, cache=tmp_path)
    with pytest.raises(ValueError, match=r"features must be float \[N, D\], but are torch.float32 \[2, 3, 4\]"):
        tsne.layout(torch.rand(2, 3, 4), cache=tmp_path)
    assert not list(tmp_path.iterdir())
