use std::thread;

use serde_json::json;

use super::*;

fn fault(schema: Value) -> String {
    Schema::compile(&schema).err().unwrap()
}

#[test]
fn a_bad_schema_is_refused_with_the_place_of_the_fault_and_nothing_outside_is_fetched() {
    let cases = include_str!("schema_faults.json");
    for (schema, expected) in serde_json::from_str::<Vec<(Value, String)>>(cases).unwrap() {
        let found = fault(schema);
        assert!(found.starts_with(&expected), "{found}");
    }
}

#[test]
fn a_mismatch_names_places_and_no_values() {
    let cases = include_str!("schema_misfits.json");
    let cases: Vec<(Value, Value, Option<String>)> = serde_json::from_str(cases).unwrap();
    for (schema, value, expected) in cases {
        let found = Schema::compile(&schema).unwrap().misfit(&value);
        let same = match (&found, &expected) {
            (Some(found), Some(part)) => found.contains(part) && !found.contains("secret"),
            (found, expected) => found == expected,
        };
        assert!(same, "{value}: {found:?}");
    }
}

#[test]
fn nesting_ends_before_the_stack_does() {
    let nested = |levels| {
        let wrap = |schema, _| json!({"items": schema});
        (0..levels).fold(json!({"type": "integer"}), wrap)
    };
    // Pool threads have the standard 2 MiB.
    let compiled = thread::spawn(move || Schema::compile(&nested(99)).is_ok());
    assert!(compiled.join().unwrap());
    assert_eq!(fault(nested(200)), "it is nested more than 100 levels deep");
}

#[test]
fn circular_references_end() {
    let circle = json!({"a": {"anyOf": [{"$ref": "#/$defs/b"}]}, "b": {"$ref": "#/$defs/a"}});
    for looping in [
        json!({"$ref": "#"}),
        json!({"allOf": [{"$ref": "#"}]}),
        json!({"$ref": "#/$defs/a", "$defs": circle}),
    ] {
        let schema = Schema::compile(&looping).unwrap();
        schema.misfit(&json!([1]));
    }
    let chain = (0..200).map(|n| {
        let next = json!({"$ref": format!("#/$defs/{}", n + 1)});
        (n.to_string(), next)
    });
    let mut links: Map<String, Value> = chain.collect();
    links.insert("200".to_owned(), json!({"type": "integer"}));
    let chain = json!({"$ref": "#/$defs/0", "$defs": links});
    let compiled = thread::spawn(move || {
        let schema = Schema::compile(&chain).unwrap();
        (schema.misfit(&json!(1)), schema.misfit(&json!("1")))
    });
    let (fits, misfit) = compiled.join().unwrap();
    assert!(fits.is_none() && misfit.is_some());
}

#[test]
fn mismatches_are_not_searched_in_a_value_with_very_many() {
    let schema = Schema::compile(&json!({"items": {"type": "string"}})).unwrap();
    assert_eq!(schema.misfit(&json!(vec!["x"; 300_000])), None);
    let found = schema.misfit(&json!(vec![1; 300_000])).unwrap();
    assert_eq!(found, "in too many places to list");
    let found = schema.misfit(&json!(vec![1; 20_000])).unwrap();
    assert!(found.starts_with("at /0: value is not of type"), "{found}");
}

/// A tree whose nodes are one of two kinds: what does not fit at its bottom does not fit in twice as
/// many ways with each level.
#[test]
fn alternatives_within_alternatives_do_not_multiply_the_work() {
    let children = json!({"child": {"$ref": "#/$defs/node"}, "leaf": {"type": "string"}});
    let kind = |required| json!({"type": "object", "properties": children, "required": required});
    let schema = json!({"$ref": "#/$defs/node", "$defs": {"node":
        {"anyOf": [kind(json!([])), kind(json!(["child"])), kind(json!(["leaf"]))]}}});
    let schema = Schema::compile(&schema).unwrap();
    let tree = |depth, leaf: Value| {
        let wrap = |node, _| json!({"child": node, "leaf": "x"});
        (0..depth).fold(json!({"leaf": leaf}), wrap)
    };
    // Pool threads have the standard 2 MiB.
    let checked = thread::spawn(move || {
        for depth in [1, 5, 20, 60, 126] {
            assert_eq!(schema.misfit(&tree(depth, json!("x"))), None);
            let found = schema.misfit(&tree(depth, json!(["secret"]))).unwrap();
            assert!(found.len() < 500 && !found.contains("secret"), "{found}");
        }
        let found = schema.misfit(&tree(1, json!(1))).unwrap();
        assert_eq!(
            found,
            "value is not valid under any of the schemas listed in the 'anyOf' keyword"
        );
    });
    checked.join().unwrap();
}

#[test]
fn each_thread_gets_its_own_schema() {
    thread::scope(|scope| {
        for offset in 0..4 {
            scope.spawn(move || {
                for n in (0..200).map(|n| (n + offset * 50) % 200) {
                    let schema = Schema::compile(&json!({"const": n})).unwrap();
                    assert_eq!(schema.misfit(&json!(n)), None);
                    assert!(schema.misfit(&json!(n + 1)).is_some());
                }
            });
        }
    });
}
