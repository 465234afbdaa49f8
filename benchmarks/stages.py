"""The stages that are measured: training, search, extraction, and how each grows."""

import tempfile
import time
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np

from benchmarks import original
from benchmarks.measure import Work, alternate, matrix_product, peak_memory
from utils.batches import CaptionBatches, caption_set
from utils.captions import PAD, TOKEN_COLUMNS, Vocabulary, caption_table
from utils.dataset import load_dataset
from utils.decoder import build_decoder, decoder_kind, standardise
from utils.encoder import load_encoder_for
from utils.features import Features, extract_features
from utils.machinery.devices import keep_memory
from utils.photographs import load_pixels
from utils.search import Searcher
from utils.settings import Settings
from utils.training import ORIGINAL, OURS, Recipe, compile_decoder

ROUNDS = 3
BATCHES = 40  # of ours in a round, spread over an epoch
STEPS = 20  # of the original recipe in a round: a photograph each
PREFIX_LENGTH = 34  # what the original recipe pads to: Flickr8k's longest caption
WORDS = 11  # of a caption in the search stage: what people write on Flickr8k
PHOTOGRAPHS = 512  # in a round of search or extraction


class RunData:
    """Captions and features of a run; features are extracted if the run has none yet."""

    def __init__(self, settings: Settings):
        self.settings = settings
        self.dataset = load_dataset(settings)
        self.table = caption_table(self.dataset)
        self.encoder = load_encoder_for(settings)

    def features(self) -> Features:
        return extract_features(
            self.encoder, self.dataset, self.settings.features_folder, "spatial"
        )

    def vocabulary(self, recipe: Recipe) -> Vocabulary:
        texts = self.table[self.table["split"] == "train"][TOKEN_COLUMNS[recipe.cleaning]]
        return Vocabulary.build([text.split() for text in texts], recipe.min_count, recipe.cleaning)


def training(settings: Settings) -> dict:
    """Measures a part of an epoch of each recipe, beside the machine's matrix product.

    Returns:
        For each side its rate (real target tokens a second; of the matrix products operations a
        second), and of trainings seconds an epoch and the share of the float32 product's rate.
    """
    keep_memory()  # as a training does
    data = RunData(settings)
    default = replace(ORIGINAL, cleaning=OURS.cleaning, min_count=OURS.min_count)
    trainings = {
        "same size and vocabulary": (ORIGINAL, "merge", "float32"),
        "same size and vocabulary, bfloat16": (ORIGINAL, "merge", "mixed_bfloat16"),
        "same size and vocabulary, 256 captions a batch": (
            replace(ORIGINAL, batch_size=256),
            "merge",
            "float32",
        ),
        "same size, default vocabulary": (default, "merge", "float32"),
        "default recipe, merge": (OURS, "merge", "float32"),
        "default recipe, inject": (OURS, "inject", "float32"),
        "default recipe, attention": (replace(OURS, by_photo=True), "attention", "float32"),
    }
    sides = {"matrix product, float32": matrix_product("float32")}
    sides["matrix product, bfloat16"] = matrix_product("bfloat16")
    sides["original, by prefixes"], tokens = _prefix_steps(data)
    costs = {"original, by prefixes": (tokens, None)}
    for name, (recipe, decoder, policy) in trainings.items():
        sides[name], *costs[name] = _our_steps(data, recipe, decoder, policy)
    rates = alternate(sides, ROUNDS)
    peak = rates["matrix product, float32"]["rate"]
    for name, (tokens, operations) in costs.items():
        rates[name]["seconds_per_epoch"] = tokens / rates[name]["rate"]
        if operations:
            rates[name]["share_of_peak"] = rates[name]["rate"] * operations / peak
    return rates


def _prefix_steps(data: RunData) -> tuple[Work, int]:
    vocabulary = data.vocabulary(ORIGINAL)
    training = caption_set(data.table, data.features(), "train", "original", kind="pooled")
    captions = [[vocabulary.encode(one) for one in group] for group in training.tokens]
    model = original.build(len(vocabulary), PREFIX_LENGTH, training.features.shape[-1])

    def work(number: int) -> tuple[float, float]:
        chosen = slice(number * STEPS, (number + 1) * STEPS)
        group = captions[chosen]
        # As its tutorials do: a generator in Python, which fit reads from.
        steps = original.steps(training.features[chosen], group, PREFIX_LENGTH, len(vocabulary))
        return _real_tokens(group), _fit(model, steps, steps_per_epoch=len(group))

    return work, _real_tokens(captions)


