/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Packets that the kernel dropped, by reason, and those of sockets that we follow: raw tracepoint kfree_skb(skb,
 * location, reason, rx_sk), net/core/skbuff.c. Before the socket of a packet is looked up, nobody's is known; kernels
 * without rx_sk know mostly that of packets on their way out. */
#ifdef DE_KFREE_REASON
int socket_drops(struct bpf_raw_tracepoint_args *ctx)
{
    u32 reason = ctx->args[2], slot = DE_CONTROL_CODES + reason;
    u64 *code = reason < DE_CODES ? control.lookup(&slot) : 0, sk = 0;
    u32 why = reason < DE_CODES ? code ? *code : 0 : DE_DROPREASON_OTHER;
    struct de_socket *known;

    if (!why)
        return 0;
    de_count(DE_CONTROL_PACKETS + (why & 31));
#ifdef DE_KFREE_RX_SK
    sk = ctx->args[3];
#endif
    if (!sk)
        sk = DE_READ(u64, ctx->args[0], DE_OFF_SKB_SK);
    known = sk ? sockets.lookup(&sk) : 0;
    if (known) {
        __sync_fetch_and_add(&known->row.drops, 1);
        known->row.drop_reason = why;
    }
    return 0;
}
#endif
