//! HTTP as registries need it: answers in JSON, files to disk, retries, redirects, credentials.
//!
//! Credentials stay with the server that they are for. A redirect to another one is followed without
//! them, and no message has them: messages name a request by its method, server and path alone.

mod answer;
mod origin;
mod tls;

use std::time::Duration;

use ureq::config::Config;
use ureq::http::Request;
use ureq::http::header::{HeaderName, HeaderValue, LOCATION, RETRY_AFTER};
use ureq::{Agent, Body};

pub(crate) use answer::{Answer, Manners};
pub(crate) use origin::{Origin, encoded};
pub(crate) use tls::Tls;

use crate::error::{Error, Result};

/// How often a chain of redirects is followed.
const MOST_REDIRECTS: usize = 10;

/// The longest wait before a request is sent again.
const LONGEST_WAIT: Duration = Duration::from_secs(120);

/// Answers that another try may change: those that MLflow's own client tries again.
const PASSING: [u16; 6] = [408, 429, 500, 502, 503, 504];

/// How a client talks to its server.
#[derive(Clone, Default)]
pub(crate) struct Settings {
    /// Headers that only this server may see, such as `Authorization`.
    pub secret: Vec<(&'static str, String)>,
    /// What messages say.
    pub manners: Manners,
    /// How the server's certificate is checked, and what the client shows.
    pub tls: Tls,
    /// How long to wait for a connection, and for each piece of an answer.
    pub timeout: Option<Duration>,
    /// How often a request that failed for a reason that passes is sent again.
    pub retries: u32,
    /// The wait before the first of these, in seconds; before each other one it is twice as long.
    pub backoff: f64,
}

/// A client of one server.
pub(crate) struct Client {
    origin: Origin,
    settings: Settings,
    agent: Agent,
    /// For other servers, which redirects lead to: it shows no certificate of its own.
    stranger: Agent,
}

/// Whether a request that failed is sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Patience {
    /// For reading, and for writing what may be written twice.
    Retry,
    Once,
}

/// What is sent.
#[derive(Clone, Copy)]
pub(crate) enum Payload<'a> {
    Nothing,
    Json(&'a serde_json::Value),
    Bytes(&'a [u8]),
}

impl Client {
    /// A client of the server at `origin`.
    ///
    /// # Errors
    /// When a certificate cannot be read, or a header cannot be sent.
    pub fn new(origin: Origin, settings: Settings) -> Result<Self> {
        for (name, value) in &settings.secret {
            HeaderValue::from_str(value).map_err(|_| {
                Error::Usage(format!(
                    "what is to be sent to {origin} as {name} has characters that no header may have"
                ))
            })?;
        }
        let agent = |tls| -> Agent {
            let config = Config::builder()
                .http_status_as_error(false)
                .max_redirects(0)
                .user_agent(concat!("gradalign/", env!("CARGO_PKG_VERSION")))
                .timeout_connect(settings.timeout)
                .timeout_recv_response(settings.timeout)
                .timeout_per_read(settings.timeout)
                .timeout_per_write(settings.timeout)
                .tls_config(tls)
                .build();
            config.into()
        };
        let (own, stranger) = settings.tls.configs()?;
        Ok(Client { agent: agent(own), stranger: agent(stranger), origin, settings })
    }

    /// The server.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// GET of `path` with `query`.
    ///
    /// # Errors
    /// When there is no answer that says 200 or `also`.
    pub fn get(&self, path: &str, query: &[(&str, &str)], also: &[u16]) -> Result<Answer> {
        self.send("GET", &with_query(path, query), &[], Payload::Nothing, Patience::Retry)?.or(also)
    }

    /// The same with more headers, sent once or until there is an answer.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn get_with(
        &self,
        path: &str,
        headers: &[(HeaderName, String)],
        patience: Patience,
    ) -> Result<Answer> {
        self.send("GET", path, headers, Payload::Nothing, patience)
    }

    /// POST of JSON to `path`, for an answer in JSON.
    ///
    /// # Errors
    /// When there is no such answer.
    pub fn post<T: serde::de::DeserializeOwned>(
        &self,
        path: &str,
        body: &serde_json::Value,
        patience: Patience,
    ) -> Result<T> {
        self.send("POST", path, &[], Payload::Json(body), patience)?.or(&[])?.json()
    }

    /// PUT of `body` to `path`.
    ///
    /// # Errors
    /// When it is not accepted.
    pub fn put(&self, path: &str, body: &[u8]) -> Result<()> {
        let answer = self.send("PUT", path, &[], Payload::Bytes(body), Patience::Retry)?;
        answer.or(&[201, 204]).map(drop)
    }

    fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(HeaderName, String)],
        payload: Payload,
        patience: Patience,
    ) -> Result<Answer> {
        let retries = if patience == Patience::Retry { self.settings.retries } else { 0 };
        let mut tries = 0;
        loop {
            let outcome = self.follow(method, path, headers, payload);
            let (asked, why) = match &outcome {
                Ok(answer) if PASSING.contains(&answer.status()) && !answer.is_final() => {
                    (seconds(answer.header(RETRY_AFTER)), format!("HTTP {}", answer.status()))
                }
                Err(Failed::Passing(error)) => (None, error.clone()),
                _ => return outcome.map_err(|failed| self.failed(method, path, failed)),
            };
            if tries == retries {
                return outcome.map_err(|failed| self.failed(method, path, failed));
            }
            let wait = asked.unwrap_or_else(|| self.wait(tries));
            tracing::warn!(
                "{}: {why}; trying again in {:.1} s",
                self.shown(method, path),
                wait.as_secs_f64()
            );
            std::thread::sleep(wait);
            tries += 1;
        }
    }

    fn wait(&self, tries: u32) -> Duration {
        let seconds = self.settings.backoff * 2f64.powi(tries.try_into().unwrap_or(i32::MAX));
        Duration::try_from_secs_f64(seconds).map_or(LONGEST_WAIT, |wait| wait.min(LONGEST_WAIT))
    }

    /// Sends a request, and again to where the answer leads.
    fn follow(
        &self,
        method: &str,
        path: &str,
        headers: &[(HeaderName, String)],
        payload: Payload,
    ) -> Result<Answer, Failed> {
        let (mut origin, mut path) = (self.origin.clone(), self.origin.path(path));
        for _ in 0..=MOST_REDIRECTS {
            let answer = self.once(method, &origin, &path, headers, payload)?;
            if !matches!(answer.status(), 301 | 302 | 303 | 307 | 308) {
                return Ok(answer);
            }
            let Some(to) = answer.header(LOCATION) else { return Ok(answer) };
            let (next, next_path) = origin.led(&path, to).ok_or_else(|| {
                Failed::Final("it is redirected to what is no address of a server".into())
            })?;
            if method != "GET" {
                return Err(Failed::Final(format!(
                    "it is redirected to {next}, which is not followed when something is written; give \
                     that address"
                )));
            }
            if origin.is_encrypted() && !next.is_encrypted() {
                return Err(Failed::Final(format!(
                    "it is redirected from an encrypted connection to {next}, which is not one"
                )));
            }
            (origin, path) = (next, next_path);
        }
        Err(Failed::Final("it is redirected without end".into()))
    }

    fn once(
        &self,
        method: &str,
        origin: &Origin,
        path: &str,
        headers: &[(HeaderName, String)],
        payload: Payload,
    ) -> Result<Answer, Failed> {
        let is_own = origin.is_same_server(&self.origin);
        let mut request = Request::builder().method(method).uri(format!("{origin}{path}"));
        for (name, value) in headers {
            request = request.header(name, value);
        }
        for (name, value) in self.settings.secret.iter().filter(|_| is_own) {
            request = request.header(*name, value);
        }
        let (body, kind) = match payload {
            Payload::Nothing => (Vec::new(), None),
            Payload::Json(value) => (value.to_string().into_bytes(), Some("application/json")),
            Payload::Bytes(bytes) => (bytes.to_vec(), Some("application/octet-stream")),
        };
        if let Some(kind) = kind {
            request = request.header("content-type", kind);
        }
        let agent = if is_own { &self.agent } else { &self.stranger };
        let answered = match kind {
            None => request.body(()).map_err(ureq::Error::from).and_then(|r| agent.run(r)),
            Some(_) => request.body(body).map_err(ureq::Error::from).and_then(|r| agent.run(r)),
        };
        let response: ureq::http::Response<Body> =
            answered.map_err(|e| Failed::of(&e, self.settings.manners.trust))?;
        let shown = self.shown(method, path);
        Ok(Answer::new(response, shown, self.settings.manners.clone()))
    }

    /// A request as messages name it.
    fn shown(&self, method: &str, path: &str) -> String {
        let path = path.split('?').next().unwrap_or_default();
        format!("{method} {}{}", self.origin.server(), path)
    }

    fn failed(&self, method: &str, path: &str, failed: Failed) -> Error {
        let why = match failed {
            Failed::Passing(why) | Failed::Final(why) => why,
        };
        Error::Remote(format!("{}: {why}", self.shown(method, path)))
    }
}

