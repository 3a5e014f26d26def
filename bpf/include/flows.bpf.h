/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Counting what a frame says of its conversation: the same for whoever is shown the frame. */

/* Read a frame up to its ports. A later fragment has those of its first one. */
static __always_inline int de_whole(DE_CONTEXT *frame, struct de_packet *p, struct de_flow_key *key, int raw)
{
    struct de_datagram datagram = {};
    u32 ports, *known;
    int fate = de_read(frame, p, key, raw);

    if (fate)
        return fate;
    if (p->later) {
        de_datagram_of(p, key, &datagram);
        known = datagrams.lookup(&datagram);
        if (!known)
            return DE_LATER;
        key->src_port = *known >> 16;
        key->dst_port = *known;
        p->payload = p->stop;
        return DE_PACKET;
    }
    fate = de_transport(frame, p, key);
    if (!fate && p->datagram) {
        ports = (u32)key->src_port << 16 | key->dst_port;
        de_datagram_of(p, key, &datagram);
        datagrams.update(&datagram, &ports);
    }
    return fate;
}

static __always_inline void de_count_frame(struct de_counters *count, int fate)
{
    count->frames++;
    count->not_ip += fate == DE_NOT_IP;
    count->cut += fate == DE_CUT;
    count->malformed += fate == DE_MALFORMED;
    count->fragments += fate == DE_LATER;
}

static __always_inline struct de_flow *de_count_flow(struct de_counters *count, struct de_packet *p,
                                                     struct de_flow_key *key, u32 segments, u64 now)
{
    struct de_flow fresh = {.first = now}, *flow = flows.lookup_or_try_init(key, &fresh);

    if (!flow) {
        count->map_full += segments;
        return 0;
    }
    __sync_fetch_and_add(&flow->packets, segments);
    /* A super-frame has the headers once that each of its segments has on the wire. */
    __sync_fetch_and_add(&flow->bytes, p->total + (u64)(segments - 1) * (p->payload - p->ip));
    flow->last = now;
    if (p->tcp_flags & ~flow->tcp_flags)
        flow->tcp_flags |= p->tcp_flags;
    return flow;
}
