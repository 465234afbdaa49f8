"""Figures: the one style, how a figure is kept, and everything that draws one.

`charts` draws on an `Axes`, `pictures` lays out photographs, `architecture` draws a model;
notebooks find all of it here.
"""

import io
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from PIL import Image

from utils.architecture import architecture
from utils.charts import (
    agreement,
    beam_sizes,
    caption_lengths,
    caption_statistics,
    compared_scores,
    search_on_dev,
    self_critical_curves,
    training_curves,
    vocabulary_threshold,
    word_frequencies,
)
from utils.files import atomic_path
from utils.pictures import attention_by_word, feature_maps, photograph_grid
from utils.settings import short_path

__all__ = [
    "agreement",
    "architecture",
    "attention_by_word",
    "beam_sizes",
    "caption_lengths",
    "caption_statistics",
    "compared_scores",
    "feature_maps",
    "photograph_grid",
    "save",
    "save_picture",
    "search_on_dev",
    "self_critical_curves",
    "training_curves",
    "use_style",
    "vocabulary_threshold",
    "word_frequencies",
]

STYLE = {
    "figure.dpi": 100,
    "figure.figsize": (6.4, 3.6),
    "figure.constrained_layout.use": True,
    "font.family": "DejaVu Sans",  # comes with matplotlib, so a figure is the same on every machine
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
    "hatch.linewidth": 0.7,
}
_MOST_BYTES = 400_000  # of a PNG: notebooks with a dozen photographs stay below a megabyte or two


def use_style() -> None:
    """Gives all figures that are made from now on the style of the project."""
    plt.rcParams.update(STYLE)


def save(figure: Figure, path: Path | str) -> Path:
    """Writes a figure as .svg (charts) or .png (photographs) and returns its path, for printing.

    The same figure gives the same bytes: an SVG has no date and no random names. A PNG has a
    palette of 256 colours, and as many pixels as fit into about 400 KB.
    """
    path = Path(path)
    with atomic_path(path) as part:
        if path.suffix == ".svg":
            with plt.rc_context({"svg.hashsalt": path.stem, "svg.fonttype": "path"}):
                nothing = {"Date": None, "Creator": None}
                figure.savefig(part, format="svg", bbox_inches="tight", metadata=nothing)
        else:
            part.write_bytes(_png(figure))
    return short_path(path)


def save_picture(figure: Figure, path: Path | str) -> Image.Image:
    """Writes a figure with photographs as `save` does, closes it, and returns what was written.

    As the last line of a cell this is what the notebook shows, in a quarter of the bytes that the
    figure itself would take there: a notebook with a few photographs stays below a megabyte.
    """
    save(figure, path)
    plt.close(figure)
    with Image.open(path) as picture:
        picture.load()
    return picture


def _png(figure: Figure) -> bytes:
    for dots_per_inch in (130, 110, 90, 75):
        full, small = io.BytesIO(), io.BytesIO()
        figure.savefig(full, format="png", dpi=dots_per_inch, bbox_inches="tight")
        Image.open(full).convert("RGB").quantize(256).save(small, format="png", optimize=True)
        if small.tell() <= _MOST_BYTES:
            break
    return small.getvalue()
