//! Subscriptions as JavaScript has them: a handle, two callbacks, and the
//! promise of the first time.

use std::collections::{BTreeMap, HashMap};

use eddy_protocol::frame::Position;
use eddy_protocol::session::{Delivery, Event, SubscriptionId};
use eddy_protocol::{ErrorCode, WireError};
use js_sys::{Array, Function};
use wasm_bindgen::prelude::*;

use crate::browser::{call, object};
use crate::driver::Driver;
use crate::{batch, error, option};

/// Those that are going on.
#[derive(Default)]
pub(crate) struct Subscriptions {
    handles: BTreeMap<u32, SubscriptionId>,
    last_handle: u32,
    listeners: HashMap<SubscriptionId, Listener>,
}

#[derive(Clone)]
struct Listener {
    handle: u32,
    topic: String,
    on_batch: Function,
    on_event: Option<Function>,
    /// Until it stands for the first time.
    promised: Option<(Function, Function)>,
}

impl Subscriptions {
    fn add(&mut self, id: SubscriptionId, mut listener: Listener) {
        self.last_handle += 1;
        listener.handle = self.last_handle;
        self.handles.insert(self.last_handle, id);
        self.listeners.insert(id, listener);
    }

    fn remove(&mut self, id: SubscriptionId) -> Option<Listener> {
        let listener = self.listeners.remove(&id)?;
        self.handles.remove(&listener.handle);
        Some(listener)
    }
}

impl Driver {
    /// Begins one; see [`crate::EddyClient::subscribe`].
    pub(crate) fn subscribe(
        &self,
        options: &JsValue,
        on_batch: Function,
        on_event: Option<Function>,
        resolve: Function,
        reject: Function,
    ) {
        if self.is_closed() {
            return call(&reject, &error::closed());
        }
        match option::subscribe(options) {
            Ok(request) => self.with(|state| {
                let topic = request.topic.to_string();
                let promised = Some((resolve, reject));
                let id = state.session.subscribe(request);
                state.subscriptions.add(
                    id,
                    Listener {
                        handle: 0,
                        topic,
                        on_batch,
                        on_event,
                        promised,
                    },
                );
            }),
            Err(error) => call(&reject, &error),
        }
    }

    /// Ends one. A handle that is none any more does no harm.
    pub(crate) fn unsubscribe(&self, handle: u32) {
        self.with(|state| {
            if let Some(id) = state.subscriptions.handles.get(&handle).copied() {
                state.session.unsubscribe(id);
                state.subscriptions.remove(id);
            }
        });
    }

    /// Rejects what was promised to those that do not stand yet.
    pub(crate) fn close_subscriptions(&self) {
        let subscriptions = self.look(|state| std::mem::take(&mut state.subscriptions));
        for (_, reject) in subscriptions
            .listeners
            .into_values()
            .filter_map(|listener| listener.promised)
        {
            call(&reject, &error::closed());
        }
    }

    /// Calls whom it concerns.
    pub(crate) fn handle_subscription(&self, event: Event) {
        match event {
            Event::Subscribed {
                subscription,
                positions,
            } => self.subscribed(subscription, &positions),
            Event::Delivered(delivery) => self.delivered(&delivery),
            Event::Gap {
                subscription,
                partition,
                expected,
                next,
            } => self.report(
                subscription,
                "gap",
                &[
                    ("partition", partition.into()),
                    ("expected", number(expected)),
                    ("next", number(next)),
                ],
            ),
            Event::Progress {
                subscription,
                partition,
                next,
            } => {
                self.report(
                    subscription,
                    "progress",
                    &[("partition", partition.into()), ("next", number(next))],
                );
            }
            Event::PartitionEnded {
                subscription,
                partition,
                error,
            } => {
                self.report(
                    subscription,
                    "ended",
                    &[
                        ("partition", partition.into()),
                        ("error", error::into_js(&error)),
                    ],
                );
            }
            Event::SubscribeDelayed {
                subscription,
                error,
            } => self.delayed(subscription, &error),
            Event::Ended {
                subscription,
                error,
            } => self.ended(subscription, &error),
            // The driver took all others.
            _ => {}
        }
    }

    fn subscribed(&self, id: SubscriptionId, positions: &[Position]) {
        let first_time = self.look(|state| {
            let listener = state.subscriptions.listeners.get_mut(&id)?;
            Some((listener.handle, listener.promised.take()?))
        });
        if let Some((handle, (resolve, _))) = first_time {
            call(&resolve, &handle.into());
        }
        let positions: Array = positions.iter().map(position).collect();
        self.report(id, "subscribed", &[("positions", positions.into())]);
    }

    fn delivered(&self, delivery: &Delivery) {
        let Some(listener) = self.listener(delivery.subscription) else {
            return;
        };
        match batch::into_js(&listener.topic, delivery) {
            Ok(Some(batch)) => call(&listener.on_batch, &batch),
            Ok(None) => {}
            // Going on would skip records unseen.
            Err(error) => {
                let error = ErrorCode::CorruptBatch.because(error.to_string());
                self.look(|state| state.session.unsubscribe(delivery.subscription));
                self.ended(delivery.subscription, &error);
            }
        }
    }

    /// Too many are no passing matter for one that has not begun: others would
    /// have to end first.
    fn delayed(&self, id: SubscriptionId, error: &WireError) {
        let begun = self
            .listener(id)
            .is_some_and(|listener| listener.promised.is_none());
        if begun || error.code != ErrorCode::TooMany {
            return self.report(id, "delayed", &[("error", error::into_js(error))]);
        }
        self.look(|state| state.session.unsubscribe(id));
        self.ended(id, error);
    }

    fn ended(&self, id: SubscriptionId, error: &WireError) {
        let Some(listener) = self.look(|state| state.subscriptions.remove(id)) else {
            return;
        };
        let error = error::into_js(error);
        match (listener.promised, listener.on_event) {
            (Some((_, reject)), _) => call(&reject, &error),
            (None, Some(on_event)) => call(
                &on_event,
                &object(&[("type", "ended".into()), ("error", error)]),
            ),
            (None, None) => {}
        }
    }

    fn report(&self, id: SubscriptionId, kind: &str, fields: &[(&str, JsValue)]) {
        if let Some(on_event) = self.listener(id).and_then(|listener| listener.on_event) {
            let event = object(fields);
            // A plain object takes every property.
            let _ = js_sys::Reflect::set(&event, &"type".into(), &kind.into());
            call(&on_event, &event);
        }
    }

    fn listener(&self, id: SubscriptionId) -> Option<Listener> {
        self.look(|state| state.subscriptions.listeners.get(&id).cloned())
    }
}

fn position(position: &Position) -> JsValue {
    object(&[
        ("partition", position.partition.into()),
        ("offset", number(position.offset)),
        ("epoch", position.epoch.into()),
    ])
}

/// JavaScript's numbers are exact up to 2^53, far beyond any offset.
fn number(offset: u64) -> JsValue {
    (offset as f64).into()
}
