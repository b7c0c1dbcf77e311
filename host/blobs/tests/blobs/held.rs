//! What a namespace holds, and blobs that are put together from it.

use std::io::Write as _;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use cofferdam_blobs::{
    Assembly, BlobInfo, ChunkId, ChunkRef, Digest, Error, Input, MAX_CHUNK_BYTES, Named, Store,
    Supply,
};

use crate::testing::noise;
use crate::{open, open_with_small_packs, packs, read, store};

async fn chunks(blobs: &Store, blob: &BlobInfo) -> Vec<ChunkRef> {
    blobs.manifest(blob.id).await.unwrap().chunks
}

fn ids(chunks: &[ChunkRef]) -> Vec<ChunkId> {
    chunks.iter().map(|chunk| chunk.id).collect()
}

/// How many of these the namespace does not hold.
async fn missing(blobs: &Store, namespace: &str, chunks: &[ChunkRef]) -> usize {
    let missing = blobs.missing(namespace, &ids(chunks)).await.unwrap();
    assert_eq!(missing.len(), chunks.len());
    missing.into_iter().filter(|missing| *missing).count()
}

/// Names a blob's chunks, those held that the namespace holds, and puts it together.
async fn assemble(blobs: &Store, namespace: &str, data: &[u8], chunks: &[ChunkRef]) -> BlobInfo {
    let missing = blobs.missing(namespace, &ids(chunks)).await.unwrap();
    let named: Vec<Named> = chunks
        .iter()
        .zip(missing)
        .map(|(chunk, missing)| match missing {
            true => Named::Sent(*chunk),
            false => Named::Held(*chunk),
        })
        .collect();
    let mut assembly = blobs.assemble(namespace).await.unwrap();
    for named in named.chunks(100) {
        assembly.name(named).await.unwrap();
    }
    assert_eq!(assembly.bytes(), data.len() as u64);
    let mut ingest = blobs.ingest(namespace).await.unwrap();
    let follower = tokio::spawn(read(ingest.follow()));
    let mut at = 0;
    loop {
        let bytes: Input = match assembly.next().await.unwrap() {
            Supply::Held(chunk) => chunk,
            Supply::Wanted(chunk) => {
                let bytes = &data[at..at + chunk.bytes as usize];
                chunk.verify(bytes).unwrap();
                Bytes::copy_from_slice(bytes).into()
            }
            Supply::End => break,
        };
        assert!(!bytes.is_empty());
        at += bytes.len();
        ingest.write(bytes).await.unwrap();
    }
    drop(assembly);
    let info = ingest.finish().await.unwrap();
    assert!(follower.await.unwrap().unwrap() == data);
    info
}

async fn refused(assembly: &mut Assembly, named: Named) -> String {
    let error = assembly.name(&[named]).await.unwrap_err();
    assert!(matches!(error, Error::NotHeld), "{error}");
    error.to_string()
}

#[tokio::test]
async fn a_namespace_holds_the_chunks_of_its_own_complete_blobs_and_no_others() {
    let directory = tempfile::tempdir().unwrap();
    let blobs = open(directory.path()).await;
    let data = noise(1, 3_000_000);
    assert!(!blobs.holds_any("blog").await.unwrap());

    let mut unfinished = blobs.ingest("blog").await.unwrap();
    unfinished.write(Bytes::from(data.clone())).await.unwrap();
    let other = store(&blobs, "shop", &data).await;
    let all = chunks(&blobs, &other).await;
    assert_eq!(missing(&blobs, "blog", &all).await, all.len());
    assert_eq!(missing(&blobs, "shop", &all).await, 0);
    drop(unfinished);

    let first = store(&blobs, "blog", &data).await;
    let second = store(&blobs, "blog", &[&data[..], &noise(2, 300_000)].concat()).await;
    assert_eq!(missing(&blobs, "blog", &all).await, 0);
    assert!(blobs.holds_any("blog").await.unwrap());
    let tail = chunks(&blobs, &second).await;
    assert!(blobs.remove(first.id).await.unwrap());
    assert_eq!(
        missing(&blobs, "blog", &tail).await,
        0,
        "the second blob has them"
    );
    assert!(blobs.remove(second.id).await.unwrap());
    assert_eq!(missing(&blobs, "blog", &tail).await, tail.len());
    assert!(!blobs.holds_any("blog").await.unwrap());
    assert_eq!(missing(&blobs, "shop", &all).await, 0);
}

