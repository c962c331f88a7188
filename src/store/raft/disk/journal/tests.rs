use super::{
    super::tests::{directory, noise, open, put, read_journal, write},
    *,
};
use crate::store::{Key, Operation, Store, Transaction};

/// What fjall makes of writes of every kind, and how many batches that is: founding, the leader's first entry, three writes,
/// the compaction, what it takes from the log, one more write. The last two may share one.
async fn real_journal() -> (Vec<u8>, usize) {
    let dir = directory();
    let store = open(dir.path()).unwrap();
    write(&*store, put("/a", "1")).await;
    write(&*store, put("/compressed", "x".repeat(6000))).await;
    let deletion = Operation::Delete(Key::new("/a"));
    write(&*store, Transaction { compares: vec![], operations: vec![deletion] }).await;
    store.compact(2).await.unwrap();
    write(&*store, put("/sectors", noise(1, 700))).await;
    let journal = read_journal(&dir);
    let batches = starts(&journal).len() - 1;
    assert!((7..=8).contains(&batches), "fjall writes what is understood here: {batches} batches");
    (journal, batches)
}

fn verdict(journal: &[u8]) -> End {
    end(journal, &mut None)
}

/// The layout in the module's documentation, written once more.
fn batch(sequence: u64, value: &[u8]) -> Vec<u8> {
    let mut item = vec![ITEM, 0, 0];
    item.extend(1u64.to_le_bytes());
    item.extend(1u16.to_le_bytes());
    item.extend((value.len() as u32).to_le_bytes());
    item.extend((value.len() as u32).to_le_bytes());
    item.push(b'k');
    item.extend(value);
    let mut batch = vec![START];
    batch.extend(1u32.to_le_bytes());
    batch.extend(sequence.to_le_bytes());
    batch.extend(&item);
    batch.push(END);
    batch.extend(xxhash_rust::xxh3::xxh3_64(&item).to_le_bytes());
    batch.extend(TRAILER);
    batch
}

fn starts(journal: &[u8]) -> Vec<usize> {
    let mut starts = vec![0];
    while let Ok(batch) = Batch::read(&journal[*starts.last().unwrap()..]) {
        starts.push(starts.last().unwrap() + batch.length);
    }
    starts
}

#[tokio::test]
async fn every_flipped_bit_is_found_or_does_no_harm() {
    let (journal, batches) = real_journal().await;
    let starts = starts(&journal);
    assert_eq!(verdict(&journal), End::Whole);
    for bit in 0..journal.len() * 8 {
        let mut flipped = journal.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let n = starts.partition_point(|start| *start <= bit / 8) - 1;
        match verdict(&flipped) {
            End::Damaged { at, lost } => {
                // A sequence number that is too high makes the next batch the one that is out of order.
                assert!(at == starts[n] || at == starts[n + 1], "bit {bit}");
                assert!(lost > 0 && lost <= batches - n, "bit {bit}: {lost} lost of {}", batches - n);
            }
            End::Whole => assert!((5..13).contains(&(bit / 8 - starts[n])), "bit {bit} is not of a sequence number"),
            torn => panic!("bit {bit}: {torn:?}"),
        }
    }
}

#[tokio::test]
async fn what_follows_the_damage_is_counted() {
    let (mut journal, batches) = real_journal().await;
    let starts = starts(&journal);
    // The length of a key: all framing behind it is out of step.
    journal[starts[1] + 13 + 11] ^= 0x40;
    assert_eq!(verdict(&journal), End::Damaged { at: starts[1], lost: batches - 1 });
}

#[tokio::test]
async fn a_journal_may_end_anywhere_in_its_last_batch() {
    let (journal, _) = real_journal().await;
    let starts = starts(&journal);
    for length in 0..journal.len() {
        let used = journal[..length].iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        let last = starts.partition_point(|start| *start <= length) - 1;
        let expected = if starts[last] == length { End::Whole } else { End::Torn { at: starts[last] } };
        assert_eq!(verdict(&journal[..used]), expected, "{length} bytes");
    }
}

#[test]
fn any_sectors_of_the_last_batch_may_be_missing() {
    for offset in 0..SECTOR_BYTES {
        let first = batch(1, &[7; 2 * SECTOR_BYTES][..SECTOR_BYTES + offset]);
        let whole = [first.clone(), batch(2, &[7; 3 * SECTOR_BYTES / 2])].concat();
        let sectors = whole.len().div_ceil(SECTOR_BYTES) - first.len() / SECTOR_BYTES;
        for lost in 1..1 << sectors {
            let mut torn = whole.clone();
            for (n, sector) in torn.chunks_mut(SECTOR_BYTES).skip(first.len() / SECTOR_BYTES).enumerate() {
                if lost & 1 << n != 0 {
                    sector.fill(0);
                }
            }
            torn[..first.len()].copy_from_slice(&first);
            torn.truncate(torn.iter().rposition(|byte| *byte != 0).unwrap() + 1);
            let expected = match torn.len() == first.len() {
                true => End::Whole,
                // All there but for a start of one byte: no telling whether that was ever written.
                false if lost == 1 && first.len() % SECTOR_BYTES == SECTOR_BYTES - 1 => {
                    End::Damaged { at: first.len(), lost: 1 }
                }
                false => End::Torn { at: first.len() },
            };
            assert_eq!(verdict(&torn), expected, "offset {offset}, lost {lost:b}");
        }
    }
}

#[test]
fn sequence_numbers_only_rise() {
    let three = |second| [batch(4, b"1"), batch(second, b"2"), batch(8, b"3")].concat();
    let length = batch(4, b"1").len();
    assert_eq!(verdict(&three(6)), End::Whole);
    assert_eq!(verdict(&three(4)), End::Damaged { at: length, lost: 2 });
    assert_eq!(verdict(&three(9)), End::Damaged { at: 2 * length, lost: 1 });
    assert_eq!(verdict(&batch(1 << 63, b"1")), End::Damaged { at: 0, lost: 1 });
}

#[test]
fn only_the_newest_journal_may_be_torn() {
    let dir = directory();
    fs::write(dir.path().join("lock"), "").unwrap();
    let journals = |older: &[u8], newer: &[u8]| {
        fs::write(dir.path().join("9.jnl"), older).unwrap();
        fs::write(dir.path().join("10.jnl"), newer).unwrap();
        match check(dir.path()) {
            Ok(()) => None,
            Err(Refusal::Damaged(damage)) => Some(damage),
            Err(_) => panic!("neither sound nor damaged"),
        }
    };
    let (first, second) = (batch(1, b"1"), batch(2, b"2"));
    let torn = &second[..20];
    assert_eq!(journals(&first, torn), None);
    assert_eq!(fs::metadata(dir.path().join("10.jnl")).unwrap().len(), 0, "what is torn is cut off");
    assert_eq!(journals(torn, &second), Some(Damage { journal: "9.jnl".into(), at: 0, lost: 1 }));
    assert_eq!(journals(&second, &first), Some(Damage { journal: "10.jnl".into(), at: 0, lost: 1 }));
}

#[test]
fn zeros_after_the_last_byte_are_not_read() {
    let dir = directory();
    let path = dir.path().join("0.jnl");
    for length in [0, 1, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 3 * PIECE_BYTES] {
        let mut bytes = vec![0; length];
        if length > 0 {
            bytes[0] = 1;
            bytes[length - 1] = 1;
        }
        fs::write(&path, [&bytes[..], &[0; PIECE_BYTES + 9]].concat()).unwrap();
        assert!(used(&path).unwrap() == bytes, "{length} bytes");
    }
}
