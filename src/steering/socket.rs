//! Orders over a unix socket: the kernel says who asks, so nobody needs a secret.
//!
//! Root, our own user and the socket's group may steer; others are refused and told why. The file's mode (0660) already keeps
//! them out; that it still does is looked at for each connection, because a mode is easily changed by mistake.

use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, SockAddr, Socket, Type};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::order::{Answer, Order, Request, ask};

/// The socket's name in the state folder.
pub const FILE_NAME: &str = "tidegate.sock";
/// Connections at a time; further ones are told to come again.
const CONNECTIONS_MAX: usize = 16;
/// Connections that wait to be accepted.
const BACKLOG: i32 = 16;
/// An order is shorter.
const ORDER_BYTES_MAX: u64 = 4096;
/// How long an asker may take to write an order, or to read an answer.
const ASKER_TIMEOUT: Duration = Duration::from_secs(10);
/// Between two tries to get the socket, or to accept after an error.
const AGAIN: Duration = Duration::from_secs(2);
/// Who is named in `/etc/passwd`, and how large a file is looked at.
const PASSWD: &str = "/etc/passwd";
const PASSWD_BYTES_MAX: u64 = 1 << 20;

/// Why the socket cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Somebody answers on it.
    #[error("another process answers on `{}`", .0.display())]
    InUse(PathBuf),
    /// There is something else under its name.
    #[error("`{}` is no socket", .0.display())]
    NoSocket(PathBuf),
    /// The folder, the file, or the operating system refuses.
    #[error("`{}`: {reason}", path.display())]
    Io {
        /** Which file. */
        path: PathBuf,
        /** Why. */
        reason: io::Error,
    },
}

/// Takes orders on `path` until `shutdown`. While the socket cannot be had, it says so once and tries again.
pub async fn serve(path: PathBuf, orders: mpsc::Sender<Request>, shutdown: CancellationToken) {
    let mut has_complained = false;
    let bound = loop {
        match Bound::new(&path) {
            Ok(bound) => break bound,
            Err(error) if !has_complained => {
                tracing::warn!(%error, "the socket for orders cannot be had, so `tidegate rollout` and `drain` do not work yet");
                has_complained = true;
            }
            Err(error) => tracing::debug!(%error, "the socket for orders cannot be had"),
        }
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(AGAIN) => {}
        }
    };
    tracing::info!(path = %path.display(), "taking orders");
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let stream = tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            accepted = bound.listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "could not accept a connection for orders");
                    tokio::time::sleep(AGAIN).await;
                    continue;
                }
            },
        };
        let place = Arc::clone(&places).try_acquire_owned();
        let (orders, path, shutdown) = (orders.clone(), path.clone(), shutdown.clone());
        tokio::spawn(async move {
            let talk = async {
                let result = match place {
                    Ok(_place) => talk(stream, &path, &orders).await,
                    Err(_full) => refuse(stream, "too many others are asking; nothing was done, ask again").await,
                };
                if let Err(error) = result {
                    tracing::debug!(%error, "a connection for orders ended early");
                }
            };
            tokio::select! {
                biased;
                () = talk => {}
                () = shutdown.cancelled() => {}
            }
        });
    }
}

/// The listening socket. Its file goes when it is dropped, unless somebody has put another in its place.
#[derive(Debug)]
struct Bound {
    listener: UnixListener,
    path: PathBuf,
    identity: (u64, u64),
}

impl Bound {
    /// Nobody can connect before the file has its mode.
    fn new(path: &Path) -> Result<Self, SocketError> {
        let failed = |reason| SocketError::Io { path: path.to_owned(), reason };
        make_room(path)?;
        let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking().cloexec(), None).map_err(failed)?;
        socket.bind(&SockAddr::unix(path).map_err(failed)?).map_err(failed)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660)).map_err(failed)?;
        let file = std::fs::symlink_metadata(path).map_err(failed)?;
        socket.listen(BACKLOG).map_err(failed)?;
        let listener = UnixListener::from_std(std::os::unix::net::UnixListener::from(socket)).map_err(failed)?;
        Ok(Self { listener, path: path.to_owned(), identity: (file.dev(), file.ino()) })
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        let is_ours = |file: std::fs::Metadata| (file.dev(), file.ino()) == self.identity;
        if std::fs::symlink_metadata(&self.path).is_ok_and(is_ours)
            && let Err(error) = std::fs::remove_file(&self.path)
        {
            tracing::debug!(%error, "the socket for orders stays behind");
        }
    }
}

