//! What models are called.

use std::collections::HashMap;
use std::path::is_separator;

/// For each address the shortest end of it, in whole path components, that no other address has: of
/// `x/a/model.onnx` and `x/b/model.onnx` these are `a/model.onnx` and `b/model.onnx`, of a single one
/// it is `model.onnx`. Equal addresses have equal names.
pub fn names<S: AsRef<str>>(addresses: &[S]) -> Vec<String> {
    // Where the name of each address begins.
    let mut starts: HashMap<&str, usize> = HashMap::new();
    for address in addresses.iter().map(AsRef::as_ref) {
        starts.insert(address, last_start(address));
    }
    let mut open: Vec<&str> = starts.keys().copied().collect();
    while !open.is_empty() {
        let mut uses: HashMap<&str, usize> = HashMap::new();
        for address in &open {
            *uses.entry(&address[starts[address]..]).or_default() += 1;
        }
        let shared: Vec<&str> = open
            .into_iter()
            .filter(|address| starts[address] > 0 && uses[&address[starts[address]..]] > 1)
            .collect();
        for address in &shared {
            starts.insert(address, component_before(address, starts[address]));
        }
        open = shared;
    }
    addresses.iter().map(AsRef::as_ref).map(|address| address[starts[address]..].into()).collect()
}

/// The last component of an address.
pub(super) fn last(address: &str) -> &str {
    &address[last_start(address)..]
}

/// Where the last component begins; at the beginning, where there is none.
fn last_start(address: &str) -> usize {
    match component_before(address, address.len() + 1) {
        start if start == address.len() => 0,
        start => start,
    }
}

/// Where the component begins that ends in front of the separator before `end`.
fn component_before(address: &str, end: usize) -> usize {
    let before = &address[..end - 1];
    before.rfind(is_separator).map_or(0, |at| at + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn are(addresses: &[&str], expected: &[&str]) {
        assert_eq!(names(addresses), expected);
    }

    #[test]
    fn names_are_the_shortest_that_differ() {
        are(&["x/model.onnx"], &["model.onnx"]);
        are(&["x/a/model.onnx", "x/b/model.onnx"], &["a/model.onnx", "b/model.onnx"]);
        are(&["a/x/m", "b/x/m", "c/y/m", "c/y/n"], &["a/x/m", "b/x/m", "y/m", "n"]);
        are(&["m", "a/m", "/m", "./m"], &["m", "a/m", "/m", "./m"]);
        are(&["a/m", "a/m"], &["m", "m"]);
        are(&["oci://h/a:1", "oci://h/a:2"], &["a:1", "a:2"]);
        are(&["", "/"], &["", "/"]);
        are(&[], &[]);
    }

    #[test]
    fn many_models_take_little_time() {
        let addresses: Vec<String> =
            (0..100_000).map(|i| format!("root/{i}/deep/down/model.onnx")).collect();
        assert_eq!(names(&addresses)[7], "7/deep/down/model.onnx");
    }
}
