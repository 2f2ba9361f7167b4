"""What a labeller asks next: typical images first, then what a strategy chooses, a fifth always held out; the estimate and the advice."""

import math
from pathlib import Path

import pytest
import torch
from PIL import Image
from sklearn.metrics import cohen_kappa_score
from test_folder import drawn

from alnb import store
from alnb.widgets.labeller.folder import HELD_OUT, UNSURE, Labelling
from alnb.widgets.labeller.rounds import (
    CHOICES,
    FEATURES,
    Round,
    advice,
    current,
    images_of,
    kappa,
    next_batch,
    rounds,
    scaled,
    typical,
)  # fmt: skip


@pytest.fixture
def state(tmp_path: Path):
    """60 pictures of two kinds: dark ones and light ones."""
    for k in range(60):
        drawn(tmp_path / f"{'dark' if k % 2 else 'light'}{k}.png", k + (20 if k % 2 else 200), size=8)
    with Labelling(tmp_path, classes=["dark", "light"]) as found:
        yield found


def truth(state: Labelling, key: str) -> str:
    return state.by_key[key].files[0].rstrip("0123456789.png")


def answer(state: Labelling, keys: tuple[str, ...]) -> None:
    for key in keys:
        state.label(key, "light" if state.by_key[key].files[0].startswith("light") else "dark")


def features(state: Labelling) -> torch.Tensor:
    images = images_of(state, 8)
    return FEATURES["pixels"](images, state.place, None)


def test_rounds_learn_and_estimate(state: Labelling) -> None:
    x = features(state)
    asked: list[str] = []
    for k in range(4):
        batch = next_batch(state, x, "margin", 10)
        assert batch == current(state) and batch.round == k and len(batch.keys) == 10 and len(set(batch.keys)) == 10
        assert sum(state.by_key[key].held_out for key in batch.keys) == round(10 * HELD_OUT)
        assert not set(batch.keys) & set(asked) and bool(batch.guesses) == bool(k)
        answer(state, batch.keys)
        asked += batch.keys
        assert batch.left(state) == []
    last = rounds(state)[-1]
    assert len(rounds(state)) == 3 and last.labelled == 24 and last.held_out == 6 and last.accuracy == 1.0
    low, high = last.interval
    assert low == pytest.approx(0.6097, abs=1e-3) and high == 1.0  # Wilson for 6 of 6
    assert last.agreement is not None and last.agreement <= 1


def test_labels_from_elsewhere_are_learned_from_and_are_no_estimate(state: Labelling) -> None:
    for item in state.items[::2]:
        state.label(item.key, truth(state, item.key), "old.csv")
    batch = next_batch(state, features(state), "margin", 10)
    assert rounds(state)[-1].held_out == 0 and rounds(state)[-1].labelled == sum(not item.held_out for item in state.items[::2])
    answer(state, batch.keys)
    next_batch(state, features(state), "margin", 10)
    assert rounds(state)[-1].held_out == 2


@pytest.mark.parametrize("n", [1, 2, 3])
def test_a_fifth_is_held_out_of_small_batches_too(n: int, state: Labelling) -> None:
    x, aside = features(state), 0
    for k in range(10):
        batch = next_batch(state, x, "random", n)
        aside += sum(state.by_key[key].held_out for key in batch.keys)
        answer(state, batch.keys)
        assert aside == round((k + 1) * n * HELD_OUT)


def test_a_kill_between_a_round_and_its_questions_counts_it_once(state: Labelling, monkeypatch: pytest.MonkeyPatch) -> None:
    x = features(state)
    for _ in range(3):
        answer(state, next_batch(state, x, "margin", 5).keys)
    real = store.write_json

    def killed(path: Path, content: object) -> None:
        if path.name == "queue.json":
            raise KeyboardInterrupt
        real(path, content)

    monkeypatch.setattr(store, "write_json", killed)
    with pytest.raises(KeyboardInterrupt):
        next_batch(state, x, "margin", 5)
    monkeypatch.undo()
    before = rounds(state)
    batch = next_batch(state, x, "margin", 5)
    assert rounds(state) == before and before[-1].round == batch.round == 3


def test_the_same_labels_ask_for_the_same_and_a_restart_goes_on(state: Labelling) -> None:
    x = features(state)
    batch = next_batch(state, x, "entropy", 5, seed=3)
    answer(state, batch.keys[:2])
    folder = state.folder
    state.close()
    with Labelling(folder) as again:
        found = current(again)
        assert found == batch and found.left(again) == list(batch.keys[2:])


