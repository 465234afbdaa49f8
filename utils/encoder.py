"""Encoders: frozen CNNs that turn the pixels of a photograph into features.

Each is a network of `keras.applications` without its classifier, wrapped together with its own
preprocessing, so that pixels in [0, 255] go in and nobody can scale them twice.
"""

import hashlib
import socket
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import keras
import numpy as np

from utils.machinery.errors import EncoderError, PhotographError
from utils.settings import Settings

# Seconds of silence after which a download counts as failed. Keras sets none, and waits for minutes
# behind a firewall that drops packets.
_NETWORK_PATIENCE = 20


@dataclass(frozen=True)
class EncoderSpec:
    """What one CNN is called in `keras.applications`, what it takes and what it gives."""

    application: str  # class in keras.applications
    module: str  # module in keras.applications that holds its preprocess_input
    image_size: int  # side of the square input in pixels
    width: int  # features per photograph, and per region of the grid
    grid: int  # side of the grid of regions that is left of the photograph
    beside: str = ""  # layer whose input is given beside the last block's output

    @property
    def preprocess(self) -> Callable:
        return getattr(keras.applications, self.module).preprocess_input

    def build(self, weights: str | None) -> keras.Model:
        """Builds the CNN without its classifier; `weights` is "imagenet" or None."""
        shape = (self.image_size, self.image_size, 3)
        build = getattr(keras.applications, self.application)
        return build(include_top=False, weights=weights, input_shape=shape)

    def output_of(self, cnn: keras.Model):
        """The spatial features within `cnn`: its last block's output, perhaps with another's."""
        if not self.beside:
            return cnn.output
        return keras.layers.Concatenate()([cnn.get_layer(self.beside).input, cnn.output])


ENCODERS = {
    "xception": EncoderSpec("Xception", "xception", 299, 2048, 10),
    # The classes of ImageNet shape the last block most (Kornblith et al. 2019, "Do Better ImageNet
    # Models Transfer Better?"), so the block before it is read too. The report has the figures.
    "xception_wide": EncoderSpec("Xception", "xception", 299, 1024 + 2048, 10, "block14_sepconv1"),
    "mobilenet_v2": EncoderSpec("MobileNetV2", "mobilenet_v2", 224, 1280, 7),
    "vgg16": EncoderSpec("VGG16", "vgg16", 224, 512, 7),
    "resnet50": EncoderSpec("ResNet50", "resnet50", 224, 2048, 7),
    "inception_v3": EncoderSpec("InceptionV3", "inception_v3", 299, 2048, 8),
    "efficientnet_v2_b0": EncoderSpec("EfficientNetV2B0", "efficientnet_v2", 224, 1280, 7),
}


@dataclass(frozen=True)
class Encoder:
    """A frozen CNN with its preprocessing, and where its weights came from."""

    name: str
    spec: EncoderSpec
    weights: str  # "imagenet", "untrained, seed 42" or "file <name>"
    trained: bool
    weights_hash: str  # SHA-256 over all weight arrays in order
    cnn: keras.Model = field(repr=False)  # without preprocessing
    spatial: keras.Model = field(repr=False)  # from pixels, with preprocessing, as `pooled` is
    pooled: keras.Model = field(repr=False)

    @property
    def image_size(self) -> int:
        return self.spec.image_size

    def encode(self, pixels: np.ndarray, batch_size: int = 32) -> np.ndarray:
        """Computes one feature vector per photograph, averaged over the regions of the grid.

        Takes `(n, image_size, image_size, 3)` RGB in [0, 255], uint8 or floating point, so many
        through the CNN at once; returns `(n, width)` float32.

        Raises:
            PhotographError: shape or range is not as above.
        """
        return self._predict(self.pooled, pixels, batch_size)

    def encode_spatial(self, pixels: np.ndarray, batch_size: int = 32) -> np.ndarray:
        """As `encode`, one vector per region, for attention: (n, grid, grid, width) float32."""
        return self._predict(self.spatial, pixels, batch_size)

    def probe(self) -> np.ndarray:
        """Features of a picture that is the same everywhere, `(width,)`, to tell weights apart."""
        y, x = np.mgrid[0 : 1 : self.image_size * 1j, 0 : 1 : self.image_size * 1j]
        picture = np.stack([x, y, np.sin(40 * x) * np.sin(25 * y) ** 2], axis=-1)
        picture[np.hypot(x - 0.4, y - 0.6) < 0.25] = (0.9, 0.2, 0.1)
        return self.encode((255 * np.abs(picture))[None])[0]

    def _predict(self, model: keras.Model, pixels: np.ndarray, batch_size: int) -> np.ndarray:
        self._check(pixels)
        features = np.empty((len(pixels), *model.output_shape[1:]), np.float32)
        for start in range(0, len(pixels), batch_size):
            batch = pixels[start : start + batch_size]
            # Every new batch size is compiled again, so a short batch is padded to a power of two.
            size = min(batch_size, 1 << (len(batch) - 1).bit_length())
            padded = np.zeros((size, *batch.shape[1:]), np.float32)
            padded[: len(batch)] = batch
            features[start : start + len(batch)] = model.predict_on_batch(padded)[: len(batch)]
        return features

    def _check(self, pixels: np.ndarray) -> None:
        expected = (self.image_size, self.image_size, 3)
        if pixels.ndim != 4 or pixels.shape[1:] != expected:
            raise PhotographError(
                f"Pixels of shape {pixels.shape} don't fit {self.name}; expected (n, *{expected}). "
                f"Read them with load_pixels(photo, {self.image_size})."
            )
        if pixels.dtype == np.uint8 or pixels.size == 0:
            return
        lowest, highest = pixels.min(), pixels.max()
        if not (lowest >= 0 and 1 < highest <= 255):
            finding = f"Pixels range from {lowest:.4g} to {highest:.4g}; expected [0, 255]"
            raise PhotographError(f"{finding}. Pass them as read: preprocessing is done here.")


