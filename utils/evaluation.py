"""Judging a decoder: the search is chosen on dev, and test is scored once beside its controls."""

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain

import keras
import numpy as np
import pandas as pd

from utils.batches import CaptionSet
from utils.captions import Vocabulary
from utils.decoder import decoder_kind
from utils.metrics import (
    Cider,
    bleu_counts,
    bleu_of_counts,
    meteor,
    score_captions,
    tokenize,
)
from utils.search import (
    INVERSE_TEMPERATURES,
    WIDE_BEAM,
    WIDE_PENALTY,
    WIDE_TOKENS,
    Consensus,
    Hypothesis,
    Searcher,
    captions_of,
)


def try_searches(
    decoder: keras.Model,
    vocabulary: Vocabulary,
    dev: CaptionSet,
    beams: Iterable[int] = (1, 3, 5),
    length_penalties: Sequence[float] = (0.5, 0.7, 1.0, 1.3),
    consensus: Consensus | None = None,
) -> pd.DataFrame:
    """Scores a split with every beam and length penalty; a beam of 1 has no use for a penalty.

    Args:
        decoder, vocabulary, dev: what searches, and where.
        beams, length_penalties: of searches for the most probable caption.
        consensus: tried as well, in several inverse_temperatures, on a wide beam; None: not.

    Returns:
        Columns `beam`, `length_penalty`, `inverse_temperature` (of the consensus, NaN without) and
        one for each score, x100; best CIDEr first.
    """
    known = (vocabulary, dev.features, dev.references)
    tried = _try(_searchers(decoder, beams).values(), *known, length_penalties)
    if consensus is not None:
        tried += _try_consensus(wide_searcher(decoder), *known, consensus)
    return _best_first(tried)


def wide_searcher(decoder: keras.Model | Sequence[keras.Model]) -> Searcher:
    """A searcher whose hypotheses are for a consensus to rank."""
    return Searcher(decoder, WIDE_BEAM, WIDE_PENALTY, WIDE_TOKENS)


