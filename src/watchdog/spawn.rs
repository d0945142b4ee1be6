//! A program that is started again and again: what is the same each time is made once. The standard library's
//! `Command` gathers the environment anew and leaves it to the C library to ask for each signal whether it is handled:
//! a tenth of what it costs to start a small program.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStringExt as _;
use std::sync::Arc;

use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags, posix_spawnp};
use nix::sys::signal::SigSet;
use nix::unistd::Pid;

/// A program, its arguments, and the variables that it has each time: ours.
#[derive(Debug)]
pub(super) struct Program {
    arguments: Vec<CString>,
    environment: Vec<CString>,
    attributes: PosixSpawnAttr,
}

/// What one start of it is given.
#[derive(Debug, Default)]
pub(super) struct Given {
    /// Variables beside those that it has each time, and in their place.
    pub(super) variables: Vec<CString>,
    /// What is not said here it shares with us.
    pub(super) stdin: Option<OwnedFd>,
    pub(super) stdout: Option<OwnedFd>,
    pub(super) stderr: Option<OwnedFd>,
}

impl Program {
    /// The program that a command names first, looked for in `PATH`, with the rest as arguments.
    pub(super) fn new(command: &[String]) -> io::Result<Arc<Self>> {
        let arguments = command.iter().map(|word| CString::new(word.as_str())).collect::<Result<_, _>>()?;
        let ours = std::env::vars_os();
        let environment =
            ours.filter_map(|(name, value)| variable(&name.into_vec(), &value.into_vec())).collect();
        let mut attributes = PosixSpawnAttr::init()?;
        attributes.set_flags(
            PosixSpawnFlags::POSIX_SPAWN_SETSIGDEF
                | PosixSpawnFlags::POSIX_SPAWN_SETSIGMASK
                | PosixSpawnFlags::POSIX_SPAWN_SETPGROUP,
        )?;
        // What we ignore or hold back is our affair.
        attributes.set_sigdefault(&SigSet::all())?;
        attributes.set_sigmask(&SigSet::empty())?;
        // A group of its own, so that all that it starts can be ended with it.
        attributes.set_pgroup(Pid::from_raw(0))?;
        Ok(Arc::new(Self { arguments, environment, attributes }))
    }

    /// Starts it. Whoever calls this is held up until it is loaded.
    pub(super) fn start(&self, given: &Given) -> io::Result<Pid> {
        let mut files = PosixSpawnFileActions::init()?;
        for (file, place) in [(&given.stdin, 0), (&given.stdout, 1), (&given.stderr, 2)] {
            if let Some(file) = file {
                files.add_dup2(file.as_raw_fd(), place)?;
            }
        }
        let is_given = |known: &CStr| {
            let name = known.to_bytes().split_inclusive(|byte| *byte == b'=').next().unwrap_or_default();
            given.variables.iter().any(|variable| variable.to_bytes().starts_with(name))
        };
        let environment: Vec<&CStr> = given
            .variables
            .iter()
            .chain(self.environment.iter().filter(|known| !is_given(known)))
            .map(CString::as_c_str)
            .collect();
        Ok(posix_spawnp(&self.arguments[0], &files, &self.attributes, &self.arguments, &environment)?)
    }
}

/// A variable as a program is given it. `None`: it holds a zero byte, which no variable can.
pub(super) fn variable(name: &[u8], value: &[u8]) -> Option<CString> {
    CString::new([name, b"=", value].concat()).ok()
}

/// A stdin that is empty.
pub(super) fn nothing() -> io::Result<OwnedFd> {
    Ok(File::open("/dev/null")?.into())
}
