"""tls_client_hello: a client began TLS over TCP, and what the server answered in the clear (RFC 8446, RFC 5246)."""

from __future__ import annotations

from daemoneye.events.network import PACKET
from daemoneye.events.schema import Field, Record

TLS_CLIENT_HELLO = Record(
    id=18,
    name="tls_client_hello",
    lane="bulk",
    ocsf_class=4001,
    ocsf_activity=1,
    doc=(
        "A TLS ClientHello with what the server's answer showed. JA4 is FoxIO's client fingerprint (BSD licence); JA4+ has another licence and is not "
        "made. TLS 1.3 hides the certificate (flag `certificate_hidden`)."
    ),
    fields=(
        *PACKET,
        Field(30, "sni", "heap16", "Server name that the client asks for; with flag `sni_absent` there is none.", ocsf="tls.sni", text="string"),
        Field(31, "alpn", "heap16", "Application protocols that it offers.", ocsf="tls.alpn", text="argv"),
        Field(32, "version", "heap16", "Highest version that it offers, such as 1.3.", text="string"),
        Field(33, "ja3", "heap16", "JA3 fingerprint, MD5 in hex.", ocsf="tls.ja3_hash", text="string"),
        Field(34, "ja4", "heap16", "JA4 fingerprint.", ocsf="tls.ja4_fingerprint_list", text="string"),
        Field(35, "server_version", "heap16", "Version that the server chose; empty where its answer was not seen.", ocsf="tls.version", text="string"),
        Field(36, "server_cipher", "heap16", "Cipher suite that it chose (IANA TLS parameters), four hex digits.", ocsf="tls.cipher", text="string"),
        Field(37, "certificate_subject", "heap16", "Subject of the server's certificate (RFC 4514).", ocsf="tls.certificate.subject", text="string"),
        Field(38, "certificate_issuer", "heap16", "Its issuer.", ocsf="tls.certificate.issuer", text="string"),
        Field(39, "certificate_sha256", "heap16", "SHA-256 of its DER form in hex.", ocsf="tls.certificate.fingerprints", text="string"),
        Field(40, "interface", "heap16", "Interface on which it was seen; empty where a capture file names none.", text="string"),
        Field(41, "hello_bytes", "u16", "Size of the ClientHello.", unit="bytes"),
    ),
)  # fmt: skip
