"""Secrets taken out of URIs before anything else sees them.

Responsible for what stands in a request's target and Host; other headers that hold secrets are never read. Replaced are the values of
query and path parameters by name (`NAMES`, `ENDINGS`), userinfo, and tokens that tell by their form what they are.

What others do: OpenTelemetry's conventions for `url.full` and `url.query` replace userinfo and the values of seven signing keys by
`REDACTED` and keep the keys; Hubble replaces userinfo, and whole queries if told; Envoy's access log can leave the whole query out; Suricata
and Zeek log the URI as it is. Here the keys of OpenTelemetry and the usual names of credentials are replaced, whatever their case. Segments
of a path that merely look random stay: digests of images, ids of objects and hashes of assets look the same, and are what an
investigation looks for.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final
from urllib.parse import unquote_plus

MARK: Final = "REDACTED"

NAMES: Final = frozenset({
    # Names as they are compared: lower case, letters and digits only.
    "accesskey", "accesskeyid", "accesstoken", "apikey", "assertion", "auth", "authcode", "authkey", "authorization", "awsaccesskeyid", "bearer",
    "code", "connectsid", "cookie", "credential", "credentials", "creds", "hmac", "idtoken", "jsessionid", "jwt", "key", "nonce", "oauthverifier",
    "otp", "passphrase", "pass", "passcode", "passwd", "password", "phpsessid", "pin", "privatekey", "pwd", "refreshtoken", "samlrequest",
    "samlresponse", "secret", "secretkey", "session", "sessionid", "sessid", "sid", "sig", "sign", "signature", "ticket", "token", "userpass",
})  # fmt: skip
"""Parameters whose values are secrets."""
ENDINGS: Final = (
    "accesskey", "apikey", "authkey", "credential", "hmac", "passphrase", "passwd", "password", "privatekey", "secret", "secretkey", "sessionid",
    "signature", "token",
)  # fmt: skip
"""Also with something before them: client_secret, X-Amz-Security-Token, user[password]."""

# A parameter begins behind a delimiter. URIs within a query's value have theirs encoded, once or more often.
_DELIMITER: Final = r"(?:[?&;#]|%(?:25)*+(?:3[FfBb]|2[36]))"
_ENCODED: Final = r"%(?!(?:25)*+(?:3[BbDdFf]|2[36]))[0-9A-Fa-f]{2}"
"""An encoded character of a name: any but delimiters and the sign of equality."""
_PARAMETER: Final = re.compile(
    rf"(?P<delimiter>{_DELIMITER})(?P<name>(?:[\w.~\[\]+$!-]|{_ENCODED}){{1,64}})(?P<equals>=|%(?:25)*+3[Dd])"
)
_END: Final = re.compile(r"[&#]|\Z")
_PATH_END: Final = re.compile(r"[/?#&]|\Z")
_ENCODED_END: Final = re.compile(r"[&#]|%(?:25)*+2[36]|\Z")
_USERINFO: Final = re.compile(
    r"((?::|%(?:25)*+3[Aa])(?://|%(?:25)*+2[Ff]%(?:25)*+2[Ff]))(?:(?!%(?:25)*+2[Ff])[^/?#&\s])+(@|%(?:25)*+40)"
)
_START: Final = r"(?:(?<![A-Za-z0-9_-])|(?<=%[0-9A-Fa-f]{2}))"
_TOKEN: Final = re.compile(
    _START
    + r"(?:eyJ[\w-]{8,}+\.[\w-]{8,}+(?:\.[\w-]*+)?"  # JWT, RFC 7519
    + r"|(?:gh[oprsu]_|github_pat_|glpat-|dckr_pat_|npm_|pypi-|xox[abeprs]-|sk_live_|rk_live_|hv[sbr]\.)[\w-]{16,}+"
    + r"|(?:AKIA|ASIA)[0-9A-Z]{16}(?![0-9A-Za-z])|AIza[\w-]{35}(?![\w-]))"
)
_TOKEN_HINT: Final = re.compile(r"eyJ|gh[oprsu]_|_pat_|glpat-|npm_|pypi-|xox|k_live_|hv[sbr]\.|AKIA|ASIA|AIza")
_NO_LETTER: Final = re.compile(r"[^a-z0-9]+")


def uri(text: str) -> str:
    """Give a URI, or the path and query of one, without secrets; all else stays as it is. Takes time linear in its length."""
    if ("=" in text or "%" in text) and _has_secret(text):
        text = _parameters(text)
    if "@" in text or "%" in text:
        text = _USERINFO.sub(rf"\1{MARK}\2", text)
    if _TOKEN_HINT.search(text):
        text = _TOKEN.sub(MARK, text)
    return text


def host(text: str) -> str:
    """Give a host without the userinfo that should not be before it."""
    userinfo, at, rest = text.rpartition("@")
    return f"{MARK}@{rest}" if at and userinfo else text


@lru_cache(maxsize=4096)
def is_secret(name: str) -> bool:
    """Whether the value of a parameter of this name, percent-encoded or not, is taken for a secret."""
    plain = name
    for _ in range(name.count("%25") + 1):
        plain = unquote_plus(plain)
    plain = _NO_LETTER.sub("", plain.lower())
    return plain in NAMES or plain.endswith(ENDINGS)


def _has_secret(text: str) -> bool:
    """Whether any parameter may be a secret: quick for the usual URI, where only & and ? begin a parameter."""
    if "%" in text or ";" in text or "#" in text:
        return True
    parameters = text.replace("?", "&").split("&")
    return any(is_secret(parameter.partition("=")[0]) for parameter in parameters[1:])


def _parameters(text: str) -> str:
    """Take the values of secrets out. One pass: what was taken out is not looked at again."""
    parts: list[str] = []
    at = position = 0
    query = text.find("?")
    while found := _PARAMETER.search(text, position):
        position = found.end()
        if not is_secret(found["name"]):
            continue
        if found["equals"] != "=":
            end = _ENCODED_END
        elif found["delimiter"] == ";" and not 0 <= query < position:
            end = _PATH_END
        else:
            end = _END
        stop = end.search(text, position)
        value_end = stop.start() if stop else len(text)
        if value_end > position:
            parts += [text[at:position], MARK]
            at = position = value_end
    return "".join([*parts, text[at:]]) if parts else text
