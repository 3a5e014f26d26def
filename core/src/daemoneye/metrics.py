"""Every metric of every component: name, type, unit, labels and help, declared here and nowhere else.

Responsible for the declarations and for samples of them; not for serving them (:mod:`daemoneye.exposition`). The reference in the docs, the dashboards,
the alerts and their tests read this module, so that a name stands once. Names follow Prometheus' conventions: ``daemoneye_<component>_<noun>_<unit>``,
base units, counters end in ``_total``. No label takes a policy's, pod's or workload's name: the number of series must not grow with the cluster's
objects. Which node a sensor's series is about, the scrape says (label ``node``, see the chart's PodMonitor).

A component tells its values when it is asked, out of the counters that it keeps anyway::

    def samples() -> Iterator[Sample]:
        yield metrics.SENSOR_EVENTS(rows, "urgent")
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

COMPONENTS: Final = ("sensor", "analytics", "operator", "identity", "callout")
Kind = Literal["counter", "gauge", "histogram"]
ALL: Final[dict[str, Metric]] = {}
"""Every metric by name, in order of declaration."""

_DELAYS: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0)
_DURATIONS: Final = (0.005, 0.02, 0.1, 0.5, 2.0, 10.0)


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric.

    Attributes:
        name: Its name as Prometheus sees it; a histogram's without ``_bucket``, ``_sum`` and ``_count``.
        kind: counter, gauge or histogram.
        help: One sentence.
        labels: Names of its labels, in order.
        buckets: Upper bounds of a histogram's buckets, without the last, infinite one.
    """

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()

    def __call__(self, value: float, *labels: str) -> Sample:
        """A sample of it.

        Raises:
            ValueError: There are more or fewer labels than declared.
        """
        if len(labels) != len(self.labels):
            raise ValueError(f"{self.name} has the labels {self.labels}, not {labels}")
        return Sample(self, value, labels)

    @property
    def component(self) -> str:
        """Whose it is; empty for what all components have."""
        name = self.name.split("_")[1]
        return name if name in COMPONENTS else ""


@dataclass(frozen=True, slots=True)
class Sample:
    """A value of a metric; `labels` in the order in which the metric declares them."""

    metric: Metric
    value: float
    labels: tuple[str, ...]


def _metric(kind: Kind, name: str, text: str, *labels: str, buckets: tuple[float, ...] = ()) -> Metric:
    metric = ALL[name] = Metric(name, kind, text, labels, buckets)
    return metric


def _counter(name: str, text: str, *labels: str) -> Metric:
    return _metric("counter", name, text, *labels)


def _gauge(name: str, text: str, *labels: str) -> Metric:
    return _metric("gauge", name, text, *labels)


def _histogram(name: str, text: str, buckets: tuple[float, ...]) -> Metric:
    return _metric("histogram", name, text, buckets=buckets)


# fmt: off
# ── every component ──────────────────────────────────────────────────────────────────────────────────────────────────
BUILD_INFO = _gauge("daemoneye_build_info", "1, and the component's version as a label.", "component", "version")
PROCESS_START = _gauge("daemoneye_process_start_time_seconds", "When the process started, seconds since 1970.", "component")
PROCESS_CPU = _counter("daemoneye_process_cpu_seconds_total", "User and system CPU time of the process.", "component")
PROCESS_RSS = _gauge("daemoneye_process_resident_memory_bytes", "Resident memory of the process.", "component")
PROCESS_PEAK = _gauge("daemoneye_process_memory_peak_bytes", "Most memory that the container ever used (cgroup memory.peak); outside of one, the process's greatest resident memory.", "component")
PROCESS_WAKEUPS = _counter("daemoneye_process_wakeups_total", "Times that the process gave the processor away by itself and was woken again (voluntary context switches).", "component")
BROKER_CONNECTED = _gauge("daemoneye_process_broker_connected", "1 while the component has a connection to the broker, else 0.", "component")

