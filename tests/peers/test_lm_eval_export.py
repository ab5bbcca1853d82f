"""``evalgpt export --to lm-eval`` against lm-eval's own types, and its own table."""

import json
import types
import typing

import pytest

pytest.importorskip("transformers", reason="needs the extra hf")

from click.testing import CliRunner
from peers import parity

from evalgpt.cli import cli

parity.skip_without("lm_eval")


def violations(value, kind, names, where="results"):
    """Where ``value`` is not of ``kind``, by its annotations; strings in them are looked up in ``names``."""
    if isinstance(kind, str):
        kind = eval(kind, names)
    if isinstance(kind, typing.ForwardRef):
        kind = eval(kind.__forward_arg__, names)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is typing.Any:
        return
    if origin is not None and getattr(origin, "__name__", "").endswith("Required"):
        yield from violations(value, arguments[0], names, where)
    elif origin in (typing.Union, types.UnionType):
        if all(list(violations(value, one, names, where)) for one in arguments):
            yield f"{where}: {value!r} is none of {kind}"
    elif origin is dict:
        if not isinstance(value, dict):
            yield f"{where}: {value!r} is no dict"
            return
        for key, inner in value.items():
            yield from violations(key, arguments[0], names, where)
            yield from violations(inner, arguments[1], names, f"{where}[{key!r}]")
    elif origin is list:
        for number, inner in enumerate(value):
            yield from violations(inner, arguments[0], names, f"{where}[{number}]")
    elif hasattr(kind, "__required_keys__"):
        yield from fields(value, kind, names, where)
    elif kind is type(None):
        if value is not None:
            yield f"{where}: {value!r} is not None"
    elif not (type(value) is kind or (kind is float and type(value) is int)):
        yield f"{where}: {value!r} is no {kind}"


def fields(value, kind, names, where):
    annotations = kind.__annotations__
    for key in kind.__required_keys__ - value.keys():
        yield f"{where} lacks {key}"
    for key, inner in value.items():
        if key in annotations:
            yield from violations(inner, annotations[key], names, f"{where}[{key!r}]")
        elif kind.__name__ == "_TaskMetrics" and not (
            inner == "N/A" if "_stderr," in key else type(inner) in (int, float)
        ):
            yield f"{where}[{key!r}]: {inner!r} is no number"


def exported(reports, name):
    result = CliRunner().invoke(cli, ["export", str(reports[name]), "--to", "lm-eval"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def schema():
    with parity.running():
        from lm_eval import result_schema
    return result_schema


@pytest.mark.parametrize("name", ["mixed", "lm-eval", "part"])
def test_the_file_is_of_lm_evals_types(reports, schema, name):
    found = exported(reports, name)
    assert list(violations(found, schema.EvalResults, vars(schema))) == []
    known = schema.EvalResults.__annotations__.keys()
    assert found.keys() - known == {"evalgpt"}


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d["results"]["story"].pop("name"),
        lambda d: d["results"]["story"].update({"bits_per_byte,none": None}),
        lambda d: d.update(date="today"),
        lambda d: d["n-samples"]["story"].pop("original"),
        lambda d: d["configs"]["story"].update(metadata=[1]),
        lambda d: d["config"].update(batch_sizes=["a"]),
        lambda d: d.update(git_hash=None),
    ],
)
def test_what_is_not_of_these_types_is_found(reports, schema, change):
    found = exported(reports, "lm-eval")
    change(found)
    assert len(list(violations(found, schema.EvalResults, vars(schema)))) == 1


def test_lm_eval_prints_its_table(reports):
    with parity.running():
        from lm_eval.utils import make_table

        found = exported(reports, "mixed")
        table, groups = make_table(found), make_table(found, "groups")
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
    assert lines[0] == ["Tasks", "Version", "Filter", "n-shot", "Metric", "", "Value", "", "Stderr"]
    values = {cells[6] for cells in lines[2:]}
    numbers = {v for entry in found["results"].values() for k, v in entry.items() if "none" in k and "stderr" not in k}
    assert values == {f"{v:.4f}" for v in numbers}
    assert {cells[8] for cells in lines[2:]} == {"N/A"}
    assert "- train" in table
    assert "acc_bytes" in groups
