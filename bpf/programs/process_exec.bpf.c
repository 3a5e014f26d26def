/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* process_exec: raw tracepoint sched_process_exec(task, old_pid, bprm), fs/exec.c: the new image and credentials are in
 * place. */
#define DE_S_ISUID         04000
#define DE_S_ISGID         02000
#define DE_S_IXGRP         00010
#define DE_OVERLAYFS_MAGIC 0x794c7630
#define DE_MAX_COMPONENTS  48

/*
 * Path of a dentry within the task's root, written backwards from the end of the scratch like the kernel's prepend_path
 * (fs/d_path.c). Returns where it begins; the caller reads from there to DE_PATH_MAX.
 */
static __always_inline u32 de_walk_path(struct de_path *path, void *fs, void *dentry, void *vfsmnt, u32 *flags)
{
    void *root = DE_PTR(fs, DE_OFF_FS_ROOT_DENTRY);
    void *root_mnt = DE_PTR(fs, DE_OFF_FS_ROOT_MNT);
    u32 at, i;

    path->at = DE_PATH_MAX;
    for (i = 0; i < DE_MAX_COMPONENTS; i++) {
        void *parent, *mnt_root;
        u32 length;

        if (dentry == root && vfsmnt == root_mnt)
            break;
        parent = DE_PTR(dentry, DE_OFF_DENTRY_PARENT);
        mnt_root = DE_PTR(vfsmnt, DE_OFF_VFSMOUNT_ROOT);
        if (dentry == mnt_root) {
            void *mount = vfsmnt - DE_OFF_MOUNT_MNT;
            void *above = DE_PTR(mount, DE_OFF_MOUNT_PARENT);

            if (above == mount)
                break; /* the root of all, or a detached mount */
            dentry = DE_PTR(mount, DE_OFF_MOUNT_MOUNTPOINT);
            vfsmnt = above + DE_OFF_MOUNT_MNT;
            continue;
        }
        length = DE_READ(u32, dentry, DE_OFF_DENTRY_NAME_LEN) & 0xff;
        at = path->at;
        if (at < length + 1) {
            *flags |= DE_FLAG_PATH_TRUNCATED;
            break;
        }
        at -= length + 1;
        path->at = at;
        path->bytes[at & 0xfff] = '/';
        bpf_probe_read_kernel(path->bytes + ((at + 1) & 0xfff), length, DE_PTR(dentry, DE_OFF_DENTRY_NAME));
        if (dentry == parent)
            break; /* a name outside any tree: memfd:… */
        dentry = parent;
    }
    if (i == DE_MAX_COMPONENTS)
        *flags |= DE_FLAG_PATH_TRUNCATED;
    if (path->at == DE_PATH_MAX) {
        path->at = DE_PATH_MAX - 1;
        path->bytes[DE_PATH_MAX - 1] = '/';
    }
    return path->at;
}

/* Copy a path that begins at `from` into the region; returns its length. */
static __always_inline u32 de_copy_path(struct de_region *region, u32 at, struct de_path *path, u32 from)
{
    u32 length = (DE_PATH_MAX - from) & 0x1fff;

    if (length > DE_PATH_MAX - 1)
        length = DE_PATH_MAX - 1;
    bpf_probe_read_kernel(region->bytes + (at & 0x3fff), length, path->bytes + (from & 0xfff));
    return length;
}

/* Copy a NUL-terminated kernel string; returns its length without the NUL. */
static __always_inline u32 de_copy_string(struct de_region *region, u32 at, void *string, u32 size)
{
    int length = bpf_probe_read_kernel_str(region->bytes + (at & 0x3fff), size, string);

    return length > 0 ? (length - 1) & 0xfff : 0;
}

static __always_inline u32 de_namespace(void *nsproxy, u32 member, u32 inum)
{
    return DE_READ(u32, DE_PTR(nsproxy, member), inum);
}

static __always_inline void de_fill_credentials(struct de_process_exec *record, void *task)
{
    void *cred = DE_PTR(task, DE_OFF_TASK_CRED);
    void *parent = DE_PTR(DE_PTR(task, DE_OFF_TASK_REAL_PARENT), DE_OFF_TASK_CRED);
    void *user_ns = DE_PTR(cred, DE_OFF_CRED_USER_NS);

    record->gid = DE_READ(u32, cred, DE_OFF_CRED_GID);
    record->euid = DE_READ(u32, cred, DE_OFF_CRED_EUID);
    record->egid = DE_READ(u32, cred, DE_OFF_CRED_EGID);
    record->cap_effective = DE_READ(u64, cred, DE_OFF_CRED_CAP_EFFECTIVE);
    record->cap_permitted = DE_READ(u64, cred, DE_OFF_CRED_CAP_PERMITTED);
    record->user_ns = DE_READ(u32, user_ns, DE_OFF_USER_NS_INUM);
    if (record->cap_permitted & ~DE_READ(u64, parent, DE_OFF_CRED_CAP_PERMITTED) &&
        user_ns == DE_PTR(parent, DE_OFF_CRED_USER_NS))
        record->flags |= DE_FLAG_CAPS_GAINED;
}

