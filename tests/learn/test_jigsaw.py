"""Jigsaw: tiles against slices written naively, both losses image by image, and which orders an update sees."""

from collections.abc import Callable
from itertools import permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from alnb.learn.nets import Net, small
from alnb.learn.pretexts import jigsaw
from alnb.learn.pretexts.jigsaw import ORDERS, jigsaw_gap_loss, jigsaw_loss, joined, reassembled, standardised
from alnb.store import Stream

LOSSES = {"jigsaw": jigsaw_loss, "jigsaw_gap": jigsaw_gap_loss}


def images_of(*size: int, seed: int = 0) -> Tensor:
    return (torch.rand(*size, generator=(Stream(seed) / "tiles").generator()) * 255).round() / 255


def net_of(width: int = 4) -> Net:
    with (Stream(0) / "jigsaw test").scope():
        net = small(24, width)
    net.mean.copy_(torch.tensor([0.5, 0.4, 0.3]))
    net.std.copy_(torch.tensor([0.2, 0.3, 0.25]))
    return net


def tiles(image: Tensor) -> list[Tensor]:
    height, width = image.shape[1] // 2, image.shape[2] // 2
    return [image[:, :height, :width], image[:, :height, width:], image[:, height:, :width], image[:, height:, width:]]


def side_by_side(cells: list[Tensor]) -> Tensor:
    return torch.cat([torch.cat(cells[:2], dim=2), torch.cat(cells[2:], dim=2)], dim=1)


def seen_by(net: Net, loss: Callable[[Net, Tensor], Tensor], x: Tensor) -> list[Tensor]:
    """The net's inputs from `loss`, call by call."""
    seen: list[Tensor] = []
    hook = net.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    loss(net, x)
    hook.remove()
    return seen


# ---- tiles ---------------------------------------------------------------------------------------------------------------------


def test_there_are_24_orders() -> None:
    assert sorted(ORDERS) == sorted(permutations(range(4))) and ORDERS[0] == (0, 1, 2, 3)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 5), st.lists(st.integers(0, 23), min_size=1, max_size=9))
def test_reassembled_is_what_slices_give(images: int, height: int, width: int, classes: list[int]) -> None:
    x = images_of(images, 3, 2 * height, 2 * width)
    views = joined(reassembled(x, torch.tensor(classes)))
    for view, label in enumerate(classes):
        cut = tiles(x[view % images])
        assert torch.equal(views[view], side_by_side([cut[k] for k in ORDERS[label]]))


def test_the_first_order_is_the_image_itself() -> None:
    x = images_of(3, 3, 8, 12)
    assert torch.equal(joined(reassembled(x, torch.zeros(3, dtype=torch.int64))), x)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 23), st.integers(1, 2), st.lists(st.integers(0, 4), min_size=8, max_size=8))
def test_cells_are_cropped_where_their_offsets_say(label: int, margin: int, offsets: list[int]) -> None:
    x, places = images_of(1, 3, 12, 16), torch.tensor(offsets).view(1, 4, 2) % (2 * margin + 1)
    cells = reassembled(x, torch.tensor([label]), places, margin)
    for cell, (tile, (top, left)) in enumerate(zip(ORDERS[label], places[0].tolist(), strict=True)):
        expected = tiles(x[0])[tile][:, top : top + 6 - 2 * margin, left : left + 8 - 2 * margin]
        assert torch.equal(cells[0, cell].permute(2, 0, 1), expected)


