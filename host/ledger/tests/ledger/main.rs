//! The ledger on a real disk.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod audit;
mod commits;
mod leases;
mod reads;
mod restart;

use cofferdam_ledger::{
    Change, Commit, Durability, Error, Ledger, NewDeployment, PluginRow, ReleaseRow, SecretRow,
    TokenRow,
};
use tempfile::TempDir;
use uuid::Uuid;

async fn fresh() -> (TempDir, Ledger) {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(&dir.path().join("ledger.db")).await.unwrap();
    (dir, ledger)
}

async fn commit(ledger: &Ledger, changes: Vec<Change>) -> Result<Commit, Error> {
    ledger.commit(Durability::Process, changes).await
}

fn project(name: &str) -> Change {
    Change::PutProject {
        name: name.to_owned(),
        created_at: 7,
    }
}

fn deployment(id: Uuid, project: &str) -> Change {
    Change::InsertDeployment(NewDeployment {
        id,
        project: project.to_owned(),
        status: "queued".to_owned(),
        created_at: 11,
        body: r#"{"message":"hello"}"#.to_owned(),
    })
}

fn update(id: Uuid, expect: u64, status: &str, finished: bool) -> Change {
    Change::UpdateDeployment {
        id,
        expect,
        status: status.to_owned(),
        finished,
        body: format!("{{\"status\":\"{status}\"}}"),
    }
}

fn release(id: Uuid, project: &str) -> ReleaseRow {
    ReleaseRow {
        id,
        project: project.to_owned(),
        digest: "blake3:00".to_owned(),
        files: 3,
        bytes: 4096,
        created_at: 13,
        body: "{}".to_owned(),
    }
}

fn set_active(project: &str, release: Option<Uuid>, expect: Option<Option<Uuid>>) -> Change {
    Change::SetActive {
        project: project.to_owned(),
        release,
        expect,
    }
}

fn plugin(name: &str, version: &str, digest: &str) -> PluginRow {
    PluginRow {
        name: name.to_owned(),
        version: version.to_owned(),
        digest: digest.to_owned(),
        created_at: 17,
        body: "{}".to_owned(),
    }
}

fn secret(project: &str, name: &str, sealed: &[u8]) -> SecretRow {
    SecretRow {
        project: project.to_owned(),
        name: name.to_owned(),
        sealed: sealed.to_vec(),
        created_at: 23,
        updated_at: 23,
    }
}

fn token(id: Uuid, hash: &str) -> TokenRow {
    TokenRow {
        id,
        name: "ci".to_owned(),
        hash: hash.to_owned(),
        scopes: "deploy:blog read:*".to_owned(),
        created_at: 19,
        expires_at: None,
    }
}
