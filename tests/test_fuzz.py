"""No damaged file brings the project down: it is read, or refused with an error of the project."""

import json
import subprocess
import sys
from collections import Counter

import pytest

from tests import fuzzing
from utils.machinery.errors import StaleArtefactError
from utils.settings import PROJECT


def fuzz(*arguments: str) -> dict:
    """What `tests.fuzzing` found; one process tries all cases, so that TensorFlow starts once."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzzing", *arguments],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.startswith("{"), f"the process died at:\n{done.stderr[-3000:]}"
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    "amount",
    [
        pytest.param(["--grid", "0.02", "--examples", "3"], id="a few"),
        pytest.param(["--grid", "0.25", "--examples", "40"], id="all", marks=pytest.mark.slow),
    ],
)
def test_every_damaged_file_is_read_or_refused_within_its_time_and_memory(amount):
    found = fuzz(*amount, "--seed", "7")
    assert found["failures"] == []
    assert min(found["by_file"].values()) >= 3
    assert 0 < found["refused"] <= found["cases"]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing ends a slow reader")
def test_a_reader_that_fails_in_another_way_is_found(monkeypatch, tmp_path):
    """The test above can fail: a raw error, a long message and a slow answer are all failures."""
    monkeypatch.setattr(fuzzing, "SECONDS", 0.2)

    def read(folder):
        text = (folder / "file.json").read_text()
        if text == "raw":
            return {}["a"]
        if text == "long":
            raise StaleArtefactError("x" * 3000)
        if text == "refused":
            raise StaleArtefactError("no")
        while text == "slow":
            pass
        return text

    target = fuzzing.Target(tmp_path, "file.json", read)
    target.file.write_text("whole")
    tally = fuzzing.Tally(Counter(), Counter(), [])
    fuzzing.catch_time()
    for text in ("raw", "long", "refused", "slow", "whole"):
        fuzzing.attempt(target, (text, fuzzing.replace_by(text.encode())), tally)
    failed = [failure["case"].rpartition(" ")[2] for failure in tally.failures]
    assert failed == ["raw", "long", "slow"]
    assert target.file.read_text() == "whole"
