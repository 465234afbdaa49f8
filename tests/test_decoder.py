import keras
import numpy as np
import pytest
from keras import ops

from utils.captions import END, PAD, START, Vocabulary
from utils.decoder import (
    DECODERS,
    CaptionLSTM,
    RegionAttention,
    WordEmbedding,
    build_decoder,
    decoder_kind,
    standardise,
)
from utils.machinery.checkpoints import load_decoder, save_decoder
from utils.machinery.errors import SettingsError
from utils.training import CaptionLoss

VOCABULARY = 23
# Three photographs with two captions each.
CAPTIONS = [
    [[START, 4, 9, 22, 7, END], [START, 5, END]],
    [[START, 8, 8, 21, END], [START, 4, 4, END]],
    [[START, 6, END], [START, 9, 10, 11, END]],
]
SHAPES = {"pooled": (6,), "spatial": (2, 3, 6)}
OPTIONS = {"merge": {}, "inject": {}, "attention": {"heads": 2}}


def make_features(decoder, count=3, seed=0):
    shape = SHAPES[decoder_kind(decoder).features]
    return np.random.default_rng(seed).normal(3, 2, (count, *shape)).astype("float32")


def build(decoder, features, **options):
    """A decoder as it is before training, apart from the features' mean and deviation."""
    sizes = {"embedding_units": 8, "units": 10, **OPTIONS[decoder]}
    model = build_decoder(decoder, VOCABULARY, features.shape[1:], **(sizes | options))
    standardise(model, features)
    return model


def randomise(model, seed, scale=0.5):
    """Gives a model weights that every word and every feature makes a difference with."""
    random = np.random.default_rng(seed)
    for weight in model.trainable_variables:
        weight.assign(random.normal(0, scale, weight.shape))
    return model


@pytest.fixture(
    scope="module",
    params=[(decoder, tied) for decoder in DECODERS for tied in (False, True)],
    ids=lambda made: f"{made[0]}{'-tied' * made[1]}",
)
def made(request):
    """A decoder of every kind, and features that it can read."""
    decoder, tied = request.param
    features = make_features(decoder)
    return randomise(build(decoder, features, tied=tied), 3), features


def padded(captions, length=9):
    """Inputs and targets `(n, k, length)` of captions by photograph."""
    tokens = np.full((len(captions), max(map(len, captions)), length), PAD, "int32")
    targets = tokens.copy()
    for photo, group in enumerate(captions):
        for place, caption in enumerate(group):
            tokens[photo, place, : len(caption) - 1] = caption[:-1]
            targets[photo, place, : len(caption) - 1] = caption[1:]
    return tokens, targets


def logits_of(model, features, tokens):
    return ops.convert_to_numpy(model([features, tokens], training=False))


def word_by_word(model, features, tokens):
    """Yields what the step model gives for one token of every caption after the other."""
    start, step = model.decoder.search_models()
    given = start.predict_on_batch(features)
    for name in set(given) & set(step.output):
        given[name] = np.repeat(given[name], tokens.shape[1], axis=1)
    for place in range(tokens.shape[2]):
        outputs = step.predict_on_batch({"token": tokens[:, :, [place]], **given})
        yield outputs
        given |= {name: outputs[name] for name in set(given) & set(outputs)}


def original_prefix_loss(model, features):
    """The loss of the original recipe: every prefix is a sample, padded on the left and masked."""
    layer = model.get_layer
    prefix = keras.Input((None,), dtype="int32")
    photo = keras.Input((6,))
    mask = ops.not_equal(prefix, PAD)
    sequence, *_ = layer("lstm").lstm(layer("embedding")(prefix), mask=mask)
    image = layer("image")(layer("standardise")(photo))
    hidden = layer("hidden")(keras.layers.add([image, sequence[:, -1]]))
    original = keras.Model([photo, prefix], ops.softmax(layer("logits")(hidden)))

    photos, prefixes, next_words = [], [], []
    for row, caption in ((row, caption) for row, group in enumerate(CAPTIONS) for caption in group):
        for length in range(1, len(caption)):
            photos.append(features[row])
            prefixes.append([PAD] * (7 - length) + caption[:length])
            next_words.append(caption[length])
    probabilities = original.predict_on_batch([np.array(photos), np.array(prefixes)])
    return -np.log(probabilities[range(len(next_words)), next_words]).mean()


