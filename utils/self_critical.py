"""Self-critical training: the decoder's own captions, judged by CIDEr, teach it.

A decoder that was trained on people's captions learns the next word of a caption that is right so
far. In use it reads its own words, and is judged by the whole caption. Here it draws captions for
the training photographs, each is scored against the photograph's references, and what scored better
than its other captions becomes more probable, what scored worse less (Rennie et al. 2017,
"Self-critical sequence training"; the mean of the photograph's other captions as the baseline after
Luo 2020, "A better variant of self-critical sequence training").

The gradient of that is the gradient of a cross-entropy over the drawn captions, in which each
caption weighs as much as it was better than the others. So plain Keras does it, on every backend.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import keras
import numpy as np
from keras import ops

from utils.batches import CaptionSet, bucket_length
from utils.captions import END, PAD, START, UNKNOWN, Vocabulary
from utils.decoder import build_decoder, search_models
from utils.machinery.checkpoints import (
    best_epoch_of,
    read_history,
    read_seconds,
    training_folder,
    weights_file,
)
from utils.machinery.devices import agree, keep_memory, share, spread
from utils.machinery.files import content_hash
from utils.metrics import Cider, tokenize
from utils.training import Journal, Recipe, Training, token_losses

HISTORY_COLUMNS = ["epoch", "reward", "dev_cider", "learning_rate"]
_END_WORD = "<end>"


@dataclass(frozen=True)
class SelfCritical:
    """How the second stage trains.

    Attributes:
        epochs: how often every photograph is seen.
        samples: captions drawn of each photograph, at least two.
        batch_size: photographs a step.
        learning_rate: of Adam, falling to zero along a cosine. Three times as much is too much:
            the reward rises faster, and dev collapses in the second epoch.
        max_tokens: where a drawn caption is cut off.
    """

    epochs: int = 3
    samples: int = 5
    batch_size: int = 64
    learning_rate: float = 4e-5
    max_tokens: int = 20


ON_FLICKR8K = SelfCritical()
# The sample has a twelfth of the photographs: smaller batches, so that it makes enough steps.
ON_SAMPLE = SelfCritical(batch_size=32)


def our_stage(dataset: str) -> SelfCritical:
    """Returns the second stage in the size that fits the data set, "sample" or "flickr8k"."""
    return ON_SAMPLE if dataset == "sample" else ON_FLICKR8K


class CaptionReward:
    """CIDEr of drawn captions against the references of their photographs.

    The n-grams of the references are counted once. The END is scored as a word, in captions and
    references: without it a decoder learns to leave its sentences open.

    Args:
        references: of each photograph, raw captions.
        vocabulary: of the decoder.
    """

    def __init__(self, references: Sequence[Sequence[str]], vocabulary: Vocabulary):
        self._vocabulary = vocabulary
        self._cider = Cider(
            [[[*tokenize(text), _END_WORD] for text in group] for group in references]
        )

    def __call__(self, photo: int, numbers: Sequence[int]) -> float:
        """Scores a drawn caption, 0 to 10; its END is there unless it was cut off."""
        words = tokenize(" ".join(self._vocabulary.decode(numbers)))
        if len(numbers) and numbers[-1] == END:
            words.append(_END_WORD)
        return self._cider.score(words, photo)


class SampleStep(keras.Model):
    """One step of drawing: the next word of every caption, at random by its probability."""

    def __init__(self, step: keras.Model, **kwargs):
        super().__init__(**kwargs)
        self.step = step

    def call(self, inputs):
        """Takes what the step model takes, and "chance" `(n, k)` in [0, 1); returns "token" too.

        The word is the one at which the summed probabilities pass `chance`, so that NumPy's numbers
        decide, the same ones on every backend.
        """
        states = {name: value for name, value in inputs.items() if name != "chance"}
        outputs = dict(self.step(states))
        logits = outputs.pop("logits")
        outputs.pop("attention", None)
        forbidden = np.zeros(logits.shape[-1], "float32")
        forbidden[[PAD, START, UNKNOWN]] = -1e9
        reached = ops.cumsum(ops.softmax(logits + forbidden, axis=-1), axis=-1)
        below = reached <= ops.expand_dims(inputs["chance"], -1) * reached[..., -1:]
        token = ops.sum(ops.cast(below, "int32"), axis=-1, keepdims=True)
        return {"token": token, **outputs}


class CaptionSampler:
    """Draws captions from a decoder; keeps its compiled step.

    Args:
        model: a decoder from `utils.decoder`.
        samples: captions of each photograph.
        max_tokens: where a caption is cut off.
    """

    def __init__(self, model: keras.Model, samples: int, max_tokens: int):
        models = search_models(model)
        self._start = models.start
        self._states = set(models.step.output) - {"logits", "attention"}
        self._step = SampleStep(models.step)
        self._samples = samples
        self._max_tokens = max_tokens

    def draw(self, features: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """Draws captions: `(n, samples, length)` int32, each to its END or cut off, then PAD."""
        inputs = {}
        for name, value in self._start.predict_on_batch(features).items():
            value = np.repeat(value, self._samples, axis=1) if name in self._states else value
            inputs[name] = ops.convert_to_tensor(value)
        shape = (len(features), self._samples)
        token = np.full((*shape, 1), START, "int32")
        ended = np.zeros(shape, bool)
        columns = []
        while len(columns) < self._max_tokens and not ended.all():
            chance = random.random(shape, "float32")
            outputs = self._step.predict_on_batch({"token": token, "chance": chance, **inputs})
            token = outputs.pop("token")
            columns.append(np.where(ended, PAD, token[..., 0]))
            ended |= token[..., 0] == END
            inputs |= outputs
        return np.stack(columns, axis=-1)


@keras.saving.register_keras_serializable("photograph_captions")
class WeightedTokenLoss(keras.losses.Loss):
    """Cross-entropy of every token, times its weight, summed: `sample_weight` is the advantage."""

    def __init__(self, name: str = "weighted_token_loss", **kwargs):
        kwargs.pop("reduction", None)
        super().__init__(name=name, reduction="sum", **kwargs)

    def call(self, y_true, y_pred):
        """Returns the loss at every place, `(n, k, length)`."""
        return token_losses(y_true, y_pred)


def advantages(rewards: np.ndarray) -> np.ndarray:
    """How much better each caption is than the mean of its photograph's others, `(n, samples)`."""
    samples = rewards.shape[1]
    others = (rewards.sum(axis=1, keepdims=True) - rewards) / (samples - 1)
    return rewards - others


