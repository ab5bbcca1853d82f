"""The course's package against the model scratch and the protocol book."""

import pytest

pytest.importorskip("transformers", reason="needs the extra hf")

from peers import parity, with_llms_from_scratch

parity.skip_without(*with_llms_from_scratch.NEEDS)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return with_llms_from_scratch.small(tmp_path_factory.mktemp("llms-from-scratch"))


@pytest.mark.parametrize("quantity", ["train loss", "validation loss"])
@pytest.mark.parametrize("model", ["small GPT, drawn from seed 123 by each", "small GPT, the package's checkpoint"])
def test_its_model_and_loader_give_the_same_losses(found, model, quantity):
    parity.check(found, model, quantity)


@pytest.mark.parametrize(
    ("config", "prompt", "count"),
    [
        (with_llms_from_scratch.SMALL, "Every effort moves you", 100),  # past the end of the context
        (with_llms_from_scratch.FULL, "Every effort moves you", 10),
    ],
)
def test_its_loop_writes_the_same_tokens(config, prompt, count):
    theirs, ours = with_llms_from_scratch.continued(config, prompt, count)
    assert len(ours) == count + 4
    assert ours == theirs


@pytest.mark.slow_model
def test_the_course_s_own_losses_on_the_verdict(verdict):
    rows = with_llms_from_scratch.on_the_verdict(verdict)
    for row, published in zip(rows, (10.98758, 10.98111), strict=True):
        assert row.agrees
        assert row.theirs == pytest.approx(published, abs=5e-6)
