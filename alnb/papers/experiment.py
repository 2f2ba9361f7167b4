"""What the experiments of all papers share."""

from __future__ import annotations

from pathlib import Path

from alnb import store


def runs_folder(paper: str, scale: str, runs: Path | str = "") -> Path:
    """Where a paper's runs are: below `runs`, else in runs/ of the project, those of scale paper in its part that git keeps."""
    kept = store.workspace() / "runs" / ("paper" if scale == "paper" else "")
    return Path(runs or kept) / paper
