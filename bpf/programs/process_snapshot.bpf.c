/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Every process that runs already, as process_fork rows: a task iterator whose link is pinned, so that reading the pin
 * runs it. It gives what /proc rounds to clock ticks or does not have: exact start times (hence process keys) and
 * cgroup ids.
 */
struct de_iter_meta {
    void *seq;
    u64 session;
    u64 number;
};

struct de_iter_task {
    struct de_iter_meta *meta;
    void *task;
};

int bpf_iter__task(struct de_iter_task *ctx)
{
    struct de_process_fork row = {};
    struct de_process_fork *record = &row;
    void *task = ctx->task;
    void *seq = ctx->meta->seq;

    if (!task || DE_READ(u32, task, DE_OFF_TASK_PID) != DE_READ(u32, task, DE_OFF_TASK_TGID))
        return 0;
    DE_FILL_BASE(record, DE_READ(u64, task, DE_OFF_TASK_START), DE_EVENT_PROCESS_FORK, task);
    record->ns_pid = de_ns_pid(task);
    record->parent_tid = record->ppid;
    bpf_seq_write(seq, record, sizeof(*record));
    return 0;
}
