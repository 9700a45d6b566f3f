//! The JSON of a list, a plan and a result has everything that the text has.

use serde_json::{Value, json};

use super::{BUCKET, DONE, account, ami, images, inventory};
use crate::support::sandbox::Sandbox;

/// All commands in the JSON: the values in each object that is stored under a key `commands`.
fn commands(value: &Value) -> Vec<String> {
    match value {
        Value::Object(keys) => keys
            .iter()
            .flat_map(|(key, value)| match value.as_object() {
                Some(own) if key == "commands" => {
                    own.values().map(|command| command.as_str().unwrap().to_owned()).collect()
                }
                _ => commands(value),
            })
            .collect(),
        Value::Array(values) => values.iter().flat_map(commands).collect(),
        _ => Vec::new(),
    }
}

/// The commands in a text; and the ids, ARNs, S3 URLs and log groups in the text.
fn read_text(text: &str) -> (Vec<String>, Vec<String>) {
    let starts = ["pcluster preflight images", "aws ec2"];
    let command = |line: &str| {
        let at = starts.iter().find_map(|start| line.find(start))?;
        Some(line[at..].split('`').next().unwrap().to_owned())
    };
    let is_name = |word: &str| {
        ["ami-", "snap-", "lt-", "s3://", "arn:", "/aws/"].iter().any(|start| word.starts_with(start))
    };
    let is_split = |letter: char| letter.is_whitespace() || "`,;()'".contains(letter);
    let words = text.split(is_split).map(|word| word.trim_end_matches([':', '.']));
    (
        text.lines().filter_map(command).collect(),
        words.filter(|word| is_name(word)).map(str::to_owned).collect(),
    )
}

/// Runs a command once for its text and once for its JSON, and returns the JSON. The JSON must contain every
/// command, id, ARN, S3 URL and log group of the text.
fn json_of(sandbox: &Sandbox, prepare: impl Fn(), arguments: &[&str]) -> Value {
    prepare();
    let run = images(sandbox, &[&["-v"], arguments].concat()).run();
    prepare();
    let report = images(sandbox, &[&["--format", "json"], arguments].concat()).run();
    let json = report.json();
    let (in_text, names) = read_text(&run.stdout());
    let in_json = commands(&json);
    for command in in_text {
        report.holds(in_json.contains(&command), &format!("the JSON has the command `{command}`"));
    }
    for name in names {
        report.holds(json.to_string().contains(&name), &format!("the JSON has {name}"));
    }
    json
}

#[test]
fn json_has_every_command_of_a_list() {
    let sandbox = Sandbox::new();
    let environment = account(&sandbox);
    let json = json_of(&sandbox, || {}, &["-r", "us-east-1"]);
    let own = |change: &str| format!("pcluster preflight images --{change} -r us-east-1");
    assert_eq!(json["commands"], json!({"repair": own("repair"), "delete": own("delete")}));
    let adopt = "pcluster preflight images --repair -i lost --image ami-00000000000000003 -r us-east-1";
    assert_eq!(json["images"][2]["commands"], json!({"repair": adopt}));
    let refused = |image: usize| {
        let image = &json["images"][image];
        (image["repairRefused"].as_str(), image["deleteRefused"].as_str())
    };
    assert_eq!(refused(0), (None, None));
    assert_eq!(refused(4), (Some("no artifacts found"), Some("tagged to be kept")));
    let effect =
        "uses of an AMI by SSM parameters, recipes and older versions of launch templates are not detected";
    assert_eq!(json["skipped"][0]["effect"], effect);
    let mut account = inventory();
    account["images"] = json!([]);
    environment.has_in_aws(&account, &json!([]));
    assert_eq!(json_of(&sandbox, || {}, &[])["commands"], json!({}));
}

