"""Builds the images of docker/ without Docker, and runs the demo and tests in what comes out.

python ci/containers.py cpu bookworm             docker/Dockerfile.cpu on Debian 12
python ci/containers.py cpu trixie gpu bookworm  several

buildah builds them, with no daemon and no namespaces, from base images made by debootstrap. In each
image run: its own command, the tests of the kernels, the ops and the optimizer, and the demo
(examples/mnist.py), as the image's user; what these need beyond the image is put beside it. The CPU
image's stage `toolchain`, which the dev container opens in, is entered too where --dev-container
says so, and its postCreateCommand run. What came out is kept in ci/results/containers.json, and
docs/containers.md is written from it.

Images and roots are kept below build/containers, until it is deleted. Needs root, buildah,
debootstrap and the network; pip takes its settings from the environment.
"""

import argparse
import datetime
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from roots import RootError, make_root, pip_settings
from steps import ROOT, Steps, machine

RESULTS = ROOT / "ci" / "results" / "containers.json"
PAGE = ROOT / "docs" / "containers.md"
TESTS = ("test_kernels.py", "test_ops.py", "test_optimizer.py")
EXTRAS = ("pytest", "pytest-xdist", "hypothesis", "mlxtend", "matplotlib", "tqdm")

# The images have none, and without one pip of Debian 13 does not start, told of another or not.
BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")

# Megabytes of all of the image, of what is installed in it for Python, and of ours in that.
SIZES = """
import json, pathlib, sysconfig
def size(folder):
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return sum(path.stat().st_size for path in files) / 1e6
root = pathlib.Path("/")
packages = pathlib.Path(sysconfig.get_path("purelib"))
skipped = ("proc", "sys", "dev", "run")
whole = sum(size(path) for path in root.iterdir() if path.is_dir() and path.name not in skipped)
whole -= size(root / "var/cache/apt")  # What debootstrap leaves there, and published images do not.
print(json.dumps({
    "image": round(whole),
    "packages": round(size(packages)),
    "tf_adadelta": round(size(packages / "tf_adadelta"), 1),
}))
"""


class Images:
    """The images that buildah makes, in a folder of their own."""

    def __init__(self, work: Path, driver: str) -> None:
        """Keeps the folder and makes what tells pip of this machine's settings.

        Args:
            work: Where roots, images and settings go.
            driver: The storage driver: overlay, or vfs where that does not work.
        """
        self.work = work
        folders = ("--root", str(work / "storage"), "--runroot", str(work / "run"))
        self.buildah = ["buildah", *folders, "--storage-driver", driver]
        # To vfs each layer is a copy of all of it: there what a stage has in common is built anew.
        self.layers = f"--layers={'false' if driver == 'vfs' else 'true'}"
        # Mounted while something runs, so that no image has them.
        variables, files = pip_settings()
        settings = [
            f"{name.removeprefix('PIP_').lower().replace('_', '-')} = {value}"
            for name, value in variables.items()
            if name.startswith("PIP_")
        ]
        work.mkdir(parents=True, exist_ok=True)
        (work / "pip.conf").write_text("\n".join(["[global]", *settings]) + "\n")
        self.mounts = {work / "pip.conf": "/etc/pip.conf", **files}
        # A copy, since PIP_CERT may name the file itself, which is then seen elsewhere.
        self.bundle = work / "bundle.crt"
        if BUNDLE.exists():
            shutil.copy(BUNDLE, self.bundle)

    def volumes(self, mounts: dict[Path, str]) -> list[str]:
        """Returns the options that mount files and folders, read-only."""
        pairs = {**self.mounts, **mounts}.items()
        return [option for source, to in pairs for option in ("-v", f"{source}:{to}:ro")]

    def base(self, steps: Steps, suite: str, mirror: str) -> str | None:
        """Makes the base image of a distribution, unless it is there; returns its name."""
        image = f"localhost/{suite}"
        if subprocess.run([*self.buildah, "inspect", image], capture_output=True).returncode == 0:
            return image
        root = self.work / "roots" / suite
        root.parent.mkdir(exist_ok=True)
        make_root(suite, root, steps.folder / f"debootstrap_{suite}.log", mirror)
        command = (
            f"set -e; c=$({shlex.join(self.buildah)} from scratch); "
            f"{shlex.join(self.buildah)} add -q $c {shlex.quote(str(root))} /; "
            f"{shlex.join(self.buildah)} commit -q --rm $c {image}"
        )
        made = steps.run(f"{suite}: base image", ["sh", "-c", command], listed=False)
        shutil.rmtree(root)
        return None if made is None else image

    def name(self, name: str) -> str:
        """Returns the name of an image of ours."""
        return f"localhost/tf_adadelta-{name}"

    def build(self, steps: Steps, name: str, dockerfile: str, *arguments: str) -> str | None:
        """Builds an image; returns its name."""
        image = self.name(name)
        command = [
            *(*self.buildah, "build", "--isolation", "chroot", self.layers),
            *self.volumes({}),
            *("-f", f"docker/{dockerfile}", "-t", image, *arguments, "."),
        ]
        return None if steps.run(f"{name}: build", command, timeout=3600) is None else image

    def container(self, image: str) -> str:
        """Returns a container of an image."""
        made = subprocess.run([*self.buildah, "from", image], capture_output=True, text=True)
        if made.returncode != 0:
            raise RootError(f"buildah makes no container of {image}: {made.stderr.strip()}")
        return made.stdout.strip()

    def remove(self, container: str) -> None:
        """Removes a container."""
        subprocess.run([*self.buildah, "rm", container], capture_output=True)

    def inside(
        self, container: str, script: str, *, user: str = "", mounts: dict[Path, str] | None = None
    ) -> list[str]:
        """Returns the command that runs a shell script in a container.

        Args:
            container: The container.
            script: The script.
            user: Who runs it; by default the image's own user.
            mounts: What of this machine it sees, besides pip's settings.
        """
        options = ["--isolation", "chroot", *self.volumes(mounts or {})]
        options += ["--user", user] if user else []
        return [*self.buildah, "run", *options, container, "--", "sh", "-ec", script]


