"""Configuration files and command lines of the test cluster's programs. The values that look odd are explained beside them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.cluster.harness.cluster import Cluster


def write(cluster: Cluster) -> None:
    """Write the files that the command lines name."""
    state = cluster.state
    (state / "containerd.toml").write_text(_containerd(cluster))
    (state / "cni" / "10-bridge.conflist").write_text(json.dumps(_cni(cluster)))
    (state / "kubelet.yaml").write_text(json.dumps(_kubelet(cluster)))
    (state / "proxy.yaml").write_text(json.dumps(_proxy(cluster)))
    # Pods whose names CoreDNS does not know get no answer from outside.
    (state / "resolv.conf").write_text("")


def control_plane(cluster: Cluster, programs: dict[str, Path]) -> dict[str, list[str | Path]]:
    """Command lines by name, in order of start."""
    state, pki = cluster.state, cluster.state / "pki"
    etcd, peer = 12379 + 2 * cluster.index, 12380 + 2 * cluster.index
    return {
        "etcd": [
            "etcd", f"--data-dir={state / 'etcd'}", f"--listen-client-urls=http://127.0.0.1:{etcd}",
            f"--advertise-client-urls=http://127.0.0.1:{etcd}", f"--listen-peer-urls=http://127.0.0.1:{peer}",
            f"--initial-advertise-peer-urls=http://127.0.0.1:{peer}", f"--initial-cluster=default=http://127.0.0.1:{peer}",
            "--unsafe-no-fsync",  # the data lives as long as the tests
        ],
        "kube-apiserver": [
            programs["kube-apiserver"], f"--etcd-servers=http://127.0.0.1:{etcd}", f"--advertise-address={cluster.address}",
            f"--bind-address={cluster.address}", f"--secure-port={cluster.port}", f"--service-cluster-ip-range={cluster.services}",
            f"--client-ca-file={pki}/ca.crt", f"--tls-cert-file={pki}/apiserver.crt", f"--tls-private-key-file={pki}/apiserver.key",
            f"--service-account-key-file={pki}/service-accounts.key", f"--service-account-signing-key-file={pki}/service-accounts.key",
            "--service-account-issuer=https://kubernetes.default.svc", "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction", "--allow-privileged=true", "--kubelet-preferred-address-types=InternalIP",
            f"--kubelet-client-certificate={pki}/apiserver-kubelet.crt", f"--kubelet-client-key={pki}/apiserver-kubelet.key",
        ],
        "kube-controller-manager": [
            programs["kube-controller-manager"], f"--kubeconfig={state}/controllers.kubeconfig", "--leader-elect=false",
            f"--root-ca-file={pki}/ca.crt", f"--service-account-private-key-file={pki}/service-accounts.key",
            "--use-service-account-credentials=true", f"--cluster-cidr={cluster.pods}", "--secure-port=0",
        ],
        "kube-scheduler": [
            programs["kube-scheduler"], f"--kubeconfig={state}/scheduler.kubeconfig", "--leader-elect=false", "--secure-port=0",
        ],
    }  # fmt: skip


def node(cluster: Cluster, programs: dict[str, Path]) -> dict[str, list[str | Path]]:
    """The node's own, by name."""
    from tests.cluster.harness.cluster import NODE

    return {
        "kubelet": [
            programs["kubelet"], f"--config={cluster.state}/kubelet.yaml", f"--kubeconfig={cluster.state}/kubelet.kubeconfig",
            f"--root-dir={cluster.state}/kubelet", f"--node-ip={cluster.address}", f"--hostname-override={NODE}",
        ],
        "kube-proxy": [programs["kube-proxy"], "--config", cluster.state / "proxy.yaml"],
    }  # fmt: skip


def _containerd(cluster: Cluster) -> str:
    from tests.cluster.harness.cluster import PAUSE

    state = cluster.state
    return f"""version = 2
root = "{state}/containerd"
state = "{state}/containerd-state"
[grpc]
  address = "{cluster.containerd}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  restrict_oom_score_adj = true  # without CAP_SYS_RESOURCE nobody may lower it
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{state}/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
"""


