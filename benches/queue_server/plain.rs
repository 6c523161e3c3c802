//! A minimal queue in a database: two tables, groups of 100 jobs, one transaction per group.

use mysql::prelude::Queryable;
use mysql::{Conn, Value};

use super::{GROUP, PAYLOAD};

fn connect(address: &str) -> Conn {
    let mut conn = Conn::new(address).expect("the server is there");
    conn.query_drop("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
        .expect("the server knows it");
    conn
}

fn values(rows: usize, row: &str) -> String {
    vec![row; rows].join(",")
}

/// Creates the tables again.
pub fn create(address: &str) {
    let mut conn = connect(address);
    for sql in [
        "DROP TABLE IF EXISTS plain_jobs, plain_results",
        "CREATE TABLE plain_jobs (id BIGINT AUTO_INCREMENT PRIMARY KEY, status INT NOT NULL DEFAULT 0,
           body LONGTEXT NOT NULL, KEY (status, id)) ENGINE=InnoDB",
        "CREATE TABLE plain_results (job BIGINT PRIMARY KEY, body LONGTEXT NOT NULL) ENGINE=InnoDB",
    ] {
        conn.query_drop(sql).expect("the tables can be made");
    }
}

/// Adds jobs in groups.
pub fn enqueue(address: &str, jobs: usize) {
    let mut conn = connect(address);
    let sql = format!(
        "INSERT INTO plain_jobs (body) VALUES {}",
        values(GROUP, "(?)")
    );
    let body = "x".repeat(PAYLOAD);
    for _ in 0..jobs / GROUP {
        let rows: Vec<Value> = vec![Value::from(&body); GROUP];
        conn.exec_drop(&sql, rows).expect("there is room");
    }
}

/// Takes groups until the queue is empty, and completes each in the transaction that took it.
pub fn work(address: &str) {
    let mut conn = connect(address);
    loop {
        match group(&mut conn) {
            Ok(true) => {}
            Ok(false) => return,
            // A deadlock: the server has rolled the group back.
            Err(mysql::Error::MySqlError(error)) if error.code == 1213 => {}
            Err(error) => panic!("{error}"),
        }
    }
}

/// Returns false if the queue is empty.
fn group(conn: &mut Conn) -> Result<bool, mysql::Error> {
    conn.query_drop("BEGIN")?;
    let take = format!(
        "SELECT id, body FROM plain_jobs WHERE status = 0 ORDER BY id LIMIT {GROUP} FOR UPDATE SKIP LOCKED"
    );
    let jobs: Vec<(i64, String)> = conn.query(take)?;
    if jobs.is_empty() {
        conn.query_drop("COMMIT")?;
        return Ok(false);
    }
    let ids: Vec<String> = jobs.iter().map(|(id, _)| id.to_string()).collect();
    let ids = ids.join(",");
    conn.query_drop(format!(
        "UPDATE plain_jobs SET status = 1 WHERE id IN ({ids})"
    ))?;
    conn.query_drop(format!("DELETE FROM plain_jobs WHERE id IN ({ids})"))?;
    let rows = jobs
        .iter()
        .flat_map(|(id, _)| [Value::from(*id), Value::from("null")]);
    let rows: Vec<Value> = rows.collect();
    let save = format!(
        "INSERT INTO plain_results (job, body) VALUES {}",
        values(jobs.len(), "(?, ?)")
    );
    conn.exec_drop(save, rows)?;
    conn.query_drop("COMMIT")?;
    Ok(true)
}

/// Number of jobs with a result.
pub fn results(address: &str) -> u64 {
    let mut conn = connect(address);
    let count = conn.query_first("SELECT COUNT(*) FROM plain_results");
    count.expect("the server is there").unwrap_or(0)
}
