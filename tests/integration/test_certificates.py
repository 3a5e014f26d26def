"""Certificates of the broker that are renewed, expired or not yet valid: sensors keep what they see, and each batch takes its place once."""

from __future__ import annotations

import asyncio
import datetime as dt

import pytest
from cryptography import x509

from daemoneye_operator import pki
from daemoneye_operator.brokerconf import server_name
from daemoneye_operator.brokersecrets import ca_name, desired
from tests.support.broker import until
from tests.support.sensors import Place, put

pytestmark = pytest.mark.integration
NOW = dt.datetime.now(dt.UTC)


def renewed(place: Place, *without: str) -> dict[str, dict[str, bytes]]:
    """The Secrets as the operator makes them when these are missing."""
    present = {name: data for name, data in place.broker.secrets.secrets.items() if name not in without}
    plan = desired(place.broker.settings, present, NOW)
    return plan.secrets


def written(place: Place, secrets: dict[str, dict[str, bytes]]) -> None:
    """What the kubelet does with changed Secrets."""
    for name, data in secrets.items():
        for key, value in data.items():
            (place.broker.directory / name / key).write_bytes(value)


async def restarted(place: Place) -> None:
    """What the StatefulSet does with a changed annotation."""
    place.broker.stop()
    place.broker.start()
    await place.broker.ready()


@pytest.mark.parametrize("authority", [False, True], ids=["certificate", "authority"])
async def test_renewed_under_publishing_nothing_is_lost(place: Place, authority: bool):
    before = place.broker.secrets.secrets
    name = server_name(place.broker.settings)
    lost = (name, ca_name(place.broker.settings)) if authority else (name,)
    count = 0
    async with place.publishing(place.access()) as (spool, publisher):

        async def produce() -> None:
            nonlocal count
            while True:
                count += 1
                put(spool, publisher, count)
                await asyncio.sleep(0.005)

        producing = asyncio.create_task(produce())
        await until("published", lambda: publisher.stats.published > 20)
        secrets = renewed(place, *lost)
        assert secrets[name]["tls.crt"] != before[name]["tls.crt"]
        assert (secrets[name]["ca.crt"] != before[name]["ca.crt"]) is authority
        if authority:
            # Mounted files do not change everywhere at the same moment: the server is ahead of its clients.
            written(place, {name: secrets[name]})
            await restarted(place)
            await until("the sensor says why", lambda: "certificate verify failed" in publisher.last_error)
            unsent = spool.entries_unsent
            await until("the spool grows", lambda: spool.entries_unsent > unsent + 20)
            written(place, secrets)
        else:
            written(place, secrets)
            await restarted(place)
        published = publisher.stats.published
        await until("published again", lambda: publisher.stats.published > published + 20)
        producing.cancel()
        await asyncio.gather(producing, return_exceptions=True)
        assert await publisher.drain(120)
    assert await place.stored() == list(range(1, count + 1))


@pytest.mark.parametrize(
    ("issued", "words"),
    [(NOW - dt.timedelta(days=500), "certificate has expired"), (NOW + dt.timedelta(days=30), "certificate is not yet valid")],
    ids=["expired", "not yet valid"],
)  # fmt: skip
async def test_a_certificate_of_another_time_is_said_and_the_spool_carries(
    place: Place, issued: dt.datetime, words: str
):
    good = place.broker.secrets.secrets
    name, authority = server_name(place.broker.settings), good[ca_name(place.broker.settings)]
    certificate = x509.load_pem_x509_certificate(good[name]["tls.crt"])
    found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    alternatives = found.get_values_for_type(x509.DNSName)
    issuer = pki.Pair(authority["ca.crt"], authority["ca.key"])
    bad = pki.server(None, issuer, alternatives, issued)
    written(place, {name: {"tls.crt": bad.certificate, "tls.key": bad.key}})
    await restarted(place)
    async with place.publishing(place.access()) as (spool, publisher):
        put(spool, publisher, 1, 2, 3)
        await until("the sensor says why", lambda: words in publisher.last_error)
        assert not publisher.connected
        assert spool.entries_unsent == 3
        written(place, good)
        await restarted(place)
        assert await publisher.drain(120)
    assert await place.stored() == [1, 2, 3]
