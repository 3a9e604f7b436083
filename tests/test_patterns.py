"""Tests of `patterns`: what is a secret and what is not, in every place that secrets turn up in."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_swarmlet_metrics.patterns import REDACTED, RULES, rules_for
from langchain_swarmlet_metrics.scrub import scrub
from tests.corpus import ALNUM, LOOK_ALIKES, SECRETS, needles


@pytest.mark.parametrize(("template", "secret"), SECRETS.values(), ids=SECRETS.keys())
def test_a_secret_is_replaced_and_the_text_around_it_is_kept(template, secret):
    """Exactly the secret becomes the marker."""
    assert scrub(template.format(secret)) == template.format(REDACTED)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda text: f"Error code: 401 - { ({'error': {'message': text, 'code': None}})!r}",
        lambda text: repr({"message": f"{text}'\""}),
        lambda text: repr([text.encode(), ("headers", text)]),
        lambda text: repr(ValueError(text, {"text": text})),
        lambda text: json.dumps({"error": {"message": text}}),
        lambda text: json.dumps({"body": json.dumps({"message": text})}),
        lambda text: repr({"body": json.dumps({"message": text})}),
    ],
    ids=["dict", "quotes", "bytes", "exception", "json", "json in json", "json in dict"],
)
def test_a_secret_goes_out_of_a_text_inside_of_a_text(wrap):
    """Quotes and line breaks are escaped where an error's text quotes another one."""
    for name, (template, secret) in SECRETS.items():
        clean = scrub(wrap(template.format(secret)))
        assert not [part for part in needles(secret) if part in clean], name


@pytest.mark.parametrize("text", LOOK_ALIKES)
def test_what_only_looks_like_a_secret_is_left_alone(text):
    """Hashes, ids, prose and placeholders stay as they are."""
    assert scrub(text) == text


@given(st.lists(st.sampled_from([*LOOK_ALIKES, *(t.format(s) for t, s in SECRETS.values())]), max_size=4))
def test_scrubbing_twice_changes_nothing(texts):
    """What is scrubbed once is clean."""
    clean = scrub(" \n".join(texts))
    assert scrub(clean) == clean


def test_any_part_of_a_prefixed_word_that_is_no_key_stays():
    """A vendor's prefix inside of a longer word is no key."""
    text = f"task-{ALNUM} risk_sk{ALNUM}"
    assert scrub(text) == text


ADVERSARIAL = [
    *("sk-", "sk-a", "xai-", "SG.aaaaaaaaaaaaaaaa.", "eyJ", "eyJ-", "eyJaaaaaaaa.", "a", " ", "\n"),
    *("://", "://a:", "://u:p@", "://u:p/", "?a", "&key=", "-----BEGIN ", "-----BEGIN PRIVATE KEY-----"),
    *("password", "password=", "password: ", "password=)", "password='", 'password=\\"', "\npassword", "-password "),
    *("api key provided: ", "Bearer a", "basic a", "authorization: ", "authorization: digest a=", "cookie: a"),
    *("token=", "token: a", "cookie=a", "<cookie a=", "auth=('a", "auth=('a', '", "a:", "a:b@tcp(", "<password>", "<a"),
    *(
        "curl ",
        "curl -u ",
        "curl -u a",
        "curl -u 'a:",
        "('password', '",
        "('a",
        "name: password",
        "name=password, value='",
    ),
    *("01234567:AA", "aaa0Q~", "JQQJ99", ".atlasv1.", "-us", "key: a", "authorization: basic ", "webhook.office.com/"),
]


@pytest.mark.parametrize("piece", ADVERSARIAL)
def test_a_megabyte_made_to_backtrack_takes_linear_time(piece):
    """Each takes well under a second; time that grows with the square would take hours."""
    text = piece * (1_000_000 // len(piece)) + "\0"
    start = time.thread_time()
    scrub(text)
    assert time.thread_time() - start < 20


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.hints[0])
def test_a_megabyte_of_a_rules_own_hint_takes_linear_time(rule):
    """What a rule looks for, again and again, with what comes after it."""
    for end in ("", "a", "aA0."):
        piece = rule.hints[0] + end
        start = time.thread_time()
        rule.pattern.sub(rule.replacement, piece * (1_000_000 // len(piece)) + "\0")
        assert time.thread_time() - start < 20


@given(st.lists(st.sampled_from([*(hint for rule in RULES for hint in rule.hints), "Key", " ", "x"]), max_size=4))
def test_rules_for_a_text(pieces):
    """The rules to look at a text with are those of which a hint is in it, in their order, whatever its case."""
    text = "".join(pieces).title()
    assert rules_for(text) == [rule for rule in RULES if any(hint in text.lower() for hint in rule.hints)]
