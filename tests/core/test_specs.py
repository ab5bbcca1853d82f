"""The spec grammar, and the conversion of a spec's values to what a factory takes."""

import re
import string

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from evalgpt import UsageError
from evalgpt.core.specs import Spec, options_of, parse, resolve, with_home

names = st.text(st.characters(exclude_characters=":,\0", exclude_categories=["Cs"]), min_size=1).filter(str.strip)
keys = st.builds(
    str.__add__, st.sampled_from(string.ascii_letters + "_"), st.text(string.ascii_letters + string.digits + "_")
)
texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])) | st.text(r"a,\=")
values = texts
arguments = st.none() | texts.filter(lambda text: text and not re.match(r"[A-Za-z_]\w*=", text, re.ASCII))


def factory(
    argument: str | None,
    *,
    size: int = 3,
    rate: float = 0.5,
    deep: bool = False,
    path: str | None = None,
    limit: int | None = None,
) -> None:
    """Every type that a key may have."""


def needy(argument: str | None, *, url: str) -> None:
    """A key without a default."""


def resolved(text, make=factory, given=None):
    return resolve("model", parse(text), make, given)


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("scratch", Spec("scratch")),
        ("scratch:355M", Spec("scratch", "355M")),
        ("scratch:seed=7", Spec("scratch", None, {"seed": "7"})),
        ("scratch,seed=7", Spec("scratch", None, {"seed": "7"})),
        ("hf:./my-model,dtype=bfloat16", Spec("hf", "./my-model", {"dtype": "bfloat16"})),
        ("scratch:355M,seed=7,weights=a=b:c", Spec("scratch", "355M", {"seed": "7", "weights": "a=b:c"})),
        ("text:a,b.txt", Spec("text", "a,b.txt")),
        ("text:C:/books/a, b.txt,field=body", Spec("text", "C:/books/a, b.txt", {"field": "body"})),
        ("http:http://host:8000/v1,model=x", Spec("http", "http://host:8000/v1", {"model": "x"})),
        ("text:./a=b.txt", Spec("text", "./a=b.txt")),
        ("text:/runs/lr=1/book.txt", Spec("text", "/runs/lr=1/book.txt")),
        ("text:my-file=1.txt", Spec("text", "my-file=1.txt")),
        ("text:,", Spec("text", ",")),
        ("m:key=", Spec("m", None, {"key": ""})),
        (r"text:a\,b=c.txt", Spec("text", "a,b=c.txt")),
        (r"text:a\,b=c.txt,field=x\,y=z", Spec("text", "a,b=c.txt", {"field": "x,y=z"})),
        (r"text:C:\books\a.txt,field=body", Spec("text", r"C:\books\a.txt", {"field": "body"})),
        ("text:C:\\books\\\\,field=body", Spec("text", "C:\\books\\", {"field": "body"})),
    ],
)
def test_parse(text, spec):
    assert parse(text) == spec


def test_the_order_of_keys_is_kept():
    assert list(parse("m:b=1,a=2,c=3").options) == ["b", "a", "c"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "has no name"),
        (":x", "has no name"),
        (",seed=7", "has no name"),
        (" :x", "has no name"),
        ("text:", "nothing follows the ':'"),
        ("text,", "'' is not key=value"),
        ("scratch,124M", "'124M' is not key=value"),
        ("m:,seed=7", "nothing follows"),
        ("m:seed=7,seed=8", "key 'seed' is given twice"),
        ("m:seed=7,fast", "'fast' is not key=value"),
        ("m:seed=7,", "'' is not key=value"),
        ("m:lr=1,b.txt", r"a comma that belongs to a path or a value is written \,"),
        ("m:a\0b", "holds a NUL"),
    ],
)
def test_a_spec_that_cannot_be_read_is_refused(text, says):
    with pytest.raises(UsageError, match=re.escape(says)) as raised:
        parse(text)
    assert repr(text) in str(raised.value)


@given(names, arguments, st.dictionaries(keys, values))
def test_str_gives_the_spec_back(name, argument, options):
    spec = Spec(name, argument, options)
    assert parse(str(spec)) == spec


@given(st.text(alphabet="ab:,=.7 _\\", max_size=12))
def test_str_is_canonical_for_every_text_that_parses(text):
    try:
        spec = parse(text)
    except UsageError:
        assume(False)
    assert parse(str(spec)) == spec
    assert str(parse(str(spec))) == str(spec)


def test_options_of_lists_the_keyword_only_parameters():
    assert list(options_of(factory)) == ["size", "rate", "deep", "path", "limit"]


def test_values_are_converted_to_the_annotated_types():
    options = resolved("m:size=7,rate=0.25,deep=true,path=7,limit=-2")
    assert options == {"size": 7, "rate": 0.25, "deep": True, "path": "7", "limit": -2}
    assert [type(value) for value in options.values()] == [int, float, bool, str, int]


def test_what_is_not_given_is_left_to_the_factory():
    assert resolved("m") == {}
    assert resolved("m", given={"size": None}) == {}


@pytest.mark.parametrize(("text", "value"), [("true", True), ("1", True), ("false", False), ("0", False)])
def test_booleans(text, value):
    assert resolved(f"m:deep={text}") == {"deep": value}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("m:size=seven", "model 'm': size must be int, not 'seven'"),
        ("m:size=1.5", "model 'm': size must be int, not '1.5'"),
        ("m:size=", "model 'm': size must be int, not ''"),
        ("m:rate=fast", "model 'm': rate must be float, not 'fast'"),
        ("m:deep=perhaps", "model 'm': deep must be bool (true or false), not 'perhaps'"),
        ("m:limit=all", "model 'm': limit must be int, not 'all'"),
    ],
)
def test_a_value_of_another_type_is_refused(text, says):
    with pytest.raises(UsageError) as raised:
        resolved(text)
    assert str(raised.value) == says


def test_an_unknown_key_lists_the_known_ones():
    with pytest.raises(UsageError) as raised:
        resolved("m:sise=7")
    assert str(raised.value) == "model 'm' does not know the key 'sise'; it knows size, rate, deep, path, limit"


def test_a_factory_without_keys_says_so():
    with pytest.raises(UsageError, match="does not know the key 'size'; it takes none"):
        resolved("m:size=7", make=lambda argument: None)


def test_a_key_from_elsewhere_must_be_known_too():
    with pytest.raises(UsageError, match="does not know the key 'device'"):
        resolved("m", given={"device": "cuda"})


def test_options_from_elsewhere_are_added():
    assert resolved("m:rate=1", given={"size": 9, "path": None}) == {"rate": 1.0, "size": 9}


def test_a_key_given_twice_the_same_is_given_once():
    assert resolved("m:size=9", given={"size": 9}) == {"size": 9}


def test_a_key_given_twice_differently_is_refused():
    with pytest.raises(UsageError, match="size is given twice, as 8 in the spec and as 9 beside it"):
        resolved("m:size=8", given={"size": 9})


def test_a_key_without_a_default_is_asked_for():
    with pytest.raises(UsageError, match=re.escape("model 'm' needs url=...; write m:url=VALUE")):
        resolved("m", make=needy)
    assert resolved("m:url=x", make=needy) == {"url": "x"}


def test_a_path_taken_for_a_key_is_told_the_rule():
    with pytest.raises(UsageError, match=re.escape(r"a comma that belongs to a path or a value is written \,")):
        resolved("m:a,b=c.txt")


def test_a_user_that_is_not_there_is_named():
    with pytest.raises(UsageError, match="no user 'nouser_of_evalgpt'"):
        with_home(parse("text:~nouser_of_evalgpt/book.txt"))