#[tokio::test]
async fn a_blob_is_put_together_from_what_is_held_and_what_is_sent() {
    let directory = tempfile::tempdir().unwrap();
    let blobs = open_with_small_packs(directory.path()).await;
    let old = noise(1, 9_000_000);
    store(&blobs, "blog", &old).await;
    let mut new = old.clone();
    new.splice(4_000_000..4_000_100, noise(9, 50_000));
    new.extend(noise(10, 10));
    // What the new bytes' chunks are is what another store says of them.
    let elsewhere = tempfile::tempdir().unwrap();
    let other = open(elsewhere.path()).await;
    let whole = store(&other, "any", &new).await;
    let list = chunks(&other, &whole).await;
    let wanted = missing(&blobs, "blog", &list).await;
    assert!((1..8).contains(&wanted), "{wanted} of {}", list.len());

    let before = packs(directory.path(), "pack").len();
    let info = assemble(&blobs, "blog", &new, &list).await;
    assert_eq!((info.blake3, info.sha256), (whole.blake3, whole.sha256));
    assert_eq!(chunks(&blobs, &info).await, list);
    assert!(read(blobs.reader(info.id).await.unwrap()).await.unwrap() == new);
    assert!(packs(directory.path(), "pack").len() - before <= 2);
    assert_eq!(missing(&blobs, "blog", &list).await, 0);
}

#[tokio::test]
async fn a_claim_on_what_others_hold_is_refused_in_the_words_for_what_nobody_has() {
    let directory = tempfile::tempdir().unwrap();
    let blobs = open(directory.path()).await;
    let secret = store(&blobs, "shop", &noise(1, 200_000)).await;
    let own = store(&blobs, "blog", &noise(2, 200_000)).await;
    let others = chunks(&blobs, &secret).await[0];
    let mine = chunks(&blobs, &own).await[0];
    let nobodys = ChunkRef {
        id: Digest::blake3(b"nobody's"),
        bytes: others.bytes,
    };
    let mut assembly = blobs.assemble("blog").await.unwrap();
    let of_others = refused(&mut assembly, Named::Held(others)).await;
    let of_nobody = refused(&mut assembly, Named::Held(nobodys)).await;
    assert_eq!(of_others, of_nobody);
    // One that is held, in another length, is no better.
    let longer = ChunkRef {
        bytes: mine.bytes + 1,
        ..mine
    };
    assert_eq!(refused(&mut assembly, Named::Held(longer)).await, of_nobody);
    assembly.name(&[Named::Held(mine)]).await.unwrap();
    // And a chunk that others have is received and verified like a new one.
    assembly.name(&[Named::Sent(others)]).await.unwrap();
    assert!(matches!(assembly.next().await.unwrap(), Supply::Held(_)));
    let Supply::Wanted(wanted) = assembly.next().await.unwrap() else {
        panic!("the chunk of another namespace was not asked for");
    };
    let error = wanted.verify(&vec![0; wanted.bytes as usize]).unwrap_err();
    assert!(matches!(error, Error::ChunkMismatch(_)), "{error}");
    assert!(error.to_string().contains(&wanted.id.to_string()));
    assert!(matches!(assembly.next().await.unwrap(), Supply::End));
}

#[tokio::test]
async fn runs_are_of_the_namespaces_own_blob_and_go_forward_through_parts() {
    let directory = tempfile::tempdir().unwrap();
    // Each pack has a part of the manifest.
    let blobs = open_with_small_packs(directory.path()).await;
    let old = noise(1, 9_000_000);
    let base = store(&blobs, "blog", &old).await;
    let list = chunks(&blobs, &base).await;
    assert!(list.len() > 90 && packs(directory.path(), "pack").len() > 4);
    let others = store(&blobs, "shop", &noise(2, 100_000)).await;

    let mut assembly = blobs.assemble("blog").await.unwrap();
    for digest in [others.blake3, Digest::blake3(b"nobody's")] {
        let error = assembly.lean_on(&digest).await.unwrap_err();
        assert!(matches!(error, Error::NotHeld), "{error}");
    }
    let run = |first: usize, chunks: usize| Named::Run {
        first: first as u64,
        chunks: chunks as u64,
    };
    let error = assembly.name(&[run(0, 1)]).await.unwrap_err();
    assert!(matches!(error, Error::List { .. }), "{error}");
    assembly.lean_on(&base.blake3).await.unwrap();
    let fresh = ChunkRef {
        id: Digest::blake3(b"fresh"),
        bytes: 5,
    };
    let last = list.len() - 1;
    let named = [run(2, 60), Named::Sent(fresh), run(70, 1), run(last, 1)];
    assembly.name(&named).await.unwrap();
    let meant: Vec<ChunkRef> = [&list[2..62], &[fresh], &list[70..71], &list[last..]].concat();
    let bytes: u64 = meant.iter().map(|chunk| u64::from(chunk.bytes)).sum();
    assert_eq!(assembly.bytes(), bytes);
    let lines: Vec<u8> = meant
        .iter()
        .flat_map(|chunk| [&chunk.bytes.to_le_bytes()[..], chunk.id.as_bytes()].concat())
        .collect();
    assert_eq!(assembly.list_digest(), Digest::blake3(&lines));
    let error = assembly.name(&[run(last, 1)]).await.unwrap_err();
    assert!(matches!(error, Error::List { .. }), "it went back: {error}");
    let error = assembly.name(&[run(last + 1, 1)]).await.unwrap_err();
    assert!(matches!(error, Error::NotHeld), "it went beyond: {error}");
    // Of these a list could have any number.
    let error = assembly.name(&[run(last, 0)]).await.unwrap_err();
    assert!(matches!(error, Error::List { .. }), "it was empty: {error}");
}

