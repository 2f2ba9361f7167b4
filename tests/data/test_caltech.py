"""Caltech-101 on small files in the official layout, the order of colours, and the imbalanced CIFAR-10."""

import inspect
import itertools
import os
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch
from conftest import images_of
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from alnb.data import IMBALANCED_CIFAR10, DataError, Embedded, ImageSet, Resident, Selection, balanced, bgr, fetch, imbalanced, load
from alnb.data import caltech as module
from alnb.data.caltech import FOLDER, MD5, URL, caltech101
from alnb.data.official import md5
from alnb.data.sets import proportional
from alnb.data.sources import Images

DATA = Path(os.environ.get("ALNB_DATA") or Path(__file__).parents[2] / "data")
SIZES = {"BACKGROUND_Google": 12, "ant": 25, "wheel": 31}


def make(root: Path, sizes: dict[str, int], suffix: str = "jpg") -> Path:
    """The official layout; the colour of each image tells which it is, and the first of each class is grey."""
    for label, (name, n) in enumerate(sizes.items()):
        folder = root / FOLDER / name
        folder.mkdir(parents=True)
        (folder / "tmp").write_bytes(b"")  # as the official BACKGROUND_Google has it
        for k in range(1, n + 1):
            image = Image.new("L", (31, 20), 80 * label) if k == 1 else Image.new("RGB", (30 + k, 20), (80 * label, 7 * k, 200))
            image.save(folder / f"image_{k:04d}.{suffix}", quality=95)
    return root


def pixels_of(images: Images) -> torch.Tensor:
    return images.batch(torch.arange(len(images)))


def real(folder: Path | str, pack: str) -> Path:
    if not (DATA / folder).is_dir():
        pytest.skip(f"{folder} is not in {DATA}: python ../shared/data/unpack.py data {pack}")
    return DATA


# ---- Caltech-101 --------------------------------------------------------------------------------------------------------------


def test_the_split_is_whole_and_stratified(tmp_path: Path) -> None:
    make(tmp_path, SIZES)
    train, test = load("caltech101", root=tmp_path, image_size=16)
    assert train.classes == test.classes == ("ant", "BACKGROUND_Google", "wheel") and train.name == "caltech101"
    assert train.images.shape == (3, 16, 16) and len(train) + len(test) == 68 and len(test) == round(68 * 1098 / 9144)
    assert torch.bincount(test.targets).tolist() == [3, 1, 4]  # of 3.00, 1.44 and 3.72: the sum is 8
    colours = torch.cat([pixels_of(part.images)[:, :2, 8, 8] for part in (train, test)]).tolist()
    assert len({tuple(colour) for colour in colours}) == 68  # every file once
    assert not torch.equal(train.targets, train.targets.sort().values)  # an index says nothing of the class


def test_pixels_and_targets_belong_together_and_grey_has_three_channels(tmp_path: Path) -> None:
    make(tmp_path, SIZES)
    label_of = {0: "BACKGROUND_Google", 80: "ant", 160: "wheel"}
    grey = 0
    for part in load("caltech101", root=tmp_path, image_size=8):
        for image, target in zip(pixels_of(part.images), part.targets.tolist(), strict=True):
            red = min(label_of, key=lambda value: abs(value - int(image[0, 4, 4])))
            assert label_of[red] == part.classes[target]
            grey += bool((image[0] == image[1]).all() and (image[0] == image[2]).all())
    assert grey == 3


def test_the_default_size_is_the_papers_and_another_start_gives_the_same(tmp_path: Path) -> None:
    make(tmp_path, {"ant": 9, "wheel": 8})
    assert caltech101("test", root=tmp_path).images.shape == (3, 224, 224) == load("caltech101", root=tmp_path)[0].images.shape
    first, again = (load("caltech101", root=tmp_path, image_size=16) for _ in range(2))
    assert [part.fingerprint for part in first] == [part.fingerprint for part in again]


def test_the_split_is_the_same_for_files_of_another_kind(tmp_path: Path) -> None:
    names = []
    for suffix in ("jpg", "webp"):
        split = module._split(module._files(make(tmp_path / suffix, SIZES, suffix)))
        names.append([[path.stem for path in paths] for paths in split["test"]])
    assert names[0] == names[1]


