/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Who sends, and what a UDP socket sends: raw tracepoint sock_send_length(sk, ret, flags), net/socket.c. */
int socket_send(struct bpf_raw_tracepoint_args *ctx)
{
    return de_socket_used((void *)ctx->args[0], (int)ctx->args[1], 0, 1, 1, DE_ATTRIBUTION_EXACT);
}
