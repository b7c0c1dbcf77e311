//! What each condition of the protocol between leases and collections is for, one at a time: in a whole store one
//! often stands in for another.

use super::*;

fn ids(commit: &PackCommit) -> Vec<ChunkId> {
    commit.entries.iter().map(|entry| entry.id).collect()
}

/// Makes a pack known that nobody holds any more; gives its row.
async fn left(index: &Index, seed: u32) -> (i64, Vec<ChunkId>) {
    let commit = commit(seed);
    index.commit_pack(&commit).await.unwrap();
    index.forget_upload(commit.holder).await.unwrap();
    let ids = ids(&commit);
    let found = index.lookup(&ids[..1]).await.unwrap();
    (found[&ids[0]].pack, ids)
}

async fn holders(index: &Index, pack: i64) -> i64 {
    let mut reader = index.reader().await;
    sqlx::query_scalar("SELECT COUNT(*) FROM lease WHERE pack = ?")
        .bind(pack)
        .fetch_one(&mut *reader)
        .await
        .unwrap()
}

#[tokio::test]
async fn a_pack_is_condemned_once_nobody_holds_it_and_nobody_has_since_the_collection_began() {
    let directory = tempfile::tempdir().unwrap();
    let index = open(directory.path()).await;
    let (pack, ids) = left(&index, 1).await;
    let holder = BlobId::new();
    let first = index.begin_round().await.unwrap();
    index.lease(holder, &ids[..1]).await.unwrap();
    // While it is held, no number helps: not of this collection, and not of a later one that forgot to look.
    for round in [first, first + 1, first + 100] {
        assert!(index.condemn(round, &[pack]).await.unwrap().is_empty());
    }
    index.forget_upload(holder).await.unwrap();
    assert_eq!(holders(&index, pack).await, 0);
    // It was held since this one began, which has not seen what for.
    assert!(index.condemn(first, &[pack]).await.unwrap().is_empty());
    let next = index.begin_round().await.unwrap();
    assert!(next > first);
    assert_eq!(index.condemn(next, &[pack]).await.unwrap(), [pack]);
    // Once is enough, and nobody leans on it any more.
    assert!(index.condemn(next, &[pack]).await.unwrap().is_empty());
    assert!(index.lease(holder, &ids[..1]).await.unwrap().is_empty());
}

#[tokio::test]
async fn what_is_held_when_a_collection_begins_has_its_number() {
    let directory = tempfile::tempdir().unwrap();
    let index = open(directory.path()).await;
    let (pack, ids) = left(&index, 1).await;
    let holder = BlobId::new();
    index.lease(holder, &ids[..1]).await.unwrap();
    let round = index.begin_round().await.unwrap();
    // It goes while the collection marks: the blob that it became may not be among what was marked.
    index.forget_upload(holder).await.unwrap();
    assert!(index.condemn(round, &[pack]).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_pack_that_is_lost_stays_so_and_is_not_condemned() {
    let directory = tempfile::tempdir().unwrap();
    let index = open(directory.path()).await;
    let (pack, _) = left(&index, 1).await;
    index.quarantine(Suspect::Pack { pack }).await.unwrap();
    let round = index.begin_round().await.unwrap();
    assert!(index.condemn(round, &[pack]).await.unwrap().is_empty());
    assert_eq!(index.packs().await.unwrap()[0].state, PackState::Lost);
}

#[tokio::test]
async fn a_pack_of_copies_outlives_the_collection_that_made_it_and_is_held_by_who_held_what_moved()
{
    let directory = tempfile::tempdir().unwrap();
    let index = open(directory.path()).await;
    let (source, ids) = left(&index, 1).await;
    let holder = BlobId::new();
    let round = index.begin_round().await.unwrap();
    let extent = commit(1).entries[0].extent;
    let mut copies = Vec::new();
    for (at, id) in ids[..2].iter().enumerate() {
        if at == 1 {
            index.lease(holder, &ids[..2]).await.unwrap();
        }
        let moved = MoveCommit {
            round,
            name: Uuid::now_v7(),
            length: 200,
            entries: 1,
            moved: vec![Moved {
                id: *id,
                source,
                extent,
            }],
            emptied: vec![source],
        };
        // The first one leaves something behind that nobody copied; the second meets a holder.
        let condemned = index.move_chunks(&moved).await.unwrap();
        assert_eq!(condemned.is_empty(), at == 1);
        let found = index.lookup(&[*id]).await.unwrap();
        copies.push(found[id].pack);
        if at == 0 {
            // As if it had not been.
            index.mark_lost(source, false).await.unwrap();
        }
    }
    assert_eq!(holders(&index, copies[0]).await, 1);
    assert_eq!(holders(&index, copies[1]).await, 1);
    index.forget_upload(holder).await.unwrap();
    assert!(index.condemn(round, &copies).await.unwrap().is_empty());
    let next = index.begin_round().await.unwrap();
    assert_eq!(index.condemn(next, &copies).await.unwrap(), copies);
}

#[tokio::test]
async fn who_is_second_with_a_chunk_holds_the_pack_of_who_was_first() {
    let directory = tempfile::tempdir().unwrap();
    let index = open(directory.path()).await;
    let first = commit(1);
    // Both stored the same chunks before either was known.
    let second = PackCommit {
        holder: BlobId::new(),
        name: Uuid::now_v7(),
        ..commit(1)
    };
    index.commit_pack(&first).await.unwrap();
    index.commit_pack(&second).await.unwrap();
    let ids = ids(&first);
    let pack = index.lookup(&ids[..1]).await.unwrap()[&ids[0]].pack;
    assert_eq!(holders(&index, pack).await, 2);
    index.forget_upload(first.holder).await.unwrap();
    let round = index.begin_round().await.unwrap();
    assert!(index.condemn(round, &[pack]).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_pack_that_is_in_use_is_not_forgotten_and_one_that_is_takes_its_leases_along() {
    let directory = tempfile::tempdir().unwrap();
    let index = open(directory.path()).await;
    let (used, ids) = left(&index, 1).await;
    let (gone, _) = left(&index, 2).await;
    let holder = BlobId::new();
    index.lease(holder, &ids[..1]).await.unwrap();
    let of_gone = commit(2).entries[0].id;
    index.lease(holder, &[of_gone]).await.unwrap();
    index
        .quarantine(Suspect::Pack { pack: gone })
        .await
        .unwrap();
    index.forget_packs(&[gone]).await.unwrap();
    assert_eq!(holders(&index, gone).await, 0);
    index.forget_packs(&[used]).await.unwrap();
    let left: Vec<i64> = index
        .packs()
        .await
        .unwrap()
        .iter()
        .map(|row| row.id)
        .collect();
    assert_eq!(left, [used]);
}
