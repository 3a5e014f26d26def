"""Secrets in URIs never come out, however they are written; what is none stays."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemoneye_sensor.l7.http import request
from daemoneye_sensor.l7.redact import uri

S = "Zq7-hunter2"
JWT = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJzeXN0ZW0ifQ.c2lnbmF0dXJlLW9mLWl0"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (f"/a?token={S}&page=2", "/a?token=REDACTED&page=2"),
        (f"/a?page=2&access_token={S}", "/a?page=2&access_token=REDACTED"),
        (f"/cb?code={S}&state=xyz", "/cb?code=REDACTED&state=xyz"),
        (f"/a?API_KEY={S}&key={S}&apikey={S}", "/a?API_KEY=REDACTED&key=REDACTED&apikey=REDACTED"),
        (f"/blob?sv=2024-11-04&sig={S}%3D&se=2026", "/blob?sv=2024-11-04&sig=REDACTED&se=2026"),
        (
            f"/o?X-Amz-Algorithm=AWS4&X-Amz-Credential={S}%2Fs3&X-Amz-Security-Token={S}&X-Amz-Signature={S}",
            "/o?X-Amz-Algorithm=AWS4&X-Amz-Credential=REDACTED&X-Amz-Security-Token=REDACTED&X-Amz-Signature=REDACTED",
        ),
        (f"/o?AWSAccessKeyId={S}&Signature={S}&Expires=1", "/o?AWSAccessKeyId=REDACTED&Signature=REDACTED&Expires=1"),
        (f"/o?GoogleAccessId=a&X-Goog-Signature={S}", "/o?GoogleAccessId=a&X-Goog-Signature=REDACTED"),
        (f"/login?user=joe&password={S};{S}", "/login?user=joe&password=REDACTED"),
        (f"/login?user=joe;pwd={S}&x=1", "/login?user=joe;pwd=REDACTED&x=1"),
        (f"/login?user%5Bpassword%5D={S}&user[passwd]={S}", "/login?user%5Bpassword%5D=REDACTED&user[passwd]=REDACTED"),
        (f"/a?%74oken={S}&access%5Ftoken={S}", "/a?%74oken=REDACTED&access%5Ftoken=REDACTED"),
        (f"/cart;jsessionid={S}/next?x=1", "/cart;jsessionid=REDACTED/next?x=1"),
        (f"/cart;jsessionid={S}?x=1", "/cart;jsessionid=REDACTED?x=1"),
        (f"/a&token={S}/{S}", "/a&token=REDACTED"),
        (f"/r?to=https://x.example/?token={S}&n=1", "/r?to=https://x.example/?token=REDACTED&n=1"),
        (
            f"/r?to=https%3A%2F%2Fx%2F%3Ftoken%3D{S}%26n%3D1&m=2",
            "/r?to=https%3A%2F%2Fx%2F%3Ftoken%3DREDACTED%26n%3D1&m=2",
        ),
        (
            f"/r?to=https%253A%252F%252Fx%253Fa%253D1%2526token%253D{S}",
            "/r?to=https%253A%252F%252Fx%253Fa%253D1%2526token%253DREDACTED",
        ),
        (f"/proxy/http://joe:{S}@x.example/a", "/proxy/http://REDACTED@x.example/a"),
        (f"/proxy?u=http://joe:{S}@{S}@x.example/a", "/proxy?u=http://REDACTED@x.example/a"),
        (f"/proxy?u=http%3A%2F%2Fjoe%3A{S}%40x.example%2Fa", "/proxy?u=http%3A%2F%2FREDACTED%40x.example%2Fa"),
        (f"/verify/{JWT}", "/verify/REDACTED"),
        (f"/verify/{JWT}/done?x={JWT}", "/verify/REDACTED/done?x=REDACTED"),
        (f"/verify%2F{JWT}", "/verify%2FREDACTED"),
        ("/clone/ghp_0123456789abcdefABCDEF0123456789abcd", "/clone/REDACTED"),
        ("/maps?q=1&k=AIza" + "x" * 35, "/maps?q=1&k=REDACTED"),
        (f"/cb#access_token={S}", "/cb#access_token=REDACTED"),
        (f"/saml?SAMLResponse={S}&RelayState=/a", "/saml?SAMLResponse=REDACTED&RelayState=/a"),
    ],
)
def test_secrets_are_taken_out_and_the_rest_stays(before: str, after: str) -> None:
    assert uri(before) == after
    assert S not in uri(before)
    assert uri(after) == after
    head = f"GET {before} HTTP/1.1\r\nHost: h\r\n\r\n".encode()
    told, plain = request(head), request(head, redact=False)
    assert told is not None
    assert plain is not None
    assert (told.uri, plain.uri) == (after, before)


@pytest.mark.parametrize(
    "text",
    [
        "/",
        "",
        "*",
        "/search?q=token&lang=en",
        "/a?monkey=1&keyboard=2&tokens_used=3&author=x&codec=h264&passage=4&design=5",
        "/v2/app/blobs/sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "/assets/app.3f2a9c1d7be04b5f8c6a.js?v=9c1d7be04b5f",
        "/objects/550e8400-e29b-41d4-a716-446655440000",
        "/a?token=&b=",
        "/a?token",
        "/mail/joe@example.com",
        "/a?u=mailto:joe@example.com",
        "/%E2%9C%93?q=%26%3D",
        "/keyJson/eyJ.x",
        "/../../etc/passwd",
        "/a?q=' OR 1=1 --",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert uri(text) == text


@given(
    st.text(alphabet="aZ0_-./:@%?&;=#[]+~ 2536FDeyJ", max_size=80),
    st.sampled_from(["token", "X-Amz-Signature", "client_secret", "pwd"]),
)
def test_a_secret_parameter_never_comes_out_whatever_is_around_it(around: str, name: str) -> None:
    assert S not in uri(f"/p?{around}&{name}={S}")
    assert S not in uri(f"/p?{name}={S}&{around}")


@pytest.mark.parametrize(
    "piece",
    [
        "%25",
        "%",
        "&a=",
        "?",
        ";",
        "http://",
        "://",
        "eyJ",
        "eyJaaaaaaaaa.",
        "@",
        "%2525",
        "%2F%2F",
        "=",
        "&%25",
        "token=",
        "a",
        "%3Atoken%3D",
        "eyJ%",
    ],
)
def test_the_time_is_linear_in_the_size_of_a_uri(piece: str) -> None:
    def seconds(size: int) -> float:
        text = "/?" + piece * (size // len(piece))
        best = 1.0
        for _ in range(3):
            begun = time.process_time()
            uri(text)
            best = min(best, time.process_time() - begun)
        return best

    assert seconds(64_000) < max(64 * seconds(4_000), 0.05), (
        "16 times the size; a quadratic one takes 256 times the time"
    )
    assert seconds(64_000) < 0.5
