"""Encoders preprocess once, tell photographs apart, and say where their weights come from."""

from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest

from utils import encoder as encoder_module
from utils.encoder import ENCODERS, load_encoder, load_encoder_for
from utils.machinery.errors import EncoderError, PhotographError
from utils.settings import Settings

SIZE = 96
TWO_WAYS_TO_PREPROCESS = (  # scaled to [-1, 1]; BGR less the mean
    "mobilenet_v2",
    pytest.param("vgg16", marks=pytest.mark.slow),
)


@pytest.fixture(scope="module", autouse=True)
def small_photographs():
    """All encoders read 96 x 96 pixels here: the same code in a tenth of the time."""
    small = {name: replace(spec, image_size=SIZE, grid=3) for name, spec in ENCODERS.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoder_module, "ENCODERS", small)
        yield


@pytest.fixture(scope="module")
def untrained(small_photographs):
    encoders = {}

    def load(name):
        if name not in encoders:
            encoders[name] = load_encoder(name, "none")
        return encoders[name]

    return load


def _photos(count: int) -> np.ndarray:
    """Patchworks, each with colours of its own: (count, 96, 96, 3) uint8."""
    coarse = np.random.default_rng(1).integers(0, 256, (count, 8, 8, 3)).astype(np.uint8)
    return coarse.repeat(SIZE // 8, axis=1).repeat(SIZE // 8, axis=2)


def _offline(monkeypatch) -> None:
    """Sends every download to a port where nobody listens."""
    for variable in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    home = Path(keras.config.keras_home()) if hasattr(keras.config, "keras_home") else None
    home = home or Path.home() / ".keras"
    if any((home / "models").glob("vgg16*notop*")):
        pytest.skip("this machine has the weights already")


@pytest.mark.parametrize("name", TWO_WAYS_TO_PREPROCESS)
def test_preprocessing_is_applied_exactly_once(untrained, name):
    encoder = untrained(name)
    pixels = _photos(4)
    bare = encoder.spec.build(None)
    bare.set_weights(encoder.spatial.get_weights())
    preprocessed = encoder.spec.preprocess(pixels.astype(np.float32))
    expected = np.asarray(bare.predict_on_batch(preprocessed))
    scale = np.abs(expected).max()
    assert np.abs(encoder.encode_spatial(pixels) - expected).max() < 1e-4 * scale
    assert np.abs(encoder.encode(pixels) - expected.mean(axis=(1, 2))).max() < 1e-4 * scale


@pytest.mark.parametrize("name", ENCODERS)
def test_the_table_agrees_with_the_networks(name):
    spec = ENCODERS[name]
    with keras.StatelessScope():  # shapes are enough here: no weights are drawn
        shape = spec.output_of(spec.build(None)).shape
    assert shape[1:] == (spec.grid, spec.grid, spec.width)
    assert callable(spec.preprocess)


def test_the_wide_xception_gives_the_last_two_blocks_side_by_side(untrained):
    one, both = (
        untrained(name).encode_spatial(_photos(2)) for name in ("xception", "xception_wide")
    )
    np.testing.assert_allclose(both[..., 1024:], one, atol=1e-4 * np.abs(one).max())
    assert both[..., :1024].std() > 0


def test_features_have_the_promised_shapes(untrained):
    encoder = untrained("mobilenet_v2")
    pooled, spatial = encoder.encode(_photos(4)), encoder.encode_spatial(_photos(4))
    assert (pooled.shape, pooled.dtype) == ((4, 1280), np.float32)
    assert (spatial.shape, spatial.dtype) == ((4, 3, 3, 1280), np.float32)
    np.testing.assert_allclose(spatial.mean(axis=(1, 2)), pooled, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["xception", "mobilenet_v2"])
def test_an_untrained_encoder_tells_photographs_apart(untrained, name):
    encoder = untrained(name)
    features = encoder.encode(_photos(4))
    assert np.isfinite(features).all()
    varying = features.std(axis=0) > 0.01 * np.abs(features).mean()
    assert varying.mean() > 0.5
    standardised = (features - features.mean(axis=0))[:, varying] / features.std(axis=0)[varying]
    likeness = np.corrcoef(standardised) - np.eye(4)
    assert likeness.max() < 0.9


def test_untrained_weights_are_those_of_the_seed(untrained):
    encoder = untrained("mobilenet_v2")
    again, other = (load_encoder("mobilenet_v2", "none", seed) for seed in (42, 43))
    assert encoder.weights_hash == again.weights_hash != other.weights_hash
    assert (other.weights, other.trained) == ("untrained, seed 43", False)


def test_features_do_not_depend_on_the_company_in_a_batch(untrained):
    encoder = untrained("mobilenet_v2")
    pixels = _photos(5)
    together = encoder.encode(pixels, batch_size=4)
    alone = np.concatenate([encoder.encode(pixels[i : i + 1]) for i in range(5)])
    np.testing.assert_allclose(together, alone, atol=1e-4 * np.abs(alone).max())
    assert encoder.encode(pixels[:0]).shape == (0, 1280)


def test_bytes_and_floating_point_pixels_give_the_same(untrained):
    encoder = untrained("mobilenet_v2")
    pixels = _photos(1)
    assert np.array_equal(encoder.encode(pixels), encoder.encode(pixels.astype(np.float64)))


@pytest.mark.parametrize(
    ("spoil", "finding"),
    [
        (lambda pixels: pixels / 255, "range from 0 to 1; expected"),
        (lambda pixels: pixels / 127.5 - 1, "range from -1 to 1"),
        (lambda pixels: pixels[0], r"shape \(96, 96, 3\) don't fit"),
        (lambda pixels: pixels[:, :80], r"load_pixels\(photo, 96\)"),
        (lambda pixels: pixels * np.nan, "range from nan"),
    ],
)
def test_pixels_that_were_preprocessed_or_misshapen_are_refused(untrained, spoil, finding):
    pixels = _photos(2)
    pixels[0, 0, 0], pixels[0, 0, 1] = 0, 255
    with pytest.raises(PhotographError, match=finding):
        untrained("mobilenet_v2").encode(spoil(pixels))


def test_an_unknown_encoder_is_named_with_the_known_ones():
    with pytest.raises(EncoderError, match=r"'alexnet'; expected one of xception, xception_wide"):
        load_encoder("alexnet")


def test_weights_are_read_from_a_file(untrained, tmp_path):
    encoder = untrained("mobilenet_v2")
    path = tmp_path / "mine.weights.h5"
    encoder.spatial.layers[-1].save_weights(path)
    loaded = load_encoder("mobilenet_v2", str(path))
    assert (loaded.weights, loaded.trained) == ("file mine.weights.h5", True)
    assert loaded.weights_hash == encoder.weights_hash


def test_a_file_that_does_not_fit_is_refused_with_both_sides(untrained, tmp_path):
    foreign, cut = tmp_path / "foreign.weights.h5", tmp_path / "cut.weights.h5"
    untrained("mobilenet_v2").spatial.layers[-1].save_weights(foreign)
    cut.write_bytes(foreign.read_bytes()[:5000])
    with pytest.raises(EncoderError, match=r"foreign.*vgg16.*14,714,688"):
        load_encoder("vgg16", str(foreign))
    with pytest.raises(EncoderError, match=r"5,000 bytes.*mobilenet_v2"):
        load_encoder("mobilenet_v2", str(cut))
    with pytest.raises(EncoderError, match=r"gone\.h5 are no such file"):
        load_encoder("vgg16", str(tmp_path / "gone.h5"))


def test_arrays_that_a_file_lacks_never_stay_random(untrained, tmp_path):
    cnn = load_encoder("mobilenet_v2", "none", 1).spatial.layers[-1]
    cnn.get_layer("Conv_1").kernel.assign(np.full((1, 1, 320, 1280), np.nan))
    cnn.save_weights(tmp_path / "holes.weights.h5")
    with pytest.raises(EncoderError, match="leaves 1 of them without finite numbers"):
        load_encoder("mobilenet_v2", str(tmp_path / "holes.weights.h5"))


def test_without_a_network_real_photographs_stop_with_the_remedy(monkeypatch):
    _offline(monkeypatch)
    with pytest.raises(EncoderError, match=r"vgg16 could not .*weights=<file>.*WEIGHTS"):
        load_encoder_for(Settings(dataset="flickr8k", encoder="vgg16"))


def test_without_a_network_the_sample_goes_on_untrained(monkeypatch):
    _offline(monkeypatch)
    encoder = load_encoder_for(Settings(dataset="sample", encoder="vgg16", seed=7))
    assert (encoder.weights, encoder.trained) == ("untrained, seed 42", False)


def test_a_weights_file_that_is_missing_is_never_replaced_by_random_weights():
    with pytest.raises(EncoderError, match="no such file"):
        load_encoder_for(Settings(dataset="sample", weights="/nowhere/mine.weights.h5"))
