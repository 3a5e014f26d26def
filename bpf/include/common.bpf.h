/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What every program shares: maps, reads by offset, the columns with which every record begins.
 *
 * Kernel fields are read at offsets (DE_OFF_*) that the loader takes from the running kernel's BTF; no struct of the
 * headers is used. The loader joins this file, events.gen.h and programs/ *.bpf.c into one text for BCC, which rewrites
 * map accesses in that text only.
 */
/* The kernel compares this text, and clang-format would put blanks around the slash. */
/* clang-format off */
#define BPF_LICENSE Dual BSD/GPL
/* clang-format on */

#define DE_READ(type, base, off)                                                      \
    ({                                                                                \
        type _value = 0;                                                              \
        bpf_probe_read_kernel(&_value, sizeof(_value), (const char *)(base) + (off)); \
        _value;                                                                       \
    })
#define DE_PTR(base, off) DE_READ(void *, base, off)

/* Slots of the control map, which the sensor maps into memory: reading a counter costs no system call. A slot never
 * changes its meaning: a sensor of another release counts by them what these rings held. */
#define DE_CONTROL_LEASE  0 /* boot-time ns until which somebody promises to read */
#define DE_CONTROL_EVENTS 1 /* bit per event id that is wanted */
#define DE_CONTROL_LAPSED 2 /* events that nobody was there to read */
#define DE_CONTROL_EPOCH  3 /* identity of these rings, set once by the loader */
/* 4: the records' form (daemoneye_sensor.programs.records_id), set once by the loader; no program reads it */
#define DE_CONTROL_UNTOLD  5   /* sockets that found no room among the open ones */
#define DE_CONTROL_DROPS   8   /* first of the drop counters, one a ring */
#define DE_CONTROL_SENT    16  /* first of the counters of records that went into a ring */
#define DE_CONTROL_READ    24  /* how many of those the sensor has read; written by the sensor */
#define DE_CONTROL_PACKETS 64  /* first of the counters of dropped packets, one a word of DropReason (at most 32) */
#define DE_CONTROL_CODES   256 /* first of the words for the kernel's reasons, set once by the loader */
#define DE_CODES           256
#define DE_RING_EXEC       0
#define DE_RING_PROCESS    1
#define DE_RING_BLOB       2
#define DE_RING_SOCKET     3

#define DE_BLOB_STRINGS 1
#define DE_BLOB_CGROUP  2
#define DE_BLOB_DATA    992
#define DE_BLOB_CHUNKS  30
#define DE_PATH_MAX     4096
#define DE_ARGV_MAX     16384
#define DE_REGION       32768 /* the largest value that a per-CPU map holds */

struct de_blob {
    __u64 time;
    __u64 key;
    __u32 kind;
    __u32 total;
    __u32 offset;
    __u32 length;
    __u8 data[DE_BLOB_DATA];
};
_Static_assert(sizeof(struct de_blob) == 1024, "blob");

struct de_region {
    __u8 bytes[DE_REGION];
};

/* `at` lives in memory rather than in a register: the verifier forgets its range there, so that the turns of the walk
 * look alike to it. */
struct de_path {
    __u64 at;
    __u8 bytes[DE_PATH_MAX + 512];
};

/* An open socket, by the address of its struct sock: the row that will tell its end, which begins with its owner. */
struct de_socket {
    struct de_socket_close row;
    __u64 identity; /* of UDP: which socket this is, and with whom it speaks */
    __u32 told;     /* whether socket_open was sent */
    __u32 unused;
};
_Static_assert(sizeof(struct de_socket) == 200, "socket");

#define DE_SOCKETS 65536

BPF_F_TABLE("array", u32, u64, control, 512, BPF_F_MMAPABLE);
BPF_RINGBUF_OUTPUT(exec_ring, DE_EXEC_PAGES);
BPF_RINGBUF_OUTPUT(process_ring, DE_PROCESS_PAGES);
BPF_RINGBUF_OUTPUT(blob_ring, DE_BLOB_PAGES);
BPF_RINGBUF_OUTPUT(socket_ring, DE_SOCKET_PAGES);
BPF_TABLE("hash", u64, struct de_socket, sockets, DE_SOCKETS);
BPF_PERCPU_ARRAY(region_scratch, struct de_region, 1);
BPF_PERCPU_ARRAY(path_scratch, struct de_path, 1);
BPF_TABLE("lru_hash", u64, u8, cgroups_seen, 8192);

static __always_inline u64 de_splitmix64(u64 x)
{
    x += 0x9E3779B97F4A7C15ULL;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ULL;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBULL;
    return x ^ (x >> 31);
}

static __always_inline u64 de_process_uid(u32 pid, u64 start)
{
    return pid ? de_splitmix64(start ^ de_splitmix64(pid)) : 0;
}

static __always_inline void de_count(u32 slot)
{
    u64 *counter = control.lookup(&slot);

    if (counter)
        __sync_fetch_and_add(counter, 1);
}

/* Whether somebody reads and wants this event. */
static __always_inline int de_wanted(u64 now, u32 event)
{
    u32 slot = DE_CONTROL_LEASE;
    u64 *value = control.lookup(&slot);

    if (!value)
        return 0;
    if (now > *value) {
        de_count(DE_CONTROL_LAPSED);
        return 0;
    }
    slot = DE_CONTROL_EVENTS;
    value = control.lookup(&slot);
    return value && (*value >> event & 1);
}

