"""Two network namespaces, real clients in one of them and servers in the other.

The process that makes a `World` is the clients' side. Both namespaces are without a name, and every other process ends with it, so that nothing
stays behind however it ends.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

CLIENT, SERVER = "10.9.0.1", "10.9.0.2"
CLIENT6, SERVER6 = "fd09::1", "fd09::2"
HTTP, WEB, QUIC, QUIC_RETRY = 80, 9090, 443, 4433
TLS: Final = {"1.0": 4410, "1.1": 4411, "1.2": 4412, "1.3": 4413}
CHAIN, ANONYMOUS, SHARED, RETRY = 4414, 4415, 4416, 4417
"""Servers with a chain of certificates, without a certificate, with a key that both know, and one that asks for another group."""
TLS_PORTS: Final = (*TLS.values(), CHAIN, ANONYMOUS, SHARED, RETRY, WEB)
MARK: Final = b"that was all of it"
HERE: Final = Path(__file__).parent
_WAIT_S: Final = 60.0
OLD: Final = "DEFAULT:@SECLEVEL=0"
"""What OpenSSL 3 wants to hear before it speaks TLS 1.0."""
_TXT: Final = [f"text-{number:03d}-{'x' * 200}" for number in range(12)]
DNSMASQ: Final = (
    "--host-record=www.shop.example,192.0.2.7,2001:db8::7,300", "--host-record=api.shop.example,192.0.2.8,77",
    "--cname=a.shop.example,b.shop.example,www.shop.example,600", "--mx-host=shop.example,mail.shop.example,10",
    "--srv-host=_ldap._tcp.shop.example,ldap.shop.example,389,5,20", '--txt-record=txt.shop.example,plain,with "quotes" and \\backslash',
    *(f"--txt-record=many.shop.example,{text}" for text in _TXT), "--ptr-record=7.2.0.192.in-addr.arpa,www.shop.example",
    "--caa-record=shop.example,0,issue,ca.example", "--naptr-record=naptr.shop.example,10,20,u,SIP+D2U,!^.*$!sip:x@shop.example!",
    # HTTPS (RFC 9460): 1 . alpn=h2,h3 port=8443 ipv4hint; a type that nobody knows; SSHFP
    "--dns-rr=www.shop.example,65,000100000100060268320268330003000220fb00040004c0000207", "--dns-rr=odd.shop.example,65280,00ff10",
    "--dns-rr=ssh.shop.example,44,0101aabbccddeeff00112233445566778899aabbccdd",
    *(f"--host-record=host-{number}.shop.example,198.51.100.{number}" for number in range(1, 9)),
    "--host-record=MiXeD.shop.example,192.0.2.9", "--local=/example/", "--auth-server=ns.zone.test,198.51.100.1", "--auth-zone=zone.test",
    "--host-record=inside.zone.test,198.51.100.9",
)  # fmt: skip
_QUESTIONS: Final = (
    "+noedns www.shop.example A", "www.shop.example AAAA", "+bufsize=4096 a.shop.example A", "shop.example MX", "shop.example CAA",
    "_ldap._tcp.shop.example SRV", "txt.shop.example TXT", "+tcp many.shop.example TXT", "+bufsize=4096 many.shop.example TXT",
    "+noedns +ignore many.shop.example TXT", "+noedns many.shop.example TXT", "-x 192.0.2.7", "www.shop.example HTTPS",
    "odd.shop.example TYPE65280", "ssh.shop.example SSHFP", "naptr.shop.example NAPTR", "none.shop.example A", "api.shop.example A",
    "+dnssec +nsid www.shop.example A", "+qr +norecurse mIxEd.ShOp.eXaMpLe A", "zone.test SOA", "zone.test NS", "inside.zone.test A",
    "elsewhere.invalid A", ". NS", r"we\032ird\.label.shop.example A", "-c CH version.bind TXT", "+opcode=status www.shop.example A",
    "+tcp +keepopen www.shop.example A api.shop.example A", "+noedns +notcp www.shop.example ANY", "+edns=1 +noednsneg www.shop.example A",
    *(f"host-{number}.shop.example A" for number in range(1, 9)),
)  # fmt: skip


class World:
    """Both sides and whoever runs in them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._running: list[subprocess.Popen[Any]] = []
        holder = self.start("unshare", "-n", "sh", "-c", "echo there; exec sleep infinity", stdout=subprocess.PIPE)
        assert holder.stdout is not None
        holder.stdout.readline()
        self._there = ("nsenter", "-t", str(holder.pid), "-n")
        for line in (
            "link set lo up", f"link add client type veth peer name server netns {holder.pid}", "link set client up",
            f"addr add {CLIENT}/24 dev client", f"addr add {CLIENT6}/64 dev client nodad",
            # What this side sends is seen as the wire would have it; the other side's is seen as its kernel hands it over, in pieces of up to 64 KiB.
            "link set client gso_max_segs 1",
        ):  # fmt: skip
            self.run("ip", *line.split())
        for line in (
            "link set lo up",
            "link set server up",
            f"addr add {SERVER}/24 dev server",
            f"addr add {SERVER6}/64 dev server nodad",
        ):
            self.run(*self._there, "ip", *line.split())

    def start(self, *command: str, **options: Any) -> subprocess.Popen[Any]:
        """A program on the clients' side, which ends with this process at the latest."""
        process = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", *command], cwd=self.directory, **options)
        self._running.append(process)
        return process

    def server(self, *command: str, port: int) -> None:
        """Start a program on the servers' side and wait until it listens on a port."""
        with (self.directory / "servers.txt").open("ab") as log:
            process = self.start(*self._there, *command, stdin=subprocess.PIPE, stdout=log, stderr=log)
        wait(lambda: self._listens(port, process), f"{command[0]} to listen on {port}")

    def _listens(self, port: int, process: subprocess.Popen[Any]) -> bool:
        if process.poll() is not None:
            raise SystemExit(f"{process.args!r} ended: {(self.directory / 'servers.txt').read_text()[-2000:]}")
        found = self.run(*self._there, "ss", "-Hlntu", f"sport = :{port}")
        return bool(found.strip())

    def run(self, *command: str, fails: bool = False, stdin: str = "") -> str:
        """A program on the clients' side to its end; what it said."""
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=_WAIT_S, cwd=self.directory, input=stdin, check=False
        )  # fmt: skip
        if done.returncode and not fails:
            raise SystemExit(f"{' '.join(command)}: {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        return done.stdout

    @contextlib.contextmanager
    def captured(self) -> Iterator[None]:
        """Everything that crosses the wire meanwhile."""
        path = self.directory / "wire.pcap"
        command = (
            "tcpdump",
            "-i",
            "client",
            "-n",
            "-U",
            "--immediate-mode",
            "-s",
            "0",
            "-B",
            "32768",
            "-Z",
            "root",
            "-w",
            str(path),
        )
        tcpdump = self.start(*command, stderr=subprocess.PIPE)
        assert tcpdump.stderr is not None
        while b"listening on" not in (line := tcpdump.stderr.readline()):
            if not line:
                raise SystemExit("tcpdump does not run")
        yield
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(MARK, (SERVER, 9))
        wait(lambda: MARK in path.read_bytes()[-4096:], "the last packet in the file")
        tcpdump.terminate()
        tcpdump.wait()

    def end(self) -> None:
        """End whoever runs."""
        for process in reversed(self._running):
            process.kill()
            process.wait()


def wait(done: Callable[[], bool], what: str) -> None:
    """Until it is so.

    Raises:
        SystemExit: It never was.
    """
    deadline = time.monotonic() + _WAIT_S
    while not done():
        if time.monotonic() > deadline:
            raise SystemExit(f"waited {_WAIT_S:.0f} s for {what}")
        time.sleep(0.01)


def certificates(world: World) -> None:
    """server.pem (a name with everything odd in it), and leaf.pem with chain.pem, issued by an intermediate authority."""
    world.run(
        "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "server.key", "-out", "server.crt", "-days", "2", "-utf8",
        "-multivalue-rdn", "-subj", r"/C=DE/ST=Köln \/ Süd/O=Shop, Inc. \+ \"Söhne\"/OU=one+UID=two/CN=www.shop.example/emailAddress=root@shop.example",
    )  # fmt: skip
    world.run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", "root.key",
              "-out", "root.crt", "-days", "2", "-subj", "/O=Root/CN=Root of all")  # fmt: skip
    for name, issuer, subject in (
        ("middle", "root", "/O=Root/CN=#Middle "),
        ("leaf", "middle", "/CN=*.shop.example/serialNumber=4711"),
    ):
        world.run("openssl", "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", f"{name}.key",
                  "-out", f"{name}.csr", "-subj", subject)  # fmt: skip
        world.run("openssl", "x509", "-req", "-in", f"{name}.csr", "-CA", f"{issuer}.crt", "-CAkey", f"{issuer}.key", "-CAcreateserial",
                  "-out", f"{name}.crt", "-days", "2")  # fmt: skip
    texts = {name: (world.directory / name).read_text() for name in ("middle.crt", "root.crt")}
    (world.directory / "chain.crt").write_text("".join(texts.values()))


