"""Tries every way to install the package, each in a fresh environment, and prints a table.

After each the report of the build is asked for, and a step is taken and compared with Keras's. What
came out is written to ci/results/installs.json.
"""

import argparse
import datetime
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from build_sdist import build_sdist
from environments import BUILD_TOOLS, ROOT, CommandError, Environment, copy_sources

RESULTS = ROOT / "ci/results/installs.json"

STEP = """
import keras
import numpy as np
import tf_adadelta

results = []
for optimizer in (keras.optimizers.Adadelta(1.0), tf_adadelta.Adadelta(1.0)):
    variable = keras.Variable(np.linspace(-1, 1, 4097, dtype="float32"))
    for _ in range(3):
        optimizer.apply_gradients([(variable * 2, variable)])
    results.append(np.array(variable))
np.testing.assert_allclose(*results, rtol=1e-5, atol=1e-7)
"""


class Trial:
    """A fresh environment and a fresh copy of the sources for one way to install."""

    def __init__(self, folder: Path, python: str, sources: str = "tf_adadelta") -> None:
        """Makes both.

        Args:
            folder: Where they go.
            python: The version.
            sources: The name of the folder of the sources.
        """
        self.environment = Environment(folder, python)
        self.folder = folder
        self.sources = copy_sources(folder / sources)

    def install(self, *arguments: str | Path, **more: str) -> None:
        """Runs `uv pip install` in the folder of the sources."""
        self.environment.install(*arguments, cwd=self.sources, **more)

    def pip(self, *arguments: str | Path) -> None:
        """Runs `pip install` in the folder of the sources."""
        self.environment.install("pip")
        command = [self.environment.python, "-m", "pip", "install", "--quiet", *arguments]
        self.environment.run(command, cwd=self.sources)

    def check(self) -> None:
        """Raises CommandError unless the package works."""
        python = self.environment.python
        report = json.loads(self.environment.run([python, "-m", "tf_adadelta", "--json"]))
        if "running" not in report or "unusable" in report["running"]:
            raise CommandError(f"the report says {report}")
        self.environment.run([python, "-c", STEP], TF_ADADELTA_STRICT="1")


def pip(trial: Trial) -> None:
    """`pip install .` where TensorFlow is installed."""
    trial.install("tensorflow-cpu")
    trial.pip(".")


def pip_with_nothing_installed(trial: Trial) -> None:
    """`pip install '.[tensorflow-cpu]'` where there is nothing."""
    trial.pip(".[tensorflow-cpu]")


def editable(trial: Trial) -> None:
    """`pip install -e .`."""
    trial.install("tensorflow-cpu")
    trial.pip("-e", ".")


def no_build_isolation(trial: Trial) -> None:
    """`pip install --no-build-isolation .`."""
    trial.install("tensorflow-cpu", *BUILD_TOOLS)
    trial.pip("--no-build-isolation", ".")


def sdist(trial: Trial) -> None:
    """`pip install tf_adadelta-*.tar.gz`."""
    trial.install("tensorflow-cpu")
    trial.pip(build_sdist(trial.folder / "dist", trial.folder / "sdist"))


def uv_pip(trial: Trial) -> None:
    """`uv pip install .`."""
    trial.install("tensorflow-cpu")
    trial.install(".")


def uv_sync(trial: Trial) -> None:
    """`uv lock`, then `uv sync --locked --extra tensorflow-cpu`."""
    python = ("--python", trial.environment.python)
    trial.environment.run(["uv", "lock", *python], cwd=trial.sources)
    trial.environment.run(
        ["uv", "sync", "--locked", "--active", "--extra", "tensorflow-cpu", *python],
        cwd=trial.sources,
    )


