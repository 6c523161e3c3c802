//! Runs the real script of the shared limits on a simulated Redis with simulated time.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use mlua::{Function, Lua, MultiValue, Table};
use redis::Value;

use super::{SCRIPT, Share, ShareRequest, arguments, keys, share};
use crate::base::Time;

#[derive(Default)]
struct Data {
    /// Simulated time in microseconds.
    now: u64,
    hashes: HashMap<String, HashMap<String, String>>,
    sorted: HashMap<String, HashMap<String, f64>>,
}

/// One simulated server. It never expires a key, because every simulation is shorter than the lifetime of the keys.
pub(crate) struct SimulatedRedis {
    lua: Lua,
    script: Function,
    data: Rc<RefCell<Data>>,
}

impl SimulatedRedis {
    pub(crate) fn new() -> Self {
        let lua = Lua::new();
        let data = Rc::new(RefCell::new(Data::default()));
        let server = data.clone();
        let call = lua.create_function(move |lua, (name, words): (String, MultiValue)| {
            let words: Vec<String> = words
                .into_iter()
                .map(|word| word.to_string())
                .collect::<Result<_, _>>()?;
            server.borrow_mut().call(lua, &name, &words)
        });
        let redis = lua.create_table().unwrap();
        redis.set("call", call.unwrap()).unwrap();
        lua.globals().set("redis", redis).unwrap();
        let script = lua.load(SCRIPT).into_function().unwrap();
        Self { lua, script, data }
    }

    /// Changes a field of the only hash.
    pub(crate) fn set(&self, field: &str, value: &str) {
        let mut data = self.data.borrow_mut();
        let hash = data.hashes.values_mut().next().unwrap();
        hash.insert(field.to_owned(), value.to_owned());
    }

    /// Deletes all keys.
    pub(crate) fn empty(&self) {
        *self.data.borrow_mut() = Data::default();
    }

    pub(crate) fn exchange(&self, me: &str, requests: &[ShareRequest], now: Time) -> Vec<Share> {
        self.data.borrow_mut().now = now.as_nanos() / 1000;
        let exchange = |request: &ShareRequest| {
            let globals = self.lua.globals();
            globals.set("KEYS", keys(request).to_vec()).unwrap();
            globals.set("ARGV", arguments(me, request)).unwrap();
            let answer: Table = self.script.call(()).unwrap();
            share(Value::Array(answer.sequence_values().map(reply).collect())).unwrap()
        };
        requests.iter().map(exchange).collect()
    }
}

/// Converts a Lua value as Redis does: it truncates numbers to integers.
fn reply(value: mlua::Result<mlua::Value>) -> Value {
    match value.unwrap() {
        mlua::Value::Integer(number) => Value::Int(number),
        mlua::Value::Number(number) => Value::Int(number as i64),
        mlua::Value::Table(table) => Value::Array(table.sequence_values().map(reply).collect()),
        other => Value::BulkString(other.to_string().unwrap().into_bytes()),
    }
}

impl Data {
    fn call(&mut self, lua: &Lua, name: &str, words: &[String]) -> mlua::Result<mlua::Value> {
        let number = |at: usize| words[at].parse::<f64>().unwrap();
        let texts = |texts: Vec<Option<String>>| -> mlua::Result<mlua::Value> {
            let table = lua.create_table()?;
            for (at, text) in texts.into_iter().enumerate() {
                match text {
                    Some(text) => table.set(at + 1, text)?,
                    // Redis returns false for a missing value.
                    None => table.set(at + 1, false)?,
                }
            }
            Ok(mlua::Value::Table(table))
        };
        let key = words.first().cloned().unwrap_or_default();
        let done = match name {
            "TIME" => {
                let (seconds, micros) = (self.now / 1_000_000, self.now % 1_000_000);
                return texts(vec![Some(seconds.to_string()), Some(micros.to_string())]);
            }
            "HMGET" => {
                let hash = self.hashes.entry(key).or_default();
                return texts(
                    words[1..]
                        .iter()
                        .map(|field| hash.get(field).cloned())
                        .collect(),
                );
            }
            "HSET" => {
                let hash = self.hashes.entry(key).or_default();
                for pair in words[1..].chunks(2) {
                    hash.insert(pair[0].clone(), pair[1].clone());
                }
                1
            }
            "ZADD" => {
                let score = number(1);
                self.sorted
                    .entry(key)
                    .or_default()
                    .insert(words[2].clone(), score);
                1
            }
            "ZREMRANGEBYSCORE" => {
                assert_eq!(words[1], "-inf");
                let most = number(2);
                self.sorted
                    .entry(key)
                    .or_default()
                    .retain(|_, score| *score > most);
                1
            }
            "ZCARD" => self.sorted.entry(key).or_default().len() as i64,
            "DEL" => {
                self.sorted.remove(&key);
                1
            }
            "PEXPIRE" => 1,
            other => panic!("the script calls {other}, which is not simulated"),
        };
        Ok(mlua::Value::Number(done as f64))
    }
}
