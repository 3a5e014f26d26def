/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Run for every frame of a tapped interface: counts it in the kernel, and lets the ring have it only if a parser in
 * user space is to read it: what is exported is what daemoneye_sensor.packets.selection would choose.
 */
#define DE_TRIES    8    /* segments of a conversation that are exported on suspicion */
#define DE_SURE     5    /* bytes that tell what a message is */
#define DE_INITIAL  1000 /* datagrams with QUIC's Initials are padded to 1,200 bytes */
#define DE_KEEP_ALL 0x40000
#define DE_SYN      0x02
#define DE_ACK      0x10
#define DE_OUTGOING 4 /* PACKET_OUTGOING */

/* --- hashes; daemoneye_sensor.packets.capture computes the same */

static __always_inline u64 de_mix(u64 x)
{
    x += 0x9E3779B97F4A7C15ULL;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ULL;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBULL;
    return x ^ (x >> 31);
}

static __always_inline u64 de_host(const u64 *address, u64 salt)
{
    return de_mix(de_mix(address[0] ^ salt) ^ address[1]);
}

/* Of a conversation, the same for both directions. */
static __always_inline u64 de_pair(const struct de_flow_key *key, u64 salt)
{
    u64 src = de_mix(de_host(key->src, salt) ^ key->src_port);
    u64 dst = de_mix(de_host(key->dst, salt) ^ key->dst_port);

    return de_mix(de_mix((src < dst ? src : dst) ^ key->proto) ^ (src < dst ? dst : src));
}

/* --- what is exported */

/* The beginnings of HTTP's messages and of stratum's calls, four letters each, are one `case` after another:
 * daemoneye_sensor.l7 says which there are. */
static __always_inline u32 de_beginning(u32 word)
{
    switch (word) {
        DE_HTTP
        return DE_SWITCH_HTTP;
        DE_CALLS
        return DE_SWITCH_JSON;
    default:
        if ((word & 0x8000FFFF) == 0x80000103 || (word & 0x8000FFFF) == 0x80000100) /* of SSL 2.0's form */
            return DE_SWITCH_TLS;
        return word >> 16 == 0x1603 && (word >> 8 & 0xFF) <= 4 ? DE_SWITCH_TLS : 0;
    }
}

static __always_inline int de_quic(struct __sk_buff *skb, u32 payload)
{
    u8 raw[5] = {};
    u32 version;

    if (de_load(skb, payload, raw, 5) || raw[0] >> 6 != 3)
        return 0;
    version = (u32)raw[1] << 24 | (u32)raw[2] << 16 | (u32)raw[3] << 8 | raw[4];
    return version == 1 || version == 0x6B3343CF || (version >= 0xFF000016 && version <= 0xFF000022) ||
           version == 0xFACEB001 || version == 0xFACEB002 || version == 0xFACEB00E;
}

/* Each interface follows by itself: a packet that several show is not counted twice. */
static __always_inline u64 de_followed(struct de_flow_key *key, struct de_settings *set)
{
    return de_pair(key, set->salt) ^ de_mix(key->ifindex);
}

enum de_wish { DE_NOTHING, DE_ANYWAY, DE_IF_ADMITTED };

/* A conversation is followed from now on: both directions have to ask. */
static __always_inline void de_wake(struct de_flow_key *key, struct de_flow *flow)
{
    struct de_flow_key back = *key;

    if (!flow)
        return;
    flow->quiet = 0;
    __builtin_memcpy(back.src_ip, key->dst_ip, 16);
    __builtin_memcpy(back.dst_ip, key->src_ip, 16);
    back.src_port = key->dst_port;
    back.dst_port = key->src_port;
    flow = flows.lookup(&back);
    if (flow)
        flow->quiet = 0;
}

/* A client's first words at a well-known port of TCP: packets of its direction, its SYN among them, are few yet.
 * daemoneye_sensor.packets.oddities has the ports. */
static __always_inline int de_first_words(struct de_flow_key *key, struct de_flow *flow, u32 segments)
{
    if (key->dst_port != 22 && key->dst_port != 80 && key->dst_port != 443)
        return 0;
    return flow && flow->tcp_flags & DE_SYN && flow->packets <= 2 + segments;
}

/* A TCP segment with payload: whether it begins something, or goes on what one of its conversation began. */
static __always_inline int de_segment(struct __sk_buff *skb, struct de_packet *p, struct de_settings *set,
                                      struct de_flow_key *key, struct de_flow *flow, u32 length, u32 segments,
                                      int admitted)
{
    struct de_following *known, fresh = {};
    u32 word = 0, what, begins = 0, suspect;
    u64 pair;

    if (length >= DE_SURE) {
        if (de_load(skb, p->payload, &word, 4))
            return DE_NOTHING;
        what = de_beginning(bpf_ntohl(word)) & set->switches;
        begins = what & (DE_SWITCH_TLS | DE_SWITCH_HTTP);
        suspect = what & DE_SWITCH_JSON; /* a few calls tell whether it is a miner, and nothing follows from them */
        if (!what && set->switches & DE_SWITCH_ODD && de_first_words(key, flow, segments))
            suspect = DE_SWITCH_ODD;
    } else {
        /* Whoever sends its first bytes singly must not hide behind that. */
        suspect = set->switches & (DE_SWITCH_TLS | DE_SWITCH_HTTP);
    }
    if (!begins && !suspect && flow && flow->quiet)
        return DE_NOTHING;
    pair = de_followed(key, set);
    known = following.lookup(&pair);
    if (!begins && known && known->tries >= DE_TRIES)
        suspect = 0;
    if (!begins && !suspect && !(known && known->left)) {
        if (flow)
            flow->quiet = 1;
        return DE_NOTHING;
    }
    if (!admitted)
        return DE_IF_ADMITTED;
    if (begins || (suspect && length < DE_SURE)) {
        fresh.left = set->follow;
        de_wake(key, flow);
    } else if (known) {
        fresh.left = known->left;
    }
    fresh.tries = (known ? known->tries : 0) + (!begins && suspect);
    if (!begins && !suspect)
        fresh.left -= segments < fresh.left ? segments : fresh.left;
    if (known)
        *known = fresh;
    else
        following.update(&pair, &fresh);
    return DE_IF_ADMITTED;
}