def wheel_house(trial: Trial) -> None:
    """`pip install --no-index --find-links DIR tf_adadelta`, built elsewhere."""
    builder = Environment(trial.folder / "builder", trial.environment.version)
    builder.install("tensorflow-cpu", "build", *BUILD_TOOLS)
    house = trial.folder / "house"
    command = [builder.python, "-m", "build", "--wheel", "--no-isolation", "--outdir", house]
    builder.run([*command, trial.sources])
    shutil.rmtree(trial.sources)
    trial.environment.install("tensorflow-cpu")
    trial.environment.install("tf_adadelta", "--no-index", "--offline", "--find-links", house)


def read_only_tree(trial: Trial) -> None:
    """`pip install .` from a tree that may not be written, without privileges."""
    trial.install("tensorflow-cpu", "pip")
    subprocess.run(["chmod", "-R", "a=rX", trial.sources], check=True)
    # Root without its capabilities is as bound to permissions as anybody.
    unprivileged = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] * (os.geteuid() == 0)
    pip = [trial.environment.python, "-m", "pip", "install", "--quiet", "--no-cache-dir", "."]
    result = subprocess.run(
        [*unprivileged, *pip],
        cwd=trial.sources,
        env={**os.environ, "HOME": str(trial.folder), "CCACHE_DISABLE": "1"},
        capture_output=True,
        text=True,
    )
    if result.returncode != 0:
        raise CommandError("\n".join(result.stderr.splitlines()[-15:]))


def strange_path(trial: Trial) -> None:
    """`pip install .` in a path with blanks and letters that are not ASCII."""
    trial.install("tensorflow-cpu")
    trial.pip(".")


def side_by_side(trial: Trial) -> None:
    """Two `pip install .` of one tree at once, into two environments."""
    other = Environment(trial.folder / "other", trial.environment.version)
    for environment in (trial.environment, other):
        environment.install("tensorflow-cpu", "pip")
    started = [
        subprocess.Popen(
            [environment.python, "-m", "pip", "install", "--quiet", "."],
            cwd=trial.sources,
            stderr=subprocess.PIPE,
            text=True,
        )
        for environment in (trial.environment, other)
    ]
    for process in started:
        _, errors = process.communicate()
        if process.returncode != 0:
            raise CommandError("\n".join(errors.splitlines()[-15:]))
    other.run([other.python, "-c", STEP], TF_ADADELTA_STRICT="1")


WAYS: dict[str, Callable[[Trial], None]] = {
    way.__name__: way
    for way in (
        pip,
        pip_with_nothing_installed,
        editable,
        no_build_isolation,
        sdist,
        uv_pip,
        uv_sync,
        wheel_house,
        read_only_tree,
        strange_path,
        side_by_side,
    )
}


def main() -> None:
    """Tries the ways that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    # Not `choices`, among which argparse looks for the default of a list, too.
    parser.add_argument("ways", nargs="*", metavar="WAY", help=f"of {', '.join(WAYS)}; or all")
    parser.add_argument("--python", default="3.11")
    parser.add_argument(
        "--work", type=Path, default=Path(tempfile.gettempdir()) / "tf_adadelta-installs"
    )
    arguments = parser.parse_args()
    ways = arguments.ways or list(WAYS)
    for name in ways:
        if name not in WAYS:
            parser.error(f"there is no way {name}")
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    failed = 0
    for name in ways:
        started = time.monotonic()
        print(f"{name:<28} {WAYS[name].__doc__}", flush=True)
        folder = arguments.work.resolve() / name
        if name == "strange_path":
            folder = arguments.work.resolve() / "ein Pfäd mit Blanks"
        result = {"date": datetime.date.today().isoformat(), "python": arguments.python}
        try:
            trial = Trial(folder, arguments.python)
            WAYS[name](trial)
            trial.check()
            result["outcome"] = "works"
        except CommandError as error:
            failed += 1
            result["outcome"] = str(error)
        result["took_s"] = round(time.monotonic() - started)
        results[name] = result
        print(f"{'':<28} {result['outcome']}, {result['took_s']} s", flush=True)
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
        if result["outcome"] == "works":
            shutil.rmtree(folder)
    if failed:
        sys.exit(f"{failed} of {len(ways)} ways failed")


if __name__ == "__main__":
    main()
