//! Everything that changes the value of a score, by names and numbers.

use std::collections::BTreeMap;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::canonical::digest;
use super::{Resolved, check_repeats};
use crate::data::{self, Samples};
use crate::error::{Error, Result};
use crate::import::ImportOptions;
use crate::metric::{self, RegionInputs, ZenForm};
use crate::ops::BatchNormMode;
use crate::probe::{GramKind, Memory};

/// Leaves a choice to the score, or to the model.
const AUTO: &str = "auto";

const BATCH_NORM: [(&str, Option<BatchNormMode>); 4] = [
    (AUTO, None),
    ("running", Some(BatchNormMode::Running)),
    ("sample", Some(BatchNormMode::Sample)),
    ("batch", Some(BatchNormMode::Batch)),
];

const GRAM: [(&str, GramKind); 2] = [("sign", GramKind::Sign), ("raw", GramKind::Raw)];

const ZEN: [(&str, ZenForm); 2] = [("paper", ZenForm::Paper), ("reference", ZenForm::Reference)];

const REGIONS: [(&str, RegionInputs); 2] =
    [("gaussian", RegionInputs::Gaussian), ("samples", RegionInputs::Samples)];

/// Every option that changes the value of a score, by the names of the command line. What is not
/// here, such as the number of threads, changes no value beyond rounding.
///
/// It can be written down and read back; [`ScoreSettings::resolve`] gives what the names stand for.
///
/// ```
/// use gradalign::score::ScoreSettings;
///
/// let settings = ScoreSettings::new().metrics(["gradalign-1", "naswot"]).init("pytorch").seed(3);
/// let text = serde_json::to_string(&settings).unwrap();
/// assert_eq!(serde_json::from_str::<ScoreSettings>(&text).unwrap(), settings);
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default, deny_unknown_fields)]
#[non_exhaustive]
pub struct ScoreSettings {
    /// The scores, in the order reported; the first one ranks.
    #[serde(rename = "metric")]
    pub metrics: Vec<String>,
    /// Seed of the draw of samples and of the initialisation.
    pub seed: u64,
    /// How parameters are initialised; `keep` for those of the file.
    pub init: String,
    /// How many initialisations are averaged.
    pub repeats: usize,
    /// The loss; `auto` for the one that the model's output suggests.
    pub loss: String,
    /// How many samples are drawn.
    pub samples: Samples,
    /// Mean per channel of uint8 images, after scaling to [0, 1]; empty for 0.
    pub mean: Vec<f32>,
    /// Standard deviation per channel of uint8 images; empty for 1.
    pub std: Vec<f32>,
    /// The statistics of batch normalisation; `auto` for each score's own default.
    pub bn: String,
    /// Whether GradAlign-I is divided by the number of parameters.
    pub normalize: bool,
    /// Whether GradAlign-I leaves out the pairs of a sample with itself.
    pub off_diagonal: bool,
    /// What GradAlign's Gram matrices are of: `sign` or `raw` gradients.
    pub gram: String,
    /// Added to the diagonal of GradAlign-II's Gram matrices.
    pub ridge: f64,
    /// The variances that Zen-NAS multiplies with: those of its `paper` or of its `reference` code.
    pub zen: String,
    /// The node whose result Zen-NAS takes for the features; `None` to find it.
    pub features: Option<String>,
    /// The inputs that TE-NAS counts linear regions on: `gaussian` or `samples`.
    pub regions: String,
    /// How many samples TE-NAS's tangent kernel is over, at most.
    pub ntk_samples: usize,
    /// Shapes of inputs of which the file leaves dimensions open, with a batch of 1.
    pub shape: BTreeMap<String, Vec<usize>>,
    /// Values of inputs that are settings: one for all elements, or one for each.
    pub fix: BTreeMap<String, Vec<f64>>,
    /// Batch axes of inputs; `None` for an input that has none.
    pub batch_axis: BTreeMap<String, Option<usize>>,
    /// Glob patterns of the only parameters; empty for all.
    pub params: Vec<String>,
    /// Glob patterns of tensors that are not parameters.
    pub no_params: Vec<String>,
    /// The tensor that is taken for the output; `None` for the model's prediction.
    pub tensor: Option<String>,
}

