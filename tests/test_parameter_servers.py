"""A parameter server cluster in which something is wrong with a task."""

import json

import numpy as np
import pytest
from cluster import Cluster
from coordinator_task import RHO

pytestmark = pytest.mark.distribute


def start_servers(cluster, lacking=()):
    """Starts workers and parameter servers, some without the op library."""
    for job in ("worker", "ps"):
        for i in range(len(cluster.jobs[job])):
            role = "serve-without-library" if (job, i) in lacking else "serve"
            cluster.start(job, i, "strategy_task.py", role)


def kill_and_restart(cluster, number, killed=lambda: None):
    """Kills a worker, calls something, and starts it again."""
    worker = next(task for task in cluster.tasks if task.name == f"worker {number}")
    assert worker.process.poll() is None
    worker.kill()
    killed()
    cluster.wait_for(cluster.start("worker", number, "strategy_task.py", "serve"), "serving")


def test_library_lacking(tmp_path):
    """The stock update and a warning, or an error, that names the task and the line to add."""
    with Cluster(tmp_path, chief=1, worker=1, ps=2) as cluster:
        start_servers(cluster, lacking=(("ps", 0), ("worker", 0)))
        environment = {"TF_ADADELTA_STRICT": "0"}
        command = ("coordinator_task.py", "library_lacking", tmp_path)
        cluster.wait(cluster.start("chief", 0, *command, **environment))
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["warnings False"] == []
    (warning,) = found["warnings True"]
    for message in (warning, found["error"]):
        named = "/job:ps/replica:0/task:0, /job:worker/replica:0/task:0"
        assert f"not loaded in {named}: add" in message
        assert "`import tf_adadelta` or `tf_adadelta.load_library()` to the script" in message
    assert found["error"].startswith("RuntimeError") and found["untouched"]
    assert found["state True"] == found["state False"]
    assert found["asked"] == 3


def test_worker_killed_and_restarted(tmp_path):
    """Between steps: the same bits. In a step: no update is lost, and none is half done."""
    with Cluster(tmp_path, chief=1, worker=2, ps=2) as cluster:
        start_servers(cluster)
        chief = cluster.start("chief", 0, "coordinator_task.py", "worker_killed", tmp_path)
        cluster.wait_for(chief, "between-steps")
        kill_and_restart(cluster, 0)
        (tmp_path / "between-steps").touch()
        cluster.wait_for(chief, "in-a-step")
        kill_and_restart(cluster, 1, killed=(tmp_path / "in-a-step").touch)
        (tmp_path / "back").touch()
        cluster.wait(chief)
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["differ"] == []
    # Whoever saves writes nothing to servers, so that idle rows are rounded another time.
    for value, restored in found["restored"]["values"]:
        np.testing.assert_allclose(restored, value, atol=1e-6, rtol=1e-5)
    calls, restored_calls = found["restored"]["calls"]
    assert calls == restored_calls
    assert found["done when killed"] < found["steps"] / 2
    # A step that was under way when its worker died is taken again.
    updates = np.log1p(-np.array(found["accums"])) / np.log(RHO)
    counts = np.round(updates)
    np.testing.assert_allclose(updates, counts, atol=0.02)
    for shard in np.split(counts, 2):
        assert np.all(shard == shard[0])
    assert found["steps"] <= counts.min() <= counts.max() <= found["steps"] + 2
    # Keras counts by reading and writing, so that workers at once lose counts (not updates).
    assert 0 < found["iterations"] <= found["steps"] + 2
