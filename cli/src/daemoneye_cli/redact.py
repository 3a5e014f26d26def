"""Secrets taken out of whatever leaves the machine: one table of what is one, applied to text and to values alike.

Responsible for passwords, tokens, keys, headers and URLs' userinfo in logs, command lines, configurations and objects; not for what
is gathered (:mod:`daemoneye_cli.bundle`). What is taken out is replaced by :data:`MARK`. Rather too much than too little, and whatever
the input is, the time is about linear in it: logs hold what watched processes choose.
"""

from __future__ import annotations

import functools
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

MARK: Final = "REDACTED"

_WORDS: Final = frozenset({
    "password", "passwords", "passwd", "passphrase", "pass", "pwd", "secret", "secrets", "token", "tokens", "credential", "credentials", "cred",
    "creds", "apikey", "apikeys", "seed", "nkey", "jwt", "bearer", "authorization", "cookie", "cookies", "auth", "auths", "dockerconfigjson", "htpasswd",
})  # fmt: skip
"""A name with one of these words is a secret's."""
_PAIRS: Final = frozenset(
    (first, second)
    for first in ("private", "access", "api", "signing", "encryption", "master", "account", "shared", "session")
    for second in ("key", "keys")
)
_ENDINGS: Final = (
    "password", "passwords", "passwd", "passphrase", "secret", "token", "tokens", "credential", "credentials", "apikey", "privatekey", "accesskey", "pwd",
)  # fmt: skip
"""Also without a boundary of words before it: PGPASSWORD, clientsecret."""
_REFERENCES: Final = frozenset({
    "name", "names", "ref", "refs", "file", "files", "path", "paths", "dir", "directory", "mount", "volume", "namespace", "audience", "audiences",
    "expiration", "expiry", "expires", "seconds", "ttl", "type", "kind", "version", "algorithm", "policy", "count", "limit", "enabled", "reviews",
    "url", "uri", "endpoint", "issuer", "bytes", "mode",
})  # fmt: skip
"""A name that ends with one of these tells where a secret is, not what: secretName, password_file."""
_POINTERS: Final = frozenset({"key", "items", "optional", "user", "username"})
"""Keys that keep their text within a value whose own name is a secret's: secretKeyRef, a volume's items."""

_SECTIONS: Final = frozenset({"auth", "authorization"})
"""Names under which configurations have much that is no secret beside what is, which has a name of its own."""

