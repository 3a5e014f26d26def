"""The node agent of DaemonEye: from the kernel's ring buffers, or a recording, to JetStream.

It judges nothing: detection is analytics' work.
"""
