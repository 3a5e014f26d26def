/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * From the first byte of a frame to its packet's ports, as daemoneye_sensor.packets.link and .layers read them; tests
 * hold the two against each other.
 *
 * Frames are read by one helper alone: it reaches what lies in pages, too, and reads nothing behind the end.
 */
enum de_fate { DE_PACKET, DE_NOT_IP, DE_CUT, DE_MALFORMED, DE_LATER };

#define DE_IPV4     0x0800
#define DE_IPV6     0x86DD
#define DE_ETHERNET 0x6558 /* a whole frame in a tunnel */
#define DE_PPPOE    0x8864
#define DE_MPLS     0x8847

#define DE_ICMP   1
#define DE_IPIP   4
#define DE_TCP    6
#define DE_UDP    17
#define DE_SIX    41
#define DE_GRE    47
#define DE_AH     51
#define DE_ICMPV6 58
#define DE_SCTP   132

#define DE_TAGS       3
#define DE_TUNNELS    3
#define DE_EXTENSIONS 6

struct de_packet {
    u32 size;  /* of the frame */
    u32 at;    /* what is to be read next */
    u32 stop;  /* where the packet ends, the padding of its frame left out */
    u32 kind;  /* EtherType of what is to be read next */
    u32 outer; /* where the first IP header begins */
    u32 ip;    /* where its own does, in a tunnel */
    u32 total;
    u32 payload;
    u32 datagram; /* of a fragment: identification + 1 */
    u32 later;    /* whether it is not the first one */
    u32 tcp_flags;
};

static __always_inline int de_load(DE_CONTEXT *frame, u32 at, void *to, u32 size)
{
    return DE_LOAD(frame, at, to, size) ? DE_CUT : DE_PACKET;
}

/* --- link layers */

static __always_inline int de_by_version(DE_CONTEXT *frame, struct de_packet *p)
{
    u8 first = 0;

    if (de_load(frame, p->at, &first, 1))
        return DE_CUT;
    p->kind = first >> 4 == 4 ? DE_IPV4 : first >> 4 == 6 ? DE_IPV6 : 0;
    return DE_PACKET;
}

/* What stands between an EtherType and the packet: VLAN tags, PPPoE, MPLS labels. */
static __always_inline int de_tags(DE_CONTEXT *frame, struct de_packet *p, u16 *vlan)
{
    int i;

    for (i = 0; i < DE_TAGS; i++) {
        u16 tag[2] = {};

        if (p->kind != 0x8100 && p->kind != 0x88A8 && p->kind != 0x9100)
            break;
        if (de_load(frame, p->at, tag, 4))
            return DE_CUT;
        if (!*vlan)
            *vlan = bpf_ntohs(tag[0]) & 0xFFF;
        p->kind = bpf_ntohs(tag[1]);
        p->at += 4;
    }
    if (p->kind == DE_PPPOE) {
        u16 session[4] = {};

        if (de_load(frame, p->at, session, 8))
            return DE_CUT;
        p->kind = session[3] == bpf_htons(0x21) ? DE_IPV4 : session[3] == bpf_htons(0x57) ? DE_IPV6 : 0;
        p->at += 8;
    }
    if (p->kind == DE_MPLS || p->kind == DE_MPLS + 1) {
        for (i = 0; i < DE_TAGS; i++) {
            u8 label[4] = {};

            if (de_load(frame, p->at, label, 4))
                return DE_CUT;
            p->at += 4;
            if (label[2] & 1)
                return de_by_version(frame, p);
        }
    }
    return DE_PACKET;
}

static __always_inline int de_ethernet(DE_CONTEXT *frame, struct de_packet *p, u16 *vlan)
{
    u16 kind = 0;

    if (de_load(frame, p->at + 12, &kind, 2))
        return DE_CUT;
    p->kind = bpf_ntohs(kind);
    p->at += 14;
    return de_tags(frame, p, vlan);
}

/* --- IP */

