import json
import multiprocessing
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from PIL import Image

from tools.describe import main
from utils.captioner import MODELS, SHIPPED, Captioner
from utils.captions import RESERVED, Vocabulary
from utils.decoder import build_decoder, standardise
from utils.encoder import load_encoder
from utils.machinery.checkpoints import load_decoder, save_decoder
from utils.machinery.errors import (
    CaptionProjectError,
    EncoderError,
    MissingStageError,
    PhotographError,
    SettingsError,
    StaleArtefactError,
)
from utils.photographs import load_pixels
from utils.search import Consensus, SearchSettings
from utils.self_critical import WeightedTokenLoss
from utils.settings import PROJECT

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
    decoder = build_decoder("merge", len(WORDS) + 4, (1280,), embedding_units=8, units=10)
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
def bundle(captioner, tmp_path):
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


def test_a_consensus_travels_with_the_bundle(captioner, photos, tmp_path):
    consensus = Consensus.of([[["a", "dog"], ["a", "boat"]], [["a", "dog"]]], captioner.vocabulary)
    search = SearchSettings(8, 0.7, 6, inverse_temperature=0.2)
    parts = (captioner.encoder, captioner.decoder, captioner.vocabulary)
    together = Captioner(*parts, search, consensus)
    together.save(tmp_path / "bundle")
    loaded = Captioner.load(tmp_path / "bundle")
    assert loaded.captions(photos) == together.captions(photos)
    found = search.searcher(captioner.decoder, consensus).search(encoded(captioner, photos))
    assert [one[0].token_ids for one in loaded.hypotheses(photos)] == [
        one[0].token_ids for one in found
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


def test_a_captioner_with_attention_tells_where_it_looked(captioner, photos, tmp_path):
    decoder = build_decoder(
        "attention", len(WORDS) + 4, (7, 7, 1280), embedding_units=8, units=10, heads=2
    )
    looking = Captioner(captioner.encoder, decoder, captioner.vocabulary, SearchSettings(1))
    looking.save(tmp_path)
    found = looking.hypotheses(photos[:1])
    again = Captioner.load(tmp_path).hypotheses(photos[:1])
    for ((hypothesis,),) in (found, again):
        assert hypothesis.attention.shape == (len(hypothesis.token_ids) + 1, 49)
    assert again == found
    np.testing.assert_allclose(again[0][0].attention, found[0][0].attention, atol=1e-6)


def test_no_photographs_give_no_captions(captioner):
    assert captioner.captions([]) == []


def test_one_photograph_needs_no_list_and_a_batch_or_a_generator_is_several(
    captioner, photos, tmp_path
):
    Image.fromarray(photos[0]).save(tmp_path / "photo.png")
    expected = captioner.captions(photos)
    for one in (str(tmp_path / "photo.png"), tmp_path / "photo.png", photos[0]):
        assert captioner.captions(one) == expected[:1]
    assert captioner.captions(Image.open(tmp_path / "photo.png")) == expected[:1]
    assert captioner.captions(np.stack(photos)) == expected
    assert captioner.captions(photo for photo in photos) == expected


@pytest.mark.parametrize("nonsense", [None, 7, b"photo.jpg", np.zeros((1, 2, 4, 4, 3), "uint8")])
def test_what_is_no_photograph_is_refused(captioner, nonsense):
    with pytest.raises(PhotographError, match="expected"):
        captioner.captions(nonsense)


@pytest.mark.parametrize("beam", [0, -1, "5", 2.5, True, 1_000_000])
def test_a_beam_that_is_none_is_refused(captioner, photos, beam):
    with pytest.raises(SettingsError, match=r"beam is .*expected a whole number"):
        captioner.captions(photos, beam)


def test_a_bad_photograph_loses_only_itself_if_asked_for(captioner, photos, tmp_path):
    mixed = [photos[0], tmp_path / "gone.jpg", photos[1]]
    expected = captioner.captions(photos[:2])
    assert captioner.captions(mixed, errors="skip") == [expected[0], None, expected[1]]
    with pytest.raises(PhotographError, match=r"gone\.jpg"):
        captioner.captions(mixed)
    with pytest.raises(SettingsError, match="errors is 'ignore'"):
        captioner.captions(mixed, errors="ignore")


def test_photographs_are_read_a_few_at_a_time(captioner, photos):
    """What is held at once doesn't grow with the number of photographs."""
    taken = []

    def endless():
        while True:
            taken.append(1)
            yield photos[0]

    results = captioner.each(endless(), 1)
    for _ in range(33):
        next(results)
    assert len(taken) == 64


def _caption_in_child(captioner, photo, answers):
    try:
        answers.put(captioner.caption(photo))
    except CaptionProjectError as error:
        answers.put(str(error))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_fork_is_told_to_spawn_instead_of_hanging(captioner, photos):
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    child = context.Process(target=_caption_in_child, args=(captioner, photos[0], answers))
    child.start()
    answer = answers.get(timeout=60)
    child.join()
    assert "spawn" in answer


def test_a_captioner_needs_nothing_of_training_and_nothing_of_the_environment():
    code = (
        "import sys, utils.captioner\n"
        "unneeded = 'training self_critical evaluation features dataset batches figures'.split()\n"
        "print([name for name in sys.modules if name in {f'utils.{x}' for x in unneeded}])\n"
        "print([n for n in sys.modules if n.split('.')[0] in ('matplotlib', 'tools', 'sample')])"
    )
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "LIMIT": "x", "DATASET": "none"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split("\n")[:1] == ["[]"]
    assert done.stderr == ""


def test_what_is_not_a_picture_is_refused_by_name(captioner, tmp_path):
    (tmp_path / "notes.jpg").write_text("not a picture")
    with pytest.raises(PhotographError, match=r"notes\.jpg"):
        captioner.caption(tmp_path / "notes.jpg")


def test_a_folder_without_a_bundle_names_the_notebook_that_makes_one(tmp_path):
    with pytest.raises(MissingStageError, match="notebook 05"):
        Captioner.load(tmp_path)


def test_a_shipped_captioner_refuses_random_weights():
    with pytest.raises(StaleArtefactError, match=r"trained on features.*weights=.*check_encoder"):
        Captioner.load(SHIPPED, weights="none")


@pytest.mark.parametrize("name", [SHIPPED, f"models/{SHIPPED}", str(MODELS / SHIPPED)])
def test_a_shipped_captioner_is_found_from_anywhere(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EncoderError, match=r"gone\.h5"):  # so far it came
        Captioner.load(name, weights="gone.h5")


def test_an_unknown_captioner_is_refused_with_those_that_come_with_the_project():
    with pytest.raises(MissingStageError, match=f"'flickr8k-nothing'.*{SHIPPED}"):
        Captioner.load("flickr8k-nothing")


def test_a_folder_may_lie_at_home(bundle, monkeypatch, photos, captioner):
    monkeypatch.setenv("HOME", str(bundle.parent))
    assert Captioner.load("~/bundle").captions(photos) == captioner.captions(photos)


def test_weights_that_could_not_be_downloaded_may_be_named(bundle, monkeypatch):
    description = json.loads((bundle / "captioner.json").read_text())
    (bundle / "captioner.json").write_text(json.dumps(description | {"weights": "imagenet"}))
    monkeypatch.setattr(keras.applications, "MobileNetV2", _no_network)
    with pytest.raises(EncoderError, match=r"could not be downloaded.*weights=<file>"):
        Captioner.load(bundle)


def _no_network(**options):
    raise Exception("URL fetch failure")


@pytest.mark.parametrize("name", ["decoder.npz", "vocabulary.json"])
def test_a_file_of_another_training_is_refused(bundle, name):
    with (bundle / name).open("ab") as file:
        file.write(b" ")
    with pytest.raises(StaleArtefactError, match=name.replace(".", r"\.")):
        Captioner.load(bundle)


def test_a_huge_file_is_refused_before_it_is_read(bundle):
    os.truncate(bundle / "decoder.npz", 4 << 30)  # which takes no room on the disk
    with pytest.raises(StaleArtefactError, match=r"decoder\.npz.*4,294,967,296 bytes"):
        Captioner.load(bundle)


def test_an_encoder_with_other_weights_is_refused_unless_it_is_meant(bundle, captioner, tmp_path):
    description = json.loads((bundle / "captioner.json").read_text())
    other = description | {"weights": "untrained, seed 4"}
    (bundle / "captioner.json").write_text(json.dumps(other))
    with pytest.raises(StaleArtefactError, match=r"trained on features of mobilenet_v2.*found are"):
        Captioner.load(bundle)
    assert Captioner.load(bundle, check_encoder=False).encoder.weights == "untrained, seed 4"


def test_weights_of_zero_are_refused(bundle, captioner, tmp_path):
    zero = load_encoder("mobilenet_v2", "none").cnn
    zero.set_weights([np.zeros_like(weight) for weight in zero.get_weights()])
    zero.save_weights(tmp_path / "zero.weights.h5")
    with pytest.raises(StaleArtefactError, match=r"found are file zero\.weights\.h5"):
        Captioner.load(bundle, weights=tmp_path / "zero.weights.h5")


WRONG = [
    ("format", 99),
    ("format", "4"),
    ("encoder", "alexnet"),
    ("encoder", ["mobilenet_v2"]),
    ("decoder", "lambda"),
    ("weights", "untrained, seed x"),
    ("weights", 7),
    ("weights_hash", "f"),
    ("decoder_hash", None),
    ("vocabulary_hash", 1),
    ("probe", [1.0] * 1280),
    ("probe", [1.0, float("nan")]),
    ("probe", "1 2 3"),
    ("probe", []),
    ("search", []),
    ("search.beam", 0),
    ("search.beam", True),
    ("search.beam", 100_000),
    ("search.beam", 2.5),
    ("search.max_tokens", 10_000_000),
    ("search.length_penalty", float("nan")),
    ("search.length_penalty", float("inf")),
    ("search.length_penalty", "1"),
    ("search.inverse_temperature", -1),
    ("search.inverse_temperature", [1] * 10_000),
    ("search.width", 3),
]


@pytest.mark.parametrize(("field", "value"), WRONG, ids=lambda value: str(value)[:20])
def test_a_description_with_a_wrong_field_is_refused_by_its_name(bundle, field, value):
    description = json.loads((bundle / "captioner.json").read_text())
    group, _, name = field.rpartition(".")
    (description[group] if group else description)[name] = value
    (bundle / "captioner.json").write_text(json.dumps(description))
    with pytest.raises(StaleArtefactError, match=rf"captioner\.json.*{name}") as caught:
        Captioner.load(bundle)
    assert len(str(caught.value)) < 1000


def test_a_probe_of_another_length_is_refused(bundle):
    description = json.loads((bundle / "captioner.json").read_text())
    (bundle / "captioner.json").write_text(
        json.dumps(description | {"probe": description["probe"][:-1]})
    )
    with pytest.raises(StaleArtefactError, match="trained on features"):
        Captioner.load(bundle)


@pytest.mark.parametrize("field", ["format", "encoder", "weights", "probe", "search", "decoder"])
def test_a_description_that_lacks_a_field_is_refused(bundle, field):
    description = json.loads((bundle / "captioner.json").read_text())
    del description[field]
    (bundle / "captioner.json").write_text(json.dumps(description))
    with pytest.raises(StaleArtefactError, match=field):
        Captioner.load(bundle)


@pytest.mark.parametrize(
    "content", [b"", b"by hand", b"[1]", b"[" * 100_000, b" " * 2_000_000 + b"{}", b"\xff"]
)
def test_a_description_that_is_none_is_refused(bundle, content):
    (bundle / "captioner.json").write_bytes(content)
    with pytest.raises(StaleArtefactError, match=r"captioner\.json"):
        Captioner.load(bundle)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes in folders")
def test_a_pipe_in_place_of_a_description_is_refused_at_once(bundle):
    (bundle / "captioner.json").unlink()
    os.mkfifo(bundle / "captioner.json")
    with pytest.raises(StaleArtefactError, match="regular file"):
        Captioner.load(bundle)


# The command line


@pytest.fixture
def album(photos, tmp_path):
    (tmp_path / "album").mkdir()
    for number, photo in enumerate(photos):
        Image.fromarray(photo).save(tmp_path / "album" / f"{number}.png")
    (tmp_path / "album" / "notes.txt").write_text("no photograph")
    return tmp_path / "album"


def test_the_command_describes_a_folder_and_a_bad_photograph_loses_only_itself(
    album, bundle, captioner, photos, capsys
):
    (album / "2\x1b[31m.jpg").write_text("no photograph")
    assert main([str(album), "--captioner", str(bundle)]) == 1
    shown = capsys.readouterr()
    expected = captioner.captions(photos)
    lines = [f"{album / f'{number}.png'}: {text}" for number, text in enumerate(expected)]
    assert shown.out.splitlines() == lines
    assert r"2\x1b[31m.jpg is not a picture" in shown.err
    assert "\x1b" not in shown.err


def test_the_command_writes_json_with_alternatives(album, bundle, captioner, photos, capsys):
    photo = str(album / "0.png")
    assert main([photo, "gone.jpg", "--json", "--beam", "2", "--captioner", str(bundle)]) == 1
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert (first["photo"], first["caption"]) == (photo, captioner.caption(photos[0], 2))
    assert first["alternatives"][0]["caption"] == first["caption"]
    assert all(0 < kind["probability"] < 1 for kind in first["alternatives"])
    assert "does not exist" in second["error"]


@pytest.mark.parametrize(
    "wrong", [["--captioner", "nothing"], ["--beam", "0"], ["--weights", "/gone.h5"]]
)
def test_the_command_says_what_is_wrong_in_a_sentence(album, bundle, capsys, wrong):
    assert main([str(album), "--captioner", str(bundle), *wrong]) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert len(shown.err.splitlines()) == 1


def test_ctrl_c_ends_the_command_in_a_sentence_and_errors_are_shown_as_ever(monkeypatch, capsys):
    shown = []
    monkeypatch.setattr(sys, "excepthook", lambda *error: shown.append(error[0]))
    with pytest.raises(SystemExit):
        main(["--help"])
    capsys.readouterr()
    sys.excepthook(KeyboardInterrupt, KeyboardInterrupt(), None)
    sys.excepthook(ValueError, ValueError(), None)
    assert capsys.readouterr().err.strip() == "Stopped by Ctrl+C."
    assert shown == [ValueError]
