import keras
import numpy as np
import pytest
from keras import ops

from utils.captions import END, PAD, START
from utils.decoder import build_merge, decoder_kind, search_models, standardise
from utils.errors import SettingsError
from utils.training import CaptionLoss

VOCABULARY = 23
CAPTIONS = [[START, 4, 9, 22, 7, END], [START, 5, END], [START, 8, 8, 21, END]]


@pytest.fixture
def features():
    return np.random.default_rng(0).normal(3, 2, (3, 6)).astype("float32")


@pytest.fixture
def model(features):
    keras.utils.set_random_seed(3)
    model = build_merge(VOCABULARY, (6,), embedding_units=8, units=10)
    standardise(model, features)
    return model


def padded(captions, length=9):
    tokens = np.full((len(captions), length), PAD, "int32")
    targets = tokens.copy()
    for row, caption in enumerate(captions):
        tokens[row, : len(caption) - 1] = caption[:-1]
        targets[row, : len(caption) - 1] = caption[1:]
    return tokens, targets


def published_prefix_loss(model, features):
    """The loss as published: every prefix is a sample, padded on the left and masked."""
    layer = model.get_layer
    prefix = keras.Input((None,), dtype="int32")
    photo = keras.Input((6,))
    mask = ops.not_equal(prefix, PAD)
    sequence, *_ = layer("lstm")(layer("embedding")(prefix), mask=mask)
    image = layer("image")(layer("standardise")(photo))
    hidden = layer("hidden")(keras.layers.add([image, sequence[:, -1]]))
    published = keras.Model([photo, prefix], ops.softmax(layer("logits")(hidden)))

    losses = []
    for row, caption in enumerate(CAPTIONS):
        for length in range(1, len(caption)):
            left_padded = np.zeros((1, 7), "int32")
            left_padded[0, 7 - length :] = caption[:length]
            probabilities = published.predict_on_batch([features[row : row + 1], left_padded])
            losses.append(-np.log(probabilities[0, caption[length]]))
    return np.mean(losses)


def test_the_loss_over_whole_captions_equals_the_published_prefix_by_prefix_loss(model, features):
    tokens, targets = padded(CAPTIONS)
    logits = model([features, tokens], training=False)
    loss = float(CaptionLoss()(targets, logits))
    assert loss == pytest.approx(published_prefix_loss(model, features), abs=1e-5)


def test_padding_changes_no_real_logit(model, features):
    short, _ = padded(CAPTIONS, 6)
    long, _ = padded(CAPTIONS, 12)
    short_logits = ops.convert_to_numpy(model([features, short]))
    long_logits = ops.convert_to_numpy(model([features, long]))
    np.testing.assert_allclose(short_logits, long_logits[:, :6], atol=1e-6)


def test_the_step_model_gives_the_training_models_logits_word_by_word(model, features):
    tokens, _ = padded(CAPTIONS)
    logits = ops.convert_to_numpy(model([features, tokens]))
    models = search_models(model)
    states = models.start.predict_on_batch(features)
    for place in range(tokens.shape[1]):
        outputs = models.step.predict_on_batch({"token": tokens[:, place : place + 1], **states})
        np.testing.assert_allclose(outputs.pop("logits"), logits[:, place], atol=1e-5)
        states |= outputs


def test_the_search_models_share_every_weight(model):
    models = search_models(model)
    own = {id(weight) for weight in model.weights}
    assert {id(weight) for weight in models.start.weights + models.step.weights} == own


@pytest.mark.parametrize("scale", [5e-6, 1e4])
def test_features_of_any_scale_are_standardised_inside_the_model(scale, features):
    model = build_merge(VOCABULARY, (6,), embedding_units=8, units=10)
    standardise(model, features * scale)
    inside = keras.Model(model.inputs[0], model.get_layer("standardise").output)
    seen = inside.predict_on_batch(features * scale)
    np.testing.assert_allclose(seen.mean(0), 0, atol=1e-3)
    np.testing.assert_allclose(seen.std(0), 1, atol=1e-2)


def test_a_saved_decoder_loads_in_safe_mode_and_gives_the_same_logits(model, features, tmp_path):
    tokens, _ = padded(CAPTIONS)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    np.testing.assert_array_equal(model([features, tokens]), loaded([features, tokens]))
    assert search_models(loaded).step.output_names


def test_spatial_features_are_refused_by_the_merge_decoder():
    with pytest.raises(SettingsError, match="pooled"):
        build_merge(VOCABULARY, (7, 7, 6))


def test_an_unknown_decoder_is_refused_with_the_known_ones():
    with pytest.raises(SettingsError, match=r"transformer.*merge"):
        decoder_kind("transformer")
