"""What the operator decides, as functions from values to values.

Responsible for every decision: which configuration a node runs, what the sensors' DaemonSet looks like, what a status says, which findings
become objects. Not for talking to Kubernetes or to the broker: nothing here imports kopf, kubernetes or nats (import-linter holds it to
that), so every decision is tested without either, and another runtime could drive it.

============= ==================================================================================================
module        decides
============= ==================================================================================================
policies      objects of the API → ``Policy``, or one message that says all that is wrong with one
merge         policies that meet → one ``NodeConfig``, and who is refused
selection     policies and nodes → ``Plan``: which node runs which configuration
daemonset     settings → DaemonSet and ConfigMap of the sensors
nodes         heartbeats → what each node last said
answers       plan and heartbeats → what nodes say to one policy
status        answers and the rest of the world → a policy's conditions and counts
census        plan, heartbeats, statuses → how many sensors and policies are in which state
analytics     policies → analytics' configuration
findings      findings → which Finding objects there are, bounded in number, age and rate of creation
findingobject a finding → its object's name, namespace and spec
event         a finding → the Kubernetes Event on its pod
exception     DetectionException objects → which findings are kept silent; their status
tally         findings → counts and newest of each policy
peer          FederationPeer → its status
clock         times as the API writes them
============= ==================================================================================================
"""
