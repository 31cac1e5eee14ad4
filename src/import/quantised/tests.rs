use super::*;
use crate::import::made::Made;
use crate::import::{ImportOptions, all_problems, import};
use crate::tensor::{DType, Tensor};

/// The error for a perceptron with the stored integers `q` `[4, 3]` of type `stored` and the given nodes.
fn refused(stored: DataType, values: &[i64], nodes: &str) -> Option<String> {
    let wide = matches!(stored, DataType::Int64 | DataType::Uint32);
    let dtype = if wide { DType::I64 } else { DType::I32 };
    let q = (0..12).map(|i| values[i % values.len()]);
    let q = Tensor::index(q).reshape(&[4, 3]).unwrap().cast(dtype);
    let model = Made::new(&[0, 4])
        .store("q", stored, q)
        .weight("w", &[4, 4])
        .weight("head", &[3, 3])
        .weight("scales", &[1, 3])
        .scalar("scale", 0.01)
        .scalar("zero", 3.0)
        .integers("shape", &[4, 3])
        .integers("rows", &[0, 1, 2, 3])
        .nodes(nodes)
        .output("y");
    let problems = all_problems(&model, &ImportOptions::default());
    match import(&model, &ImportOptions::default()) {
        Err(error) => {
            let error = error.to_string();
            assert!(!problems.is_empty(), "{nodes}: {error}");
            Some(error)
        }
        Ok(_) => {
            assert_eq!(problems, [], "{nodes}");
            None
        }
    }
}

const WEIGHTS: [i64; 12] = [-7, 3, 5, 0, 11, -2, 9, 1, -128, 127, 4, -6];

#[test]
fn weights_behind_a_cast_are_refused_however_they_are_dequantised() {
    let nodes = [
        "Cast to=1 q -> c
         Mul c scales -> s
         MatMul x s -> y",
        "Cast to=1 q -> c
         Sub c zero -> d
         Mul d scale -> s
         MatMul x s -> y",
        "Transpose perm=1,0 q -> t
         Cast to=10 t -> h
         Cast to=1 h -> c
         Mul scale c -> s
         Gemm transB=1 x s -> y",
        // The scale follows the product.
        "Cast to=1 q -> c
         MatMul x c -> p
         Mul p scale -> y",
        "Reshape q shape -> r
         CastLike r x -> c
         Div c scale -> s
         Identity s -> i
         MatMul x i -> y",
        "Transpose perm=1,0 q -> t
         Cast to=1 t -> c
         Mul c scale -> s
         Transpose perm=1,0 x -> z
         MatMul s z -> p
         Transpose perm=1,0 p -> y",
        // An embedding.
        "ReduceMax axes=1 x -> m
         Cast to=7 m -> ids
         Gather q ids -> e
         Cast to=1 e -> c
         Mul c scale -> s
         MatMul s head -> y",
    ];
    for stored in [DataType::Int8, DataType::Uint8, DataType::Int4] {
        for nodes in nodes {
            let error = refused(stored, &WEIGHTS, nodes).unwrap();
            for part in ["quantised", "'q'", "floating-point model"] {
                assert!(error.contains(part), "{nodes}: {error}");
            }
        }
    }
    for stored in [DataType::Int16, DataType::Int32] {
        assert!(refused(stored, &WEIGHTS, nodes[0]).is_some());
    }
}

#[test]
fn integers_that_are_no_weights_are_let_through() {
    let int64 = DataType::Int64;
    for (stored, values, nodes) in [
        // A mask, one-hot rows, an adjacency matrix.
        (DataType::Int8, &[0, 1][..], "Cast to=1 q -> c\nMatMul x c -> p\nMatMul p head -> y"),
        (DataType::Bool, &[0, 1], "Cast to=1 q -> c\nMatMul x c -> p\nMatMul p head -> y"),
        // Positions, and filters that a user wrote as integers.
        (int64, &WEIGHTS, "Cast to=1 q -> c\nMatMul x c -> p\nMatMul p head -> y"),
        (DataType::Int32, &WEIGHTS, "Cast to=1 q -> c\nMatMul x c -> p\nMatMul p head -> y"),
        // A table of positions that is scaled and added.
        (
            DataType::Int32,
            &WEIGHTS,
            "MatMul w x -> z
             Cast to=1 q -> c
             Mul c scale -> s
             ReduceMean axes=0 s -> m
             MatMul x w -> p
             ReduceSum p -> t
             Add t m -> a
             MatMul a head -> y",
        ),
        // Frequencies times positions, neither of which depends on data.
        (
            DataType::Uint8,
            &WEIGHTS[..2],
            "Cast to=1 q -> c
             Mul c scale -> s
             MatMul s head -> angles
             Cos angles -> r
             MatMul x r -> y",
        ),
        // Arithmetic on shapes.
        (
            DataType::Int32,
            &[1, 2, 3],
            "MatMul x w -> p
             ReduceMax q -> n
             Cast to=1 n -> f
             Div p f -> y",
        ),
    ] {
        assert_eq!(refused(stored, values, nodes), None, "{stored:?}: {nodes}");
    }
}

#[test]
fn weights_in_functions_and_branches_are_found() {
    use crate::import::made::node;
    use crate::onnx::Function;

    let mut made = Made::new(&[0, 4]).scalar("scale", 0.01);
    let q = Tensor::index(WEIGHTS).reshape(&[4, 3]).unwrap().cast(DType::I32);
    made = made.store("q", DataType::Int8, q);
    let mut call = node("Dequantise q scale -> w");
    call.domain = "local".into();
    let mut model = made.output("y");
    model.graph.nodes = vec![call, node("MatMul x w -> y")];
    model.opsets.insert("local".into(), 1);
    let function = Function {
        inputs: vec!["a".into(), "b".into()],
        outputs: vec!["c".into()],
        defaults: Vec::new(),
        opsets: model.opsets.clone(),
        nodes: vec![node("Cast to=1 a -> f"), node("Mul f b -> c")],
    };
    model.functions.insert(("local".into(), "Dequantise".into(), String::new()), function);
    let error = import(&model, &ImportOptions::default()).unwrap_err().to_string();
    assert!(error.contains("'q' is quantised"), "{error}");
}
