/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Who receives, and what a UDP socket receives: raw tracepoint sock_recv_length(sk, ret, flags), net/socket.c. */
int socket_recv(struct bpf_raw_tracepoint_args *ctx)
{
    return de_socket_used((void *)ctx->args[0], (int)ctx->args[1], ctx->args[2], 0, 1, DE_ATTRIBUTION_EXACT);
}
