"""`onnxqat ops`: coverage on the command line."""

from __future__ import annotations

import json

import onnx
import pytest

from onnxqat.cli.main import main
from tests.support.nets import residual_net, unknown_op_net


def test_all_operators_are_listed_with_versions_and_reasons(capsys):
    assert main(["ops"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (conv,) = [line for line in lines if line.split()[:1] == ["Conv"]]
    assert "1, 11, 22" in conv or "11, 22" in conv
    (decoder,) = [line for line in lines if line.split()[:1] == ["ImageDecoder"]]
    assert "20: decodes image files" in decoder


def test_one_operator_can_be_asked_for_and_read_by_programs(capsys):
    assert main(["ops", "Erf", "--json"]) == 0
    (erf,) = json.loads(capsys.readouterr().out)
    assert erf == {
        "domain": "",
        "name": "Erf",
        "versions": [
            {"since": 9, "is_covered": True, "reason": None},
            {"since": 13, "is_covered": True, "reason": None},
        ],
    }


def test_an_operator_that_is_none_is_bad_input(capsys):
    assert main(["ops", "Convolution"]) == 2
    assert "no operator Convolution" in capsys.readouterr().err


@pytest.mark.parametrize(("net", "code"), [(residual_net(), 0), (unknown_op_net(), 1)])
def test_the_exit_code_says_whether_a_model_can_be_trained(net, code, tmp_path, capsys):
    onnx.save(net, tmp_path / "net.onnx")
    assert main(["ops", "--model", str(tmp_path / "net.onnx")]) == code
    assert f"nodes without a torch function: {2 * code}" in capsys.readouterr().out
