//! The gem minitar 1.0, which breaks Berkshelf. Builds with aws-parallelcluster 3.8.0 to 3.9.3 have
//! installed it since 2024-08-06. Pure.
//!
//! The rule reads the component in the template. pcluster takes the component from one of its installed
//! files, so the rule accepts a file that was corrected by hand. Releases other than 3.8.0 to 3.9.3 are not
//! affected: 3.0 to 3.7 install Cinc 17, whose Ruby is too old for minitar 1.0. 3.10 to 3.13 run `gem
//! install --local`, which installs the Berkshelf that is part of their Cinc. Of these, 3.11 to 3.13
//! install minitar 0.9 first. Releases from 3.14 on do not install Berkshelf.

use serde_json::{Value, json};

use crate::model::finding::{Finding, Fix, Kind, Level, Remedy};
use crate::rules::template::component::Component;

/// The id of the finding, and of the source edit that fixes the problem.
pub const ID: &str = "minitar-1.0";

/// The version of Berkshelf that 3.8.0 to 3.9.3 install.
const BERKSHELF: &str = "8.0.7";
/// The first Cinc whose Ruby supports minitar 1.0.
const CINC: u32 = 18;

/// Template parameters that replace what the component installs.
const REPLACING: [&str; 3] = ["CfnParamChefCookbook", "CfnParamCincInstaller", "CfnParamCincVersion"];

/// Finds a component that installs minitar 1.0. The finding is an ERROR if the component installs pcluster's
/// defaults from rubygems.org; otherwise, it is a WARNING.
pub fn check(template: &Value) -> Option<Finding> {
    let component = Component::read(template)?;
    let install = find_install(&component.lines())?;
    if read_major(component.constant("ChefVersion")?)? < CINC {
        return None;
    }
    let berkshelf = component.constant("BerkshelfVersion");
    let is_certain = berkshelf == Some(BERKSHELF) && !install.has_mirror && !is_replaced(template);
    Some(describe(&install.line, is_certain))
}

fn describe(line: &str, is_certain: bool) -> Finding {
    let doubt = ", unless its cookbook, its Cinc installer or a gem mirror prevents it";
    let (level, doubt) = if is_certain { (Level::Error, "") } else { (Level::Warning, doubt) };
    let message =
        format!("the ParallelCluster component installs minitar 1.0, which breaks Berkshelf{doubt}");
    Finding {
        cost: Some("The build fails in its first phase, after its instance has started.".into()),
        evidence: json!({"path": Component::path(), "found": line}),
        fix: Some(Fix::by_command(Remedy::Edit(ID.into()))),
        references: [6405, 6530]
            .map(|number| format!("https://github.com/aws/aws-parallelcluster/issues/{number}"))
            .into(),
        fails_build: !is_certain,
        ..Finding::new(ID, level, Kind::BuildComponent, message)
    }
}

/// The line that installs Berkshelf, and with it the newest minitar.
struct Install {
    line: String,
    /// Gems come from somewhere other than rubygems.org.
    has_mirror: bool,
}

/// Finds the line that installs Berkshelf; `None` if that line or a line before it names minitar, or if that
/// line installs local files.
fn find_install(lines: &[String]) -> Option<Install> {
    let at = lines.iter().position(|line| installs_berkshelf(line))?;
    let (before, line) = (&lines[..at], &lines[at]);
    let has_option = |names: &[&str]| line.split_whitespace().any(|word| names.contains(&word));
    let is_corrected = before.iter().chain([line]).any(|line| line.contains("minitar"));
    if is_corrected || has_option(&["--local", "-l"]) {
        return None;
    }
    let names_source = has_option(&["--source", "-s", "--clear-sources"]) || line.contains("--source=");
    let has_mirror =
        names_source || before.iter().any(|line| line.contains("gem sources") || line.contains(".gemrc"));
    Some(Install { line: line.clone(), has_mirror })
}

fn installs_berkshelf(line: &str) -> bool {
    let mut words = line.split_whitespace();
    words.any(|word| word == "gem" || word.ends_with("/gem"))
        && words.next() == Some("install")
        && words.any(|word| word == "berkshelf" || word.starts_with("berkshelf:"))
}

