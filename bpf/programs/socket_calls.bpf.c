/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Who sends and receives, and what UDP does, on kernels without the tracepoints of socket_send and socket_recv: raw
 * tracepoint sys_exit(regs, ret). The registers still hold the call's arguments; the socket is the one that the
 * descriptor names when the call ends. Calls of io_uring and of 32-bit programs are not seen. */
#ifdef DE_OFF_REGS_ARG0
#define DE_S_IFMT    0170000
#define DE_S_IFSOCK  0140000
#define DE_MESSAGES  1024 /* UIO_MAXIOV: more the kernel does not take at once */
#define DE_MMSGHDR   64   /* struct mmsghdr of 64 bits: a msghdr, and how much it moved */
#define DE_MMSG_LEN  56
#define DE_NOWHERE   0xff
#define DE_RECEIVES  0
#define DE_SENDS     1
#define DE_MESSAGING 2 /* its result is a number of messages */
#define DE_SPLICES   4 /* either descriptor may be the socket */
#define DE_READS     8 /* of a file: of no bytes, it does not reach the socket */

/* What a call does, and which of its arguments are flags. */
static __always_inline u32 de_call(u32 number, u8 *flags)
{
    *flags = DE_NOWHERE;
    switch (number) {
#ifdef DE_X86_64
    case 0: /* read */
        return 1 + (DE_RECEIVES | DE_READS);
    case 19: /* readv */
        return 1 + DE_RECEIVES;
    case 1:  /* write */
    case 20: /* writev */
    case 40: /* sendfile */
    case 44: /* sendto */
    case 46: /* sendmsg */
        return 1 + DE_SENDS;
    case 45: /* recvfrom */
        *flags = 3;
        return 1 + DE_RECEIVES;
    case 47: /* recvmsg */
        *flags = 2;
        return 1 + DE_RECEIVES;
    case 275: /* splice */
        return 1 + DE_SPLICES;
    case 299: /* recvmmsg */
        *flags = 3;
        return 1 + (DE_RECEIVES | DE_MESSAGING);
    case 307: /* sendmmsg */
        return 1 + (DE_SENDS | DE_MESSAGING);
#else
    case 63: /* read */
        return 1 + (DE_RECEIVES | DE_READS);
    case 65: /* readv */
        return 1 + DE_RECEIVES;
    case 64:  /* write */
    case 66:  /* writev */
    case 71:  /* sendfile */
    case 206: /* sendto */
    case 211: /* sendmsg */
        return 1 + DE_SENDS;
    case 207: /* recvfrom */
        *flags = 3;
        return 1 + DE_RECEIVES;
    case 212: /* recvmsg */
        *flags = 2;
        return 1 + DE_RECEIVES;
    case 76: /* splice */
        return 1 + DE_SPLICES;
    case 243: /* recvmmsg */
        *flags = 3;
        return 1 + (DE_RECEIVES | DE_MESSAGING);
    case 269: /* sendmmsg */
        return 1 + (DE_SENDS | DE_MESSAGING);
#endif
    }
    return 0;
}

/* The struct sock behind a descriptor of this task; 0 if it is not a socket's. */
static __always_inline void *de_sock_of(void *task, u32 descriptor)
{
    void *table = DE_PTR(DE_PTR(task, DE_OFF_TASK_FILES), DE_OFF_FILES_FDT), *file;

    if (descriptor >= DE_READ(u32, table, DE_OFF_FDT_MAX))
        return 0;
    file = DE_PTR(DE_PTR(table, DE_OFF_FDT_FD), 8 * (u64)descriptor);
    if (!file || (DE_READ(u16, DE_PTR(file, DE_OFF_FILE_INODE), DE_OFF_INODE_MODE) & DE_S_IFMT) != DE_S_IFSOCK)
        return 0;
    return DE_PTR(DE_PTR(file, DE_OFF_FILE_PRIVATE), DE_OFF_SOCKET_SK);
}

int socket_calls(struct bpf_raw_tracepoint_args *ctx)
{
    void *regs = (void *)ctx->args[0], *task, *sk;
    long ret = ctx->args[1];
    u8 where;
    u32 call = de_call(DE_READ(u32, regs, DE_OFF_REGS_NUMBER), &where), flags = 0, times = 1;
    u64 now = 0;

    if (!call-- || !de_socket_events(&now))
        return 0;
    task = (void *)bpf_get_current_task();
#ifdef DE_OFF_TASK_STATUS
    if (DE_READ(u32, task, DE_OFF_TASK_STATUS) & 2) /* TS_COMPAT: the numbers are others */
        return 0;
#endif
    sk = de_sock_of(task, DE_READ(u32, regs, DE_OFF_REGS_ARG0));
    if (call == DE_SPLICES && !sk) {
        call = DE_SENDS;
        sk = de_sock_of(task, DE_READ(u32, regs, DE_OFF_REGS_ARG2));
    }
    if (!sk || (call & DE_READS && !DE_READ(u64, regs, DE_OFF_REGS_ARG2)))
        return 0;
    if (where == 2)
        flags = DE_READ(u32, regs, DE_OFF_REGS_ARG2);
    else if (where == 3)
        flags = DE_READ(u32, regs, DE_OFF_REGS_ARG3);
    if (call & DE_MESSAGING && ret > 0) {
        const char *messages = DE_PTR(regs, DE_OFF_REGS_ARG1);
        u32 i;

        times = ret;
        ret = 0;
        for (i = 0; i < DE_MESSAGES; i++) {
            u32 length = 0;

            if (i >= times)
                break;
            bpf_probe_read_user(&length, sizeof(length), messages + i * DE_MMSGHDR + DE_MMSG_LEN);
            ret += length;
        }
    }
    return de_socket_used(sk, ret, flags, call & DE_SENDS, times, DE_ATTRIBUTION_DESCRIPTOR);
}
#endif
