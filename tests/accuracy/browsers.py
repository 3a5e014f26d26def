"""Chromium and Firefox without a window, at the servers of `world`: what browsers say is unlike what tools say.

Their hellos hold GREASE, a post-quantum key (so that they need a second segment) and an encrypted hello, and Chromium cuts a QUIC hello into
pieces that it sends in disorder, among PINGs and padding.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Final

from tests.accuracy.world import HTTP, QUIC, SERVER, WEB, World, wait

PAGES: Final = (
    f"https://{{}}.shop.example:{WEB}/-/ready",
    f"http://{{}}.shop.example:{HTTP}/browser?page=1&token=hunter2",
    "https://{}-quic.shop.example/",
)
"""What a browser opens, under its own name: by TLS, in the clear, by QUIC."""
BROWSERS: Final = {"chromium": "chromium", "firefox": "firefox-esr"}
"""Their programs, of Debian's packages; one that is not there is left out."""
_CHROMIUM: Final = (
    "chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--ignore-certificate-errors", "--disable-background-networking",
    "--disable-component-update", "--no-first-run", f"--host-resolver-rules=MAP *.shop.example {SERVER}", "--timeout=4000", "--dump-dom",
    "--enable-quic", f"--origin-to-force-quic-on=chromium-quic.shop.example:{QUIC}",
)  # fmt: skip
_PREFERENCES: Final = {
    "network.dns.forceResolve": f'"{SERVER}"',
    "network.trr.mode": "5",  # ask nobody over HTTPS
    "network.http.http3.alt-svc-mapping-for-testing": f'"firefox-quic.shop.example;h3=:{QUIC}"',
    "network.http.http3.force-use-alt-svc-mapping-for-testing": "true",
    "dom.security.https_first": "false",
    "app.normandy.enabled": "false",
    "browser.safebrowsing.update.enabled": "false",
    "datareporting.policy.dataSubmissionEnabled": "false",
    "media.gmp-manager.updateEnabled": "false",
    "network.captive-portal-service.enabled": "false",
    "network.connectivity-service.enabled": "false",
    "services.settings.server": '""',
    "toolkit.telemetry.enabled": "false",
}
"""What sends a browser of its own accord to somebody else is off: only its own words are to be on the wire."""


def browse(world: World) -> None:
    """Each browser opens each page."""
    if shutil.which(BROWSERS["chromium"]):
        _chromium(world)
    if shutil.which(BROWSERS["firefox"]):
        _firefox(world)


def _chromium(world: World) -> None:
    for page in PAGES:
        world.run(*_CHROMIUM, f"--user-data-dir={world.directory / 'chromium'}", page.format("chromium"), fails=True)


def _firefox(world: World) -> None:
    profile = world.directory / "firefox"
    profile.mkdir()
    lines = (f'user_pref("{name}", {value});\n' for name, value in _PREFERENCES.items())
    (profile / "user.js").write_text("".join(lines))
    for page, seen in zip(PAGES, (f"dst port {WEB}", f"dst port {HTTP}", f"udp dst port {QUIC}"), strict=True):
        _open(world, profile, page.format("firefox"), seen)


def _open(world: World, profile: Path, page: str, seen: str) -> None:
    """It stays where it trusts no certificate, and so ends when it has said what it has to say: three packets more to the server."""
    before = _count(world, seen)
    process = world.start(
        BROWSERS["firefox"], "--headless", "--no-remote", "--profile", str(profile), "--screenshot", os.devnull, page
    )
    wait(lambda: process.poll() is not None or _count(world, seen) >= before + 3, f"Firefox at {page}")
    process.kill()
    process.wait()


def _count(world: World, condition: str) -> int:
    return world.run("tcpdump", "-n", "-r", "wire.pcap", f"dst host {SERVER} and {condition}", fails=True).count("\n")
