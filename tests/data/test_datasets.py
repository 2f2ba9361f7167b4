"""The data sets by name: roots, names and options; digits; CIFAR and Fashion-MNIST, fetched from a server in this process."""

import functools
import gzip
import hashlib
import io
import pickle
import shutil
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy
import pytest
import torch
from image_files import real
from torchvision import datasets as torchvision_sets

from alnb import data
from alnb.data import datasets, files

CIFAR = "cifar-10-batches-py"


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


# ---- where data lie, and by which name ----------------------------------------------------------------------------------------


def test_the_root_is_the_parameter_then_the_variable_then_the_workspace(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ALNB_WORKSPACE", str(tmp_path))
    monkeypatch.delenv("ALNB_DATA", raising=False)
    assert data.root_folder() == tmp_path / "data"
    monkeypatch.setenv("ALNB_DATA", "/elsewhere")
    assert data.root_folder() == Path("/elsewhere") and data.root_folder("/here") == Path("/here")
    assert data.root_folder("~/here") == Path.home() / "here"


@pytest.mark.parametrize(
    "name, near", [("cifar-10", "cifar10"), ("CIFAR100", "cifar100"), ("Tiny-ImageNet", "tiny_imagenet"), ("digit", "digits")]
)
def test_an_unknown_name_is_answered_with_the_nearest(name: str, near: str) -> None:
    for ask in (data.load, data.fetch, data.check_name):
        with pytest.raises(data.DataError, match=rf"no data set '{name}'.*'{near}'\? .* digits, fashion"):
            ask(name)


def test_a_name_near_nothing_lists_what_is_known(tmp_path: Path) -> None:
    with pytest.raises(data.DataError, match=r"no data set 'zzzz'.*/[^?]*caltech101, folder"):
        data.load("zzzz")
    for name in ("digits", "cifar10", "folder", tmp_path):
        data.check_name(name)  # nothing is read


def test_options_that_a_data_set_does_not_have_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"skip_bad .* digits"):
        data.load("digits", skip_bad=True)
    with pytest.raises(ValueError, match="image_size is 16, but digits has 8 pixels"):
        data.load("digits", image_size=16)
    assert data.load("digits", image_size=8)[0].images.shape == (3, 8, 8)
    with pytest.raises(ValueError, match=f"{tmp_path}.*root="):
        data.load(tmp_path, root=tmp_path)
    with pytest.raises(data.DataError, match="root=PATH"):
        data.load("folder")


def test_an_unknown_split_is_refused(tmp_path: Path) -> None:
    for loader in data.DATASETS.values():
        with pytest.raises(Exception, match="split"):  # the type check of the tests comes first
            loader("val", root=tmp_path)
    with pytest.raises(ValueError, match=r"split is 'val': .* train, test"):
        files.check_split("val")


def test_importing_the_module_loads_neither_torchvision_nor_pil_nor_scikit_learn() -> None:
    late = "{'torchvision', 'PIL', 'sklearn', 'pandas'}"
    code = f"import sys, torch; before = set(sys.modules); import alnb.data; print({late} & (set(sys.modules) - before))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "set()"


# ---- digits -------------------------------------------------------------------------------------------------------------------


def test_digits_are_those_of_scikit_learn_with_a_fixed_split() -> None:
    from sklearn.datasets import load_digits

    train, test = data.load("digits")
    assert (len(train), len(test), train.images.shape) == (1297, 500, (3, 8, 8))
    assert test.targets.bincount().tolist() == [50] * 10 and train.targets.dtype == torch.int64
    pixels = torch.cat([s.images.batch(torch.arange(len(s))) for s in (train, test)])
    assert torch.equal(pixels[:, 0], pixels[:, 1]) and torch.equal(pixels[:, 0], pixels[:, 2])
    assert pixels.unique().tolist() == [round(v * 255 / 16) for v in range(17)]
    bunch = load_digits()
    scaled = numpy.rint(bunch.data * 255 / 16).astype(int)
    ours = torch.cat([pixels[:, 0].flatten(1), torch.cat([train.targets, test.targets])[:, None]], dim=1)
    assert sorted(ours.tolist()) == sorted(numpy.column_stack([scaled, bunch.target]).tolist())
    assert test.fingerprint == data.digits("test").fingerprint