# ── sensor ───────────────────────────────────────────────────────────────────────────────────────────────────────────
SENSOR_EVENTS = _counter("daemoneye_sensor_events_total", "Rows that were made durable in the spool, by lane; the lane loss holds loss records.", "lane")
SENSOR_RECORDS = _counter("daemoneye_sensor_ring_records_total", "Records read from the kernel's rings.", "ring")
SENSOR_PENDING = _gauge("daemoneye_sensor_ring_pending_records", "Records that wait in the kernel's rings.", "ring")
SENSOR_EXCLUDED = _counter("daemoneye_sensor_events_excluded_total", "Rows that belong to no policy and were dropped on purpose.")
SENSOR_LOST = _counter("daemoneye_sensor_lost_total", "Records or rows that were lost, by the stage that lost them (ring, lease, decode, spool, publish; table: sockets that the kernel's table of open ones had no room for; capture: packets; blob: the row was kept, its strings were not).", "stage")
SENSOR_SPOOL = _gauge("daemoneye_sensor_spool_bytes", "Bytes of the spool on the node's disk, sent batches that are kept as flight recorder included.")
SENSOR_SPOOL_MAX = _gauge("daemoneye_sensor_spool_max_bytes", "The spool's disk budget.")
SENSOR_SPOOL_UNSENT = _gauge("daemoneye_sensor_spool_unsent_bytes", "Bytes of the spool that the broker has not acknowledged.")
SENSOR_SPOOL_BATCHES = _gauge("daemoneye_sensor_spool_unsent_batches", "Batches that the broker has not acknowledged.")
SENSOR_PUBLISHED = _counter("daemoneye_sensor_batches_published_total", "Batches that the broker acknowledged.")
SENSOR_PUBLISHED_BYTES = _counter("daemoneye_sensor_published_bytes_total", "Payload bytes of the batches that the broker acknowledged.")
SENSOR_RETRIES = _counter("daemoneye_sensor_publish_retries_total", "Times that a batch had to be sent again.")
SENSOR_REFUSED = _counter("daemoneye_sensor_batches_refused_total", "Batches that the broker refused for good; their rows are lost at the stage publish.")
SENSOR_DELAY = _histogram("daemoneye_sensor_spool_delay_seconds", "From a batch's oldest event in the kernel to the batch being durable in the spool.", _DELAYS)
SENSOR_PROGRAMS = _gauge("daemoneye_sensor_programs_loaded", "1 when the kernel programs that the policies ask for are loaded and attached, else 0.")
SENSOR_POLICIES = _gauge("daemoneye_sensor_policies", "Policies of the node by what the sensor answers: active, inactive (nothing of it can run here), refused.", "state")
SENSOR_PROCESSES = _gauge("daemoneye_sensor_processes", "Processes that the sensor knows as possible ancestors.")
SENSOR_PROCESSES_EVICTED = _counter("daemoneye_sensor_processes_evicted_total", "Processes that were forgotten because the table was full: rows below them lack that ancestor.")
SENSOR_SOCKETS = _gauge("daemoneye_sensor_sockets_open", "Sockets that the kernel's table of open ones holds, as of the last look (every ten seconds).")
SENSOR_SOCKETS_MAX = _gauge("daemoneye_sensor_sockets_open_max", "Sockets that the table has room for; further ones are lost at the stage table.")
SENSOR_DROPPED = _counter("daemoneye_sensor_kernel_packets_dropped_total", "Packets that the node's kernel dropped since its programs were loaded, by reason (docs/network.md).", "reason")
SENSOR_CGROUPS = _gauge("daemoneye_sensor_cgroups", "Cgroups that the sensor knows.")
SENSOR_PODS = _gauge("daemoneye_sensor_pods", "Pods of the node whose document from the identity publisher the sensor has.")
SENSOR_CAPTURE = _gauge("daemoneye_sensor_capture_healthy", "1 when packets are captured as the policies ask, or none asks, else 0.")
SENSOR_CAPTURE_INTERFACES = _gauge("daemoneye_sensor_capture_interfaces", "Interfaces whose packets are captured, by who counts what arrives: socket, xdp_native, xdp_generic.", "counter")
SENSOR_CAPTURE_PACKETS = _counter("daemoneye_sensor_capture_packets_total", "Packets that the captured interfaces showed, by interface; those of pods are one.", "interface")
SENSOR_CAPTURE_INSPECTED = _counter("daemoneye_sensor_capture_inspected_total", "Frames that were handed up and looked at, by interface.", "interface")
SENSOR_CAPTURE_DROPS = _counter("daemoneye_sensor_capture_drops_total", "Frames that were to be looked at and found no room in the ring, by interface.", "interface")
SENSOR_CAPTURE_CUT = _counter("daemoneye_sensor_capture_cut_total", "Frames of which maxPacketSize cut something off, of those that were looked at, by interface.", "interface")
SENSOR_CAPTURE_FAULTS = _counter("daemoneye_sensor_capture_faults_total", "What was lost of packets beside that, by kind: frames and messages that cannot be read, conversations that were not counted, frames over the budget.", "kind")
SENSOR_CAPTURE_LEVEL = _gauge("daemoneye_sensor_capture_level", "Steps down that the CPU budget asked for; 0: everything is looked at.")
SENSOR_CAPTURE_CPU = _counter("daemoneye_sensor_capture_cpu_seconds_total", "CPU time that capturing took in the sensor, without the kernel's part.")
SENSOR_CAPTURE_FLOWS = _gauge("daemoneye_sensor_capture_conversations", "Conversations that are open.")
SENSOR_ANOMALIES = _counter("daemoneye_sensor_packet_anomalies_total", "Packets that no parser could read or knows, where evidence is allowed: chosen for scapy, or skipped, for too many came.", "outcome")
SENSOR_EVIDENCE_ARMED = _gauge("daemoneye_sensor_evidence_armed", "Findings whose packets are being kept now.")
SENSOR_EVIDENCE = _counter("daemoneye_sensor_evidence_requests_total", "Findings whose packets were asked for, by outcome: sent, refused (nothing is captured, or no room), failed (no packet was seen, or the file could not be written or sent).", "outcome")
SENSOR_EVIDENCE_BYTES = _counter("daemoneye_sensor_evidence_bytes_total", "Bytes of capture files that the broker has taken.")
SENSOR_EVIDENCE_MEMORY = _gauge("daemoneye_sensor_evidence_memory_bytes", "Memory of the packets that are kept: the look-back, and what is not sent yet.")
SENSOR_DISSECTOR_STARTS = _counter("daemoneye_sensor_dissector_starts_total", "Times that scapy's process was started; it ends after a minute without work, and when it fails.")
SENSOR_DISSECTOR_FAILURES = _counter("daemoneye_sensor_dissector_failures_total", "Requests to scapy's process without a good answer: it died, took too long, or could not read a frame.")

