"""Runs the notebooks in order and keeps what they showed: `python -m tools.run_notebooks`.

Each notebook runs from its first cell in a fresh kernel of this Python. A notebook that is complete
is not run again unless something it depends on, or a file that it wrote, has changed. Runs that
share a data set and an encoder each run notebooks 01 to 03, whose charts are the run's own, and
take the features that are there. With `--in-place`, the outputs are also
written back into the notebooks folder, which is how the committed notebooks are made.
"""

import argparse
import asyncio
import json
import os
import re
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import nbformat
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpecManager
from nbclient import NotebookClient  # runs cell by cell, so that what a cell prints is seen at once
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbconvert import HTMLExporter
from nbformat import NotebookNode

from utils.dataset import load_dataset, require_same_data
from utils.machinery.errors import CaptionProjectError
from utils.machinery.files import (
    RECORD_FILE,
    content_hash,
    file_hash,
    read_json,
    write_json,
    write_text,
)
from utils.machinery.lock import only_one_in
from utils.settings import PROJECT, Settings, short_path

NOTEBOOKS = PROJECT / "notebooks"
# Of the folder tools, the modules that a notebook's result depends on.
TOOLS_IN_NOTEBOOKS = ("architecture.py", "fine_tuning.py")
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_TERMINAL_CODES = re.compile(r"\x1b\[[0-9;]*m")
# What commands a terminal, less the little that progress bars need: colours, up and back.
_COMMANDS = re.compile(r"\x1b(?!\[[0-9;]*[mA])|[\x00-\x07\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f-\x9f]")
_ERROR_LINES = 15  # of a traceback, whose beginning is mostly library code
# The page needs no network: of the scripts that the stock template loads only MathJax stays, and
# without it a formula is shown as it was typed.
NOTEBOOK_PAGE = """{% extends 'lab/index.html.j2' %}
{% block html_head_js_requirejs %}{% endblock %}
{% block html_head_js_mermaidjs %}{% endblock %}"""


class NotebookError(CaptionProjectError, RuntimeError):
    """A notebook stopped before its last cell."""


class Stopped(BaseException):
    """Ctrl+C or SIGTERM; no Exception, so that nothing on the way takes it for a failure."""


def run_all(
    settings: Settings, folder: Path, in_place: bool = False, until: str | None = None
) -> None:
    """Brings the notebooks of `folder` up to date, in the order of their names.

    All of them, or those up to number `until`, such as "02"; number 00 is no part of a run.

    Writes, in the run's folder: executed notebooks as .ipynb and .html, `completed.json` (what each
    was made from, and the hashes of its files) and `timings.json` (seconds per notebook).

    Raises:
        NotebookError: there is no such notebook, or a cell failed; later ones are not run.
    """
    notebooks = sorted(folder.glob("[0-9][1-9]_*.ipynb"))
    if not notebooks:
        raise NotebookError(f"{folder} holds no notebook named like 01_topic.ipynb.")
    if settings.processes > 1:
        raise NotebookError(
            f"PROCESSES is {settings.processes}, and notebooks run in one process. Run them "
            "without it; `python -m tools.several_processes` is for several."
        )
    if until is not None:
        numbers = [notebook.stem[:2] for notebook in notebooks]
        if until.zfill(2) not in numbers:
            raise NotebookError(f"--until is {until!r}; expected one of {', '.join(numbers)}.")
        notebooks = [notebook for notebook in notebooks if notebook.stem[:2] <= until.zfill(2)]
    completed = _completed(settings)
    before = _common_fingerprint(settings)
    for position, notebook in enumerate(notebooks):
        name = notebook.stem
        fingerprint = before = content_hash([before, name, _cells(notebook)])
        why = _why_to_run(settings, name, completed.get(name), fingerprint)
        if why is None:
            print(f"{name}: up to date")
        else:
            print(f"{name}: running, since {why}", flush=True)
            # What follows was made from this notebook's earlier result.
            for later in notebooks[position:]:
                completed.pop(later.stem, None)
            _write_completed(settings, completed)
            earlier = _results(settings)
            run_notebook(notebook, settings)
            written = _written(settings, earlier, completed)
            for entry in completed.values():  # a file belongs to the last notebook that wrote it
                entry["files"] = {k: v for k, v in entry["files"].items() if k not in written}
            completed[name] = {"fingerprint": fingerprint, "files": written}
            _write_completed(settings, completed)
        if in_place:
            write_text(notebook, _to_commit(_read(_executed_file(settings, name))))


