"""Judging a decoder: the search is chosen on dev, and test is scored once beside its controls."""

from collections.abc import Iterable, Sequence
from itertools import chain

import keras
import numpy as np
import pandas as pd

from utils.captions import Vocabulary
from utils.metrics import meteor, score_captions, tokenize
from utils.search import Hypothesis, Searcher, captions_of
from utils.training import CaptionSet


def try_searches(
    decoder: keras.Model,
    vocabulary: Vocabulary,
    dev: CaptionSet,
    beams: Iterable[int] = (1, 3, 5),
    length_penalties: Iterable[float] = (0.5, 0.7, 1.0),
) -> pd.DataFrame:
    """Scores a split with every beam and length penalty; a beam of 1 has no use for a penalty.

    Returns:
        Columns `beam`, `length_penalty` and one for each score, x100; best CIDEr first.
    """
    rows = []
    for beam in beams:
        searcher = Searcher(decoder, beam)
        for searcher.length_penalty in length_penalties if beam > 1 else (1.0,):
            captions = captions_of(searcher.best(dev.features), vocabulary)
            scores = score_captions(captions, dev.references)
            row = {"beam": beam, "length_penalty": searcher.length_penalty}
            rows.append({**row, **scores})
    return pd.DataFrame(rows).sort_values("CIDEr", ascending=False, ignore_index=True)


def score_row(
    name: str, recipe: str, split: str, searcher: Searcher, captions: Sequence[str], references
) -> dict:
    """Scores captions and says what was scored: one row of `metrics.json`."""
    row = {
        "name": name,
        "recipe": recipe,
        "split": split,
        "images": len(captions),
        "beam": searcher.beam,
        "length_penalty": searcher.length_penalty,
        **score_captions(captions, references),
    }
    if (java_score := meteor(captions, references)) is not None:
        row["METEOR"] = java_score
    return row


def prediction_rows(
    photos: Sequence[str],
    split: str,
    recipe: str,
    beam: int,
    hypotheses: Sequence[Hypothesis],
    vocabulary: Vocabulary,
) -> pd.DataFrame:
    """Tells what was said of each photograph, as `predictions.csv` keeps it."""
    return pd.DataFrame(
        {
            "photo": photos,
            "split": split,
            "recipe": recipe,
            "beam": beam,
            "caption": captions_of(hypotheses, vocabulary),
            "log_probability": [round(one.log_probability, 4) for one in hypotheses],
            "score": [round(one.score, 4) for one in hypotheses],
        }
    )


def scores_against_all_but_one(
    captions: Sequence[str], references: Sequence[Sequence[str]]
) -> dict[str, float]:
    """Scores captions against all references but one, each left out in turn, and takes the mean.

    This is what human captions are scored against when one of them is held out
    (`utils.agreement.leave_one_out`): with fewer references everybody scores lower.
    """
    rounds = [
        score_captions(captions, [group[:out] + group[out + 1 :] for group in references])
        for out in range(min(map(len, references)))
    ]
    return pd.DataFrame(rounds).mean().to_dict()


def shuffled(features: np.ndarray, seed: int) -> np.ndarray:
    """Gives every photograph the features of another one, none its own.

    A decoder that ignores the photograph scores as well on these as on the right ones.
    """
    order = np.random.default_rng(seed).permutation(len(features))
    swapped = np.empty(len(features), int)
    swapped[order] = np.roll(order, 1)
    return np.asarray(features)[swapped]


def describe_captions(
    captions: Sequence[str],
    references: Sequence[Sequence[str]],
    training: Iterable[Sequence[str]],
    vocabulary: Vocabulary,
) -> dict[str, float]:
    """Counts what shows whether a decoder speaks freely or by heart.

    Args:
        captions: of the decoder, one for each photograph.
        references: of the same photographs.
        training: raw captions that the decoder was trained on, by photograph.
        vocabulary: the decoder's.
    """
    words = [tokenize(caption) for caption in captions]
    human = [len(tokenize(caption)) for caption in chain.from_iterable(references)]
    known = {tuple(tokenize(caption)) for caption in chain.from_iterable(training)}
    return {
        "images": len(captions),
        "distinct": len(set(map(tuple, words))),
        "mean_length": float(np.mean([len(tokens) for tokens in words])),
        "human_mean_length": float(np.mean(human)),
        "words_used": len(set(chain.from_iterable(words))),
        "vocabulary": len(vocabulary) - 4,
        "seen_in_training": sum(tuple(tokens) in known for tokens in words),
    }
