//! seccomp: the system calls that a worker makes, and no other.
//!
//! Four filters; the kernel takes the strictest answer. Three go up before a worker has a job, because the kernel takes
//! as long to check them as a step's whole start should. The first kills the process for what only an attack would try.
//! The second says that there is no `clone3`, whose flags no filter can read: then the C library uses `clone`. The third
//! lets through what a worker needs, and answers everything else with "not permitted", so that a library that tries
//! something newer falls back. The last goes up with the job's own walls, and closes what was open for it until then:
//! mapping code, setting limits, and walls themselves.

use std::collections::BTreeMap;

use libc::c_long;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

/// Calls that are let through whatever their arguments are. Which files they reach is Landlock's to say.
const ALLOWED: &[c_long] = &[
    // Files of the granted directories, and the sockets that the worker was given.
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_preadv,
    libc::SYS_pwritev,
    libc::SYS_preadv2,
    libc::SYS_pwritev2,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_shutdown,
    libc::SYS_lseek,
    libc::SYS_close,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_fstatfs,
    libc::SYS_ftruncate,
    libc::SYS_fallocate,
    libc::SYS_fadvise64,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_fchmod,
    libc::SYS_mkdirat,
    libc::SYS_unlinkat,
    libc::SYS_symlinkat,
    libc::SYS_linkat,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_readlinkat,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_utimensat,
    libc::SYS_getdents64,
    libc::SYS_fcntl,
    libc::SYS_dup,
    libc::SYS_dup3,
    // Waiting.
    libc::SYS_ppoll,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_eventfd2,
    libc::SYS_futex,
    libc::SYS_nanosleep,
    libc::SYS_clock_nanosleep,
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_gettimeofday,
    libc::SYS_sched_yield,
    libc::SYS_restart_syscall,
    // Memory and threads.
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_membarrier,
    libc::SYS_set_robust_list,
    libc::SYS_set_tid_address,
    libc::SYS_rseq,
    libc::SYS_sched_getaffinity,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_exit,
    libc::SYS_exit_group,
    // Answered by the second filter.
    libc::SYS_clone3,
];

/// The same, under the names that only this architecture has.
#[cfg(target_arch = "x86_64")]
const ALLOWED_HERE: &[c_long] = &[
    libc::SYS_poll,
    libc::SYS_epoll_wait,
    libc::SYS_readlink,
    libc::SYS_time,
];
#[cfg(not(target_arch = "x86_64"))]
const ALLOWED_HERE: &[c_long] = &[];

/// Calls for which the process is killed: starting programs, reaching others, and the kernel's larger doors.
const FATAL: &[c_long] = &[
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_socket,
    libc::SYS_connect,
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_accept4,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_getfd,
    libc::SYS_pidfd_send_signal,
    libc::SYS_kill,
    libc::SYS_tkill,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_capset,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_kexec_load,
    libc::SYS_open_by_handle_at,
    libc::SYS_mknodat,
    libc::SYS_personality,
];

#[cfg(target_arch = "x86_64")]
const FATAL_HERE: &[c_long] = &[libc::SYS_fork, libc::SYS_vfork, libc::SYS_mknod];
#[cfg(not(target_arch = "x86_64"))]
const FATAL_HERE: &[c_long] = &[];

/// Calls that a worker makes between its start and its job's walls, and never after: to map components and to raise
/// those.
const UNTIL_THE_JOB: &[c_long] = &[
    libc::SYS_landlock_create_ruleset,
    libc::SYS_landlock_add_rule,
    libc::SYS_landlock_restrict_self,
    libc::SYS_seccomp,
    libc::SYS_setsockopt,
    libc::SYS_memfd_create,
];

/// Restricts the calling thread, and those it will start, to what a worker does, as far as that does not depend on its
/// job. Returns what does the rest.
pub(super) fn begin() -> Result<Last, String> {
    let arch = arch()?;
    let fatal = FATAL
        .iter()
        .chain(FATAL_HERE)
        .map(|&call| (call, Vec::new()))
        .collect();
    let missing = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    let mut waiting = needed()?;
    let open = [
        libc::SYS_mmap,
        libc::SYS_mprotect,
        libc::SYS_prctl,
        libc::SYS_prlimit64,
    ];
    waiting.extend(
        open.iter()
            .chain(UNTIL_THE_JOB)
            .map(|&call| (call, Vec::new())),
    );
    let (pass, refuse) = (SeccompAction::Allow, not_permitted());
    // The last is made first: it is of no use to find out later that it cannot be.
    let last = filter(closing()?, pass.clone(), refuse.clone(), arch)?;
    let missing_call = SeccompAction::Errno(libc::ENOSYS.cast_unsigned());
    for filter in [
        filter(fatal, pass.clone(), SeccompAction::KillProcess, arch)?,
        filter(missing, pass.clone(), missing_call, arch)?,
        filter(waiting, refuse, pass, arch)?,
    ] {
        apply(&filter)?;
    }
    Ok(Last(last))
}

