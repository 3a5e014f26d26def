"""The features that models can look at: one declaration each, which configuration, documentation and code read.

Responsible for names, units and meaning; the values come from `executions`, `features`, `windows`, `connections`, `contacts` and `rhythm` of this package.
Append-only: a feature's meaning never changes, for models are stored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

PROCESS: Final = "process"
WINDOW: Final = "window"
CONNECTION: Final = "connection"
SCOPES: Final = (WINDOW, PROCESS, CONNECTION)


@dataclass(frozen=True, slots=True)
class Feature:
    """A feature: its name in a policy, of what it is one (`process`, `window` or `connection`), its unit and what it says."""

    name: str
    scope: str
    unit: str
    doc: str


class Part(NamedTuple):
    """By how much a feature raises a row's score, with its value and the one that is usual, None where that is not known."""

    feature: str
    more: float
    value: float
    usual: float | None


FEATURES: Final[tuple[Feature, ...]] = (
    Feature("exe_bits", PROCESS, "bits", "How surprising the executable is in its workload."),
    Feature("pair_bits", PROCESS, "bits", "How surprising the executable is below its parent's executable."),
    Feature("user_bits", PROCESS, "bits", "How surprising the user (real and effective) is for the executable."),
    Feature("args_bits", PROCESS, "bits", "Mean of the two most surprising words of the arguments, for the executable."),
    Feature("tree_bits", PROCESS, "bits", "How surprising the executable is below its parent's and grandparent's executables."),
    Feature("rarity_bits", PROCESS, "bits", "exe_bits + pair_bits + args_bits: the whole execution."),
    Feature("relative_bits", PROCESS, "bits", "rarity_bits less what the same execution has in the whole cluster: usual elsewhere, odd here."),
    Feature("new_items", PROCESS, "items", "Executable, pair of parent and executable, and user that the workload never showed (0 to 3)."),
    Feature("argc", PROCESS, "log2(1 + arguments)", "Number of arguments."),
    Feature("args_length", PROCESS, "log2(1 + bytes)", "Length of the arguments."),
    Feature("args_entropy", PROCESS, "bits/character", "Entropy of the arguments' characters in 32 classes; encoded text has much."),
    Feature("path_depth", PROCESS, "directories", "Directories in the executable's path."),
    Feature("path_class", PROCESS, "class", "0 the system's directories, 1 others, 2 home directories, 3 directories that everybody writes to, 4 memory."),
    Feature("user_change", PROCESS, "0/1", "The user differs from the parent's."),
    Feature("privilege_gain", PROCESS, "0/1", "Capabilities were gained, or a set-user-id bit took effect."),
    Feature("odd_file", PROCESS, "0/1", "The executable is deleted, in memory alone, or in a container's writable layer."),
    Feature("terminal", PROCESS, "0/1", "It has a terminal."),
    Feature("ancestors", PROCESS, "processes", "Known ancestors, 8 at most."),
    Feature("intent", PROCESS, "bits", "log2 of a rough share of an intruder's executions that this program has; -14 for most, -4 in hidden places."),
    Feature("hour_sin", PROCESS, "", "Time of day (UTC) on a circle, sine."),
    Feature("hour_cos", PROCESS, "", "Time of day (UTC) on a circle, cosine."),
    Feature(
        "sign_bits",
        PROCESS,
        "bits",
        "How strongly its signs of an intrusion speak: words, programs, places that intruders use, as far as they and the execution are rare here.",
    ),
    Feature("rarest", WINDOW, "bits", "Sum of rarity_bits of the window's three rarest different processes."),
    Feature(
        "suspicion",
        WINDOW,
        "bits",
        "Sum over the five most suspicious different processes of rarity_bits (20 at most) + 1.5 intent, where positive: rare here, and what intruders run.",
    ),
    Feature("shift", WINDOW, "bits", "Mean of relative_bits over all of the window's executions: the workload does other things than usual."),
    Feature("new_distinct", WINDOW, "items", "Different new items of the window."),
    Feature("intrusion", WINDOW, "bits", "Sum over the window's different signs of an intrusion of the most bits with which a process shows each."),
    Feature(
        "destination_bits",
        CONNECTION,
        "bits",
        "How surprising the other side is in the workload: its name, if known, else its address (public ones by /24 or /48); port, protocol, direction.",
    ),
    Feature("program_port_bits", CONNECTION, "bits", "How surprising the program with this port, protocol and direction is."),
    Feature("contact_bits", CONNECTION, "bits", "destination_bits + program_port_bits: who speaks to whom."),
    Feature("contact_relative_bits", CONNECTION, "bits", "contact_bits less what the same contact has in the whole cluster."),
    Feature("new_contacts", CONNECTION, "items", "Destination, and program with port, that the workload never showed (0 to 2)."),
    Feature("sent_bytes", CONNECTION, "log2(1 + bytes)", "Payload that left; not known before the end."),
    Feature("received_bytes", CONNECTION, "log2(1 + bytes)", "Payload that came; not known before the end."),
    Feature("sent_ratio", CONNECTION, "bits", "sent_bytes - received_bytes: positive where more left than came."),
    Feature("duration", CONNECTION, "log2(1 + ms)", "From its begin to the last byte; not known before the end."),
    Feature("direction", CONNECTION, "class", "0 unknown, 1 the process connected, 2 somebody else did, 3 it listens."),
    Feature("peer_class", CONNECTION, "class", "Where the other side is: 0 nobody yet, or this machine; 1 in private networks; 2 outside; 3 a group."),
    Feature("connect_failed", CONNECTION, "0/1", "The process tried to connect and was not let in."),
    Feature("fan_out", CONNECTION, "log2(1 + destinations)", "Different destinations of the workload on its node so far, within the ten minutes."),
    Feature("connections", CONNECTION, "log2(1 + connections)", "Connections that it began or took there so far."),
    Feature("domain_bits", CONNECTION, "bits", "How surprising the other side's name is in the workload, with port and protocol; 0 where it is not known."),
    Feature("name_known", CONNECTION, "0/1", "The process connected, and DNS, TLS, QUIC or HTTP told what the other side is called."),
    Feature(
        "periodicity",
        CONNECTION,
        "log2(interval / deviation)",
        "How regularly its program in its container connected to this other side (name, else address; port): middle interval of the last 16 beginnings "
        "over what 12 of the 15 deviate from it at most. 10 at most; clockwork has 5 and more, a jitter of a tenth 3.8, random moments hardly anything; 0 "
        "before there were 16.",
    ),
    Feature(
        "periodicity_bits",
        CONNECTION,
        "bits",
        "How surprising it is that the workload connects to this other side so regularly (periodicity of 3 and more); 0 without such a rhythm.",
    ),
)  # fmt: skip
BY_NAME: Final = {feature.name: feature for feature in FEATURES}
PROCESS_FEATURES: Final = tuple(feature.name for feature in FEATURES if feature.scope == PROCESS)
WINDOW_FEATURES: Final = tuple(feature.name for feature in FEATURES if feature.scope == WINDOW)
CONNECTION_FEATURES: Final = tuple(feature.name for feature in FEATURES if feature.scope == CONNECTION)
