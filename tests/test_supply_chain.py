"""What CI runs and installs is pinned, may do little, and is what the project says it needs."""

import json
import re
from pathlib import Path

import pytest
import yaml
from subprocesses import run_program

ROOT = Path(__file__).resolve().parents[1]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
LOCKS = sorted((ROOT / ".ci/locks").glob("*.in"))


def canonical(requirement):
    return re.split(r"[\[<>=~!; ]", requirement)[0].lower().replace("_", "-")


def jobs(workflow):
    return yaml.safe_load(workflow.read_text())["jobs"].items()


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_actions_are_pinned(workflow):
    """By the hash of a commit, with the version beside it for people and for Dependabot."""
    for line in re.findall(r"uses: (.*)", workflow.read_text()):
        if not line.startswith("./"):
            assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line), line


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_jobs_may_do_little(workflow):
    assert yaml.safe_load(workflow.read_text())["permissions"] == {}
    for name, job in jobs(workflow):
        assert "permissions" in job, f"{name} says nothing of permissions"
        assert "uses" in job or "timeout-minutes" in job, f"{name} may run for hours"


def test_only_a_release_publishes():
    writers = {
        (workflow.stem, name, permission)
        for workflow in WORKFLOWS
        for name, job in jobs(workflow)
        for permission, value in job["permissions"].items()
        if value == "write"
    }
    assert writers == {
        ("docs", "publish", "pages"),
        ("docs", "publish", "id-token"),
        ("release", "attest", "id-token"),
        ("release", "attest", "attestations"),
        ("release", "pypi", "id-token"),
        ("release", "github", "contents"),
    }


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_what_workflows_run_is_there(workflow):
    for path in re.findall(r"(?<![\w/.])\.?ci/[\w./-]+\w", workflow.read_text()):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.stem)
def test_locks_have_hashes_and_what_is_asked_for(lock):
    entries = re.findall(
        r"^([\w.-]+)==(\S+)(?: ;[^\\\n]*)? \\\n((?:    --hash=.*\n)+)",
        lock.with_suffix(".txt").read_text() + "\n",
        re.M,
    )
    lines = lock.with_suffix(".txt").read_text().splitlines()
    assert len(entries) == sum(1 for line in lines if re.match(r"\w", line))
    asked = [line for line in lock.read_text().splitlines() if re.match(r"\w", line)]
    assert {canonical(line) for line in asked} <= {canonical(name) for name, *_ in entries}


def test_linters_are_the_same_everywhere():
    lock = (ROOT / ".ci/locks/lint.txt").read_text()
    for pin in (ROOT / ".ci/lint-requirements.txt").read_text().split():
        assert f"\n{pin} " in lock, pin


def test_the_lock_of_the_tests_has_what_they_need():
    """The extra `test`, as setup.py makes it beside `tensorflow`, and the build's requirements."""
    source = (ROOT / "setup.py").read_text().split("\nsetup(\n")[0]
    program = f"""
import json
__file__ = {str(ROOT / "setup.py")!r}
{source}
ask = lambda *arguments: {{"distribution": "tensorflow", "version": "2.21.0"}}
print(json.dumps(extras()["test"]))
"""
    result = run_program(program)
    assert result.returncode == 0, result.stderr
    needed = json.loads(result.stdout.splitlines()[-1])
    needed += re.findall(
        r'"([^"]+)"', re.search(r"^requires = \[(.*?)\]", PYPROJECT, re.M | re.S)[1]
    )
    asked = (ROOT / ".ci/locks/test.in").read_text().splitlines()
    asked = {canonical(line) for line in asked if re.match(r"\w", line)}
    assert {canonical(requirement) for requirement in needed} <= asked


PYPROJECT = (ROOT / "pyproject.toml").read_text()


def test_licence_is_the_same_everywhere():
    assert 'license = "Apache-2.0"' in PYPROJECT
    assert "license: Apache-2.0" in (ROOT / "CITATION.cff").read_text()
    assert (ROOT / "LICENSE").read_text().split("\n")[1].strip() == "Apache License"


def test_dev_container_is_built_from_a_stage_that_exists():
    text = (ROOT / ".devcontainer/devcontainer.json").read_text()
    build = json.loads(re.sub(r"^\s*//.*$", "", text, flags=re.M))["build"]
    dockerfile = (ROOT / ".devcontainer" / build["dockerfile"]).read_text()
    assert f" AS {build['target']}\n" in dockerfile


@pytest.mark.parametrize("kind", ["cpu", "gpu"])
def test_images_take_their_base_as_an_argument_and_do_not_run_as_root(kind):
    lines = (ROOT / f"docker/Dockerfile.{kind}").read_text().splitlines()
    arguments = [line.split()[1].split("=")[0] for line in lines if line.startswith("ARG ")]
    stages = [line.split()[3] for line in lines if line.startswith("FROM ")]
    for line in lines:
        if line.startswith("FROM "):
            image = line.split()[1]
            assert image in stages or image.strip("${}") in arguments, line
    assert [line for line in lines if line.startswith("USER ")][-1] == "USER adadelta"


def test_sources_of_an_image_are_what_a_build_needs():
    """.dockerignore leaves out everything else, which would make each change a new build."""
    kept = re.findall(r"^!(.*)$", (ROOT / ".dockerignore").read_text(), re.M)
    for path in kept:
        assert (ROOT / path).exists(), path
    assert {"setup.py", "pyproject.toml", "CMakeLists.txt", "csrc", "tf_adadelta"} <= set(kept)
