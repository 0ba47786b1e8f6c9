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


@pytest.mark.parametrize(
    "lacking, named, added",
    [
        ((("ps", 1),), "task /job:ps/replica:0/task:1 has not", "of that process"),
        (
            (("ps", 0), ("worker", 0)),
            "tasks /job:ps/replica:0/task:0, /job:worker/replica:0/task:0 have not",
            "of those processes",
        ),
    ],
    ids=["server", "server and worker"],
)
def test_library_lacking(tmp_path, lacking, named, added):
    """The stock update and a warning, or an error, that names the task and the line to add."""
    with Cluster(tmp_path, chief=1, worker=1, ps=2) as cluster:
        start_servers(cluster, lacking)
        environment = {"TF_ADADELTA_STRICT": "0"}
        command = ("coordinator_task.py", "library_lacking", tmp_path)
        cluster.wait(cluster.start("chief", 0, *command, **environment))
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["warnings False"] == []
    (warning,) = found["warnings True"]
    for message in (warning, found["error"]):
        assert named in message
        assert "add `import tf_adadelta` or `tf_adadelta.load_library()` to the script" in message
        assert added in message
    assert found["error"].startswith("RuntimeError") and found["untouched"]
    assert found["state True"] == found["state False"]


def test_worker_killed_and_restarted(tmp_path):
    """Between steps: the same bits. In a step: no update is lost, and none is half done."""
    with Cluster(tmp_path, chief=1, worker=2, ps=2) as cluster:
        start_servers(cluster)
        chief = cluster.start("chief", 0, "coordinator_task.py", "worker_killed", tmp_path)
        for number, event in enumerate(("between-steps", "in-a-step")):
            cluster.wait_for(chief, event)
            worker = next(t for t in cluster.tasks if t.name == f"worker {number}")
            assert not worker.failed()
            worker.kill()
            again = cluster.start("worker", number, "strategy_task.py", "serve")
            cluster.wait_for(again, "serving")
            (tmp_path / event).touch()
        cluster.wait(chief)
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["differ"] == []
    accums = np.array(found["accums"])
    assert found["iterations"] >= found["steps"]
    # Late updates are too many to be counted by an average that decays; each of them leaves it
    # where so many do.
    least = 1 - RHO ** found["steps"]
    np.testing.assert_allclose(accums, least, rtol=1e-4)
