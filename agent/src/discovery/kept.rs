//! The last good answer for each of several names that one source asks for: a name that fails for a while must not lose its peers
//! only because another name answers.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How long an answer is used in the place of a failed one. Greeting an address where nobody is costs a datagram.
pub const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);
/// Names remembered at most; a service has more targets than this only by mistake.
const MOST: usize = 256;

/// Addresses, and since when they are known.
type Known = (Vec<SocketAddr>, Instant);

/// Answers by name.
#[derive(Default)]
pub struct Kept(Mutex<BTreeMap<String, Known>>);

impl Kept {
    /// Takes a good answer in, which is as old as its oldest part.
    pub fn keep(&self, name: &str, addresses: &[SocketAddr], since: Instant) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= MOST && !kept.contains_key(name) {
            let oldest = kept.iter().min_by_key(|(_, (_, since))| *since).map(|(name, _)| name.clone());
            oldest.and_then(|name| kept.remove(&name));
        }
        kept.insert(name.to_owned(), (addresses.to_vec(), since));
    }

    /// The last good answer, when there is one that is not too old and names anybody.
    pub fn last(&self, name: &str) -> Option<(Vec<SocketAddr>, Instant)> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.get(name).filter(|(found, since)| !found.is_empty() && since.elapsed() <= LONGEST).cloned()
    }
}

/// What is said beside an answer that takes the place of a failed one.
pub fn note(cause: &str, since: Instant) -> String {
    format!("{cause}; its answer of {} s ago stands", since.elapsed().as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_kept_for_a_day_and_names_are_bounded() {
        let (kept, one) = (Kept::default(), [SocketAddr::from(([10, 0, 0, 1], 1))]);
        kept.keep("a", &one, Instant::now());
        kept.keep("nobody", &[], Instant::now());
        tokio::time::sleep(LONGEST).await;
        assert_eq!(kept.last("a").unwrap().0, one);
        assert_eq!((kept.last("b"), kept.last("nobody")), (None, None));
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(kept.last("a"), None);
        for n in 0..1_000 {
            tokio::time::sleep(Duration::from_millis(1)).await;
            kept.keep(&n.to_string(), &one, Instant::now());
        }
        assert_eq!(kept.0.lock().unwrap().len(), MOST);
        assert!(kept.last("999").is_some() && kept.last("0").is_none(), "the oldest make room");
    }
}
