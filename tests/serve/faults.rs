//! Unreachable registry or docker, full disk, hanging builds.

use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Output};
use std::time::Duration;

use super::support::{Serve, World, payload, processes_with, signal, step_runs, until, until_within};
use crate::support::http::{ask, delivery, get};

/// `serve` with an admin listener on a free port.
fn serve_with_admin(world: &World, args: &[&str]) -> (Serve, std::net::SocketAddr) {
    let admin = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let serve = world.serve_with(&[&["--admin-listen", &admin.to_string()], args].concat());
    (serve, admin)
}

#[test]
fn a_job_with_an_environment_failure_is_retried_and_does_not_block_others() {
    let mut world = World::new();
    let merge = world.merge_page("one");
    let serve = world.serve();
    world.registry.stop();
    let job = serve.deliver(&merge);
    let waiting = until("its first attempt has failed", || {
        let now = world.job(job);
        (now["state"] == "queued" && now["attempts"] == 1).then_some(now)
    });
    assert_eq!(waiting["exit_code"], 6, "{waiting}");
    assert!(waiting["next_attempt"].is_string(), "{waiting}");
    assert!(waiting["error"].is_string(), "{waiting}");
    serve.wait_said("attempt 1 failed, again in");
    // The waiting job does not block a later job of the same repository.
    world.registry.start();
    let later = world.merge_page("two");
    let second = serve.deliver(&later);
    world.wait_for(second, "succeeded");
    let job = world.wait_for(job, "succeeded");
    assert_eq!(job["attempts"], 2, "{job}");
    assert!(world.digest("httpd", &format!("sha-{}", merge.commit)).is_some());
    assert_eq!(
        world.digest("httpd", "1.0"),
        world.digest("httpd", &format!("sha-{}", later.commit)),
        "nothing moved back"
    );
}

#[test]
fn readyz_reports_that_docker_does_not_answer_while_healthz_is_ok() {
    let world = World::new();
    world.configure(|s| s.build = "docker = \"/nowhere/docker\"".to_owned());
    let (serve, admin) = serve_with_admin(&world, &[]);
    let ready = ask(admin, get("/readyz"));
    assert_eq!(ready.status, 503);
    assert!(ready.body.contains("/nowhere/docker"), "{}", ready.body);
    assert_eq!(serve.get("/healthz").status, 200);
    // A delivery is still accepted and queued.
    let merge = world.merge_page("one");
    let job = serve.deliver(&merge);
    let waiting = until("its first attempt has failed", || {
        let now = world.job(job);
        (now["state"] == "queued" && now["attempts"] == 1).then_some(now)
    });
    assert_eq!(waiting["exit_code"], 6, "{waiting}");
}

/// A separate docker daemon that the test can stop. It has its own network namespace, because its bridge would replace that
/// of the machine.
struct Engine {
    dir: tempfile::TempDir,
    daemon: Option<Child>,
}

impl Engine {
    fn start() -> Engine {
        let mut engine = Engine { dir: tempfile::tempdir().unwrap(), daemon: None };
        engine.up();
        engine
    }

    fn host(&self) -> String {
        format!("unix://{}", self.dir.path().join("docker.sock").display())
    }

    fn docker(&self, args: &[&str]) -> Output {
        Command::new("docker").args(args).env("DOCKER_HOST", self.host()).output().unwrap()
    }

    fn up(&mut self) {
        let at = |name: &str| self.dir.path().join(name).display().to_string();
        let log = std::fs::File::create(at("log")).unwrap();
        std::fs::write(at("none.json"), "{}").unwrap();
        let daemon = Command::new("unshare")
            .args(["--net", "dockerd"])
            .args(["--data-root", &at("data"), "--exec-root", &at("exec"), "--pidfile", &at("pid")])
            .args(["--config-file", &at("none.json"), "--host", &self.host(), "--iptables=false"])
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .process_group(0)
            .spawn()
            .expect("dockerd is missing: apt-get install docker.io (scripts/test does it)");
        self.daemon = Some(daemon);
        let log = std::path::PathBuf::from(at("log"));
        until("dockerd answers", || {
            let ended = self.daemon.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none(), "{}", std::fs::read_to_string(&log).unwrap());
            self.docker(&["version"]).status.success().then_some(())
        });
    }

    fn down(&mut self) {
        let running = self.daemon.take().and_then(|mut daemon| match daemon.try_wait() {
            Ok(None) => Some(daemon),
            Ok(Some(_)) | Err(_) => None,
        });
        if let Some(mut daemon) = running {
            signal(daemon.id(), "TERM");
            until("dockerd ends", || daemon.try_wait().unwrap());
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.down();
        // Its storage driver may leave a mount point.
        let _ = Command::new("umount").arg("--lazy").arg(self.dir.path().join("data")).output();
    }
}

/// The steps of a stopped engine: the current version leaves them running.
struct Left {
    mark: String,
    steps: Vec<u32>,
}

impl Drop for Left {
    fn drop(&mut self) {
        let running = processes_with(&self.mark);
        self.steps.iter().filter(|pid| running.contains(pid)).for_each(|pid| signal(*pid, "KILL"));
    }
}

