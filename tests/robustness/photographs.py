"""Photographs from anywhere, one by one and in a data set."""

import errno
import os
import struct
import warnings
import zlib
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import keras
import numpy as np
from PIL import Image

from tests.robustness import row
from tests.test_features import SlowEncoder, draw_photos
from utils.captioner import Captioner
from utils.captions import RESERVED, Vocabulary
from utils.decoder import build_decoder
from utils.features import extract_features
from utils.photographs import load_pixels, open_photograph
from utils.search import SearchSettings

HEIGHT, WIDTH = 48, 64
X, Y = np.meshgrid(np.linspace(0, 1, WIDTH), np.linspace(0, 1, HEIGHT))
# Red grows rightwards and green downwards: another orientation, or mixed channels, would show.
COLOUR = np.round(255 * np.stack([X, Y, 0.5 * np.ones_like(X)], axis=-1)).astype(np.uint8)
GREY = np.round(255 * X).astype(np.uint8)
LOSSY = 8  # grey levels that a pixel may be off after lossy compression, on average


@cache
def captioner() -> Captioner:
    """A captioner with random weights whose encoder takes the means of the parts of a picture."""
    encoder = SimpleNamespace(image_size=16, encode=_means)
    keras.utils.set_random_seed(1)
    words = ("a", "dog", "runs")
    decoder = build_decoder("merge", len(words) + len(RESERVED), (48,), embedding_units=4, units=4)
    return Captioner(encoder, decoder, Vocabulary((*RESERVED, *words)), SearchSettings(2, 1.0, 4))


def _means(pixels: np.ndarray) -> np.ndarray:
    means = pixels.reshape(-1, 4, 4, 4, 4, 3).mean(axis=(2, 4))
    return means.reshape(len(pixels), -1).astype(np.float32) / 255


def captioned(photo, shown: np.ndarray) -> str:
    """Checks that `photo` is read as `shown`, what a viewer shows of it, and gets a caption."""
    pixels = np.asarray(open_photograph(photo)).astype(int)
    assert pixels.shape == shown.shape
    assert np.abs(pixels - shown).mean() < LOSSY
    assert np.abs(load_pixels(photo, 16).astype(int) - load_pixels(shown, 16)).mean() < LOSSY
    assert isinstance(captioner().caption(photo), str)
    return "captioned, colours and orientation right"


def _three(grey: np.ndarray) -> np.ndarray:
    return np.stack([grey] * 3, axis=-1)


# Pictures that are read


@row("Photographs", "greyscale", "L", _three(GREY))
@row("Photographs", "palette", "P", COLOUR)
@row("Photographs", "CMYK", "CMYK", COLOUR)
def _(folder: Path, mode: str, shown: np.ndarray) -> str:
    file = folder / ("photo.tif" if mode == "CMYK" else "photo.png")
    if mode == "P":
        picture = Image.fromarray(COLOUR).quantize(256)
    else:
        picture = Image.fromarray(shown).convert(mode)
    picture.save(file)
    return captioned(file, shown)


@row("Photographs", "RGBA: laid over white")
def _(folder: Path) -> str:
    opacity = np.where(X < 0.5, 0, 255).astype(np.uint8)
    Image.fromarray(np.dstack([COLOUR, opacity])).save(folder / "photo.png")
    return captioned(folder / "photo.png", np.where(opacity[..., None] == 0, 255, COLOUR))


@row("Photographs", "16 bits per pixel")
def _(folder: Path) -> str:
    Image.fromarray(GREY.astype(np.uint16) * 257).save(folder / "photo.png")
    return captioned(folder / "photo.png", _three(GREY))


@row("Photographs", "turned, as EXIF says")
def _(folder: Path) -> str:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by a quarter
    turned = Image.fromarray(COLOUR).transpose(Image.Transpose.ROTATE_90)
    turned.save(folder / "photo.jpg", quality=95, exif=exif)
    return captioned(folder / "photo.jpg", COLOUR)


