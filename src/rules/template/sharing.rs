//! An AMI that is encrypted and shared in a way that EC2 refuses at the end of the build. Pure.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::model::finding::{Finding, Fix, Kind, Level};
use crate::rules::template::cloudformation::{DISTRIBUTION, format_resource, select_resources};
use crate::rules::template::recipe::RECIPE;

pub const ID: &str = "sharing-encrypted";

/// The key that EC2 uses if no key is named and the account has not set a default key.
const AWS_KEY: &str = "alias/aws/ebs";

/// The properties of a launch permission that name groups instead of accounts. The value of each is a list.
const GROUPS: [&str; 3] = ["UserGroups", "OrganizationArns", "OrganizationalUnitArns"];

/// Finds an encrypted AMI that is made public, or that is shared although AWS's own key encrypts it.
pub fn check(template: &Value) -> Option<Finding> {
    let volume = find_encrypted_volume(template)?;
    let (path, sharing) = find_sharing(template)?;
    let (level, how) = judge(&volume.key, &sharing)?;
    let fix = if sharing.is_public {
        "share the AMI with accounts in UserIds and set Image.RootVolume.KmsKeyId to your own key, or build it \
         without Image.RootVolume.Encrypted"
    } else {
        "set Image.RootVolume.KmsKeyId to your own key, or remove the LaunchPermission"
    };
    Some(Finding {
        cost: Some("EC2 refuses to share such an AMI at the end of the build, after an hour of EC2.".into()),
        evidence: json!({"path": path, "encryption": volume.path, "kmsKeyId": volume.named_key}),
        fix: Some(Fix::by_hand(fix.into())),
        references: vec![
            "https://repost.aws/knowledge-center/image-builder-distr-error-encrypted-ami".into(),
            "https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/sharingamis-intro.html".into(),
        ],
        fails_build: level == Level::Warning,
        ..Finding::new(ID, level, Kind::ImageLimit, how.into())
    })
}

/// The level and the message of the finding. The level shows how certain it is that EC2 refuses an AMI with
/// this key and this sharing. Sharing with the account that owns the key does not count.
fn judge(key: &Key, sharing: &Sharing) -> Option<(Level, &'static str)> {
    let named = "the AMI is shared, but its volume is encrypted with AWS's own key aws/ebs";
    let default = "the AMI is shared, but its volume is encrypted with the account's default key, which is AWS's own \
                   unless it was changed";
    if sharing.is_public {
        return Some((Level::Error, "the AMI is made public, but its volume is encrypted"));
    }
    match key {
        Key::Other => None,
        Key::Default => Some((Level::Warning, default)),
        Key::Aws(own) => {
            let is_other = |account: &String| own.as_ref() != Some(account);
            let is_for_others = sharing.has_groups || sharing.accounts.iter().any(is_other);
            is_for_others.then_some((Level::Error, named))
        }
    }
}

enum Key {
    /// AWS's own key, named by its alias. AWS has created such a key in each account; the field is the key's
    /// account if the alias is in an ARN.
    Aws(Option<String>),
    /// No key is named.
    Default,
    Other,
}

impl Key {
    fn read(value: &Value) -> Self {
        match value.as_str() {
            None if value.is_null() => Self::Default,
            Some("") => Self::Default,
            Some(AWS_KEY) => Self::Aws(None),
            // arn:aws:kms:REGION:ACCOUNT:alias/aws/ebs
            Some(key) if key.ends_with(&format!(":{AWS_KEY}")) => {
                Self::Aws(key.split(':').nth(4).map(str::to_owned))
            }
            _ => Self::Other,
        }
    }
}

struct Volume<'t> {
    path: String,
    key: Key,
    named_key: &'t Value,
}

