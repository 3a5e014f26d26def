"""Declared metrics, and the page that Prometheus gets."""

import re

import pytest
from prometheus_client.parser import text_string_to_metric_families

from daemoneye import exposition, metrics, usage
from daemoneye.codegen import metricsreference


def families(page):
    return {family.name: family for family in text_string_to_metric_families(page.decode())}


@pytest.mark.parametrize("metric", metrics.ALL.values(), ids=lambda metric: metric.name)
def test_a_declaration_follows_the_conventions(metric):
    assert re.fullmatch(r"daemoneye(_[a-z0-9]+)+", metric.name)
    assert metric.name.startswith(("daemoneye_process_", "daemoneye_build_")) or metric.component
    assert metric.name.endswith("_total") == (metric.kind == "counter")
    assert metric.help.endswith(".")
    assert bool(metric.buckets) == (metric.kind == "histogram")
    assert list(metric.buckets) == sorted(metric.buckets)
    # What grows with the cluster's objects is no label.
    assert not {"policy", "pod", "namespace", "workload", "container", "node", "image"} & set(metric.labels)


def test_a_sample_has_the_labels_that_were_declared():
    assert metrics.SENSOR_EVENTS(1, "urgent").labels == ("urgent",)
    with pytest.raises(ValueError, match="daemoneye_sensor_events_total has the labels"):
        metrics.SENSOR_EVENTS(1)


def test_a_page_holds_the_component_its_cost_and_its_samples():
    delay = exposition.histogram(metrics.SENSOR_DELAY)
    delay.observe(0.3)

    def samples():
        yield metrics.SENSOR_EVENTS(3, "urgent")
        yield metrics.BROKER_CONNECTED(1, "sensor")
        yield metrics.SENSOR_EVENTS(4, "loss")

    found = families(exposition.Exposition("sensor", "1.2", samples, [delay]).page())
    assert {s.labels["lane"]: s.value for s in found["daemoneye_sensor_events"].samples} == {"urgent": 3, "loss": 4}
    assert found["daemoneye_build_info"].samples[0].labels == {"component": "sensor", "version": "1.2"}
    assert found["daemoneye_process_resident_memory_bytes"].samples[0].value > 1 << 20
    assert found["daemoneye_process_cpu_seconds"].type == "counter"
    counted = {s.labels.get("le"): s.value for s in found["daemoneye_sensor_spool_delay_seconds"].samples}
    assert counted["0.25"] == 0
    assert counted["0.5"] == 1
    assert not [name for name in found if name.endswith("_created")]


def test_a_hostile_label_breaks_no_line():
    page = exposition.Exposition("analytics", "1", lambda: [metrics.ANALYTICS_FINDINGS(1, 'a"b\\c\nd', "high")]).page()
    assert families(page)["daemoneye_analytics_findings"].samples[0].labels["detector"] == 'a"b\\c\nd'


def test_values_are_those_of_the_moment_of_the_scrape():
    seen = [0]
    page = exposition.Exposition("analytics", "1", lambda: [metrics.ANALYTICS_LAG(seen[0])])
    for value in (5, 3):
        seen[0] = value
        assert families(page.page())["daemoneye_analytics_lag_messages"].samples[0].value == value


def test_every_metric_stands_in_the_reference():
    text = metricsreference.render()
    assert all(f"| `{name}` |" in text for name in metrics.ALL)


# ── what the process costs ──────────────────────────────────────────────────────────────────────────────────────────


def cgroup_of(tmp_path, line):
    proc, cgroups = tmp_path / "proc", tmp_path / "cgroups"
    proc.mkdir()
    (proc / "cgroup").write_text(line + "\n")
    (proc / "statm").write_text("1000 25 7 1 0 0 0\n")
    return proc, cgroups


def test_the_peak_is_the_containers_in_both_hierarchies(tmp_path):
    proc, cgroups = cgroup_of(tmp_path, "0::/")
    cgroups.mkdir()
    (cgroups / "memory.peak").write_text("123456\n")  # a cgroup namespace: the container's own is the root
    assert usage.now(proc, cgroups).peak_bytes == 123456


@pytest.mark.parametrize(
    "place", ["memory/kubepods/pod1/memory.max_usage_in_bytes", "memory/memory.max_usage_in_bytes"]
)
def test_the_peak_of_version_1_stands_below_the_path_or_at_the_mount(tmp_path, place):
    proc, cgroups = cgroup_of(tmp_path, "4:cpu,memory:/kubepods/pod1\n0::/")
    file = cgroups / place
    file.parent.mkdir(parents=True)
    file.write_text("777\n")
    assert usage.now(proc, cgroups).peak_bytes == 777


def test_the_machines_root_cgroup_is_nobodys_container(tmp_path):
    proc, cgroups = cgroup_of(tmp_path, "4:memory:/")
    (cgroups / "memory").mkdir(parents=True)
    (cgroups / "memory/memory.max_usage_in_bytes").write_text("777\n")
    now = usage.now(proc, cgroups)
    assert now.peak_bytes > 1 << 20  # the process's own
    assert now.rss_bytes == 25 * 4096


def test_cpu_and_wakeups_only_rise():
    before = usage.now()
    sum(range(300_000))
    after = usage.now()
    assert after.cpu_s >= before.cpu_s
    assert after.wakeups >= before.wakeups
