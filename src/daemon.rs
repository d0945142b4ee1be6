//! Puts the parts together, starts and stops them in order.
//!
//! ```text
//! store -> network -> containerd -> fleet -> queue -> cron -> gateway -> ready
//! ```
//!
//! Stopping goes the other way: no new connections, those who follow logs are let go, calls in flight
//! finish within `gateway.drain_timeout`, replicas on their way out are removed within
//! `functions.stop_grace` and a little more, counts are written, the store is closed. Functions run on:
//! the next daemon takes them up again, and removes what this one could not.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::runtime::Handle;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::gateway::access::Access;
use crate::gateway::access::basic::Credentials;
use crate::gateway::access::client::Listener;
use crate::gateway::access::exposure::Exposure;
use crate::gateway::api::Api;
use crate::gateway::server::listener::{Inherited, Listeners, Socket};
use crate::gateway::server::{self, Gateway, Limits};
use crate::{COMMIT, VERSION};
use calls::queue::Queue;
use calls::triggers::cron::Cron;
use control::first_boot;
use control::fleet::Fleet;
use host::bundles::Handlers;
use host::liveness::Liveness;
use host::logs::Logs;
use host::network::Network;
use host::network::cni::Cni;
use host::private_file;
use host::runtime::containerd::Containerd;
use host::runtime::{Runtime, label};
use host::secrets::Secrets;
use host::store::Store;
use model::config::Config;
use model::sync::lock;

/// Threads for everything but calls: deploys, events, the API. They wait most of the time.
const CONTROL_THREADS: usize = 2;
/// How long queued calls that run may go on when the daemon stops, beyond those that clients wait for: they are made
/// again by the next one, and new clients wait for it.
const QUEUE_DRAIN: Duration = Duration::from_secs(10);
/// How long to wait for containerd at the start: it may be starting as well.
const CONTAINERD_WAIT: Duration = Duration::from_secs(60);
/// Pause between two attempts.
const CONTAINERD_PAUSE: Duration = Duration::from_millis(500);
/// Pause between two looks for a state directory that is missing.
const STATE_PAUSE: Duration = Duration::from_millis(500);

