//! What is asked of the cluster's API.
//!
//! What enters: a choice of pods. What leaves: the paths that list and watch them, and of a deployment or a daemon set
//! the labels by which it knows its pods. What may be lost: nothing.

use std::collections::BTreeMap;

use anyhow::{Context as _, bail};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;

use super::cluster::{ApiError, Cluster};
use super::{PodChoice, Pods};

/// How pods are told from others, as the API takes it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Selection {
    namespace: String,
    labels: Option<String>,
    fields: Vec<String>,
}

/// A deployment or a daemon set, as far as it matters.
#[derive(Deserialize)]
struct Owner {
    spec: OwnerSpec,
}

#[derive(Deserialize)]
struct OwnerSpec {
    selector: LabelSelector,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct LabelSelector {
    match_labels: Option<BTreeMap<String, String>>,
    match_expressions: Option<Vec<Requirement>>,
}

#[derive(Deserialize)]
struct Requirement {
    key: String,
    operator: String,
    values: Option<Vec<String>>,
}

impl Selection {
    /// Of a choice; a deployment or a daemon set is asked for. `None` where there is none of that name.
    pub(super) async fn of(pods: &Pods, cluster: &Cluster) -> anyhow::Result<Option<Selection>> {
        let namespace = match &pods.namespace {
            Some(namespace) => namespace.clone(),
            None => cluster.namespace()?,
        };
        let mut selection = Selection {
            namespace,
            ..Selection::default()
        };
        let owner = match &pods.choice {
            PodChoice::Deployment(name) => Some(("deployments", name)),
            PodChoice::DaemonSet(name) => Some(("daemonsets", name)),
            PodChoice::Pod(name) => {
                selection.fields.push(format!("metadata.name={name}"));
                None
            }
            PodChoice::Labels(labels) => {
                selection.labels = Some(labels.clone());
                None
            }
            PodChoice::Fields(fields) => {
                selection.fields.push(fields.clone());
                None
            }
        };
        if let Some((kind, name)) = owner {
            let namespace = encoded(&selection.namespace);
            let path = format!(
                "/apis/apps/v1/namespaces/{namespace}/{kind}/{}",
                encoded(name)
            );
            match cluster.ask(&path).await {
                Ok(owner) => selection.labels = Some(labels_of(&owner)?),
                Err(ApiError::NotFound(_)) => return Ok(None),
                Err(ApiError::Other(error)) => return Err(error),
            }
        }
        let node = cluster.node.iter();
        selection
            .fields
            .extend(node.map(|node| format!("spec.nodeName={node}")));
        Ok(Some(selection))
    }

    /// Where the pods are listed, as the API server has them in memory.
    pub(super) fn list(&self) -> String {
        self.path("resourceVersion=0")
    }

    /// Where is told how they change from there on, for so long.
    pub(super) fn watch(&self, version: &str, seconds: u64) -> String {
        let version = encoded(version);
        self.path(&format!(
            "watch=true&timeoutSeconds={seconds}&resourceVersion={version}"
        ))
    }

    fn path(&self, question: &str) -> String {
        let namespace = encoded(&self.namespace);
        let mut path = format!("/api/v1/namespaces/{namespace}/pods?{question}");
        if let Some(labels) = &self.labels {
            path += &format!("&labelSelector={}", encoded(labels));
        }
        if !self.fields.is_empty() {
            path += &format!("&fieldSelector={}", encoded(&self.fields.join(",")));
        }
        path
    }
}

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

/// As a label selector is written. One that says nothing would take all pods, so it is refused.
fn labels_of(owner: &[u8]) -> anyhow::Result<String> {
    let owner: Owner = serde_json::from_slice(owner).context("read whose pods they are")?;
    let LabelSelector {
        match_labels,
        match_expressions,
    } = owner.spec.selector;
    let labels = match_labels.into_iter().flatten();
    let mut parts: Vec<String> = labels
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    for Requirement {
        key,
        operator,
        values,
    } in match_expressions.into_iter().flatten()
    {
        let values = values.unwrap_or_default().join(",");
        parts.push(match operator.as_str() {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "Exists" => key,
            "DoesNotExist" => format!("!{key}"),
            other => bail!("labels are compared by {other:?}, which is unknown here"),
        });
    }
    match parts.is_empty() {
        true => bail!("the selector would take all pods"),
        false => Ok(parts.join(",")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owners_selector_is_written_as_the_api_reads_it() {
        let labels = |selector: &str| {
            let owner = format!(r#"{{"kind":"Deployment","spec":{{"selector":{selector}}}}}"#);
            labels_of(owner.as_bytes())
        };
        let selector = r#"{"matchLabels":{"app":"web","tier":"a"},"matchExpressions":[
            {"key":"x","operator":"In","values":["1","2"]},{"key":"y","operator":"NotIn","values":["3"]},
            {"key":"z","operator":"Exists"},{"key":"w","operator":"DoesNotExist","values":null}]}"#;
        assert_eq!(
            labels(selector).unwrap(),
            "app=web,tier=a,x in (1,2),y notin (3),z,!w"
        );
        for selector in ["{}", r#"{"matchLabels":{}}"#, "null"] {
            assert!(labels(selector).is_err(), "{selector}");
        }
        let selector = r#"{"matchExpressions":[{"key":"x","operator":"Near"}]}"#;
        assert!(labels(selector).unwrap_err().to_string().contains("Near"));
    }

    #[tokio::test]
    async fn what_is_asked_is_escaped() {
        let cluster = Cluster {
            host: "10.0.0.1".to_owned(),
            port: 443,
            account: "/nowhere".into(),
            node: Some("node-1".to_owned()),
        };
        let pods: Pods = "shop/labelSelector/app in (a,b)".parse().unwrap();
        let selection = Selection::of(&pods, &cluster).await.unwrap().unwrap();
        assert_eq!(
            selection.list(),
            "/api/v1/namespaces/shop/pods?resourceVersion=0\
             &labelSelector=app%20in%20%28a%2Cb%29&fieldSelector=spec%2EnodeName%3Dnode%2D1"
        );
        let pods: Pods = "shop/pod/web-1".parse().unwrap();
        let selection = Selection::of(&pods, &cluster).await.unwrap().unwrap();
        let watch = selection.watch("9&a", 5);
        assert!(watch.contains("timeoutSeconds=5&resourceVersion=9%26a&fieldSelector=metadata"));
    }
}
