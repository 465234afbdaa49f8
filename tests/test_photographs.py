"""Every kind of picture a reader may bring is read as a viewer shows it, or refused by name."""

import io
import os
import socket
import struct
import zlib
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from utils.machinery.errors import PhotographError, UnreadablePhotographError
from utils.photographs import MOST_PIXELS, load_pixels, open_photograph


def _gradient(height: int = 40, width: int = 60) -> np.ndarray:
    """Smooth picture, so that lossy compression keeps it: red grows rightwards, green downwards."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 0] = np.linspace(0, 255, width)
    pixels[..., 1] = np.linspace(0, 255, height)[:, None]
    return pixels


def _encoded(file_format: str, **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(_gradient()).save(buffer, file_format, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP"])
def test_common_formats_are_read_as_rgb(tmp_path, file_format):
    path = tmp_path / "photo"  # without a suffix: the content decides
    path.write_bytes(_encoded(file_format))
    image = open_photograph(path)
    assert (image.mode, image.size) == ("RGB", (60, 40))
    assert np.abs(np.asarray(image).astype(int) - _gradient()).mean() < 12


def test_a_path_may_be_text(tmp_path):
    (tmp_path / "photo.png").write_bytes(_encoded("PNG"))
    assert np.array_equal(open_photograph(str(tmp_path / "photo.png")), _gradient())


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, orientation):
    stored = {
        1: lambda pixels: pixels,
        2: lambda pixels: pixels[:, ::-1],
        3: lambda pixels: pixels[::-1, ::-1],
        4: lambda pixels: pixels[::-1],
        5: lambda pixels: pixels.swapaxes(0, 1),
        6: lambda pixels: np.rot90(pixels, 1),
        7: lambda pixels: pixels.swapaxes(0, 1)[::-1, ::-1],
        8: lambda pixels: np.rot90(pixels, -1),
    }[orientation](_gradient())
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "turned.png"
    Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif)
    assert np.array_equal(open_photograph(path), _gradient())
    with Image.open(path) as image:
        assert np.array_equal(open_photograph(image), _gradient())


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_transparency_is_laid_over_white(mode):
    image = Image.new("RGBA", (4, 2), (0, 0, 0, 255))
    image.paste((0, 0, 0, 0), (2, 0, 4, 2))
    pixels = np.asarray(open_photograph(image.convert(mode)))
    assert (pixels[:, :2] == 0).all()
    assert (pixels[:, 2:] == 255).all()


def test_a_transparent_palette_colour_is_laid_over_white(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([200, 0, 0, 0, 0, 90])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "palette.png", transparency=0)
    pixels = np.asarray(open_photograph(tmp_path / "palette.png"))
    assert pixels[0].tolist() == [[255, 255, 255], [0, 0, 90]]


def test_cmyk_keeps_its_colours(tmp_path):
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "red.jpg", quality=95)
    red, green, blue = np.asarray(open_photograph(tmp_path / "red.jpg")).mean(axis=(0, 1))
    assert red > 240
    assert max(green, blue) < 15


@pytest.mark.parametrize("mode", ["L", "1"])
def test_grey_and_black_and_white_have_three_equal_channels(mode):
    image = Image.fromarray(_gradient()).convert(mode)
    pixels = np.asarray(open_photograph(image))
    assert pixels.shape == (40, 60, 3)
    assert (pixels == pixels[..., :1]).all()
    assert pixels.min() < 20 < 200 < pixels.max()


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_16_bit_greys_are_scaled_and_not_cut_off(tmp_path, suffix):
    ramp = np.linspace(0, 65535, 256).round().astype(np.uint16)[None].repeat(2, axis=0)
    path = tmp_path / f"deep.{suffix}"
    if suffix == "pgm":
        path.write_bytes(b"P5 256 2 65535\n" + ramp.astype(">u2").tobytes())
    else:
        Image.fromarray(ramp).save(path)
    pixels = np.asarray(open_photograph(path))
    assert np.abs(pixels[0, :, 0].astype(int) - np.arange(256)).max() <= 1
    assert pixels[0, -1].tolist() == [255, 255, 255]


def _tiff(grey: np.ndarray, photometric: int = 1, bits: int = 16, sample: int = 1) -> bytes:
    """A TIFF file as Pillow doesn't write them: WhiteIsZero, or 32 bits."""
    data, (height, width) = grey.tobytes(), grey.shape
    tags = [(256, width), (257, height), (258, bits), (259, 1), (262, photometric), (273, 8)]
    tags += [(277, 1), (278, height), (279, len(data)), (339, sample)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    count = struct.pack("<H", len(tags))
    return struct.pack("<2sHI", b"II", 42, 8 + len(data)) + data + count + entries + bytes(4)


def _png(kind: int, depth: int, rows: list[bytes], width: int, clear=b"", height=0) -> bytes:
    """A PNG file of colour type `kind`; `clear` is the content of tRNS."""
    header = struct.pack(">IIBBBBB", width, height or len(rows), depth, kind, 0, 0, 0)
    chunks = [(b"IHDR", header)] + [(b"tRNS", clear)] * bool(clear)
    chunks += [(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


RAMP = np.linspace(0, 65535, 16).astype("uint16")[None].repeat(2, axis=0)


def test_16_bit_greys_whose_zero_is_white_are_turned_over(tmp_path):
    (tmp_path / "scan.tif").write_bytes(_tiff(RAMP, photometric=0))
    pixels = np.asarray(open_photograph(tmp_path / "scan.tif"))
    assert pixels[0, :, 0].tolist() == list(range(255, -1, -17))


def test_a_transparent_grey_of_16_bits_is_laid_over_white(tmp_path):
    rows = [row.astype(">u2").tobytes() for row in RAMP]
    (tmp_path / "deep.png").write_bytes(_png(0, 16, rows, 16, struct.pack(">H", RAMP[0, 1])))
    assert np.asarray(open_photograph(tmp_path / "deep.png"))[0, :3, 0].tolist() == [0, 255, 34]


def test_a_transparent_colour_of_16_bits_is_refused(tmp_path):
    rows = [row[:, None].repeat(3, axis=1).astype(">u2").tobytes() for row in RAMP]
    (tmp_path / "deep.png").write_bytes(_png(2, 16, rows, 16))
    assert np.asarray(open_photograph(tmp_path / "deep.png"))[0, 1].tolist() == [17, 17, 17]
    (tmp_path / "deep.png").write_bytes(_png(2, 16, rows, 16, struct.pack(">HHH", 1, 2, 3)))
    with pytest.raises(PhotographError, match="16-bit colour as transparent"):
        open_photograph(tmp_path / "deep.png")


@pytest.mark.parametrize("dtype", ["uint32", "int32"])
def test_32_bit_greys_are_refused_and_never_black(tmp_path, dtype):
    sample = 1 if dtype == "uint32" else 2
    (tmp_path / "deep.tif").write_bytes(_tiff(RAMP.astype(dtype), bits=32, sample=sample))
    for source in (tmp_path / "deep.tif", Image.fromarray(RAMP.astype("int32"))):
        with pytest.raises(PhotographError, match="32-bit"):
            open_photograph(source)


@pytest.mark.parametrize("file_format", ["GIF", "PNG", "WEBP"])
def test_of_an_animation_the_first_frame_is_taken(tmp_path, file_format):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "lime")]
    path = tmp_path / "animation"
    frames[0].save(path, file_format, save_all=True, append_images=frames[1:], lossless=True)
    assert np.asarray(open_photograph(path))[0, 0].tolist() == [255, 0, 0]


def test_arrays_of_three_shapes_are_read():
    colour = _gradient()
    assert np.array_equal(open_photograph(colour), colour)
    assert np.array_equal(np.asarray(open_photograph(colour[..., 0]))[..., 2], colour[..., 0])
    transparent = np.dstack([colour, np.zeros((40, 60), np.uint8)])
    assert (np.asarray(open_photograph(transparent)) == 255).all()


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "uint16", "bool"])
def test_arrays_of_an_unclear_range_are_refused_with_the_remedy(dtype):
    with pytest.raises(PhotographError, match=rf"{dtype}; expected uint8.*\[0, 1\] pass"):
        open_photograph(np.zeros((4, 4, 3), dtype))


