"""What the chart makes: names, selectors, commands and mounts as the images and the operator expect them, the broker's forms, who may talk to whom."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from daemoneye.codegen import crd
from daemoneye_analytics.settings import parse
from daemoneye_cli.commands.cluster.evidence import PORT
from daemoneye_operator.reconcile import daemonset
from tests.chart.chart import CHART, objects, pods, render, template
from tests.unit.operator.factory import settings

SNAPSHOT = Path(__file__).with_name("selectors.json")
R3 = CHART / "ci" / "r3-values.yaml"
EXTERNAL = CHART / "ci" / "external-nats-values.yaml"
MINIMAL = CHART / "ci" / "minimal-values.yaml"
EVERYTHING = CHART / "ci" / "everything-set-values.yaml"
F = "rel-daemoneye"
SCRAPERS = ("namespace monitoring", 8080)
USERS = "nats.external.credentialsSecretRef.name=users"


def container(named, name):
    (found,) = dict(pods(named))[name]["spec"]["containers"]
    return found


def mounts(named, name):
    return {mount["mountPath"]: mount["name"] for mount in container(named, name)["volumeMounts"]}


def test_kinds_and_names():
    assert set(render()) == {
        *(f"ServiceAccount/{F}-{x}" for x in ("operator", "identity", "callout", "analytics", "nats", "sensor", "uninstall")),
        *(f"ConfigMap/{F}-{x}" for x in ("operator", "analytics")),
        *(f"ConfigMap/{F}-dashboard-{x}" for x in ("overview", "nodes", "network", "findings", "analytics")),
        *(f"Service/{F}-{x}" for x in ("operator", "identity", "callout", "analytics", "nats", "nats-headless")),
        *(f"Deployment/{F}-{x}" for x in ("operator", "identity", "callout", "analytics")),
        f"StatefulSet/{F}-nats",
        *(f"{kind}/{F}-{x}" for kind in ("ClusterRole", "ClusterRoleBinding") for x in ("operator", "identity", "callout")),
        *(f"{kind}/{F}-{x}" for kind in ("Role", "RoleBinding") for x in ("operator", "uninstall")),
        *(f"ClusterRole/{F}-{x}" for x in ("view", "edit")),
        *(f"NetworkPolicy/{F}-{x}" for x in (
            "default-deny", "operator", "identity", "callout", "analytics", "sensor", "nats", "uninstall", "check", "cli",
        )),
        f"Job/{F}-uninstall",
        f"Pod/{F}-check",
        *(f"CustomResourceDefinition/{kind.plural}.daemoneye.io" for kind in crd.KINDS),
    }  # fmt: skip


def test_selectors_are_frozen():
    """What Kubernetes lets nobody change after the installation. A difference here means that users must uninstall to upgrade: do not update the file."""
    found = {}
    for name, value in render(values=R3).items():
        if value["kind"] in {"Deployment", "StatefulSet"}:
            spec = value["spec"]
            found[name] = {"selector": spec["selector"]}
            if value["kind"] == "StatefulSet":
                (claim,) = spec["volumeClaimTemplates"]
                found[name] |= {key: spec[key] for key in ("serviceName", "podManagementPolicy")}
                found[name] |= {"claim": claim["metadata"], "accessModes": claim["spec"]["accessModes"]}
    found["DaemonSet"] = {"selector": {"matchLabels": daemonset.selector_labels(settings())}}
    assert found == json.loads(SNAPSHOT.read_text())


@pytest.mark.parametrize("values", [None, EVERYTHING], ids=["default", "everything-set"])
def test_selectors_select_their_own_pods_and_no_others(values):
    named = render(values=values)
    for name, value in named.items():
        if value["kind"] not in {"Deployment", "StatefulSet"}:
            continue
        selector = value["spec"]["selector"]["matchLabels"]
        assert set(selector) == {f"app.kubernetes.io/{key}" for key in ("name", "instance", "component")}
        chosen = {n for n, pod in pods(named) if selector.items() <= pod["metadata"]["labels"].items()}
        assert chosen == {name}


@pytest.mark.parametrize(
    ("release", "override", "name"),
    [
        ("rel", "", "rel-daemoneye"),
        ("daemoneye", "", "daemoneye"),
        ("my-daemoneye-2", "", "my-daemoneye-2"),
        ("rel", "fullnameOverride=eye", "eye"),
        ("rel", "nameOverride=eye", "rel-eye"),
        ("a-release-whose-name-is-rather-long-indeed", "", "a-release-whose-name-is-rather-long-inde"),
        ("a-release-whose-name-ends-with-a-hyphen", "", "a-release-whose-name-ends-with-a-hyphen"),
    ],
)
def test_fullname(release, override, name):
    named = render(*filter(None, [override]), release=release)
    assert f"Deployment/{name}-operator" in named
    assert json.loads(named[f"ConfigMap/{name}-operator"]["data"]["operator.json"])["fullname"] == name


def test_commands_and_mounts():
    named = render()
    python = "/opt/daemoneye/bin/python"
    operator = [python, "-m", "daemoneye_operator"]
    told = ["--settings", "/etc/daemoneye/operator.json"]
    for name, command in {
        f"Deployment/{F}-operator": [*operator, "run", *told],
        f"Deployment/{F}-identity": [*operator, "identity", *told],
        f"Deployment/{F}-callout": [*operator, "callout", *told],
        f"Job/{F}-uninstall": [*operator, "uninstall", *told],
        f"Pod/{F}-check": [*operator, "check", *told],
        f"Deployment/{F}-analytics": [python, "-m", "daemoneye_analytics", "--config", "/etc/daemoneye/analytics.json"],
        f"StatefulSet/{F}-nats": ["nats-server", "--config", "/etc/nats/nats.conf"],
    }.items():
        assert container(named, name)["command"] == command
    plain = {"/etc/daemoneye": "config", "/tmp": "tmp"}
    broker = {**plain, "/etc/daemoneye/broker": "broker"}
    assert mounts(named, f"Deployment/{F}-operator") == plain
    assert mounts(named, f"Deployment/{F}-identity") == broker
    assert mounts(named, f"Deployment/{F}-callout") == {**broker, "/etc/daemoneye/issuer": "issuer"}
    assert mounts(named, f"Deployment/{F}-analytics") == broker
    assert mounts(named, f"StatefulSet/{F}-nats") == {"/etc/nats": "config", "/data": "data", "/tmp": "tmp"}
    secrets = {
        name: [volume["secret"]["secretName"] for volume in pod["spec"]["volumes"] if "secret" in volume]
        for name, pod in pods(named)
    }
    assert {name: found for name, found in secrets.items() if found} == {
        f"Deployment/{F}-identity": [f"{F}-broker-identity"],
        f"Deployment/{F}-callout": [f"{F}-broker-callout", f"{F}-callout"],
        f"Deployment/{F}-analytics": [f"{F}-broker-analytics"],
        f"StatefulSet/{F}-nats": [f"{F}-nats"],
    }


@pytest.mark.parametrize(
    ("sets", "url"),
    [
        ((), "tls://rel-daemoneye-nats.security.svc:4222"),
        (
            ("nats.external.url=tls://n.example.com:4443", USERS, "nats.external.tlsSecretRef.name=ca"),
            "tls://n.example.com:4443",
        ),
        (("nats.external.url=tls://n.example.com", USERS), "tls://n.example.com"),
    ],
)
def test_analytics_json(sets, url):
    found = json.loads(render(*sets)[f"ConfigMap/{F}-analytics"]["data"]["analytics.json"])
    broker = "/etc/daemoneye/broker"
    # A broker of one's own without a Secret for it has a certificate of the system's authorities.
    tls = {} if url == "tls://n.example.com" else {"tls": {"ca": f"{broker}/ca.crt"}}
    assert found == {
        "nats": {
            "url": url, "user_file": f"{broker}/user", "password_file": f"{broker}/password",
            "inbox_prefix_file": f"{broker}/inbox_prefix", **tls,
        },
        "shards": 1, "parts": 1, "configuration": "broker", "status_interval_s": 10, "health_port": 8080,
    }  # fmt: skip


@pytest.mark.parametrize(("told", "found"), [(2, 2), (10, 10), (60, 10)])
def test_analytics_speaks_as_often_as_sensors_and_never_less_than_its_readers_expect(told, found):
    text = render(f"sensor.statusIntervalSeconds={told}")[f"ConfigMap/{F}-analytics"]["data"]["analytics.json"]
    assert json.loads(text)["status_interval_s"] == found


def test_with_evidence_analytics_answers_where_the_command_line_asks():
    told = json.loads(render("evidence.enabled=true")[f"ConfigMap/{F}-analytics"]["data"]["analytics.json"])
    evidence = parse(told).evidence
    assert evidence is not None
    assert (evidence.namespace, evidence.port) == ("security", PORT)
    # On the loopback, and nowhere else: no container's port, no Service, no NetworkPolicy knows of it.
    for name, value in render("evidence.enabled=true").items():
        assert not name.startswith(("Deployment", "Service/", "NetworkPolicy")) or str(PORT) not in json.dumps(
            value["spec"]
        ), name


def test_a_changed_file_restarts_who_reads_it():
    def sums(*sets):
        return {
            name: pod["metadata"]["annotations"]["checksum/config"]
            for name, pod in pods(render(*sets))
            if pod["metadata"].get("annotations", {}).get("checksum/config")
        }

    plain = sums()
    assert set(plain) == {f"Deployment/{F}-{x}" for x in ("operator", "identity", "callout", "analytics")}
    changed = {name for name, found in sums("findings.maxObjects=5").items() if found != plain[name]}
    assert changed == {f"Deployment/{F}-operator", f"Deployment/{F}-identity", f"Deployment/{F}-callout"}
    changed = {name for name, found in sums("nats.external.url=tls://n:4222", USERS).items() if found != plain[name]}
    assert changed == set(plain) - {f"Deployment/{F}-callout"}


def test_users_labels_do_not_take_a_pod_away():
    pod = dict(pods(render(values=EVERYTHING)))["Deployment/watch-operator"]
    assert pod["metadata"]["labels"]["app.kubernetes.io/component"] == "operator"
    assert pod["metadata"]["labels"]["team"] == "security"
    assert pod["metadata"]["annotations"]["example.com/team"] == "security"


def _apart(spec):
    """Of pods that rather run on nodes of their own: which are meant."""
    (preferred,) = spec["template"]["spec"]["affinity"]["podAntiAffinity"][
        "preferredDuringSchedulingIgnoredDuringExecution"
    ]
    term = preferred["podAffinityTerm"]
    assert term["topologyKey"] == "kubernetes.io/hostname"
    return term["labelSelector"]


def test_only_one_of_each_runs_at_a_time():
    named = render()
    for name in ("operator", "identity", "analytics"):
        spec = named[f"Deployment/{F}-{name}"]["spec"]
        assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})


def test_of_several_analytics_one_is_always_there_and_they_stay_apart():
    named = render("analytics.replicas=2")
    spec = named[f"Deployment/{F}-analytics"]["spec"]
    assert spec["replicas"] == 2
    assert spec["strategy"] == {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
    assert _apart(spec) == spec["selector"]
    budget = named[f"PodDisruptionBudget/{F}-analytics"]["spec"]
    assert budget == {"maxUnavailable": 1, "selector": spec["selector"]}
    # Whose affinity is given knows better.
    given = render(values=EVERYTHING)["Deployment/watch-analytics"]["spec"]
    assert (given["replicas"], set(given["template"]["spec"]["affinity"])) == (3, {"nodeAffinity"})


def test_callouts_share_the_questions_and_one_is_always_there():
    for sets, replicas in (((), 1), (("callout.replicas=2",), 2)):
        spec = render(*sets)[f"Deployment/{F}-callout"]["spec"]
        assert spec["replicas"] == replicas
        assert spec["strategy"] == {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}


def test_only_the_callout_mounts_its_key():
    holders = {
        name
        for name, pod in pods(render())
        for volume in pod["spec"]["volumes"]
        if volume.get("secret", {}).get("secretName") == f"{F}-callout"
    }
    assert holders == {f"Deployment/{F}-callout"}


def test_images_and_their_tags():
    def image(name, *sets):
        return container(render(*sets), name)["image"]

    operator = f"Deployment/{F}-operator"
    assert image(operator) == "daemoneye/operator:0.1.0"
    assert image(operator, "image.tag=dev") == "daemoneye/operator:dev"
    assert image(operator, "image.tag=dev", "operator.image.tag=1.2") == "daemoneye/operator:1.2"
    assert image(operator, "image.registry=r.example.com:5000/a") == "r.example.com:5000/a/daemoneye/operator:0.1.0"
    assert (
        image(f"StatefulSet/{F}-nats", "nats.image.repository=nats", "nats.image.tag=2.12-alpine") == "nats:2.12-alpine"
    )


# ── the broker ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_one_server_by_default():
    named = render()
    spec = named[f"StatefulSet/{F}-nats"]["spec"]
    assert spec["replicas"] == 1
    assert "affinity" not in spec["template"]["spec"]
    assert not [name for name in named if name.startswith("PodDisruptionBudget/")]
    assert spec["persistentVolumeClaimRetentionPolicy"]["whenDeleted"] == "Retain"
    assert spec["volumeClaimTemplates"][0]["spec"] == {
        "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "10Gi"}},
    }  # fmt: skip


def test_three_servers_stay_apart():
    named = render(values=R3)
    spec = named[f"StatefulSet/{F}-nats"]["spec"]
    assert spec["replicas"] == 3
    assert _apart(spec) == spec["selector"]
    budget = named[f"PodDisruptionBudget/{F}-nats"]["spec"]
    assert budget == {"maxUnavailable": 1, "selector": spec["selector"]}
    headless = named[f"Service/{spec['serviceName']}"]["spec"]
    assert headless["clusterIP"] == "None"
    assert headless["publishNotReadyAddresses"] is True
    assert [port["port"] for port in headless["ports"]] == [4222, 6222, 8222]


def test_users_affinity_replaces_ours():
    affinity = render(values=EVERYTHING)["StatefulSet/watch-nats"]["spec"]["template"]["spec"]["affinity"]
    assert affinity == yaml.safe_load(EVERYTHING.read_text())["nats"]["affinity"]


def test_a_former_releases_streams_are_looked_for_where_they_can_be():
    (store,) = render()[f"StatefulSet/{F}-nats"]["spec"]["template"]["spec"]["initContainers"]
    assert store["command"] == ["/opt/daemoneye/bin/python", "-m", "daemoneye_operator.brokerstore"]
    assert {mount["mountPath"] for mount in store["volumeMounts"]} == {"/etc/nats", "/data", "/tmp"}
    assert {"cpu", "memory"} <= store["resources"]["limits"].keys()
    for values in (R3, MINIMAL):
        assert "initContainers" not in render(values=values)[f"StatefulSet/{F}-nats"]["spec"]["template"]["spec"]


def test_without_storage_there_is_no_claim():
    spec = render(values=MINIMAL)[f"StatefulSet/{F}-nats"]["spec"]
    assert "volumeClaimTemplates" not in spec
    assert {"name": "data", "emptyDir": {}} in spec["template"]["spec"]["volumes"]


def test_a_broker_of_ones_own_leaves_ours_out():
    named = render(values=EXTERNAL)
    assert [name for name in named if "nats" in name or "callout" in name] == []
    assert "callout" not in str(named[f"Role/{F}-operator"])
    (rule,) = (
        rule
        for rule in named[f"Role/{F}-operator"]["rules"]
        if rule["resources"] == ["secrets"] and rule["verbs"] == ["get"]
    )
    assert rule["resourceNames"] == ["nats-ca", "nats-users"]


# ── CRDs ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("keep", "policy"), [("true", "keep"), ("false", None)])
def test_crds_are_those_of_the_models(keep, policy):
    found = objects(template(f"crds.keep={keep}", show="templates/crds.yaml"))
    assert len(found) == len(crd.KINDS)
    for kind in crd.KINDS:
        (value,) = (value for value in found if value["spec"]["names"]["kind"] == kind.name)
        assert value["spec"] == yaml.safe_load(crd.render(kind))["spec"]
        assert value["metadata"].get("annotations", {}).get("helm.sh/resource-policy") == policy


def test_crds_may_be_left_out():
    assert "CustomResourceDefinition" not in template("crds.enabled=false")


# ── hooks ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_uninstall_is_bounded_and_leaves_nothing():
    job = render()[f"Job/{F}-uninstall"]
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-delete"
    assert "hook-succeeded" in job["metadata"]["annotations"]["helm.sh/hook-delete-policy"]
    assert job["spec"]["backoffLimit"] == 0
    assert 90 < job["spec"]["activeDeadlineSeconds"] <= 180
    # Its account and rights are ordinary objects: a hook's would be made after it, or stay behind.
    for kind in ("ServiceAccount", "Role", "RoleBinding"):
        assert "annotations" not in render()[f"{kind}/{F}-uninstall"]["metadata"]


def test_helm_test_asks_pods_that_are_not_ready_too():
    named = render()
    assert named[f"Pod/{F}-check"]["metadata"]["annotations"]["helm.sh/hook"] == "test"
    for name in ("operator", "identity", "callout", "analytics"):
        service = named[f"Service/{F}-{name}"]["spec"]
        assert service["publishNotReadyAddresses"] is True
        assert [port["port"] for port in service["ports"]] == [8080]


# ── who may talk to whom ────────────────────────────────────────────────────────────────────────────────────────────


def component(selector):
    if namespace := selector.get("namespaceSelector"):
        return f"namespace {namespace['matchLabels']['kubernetes.io/metadata.name']}"
    return selector["podSelector"].get("matchLabels", {}).get("app.kubernetes.io/component", "any")


def rules(named, name, direction):
    """(who, port) of a NetworkPolicy's rules."""
    spec = named[f"NetworkPolicy/{F}-{name}"]["spec"]
    key = {"ingress": "from", "egress": "to"}[direction]
    return {
        (who, port["port"])
        for rule in spec.get(direction, ())
        for who in ([component(peer) for peer in rule[key]] if key in rule else ["world"])
        for port in rule["ports"]
    }


