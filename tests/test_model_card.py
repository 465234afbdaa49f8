import json
import re

import keras
import numpy as np
import pytest
from PIL import Image

from tools.model_card import MODELS, score_split, write_model_card
from utils.captioner import Captioner
from utils.captions import RESERVED, Vocabulary
from utils.decoder import build_decoder, standardise
from utils.encoder import load_encoder
from utils.machinery.errors import MissingStageError, StaleArtefactError
from utils.machinery.files import file_hash, read_json, write_json
from utils.search import SearchSettings
from utils.settings import PROJECT, Settings

SHARED = PROJECT.parent / "shared"
WEIGHTS = {  # by the encoder of a captioner
    "mobilenet_v2": SHARED / "weights" / "mobilenet_v2_imagenet_notop.weights.h5",
    "xception_wide": SHARED / "weights" / "xception_imagenet_notop.half.weights.h5",
}
SHIPPED = sorted(file.parent for file in MODELS.glob("*/card.json"))
WORDS = ("a", "dog", "boat", "runs", "sails", "red", "blue")
each_shipped = pytest.mark.parametrize("folder", SHIPPED, ids=lambda folder: folder.name)


@pytest.fixture(scope="module")
def captioner():
    keras.utils.set_random_seed(3)
    decoder = build_decoder(
        "attention", len(WORDS) + 4, (7, 7, 1280), embedding_units=16, units=32, tied=True
    )
    encoder = load_encoder("mobilenet_v2", "none", seed=3)
    pixels = np.random.default_rng(0).integers(0, 255, (4, 224, 224, 3), "uint8")
    standardise(decoder, encoder.encode_spatial(pixels))
    return Captioner(encoder, decoder, Vocabulary((*RESERVED, *WORDS)), SearchSettings(2, 0.7, 6))


@pytest.fixture
def run(captioner, tmp_path, monkeypatch):
    """A finished run on a data set of a few photographs, as far as the model card looks at it."""
    data = tmp_path / "data"
    (data / "Flicker8k_Dataset").mkdir(parents=True)
    lines = []
    for number in range(9):
        name = f"{number}.jpg"
        picture = np.random.default_rng(number).integers(0, 255, (30, 40, 3), "uint8")
        Image.fromarray(picture).save(data / "Flicker8k_Dataset" / name)
        lines += [f"{name}#{place}\ta dog runs {number} {place}" for place in range(5)]
    (data / "Flickr8k.token.txt").write_text("\n".join(lines))
    for place, split in enumerate(("train", "dev", "test")):
        names = [f"{number}.jpg" for number in range(3 * place, 3 * place + 3)]
        (data / f"Flickr_8k.{split}Images.txt").write_text("\n".join(names))
    settings = Settings("flickr8k", data, "mobilenet_v2", "none", "attention", runs=tmp_path)
    captioner.save(settings.run_folder)
    scores = {"BLEU-1": 61.8, "BLEU-4": 20.3, "ROUGE-L": 46.2, "CIDEr": 52.0}
    metrics = {
        "encoder": {"name": "mobilenet_v2", "image_size": 224},
        "decoder": "attention",
        "counts": {"photographs": {"train": 3, "dev": 3, "test": 3}, "vocabulary": 11},
        "recipes": {"ours": {"parameters": captioner.decoder.count_params()}},
        "stage": "first stage",
        "scores": [{"name": "ours, beam 2", "recipe": "ours", "beam": 2, **scores}],
    }
    write_json(settings.metrics_file, metrics)
    return settings


def test_a_shipped_captioner_has_a_card_with_the_scores_of_its_own_files(run, tmp_path):
    folder = write_model_card(run, tmp_path / "shipped")
    card = (folder / "README.md").read_text()
    assert file_hash(folder / "decoder.npz") in card
    assert "make run model DATASET=flickr8k ENCODER=mobilenet_v2 DECODER=attention" in card
    assert "| test, in the run | 61.8 | 20.3 | 46.2 | 52.0 |" in card
    assert "$" not in card
    scores = score_split(Captioner.load(folder), run, "dev")
    assert read_json(folder / "card.json")["dev"] == pytest.approx(scores)
    assert f"{scores['ROUGE-L']:.1f}" in card


def test_a_run_without_scores_is_not_shipped(run):
    run.metrics_file.unlink()
    with pytest.raises(MissingStageError, match="notebook 05"):
        write_model_card(run)


def test_half_precision_halves_the_file_and_hardly_moves_a_probability(captioner, tmp_path):
    captioner.save(tmp_path / "whole")
    captioner.save(tmp_path / "half", half=True)
    sizes = [(tmp_path / name / "decoder.npz").stat().st_size for name in ("whole", "half")]
    assert sizes[1] < 0.6 * sizes[0]
    photos = [np.full((20, 20, 3), shade, "uint8") for shade in (10, 120, 240)]
    halved = Captioner.load(tmp_path / "half", weights="none")
    for before, after in zip(captioner.hypotheses(photos), halved.hypotheses(photos), strict=True):
        assert before[0].token_ids == after[0].token_ids
        assert before[0].log_probability == pytest.approx(after[0].log_probability, rel=0.01)


def test_another_copy_of_the_same_encoder_is_taken_and_another_encoder_is_not(run):
    file = run.run_folder / "captioner.json"
    description = json.loads(file.read_text())
    noise = np.random.default_rng(0).normal(0, 0.01 * np.std(description["probe"]), 1280)
    description["weights_hash"] = "0" * 64  # as if it were rounded differently
    file.write_text(json.dumps(description | {"probe": list(description["probe"] + noise)}))
    assert Captioner.load(run.run_folder).encoder.name == "mobilenet_v2"
    file.write_text(json.dumps(description | {"probe": description["probe"][::-1]}))
    with pytest.raises(StaleArtefactError, match="weights="):
        Captioner.load(run.run_folder)


@each_shipped
def test_a_shipped_card_is_of_the_files_beside_it(folder):
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert re.search(r"`([0-9a-f]{64})`", card)[1] == file_hash(folder / "decoder.npz")
    assert sum(file.stat().st_size for file in folder.iterdir()) <= 25_000_000
    assert f"{read_json(folder / 'card.json')['dev']['CIDEr']:.1f}" in card


@each_shipped
@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared")
def test_a_shipped_captioner_scores_on_dev_what_its_card_says(folder):
    settings = Settings("flickr8k", SHARED / "flickr8k")
    encoder = read_json(folder / "captioner.json")["encoder"]
    scores = score_split(Captioner.load(folder, WEIGHTS[encoder]), settings, "dev")
    assert scores["CIDEr"] == pytest.approx(
        read_json(folder / "card.json")["dev"]["CIDEr"], abs=0.5
    )
