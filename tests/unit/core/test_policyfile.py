"""Policies from files: both forms, and every way to get them wrong, each with its place and a way out."""

from pathlib import Path

import pytest

from daemoneye.api.inactive import inactive
from daemoneye.api.policyfile import load_config, load_policy
from daemoneye.api.yamltree import MAX_BYTES
from daemoneye.errors import ConfigError

EXAMPLES = Path(__file__).parents[3] / "examples" / "one-machine"
DETECTORS = ("first_seen", "suspicious_exec")

# The specification's example, verbatim.
SPECIFICATION = """\
enterprise:
  kernel_monitoring: {enable_ebpf: true, ebpf_program_path: /etc/daemoneye/ebpf/monitor.o, enable_etw: true, etw_session_name: DaemonEye,
                      enable_endpoint_security: true, es_client_name: com.daemoneye.monitor}
  network_monitoring: {enable_packet_capture: true, capture_interface: eth0, capture_filter: tcp port 80 or tcp port 443,
                       max_packet_size: 1500, buffer_size_mb: 100}
  federation: {enable_federation: true, primary_endpoint: "https://primary.daemoneye.com",
               regional_endpoints: ["https://region1.daemoneye.com", "https://region2.daemoneye.com"],
               sync_interval: 300, conflict_resolution: primary_wins}
  stix_taxii: {enable_integration: true, taxii_endpoint: "https://taxii.example.com", collection_id: daemoneye-indicators, sync_interval: 3600}
  analytics: {enable_behavioral_analysis: true, anomaly_threshold: 0.8, model_update_interval: 86400, enable_machine_learning: true}
"""

# One problem a line, for the file of test_all_problems_are_told_together_in_order.
EXPECTED = """\
5:3: spec.kernelMonitorin is no setting: did you mean kernelMonitoring?
7:5: spec.kernelMonitoring.enableEbpf is "yes": write true or false (Watch processes and sockets of Linux nodes with eBPF programs. On by default)
8:5: spec.kernelMonitoring.enable_etw is no setting: did you mean enableEtw?
9:5: spec.kernelMonitoring.enableEbpf is there already, at line 7: keep one of the two
10:5: spec.kernelMonitoring.ebpfProgramPath is "monitor.o": write text such as /etc/daemoneye/ebpf/monitor.o (Absolute path on the node of an own eBPF object file (ELF), to be loaded beside DaemonEye's programs. None by default)
11:40: spec.federation.conflictResolution is "primarywins": did you mean PrimaryWins? write one of PrimaryWins, TimestampWins, ManualReview
12:15: spec.analytics.anomalyThreshold is 1.5: write a number that is at least 0 and at most 1 (Score from 0 to 1 from which on a window of a workload is reported as anomalous. 0.8 by default)
12:57: spec.analytics.detectors[0].name is "first_sen", which no detector is called: did you mean first_seen? installed are first_seen, suspicious_exec
12:69: spec.analytics.detectors[1].name is missing: add it (Name of the detector as installed: one of the entry points of the group daemoneye.detectors)
12:70: spec.analytics.detectors[1].nam is no setting: did you mean name?
"""  # noqa: E501

HEAD = "apiVersion: daemoneye.io/v1alpha1\nkind: DaemonEyePolicy\nmetadata: {name: x}\n"


@pytest.fixture
def file(tmp_path):
    def write(text: str | bytes) -> Path:
        path: Path = tmp_path / "f.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def problems(load, path) -> list[str]:
    """The problems of a file, each without the file's name."""
    with pytest.raises(ConfigError) as caught:
        load(path, detectors=DETECTORS)
    lines = str(caught.value).splitlines()
    assert all(line.startswith(f"{path}:") for line in lines)
    return [line.removeprefix(f"{path}:") for line in lines]


def test_the_specifications_file_is_read_as_it_stands(file):
    spec = load_config(file(SPECIFICATION)).policy.spec
    assert spec.kernel_monitoring.ebpf_program_path == "/etc/daemoneye/ebpf/monitor.o"
    assert spec.network_monitoring.capture_filter == "tcp port 80 or tcp port 443"
    assert spec.federation.regional_endpoints == ("https://region1.daemoneye.com", "https://region2.daemoneye.com")
    assert spec.federation.conflict_resolution == "PrimaryWins"
    assert spec.stix_taxii.collection_id == "daemoneye-indicators"
    assert spec.analytics.anomaly_threshold == 0.8
    assert spec.analytics.model_update_interval == 86_400


