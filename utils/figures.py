"""Figures: the one style, how a figure is kept, charts, and pictures with text.

A chart function takes an `Axes`, draws on it and returns it. What colour tells is told by a marker,
a line style or a hatch as well, so every chart can be read in black and white. Figures are made in
the size in which they are printed, no text is smaller than 8 points, and legends stand outside.
"""

import io
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.ticker import MaxNLocator

from utils.machinery.files import atomic_path
from utils.photographs import Source, open_photograph
from utils.settings import short_path

WIDTH = 6.25  # inches: the text width of the report
PAIR = (WIDTH, 2.9)  # size of a figure of two charts side by side
STYLE = {
    "figure.dpi": 100,
    "figure.figsize": (4.8, 3.0),
    "figure.constrained_layout.use": True,
    "savefig.pad_inches": 0.02,
    "font.family": "DejaVu Sans",  # comes with matplotlib, so a figure is the same on every machine
    "font.size": 8.5,
    "text.parse_math": False,  # a caption may hold two dollar signs
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "lines.linewidth": 1.4,
    "lines.markersize": 4,
    "hatch.linewidth": 0.7,
}
_MOST_BYTES = 200_000  # of a picture: notebooks with a few photographs stay below a megabyte
_SMALL = 8  # points: text under photographs
_MOST_LINES = 20  # under one photograph


def use_style() -> None:
    """Gives all figures that are made from now on the style of the project."""
    plt.rcParams.update(STYLE)


def save(figure: Figure, path: Path | str, alt: str = "") -> Path:
    """Writes a figure as .svg (charts) or .jpg (photographs) and returns its path, for printing.

    The same figure gives the same bytes: an SVG has no date and no random names. A JPEG has as many
    pixels as fit into about 400 KB.

    Args:
        alt: alternative text, which an SVG carries as its title.
    """
    path = Path(path)
    with atomic_path(path) as part:
        if path.suffix == ".jpg":
            part.write_bytes(_jpeg(figure))
        else:
            with plt.rc_context({"svg.hashsalt": path.stem, "svg.fonttype": "path"}):
                about = {"Date": None, "Creator": None} | ({"Title": alt} if alt else {})
                figure.savefig(part, format="svg", bbox_inches="tight", metadata=about)
    return short_path(path)


def save_picture(figure: Figure, path: Path | str, alt: str = "") -> "SavedPicture":
    """Writes a figure with photographs as `save` does, closes it, and returns what was written.

    As the last line of a cell this is what the notebook shows, in a fraction of the bytes that the
    figure itself would take there.

    Args:
        path: ends with .jpg.
        alt: alternative text, for readers who can't see the picture.
    """
    save(figure, path)
    plt.close(figure)
    return SavedPicture(Path(path), alt)


class SavedPicture:
    """A .jpg file that a notebook shows, with an alternative text."""

    def __init__(self, path: Path, alt: str):
        self.path, self.alt = path, alt

    def _repr_mimebundle_(self, include=None, exclude=None):
        shown = {"image/jpeg": self.path.read_bytes(), "text/plain": self.alt or self.path.stem}
        return shown, {"image/jpeg": {"alt": self.alt}}


def _jpeg(figure: Figure) -> bytes:
    for dots_per_inch in (150, 130, 110, 90, 75):
        content = io.BytesIO()
        options = {"quality": 88, "subsampling": 0}  # sharp text
        figure.savefig(
            content, format="jpg", dpi=dots_per_inch, bbox_inches="tight", pil_kwargs=options
        )
        if content.tell() <= _MOST_BYTES:
            break
    return content.getvalue()


# Charts

# Okabe and Ito's palette, which colour-blind readers can tell apart.
BLUE, RED, GREEN, ORANGE = "#0072b2", "#d55e00", "#009e73", "#e69f00"
BARS = {"color": "#a6cbe3", "edgecolor": BLUE, "linewidth": 0.8}
_RECIPES = {"original": (RED, "s"), "ours": (BLUE, "o")}  # colour and marker
_OFFSET = {"textcoords": "offset points"}


