/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* process_signal: raw tracepoint signal_generate(sig, info, task, group, result), kernel/signal.c. */

/* Faults and aborts, which count also when a process signals itself: ILL TRAP ABRT BUS FPE SEGV SYS. */
#define DE_FAULTS (1ULL << 4 | 1ULL << 5 | 1ULL << 6 | 1ULL << 7 | 1ULL << 8 | 1ULL << 11 | 1ULL << 31)
/* Housekeeping that says nothing about who attacks whom: CHLD CONT URG ALRM VTALRM PROF WINCH IO. */
#define DE_CHATTER \
    (1ULL << 17 | 1ULL << 18 | 1ULL << 23 | 1ULL << 14 | 1ULL << 26 | 1ULL << 27 | 1ULL << 28 | 1ULL << 29)

int process_signal(struct bpf_raw_tracepoint_args *ctx)
{
    u32 sig = ctx->args[0];
    unsigned long info = ctx->args[1];
    void *target = (void *)ctx->args[2];
    void *sender = (void *)bpf_get_current_task();
    u64 now = bpf_ktime_get_boot_ns();
    struct de_process_signal *record;
    struct de_process_slot *slot;
    u64 bit = sig < 64 ? 1ULL << sig : 0;
    u32 target_pid;

    if (!de_wanted(now, DE_EVENT_PROCESS_SIGNAL) || bit & DE_CHATTER)
        return 0;
    target_pid = DE_READ(u32, target, DE_OFF_TASK_TGID);
    if (target_pid == DE_READ(u32, sender, DE_OFF_TASK_TGID) && !(bit & DE_FAULTS))
        return 0;
    slot = process_ring.ringbuf_reserve(sizeof(*slot));
    if (!slot) {
        de_count(DE_CONTROL_DROPS + DE_RING_PROCESS);
        return 0;
    }
    record = (struct de_process_signal *)slot;
    DE_FILL_BASE(record, now, DE_EVENT_PROCESS_SIGNAL, sender);
    record->target_pid = target_pid;
    record->target_start_time = DE_READ(u64, DE_PTR(target, DE_OFF_TASK_GROUP_LEADER), DE_OFF_TASK_START);
    record->target_uid = de_process_uid(target_pid, record->target_start_time);
    record->signal = sig;
    /* SEND_SIG_NOINFO is 0 and SEND_SIG_PRIV 1: no struct behind them (linux/sched/signal.h). */
    record->code = info > 1 ? DE_READ(int, info, DE_OFF_SIGINFO_CODE) : info ? 0x80 : 0;
    record->result = ctx->args[4];
    process_ring.ringbuf_submit(slot, de_wakeup(DE_RING_PROCESS, DE_CAPACITY(DE_PROCESS_PAGES, *slot)));
    return 0;
}
