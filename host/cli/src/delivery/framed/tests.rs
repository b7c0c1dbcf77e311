#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use super::*;

fn chunk(data: &[u8]) -> ChunkRef {
    ChunkRef {
        id: Digest::blake3(data),
        bytes: u32::try_from(data.len()).unwrap(),
    }
}

fn read() -> Whole {
    Whole::Read(Box::default())
}

fn number(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

async fn all(framed: &Arc<Framed>, from: u64) -> Vec<u8> {
    let mut package = framed.package(from).unwrap();
    let mut bytes = Vec::new();
    while let Some(part) = package.parts.recv().await {
        bytes.extend_from_slice(&part.unwrap());
    }
    assert_eq!(package.bytes, Some(bytes.len() as u64));
    bytes
}

#[tokio::test]
async fn what_is_missing_is_in_the_frames_and_what_is_held_only_in_the_list() {
    let held = vec![1; 50_000];
    let text = b"again and again ".repeat(5_000);
    let noise = noise(0, 200_000);
    let mut framing = Framing::new(read()).unwrap();
    let mut package = Vec::new();
    for (data, missing) in [
        (&held, false),
        (&text, true),
        (&noise, true),
        (&held, false),
    ] {
        framing
            .push(chunk(data), data, missing.then_some(&[]))
            .unwrap();
        package.extend_from_slice(data);
    }
    let params = ChunkerParams::default();
    let framed = Arc::new(framing.finish(&params, "application/x-tar").unwrap());
    assert_eq!(framed.spared(), 100_000);
    assert_eq!(
        framed.digest(),
        Some(blake3::hash(&package).to_hex().as_str())
    );

    let bytes = all(&framed, 0).await;
    assert_eq!(bytes.len() as u64, framed.bytes());
    assert!(bytes.starts_with(&MAGIC));
    assert_eq!(number(&bytes, 8), VERSION);
    let list = 16 + number(&bytes, 12) as usize;
    let head: serde_json::Value = serde_json::from_slice(&bytes[16..list]).unwrap();
    assert_eq!(
        (&head["chunks"], &head["bytes"]),
        (&json!(4), &json!(package.len()))
    );
    let words: Vec<u32> = (0..4).map(|n| number(&bytes, list + 36 * n)).collect();
    let (text_bytes, noise_bytes) = (chunk(&text).bytes, chunk(&noise).bytes);
    assert_eq!(
        words,
        [50_000 | HELD, text_bytes, noise_bytes, 50_000 | HELD]
    );
    assert_eq!(bytes[list + 4..list + 36], *chunk(&held).id.as_bytes());
    let frame = list + 4 * 36;
    let (raw, stored) = (number(&bytes, frame), number(&bytes, frame + 4) as usize);
    assert_eq!(raw, text_bytes + noise_bytes);
    assert_eq!(frame + 8 + stored, bytes.len());
    let decoded = zstd::bulk::decompress(&bytes[frame + 8..], raw as usize).unwrap();
    assert!(decoded == [&text[..], &noise].concat());

    // The same from any byte on: in the list, at its end, in a frame, at the end.
    for from in [1, 20, frame, frame + 1, bytes.len() - 1, bytes.len()] {
        assert!(all(&framed, from as u64).await == bytes[from..], "{from}");
    }
}

#[tokio::test]
async fn frames_end_with_whole_chunks_and_are_no_longer_than_a_server_reads() {
    let mut framing = Framing::new(read()).unwrap();
    for n in 0..9_u8 {
        let data = noise(n, 250_000);
        framing.push(chunk(&data), &data, Some(&[])).unwrap();
    }
    let framed = framing.finish(&ChunkerParams::default(), "x").unwrap();
    let framed = Arc::new(framed);
    let bytes = all(&framed, 0).await;
    let mut at = 16 + number(&bytes, 12) as usize + 9 * 36;
    let mut frames = Vec::new();
    while at < bytes.len() {
        frames.push(number(&bytes, at));
        at += 8 + number(&bytes, at + 4) as usize;
    }
    assert_eq!(frames, [4 * 250_000, 4 * 250_000, 250_000]);
}

/// So many bytes that do not compress.
fn noise(seed: u8, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&[seed]).finalize_xof().fill(&mut bytes);
    bytes
}

