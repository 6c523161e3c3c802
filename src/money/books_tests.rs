use super::*;

fn charge(day: i32, model: &str, picos: u64) -> Charge {
    Charge::new(
        Day(day),
        ChargeSum::call([10, 4, 3], Some(Usd::from_picos(picos))),
    )
    .provider("openai")
    .model(Some(model.to_owned()))
    .key(Some("0a1b".to_owned()))
}

fn all(folder: &Path) -> Ledger {
    let (ledger, unreadable) = RunBook::read_all(folder, &BTreeSet::new()).unwrap();
    assert!(unreadable.is_empty(), "{unreadable:?}");
    ledger
}

fn files(folder: &Path) -> usize {
    fs::read_dir(folder).unwrap().count()
}

#[test]
fn runs_of_an_output_share_a_book_and_others_have_their_own() {
    let folder = tempfile::tempdir().unwrap();
    let books = folder.path().join("ledger");
    assert_eq!(all(&books), Ledger::new());
    let output = folder.path().join("out \"1\".jsonl");
    for _ in 0..2 {
        let book = RunBook::new(&books, Some(&output));
        for day in 0..10 {
            book.book(charge(day, "a", 1));
            book.book(charge(day, "b", u64::MAX / 100));
            book.book(charge(day, "a", 2));
        }
        assert_eq!(files(&books), 1);
    }
    let first = RunBook::new(&books, Some(&output));
    first.book(charge(0, "a", 5));
    // Another program with the same output, and two with standard output.
    RunBook::new(&books, Some(&output)).book(charge(0, "a", 7));
    RunBook::new(&books, None).book(charge(0, "a", 11));
    RunBook::new(&books, None).book(charge(0, "a", 13));
    first.book(charge(0, "a", 17));
    assert_eq!(files(&books), 4);
    let ledger = all(&books);
    let total = ledger.total();
    assert_eq!(total.calls, 65);
    assert_eq!(total.cost_usd.picos(), 60 + 20 * (u64::MAX / 100) + 53);
    let run = resolved(&output, 0).unwrap().to_string_lossy().into_owned();
    let of_run = ledger
        .charges()
        .filter(|charge| charge.run.as_ref() == Some(&run));
    assert_eq!(of_run.map(|charge| charge.sum.calls).sum::<u64>(), 63);
}

#[test]
fn names_of_any_length_and_kind_fit_into_a_record() {
    let folder = tempfile::tempdir().unwrap();
    let book = RunBook::new(folder.path(), None);
    for name in ["\u{1}\"\\\n".repeat(400), "ä".repeat(400), "🦀".repeat(400)] {
        let odd = Charge {
            provider: name.clone(),
            tier: name.clone(),
            ..charge(0, &name, 1)
        };
        let odd = odd.key(Some(name));
        assert_eq!(line(&odd).len(), RECORD);
        book.book(odd);
    }
    assert_eq!(all(folder.path()).total().calls, 3);
}

#[test]
fn a_book_that_a_killed_program_left_is_continued() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out.jsonl");
    let books = folder.path().join("ledger");
    RunBook::new(&books, Some(&output)).book(charge(0, "a", 1));
    let path = RunBook::new(&books, Some(&output)).path;
    let whole = fs::read_to_string(&path).unwrap();
    // Killed while it began.
    fs::write(&path, &whole[..100]).unwrap();
    RunBook::new(&books, Some(&output)).book(charge(0, "a", 2));
    assert_eq!(all(&books).total().cost_usd.picos(), 2);
    // A file that is damaged or belongs to another program is left alone, and another one takes its place.
    fs::write(&path, "x".repeat(5_000)).unwrap();
    RunBook::new(&books, Some(&output)).book(charge(0, "a", 4));
    let (found, unreadable) = RunBook::read_all(&books, &BTreeSet::new()).unwrap();
    assert_eq!(unreadable, [path]);
    assert_eq!(found.total().cost_usd.picos(), 4);
}

