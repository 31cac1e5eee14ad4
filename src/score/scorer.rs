//! From a model to its record.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use super::{
    Failure, Key, Memo, ModelResult, Record, Resolved, Run, ScoreSettings, prepare, score_prepared,
};
use crate::data::Dataset;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::probe::Memory;
use crate::source::{ModelRef, Source};

/// Scores models on one data set, with one engine, by the same settings.
pub struct Scorer<'a> {
    run: Run,
    settings: Resolved,
    dataset: &'a Dataset,
    engine: &'a dyn Engine,
    memo: Option<&'a dyn Memo>,
}

impl<'a> Scorer<'a> {
    /// A scorer by `settings`, whose runs stay within `memory`. The data must have been read with
    /// [`ScoreSettings::data_options`].
    ///
    /// # Errors
    /// When the settings make no sense, or the data was read with others.
    pub fn new(
        settings: &ScoreSettings,
        dataset: &'a Dataset,
        engine: &'a dyn Engine,
        memory: Memory,
    ) -> Result<Self> {
        let run = Run::new(engine.describe(), dataset.description().clone(), settings.spelt_out()?);
        if !dataset.is_read_by(&settings.data_options(None)) {
            return Err(Error::Usage(
                "the data was read with other settings than it is to be scored with: open it with \
                 the data options of these settings"
                    .into(),
            ));
        }
        Ok(Scorer { run, settings: settings.resolve(memory)?, dataset, engine, memo: None })
    }

    /// The same scorer, which computes only what `memo` does not know.
    #[must_use]
    pub fn with_memo(mut self, memo: &'a dyn Memo) -> Self {
        self.memo = Some(memo);
        self
    }

    /// What all records have in common.
    pub fn run(&self) -> &Run {
        &self.run
    }

    /// How much memory runs may take.
    pub fn memory(&self) -> Memory {
        self.settings.memory
    }

    /// Scores `model` of `source`. A model that fails, or even panics, has a record that says why.
    pub fn score(&self, model: &ModelRef, source: &dyn Source) -> Record {
        self.score_within(model, source, self.settings.memory)
    }

    /// The same within `memory`.
    pub(crate) fn score_within(
        &self,
        model: &ModelRef,
        source: &dyn Source,
        memory: Memory,
    ) -> Record {
        let start = Instant::now();
        let settings = Resolved { memory, ..self.settings.clone() };
        let mut result = ModelResult::new(model);
        match contained(|| self.fill(&mut result, model, source, &settings)) {
            // It took the time that it says.
            Ok(Recalled::Yes) => return Record { run: self.run.clone(), result },
            Ok(Recalled::No) => {}
            Err(error) => result.fail(error),
        }
        result.seconds = start.elapsed().as_secs_f64();
        Record { run: self.run.clone(), result }
    }

    /// Fills in what is known or computed of `model`.
    fn fill(
        &self,
        result: &mut ModelResult,
        model: &ModelRef,
        source: &dyn Source,
        settings: &Resolved,
    ) -> Result<Recalled> {
        let fetched = source.fetch(model)?;
        let read = fetched.load(settings.memory.free());
        // A file that cannot be read fails below, with the reason.
        result.sha256 = fetched.sha256(read.as_ref().ok()).ok();
        drop(fetched);
        let read = read?;
        if let (Some(memo), Some(sha256)) = (self.memo, &result.sha256) {
            if let Some(known) = memo.of_content(model, sha256) {
                result.recall(known);
                return Ok(Recalled::Yes);
            }
            memo.computes(sha256);
        }
        let prepared = prepare(&read, self.dataset, settings)?;
        drop(read);
        let (imported, batch, loss, _) = &prepared;
        let key = Key::new(&imported.graph, batch, *loss, &self.run).digest();
        if let Some(known) = self.memo.and_then(|memo| memo.of_key(&key)) {
            result.recall(known);
            return Ok(Recalled::Yes);
        }
        result.key = Some(key);
        result.fill(score_prepared(prepared, settings, self.engine)?);
        Ok(Recalled::No)
    }
}

/// Whether a result was known.
enum Recalled {
    Yes,
    No,
}

/// What `work` on one model comes to; a panic fails this model alone.
pub(crate) fn contained<T>(work: impl FnOnce() -> Result<T>) -> Result<T, Failure> {
    // What a panic leaves half done belongs to the model, and is dropped with it.
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => result.map_err(|error| Failure::from(&error)),
        Err(payload) => Err(Failure {
            kind: "internal".into(),
            message: format!("a fault in gradalign: {}; please report it", text(&*payload)),
        }),
    }
}

