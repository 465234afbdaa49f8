import json

import keras
import numpy as np
import pytest
from PIL import Image

from utils.captioner import Captioner
from utils.captions import RESERVED, Vocabulary
from utils.decoder import build_attention, build_merge, standardise
from utils.encoder import load_encoder
from utils.machinery.checkpoints import load_decoder, save_decoder
from utils.machinery.errors import MissingStageError, PhotographError, StaleArtefactError
from utils.photographs import load_pixels
from utils.search import Consensus, SearchSettings
from utils.self_critical import WeightedTokenLoss

WORDS = ("a", "dog", "boat", "runs", "sails", "red", "blue")
TOKENS = np.array([[[1, 4, 5, 2]], [[1, 5, 2, 0]]])


@pytest.fixture(scope="module")
def photos():
    random = np.random.default_rng(0)
    colours = [(200, 30, 30), (20, 180, 40), (30, 60, 220), (240, 240, 240)]
    pictures = [np.full((40, 60, 3), colour, "uint8") for colour in colours]
    return [picture + random.integers(0, 15, picture.shape, "uint8") for picture in pictures]


@pytest.fixture(scope="module")
def captioner(photos):
    """An untrained encoder and a decoder with random weights: they tell colours apart."""
    encoder = load_encoder("mobilenet_v2", "none", seed=3)
    keras.utils.set_random_seed(3)
    decoder = build_merge(len(WORDS) + 4, (1280,), 8, 10)
    random = np.random.default_rng(3)
    kernel, bias = decoder.get_layer("logits").get_weights()
    decoder.get_layer("logits").set_weights([random.normal(0, 3, kernel.shape), bias])
    captioner = Captioner(
        encoder, decoder, Vocabulary((*RESERVED, *WORDS)), SearchSettings(2, 0.7, max_tokens=6)
    )
    size = encoder.image_size
    pixels = [np.asarray(Image.fromarray(photo).resize((size, size))) for photo in photos]
    standardise(decoder, encoder.encode(np.stack(pixels)))
    return captioner


@pytest.fixture
def bundle(captioner, tmp_path, monkeypatch):
    monkeypatch.delenv("WEIGHTS", raising=False)
    captioner.save(tmp_path / "bundle")
    return tmp_path / "bundle"


def test_a_loaded_captioner_says_what_the_saved_one_said(captioner, bundle, photos):
    loaded = Captioner.load(bundle)
    assert loaded.search == captioner.search
    assert loaded.captions(photos) == captioner.captions(photos)


def test_a_decoder_fresh_from_its_training_is_saved_without_optimizer_and_loss(captioner, tmp_path):
    decoder = captioner.decoder
    inputs = [np.random.default_rng(0).normal(size=(2, *decoder.input_shape[0][1:])), TOKENS]
    decoder.compile(keras.optimizers.Adam(), WeightedTokenLoss())
    decoder.train_on_batch(inputs, TOKENS, sample_weight=np.ones(TOKENS.shape))
    save_decoder(decoder, tmp_path / "decoder.npz", captioner.vocabulary)
    loaded = load_decoder(tmp_path / "decoder.npz", captioner.vocabulary)
    expected = decoder.predict_on_batch(inputs)
    np.testing.assert_allclose(loaded.predict_on_batch(inputs), expected, atol=1e-5)


def test_a_consensus_travels_with_the_bundle(captioner, photos, tmp_path, monkeypatch):
    monkeypatch.delenv("WEIGHTS", raising=False)
    consensus = Consensus.of([[["a", "dog"], ["a", "boat"]], [["a", "dog"]]], captioner.vocabulary)
    search = SearchSettings(8, 0.7, 6, inverse_temperature=0.2)
    parts = (captioner.encoder, captioner.decoder, captioner.vocabulary)
    together = Captioner(*parts, search, consensus)
    together.save(tmp_path / "bundle")
    loaded = Captioner.load(tmp_path / "bundle")
    assert loaded.captions(photos) == together.captions(photos)
    found = search.searcher(captioner.decoder, consensus).search(encoded(captioner, photos))
    assert [one[0].numbers for one in loaded.hypotheses(photos)] == [
        one[0].numbers for one in found
    ]
    # A beam asks for the most probable captions instead.
    scores = [one.score for one in loaded.hypotheses(photos[:1], beam=8)[0]]
    assert scores == sorted(scores, reverse=True)

    (tmp_path / "bundle" / "consensus.npz").unlink()
    with pytest.raises(MissingStageError, match=r"consensus\.npz"):
        Captioner.load(tmp_path / "bundle")


