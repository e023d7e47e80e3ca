//! The few things of the browser that a client needs: time, a timer, a
//! WebSocket, and where the page came from. Works in a page and in a worker.

use std::time::Duration;

use js_sys::{Function, Object, Reflect, Uint8Array};
use wasm_bindgen::prelude::*;
use web_sys::{BinaryType, CloseEvent, MessageEvent, WebSocket};

use eddy_protocol::frame::SUBPROTOCOL_BINARY;

#[wasm_bindgen]
extern "C" {
    #[wasm_bindgen(js_namespace = performance, js_name = now)]
    fn performance_now() -> f64;
    #[wasm_bindgen(js_name = setTimeout)]
    fn set_timeout(callback: &Function, milliseconds: f64) -> JsValue;
    #[wasm_bindgen(js_name = clearTimeout)]
    fn clear_timeout(timer: &JsValue);
    #[wasm_bindgen(js_name = reportError)]
    fn report_error(error: &JsValue);
}

/// Time since the page was opened, never backwards.
pub(crate) fn now() -> Duration {
    Duration::from_secs_f64(performance_now().max(0.0) / 1000.0)
}

/// Milliseconds since 1970 UTC.
pub(crate) fn wall_clock_ms() -> i64 {
    js_sys::Date::now() as i64
}

/// From 0 to 2^53, unforeseeable enough for waiting times.
pub(crate) fn random() -> u64 {
    (js_sys::Math::random() * (1u64 << 53) as f64) as u64
}

/// Calls a function of the user's. What it throws goes where uncaught errors
/// go: it must not stop the client.
pub(crate) fn call(function: &Function, argument: &JsValue) {
    if let Err(error) = function.call1(&JsValue::UNDEFINED, argument) {
        report_error(&error);
    }
}

/// A plain object with these fields.
pub(crate) fn object(fields: &[(&str, JsValue)]) -> JsValue {
    let object = Object::new();
    for (name, value) in fields {
        // A plain object takes every property.
        let _ = Reflect::set(&object, &(*name).into(), value);
    }
    object.into()
}

/// One timer, for one callback.
pub(crate) struct Timer {
    callback: Closure<dyn FnMut()>,
    running: Option<JsValue>,
}

impl Timer {
    pub(crate) fn new(callback: impl FnMut() + 'static) -> Timer {
        Timer {
            callback: Closure::new(callback),
            running: None,
        }
    }

    /// Calls back once after `wait`; an earlier order is forgotten.
    pub(crate) fn set(&mut self, wait: Duration) {
        self.stop();
        // Rounded up, or the timer would fire before there is something to do.
        let milliseconds = (wait.as_secs_f64() * 1000.0).ceil();
        self.running = Some(set_timeout(
            self.callback.as_ref().unchecked_ref(),
            milliseconds,
        ));
    }

    fn stop(&mut self) {
        if let Some(running) = self.running.take() {
            clear_timeout(&running);
        }
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.stop();
    }
}

/// What a socket has to say.
pub(crate) enum SocketEvent {
    Opened,
    Message(Vec<u8>),
    /// It is closed, or could not be opened.
    Gone,
}

/// A connection that is not open by then is given up; browsers themselves may
/// take minutes.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A WebSocket that speaks the binary protocol; closed when dropped, and silent
/// from then on.
pub(crate) struct Socket {
    socket: WebSocket,
    _open: Closure<dyn FnMut()>,
    _message: Closure<dyn FnMut(MessageEvent)>,
    _close: Closure<dyn FnMut(CloseEvent)>,
    _timeout: Timer,
}

impl Socket {
    /// Begins to connect. Events come later, never from within this call.
    pub(crate) fn open(
        url: &str,
        on_event: impl Fn(SocketEvent) + Clone + 'static,
    ) -> Result<Socket, JsValue> {
        let socket = WebSocket::new_with_str(url, SUBPROTOCOL_BINARY)?;
        socket.set_binary_type(BinaryType::Arraybuffer);
        let on_open = on_event.clone();
        let open = Closure::<dyn FnMut()>::new(move || on_open(SocketEvent::Opened));
        let on_message = on_event.clone();
        let message = Closure::<dyn FnMut(MessageEvent)>::new(move |event: MessageEvent| {
            // Text, which the broker does not send here, becomes an empty message: the session refuses it.
            on_message(SocketEvent::Message(
                Uint8Array::new(&event.data()).to_vec(),
            ));
        });
        let close = Closure::<dyn FnMut(CloseEvent)>::new(move |_| on_event(SocketEvent::Gone));
        socket.set_onopen(Some(open.as_ref().unchecked_ref()));
        socket.set_onmessage(Some(message.as_ref().unchecked_ref()));
        socket.set_onclose(Some(close.as_ref().unchecked_ref()));
        let connecting = socket.clone();
        let mut timeout = Timer::new(move || {
            if connecting.ready_state() == WebSocket::CONNECTING {
                // Its end is reported as any other.
                let _ = connecting.close();
            }
        });
        timeout.set(CONNECT_TIMEOUT);
        Ok(Socket {
            socket,
            _open: open,
            _message: message,
            _close: close,
            _timeout: timeout,
        })
    }

    /// Sends a message. One that cannot be sent any more is lost with the
    /// connection, whose end is reported.
    pub(crate) fn send(&self, message: &[u8]) {
        let _ = self.socket.send_with_u8_array(message);
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.socket.set_onopen(None);
        self.socket.set_onmessage(None);
        self.socket.set_onclose(None);
        // Fails only for a bad code or reason; there is none.
        let _ = self.socket.close();
    }
}

/// Where the WebSocket of a broker is: that of the page's own broker if no
/// address is given, `/v1/ws` behind an `http` address, else the address.
pub(crate) fn socket_url(address: Option<String>) -> Result<String, JsError> {
    let address = match address {
        Some(address) => address,
        None => origin().ok_or_else(|| JsError::new("outside of a page an address is needed"))?,
    };
    Ok(match address.strip_prefix("http") {
        Some(rest) => format!("ws{}/v1/ws", rest.trim_end_matches('/')),
        None => address,
    })
}

fn origin() -> Option<String> {
    let location = Reflect::get(&js_sys::global(), &"location".into()).ok()?;
    Reflect::get(&location, &"origin".into()).ok()?.as_string()
}
