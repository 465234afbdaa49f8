"""Search: the best caption a decoder can find, greedily or with a beam, for many photographs."""

from collections.abc import Sequence
from dataclasses import dataclass

import keras
import numpy as np
from keras import ops
from tqdm import tqdm

from utils.captions import END, PAD, START, UNKNOWN
from utils.decoder import SearchModels, search_models

MAX_TOKENS = 30  # longer captions are one in a thousand on Flickr8k
_NEVER = -1e9  # log-probability of what must not be chosen; finite, so that sums stay finite


@dataclass(frozen=True)
class Hypothesis:
    """A caption that search found.

    Attributes:
        numbers: its tokens without START and END.
        log_probability: natural logarithm of the caption's probability, END included if finished.
        score: the log-probability divided by (tokens + 1) ** length_penalty; search maximises it.
        finished: whether it came to an END.
    """

    numbers: tuple[int, ...]
    log_probability: float
    score: float
    finished: bool


class BeamStep(keras.Model):
    """One step of beam search for a batch of photographs, compiled as a whole.

    It asks the decoder for the next word of every beam, and keeps the best `beam` extensions of
    each photograph. `n` photographs with `beam` beams are `n * beam` rows of the decoder's states.
    """

    def __init__(self, step: keras.Model, beam: int, **kwargs):
        super().__init__(**kwargs)
        self.step = step
        self.beam = beam

    def call(self, inputs):
        """Extends every hypothesis by a word.

        Args:
            inputs: {"token": (n * beam, 1), "total": (n, beam) log-probability so far,
                **states of the decoder (n * beam, …)}.

        Returns:
            The same names after the step, and "parent": (n, beam), the beam each one grew from.
        """
        states = {name: value for name, value in inputs.items() if name != "total"}
        outputs = dict(self.step(states))
        logits = outputs.pop("logits")
        vocabulary_size = logits.shape[-1]
        forbidden = np.zeros(vocabulary_size, "float32")
        forbidden[[PAD, START, UNKNOWN]] = _NEVER
        # Forbidden after the softmax: a caption's score stays the decoder's own probability of it.
        log_probabilities = ops.log_softmax(logits, axis=-1) + forbidden

        totals = ops.reshape(inputs["total"], (-1, self.beam, 1)) + ops.reshape(
            log_probabilities, (-1, self.beam, vocabulary_size)
        )
        totals = ops.reshape(totals, (-1, self.beam * vocabulary_size))
        total, choice = ops.top_k(totals, self.beam)  # (n, beam), best first
        parent = choice // vocabulary_size
        token = choice % vocabulary_size

        first_row = ops.expand_dims(ops.arange(ops.shape(parent)[0]) * self.beam, 1)
        rows = ops.reshape(ops.cast(first_row, parent.dtype) + parent, (-1,))
        grown = {name: ops.take(value, rows, axis=0) for name, value in outputs.items()}
        return {"token": ops.reshape(token, (-1, 1)), "total": total, "parent": parent, **grown}


