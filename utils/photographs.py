"""Photographs: from whatever a reader hands over to upright RGB pixels, or a readable refusal."""

import errno
import stat
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from utils.machinery.errors import PhotographError, UnreadablePhotographError

Source = str | Path | Image.Image | np.ndarray

# What cameras, phones, browsers and editors write; JPEG includes MPO. Pillow knows forty more
# kinds, among them EPS, which it gives to another program to run.
_PHOTOGRAPHS = ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "AVIF", "JPEG2000", "PPM", "TGA")
Image.init()
FORMATS = tuple(name for name in _PHOTOGRAPHS if name in Image.OPEN)  # of this build of Pillow
# As cameras of 50 megapixels take. A PNG file of 37 kB can hold three times as many, and reading
# one takes up to 12 bytes a pixel.
MOST_PIXELS = 52_000_000
_NO_FILE = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP)


def open_photograph(source: Source) -> Image.Image:
    """Opens a photograph as an upright 8-bit RGB picture, as a viewer would show it.

    EXIF orientation is applied, transparency is laid over white, 16-bit greys are scaled to 8 bits,
    and of an animation the first frame is taken.

    Args:
        source: path of a picture file, a PIL picture (left as it is), or an array of dtype uint8
            and shape (height, width[, 3 or 4]).

    Returns:
        PIL picture of mode "RGB", independent of `source`.

    Raises:
        PhotographError: it is not a picture that is read here.
        UnreadablePhotographError: the file could not be read at the moment, whatever it holds.
    """
    return _decode(source, draft_size=None)


def load_pixels(source: Source, image_size: int) -> np.ndarray:
    """Reads a photograph and squeezes it to the square that a CNN expects.

    The whole photograph is kept and its proportions are not, as in the original recipe. Resampling
    is bilinear and antialiased. `source` and what is raised are those of `open_photograph`.

    Returns:
        (image_size, image_size, 3) uint8, RGB, in [0, 255].
    """
    # A JPEG can be decoded at half, quarter or eighth size for a fraction of the time. Twice the
    # wanted size is kept, so that the resampling below still decides what the pixels look like.
    image = _decode(source, draft_size=2 * image_size)
    return np.array(image.resize((image_size, image_size), Image.Resampling.BILINEAR))


def _decode(source: Source, draft_size: int | None) -> Image.Image:
    if isinstance(source, np.ndarray):
        source = _from_array(source)
    if isinstance(source, Image.Image):
        return _decode_opened(source, getattr(source, "filename", "") or "The picture")
    if not isinstance(source, (str, Path)):
        raise PhotographError(
            f"A photograph was given as {type(source).__name__}; expected a path, a PIL picture or "
            "a uint8 array."
        )
    name = str(source)
    try:
        _check_file(Path(source))
        with Image.open(source, formats=FORMATS) as image:
            return _decode_opened(image, name, draft_size)
    except UnidentifiedImageError:
        raise PhotographError(
            f"{name} is not a picture of a kind that is read here ({Path(source).stat().st_size:,} "
            "bytes, no known picture header). Convert it to JPEG or PNG."
        ) from None
    except Exception as error:  # Pillow's readers raise nearly anything on damaged files
        raise _failure(name, error) from error


def _check_file(path: Path) -> None:
    status = path.stat()
    if stat.S_ISDIR(status.st_mode):
        raise PhotographError(f"{path} is a folder. Give the path of one picture file in it.")
    if not stat.S_ISREG(status.st_mode):  # reading a pipe or a device may never end
        raise PhotographError(f"{path} is not a regular file. Give the path of a picture file.")
    if not status.st_size:
        raise PhotographError(f"{path} is empty (0 bytes). Download or copy it again.")


def _decode_opened(image: Image.Image, name: str, draft_size: int | None = None) -> Image.Image:
    deep = any(";16" in str(part[3]) for part in getattr(image, "tile", ()))
    try:
        if image.width * image.height > MOST_PIXELS:
            raise Image.DecompressionBombError(f"{image.width:,} x {image.height:,} pixels")
        if draft_size is not None:
            image.draft(None, (draft_size, draft_size))
        image.load()
        return _to_rgb(image, name, deep)
    except Exception as error:  # as above
        raise _failure(name, error) from error


def _failure(name: str, error: Exception) -> PhotographError:
    """Puts in a sentence what reading the photograph `name` raised."""
    if isinstance(error, PhotographError):
        return error
    number = getattr(error, "errno", None)  # Pillow's own errors have none
    if number in _NO_FILE:
        return PhotographError(
            f"{name} does not exist ({error.strerror}). Check the spelling; relative paths count "
            f"from {Path.cwd()}."
        )
    if isinstance(error, Image.DecompressionBombError):
        return PhotographError(
            f"{name} would unpack to a picture far too large ({error}; at most {MOST_PIXELS:,} "
            "pixels are read). Scale it down, or leave it out."
        )
    if number or isinstance(error, MemoryError):
        return UnreadablePhotographError(
            f"{name} could not be read ({getattr(error, 'strerror', 'no memory')}). It may be "
            "whole: check its permissions and its disk, and try again."
        )
    return PhotographError(
        f"{name} can't be decoded ({str(error) or type(error).__name__}): it is damaged, cut "
        "short or of a rare kind. Copy it again, or save it as an RGB JPEG or PNG."
    )


def _to_rgb(original: Image.Image, name: str, deep: bool) -> Image.Image:
    clear = original.info.get("transparency")
    if original.mode in ("F", "I") and original.format != "PPM":  # PPM's are scaled to 16 bits
        raise PhotographError(
            f"{name} holds 32-bit pixels (floating-point or whole numbers), which leave open what "
            "white is. Save it with 8 bits per channel."
        )
    if original.mode == "RGB" and deep and clear is not None:
        raise PhotographError(
            f"{name} names a 16-bit colour as transparent, which is not read here. Save it with 8 "
            "bits per channel."
        )
    try:
        image = ImageOps.exif_transpose(original)
    except Exception:  # damaged EXIF data says nothing against the pixels
        image = original.copy()
    if image.mode.startswith("I"):
        return _from_16_bits(np.asarray(image), clear, getattr(original, "tag_v2", {}))
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image.convert("RGB")


def _from_16_bits(grey: np.ndarray, clear: int | None, tags: Mapping) -> Image.Image:
    """Scales grey values; `tags` are TIFF's. Pillow would cut everything above 255 to white."""
    top = 2 ** tags.get(258, (16,))[0] - 1  # BitsPerSample
    bright = (grey.astype(np.int64) * 255 + top // 2) // top
    if tags.get(262) == 0:  # PhotometricInterpretation: WhiteIsZero
        bright = 255 - bright
    bright[grey == clear] = 255
    return Image.fromarray(np.clip(bright, 0, 255).astype(np.uint8)).convert("RGB")


def _from_array(pixels: np.ndarray) -> Image.Image:
    if pixels.dtype != np.uint8:
        raise PhotographError(
            f"The array's dtype is {pixels.dtype}; expected uint8. For values in [0, 1] pass "
            "(255 * pixels).round().astype('uint8'), in [0, 255] pixels.astype('uint8')."
        )
    grey = pixels.ndim == 2
    colour = pixels.ndim == 3 and pixels.shape[2] in (3, 4)
    if not (grey or colour) or 0 in pixels.shape:
        raise PhotographError(
            f"The array's shape is {pixels.shape}; expected (height, width[, 3 or 4]). Of a batch, "
            "pass one photograph at a time."
        )
    return Image.fromarray(pixels)
