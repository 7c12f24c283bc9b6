//! A list of addresses in a file, looked at again every few seconds.

use std::path::PathBuf;

use async_trait::async_trait;

use super::pace::Pace;
use super::{Failure, Found, Origin, Scene, Source, lines};
use crate::edge::fs;

pub(super) struct File {
    pub(super) path: PathBuf,
    pub(super) port: u16,
}

#[async_trait]
impl Source for File {
    fn name(&self) -> String {
        "file".to_owned()
    }

    fn origin(&self) -> Origin {
        Origin::Kept
    }

    fn pace(&self) -> Pace {
        Pace::of(2_000, 500, 2, 10)
    }

    async fn look(&mut self, _scene: &Scene) -> Result<Found, Failure> {
        let (path, shown) = (self.path.clone(), self.path.display().to_string());
        let read = tokio::task::spawn_blocking(move || fs::read_start(&path, lines::MOST_BYTES)).await;
        let text = match read {
            Ok(Ok(Some(text))) => text,
            // A list that somebody has not written yet says nothing about peers.
            Ok(Ok(None)) => return Err(Failure::new(format!("{shown} is not there"))),
            Ok(Err(error)) => return Err(Failure::new(format!("{shown}: {error}"))),
            Err(error) => return Err(Failure::new(format!("{shown}: {error}"))),
        };
        lines::parse(&text, self.port).map_err(|failure| Failure::new(format!("{shown}: {}", failure.cause)))
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::{mpsc, watch};

    use super::*;

    #[tokio::test]
    async fn a_list_is_read_anew_at_each_look_and_one_that_cannot_be_read_is_no_answer() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("peers");
        let mut source = File { path: path.clone(), port: 7846 };
        let scene = Scene {
            own: "10.0.0.1:7846".parse().unwrap(),
            enough: watch::channel(false).1,
            tell: mpsc::unbounded_channel().0,
        };
        let shown = path.display();
        let cause = source.look(&scene).await.unwrap_err().cause;
        assert_eq!(cause, format!("{shown} is not there"));
        let write = |text: &str| fs::write_atomic(&path, text.as_bytes(), 0o644).unwrap();
        write("10.0.0.2\n");
        let found = source.look(&scene).await.unwrap();
        assert_eq!(found.addresses, ["10.0.0.2:7846".parse().unwrap()]);
        // Replaced, as whoever keeps the list does it.
        write("10.0.0.3:9\n# nobody else\nnoise\n");
        let found = source.look(&scene).await.unwrap();
        assert_eq!(found.addresses, ["10.0.0.3:9".parse().unwrap()]);
        assert!(found.note.unwrap().contains("noise"));
        // An empty list says that there is nobody; noise alone says nothing.
        write("");
        assert_eq!(source.look(&scene).await.unwrap(), Found::default());
        write("noise\n");
        let cause = source.look(&scene).await.unwrap_err().cause;
        assert!(cause.starts_with(&format!("{shown}: ")) && cause.contains("noise"), "{cause}");
        let mut directory_as_file = File { path: directory.path().to_owned(), port: 7846 };
        assert!(directory_as_file.look(&scene).await.is_err());
    }
}
