"""Clusters of real processes on loopback: started, watched, killed, and all ended at the end."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

TIME_LIMIT = 120  # Of one task in seconds; nothing here should take half of it.


def free_addresses(count):
    """Returns addresses on loopback that nobody listens to."""
    with contextlib.ExitStack() as stack:
        # All are bound before the first is let go, so that no two are the same.
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("localhost", 0))
        return [f"localhost:{one.getsockname()[1]}" for one in sockets]


class Task:
    """One process of a cluster."""

    def __init__(self, name, process, log):
        self.name = name
        self.process = process
        self._log = log

    def output(self):
        """Returns what it has printed so far, errors included."""
        return self._log.read_text(errors="replace")

    def wait(self, timeout=TIME_LIMIT):
        """Waits for its end.

        Raises:
            AssertionError: It failed, or has not ended in time.
        """
        try:
            status = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} has not ended:\n{self.output()[-6000:]}") from None
        assert status == 0, f"{self.name} ended with {status}:\n{self.output()[-6000:]}"

    def wait_for(self, text, timeout=TIME_LIMIT):
        """Waits until it has printed something."""
        end = time.monotonic() + timeout
        while text not in self.output():
            assert self.process.poll() is None, f"{self.name} ended:\n{self.output()[-6000:]}"
            assert time.monotonic() < end, f"{self.name} has not printed {text!r}:\n{self.output()}"
            time.sleep(0.05)

    def kill(self):
        """Ends it without a warning."""
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
