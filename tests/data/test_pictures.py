"""Pictures in every way that files store them: scaled to 8 bits of colour, never clipped; broken ones say so."""

from __future__ import annotations

import io
import random
import struct
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from prunebench.data import pictures
from prunebench.data.picture_folders import ENDINGS
from prunebench.data.pictures import CentreCut, Listing, Pictures, as_colour

BREAKABLE = sorted({"avif", "gif", "jpeg", "png", "tiff", "webp"} & {ending[1:] for ending in ENDINGS})
HEIGHT, WIDTH = 24, 40
GREY, COLOUR, GREY_ALPHA, COLOUR_ALPHA = 0, 2, 4, 6  # the colour types of PNG


def png(values: npt.NDArray[np.uint16], kind: int) -> bytes:
    """A PNG of 16 bits, ``[H, W, channels]``, which Pillow itself does not write in colour."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width, _ = values.shape
    head = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in values)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


def ramp(channels: int) -> npt.NDArray[np.uint16]:
    """From black to white in each channel, in another order in each."""
    line = np.linspace(0, 65535, HEIGHT * WIDTH).round().astype(np.uint16)
    return np.stack([np.roll(line, 100 * c) for c in range(channels)], -1).reshape(HEIGHT, WIDTH, channels)


def colours(content: bytes) -> npt.NDArray[np.int64]:
    with Image.open(io.BytesIO(content)) as image:
        made = as_colour(image)
    assert made.mode == "RGB"
    return np.asarray(made).astype(np.int64)


@pytest.mark.parametrize(("kind", "channels"), [(GREY, 1), (COLOUR, 3), (GREY_ALPHA, 2), (COLOUR_ALPHA, 4)])
def test_sixteen_bits_are_scaled(kind: int, channels: int) -> None:
    values = ramp(channels)
    shown = values[..., :3] if channels >= 3 else values[..., :1].repeat(3, -1)
    # 65535 is 255; readers round or cut the last bit off
    assert np.abs(colours(png(values, kind)) - shown.astype(np.int64) / 257).max() <= 1
    assert colours(png(values, kind)).min() == 0 and colours(png(values, kind)).max() == 255


def test_grey_of_sixteen_bits_is_rounded() -> None:
    values = ramp(1)
    assert np.array_equal(colours(png(values, GREY))[..., 0], np.rint(values[..., 0] / 257))


def saved(image: Image.Image, form: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def test_a_palette_with_transparency_keeps_its_colours() -> None:
    rgb = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    rgb[:, 20:] = (200, 30, 60)
    image = Image.fromarray(rgb).quantize(2)
    for transparency in (0, bytes([0, 128]), b"\xff"):
        content = saved(image, "PNG", transparency=transparency)
        assert np.array_equal(colours(content), rgb)


def test_other_kinds_keep_their_colours() -> None:
    rgb = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    rgb[:, :20] = (220, 40, 80)
    rgb[:, 20:] = (10, 120, 250)
    image = Image.fromarray(rgb)
    assert np.array_equal(colours(saved(image.convert("RGBA"), "PNG")), rgb)
    assert np.array_equal(colours(saved(image.convert("P", palette=Image.Palette.ADAPTIVE), "PNG")), rgb)
    assert np.abs(colours(saved(image.convert("CMYK"), "JPEG", quality=100, subsampling=0)) - rgb).max() <= 6
    assert np.abs(colours(saved(image, "JPEG", quality=100, subsampling=0)) - rgb).max() <= 6
    black = Image.fromarray(rgb[..., 0] > 100).convert("1")
    assert set(np.unique(colours(saved(black, "PNG")))) == {0, 255}
    assert np.array_equal(colours(saved(image.convert("LA"), "PNG")), colours(saved(image.convert("L"), "PNG")))


def read(folder: Path, content: bytes, resize: int = 20) -> tuple[torch.Tensor, int] | str:
    (folder / "a.png").write_bytes(content)
    listing = Listing(folder, np.array([b"a.png"]), torch.tensor([3]))
    return Pictures(listing, CentreCut(size=16, resize=resize))[0]


def test_a_run_sees_sixteen_bits_as_eight(tmp_path: Path) -> None:
    values = ramp(1)
    eight = Image.fromarray(np.rint(values[..., 0] / 257).astype(np.uint8))
    one, other = read(tmp_path, png(values, GREY)), read(tmp_path, saved(eight, "PNG"))
    assert isinstance(one, tuple) and isinstance(other, tuple)
    assert torch.equal(one[0], other[0])
    assert one[0].float().std() > 30  # no white square


@pytest.mark.parametrize(("width", "height"), [(1, 5_000_000), (5_000_000, 1), (30_000, 2)])
def test_a_picture_like_a_thread_is_one_sentence(tmp_path: Path, width: int, height: int) -> None:
    found = read(tmp_path, saved(Image.new("L", (width, height)), "PNG"), resize=256)
    assert isinstance(found, str)
    assert f"a.png cannot be read as a picture ({width} x {height} pixels would be resized to" in found
    assert "more than 134,217,728; cut it, or set a smaller dataset.resize" in found


def test_too_little_memory_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(pictures, "as_colour", full)
    found = read(tmp_path, saved(Image.new("L", (8, 8)), "PNG"))
    assert isinstance(found, str) and "a.png cannot be read as a picture (MemoryError)" in found


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.array([[0.0, 0.5, 1.0]], np.float32), "its values are fractions"),
        (np.array([[0, 1, 1 << 20]], np.int32), "its values 0 to 1048576 are none of 16 bits"),
        (np.array([[-1, 0, 1]], np.int32), "its values -1 to 1 are none of 16 bits"),
    ],
)
def test_measured_numbers_are_no_picture(
    tmp_path: Path, values: npt.NDArray[np.int32 | np.float32], message: str
) -> None:
    found = read(tmp_path, saved(Image.fromarray(values), "TIFF"))
    assert isinstance(found, str) and message in found


def test_a_tiff_of_sixteen_bits_is_scaled() -> None:
    values = ramp(1)[..., 0]
    assert np.array_equal(colours(saved(Image.fromarray(values), "TIFF"))[..., 0], np.rint(values / 257))


@pytest.mark.filterwarnings("ignore::UserWarning")  # of tags, before it is read or not
@pytest.mark.parametrize("kind", ["deep", *BREAKABLE])
def test_a_broken_picture_is_one_sentence(tmp_path: Path, kind: str) -> None:
    noise = np.random.default_rng(0).integers(256, size=(HEIGHT, WIDTH, 3), dtype=np.uint8)
    whole = png(ramp(1), GREY) if kind == "deep" else saved(Image.fromarray(noise), kind.upper())
    draw, broken = random.Random(0), 0
    for number in range(200):
        changed = bytearray(whole)
        for _ in range(1 + number % 4):
            changed[draw.randrange(min(len(whole), 200 if number % 2 else len(whole)))] = draw.randrange(256)
        found = read(tmp_path, bytes(changed[: draw.randrange(len(whole))] if number % 5 == 0 else changed))
        if isinstance(found, str):
            broken += 1
            assert "a.png cannot be read as a picture" in found and "\n" not in found
        else:
            assert found[0].shape == (16, 16, 3)
    assert broken > 50
