"""The closing lines of `make run`: scores with what they were measured on, and paths."""

import pytest

from tools.summary import summary
from utils.machinery.errors import MissingStageError
from utils.machinery.files import write_json, write_text
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


def test_scores_stand_beside_split_beam_protocol_encoder_and_decoder(tmp_path):
    settings = Settings(runs=tmp_path)
    write_json(settings.metrics_file, METRICS)
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
