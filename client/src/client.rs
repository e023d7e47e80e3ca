//! A client: calls on a connection that a task of its own keeps up.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use eddy_protocol::TopicName;
use eddy_protocol::batch::HEADER_BYTES;
use eddy_protocol::frame::{
    AlterTopic, Answer, Commit, CreateTopic, Cursor, Cursors, DeleteGroup, Fetch, Fetched,
    GroupInfo, Produced, Request, TopicInfo, Welcome,
};
use tokio::sync::{Notify, mpsc, oneshot, watch};

use crate::driver::Driver;
use crate::producer::{Served, Shared};
use crate::{Admin, ClientError, Config, Producer, ProducerConfig, SubscribeOptions, Subscription};

/// What a message takes beside its batch; never less.
const FRAME_BYTES: usize = 1024;

/// How the connection is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// The first attempt is under way.
    Connecting,
    /// It stands.
    Connected,
    /// It does not, and is attempted again and again.
    Away {
        /// What the last attempt died of.
        reason: String,
    },
    /// It stands, and the broker does not take the subscription up for now; it is
    /// asked again and again.
    Delayed {
        /// What the broker says of it.
        reason: String,
    },
    /// It was closed by this side, or there is no sense in another attempt.
    Closed,
}

/// What a handle asks of the connection's task.
#[derive(Debug)]
pub(crate) enum Command {
    /// One request, one answer; `patience` comes on top of the deadline.
    Call {
        request: Request,
        patience: Duration,
        answer: oneshot::Sender<Result<Answer, ClientError>>,
    },
    /// Waits for a connection.
    Ready(oneshot::Sender<Result<Welcome, ClientError>>),
    /// From now on this producer's batches are sent.
    AddProducer {
        shared: Served,
        name: Option<String>,
    },
    /// Its last handle is gone.
    DropProducer(Arc<Shared>),
    /// The end; the answer comes when the connection is gone.
    Close(oneshot::Sender<()>),
}

/// The way to the connection's task, which ends with the last of these.
#[derive(Debug, Clone)]
pub(crate) struct Handle {
    commands: mpsc::UnboundedSender<Command>,
    wake: Arc<Notify>,
    status: watch::Receiver<Status>,
    /// Why the task has ended, where it was not closed.
    end: Arc<OnceLock<ClientError>>,
}

impl Handle {
    pub(crate) fn new(
        commands: mpsc::UnboundedSender<Command>,
        wake: Arc<Notify>,
        status: watch::Receiver<Status>,
        end: Arc<OnceLock<ClientError>>,
    ) -> Handle {
        Handle {
            commands,
            wake,
            status,
            end,
        }
    }

    /// Something in a buffer wants the task's attention.
    pub(crate) fn wake(&self) {
        self.wake.notify_one();
    }

    pub(crate) fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// Without an answer, because there may be nobody any more to give one.
    pub(crate) fn tell(&self, command: Command) {
        // The task has ended: then there is nothing left to tell it, and what the
        // command holds says so where it is dropped.
        let _ = self.commands.send(command);
    }

    pub(crate) async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T, ClientError>>) -> Command,
    ) -> Result<T, ClientError> {
        let (sender, receiver) = oneshot::channel();
        self.tell(command(sender));
        receiver.await.unwrap_or_else(|_| {
            let end = self.end.get().cloned();
            Err(end.unwrap_or(ClientError::Closed))
        })
    }

    pub(crate) async fn close(&self) {
        let (sender, receiver) = oneshot::channel();
        self.tell(Command::Close(sender));
        // Closed either way: by the task, or before it by another handle.
        let _ = receiver.await;
    }
}

/// A connection to a broker, with everything that one can ask of it. Cheap to
/// clone; all clones and the producers made from it share one connection, which
/// one background task keeps up for as long as one of them lives.
///
/// When the connection is lost, the task connects again for ever; calls wait
/// meanwhile, at most for the configured deadline. A call that changes
/// something and whose answer was lost fails with
/// [`ClientError::ConnectionLost`], because nobody knows whether it was carried
/// out; producing knows, and goes on by itself.
///
/// Must be made within a tokio runtime.
#[derive(Debug, Clone)]
pub struct Client {
    handle: Handle,
    config: Arc<Config>,
}

impl Client {
    /// A client whose first connection stands.
    pub async fn connect(config: Config) -> Result<Client, ClientError> {
        let client = Client::open(config);
        client.ready().await?;
        Ok(client)
    }

    /// A client that begins to connect, without waiting for it.
    pub fn open(config: Config) -> Client {
        let handle = Driver::spawn(config.clone(), None);
        Client {
            handle,
            config: Arc::new(config),
        }
    }

    /// Waits until the connection stands; what the broker said at its beginning.
    pub async fn ready(&self) -> Result<Welcome, ClientError> {
        self.handle.ask(Command::Ready).await
    }

