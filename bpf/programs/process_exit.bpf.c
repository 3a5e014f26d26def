/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* process_exit: raw tracepoint sched_process_exit(task), kernel/exit.c; signal->live is 0 when the last thread passes.
 */
#define DE_SIGNAL_GROUP_EXIT 4

int process_exit(struct bpf_raw_tracepoint_args *ctx)
{
    void *task = (void *)ctx->args[0];
    void *signal = DE_PTR(task, DE_OFF_TASK_SIGNAL);
    u64 now = bpf_ktime_get_boot_ns();
    struct de_process_slot *slot;
    struct de_process_exit *record;
    u32 code;

    if (!de_wanted(now, DE_EVENT_PROCESS_EXIT))
        return 0;
    if (DE_READ(int, signal, DE_OFF_SIGNAL_LIVE) != 0)
        return 0;
    slot = process_ring.ringbuf_reserve(sizeof(*slot));
    if (!slot) {
        de_count(DE_CONTROL_DROPS + DE_RING_PROCESS);
        return 0;
    }
    record = (struct de_process_exit *)slot;
    DE_FILL_BASE(record, now, DE_EVENT_PROCESS_EXIT, task);
    /* As wait(2) reports it (kernel/exit.c, wait_task_zombie). */
    if (DE_READ(u32, signal, DE_OFF_SIGNAL_FLAGS) & DE_SIGNAL_GROUP_EXIT)
        code = DE_READ(u32, signal, DE_OFF_SIGNAL_GROUP_EXIT_CODE);
    else
        code = DE_READ(u32, DE_PTR(task, DE_OFF_TASK_GROUP_LEADER), DE_OFF_TASK_EXIT_CODE);
    record->exit_code = code >> 8 & 0xff;
    record->exit_signal = code & 0x7f;
    if (code & 0x80)
        record->flags |= DE_FLAG_CORE_DUMPED;
    process_ring.ringbuf_submit(slot, de_wakeup(DE_RING_PROCESS, DE_CAPACITY(DE_PROCESS_PAGES, *slot)));
    return 0;
}
