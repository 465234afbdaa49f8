"""A short round of `tests.kill_and_resume`: every kind of stage is killed, and resumed."""

import json
import subprocess
import sys

import pytest

from utils.settings import PROJECT

TRAINING = "training, our recipe"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="TensorFlow survives a fork on Linux only")
def test_killed_stages_end_as_if_nothing_had_happened(tmp_path):
    stages = ["download", "unpacking", "extraction", TRAINING]
    log_file = tmp_path / "log.json"
    command = [sys.executable, "-m", "tests.kill_and_resume", "--kills", "2", "--log", log_file]
    done = subprocess.run(
        [*map(str, command), "--stages", *stages],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    log = json.loads(log_file.read_text())
    assert [entry["stage"] for entry in log["stages"]] == stages
    assert all(entry["equal"] for entry in log["stages"])
    assert log["kills"] == 2 * len(stages)
    moments = {kill["moment"] for kill in log["stages"][-1]["kills"]}
    assert len(moments) == 2  # in the middle of a checkpoint, and before the history


def test_the_log_in_the_report_is_of_a_whole_run_that_ended_well():
    log = json.loads((PROJECT / "report" / "kill_resume.json").read_text())
    assert log["equal"]
    assert all(entry["equal"] for entry in log["stages"])
    assert log["kills"] == sum(len(entry["kills"]) for entry in log["stages"]) >= 20
    stages = {entry["stage"] for entry in log["stages"]}
    assert stages >= {"download", "extraction", "training, original recipe", TRAINING}
    assert stages >= {"self-critical training", "evaluation"}
