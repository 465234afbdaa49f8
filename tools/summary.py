"""Prints the scores of a run and where its files lie: `python -m tools.summary`."""

import sys
from pathlib import Path
from typing import Any

from utils.machinery.errors import CaptionProjectError
from utils.machinery.files import check_fields, read_json, require
from utils.settings import Settings, short_path

NOTEBOOK = "notebook 05_evaluate_captions"
METRICS = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L", "CIDEr")


def summary(settings: Settings) -> str:
    """The scores of a finished run, what they were measured on and with, and its files.

    Raises:
        MissingStageError: the run has no scores yet.
        StaleArtefactError: the file of scores was cut or edited, or nothing tells that it was not.
    """
    remedy = f"Run {NOTEBOOK} again."
    file = require(settings.metrics_file, NOTEBOOK, recorded=True)
    fields = dict.fromkeys(("run", "protocol", "dataset", "decoder"), str)
    fields |= {"encoder": dict, "scores": list, "epochs": int, "seed": int}
    metrics = read_json(file, remedy, fields)
    encoder = check_fields(metrics["encoder"], {"name": str, "trained": bool}, file, remedy)
    for score in metrics["scores"]:
        fields = {"name": str, "split": str, "images": int, "beam": int}
        check_fields(score, fields | dict.fromkeys(METRICS, float), file, remedy)
    state = "trained weights" if encoder["trained"] else "untrained weights"
    lines = "\n".join(
        [
            f"Scores of {metrics['run']} (x100)",
            "",
            *_table(metrics["scores"]),
            "",
            f"Protocol: {metrics['protocol']}",
            f"Data set {metrics['dataset']}, encoder {encoder['name']} ({state}), "
            f"decoder {metrics['decoder']}, {metrics['epochs']} epochs, seed {metrics['seed']}",
            "",
            *(f"{what:<19} {short_path(path)}" for what, path in _files(settings) if path.exists()),
        ]
    )
    # Control characters, from names or from an edited file, could command a terminal.
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in lines)


def _table(scores: list[dict[str, Any]]) -> list[str]:
    """One line per score, columns aligned; a beam of 1 is greedy search."""
    rows = [["", "split", "images", "beam", *METRICS]]
    for score in scores:
        numbers = [f"{score[metric]:.1f}" for metric in METRICS]
        rows.append(
            [score["name"], score["split"], f"{score['images']:,}", str(score["beam"]), *numbers]
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            [row[0].ljust(widths[0])]
            + [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        )
        for row in rows
    ]


def _files(settings: Settings) -> list[tuple[str, Path]]:
    return [
        ("Report", settings.report_file),
        ("Notebooks that ran", settings.notebooks_folder),
        ("Figures", settings.figures_folder),
        ("Captions", settings.predictions_file),
        ("Scores", settings.metrics_file),
        ("Model", settings.decoder_file),
    ]


def main() -> int:
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # not every terminal has every character
    try:
        print(f"\n{summary(Settings.from_environment())}")
    except CaptionProjectError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
