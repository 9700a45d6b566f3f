//! A listing as JSON. The JSON contains everything that the text for users (`human`) contains. Pure.

use serde_json::{Value, json};

use crate::images::commands::{Commands, finish};
use crate::images::inventory::{Skipped, Unfinished};
use crate::images::listing::{Listing, Stage};

impl Listing {
    pub fn to_json(&self) -> Value {
        let unfinished = |left: &Unfinished| {
            let deletion = &left.deletion;
            let commands = Commands { delete: Some(finish(deletion)), ..Commands::default() };
            json!({
                "ami": deletion.ami, "region": deletion.region, "snapshots": left.snapshots,
                "left": left.list(), "commands": commands,
            })
        };
        let ended =
            |ended: &Unfinished| join(&[json!(ended.deletion), json!({"removed": self.removed(ended)})]);
        let skipped = |skipped: &Skipped| {
            let effect = skipped.effect().map(|effect| json!({"effect": effect}));
            join(&[json!(skipped), effect.unwrap_or_default()])
        };
        let pair = |(ami, why): &(String, String)| json!({"ami": ami, "what": why});
        let sums = match self.stage {
            Stage::List => Value::Null,
            Stage::Plan(change) => json!({"plan": self.sum_up(change, false)}),
            Stage::Result(change) => json!({"result": self.sum_up(change, true)}),
        };
        let found = json!({
            "summary": self.summarize(),
            "images": self.images,
            "unfinished": self.unfinished.iter().map(unfinished).collect::<Vec<_>>(),
            "ended": self.ended.iter().map(ended).collect::<Vec<_>>(),
            "left": self.outcomes.left.iter().map(pair).collect::<Vec<_>>(),
            "failed": self.outcomes.failed.iter().map(pair).collect::<Vec<_>>(),
            "notFound": self.missing,
            "skipped": self.skipped.iter().map(skipped).collect::<Vec<_>>(),
            "commands": self.commands,
        });
        let selection = self.older_than.map(|days| json!({"olderThanDays": days})).unwrap_or_default();
        join(&[json!({"schemaVersion": 1}), json!(self.identity), selection, sums, found])
    }
}

/// One object with the keys of all these objects.
fn join(parts: &[Value]) -> Value {
    let keys = parts.iter().filter_map(Value::as_object).flatten();
    Value::Object(keys.map(|(key, value)| (key.clone(), value.clone())).collect())
}
