import keras
import numpy as np
import pandas as pd
import pytest

from sample import draw_sample
from tools.fine_tuning import (
    ENCODER_FILE,
    FineTuning,
    TwoRates,
    find_fine_tuned,
    fine_tune,
    fine_tune_run,
    load_fine_tuned,
    split_encoder,
    tuned_features,
)
from utils.batches import CaptionSet, caption_set
from utils.captions import TOKEN_COLUMNS, Vocabulary, caption_table
from utils.dataset import load_dataset
from utils.decoder import build_decoder, standardise
from utils.encoder import load_encoder
from utils.features import extract_features
from utils.machinery.errors import EncoderError, SettingsError
from utils.machinery.files import write_table
from utils.photographs import load_pixels
from utils.settings import Settings
from utils.training import Journal, Recipe, Training

PIXELS = np.random.default_rng(0).integers(0, 255, (4, 224, 224, 3), "uint8")
WORDS = [["a", "dog", "runs"], ["a", "boat", "sails"], ["two", "boats"], ["a", "red", "dog"]]
VOCABULARY = Vocabulary.build(WORDS, 1)
SIZES = {"embedding_units": 8, "units": 16, "tied": True}
RECIPE = Recipe("toy", "full", 1, batch_size=4, clip_norm=5.0)


@pytest.fixture
def encoder():
    return load_encoder("mobilenet_v2", "none", seed=5)


@pytest.fixture
def first(encoder, tmp_path):
    keras.utils.set_random_seed(1)
    model = build_decoder("attention", len(VOCABULARY), (7, 7, 1280), **SIZES)
    standardise(model, encoder.encode_spatial(PIXELS))
    return Training(model, pd.DataFrame(), 3, tmp_path / "first")


def tune(encoder, first, folder):
    references = [[" ".join(words)] for words in WORDS]
    captions = [[words] for words in WORDS]
    photos = [f"{number}.jpg" for number in range(len(WORDS))]
    middle = split_encoder(encoder)[0].encode_spatial(PIXELS).astype("float16")
    captions = CaptionSet(photos, middle, captions, references)
    known = {"vocabulary": VOCABULARY, "training": captions, "dev": captions, "folder": folder}
    return fine_tune(
        encoder, first, recipe=RECIPE, tuning=FineTuning(2, 5e-3, 1e-6), **known
    ), middle


@pytest.mark.parametrize(
    ("name", "shape"), [("mobilenet_v2", (14, 14, 96)), ("xception_wide", (19, 19, 728))]
)
def test_the_last_blocks_go_on_from_where_the_others_end(name, shape):
    encoder = load_encoder(name, "none")
    pixels = np.resize(PIXELS, (2, encoder.image_size, encoder.image_size, 3))
    front, tail = split_encoder(encoder)
    middle, spatial = front.encode_spatial(pixels), encoder.encode_spatial(pixels)
    assert middle.shape == (2, *shape)
    scale = np.abs(spatial).max()
    np.testing.assert_allclose(tuned_features(tail, middle, 3), spatial, atol=1e-4 * scale)


def test_the_cnn_learns_at_its_own_rate_and_without_decay():
    slow, fast = (keras.Variable([1.0, 1.0], name=name) for name in ("slow", "fast"))
    optimizer = TwoRates(0.1, weight_decay=0.5, slow=[slow], ratio=0.01)
    optimizer.build([slow, fast])
    optimizer.apply([keras.ops.ones(2), keras.ops.ones(2)])
    np.testing.assert_allclose(slow.numpy(), 1 - 0.1 * 0.01, rtol=1e-5)
    np.testing.assert_allclose(fast.numpy(), (1 - 0.1 * 0.5) - 0.1, rtol=1e-5)


