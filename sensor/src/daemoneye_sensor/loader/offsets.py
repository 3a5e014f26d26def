"""The kernel fields that the programs read: one table of names and where BTF finds them. A program that needs another adds a line."""

from __future__ import annotations

from btf import Btf

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
    return values
