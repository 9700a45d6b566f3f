//! The operating system of an AMI, by its name, its owner and its platform. Pure.
//!
//! EC2 does not show the operating system in any other way. This file knows how vendors name their images.
//! Anybody can give such a name to an image, so how much the name proves depends on the image's owner.

use crate::rules::parent::facts::ParentImage;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct System {
    /// pcluster's name, such as `ubuntu2204` or `rhel8`. Systems that no release supports have similar names
    /// here, such as `debian12`.
    pub name: String,
    /// The version of RHEL or Rocky Linux, such as `8.10`, if the image's name contains it.
    /// `None` for other systems.
    pub version: Option<String>,
    /// The image is from the vendor, or EC2 itself names the system.
    pub is_certain: bool,
}

/// The accounts of vendors, by the prefix of the system's name. Some vendors have more than one, because the
/// partitions of AWS have separate accounts.
const VENDORS: [(&str, &[&str]); 9] = [
    ("alinux", &["137112412989"]),
    ("ubuntu", &["099720109477", "513442679011", "837727238323"]),
    ("rhel", &["309956199498", "219670896067", "841258680906"]),
    ("rocky", &["792107900819"]),
    ("centos", &["125523088429"]),
    ("debian", &["136693071363"]),
    ("sles", &["013907871322"]),
    ("almalinux", &["764336703387"]),
    ("oracle", &["131827586825"]),
];

/// The titles of systems for messages.
const TITLES: [(&str, &str); 10] = [
    ("alinux", "Amazon Linux"),
    ("ubuntu", "Ubuntu"),
    ("rhel", "RHEL"),
    ("rocky", "Rocky Linux"),
    ("centosstream", "CentOS Stream"),
    ("centos", "CentOS"),
    ("debian", "Debian"),
    ("sles", "SUSE Linux Enterprise Server"),
    ("almalinux", "AlmaLinux"),
    ("oracle", "Oracle Linux"),
];

impl System {
    /// Finds the system of an image; `None` if nothing shows it.
    pub fn of(image: &ParentImage) -> Option<Self> {
        let details = image.platform_details.as_deref().unwrap_or_default();
        if image.platform.as_deref().is_some_and(|platform| platform.eq_ignore_ascii_case("windows")) {
            return Some(Self { name: "windows".into(), version: None, is_certain: true });
        }
        if details.starts_with("SUSE") {
            return Some(Self { name: "sles".into(), version: None, is_certain: true });
        }
        let (name, version) = read_name(image.name.as_deref()?)?;
        let is_certain = is_of_vendor(&name, image);
        Some(Self { name, version, is_certain })
    }

    /// For messages: `Rocky Linux 9.5`, `Ubuntu 22.04`.
    pub fn title(&self) -> String {
        if self.name == "windows" {
            return "Windows".into();
        }
        let known = TITLES.iter().find_map(|(start, title)| Some((*title, self.name.strip_prefix(start)?)));
        let Some((title, rest)) = known else { return self.name.clone() };
        let version = match (&self.version, rest.len()) {
            (Some(version), _) => version.clone(),
            (None, 4) if title == "Ubuntu" => format!("{}.{}", &rest[..2], &rest[2..]),
            (None, _) => rest.to_owned(),
        };
        format!("{title} {version}").trim_end().to_owned()
    }
}

fn is_of_vendor(system: &str, image: &ParentImage) -> bool {
    let owner = image.owner_id.as_deref().unwrap_or_default();
    let is_amazons = image.owner_alias.as_deref() == Some("amazon");
    let known = VENDORS.iter().find(|(start, _)| system.starts_with(start));
    // Amazon's own images belong to several accounts.
    known.is_some_and(|(start, accounts)| accounts.contains(&owner) || *start == "alinux" && is_amazons)
}

/// The system and its version, according to the name of an image.
fn read_name(name: &str) -> Option<(String, Option<String>)> {
    let name = name.to_ascii_lowercase();
    let plain = |system: &str| Some((system.to_owned(), None));
    if name.starts_with("amzn2-ami-") {
        return plain("alinux2");
    }
    if name.starts_with("al2023-ami-") {
        return plain("alinux2023");
    }
    if name.starts_with("amzn-ami-") {
        return plain("alinux1");
    }
    if name.starts_with("ubuntu") {
        return read_ubuntu(&name);
    }
    if name.starts_with("rhel") {
        return read_red_hat(&name);
    }
    if name.starts_with("rocky-") {
        return read_rocky(&name);
    }
    if let Some(image) = name.strip_prefix("deep learning ") {
        return read_deep_learning(image);
    }
    // Each of these prefixes is followed by the major version.
    let others = [
        ("centos stream ", "centosstream"),
        ("centos-stream-", "centosstream"),
        ("centos linux ", "centos"),
        ("centos-", "centos"),
        ("centos ", "centos"),
        ("debian-", "debian"),
        ("suse-sles-", "sles"),
        ("almalinux os ", "almalinux"),
        ("ol", "oracle"),
    ];
    let (rest, system) =
        others.iter().find_map(|(start, system)| Some((name.strip_prefix(start)?, *system)))?;
    let major = leading_digits(rest);
    (!major.is_empty()).then(|| (format!("{system}{major}"), None))
}

/// `ubuntu/images/hvm-ssd/ubuntu-jammy-22.04-amd64-server-20240927`.
fn read_ubuntu(name: &str) -> Option<(String, Option<String>)> {
    let release = name.split(['-', '/', '_']).find(|part| {
        part.len() == 5
            && part
                .bytes()
                .enumerate()
                .all(|(at, byte)| if at == 2 { byte == b'.' } else { byte.is_ascii_digit() })
    })?;
    Some((format!("ubuntu{}", release.replace('.', "")), None))
}

