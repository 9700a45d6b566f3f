//! The component of pcluster in a template: the commands that install pcluster's software on the instance.
//! Pure.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::rules::template::cloudformation::{Yaml, format_resource, select_resources};
use crate::text::yaml;

const COMPONENT: &str = "ParallelClusterComponent";

/// The step that names the operating systems that the release supports.
const OS_STEP: &str = "OperatingSystemName";

/// pcluster's names for operating systems are one of these prefixes and a number: `alinux2023`, `rhel9`.
const OS_PREFIXES: [&str; 5] = ["alinux", "centos", "ubuntu", "rhel", "rocky"];

/// The document of the component.
#[derive(Debug)]
pub struct Component(Value);

impl Component {
    /// Reads the component; `None` if the template has none (`DisablePclusterComponent`), or if the component
    /// cannot be read.
    pub fn read(template: &Value) -> Option<Self> {
        let components = select_resources(template, "AWS::ImageBuilder::Component");
        let (_, component) = components.into_iter().find(|(name, _)| *name == COMPONENT)?;
        let data = &component["Properties"]["Data"];
        let text = data.as_str().or_else(|| data["Fn::Sub"].as_str())?;
        let Yaml(document) = yaml::parse(text).ok()?;
        Some(Self(document))
    }

    /// The component's path in the template.
    pub fn path() -> String {
        format!("{}.Properties.Data", format_resource(COMPONENT))
    }

    /// The value of a constant of the component.
    pub fn constant(&self, name: &str) -> Option<&str> {
        let constants = self.0["constants"].as_array()?;
        constants.iter().find_map(|constant| constant[name]["value"].as_str())
    }

    /// The lines of all commands in order, without comments. A line that ends in a backslash includes the
    /// next line.
    pub fn lines(&self) -> Vec<String> {
        let commands = self.steps().flat_map(commands_of).map(|command| command.replace("\\\n", " "));
        let lines = commands
            .flat_map(|command| command.lines().map(str::trim).map(str::to_owned).collect::<Vec<_>>());
        lines.filter(|line| !line.starts_with('#')).collect()
    }

    /// The operating systems that the release supports, by pcluster's names. The names are read from the
    /// commands of `OS_STEP`, where all known releases put each name in single quotes. Empty if there is no
    /// such name.
    pub fn supported_systems(&self) -> BTreeSet<String> {
        let commands = self.steps().filter(|step| step["name"] == OS_STEP).flat_map(commands_of);
        // If a text is split at its quotes, every second part was quoted.
        let quoted = commands.flat_map(|command| command.split('\'').skip(1).step_by(2));
        let is_system = |word: &&str| {
            OS_PREFIXES.iter().any(|prefix| {
                word.strip_prefix(prefix).is_some_and(|rest| rest.bytes().all(|digit| digit.is_ascii_digit()))
            })
        };
        quoted.filter(is_system).map(str::to_owned).collect()
    }

    fn steps(&self) -> impl Iterator<Item = &Value> {
        let phases = self.0["phases"].as_array().into_iter().flatten();
        phases.flat_map(|phase| phase["steps"].as_array().into_iter().flatten())
    }
}

fn commands_of(step: &Value) -> impl Iterator<Item = &str> {
    step["inputs"]["commands"].as_array().into_iter().flatten().filter_map(Value::as_str)
}

/// A template with this component.
#[cfg(test)]
pub(crate) fn template_with(document: &str) -> Value {
    serde_json::json!({"Resources": {COMPONENT: {
        "Type": "AWS::ImageBuilder::Component", "Properties": {"Data": {"Fn::Sub": document}},
    }}})
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(document: &str) -> Option<Component> {
        Component::read(&template_with(document))
    }

    #[test]
    fn both_ways_of_writing_supported_systems_are_read() {
        let old = "phases:\n- name: build\n  steps:\n  - name: OperatingSystemName\n    inputs:\n      commands:\n      - |\n        \
                   RELEASE='{{ build.OperatingSystemRelease.outputs.stdout }}'\n        \
                   if [ `echo \"${!RELEASE}\" | grep '^rocky\\.9'` ]; then\n          OS='rocky9'\n        fi\n";
        let new = "phases:\n- name: build\n  steps:\n  - name: OperatingSystemName\n    inputs:\n      commands:\n      - |\n        \
                   case $RELEASE in\n          rocky.9*) echo 'rocky9' ;;\n        esac\n";
        for document in [old, new] {
            assert_eq!(Vec::from_iter(read(document).unwrap().supported_systems()), ["rocky9"]);
        }
        let good: Value =
            serde_json::from_str(include_str!("../../../tests/fixtures/template-good.json")).unwrap();
        let systems = Component::read(&good).unwrap().supported_systems();
        assert_eq!(Vec::from_iter(systems), ["alinux2", "centos7", "ubuntu1804", "ubuntu2004"]);
    }

    #[test]
    fn what_cannot_be_read_is_no_component() {
        assert!(read("a: [").is_none());
        assert!(Component::read(&json!({"Resources": {}})).is_none());
        assert!(read("phases: 3").unwrap().lines().is_empty());
        assert!(read("- a").unwrap().supported_systems().is_empty());
    }
}
