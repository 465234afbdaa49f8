"""Photographs: from whatever a reader hands over to upright RGB pixels, or a readable refusal."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from utils.machinery.errors import PhotographError

Source = str | Path | Image.Image | np.ndarray

# What cameras, phones, browsers and editors write; JPEG includes MPO. Pillow knows forty more
# kinds, among them EPS, which it gives to another program to run.
_PHOTOGRAPHS = ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "AVIF", "JPEG2000", "PPM", "TGA")
Image.init()
FORMATS = tuple(name for name in _PHOTOGRAPHS if name in Image.OPEN)  # of this build of Pillow


def open_photograph(source: Source) -> Image.Image:
    """Opens a photograph as an upright 8-bit RGB picture, as a viewer would show it.

    EXIF orientation is applied, transparency is laid over white, 16-bit greys are scaled to 8 bits,
    and of an animation the first frame is taken.

    Args:
        source: path of a picture file, a PIL picture (left as it is), or an array of dtype uint8
            and shape (height, width, 3), (height, width, 4) or (height, width).

    Returns:
        PIL picture of mode "RGB", independent of `source`.

    Raises:
        PhotographError: it can't be read as a picture; the message names the file, what is wrong
            with it, and what to do.
    """
    return _decode(source, draft_size=None)


def load_pixels(source: Source, image_size: int) -> np.ndarray:
    """Reads a photograph and squeezes it to the square that a CNN expects.

    The whole photograph is kept and its proportions are not, as in the original recipe. Resampling
    is bilinear and antialiased.

    Args:
        source: as for `open_photograph`.
        image_size: side of the square in pixels.

    Returns:
        (image_size, image_size, 3) uint8, RGB, in [0, 255].

    Raises:
        PhotographError: as for `open_photograph`.
    """
    # A JPEG can be decoded at half, quarter or eighth size for a fraction of the time. Twice the
    # wanted size is kept, so that the resampling below still decides what the pixels look like.
    image = _decode(source, draft_size=2 * image_size)
    return np.array(image.resize((image_size, image_size), Image.Resampling.BILINEAR))


def _decode(source: Source, draft_size: int | None) -> Image.Image:
    if isinstance(source, np.ndarray):
        return _to_rgb(_from_array(source), "The array")
    if isinstance(source, Image.Image):
        name = getattr(source, "filename", "") or "The PIL picture"
        return _decode_opened(source, name)
    if not isinstance(source, (str, Path)):
        raise PhotographError(
            f"A photograph was given as {type(source).__name__}; expected a path, a PIL picture or "
            "a uint8 array."
        )
    path = Path(source)
    _check_file(path)
    try:
        image = Image.open(path, formats=FORMATS)
    except UnidentifiedImageError:
        raise PhotographError(
            f"{path} is not a picture of a kind that is read here ({path.stat().st_size:,} bytes, "
            "no known picture header). Convert it to JPEG or PNG."
        ) from None
    except Image.DecompressionBombError as error:
        raise PhotographError(
            f"{path} would unpack to a picture far too large ({error}). Scale it down, or leave it "
            "out if you don't know where it comes from."
        ) from None
    except Exception as error:  # Pillow's readers raise nearly anything on damaged files
        raise _damaged(str(path), error) from error
    with image:
        if draft_size is not None:
            image.draft(None, (draft_size, draft_size))
        return _decode_opened(image, str(path))


def _check_file(path: Path) -> None:
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        raise PhotographError(
            f"{path} does not exist. Check the spelling; relative paths count from {Path.cwd()}."
        ) from None
    except (OSError, ValueError) as error:  # a name too long, a NUL in it, a forbidden folder
        raise PhotographError(
            f"{str(path)!r} can't be looked up as a file ({error}). Check the path."
        ) from error
    if path.is_dir():
        raise PhotographError(f"{path} is a folder. Give the path of one picture file in it.")
    if size == 0:
        raise PhotographError(f"{path} is empty (0 bytes). Download or copy it again.")


def _decode_opened(image: Image.Image, name: str) -> Image.Image:
    try:
        image.load()
        return _to_rgb(_upright(image), name)
    except PhotographError:
        raise
    except Exception as error:  # as above
        raise _damaged(name, error) from error


def _damaged(name: str, error: Exception) -> PhotographError:
    return PhotographError(
        f"{name} can't be decoded ({error or type(error).__name__}): it is damaged, cut short or "
        "of a rare kind. Copy it again, or save it as an RGB JPEG or PNG."
    )


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # damaged EXIF data says nothing against the pixels
        return image.copy()


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode == "F":
        raise PhotographError(
            f"{name} holds floating-point pixels, whose range is anybody's guess. Save it with 8 "
            "bits per channel."
        )
    if image.mode.startswith("I"):
        return _from_16_bits(np.asarray(image), name)
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image.convert("RGB")


def _from_16_bits(grey: np.ndarray, name: str) -> Image.Image:
    grey = grey.astype(np.int64)
    if grey.min() < 0 or grey.max() > 65535:
        raise PhotographError(
            f"{name} holds grey values from {grey.min()} to {grey.max()}; expected 16 bits, 0 to "
            "65535. Save it with 8 bits per channel."
        )
    # Pillow's own conversion cuts everything above 255 to white. 65535 / 257 is exactly 255.
    return Image.fromarray(((grey + 128) // 257).astype(np.uint8)).convert("RGB")


def _from_array(pixels: np.ndarray) -> Image.Image:
    if pixels.dtype != np.uint8:
        raise PhotographError(
            f"The array's dtype is {pixels.dtype}; expected uint8. Other types leave open what "
            "white is: for values in [0, 1] pass (255 * pixels).round().astype('uint8'), for "
            "values in [0, 255] pass pixels.astype('uint8')."
        )
    grey = pixels.ndim == 2
    colour = pixels.ndim == 3 and pixels.shape[2] in (3, 4)
    if not (grey or colour) or 0 in pixels.shape:
        raise PhotographError(
            f"The array's shape is {pixels.shape}; expected (height, width, 3), (height, width, 4) "
            "or (height, width). Of a batch, pass one photograph at a time."
        )
    return Image.fromarray(pixels)
