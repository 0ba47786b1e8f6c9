"""That the benchmark runs; what it measures is not for a test to say."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import needs_xla


@needs_xla
def test_quick_run(tmp_path):
    subprocess.run(
        [sys.executable, "-m", "benchmarks", "--quick", "--output", str(tmp_path)],
        cwd=Path(__file__).parents[1],
        check=True,
        timeout=300,
    )
    run = json.loads((tmp_path / "cpu.json").read_text())
    assert run["quick"]
    assert [case["name"] for case in run["cases"]] == ["16M", "resnet50", "200x256"]
    for case in run["cases"]:
        assert all(row["median_ms"] > 0 for row in case["rows"])
    assert "--quick" in (tmp_path / "cpu.md").read_text()
    assert (tmp_path / "cpu.png").stat().st_size < 100_000


def test_paper(tmp_path):
    pytest.importorskip("mlxtend")
    subprocess.run(
        [sys.executable, "-m", "benchmarks.paper", "--quick", "--output", str(tmp_path)],
        cwd=Path(__file__).parents[1],
        check=True,
        timeout=300,
    )
    experiment = json.loads((tmp_path / "paper.json").read_text())
    assert experiment["quick"]
    learned = min(cell["errors"][0] for cell in experiment["cells"])
    assert learned < 0.3
    assert all(step > 0 for curve in experiment["curves"] for step in curve["percentiles"][-1])
    assert "--quick" in (tmp_path / "paper.md").read_text()
    assert (tmp_path / "paper.png").stat().st_size < 200_000


def test_what_cannot_be_measured_is_named():
    program = """
import sys; sys.modules["tf_keras"] = None
from benchmarks import contestants, report, results, targets
assert not any("legacy" in c.name for c in contestants.CONTESTANTS)
assert targets.CPU_TARGETS and not any("legacy" in t.description for t in targets.CPU_TARGETS)
print(report.tables(results.Run(True, {}, contestants.MISSING, [], [])))
"""
    result = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parents[1],
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    )
    expected = "tf_keras legacy eager and tf_keras legacy tf.function: tf_keras is not installed."
    assert f"Not measured: {expected}" in result.stdout


def test_without_a_gpu():
    if Path("/dev/nvidiactl").exists():
        pytest.skip("there is a GPU")
    result = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--device", "gpu"],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode != 0
    assert result.stderr.strip().splitlines()[-1].startswith("python -m benchmarks --device gpu: ")


def test_sparse(tmp_path):
    subprocess.run(
        [sys.executable, "-m", "benchmarks.sparse", "--quick", "--output", str(tmp_path)],
        cwd=Path(__file__).parents[1],
        check=True,
        timeout=300,
    )
    assert json.loads((tmp_path / "sparse.json").read_text())["quick"]
    assert "Zipf" in (tmp_path / "sparse.md").read_text()
    assert (tmp_path / "sparse.png").stat().st_size < 100_000