static __always_inline void de_fill_file(struct de_process_exec *record, void *file)
{
    void *inode = DE_PTR(file, DE_OFF_FILE_INODE);
    void *sb = DE_PTR(inode, DE_OFF_INODE_SB);
    u16 mode = DE_READ(u16, inode, DE_OFF_INODE_MODE);

    record->exe_inode = DE_READ(u64, inode, DE_OFF_INODE_INO);
    record->exe_nlink = DE_READ(u32, inode, DE_OFF_INODE_NLINK);
    record->exe_mode = mode;
    record->exe_uid = DE_READ(u32, inode, DE_OFF_INODE_UID);
    record->exe_gid = DE_READ(u32, inode, DE_OFF_INODE_GID);
    record->exe_dev = DE_READ(u32, sb, DE_OFF_SB_DEV);
    record->exe_magic = DE_READ(u64, sb, DE_OFF_SB_MAGIC);
    if (!record->exe_nlink)
        record->flags |= DE_FLAG_EXE_DELETED;
    if (mode & DE_S_ISUID && record->euid == record->exe_uid && record->uid != record->euid)
        record->flags |= DE_FLAG_SETUID;
    if (mode & DE_S_ISGID && mode & DE_S_IXGRP && record->egid == record->exe_gid && record->gid != record->egid)
        record->flags |= DE_FLAG_SETGID;
    /* struct ovl_inode ends in the inode, after which __upperdentry stands (fs/overlayfs/ovl_entry.h). */
    if (record->exe_magic == DE_OVERLAYFS_MAGIC && DE_PTR(inode, DE_SIZE_INODE))
        record->flags |= DE_FLAG_WRITABLE_LAYER;
}

static __always_inline void de_fill_namespaces(struct de_process_exec *record, void *task)
{
    void *nsproxy = DE_PTR(task, DE_OFF_TASK_NSPROXY);
    void *pid = DE_PTR(task, DE_OFF_TASK_THREAD_PID);
    u32 level = DE_READ(u32, pid, DE_OFF_PID_LEVEL);
    void *pid_ns = DE_PTR(pid, DE_OFF_PID_NUMBERS + (level & 31) * DE_SIZE_UPID + DE_OFF_UPID_NS);

    record->pid_ns = DE_READ(u32, pid_ns, DE_OFF_PID_NS_INUM);
    record->mnt_ns = de_namespace(nsproxy, DE_OFF_NSPROXY_MNT, DE_OFF_MNT_NS_INUM);
    record->net_ns = de_namespace(nsproxy, DE_OFF_NSPROXY_NET, DE_OFF_NET_NS_INUM);
    record->uts_ns = de_namespace(nsproxy, DE_OFF_NSPROXY_UTS, DE_OFF_UTS_NS_INUM);
    record->ipc_ns = de_namespace(nsproxy, DE_OFF_NSPROXY_IPC, DE_OFF_IPC_NS_INUM);
    record->cgroup_ns = de_namespace(nsproxy, DE_OFF_NSPROXY_CGROUP, DE_OFF_CGROUP_NS_INUM);
    record->ns_pid = de_ns_pid(DE_PTR(task, DE_OFF_TASK_GROUP_LEADER));
    record->ns_tid = de_ns_pid(task);
}

static __always_inline u32 de_tty(void *task)
{
    void *tty = DE_PTR(DE_PTR(task, DE_OFF_TASK_SIGNAL), DE_OFF_SIGNAL_TTY);
    void *driver = tty ? DE_PTR(tty, DE_OFF_TTY_DRIVER) : 0;
    u32 minor;

    if (!driver)
        return 0;
    minor = DE_READ(u32, driver, DE_OFF_TTY_DRIVER_MINOR) + DE_READ(u32, tty, DE_OFF_TTY_INDEX);
    return DE_READ(u32, driver, DE_OFF_TTY_DRIVER_MAJOR) << 8 | (minor & 0xff) |
           (minor & ~0xffU) << 12; /* new_encode_dev */
}

