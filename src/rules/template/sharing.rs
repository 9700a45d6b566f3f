//! An AMI that is encrypted with AWS's own key and shared: EC2 refuses that at the end of the build. Pure.

use serde_json::{Value, json};

use crate::model::finding::{Finding, Fix, Kind, Level};
use crate::rules::template::cloudformation::{DISTRIBUTION, format_resource, select_resources};
use crate::rules::template::recipe::RECIPE;

pub const ID: &str = "sharing-aws-managed-key";

/// The key that EC2 uses if no other one is named, and the account has no default of its own.
const AWS_KEY: &str = "alias/aws/ebs";

/// The keys of a launch permission, each with a list.
const GRANTS: [&str; 4] = ["UserIds", "UserGroups", "OrganizationArns", "OrganizationalUnitArns"];

/// Finds a shared AMI whose volume has AWS's own key: certain if the key is named, likely if none is.
pub fn check(template: &Value) -> Option<Finding> {
    let encryption = find_encryption(template)?;
    let path = find_sharing(template, encryption.account())?;
    let (level, key) = match encryption.key {
        Some(_) => (Level::Error, "with AWS's own key aws/ebs"),
        None => (Level::Warning, "with the account's default key, which is AWS's own unless it was changed"),
    };
    Some(Finding {
        id: ID.into(),
        level,
        kind: Kind::ImageLimit,
        message: format!("the AMI is shared, but its volume is encrypted {key}"),
        cost: Some("EC2 refuses to share such an AMI at the end of the build, after an hour of EC2.".into()),
        evidence: json!({"path": path, "encryption": encryption.path, "kmsKeyId": encryption.key}),
        fix: Some(Fix::by_hand(
            "name a key of your own in Image.RootVolume.KmsKeyId, or remove the LaunchPermission".into(),
        )),
        references: vec![
            "https://repost.aws/knowledge-center/image-builder-distr-error-encrypted-ami".into(),
        ],
        fails_build: level == Level::Warning,
        is_ignored: false,
        shows: None,
    })
}

struct Encryption<'t> {
    path: String,
    /// The name of AWS's own key, if it is named.
    key: Option<&'t str>,
}

impl Encryption<'_> {
    /// The account of the key: `arn:aws:kms:REGION:ACCOUNT:alias/aws/ebs`.
    fn account(&self) -> Option<&str> {
        self.key?.split(':').nth(4)
    }
}

/// The volume that is encrypted with AWS's own key.
fn find_encryption(template: &Value) -> Option<Encryption<'_>> {
    let recipes = select_resources(template, RECIPE).into_iter();
    let volumes = recipes.flat_map(|(recipe, resource)| {
        let mappings = resource["Properties"]["BlockDeviceMappings"].as_array().into_iter().flatten();
        mappings.enumerate().map(move |(index, mapping)| (recipe, index, &mapping["Ebs"]))
    });
    let mut encrypted = volumes.filter(|(_, _, ebs)| ebs["Encrypted"] == true || ebs["Encrypted"] == "true");
    encrypted.find_map(|(recipe, index, ebs)| {
        let key = match &ebs["KmsKeyId"] {
            Value::Null => None,
            Value::String(key) if key == AWS_KEY || key.ends_with(&format!(":{AWS_KEY}")) => {
                Some(key.as_str())
            }
            _ => return None,
        };
        let path = format!("{}.Properties.BlockDeviceMappings[{index}].Ebs", format_resource(recipe));
        Some(Encryption { path, key })
    })
}

/// The path of a launch permission for anybody but the account itself, if that is known.
fn find_sharing(template: &Value, account: Option<&str>) -> Option<String> {
    let configurations = select_resources(template, DISTRIBUTION).into_iter();
    let mut distributions = configurations.flat_map(|(name, resource)| {
        let list = resource["Properties"]["Distributions"].as_array().into_iter().flatten();
        list.enumerate().map(move |(index, distribution)| (name, index, distribution))
    });
    distributions.find_map(|(name, index, distribution)| {
        let permission = &distribution["AmiDistributionConfiguration"]["LaunchPermissionConfiguration"];
        let place = format!("{}.Properties.Distributions[{index}]", format_resource(name));
        let shares = GRANTS.iter().any(|grant| {
            let others = permission[grant].as_array().into_iter().flatten();
            others.into_iter().any(|other| account.is_none_or(|account| other != account))
        });
        shares.then(|| format!("{place}.AmiDistributionConfiguration.LaunchPermissionConfiguration"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn level(ebs: &Value, permission: &Value) -> Option<Level> {
        let ami = json!({"AmiDistributionConfiguration": {"LaunchPermissionConfiguration": permission}});
        let template = json!({"Resources": {
            "R": {"Type": RECIPE, "Properties": {"BlockDeviceMappings": [{"Ebs": ebs}]}},
            "D": {"Type": DISTRIBUTION, "Properties": {"Distributions": [{}, ami]}},
        }});
        check(&template).map(|finding| finding.level)
    }

    #[test]
    fn a_shared_ami_with_awss_own_key_is_found() {
        let users = json!({"UserIds": ["111122223333"]});
        let encrypted = |key: &str| json!({"Encrypted": true, "KmsKeyId": key});
        for key in ["alias/aws/ebs", "arn:aws:kms:eu-west-1:123456789012:alias/aws/ebs"] {
            assert_eq!(level(&encrypted(key), &users), Some(Level::Error), "{key}");
        }
        assert_eq!(level(&json!({"Encrypted": true}), &users), Some(Level::Warning));
        for permission in [
            json!({"UserGroups": ["all"]}),
            json!({"OrganizationArns": ["arn:aws:organizations::1:organization/o-1"]}),
            json!({"OrganizationalUnitArns": ["arn:aws:organizations::1:ou/o-1/ou-1"], "UserIds": []}),
        ] {
            assert_eq!(level(&encrypted(AWS_KEY), &permission), Some(Level::Error));
        }
    }

    #[test]
    fn near_misses_are_no_finding() {
        let users = || json!({"UserIds": ["111122223333"]});
        for key in
            ["alias/my-ebs", "alias/aws/ebs2", "1234abcd-12ab-34cd-56ef-1234567890ab", "my-alias/aws/ebs"]
        {
            assert_eq!(level(&json!({"Encrypted": true, "KmsKeyId": key}), &users()), None, "{key}");
        }
        assert_eq!(level(&json!({"Encrypted": false}), &users()), None);
        assert_eq!(level(&json!({}), &users()), None);
        for nobody in [Value::Null, json!({}), json!({"UserIds": []}), json!({"UserIds": "x"})] {
            assert_eq!(level(&json!({"Encrypted": true, "KmsKeyId": AWS_KEY}), &nobody), None);
        }
        let own = "arn:aws:kms:eu-west-1:111122223333:alias/aws/ebs";
        assert_eq!(level(&json!({"Encrypted": true, "KmsKeyId": own}), &users()), None);
        assert_eq!(level(&json!({"Encrypted": true, "KmsKeyId": {"Ref": "Key"}}), &users()), None);
    }
}
