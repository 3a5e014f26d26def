"""``kubectl daemoneye findings``: Finding objects in the form of one machine's findings."""

import asyncio
import json
import signal

import pytest

from daemoneye_cli.main import main
from tests.unit.cli.fakekubectl import finding, started

UNSAFE = ("\x1b", "\x07", "\x9b", "\r", "\u202e", "\u2028", "\x00")
HOSTILE = "\x1b[31m\x1b]0;owned\x07\x9b2J\r\n\u202e\u2028\x00"


def lines(capfd) -> list[dict]:
    return [json.loads(line) for line in capfd.readouterr().out.splitlines()]


def test_a_finding_in_lines(installed, capfd):
    assert main(["-k", "findings"]) == 0
    assert capfd.readouterr().out.splitlines() == [
        "2026-01-02T03:04:05Z HIGH A program that lies in memory was executed · shop/till-1/main: /memfd:x (pid 7) · T1620",
        "    It has no file.",
        "    └ 1 init",
        "    finding shop/fileless-1 · seen 3 times since 2026-01-01T00:00:00Z · node node-1 · policies everything",
    ]


def test_a_finding_for_programs_has_the_keys_of_one_machine(installed, capfd):
    assert main(["-k", "findings", "-o", "json"]) == 0
    (found,) = lines(capfd)
    assert found["kind"] == "finding"
    assert (found["id"], found["time"], found["count"]) == ("ab" * 16, "2026-01-02T03:04:05Z", 3)
    assert found["subject"]["pod_uid"] == "u-1"
    assert found["subject"]["labels"] == {"tierName": "web"}
    assert found["process_tree"] == [{"pid": 1, "exe": "/sbin/init", "argv": ["init"]}]


def test_the_newest_is_last_and_the_oldest_are_left_out_with_a_word(installed, capfd):
    many = [finding(f"f-{day:02}", seen=f"2026-01-{day:02}T00:00:00Z") for day in range(30, 0, -1)]
    installed.lists("get findings.daemoneye.io*", *many)
    assert main(["-k", "findings", "--last", "2", "-o", "json"]) == 0
    said = capfd.readouterr()
    assert [json.loads(line)["name"] for line in said.out.splitlines()] == ["f-29", "f-30"]
    assert "28 older findings are not shown: --last 30 shows all" in said.err
    assert main(["-k", "findings", "--last", "0"]) == 0
    assert capfd.readouterr().out == ""


def test_choosing_by_severity_time_and_namespace(installed, capfd):
    installed.lists(
        "get findings.daemoneye.io*", finding("low", severity="low"), finding("critical", severity="critical"),
        finding("old", seen="2020-01-01T00:00:00Z"), finding("odd", seen="never"),
    )  # fmt: skip
    chosen = ["--severity", "high", "--since", "2025-06-01T00:00:00Z", "--in", "shop", "-o", "json"]
    assert main(["-k", "findings", *chosen]) == 0
    assert [line["name"] for line in lines(capfd)] == ["critical"]
    assert installed.calls[-1][2:6] == ["get", "findings.daemoneye.io", "--namespace", "shop"]
    assert main(["-k", "findings", "--since", "1h"]) == 0
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("when", ["yesterday", "1y", "99999999h", "-1h", "999999w"])
def test_a_time_that_is_none(installed, when, capfd):
    assert main(["-k", "findings", f"--since={when}"]) == 2
    assert when in capfd.readouterr().err


@pytest.mark.parametrize("output", ["plain", "json"])
def test_hostile_text_is_harmless(installed, output, capfd):
    subject = dict.fromkeys(("node", "namespace", "pod", "container", "workload", "exe"), HOSTILE)
    hostile = finding(
        "x", title=HOSTILE, explanation=[HOSTILE], severity=HOSTILE, techniques=[{"id": HOSTILE}], policies=[HOSTILE],
        subject={**subject, "pid": HOSTILE, "argv": [HOSTILE]}, processTree=[{"pid": 1, "exe": HOSTILE, "argv": [HOSTILE]}],
    )  # fmt: skip
    hostile["metadata"]["namespace"] = HOSTILE
    installed.lists("get findings.daemoneye.io*", hostile, {}, {"metadata": None, "spec": 3, "status": []})
    assert main(["-k", "findings", "-o", output]) == 0
    shown = capfd.readouterr().out
    assert not [character for character in UNSAFE if character in shown]
    assert "[31m" in shown


def test_without_crds(kubectl, capfd):
    kubectl.fails("get findings*", 'error: the server doesn\'t have a resource type "findings"')
    assert main(["-k", "findings"]) == 3
    assert "install DaemonEye's CRDs" in capfd.readouterr().err


def test_an_older_finding_needs_no_installation(kubectl, capfd):
    """Findings outlive the release: reading them asks for nothing else."""
    kubectl.lists("get findings*", finding("a"))
    assert main(["-k", "findings"]) == 0
    assert "finding shop/a" in capfd.readouterr().out


def event(change: str, *arguments, **spec) -> str:
    return json.dumps({"type": change, "object": finding(*arguments, **spec)}) + "\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_following_shows_what_is_new_once_and_ends_with_its_kubectl(installed, number):
    pretty = json.dumps({"type": "MODIFIED", "object": finding("pretty", count=1)}, indent=4) + "\n"
    watched = event("ADDED", "fileless-1") + event("ADDED", "new", count=0) + event("MODIFIED", "new", count=1)
    watched += event("MODIFIED", "new", count=1) + pretty + event("MODIFIED", "fileless-1", count=4)
    installed.gives("--watch*", stdout=watched, stays=True)
    async with started("findings", "-f", "-o", "json") as (process, out, _):
        shown = [json.loads(await out.readline()) for _ in range(4)]
        process.send_signal(number)
        assert await process.wait() == 0
    assert [(line["name"], line["count"]) for line in shown] == [
        ("fileless-1", 3),
        ("new", 1),
        ("pretty", 1),
        ("fileless-1", 4),
    ]
    assert not installed.running()


async def test_following_outlives_an_api_server_that_goes_away(installed):
    installed.fails(
        "--watch*", "The connection to the server 10.0.0.1:6443 was refused - did you specify the right host or port?"
    )
    async with started("findings", "-f", "-o", "json") as (process, out, err):
        assert b"fileless-1" in await out.readline()
        assert b"was refused" in await err.readline()
        installed.gives("--watch*", stdout=event("ADDED", "back", count=1), stays=True)
        assert b"back" in await out.readline()
        process.kill()
        await process.wait()
        # Killed: the kernel ends what it started.
        while installed.running():
            await asyncio.sleep(0.05)