fn find_encrypted_volume(template: &Value) -> Option<Volume<'_>> {
    let recipes = select_resources(template, RECIPE).into_iter();
    let mut volumes = recipes.flat_map(|(recipe, resource)| {
        let mappings = resource["Properties"]["BlockDeviceMappings"].as_array().into_iter().flatten();
        mappings.enumerate().map(move |(index, mapping)| (recipe, index, &mapping["Ebs"]))
    });
    let is_encrypted = |ebs: &Value| ebs["Encrypted"] == true || ebs["Encrypted"] == "true";
    let (recipe, index, ebs) = volumes.find(|(_, _, ebs)| is_encrypted(ebs))?;
    let path = format!("{}.Properties.BlockDeviceMappings[{index}].Ebs", format_resource(recipe));
    let named_key = &ebs["KmsKeyId"];
    Some(Volume { path, key: Key::read(named_key), named_key })
}

/// Who a launch permission is for.
struct Sharing {
    accounts: BTreeSet<String>,
    has_groups: bool,
    is_public: bool,
}

impl Sharing {
    fn read(permission: &Value) -> Self {
        let list = |key: &str| permission[key].as_array().into_iter().flatten();
        // An account id that is a number in the configuration is also a number in the template.
        let accounts = list("UserIds").map(|id| id.as_str().map_or_else(|| id.to_string(), str::to_owned));
        Self {
            accounts: accounts.collect(),
            has_groups: GROUPS.iter().any(|key| list(key).next().is_some()),
            is_public: list("UserGroups").any(|group| group == "all"),
        }
    }

    fn is_for_anybody(&self) -> bool {
        self.has_groups || !self.accounts.is_empty()
    }
}

/// The first launch permission, with its path.
fn find_sharing(template: &Value) -> Option<(String, Sharing)> {
    let configurations = select_resources(template, DISTRIBUTION).into_iter();
    let mut distributions = configurations.flat_map(|(name, resource)| {
        let list = resource["Properties"]["Distributions"].as_array().into_iter().flatten();
        list.enumerate().map(move |(index, distribution)| (name, index, distribution))
    });
    distributions.find_map(|(name, index, distribution)| {
        let key = "AmiDistributionConfiguration";
        let sharing = Sharing::read(&distribution[key]["LaunchPermissionConfiguration"]);
        let place = format!("{}.Properties.Distributions[{index}]", format_resource(name));
        sharing.is_for_anybody().then(|| (format!("{place}.{key}.LaunchPermissionConfiguration"), sharing))
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
        assert_eq!(level(&json!({"Encrypted": true, "KmsKeyId": ""}), &users), Some(Level::Warning));
        assert_eq!(level(&json!({"Encrypted": true}), &users), Some(Level::Warning));
        for permission in [
            json!({"UserGroups": ["all"]}),
            json!({"OrganizationArns": ["arn:aws:organizations::1:organization/o-1"]}),
            json!({"OrganizationalUnitArns": ["arn:aws:organizations::1:ou/o-1/ou-1"], "UserIds": []}),
        ] {
            assert_eq!(level(&encrypted(AWS_KEY), &permission), Some(Level::Error));
        }
    }

    /// EC2's user guide: AMIs with encrypted volumes cannot be made public.
    #[test]
    fn a_public_ami_must_not_be_encrypted_whatever_the_key() {
        let everybody = json!({"UserGroups": ["all"]});
        for key in [Value::Null, json!(AWS_KEY), json!("arn:aws:kms:eu-west-1:111122223333:key/1")] {
            let encrypted = json!({"Encrypted": true, "KmsKeyId": key});
            assert_eq!(level(&encrypted, &everybody), Some(Level::Error), "{key}");
        }
        assert_eq!(level(&json!({"Encrypted": false}), &everybody), None);
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
        let number = json!({"UserIds": [111_122_223_333_u64]});
        assert_eq!(level(&json!({"Encrypted": true, "KmsKeyId": own}), &number), None);
        assert_eq!(level(&json!({"Encrypted": true, "KmsKeyId": {"Ref": "Key"}}), &users()), None);
    }
}
