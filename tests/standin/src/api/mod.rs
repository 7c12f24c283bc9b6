//! The few Kubernetes objects that are served, stored under `/registry` as the apiserver does (but as JSON).

pub mod objects;
pub mod patch;
pub mod resources;
pub mod rest;

use serde_json::{Value, json};

/// A Kubernetes Status for a failed request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// HTTP status.
    pub code: u16,
    /// Machine-readable reason.
    pub reason: &'static str,
    /// Text for people.
    pub message: String,
}

impl Failure {
    /// With the reason that belongs to the code.
    pub fn new(code: u16, message: impl Into<String>) -> Self {
        let reason = match code {
            400 => "BadRequest",
            401 => "Unauthorized",
            403 => "Forbidden",
            404 => "NotFound",
            405 => "MethodNotAllowed",
            409 => "Conflict",
            415 => "UnsupportedMediaType",
            422 => "Invalid",
            429 => "TooManyRequests",
            503 => "ServiceUnavailable",
            504 => "Timeout",
            _ => "InternalError",
        };
        Self { code, reason, message: message.into() }
    }

    /// A failure of the store, as the apiserver reports it.
    pub fn store(error: &str) -> Self {
        if error.contains("deadline") || error.contains("timed out") {
            return Self::new(
                504,
                format!("Timeout: request did not complete within requested timeout - {error}"),
            );
        }
        Self::new(500, error)
    }

    /// The body.
    pub fn body(&self) -> Value {
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
               "message": self.message, "reason": self.reason, "code": self.code})
    }
}
