/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the programs about sockets share: who owns one, its endpoints, and the rows that tell of it.
 *
 * An owner is read in its own context only: when it connects, listens, sends or receives. State changes otherwise run
 * wherever a packet happens to arrive, and there the current task is anybody.
 */
#define DE_AF_INET  2
#define DE_AF_INET6 10
#define DE_TCP      6
#define DE_UDP      17
#define DE_STREAM   1
#define DE_DGRAM    2

/* include/net/tcp_states.h: numbers that user space knows, too. */
#define DE_TCP_ESTABLISHED 1
#define DE_TCP_SYN_SENT    2
#define DE_TCP_SYN_RECV    3
#define DE_TCP_CLOSE       7
#define DE_TCP_CLOSE_WAIT  8
#define DE_TCP_LISTEN      10

#define DE_PF_KTHREAD   0x00200000 /* include/linux/sched.h */
#define DE_MSG_PEEK     0x2
#define DE_MSG_ERRQUEUE 0x2000

/* Sockets that found no room: address and identity. */
BPF_TABLE("lru_hash", u64, u64, sockets_untold, 8192);

#define DE_BOTH_EVENTS (1ULL << DE_EVENT_SOCKET_OPEN | 1ULL << DE_EVENT_SOCKET_CLOSE)

/* Which of the two events are wanted, as their bits, and the moment; 0 if none is, or without a reader. */
static __always_inline u64 de_socket_events(u64 *now)
{
    u32 slot = DE_CONTROL_EVENTS;
    u64 *value = control.lookup(&slot);
    u64 events = value ? *value & DE_BOTH_EVENTS : 0;

    if (!events)
        return 0;
    *now = bpf_ktime_get_boot_ns();
    slot = DE_CONTROL_LEASE;
    value = control.lookup(&slot);
    return value && *now <= *value ? events : 0;
}

static __always_inline void de_address(u8 *to, void *sk, u16 family, u32 v4, u32 v6)
{
    if (family == DE_AF_INET6) {
        bpf_probe_read_kernel(to, 16, (const char *)sk + v6);
    } else {
        __builtin_memset(to, 0, 10);
        to[10] = to[11] = 0xff;
        bpf_probe_read_kernel(to + 12, 4, (const char *)sk + v4);
    }
}

/* Both ends; the port of this side is that of inet_sock, for skc_num is 0 again when a connection ends. */
static __always_inline void de_fill_endpoints(struct de_socket_close *row, void *sk, u16 family)
{
    u16 local = bpf_ntohs(DE_READ(u16, sk, DE_OFF_INET_SPORT));
    u16 remote = bpf_ntohs(DE_READ(u16, sk, DE_OFF_SOCK_DPORT));

    if (row->direction == DE_DIRECTION_OUTBOUND) {
        de_address(row->src_ip, sk, family, DE_OFF_SOCK_RCV_SADDR, DE_OFF_SOCK_V6_RCV_SADDR);
        de_address(row->dst_ip, sk, family, DE_OFF_SOCK_DADDR, DE_OFF_SOCK_V6_DADDR);
        row->src_port = local;
        row->dst_port = remote;
    } else {
        de_address(row->src_ip, sk, family, DE_OFF_SOCK_DADDR, DE_OFF_SOCK_V6_DADDR);
        de_address(row->dst_ip, sk, family, DE_OFF_SOCK_RCV_SADDR, DE_OFF_SOCK_V6_RCV_SADDR);
        row->src_port = remote;
        row->dst_port = local;
    }
}

/* What is known of a socket without its owner; the caller zeroed it. */
static __always_inline void de_fill_socket(struct de_socket *socket, void *sk, u16 family, u8 proto, u8 direction,
                                           u64 now)
{
    struct de_socket_close *row = &socket->row;

    row->begin_time = row->last_time = now;
    row->direction = direction;
    row->proto = proto;
    row->family = family == DE_AF_INET6 ? 6 : 4;
    row->netns = DE_READ(u32, DE_PTR(sk, DE_OFF_SOCK_NET), DE_OFF_NET_NS_INUM);
    de_fill_endpoints(row, sk, family);
}

