import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from image_files import resident

from alnb import data
from alnb.data import proportional

PAPERS = range(500, 5001, 500)  # the imbalanced CIFAR-10 of Yi et al. 2022


def a_set(*counts: int) -> data.ImageSet:
    """`counts` images of the classes, which are interleaved."""
    targets = torch.tensor([c for k in range(max(counts)) for c, n in enumerate(counts) if k < n])
    return data.ImageSet(resident(len(targets)), targets, tuple(f"class {c}" for c in range(len(counts))), "made")


class Streamed:
    """A source that is no tensor: the least that an `ImageSet` takes."""

    def __init__(self, images: torch.Tensor) -> None:
        self._images, self.device, self.fingerprint, self.shape = images, torch.device("cpu"), "f" * 64, (3, *images.shape[2:])

    def __len__(self) -> int:
        return len(self._images)

    def batch(self, indices: torch.Tensor) -> torch.Tensor:
        return self._images[indices]


@pytest.mark.parametrize(
    "targets, classes, name, message",
    [
        ([0, 1, 1], ("a", "b"), "x", "'x': 6 images but 3 targets"),
        ([0, 1, 0, 1, 2, 0], ("a", "b"), "x", r"target 2 of image 4 .* 0\.\.1"),
        ([0, 1, 0, -1, 0, 0], ("a", "b"), "x", "target -1 of image 3"),
        ([0] * 6, ("a",), "x", r"at least two .*\['a'\]"),
        ([0] * 6, ("a", "a"), "x", r"two different.*\['a', 'a'\]"),
        ([0] * 6, ("a", ""), "x", "non-empty"),
        ([0] * 6, ("a", "b"), "", "needs a name"),
        ([0.0] * 6, ("a", "b"), "x", "int64"),
        ([[0]] * 6, ("a", "b"), "x", "int64"),
    ],
)
def test_an_image_set_whose_parts_do_not_fit_is_refused(targets: list, classes: tuple[str, ...], name: str, message: str) -> None:
    with pytest.raises(data.DataError, match=message):
        data.ImageSet(resident(), torch.tensor(targets), classes, name)


def test_the_fingerprint_of_a_set_covers_images_targets_and_classes() -> None:
    images, targets, classes = resident(), torch.tensor([0, 1, 0, 1, 0, 1]), ("a", "b")
    plain = data.ImageSet(images, targets, classes, "x").fingerprint
    assert plain == data.ImageSet(images, targets, classes, "another name").fingerprint
    others = [(resident(seed=1), targets, classes), (images, 1 - targets, classes), (images, targets, ("b", "a"))]
    assert len({plain, *(data.ImageSet(*parts, "x").fingerprint for parts in others)}) == 4


# ---- parts --------------------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(-3, 12)) | st.lists(st.integers(0, 9), min_size=1, unique=True))
def test_a_subset_holds_what_was_asked_for_and_refuses_anything_else(indices: list[int]) -> None:
    full, chosen = a_set(5, 3, 2), torch.tensor(indices, dtype=torch.int64)
    streamed = data.ImageSet(Streamed(full.images.batch(torch.arange(10))), full.targets, full.classes, "streamed")
    legal = len(indices) > 0 and all(0 <= i < 10 for i in indices) and len(set(indices)) == len(indices)
    for image_set in (full, streamed):
        if not legal:
            with pytest.raises((IndexError, ValueError), match=r"10 images|'(made|streamed)': (no index|index \d occurs twice)"):
                data.subset(image_set, chosen)
            continue
        part = data.subset(image_set, chosen)
        assert torch.equal(part.images.batch(torch.arange(len(indices))), full.images.batch(chosen))
        assert torch.equal(part.targets, full.targets[chosen]) and part.classes == full.classes and part.name == image_set.name