static __always_inline int de_wish_of(struct __sk_buff *skb, struct de_packet *p, struct de_settings *set,
                                      struct de_flow_key *key, struct de_flow *flow, u32 segments, int admitted)
{
    u32 length = p->stop > p->payload ? p->stop - p->payload : 0;
    int tcp = key->proto == DE_TCP;

    if (tcp && (p->tcp_flags & (DE_SYN | DE_ACK)) == DE_SYN) { /* ports are used again */
        u64 pair = de_followed(key, set);

        following.delete(&pair);
    }
    if (!length || (!tcp && key->proto != DE_UDP))
        return DE_NOTHING;
    if (key->src_port == 53 || key->dst_port == 53 || key->src_port == 5353 || key->dst_port == 5353)
        return set->switches & DE_SWITCH_DNS ? DE_ANYWAY : DE_NOTHING;
    if (tcp)
        return set->switches & (DE_SWITCH_TLS | DE_SWITCH_HTTP | DE_SWITCH_JSON)
                   ? de_segment(skb, p, set, key, flow, length, segments, admitted)
                   : DE_NOTHING;
    if (set->switches & DE_SWITCH_QUIC && length >= DE_INITIAL && de_quic(skb, p->payload))
        return DE_IF_ADMITTED;
    return DE_NOTHING;
}

/* --- the whole */

static __always_inline u32 de_segments(struct __sk_buff *skb, struct de_packet *p)
{
    u32 segments = skb->gso_segs, size = skb->gso_size;

    /* Guests may hand over super-frames without saying how many segments they are. */
    if (!segments && size && p->stop > p->payload)
        segments = (p->stop - p->payload + size - 1) / size;
    return segments ? segments : 1;
}

static __always_inline int de_export(struct de_counters *count, struct de_settings *set, struct de_packet *p,
                                     u32 segments, u64 now)
{
    /* Of the packet, and whatever is before it: frames of an MTU of 1,500 are longer than that. */
    u64 keep = p->ip + (u64)set->snaplen * segments;

    if (set->budget) {
        if (count->second != now >> 30) {
            count->second = now >> 30;
            count->spent = 0;
        }
        if (count->spent >= set->budget) {
            count->over_budget++;
            return 0;
        }
        count->spent++;
    }
    count->exported++;
    return keep < DE_KEEP_ALL ? keep : DE_KEEP_ALL;
}

/* All of a packet that is evidence; 0 if it is none. */
static __always_inline int de_armed(struct de_counters *count, struct de_settings *set, struct de_flow_key *key)
{
    u64 pair, src, dst;

    if (!set->armed)
        return 0;
    pair = de_pair(key, set->salt);
    src = de_host(key->src, set->salt);
    dst = de_host(key->dst, set->salt);
    if (!armed.lookup(&pair) && !armed.lookup(&src) && !armed.lookup(&dst))
        return 0;
    count->exported++;
    return DE_KEEP_ALL;
}

/* Whether an XDP program counts this frame: those that come in, at some interfaces. */
static __always_inline int de_arrival(struct __sk_buff *skb, struct de_settings *set)
{
    u32 ifindex = skb->ifindex;

    return set->arrivals && skb->pkt_type != DE_OUTGOING && arrivals.lookup(&ifindex);
}

static __always_inline int de_frame(struct __sk_buff *skb, int raw)
{
    u32 zero = 0, segments;
    struct de_settings *set = settings.lookup(&zero);
    struct de_counters *count = counters.lookup(&zero);
    struct de_flow_key key = {.ifindex = skb->ifindex};
    struct de_packet p = {.size = skb->len, .stop = skb->len};
    struct de_flow *flow = 0;
    u64 now;
    int fate, wish, admitted, keep, counted;

    if (!set || !count)
        return 0;
    if (skb->vlan_present)
        key.vlan = skb->vlan_tci & 0xFFF;
    fate = de_whole(skb, &p, &key, raw);
    counted = de_arrival(skb, set);
    if (!counted)
        de_count_frame(count, fate);
    if (fate)
        return fate == DE_LATER ? de_armed(count, set, &key) : 0;
    now = bpf_ktime_get_boot_ns();
    segments = de_segments(skb, &p);
    admitted = DE_ADMITS_ALL || de_matched(skb, raw);
    if (counted)
        flow = flows.lookup(&key);
    else if (set->switches & DE_SWITCH_FLOWS)
        flow = de_count_flow(count, &p, &key, segments, now);
    keep = de_armed(count, set, &key);
    if (keep)
        return keep;
    wish = de_wish_of(skb, &p, set, &key, flow, segments, admitted);
    if (wish == DE_IF_ADMITTED && !admitted)
        count->filtered++;
    else if (wish != DE_NOTHING)
        return de_export(count, set, &p, segments, now);
    return 0;
}

int packets_ethernet(struct __sk_buff *skb)
{
    return de_frame(skb, 0);
}

int packets_raw(struct __sk_buff *skb)
{
    return de_frame(skb, 1);
}