@row("Photographs", "animated: the first frame", "GIF")
@row("Photographs", "animated WebP: the first frame", "WEBP")
def _(folder: Path, file_format: str) -> str:
    frames = [Image.fromarray(pixels) for pixels in (COLOUR, 255 - COLOUR)]
    file = folder / "photo"
    frames[0].save(file, file_format, save_all=True, append_images=frames[1:])
    return captioned(file, COLOUR)


@row("Photographs", "WebP", "photo.webp", {})
@row("Photographs", "progressive JPEG", "photo.jpg", {"progressive": True})
@row("Photographs", "AVIF", "photo.avif", {})
@row("Photographs", "JPEG 2000", "photo.jp2", {})
@row("Photographs", "spaces and non-Latin letters in the name", "my фото 写真 é.jpg", {})
@row("Photographs", "a name without the right ending", "photo.txt", {"format": "PNG"})
def _(folder: Path, name: str, options: dict) -> str:
    Image.fromarray(COLOUR).save(folder / name, **options)
    return captioned(folder / name, COLOUR)


@row("Photographs", "a path that begins at home, ~/photo.png")
def _(folder: Path) -> str:
    Image.fromarray(COLOUR).save(folder / "photo.png")
    with patch.dict(os.environ, {"HOME": str(folder)}):
        return captioned("~/photo.png", COLOUR)


@row("Photographs", "1 x 1 pixel", 1, 1)
@row("Photographs", "1 x 4000 pixels", 1, 4000)
@row("Photographs", "4000 x 1 pixels", 4000, 1)
def _(folder: Path, width: int, height: int) -> str:
    shown = np.full((height, width, 3), (200, 30, 90), np.uint8)
    Image.fromarray(shown).save(folder / "photo.png")
    return captioned(folder / "photo.png", shown)


@row("Photographs", "an array of bytes")
def _(folder: Path) -> str:
    return captioned(COLOUR, COLOUR)


@row("Photographs", "damaged EXIF data")
def _(folder: Path) -> str:
    Image.fromarray(COLOUR).save(
        folder / "photo.jpg", quality=95, exif=b"Exif\x00\x00not a TIFF header"
    )
    return captioned(folder / "photo.jpg", COLOUR)


# What is refused


@row("Photographs", "cut short")
def _(folder: Path) -> str:
    Image.effect_noise((WIDTH, HEIGHT), 50).save(folder / "photo.bmp")
    (folder / "photo.bmp").write_bytes((folder / "photo.bmp").read_bytes()[:2000])
    return captioner().caption(folder / "photo.bmp")


