//! From an artefact that has been inspected to machine code, or to a sentence that says why not.

use wasmtime::component::types::ComponentItem;
use wasmtime::component::{Component, InstancePre};

use super::PluginError;
use super::bindings::eddy::plugin::types as wit;
use super::instance::Inside;

/// The interface that makes a component a plugin.
const PROCESSOR: &str = "eddy:plugin/processor@0.1.0";

/// What a plugin may import; anything of these packages, in any version that fits.
const OFFERED: &[&str] = &[
    "eddy:plugin/log@",
    "eddy:plugin/types@",
    "wasi:cli/",
    "wasi:clocks/",
    "wasi:filesystem/",
    "wasi:io/",
    "wasi:random/",
    "wasi:sockets/",
];

/// Compiles an artefact that has been inspected.
pub(super) fn compile(engine: &wasmtime::Engine, wasm: &[u8]) -> Result<Component, PluginError> {
    Component::new(engine, wasm).map_err(|error| PluginError::NotAComponent(first_line(&error)))
}

/// Refuses a component of another world, in words.
pub(super) fn check_world(
    engine: &wasmtime::Engine,
    component: &Component,
) -> Result<(), PluginError> {
    let world = component.component_type();
    let offered = |name: &&str| !OFFERED.iter().any(|offer| name.starts_with(offer));
    let missing: Vec<_> = world
        .imports(engine)
        .map(|(name, _)| name)
        .filter(offered)
        .collect();
    if !missing.is_empty() {
        let words = format!(
            "it imports {}, which this broker doesn't offer",
            list(&missing)
        );
        return Err(PluginError::WrongWorld(words));
    }
    let exports: Vec<_> = world.exports(engine).map(|(name, _)| name).collect();
    if !exports.contains(&PROCESSOR) {
        let words = match exports.is_empty() {
            true => format!("it exports nothing, a plugin exports `{PROCESSOR}`"),
            false => format!(
                "it exports {}, a plugin exports `{PROCESSOR}`",
                list(&exports)
            ),
        };
        return Err(PluginError::WrongWorld(words));
    }
    Ok(())
}

/// Refuses a component whose functions have the right names and other types: the generated bindings
/// would only find out when an instance is made.
pub(super) fn check_signatures(
    engine: &wasmtime::Engine,
    component: &Component,
    pre: &InstancePre<Inside>,
) -> Result<(), PluginError> {
    let world = component.component_type();
    let Some(ComponentItem::ComponentInstance(processor)) =
        world.get_export(engine, PROCESSOR).map(|found| found.ty)
    else {
        return Err(PluginError::WrongWorld(format!(
            "`{PROCESSOR}` is no interface"
        )));
    };
    let types = pre.instance_type();
    let function = |name: &str| match processor.get_export(engine, name).map(|found| found.ty) {
        Some(ComponentItem::ComponentFunc(function)) => Ok(function),
        _ => Err(PluginError::WrongWorld(format!(
            "`{PROCESSOR}` has no function `{name}`"
        ))),
    };
    let of_other_types = |name: &'static str| {
        move |error: wasmtime::Error| {
            let words = format!("`{name}` of `{PROCESSOR}` has other types: {error:#}");
            PluginError::WrongWorld(words)
        }
    };
    function("init")?
        .typecheck::<(wit::Context<'_>,), (Result<(), String>,)>(&types)
        .map_err(of_other_types("init"))?;
    function("process")?
        .typecheck::<(u32, wit::Batch<'_>), (Result<wit::Verdict, wit::Failure>,)>(&types)
        .map_err(of_other_types("process"))
}

/// The first few names, in backquotes.
fn list(names: &[&str]) -> String {
    const NAMES_MAX: usize = 5;
    let shown: Vec<_> = names
        .iter()
        .take(NAMES_MAX)
        .map(|name| format!("`{name}`"))
        .collect();
    match names.len().saturating_sub(NAMES_MAX) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

/// What went wrong, without the trail of what was going on.
pub(super) fn first_line(error: &wasmtime::Error) -> String {
    let text = error.root_cause().to_string();
    text.lines()
        .next()
        .unwrap_or_default()
        .chars()
        .take(500)
        .collect()
}
