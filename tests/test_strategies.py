"""Every API in every mode under every strategy, in processes of their own."""

import re

import numpy as np
import pytest
import support
from conftest import needs_xla
from oracle import TOLERANCES
from strategy_task import cells

pytest.importorskip("tf_keras")
pytestmark = pytest.mark.distribute

ROLES = tuple(support.STRATEGIES)
CELLS = [
    pytest.param(role, api, mode, id=f"{role}-{api}-{mode}")
    for role in ROLES
    for api, mode in cells(role)
]
SERVERS = {"one_device": 1, "mirrored": 2, "central": 1, "multi_worker": 1, "coordinate": 2}


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """Returns a function from roles to directories with results, one for each process."""
    found = {}

    def outputs_of(role):
        if role not in found:
            found[role] = support.run(role, tmp_path_factory.mktemp(role))
        return found[role]

    return outputs_of


def values_of(result):
    assert "error" not in result, result["error"]
    return {name: value for name, value in result.items() if name.startswith("value ")}


def assert_close(actual, expected):
    absolute, relative = TOLERANCES["float32"]
    actual, expected = values_of(actual), values_of(expected)
    assert list(actual) == list(expected)
    for name, value in actual.items():
        np.testing.assert_allclose(
            value, expected[name], atol=absolute, rtol=relative, err_msg=name
        )


def stock_of(output, api, mode):
    """What the stock optimizers make of it: only the older ones are lazy."""
    return support.load(output, "legacy" if mode == "lazy" else api, mode, False)


@pytest.mark.parametrize("role, api, mode", CELLS)
def test_as_stock(outputs, role, api, mode):
    """Parameters and states are those of stock, or the error is."""
    for output in outputs(role):
        stock, fused = stock_of(output, api, mode), support.load(output, api, mode, True)
        if "error" in stock:
            assert str(fused["error"]).split(":")[0] == str(stock["error"]).split(":")[0]
        else:
            assert_close(fused, stock)
            np.testing.assert_allclose(fused["losses"], stock["losses"], rtol=1e-5)


@pytest.mark.parametrize("role", ROLES[1:])
def test_as_one_replica(outputs, role):
    """The replicas together do what one does on the batch of all."""
    compared = set()
    for api, mode in cells(role):
        fused = support.load(outputs(role)[0], api, mode, True)
        if mode != "fit" and "error" not in fused:  # In fit, batches are those of each replica.
            assert_close(fused, support.load(outputs("one_device")[0], api, mode, True))
            compared.add((api, mode))
    assert compared >= {(api, m) for api, m in cells(role) if m in ("dense", "exact", "lazy")}


@pytest.mark.parametrize("role", ["mirrored", "multi_worker"])
def test_all_replicas_have_the_same_bits(outputs, role):
    for api, mode in cells(role):
        seen = {}
        count = 0
        for output in outputs(role):
            for name, value in support.load(output, api, mode, True).items():
                if match := re.fullmatch(r"replica \d+ (.*)", name):
                    count += 1
                    first = seen.setdefault(match[1], value)
                    assert first.tobytes() == value.tobytes(), (api, mode, name)
        if mode in ("dense", "exact", "lazy"):
            assert (len(seen), count) == (9, 18)


@pytest.mark.parametrize("role", ROLES)
def test_one_call_for_each_device_and_kind_of_gradient(outputs, role):
    """And under parameter servers, for each server: the tables and the others are on both."""
    for output in outputs(role):
        for api, mode in cells(role):
            result = support.load(output, api, mode, True)
            if "calls" not in result:
                continue
            calls = list(result["calls"])
            # An optimizer whose slots everybody sees takes the dense update for "exact".
            sparse = mode == "lazy" or (mode == "exact" and api == "keras")
            assert len(set(calls)) == len(calls), (api, mode, calls)
            assert len(calls) == SERVERS[role] * (1 + sparse), (api, mode, calls)
            kinds = {call.split()[0] for call in calls}
            assert kinds == {"FusedAdadeltaApply", *["FusedAdadeltaSparseApply"] * sparse}


@needs_xla  # Of which the table has rows.
def test_the_table_of_the_document(outputs):
    """`python tests/support.py` writes it anew."""
    assert support.written_table() == support.table({role: outputs(role)[0] for role in ROLES})