def test_a_batch_given_as_one_photograph_is_refused_with_the_remedy():
    with pytest.raises(PhotographError, match="Of a batch, pass one"):
        open_photograph(np.zeros((2, 4, 4, 3), np.uint8))


@pytest.mark.parametrize("shape", [(4,), (4, 4, 1), (4, 4, 2), (3, 4, 5), (1, 4, 4, 3), (0, 4, 3)])
def test_arrays_of_a_wrong_shape_are_refused(shape):
    with pytest.raises(PhotographError, match=r"shape is .* expected"):
        open_photograph(np.zeros(shape, np.uint8))


def test_other_objects_are_refused():
    with pytest.raises(PhotographError, match="given as bytes"):
        open_photograph(b"\xff\xd8")


def test_floating_point_pictures_are_refused():
    with pytest.raises(PhotographError, match="32-bit"):
        open_photograph(Image.new("F", (4, 4)))


def test_what_is_no_picture_is_refused_by_name_and_finding(tmp_path):
    empty, text, cut, folder = (tmp_path / name for name in ("e.jpg", "t.jpg", "c.jpg", "f.jpg"))
    empty.touch()
    text.write_text("This is no picture.")
    cut.write_bytes(_encoded("JPEG")[:-200])
    folder.mkdir()
    findings = {
        empty: "empty .0 bytes.",
        text: "is not a picture",
        cut: "damaged, cut short",
        folder: "is a folder",
        tmp_path / "gone.jpg": "does not exist",
        tmp_path / ("long" * 100): "does not exist",
    }
    for path, finding in findings.items():
        with pytest.raises(PhotographError, match=finding) as caught:
            open_photograph(path)
        assert path.name in str(caught.value)


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 0.75, 0.99])
def test_a_jpeg_that_was_cut_is_refused(tmp_path, share, progressive):
    large = Image.fromarray(_gradient()).resize((1200, 800))
    large.save(tmp_path / "photo.jpg", progressive=progressive)
    whole = (tmp_path / "photo.jpg").read_bytes()
    (tmp_path / "photo.jpg").write_bytes(whole[: int(share * len(whole))])
    for read in (open_photograph, lambda path: load_pixels(path, 64)):
        with pytest.raises(PhotographError, match=r"photo\.jpg.*cut short"):
            read(tmp_path / "photo.jpg")


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_jpeg_that_was_cut_and_closed_again_is_refused(tmp_path, mode, options):
    file = tmp_path / "photo.jpg"
    # Seen sharply, so that no part of the picture is without data; grey, as libjpeg fills it up.
    noise = Image.effect_noise((1200, 800), 60).convert("RGB")
    noise.paste((128, 128, 128), (0, 700, 1200, 800))
    noise.convert(mode).save(file, **options)
    whole = file.read_bytes()
    for read in (open_photograph, lambda path: load_pixels(path, 64)):
        read(file)
    for share in (0.25, 0.5, 0.75):
        file.write_bytes(whole[: int(share * len(whole))] + b"\xff\xd9")
        for read in (open_photograph, lambda path: load_pixels(path, 64)):
            with pytest.raises(PhotographError, match=r"photo\.jpg.*data end before"):
                read(file)
        file.write_bytes(whole)