def _our_steps(data: RunData, recipe: Recipe, decoder: str, policy: str) -> tuple[Work, int, float]:
    kind = decoder_kind(decoder)
    vocabulary = data.vocabulary(recipe)
    training = caption_set(
        data.table, data.features(), "train", recipe.cleaning, kind=kind.features
    )
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        keras.utils.set_random_seed(0)
        model = build_decoder(
            decoder, len(vocabulary), training.features.shape[1:], **recipe.decoder_options
        )
    finally:
        keras.config.set_dtype_policy(before)
    standardise(model, training.features)
    batches = training.batches(
        vocabulary, batch_size=recipe.batch_size, seed=0, by_photo=recipe.by_photo
    )
    compile_decoder(model, recipe, recipe.epochs * len(batches))

    def work(number: int) -> tuple[float, float]:
        part = _Part(batches, number)
        return part.real_tokens, _fit(model, part, shuffle=False)

    captions = [[vocabulary.encode(one) for one in group] for group in training.tokens]
    tokens = _real_tokens(captions)
    photographs = len(training.photos) / tokens  # a token
    return work, tokens, operations_per_token(model, photographs)


def _fit(model: keras.Model, batches, **options) -> float:
    """Trains for an epoch and returns its seconds.

    Not the seconds of `fit`: before it returns, TensorFlow now and then waits for a thread of its
    own that looks up at ever longer intervals, up to as long again as the epoch took.
    """
    times = []
    clock = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: times.append(time.perf_counter()),
        on_epoch_end=lambda epoch, logs: times.append(time.perf_counter()),
    )
    model.fit(batches, epochs=1, verbose=0, callbacks=[clock], **options)
    begun, ended = times
    return ended - begun


