"""The notebook runner: order, what is kept, what is skipped, and how a failure reads."""

import ast
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import chdir
from dataclasses import replace
from pathlib import Path

import nbformat
import pytest

from sample import draw_sample
from tests.test_lock import Holder
from tools import run_notebooks
from tools.run_notebooks import NotebookError, run_all
from utils.dataset import load_dataset
from utils.machinery.files import read_json, write_json
from utils.settings import PROJECT, Settings


@pytest.fixture
def settings(tmp_path, monkeypatch):
    """Settings of a run below `tmp_path`, which the kernels started in the test see as well."""
    monkeypatch.setenv("RUNS", str(tmp_path / "runs"))
    return Settings.from_environment()


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "notebooks").mkdir()
    return tmp_path / "notebooks"


def write_notebook(path: Path, *sources: str) -> None:
    cells = [nbformat.v4.new_markdown_cell(f"# {path.stem}")]
    cells += [nbformat.v4.new_code_cell(source) for source in sources]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)


def texts(notebook: Path) -> str:
    """Everything that the cells of a notebook printed."""
    cells = nbformat.read(notebook, as_version=4).cells
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    return "".join(output.get("text", "") for output in outputs)


def executed(settings: Settings, name: str) -> Path:
    return settings.notebooks_folder / f"{name}.ipynb"


@pytest.fixture
def in_this_process(monkeypatch):
    """Runs cells without a kernel, which takes a second to start."""

    def execute(content, folder, log):
        log.parent.mkdir(parents=True, exist_ok=True)
        names = {}
        with chdir(folder):
            for cell in content.cells:
                if cell.cell_type == "code":
                    exec(cell.source, names)

    monkeypatch.setattr(run_notebooks, "_execute", execute)


def write_notebooks_that_leave_results(settings: Settings, folder: Path) -> dict[str, Path]:
    """Three notebooks that count their runs in NAME.txt; returns what each of them makes."""
    made = {
        "01_clean": settings.captions_file,
        "02_train": settings.decoder_file,
        "03_score": settings.metrics_file,
    }
    for name, file in made.items():
        count = f"open('{name}.txt', 'a').write('run ')"
        write = f"write_text({str(file)!r}, {name!r})"
        write_notebook(
            folder / f"{name}.ipynb",
            count,
            f"from utils.machinery.files import write_text\n{write}",
        )
    return made


def runs(folder: Path) -> list[int]:
    """How often each notebook ran."""
    return [len(file.read_text().split()) for file in sorted(folder.glob("*.txt"))]


def test_notebooks_run_in_order_in_their_folder_and_leave_copies_and_times(
    settings, folder, capsys
):
    write_notebook(
        folder / "02_read.ipynb", "print(open('note.txt').read(), '\\x1b[2J', '\\x1b[A')"
    )
    write_notebook(
        folder / "01_write.ipynb",
        "with open('note.txt', 'w') as file:\n    file.write('from the first')",
    )

    run_all(settings, folder)

    assert "from the first" in texts(executed(settings, "02_read"))
    assert "from the first" in executed(settings, "02_read").with_suffix(".html").read_text("utf-8")
    assert list(read_json(settings.timings_file)) == ["01_write", "02_read"]
    terminal = capsys.readouterr().out
    assert "from the first \\x1b[2J \x1b[A" in terminal  # none that clears it, one that goes up
    assert terminal.index("01_write …") < terminal.index("02_read …")


def test_the_kernel_is_this_python_whatever_kernels_the_user_has(
    settings, folder, tmp_path, monkeypatch
):
    theirs = tmp_path / "jupyter" / "kernels" / "python3" / "kernel.json"
    write_json(theirs, {"argv": ["another-python"], "display_name": "Mine", "language": "python"})
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    write_notebook(
        folder / "01_ask.ipynb", "import sys\nopen('python.txt', 'w').write(sys.executable)"
    )

    run_all(settings, folder)

    assert (folder / "python.txt").read_text() == sys.executable


def test_only_what_changed_and_what_follows_it_runs_again(
    settings, folder, capsys, in_this_process
):
    for name in ("01_first", "02_second", "03_third"):
        write_notebook(folder / f"{name}.ipynb", f"open('{name}.txt', 'a').write('run ')")
    run_all(settings, folder)
    write_notebook(folder / "02_second.ipynb", "open('02_second.txt', 'a').write('again ')")
    run_all(settings, folder)
    capsys.readouterr()
    run_all(settings, folder)

    runs = {file.stem: file.read_text() for file in folder.glob("*.txt")}
    assert runs == {"01_first": "run ", "02_second": "run again ", "03_third": "run run "}
    assert capsys.readouterr().out.count("up to date") == 3


