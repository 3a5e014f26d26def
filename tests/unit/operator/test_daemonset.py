"""The sensor pod."""

import json

from daemoneye_operator.reconcile.daemonset import (
    CAPABILITIES,
    CAPTURE_CAPABILITIES,
    checksum,
    desired_configmap,
    desired_daemonset,
    selector_labels,
)
from daemoneye_operator.settings import OperatorSettings
from tests.unit.operator.factory import SETTINGS, settings

OWNER = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "daemoneye-operator", "uid": "u"}


def pod(**sensor):
    return desired_daemonset(settings(**sensor), [], OWNER)["spec"]["template"]["spec"]


def told(of):
    return json.loads(desired_configmap(of, "cluster", OWNER)["data"]["sensor.json"])


def test_the_pod_may_only_what_it_needs():
    spec = pod()
    (container,) = spec["containers"]
    assert spec["hostPID"]
    assert "hostNetwork" not in spec
    assert spec["automountServiceAccountToken"] is False
    assert spec["serviceAccountName"] == "daemoneye-sensor"
    context = container["securityContext"]
    assert context["readOnlyRootFilesystem"]
    assert not context["privileged"]
    assert context["capabilities"] == {"drop": ["ALL"], "add": [*CAPABILITIES, *CAPTURE_CAPABILITIES]}
    assert container["resources"]["limits"].keys() >= {"cpu", "memory"}
    assert container["resources"]["requests"].keys() >= {"cpu", "memory"}
    # No host network: the port is the pod's.
    assert container["ports"] == [{"name": "health", "containerPort": 8080, "protocol": "TCP"}]


def test_where_no_packets_may_be_captured_the_pod_may_less_and_the_sensor_knows():
    of = settings(packet_capture=False)
    (container,) = pod(packet_capture=False)["containers"]
    assert container["securityContext"]["capabilities"]["add"] == list(CAPABILITIES)
    assert told(of)["packet_capture"] is False
    assert told(settings())["packet_capture"] is True
    assert told(settings())["capture_netns"] == "/proc/1/ns/net"


def test_a_sensor_that_is_stuck_is_started_anew_and_one_that_compiles_is_not():
    configmap = desired_configmap(settings(), "cluster", OWNER)
    assert json.loads(configmap["data"]["sensor.json"])["health_port"] == 8080
    (container,) = pod()["containers"]
    start, live, ready = (container[f"{kind}Probe"] for kind in ("startup", "liveness", "readiness"))
    assert start["httpGet"] == live["httpGet"] == {"path": "/healthz", "port": "health"}
    assert ready["httpGet"] == {"path": "/readyz", "port": "health"}
    assert start["periodSeconds"] * start["failureThreshold"] >= 300, "a slow node that starts many pods at once"
    assert live["periodSeconds"] * live["failureThreshold"] >= 120, "a busy node is no stuck sensor"
    assert 1 / live["periodSeconds"] + 1 / ready["periodSeconds"] < 0.2, "each wakes it twice"


def test_privileged_is_a_switch():
    (container,) = pod(privileged=True)["containers"]
    assert container["securityContext"]["privileged"]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert "capabilities" not in container["securityContext"]
    assert "allowPrivilegeEscalation" not in container["securityContext"]


def test_the_pod_sees_little_of_the_node():
    spec = pod()
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    mounts = {mount["name"]: mount for mount in spec["containers"][0]["volumeMounts"]}
    assert volumes.keys() == mounts.keys()
    assert {volume["hostPath"]["path"] for volume in volumes.values() if "hostPath" in volume} == {
        "/sys/fs/bpf",
        "/var/lib/daemoneye",
        "/run/containerd/io.containerd.runtime.v2.task",
    }
    assert mounts["tasks"]["readOnly"]
    assert mounts["broker"]["readOnly"]
    assert volumes["broker"]["secret"]["secretName"] == "daemoneye-broker-sensor"
    # The one token is for the broker alone.
    (source,) = volumes["token"]["projected"]["sources"]
    assert source["serviceAccountToken"]["audience"] == "daemoneye-broker.security.daemoneye"
    assert source["serviceAccountToken"]["expirationSeconds"] <= 3600
    assert mounts["token"]["readOnly"]
    assert mounts["token"]["mountPath"] + "/token" == told(settings())["nats"]["password_file"]


