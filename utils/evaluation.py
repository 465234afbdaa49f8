"""Evaluation: the search is chosen on dev, and test is scored once, beside its controls."""

import time
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain

import keras
import numpy as np
import pandas as pd
from tqdm import tqdm

from utils.batches import CaptionSet
from utils.captions import Vocabulary
from utils.decoder import decoder_kind
from utils.metrics import Scorer, bleu_counts, bleu_of_counts, meteor, score_captions, tokenize
from utils.search import (
    INVERSE_TEMPERATURES,
    WIDE_BEAM,
    WIDE_PENALTY,
    WIDE_TOKENS,
    Consensus,
    Hypothesis,
    Searcher,
    SearchSettings,
    captions_of,
)

BEAMS, LENGTH_PENALTIES = (1, 3, 5), (0.5, 0.7, 1.0, 1.3)  # what the search is chosen from


def choose_search(
    decoders: keras.Model | Sequence[keras.Model],
    vocabulary: Vocabulary,
    features: np.ndarray | Sequence[np.ndarray],
    references: Sequence[Sequence[str]],
    *,
    beams: Iterable[int] = BEAMS,
    length_penalties: Sequence[float] = LENGTH_PENALTIES,
    consensus: Consensus | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Scores the captions of a split, dev for example, with every search.

    Args:
        decoders: one, or several that share the vocabulary and then say each word together.
        vocabulary: theirs.
        features: what they read, as `Searcher.search` takes it.
        references: of the same photographs, raw captions.
        beams, length_penalties: of searches for the most probable caption; a beam of 1 has no use
            for a penalty.
        consensus: tried as well, in several inverse temperatures, on a wide beam; None: not.
        progress: whether to draw a progress bar.

    Returns:
        Best CIDEr first. Columns `beam`, `length_penalty`, `inverse_temperature` (of the consensus,
        NaN without), one for each score, x100, and `seconds` that the search took, compiling
        included; all penalties of a beam take one search.
    """
    scorer, rows, beams = Scorer(references), [], list(beams)
    searches = len(beams) + (consensus is not None)

    def note(beam, penalty, inverse_temperature, best, begun):
        row = {"beam": beam, "length_penalty": penalty, "inverse_temperature": inverse_temperature}
        scores = scorer(captions_of(best, vocabulary))
        rows.append({**row, **scores, "seconds": searched - begun})

    with tqdm(
        total=searches * len(references), desc="searches", unit="photo", disable=not progress
    ) as bar:
        for beam in beams:
            begun, penalties = time.perf_counter(), length_penalties if beam > 1 else (1.0,)
            found = Searcher(decoders, beam).best_by_penalty(features, penalties, bar)
            searched = time.perf_counter()
            for penalty, best in zip(penalties, found, strict=True):
                note(beam, penalty, np.nan, best, begun)
        if consensus is not None:
            begun = time.perf_counter()
            found = Searcher(decoders, WIDE_BEAM, WIDE_PENALTY, WIDE_TOKENS).search(features, bar)
            searched = time.perf_counter()
            known = list(map(consensus.similarities, found))
            for inverse_temperature in INVERSE_TEMPERATURES:
                best = [
                    consensus.rank(hypotheses, inverse_temperature, similarities)[0]
                    for hypotheses, similarities in zip(found, known, strict=True)
                ]
                note(WIDE_BEAM, WIDE_PENALTY, inverse_temperature, best, begun)
    return pd.DataFrame(rows).sort_values("CIDEr", ascending=False, ignore_index=True)


def score_row(
    name: str, recipe: str, split: str, searcher: Searcher, captions: Sequence[str], references
) -> dict:
    """Scores captions and says what was scored: one row of `metrics.json`."""
    return {
        "name": name,
        "recipe": recipe,
        "split": split,
        "images": len(captions),
        "beam": searcher.beam,
        "length_penalty": searcher.length_penalty,
        "consensus": searcher.rank is not None,
        **_all_scores(captions, references),
    }


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
    (`utils.metrics.leave_one_out`): with fewer references everybody scores lower.
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


def evaluate_system(
    name: str,
    decoders: Sequence[keras.Model],
    vocabulary: Vocabulary,
    dev: Mapping[str, CaptionSet],
    test: Mapping[str, CaptionSet],
    *,
    beams: Iterable[int] = BEAMS,
    length_penalties: Sequence[float] = LENGTH_PENALTIES,
    seed: int = 42,
    kinds: Sequence[str] | None = None,
    consensus: Consensus | None = None,
) -> tuple[dict, list[str]]:
    """Chooses the search of a decoder, or of several together, on dev, and scores test with it.

    Args:
        name: of the row.
        decoders, vocabulary, beams, length_penalties, consensus: as `choose_search` takes them.
        dev, test: the split with each kind of features that the decoders read, "pooled" and
            "spatial".
        seed: of the resamples behind the intervals.
        kinds: which features each decoder reads, where these aren't its decoder's kind: those of a
            fine-tuned CNN.

    Returns:
        A row of `comparison.json`, and the captions of test. The row has the name, the kinds of the
        decoders, their weights, the chosen search, the scores of dev and test, x100, and the
        intervals of `bootstrap_intervals`.
    """
    kinds = kinds or [decoder_kind(decoder.name).features for decoder in decoders]

    def read(split):  # as a searcher takes it
        arrays = [split[kind].features for kind in kinds]
        return arrays if len(arrays) > 1 else arrays[0]

    known = (decoders, vocabulary, read(dev), dev[kinds[0]].references)
    options = {"beams": beams, "length_penalties": length_penalties, "consensus": consensus}
    chosen = choose_search(*known, **options).iloc[0]
    search = SearchSettings.from_row(chosen)
    best = search.searcher(decoders, consensus).best(read(test), progress=True)
    captions, references = captions_of(best, vocabulary), test[kinds[0]].references
    row = {
        "name": name,
        "decoders": [decoder.name for decoder in decoders],
        "parameters": sum(decoder.count_params() for decoder in decoders),
        "beam": search.beam,
        "length_penalty": search.length_penalty,
        "inverse_temperature": search.inverse_temperature,
        "dev": {score: float(chosen[score]) for score in chosen.index[3:-1]},
        "test": _all_scores(captions, references),
        "intervals": bootstrap_intervals(captions, references, seed=seed),
    }
    return row, captions


def bootstrap_intervals(
    captions: Sequence[str],
    references: Sequence[Sequence[str]],
    rounds: int = 1000,
    seed: int = 42,
) -> dict[str, tuple[float, float]]:
    """Bootstrap 95 % confidence intervals of the scores of a set of photographs.

    As many photographs are drawn from the set as it has, with replacement, `rounds` times, and each
    draw is scored (Koehn 2004, "Statistical significance tests for machine translation
    evaluation"). That tells what the choice of photographs does, not what another seed would.

    Returns:
        {"CIDEr": (low, high), "BLEU-4": (low, high)}, x100. A photograph's CIDEr stays what it is
        in the whole set, which gives the n-grams their weights.
    """
    return {
        score: tuple(np.percentile(values, [2.5, 97.5]).tolist())
        for score, values in _resampled_scores(captions, references, rounds, seed).items()
    }


def paired_bootstrap(
    captions: Sequence[str],
    others: Sequence[str],
    references: Sequence[Sequence[str]],
    rounds: int = 1000,
    seed: int = 42,
) -> dict[str, float]:
    """Says in what share of the draws `captions` score higher than `others`; a tie counts half.

    Both are scored on the same photographs in each draw (Koehn 2004), so a difference can be sure
    where the two intervals of `bootstrap_intervals` overlap. 0.95 or more is commonly asked for.

    Returns:
        {"CIDEr": share, "BLEU-4": share} in [0, 1]; equal captions get 0.5.
    """
    left, right = (_resampled_scores(one, references, rounds, seed) for one in (captions, others))
    return {
        score: float(np.mean((left[score] > right[score]) + 0.5 * (left[score] == right[score])))
        for score in left
    }


def _all_scores(captions: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    scores = score_captions(captions, references)
    if (java_score := meteor(captions, references)) is not None:
        scores["METEOR"] = java_score
    return scores


def _resampled_scores(captions, references, rounds: int, seed: int) -> dict[str, np.ndarray]:
    """Scores of each draw, `(rounds,)`: both are sums over photographs, or made from such sums."""
    scorer = Scorer(references)
    candidates = [tokenize(caption) for caption in captions]
    cider, counts = scorer.cider.scores(candidates), bleu_counts(candidates, scorer.references)
    count = len(candidates)
    times_drawn = np.random.default_rng(seed).multinomial(count, [1 / count] * count, size=rounds)
    return {
        "CIDEr": times_drawn @ cider / count,
        "BLEU-4": bleu_of_counts(times_drawn @ counts)[:, -1],
    }
