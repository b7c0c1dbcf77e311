//! Pages of a long history.

use std::path::Path;
use std::time::Instant;

use cofferdam_ledger::{Change, Durability, Ledger, NewDeployment};
use uuid::Uuid;

use crate::client::Client;
use crate::measure::{median, percentile};
use crate::server::Server;
use crate::small_package;

const PROJECTS: usize = 1000;
const DEPLOYMENTS: usize = 10_000;
const ASKED: usize = 200;

/// How long a page of 100 takes among ten thousand deployments, with each filter.
pub(crate) fn pages(scratch: &Path) {
    let data = scratch.join("data");
    let server = Server::start(&data);
    let package = small_package(scratch);
    let mut client = Client::new(&server);
    let record = client.deploy("p0000", "{}", &package);
    let id: Uuid = record["id"].as_str().unwrap().parse().unwrap();
    server.stop();

    // Thousands of copies of that one: deploying them would take minutes and leave the same rows.
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(copy(&data.join("ledger.db"), id));

    let server = Server::start_on(&data);
    let mut client = Client::new(&server);
    println!("\na page of 100 among {DEPLOYMENTS} deployments of {PROJECTS} projects");
    let first = client.get("/v1/deployments?limit=100");
    let before = first["deployments"][99]["id"].as_str().unwrap().to_owned();
    for filter in [
        String::new(),
        "&project=p0007".to_owned(),
        "&project=p0999".to_owned(),
        "&status=succeeded".to_owned(),
        "&status=failed".to_owned(),
        "&status=queued".to_owned(),
        "&project=p0007&status=failed".to_owned(),
        format!("&before={before}"),
        format!("&before={before}&status=failed"),
    ] {
        let path = format!("/v1/deployments?limit=100{filter}");
        let found = client.get(&path)["deployments"].as_array().unwrap().len();
        let times = times(&mut client, &path);
        println!(
            "  {:<48} {found:>3} found, {:.2} ms (99th percentile {:.2})",
            if filter.is_empty() {
                "no filter"
            } else {
                &filter[1..]
            },
            median(times.clone()),
            percentile(times, 0.99)
        );
    }
    let found = client.get("/v1/projects")["projects"]
        .as_array()
        .unwrap()
        .len();
    let times = times(&mut client, "/v1/projects");
    println!(
        "  the list of projects: {found} found, {:.2} ms",
        median(times)
    );
}

fn times(client: &mut Client, path: &str) -> Vec<f64> {
    (0..ASKED)
        .map(|_| {
            let start = Instant::now();
            client.get(path);
            start.elapsed().as_secs_f64() * 1e3
        })
        .collect()
}

async fn copy(path: &Path, id: Uuid) {
    let ledger = Ledger::open(path).await.unwrap();
    let row = ledger.deployment(id).await.unwrap().unwrap();
    for batch in (1..DEPLOYMENTS).collect::<Vec<_>>().chunks(500) {
        let mut changes = Vec::new();
        for at in batch {
            let project = format!("p{:04}", at % PROJECTS);
            let id = Uuid::now_v7();
            changes.push(Change::PutProject {
                name: project.clone(),
                created_at: row.created_at,
            });
            changes.push(Change::InsertDeployment(NewDeployment {
                id,
                project,
                status: "queued".to_owned(),
                created_at: row.created_at,
                body: row.body.clone(),
            }));
            changes.push(Change::UpdateDeployment {
                id,
                expect: 1,
                status: if at % 7 == 0 { "failed" } else { "succeeded" }.to_owned(),
                finished: true,
                body: row.body.clone(),
            });
        }
        ledger.commit(Durability::Process, changes).await.unwrap();
    }
    ledger.close().await;
}
