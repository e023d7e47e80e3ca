//! One-shot requests: sent once, or again after a lost connection where doing
//! them twice does no harm.

use std::collections::{BTreeMap, VecDeque};

use super::event::{Event, RequestError, RequestId};
use crate::error::ErrorCode;
use crate::frame::{Answer, Request};

#[derive(Debug, Default)]
pub(super) struct Requests {
    queue: VecDeque<RequestId>,
    /// Waiting to be sent, or sent and to be sent again if the connection goes.
    open: BTreeMap<RequestId, Open>,
    last_id: u64,
}

#[derive(Debug)]
enum Open {
    Queued(Request),
    /// Sent; kept where it may be sent again.
    Sent(Option<Request>),
}

impl Requests {
    pub(super) fn add(&mut self, request: Request, events: &mut VecDeque<Event>) -> RequestId {
        self.last_id += 1;
        let id = RequestId(self.last_id);
        if is_of_the_session(&request) {
            let error = ErrorCode::UnexpectedFrame.because("the session itself makes this request");
            events.push_back(Event::Answered {
                request: id,
                result: Err(error.into()),
            });
            return id;
        }
        self.open.insert(id, Open::Queued(request));
        self.queue.push_back(id);
        id
    }

    /// Forgets a request; its answer, if it comes, is not reported.
    pub(super) fn cancel(&mut self, id: RequestId) {
        if let Some(Open::Queued(_)) = self.open.remove(&id) {
            self.queue.retain(|queued| *queued != id);
        }
    }

    pub(super) fn next(&mut self) -> Option<(RequestId, Request)> {
        while let Some(id) = self.queue.pop_front() {
            let Some(open) = self.open.get_mut(&id) else {
                continue;
            };
            let Open::Queued(request) = open else {
                continue;
            };
            let request = request.clone();
            *open = Open::Sent(is_repeatable(&request).then(|| request.clone()));
            return Some((id, request));
        }
        None
    }

    pub(super) fn answered(
        &mut self,
        id: RequestId,
        result: Result<Answer, RequestError>,
        events: &mut VecDeque<Event>,
    ) {
        if self.open.remove(&id).is_some() {
            events.push_back(Event::Answered {
                request: id,
                result,
            });
        }
    }

    pub(super) fn disconnected(&mut self, events: &mut VecDeque<Event>) {
        let mut lost = Vec::new();
        let mut again = VecDeque::new();
        for (id, open) in &mut self.open {
            let Open::Sent(kept) = open else { continue };
            match kept.take() {
                Some(request) => {
                    *open = Open::Queued(request);
                    again.push_back(*id);
                }
                None => lost.push(*id),
            }
        }
        for id in lost {
            self.answered(id, Err(RequestError::ConnectionLost), events);
        }
        again.append(&mut self.queue);
        self.queue = again;
    }
}

fn is_of_the_session(request: &Request) -> bool {
    matches!(
        request,
        Request::Hello(_) | Request::Ping {} | Request::Subscribe(_) | Request::Unsubscribe { .. }
    )
}

/// Whether asking twice is the same as asking once.
fn is_repeatable(request: &Request) -> bool {
    matches!(
        request,
        Request::Fetch(_)
            | Request::Cursors(_)
            | Request::DescribeTopic { .. }
            | Request::ListTopics {}
            | Request::ListGroups {}
    )
}