def test_with_a_broker_of_ones_own_the_sensor_has_a_password_and_no_token():
    nats = {"url": "tls://n:4222", "external": True, "credentialsSecretRef": {"name": "users"}}
    external = OperatorSettings.model_validate({**SETTINGS, "nats": nats})
    spec = desired_daemonset(external, [], OWNER)["spec"]["template"]["spec"]
    assert not [volume for volume in spec["volumes"] if "projected" in volume]
    assert "token" not in {mount["name"] for mount in spec["containers"][0]["volumeMounts"]}
    assert told(external)["nats"]["password_file"] == "/etc/daemoneye/broker/password"


def test_selector_labels_are_frozen_for_ever():
    daemonset = desired_daemonset(settings(podLabels={"app.kubernetes.io/name": "mine", "team": "x"}), [], OWNER)
    frozen = {
        "app.kubernetes.io/name": "daemoneye",
        "app.kubernetes.io/instance": "eye",
        "app.kubernetes.io/component": "sensor",
    }
    assert selector_labels(settings()) == frozen
    assert daemonset["spec"]["selector"] == {"matchLabels": frozen}
    labels = daemonset["spec"]["template"]["metadata"]["labels"]
    assert labels.items() >= frozen.items()
    assert labels["team"] == "x"


def test_only_tolerations_come_from_policies():
    gpu, control = {"key": "gpu", "operator": "Exists"}, {"key": "control", "operator": "Exists"}
    daemonset = desired_daemonset(settings(tolerations=[control]), [gpu, control], OWNER)
    assert daemonset["spec"]["template"]["spec"]["tolerations"] == [control, gpu]


def test_a_new_configuration_replaces_the_pods():
    configmap = desired_configmap(settings(), "cluster", OWNER)
    other = desired_configmap(settings(statusIntervalSeconds=20), "cluster", OWNER)
    assert checksum(configmap) != checksum(other)
    template = desired_daemonset(settings(), [], OWNER, config_hash=checksum(configmap))["spec"]["template"]
    assert template["metadata"]["annotations"] == {"daemoneye.io/config-hash": checksum(configmap)}


def test_what_the_sensor_is_told():
    configmap = desired_configmap(settings(spoolMaxBytes=1 << 28), "11-22", OWNER)
    assert configmap["metadata"]["ownerReferences"] == [OWNER]
    told = json.loads(configmap["data"]["sensor.json"])
    assert told["node_env"] == "DAEMONEYE_NODE"
    assert told["cluster"] == "11-22"
    assert told["state_dir"] == "/var/lib/daemoneye/daemoneye"
    assert told["configuration"] == "broker"
    assert told["spool"] == {"max_bytes": 1 << 28}
    assert told["nats"] == {
        "url": "tls://daemoneye-nats.security.svc:4222",
        "user_file": "/etc/daemoneye/broker/user",
        "password_file": "/run/daemoneye/token/token",
        "inbox_prefix_file": "/etc/daemoneye/broker/inbox_prefix",
        "tls": {"ca": "/etc/daemoneye/broker/ca.crt"},
    }


def test_names_pull_secrets_and_rollout():
    daemonset = desired_daemonset(settings(imagePullSecrets=[{"name": "pull"}], updateMaxUnavailable=2), [], None)
    assert daemonset["metadata"]["name"] == "daemoneye-sensor"
    assert daemonset["metadata"]["namespace"] == "security"
    assert "ownerReferences" not in daemonset["metadata"]
    assert daemonset["spec"]["updateStrategy"]["rollingUpdate"] == {"maxUnavailable": 2, "maxSurge": 0}
    spec = daemonset["spec"]["template"]["spec"]
    assert spec["imagePullSecrets"] == [{"name": "pull"}]
    # Which nodes are selected is computed from nodeSelector and taints: nothing else may keep a sensor off one.
    assert "affinity" not in spec
    assert spec["priorityClassName"] == "system-node-critical"
    assert spec["terminationGracePeriodSeconds"] == 30
