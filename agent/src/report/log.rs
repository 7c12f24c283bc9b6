//! The log: standard error, which is the journal under systemd. `MUSTER_LOG` takes tracing's filter syntax.

use tracing_subscriber::EnvFilter;

/// Starts logging for the service. A second call changes nothing.
#[expect(clippy::disallowed_methods, reason = "the log's own filter is read before any configuration can be")]
pub fn begin() {
    let filter = std::env::var("MUSTER_LOG").unwrap_or_else(|_| "info,chitchat=warn".to_owned());
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new("info,chitchat=warn"));
    let built = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .without_time()
        .with_target(false);
    let _ = built.try_init();
}
