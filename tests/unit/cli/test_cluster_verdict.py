"""``kubectl daemoneye verdict``: which exception is written for a Finding, and what is refused before anything is written."""

import datetime as dt
import json

import pytest

from daemoneye.api.v1alpha1.exception import DetectionException
from daemoneye_cli.main import main
from daemoneye_operator.reconcile.exception import Silence
from tests.unit.cli.fakekubectl import finding

WHO = {"kind": "SelfSubjectReview", "status": {"userInfo": {"username": "ada@example.org"}}}
KEY = "/memfd:x"


@pytest.fixture
def cluster(installed):
    installed.lists("get findings.daemoneye.io*", finding("fileless-1", key=KEY))
    installed.gives("auth whoami -o json", WHO)
    installed.gives("apply --server-side*", stdout="detectionexception.daemoneye.io/x serverside-applied\n")
    return installed


def applied(cluster) -> list[list[str]]:
    return [call for call in cluster.calls if "apply" in call]


def silences(content, spec) -> bool:
    """Whether the operator keeps a finding silent by the object."""
    DetectionException.model_validate(content, by_alias=True, by_name=False)
    return Silence.of({**content, "metadata": {**content["metadata"], "uid": "u"}}).matches(spec)


def test_the_exception_is_for_this_finding_and_its_like(cluster, capsys):
    assert main(["-k", "verdict", "fileless-1", "benign", "--until", "2100-01-31", "--reason", "Ours."]) == 0
    (written,) = cluster.given
    assert written["metadata"]["namespace"] == "shop"
    assert written["spec"] == {
        "scope": {"detector": "suspicious-exec", "workload": "shop/Deployment/till/main", "key": KEY},
        "verdict": "Benign", "owner": "ada@example.org", "reason": "Ours.", "expiresAt": "2100-01-31T00:00:00Z",
    }  # fmt: skip
    assert silences(written, finding("x", key=KEY)["spec"])
    assert not silences(written, finding("x", key="/memfd:y")["spec"])
    name = written["metadata"]["name"]
    assert capsys.readouterr().out == (
        f"DetectionException shop/{name} written: Benign until 2100-01-31T00:00:00Z, by ada@example.org, for detector suspicious-exec,"
        f" workload shop/Deployment/till/main, key {KEY}; take it back with: kubectl delete deexc {name} -n shop\n"
    )


@pytest.mark.parametrize("text", ["fileless-1", "shop/fileless-1", "ab" * 16])
def test_a_finding_is_named_by_its_name_or_the_id_of_its_last(cluster, text):
    assert main(["-k", "verdict", text, "accepted", "--owner", "team-shop"]) == 0
    (written,) = cluster.given
    assert (written["spec"]["verdict"], written["spec"]["owner"]) == ("Accepted", "team-shop")
    assert not any("whoami" in call for call in cluster.calls)


def test_it_ends_after_thirty_days_by_default(cluster):
    assert main(["-k", "verdict", "fileless-1", "benign"]) == 0
    end = dt.datetime.fromisoformat(cluster.given[0]["spec"]["expiresAt"])
    assert abs(end - dt.datetime.now(dt.UTC) - dt.timedelta(days=30)) < dt.timedelta(minutes=5)


def test_another_verdict_about_the_same_is_the_same_object(cluster):
    for arguments in (["benign"], ["false-positive", "--until", "12h"], ["benign", "--scope", "image"]):
        assert main(["-k", "verdict", "fileless-1", *arguments]) == 0
    first, second, other = (content["metadata"]["name"] for content in cluster.given)
    assert first == second != other
    assert all({"--server-side", "--force-conflicts"} <= set(call) for call in applied(cluster))


def test_a_scope_of_ones_own_and_no_text_of_a_process_widens_it(cluster):
    odd = finding("odd", key=KEY)
    odd["spec"]["subject"]["image"] = "shop/*:1"
    cluster.lists("get findings.daemoneye.io*", odd)
    assert main(["-k", "verdict", "odd", "benign", "--scope", "image", "--scope", "detector"]) == 0
    (written,) = cluster.given
    assert set(written["spec"]["scope"]) == {"image", "detector"}
    assert silences(written, odd["spec"])
    assert not silences(written, finding("x", key=KEY)["spec"])