def caption_lengths(ax: Axes, lengths: Sequence[int]) -> Axes:
    """Draws how many captions have how many tokens, and marks the median."""
    bars = np.bincount(lengths)
    ax.bar(np.arange(len(bars)), bars, width=0.85, **BARS)
    median = float(np.median(lengths))
    _mark(ax, median, f"median {median:g}")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    _counts(ax, "captions")
    ax.set(xlabel="length (tokens)", xlim=(min(lengths) - 1, len(bars)))
    return ax


def word_frequencies(ax: Axes, counts: Mapping[str, int], top: int = 25) -> Axes:
    """Draws how often the `top` most frequent words occur."""
    most = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:top]
    words, occurrences = zip(*most, strict=True)
    ax.barh(range(len(words)), occurrences, height=0.75, **BARS)
    _name_rows(ax, words)
    ax.margins(y=0.01)
    ax.xaxis.set_major_formatter("{x:,.0f}")
    ax.set(xlabel="occurrences", ylabel="word")
    return ax


def agreement(ax: Axes, scores: Sequence[float], score: str = "ROUGE-L") -> Axes:
    """Draws how much the annotators of a photograph agree.

    Args:
        scores: for each photograph the mean score of its captions, each against the others, x100.
        score: what the score is called.
    """
    ax.hist(scores, bins=np.arange(0, 101, 5), **BARS)
    mean = float(np.mean(scores))
    _mark(ax, mean, f"mean {mean:.0f}")
    _counts(ax, "photographs")
    ax.set(xlabel=f"{score} of a caption against the others (x100), mean", xlim=(0, 100))
    ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    return ax


def vocabulary_threshold(ax: Axes, table: pd.DataFrame, chosen: int | None = None) -> Axes:
    """Draws size of the vocabulary, and share of unknown words, against the frequency threshold.

    Args:
        table: columns `min_count`, `words` (size of the vocabulary) and `unknown_share` (of all
            words in the training captions, in [0, 1]).
        chosen: the threshold to mark.
    """
    share = ax.twinx()
    ax.plot(table["min_count"], table["words"], "o-", color=BLUE, label="words known")
    unknown = 100 * table["unknown_share"]
    share.plot(table["min_count"], unknown, "s--", color=RED, label="unknown share")
    if chosen is not None:
        _mark(ax, chosen, f"chosen: {chosen}")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.yaxis.set_major_formatter("{x:,.0f}")
    ax.set(xlabel="occurrences that a word needs to be known", ylabel="words in the vocabulary")
    share.grid(visible=False)
    share.spines["right"].set_visible(True)
    share.set_ylabel("unknown training words (%)")
    for one in (ax, share):
        one.set_ylim(bottom=0)
    _legend([ax, share])
    return ax


def training_curves(axes: Sequence[Axes], history: pd.DataFrame) -> Sequence[Axes]:
    """Draws losses (left) and dev CIDEr (right) by epoch; rings mark the best epochs.

    Losses of two recipes only compare where their vocabularies agree: fewer words are easier to
    tell apart.

    Args:
        axes: two, left and right.
        history: columns `recipe`, `epoch`, `loss`, `dev_loss` (nats per token), `dev_cider` (x100).
    """
    left, right = axes
    for recipe, rows in history.groupby("recipe", sort=False):
        colour, marker = _RECIPES.get(recipe, (GREEN, "^"))
        line = {"color": colour, "marker": marker}
        epochs = rows["epoch"]
        left.plot(epochs, rows["loss"], linestyle=":", label=f"{recipe}, training", **line)
        left.plot(epochs, rows["dev_loss"], linestyle="-", label=f"{recipe}, dev", **line)
        right.plot(epochs, rows["dev_cider"], label=f"{recipe}, dev", **line)
        _ring(left, rows.loc[rows["dev_loss"].idxmin(), ["epoch", "dev_loss"]])
        _ring(right, rows.loc[rows["dev_cider"].idxmax(), ["epoch", "dev_cider"]])
    left.set(title="Loss", ylabel="cross-entropy (nats per token)")
    right.set(title="Quality of the captions", ylabel="CIDEr on dev (x100)")
    right.set_ylim(bottom=0)
    _by_epoch(axes)
    _legend(axes)
    return axes


