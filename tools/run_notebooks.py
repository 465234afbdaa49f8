"""Runs the notebooks in order and keeps what they showed: `python -m tools.run_notebooks`.

Each notebook runs from its first cell in a fresh kernel of this Python. A notebook that is complete
is not run again unless something it depends on has changed. With `--in-place`, the outputs are also
written back into the notebooks folder, which is how the committed notebooks are made.
"""

import argparse
import json
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

import nbformat
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpecManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbconvert import HTMLExporter
from nbformat import NotebookNode

from utils.machinery.errors import CaptionProjectError, NotebookError
from utils.machinery.files import content_hash, file_hash, read_json, write_json, write_text
from utils.machinery.lock import only_one_in
from utils.settings import PROJECT, Settings, short_path

NOTEBOOKS = PROJECT / "notebooks"
_NOT_IN_NOTEBOOKS = (
    "run_stages",
    "run_notebooks",
    "summary",
)  # modules no notebook's result depends on
_TERMINAL_CODES = re.compile(r"\x1b\[[0-9;]*m")
_ERROR_LINES = 15  # of a traceback, whose beginning is mostly library code
# The page needs no network: of the scripts that the stock template loads only MathJax stays, and
# without it a formula is shown as it was typed.
_PAGE = """{% extends 'lab/index.html.j2' %}
{% block html_head_js_requirejs %}{% endblock %}
{% block html_head_js_mermaidjs %}{% endblock %}"""


def run_all(
    settings: Settings, folder: Path, in_place: bool = False, until: str | None = None
) -> None:
    """Brings the notebooks of `folder` up to date, in the order of their names.

    All of them, or those up to the one whose name begins with `until`, such as "02".

    Writes, in the run's folder: executed notebooks as .ipynb and .html, `completed.json` (what each
    was made from, and the files it left) and `timings.json` (seconds per notebook).

    Raises:
        NotebookError: there is no notebook, or a cell failed; later notebooks are not run.
    """
    notebooks = sorted(folder.glob("[0-9][0-9]_*.ipynb"))
    if not notebooks:
        raise NotebookError(f"{folder} holds no notebook named like 01_topic.ipynb.")
    if settings.processes > 1:
        raise NotebookError(
            f"PROCESSES is {settings.processes}, and notebooks run in one process. Run them "
            "without it; what several processes can do together is `python -m tools.run_stages`."
        )
    if until is not None:
        notebooks = [notebook for notebook in notebooks if notebook.stem[: len(until)] <= until]
    completed = _completed(settings)
    before = _common_fingerprint(settings)
    for position, notebook in enumerate(notebooks):
        name = notebook.stem
        fingerprint = before = content_hash([before, name, _cells(notebook)])
        if _is_complete(settings, name, completed.get(name), fingerprint):
            print(f"{name}: up to date")
        else:
            # What follows was made from this notebook's earlier result.
            for later in notebooks[position:]:
                completed.pop(later.stem, None)
            _write_completed(settings, completed)
            files = run_notebook(notebook, settings)
            completed[name] = {"fingerprint": fingerprint, "files": files}
            _write_completed(settings, completed)
        if in_place:
            executed = nbformat.read(_executed_file(settings, name), as_version=4)
            write_text(notebook, _to_commit(executed))


def run_notebook(notebook: Path, settings: Settings) -> list[str]:
    """Runs one notebook; returns the files it wrote, relative to the run's folder.

    What it prints appears on the terminal at once. The executed copy is written also when a cell
    fails, as far as it got.

    Raises:
        NotebookError: a cell failed or the kernel died.
    """
    print(f"{notebook.stem}: running", flush=True)
    content = nbformat.read(notebook, as_version=4)
    earlier = _snapshot(settings.run_folder)
    started = time.monotonic()
    try:
        _execute(content, notebook.parent, settings.notebooks_folder / f"{notebook.stem}.log")
    except (CellExecutionError, DeadKernelError) as error:
        _keep(content, notebook.stem, settings)
        raise NotebookError(_what_happened(notebook.stem, content, error, settings)) from error
    seconds = time.monotonic() - started
    _keep(content, notebook.stem, settings)
    _keep_time(notebook.stem, seconds, settings)
    print(f"{notebook.stem} … {seconds:.0f} s", flush=True)
    now = _snapshot(settings.run_folder)
    return sorted(file for file, changed in now.items() if earlier.get(file) != changed)


class _LiveClient(NotebookClient):
    """A notebook client that passes on what cells print while they print it."""

    def process_message(self, msg, cell, cell_index):
        if msg["msg_type"] == "stream":
            terminal = sys.stderr if msg["content"]["name"] == "stderr" else sys.stdout
            terminal.write(msg["content"]["text"])
            terminal.flush()
        return super().process_message(msg, cell, cell_index)


def _execute(content: NotebookNode, folder: Path, log: Path) -> None:
    """Runs all cells in place, in `folder`, and lets the native libraries chatter into `log`."""
    log.parent.mkdir(parents=True, exist_ok=True)
    client = _LiveClient(
        content,
        # No folder to look into leaves the kernel of this very Python, and not one that the user
        # once registered under the same name.
        km=AsyncKernelManager(kernel_spec_manager=KernelSpecManager(kernel_dirs=[])),
        extra_arguments=["--IPKernelApp.capture_fd_output=False"],
        resources={"metadata": {"path": str(folder)}},
        record_timing=False,
        coalesce_streams=True,
        timeout=None,
    )
    # A progress bar that redraws ten times a second would fill a log file.
    interval = "0.5" if sys.stderr.isatty() else "10"
    environment = {"TQDM_NCOLS": "100", "TQDM_MININTERVAL": interval, **os.environ}
    with log.open("w", encoding="utf-8") as native:
        client.execute(env=environment, stderr=native, cleanup_kc=True)


