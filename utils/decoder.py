"""Decoders: three ways to let an LSTM say what a CNN saw, behind one interface.

- `merge`: the LSTM reads words only, and the image joins behind it (the original recipe).
- `inject`: the image starts the LSTM, as if it were the first word.
- `attention`: before each word the decoder looks again at the regions of the photograph.

A decoder is a functional Keras model `(features, tokens) -> logits`, trained on whole captions at
once with the true caption as input (teacher forcing). Each of `n` photographs comes with `k`
captions, `(n, k, length)` token ids, and what is computed of it serves all of them. For search the
same layers are joined again, to make a caption word by word; no weight exists twice.

No Keras mask is used: captions are padded on the right and an LSTM only looks back, so padding
can't reach a real token, and the loss leaves it out.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import keras
import numpy as np
from keras import layers, ops

from utils.machinery.errors import SettingsError

# Layers


def product_by_rows(vectors, matrix):
    """Multiplies the last axis of `(..., width)` by `(width, units)`, as rows `(rows, width)`.

    In a product of four axes by two TensorFlow crashes on CPUs with AVX-512 when one axis has
    length 1 (tensorflow#117700), and Keras before 3.15 asks for just that.
    """
    rows = ops.matmul(ops.reshape(vectors, (-1, vectors.shape[-1])), matrix)
    return ops.reshape(rows, (*ops.shape(vectors)[:-1], matrix.shape[-1]))


class WordDense(layers.Dense):
    """A dense layer for every word of every caption: `activation(words @ kernel + bias)`."""

    def call(self, inputs):
        """`(n, k, length, width) -> (n, k, length, units)`, or other axes before the last."""
        return self.activation(ops.add(product_by_rows(inputs, self.kernel), self.bias))


class WordEmbedding(layers.Layer):
    """Turns token ids into vectors of length `units`, and, in reverse, vectors into logits.

    Where they are `tied`, the same weights, and a bias per token, make the logits too (Press and
    Wolf 2017, "Using the output embedding to improve language models"): that leaves fewer to
    overfit, and trains rare words from both sides. `keras.layers.ReversibleEmbedding` does it as
    well, but Keras 3.10 has no such layer yet. `deviation` is that of the weights before training.
    """

    def __init__(self, vocabulary_size, units, tied=False, deviation=None, **kwargs):
        super().__init__(**kwargs)
        self.vocabulary_size, self.units = vocabulary_size, units
        self.tied, self.deviation = tied, deviation

    def build(self, input_shape):
        first, shape = "uniform", (self.vocabulary_size, self.units)  # as Keras's own layer
        if self.deviation is not None:
            first = keras.initializers.RandomNormal(stddev=self.deviation)
        self.embeddings = self.add_weight(shape, initializer=first, name="embeddings")
        if self.tied:
            self.bias = self.add_weight((self.vocabulary_size,), initializer="zeros", name="bias")

    def call(self, inputs, reverse=False):
        """`(...) int -> (..., units)`, or in reverse `(..., units) -> (..., vocabulary_size)`."""
        if reverse:
            logits = product_by_rows(inputs, ops.transpose(self.embeddings)) + self.bias
            return ops.cast(logits, "float32")
        # Tied weights are small for the sake of the logits, so words are scaled up (Vaswani et al.
        # 2017). The product also makes the gradient dense: of a plain lookup TensorFlow makes
        # slices, in which a word can come twice, and Adam squares them before it adds up.
        scale = self.units**0.5 if self.tied else 1.0
        return ops.take(self.embeddings * scale, inputs, axis=0)


class CaptionLSTM(layers.Layer):
    """An LSTM over every caption: at each word `hidden, cell = LSTM(word, hidden, cell)`.

    The hidden state is what the words so far come to, the cell its memory.
    """

    def __init__(self, units: int, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.lstm = layers.LSTM(units, return_sequences=True, return_state=True, name="lstm")

    def build(self, words_shape, hidden_shape=None, cell_shape=None):
        self.lstm.build((None, None, words_shape[-1]))

    def call(self, words, hidden=None, cell=None):
        """Reads words `(n, k, length, width)`, from zeros or the given states on.

        The states are `(n, k, units)`, or `(n, 1, units)` for all captions of a photograph. Returns
        the hidden state after every word, `(n, k, length, units)`, and both after the last one.
        """
        photos, captions, length, width = ops.shape(words)
        state = None
        if hidden is not None:
            shape = (photos, captions, self.units)
            state = [ops.broadcast_to(one, shape) for one in (hidden, cell)]
            state = [ops.reshape(one, (-1, self.units)) for one in state]
        rows = ops.reshape(words, (-1, length, width))
        text, hidden, cell = self.lstm(rows, initial_state=state)
        return (
            ops.reshape(text, (-1, captions, length, self.units)),
            ops.reshape(hidden, (-1, captions, self.units)),
            ops.reshape(cell, (-1, captions, self.units)),
        )


class RegionAttention(layers.Layer):
    """Looks at the regions of a photograph, at each as much as its key fits the word to come.

    `weights = softmax(query @ keys / sqrt(width))`, `seen = weights @ values`: scaled dot products
    with several heads, parts of the `units` that look on their own (Vaswani et al. 2017). When the
    next word needs no look at the photograph, it looks at a sentinel, which is made of the words so
    far (Lu et al. 2017, "Knowing when to look").
    """

    def __init__(self, units: int, heads: int = 1, **kwargs):
        super().__init__(**kwargs)
        self.units, self.heads = units, heads
        self.query = WordDense(units, name="query")
        self.sentinel = WordDense(units, activation="tanh", name="sentinel")
        self.sentinel_key = WordDense(units, name="sentinel_key")

    def build(self, text_shape, keys_shape, values_shape):
        self.query.build(text_shape)
        self.sentinel.build(text_shape)
        self.sentinel_key.build((*text_shape[:-1], self.units))

    def call(self, text, keys, values):
        """Looks once for every word.

        Reads hidden states `(n, k, length, width)`, and keys and values `(n, regions, units)`.
        Returns what was seen, `(n, k, length, units)`, and where, `(n, k, length, regions)` in
        [0, 1], the mean of the heads; what is missing to 1 went to the sentinel.
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
        on_regions = ops.matmul(query, ops.transpose(heads_of(keys, regions), (0, 1, 3, 2)))
        sentinel_key = heads_of(self.sentinel_key(sentinel), words)
        on_sentinel = ops.sum(query * sentinel_key, axis=-1, keepdims=True)
        weights = ops.softmax(ops.concatenate([on_regions, on_sentinel], axis=-1), axis=-1)
        where = weights[..., :-1]  # (n, heads, words, regions)
        seen = ops.matmul(where, heads_of(values, regions))
        seen = seen + weights[..., -1:] * heads_of(sentinel, words)
        seen = ops.transpose(seen, (0, 2, 1, 3))
        return (
            ops.reshape(seen, (-1, captions, length, self.units)),
            ops.reshape(ops.mean(where, axis=1), (-1, captions, length, regions)),
        )


# Decoders


@dataclass(frozen=True)
class DecoderOptions:
    """What a decoder can be built with; the defaults are the original recipe."""

    embedding_units: int = 256  # length of a word's vector
    units: int = 256  # of the LSTM, and of everything that joins its output
    image_dropout: float = 0.5  # share of the features that is dropped in training
    text_dropout: float = 0.5  # of the word vectors
    output_dropout: float = 0.0  # of the last hidden layer
    tied: bool = False  # whether the logits are made with the weights of the embedding
    heads: int = 8  # of the attention


@dataclass
class Decoder:
    """What all decoders have in common; a kind says in three methods how it knows the photograph.

    They join layers as Keras's functional models do. `layer` makes each layer when it is first
    asked for, so the training model and the search models, which are joined by the same methods,
    share them. The fields, all that a decoder is built from, are kept with its weights.
    `SettingsError` if the features are not of the kind that it reads.
    """

    name: str  # a key of DECODERS
    vocabulary_size: int
    feature_shape: tuple[int, ...]
    options: dict  # of DecoderOptions, those that aren't the default

    features = "pooled"  # or "spatial"
    large_words = False  # whether the words' vectors start larger than Keras makes them

    def __post_init__(self):
        axes, wanted = (1, "(d,)") if self.features == "pooled" else (3, "(g, g, d)")
        if len(self.feature_shape) != axes:
            raise SettingsError(
                f"The {self.name} decoder was given features {self.feature_shape}; "
                f"expected {wanted}. Extract them with kind={self.features!r}."
            )
        self.built_with = DecoderOptions(**self.options)
        self._layers: dict[str, layers.Layer] = {}

    def look(self, features) -> dict:
        """Reads the photographs once: `(n, ...) -> {name: (n, ...)}`, the `image` of what follows.

        A state of the LSTM among it, "lstm_hidden" and "lstm_cell", is where the words go on.
        """
        raise NotImplementedError

    def heard(self, tokens, **image):
        """What the LSTM reads: words' vectors `(n, k, length, width)`, perhaps with the image."""
        return self.text_dropout(self.embedding(tokens))

    def joined(self, text, **image) -> tuple:
        """Hidden states `(n, k, length, units)`, perhaps with the image; and attention or None."""
        return text, None

    def read(self, tokens, *, lstm_hidden=None, lstm_cell=None, **image) -> dict:
        """Reads words `(n, k, length)` int32 and predicts the next one after each of them.

        Returns {"logits": `(n, k, length, vocabulary)` float32, "lstm_hidden" and "lstm_cell":
        `(n, k, units)`, after the last word}, and perhaps "attention": `(n, k, length, regions)`.
        """
        words = self.heard(tokens, **image)
        text, hidden, cell = self.lstm(words, lstm_hidden, lstm_cell)
        merged, attention = self.joined(text, **image)
        outputs = {"logits": self.logits(merged), "lstm_hidden": hidden, "lstm_cell": cell}
        return outputs if attention is None else outputs | {"attention": attention}

    def layer(self, name: str, kind: type, *arguments, **options):
        """The layer called `name`, which is made when it is first asked for."""
        if name not in self._layers:
            self._layers[name] = kind(*arguments, name=name, **options)
        return self._layers[name]

    def standardised(self, features):
        """Features of mean 0 and deviation 1, since encoders differ in scale by a million."""
        image = self.layer("standardise", layers.Normalization)(features)
        return self.layer("image_dropout", layers.Dropout, self.built_with.image_dropout)(image)

    @property
    def embedding(self) -> WordEmbedding:
        size, options = self.vocabulary_size, self.built_with
        units, tied = options.embedding_units, options.tied
        deviation = (units**-0.5 if tied else 1.0) if self.large_words else None
        return self.layer("embedding", WordEmbedding, size, units, tied, deviation)

    @property
    def text_dropout(self) -> layers.Dropout:
        return self.layer("text_dropout", layers.Dropout, self.built_with.text_dropout)

    @property
    def lstm(self) -> CaptionLSTM:
        return self.layer("lstm", CaptionLSTM, self.built_with.units)

    def logits(self, merged):
        """Hidden layer and logits of what image and words came to."""
        options = self.built_with
        hidden = self.layer("hidden", WordDense, options.units, activation="relu")(merged)
        hidden = self.layer("output_dropout", layers.Dropout, options.output_dropout)(hidden)
        if options.tied:
            # The hidden layer stays wide, and only its projection has the length of a word's
            # vector: dropout on that few numbers costs 5 points of CIDEr.
            word = self.layer("word", WordDense, options.embedding_units)(hidden)
            return self.embedding(word, reverse=True)
        return self.layer("logits", WordDense, self.vocabulary_size, dtype="float32")(hidden)

    def model(self) -> keras.Model:
        """Joins the layers for training: `[features (n, ...), tokens (n, k, length)] -> logits`."""
        features = keras.Input(self.feature_shape, name="features")
        tokens = keras.Input((None, None), dtype="int32", name="tokens")
        logits = self.read(tokens, **self.look(features))["logits"]
        return keras.Model([features, tokens], logits, name=self.name)

    def search_models(self) -> tuple[keras.Model, keras.Model]:
        """Joins the layers for search: a photograph is read once, then one word after the other.

        The first model starts: `features (n, ...) -> {name: (n, ...)}`. What the second, a step,
        gives back too is a state, `(n, 1, ...)`; the rest stays as it is. A step: `{"token": (n,
        beam, 1) int32, **everything of the start} -> {"logits": (n, beam, vocabulary), **states
        (n, beam, ...)}`; with attention also where the decoder looked for this word, `"attention":
        (n, beam, regions)`.
        """
        shape, units = self.feature_shape, self.built_with.units
        states = ("lstm_hidden", "lstm_cell")
        features = keras.Input(shape, name="features")
        begun = self.look(features)
        if states[0] not in begun:
            one = ops.reshape(features, (-1, 1, math.prod(shape)))[..., :1]
            begun |= dict.fromkeys(states, ops.zeros_like(ops.tile(one, (1, 1, units))))
        inputs = {
            name: keras.Input((None, units) if name in states else value.shape[1:], name=name)
            for name, value in begun.items()
        }
        token = keras.Input((None, 1), dtype="int32", name="token")
        outputs = self.read(token, **inputs)
        for name in {"logits", "attention"} & outputs.keys():
            outputs[name] = ops.squeeze(outputs[name], 2)  # of the only word
        step = keras.Model({"token": token, **inputs}, outputs)
        return keras.Model(features, begun), step


class Merge(Decoder):
    """The image joins behind the LSTM, which reads words only: `hidden = relu(image + text)`.

    After Tanti, Gatt and Camilleri (2018), "Where to put the image in an image caption generator".
    """

    def look(self, features):
        """Projects the image to the width of the LSTM."""
        units, image = self.built_with.units, self.standardised(features)
        image = self.layer("image", layers.Dense, units, activation="relu")(image)
        return {"image": self.layer("image_for_every_word", layers.Reshape, (1, 1, units))(image)}

    def joined(self, text, image):
        """Adds the image to the LSTM's state after every word."""
        return self.layer("merge", layers.Add)([image, text]), None


class Inject(Decoder):
    """The LSTM reads the image first, as if it were a word.

    After Vinyals et al. (2015), "Show and Tell".
    """

    def look(self, features):
        """Projects the image to a word's vector, and lets the LSTM read it."""
        units, image = self.built_with.embedding_units, self.standardised(features)
        image = self.layer("image", layers.Dense, units)(image)
        image = self.layer("image_as_a_word", layers.Reshape, (1, 1, units))(image)
        _, hidden, cell = self.lstm(image)
        return {"lstm_hidden": hidden, "lstm_cell": cell}


class Attention(Decoder):
    """Before each word it looks at the regions of the photograph.

    The LSTM reads each word together with a glance at the whole photograph; its state asks the
    regions, and what was seen there joins it for the next word. After Lu et al. (2017), "Knowing
    when to look", with several heads.
    """

    features = "spatial"
    # Keras's own have 0.03 on average beside the 1.4 of the glance that is added to them: the LSTM
    # couldn't tell one word from another, and would learn hardly anything.
    large_words = True

    def look(self, features):
        """Projects the regions to values and keys, and their mean to the glance."""
        units, width = self.built_with.units, self.built_with.embedding_units
        image = self.standardised(features)
        values = self.layer("regions", WordDense, units, activation="relu")(image)
        values = self.layer("list_of_regions", layers.Reshape, (-1, units))(values)
        keys = self.layer("keys", WordDense, units)(values)
        glance = self.layer("mean_of_regions", layers.GlobalAveragePooling2D)(image)
        glance = self.layer("glance", layers.Dense, width)(glance)
        glance = self.layer("glance_for_every_word", layers.Reshape, (1, 1, width))(glance)
        return {"regions": values, "keys": keys, "glance": glance}

    def heard(self, tokens, glance, **image):
        """Adds the glance to every word."""
        words = self.layer("word_and_glance", layers.Add)([self.embedding(tokens), glance])
        return self.text_dropout(words)

    def joined(self, text, regions, keys, **image):
        """Looks at the regions for the next word."""
        attention = self.layer(
            "attention", RegionAttention, self.built_with.units, self.built_with.heads
        )
        seen, where = attention(text, keys, regions)
        return self.layer("text_and_seen", layers.Concatenate)([text, seen]), where


DECODERS: dict[str, type[Decoder]] = {"merge": Merge, "inject": Inject, "attention": Attention}


def decoder_kind(name: str) -> type[Decoder]:
    """Returns the decoder called `name`; `SettingsError` lists the known ones otherwise."""
    if name not in DECODERS:
        raise SettingsError(f"DECODER is {name!r}; expected one of {', '.join(DECODERS)}.")
    return DECODERS[name]


def build_decoder(
    name: str, vocabulary_size: int, feature_shape: Sequence[int], **options
) -> keras.Model:
    """Builds `[features (n, ...), tokens (n, k, length)] -> logits (n, k, length, vocabulary)`.

    `feature_shape` is that of one photograph, `(d,)` pooled or `(g, g, d)` spatial; `options` are
    those of `DecoderOptions`. `SettingsError` if there is no decoder called `name`, or if it reads
    features of the other kind. `model.decoder` says what it was built from.
    """
    decoder = decoder_kind(name)(name, vocabulary_size, tuple(feature_shape), options)
    model = decoder.model()
    model.decoder = decoder
    return model


def copy_decoder(model: keras.Model, **options) -> keras.Model:
    """Builds a decoder once more, with weights of its own, and perhaps with other options."""
    known = asdict(model.decoder)
    copy = build_decoder(**known | known.pop("options") | options)
    copy.set_weights(model.get_weights())
    copy.get_layer("standardise").finalize_state()  # which setting weights alone doesn't do
    return copy


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
