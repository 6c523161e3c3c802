//! Streaming against a raw listener.
