use super::*;
use crate::store::{Operation, memory};

fn put(n: u64) -> Transaction {
    Transaction::put(Key::new(format!("/{}", n % 3)), n.to_string().into())
}

/// Works for so many appends, then never again.
struct FailingDisk(u32);

impl Log for FailingDisk {
    fn append(&mut self, _first: Index, _commands: &[Command]) -> Result<(), LogError> {
        self.0 = self.0.checked_sub(1).ok_or("no space left on device")?;
        Ok(())
    }

    fn checkpoint(&mut self, _index: Index, _checkpoint: &Checkpoint) -> Result<(), LogError> {
        Ok(())
    }
}

#[tokio::test]
async fn a_store_whose_log_failed_answers_unknown_and_then_nothing_more() {
    let recovered = Recovered { index: 0, state: Mvcc::default(), commands: vec![] };
    let store = start(recovered, Box::new(FailingDisk(1)), Uid::from("i"), Options::default()).unwrap();
    let mut watch = store.watch("/", 0).await.unwrap();
    assert_eq!(store.commit(put(1)).await, Ok(Outcome::Committed(1)));
    assert_eq!(store.commit(put(2)).await, Ok(Outcome::Unknown));
    let closed = Error::Closed("its log failed: no space left on device".into());
    assert_eq!(store.commit(put(3)).await, Err(closed.clone()));
    assert_eq!(store.get(&Key::new("/1")).await, Err(closed.clone()), "what it knows may not be what is on the disk");
    let mut last = None;
    while let Some(event) = futures::StreamExt::next(&mut watch).await {
        last = Some(event);
    }
    assert_eq!(last, Some(Err(closed)));
}

#[tokio::test]
async fn history_stays_bounded_though_nobody_compacts() {
    let by_revisions = Options { history_revisions_max: 10, ..Options::default() };
    let by_bytes = Options { history_bytes_max: 20, ..Options::default() };
    for options in [by_revisions, by_bytes] {
        let store = memory::open_with(options, Uid::from("i"));
        for n in 0..100 {
            store.commit(put(n)).await.unwrap();
        }
        let list = |at| List { prefix: "/".into(), after: None, limit: 0, at: Some(at) };
        assert!(matches!(store.list(list(80)).await, Err(Error::Compacted(_))));
        assert!(store.list(list(99)).await.is_ok());
    }
}

#[test]
fn conflicts_do_not_make_the_log_grow_for_ever() {
    /// Counts what the log still has to keep.
    #[derive(Default)]
    struct Kept {
        appended: Index,
        kept: Arc<RwLock<Index>>,
    }
    impl Log for Kept {
        fn append(&mut self, _first: Index, commands: &[Command]) -> Result<(), LogError> {
            self.appended += commands.len() as Index;
            *self.kept.write() += commands.len() as Index;
            Ok(())
        }
        fn checkpoint(&mut self, index: Index, _checkpoint: &Checkpoint) -> Result<(), LogError> {
            *self.kept.write() = self.appended - index;
            Ok(())
        }
    }
    let log = Kept::default();
    let kept = log.kept.clone();
    let recovered = Recovered { index: 0, state: Mvcc::default(), commands: vec![] };
    let options = Options { history_revisions_max: 10, ..Options::default() };
    let mut owner = Owner::new(recovered, Box::new(log), mpsc::channel(1).1, options).unwrap();
    for _ in 0..200 {
        let conflict = Transaction {
            compares: vec![super::super::Compare::Modified(Key::new("/none"), 1)],
            operations: vec![Operation::Delete(Key::new("/none"))],
        };
        owner.handle(vec![Event::Commit(conflict, oneshot::channel().0)]).unwrap();
        assert!(*kept.read() <= 22, "{} entries", kept.read());
    }
}
