"""DNS: every question and answer against tshark, and the answers once more against what dig itself read."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

import pytest

from tests.accuracy.tshark import epoch, trees

SPELT = {"*": "ANY", "Unknown": ""}
"""Names of types that tshark has other ones for; of a type that it does not know there is the number."""
RCODES = {0: "NOERROR", 2: "SERVFAIL", 3: "NXDOMAIN", 4: "NOTIMP", 5: "REFUSED", 16: "BADVERS"}


def shown(element: Element, name: str) -> str | None:
    found = element.find(f".//field[@name='{name}']")
    return None if found is None else found.get("show")


def number(element: Element, name: str) -> int:
    return int(shown(element, name) or "0", 0)


def type_name(element: Element, name: str) -> str:
    """As tshark shows it: "Type: MX (Mail eXchange) (15)"."""
    found = element.find(f".//field[@name='{name}']")
    match = re.match(r"Type: (\S+) .*\((\d+)\)$", found.get("showname", "")) if found is not None else None
    assert match, found
    return SPELT.get(match[1], match[1]) or f"TYPE{match[2]}"


def unescaped(name: str) -> str:
    r"""A name without the escapes of zone files (\. and \DDD): tshark shows what is in a label as it is."""
    return re.sub(r"\\(\d{3}|.)", lambda found: chr(int(found[1])) if len(found[1]) == 3 else found[1], name)


def quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def answer_text(answer: Element) -> str:
    """The data of an answer out of tshark's fields; of types that it shows as others do not, its bytes (RFC 3597)."""

    def name(field: str) -> str:
        return shown(answer, field) or ""

    kind = type_name(answer, "dns.resp.type")
    match kind:
        case "A" | "AAAA" | "CNAME" | "NS":
            return name(f"dns.{kind.lower()}")
        case "PTR":
            return name("dns.ptr.domain_name")
        case "MX":
            return f"{name('dns.mx.preference')} {name('dns.mx.mail_exchange')}"
        case "SRV":
            return " ".join(name(f"dns.srv.{part}") for part in ("priority", "weight", "port", "target"))
        case "TXT":
            return " ".join(
                quoted(field.get("show", "")) for field in answer.iter("field") if field.get("name") == "dns.txt"
            )
        case "CAA":
            return f"{number(answer, 'dns.caa.flags')} {name('dns.caa.tag')} {quoted(name('dns.caa.value'))}"
        case "SOA":
            numbers = ("serial_number", "refresh_interval", "retry_interval", "expire_limit", "minimum_ttl")
            return " ".join(name(f"dns.soa.{part}") for part in ("mname", "rname", *numbers))
        case "HTTPS":
            target = name("dns.svcb.targetname").replace("<Root>", ".")
            return " ".join(
                [
                    name("dns.svcb.svcpriority"),
                    target,
                    *map(parameter, answer.iterfind("field[@name='dns.svcb.svcparam']")),
                ]
            )
    length = number(answer, "dns.resp.len")
    return f"\\# {length} {answer.get('value', '')[-2 * length :]}"


def parameter(field: Element) -> str:
    """A service's parameter as tshark sums it up, "SvcParam: alpn=h2,h3"; ours has ids of protocols in quotes, as dig has."""
    text = field.get("showname", "").removeprefix("SvcParam: ")
    return f'alpn="{text.removeprefix("alpn=")}"' if text.startswith("alpn=") else text


def messages(wire: Path) -> Iterator[dict[str, Any]]:
    """Every DNS message as tshark reads it."""
    for packet in trees(wire, "dns"):
        src = shown(packet, "ip.src") or shown(packet, "ipv6.src")
        dst = shown(packet, "ip.dst") or shown(packet, "ipv6.dst")
        proto = "udp" if packet.find("proto[@name='udp']") is not None else "tcp"
        ports = number(packet, f"{proto}.srcport"), number(packet, f"{proto}.dstport")
        for message in packet.findall("proto[@name='dns']"):
            response = number(message, "dns.flags.response") == 1
            asked = message.find("field[@show='Queries']/field")
            assert asked is not None
            answers = [a for a in message.findall("field[@show='Answers']/field") if a.get("name") != "dns.resp.ext"]
            extended = number(message, "dns.resp.ext_rcode")
            name = shown(asked, "dns.qry.name") or ""
            yield {
                "client": (dst, ports[1]) if response else (src, ports[0]),
                "proto": proto,
                "response": response,
                "time": epoch(shown(packet, "frame.time_epoch") or ""),
                "id": number(message, "dns.id"),
                "query": "." if name == "<Root>" else name,
                "type": type_name(asked, "dns.qry.type"),
                "rcode": RCODES[number(message, "dns.flags.rcode") | extended << 4],
                "truncated": shown(message, "dns.flags.truncated") in {"1", "True"},
                "answers": [answer_text(a) for a in answers],
                "ttls": [number(a, "dns.resp.ttl") for a in answers],
                "answer_count": number(message, "dns.count.answers"),
                "bytes": int(message.get("size", "0")) - (2 if proto == "tcp" else 0),
            }


