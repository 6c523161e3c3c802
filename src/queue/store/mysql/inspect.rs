//! Checks the health of the tables and of the server.

use crate::base::{Error, Timestamp};
use crate::queue::store::HealthFinding;
use crate::queue::store::sql::health::{self, ListedWorker};
use crate::queue::store::sql::statements::Queries as _;

use super::MysqlStore;
use super::open::SCHEMA_VERSION;

impl MysqlStore {
    pub(super) fn look_at_health(&self, now: Timestamp) -> Result<Vec<HealthFinding>, Error> {
        let listed = self.listed()?;
        let (mut findings, resume_commands) = self.database.read_moment(|tx| {
            let version = tx.one(
                "SELECT value FROM #schema WHERE name = 'version'",
                Vec::new(),
            )?;
            let mut found = vec![health::schema(
                version.unwrap_or(0),
                SCHEMA_VERSION,
                "tables",
            )];
            let (others, resume_commands) = health::look(tx, now)?;
            found.extend(others);
            Ok((found, resume_commands))
        })?;
        findings.extend(self.look_at_server()?);
        let workers = listed.iter().map(|worker| ListedWorker {
            pid: worker.pid,
            host: &worker.host,
            is_dead: worker.is_dead,
        });
        let of_dead = "has died, or cannot reach the database";
        findings.extend(health::workers(workers, of_dead, &resume_commands));
        Ok(findings)
    }
}