def try_beams(
    decoder: keras.Model,
    vocabulary: Vocabulary,
    dev: CaptionSet,
    beams: Iterable[int] = (1, 2, 3, 5, 10),
    length_penalty: float = 1.0,
) -> pd.DataFrame:
    """Scores a split with beams of several sizes, and measures what each costs.

    Returns:
        Columns `beam`, `CIDEr`, `BLEU-4` (x100), and `seconds` of search for a photograph.
    """
    rows = []
    for beam, searcher in _searchers(decoder, beams).items():
        searcher.length_penalty = length_penalty
        searcher.best(dev.features[: searcher.batch_size])  # compiles, which is not to be measured
        begun = time.perf_counter()
        best = searcher.best(dev.features)
        seconds = (time.perf_counter() - begun) / len(best)
        scores = score_captions(captions_of(best, vocabulary), dev.references)
        rows.append({"beam": beam, **scores, "seconds": seconds})
    return pd.DataFrame(rows)[["beam", "CIDEr", "BLEU-4", "seconds"]]


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
    beams: Iterable[int] = (5,),
    length_penalties: Sequence[float] = (0.7, 1.0),
    seed: int = 42,
    kinds: Sequence[str] | None = None,
    consensus: Consensus | None = None,
) -> tuple[dict, list[str]]:
    """Chooses the search of a decoder, or of several together, on dev, and scores test with it.

    Args:
        name: of the row.
        decoders: one, or several that share the vocabulary and then say each word together.
        vocabulary: theirs.
        dev, test: the split with each kind of features that the decoders read, "pooled" and
            "spatial".
        beams, length_penalties: to choose from.
        seed: of the resamples behind the intervals.
        kinds: which features each decoder reads, where these aren't its decoder's kind: those of a
            fine-tuned CNN.
        consensus: tried on dev as well; None: not.

    Returns:
        A row of `comparison.json`, and the captions of test. The row has the name, the kinds of the
        decoders, their weights, the chosen search, the scores of dev and test, x100, and the
        intervals of `bootstrap_intervals`.
    """
    kinds = kinds or [decoder_kind(decoder.name).features for decoder in decoders]

    def read(split):  # as a searcher takes it
        arrays = [split[kind].features for kind in kinds]
        return arrays if len(arrays) > 1 else arrays[0]

    searchers = _searchers(decoders, beams)
    known = (vocabulary, read(dev), dev[kinds[0]].references)
    tried = _try(searchers.values(), *known, length_penalties)
    if consensus is not None:
        wide = wide_searcher(decoders)
        tried += _try_consensus(wide, *known, consensus)
    chosen = _best_first(tried).iloc[0]
    if np.isnan(chosen["inverse_temperature"]):
        searcher = searchers[chosen["beam"]]
        searcher.length_penalty = float(chosen["length_penalty"])
    else:
        searcher = wide
        searcher.rank = consensus.with_inverse_temperature(
            float(chosen["inverse_temperature"])
        ).rank
    captions = captions_of(searcher.best(read(test)), vocabulary)
    references = test[kinds[0]].references
    row = {
        "name": name,
        "decoders": [decoder.name for decoder in decoders],
        "parameters": sum(decoder.count_params() for decoder in decoders),
        "beam": searcher.beam,
        "length_penalty": searcher.length_penalty,
        "inverse_temperature": None
        if searcher.rank is None
        else float(chosen["inverse_temperature"]),
        "dev": {score: float(chosen[score]) for score in chosen.index[3:]},
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
    """Says between which scores 95 % of the test sets lie that these photographs could have been.

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


def _searchers(decoder, beams: Iterable[int]) -> dict[int, Searcher]:
    """A searcher for each beam. Each compiles models of its own, and TensorFlow warns of that."""
    logging.getLogger("tensorflow").addFilter(_is_not_about_tracing)
    return {beam: Searcher(decoder, beam) for beam in beams}


def _is_not_about_tracing(record: logging.LogRecord) -> bool:
    return "triggered tf.function retracing" not in record.getMessage()


def _try(
    searchers: Iterable[Searcher], vocabulary, features, references, length_penalties
) -> list[dict]:
    """Scores the most probable captions of every search."""
    rows = []
    for searcher in searchers:
        for length_penalty in length_penalties if searcher.beam > 1 else (1.0,):
            searcher.length_penalty = length_penalty
            captions = captions_of(searcher.best(features), vocabulary)
            row = {
                "beam": searcher.beam,
                "length_penalty": length_penalty,
                "inverse_temperature": np.nan,
            }
            rows.append({**row, **score_captions(captions, references)})
    return rows


def _try_consensus(
    searcher: Searcher, vocabulary, features, references, consensus: Consensus
) -> list[dict]:
    """Scores the consensus in every inverse_temperature; the hypotheses are searched for once."""
    found = searcher.search(features)
    rows = []
    for inverse_temperature in INVERSE_TEMPERATURES:
        rank = consensus.with_inverse_temperature(inverse_temperature).rank
        captions = captions_of([rank(hypotheses)[0] for hypotheses in found], vocabulary)
        row = {"beam": searcher.beam, "length_penalty": searcher.length_penalty}
        row["inverse_temperature"] = inverse_temperature
        rows.append({**row, **score_captions(captions, references)})
    return rows


def _best_first(rows: list[dict]) -> pd.DataFrame:
    return pd.DataFrame(rows).sort_values("CIDEr", ascending=False, ignore_index=True)


def _all_scores(captions: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    scores = score_captions(captions, references)
    if (java_score := meteor(captions, references)) is not None:
        scores["METEOR"] = java_score
    return scores


def _resampled_scores(captions, references, rounds: int, seed: int) -> dict[str, np.ndarray]:
    """Scores of each draw, `(rounds,)`: both are sums over photographs, or made from such sums."""
    candidates = [tokenize(caption) for caption in captions]
    reference_tokens = [[tokenize(caption) for caption in group] for group in references]
    cider = Cider(reference_tokens).scores(candidates)
    counts = bleu_counts(candidates, reference_tokens)
    count = len(candidates)
    times_drawn = np.random.default_rng(seed).multinomial(count, [1 / count] * count, size=rounds)
    return {
        "CIDEr": times_drawn @ cider / count,
        "BLEU-4": bleu_of_counts(times_drawn @ counts)[:, -1],
    }