# ── analytics ────────────────────────────────────────────────────────────────────────────────────────────────────────
ANALYTICS_EVENTS = _counter("daemoneye_analytics_events_total", "Event rows that took effect.")
ANALYTICS_FINDINGS = _counter("daemoneye_analytics_findings_total", "Findings that were stored.", "detector", "severity")
ANALYTICS_UNWANTED = _counter("daemoneye_analytics_findings_unwanted_total", "Findings that were dropped because no policy of their subject wants their detector.")
ANALYTICS_SUPPRESSED = _counter("daemoneye_analytics_findings_suppressed_total", "Findings of detectors that score which nobody was told: beyond the day's budget of their policies (budget), or repeating within an hour what was told (cooldown); the status of analytics lists the newest.", "reason")
ANALYTICS_REFUSED = _counter("daemoneye_analytics_findings_refused_total", "Findings that the broker refused for good.")
ANALYTICS_CORRUPT = _counter("daemoneye_analytics_batches_corrupt_total", "Messages that were no batches and were skipped.")
ANALYTICS_IGNORED = _counter("daemoneye_analytics_batches_ignored_total", "Batches of lanes that this version does not know.")
ANALYTICS_UNREAD = _counter("daemoneye_analytics_events_unread_total", "Event rows of records that this version does not know, in batches of newer sensors: they were passed over.")
ANALYTICS_LOST = _counter("daemoneye_analytics_lost_total", "Lost records that analytics was told of, or found by a jump in the sequence (stage stream), by stage.", "stage")
ANALYTICS_OWNED = _gauge("daemoneye_analytics_part_owned", "1 where this replica judges the part of the workloads, 0 where another one does or none.", "part")
ANALYTICS_LAG = _gauge("daemoneye_analytics_lag_messages", "Messages of the events' streams that this part of analytics has not read.")
ANALYTICS_BEHIND = _gauge("daemoneye_analytics_behind_seconds", "Age of the newest event that was processed, while messages wait; 0 when none does.")
ANALYTICS_EVENT_DELAY = _histogram("daemoneye_analytics_event_delay_seconds", "From a batch's newest event in the kernel to the batch being processed.", _DELAYS)
ANALYTICS_FINDING_DELAY = _histogram("daemoneye_analytics_finding_delay_seconds", "From the event in the kernel to its finding being stored.", _DELAYS)
ANALYTICS_DETECTOR_SECONDS = _counter("daemoneye_analytics_detector_seconds_total", "Time that a detector took.", "detector")
ANALYTICS_DETECTOR_ERRORS = _counter("daemoneye_analytics_detector_errors_total", "Batches on which a detector failed.", "detector")
ANALYTICS_EXECUTIONS = _counter("daemoneye_analytics_executions_measured_total", "Executions that the behavioural analyser measured.")
ANALYTICS_WINDOWS = _counter("daemoneye_analytics_windows_total", "Windows of workloads that closed, by calibration: sufficient (they got a score), insufficient (they got none).", "calibration")
ANALYTICS_ALARMS = _counter("daemoneye_analytics_window_alarms_total", "Windows with a score at or above the threshold, whether a finding was made of them or they repeated one.")
ANALYTICS_NOMINAL = _counter("daemoneye_analytics_window_alarms_nominal_total", "Windows with a score, times the p-value that the threshold stands for (0.8: 1e-4): the most alarms that benign windows may raise if the calibration holds.")
ANALYTICS_WORKLOADS = _gauge("daemoneye_analytics_workloads", "Workloads that the behavioural analyser knows, by phase: Learning, Calibrating, Active, Drifted.", "phase")
ANALYTICS_REFERENCES = _gauge("daemoneye_analytics_reference_classes", "Classes of like windows that new ones are held against, of all references, by calibration: sufficient, insufficient.", "calibration")
ANALYTICS_ITEMS = _gauge("daemoneye_analytics_table_items", "Entries in the behavioural analyser's tables: items (things in their context), contexts.", "table")
ANALYTICS_MODEL = _gauge("daemoneye_analytics_model_number", "Number of the fitted model in use, 0 before the first; after a refusal or a roll-back it is a smaller one.", "model")
ANALYTICS_MODEL_AGE = _gauge("daemoneye_analytics_model_age_seconds", "Seconds since the fitted model in use was trained, by the time of the events that it was trained at; 0 before the first.", "model")
ANALYTICS_MODEL_OUTCOMES = _counter("daemoneye_analytics_model_outcomes_total", "What became of fitted models: promoted (took over), rejected (could not be fitted, or would alarm too often or find less), refused (stored, and not ours to the last bit), errors (batches that it could not score).", "model", "outcome")
ANALYTICS_EVIDENCE = _counter("daemoneye_analytics_evidence_findings_total", "Findings whose policies want packets kept, by outcome: asked (their node), shared (with one that they repeat), skipped (too old, too many, about nothing that has packets).", "outcome")
ANALYTICS_EVIDENCE_ANSWERS = _counter("daemoneye_analytics_evidence_answers_total", "Answers to who asked for packets, by outcome: given, refused (no token or no right), none (none kept yet, none at all, or they made room for newer ones), failed.", "outcome")
ANALYTICS_NODES = _gauge("daemoneye_analytics_nodes", "Nodes whose events were seen; each is counted by one of the parts.")
ANALYTICS_CHECKPOINT = _gauge("daemoneye_analytics_checkpoint_age_seconds", "Seconds since the last checkpoint; what came after it is processed again after a crash.")
ANALYTICS_PROBLEMS = _gauge("daemoneye_analytics_policy_problems", "Policies of which analytics had to leave something out.")