_SPLIT: Final = re.compile(r"[^A-Za-z]+|(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_HINT: Final = re.compile(r"(?i)pass|pwd|secret|token|cred|key|seed|jwt|bearer|auth|cookie")
_NAME: Final = re.compile(r"""(?<![\w.-])([\w.-]{1,128}+)(\\*["'])?[ \t]*+(?::(?![/:])|=(?!=)|:=)[ \t]*+""")
_VALUE: Final = re.compile(
    r"""(?P<open>\\+["'])(?P<nested>(?:(?!(?<!\\)(?P=open))[^\r\n])*)"""  # \"quoted, in JSON within JSON\"
    r"""|"(?P<double>(?:\\.|[^"\\\r\n])*)|'(?P<single>(?:\\.|[^'\\\r\n])*)"""
    r"""|(?:(?i:basic|bearer|digest|negotiate|token)[ \t]++)?(?P<bare>[^\s"'&]++)"""
)
_BLOCK: Final = re.compile(r"[|>][+-]?\d?[ \t]*(?:#[^\n]*)?$")
# What follows it, or is the next of a quoted list: --password X, ['--password', 'X'].
_OPTION: Final = re.compile(r"""(?<![\w-])(--?[A-Za-z][\w-]{1,64}+)(?:[ \t]++|\\*["'],[ \t]*+)(?![-\s])""")

_START: Final = r"(?:(?<!\w)|(?<=\\[nrt]))"
"""Where a token can begin: not within a word, unless that is the escape of a line's end."""
_TABLE: Final = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        # Headers, to the end of the line or of the quotation.
        (r"""(?i)\b((?:proxy-)?authorization["']?[ \t]*[:=][ \t]*["']?digest)[ \t][^\r\n]+""", rf"\1 {MARK}"),
        (r"""(?i)\b((?:proxy-)?authorization|(?:set-)?cookie)(\\*["']?[ \t]*+[:=][ \t]*+\\*["']?)(?!digest)[^\r\n"'\\]+""", rf"\1\2{MARK}"),
        (r"""(?i)\b(x-[\w-]{0,40}(?:token|key|auth|secret))(\\*["']?[ \t]*+[:=][ \t]*+\\*["']?)[^\r\n"'\\]+""", rf"\1\2{MARK}"),
        (_START + r"""(?i:(bearer))[ \t]+[\w.~+/-]{8,}={0,2}""", rf"\1 {MARK}"),
        # URLs' userinfo; an image's digest (docker-pullable://name@sha256:…) is none.
        (r"""(://[^/\s:@"'<>]{1,256}:)(?!\d{1,5}[/\s])[^\s@"'<>]{1,512}@""", rf"\1{MARK}@"),
        (r"""(://)[^/\s"'<>]{1,1024}@(?!sha256:)""", rf"\1{MARK}@"),
        # Who has a signed URL has what it is of.
        (r"""(?i)([?&](?:sig|signature|x-(?:amz|goog|oss)-signature)=)[^&\s"'<>\\]+""", rf"\1{MARK}"),
        # What looks like a token wherever it stands: JWT, NATS seeds, those of clouds and forges, Kubernetes' bootstrap tokens.
        (r"eyJ[\w-]{8,1024}+\.[\w-]{8,8192}+(?:\.[\w-]{0,4096}+)?", MARK),
        (_START + r"S[UAOCNX][A-Z2-7]{56}(?![A-Z0-9])", MARK),
        (_START + r"(?:gh[oprsu]_|github_pat_|glpat-|dckr_pat_|hv[sbr]\.|npm_|pypi-|xox[abeprs]-|sk_live_|rk_live_|sk-)[\w-]{16,512}", MARK),
        (_START + r"(?:(?:AKIA|ASIA)[0-9A-Z]{16}\b|AIza[\w-]{35})", MARK),
        (_START + r"(?<![.-])[a-z0-9]{6}\.[a-z0-9]{16}(?![\w.-])", MARK),
        # Programs whose short options are passwords.
        (r"""\b((?:mysql|mysqldump|mysqladmin|mariadb|mariadb-dump|sshpass)\b[^\r\n]{0,256}?[ \t]-p)[ \t]?[^\s"']+""", rf"\1{MARK}"),
        (r"""\b((?:curl|wget|http)\b[^\r\n]{0,256}?[ \t](?:-u|--user)[ =]["']?[^\s:"']{0,128}:)[^\s"']+""", rf"\1{MARK}"),
    )
)  # fmt: skip
"""Pattern and what stands in its place; secrets by name, PEM blocks and arguments after options need more than a pattern."""

_BEGIN: Final = re.compile(r"-----BEGIN [A-Z0-9 ]{0,40}(?:PRIVATE KEY|SEED|JWT)[A-Z ]{0,10}-----")
_END: Final = re.compile(r"-{5,6}END [A-Z0-9 ]{0,40}(?:PRIVATE KEY|SEED|JWT)[A-Z ]{0,10}-{5,6}")
_KEY_CHARACTERS: Final = 16_384
"""Longest private key that is looked for the end of; without an end so much is taken out."""
_KEY_LINE: Final = re.compile(r"[^\n]{0,64}?[A-Za-z0-9+/=]{16,}\s*")
_DEPTH: Final = 32
_MAX_INDENT: Final = 256
_NOTHING: Final = frozenset({"", MARK, "null", "true", "false", "None", "True", "False", "{", "["})
"""Values that are no secret, and the beginnings of those whose parts have names of their own."""
_MIN_KNOWN: Final = 6