/// Sees to it that the name is free: the folder is there, and a socket that a dead process left is not.
fn make_room(path: &Path) -> Result<(), SocketError> {
    let failed = |reason| SocketError::Io { path: path.to_owned(), reason };
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => match path.parent().map(std::fs::create_dir) {
            Some(Err(error)) if error.kind() != io::ErrorKind::AlreadyExists => Err(failed(error)),
            _ => Ok(()),
        },
        Err(error) => Err(failed(error)),
        Ok(file) if !std::os::unix::fs::FileTypeExt::is_socket(&file.file_type()) => Err(SocketError::NoSocket(path.to_owned())),
        Ok(_) => match std::os::unix::net::UnixStream::connect(path) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path).map_err(failed),
            // Whoever is too busy to take a connection is there all the same.
            Ok(_) => Err(SocketError::InUse(path.to_owned())),
            Err(error) => Err(failed(error)),
        },
    }
}

/// Answers the orders of one connection, one after another.
async fn talk(stream: UnixStream, path: &Path, orders: &mpsc::Sender<Request>) -> io::Result<()> {
    let credentials = stream.peer_cred()?;
    let (uid, gid) = (credentials.uid(), credentials.gid());
    let by = name_of(uid).await;
    let file = tokio::fs::symlink_metadata(path).await.map(|file| Guard { gid: file.gid(), mode: file.mode() });
    if !may_steer(uid, gid, rustix::process::geteuid().as_raw(), file.ok()) {
        tracing::warn!(by, "refused an order");
        let text = format!("{by} may not steer: only root, the user that tidegate runs as, and the group of {}", path.display());
        return refuse(stream, &text).await;
    }
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    loop {
        let mut line = Vec::new();
        let mut limited = (&mut reader).take(ORDER_BYTES_MAX);
        let Ok(read) = timeout(ASKER_TIMEOUT, limited.read_until(b'\n', &mut line)).await else {
            return write(&mut writer, &Answer::refused("no order came in time")).await;
        };
        if read? == 0 {
            return Ok(());
        }
        if line.last() != Some(&b'\n') {
            let text = if line.len() as u64 == ORDER_BYTES_MAX { "the order is too long" } else { "the order breaks off" };
            return write(&mut writer, &Answer::refused(text)).await;
        }
        let answer = match serde_json::from_slice::<Order>(&line) {
            Ok(order) => ask(orders, order, by.clone()).await,
            Err(error) => Answer::refused(format!("this is no order: {error}")),
        };
        write(&mut writer, &answer).await?;
    }
}

async fn refuse(stream: UnixStream, text: &str) -> io::Result<()> {
    let (_reader, mut writer) = stream.into_split();
    write(&mut writer, &Answer::refused(text)).await
}

async fn write(writer: &mut tokio::net::unix::OwnedWriteHalf, answer: &Answer) -> io::Result<()> {
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    timeout(ASKER_TIMEOUT, writer.write_all(&line)).await.map_err(io::Error::from)?
}

/// How the socket's file is guarded.
#[derive(Clone, Copy, Debug)]
struct Guard {
    gid: u32,
    mode: u32,
}

/// Root, our own user, and the socket's group. The kernel shows only a peer's first group; that somebody is in it by another
/// is known when the file lets nobody else connect.
fn may_steer(uid: u32, gid: u32, own: u32, file: Option<Guard>) -> bool {
    let is_of_group = |file: Guard| file.gid == gid || file.mode & 0o007 == 0;
    uid == 0 || uid == own || file.is_some_and(is_of_group)
}

/// `alice (user 1000)`, or `user 1000`.
async fn name_of(uid: u32) -> String {
    let file = tokio::fs::metadata(PASSWD).await;
    let text = match file {
        Ok(file) if file.len() <= PASSWD_BYTES_MAX => tokio::fs::read_to_string(PASSWD).await.unwrap_or_default(),
        _ => String::new(),
    };
    named(&text, uid)
}

