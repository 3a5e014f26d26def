"""The broker's habits: what every process that speaks to NATS JetStream does alike. The only part of core that imports nats.

====== =====================================================================
module is about
====== =====================================================================
access how one reaches the broker: address, user, TLS, from values or files
roles  what each role may publish and subscribe to
admin  making the streams that are declared
link   a connection that is made again for ever
bucket a KV bucket as its writers see it
pull   a durable consumer's messages, as they come
values reading single values of a KV bucket without a right to JetStream's API
====== =====================================================================
"""
