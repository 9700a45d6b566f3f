//! Image configurations for every key of `ImageBuilderSchema`, for extreme values, and for YAML's odd
//! corners. `@IMAGE@` and `@BUCKET@` are replaced with the parent image and the bucket of the stand-in
//! for AWS.

/// One image configuration.
pub(crate) struct Configuration {
    /// The name of the configuration's file, and the id of its image.
    pub(crate) name: &'static str,
    /// What it tests.
    #[expect(dead_code, reason = "says why it is there")]
    about: &'static str,
    pub(crate) text: Vec<u8>,
    /// Whether this is one of the few configurations that are built even without CORPUS=whole.
    pub(crate) is_odd: bool,
}

const BASE: &str = "Build:\n  InstanceType: c5.xlarge\n  ParentImage: @IMAGE@\nCustomS3Bucket: @BUCKET@\n";

fn configuration(name: &'static str, about: &'static str, text: impl Into<Vec<u8>>) -> Configuration {
    Configuration { name, about, text: text.into(), is_odd: false }
}

/// A configuration for which an earlier version of the shim stopped the build or reported a finding.
fn odd(name: &'static str, about: &'static str, text: impl Into<Vec<u8>>) -> Configuration {
    Configuration { is_odd: true, ..configuration(name, about, text) }
}

/// The smallest configuration that builds, with `more` at the top level.
fn with(more: &str) -> String {
    format!("{BASE}{more}")
}

/// The smallest configuration that builds, with `more` in `Build`.
fn build(more: &str) -> String {
    format!("CustomS3Bucket: @BUCKET@\nBuild:\n  InstanceType: c5.xlarge\n  ParentImage: @IMAGE@\n{more}")
}

/// The smallest configuration that builds, with `Image.Tags` in flow style.
fn tags(list: &str) -> String {
    with(&format!("Image: {{Tags: [{list}]}}\n"))
}

fn launch_permission(json: &str) -> String {
    with(&format!(
        "DevSettings:\n  DistributionConfiguration:\n    Regions: us-east-1\n    LaunchPermission: '{json}'\n"
    ))
}

/// All configurations. Those with `is_odd` come first.
pub(crate) fn all() -> Vec<Configuration> {
    let parts = [image(), tagged(), distributed(), built(), developed(), placed(), written()];
    let mut all: Vec<_> = parts.into_iter().flatten().collect();
    all.sort_by_key(|one| !one.is_odd);
    all
}

fn image() -> Vec<Configuration> {
    let longest = "n".repeat(99);
    vec![
        configuration("minimal", "the least that builds", with("")),
        configuration("name", "Image.Name", with("Image: {Name: custom-name}\n")),
        odd("name-empty", "no name: the image's id counts", with("Image: {Name: ''}\n")),
        configuration("name-blanks", "blanks are a name", with("Image: {Name: '   '}\n")),
        configuration(
            "name-longest",
            "all that the build date leaves room for",
            with(&format!("Image: {{Name: {longest}}}\n")),
        ),
        configuration("name-too-long", "one character more", with(&format!("Image: {{Name: {longest}x}}\n"))),
        configuration("name-unicode", "a name that EC2 will refuse", with("Image: {Name: Bïld 東京 😀}\n")),
        configuration("name-control", "escapes in a name", with("Image: {Name: \"a\\tb\\a\\e[31m\\0\"}\n")),
        odd(
            "name-half-pair",
            "half of a UTF-16 pair, and a pair in halves",
            with("Image: {Name: \"a\\ud800b\\ud83d\\ude00\"}\n"),
        ),
        configuration("name-number", "a number is no name", with("Image: {Name: 123}\n")),
        configuration("name-null", "null is no name", with("Image: {Name: }\n")),
        configuration("image-null", "a section without content", with("Image:\n")),
        configuration("image-empty", "an empty section", with("Image: {}\n")),
        configuration(
            "volume",
            "Image.RootVolume",
            with("Image: {RootVolume: {Size: 200, Encrypted: true, KmsKeyId: some-key}}\n"),
        ),
        configuration(
            "volume-text",
            "numbers and booleans as text",
            with("Image: {RootVolume: {Size: '40', Encrypted: 'on'}}\n"),
        ),
        configuration(
            "volume-encrypted",
            "no size: the parent's and some more",
            with("Image: {RootVolume: {Encrypted: true}}\n"),
        ),
        configuration(
            "volume-negative",
            "a size that EC2 will refuse",
            with("Image: {RootVolume: {Size: -1, KmsKeyId: ''}}\n"),
        ),
    ]
}

