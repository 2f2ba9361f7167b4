"""What the explorer asks of an experiment, so that it need not know any. `alnb.papers.quickstart` provides it as a module."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from alnb.learn.train import Report
from alnb.loop.experiment import Experiment
from alnb.store import Run


@dataclass(frozen=True)
class Choices:
    """What a user chooses in the explorer. The numbers default to those of the scale."""

    dataset: str = "digits"  # a name of `data.DATASETS`, or a folder of images in class sub-folders
    arm: str = "warm"  # how the net starts: one of the factory's `ARMS`
    strategy: str = "entropy"  # a name of `acquire.STRATEGIES`
    beside: str = ""  # a second strategy to compare with; "": none
    scale: str = "laptop"  # one of the factory's `SCALES`
    seed: int = 0  # of the runs
    embedding: str = "rotation"  # features for the layout: one of the factory's `EMBEDDINGS`
    initial: int = 0  # labels of cycle 0; 0: as the scale says
    budget: int = 0  # labels of each later cycle; 0: as the scale says
    cycles: int = 0  # 0: as the scale says

    @property
    def strategies(self) -> list[str]:
        """The strategies to show side by side: one or two, all different."""
        return list(dict.fromkeys(name for name in (self.strategy, self.beside) if name))


class Factory(Protocol):
    """Turns choices into runs. A module with these names is one. What `setting` returns has `train`, the pool as an `ImageSet`."""

    NAME: str  # the folder of its runs, in runs/ of the project
    ARMS: Sequence[str]  # ways in which a net can start
    SCALES: Sequence[str]
    EMBEDDINGS: Sequence[str]  # features by which images can be laid out

    def setting(self, dataset: str, scale: str, *, initial: int, budget: int, cycles: int, **source: Any) -> Any:
        """Read the images. `source` says where and how, as in `data.load`."""

    def check(self, setting: Any, arm: str, strategies: Iterable[str], embedding: str) -> None:
        """Raises: ValueError where a choice is not possible. Nothing is trained for it."""

    def start(self, setting: Any, arm: str, *, runs: Path | str, report: Report | None) -> Any:
        """Prepare how the nets of `arm` start. Pre-training happens here, once; its result is cached below `runs`."""

    def features(self, setting: Any, embedding: str, *, runs: Path | str, report: Report | None) -> Tensor:
        """Features [N,D] for the layout, cached below `runs`."""

    def experiment(self, setting: Any, start: Any, strategy: str, seed: int) -> Experiment:
        """The experiment of one run."""

    def run(self, experiment: Experiment, runs: Path | str) -> Run:
        """The run of that experiment below `runs`."""
