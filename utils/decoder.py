"""Decoders: three ways to let an LSTM say what a CNN saw, behind one interface.

- `merge`: the LSTM reads words only, and the image joins behind it (the original recipe).
- `inject`: the image starts the LSTM, as if it were the first word.
- `attention`: before each word the decoder looks anew at the regions of the photograph.

A decoder is a functional Keras model `(features, tokens) -> logits`, trained on whole captions at
once with the true caption as input (teacher forcing). A photograph comes with all its captions of a
batch, `(n, captions, length)`, and what is computed of it serves them all. `search_models` takes
the same layers and joins them anew, so that a caption can be made word by word; no weight exists
twice.

No Keras mask is used: captions are padded on the right and an LSTM only looks back, so padding
can't reach a real token, and the loss leaves it out.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import keras
import numpy as np
from keras import layers, ops

from utils.machinery.errors import SettingsError

# Layers


@keras.saving.register_keras_serializable("photograph_captions")
class WordEmbedding(keras.layers.Layer):
    """Turns tokens into vectors, and, with `reverse`, vectors into logits with the same weights.

    Sharing the weights between input and output (Press and Wolf 2017, "Using the output embedding
    to improve language models") leaves fewer to overfit, and trains rare words from both sides.

    Args:
        vocabulary_size: number of tokens.
        units: length of a token's vector.
        tied: whether the layer is used in reverse too; it then has a bias per token.
    """

    def __init__(self, vocabulary_size: int, units: int, tied: bool = False, **kwargs):
        super().__init__(**kwargs)
        self.vocabulary_size = vocabulary_size
        self.units = units
        self.tied = tied

    def build(self, input_shape):
        """Makes the weights; they are the same whatever the input's shape."""
        self.embeddings = self.add_weight(
            (self.vocabulary_size, self.units), initializer="uniform", name="embeddings"
        )
        if self.tied:
            self.bias = self.add_weight((self.vocabulary_size,), initializer="zeros", name="bias")

    def call(self, inputs, reverse=False):
        """`(…) int -> (…, units)`, or in reverse `(…, units) -> (…, vocabulary_size) float32`."""
        if reverse:
            return ops.cast(
                ops.matmul(inputs, ops.transpose(self.embeddings)) + self.bias, "float32"
            )
        # With tied weights, which are small for the sake of the logits, words would drown in what
        # is added to them, so they are scaled up (Vaswani et al. 2017). The product also makes the
        # gradient dense: of a plain lookup TensorFlow makes slices, in which a word that occurs
        # twice stands twice, and Adam squares them before it adds up.
        scale = self.units**0.5 if self.tied else 1.0
        return ops.take(self.embeddings * scale, inputs, axis=0)

    def get_config(self):
        """Returns what makes the same layer again."""
        own = {"vocabulary_size": self.vocabulary_size, "units": self.units, "tied": self.tied}
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable("photograph_captions")
class CaptionLSTM(keras.layers.Layer):
    """An LSTM over each of the `k` captions of each of the `n` photographs."""

    def __init__(self, units: int, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.lstm = keras.layers.LSTM(units, return_sequences=True, return_state=True, name="lstm")

    def build(self, words_shape, hidden_shape=None, cell_shape=None):
        """Makes the LSTM's weights from the length of a word's vector."""
        self.lstm.build((None, None, words_shape[-1]))

    def call(self, words, hidden=None, cell=None):
        """Reads words.

        Args:
            words: `(n, k, length, width)`.
            hidden, cell: where to start, `(n, k, units)`, or `(n, 1, units)` for all captions of a
                photograph; None starts from zeros.

        Returns:
            The hidden state after every word, `(n, k, length, units)`, and hidden and cell state
            after the last one, `(n, k, units)` each.
        """
        _, captions, length, width = ops.shape(words)
        state = None
        if hidden is not None:
            state = [
                ops.reshape(
                    ops.broadcast_to(one, (ops.shape(words)[0], captions, self.units)),
                    (-1, self.units),
                )
                for one in (hidden, cell)
            ]
        rows = ops.reshape(words, (-1, length, width))
        text, hidden, cell = self.lstm(rows, initial_state=state)
        return (
            ops.reshape(text, (-1, captions, length, self.units)),
            ops.reshape(hidden, (-1, captions, self.units)),
            ops.reshape(cell, (-1, captions, self.units)),
        )

    def get_config(self):
        """Returns what makes the same layer again."""
        return {**super().get_config(), "units": self.units}


@keras.saving.register_keras_serializable("photograph_captions")
class RegionAttention(keras.layers.Layer):
    """Looks at the regions of a photograph, at each as much as its key fits the word to come.

    Scaled dot products with several heads (Vaswani et al. 2017), and beside the regions a sentinel,
    which is made of the words so far: what the decoder looks at when the next word needs no look at
    the photograph (Lu et al. 2017, "Knowing when to look").

    Args:
        units: of keys and values; a multiple of `heads`.
        heads: parts of the vectors that look on their own.
    """

    def __init__(self, units: int, heads: int = 1, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.heads = heads
        self.query = keras.layers.Dense(units, name="query")
        self.sentinel = keras.layers.Dense(units, activation="tanh", name="sentinel")
        self.sentinel_key = keras.layers.Dense(units, name="sentinel_key")

    def build(self, text_shape, keys_shape, values_shape):
        """Makes the weights of the projections."""
        self.query.build(text_shape)
        self.sentinel.build(text_shape)
        self.sentinel_key.build((*text_shape[:-1], self.units))

    def call(self, text, keys, values):
        """Looks once for every word.

        Args:
            text: the LSTM's hidden state after each word, `(n, k, length, width)`.
            keys, values: of the regions, `(n, regions, units)`.

        Returns:
            What was seen, `(n, k, length, units)`, and where: `(n, k, length, regions)` in [0, 1],
            the mean of the heads. What is missing to 1 went to the sentinel.
        """
        _, captions, length, _ = ops.shape(text)
        regions = ops.shape(keys)[1]
        width = self.units // self.heads

        def heads_of(vectors, count):  # (n, count, units) -> (n, heads, count, width)
            split = ops.reshape(vectors, (-1, count, self.heads, width))
            return ops.transpose(split, (0, 2, 1, 3))

        words = captions * length
        sentinel = self.sentinel(text)
        query = heads_of(self.query(text), words) / width**0.5
        on_places = ops.matmul(query, ops.transpose(heads_of(keys, regions), (0, 1, 3, 2)))
        on_sentinel = ops.sum(
            query * heads_of(self.sentinel_key(sentinel), words), axis=-1, keepdims=True
        )
        weights = ops.softmax(ops.concatenate([on_places, on_sentinel], axis=-1), axis=-1)
        where = weights[..., :-1]  # (n, heads, words, regions)
        seen = ops.matmul(where, heads_of(values, regions))
        seen = seen + weights[..., -1:] * heads_of(sentinel, words)
        seen = ops.transpose(seen, (0, 2, 1, 3))
        return (
            ops.reshape(seen, (-1, captions, length, self.units)),
            ops.reshape(ops.mean(where, axis=1), (-1, captions, length, regions)),
        )

    def get_config(self):
        """Returns what makes the same layer again."""
        return {**super().get_config(), "units": self.units, "heads": self.heads}


# Decoders


@dataclass(frozen=True)
class SearchModels:
    """What search needs of a decoder.

    Attributes:
        start: `features (n, …) -> {name: …}`, run once per photograph. What the step model gives
            back is a state, `(n, 1, …)` here; the rest stays as it is, `(n, …)`.
        step: `{"token": (n, beam, 1) int32, **everything of start} -> {"logits": (n, beam,
            vocabulary), **states (n, beam, …)}`; with attention also `"attention": (n, beam,
            regions)`, where the decoder looked for this word.
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
    tied: bool = False,
) -> keras.Model:
    """Builds the merge decoder: the image joins after the LSTM, which reads words only.

    The defaults are the original recipe. After Tanti, Gatt and Camilleri (2018), "Where to put the
    image in an image caption generator". Features are standardised inside the model (see
    `standardise`), since encoders differ in scale by a factor of a million.

    Args:
        vocabulary_size: number of tokens.
        feature_shape: `(d,)`, the shape of one photograph's pooled features.
        embedding_units: length of a word's vector.
        units: of the LSTM, and of everything that is added to its output.
        image_dropout, text_dropout, output_dropout: share of the features, of the word vectors, and
            of the last hidden layer that is dropped in training.
        tied: whether the logits are made with the weights of the embedding.

    Returns:
        A model `[features (n, d), tokens (n, captions, length)] -> logits (n, captions, length,
        vocabulary) float32`.

    Raises:
        SettingsError: the features are not pooled.
    """
    features, tokens = _inputs(feature_shape, "merge", regions=False)
    image = layers.Normalization(name="standardise")(features)
    image = layers.Dropout(image_dropout, name="image_dropout")(image)
    image = layers.Dense(units, activation="relu", name="image")(image)
    image = layers.Reshape((1, 1, units), name="image_for_every_word")(image)

    embedding = WordEmbedding(vocabulary_size, embedding_units, tied, name="embedding")
    words = layers.Dropout(text_dropout, name="text_dropout")(embedding(tokens))
    text, _, _ = CaptionLSTM(units, name="lstm")(words)
    merged = layers.Add(name="merge")([image, text])
    hidden = _hidden(merged, units, output_dropout)
    return keras.Model([features, tokens], _logits(hidden, embedding), name="merge")


def merge_search_models(model: keras.Model) -> SearchModels:
    """Joins a merge decoder's layers for search; the image is projected once per photograph."""
    layer = model.get_layer
    features = keras.Input(model.input_shape[0][1:], name="features")
    image = layer("image_for_every_word")(layer("image")(layer("standardise")(features)))
    zeros = layers.Reshape((1, -1))(keras.ops.zeros_like(image))
    start = keras.Model(features, {"image": image, "lstm_hidden": zeros, "lstm_cell": zeros})

    token, hidden, cell = _step_inputs(layer("lstm").units)
    image = keras.Input(image.shape[1:], name="image")
    text, new_hidden, new_cell = layer("lstm")(layer("embedding")(token), hidden, cell)
    logits = _logits_again(model, layer("hidden")(layer("merge")([image, text])))
    step = keras.Model(
        {"token": token, "image": image, "lstm_hidden": hidden, "lstm_cell": cell},
        {"logits": logits, "lstm_hidden": new_hidden, "lstm_cell": new_cell},
    )
    return SearchModels(start, step)


def build_inject(
    vocabulary_size: int,
    feature_shape: Sequence[int],
    embedding_units: int = 256,
    units: int = 256,
    image_dropout: float = 0.5,
    text_dropout: float = 0.5,
    output_dropout: float = 0.0,
    tied: bool = False,
) -> keras.Model:
    """Builds the inject decoder: the LSTM reads the image first, as if it were a word.

    After Vinyals et al. (2015), "Show and Tell". Arguments, result and error as `build_merge`.
    """
    features, tokens = _inputs(feature_shape, "inject", regions=False)
    image = layers.Normalization(name="standardise")(features)
    image = layers.Dropout(image_dropout, name="image_dropout")(image)
    image = layers.Dense(embedding_units, name="image")(image)
    image = layers.Reshape((1, 1, embedding_units), name="image_as_a_word")(image)

    lstm = CaptionLSTM(units, name="lstm")
    _, hidden, cell = lstm(image)
    embedding = WordEmbedding(vocabulary_size, embedding_units, tied, name="embedding")
    words = layers.Dropout(text_dropout, name="text_dropout")(embedding(tokens))
    text, _, _ = lstm(words, hidden, cell)
    hidden = _hidden(text, units, output_dropout)
    return keras.Model([features, tokens], _logits(hidden, embedding), name="inject")


def inject_search_models(model: keras.Model) -> SearchModels:
    """Joins an inject decoder's layers for search; the LSTM reads the image once."""
    layer = model.get_layer
    features = keras.Input(model.input_shape[0][1:], name="features")
    image = layer("image_as_a_word")(layer("image")(layer("standardise")(features)))
    _, hidden, cell = layer("lstm")(image)
    start = keras.Model(features, {"lstm_hidden": hidden, "lstm_cell": cell})

    token, hidden, cell = _step_inputs(layer("lstm").units)
    text, new_hidden, new_cell = layer("lstm")(layer("embedding")(token), hidden, cell)
    logits = _logits_again(model, layer("hidden")(text))
    step = keras.Model(
        {"token": token, "lstm_hidden": hidden, "lstm_cell": cell},
        {"logits": logits, "lstm_hidden": new_hidden, "lstm_cell": new_cell},
    )
    return SearchModels(start, step)


def build_attention(
    vocabulary_size: int,
    feature_shape: Sequence[int],
    embedding_units: int = 256,
    units: int = 256,
    image_dropout: float = 0.5,
    text_dropout: float = 0.5,
    output_dropout: float = 0.0,
    tied: bool = False,
    heads: int = 8,
) -> keras.Model:
    """Builds the attention decoder: before each word it looks at the regions of the photograph.

    The LSTM reads each word together with a glance at the whole photograph; its state asks the
    regions, and what was seen there joins it for the next word. After Lu et al. (2017), "Knowing
    when to look", with several heads. Arguments as `build_merge`, and `heads` of the attention.

    Args:
        feature_shape: `(g, g, d)`, the shape of one photograph's spatial features.

    Raises:
        SettingsError: the features are not spatial.
    """
    features, tokens = _inputs(feature_shape, "attention", regions=True)
    image = layers.Normalization(name="standardise")(features)
    image = layers.Dropout(image_dropout, name="image_dropout")(image)
    values = layers.Dense(units, activation="relu", name="regions")(image)
    values = layers.Reshape((-1, units), name="list_of_regions")(values)
    keys = layers.Dense(units, name="keys")(values)
    glance = layers.GlobalAveragePooling2D(name="mean_of_regions")(image)
    glance = layers.Dense(embedding_units, name="glance")(glance)
    glance = layers.Reshape((1, 1, embedding_units), name="glance_for_every_word")(glance)

    embedding = WordEmbedding(vocabulary_size, embedding_units, tied, name="embedding")
    words = layers.Add(name="word_and_glance")([embedding(tokens), glance])
    words = layers.Dropout(text_dropout, name="text_dropout")(words)
    text, _, _ = CaptionLSTM(units, name="lstm")(words)
    seen, _ = RegionAttention(units, heads, name="attention")(text, keys, values)
    merged = layers.Concatenate(name="text_and_seen")([text, seen])
    hidden = _hidden(merged, units, output_dropout)
    return keras.Model([features, tokens], _logits(hidden, embedding), name="attention")


def attention_search_models(model: keras.Model) -> SearchModels:
    """Joins an attention decoder's layers for search; regions are projected once per photograph."""
    layer = model.get_layer
    features = keras.Input(model.input_shape[0][1:], name="features")
    image = layer("standardise")(features)
    values = layer("list_of_regions")(layer("regions")(image))
    keys = layer("keys")(values)
    glance = layer("glance_for_every_word")(layer("glance")(layer("mean_of_regions")(image)))
    units = layer("lstm").units
    zeros = layers.Reshape((1, units))(keras.ops.zeros_like(keys[:, 0]))
    image = {"regions": values, "keys": keys, "glance": glance}
    start = keras.Model(features, {**image, "lstm_hidden": zeros, "lstm_cell": zeros})

    token, hidden, cell = _step_inputs(units)
    image = {name: keras.Input(value.shape[1:], name=name) for name, value in image.items()}
    word = layer("word_and_glance")([layer("embedding")(token), image["glance"]])
    text, new_hidden, new_cell = layer("lstm")(word, hidden, cell)
    seen, where = layer("attention")(text, image["keys"], image["regions"])
    logits = _logits_again(model, layer("hidden")(layer("text_and_seen")([text, seen])))
    step = keras.Model(
        {"token": token, **image, "lstm_hidden": hidden, "lstm_cell": cell},
        {
            "logits": logits,
            "attention": keras.ops.squeeze(where, 2),
            "lstm_hidden": new_hidden,
            "lstm_cell": new_cell,
        },
    )
    return SearchModels(start, step)


@dataclass(frozen=True)
class DecoderKind:
    """How one kind of decoder is built, and which features it reads ("pooled" or "spatial")."""

    build: Callable[..., keras.Model]
    search_models: Callable[[keras.Model], SearchModels]
    features: str


DECODERS = {
    "merge": DecoderKind(build_merge, merge_search_models, "pooled"),
    "inject": DecoderKind(build_inject, inject_search_models, "pooled"),
    "attention": DecoderKind(build_attention, attention_search_models, "spatial"),
}


def decoder_kind(name: str) -> DecoderKind:
    """Returns the decoder called `name`; `SettingsError` lists the known ones otherwise."""
    if name not in DECODERS:
        raise SettingsError(f"DECODER is {name!r}; expected one of {', '.join(DECODERS)}.")
    return DECODERS[name]


@dataclass(frozen=True)
class DecoderSettings:
    """All that a decoder is built from; kept with its weights (`utils.machinery.checkpoints`)."""

    name: str  # a key of DECODERS
    vocabulary_size: int
    feature_shape: tuple[int, ...]
    options: dict  # keyword arguments of the build function


def build_decoder(
    name: str, vocabulary_size: int, feature_shape: Sequence[int], **options
) -> keras.Model:
    """Builds the decoder called `name`; `model.settings` says what it was built from.

    Args:
        name: a key of `DECODERS`.
        vocabulary_size: number of tokens.
        feature_shape: of one photograph, `(d,)` pooled or `(g, g, d)` spatial.
        options: keyword arguments of its build function, such as `units`.

    Raises:
        SettingsError: the name is unknown, or the features are of the other kind.
    """
    model = decoder_kind(name).build(vocabulary_size, feature_shape, **options)
    model.settings = DecoderSettings(name, vocabulary_size, tuple(feature_shape), options)
    return model


def search_models(model: keras.Model) -> SearchModels:
    """Returns the search models of a decoder that was built or loaded here, by its name."""
    return decoder_kind(model.name).search_models(model)


def standardise(model: keras.Model, features: np.ndarray) -> None:
    """Sets the decoder's `standardise` layer to mean and deviation of `features` `(n, …, d)`.

    Give the training split's features only: the others are not known before the model is used.
    """
    layer = model.get_layer("standardise")
    total = squares = 0.0
    count = 0
    for start in range(0, len(features), 256):  # spatial features don't fit into memory as floats
        rows = np.asarray(features[start : start + 256], "float64").reshape(-1, features.shape[-1])
        total, squares, count = total + rows.sum(0), squares + (rows**2).sum(0), count + len(rows)
    mean = total / count
    variance = np.maximum(squares / count - mean**2, 0)
    layer.set_weights([mean, variance, np.array(count)])
    layer.finalize_state()


def _inputs(feature_shape: Sequence[int], decoder: str, regions: bool):
    if (len(feature_shape) == 3) != regions or len(feature_shape) not in (1, 3):
        wanted, kind = (
            ("spatial features (g, g, d)", "spatial")
            if regions
            else ("pooled features (d,)", "pooled")
        )
        raise SettingsError(
            f"The {decoder} decoder was given features of shape {tuple(feature_shape)}; it expects "
            f"{wanted}. Extract them with kind={kind!r}."
        )
    features = keras.Input(tuple(feature_shape), name="features")
    return features, keras.Input((None, None), dtype="int32", name="tokens")


def _hidden(merged, units: int, dropout: float):
    hidden = layers.Dense(units, activation="relu", name="hidden")(merged)
    return layers.Dropout(dropout, name="output_dropout")(hidden)


def _logits(hidden, embedding: WordEmbedding):
    if embedding.tied:
        # The hidden layer stays wide, and only its projection has the length of a word's vector:
        # dropout on that few numbers costs 5 points of CIDEr.
        return embedding(layers.Dense(embedding.units, name="word")(hidden), reverse=True)
    return layers.Dense(embedding.vocabulary_size, dtype="float32", name="logits")(hidden)


def _logits_again(model: keras.Model, hidden):
    """Logits of one word for each hypothesis, `(n, beam, vocabulary)`, by the model's own layer."""
    embedding = model.get_layer("embedding")
    if embedding.tied:
        logits = embedding(model.get_layer("word")(hidden), reverse=True)
    else:
        logits = model.get_layer("logits")(hidden)
    return keras.ops.squeeze(logits, 2)


def _step_inputs(units: int):
    token = keras.Input((None, 1), dtype="int32", name="token")
    hidden = keras.Input((None, units), name="lstm_hidden")
    return token, hidden, keras.Input((None, units), name="lstm_cell")
