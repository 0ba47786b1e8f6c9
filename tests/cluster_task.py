"""What a task of a cluster runs: `python cluster_task.py ROLE [OUTPUT]`, with TF_CONFIG set."""

import argparse
import json
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow as tf
import training

STEPS = 20
BATCH = 12


def cases():
    """Returns what is trained: API, gradient, and whether the optimizer is ours."""
    yield from (
        (api, gradient, fused)
        for api in training.APIS
        for gradient in training.GRADIENTS
        for fused in (False, True)
    )


def save(path, model, losses):
    """Writes the states of a training on each replica of this process."""
    arrays = {
        f"{name} {i}": value
        for name, values in model.replicas().items()
        for i, value in enumerate(values)
    }
    np.savez(path, losses=losses, calls=json.dumps(model.calls), **arrays)


def serve(library):
    """Is a worker or parameter server until it is killed."""
    if library:
        import tf_adadelta  # noqa: F401  Its ops run here.
    resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    server = tf.distribute.Server(
        resolver.cluster_spec(),
        job_name=resolver.task_type,
        task_index=resolver.task_id,
        protocol="grpc",
    )
    print("serving", flush=True)
    server.join()


def multi_worker(output):
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    for api, gradient, fused in cases():
        model = training.Training(strategy, api, fused, gradient, BATCH)
        losses = model.run(STEPS)
        save(output / f"{api}-{gradient}-{fused}.npz", model, losses)


def coordinate(output):
    resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    strategy = tf.distribute.ParameterServerStrategy(
        resolver,
        variable_partitioner=tf.distribute.experimental.partitioners.FixedShardsPartitioner(2),
    )
    coordinator = tf.distribute.coordinator.ClusterCoordinator(strategy)
    for api, gradient, fused in cases():
        print(api,gradient,fused,flush=True)
        try:
            model = training.Training(strategy, api, fused, gradient, BATCH)
            losses = model.run_by(coordinator, STEPS)
            save(output / f"{api}-{gradient}-{fused}.npz", model, losses)
        except Exception as e:
            import traceback
            traceback.print_exc()
            print(api,gradient,fused,"FAILED",str(e)[:500],flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("role")
    parser.add_argument("output", nargs="?", type=Path)
    arguments = parser.parse_args()
    if arguments.role.startswith("serve"):
        serve(arguments.role == "serve")
    else:
        {"multi_worker": multi_worker, "coordinate": coordinate}[arguments.role](arguments.output)


if __name__ == "__main__":
    main()
