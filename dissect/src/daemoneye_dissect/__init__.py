# SPDX-License-Identifier: GPL-2.0-only
"""Deep packet dissection with scapy, in an unprivileged process of its own (GPL-2.0-only).

Its code comes with its own issue; until then this package only holds its place in the layout.
"""