def test_other_settings_make_a_notebook_run_again(settings, folder, in_this_process):
    write_notebook(folder / "01_count.ipynb", "open('count.txt', 'a').write('run ')")
    run_all(settings, folder)
    run_all(replace(settings, epochs=3), folder)

    assert (folder / "count.txt").read_text() == "run run "


@pytest.mark.parametrize(
    ("name", "expected"),
    [("01_clean", [2, 2, 2]), ("02_train", [1, 2, 2]), ("03_score", [1, 1, 2])],
)
@pytest.mark.parametrize("damage", ["deleted", "emptied", "cut", "edited"])
def test_a_result_that_is_not_what_was_written_is_made_again(
    settings, folder, in_this_process, capsys, name, expected, damage
):
    file = write_notebooks_that_leave_results(settings, folder)[name]
    run_all(settings, folder)
    status = file.stat()
    if damage == "deleted":
        file.unlink()
    else:
        file.write_text({"emptied": "", "cut": name[:-1], "edited": name.upper()}[damage])
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))

    run_all(settings, folder)

    assert file.read_text() == name
    assert runs(folder) == expected
    assert f"{file.name} is missing or was changed" in capsys.readouterr().out


def test_a_run_notices_when_files_that_another_run_made_for_it_are_gone(
    settings, folder, in_this_process
):
    features = settings.features_folder / "spatial.npy"
    write_notebook(
        folder / "01_extract.ipynb",
        "open('count.txt', 'a').write('run ')",
        "from pathlib import Path\nfrom utils.machinery.files import write_text",
        f"Path({str(features)!r}).exists() or write_text({str(features)!r}, 'features')",
    )
    run_all(settings, folder)
    other = replace(settings, decoder="inject")
    assert other.features_folder == settings.features_folder
    run_all(other, folder)
    assert runs(folder) == [2]
    features.unlink()
    run_all(other, folder)
    assert runs(folder) == [3]
    run_all(settings, folder)  # the same bytes are there again
    assert runs(folder) == [3]


def test_a_file_that_two_notebooks_write_is_the_later_ones(settings, folder, in_this_process):
    for name in ("01_first", "02_second"):
        write = f"write_text({str(settings.history_file)!r}, {name!r})"
        write_notebook(
            folder / f"{name}.ipynb",
            f"open('{name}.txt', 'a').write('run ')",
            f"from utils.machinery.files import write_text\n{write}",
        )
    run_all(settings, folder)
    run_all(settings, folder)
    assert runs(folder) == [1, 1]


@pytest.mark.parametrize(
    "content",
    [
        b'{"format": 2, "noteb',
        b"\xff",
        b"[]",
        b'{"format": 2, "notebooks": []}',
        b'{"format": 2, "notebooks": {"01_clean": {"fingerprint": "", "files": ["x"]}}}',
        b'{"format": 2, "notebooks": {"01_clean": {"fingerprint": 1e999, "files": {}}}}',
        b'{"format": 2, "notebooks": {"01_clean": null}}',
    ],
)
def test_damaged_records_only_make_everything_run_again(settings, folder, in_this_process, content):
    write_notebooks_that_leave_results(settings, folder)
    run_all(settings, folder)
    settings.completed_file.write_bytes(content)
    settings.timings_file.write_bytes(content)

    run_all(settings, folder)

    assert runs(folder) == [2, 2, 2]
    assert set(read_json(settings.completed_file)["notebooks"]) == {
        "01_clean",
        "02_train",
        "03_score",
    }
    assert "01_clean" in read_json(settings.timings_file)


def test_what_is_no_notebook_is_refused(settings, folder):
    (folder / "01_conflict.ipynb").write_text("<<<<<<< HEAD")
    with pytest.raises(NotebookError, match=r"01_conflict\.ipynb"):
        run_all(settings, folder)


def test_the_notebook_for_users_is_no_part_of_a_run(settings, folder, in_this_process):
    write_notebooks_that_leave_results(settings, folder)
    write_notebook(folder / "00_use.ipynb", "raise ValueError")
    before = (folder / "00_use.ipynb").read_bytes()
    run_all(settings, folder, in_place=True)
    assert runs(folder) == [1, 1, 1]
    assert (folder / "00_use.ipynb").read_bytes() == before


