"""Secrets are taken out of text and values, whatever form they have; what is none stays."""

import json
import time

import pytest

from daemoneye_cli.redact import MARK, Redactor, is_secret_name

S = "Zq7-hunter2/x"
JWT = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJzeXN0ZW0ifQ.c2lnbmF0dXJlLW9mLWl0"
PEM = "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEEIGZha2Vmb3J0ZXN0\nAwEHoUQDQgAE\n-----END EC PRIVATE KEY-----"

TEXTS = [
    f"password={S}",
    f"DB_PASSWORD: {S} goes on",
    f"  - PGPASSWORD: {S}",
    f'time=1 level=info msg="connected" api_key="{S} and more" user=x',
    f'{{"level":"info","options":{{"clientSecret":"{S}"}}}}',
    f'2026-01-01 INFO {{"password":"a\\"{S}"}} sent',
    f'sent {{\\"token\\":\\"{S}\\",\\"n\\":1}}',
    f"connecting to nats://user:{S}@host:4222,nats://other:{S}@second:4222",
    "postgres://u:Zq7-hunter2@db/x",
    f"curl -H 'Authorization: Basic {S}' https://host",
    f"Authorization: Bearer {S}",
    f'Authorization: Digest username="u", response="{S}"',
    f"proxy-authorization={S}",
    f"Cookie: session={S}; theme={S}",
    f"X-Api-Key: {S}",
    f"authorized with bearer {S}",
    f"tool --password {S} --verbose",
    f"tool --token='{S}' --verbose",
    f"ran ['tool', '--password', '{S}', '-v']",
    f'ran ["tool","--password","{S}"] at once',
    f'ran [\\"tool\\",\\"--token\\",\\"{S}\\"]',
    f"GET https://b.example/o?X-Amz-Expires=9&X-Amz-Signature={S}&n=1",
    f"GET https://a.example/c?sv=2024&sig={S}",
    f"mysql -u root -p{S} shop",
    f"curl -u bob:{S} http://host",
    f"GET /x?access_token={S}&page=1",
    f"password: |\n  {S}\n  {S}\nnext: 1",
    f"# conf\nauth_secret = {S}",
    PEM.replace("MHcCAQEEIGZha2Vmb3J0ZXN0", S),
    json.dumps({"pem": PEM.replace("MHcCAQEEIGZha2Vmb3J0ZXN0", S)}),
    f"{'A' * 64}\n{'B' * 60}hunter2\n{'C' * 64}\n-----END PRIVATE KEY-----",
    f"-----BEGIN PRIVATE KEY-----\n{S}",
    f"-----BEGIN USER NKEY SEED-----\n{S}\n------END USER NKEY SEED------",
]
TOKENS = [
    JWT,
    "SUAM" + "A2B3C4D5" * 6 + "ABCDEF",
    "ghp_" + "a1B2" * 9,
    "glpat-" + "a1B2" * 5,
    "AKIAIOSFODNN7EXAMPLE",
    "xoxb-123456789012-abcdefghijkl",
    "abcdef.0123456789abcdef",
]
VALUES = [
    {"env": [{"name": "DB_PASSWORD", "value": S}]},
    {"password": S},
    {"passwords": {"alice": S}},
    {"tokens": [S]},
    {"nats": {"authorization": {"users": [{"user": "u", "password": S}]}}},
    ["tool", "--password", S],
    ["curl", "-u", f"bob:{S}"],
    ["curl", "-H", f"Authorization: Basic {S}"],
    {"data": {"operator.json": json.dumps({"nats": {"password": S}})}},
    {"data": {"conf.yaml": f"broker:\n  password: {S}\n"}},
    {"apiVersion": "v1", "kind": "Secret", "data": {"any": S}},
    {"items": [{"apiVersion": "v1", "kind": "Secret", "stringData": {"any": S}}]},
    {"auths": {"registry.example": {"auth": S}}},
    {"args": [f"--url=https://u:{S.replace('/', '')}@host"]},
]
HARMLESS_TEXTS = [
    'secret "daemoneye-broker-sensor" not found',
    "Secret security/daemoneye-ca made",
    "tokenExpirationSeconds: 3600",
    "password_file=/etc/broker/password",
    "imageID: docker-pullable://nginx@sha256:2834dc507516af02784808c5f48b7cbe38b8ed5d0f4837f16e78d00deb7e7767",
    "containerd://0b1c9f8e6d7a",
    "https://kubernetes.default.svc:443/api?watch=1",
    "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----",
    "2026-01-01 00:00:00,123 INFO daemoneye_operator.controller: pass 12 took 0.2 s",
]
HARMLESS_VALUES = [
    {"automountServiceAccountToken": False, "imagePullSecrets": [{"name": "registry"}]},
    {"secret": {"secretName": "daemoneye-ca", "defaultMode": 288, "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
    {"serviceAccountToken": {"audience": "daemoneye-broker", "expirationSeconds": 3600, "path": "token"}},
    {"valueFrom": {"secretKeyRef": {"name": "broker", "key": "password"}}},
    {"authorization": {"users": [{"user": "sensor", "permissions": {"publish": {"allow": ["daemoneye.>"]}}}]}},
    {"env": [{"name": "TOKEN_FILE", "value": "/run/token"}, {"name": "NODE", "value": "node-1"}]},
    {"lost": {"ring": 1}, "time": 1795780733677896750, "ok": True, "none": None},
]


@pytest.mark.parametrize("text", TEXTS)
def test_text(text):
    redactor = Redactor()
    clean = redactor.text(text)
    assert S not in clean
    assert "hunter2" not in clean
    assert MARK in clean
    assert redactor.count
    assert Redactor().text(clean) == clean, "what is clean stays as it is"


@pytest.mark.parametrize("token", TOKENS, ids=lambda token: token[:6])
@pytest.mark.parametrize("around", ["{}", "refused {} at the door", '"{}"', "x={}", "a\\n{}\\n"])
def test_a_token_wherever_it_stands(token, around):
    assert token not in Redactor().text(around.format(token))


@pytest.mark.parametrize("value", VALUES, ids=str)
def test_values(value):
    redactor = Redactor()
    clean = json.dumps(redactor.value(value))
    assert "hunter2" not in clean
    assert MARK in clean
    assert redactor.count


@pytest.mark.parametrize("text", HARMLESS_TEXTS)
def test_text_without_a_secret_stays(text):
    redactor = Redactor()
    assert redactor.text(text) == text
    assert not redactor.count


@pytest.mark.parametrize("value", HARMLESS_VALUES, ids=str)
def test_values_without_a_secret_stay(value):
    assert Redactor().value(value) == value


def test_what_stands_around_a_secret_stays():
    assert Redactor().text(f"level=info password={S} node=node-1") == f"level=info password={MARK} node=node-1"
    assert Redactor().text(f"one\n{PEM}\ntwo") == f"one\n{MARK}\ntwo"
    assert Redactor().text(f"first\n{'A' * 64}\n-----END PRIVATE KEY-----\nlast") == f"first\n{MARK}\nlast"
    assert Redactor().text("to nats://u:p@host:4222/x") == f"to nats://{MARK}@host:4222/x"


def test_known_secrets_go_wherever_they_stand():
    redactor = Redactor()
    redactor.learn(["correct horse", "abc"])
    assert redactor.text("it said 'correct horse' twice, abc") == f"it said '{MARK}' twice, abc"
    assert redactor.value({"correct horse": ["x correct horse"]}) == {MARK: [f"x {MARK}"]}


@pytest.mark.parametrize(
    "name",
    [
        "password",
        "DB_PASSWORD",
        "clientSecret",
        "AWS_SECRET_ACCESS_KEY",
        "privateKey",
        "PGPASSWORD",
        "GITHUB_TOKEN_RW",
        "x-api-key",
    ],
)
def test_names_of_secrets(name):
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "secretName",
        "password_file",
        "tokenExpirationSeconds",
        "key",
        "author",
        "compass",
        "keyboard",
        "tokenizer",
        "secretKeyRef",
        "",
    ],
)
def test_names_of_others(name):
    assert not is_secret_name(name)


@pytest.mark.parametrize(
    "piece",
    ["A", "eyJ", "://", "a.b", "password=", "-----BEGIN PRIVATE KEY-----", "mysql ", "://a:", "x-", 'token:"\\', "curl ", "--a ", "password: |\n ", "-",
     "ABCD/01\n"],
)  # fmt: skip
def test_hostile_text_takes_linear_time(piece):
    text = piece * (400_000 // len(piece)) + "\n-----END PRIVATE KEY-----"
    started = time.process_time()
    Redactor().text(text)
    assert time.process_time() - started < 10, "a quadratic pattern would take minutes"


def test_values_nested_beyond_reason():
    value: object = S
    for _ in range(200):
        value = {"a": [value]}
    assert "hunter2" not in json.dumps(Redactor().value({"password": value}))
    assert Redactor().text("[" * 100_000 + "password") is not None
