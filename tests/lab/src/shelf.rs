//! A web server on the lab's switch: the place from which a first boot downloads.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::net::{GATEWAY, Net};
use crate::wire::on_switch;

/// Files by the path under which they are asked for.
pub type Files = BTreeMap<String, PathBuf>;

/// Serves files to the hosts by plain HTTP until it is dropped.
#[derive(Debug)]
pub struct Shelf {
    /// Where it is reached, without a slash at the end.
    pub url: String,
    asked: Arc<Mutex<Vec<String>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Shelf {
    /// Begins to serve.
    ///
    /// # Errors
    /// The switch's namespace cannot be entered, or no port is to be had.
    pub fn open(net: &Net, files: Files) -> Result<Self> {
        let address: Ipv4Addr = GATEWAY.parse().context("the switch's address")?;
        Self::open_at(net, SocketAddrV4::new(address, 0), files)
    }

    /// As [`Shelf::open`], at an address of the switch and a port that callers know. It asks for no method: what is put is answered as
    /// what is got.
    ///
    /// # Errors
    /// As [`Shelf::open`], or the port is taken.
    pub fn open_at(net: &Net, at: SocketAddrV4, files: Files) -> Result<Self> {
        let listener = on_switch(net, || Ok(TcpListener::bind(at)?))?;
        let url = format!("http://{}", listener.local_addr().context("the shelf's address")?);
        listener.set_nonblocking(true).context("not to wait for callers")?;
        let mut shelf = Self { url, asked: Arc::default(), stop: Arc::default(), thread: None };
        let (asked, stop) = (Arc::clone(&shelf.asked), Arc::clone(&shelf.stop));
        let files = Arc::new(files);
        shelf.thread = Some(std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let Ok((caller, _)) = listener.accept() else {
                    std::thread::sleep(Duration::from_millis(20));
                    continue;
                };
                let (files, asked) = (Arc::clone(&files), Arc::clone(&asked));
                // A caller that goes away in the middle has only itself to blame.
                std::thread::spawn(move || drop(answer(&caller, &files, &asked)));
            }
        }));
        Ok(shelf)
    }

    /// The paths that were asked for, in their order.
    #[must_use]
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Shelf {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// One request, one answer: the whole file, also when a part is asked for, as a plain server may.
fn answer(caller: &TcpStream, files: &Files, asked: &Mutex<Vec<String>>) -> Result<()> {
    caller.set_nonblocking(false)?;
    caller.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut lines = BufReader::new(caller).lines();
    let request = lines.next().context("no request")??;
    while lines.next().context("half a request")??.trim() != "" {}
    let path = target(&request).to_owned();
    let body = files.get(&path).map(std::fs::read).transpose()?;
    asked.lock().unwrap_or_else(PoisonError::into_inner).push(path);
    let (status, body) = body.map_or(("404 Not Found", Vec::new()), |body| ("200 OK", body));
    let mut caller = caller;
    write!(
        caller,
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nContent-Type: application/octet-stream\r\nConnection: close\r\n\r\n",
        body.len()
    )?;
    if !request.starts_with("HEAD ") {
        caller.write_all(&body)?;
    }
    Ok(())
}

/// The path of a request line, percent-encoded plus signs of k3s's versions made plain.
fn target(request: &str) -> String {
    request.split(' ').nth(1).unwrap_or_default().replace("%2B", "+").replace("%2b", "+")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_is_what_was_asked_for() {
        assert_eq!(target("GET /v1.33.1%2Bk3s1/k3s HTTP/1.1"), "/v1.33.1+k3s1/k3s");
        assert_eq!(target(""), "");
    }
}