@row("Photographs", "empty", b"")
@row("Photographs", "not a picture", b"<html>Not found</html>")
@row("Photographs", "a drawing program (EPS)", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
def _(folder: Path, content: bytes) -> str:
    (folder / "photo.jpg").write_bytes(content)
    return captioner().caption(folder / "photo.jpg")


@row("Photographs", "a decompression bomb", 60_000)
@row("Photographs", "more pixels than are read", 13_300)
def _(folder: Path, side: int) -> str:
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")]
    (folder / "photo.png").write_bytes(_png(chunks))
    with warnings.catch_warnings(record=True):  # Pillow's own, before it is refused
        return captioner().caption(folder / "photo.png")


def _png(chunks: list[tuple[bytes, bytes]]) -> bytes:
    content = b"\x89PNG\r\n\x1a\n"
    for name, data in chunks:
        content += struct.pack(">I", len(data)) + name + data
        content += struct.pack(">I", zlib.crc32(name + data))
    return content


@row("Photographs", "a JPEG cut at a quarter", False)
@row("Photographs", "a progressive JPEG cut at a quarter", True)
def _(folder: Path, progressive: bool) -> str:
    large = Image.fromarray(COLOUR).resize((1200, 900))
    large.save(folder / "photo.jpg", progressive=progressive)
    whole = (folder / "photo.jpg").read_bytes()
    (folder / "photo.jpg").write_bytes(whole[: len(whole) // 4])
    told = captioner().captions(["photo.jpg", COLOUR], errors="skip")
    assert told[0] is None
    return captioner().caption(folder / "photo.jpg")


@row("Photographs", "a JPEG cut at a quarter, with an end put to it", False)
@row("Photographs", "a progressive JPEG cut at a quarter, with an end put to it", True)
def _(folder: Path, progressive: bool) -> str:
    noise = Image.effect_noise((120, 90), 60)
    noise.save(folder / "photo.jpg", progressive=progressive)
    whole = (folder / "photo.jpg").read_bytes()
    (folder / "photo.jpg").write_bytes(whole[: len(whole) // 4] + b"\xff\xd9")
    return captioner().caption(folder / "photo.jpg")


@row("Photographs", "32 bits per pixel")
def _(folder: Path) -> str:
    Image.fromarray(GREY.astype(np.int32)).save(folder / "photo.tif")
    return captioner().caption(folder / "photo.tif")


@row("Photographs", "a transparent colour of 16 bits")
def _(folder: Path) -> str:
    header = struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"tRNS", bytes(6)), (b"IDAT", zlib.compress(bytes(7)))]
    (folder / "photo.png").write_bytes(_png([*chunks, (b"IEND", b"")]))
    return captioner().caption(folder / "photo.png")


@row("Photographs", "a pipe")
def _(folder: Path) -> str:
    os.mkfifo(folder / "photo.jpg")
    return captioner().caption(folder / "photo.jpg")


@row("Photographs", "a device")
def _(folder: Path) -> str:
    return captioner().caption("/dev/zero")


@row("Photographs", "a file that may not be read")
def _(folder: Path) -> str:
    Image.fromarray(COLOUR).save(folder / "photo.png")
    denied = PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    with patch.object(Image, "open", side_effect=denied):
        return captioner().caption(folder / "photo.png")


@row("Photographs", "a bad one among good ones, if it may be skipped")
def _(folder: Path) -> str:
    found = captioner().captions([COLOUR, folder / "gone.jpg", COLOUR], errors="skip")
    assert found == [captioner().caption(COLOUR), None, captioner().caption(COLOUR)]
    return "None for it, and the others' captions"


@row("Photographs", "one that is not in a list")
def _(folder: Path) -> str:
    assert captioner().captions(COLOUR) == [captioner().caption(COLOUR)]
    return "one caption"


@row("Photographs", "a beam of 0", 0)
@row("Photographs", "a beam that is text", "5")
@row("Photographs", "a beam that is no whole number", 2.5)
@row("Photographs", "a beam too wide for the memory", 100_000)
def _(folder: Path, beam) -> str:
    return captioner().caption(COLOUR, beam)


@row("Photographs", "a folder")
def _(folder: Path) -> str:
    (folder / "photos").mkdir()
    return captioner().caption(folder / "photos")


@row("Photographs", "a path that is missing")
def _(folder: Path) -> str:
    return captioner().caption(folder / "photo.jpg")


@row("Photographs", "a name with control characters, for a terminal to obey")
def _(folder: Path) -> str:
    return captioner().caption(folder / "\x1b[2J\a.jpg")


@row("Photographs", "an array of floats in [0, 1]", COLOUR / 255)
@row("Photographs", "an array of floats in [0, 255]", COLOUR.astype(np.float32))
@row("Photographs", "an array of a wrong shape", COLOUR.transpose(2, 0, 1))
@row("Photographs", "an array that is a batch", COLOUR[None])
@row("Photographs", "neither path, picture nor array", b"\xff\xd8\xff")
def _(folder: Path, photo) -> str:
    return captioner().caption(photo)


# In a data set


@row("Photographs of a data set", "2 of 50 are bad", 2)
@row("Photographs of a data set", "3 of 50 are bad", 3)
def _(folder: Path, bad: int) -> str:
    photos = draw_photos(folder / "photos", 50)
    for name in photos.splits["train"][:bad]:
        photos.photo_path(name).write_bytes(b"<html>")
    features = extract_features(SlowEncoder(), photos, folder / "features")
    assert len(features.photos) == 50 - bad
    return f"skipped and listed: {' '.join(features.unreadable.values())}"
