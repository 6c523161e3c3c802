use super::*;

/// The text with single blanks in place of several.
fn squeezed(text: &str) -> String {
    let parts = text.split(' ').filter(|part| !part.is_empty());
    parts.collect::<Vec<_>>().join(" ")
}

#[test]
fn comparisons_are_rewritten_everywhere() {
    for (template, rewritten) in [
        (
            "{% if stars > 3 %}",
            "{% if __compare(0, stars , '>', 3) %}",
        ),
        (
            "{%- if 3 < a|int and not b == 'x\\'}' -%}",
            "{%- if __compare(0, 3 , '<', a|int) and not __compare(1, b , '==', 'x\\'}') -%}",
        ),
        (
            "{{ 'a' if 1 <= n < 5 else n in [1, 2] }}",
            "{{ 'a' if __compare(0, 1 , '<=', n , '<', 5) else __compare(1, n , 'in', [1, 2]) }}",
        ),
        (
            "{% for x in all if x not in seen recursive %}",
            "{% for x in all if __compare(0, x , 'not in', seen) recursive %}",
        ),
        (
            "{% set good = (n + 1) * 2 >= f(a == b, k=-c)|abs %}",
            "{% set good = __compare(1, (n + 1) * 2 , '>=', f( __compare(0, a , '==', b), k=-c)|abs) %}",
        ),
        (
            "{% if a is not none and b is in [1] %}",
            "{% if a is not none and b is in [1] %}",
        ),
        ("{% if a is not in [1] %}", "{% if a is not in [1] %}"),
        (
            "{# a > b #}{% raw %}{{ a > b }}{% endraw %} x > y { a > b",
            "{# a > b #}{% raw %}{{ a > b }}{% endraw %} x > y { a > b",
        ),
        (
            "{{ {'a': n > 1} }}",
            "{{ {'a': __compare(0, n , '>', 1)} }}",
        ),
        (
            "{% if a\n  >\n  3 %}",
            "{% if __compare(0, a\n , '>', \n 3) %}",
        ),
    ] {
        assert_eq!(squeezed(&Rewritten::of(template).text), rewritten);
    }
}

#[test]
fn columns_with_blanks_and_plain_variables_are_recognised() {
    let template = "{{ row[\"Review Text\"] }}{{ price }}{% if row['Review Text']|length > 3 %}{{ x }}{% set x = 1 %}";
    let rewritten = Rewritten::of(template);
    assert_eq!(
        squeezed(&rewritten.text),
        "{{ __written___column_0 }}{{ __written_price }}\
         {% if __compare(0, __written___column_0|length , '>', 3) %}{{ x }}{% set x = 1 %}"
    );
    assert_eq!(rewritten.operands, [["row['Review Text']|length", "3"]]);
    for (template, rewritten) in [
        (
            "{{ 'EUR ' ~ price ~ '!' }}",
            "{{ 'EUR ' ~ __written_price ~ '!' }}",
        ),
        (
            "{{ 2 * price ~ x|trim }}",
            "{{ 2 * price ~ __written_x|trim }}",
        ),
        (
            "{{ price|round ~ '' ~ price * 2 }}",
            "{{ price|round ~ '' ~ price * 2 }}",
        ),
        (
            "{{ a.price|trim ~ f(price) }}",
            "{{ a.price|trim ~ f(price) }}",
        ),
        // The minus is applied before the filter.
        ("{{ -price|string }}", "{{ -price|string }}"),
        (
            "{% if -x|string ~ (-y|trim) ~ z -w|length %}",
            "{% if -x|string ~ (-y|trim) ~ z -__written_w|length %}",
        ),
    ] {
        assert_eq!(Rewritten::of(template).text, rewritten);
    }
    let column = |name: &str| rewritten.binding(name.to_owned());
    assert_eq!(column("__column_0").column, "Review Text");
    let written = column("__written___column_0");
    assert!(written.as_text && written.column == "Review Text");
    assert_eq!(column("__written_price").column, "price");
}
