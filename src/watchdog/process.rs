//! Processes that are started here, and how they end.
//!
//! Each belongs to the event loop that has started it: that one alone is told of its end, by the kernel, and reaps it.
//! What others leave to this process, as process 1 of a container, is for the thread that starts none: `reaper.rs`.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use rustix::process::{PidfdFlags, pidfd_open};
use tokio::net::unix::pipe;
use tokio::time::sleep;

use super::spawn::{Given, Program};

/// A moment.
const SOON: Duration = Duration::from_millis(1);

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Exited(i32),
    Killed(Signal),
}

impl End {
    /// Of one that nobody asks about any more.
    const GONE: Self = Self::Killed(Signal::SIGKILL);

    pub(super) fn is_success(self) -> bool {
        self == Self::Exited(0)
    }
}

impl std::fmt::Display for End {
    /// As Go's programs say it: people look for it in logs.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exited(code) => write!(f, "exit status {code}"),
            Self::Killed(Signal::SIGKILL) => f.write_str("signal: killed"),
            Self::Killed(signal) => write!(f, "signal: {signal}"),
        }
    }
}

/// A process and its group. Dropped before its end, it is killed.
#[derive(Debug)]
pub(super) struct Process {
    pid: Pid,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Its id is its own until it is reaped. The handle can be read when it has ended.
    Running(pipe::Receiver),
    Ended(End),
}

impl Process {
    /// Starts a process in a group of its own, and holds the thread up until it is loaded.
    pub(super) fn start(program: &Program, given: &Given) -> io::Result<Self> {
        let pid = program.start(given)?;
        match handle(pid) {
            Ok(handle) => Ok(Self { pid, state: State::Running(handle) }),
            Err(error) => {
                // As when there are no free files. It was loaded just now, and dies at once.
                let _ = killpg(pid, Signal::SIGKILL);
                let _ = waitpid(pid, None);
                Err(error)
            }
        }
    }

    /// Returns when it has ended. May be given up and called again.
    pub(super) async fn wait(&mut self) -> End {
        match &self.state {
            State::Ended(end) => *end,
            State::Running(handle) => {
                let end = end(self.pid, handle).await;
                self.state = State::Ended(end);
                end
            }
        }
    }

    /// Kills it and all that it started and that stayed in its group.
    pub(super) fn kill(&self) {
        self.signal(Signal::SIGKILL);
    }

    /// Sends its group a signal, as long as its id is its own.
    pub(super) fn signal(&self, signal: Signal) {
        if let State::Running(_) = self.state {
            // It may have ended just now.
            let _ = killpg(self.pid, signal);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let State::Running(handle) = std::mem::replace(&mut self.state, State::Ended(End::GONE)) else {
            return;
        };
        if reap(self.pid).is_none() {
            let pid = self.pid;
            let _ = killpg(pid, Signal::SIGKILL);
            // It needs a moment to be gone, and leaves its id behind that somebody has to take.
            tokio::task::spawn_local(async move { end(pid, &handle).await });
        }
    }
}

/// What can be read when the process has ended.
fn handle(pid: Pid) -> io::Result<pipe::Receiver> {
    let pid = rustix::process::Pid::from_raw(pid.as_raw()).ok_or(io::ErrorKind::InvalidInput)?;
    // The runtime watches it as it watches pipes. It is never read.
    pipe::Receiver::from_owned_fd_unchecked(pidfd_open(pid, PidfdFlags::empty())?)
}

/// Whether the kernel tells of the end of a process: since Linux 5.3.
pub(super) fn can_be_told() -> io::Result<()> {
    pidfd_open(rustix::process::getpid(), PidfdFlags::empty())?;
    Ok(())
}

/// Waits for the end of a process, and reaps it.
async fn end(pid: Pid, handle: &pipe::Receiver) -> End {
    // Fails when the runtime ends, and then nobody needs to know.
    if handle.readable().await.is_err() {
        return End::GONE;
    }
    loop {
        match reap(pid) {
            Some(end) => return end,
            // The kernel said that it has ended, so this is not known to happen.
            None => sleep(SOON).await,
        }
    }
}

/// How a process ended, if it has.
fn reap(pid: Pid) -> Option<End> {
    loop {
        return match waitpid(pid, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(_, code)) => Some(End::Exited(code)),
            Ok(WaitStatus::Signaled(_, signal, _)) => Some(End::Killed(signal)),
            Ok(_) => None,
            Err(Errno::EINTR) => continue,
            // Nobody else reaps it.
            Err(_) => Some(End::GONE),
        };
    }
}

