//! The components and the network of a build → findings. Pure.

use serde_json::{Value, json};

use crate::model::finding::{Finding, Fix, Kind, Level};
use crate::rules::parent::facts::{Facts, Found};

/// Reports scripts and components that do not exist. A build would fail on them only after pcluster's own
/// components, when the hour of EC2 is already spent.
pub fn check_components(facts: &Facts) -> Vec<Finding> {
    let scripts = facts
        .scripts
        .iter()
        .filter_map(|(url, found)| describe_missing("script-missing", "script", url, *found));
    let components = facts
        .components
        .iter()
        .filter_map(|(arn, found)| describe_missing("component-missing", "component", arn, *found));
    scripts.chain(components).collect()
}

fn describe_missing(id: &str, what: &str, name: &str, found: Found) -> Option<Finding> {
    let (level, doubt) = match found {
        Found::Present => return None,
        Found::Absent => (Level::Error, ""),
        Found::Hidden => (Level::Warning, ", as seen from this machine"),
    };
    let message = format!("the {what} {} does not exist{doubt}", without_query(name));
    Some(Finding {
        cost: Some("The build fails after everything else was installed: an hour of EC2 wasted.".into()),
        evidence: json!({what: without_query(name)}),
        fix: Some(Fix::by_hand(format!("correct the {what} in Build.Components"))),
        references: vec!["https://docs.aws.amazon.com/parallelcluster/latest/ug/Build-v3.html".into()],
        fails_build: level == Level::Warning,
        ..Finding::new(id, level, Kind::BuildComponent, message)
    })
}

/// A URL without its query, which can contain a signature.
fn without_query(url: &str) -> &str {
    url.split('?').next().unwrap_or(url)
}

/// Reports a subnet that routes to an internet gateway, but gives its instances no public addresses. An
/// instance without a public address cannot use an internet gateway.
pub fn check_network(facts: &Facts, name: Option<&str>) -> Option<Finding> {
    let subnet = facts.subnet?;
    let is_cut_off = subnet.has_internet_gateway && !subnet.gives_public_addresses;
    let message = format!(
        "subnet {} routes to an internet gateway, but gives its instances no public addresses",
        name.unwrap_or("?")
    );
    is_cut_off.then(|| Finding {
        cost: Some(
            "Without a proxy or VPC endpoints, the build cannot reach the network and times out.".into(),
        ),
        evidence: json!({"subnet": name.map_or(Value::Null, Value::from)}),
        fix: Some(Fix::by_hand(
            "choose a subnet with MapPublicIpOnLaunch, or with a route to a NAT gateway".into(),
        )),
        references: vec!["https://github.com/aws/aws-parallelcluster/pull/3874".into()],
        fails_build: true,
        // Only a warning: a proxy or VPC endpoints would also give the instance access, and we cannot
        // see those.
        ..Finding::new("subnet-no-public-address", Level::Warning, Kind::BuildNetwork, message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::parent::facts::Subnet;

    #[test]
    fn what_is_missing_is_reported_without_its_signature() {
        let facts: Facts = serde_json::from_value(json!({
            "image": null, "subnet": null, "skipped": {},
            "scripts": {"https://example.com/a.sh?X-Amz-Signature=secret": "absent", "s3://b/b.sh": "present", "https://intranet/c.sh": "hidden"},
            "components": {"arn:aws:imagebuilder:eu-west-1:1:component/x/1.0.0/1": "absent"},
        }))
        .unwrap();
        let findings = check_components(&facts);
        let found: Vec<_> = findings.iter().map(|finding| (finding.id.as_str(), finding.level)).collect();
        assert_eq!(
            found,
            [
                ("script-missing", Level::Error),
                ("script-missing", Level::Warning),
                ("component-missing", Level::Error),
            ]
        );
        assert!(findings.iter().all(|finding| !serde_json::to_string(finding).unwrap().contains("secret")));
    }

    #[test]
    fn only_a_gateway_without_addresses_is_told() {
        for (has_internet_gateway, gives_public_addresses, is_told) in
            [(true, false, true), (true, true, false), (false, false, false), (false, true, false)]
        {
            let subnet = Some(Subnet { has_internet_gateway, gives_public_addresses });
            let facts = Facts { subnet, ..Facts::default() };
            assert_eq!(check_network(&facts, Some("subnet-1")).is_some(), is_told);
        }
        assert!(check_network(&Facts::default(), None).is_none());
    }
}