def test_everything_is_closed_first():
    spec = render()[f"NetworkPolicy/{F}-default-deny"]["spec"]
    assert spec == {
        "podSelector": {"matchLabels": {"app.kubernetes.io/name": "daemoneye", "app.kubernetes.io/instance": "rel"}},
        "policyTypes": ["Ingress", "Egress"],
    }
    # The sensors' pods, which the operator makes, are closed by it, too.
    assert spec["podSelector"]["matchLabels"].keys() <= daemonset.labels(settings()).keys()


@pytest.mark.parametrize(
    ("name", "ingress", "egress"),
    [
        ("operator", {("any", 8080), SCRAPERS}, {("world", 443), ("world", 6443), ("nats", 4222)}),
        ("identity", {("any", 8080), SCRAPERS}, {("world", 443), ("world", 6443), ("nats", 4222)}),
        ("callout", {("any", 8080), SCRAPERS}, {("world", 443), ("world", 6443), ("nats", 4222)}),
        ("analytics", {("any", 8080), SCRAPERS}, {("nats", 4222)}),
        ("sensor", {SCRAPERS}, {("nats", 4222)}),
        ("uninstall", set(), {("world", 443), ("world", 6443)}),
        ("cli", set(), {("world", 443), ("world", 6443), ("nats", 4222)}),
        ("check", set(), {("operator", 8080), ("identity", 8080), ("callout", 8080), ("analytics", 8080)}),
        (
            "nats",
            {
                ("operator", 4222),
                ("identity", 4222),
                ("callout", 4222),
                ("analytics", 4222),
                ("sensor", 4222),
                ("cli", 4222),
                ("nats", 6222),
            },
            {("nats", 6222)},
        ),
    ],
)
def test_what_is_open(name, ingress, egress):
    named = render()
    assert rules(named, name, "ingress") == ingress
    assert rules(named, name, "egress") == egress | {("world", 53)}
    assert named[f"NetworkPolicy/{F}-{name}"]["spec"]["policyTypes"] == ["Ingress", "Egress"]


@pytest.mark.parametrize(
    ("url", "port"), [("tls://n.example.com:4443", 4443), ("tls://n.example.com", 4222), ("tls://[fd00::1]:5222", 5222)]
)
def test_a_broker_of_ones_own_is_reached_by_its_port(url, port):
    named = render(f"nats.external.url={url}", USERS)
    for name in ("operator", "identity", "analytics", "sensor", "cli"):
        assert ("world", port) in rules(named, name, "egress")


def test_no_template_names_a_registry():
    for path in (*(CHART / "templates").iterdir(), CHART / "values.yaml", CHART / "Chart.yaml"):
        assert not re.search(r"\b(docker\.io|ghcr\.io|quay\.io|gcr\.io|registry\.k8s\.io)\b", path.read_text()), path


def test_a_broker_alone_that_cannot_write_is_started_anew_and_one_of_several_may_catch_up():
    def asked(named):
        return container(named, f"StatefulSet/{F}-nats")["livenessProbe"]["httpGet"]["path"]

    # What each says with a full disk, and while it catches up: docs/recovery.md.
    assert asked(render()) == "/healthz"
    assert asked(render(values=R3)) == "/healthz?js-enabled-only=true"