def test_digits_if_the_file_has_moved_or_scikit_learn_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = datasets._digits()
    monkeypatch.setattr(Path, "is_file", lambda path: False)
    assert torch.equal(datasets._digits(), expected)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(data.DataError, match=r"digits .* pip install scikit-learn"):
        datasets._digits()


def test_nothing_has_to_be_fetched_for_digits_and_folders(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert data.fetch("digits").is_dir() and data.fetch("folder", tmp_path) == tmp_path
    assert capsys.readouterr().out.count("nothing to fetch") == 2


# ---- CIFAR --------------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_real_cifar10_and_its_imbalanced_part() -> None:
    root = real(CIFAR, "cifar10")
    train, test = data.load("cifar10", root=root)
    peers = torchvision_sets.CIFAR10(root, train=True), torchvision_sets.CIFAR10(root, train=False)
    for ours, peer in zip((train, test), peers, strict=True):
        assert torch.equal(ours.images.batch(torch.arange(len(ours))), torch.from_numpy(peer.data).permute(0, 3, 1, 2))
        assert ours.targets.tolist() == peer.targets and list(ours.classes) == peer.classes
    mean, std = train.images.statistics  # type: ignore[attr-defined]
    assert mean == pytest.approx((0.49139968, 0.48215841, 0.44653091), abs=5e-9)
    assert std == pytest.approx((0.24703223, 0.24348513, 0.26158784), abs=5e-9)
    part, part_test = data.load("cifar10_imbalanced", root=root)
    assert part.name == part_test.name == "cifar10_imbalanced" and part.classes[0] == "airplane" and part.classes[-1] == "truck"
    assert part.targets.bincount().tolist() == [500 * k for k in range(1, 11)] and part_test.fingerprint == test.fingerprint
    assert data.balanced(part, 500).fingerprint == data.balanced(train, 500).fingerprint  # the first ones of each class


@pytest.mark.slow
def test_real_cifar100() -> None:
    train, test = data.load("cifar100", root=real("cifar-100-python", "cifar100"))
    assert train.targets.bincount().tolist() == [500] * 100 and test.targets.bincount().tolist() == [100] * 100
    assert train.classes[0] == "apple" and train.classes[-1] == "worm"


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


@pytest.fixture(params=["cifar10", "cifar100"])
def cifar(request: pytest.FixtureRequest, tmp_path: Path, net: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> str:
    """Ten images a file in the official layout, as an archive at the official address; returns the name of the data set."""
    facts, rows = {"cifar10": torchvision_sets.CIFAR10, "cifar100": torchvision_sets.CIFAR100}[request.param], numpy.random.default_rng(0)
    classes, key = (10, "labels") if request.param == "cifar10" else (100, "fine_labels")
    parts: dict[str, dict] = {facts.meta["filename"]: {facts.meta["key"]: [f"class {i}" for i in range(classes)]}}
    for name, _ in facts.train_list + facts.test_list:
        parts[name] = {"data": rows.integers(0, 256, (10, 3072), dtype=numpy.uint8), key: rows.integers(0, classes, 10).tolist()}
    contents = {name: pickle.dumps(part, protocol=2) for name, part in parts.items()}
    archive = net[0] / facts.filename
    with tarfile.open(archive, "w:gz") as tar:
        for name, content in contents.items():
            info = tarfile.TarInfo(f"{facts.base_folder}/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    for split in ("train_list", "test_list"):
        monkeypatch.setattr(facts, split, [[name, md5(contents[name])] for name, _ in getattr(facts, split)])
    monkeypatch.setattr(facts, "meta", {**facts.meta, "md5": md5(contents[facts.meta["filename"]])})
    monkeypatch.setattr(facts, "url", net[1] + archive.name)
    monkeypatch.setattr(facts, "tgz_md5", md5(archive.read_bytes()))
    return request.param


def facts_of(name: str) -> tuple[type, str, list[str]]:
    """torchvision's class, its folder, and the files in it."""
    source, _, expected = datasets._files(name)
    return source, source.base_folder, list(expected)


def test_cifar_is_fetched_and_read(cifar: str, tmp_path: Path) -> None:
    root, (source, folder, _) = tmp_path / "data", facts_of(cifar)
    with pytest.raises(data.DataError, match="not found"):
        data.DATASETS[cifar]("test", root=root)
    assert not root.exists()  # nothing is fetched unless asked for
    for ours, train in zip(data.load(cifar, root=root, download=True), (True, False), strict=True):
        peer = source(root, train=train)
        assert torch.equal(ours.images.batch(torch.arange(len(ours))), torch.from_numpy(peer.data).permute(0, 3, 1, 2))
        assert ours.targets.tolist() == peer.targets and ours.classes == tuple(peer.classes) and ours.name == cifar
    assert sorted(p.name for p in root.iterdir()) == sorted([folder, source.filename])


def test_a_missing_or_damaged_cifar_file_is_named_with_the_remedy_and_replaced(cifar: str, tmp_path: Path) -> None:
    root, (_, folder, names) = tmp_path / "a folder", facts_of(cifar)
    data.fetch(cifar, root)
    for name in (names[0], names[1], names[-1]):  # of class names, train and test
        path = root / folder / name
        content = path.read_bytes()
        for damaged in (content[:-1], bytes([content[0] ^ 4]) + content[1:], b""):
            path.write_bytes(damaged)
            with pytest.raises(data.DataError) as caught:
                data.load(cifar, root=root)
            for words in (
                f"{path} is damaged",
                f"{len(damaged)} bytes",
                md5(damaged),
                md5(content),
                f"`alnb data {cifar} --root '{root}'`",
            ):
                assert words in str(caught.value)
        path.unlink()
        with pytest.raises(data.DataError, match=f"{cifar}: {name} not found in {path.parent}.*`alnb data {cifar} --root '.*a folder'`"):
            data.load(cifar, root=root)
        assert data.fetch(cifar, root) == path.parent and path.read_bytes() == content
    assert data.load(cifar, root=root)


def test_a_partial_or_wrong_download_never_counts(cifar: str, tmp_path: Path) -> None:
    root, (source, _, _) = tmp_path / "data", facts_of(cifar)
    archive = tmp_path / "net" / source.filename
    complete = archive.read_bytes()
    archive.write_bytes(complete[:-40])
    with pytest.raises(data.DataError, match=rf"could not be fetched.*{root}.*alnb data {cifar}"):
        data.fetch(cifar, root)
    assert list(root.iterdir()) == []
    root.joinpath(archive.name).write_bytes(complete[:-40])  # as another program may have left it
    with pytest.raises(data.DataError, match="could not be fetched"):
        data.fetch(cifar, root)
    archive.write_bytes(complete)
    assert data.fetch(cifar, root).is_dir()


def test_without_a_network_the_message_says_what_to_bring_and_that_works(
    cifar: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, (source, folder, _) = tmp_path / "data", facts_of(cifar)

    def no_network(*_args: object, **_kwargs: object) -> None:
        from urllib.error import URLError

        raise URLError("no network")

    monkeypatch.setattr("urllib.request.urlopen", no_network)
    with pytest.raises(data.DataError, match=rf"{source.url} .*no network.*bring {source.filename} \(md5 {source.tgz_md5}\).*{root}"):
        data.fetch(cifar, root)
    shutil.copy(tmp_path / "net" / source.filename, root)
    assert data.fetch(cifar, root) == root / folder


def test_an_archive_that_does_not_hold_the_files_is_refused(cifar: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, folder, names = facts_of(cifar)
    monkeypatch.setattr(source, "test_list", [[names[-1], "0" * 32]])
    with pytest.raises(data.DataError, match=f"{names[-1]} is damaged"):
        data.fetch(cifar, tmp_path / "data")
    assert not (tmp_path / "data" / folder).exists()


def test_missing_files_of_the_imbalanced_cifar10_name_cifar10(tmp_path: Path) -> None:
    with pytest.raises(data.DataError, match=r"batches.meta, data_batch_1, .*test_batch not found in .*`alnb data cifar10 --root"):
        data.load("cifar10_imbalanced", root=tmp_path)


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
    monkeypatch.setattr(datasets, "FASHION_MNIST", {name: md5(content) for name, content in contents.items()})
    monkeypatch.setattr(datasets, "DEBIAN", tmp_path / "no such package")
    packed = {f"{name}.gz": gzip.compress(content) for name, content in contents.items()}
    for name, content in packed.items():
        (net[0] / name).write_bytes(content)
    monkeypatch.setattr(torchvision_sets.FashionMNIST, "mirrors", [net[1]])
    monkeypatch.setattr(torchvision_sets.FashionMNIST, "resources", [(name, md5(content)) for name, content in packed.items()])
    return contents


def test_fashion_mnist_is_fetched_and_read(fashion: dict[str, bytes], tmp_path: Path) -> None:
    root = tmp_path / "data"
    with pytest.raises(data.DataError, match=r"train-images-idx3-ubyte, .* not found in .*FashionMNIST/raw.*`alnb data fashion_mnist"):
        data.fashion_mnist("train", root=root)
    train, test = data.load("fashion_mnist", root=root, download=True)
    peer = torchvision_sets.FashionMNIST(root, train=False)
    assert torch.equal(test.images.batch(torch.arange(11)), peer.data[:, None].expand(-1, 3, -1, -1))
    assert torch.equal(test.targets, peer.targets.long()) and list(train.classes) == peer.classes and len(train) == 12


@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
def test_damaged_fashion_mnist_is_noticed_and_replaced(fashion: dict[str, bytes], tmp_path: Path, name: str) -> None:
    folder = data.fetch("fashion_mnist", tmp_path)
    for damaged in (fashion[name][:-1], fashion[name][:-1] + bytes([fashion[name][-1] ^ 1])):
        (folder / name).write_bytes(damaged)
        with pytest.raises(data.DataError, match=f"{name} is damaged"):
            data.load("fashion_mnist", root=tmp_path)
        data.fetch("fashion_mnist", tmp_path)
        assert (folder / name).read_bytes() == fashion[name]


def test_fashion_mnist_without_a_network(fashion: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From .gz files in its folder, and from Debian's package, whose .gz have other bytes than the official ones."""
    monkeypatch.setattr(torchvision_sets.FashionMNIST, "mirrors", ["http://127.0.0.1:9/"])
    raw = tmp_path / "data" / "FashionMNIST" / "raw"
    shutil.copytree(tmp_path / "net", raw)
    (raw / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(data.DataError, match=r"t10k-labels-idx1-ubyte.gz could not be fetched"):
        data.fetch("fashion_mnist", tmp_path / "data")
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(fashion["t10k-labels-idx1-ubyte"], mtime=0, compresslevel=1))
    monkeypatch.setattr(datasets, "DEBIAN", tmp_path)  # holds that one file
    assert len(data.load("fashion_mnist", root=tmp_path / "data", download=True)[1]) == 11


@pytest.mark.slow
def test_real_fashion_mnist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not datasets.DEBIAN.is_dir():
        pytest.skip(f"{datasets.DEBIAN} is not there: apt-get install dataset-fashion-mnist")
    monkeypatch.setattr(torchvision_sets.FashionMNIST, "mirrors", ["http://127.0.0.1:9/"])
    train, test = data.load("fashion_mnist", root=tmp_path, download=True)
    peer = torchvision_sets.FashionMNIST(tmp_path, train=True)
    assert torch.equal(train.images.batch(torch.arange(60_000))[:, 1], peer.data) and torch.equal(train.targets, peer.targets)
    assert train.targets.bincount().tolist() == [6000] * 10 and test.targets.bincount().tolist() == [1000] * 10
    # Debian's .gz with file name and time back in their header are the official .gz, whose md5 torchvision states
    times = {"train": 1504176606, "t10k": 1504176627}
    for file, expected in torchvision_sets.FashionMNIST.resources:
        packed, name = (datasets.DEBIAN / file).read_bytes(), file.removesuffix(".gz")
        head = b"\x1f\x8b\x08\x08" + times[file.split("-")[0]].to_bytes(4, "little") + b"\x00\x03" + name.encode() + b"\x00"
        assert md5(head + packed[10:]) == expected
