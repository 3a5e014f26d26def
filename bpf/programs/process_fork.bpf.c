/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* process_fork: raw tracepoint sched_process_fork(parent, child), kernel/fork.c. */
int process_fork(struct bpf_raw_tracepoint_args *ctx)
{
    void *parent = (void *)ctx->args[0];
    void *child = (void *)ctx->args[1];
    u64 now = bpf_ktime_get_boot_ns();
    struct de_process_slot *slot;
    struct de_process_fork *record;

    if (!de_wanted(now, DE_EVENT_PROCESS_FORK))
        return 0;
    if (DE_READ(u32, child, DE_OFF_TASK_PID) != DE_READ(u32, child, DE_OFF_TASK_TGID))
        return 0; /* a thread */
    slot = process_ring.ringbuf_reserve(sizeof(*slot));
    if (!slot) {
        de_count(DE_CONTROL_DROPS + DE_RING_PROCESS);
        return 0;
    }
    record = (struct de_process_fork *)slot;
    DE_FILL_BASE(record, now, DE_EVENT_PROCESS_FORK, child);
    record->ns_pid = de_ns_pid(child);
    record->parent_tid = DE_READ(u32, parent, DE_OFF_TASK_PID);
    process_ring.ringbuf_submit(slot, de_wakeup(DE_RING_PROCESS, DE_CAPACITY(DE_PROCESS_PAGES, *slot)));
    return 0;
}