def test_the_examples_load_without_a_note():
    assert load_policy(EXAMPLES / "policy.yaml", detectors=DETECTORS).notes == ()
    loaded = load_config(EXAMPLES / "enterprise.yaml", detectors=DETECTORS)
    assert loaded.notes == ()
    assert SPECIFICATION.strip() in (EXAMPLES / "enterprise.yaml").read_text()


@pytest.mark.parametrize(
    ("written", "meant"),
    [("primary_wins", "PrimaryWins"), ("timestamp_wins", "TimestampWins"), ("manual_review", "ManualReview")],
)
def test_conflict_resolution_in_snake_case(file, written, meant):
    path = file(f"enterprise: {{federation: {{conflict_resolution: {written}}}}}")
    assert load_config(path).policy.spec.federation.conflict_resolution == meant


@pytest.mark.parametrize(("written", "meant"), [("socket", "Socket"), ("xdp", "Xdp"), ("Xdp", "Xdp")])
def test_the_counter_of_flows_in_snake_case(file, written, meant):
    path = file(f"enterprise: {{network_monitoring: {{flow_counter: {written}}}}}")
    assert load_config(path).policy.spec.network_monitoring.flow_counter == meant


def test_keys_outside_enterprise_are_ignored_with_a_note(file):
    loaded = load_config(file("database: {path: /x, path: /y}\nenterprise:\n"))
    assert len(loaded.notes) == 1
    assert ":1:1: database is outside enterprise:" in loaded.notes[0]


def test_the_status_of_a_dumped_object_is_ignored_with_a_note(file):
    loaded = load_policy(file(HEAD + "status: {conditions: []}\n"))
    assert ":4:1: status is written by the operator" in loaded.notes[0]


def test_a_section_without_a_value_means_the_defaults(file):
    assert load_policy(file(HEAD + "spec:\n  analytics:\n")).policy.spec.analytics.anomaly_threshold == 0.8


def test_an_alias_is_allowed(file):
    spec = load_config(
        file("enterprise:\n  stix_taxii: {sync_interval: &n 700}\n  federation: {sync_interval: *n}")
    ).policy.spec
    assert spec.federation.sync_interval == 700