/// A pipe to a process: our end, and its.
pub(super) fn to_process() -> io::Result<(pipe::Sender, OwnedFd)> {
    let (theirs, ours) = io::pipe()?;
    Ok((pipe::Sender::from_owned_fd(ours.into())?, theirs.into()))
}

/// A pipe from a process: our end, and its.
pub(super) fn from_process() -> io::Result<(pipe::Receiver, OwnedFd)> {
    let (ours, theirs) = io::pipe()?;
    Ok((pipe::Receiver::from_owned_fd(ours.into())?, theirs.into()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::task::LocalSet;
    use tokio::time::timeout;

    use super::*;

    fn program(command: &[&str]) -> Arc<Program> {
        let command: Vec<String> = command.iter().map(|word| (*word).to_owned()).collect();
        Program::new(&command).expect("a program")
    }

    async fn within<T>(work: impl Future<Output = T>) -> T {
        timeout(Duration::from_secs(10), LocalSet::new().run_until(work)).await.expect("in time")
    }

    /// Returns when nobody can write to a pipe any more.
    async fn closed(pipe: pipe::Receiver) {
        loop {
            pipe.readable().await.expect("a pipe");
            if let Ok(0) = pipe.try_read(&mut [0; 16]) {
                return;
            }
        }
    }

    #[tokio::test]
    async fn ends_are_told_to_whoever_waits() {
        within(async {
            let run = async |script: &str| {
                let process = Process::start(&program(&["sh", "-c", script]), &Given::default());
                process.expect("started").wait().await
            };
            assert_eq!(run("exit 0").await, End::Exited(0));
            assert_eq!(run("exit 7").await.to_string(), "exit status 7");
            assert_eq!(run("kill -9 $$").await.to_string(), "signal: killed");
            assert!(Process::start(&program(&["/no/such/program"]), &Given::default()).is_err());
            // Many at once.
            let all = (0..50).map(|code| async move {
                let program = program(&["sh", "-c", &format!("exit {code}")]);
                Process::start(&program, &Given::default()).expect("started").wait().await
            });
            let wanted: Vec<_> = (0..50).map(End::Exited).collect();
            assert_eq!(futures_util::future::join_all(all).await, wanted);
        })
        .await;
    }

    #[tokio::test]
    async fn one_that_is_dropped_is_killed_with_what_it_started() {
        within(async {
            let (output, theirs) = from_process().expect("a pipe");
            let program = program(&["sh", "-c", "trap '' TERM; sleep 60 & sleep 60"]);
            let given = Given { stdout: Some(theirs), ..Given::default() };
            let process = Process::start(&program, &given).expect("started");
            drop(given);
            process.signal(Signal::SIGTERM);
            let pid = process.pid;
            drop(process);
            // It ends when the last process that could write to it has.
            closed(output).await;
            // And it is reaped, which nobody waits for.
            while nix::sys::signal::kill(pid, None).is_ok() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
    }

    #[tokio::test]
    async fn one_that_has_ended_leaves_what_it_started_alone_when_it_is_dropped() {
        within(async {
            let (output, theirs) = from_process().expect("a pipe");
            let program = program(&["sh", "-c", "(sleep 0.3; echo late) & exit 0"]);
            let given = Given { stdout: Some(theirs), ..Given::default() };
            let process = Process::start(&program, &given).expect("started");
            drop(given);
            let State::Running(handle) = &process.state else { panic!("nobody asked") };
            handle.readable().await.expect("a handle");
            drop(process);
            let mut piece = [0; 16];
            loop {
                output.readable().await.expect("a pipe");
                match output.try_read(&mut piece) {
                    Ok(count) => break assert_eq!(&piece[..count], b"late\n"),
                    Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
                }
            }
        })
        .await;
    }
}