@given(st.tuples(st.integers(1, 5), st.integers(1, 3), st.integers(1, 2)), st.none() | st.integers(0, 2**62))
def test_imbalanced_takes_the_counts_of_each_class_in_order(counts: tuple[int, ...], seed: int | None) -> None:
    full = a_set(5, 3, 2)
    part = data.imbalanced(full, counts, seed)
    assert part.targets.bincount(minlength=3).tolist() == list(counts)
    again = data.imbalanced(full, counts, seed)
    assert torch.equal(part.images.tensor, again.images.tensor)  # type: ignore[attr-defined]
    places = [int((full.images.tensor == image).all((1, 2, 3)).nonzero()) for image in part.images.tensor]  # type: ignore[attr-defined]
    assert places == sorted(set(places))
    if seed is None:
        naive = [i for c, count in enumerate(counts) for i in (full.targets == c).nonzero().flatten().tolist()[:count]]
        assert places == sorted(naive)


def test_a_smaller_draw_is_part_of_a_larger_one_and_seeds_differ() -> None:
    full = a_set(60, 60)
    small, large = (data.imbalanced(full, [n, 60], seed=3).images.batch(torch.arange(n + 60)) for n in (20, 40))
    assert {bytes(i.numpy()) for i in small} < {bytes(i.numpy()) for i in large}
    assert data.balanced(full, 20, seed=1).fingerprint != data.balanced(full, 20, seed=2).fingerprint
    assert data.balanced(full, 20).fingerprint == data.imbalanced(full, [20, 20]).fingerprint


def test_at_most_is_bounded_by_the_rarest_class() -> None:
    full = a_set(5, 3)
    assert data.at_most(full, None) is full
    assert [data.at_most(full, n).targets.bincount().tolist() for n in (2, 9)] == [[2, 2], [3, 3]]


@pytest.mark.parametrize(
    "counts, message",
    [
        ([1, 1], "'made' has 3 classes, .* 2 counts"),
        ([1, 0, 1], "class 1: asked 0, available 3"),
        ([6, 1, 3], "class 0: asked 6, available 5; class 2: asked 3, available 2"),
        ([-1, 1, 1], "class 0: asked -1"),
    ],
)
def test_counts_that_cannot_be_are_named(counts: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        data.imbalanced(a_set(5, 3, 2), counts)


# ---- shares -------------------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 60), min_size=1, max_size=12), st.data())
def test_proportional_is_exact_and_near(counts: list[int], draw: st.DataObject) -> None:
    at_least = draw.draw(st.integers(0, 1))
    total = draw.draw(st.integers(at_least * len(counts), sum(counts)))
    shares, exact = proportional(counts, total, at_least), [count * total / sum(counts) for count in counts]
    assert sum(shares) == total and all(at_least <= share <= count for share, count in zip(shares, counts, strict=True))
    if all(value >= at_least for value in exact):  # largest remainders, written plainly
        rest = total - sum(int(value + 1e-9) for value in exact)
        first = sorted(range(len(counts)), key=lambda k: (-(counts[k] * total % sum(counts)), k))[:rest]
        assert shares == [count * total // sum(counts) + (k in first) for k, count in enumerate(counts)]
    by_count = sorted(zip(counts, shares, strict=True))
    assert all(a <= b for (m, a), (n, b) in itertools.pairwise(by_count) if m < n)  # larger classes stay no smaller


def test_proportional_on_the_papers_counts() -> None:
    assert proportional(PAPERS, 2750) == [50 * k for k in range(1, 11)] and proportional(PAPERS, 27_500) == list(PAPERS)
    assert proportional(PAPERS, 20) == [1, 1, 1, 1, 2, 2, 2, 3, 3, 4]
    assert proportional([100, 1, 1, 1, 1], 6) == [2, 1, 1, 1, 1] and proportional([100, 1, 1, 1, 1], 6, at_least=0) == [6, 0, 0, 0, 0]


@pytest.mark.parametrize(
    "counts, total, at_least, message",
    [
        ([5, 0], 3, 1, r"positive numbers, .*\[5, 0\]"),
        ([], 0, 1, r"not \[\]"),
        ([5, 4], 10, 1, "total is 10: .* 2 to 9"),
        ([5, 4], 1, 1, "total is 1: .* 2 to 9"),
        ([5, 4], -1, 0, "total is -1: .* 0 to 9"),
        ([5, 4], 4, 2, "at_least is 2"),
    ],
)
def test_shares_that_cannot_be_are_named(counts: list[int], total: int, at_least: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        proportional(counts, total, at_least)
