"""What happens when something goes wrong, case by case, as a table.

A case is a function that brings about what its name says in an empty folder, checks that nothing
else was harmed, and returns what came of it in a few words, or lets a `CaptionProjectError` out:
then the outcome is "refused: " and its message, as a user reads it. To add cases, write

    @row("Group", "what went wrong")
    def _(folder: Path) -> str: ...

in a module of this package. `make robustness` writes the table, `report/robustness.json`.
`tests/test_robustness.py` fails where a case ends in another way, with another class of error, or
without one of the `key_words` that stand in the table; other words of a message may change.
"""

import re
import tempfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

from utils.machinery.errors import CaptionProjectError
from utils.machinery.files import write_json
from utils.settings import PROJECT

TABLE = PROJECT / "report" / "robustness.json"

_HASH = r"\b[0-9a-f]{12}(?=…)|(?<=\()[0-9a-f]{8}(?=\))|(?<=-)[0-9a-f]{8}\b"

_cases: dict[tuple[str, str], Callable[[Path], str]] = {}


def row(group: str, case: str, *arguments) -> Callable:
    """Adds a row to the table, made by the decorated `function(folder, *arguments)`."""

    def add(function: Callable) -> Callable:
        assert (group, case) not in _cases, f"{case!r} is already in {group!r}"
        _cases[group, case] = lambda folder: function(folder, *arguments)
        return function

    return add


def all_cases() -> dict[tuple[str, str], Callable[[Path], str]]:
    """Every case by its group and name, in the order of the table."""
    for module in iter_modules(__path__):
        if module.name != "__main__":
            import_module(f"{__name__}.{module.name}")
    return dict(sorted(_cases.items()))


def outcome(case: Callable[[Path], str], folder: Path) -> tuple[str, str]:
    """Runs a case in `folder`.

    Returns:
        What came of it, in words that are the same on any machine, and the class of the error
        that refused it, or "".
    """
    refused = ""
    try:
        told = case(folder)
    except CaptionProjectError as error:
        told, refused = f"refused: {error}", type(error).__name__
    for machine, anywhere in ((f"{folder}/", ""), (folder, "the folder"), (Path.cwd(), "here")):
        told = told.replace(str(machine), anywhere)
    told = re.sub(r"\[Errno -?\d+\] ", "", told)  # numbers differ between systems
    told = re.sub(
        r"\b[0-9a-f]{12}(?=…)|(?<=\()[0-9a-f]{8}(?=\))|(?<=-)[0-9a-f]{8}\b", "<hash>", told
    )
    return re.sub(r"127\.0\.0\.1:\d+", "server", told), refused


def key_words(told: str) -> set[str]:
    """The names in an outcome: of files, of settings, of what is to be typed, and figures."""
    words = (word.strip(".,:;!?()[]{}'\"`…") for word in told.split())
    return {word for word in words if re.search(r"\d|\w[._/=]\w|^[A-Z]{3,}", word)}


def write_table() -> int:
    """Runs every case and writes `TABLE`, a list of `{"group", "case", "outcome", "error"}`.

    Returns:
        How many cases ended in an error that is none of the project's; they keep no row.
    """
    rows, raw = [], 0
    for (group, name), case in all_cases().items():
        with tempfile.TemporaryDirectory() as folder:
            try:
                told, refused = outcome(case, Path(folder))
            except Exception as error:
                print(f"RAW {group}: {name}: {type(error).__name__}: {error}")
                raw += 1
                continue
        rows.append({"group": group, "case": name, "outcome": told, "error": refused})
        print(f"{group}: {name}: {told}")
    write_json(TABLE, rows)
    print(f"{len(rows)} cases written; {raw} ended in a raw error")
    return raw
