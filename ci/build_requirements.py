"""Builds with the oldest and with the newest of each build requirement, and tests what was built.

python ci/build_requirements.py            both
python ci/build_requirements.py --only oldest

build-system.requires of pyproject.toml has the ranges. For each end a fresh environment gets
TensorFlow and the versions at that end, builds a wheel without isolation, installs it, and runs the
tests of the kernels and the ops. What came out goes to ci/results/build_requirements.json. Needs
`pip install uv`, and the package index.
"""

import argparse
import datetime
import json
import platform
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path

from environments import ROOT, CommandError, Environment, copy_sources

RESULTS = ROOT / "ci" / "results" / "build_requirements.json"
ENDS = {"oldest": "lowest-direct", "newest": "highest"}
TESTS = ("tests/test_kernels.py", "tests/test_ops.py")


def build_requirements() -> list[str]:
    """Returns build-system.requires."""
    text = (ROOT / "pyproject.toml").read_text()  # Without tomllib, which Python 3.10 lacks.
    requires = re.search(r"^requires = \[(.*?)\]", text, re.M | re.S)
    return re.findall(r'"([^"]+)"', requires[1] if requires else "")


# Prints the versions that a build used, as the build itself found them.
VERSIONS = """
import importlib.metadata, json, sys
print(json.dumps({name: importlib.metadata.version(name) for name in sys.argv[1:]}))
"""


def build(end: str, folder: Path, tensorflow: str) -> dict[str, str]:
    """Builds and tests with the requirements at one end; returns their versions."""
    environment = Environment(folder / end, f"{sys.version_info[0]}.{sys.version_info[1]}")
    requires = build_requirements()
    environment.install("--resolution", ENDS[end], *requires)
    environment.install(tensorflow, "pytest", "hypothesis")
    sources = copy_sources(folder / end / "tf_adadelta")
    wheels = folder / end / "wheels"
    environment.run(
        [
            *("uv", "build", "--wheel", "--no-build-isolation", "--python", environment.python),
            *("--out-dir", wheels, sources),
        ],
        TF_ADADELTA_CUDA="OFF",
    )
    environment.install("--no-deps", *wheels.glob("*.whl"))
    shutil.rmtree(sources / "tf_adadelta")  # What is tested is what was installed.
    environment.run(
        [environment.python, "-m", "pytest", "-q", "-o", "addopts=", *TESTS],
        cwd=sources,
        TF_CPP_MIN_LOG_LEVEL="2",
    )
    names = [re.split(r"[<>=~!]", requirement)[0] for requirement in requires]
    return json.loads(
        environment.run([environment.python, "-c", VERSIONS, *names]).splitlines()[-1]
    )


def main() -> None:
    """Builds with what the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=ENDS, help="only this end")
    parser.add_argument("--tensorflow", default="tensorflow-cpu==2.21.*", help="to build against")
    parser.add_argument(
        "--work", type=Path, default=Path(tempfile.gettempdir()) / "tf_adadelta-requirements"
    )
    parser.add_argument("--no-results", action="store_true", help="write no result")
    arguments = parser.parse_args()
    if shutil.which("uv") is None:
        sys.exit("build_requirements.py: uv is missing. Run `pip install uv`.")
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for end in [arguments.only] if arguments.only else ENDS:
        print(f"{end} of {', '.join(build_requirements())} ...", flush=True)
        started = time.monotonic()
        try:
            versions = build(end, arguments.work.resolve(), arguments.tensorflow)
        except CommandError as error:
            sys.exit(f"build_requirements.py: the {end}: {error}")
        seconds = round(time.monotonic() - started)
        shown = ", ".join(f"{name} {version}" for name, version in versions.items())
        print(f"{end}: {shown}: built and tested, {seconds} s", flush=True)
        results[end] = {
            "date": datetime.date.today().isoformat(),
            "python": platform.python_version(),
            "tensorflow": arguments.tensorflow,
            "versions": versions,
            "seconds": seconds,
        }
    if not arguments.no_results:
        RESULTS.parent.mkdir(parents=True, exist_ok=True)
        RESULTS.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
