//! What JavaScript holds: the client and its verbs.

use js_sys::{Function, Promise};
use wasm_bindgen::prelude::*;

use crate::browser::socket_url;
use crate::driver::Driver;
use crate::typescript::{
    NewRecords, OnBatch, OnEvent, OnState, ProduceOptions, ProducedPromise, SubscribeOptions,
    SubscriptionPromise, TopicsPromise,
};

/// A client of one broker. Connects at once, and again until it is closed, even
/// if nobody holds it any more; whatever is asked of it meanwhile waits.
#[wasm_bindgen]
pub struct EddyClient {
    driver: Driver,
}

#[wasm_bindgen]
impl EddyClient {
    /// Connects to the broker at `url` (`http://host:port` or the address of
    /// its WebSocket); by default to the one that the page came from.
    #[wasm_bindgen(constructor)]
    pub fn new(url: Option<String>) -> Result<EddyClient, JsError> {
        let url = socket_url(url)?;
        if !url.starts_with("ws://") && !url.starts_with("wss://") {
            return Err(JsError::new(&format!(
                "`{url}` is neither an http nor a ws address"
            )));
        }
        Ok(EddyClient {
            driver: Driver::start(url),
        })
    }

    /// Calls `listener` with the connection's state, now and whenever it
    /// changes. There is one listener; another takes its place.
    #[wasm_bindgen(js_name = onState)]
    pub fn on_state(&self, listener: OnState) {
        self.driver.listen(&function(listener.into()));
    }

    /// Begins a subscription. The promise resolves to its handle once it
    /// stands, and is rejected if the broker refuses it or holds too many. From then on it goes
    /// on by itself after lost connections, with no record missing or repeated.
    /// A client can hold one subscription with the same topic and filter.
    pub fn subscribe(
        &self,
        options: &SubscribeOptions,
        #[wasm_bindgen(js_name = onBatch)] on_batch: OnBatch,
        #[wasm_bindgen(js_name = onEvent)] on_event: Option<OnEvent>,
    ) -> SubscriptionPromise {
        let on_batch = function(on_batch.into());
        let on_event = on_event.map(|on_event| function(on_event.into()));
        promise(|resolve, reject| {
            let driver = &self.driver;
            driver.subscribe(options, on_batch.clone(), on_event.clone(), resolve, reject);
        })
    }

    /// Ends a subscription; no callback of it is called any more.
    pub fn unsubscribe(&self, handle: u32) {
        self.driver.unsubscribe(handle);
    }

    /// Appends records to a topic, each once, whatever happens to the
    /// connection meanwhile. The promise resolves when all are in the log, and
    /// is rejected when the fate of all is known and some were given up. Nothing
    /// of a call is taken that is rejected with `too_many`.
    pub fn produce(
        &self,
        topic: &str,
        records: &NewRecords,
        options: Option<ProduceOptions>,
    ) -> ProducedPromise {
        let options = options.map_or(JsValue::UNDEFINED, JsValue::from);
        promise(|resolve, reject| {
            let driver = &self.driver;
            driver.produce(topic, records, &options, resolve, reject);
        })
    }

    /// All topics with their partitions.
    #[wasm_bindgen(js_name = describeTopics)]
    pub fn describe_topics(&self) -> TopicsPromise {
        promise(|resolve, reject| self.driver.describe_topics(resolve, reject))
    }

    /// Ends everything; promises that wait are rejected.
    pub fn close(&self) {
        self.driver.close(None);
    }
}

/// What is no function throws when it is called, as it would in JavaScript.
fn function(value: JsValue) -> Function {
    value.unchecked_into()
}

fn promise<P: JsCast>(mut begin: impl FnMut(Function, Function)) -> P {
    Promise::new(&mut |resolve, reject| begin(resolve, reject)).unchecked_into()
}
