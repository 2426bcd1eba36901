//! A GET of a small page: an admin port's, etcd's health.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::place::Place;

const LIMIT: Duration = Duration::from_secs(5);

/// Status and body of `http://ADDRESS/PATH`, asked for from `place`.
///
/// # Errors
/// When nothing answers in time, or not in HTTP.
pub fn get(place: &Place, address: SocketAddr, path: &str) -> Result<(u16, String)> {
    place
        .enter(|| ask(address, path))?
        .with_context(|| format!("GET http://{address}{path}"))
}

// In HTTP/1.0 the body ends with the connection.
fn ask(address: SocketAddr, path: &str) -> Result<(u16, String)> {
    let mut connection = TcpStream::connect_timeout(&address, LIMIT)?;
    connection.set_read_timeout(Some(LIMIT))?;
    write!(connection, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP")?;
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    Ok((status.context("no status")?, body.to_owned()))
}
