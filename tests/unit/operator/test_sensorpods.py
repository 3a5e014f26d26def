"""The state of the DaemonSet: the first pod that waits, and why."""

from daemoneye_operator.reconcile import clock
from daemoneye_operator.reconcile.sensorpods import project
from daemoneye_operator.reconcile.sensorpods import state as state_at

NOW = 1_767_225_600.0


def state(daemonset, pods, now=NOW):
    return state_at(daemonset, pods, now)


DAEMONSET = {
    "metadata": {"name": "daemoneye-sensor", "creationTimestamp": clock.rfc3339(NOW - 5)},
    "spec": {"template": {"spec": {"containers": [{"name": "sensor", "image": "daemoneye/sensor:1"}]}}},
    "status": {"desiredNumberScheduled": 3, "numberReady": 1},
}


def pod(node, *, waiting=None, ended=None, leaving=False):
    status = {"state": {"waiting": waiting} if waiting else {"running": {}}}
    if ended:
        status["lastState"] = {"terminated": {"message": ended}}
    meta = {
        "name": f"s-{node}",
        "creationTimestamp": clock.rfc3339(NOW),
        **({"deletionTimestamp": "2026-01-01T00:00:00Z"} if leaving else {}),
    }
    return project({"metadata": meta, "spec": {"nodeName": node}, "status": {"containerStatuses": [status]}})


def test_no_daemonset():
    assert not state(None, []).exists


def test_counts_and_image():
    found = state(DAEMONSET, [pod("a"), pod("b")])
    assert (found.desired, found.ready, found.image, found.waiting_reason) == (3, 1, "daemoneye/sensor:1", "")


def test_first_node_that_waits():
    waiting = {"reason": "ErrImagePull", "message": "not found"}
    found = state(DAEMONSET, [pod("b", waiting=waiting), pod("a", waiting=waiting), pod("c")])
    assert (found.waiting_node, found.waiting_reason, found.waiting_message) == ("a", "ErrImagePull", "not found")


def test_a_pod_that_is_being_made_or_leaves_waits_for_nothing():
    creating = {"reason": "ContainerCreating"}
    pull = {"reason": "ErrImagePull"}
    assert state(DAEMONSET, [pod("a", waiting=creating), pod("b", waiting=pull, leaving=True)]).waiting_reason == ""


def test_what_a_container_said_at_its_end_tells_more_than_its_back_off():
    crash = {"reason": "CrashLoopBackOff", "message": "back-off 10s restarting"}
    assert state(DAEMONSET, [pod("a", waiting=crash, ended="no BTF")]).waiting_message == "no BTF"


def test_a_pod_that_is_not_bound_yet():
    assert project({"metadata": {"name": "x"}})["node"] == ""


def test_a_pod_that_is_being_made_for_long_waits():
    creating = {"reason": "ContainerCreating"}
    assert state(DAEMONSET, [pod("a", waiting=creating)], NOW + 61).waiting_reason == "ContainerCreating"


def test_pods_that_are_refused_are_told_with_the_label_that_allows_them():
    assert state(DAEMONSET, []).waiting_reason == ""
    refused = state(DAEMONSET, [], NOW + 30)
    assert refused.waiting_reason == "FailedCreate"
    assert "pod-security.kubernetes.io/enforce" in refused.waiting_message
