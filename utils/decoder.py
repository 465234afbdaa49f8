"""Decoders: the merge model, as one training model and the models that search steps through.

A decoder is a functional Keras model `(features, tokens) -> logits`. It is trained on whole
captions at once, with the true caption as input (teacher forcing). `search_models` takes the same
layers and joins them anew, so that a caption can be made word by word; no weight exists twice.

No Keras mask is used: captions are padded on the right and an LSTM only looks back, so padding
can't reach a real token, and the loss leaves it out.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import keras
import numpy as np

from utils.errors import SettingsError


@dataclass(frozen=True)
class SearchModels:
    """What search needs of a decoder.

    Attributes:
        start: `features (n, …) -> {name: (n, …)}`, run once per photograph: what the step model is
            fed beside the token.
        step: `{"token": (n, 1) int32, **states} -> {"logits": (n, vocabulary), **states}`. A state
            that comes back replaces the old one; one that doesn't come back stays as it is.
    """

    start: keras.Model
    step: keras.Model


def build_merge(
    vocabulary_size: int,
    feature_shape: Sequence[int],
    embedding_units: int = 256,
    units: int = 256,
    image_dropout: float = 0.5,
    text_dropout: float = 0.5,
    output_dropout: float = 0.0,
) -> keras.Model:
    """Builds the merge decoder: the image joins after the LSTM, which reads words only.

    The defaults are the published recipe. After Tanti, Gatt and Camilleri (2018), "Where to put the
    image in an image caption generator". Features are standardised inside the model (see
    `standardise`), since encoders differ in scale by a factor of a million.

    Args:
        feature_shape: `(d,)`, the shape of one photograph's pooled features.

    Returns:
        A model `[features (n, d), tokens (n, length)] -> logits (n, length, vocabulary) float32`.

    Raises:
        SettingsError: the features are not pooled.
    """
    if len(feature_shape) != 1:
        raise SettingsError(
            f"The merge decoder was given features of shape {tuple(feature_shape)}; it expects "
            "pooled features (d,). Extract them with kind='pooled'."
        )
    layers = keras.layers
    features = keras.Input(tuple(feature_shape), name="features")
    tokens = keras.Input((None,), dtype="int32", name="tokens")

    image = layers.Normalization(name="standardise")(features)
    image = layers.Dropout(image_dropout, name="image_dropout")(image)
    image = layers.Dense(units, activation="relu", name="image")(image)
    image = layers.Reshape((1, units), name="image_for_every_word")(image)

    words = layers.Embedding(vocabulary_size, embedding_units, name="embedding")(tokens)
    words = layers.Dropout(text_dropout, name="text_dropout")(words)
    lstm = layers.LSTM(units, return_sequences=True, return_state=True, name="lstm")
    text, _, _ = lstm(words)

    merged = layers.Add(name="merge")([image, text])
    merged = layers.Dense(units, activation="relu", name="hidden")(merged)
    merged = layers.Dropout(output_dropout, name="output_dropout")(merged)
    logits = layers.Dense(vocabulary_size, dtype="float32", name="logits")(merged)
    return keras.Model([features, tokens], logits, name="merge")


def merge_search_models(model: keras.Model) -> SearchModels:
    """Joins a merge decoder's layers for search; the image is projected once per photograph."""
    layer = model.get_layer
    features = keras.Input(model.input_shape[0][1:], name="features")
    image = layer("image")(layer("standardise")(features))
    zeros = keras.ops.zeros_like(image)
    start = keras.Model(features, {"image": image, "lstm_hidden": zeros, "lstm_cell": zeros})

    units = layer("lstm").units
    token = keras.Input((1,), dtype="int32", name="token")
    image = keras.Input((units,), name="image")
    hidden = keras.Input((units,), name="lstm_hidden")
    cell = keras.Input((units,), name="lstm_cell")
    text, new_hidden, new_cell = layer("lstm")(
        layer("embedding")(token), initial_state=[hidden, cell]
    )
    merged = layer("merge")([layer("image_for_every_word")(image), text])
    logits = layer("logits")(layer("hidden")(merged))
    step = keras.Model(
        {"token": token, "image": image, "lstm_hidden": hidden, "lstm_cell": cell},
        {"logits": keras.ops.squeeze(logits, 1), "lstm_hidden": new_hidden, "lstm_cell": new_cell},
    )
    return SearchModels(start, step)


@dataclass(frozen=True)
class DecoderKind:
    """How one kind of decoder is built, and which features it reads ("pooled" or "spatial")."""

    build: Callable[..., keras.Model]
    search_models: Callable[[keras.Model], SearchModels]
    features: str


DECODERS = {"merge": DecoderKind(build_merge, merge_search_models, "pooled")}


def decoder_kind(name: str) -> DecoderKind:
    """Returns the decoder called `name`; `SettingsError` lists the known ones otherwise."""
    if name not in DECODERS:
        raise SettingsError(f"DECODER is {name!r}; expected one of {', '.join(DECODERS)}.")
    return DECODERS[name]


def search_models(model: keras.Model) -> SearchModels:
    """Returns the search models of a decoder that was built or loaded here, by its name."""
    return decoder_kind(model.name).search_models(model)


def standardise(model: keras.Model, features: np.ndarray) -> None:
    """Sets the decoder's `standardise` layer to mean and deviation of `features` `(n, …, d)`.

    Give the training split's features only: the others are not known before the model is used.
    """
    model.get_layer("standardise").adapt(np.asarray(features))