@pytest.mark.parametrize("until", ["", "00", "7", "-1", "two", "../03", "012"])
def test_an_end_that_is_no_notebook_is_refused(settings, folder, in_this_process, until):
    write_notebooks_that_leave_results(settings, folder)
    with pytest.raises(NotebookError, match=r"--until.*01, 02, 03"):
        run_all(settings, folder, until=until)
    assert runs(folder) == []


def test_other_data_than_the_results_were_made_from_is_refused(
    settings, folder, tmp_path, monkeypatch, capsys
):
    draw_sample(tmp_path / "data", photographs=16)
    monkeypatch.setenv("DATA", str(tmp_path / "data"))
    monkeypatch.setenv("DATASET", "flickr8k")
    monkeypatch.setattr(run_notebooks, "NOTEBOOKS", folder)
    write_notebook(folder / "01_first.ipynb", "open('first.txt', 'a').write('run ')")
    settings = Settings.from_environment()
    made_from = load_dataset(settings).made_from
    write_json(settings.dataset_summary_file, {"made_from": made_from})
    assert run_notebooks.main([]) == 0
    write_json(settings.dataset_summary_file, {"made_from": made_from | {"captions": "others"}})
    assert run_notebooks.main([]) == 1
    assert "other captions" in capsys.readouterr().err
    assert runs(folder) == [1]


def test_what_notebooks_import_of_the_tools_is_watched():
    imported = set()
    for notebook in run_notebooks.NOTEBOOKS.glob("[0-9][1-9]_*.ipynb"):
        for cell in nbformat.read(notebook, as_version=4).cells:
            lines = [line for line in cell.source.splitlines() if "from tools." in line]
            for line in lines if cell.cell_type == "code" else ():
                imported.add(ast.parse(line.strip()).body[0].module)
    watched = {f"tools.{Path(name).stem}" for name in run_notebooks.TOOLS_IN_NOTEBOOKS}
    assert imported - {"tools.colab"} == watched


@pytest.mark.skipif(os.name == "nt", reason="there are no such signals")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_kernel_and_the_run_in_a_sentence(settings, folder, number, code):
    write_notebook(
        folder / "01_waits.ipynb",
        "import os, time\nprint('\\u732b', flush=True)\nopen('part', 'w').write(str(os.getpid()))\n"
        "os.rename('part', 'kernel')\ntime.sleep(100)",
    )
    program = (
        "import pathlib, sys\nfrom tools import run_notebooks\n"
        "run_notebooks.NOTEBOOKS = pathlib.Path(sys.argv[1])\nsys.exit(run_notebooks.main([]))"
    )
    run = subprocess.Popen(
        [sys.executable, "-c", program, str(folder)],
        cwd=PROJECT,
        env={**os.environ, "PYTHONIOENCODING": "latin-1"},  # which has no such sign
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="latin-1",
    )
    with run:
        give_up = time.monotonic() + 60
        while not (folder / "kernel").exists() and run.poll() is None:
            assert time.monotonic() < give_up
            time.sleep(0.05)
        shown = ""
        while "?" not in shown and run.poll() is None:  # what the cell printed, as far as can be
            shown += run.stdout.readline()
        run.send_signal(number)
        rest, errors = run.communicate(timeout=60)
        shown += rest
    assert run.returncode == code, errors
    assert "Stopped by" in errors
    assert "Traceback" not in shown + errors
    with pytest.raises(ProcessLookupError):
        os.kill(int((folder / "kernel").read_text()), 0)
    assert read_json(settings.completed_file)["notebooks"] == {}


def test_a_failing_cell_stops_the_run_and_is_shown_with_its_notebook(settings, folder):
    write_notebook(
        folder / "01_fails.ipynb",
        "print('this far')",
        "raise ValueError('found 3 photographs, expected 4')",
    )
    write_notebook(folder / "02_never.ipynb", "print('unreached')")

    with pytest.raises(NotebookError) as caught:
        run_all(settings, folder)

    message = str(caught.value)
    assert "01_fails stopped in code cell 2: ValueError" in message
    assert "found 3 photographs, expected 4" in message
    assert "this far" in texts(executed(settings, "01_fails"))
    assert not executed(settings, "02_never").exists()
    assert read_json(settings.completed_file)["notebooks"] == {}


