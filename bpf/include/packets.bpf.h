/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the program behind a packet socket keeps: flows, counters, settings, and which conversations are followed.
 *
 * daemoneye_sensor.packets.capture has the same layouts, .compiling puts this file, the capture filters as C,
 * layers.bpf.h, flows.bpf.h and programs/packets.bpf.c into one text for BCC. A second one, with DE_XDP and
 * programs/xdp.bpf.c, uses the first one's tables.
 */
/* clang-format off */
#define BPF_LICENSE Dual BSD/GPL
#ifdef DE_XDP
#define DE_CONTEXT struct xdp_md
#define DE_LOAD bpf_xdp_load_bytes
#define DE_TABLE(kind, key, leaf, name, size) BPF_TABLE("extern", key, leaf, name, 0)
#else
#define DE_CONTEXT struct __sk_buff
#define DE_LOAD bpf_skb_load_bytes
#define DE_TABLE BPF_TABLE_PUBLIC
#endif
/* clang-format on */

/* Addresses in the order of the network, IPv4 mapped; ports as numbers. */
struct de_flow_key {
    union {
        __u8 src_ip[16];
        __u32 src32[4];
        __u64 src[2];
    };
    union {
        __u8 dst_ip[16];
        __u32 dst32[4];
        __u64 dst[2];
    };
    __u16 src_port;
    __u16 dst_port;
    __u16 vlan;
    __u8 proto;
    __u8 pad;
    __u32 ifindex;
    __u32 unused;
};
_Static_assert(sizeof(struct de_flow_key) == 48, "flow key");

/* What every packet touches stands together. */
struct de_flow {
    __u64 packets;
    __u64 bytes;
    __u64 last;
    __u32 tcp_flags;
    __u32
        quiet; /* nothing of the conversation is followed: `following` need not be asked, which costs a cold look-up */
    __u64 first;
};
_Static_assert(sizeof(struct de_flow) == 40, "flow");

/* One a processor; nothing interrupts a program on its own processor that would run it again. */
struct de_counters {
    __u64 frames;
    __u64 not_ip;
    __u64 cut;
    __u64 malformed;
    __u64 fragments;
    __u64 map_full;
    __u64 exported;
    __u64 over_budget;
    __u64 filtered;
    __u64 second; /* to which `spent` belongs */
    __u64 spent;
};
_Static_assert(sizeof(struct de_counters) == 88, "counters");

#define DE_SWITCH_FLOWS 1
#define DE_SWITCH_DNS   2
#define DE_SWITCH_TLS   4
#define DE_SWITCH_HTTP  8
#define DE_SWITCH_QUIC  16
#define DE_SWITCH_JSON  32
#define DE_SWITCH_ODD   64

struct de_settings {
    __u32 switches;
    __u32 follow;   /* payload segments that are exported after one that began something */
    __u32 snaplen;  /* bytes of a packet of IP, on the wire */
    __u32 budget;   /* packets that a processor exports in a second; 0: any number */
    __u32 armed;    /* whether `armed` has entries */
    __u32 arrivals; /* whether `arrivals` has entries */
    __u64 salt;     /* whoever chooses addresses cannot choose hashes */
};
_Static_assert(sizeof(struct de_settings) == 32, "settings");

/* A TCP conversation that began something. */
struct de_following {
    __u32 left;  /* payload segments that are yet to be exported; a super-frame is as many as it holds */
    __u32 tries; /* segments that were exported on suspicion */
};

/* A datagram whose later fragments have no ports. */
struct de_datagram {
    __u64 src[2];
    __u64 dst[2];
    __u32 id;
    __u32 proto;
};

#define DE_VIEW 128

/* The frame as a capture filter sees it: with the VLAN tag in its place that the kernel took out. */
struct de_view {
    __u64 matched; /* a bit a filter */
    __u32 size;    /* of the frame */
    __u32 shift;   /* bytes that the tag takes */
    __u8 bytes[DE_VIEW];
};

#define DE_FOLLOWED   16384
#define DE_ARMED      1024
#define DE_DATAGRAMS  4096
#define DE_INTERFACES 256
#define DE_LEAST_MTU  1280

DE_TABLE("hash", struct de_flow_key, struct de_flow, flows, DE_MAX_FLOWS);
DE_TABLE("lru_hash", struct de_datagram, u32, datagrams, DE_DATAGRAMS);
DE_TABLE("array", u32, struct de_settings, settings, 1);
DE_TABLE("percpu_array", u32, struct de_counters, counters, 1);
/* Interfaces, by index, at which XDP counts what arrives. */
DE_TABLE("hash", u32, u8, arrivals, DE_INTERFACES);

#ifndef DE_XDP
BPF_TABLE("lru_hash", u64, struct de_following, following, DE_FOLLOWED);
BPF_TABLE("hash", u64, u8, armed, DE_ARMED);
BPF_PERCPU_ARRAY(views, struct de_view, 1);

/* A number of the frame for a filter, in the order of this machine. Returns not 0 if the frame ends before. */
static __always_inline int de_look(struct __sk_buff *skb, struct de_view *view, u64 place, u32 size, u32 *value)
{
    u8 raw[4] = {}, *at = raw;

    /* The verifier must see the bounds of the very register that is the place. */
    if (!__builtin_constant_p(place))
        asm volatile("" : "+r"(place));
    if (place + size > view->size)
        return 1;
    if (place <= DE_VIEW - 4)
        at = view->bytes + place;
    else if (bpf_skb_load_bytes(skb, place - view->shift, raw, size))
        return 1;
    if (size == 1)
        *value = at[0];
    else if (size == 2)
        *value = (u32)at[0] << 8 | at[1];
    else
        *value = (u32)at[0] << 24 | (u32)at[1] << 16 | (u32)at[2] << 8 | at[3];
    return 0;
}

/* Up to `room` bytes of the frame. */
static __always_inline int de_fill(struct __sk_buff *skb, u32 from, u8 *to, u64 room)
{
    u64 more = skb->len - from - 1; /* than one; of no bytes it wraps, and the helper refuses to read so many */

    /* The verifier must see the bounds of the very register that is the length. Until 6.8 it does not learn from a
     * comparison with 0 that a length is none: so it is counted from one. */
    asm volatile("" : "+r"(more));
    if (more > room - 1)
        more = room - 1;
    asm volatile("" : "+r"(more));
    return bpf_skb_load_bytes(skb, from, to, more + 1);
}

/* The view of a frame, which nothing matched yet; none if the frame is too short for anything. */
static __always_inline struct de_view *de_view_of(struct __sk_buff *skb)
{
    u16 tag[2] = {skb->vlan_proto, bpf_htons(skb->vlan_tci)};
    u32 zero = 0;
    struct de_view *view = views.lookup(&zero);

    if (!view)
        return 0;
    view->matched = 0;
    view->shift = 0;
    view->size = skb->len;
    if (!skb->vlan_present)
        return de_fill(skb, 0, view->bytes, DE_VIEW) ? 0 : view;
    if (skb->len <= 12 || bpf_skb_load_bytes(skb, 0, view->bytes, 12))
        return 0;
    view->shift = 4;
    view->size += 4;
    __builtin_memcpy(view->bytes + 12, tag, 4);
    return de_fill(skb, 12, view->bytes + 16, DE_VIEW - 16) ? 0 : view;
}
#endif
