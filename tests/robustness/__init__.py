"""What happens to everything that may go wrong, case by case, as a table.

A case is a function that brings about what its name says in an empty folder, checks that nothing
else was harmed, and returns what came of it in a few words, or lets a `CaptionProjectError` out:
then the outcome is "refused: " and its message, as a user reads it. To add cases, write

    @row("Group", "what went wrong")
    def _(folder: Path) -> str: ...

in a module of this package, and add its name to `MODULES`. `make robustness` writes the table,
`report/robustness.json`, and `tests/test_robustness.py` fails where it isn't what happens now.
"""

import re
import tempfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from utils.machinery.errors import CaptionProjectError
from utils.machinery.files import write_json
from utils.settings import PROJECT

TABLE = PROJECT / "report" / "robustness.json"
MODULES = ("photographs", "caption_files", "downloads", "artefacts", "trust", "runs")

_cases: dict[tuple[str, str], Callable[[Path], str]] = {}


def row(group: str, case: str, *arguments) -> Callable:
    """Adds a row to the table, made by the decorated `function(folder, *arguments)`."""

    def add(function: Callable) -> Callable:
        assert (group, case) not in _cases, f"{case!r} stands in {group!r} already"
        _cases[group, case] = lambda folder: function(folder, *arguments)
        return function

    return add


def all_cases() -> dict[tuple[str, str], Callable[[Path], str]]:
    """Every case by its group and name, in the order of the table."""
    for name in MODULES:
        import_module(f"{__name__}.{name}")
    return dict(sorted(_cases.items()))


def outcome(case: Callable[[Path], str], folder: Path) -> str:
    """Runs a case in `folder`; says what came of it, in words that are the same on any machine."""
    try:
        told = case(folder)
    except CaptionProjectError as error:
        told = f"refused: {error}"
    for machine, anywhere in ((f"{folder}/", ""), (folder, "the folder"), (Path.cwd(), "here")):
        told = told.replace(str(machine), anywhere)
    told = re.sub(r"\[Errno -?\d+\] ", "", told)  # numbers differ between systems
    told = re.sub(r"\b[0-9a-f]{12}(?=…)|(?<=\()[0-9a-f]{8}(?=\))", "<hash>", told)
    return re.sub(r"127\.0\.0\.1:\d+", "server", told)


def write_table() -> None:
    """Runs every case and writes `TABLE`, a list of `{"group", "case", "outcome"}`."""
    rows = []
    for (group, name), case in all_cases().items():
        with tempfile.TemporaryDirectory() as folder:
            told = outcome(case, Path(folder))
        rows.append({"group": group, "case": name, "outcome": told})
        print(f"{group}: {name}: {told}")
    write_json(TABLE, rows)