#[test]
fn damaged_records_are_skipped_and_the_book_is_continued() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out.jsonl");
    let books = folder.path().join("ledger");
    let open = || RunBook::new(&books, Some(&output));
    let book = open();
    for (model, picos) in [("a", 1), ("b", 2), ("c", 4), ("d", 8)] {
        book.book(charge(0, model, picos));
    }
    let path = book.path.clone();
    drop(book);
    let mut bytes = fs::read(&path).unwrap();
    let start = bytes.len() - 4 * RECORD;
    bytes[start + RECORD..start + 3 * RECORD].fill(0);
    fs::write(&path, bytes).unwrap();
    // The second one reads what the first one has written.
    for _ in 0..2 {
        open().book(charge(0, "b", 16));
        open().book(charge(0, "d", 32));
    }
    let (found, unreadable) = RunBook::read_all(&books, &BTreeSet::new()).unwrap();
    assert_eq!(found.total().cost_usd.picos(), 1 + 8 + 2 * (16 + 32));
    assert_eq!((unreadable, files(&books)), (vec![path], 1));
}

#[test]
fn a_book_without_locks_is_used() {
    let unsupported = io::Error::from(IoErrorKind::Unsupported);
    assert!(!is_in_use(Err(TryLockError::Error(unsupported))));
    assert!(is_in_use(Err(TryLockError::WouldBlock)));
    assert!(!is_in_use(Ok(())));
}

/// The other file can be opened only later: it keeps its name.
#[test]
fn the_file_that_takes_the_place_of_another_is_named_once() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out.jsonl");
    let books = folder.path().join("ledger");
    let first = RunBook::new(&books, Some(&output));
    first.book(charge(0, "a", 1));
    let second = RunBook::new(&books, Some(&output));
    let blocked = books.join("blocked.jsonl");
    fs::create_dir(&blocked).unwrap();
    second.state.lock().other = Some(blocked.clone());
    second.book(charge(0, "a", 2));
    fs::remove_dir(&blocked).unwrap();
    second.book(charge(0, "a", 4));
    assert!(blocked.is_file());
    assert_eq!((files(&books), all(&books).total().calls), (2, 3));
}

#[test]
fn what_could_not_be_written_is_written_later() {
    let folder = tempfile::tempdir().unwrap();
    let books = folder.path().join("ledger");
    // A file where the folder should be.
    fs::write(&books, "").unwrap();
    let book = RunBook::new(&books, None);
    book.book(charge(0, "a", 1));
    book.book(charge(0, "b", 2));
    fs::remove_file(&books).unwrap();
    book.book(charge(0, "a", 4));
    assert_eq!(all(&books).total().cost_usd.picos(), 7);
}

#[test]
fn the_book_of_a_queue_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    for calls in 1..4 {
        let charges = (0..calls).map(|at| charge(0, "a", 1).run(Some(at.to_string())));
        let ledger: Ledger = charges.collect();
        RunBook::replace(folder.path(), "store", "out.jsonl", &ledger).unwrap();
        let read = all(folder.path());
        assert_eq!(read.total().calls, calls);
        assert_eq!(read.charges().count(), 1);
    }
    let none = BTreeSet::from(["store".to_owned()]);
    let (read, _) = RunBook::read_all(folder.path(), &none).unwrap();
    assert_eq!(read, Ledger::new());
}

#[test]
fn a_record_that_is_written_again_has_the_form_of_the_first_time() {
    let odd = charge(3, "a \"model\"\n", u64::MAX).provider("é".repeat(MAX_NAME));
    for charge in [
        charge(0, "a", 0),
        odd,
        Charge::new(Day(0), ChargeSum::default()),
    ] {
        let first = line(&charge);
        let mut again = String::from("what was written before");
        Entry::from(charge).write(&mut again);
        assert_eq!(again, first);
    }
}