/// Runs the daemon until SIGTERM or SIGINT.
pub fn run(config: Config) -> anyhow::Result<()> {
    start_log(&config.daemon.log)?;
    raise_file_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(CONTROL_THREADS)
        .max_blocking_threads(16)
        .thread_name("control")
        .enable_all()
        .build()
        .context("starting the control threads")?;
    let mut sockets = Inherited::take();
    let liveness = Liveness::default();
    liveness.start(runtime.handle()).context("starting the thread that pings systemd")?;
    let signalled = CancellationToken::new();
    let signals = runtime.block_on(async { stop_on_signal(signalled.clone()) })?;
    let result = loop {
        match runtime.block_on(serve(config.clone(), sockets, &signalled, liveness.clone())) {
            Ok(Some(kept)) => sockets = kept,
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    signals.abort();
    // What could not be ended in time is taken up by the next start.
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

/// Whether the configuration and the files that it names can be used; starts nothing.
pub fn check(config: &Config) -> anyhow::Result<()> {
    log_filter(&config.daemon.log)?;
    Cni::check(&config.network)?;
    Ok(())
}

/// Serves until a signal. Returns the sockets if the state directory that was missing is there: with it the daemon is to
/// begin anew.
async fn serve(
    mut config: Config,
    mut inherited: Inherited,
    signalled: &CancellationToken,
    liveness: Liveness,
) -> anyhow::Result<Option<Inherited>> {
    let stop = signalled.child_token();
    // The ports first: when one is taken, nothing else is begun.
    let public = listen(&mut inherited, &config, config.gateway.listen, Listener::Public)?;
    let admin = listen_for_admin(&mut inherited, &config)?;
    make_private(&config.daemon.run_dir)?;
    host::store::finish_restore(&config.daemon.state_dir)?;
    let mut containerd = None;
    let mut owner = None;
    if Store::is_new(&config.daemon.state_dir) {
        let engine = connect(&config, &stop).await?;
        owner = owner_of_containers(&engine).await?;
        containerd = Some(engine);
    }
    let state_dir = config.daemon.state_dir.clone();
    let store = if let Some(Owner { identity }) = owner {
        config.daemon.state_dir = substitute(&config.daemon.run_dir)?;
        let substitute = config.daemon.state_dir.clone();
        let (directory, identity) = (state_dir.clone(), identity.clone());
        tokio::task::spawn_blocking(move || Store::hold(&substitute, &directory, identity.as_deref())).await
    } else {
        make_private(&state_dir)?;
        let state_dir = state_dir.clone();
        tokio::task::spawn_blocking(move || Store::open(&state_dir)).await
    };
    let store = Arc::new(store.context("opening the store")??);
    let missing = store.is_held().then_some(state_dir);
    if store.is_held()
        && let Err(error) = store.check()
    {
        tracing::error!("{error}");
    }
    // After the store, which is locked: there is no other daemon whose socket this could be.
    let socket = config.daemon.api_socket();
    let local = inherited.listen_at(&socket).with_context(|| format!("listening at {}", socket.display()))?;
    let rules = inherited.rules;
    let listeners = Listeners { public, admin, local: Some(local) };
    // For a daemon that begins anew. At a stop they go first: clients are to be refused then, and not to wait.
    let copies = Mutex::new(Some(Inherited::of(&listeners).context("copying sockets")?));
    let restart = CancellationToken::new();
    let logs = Logs::new(&config.logs, &config.daemon.state_dir, &config.daemon.run_dir)?;
    let secrets = Secrets::open(&config.daemon.state_dir)?;
    let handlers = Handlers::open(&config.daemon.state_dir, config.functions.handler_limit)?;
    let credentials = config
        .gateway
        .basic_auth
        .then(|| Credentials::load_or_create(&config.daemon.state_dir))
        .transpose()?;
    let network =
        Cni::new(&config.network, config.gateway.listen.port(), &config.daemon.run_dir, store.clone())?
            .inherit(rules);
    let (subnet, host) = network.subnet();
    let exposure = Exposure::of(&config.gateway, subnet, host);
    let access = Arc::new(Access::new(&config.gateway, credentials, exposure));
    network.ensure().await?;
    let network: Arc<dyn Network> = Arc::new(network);
    let containerd = match containerd {
        Some(containerd) => containerd,
        None => connect(&config, &stop).await?,
    };
    let runtime: Arc<dyn Runtime> = Arc::new(containerd);

    let fleet = Fleet::new(
        &config,
        runtime.clone(),
        network,
        logs.clone(),
        secrets.clone(),
        handlers,
        store.clone(),
    )?;
    fleet.start().await?;
    let queue = Queue::open(&config, store.clone(), fleet.directory().clone(), Handle::current())?;
    let cron = Cron::open(store.clone(), fleet.directory().clone(), queue.clone())?;
    let api = Api {
        fleet: fleet.clone(),
        queue: queue.clone(),
        cron: cron.clone(),
        secrets,
        logs: logs.clone(),
        runtime,
        store,
        access: access.clone(),
        state_dir: config.daemon.state_dir.clone(),
        restart: restart.clone(),
        admin_listen: listeners.admin.as_ref().and(config.gateway.admin_listen),
    };
    let gateway = Gateway {
        directory: fleet.directory().clone(),
        queue: queue.clone(),
        access,
        liveness,
        api: api.router()?,
    };
    tracing::info!(version = VERSION, commit = COMMIT, listen = %config.gateway.listen, "serving");
    listeners.keep();
    // Where there is no systemd this says nothing to nobody.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);

    let (directory, state_dir) = (config.functions.first_boot.clone(), config.daemon.state_dir.clone());
    let first_boot = first_boot::load(directory, state_dir, fleet.clone());
    let found = wait_for_state(missing.clone(), stop.clone());
    let is_held = missing.is_some();
    let first_boot = tokio::spawn(
        stop.clone()
            .run_until_cancelled_owned(async move { if is_held { found.await } else { first_boot.await } }),
    );
    let shutdown = async {
        tokio::select! {
            () = stop.cancelled() => {}
            // The request that asks for it is answered like all others that are under way.
            () = restart.cancelled() => stop.cancel(),
        }
        if signalled.is_cancelled() {
            drop(lock(&copies).take());
        }
        // They have no end that could be waited for.
        logs.end_following();
    };
    let making = queue.clone();
    let stopping = fleet.stopping();
    fleet.keep("what makes queued calls", move || {
        let (queue, stopping) = (making.clone(), stopping.clone());
        async move {
            queue.run().await;
            // It ends a little before the rest.
            stopping.cancelled().await;
        }
    });
    let stopping = fleet.stopping();
    if !is_held {
        fleet.keep("what calls functions by their schedules", move || {
            let (cron, stopping) = (cron.clone(), stopping.clone());
            async move { cron.run(stopping).await }
        });
    }
    let limits = Limits::of(&config);
    let drain = limits.drain;
    let stopping = async {
        stop.cancelled().await;
        queue.stop(drain.min(QUEUE_DRAIN)).await;
    };
    let serving = async {
        let served = server::serve(listeners, gateway, limits, shutdown).await;
        stop.cancel();
        served
    };
    let (served, ()) = tokio::join!(serving, stopping);
    tracing::info!("stopping; functions run on");
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    stop.cancel();
    // It ends at once; a deploy that it was at is gone on with by the next start.
    let _ = first_boot.await;
    fleet.stop().await;
    logs.shutdown().await;
    served.context("serving")?;
    let begins_anew = !signalled.is_cancelled() && (restart.is_cancelled() || missing.is_some());
    Ok(lock(&copies).take().filter(|_| begins_anew))
}

/// The state directory whose containers are on this machine.
struct Owner {
    /// Absent if they are of an earlier version.
    identity: Option<String>,
}

/// Finds out whose the containers on this machine are, if there are any.
async fn owner_of_containers(runtime: &dyn Runtime) -> anyhow::Result<Option<Owner>> {
    let mut containers = runtime.containers().await.context("looking for containers of functions")?;
    // What has no address is a layer that a start has left, and nothing that could run.
    containers.retain(|container| container.labels.contains_key(label::ADDRESS));
    let identity = containers.iter().find_map(|container| container.labels.get(label::STATE).cloned());
    Ok((!containers.is_empty()).then_some(Owner { identity }))
}

/// Makes the directory that takes the place of a state directory for as long as that is missing.
fn substitute(run_dir: &Path) -> anyhow::Result<PathBuf> {
    let directory = run_dir.join("state");
    match std::fs::remove_dir_all(&directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
    .with_context(|| format!("removing {}", directory.display()))?;
    make_private(&directory)?;
    Ok(directory)
}

/// Stops the daemon once a state directory that was missing is there.
async fn wait_for_state(directory: Option<PathBuf>, stop: CancellationToken) {
    let Some(directory) = directory else { return };
    while Store::is_new(&directory) {
        tokio::time::sleep(STATE_PAUSE).await;
    }
    tracing::warn!(directory = %directory.display(), "the state directory is there: the daemon begins anew with it");
    stop.cancel();
}

fn listen(
    inherited: &mut Inherited,
    config: &Config,
    address: SocketAddr,
    kind: Listener,
) -> anyhow::Result<Socket> {
    let remedy = match kind {
        Listener::Admin => "gateway.admin_listen sets another address, or \"none\"",
        _ => "gateway.listen sets another address",
    };
    // After a boot the bridge is made by this daemon, a moment later.
    let is_to_come = Cni::bridge_address(&config.network).is_some_and(|bridge| address.ip() == bridge);
    inherited
        .listen(address, kind, is_to_come)
        .with_context(|| format!("listening on {address}: is it in use? (ss -ltnp); {remedy}"))
}

/// Opens the admin listener. If its default address is in use the daemon starts without it, so that functions
/// are still served after an upgrade, unless the API would not be served at any address: whoever listens there
/// would be taken for the daemon, and sent its password.
fn listen_for_admin(inherited: &mut Inherited, config: &Config) -> anyhow::Result<Option<Socket>> {
    let Some(address) = config.gateway.admin_listen else { return Ok(None) };
    match listen(inherited, config, address, Listener::Admin) {
        Ok(socket) => Ok(Some(socket)),
        Err(error) if !config.gateway.public_api => Err(error
            .context("the API has no listener but gateway.admin_listen, because gateway.public_api = false")),
        Err(error) if !config.gateway.admin_listen_named => {
            tracing::warn!("there is no admin listener: {error:#}");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Meets containerd, and waits for one that is still starting.
async fn connect(config: &Config, stop: &CancellationToken) -> anyhow::Result<Containerd> {
    let end = tokio::time::Instant::now() + CONTAINERD_WAIT;
    let mut said = false;
    loop {
        match Containerd::connect(config).await {
            Ok(containerd) => return Ok(containerd),
            Err(error @ host::runtime::RuntimeError::Down { .. }) if tokio::time::Instant::now() < end => {
                if !said {
                    tracing::warn!(error = &error as &dyn std::error::Error, "waiting for containerd");
                    said = true;
                }
                tokio::select! {
                    () = tokio::time::sleep(CONTAINERD_PAUSE) => {}
                    () = stop.cancelled() => return Err(error.into()),
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
}

fn stop_on_signal(stop: CancellationToken) -> anyhow::Result<tokio::task::JoinHandle<()>> {
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
    Ok(tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        stop.cancel();
    }))
}

/// A directory that only root can look into: it holds secrets and function output.
fn make_private(dir: &Path) -> anyhow::Result<()> {
    private_file::make_directory(dir).with_context(|| format!("making {}", dir.display()))
}

/// As many files as the system allows: each call has two, each replica some.
fn raise_file_limit() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
    {
        // A lower limit only means fewer connections.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

/// The targets of rooms by the name that a filter gives them, whatever package they are in: `ingle::fleet`, and the
/// names that rooms had before (`disk`, `handlers`, `cron`).
const TARGETS: &[(&str, &str)] = &[
    ("bundles", "ingle_host::bundles"),
    ("cron", "ingle_calls::triggers::cron"),
    ("directory", "ingle_directory"),
    ("disk", "ingle_control::images"),
    ("doctor", "ingle::observe::doctor"),
    ("first_boot", "ingle_control::first_boot"),
    ("fleet", "ingle_control::fleet"),
    ("handlers", "ingle_host::bundles"),
    ("images", "ingle_control::images"),
    ("invoke", "ingle_calls::invoke"),
    ("logs", "ingle_host::logs"),
    ("metrics", "ingle::observe::metrics"),
    ("network", "ingle_host::network"),
    ("queue", "ingle_calls::queue"),
    ("replica", "ingle_control::replica"),
    ("runtime", "ingle_host::runtime"),
    ("secrets", "ingle_host::secrets"),
    ("store", "ingle_host::store"),
    ("triggers", "ingle_calls::triggers"),
];

fn log_filter(filter: &str) -> anyhow::Result<Targets> {
    let directive = |text: &str| {
        let named = TARGETS.iter().find_map(|(room, target)| {
            let rest = text.trim_start().strip_prefix("ingle::")?.strip_prefix(room)?;
            (rest.is_empty() || rest.starts_with([':', '='])).then(|| format!("{target}{rest}"))
        });
        named.unwrap_or_else(|| text.to_owned())
    };
    let directives: Vec<String> = filter.split(',').map(directive).collect();
    directives.join(",").parse::<Targets>().with_context(|| {
        format!("daemon.log = {filter:?} is not a level (info) or a filter (ingle::fleet=debug,info)")
    })
}

fn start_log(filter: &str) -> anyhow::Result<()> {
    let filtered = tracing_subscriber::registry().with(log_filter(filter)?);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(false);
    // journald notes the time itself.
    #[expect(clippy::disallowed_methods, reason = "systemd's variable, not a setting")]
    let journal = std::env::var("JOURNAL_STREAM").is_ok();
    let started = if journal {
        filtered.with(lines.without_time()).try_init()
    } else {
        filtered.with(lines).try_init()
    };
    started.map_err(|error| anyhow::anyhow!("starting the log: {error}"))
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    #[test]
    fn a_filter_names_a_room_whatever_package_it_is_in() {
        let filter = log_filter("ingle::fleet=debug,ingle::cron::timer=debug,ingle::gateway=debug,info")
            .expect("a filter");
        for target in
            ["ingle_control::fleet::owner", "ingle_calls::triggers::cron::timer", "ingle::gateway::server"]
        {
            assert!(filter.would_enable(target, &Level::DEBUG), "{target}");
        }
        for target in ["ingle_control::images", "ingle_calls::triggers::cron", "ingle_host::store"] {
            assert!(!filter.would_enable(target, &Level::DEBUG), "{target}");
            assert!(filter.would_enable(target, &Level::INFO), "{target}");
        }
        let all = log_filter("ingle=debug").expect("a filter");
        for target in ["ingle::daemon", "ingle_host::network::cni", "ingle_calls::queue"] {
            assert!(all.would_enable(target, &Level::DEBUG), "{target}");
        }
        assert!(log_filter("ingle::fleet=loud").is_err());
    }
}