fn tagged() -> Vec<Configuration> {
    let fifty: Vec<_> = (0..50).map(|index| format!("{{Key: key{index}, Value: value{index}}}")).collect();
    let fifty = fifty.join(", ");
    let (key, value) = ("k".repeat(128), "v".repeat(256));
    vec![
        configuration("tag", "one tag", tags("{Key: team, Value: hpc}")),
        configuration("tags-none", "an empty list", tags("")),
        odd("tag-empty", "an empty value", tags("{Key: team, Value: ''}")),
        configuration("tag-blanks", "a value of blanks", tags("{Key: team, Value: '  '}")),
        odd(
            "tag-twice",
            "the last of two with one key counts",
            tags("{Key: team, Value: a}, {Key: team, Value: b}"),
        ),
        configuration("tag-no-key", "an empty key", tags("{Key: '', Value: v}")),
        configuration("tag-unicode", "letters of other scripts", tags("{Key: équipe, Value: 東京 😀}")),
        configuration("tags-fifty", "as many as an AMI holds", tags(&fifty)),
        configuration(
            "tag-longest",
            "the longest key and value",
            tags(&format!("{{Key: {key}, Value: {value}}}")),
        ),
        configuration(
            "tag-too-long",
            "one character more",
            tags(&format!("{{Key: {key}, Value: {value}x}}")),
        ),
        configuration("tag-number", "a number is no value", tags("{Key: n, Value: 42}")),
        configuration("tag-boolean", "a boolean of YAML 1.1 is no value", tags("{Key: n, Value: yes}")),
        configuration("tag-date", "a date is no value", tags("{Key: n, Value: 2024-01-01}")),
        configuration("tag-null", "null is no value", tags("{Key: n, Value: ~}")),
        configuration("tag-no-value", "a key alone", tags("{Key: n}")),
        configuration(
            "tag-quoted",
            "texts that could be taken for something else",
            tags(
                "{Key: '1', Value: '007'}, {Key: 'yes', Value: 'null'}, {Key: d, Value: '2024-01-01'}, {Key: ~s, Value: '1:30'}",
            ),
        ),
        configuration(
            "tag-reserved",
            "pcluster's own prefix",
            tags("{Key: 'parallelcluster:image_id', Value: x}"),
        ),
        configuration(
            "tag-custom-resource",
            "the one of that prefix that is not reserved",
            tags("{Key: 'parallelcluster:custom_resource', Value: x}"),
        ),
        configuration("tag-more", "an unknown key beside", tags("{Key: a, Value: b, Other: c}")),
        configuration("tags-mapping", "a mapping for a list", with("Image: {Tags: {team: hpc}}\n")),
        configuration(
            "tag-token-unknown",
            "a token that CDK does not have",
            tags("{Key: t, Value: '${Token[TOKEN.999999]}'}"),
        ),
        configuration(
            "tag-proto",
            "no key in JavaScript",
            tags("{Key: __proto__, Value: x}, {Key: constructor, Value: y}"),
        ),
        configuration("tag-jsii", "a key of jsii's own", tags("{Key: $jsii.date, Value: '2024-01-01'}")),
        configuration(
            "tag-intrinsic",
            "keys that CloudFormation knows",
            tags("{Key: Ref, Value: 'AWS::Region'}, {Key: 'Fn::Join', Value: x}"),
        ),
        configuration("tag-binary", "base64 of YAML's", tags("{Key: !!binary aGk=, Value: !!binary aGU=}")),
        configuration(
            "tag-control",
            "a line feed, an escape, a zero",
            tags("{Key: t, Value: \"a\\nb\\e[31m\\0\\u2028\"}"),
        ),
        configuration(
            "tag-block",
            "a value in a block",
            with(
                "Image:\n  Tags:\n    - Key: text\n      Value: |\n        one\n        two\n    - Key: folded\n      Value: >-\n        one\n        two\n",
            ),
        ),
    ]
}