def test_a_large_split_is_kept_decoded_until_a_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, SIZES)
    plain = [part.fingerprint for part in load("caltech101", root=tmp_path, image_size=8)]
    assert not list(tmp_path.rglob("*.npy"))
    monkeypatch.setattr(module, "KEPT_FROM", 20)
    decoded: list[int] = []
    decode = module._decode

    def counting(paths: list[Path], image_size: int, root: Path) -> torch.Tensor:
        decoded.append(len(paths))
        return decode(paths, image_size, root)

    monkeypatch.setattr(module, "_decode", counting)
    for _ in range(2):
        assert [part.fingerprint for part in load("caltech101", root=tmp_path, image_size=8)] == plain
    assert decoded == [60, 8, 8]  # train once, the small test each time
    assert caltech101("train", root=tmp_path, image_size=4).images.shape == (3, 4, 4)  # another size is another file
    path = module._split(module._files(tmp_path))["train"][0][0]
    Image.new("RGB", (40, 40), (1, 2, 3)).save(path)
    assert caltech101("train", root=tmp_path, image_size=8).fingerprint != plain[0] and decoded == [60, 8, 8, 60, 60]


def test_what_is_missing_damaged_or_too_little_is_named_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"101_ObjectCategories not found in .*; get it with `alnb data caltech101 --root"):
        load("caltech101", root=tmp_path)
    make(tmp_path / "bad", {"ant": 12, "wheel": 14})
    (tmp_path / "bad" / FOLDER / "ant" / "image_0003.jpg").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"1 of \d+ images cannot be read:\n.*image_0003.jpg: .*\nTo have them anew, delete .*caltech101"):
        load("caltech101", root=tmp_path / "bad", image_size=16)
    with pytest.raises(DataError, match=r"one image only of ant \(1 classes\); delete or complete .*101_ObjectCategories"):
        load("caltech101", root=make(tmp_path / "lonely", {"ant": 1, "wheel": 14}))
    with pytest.raises(DataError, match="has 4 images, too few to test on any; delete or complete"):
        load("caltech101", root=make(tmp_path / "few", {"ant": 2, "wheel": 2}))
    with pytest.raises(DataError, match="needs at least two sub-folders"):
        load("caltech101", root=make(tmp_path / "one", {"ant": 9}))


def test_addresses_are_those_of_torchvision() -> None:
    from torchvision.datasets import Caltech101

    source = inspect.getsource(Caltech101)
    assert f'"{URL}"' in source and f'md5="{MD5}"' in source and f'"{FOLDER.name}"' in source


