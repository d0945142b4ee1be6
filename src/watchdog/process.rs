//! Starts processes, and learns of their ends. As process 1 of a container, this one inherits whatever is left by
//! others, and must reap that too; so one loop waits for all, and tells those who wait for one.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;

use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use tokio::net::unix::pipe;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use super::program::{Given, Program};

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Exited(i32),
    Killed(Signal),
}

impl End {
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

/// All processes that were started here. Cloning gives another handle.
#[derive(Debug, Clone, Default)]
pub(super) struct Processes(Rc<RefCell<Known>>);

#[derive(Debug, Default)]
struct Known {
    /// Those that run, and who waits for them.
    running: HashMap<Pid, oneshot::Sender<End>>,
    /// Starts that are under way on other threads, by how many ends had come when each began.
    starting: Vec<u64>,
    /// Ends that came before it was known here that the process had started, with their numbers: an id can be given
    /// again to a process that begins later.
    early: HashMap<Pid, (u64, End)>,
    /// How many of them there were.
    ends: u64,
}

impl Processes {
    /// Begins to reap. To be called within a [`tokio::task::LocalSet`], before anything is started.
    pub(super) fn start() -> io::Result<Self> {
        let processes = Self::default();
        let mut ends = signal(SignalKind::child())?;
        let reaped = processes.clone();
        tokio::task::spawn_local(async move {
            while ends.recv().await.is_some() {
                reaped.reap();
            }
        });
        Ok(processes)
    }

    /// Starts a process in a group of its own.
    pub(super) fn spawn(&self, program: &Program, given: &Given) -> io::Result<Process> {
        program.start(given).map(|pid| self.add(pid, u64::MAX))
    }

    /// The same on another thread: the one that starts a process is held up until the program is loaded, and this
    /// one has others to serve.
    pub(super) async fn spawn_aside(&self, program: &Arc<Program>, given: Given) -> io::Result<Process> {
        let (sender, started) = oneshot::channel();
        let (processes, program) = (self.clone(), program.clone());
        let since = {
            let mut known = self.0.borrow_mut();
            let since = known.ends;
            known.starting.push(since);
            since
        };
        // A task of its own: whoever asked may give up meanwhile, and then what was started must end.
        tokio::task::spawn_local(async move {
            let done = tokio::task::spawn_blocking(move || program.start(&given)).await;
            let done = done.unwrap_or_else(|error| Err(io::Error::other(error)));
            // Dropped if nobody takes it any more, which kills it.
            let _ = sender.send(done.map(|pid| processes.add(pid, since)));
            processes.0.borrow_mut().started(since);
        });
        started.await.unwrap_or_else(|error| Err(io::Error::other(error)))
    }

    /// One that was started when `since` ends had come.
    fn add(&self, pid: Pid, since: u64) -> Process {
        let (ended, end) = oneshot::channel();
        let mut known = self.0.borrow_mut();
        match known.early.remove(&pid) {
            Some((number, end)) if number >= since => drop(ended.send(end)),
            _ => drop(known.running.insert(pid, ended)),
        }
        Process { pid, end, ended: None }
    }

    fn reap(&self) {
        loop {
            let (pid, end) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, End::Exited(code)),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, End::Killed(signal)),
                Ok(WaitStatus::StillAlive) | Err(_) => return,
                Ok(_) => continue,
            };
            let mut known = self.0.borrow_mut();
            if let Some(waiting) = known.running.remove(&pid) {
                let _ = waiting.send(end);
            } else if !known.starting.is_empty() {
                let number = known.ends;
                known.ends += 1;
                known.early.insert(pid, (number, end));
            }
            // Else nobody here started it: it was left to process 1 by another.
        }
    }
}

impl Known {
    /// Forgets a start that began when `since` ends had come, and the ends that none can be meant by any more.
    fn started(&mut self, since: u64) {
        if let Some(place) = self.starting.iter().position(|known| *known == since) {
            self.starting.swap_remove(place);
        }
        let oldest = self.starting.iter().min().copied().unwrap_or(u64::MAX);
        self.early.retain(|_, (number, _)| *number >= oldest);
    }
}

