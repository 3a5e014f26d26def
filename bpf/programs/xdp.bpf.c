/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Run for every frame that arrives at an interface, before the kernel makes a packet of it: counts it into the table of
 * programs/packets.bpf.c, which then leaves that to us. Every frame goes on as it came.
 */

/* A driver shows frames of the wire, the generic mode also super-frames, but not of how many segments: then all but the
 * last are taken to be as long as the interface allows. */
static __always_inline u32 de_segments(struct xdp_md *frame, struct de_packet *p)
{
    u32 mtu = 0, headers = p->payload - p->outer;

    if (p->size <= DE_LEAST_MTU || p->stop <= p->payload)
        return 1;
    bpf_check_mtu(frame, 0, &mtu, 0, 0);
    if (p->stop - p->outer <= mtu || mtu <= headers)
        return 1;
    return (p->stop - p->payload + mtu - headers - 1) / (mtu - headers);
}

static __always_inline int de_arrived(struct xdp_md *frame, int raw)
{
    u32 zero = 0, segments;
    struct de_settings *set = settings.lookup(&zero);
    struct de_counters *count = counters.lookup(&zero);
    struct de_flow_key key = {.ifindex = frame->ingress_ifindex};
    struct de_packet p = {};
    int fate;

    if (!set || !count || !arrivals.lookup(&key.ifindex))
        return XDP_PASS;
    p.size = p.stop = bpf_xdp_get_buff_len(frame);
    fate = de_whole(frame, &p, &key, raw);
    de_count_frame(count, fate);
    if (!fate && set->switches & DE_SWITCH_FLOWS) {
        segments = de_segments(frame, &p);
        de_count_flow(count, &p, &key, segments, bpf_ktime_get_boot_ns());
    }
    return XDP_PASS;
}

int xdp_ethernet(struct xdp_md *frame)
{
    return de_arrived(frame, 0);
}

int xdp_raw(struct xdp_md *frame)
{
    return de_arrived(frame, 1);
}