def test_data_behind_the_picture_of_a_jpeg_do_no_harm(tmp_path):
    grey = Image.new("RGB", (64, 64), (128, 128, 128))
    for name, options in (("a.jpg", {}), ("b.jpg", {"progressive": True})):
        grey.save(tmp_path / name, **options)
        with (tmp_path / name).open("ab") as file:
            file.write(b"made by a telephone \xff\xd9")
        assert open_photograph(tmp_path / name).getpixel((63, 63)) == (128, 128, 128)


def test_a_path_may_begin_at_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "photo.png").write_bytes(_encoded("PNG"))
    assert np.array_equal(open_photograph("~/photo.png"), _gradient())
    with pytest.raises(PhotographError, match=r"~nobodyhere/photo\.png does not exist"):
        open_photograph("~nobodyhere/photo.png")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes in folders")
def test_a_pipe_a_device_and_a_socket_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "s.jpg"))
        for path in (tmp_path / "pipe.jpg", "/dev/zero", tmp_path / "s.jpg"):
            with pytest.raises(PhotographError, match="not a regular file"):
                open_photograph(path)


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), OSError(5, "I/O")])
def test_a_file_that_cannot_be_read_now_is_not_called_damaged(tmp_path, monkeypatch, error):
    (tmp_path / "photo.png").write_bytes(_encoded("PNG"))

    def fail(*arguments, **options):
        raise error

    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(UnreadablePhotographError, match=r"photo\.png could not be read") as caught:
        open_photograph(tmp_path / "photo.png")
    assert "damaged" not in str(caught.value)