#[tokio::test]
async fn bytes_of_the_namespaces_own_blob_are_copied_from_any_place_as_long_as_they_are_sound() {
    let directory = tempfile::tempdir().unwrap();
    // Each pack has a part of the manifest.
    let blobs = open_with_small_packs(directory.path()).await;
    let old = noise(1, 5_000_000);
    let base = store(&blobs, "blog", &old).await;
    let list = chunks(&blobs, &base).await;
    let mut assembly = blobs.assemble("blog").await.unwrap();
    let mut copied = BytesMut::new();
    let error = assembly.copy(0, 1, &mut copied).await.unwrap_err();
    assert!(matches!(error, Error::List { .. }), "of nothing: {error}");
    assembly.lean_on(&base.blake3).await.unwrap();
    let first = list[0].bytes;
    for (place, bytes) in [
        (0, first),
        (0, 1),
        (u64::from(first) - 1, 2),
        (u64::from(first), 1),
        (777, 2_000_000),
        (4_999_999, 1),
        (0, 5_000_000),
        (3_000_000, 600),
    ] {
        copied.clear();
        copied.extend_from_slice(b"before");
        assembly.copy(place, bytes, &mut copied).await.unwrap();
        let place = usize::try_from(place).unwrap();
        assert!(copied[..6] == *b"before");
        assert!(copied[6..] == old[place..place + bytes as usize], "{place}");
    }
    for (place, bytes) in [(5_000_000, 1), (4_999_999, 2), (u64::MAX, 1)] {
        let error = assembly.copy(place, bytes, &mut copied).await.unwrap_err();
        assert!(matches!(error, Error::List { .. }), "{place}: {error}");
    }

    let mut packs = packs(directory.path(), "pack");
    packs.sort();
    let damaged = &packs[0];
    let mut bytes = std::fs::read(damaged).unwrap();
    bytes[1000] ^= 1;
    std::fs::write(damaged, bytes).unwrap();
    let error = assembly.copy(0, 5_000_000, &mut copied).await.unwrap_err();
    assert!(matches!(error, Error::NotHeld), "{error}");
    assert_eq!(missing(&blobs, "blog", &list).await, 1);
    blobs.remove(base.id).await.unwrap();
    let error = assembly
        .copy(4_000_000, 600, &mut copied)
        .await
        .unwrap_err();
    assert!(matches!(error, Error::NotHeld), "{error}");
}

#[tokio::test]
async fn copies_may_be_short_and_many_but_not_all_over_the_place() {
    let directory = tempfile::tempdir().unwrap();
    let blobs = open(directory.path()).await;
    let old = noise(1, 3_000_000);
    let base = store(&blobs, "blog", &old).await;
    let mut assembly = blobs.assemble("blog").await.unwrap();
    assembly.lean_on(&base.blake3).await.unwrap();
    let mut copied = BytesMut::new();
    for place in (0..3_000_000).step_by(500) {
        assembly.copy(place, 500, &mut copied).await.unwrap();
    }
    assert!(copied == old, "every byte in its place");
    let mut copies = 0;
    let error = loop {
        copied.clear();
        let place = if copies % 2 == 0 { 0 } else { 2_900_000 };
        match assembly.copy(place, 500, &mut copied).await {
            Ok(()) => copies += 1,
            Err(error) => break error,
        }
        assert!(copies < 10_000, "each of them reads a chunk");
    };
    assert!(matches!(error, Error::List { .. }), "{error}");
    assert!(copies > 500, "only {copies}");
}

#[tokio::test]
async fn a_list_with_impossible_chunks_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let blobs = open(directory.path()).await;
    let mut assembly = blobs.assemble("blog").await.unwrap();
    for bytes in [0, MAX_CHUNK_BYTES + 1] {
        let chunk = ChunkRef {
            id: Digest::blake3(b"any"),
            bytes: u32::try_from(bytes).unwrap(),
        };
        let error = assembly.name(&[Named::Sent(chunk)]).await.unwrap_err();
        assert!(matches!(error, Error::List { .. }), "{error}");
    }
    assert!(
        packs(directory.path(), "tmp").is_empty(),
        "the list has no name"
    );
}