def test_standardised_has_no_level_and_no_contrast() -> None:
    cells = images_of(2, 4, 8, 8, 3)
    cells[1, 2] = 0.7
    scaled = standardised(cells)
    torch.testing.assert_close(scaled[0].mean(dim=(1, 2)), torch.zeros(4, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(scaled[0].std(dim=(1, 2), correction=0), torch.ones(4, 3), atol=0.02, rtol=0)
    assert float(scaled[1, 2].abs().max()) < 1e-4  # flat, and not noise of size 1


# ---- losses --------------------------------------------------------------------------------------------------------------------


def naive_view(net: Net, image: Tensor, order: tuple[int, ...], gap: int) -> Tensor:
    cells = []
    for tile in (tiles(image)[k] for k in order):
        if gap:
            tile = tile[:, gap:-gap, gap:-gap]
            means, deviations = (
                f(tile.flatten(1)) for f in (lambda t: t.mean(dim=1), lambda t: t.var(dim=1, correction=0).sqrt() + 1 / 255)
            )
            scaled = [(tile[c] - means[c]) / deviations[c] * net.std[c] + net.mean[c] for c in range(3)]
            tile = torch.stack(scaled)
        cells.append(tile)
    return side_by_side(cells)


@pytest.mark.parametrize(("name", "size", "gap"), [("jigsaw", (8, 8), 0), ("jigsaw", (8, 14), 0), ("jigsaw_gap", (8, 8), 1)])
def test_evaluation_against_all_orders_of_one_image_after_the_other(name: str, size: tuple[int, int], gap: int) -> None:
    net, x = net_of().eval(), images_of(3, 3, *size)
    expected = []
    for image in x:
        views = [naive_view(net, image, order, gap) for order in permutations(range(4))]
        losses = [functional.cross_entropy(net(view[None]), torch.tensor([label])) for label, view in enumerate(views)]
        expected.append(sum(losses) / 24)
    torch.testing.assert_close(LOSSES[name](net, x), torch.stack(expected), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", LOSSES)
def test_an_image_is_alone_in_evaluation(name: str) -> None:
    net, x = net_of().eval(), images_of(9, 3, 8, 8)
    together = LOSSES[name](net, x)
    for k in range(9):
        torch.testing.assert_close(together[k : k + 1], LOSSES[name](net, x[k : k + 1]))
    assert len(together.unique()) == 9


@pytest.mark.parametrize("batch", [1, 6, 8])
def test_training_sees_four_orders_by_the_place_in_the_batch(batch: int) -> None:
    net, x = net_of().train(), images_of(batch, 3, 8, 8)
    (views,) = seen_by(net, jigsaw_loss, x)  # one batch, so that batch normalisation sees the orders mixed
    assert len(views) == 4 * batch
    shown = [[c for c in range(24) if torch.equal(views[v], naive_view(net, x[v % batch], ORDERS[c], 0))] for v in range(4 * batch)]
    orders = [sorted(label for (label,) in shown[place::batch]) for place in range(batch)]
    assert orders == [[place % 6 + 6 * k for k in range(4)] for place in range(batch)]
    assert all(sorted(ORDERS[label][0] for label in four) == [0, 1, 2, 3] for four in orders)  # every tile comes first once
    if batch >= 6:
        assert sorted(label for four in orders[:6] for label in four) == list(range(24))


def test_training_is_the_mean_over_what_was_seen() -> None:
    net, x = net_of().train(), images_of(7, 3, 8, 8)
    (views,) = seen_by(net, jigsaw_loss, x)
    labels = torch.tensor([6 * (v // 7) + v % 7 % 6 for v in range(28)])
    losses = functional.cross_entropy(net(views), labels, reduction="none")
    torch.testing.assert_close(jigsaw_loss(net, x), torch.stack([losses[p::7].mean() for p in range(7)]))


@pytest.mark.parametrize(("size", "seen"), [(8, 4), (32, 28), (64, 56)])
def test_the_gap_is_a_sixteenth_of_a_tile(size: int, seen: int) -> None:
    views = seen_by(net_of().eval(), jigsaw_gap_loss, images_of(1, 3, size, size))
    assert [view.shape for view in views] == [(4, 3, seen, seen)] * 6


def test_tiles_with_a_gap_have_the_moments_of_the_net() -> None:
    net = net_of().eval()
    view = seen_by(net, jigsaw_gap_loss, images_of(1, 3, 32, 32))[0][0]
    for tile in tiles(view):
        torch.testing.assert_close(tile.mean(dim=(1, 2)), net.mean, atol=1e-3, rtol=0)
        torch.testing.assert_close(tile.std(dim=(1, 2), correction=0), net.std, atol=0.01, rtol=0)


def test_light_and_contrast_of_a_tile_say_nothing_with_a_gap() -> None:
    net, x = net_of().eval(), images_of(2, 3, 16, 16)
    changed = x.clone()
    changed[:, :, :8, 8:] = changed[:, :, :8, 8:] * 0.8 + 0.2

    def change(loss: Callable[[Net, Tensor], Tensor]) -> float:
        pairs = zip(seen_by(net, loss, x), seen_by(net, loss, changed), strict=True)
        return max(float((before - after).abs().max()) for before, after in pairs)

    assert change(jigsaw_gap_loss) < 0.01 and change(jigsaw_loss) > 0.1


def test_flat_images_have_a_finite_loss_and_gradient() -> None:
    net = net_of().train()
    losses = jigsaw_gap_loss(net, torch.ones(6, 3, 8, 8))
    losses.mean().backward()
    assert bool(losses.isfinite().all()) and all(bool(p.grad.isfinite().all()) for p in net.parameters() if p.grad is not None)


def test_crops_move_in_training_and_are_the_same_again() -> None:
    x = images_of(64, 3, 32, 32)
    offsets = jigsaw._offsets(x, 256, 1)
    assert torch.equal(offsets, jigsaw._offsets(x.clone(), 256, 1)) and offsets.shape == (256, 4, 2)
    shares = offsets.flatten().bincount() / offsets.numel()
    assert len(shares) == 3 and float((shares - 1 / 3).abs().max()) < 0.05
    for first, second in ((offsets[:, :, 0], offsets[:, :, 1]), (offsets[:, :-1], offsets[:, 1:]), (offsets[:64], offsets[64:128])):
        apart = ((second - first) % 3).flatten().bincount(minlength=3) / first.numel()
        assert float((apart - 1 / 3).abs().max()) < 0.07  # rows and columns, neighbouring cells, views of one image: none go together
    other = jigsaw._offsets(images_of(64, 3, 32, 32, seed=1), 256, 1)
    assert 0.2 < float((other == offsets).float().mean()) < 0.5  # not tied to the place in the batch, which the order is
    net = net_of().train()
    (first,), (again,) = seen_by(net, jigsaw_gap_loss, x), seen_by(net, jigsaw_gap_loss, x)
    assert torch.equal(first, again)
    central = joined(net.mean + net.std * standardised(reassembled(x, torch.arange(4).repeat_interleave(64) * 6, None, 1)))
    assert first.shape == (256, 3, 28, 28) and not torch.equal(first[0], central[0])


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize(("size", "remedy"), [((9, 8), "10x8"), ((8, 11), "8x12"), ((6, 6), "8x8"), ((5, 20), "8x20")])
def test_images_that_cannot_be_cut_are_refused(name: str, size: tuple[int, int], remedy: str) -> None:
    with pytest.raises(ValueError, match=rf"images of {size[0]}x{size[1]} pixels cannot be cut into 2x2 tiles.*resize them to {remedy}"):
        LOSSES[name](net_of().eval(), images_of(1, 3, *size))


def test_orders_are_learned() -> None:
    x = images_of(12, 3, 8, 8) * 0.2
    for tile, colour in ((0, 0), (1, 1), (2, 2)):  # each tile has another colour
        row, column = tile // 2 * 4, tile % 2 * 4
        x[:, colour, row : row + 4, column : column + 4] += 0.8
    net = net_of(8)
    optimiser = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    for _ in range(60):
        optimiser.zero_grad()
        jigsaw_loss(net.train(), x).mean().backward()
        optimiser.step()
    assert float(jigsaw_loss(net.eval(), x).detach().mean()) < 1.0  # ln 24 is 3.2
