"""The Certificate that the chart asks cert-manager for, held against what cert-manager published of its kind."""

from __future__ import annotations

import json
import re

import pytest

from daemoneye_operator import brokersecrets
from daemoneye_operator.settings import OperatorSettings
from tests.chart.chart import NAMESPACE, RELEASE, RefusedError, render

API = ("cert-manager.io/v1/Certificate",)
ISSUER = ("nats.issuerRef.name=our-ca", "nats.issuerRef.kind=ClusterIssuer")
EXTERNAL = ("nats.external.url=tls://nats.example.com:4222", "nats.external.credentialsSecretRef.name=users")
NAME = f"{RELEASE}-daemoneye-nats-tls"

# Of cert-manager's CustomResourceDefinition certificates.cert-manager.io, version v1 (its deploy/crds/cert-manager.io_certificates.yaml): the fields of
# `spec` that are used here, with their types, and the values that `usages` may have.
FIELDS = {
    "secretName": str, "duration": str, "renewBefore": str, "revisionHistoryLimit": int, "privateKey": dict, "usages": list, "dnsNames": list,
    "issuerRef": dict,
}  # fmt: skip
USAGES = {
    "signing", "digital signature", "content commitment", "key encipherment", "key agreement", "data encipherment", "cert sign", "crl sign",
    "encipher only", "decipher only", "any", "server auth", "client auth", "code signing", "email protection", "s/mime", "ipsec end system",
    "ipsec tunnel", "ipsec user", "timestamping", "ocsp signing", "microsoft sgc", "netscape sgc",
}  # fmt: skip


def test_either_way_of_telling_a_tool_what_the_cluster_has_will_do() -> None:
    assert render(*ISSUER, apis=("cert-manager.io/v1",)) == render(*ISSUER, apis=API)


def test_without_an_issuer_there_is_none() -> None:
    assert not [name for name in render(apis=API) if name.startswith("Certificate/")]


def test_the_certificate_has_the_published_shape_and_the_names_that_the_operator_asks_for() -> None:
    found = render(*ISSUER, apis=API)
    made = found[f"Certificate/{NAME}"]
    assert made["apiVersion"] == "cert-manager.io/v1"
    spec = made["spec"]
    assert {name: type(value) for name, value in spec.items()} == FIELDS
    assert set(spec["usages"]) <= USAGES
    assert (spec["privateKey"]["algorithm"], spec["privateKey"]["size"], spec["privateKey"]["rotationPolicy"]) == (
        "ECDSA",
        256,
        "Always",
    )
    assert spec["issuerRef"] == {"name": "our-ca", "kind": "ClusterIssuer"}
    hours = [int(re.fullmatch(r"(\d+)h0m0s", spec[name])[1]) for name in ("renewBefore", "duration")]  # type: ignore[index]
    assert 5 / 60 <= hours[0] < hours[1], "cert-manager refuses others"
    settings = OperatorSettings.model_validate(
        json.loads(found[f"ConfigMap/{RELEASE}-daemoneye-operator"]["data"]["operator.json"])
    )
    assert settings.nats.certificate_secret_ref is not None
    assert settings.nats.certificate_secret_ref.name == spec["secretName"] == NAME
    assert spec["dnsNames"] == brokersecrets.server_names(settings)


def test_the_operator_may_read_what_cert_manager_keeps_and_not_write_it() -> None:
    rules = render(*ISSUER, apis=API)[f"Role/{RELEASE}-daemoneye-operator"]["rules"]
    mine = [rule for rule in rules if NAME in rule.get("resourceNames", ())]
    assert [(rule["resources"], rule["verbs"]) for rule in mine] == [(["secrets"], ["get"])]
    plain = render()[f"Role/{RELEASE}-daemoneye-operator"]["rules"]
    assert not [rule for rule in plain if NAME in rule.get("resourceNames", ())]


@pytest.mark.parametrize(
    ("sets", "apis", "words"),
    [
        (ISSUER, (), "this cluster has no cert-manager.io/v1 Certificate: install cert-manager first"),
        (ISSUER[1:], API, "nats.issuerRef has no name"),
        (("nats.issuerRef.nam=x",), API, "nam"),
        ((*ISSUER, *EXTERNAL), API, "a broker of your own has a certificate of your own"),
    ],
    ids=["no cert-manager", "no name", "a slip", "external"],
)  # fmt: skip
def test_what_cannot_be_is_refused(sets: tuple[str, ...], apis: tuple[str, ...], words: str) -> None:
    with pytest.raises(RefusedError, match=words):
        render(*sets, apis=apis)


def test_objects_live_where_the_release_does() -> None:
    assert render(*ISSUER, apis=API)[f"Certificate/{NAME}"]["metadata"].get("namespace", NAMESPACE) == NAMESPACE
