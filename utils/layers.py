"""Layers that the decoders are made of: words, the LSTM over captions, attention over places.

A batch holds `n` photographs with `k` captions each, padded to the same number of photographs and
captions on all sides, so that what is computed of a photograph serves all its captions.
"""

import keras
from keras import ops


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
class PlaceAttention(keras.layers.Layer):
    """Looks at the places of a photograph, at each as much as its key fits the word to come.

    Scaled dot products with several heads (Vaswani et al. 2017), and beside the places a sentinel,
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
            keys, values: of the places, `(n, places, units)`.

        Returns:
            What was seen, `(n, k, length, units)`, and where: `(n, k, length, places)` in [0, 1],
            the mean of the heads. What is missing to 1 went to the sentinel.
        """
        _, captions, length, _ = ops.shape(text)
        places = ops.shape(keys)[1]
        width = self.units // self.heads

        def heads_of(vectors, count):  # (n, count, units) -> (n, heads, count, width)
            split = ops.reshape(vectors, (-1, count, self.heads, width))
            return ops.transpose(split, (0, 2, 1, 3))

        words = captions * length
        sentinel = self.sentinel(text)
        query = heads_of(self.query(text), words) / width**0.5
        on_places = ops.matmul(query, ops.transpose(heads_of(keys, places), (0, 1, 3, 2)))
        on_sentinel = ops.sum(
            query * heads_of(self.sentinel_key(sentinel), words), axis=-1, keepdims=True
        )
        weights = ops.softmax(ops.concatenate([on_places, on_sentinel], axis=-1), axis=-1)
        where = weights[..., :-1]  # (n, heads, words, places)
        seen = ops.matmul(where, heads_of(values, places))
        seen = seen + weights[..., -1:] * heads_of(sentinel, words)
        seen = ops.transpose(seen, (0, 2, 1, 3))
        return (
            ops.reshape(seen, (-1, captions, length, self.units)),
            ops.reshape(ops.mean(where, axis=1), (-1, captions, length, places)),
        )

    def get_config(self):
        """Returns what makes the same layer again."""
        return {**super().get_config(), "units": self.units, "heads": self.heads}
