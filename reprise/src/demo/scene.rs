//! The scene: shops in production, two staging shops, and the rules by which traffic reaches them.
//!
//! What enters: how many production shops there are to be. What leaves: running shops and two targets' documents.
//! What may be lost: nothing.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use anyhow::Context as _;
use reprise_listener::CaptureSpec;
use reprise_listener::capture::{self, CaptureError};
use reprise_node::membership::{Targets, fixed_targets};
use reprise_traffic::{Target, TargetDocument, TargetName};
use tokio::sync::watch;

use super::arrivals::Arrivals;
use super::catalogue::Edition;
use super::shop::Shop;

/// The targets, in the order in which they are shown.
pub(crate) const TARGETS: [&str; 2] = ["shop/staging", "shop/v2"];

/// What the rules of each target let through, in words.
pub(crate) const RULES: [&str; 2] = ["safe methods only", "all methods, half of the sessions"];

/// The shops.
#[derive(Debug)]
pub(crate) struct Scene {
    pub(crate) production: Vec<Shop>,
    /// In the order of [`TARGETS`].
    staging: [Shop; 2],
}

impl Scene {
    /// Opens so many production shops, and the staging ones.
    ///
    /// # Errors
    /// When there are no free ports.
    pub(crate) async fn open(production: usize) -> anyhow::Result<Scene> {
        let staging = [
            Shop::open(Edition::Staging).await?,
            Shop::open(Edition::V2).await?,
        ];
        let mut scene = Scene {
            production: Vec::new(),
            staging,
        };
        for _ in 0..production {
            scene
                .production
                .push(Shop::open(Edition::Production).await?);
        }
        Ok(scene)
    }

    /// Where customers shop.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        self.production.iter().map(Shop::address).collect()
    }

    /// A capture for each production shop.
    ///
    /// # Errors
    /// Never, as the specs are sound.
    pub(crate) fn captures(&self) -> anyhow::Result<Vec<CaptureSpec>> {
        let specs = self
            .addresses()
            .into_iter()
            .map(|shop| format!("lo:{}", shop.port()).parse());
        Ok(specs.collect::<Result<_, _>>()?)
    }

    /// Tries whether this process, and so those that it starts, may capture what goes to the shops.
    ///
    /// # Errors
    /// One line: why not.
    pub(crate) fn try_capture(&self) -> anyhow::Result<()> {
        let settings = capture::Settings {
            specs: self.captures()?,
            ring: capture::LEAST_RING,
            ..capture::Settings::default()
        };
        let opened: Result<_, CaptureError> = capture::open(settings);
        opened.map(drop).map_err(anyhow::Error::new)
    }

    /// The targets' documents, as a team would write them.
    pub(crate) fn documents(&self) -> [(&'static str, String); 2] {
        let [staging, v2] = self.staging.each_ref().map(Shop::url);
        [
            (TARGETS[0], format!("url: {staging}\n")),
            (
                TARGETS[1],
                format!("url: {v2}\nmethods: [any]\nshare: 50%\nsession_key: cookie:sid\n"),
            ),
        ]
    }

    /// The same, read and checked, for a cluster without etcd.
    ///
    /// # Errors
    /// Never, as the documents are sound.
    pub(crate) fn targets(&self) -> anyhow::Result<watch::Receiver<Targets>> {
        let read = |(name, text): (&str, String)| {
            let document = TargetDocument::parse(name, &text)?;
            Target::new(TargetName::new(name)?, 1, document)
        };
        let targets: Result<Vec<Target>, _> = self.documents().into_iter().map(read).collect();
        Ok(fixed_targets(targets.context("read the demo's targets")?))
    }

    /// `http://ADDRESS` of each staging shop.
    pub(crate) fn staging_urls(&self) -> [String; 2] {
        self.staging.each_ref().map(Shop::url)
    }

    /// What reached each target.
    pub(crate) fn arrivals(&self) -> BTreeMap<&'static str, Arrivals> {
        TARGETS
            .into_iter()
            .zip(&self.staging)
            .map(|(target, shop)| (target, shop.arrivals()))
            .collect()
    }

    /// Copies that no mirror endpoint took.
    pub(crate) fn not_mirrored(&self) -> u64 {
        self.production.iter().map(Shop::not_mirrored).sum()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn the_rules_are_what_the_words_say() {
        let scene = Scene::open(1).await.unwrap();
        let targets = scene.targets().unwrap();
        let targets: Vec<Arc<Target>> = targets.borrow().values().cloned().collect();
        let names: Vec<&str> = targets.iter().map(|target| target.name.as_str()).collect();
        assert_eq!(names, TARGETS, "in this order in every ledger too");
        assert_eq!(
            targets[0].document,
            TargetDocument::new(&scene.staging_urls()[0])
        );
        assert_eq!(targets[1].document.methods, ["any"]);
        assert_eq!(String::from(targets[1].document.share), "50%");
    }
}
