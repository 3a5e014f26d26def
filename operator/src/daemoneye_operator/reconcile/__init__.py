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
answers    what nodes say to one policy
nodes      heartbeats → what each node last said
analytics  policies → analytics' configuration
findingobject a finding → the object's name, namespace and spec
clock      times as the API writes them
========== ==================================================================================================
"""