/*
 * Waking the reader for each record costs 19 times more than reading on a timer. It is woken when a ring
 * is half full; the band keeps a reader that is already behind from being woken again and again. (BCC 0.26 has no
 * bpf_ringbuf_query: hence the counters.)
 */
static __always_inline u64 de_wakeup(u32 ring, u64 capacity)
{
    u32 slot = DE_CONTROL_SENT + ring;
    u64 *sent = control.lookup(&slot), *read, pending;

    slot = DE_CONTROL_READ + ring;
    read = control.lookup(&slot);
    if (!sent || !read)
        return BPF_RB_NO_WAKEUP;
    pending = *sent - *read;
    __sync_fetch_and_add(sent, 1);
    return pending > capacity / 2 && pending < capacity / 2 + capacity / 8 ? BPF_RB_FORCE_WAKEUP : BPF_RB_NO_WAKEUP;
}

/* Records that a ring of so many pages holds: 8 bytes of header each (kernel/bpf/ringbuf.c). */
#define DE_CAPACITY(pages, type) ((pages) * 4096ULL / (sizeof(type) + 8))

static __always_inline void *de_v1_cgroup(void *css_set, void *v2)
{
    void *css = DE_PTR(css_set, DE_OFF_CSS_SET_SUBSYS + 8 * DE_V1_SUBSYS);
    void *cgroup = css ? DE_PTR(css, DE_OFF_CSS_CGROUP) : 0;

    /* On a pure v2 machine the controller's cgroup lies in the v2 hierarchy: then there is no v1 id. */
    if (!cgroup || DE_PTR(cgroup, DE_OFF_CGROUP_ROOT) == DE_PTR(v2, DE_OFF_CGROUP_ROOT))
        return 0;
    return cgroup;
}

static __always_inline u64 de_cgroup_id(void *cgroup)
{
    return cgroup ? DE_READ(u64, DE_PTR(cgroup, DE_OFF_CGROUP_KN), DE_OFF_KN_ID) : 0;
}

/* The columns of daemoneye.events.base for a task; the caller sets cpu and event. Every byte is written: ring memory is
 * not cleared. */
#define DE_FILL_BASE(record, now, event_id, task)                                                \
    do {                                                                                         \
        void *_leader = DE_PTR(task, DE_OFF_TASK_GROUP_LEADER);                                  \
        void *_parent = DE_PTR(DE_PTR(task, DE_OFF_TASK_REAL_PARENT), DE_OFF_TASK_GROUP_LEADER); \
        void *_css_set = DE_PTR(task, DE_OFF_TASK_CGROUPS);                                      \
        void *_v2 = DE_PTR(_css_set, DE_OFF_CSS_SET_DFL);                                        \
        (record)->time = now;                                                                    \
        (record)->event = event_id;                                                              \
        (record)->cpu = bpf_get_smp_processor_id();                                              \
        (record)->flags = 0;                                                                     \
        (record)->pid = DE_READ(u32, task, DE_OFF_TASK_TGID);                                    \
        (record)->tid = DE_READ(u32, task, DE_OFF_TASK_PID);                                     \
        (record)->start_time = DE_READ(u64, _leader, DE_OFF_TASK_START);                         \
        (record)->ppid = DE_READ(u32, _parent, DE_OFF_TASK_TGID);                                \
        (record)->parent_start_time = DE_READ(u64, _parent, DE_OFF_TASK_START);                  \
        (record)->process_uid = de_process_uid((record)->pid, (record)->start_time);             \
        (record)->parent_uid = de_process_uid((record)->ppid, (record)->parent_start_time);      \
        (record)->uid = DE_READ(u32, DE_PTR(task, DE_OFF_TASK_CRED), DE_OFF_CRED_UID);           \
        (record)->cgroup_id = de_cgroup_id(_v2);                                                 \
        (record)->cgroup_v1_id = de_cgroup_id(de_v1_cgroup(_css_set, _v2));                      \
    } while (0)

/* Process id in the innermost pid namespace of a task (struct pid.numbers[level]). */
static __always_inline u32 de_ns_pid(void *task)
{
    void *pid = DE_PTR(task, DE_OFF_TASK_THREAD_PID);
    u32 level = DE_READ(u32, pid, DE_OFF_PID_LEVEL);

    return DE_READ(u32, pid, DE_OFF_PID_NUMBERS + (level & 31) * DE_SIZE_UPID + DE_OFF_UPID_NR);
}

/* Send `total` bytes of the region in chunks. Returns 0 when one did not fit: the row is kept, its strings are then
 * incomplete. */
static __always_inline int de_send_blob(struct de_region *region, u64 now, u64 key, u32 kind, u32 total)
{
    u32 i;

    for (i = 0; i < DE_BLOB_CHUNKS; i++) {
        u32 offset = i * DE_BLOB_DATA;
        struct de_blob *blob;

        if (offset >= total)
            break;
        blob = blob_ring.ringbuf_reserve(sizeof(struct de_blob));
        if (!blob) {
            de_count(DE_CONTROL_DROPS + DE_RING_BLOB);
            return 0;
        }
        blob->time = now;
        blob->key = key;
        blob->kind = kind;
        blob->total = total;
        blob->offset = offset;
        blob->length = total - offset < DE_BLOB_DATA ? total - offset : DE_BLOB_DATA;
        bpf_probe_read_kernel(blob->data, DE_BLOB_DATA, region->bytes + offset);
        blob_ring.ringbuf_submit(blob, BPF_RB_NO_WAKEUP); /* the row that follows wakes */
    }
    return 1;
}
