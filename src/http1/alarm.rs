//! One timer per connection, set again only when it must be.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use tokio::time::{Instant, Sleep, sleep_until};

/// Wakes a task at a deadline that moves with every call.
///
/// Deadlines mostly move later, so the timer is left where it is: it rings early, about once in the
/// length of a timeout, looks at the real deadline and is set again. A call that is answered at once
/// therefore costs the runtime's timer wheel nothing.
#[derive(Debug)]
pub struct Alarm {
    sleep: Pin<Box<Sleep>>,
}

impl Default for Alarm {
    /// Not set yet.
    fn default() -> Self {
        Self { sleep: Box::pin(sleep_until(Instant::now())) }
    }
}

impl Alarm {
    /// Does some work, unless `deadline` passes before its end.
    pub async fn within<T>(&mut self, deadline: Instant, work: impl Future<Output = T>) -> Option<T> {
        let mut work = pin!(work);
        poll_fn(|cx| {
            if let Poll::Ready(done) = work.as_mut().poll(cx) {
                return Poll::Ready(Some(done));
            }
            // Work that always has something to do may leave the timer no turn.
            match self.poll(cx, deadline) {
                Poll::Pending if Instant::now() < deadline => Poll::Pending,
                _ => Poll::Ready(None),
            }
        })
        .await
    }

    /// Ready when `deadline` has passed; else wakes the task when it does.
    pub fn poll(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        if self.sleep.deadline() > deadline {
            self.sleep.as_mut().reset(deadline);
        }
        loop {
            ready!(self.sleep.as_mut().poll(cx));
            if deadline <= Instant::now() {
                return Poll::Ready(());
            }
            self.sleep.as_mut().reset(deadline);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_rings_at_the_last_deadline_given_and_not_before() {
        let begin = Instant::now();
        let mut alarm = Alarm::default();
        for seconds in [10, 70, 30] {
            let deadline = begin + Duration::from_secs(seconds);
            let first = std::future::poll_fn(|cx| Poll::Ready(alarm.poll(cx, deadline))).await;
            assert!(first.is_pending());
        }
        std::future::poll_fn(|cx| alarm.poll(cx, begin + Duration::from_secs(90))).await;
        assert_eq!(begin.elapsed().as_secs(), 90);
    }
}
