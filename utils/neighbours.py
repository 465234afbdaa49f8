"""Neighbours: the training photographs that look most like one; their captions can vote.

After Devlin et al. (2015), "Exploring Nearest Neighbor Approaches for Image Captioning".
"""

from itertools import chain

import numpy as np

from utils.batches import CaptionSet
from utils.captions import Vocabulary
from utils.search import Voters

COUNT = 20  # photographs; their captions are about 100
INVERSE_TEMPERATURE = 10.0  # of their likeness: a nearer one's captions count more


class Neighbours:
    """Finds for photographs those of the training split that the encoder sees most alike.

    Args:
        training: the training split, with pooled features `(n, width)`.
        vocabulary: that the decoder writes with.
    """

    def __init__(self, training: CaptionSet, vocabulary: Vocabulary):
        self._captions = [
            [tuple(vocabulary.encode(tokens)[1:-1]) for tokens in group]
            for group in training.tokens
        ]
        rooted = _root(training.features)
        self._mean = rooted.mean(axis=0)
        self._directions = self._directions_of(rooted)

    def likeness(self, features: np.ndarray) -> np.ndarray:
        """Cosine of photographs (rows) with those of the training split (columns), -1 to 1."""
        return self._directions_of(_root(features)) @ self._directions.T

    def voters(self, features: np.ndarray) -> list[Voters]:
        """Returns the captions of the nearest training photographs for each row of `features`."""
        found = []
        for likeness in self.likeness(features):
            nearest = np.argsort(-likeness, kind="stable")[:COUNT]
            weights = np.exp(INVERSE_TEMPERATURE * (likeness[nearest] - likeness[nearest[0]]))
            groups = [self._captions[photo] for photo in nearest]
            sizes = list(map(len, groups))
            weights = np.repeat(weights / sizes, sizes)
            found.append(Voters([*chain(*groups)], weights / weights.sum()))
        return found

    def _directions_of(self, rooted: np.ndarray) -> np.ndarray:
        centred = rooted - self._mean
        return centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)


def _root(features: np.ndarray) -> np.ndarray:
    """Square roots, with their sign: otherwise the few largest features would decide alone."""
    features = np.asarray(features, np.float32)
    return np.sign(features) * np.sqrt(np.abs(features))
