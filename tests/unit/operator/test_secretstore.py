"""The broker's Secrets on the API server, which is a table here; tests/cluster has the real one."""

from __future__ import annotations

import asyncio
import copy
import tempfile
import time
from typing import Any

import pytest

from daemoneye_operator import brokersecrets, pki, secretstore
from daemoneye_operator.secretstore import RESTART_ANNOTATION
from tests.support.broker import settings

DAY = 86_400
STATEFULSET = "/apis/apps/v1/namespaces/security/statefulsets/daemoneye-nats"
SERVER = "/api/v1/namespaces/security/secrets/daemoneye-nats"


class Api:
    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Any]] = {}
        self.asked: list[tuple[str, str]] = []

    async def get(self, path):
        self.asked.append(("GET", path))
        return copy.deepcopy(self.objects.get(path))

    async def apply(self, path, obj):
        self.asked.append(("APPLY", path))
        self.objects[path] = obj
        return obj

    async def merge(self, path, patch):
        self.asked.append(("MERGE", path))
        self.objects[path]["spec"]["template"]["metadata"] = patch["spec"]["template"]["metadata"]
        return self.objects[path]

    def runs(self) -> None:
        """The servers run."""
        self.objects[STATEFULSET] = {"spec": {"template": {"metadata": {}}}, "status": {"readyReplicas": 1}}

    def ensure(self, of=None) -> secretstore.Secrets:
        self.asked.clear()
        kube: Any = self
        return asyncio.run(secretstore.ensure(kube, of or settings(), None))

    def count(self, verb: str, path: str) -> int:
        return self.asked.count((verb, path))


@pytest.fixture
def api():
    return Api()


def annotation(obj):
    return obj["metadata"].get("annotations", {}).get(RESTART_ANNOTATION)


def test_certificates_say_when_they_end(api):
    made = api.ensure()
    assert made.expires["server"] == pytest.approx(time.time() + pki.SERVER_LIFE.total_seconds(), abs=DAY)
    assert made.expires["ca"] == pytest.approx(time.time() + pki.AUTHORITY_LIFE.total_seconds(), abs=DAY)


def test_who_reads_the_authorities_while_they_change_finds_them_whole(api, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    secrets = api.ensure()
    of = settings()
    path = secretstore.access(of, secrets, "operator").tls_ca
    assert path
    with path.open("rb") as open_:
        former = open_.read(100)
        name = brokersecrets.role_name(of, "operator")
        secrets.data[name]["ca.crt"] += b"# another\n"
        assert secretstore.access(of, secrets, "operator").tls_ca == path
        rest = open_.read()
    assert path.read_bytes() == secrets.data[name]["ca.crt"] == former + rest + b"# another\n"
    assert list(tmp_path.iterdir()) == [path]


def test_at_an_installation_nothing_is_restarted_and_the_second_time_nothing_is_written(api):
    api.ensure()
    assert api.count("GET", STATEFULSET) == 1
    api.runs()
    api.ensure()
    assert {verb for verb, _ in api.asked} == {"GET"}
    assert api.count("GET", STATEFULSET) == 0


def test_a_deleted_server_secret_restarts_what_runs_with_the_former(api):
    api.ensure()
    api.runs()
    del api.objects[SERVER]
    api.ensure()
    assert api.count("GET", STATEFULSET) == 1
    assert api.count("MERGE", STATEFULSET) == 1
    digest = annotation(api.objects[STATEFULSET]["spec"]["template"])
    assert digest
    assert annotation(api.objects[SERVER]) == digest
    api.ensure()
    assert api.count("GET", STATEFULSET) == 1, "until the Secret changes: the crash between the two is made good"
    assert api.count("MERGE", STATEFULSET) == 0


def test_a_broker_of_the_users_own_says_when_its_authority_ends(api):
    url = {"external": True, "credentialsSecretRef": {"name": "users"}, "tlsSecretRef": {"name": "tls"}}
    own = api.ensure()
    authority = own.data["daemoneye-ca"]["ca.crt"]
    secrets = "/api/v1/namespaces/security/secrets"
    words = {
        f"{role}.{what}": b"x"
        for role in ("sensor", "analytics", "cli", "operator", "identity")
        for what in ("user", "password")
    }
    api.objects[f"{secrets}/users"] = secretstore._object(settings(), "users", words, None, {})
    api.objects[f"{secrets}/tls"] = secretstore._object(settings(), "tls", {"ca.crt": authority}, None, {})
    made = api.ensure(settings(**url))
    assert made.expires == {"ca": own.expires["ca"]}
    api.objects[f"{secrets}/tls"] = secretstore._object(settings(), "tls", {"ca.crt": b"no certificate"}, None, {})
    assert api.ensure(settings(**url)).expires == {}
