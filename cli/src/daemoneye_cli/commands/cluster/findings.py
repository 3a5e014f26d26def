"""``kubectl daemoneye findings``: the cluster's Finding objects, the newest last.

Responsible for choosing and following them; their form is that of one machine's findings.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime as dt
from collections.abc import Callable, Iterable
from typing import Any, Final

from daemoneye.errors import ConfigError, DaemonEyeError
from daemoneye.subjects import SEVERITIES
from daemoneye_cli.commands.cluster.options import command, kubectl, moment, release
from daemoneye_cli.commands.options import Subparsers, add_output, add_range, add_suppressed, say
from daemoneye_cli.commands.waiting import until_signal
from daemoneye_cli.kube import Kubectl, Object
from daemoneye_cli.show.findingobject import as_finding, object_lines
from daemoneye_cli.show.jsonlines import json_line
from daemoneye_cli.show.writer import LineWriter
from daemoneye_cli.survey import FINDINGS

_RETRY_S: Final = 2.0
_REMEMBERED: Final = 50_000

Finding = dict[str, Any]


def add(commands: Subparsers) -> None:
    """Declare the command."""
    parser = command(commands, "findings", "Show the cluster's findings, the newest last.")
    add_range(parser)
    parser.add_argument("--in", metavar="NAMESPACE", dest="where", help="only of this namespace's pods (default: all)")
    parser.add_argument("--severity", choices=SEVERITIES, help="only of this severity or worse")
    parser.add_argument("--since", metavar="TIME", type=moment, help="only seen since: 30m, 2h, 7d, or RFC 3339")
    add_suppressed(parser)
    add_output(parser, "plain", "json", default="plain")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Show them."""
    kube = kubectl(options)
    if options.suppressed:
        return _suppressed(options, kube)
    keep = wanted(options.severity, options.since)
    render = json_line if options.output == "json" else object_lines
    found = newest_last(kube.items(FINDINGS, options.where), keep)
    shown = found[-options.last :] if options.last else []
    if len(shown) < len(found):
        say(f"{len(found) - len(shown)} older findings are not shown: --last {len(found)} shows all")
    text = "".join(map(render, shown))
    asyncio.run(_show(kube, options.where, text, found, keep, render, follow=options.follow))
    return 0


def _suppressed(options: argparse.Namespace, kube: Kubectl) -> int:
    # Half a second of imports that findings' objects do not need.
    from daemoneye_cli import tunnel
    from daemoneye_cli.commands import suppressed

    if options.follow or options.where or options.severity or options.since:
        raise ConfigError("--suppressed shows what analytics' status lists now: it goes with --last and -o alone")
    chosen = release(options, kube)
    interval = tunnel.status_interval(tunnel.settings(kube, chosen))
    return suppressed.show(options, tunnel.access(kube, chosen, on_trouble=say), interval=interval)


def wanted(severity: str | None, since: dt.datetime | None) -> Callable[[Finding], bool]:
    """Give the function that says whether a finding is asked for."""
    severities = SEVERITIES[SEVERITIES.index(severity) :] if severity else SEVERITIES

    def keep(finding: Finding) -> bool:
        if severity and finding["severity"] not in severities:
            return False
        return since is None or _time(finding) >= since

    return keep


def newest_last(objects: Iterable[Object], keep: Callable[[Finding], bool]) -> list[Finding]:
    """Give the findings that are asked for, in the order in which they were last seen."""
    return sorted(filter(keep, map(as_finding, objects)), key=lambda finding: (_time(finding), finding["name"]))


async def _show(
    kube: Kubectl,
    where: str | None,
    text: str,
    found: list[Finding],
    keep: Callable[[Finding], bool],
    render: Callable[[Finding], str],
    *,
    follow: bool,
) -> None:
    writer = LineWriter()

    async def work() -> None:
        await writer.write(text)
        if follow:
            await _follow(kube, where, writer, found, keep, render)

    async def end() -> None:
        writer.abandon()

    await until_signal(work(), end)


async def _follow(
    kube: Kubectl,
    where: str | None,
    writer: LineWriter,
    found: list[Finding],
    keep: Callable[[Finding], bool],
    render: Callable[[Finding], str],
) -> None:
    """Write what is new or is seen again, whatever happens to the API server between."""
    seen = {finding["uid"]: finding["count"] for finding in found}
    told = ""
    while True:
        trouble = ""
        try:
            async for change, content in kube.watch(FINDINGS, where):
                told = ""
                finding = as_finding(content)
                if change == "DELETED":
                    seen.pop(finding["uid"], None)
                elif finding["count"] and seen.get(finding["uid"]) != finding["count"]:
                    # An object is made first and counted a moment later: then it is whole.
                    seen[finding["uid"]] = finding["count"]
                    while len(seen) > _REMEMBERED:
                        seen.pop(next(iter(seen)))
                    if keep(finding):
                        await writer.write(render(finding))
        except DaemonEyeError as error:
            trouble = str(error)
        # A watch ends by itself after some time, which is nothing to tell.
        if trouble and trouble != told:
            say(f"{trouble}; trying again")
            told = trouble
        await asyncio.sleep(_RETRY_S if trouble else 0.1)


def _time(finding: Finding) -> dt.datetime:
    try:
        found = dt.datetime.fromisoformat(str(finding["time"]))
    except ValueError:
        return dt.datetime.min.replace(tzinfo=dt.UTC)
    return found if found.tzinfo else found.replace(tzinfo=dt.UTC)
