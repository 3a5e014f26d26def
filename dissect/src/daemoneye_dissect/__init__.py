# SPDX-License-Identifier: GPL-2.0-only
"""Deep packet dissection with scapy, in an unprivileged process of its own (GPL-2.0-only).

``python -m daemoneye_dissect`` reads requests on stdin and writes an answer to each on stdout, in order, until stdin ends. It imports nothing
of the other distributions and none of them imports it: the pipe is the border, and this page says what passes it.

A message is eight bytes, two big-endian u32 (bytes of the header, bytes of the body), then the header, a JSON object, then the body, raw bytes.
A request's header has at most 64 KiB, its body 16 MiB; whoever sends more is answered once more, with ``ok`` false, and left: the process ends
with status 2. An answer's header has at most 1 MiB, its body 33 MiB.

First it says by itself ``{"ready": true, "user": <uid>}``, when scapy is loaded and the privileges are gone. Every later answer bears the request's ``id``
(0 without one) and ``ok``; an answer that is not ``ok`` has ``error``, one sentence, and the process goes on.

``{"do": "dissect", "link": 1, "id": 7}``, body: one frame of this link type
    ``{"id": 7, "ok": true, "layers": [{"name": "DNS", "fields": {"id": "4711", …}}, …], "cut": false}``, no body. Values are text; of layers, fields and
    texts there are so many and no more (`daemoneye_dissect.layers`), and ``cut`` says that something was left out.
``{"do": "pcapng", …, "id": 8}``, body: a table of the frames and the frames
    ``{"id": 8, "ok": true, "frames": 2}``, body: blocks of a pcapng file. A file larger than one message is asked for in parts, which stand
    one after another in it. Keys: ``begin`` (true by default: section and interfaces come first), ``end`` (true by default: the interfaces'
    statistics come last), ``comment`` (of the section), ``interfaces`` (list of ``name``, ``link``, ``snaplen``, ``received``, ``dropped``; the
    last two are null where nobody counted), ``frames`` (how many), ``comments`` (list of texts). The table has 24 bytes a frame, little-endian:
    i64 ns since 1970, u32 bytes that follow, u32 bytes that it had, u16 interface, u16 comment (0 none, else its place in ``comments``, from
    1), u32 zero. The frames' bytes follow the table.

From then on it can open no file and no socket, start no process and look into none (landlock and seccomp, where the kernel has them).

Bounds: a request that takes longer than it may (5 s to dissect, 20 s for blocks) ends the process, as do its CPU seconds; memory beyond its
limit is an error that it answers. It ends with its parent, and may be killed at any time: it holds nothing.
"""
