//! The commands that a listing suggests to the user, as text and as JSON. Pure.

use serde::Serialize;

use crate::images::inventory::Deletion;
use crate::images::origin::Sharing;
use crate::text::printable::quote_for_shell;

/// Commands that can be pasted, one for each purpose.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Commands {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repair: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delete: Option<String>,
    /// Restores launch permissions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub share: Option<String>,
}

/// The command that gives an AMI this image id, no matter what was found of its build.
pub fn adopt(id: &str, ami: &str, region: &str) -> String {
    let [id, ami, region] = [id, ami, region].map(quote_for_shell);
    format!("pcluster preflight images --repair -i {id} --image {ami} -r {region}")
}

/// The command that finishes an interrupted deletion.
pub fn finish(deletion: &Deletion) -> String {
    let [ami, region] = [&deletion.ami, &deletion.region].map(|name| quote_for_shell(name));
    format!("pcluster preflight images --delete --image {ami} -r {region}")
}

/// The command that shares an AMI again. Parts of the command come from the configuration in S3, which can
/// contain any text. The result is `None` if a part could have a special meaning for a shell, or if there is
/// nothing to share.
pub fn share(ami: &str, region: &str, sharing: &Sharing) -> Option<String> {
    let is_plain = |text: &str| {
        !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.:/".contains(c))
    };
    let added: Vec<String> = sharing.list().map(|(key, id)| format!("{{{key}={id}}}")).collect();
    let command = format!(
        "aws ec2 modify-image-attribute --region {region} --image-id {ami} --launch-permission 'Add=[{}]'",
        added.join(",")
    );
    let mut all = sharing.list().map(|(_, id)| id).chain([region, ami]);
    (!added.is_empty() && all.all(is_plain)).then_some(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_launch_permissions_are_a_command_only_if_a_shell_takes_them_as_they_are() {
        let command = |sharing: &Sharing| share("ami-1", "us-east-1", sharing);
        let sharing = Sharing {
            user_ids: vec!["111122223333".into()],
            organizational_unit_arns: vec!["arn:aws:organizations::1:ou/o-1/ou-1".into()],
            ..Sharing::default()
        };
        assert_eq!(
            command(&sharing).unwrap(),
            "aws ec2 modify-image-attribute --region us-east-1 --image-id ami-1 --launch-permission \
             'Add=[{UserId=111122223333},{OrganizationalUnitArn=arn:aws:organizations::1:ou/o-1/ou-1}]'"
        );
        let hostile = Sharing { user_ids: vec!["1' ; rm x".into()], ..Sharing::default() };
        assert_eq!(command(&hostile), None);
        let everybody = Sharing { user_groups: vec!["all".into()], ..Sharing::default() };
        assert_eq!(command(&everybody), None);
    }
}
