//! `swanci serve`: runs the listener, the queue and the workers, and handles signals.

mod posts;
mod service;

use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use signal_hook::consts::SIGHUP;

use crate::cancel::{Cancel, Stop};
use crate::cli::{Global, Serve};
use crate::config::Config;
use crate::error::{Classify as _, Failure, Kind};
use crate::forge::signature::WebhookSecret;
use crate::listener::{self, ForgeRules, Limits, Listener};
use crate::process;
use crate::queue::{JobRecord, JobState, Pool, PoolOptions, ServeLock, Store};

use super::Session;
use super::announce::Announcer;
use super::session;
use service::Service;

/// Time for running jobs to end after a signal.
const SHUTDOWN: Duration = Duration::from_secs(8);

/// Listens until a signal or, with `--once`, until one merge is done.
pub(super) fn command(session: &Session, global: &Global, args: &Serve) -> Result<(), Failure> {
    let announcer = Announcer::new(session.json, session.quiet, session.events.clone());
    let config = with_flags(session.config.clone(), args)?;
    if args.once && config.serve.jobs == 0 {
        return Err(Failure::usage("--once runs a job, and --jobs 0 runs none"));
    }
    let rules = rules(&config)?;
    without_secret(&rules).for_each(|text| announcer.warn(&text));
    // First of all, because SIGHUP ends the process until it is handled.
    let hangup = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(SIGHUP, Arc::clone(&hangup))
        .classify(Kind::Environment, || "cannot handle SIGHUP")?;
    let (queue, public, admin) = open(&config, &announcer)?;
    let has_admin = admin.is_some();
    let service = Arc::new(Service::new(config.clone(), args, rules, queue, announcer));
    let (queue, announcer) = (&service.queue, &service.announcer);
    // Finds an invalid configuration at startup, not with the first merge.
    let site = service.site(&session.events, &session.cancel)?;
    if site.registry.is_none() && config.serve.jobs > 0 {
        announcer
            .warn("no registry is configured, so every merge will fail: set registry.host or --registry");
    }
    queue.set_posts(posts::wanted(&config))?;
    let pool = start_pool(&service, &config, &session.cancel)?;
    if args.once {
        announcer.say("draining", "running what is queued first");
        let drained = queue.wait_drained(&session.cancel);
        if let Some(stop) = session.cancel.stopped() {
            return end(pool, announcer, stop);
        }
        drained?;
    }

    let limits = Limits { max_body: config.serve.max_body.as_u64(), ..Limits::default() };
    let listener = Listener::new(public, admin, limits, Arc::clone(&service) as _, service.metrics.clone())?;
    if args.once {
        // No delivery is possible yet: the listener starts below.
        let _ = service.stopper.set(listener.stopper());
    }
    announce_addresses(&listener, has_admin, announcer);
    let limit = args.once.then_some(args.once_timeout).flatten();
    let until = limit.and_then(|limit| Instant::now().checked_add(limit));
    let listened = listen(listener, until, &session.cancel, &hangup, &mut || {
        let config = Session::open(global, &session.cancel).and_then(|new| with_flags(new.config, args));
        reload(&service, config, &session.cancel);
    });
    if let Some(stop) = session.cancel.stopped() {
        return end(pool, announcer, stop);
    }
    let Some(id) = service.first_job.get() else {
        pool.shutdown(Stop::Terminated, SHUTDOWN);
        let late = "no delivery queued a job before --once-timeout was over";
        return listened.and(if args.once { Err(Failure::environment(late)) } else { Ok(()) });
    };
    let ended = queue.wait_ended(*id, &session.cancel);
    if let Some(stop) = session.cancel.stopped() {
        return end(pool, announcer, stop);
    }
    let record = ended?;
    posts::flush(queue, &session.cancel);
    pool.shutdown(Stop::Terminated, SHUTDOWN);
    result_of(&record)
}

