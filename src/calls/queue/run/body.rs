//! Opens a job's payload: head and body, from memory or the spool.

use std::borrow::Cow;
use std::io;
use std::time::Duration;

use nix::errno::Errno;
use tokio::fs::File;

use crate::queue::payload::Payload;
use crate::queue::run::outcome::Outcome;
use crate::queue::spool::Spool;

/// How long nothing is sent that cannot be read for want of files or memory.
const SHORTAGE_PAUSE: Duration = Duration::from_secs(1);

/// A body, which stands at its beginning.
pub(in crate::queue) enum BodySource<'a> {
    Memory(&'a [u8]),
    File(File),
}

impl<'a> BodySource<'a> {
    /// The head and the body; what came of the attempt, if they cannot be read.
    pub(in crate::queue) async fn open(
        payload: &'a Payload,
        spool: &Spool,
    ) -> Result<(Cow<'a, [u8]>, BodySource<'a>), Outcome> {
        let (name, head, body) = match payload {
            Payload::Inline { head, body } => return Ok((Cow::Borrowed(head), Self::Memory(body))),
            Payload::File { name, head, body } => (*name, *head, *body),
        };
        match spool.read(name, head, body).await {
            Ok((head, file)) => Ok((Cow::Owned(head), Self::File(file))),
            Err(error) => {
                let reason = format!("what it sends cannot be read from the disk: {error}");
                Err(match error.kind() {
                    io::ErrorKind::NotFound | io::ErrorKind::InvalidData => Outcome::Permanent { reason },
                    // Not its fault, and not for it alone.
                    _ if is_shortage(&error) => Outcome::Busy { pause: SHORTAGE_PAUSE, reason },
                    _ => Outcome::Retryable { code: None, pause: None, reason },
                })
            }
        }
    }
}

/// Whether there are no files or memory left to open anything.
pub(in crate::queue) fn is_shortage(error: &io::Error) -> bool {
    let code = error.raw_os_error().map(Errno::from_raw);
    matches!(code, Some(Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM))
}
