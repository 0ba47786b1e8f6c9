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
