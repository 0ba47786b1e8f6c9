"""That the example of distribution runs, and that the fused update does there what Keras's does."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from cluster import TIME_LIMIT

pytestmark = pytest.mark.distribute

pytest.importorskip("mlxtend")
EXAMPLE = Path(__file__).parents[1] / "examples" / "distributed.py"
STRATEGIES = ("one_device", "mirrored", "central", "multi_worker", "parameter_server")


def run_example(*arguments, timeout=TIME_LIMIT):
    """Runs it; returns the rows of its table as numbers."""
    process = subprocess.Popen(
        [sys.executable, str(EXAMPLE), *map(str, arguments)],
        env={**os.environ, "TF_ADADELTA_STRICT": "1"},
        cwd=Path(__file__).parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        output, errors = process.communicate(timeout=timeout)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # And what it started.
    assert process.returncode == 0, errors[-3000:]
    assert "step" in output  # The progress bar.
    table = output[output.index("weight diff.") :].splitlines()[1:]
    return [[float(cell.rstrip("%")) for cell in line.split()] for line in table]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_each_strategy(strategy):
    rows = run_example("--strategy", strategy, "--epochs", 2, "--examples", 400)
    assert len(rows) == 2
    for epoch, stock_loss, _, fused_loss, _, difference in rows:
        assert fused_loss == pytest.approx(stock_loss, rel=1e-3)
        assert difference < (1e-5 if epoch == 1 else 0.02)  # Training amplifies the last bit.
    assert rows[1][3] < rows[0][3] and rows[1][4] > 50


@pytest.mark.exhaustive
def test_as_many_replicas_as_in_the_paper():
    """100 replicas reach the loss that one does on the same batches."""
    arguments = ("--epochs", 1, "--examples", 1000, "--batch-size", 100, "--strategy")
    (many,) = run_example(*arguments, "mirrored", "--replicas", 100, timeout=3 * TIME_LIMIT)
    (one,) = run_example(*arguments, "one_device")
    assert many[3] == pytest.approx(one[3], abs=2e-4)
    assert many[4] == pytest.approx(one[4], abs=0.2)
