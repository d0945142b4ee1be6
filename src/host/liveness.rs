//! Tells systemd that the daemon is alive: that each thread that carries calls, and each control thread, has turned
//! over since the last time. What these threads wait for (disk, containerd, registries, clients) is no part of it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use model::sync::lock;
use sd_notify::NotifyState;
use tokio::runtime::{Handle, RuntimeMetrics};
use tokio::sync::Notify;

/// The threads that have to turn over. Cloning gives another handle.
#[derive(Debug, Clone, Default)]
pub struct Liveness(Arc<Mutex<Vec<Weak<Respondent>>>>);

/// A task that is asked, and responds when its thread turns over.
#[derive(Debug)]
struct Respondent {
    name: String,
    asked: Notify,
    has_responded: AtomicBool,
}

impl Liveness {
    /// Responds on behalf of the thread that runs this, which is no longer asked once this is dropped.
    pub async fn respond(&self, name: String) {
        let respondent = Respondent { name, asked: Notify::new(), has_responded: AtomicBool::new(true) };
        let respondent = Arc::new(respondent);
        lock(&self.0).push(Arc::downgrade(&respondent));
        loop {
            respondent.asked.notified().await;
            respondent.has_responded.store(true, Ordering::Relaxed);
        }
    }

    /// Pings systemd twice in each period that it allows, for as long as the control threads of this runtime and all
    /// that respond turn over. Does nothing if systemd expects no pings.
    pub fn start(&self, control: &Handle) -> std::io::Result<()> {
        let Some(period) = sd_notify::watchdog_enabled() else { return Ok(()) };
        let (own, control) = (self.clone(), control.clone());
        let ping = move || {
            let mut watch = Watch::new(own, &control);
            loop {
                match watch.stuck() {
                    None => drop(sd_notify::notify(&[NotifyState::Watchdog])),
                    Some(thread) => {
                        tracing::error!(thread, "a thread does not turn over: systemd gets no ping")
                    }
                }
                #[expect(clippy::disallowed_methods, reason = "the thread has nothing else to do")]
                std::thread::sleep(period / 2);
            }
        };
        std::thread::Builder::new().name("liveness".into()).spawn(ping).map(drop)
    }
}

/// Judges whether threads turn over, from one look to the next.
#[derive(Debug)]
struct Watch {
    liveness: Liveness,
    control: RuntimeMetrics,
    /// Counters of the control threads at the last look that found all well.
    seen: Vec<(u64, Duration)>,
}

impl Watch {
    fn new(liveness: Liveness, control: &Handle) -> Self {
        let responding = liveness.clone();
        control.spawn(async move { responding.respond("control".to_owned()).await });
        Self { liveness, control: control.metrics(), seen: Vec::new() }
    }

    /// Returns the name of a thread that has not turned over since the last look that found all well.
    fn stuck(&mut self) -> Option<String> {
        let mut respondents = lock(&self.liveness.0);
        respondents.retain(|respondent| respondent.strong_count() > 0);
        let respondents: Vec<_> = respondents.iter().filter_map(Weak::upgrade).collect();
        if let Some(stuck) = respondents.iter().find(|one| !one.has_responded.load(Ordering::Relaxed)) {
            return Some(stuck.name.clone());
        }
        // A runtime with several threads responds by any of them, so that each is looked at, too.
        let counters = (0..self.control.num_workers()).map(|worker| {
            (self.control.worker_park_unpark_count(worker), self.control.worker_total_busy_duration(worker))
        });
        let counters: Vec<_> = counters.collect();
        // An odd count: it waits for something to do.
        let is_stuck = |worker: usize| {
            counters[worker].0.is_multiple_of(2) && self.seen.get(worker) == Some(&counters[worker])
        };
        if let Some(worker) = (0..counters.len()).find(|&worker| is_stuck(worker)) {
            return Some(format!("control, number {worker}"));
        }
        self.seen = counters;
        for respondent in respondents {
            respondent.has_responded.store(false, Ordering::Relaxed);
            respondent.asked.notify_one();
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Instant;

    use super::*;

    const PAUSE: Duration = Duration::from_millis(50);

    #[expect(clippy::disallowed_methods, reason = "what is waited for is that nothing happens")]
    fn pause() {
        std::thread::sleep(PAUSE);
    }

    fn control() -> tokio::runtime::Runtime {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(2).enable_all().build().expect("a runtime")
    }

    /// Looks until the outcome is so; panics if it is not within five seconds.
    fn until(watch: &mut Watch, is_so: impl Fn(Option<&str>) -> bool) {
        let end = Instant::now() + Duration::from_secs(5);
        loop {
            pause();
            let stuck = watch.stuck();
            if is_so(stuck.as_deref()) {
                return;
            }
            assert!(Instant::now() < end, "{stuck:?}");
        }
    }

    fn stays_alive(watch: &mut Watch) {
        until(watch, |stuck| stuck.is_none());
        for _ in 0..10 {
            pause();
            assert_eq!(watch.stuck(), None);
        }
    }

    #[test]
    fn a_blocked_control_thread_is_noticed_whichever_it_is() {
        let runtime = control();
        let mut watch = Watch::new(Liveness::default(), runtime.handle());
        stays_alive(&mut watch);
        for _ in 0..3 {
            let (release, blocked) = mpsc::channel::<()>();
            runtime.spawn(async move { blocked.recv() });
            until(&mut watch, |stuck| stuck.is_some_and(|thread| thread.starts_with("control")));
            assert!(watch.stuck().is_some(), "for as long as it is blocked");
            drop(release);
            stays_alive(&mut watch);
        }
    }

    #[test]
    fn control_threads_that_never_rest_are_alive() {
        let runtime = control();
        let mut watch = Watch::new(Liveness::default(), runtime.handle());
        for _ in 0..4 {
            runtime.spawn(async {
                loop {
                    tokio::task::yield_now().await;
                }
            });
        }
        stays_alive(&mut watch);
        runtime.shutdown_background();
    }

    #[test]
    fn a_blocked_thread_that_responds_is_noticed_until_it_turns_over_or_ends() {
        let runtime = control();
        let liveness = Liveness::default();
        let mut watch = Watch::new(liveness.clone(), runtime.handle());
        let (tasks, mut given) = tokio::sync::mpsc::unbounded_channel::<mpsc::Receiver<()>>();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
            runtime.block_on(async {
                tokio::select! {
                    () = liveness.respond("calls-0".to_owned()) => {}
                    () = async { while let Some(blocked) = given.recv().await { let _ = blocked.recv(); } } => {}
                }
            });
        });
        stays_alive(&mut watch);
        let (release, blocked) = mpsc::channel();
        tasks.send(blocked).expect("it takes it");
        until(&mut watch, |stuck| stuck == Some("calls-0"));
        drop(release);
        stays_alive(&mut watch);
        drop(tasks);
        thread.join().expect("it ends");
        stays_alive(&mut watch);
    }
}