#[test]
fn json_has_the_sums_and_commands_of_plan_and_result() {
    let sandbox = Sandbox::new();
    let environment = account(&sandbox);
    let share = |report: &Value| report["images"][0]["commands"]["share"].as_str().unwrap().to_owned();
    let plan = json_of(&sandbox, || {}, &["--repair", "--dry-run"]);
    assert!(share(&plan).ends_with("--launch-permission 'Add=[{UserId=444455556666}]'"), "{plan:#}");
    let sums = json!({
        "change": "repair", "amis": 3, "interruptedDeletions": 0, "refused": {"no artifacts found": 2},
        "failed": 0, "leaving": 0,
    });
    assert_eq!((&plan["plan"], plan.get("result")), (&sums, None));
    let result = json_of(&sandbox, || {}, &["--repair", "--yes"]);
    assert_eq!((&result["result"], result.get("plan")), (&sums, None));
    assert_eq!((share(&result), &result["commands"]), (share(&plan), &json!({})));

    let plan = json_of(&sandbox, || {}, &["--delete", "--dry-run"]);
    let mut sums = json!({
        "change": "delete", "amis": 3, "snapshots": 3, "sizeGiB": 105.0, "monthlyCostAtMost": {"usd": 5.25},
        "interruptedDeletions": 0, "refused": {"in use": 1, "tagged to be kept": 1}, "failed": 0,
        "leaving": 0,
    });
    assert_eq!(plan["plan"], sums);
    assert_eq!(json_of(&sandbox, || {}, &["--delete", "--yes"])["result"], sums);

    let denied = json!({"ok": false, "message": "denied: no", "permission": null});
    environment.has_in_aws(&inventory(), &json!([denied]));
    let result = json_of(&sandbox, || {}, &["--delete", "--yes", "-i", "cpu"]);
    sums = json!({
        "change": "delete", "amis": 0, "snapshots": 0, "sizeGiB": 0.0, "monthlyCostAtMost": {"usd": 0.0},
        "interruptedDeletions": 0, "refused": {}, "failed": 1, "leaving": 0,
    });
    assert_eq!(result["result"], sums);
    assert_eq!(result["commands"], json!({"delete": "pcluster preflight images --delete -i cpu"}));
}

#[test]
fn json_has_what_a_deletion_leaves_and_how_to_finish_it() {
    let sandbox = Sandbox::new();
    let environment = sandbox.environment();
    let mut before = inventory();
    before["images"] = json!([ami(1, "gpu-training", &[])]);
    before["directories"] = json!([]);
    before["skipped"] = json!([{
        "source": format!("s3:ListObjectsV2 of {BUCKET} in us-east-1"), "why": "denied: Access Denied",
        "permission": "s3:ListBucket", "bucket": BUCKET,
    }]);
    environment.has_in_aws(&before, &json!([]));
    let plan = json_of(&sandbox, || {}, &["--delete", "--dry-run"]);
    let place = format!("s3://{BUCKET}/parallelcluster/3.1.3/images/gpu-training-*/");
    assert_eq!((&plan["images"][0]["leaves"], &plan["plan"]["leaving"]), (&json!([place]), &json!(1)));
    assert_eq!(plan["skipped"][0].get("effect"), None);

    let mut after = before.clone();
    after["images"] = json!([]);
    after["remains"] = json!([{
        "region": "us-east-1", "ami": "ami-00000000000000001", "image": false,
        "snapshots": ["snap-00000000000000001"], "directory": false, "logGroup": false,
    }]);
    let interrupt = || {
        environment.has_in_aws(&before, &json!([DONE()]));
        images(&sandbox, &["--delete", "--yes"]).run().exits(1);
        let kept = json!({"ok": true, "message": "another AMI needs it", "permission": null});
        environment.has_in_aws(&after, &json!([kept]));
    };
    let delete = "pcluster preflight images --delete";
    let list = json_of(&sandbox, interrupt, &[]);
    let finish = format!("{delete} --image ami-00000000000000001 -r us-east-1");
    assert_eq!(list["unfinished"][0]["commands"], json!({"delete": finish}));
    assert_eq!(list["commands"], json!({"delete": delete}));
    let result = json_of(&sandbox, interrupt, &["--delete", "--yes"]);
    let sums = &result["result"];
    assert_eq!((&sums["interruptedDeletions"], &sums["leaving"]), (&json!(1), &json!(1)));
    let left = json!([{"ami": "ami-00000000000000001", "what": "snapshot snap-00000000000000001: another AMI needs it"}]);
    assert_eq!((&result["ended"][0]["removed"], &result["left"]), (&json!([]), &left));
}
