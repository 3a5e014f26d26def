"""The kernel fields that the programs read: one table of names and where BTF finds them. A program that needs another adds a line."""

from __future__ import annotations

from btf import Btf, BtfError

# Name in the programs (DE_OFF_<name>): struct and members; `a|b` takes the name that this kernel has.
_OFFSETS: dict[str, tuple[str, ...]] = {
    "TASK_PID": ("task_struct", "pid"),
    "TASK_TGID": ("task_struct", "tgid"),
    "TASK_START": ("task_struct", "start_boottime|real_start_time"),
    "TASK_GROUP_LEADER": ("task_struct", "group_leader"),
    "TASK_REAL_PARENT": ("task_struct", "real_parent"),
    "TASK_CGROUPS": ("task_struct", "cgroups"),
    "TASK_CRED": ("task_struct", "cred"),
    "TASK_SIGNAL": ("task_struct", "signal"),
    "TASK_EXIT_CODE": ("task_struct", "exit_code"),
    "TASK_MM": ("task_struct", "mm"),
    "TASK_FS": ("task_struct", "fs"),
    "TASK_NSPROXY": ("task_struct", "nsproxy"),
    "TASK_THREAD_PID": ("task_struct", "thread_pid"),
    "TASK_LOGINUID": ("task_struct", "loginuid"),
    "TASK_SESSIONID": ("task_struct", "sessionid"),
    "CSS_SET_SUBSYS": ("css_set", "subsys"),
    "CSS_SET_DFL": ("css_set", "dfl_cgrp"),
    "CSS_CGROUP": ("cgroup_subsys_state", "cgroup"),
    "CGROUP_ROOT": ("cgroup", "root"),
    "CGROUP_KN": ("cgroup", "kn"),
    "KN_ID": ("kernfs_node", "id"),
    "KN_NAME": ("kernfs_node", "name"),
    "KN_PARENT": ("kernfs_node", "__parent|parent"),
    "CRED_UID": ("cred", "uid"),
    "CRED_GID": ("cred", "gid"),
    "CRED_EUID": ("cred", "euid"),
    "CRED_EGID": ("cred", "egid"),
    "CRED_CAP_EFFECTIVE": ("cred", "cap_effective"),
    "CRED_CAP_PERMITTED": ("cred", "cap_permitted"),
    "CRED_USER_NS": ("cred", "user_ns"),
    "USER_NS_INUM": ("user_namespace", "ns", "inum"),
    "NSPROXY_MNT": ("nsproxy", "mnt_ns"),
    "NSPROXY_NET": ("nsproxy", "net_ns"),
    "NSPROXY_UTS": ("nsproxy", "uts_ns"),
    "NSPROXY_IPC": ("nsproxy", "ipc_ns"),
    "NSPROXY_CGROUP": ("nsproxy", "cgroup_ns"),
    "MNT_NS_INUM": ("mnt_namespace", "ns", "inum"),
    "NET_NS_INUM": ("net", "ns", "inum"),
    "UTS_NS_INUM": ("uts_namespace", "ns", "inum"),
    "IPC_NS_INUM": ("ipc_namespace", "ns", "inum"),
    "CGROUP_NS_INUM": ("cgroup_namespace", "ns", "inum"),
    "PID_NS_INUM": ("pid_namespace", "ns", "inum"),
    "PID_LEVEL": ("pid", "level"),
    "PID_NUMBERS": ("pid", "numbers"),
    "UPID_NR": ("upid", "nr"),
    "UPID_NS": ("upid", "ns"),
    "SIGNAL_LIVE": ("signal_struct", "live"),
    "SIGNAL_FLAGS": ("signal_struct", "flags"),
    "SIGNAL_GROUP_EXIT_CODE": ("signal_struct", "group_exit_code"),
    "SIGNAL_TTY": ("signal_struct", "tty"),
    "TTY_DRIVER": ("tty_struct", "driver"),
    "TTY_INDEX": ("tty_struct", "index"),
    "TTY_DRIVER_MAJOR": ("tty_driver", "major"),
    "TTY_DRIVER_MINOR": ("tty_driver", "minor_start"),
    "SIGINFO_CODE": ("kernel_siginfo", "si_code"),
    "MM_EXE_FILE": ("mm_struct", "exe_file"),
    "MM_ARG_START": ("mm_struct", "arg_start"),
    "MM_ARG_END": ("mm_struct", "arg_end"),
    "BPRM_FILENAME": ("linux_binprm", "filename"),
    "BPRM_INTERP": ("linux_binprm", "interp"),
    "BPRM_ARGC": ("linux_binprm", "argc"),
    "FILE_INODE": ("file", "f_inode"),
    "FILE_DENTRY": ("file", "f_path", "dentry"),
    "FILE_MNT": ("file", "f_path", "mnt"),
    "INODE_MODE": ("inode", "i_mode"),
    "INODE_UID": ("inode", "i_uid"),
    "INODE_GID": ("inode", "i_gid"),
    "INODE_SB": ("inode", "i_sb"),
    "INODE_INO": ("inode", "i_ino"),
    "INODE_NLINK": ("inode", "i_nlink"),
    "SB_DEV": ("super_block", "s_dev"),
    "SB_MAGIC": ("super_block", "s_magic"),
    "DENTRY_PARENT": ("dentry", "d_parent"),
    "DENTRY_NAME": ("dentry", "d_name", "name"),
    "DENTRY_NAME_LEN": ("dentry", "d_name", "len"),
    "VFSMOUNT_ROOT": ("vfsmount", "mnt_root"),
    "MOUNT_MNT": ("mount", "mnt"),
    "MOUNT_PARENT": ("mount", "mnt_parent"),
    "MOUNT_MOUNTPOINT": ("mount", "mnt_mountpoint"),
    "FS_ROOT_DENTRY": ("fs_struct", "root", "dentry"),
    "FS_ROOT_MNT": ("fs_struct", "root", "mnt"),
    "FS_PWD_DENTRY": ("fs_struct", "pwd", "dentry"),
    "FS_PWD_MNT": ("fs_struct", "pwd", "mnt"),
}

