//! The tables of a store, and how a file is told to be one.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};

use crate::error::{Error, Result};

/// What SQLite's header calls a store of results: "gral" in ASCII.
const APPLICATION: i32 = 0x6772_616c;

/// Raised with each change of the tables.
const VERSION: i32 = 1;

const TABLES: &str = "
    CREATE TABLE runs (
        digest TEXT PRIMARY KEY,
        run TEXT NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE results (
        run TEXT NOT NULL REFERENCES runs,
        address TEXT NOT NULL,
        content TEXT NOT NULL,
        key TEXT,
        failed INTEGER NOT NULL,
        limits TEXT NOT NULL,
        finished INTEGER NOT NULL,
        result TEXT NOT NULL,
        PRIMARY KEY (run, address, content)
    ) WITHOUT ROWID;
    CREATE INDEX results_by_content ON results (run, content);
    CREATE INDEX results_by_key ON results (run, key);
";

/// Opens the store at `path`; with `make`, one that is not there is made.
pub(super) fn connect(path: &Path, make: bool, patience: Duration) -> Result<Connection> {
    let failed = |e: &rusqlite::Error| failed(path, e);
    let is_file = match std::fs::metadata(path) {
        Ok(meta) => meta.is_file(),
        Err(e) if make && e.kind() == std::io::ErrorKind::NotFound => true,
        Err(e) => return Err(Error::io(path, e)),
    };
    if !is_file {
        return Err(refused(path, "not a file, so no store of results; name a file"));
    }
    let mut flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    flags.set(OpenFlags::SQLITE_OPEN_CREATE, make);
    let mut connection = Connection::open_with_flags(path, flags).map_err(|e| failed(&e))?;
    connection.busy_timeout(patience).map_err(|e| failed(&e))?;
    let (application, version) = numbers(&connection).map_err(|e| failed(&e))?;
    if (application, version) == (0, 0) && make {
        create(&mut connection).map_err(|e| failed(&e))?;
    }
    match numbers(&connection).map_err(|e| failed(&e))? {
        (APPLICATION, VERSION) => Ok(connection),
        (APPLICATION, version) => Err(refused(
            path,
            &format!(
                "a store of version {version}, and this gradalign reads version {VERSION}: export it with \
                 the gradalign that made it, or name another file"
            ),
        )),
        _ => Err(refused(path, "a database, but no store of results; name another file")),
    }
}

/// What the file says it is: 0 and 0 for a new one.
fn numbers(connection: &Connection) -> rusqlite::Result<(i32, i32)> {
    let number = |name| connection.pragma_query_value(None, name, |row| row.get(0));
    Ok((number("application_id")?, number("user_version")?))
}

/// Makes the tables, unless the database has some, or another process is ahead.
fn create(connection: &mut Connection) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let tables: i64 =
        transaction.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if tables == 0 {
        transaction.execute_batch(TABLES)?;
        transaction.pragma_update(None, "application_id", APPLICATION)?;
        transaction.pragma_update(None, "user_version", VERSION)?;
    }
    transaction.commit()
}

/// The error of the store at `path`.
pub(super) fn failed(path: &Path, error: &rusqlite::Error) -> Error {
    let remedy = match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => {
            return refused(path, "not a store of results; name another file");
        }
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            ": another process holds it; is it on a network file system? Give each machine a store of \
             its own, and put them together with 'gradalign merge'"
        }
        Some(ErrorCode::DatabaseCorrupt) => {
            ": the file is damaged; 'gradalign store export' may still read some of it"
        }
        Some(ErrorCode::DiskFull) => ": the disk is full",
        _ => "",
    };
    Error::io(path, std::io::Error::other(format!("the store of results: {error}{remedy}")))
}

fn refused(path: &Path, why: &str) -> Error {
    Error::Usage(format!("{}: {why}", path.display()))
}
