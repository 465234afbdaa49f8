"""The original recipe as it is described in its many tutorials, written again: what ours is
measured against. Nothing else in the project uses it."""

from collections.abc import Iterator, Sequence

import keras
import numpy as np
from keras import layers

from utils.captions import END, START


def build(vocabulary_size: int, length: int, width: int, units: int = 256) -> keras.Model:
    """Builds the merge model that says the next word of one prefix.

    Returns:
        A compiled model `[features (n, width), prefixes (n, length) int32] -> probabilities
        (n, vocabulary_size)`.
    """
    features = keras.Input((width,))
    image = layers.Dropout(0.5)(features)
    image = layers.Dense(units, activation="relu")(image)
    prefix = keras.Input((length,), dtype="int32")
    words = layers.Embedding(vocabulary_size, units, mask_zero=True)(prefix)
    words = layers.Dropout(0.5)(words)
    text = layers.LSTM(units)(words)
    hidden = layers.Dense(units, activation="relu")(layers.add([image, text]))
    model = keras.Model([features, prefix], layers.Dense(vocabulary_size, "softmax")(hidden))
    model.compile("adam", "categorical_crossentropy")
    return model


def steps(
    features: np.ndarray,
    captions: Sequence[Sequence[Sequence[int]]],
    length: int,
    vocabulary_size: int,
) -> Iterator[tuple]:
    """Yields one step after the other: all prefixes of one photograph's captions.

    Args:
        features: `(photographs, width)`.
        captions: for each photograph its captions, each a list of tokens from START to END.
        length: what prefixes are padded to, on the left.
        vocabulary_size: length of the one-hot targets.
    """
    for image, group in zip(features, captions, strict=True):
        prefixes, targets = [], []
        for caption in group:
            for place in range(1, len(caption)):
                prefixes.append(caption[:place])
                targets.append(caption[place])
        padded = keras.utils.pad_sequences(prefixes, maxlen=length, padding="pre")
        one_hot = keras.utils.to_categorical(targets, vocabulary_size)
        yield (np.repeat(image[None], len(prefixes), axis=0), padded), one_hot


def describe(
    model: keras.Model, image: np.ndarray, length: int, beam: int = 1, max_tokens: int = 30
) -> list[int]:
    """Finds a caption of one photograph, with one `model.predict` of whole prefixes a word.

    Args:
        model: from `build`.
        image: `(width,)`, the features of the photograph.
        length: what prefixes are padded to.
        beam: hypotheses kept.

    Returns:
        The tokens between START and END of the best hypothesis by the mean of its log-probability.
    """
    growing, finished = [(0.0, [START])], []
    for _ in range(max_tokens):
        prefixes = keras.utils.pad_sequences(
            [tokens for _, tokens in growing], maxlen=length, padding="pre"
        )
        images = np.repeat(image[None], len(growing), axis=0)
        probabilities = model.predict([images, prefixes], verbose=0)
        extended = [
            (total + float(np.log(row[token] + 1e-12)), [*tokens, int(token)])
            for (total, tokens), row in zip(growing, probabilities, strict=True)
            for token in np.argsort(row)[-beam:]
        ]
        extended.sort(key=lambda one: -one[0])
        finished += [one for one in extended[:beam] if one[1][-1] == END]
        growing = [one for one in extended[:beam] if one[1][-1] != END]
        if not growing or len(finished) >= beam:
            break
    _, best = max(finished or growing, key=lambda one: one[0] / (len(one[1]) - 1))
    return [token for token in best[1:] if token != END]
