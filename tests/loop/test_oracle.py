import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import images_of
from hypothesis import given
from hypothesis import strategies as st

from alnb import store
from alnb.acquire.query import VOID, Pool, Query
from alnb.loop.oracle import Pending, answer, answers, class_uniform, human, noisy, simulated
from alnb.store import Corrupted, Run
from alnb.store import streams as rng


def test_simulated_knows(tmp_path: Path) -> None:
    assert simulated(torch.tensor([4, 5, 6]))(Run(tmp_path), 0, torch.tensor([2, 0])).tolist() == [6, 4]


def test_noisy_errs_at_its_rate_and_never_by_chance_rightly(tmp_path: Path) -> None:
    targets, everything = torch.arange(4000) % 5, torch.arange(4000)
    given = noisy(targets, 0.3, 5)(Run(tmp_path), 2, everything)
    assert 0.27 < float((given != targets).float().mean()) < 0.33
    assert bool((noisy(targets, 1.0, 5)(Run(tmp_path), 2, everything) != targets).all())
    assert torch.equal(given, noisy(targets, 0.3, 5)(Run(tmp_path), 2, everything))
    assert int(given.max()) == 4 and int(given.min()) == 0
    with pytest.raises(ValueError, match=r"error rate of an oracle is 1\.5"):
        noisy(targets, 1.5, 5)


def test_a_person_is_waited_for(tmp_path: Path) -> None:
    run, asked = Run(tmp_path), torch.tensor([7, 3])
    found = human(run, 0, asked)
    assert isinstance(found, Pending) and found.indices.tolist() == [7, 3]
    answer(run, 0, 3, 1)
    answer(run, 0, 7, 2)
    answer(run, 0, 7, None)  # undone
    assert isinstance(human(run, 0, asked), Pending) and answers(run, 0) == {3: 1}
    answer(run, 0, 7, VOID)  # cannot tell
    given = human(run, 0, asked)
    assert not isinstance(given, Pending) and given.tolist() == [VOID, 1]


def test_a_line_cut_in_two_was_never_given_and_the_rest_is_kept(tmp_path: Path) -> None:
    run = Run(tmp_path)
    answer(run, 1, 3, 1)
    path = run.folder(1) / "answers.jsonl"
    path.write_bytes(path.read_bytes() + b'{"index": 9, "la')
    assert answers(run, 1) == {3: 1}
    answer(run, 1, 9, 0)
    assert answers(run, 1) == {3: 1, 9: 0}


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    run = Run(tmp_path)
    for index in (3, 4):
        answer(run, 0, index, 1)
    path = run.folder(0) / "answers.jsonl"
    whole = path.read_bytes()
    for damaged in (b"#" + whole[1:], whole.replace(b'"index": 3', b'"index": 5'), whole.replace(b'"label": 1', b'"label": 0', 1)):
        path.write_bytes(damaged)
        with pytest.raises(Corrupted, match=r"answers\.jsonl, line 1 is damaged"):
            answers(run, 0)


def test_an_answer_that_is_none_is_refused_at_once(tmp_path: Path) -> None:
    run = Run(tmp_path)
    store.write_json(run.folder(0) / "query.json", {"queried": [3, 4]})
    with pytest.raises(ValueError, match="image 5 was not asked for in cycle_000"):
        answer(run, 0, 5, 1)
    for label in ("cat", 1.5, -2):
        with pytest.raises(ValueError, match="the answer to image 3 is"):
            answer(run, 0, 3, label)  # type: ignore[arg-type]
    assert answers(run, 0) == {}


def test_two_windows_at_once_lose_nothing(tmp_path: Path) -> None:
    script = "import sys; from alnb.loop.oracle import answer; from alnb.store import Run\n"
    script += "for i in range(40): answer(Run(sys.argv[1]), 0, 2 * i + int(sys.argv[2]), 1)"
    both = [subprocess.Popen([sys.executable, "-c", script, str(tmp_path), part]) for part in "01"]
    assert [process.wait() for process in both] == [0, 0]
    assert answers(Run(tmp_path), 0) == dict.fromkeys(range(80), 1)


def test_answers_of_a_killed_process_are_on_disk(tmp_path: Path) -> None:
    script = f"""
import os, signal
from alnb.loop.oracle import answer
from alnb.store import Run
for index in range(5):
    answer(Run({str(tmp_path)!r}), 0, index, index % 2)
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -9
    assert answers(Run(tmp_path), 0) == {0: 0, 1: 1, 2: 0, 3: 1, 4: 0}


def start(n: int, targets: torch.Tensor, classes: int, seed: int = 0) -> torch.Tensor:
    images = images_of(len(targets)).images
    return class_uniform(targets, classes)(Query(Pool.of(images), None, torch.arange(len(targets)), n, rng.generator(seed, "query", 0)))


@given(st.integers(1, 6), st.integers(0, 20), st.integers(0, 5))
def test_a_class_uniform_start_is_uniform(classes: int, more: int, seed: int) -> None:
    targets = torch.arange(40 * classes) % classes
    chosen = start(classes + more, targets, classes, seed)
    counts = torch.bincount(targets[chosen], minlength=classes)
    assert len(chosen.unique()) == classes + more and int(counts.max() - counts.min()) <= 1


def test_a_class_uniform_start_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="with 2 labels cannot cover 3 classes"):
        start(2, torch.arange(9) % 3, 3)
    with pytest.raises(ValueError, match="wants 2 images of class 2, the pool has 0"):
        start(6, torch.arange(10) % 2, 3)
