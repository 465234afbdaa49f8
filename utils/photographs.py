"""Photographs: from whatever a reader hands over to upright RGB pixels, or a readable refusal."""

import errno
import io
import os
import stat
from pathlib import Path

import numpy as np
from PIL import Image, ImageChops, ImageOps, UnidentifiedImageError

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
_MOST_BYTES = 8 * MOST_PIXELS  # of a file: four channels of 16 bits
_NO_FILE = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP)


def open_photograph(source: Source, draft: tuple[int, int] | None = None) -> Image.Image:
    """Opens a photograph as an upright 8-bit RGB picture, as a viewer would show it.

    EXIF orientation is applied, transparency is laid over white, 16-bit greys are scaled to 8 bits,
    and of an animation the first frame is taken. `source` is the path of a picture file (`~` is
    your home), a PIL picture, or an array (height, width[, 3 or 4]) uint8, and stays as it is. With
    a `draft`, (width, height), a JPEG file may come smaller, in a fraction of the time, but not
    smaller than that.

    Raises:
        PhotographError: it is not a picture that is read here, or not a whole one.
        UnreadablePhotographError: the file could not be read at the moment, whatever it holds.
    """
    if isinstance(source, np.ndarray):
        source = _from_array(source)
    if not isinstance(source, (str, Path, Image.Image)):
        expected = "expected a path, a PIL picture or a uint8 array"
        raise PhotographError(f"A photograph was given as {type(source).__name__}; {expected}.")
    name = getattr(source, "filename", "") or "The picture"
    try:
        if isinstance(source, Image.Image):
            return _to_rgb(source)
        name = os.path.expanduser(source)  # noqa: PTH111 Path.expanduser raises for ~nobody
        status = Path(name).stat()
        if not stat.S_ISREG(status.st_mode):  # reading a pipe or a device may never end
            kind = "a folder" if stat.S_ISDIR(status.st_mode) else "not a regular file"
            raise PhotographError(f"is {kind}. Give the path of one picture file.")
        if not 0 < status.st_size <= _MOST_BYTES:
            size = f"has {status.st_size:,} bytes" if status.st_size else "is empty (0 bytes)"
            raise PhotographError(f"{size}. Download or copy it again.")
        with Image.open(name, formats=FORMATS) as image:
            picture = _to_rgb(image, draft)
            if image.format in ("JPEG", "MPO") and _ends_early(image, name, draft):
                raise ValueError("its data end before the picture does")
            return picture
    except Exception as error:  # Pillow's readers raise nearly anything on damaged files
        raise _refusal(name, error) from error


def load_pixels(source: Source, image_size: int) -> np.ndarray:
    """Reads a photograph as `open_photograph` does and squeezes it to the square of a CNN.

    The whole photograph is kept and its proportions are not, as in the original recipe. Resampling
    is bilinear and antialiased. Returns (image_size, image_size, 3) uint8, RGB, in [0, 255].
    """
    # Twice the wanted size, so that the resampling still decides what the pixels look like.
    image = open_photograph(source, draft=(2 * image_size, 2 * image_size))
    return np.array(image.resize((image_size, image_size), Image.Resampling.BILINEAR))


def pixels_or_error(source: Source, image_size: int) -> np.ndarray | PhotographError:
    """As `load_pixels`, but returns the error: of many photographs a bad one loses only itself."""
    try:
        return load_pixels(source, image_size)
    except PhotographError as error:
        return error


def _ends_early(jpeg: Image.Image, name: str, draft: tuple[int, int] | None) -> bool:
    """Whether the data of a decoded JPEG end before its picture, which libjpeg completes in grey.

    It only warns, and Pillow doesn't hand that on. More data change such a picture, and no other.
    """
    last = jpeg.getpixel((jpeg.width - 1, jpeg.height - 1))
    if "progressive" not in jpeg.info and not {*np.atleast_1d(last).tolist()} <= {127, 128}:
        return False
    data = Path(name).read_bytes()
    end = data.rfind(b"\xff\xd9")
    more = io.BytesIO(data[:end] + bytes(range(255)) + data[end:])
    with Image.open(more, formats=FORMATS) as longer:
        longer.draft(None, draft)
        return ImageChops.difference(longer, jpeg).getbbox() is not None


def _refusal(name: str, error: Exception) -> PhotographError:
    """Puts in a sentence why the photograph `name` is not read."""
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    number, kind = getattr(error, "errno", None), PhotographError  # Pillow's own have no number
    if isinstance(error, PhotographError):
        told = str(error)
    elif isinstance(error, UnidentifiedImageError):
        told = "is not a picture of a kind that is read here. Convert it to JPEG or PNG."
    elif number in _NO_FILE:
        told = f"does not exist ({reason}). Relative paths count from {Path.cwd()}."
    elif isinstance(error, Image.DecompressionBombError):
        most = f"at most {MOST_PIXELS:,} pixels are read"
        told = f"would unpack to a picture far too large ({reason}; {most}). Scale it down."
    elif number or isinstance(error, MemoryError):
        kind = UnreadablePhotographError
        told = f"could not be read ({reason}). Check permissions and disk, and try again."
    else:
        told = f"can't be decoded ({reason}): it is damaged, cut short or of a rare kind. "
        told += "Copy it again, or save it as an RGB JPEG or PNG."
    return kind(f"{name} {told}")


def _to_rgb(original: Image.Image, draft: tuple[int, int] | None = None) -> Image.Image:
    if original.width * original.height > MOST_PIXELS:
        raise Image.DecompressionBombError(f"{original.width:,} x {original.height:,} pixels")
    if draft:
        original.draft(None, draft)
    deep = any(";16" in str(part[3]) for part in getattr(original, "tile", ()))
    original.load()
    clear = original.info.get("transparency")
    if original.mode in ("F", "I") and original.format != "PPM":  # PPM's are scaled to 16 bits
        raise PhotographError("holds 32-bit pixels of unknown range. Save it with 8 bits.")
    if original.mode == "RGB" and deep and clear is not None:
        raise PhotographError("names a 16-bit colour as transparent. Save it with 8 bits.")
    try:
        image = ImageOps.exif_transpose(original)
    except Exception:  # damaged EXIF data says nothing against the pixels
        image = original.copy()
    if image.mode.startswith("I"):  # Pillow would cut all greys above 255 to white
        grey, tags = np.asarray(image).astype(np.int64), getattr(original, "tag_v2", {})
        top = 2 ** tags.get(258, (16,))[0] - 1  # BitsPerSample
        bright = np.clip((grey * 255 + top // 2) // top, 0, 255)
        if tags.get(262) == 0:  # PhotometricInterpretation: WhiteIsZero
            bright = 255 - bright
        bright[grey == clear] = 255
        return Image.fromarray(bright.astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image.convert("RGB")


def _from_array(pixels: np.ndarray) -> Image.Image:
    if pixels.dtype != np.uint8:
        raise PhotographError(
            f"The array's dtype is {pixels.dtype}; expected uint8. For values in [0, 1] pass "
            "(255 * pixels).round().astype('uint8'), in [0, 255] pixels.astype('uint8')."
        )
    right = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (3, 4))
    if not right or not pixels.size:
        expected = "expected (height, width[, 3 or 4]). Of a batch, pass one at a time"
        raise PhotographError(f"The array's shape is {pixels.shape}; {expected}.")
    return Image.fromarray(pixels)
