//! A target's idle connections.
//!
//! What enters: connections after a whole response. What leaves: the one that was used last, if the server still
//! keeps it; or the session's own, where each has one. What may be lost: idle connections, which cost a new one: past the
//! bound, too old, or closed by the server.
//!
//! A server may close an idle connection at the moment in which a request sets out on it, and nobody can tell then
//! whether the request arrived. Hence the rules for requests that must not be repeated, in [`Pool::take`].

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use foldhash::HashMap;
use tokio::time::Instant;

use crate::connection::Connection;

/// A request that must not be repeated takes no connection that was idle for longer.
const UNREPEATABLE_IDLE: Duration = Duration::from_secs(1);

/// After a server closed a connection without a word, such requests are careful for this time.
const DISTRUST: Duration = Duration::from_secs(30);

/// Being careful: a connection that is open this long after its last response was not closed with it.
const SETTLED: Duration = Duration::from_millis(50);

/// Sessions' own connections that are kept.
const OWN: usize = 1 << 14;

/// A session that is silent for this long gets a new one, whatever the server promised.
const OWN_IDLE: Duration = Duration::from_secs(60);

/// How often connections that nobody takes are looked at.
const SWEEP: Duration = Duration::from_secs(1);

/// Idle connections of one target.
#[derive(Debug)]
pub(crate) struct Pool {
    bound: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The last used at the back.
    idle: VecDeque<Connection>,
    /// By session.
    own: HashMap<u64, Connection>,
    distrusted_until: Option<Instant>,
    is_swept: bool,
}

impl Pool {
    /// A pool that keeps at most `bound` idle connections.
    pub(crate) fn new(bound: usize) -> Arc<Pool> {
        Arc::new(Pool {
            bound,
            state: Mutex::default(),
        })
    }

    /// The connection that was used last, if it can carry another request. A request that is not `repeatable`
    /// gets only one that was idle for less than a second; and of a server that closes without a word,
    /// only one that is seen to have outlived its last response.
    pub(crate) fn take(&self, repeatable: bool) -> Option<Connection> {
        loop {
            let now = Instant::now();
            let mut connection = {
                let mut state = self.lock();
                let is_careful = state.distrusted_until.is_some_and(|until| now < until);
                let least = if is_careful { SETTLED } else { Duration::ZERO };
                let fits = |idle| repeatable || (least..UNREPEATABLE_IDLE).contains(&idle);
                let at = state.idle.iter().rposition(|c| fits(c.idle(now)))?;
                state.idle.remove(at)?
            };
            if connection.is_expired(now) {
                continue;
            }
            if connection.is_quiet() {
                return Some(connection);
            }
            if connection.idle(now) < UNREPEATABLE_IDLE {
                self.distrust();
            }
        }
    }

    /// The connection of a session, if it can carry another request. One that is not `repeatable` gets none that was idle
    /// for longer than servers keep them.
    pub(crate) fn take_own(&self, session: u64, repeatable: bool) -> Option<Connection> {
        let now = Instant::now();
        let mut connection = self.lock().own.remove(&session)?;
        let is_old = connection.idle(now) >= OWN_IDLE;
        let is_doubtful = !repeatable && connection.is_expired(now);
        (!is_old && !is_doubtful && connection.is_quiet()).then_some(connection)
    }

    /// Keeps the connection of a session.
    pub(crate) fn put_own(self: &Arc<Pool>, session: u64, connection: Connection) {
        let mut state = self.lock();
        if state.own.len() >= OWN {
            return;
        }
        state.own.insert(session, connection);
        let start_sweep = !std::mem::replace(&mut state.is_swept, true);
        drop(state);
        if start_sweep {
            tokio::spawn(sweep(Arc::downgrade(self)));
        }
    }

    /// Closes the connection of a session, if it has an idle one.
    pub(crate) fn close_own(&self, session: u64) {
        let connection = self.lock().own.remove(&session);
        if let Some(connection) = connection {
            connection.close();
        }
    }

    /// The server closed a connection though its last response had promised to keep it.
    pub(crate) fn distrust(&self) {
        self.lock().distrusted_until = Some(Instant::now() + DISTRUST);
    }

