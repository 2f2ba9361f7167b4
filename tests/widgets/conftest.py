import pytest

from alnb.learn.train import Recipe


@pytest.fixture
def short_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of what is asked and stored: the labeller's classifier is trained for one epoch."""
    monkeypatch.setattr("alnb.widgets.labeller.rounds.RECIPE", Recipe(epochs=1, batch=64, lr=0.1))