@spread()
def train_self_critical(
    first: Training,
    recipe: Recipe,
    stage: SelfCritical,
    decoder: str,
    vocabulary: Vocabulary,
    training: CaptionSet,
    dev: CaptionSet,
    epochs: int | None = None,
    seed: int = 42,
) -> Training:
    """Trains a trained decoder further on its own captions, or goes on where it was killed.

    Dropout is off: what is judged must be what was drawn. On DEVICES devices, if that is set: they
    share the steps, and each draws all captions for itself.

    Args:
        first: the finished first stage; this one lies in a folder inside its own.
        recipe: of the first stage.
        stage: how to train.
        decoder: a key of `utils.decoder.DECODERS`.
        vocabulary, training, dev: as for the first stage.
        epochs: cuts the stage's epochs short.
        seed: of drawing and of the order of the photographs.

    Returns:
        The decoder after the best epoch by dev CIDEr. Epoch 0 is the first stage: where nothing got
        better, it is what comes back.
    """
    stage = replace(stage, epochs=min(epochs or stage.epochs, stage.epochs))
    identity = {"first": first.folder.name, "best_epoch": first.best_epoch, "stage": asdict(stage)}
    identity["seed"] = seed
    folder = first.folder / f"self_critical-{content_hash(identity)[:8]}"
    model = build_decoder(
        decoder,
        len(vocabulary),
        training.features.shape[1:],
        **recipe.decoder_options
        | {"image_dropout": 0.0, "text_dropout": 0.0, "output_dropout": 0.0},
    )
    model.set_weights(first.model.get_weights())
    model.get_layer("standardise").finalize_state()  # which setting weights alone doesn't do
    with training_folder(folder, identity):
        history = read_history(folder, HISTORY_COLUMNS)
        agree([identity, len(history)], f"the second stage {folder.name}")
        steps = -(-len(training.photos) // stage.batch_size)
        if len(history) < stage.epochs:
            keep_memory()
            optimizer = keras.optimizers.Adam(
                keras.optimizers.schedules.CosineDecay(stage.learning_rate, steps * stage.epochs),
                clipnorm=recipe.clip_norm,
            )
            optimizer.build(model.trainable_variables)
            model.compile(optimizer, WeightedTokenLoss())
            if len(history):
                model.load_weights(weights_file(folder, len(history)))
            journal = Journal(
                folder,
                history,
                lambda logs: {"reward": logs["reward"]},
                dev.features,
                dev.references,
                vocabulary,
                steps,
                seed,
            )
            _fit(model, journal, stage, vocabulary, training, seed)
            history = journal.history
    best_epoch = best_epoch_of(history)
    if history["dev_cider"].max() <= first.history["dev_cider"].max():
        return Training(first.model, history, 0, folder)
    model.load_weights(weights_file(folder, best_epoch))
    return Training(model, history, best_epoch, folder)


def summarise_self_critical(training: Training, first: Training) -> dict:
    """Counts and best values of a second stage, as `training.json` and the report show them."""
    history = training.history
    return {
        "epochs": len(history),
        "first_reward": float(history["reward"].iloc[0]),
        "final_reward": float(history["reward"].iloc[-1]),
        "best_dev_cider": float(max(history["dev_cider"].max(), first.history["dev_cider"].max())),
        "final_dev_cider": float(history["dev_cider"].iloc[-1]),
        "best_epoch": training.best_epoch,
        "seconds_per_epoch": float(read_seconds(training.folder)["seconds"].median()),
    }


def _fit(model, journal, stage: SelfCritical, vocabulary, training: CaptionSet, seed: int) -> None:
    reward = CaptionReward(training.references, vocabulary)
    sampler = CaptionSampler(model, stage.samples, stage.max_tokens)
    journal.set_model(model)
    journal.set_params({"epochs": stage.epochs})
    journal.on_train_begin()
    for epoch in range(len(journal.history), stage.epochs):
        journal.on_epoch_begin(epoch)
        random = np.random.default_rng([seed, epoch])
        rewards = []
        order = random.permutation(len(training.photos))
        for photos in np.split(order, range(stage.batch_size, len(order), stage.batch_size)):
            features = np.array(training.features[photos])
            if training.mirrored is not None:
                swapped = random.random(len(photos)) < 0.5
                features[swapped] = training.mirrored[photos[swapped]]
            drawn = sampler.draw(features, random)
            scores = np.array(
                [
                    [reward(photo, numbers[numbers != PAD]) for numbers in captions]
                    for photo, captions in zip(photos, drawn, strict=True)
                ]
            )
            rewards.append(scores.mean())
            _step(model, features, drawn, advantages(scores))
            journal.on_train_batch_end(None)
        journal.on_epoch_end(epoch, {"reward": 100 * float(np.mean(rewards))})
    journal.on_train_end()


def _step(model, features: np.ndarray, drawn: np.ndarray, advantage: np.ndarray) -> None:
    length = bucket_length(drawn.shape[-1])
    targets = np.full((*drawn.shape[:2], length), PAD, "int32")
    targets[..., : drawn.shape[-1]] = drawn
    tokens = np.full_like(targets, PAD)
    tokens[..., 0] = START
    tokens[..., 1:] = np.where(targets[..., :-1] == END, PAD, targets[..., :-1])
    real = targets != PAD
    weights = (advantage[..., None] * real / real.sum()).astype("float32")
    places = share().places(len(targets))
    weights = np.where(places[:, None, None] < 0, np.float32(0), weights[places])
    inputs = [features[places], tokens[places]]
    model.train_on_batch(inputs, targets[places], sample_weight=weights)
