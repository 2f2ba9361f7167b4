"""What the labeller asks next: typical images first, then those of a strategy, one fifth held out; the estimate and the advice."""

import math
from pathlib import Path

import pytest
import torch
from flat_images import flat_image
from PIL import Image
from sklearn.metrics import cohen_kappa_score

from alnb import store
from alnb.acquire import STRATEGIES
from alnb.learn.train import Recipe
from alnb.widgets.labeller.folder import HELD_OUT, UNSURE, Labelling
from alnb.widgets.labeller.rounds import (
    CHOICES,
    FEATURES,
    Round,
    Settings,
    advice,
    advised,
    current,
    defaults,
    images_of,
    kappa,
    next_batch,
    rounds,
    scaled,
)  # fmt: skip


@pytest.fixture
def short_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """The classifier is trained for one epoch: for tests of what is asked and stored."""
    monkeypatch.setattr("alnb.widgets.labeller.rounds.RECIPE", Recipe(epochs=1, batch=64, lr=0.1))


@pytest.fixture
def state(tmp_path: Path):
    """60 pictures of two kinds: dark ones and light ones."""
    for k in range(60):
        flat_image(tmp_path / f"{'dark' if k % 2 else 'light'}{k}.png", k + (20 if k % 2 else 200), size=8)
    with Labelling(tmp_path, classes=["dark", "light"]) as opened:
        yield opened


def truth(state: Labelling, key: str) -> str:
    return state.by_key[key].files[0].rstrip("0123456789.png")


def answer(state: Labelling, keys: tuple[str, ...]) -> None:
    for key in keys:
        state.label(key, "light" if state.by_key[key].files[0].startswith("light") else "dark")


def features(state: Labelling) -> torch.Tensor:
    images = images_of(state, 8)
    return FEATURES["pixels"](images, state.place, None)


@pytest.mark.slow
def test_rounds_learn_and_estimate(state: Labelling) -> None:
    x = features(state)
    asked: list[str] = []
    for k in range(4):
        batch = next_batch(state, x, Settings())
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


def test_imported_labels_are_learned_and_do_not_count_in_the_estimate(state: Labelling) -> None:
    for item in state.items[::2]:
        state.label(item.key, truth(state, item.key), "old.csv")
    batch = next_batch(state, features(state), Settings())
    assert rounds(state)[-1].held_out == 0 and rounds(state)[-1].labelled == sum(not item.held_out for item in state.items[::2])
    answer(state, batch.keys)
    next_batch(state, features(state), Settings())
    assert rounds(state)[-1].held_out == 2


@pytest.mark.usefixtures("short_training")
@pytest.mark.parametrize("n", [1, 2, 3])
def test_a_fifth_is_held_out_of_small_batches_too(n: int, state: Labelling) -> None:
    x, aside = features(state), 0
    for k in range(10):
        batch = next_batch(state, x, Settings(strategy="random", batch=n))
        aside += sum(state.by_key[key].held_out for key in batch.keys)
        answer(state, batch.keys)
        assert aside == round((k + 1) * n * HELD_OUT)


@pytest.mark.usefixtures("short_training")
def test_a_kill_between_a_round_and_its_questions_counts_the_round_once(state: Labelling, monkeypatch: pytest.MonkeyPatch) -> None:
    x = features(state)
    for _ in range(3):
        answer(state, next_batch(state, x, Settings(batch=5)).keys)
    real = store.write_json

    def killed(path: Path, content: object) -> None:
        if path.name == "queue.json":
            raise KeyboardInterrupt
        real(path, content)

    monkeypatch.setattr(store, "write_json", killed)
    with pytest.raises(KeyboardInterrupt):
        next_batch(state, x, Settings(batch=5))
    monkeypatch.undo()
    before = rounds(state)
    batch = next_batch(state, x, Settings(batch=5))
    assert rounds(state) == before and before[-1].round == batch.round == 3


def test_the_next_session_asks_the_same(state: Labelling) -> None:
    x = features(state)
    batch = next_batch(state, x, Settings(strategy="entropy", batch=5, seed=3))
    answer(state, batch.keys[:2])
    folder = state.folder
    state.close()
    with Labelling(folder) as again:
        stored = current(again)
        assert stored == batch and stored.left(again) == list(batch.keys[2:])


