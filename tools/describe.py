"""Describes photographs: `python -m utils.captioner PHOTO_OR_FOLDER ...`, from a terminal."""

import argparse
import json
import math
import os
import sys
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from utils.machinery.errors import CaptionProjectError, PhotographError
from utils.photographs import FORMATS


def main(arguments: list[str] | None = None) -> int:
    """Describes the photographs that are named; returns 1 if one of them could not be read."""
    _interrupts_in_a_sentence()
    parser = argparse.ArgumentParser(
        prog="python -m utils.captioner", description="Describes photographs, a sentence for each."
    )
    parser.add_argument("photos", nargs="+", metavar="PHOTO_OR_FOLDER")
    parser.add_argument("--captioner", metavar="NAME", help="a folder in models/, or of a run")
    parser.add_argument("--weights", metavar="FILE", help="of the encoder (default: downloaded)")
    parser.add_argument(
        "--beam", type=int, metavar="N", help="take the most probable caption of a beam of N"
    )
    parser.add_argument(
        "--json", action="store_true", help="an object a line, with all captions of the beam"
    )
    chosen = parser.parse_args(arguments)
    from utils.captioner import SHIPPED, Captioner  # takes seconds

    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # a terminal may not know a name's letters
    failed = False
    try:
        photos = [photo for given in chosen.photos for photo in _photographs(Path(given))]
        captioner = Captioner.load(chosen.captioner or SHIPPED, chosen.weights)
        bar = {"total": len(photos), "unit": "photograph", "leave": False}
        bar["disable"] = None if len(photos) > 1 else True  # None: only a terminal gets a bar
        for photo, found in tqdm(captioner.each(photos, chosen.beam, errors="skip"), **bar):
            told = {"photo": str(photo)} | _as_json(found, captioner.vocabulary)
            if "error" in told:
                failed = True
                tqdm.write(_printable(told["error"]), file=sys.stderr)
            if chosen.json:
                tqdm.write(json.dumps(told))
            elif "caption" in told:
                tqdm.write(_printable(f"{photo}: {told['caption']}"))
    except CaptionProjectError as error:
        print(_printable(str(error)), file=sys.stderr)
        return 1
    except BrokenPipeError:  # `| head` has seen enough; nothing is left to be written at the end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return int(failed)


def _interrupts_in_a_sentence() -> None:
    """Lets Ctrl+C end the program in one sentence; other errors are shown as ever."""
    usual = sys.excepthook

    def show(kind, error, traceback):
        if issubclass(kind, KeyboardInterrupt):
            print("\nStopped by Ctrl+C.", file=sys.stderr)
        else:
            usual(kind, error, traceback)

    sys.excepthook = show


def _photographs(given: Path) -> list[Path]:
    """The photographs of a folder by their names; else what is given."""
    known = {name for name, kind in Image.registered_extensions().items() if kind in FORMATS}
    try:
        inside = sorted(file for file in given.iterdir() if file.suffix.lower() in known)
    except OSError:  # no folder, or one that can't be read: reading the photograph tells
        inside = []
    return inside or [given]


def _as_json(found, vocabulary) -> dict:
    if isinstance(found, PhotographError):
        return {"error": str(found)}
    alternatives = [
        {
            "caption": " ".join(vocabulary.decode(hypothesis.token_ids)),
            "probability": math.exp(hypothesis.log_probability),
        }
        for hypothesis in found
    ]
    return {"caption": alternatives[0]["caption"], "alternatives": alternatives}


def _printable(text: str) -> str:
    """Text for a terminal, which control characters in a file's name could command."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )
