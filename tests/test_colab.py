import os
import sys
from types import SimpleNamespace

import pytest

from tools.colab import RUNS_ON_DRIVE, keep_runs_on_drive
from utils.settings import Settings


@pytest.fixture
def colab(monkeypatch):
    """Stands in for Colab's own package; `mounted` collects what was mounted."""
    mounted = []
    drive = SimpleNamespace(mount=mounted.append)
    monkeypatch.setitem(sys.modules, "google.colab", SimpleNamespace(drive=drive))
    monkeypatch.setenv("RUNS", "")  # so that monkeypatch puts back whatever the test leaves
    return SimpleNamespace(drive=drive, mounted=mounted)


def test_results_go_to_the_drive_that_was_connected(colab, capsys):
    keep_runs_on_drive()

    assert colab.mounted == ["/content/drive"]
    assert str(Settings.from_environment().runs) == RUNS_ON_DRIVE
    assert "photograph-captions/runs" in capsys.readouterr().out


def test_a_folder_that_the_user_chose_stays(colab, monkeypatch):
    monkeypatch.setenv("RUNS", "elsewhere")
    keep_runs_on_drive()

    assert colab.mounted == []
    assert os.environ["RUNS"] == "elsewhere"


def test_a_user_who_declines_is_told_what_that_means_and_can_go_on(colab, capsys):
    def decline(folder):
        raise ValueError("mount failed")

    colab.drive.mount = decline
    keep_runs_on_drive()

    assert "next one won't find its results" in capsys.readouterr().out
    assert not os.environ["RUNS"]
