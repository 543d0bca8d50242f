"""The notebooks run, and their outputs are kept."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[1] / "notebooks"
NAMES = ("quickstart", "anatomy", "fits", "physics_informed")


SHORTER = {"physics_informed": ("BUDGET, SWITCH, SEEDS = 2000, 1000", "100, 50")}
"""Of a notebook that takes a minute: what is replaced when it is run here."""


def read(name):
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def check_outputs(notebook):
    """No cell failed, warned, or was run out of order or not at all."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    counts = [cell.execution_count for cell in cells]
    assert counts == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [o for o in outputs if o.output_type == "error"]
    assert not [o.text for o in outputs if o.get("name") == "stderr"]
    assert any("image/png" in o.get("data", {}) for o in outputs)


def shorten(notebook, line, values):
    [cell] = [cell for cell in notebook.cells if line in cell.source]
    names, _, _ = line.rpartition(" = ")
    cell.source = cell.source.replace(line, f"{names} = {values}")


def test_these_are_all():
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_it_opens_with_what_its_reader_gets(name):
    opening = read(name).cells[0]
    assert opening.cell_type == "markdown"
    title, blank, *lines = opening.source.splitlines()
    assert title.startswith("# ")
    assert not blank
    assert [len(line) <= 88 and line.endswith(".") for line in lines] == [True, True]


@pytest.mark.parametrize("name", NAMES)
def test_the_outputs_are_kept(name):
    check_outputs(read(name))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_it_runs(name, tmp_path):
    notebook = read(name)
    if name in SHORTER:
        shorten(notebook, *SHORTER[name])
    NotebookClient(
        notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    check_outputs(notebook)
