use serde_json::{Value, json};

use super::double::{Asked, Double, Reply};
use super::*;

fn client(server: &Double) -> Client {
    let settings = Settings {
        secret: vec![("authorization", "Bearer hunter2".into())],
        manners: Manners { hidden: vec!["hunter2".into()], login: "log in", ..Manners::default() },
        retries: 2,
        ..Settings::default()
    };
    Client::new(Origin::parse(&server.url()).unwrap(), settings).unwrap()
}

fn json_of(client: &Client, path: &str) -> Result<Value> {
    client.get(path, &[], &[])?.json()
}

#[test]
fn credentials_are_sent_and_queries_encoded() {
    let server = Double::start(|asked: &Asked| {
        assert_eq!(asked.header("authorization"), Some("Bearer hunter2"));
        Reply::json(&json!({ "path": asked.path }))
    });
    let client = client(&server);
    let answer = client.get("/a", &[("name", "a b&c=ü"), ("x", "")], &[]).unwrap();
    let path = answer.json::<Value>().unwrap()["path"].clone();
    assert_eq!(path, "/a?name=a%20b%26c%3D%C3%BC&x=");
    let posted: Value = client.post("/b", &json!({"k": 1}), Patience::Once).unwrap();
    assert_eq!(posted["path"], "/b");
    assert_eq!(server.asked()[1].body, br#"{"k":1}"#);
}

#[test]
fn what_passes_is_tried_again_and_what_stays_is_not() {
    for (status, tries) in [(503, 3), (429, 3), (500, 3), (404, 1), (400, 1), (501, 1)] {
        let server = Double::start(move |_: &Asked| Reply::text(status, "no"));
        let error = json_of(&client(&server), "/x").unwrap_err();
        assert_eq!((error.kind(), server.asked().len()), ("remote", tries), "{error}");
        assert!(error.to_string().contains(&format!("HTTP {status} (no)")), "{error}");
    }
    let server = Double::start(|asked: &Asked| match asked.number {
        0 => Reply::text(503, "soon").with("retry-after", "0"),
        1 => Reply::broken(),
        _ => Reply::json(&json!(1)),
    });
    assert_eq!(json_of(&client(&server), "/x").unwrap(), 1);
    assert_eq!(server.asked().len(), 3);
    // What a server says that was told not to hand out files.
    let server = Double::start(|_: &Asked| Reply::text(503, "disabled by no-serve-artifacts"));
    json_of(&client(&server), "/x").unwrap_err();
    assert_eq!(server.asked().len(), 1);
}

#[test]
fn a_server_that_is_down_is_told() {
    let server = Double::start(|_: &Asked| Reply::text(200, ""));
    let client = client(&server);
    drop(server);
    let error = json_of(&client, "/x?secret=1").unwrap_err().to_string();
    assert!(error.contains("connection refused") && !error.contains("secret"), "{error}");
}

#[test]
fn credentials_do_not_follow_to_another_server() {
    let other = Double::start(|asked: &Asked| {
        assert_eq!(asked.header("authorization"), None);
        Reply::json(&json!("other"))
    });
    let to = format!("{}/far", other.url());
    let server = Double::start(move |asked: &Asked| match asked.path.as_str() {
        "/near" => Reply::text(302, "").with("location", "/here"),
        "/here" => Reply::json(&json!(asked.header("authorization"))),
        "/loop" => Reply::text(307, "").with("location", "/loop"),
        "/odd" => Reply::text(301, "").with("location", "ftp://x"),
        _ => Reply::text(302, "").with("location", &to),
    });
    let client = client(&server);
    assert_eq!(json_of(&client, "/away").unwrap(), "other");
    assert_eq!(json_of(&client, "/near").unwrap(), "Bearer hunter2");
    assert!(json_of(&client, "/loop").unwrap_err().to_string().contains("without end"));
    assert!(json_of(&client, "/odd").unwrap_err().to_string().contains("no address"));
    let written = client.post::<Value>("/away", &json!({}), Patience::Retry);
    assert!(written.unwrap_err().to_string().contains("is not followed"));
    assert_eq!(other.asked().len(), 1);
}

#[test]
fn refusals_say_what_the_server_says_without_secrets() {
    let said = json!({ "error_code": "PERMISSION_DENIED", "message": "token hunter2 may not" });
    let server = Double::start(move |asked: &Asked| match asked.path.as_str() {
        "/json" => Reply::json(&said).status(403),
        "/login" => Reply::text(200, "<!doctype html><TITLE>Sign in</TITLE>"),
        "/page" => Reply::text(401, "<html><title>401 hunter2</title>"),
        _ => Reply::text(200, "{"),
    });
    let client = client(&server);
    for (path, says) in [
        ("/json", "HTTP 403 (PERMISSION_DENIED: token *** may not): the server does not allow it"),
        ("/login", "with a web page, 'Sign in'"),
        ("/page", "HTTP 401 (a web page, '401 ***'): the server does not accept these credentials"),
        ("/half", "the answer is not as it should be"),
    ] {
        let error = json_of(&client, path).unwrap_err().to_string();
        assert!(error.contains(says) && !error.contains("hunter2"), "{error}");
    }
    let anonymous = Settings {
        manners: Manners { login: "log in", ..Manners::default() },
        ..Settings::default()
    };
    let anonymous = Client::new(Origin::parse(&server.url()).unwrap(), anonymous).unwrap();
    let error = json_of(&anonymous, "/page").unwrap_err().to_string();
    assert!(error.contains("wants to know who asks; log in"), "{error}");
}
