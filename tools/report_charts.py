"""The report's charts of numbers, drawn as wide as they are printed: labels keep their size.

The notebooks draw the same charts wider, for a screen.
"""

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from utils.figures import (
    BLUE,
    GREEN,
    ORANGE,
    RED,
    attention_by_word,
    compared_scores,
    save,
    search_on_dev,
    self_critical_curves,
    training_curves,
    use_style,
)
from utils.machinery.files import read_json
from utils.photographs import Source

PAGE = 6.3  # inches: the text's width in report.typ
DRAWN = ("training_curves.svg", "self_critical.svg", "search_on_dev.svg", "compared_scores.svg")
LOOKS = ((RED, "s"), (BLUE, "o"), (GREEN, "^"), (ORANGE, "D"))


def draw_run(run_folder: Path, folder: Path) -> None:
    """Draws the charts `DRAWN` of a run from its numbers into `folder`."""
    use_style()
    metrics = read_json(run_folder / "metrics.json")
    history = pd.read_csv(run_folder / "history.csv")
    second = history["recipe"] == "self-critical"

    figure, axes = plt.subplots(1, 2, figsize=(PAGE, 2.9))
    training_curves(axes, history[~second])
    _keep(figure, folder / "training_curves.svg")
    figure, axes = plt.subplots(1, 2, figsize=(PAGE, 2.4))
    self_critical_curves(axes, history[second], metrics["recipes"]["ours"]["best_dev_cider"])
    _keep(figure, folder / "self_critical.svg")
    figure, ax = plt.subplots(figsize=(0.8 * PAGE, 2.9))
    search_on_dev(ax, metrics["search_on_dev"])
    _keep(figure, folder / "search_on_dev.svg")
    rows = read_json(run_folder / "comparison.json")["rows"]
    figure, ax = plt.subplots(figsize=(PAGE, 0.8 + 0.34 * len(rows)))
    compared_scores(ax, rows, "CIDEr")
    _keep(figure, folder / "compared_scores.svg")


def draw_original_recipe(histories: Mapping[str, Sequence[Mapping]], file: Path) -> None:
    """Draws what the original recipe learns on the features of several encoders, epoch by epoch.

    Dotted lines are losses of the training split. `histories`: by encoder, rows of `epoch`,
    `loss`, `dev_loss` and `dev_cider`.
    """
    use_style()
    figure, (left, right) = plt.subplots(1, 2, figsize=(PAGE, 3.1))
    for (encoder, rows), (colour, marker) in zip(histories.items(), cycle(LOOKS), strict=False):
        table, look = pd.DataFrame(rows), {"color": colour, "marker": marker}
        left.plot(table["epoch"], table["loss"], linestyle=":", **look)
        left.plot(table["epoch"], table["dev_loss"], label=encoder, **look)
        right.plot(table["epoch"], table["dev_cider"], **look)
    left.set(title="Loss", ylabel="cross-entropy (nats per token)", xlabel="epoch")
    right.set(title="Quality of the captions", ylabel="CIDEr on dev (x100)", xlabel="epoch")
    right.set_ylim(bottom=0)
    for ax in (left, right):
        ax.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    figure.legend(loc="outside lower center", ncols=3)
    _keep(figure, file)


def draw_attention(
    photograph: Source, words: Sequence[str], attention: np.ndarray, file: Path
) -> None:
    """Draws where the decoder looked before each word, in print size, as a .jpg file."""
    use_style()
    figure = attention_by_word(photograph, words, attention, columns=8)
    width, height = figure.get_size_inches()
    figure.set_size_inches(PAGE, height * PAGE / width + 0.25)  # text doesn't shrink with pictures
    _keep(figure, file)


def _keep(figure, file: Path) -> None:
    save(figure, file)
    plt.close(figure)
