"""Tiny ImageNet and Caltech-101 on small files in their official layouts, and on the real files where they are."""

import hashlib
import inspect
import shutil
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy
import pytest
import torch
from image_files import picture, real
from PIL import Image

from alnb import data
from alnb.data import archives
from alnb.data.archives import CALTECH, TINY, caltech101, tiny_imagenet

SIZES = {"BACKGROUND_Google": 12, "ant": 25, "wheel": 31}


def pixels_of(part: data.ImageSet) -> torch.Tensor:
    return part.images.batch(torch.arange(len(part)))


def offered(monkeypatch: pytest.MonkeyPatch, name: str, archive: Path) -> None:
    """The file `archive` stands for the official one."""
    facts = replace(getattr(archives, name), md5=hashlib.md5(archive.read_bytes()).hexdigest())
    monkeypatch.setattr(archives, name, facts)


# ---- Tiny ImageNet ------------------------------------------------------------------------------------------------------------


def jpeg(path: Path, value: int, mode: str = "RGB", side: int = 64) -> None:
    picture(path, value, (side, side), mode)


@pytest.fixture
def tiny_root(tmp_path: Path) -> Path:
    """Three classes with 11 and 2 images, one of them grey, in the official layout."""
    folder = tmp_path / TINY.folder
    wnids = ["n03", "n01", "n02"]
    for c, wnid in enumerate(wnids):
        for i in range(11):
            jpeg(folder / "train" / wnid / "images" / f"{wnid}_{i}.JPEG", 80 * c + i, "L" if i == 4 else "RGB")
    for i in range(6):
        jpeg(folder / "val" / "images" / f"val_{i}.JPEG", 80 * (i % 3) + i)
    rows = [f"val_{i}.JPEG\t{wnids[i % 3]}\t0\t0\t62\t62\n" for i in range(6)]
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
    values = pixels_of(train)[:, :, 30, 30]
    assert sorted(values.tolist()) == [[80 * c + i] * 3 for c in range(3) for i in range(11)]
    assert (values[:, 0] // 80).tolist() == train.targets.tolist()
    assert data.load("tiny_imagenet", root=tiny_root, image_size=32)[1].images.shape == (3, 32, 32)


@pytest.mark.slow
def test_real_tiny_imagenet() -> None:
    root = real(TINY.folder, "tinyimagenet")
    train, test = data.load("tiny_imagenet", root=root)
    assert len(train.classes) == 200 and train.images.shape == (3, 64, 64)
    assert train.targets.bincount().min() == train.targets.bincount().max() and set(test.targets.tolist()) == set(range(200))
    wnid = (root / TINY.folder / "wnids.txt").read_text().split()[3]
    with Image.open(root / TINY.folder / "train" / wnid / "images" / f"{wnid}_2.JPEG") as image:
        expected = torch.from_numpy(numpy.array(image.convert("RGB"))).permute(2, 0, 1)
    equal = [torch.equal(image, expected) for image in train.images.batch((train.targets == 3).nonzero().flatten())]
    assert equal.count(True) == 1 and len(equal) == train.targets.bincount()[3]


def broken_train(folder: Path, how: str) -> str:
    """Damages the folder; returns what the message must contain."""
    file = folder / "train" / "n01" / "images" / "n01_3.JPEG"
    match how:
        case "truncated":
            file.write_bytes(file.read_bytes()[:-100])
        case "other size":
            jpeg(file, 3, side=32)
            return r"n01_3.JPEG: .*32x32 pixels, not 64x64"
        case "no class folder":
            shutil.rmtree(folder / "train" / "n01")
            return "no images of n01"
        case "empty class folder":
            shutil.rmtree(file.parent)
            file.parent.mkdir()
            return "n01/images holds no image"
        case "no wnids":
            (folder / "wnids.txt").unlink()
            return rf"wnids.txt not found in {folder}"
        case "no word":
            (folder / "words.txt").write_text("n01\tgoldfish\n")
            return r"words.txt .* n03, n02"
        case _:
            shutil.rmtree(folder)
            return rf"tiny-imagenet-200 not found in {folder.parent}.*`alnb data tiny_imagenet --root {folder.parent}`"
    return r"1 of 33 images cannot be read:\n.*n01_3.JPEG: (.|\n)*alnb data tiny_imagenet --root"


@pytest.mark.parametrize("how", ["truncated", "other size", "no class folder", "empty class folder", "no wnids", "no word", "nothing"])
def test_bad_tiny_imagenet_is_named(tiny_root: Path, how: str) -> None:
    message = broken_train(tiny_root / TINY.folder, how)
    with pytest.raises(data.DataError, match=message):
        tiny_imagenet("train", root=tiny_root)


@pytest.mark.parametrize("how", ["no annotations", "image without class", "class without image", "no images"])
def test_bad_validation_of_tiny_imagenet_is_named(tiny_root: Path, how: str) -> None:
    val = tiny_root / TINY.folder / "val"
    match how:
        case "no annotations":
            (val / "val_annotations.txt").unlink()
            message = r"val_annotations.txt not found in .*val"
        case "image without class":
            jpeg(val / "images" / "val_7.JPEG", 0)
            message = r"val_annotations.txt .* 1 images \(val_7.JPEG\)"
        case "class without image":
            for i in (1, 4):
                (val / "images" / f"val_{i}.JPEG").unlink()
            message = "no image of n01"
        case _:
            shutil.rmtree(val / "images")
            message = "no images in"
    with pytest.raises(data.DataError, match=message):
        tiny_imagenet("test", root=tiny_root)
    with pytest.raises(data.DataError, match=message):
        data.fetch("tiny_imagenet", tiny_root)


def test_tiny_imagenet_is_unpacked_from_its_archive(tiny_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, archive = tiny_root / "new", tiny_root / "new" / "tiny-imagenet-200.zip"
    root.mkdir()
    with zipfile.ZipFile(archive, "w") as pack:
        for path in sorted((tiny_root / TINY.folder).rglob("*")):
            pack.write(path, path.relative_to(tiny_root))
    monkeypatch.setattr(archives, "TINY", replace(TINY, url=f"http://127.0.0.1:9/{archive.name}"))
    with pytest.raises(data.DataError, match=rf"http://127.0.0.1:9/.*bring tiny-imagenet-200.zip \(md5 {TINY.md5}\).*{root}"):
        data.fetch("tiny_imagenet", root)
    offered(monkeypatch, "TINY", archive)
    assert tiny_imagenet("train", root=root, download=True).fingerprint == tiny_imagenet("train", root=tiny_root).fingerprint
    assert data.fetch("tiny_imagenet", root) == root / TINY.folder
    assert sorted(path.name for path in root.iterdir()) == [TINY.folder.name, archive.name]  # nothing else is left behind


# ---- Caltech-101 --------------------------------------------------------------------------------------------------------------


def caltech(root: Path, sizes: dict[str, int], suffix: str = "jpg") -> Path:
    """The official layout; each image has its own colour, and the first of each class is grey."""
    for label, (name, n) in enumerate(sizes.items()):
        folder = root / CALTECH.folder / name
        folder.mkdir(parents=True)
        (folder / "tmp").write_bytes(b"")  # as the official BACKGROUND_Google has it
        for k in range(1, n + 1):
            image = Image.new("L", (31, 20), 80 * label) if k == 1 else Image.new("RGB", (30 + k, 20), (80 * label, 7 * k, 200))
            image.save(folder / f"image_{k:04d}.{suffix}", quality=95)
    return root


def test_the_split_is_complete_and_stratified(tmp_path: Path) -> None:
    train, test = data.load("caltech101", root=caltech(tmp_path, SIZES), image_size=16)
    assert train.classes == test.classes == ("ant", "BACKGROUND_Google", "wheel") and train.name == "caltech101"
    assert train.images.shape == (3, 16, 16) and len(train) + len(test) == 68 and len(test) == round(68 * 1098 / 9144)
    assert torch.bincount(test.targets).tolist() == [3, 1, 4]  # of 3.00, 1.44 and 3.72: the sum is 8
    colours = torch.cat([pixels_of(part)[:, :2, 8, 8] for part in (train, test)]).tolist()
    assert len({tuple(colour) for colour in colours}) == 68  # every file once
    assert not torch.equal(train.targets, train.targets.sort().values)  # an index tells no class


def test_pixels_and_targets_belong_together_and_grey_has_three_channels(tmp_path: Path) -> None:
    caltech(tmp_path, SIZES)
    label_of = {0: "BACKGROUND_Google", 80: "ant", 160: "wheel"}
    grey = 0
    for part in data.load("caltech101", root=tmp_path, image_size=8):
        for image, target in zip(pixels_of(part), part.targets.tolist(), strict=True):
            red = min(label_of, key=lambda value: abs(value - int(image[0, 4, 4])))
            assert label_of[red] == part.classes[target]
            grey += bool((image[0] == image[1]).all() and (image[0] == image[2]).all())
    assert grey == 3


def test_the_default_size_is_the_papers(tmp_path: Path) -> None:
    caltech(tmp_path, {"ant": 9, "wheel": 8})
    assert caltech101("test", root=tmp_path).images.shape == (3, 224, 224) == data.load("caltech101", root=tmp_path)[0].images.shape


def test_the_split_is_the_same_for_files_of_another_kind(tmp_path: Path) -> None:
    names = []
    for suffix in ("jpg", "webp"):
        paths, _, _ = CALTECH.listing(caltech(tmp_path / suffix, SIZES, suffix), "test")
        names.append([path.relative_to(tmp_path / suffix).with_suffix("") for path in paths])
    assert names[0] == names[1]


def test_a_large_split_is_cached_by_its_size_until_a_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    caltech(tmp_path, SIZES)
    plain = [part.fingerprint for part in data.load("caltech101", root=tmp_path, image_size=8)]
    assert not list(tmp_path.rglob("*.pt"))
    monkeypatch.setattr(archives, "CACHED_FROM", 20)
    decoded: list[int] = []
    decode_all = archives.decode_all

    def counting(paths: list[Path], *options: object) -> tuple[torch.Tensor, dict[int, str]]:
        decoded.append(len(paths))
        return decode_all(paths, *options)  # type: ignore[arg-type]

    monkeypatch.setattr(archives, "decode_all", counting)
    for _ in range(2):
        assert [part.fingerprint for part in data.load("caltech101", root=tmp_path, image_size=8)] == plain
    assert decoded == [60, 8, 8]  # train once, the small test each time
    assert caltech101("train", root=tmp_path, image_size=4).images.shape == (3, 4, 4)  # another size is another file
    path = CALTECH.listing(tmp_path, "train")[0][0]
    picture(path, 9, (40, 40))
    assert caltech101("train", root=tmp_path, image_size=8).fingerprint != plain[0] and decoded == [60, 8, 8, 60, 60]
    path.write_bytes(b"broken since")
    with pytest.raises(data.DataError, match=path.name):
        caltech101("train", root=tmp_path, image_size=8)


def test_bad_caltech101_is_named_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(data.DataError, match=r"101_ObjectCategories not found in .*`alnb data caltech101 --root"):
        data.load("caltech101", root=tmp_path)
    caltech(tmp_path / "bad", {"ant": 12, "wheel": 14})
    (tmp_path / "bad" / CALTECH.folder / "ant" / "image_0003.jpg").write_bytes(b"no image")
    with pytest.raises(data.DataError, match=r"1 of \d+ images cannot be read:\n.*image_0003.jpg: (.|\n)*Delete .*`alnb data caltech101"):
        data.load("caltech101", root=tmp_path / "bad", image_size=16)
    with pytest.raises(data.DataError, match="ant has one image"):
        data.load("caltech101", root=caltech(tmp_path / "single", {"ant": 1, "wheel": 14}))
    with pytest.raises(data.DataError, match="101_ObjectCategories has 4 images"):
        data.load("caltech101", root=caltech(tmp_path / "few", {"ant": 2, "wheel": 2}))
    with pytest.raises(data.DataError, match="needs at least two sub-folders"):
        data.load("caltech101", root=caltech(tmp_path / "one", {"ant": 9}))


def test_the_facts_of_caltech101_are_those_of_torchvision() -> None:
    from torchvision.datasets import Caltech101

    source = inspect.getsource(Caltech101)
    assert f'"{CALTECH.url}"' in source and f'md5="{CALTECH.md5}"' in source and f'"{CALTECH.folder.name}"' in source


@pytest.mark.parametrize("inner", ["101_ObjectCategories.tar.gz", "images.tar.gz"])
def test_caltech101_is_unpacked_from_its_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inner: str) -> None:
    """A tar of the images in a zip, beside another tar and what macOS adds."""
    made, root = caltech(tmp_path / "made", {"ant": 9, "wheel": 8}), tmp_path / "data"
    with tarfile.open(tmp_path / "inner.tar.gz", "w:gz") as tar:
        tar.add(made / CALTECH.folder, CALTECH.folder.name)
    root.mkdir()
    with zipfile.ZipFile(root / "caltech-101.zip", "w") as pack:
        pack.writestr("caltech-101/Annotations.tar", b"not looked at")
        pack.writestr(f"__MACOSX/caltech-101/._{inner}", b"no archive")
        pack.write(tmp_path / "inner.tar.gz", f"caltech-101/{inner}")
    offered(monkeypatch, "CALTECH", root / "caltech-101.zip")
    if inner != "101_ObjectCategories.tar.gz":
        with pytest.raises(data.DataError, match=rf"{CALTECH.url} holds no 101_ObjectCategories"):
            data.fetch("caltech101", root)
        return
    parts = data.load("caltech101", root=root, download=True, image_size=8)
    assert [part.fingerprint for part in parts] == [part.fingerprint for part in data.load("caltech101", root=made, image_size=8)]
    assert data.fetch("caltech101", root) == root / CALTECH.folder
    assert sorted(path.name for path in root.iterdir()) == ["caltech-101.zip", "caltech101"]  # nothing else is left behind


@pytest.mark.slow
def test_real_caltech101() -> None:
    train, test = data.load("caltech101", root=real(CALTECH.folder, "caltech101"), image_size=16)
    assert (len(train), len(test), len(train.classes)) == (8046, 1098, 102)
    tests, trains = (torch.bincount(part.targets, minlength=102) for part in (test, train))
    assert bool(((tests - (tests + trains) * 1098 / 9144).abs() < 1).all()) and int(tests.min()) >= 3
    background = train.classes.index("BACKGROUND_Google")
    assert (int(trains[background]), int(tests[background])) == (411, 56)  # 467, of which 56.08
