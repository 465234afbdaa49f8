"""Consensus: of the captions that search found, the one that the others agree with most.

The most probable caption is a safe one: it says little, so that little of it can be wrong. What a
decoder believes is spread over many captions that say nearly the same. Here each caption of a wide
beam is scored by CIDEr against all the others, each of which counts as much as it is probable, and
the one with the highest expected score is taken (minimum Bayes risk decoding, Kumar and Byrne 2004;
with CIDEr among captions of a beam, Devlin et al. 2015, "Exploring nearest neighbor approaches for
image captioning").
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path

import numpy as np

from utils.captions import Vocabulary
from utils.files import atomic_path, require
from utils.metrics import MAX_ORDER, Cider, all_ngrams
from utils.search import Hypothesis

_ABSENT = -1  # fills up the rows of shorter n-grams in the file


class Consensus:
    """Ranks hypotheses by how much the others agree with them.

    Args:
        frequencies: in how many photographs' captions an n-gram of tokens occurs, for those in two
            or more.
        photographs: of how many.
        sharpness: exponent of the hypotheses' probabilities: 0 lets all count the same, 1 as much
            as they are probable.
    """

    def __init__(self, frequencies: dict, photographs: int, sharpness: float = 0.2):
        self.frequencies = frequencies
        self.photographs = photographs
        self.sharpness = sharpness

    @classmethod
    def of(cls, captions: Iterable[Sequence[Sequence[str]]], vocabulary: Vocabulary) -> "Consensus":
        """Counts n-grams of a training split: for each photograph the tokens of its captions."""
        counted, photographs = Counter(), 0
        for group in captions:
            numbers = [vocabulary.encode(tokens)[1:-1] for tokens in group]  # no START, no END
            counted.update(set(chain.from_iterable(map(all_ngrams, numbers))))
            photographs += 1
        frequencies = {ngram: count for ngram, count in counted.items() if count > 1}
        return cls(frequencies, photographs)

    def sharpened(self, sharpness: float) -> "Consensus":
        """The same counts with another sharpness."""
        return Consensus(self.frequencies, self.photographs, sharpness)

    def rank(self, hypotheses: Sequence[Hypothesis]) -> list[Hypothesis]:
        """Orders the hypotheses of a photograph, the one that the others agree with most first."""
        if len(hypotheses) < 3:  # two agree with each other as much
            return list(hypotheses)
        totals = np.array([hypothesis.log_probability for hypothesis in hypotheses])
        weights = np.exp(self.sharpness * (totals - totals.max()))
        agreement = self._similarities([hypothesis.numbers for hypothesis in hypotheses]) @ (
            weights / weights.sum()
        )
        return [hypotheses[place] for place in np.argsort(-agreement, kind="stable")]

    def _similarities(self, captions: Sequence[Sequence[int]]) -> np.ndarray:
        """CIDEr-D of each caption (rows) against each as its only reference (columns), 0 to 10."""
        counts = [all_ngrams(caption) for caption in captions]
        columns = {ngram: place for place, ngram in enumerate(dict.fromkeys(chain(*counts)))}
        rarity = np.log(self.photographs) - np.log(
            [self.frequencies.get(ngram, 1) for ngram in columns] or [1]
        )
        orders = np.array([len(ngram) for ngram in columns])
        vectors = np.zeros((len(captions), len(columns)))
        for row, count in enumerate(counts):
            for ngram, times in count.items():
                vectors[row, columns[ngram]] = times * rarity[columns[ngram]]
        bigrams = np.array([max(len(caption) - 1, 0) for caption in captions])
        result = np.zeros((len(captions), len(captions)))
        for order in range(1, MAX_ORDER + 1):
            part = vectors[:, orders == order]
            norms = np.sqrt((part**2).sum(1))
            products = np.array([np.minimum(part, row) @ row for row in part]).T
            norms = norms[:, None] * norms
            result += np.divide(products, norms, out=np.zeros_like(products), where=norms > 0)
        gap = bigrams[:, None] - bigrams
        return 10 / MAX_ORDER * result * np.exp(-(gap**2) / (2 * Cider.SIGMA**2))

    def save(self, file: Path) -> None:
        """Writes what was counted as plain arrays, atomically; the sharpness is a setting."""
        ngrams = np.full((len(self.frequencies), MAX_ORDER), _ABSENT, "int32")
        for row, ngram in enumerate(self.frequencies):
            ngrams[row, : len(ngram)] = ngram
        counts = np.fromiter(self.frequencies.values(), "int32", len(self.frequencies))
        with atomic_path(file) as part, part.open("wb") as output:
            np.savez_compressed(
                output, ngrams=ngrams, counts=counts, photographs=np.int32(self.photographs)
            )

    @classmethod
    def load(cls, file: Path, sharpness: float = 0.2) -> "Consensus":
        """Reads what `save` wrote."""
        with np.load(require(file, "notebook 05_evaluate_captions"), allow_pickle=False) as kept:
            frequencies = {
                tuple(number for number in ngram if number != _ABSENT): count
                for ngram, count in zip(
                    kept["ngrams"].tolist(), kept["counts"].tolist(), strict=True
                )
            }
            return cls(frequencies, int(kept["photographs"]), sharpness)