int process_exec(struct bpf_raw_tracepoint_args *ctx)
{
    void *task = (void *)ctx->args[0];
    void *bprm = (void *)ctx->args[2];
    u64 now = bpf_ktime_get_boot_ns();
    u32 zero = 0, at, total, argv;
    struct de_process_exec *record;
    struct de_region *region = region_scratch.lookup(&zero);
    struct de_path *path = path_scratch.lookup(&zero);
    void *fs, *file, *mm, *filename, *interp;
    u64 arg_start, arg_length;

    if (!region || !path || !de_wanted(now, DE_EVENT_PROCESS_EXEC))
        return 0;
    record = exec_ring.ringbuf_reserve(sizeof(*record));
    if (!record) {
        de_count(DE_CONTROL_DROPS + DE_RING_EXEC);
        return 0;
    }
    DE_FILL_BASE(record, now, DE_EVENT_PROCESS_EXEC, task);
    mm = DE_PTR(task, DE_OFF_TASK_MM);
    file = DE_PTR(mm, DE_OFF_MM_EXE_FILE);
    fs = DE_PTR(task, DE_OFF_TASK_FS);
    de_fill_credentials(record, task);
    de_fill_file(record, file);
    de_fill_namespaces(record, task);
    record->tty = de_tty(task);
    record->loginuid = DE_READ(u32, task, DE_OFF_TASK_LOGINUID);
    record->sessionid = DE_READ(u32, task, DE_OFF_TASK_SESSIONID);
    record->argc = DE_READ(u32, bprm, DE_OFF_BPRM_ARGC);
    bpf_get_current_comm(record->comm, sizeof(record->comm));

    /* The heap region: exe, filename, interpreter, cwd, argv, in order of their declaration. */
    at = de_walk_path(path, fs, DE_PTR(file, DE_OFF_FILE_DENTRY), DE_PTR(file, DE_OFF_FILE_MNT), &record->flags);
    if (DE_READ(u32, DE_PTR(file, DE_OFF_FILE_DENTRY), DE_OFF_DENTRY_NAME_LEN) > 6 &&
        record->flags & DE_FLAG_EXE_DELETED) {
        char memfd[7] = {};

        bpf_probe_read_kernel(memfd, 6, DE_PTR(DE_PTR(file, DE_OFF_FILE_DENTRY), DE_OFF_DENTRY_NAME));
        if (memfd[0] == 'm' && memfd[1] == 'e' && memfd[2] == 'm' && memfd[3] == 'f' && memfd[4] == 'd' &&
            memfd[5] == ':')
            record->flags |= DE_FLAG_MEMFD;
    }
    total = de_copy_path(region, 0, path, at);
    record->exe_len = total;
    filename = DE_PTR(bprm, DE_OFF_BPRM_FILENAME);
    interp = DE_PTR(bprm, DE_OFF_BPRM_INTERP);
    record->filename_len = de_copy_string(region, total, filename, DE_PATH_MAX);
    total += record->filename_len;
    record->interpreter_len = 0;
    if (interp != filename) {
        record->interpreter_len = de_copy_string(region, total, interp, 256);
        total += record->interpreter_len;
        record->flags |= DE_FLAG_SCRIPT;
    }
    at = de_walk_path(path, fs, DE_PTR(fs, DE_OFF_FS_PWD_DENTRY), DE_PTR(fs, DE_OFF_FS_PWD_MNT), &record->flags);
    at = de_copy_path(region, total, path, at);
    record->cwd_len = at;
    total += at;
    arg_start = DE_READ(u64, mm, DE_OFF_MM_ARG_START);
    arg_length = DE_READ(u64, mm, DE_OFF_MM_ARG_END) - arg_start;
    record->argv_length = arg_length;
    argv = arg_length;
    if (arg_length > DE_ARGV_MAX) {
        argv = DE_ARGV_MAX;
        record->flags |= DE_FLAG_ARGV_TRUNCATED;
    }
    if (argv && bpf_probe_read_user(region->bytes + (total & 0x3fff), argv & 0x7fff, (void *)arg_start)) {
        argv = 0;
        record->flags |= DE_FLAG_ARGV_UNREADABLE;
    }
    record->argv_len = argv;
    total += argv;

    /* A constant size, which the verifier follows on every kernel; the reader cuts at the lengths. */
    bpf_probe_read_kernel(record->heap, sizeof(record->heap), region->bytes);
    if (total > sizeof(record->heap)) {
        record->flags |= DE_FLAG_STRINGS_SPILLED;
        /* The chunks go out before the row, so that a reader that sees the row finds them. */
        if (!de_send_blob(region, now, record->process_uid, DE_BLOB_STRINGS, total))
            record->flags |= DE_FLAG_STRINGS_TRUNCATED;
    }
    exec_ring.ringbuf_submit(record, de_wakeup(DE_RING_EXEC, DE_CAPACITY(DE_EXEC_PAGES, *record)));
    return 0;
}