def tls(world: World) -> None:
    """Clients of OpenSSL, GnuTLS and curl: every version, with and without name and protocols, resumed, refused, in many segments."""
    protocols = ",".join(f"protocol-{number:03d}" for number in range(400))

    def s_client(port: int, *options: str, host: str = SERVER) -> None:
        where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        world.run("openssl", "s_client", "-connect", where, "-cipher", OLD, *options, fails=True, stdin="Q\n")

    for version, port in TLS.items():
        option = f"-tls{version.replace('.', '_')}".removesuffix("_0")
        s_client(port, option, "-servername", "www.shop.example", "-alpn", "h2,http/1.1")
        s_client(port, option, "-noservername")
        s_client(port, "-servername", f"Any.{version}.Shop.Example", host=SERVER6)
    s_client(TLS["1.3"], "-alpn", protocols, "-servername", "large.shop.example")
    s_client(TLS["1.2"], "-alpn", protocols, "-servername", "large.shop.example")
    s_client(TLS["1.2"], "-tls1_3", "-servername", "refused.shop.example")
    s_client(CHAIN, "-tls1_2", "-servername", "leaf.shop.example")
    s_client(CHAIN, "-tls1_2", "-servername", "leaf.shop.example", "-sess_out", "session.pem")
    s_client(CHAIN, "-tls1_2", "-servername", "leaf.shop.example", "-sess_in", "session.pem")
    s_client(RETRY, "-groups", "X25519:P-384", "-servername", "retry.shop.example")
    world.run(
        "openssl",
        "s_client",
        "-connect",
        f"{SERVER}:{ANONYMOUS}",
        "-tls1_2",
        "-cipher",
        "aNULL:@SECLEVEL=0",
        fails=True,
        stdin="Q\n",
    )
    s_client(SHARED, "-tls1_2", "-cipher", "PSK", "-psk", "0102030405060708", "-psk_identity", "me")
    for priority in (
        "NORMAL",
        "NORMAL:-VERS-TLS1.3",
        "NORMAL:-GROUP-ALL:+GROUP-SECP521R1",
        "SUITEB128",
        "NORMAL:%NO_EXTENSIONS:-VERS-TLS1.3",
    ):
        world.run("gnutls-cli", "--insecure", "--priority", priority, "--alpn", "h2", "--sni-hostname", "gnutls.shop.example",
                  "-p", str(CHAIN), SERVER, fails=True, stdin="")  # fmt: skip
    world.run("promtool", "query", "instant", f"https://{SERVER}:{WEB}", "up", fails=True)
    for options in (["--http1.1"], ["--tlsv1.3"], ["--tls-max", "1.2"], ["--no-alpn"]):
        world.run(
            "curl",
            "-sk",
            "--resolve",
            f"web.shop.example:{WEB}:{SERVER}",
            *options,
            f"https://web.shop.example:{WEB}/-/ready",
        )
    world.run("curl", "-sk", f"https://[{SERVER6}]:{WEB}/-/ready")


