//! A server that answers HTTP as a test tells it to, and remembers what it was asked.

// Each of the tests that have it needs a part of it.
#![allow(dead_code)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use serde_json::Value;

/// A request.
#[derive(Clone, Debug)]
pub struct Asked {
    /// How many came before it.
    pub number: usize,
    pub method: String,
    /// With the query.
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Asked {
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    /// How many bytes of the body are sent before the connection is closed.
    sent: usize,
}

impl Reply {
    pub fn bytes(status: u16, kind: &str, body: &[u8]) -> Self {
        let headers = vec![("content-type".to_owned(), kind.to_owned())];
        Reply { status, headers, body: body.to_vec(), sent: usize::MAX }
    }

    pub fn text(status: u16, body: &str) -> Self {
        Reply::bytes(status, "text/plain", body.as_bytes())
    }

    pub fn json(body: &Value) -> Self {
        Reply::bytes(200, "application/json", body.to_string().as_bytes())
    }

    /// No answer at all.
    pub fn broken() -> Self {
        Reply { status: 0, ..Reply::text(0, "") }
    }

    pub fn status(self, status: u16) -> Self {
        Reply { status, ..self }
    }

    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The same, broken off after `sent` bytes of the body.
    pub fn cut(self, sent: usize) -> Self {
        Reply { sent, ..self }
    }

    fn write(&self, out: &mut impl Write) -> std::io::Result<()> {
        if self.status == 0 {
            return Ok(());
        }
        let mut head = format!("HTTP/1.1 {} x\r\nconnection: close\r\n", self.status);
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        head += &format!("content-length: {}\r\n\r\n", self.body.len());
        out.write_all(head.as_bytes())?;
        out.write_all(&self.body[..self.sent.min(self.body.len())])
    }
}

/// The server. It ends when it is dropped.
pub struct Double {
    at: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Double {
    pub fn start(answer: impl Fn(&Asked) -> Reply + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let (asked, ends) = (Arc::default(), Arc::new(AtomicBool::new(false)));
        let (all, end) = (Arc::clone(&asked), Arc::clone(&ends));
        let thread = thread::spawn(move || {
            for stream in listener.incoming() {
                if end.load(Ordering::SeqCst) {
                    break;
                }
                // A client that goes away is no concern of the test.
                let _ = stream.and_then(|stream| serve(&stream, &all, &answer));
            }
        });
        Double { at, asked, ends, thread: Some(thread) }
    }

    /// `HOST:PORT`.
    pub fn host(&self) -> String {
        self.at.to_string()
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.at)
    }

    /// What it was asked so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

impl Drop for Double {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.at);
        let ended = self.thread.take().map(JoinHandle::join);
        // A failed assertion in an answer fails the test.
        if ended.is_some_and(|ended| ended.is_err()) && !thread::panicking() {
            panic!("the server panicked");
        }
    }
}

fn serve(
    stream: &TcpStream,
    all: &Mutex<Vec<Asked>>,
    answer: &impl Fn(&Asked) -> Reply,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split_whitespace().map(str::to_owned);
    let (Some(method), Some(path)) = (words.next(), words.next()) else { return Ok(()) };
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        headers.push((name.to_owned(), value.to_owned()));
    }
    let mut asked = Asked { number: 0, method, path, headers, body: Vec::new() };
    let length = asked.header("content-length").and_then(|length| length.parse().ok());
    asked.body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut asked.body)?;
    {
        let mut all = all.lock().unwrap();
        asked.number = all.len();
        all.push(asked.clone());
    }
    answer(&asked).write(&mut &*stream)
}
