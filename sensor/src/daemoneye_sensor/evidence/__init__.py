"""Evidence: packets that are kept on this node because of a finding.

========== ===================================================================
module     is about
========== ===================================================================
seen       frames as the capture shows them, as this package needs them
matching   which of them belong to a conversation or a host
keeper     the look-back, requests in force, what was collected for each
addresses  a pod's addresses
writing    what was collected becomes a capture file
upload     the file's way to the broker
dissecting odd packets, taken apart by scapy
measures   metrics
service    from a request to an answer
desk       when the service runs
========== ===================================================================

The agent has a `Desk`; the source `packets` shows its `Keeper` the frames, and its `Oddities` what no parser
could read or knows.
"""
