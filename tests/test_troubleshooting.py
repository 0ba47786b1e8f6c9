"""The page has every message that the package can raise or warn, and none that it cannot."""

import re

from messages import ROOT, collect

PAGE = (ROOT / "docs" / "site" / "troubleshooting.md").read_text()


def on_page():
    blocks = re.findall(r"^```text\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


def test_every_message_is_there():
    missing = {message: name for message, name in collect().items() if message not in on_page()}
    assert not missing


def test_no_message_is_gone_or_there_twice():
    lines = on_page()
    assert set(lines) <= set(collect())
    assert len(lines) == len(set(lines))


def test_the_collection_sees_each_kind():
    """One message of each way to raise or warn."""
    found = collect()
    for message, name in {
        "sparse_update is …, expected 'exact' or 'lazy'": "_dispatch.py",
        "has dtype …": "_support.py",
        "no C++ compiler was found": "setup.py",
        "… and … share memory": "arrays.cc",
        "… is not initialized": "variables.cc",
        "indices…[…] is …, expected 0 to …, a row of variables…": "bad_index.h",
        "CUDA says: … (…)": "runtime.cu",
        "TF_ADADELTA_CUDA is '…', expected ON, OFF or AUTO": "cuda.cmake",
    }.items():
        assert found[message] == name
