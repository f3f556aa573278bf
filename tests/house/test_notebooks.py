"""The notebooks: cells that fit a screen, a folder that is soon cloned."""

import json
import pathlib

import pytest

NOTEBOOKS = pathlib.Path(__file__).parents[2] / "notebooks"


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.name)
def test_cells_of_code_have_at_most_25_lines(path):
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    assert cells
    assert [cell for cell in cells if len("".join(cell["source"]).splitlines()) > 25] == []


def test_the_folder_is_under_a_megabyte():
    files = [path for path in NOTEBOOKS.iterdir() if path.is_file()]
    assert len(files) > 8
    assert sum(path.stat().st_size for path in files) < 1_000_000
