"""Measures what a build and an import take, and writes ci/results/build_times.json.

Needs an environment with TensorFlow and the build's tools, and nothing else running.
"""

import argparse
import datetime
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from environments import ROOT, copy_sources

RESULTS = ROOT / "ci/results/build_times.json"
TOUCHED = ("csrc/cpu/dense_loop.cc", "csrc/cpu/sparse_loop.cc")
IMPORTS = 7

# Prints how many seconds each import takes.
IMPORT = """
import time
started = time.perf_counter()
import tensorflow
with_tensorflow = time.perf_counter()
import tf_adadelta
tf_adadelta.Adadelta
print(with_tensorflow - started, time.perf_counter() - with_tensorflow)
"""


def build(sources: Path, ccache: Path | None) -> float:
    """Returns the seconds of a build in place of the kernels for the CPU."""
    cache = {"CCACHE_DISABLE": "1"} if ccache is None else {"CCACHE_DIR": str(ccache)}
    started = time.monotonic()
    subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--inplace"],
        cwd=sources,
        env={**os.environ, "TF_ADADELTA_CUDA": "OFF", **cache},
        stdout=subprocess.DEVNULL,
        check=True,
    )
    return time.monotonic() - started


def rebuild(sources: Path) -> float:
    """Returns the seconds of what CONTRIBUTING.md says to run after a change in csrc/."""
    [folder] = (sources / "build").glob("temp*")
    started = time.monotonic()
    subprocess.run(
        ["ninja", "-C", folder],
        env={**os.environ, "CCACHE_DISABLE": "1"},
        stdout=subprocess.DEVNULL,
        check=True,
    )
    return time.monotonic() - started


def import_seconds(sources: Path) -> tuple[float, float]:
    """Returns the medians of what TensorFlow takes to import, and what the package adds."""
    samples = []
    for _ in range(IMPORTS):
        printed = subprocess.run(
            [sys.executable, "-c", IMPORT],
            cwd=sources,
            # An installed package has its bytecode.
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": ""},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        samples.append([float(seconds) for seconds in printed.split()])
    tensorflow, ours = zip(*samples)
    return statistics.median(tensorflow), statistics.median(ours)


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.parse_args()
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        sources = copy_sources(Path(folder) / "tf_adadelta")
        ccache = Path(folder) / "ccache"
        caches = {"clean": None, "clean, filling ccache": ccache, "clean, from ccache": ccache}
        for name, cache in caches.items():
            shutil.rmtree(sources / "build", ignore_errors=True)
            seconds[name] = build(sources, cache)
        for name in TOUCHED:
            (sources / name).write_text((sources / name).read_text() + "\n// Touched.\n")
            seconds[f"{name} touched"] = rebuild(sources)
        seconds["nothing touched, by setup.py"] = build(sources, None)
        seconds["import tensorflow"], seconds["import tf_adadelta adds"] = import_seconds(sources)
        kilobytes = {
            path.name: round(path.stat().st_size / 1e3)
            for path in sorted(sources.glob("tf_adadelta/*.so"))
        }
    for name, value in seconds.items():
        print(f"{name}: {value:.3g} s")
    RESULTS.parent.mkdir(exist_ok=True)
    results = {
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "load_at_the_end": os.getloadavg()[0],
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "kilobytes": kilobytes,
    }
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