@functools.lru_cache(maxsize=4096)
def is_secret_name(name: str) -> bool:
    """Whether a variable, setting, option or header of this name holds a secret."""
    words = [word for word in _SPLIT.sub(" ", name).lower().split(" ") if word]
    if not words or words[-1] in _REFERENCES:
        return False
    if not _WORDS.isdisjoint(words) or any(word.endswith(_ENDINGS) for word in words):
        return True
    return not _PAIRS.isdisjoint(itertools.pairwise(words))


class Redactor:
    """Takes secrets out, and counts what it took; ``known`` are secrets that are taken out wherever they stand."""

    def __init__(self, known: Iterable[str] = ()) -> None:
        self.count = 0
        self._known: set[str] = set()
        self._pattern: re.Pattern[str] | None = None
        self.learn(known)

    def learn(self, known: Iterable[str]) -> None:
        """Take these out from now on; those too short to be told from other text are left to the rules."""
        self._known.update(text for text in known if len(text) >= _MIN_KNOWN and text != MARK)
        if self._known:
            longest_first = sorted(self._known, key=len, reverse=True)
            self._pattern = re.compile("|".join(map(re.escape, longest_first)))

    def text(self, text: str) -> str:
        """Give text without secrets."""
        if self._pattern is not None:
            text = self._sub(self._pattern, MARK, text)
        text = self._keys(text)
        for pattern, replacement in _TABLE:
            text = self._sub(pattern, replacement, text)
        return "\n".join(self._lines(text.split("\n")))

    def value(self, value: Any, *, secret: bool = False, depth: int = 0) -> Any:
        """Give a value as JSON has them without secrets; ``secret`` says that its name is a secret's."""
        if depth > _DEPTH:
            return f"{MARK}: nested too deeply"
        if isinstance(value, str):
            return self._mark() if secret and value else self._string(value, depth)
        if isinstance(value, Mapping):
            return self._mapping(value, secret=secret, depth=depth)
        if isinstance(value, list | tuple):
            return self._list(value, secret=secret, depth=depth)
        if secret and isinstance(value, int | float) and not isinstance(value, bool):
            return self._mark()
        return value

    def _mapping(self, value: Mapping[Any, Any], *, secret: bool, depth: int) -> dict[str, Any]:
        if value.get("kind") == "Secret" and "apiVersion" in value:
            return {"kind": "Secret", "content": self._mark()}
        # An environment variable, a header, a parameter: {name: X, value: Y}.
        label = value.get("name", value.get("key"))
        named = isinstance(label, str) and is_secret_name(label)
        found = {}
        for key, content in value.items():
            name = str(key)
            own = is_secret_name(name) or (named and name in {"value", "values", "default"})
            points = name.lower() in _POINTERS or _last_word(name) in _REFERENCES
            inherited = secret and not points
            scalar = not isinstance(content, Mapping | list | tuple)
            # Numbers and switches named like secrets are sizes and settings unless a secret was announced above them.
            hidden = inherited or (own and (isinstance(content, str) if scalar else name.lower() not in _SECTIONS))
            found[self.text(name)] = self.value(content, secret=hidden, depth=depth + 1)
        return found

    def _list(self, value: Iterable[Any], *, secret: bool, depth: int) -> list[Any]:
        found: list[Any] = []
        before = ""
        for content in value:
            # A command line: what follows --password is one, and what follows -u of curl has one.
            hidden = before.startswith("-") and is_secret_name(before.lstrip("-")) and not str(content).startswith("-")
            if isinstance(content, str) and before in {"-u", "--user"} and ":" in content:
                found.append(f"{content.partition(':')[0]}:{self._mark()}")
            else:
                found.append(self.value(content, secret=secret or hidden, depth=depth + 1))
            before = content if isinstance(content, str) else ""
        return found

    def _string(self, text: str, depth: int) -> str:
        if text[:1] in {"{", "["}:
            try:
                content = json.loads(text)
            except (ValueError, RecursionError):
                content = None
            if isinstance(content, dict | list):
                before = self.count
                clean = self.value(content, depth=depth + 1)
                return json.dumps(clean, ensure_ascii=False) if self.count > before else text
        return self.text(text)

    def _lines(self, lines: list[str]) -> Iterator[str]:
        """Take out the values of secrets by name, a line at a time; YAML's blocks go on over several."""
        block = -1
        for line in lines:
            indentation = len(line) - len(line.lstrip(" "))
            if block >= 0 and (indentation > block or not line.strip()):
                if line.strip():
                    yield " " * indentation + self._mark()
                else:
                    yield line
                continue
            block = -1
            if not _HINT.search(line):
                yield line
                continue
            if line.lstrip()[:1] in {"{", "["} and len(line) > 1:
                # A line of JSON, as logs have them: names and values are told apart for sure.
                clean = self._json_line(line)
                if clean is not None:
                    yield clean
                    continue
            redacted, opens = self._named(line)
            block = indentation if opens else -1
            yield redacted

    def _json_line(self, line: str) -> str | None:
        try:
            content = json.loads(line)
        except (ValueError, RecursionError):
            return None
        before = self.count
        clean = self.value(content)
        return json.dumps(clean, ensure_ascii=False) if self.count > before else line

    def _named(self, line: str) -> tuple[str, bool]:
        """Give a line without the values of secrets' names, and whether its value goes on in the lines below."""
        opens = False
        for pattern in (_NAME, _OPTION):
            parts: list[str] = []
            at = position = 0
            while found := pattern.search(line, position):
                position = found.end()
                name = found[1].lstrip("-")
                if not is_secret_name(name[1:] if line[found.start() - 1 : found.start()] == "\\" else name):
                    continue
                # A line that begins with the name is YAML's or INI's.
                alone = pattern is _NAME and found.start() < _MAX_INDENT and not line[: found.start()].strip(" -\t\"'")
                if alone and _BLOCK.fullmatch(line, position):
                    opens = True
                    continue
                span = _secret_span(line, position, to_end=alone)
                if span is None:
                    continue
                parts += [line[at : span[0]], self._mark()]
                at = position = span[1]
            line = "".join([*parts, line[at:]])
        return line, opens

    def _keys(self, text: str) -> str:
        """Take out private keys, also one whose beginning or end was cut off."""
        parts, at = [], 0
        first = _END.search(text)
        begun = _BEGIN.search(text)
        if first and not (begun and begun.start() < first.start()):
            at = first.end()
            parts += [_before_key_end(text[: first.start()]), self._mark()]
        while found := _BEGIN.search(text, at):
            end = _END.search(text, found.end(), found.end() + _KEY_CHARACTERS)
            parts += [text[at : found.start()], self._mark()]
            at = end.end() if end else min(len(text), found.end() + _KEY_CHARACTERS)
        return "".join([*parts, text[at:]]) if parts else text

    def _sub(self, pattern: re.Pattern[str], replacement: str, text: str) -> str:
        clean, times = pattern.subn(replacement, text)
        if times and clean != text:
            self.count += times
        return clean

    def _mark(self) -> str:
        self.count += 1
        return MARK


def _secret_span(line: str, position: int, *, to_end: bool) -> tuple[int, int] | None:
    """Give where the value lies that begins at ``position``; None if there is none worth hiding."""
    value = _VALUE.match(line, position)
    if value is None:
        return None
    for group in ("nested", "double", "single"):
        if value[group] is not None:
            return value.span(group) if value[group] not in _NOTHING else None
    if value["bare"].rstrip(",;)}]") in _NOTHING:
        return None
    start, end = value.span()
    if to_end and line[start] not in "{[":
        end = len(line.rstrip())  # blanks belong to it
    return start, end


def _before_key_end(text: str) -> str:
    """Give what stands before the lines of a key whose end alone is there."""
    lines = text.split("\n")
    tail = lines.pop()
    while lines and len(tail) < _KEY_CHARACTERS and _KEY_LINE.fullmatch(lines[-1]):
        tail = lines.pop() + tail
    return "\n".join([*lines, ""]) if lines else ""


def _last_word(name: str) -> str:
    words = _SPLIT.sub(" ", name).lower().split()
    return words[-1] if words else ""
