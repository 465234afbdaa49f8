"""The closing lines of `make run`: scores with what they were measured on, and paths."""

import copy
import io
import sys

import pytest

from tools.summary import main, summary
from utils.machinery.errors import MissingStageError, StaleArtefactError
from utils.machinery.files import record_files, write_json, write_text
from utils.settings import Settings

METRICS = {
    "format": 1,
    "run": "sample-xception-merge",
    "dataset": "sample",
    "encoder": {"name": "xception", "weights": "none", "trained": False},
    "decoder": "merge",
    "seed": 42,
    "epochs": 20,
    "protocol": "Raw captions against five raw references.",
    "scores": [
        {
            "name": "ours",
            "split": "test",
            "images": 1000,
            "beam": 5,
            "BLEU-1": 61.25,
            "BLEU-2": 43.0,
            "BLEU-3": 29.9,
            "BLEU-4": 20.46,
            "ROUGE-L": 45.7,
            "CIDEr": 52.44,
        }
    ],
}


def write_scores(settings: Settings, metrics: dict = METRICS) -> None:
    write_json(settings.metrics_file, metrics)
    record_files("notebook 05_evaluate_captions", settings.metrics_file)


def test_scores_stand_beside_split_beam_protocol_encoder_and_decoder(tmp_path):
    settings = Settings(runs=tmp_path)
    write_scores(settings)
    write_text(settings.predictions_file, "photo")

    lines = summary(settings).splitlines()

    heading, row = (line.split() for line in lines[2:4])
    assert dict(zip(["name", *heading], row, strict=True)) == {
        "name": "ours",
        "split": "test",
        "images": "1,000",
        "beam": "5",
        "BLEU-1": "61.2",
        "BLEU-2": "43.0",
        "BLEU-3": "29.9",
        "BLEU-4": "20.5",
        "ROUGE-L": "45.7",
        "CIDEr": "52.4",
    }
    assert len(lines[2]) == len(lines[3])
    text = "\n".join(lines)
    assert "Raw captions against five raw references." in text
    assert "xception (untrained weights), decoder merge, 20 epochs, seed 42" in text
    assert str(settings.predictions_file) in text
    assert str(settings.report_file) not in text


def test_a_run_without_scores_says_which_notebook_makes_them(tmp_path):
    with pytest.raises(MissingStageError, match="notebook 05"):
        summary(Settings(runs=tmp_path))


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (("run",), None),
        (("epochs",), "20"),
        (("encoder",), "xception"),
        (("encoder", "trained"), "yes"),
        (("scores",), {}),
        (("scores", 0), 61.25),
        (("scores", 0, "images"), "many"),
        (("scores", 0, "CIDEr"), None),
        (("scores", 0, "CIDEr"), "52"),
    ],
)
def test_scores_of_another_form_are_refused(tmp_path, where, value):
    settings = Settings(runs=tmp_path)
    metrics = copy.deepcopy(METRICS)
    inner = metrics
    for key in where[:-1]:
        inner = inner[key]
    inner[where[-1]] = value
    write_scores(settings, metrics)
    with pytest.raises(StaleArtefactError, match=r"metrics\.json.*notebook 05"):
        summary(settings)


def test_scores_that_were_cut_or_edited_are_a_sentence_and_no_traceback(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("RUNS", str(tmp_path))
    settings = Settings.from_environment()
    write_scores(settings)
    whole = settings.metrics_file.read_text()
    settings.metrics_file.write_text(whole[:-9])
    record_files("notebook 05_evaluate_captions", settings.metrics_file)
    assert main() == 1
    assert "not JSON" in capsys.readouterr().err
    write_scores(settings)
    settings.metrics_file.write_text(whole.replace("52.44", "95.44"))
    assert main() == 1
    assert "changed since notebook 05" in capsys.readouterr().err
    for record in ('{"format": 1, "files": {}}', None):
        file = settings.run_folder / "stages.json"
        file.unlink() if record is None else file.write_text(record)
        assert main() == 1
        assert "stages.json does not tell whether it is as notebook 05" in capsys.readouterr().err


def test_control_characters_never_reach_a_terminal_which_need_not_have_every_letter(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("RUNS", str(tmp_path))
    settings = Settings.from_environment()
    write_scores(settings, METRICS | {"protocol": "\x1b[2J\r \u732b"})
    written = io.BytesIO()
    with io.TextIOWrapper(written, encoding="latin-1") as terminal:
        monkeypatch.setattr(sys, "stdout", terminal)
        assert main() == 0
        terminal.flush()
        shown = written.getvalue().decode("latin-1")
    assert "Protocol: \\x1b[2J\\r ?" in shown
    assert all(char.isprintable() or char == "\n" for char in shown)
