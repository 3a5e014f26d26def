"""How often programs are run in documented attacks: what is rare in a workload is the more telling the more often intruders run it.

Responsible for that prior alone: log2 of a rough share of an intruder's executions on Linux. Its classes follow public knowledge, not our corpus: the
procedures that ATT&CK lists for Linux (Discovery, Execution, Command and Control, Credential Access, Defense Evasion), Atomic Red Team's Linux tests, and
GTFOBins' list of programs that give a shell, a file or a connection.
"""

from __future__ import annotations

from typing import Final

import numpy as np

OTHER: Final = -14.0
"""Of a program that is not listed: one of some ten thousand."""
HIDDEN: Final = -4.0
"""Of one that lies where everybody may write, in memory alone, or has no name left."""
_SHARES: Final[dict[float, str]] = {
    -5.0: (
        "arp base64 capsh chattr chroot crontab dmidecode gdb getcap getent groups hydra id insmod john last lastlog lscpu lsmod masscan modprobe kmod "
        "nc ncat netcat nmap nproc nsenter rmmod setcap setpriv shred socat ssh-keygen sudo uname unshare w wget curl who whoami xmrig xxd"
    ),
    -7.0: (
        "ash at awk bash busybox cat chmod chown csh dash dd dig docker env ftp find gawk gcc hostname ifconfig ip iptables kubectl ksh ld.so lsof lua "
        "mawk mkfifo mount mysql netstat nohup nslookup openssl passwd perl php ping printenv ps psql python python3 pwd rsync ruby scp screen script "
        "setsid sftp sh ss ssh strace su systemctl tcpdump telnet tftp tmux useradd usermod vi vim zsh"
    ),
    -9.0: "cp crictl ctr df du grep gzip head history ls mkdir mv rm sed stat tail tar tee top touch tr umount wc xargs xz zip",
}
_BY_NAME: Final = {name: share for share, names in _SHARES.items() for name in names.split()}


def intent(paths: list[str]) -> np.ndarray:
    """log2 of the share of each of n programs by its path, float64, shape (n,); versions in names (`python3.11`) do not matter."""
    return np.array([_BY_NAME.get(_name(path), OTHER) for path in paths])


def _name(path: str) -> str:
    name = path.rsplit("/", 1)[-1]
    if name in _BY_NAME:
        return name
    return name.rstrip("0123456789.-") or name
