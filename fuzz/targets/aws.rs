//! The answers of client.py. If an answer is an inventory, the rules examine the inventory, and the lists and
//! plans for users are made from the result.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pcluster_shim::images::class::Class;
use pcluster_shim::images::client::Answer;
use pcluster_shim::images::human::{render_list, render_plan, render_question, render_result};
use pcluster_shim::images::image::{Action, Image};
use pcluster_shim::images::inventory::{Deletion, Inventory, Unfinished};
use pcluster_shim::images::listing::{Change, Identity, Listing, Outcomes};
use pcluster_shim::images::rules::examine;
use pcluster_shim::images::selection::Selection;
use pcluster_shim_fuzz::{assert_safe, input};
use serde_json::{Value, json};

/// Asserts that only orphans can be changed, and that only an unused AMI of this account can be deleted,
/// whatever AWS answers.
fn check_image(image: &Image, inventory: &Inventory, selection: &Selection) {
    assert_ne!(image.class, Class::Foreign);
    for action in [image.repair, image.delete] {
        assert!(action == Action::Refused || image.class == Class::Orphan);
    }
    let is_it = |id: &str, region: &str| id == image.ami && region == image.region;
    if image.repair == Action::Possible {
        assert!(image.tags.contains_key("parallelcluster:image_id"));
        assert!(!image.tags.keys().any(|key| key.starts_with("aws:")));
    } else {
        assert!(image.tags.is_empty());
    }
    if image.delete == Action::Possible {
        assert!(image.in_use_by.is_empty() && image.shared_with.is_empty());
        assert!(!inventory.uses.iter().any(|used| is_it(&used.image, &used.region)));
        // An answer can list an AMI twice.
        let mut own = inventory.images.iter().filter(|ami| is_it(&ami.id, &ami.region));
        assert!(own.any(|ami| ami.owner_id == inventory.account));
        if !image.conflicts_with.is_empty() {
            assert!(selection.names(&image.ami));
        }
    }
}

fn show(listing: &Listing) {
    assert_safe(&render_list(listing));
    for change in [Change::Repair, Change::Delete] {
        assert_safe(&render_plan(listing, change));
        assert_safe(&render_question(listing, change));
        assert_safe(&render_result(listing, change));
    }
    assert!(listing.to_json()["images"].is_array());
}

fn check_inventory(inventory: &Inventory, deletion: Option<&Deletion>) {
    let first = inventory.images.first();
    let named = first.map(|ami| ami.id.clone());
    let id = inventory.stacks.first().map(|stack| stack.name.clone());
    let selections = [
        Selection::default(),
        Selection { image_ids: Vec::new(), amis: named.iter().cloned().collect() },
        Selection { image_ids: id.into_iter().collect(), amis: named.into_iter().collect() },
    ];
    for selection in selections {
        let images = examine(inventory, &selection);
        for image in &images {
            check_image(image, inventory, &selection);
        }
        let left = || {
            deletion.map(|deletion| Unfinished {
                deletion: deletion.clone(),
                snapshots: deletion.snapshots.clone(),
            })
        };
        let mut listing = Listing {
            identity: Identity {
                account: inventory.account.clone(),
                regions: inventory.regions.clone(),
                ..Identity::default()
            },
            images: images.clone(),
            unfinished: left().into_iter().collect(),
            skipped: inventory.skipped.clone(),
            today: "2026-11-26".parse().unwrap(),
            is_named: !selection.is_empty(),
            is_verbose: first.is_some(),
            ..Listing::default()
        };
        show(&listing);
        let pairs = || images.iter().map(|image| (image.ami.clone(), image.name.clone())).collect::<Vec<_>>();
        let outcomes = Outcomes {
            done: images.iter().map(|image| image.ami.clone()).collect(),
            failed: pairs(),
            left: pairs(),
            notes: pairs(),
        };
        listing.ended = left().into_iter().collect();
        listing.note_outcomes(Change::Delete, outcomes);
        show(&listing);
    }
}

fuzz_target!(|bytes: &[u8]| {
    let bytes = input(bytes);
    let Ok(value) = serde_json::from_slice::<Value>(&bytes) else { return };
    // The shim keeps the record of a deletion in a file. Here, the record is part of the input: the value of
    // the answer's key `deletion`.
    let deletion: Option<Deletion> = serde_json::from_value(value["deletion"].clone()).ok();
    if let Some(deletion) = &deletion {
        assert_eq!(serde_json::from_value::<Deletion>(json!(deletion)).as_ref().ok(), Some(deletion));
    }
    match serde_json::from_value(value.clone()) {
        Ok(Answer::Inventory(inventory)) => check_inventory(&inventory, deletion.as_ref()),
        Ok(Answer::Applied { results }) => {
            assert_eq!(Some(results.len()), value["results"].as_array().map(Vec::len));
        }
        Ok(Answer::Stack(_) | Answer::Parent(_) | Answer::NoStack { .. } | Answer::Failed { .. })
        | Err(_) => {}
    }
});
