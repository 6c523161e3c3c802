use std::collections::HashMap;

use super::*;

#[test]
fn the_names_are_those_of_the_settings() {
    let names: Vec<&str> = VENDORS.iter().map(|vendor| vendor.name).collect();
    assert_eq!(names, crate::config::choices::PROVIDERS.all);
}

#[test]
fn base_urls_are_used_as_in_each_sdk() {
    let cases = include_str!("base_urls_cases.json");
    let cases: HashMap<String, Vec<[String; 3]>> = serde_json::from_str(cases).unwrap();
    for (place, cases) in cases {
        for [vendor, given, meant] in cases {
            let known = Vendor::named(&vendor).unwrap();
            let used = match &*place {
                "given" => known.normalise(&given),
                _ => known.base_from_variable(&given),
            };
            assert_eq!(used, meant, "{vendor} {given} {place}");
        }
    }
}