def load_encoder(name: str, weights: str | Path = "imagenet", seed: int = 42) -> Encoder:
    """Builds the encoder `name` and gives it its weights.

    Args:
        name: key of `ENCODERS`.
        weights: "imagenet" (downloaded once), "none" (drawn at random from `seed`, the same ones on
            every backend), or a weights file of this CNN without its classifier (`.weights.h5`, or
            the `notop.h5` that Keras downloads).

    Raises:
        EncoderError: the name is unknown, or the weights could not be downloaded or don't fit.
    """
    if name not in ENCODERS:
        raise EncoderError(f"ENCODER is {name!r}; expected one of {', '.join(ENCODERS)}.")
    spec = ENCODERS[name]
    if weights == "imagenet":
        cnn, provenance = _download(name, spec), "imagenet"
    elif weights == "none":
        cnn, provenance = spec.build(None), f"untrained, seed {seed}"
        _draw_weights(cnn, seed)
    else:
        path = Path(weights).expanduser()
        if not path.is_file():
            remedy = f"Give a weights file of {name}, or imagenet."
            raise EncoderError(f"The weights {path} are no such file. {remedy}")
        cnn, provenance = spec.build(None), f"file {path.name}"
        _load_file(cnn, name, path)
    cnn.trainable = False

    pixels = keras.Input((spec.image_size, spec.image_size, 3), name="pixels")
    spatial = keras.Model(cnn.input, spec.output_of(cnn))(spec.preprocess(pixels))
    pooled = keras.layers.GlobalAveragePooling2D()(spatial)
    models = keras.Model(pixels, spatial), keras.Model(pixels, pooled)
    return Encoder(name, spec, provenance, weights != "none", _hash_weights(cnn), cnn, *models)


def load_encoder_for(settings: Settings) -> Encoder:
    """Loads the encoder of a run; raises what `load_encoder` does.

    Without a network the drawn sample is read by an untrained CNN (see `encoder.trained`); real
    photographs can't be. Its weights don't depend on SEED, as features serve runs with any.
    """
    try:
        return load_encoder(settings.encoder, settings.weights)
    except EncoderError:
        if settings.weights == "imagenet" and settings.dataset == "sample":
            return load_encoder(settings.encoder, "none")
        raise


def _download(name: str, spec: EncoderSpec) -> keras.Model:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_NETWORK_PATIENCE)
    try:
        return spec.build("imagenet")
    except Exception as error:  # Keras raises a bare Exception when the network fails
        raise EncoderError(
            f"The ImageNet weights of {name} could not be downloaded ({error}). Go online, or name "
            "a copy of the file: weights=<file> for a captioner, WEIGHTS=<file> for a run."
        ) from error
    finally:
        socket.setdefaulttimeout(before)


def _draw_weights(cnn: keras.Model, seed: int) -> None:
    """Draws every kernel uniformly with variance 1 / fan-in (LeCun 1998, "Efficient BackProp").

    NumPy draws, so that every backend gets the same. The fan-in of a depthwise kernel is one
    channel: Keras counts all of them, and the features of its untrained Xception fade to 5e-6.
    """
    generator = np.random.default_rng(seed)
    for variable in cnn.weights:
        if len(variable.shape) == 4:
            height, width, channels, filters = variable.shape
            limit = np.sqrt(3 / (height * width * (1 if filters == 1 else channels)))
            variable.assign(generator.uniform(-limit, limit, variable.shape).astype(np.float32))


def _load_file(cnn: keras.Model, name: str, path: Path) -> None:
    # Keras only warns where a file lacks an array, and the CNN would go on with random numbers.
    for variable in cnn.weights:
        variable.assign(np.full(variable.shape, np.nan, np.float32))
    try:
        with warnings.catch_warnings(record=True):  # the check for NaN below says it better
            cnn.load_weights(path)
        unset = sum(not np.isfinite(variable.numpy()).all() for variable in cnn.weights)
        reason = f"it leaves {unset} of them without finite numbers" if unset else ""
    except Exception as error:  # Keras and h5py raise nearly anything on files they can't use
        reason = (str(error) or type(error).__name__).splitlines()[0].rstrip(".:")
    if reason:
        raise EncoderError(
            f"{path} ({path.stat().st_size:,} bytes) doesn't fit: {name} without classifier has "
            f"{len(cnn.weights)} arrays with {cnn.count_params():,} numbers ({reason})."
        )


def _hash_weights(cnn: keras.Model) -> str:
    digest = hashlib.sha256()
    for variable in cnn.weights:
        array = np.ascontiguousarray(variable.numpy())
        digest.update(f"{array.shape} {array.dtype}".encode())
        digest.update(array)
    return digest.hexdigest()
