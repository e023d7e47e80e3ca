//! Changes of topics that come at the same time.

use eddy_protocol::frame::{AlterTopic, Limit};
use futures_util::future::join_all;

use super::*;

fn create(topic: &str, partitions: u32) -> CreateTopic {
    CreateTopic {
        topic: name(topic),
        partitions,
        settings: TopicSettings::default(),
    }
}

fn alter(topic: &str) -> AlterTopic {
    AlterTopic {
        topic: name(topic),
        partitions: None,
        durability: None,
        retention_ms: None,
        retention_bytes: None,
        timestamps: None,
        timestamp_ahead_ms: None,
        timestamp_behind_ms: None,
        out_of_bounds: None,
    }
}

#[tokio::test]
async fn creations_at_the_same_time_keep_to_the_limits_together() {
    let config = Config {
        topics_max: 3,
        ..Config::default()
    };
    let broker = broker_with(config).await;
    let names: Vec<_> = (0..10).map(|number| format!("t{number}")).collect();
    let creations = names
        .iter()
        .map(|name| broker.create_topic(create(name, 1)));
    let created = within("creating", join_all(creations)).await;
    assert_eq!(created.iter().filter(|created| created.is_ok()).count(), 3);
    for refusal in created.into_iter().filter(Result::is_err) {
        refused(refusal, ErrorCode::TooMany, "the limit is 3");
    }
    assert_eq!(broker.list_topics().len(), 3);
}

#[tokio::test]
async fn alterations_at_the_same_time_do_not_undo_each_other() {
    let broker = broker().await;
    broker.with_topic("t", 1, TopicSettings::default()).await;
    let alterations = [
        AlterTopic {
            retention_ms: Some(Limit::AtMost(1_000)),
            ..alter("t")
        },
        AlterTopic {
            retention_bytes: Some(Limit::AtMost(2_000)),
            ..alter("t")
        },
        AlterTopic {
            partitions: Some(2),
            ..alter("t")
        },
    ];
    let altering = alterations.map(|alteration| broker.alter_topic(alteration));
    for altered in within("altering", join_all(altering)).await {
        altered.expect("altered");
    }
    let topic = broker.describe_topic(&name("t")).expect("it is there");
    assert_eq!(topic.settings.retention_ms, Some(1_000));
    assert_eq!(topic.settings.retention_bytes, Some(2_000));
    assert_eq!(topic.partitions.len(), 2);
}

#[tokio::test]
async fn a_creation_that_nobody_waits_for_is_done_all_the_same() {
    let broker = broker().await;
    let creation = broker.create_topic(create("t", 1));
    // Polled once and dropped, as when a caller hangs up.
    assert!(futures_util::FutureExt::now_or_never(creation).is_none());
    let topic = name("t");
    eventually("the creation", || broker.describe_topic(&topic).is_ok()).await;
}
