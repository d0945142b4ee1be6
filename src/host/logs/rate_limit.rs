//! Says that lines are being lost, without making a second flood of it.

use std::sync::Mutex;
use std::time::Duration;

use model::sync::lock;
use tokio::time::Instant;

/// The daemon says at most one line about it in this time.
const EVERY: Duration = Duration::from_secs(60);

/// Lines that were lost for one kind of reason, whatever the function.
#[derive(Debug, Default)]
pub(super) struct Complaint {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    said: Option<Instant>,
    unsaid: u64,
    total: u64,
}

impl Complaint {
    /// Counts lost lines, and hands the number that was not spoken of yet to `say` if it is time.
    pub(super) fn lost(&self, lines: u64, say: impl FnOnce(u64)) {
        let unsaid = {
            let mut state = lock(&self.state);
            state.total += lines;
            state.unsaid += lines;
            if state.said.is_some_and(|said| said.elapsed() < EVERY) {
                return;
            }
            state.said = Some(Instant::now());
            std::mem::take(&mut state.unsaid)
        };
        say(unsaid);
    }

    /// All lines that were ever lost.
    pub(super) fn total(&self) -> u64 {
        lock(&self.state).total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_line_a_minute_carries_the_count() {
        let complaint = Complaint::default();
        let mut said = Vec::new();
        for _ in 0..5 {
            complaint.lost(2, |lines| said.push(lines));
        }
        tokio::time::advance(EVERY).await;
        complaint.lost(1, |lines| said.push(lines));
        assert_eq!(said, [2, 9]);
        assert_eq!(complaint.total(), 11);
    }
}