@pytest.fixture(scope="module")
def read(wire: Path) -> list[dict[str, Any]]:
    return list(messages(wire))


def key(client: tuple[str, int], proto: str, transaction: int, query: str, kind: str) -> tuple[Any, ...]:
    return client, proto, transaction, query.lower(), kind


def test_every_question_and_its_answer(ours: dict[str, list[dict[str, Any]]], read: list[dict[str, Any]]) -> None:
    asked: dict[tuple[Any, ...], dict[str, Any]] = {}
    answered: dict[tuple[Any, ...], dict[str, Any]] = {}
    for message in read:
        place = key(message["client"], message["proto"], message["id"], message["query"], message["type"])
        (answered if message["response"] else asked).setdefault(place, message)
    events = {
        key((e["src_ip"], e["src_port"]), e["proto"], e["transaction"], unescaped(e["query"]), e["type"]): e for e in ours["dns_query"]
    }  # fmt: skip
    assert len(events) == len(ours["dns_query"]) > 40
    assert set(events) == set(asked)
    for place, event in events.items():
        question, answer = asked[place], answered.get(place)
        assert event["time"] == question["time"], place
        if answer is None:
            assert "response_unseen" in event["flags"], place
            continue
        # The name as the answer spells it: tshark's and ours of the same message.
        told = {name: event[name] for name in ("type", "rcode", "answers", "ttls", "answer_count")}
        told["query"] = unescaped(event["query"])
        expected = {name: answer[name] for name in told}
        if (
            "partial" in event["flags"]
        ):  # tshark puts fragments together, ours does not: the answers of the first one are told
            assert answer["bytes"] > 1500
            for name in ("answers", "ttls"):
                assert told[name]
                expected[name] = expected[name][: len(told[name])]
        else:
            assert event["message_bytes"] == answer["bytes"], place
            assert event["latency"] == answer["time"] - question["time"], place
        assert told == expected, place
        assert ("truncated" in event["flags"]) == answer["truncated"], place


def test_the_capture_has_what_it_is_for(read: list[dict[str, Any]]) -> None:
    assert {m["rcode"] for m in read} >= {"NOERROR", "NXDOMAIN", "REFUSED", "NOTIMP"}
    assert {m["type"] for m in read} >= {
        "A",
        "AAAA",
        "MX",
        "TXT",
        "SRV",
        "CAA",
        "PTR",
        "SOA",
        "NS",
        "HTTPS",
        "TYPE65280",
    }
    assert {m["proto"] for m in read} == {"udp", "tcp"}
    assert any(m["truncated"] for m in read)
    assert any(m["bytes"] > 1500 and m["proto"] == "udp" for m in read)  # in fragments
    assert any(":" in m["client"][0] for m in read)


def plain(data: str) -> str:
    """An answer as dig writes it, its names without the dot at the end."""
    words = shlex.split(data, posix=False) if '"' not in data else [data]
    return " ".join(word.removesuffix(".") if len(word) > 1 else word for word in words)


def test_dig_read_the_same_answers(ours: dict[str, list[dict[str, Any]]], made: Path) -> None:
    compared = 0
    for section in (made / "dig.txt").read_text().split(";; ")[1:]:
        question, *answers = section.splitlines()
        rows = [re.split(r"\s+", line, maxsplit=4) for line in answers]
        if not rows or "keepopen" in question:
            continue
        expected = [plain(row[4]) for row in rows], [int(row[1]) for row in rows]
        same = [
            e
            for e in ours["dns_query"]
            if e["query"].lower() in (question.lower(), rows[0][0].removesuffix(".").lower(), *question.lower().split())
        ]
        told = [(e["answers"], e["ttls"]) for e in same]
        if any(answer.startswith("\\# ") for answers, _ in told for answer in answers):
            continue  # of types that have no form of their own here the bytes are told, which tshark judges
        assert (expected[0], expected[1]) in told, question
        compared += 1
    assert compared > 20
