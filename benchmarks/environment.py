"""What the figures were measured with."""

import datetime
import os
import platform
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

import tf_adadelta


def describe_environment(num_threads: int, load: float) -> dict[str, str | float]:
    """Returns machine, versions and date, but nothing that names the machine or its owner.

    Args:
        num_threads: How many threads the contestants had.
        load: The load average of the machine before the run.
    """
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "processor": _processor(),
        "cores": os.cpu_count() or 1,
        "threads": num_threads,
        "load at the start": round(load, 2),
        "instruction set": tf_adadelta.kernels.instruction_sets()[0],
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "numpy": np.__version__,
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "tf_adadelta": tf_adadelta.build_info()["version"],
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()  # Arm processors have no model name there.
