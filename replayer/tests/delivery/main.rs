//! Delivery over real sockets: what arrives, byte for byte, and how often, whatever the server does.

#[cfg(test)]
mod bytes_sent;
#[cfg(test)]
mod connections;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod https;
#[cfg(test)]
mod nginx;
#[cfg(test)]
mod repeats;
#[cfg(test)]
mod rules;
#[cfg(test)]
mod server;
