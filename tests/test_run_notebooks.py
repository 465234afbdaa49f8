"""The notebook runner: order, what is kept, what is skipped, and how a failure reads."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import nbformat
import pytest

from tests.test_lock import Holder
from tools import run_notebooks
from tools.run_notebooks import run_all
from utils.machinery.errors import NotebookError
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


def test_notebooks_run_in_order_in_their_folder_and_leave_copies_and_times(
    settings, folder, capsys
):
    write_notebook(folder / "02_read.ipynb", "print(open('note.txt').read())")
    write_notebook(
        folder / "01_write.ipynb",
        "with open('note.txt', 'w') as file:\n    file.write('from the first')",
    )

    run_all(settings, folder)

    assert "from the first" in texts(executed(settings, "02_read"))
    assert "from the first" in executed(settings, "02_read").with_suffix(".html").read_text("utf-8")
    assert list(read_json(settings.timings_file)) == ["01_write", "02_read"]
    terminal = capsys.readouterr().out
    assert "from the first" in terminal
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


def test_only_what_changed_and_what_follows_it_runs_again(settings, folder, capsys):
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


def test_other_settings_make_a_notebook_run_again(settings, folder):
    write_notebook(folder / "01_count.ipynb", "open('count.txt', 'a').write('run ')")
    run_all(settings, folder)
    run_all(replace(settings, epochs=3), folder)

    assert (folder / "count.txt").read_text() == "run run "


def test_a_result_that_was_deleted_is_made_again(settings, folder):
    write_notebook(
        folder / "01_write.ipynb",
        "from utils.settings import Settings\nfrom utils.machinery.files import write_text\n"
        "write_text(Settings.from_environment().captions_file, 'captions')",
    )
    run_all(settings, folder)
    settings.captions_file.unlink()

    run_all(settings, folder)

    assert settings.captions_file.read_text() == "captions"


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


def test_a_run_can_stop_after_a_notebook_and_go_on_later(settings, folder, capsys):
    for name in ("01_first", "02_second", "03_third"):
        write_notebook(folder / f"{name}.ipynb", f"open('{name}.txt', 'a').write('run ')")
    run_all(settings, folder, until="02")
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
