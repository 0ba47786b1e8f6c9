"""What a process of the tests of strategies runs: `python strategy_task.py ROLE [OUTPUT]`.

`one_device`, `mirrored` and `central` train in this process alone; `multi_worker` and `coordinate`
with the other tasks of TF_CONFIG; `serve` and `serve-without-library` are workers and parameter
servers. What was trained goes to OUTPUT, a file for each API, mode and optimizer.
"""

import argparse
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf
import training

STEPS = 20
KERAS = tuple(map(int, keras.__version__.split(".")[:2]))
MODES = ["dense", "exact", "lazy", "summed by hand", "fit"]
if tuple(map(int, tf.__version__.split(".")[:2])) >= (2, 20):  # Before, it is not fused.
    MODES.append("jit_compile")


def cells(role):
    """Returns every API with every mode that the stock class has."""
    return [
        (api, mode)
        for mode in MODES
        for api in training.APIS
        if not (mode == "summed by hand" and api not in training.BY_HAND)
        and not (mode == "fit" and api == "v1")
        # Where its variables have no aggregation, stock Keras fails there, too.
        and not (role == "central" and api == "keras" and KERAS < (3, 7))
        # It has no collectives; see main for what comes of trying.
        and not (mode == "jit_compile" and role == "multi_worker" and api != "keras")
    ]


def file_name(api, mode, fused):
    return f"{api}-{mode}-{'fused' if fused else 'stock'}.npz"


def train(role, strategy, output, coordinator=None):
    """Trains with all APIs in all modes, stock and fused; writes what came of it."""
    for api, mode in cells(role):
        for fused in (False, True):
            try:
                result = train_one(strategy, coordinator, api, mode, fused)
            except Exception as error:  # Whether stock has it, too, is for the test to say.
                result = {"error": f"{type(error).__name__}: {error}"}
            np.savez(output / file_name(api, mode, fused), **result)


def train_one(strategy, coordinator, api, mode, fused):
    """Returns losses, calls, values of variables, and their bits on each replica here."""
    print(api, mode, "fused" if fused else "stock", flush=True)
    if mode == "fit":
        losses, values = training.fit(strategy, api, fused)
        return {"losses": losses, **{f"value {name}": value for name, value in values.items()}}
    model = training.Training(strategy, api, fused, mode)
    losses = model.run(STEPS) if coordinator is None else model.run_by(coordinator, STEPS)
    values = {f"value {name}": value for name, value in model.state().items()}
    replicas = {
        f"replica {i} {name}": value
        for name, local in model.replicas().items()
        for i, value in enumerate(local)
    }
    return {"losses": losses, "calls": model.calls, **values, **replicas}


def make_strategy(name):
    """Returns the strategy of all tasks, or one of this process alone, on logical CPU devices."""
    if name == "multi_worker":
        return tf.distribute.MultiWorkerMirroredStrategy()
    cpu = tf.config.list_physical_devices("CPU")[0]
    devices = ["CPU:0", "CPU:1"]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    if name == "one_device":
        return tf.distribute.OneDeviceStrategy(devices[0])
    if name == "mirrored":
        return tf.distribute.MirroredStrategy(devices)
    return tf.distribute.experimental.CentralStorageStrategy(devices)


def make_coordinator():
    """Returns the coordinator of a cluster whose servers have a half of each variable."""
    strategy = tf.distribute.ParameterServerStrategy(
        tf.distribute.cluster_resolver.TFConfigClusterResolver(),
        variable_partitioner=tf.distribute.experimental.partitioners.FixedShardsPartitioner(2),
    )
    return tf.distribute.coordinator.ClusterCoordinator(strategy)


def serve(library):
    """Is a worker or parameter server until it is killed."""
    if library:
        import tf_adadelta

        tf_adadelta.load_library()
    resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    server = tf.distribute.Server(
        resolver.cluster_spec(),
        job_name=resolver.task_type,
        task_index=resolver.task_id,
        protocol="grpc",
    )
    print("serving", flush=True)
    server.join()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("role")
    parser.add_argument("output", nargs="?", type=Path)
    arguments = parser.parse_args()
    if arguments.role.startswith("serve"):
        serve(arguments.role == "serve")
    elif arguments.role == "coordinate":
        coordinator = make_coordinator()
        train(arguments.role, coordinator.strategy, arguments.output, coordinator)
    else:
        train(arguments.role, make_strategy(arguments.role), arguments.output)
        # TensorFlow frees memory twice at its end after XLA has met a collective on the CPU.
        os._exit(0)


if __name__ == "__main__":
    main()