def test_only_the_last_blocks_and_the_decoder_learn_and_their_files_load(encoder, first, tmp_path):
    before = {one.path: one.numpy() for one in encoder.cnn.weights}
    said = first.model.get_weights()
    tuned, middle = tune(encoder, first, tmp_path)
    _, tail = split_encoder(encoder)
    changed = {one.path for one in encoder.cnn.weights if (one.numpy() != before[one.path]).any()}
    kernels = {one.path for one in tail.trainable_weights}
    assert changed
    assert changed <= kernels
    assert tuned.history["dev_loss"].iloc[-1] < tuned.history["dev_loss"].iloc[0]
    for weights, kept in zip(first.model.get_weights(), said, strict=True):
        np.testing.assert_array_equal(weights, kept)
    loaded = load_encoder("mobilenet_v2", str(tuned.folder / "encoder.weights.h5"))
    np.testing.assert_allclose(
        loaded.encode_spatial(PIXELS), tuned_features(tail, middle), atol=0.02, rtol=0.02
    )


def test_a_run_is_tuned_in_two_stages_and_what_is_kept_belongs_together(tmp_path):
    draw_sample(tmp_path / "data", photographs=16)
    encoder = load_encoder("mobilenet_v2", "none")
    encoder.cnn.save_weights(tmp_path / "cnn.weights.h5")
    settings = Settings(
        dataset="flickr8k",
        data=tmp_path / "data",
        encoder="mobilenet_v2",
        weights=str(tmp_path / "cnn.weights.h5"),
        decoder="attention",
        epochs=1,
        runs=tmp_path / "runs",
    )
    dataset = load_dataset(settings)
    table = caption_table(dataset)
    write_table(settings.captions_file, table)
    texts = table[table["split"] == "train"][TOKEN_COLUMNS["full"]]
    vocabulary = Vocabulary.build([text.split() for text in texts], 1)
    vocabulary.save(settings.vocabulary_file)
    frozen = extract_features(encoder, dataset, settings.features_folder, "spatial")
    extract_features(encoder, dataset, settings.features_folder, "spatial", mirrored=True)
    assert find_fine_tuned(settings) is None

    tuned, second = fine_tune_run(settings)

    assert len(tuned.history) == len(second.history) == 1
    assert second.folder.parent == tuned.folder == find_fine_tuned(settings)
    dev = caption_set(table, frozen, "dev", "full")
    decoder, splits = load_fine_tuned(tuned.folder, settings, {"dev": dev})
    for weights, kept in zip(decoder.get_weights(), second.model.get_weights(), strict=True):
        np.testing.assert_array_equal(weights, kept)
    its_encoder = load_encoder("mobilenet_v2", tuned.folder / ENCODER_FILE)
    assert its_encoder.weights_hash != encoder.weights_hash
    pixels = [load_pixels(dataset.photo_path(photo), 224) for photo in dev.photos]
    own = its_encoder.encode_spatial(np.stack(pixels))
    np.testing.assert_allclose(splits["dev"].features, own, atol=0.02, rtol=0.02)


@pytest.mark.slow
def test_a_killed_fine_tuning_goes_on_to_the_same_end(encoder, first, tmp_path, monkeypatch):
    whole, _ = tune(encoder, first, tmp_path / "whole")
    write = Journal.on_epoch_end

    def killed(journal, epoch, logs=None):
        if epoch == 1:
            raise KeyboardInterrupt
        write(journal, epoch, logs)

    monkeypatch.setattr(Journal, "on_epoch_end", killed)
    with pytest.raises(KeyboardInterrupt):
        tune(load_encoder("mobilenet_v2", "none", seed=5), first, tmp_path / "killed")
    monkeypatch.setattr(Journal, "on_epoch_end", write)
    resumed, _ = tune(load_encoder("mobilenet_v2", "none", seed=5), first, tmp_path / "killed")
    pd.testing.assert_frame_equal(resumed.history, whole.history)


def test_what_cannot_be_fine_tuned_is_said():
    with pytest.raises(SettingsError, match="DECODER=attention"):
        fine_tune_run(Settings(decoder="merge"))
    with pytest.raises(EncoderError, match=r"inception_v3 can't be fine-tuned.*mobilenet_v2"):
        split_encoder(load_encoder("inception_v3", "none"))