# ── operator ─────────────────────────────────────────────────────────────────────────────────────────────────────────
OPERATOR_PASSES = _counter("daemoneye_operator_passes_total", "Reconciliations.", "result")
OPERATOR_PASS_SECONDS = _histogram("daemoneye_operator_pass_duration_seconds", "Duration of a reconciliation.", _DURATIONS)
OPERATOR_REQUESTS = _counter("daemoneye_operator_kubernetes_requests_total", "Requests to the API server, without watches, by method and status code (0: no answer).", "method", "code")
OPERATOR_WATCH = _gauge("daemoneye_operator_watch_silence_seconds", "Seconds since a watch last heard something or asked.", "resource")
OPERATOR_POLICIES = _gauge("daemoneye_operator_policies", "DaemonEyePolicies by the status of their condition Ready.", "ready")
OPERATOR_SENSORS = _gauge("daemoneye_operator_sensors", "Sensors by state: desired (selected by a policy and able to run one), ready (runs its configuration, refusals aside), silent (not heard of for three heartbeats), refusing (refuses a policy or part of it).", "state")
OPERATOR_HEARTBEATS_DROPPED = _counter("daemoneye_operator_heartbeats_dropped_total", "Heartbeats that were no heartbeats, or came faster than a sensor sends any.")
OPERATOR_FINDINGS = _counter("daemoneye_operator_findings_total", "Findings that were counted into objects and policies.", "severity")
OPERATOR_FINDING_OBJECTS = _gauge("daemoneye_operator_finding_objects", "Finding objects that exist.")
OPERATOR_FINDINGS_SILENCED = _counter("daemoneye_operator_findings_silenced_total", "Findings that a DetectionException silenced.")
OPERATOR_FINDINGS_SUPPRESSED = _counter("daemoneye_operator_findings_suppressed_total", "Findings that got no object of their own because of the limit on new objects a minute; they are counted in their policy.")
OPERATOR_FINDINGS_LOST = _counter("daemoneye_operator_findings_lost_total", "Findings whose object the API server refused for good.")
OPERATOR_FINDINGS_CORRUPT = _counter("daemoneye_operator_findings_corrupt_total", "Messages on the findings' stream that were no findings.")
OPERATOR_FINDINGS_WAITING = _gauge("daemoneye_operator_findings_waiting", "Findings that wait because the API server does not take their object; they are not acknowledged.")
OPERATOR_CERTIFICATE = _gauge("daemoneye_operator_certificate_expiry_timestamp_seconds", "When a certificate ends, seconds since 1970.", "certificate")
OPERATOR_STREAM = _gauge("daemoneye_operator_stream_bytes", "Bytes of a JetStream stream.", "stream")
OPERATOR_STREAM_MAX = _gauge("daemoneye_operator_stream_max_bytes", "Most bytes of a JetStream stream; when full, it drops the oldest message (discard old) or refuses the newest (new).", "stream", "discard")
OPERATOR_STREAM_MESSAGES = _gauge("daemoneye_operator_stream_messages", "Messages of a JetStream stream.", "stream")
OPERATOR_STORE = _gauge("daemoneye_operator_broker_store_bytes", "Bytes that the broker keeps on the disks of all its servers.")
OPERATOR_STORE_MAX = _gauge("daemoneye_operator_broker_store_max_bytes", "Most bytes that the broker may keep (nats.storeMaxBytes on each of its servers); not known of an external broker.")

# ── identity publisher ───────────────────────────────────────────────────────────────────────────────────────────────
IDENTITY_PODS = _gauge("daemoneye_identity_pods", "Pods that are known.")
IDENTITY_NAMESPACES = _gauge("daemoneye_identity_namespaces", "Namespaces that are known.")
IDENTITY_BACKLOG = _gauge("daemoneye_identity_backlog", "Pod documents that wait to be written.")
IDENTITY_WRITES = _counter("daemoneye_identity_documents_written_total", "Pod documents that were written or removed.")
IDENTITY_WATCH = _gauge("daemoneye_identity_watch_silence_seconds", "Seconds since a watch last heard something or asked.", "resource")

# ── auth callout ─────────────────────────────────────────────────────────────────────────────────────────────────────
CALLOUT_DECISIONS = _counter("daemoneye_callout_decisions_total", "Sensors that asked to connect to the broker, by outcome: granted, or why not.", "outcome")
CALLOUT_REVIEW = _histogram("daemoneye_callout_review_duration_seconds", "Duration of a TokenReview.", _DURATIONS)
# fmt: on
