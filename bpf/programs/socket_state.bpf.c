/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* socket_open and socket_close of TCP: raw tracepoint inet_sock_set_state(sk, oldstate, newstate), net/ipv4/af_inet.c.
 */
#define DE_EPIPE        32
#define DE_ENETUNREACH  101
#define DE_ECONNRESET   104
#define DE_ETIMEDOUT    110
#define DE_ECONNREFUSED 111
#define DE_EHOSTUNREACH 113

static __always_inline u8 de_ending(void *sk, u32 before)
{
    switch (DE_READ(u32, sk, DE_OFF_SOCK_ERR)) {
    case 0:
        return before == DE_TCP_SYN_SENT || before == DE_TCP_ESTABLISHED || before == DE_TCP_CLOSE_WAIT
                   ? DE_ENDING_ABORTED
                   : DE_ENDING_CLOSED;
    case DE_EPIPE:
    case DE_ECONNRESET:
        return DE_ENDING_RESET;
    case DE_ECONNREFUSED:
        return DE_ENDING_REFUSED;
    case DE_ETIMEDOUT:
        return DE_ENDING_TIMEOUT;
    case DE_ENETUNREACH:
    case DE_EHOSTUNREACH:
        return DE_ENDING_UNREACHABLE;
    }
    return DE_ENDING_UNKNOWN;
}

/* What TCP itself counted: payload without what was sent again, and without the other side's FIN, which counts as a
 * byte. */
static __always_inline void de_fill_counters(struct de_socket_close *row, void *sk)
{
    u64 sent = DE_READ(u64, sk, DE_OFF_TCP_BYTES_SENT) - DE_READ(u64, sk, DE_OFF_TCP_BYTES_RETRANS);
    u64 received = DE_READ(u64, sk, DE_OFF_TCP_BYTES_RECEIVED);

    if (received && DE_READ(u64, sk, DE_OFF_SOCK_FLAGS) >> DE_SOCK_DONE & 1)
        received--;
    row->src_bytes = row->direction == DE_DIRECTION_OUTBOUND ? sent : received;
    row->dst_bytes = row->direction == DE_DIRECTION_OUTBOUND ? received : sent;
    row->rtt = DE_READ(u32, sk, DE_OFF_TCP_SRTT) >> 3; /* kept in eighths */
}

static __always_inline int de_socket_ends(struct de_socket *known, void *sk, u32 before, u64 now, u64 events)
{
    struct de_socket_close *row = &known->row;

    /* A failed attempt has chosen its port only after SYN_SENT, listen() without bind() after LISTEN. */
    if (!row->established)
        de_fill_endpoints(row, sk, row->family == 6 ? DE_AF_INET6 : DE_AF_INET);
    if (row->direction != DE_DIRECTION_LISTEN) {
        de_fill_counters(row, sk);
        row->retransmits = DE_READ(u32, sk, DE_OFF_TCP_TOTAL_RETRANS);
    }
    row->ending = de_ending(sk, before);
    if (row->established && !known->told) /* nobody ever sent or received */
        de_tell(row, now, events, DE_EVENT_SOCKET_OPEN, 0);
    de_tell(row, now, events, DE_EVENT_SOCKET_CLOSE, 0);
    return 0;
}

int socket_state(struct bpf_raw_tracepoint_args *ctx)
{
    void *sk = (void *)ctx->args[0];
    u32 before = ctx->args[1], state = ctx->args[2];
    u64 key = (u64)sk, now = 0, events;
    struct de_socket *known, fresh = {};
    u16 family;
    u8 direction;

    if (state != DE_TCP_SYN_SENT && state != DE_TCP_ESTABLISHED && state != DE_TCP_LISTEN && state != DE_TCP_CLOSE)
        return 0;
    if (DE_READ(u16, sk, DE_OFF_SOCK_PROTOCOL) != DE_TCP)
        return 0;
    events = de_socket_events(&now);
    if (!events) {
        if (now && state != DE_TCP_SYN_SENT)
            de_wanted(now, DE_EVENT_SOCKET_OPEN); /* which counts it: only a reader is missing */
        return 0;
    }
    known = sockets.lookup(&key);
    if (state == DE_TCP_CLOSE) {
        if (known) {
            de_socket_ends(known, sk, before, now, events);
            sockets.delete(&key);
        }
        return 0;
    }
    if (state == DE_TCP_ESTABLISHED && known && !known->row.established &&
        known->row.direction == DE_DIRECTION_OUTBOUND) {
        /* Only now all of the 5-tuple is known. We are where the answer arrived: the owner is the one that connected.
         */
        de_fill_endpoints(&known->row, sk, known->row.family == 6 ? DE_AF_INET6 : DE_AF_INET);
        known->row.established = 1;
        known->told = 1;
        de_tell(&known->row, now, events, DE_EVENT_SOCKET_OPEN, 0);
        return 0;
    }
    if (known) { /* another's, whose end was missed: a program does not run within itself */
        known->row.ending = DE_ENDING_UNKNOWN;
        de_tell(&known->row, now, events, DE_EVENT_SOCKET_CLOSE, 0);
    }
    family = DE_READ(u16, sk, DE_OFF_SOCK_FAMILY);
    if (family != DE_AF_INET && family != DE_AF_INET6)
        return 0;
    direction = state == DE_TCP_LISTEN                                     ? DE_DIRECTION_LISTEN
                : state == DE_TCP_ESTABLISHED && before != DE_TCP_SYN_SENT ? DE_DIRECTION_INBOUND
                                                                           : DE_DIRECTION_OUTBOUND;
    de_fill_socket(&fresh, sk, family, DE_TCP, direction, now);
    if (state == DE_TCP_ESTABLISHED)
        fresh.row.established = 1; /* its owner tells itself when it sends or receives */
    else
        de_fill_owner(&fresh.row, now, DE_ATTRIBUTION_EXACT);
    if (state == DE_TCP_LISTEN)
        fresh.told = 1;
    if (de_keep(key, &fresh, 1) && state == DE_TCP_LISTEN) {
        u32 backlog = DE_READ(u32, sk, DE_OFF_SOCK_BACKLOG);

        de_tell(&fresh.row, now, events, DE_EVENT_SOCKET_OPEN, backlog < 0xffff ? backlog : 0xffff);
    }
    return 0;
}
