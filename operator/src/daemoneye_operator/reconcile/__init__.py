"""What the operator decides, as functions from values to values.

Responsible for every decision: which configuration a node runs, what the sensors' DaemonSet looks like, what a status says, which findings
become objects. Not for talking to Kubernetes or to the broker: nothing here imports kopf, kubernetes or nats (import-linter holds it to
that), so every decision is tested without either, and another runtime could drive it.

========== ==================================================================================================
module     decides
========== ==================================================================================================
policies   objects of the API → ``Policy``, or one message that says all that is wrong with one
merge      policies that meet → one ``NodeConfig``, and who is refused
selection  policies and nodes → ``Plan``: which node runs which configuration
daemonset  settings → DaemonSet and ConfigMap of the sensors
nodes      heartbeats → what each node last said
analytics  policies → analytics' configuration
findings   findings → Finding objects, bounded in number, age and rate of creation
event      a finding → the Kubernetes Event on its pod
exception  DetectionException objects → which findings are kept silent; their status
tally      Finding objects → counts and newest of each policy
status     all of the above → a policy's conditions
peer       FederationPeer → its status
clock      times as the API writes them
========== ==================================================================================================
"""
