//! Records in each kind of database: in a file, and on a server if `scripts/with-servers` provides one.

use batchwright::queue::Durability;

use super::Records;

/// Runs a test with each kind of database. The argument opens the records for one more server.
pub(crate) fn in_each_place(test: impl Fn(&dyn Fn() -> Records)) {
    let folder = tempfile::tempdir().unwrap();
    test(&|| Records::open(&folder.path().join("server.db"), Durability::Normal).unwrap());
    #[cfg(feature = "mysql")]
    match std::env::var("BATCHWRIGHT_TEST_MYSQL") {
        Ok(address) => test(&on_server(address)),
        Err(_) => {
            eprintln!("skipped: BATCHWRIGHT_TEST_MYSQL names no server; see scripts/with-servers")
        }
    }
}

#[cfg(feature = "mysql")]
fn on_server(address: String) -> impl Fn() -> Records {
    use batchwright::ProcessId;
    use batchwright::queue::{MysqlOptions, MysqlStore};
    use batchwright::unstable::MysqlTables;
    let tables = format!("r_{}", ProcessId::new().to_string().replace('-', ""));
    move || {
        let options = MysqlOptions::new(&address).tables(&tables).connections(4);
        let store = std::sync::Arc::new(MysqlStore::open(options).unwrap());
        Records::shared(MysqlTables::of(&store).unwrap())
    }
}
