"""Findings, events and losses as text for people.

Responsible for wording and for escaping: every string that comes from a process passes :func:`daemoneye.escape.escape`
here, so that no view can forget it. Not for colours or layout.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from daemoneye.escape import command_line, escape

TRIGGER: Final = "cp /bin/true /tmp/eye; (rm /tmp/eye; /proc/self/fd/3) 3< /tmp/eye"
"""Harmless, and deserves a finding: a program whose file is deleted already is executed. Fits into 80 columns."""

_ARGV_SHOWN: Final = 200
_SHOWN: Final = {
    "socket_open": ("direction",),
    "socket_close": ("direction", "ending"),
    "packet_flow": ("service", "state"),
    "dns_query": ("query", "type", "rcode"),
    "tls_client_hello": ("sni", "version", "ja4", "server_version", "certificate_subject"),
    "http_request": ("method", "host", "uri", "status", "user_agent"),
    "quic_initial": ("sni", "version", "ja4"),
    "packet_anomaly": ("reason", "expected", "layers", "summary"),
}
"""What a line says of an event of the network, beside its endpoints."""


def severity(finding: Mapping[str, Any]) -> str:
    """Give a finding's severity, escaped."""
    return plain(finding.get("severity")) or "informational"


def plain(value: object) -> str:
    """Give any JSON value as safe text; nothing for None."""
    return "" if value is None else escape(str(value))


def shorten(text: str, width: int) -> str:
    """Cut text to ``width`` characters, the last of them an ellipsis."""
    return text if len(text) <= width else f"{text[: max(0, width - 1)]}…"


def clock_time(value: object) -> str:
    """Give the hours, minutes and seconds of an RFC 3339 time."""
    text = plain(value)
    return text[11:19] if len(text) >= 19 else text


def subject(finding: Mapping[str, Any]) -> str:
    """Say whom a finding is about: the workload, and the process if there is one."""
    about = finding.get("subject")
    if not isinstance(about, Mapping):
        return plain(about)
    who = plain(about.get("workload") or about.get("cgroup") or about.get("node"))
    process = plain(about.get("exe"))
    if about.get("pid"):
        process = f"{process} (pid {plain(about['pid'])})".lstrip()
    elif not process and about.get("src_ip"):
        process = f"{_endpoint(about, 'src')} → {_endpoint(about, 'dst')} {plain(about.get('proto'))}"
    return ": ".join(part for part in (who, process) if part)


def headline(finding: Mapping[str, Any]) -> str:
    """Give a finding in one line without its time: severity, title, subject, techniques."""
    techniques = ", ".join(plain(_technique(entry)) for entry in _list(finding.get("techniques")))
    parts = (f"{severity(finding).upper()} {plain(finding.get('title'))}", subject(finding), techniques)
    return " · ".join(part for part in parts if part)


def explanation(finding: Mapping[str, Any]) -> list[str]:
    """Give the sentences that explain a finding."""
    return [plain(sentence) for sentence in _list(finding.get("explanation"))]


def process(entry: Mapping[str, Any]) -> str:
    """Give one process of a tree: its id and its command line, or its executable where that is not known."""
    argv = [str(part) for part in _list(entry.get("argv"))]
    text = command_line(argv) if argv else plain(entry.get("exe")) or "?"
    exe = plain(entry.get("exe"))
    name = exe.rpartition("/")[2]
    hidden = bool(exe) and bool(argv) and plain(argv[0]).rpartition("/")[2].lstrip("-") != name
    return shorten(f"{plain(entry.get('pid'))} {f'[{exe}] ' if hidden else ''}{text}".strip(), _ARGV_SHOWN)


def process_tree(finding: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Give the processes from the root to the finding's subject."""
    return [entry for entry in _list(finding.get("process_tree")) if isinstance(entry, Mapping)]


def event(content: Mapping[str, Any]) -> str:
    """Give an event in one line."""
    name = plain(content.get("event"))
    if "community_id" in content:
        return conversation(name, content)
    line = f"{plain(content.get('time'))} {name} {process(content)}"
    parent = content.get("parent")
    details = []
    if name == "process_exit":
        details.append(f"exit {plain(content.get('exit_code'))} signal {plain(content.get('exit_signal', 0))}")
    elif name == "process_signal":
        details.append(f"signal {plain(content.get('signal'))} to {plain(content.get('target_pid'))}")
    if isinstance(parent, Mapping) and parent.get("pid"):
        details.append(f"parent {plain(parent.get('pid'))} {plain(parent.get('exe'))}".rstrip())
    details += [f"uid {plain(content['uid'])}"] if "uid" in content else []
    details += [plain(content["workload"])] if content.get("workload") else []
    return " · ".join([line, *details])


def conversation(name: str, content: Mapping[str, Any]) -> str:
    """Give an event of the network in one line."""
    ends = " → ".join(_endpoint(content, side) for side in ("src", "dst"))
    words = [" ".join(f"{key} {plain(content[key])}" for key in _SHOWN.get(name, ()) if content.get(key))]
    words += [
        f"{plain(content.get(f'src_{what}'))}/{plain(content.get(f'dst_{what}'))} {what}"
        for what in ("packets", "bytes")
        if f"src_{what}" in content
    ]
    if content.get("answers"):
        words.append(shorten(", ".join(plain(answer) for answer in _list(content["answers"])), _ARGV_SHOWN))
    peer = content.get("peer")
    # Sockets say themselves which side they are; of packets, whoever is spoken to comes behind a `to`.
    spoken_to = content.get("direction") == "inbound" and not name.startswith("socket_")
    words += [f"{'to ' if spoken_to else ''}{_whose(content)}"] if content.get("pid") else []
    words += [f"to {_whose(peer)}"] if isinstance(peer, Mapping) and peer.get("pid") else []
    return " · ".join(
        part for part in (f"{plain(content.get('time'))} {name} {plain(content.get('proto'))} {ends}", *words) if part
    )


def _whose(entry: Mapping[str, Any]) -> str:
    """A process, and its pod where it has one."""
    pod = f" in {plain(entry.get('namespace'))}/{plain(entry['pod'])}" if entry.get("pod") else ""
    return f"{process(entry)}{pod}"


def _endpoint(content: Mapping[str, Any], side: str) -> str:
    address = plain(content.get(f"{side}_ip"))
    return f"{f'[{address}]' if ':' in address else address}:{plain(content.get(f'{side}_port'))}"


def loss(content: Mapping[str, Any]) -> str:
    """Give a loss in one line."""
    where = " ".join(part for part in (plain(content.get("lane")), plain(content.get("ring"))) if part)
    reason = f": {plain(content['reason'])}" if content.get("reason") else ""
    return f"LOST {plain(content.get('count'))} at stage {plain(content.get('stage'))} ({where}){reason}"


def counts(values: Mapping[str, int], nothing: str) -> str:
    """Give named counts in one line, or ``nothing``."""
    return ", ".join(f"{plain(name)} {count:,}" for name, count in values.items() if count) or nothing


def workloads(phases: Mapping[str, int]) -> str:
    """Give the behavioural analyser's workloads by phase: `12 workloads: Learning 2, Active 10`."""
    total = sum(phases.values())
    return f"{total:,} workload{'' if total == 1 else 's'}: {counts(phases, 'none')}"


def _list(value: object) -> Iterable[Any]:
    return value if isinstance(value, list | tuple) else () if value is None else (value,)


def _technique(entry: object) -> object:
    return entry.get("id", "") if isinstance(entry, Mapping) else entry