/// Whether the configuration names a cookbook, a Cinc installer or a Cinc version.
fn is_replaced(template: &Value) -> bool {
    let is_default = |default: &Value| default.is_null() || default == "";
    REPLACING.iter().any(|name| !is_default(&template["Parameters"][name]["Default"]))
}

fn read_major(version: &str) -> Option<u32> {
    version.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::template::component::template_with;

    const INSTALL_MINITAR: &str = "/opt/cinc/embedded/bin/gem install --no-document minitar:0.12";

    const INSTALL: &str = "/opt/cinc/embedded/bin/gem install --no-document berkshelf:{{ BerkshelfVersion }}";

    fn template(chef: &str, berkshelf: &str, commands: &[&str]) -> Value {
        let constants = format!(
            "constants:\n- ChefVersion: {{value: {chef}}}\n- BerkshelfVersion: {{value: {berkshelf}}}\n"
        );
        let lines = commands.iter().map(|line| format!("        {line}")).collect::<Vec<_>>().join("\n");
        template_with(&format!(
            "{constants}phases:\n- name: build\n  steps:\n  - name: InstallCinc\n    inputs:\n      commands:\n      - |\n{lines}"
        ))
    }

    fn level(template: &Value) -> Option<Level> {
        check(template).map(|finding| finding.level)
    }

    #[test]
    fn the_component_of_3_8_and_3_9_blocks() {
        let finding = check(&template("18.2.7", "8.0.7", &["set -v", INSTALL])).unwrap();
        assert_eq!((finding.id.as_str(), finding.level), (ID, Level::Error));
        assert_eq!(finding.evidence["found"], INSTALL);
        assert_eq!(
            level(&template(
                "18.2.7",
                "8.0.7",
                &["/opt/cinc/embedded/bin/gem install \\", "  berkshelf:8.0.7"]
            )),
            Some(Level::Error)
        );
    }

    #[test]
    fn components_of_other_releases_and_corrected_ones_pass() {
        let local =
            "/opt/cinc/embedded/bin/gem install --local --no-document berkshelf:{{ BerkshelfVersion }}";
        for (chef, commands) in [
            ("17.2.29", vec![INSTALL]),
            ("18.4.12", vec![local]),
            ("18.4.12", vec!["/opt/cinc/embedded/bin/gem install --no-document minitar:0.9", local]),
            ("18.2.7", vec![INSTALL_MINITAR, INSTALL]),
            ("18.2.7", vec!["gem install minitar:0.12 berkshelf:8.0.7"]),
            ("18.2.7", vec!["# gem install berkshelf:8.0.7"]),
            ("18.2.7", vec!["echo gem", "berks vendor /etc/chef/cookbooks"]),
            ("newest", vec![INSTALL]),
        ] {
            assert_eq!(level(&template(chef, "8.0.7", &commands)), None, "{chef} {commands:?}");
        }
        // Another minitar that is installed after Berkshelf comes too late.
        assert_eq!(level(&template("18.2.7", "8.0.7", &[INSTALL, INSTALL_MINITAR])), Some(Level::Error));
    }

    #[test]
    fn what_the_configuration_replaces_is_a_warning() {
        let plain = template("18.2.7", "8.0.7", &[INSTALL]);
        for parameter in REPLACING {
            let mut template = plain.clone();
            template["Parameters"][parameter]["Default"] = json!("https://example.com/x");
            assert_eq!(level(&template), Some(Level::Warning), "{parameter}");
            template["Parameters"][parameter]["Default"] = json!("");
            assert_eq!(level(&template), Some(Level::Error), "{parameter}");
        }
        let mirror = ["gem sources --add https://gems.example.com/", INSTALL];
        assert_eq!(level(&template("18.2.7", "8.0.7", &mirror)), Some(Level::Warning));
        assert_eq!(
            level(&template("18.2.7", "8.0.7", &["gem install -s http://x berkshelf:8.0.7"])),
            Some(Level::Warning)
        );
        assert_eq!(level(&template("18.2.7", "8.1.0", &[INSTALL])), Some(Level::Warning));
    }
}
