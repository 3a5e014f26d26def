"""What each role may publish and subscribe to: least privilege on the broker, for one machine and for a cluster alike.

Responsible for the lists; not for users and passwords, which whoever runs the broker makes, nor for accounts.

A list bounds what a role asks, not where JetStream's answers go: the reply's subject is the asker's to choose, and the broker does not
check it. Within one account any role that gets answers can so have JetStream write, or ask for the removal of a stream, in its place. The
sensors of a cluster are in an account of their own for that (``daemoneye_operator.brokerconf``).
"""

from __future__ import annotations

from typing import Any, Final

from daemoneye import subjects

ROLES: Final = ("sensor", "analytics", "cli", "operator", "identity")
CALLOUT: Final = "callout"
"""Answers for the release's own broker whether somebody is a sensor; on a broker of the user's own, and on one machine, there is none."""
AUTHENTICATION: Final = "$SYS.REQ.USER.AUTH"
"""Where nats-server asks the callout."""
_READ_CONSUMER: Final = ("$JS.API.CONSUMER.>", "$JS.ACK.>", "$JS.FC.>")
_READ: Final = ("$JS.API.DIRECT.GET", "$JS.API.CONSUMER.CREATE", "$JS.API.CONSUMER.MSG.NEXT")
_LOOK: Final = ("$JS.API.INFO", "$JS.API.STREAM.NAMES", "$JS.API.STREAM.INFO.*")


def inbox_prefix(role: str) -> str:
    """Prefix of the inboxes that only this role may subscribe to; a sensor puts its node behind it (`Access.inbox_suffix`)."""
    return f"_INBOX_{role}"


def permissions(role: str, node: str = "*", *, administers: bool = False) -> dict[str, dict[str, list[str]]]:
    """Permissions of a role in nats-server's form.

    Args:
        role: One of ROLES.
        node: Escaped name of a sensor's node, which bounds its inboxes, too; ``*`` where all sensors share one user.
        administers: Whether the role makes the streams beside what it does itself: on one machine the command line does.
    """
    publish, subscribe = _LISTS[role](node)
    if administers:
        publish = [*publish, "$JS.API.>"]
    inbox = f"{inbox_prefix(role)}.{node}.>" if role == "sensor" else f"{inbox_prefix(role)}.>"
    may: dict[str, dict[str, list[str]]] = {"publish": {"allow": publish}, "subscribe": {"allow": [inbox, *subscribe]}}
    if role == "cli" and not administers:
        # Who may read packets is asked of the API server, and written down: analytics does that, not whoever holds this role's password.
        may["publish"]["deny"] = [
            f"{asked}.OBJ_{subjects.EVIDENCE_BUCKET}{rest}" for asked in _READ for rest in ("", ".>")
        ]
    return may


def callout_permissions() -> dict[str, Any]:
    """Permissions of CALLOUT: to be asked, as one of a group, and to answer each question once, while nats-server waits."""
    return {
        "subscribe": {"allow": [f"{AUTHENTICATION} {CALLOUT}"]},
        "publish": {"deny": [">"]},
        "allow_responses": {"max": 1, "expires": "30s"},
    }


def _sensor(node: str) -> tuple[list[str], list[str]]:
    nodes, configs = subjects.NODES_BUCKET, subjects.CONFIGS_BUCKET
    publish = [
        f"{subjects.PREFIX}.events.*.{node}.*",
        f"{subjects.PREFIX}.status.{node}",
        f"{subjects.PREFIX}.schemas.*",
        subjects.direct_get(nodes, f"{node}.>"),
        subjects.direct_get(configs, "*"),
        f"$O.{subjects.EVIDENCE_BUCKET}.C.{node}.*",  # chunks of what it kept; the entries are analytics'
        f"{subjects.PREFIX}.evidence.kept.{node}",
    ]
    told = [f"{subjects.PREFIX}.evidence.{what}.{node}" for what in ("arm", "answer")]
    return publish, [subjects.key_value(nodes, f"{node}.>"), *told]


def _analytics(_: str) -> tuple[list[str], list[str]]:
    bucket, configs, evidence = subjects.ANALYTICS_BUCKET, subjects.CONFIGS_BUCKET, subjects.EVIDENCE_BUCKET
    publish = [
        f"{subjects.PREFIX}.findings.>",
        f"{subjects.PREFIX}.scores.*",
        f"{subjects.PREFIX}.events.*.*.loss",
        subjects.component("analytics"),
        f"$O.{bucket}.>",
        subjects.key_value(subjects.LEASES_BUCKET, "analytics.*"),
        *_LOOK,
        "$JS.API.STREAM.MSG.GET.*",
        "$JS.API.DIRECT.GET.>",
        f"$JS.API.STREAM.PURGE.OBJ_{bucket}",  # an object's former chunks
        f"$O.{evidence}.M.*",
        f"$JS.API.STREAM.PURGE.OBJ_{evidence}",
        f"{subjects.PREFIX}.evidence.arm.*",
        f"{subjects.PREFIX}.evidence.answer.*",
        *_READ_CONSUMER,
    ]
    subscribe = [subjects.key_value(configs, subjects.ANALYTICS_CONFIG), f"{subjects.PREFIX}.evidence.kept.*"]
    return publish, subscribe


def _operator(_: str) -> tuple[list[str], list[str]]:
    publish = [
        subjects.key_value(subjects.NODES_BUCKET, "*.config"),
        subjects.key_value(subjects.CONFIGS_BUCKET, ">"),
        subjects.component("operator"),
        *_LOOK,
        "$JS.API.STREAM.CREATE.*",
        "$JS.API.STREAM.UPDATE.*",
        f"$JS.API.STREAM.PURGE.KV_{subjects.CONFIGS_BUCKET}",
        f"$JS.API.STREAM.PURGE.KV_{subjects.NODES_BUCKET}",
        "$JS.API.STREAM.MSG.GET.*",
        "$JS.API.DIRECT.GET.>",
        *_READ_CONSUMER,
    ]
    return publish, [f"{subjects.PREFIX}.status.*", f"{subjects.PREFIX}.component.*"]


def _identity(_: str) -> tuple[list[str], list[str]]:
    stream = f"KV_{subjects.NODES_BUCKET}"
    publish = [
        subjects.key_value(subjects.NODES_BUCKET, "*.pod.*"),
        subjects.component("identity"),
        "$JS.API.INFO",
        f"$JS.API.STREAM.INFO.{stream}",
        f"$JS.API.STREAM.PURGE.{stream}",
        f"$JS.API.DIRECT.GET.{stream}.>",
    ]
    return publish, []


def _cli(_: str) -> tuple[list[str], list[str]]:
    # It reads by consumers of its own, which end by themselves: nobody's is deleted or paused.
    return [*_LOOK, *(f"{asked}.>" for asked in _READ)], [f"{subjects.PREFIX}.>"]


_LISTS: Final = {
    "sensor": _sensor,
    "analytics": _analytics,
    "cli": _cli,
    "operator": _operator,
    "identity": _identity,
}