# Those of the programs about sockets, without which the others run nevertheless.
_SOCKET_OFFSETS: dict[str, tuple[str, ...]] = {
    "TASK_FLAGS": ("task_struct", "flags"),
    "SOCK_FAMILY": ("sock_common", "skc_family"),
    "SOCK_STATE": ("sock_common", "skc_state"),
    "SOCK_DPORT": ("sock_common", "skc_dport"),
    "SOCK_DADDR": ("sock_common", "skc_daddr"),
    "SOCK_RCV_SADDR": ("sock_common", "skc_rcv_saddr"),
    "SOCK_V6_DADDR": ("sock_common", "skc_v6_daddr|skc_daddr"),  # the latter where there is no IPv6, and never read
    "SOCK_V6_RCV_SADDR": ("sock_common", "skc_v6_rcv_saddr|skc_rcv_saddr"),
    "SOCK_NET": ("sock_common", "skc_net", "net"),
    "SOCK_PROTOCOL": ("sock", "sk_protocol"),
    "SOCK_TYPE": ("sock", "sk_type"),
    "SOCK_ERR": ("sock", "sk_err"),
    "SOCK_FLAGS": ("sock_common", "skc_flags"),
    "SOCK_SOCKET": ("sock", "sk_socket"),
    "SOCK_BACKLOG": ("sock", "sk_max_ack_backlog"),
    "SOCKET_INO": ("socket_alloc", "vfs_inode", "i_ino"),  # a struct socket is the beginning of a socket_alloc
    "INET_SPORT": ("inet_sock", "inet_sport"),
    "TCP_BYTES_SENT": ("tcp_sock", "bytes_sent"),
    "TCP_BYTES_RETRANS": ("tcp_sock", "bytes_retrans"),
    "TCP_BYTES_RECEIVED": ("tcp_sock", "bytes_received"),
    "TCP_TOTAL_RETRANS": ("tcp_sock", "total_retrans"),
    "TCP_SRTT": ("tcp_sock", "srtt_us"),
}