static __always_inline void de_bounds(DE_CONTEXT *frame, struct de_packet *p, u32 header)
{
    if (p->total > p->size - p->at) /* a lie, or longer than the field can say */
        p->total = p->size - p->at;
    if (p->at + p->total < p->stop)
        p->stop = p->at + p->total;
    p->ip = p->at;
    p->at += header;
}

static __always_inline void de_mapped(u32 *address, u32 v4)
{
    address[0] = address[1] = 0;
    address[2] = bpf_htonl(0xFFFF);
    address[3] = v4;
}

static __always_inline int de_ipv4(DE_CONTEXT *frame, struct de_packet *p, struct de_flow_key *key)
{
    u32 words[5] = {}, header, part;

    if (de_load(frame, p->at, words, 20))
        return DE_CUT;
    header = (bpf_ntohl(words[0]) >> 24 & 15) * 4;
    p->total = bpf_ntohl(words[0]) & 0xFFFF;
    if (!p->total)
        p->total = p->size - p->at;
    if (bpf_ntohl(words[0]) >> 28 != 4 || header < 20 || p->total < header)
        return DE_MALFORMED;
    if (p->at + header > p->size)
        return DE_CUT;
    part = bpf_ntohl(words[1]);
    p->later = part & 0x1FFF;
    p->datagram = part & 0x3FFF ? (part >> 16) + 1 : 0;
    key->proto = bpf_ntohl(words[2]) >> 16 & 0xFF;
    de_mapped(key->src32, words[3]);
    de_mapped(key->dst32, words[4]);
    de_bounds(frame, p, header);
    return DE_PACKET;
}

static __always_inline int de_ipv6(DE_CONTEXT *frame, struct de_packet *p, struct de_flow_key *key)
{
    u32 words[10] = {};
    u8 proto;
    int i;

    if (de_load(frame, p->at, words, 40))
        return DE_CUT;
    if (bpf_ntohl(words[0]) >> 28 != 6)
        return DE_MALFORMED;
    p->total = bpf_ntohl(words[1]) >> 16;
    p->total = p->total ? p->total + 40 : p->size - p->at;
    __builtin_memcpy(key->src_ip, words + 2, 16);
    __builtin_memcpy(key->dst_ip, words + 6, 16);
    p->later = p->datagram = 0;
    de_bounds(frame, p, 40);
    proto = bpf_ntohl(words[1]) >> 8 & 0xFF;
    for (i = 0; i < DE_EXTENSIONS && !p->later; i++) {
        u8 raw[8] = {};

        if (proto != 0 && proto != 43 && proto != 44 && proto != DE_AH && proto != 60 && proto != 135 && proto != 139 &&
            proto != 140)
            break;
        if (p->at + 8 > p->stop || de_load(frame, p->at, raw, 8))
            return DE_CUT;
        if (proto == 44) {
            p->later = ((u32)raw[2] << 8 | raw[3]) >> 3;
            p->datagram = ((u32)raw[4] << 24 | (u32)raw[5] << 16 | (u32)raw[6] << 8 | raw[7]) + 1;
            p->at += 8;
        } else {
            p->at += proto == DE_AH ? (raw[1] + 2) * 4 : (raw[1] + 1) * 8;
        }
        proto = raw[0];
    }
    key->proto = proto;
    return DE_PACKET;
}

static __always_inline int de_ip(DE_CONTEXT *frame, struct de_packet *p, struct de_flow_key *key)
{
    if (p->kind == DE_IPV4)
        return de_ipv4(frame, p, key);
    return p->kind == DE_IPV6 ? de_ipv6(frame, p, key) : DE_NOT_IP;
}