/// Why there is no answer.
enum Failed {
    /// For a reason that passes.
    Passing(String),
    Final(String),
}

impl Failed {
    fn of(error: &ureq::Error, trust: &str) -> Self {
        use ureq::Error as E;
        let text = match error {
            E::Io(e) if e.kind() == std::io::ErrorKind::ConnectionRefused => {
                "nothing answers there (connection refused): is the server up, and is this its port?".into()
            }
            E::HostNotFound => "there is no such host".into(),
            E::Timeout(what) => format!("no answer in time ({what})"),
            // A server that speaks TLS to one that does not.
            E::Protocol(e) => format!("the answer is not HTTP ({e}): is it https?"),
            E::Io(e) if is_certificate(e) => format!("{e}: {trust}"),
            E::Rustls(e) => format!("{e}: {trust}"),
            other => other.to_string(),
        };
        match error {
            E::Io(e) if is_certificate(e) => Failed::Final(text),
            E::Io(_) | E::Timeout(_) | E::HostNotFound | E::ConnectionFailed => {
                Failed::Passing(text)
            }
            _ => Failed::Final(text),
        }
    }
}

/// Whether an error of a connection is one of TLS, which no further try changes. A server that misses a
/// certificate of the client may just hang up.
fn is_certificate(error: &std::io::Error) -> bool {
    let hangs_up = error.kind() == std::io::ErrorKind::UnexpectedEof;
    error.kind() == std::io::ErrorKind::InvalidData
        || (hangs_up && error.to_string().contains("close_notify"))
}

fn seconds(header: Option<&str>) -> Option<Duration> {
    let seconds = header?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).min(LONGEST_WAIT))
}

fn with_query(path: &str, query: &[(&str, &str)]) -> String {
    let mut all = path.to_owned();
    for (i, (key, value)) in query.iter().enumerate() {
        all.push(if i == 0 { '?' } else { '&' });
        all += &format!("{key}={}", encoded(value));
    }
    all
}

#[cfg(test)]
#[path = "../../tests/support/http.rs"]
pub(crate) mod double;
#[cfg(test)]
mod tests;