# Those of socket_calls, by the words of x86-64; a kernel that lacks one of them goes without the program.
_CALL_OFFSETS: dict[str, tuple[str, ...]] = {
    "TASK_FILES": ("task_struct", "files"),
    "FILES_FDT": ("files_struct", "fdt"),
    "FDT_MAX": ("fdtable", "max_fds"),
    "FDT_FD": ("fdtable", "fd"),
    "FILE_PRIVATE": ("file", "private_data"),
    "SOCKET_SK": ("socket", "sk"),
}
_X86_64: dict[str, tuple[str, ...]] = {
    "REGS_NUMBER": ("pt_regs", "orig_ax"),
    "REGS_ARG0": ("pt_regs", "di"),
    "REGS_ARG1": ("pt_regs", "si"),
    "REGS_ARG2": ("pt_regs", "dx"),
    "REGS_ARG3": ("pt_regs", "r10"),
    "TASK_STATUS": ("task_struct", "thread_info", "status"),
}


def defines(btf: Btf) -> dict[str, int]:
    """Preprocessor definitions for the programs.

    Raises:
        BtfError: The kernel lacks a struct or member; the message names it.
    """
    values = {f"DE_OFF_{name}": btf.offset(*path) for name, path in _OFFSETS.items()}
    values["DE_SIZE_UPID"] = btf.size("upid")
    values["DE_SIZE_INODE"] = btf.size("inode")
    values["DE_V1_SUBSYS"] = btf.enum("memory_cgrp_id")
    return values


def socket_defines(btf: Btf) -> dict[str, int]:
    """The same for the programs about sockets.

    Raises:
        BtfError: The kernel lacks a struct or member; the message names it.
    """
    values = {f"DE_OFF_{name}": btf.offset(*path) for name, path in _SOCKET_OFFSETS.items()}
    values["DE_SOCK_DONE"] = btf.enum("SOCK_DONE")
    return {**values, **_call_defines(btf), **_drop_defines(btf)}


def _drop_defines(btf: Btf) -> dict[str, int]:
    """Those of socket_drops; none before 5.17, where nobody says why."""
    if not btf.has("trace_event_raw_kfree_skb", "reason") or not btf.has("sk_buff", "sk"):
        return {}
    receiver = {"DE_KFREE_RX_SK": 1} if btf.has("trace_event_raw_kfree_skb", "rx_sk") else {}
    return {"DE_KFREE_REASON": 1, "DE_OFF_SKB_SK": btf.offset("sk_buff", "sk"), **receiver}


def drop_codes(btf: Btf, codes: dict[str, int], other: int) -> dict[int, int]:
    """This kernel's number of each reason for dropping a packet → ours, by name; `other` for names that are not among `codes`."""
    ours = {f"SKB_{name}" if name == "CONSUMED" else f"SKB_DROP_REASON_{name}": code for name, code in codes.items()}
    found = btf.enumerators("skb_drop_reason")
    return {
        value: ours.get(name, other) for name, value in found.items() if 0 < value < found.get("SKB_DROP_REASON_MAX", 0)
    }


def _call_defines(btf: Btf) -> dict[str, int]:
    """Those of socket_calls; none where the kernel, or its processor, is not one that it knows."""
    try:
        values = {f"DE_OFF_{name}": btf.offset(*path) for name, path in _CALL_OFFSETS.items()}
        if btf.has("pt_regs", "orig_ax"):
            values |= {f"DE_OFF_{name}": btf.offset(*path) for name, path in _X86_64.items()} | {"DE_X86_64": 1}
        else:  # arm64, where the result replaces the first argument
            values["DE_OFF_REGS_NUMBER"] = btf.offset("pt_regs", "syscallno")
            registers = btf.offset("pt_regs", "regs")
            values |= {f"DE_OFF_REGS_ARG{n}": registers + 8 * n for n in range(1, 4)}
            values["DE_OFF_REGS_ARG0"] = btf.offset("pt_regs", "orig_x0")
    except BtfError:
        return {}
    return values