    /// How the connection is, now and whenever that changes.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.handle.status()
    }

    /// Closes the connection for all who share it: what waits fails, and what
    /// producers hold is lost unless they flushed.
    pub async fn close(&self) {
        self.handle.close().await;
    }

    /// A new topic.
    pub async fn create_topic(&self, create: CreateTopic) -> Result<TopicInfo, ClientError> {
        self.topic_call(Request::CreateTopic(create)).await
    }

    /// Other settings for a topic.
    pub async fn alter_topic(&self, alter: AlterTopic) -> Result<TopicInfo, ClientError> {
        self.topic_call(Request::AlterTopic(alter)).await
    }

    /// One topic, with its partitions.
    pub async fn describe_topic(&self, topic: &TopicName) -> Result<TopicInfo, ClientError> {
        self.topic_call(Request::DescribeTopic {
            topic: topic.clone(),
        })
        .await
    }

    /// The end of a topic and its records.
    pub async fn delete_topic(&self, topic: &TopicName) -> Result<(), ClientError> {
        match self
            .call(Request::DeleteTopic {
                topic: topic.clone(),
            })
            .await?
        {
            Answer::Deleted {} => Ok(()),
            other => Err(self.unexpected(&other)),
        }
    }

    /// All topics, in the order of their names.
    pub async fn list_topics(&self) -> Result<Vec<TopicInfo>, ClientError> {
        match self.call(Request::ListTopics {}).await? {
            Answer::Topics { topics } => Ok(topics),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Some records of one partition, once. Whoever wants all of them subscribes.
    ///
    /// Whole batches come back, so that records before `from` may be among the
    /// first one's; no gap is told, a hole shows only in the offsets. The broker
    /// takes `bytes_max` for 4 MiB at most, and waits no longer than its setting
    /// `broker.fetch_wait_max`, whatever `wait_ms` says.
    pub async fn fetch(&self, fetch: Fetch) -> Result<Fetched, ClientError> {
        let patience = Duration::from_millis(fetch.wait_ms.into());
        match self.call_patiently(Request::Fetch(fetch), patience).await? {
            Answer::Fetched(fetched) => Ok(fetched),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Batches and a group's cursors, all of it or nothing.
    pub async fn commit(&self, commit: Commit) -> Result<Vec<Produced>, ClientError> {
        match self.call(Request::Commit(commit)).await? {
            Answer::Committed { appends } => Ok(appends),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Where a group's cursors are.
    pub async fn cursors(&self, cursors: Cursors) -> Result<Vec<Cursor>, ClientError> {
        match self.call(Request::Cursors(cursors)).await? {
            Answer::Cursors { cursors } => Ok(cursors),
            other => Err(self.unexpected(&other)),
        }
    }

    /// The groups that have cursors.
    pub async fn groups(&self) -> Result<Vec<GroupInfo>, ClientError> {
        match self.call(Request::ListGroups {}).await? {
            Answer::Groups { groups } => Ok(groups),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Forgets a group's cursors.
    pub async fn delete_group(&self, delete: DeleteGroup) -> Result<(), ClientError> {
        match self.call(Request::DeleteGroup(delete)).await? {
            Answer::Deleted {} => Ok(()),
            other => Err(self.unexpected(&other)),
        }
    }

    /// A producer for a topic that is there.
    pub async fn producer(
        &self,
        topic: &TopicName,
        config: ProducerConfig,
    ) -> Result<Producer, ClientError> {
        let welcome = self.ready().await?;
        let partitions = self.describe_topic(topic).await?.partitions.len() as u32;
        let name = config.name.clone();
        let shared = Arc::new(Shared::new(
            topic.clone(),
            partitions,
            record_bytes_max(&welcome),
            config,
        ));
        self.handle.tell(Command::AddProducer {
            shared: Served(Arc::clone(&shared)),
            name,
        });
        Ok(Producer::new(shared, self.handle.clone()))
    }

    /// A subscription that stands. It has a connection of its own, so that a
    /// reader who takes his time holds nobody else up.
    pub async fn subscribe(
        &self,
        topic: &TopicName,
        options: SubscribeOptions,
    ) -> Result<Subscription, ClientError> {
        let mut subscription = Subscription::open((*self.config).clone(), topic, options);
        subscription.ready().await?;
        Ok(subscription)
    }

    /// Plugins and deployments of the same broker; each call waits at most `timeout`.
    pub fn admin(&self, timeout: Duration) -> Admin {
        Admin::new(self.config.server.clone(), timeout, timeout)
    }

    async fn topic_call(&self, request: Request) -> Result<TopicInfo, ClientError> {
        match self.call(request).await? {
            Answer::Topic(info) => Ok(info),
            other => Err(self.unexpected(&other)),
        }
    }

    async fn call(&self, request: Request) -> Result<Answer, ClientError> {
        self.call_patiently(request, Duration::ZERO).await
    }

    async fn call_patiently(
        &self,
        request: Request,
        patience: Duration,
    ) -> Result<Answer, ClientError> {
        self.handle
            .ask(|answer| Command::Call {
                request,
                patience,
                answer,
            })
            .await
    }

    fn unexpected(&self, answer: &Answer) -> ClientError {
        let name = format!("{answer:?}");
        let name = name
            .split(|c: char| !c.is_alphanumeric())
            .next()
            .unwrap_or_default();
        ClientError::Protocol {
            server: self.config.server.clone(),
            reason: format!("it answered another question than was asked, with {name}"),
        }
    }
}

/// What is left for a record in the largest message and the largest batch.
fn record_bytes_max(welcome: &Welcome) -> usize {
    let size = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
    let batch = size(welcome.batch_bytes_max)
        .min(size(welcome.frame_bytes_max).saturating_sub(FRAME_BYTES));
    batch
        .min(eddy_protocol::batch::RAW_BYTES_MAX)
        .saturating_sub(HEADER_BYTES)
}