def encoded(captioner, photos):
    size = captioner.encoder.image_size
    return captioner.encoder.encode(np.stack([load_pixels(photo, size) for photo in photos]))


def test_path_image_and_array_of_one_photograph_give_one_caption(captioner, photos, tmp_path):
    image = Image.fromarray(photos[0])
    image.save(tmp_path / "a photo.png")
    captions = captioner.captions([tmp_path / "a photo.png", image, photos[0]])
    assert len(set(captions)) == 1
    assert captioner.caption(str(tmp_path / "a photo.png")) == captions[0]
    assert set(captions[0].split()) <= set(WORDS)


def test_different_photographs_get_different_captions_also_several_at_once(captioner, photos):
    at_once = captioner.captions(photos)
    assert len(set(at_once)) > 1
    assert at_once == [captioner.caption(photo) for photo in photos]


def test_hypotheses_come_best_first_as_many_as_the_beam(captioner, photos):
    (hypotheses,) = captioner.hypotheses(photos[:1], beam=3)
    scores = [hypothesis.score for hypothesis in hypotheses]
    assert len(scores) == 3
    assert scores == sorted(scores, reverse=True)


def test_a_captioner_whose_decoder_looks_at_places_tells_where_it_looked(
    captioner, photos, tmp_path, monkeypatch
):
    monkeypatch.delenv("WEIGHTS", raising=False)
    decoder = build_attention(len(WORDS) + 4, (7, 7, 1280), 8, 10, heads=2)
    looking = Captioner(captioner.encoder, decoder, captioner.vocabulary, SearchSettings(1))
    looking.save(tmp_path)
    found = looking.hypotheses(photos[:1])
    again = Captioner.load(tmp_path).hypotheses(photos[:1])
    for ((hypothesis,),) in (found, again):
        assert hypothesis.attention.shape == (len(hypothesis.numbers) + 1, 49)
    assert again == found
    np.testing.assert_allclose(again[0][0].attention, found[0][0].attention, atol=1e-6)


def test_no_photographs_give_no_captions(captioner):
    assert captioner.captions([]) == []


def test_what_is_not_a_picture_is_refused_by_name(captioner, tmp_path):
    (tmp_path / "notes.jpg").write_text("not a picture")
    with pytest.raises(PhotographError, match=r"notes\.jpg"):
        captioner.caption(tmp_path / "notes.jpg")


def test_a_folder_without_a_bundle_names_the_notebook_that_makes_one(tmp_path):
    with pytest.raises(MissingStageError, match="notebook 05"):
        Captioner.load(tmp_path)


@pytest.mark.parametrize("name", ["decoder.npz", "vocabulary.json"])
def test_a_file_of_another_training_is_refused(bundle, name):
    with (bundle / name).open("ab") as file:
        file.write(b" ")
    with pytest.raises(StaleArtefactError, match=name.replace(".", r"\.")):
        Captioner.load(bundle)


def test_an_encoder_with_other_weights_is_refused_with_both_named(bundle):
    description = json.loads((bundle / "captioner.json").read_text())
    description["weights"] = "untrained, seed 4"
    (bundle / "captioner.json").write_text(json.dumps(description))
    with pytest.raises(StaleArtefactError, match=r"trained on features of mobilenet_v2.*found are"):
        Captioner.load(bundle)


def test_a_bundle_of_another_format_is_refused(bundle):
    description = json.loads((bundle / "captioner.json").read_text())
    (bundle / "captioner.json").write_text(json.dumps(description | {"format": 99}))
    with pytest.raises(StaleArtefactError, match="format 99"):
        Captioner.load(bundle)
