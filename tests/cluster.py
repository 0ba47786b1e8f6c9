"""Clusters of real processes on loopback: started, watched, killed, and all ended at the end."""

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

TIME_LIMIT = 180  # Of one task in seconds; nothing here takes half of it, or the machine is busy.
_PORTS = range(10_000, 32_000)  # Below those that the system gives to outgoing connections.


def free_addresses(count):
    """Returns addresses on loopback that nobody listens to."""
    with contextlib.ExitStack() as stack:
        ports = []
        # All are bound before the first is let go, so that no two are the same.
        while len(ports) < count:
            port = random.SystemRandom().choice(_PORTS)
            with contextlib.suppress(OSError):
                stack.enter_context(socket.socket()).bind(("localhost", port))
                ports.append(port)
        return [f"localhost:{port}" for port in ports]


class Task:
    """One process of a cluster.

    Attributes:
        name: Its job and index.
        process: The process.
        killed: Whether we ended it.
    """

    def __init__(self, name, process, log):
        self.name = name
        self.process = process
        self.killed = False
        self._log = log

    def output(self):
        """Returns what it has printed so far, errors included."""
        return self._log.read_text(errors="replace")

    def failed(self):
        """Whether it has ended as it should not."""
        return self.process.poll() not in (None, 0) and not self.killed

    def kill(self):
        """Ends it without a warning."""
        self.killed = self.process.poll() is None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class Cluster:
    """Tasks that know each other by TF_CONFIG; a context, at whose end all of them are killed.

    Args:
        directory: Where what they print goes.
        **sizes: How many tasks each job has: `worker=2, ps=2, chief=1`.
    """

    def __init__(self, directory, **sizes):
        self.directory = Path(directory)
        addresses = iter(free_addresses(sum(sizes.values())))
        self.jobs = {job: [next(addresses) for _ in range(size)] for job, size in sizes.items()}
        self.tasks = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for task in self.tasks:
            task.kill()

    def start(self, job, index, *command, **environment):
        """Starts a task: a Python program beside this file, and its arguments."""
        config = {"cluster": self.jobs, "task": {"type": job, "index": index}}
        log = self.directory / f"{job}{index}-{len(self.tasks)}.log"
        with log.open("w") as file:
            process = subprocess.Popen(
                # The limit holds even if whoever started it is killed.
                ["timeout", "--signal=KILL", str(TIME_LIMIT), sys.executable, *map(str, command)],
                cwd=Path(__file__).parent,
                env={**os.environ, "TF_CONFIG": json.dumps(config), **environment},
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.tasks.append(Task(f"{job} {index}", process, log))
        return self.tasks[-1]

    def wait(self, *tasks):
        """Waits for the end of tasks.

        Raises:
            AssertionError: Some task of the cluster failed.
        """
        self._wait(lambda: all(task.process.poll() is not None for task in tasks))

    def wait_for(self, task, text):
        """Waits until a task has printed something.

        Raises:
            AssertionError: Some task of the cluster failed, or it has ended.
        """
        self._wait(lambda: text in task.output() or task.process.poll() is not None)
        assert text in task.output(), f"{task.name} has not printed {text!r}:\n{task.output()}"

    def _wait(self, is_over):
        while True:
            over = is_over()
            for task in self.tasks:
                said = f"{task.name} ended with {task.process.poll()}:\n{task.output()[-6000:]}"
                assert not task.failed(), said
            if over:
                return
            time.sleep(0.05)
