"""The broker's certificates: made, kept, renewed, and never trusted when they are not ours."""

from __future__ import annotations

import datetime as dt
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from daemoneye_operator import pki

NOW = dt.datetime(2026, 11, 27, 12, 0, tzinfo=dt.UTC)
NAMES = ("eye-nats", "eye-nats.security.svc", "*.eye-nats-headless.security.svc", "localhost")
CA = pki.authority(None, "eye", NOW)
SERVER = pki.server(None, CA, NAMES, NOW)
DAY = dt.timedelta(days=1)


def load(pair):
    return x509.load_pem_x509_certificate(pair.certificate)


def test_openssl_accepts_the_chain_for_both_ways_that_routes_use_it(tmp_path: Path):
    now = dt.datetime.now(dt.UTC)
    ca = pki.authority(None, "eye", now)
    server = pki.server(None, ca, NAMES, now)
    for name, data in (("ca.crt", ca.certificate), ("tls.crt", server.certificate)):
        (tmp_path / name).write_bytes(data)
    for purpose in ("sslserver", "sslclient"):
        done = subprocess.run(
            ["openssl", "verify", "-x509_strict", "-purpose", purpose, "-CAfile", "ca.crt", "tls.crt"],
            cwd=tmp_path, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr


def test_an_authority_of_ten_years_that_signs_servers_only():
    certificate = load(CA)
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    assert (constraints.value.ca, constraints.value.path_length) == (True, 0)
    assert certificate.not_valid_after_utc - NOW == pki.AUTHORITY_LIFE
    assert certificate.not_valid_before_utc == NOW - dt.timedelta(hours=1)


def test_a_server_has_its_names_and_a_year():
    certificate = load(SERVER)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == list(NAMES)
    assert certificate.not_valid_after_utc - NOW == pki.SERVER_LIFE
    assert certificate.not_valid_before_utc == NOW - dt.timedelta(hours=1)


def test_long_names_of_releases_fit():
    name = "x" * 40
    server = pki.server(None, pki.authority(None, name, NOW), [f"{name}-nats.{'n' * 63}.svc"], NOW)
    assert "n" * 63 in str(
        load(server)
        .extensions.get_extension_for_class(x509.SubjectAlternativeName)
        .value.get_values_for_type(x509.DNSName)
    )


@given(st.integers(min_value=0, max_value=366 * 24))
def test_a_server_is_renewed_in_the_last_third_of_its_life_and_not_before(hours: int):
    now = NOW + dt.timedelta(hours=hours)
    renewed = pki.server(SERVER, CA, NAMES, now)
    life = pki.SERVER_LIFE + pki.BACKDATED
    good = now < NOW + pki.SERVER_LIFE - life / 3
    assert (renewed == SERVER) == good
    assert load(renewed).not_valid_before_utc <= now < load(renewed).not_valid_after_utc - life / 4


@pytest.mark.parametrize(("years", "kept"), [(0, True), (6, True), (7, False), (11, False)])
def test_an_authority_is_renewed_in_the_last_third_of_its_life(years: int, kept: bool):
    assert (pki.authority(CA, "eye", NOW + years * 365 * DAY) == CA) is kept


def test_a_clock_that_was_ahead_leaves_no_certificate_that_is_not_valid_yet():
    before = NOW - 2 * DAY
    ca = pki.authority(CA, "eye", before)
    assert ca != CA
    assert load(ca).not_valid_before_utc < before


def test_a_server_does_not_outlive_its_authority():
    late = NOW + pki.AUTHORITY_LIFE - 30 * DAY
    assert load(pki.server(None, CA, NAMES, late)).not_valid_after_utc == load(CA).not_valid_after_utc


def test_what_another_authority_issued_or_another_name_is_for_is_replaced():
    other = pki.authority(None, "eye", NOW)
    assert pki.server(SERVER, other, NAMES, NOW) != SERVER
    assert pki.server(SERVER, CA, (*NAMES, "more"), NOW) != SERVER
    assert pki.server(SERVER, CA, NAMES, NOW) == SERVER


def test_a_server_is_no_authority_and_a_key_must_be_its_certificates():
    assert pki.authority(SERVER, "eye", NOW) != SERVER
    assert pki.authority(pki.Pair(CA.certificate, SERVER.key), "eye", NOW) != CA
    swapped = pki.Pair(SERVER.certificate, CA.key)
    assert pki.server(swapped, CA, NAMES, NOW) != swapped


@given(st.binary(max_size=200), st.integers(min_value=0), st.sampled_from(["certificate", "key"]))
def test_damage_is_never_an_error_and_never_kept(junk: bytes, place: int, part: str):
    for pair, again in (
        (CA, lambda stored: pki.authority(stored, "eye", NOW)),
        (SERVER, lambda stored: pki.server(stored, CA, NAMES, NOW)),
    ):
        data = getattr(pair, part)
        cut = place % (len(data) - 60)  # the last line and the end's own newline may be missing
        damaged = {"certificate": pair.certificate, "key": pair.key} | {part: data[:cut] + junk}
        made = again(pki.Pair(**damaged))
        assert made.certificate != damaged["certificate"] or made.key != damaged["key"]


def test_the_first_end_of_several_certificates_counts():
    assert pki.expiry(CA.certificate) == load(CA).not_valid_after_utc.timestamp()
    assert pki.expiry(CA.certificate + SERVER.certificate) == load(SERVER).not_valid_after_utc.timestamp()


@pytest.mark.parametrize("data", [b"", b"no certificate", CA.certificate[:200]])
def test_what_is_no_certificate_has_no_end(data):
    assert pki.expiry(data) is None