impl Default for ScoreSettings {
    fn default() -> Self {
        let metric::Options { gram, zen, regions, ridge, ntk_samples, .. } =
            metric::Options::default();
        ScoreSettings {
            metrics: vec!["gradalign-1".into(), "gradalign-2".into()],
            seed: 0,
            init: "keep".into(),
            repeats: 1,
            loss: AUTO.into(),
            samples: Samples::default(),
            mean: Vec::new(),
            std: Vec::new(),
            bn: AUTO.into(),
            normalize: false,
            off_diagonal: false,
            gram: name(&GRAM, gram),
            ridge,
            zen: name(&ZEN, zen),
            features: None,
            regions: name(&REGIONS, regions),
            ntk_samples,
            shape: BTreeMap::new(),
            fix: BTreeMap::new(),
            batch_axis: BTreeMap::new(),
            params: Vec::new(),
            no_params: Vec::new(),
            tensor: None,
        }
    }
}

/// One method for each field, which sets it.
macro_rules! setters {
    ($($name:ident: $value:ident: $type:ty => $set:expr;)*) => {
        $(
            #[doc = concat!("Sets [`ScoreSettings::", stringify!($name), "`](field@ScoreSettings::", stringify!($name), ").")]
            #[must_use]
            pub fn $name(mut self, $value: $type) -> Self {
                self.$name = $set;
                self
            }
        )*
    };
}

impl ScoreSettings {
    /// The defaults of the command line.
    pub fn new() -> Self {
        ScoreSettings::default()
    }

    setters! {
        metrics: names: impl IntoIterator<Item = impl Into<String>> => names.into_iter().map(Into::into).collect();
        seed: seed: u64 => seed;
        init: scheme: impl Into<String> => scheme.into();
        repeats: repeats: usize => repeats;
        loss: name: impl Into<String> => name.into();
        samples: samples: Samples => samples;
        mean: channels: impl Into<Vec<f32>> => channels.into();
        std: channels: impl Into<Vec<f32>> => channels.into();
        bn: mode: impl Into<String> => mode.into();
        normalize: normalize: bool => normalize;
        off_diagonal: off_diagonal: bool => off_diagonal;
        gram: kind: impl Into<String> => kind.into();
        ridge: ridge: f64 => ridge;
        zen: form: impl Into<String> => form.into();
        features: node: impl Into<String> => Some(node.into());
        regions: inputs: impl Into<String> => inputs.into();
        ntk_samples: samples: usize => samples;
        shape: shapes: BTreeMap<String, Vec<usize>> => shapes;
        fix: values: BTreeMap<String, Vec<f64>> => values;
        batch_axis: axes: BTreeMap<String, Option<usize>> => axes;
        params: patterns: impl IntoIterator<Item = impl Into<String>> => patterns.into_iter().map(Into::into).collect();
        no_params: patterns: impl IntoIterator<Item = impl Into<String>> => patterns.into_iter().map(Into::into).collect();
        tensor: name: impl Into<String> => Some(name.into());
    }

    /// The SHA-256 in hex of these settings as JSON with sorted keys and no spaces.
    pub fn digest(&self) -> String {
        digest(self)
    }

    /// The settings with the names of scores spelt out: each once, groups such as `all` by their
    /// members.
    ///
    /// # Errors
    /// When there is no such score.
    pub fn spelt_out(&self) -> Result<Self> {
        let metrics = select(&self.metrics)?;
        let metrics = metrics.iter().map(|metric| metric.info().name.to_owned()).collect();
        Ok(ScoreSettings { metrics, ..self.clone() })
    }

    /// What the names stand for, with runs that stay within `memory`.
    ///
    /// # Errors
    /// When a name is not known, a number makes no sense, or options contradict each other.
    pub fn resolve(&self, memory: Memory) -> Result<Resolved> {
        // A field that is added must find its place here.
        let ScoreSettings {
            metrics,
            seed,
            init,
            repeats,
            loss,
            samples: _,
            mean: _,
            std: _,
            bn,
            normalize,
            off_diagonal,
            gram,
            ridge,
            zen,
            features,
            regions,
            ntk_samples,
            shape: _,
            fix,
            batch_axis: _,
            params,
            no_params,
            tensor: _,
        } = self;
        if !(ridge.is_finite() && *ridge >= 0.0) {
            return Err(Error::Usage(format!("the ridge is {ridge}: give a number of 0 or above")));
        }
        if let Some((name, _)) = fix.iter().find(|(_, v)| !v.iter().all(|v| v.is_finite())) {
            return Err(Error::Usage(format!(
                "the values of input '{name}' must be finite numbers"
            )));
        }
        for pattern in params.iter().chain(no_params) {
            glob::Pattern::new(pattern)
                .map_err(|e| Error::Usage(format!("'{pattern}' is not a pattern: {e}")))?;
        }
        let options = metric::Options {
            batch_norm: choice("statistics of batch normalisation", &BATCH_NORM, bn)?,
            gram: choice("kind of Gram matrix", &GRAM, gram)?,
            normalize: *normalize,
            off_diagonal: *off_diagonal,
            ridge: *ridge,
            zen: choice("form of Zen-NAS", &ZEN, zen)?,
            features: features.clone(),
            regions: choice("inputs of linear regions", &REGIONS, regions)?,
            ntk_samples: *ntk_samples,
        };
        let metrics = select(metrics)?;
        // An option that a score refuses is refused now, not once for each model.
        metrics.iter().try_for_each(|metric| metric.probe(&options).map(drop))?;
        let settings = Resolved {
            metrics,
            options,
            init: init.parse()?,
            seed: *seed,
            repeats: *repeats,
            loss: if loss == AUTO { None } else { Some(FromStr::from_str(loss)?) },
            memory,
            import: self.import_options(),
        };
        check_repeats(&settings)?;
        Ok(settings)
    }

