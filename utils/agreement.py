"""How well people describe a photograph when they are judged as a model is: by other people."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from utils.metrics import Cider, bleu, rouge_l, tokenize


@dataclass(frozen=True)
class Agreement:
    """Scores of human captions against the other captions of the same photograph.

    Attributes:
        scores: {"BLEU-1", "BLEU-4", "ROUGE-L", "CIDEr"}, each x100.
        rouge_of: for each photograph the mean ROUGE-L of its captions, `(n,)`, x100; NaN where a
            photograph has one caption only.
    """

    scores: dict[str, float]
    rouge_of: np.ndarray


def leave_one_out(
    references: Sequence[Sequence[str]], rewrite: Callable[[str], str] | None = None
) -> Agreement:
    """Scores every caption against the others of its photograph, as if a model had written it.

    In each round one caption of every photograph is held out and scored; the result is the mean of
    the rounds. To score the first captions only would be quicker and wrong: in Flickr8k a
    photograph's captions are sorted by the alphabet.

    Args:
        references: for each photograph its raw captions.
        rewrite: changes the caption that is held out, for example by a cleaning; the captions that
            it is scored against stay raw.

    Raises:
        ValueError: no photograph has two captions.
    """
    tokens = [[tokenize(caption) for caption in group] for group in references]
    written = tokens
    if rewrite is not None:
        written = [[tokenize(rewrite(caption)) for caption in group] for group in references]
    rounds, rouge_of = [], []
    for held_out in range(max(map(len, tokens), default=0)):
        photos = [row for row, group in enumerate(tokens) if len(group) > max(held_out, 1)]
        if not photos:
            break
        candidates = [written[row][held_out] for row in photos]
        others = [tokens[row][:held_out] + tokens[row][held_out + 1 :] for row in photos]
        rouge = [rouge_l([own], [rest]) for own, rest in zip(candidates, others, strict=True)]
        rouge_of += zip(photos, rouge, strict=True)
        orders = bleu(candidates, others)
        cider = Cider(others).scores(candidates)
        rounds.append([orders[0], orders[-1], np.mean(rouge), cider.mean()])
    if not rounds:
        raise ValueError("No photograph has two captions; expected at least one that has.")
    names = ["BLEU-1", "BLEU-4", "ROUGE-L", "CIDEr"]
    scores = dict(zip(names, np.mean(rounds, axis=0).tolist(), strict=True))
    by_photo = pd.DataFrame(rouge_of, columns=["photo", "rouge"]).groupby("photo")["rouge"].mean()
    return Agreement(scores, by_photo.reindex(range(len(tokens))).to_numpy())