def _cni(cluster: Cluster) -> dict[str, Any]:
    return {
        "cniVersion": "1.0.0",
        "name": f"daemoneye-{cluster.name}",
        "plugins": [
            {
                "type": "bridge", "bridge": cluster.pod_bridge, "isGateway": True, "ipMasq": True, "hairpinMode": True,
                "ipam": {
                    "type": "host-local", "dataDir": str(cluster.state / "ipam"), "routes": [{"dst": "0.0.0.0/0"}],
                    "ranges": [[{"subnet": cluster.pods}]],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": True}},
        ],
    }  # fmt: skip


def _kubelet(cluster: Cluster) -> dict[str, Any]:
    state = cluster.state
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": False}, "webhook": {"enabled": True}, "x509": {"clientCAFile": f"{state}/pki/ca.crt"},
        },
        "authorization": {"mode": "Webhook"},
        "address": cluster.address, "port": 10250, "healthzPort": 0, "readOnlyPort": 0,
        "containerRuntimeEndpoint": f"unix://{cluster.containerd}",
        "cgroupDriver": "cgroupfs", "cgroupRoot": "/", "failSwapOn": False, "enforceNodeAllocatable": [],
        "clusterDNS": [cluster.dns], "clusterDomain": "cluster.local", "resolvConf": str(state / "resolv.conf"),
        "podLogsDir": str(state / "pods"), "volumePluginDir": str(state / "plugins"),
        # The machine's disk is others' affair.
        "evictionHard": {"memory.available": "0%", "nodefs.available": "0%", "imagefs.available": "0%", "nodefs.inodesFree": "0%"},
        "imageGCHighThresholdPercent": 100, "imageGCLowThresholdPercent": 99,
        "syncFrequency": "3s",
        # What our processes need to come back is measured, not for how long a kubelet has them wait who were killed a minute ago, too.
        "featureGates": {"KubeletCrashLoopBackOffMax": True}, "crashLoopBackOff": {"maxContainerRestartPeriod": "1s"},
        "nodeStatusUpdateFrequency": "5s", "serializeImagePulls": False,
        "memorySwap": {}, "registerNode": True, "localStorageCapacityIsolation": False,
    }  # fmt: skip


def _proxy(cluster: Cluster) -> dict[str, Any]:
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration", "mode": "iptables",
        "clientConnection": {"kubeconfig": f"{cluster.state}/proxy.kubeconfig"}, "clusterCIDR": cluster.pods,
        "hostnameOverride": "node-1", "bindAddress": cluster.address,
        "healthzBindAddress": "", "metricsBindAddress": f"127.0.0.1:{10249 + 100 * cluster.index}",
        # Sysctls of the whole machine stay as they are.
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
    }  # fmt: skip


def dns(cluster: Cluster, image: str) -> str:
    """CoreDNS as kubeadm lays it out, without its forwarder."""
    labels = {"k8s-app": "kube-dns"}
    corefile = """.:53 {
    errors
    ready
    kubernetes cluster.local in-addr.arpa ip6.arpa {
        pods insecure
    }
    cache 5
}
"""
    metadata = {"name": "coredns", "namespace": "kube-system"}
    rules = [
        {"apiGroups": [""], "resources": ["endpoints", "services", "pods", "namespaces"], "verbs": ["list", "watch"]},
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
    ]
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:coredns"}
    ports = [{"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53, "protocol": "TCP"}]
    container = {
        "name": "coredns", "image": image, "imagePullPolicy": "Never", "args": ["-conf", "/etc/coredns/Corefile"],
        "volumeMounts": [{"name": "config", "mountPath": "/etc/coredns"}],
        "readinessProbe": {"httpGet": {"path": "/ready", "port": 8181}, "periodSeconds": 1},
    }  # fmt: skip
    items: list[dict[str, Any]] = [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata},
        {"apiVersion": role["apiGroup"] + "/v1", "kind": "ClusterRole", "metadata": {"name": role["name"]}, "rules": rules},
        {
            "apiVersion": role["apiGroup"] + "/v1", "kind": "ClusterRoleBinding", "metadata": {"name": role["name"]}, "roleRef": role,
            "subjects": [{"kind": "ServiceAccount", **metadata}],
        },
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"Corefile": corefile}},
        {
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "kube-dns", "namespace": "kube-system"},
            "spec": {"clusterIP": cluster.dns, "selector": labels, "ports": ports},
        },
        {
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata,
            "spec": {
                "selector": {"matchLabels": labels},
                "template": {
                    "metadata": {"labels": labels},
                    "spec": {
                        "serviceAccountName": "coredns", "dnsPolicy": "Default", "containers": [container],
                        "volumes": [{"name": "config", "configMap": {"name": "coredns"}}],
                    },
                },
            },
        },
    ]  # fmt: skip
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": items})