/* The current task as owner, found in this way. Threads of the kernel own nothing: which of them sends for NFS says
 * nothing. Returns 0 then. */
static __always_inline int de_fill_owner(struct de_socket_close *row, u64 now, u8 how)
{
    void *task = (void *)bpf_get_current_task();

    if (DE_READ(u32, task, DE_OFF_TASK_FLAGS) & DE_PF_KTHREAD)
        return 0;
    DE_FILL_BASE(row, now, DE_EVENT_SOCKET_OPEN, task);
    row->attribution = how;
    return 1;
}

/* Send a row of `socket`, as one of the two events; `last` are the bytes of its own columns where they are not those of
 * socket_close. */
static __always_inline void de_tell(struct de_socket_close *row, u64 now, u64 events, u16 event, u16 backlog)
{
    struct de_socket_slot *slot;

    if (!(events >> event & 1))
        return;
    slot = socket_ring.ringbuf_reserve(sizeof(*slot));
    if (!slot) {
        de_count(DE_CONTROL_DROPS + DE_RING_SOCKET);
        return;
    }
    __builtin_memcpy(slot, row, sizeof(*slot));
    ((struct de_socket_close *)slot)->time = now;
    ((struct de_socket_close *)slot)->event = event;
    ((struct de_socket_close *)slot)->cpu = bpf_get_smp_processor_id();
    if (event == DE_EVENT_SOCKET_OPEN)
        ((struct de_socket_open *)slot)->backlog = backlog;
    socket_ring.ringbuf_submit(slot, de_wakeup(DE_RING_SOCKET, DE_CAPACITY(DE_SOCKET_PAGES, *slot)));
}
_Static_assert(sizeof(struct de_socket_slot) == sizeof(struct de_socket_close), "slot");

/* Keep a socket. One that finds no room is not told of, and counts: once, not at each use, as long as it is among the
 * newest of them. */
static __always_inline int de_keep(u64 key, struct de_socket *socket, int begins)
{
    u64 *counted;

    if (!sockets.update(&key, socket))
        return 1;
    counted = sockets_untold.lookup(&key);
    if (begins || !counted || *counted != socket->identity) {
        sockets_untold.update(&key, &socket->identity);
        de_count(DE_CONTROL_UNTOLD);
    }
    return 0;
}

/* Which UDP socket this is and with whom it speaks: a struct sock is used again at once, the number of its inode is
 * not. */
static __always_inline u64 de_udp_identity(void *sk, u16 family)
{
    void *inode = DE_PTR(sk, DE_OFF_SOCK_SOCKET);
    u64 who[2] = {};
    u64 ports = (u64)DE_READ(u16, sk, DE_OFF_SOCK_DPORT) << 16 | DE_READ(u16, sk, DE_OFF_INET_SPORT);
    u64 number = inode ? DE_READ(u64, inode, DE_OFF_SOCKET_INO) : 0;

    if (family == DE_AF_INET6)
        bpf_probe_read_kernel(who, 16, (const char *)sk + DE_OFF_SOCK_V6_DADDR);
    else
        bpf_probe_read_kernel(who, 4, (const char *)sk + DE_OFF_SOCK_DADDR);
    return de_splitmix64(number ^ de_splitmix64(ports ^ de_splitmix64(who[0] ^ de_splitmix64(who[1]))));
}

/* A call that sent or received `ret` bytes (an error if negative) in so many messages, in the context of whoever
 * called. `how` the socket was found. */
