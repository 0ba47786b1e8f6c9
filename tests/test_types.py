"""Type checkers in strict mode accept a program that uses the package, and find its mistakes."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import tf_adadelta

PROGRAMS = Path(__file__).with_name("typed")
ROOT = Path(tf_adadelta.__file__).parents[1]


def run(*arguments, cwd):
    command = [sys.executable, "-m", *arguments]
    result = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=240)
    assert result.returncode in (0, 1), result.stderr + result.stdout  # Else it did not run.
    return result.stdout


def mypy(folder):
    """Returns the lines of each file with an error."""
    # What is installed is found by itself, and may not be named.
    path = "" if ROOT.name == "site-packages" else f"mypy_path = {ROOT}\n"
    (folder / "mypy.ini").write_text(
        f"[mypy]\nstrict = True\n{path}python_executable = {sys.executable}\n"
        "[mypy-tf_adadelta.*]\nfollow_imports = silent\n"  # As for what is installed.
        "[mypy-tf_adadelta]\nfollow_imports = silent\n"
    )
    files = [path.name for path in PROGRAMS.glob("*.py")]
    output = run("mypy", "--no-error-summary", "--cache-dir", str(folder), *files, cwd=folder)
    found = re.findall(r"^(\w+\.py):(\d+): error:", output, re.MULTILINE)
    assert len(found) == output.count("error:"), output
    return {(name, int(line)) for name, line in found}


def pyright(folder):
    settings = {"typeCheckingMode": "strict", "extraPaths": [str(ROOT)], "include": ["*.py"]}
    (folder / "pyrightconfig.json").write_text(json.dumps(settings))
    output = run("pyright", "--outputjson", "--pythonpath", sys.executable, cwd=folder)
    report = json.loads(output)
    assert report["summary"]["filesAnalyzed"] == len(list(PROGRAMS.glob("*.py")))
    return {
        (Path(one["file"]).name, one["range"]["start"]["line"] + 1)
        for one in report["generalDiagnostics"]
        if one["severity"] == "error"
    }


@pytest.mark.parametrize("check", [mypy, pyright])
def test_strict(check, tmp_path):
    for path in PROGRAMS.glob("*.py"):
        (tmp_path / path.name).write_text(path.read_text())
    lines = (PROGRAMS / "mistakes.py").read_text().splitlines()
    calls = {("mistakes.py", i) for i, line in enumerate(lines, 1) if " = " in line or "(" in line}
    assert check(tmp_path) == calls
