"""Jobs that are killed at random and go on: `python -m benchmarks.restarts --help`.

A job trains, saves as it goes, is killed with SIGKILL at random moments and started again, over and
over; at the end its weights and slots must have the same bits as those of a job that was never
killed. It saves with `tf.train.CheckpointManager` in a loop of its own, or with Keras's
`BackupAndRestore(double_checkpoint=True)` in `fit`.
"""

import argparse
import concurrent.futures
import contextlib
import dataclasses
import itertools
import json
import multiprocessing
import os
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

KINDS = {
    "dense": {},
    "exact": {},
    "lazy": {"sparse_update": "lazy"},
    "EMA and decay": {"use_ema": True, "ema_momentum": 0.9, "weight_decay": 0.01},
}
STRATEGIES = ("one process", "MirroredStrategy")
SAVERS = ("CheckpointManager", "BackupAndRestore")
KILLS = 20

_STEPS_PER_EPOCH = 8
_STEPS_PER_SAVE = 20
_BATCH = 16
_ROWS = 1000
_LIMIT = 600  # Seconds that a job may take to begin, or to end; the machine may be busy.


@dataclasses.dataclass(frozen=True)
class Case:
    """What a job trains, and how it saves.

    Attributes:
        kind: One of `KINDS`.
        strategy: One of `STRATEGIES`.
        saver: One of `SAVERS`.
    """

    kind: str
    strategy: str
    saver: str

    @property
    def steps(self) -> int:
        """How many steps a job takes: a few seconds."""
        return 600 if self.saver == "CheckpointManager" else 40 * _STEPS_PER_EPOCH


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a case went.

    Attributes:
        case: The case.
        kills: How often the job was killed.
        moments: What it had been doing, and how many of the kills came then.
        arrays: How many arrays were compared.
        differ: The names of those that have other bits.
        error: Why there is nothing to compare, if so.
    """

    case: Case
    kills: int
    moments: dict[str, int]
    arrays: int = 0
    differ: list[str] = dataclasses.field(default_factory=list)
    error: str | None = None

    @property
    def is_same(self) -> bool:
        """Whether the job ended as it would have without being killed."""
        return not self.differ and self.error is None


class _Job:
    """A training that goes on from what it finds in its directory.

    Args:
        case: What is trained.
        directory: Where it saves.
        say: Called with what it does now.
    """

    def __init__(self, case: Case, directory: Path, say: Callable[[str], None]) -> None:
        import keras
        import tensorflow as tf

        import tf_adadelta

        tf.config.threading.set_intra_op_parallelism_threads(1)
        self.case, self.directory, self._say = case, directory, say
        self.strategy = tf.distribute.get_strategy()
        if case.strategy == "MirroredStrategy":
            cpu = tf.config.list_physical_devices("CPU")[0]
            devices = [tf.config.LogicalDeviceConfiguration()] * 2
            tf.config.set_logical_device_configuration(cpu, devices)
            self.strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
        keras.utils.set_random_seed(0)
        with self.strategy.scope():
            layers = [keras.layers.Dense(16, activation="tanh"), keras.layers.Dense(1)]
            if case.kind == "dense":
                layers = [keras.Input((8,)), *layers]
            else:
                table = keras.layers.Embedding(_ROWS, 8)
                layers = [keras.Input((4,), dtype="int32"), table, keras.layers.Flatten(), *layers]
            self.model = keras.Sequential(layers)
            optimizer = tf_adadelta.Adadelta(1.0, **KINDS[case.kind])
            self.model.compile(optimizer, loss="mse", jit_compile=False)
            optimizer.build(self.model.trainable_variables)

    @property
    def steps_done(self) -> int:
        return int(_value(self.model.optimizer.iterations))

    def run(self) -> None:
        """Trains to the end and writes the values of all variables."""
        import numpy as np

        self._say("restoring")
        if self.case.saver == "CheckpointManager":
            self._run_loop()
        else:
            self._run_fit()
        variables = [*self.model.variables, *self.model.optimizer.variables]
        values = {f"{i} {v.path}".replace("/", "."): _value(v) for i, v in enumerate(variables)}
        np.savez(self.directory / "final.npz", **values)
        self._say("done")

    def _batches(self, steps: range) -> Iterator[tuple[Any, Any]]:
        """Yields the batches of some steps, which depend on nothing but their numbers."""
        import numpy as np

        for step in steps:
            rng = np.random.default_rng(step)
            if self.case.kind == "dense":
                inputs = rng.standard_normal((_BATCH, 8)).astype(np.float32)
            else:
                # Some rows come often, and some once in the whole training.
                inputs = ((rng.zipf(1.3, (_BATCH, 4)) - 1) % _ROWS).astype(np.int32)
            yield inputs, rng.standard_normal((_BATCH, 1)).astype(np.float32)

    def _run_loop(self) -> None:
        import numpy as np
        import tensorflow as tf

        model, strategy = self.model, self.strategy
        optimizer = model.optimizer
        checkpoint = tf.train.Checkpoint(model=model, optimizer=optimizer)
        manager = tf.train.CheckpointManager(checkpoint, str(self.directory), max_to_keep=2)
        if manager.latest_checkpoint:
            checkpoint.restore(manager.latest_checkpoint).assert_consumed()

        def replica_step(inputs: Any, labels: Any) -> None:
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(tf.square(model(inputs, training=True) - labels)) / _BATCH
            variables = model.trainable_variables
            optimizer.apply(tape.gradient(loss, [v.value for v in variables]), variables)

        @tf.function(autograph=False)
        def step(*values: Any) -> None:
            strategy.run(replica_step, args=values)

        for batch in self._batches(range(self.steps_done, self.case.steps)):
            shares = [np.split(array, strategy.num_replicas_in_sync) for array in batch]
            step(*map(self._distribute, shares))
            done = self.steps_done
            if done % _STEPS_PER_SAVE == 0:
                self._say("saving")
                manager.save()
            self._say("training")

    def _distribute(self, shares: Sequence[Any]) -> Any:
        import tensorflow as tf

        return self.strategy.experimental_distribute_values_from_function(
            lambda context: tf.constant(shares[context.replica_id_in_sync_group])
        )

    def _run_fit(self) -> None:
        import keras
        import numpy as np
        import tensorflow as tf

        job, say = self, self._say

        class Narrator(keras.callbacks.Callback):
            """Stops where a job that was not killed stops.

            Keras writes the weights first and the number of the epoch afterwards: a job that is
            killed in between goes on with an epoch that it has already trained.
            """

            def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
                say("training")

            def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
                if job.steps_done >= job.case.steps:
                    self.model.stop_training = True
                say("saving")

        _remove_unfinished_backup(self.directory / "backup")
        # The same batches in each epoch, so that the state depends on the number of steps alone.
        inputs, labels = (
            np.concatenate(arrays) for arrays in zip(*self._batches(range(_STEPS_PER_EPOCH)))
        )
        data = tf.data.Dataset.from_tensor_slices((inputs, labels))
        backup = keras.callbacks.BackupAndRestore(
            str(self.directory / "backup"), double_checkpoint=True, delete_checkpoint=False
        )
        self.model.fit(
            data.batch(_BATCH, drop_remainder=True),
            epochs=self.case.steps // _STEPS_PER_EPOCH,
            callbacks=[Narrator(), backup],
            verbose=0,
        )


def _value(variable: Any) -> Any:
    """Returns the value of a Keras variable, be it replicated or not."""
    import tensorflow as tf

    return tf.convert_to_tensor(variable).numpy()


def _remove_unfinished_backup(backup: Path) -> None:
    """Removes what Keras was writing when it was killed and cannot read: it would fail on it.

    That is its note of the epoch, without which it begins at epoch 0 with the weights and slots
    that it finds; and the weights, as long as there are none before them.
    """
    import h5py

    weights = backup / "latest.weights.h5"
    if weights.exists() and not weights.with_name(f"{weights.name}.bkp").exists():
        try:
            h5py.File(weights).close()
        except OSError:
            weights.unlink()
    for path in backup.glob("training_metadata.json*"):
        try:
            json.loads(path.read_text())
        except ValueError:
            path.unlink()


def _run_job(case: Case, directory: Path, errors: Path, driver: Any) -> None:
    """Is a job: a process of its own."""
    os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), sys.stderr.fileno())
    _Job(case, directory, driver.send).run()


class _Run:
    """One start of a job, as its driver sees it."""

    def __init__(self, case: Case, directory: Path) -> None:
        self.last = "starting"
        self._heard = threading.Condition()
        self._errors = directory / "errors.txt"
        # Forked from a process that has imported TensorFlow, and done nothing with it.
        context = multiprocessing.get_context("forkserver")
        receiver, sender = context.Pipe(duplex=False)
        job = (case, directory, self._errors, sender)
        self.process = context.Process(target=_run_job, args=job, daemon=True)
        self.process.start()
        sender.close()
        threading.Thread(target=self._listen, args=(receiver,), daemon=True).start()

    def _listen(self, receiver: Any) -> None:
        with contextlib.suppress(EOFError):
            while True:
                said = receiver.recv()
                with self._heard:
                    self.last = said
                    self._heard.notify_all()
        with self._heard:
            self.last = self.last if self.last == "done" else f"ended: {self.last}"
            self._heard.notify_all()

    def wait_for(self, *states: str) -> None:
        """Waits until the job says one of these.

        Raises:
            RuntimeError: It ended before, or takes too long.
        """
        with self._heard:
            self._heard.wait_for(lambda: self.last in states or self._ended(), _LIMIT)
            if self.last not in states and self.last != "done":
                self.kill()
                errors = self._errors.read_text()[-3000:]
                raise RuntimeError(f"the job came no further than '{self.last}':\n{errors}")

    def _ended(self) -> bool:
        return self.last == "done" or self.last.startswith("ended")

    def kill(self) -> str:
        """Kills the job; returns what it was doing."""
        doing = self.last
        self.process.kill()
        self.process.join()
        return doing


def run_case(case: Case, kills: int, seed: int, advance: Callable[[str], None]) -> Outcome:
    """Runs a job to its end, and another that is killed; compares what they arrive at.

    Args:
        case: What they train.
        kills: How often the second is killed.
        seed: Of the moments.
        advance: Called with what has happened, after each start of a job.
    """
    moments: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        try:
            seconds = _run_to_the_end(case, Path(one))
            advance("never killed")
            # Lives so short that after the last kill there is something left to do.
            longest = 0.6 * seconds / kills
            rng = random.Random(seed)
            for _ in range(kills):
                doing = _run_and_kill(case, Path(other), rng, longest)
                moments[doing] = moments.get(doing, 0) + 1
                advance(f"killed while {doing}")
            _run_to_the_end(case, Path(other))
            advance("at the end")
            arrays, differ = _compare(Path(one) / "final.npz", Path(other) / "final.npz")
        except RuntimeError as error:
            return Outcome(case, kills, moments, error=str(error))
    return Outcome(case, kills, moments, arrays, differ)


def _run_to_the_end(case: Case, directory: Path) -> float:
    """Runs a job; returns the seconds from its first step to its end."""
    run = _Run(case, directory)
    run.wait_for("training", "saving")
    start = time.monotonic()
    run.wait_for("done")
    run.process.join()
    return time.monotonic() - start


def _run_and_kill(case: Case, directory: Path, rng: random.Random, longest: float) -> str:
    """Runs a job and kills it; returns what it was doing.

    One in five is killed in the first second after it has begun to restore, the others in the first
    `longest` seconds after its first step.

    Raises:
        RuntimeError: The job failed, or was done.
    """
    run = _Run(case, directory)
    early = rng.random() < 0.2
    run.wait_for(*["restoring"] * early, "training", "saving")
    time.sleep(rng.uniform(0, 1 if early else longest))
    doing = run.kill()
    if doing not in ("restoring", "training", "saving"):
        raise RuntimeError(f"the job could not be killed, it was '{doing}'")
    return doing


def _compare(one: Path, other: Path) -> tuple[int, list[str]]:
    import numpy as np

    with np.load(one) as expected, np.load(other) as actual:
        if list(expected) != list(actual):
            raise RuntimeError("the two jobs have other variables")
        differ = [name for name in expected if expected[name].tobytes() != actual[name].tobytes()]
        return len(list(expected)), differ


def all_cases() -> list[Case]:
    """Returns every kind with every strategy and saver."""
    return [Case(*values) for values in itertools.product(KINDS, STRATEGIES, SAVERS)]


def _report(outcomes: Sequence[Outcome], environment: dict[str, Any]) -> str:
    from benchmarks.report import environment_table, markdown_table

    states = ("restoring", "training", "saving")
    body = [
        (
            outcome.case.kind,
            outcome.case.strategy,
            outcome.case.saver,
            *(str(outcome.moments.get(state, 0)) for state in states),
            outcome.error.splitlines()[0]
            if outcome.error
            else f"{outcome.arrays - len(outcome.differ)} of {outcome.arrays}",
        )
        for outcome in outcomes
    ]
    header = ("update", "strategy", "saved by", *(f"killed {s}" for s in states), "same bits")
    failed = sum(not outcome.is_same for outcome in outcomes)
    verdict = f"**{failed} of {len(outcomes)} jobs differ.**" if failed else "All are the same."
    return "\n\n".join(
        [
            "# Killed and restarted",
            "A job trains a small network (but for `dense`, with an embedding table of "
            f"{_ROWS:,} rows), saves as it goes, is killed with SIGKILL at random moments and "
            "started again. Its weights, slots and averages at the end are compared, bit by bit, "
            "with those of a job that was never killed. The columns tell what a job was doing "
            f"when it was killed. {verdict}",
            markdown_table(header, body, "<<<>>>>"),
            environment_table(environment),
        ]
    )


def _write(
    arguments: argparse.Namespace, outcomes: Sequence[Outcome], environment: dict[str, Any]
) -> None:
    from benchmarks.command import write_results

    content = {
        "kills": arguments.kills,
        "seed": arguments.seed,
        "environment": environment,
        "cases": [dataclasses.asdict(outcome) for outcome in outcomes],
    }
    text = _report(outcomes, environment)
    write_results(arguments.output, "restarts", content, text + "\n")


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.restarts",
        description="Kills jobs at random moments and compares them with jobs left alone.",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("benchmarks/results"),
        metavar="DIR",
        help="where restarts.json and restarts.md go (default: %(default)s)",
    )
    parser.add_argument(
        "--kills", type=int, default=KILLS, metavar="N", help="default: %(default)s"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the moments")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="cases at a time")
    parser.add_argument("--filter", default="", help="only cases whose names contain this")
    arguments = parser.parse_args()
    if arguments.kills < 1:
        parser.error(f"--kills is {arguments.kills}, expected 1 or more")
    return arguments


def main() -> int:
    """Runs all cases, prints and writes; returns 1 if a job differs."""
    arguments = _parse_arguments()
    os.environ["TF_ADADELTA_STRICT"] = "1"
    # Not tf_adadelta, which that process would look for in the clone, where it is not built.
    multiprocessing.set_forkserver_preload(["keras", "tensorflow"])
    from rich.console import Console
    from rich.progress import Progress

    from benchmarks.environment import describe_environment

    cases = [
        case
        for case in all_cases()
        if arguments.filter in " ".join((case.kind, case.strategy, case.saver))
    ]
    load, threads = os.getloadavg()[0], len(os.sched_getaffinity(0))
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=len(cases) * (arguments.kills + 2))

        def run(case: Case) -> Outcome:
            name = f"{case.kind}, {case.strategy}, {case.saver}"
            return run_case(
                case,
                arguments.kills,
                arguments.seed,
                lambda what: progress.update(task, advance=1, description=f"{name}: {what}"),
            )

        outcomes: list[Outcome] = []
        with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
            for outcome in pool.map(run, cases):
                outcomes.append(outcome)
                # What takes an hour is not to be lost at its end.
                _write(arguments, outcomes, describe_environment(threads, load))
    print(_report(outcomes, describe_environment(threads, load)))
    return int(not all(outcome.is_same for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
