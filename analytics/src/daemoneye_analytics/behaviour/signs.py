"""Signs of an intrusion in an execution: programs, words and pairs of words that intruders use and administrators seldom.

Responsible for this prior alone, as a table that whole columns are looked up in. Each sign has bits: log2 of how much oftener intruders show it than people
who do something unusual for a good reason; how usual it is in a workload, which cancels them, is `daemoneye_analytics.behaviour.features`' affair. The table
follows public knowledge: ATT&CK's procedures for Linux and containers, Atomic Red Team, GTFOBins, what LinPEAS and crypto miners run. A word of our own
corpus that nobody else uses has no place here.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import numpy as np

from daemoneye.events.sets import ranks, unique
from daemoneye.findings import Technique
from daemoneye_analytics.behaviour.tokens import Parts, spelled
from daemoneye_analytics.frame import combine

WIDTH: Final = 8
"""Signs that are kept of an execution, those with most bits."""
HIDDEN, PIPED, DOTTED = "@hidden", "@piped", "@dotted"
"""Signs that are no words: a program from a place that everybody may write to, from memory or deleted; a shell without arguments and terminal, which reads
its commands from a pipe; a path whose name begins with a dot in such a place."""
_SPOKEN: Final = {HIDDEN: "a program where none belongs", PIPED: "a shell that reads a pipe", DOTTED: "a hidden path"}
SHELLS: Final = ("sh", "bash", "dash", "ash", "zsh", "ksh", "csh", "tcsh")

# `a:` is a program, `a` a word (words end at blanks, quotes, operators and slashes; digits are one #), `a b` a word after another, or anywhere in the
# arguments of program a. A comma parts signs, a bar the ways to spell one.
_TABLE: Final[tuple[tuple[str, str, dict[float, str]], ...]] = (
    # ── execution ───────────────────────────────────────────────────────────────────────────────────────────────────
    ("T1059.004", "Unix Shell", {
        7: "dev tcp|dev udp, nc -e|ncat -e|netcat -e|nc -c|ncat -c|ncat --exec, -e bin",
        5: "mkfifo:|mkfifo, socat:, !sh|!bash|! bin, -exec bin",
        4: "@piped",
        2: "-exec sh|-exec bash, bash -i|sh -i|zsh -i, script dev"}),
    ("T1059", "Command and Scripting Interpreter", {
        7: "pty.spawn, os.dup#, fsockopen, TCPSocket.new, memfd_create, BEGIN{system|BEGIN {system, --checkpoint-action",
        6: "import pty, os.setuid, os.execute, socket.socket",
        5: "exec bin, system bin, use Socket, os.execv|os.execl|os.execve",
        3: "import socket, os.system",
        1.5: "python -c|python# -c|perl -e|ruby -e|php -r|lua -e|node -e"}),
    # ── hiding ──────────────────────────────────────────────────────────────────────────────────────────────────────
    ("T1036", "Masquerading", {6: "exec -a", 5: "@hidden"}),
    ("T1564.001", "Hidden Files and Directories", {5: "@dotted"}),
    ("T1222.002", "Linux and Mac File and Directory Permissions Modification", {
        7: "chmod u+s|chmod +s|chmod g+s", 5: "chmod shm", 4: "chattr:", 3: "chmod tmp", 2: "chmod +x|chmod a+x|chmod u+x"}),
    ("T1140", "Deobfuscate/Decode Files or Information", {
        5: "base# -d|base# --decode|base# -D|base64 -d|base64 --decode|base64 -D, b#decode|base#.b#decode, xxd -r",
        3: "base64:|base32:, openssl -d"}),
    ("T1070", "Indicator Removal", {
        6: "HISTFILE, history -c|history -cw",
        5: "shred:|shred, wipe:, wtmp, btmp, utmp, -exec truncate",
        4: "HISTSIZE|HISTFILESIZE, truncate log",
        3: "auth.log", 2: "truncate:", 1: "rm log"}),
    ("T1070.006", "Timestomp", {6: "touch -acmr", 5: "touch -r", 3: "touch -d|touch -t"}),
    ("T1562", "Impair Defenses", {
        5: "iptables -F, setenforce:|setenforce, falco",
        4: "auditctl:, auditd, ufw disable, nft flush",
        3: "iptables -P, systemctl disable, selinux", 2: "systemctl stop, rsyslog, apparmor", 1: "iptables:"}),
    # ── credentials ─────────────────────────────────────────────────────────────────────────────────────────────────
    ("T1003.008", "/etc/passwd and /etc/shadow", {7: "unshadow:, john:, hashcat:, hydra:, medusa:", 6: "etc shadow|etc gshadow|etc shadow-"}),
    ("T1003.007", "Proc Filesystem", {4: "gcore:, # mem", 3: "gdb -p", 2: "self maps|# maps, strace -p", 1: "gdb:, strace:"}),
    ("T1552.001", "Credentials In Files", {
        5: ".git-credentials",
        4: "grep password|grep passwd|grep pass|grep secret|grep api_key|grep token|grep aws, .pgpass, .netrc, .aws, *.env, wp-config.php, "
           "*password*|password*, *secret*, *credentials*",
        3: ".my.cnf, .kube, credentials", 2: ".env, *.conf"}),
    ("T1552.003", "Bash History", {5: ".bash_history|.zsh_history|.ash_history|*_history, .mysql_history, .psql_history"}),
    ("T1552.004", "Private Keys", {5: "id_rsa|id_*|id_dsa|id_ecdsa|id_ed#|id_rsa*", 3: "*.pem|*.key, .ssh, known_hosts, .gnupg"}),
    ("T1552.005", "Cloud Instance Metadata API", {
        6: "security-credentials", 5: "latest meta-data, computeMetadata, latest user-data", 4: "metadata.google.internal, Metadata-Flavor"}),
    ("T1528", "Steal Application Access Token", {5: "serviceaccount token", 4: "kubernetes.io serviceaccount"}),
    ("T1040", "Network Sniffing", {3: "promisc, tshark:, dumpcap:", 1: "tcpdump:"}),
    # ── privileges ──────────────────────────────────────────────────────────────────────────────────────────────────
    ("T1548.001", "Setuid and Setgid", {5: "getcap:", 4: "-perm, setcap:", 3: "setpriv:", 2: "-perm -#|-perm -u|-perm +#|-perm -g"}),
    ("T1548.003", "Sudo and Sudo Caching", {6: "sudo -l", 5: "NOPASSWD", 4: "sudo -S", 3: "etc sudoers|etc sudoers.d"}),
    ("T1068", "Exploitation for Privilege Escalation", {7: "linpeas.sh|linpeas|les.sh|linux-exploit-suggester.sh|pspy#", 2: "pkexec:"}),
    ("T1611", "Escape to Host", {
        7: "release_agent, notify_on_release, -t cgroup",
        5: "capsh:, # root, debugfs:, .dockerenv",
        4: "nsenter:, unshare:, docker.sock, --privileged, # cgroup",
        3: "self cgroup", 2: "chroot:, self status|# status", 1: "mount:"}),
    # ── persistence ─────────────────────────────────────────────────────────────────────────────────────────────────
    ("T1053", "Scheduled Task/Job", {4: "spool cron, @reboot", 3: "etc cron.d, crontab -, at:|atq:", 2: "crontab:, crontab -l, etc crontab"}),
    ("T1098.004", "SSH Authorized Keys", {4: "authorized_keys, ssh-rsa|ssh-ed#", 2: "ssh-keygen:, ssh-copy-id:"}),
    ("T1136.001", "Local Account", {4: "chpasswd:|chpasswd", 3: "root bin", 2: "useradd:|adduser:, usermod:, passwd:|gpasswd:"}),
    ("T1574.006", "Dynamic Linker Hijacking", {7: "ld.so.preload", 5: "LD_PRELOAD"}),
    ("T1547.006", "Kernel Modules and Extensions", {5: "insmod:", 3: "rmmod:, *.ko", 2: "modprobe:"}),
    ("T1546.004", "Unix Shell Configuration Modification", {4: ".bashrc, .profile, .bash_profile", 3: ".zshrc, profile.d, .bash_login"}),
    ("T1543.002", "Systemd Service", {4: "rc.local", 2: "systemctl enable, systemd system", 1: "init.d, update-rc.d:"}),
    # ── discovery ───────────────────────────────────────────────────────────────────────────────────────────────────
    ("T1033", "System Owner/User Discovery", {5: "whoami:", 4: "lastlog:, logname:, finger:", 3: "id:, last:, users:, groups:", 2: "w:, who:"}),
    ("T1082", "System Information Discovery", {
        4: "proc version, etc issue", 3: "uname -a, lscpu:, dmidecode:, *release",
        2: "uname:, lsb_release:, hostnamectl:, etc os-release, proc cpuinfo, proc cmdline, nproc:, arch:", 1: "hostname:, lsblk:"}),
    ("T1087.001", "Local Account", {4: "etc passwd", 3: "getent:, etc group"}),
    ("T1057", "Process Discovery", {2: "pstree:", 1: "ps:, pgrep:"}),
    ("T1049", "System Network Connections Discovery", {2: "netstat:", 1: "ss:, lsof:"}),
    ("T1016", "System Network Configuration Discovery", {
        4: "arp:", 3: "route:, proc net, ip neigh", 2: "etc hosts, ifconfig:, hostname -I, etc resolv.conf", 1: "ip:"}),
    ("T1083", "File and Directory Discovery", {3: "ls root", 2: "ls home, locate:", 1: "find:, ls -la|ls -al, tree:"}),
    ("T1518", "Software Discovery", {4: "which nc|which ncat", 3: "which gcc|which wget|which curl", 1: "which:"}),
    ("T1613", "Container and Resource Discovery", {3: "kubectl exec, kubectl auth", 2: "crictl:, ctr:", 1: "kubectl get, docker ps"}),
    ("T1652", "Device Driver Discovery", {5: "proc kallsyms", 4: "proc modules", 3: "lsmod:, modinfo:", 2: "lib modules"}),
    ("T1497.001", "System Checks", {5: "virt-what:, vbox|vmware", 4: "systemd-detect-virt:"}),
    ("T1046", "Network Service Discovery", {
        7: "masscan:, zmap:", 5: "nmap:", 4: "nc -z|nc -zv|nc -vz|nc -nzv|nc -zvw#|ncat -z|netcat -z", 3: "fping:"}),
    ("T1552", "Unsecured Credentials", {5: "self environ|# environ", 2: "env:, printenv:"}),
    # ── movement, command and control, what it is for ───────────────────────────────────────────────────────────────
    ("T1021.004", "SSH", {5: "sshpass:", 2: "StrictHostKeyChecking no", 1: "ssh:, BatchMode yes"}),
    ("T1105", "Ingress Tool Transfer", {4: "dev shm, tftp:", 3: "-O tmp|-o tmp, sh tmp|bash tmp", 2: "wget:, curl:, scp:, sftp:, ftp:"}),
    ("T1095", "Non-Application Layer Protocol", {4: "nc:|ncat:|netcat:", 3: "s_client", 2: "telnet:"}),
    ("T1572", "Protocol Tunneling", {7: "chisel:, proxychains:", 6: "frpc:, ngrok:", 4: "ssh -R, ssh -D"}),
    ("T1048", "Exfiltration Over Alternative Protocol", {
        6: "wget --post-file", 4: "curl -T|curl --upload-file", 3: "curl -F, curl --data-binary, rclone:", 2: "curl -d|curl --data"}),
    ("T1560", "Archive Collected Data", {4: "openssl enc", 3: "tar home, tar root", 2: "tar etc, split:, zip:|7z:"}),
    ("T1489", "Service Stop", {3: "pkill -#", 2: "pkill:|killall:", 1: "kill -#"}),
    ("T1496", "Resource Hijacking", {
        7: "xmrig:|xmrig, minerd:|minerd, stratum+tcp|stratum+ssl, --donate-level, kinsing, kdevtmpfsi, cryptonight", 5: "stratum, vm.nr_hugepages"}),
)  # fmt: skip
_WORD, _PAIR, _INSIDE, _PROGRAM = 1, 2, 3, 4


def _built() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, list[tuple[str, Technique]]]:
    """Keys of what is looked up, ascending, with the sign of each; and of each sign its lasting number, its bits, its words and its technique."""
    keys: dict[int, int] = {}
    numbers: list[int] = []
    bits: list[float] = []
    meanings: list[tuple[str, Technique]] = []
    for identifier, name, levels in _TABLE:
        for level, signs in levels.items():
            for sign in signs.split(","):
                ways = sign.strip().split("|")
                for way in ways:
                    for key in _keys(way):
                        if keys.setdefault(key, len(bits)) != len(bits):
                            msg = f"{way!r} is a way to spell two signs"
                            raise ValueError(msg)
                # What was counted of a sign is stored: its number follows from its words.
                numbers.append(int(combine(spelled(identifier), spelled(ways[0]))[0]) or 1)
                bits.append(float(level))
                meanings.append((_SPOKEN.get(ways[0], ways[0].removesuffix(":")), Technique(identifier, name)))
    order = np.argsort(np.array(list(keys), np.uint64))
    return (
        np.array(list(keys), np.uint64)[order],
        np.array(list(keys.values()))[order],
        np.array(numbers, np.uint64),
        np.array(bits),
        meanings,
    )


def _keys(way: str) -> list[int]:
    first, _, second = way.partition(" ")
    if second:
        return [int(combine(spelled(first), spelled(second), kind)[0]) for kind in (_PAIR, _INSIDE)]
    kind = _PROGRAM if first.endswith(":") else _WORD
    return [int(combine(spelled(first.removesuffix(":")), kind)[0])]


_KEYS, _SIGNS, _NUMBERS, BITS, _MEANINGS = _built()
TECHNIQUES: Final = tuple({technique.id: technique for _, technique in _MEANINGS}.values())
"""What signs can be of."""
_NAMED: Final = frozenset(_KEYS.tolist())
_ORDER: Final = np.argsort(_NUMBERS)
_SPECIAL: Final = {
    name: int(_SIGNS[np.searchsorted(_KEYS, np.uint64(_keys(name)[0]))]) for name in (HIDDEN, PIPED, DOTTED)
}


@lru_cache(maxsize=65_536)
def program(path: str) -> tuple[int, bool]:
    """The hash of a program's name by its path, without versions at its end (`python3.11`), and whether it is a shell."""
    name = path.removesuffix(" (deleted)").rpartition("/")[2]
    known = int(combine(spelled(name), _PROGRAM)[0])
    if known not in _NAMED:
        name = name.rstrip("0123456789.-") or name
    return spelled(name), name in SHELLS