static __always_inline int de_socket_used(void *sk, long ret, u32 flags, int sent, u32 messages, u8 how)
{
    u16 family = DE_READ(u16, sk, DE_OFF_SOCK_FAMILY), proto, type;
    u64 key = (u64)sk, now = 0, events, identity = 0;
    struct de_socket *known, fresh = {};
    int moved = ret > 0 && !(flags & DE_MSG_PEEK);

    if (family != DE_AF_INET && family != DE_AF_INET6)
        return 0;
    events = de_socket_events(&now);
    if (!events || flags & DE_MSG_ERRQUEUE)
        return 0;
    proto = DE_READ(u16, sk, DE_OFF_SOCK_PROTOCOL);
    type = DE_READ(u16, sk, DE_OFF_SOCK_TYPE);
    known = sockets.lookup(&key);
    if (proto == DE_UDP && type == DE_DGRAM) {
        if (ret < 0)
            return 0;
        moved = !(flags & DE_MSG_PEEK); /* a datagram may be empty */
        identity = de_udp_identity(sk, family);
        if (known && known->identity != identity) {
            known->row.ending = DE_ENDING_CLOSED;
            de_tell(&known->row, now, events, DE_EVENT_SOCKET_CLOSE, 0);
            known = 0;
        }
    } else if (proto != DE_TCP || type != DE_STREAM) {
        return 0;
    }

    if (!known || !known->told) {
        u8 direction;

        if (known) { /* accepted: now it has an owner */
            fresh = *known;
            if (proto == DE_TCP && !fresh.row.established) {
                /* Still connecting, or the moment when it came about was missed: a program does not run within itself.
                 */
                if (DE_READ(u8, sk, DE_OFF_SOCK_STATE) != DE_TCP_ESTABLISHED)
                    return 0;
                de_fill_endpoints(&fresh.row, sk, family);
                fresh.row.established = 1;
            }
            if (!de_fill_owner(&fresh.row, now, how))
                return 0;
            known->told = 1; /* another thread on its heels does not tell it again */
        } else if (proto == DE_TCP) {
            u16 local, remote;

            /* It was there before us. Nothing else can be told by the state: one that is ending has ended for us. */
            if (DE_READ(u8, sk, DE_OFF_SOCK_STATE) != DE_TCP_ESTABLISHED)
                return 0;
            local = bpf_ntohs(DE_READ(u16, sk, DE_OFF_INET_SPORT));
            remote = bpf_ntohs(DE_READ(u16, sk, DE_OFF_SOCK_DPORT));
            direction = local < remote ? DE_DIRECTION_INBOUND : DE_DIRECTION_OUTBOUND;
            de_fill_socket(&fresh, sk, family, proto, direction, now);
            if (!de_fill_owner(&fresh.row, now, how))
                return 0;
            fresh.row.established = 1;
            fresh.row.flags = DE_FLAG_MID_STREAM;
        } else {
            direction = sent                                  ? DE_DIRECTION_OUTBOUND
                        : DE_READ(u16, sk, DE_OFF_SOCK_DPORT) ? DE_DIRECTION_INBOUND
                                                              : DE_DIRECTION_LISTEN;
            de_fill_socket(&fresh, sk, family, proto, direction, now);
            de_fill_owner(&fresh.row, now, how);
            fresh.identity = identity;
        }
        fresh.told = 1;
        /* Never an owner in place: another processor may have given the place to another socket meanwhile. */
        if (!de_keep(key, &fresh, 0))
            return 0;
        de_tell(&fresh.row, now, events, DE_EVENT_SOCKET_OPEN, 0);
        known = sockets.lookup(&key);
        if (!known)
            return 0;
    }
    if (!moved)
        return 0;
    known->row.last_time = now;
    /* What TCP moved, it counts itself, also where no call is seen (splice). */
    if (!sent == (known->row.direction == DE_DIRECTION_OUTBOUND)) {
        __sync_fetch_and_add(&known->row.dst_calls, messages);
        if (proto == DE_UDP)
            __sync_fetch_and_add(&known->row.dst_bytes, ret);
    } else {
        __sync_fetch_and_add(&known->row.src_calls, messages);
        if (proto == DE_UDP)
            __sync_fetch_and_add(&known->row.src_bytes, ret);
    }
    return 0;
}