#[test]
fn a_docker_daemon_that_stops_during_a_build_costs_an_attempt_but_no_merge() {
    let world = World::new();
    let mut engine = Engine::start();
    let mark = format!("74{:07}", fastrand::u32(..10_000_000));
    let merge = world.merge_run(&format!("/busybox sleep {mark}"));
    let mut command = world.swanci();
    command.env("DOCKER_HOST", engine.host()).arg("serve");
    let serve = Serve::start(command, &world);
    let job = serve.deliver(&merge);
    until("the step runs", || step_runs(&mark).then_some(()));
    let left = Left { mark: mark.clone(), steps: processes_with(&mark) };
    engine.down();
    let waiting = until("the attempt has failed", || {
        let now = world.job(job);
        assert_ne!(now["state"], "failed", "{now}\n{}", world.job_log(job));
        (now["state"] == "queued" && now["attempts"] == 1).then_some(now)
    });
    assert_eq!(waiting["exit_code"], 6, "{waiting}");
    assert_eq!(serve.get("/healthz").status, 200);
    engine.up();
    let built_again = || processes_with(&mark).iter().any(|pid| !left.steps.contains(pid));
    until("it is built again", || built_again().then_some(()));
    assert_eq!(world.job(job)["state"], "running");
    assert_eq!(serve.stop(), 0);
    until_within(Duration::from_secs(5), "the step is gone", &mut || (!built_again()).then_some(()));
}

#[test]
fn a_hanging_job_is_stopped_with_its_step_at_the_timeout() {
    let world = World::new();
    world.configure(|s| s.serve = "timeout = \"6s\"".to_owned());
    let mark = format!("72{:07}", fastrand::u32(..10_000_000));
    let merge = world.merge_run(&format!("/busybox sleep {mark}"));
    let serve = world.serve();
    let job = serve.deliver(&merge);
    until("the step runs", || step_runs(&mark).then_some(()));
    let failed = world.wait_for(job, "failed");
    assert_eq!((&failed["exit_code"], &failed["attempts"]), (&1.into(), &1.into()), "{failed}");
    assert!(failed["error"].as_str().unwrap().contains("timed out"), "{failed}");
    until_within(Duration::from_secs(5), "the step is gone", &mut || (!step_runs(&mark)).then_some(()));
    // The queue continues.
    let next = world.merge_page("two");
    let next = serve.deliver(&next);
    world.wait_for(next, "succeeded");
}

/// A tmpfs for the test.
struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    fn mount(at: std::path::PathBuf, size: &str) -> SmallDisk {
        std::fs::create_dir(&at).unwrap();
        let options = format!("size={size},mode=0700");
        let done =
            Command::new("mount").args(["-t", "tmpfs", "-o", &options, "swanci-test"]).arg(&at).status();
        assert!(done.unwrap().success(), "this test has to mount a tmpfs: run it as root");
        SmallDisk(at)
    }

    /// Fills it to the last byte.
    fn fill(&self) {
        use std::io::Write as _;
        let mut file = std::fs::File::create(self.0.join("filler")).unwrap();
        let zeros = [0; 4096];
        while file.write_all(&zeros).is_ok() {}
    }

    fn relieve(&self) {
        std::fs::remove_file(self.0.join("filler")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[test]
fn on_a_full_disk_deliveries_get_503_until_there_is_space() {
    let world = World::new();
    let disk = SmallDisk::mount(world.path("small"), "24m");
    world.configure(|s| s.state = Some(disk.0.join("state")));
    let (serve, admin) = serve_with_admin(&world, &["--jobs", "0"]);
    assert_eq!(ask(admin, get("/readyz")).status, 200);
    let sha = |n: u32| format!("{n:040x}");
    let deliver = |n: u32| {
        let body = payload(super::support::REPOSITORY, 1, &sha(1), &sha(2), &sha(100 + n));
        serve.ask(delivery(super::support::SECRET, "pull_request", &body))
    };
    assert_eq!(deliver(0).status, 202);
    disk.fill();
    let mut taken = 1;
    // Deliveries that fit into existing pages may be accepted; after that, all must be refused.
    let refused = (1..2000).map(|n| (n, deliver(n))).find(|(_, answer)| {
        taken += usize::from(answer.status == 202);
        answer.status != 202
    });
    let (n, refused) = refused.expect("the full disk was not detected");
    assert_eq!(refused.status, 503, "{refused:?}");
    assert!(refused.header("retry-after").is_some(), "{refused:?}");
    assert!(!refused.body.contains(&disk.0.display().to_string()), "the answer contains a path: {refused:?}");
    assert_eq!(serve.get("/healthz").status, 200);
    // `/readyz` caches its answer for a second.
    until_within(Duration::from_secs(8), "readyz reports it", &mut || {
        (ask(admin, get("/readyz")).status == 503).then_some(())
    });
    assert_eq!(deliver(n).status, 503);
    disk.relieve();
    until_within(Duration::from_secs(2), "it recovers by itself", &mut || {
        (deliver(n).status == 202).then_some(())
    });
    until_within(Duration::from_secs(8), "readyz reports the recovery", &mut || {
        (ask(admin, get("/readyz")).status == 200).then_some(())
    });
    assert_eq!(world.jobs().len(), taken + 1, "exactly the deliveries with 202 are jobs");
    assert_eq!(serve.stop(), 0);
    drop(disk);
}
