//! What holds whichever engine keeps the records. Whoever includes this says which one, by `ground`.

use super::*;

mod admission;
mod catalog;
mod deployment;
mod fetch;
mod group;
mod kafka;
mod notify;
mod place;
mod plugin;
mod streams;

async fn broker_with(config: Config) -> Arc<Broker> {
    ground().broker(config).await
}

async fn broker() -> Arc<Broker> {
    broker_with(Config::default()).await
}