def run_notebook(notebook: Path, settings: Settings) -> None:
    """Runs one notebook; what it prints appears on the terminal at once.

    The executed copy is written also when a cell fails, as far as it got.

    Raises:
        NotebookError: a cell failed or the kernel died.
        Stopped: Ctrl+C or SIGTERM came; the kernel has been ended.
    """
    content = _read(notebook)
    started = time.monotonic()
    try:
        _execute(content, notebook.parent, settings.notebooks_folder / f"{notebook.stem}.log")
    except (CellExecutionError, DeadKernelError) as error:
        _keep(content, notebook.stem, settings)
        raise NotebookError(_what_happened(notebook.stem, content, error, settings)) from error
    seconds = time.monotonic() - started
    _keep(content, notebook.stem, settings)
    timings = {**_timings(settings), notebook.stem: round(seconds, 1)}
    write_json(settings.timings_file, dict(sorted(timings.items())))
    print(f"{notebook.stem} … {seconds:.0f} s", flush=True)


class _LiveClient(NotebookClient):
    """Passes on what cells print while they print it, and keeps the signal that ended it."""

    stopped_by = 0

    async def async_start_new_kernel(self, **kwargs):
        # In place of nbclient's own handlers, after which one can't tell a signal from a crash.
        loop, running = asyncio.get_running_loop(), asyncio.current_task()
        for number in _SIGNALS:
            with suppress(NotImplementedError):  # on Windows
                loop.add_signal_handler(number, self._stop, number, running)
        await super().async_start_new_kernel(**kwargs)

    def _stop(self, number, running):
        if not self.stopped_by:  # a second Ctrl+C must not disturb the end of the kernel
            self.stopped_by = number
            running.cancel()

    def process_message(self, msg, cell, cell_index):
        if msg["msg_type"] == "stream":
            terminal = sys.stderr if msg["content"]["name"] == "stderr" else sys.stdout
            text = msg["content"]["text"]  # names of files and captions may be part of it
            terminal.write(_COMMANDS.sub(lambda found: ascii(found[0])[1:-1], text))
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
    interval = "0.5" if sys.stdout.isatty() else "10"
    environment = {"TQDM_NCOLS": "100", "TQDM_MININTERVAL": interval, **os.environ}
    handlers = {number: signal.getsignal(number) for number in _SIGNALS}
    try:
        with log.open("w", encoding="utf-8") as native:
            client.execute(env=environment, stderr=native, cleanup_kc=True)
    except BaseException as error:
        if client.stopped_by:
            raise Stopped(client.stopped_by) from error
        raise
    finally:
        _handle(handlers)  # asyncio leaves the defaults behind


def _keep(content: NotebookNode, name: str, settings: Settings) -> None:
    """Writes the executed notebook and its page, without the paths of this machine."""
    content = _without_paths(content)
    write_text(_executed_file(settings, name), nbformat.writes(content))
    exporter = HTMLExporter(raw_template=NOTEBOOK_PAGE)
    page, _ = exporter.from_notebook_node(content, {"metadata": {"name": name}})
    write_text(settings.notebooks_folder / f"{name}.html", page)


def _timings(settings: Settings) -> dict[str, float]:
    """Seconds of notebooks so far; a damaged file only means that they are not known."""
    try:
        known = read_json(settings.timings_file, fields={})
    except CaptionProjectError:
        return {}
    return {k: v for k, v in known.items() if type(v) in (int, float) and 0 <= v < 1e9}


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
    modules = [
        module for folder in ("utils", "sample") for module in (PROJECT / folder).rglob("*.py")
    ]
    modules += [PROJECT / "tools" / name for name in TOOLS_IN_NOTEBOOKS]
    sources = {module.relative_to(PROJECT).as_posix(): file_hash(module) for module in modules}
    return content_hash([vars(settings), os.environ.get("KERAS_BACKEND", ""), sources])


def _read(notebook: Path) -> NotebookNode:
    try:
        return nbformat.read(notebook, as_version=4)
    except Exception as error:  # nbformat raises nearly anything on what is no notebook
        raise NotebookError(
            f"{short_path(notebook)} can't be read as a notebook ({type(error).__name__}). Restore "
            "it, or delete it if it lies in a run's folder."
        ) from error


def _cells(notebook: Path) -> list[list[str]]:
    """Kind and source of each cell: what a notebook is, without what it last showed."""
    return [[cell.cell_type, cell.source] for cell in _read(notebook).cells]