def try_image(
    images: Images, steps: Steps, name: str, image: str, files: Sequence[str]
) -> dict[str, object]:
    """Runs what an image is for, in a container of it; returns what is to be said of it."""
    row: dict[str, object] = {}
    container = images.container(image)
    report = steps.run(
        f"{name}: its command", images.inside(container, "python -m tf_adadelta; id -un")
    )
    if report is not None:
        row["report"] = dict(re.findall(r"^([^:\n]+): +(.*)$", report, re.M))
        if report.split()[-1] == "root":
            steps.add(f"{name}: user", "FAILED", 0, "the image runs as root")
    steps.run(f"{name}: no compiler", images.inside(container, "! command -v c++ g++ gcc cc nvcc"))
    sizes = steps.run(f"{name}: sizes", images.inside(container, f"python -c {shlex.quote(SIZES)}"))
    if sizes is not None:
        row["megabytes"] = json.loads(sizes.splitlines()[-1])
    # Beside the image, not in it: what only the tests and the demo need.
    prepare = f"cd; test -d extra || pip install -q --target extra {' '.join(EXTRAS)}; "
    prepare += "export PYTHONPATH=$PWD/extra TF_CPP_MIN_LOG_LEVEL=2"
    tests = " ".join(f"/source/tests/{test}" for test in files)
    sources = {ROOT / folder: f"/source/{folder}" for folder in ("tests", "examples")}
    if images.bundle.exists():
        sources[images.bundle] = str(BUNDLE)
    for step, command in (
        ("tests", f"python -m pytest -q -m 'not exhaustive' -p no:cacheprovider {tests}"),
        ("demo", "python /source/examples/mnist.py"),
    ):
        script = images.inside(container, f"{prepare}; {command}", mounts=sources)
        steps.run(f"{name}: {step}", script)
        row[step] = steps.rows[-1]["detail"]
    images.remove(container)
    return row


def try_dev_container(images: Images, steps: Steps, base: str) -> None:
    """Does what an editor does with .devcontainer: builds its stage, runs its command in it."""
    text = (ROOT / ".devcontainer" / "devcontainer.json").read_text()
    settings = json.loads(re.sub(r"^\s*//.*$", "", text, flags=re.M))
    build = settings["build"]
    image = images.build(
        steps,
        "devcontainer",
        Path(build["dockerfile"]).name,
        *("--target", build["target"], "--build-arg", f"BASE={base}"),
    )
    if image is None:
        return
    container = images.container(image)
    copy = f"cp -r /source ~/repository; cd ~/repository; {settings['postCreateCommand']}"
    check = "python -m pytest -q -n 0 tests/test_kernels.py && .ci/lint"
    command = images.inside(
        container, f"{copy} && {check}", user=settings["remoteUser"], mounts={ROOT: "/source"}
    )
    steps.run("devcontainer: postCreateCommand, a test, the linters", command, timeout=3600)
    images.remove(container)


