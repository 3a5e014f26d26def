"""``kubectl daemoneye evidence``: which finding is meant, and whose token is shown. The whole way is tests/integration/test_evidence.py."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from daemoneye.errors import ConfigError, MachineError
from daemoneye_cli import callertoken
from daemoneye_cli.commands.cluster.evidence import finding_id
from daemoneye_cli.kube import Kubectl as Kube
from daemoneye_cli.main import main
from tests.unit.cli.fakekubectl import Kubectl, finding

VIEW = "config view --raw --minify"


def user(kubectl: Kubectl, **content: object) -> None:
    kubectl.gives(VIEW, {"users": [{"name": "me", "user": content}]})


@pytest.mark.parametrize("text", ["fileless-1", "shop/fileless-1"])
def test_a_finding_is_found_by_its_name(installed, text):
    assert finding_id(Kube(), text) == "ab" * 16
    (call,) = installed.calls
    assert "metadata.name=fileless-1" in call
    assert ("--all-namespaces" in call) == ("/" not in text)


def test_an_id_needs_no_question(installed):
    assert finding_id(Kube(), "cd" * 16) == "cd" * 16
    assert installed.calls == []


@pytest.mark.parametrize(
    ("objects", "error", "words"),
    [
        ([], ConfigError, "there is no Finding fileless-1"),
        ([finding("fileless-1"), finding("fileless-1", where="b")], ConfigError, r"\(b, shop\): write NAMESPACE/fileless-1"),
        ([{**finding("fileless-1"), "status": {}}], MachineError, "does not say yet"),
    ],
)  # fmt: skip
def test_a_finding_that_is_not_clear(kubectl, objects, error, words):
    kubectl.lists("get findings.daemoneye.io*", *objects)
    with pytest.raises(error, match=words):
        finding_id(Kube(), "fileless-1")


def test_a_name_that_is_none():
    with pytest.raises(ConfigError, match="write NAMESPACE/NAME"):
        finding_id(Kube(), "a/b/c")


def test_token_of_the_configuration(kubectl, tmp_path):
    user(kubectl, token="t1")
    assert callertoken.of_caller(Kube(context="there")) == "t1"
    assert kubectl.calls[-1][:2] == ["--context", "there"]
    (tmp_path / "token").write_text("t2\n")
    user(kubectl, tokenFile=str(tmp_path / "token"))
    assert callertoken.of_caller(Kube()) == "t2"


def test_token_of_a_login_program(kubectl):
    code = "import json, os; print(json.dumps({'status': {'token': os.environ['WHO'] + json.loads(os.environ['KUBERNETES_EXEC_INFO'])['kind']}}))"
    program = {"apiVersion": "client.authentication.k8s.io/v1", "command": sys.executable, "args": ["-c", code]}
    user(kubectl, exec={**program, "env": [{"name": "WHO", "value": "me"}]})
    assert callertoken.of_caller(Kube()) == "meExecCredential"
    user(kubectl, exec={**program, "args": ["-c", "print('{}')"]})
    with pytest.raises(MachineError, match="gave no token"):
        callertoken.of_caller(Kube())


def test_a_certificate_is_no_token_and_what_to_do_then_is_said(kubectl):
    user(kubectl, **{"client-certificate-data": "x"})
    with pytest.raises(MachineError, match="--service-account NAMESPACE/NAME"):
        callertoken.of_caller(Kube())


def test_token_of_a_service_account(kubectl):
    kubectl.gives("create token auditor --namespace security --duration 10m", stdout="t3\n")
    assert callertoken.of_service_account(Kube(), "security/auditor") == "t3"
    with pytest.raises(ConfigError, match="write NAMESPACE/NAME"):
        callertoken.of_service_account(Kube(), "auditor")


def test_a_file_that_is_there_is_not_replaced(kubectl, tmp_path: Path, capsys):
    path = tmp_path / "out.pcapng"
    path.write_text("mine")
    assert main(["-k", "evidence", "fileless-1", "-o", str(path)]) == 2
    assert f"{path}: it exists already" in capsys.readouterr().err
    assert (path.read_text(), kubectl.calls) == ("mine", [])


def test_this_machines_findings_have_no_names(tmp_path: Path, capsys):
    assert main(["evidence", "shop/x", "-o", str(tmp_path / "out.pcapng")]) == 2
    assert "kubectl daemoneye evidence" in capsys.readouterr().err


def test_without_a_run_there_is_nobody_to_ask(tmp_path: Path, capsys):
    command = ["evidence", "0" * 32, "-o", str(tmp_path / "out.pcapng"), "--state", str(tmp_path)]
    assert main(command) == 3
    assert "no daemoneye runs with" in capsys.readouterr().err
