//! The system calls that a function may make: Docker's default rules, as data.
//!
//! The lists follow the default profile of the Moby project (github.com/moby/profiles, Apache-2.0),
//! for the architectures that ingle runs on. What is not listed fails with EPERM; runtimes answer
//! calls that are newer than every listed one with ENOSYS, so that programs fall back.

use serde_json::{Value, json};

/// Allowed without a condition.
const ALLOWED: &str = "
    accept accept4 access adjtimex alarm bind brk cachestat capget capset chdir chmod chown chown32
    clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime clock_gettime64
    clock_nanosleep clock_nanosleep_time64 close close_range connect copy_file_range creat dup dup2 dup3
    epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old
    eventfd eventfd2 execve execveat exit exit_group faccessat faccessat2 fadvise64 fadvise64_64 fallocate
    fanotify_mark fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat fcntl fcntl64 fdatasync
    fgetxattr flistxattr flock fork fremovexattr fsetxattr fstat fstat64 fstatat64 fstatfs fstatfs64 fsync
    ftruncate ftruncate64 futex futex_requeue futex_time64 futex_wait futex_waitv futex_wake futimesat
    getcpu getcwd getdents getdents64 getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups
    getgroups32 getitimer getpeername getpgid getpgrp getpid getppid getpriority getrandom getresgid
    getresgid32 getresuid getresuid32 getrlimit get_robust_list getrusage getsid getsockname getsockopt
    get_thread_area gettid gettimeofday getuid getuid32 getxattr getxattrat inotify_add_watch inotify_init
    inotify_init1 inotify_rm_watch io_cancel ioctl io_destroy io_getevents io_pgetevents
    io_pgetevents_time64 ioprio_get ioprio_set io_setup io_submit ipc kill landlock_add_rule
    landlock_create_ruleset landlock_restrict_self lchown lchown32 lgetxattr link linkat listen listmount
    listxattr listxattrat llistxattr _llseek lremovexattr lseek lsetxattr lstat lstat64 madvise
    map_shadow_stack membarrier memfd_create memfd_secret mincore mkdir mkdirat mknod mknodat mlock mlock2
    mlockall mmap mmap2 mprotect mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64
    mq_timedsend mq_timedsend_time64 mq_unlink mremap mseal msgctl msgget msgrcv msgsnd msync munlock
    munlockall munmap name_to_handle_at nanosleep newfstatat _newselect open openat openat2 pause
    pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect poll ppoll ppoll_time64
    prctl pread64 preadv preadv2 prlimit64 process_mrelease process_vm_readv process_vm_writev pselect6
    pselect6_time64 ptrace pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv recv recvfrom
    recvmmsg recvmmsg_time64 recvmsg remap_file_pages removexattr removexattrat rename renameat renameat2
    restart_syscall rmdir rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn
    rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo sched_getaffinity sched_getattr
    sched_getparam sched_get_priority_max sched_get_priority_min sched_getscheduler sched_rr_get_interval
    sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam sched_setscheduler
    sched_yield seccomp select semctl semget semop semtimedop semtimedop_time64 send sendfile sendfile64
    sendmmsg sendmsg sendto setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups setgroups32
    setitimer setpgid setpriority setregid setregid32 setresgid setresgid32 setresuid setresuid32 setreuid
    setreuid32 setrlimit set_robust_list setsid setsockopt set_thread_area set_tid_address setuid setuid32
    setxattr setxattrat shmat shmctl shmdt shmget shutdown sigaltstack signalfd signalfd4 sigprocmask
    sigreturn socketcall socketpair splice stat stat64 statfs statfs64 statmount statx symlink symlinkat
    sync sync_file_range syncfs sysinfo tee tgkill time timer_create timer_delete timer_getoverrun
    timer_gettime timer_gettime64 timer_settime timer_settime64 timerfd_create timerfd_gettime
    timerfd_gettime64 timerfd_settime timerfd_settime64 times tkill truncate truncate64 ugetrlimit umask
    uname unlink unlinkat uretprobe utime utimensat utimensat_time64 utimes vfork vmsplice wait4 waitid
    waitpid write writev";