def test_the_merge_loss_over_whole_captions_equals_the_original_prefix_by_prefix_loss():
    features = make_features("merge")
    model = randomise(build("merge", features), 3)
    tokens, targets = padded(CAPTIONS)
    loss = float(CaptionLoss()(targets, logits_of(model, features, tokens)))
    assert loss == pytest.approx(original_prefix_loss(model, features), abs=1e-5)


def test_the_step_model_gives_the_training_models_logits_word_by_word(made):
    model, features = made
    tokens, _ = padded(CAPTIONS)
    logits = logits_of(model, features, tokens)
    for place, outputs in enumerate(word_by_word(model, features, tokens)):
        np.testing.assert_allclose(outputs["logits"], logits[:, :, place], atol=1e-4)


def test_words_and_features_make_a_difference(made):
    model, features = made
    tokens, _ = padded(CAPTIONS)
    logits = logits_of(model, features, tokens)
    other_words = logits_of(model, features, np.where(tokens == 9, 10, tokens))
    other_features = logits_of(model, features[::-1], tokens)
    assert abs(logits - other_words)[0, 0, 2].max() > 0.01
    assert abs(logits - other_features)[0].max(axis=-1).min() > 0.01


def test_captions_given_together_get_the_logits_that_each_gets_alone(made):
    model, features = made
    tokens, _ = padded(CAPTIONS)
    together = logits_of(model, features, tokens)
    for place in range(tokens.shape[1]):
        # In reverse order, so that a photograph's place in the batch makes no difference either.
        alone = logits_of(model, features[::-1], tokens[::-1, [place]])
        np.testing.assert_allclose(alone[::-1], together[:, [place]], atol=1e-5)


def test_padding_behind_captions_changes_no_real_logit(made):
    model, features = made
    short, _ = padded(CAPTIONS, 6)
    long, _ = padded(CAPTIONS, 12)
    short_logits = logits_of(model, features, short)
    long_logits = logits_of(model, features, long)
    np.testing.assert_allclose(short_logits, long_logits[:, :, :6], atol=1e-5)


def test_captions_of_nothing_but_padding_change_neither_the_others_nor_the_loss(made):
    model, features = made
    tokens, targets = padded(CAPTIONS)
    filled_tokens, filled_targets = (
        np.pad(numbers, [(0, 0), (1, 2), (0, 0)], constant_values=PAD)
        for numbers in (tokens, targets)
    )
    logits = logits_of(model, features, tokens)
    filled_logits = logits_of(model, features, filled_tokens)
    np.testing.assert_allclose(filled_logits[:, 1:-2], logits, atol=1e-5)
    loss = float(CaptionLoss(0.1)(targets, logits))
    assert float(CaptionLoss(0.1)(filled_targets, filled_logits)) == pytest.approx(loss, abs=1e-5)


def test_the_search_models_share_every_weight(made):
    model, _ = made
    start, step = model.decoder.search_models()
    own = {id(weight) for weight in model.weights}
    assert {id(weight) for weight in start.weights + step.weights} == own


def test_a_saved_decoder_is_built_again_and_gives_the_same_logits(made, tmp_path):
    model, features = made
    tokens, _ = padded(CAPTIONS)
    vocabulary = Vocabulary.build([[f"w{number}" for number in range(VOCABULARY - 4)]])
    save_decoder(model, tmp_path / "decoder.npz", vocabulary)
    loaded = load_decoder(tmp_path / "decoder.npz", vocabulary)
    logits = logits_of(model, features, tokens)
    np.testing.assert_array_equal(logits_of(loaded, features, tokens), logits)
    first = next(word_by_word(loaded, features, tokens))
    np.testing.assert_allclose(first["logits"], logits[:, :, 0], atol=1e-4)