def try_one(
    images: Images, steps: Steps, kind: str, suite: str, arguments: argparse.Namespace
) -> dict[str, object]:
    """Builds an image on a distribution and tries it; returns the row of the table."""
    name = f"{kind} on {suite}"
    row: dict[str, object] = {"image": kind, "distribution": suite, "passed": False}
    row["date"] = datetime.date.today().isoformat()
    base = images.base(steps, suite, arguments.mirror)
    if base is None:
        return row
    options = ["--build-arg", f"BASE={base}"]
    if kind == "gpu":
        options += ["--build-arg", f"BUILD_BASE={base}"]
    options += [word for pair in arguments.build_arg for word in ("--build-arg", pair)]
    image: str | None = images.name(name.replace(" ", "-"))
    if not arguments.no_build:
        image = images.build(steps, name.replace(" ", "-"), f"Dockerfile.{kind}", *options)
    if image is not None:
        row |= try_image(images, steps, name, image, TESTS[:1] if arguments.quick else TESTS)
    if kind == "cpu" and arguments.dev_container:
        try_dev_container(images, steps, base)
    row["passed"] = not steps.failed()
    return row


def write_page(rows: list[dict]) -> None:
    """Writes docs/containers.md."""
    lines = [
        "# Containers",
        "",
        "Written by `python ci/containers.py`, which builds the images of `docker/` with buildah",
        "on base images made by debootstrap, and runs tests and `examples/mnist.py` in each, as",
        f"its user, with no compiler there and no GPU. On {machine()}.",
        "",
        "| image | base | built for | CUDA | size | without Python's packages "
        "| tf_adadelta | tests | date |",
        "|:--|:--|:--|:--|--:|--:|--:|:--|:--|",
    ]
    for row in rows:
        report, size = row.get("report", {}), row.get("megabytes", {})
        cuda = report.get("CUDA", "")
        lines.append(
            f"| {row['image']} | {row['distribution']} | {report.get('built against', '')} "
            f"| {cuda.split(':')[0]} "
            f"| {size.get('image', '')} MB | {size.get('image', 0) - size.get('packages', 0)} MB "
            f"| {size.get('tf_adadelta', '')} MB | {'' if row['passed'] else '**failed** '}"
            f"{row.get('tests', '')} | {row['date']} |"
        )
    PAGE.write_text("\n".join(lines) + "\n")


def keep(rows: list[dict]) -> None:
    """Puts rows into the results, in place of those of the same images, and writes the page."""
    kept = json.loads(RESULTS.read_text())["images"] if RESULTS.exists() else []
    names = {(row["image"], row["distribution"]) for row in rows}
    kept = [row for row in kept if (row["image"], row["distribution"]) not in names]
    rows = sorted([*kept, *rows], key=lambda row: (row["image"], row["distribution"]))
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    report = {"machine": machine(), "images": rows}
    RESULTS.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    write_page(rows)


def main() -> None:
    """Builds and tries what the command line names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("images", nargs="+", metavar="cpu|gpu RELEASE", help="pairs, as above")
    parser.add_argument("--mirror", default="", help="where debootstrap takes its packages from")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "containers")
    parser.add_argument("--storage-driver", default="vfs", help="overlay is quicker where it works")
    parser.add_argument("--quick", action="store_true", help="only the tests of the kernels")
    parser.add_argument("--no-build", action="store_true", help="try what was built before")
    parser.add_argument("--dev-container", action="store_true", help="try .devcontainer too")
    parser.add_argument(
        "--build-arg", action="append", default=[], metavar="NAME=VALUE", help="for the Dockerfile"
    )
    parser.add_argument("--no-results", action="store_true", help="write no result and no page")
    arguments = parser.parse_args()
    pairs = list(zip(arguments.images[::2], arguments.images[1::2]))
    if len(arguments.images) % 2 or any(kind not in ("cpu", "gpu") for kind, _ in pairs):
        parser.error("name cpu or gpu and a release in turn, such as: cpu bookworm gpu noble")
    if shutil.which("buildah") is None:
        sys.exit("containers.py: buildah is missing. On Debian and Ubuntu: apt-get install buildah")

    images = Images(arguments.work.resolve(), arguments.storage_driver)
    rows, failed = [], []
    for kind, suite in pairs:
        steps = Steps(arguments.work / "logs")
        try:
            rows.append(try_one(images, steps, kind, suite, arguments))
        except RootError as error:
            sys.exit(f"containers.py: {error}")
        failed += steps.failed()
        if not arguments.no_results:
            keep(rows)
    if failed:
        sys.exit(f"containers.py: failed: {', '.join(failed)}. Logs: {arguments.work / 'logs'}")


if __name__ == "__main__":
    main()
