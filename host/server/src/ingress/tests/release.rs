//! Releases to serve, and servers to serve them.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::{Arc, Mutex};

use cap_std::ambient_authority;
use cap_std::fs::Dir;
use cofferdam_deploy::{Route, StaticRoot, Target};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::super::Ingress;
use crate::connections::{self, ConnectionFigures, ConnectionLimits, Listening};

/// A tree under a temporary directory, the site's root one level below it so that there is an outside.
pub(in super::super) struct Tree {
    outside: TempDir,
}

impl Tree {
    pub(in super::super) fn new() -> Tree {
        let outside = TempDir::new().unwrap();
        std::fs::create_dir(outside.path().join("root")).unwrap();
        Tree { outside }
    }

    pub(super) fn file(self, path: &str, content: impl AsRef<[u8]>) -> Tree {
        let path = self.path(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
        self
    }

    pub(super) fn link(self, path: &str, target: impl AsRef<Path>) -> Tree {
        symlink(target, self.path(path)).unwrap();
        self
    }

    /// A path in the site's root.
    pub(super) fn path(&self, path: &str) -> std::path::PathBuf {
        self.outside.path().join("root").join(path)
    }

    /// A route to this tree, as a release of its own.
    pub(in super::super) fn route(&self) -> Arc<Route> {
        static RELEASES: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(1);
        let number = RELEASES.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let dir = Dir::open_ambient_dir(self.path(""), ambient_authority()).unwrap();
        Arc::new(Route::new(
            "site".parse().unwrap(),
            format!("01890000-0000-7000-8000-{number:012x}")
                .parse()
                .unwrap(),
            format!("blake3:{number:064x}"),
            "web".to_owned(),
            Target::Static(StaticRoot { dir }),
        ))
    }

    /// Serves this tree alone, as `site.localhost`.
    pub(super) async fn serve(&self) -> Server {
        Server::start([("site.localhost", self.route())]).await
    }
}

/// A running ingress; dropping it stops it.
pub(super) struct Server {
    pub(super) address: SocketAddr,
    routes: Arc<Mutex<HashMap<String, Arc<Route>>>>,
    _stop: DropGuard,
}

impl Server {
    pub(super) async fn start<const N: usize>(routes: [(&str, Arc<Route>); N]) -> Server {
        let routes = routes.map(|(host, route)| (host.to_owned(), route));
        let routes = Arc::new(Mutex::new(HashMap::from(routes)));
        let table = routes.clone();
        let ingress = Arc::new(Ingress::new(move |host: &str| {
            table.lock().unwrap().get(host).cloned()
        }));
        let service = tower::service_fn(move |request| {
            let ingress = ingress.clone();
            async move { Ok::<_, Infallible>(ingress.answer(request).await) }
        });
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let listening = Listening {
            listener,
            limits: ConnectionLimits::default(),
            tls: None,
            figures: ConnectionFigures::default(),
        };
        tokio::spawn(connections::serve(listening, service, shutdown.clone()));
        Server {
            address,
            routes,
            _stop: shutdown.drop_guard(),
        }
    }

    /// Swaps what a host is served by.
    pub(super) fn swap(&self, host: &str, route: Arc<Route>) {
        self.routes.lock().unwrap().insert(host.to_owned(), route);
    }
}
