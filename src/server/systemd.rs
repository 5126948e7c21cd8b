//! What systemd is told (`sd_notify(3)`): ready, alive, reloading, stopping, and one line of status.
//!
//! It reads what the daemon's port reads too. The watchdog is fed on the word of the control loop's heartbeat alone:
//! a loop that is stuck is not fed, whatever else of the process still runs. The `sd-notify` crate knows no abstract
//! sockets, which is what service managers in containers hand out, so the few lines are here.

use std::{
    fmt::Write as _,
    io,
    os::{
        linux::net::SocketAddrExt as _,
        unix::{
            ffi::OsStrExt as _,
            net::{SocketAddr, UnixDatagram},
        },
    },
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rustix::time::{ClockId, clock_gettime};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::Sources;
use crate::{shutdown::Tasks, status::Status};

/// Where nobody asked for a watchdog, the status line is looked at so often.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// The loop beats every 5 s at least; one that has not for this long is stuck.
const STUCK: Duration = Duration::from_secs(10);

/// The service manager at the other end of `NOTIFY_SOCKET`.
#[derive(Debug)]
pub struct Manager {
    socket: UnixDatagram,
    /// How long it waits for a sign of life, where it does.
    watchdog: Option<Duration>,
    ready: AtomicBool,
}

impl Manager {
    /// The one that started this process, by the environment that it gave us; none: nobody wants to know.
    pub fn of_this_process() -> Option<Self> {
        let socket = std::env::var_os("NOTIFY_SOCKET").filter(|path| !path.is_empty())?;
        let number = |name| std::env::var(name).ok()?.parse::<u64>().ok();
        let for_us = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let watchdog = number("WATCHDOG_USEC").filter(|usec| for_us && *usec > 0);
        match Self::at(socket.as_bytes(), watchdog.map(Duration::from_micros)) {
            Ok(manager) => Some(manager),
            Err(error) => {
                tracing::warn!(%error, "the socket in NOTIFY_SOCKET cannot be used; systemd is told nothing");
                None
            }
        }
    }

    /// `address`: a path, or `@` and the name of an abstract socket.
    pub fn at(address: &[u8], watchdog: Option<Duration>) -> io::Result<Self> {
        let address = match address.strip_prefix(b"@") {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(address))?,
        };
        let socket = UnixDatagram::unbound()?;
        socket.connect_addr(&address)?;
        // A manager that does not read must not stop us.
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket,
            watchdog,
            ready: AtomicBool::new(false),
        })
    }

    /// Tells it what there is to tell, until the tasks are told to end.
    pub fn serve(self: Arc<Self>, sources: Sources, stop: CancellationToken, tasks: &Tasks) {
        let end = tasks.token().clone();
        tasks.keep("systemd", move || {
            let (manager, sources) = (self.clone(), sources.clone());
            let (stop, end) = (stop.clone(), end.clone());
            async move {
                end.run_until_cancelled(manager.tell_on(sources, stop)).await;
            }
        });
    }

    async fn tell_on(&self, mut sources: Sources, stop: CancellationToken) {
        let every = self.watchdog.map_or(LOOK_EVERY, |limit| (limit / 3).min(LOOK_EVERY));
        let mut look = tokio::time::interval(every);
        let status = sources.status.clone();
        let mut said = String::new();
        let mut stopping = false;
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled(), if !stopping => {
                    stopping = true;
                    self.tell("STOPPING=1\nSTATUS=draining\n");
                }
                _ = look.tick() => {
                    if self.watchdog.is_some_and(|limit| sources.heartbeat.age() < STUCK.max(limit / 2)) {
                        self.tell("WATCHDOG=1\n");
                    }
                    let now = line(&status.borrow());
                    if !stopping && now != said {
                        self.tell(&format!("STATUS={now}\n"));
                        said = now;
                    }
                }
                // When the loop is gone there is nothing left to say.
                Ok(said_now) = ready_line(&mut sources.status), if !self.ready.load(Ordering::Relaxed) => {
                    self.ready.store(true, Ordering::Relaxed);
                    said = said_now;
                    self.tell(&format!("READY=1\nSTATUS={said}\n"));
                }
            }
        }
    }

    /// The file is being read again. To be followed by [`Self::reloaded`].
    pub fn reloading(&self) {
        if self.ready.load(Ordering::Relaxed) {
            self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={}\n", monotonic_usec()));
        }
    }

    /// Whatever came of it: the status says that.
    pub fn reloaded(&self) {
        if self.ready.load(Ordering::Relaxed) {
            self.tell("READY=1\n");
        }
    }

    fn tell(&self, words: &str) {
        if let Err(error) = self.socket.send(words.as_bytes()) {
            tracing::debug!(%error, "systemd does not listen");
        }
    }
}

/// Waits until the daemon is ready to lead or to stand by.
async fn ready_line(status: &mut watch::Receiver<Arc<Status>>) -> Result<String, watch::error::RecvError> {
    let ready = status.wait_for(|status| status.ready).await?;
    Ok(line(&ready))
}

/// The kernel's own time, by which systemd tells a reload from the one before.
fn monotonic_usec() -> i64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec.saturating_mul(1_000_000).saturating_add(now.tv_nsec / 1000)
}

/// One line for `systemctl status`.
fn line(status: &Status) -> String {
    if let Some(why) = status.not_ready.first() {
        return one_line(&format!("not ready: {why}"));
    }
    let sets = status.scale_sets.len();
    let degraded = status.scale_sets.iter().filter(|set| set.degraded).count();
    let runners = |state: &str| -> u32 { status.scale_sets.iter().filter_map(|set| set.runners.get(state)).sum() };
    let all: u32 = status.scale_sets.iter().flat_map(|set| set.runners.values()).sum();
    let mut line = format!("{sets} scale sets, {all} runners, {} busy", runners("busy"));
    if degraded > 0 {
        let _ = write!(line, "; {degraded} sets degraded");
    }
    if !status.configuration.problems.is_empty() {
        line.push_str("; the file is refused, older settings are in effect");
    }
    one_line(&line)
}

fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{clock::Clock, server::Heartbeat, telemetry::Metrics};

    const SECOND: Duration = Duration::from_secs(1);

    /// A service manager's end, and the daemon's words at the other one.
    struct Scene {
        socket: UnixDatagram,
        manager: Arc<Manager>,
        heartbeat: Arc<Heartbeat>,
        status: watch::Sender<Arc<Status>>,
        stop: CancellationToken,
        tasks: Tasks,
    }

    impl Scene {
        /// The manager waits 30 s for a sign of life. `name`: another one for each test.
        fn begin(name: &str) -> Self {
            let name = format!("gharts-listener-{}-{name}", std::process::id());
            let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
            socket.set_nonblocking(true).unwrap();
            let manager = Manager::at(format!("@{name}").as_bytes(), Some(30 * SECOND));
            let manager = Arc::new(manager.unwrap());
            let clock = Clock::simulated("2026-11-23T00:00:00Z".parse().unwrap());
            let heartbeat = Arc::new(Heartbeat::new(&clock));
            let starting = Status {
                not_ready: vec!["starting".to_owned()],
                ..Status::default()
            };
            let (status, seen) = watch::channel(Arc::new(starting));
            let sources = Sources {
                status: seen,
                heartbeat: heartbeat.clone(),
                metrics: Metrics::new(false),
            };
            let (stop, tasks) = (CancellationToken::new(), Tasks::new());
            manager.clone().serve(sources, stop.clone(), &tasks);
            Self {
                socket,
                manager,
                heartbeat,
                status,
                stop,
                tasks,
            }
        }

        /// What the manager is told in so many seconds, while the loop beats or does not.
        async fn told_in(&self, seconds: u32, beats: bool) -> Vec<String> {
            let mut told = self.heard();
            for _ in 0..seconds {
                if beats {
                    self.heartbeat.beat();
                }
                tokio::time::sleep(SECOND).await;
                told.extend(self.heard());
            }
            told
        }

        /// The kernel keeps ten words at most for who does not listen.
        fn heard(&self) -> Vec<String> {
            let mut words = [0; 512];
            let next = || {
                let length = self.socket.recv(&mut words).ok()?;
                Some(String::from_utf8(words[..length].to_vec()).unwrap())
            };
            std::iter::from_fn(next).collect()
        }

        fn is_ready(&self) {
            self.status.send_replace(Arc::new(Status {
                ready: true,
                ..Status::default()
            }));
        }
    }

    fn signs_of_life(told: &[String]) -> usize {
        told.iter().filter(|words| *words == "WATCHDOG=1\n").count()
    }

    #[tokio::test(start_paused = true)]
    async fn b41_systemd_hears_that_the_daemon_is_ready_once_that_it_reloads_and_that_it_stops() {
        let scene = Scene::begin("states");
        scene.manager.reloading();
        scene.manager.reloaded();
        let told = scene.told_in(12, true).await;
        assert!(told.contains(&"STATUS=not ready: starting\n".to_owned()), "{told:?}");
        assert!(!told.iter().any(|words| words.contains("READY=1")), "{told:?}");
        assert!(!told.iter().any(|words| words.contains("RELOADING")), "{told:?}");

        scene.is_ready();
        let told = scene.told_in(12, true).await;
        let ready: Vec<_> = told.iter().filter(|words| words.contains("READY=1")).collect();
        assert_eq!(ready, ["READY=1\nSTATUS=0 scale sets, 0 runners, 0 busy\n"]);

        let before = monotonic_usec();
        scene.manager.reloading();
        scene.manager.reloaded();
        let told = scene.told_in(0, true).await;
        let at = told[0]
            .strip_prefix("RELOADING=1\nMONOTONIC_USEC=")
            .and_then(|at| at.trim_end().parse().ok());
        assert!(at.is_some_and(|at: i64| at >= before), "{told:?}");
        assert_eq!(told[1..], ["READY=1\n"]);

        scene.stop.cancel();
        scene.status.send_replace(Arc::default());
        let told = scene.told_in(12, true).await;
        assert_eq!(told[0], "STOPPING=1\nSTATUS=draining\n");
        assert_eq!(
            signs_of_life(&told),
            told.len() - 1,
            "it lives while it drains: {told:?}"
        );
        assert!(told.len() >= 3);
        scene.tasks.stop();
        scene.tasks.finished().await;
        assert!(scene.told_in(60, true).await.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn b41_the_watchdog_is_fed_only_while_the_loop_beats() {
        let scene = Scene::begin("watchdog");
        scene.is_ready();
        let fed = signs_of_life(&scene.told_in(60, true).await);
        assert!((12..=13).contains(&fed), "{fed} in a minute");
        // The loop is stuck, and everything else is well: for a while nobody can know.
        scene.told_in(16, false).await;
        assert_eq!(signs_of_life(&scene.told_in(60, false).await), 0);
        assert!(signs_of_life(&scene.told_in(20, true).await) >= 3, "it moves again");
    }

    #[test]
    fn b41_a_socket_in_the_file_system_is_told_too() {
        let path = std::env::temp_dir().join(format!("gharts-listener-{}-notify", std::process::id()));
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        let manager = Manager::at(path.as_os_str().as_bytes(), None).unwrap();
        manager.tell("READY=1\n");
        let mut words = [0; 64];
        let length = socket.recv(&mut words).unwrap();
        assert_eq!(&words[..length], b"READY=1\n");
        std::fs::remove_file(path).unwrap();
    }
}