class _Part(keras.utils.PyDataset):
    """Batches from all over an epoch; the first two keep their places (see CaptionBatches)."""

    def __init__(self, batches: CaptionBatches, number: int):
        super().__init__()
        step = max(1, (len(batches) - 2) // BATCHES)
        self._batches = batches
        self._places = [0, 1, *range(2 + number % step, len(batches), step)]
        self.real_tokens = sum(int((batches[place][1] != PAD).sum()) for place in self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int):
        return self._batches[self._places[index]]


def operations_per_token(model: keras.Model, photographs: float) -> float:
    """Counts the arithmetic of a training step for each real token, from the decoder's weights.

    A weight matrix takes a product and a sum for each token, or for each photograph (or region of
    it) where it sees the image, three times: forward, and backward to its input and to itself.
    What is spent on padding is not counted, and attention itself and everything that is no matrix
    product are left out, so that the share of the peak is no flattery.

    Args:
        model: a decoder.
        photographs: how many there are for each real token.
    """
    regions = int(np.prod(model.input_shape[0][1:-1]))
    of_image = {"image": 1, "glance": 1, "regions": regions, "keys": regions}
    total = 0.0
    for layer in model.layers:
        if layer.name == "embedding":
            continue  # a lookup
        times = of_image[layer.name] * photographs if layer.name in of_image else 1.0
        total += times * sum(
            2 * np.prod(weight.shape) for weight in layer.trainable_weights if weight.ndim == 2
        )
    if model.get_layer("embedding").tied:
        total += 2 * np.prod(model.get_layer("embedding").embeddings.shape)
    return 3 * float(total)


def _real_tokens(captions) -> int:
    return sum(len(caption) - 1 for group in captions for caption in group)


def search(settings: Settings) -> dict:
    """Measures captions a second: one `model.predict` a word, and ours, both of the same size.

    Both are untrained, and come to no END within `WORDS` words, so that both take as many steps.
    """
    data = RunData(settings)
    vocabulary = data.vocabulary(ORIGINAL)
    photos = data.dataset.splits["train"][:PHOTOGRAPHS]
    features = data.features().of(photos, "pooled")
    keras.utils.set_random_seed(0)
    one_by_one = original.build(len(vocabulary), PREFIX_LENGTH, features.shape[-1])
    ours = build_decoder("merge", len(vocabulary), features.shape[1:])
    standardise(ours, features)
    sides: dict[str, Work] = {}
    for beam in (1, 3, 5):
        searcher = Searcher(ours, beam, max_tokens=WORDS - 1)

        def predict(number: int, beam=beam) -> float:
            for image in features[3 * number : 3 * number + 3]:
                original.describe(one_by_one, image, PREFIX_LENGTH, beam, WORDS)
            return 3

        def find(_number: int, searcher=searcher) -> float:
            return len(searcher.search(features))

        sides[f"one predict a word, beam {beam}"] = predict
        sides[f"ours, beam {beam}"] = find
    return alternate(sides, ROUNDS)


def latency(settings: Settings) -> dict:
    """Measures one photograph from file to caption, in rates: encoder and decoder apart."""
    data = RunData(settings)
    files = [data.dataset.photo_path(photo) for photo in data.dataset.splits["train"][:40]]
    side = data.encoder.image_size
    pixels = [load_pixels(file, side)[None] for file in files]
    found = data.features()
    vocabulary = data.vocabulary(OURS)
    sides: dict[str, Work] = {
        "reading": lambda _: len([load_pixels(file, side) for file in files]),
        "encoder": lambda _: len([data.encoder.encode_spatial(one) for one in pixels]),
    }
    for decoder in ("merge", "attention"):
        kind = decoder_kind(decoder)
        features = found.of(data.dataset.splits["train"][:40], kind.features)
        model = build_decoder(decoder, len(vocabulary), features.shape[1:], **OURS.decoder_options)
        standardise(model, features)
        searcher = Searcher(model, 3, max_tokens=WORDS - 1, batch_size=1)
        sides[f"decoder {decoder}, beam 3"] = lambda _, searcher=searcher, features=features: len(
            [searcher.search(one[None]) for one in features]
        )
    return alternate(sides, ROUNDS)


def extraction(settings: Settings) -> dict:
    """Measures photographs a second: `predict` one by one, ours, and the CNN on ready pixels."""
    data = RunData(settings)
    encoder = data.encoder
    photos = data.dataset.splits["train"]
    count = min(PHOTOGRAPHS, len(photos))
    few = data.dataset.limited(count)
    names = [name for split in few.splits.values() for name in split]
    pixels = np.stack([load_pixels(few.photo_path(name), encoder.image_size) for name in names])
    cnn = keras.Sequential([keras.Input(pixels.shape[1:]), encoder.cnn])

    def one_by_one(number: int) -> float:
        chosen = names[number * 20 : number * 20 + 20]
        for name in chosen:
            photo = load_pixels(few.photo_path(name), encoder.image_size)[None]
            cnn.predict(encoder.spec.preprocess(photo.astype("float32")), verbose=0)
        return len(chosen)

    def ours(_number: int) -> float:
        with tempfile.TemporaryDirectory() as folder:
            return len(extract_features(encoder, few, Path(folder), "spatial").photos)

    def only_cnn(_number: int) -> float:
        return len(encoder.encode_spatial(pixels))

    return alternate(
        {"one predict a photograph": one_by_one, "ours": ours, "the CNN alone": only_cnn}, ROUNDS
    )


def growth(settings: Settings, stage: str, times: int) -> dict:
    """Measures one stage on 1x, 2x or 4x as much, in a process that does nothing else.

    Args:
        settings: of the run.
        stage: "extraction", "training merge", "training attention" or "search".
        times: 1, 2 or 4 sixteenths of the training split.
    """
    data = RunData(settings)
    count = times * len(data.dataset.splits["train"]) // 16
    seconds = _GROWTH[stage](data, count)
    return {"photographs": count, "seconds": seconds, "megabytes": peak_memory()}


def _grow_extraction(data: RunData, count: int) -> float:
    few = data.dataset.limited(count)
    data.encoder.probe()  # compiles
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        extract_features(data.encoder, few, Path(folder), "spatial")
        return time.perf_counter() - begun


def _grow_training(decoder: str):
    def grow(data: RunData, count: int) -> float:
        keep_memory()
        kind = decoder_kind(decoder)
        recipe = replace(OURS, by_photo=decoder == "attention")
        vocabulary = data.vocabulary(recipe)
        table = data.table[data.table["photo"].isin(data.dataset.splits["train"][:count])]
        training = caption_set(table, data.features(), "train", recipe.cleaning, kind=kind.features)
        model = build_decoder(
            decoder, len(vocabulary), training.features.shape[1:], **recipe.decoder_options
        )
        batches = training.batches(
            vocabulary, batch_size=recipe.batch_size, seed=0, by_photo=recipe.by_photo
        )
        compile_decoder(model, recipe, len(batches))
        _fit(model, batches, shuffle=False)
        return _fit(model, batches, shuffle=False)

    return grow


def _grow_search(data: RunData, count: int) -> float:
    features = data.features().of(data.dataset.splits["train"][:count], "pooled")
    vocabulary = data.vocabulary(OURS)
    model = build_decoder("merge", len(vocabulary), features.shape[1:], **OURS.decoder_options)
    searcher = Searcher(model, 3, max_tokens=WORDS - 1)
    searcher.search(features[: searcher.batch_size])
    begun = time.perf_counter()
    searcher.search(features)
    return time.perf_counter() - begun


_GROWTH = {
    "extraction": _grow_extraction,
    "training merge": _grow_training("merge"),
    "training attention": _grow_training("attention"),
    "search": _grow_search,
}
