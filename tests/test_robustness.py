"""The table of what happens when something goes wrong is what happens."""

import ast
import json

import pytest

from tests.robustness import TABLE, all_cases, key_words, outcome
from tests.test_project import code_files, code_of
from utils.settings import PROJECT

CASES = all_cases()
STORED = {
    (row["group"], row["case"]): row
    for row in (json.loads(TABLE.read_text(encoding="utf-8")) if TABLE.exists() else [])
}


@pytest.mark.parametrize(("group", "case"), CASES, ids=map(": ".join, CASES))
def test_every_case_ends_as_the_table_says(tmp_path, group, case):
    told, error = outcome(CASES[group, case], tmp_path)
    row = STORED[group, case]  # not there? `make robustness` writes it
    assert error == row["error"], told
    assert told.startswith("refused") == row["outcome"].startswith("refused"), told
    missing = key_words(row["outcome"]) - key_words(told)
    assert not missing, f"{told!r} lacks {missing}; if this is meant, run `make robustness`"


def test_the_table_has_no_other_rows_and_stands_in_their_order():
    assert list(STORED) == list(CASES)


def test_nothing_evaluates_what_it_reads_or_lifts_a_guard():
    """No `eval` or `exec`, and no `safe_mode=False` or `allow_pickle=True` outside the tests."""
    found = []
    for file in code_files():
        if file.is_relative_to(PROJECT / "tests"):
            continue
        for node in (node for tree in code_of(file) for node in ast.walk(tree)):
            if not isinstance(node, ast.Call):
                continue
            if getattr(node.func, "id", "") in ("eval", "exec", "compile", "__import__"):
                found.append(f"{file.name}, line {node.lineno}: {node.func.id}")
            for keyword in node.keywords:
                unsafe = {"safe_mode": False, "allow_pickle": True, "shell": True}
                if keyword.arg in unsafe and (
                    getattr(keyword.value, "value", None) != (not unsafe[keyword.arg])
                ):
                    found.append(f"{file.name}, line {node.lineno}: {keyword.arg}")
    assert found == []