/// The filter that leaves nothing but what a job needs.
pub(super) struct Last(BpfProgram);

impl Last {
    /// Restricts the calling thread, and those it will start, to that.
    pub(super) fn restrict(&self) -> Result<(), String> {
        apply(&self.0)
    }
}

fn apply(filter: &BpfProgram) -> Result<(), String> {
    seccompiler::apply_filter(filter).map_err(|error| format!("seccomp: {error}"))
}

fn arch() -> Result<TargetArch, String> {
    std::env::consts::ARCH
        .try_into()
        .map_err(|error| format!("seccomp: {error}"))
}

fn not_permitted() -> SeccompAction {
    SeccompAction::Errno(libc::EPERM.cast_unsigned())
}

/// What a job does not need of what a worker needed until then.
fn closing() -> Result<BTreeMap<i64, Vec<SeccompRule>>, String> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = UNTIL_THE_JOB
        .iter()
        .map(|&call| (call, Vec::new()))
        .collect();
    let exec = libc::PROT_EXEC as u64;
    // Code was mapped before the walls went up, and none is ever added.
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        rules.insert(call, vec![rule([masked(2, exec, exec)?])?]);
    }
    // All but a thread's name and its memory's.
    let unnamed = [
        differs(0, libc::PR_SET_NAME as u64)?,
        differs(0, PR_SET_VMA)?,
    ];
    rules.insert(libc::SYS_prctl, vec![rule(unnamed)?]);
    // All but its own limits, to read them.
    let of_others = rule([differs(0, 0)?])?;
    let new = rule([differs_long(2, 0)?])?;
    rules.insert(libc::SYS_prlimit64, vec![of_others, new]);
    Ok(rules)
}

/// What a worker needs from its start to its end.
fn needed() -> Result<BTreeMap<i64, Vec<SeccompRule>>, String> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = ALLOWED
        .iter()
        .chain(ALLOWED_HERE)
        .map(|&call| (call, Vec::new()))
        .collect();
    // Threads, and no processes.
    let thread = libc::CLONE_THREAD as u64;
    rules.insert(libc::SYS_clone, vec![rule([masked(0, thread, thread)?])?]);
    // To the other end of a socket, and to no address.
    rules.insert(libc::SYS_sendto, vec![rule([equal_long(4, 0)?])?]);
    // Pairs of local sockets, for wakers.
    let local = libc::AF_UNIX as u64;
    rules.insert(libc::SYS_socketpair, vec![rule([equal(0, local)?])?]);
    // Switching a descriptor to non-blocking.
    rules.insert(libc::SYS_ioctl, vec![rule([equal(1, libc::FIONBIO)?])?]);
    // A signal to itself, as a panic that aborts raises it.
    let own = u64::from(std::process::id());
    rules.insert(libc::SYS_tgkill, vec![rule([equal(0, own)?])?]);
    Ok(rules)
}

/// Names anonymous memory, which allocators do.
const PR_SET_VMA: u64 = 0x5356_4d41;

fn filter(
    rules: BTreeMap<i64, Vec<SeccompRule>>,
    otherwise: SeccompAction,
    matched: SeccompAction,
    arch: TargetArch,
) -> Result<BpfProgram, String> {
    SeccompFilter::new(rules, otherwise, matched, arch)
        .and_then(TryInto::try_into)
        .map_err(|error| format!("seccomp: {error}"))
}

fn rule<const N: usize>(conditions: [SeccompCondition; N]) -> Result<SeccompRule, String> {
    SeccompRule::new(conditions.into()).map_err(|error| format!("seccomp: {error}"))
}

/// The low half of an argument is `value`.
fn equal(argument: u8, value: u64) -> Result<SeccompCondition, String> {
    condition(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)
}

/// The whole argument is `value`.
fn equal_long(argument: u8, value: u64) -> Result<SeccompCondition, String> {
    condition(argument, SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, value)
}

/// The low half of an argument is anything but `value`.
fn differs(argument: u8, value: u64) -> Result<SeccompCondition, String> {
    condition(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, value)
}

/// The argument is anything but `value`.
fn differs_long(argument: u8, value: u64) -> Result<SeccompCondition, String> {
    condition(argument, SeccompCmpArgLen::Qword, SeccompCmpOp::Ne, value)
}

/// The bits of `mask` in an argument are those of `value`.
fn masked(argument: u8, mask: u64, value: u64) -> Result<SeccompCondition, String> {
    condition(
        argument,
        SeccompCmpArgLen::Dword,
        SeccompCmpOp::MaskedEq(mask),
        value,
    )
}

fn condition(
    argument: u8,
    length: SeccompCmpArgLen,
    operator: SeccompCmpOp,
    value: u64,
) -> Result<SeccompCondition, String> {
    SeccompCondition::new(argument, length, operator, value)
        .map_err(|error| format!("seccomp: {error}"))
}