def self_critical_curves(
    axes: Sequence[Axes], history: pd.DataFrame, first_stage_cider: float
) -> Sequence[Axes]:
    """Draws reward (left) and dev CIDEr (right) of the second stage by epoch.

    A ring marks the best epoch, a dashed line where the first stage ended.

    Args:
        axes: two, left and right.
        history: columns `epoch`, `reward` (mean CIDEr of drawn captions, x100) and `dev_cider`.
        first_stage_cider: on dev, x100.
    """
    left, right = axes
    left.plot(history["epoch"], history["reward"], color=GREEN, marker="^", label="reward")
    left.set(title="Reward", ylabel="CIDEr of drawn captions (x100)")
    right.plot(history["epoch"], history["dev_cider"], color=BLUE, marker="o", label="second stage")
    right.axhline(first_stage_cider, label="first stage", color="black", linestyle="--")
    _ring(right, history.loc[history["dev_cider"].idxmax(), ["epoch", "dev_cider"]])
    right.set(title="Quality of the captions", ylabel="CIDEr on dev (x100)")
    for ax in axes:  # from zero: a change of one point is seldom more than chance
        ax.set_ylim(bottom=0)
    _by_epoch(axes)
    _legend(axes)
    return axes


def search_on_dev(ax: Axes, rows: Sequence[Mapping[str, float]]) -> Axes:
    """Draws dev CIDEr against the length penalty, a line for each beam, and rings the best beam.

    Args:
        rows: dictionaries with `beam`, `length_penalty`, `inverse_temperature` (NaN but for a
            consensus, the best of which is drawn as a line) and `CIDEr` (x100).
    """
    table = pd.DataFrame(rows).sort_values(["beam", "length_penalty"])
    is_consensus = table["inverse_temperature"].notna()
    consensus, table = table[is_consensus], table[~is_consensus]
    if len(consensus):
        best = consensus.loc[consensus["CIDEr"].idxmax()]
        label = f"consensus of {best['beam']:.0f}"
        ax.axhline(best["CIDEr"], label=label, color="black", linewidth=2.5)
    looks = [(BLUE, "o", "-"), (RED, "s", "--"), (GREEN, "^", "-."), (ORANGE, "D", ":")]
    for number, (beam, own) in enumerate(table.groupby("beam")):
        colour, marker, style = looks[number % len(looks)]
        line = {"color": colour, "linestyle": style}
        if len(own) == 1:  # greedy search has no use for a length penalty
            ax.axhline(
                own["CIDEr"].iloc[0], label="greedy" if beam == 1 else f"beam {beam}", **line
            )
        else:
            label = f"beam {beam}"
            ax.plot(own["length_penalty"], own["CIDEr"], marker=marker, label=label, **line)
    if len(table):
        _ring(ax, table.loc[table["CIDEr"].idxmax(), ["length_penalty", "CIDEr"]])
    # At least a quarter of the best score high, so that chance doesn't look like a trend.
    low, high = ax.get_ylim()
    ax.set_ylim(min(low, 0.75 * high), high + 0.02 * abs(high))
    ax.set(xlabel="length penalty (exponent of the length)", ylabel="CIDEr on dev (x100)")
    _legend([ax])
    return ax


