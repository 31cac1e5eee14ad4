use std::collections::BTreeMap;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::registry::Credentials;
use super::*;
use crate::http::double::{Asked, Double, Reply};

fn extra(name: &str) -> Vec<u8> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/extra");
    std::fs::read(Path::new(folder).join(name)).unwrap()
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", crate::file::hex(Sha256::new_with_prefix(bytes)))
}

/// Artifacts by tag, each of layers with names.
type Artifacts = BTreeMap<&'static str, Vec<(Option<&'static str>, Vec<u8>)>>;

/// A registry. Tokens come from itself; blobs are redirected to `elsewhere`, if there is one.
fn serve(artifacts: Artifacts, elsewhere: Option<String>, login: Option<&'static str>) -> Double {
    Double::start(move |asked: &Asked| {
        let path = asked.path.as_str();
        if path.starts_with("/token?service=r&scope=repository%3Amodels%2Fnet%3Apull") {
            assert_eq!(asked.header("authorization"), login);
            return Reply::json(&json!({ "token": "hunter2" }));
        }
        if asked.header("authorization") != Some("Bearer hunter2") {
            let host = asked.header("host").unwrap();
            let challenge = format!("Bearer realm=\"http://{host}/token\",service=\"r\"");
            return Reply::text(401, "").with("www-authenticate", &challenge);
        }
        let manifest = |layers: &Vec<(Option<&str>, Vec<u8>)>| {
            let layers: Vec<Value> = layers
                .iter()
                .map(|(name, content)| {
                    let annotations = name.map(|n| json!({ "org.opencontainers.image.title": n }));
                    json!({ "mediaType": "application/vnd.oci.image.layer.v1.tar", "size": content.len(),
                            "digest": digest(content), "annotations": annotations.unwrap_or(json!({})) })
                })
                .collect();
            json!({ "schemaVersion": 2, "layers": layers })
        };
        if let Some(tag) = path.strip_prefix("/v2/models/net/manifests/") {
            let found = artifacts.iter().find(|(known, layers)| {
                **known == tag || digest(manifest(layers).to_string().as_bytes()) == tag
            });
            return found.map_or_else(
                || Reply::json(&json!({"errors": [{"code": "MANIFEST_UNKNOWN"}]})).status(404),
                |(_, layers)| Reply::json(&manifest(layers)),
            );
        }
        let blob = path.strip_prefix("/v2/models/net/blobs/").unwrap();
        if let Some(elsewhere) = &elsewhere {
            return Reply::text(307, "").with("location", &format!("{elsewhere}/{blob}"));
        }
        let mut all = artifacts.values().flatten();
        let found = all.find(|(_, content)| digest(content) == blob);
        Reply::bytes(200, "x", &found.unwrap().1)
    })
}

fn tar() -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for name in ["external.onnx", "external.bin"] {
        let content = extra(name);
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        builder.append_data(&mut header, format!("a/{name}"), content.as_slice()).unwrap();
    }
    builder.into_inner().unwrap()
}

fn artifacts() -> Artifacts {
    BTreeMap::from([
        ("one", vec![(Some("net.onnx"), extra("opset11.onnx")), (Some("README.md"), b"x".into())]),
        ("bare", vec![(None, extra("opset11.onnx"))]),
        (
            "data",
            vec![
                (Some("a/external.onnx"), extra("external.onnx")),
                (Some("a/external.bin"), extra("external.bin")),
            ],
        ),
        ("packed", vec![(Some("a"), tar())]),
        ("two", vec![(Some("a.onnx"), b"1".into()), (Some("b.onnx"), b"2".into())]),
        ("none", vec![(Some("notes.md"), b"x".into())]),
        ("out", vec![(Some("../x.onnx"), b"1".into())]),
    ])
}

fn fetch_from(server: &Double, folder: &Path, what: &str) -> Result<Fetched> {
    let rest = format!("{}/models/net{what}", server.host());
    fetch_to(folder, &format!("oci://{rest}"), &rest)
}

#[test]
fn layers_are_files_or_archives() {
    let (server, folder) = (serve(artifacts(), None, None), tempfile::tempdir().unwrap());
    let digest = |what: &str| {
        let fetched = fetch_from(&server, folder.path(), what).unwrap();
        let model = fetched.load(None).unwrap();
        assert!(model.source.starts_with("oci://") && model.source.ends_with(what));
        fetched.sha256(Some(&model)).unwrap()
    };
    assert_eq!(digest(":one"), digest(":bare"));
    assert_eq!(digest(":one!/net.onnx"), digest(":one"));
    assert_eq!(digest(":data"), digest(":packed"));
    let blobs = || server.asked().iter().filter(|asked| asked.path.contains("/blobs/")).count();
    let before = blobs();
    digest(":data");
    assert_eq!(blobs(), before, "what is there is not got again");
    for (what, says) in [
        (":two", "it has 2 models: a.onnx, b.onnx; name one"),
        (":none", "none of its layers"),
        (":out", "leads out of its folder"),
        (":missing", "MANIFEST_UNKNOWN"),
        (":one!/other.onnx", "no file 'other.onnx'"),
    ] {
        let error = fetch_from(&server, folder.path(), what).err().unwrap().to_string();
        assert!(error.contains(says), "{error}");
    }
}

#[test]
fn tokens_stay_with_the_registry_and_digests_are_checked() {
    let folder = tempfile::tempdir().unwrap();
    let elsewhere = Double::start(|asked: &Asked| {
        assert_eq!(asked.header("authorization"), None);
        Reply::bytes(200, "x", &vec![7; extra("opset11.onnx").len()])
    });
    let server = serve(artifacts(), Some(elsewhere.url()), Some("Basic bWU6cHc="));
    let credentials = Credentials { basic: Some("bWU6cHc=".into()), token: None };
    let open = |reference: &str| {
        Registry::open_as(&server.host(), "models/net", reference, Some(credentials.clone()))
    };
    let (registry, manifest) = open("one").unwrap();
    let cached = Folder::open(folder.path(), &["x"]).unwrap();
    let error = registry.blob(&manifest.layers[0], &cached, "net.onnx").unwrap_err().to_string();
    assert!(error.contains("another digest") && !cached.at("net.onnx").exists(), "{error}");
    assert_eq!(elsewhere.asked().len(), 1);
    let wrong = format!("sha256:{}", "0".repeat(64));
    assert!(open(&wrong).err().unwrap().to_string().contains("MANIFEST_UNKNOWN"));
}

#[test]
fn addresses() {
    let reference = |text| {
        Reference::parse(text).map(|r: Reference| (r.host, r.repository, r.reference, r.path)).ok()
    };
    let hex = "0".repeat(64);
    assert_eq!(reference("h/a"), Some(("h", "a", "latest", None)));
    assert_eq!(reference("h:1/a/b:v1!/x.onnx"), Some(("h:1", "a/b", "v1", Some("x.onnx"))));
    let pinned = format!("h/a:v1@sha256:{hex}");
    assert_eq!(reference(&pinned).unwrap().2, &pinned[7..]);
    for text in ["h", "/a", "h/", "h/a:", "h/../a", "h/a@sha256:1", "u:p@h/a", "h/a?b"] {
        assert_eq!(reference(text), None, "{text}");
    }
    let error = Reference::parse("me:hunter2@h/").unwrap_err().to_string();
    assert!(!error.contains("hunter2"), "{error}");
    assert_eq!(list("h/a").unwrap(), ["oci://h/a:latest"]);
}
