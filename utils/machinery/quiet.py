"""Keras and Matplotlib start without lines about CPU, GPU and fonts."""

import logging
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

# "I0000 00:00:1795 1 port.cc:153] …", before TensorFlow 2.21 "2026-11-24 14:21:34.1: I tensor…",
# second lines of them, and what announces them.
_START_UP = re.compile(
    rb"[IWE]\d{4} .*\]|\d{4}-\d\d-\d\d [\d:.]+: [IWE] |WARNING: All log mess|To enable t"
)


@contextmanager
def quiet_start() -> Iterator[None]:
    """Keeps TensorFlow's start-up lines from the terminal or notebook: `import keras` in it.

    They are written to the file descriptor before any setting of TensorFlow's can stop them, so the
    descriptor itself leads to a file meanwhile. Everything else that was written is shown
    afterwards; if the block fails, all of it is. If Keras is loaded already, it is let be.
    """
    # Matplotlib says, the first time, that it is building its cache of fonts.
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
    if "keras" in sys.modules:
        yield
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")  # what it says later: warnings and errors
    # Every searcher compiles a step of its own, and TensorFlow takes that for one traced again.
    logging.getLogger("tensorflow").addFilter(lambda one: "retracing" not in one.getMessage())
    try:
        terminal = os.dup(2)
    except OSError:  # there is no standard error, in a service for example
        yield
        return
    failed = True
    with tempfile.TemporaryFile() as written:
        os.dup2(written.fileno(), 2)
        try:
            yield
            if "tensorflow" in sys.modules:  # it looks for GPUs at its first use, and complains
                sys.modules["tensorflow"].config.list_physical_devices()
            failed = False
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)
            written.seek(0)
            for line in written:
                if failed or not _START_UP.match(line):
                    os.write(2, line)
