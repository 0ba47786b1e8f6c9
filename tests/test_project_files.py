"""What the files of the project say of it is true."""

import re
from pathlib import Path
from urllib.parse import unquote

import tf_adadelta

ROOT = Path(__file__).resolve().parents[1]
PROJECT = dict(re.findall(r'^([\w-]+) = "(.*)"$', (ROOT / "pyproject.toml").read_text(), re.M))
README = (ROOT / "README.md").read_text()


def test_version_stands_in_one_place():
    """What is installed may be older than the sources, but not the files beside them."""
    cited = re.findall(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    assert cited == [PROJECT["version"]]
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*", tf_adadelta.__version__)
    for path in (ROOT / "tf_adadelta").rglob("*.py"):
        assert not re.search(r"__version__ = ", path.read_text()), path


def test_badges_are_true():
    badges = re.findall(r"^!\[([^]]*)\]\(https://img\.shields\.io/badge/(\S+)\)$", README, re.M)
    found = {text: unquote(image).replace("--", "-") for text, image in badges}
    oldest, newest = re.search(
        r"OLDEST, NEWEST = \((\d+, \d+)\), \((\d+, \d+)\)", (ROOT / "setup.py").read_text()
    ).groups()
    versions = " to ".join(version.replace(", ", ".") for version in (oldest, newest))
    python = PROJECT["requires-python"].removeprefix(">=")
    assert found == {
        f"Python {python} or newer": f"Python-≥ {python}-blue",
        f"TensorFlow {versions}": f"TensorFlow-{versions}-orange",
        "Types: mypy and pyright, strict": "types-mypy | pyright strict-green",
        f"License: {PROJECT['license']}": f"license-{PROJECT['license']}-lightgrey",
    }


def test_issues_ask_for_the_report():
    for path in (ROOT / ".github/ISSUE_TEMPLATE").glob("[!c]*.yml"):
        assert "`python -m tf_adadelta --json`" in path.read_text()