    /// How models are imported.
    pub fn import_options(&self) -> ImportOptions {
        ImportOptions {
            shapes: self.shape.clone().into_iter().collect(),
            fixed: self.fix.clone().into_iter().collect(),
            batch_axes: self.batch_axis.clone().into_iter().collect(),
            output: self.tensor.clone(),
            include: self.params.clone(),
            exclude: self.no_params.clone(),
            ..ImportOptions::default()
        }
    }

    /// How the data is read, within `memory` bytes.
    pub fn data_options(&self, memory: Option<u64>) -> data::Options {
        data::Options {
            samples: self.samples,
            seed: self.seed,
            mean: self.mean.clone(),
            std: self.std.clone(),
            memory,
        }
    }
}

/// The scores by these names.
fn select(names: &[String]) -> Result<Vec<&'static dyn metric::Metric>> {
    metric::select(&names.iter().map(|name| name.trim()).collect::<Vec<_>>())
}

/// What `name` stands for.
fn choice<T: Copy>(what: &str, choices: &[(&str, T)], name: &str) -> Result<T> {
    let found = choices.iter().find(|(known, _)| *known == name);
    found.map(|(_, choice)| *choice).ok_or_else(|| {
        let known: Vec<&str> = choices.iter().map(|(known, _)| *known).collect();
        Error::Usage(format!("unknown {what} '{name}': choose {}", known.join(", ")))
    })
}

