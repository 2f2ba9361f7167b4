import hashlib

import pytest
import torch
from conftest import never_waiting
from image_files import resident

from alnb import data
from alnb.data.sources import check_indices


def test_a_resident_gives_the_images_asked_for_in_the_order_asked() -> None:
    images = resident()
    assert len(images) == 6 and images.shape == (3, 4, 4) and images.device == torch.device("cpu")
    assert torch.equal(images.batch(torch.tensor([4, 0, 4])), images.tensor[[4, 0, 4]])
    assert images.batch(torch.tensor([], dtype=torch.int64)).shape == (0, 3, 4, 4)
    assert images.batch(torch.tensor([1])).dtype == torch.uint8
    assert torch.equal(images.to("cpu").tensor, images.tensor)


@pytest.mark.parametrize("bad", [6, -1, 2**40])
def test_an_index_outside_is_named(bad: int) -> None:
    for images in (resident(), data.Selection(resident(9), torch.arange(6))):
        with pytest.raises(IndexError, match=rf"index {bad} \(at position 1\).* 6 images.*0 to 5"):
            images.batch(torch.tensor([0, bad]))
    with pytest.raises(IndexError, match=rf"index {bad} .* 6 images"):
        data.Selection(resident(), torch.tensor([bad]))


@pytest.mark.parametrize(
    "indices, dtype", [([True] * 6, torch.bool), ([0], torch.float32), (1, torch.int64), ([[1]], torch.int64), ([1], torch.int32)]
)
def test_indices_must_be_a_vector_of_int64(indices: object, dtype: torch.dtype) -> None:
    with pytest.raises(TypeError, match=f"int64, not {dtype}"):
        resident().batch(torch.tensor(indices, dtype=dtype))


def test_indices_on_a_device_are_not_looked_at() -> None:
    check_indices(torch.empty(3, dtype=torch.int64, device="meta"), 1)  # looking at them raises, as it would wait on a GPU


@pytest.mark.gpu
def test_a_gpu_gives_the_same_without_waiting() -> None:
    images = resident()
    moved = images.to("cuda")
    part = data.Selection(moved, torch.tensor([0, 2, 5]))
    part.batch(torch.tensor([0]))  # the first batch moves its indices
    indices = torch.tensor([2, 1], device="cuda")
    with never_waiting():
        batches = moved.batch(indices), part.batch(indices)
    assert torch.equal(batches[0].cpu(), images.tensor[[2, 1]]) and torch.equal(batches[1].cpu(), images.tensor[[5, 2]])
    assert moved.fingerprint == images.fingerprint and moved.statistics == images.statistics


@pytest.mark.parametrize("shape", [(2, 1, 4, 4), (2, 3, 4), (0, 3, 4, 4), (2, 3, 4, 0)])
def test_a_resident_is_one_tensor_of_colour_images(shape: tuple[int, ...]) -> None:
    for tensor in (torch.zeros(shape, dtype=torch.uint8), torch.zeros(2, 3, 4, 4)):
        with pytest.raises(data.DataError, match=r"uint8 \[N,3,H,W\]"):
            data.Resident(tensor)


@pytest.mark.parametrize("chunk", [1, 100, 1 << 26])
def test_fingerprint_and_statistics_are_those_of_the_bytes_for_any_chunk(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr("alnb.data.sources.CHUNK_BYTES", chunk)
    images = resident(7)
    floats = images.tensor.double() / 255
    mean, std = images.statistics
    assert mean == pytest.approx(floats.mean((0, 2, 3)).tolist(), rel=1e-12)
    assert std == pytest.approx(floats.std((0, 2, 3), correction=0).tolist(), rel=1e-12)
    assert images.fingerprint == hashlib.sha256(b"(7, 3, 4, 4)" + images.tensor.numpy().tobytes()).hexdigest()
    part = data.Selection(images, torch.tensor([6, 1]))
    copy = data.Resident(images.tensor[[6, 1]])
    assert part.fingerprint == copy.fingerprint and part.statistics == copy.statistics


def test_the_fingerprint_covers_each_bit_and_the_shape_but_not_the_layout() -> None:
    images = resident()
    flipped = images.tensor.clone()
    flipped[5, 2, 3, 3] ^= 1
    prints = {images.fingerprint, data.Resident(flipped).fingerprint, data.Resident(images.tensor.reshape(6, 3, 2, 8)).fingerprint}
    assert len(prints) == 3
    assert data.Resident(images.tensor.to(memory_format=torch.channels_last)).fingerprint == images.fingerprint


def test_a_derived_source_has_length_shape_and_device_of_its_images() -> None:
    derived = data.Derived(resident(5))
    assert (len(derived), derived.shape, derived.device) == (5, (3, 4, 4), torch.device("cpu"))