/* Step to the beginning of what a tunnel carries, whose type is then `kind`; 0 where there is none. */
static __always_inline u32 de_tunnel(DE_CONTEXT *frame, struct de_packet *p, u8 proto)
{
    u16 words[8] = {};
    u32 kind;

    if (p->later)
        return 0;
    if (proto == DE_IPIP || proto == DE_SIX)
        return proto == DE_IPIP ? DE_IPV4 : DE_IPV6;
    if (proto == DE_GRE) {
        u32 bits;

        if (p->at + 4 > p->stop || de_load(frame, p->at, words, 4))
            return 0;
        bits = bpf_ntohs(words[0]);
        kind = bpf_ntohs(words[1]);
        if (bits & 0x4007 || (kind != DE_IPV4 && kind != DE_IPV6 && kind != DE_ETHERNET))
            return 0;
        p->at += 4 + 4 * ((bits >> 15 & 1) + (bits >> 13 & 1) + (bits >> 12 & 1));
        return kind;
    }
    if (proto != DE_UDP || p->at + 16 > p->stop || de_load(frame, p->at, words, 16))
        return 0;
    if (words[1] == bpf_htons(4789) || words[1] == bpf_htons(8472)) {
        if (!(words[4] & bpf_htons(0x0800))) /* no network identifier */
            return 0;
        p->at += 16;
        return DE_ETHERNET;
    }
    kind = bpf_ntohs(words[5]);
    if (words[1] != bpf_htons(6081) || words[4] & bpf_htons(0xC000) ||
        (kind != DE_IPV4 && kind != DE_IPV6 && kind != DE_ETHERNET))
        return 0;
    p->at += 16 + (bpf_ntohs(words[4]) >> 8 & 0x3F) * 4;
    return kind;
}

/* --- what is above IP */

static __always_inline void de_datagram_of(struct de_packet *p, struct de_flow_key *key, struct de_datagram *datagram)
{
    datagram->src[0] = key->src[0];
    datagram->src[1] = key->src[1];
    datagram->dst[0] = key->dst[0];
    datagram->dst[1] = key->dst[1];
    datagram->id = p->datagram;
    datagram->proto = key->proto;
}

static __always_inline int de_transport(DE_CONTEXT *frame, struct de_packet *p, struct de_flow_key *key)
{
    u32 need = key->proto == DE_TCP                               ? 20
               : key->proto == DE_UDP                             ? 8
               : key->proto == DE_SCTP                            ? 12
               : key->proto == DE_ICMP || key->proto == DE_ICMPV6 ? 4
                                                                  : 0;
    u8 raw[16] = {};

    p->payload = p->at;
    if (p->at + need > p->stop)
        return DE_CUT;
    if (!need)
        return DE_PACKET;
    if (key->proto == DE_TCP) {
        if (de_load(frame, p->at, raw, 16))
            return DE_CUT;
        if (raw[12] >> 4 < 5)
            return DE_MALFORMED;
        p->tcp_flags = raw[13];
        p->payload += (raw[12] >> 4) * 4;
    } else if (key->proto == DE_UDP) {
        u32 length;

        if (de_load(frame, p->at, raw, 8))
            return DE_CUT;
        length = (u32)raw[4] << 8 | raw[5];
        if (length >= 8 && p->at + length < p->stop)
            p->stop = p->at + length;
        p->payload += 8;
    } else if (de_load(frame, p->at, raw, 4)) {
        return DE_CUT;
    }
    if (key->proto == DE_ICMP || key->proto == DE_ICMPV6) {
        key->src_port = raw[0];
        key->dst_port = raw[1];
    } else {
        key->src_port = (u32)raw[0] << 8 | raw[1];
        key->dst_port = (u32)raw[2] << 8 | raw[3];
    }
    return DE_PACKET;
}

/* --- all of it */

static __always_inline int de_read(DE_CONTEXT *frame, struct de_packet *p, struct de_flow_key *key, int raw)
{
    u16 inner = 1; /* of tags in a tunnel nobody asks */
    int fate, level;

    fate = raw ? de_by_version(frame, p) : de_ethernet(frame, p, &key->vlan);
    p->outer = p->at;
#pragma clang loop unroll(disable)
    for (level = 0; level <= DE_TUNNELS; level++) {
        if (!fate)
            fate = de_ip(frame, p, key);
        if (fate || level == DE_TUNNELS)
            break;
        p->kind = de_tunnel(frame, p, key->proto);
        if (!p->kind)
            break;
        if (p->kind == DE_ETHERNET)
            fate = de_ethernet(frame, p, &inner);
    }
    return fate;
}
