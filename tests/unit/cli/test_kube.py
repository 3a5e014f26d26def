"""kubectl at the boundary: which cluster it is asked about, and what becomes of its complaints."""

import pytest

from daemoneye.errors import ConfigError, MachineError
from daemoneye_cli.errors import Forbidden, NoSuchKind, NotThere
from daemoneye_cli.kube import failure
from daemoneye_cli.main import main
from tests.unit.cli.fakekubectl import part

PLUGIN = "/usr/local/bin/kubectl-daemoneye"
REFUSED = "The connection to the server localhost:8080 was refused - did you specify the right host or port?"
MEMCACHE = (
    'E1127 01:29:17.871760   15668 memcache.go:265] "Unhandled Error" err="couldn\'t get current server API group list"'
)


@pytest.mark.parametrize(
    ("said", "kind", "words"),
    [
        ("Error in configuration: context was not found for specified context: nope", ConfigError, "get-contexts"),
        ('error: context "nope" does not exist', ConfigError, "get-contexts"),
        ("error: stat /nonexist: no such file or directory", ConfigError, "--kubeconfig"),
        ('error: error loading config file "/x": yaml: line 1: did not find expected node content', ConfigError, "/x"),
        (f"{MEMCACHE}\n{MEMCACHE}\n{REFUSED}", MachineError, "--context"),
        ("Unable to connect to the server: dial tcp 10.0.0.1:6443: i/o timeout", MachineError, "cluster-info"),
        ('error: the server doesn\'t have a resource type "findings"', NoSuchKind, "crds/"),
        ('Error from server (NotFound): namespaces "x" not found', NotThere, 'namespaces "x" not found'),
        ('Error from server (Forbidden): nodes is forbidden: User "u" cannot list', Forbidden, "can-i"),
        ("error: You must be logged in to the server (Unauthorized)", MachineError, "log in"),
        ("Warning: v1 is old\nerror: something new", MachineError, "something new"),
        ("", MachineError, "said nothing"),
    ],
)
def test_a_complaint_becomes_one_sentence_with_what_to_do(said, kind, words):
    error = failure(said)
    assert type(error) is kind
    assert words in str(error)
    assert "memcache" not in str(error)
    assert "\n" not in str(error)


def test_without_kubectl(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["-k", "status"]) == 3
    assert "kubectl is not there: it is not on PATH (fix: install kubectl" in capsys.readouterr().err


def test_a_wrong_context_is_status_2(kubectl, capsys):
    kubectl.fails("--context nope*", 'error: context "nope" does not exist')
    for command in (["status"], ["findings"], ["events"], ["policy", "explain"], ["version"]):
        assert main(["-k", "--context", "nope", *command]) == 2
        assert capsys.readouterr().err.startswith('daemoneye: kubectl: context "nope" does not exist: kubectl config')


@pytest.mark.parametrize(
    "arguments",
    [
        ["-k", "--context", "c", "--kubeconfig", "f", "-n", "security", "status"],
        ["--cluster", "status", "--context", "c", "--kubeconfig", "f", "--namespace", "security"],
    ],
    ids=["before", "behind"],
)
def test_the_cluster_is_chosen_before_the_command_or_behind_it(installed, arguments, capsys):
    assert main(arguments) == 0
    for call in installed.calls:
        assert call[:4] == ["--context", "c", "--kubeconfig", "f"]
    assert "--namespace" in installed.calls[0]
    assert "release eye in namespace security" in capsys.readouterr().out


def test_under_kubectls_name_for_it_a_cluster_is_asked(installed, capsys):
    assert main(["status"], program=PLUGIN) == 0
    assert "all is ready" in capsys.readouterr().out
    assert main(["--help"], program=PLUGIN) == 0
    assert "usage: kubectl daemoneye" in capsys.readouterr().out
    assert main(["run"], program=PLUGIN) == 2
    assert "watches one machine" in capsys.readouterr().err


def test_commands_of_the_cluster_say_so_on_one_machine(capsys):
    for command in ("status", "policy"):
        assert main([command]) == 2
        assert f"kubectl daemoneye {command}" in capsys.readouterr().err


def test_no_installation(installed, capsys):
    installed.lists("get deployments.apps --all-namespaces*")
    assert main(["-k", "status"]) == 3
    assert "no DaemonEye is installed in this cluster (fix: helm install" in capsys.readouterr().err
    installed.lists("get deployments.apps --namespace security*")
    assert main(["-k", "-n", "security", "status"]) == 3
    assert "no DaemonEye is installed in namespace security" in capsys.readouterr().err


def test_several_installations_are_named(installed, capsys):
    two = part("operator"), part("operator", release="second", where="other")
    installed.lists("get deployments.apps --all-namespaces*", *two)
    assert main(["-k", "status"]) == 2
    error = capsys.readouterr().err
    assert "second in namespace other, eye in namespace security: choose one with -n" in error
    assert main(["-k", "status", "-n", "security"]) == 0


def test_who_may_not_look_everywhere_is_told_to_name_the_namespace(installed, capsys):
    said = 'Error from server (Forbidden): deployments.apps is forbidden: User "u" cannot list resource "deployments"'
    installed.fails("get deployments.apps --all-namespaces*", said)
    assert main(["-k", "status"]) == 3
    assert "fix: name the installation's namespace: -n NAMESPACE" in capsys.readouterr().err


def test_an_answer_that_is_no_json(kubectl, capsys):
    kubectl.gives("get deployments*", stdout="<html>login</html>")
    assert main(["-k", "status"]) == 1
    assert "gave something that is no JSON" in capsys.readouterr().err