fn distributed() -> Vec<Configuration> {
    let regions = |regions: &str| {
        with(&format!("DevSettings: {{DistributionConfiguration: {{Regions: {regions}}}}}\n"))
    };
    vec![
        configuration("region-one", "another region than the stack's", regions("eu-west-1")),
        configuration("regions", "several regions", regions("'eu-west-1,us-east-1,ap-south-1'")),
        configuration("regions-twice", "one of them twice", regions("'eu-west-1,us-east-1,eu-west-1'")),
        configuration(
            "regions-line-feed",
            "a line feed that the pattern lets through",
            regions("\"eu-west-1,us-east-1\\n\""),
        ),
        configuration("regions-blank", "a blank after the comma", regions("'eu-west-1, us-east-1'")),
        configuration("regions-empty", "no region", regions("''")),
        configuration("regions-list", "a list for a text", regions("[eu-west-1]")),
        configuration(
            "permission",
            "accounts that may launch",
            launch_permission(r#"{"UserIds": ["123456789012"], "UserGroups": ["all"]}"#),
        ),
        odd("permission-empty", "an empty permission", launch_permission("{}")),
        configuration("permission-null", "JSON's null is none", launch_permission("null")),
        configuration("permission-array", "an empty array", launch_permission("[]")),
        configuration(
            "permission-nulls",
            "nulls in it, and numbers of JavaScript",
            launch_permission(
                r#"{"UserIds": ["1", null], "x": null, "n": 1.0, "big": 12345678901234567890}"#,
            ),
        ),
        configuration(
            "permission-proto",
            "no key in JavaScript",
            launch_permission(r#"{"__proto__": {"a": 1}}"#),
        ),
        odd("permission-nan", "what Python takes for JSON, and Node does not", launch_permission("NaN")),
        configuration("permission-no-json", "no JSON", launch_permission("{UserIds}")),
        configuration("permission-blank", "an empty text", launch_permission("")),
        odd(
            "permission-no-regions",
            "the real code trips over it",
            with("DevSettings: {DistributionConfiguration: {LaunchPermission: '{}'}}\n"),
        ),
        configuration(
            "distribution-empty",
            "the real code trips over it",
            with("DevSettings: {DistributionConfiguration: {}}\n"),
        ),
    ]
}

fn built() -> Vec<Configuration> {
    let iam = |iam: &str| build(&format!("  Iam: {{{iam}}}\n"));
    let role = "arn:aws:iam::123456789012:role/some-role";
    let components = |list: &str| build(&format!("  Components: [{list}]\n"));
    vec![
        configuration(
            "build-tags",
            "Build.Tags",
            build("  Tags: [{Key: team, Value: hpc}, {Key: team, Value: ''}]\n"),
        ),
        configuration("build-null", "Build without content", "Build:\n"),
        configuration("build-no-type", "no instance type", "Build: {ParentImage: @IMAGE@}\n"),
        configuration("build-unknown", "an unknown key", build("  Unknown: 1\n")),
        configuration(
            "parent-arn",
            "an image of Image Builder's",
            "CustomS3Bucket: @BUCKET@\nBuild:\n  InstanceType: c5.xlarge\n  ParentImage: arn:aws:imagebuilder:us-east-1:aws:image/amazon-linux-2-x86/x.x.x\n",
        ),
        configuration(
            "parent-other",
            "neither an AMI nor an ARN",
            "Build: {InstanceType: c5.xlarge, ParentImage: image}\n",
        ),
        configuration(
            "network",
            "subnet and security groups",
            build("  SubnetId: subnet-12345678\n  SecurityGroupIds: [sg-12345678, sg-87654321]\n"),
        ),
        configuration("network-bad", "no security group", build("  SecurityGroupIds: [group]\n")),
        configuration(
            "components",
            "a script and an ARN",
            components(
                "{Type: script, Value: 'https://example.com/a.sh'}, {Type: arn, Value: 'arn:aws:imagebuilder:us-east-1:aws:component/x/1.0.0/1'}, {Type: script, Value: 's3://bucket/b.sh'}",
            ),
        ),
        configuration("component-no-type", "the real code trips over it", components("{Value: x}")),
        configuration("component-no-value", "the real code trips over it", components("{Type: arn}")),
        configuration("component-bad", "a script that is no URL", components("{Type: script, Value: /a.sh}")),
        configuration(
            "iam-role",
            "Iam.InstanceRole and CleanupLambdaRole",
            iam(&format!("InstanceRole: '{role}', CleanupLambdaRole: '{role}'")),
        ),
        configuration(
            "iam-profile",
            "Iam.InstanceProfile",
            iam("InstanceProfile: 'arn:aws:iam::123456789012:instance-profile/p'"),
        ),
        configuration(
            "iam-policies",
            "policies and a boundary",
            iam(
                "AdditionalIamPolicies: [{Policy: 'arn:aws:iam::aws:policy/ReadOnlyAccess'}], PermissionsBoundary: 'arn:aws:iam::aws:policy/PowerUserAccess'",
            ),
        ),
        configuration(
            "iam-both",
            "what does not go together",
            iam(&format!("InstanceRole: '{role}', InstanceProfile: 'arn:aws:iam::1:instance-profile/p'")),
        ),
        configuration("iam-null", "Iam without content", build("  Iam:\n")),
        configuration(
            "update-os",
            "UpdateOsPackages, a boolean of YAML 1.1",
            build("  UpdateOsPackages: {Enabled: yes}\n"),
        ),
        configuration("imds", "Imds, of later releases", build("  Imds: {ImdsSupport: v2.0}\n")),
        configuration(
            "installation",
            "Installation, of the latest releases",
            build("  Installation: {NvidiaSoftware: {Enabled: true}, LustreClient: {Enabled: false}}\n"),
        ),
    ]
}

fn developed() -> Vec<Configuration> {
    let dev = |dev: &str| with(&format!("DevSettings: {{{dev}}}\n"));
    vec![
        configuration(
            "cookbook",
            "a cookbook and attributes",
            dev(
                r#"Cookbook: {ChefCookbook: 'https://example.com/c.tgz', ExtraChefAttributes: '{"cluster": {"is_official_ami_build": "true"}}'}"#,
            ),
        ),
        configuration(
            "cookbook-s3",
            "a cookbook whose URL is signed",
            dev("Cookbook: {ChefCookbook: 's3://bucket/c.tgz'}"),
        ),
        configuration(
            "attributes-list",
            "the real code trips over it",
            dev("Cookbook: {ExtraChefAttributes: '[]'}"),
        ),
        configuration(
            "packages",
            "node and batch packages",
            dev("NodePackage: 'https://example.com/n.tgz', AwsBatchCliPackage: 'https://example.com/b.tgz'"),
        ),
        configuration(
            "switches",
            "every switch the other way",
            dev(
                "DisablePclusterComponent: true, DisableValidateAndTest: false, TerminateInstanceOnFailure: false",
            ),
        ),
        configuration("test-component", "the test component", dev("DisableValidateAndTest: 'off'")),
        configuration(
            "kernel",
            "keys of later releases",
            dev("DisableKernelUpdate: true, CincInstallerUrl: 'https://example.com/cinc'"),
        ),
        configuration("dev-null", "a section without content", with("DevSettings:\n")),
        configuration(
            "deployment",
            "Lambda functions in a VPC",
            with(
                "DeploymentSettings: {LambdaFunctionsVpcConfig: {SubnetIds: [subnet-12345678], SecurityGroupIds: [sg-12345678]}}\n",
            ),
        ),
    ]
}

fn placed() -> Vec<Configuration> {
    vec![
        configuration("region", "Region as everywhere else", with("Region: us-east-1\n")),
        configuration("region-null", "Region without content", with("Region:\n")),
        configuration("region-number", "a number for a region", with("Region: 1\n")),
        configuration("region-nowhere", "a region that there is not", with("Region: nowhere-1\n")),
        configuration(
            "bucket-absent",
            "a bucket that there is not",
            "Build: {InstanceType: c5.xlarge, ParentImage: @IMAGE@}\nCustomS3Bucket: no-such-bucket\n",
        ),
        configuration(
            "bucket-token",
            "a token of CDK's for a bucket",
            "Build: {InstanceType: c5.xlarge, ParentImage: @IMAGE@}\nCustomS3Bucket: '${Token[AWS::Region.4]}'\n",
        ),
    ]
}

fn written() -> Vec<Configuration> {
    let deep = format!("{}x{}", "[".repeat(400), "]".repeat(400));
    let laughs = "a: &a [x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b]\nd: [*c,*c,*c,*c,*c,*c,*c,*c]\n";
    let latin: Vec<u8> = [with("Image: {Name: B").as_bytes(), b"\xefld}\n"].concat();
    vec![
        configuration(
            "yaml-anchors",
            "anchors and aliases",
            with(
                "Image:\n  Tags:\n    - &tag {Key: &key team, Value: hpc}\n    - {Key: other, Value: *key}\n    - *tag\n",
            ),
        ),
        configuration(
            "yaml-merge",
            "merge keys",
            with("Image:\n  Tags:\n    - &tag {Key: team, Value: hpc}\n    - {<<: *tag, Key: other}\n"),
        ),
        odd(
            "yaml-duplicate",
            "one section twice: the last, or refused by later releases",
            with("Image: {Name: first}\nImage: {Name: last}\n"),
        ),
        configuration(
            "yaml-duplicate-below",
            "one key twice below",
            with("Image: {Name: first, Name: last}\n"),
        ),
        configuration(
            "yaml-octal",
            "an octal number of YAML 1.1",
            with("Image: {RootVolume: {Size: 0144}}\n"),
        ),
        configuration("yaml-sixty", "a number in base sixty", with("Image: {RootVolume: {Size: 1:40}}\n")),
        configuration("yaml-bom", "a byte order mark", format!("\u{feff}{BASE}")),
        configuration("yaml-crlf", "lines of Windows", with("Image: {Name: custom}\n").replace('\n', "\r\n")),
        configuration("yaml-tabs", "tabs for blanks", with("Image:\n\tName: custom\n")),
        configuration(
            "yaml-flow",
            "one line",
            "{Build: {InstanceType: c5.xlarge, ParentImage: @IMAGE@}, CustomS3Bucket: @BUCKET@, Image: {Tags: [{Key: a, Value: b}]}}",
        ),
        configuration(
            "yaml-json",
            "JSON",
            "{\"Build\": {\"InstanceType\": \"c5.xlarge\", \"ParentImage\": \"@IMAGE@\"}, \"CustomS3Bucket\": \"@BUCKET@\"}",
        ),
        configuration("yaml-marks", "document marks and a directive", format!("%YAML 1.1\n---\n{BASE}...\n")),
        configuration("yaml-two", "two documents", format!("{BASE}---\n{BASE}")),
        configuration(
            "yaml-python",
            "an object of Python's",
            with("Image: {Name: !!python/object/apply:os.getcwd []}\n"),
        ),
        configuration("yaml-own-tag", "a tag that nothing knows", with("Image: {Name: !own x}\n")),
        configuration("yaml-str-tag", "a number that is made a text", with("Image: {Name: !!str 123}\n")),
        configuration("yaml-list", "a list at the top", "- Build\n"),
        configuration("yaml-text", "a text at the top", "Build\n"),
        configuration("yaml-empty", "nothing", ""),
        configuration("yaml-comments", "comments only", "# Build:\n\n# nothing\n"),
        configuration("yaml-broken", "an open bracket", with("Image: [\n")),
        configuration("yaml-unknown", "an unknown section", with("Bild: {}\n")),
        configuration("yaml-key-unicode", "a key of other letters", with("Bïld: {}\n")),
        configuration("yaml-key-number", "a key that is no text", with("1: {}\n")),
        configuration("yaml-deep", "brackets in brackets", with(&format!("Image: {deep}\n"))),
        configuration("yaml-laughs", "aliases of aliases of aliases", with(laughs)),
        configuration("yaml-itself", "a list that holds itself", with("Image: {Tags: &self [*self]}\n")),
        configuration("yaml-latin", "bytes that are no UTF-8", latin),
        configuration("yaml-zero", "a character that YAML has not", with("Image: {Name: a\0b}\n")),
        configuration(
            "yaml-huge",
            "800 kB of comment",
            with(&"# some comment that says nothing at all\n".repeat(20_000)),
        ),
        configuration(
            "yaml-ini",
            "a configuration of ParallelCluster 2",
            "[global]\ncluster_template = default\n[cluster default]\nkey_name = x\n",
        ),
    ]
}
