"""The broker's certificate from cert-manager: taken, followed, and what is wrong with it is said while the former goes on."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping

import pytest
from cryptography import x509

from daemoneye.errors import ConfigError
from daemoneye_operator import pki, secretstore
from daemoneye_operator.brokersecrets import BrokerSecrets, desired, sources
from daemoneye_operator.settings import OperatorSettings
from tests.support.issuing import CLIENT, LIFE, NAMES, SECRET, SERVER, Issuer
from tests.unit.operator.factory import SETTINGS

NOW = dt.datetime(2026, 11, 27, 12, 0, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)
FIRST, SECOND = Issuer("first", NOW), Issuer("second", NOW)
OF = OperatorSettings.model_validate(
    {
        **SETTINGS,
        "namespace": "security",
        "fullname": "daemoneye",
        "nats": {**SETTINGS["nats"], "certificateSecretRef": {"name": SECRET}},
    }
)
THREE = OF.model_copy(update={"nats": OF.nats.model_copy(update={"replicas": 3})})
OWN = OF.model_copy(update={"nats": OF.nats.model_copy(update={"certificate_secret_ref": None})})


def plan(
    issued: Mapping[str, bytes] | None, before: BrokerSecrets | None = None, now: dt.datetime = NOW
) -> BrokerSecrets:
    return desired(OF, {**(before.secrets if before else {}), SECRET: issued}, now)


def authorities(made: BrokerSecrets) -> list[str]:
    texts = {data["ca.crt"] for data in made.secrets.values() if "ca.crt" in data}
    assert len(texts) == 1, "everybody trusts the same"
    return [one.subject.rfc4514_string() for one in x509.load_pem_x509_certificates(texts.pop())]


def test_what_cert_manager_keeps_is_what_the_broker_shows_and_clients_trust() -> None:
    issued = FIRST.secret(NOW)
    made = plan(issued)
    server = made.secrets["daemoneye-nats"]
    assert (server["tls.crt"], server["tls.key"]) == (issued["tls.crt"], issued["tls.key"])
    assert authorities(made) == ["CN=first"]
    assert set(made.secrets["daemoneye-ca"]) == {"ca.crt"}, "there is no key of an authority"
    assert SECRET not in made.secrets, "it is cert-manager's to write"
    assert SECRET in sources(OF)
    assert made.trouble == ""
    assert plan(issued, made) == made, "a second pass changes nothing"


def test_a_renewed_certificate_restarts_the_server_and_changes_nobody_else() -> None:
    made = plan(FIRST.secret(NOW))
    later = plan(FIRST.secret(NOW + 60 * DAY), made, NOW + 60 * DAY)
    assert later.restart
    assert {name for name in made.secrets if made.secrets[name] != later.secrets[name]} == {"daemoneye-nats"}


def test_another_authority_is_trusted_beside_the_former_for_a_day() -> None:
    made = plan(FIRST.secret(NOW))
    issued = SECOND.secret(NOW + DAY)
    later = plan(issued, made, NOW + DAY)
    assert authorities(later) == ["CN=second", "CN=first"]
    assert later.restart
    again = plan(issued, later, NOW + DAY + pki.OVERLAP - dt.timedelta(seconds=1))
    assert again == BrokerSecrets(later.secrets, digest=later.digest)
    after = plan(issued, later, NOW + DAY + pki.OVERLAP)
    assert authorities(after) == ["CN=second"]
    assert not after.restart, "a server alone asks nobody for a certificate"
    assert desired(
        THREE, {**desired(THREE, {**later.secrets, SECRET: issued}, NOW + DAY).secrets, SECRET: issued}, NOW + 3 * DAY
    ).restart
    old = Issuer("old", NOW - 3649 * DAY - dt.timedelta(hours=12))
    later = plan(SECOND.secret(NOW), plan(old.secret(NOW)), NOW)
    assert authorities(later) == ["CN=second", "CN=old"]
    ended = plan(SECOND.secret(NOW), later, NOW + dt.timedelta(hours=13))
    assert authorities(ended) == ["CN=second"]


def test_what_lies_between_a_certificate_and_the_authority_comes_in_tls_crt() -> None:
    made = plan(Issuer("below", NOW, above=FIRST).secret(NOW))
    assert made.trouble == ""
    assert authorities(made) == ["CN=first"]


def test_a_certificate_that_is_its_own_authority_is_taken() -> None:
    """As the issuer SelfSigned makes it: whoever wants that may have it."""
    own = Issuer("own", NOW)
    leaf = own.secret(NOW)
    alone = {**leaf, "ca.crt": leaf["tls.crt"]}
    assert plan(alone).secrets["daemoneye-broker-cli"]["ca.crt"] == leaf["tls.crt"]


def test_the_end_of_the_authority_is_that_of_the_certificates_own() -> None:
    """A former one, or another in ca.crt, may end without harm."""
    ending = Issuer("ending", NOW - 3640 * DAY)
    later = plan(SECOND.secret(NOW), plan(ending.secret(NOW)), NOW)
    assert authorities(later) == ["CN=second", "CN=ending"]
    assert secretstore._expires(OF, later.secrets, NOW) == {
        "ca": (NOW + 3650 * DAY).timestamp(), "server": (NOW + LIFE).timestamp(),
    }  # fmt: skip


def test_a_server_alone_needs_no_usage_of_a_client_and_several_do() -> None:
    issued = FIRST.secret(NOW, uses=(SERVER,))
    assert plan(issued).trouble == ""
    with pytest.raises(ConfigError, match="lacks the usage client auth"):
        desired(THREE, {SECRET: issued}, NOW)
    assert desired(THREE, {SECRET: FIRST.secret(NOW)}, NOW).trouble == ""


def test_from_the_operators_own_authority_to_cert_manager_and_back() -> None:
    own = desired(OWN, {}, NOW)
    made = plan(FIRST.secret(NOW), own)
    assert authorities(made) == ["CN=first", "CN=daemoneye broker CA"]
    assert made.restart
    back = desired(OWN, made.secrets, NOW)
    assert authorities(back) == ["CN=daemoneye broker CA"]
    assert set(back.secrets["daemoneye-ca"]) == {"ca.crt", "ca.key"}


GOOD = FIRST.secret(NOW)
WRONG: dict[str, tuple[Mapping[str, bytes] | None, str]] = {
    "absent": (None, "does not exist: cert-manager has not issued the certificate; `kubectl describe certificate -n security daemoneye-nats-tls`"),
    "no authority": ({**GOOD, "ca.crt": b""}, "has no key ca.crt: use an issuer that tells its authority"),
    "no key": ({**GOOD, "tls.key": b""}, "has no tls.crt or no tls.key"),
    "junk": ({**GOOD, "tls.crt": b"junk"}, "cannot be read"),
    "another's key": ({**GOOD, "tls.key": SECOND.secret(NOW)["tls.key"]}, "tls.key is not the key of tls.crt"),
    "a name too few": (FIRST.secret(NOW, NAMES[:-1]), "tls.crt lacks the name localhost"),
    "two names too few": (FIRST.secret(NOW, NAMES[2:]), "tls.crt lacks the names daemoneye-nats, daemoneye-nats.security;"),
    "no server's": (FIRST.secret(NOW, uses=(CLIENT,)), "lacks the usage server auth"),
    "ended": (FIRST.secret(NOW - 400 * DAY), "tls.crt ended at 2026-01-21T12:00:00Z"),
    "not begun": (FIRST.secret(NOW + DAY), "tls.crt begins at 2026-11-28T12:00:00Z"),
    "of another authority": ({**GOOD, "ca.crt": SECOND.certificate}, "no authority of ca.crt that is valid now issued tls.crt"),
    "by way of another authority": (
        {**Issuer("below", NOW, above=FIRST).secret(NOW), "ca.crt": SECOND.certificate}, "no authority of ca.crt that is valid now issued tls.crt",
    ),
    "of an authority that ended": (Issuer("old", NOW - 9 * DAY, 8 * DAY).secret(NOW), "no authority of ca.crt that is valid now issued tls.crt"),
    "of no authority": (
        {**GOOD, "ca.crt": FIRST.secret(NOW)["tls.crt"]}, "no authority of ca.crt that is valid now issued tls.crt",
    ),
}  # fmt: skip


@pytest.mark.parametrize("issued", [w[0] for w in WRONG.values()], ids=list(WRONG))
def test_with_a_former_certificate_a_wrong_one_is_said_and_the_former_goes_on(
    issued: Mapping[str, bytes] | None,
) -> None:
    made = plan(GOOD)
    later = plan(issued, made)
    assert later.secrets == made.secrets
    assert not later.restart
    words = next(w for i, w in WRONG.values() if i is issued)
    assert words in later.trouble
    assert later.trouble.startswith("nats.issuerRef: Secret security/daemoneye-nats-tls")
    assert later.trouble.endswith("the former certificate goes on")


@pytest.mark.parametrize(("issued", "words"), list(WRONG.values()), ids=list(WRONG))
def test_without_one_it_is_the_reason_why_nothing_starts(issued: Mapping[str, bytes] | None, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        plan(issued)
    assert words in str(caught.value)


def test_a_former_certificate_that_ended_does_not_hide_what_is_wrong() -> None:
    made = plan(GOOD)
    with pytest.raises(ConfigError, match="does not exist"):
        plan(None, made, NOW + 400 * DAY)
