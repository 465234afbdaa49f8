"""Progress bars: in a notebook not red and in one line, elsewhere on standard error."""

import nbformat
from nbclient import NotebookClient

from utils.machinery.progress import ProgressBar

CELL = """
import sys
sys.path.insert(0, {project!r})
from utils.machinery.progress import ProgressBar
for _ in ProgressBar(range(2000), desc="counting", mininterval=0, miniters=1):
    pass
print("done")
"""


def test_a_notebook_keeps_one_line_of_a_bar_and_nothing_red(request):
    cell = nbformat.v4.new_code_cell(CELL.format(project=str(request.config.rootpath)))
    notebook = nbformat.v4.new_notebook(cells=[cell])
    NotebookClient(notebook, coalesce_streams=True, timeout=60).execute()
    (output,) = cell.outputs
    assert output.name == "stdout"
    bar, done = output.text.splitlines()
    assert bar.startswith("counting: 100%")
    assert done == "done"


def test_a_program_prints_nothing_of_a_bar(capsys):
    list(ProgressBar(range(3), desc="counting"))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "counting: 100%" in captured.err
