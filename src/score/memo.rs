//! Results that are known before a model is scored.

use super::ModelResult;
use crate::source::ModelRef;

/// What a [`Scorer`](super::Scorer) asks before it computes: results of the same run that were
/// computed earlier.
///
/// It is asked twice. The content of a model is known as soon as the model is read, and its key only
/// after the import; the same network in another file has another content and the same key.
pub trait Memo: Send + Sync {
    /// The result for `model`, whose content has this digest: [`ModelResult::sha256`].
    fn of_content(&self, model: &ModelRef, sha256: &str) -> Option<ModelResult>;

    /// The result with this key: [`ModelResult::key`].
    fn of_key(&self, key: &str) -> Option<ModelResult>;

    /// Comes where neither is known and computing begins, with the digest of the content.
    fn computes(&self, sha256: &str) {
        let _ = sha256;
    }
}

/// Knows nothing.
impl Memo for () {
    fn of_content(&self, _: &ModelRef, _: &str) -> Option<ModelResult> {
        None
    }

    fn of_key(&self, _: &str) -> Option<ModelResult> {
        None
    }
}