@pytest.mark.usefixtures("short_training")
@pytest.mark.parametrize("strategy", CHOICES)
def test_every_image_is_asked_for_once_and_then_none(strategy: str, state: Labelling) -> None:
    x, asked = features(state), []
    for _ in range(7):
        batch = next_batch(state, x, Settings(strategy=strategy))
        if not batch.keys:
            break
        answer(state, batch.keys)
        asked += batch.keys
    assert sorted(asked) == sorted(state.by_key) and next_batch(state, x, Settings(strategy=strategy)).keys == ()


def test_the_default_asks_by_what_was_measured_for_so_many_labels(state: Labelling, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = ("first", "20", "kmeans", "a"), ("later", "8", "entropy", "b"), ("later", "16", "random", "c")
    table = tuple(dict(zip(("round", "up_to", "strategy", "reason"), row, strict=True)) for row in rows)
    monkeypatch.setattr("alnb.widgets.labeller.rounds.defaults", lambda: table)
    x, why = features(state), []
    for _ in range(5):
        batch = next_batch(state, x, Settings(batch=10))
        answer(state, batch.keys)
        why.append(batch.why)
    assert why == ["kmeans: a", "random: c", "random: c", "random: c", "random: c"]  # 10 labels a class and more with the second batch
    assert current(state) == batch and advised("later", 8) == ("entropy", "b") and advised("first", 99) == ("kmeans", "a")


def test_a_strategy_that_a_person_chose_asks_once_there_is_a_net(state: Labelling) -> None:
    x = features(state)
    first = next_batch(state, x, Settings(strategy="kcenter"))
    answer(state, first.keys)
    assert first.why.split(":")[0] == advised("first", 5)[0]
    assert next_batch(state, x, Settings(strategy="kcenter")).why.startswith("kcenter: ")
    assert {row["strategy"] for row in defaults()} <= set(STRATEGIES) and {row["round"] for row in defaults()} == {"first", "later"}


def test_not_sure_is_asked_once_and_never_learned_from(state: Labelling) -> None:
    x = features(state)
    first = next_batch(state, x, Settings(strategy="random"))
    for key in first.keys:
        state.label(key, UNSURE)
    second = next_batch(state, x, Settings(strategy="random"))
    assert not set(first.keys) & set(second.keys) and rounds(state) == [] and second.guesses == {}


def test_a_class_that_is_added_later_is_learned(state: Labelling) -> None:
    x = features(state)
    answer(state, next_batch(state, x, Settings()).keys)
    state.add_class("other")
    batch = next_batch(state, x, Settings(strategy="entropy"))
    assert {name for name, _ in batch.guesses.values()} <= {"dark", "light"}  # the new class has no label yet
    state.label(batch.keys[0], "other")
    answer(state, batch.keys[1:])
    names = {name for name, _ in next_batch(state, x, Settings(batch=20)).guesses.values()}
    assert names <= {"dark", "light", "other"} and len(rounds(state)) == 2


def test_bad_input(state: Labelling) -> None:
    x = features(state)
    for rows, settings, message in (
        (x, Settings(strategy="vaal"), "strategy.*'vaal'"),
        (x, Settings(features="magic"), "features.*'magic'"),
        (x, Settings(batch=0), "batch.*0"),
        (x, Settings(image_size=-1), "image_size.*-1"),
        (x[1:], Settings(), "59 images.*60"),
    ):
        with pytest.raises(ValueError, match=message):
            next_batch(state, rows, settings)


def test_kappa_is_scikit_learns() -> None:
    first, second = list("aabbcc"), list("aabbca")
    assert kappa(first, second) == pytest.approx(cohen_kappa_score(first, second)) and kappa(first, first) == 1.0 == kappa(["a"], ["a"])


def test_advice() -> None:
    def history(*agreements: float | None) -> list[Round]:
        return [Round(k, 10 * k, 5, 4, agreement, 0.1) for k, agreement in enumerate(agreements)]

    assert "Every image" in advice(history(None), 2, 0)
    assert "two classes" in advice([], 1, 9) and "at least 4 rounds" in advice(history(None, 1.0, 1.0), 2, 9)
    assert advice(history(None, 0.99, 1.0, 0.99), 2, 9).startswith("You may stop") and advice(
        history(None, 0.9, 1.0, 0.99), 2, 9
    ).startswith("Go on")


def test_without_held_out_images_the_interval_is_everything() -> None:
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
            answer(state, next_batch(state, x, Settings()).keys)
        next_batch(state, x, Settings())
        assert rounds(state)[-1].accuracy == 1.0 and rounds(state)[-1].held_out == 4