def test_a_finding_without_a_key_is_said_to_be_for_any(cluster, capsys):
    cluster.lists("get findings.daemoneye.io*", finding("fileless-1"))
    assert main(["-k", "verdict", "fileless-1", "benign"]) == 0
    assert set(cluster.given[0]["spec"]["scope"]) == {"detector", "workload"}
    assert "the finding has no key: the exception is for any" in capsys.readouterr().err
    assert main(["-k", "verdict", "fileless-1", "benign", "--scope", "key"]) == 2
    assert "--scope key: the finding has no key" in capsys.readouterr().err
    assert len(cluster.given) == 1


def test_a_dry_run_is_checked_and_not_written(cluster, capsys):
    assert main(["-k", "--context", "there", "verdict", "fileless-1", "benign", "--dry-run"]) == 0
    (call,) = applied(cluster)
    assert "--dry-run=server" in call
    assert "would be written: Benign" in capsys.readouterr().out
    assert main(["-k", "--context", "there", "verdict", "fileless-1", "benign"]) == 0
    assert "kubectl --context there delete deexc" in capsys.readouterr().out


def test_the_object_for_programs(cluster, capsys):
    assert main(["-k", "verdict", "fileless-1", "benign", "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == cluster.given[0]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["fileless-1", "malicious"], "delete nothing, and raise the finding"),
        (["fileless-1", "fine"], "fine is no verdict: write benign, accepted, false-positive"),
        (["fileless-1", "benign", "--until", "2020-01-31"], "2020-01-31 is over already"),
        (["fileless-1", "benign", "--until", "0d"], "0d is over already"),
        (["fileless-1", "benign", "--until", "30y"], "30y is no time"),
        (["fileless-1", "benign", "--until", "999999w"], "after the calendar ends"),
        (["fileless-1", "benign", "--until", "9999-12-31T23:59:00-23:00"], "after the calendar ends"),
        (["fileless-1", "benign", "--scope", "pod"], "invalid choice: 'pod'"),
        (["fileless-1", "benign", "--owner", ""], "owner: "),
        (["fileless-1", "benign", "--reason", "x" * 1025], "reason: "),
        (["a/b/c", "benign"], "write NAMESPACE/NAME"),
        (["cd" * 16, "benign"], "is no Finding's last finding"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_written(cluster, arguments, words, capsys):
    assert main(["-k", "verdict", *arguments]) == 2
    assert words in capsys.readouterr().err
    assert applied(cluster) == []


def test_an_unknown_finding(cluster, capsys):
    cluster.lists("get findings.daemoneye.io*")
    assert main(["-k", "verdict", "none", "benign"]) == 2
    assert "there is no Finding none: kubectl daemoneye findings shows" in capsys.readouterr().err


def test_a_cluster_that_does_not_say_who_asks(cluster, capsys):
    cluster.fails("auth whoami -o json", 'error: unknown command "whoami" for "kubectl auth"')
    assert main(["-k", "verdict", "fileless-1", "benign"]) == 3
    assert "does not say who you are" in (said := capsys.readouterr().err)
    assert "fix: say who answers for it: --owner NAME" in said
    assert applied(cluster) == []


def test_without_the_right_it_is_said(cluster, capsys):
    refused = (
        'Error from server (Forbidden): detectionexceptions.daemoneye.io "x" is forbidden: User "ada" cannot patch'
    )
    cluster.fails("apply --server-side*", refused)
    assert main(["-k", "verdict", "fileless-1", "benign"]) == 3
    said = capsys.readouterr()
    assert 'User "ada" cannot patch' in said.err
    assert said.out == ""


def test_hostile_text_is_harmless(cluster, capsys):
    cluster.lists("get findings.daemoneye.io*", finding("fileless-1", key="\x1b[31m\n\u202e"))
    assert main(["-k", "verdict", "fileless-1", "benign"]) == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert not {"\x1b", "\u202e"} & set(out)


def test_it_is_the_clusters(capsys):
    assert main(["verdict", "x", "benign"]) == 2
    assert "kubectl daemoneye verdict" in capsys.readouterr().err
