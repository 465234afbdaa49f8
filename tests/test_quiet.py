"""TensorFlow's start-up lines are kept back, and nothing else is."""

import logging
import os
import subprocess
import sys

import pytest

from utils.machinery.quiet import quiet_start

START_UP = (
    b"WARNING: All log messages before absl::InitializeLog() is called are written to STDERR\n"
    b"I0000 00:00:1795526223.649820   13854 port.cc:153] oneDNN custom operations are on.\n"
    b"2026-11-24 14:21:34.197867: I tensorflow/core/util/port.cc:153] oneDNN custom operations\n"
    b"To enable the following instructions: AVX2, rebuild TensorFlow.\n"
    b"E0000 00:00:1795527214.227627   24315 cuda_platform.cc:52] failed call to cuInit\n"
)


@pytest.fixture
def fresh(monkeypatch):
    """A Python that has not loaded Keras yet."""
    for name in ("keras", "tensorflow"):
        monkeypatch.delitem(sys.modules, name, raising=False)


def test_start_up_lines_are_kept_back_and_the_rest_is_shown(fresh, capfd):
    with quiet_start():
        os.write(2, START_UP + b"a warning\n")
    os.write(2, b"later\n")
    assert capfd.readouterr().err == "a warning\nlater\n"


def test_all_is_shown_if_keras_cannot_be_loaded(fresh, capfd):
    def fail():
        os.write(2, START_UP)
        raise ImportError("no backend")

    with pytest.raises(ImportError), quiet_start():
        fail()
    assert "cuInit" in capfd.readouterr().err


def test_nothing_is_kept_back_once_keras_is_there(fresh, monkeypatch, capfd):
    monkeypatch.setitem(sys.modules, "keras", object())
    with quiet_start():
        os.write(2, START_UP)
    assert "oneDNN" in capfd.readouterr().err


def test_matplotlib_is_silent_about_its_fonts_the_first_time(caplog):
    with quiet_start():
        pass
    logging.getLogger("matplotlib.font_manager").warning("building the font cache")
    assert caplog.text == ""


@pytest.mark.slow
@pytest.mark.parametrize("command", ["tools.fine_tuning", "tools.model_card", "benchmarks.growth"])
def test_a_command_begins_without_lines_of_tensorflow(command):
    code = f"import {command}, tensorflow; tensorflow.config.list_physical_devices()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout + done.stderr == ""


FIT = """
from utils.machinery.quiet import quiet_start
with quiet_start():
    import keras
import numpy as np
class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 1
    def __getitem__(self, index):
        return np.zeros((2, 3)), np.zeros((2, 1))
model = keras.Sequential([keras.layers.Dense(1)])
model.compile("sgd", "mse")
model.fit(Batches(), verbose=0)
"""

SEARCH = """
from utils.machinery.quiet import quiet_start
with quiet_start():
    import keras
import numpy as np
from utils.decoder import build_decoder
from utils.search import Searcher
decoder = build_decoder("attention", 9, (2, 2, 8), units=8, embedding_units=8)
Searcher(decoder).search(np.ones((3, 2, 2, 8), "float16"))
"""


@pytest.mark.slow
@pytest.mark.parametrize("code", [FIT, SEARCH], ids=["training", "search"])
def test_work_begins_without_lines_about_memory_and_precision(code):
    outside = {name: text for name, text in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=outside
    )
    assert done.stdout + done.stderr == ""
