//! wrk asks without a pause while the release changes two hundred times.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::package::{self, Entry};
use crate::server::Server;

/// How often the release changes.
const FLIPS: usize = 200;

/// How long each release stays: some requests of every connection.
const PAUSE: Duration = Duration::from_millis(15);

/// Bytes of the small page and of the large one: the one is held in memory, the other read in pieces. Pages of `b`
/// have one more, so that a head of one release with the body of the other cannot pass.
const SMALL: usize = 2000;
const LARGE: usize = 300_000;

/// What each of wrk's threads does with what it gets: a page is of one release, from its first byte to its last, or it
/// is bad.
const SCRIPT: &str = r#"
local threads = {}
function setup(thread)
  table.insert(threads, thread)
end
function init(args)
  a, b, bad, turn = 0, 0, 0, 0
end
function request()
  turn = turn + 1
  return wrk.format("GET", turn % 2 == 0 and "/small.txt" or "/large.txt")
end
function response(status, headers, body)
  local more = #body % 1000
  if status == 200 and more == 0 and not body:find("[^a]") then
    a = a + 1
  elseif status == 200 and more == 1 and not body:find("[^b]") then
    b = b + 1
  else
    bad = bad + 1
  end
end
function done(summary, latency, requests)
  local sum = { a = 0, b = 0, bad = 0 }
  for _, thread in ipairs(threads) do
    for name in pairs(sum) do
      sum[name] = sum[name] + thread:get(name)
    end
  end
  local e = summary.errors
  local errors = e.connect + e.read + e.write + e.status + e.timeout
  io.write(string.format("SEEN %d %d %d %d\n", sum.a, sum.b, sum.bad, errors))
end
"#;

/// A wrk that is stopped by its owner, and killed when that does not come to it.
struct Wrk(Option<Child>);

impl Wrk {
    fn start(script: &Path, url: &str, host: &str) -> Self {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        let child = Command::new("wrk")
            .args([
                format!("-t{cores}"),
                format!("-c{}", 2 * cores),
                "-d600s".to_owned(),
            ])
            .args(["-H", &format!("Host: {host}")])
            .arg("-s")
            .arg(script)
            .arg(url)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Self(Some(child))
    }

    /// Stops it in order, and answers what it printed.
    fn finish(mut self) -> String {
        let child = self.0.take().unwrap();
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
        let output = child.wait_with_output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for Wrk {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_flips_under_wrk_lose_no_request_and_mix_no_answer() {
    let server = Server::start();
    let mut ids = Vec::new();
    for (letter, more) in [(b'a', 0), (b'b', 1)] {
        let page = |path: &str, size: usize| Entry {
            path: path.to_owned(),
            bytes: vec![letter; size + more],
        };
        let entries = [
            page("index.html", 10),
            page("small.txt", SMALL),
            page("large.txt", LARGE),
        ];
        let record = server
            .succeed("flip", &json!({}), package::tar(&entries))
            .await;
        ids.push(record["id"].clone());
    }
    let place = tempfile::tempdir().unwrap();
    let script = place.path().join("flips.lua");
    std::fs::write(&script, SCRIPT).unwrap();
    let url = format!("http://{}", server.ingress);
    let wrk = Wrk::start(&script, &url, "flip.localhost");
    let begun = Instant::now();
    let mut took = Vec::new();
    for flip in 0..FLIPS {
        let since = Instant::now();
        let path = "/v1/projects/flip/rollback";
        let answer = server
            .request(reqwest::Method::POST, path)
            .body(json!({ "to": ids[flip % 2] }).to_string())
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status().as_u16(), 200, "flip {flip}");
        took.push(since.elapsed());
        // So that each release is asked for before it goes again.
        tokio::time::sleep(PAUSE).await;
    }
    let said = wrk.finish();
    let seen = said
        .lines()
        .find_map(|line| line.strip_prefix("SEEN "))
        .unwrap_or_else(|| panic!("{said}"));
    let seen: Vec<u64> = seen
        .split(' ')
        .map(|number| number.parse().unwrap())
        .collect();
    took.sort();
    println!(
        "{FLIPS} flips in {:?}, the median {:?}; {} answers meanwhile",
        begun.elapsed(),
        took[FLIPS / 2],
        seen[0] + seen[1]
    );
    assert_eq!((seen[2], seen[3]), (0, 0), "bad answers and errors: {said}");
    assert!(seen[0] > 0 && seen[1] > 0, "{said}");
}