def test_no_matrix_product_has_more_than_three_axes_by_two(made, monkeypatch):
    """TensorFlow crashes in such a one, when an axis has length 1, as one caption each gives it."""
    model, features = made
    ranks, matmul = [], ops.matmul

    def noting(first, second):
        ranks.append((len(first.shape), len(second.shape)))
        return matmul(first, second)

    monkeypatch.setattr("keras.src.ops.matmul", noting)
    monkeypatch.setattr("keras.ops.matmul", noting)
    tokens, _ = padded(CAPTIONS)
    model([features, tokens[:, :1]])
    start, step = model.decoder.search_models()
    token = ops.convert_to_tensor(tokens[:, :1, :1])
    step({"token": token, **start(features)})
    assert len(ranks) > 10
    assert not [pair for pair in ranks if pair[0] > 3 and pair[1] == 2]


def test_the_attention_decoder_says_how_much_it_looks_at_each_region():
    features = make_features("attention")
    model = randomise(build("attention", features), 3)
    tokens, _ = padded(CAPTIONS)
    looks = np.stack(
        [outputs["attention"] for outputs in word_by_word(model, features, tokens)], axis=2
    )
    assert looks.shape == (*tokens.shape, 2 * 3)
    assert looks.min() >= 0
    assert looks.sum(axis=-1).max() <= 1 + 1e-6
    # What is missing went to the sentinel; how much depends on the word.
    assert looks.sum(axis=-1).max() - looks.sum(axis=-1).min() > 0.05


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("scale", [5e-6, 1e4])
def test_features_of_any_scale_are_standardised_inside_the_model(decoder, scale):
    features = scale * make_features(decoder)
    model = build(decoder, features)
    inside = keras.Model(model.inputs[0], model.get_layer("standardise").output)
    seen = ops.convert_to_numpy(inside(features)).reshape(-1, 6)
    np.testing.assert_allclose(seen.mean(0), 0, atol=1e-3)
    np.testing.assert_allclose(seen.std(0), 1, atol=1e-2)


@pytest.mark.parametrize("decoder", ["merge", "attention"])
def test_mean_and_deviation_are_those_of_all_photographs_whatever_their_number(decoder):
    features = make_features(decoder, 600)
    features[500:] += 40  # a mean of means of unequal chunks would be another
    features = features.astype("float16" if decoder == "attention" else "float32")
    layer = build(decoder, features).get_layer("standardise")
    exact = features.astype("float64").reshape(-1, 6)
    mean, variance, _ = layer.get_weights()
    np.testing.assert_allclose(mean, exact.mean(0), rtol=1e-6)
    np.testing.assert_allclose(variance, exact.var(0), rtol=1e-6)
    np.testing.assert_allclose(
        ops.convert_to_numpy(layer(exact.reshape(features.shape).astype("float32"))),
        (exact.reshape(features.shape) - exact.mean(0)) / exact.std(0),
        atol=1e-4,
    )


def test_spatial_features_in_half_precision_are_read_as_the_numbers_they_are():
    features = make_features("attention").astype("float16")
    model = randomise(build("attention", features), 3)
    tokens, _ = padded(CAPTIONS)
    logits = logits_of(model, features.astype("float32"), tokens)
    assert np.isfinite(logits).all()
    np.testing.assert_allclose(logits_of(model, features, tokens), logits, atol=1e-5)
    first = next(word_by_word(model, features, tokens))
    np.testing.assert_allclose(first["logits"], logits[:, :, 0], atol=1e-4)


@pytest.mark.parametrize(
    ("decoder", "shape", "remedy"),
    [
        ("merge", (7, 7, 6), r"merge decoder.*\(7, 7, 6\).*Extract them with kind='pooled'"),
        ("inject", (7, 7, 6), r"inject decoder.*\(7, 7, 6\).*Extract them with kind='pooled'"),
        ("inject", (49, 6), r"\(49, 6\).*kind='pooled'"),
        ("attention", (6,), r"attention decoder.*\(6,\).*Extract them with kind='spatial'"),
        ("attention", (49, 6), r"\(49, 6\).*kind='spatial'"),
    ],
)
def test_features_of_another_shape_are_refused_with_the_remedy(decoder, shape, remedy):
    with pytest.raises(SettingsError, match=remedy):
        build_decoder(decoder, VOCABULARY, shape)