def _why_to_run(
    settings: Settings, name: str, entry: dict[str, Any] | None, fingerprint: str
) -> str | None:
    """Why a notebook must run, or None: it ran from these sources and its files are unchanged."""
    if entry is None:
        return "it has not finished yet, or an earlier one ran"
    if entry["fingerprint"] != fingerprint:
        return "settings or sources have changed"
    if not _executed_file(settings, name).exists():
        return "its executed copy is missing"
    for file, known in entry["files"].items():
        if _hash(settings.runs / file) != known:
            return f"{Path(file).name} is missing or was changed"
    return None


def _results(settings: Settings) -> dict[str, int]:
    """Time of change of each result, by its path in `settings.runs`.

    Hidden files are unfinished ones; copies of notebooks may be edited, and are no results.
    """
    found = {}
    for folder in (settings.prepared_folder, settings.run_folder):
        for file in folder.rglob("*"):
            inside = file.relative_to(folder).parts
            kept = inside[0] != "notebooks" and not any(part.startswith(".") for part in inside)
            if kept and file.name not in (RECORD_FILE, settings.timings_file.name):
                with suppress(OSError):  # gone just now, or a link that leads nowhere
                    if file.is_file():
                        path = file.relative_to(settings.runs).as_posix()
                        found[path] = file.stat().st_mtime_ns
    return found


def _written(
    settings: Settings, earlier: dict[str, int], completed: dict[str, dict[str, Any]]
) -> dict[str, str | None]:
    """Hashes of the files that a notebook wrote, or found ready: another run may have made them."""
    prepared = f"{settings.prepared_folder.name}/"
    known = {file for entry in completed.values() for file in entry["files"]}
    return {
        file: _hash(settings.runs / file)
        for file, changed in _results(settings).items()
        if earlier.get(file) != changed or (file.startswith(prepared) and file not in known)
    }


def _hash(file: Path) -> str | None:
    """Hash of a file's content; None if there is no such file, or it can't be read."""
    try:
        return file_hash(file, file.stat().st_size) if file.is_file() else None
    except OSError:
        return None


def _completed(settings: Settings) -> dict[str, dict[str, Any]]:
    """What `completed.json` tells of each notebook; what is damaged in it counts as not done."""
    try:
        entries = read_json(settings.completed_file, fields={"format": 2, "notebooks": dict})
    except CaptionProjectError:
        return {}
    return {name: e for name, e in entries["notebooks"].items() if _is_entry(e)}


def _is_entry(entry: Any) -> bool:
    return (
        isinstance(entry, dict)
        and isinstance(entry.get("fingerprint"), str)
        and isinstance(entry.get("files"), dict)
        and all(isinstance(known, str) for known in entry["files"].values())
    )


def _write_completed(settings: Settings, completed: dict[str, dict[str, Any]]) -> None:
    write_json(settings.completed_file, {"format": 2, "notebooks": completed})


def _executed_file(settings: Settings, name: str) -> Path:
    return settings.notebooks_folder / f"{name}.ipynb"


def _stop(number: int, _frame) -> None:
    raise Stopped(number)


def _handle(handlers: dict[int, Any]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.run_notebooks", description=__doc__)
    parser.add_argument(
        "--in-place", action="store_true", help="write the outputs back into notebooks/ as well"
    )
    parser.add_argument(
        "--until", metavar="NN", help="stop after the notebook of this number, such as 02"
    )
    options = parser.parse_args(arguments)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # not every terminal has every character
    handlers = {number: signal.signal(number, _stop) for number in _SIGNALS}
    try:
        settings = Settings.from_environment()
        # Notebooks lock the folders of their own stages, so theirs is another lock than this.
        with only_one_in(settings.run_folder, "running the notebooks"):
            if settings.dataset_summary_file.exists():  # else "up to date" could be of other data
                require_same_data(load_dataset(settings), settings.dataset_summary_file)
            run_all(settings, NOTEBOOKS, options.in_place, options.until)
    except CaptionProjectError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except Stopped as stop:
        name = "Ctrl+C" if stop.args[0] == signal.SIGINT else "a signal to end"
        print(f"\nStopped by {name}; what is finished is kept.", file=sys.stderr)
        return 128 + stop.args[0]
    finally:
        _handle(handlers)
    return 0


if __name__ == "__main__":
    sys.exit(main())
