"""The repository keeps its own rules: dependencies, addresses, notebooks, order of the modules."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import nbformat
import pytest

import utils
from utils.settings import PROJECT, Settings

NOTEBOOKS = sorted((PROJECT / "notebooks").glob("*.ipynb"))
MODULES = sorted((PROJECT / "utils").rglob("*.py"))
MOST_LINES_OF_A_FUNCTION = 12  # in a notebook; a longer one belongs in utils
MOST_IMPORTS_OF_A_CELL = 16  # lines; what is needed once is imported where it is needed
LARGEST_NOTEBOOK = 1_000_000  # bytes; GitHub shows no larger ones
each_notebook = pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)


# What is tracked


def tracked_files() -> list[Path]:
    """Files of the repository, or skips where this is not one (an unpacked archive)."""
    if shutil.which("git") is None or not (PROJECT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    files = [PROJECT / name for name in listed.stdout.split("\0") if name]
    return [file for file in files if file.is_file()]


def text_of(file: Path) -> str:
    """What a reader sees of a file: nothing of pictures, also not of those in a notebook."""
    if file.suffix == ".ipynb":
        content = nbformat.read(file, as_version=4)
        return "\n".join([cell.source for cell in content.cells] + printed(content))
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return ""


def printed(content: nbformat.NotebookNode) -> list[str]:
    """Every text among the outputs of a notebook."""
    outputs = [output for cell in content.cells for output in cell.get("outputs", [])]
    shown = [output.get("data", {}) for output in outputs]
    return [output.get("text", "") for output in outputs] + [
        str(text) for data in shown for kind, text in data.items() if kind.startswith("text/")
    ]


def test_no_tracked_file_names_a_folder_of_somebodys_machine():
    home = re.compile(r"(?<![\w.])/(?:root|work|tmp|home/\w+|Users/\w+)/|[A-Z]:\\+Users")
    found = [
        f"{file.relative_to(PROJECT)}: {match.group()}"
        for file in tracked_files()
        if file != Path(__file__)
        for match in home.finditer(text_of(file))
    ]
    assert found == []


def test_no_tracked_file_is_large():
    large = [file for file in tracked_files() if file.stat().st_size > 2 * 1024**2]
    # A shipped captioner may be larger; tests/test_model_card.py says how large.
    assert [file.name for file in large if file.name != "decoder.npz"] == []


def code_of(file: Path) -> list[ast.Module]:
    """Syntax trees of a module, or of each code cell of a notebook."""
    if file.suffix == ".py":
        return [ast.parse(file.read_text(encoding="utf-8"))]
    return [
        ast.parse(re.sub(r"(?m)^(\s*)[%!].*", r"\1pass", cell.source))
        for cell in nbformat.read(file, as_version=4).cells
        if cell.cell_type == "code"
    ]


def imported(file: Path) -> set[str]:
    """Full names of the modules that a file imports anywhere."""
    names = set()
    for tree in code_of(file):
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def code_files() -> list[Path]:
    return [file for file in tracked_files() if file.suffix in (".py", ".ipynb")]


def test_nothing_is_pickled():
    found = {
        file.name: sorted(imported(file) & {"pickle", "dill", "joblib", "cloudpickle"})
        for file in code_files()
    }
    assert {name: modules for name, modules in found.items() if modules} == {}


def test_no_warning_is_silenced_wholesale():
    calls = [
        f"{file.name}, line {node.lineno}"
        for file in code_files()
        for tree in code_of(file)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and getattr(node.func, "attr", "") in ("filterwarnings", "simplefilter")
        and node.args
        and getattr(node.args[0], "value", "") == "ignore"
    ]
    assert calls == []


# Dependencies


def requirements(lines: list[str]) -> dict[str, str]:
    """Name of each requirement and its bound: `{"numpy": ">=2.0"}`."""
    return dict(re.fullmatch(r"([\w-]+)(.*)", line.strip()).groups() for line in lines)


@pytest.fixture(scope="module")
def pyproject():
    return tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def needed(pyproject):
    project = pyproject["project"]
    return requirements(project["dependencies"] + project["optional-dependencies"]["dev"])


def test_conda_users_get_the_same_dependencies_each_with_its_reason(pyproject, needed):
    lines = (PROJECT / "environment.yml").read_text(encoding="utf-8").splitlines()
    listed = [line for line in lines if re.match(r" +- [a-z][\w-]*>=", line)]
    reasons = [line.partition("  # ")[2] for line in listed]
    packages = [line.partition("#")[0].strip(" -") for line in listed]

    assert requirements(packages) == needed
    assert all(reasons)
    python = next(line for line in lines if line.startswith("  - python "))
    assert pyproject["project"]["requires-python"] in python


def test_every_dependency_has_an_exact_version_within_its_bound(needed):
    lines = (PROJECT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    exact = dict(re.fullmatch(r"([\w.-]+)==([\w.]+)", pin).groups() for pin in pins)

    def number(version):
        return [int(part) for part in re.findall(r"\d+", version)]

    for name, bound in needed.items():
        assert name in exact, f"{name} has no exact version"
        assert number(exact[name]) >= number(bound), f"{name} {exact[name]} is not {bound}"


def test_what_is_imported_is_what_is_needed(needed):
    names = {"PIL": "pillow"}
    here = {path.parent.name for path in PROJECT.glob("*/__init__.py")}
    here |= {"google", *(path.stem for path in code_files())}  # google.colab is Colab's own
    imports = {name.partition(".")[0] for file in code_files() for name in imported(file)}
    packages = {names.get(name, name) for name in imports - sys.stdlib_module_names - here}
    commands = (PROJECT / "Makefile").read_text(encoding="utf-8")
    started = {name for name in needed if re.search(rf"-m {name}\b|--{name}", commands)}
    by_others = {"tensorflow", "jax", "ipykernel"}  # imported by Keras and by Jupyter

    assert packages - set(needed) == set()
    assert set(needed) - packages - started - by_others == set()


# Addresses


def address(pyproject) -> str:
    return pyproject["project"]["urls"]["Repository"].removeprefix("https://github.com/")


def prose_files() -> list[Path]:
    return [*NOTEBOOKS, *PROJECT.glob("*.md"), *(PROJECT / "report").glob("*.md")]


def test_every_link_to_the_repository_has_its_one_address(pyproject):
    name = address(pyproject).partition("/")[2]
    places = re.compile(rf"github(?:\.com|usercontent\.com)?/([\w.-]+/{name})\b")
    found = {
        f"{file.name}: {match}" for file in prose_files() for match in places.findall(text_of(file))
    }
    assert {entry for entry in found if not entry.endswith(f": {address(pyproject)}")} == set()


def test_links_between_files_lead_somewhere():
    links = [
        (file, target)
        for file in prose_files()
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text_of(file))
        if not re.match(r"\w+:", target)
    ]
    missing = [
        f"{file.name}: {target}" for file, target in links if not (file.parent / target).exists()
    ]
    assert missing == []


def test_the_readme_explains_every_setting():
    text = (PROJECT / "README.md").read_text(encoding="utf-8")
    unexplained = [
        name.upper() for name in Settings.__dataclass_fields__ if f"`{name.upper()}`" not in text
    ]
    assert unexplained == []


# Notebooks


@each_notebook
def test_a_notebook_opens_with_its_title_and_a_badge_that_opens_itself(notebook, pyproject):
    content = nbformat.read(notebook, as_version=4)
    first = content.cells[0]
    badge = (
        f"https://colab.research.google.com/github/{address(pyproject)}"
        f"/blob/main/notebooks/{notebook.name}"
    )
    colab_links = re.findall(
        r"https://colab\.research\.google\.com/github/[^)\s\"]+", text_of(notebook)
    )

    assert first.cell_type == "markdown"
    assert re.search(r"(?m)^# \S", first.source)
    assert badge in first.source
    assert set(colab_links) == {badge}
    assert len(colab_links) == 1


@each_notebook
def test_a_notebook_is_kept_as_it_ran_from_top_to_bottom(notebook):
    content = nbformat.read(notebook, as_version=4)
    cells = [cell for cell in content.cells if cell.cell_type == "code"]

    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    kinds = {output.output_type for cell in cells for output in cell.outputs}
    assert "error" not in kinds
    streams = {output.get("name") for cell in cells for output in cell.outputs}
    assert "stderr" not in streams  # Jupyter shows it in red
    assert notebook.stat().st_size < LARGEST_NOTEBOOK
    assert len({cell.id for cell in content.cells}) == len(content.cells)


@each_notebook
def test_prose_stands_before_the_code(notebook):
    kinds = [cell.cell_type for cell in nbformat.read(notebook, as_version=4).cells]
    unexplained = [
        position
        for position, kind in enumerate(kinds)
        if kind == "code" and "markdown" not in kinds[max(0, position - 2) : position]
    ]
    assert unexplained == []


@each_notebook
def test_a_solution_is_collapsed_and_follows_a_hint(notebook):
    cells = nbformat.read(notebook, as_version=4).cells
    solutions = [at for at, cell in enumerate(cells) if cell.source.startswith("# Solution")]
    marked = [at for at, cell in enumerate(cells) if "solution" in cell.metadata.get("tags", [])]

    assert marked == solutions
    assert solutions or notebook.stem.startswith("00")
    for at in solutions:
        assert cells[at].metadata["jupyter"]["source_hidden"] is True
        assert "<details><summary>Hint</summary>" in cells[at - 1].source


@each_notebook
def test_a_cell_imports_little(notebook):
    lines = [
        sum(
            node.end_lineno - node.lineno + 1
            for node in tree.body
            if isinstance(node, ast.Import | ast.ImportFrom)
        )
        for tree in code_of(notebook)
    ]
    assert max(lines) <= MOST_IMPORTS_OF_A_CELL


def not_repeatable(tree: ast.Module) -> set[str]:
    """Names that a cell changes for its second run: it reads one before it binds it anew."""
    bound, found = set(), set()
    for statement in tree.body:
        if isinstance(statement, ast.FunctionDef):
            bound.add(statement.name)
            continue
        nodes = list(ast.walk(statement))
        names = [node for node in nodes if isinstance(node, ast.Name)]
        loops = {
            name.id
            for node in nodes
            if isinstance(node, ast.comprehension)
            for name in ast.walk(node.target)
            if isinstance(name, ast.Name)
        }
        stored = {node.id for node in names if isinstance(node.ctx, ast.Store)} - loops
        read = {node.id for node in names if isinstance(node.ctx, ast.Load)} - loops
        if isinstance(statement, ast.Assign):
            found |= (stored & read) - bound
        elif isinstance(statement, ast.AugAssign):
            found |= stored - bound
        for node in ast.walk(statement):  # what takes from, or adds to, an object of another cell
            if (
                isinstance(node, ast.Call)
                and getattr(node.func, "attr", "") in ("pop", "popitem", "append", "extend")
                and isinstance(node.func.value, ast.Name)
            ):
                found |= {node.func.value.id} - bound - stored
        bound |= stored
    return found


@each_notebook
def test_every_cell_can_run_twice(notebook):
    changed = [not_repeatable(tree) for tree in code_of(notebook)]
    assert [names for names in changed if names] == []


@pytest.mark.parametrize(
    ("cell", "names"),
    [
        ("table = table.drop(columns='a')", {"table"}),
        ("total += 1", {"total"}),
        ("best = models.pop('second')", {"models"}),
        ("rows = []\nrows.append(1)\nrows = rows + rows", set()),
    ],
)
def test_a_cell_that_changes_what_it_reads_is_found(cell, names):
    assert not_repeatable(ast.parse(cell)) == names


def functions(notebook: Path) -> dict[str, int]:
    """Functions that a notebook defines, and how many lines each has."""
    return {
        node.name: node.end_lineno - node.lineno + 1
        for tree in code_of(notebook)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
    }


@each_notebook
def test_a_notebook_leaves_long_functions_to_utils(notebook):
    long = {name: n for name, n in functions(notebook).items() if n > MOST_LINES_OF_A_FUNCTION}
    assert long == {}


def test_no_function_stands_in_two_notebooks():
    places = [(name, notebook.stem) for notebook in NOTEBOOKS for name in functions(notebook)]
    names = [name for name, _ in places]
    assert [place for place in places if names.count(place[0]) > 1] == []


# Modules


def test_modules_are_listed_in_the_order_of_the_data_and_import_only_earlier_ones():
    order = re.findall(r"`([\w.]+)`", utils.__doc__)
    names = {
        ".".join(module.relative_to(PROJECT).with_suffix("").parts).removesuffix(
            ".__init__"
        ): module
        for module in MODULES
    }
    place = {f"utils.{name}": number for number, name in enumerate(order)}
    assert sorted(place) == sorted(set(names) - {"utils"})

    upwards = [
        f"{name} imports {other}"
        for name, module in names.items()
        for other in imported(module)
        if other in place and place[other] >= place[name]
    ]
    assert upwards == []


# CI


def test_every_action_of_ci_is_pinned_by_commit_with_its_release_beside_it():
    files = sorted((PROJECT / ".github" / "workflows").glob("*.yml"))
    used = [line for file in files for line in re.findall(r"uses: *(.*)", text_of(file))]
    assert used
    pinned = re.compile(r"[\w./-]+@[0-9a-f]{40} # v[\d.]+")
    assert [line for line in used if not pinned.fullmatch(line)] == []


def test_ci_forgets_every_setting_of_its_caller():
    script = (PROJECT / ".ci" / "run").read_text(encoding="utf-8")
    forgotten = set(" ".join(re.findall(r"(?m)^unset (.*)$", script)).split())
    assert {name.upper() for name in Settings.__dataclass_fields__} - forgotten == set()


# The Makefile


def make(*arguments: str) -> subprocess.CompletedProcess:
    if shutil.which("make") is None:
        pytest.skip("there is no make on this machine")
    # The make that may be running these tests must not pass its own options on.
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    return subprocess.run(
        ["make", *arguments], cwd=PROJECT, env=clean, capture_output=True, text=True, check=False
    )


def test_make_alone_lists_every_target_and_setting():
    shown = make().stdout
    makefile = (PROJECT / "Makefile").read_text(encoding="utf-8")
    targets = re.search(r"(?m)^\.PHONY: (.*)$", makefile).group(1).split()

    assert [name for name in targets if f"make {name} " not in shown] == ["help"]
    settings = [name.upper() for name in Settings.__dataclass_fields__]
    assert [name for name in settings if not re.search(rf"\b{name}\b", shown)] == []


@pytest.mark.skipif(os.name == "nt", reason="stands in for Python with a shell script")
def test_make_says_which_python_it_needs(tmp_path):
    old = tmp_path / "old-python"
    old.write_text("#!/bin/sh\n[ \"$1\" = --version ] && echo 'Python 3.9.1'\nexit 1\n")
    old.chmod(0o755)

    done = make("install", f"PYTHON={old}", f"VENV={tmp_path / 'venv'}")

    assert done.returncode != 0
    assert "Python 3.11, 3.12 or 3.13 is needed" in done.stderr
    assert "Python 3.9.1" in done.stderr
    assert not (tmp_path / "venv").exists()