def compared_scores(ax: Axes, rows: Sequence[Mapping], score: str = "CIDEr") -> Axes:
    """Draws a score of each system on test as a dot, and its 95 % interval as whiskers.

    The first row stands at the top; several decoders together have a white diamond.

    Args:
        rows: dictionaries with `name`, `decoders` (a list), `test` (scores, x100) and `intervals`
            (a score's lower and upper end).
        score: which to draw.
    """
    for place, row in enumerate(rows):
        value, (low, high) = row["test"][score], row["intervals"][score]
        one = len(row["decoders"]) == 1
        # Not as an error bar, which must hold the dot: a score of few photographs can lie outside.
        ax.plot([low, high], [place] * 2, "|-", color=BLUE, markersize=8, linewidth=1.2)
        look = {"marker": "o" if one else "D", "markerfacecolor": BLUE if one else "white"}
        ax.plot(value, place, color=BLUE, markersize=6, **look)
        ax.annotate(f"{value:.1f}", (value, place), (0, 6), ha="center", **_OFFSET)
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

    Args:
        axes: two, left and right.
        model: tokens of each caption that the model wrote.
        human: tokens of each caption that people wrote, cleaned in the same way.
        top: words to show, the most frequent ones of the model.
    """
    left, right = axes
    counts = {"model": _shares(model), "people": _shares(human)}
    words = [word for word, _ in counts["model"].most_common(top)]
    looks = {
        "model": {"color": BLUE, "edgecolor": "black"},
        "people": {"color": "white", "edgecolor": "black", "hatch": "////"},
    }
    for place, (name, captions) in enumerate({"model": model, "people": human}.items()):
        aside = 0.4 * (place - 0.5)
        lengths = np.bincount([len(caption) for caption in captions])
        look = {"label": name, "linewidth": 0.6, **looks[name]}
        left.bar(np.arange(len(lengths)) + aside, 100 * lengths / len(captions), 0.4, **look)
        shares = [100 * counts[name][word] for word in words]
        right.barh(np.arange(len(words)) + aside, shares, 0.4, **look)
    left.set(title="Length", xlabel="length (tokens)", ylabel="share of the captions (%)")
    left.xaxis.set_major_locator(MaxNLocator(integer=True))
    left.set_xlim(left=min(map(len, [*model, *human])) - 1)
    left.grid(axis="x", visible=False)
    right.set(title="Frequent words", xlabel="share of all words (%)", ylabel="word")
    _name_rows(right, words)
    _legend(axes)
    return axes


def _shares(captions: Sequence[Sequence[str]]) -> Counter:
    """How much of all words each word makes up, in [0, 1]."""
    counts = Counter(token for caption in captions for token in caption)
    total = counts.total()
    return Counter({word: count / total for word, count in counts.items()})


def _counts(ax: Axes, label: str) -> None:
    """Makes the vertical axis one of counts, with room for a mark."""
    ax.grid(axis="x", visible=False)
    ax.yaxis.set_major_formatter("{x:,.0f}")
    ax.set_ylabel(label)
    ax.margins(y=0.1)


def _name_rows(ax: Axes, names: Sequence[str]) -> None:
    """Names the rows of a chart, the first at the top."""
    ax.set_yticks(range(len(names)), names)
    ax.tick_params(axis="y", length=0)
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)


def _by_epoch(axes: Sequence[Axes]) -> None:
    for ax in axes:
        ax.set_xlabel("epoch")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def _legend(axes: Sequence[Axes]) -> None:
    """One legend for all charts of a figure, below them, where it covers nothing."""
    entries = {}
    for ax in axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    figure = axes[0].get_figure(root=True)
    figure.legend(entries.values(), entries, loc="outside lower center", ncols=4)


def _mark(ax: Axes, x: float, text: str) -> None:
    """Draws a dashed upright line with a word beside its top."""
    ax.axvline(x, color="black", linestyle="--", linewidth=1.2)
    ax.annotate(text, (x, 1), (5, -2), va="top", xycoords=("data", "axes fraction"), **_OFFSET)


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
    line_height = _SMALL * 1.35 / 72  # inches
    wrapped = [_wrap(text, cell * 72 * 0.95) for text in texts]
    heights = []  # a row of photographs, a row of texts as high as the longest of them, …
    for start in range(0, len(photographs), columns):
        lines = max(text.count("\n") + 1 for text in wrapped[start : start + columns])
        heights += [cell * 0.72, (lines + any(titles) + 0.8) * line_height]

    figure = plt.figure(figsize=(width, sum(heights)), layout="none")
    grid = figure.add_gridspec(
        len(heights), columns, height_ratios=heights, wspace=0.04, hspace=0.02,
        left=0.005, right=0.995, bottom=0, top=1,
    )  # fmt: skip
    rows = zip(photographs, wrapped, titles, strict=True)
    for place, (photograph, text, title) in enumerate(rows):
        row, column = divmod(place, columns)
        picture = figure.add_subplot(grid[2 * row, column])
        _show(picture, photograph, pixels=int(cell * 150))
        picture.set_anchor("SW")
        under = figure.add_subplot(grid[2 * row + 1, column])
        under.axis("off")
        below_title = 1 - bool(title) * line_height / heights[2 * row + 1]
        under.text(0, 1, title, va="top", fontsize=_SMALL, fontweight="bold")
        under.text(0, below_title, text, va="top", fontsize=_SMALL, linespacing=1.25)
    return figure


def feature_maps(
    photograph: Source, maps: np.ndarray, channels: Sequence[int] | None = None, columns: int = 4
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
    size = (2.0 * rows + 1.55 * columns, rows * (1.55 * proportion + 0.3))
    figure = plt.figure(figsize=size, layout="constrained")
    grid = figure.add_gridspec(rows, columns + 1, width_ratios=[1.3 * rows] + [1] * columns)
    picture = figure.add_subplot(grid[:, 0])
    _show(picture, image, pixels=400)
    picture.set_title("photograph", fontsize=_SMALL)
    # The CNN saw a square; its maps are stretched back to the photograph's proportions.
    stretch = proportion * maps.shape[1] / maps.shape[0]
    for place, channel in enumerate(channels):
        row, column = divmod(place, columns)
        ax = figure.add_subplot(grid[row, column + 1])
        # Each on its own scale: what counts is where a channel is strong, not how strong it is.
        ax.imshow(maps[:, :, channel], cmap="cividis", aspect=stretch)
        ax.set_title(f"channel {channel}", fontsize=_SMALL)
        ax.axis("off")
    return figure


def attention_by_word(
    photograph: Source, words: Sequence[str], attention: np.ndarray, columns: int = 6
) -> Figure:
    """Shows a photograph, and for each word of its caption where the decoder looked.

    The brighter a region, the more of the attention went there; each word has its own scale from
    zero. The share of the sentinel, which is no region, stands below.

    Args:
        photograph: path, PIL picture or uint8 array.
        words: of the caption, and what stands for its end.
        attention: `(words, regions)` in [0, 1], regions row by row of a square grid.
        columns: pictures side by side.

    Raises:
        ValueError: there are not as many rows as words, or the regions are no square.
        PhotographError: the photograph can't be read.
    """
    attention = np.asarray(attention, "float32")
    side = round(attention.shape[-1] ** 0.5)
    if attention.shape != (len(words), side**2):
        raise ValueError(
            f"There are {len(words)} words and attention of shape {attention.shape}; expected a "
            "row for each word, and as many regions as a square grid has."
        )
    image = open_photograph(photograph)
    image.thumbnail((260, 260))
    rows = -(-(len(words) + 1) // columns)
    width = 1.6  # of a picture, in inches
    size = (columns * width, rows * (width * image.height / image.width + 0.5))
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False)
    for ax in axes.flat:
        ax.axis("off")
    first, *others = axes.flat
    first.imshow(image)
    first.set_title("photograph", fontsize=_SMALL)
    # The CNN saw a square; its regions are stretched back to the photograph's proportions.
    frame = (-0.5, image.width - 0.5, image.height - 0.5, -0.5)
    for ax, word, looks in zip(others, words, attention, strict=False):
        ax.imshow(image.convert("L"), cmap="gray", vmin=0, vmax=255)
        heat = looks.reshape(side, side)
        ax.imshow(heat, cmap="afmhot", alpha=0.55, extent=frame, vmin=0, interpolation="bicubic")
        ax.set_title(word, fontsize=_SMALL)
        below = {"va": "top", "fontsize": _SMALL, "transform": ax.transAxes}
        ax.text(0, -0.03, f"sentinel {1 - looks.sum():.0%}", **below)
    return figure


def _show(ax: Axes, photograph: Source, pixels: int) -> None:
    image = open_photograph(photograph)
    image.thumbnail((pixels, pixels))
    ax.imshow(image)
    ax.axis("off")


def _wrap(text: str, points: float) -> str:
    """Wraps lines to a width; what is left of one is indented, and no full stop stands alone."""
    font = get_font(findfont("DejaVu Sans"))
    font.set_size(_SMALL, 720)

    def width(words: str) -> float:
        font.set_text(words, 0.0)
        return font.get_width_height()[0] / 64 / 10

    lines = []
    for paragraph in text.replace(" .", "\N{NO-BREAK SPACE}.").splitlines():
        line = ""
        for word in paragraph.split(" "):
            longer = f"{line} {word}" if line else word
            if line and width(longer[:400]) > points:
                lines.append(line)
                longer = f"   {word}"
            if len(lines) >= _MOST_LINES:
                return "\n".join([*lines[: _MOST_LINES - 1], "…"])
            line = longer if width(longer[:400]) <= points else f"{longer[: int(points / 6)]}…"
        lines.append(line)
    return "\n".join(lines)
