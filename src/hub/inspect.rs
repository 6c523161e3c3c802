//! Reads the version and settings of Redis for `doctor`.

use super::{RedisHub, explain, talker};

/// Version and settings of Redis.
pub(crate) struct RedisState {
    /// Its version.
    pub version: String,
    /// Bytes that it may use; 0 for no limit.
    pub most_memory: u64,
    /// Eviction policy for full memory, for example `noeviction`.
    pub eviction: String,
}

impl RedisHub {
    /// Connects, and reads what Redis reports. The error says why it cannot be used.
    pub(crate) fn inspect(&self) -> Result<RedisState, String> {
        let shared = &self.0.shared;
        let info = talker::connect(shared)
            .and_then(|mut connection| redis::cmd("INFO").query::<String>(&mut connection));
        let info = info.map_err(|error| explain(&error))?;
        let of = |name: &str| {
            let lines = info.lines().map(str::trim_end);
            let mut values = lines.filter_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            values.next().unwrap_or_default().to_owned()
        };
        let version = match of("valkey_version") {
            none if none.is_empty() => format!("Redis {}", of("redis_version")),
            version => format!("Valkey {version}"),
        };
        Ok(RedisState {
            version,
            most_memory: of("maxmemory").parse().unwrap_or(0),
            eviction: of("maxmemory_policy"),
        })
    }
}