class Searcher:
    """Finds captions with one decoder; keeps its compiled step, so make it once and use it often.

    Args:
        model: a decoder from `utils.decoder`.
        beam: hypotheses kept per photograph; 1 is greedy search.
        length_penalty: exponent of the length that a log-probability is divided by. 0 prefers short
            captions, 1 compares the mean per token.
        max_tokens: where search gives up on a hypothesis.
        batch_size: photographs searched at once.
    """

    def __init__(
        self,
        model: keras.Model,
        beam: int = 3,
        length_penalty: float = 1.0,
        max_tokens: int = MAX_TOKENS,
        batch_size: int = 128,
    ):
        if beam < 1 or max_tokens < 1:
            raise ValueError(
                f"beam is {beam} and max_tokens {max_tokens}; expected 1 or more of both."
            )
        models: SearchModels = search_models(model)
        self.beam = beam
        self.length_penalty = length_penalty
        self.max_tokens = max_tokens
        self.batch_size = batch_size
        self._start = models.start
        self._step = BeamStep(models.step, beam)

    def search(self, features: np.ndarray, progress: bool = False) -> list[list[Hypothesis]]:
        """Returns up to `beam` different hypotheses for each photograph, best first.

        Args:
            features: `(n, …)`, one row per photograph as the decoder was trained on.
            progress: whether to draw a progress bar.
        """
        found = []
        starts = range(0, len(features), self.batch_size)
        for start in tqdm(starts, desc="captions", unit="batch", disable=not progress):
            batch = np.asarray(features[start : start + self.batch_size])
            missing = self.batch_size - len(batch) if start else 0  # a second shape would compile
            padded = np.concatenate([batch, np.repeat(batch[-1:], missing, axis=0)])
            found += self._search_batch(padded)[: len(batch)]
        return found

    def best(self, features: np.ndarray, progress: bool = False) -> list[Hypothesis]:
        """Returns the best hypothesis for each row of `features`."""
        return [hypotheses[0] for hypotheses in self.search(features, progress)]

    def _search_batch(self, features: np.ndarray) -> list[list[Hypothesis]]:
        count, beam = len(features), self.beam
        states = self._start.predict_on_batch(features)
        states = {name: np.repeat(value, beam, axis=0) for name, value in states.items()}
        total = np.full((count, beam), _NEVER, "float32")
        total[:, 0] = 0.0  # all beams start equal: only the first may grow at the first step
        token = np.full((count * beam, 1), START, "int32")
        prefixes = np.zeros((count, beam, 0), "int32")
        finished: list[list[Hypothesis]] = [[] for _ in range(count)]
        photos = np.arange(count)[:, None]

        for length in range(self.max_tokens + 1):  # one step more, for the END of the longest
            outputs = self._step.predict_on_batch({"token": token, "total": total, **states})
            token, new_total = outputs.pop("token"), np.array(outputs.pop("total"))
            grown_from = prefixes[photos, outputs.pop("parent")]
            states |= outputs
            words = token.reshape(count, beam)
            ends = (words == END) & (new_total > _NEVER / 2)
            for photo, place in np.argwhere(ends):
                finished[photo].append(
                    self._hypothesis(grown_from[photo, place], new_total[photo, place], True)
                )
            if length == self.max_tokens:
                break  # what is still growing stays without the word that is one too many
            total = np.where(words == END, np.float32(_NEVER), new_total)
            prefixes = np.concatenate([grown_from, words[:, :, None]], axis=2)
            if not any(map(self._can_improve, finished, total)):
                break
        return [
            self._ranked(finished[photo], prefixes[photo], total[photo]) for photo in range(count)
        ]

    def _hypothesis(self, numbers: np.ndarray, total: float, finished: bool) -> Hypothesis:
        score = float(total) / (len(numbers) + 1) ** self.length_penalty
        return Hypothesis(tuple(numbers.tolist()), float(total), score, finished)

    def _can_improve(self, finished: list[Hypothesis], total: np.ndarray) -> bool:
        """Whether a hypothesis still growing can come to be among the best `beam` finished ones."""
        best = total.max()
        if best <= _NEVER / 2:
            return False
        if len(finished) < self.beam:
            return True
        worst = sorted((hypothesis.score for hypothesis in finished), reverse=True)[self.beam - 1]
        return best / (self.max_tokens + 1) ** self.length_penalty > worst

    def _ranked(self, finished, prefixes, total) -> list[Hypothesis]:
        ranked = sorted(finished, key=lambda hypothesis: -hypothesis.score)[: self.beam]
        if ranked:
            return ranked
        # No hypothesis came to an END: the growing ones are better than no caption.
        growing = [
            self._hypothesis(prefixes[place], total[place], False)
            for place in range(self.beam)
            if total[place] > _NEVER / 2
        ]
        return sorted(growing, key=lambda hypothesis: -hypothesis.score)


def captions_of(hypotheses: Sequence[Hypothesis], vocabulary) -> list[str]:
    """Spells out hypotheses as captions, words joined by spaces."""
    return [" ".join(vocabulary.decode(hypothesis.numbers)) for hypothesis in hypotheses]
