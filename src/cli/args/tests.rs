use clap::CommandFactory;

use super::*;

#[test]
fn the_definitions_are_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn sizes() {
    for (text, bytes) in [
        ("4GiB", 4 << 30),
        ("4G", 4 << 30),
        ("4gb", 4_000_000_000),
        ("1.5 KiB", 1536),
        ("1000000", 1_000_000),
        ("7B", 7),
        ("2TiB", 2 << 40),
    ] {
        assert_eq!(memory(text), Ok(bytes), "{text}");
    }
    for text in ["", "0", "-1G", "4 parsecs", "GiB", "4GiBs", "nanG", "1e30", "4bb"] {
        assert!(memory(text).is_err(), "{text}");
    }
}

#[test]
fn shapes_may_be_of_names_with_an_equals_sign() {
    assert_eq!(shape("x=1x3x8x8"), Ok(("x".into(), vec![1, 3, 8, 8])));
    assert_eq!(shape("a=b=1,7"), Ok(("a=b".into(), vec![1, 7])));
    for text in ["x", "x=", "x=1xx3", "x=1x0", "x=1x-1"] {
        assert!(shape(text).is_err(), "{text}");
    }
}

#[test]
fn settings_and_batch_axes() {
    assert_eq!(fix("sr=16000"), Ok(("sr".into(), vec![16000.0])));
    assert_eq!(fix("a=b=0.5,-1"), Ok(("a=b".into(), vec![0.5, -1.0])));
    assert_eq!(batch_axis("x=1"), Ok(("x".into(), Some(1))));
    assert_eq!(batch_axis("x=none"), Ok(("x".into(), None)));
    for text in ["sr", "sr=", "sr=x", "sr=1,,2", "sr=nan"] {
        assert!(fix(text).is_err(), "{text}");
    }
    for text in ["x", "x=", "x=-1", "x=first"] {
        assert!(batch_axis(text).is_err(), "{text}");
    }
}

#[test]
fn numbers_of_samples() {
    assert_eq!(samples("all"), Ok(Samples::All));
    assert_eq!(samples("3"), Ok(Samples::Count(NonZeroUsize::new(3).unwrap())));
    assert!(samples("0").is_err() && samples("-3").is_err() && samples("some").is_err());
}

fn parse(arguments: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(arguments.split(' '))
}

#[test]
fn defaults_are_those_documented() {
    let cli = parse("gradalign rank models --data probe.npz").unwrap();
    let Command::Rank(rank) = cli.command else { panic!("another command") };
    let Scoring { data, metric, engine, format, .. } = rank.scoring;
    assert_eq!(metric.metric, ["gradalign-1", "gradalign-2"]);
    assert_eq!((data.samples, data.seed), (samples("128").unwrap(), 0));
    assert_eq!((metric.init, metric.repeats.get()), (Init::Keep, 1));
    assert_eq!((metric.bn, metric.loss), (Auto::Auto, Auto::Auto));
    assert_eq!((engine.engine, engine.device), (EngineChoice::Auto, Device::Auto));
    assert_eq!((format, engine.memory), (Format::Table, None));
}

#[test]
fn options_are_parsed() {
    let cli = parse(
        "gradalign score a.onnx b.onnx --data d --metric params,flops --mean 0.5,-0.25,1 \
         --init kaiming-normal --repeats 3 --bn sample --loss bce --engine tract --device \
         cuda:1 --gram raw --ridge 0.5 --no-params *.bias --format jsonl",
    )
    .unwrap();
    let Command::Score(score) = cli.command else { panic!("another command") };
    let Scoring { data, metric, model, engine, format, .. } = score.scoring;
    assert_eq!(score.models.len(), 2);
    assert_eq!(metric.metric, ["params", "flops"]);
    assert_eq!(data.mean, [0.5, -0.25, 1.0]);
    assert_eq!(metric.bn, Auto::This(BatchNormMode::Sample));
    assert_eq!(metric.loss, Auto::This(Loss::BinaryCrossEntropy));
    assert_eq!((metric.gram, metric.ridge), (GramKind::Raw, 0.5));
    assert_eq!(model.no_params, ["*.bias"]);
    assert_eq!(engine.device, Device::Cuda(1));
    assert_eq!(format, Format::Jsonl);
}

#[test]
fn wrong_values_are_refused() {
    for arguments in [
        "score a --data d --init best",
        "score a --data d --bn none",
        "score a --data d --loss l1",
        "score a --data d --engine torch",
        "score a --data d --device tpu",
        "score a --data d --format xml",
        "score a --data d --ridge -1",
        "score a --data d --repeats 0",
        "score a --data d --ntk-samples 1",
        "score a --data d --params [",
        "score a",
        "score --data d",
        "rank --data d",
        "grad a -o b",
        "grad a -o b --batch 2 --mean --per-sample",
        "score a --data d -q -v",
    ] {
        assert!(parse(&format!("gradalign {arguments}")).is_err(), "{arguments}");
    }
}
