//! The lock of a consumer of results: it has a lease on the process, so that no two consumers save the same results.

use uuid::Uuid;

use crate::base::host::host;
use crate::base::{Error, ErrorKind, ProcessId};
use crate::queue::store::ConsumerLock;
use crate::queue::store::sql::statements::stored;

use super::MysqlStore;
use super::lease::Release;
use super::writer::{Again, CLOCK, Queries as _, Statements as _, by};

struct HeldLease {
    _release: Release,
}

impl ConsumerLock for HeldLease {}

impl MysqlStore {
    pub(super) fn lease_outcomes(
        &self,
        process: ProcessId,
        who: &str,
    ) -> Result<Box<dyn ConsumerLock>, Error> {
        let token = Uuid::now_v7().as_bytes().to_vec();
        let mine = format!("process {} on {}{who}", std::process::id(), host());
        let until = self.heartbeat.until();
        self.write(Again::Harmless, |tx| {
            let find = format!(
                "SELECT who, lease_until > {CLOCK}, token FROM #takers WHERE process = ? FOR UPDATE"
            );
            if let Some(mut taker) = tx.first(&find, by![stored(process)])?
                && taker.at::<bool>(1)?
                && taker.at::<Vec<u8>>(2)? != token
            {
                let by: String = taker.at(0)?;
                let why = format!(
                    "{by} is fetching the results of process {process}; when it has ended, run the same command \
                     to fetch the rest"
                );
                return Err(Error::new(ErrorKind::Transient, why).into());
            }
            tx.run(
                &format!(
                    "INSERT INTO #takers (process, token, who, lease_until) VALUES (?, ?, ?, {until})
                     ON DUPLICATE KEY UPDATE token = VALUES(token), who = VALUES(who), lease_until = VALUES(lease_until)"
                ),
                by![stored(process), token.clone(), mine.clone()],
            )?;
            Ok(())
        })?;
        let held = HeldLease {
            _release: self.heartbeat.release(token.clone()),
        };
        self.heartbeat.add_taker(token)?;
        Ok(Box::new(held))
    }
}
