"""Figures with photographs: a grid with captions, and what the CNN makes of a photograph."""

import textwrap
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from utils.photographs import Source, open_photograph


def photograph_grid(
    photographs: Sequence[Source],
    texts: Sequence[str],
    columns: int = 4,
    titles: Sequence[str] | None = None,
    width: float = 10.0,
) -> Figure:
    """Lays out photographs with text under each.

    Args:
        photographs: paths, PIL pictures or uint8 arrays, at least one.
        texts: one for each photograph; long lines are wrapped, line ends are kept.
        columns: photographs side by side.
        titles: a short line in bold type above each text, such as a score.
        width: of the figure, in inches.

    Raises:
        ValueError: there are not as many texts or titles as photographs, or no photographs.
        PhotographError: a photograph can't be read.
    """
    titles = titles or [""] * len(photographs)
    if not photographs or not len(photographs) == len(texts) == len(titles):
        raise ValueError(
            f"There are {len(photographs)} photographs, {len(texts)} texts and {len(titles)} "
            "titles; expected the same number, at least one."
        )
    columns = min(columns, len(photographs))
    cell = width / columns
    size, line_height = 8, 8 * 1.35 / 72  # points, inches
    wrapped = [_wrap(text, int(cell * 72 / (size * 0.58))) for text in texts]
    starts = range(0, len(photographs), columns)
    heights = []  # a row of photographs, a row of texts as high as the longest of them, …
    for start in starts:
        lines = max(text.count("\n") + 1 for text in wrapped[start : start + columns])
        heights += [cell * 0.72, (lines + any(titles) + 0.8) * line_height]

    figure = plt.figure(figsize=(width, sum(heights)), layout="none")
    grid = figure.add_gridspec(
        len(heights), columns, height_ratios=heights, wspace=0.06, hspace=0.02,
        left=0.005, right=0.995, bottom=0, top=1,
    )  # fmt: skip
    for place, (photograph, text, title) in enumerate(
        zip(photographs, wrapped, titles, strict=True)
    ):
        row, column = divmod(place, columns)
        picture = figure.add_subplot(grid[2 * row, column])
        _show(picture, photograph, pixels=int(cell * 130))
        picture.set_anchor("SW")
        under = figure.add_subplot(grid[2 * row + 1, column])
        under.axis("off")
        below_title = 1 - bool(title) * line_height / heights[2 * row + 1]
        under.text(0, 1, title, va="top", fontsize=size, fontweight="bold")
        under.text(0, below_title, text, va="top", fontsize=size, linespacing=1.25)
    return figure


def feature_maps(
    photograph: Source,
    maps: np.ndarray,
    channels: Sequence[int] | None = None,
    columns: int = 4,
) -> Figure:
    """Shows a photograph beside channels of the CNN's last layer, as heat maps.

    Args:
        photograph: path, PIL picture or uint8 array.
        maps: (height, width, channels) float, what the CNN gives before the average is taken.
        channels: which to show; without them the eight that vary most over the photograph.
        columns: heat maps side by side.
    """
    maps = np.asarray(maps, "float32")
    if channels is None:
        channels = np.argsort(-maps.std(axis=(0, 1)), kind="stable")[:8]
    rows = -(-len(channels) // columns)
    image = open_photograph(photograph)
    proportion = image.height / image.width
    height = rows * (1.55 * proportion + 0.3)
    figure = plt.figure(figsize=(2.0 * rows + 1.55 * columns, height), layout="constrained")
    grid = figure.add_gridspec(rows, columns + 1, width_ratios=[1.3 * rows] + [1] * columns)
    picture = figure.add_subplot(grid[:, 0])
    _show(picture, image, pixels=400)
    picture.set_title("photograph", fontsize=8)
    # The CNN saw a square; its maps are stretched back to the photograph's proportions.
    stretch = proportion * maps.shape[1] / maps.shape[0]
    for place, channel in enumerate(channels):
        row, column = divmod(place, columns)
        ax = figure.add_subplot(grid[row, column + 1])
        # Each on its own scale: what counts is where a channel is strong, not how strong it is.
        ax.imshow(maps[:, :, channel], cmap="cividis", aspect=stretch)
        ax.set_title(f"channel {channel}", fontsize=8)
        ax.axis("off")
    return figure


def attention_by_word(
    photograph: Source, words: Sequence[str], attention: np.ndarray, columns: int = 6
) -> Figure:
    """Shows a photograph, and for each word of its caption where the decoder looked.

    The brighter a place, the more of the look went there; each word has its own scale from zero, as
    what counts is where it looked. How much of the look went to the sentinel, which is no place,
    stands below.

    Args:
        photograph: path, PIL picture or uint8 array.
        words: of the caption, and what stands for its end.
        attention: `(words, places)` in [0, 1], places row by row of a square grid.
        columns: pictures side by side.

    Raises:
        ValueError: there are not as many rows as words, or the places are no square.
        PhotographError: the photograph can't be read.
    """
    attention = np.asarray(attention, "float32")
    side = round(attention.shape[-1] ** 0.5)
    if attention.shape != (len(words), side**2):
        raise ValueError(
            f"There are {len(words)} words and attention of shape {attention.shape}; expected a "
            "row for each word, and as many places as a square grid has."
        )
    image = open_photograph(photograph)
    image.thumbnail((260, 260))
    rows = -(-(len(words) + 1) // columns)
    width = 1.6  # of a picture, in inches
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(columns * width, rows * (width * image.height / image.width + 0.5)),
        squeeze=False,
    )
    for ax in axes.flat:
        ax.axis("off")
    first, *others = axes.flat
    first.imshow(image)
    first.set_title("photograph", fontsize=8)
    # The CNN saw a square; its places are stretched back to the photograph's proportions.
    frame = (-0.5, image.width - 0.5, image.height - 0.5, -0.5)
    for ax, word, looks in zip(others, words, attention, strict=False):
        ax.imshow(image.convert("L"), cmap="gray", vmin=0, vmax=255)
        heat = looks.reshape(side, side)
        ax.imshow(heat, cmap="afmhot", alpha=0.55, extent=frame, vmin=0, interpolation="bicubic")
        ax.set_title(word, fontsize=8)
        ax.text(
            0,
            -0.03,
            f"sentinel {1 - looks.sum():.0%}",
            fontsize=6,
            va="top",
            transform=ax.transAxes,
        )
    return figure


def _show(ax: Axes, photograph: Source, pixels: int) -> None:
    image = open_photograph(photograph)
    image.thumbnail((pixels, pixels))
    ax.imshow(image)
    ax.axis("off")


def _wrap(text: str, characters: int) -> str:
    """Wraps every line; what is left of it is indented, and no full stop stands alone."""
    lines = text.replace(" .", "\N{NO-BREAK SPACE}.").splitlines()
    return "\n".join(textwrap.fill(line, characters, subsequent_indent="   ") for line in lines)