@pytest.mark.parametrize("strategy", CHOICES)
def test_every_image_is_asked_for_once_and_then_none(strategy: str, state: Labelling) -> None:
    x, asked = features(state), []
    for _ in range(7):
        batch = next_batch(state, x, strategy, 10)
        if not batch.keys:
            break
        answer(state, batch.keys)
        asked += batch.keys
    assert sorted(asked) == sorted(state.by_key) and next_batch(state, x, strategy, 10).keys == ()


def test_not_sure_is_asked_once_and_never_learned_from(state: Labelling) -> None:
    x = features(state)
    first = next_batch(state, x, "random", 10)
    for key in first.keys:
        state.label(key, UNSURE)
    second = next_batch(state, x, "random", 10)
    assert not set(first.keys) & set(second.keys) and rounds(state) == [] and second.guesses == {}


def test_a_class_that_is_added_later_is_learned(state: Labelling) -> None:
    x = features(state)
    answer(state, next_batch(state, x, "margin", 10).keys)
    state.add_class("other")
    batch = next_batch(state, x, "entropy", 10)
    assert {name for name, _ in batch.guesses.values()} <= {"dark", "light"}  # nobody has shown it another one yet
    state.label(batch.keys[0], "other")
    answer(state, batch.keys[1:])
    names = {name for name, _ in next_batch(state, x, "margin", 20).guesses.values()}
    assert names <= {"dark", "light", "other"} and len(rounds(state)) == 2


def test_bad_input(state: Labelling) -> None:
    x = features(state)
    for arguments, message in (
        ((x, "vaal", 10), "strategy 'vaal'"),
        ((x, "margin", 0), "0 images"),
        ((x[1:], "margin", 5), "of 59 images for 60"),
    ):
        with pytest.raises(ValueError, match=message):
            next_batch(state, *arguments)


def test_typical_images_are_one_of_each_cluster() -> None:
    generator = torch.Generator().manual_seed(0)
    sizes = (40, 25, 10)
    centres = torch.tensor([[0.0, 0.0], [50.0, 0.0], [0.0, 50.0]])
    x = torch.cat([centre + torch.randn(n, 2, generator=generator) for centre, n in zip(centres, sizes, strict=True)])
    where = torch.repeat_interleave(torch.arange(3), torch.tensor(sizes))
    found = typical(x, 3)
    assert where[found].tolist() == [0, 1, 2]
    assert all((x[found[c]] - x[where == c].mean(dim=0)).norm() < 1.0 for c in range(3))
    assert sorted(typical(torch.zeros(5, 2), 5).tolist()) == [0, 1, 2, 3, 4]


def test_kappa_is_scikit_learns() -> None:
    one, other = list("aabbcc"), list("aabbca")
    assert kappa(one, other) == pytest.approx(cohen_kappa_score(one, other)) and kappa(one, one) == 1.0 == kappa(["a"], ["a"])


def test_advice() -> None:
    def history(*agreements: float | None) -> list[Round]:
        return [Round(k, 10 * k, 5, 4, one, 0.1) for k, one in enumerate(agreements)]

    assert "Every image" in advice(history(None), 2, 0)
    assert "two classes" in advice([], 1, 9) and "at least 4 rounds" in advice(history(None, 1.0, 1.0), 2, 9)
    assert advice(history(None, 0.99, 1.0, 0.99), 2, 9).startswith("You may stop") and advice(
        history(None, 0.9, 1.0, 0.99), 2, 9
    ).startswith("Go on")


def test_an_estimate_without_held_out_images_says_nothing() -> None:
    none = Round(0, 5, 0, 0, None, 0.1)
    assert math.isnan(none.accuracy) and none.interval == (0.0, 1.0)


def test_scaled_columns() -> None:
    x = scaled(torch.tensor([[1.0, 5.0], [3.0, 5.0]]))
    torch.testing.assert_close(x, torch.tensor([[-(2**0.5), 0.0], [2**0.5, 0.0]]))
    assert scaled(torch.ones(3, 2)).tolist() == [[0.0, 0.0]] * 3


def test_dark_and_light_noise_is_told_apart_from_few_labels(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    for k in range(40):
        noise = torch.randint(0, 128, (32, 32), generator=generator) + 127 * (k % 2)
        Image.fromarray(noise.to(torch.uint8).numpy()).save(tmp_path / f"{'light' if k % 2 else 'dark'}{k}.png")
    with Labelling(tmp_path, classes=["dark", "light"]) as state:
        x = FEATURES["pixels"](images_of(state), state.place, None)
        for _ in range(2):
            answer(state, next_batch(state, x, "margin", 10).keys)
        next_batch(state, x, "margin", 10)
        assert rounds(state)[-1].accuracy == 1.0 and rounds(state)[-1].held_out == 4
