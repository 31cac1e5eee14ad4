//! What a server answers.

use std::io::{self, Read};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use ureq::Body;
use ureq::http::Response;
use ureq::http::header::{CONTENT_TYPE, HeaderName};

use crate::error::{Error, Result};

/// The most bytes of JSON.
const LARGEST: u64 = 256 << 20;

/// How much of what a server says about an error is read and shown.
const READ: u64 = 64 << 10;
const SHOWN: usize = 300;

/// What MLflow's server says where it was told not to hand out files: its 503 is there to stay.
const NOT_SERVED: &str = "no-serve-artifacts";

/// An answer whose body has not been read yet.
pub(crate) struct Answer {
    response: Response<Body>,
    /// The request, as messages name it.
    request: String,
    manners: Manners,
    /// The beginning of the body of one that is no success.
    said: Option<String>,
}

/// What messages about a server say, and what they do not.
#[derive(Clone, Default)]
pub(crate) struct Manners {
    /// Texts that are taken out of what the server says before it is shown.
    pub hidden: Vec<String>,
    /// How credentials are given.
    pub login: &'static str,
    /// How certificates are given.
    pub trust: &'static str,
}

/// An error as MLflow writes it.
#[derive(Deserialize)]
struct Said {
    #[serde(default)]
    error_code: String,
    #[serde(default)]
    message: String,
}

impl Answer {
    pub(super) fn new(response: Response<Body>, request: String, manners: Manners) -> Self {
        let mut answer = Answer { response, request, manners, said: None };
        if answer.status() >= 400 {
            let mut bytes = Vec::new();
            // What cannot be read is not shown.
            let _ = answer.response.body_mut().as_reader().take(READ).read_to_end(&mut bytes);
            answer.said = Some(String::from_utf8_lossy(&bytes).into_owned());
        }
        answer
    }

    pub fn status(&self) -> u16 {
        self.response.status().as_u16()
    }

    /// A header, if it is there and is text.
    pub fn header(&self, name: HeaderName) -> Option<&str> {
        self.response.headers().get(name)?.to_str().ok()
    }

    /// Whether no further try can change it, though its status is one of those that pass.
    pub(super) fn is_final(&self) -> bool {
        self.said.as_ref().is_some_and(|said| said.contains(NOT_SERVED))
    }

    /// The same, if its status is 200 or one of `also`.
    ///
    /// # Errors
    /// Saying what the server says.
    pub fn or(self, also: &[u16]) -> Result<Self> {
        let status = self.status();
        if status == 200 || also.contains(&status) {
            return Ok(self);
        }
        Err(self.refusal())
    }

    /// An error that says what the server says.
    pub fn refusal(&self) -> Error {
        let said = self.said.as_deref().unwrap_or_default();
        let words = match serde_json::from_str::<Said>(said) {
            Ok(Said { error_code, message }) if !message.is_empty() => {
                let code = if error_code.is_empty() { String::new() } else { error_code + ": " };
                code + &message
            }
            _ => match title(said) {
                Some(title) => format!("a web page, '{title}'"),
                None => said.to_owned(),
            },
        };
        let words = self.without_secrets(words.trim());
        let words = if words.is_empty() { String::new() } else { format!(" ({words})") };
        let status = self.status();
        let means = match status {
            401 if self.manners.hidden.is_empty() => {
                format!(": the server wants to know who asks; {}", self.manners.login)
            }
            401 => ": the server does not accept these credentials".into(),
            403 => ": the server does not allow it".into(),
            300..=399 => ": the server redirects to nowhere".into(),
            _ => String::new(),
        };
        Error::Remote(format!("{}: HTTP {status}{words}{means}", self.request))
    }

    /// The body, read as JSON.
    ///
    /// # Errors
    /// When it is anything else, such as the page of a proxy that wants a login.
    pub fn json<T: DeserializeOwned>(mut self) -> Result<T> {
        let bytes = self.response.body_mut().with_config().limit(LARGEST).read_to_vec();
        let bytes = bytes.map_err(|e| Error::Remote(format!("{}: {e}", self.request)))?;
        let kind = self.header(CONTENT_TYPE).unwrap_or_default();
        let is_page = kind.starts_with("text/html") || bytes.trim_ascii_start().starts_with(b"<");
        serde_json::from_slice(&bytes).map_err(|e| {
            let what = match title(&String::from_utf8_lossy(&bytes)) {
                Some(title) => format!("with a web page, '{}'", self.without_secrets(&title)),
                None if is_page => "with a web page".to_owned(),
                None => return Error::Remote(format!("{}: the answer is not as it should be ({e})", self.request)),
            };
            Error::Remote(format!(
                "{}: it is answered {what} in place of JSON: is this the address of the server itself, \
                 and not that of a login or of its pages?",
                self.request
            ))
        })
    }

    /// The body, which must not be large.
    ///
    /// # Errors
    /// When it is, or breaks off.
    pub fn bytes(mut self) -> Result<Vec<u8>> {
        let bytes = self.response.body_mut().with_config().limit(LARGEST).read_to_vec();
        bytes.map_err(|e| Error::Remote(format!("{}: {e}", self.request)))
    }

    /// The body, to be read to its end.
    pub fn reader(&mut self) -> impl Read + '_ {
        self.response.body_mut().as_reader()
    }

    /// An error about reading the body.
    pub fn broken(&self, error: &io::Error) -> Error {
        Error::Remote(format!("{}: {error}", self.request))
    }

    /// What a server says, without what it was told in confidence.
    fn without_secrets(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for hidden in self.manners.hidden.iter().filter(|hidden| !hidden.is_empty()) {
            text = text.replace(hidden.as_str(), "***");
        }
        match text.char_indices().nth(SHOWN) {
            Some((end, _)) => text[..end].to_owned() + " …",
            None => text,
        }
    }
}

/// The title of a web page; `None` of what is none.
fn title(text: &str) -> Option<String> {
    let lower = text.to_ascii_lowercase();
    if !lower.trim_start().starts_with('<') {
        return None;
    }
    let from = lower.find("<title>").map(|at| at + "<title>".len());
    let title = from.and_then(|from| Some(&text[from..from + lower[from..].find("</title>")?]));
    Some(title.unwrap_or("without a title").trim().to_owned())
}
