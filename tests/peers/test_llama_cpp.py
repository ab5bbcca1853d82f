"""llama.cpp's logits and its perplexity of chunks against the protocol llama.cpp."""

import pytest

pytest.importorskip("transformers", reason="needs the extra hf")

from peers import parity, with_llama_cpp

parity.skip_without(*with_llama_cpp.NEEDS)

QUANTITIES = ("perplexity", "standard error")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return with_llama_cpp.small(tmp_path_factory.mktemp("llama-cpp"))


@pytest.fixture(scope="module")
def found_on_smollm2(tmp_path_factory, smollm2):
    return with_llama_cpp.with_smollm2(tmp_path_factory.mktemp("llama-cpp-smollm2"), smollm2)


@pytest.mark.parametrize("quantity", QUANTITIES)
@pytest.mark.parametrize("bos", ["added", "not added"])
def test_a_float32_file_gives_the_same_numbers(found, bos, quantity):
    parity.check(found, f"random float32 Llama, BOS {bos}, 64 tokens", quantity)


@pytest.mark.slow_model
@pytest.mark.parametrize("quantity", QUANTITIES)
def test_smollm2_widened_to_float32_gives_the_same_numbers(found_on_smollm2, quantity):
    parity.check(found_on_smollm2, "SmolLM2, widened to float32 by llama.cpp", quantity)


@pytest.mark.slow_model
@pytest.mark.parametrize("quantity", QUANTITIES)
@pytest.mark.parametrize("keys", ["float32", "float16"])
def test_smollm2_in_four_bits_is_as_near_as_its_rounding_allows(found_on_smollm2, keys, quantity):
    parity.check(found_on_smollm2, f"SmolLM2, Q4_1, keys and values in {keys}", quantity)
