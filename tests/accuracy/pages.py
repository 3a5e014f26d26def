"""A small site for the accuracy tests, on Python's own server: `python pages.py PORT`. It keeps connections open and answers chunked where asked."""

from __future__ import annotations

import http.server
import socket
import sys

_STATUS = {"missing": 404, "moved": 302, "large": 413, "dav": 207, "thing": 204}


class _Pages(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "Pages/1.0"

    def _answer(self) -> None:
        self._take_body()
        what = self.path.partition("?")[0].rpartition("example")[2].strip("/").split("/")[0]
        status = _STATUS.get(what, 200)
        self.send_response(status)
        if status == 302:
            self.send_header("Location", "/one")
        if status == 204:
            self.end_headers()
            return
        self.send_header("Content-Type", "text/html; charset=utf-8")
        body = b"y" * (300_000 if what == "big" else 700)
        if what == "chunked":
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for at in range(0, len(body), 100):
                self.wfile.write(b"64\r\n" + body[at : at + 100] + b"\r\n")
            self.wfile.write(b"0\r\n\r\n")
            return
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_HEAD = do_POST = do_DELETE = do_PROPFIND = _answer  # noqa: N815 - names that the server calls

    def _take_body(self) -> None:
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                self.rfile.read(size + 2)
            self.rfile.readline()
        self.rfile.read(int(self.headers.get("Content-Length") or 0))


class _Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6  # IPv4 too
    daemon_threads = True


if __name__ == "__main__":
    _Server(("::", int(sys.argv[1])), _Pages).serve_forever()