def http(world: World) -> None:
    """Requests of curl: one after another on a connection, with bodies, chunked both ways, refused, to a proxy, by promtool of Go."""
    base = f"http://{SERVER}"
    curl = ("curl", "-s", "-o", "/dev/null")
    for arguments in (
        [f"{base}/one?q=a%20b&page=2#part", "-o", "/dev/null", f"{base}/chunked", "-o", "/dev/null", f"{base}/missing"], ["-I", f"{base}/head"],
        ["-0", f"{base}/old", "-A", "Old Browser/4.0 (compatible; ünï)"], ["-A", "", f"{base}/nobody"], ["-d", "a=b", f"{base}/form"],
        ["--data-binary", "@body.txt", f"{base}/large"], ["-H", "Expect: 100-continue", "-d", "x=y", f"{base}/expected"],
        ["-H", "Transfer-Encoding: chunked", "-d", "@body.txt", f"{base}/upload", "-o", "/dev/null", f"{base}/after-the-upload"],
        ["-X", "DELETE", f"{base}/thing/1"], ["-X", "PROPFIND", f"{base}/dav"], ["-H", "Host: other.example", f"{base}/renamed"],
        ["-x", f"{base}:{HTTP}", "http://proxied.example/absolute?x=1"], ["-L", f"{base}/moved"], [f"{base}/big"],
        [f"http://[{SERVER6}]/six"], ["-H", "Cookie: secret=1", f"{base}/?token=hunter2&page=1&api_key=abc"], [f"{base}/{'long/' * 900}"],
    ):  # fmt: skip
        world.run(*curl, *arguments, fails=True)
    world.run("promtool", "query", "instant", base, "up", fails=True)


def dns(world: World) -> None:
    """Questions of dig; what it reads in the answers is kept."""
    lines = []
    for number, question in enumerate(_QUESTIONS):
        server = SERVER6 if number % 5 == 4 else SERVER
        arguments = [
            "+tries=1",
            "+time=10",
            "+nocookie" if number % 2 else "+cookie",
            "+noall",
            "+answer",
            *question.split(),
        ]
        lines.append(f";; {question}\n" + world.run("dig", f"@{server}", *arguments, fails=True))
    (world.directory / "dig.txt").write_text("".join(lines))
