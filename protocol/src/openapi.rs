//! How OpenAPI describes the types whose JSON form is not derived. The others say it
//! of themselves.

use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{
    AnyOfBuilder, ArrayBuilder, ArrayItems, ObjectBuilder, OneOfBuilder, Ref, Schema, SchemaType,
    Type,
};
use utoipa::{PartialSchema, ToSchema};

use crate::batch::json::{JsonBytes, JsonHeaders};
use crate::error::ErrorCode;
use crate::frame::{Durability, OutOfBounds, Timestamps};
use crate::name::{NAME_BYTES_MAX, TopicName};

/// The name of a plugin, a deployment, or a plugin's port.
pub struct Name;

/// The name of a group.
pub struct GroupName;

/// What a deployment writes to.
pub struct Ports;

/// The longest [`Name`].
const NAME_LEN_MAX: usize = 128;
/// The longest [`GroupName`], in bytes.
const GROUP_LEN_MAX: usize = 255;

macro_rules! described {
    ($($name:ty => $schema:expr;)*) => {$(
        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                $schema.into()
            }
        }

        impl ToSchema for $name {}
    )*};
}

described! {
    TopicName => name(NAME_BYTES_MAX, r"^(?!\.{1,2}$)[A-Za-z0-9._-]+$", "The name of a topic.");
    Name => name(NAME_LEN_MAX, "^[A-Za-z0-9_-][A-Za-z0-9._-]*$", "The name of a plugin, a deployment or a port.");
    GroupName => name(
        GROUP_LEN_MAX,
        r"^[^\u0000-\u001f\u007f-\u009f]+$",
        "The name of a group: at most 255 bytes of UTF-8 and no control characters.",
    );
    Ports => ports();
    Durability => words(
        &["disk", "memory"],
        "What an acknowledgement promises: synced to the disk, or handed to the operating system.",
    );
    Timestamps => words(
        &["create", "append"],
        "Whose time a record's timestamp is: its producer's, or the broker's when it appends the record.",
    );
    OutOfBounds => words(
        &["refuse", "append"],
        "What happens to a batch with a timestamp outside of its topic's bounds: it is refused, or its records get the time of append.",
    );
    ErrorCode => error_codes();
    JsonBytes => bytes();
    JsonHeaders => headers();
}

fn name(bytes_max: usize, pattern: &str, description: &str) -> Schema {
    let name = ObjectBuilder::new().schema_type(Type::String);
    let name = name.min_length(Some(1)).max_length(Some(bytes_max));
    let name = name.pattern(Some(pattern)).description(Some(description));
    name.into()
}

fn words(words: &[&str], description: &str) -> Schema {
    let one = ObjectBuilder::new().schema_type(Type::String);
    let one = one.enum_values(Some(words.iter().copied()));
    one.description(Some(description)).into()
}

fn ports() -> Schema {
    let topic = || Ref::from_schema_name(TopicName::name());
    let names = Schema::from(Name::schema());
    let ports = ObjectBuilder::new().schema_type(Type::Object);
    let ports = ports
        .property_names(Some(names))
        .additional_properties(Some(topic()));
    let ports = ports.min_properties(Some(1)).max_properties(Some(64));
    let ports = OneOfBuilder::new().item(topic()).item(ports);
    ports
        .description(Some(
            "The topic of each of the plugin's ports; a single topic is that of the port `out`.",
        ))
        .into()
}

fn error_codes() -> Schema {
    let names: Vec<&str> = ErrorCode::ALL.iter().map(|code| code.name()).collect();
    let lines = ErrorCode::ALL.iter().map(|code| {
        let (name, status) = (code.name(), code.http_status());
        let retry = if code.retryable() { ", retryable" } else { "" };
        format!("\n- `{name}` ({status}{retry}): {}", code.description())
    });
    let said = "What went wrong, for programs. A newer broker may know more.\n".to_owned();
    words(&names, &(said + &lines.collect::<String>()))
}

fn bytes() -> Schema {
    let base64 = ObjectBuilder::new()
        .property(
            "base64",
            ObjectBuilder::new()
                .schema_type(Type::String)
                .content_encoding("base64"),
        )
        .required("base64");
    let others = [Type::Number, Type::Boolean, Type::Array, Type::Object];
    AnyOfBuilder::new()
        .item(ObjectBuilder::new().schema_type(Type::String))
        .item(base64)
        .item(ObjectBuilder::new().schema_type(SchemaType::from_iter(others)))
        .description(Some(
            "Bytes that are UTF-8 are a string, others are base64. In a request any other JSON but null is taken, too: its compact text is stored.",
        ))
        .into()
}

fn headers() -> Schema {
    let value = || {
        let bytes = Ref::from_schema_name(JsonBytes::name());
        AnyOfBuilder::new()
            .item(bytes)
            .item(ObjectBuilder::new().schema_type(Type::Null))
    };
    let name = ObjectBuilder::new().schema_type(Type::String);
    let pair = ArrayBuilder::new()
        .items(ArrayItems::False)
        .prefix_items([Schema::from(name), Schema::from(value())])
        .min_items(Some(2))
        .max_items(Some(2));
    AnyOfBuilder::new()
        .item(ObjectBuilder::new().schema_type(Type::Null))
        .item(
            ObjectBuilder::new()
                .schema_type(Type::Object)
                .additional_properties(Some(Schema::from(value()))),
        )
        .item(ArrayBuilder::new().items(pair))
        .description(Some("An object, or pairs where a name comes twice."))
        .into()
}