/// The queue, under its lock, and the sockets.
fn open(
    config: &Config,
    announcer: &Announcer,
) -> Result<(Store, Vec<TcpListener>, Option<TcpListener>), Failure> {
    let state_dir = session::state_dir(config)?;
    let mut lock = ServeLock::acquire(&state_dir)?;
    let (public, admin) = sockets(config)?;
    let address = public.iter().find_map(|socket| socket.local_addr().ok());
    lock.listens_on(&address.map(|address| address.to_string()).unwrap_or_default());
    end_stale_children(&state_dir, announcer)?;
    Ok((Store::open(lock, Arc::new(jiff::Timestamp::now))?, public, admin))
}

/// Runs the listener until it is stopped, a signal comes or the time is up. Each SIGHUP is a call of `reload`.
fn listen(
    listener: Listener,
    until: Option<Instant>,
    cancel: &Cancel,
    hangup: &AtomicBool,
    reload: &mut dyn FnMut(),
) -> Result<(), Failure> {
    let wake = || "cannot wake the listener";
    let waker = listener.waker().classify(Kind::Environment, wake)?;
    signal_hook::low_level::pipe::register(SIGHUP, waker).classify(Kind::Environment, wake)?;
    let stopper = listener.stopper();
    cancel.on_stop({
        let stopper = stopper.clone();
        move || stopper.wake()
    });
    listener.run(until, &mut || {
        if hangup.swap(false, Ordering::SeqCst) {
            reload();
        }
        if cancel.stopped().is_some() {
            stopper.stop();
        }
    })
}

/// Ends children of a killed `serve`, which would build concurrently with this one.
fn end_stale_children(state_dir: &Path, announcer: &Announcer) -> Result<(), Failure> {
    let children = state_dir.join("children");
    let ended = process::end_stale_children(&children);
    if ended > 0 {
        announcer.say("stale", &format!("ended {ended} processes that an earlier serve left behind"));
    }
    process::record_children_in(&children)
        .classify(Kind::Environment, || format!("cannot use {}", children.display()))
}

/// The first signal stops running jobs, which stay queued, and exits with success.
fn end(pool: Pool, announcer: &Announcer, stop: Stop) -> Result<(), Failure> {
    announcer.say("stopping", &format!("{stop}: running jobs are stopped and stay queued"));
    if !pool.shutdown(stop, SHUTDOWN) {
        announcer.warn("a job did not end in time; it runs again at the next start");
    }
    Ok(())
}

/// The exit code of a job.
fn result_of(job: &JobRecord) -> Result<(), Failure> {
    if job.state == JobState::Succeeded {
        return Ok(());
    }
    let kinds = [Kind::BadInput, Kind::Refused, Kind::Environment];
    let kind = kinds.into_iter().find(|kind| Some(kind.code()) == job.exit_code).unwrap_or(Kind::Failed);
    let error = job.error.clone().unwrap_or_else(|| format!("the job {}", job.state));
    Err(Failure::new(kind, anyhow::anyhow!("{error}")))
}

fn with_flags(mut config: Config, args: &Serve) -> Result<Config, Failure> {
    if let Some(listen) = args.listen {
        config.serve.listen = listen;
    }
    if let Some(jobs) = args.jobs {
        config.serve.jobs = usize::from(jobs);
    }
    if let Some(path) = &args.secret_file {
        config.set_secret_file(path)?;
    }
    if let Some(admin) = args.admin_listen {
        config.serve.admin_listen = Some(admin);
    }
    for name in &args.repository {
        config.allow(name)?;
    }
    Ok(config)
}