/// A process and its group. Dropped before its end, it is killed.
#[derive(Debug)]
pub(super) struct Process {
    pid: Pid,
    end: oneshot::Receiver<End>,
    ended: Option<End>,
}

impl Process {
    /// Returns when it has ended. May be given up and called again.
    pub(super) async fn wait(&mut self) -> End {
        if self.ended.is_none() {
            // Only the loop's own end could keep it from saying so.
            self.ended = Some((&mut self.end).await.unwrap_or(End::Killed(Signal::SIGKILL)));
        }
        self.ended.unwrap_or(End::Killed(Signal::SIGKILL))
    }

    /// Kills it and all that it started and that stayed in its group.
    pub(super) fn kill(&self) {
        self.signal(Signal::SIGKILL);
    }

    /// Sends its group a signal, as long as its id is its own.
    pub(super) fn signal(&self, signal: Signal) {
        if self.ended.is_none() {
            // It may have ended just now.
            let _ = killpg(self.pid, signal);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.ended.is_none() && self.end.try_recv().is_err() {
            self.kill();
        }
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
    use std::time::Duration;

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

    #[tokio::test]
    async fn ends_are_told_to_whoever_waits() {
        within(async {
            let processes = Processes::start().expect("signals");
            let run = async |script: &str| {
                processes
                    .spawn(&program(&["sh", "-c", script]), &Given::default())
                    .expect("started")
                    .wait()
                    .await
            };
            assert_eq!(run("exit 0").await, End::Exited(0));
            assert_eq!(run("exit 7").await.to_string(), "exit status 7");
            assert_eq!(run("kill -9 $$").await.to_string(), "signal: killed");
            assert!(processes.spawn(&program(&["/no/such/program"]), &Given::default()).is_err());
        })
        .await;
    }

    #[tokio::test]
    async fn ends_of_those_that_were_started_aside_are_told_too() {
        within(async {
            let processes = Processes::start().expect("signals");
            let run = async |code: i32| {
                let program = program(&["sh", "-c", &format!("exit {code}")]);
                processes.spawn_aside(&program, Given::default()).await.expect("started").wait().await
            };
            // Many at once: some end before it is known that they have started.
            let all = futures_util::future::join_all((0..50).map(run)).await;
            let wanted: Vec<_> = (0..50).map(End::Exited).collect();
            assert_eq!(all, wanted);
            assert!(processes.spawn_aside(&program(&["/no/such/program"]), Given::default()).await.is_err());
            let known = processes.0.borrow();
            assert_eq!((known.running.len(), known.early.len(), known.starting.len()), (0, 0, 0));
        })
        .await;
    }

    #[tokio::test]
    async fn a_start_that_nobody_waits_for_any_more_ends_what_it_started() {
        within(async {
            let processes = Processes::start().expect("signals");
            let (output, theirs) = from_process().expect("a pipe");
            let program = program(&["sleep", "60"]);
            let given = Given { stdout: Some(theirs), ..Given::default() };
            let starting = processes.spawn_aside(&program, given);
            assert!(timeout(Duration::ZERO, starting).await.is_err(), "it is not that fast");
            loop {
                output.readable().await.expect("a pipe");
                if let Ok(0) = output.try_read(&mut [0; 16]) {
                    break;
                }
            }
        })
        .await;
    }

    #[tokio::test]
    async fn one_that_is_dropped_is_killed_with_what_it_started() {
        within(async {
            let processes = Processes::start().expect("signals");
            let (output, theirs) = from_process().expect("a pipe");
            let program = program(&["sh", "-c", "trap '' TERM; sleep 60 & sleep 60"]);
            let given = Given { stdout: Some(theirs), ..Given::default() };
            let process = processes.spawn(&program, &given).expect("started");
            drop(given);
            process.signal(Signal::SIGTERM);
            drop(process);
            // It ends when the last process that could write to it has.
            loop {
                output.readable().await.expect("a pipe");
                if let Ok(0) = output.try_read(&mut [0; 16]) {
                    break;
                }
            }
        })
        .await;
    }
}
