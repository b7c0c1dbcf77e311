//! What a release serves, beside servers that do nothing else.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::measure::median;
use crate::server::Server;

/// Runs of each side, interleaved.
const RUNS: usize = 3;

/// Static files through the ingress, and the same files by nginx with as many processes as there are cores.
pub(crate) fn files(scratch: &Path) {
    let site = scratch.join("site");
    fs::create_dir_all(&site).unwrap();
    // Without an index there is nothing that is served by itself.
    fs::write(site.join("index.html"), "<p>served</p>").unwrap();
    fs::write(site.join("small.html"), "x".repeat(1024)).unwrap();
    fs::write(site.join("large.bin"), vec![b'y'; 64 * 1024]).unwrap();
    let server = Server::start(&scratch.join("data"));
    server.deploy(&site, "site");
    let nginx = Nginx::start(&scratch.join("nginx"), &site);
    println!();
    for file in ["small.html", "large.bin"] {
        let bytes = fs::metadata(site.join(file)).unwrap().len();
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..RUNS {
            theirs.push(wrk(&format!("{}/{file}", nginx.url), "site.localhost"));
            ours.push(wrk(&format!("{}/{file}", server.ingress), "site.localhost"));
        }
        let (ours, theirs) = (median(ours), median(theirs));
        println!(
            "a static file of {bytes} bytes: cofferdam {ours:.0} requests/s, nginx {theirs:.0}: {:.2} times",
            ours / theirs
        );
    }
}

/// A `wasi:http` component, and the same by `wasmtime serve`.
pub(crate) fn component(scratch: &Path) {
    let package = scratch.join("component");
    fs::create_dir_all(&package).unwrap();
    let wasm = package.join("hello.wasm");
    fs::write(&wasm, cofferdam_test_guests::program("http_hello")).unwrap();
    fs::write(
        package.join("cofferdam.toml"),
        "[load]\nplugin = \"serve\"\nconfig = { services = [{ name = \"web\", kind = \"component\", path = \"hello.wasm\" }] }\n",
    )
    .unwrap();
    let server = Server::start(&scratch.join("data"));
    server.deploy(&package, "hello");
    let address = free_address();
    let peer = Command::new("wasmtime")
        .args(["serve", "-S", "cli", "--addr", &address])
        .arg(&wasm)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let ours = median(
        (0..RUNS)
            .map(|_| wrk(&format!("{}/", server.ingress), "hello.localhost"))
            .collect(),
    );
    match peer {
        Ok(child) => {
            let _peer = Peer(child);
            wait_for(&address);
            let theirs = median(
                (0..RUNS)
                    .map(|_| wrk(&format!("http://{address}/"), "hello.localhost"))
                    .collect(),
            );
            println!(
                "\na component: cofferdam {ours:.0} requests/s, wasmtime serve {theirs:.0}: {:.2} times",
                ours / theirs
            );
        }
        Err(_) => println!(
            "\na component: cofferdam {ours:.0} requests/s (no wasmtime in the path to compare with)"
        ),
    }
}

/// Requests a second at two connections for each core, without one error.
fn wrk(url: &str, host: &str) -> f64 {
    let output = Command::new("wrk")
        .args(["-t2", "-c4", "-d4s", "-H", &format!("Host: {host}"), url])
        .output()
        .expect("wrk is needed for the comparison");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        !text.contains("Non-2xx") && !text.contains("Socket errors"),
        "{text}"
    );
    text.lines()
        .find_map(|line| line.strip_prefix("Requests/sec:"))
        .unwrap()
        .trim()
        .parse()
        .unwrap()
}

/// A child that goes with its owner.
struct Peer(Child);

impl Drop for Peer {
    fn drop(&mut self) {
        // Not SIGKILL: a master that is killed leaves its workers behind.
        let _ = Command::new("kill").arg(self.0.id().to_string()).status();
        let _ = self.0.wait();
    }
}

struct Nginx {
    url: String,
    _child: Peer,
}

impl Nginx {
    fn start(directory: &Path, site: &Path) -> Self {
        fs::create_dir_all(directory).unwrap();
        // Its workers may run as another user.
        let address = free_address();
        let config = directory.join("nginx.conf");
        fs::write(
            &config,
            format!(
                "daemon off; pid {dir}/pid; error_log {dir}/error.log; worker_processes 2; user root;\n\
                 events {{ worker_connections 1024; }}\n\
                 http {{ access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000000; etag on;\n\
                   default_type application/octet-stream; types {{ text/html html; }}\n\
                   open_file_cache max=1000; server {{ listen {address}; root {site}; }} }}\n",
                dir = directory.display(),
                site = site.display(),
            ),
        )
        .unwrap();
        let child = Command::new("nginx")
            .arg("-p")
            .arg(directory)
            .arg("-c")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("nginx is needed for the comparison");
        wait_for(&address);
        Self {
            url: format!("http://{address}"),
            _child: Peer(child),
        }
    }
}

fn free_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

fn wait_for(address: &str) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while TcpStream::connect(address).is_err() {
        assert!(Instant::now() < deadline, "nothing answers at {address}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
