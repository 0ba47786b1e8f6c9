"""The scripts under ci/, as far as seconds go: what they refuse, and what they write."""

import json
import sys
import tarfile
import zipfile

import pytest
from test_build import ROOT

sys.path.insert(0, str(ROOT / "ci"))
import build_sdist
import build_wheel
import environments
import matrix


def test_page_is_what_the_results_say(monkeypatch, tmp_path):
    """docs/compatibility.md is never edited by hand."""
    monkeypatch.setattr(matrix, "PAGE", tmp_path / "page.md")
    matrix.write_page(json.loads(matrix.RESULTS.read_text()))
    written = (ROOT / "docs/compatibility.md").read_text()
    assert (tmp_path / "page.md").read_text() == written


def test_a_cell_that_failed_is_seen_on_the_page(monkeypatch, tmp_path):
    monkeypatch.setattr(matrix, "PAGE", tmp_path / "page.md")
    run = {"tests": "quick", "installed": "source", "date": "2026-01-01"}
    matrix.write_page(
        {
            "2.21/3.12/tensorflow/newest": {**run, "passed": 7},
            "2.18/3.10/tensorflow/oldest": {**run, "problem": "no compiler"},
        }
    )
    page = (tmp_path / "page.md").read_text()
    assert "| 2.18 | 3.10 | tensorflow | oldest | quick | source | **failed** |" in page
    assert "| 2.21 | 3.12 | tensorflow | newest | quick | source | 7 |" in page
    assert page.count("2.21/3.12/tensorflow/") == 1  # The one that was not run.


def test_the_quick_tests_are_there():
    assert all((ROOT / name).exists() for name in matrix.QUICK_TESTS)


def test_versions_are_those_that_are_built_for():
    source = (ROOT / "setup.py").read_text()
    oldest, newest = (minor.replace(".", ", ") for minor in sorted(environments.PYTHONS)[::3])
    assert f"OLDEST, NEWEST = ({oldest}), ({newest})" in source


def test_cibuildwheel_makes_the_same_wheel_as_the_script():
    """pyproject.toml cannot ask ci/build_wheel.py what a wheel is for."""
    table = (ROOT / "pyproject.toml").read_text().split("[tool.cibuildwheel]")[1]
    assert f"--plat {build_wheel.PLATFORM} --only-plat" in table
    assert table.count("--exclude ") == len(build_wheel.OF_TENSORFLOW)
    assert all(f"--exclude {name} " in table for name in build_wheel.OF_TENSORFLOW)
    pythons = sorted({python for each in environments.PYTHONS.values() for python in each})
    names = [f"cp{python.replace('.', '')}-*" for python in pythons]
    assert f'build = "{" ".join(names)}"' in table
    for python, name in zip(pythons, names):
        minors = [minor for minor, each in environments.PYTHONS.items() if python in each]
        folders = ":".join(f"/tmp/wheel/tensorflow-{minor}" for minor in minors)
        of_this = table.partition(f'select = "{name}"')[2] or table
        assert of_this.partition("TF_ADADELTA_TENSORFLOWS = ")[2].startswith(f'"{folders}"')


def wheel(folder, name, content):
    path = folder / "x.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, content)
    return path


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("tf_adadelta/_ops_2.21.so", b"\0" * 1_600_000, "_ops_2.21.so has 1.6 MB"),
        ("tf_adadelta/libtf_adadelta_core.so", b"at /builder/x.cc", "holds the path /builder"),
    ],
)
def test_wheels_that_are_refused(tmp_path, name, content, problem):
    with pytest.raises(environments.CommandError, match=problem):
        build_wheel.check(wheel(tmp_path, name, content), "OFF", ["/builder"])


def test_wheel_that_is_too_large(monkeypatch, tmp_path):
    monkeypatch.setitem(build_wheel.LIMIT_MB, "OFF", 0)
    with pytest.raises(environments.CommandError, match="more than 0"):
        build_wheel.check(wheel(tmp_path, "a", b"b"), "OFF", [])


def test_wheel_that_is_fine(tmp_path):
    build_wheel.check(wheel(tmp_path, "tf_adadelta/_ops_2.21.so", b"fine"), "OFF", ["/builder"])


def test_sdists_of_two_machines_are_equal(tmp_path):
    packed = []
    for name, mode in (("one", 0o600), ("two", 0o664)):
        source = tmp_path / name / "x.txt"
        source.parent.mkdir()
        source.write_text("text")
        source.chmod(mode)
        with tarfile.open(tmp_path / f"{name}.tar.gz", "w:gz") as archive:
            archive.add(source, "x.txt")
        build_sdist.normalize(tmp_path / f"{name}.tar.gz", tmp_path / name / "sdist", 1_000_000_000)
        packed.append((tmp_path / name / "sdist").read_bytes())
    assert packed[0] == packed[1]


def test_command_that_fails_says_how(tmp_path):
    with pytest.raises(environments.CommandError, match=r"`sh -c .*` failed:\n7 of 9\n"):
        command = ["sh", "-c", "echo 7 of 9 >&2; exit 3"]
        environments.run(command, tmp_path / "log", tmp_path)
    assert "7 of 9" in (tmp_path / "log").read_text()