def test_all_problems_are_told_together_in_order(file):
    path = file(
        HEAD
        + """\
spec:
  kernelMonitorin: {}
  kernelMonitoring:
    enableEbpf: "yes"
    enable_etw: true
    enableEbpf: true
    ebpfProgramPath: monitor.o
  federation: {enableFederation: true, conflictResolution: primarywins}
  analytics: {anomalyThreshold: 1.5, detectors: [{name: first_sen}, {nam: x}]}
"""
    )
    assert problems(load_policy, path) == EXPECTED.splitlines()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("analytics: {anomalyThreshold: 1}", "3:15: enterprise.analytics.anomalyThreshold is no setting: did you mean"),
        ("analytics: {zzz: 1}", "3:15: enterprise.analytics.zzz is no setting: remove it, or write one of enable_beha"),
        ("federation: {conflict_resolution: primary}", '3:16: enterprise.federation.conflict_resolution is "primary": '),
        ("network_monitoring: {flow_counter: tc}", '3:24: enterprise.network_monitoring.flow_counter is "tc": write one of socket, xdp'),
        ("stix_taxii: 5", "3:3: enterprise.stix_taxii is 5: write a mapping with keys such as enable_integration, "),
        ("network_monitoring: {max_packet_size: 1.5}", "3:24: enterprise.network_monitoring.max_packet_size is 1.5: write a"),
        ("network_monitoring: {buffer_size_mb: 0}", "3:24: enterprise.network_monitoring.buffer_size_mb is 0: write a number "),
        ("network_monitoring: {capture_interface: 12}", "3:24: enterprise.network_monitoring.capture_interface is 12: write te"),
        ("federation: {regional_endpoints: [x, 7]}", '3:37: enterprise.federation.regional_endpoints[0] is "x": write text su'),
        ("federation: {enable_federation: true}", "3:16: enterprise.federation.enable_federation is on, but no peer is"),
        ("stix_taxii: {enable_integration: true}", "3:16: enterprise.stix_taxii.enable_integration is on, but there is no"),
        ("analytics: {anomaly_threshold: .nan}", "3:15: enterprise.analytics.anomaly_threshold is NaN: write a "),
        ("analytics: {detectors: [{name: first_seen}, {name: first_seen}]}", "3:15: enterprise.analytics.detectors names 'first_s"),
        ("analytics: {detectors: 3}", "3:15: enterprise.analytics.detectors is 3: write a list"),
        ("analytics: []", "3:3: enterprise.analytics is a list: write a mapping"),
    ],
)  # fmt: skip
def test_each_wrong_setting_has_its_place_and_remedy(file, text, expected):
    found = problems(load_config, file(f"# a comment\nenterprise:\n  {text}\n"))
    assert found[0].startswith(expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "1:1: the file is empty"),
        ("- a\n", "1:1: this is no mapping of keys to values: begin with `enterprise:`"),
        ("enterprise:\n\tx: 1", "2:1: broken YAML: "),
        (
            "enterprise: [1,\nx: 2",
            "3:1: broken YAML: did not find expected ',' or ']' while parsing a flow sequence, which begins at line 1",
        ),
        ("enterprise: a: b", "1:14: broken YAML: "),
        ("enterprise: {}\n---\nenterprise: {}\n", "2:1: a second document begins here"),
        ("enterprise: &a [*a]", "1:17: alias *a has no anchor before it"),
        (
            "enterprise: !!python/object:os.system x",
            "1:13: tag 'tag:yaml.org,2002:python/object:os.system' is not allowed",
        ),
        ("enterprise: {<<: {}}", "1:14: merge keys (<<) are not supported"),
        ("enterprise: {[a]: 1}", "1:14: a key must be plain text"),
        ("enterprise: !!int x", "1:13: enterprise 'x' does not fit its tag"),
        ("[" * 100_000, "1:66: nested deeper than 64 levels"),
        ("x: \x1b[31m", "1:4: character U+001B must not stand in YAML"),
        (b"a: 1\nb: \xff", "2:4: byte 0xff is not UTF-8"),
        ("x" * (MAX_BYTES + 1), f"1:1: the file has {MAX_BYTES + 1} bytes"),
        ("enterprize: {}", "1:1: enterprise is missing: put the settings below `enterprise:`; 'enterprize' is there"),
        ("apiVersion: x\nspec: {}", "1:1: apiVersion is a Kubernetes object: read this file with --policy"),
    ],
    ids=lambda value: None if isinstance(value, str) and len(value) < 100 else "long",
)
def test_what_is_no_configuration_is_refused_with_its_place(file, text, expected):
    assert problems(load_config, file(text))[0].startswith(expected)


def test_an_alias_bomb_is_refused_quickly(file):
    levels = "\n".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10))
    assert "expands to more than" in problems(load_config, file(f"a0: &a0 [1]\n{levels}\n"))[0]


def test_a_policy_in_the_wrong_form_says_which_option_to_use(file):
    assert "--config" in problems(load_policy, file("enterprise: {}"))[0]


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        load_policy(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="Is a directory"):
        load_policy(tmp_path)


def test_messages_hold_no_control_characters(file):
    text = "\n".join(
        problems(load_config, file('enterprise: {"\\e[2J": 1, analytics: {detectors: [{name: "\\e]0;x\\a"}]}}'))
    )
    assert text.isprintable() or "\x1b" not in text
    assert "\\x1b[2J" in text


def test_without_installed_detectors_names_are_not_checked_but_noted(file):
    loaded = load_policy(file(HEAD + "spec: {analytics: {detectors: [{name: x}]}}"), detectors=())
    assert "not checked" in loaded.notes[0]


def test_what_is_not_served_is_inactive_and_no_error(file):
    loaded = load_config(file(SPECIFICATION))
    settings = [entry.setting for entry in inactive(loaded.policy, "linux", spelling=loaded.spelling)]
    assert settings == [
        "enterprise.kernel_monitoring.ebpf_program_path",
        "enterprise.kernel_monitoring.enable_etw",
        "enterprise.kernel_monitoring.enable_endpoint_security",
        "enterprise.federation.enable_federation",
        "enterprise.stix_taxii.enable_integration",
    ]
    elsewhere = [str(entry) for entry in inactive(loaded.policy, "win32")]
    reason = "packets are captured on Linux only, and this is Windows"
    assert f"spec.networkMonitoring.enablePacketCapture is inactive: {reason}" in elsewhere
    on_mac = [str(entry) for entry in inactive(loaded.policy, "darwin")]
    assert on_mac[0] == "spec.kernelMonitoring.enableEbpf is inactive: eBPF is a part of Linux, and this is macOS"
    assert inactive(load_policy(file(HEAD)).policy, "linux", no_evidence="nobody keeps any") == []
