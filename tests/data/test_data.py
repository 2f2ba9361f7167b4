import functools
import gzip
import hashlib
import io
import os
import pickle
import shutil
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image
from torchvision import datasets as official_sets

from alnb import data
from alnb.data import datasets, files, official, tiny
from alnb.data.sources import check_indices

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
CIFAR = "cifar-10-batches-py"


def real(folder: str) -> Path:
    root = data.root_folder()
    if not (root / folder).is_dir():
        pytest.skip(f"{root / folder} is not there: run .ci/run or set ALNB_DATA")
    return root


def resident(n: int = 6, side: int = 4, seed: int = 0) -> data.Resident:
    return data.Resident(torch.randint(256, (n, 3, side, side), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8))


def a_set(*counts: int) -> data.ImageSet:
    """So many images of each class, the classes interleaved."""
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


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_args: object) -> None:
        pass


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, str]]:
    """A folder and the address at which a server in this process offers its files."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    folder = tmp_path / "net"
    folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


# ---- sources ------------------------------------------------------------------------------------------------------------------


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
        with pytest.raises(IndexError, match=rf"index {bad} \(at position 1\).*the 6 images.*0 to 5"):
            images.batch(torch.tensor([0, bad]))


@pytest.mark.parametrize(
    "indices, dtype", [([True] * 6, torch.bool), ([0], torch.float32), (1, torch.int64), ([[1]], torch.int64), ([1], torch.int32)]
)
def test_indices_that_are_none_are_refused(indices: object, dtype: torch.dtype) -> None:
    with pytest.raises(TypeError, match="vector of int64"):
        resident().batch(torch.tensor(indices, dtype=dtype))


def test_indices_on_a_device_are_not_looked_at() -> None:
    check_indices(torch.empty(3, dtype=torch.int64, device="meta"), 1)  # looking at them raises, as it would wait on a GPU


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_gives_the_same_without_waiting() -> None:
    images = resident()
    moved = images.to("cuda")
    indices = torch.tensor([5, 2], device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        batch = moved.batch(indices)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(batch.cpu(), images.batch(torch.tensor([5, 2]))) and moved.fingerprint == images.fingerprint
    assert moved.statistics == images.statistics


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


def test_the_fingerprint_sees_one_bit_and_the_shape() -> None:
    images = resident()
    flipped = images.tensor.clone()
    flipped[5, 2, 3, 3] ^= 1
    prints = {images.fingerprint, data.Resident(flipped).fingerprint, data.Resident(images.tensor.reshape(6, 3, 2, 8)).fingerprint}
    assert len(prints) == 3


def test_a_strided_tensor_has_the_fingerprint_of_its_content() -> None:
    images = resident()
    assert data.Resident(images.tensor.to(memory_format=torch.channels_last)).fingerprint == images.fingerprint


# ---- image sets and their parts -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "targets, classes, name, message",
    [
        ([0, 1, 1], ("a", "b"), "x", "6 images and 3 targets"),
        ([0, 1, 0, 1, 2, 0], ("a", "b"), "x", "target 2 of image 4 is not one of the classes 0..1"),
        ([0, 1, 0, -1, 0, 0], ("a", "b"), "x", "target -1 of image 3"),
        ([0] * 6, ("a",), "x", "at least two different"),
        ([0] * 6, ("a", "a"), "x", "at least two different"),
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
    whole = data.ImageSet(images, targets, classes, "x").fingerprint
    assert whole == data.ImageSet(images, targets, classes, "another name").fingerprint
    others = [(resident(seed=1), targets, classes), (images, 1 - targets, classes), (images, targets, ("b", "a"))]
    assert len({whole, *(data.ImageSet(*parts, "x").fingerprint for parts in others)}) == 4


@given(st.lists(st.integers(0, 9), min_size=1, unique=True))
def test_a_subset_holds_what_was_asked_for(indices: list[int]) -> None:
    whole, chosen = a_set(5, 3, 2), torch.tensor(indices)
    streamed = data.ImageSet(Streamed(whole.images.batch(torch.arange(10))), whole.targets, whole.classes, "streamed")
    everything = torch.arange(len(indices))
    for image_set in (whole, streamed):
        part = data.subset(image_set, chosen)
        assert torch.equal(part.images.batch(everything), whole.images.batch(chosen))
        assert torch.equal(part.targets, whole.targets[chosen]) and part.classes == whole.classes and part.name == image_set.name


@given(st.lists(st.integers(-3, 12)))
def test_a_subset_refuses_what_is_not_there_or_twice(indices: list[int]) -> None:
    legal = len(indices) > 0 and all(0 <= i < 10 for i in indices) and len(set(indices)) == len(indices)
    if legal:
        assert len(data.subset(a_set(5, 3, 2), torch.tensor(indices))) == len(indices)
    else:
        with pytest.raises((IndexError, ValueError), match=r"lies outside|empty subset|occurs more than once"):
            data.subset(a_set(5, 3, 2), torch.tensor(indices, dtype=torch.int64))


@given(st.tuples(st.integers(1, 5), st.integers(1, 3), st.integers(1, 2)), st.none() | st.integers(0, 2**62))
def test_imbalanced_keeps_so_many_of_each_class_in_order(counts: tuple[int, ...], seed: int | None) -> None:
    whole = a_set(5, 3, 2)
    part = data.imbalanced(whole, counts, seed)
    assert part.targets.bincount(minlength=3).tolist() == list(counts)
    again = data.imbalanced(whole, counts, seed)
    assert torch.equal(part.images.tensor, again.images.tensor)  # type: ignore[attr-defined]
    places = [int((whole.images.tensor == image).all((1, 2, 3)).nonzero()) for image in part.images.tensor]  # type: ignore[attr-defined]
    assert places == sorted(set(places))
    if seed is None:
        naive = [i for c, count in enumerate(counts) for i in (whole.targets == c).nonzero().flatten().tolist()[:count]]
        assert places == sorted(naive)


def test_a_smaller_draw_is_part_of_a_larger_one_and_seeds_differ() -> None:
    whole = a_set(60, 60)
    small, large = (data.imbalanced(whole, [n, 60], seed=3).images.batch(torch.arange(n + 60)) for n in (20, 40))
    assert {bytes(i.numpy()) for i in small} < {bytes(i.numpy()) for i in large}
    assert data.balanced(whole, 20, seed=1).fingerprint != data.balanced(whole, 20, seed=2).fingerprint
    assert data.balanced(whole, 20).fingerprint == data.imbalanced(whole, [20, 20]).fingerprint


@pytest.mark.parametrize(
    "counts, message",
    [
        ([1, 1], "3 classes, 2 counts"),
        ([1, 0, 1], "class 1: asked 0, available 3"),
        ([6, 1, 3], "class 0: asked 6, available 5; class 2: asked 3, available 2"),
        ([-1, 1, 1], "class 0: asked -1"),
    ],
)
def test_counts_that_cannot_be_are_named(counts: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        data.imbalanced(a_set(5, 3, 2), counts)


def test_the_paper_s_imbalanced_cifar10() -> None:
    part = data.imbalanced(data.cifar10("train", root=real(CIFAR)), data.IMBALANCED_CIFAR10)
    assert part.targets.bincount().tolist() == [500 * k for k in range(1, 11)] and len(part) == 27_500
    assert part.classes[0] == "airplane" and part.classes[-1] == "truck"


# ---- where data lie, and by which name ----------------------------------------------------------------------------------------


def test_the_root_is_the_parameter_then_the_variable_then_the_workspace(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ALNB_WORKSPACE", str(tmp_path))
    monkeypatch.delenv("ALNB_DATA", raising=False)
    assert data.root_folder() == tmp_path / "data"
    monkeypatch.setenv("ALNB_DATA", "/elsewhere")
    assert data.root_folder() == Path("/elsewhere") and data.root_folder("/given") == Path("/given")
    assert data.root_folder("~/given") == Path.home() / "given"


@pytest.mark.parametrize(
    "name, near", [("cifar-10", "cifar10"), ("CIFAR100", "cifar100"), ("Tiny-ImageNet", "tiny_imagenet"), ("digit", "digits")]
)
def test_an_unknown_name_is_answered_with_the_nearest(name: str, near: str) -> None:
    for ask in (data.load, data.fetch):
        with pytest.raises(data.DataError, match=rf"no data set '{name}'.*Did you mean '{near}'\? Known are digits, fashion"):
            ask(name)


def test_a_name_near_nothing_lists_what_is_known() -> None:
    with pytest.raises(data.DataError, match=r"no data set 'zzzz'.*/[^?]*Known are .*folder of images"):
        data.load("zzzz")


def test_options_that_a_data_set_does_not_have_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="skip_bad is for folders"):
        data.load("digits", skip_bad=True)
    with pytest.raises(ValueError, match="image_size is 16, and digits has 8 pixels"):
        data.load("digits", image_size=16)
    assert data.load("digits", image_size=8)[0].images.shape == (3, 8, 8)
    with pytest.raises(ValueError, match="leave root away"):
        data.load(tmp_path, root=tmp_path)
    with pytest.raises(data.DataError, match="give root=PATH"):
        data.load("folder")


def test_an_unknown_split_is_refused(tmp_path: Path) -> None:
    for loader in data.DATASETS.values():
        with pytest.raises(Exception, match="split"):  # the type check of the tests comes first
            loader("val", root=tmp_path)
    with pytest.raises(ValueError, match="'train' or 'test'"):
        files.check_split("val")


def test_importing_the_module_loads_neither_torchvision_nor_pil_nor_scikit_learn() -> None:
    late = "{'torchvision', 'PIL', 'sklearn', 'pandas'}"
    code = f"import sys, torch; before = set(sys.modules); import alnb.data; print({late} & (set(sys.modules) - before))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "set()"


# ---- digits -------------------------------------------------------------------------------------------------------------------


def test_digits_are_those_of_scikit_learn_split_once_and_for_all() -> None:
    from sklearn.datasets import load_digits

    train, test = data.load("digits")
    assert (len(train), len(test), train.images.shape) == (1297, 500, (3, 8, 8))
    assert test.targets.bincount().tolist() == [50] * 10 and train.targets.dtype == torch.int64
    pixels = torch.cat([s.images.batch(torch.arange(len(s))) for s in (train, test)])
    assert torch.equal(pixels[:, 0], pixels[:, 1]) and torch.equal(pixels[:, 0], pixels[:, 2])
    assert pixels.unique().tolist() == [round(v * 255 / 16) for v in range(17)]
    bunch = load_digits()
    scaled = numpy.rint(bunch.data * 255 / 16).astype(int)
    mine = torch.cat([pixels[:, 0].flatten(1), torch.cat([train.targets, test.targets])[:, None]], dim=1)
    assert sorted(mine.tolist()) == sorted(numpy.column_stack([scaled, bunch.target]).tolist())
    assert test.fingerprint == data.digits("test").fingerprint


def test_nothing_has_to_be_fetched_for_digits_and_folders(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert data.fetch("digits").is_dir() and data.fetch("folder", tmp_path) == tmp_path
    assert capsys.readouterr().out.count("nothing has to be fetched") == 2


# ---- CIFAR --------------------------------------------------------------------------------------------------------------------


def test_real_cifar10_is_what_torchvision_reads() -> None:
    root = real(CIFAR)
    train, test = data.load("cifar10", root=root)
    peers = official_sets.CIFAR10(root, train=True), official_sets.CIFAR10(root, train=False)
    for mine, peer in zip((train, test), peers, strict=True):
        assert torch.equal(mine.images.batch(torch.arange(len(mine))), torch.from_numpy(peer.data).permute(0, 3, 1, 2))
        assert mine.targets.tolist() == peer.targets and list(mine.classes) == peer.classes
    mean, std = train.images.statistics  # type: ignore[attr-defined]
    assert mean == pytest.approx((0.49139968, 0.48215841, 0.44653091), abs=5e-9)
    assert std == pytest.approx((0.24703223, 0.24348513, 0.26158784), abs=5e-9)


@pytest.fixture
def cifar_copy(tmp_path: Path) -> Path:
    """The real test batch, alone with its names."""
    folder = real(CIFAR) / CIFAR
    (tmp_path / CIFAR).mkdir()
    for name in ("test_batch", "batches.meta"):
        shutil.copy(folder / name, tmp_path / CIFAR)
    return tmp_path


@pytest.mark.parametrize("where", [0, 0.5, 1])
def test_one_flipped_bit_of_a_cifar_batch_is_noticed(cifar_copy: Path, where: float) -> None:
    batch = cifar_copy / CIFAR / "test_batch"
    assert len(data.cifar10("test", root=cifar_copy)) == 10_000
    content = bytearray(batch.read_bytes())
    content[int(where * (len(content) - 1))] ^= 4
    batch.write_bytes(content)
    found, expected = hashlib.md5(content).hexdigest(), dict(official_sets.CIFAR10.test_list)["test_batch"]
    with pytest.raises(data.DataError, match=rf"test_batch is damaged.*{found}.*{expected}.*alnb data cifar10 --root {cifar_copy}"):
        data.cifar10("test", root=cifar_copy)


@pytest.mark.parametrize("size", [0, 1_000_000])
def test_a_truncated_cifar_file_is_noticed(cifar_copy: Path, size: int) -> None:
    for name in ("test_batch", "batches.meta"):
        path = cifar_copy / CIFAR / name
        whole = path.read_bytes()
        path.write_bytes(whole[: min(size, len(whole) - 1)])
        with pytest.raises(data.DataError, match=f"{name} is damaged: .* bytes with md5"):
            data.cifar10("test", root=cifar_copy)
        path.write_bytes(whole)


def test_missing_cifar_files_are_named_with_the_command_that_gets_them(tmp_path: Path) -> None:
    message = rf"batches.meta, data_batch_1.*data_batch_5 not found in {tmp_path / CIFAR}.*`alnb data cifar10 --root {tmp_path}`"
    with pytest.raises(data.DataError, match=message):
        data.cifar10("train", root=tmp_path)
    with pytest.raises(data.DataError, match=r"--root '.*a folder'"):
        data.cifar100("test", root=tmp_path / "a folder")


@pytest.fixture
def cifar100(tmp_path: Path, net: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Twenty and ten images in the official layout, as an archive at the official address."""
    facts, rows = official_sets.CIFAR100, numpy.random.default_rng(0)
    parts: dict[str, dict] = {"meta": {"fine_label_names": [f"fine {i}" for i in range(100)]}}
    for name, n in (("train", 20), ("test", 10)):
        parts[name] = {"data": rows.integers(0, 256, (n, 3072), dtype=numpy.uint8), "fine_labels": [i % 100 for i in range(n)]}
    contents = {name: pickle.dumps(part, protocol=2) for name, part in parts.items()}
    archive = net[0] / facts.filename
    with tarfile.open(archive, "w:gz") as tar:
        for name, content in contents.items():
            info = tarfile.TarInfo(f"{facts.base_folder}/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    md5 = {name: official.md5(content) for name, content in contents.items()}
    monkeypatch.setattr(facts, "train_list", [["train", md5["train"]]])
    monkeypatch.setattr(facts, "test_list", [["test", md5["test"]]])
    monkeypatch.setattr(facts, "meta", {**facts.meta, "md5": md5["meta"]})
    monkeypatch.setattr(facts, "url", net[1] + archive.name)
    monkeypatch.setattr(facts, "tgz_md5", official.md5(archive.read_bytes()))
    return tmp_path


def test_cifar100_is_fetched_verified_repaired_and_read(cifar100: Path) -> None:
    root = cifar100 / "data"
    with pytest.raises(data.DataError, match="not found"):
        data.cifar100("test", root=root)
    train, test = data.load("cifar100", root=root, download=True)
    peer = official_sets.CIFAR100(root, train=True)
    assert torch.equal(train.images.batch(torch.arange(20)), torch.from_numpy(peer.data).permute(0, 3, 1, 2))
    assert train.targets.tolist() == peer.targets and len(test) == 10 and test.classes == tuple(f"fine {i}" for i in range(100))
    folder = data.fetch("cifar100", root)
    assert folder == root / "cifar-100-python"
    (folder / "test").write_bytes(b"half")
    with pytest.raises(data.DataError, match="test is damaged: 4 bytes"):
        data.load("cifar100", root=root)
    data.fetch("cifar100", root)
    assert data.cifar100("test", root=root).fingerprint == test.fingerprint
    assert sorted(p.name for p in root.iterdir()) == ["cifar-100-python", "cifar-100-python.tar.gz"]


def test_a_partial_or_wrong_download_never_counts(cifar100: Path) -> None:
    root, archive = cifar100 / "data", cifar100 / "net" / "cifar-100-python.tar.gz"
    whole = archive.read_bytes()
    archive.write_bytes(whole[:-40])
    with pytest.raises(data.DataError, match=r"could not be fetched.*put it into .*alnb data cifar100"):
        data.fetch("cifar100", root)
    assert list(root.iterdir()) == []
    root.joinpath(archive.name).write_bytes(whole[:-40])  # as another program may have left it
    with pytest.raises(data.DataError, match="could not be fetched"):
        data.fetch("cifar100", root)
    archive.write_bytes(whole)
    assert data.fetch("cifar100", root).is_dir()


def test_without_a_network_the_message_says_what_to_bring_and_that_works(cifar100: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, archive = cifar100 / "data", cifar100 / "net" / "cifar-100-python.tar.gz"
    monkeypatch.setattr(official_sets.CIFAR100, "url", "http://host.invalid/cifar-100-python.tar.gz")

    def no_network(*_args: object, **_kwargs: object) -> None:
        from urllib.error import URLError

        raise URLError("no network")

    monkeypatch.setattr("urllib.request.urlopen", no_network)
    message = rf"http://host.invalid/.* could not be fetched .*no network.*bring cifar-100-python.tar.gz \(md5 .*{root}"
    with pytest.raises(data.DataError, match=message):
        data.fetch("cifar100", root)
    shutil.copy(archive, root)
    assert data.fetch("cifar100", root) == root / "cifar-100-python"


def test_an_archive_that_does_not_hold_the_files_is_refused(cifar100: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(official_sets.CIFAR100, "test_list", [["test", "0" * 32]])
    with pytest.raises(data.DataError, match="test is damaged"):
        data.fetch("cifar100", cifar100 / "data")
    assert not (cifar100 / "data" / "cifar-100-python" / "test").exists()


# ---- Fashion-MNIST ------------------------------------------------------------------------------------------------------------


def idx(array: numpy.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape) + array.astype(numpy.uint8).tobytes()


@pytest.fixture
def fashion(tmp_path: Path, net: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    rows = numpy.random.default_rng(0)
    contents = {}
    for part, n in (("train", 12), ("t10k", 11)):
        contents[f"{part}-images-idx3-ubyte"] = idx(rows.integers(0, 256, (n, 28, 28)))
        contents[f"{part}-labels-idx1-ubyte"] = idx(numpy.arange(n) % 10)
    monkeypatch.setattr(official, "FASHION_MNIST", {name: official.md5(content) for name, content in contents.items()})
    monkeypatch.setattr(official, "DEBIAN_FASHION_MNIST", tmp_path / "no such package")
    packed = {f"{name}.gz": gzip.compress(content) for name, content in contents.items()}
    for name, content in packed.items():
        (net[0] / name).write_bytes(content)
    monkeypatch.setattr(official_sets.FashionMNIST, "mirrors", [net[1]])
    monkeypatch.setattr(official_sets.FashionMNIST, "resources", [(name, official.md5(content)) for name, content in packed.items()])
    return contents


def test_fashion_mnist_is_fetched_and_read(fashion: dict[str, bytes], tmp_path: Path) -> None:
    root = tmp_path / "data"
    message = r"train-images-idx3-ubyte, train-labels-idx1-ubyte not found in .*FashionMNIST/raw.*`alnb data fashion_mnist"
    with pytest.raises(data.DataError, match=message):
        data.fashion_mnist("train", root=root)
    train, test = data.load("fashion_mnist", root=root, download=True)
    peer = official_sets.FashionMNIST(root, train=False)
    assert torch.equal(test.images.batch(torch.arange(11)), peer.data[:, None].expand(-1, 3, -1, -1))
    assert torch.equal(test.targets, peer.targets.long()) and list(train.classes) == peer.classes and len(train) == 12


@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "train-labels-idx1-ubyte"])
def test_damaged_fashion_mnist_is_noticed_and_repaired(fashion: dict[str, bytes], tmp_path: Path, name: str) -> None:
    folder = data.fetch("fashion_mnist", tmp_path)
    for damaged in (fashion[name][:-1], fashion[name][:-1] + bytes([fashion[name][-1] ^ 1])):
        (folder / name).write_bytes(damaged)
        with pytest.raises(data.DataError, match=f"{name} is damaged"):
            data.fashion_mnist("train", root=tmp_path)
        data.fetch("fashion_mnist", tmp_path)
        assert (folder / name).read_bytes() == fashion[name]


def test_fashion_mnist_from_packed_files_that_lie_there(fashion: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(official_sets.FashionMNIST, "mirrors", ["http://127.0.0.1:9/"])
    raw = tmp_path / "data" / "FashionMNIST" / "raw"
    shutil.copytree(tmp_path / "net", raw)
    shutil.move(raw / "t10k-labels-idx1-ubyte.gz", tmp_path)
    with pytest.raises(data.DataError, match=r"t10k-labels-idx1-ubyte.gz could not be fetched"):
        data.fetch("fashion_mnist", tmp_path / "data")
    monkeypatch.setattr(official, "DEBIAN_FASHION_MNIST", tmp_path)
    assert len(data.load("fashion_mnist", root=tmp_path / "data", download=True)[1]) == 11


def test_real_fashion_mnist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not DEBIAN.is_dir():
        pytest.skip(f"{DEBIAN} is not there: apt-get install dataset-fashion-mnist")
    monkeypatch.setattr(official_sets.FashionMNIST, "mirrors", ["http://127.0.0.1:9/"])
    train, test = data.load("fashion_mnist", root=tmp_path, download=True)
    peer = official_sets.FashionMNIST(tmp_path, train=True)
    assert torch.equal(train.images.tensor[:, 1], peer.data) and torch.equal(train.targets, peer.targets)  # type: ignore[attr-defined]
    assert train.targets.bincount().tolist() == [6000] * 10 and test.targets.bincount().tolist() == [1000] * 10


def test_the_digests_of_fashion_mnist_are_those_of_the_official_archives() -> None:
    """Debian's .gz with file name and time back in their header are the official .gz, whose md5 torchvision lists."""
    if not DEBIAN.is_dir():
        pytest.skip(f"{DEBIAN} is not there: apt-get install dataset-fashion-mnist")
    times = {"train": 1504176606, "t10k": 1504176627}
    for file, md5 in official_sets.FashionMNIST.resources:
        packed, name = (DEBIAN / file).read_bytes(), file.removesuffix(".gz")
        head = b"\x1f\x8b\x08\x08" + times[file.split("-")[0]].to_bytes(4, "little") + b"\x00\x03" + name.encode() + b"\x00"
        assert official.md5(head + packed[10:]) == md5
        assert official.md5(gzip.decompress(packed)) == official.FASHION_MNIST[name]


# ---- Tiny ImageNet ------------------------------------------------------------------------------------------------------------


def jpeg(path: Path, value: int, mode: str = "RGB", side: int = 64) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (side, side), value if mode == "L" else (value, value, value)).save(path, "JPEG")


@pytest.fixture
def tiny_root(tmp_path: Path) -> Path:
    """Three classes with 11 and 2 images, one of them grey, in the official layout."""
    folder = tmp_path / "tiny-imagenet-200"
    wnids = ["n03", "n01", "n02"]
    rows = []
    for c, wnid in enumerate(wnids):
        for i in range(11):
            jpeg(folder / "train" / wnid / "images" / f"{wnid}_{i}.JPEG", 80 * c + i, "L" if i == 4 else "RGB")
    for i in range(6):
        jpeg(folder / "val" / "images" / f"val_{i}.JPEG", 80 * (i % 3) + i)
        rows.append(f"val_{i}.JPEG\t{wnids[i % 3]}\t0\t0\t62\t62\n")
    (folder / "val" / "val_annotations.txt").write_text("".join(rows) + "val_99.JPEG\tn01\n")
    (folder / "wnids.txt").write_text("\n".join(wnids))
    (folder / "words.txt").write_text("n00\tentity\nn01\tgoldfish, Carassius auratus\nn02\tsalamander\nn03\tbullfrog\n")
    return tmp_path


def test_tiny_imagenet_in_its_official_layout(tiny_root: Path) -> None:
    train, test = data.load("tiny_imagenet", root=tiny_root)
    assert train.classes == ("bullfrog", "goldfish, Carassius auratus", "salamander")
    assert sorted(train.targets.tolist()) == [0] * 11 + [1] * 11 + [2] * 11 != train.targets.tolist()  # an index tells no class
    assert test.targets.tolist() == [0, 1, 2, 0, 1, 2]
    assert train.images.shape == (3, 64, 64)
    values = train.images.tensor[:, :, 30, 30]  # type: ignore[attr-defined]
    assert sorted(values.tolist()) == [[80 * c + i] * 3 for c in range(3) for i in range(11)]
    assert (values[:, 0] // 80).tolist() == train.targets.tolist()
    assert data.load("tiny_imagenet", root=tiny_root, image_size=32)[1].images.shape == (3, 32, 32)


def test_real_tiny_imagenet() -> None:
    root = real("tiny-imagenet-200")
    train, test = data.load("tiny_imagenet", root=root)
    assert len(train.classes) == 200 and train.images.shape == (3, 64, 64)
    assert train.targets.bincount().min() == train.targets.bincount().max() and set(test.targets.tolist()) == set(range(200))
    wnid = (root / "tiny-imagenet-200" / "wnids.txt").read_text().split()[3]
    with Image.open(root / "tiny-imagenet-200" / "train" / wnid / "images" / f"{wnid}_2.JPEG") as image:
        expected = torch.from_numpy(numpy.array(image.convert("RGB"))).permute(2, 0, 1)
    found = [torch.equal(image, expected) for image in train.images.batch((train.targets == 3).nonzero().flatten())]
    assert found.count(True) == 1 and len(found) == train.targets.bincount()[3]


def broken_tiny(root: Path, how: str) -> str:
    """Damages the folder; returns what the message must say."""
    folder = root / "tiny-imagenet-200"
    one = folder / "train" / "n01" / "images" / "n01_3.JPEG"
    match how:
        case "truncated":
            one.write_bytes(one.read_bytes()[:-100])
        case "no image":
            one.write_bytes(b"not an image")
        case "other size":
            jpeg(one, 3, side=32)
            return r"n01_3.JPEG: .*32x32 pixels, not 64x64"
        case "no class folder":
            shutil.rmtree(folder / "train" / "n01")
            return "no images of n01"
        case "empty class folder":
            shutil.rmtree(folder / "train" / "n01" / "images")
            (folder / "train" / "n01" / "images").mkdir()
            return "n01/images holds no image"
        case "no wnids":
            (folder / "wnids.txt").unlink()
            return "wnids.txt not found"
        case "no word":
            (folder / "words.txt").write_text("n01\tgoldfish\n")
            return r"words.txt has no line for n03, n02"
        case _:
            shutil.rmtree(folder)
            return rf"tiny-imagenet-200 not found in {root}; get it with `alnb data tiny_imagenet"
    return r"1 of 33 images cannot be read:\n.*n01_3.JPEG: (.|\n)*alnb data tiny_imagenet --root"


DAMAGES = ["truncated", "no image", "other size", "no class folder", "empty class folder", "no wnids", "no word", "nothing"]


@pytest.mark.parametrize("how", DAMAGES)
def test_bad_tiny_imagenet_is_named(tiny_root: Path, how: str) -> None:
    message = broken_tiny(tiny_root, how)
    with pytest.raises(data.DataError, match=message):
        data.tiny_imagenet("train", root=tiny_root)


@pytest.mark.parametrize("how", ["no annotations", "image without class", "class without image", "no images"])
def test_bad_validation_of_tiny_imagenet_is_named(tiny_root: Path, how: str) -> None:
    val = tiny_root / "tiny-imagenet-200" / "val"
    match how:
        case "no annotations":
            (val / "val_annotations.txt").unlink()
            message = r"val_annotations.txt not found in .*val; get it"
        case "image without class":
            jpeg(val / "images" / "val_7.JPEG", 0)
            message = r"1 images without a class in val_annotations.txt \(val_7.JPEG\)"
        case "class without image":
            for i in (1, 4):
                (val / "images" / f"val_{i}.JPEG").unlink()
            message = "no image of n01"
        case _:
            shutil.rmtree(val / "images")
            message = "no images"
    with pytest.raises(data.DataError, match=message):
        data.tiny_imagenet("test", root=tiny_root)
    with pytest.raises(data.DataError, match=message):
        data.fetch("tiny_imagenet", tiny_root)


def test_tiny_imagenet_is_fetched_from_its_archive(tiny_root: Path, net: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    archive, root = net[0] / "tiny-imagenet-200.zip", tiny_root / "new"
    with zipfile.ZipFile(archive, "w") as pack:
        for path in sorted((tiny_root / "tiny-imagenet-200").rglob("*")):
            pack.write(path, path.relative_to(tiny_root))
    monkeypatch.setattr(tiny, "URL", net[1] + archive.name)
    with pytest.raises(data.DataError, match=r"could not be fetched \(File not found or corrupted.*md5 90528d7ca1a48142e341f4ef8d21d0de"):
        data.fetch("tiny_imagenet", root)
    monkeypatch.setattr(tiny, "MD5", official.md5(archive.read_bytes()))
    assert data.tiny_imagenet("train", root=root, download=True).fingerprint == data.tiny_imagenet("train", root=tiny_root).fingerprint
    assert data.fetch("tiny_imagenet", root) == root / "tiny-imagenet-200"


def test_decoded_images_are_kept_and_made_anew_when_a_file_changes(tiny_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiny, "KEPT_FROM", 10)
    folder = tiny_root / "tiny-imagenet-200"
    decoded: list[int] = []

    decode = files.decode_all

    def counting(paths: list[Path], image_size: int, exactly: int) -> tuple[torch.Tensor, dict[int, str]]:
        decoded.append(len(paths))
        return decode(paths, image_size, exactly)

    monkeypatch.setattr(files, "decode_all", counting)

    def read() -> str:
        return data.tiny_imagenet("train", root=tiny_root).images.fingerprint

    first = read()
    assert read() == first and decoded == [33] and not list(folder.glob("*.part"))
    jpeg(folder / "train" / "n01" / "images" / "n01_3.JPEG", 200)
    changed = read()
    assert changed != first and decoded == [33, 33]
    file = folder / ".train-64.npy"
    content = bytearray(file.read_bytes())
    for damaged in (bytes(content[:-1]), bytes(content[:-1]) + bytes([content[-1] ^ 1]), b"", bytes(content[:50])):
        file.write_bytes(damaged)
        assert read() == changed
    file.with_suffix(".json").write_text("{")
    assert read() == changed
    assert len(decoded) == 7
    assert read() == changed and len(decoded) == 7
    (folder / "train" / "n01" / "images" / "n01_3.JPEG").write_bytes(b"broken since")
    with pytest.raises(data.DataError, match="n01_3"):
        read()


def test_a_folder_that_cannot_be_written_to_keeps_nothing(
    tiny_root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tiny, "KEPT_FROM", 10)

    def full(*_args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "_keep", full)
    assert len(data.tiny_imagenet("train", root=tiny_root)) == 33
    assert "cannot be kept" in caplog.text


# ---- folders of images --------------------------------------------------------------------------------------------------------


def picture(path: Path, value: int = 0, size: tuple[int, int] = (8, 8)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value,) * 3).save(path)
    return path


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """Ten cats, named with their value, and five dogs."""
    for i in range(10):
        picture(tmp_path / "pets" / "cat" / f"{i}.png", i)
    for i in range(5):
        picture(tmp_path / "pets" / "dog" / f"{i}.png", 100 + i)
    return tmp_path / "pets"


def values(image_set: data.ImageSet) -> list[int]:
    return image_set.images.batch(torch.arange(len(image_set)))[:, 0, 0, 0].tolist()


def test_a_fifth_of_each_class_is_held_out_once_and_for_all(pets: Path) -> None:
    train, test = data.load(pets, image_size=8)
    assert train.classes == test.classes == ("cat", "dog") and train.name == "pets"
    assert train.targets.bincount().tolist() == [8, 4] and test.targets.bincount().tolist() == [2, 1]
    assert sorted(values(train) + values(test)) == [*range(10), *range(100, 105)]
    assert values(data.folder("test", root=pets, image_size=8)) == values(test)
    before = sorted(value for value in values(test) if value < 100)
    for i in range(3):
        picture(pets / "ant" / f"{i}.png", 200 + i)
    assert (
        sorted(value for value in values(data.load(pets, image_size=8)[1]) if value < 100) == before
    )  # another class does not change this one


def test_own_test_folders_are_used(pets: Path) -> None:
    base = pets.parent / "split"
    shutil.copytree(pets, base / "train")
    assert data.load(base)[1].targets.bincount().tolist() == [2, 1]
    shutil.copytree(pets, base / "val")
    assert [len(part) for part in data.load(base)] == [15, 15]
    shutil.copytree(pets / "cat", base / "test" / "cat")
    picture(base / "test" / "dog" / "a.png", 7)
    assert [len(part) for part in data.load(str(base))] == [15, 11]
    (base / "test" / "dog").rename(base / "test" / "Dog")
    with pytest.raises(data.DataError, match="same class sub-folders; one of them lacks Dog, dog"):
        data.load(base)


def test_a_class_may_be_called_train(pets: Path) -> None:
    (pets / "dog").rename(pets / "train")
    assert data.load(pets)[0].classes == ("cat", "train")


def test_natural_order_depth_hidden_and_other_files(tmp_path: Path) -> None:
    for i, name in enumerate(["c10/x.png", "c2/x10.PNG", "c2/x9.png", "C1/x.png", "c10/deep/er/y.png", "C1/y.png"]):
        picture(tmp_path / name, i)
    for name in ("c2/Thumbs.db", "c2/notes.txt", "c2/.hidden.png", "c2/.git/a.png", ".cache/a.png", "readme.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"junk")
    train, test = data.load(tmp_path, image_size=8)
    assert train.classes == ("C1", "c2", "c10") and sorted(values(train) + values(test)) == list(range(6))
    assert [p.name for p in files.image_files(tmp_path / "c2")] == ["x9.png", "x10.PNG"]
    assert sorted(["b", "a10", "A2", "a1"], key=files.natural) == ["a1", "A2", "a10", "b"]


@given(st.lists(st.text("ab0129 É²", max_size=5), max_size=6))
@example(["", "0"])
def test_natural_order_is_an_order_for_any_names(names: list[str]) -> None:
    assert sorted(sorted(names), key=files.natural) == sorted(sorted(names, reverse=True), key=files.natural)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda p: None, r"nowhere does not exist \(looked from .*\); give the path"),
        (lambda p: p.write_text("x"), "nowhere is a file; give the path"),
        (lambda p: p.mkdir(), "needs at least two sub-folders, one per class; it has none, and 0 images"),
        (lambda p: picture(p / "a.png"), "it has none, and 1 images"),
        (lambda p: picture(p / "one" / "a.png"), "it has one, 'one', and 1 images"),
        (lambda p: (picture(p / "a" / "a.png"), (p / "b").mkdir()), "nowhere/b holds no image: it is empty"),
        (lambda p: (picture(p / "a" / "a.png"), (p / "b").mkdir(), (p / "b" / "i.heic").touch()), r"b holds no image: .* only 1 \.heic"),
        (lambda p: (picture(p / "a" / "a.png"), picture(p / "b" / "a.png")), r"nowhere/a has one image; it needs one to train"),
    ],
)
def test_a_folder_that_is_none_is_named(tmp_path: Path, make, message: str) -> None:
    path = tmp_path / "nowhere"
    make(path)
    with pytest.raises(data.DataError, match=message):
        data.load(path)
    with pytest.raises(data.DataError, match=message):
        data.folder("train", root=str(path))


def spoil(pets: Path, n: int) -> None:
    for i in range(n):
        (pets / "cat" / f"bad_{i:02}.jpg").write_bytes(b"not an image")


def test_all_unreadable_files_are_named_at_once(pets: Path) -> None:
    spoil(pets, 23)
    whole = io.BytesIO()
    Image.effect_noise((64, 64), 80).save(whole, "JPEG")
    (pets / "dog" / "half.jpg").write_bytes(whole.getvalue()[:1500])
    with pytest.raises(data.DataError) as caught:
        data.load(pets)
    message = str(caught.value)
    assert "24 of 39 images cannot be read" in message and "... and 4 more" in message and "skip_bad=True" in message
    assert sum("  " + str(pets) in line for line in message.splitlines()) == 20


def test_a_truncated_picture_is_unreadable(pets: Path) -> None:
    for suffix in ("jpg", "png", "webp", "tiff", "bmp"):
        file = pets / "dog" / f"half.{suffix}"
        Image.effect_noise((64, 64), 80).save(file)
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
        with pytest.raises(data.DataError, match=rf"1 of 16 images cannot be read:\n.*half.{suffix}: "):
            data.load(pets)
        file.unlink()


def test_unreadable_files_are_left_out_on_demand_and_noted(pets: Path, caplog: pytest.LogCaptureFixture) -> None:
    clean = data.load(pets)
    spoil(pets, 3)
    train, test = data.load(pets, skip_bad=True)
    assert len(train) + len(test) == 15 and sorted(values(train) + values(test)) == sorted(values(clean[0]) + values(clean[1]))
    assert [r.name for r in caplog.records] == ["alnb"] and all(f"bad_0{i}.jpg" in caplog.text for i in range(3))
    assert "They are left out" in caplog.text


def test_a_class_without_a_readable_image_is_named_even_then(pets: Path) -> None:
    for path in (pets / "dog").iterdir():
        path.write_bytes(b"junk")
    with pytest.raises(data.DataError, match="no image of the train split can be read for dog"):
        data.load(pets, skip_bad=True)


def test_image_size_must_be_a_size(pets: Path) -> None:
    with pytest.raises(ValueError, match="image_size is 0"):
        data.load(pets, image_size=0)


# ---- how a file becomes a tensor ----------------------------------------------------------------------------------------------


def decoded(image: Image.Image, path: Path, side: int = 2, **options: object) -> list[list[list[int]]]:
    """[H][W][3] values."""
    image.save(path, **options)
    return files.decode(path, side).permute(1, 2, 0).tolist()


def grid(mode: str, *pixels: object) -> Image.Image:
    image = Image.new(mode, (2, 2))
    for i, pixel in enumerate(pixels):
        image.putpixel((i % 2, i // 2), pixel)
    return image


def test_grey_bilevel_and_colour(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    assert decoded(grid("L", 0, 50, 100, 255), path) == [[[0] * 3, [50] * 3], [[100] * 3, [255] * 3]]
    assert decoded(grid("1", 0, 1, 1, 0), path) == [[[0] * 3, [255] * 3], [[255] * 3, [0] * 3]]
    assert decoded(grid("RGB", (1, 2, 3), (4, 5, 6), (7, 8, 9), (10, 11, 12)), path) == [[[1, 2, 3], [4, 5, 6]], [[7, 8, 9], [10, 11, 12]]]


@pytest.mark.parametrize("suffix", ["png", "webp", "tiff"])
def test_transparency_is_laid_on_white(tmp_path: Path, suffix: str) -> None:
    pixels = (10, 20, 30, 255), (10, 20, 30, 0), (0, 0, 0, 128), (100, 0, 255, 51)
    got = decoded(grid("RGBA", *pixels), tmp_path / f"a.{suffix}", **({"lossless": True, "exact": True} if suffix == "webp" else {}))
    expected = [[round(255 + (v - 255) * a / 255) for v in rgb] for *rgb, a in pixels]
    assert torch.allclose(torch.tensor(got).view(4, 3), torch.tensor(expected), atol=1)
    assert got[0] == [[10, 20, 30], [255] * 3]


def test_grey_and_palette_with_transparency(tmp_path: Path) -> None:
    assert decoded(grid("LA", (7, 255), (7, 0), (0, 255), (200, 0)), tmp_path / "a.png") == [[[7] * 3, [255] * 3], [[0] * 3, [255] * 3]]
    palette = grid("P", 0, 1, 2, 0)
    palette.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    plain = [[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 0, 0]]]
    assert decoded(palette, tmp_path / "b.png") == plain
    assert decoded(palette, tmp_path / "c.png", transparency=1) == [[[255, 0, 0], [255] * 3], plain[1]]
    assert decoded(palette, tmp_path / "d.png", transparency=b"\xff\x00\xff") == [[[255, 0, 0], [255] * 3], plain[1]]
    assert decoded(palette, tmp_path / "e.gif", transparency=1) == [[[255, 0, 0], [255] * 3], plain[1]]
    keyed = grid("RGB", (9, 9, 9), (1, 2, 3), (9, 9, 9), (0, 0, 0))
    assert decoded(keyed, tmp_path / "f.png", transparency=(9, 9, 9)) == [[[255] * 3, [1, 2, 3]], [[255] * 3, [0] * 3]]


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_16_bit_grey_is_scaled(tmp_path: Path, suffix: str) -> None:
    image = Image.fromarray(numpy.array([[0, 257], [65535, 25700 + 129]], numpy.uint16))
    assert decoded(image, tmp_path / f"a.{suffix}") == [[[0] * 3, [1] * 3], [[255] * 3, [101] * 3]]


def test_32_bit_grey_only_within_16_bits(tmp_path: Path) -> None:
    image = Image.fromarray(numpy.array([[0, 257], [65535, 514]], numpy.int32))
    assert decoded(image, tmp_path / "a.tiff") == [[[0] * 3, [1] * 3], [[255] * 3, [2] * 3]]
    for value in (-1, 65536):
        with pytest.raises(ValueError, match="beyond 16 bits"):
            decoded(Image.fromarray(numpy.array([[0, value], [1, 1]], numpy.int32)), tmp_path / "b.tiff")


def test_floating_point_pixels_are_not_read(pets: Path) -> None:
    Image.new("F", (4, 4), 0.5).save(pets / "cat" / "float.tiff")
    with pytest.raises(data.DataError, match=r"float.tiff: ValueError: its pixels are floating-point"):
        data.load(pets)


def test_cmyk_becomes_rgb(tmp_path: Path) -> None:
    assert decoded(grid("CMYK", (0, 0, 0, 0), (255, 0, 0, 0), (0, 255, 0, 0), (0, 0, 0, 255)), tmp_path / "a.tiff") == [
        [[255, 255, 255], [0, 255, 255]],
        [[255, 0, 255], [0, 0, 0]],
    ]


def test_the_first_frame_and_page(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (2, 2), (v, v, v)) for v in (0, 255)]
    for suffix in ("gif", "tiff", "webp", "png"):
        assert decoded(frames[0], tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:]) == [[[0] * 3] * 2] * 2


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_upright(tmp_path: Path, orientation: int) -> None:
    upright = torch.tensor([[1, 2], [3, 4]])
    # what a camera stores so that a viewer, applying the orientation, sees `upright` (EXIF 2.3, tag 0x0112)
    stored = {
        1: upright, 2: upright.flip(1), 3: upright.rot90(2), 4: upright.flip(0),
        5: upright.T, 6: upright.rot90(1), 7: upright.rot90(2).T, 8: upright.rot90(-1),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    got = decoded(Image.fromarray(stored.to(torch.uint8).numpy()), tmp_path / "a.png", exif=exif)
    assert torch.equal(torch.tensor(got)[:, :, 0], upright)


@pytest.mark.parametrize("size", [(90, 60), (60, 90), (64, 64), (33, 500), (20, 31)])
def test_resizing_is_that_of_torchvision_up_to_rounding(tmp_path: Path, size: tuple[int, int]) -> None:
    from torchvision.transforms import v2

    y, x = numpy.mgrid[: size[1], : size[0]]
    smooth = numpy.stack([127 + 100 * numpy.sin(x / 9), 127 + 100 * numpy.cos(y / 7), (x + y) % 256 * 0.4], -1).astype(numpy.uint8)
    image = Image.fromarray(smooth)
    mine = torch.tensor(decoded(image, tmp_path / "a.png", 30)).float()
    peer = torch.from_numpy(numpy.array(v2.CenterCrop(30)(v2.Resize(30)(image)))).float()
    assert (mine - peer).abs().mean() < 4
    if size[0] == size[1]:
        assert torch.equal(mine, peer)


def test_the_centre_is_cut_out(tmp_path: Path) -> None:
    wide = Image.new("RGB", (12, 4), (255, 0, 0))
    wide.paste((0, 0, 255), (4, 0, 8, 4))
    assert decoded(wide, tmp_path / "a.png", 4) == [[[0, 0, 255]] * 4] * 4
    assert decoded(wide.transpose(Image.Transpose.ROTATE_90), tmp_path / "a.png", 4) == [[[0, 0, 255]] * 4] * 4


def test_a_large_jpeg_is_close_to_what_full_decoding_gives(tmp_path: Path) -> None:
    y, x = numpy.mgrid[:600, :900]
    image = Image.fromarray((127 + 100 * numpy.sin(x / 60) * numpy.cos(y / 40)).astype(numpy.uint8)).convert("RGB")
    image.save(tmp_path / "a.jpg", quality=95)
    with Image.open(tmp_path / "a.jpg") as full:
        full.save(tmp_path / "a.png")
    assert (files.decode(tmp_path / "a.jpg", 64).int() - files.decode(tmp_path / "a.png", 64).int()).abs().max() <= 3


def test_order_is_that_of_the_paths_for_any_number_of_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [picture(tmp_path / f"{i}.png", i) for i in range(40)]
    for workers in (1, 2, 16):
        monkeypatch.setattr(files, "WORKERS", workers)
        monkeypatch.setattr(os, "cpu_count", lambda: 16)
        images, bad = files.decode_all(paths, 3)
        assert images[:, 2, 1, 1].tolist() == list(range(40)) and bad == {}


def test_digits_are_those_of_scikit_learn() -> None:
    """Their file is read without importing the library: against its own loader."""
    from sklearn.datasets import load_digits

    bunch, rows = load_digits(), datasets._digits()
    assert rows.shape == (1797, 65) and rows[:, :-1].tolist() == bunch.data.tolist() and rows[:, -1].tolist() == bunch.target.tolist()


def test_digits_where_the_file_has_moved_or_the_library_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = datasets._digits()
    monkeypatch.setattr(Path, "is_file", lambda path: False)
    assert torch.equal(datasets._digits(), expected)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(data.DataError, match="digits come with scikit-learn, which is not installed here: pip install"):
        datasets._digits()


def test_names_are_checked_without_reading_anything(tmp_path: Path) -> None:
    for name in ("digits", "cifar10", "folder", tmp_path):
        data.check_name(name)
    with pytest.raises(data.DataError, match=r"no data set 'digitz'.* Did you mean 'digits'"):
        data.check_name("digitz")
