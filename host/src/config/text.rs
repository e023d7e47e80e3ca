//! The default configuration as a commented file: what `eddy default-config`
//! prints. It reads back to exactly the defaults.

use std::fmt::Write;

use super::Config;
use super::table::{SECTIONS, Section};

/// Every setting with what it means, what is allowed and its default.
pub fn default_text() -> String {
    let mut config = Config::default();
    let mut text = String::from(
        "# Eddy's settings, each with its default. Whatever is left out stays as it is here.\n\
         # A setting `section.key` may also be given as the environment variable\n\
         # EDDY_SECTION__KEY, which wins over this file, or as `--set section.key=value`,\n\
         # which wins over both. Sizes: \"64MiB\", \"1GB\". Times: \"500ms\", \"10s\", \"7d\".\n",
    );
    for Section {
        name,
        about,
        settings,
    } in SECTIONS
    {
        // Writing to a String cannot fail.
        let _ = write!(text, "\n# {about}\n[{name}]\n");
        for setting in *settings {
            let name = setting.key.rsplit('.').next().unwrap_or(setting.key);
            let field = (setting.field)(&mut config);
            let _ = write!(
                text,
                "\n# {}\n# Expected: {}.\n{name} = {}\n",
                setting.doc,
                field.allowed(),
                field.show()
            );
        }
    }
    text
}
