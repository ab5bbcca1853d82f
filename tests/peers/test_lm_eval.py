"""lm-evaluation-harness against the protocol lm-eval."""

import pytest

pytest.importorskip("transformers", reason="needs the extra hf")

from peers import parity, with_lm_eval

parity.skip_without(*with_lm_eval.NEEDS)

ROLLING = ("word perplexity", "byte perplexity", "bits per byte")
CHOICES = (
    "BLiMP, bare sentences: log-likelihood, worst choice",
    "BLiMP, bare sentences: acc",
    "BLiMP, bare sentences: acc_bytes",
    "BLiMP, lm-eval's own target_delimiter: log-likelihood, worst choice",
    "BLiMP, lm-eval's own target_delimiter: acc",
    "BLiMP, one prefix: log-likelihood, worst choice",
    "BLiMP, one prefix: acc",
)
ADDS_BOS = "random Llama whose tokenizer adds BOS"


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return with_lm_eval.small(tmp_path_factory.mktemp("lm-eval"))


@pytest.fixture(scope="module")
def found_on_smollm2(tmp_path_factory, smollm2):
    return with_lm_eval.with_smollm2(tmp_path_factory.mktemp("lm-eval-smollm2"), smollm2)


@pytest.fixture
def blimp():
    if with_lm_eval.blimp() is None:
        pytest.skip("needs EVALGPT_DATA, a folder that holds blimp")


@pytest.mark.parametrize("quantity", ROLLING)
@pytest.mark.parametrize(
    "model",
    [
        "random Llama",
        "random GPT-2 with EOS only",
        "random GPT-2, context 48",
        f"{ADDS_BOS}, add_bos_token=False",
    ],
)
def test_a_custom_rolling_task_gives_the_same_numbers(found, model, quantity):
    parity.check(found, model, quantity)


@pytest.mark.parametrize("quantity", CHOICES)
@pytest.mark.parametrize("model", ["random Llama", f"{ADDS_BOS}, add_bos_token=False"])
def test_multiple_choice_on_blimp_gives_the_same_numbers(found, blimp, model, quantity):
    parity.check(found, model, quantity)


def test_a_bos_of_the_tokenizer_is_scored_by_lm_eval_alone(found):
    """Known, and in docs/parity.md; this notices when either side changes."""
    rows = [row for row in found if row.model == f"{ADDS_BOS}, lm-eval's default" and row.quantity in ROLLING]
    assert len(rows) == len(ROLLING)
    assert all(row.differs and not row.agrees for row in rows)


def test_a_bos_of_the_tokenizer_is_fed_before_a_context_by_lm_eval_alone(found, blimp):
    """Known, and in docs/parity.md; this notices when either side changes."""
    (row,) = [row for row in found if row.model == f"{ADDS_BOS}, lm-eval's default" and row.quantity not in ROLLING]
    assert row.quantity.startswith("BLiMP, one prefix: log-likelihood")
    assert row.differs
    assert not row.agrees


@pytest.mark.slow_model
@pytest.mark.parametrize("quantity", ROLLING)
@pytest.mark.parametrize("softmax", ["float32", "float64"])
def test_smollm2_has_the_same_rolling_numbers(found_on_smollm2, softmax, quantity):
    parity.check(found_on_smollm2, f"SmolLM2, context 512, softmax in {softmax}", quantity)


@pytest.mark.slow_model
@pytest.mark.parametrize("quantity", CHOICES)
def test_smollm2_has_the_same_choices_on_blimp(found_on_smollm2, blimp, quantity):
    parity.check(found_on_smollm2, "SmolLM2", quantity)
