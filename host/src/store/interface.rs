//! The store as an engine of the broker: what [`Log`] and [`State`] ask of it.

use bytes::Bytes;
use futures_util::future::BoxFuture;

use super::core::Core;
use super::driver::Store;
use super::request::Request;
use crate::log::{
    Commit, Health, Log, Page, Producer, State, StateId, Table, TableError, Ticket, Topics, ticket,
};

impl Log for Store {
    fn submit(&self, commit: Commit) -> Ticket {
        let (reply, ticket) = ticket();
        self.request(Request::Commit { commit, reply });
        ticket
    }

    fn open_producer(&self, name: Option<&str>) -> Ticket<Producer> {
        self.identify(name, None)
    }

    fn next_epoch(&self, current: Producer) -> Ticket<Producer> {
        self.identify(None, Some(current))
    }

    fn has_room(&self) -> bool {
        Store::has_room(self)
    }

    fn room(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.wait_for_room())
    }

    fn commit_bytes_max(&self) -> u64 {
        self.core().context.config.commit_bytes_max
    }

    fn topics(&self) -> &Topics {
        &self.core().context.catalog.topics
    }

    fn health(&self) -> Health {
        self.core().health()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.end())
    }
}

impl State for Store {
    fn get<'a>(
        &'a self,
        table: Table,
        key: &'a [u8],
    ) -> BoxFuture<'a, Result<Option<Bytes>, TableError>> {
        let key = key.to_vec();
        self.read(move |core| core.context.tables.get(table, &key))
    }

    fn scan<'a>(
        &'a self,
        table: Table,
        prefix: &'a [u8],
    ) -> BoxFuture<'a, Result<Vec<(Bytes, Bytes)>, TableError>> {
        let prefix = prefix.to_vec();
        self.read(move |core| core.context.tables.scan(table, &prefix))
    }

    fn state_get<'a>(
        &'a self,
        state: &'a StateId,
        keys: Vec<Bytes>,
    ) -> BoxFuture<'a, Result<Vec<Option<Bytes>>, TableError>> {
        match self.core().context.states.look(state, &keys) {
            Ok((found, missing, _)) if missing.is_empty() => {
                Box::pin(std::future::ready(Ok(found)))
            }
            Ok(_) => {
                let state = state.clone();
                self.read(move |core| core.context.states.get(&core.context.tables, &state, &keys))
            }
            Err(error) => Box::pin(std::future::ready(Err(error))),
        }
    }

    fn state_scan<'a>(
        &'a self,
        state: &'a StateId,
        range: (Bytes, Option<Bytes>),
        bytes_max: usize,
    ) -> BoxFuture<'a, Result<Page, TableError>> {
        let state = state.clone();
        self.read(move |core| {
            core.context
                .states
                .scan(&core.context.tables, &state, range, bytes_max)
        })
    }
}

impl Store {
    fn identify(&self, name: Option<&str>, current: Option<Producer>) -> Ticket<Producer> {
        let (reply, ticket) = ticket();
        self.request(Request::OpenProducer {
            name: name.map(str::to_owned),
            current,
            reply,
        });
        ticket
    }

    /// Reads on a thread that may wait: for the disk, and after a fault until the database is open
    /// again.
    fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Core) -> Result<T, TableError> + Send + 'static,
    ) -> BoxFuture<'_, Result<T, TableError>> {
        let store = self.clone();
        Box::pin(async move {
            let read = tokio::task::spawn_blocking(move || read(store.core()));
            read.await.unwrap_or_else(|error| {
                Err(TableError::Io {
                    kind: std::io::ErrorKind::Other,
                    reason: format!("the read ended without an answer: {error}"),
                })
            })
        })
    }
}