/// Allowed on one architecture only, by Rust's name for it.
const OF_ARCHITECTURE: [(&str, &str); 2] = [
    ("x86_64", "arch_prctl modify_ldt"),
    ("aarch64", "arm_fadvise64_64 arm_sync_file_range sync_file_range2 breakpoint cacheflush set_tls"),
];

/// Allowed with a capability.
const WITH_CAPABILITY: [(&str, &str); 14] = [
    ("CAP_DAC_READ_SEARCH", "open_by_handle_at"),
    (
        "CAP_SYS_ADMIN",
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie lsm_get_self_attr
         lsm_list_modules lsm_set_self_attr mount mount_setattr move_mount open_tree perf_event_open
         quotactl quotactl_fd setdomainname sethostname setns syslog umount umount2 unshare",
    ),
    ("CAP_SYS_BOOT", "reboot"),
    ("CAP_SYS_CHROOT", "chroot"),
    ("CAP_SYS_MODULE", "delete_module init_module finit_module"),
    ("CAP_SYS_PACCT", "acct"),
    ("CAP_SYS_PTRACE", "kcmp pidfd_getfd process_madvise"),
    ("CAP_SYS_RAWIO", "iopl ioperm"),
    ("CAP_SYS_TIME", "settimeofday stime clock_settime clock_settime64"),
    ("CAP_SYS_TTY_CONFIG", "vhangup"),
    ("CAP_SYS_NICE", "get_mempolicy mbind set_mempolicy set_mempolicy_home_node"),
    ("CAP_SYSLOG", "syslog"),
    ("CAP_BPF", "bpf"),
    ("CAP_PERFMON", "perf_event_open"),
];

/// Socket families that may be opened besides those below [`FAMILIES_BELOW`]. What is missing is
/// what reaches past the network namespace or into little-used kernel code: AF_VSOCK (40), which is
/// the hypervisor's, AF_ALG (38), and obsolete protocols.
const FAMILIES: [u64; 25] =
    [13, 14, 15, 16, 17, 18, 21, 22, 24, 26, 27, 28, 29, 30, 31, 32, 33, 35, 36, 39, 41, 42, 43, 44, 45];
/// Socket families from AF_UNIX to AF_X25 and their neighbours are allowed.
const FAMILIES_BELOW: u64 = 12;

/// Execution domains: Linux, Linux with 32-bit addresses, both with UNAME26, and the query.
const PERSONALITIES: [u64; 5] = [0x0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// All CLONE_NEW* flags: a process without CAP_SYS_ADMIN makes no namespaces.
const NAMESPACE_FLAGS: u64 = 0x7e02_0000;
const ENOSYS: u32 = 38;
const EPERM: u32 = 1;

/// Which programs a container may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Programs {
    /// Those of the processor's own architecture.
    Native,
    /// Those for its 32-bit predecessors as well. The runtime compiles the rules for each
    /// architecture at each start of a container, which takes as long as the rest of the start.
    Native32,
}

/// The `linux.seccomp` section for a container with `capabilities` on `architecture`
/// ([`std::env::consts::ARCH`]).
pub(super) fn section(architecture: &str, capabilities: &[String], programs: Programs) -> Value {
    let mut allowed: Vec<&str> = ALLOWED.split_whitespace().collect();
    let has = |capability: &str| capabilities.iter().any(|c| c == capability);
    for (name, calls) in OF_ARCHITECTURE {
        if name == architecture {
            allowed.extend(calls.split_whitespace());
        }
    }
    for (capability, calls) in WITH_CAPABILITY {
        if has(capability) {
            allowed.extend(calls.split_whitespace());
        }
    }
    allowed.sort_unstable();
    allowed.dedup();
    let mut rules = vec![json!({ "names": allowed, "action": "SCMP_ACT_ALLOW" })];
    rules.push(allow_if("socket", json!({ "index": 0, "value": FAMILIES_BELOW, "op": "SCMP_CMP_LT" })));
    for family in FAMILIES {
        rules.push(allow_if("socket", json!({ "index": 0, "value": family, "op": "SCMP_CMP_EQ" })));
    }
    for domain in PERSONALITIES {
        rules.push(allow_if("personality", json!({ "index": 0, "value": domain, "op": "SCMP_CMP_EQ" })));
    }
    if !has("CAP_SYS_ADMIN") {
        rules.push(allow_if(
            "clone",
            json!({ "index": 0, "value": NAMESPACE_FLAGS, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ" }),
        ));
        // Its flags are behind a pointer, which a filter cannot follow; libc then uses clone.
        rules.push(json!({ "names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": ENOSYS }));
    }
    json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": EPERM,
        "architectures": architectures(architecture, programs),
        "syscalls": rules,
    })
}

