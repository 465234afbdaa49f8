"""Figures: one style, how a figure is kept, charts, and photographs with text.

A chart function takes an `Axes`, draws on it and returns it. What colour tells is told by a marker,
a line style or a hatch as well, so every chart can be read in black and white.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import chain, cycle
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.ticker import MaxNLocator
from PIL import Image

from utils.machinery.files import atomic_path
from utils.photographs import Source, open_photograph
from utils.settings import short_path

_MOST_BYTES = 200_000  # of a picture: notebooks with a few photographs stay below a megabyte
_SMALL = 8  # points: text beside photographs
_MOST_LINES = 20  # under one photograph


def use_style() -> None:
    """Gives all figures that are made from now on the style of the project."""
    plt.rc("figure", dpi=100, figsize=(4.8, 3.0))
    plt.rc("figure.constrained_layout", use=True)
    plt.rc("savefig", pad_inches=0.02)
    plt.rc("font", family="DejaVu Sans", size=8.5)  # comes with matplotlib: the same everywhere
    plt.rc("text", parse_math=False)  # a caption may hold two dollar signs
    plt.rc("axes", titlesize=9.5, titlelocation="left", grid=True, axisbelow=True)
    plt.rc("axes.spines", top=False, right=False)
    plt.rc("grid", color="#dddddd", linewidth=0.6)
    plt.rc("lines", linewidth=1.4, markersize=4)
    plt.rc("legend", frameon=False)
    plt.rc("hatch", linewidth=0.7)


def save(figure: Figure, path: Path | str, alt: str = "") -> Path:
    """Writes a figure as .svg (charts) or .jpg (photographs) and returns its path, for printing.

    The same figure gives the same bytes. `alt` is an alternative text, which an SVG has as title.
    """
    path = Path(path)
    with atomic_path(path) as part:
        if path.suffix == ".svg":
            with plt.rc_context({"svg.hashsalt": path.stem}):  # else its names are random
                about = {"Date": None, "Creator": None} | ({"Title": alt} if alt else {})
                figure.savefig(part, bbox_inches="tight", metadata=about)
        else:
            sharp = {"quality": 88, "subsampling": 0}  # as text must be
            for dots_per_inch in (150, 130, 110, 90, 75):
                figure.savefig(part, dpi=dots_per_inch, bbox_inches="tight", pil_kwargs=sharp)
                if part.stat().st_size <= _MOST_BYTES:
                    break
    return short_path(path)


def save_picture(figure: Figure, path: Path | str, alt: str = "") -> "SavedPicture":
    """Writes a figure as `save` does, and closes it.

    What is returned is what a notebook shows as the last line of a cell, with `alt` for those who
    cannot see it: a .jpg as it was written, and of an .svg the same chart in pixels.
    """
    path = Path(path)
    save(figure, path, alt)
    if path.suffix == ".svg":
        with BytesIO() as pixels:
            figure.savefig(pixels, format="png", bbox_inches="tight")
            picture = SavedPicture("image/png", pixels.getvalue(), alt)
    else:
        picture = SavedPicture("image/jpeg", path.read_bytes(), alt)
    plt.close(figure)
    return picture


@dataclass(frozen=True)
class SavedPicture:
    """A picture that a notebook shows, with an alternative text."""

    kind: str  # MIME type
    content: bytes
    alt: str

    def _repr_mimebundle_(self, include=None, exclude=None):
        return {self.kind: self.content, "text/plain": self.alt}, {self.kind: {"alt": self.alt}}


# Charts

# Okabe and Ito's palette, which colour-blind readers can tell apart.
BLUE, RED, GREEN, ORANGE = "#0072b2", "#d55e00", "#009e73", "#e69f00"
BARS = {"color": "#a6cbe3", "edgecolor": BLUE, "linewidth": 0.8}


def caption_lengths(ax: Axes, lengths: Sequence[int]) -> Axes:
    """Draws how many captions have how many tokens, and marks the median."""
    captions = np.bincount(lengths)
    ax.bar(np.arange(len(captions)), captions, width=0.85, **BARS)
    ax.set(xlabel="length (tokens)", xlim=(min(lengths) - 1, len(captions)))
    _mark(ax, np.median(lengths), "median {:g}")
    _whole_numbers(ax.xaxis)
    return _counts(ax, "captions")


def word_frequencies(ax: Axes, counts: Mapping[str, int], top: int = 25) -> Axes:
    """Draws how often the `top` most frequent words occur."""
    most = pd.Series(counts).sort_index().sort_values(ascending=False, kind="stable")[:top]
    ax.barh(range(len(most)), most, height=0.75, **BARS)
    _name_rows(ax, most.index)
    ax.margins(y=0.01)
    ax.xaxis.set_major_formatter("{x:,.0f}")
    ax.set(xlabel="occurrences", ylabel="word")
    return ax


def agreement(ax: Axes, scores: Sequence[float]) -> Axes:
    """Draws how much the annotators of a photograph agree.

    `scores`: for each photograph the mean ROUGE-L of its captions, each against the others, x100.
    """
    ax.hist(scores, bins=np.arange(0, 101, 5), **BARS)
    ax.set(xlabel="ROUGE-L of a caption against the others (x100), mean", xlim=(0, 100))
    _mark(ax, np.mean(scores), "mean {:.0f}")
    _counts(ax, "photographs")
    _whole_numbers(ax.yaxis)
    return ax


def vocabulary_threshold(ax: Axes, table: pd.DataFrame, chosen: int) -> Axes:
    """Draws what each frequency threshold of `captions.threshold_table` costs, and marks one."""
    share = ax.twinx()
    ax.plot(table["min_count"], table["words"], "o-", color=BLUE, label="words known")
    unknown = 100 * table["unknown_share"]
    share.plot(table["min_count"], unknown, "s--", color=RED, label="unknown share")
    _mark(ax, chosen, "chosen: {}")
    _whole_numbers(ax.xaxis)
    ax.yaxis.set_major_formatter("{x:,.0f}")
    ax.set(xlabel="occurrences that a word needs to be known", ylabel="words in the vocabulary")
    share.grid(visible=False)
    share.spines["right"].set_visible(True)
    share.set_ylabel("unknown training words (%)")
    ax.set_ylim(bottom=0)
    share.set_ylim(bottom=0)
    _legend([ax, share])
    return ax


def training_curves(axes: Sequence[Axes], history: pd.DataFrame) -> Sequence[Axes]:
    """Draws losses (left) and dev CIDEr (right) by epoch; rings mark the best epochs.

    Losses of two recipes only compare where their vocabularies agree: fewer words are easier to
    tell apart. `history` has the columns `recipe` ("original" or "ours"), `epoch`, `loss` and
    `dev_loss` (nats per token), and `dev_cider` (x100).
    """
    left, right = axes
    looks = {"original": {"color": RED, "marker": "s"}, "ours": {"color": BLUE, "marker": "o"}}
    for recipe, rows in history.groupby("recipe", sort=False):
        line, epochs = looks[recipe], rows["epoch"]
        left.plot(epochs, rows["loss"], linestyle=":", label=f"{recipe}, training", **line)
        left.plot(epochs, rows["dev_loss"], linestyle="-", label=f"{recipe}, dev", **line)
        right.plot(epochs, rows["dev_cider"], label=f"{recipe}, dev", **line)
        _ring(left, rows.loc[rows["dev_loss"].idxmin(), ["epoch", "dev_loss"]])
        _ring(right, rows.loc[rows["dev_cider"].idxmax(), ["epoch", "dev_cider"]])
    left.set(title="Loss", ylabel="cross-entropy (nats per token)")
    return _curves_by_epoch(axes)


def self_critical_curves(
    axes: Sequence[Axes], history: pd.DataFrame, first_stage_cider: float
) -> Sequence[Axes]:
    """Draws reward (left) and dev CIDEr (right) of the second stage by epoch.

    A ring marks the best epoch, a dashed line where the first stage ended. `history` has the
    columns `epoch`, `reward` (mean CIDEr of drawn captions) and `dev_cider`; all scores are x100.
    """
    left, right = axes
    left.plot(history["epoch"], history["reward"], color=GREEN, marker="^", label="reward")
    left.set(title="Reward", ylabel="CIDEr of drawn captions (x100)")
    left.set_ylim(bottom=0)  # a change of one point is seldom more than chance
    right.plot(history["epoch"], history["dev_cider"], color=BLUE, marker="o", label="second stage")
    right.axhline(first_stage_cider, label="first stage", color="black", linestyle="--")
    _ring(right, history.loc[history["dev_cider"].idxmax(), ["epoch", "dev_cider"]])
    return _curves_by_epoch(axes)


def search_on_dev(ax: Axes, rows: Sequence[Mapping[str, float]]) -> Axes:
    """Draws dev CIDEr against the length penalty, a line for each beam, and rings the best beam.

    `rows` are those of `evaluation.choose_search`; the best consensus is drawn as a line.
    """
    table = pd.DataFrame(rows).sort_values(["beam", "length_penalty"])
    is_consensus = table["inverse_temperature"].notna()
    consensus, beams = table[is_consensus], table[~is_consensus]
    if len(consensus):
        label = f"consensus of {consensus['beam'].iloc[0]}"
        ax.axhline(consensus["CIDEr"].max(), label=label, color="black", linewidth=2.5)
    looks = cycle([(BLUE, "o", "-"), (RED, "s", "--"), (GREEN, "^", "-."), (ORANGE, "D", ":")])
    for (beam, found), (colour, marker, style) in zip(beams.groupby("beam"), looks, strict=False):
        line = {"color": colour, "linestyle": style}
        if beam == 1:  # greedy search has no use for a length penalty
            ax.axhline(found["CIDEr"].iloc[0], label="greedy", **line)
        else:
            label = f"beam {beam}"
            ax.plot(found["length_penalty"], found["CIDEr"], marker=marker, label=label, **line)
    _ring(ax, beams.loc[beams["CIDEr"].idxmax(), ["length_penalty", "CIDEr"]])
    # At least a quarter of the best score high, so that chance doesn't look like a trend.
    low, high = ax.get_ylim()
    ax.set_ylim(min(low, 0.75 * high), high + 0.02 * abs(high))
    ax.set(xlabel="length penalty (exponent of the length)", ylabel="CIDEr on dev (x100)")
    _legend([ax])
    return ax


def compared_scores(ax: Axes, rows: Sequence[Mapping], score: str) -> Axes:
    """Draws a score of each system on test as a dot, and its 95 % interval as whiskers.

    `rows` are those of `evaluation.evaluate_system`, the first at the top; several decoders
    together have a white diamond.
    """
    for place, row in enumerate(rows):
        value, (low, high) = row["test"][score], row["intervals"][score]
        # Not as an error bar, which must hold the dot: a score of few photographs can lie outside.
        ax.plot([low, high], [place] * 2, "|-", color=BLUE, markersize=8, linewidth=1.2)
        marker, fill = ("o", BLUE) if len(row["decoders"]) == 1 else ("D", "white")
        ax.plot(value, place, marker=marker, color=BLUE, markersize=6, markerfacecolor=fill)
        above = {"textcoords": "offset points", "ha": "center"}
        ax.annotate(f"{value:.1f}", (value, place), (0, 6), **above)
    _name_rows(ax, [row["name"] for row in rows])
    ax.set_ylim(len(rows) - 0.5, -0.7)
    ax.set(xlabel=f"{score} on test (x100), 95 % confidence interval")
    return ax


def caption_statistics(
    axes: Sequence[Axes],
    model: Sequence[Sequence[str]],
    human: Sequence[Sequence[str]],
    top: int = 12,
) -> Sequence[Axes]:
    """Compares captions of a model with those of people: lengths (left), frequent words (right).

    Captions are tokens, all cleaned in the same way. The `top` words are those of the model.
    """
    left, right = axes
    words = [word for word, _ in Counter(chain.from_iterable(model)).most_common(top)]
    filled = {"label": "model", "color": BLUE}
    hatched = {"label": "people", "color": "white", "hatch": "////"}
    for captions, aside, look in ((model, -0.2, filled), (human, 0.2, hatched)):
        look |= {"edgecolor": "black", "linewidth": 0.6}
        lengths = np.bincount([len(caption) for caption in captions])
        left.bar(np.arange(len(lengths)) + aside, 100 * lengths / len(captions), 0.4, **look)
        counts = Counter(chain.from_iterable(captions))
        shares = [100 * counts[word] / counts.total() for word in words]
        right.barh(np.arange(len(words)) + aside, shares, 0.4, **look)
    left.set(title="Length", xlabel="length (tokens)", ylabel="share of the captions (%)")
    left.set_xlim(left=min(map(len, [*model, *human])) - 1)
    left.grid(axis="x", visible=False)
    _whole_numbers(left.xaxis)
    right.set(title="Frequent words", xlabel="share of all words (%)", ylabel="word")
    _name_rows(right, words)
    _legend(axes)
    return axes


def _whole_numbers(axis) -> None:
    axis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def _counts(ax: Axes, label: str) -> Axes:
    """Makes the vertical axis one of counts, with room for a mark."""
    ax.grid(axis="x", visible=False)
    ax.yaxis.set_major_formatter("{x:,.0f}")
    ax.set_ylabel(label)
    ax.margins(y=0.1)
    return ax


def _name_rows(ax: Axes, names: Sequence[str]) -> None:
    """Names the rows of a chart, the first at the top."""
    ax.set_yticks(range(len(names)), names)
    ax.tick_params(axis="y", length=0)
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)


def _curves_by_epoch(axes: Sequence[Axes]) -> Sequence[Axes]:
    """Labels two charts by epoch, the right one of dev CIDEr."""
    axes[1].set(title="Quality of the captions", ylabel="CIDEr on dev (x100)")
    axes[1].set_ylim(0, 1.08 * axes[1].get_ylim()[1])  # with room for the ring around the best
    for ax in axes:
        ax.set_xlabel("epoch")
        _whole_numbers(ax.xaxis)
    _legend(axes)
    return axes


def _legend(axes: Sequence[Axes]) -> None:
    """One legend for all charts of a figure, below them, where it covers nothing."""
    entries = {}
    for ax in axes:
        handles, labels = ax.get_legend_handles_labels()
        entries |= zip(labels, handles, strict=True)
    figure = axes[0].get_figure(root=True)
    figure.legend(entries.values(), entries, loc="outside lower center", ncols=4)


def _mark(ax: Axes, x: float, text: str) -> None:
    """Draws a dashed upright line at `x`, and beside its top the `text` about `x`."""
    ax.axvline(x, color="black", linestyle="--", linewidth=1.2)
    at_top = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points", "va": "top"}
    ax.annotate(text.format(x), (x, 1), (5, -2), **at_top)


def _ring(ax: Axes, point: Sequence[float]) -> None:
    """Draws a ring around a point `(x, y)` that is the best of its line."""
    ax.plot(*point, "o", markersize=10, fillstyle="none", color="black")


# Photographs


def photograph_grid(
    photographs: Sequence[Source],
    texts: Sequence[str],
    columns: int = 4,
    titles: Sequence[str] | None = None,
    width: float = 10.0,
) -> Figure:
    """Lays out photographs, as `open_photograph` takes them, with text under each.

    Long lines are wrapped, and line ends are kept. `titles`, such as scores, stand above the texts
    in bold type. `width` is that of the figure, in inches. Raises `ValueError` if there are not as
    many texts or titles as photographs, and `PhotographError` if one of these can't be read.
    """
    titles = titles or [""] * len(photographs)
    columns = min(columns, len(photographs))
    cell, line_height = width / columns, _SMALL * 1.35 / 72  # inches
    texts = [_wrap(text, cell * 72 * 0.95) for text in texts]
    heights = []  # a row of photographs, a row of texts as high as the longest of them, …
    for start in range(0, len(photographs), columns):
        lines = max(text.count("\n") + 1 for text in texts[start : start + columns])
        heights += [cell * 0.72, (lines + any(titles) + 0.8) * line_height]

    figure = plt.figure(figsize=(width, sum(heights)), layout="none")
    grid = figure.add_gridspec(
        len(heights), columns, height_ratios=heights, wspace=0.04, hspace=0.02,
        left=0.005, right=0.995, bottom=0, top=1,
    )  # fmt: skip
    for place, (photograph, text, title) in enumerate(zip(photographs, texts, titles, strict=True)):
        row, column = divmod(place, columns)
        picture = figure.add_subplot(grid[2 * row, column], anchor="SW")
        picture.imshow(_thumbnail(photograph, int(cell * 150)))
        picture.axis("off")
        under = figure.add_subplot(grid[2 * row + 1, column])
        under.axis("off")
        below_title = 1 - bool(title) * line_height / heights[2 * row + 1]
        under.text(0, 1, title, va="top", fontsize=_SMALL, fontweight="bold")
        under.text(0, below_title, text, va="top", fontsize=_SMALL, linespacing=1.25)
    return figure


def feature_maps(photograph: Source, maps: np.ndarray) -> Figure:
    """Shows a photograph beside the eight feature maps that vary most over it, as heat maps.

    `maps`: (height, width, channels) float, what the CNN gives before the average is taken.
    """
    maps = np.asarray(maps, "float32")
    image = open_photograph(photograph)
    proportion = image.height / image.width
    channels = np.argsort(-maps.std(axis=(0, 1)), kind="stable")[:8].tolist()
    figure, axes = plt.subplot_mosaic(
        [["photograph", *channels[:4]], ["photograph", *channels[4:]]],
        width_ratios=[2.6, 1, 1, 1, 1],
        figsize=(10.2, 3.1 * proportion + 0.6),
    )
    _titled(axes["photograph"], "photograph").imshow(_thumbnail(image, 400))
    # The CNN saw a square; its maps are stretched back to the photograph's proportions.
    stretch = proportion * maps.shape[1] / maps.shape[0]
    for channel in channels:
        # Each on its own scale: what counts is where a channel is strong, not how strong it is.
        ax = _titled(axes[channel], f"channel {channel}")
        ax.imshow(maps[:, :, channel], cmap="cividis", aspect=stretch)
    return figure


def attention_by_word(
    photograph: Source, words: Sequence[str], attention: np.ndarray, columns: int = 6
) -> Figure:
    """Shows a photograph, and for each word of its caption where the decoder looked.

    The brighter a region, the more of the attention went there; each word has its own scale from
    zero. The share of the sentinel, which is no region, stands below.

    `attention`: `(words, regions)` in [0, 1], regions row by row of a square grid. Raises
    `ValueError` if it has another shape, and `PhotographError` if the photograph can't be read.
    """
    side = round(attention.shape[-1] ** 0.5)
    attention = np.asarray(attention, "float32").reshape(len(words), side, side)
    image = _thumbnail(photograph, 260)
    width = 1.6  # of a picture, in inches
    rows = -(-(len(words) + 1) // columns)
    size = (columns * width, rows * (width * image.height / image.width + 0.5))
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False)
    for ax in axes.flat:
        ax.axis("off")
    first, *others = axes.flat
    _titled(first, "photograph").imshow(image)
    # The CNN saw a square; its regions are stretched back to the photograph's proportions.
    frame = (-0.5, image.width - 0.5, image.height - 0.5, -0.5)
    heat = {"cmap": "afmhot", "alpha": 0.55, "vmin": 0, "interpolation": "bicubic"}
    for ax, word, looks in zip(others, words, attention, strict=False):
        _titled(ax, word).imshow(image.convert("L"), cmap="gray", vmin=0, vmax=255)
        ax.imshow(looks, extent=frame, **heat)
        below = {"va": "top", "fontsize": _SMALL, "transform": ax.transAxes}
        ax.text(0, -0.03, f"sentinel {1 - looks.sum():.0%}", **below)
    return figure


def _thumbnail(photograph: Source, pixels: int) -> Image.Image:
    image = open_photograph(photograph)
    image.thumbnail((pixels, pixels))
    return image


def _titled(ax: Axes, title: str) -> Axes:
    ax.set_title(title, fontsize=_SMALL)
    ax.axis("off")
    return ax


def _wrap(text: str, points: float) -> str:
    """Wraps lines to a width; what is left of one is indented, and no full stop stands alone."""
    font = get_font(findfont("DejaVu Sans"))
    font.set_size(_SMALL, 720)

    def too_wide(words: str) -> bool:
        font.set_text(words[:400], 0.0)
        return font.get_width_height()[0] / 64 / 10 > points

    lines = []
    for paragraph in text.replace(" .", "\N{NO-BREAK SPACE}.").splitlines():
        line = ""
        for word in paragraph.split(" "):
            longer = f"{line} {word}" if line else word
            if line and too_wide(longer):
                lines.append(line)
                longer = f"   {word}"
            if len(lines) >= _MOST_LINES:
                return "\n".join([*lines[: _MOST_LINES - 1], "…"])
            line = f"{longer[: int(points / 6)]}…" if too_wide(longer) else longer
        lines.append(line)
    return "\n".join(lines)