#[tokio::test]
async fn a_run_is_one_line_and_its_chunks_are_in_the_lists_digest() {
    let (first, second, read) = (vec![1; 20_000], vec![2; 30_000], vec![3; 40_000]);
    let base = Digest::blake3(b"the base");
    let mut framing = Framing::new(Whole::LikeThis(base)).unwrap();
    framing.push_run(7, &[chunk(&first), chunk(&second)]);
    framing.push(chunk(&read), &read, Some(&[])).unwrap();
    let params = ChunkerParams::default();
    let framed = Arc::new(framing.finish(&params, "application/x-tar").unwrap());
    assert_eq!((framed.spared(), framed.digest()), (50_000, None));

    let bytes = all(&framed, 0).await;
    let lines = 16 + number(&bytes, 12) as usize;
    let head: serde_json::Value = serde_json::from_slice(&bytes[16..lines]).unwrap();
    assert_eq!(
        (&head["chunks"], &head["bytes"]),
        (&json!(2), &json!(90_000))
    );
    assert_eq!(head["base"], json!(base.to_string()));
    let mut list = blake3::Hasher::new();
    for data in [&first, &second, &read] {
        list.update(&chunk(data).bytes.to_le_bytes());
        list.update(chunk(data).id.as_bytes());
    }
    assert_eq!(head["list"], json!(list.finalize().to_hex().as_str()));
    assert_eq!(number(&bytes, lines), HELD | 1 << 30 | 2);
    assert_eq!(bytes[lines + 4..lines + 12], 7_u64.to_le_bytes());
    assert_eq!(bytes[lines + 12..lines + 36], [0; 24]);
    assert_eq!(number(&bytes, lines + 36), 40_000);
}

#[tokio::test]
async fn what_the_base_has_of_a_chunk_that_is_sent_is_named_by_its_place() {
    let mut framing = Framing::new(Whole::LikeThis(Digest::blake3(b"the base"))).unwrap();
    let (first, second) = (noise(1, 30_000), noise(2, 20_000));
    let copied = |at, place, bytes| Copied { at, place, bytes };
    let (one, two) = (
        [copied(0, 700, 10_000), copied(10_100, 99, 512)],
        [copied(50, 5, 19_000)],
    );
    framing.push(chunk(&first), &first, Some(&one)).unwrap();
    framing.push(chunk(&second), &second, Some(&two)).unwrap();
    let params = ChunkerParams::default();
    let framed = Arc::new(framing.finish(&params, "application/x-tar").unwrap());
    assert_eq!(framed.spared(), 29_512);

    let bytes = all(&framed, 0).await;
    let frame = 16 + number(&bytes, 12) as usize + 2 * 36;
    let (stored, recipe) = (number(&bytes, frame + 4), number(&bytes, frame + 8));
    assert_eq!(number(&bytes, frame), PATCHED | 50_000);
    let stored = &bytes[frame + 12..frame + 12 + stored as usize];
    // It is noise: what is sent is stored as it is, if the numbers before it do not make up for that.
    let recipe = match stored.len() == recipe as usize {
        true => stored.to_vec(),
        false => zstd::bulk::decompress(stored, recipe as usize).unwrap(),
    };
    let mut expected = 4_u32.to_le_bytes().to_vec();
    for (sent, copied, place) in [
        (0_u32, 10_000_u32, 700_u64),
        (100, 512, 99),
        (30_000 - 10_612 + 50, 19_000, 5),
        (950, 0, 0),
    ] {
        expected.extend(sent.to_le_bytes());
        expected.extend(copied.to_le_bytes());
        expected.extend(place.to_le_bytes());
    }
    for part in [
        &first[10_000..10_100],
        &first[10_612..],
        &second[..50],
        &second[19_050..],
    ] {
        expected.extend(part);
    }
    assert!(recipe == expected);
}
