//! What the user has named: image ids and AMIs. Pure.

use crate::images::class::Known;
use crate::images::image::Image;
use crate::images::inventory::{Deletion, Unfinished};

#[derive(Debug, Clone, Default)]
pub struct Selection {
    pub image_ids: Vec<String>,
    pub amis: Vec<String>,
}

impl Selection {
    pub fn is_empty(&self) -> bool {
        self.image_ids.is_empty() && self.amis.is_empty()
    }

    pub fn names(&self, ami: &str) -> bool {
        self.amis.iter().any(|own| own == ami)
    }

    /// The image id that the user has named and whose lower-case form is `slug`.
    pub fn find_id(&self, slug: &str) -> Option<&String> {
        self.image_ids.iter().find(|id| id.to_lowercase() == slug)
    }

    pub fn selects(&self, known: &Known) -> bool {
        let slug = known.slug();
        if !self.amis.is_empty() {
            return self.names(&known.ami.id) && (self.image_ids.is_empty() || self.find_id(slug).is_some());
        }
        self.image_ids.is_empty() || self.image_ids.iter().any(|id| is_id(id, known.image_id(), slug))
    }

    pub fn selects_deletion(&self, deletion: &Deletion) -> bool {
        let is_named = self.amis.is_empty() || self.names(&deletion.ami);
        let is_id = || deletion.build().is_some_and(|build| self.find_id(&build.slug).is_some());
        is_named && (self.image_ids.is_empty() || is_id())
    }

    /// The names that match nothing.
    pub fn find_missing(&self, images: &[Image], unfinished: &[Unfinished]) -> Vec<String> {
        let is_gone = |ami: &&String| unfinished.iter().any(|left| left.deletion.ami == **ami);
        let is_listed = |ami: &&String| images.iter().any(|image| image.ami == **ami);
        let has_id = |id: &&String| {
            images.iter().any(|image| is_id(id, image.image_id.as_deref(), &image.slug))
                || unfinished
                    .iter()
                    .any(|left| left.deletion.build().is_some_and(|build| build.slug == id.to_lowercase()))
        };
        let amis = self.amis.iter().filter(|ami| !is_listed(ami) && !is_gone(ami));
        // If the user has named AMIs, no image id counts as missing: the image ids then only say which ids
        // these AMIs may have or get.
        let ids = self.image_ids.iter().filter(|id| self.amis.is_empty() && !has_id(id));
        amis.chain(ids).cloned().collect()
    }
}

/// Whether an image has this id; if only the image's id in lower case is known, the case of `id` does
/// not count.
pub fn is_id(id: &str, own: Option<&str>, slug: &str) -> bool {
    own.map_or_else(|| slug == id.to_lowercase(), |own| own == id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::images::inventory::BUILDER_ARN;

    #[test]
    fn interrupted_deletion_is_selected_by_its_ami_and_its_image_id() {
        let arn = "arn:aws:imagebuilder:us-east-1:1:image/parallelclusterimage-my-image/3.1.3/1";
        let deletion = Deletion {
            ami: "ami-1".into(),
            tags: [(BUILDER_ARN.to_owned(), arn.to_owned())].into(),
            ..Deletion::default()
        };
        let select = |ids: &[&str], amis: &[&str]| {
            let own = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
            Selection { image_ids: own(ids), amis: own(amis) }
        };
        let unfinished = [Unfinished { snapshots: Vec::new(), deletion: deletion.clone() }];
        for (ids, amis, is_selected) in [
            (&[][..], &[][..], true),
            (&["My-Image"], &[], true),
            (&["other", "my-image"], &[], true),
            (&["other"], &[], false),
            (&[], &["ami-0", "ami-1"], true),
            (&[], &["ami-0"], false),
            (&["my-image"], &["ami-0"], false),
        ] {
            let selection = select(ids, amis);
            assert_eq!(selection.selects_deletion(&deletion), is_selected, "{selection:?}");
        }
        let missing = |ids: &[&str], amis: &[&str]| select(ids, amis).find_missing(&[], &unfinished);
        assert_eq!(missing(&["other", "My-Image"], &[]), ["other"]);
        assert_eq!(missing(&[], &["ami-0", "ami-1"]), ["ami-0"]);
    }
}