/// `RHEL-8.10.0_HVM-20240523-x86_64-88-Hourly2-GP3`, `RHEL_HA-9.4.0_HVM-…`.
fn read_red_hat(name: &str) -> Option<(String, Option<String>)> {
    let version = name.split('-').nth(1)?;
    let mut parts = version.split(['.', '_']);
    let (major, minor) = (leading_digits(parts.next()?), leading_digits(parts.next()?));
    (!major.is_empty() && !minor.is_empty())
        .then(|| (format!("rhel{major}"), Some(format!("{major}.{minor}"))))
}

/// `Rocky-9-EC2-Base-9.5-20241118.0.x86_64`.
fn read_rocky(name: &str) -> Option<(String, Option<String>)> {
    let mut parts = name.split('-').skip(1);
    let major = leading_digits(parts.next()?);
    if major.is_empty() {
        return None;
    }
    let version = parts.find(|part| {
        part.split_once('.')
            .is_some_and(|(own, minor)| own == major && !minor.is_empty() && leading_digits(minor) == minor)
    });
    Some((format!("rocky{major}"), version.map(str::to_owned)))
}

/// `Deep Learning Base OSS Nvidia Driver GPU AMI (Ubuntu 22.04) 20241115`.
fn read_deep_learning(image: &str) -> Option<(String, Option<String>)> {
    let system = image.split_once('(')?.1.split_once(')')?.0;
    match system {
        "amazon linux 2" => Some(("alinux2".into(), None)),
        "amazon linux 2023" => Some(("alinux2023".into(), None)),
        _ => read_ubuntu(&system.strip_prefix("ubuntu ")?.replace(' ', "-")),
    }
}

fn leading_digits(text: &str) -> &str {
    let end = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_vendors_are_read() {
        for (name, system, version) in [
            ("amzn2-ami-kernel-5.10-hvm-2.0.20241113.1-x86_64-gp2", "alinux2", None),
            ("al2023-ami-2023.6.20241121.0-kernel-6.1-x86_64", "alinux2023", None),
            ("amzn-ami-hvm-2018.03.0.20230306.1-x86_64-gp2", "alinux1", None),
            ("ubuntu/images/hvm-ssd-gp3/ubuntu-noble-24.04-amd64-server-20241109", "ubuntu2404", None),
            ("ubuntu-minimal/images/hvm-ssd/ubuntu-focal-20.04-arm64-minimal-20241109", "ubuntu2004", None),
            ("RHEL-8.10.0_HVM-20240523-x86_64-88-Hourly2-GP3", "rhel8", Some("8.10")),
            ("RHEL_HA-9.4.0_HVM-20240605-x86_64-82-Hourly2-GP3", "rhel9", Some("9.4")),
            ("Rocky-9-EC2-Base-9.5-20241118.0.x86_64", "rocky9", Some("9.5")),
            ("Rocky-8-EC2-LVM-8.10-20240528.0.aarch64-prod-abc", "rocky8", Some("8.10")),
            ("CentOS 7.9.2009 x86_64", "centos7", None),
            ("CentOS Linux 7 x86_64 HVM EBS ENA 2002_01", "centos7", None),
            ("CentOS Stream 9 x86_64 20240101", "centosstream9", None),
            ("debian-12-amd64-20241110-1927", "debian12", None),
            ("suse-sles-15-sp6-v20241112-hvm-ssd-x86_64", "sles15", None),
            ("AlmaLinux OS 9.5.20241120 x86_64", "almalinux9", None),
            ("OL8.9-x86_64-HVM-2024-02-02", "oracle8", None),
            ("Deep Learning Base OSS Nvidia Driver GPU AMI (Ubuntu 22.04) 20241115", "ubuntu2204", None),
            ("Deep Learning AMI GPU PyTorch 2.5 (Amazon Linux 2023) 20241101", "alinux2023", None),
        ] {
            let read = read_name(name).unwrap_or_else(|| panic!("{name}"));
            assert_eq!(read, (system.to_owned(), version.map(str::to_owned)), "{name}");
        }
        for name in [
            "my-image",
            "hardened-ubuntu-22.04",
            "",
            "olive-tree",
            "RHEL",
            "Rocky-x",
            "ubuntu-lts",
            "rhel-a.b",
            "deep learning x",
        ] {
            assert_eq!(read_name(name), None, "{name}");
        }
    }

    #[test]
    fn titles_are_those_of_vendors() {
        let title = |name: &str, version: Option<&str>| {
            System { name: name.into(), version: version.map(str::to_owned), is_certain: true }.title()
        };
        assert_eq!(title("ubuntu2204", None), "Ubuntu 22.04");
        assert_eq!(title("rhel8", Some("8.10")), "RHEL 8.10");
        assert_eq!(title("alinux2023", None), "Amazon Linux 2023");
        assert_eq!(title("centosstream9", None), "CentOS Stream 9");
        assert_eq!(
            (title("windows", None), title("sles", None)),
            ("Windows".into(), "SUSE Linux Enterprise Server".into())
        );
    }

    proptest::proptest! {
        #[test]
        fn no_name_makes_it_panic(name in ".{0,60}", start in "(ubuntu|rhel|rocky|ol|deep learning |centos)?[-/ ]?") {
            if let Some((name, version)) = read_name(&format!("{start}{name}")) {
                let _ = System { name, version, is_certain: false }.title();
            }
        }
    }
}
