"""A folder that is written into by one process at a time, and what is left when that one dies."""

import errno
import os
import platform
import signal
import subprocess
import sys

import pytest

from utils.machinery import lock
from utils.machinery.errors import FolderInUseError, SettingsError
from utils.machinery.lock import NOTE_FILE, only_one_in
from utils.settings import PROJECT

# What another process runs: it goes into the folder, says so and stays until its input ends.
HOLDER = """
import sys
from utils.machinery.lock import only_one_in
with only_one_in(sys.argv[1], "training a decoder"):
    print("in", flush=True)
    sys.stdin.read()
"""


class Holder:
    """Another process in a folder, until it is let go or killed."""

    def __init__(self, folder):
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(folder)],
            env={**os.environ, "PYTHONPATH": str(PROJECT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout.readline() == "in\n"

    def __enter__(self):
        return self.process

    def __exit__(self, *_):
        self.process.communicate()


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(lock, "PATIENCE", 0.1)


def enter(folder):
    with only_one_in(folder, "looking"):
        return True


def test_a_second_process_is_refused_and_told_who_is_in_there(tmp_path):
    with Holder(tmp_path) as other:
        with pytest.raises(FolderInUseError) as refused:
            enter(tmp_path)
        message = str(refused.value)
        assert str(tmp_path) in message
        assert f"process {other.pid} on {platform.node()} is training a decoder" in message
        assert "since 20" in message
        assert "run this again" in message
        with pytest.raises(FolderInUseError):  # being refused gives nothing back
            enter(tmp_path)
        assert enter(tmp_path / "another")
    assert enter(tmp_path)


def test_the_lock_of_a_killed_process_keeps_nobody_out(tmp_path):
    with Holder(tmp_path) as other:
        other.send_signal(signal.SIGKILL)
        other.wait()
        assert str(other.pid) in (tmp_path / NOTE_FILE).read_text()  # its note is still there
        assert enter(tmp_path)


def test_who_is_about_to_leave_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "PATIENCE", 20.0)
    with Holder(tmp_path) as other:
        other.stdin.close()
        assert enter(tmp_path)
        other.stdin = None


def test_a_note_from_elsewhere_or_torn_keeps_nobody_out(tmp_path):
    for note in ('{"pid": 1, "host": "another machine"}', '{"pi', ""):
        (tmp_path / NOTE_FILE).write_text(note)
        assert enter(tmp_path)


def test_the_same_process_comes_in_again_also_after_an_error(tmp_path):
    with pytest.raises(KeyboardInterrupt), only_one_in(tmp_path, "looking"):
        raise KeyboardInterrupt
    assert enter(tmp_path)
    assert enter(tmp_path)


def test_another_holder_is_named_even_without_a_note(tmp_path):
    with Holder(tmp_path):
        (tmp_path / NOTE_FILE).write_text("")
        with pytest.raises(FolderInUseError, match="another process is at work"):
            enter(tmp_path)


def test_a_folder_that_may_not_be_written_into_is_reported(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(lock.FileLock, "acquire", refuse)
    with pytest.raises(SettingsError, match=r"can't be written .*RUNS"):
        enter(tmp_path)


def test_a_file_system_without_locks_keeps_nobody_out(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.ENOTSUP, "not supported")

    monkeypatch.setattr(lock.FileLock, "acquire", refuse)
    assert enter(tmp_path)
