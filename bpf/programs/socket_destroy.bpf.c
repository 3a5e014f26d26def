/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The end of TCP sockets whose last state was missed, for a program does not run within itself: raw tracepoint
 * tcp_destroy_sock(sk), net/ipv4/tcp_ipv4.c. */
int socket_destroy(struct bpf_raw_tracepoint_args *ctx)
{
    u64 key = ctx->args[0], now = 0, events;
    struct de_socket *known = sockets.lookup(&key);

    if (!known || known->row.proto != DE_TCP)
        return 0;
    events = de_socket_events(&now);
    if (events)
        de_socket_ends(known, (void *)key, DE_TCP_CLOSE, now, events);
    sockets.delete(&key);
    return 0;
}