fn text(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::all_for_tests;
    use crate::onnx::Sidecars;
    use crate::source::{Fetched, Files, InMemory};

    fn root(path: &str) -> std::path::PathBuf {
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
    }

    fn digits(settings: &ScoreSettings) -> Dataset {
        let path = root("fixtures/digits-30.npz");
        Dataset::open(path.to_str().unwrap(), &settings.data_options(None)).unwrap()
    }

    /// A source whose models cannot be had.
    struct Broken;

    impl Source for Broken {
        fn list(&self) -> Result<Vec<ModelRef>> {
            Ok(Vec::new())
        }

        fn fetch(&self, model: &ModelRef) -> Result<Fetched> {
            match model.address.as_str() {
                "panics" => panic!("index {}", 3),
                _ => Err(Error::Data("no".into())),
            }
        }
    }

    #[test]
    fn records_hold_scores_or_reasons() {
        let settings = ScoreSettings::new().metrics(["params"]);
        let (dataset, engines) = (digits(&settings), all_for_tests());
        let scorer = Scorer::new(&settings, &dataset, &*engines[0], Memory::default()).unwrap();
        let path = root("models/mlp.onnx");
        let models = Files::at(vec![path.clone(), "nowhere.onnx".into()]);
        let list = models.list().unwrap();
        let good = scorer.score(&list[0], &models).result;
        assert_eq!(good.value("params"), good.parameters.map(|n| n as f64));
        assert_eq!((good.model.as_str(), good.name.as_str()), ("mlp.onnx", "mlp.onnx"));
        assert_eq!(good.sha256, Some(crate::file::sha256(&path).unwrap()));
        assert_eq!((good.key.unwrap().len(), good.loss.as_deref()), (64, Some("cross-entropy")));
        assert!(good.error.is_none() && good.seconds > 0.0);
        let missing = scorer.score(&list[1], &models).result;
        assert_eq!((missing.error.unwrap().kind.as_str(), missing.sha256), ("io", None));

        let failed = scorer.score(&ModelRef::new("fails"), &Broken).result.error.unwrap();
        assert_eq!((failed.kind.as_str(), failed.message.as_str()), ("data", "no"));
        let panicked = scorer.score(&ModelRef::new("panics"), &Broken).result.error.unwrap();
        assert_eq!(panicked.kind, "internal");
        assert!(panicked.message.contains("index 3"));
    }

    #[test]
    fn data_that_was_read_with_other_settings_is_refused() {
        let settings = ScoreSettings::new().metrics(["params"]);
        let (dataset, engines) = (digits(&settings), all_for_tests());
        for other in [settings.clone().seed(1), settings.clone().mean([0.5])] {
            let scorer = Scorer::new(&other, &dataset, &*engines[0], Memory::default());
            assert!(scorer.is_err_and(|e| e.to_string().contains("read with other settings")));
        }
    }

    /// The model of `fixtures/extra/external.onnx` with its tensors in the file `location`, of which
    /// the first byte is changed by `flip`.
    fn external(location: &str, flip: u8, settings: &ScoreSettings) -> (String, String) {
        let model = std::fs::read(root("fixtures/extra/external.onnx")).unwrap();
        let mut tensors = std::fs::read(root("fixtures/extra/external.bin")).unwrap();
        tensors[0] ^= flip;
        let renamed = renamed(&model, "external.bin", location);
        let models =
            InMemory::default().with("m", renamed, Sidecars::from([(location.into(), tensors)]));
        let (dataset, engines) = (digits(settings), all_for_tests());
        let scorer = Scorer::new(settings, &dataset, &*engines[0], Memory::default()).unwrap();
        let result = scorer.score(&models.list().unwrap()[0], &models).result;
        assert!(result.error.is_none(), "{:?}", result.error);
        (result.key.unwrap(), result.sha256.unwrap())
    }

    /// `model` with another location of its external data.
    fn renamed(model: &[u8], from: &str, to: &str) -> Vec<u8> {
        use prost::Message;
        let mut proto = crate::onnx::proto::ModelProto::decode(model).unwrap();
        proto.producer_name = Some("another".into());
        for tensor in &mut proto.graph.as_mut().unwrap().initializer {
            for entry in &mut tensor.external_data {
                if entry.value.as_deref() == Some(from) {
                    entry.value = Some(to.into());
                }
            }
        }
        for node in &mut proto.graph.as_mut().unwrap().node {
            node.name = node.name.as_ref().map(|name| format!("{name}.{to}"));
        }
        proto.encode_to_vec()
    }

    #[test]
    fn a_key_is_of_what_is_computed_and_not_of_files() {
        let settings = ScoreSettings::new().metrics(["params"]);
        let first = external("external.bin", 0, &settings);
        let renamed = external("other.bin", 0, &settings);
        let flipped = external("external.bin", 1, &settings);
        assert_eq!(first.0, renamed.0);
        assert_ne!(first.1, renamed.1);
        assert_ne!(first.0, flipped.0);
        for other in [
            settings.clone().metrics(["flops"]),
            settings.clone().seed(1),
            settings.clone().loss("mse"),
        ] {
            assert_ne!(external("external.bin", 0, &other).0, first.0);
        }
    }
}