#[tokio::test]
async fn a_held_chunk_that_turns_out_to_be_damaged_is_asked_for_the_next_time_and_healed() {
    let directory = tempfile::tempdir().unwrap();
    let blobs = open(directory.path()).await;
    let data = noise(1, 400_000);
    let blob = store(&blobs, "blog", &data).await;
    let list = chunks(&blobs, &blob).await;
    let pack = packs(directory.path(), "pack").remove(0);
    let mut bytes = std::fs::read(&pack).unwrap();
    bytes[1000] ^= 1;
    std::fs::File::options()
        .write(true)
        .open(&pack)
        .unwrap()
        .write_all(&bytes)
        .unwrap();
    let mut assembly = blobs.assemble("blog").await.unwrap();
    let named: Vec<Named> = list.iter().copied().map(Named::Held).collect();
    assembly.name(&named).await.unwrap();
    let error = assembly.next().await.unwrap_err();
    assert!(matches!(error, Error::NotHeld), "{error}");
    drop(assembly);

    assert_eq!(missing(&blobs, "blog", &list).await, 1);
    assemble(&blobs, "blog", &data, &list).await;
    assert_eq!(missing(&blobs, "blog", &list).await, 0);
    assert!(read(blobs.reader(blob.id).await.unwrap()).await.unwrap() == data);
}

#[tokio::test]
async fn what_was_in_a_pack_that_is_lost_is_asked_for_and_cannot_be_claimed() {
    let directory = tempfile::tempdir().unwrap();
    let blobs = open(directory.path()).await;
    let data = noise(1, 400_000);
    let blob = store(&blobs, "blog", &data).await;
    let list = chunks(&blobs, &blob).await;
    std::fs::remove_file(packs(directory.path(), "pack").remove(0)).unwrap();
    assert!(read(blobs.reader(blob.id).await.unwrap()).await.is_err());
    assert_eq!(missing(&blobs, "blog", &list).await, list.len());
    let mut assembly = blobs.assemble("blog").await.unwrap();
    refused(&mut assembly, Named::Held(list[0])).await;
    assemble(&blobs, "blog", &data, &list).await;
    assert!(read(blobs.reader(blob.id).await.unwrap()).await.unwrap() == data);
}

/// The largest distance between two distributions (Kolmogorov-Smirnov).
fn distance(mut one: Vec<Duration>, mut other: Vec<Duration>) -> f64 {
    one.sort_unstable();
    other.sort_unstable();
    let share = |all: &[Duration], limit: Duration| {
        let count = all.partition_point(|taken| *taken <= limit);
        f64::from(u32::try_from(count).unwrap()) / f64::from(u32::try_from(all.len()).unwrap())
    };
    one.iter()
        .chain(&other)
        .map(|limit| (share(&one, *limit) - share(&other, *limit)).abs())
        .fold(0.0, f64::max)
}

/// Two samples of ten thousand from one distribution are further apart than 0.028 once in a thousand times. One more
/// row that is looked up for the one kind, and not for the other, takes them to 0.2 and beyond.
const SAME: f64 = 0.06;

/// They take turns, and each turn begins with the other kind, so that whatever else the machine does falls on both
/// alike.
async fn compare(of_others: &[ChunkRef], mut probe: impl AsyncFnMut(ChunkRef)) -> f64 {
    const PROBES: usize = 10_000;
    let mut taken = [Vec::new(), Vec::new()];
    for n in 0..PROBES {
        let others = of_others[n % of_others.len()];
        let nobodys = ChunkRef {
            id: Digest::blake3(&n.to_le_bytes()),
            ..others
        };
        for turn in 0..2 {
            let kind = (n + turn) % 2;
            let chunk = [others, nobodys][kind];
            let begun = Instant::now();
            probe(chunk).await;
            taken[kind].push(begun.elapsed());
        }
    }
    let [others, nobody] = taken;
    distance(others, nobody)
}

#[tokio::test]
async fn ten_thousand_questions_and_claims_tell_nothing_of_what_others_hold() {
    let directory = tempfile::tempdir().unwrap();
    let blobs = open(directory.path()).await;
    let secret = store(&blobs, "shop", &noise(1, 20_000_000)).await;
    store(&blobs, "blog", &noise(2, 2_000_000)).await;
    let of_others = chunks(&blobs, &secret).await;

    let apart = compare(&of_others, async |chunk| {
        assert_eq!(blobs.missing("blog", &[chunk.id]).await.unwrap(), [true]);
    })
    .await;
    assert!(apart < SAME, "questions are {apart} apart");

    let mut assembly = blobs.assemble("blog").await.unwrap();
    let apart = compare(&of_others, async |chunk| {
        let claimed = assembly.name(&[Named::Held(chunk)]).await;
        assert!(matches!(claimed, Err(Error::NotHeld)));
    })
    .await;
    assert!(apart < SAME, "claims are {apart} apart");
}
