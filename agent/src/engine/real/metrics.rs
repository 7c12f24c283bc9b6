//! The metrics of a running agent: the latest status, served where the configuration says.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::watch;

use crate::core::Why;
use crate::edge::serve::{PATH, Served};
use crate::report::{Status, metrics};

/// Serves what it was shown last; nothing when it has no address.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    served: Option<(watch::Sender<Option<Status>>, Served)>,
}

impl Metrics {
    /// Begins to serve. Must be called within a runtime.
    pub(crate) fn begin(listen: Option<SocketAddr>) -> Self {
        let Some(listen) = listen else { return Self::default() };
        tracing::info!(%listen, path = PATH, "metrics");
        let (sender, receiver) = watch::channel(None);
        let page = move || receiver.borrow().as_ref().map(metrics::text).unwrap_or_default();
        Self { served: Some((sender, Served::begin(listen, Arc::new(page)))) }
    }

    /// Shows a status.
    pub(crate) fn show(&self, status: &Status) {
        if let Some((sender, _)) = &self.served {
            sender.send_replace(Some(status.clone()));
        }
    }

    /// Why they are not served, if they should be.
    pub(crate) fn why(&self) -> Option<Why> {
        let (_, served) = self.served.as_ref()?;
        let next = "free the port, or set metrics-listen; tried again by itself";
        Some(Why::new("metrics-not-served", served.failure()?, next))
    }
}