def test_a_picture_of_too_many_pixels_is_refused_before_it_is_unpacked(tmp_path):
    # Black and white, 177 million pixels; nothing but the header is there to be decoded.
    content = _png(0, 1, [bytes(13_300 // 8 + 1)] * 13_300, 13_300)
    (tmp_path / "bomb.png").write_bytes(content[: len(content) // 10])
    (tmp_path / "larger.png").write_bytes(_png(0, 1, [b""], 60_000, height=60_000))
    names = [tmp_path / name for name in ("bomb.png", "larger.png")]
    for source in (*names, Image.new("1", (MOST_PIXELS // 1000, 1001))):
        with pytest.raises(PhotographError, match="far too large"):
            open_photograph(source)


def test_a_jpeg_of_too_many_pixels_is_refused_although_it_could_be_read_at_an_eighth(tmp_path):
    Image.new("L", (13_000, 5000)).save(tmp_path / "wide.jpg", progressive=True)
    for read in (open_photograph, lambda path: load_pixels(path, 16)):
        with pytest.raises(PhotographError, match="far too large"):
            read(tmp_path / "wide.jpg")


@settings(deadline=None, max_examples=150)
@given(
    file_format=st.sampled_from(["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP"]),
    damage=st.lists(
        st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=20
    ),
    kept=st.floats(0.01, 1),
)
def test_damaged_files_give_a_picture_or_a_photograph_error(
    tmp_path_factory, file_format, damage, kept
):
    content = bytearray(_encoded(file_format))
    for place, value in damage:
        content[int(place * len(content))] = value
    path = tmp_path_factory.mktemp("damaged") / "photo"
    path.write_bytes(content[: max(1, int(kept * len(content)))])
    for read in (open_photograph, lambda path: load_pixels(path, 16)):
        with suppress(PhotographError):
            assert np.asarray(read(path)).shape[-1] == 3


def test_damaged_exif_data_does_not_cost_the_photograph(tmp_path):
    path = tmp_path / "photo.jpg"
    Image.fromarray(_gradient()).save(path, exif=b"Exif\x00\x00not a TIFF header")
    assert open_photograph(path).size == (60, 40)


def test_the_callers_picture_is_left_as_it_is(tmp_path):
    original = Image.fromarray(_gradient())
    open_photograph(original).putpixel((0, 0), (255, 255, 255))
    assert np.array_equal(original, _gradient())
    original.save(tmp_path / "photo.jpg")
    with Image.open(tmp_path / "photo.jpg") as opened:
        load_pixels(opened, 8)
        assert opened.size == (60, 40)


def test_pixels_are_squeezed_to_the_square():
    pixels = load_pixels(_gradient(), 20)
    assert (pixels.shape, pixels.dtype) == ((20, 20, 3), np.uint8)
    assert pixels[0, -1, 0] > 240  # the right edge is still there: nothing was cropped
    assert pixels[-1, 0, 1] > 240


def test_shrinking_averages_instead_of_skipping_pixels():
    chequered = (np.indices((256, 256)).sum(axis=0) % 2 * 255).astype(np.uint8)
    assert np.abs(load_pixels(chequered, 32).astype(int) - 127).max() < 10


def test_the_fast_path_for_large_jpegs_changes_next_to_nothing(tmp_path):
    random = np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)
    large = Image.fromarray(random).resize((2400, 1600), Image.Resampling.BICUBIC)
    large.save(tmp_path / "large.jpg", quality=95)
    with Image.open(tmp_path / "large.jpg") as image:
        slow = load_pixels(image, 64).astype(int)
    fast = load_pixels(tmp_path / "large.jpg", 64).astype(int)
    assert np.abs(fast - slow).mean() < 2