fn name<T: PartialEq>(choices: &[(&str, T)], choice: T) -> String {
    let found = choices.iter().find(|(_, known)| *known == choice);
    found.map(|(name, _)| (*name).to_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use super::*;
    use crate::transform::{Init, Loss};

    /// Settings in which each field differs from its default, by the field's name in JSON.
    fn changed() -> Vec<(&'static str, ScoreSettings)> {
        let new = ScoreSettings::new;
        let map = |v| BTreeMap::from([("x".to_owned(), v)]);
        vec![
            ("metric", new().metrics(["naswot"])),
            ("seed", new().seed(u64::MAX)),
            ("init", new().init("pytorch")),
            ("repeats", new().repeats(2)),
            ("loss", new().loss("bce")),
            ("samples", new().samples(Samples::Count(NonZeroUsize::MIN))),
            ("mean", new().mean([0.485])),
            ("std", new().std([0.229])),
            ("bn", new().bn("sample")),
            ("normalize", new().normalize(true)),
            ("off-diagonal", new().off_diagonal(true)),
            ("gram", new().gram("raw")),
            ("ridge", new().ridge(0.1)),
            ("zen", new().zen("reference")),
            ("features", new().features("x")),
            ("regions", new().regions("samples")),
            ("ntk-samples", new().ntk_samples(5)),
            ("shape", new().shape(BTreeMap::from([("x".into(), vec![1, 2])]))),
            ("fix", new().fix(BTreeMap::from([("x".into(), vec![0.1])]))),
            ("batch-axis", new().batch_axis(map(None))),
            ("params", new().params(["*"])),
            ("no-params", new().no_params(["b"])),
            ("tensor", new().tensor("y")),
        ]
    }

    #[test]
    fn every_field_changes_the_digest() {
        let default = serde_json::to_value(ScoreSettings::new()).unwrap();
        let mut fields: Vec<&String> = default.as_object().unwrap().keys().collect();
        let changed = changed();
        let mut digests = vec![ScoreSettings::new().digest()];
        for (field, settings) in &changed {
            let json = serde_json::to_value(settings).unwrap();
            let differs = |name: &&String| json[name.as_str()] != default[name.as_str()];
            let differing: Vec<_> = default.as_object().unwrap().keys().filter(differs).collect();
            assert_eq!(differing, [field]);
            fields.retain(|name| name != field);
            assert!(!digests.contains(&settings.digest()), "{field}");
            digests.push(settings.digest());
        }
        assert!(fields.is_empty(), "fields that no test changes: {fields:?}");
    }

    #[test]
    fn settings_survive_being_written() {
        let mut all = ScoreSettings::new().samples(Samples::All).ridge(0.1 + 0.2).mean([0.1, 1e-7]);
        all.batch_axis = BTreeMap::from([("a".into(), None), ("b".into(), Some(1))]);
        for settings in changed().into_iter().map(|(_, settings)| settings).chain([all]) {
            let text = serde_json::to_string(&settings).unwrap();
            let again: ScoreSettings = serde_json::from_str(&text).unwrap();
            assert_eq!(again, settings);
            assert_eq!(again.digest(), settings.digest());
        }
    }

    /// The digest identifies results that are stored: it must not change by accident.
    #[test]
    fn the_digest_of_the_defaults_is_known() {
        let text = super::super::canonical::json(&ScoreSettings::new());
        assert!(text.starts_with(r#"{"batch-axis":{},"bn":"auto","features":null,"#), "{text}");
        // printf %s "$text" | sha256sum
        let expected = "3a1ad2f0aac6196be5d6cbe9f454ee3b5d97aeec05f7814bd9ae9e42cdec5245";
        assert_eq!(ScoreSettings::new().digest(), expected, "{text}");
    }

    #[test]
    fn fields_left_out_are_defaults_and_unknown_ones_are_refused() {
        let read = |text: &str| serde_json::from_str::<ScoreSettings>(text);
        assert_eq!(read(r#"{"seed": 3}"#).unwrap(), ScoreSettings::new().seed(3));
        assert!(read(r#"{"sed": 3}"#).unwrap_err().to_string().contains("`sed`"));
        assert!(read(r#"{"samples": "some"}"#).is_err() && read(r#"{"samples": 0}"#).is_err());
    }

    #[test]
    fn names_resolve_to_what_they_stand_for() {
        let resolve = |settings: ScoreSettings| settings.resolve(Memory::default());
        let defaults = resolve(ScoreSettings::new()).unwrap();
        assert_eq!((&defaults.options, defaults.loss), (&metric::Options::default(), None));
        let settings = ScoreSettings::new()
            .metrics(["grad_norm", "grad-norm"])
            .loss("mse")
            .init("orthogonal")
            .bn("batch");
        assert_eq!(settings.spelt_out().unwrap().metrics, ["grad-norm"]);
        let settings = resolve(settings).unwrap();
        assert_eq!(settings.metrics.len(), 1);
        assert_eq!(
            (settings.loss, settings.init),
            (Some(Loss::MeanSquaredError), Init::Orthogonal)
        );
        assert_eq!(settings.options.batch_norm, Some(BatchNormMode::Batch));

        let new = ScoreSettings::new;
        for (settings, says) in [
            (new().metrics(["gradalign-3"]), "choose from gradalign-1"),
            (new().loss("l1"), "unknown loss 'l1'"),
            (new().init("best"), "unknown initialisation 'best'"),
            (new().bn("none"), "choose auto, running, sample, batch"),
            (new().gram("x"), "choose sign, raw"),
            (new().zen("x"), "choose paper, reference"),
            (new().regions("x"), "choose gaussian, samples"),
            (new().ridge(f64::NAN), "the ridge is NaN"),
            (new().repeats(0), "at least 1"),
            (new().params(["["]), "not a pattern"),
            (new().fix(BTreeMap::from([("x".into(), vec![f64::NAN])])), "finite"),
        ] {
            let error = resolve(settings).unwrap_err();
            assert_eq!(error.kind(), "usage");
            assert!(error.to_string().contains(says), "{error}");
        }
    }

    /// The command line has the names from elsewhere.
    #[cfg(feature = "cli")]
    #[test]
    fn names_are_those_of_the_command_line() {
        use clap::ValueEnum;
        let of = |value: Option<clap::builder::PossibleValue>| value.unwrap().get_name().to_owned();
        assert_eq!(ZenForm::value_variants().len(), ZEN.len());
        assert!(ZEN.iter().all(|(name, form)| of(form.to_possible_value()) == *name));
        assert_eq!(RegionInputs::value_variants().len(), REGIONS.len());
        assert!(REGIONS.iter().all(|(name, form)| of(form.to_possible_value()) == *name));
        let modes = BATCH_NORM.iter().filter_map(|(name, mode)| Some((name, (*mode)?)));
        assert!(modes.into_iter().all(|(name, mode)| mode.to_string() == **name));
    }
}
