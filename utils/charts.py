"""Charts of the notebooks: each function takes an `Axes`, draws on it and returns it.

What colour tells is told by a marker, a line style or a hatch as well, so every chart can be read
in black and white.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

# Okabe and Ito's palette, which colour-blind readers can tell apart.
BLUE, RED, GREEN, ORANGE = "#0072b2", "#d55e00", "#009e73", "#e69f00"
BARS = {"color": "#a6cbe3", "edgecolor": BLUE, "linewidth": 0.8}
RECIPES = {"published": (RED, "s"), "ours": (BLUE, "o")}  # colour and marker
OTHER_RECIPE = (GREEN, "^")
FIRST_STAGE = {"color": "black", "linestyle": "--", "linewidth": 1.2}
_OFFSET = {"textcoords": "offset points"}

# Captions of the data set


def caption_lengths(ax: Axes, lengths: Sequence[int]) -> Axes:
    """Draws how many captions have how many tokens, and marks the median."""
    bars = np.bincount(lengths)
    ax.bar(np.arange(len(bars)), bars, width=0.85, **BARS)
    median = float(np.median(lengths))
    _mark(ax, median, f"median {median:g}")
    ax.grid(axis="x", visible=False)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.yaxis.set_major_formatter("{x:,.0f}")
    ax.set(xlabel="length (tokens)", ylabel="captions", xlim=(min(lengths) - 1, len(bars)))
    ax.margins(y=0.1)
    return ax


def word_frequencies(ax: Axes, counts: Mapping[str, int], top: int = 25) -> Axes:
    """Draws how often the `top` most frequent words occur."""
    most = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:top]
    words, occurrences = zip(*most, strict=True)
    ax.barh(words, occurrences, height=0.75, **BARS)
    ax.invert_yaxis()
    ax.margins(y=0.01)
    ax.grid(axis="y", visible=False)
    ax.tick_params(axis="y", length=0)
    ax.xaxis.set_major_formatter("{x:,.0f}")
    ax.set(xlabel="occurrences", ylabel="word")
    return ax


def agreement(ax: Axes, scores: Sequence[float], score: str = "ROUGE-L") -> Axes:
    """Draws how much the five annotators of a photograph agree.

    Args:
        scores: for each photograph the mean score of its captions, each against the others, x100.
        score: what the score is called.
    """
    ax.hist(scores, bins=np.arange(0, 101, 5), **BARS)
    mean = float(np.mean(scores))
    _mark(ax, mean, f"mean {mean:.0f}")
    ax.grid(axis="x", visible=False)
    ax.set(
        xlabel=f"mean {score} of a photograph's captions, each against the others (x100)",
        ylabel="photographs",
        xlim=(0, 100),
    )
    ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    ax.yaxis.set_major_formatter("{x:,.0f}")
    ax.margins(y=0.1)
    return ax


def vocabulary_threshold(ax: Axes, table: pd.DataFrame, chosen: int | None = None) -> Axes:
    """Draws size of the vocabulary, and share of unknown words, against the frequency threshold.

    Args:
        table: columns `min_count`, `words` (size of the vocabulary) and `unknown_share` (of all
            words in the training captions, in [0, 1]).
        chosen: the threshold to mark.
    """
    share = ax.twinx()
    lines = ax.plot(table["min_count"], table["words"], "o-", color=BLUE, label="words known")
    lines += share.plot(
        table["min_count"], 100 * table["unknown_share"], "s--", color=RED, label="unknown share"
    )
    if chosen is not None:
        _mark(ax, chosen, f"chosen: {chosen}")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.yaxis.set_major_formatter("{x:,.0f}")
    ax.set(xlabel="occurrences that a word needs to be known", ylabel="words in the vocabulary")
    ax.set_ylim(bottom=0)
    share.grid(visible=False)
    share.spines["right"].set_visible(True)
    share.set_ylabel("training words that become unknown (%)")
    share.set_ylim(bottom=0)
    ax.legend(handles=lines, loc="center right")
    return ax


# Training, search and the captions that come out


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
        colour, marker = RECIPES.get(recipe, OTHER_RECIPE)
        line = {"color": colour, "marker": marker}
        epochs = rows["epoch"]
        left.plot(epochs, rows["loss"], linestyle=":", label=f"{recipe}, training", **line)
        left.plot(epochs, rows["dev_loss"], linestyle="-", label=f"{recipe}, dev", **line)
        right.plot(epochs, rows["dev_cider"], label=recipe, **line)
        _ring(left, rows.loc[rows["dev_loss"].idxmin(), ["epoch", "dev_loss"]])
        _ring(right, rows.loc[rows["dev_cider"].idxmax(), ["epoch", "dev_cider"]])
    left.set(title="Loss", ylabel="cross-entropy (nats per token)")
    right.set(title="Quality of the captions", ylabel="CIDEr on dev (x100)")
    for ax in (left, right):
        ax.set_xlabel("epoch")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        ax.legend()
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
    left.plot(history["epoch"], history["reward"], color=GREEN, marker="^")
    left.set(title="Reward", ylabel="CIDEr of drawn captions (x100)")
    right.plot(history["epoch"], history["dev_cider"], color=BLUE, marker="o", label="second stage")
    right.axhline(first_stage_cider, label="first stage", **FIRST_STAGE)
    _ring(right, history.loc[history["dev_cider"].idxmax(), ["epoch", "dev_cider"]])
    right.set(title="Quality of the captions", ylabel="CIDEr on dev (x100)")
    right.legend()
    for ax in axes:
        ax.set_xlabel("epoch")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    return axes


def search_on_dev(ax: Axes, rows: Sequence[Mapping[str, float]]) -> Axes:
    """Draws dev CIDEr against the length penalty, a line for each beam, and rings the best beam.

    Args:
        rows: dictionaries with `beam`, `length_penalty`, `sharpness` (NaN but for a consensus, the
            best of which is drawn as a line) and `CIDEr` (x100).
    """
    table = pd.DataFrame(rows).sort_values(["beam", "length_penalty"])
    consensus, table = table[table["sharpness"].notna()], table[table["sharpness"].isna()]
    if len(consensus):
        best = consensus.loc[consensus["CIDEr"].idxmax()]
        label = f"consensus of {best['beam']:.0f}"
        ax.axhline(best["CIDEr"], label=label, color="black", linewidth=2.5)
    kinds = [("o", "-"), ("s", "--"), ("^", "-."), ("D", ":"), ("v", "-")]
    colours = [BLUE, RED, GREEN, ORANGE, "black"]
    for place, (beam, own) in enumerate(table.groupby("beam")):
        marker, style = kinds[place % len(kinds)]
        line = {"color": colours[place % len(colours)], "linestyle": style}
        label = "greedy" if beam == 1 else f"beam {beam}"
        if len(own) == 1:  # greedy search has no use for a length penalty
            ax.axhline(own["CIDEr"].iloc[0], label=label, **line)
        else:
            ax.plot(own["length_penalty"], own["CIDEr"], marker=marker, label=label, **line)
    _ring(ax, table.loc[table["CIDEr"].idxmax(), ["length_penalty", "CIDEr"]])
    ax.set(xlabel="length penalty (exponent of the length)", ylabel="CIDEr on dev (x100)")
    ax.legend()
    return ax


def beam_sizes(axes: Sequence[Axes], table: pd.DataFrame) -> Sequence[Axes]:
    """Draws against the size of the beam CIDEr, BLEU-4 and what a photograph costs.

    Args:
        axes: three.
        table: columns `beam`, `CIDEr`, `BLEU-4` (x100) and `seconds` (a photograph).
    """
    lines = [("CIDEr", BLUE, "o"), ("BLEU-4", RED, "s"), ("seconds", "black", "^")]
    titles = ["CIDEr on dev (x100)", "BLEU-4 on dev (x100)", "Time per photograph (ms)"]
    for ax, (column, colour, marker), title in zip(axes, lines, titles, strict=True):
        values = table[column] * (1000 if column == "seconds" else 1)
        ax.plot(table["beam"], values, color=colour, marker=marker)
        ax.set(title=title, xlabel="beam", xticks=table["beam"])
        if column == "seconds":
            ax.set_ylim(bottom=0)
        else:
            _ring(ax, table.loc[table[column].idxmax(), ["beam", column]])
    return axes


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
        ax.annotate(f"{value:.1f}", (value, place), (0, 6), ha="center", fontsize=8, **_OFFSET)
    ax.set_yticks(range(len(rows)), [row["name"] for row in rows])
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(len(rows) - 0.5, -0.6)
    ax.grid(axis="y", visible=False)
    ax.set(xlabel=f"{score} on test (x100), 95 % interval")
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
    right.set_yticks(np.arange(len(words)), words)
    right.tick_params(axis="y", length=0)
    right.invert_yaxis()
    right.grid(axis="y", visible=False)
    for ax in axes:
        ax.legend()
    return axes


def _shares(captions: Sequence[Sequence[str]]) -> Counter:
    """How much of all words each word makes up, in [0, 1]."""
    counts = Counter(token for caption in captions for token in caption)
    total = counts.total()
    return Counter({word: count / total for word, count in counts.items()})


def _mark(ax: Axes, x: float, text: str) -> None:
    """Draws a dashed upright line with a word beside its top."""
    ax.axvline(x, color="black", linestyle="--", linewidth=1.2)
    ax.annotate(text, (x, 1), (5, -2), va="top", xycoords=("data", "axes fraction"), **_OFFSET)


def _ring(ax: Axes, point: Sequence[float]) -> None:
    """Draws a ring around a point `(x, y)` that is the best of its line."""
    ax.plot(*point, "o", markersize=11, fillstyle="none", color="black")