/// Fails without a secret or an allowed repository, because every delivery would be refused.
fn rules(config: &Config) -> Result<Vec<ForgeRules>, Failure> {
    let mut forges = Vec::new();
    for forge in &config.forges {
        let secrets = forge.webhook_secrets()?;
        let secret = (!secrets.is_empty())
            .then(|| WebhookSecret::new(secrets))
            .transpose()
            .map_err(|f: Failure| f.context(format!("the webhook secret of {} cannot be used", forge.url)))?;
        let own = config.repositories.iter().filter(|repository| repository.forge == forge.url);
        let repositories = own.map(|r| (r.name.clone(), r.branches.clone())).collect();
        forges.push(ForgeRules { kind: forge.kind, url: forge.url.clone(), secret, repositories });
    }
    if forges.iter().all(|forge| forge.secret.is_none()) {
        return Err(Failure::bad_input("serve does not start without a webhook secret")
            .hint("make one (openssl rand -hex 32 > secret; chmod 600 secret) and name it: --secret-file secret, serve.secret_file, the secret_file of a [[forge]], or SWANCI_SECRET"));
    }
    if config.repositories.is_empty() {
        return Err(Failure::bad_input("serve does not start without a repository that is allowed")
            .hint("name one: --repository owner/name, or [[repository]] in the configuration"));
    }
    Ok(forges)
}

/// Forges with allowed repositories but without a secret, so that all their deliveries are refused.
fn without_secret(rules: &[ForgeRules]) -> impl Iterator<Item = String> {
    let silent = rules.iter().filter(|forge| forge.secret.is_none() && !forge.repositories.is_empty());
    silent.map(|forge| {
        format!(
            "{} has no webhook secret: its deliveries are refused; give its [[forge]] a secret_file",
            forge.url
        )
    })
}

/// All sockets from systemd, or a bound one; and the one of `admin_listen`.
fn sockets(config: &Config) -> Result<(Vec<TcpListener>, Option<TcpListener>), Failure> {
    let mut public = listener::inherited()?;
    if public.is_empty() {
        public.push(listener::bind(&config.serve.listen.to_string())?);
    }
    let admin = config.serve.admin_listen.map(|address| listener::bind(&address.to_string())).transpose()?;
    Ok((public, admin))
}

fn announce_addresses(listener: &Listener, admin: bool, announcer: &Announcer) {
    let mut addresses = listener.local_addrs();
    let admin = if admin { addresses.pop() } else { None };
    for address in addresses {
        announcer.say("listening", &format!("listening on http://{address}"));
    }
    if let Some(admin) = admin {
        announcer.say("metrics", &format!("metrics on http://{admin}/metrics"));
    }
}

fn start_pool(service: &Arc<Service>, config: &Config, cancel: &Cancel) -> Result<Pool, Failure> {
    let options = PoolOptions {
        jobs: config.serve.jobs,
        timeout: config.serve.timeout,
        retention: config.serve.retention,
        ..PoolOptions::default()
    };
    let handler = Arc::clone(service);
    Pool::start(&service.queue, options, cancel, handler)
        .classify(Kind::Environment, || "the workers cannot be started")
}

/// SIGHUP: an invalid configuration changes nothing.
fn reload(service: &Service, config: Result<Config, Failure>, cancel: &Cancel) {
    let announcer = &service.announcer;
    let checked = config.and_then(|config| {
        let rules = rules(&config)?;
        session::site(&config, &service.flags, &announcer.events, cancel)?;
        Ok((rules, config))
    });
    let (rules, config) = match checked {
        Ok(checked) => checked,
        Err(failure) => {
            let text = format!("the old configuration stays, because the new one is wrong: {failure}");
            return announcer.warn(&text);
        }
    };
    service.intake.replace_rules(rules);
    if let Err(error) = service.queue.set_posts(posts::wanted(&config)) {
        announcer.warn(&format!("the setting for commit statuses was not changed: {error}"));
    }
    let fixed = |config: &Config| {
        let serve = &config.serve;
        let addresses = (serve.listen, serve.admin_listen, config.state_dir.clone());
        (addresses, serve.jobs, serve.timeout, serve.max_body, serve.retention)
    };
    let (new, old) = (fixed(&config), service.replace_config(config));
    announcer.say("reloaded", "the configuration was read again");
    if fixed(&old) != new {
        announcer.warn("state_dir and serve.listen, jobs, timeout, max_body, retention and admin_listen change only at the next start");
    }
}