    /// Keeps a connection for later.
    pub(crate) fn put(self: &Arc<Pool>, connection: Connection) {
        let mut state = self.lock();
        state.idle.push_back(connection);
        let excess = (state.idle.len() > self.bound).then(|| state.idle.pop_front());
        let start_sweep = !std::mem::replace(&mut state.is_swept, true);
        drop(state);
        drop(excess);
        if start_sweep {
            tokio::spawn(sweep(Arc::downgrade(self)));
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing in here panics half-way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes what is too old or closed by the server. False once nothing is left.
    fn sweep(&self) -> bool {
        let now = Instant::now();
        let mut state = self.lock();
        state
            .idle
            .retain_mut(|connection| !connection.is_expired(now) && connection.is_quiet());
        state
            .own
            .retain(|_, connection| connection.idle(now) < OWN_IDLE && connection.is_quiet());
        state.is_swept = !(state.idle.is_empty() && state.own.is_empty());
        state.is_swept
    }
}

/// Runs while there are idle connections, so that a target without traffic holds no sockets.
async fn sweep(pool: Weak<Pool>) {
    loop {
        tokio::time::sleep(SWEEP).await;
        if !pool.upgrade().is_some_and(|pool| pool.sweep()) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::connection::Stream;

    async fn pair(listener: &TcpListener) -> (Connection, TcpStream) {
        let ours = TcpStream::connect(listener.local_addr().unwrap());
        let (ours, theirs) = tokio::join!(ours, listener.accept());
        (
            Connection::new(Stream::Plain(ours.unwrap())),
            theirs.unwrap().0,
        )
    }

    /// Sockets live in real time, but the pool's clock is tokio's.
    async fn pass(time: Duration) {
        tokio::time::pause();
        tokio::time::advance(time).await;
        tokio::time::resume();
    }

    #[tokio::test]
    async fn the_last_used_is_the_first_out_and_the_bound_holds() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let pool = Pool::new(2);
        let mut servers = Vec::new();
        for _ in 0..3 {
            let (connection, server) = pair(&listener).await;
            servers.push(server);
            pool.put(connection);
        }
        assert_eq!(pool.lock().idle.len(), 2);
        assert!(pool.take(true).is_some() && pool.take(true).is_some());
        assert!(pool.take(true).is_none());
        // The oldest was closed.
        assert_eq!(servers[0].read(&mut [0]).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn what_must_not_be_repeated_takes_only_fresh_ones() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let pool = Pool::new(9);
        let (connection, _server) = pair(&listener).await;
        pool.put(connection);
        pass(UNREPEATABLE_IDLE).await;
        assert!(pool.take(false).is_none());
        assert!(pool.take(true).is_some());
    }

    #[tokio::test]
    async fn closed_speaking_and_old_connections_are_not_taken() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let pool = Pool::new(9);
        let (connection, server) = pair(&listener).await;
        drop(server);
        pool.put(connection);
        assert!(pool.take(true).is_none());

        let (connection, server) = pair(&listener).await;
        server.writable().await.unwrap();
        server.try_write(b"HTTP/1.1 408 Timeout\r\n\r\n").unwrap();
        pool.put(connection);
        assert!(pool.take(true).is_none());

        // Both were closed early, which is remembered.
        let (connection, _server) = pair(&listener).await;
        pool.put(connection);
        assert!(pool.take(false).is_none());
        pass(SETTLED).await;
        assert!(pool.take(false).is_some());

        let (connection, _server) = pair(&listener).await;
        pool.put(connection);
        pass(Duration::from_secs(4)).await;
        assert!(pool.take(true).is_none());
    }

    #[tokio::test]
    async fn nobody_s_connections_are_closed() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let pool = Pool::new(9);
        let (connection, mut server) = pair(&listener).await;
        pool.put(connection);
        pass(Duration::from_secs(5)).await;
        assert_eq!(server.read(&mut [0]).await.unwrap(), 0);
        assert!(!pool.lock().is_swept);
    }

    #[tokio::test]
    async fn a_session_has_its_own_until_it_is_closed_or_old() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let pool = Pool::new(1);
        let mut servers = Vec::new();
        for session in 1..=3 {
            let (connection, server) = pair(&listener).await;
            servers.push(server);
            pool.put_own(session, connection);
        }
        assert!(pool.take(true).is_none() && pool.take_own(4, true).is_none());
        drop(servers.remove(0));
        assert!(pool.take_own(1, true).is_none(), "closed by the server");
        pass(Duration::from_secs(10)).await;
        assert!(pool.take_own(2, false).is_none(), "must not be repeated");
        pool.close_own(2);
        pool.close_own(3);
        let (third, server) = (pool.take_own(3, true), servers.last_mut().unwrap());
        assert!(third.is_none() && server.read(&mut [0]).await.unwrap() == 0);
        let (third, _server) = pair(&listener).await;
        pool.put_own(3, third);
        pass(OWN_IDLE).await;
        assert!(pool.take_own(3, true).is_none());
    }
}