def packed(tmp_path: Path, inner: str) -> bytes:
    """An archive as the official one: a tar of the images in a zip, beside another tar and what macOS adds."""
    make(tmp_path / "made", {"ant": 9, "wheel": 8})
    with tarfile.open(tmp_path / "inner.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "made" / FOLDER, FOLDER.name)
    with zipfile.ZipFile(tmp_path / "outer.zip", "w") as pack:
        pack.writestr("caltech-101/Annotations.tar", b"not looked at")
        pack.writestr(f"__MACOSX/caltech-101/._{inner}", b"no archive")
        pack.write(tmp_path / "inner.tar.gz", f"caltech-101/{inner}")
    return (tmp_path / "outer.zip").read_bytes()


def test_it_is_unpacked_from_the_official_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content, root = packed(tmp_path, "101_ObjectCategories.tar.gz"), tmp_path / "data"
    monkeypatch.setattr(module, "URL", f"file://{tmp_path}/nowhere/caltech-101.zip")
    with pytest.raises(DataError, match=rf"could not be fetched .*bring caltech-101.zip \(md5 {MD5}\).*put it into {root}"):
        fetch("caltech101", root)
    monkeypatch.setattr(module, "MD5", md5(content))
    (root / "caltech-101.zip").write_bytes(content)
    train, test = load("caltech101", root=root, download=True, image_size=8)
    made = load("caltech101", root=tmp_path / "made", image_size=8)
    assert [train.fingerprint, test.fingerprint] == [part.fingerprint for part in made]
    assert fetch("caltech101", root) == root / FOLDER
    assert sorted(path.name for path in root.iterdir()) == ["caltech-101.zip", "caltech101"]  # nothing else is left behind


def test_an_archive_of_another_layout_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content, root = packed(tmp_path, "images.tar.gz"), tmp_path / "data"
    root.mkdir()
    (root / "caltech-101.zip").write_bytes(content)
    monkeypatch.setattr(module, "MD5", md5(content))
    with pytest.raises(DataError, match=r"holds no 101_ObjectCategories.tar.gz: .* unpack it to .* yourself"):
        fetch("caltech101", root)


def test_real_caltech101() -> None:
    train, test = load("caltech101", root=real(FOLDER, "caltech101"), image_size=16)
    assert (len(train), len(test), len(train.classes)) == (8046, 1098, 102)
    tests, trains = (torch.bincount(part.targets, minlength=102) for part in (test, train))
    assert bool(((tests - (tests + trains) * 1098 / 9144).abs() < 1).all()) and int(tests.min()) >= 3
    background = train.classes.index("BACKGROUND_Google")
    assert (int(trains[background]), int(tests[background])) == (411, 56)  # 467, of which 56.08


# ---- the order of colours -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("selected", [False, True])
@pytest.mark.parametrize("n", [1, 12, 1000, 1001])
def test_bgr_reverses_the_channels(selected: bool, n: int) -> None:
    plain = images_of(n)
    before = pixels_of(plain.images).clone()
    order = torch.arange(n).flip(0) if selected else torch.arange(n)
    images = Selection(plain.images, order) if selected else plain.images
    turned = bgr(ImageSet(images, plain.targets, plain.classes, "x"))
    assert isinstance(turned.images, Resident) and turned.name == "x (BGR)" and turned.classes == plain.classes
    assert torch.equal(turned.images.tensor, before[order][:, [2, 1, 0]]) and torch.equal(turned.targets, plain.targets)
    assert turned.images.fingerprint != images.fingerprint
    assert bgr(turned).images.fingerprint == images.fingerprint
    assert torch.equal(pixels_of(plain.images), before)  # the given one is not written to


def test_features_have_no_colours() -> None:
    plain = images_of(4)
    embedded = ImageSet(Embedded(plain.images, torch.ones(4, 3)), plain.targets, plain.classes, "x")
    with pytest.raises(DataError, match="'x' holds features, which have no colours: take `bgr` of its images"):
        bgr(embedded)


# ---- the imbalanced CIFAR-10 --------------------------------------------------------------------------------------------------


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
    assert proportional(IMBALANCED_CIFAR10, 2750) == [50 * k for k in range(1, 11)]
    assert proportional(IMBALANCED_CIFAR10, 27_500) == list(IMBALANCED_CIFAR10)
    assert proportional(IMBALANCED_CIFAR10, 20) == [1, 1, 1, 1, 2, 2, 2, 3, 3, 4]
    assert proportional([100, 1, 1, 1, 1], 6) == [2, 1, 1, 1, 1] and proportional([100, 1, 1, 1, 1], 6, at_least=0) == [6, 0, 0, 0, 0]


@pytest.mark.parametrize(
    "counts, total, at_least, message",
    [
        ([5, 0], 3, 1, r"positive numbers, at least one, not \[5, 0\]"),
        ([], 0, 1, r"not \[\]"),
        ([5, 4], 10, 1, "total is 10: 2 counts with 9 in all make 2 to 9"),
        ([5, 4], 1, 1, "total is 1: 2 counts with 9 in all make 2 to 9"),
        ([5, 4], -1, 0, "total is -1: 2 counts with 9 in all make 0 to 9"),
        ([5, 4], 4, 2, "at_least is 2"),
    ],
)
def test_shares_that_cannot_be_are_named(counts: list[int], total: int, at_least: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        proportional(counts, total, at_least)


def test_the_share_that_is_tested_on_is_the_papers() -> None:
    assert [module.tested(n) for n in (4, 5, 914, 9144)] == [0, 1, 110, 1098]


def test_the_papers_counts() -> None:
    assert tuple(range(500, 5001, 500)) == IMBALANCED_CIFAR10 and sum(IMBALANCED_CIFAR10) == 27_500  # airplane to truck


def test_the_imbalanced_cifar10_by_its_name() -> None:
    root = real("cifar-10-batches-py", "cifar10")
    train, test = load("cifar10_imbalanced", root=root)
    names = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    assert train.classes == test.classes == names and train.name == test.name == "cifar10_imbalanced"
    assert torch.bincount(train.targets).tolist() == list(IMBALANCED_CIFAR10)
    assert torch.bincount(test.targets).tolist() == [1000] * 10
    whole, whole_test = load("cifar10", root=root)
    assert test.fingerprint == whole_test.fingerprint
    assert balanced(train, 500).fingerprint == balanced(whole, 500).fingerprint  # the first ones of each class
    small = proportional(IMBALANCED_CIFAR10, 2750)
    assert imbalanced(train, small).fingerprint == imbalanced(whole, small).fingerprint


def test_missing_cifar_files_are_named_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"not found in .*get the data with `alnb data cifar10 --root"):
        load("cifar10_imbalanced", root=tmp_path)