def find(parts: Parts, programs: np.ndarray, hidden: np.ndarray, piped: np.ndarray) -> np.ndarray:
    """Signs of n executions.

    Args:
        parts: The pieces of their arguments.
        programs: Hashes of their programs' names, u64, shape (n,).
        hidden: Which come from where programs do not belong, bool.
        piped: Which are shells that read a pipe, bool.

    Returns:
        Their signs' numbers, those with most bits first, u64, shape (n, WIDTH); 0 where there are no more.
    """
    n = len(programs)
    out = np.zeros((n, WIDTH), np.uint64)
    before = np.concatenate((np.zeros(1, np.uint64), parts.hash[:-1]))[: len(parts.hash)]
    first = np.ones(len(parts.row), bool)
    first[1:] = parts.row[1:] != parts.row[:-1]
    own = programs[parts.row]
    keys = np.concatenate((
        combine(parts.hash, _WORD), combine(np.where(first, own, before), parts.hash, _PAIR), combine(own, parts.hash, _INSIDE),
        combine(programs, _PROGRAM),
    ))  # fmt: skip
    at = np.minimum(np.searchsorted(_KEYS, keys), len(_KEYS) - 1)
    hit = np.flatnonzero(_KEYS[at] == keys)
    row = np.concatenate((parts.row, parts.row, parts.row, np.arange(n)))[hit]
    dotted = parts.row[parts.dotted & ~first & np.isin(before, _WRITABLE)]
    extra = (np.flatnonzero(hidden), np.flatnonzero(piped), dotted)
    sign = np.concatenate((
        _SIGNS[at[hit]], *(np.full(len(rows), _SPECIAL[name]) for name, rows in zip((HIDDEN, PIPED, DOTTED), extra, strict=True)),
    ))  # fmt: skip
    # Each sign of an execution once, the weightiest first.
    each = unique(np.concatenate((row, *extra)) * len(BITS) + sign)
    row, sign = np.divmod(each, len(BITS))
    order = np.lexsort((sign, -BITS[sign], row))
    row, sign = row[order], sign[order]
    rank = ranks(row)
    few = rank < WIDTH
    out[row[few], rank[few]] = _NUMBERS[sign[few]]
    return out


def bits(numbers: np.ndarray) -> np.ndarray:
    """Bits of signs by their numbers, float64 of the same shape; 0 for no sign, and for one that this version does not have."""
    at, known = _at(numbers)
    return np.where(known, BITS[at], 0.0)


def meaning(number: int) -> tuple[str, Technique] | None:
    """A sign's words and its technique; None for no sign."""
    at, known = _at(np.array([number], np.uint64))
    return _MEANINGS[int(at[0])] if known[0] else None


def _at(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    at = _ORDER[np.minimum(np.searchsorted(_NUMBERS, numbers, sorter=_ORDER), len(_ORDER) - 1)]
    return at, _NUMBERS[at] == numbers


_WRITABLE: Final = np.array([spelled("tmp"), spelled("shm")], np.uint64)
