import io
import os
import shutil
from pathlib import Path

import numpy
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from image_files import picture
from PIL import Image

from alnb import data
from alnb.data import files


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
    cats = sorted(value for value in values(test) if value < 100)
    for i in range(3):
        picture(pets / "ant" / f"{i}.png", 200 + i)
    test = data.load(pets, image_size=8)[1]
    assert sorted(value for value in values(test) if value < 100) == cats  # another class does not change this one


def test_a_test_folder_is_used(pets: Path) -> None:
    base = pets.parent / "split"
    shutil.copytree(pets, base / "train")
    assert data.load(base)[1].targets.bincount().tolist() == [2, 1]
    shutil.copytree(pets, base / "val")
    assert [len(part) for part in data.load(base)] == [15, 15]
    shutil.copytree(pets / "cat", base / "test" / "cat")
    picture(base / "test" / "dog" / "a.png", 7)
    assert [len(part) for part in data.load(str(base))] == [15, 11]
    (base / "test" / "dog").rename(base / "test" / "Dog")
    with pytest.raises(data.DataError, match=f"{base}.* lacks Dog, dog"):
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
        (lambda p: None, r"nowhere does not exist \(looked from .*\)"),
        (lambda p: p.write_text("x"), "nowhere is a file"),
        (lambda p: p.mkdir(), "nowhere needs at least two sub-folders.* it has none, and 0 images"),
        (lambda p: picture(p / "a.png"), "it has none, and 1 images"),
        (lambda p: picture(p / "one" / "a.png"), "it has one, 'one', and 1 images"),
        (lambda p: (picture(p / "a" / "a.png"), (p / "b").mkdir()), "nowhere/b holds no image: it is empty"),
        (lambda p: (picture(p / "a" / "a.png"), (p / "b").mkdir(), (p / "b" / "i.heic").touch()), r"b holds no image: .* only 1 \.heic"),
        (lambda p: (picture(p / "a" / "a.png"), picture(p / "b" / "a.png")), "nowhere/a has one image"),
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
    complete = io.BytesIO()
    Image.effect_noise((64, 64), 80).save(complete, "JPEG")
    (pets / "dog" / "half.jpg").write_bytes(complete.getvalue()[:1500])
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


def test_a_class_without_a_readable_image_is_named_even_then(pets: Path) -> None:
    for path in (pets / "dog").iterdir():
        path.write_bytes(b"junk")
    with pytest.raises(data.DataError, match="no image of dog in the train split"):
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
        with pytest.raises(ValueError, match=f"{value}.*16 bits"):
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
    ours = torch.tensor(decoded(image, tmp_path / "a.png", 30)).float()
    peer = torch.from_numpy(numpy.array(v2.CenterCrop(30)(v2.Resize(30)(image)))).float()
    assert (ours - peer).abs().mean() < 4
    if size[0] == size[1]:
        assert torch.equal(ours, peer)


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


# ---- the cache of decoded images ----------------------------------------------------------------------------------------------


def test_decoded_images_are_cached_until_a_file_changes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    paths, file, calls = [picture(tmp_path / f"{i}.png", i) for i in range(3)], tmp_path / "cache" / "images.pt", []
    file.parent.mkdir()

    def read() -> list[int]:
        def make() -> torch.Tensor:
            calls.append(1)
            return files.decode_all(paths, 4)[0]

        images = files.cached_images(file, paths, make)
        assert images.shape == (3, 3, 4, 4) and images.dtype == torch.uint8
        return images[:, 0, 0, 0].tolist()

    assert read() == read() == [0, 1, 2] and len(calls) == 1 and [path.name for path in file.parent.iterdir()] == ["images.pt"]
    picture(paths[1], 200)
    assert read() == read() == [0, 200, 2] and len(calls) == 2
    content = file.read_bytes()
    flipped = content.replace(bytes([200] * 48), bytes([200] * 47 + [201]))
    assert flipped != content
    for damaged in (content[:-1], flipped, b"", content[:50]):
        file.write_bytes(damaged)
        assert read() == [0, 200, 2] and "images.pt is damaged" in caplog.text
        caplog.clear()
    assert len(calls) == 6 and read() == [0, 200, 2] and len(calls) == 6
    paths[1].write_bytes(b"broken since")
    assert read() == [0, 0, 2]  # made again: this `make` leaves unreadable files black


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("write failed")])
def test_a_cache_that_cannot_be_written_is_a_warning(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(_content: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise error

    monkeypatch.setattr(torch, "save", full)
    assert files.cached_images(tmp_path / "images.pt", [], lambda: torch.ones(2)).tolist() == [1, 1]
    assert "images.pt cannot be written" in caplog.text and not list(tmp_path.iterdir())


def test_a_cache_in_a_folder_that_does_not_exist_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert len(files.cached_images(tmp_path / "nowhere" / "images.pt", [], lambda: torch.ones(2))) == 2
    assert "images.pt cannot be written" in caplog.text