def test_sharing_weights_leaves_fewer_of_them():
    plain, tied = (build("merge", make_features("merge"), tied=tied) for tied in (False, True))
    # No matrix of logits, but a projection of the hidden layer to the embedding's width.
    assert plain.count_params() - tied.count_params() == 10 * VOCABULARY - 8 * (10 + 1)


def test_an_unknown_decoder_is_refused_with_the_known_ones():
    with pytest.raises(SettingsError, match=r"transformer.*merge, inject, attention"):
        decoder_kind("transformer")


def test_attention_reads_words_beside_features_that_are_mostly_zero_with_heavy_tails():
    # As of a trained CNN: 75 % zeros, few values far above the rest, and much the same everywhere
    # in a photograph, so that what the decoder glances at differs between them.
    random = np.random.default_rng(0)
    photos, words = 48, 12
    strength = random.exponential(size=(photos, 1, 1, 128))
    strength *= random.random(strength.shape) < 0.5
    features = strength * random.exponential(size=(photos, 4, 4, 128))
    features *= random.random(features.shape) < 0.5
    # Whatever the photograph shows, every word says which one comes next.
    starts = np.arange(photos) % words
    captions = [[[START, *(4 + (start + np.arange(6)) % words), END]] for start in starts]
    tokens, targets = padded(captions, 7)
    keras.utils.set_random_seed(0)
    model = build("attention", features.astype("f4"), embedding_units=128, units=64)
    model.compile(keras.optimizers.AdamW(2e-3), CaptionLoss())
    model.fit([features, tokens], targets, batch_size=16, epochs=12, verbose=0)
    assert (
        model.evaluate([features, tokens], targets, verbose=0) < 1.2
    )  # 2.0 with Keras's own words


# Layers

TOKENS = np.array([[3, 1, 3, 3], [2, 1, 0, 3]], "int32")  # the word 3 stands in it four times


def random_array(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def with_random_weights(layer, *inputs):
    """The layer with random weights everywhere, and what it makes of `inputs`."""
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
    plain, words = with_random_weights(WordEmbedding(5, 4), TOKENS)
    np.testing.assert_allclose(words, plain.get_weights()[0][TOKENS], rtol=1e-6)
    tied, words = with_random_weights(WordEmbedding(5, 4, tied=True), TOKENS)
    np.testing.assert_allclose(words, 2 * tied.get_weights()[0][TOKENS], rtol=1e-6)


def test_in_reverse_an_embedding_gives_logits_with_the_same_weights():
    tied, _ = with_random_weights(WordEmbedding(5, 4, tied=True), TOKENS)
    embeddings, bias = tied.get_weights()
    hidden = random_array(2, 3, 1, 4, seed=9)
    np.testing.assert_allclose(tied(hidden, reverse=True), hidden @ embeddings.T + bias, rtol=1e-5)


def test_captions_are_read_as_by_one_lstm_each():
    words = random_array(2, 3, 5, 4)
    layer, (text, hidden, cell) = with_random_weights(CaptionLSTM(6), words)
    assert text.shape == (2, 3, 5, 6)
    for photo in range(2):
        for caption in range(3):
            expected, *state = layer.lstm(words[photo, [caption]])
            np.testing.assert_allclose(text[photo, caption], expected[0], atol=1e-6)
            np.testing.assert_allclose(hidden[photo, caption], state[0][0], atol=1e-6)
            np.testing.assert_allclose(cell[photo, caption], state[1][0], atol=1e-6)


def test_reading_goes_on_from_a_state_for_each_caption_or_one_for_all_of_a_photograph():
    words = random_array(2, 3, 5, 4)
    layer, (text, hidden, cell) = with_random_weights(CaptionLSTM(6), words)
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
def test_each_head_looks_at_the_regions_and_at_the_sentinel(heads):
    """Compared with the formulas, head by head and word by word."""
    units, text = 6, random_array(2, 3, 4, 5, seed=1)
    keys, values = random_array(2, 7, units, seed=2), random_array(2, 7, units, seed=3)
    layer, (seen, where) = with_random_weights(RegionAttention(units, heads), text, keys, values)
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
