"""Self-critical training: the decoder's own captions, judged by CIDEr, teach it.

A decoder that was trained on people's captions learns the next word of a caption that is right so
far. In use it reads its own words, and is judged by the whole caption. Here it draws captions for
the training photographs; what scores better than the mean of its photograph's other captions
becomes more probable, what scores worse less (Rennie et al. 2017, "Self-critical sequence
training"; Luo 2020, "A better variant of self-critical sequence training").

The gradient is that of a cross-entropy over the drawn captions, in which each caption weighs as
much as it was better than the others. So plain Keras does it, on every backend.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial

import keras
import numpy as np

from utils.batches import CaptionSet, bucket_length
from utils.captions import END, PAD, START, Vocabulary
from utils.decoder import copy_decoder
from utils.machinery.checkpoints import seconds_per_epoch
from utils.machinery.devices import Devices, distributed, share
from utils.machinery.files import content_hash
from utils.metrics import Cider, tokenize
from utils.search import CaptionSampler
from utils.training import Recipe, Training, fit_resumably, token_losses

_END_WORD = "<end>"


@dataclass(frozen=True)
class SelfCritical:
    """How the second stage trains."""

    epochs: int = 3  # how often every photograph is seen
    samples: int = 5  # captions drawn of each photograph, at least two
    batch_size: int = 64  # photographs a step
    # Of Adam, falling to zero along a cosine. Twice as much can be too much: the reward rises
    # faster, and dev collapses in the second epoch.
    learning_rate: float = 2e-5
    max_tokens: int = 20  # where a drawn caption is cut off


def our_stage(dataset: str) -> SelfCritical:
    """Returns the second stage in the size that fits the data set."""
    # The sample has a twelfth of the photographs: smaller batches, so that it makes enough steps.
    return SelfCritical(batch_size=32) if dataset == "sample" else SelfCritical()


class CaptionReward:
    """CIDEr of drawn captions against the `references` of each photograph, raw captions.

    The END is scored as a word, in captions and references: without it a decoder learns to leave
    its sentences open.
    """

    def __init__(self, references: Sequence[Sequence[str]], vocabulary: Vocabulary):
        words = [[[*tokenize(text), _END_WORD] for text in group] for group in references]
        self._vocabulary, self._cider = vocabulary, Cider(words)

    def __call__(self, photo: int, token_ids: Sequence[int]) -> float:
        """Scores a drawn caption, 0 to 10; its END is there unless it was cut off."""
        words = tokenize(" ".join(self._vocabulary.decode(token_ids)))
        if len(token_ids) and token_ids[-1] == END:
            words.append(_END_WORD)
        return self._cider.score(words, photo)


class WeightedTokenLoss(keras.losses.Loss):
    """Cross-entropy of every token, times its weight, summed: `sample_weight` is the advantage."""

    def __init__(self):
        super().__init__(name="weighted_token_loss", reduction="sum")

    def call(self, y_true, y_pred):
        return token_losses(y_true, y_pred)


def advantages(rewards: np.ndarray) -> np.ndarray:
    """How much better each caption is than the mean of its photograph's others, `(n, samples)`."""
    samples = rewards.shape[1]
    others = (rewards.sum(axis=1, keepdims=True) - rewards) / (samples - 1)
    return rewards - others


def train_self_critical(
    first: Training,
    *,
    recipe: Recipe,
    stage: SelfCritical,
    vocabulary: Vocabulary,
    training: CaptionSet,
    dev: CaptionSet,
    epochs: int | None = None,
    seed: int = 42,
    devices: Devices | None = None,
) -> Training:
    """Trains a trained decoder further on its own captions, or goes on where it was killed.

    Dropout is off: what is judged must be what was drawn. Several devices share the steps, and each
    draws all captions for itself.

    Args:
        first: the finished first stage; this one lies in a folder inside its own.
        recipe: of the first stage, whose `clip_norm` is kept.
        vocabulary, training, dev, devices: as for the first stage.
        epochs: cuts the stage's epochs short.
        seed: of drawing and of the order of the photographs.

    Returns the decoder after the best epoch by dev CIDEr: where nothing got better, that of epoch
    0, the first stage. Raises what `fit_resumably` does.
    """
    stage = replace(stage, epochs=min(epochs or stage.epochs, stage.epochs))
    identity = {"first": first.folder.name, "best_epoch": first.best_epoch, "stage": asdict(stage)}
    identity["seed"] = seed
    with distributed(devices):
        model = copy_decoder(first.model, image_dropout=0.0, text_dropout=0.0, output_dropout=0.0)
        second = fit_resumably(
            model,
            partial(_fit, model, stage, recipe.clip_norm, vocabulary, training, seed),
            folder=first.folder / f"self_critical-{content_hash(identity)[:8]}",
            identity=identity,
            figures={"reward": "reward"},
            epochs=stage.epochs,
            vocabulary=vocabulary,
            dev=dev,
            seed=seed,
        )
    if second.history["dev_cider"].max() <= first.history["dev_cider"].max():
        return replace(second, model=first.model, best_epoch=0)
    return second


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
        "seconds_per_epoch": seconds_per_epoch(training.folder),
    }


def _fit(model, stage: SelfCritical, clip_norm, vocabulary, training, seed, journal) -> None:
    """Trains the epochs that `journal` hasn't yet: draw, score, and a step after the advantages."""
    steps = -(-len(training.photos) // stage.batch_size)
    rate = keras.optimizers.schedules.CosineDecay(stage.learning_rate, steps * stage.epochs)
    optimizer = keras.optimizers.Adam(rate, clipnorm=clip_norm)
    optimizer.build(model.trainable_variables)
    model.compile(optimizer, WeightedTokenLoss())
    reward = CaptionReward(training.references, vocabulary)
    sampler = CaptionSampler(model, stage.samples, stage.max_tokens)
    journal.set_model(model)
    journal.set_params({"epochs": stage.epochs, "steps": steps})
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
            scores = [
                [reward(photo, own[own != PAD]) for own in group]
                for photo, group in zip(photos, drawn, strict=True)
            ]
            rewards.append(np.mean(scores))
            _step(model, features, drawn, advantages(np.array(scores)))
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