fn named(passwd: &str, uid: u32) -> String {
    let line = |line: &str| {
        let mut fields = line.split(':');
        let (name, number) = (fields.next()?.to_owned(), fields.nth(1)?);
        (number.parse() == Ok(uid)).then_some(name)
    };
    match passwd.lines().find_map(line) {
        Some(name) if uid == 0 => name,
        Some(name) => format!("{name} (user {uid})"),
        None => format!("user {uid}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLOSED: Option<Guard> = Some(Guard { gid: 998, mode: 0o140_660 });
    const OPEN: Option<Guard> = Some(Guard { gid: 998, mode: 0o140_666 });

    #[test]
    fn root_our_own_user_and_the_sockets_group_may_steer_and_nobody_else() {
        let check = |uid, gid, file, expected| assert_eq!(may_steer(uid, gid, 998, file), expected, "{uid}:{gid} {file:?}");
        check(0, 0, OPEN, true);
        check(998, 100, OPEN, true);
        check(1000, 998, OPEN, true);
        check(1000, 1000, OPEN, false);
        // In the group by another than the first of the groups: else the kernel would not have let them connect.
        check(1000, 1000, CLOSED, true);
        check(1000, 1000, None, false);
    }

    #[test]
    fn whoever_asks_is_named() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nalice:x:1000:1000::/home/alice:/bin/sh\nbroken\n";
        assert_eq!(named(passwd, 0), "root");
        assert_eq!(named(passwd, 1000), "alice (user 1000)");
        assert_eq!(named(passwd, 7), "user 7");
    }

    /// A socket whose orders are all answered with who asked what.
    struct Scene {
        folder: tempfile::TempDir,
        shutdown: CancellationToken,
        serving: tokio::task::JoinHandle<()>,
    }

    impl Scene {
        fn start() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let (shutdown, path) = (CancellationToken::new(), folder.path().join("state/t.sock"));
            let (orders, mut waiting) = mpsc::channel::<Request>(1);
            tokio::spawn(async move {
                while let Some(request) = waiting.recv().await {
                    let _ = request.reply.send(Answer::done(format!("{:?}", request.order)));
                }
            });
            let serving = tokio::spawn(serve(path, orders, shutdown.clone()));
            Self { folder, shutdown, serving }
        }

        fn path(&self) -> PathBuf {
            self.folder.path().join("state/t.sock")
        }

        async fn connect(&self) -> BufReader<UnixStream> {
            let connect = async {
                loop {
                    match UnixStream::connect(self.path()).await {
                        Ok(stream) => return BufReader::new(stream),
                        Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
                    }
                }
            };
            timeout(ASKER_TIMEOUT, connect).await.unwrap()
        }

        async fn stop(self) {
            let path = self.path();
            self.shutdown.cancel();
            self.serving.await.unwrap();
            assert!(!path.exists());
        }
    }

    async fn answer(stream: &mut BufReader<UnixStream>) -> Answer {
        let mut line = String::new();
        stream.read_line(&mut line).await.unwrap();
        serde_json::from_str(&line).unwrap()
    }

    async fn told(stream: &mut BufReader<UnixStream>, text: &[u8]) -> Answer {
        stream.write_all(text).await.unwrap();
        answer(stream).await
    }

    #[tokio::test]
    async fn several_orders_are_answered_on_one_connection() {
        let scene = Scene::start();
        let mut stream = scene.connect().await;
        assert_eq!(std::fs::metadata(scene.path()).unwrap().mode() & 0o777, 0o660);
        assert_eq!(told(&mut stream, b"{\"order\":\"list\"}\n").await, Answer::done("List"));
        let wrong = told(&mut stream, b"{\"order\":\"lisst\"}\n").await;
        assert!(!wrong.is_ok && wrong.text.contains("this is no order"), "{wrong:?}");
        assert!(told(&mut stream, b"{\"order\":\"release-all\"}\n").await.is_ok);
        scene.stop().await;
    }

    #[tokio::test]
    async fn an_order_without_end_is_cut_off() {
        let scene = Scene::start();
        let mut stream = scene.connect().await;
        let endless = vec![b' '; ORDER_BYTES_MAX as usize];
        assert_eq!(told(&mut stream, &endless).await.text, "the order is too long");
        scene.stop().await;
    }

    #[tokio::test]
    async fn more_connections_than_there_are_places_are_told_to_come_again() {
        let scene = Scene::start();
        let mut idle = Vec::new();
        for _ in 0..CONNECTIONS_MAX {
            let mut stream = scene.connect().await;
            assert!(told(&mut stream, b"{\"order\":\"list\"}\n").await.is_ok);
            idle.push(stream);
        }
        let refused = answer(&mut scene.connect().await).await;
        assert!(!refused.is_ok && refused.text.contains("too many others"), "{refused:?}");
        scene.stop().await;
    }

    #[tokio::test]
    async fn what_a_dead_process_left_is_replaced_and_what_a_living_one_has_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let living = Bound::new(&path).unwrap();
        assert!(matches!(Bound::new(&path), Err(SocketError::InUse(_))));
        drop(living);
        std::fs::write(&path, "mine").unwrap();
        assert!(matches!(Bound::new(&path), Err(SocketError::NoSocket(_))));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "mine");
    }
}