fn allow_if(name: &str, argument: Value) -> Value {
    json!({ "names": [name], "action": "SCMP_ACT_ALLOW", "args": [argument] })
}

/// The architecture, and those whose programs it also runs.
fn architectures(architecture: &str, programs: Programs) -> Vec<&'static str> {
    match (architecture, programs) {
        ("x86_64", Programs::Native) => vec!["SCMP_ARCH_X86_64"],
        ("x86_64", Programs::Native32) => vec!["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        ("aarch64", Programs::Native) => vec!["SCMP_ARCH_AARCH64"],
        ("aarch64", Programs::Native32) => vec!["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"],
        _ => vec!["SCMP_ARCH_NATIVE"],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether a rule allows `name` whatever its arguments are.
    fn allows(section: &Value, name: &str) -> bool {
        section["syscalls"].as_array().expect("rules").iter().any(|rule| {
            rule["action"] == "SCMP_ACT_ALLOW"
                && rule.get("args").is_none()
                && rule["names"].as_array().expect("names").iter().any(|n| n == name)
        })
    }

    #[test]
    fn what_programs_need_is_allowed_and_what_reaches_the_host_is_not() {
        const REFUSED: &str = "
            mount unshare setns bpf keyctl add_key request_key init_module reboot clone clone3
            socket personality io_uring_setup userfaultfd kexec_load perf_event_open
            open_by_handle_at swapon pivot_root syslog cacheflush";
        let section = section("x86_64", &[], Programs::Native);
        for name in ["read", "execve", "futex", "ptrace", "arch_prctl", "openat2", "statx"] {
            assert!(allows(&section, name), "{name}");
        }
        for name in REFUSED.split_whitespace() {
            assert!(!allows(&section, name), "{name}");
        }
        assert_eq!(section["defaultAction"], "SCMP_ACT_ERRNO");
    }

    #[test]
    fn a_capability_brings_its_calls() {
        let section = section("x86_64", &["CAP_SYS_ADMIN".into(), "CAP_SYS_TIME".into()], Programs::Native);
        for name in ["mount", "clone", "clone3", "clock_settime"] {
            assert!(allows(&section, name), "{name}");
        }
        assert!(!allows(&section, "init_module"));
        let refused = section["syscalls"].as_array().expect("rules").iter();
        assert_eq!(refused.filter(|rule| rule["action"] == "SCMP_ACT_ERRNO").count(), 0);
    }

    #[test]
    fn each_architecture_has_its_own() {
        let arm = section("aarch64", &[], Programs::Native32);
        assert!(allows(&arm, "set_tls") && !allows(&arm, "modify_ldt"));
        assert_eq!(arm["architectures"], json!(["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"]));
        let native = section("aarch64", &[], Programs::Native);
        assert_eq!(native["architectures"], json!(["SCMP_ARCH_AARCH64"]));
    }

    #[test]
    fn sockets_of_the_hypervisor_and_of_kernel_crypto_are_not_allowed() {
        assert!(!FAMILIES.contains(&40) && !FAMILIES.contains(&38));
        // AF_NETLINK and AF_PACKET; the latter needs CAP_NET_RAW besides.
        assert!(FAMILIES.contains(&16) && FAMILIES.contains(&17));
    }
}