def test_a_kernel_that_dies_is_named_as_such(settings, folder):
    write_notebook(folder / "01_dies.ipynb", "import os\nos._exit(9)")

    with pytest.raises(NotebookError, match="01_dies: the kernel died"):
        run_all(settings, folder)


def test_no_notebook_at_all_is_an_error(settings, folder):
    with pytest.raises(NotebookError, match="holds no notebook"):
        run_all(settings, folder)


def test_a_failure_gives_the_program_a_failing_exit_status(settings, folder, monkeypatch, capsys):
    monkeypatch.setattr(run_notebooks, "NOTEBOOKS", folder)

    assert run_notebooks.main([]) == 1
    assert "holds no notebook" in capsys.readouterr().err


def test_two_runs_at_once_are_one_too_many_and_a_runs_own_notebooks_are_let_in(
    settings, folder, monkeypatch, capsys
):
    stage = "from utils.machinery.lock import only_one_in\nfrom utils.settings import Settings\n"
    stage += "with only_one_in(Settings.from_environment().features_folder, 'extracting'):\n"
    write_notebook(folder / "01_extract.ipynb", f"{stage}    print('let in')")
    monkeypatch.setattr(run_notebooks, "NOTEBOOKS", folder)
    monkeypatch.setattr("utils.machinery.lock.PATIENCE", 0.1)
    with Holder(settings.run_folder) as other:
        assert run_notebooks.main([]) == 1
        assert f"process {other.pid} on " in capsys.readouterr().err
        assert not executed(settings, "01_extract").exists()
    assert run_notebooks.main([]) == 0
    assert "let in" in texts(executed(settings, "01_extract"))


def test_outputs_written_in_place_keep_cells_and_name_no_machine(settings, folder):
    notebook = folder / "01_show.ipynb"
    write_notebook(
        notebook,
        f"print({str(PROJECT / 'data' / 'sample')!r})",
        "import sys\nfor part in range(3):\n"
        "    print(f'\\r{part} of 2', end='', file=sys.stderr, flush=True)",
        "import os\n_ = os.write(2, b'a library speaks')",
    )
    before = nbformat.read(notebook, as_version=4)

    run_all(settings, folder, in_place=True)

    after = nbformat.read(notebook, as_version=4)
    assert [cell.id for cell in after.cells] == [cell.id for cell in before.cells]
    assert [cell.execution_count for cell in after.cells if cell.cell_type == "code"] == [1, 2, 3]
    assert after.metadata["kernelspec"]["name"] == "python3"
    assert "version" not in after.metadata["language_info"]
    outputs = json.dumps([cell.get("outputs") for cell in after.cells])
    assert str(PROJECT) not in outputs
    assert "data" in outputs
    assert "library speaks" not in outputs
    assert texts(notebook).count(" of 2") == 1
    assert settings.completed_file.exists()


def test_outputs_written_in_place_leave_the_notebook_up_to_date(settings, folder, capsys):
    write_notebook(folder / "01_show.ipynb", "print('shown')")
    run_all(settings, folder)
    run_all(settings, folder, in_place=True)
    first = (folder / "01_show.ipynb").read_bytes()
    run_all(settings, folder, in_place=True)

    assert (folder / "01_show.ipynb").read_bytes() == first
    assert "shown" in texts(folder / "01_show.ipynb")
    assert capsys.readouterr().out.count("up to date") == 2


def test_a_run_can_stop_after_a_notebook_and_go_on_later(settings, folder, capsys, in_this_process):
    for name in ("01_first", "02_second", "03_third"):
        write_notebook(folder / f"{name}.ipynb", f"open('{name}.txt', 'a').write('run ')")
    run_all(settings, folder, until="2")
    assert {file.stem for file in folder.glob("*.txt")} == {"01_first", "02_second"}
    run_all(settings, folder)
    assert {file.read_text() for file in folder.glob("*.txt")} == {"run "}
    assert capsys.readouterr().out.count("up to date") == 2


def test_notebooks_are_not_run_by_several_processes(settings, folder):
    write_notebook(folder / "01_first.ipynb", "open('first.txt', 'w').write('run')")
    together = replace(settings, devices=2, processes=2, address="10.0.0.1:5000")
    with pytest.raises(NotebookError, match=r"PROCESSES is 2.*tools\.several_processes"):
        run_all(together, folder)
    assert not (folder / "first.txt").exists()
