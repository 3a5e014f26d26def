/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The first time that a cgroup is seen at an exec its names are sent: it may be gone when the sensor could look. A
 * program of its own on sched_process_exec, so that the verifier does not follow it through all of process_exec.
 */
/* Names of a cgroup and of those above it, leaf first, each ended by NUL; returns the offset after them. */
static __always_inline u32 de_cgroup_names(struct de_region *region, u32 at, void *cgroup)
{
    void *kn = cgroup ? DE_PTR(cgroup, DE_OFF_CGROUP_KN) : 0;
    u32 i;

    for (i = 0; i < 24 && kn; i++) {
        void *parent = DE_PTR(kn, DE_OFF_KN_PARENT);
        int length;

        if (!parent)
            break;
        length = bpf_probe_read_kernel_str(region->bytes + (at & 0x3fff), 256, DE_PTR(kn, DE_OFF_KN_NAME));
        if (length < 0)
            break;
        at += length & 0x1ff;
        kn = parent;
    }
    return at;
}

int cgroup_announce(struct bpf_raw_tracepoint_args *ctx)
{
    void *task = (void *)ctx->args[0];
    u64 now = bpf_ktime_get_boot_ns();
    void *css_set = DE_PTR(task, DE_OFF_TASK_CGROUPS);
    void *v2 = DE_PTR(css_set, DE_OFF_CSS_SET_DFL);
    void *v1 = de_v1_cgroup(css_set, v2);
    u64 key = de_cgroup_id(v2) << 32 ^ de_cgroup_id(v1);
    struct de_region *region;
    u32 zero = 0, at;
    u8 one = 1;

    if (cgroups_seen.lookup(&key) || !de_wanted(now, DE_EVENT_PROCESS_EXEC))
        return 0;
    region = region_scratch.lookup(&zero);
    if (!region)
        return 0;
    at = de_cgroup_names(region, 0, v2);
    region->bytes[at & 0x3fff] = 0; /* an empty name parts the two paths */
    at = de_cgroup_names(region, at + 1, v1);
    if (de_send_blob(region, now, key, DE_BLOB_CGROUP, at))
        cgroups_seen.update(&key, &one);
    return 0;
}