def _keep(content: NotebookNode, name: str, settings: Settings) -> None:
    """Writes the executed notebook and its page, without the paths of this machine."""
    content = _without_paths(content)
    write_text(_executed_file(settings, name), nbformat.writes(content))
    exporter = HTMLExporter(raw_template=_PAGE)
    page, _ = exporter.from_notebook_node(content, {"metadata": {"name": name}})
    write_text(settings.notebooks_folder / f"{name}.html", page)


def _keep_time(name: str, seconds: float, settings: Settings) -> None:
    known = read_json(settings.timings_file) if settings.timings_file.exists() else {}
    timings = {**known, name: round(seconds, 1)}
    write_json(settings.timings_file, dict(sorted(timings.items())))


def _what_happened(name: str, content: NotebookNode, error: Exception, settings: Settings) -> str:
    """The end of the traceback, which cell stopped the notebook and where to read on."""
    code_cells = [cell for cell in content.cells if cell.cell_type == "code"]
    for number, cell in enumerate(code_cells, start=1):
        for output in cell.outputs:
            if output.output_type == "error":
                traceback = _TERMINAL_CODES.sub("", "\n".join(output["traceback"])).splitlines()
                page = short_path(settings.notebooks_folder / f"{name}.html")
                return "\n".join(
                    [
                        *traceback[-_ERROR_LINES:],
                        f"\n{name} stopped in code cell {number}: {output['ename']}.",
                        f"The notebook as far as it got: {page}",
                    ]
                )
    log = short_path(settings.notebooks_folder / f"{name}.log")
    return (
        f"{name}: the kernel died ({error}). Mostly the memory was used up: close other programs "
        f"or try LIMIT=1000. What the libraries said last is in {log}."
    )


def _to_commit(executed: NotebookNode) -> str:
    """The text of an executed notebook without what differs from machine to machine."""
    executed.metadata["kernelspec"] = {
        "display_name": "Python 3",
        "language": "python",
        "name": "python3",
    }
    executed.metadata["language_info"] = {"name": "python"}
    for cell in executed.cells:
        cell.metadata.pop("execution", None)
    return nbformat.writes(executed) + "\n"


def _without_paths(content: NotebookNode) -> NotebookNode:
    """The notebook with paths inside the project written relative to it."""
    text = json.dumps(content)
    for folder in (f"{PROJECT}{os.sep}", str(PROJECT)):
        text = text.replace(json.dumps(folder)[1:-1], "")
    return nbformat.from_dict(json.loads(text))


def _common_fingerprint(settings: Settings) -> str:
    """Changes with the settings, the backend and the modules that notebooks use."""
    modules = sorted(Path(__file__).parent.rglob("*.py"))
    sources = {
        module.relative_to(PROJECT).as_posix(): file_hash(module)
        for module in modules
        if module.stem not in _NOT_IN_NOTEBOOKS
    }
    return content_hash([vars(settings), os.environ.get("KERAS_BACKEND", ""), sources])


def _cells(notebook: Path) -> list[list[str]]:
    """Kind and source of each cell: what a notebook is, without what it last showed."""
    content = nbformat.read(notebook, as_version=4)
    return [[cell.cell_type, cell.source] for cell in content.cells]


def _is_complete(
    settings: Settings, name: str, entry: dict[str, Any] | None, fingerprint: str
) -> bool:
    """Whether a notebook ran from the same sources and all it wrote is still there."""
    return (
        entry is not None
        and entry["fingerprint"] == fingerprint
        and _executed_file(settings, name).exists()
        and all((settings.run_folder / file).exists() for file in entry["files"])
    )


def _snapshot(folder: Path) -> dict[str, int]:
    """Time of change of each result below `folder`; hidden files are unfinished ones."""
    return {
        file.relative_to(folder).as_posix(): file.stat().st_mtime_ns
        for file in folder.rglob("*")
        if file.is_file() and not file.name.startswith(".")
    }


def _completed(settings: Settings) -> dict[str, dict[str, Any]]:
    file = settings.completed_file
    return read_json(file)["notebooks"] if file.exists() else {}


def _write_completed(settings: Settings, completed: dict[str, dict[str, Any]]) -> None:
    write_json(settings.completed_file, {"format": 1, "notebooks": completed})


def _executed_file(settings: Settings, name: str) -> Path:
    return settings.notebooks_folder / f"{name}.ipynb"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.run_notebooks", description=__doc__)
    parser.add_argument(
        "--in-place", action="store_true", help="write the outputs back into notebooks/ as well"
    )
    parser.add_argument(
        "--until", metavar="NN", help="stop after the notebook of this number, such as 02"
    )
    options = parser.parse_args(arguments)
    try:
        settings = Settings.from_environment()
        # Notebooks lock the folders of their own stages, so theirs is another lock than this.
        with only_one_in(settings.run_folder, "running the notebooks"):
            run_all(settings, NOTEBOOKS, options.in_place, options.until)
    except CaptionProjectError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
