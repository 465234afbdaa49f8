import keras
import numpy as np
import pytest
from keras import ops

from utils.decoder import CaptionLSTM, RegionAttention, WordEmbedding

TOKENS = np.array([[3, 1, 3, 3], [2, 1, 0, 3]], "int32")  # the word 3 stands in it four times


def random_array(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def made(layer, *inputs):
    """The layer with random weights in all places, and what it makes of `inputs`."""
    layer(*inputs)
    layer.set_weights(
        [random_array(*weight.shape, seed=place) for place, weight in enumerate(layer.weights)]
    )
    return layer, layer(*inputs)


def adam(weights, gradients, learning_rate=0.1, decay=0.9, square_decay=0.999, epsilon=1e-7):
    """Adam after Kingma and Ba (2015), one step for every gradient."""
    mean = square = np.zeros_like(weights)
    for step, gradient in enumerate(gradients, start=1):
        mean = decay * mean + (1 - decay) * gradient
        square = square_decay * square + (1 - square_decay) * gradient**2
        corrected = mean / (1 - decay**step), square / (1 - square_decay**step)
        weights = weights - learning_rate * corrected[0] / (np.sqrt(corrected[1]) + epsilon)
    return weights


def test_adam_adds_up_the_gradients_of_a_word_before_it_squares_them():
    # The loss is linear in the words' vectors, so a word's gradient is the sum of its slopes.
    tokens = keras.Input((4,), dtype="int32")
    embedding = WordEmbedding(5, 3)
    model = keras.Model(tokens, embedding(tokens))
    before = embedding.get_weights()[0]
    model.compile(keras.optimizers.Adam(0.1), lambda slopes, words: ops.sum(slopes * words))

    slopes = [random_array(2, 4, 3, seed=1), random_array(2, 4, 3, seed=2)]
    gradients = []
    for slope in slopes:
        model.train_on_batch(TOKENS, slope)
        gradient = np.zeros((5, 3))
        np.add.at(gradient, TOKENS, slope)
        gradients.append(gradient)
    np.testing.assert_allclose(embedding.get_weights()[0], adam(before, gradients), atol=1e-4)


def test_a_word_gets_its_vector_scaled_up_where_the_weights_are_shared():
    plain, words = made(WordEmbedding(5, 4), TOKENS)
    np.testing.assert_allclose(words, plain.get_weights()[0][TOKENS], rtol=1e-6)
    tied, words = made(WordEmbedding(5, 4, tied=True), TOKENS)
    np.testing.assert_allclose(words, 2 * tied.get_weights()[0][TOKENS], rtol=1e-6)


def test_in_reverse_an_embedding_gives_logits_with_the_same_weights():
    tied, _ = made(WordEmbedding(5, 4, tied=True), TOKENS)
    embeddings, bias = tied.get_weights()
    hidden = random_array(2, 3, 1, 4, seed=9)
    np.testing.assert_allclose(tied(hidden, reverse=True), hidden @ embeddings.T + bias, rtol=1e-5)


@pytest.mark.parametrize(
    "layer",
    [
        WordEmbedding(5, 4, tied=True, name="words"),
        WordEmbedding(5, 4),
        CaptionLSTM(6),
        RegionAttention(8, heads=4),
    ],
    ids=lambda layer: layer.name,
)
def test_a_layer_is_made_again_from_its_config(layer):
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert type(again) is type(layer)
    assert again.get_config() == layer.get_config()


def test_captions_are_read_as_by_one_lstm_each():
    words = random_array(2, 3, 5, 4)
    layer, (text, hidden, cell) = made(CaptionLSTM(6), words)
    assert text.shape == (2, 3, 5, 6)
    for photo in range(2):
        for caption in range(3):
            expected, *state = layer.lstm(words[photo, [caption]])
            np.testing.assert_allclose(text[photo, caption], expected[0], atol=1e-6)
            np.testing.assert_allclose(hidden[photo, caption], state[0][0], atol=1e-6)
            np.testing.assert_allclose(cell[photo, caption], state[1][0], atol=1e-6)


def test_reading_goes_on_from_a_state_for_each_caption_or_one_for_all_of_a_photograph():
    words = random_array(2, 3, 5, 4)
    layer, (text, hidden, cell) = made(CaptionLSTM(6), words)
    _, *middle = layer(words[:, :, :2])
    rest, *end = layer(words[:, :, 2:], *middle)
    np.testing.assert_allclose(rest, text[:, :, 2:], atol=1e-6)
    np.testing.assert_allclose(end, [hidden, cell], atol=1e-6)

    one = [random_array(2, 1, 6, seed=1), random_array(2, 1, 6, seed=2)]
    for_all, *_ = layer(words, *one)
    for_each, *_ = layer(words, *(np.repeat(state, 3, axis=1) for state in one))
    np.testing.assert_array_equal(for_all, for_each)
    assert abs(ops.convert_to_numpy(for_all) - ops.convert_to_numpy(text)).max() > 0.01


@pytest.mark.parametrize("heads", [1, 2])
def test_each_head_looks_at_the_places_and_at_the_sentinel(heads):
    """Compared with the formulas, head by head and word by word."""
    units, text = 6, random_array(2, 3, 4, 5, seed=1)
    keys, values = random_array(2, 7, units, seed=2), random_array(2, 7, units, seed=3)
    layer, (seen, where) = made(RegionAttention(units, heads), text, keys, values)
    assert where.shape == (2, 3, 4, 7)

    def dense(name, inputs):
        kernel, bias = getattr(layer, name).get_weights()
        return inputs @ kernel + bias

    sentinel = np.tanh(dense("sentinel", text))
    query, sentinel_key = dense("query", text), dense("sentinel_key", sentinel)
    width = units // heads
    for photo, caption, word in np.ndindex(2, 3, 4):
        looks = np.zeros(7)
        for head in range(heads):
            part = slice(head * width, (head + 1) * width)
            ask = query[photo, caption, word, part]
            all_keys = np.vstack([keys[photo, :, part], sentinel_key[photo, caption, word, part]])
            all_values = np.vstack([values[photo, :, part], sentinel[photo, caption, word, part]])
            weights = np.exp(all_keys @ ask / width**0.5)
            weights /= weights.sum()
            looks += weights[:-1] / heads
            np.testing.assert_allclose(
                seen[photo, caption, word, part], weights @ all_values, atol=1e-5
            )
        np.testing.assert_allclose(where[photo, caption, word], looks, atol=1e-5)
