"""llama.cpp through llama-cpp-python: its reading of a GGUF, its tokenizer and its logits at every position.

The tool ``llama-perplexity`` is not in the package, so its definition is applied to those logits here: whole chunks
of n_ctx tokens, BOS over the first of each where the vocabulary adds it, and of each the tokens that positions
n_ctx/2 .. n_ctx-2 predict (tools/perplexity/perplexity.cpp).

llama.cpp multiplies quantised weights by activations that it rounds to 8 bits (Q4_1 by Q8_1), where transformers
widens the weights to float32 first. On a quantised file it therefore computes in lower precision. The same file
written out in float32 by llama.cpp shows that this is the whole difference. Keys and values are kept in float32, and
once in its default of float16, without flash attention.
"""

import ctypes
import json
import math

import numpy as np
import torch
from peers.parity import Comparison, Texts, one_thread, running, smollm2_file, story, version
from support.hf_models import byte_level

import evalgpt

PEER = "llama.cpp"
NEEDS = ("llama_cpp", "gguf", "transformers", "accelerate")

QUANTISED = 5e-3
"""Relative, of SmolLM2's perplexity over two chunks. Measured 6e-4 with float32 keys and values; single tokens are up
to 0.43 nats off, 0.06 in the mean, and these deviations nearly cancel."""

QUANTISED_AND_HALF = 2e-2
"""The same with keys and values in float16. Measured 3.4e-3."""

SHAPE = {"width": 64, "heads": 4, "shared": 2, "inner": 96, "layers": 2, "context": 256}


@one_thread()
def small(folder):
    text = story(1500)
    found = []
    for adds_bos in (False, True):
        name = f"random float32 Llama, BOS {'added' if adds_bos else 'not added'}, 64 tokens"
        path = write_gguf(folder / f"bos-{adds_bos}.gguf", adds_bos)
        theirs = perplexity(path, text, 64)
        ours = evalgpt.evaluate(f"hf:{folder},gguf={path.name}", Texts(text), "llama.cpp:context=64", device="cpu").peer
        found += compared(name, theirs, ours)
    return found


@one_thread()
def with_smollm2(folder, model):
    """Two chunks of 512 tokens, by the file as it comes and by the same file in float32 (540 MB, deleted again)."""
    path = smollm2_file()
    text = story(6000)
    ours = evalgpt.evaluate(model, Texts(text), "llama.cpp").peer
    note = "llama.cpp rounds activations to 8 bits for Q4_1 and Q8_0 weights, keys and values to float16 by default"
    found = []
    for keys, tolerance in (("float32", QUANTISED), ("float16", QUANTISED_AND_HALF)):
        theirs = perplexity(path, text, 512, keys)
        found += compared(f"SmolLM2, Q4_1, keys and values in {keys}", theirs, ours, tolerance=tolerance, note=note)
    wide = folder / "float32.gguf"
    try:
        widen(path, wide)
        found += compared("SmolLM2, widened to float32 by llama.cpp", perplexity(wide, text, 512), ours)
    finally:
        wide.unlink(missing_ok=True)
    return found


def compared(name, theirs, ours, **how):
    return [
        Comparison(PEER, f"llama-cpp-python {version('llama_cpp_python')}", what, name, theirs[key], ours[key], **how)
        for what, key in (("perplexity", "perplexity"), ("standard error", "standard_error"))
    ]


def perplexity(path, text, context, keys="float32"):
    """The perplexity and its error as llama-perplexity defines them, from llama.cpp's logits.

    By one thread: its threads wait for each other in busy loops, which a shared machine pays for dearly.
    """
    with running():
        from llama_cpp import GGML_TYPE_F16, GGML_TYPE_F32, Llama

        kept = {"float32": GGML_TYPE_F32, "float16": GGML_TYPE_F16}[keys]
        llm = Llama(
            str(path),
            n_ctx=context,
            n_batch=context,
            n_ubatch=context,
            n_threads=1,
            n_threads_batch=1,
            logits_all=True,
            type_k=kept,
            type_v=kept,
            flash_attn=False,
            verbose=False,
        )
        ids = llm.tokenize(text.encode(), add_bos=True, special=False)  # adds BOS only where the vocabulary says so
        adds_bos = llm._model.add_bos_token()
        losses = []
        for begin in range(0, len(ids) // context * context, context):
            chunk = ids[begin : begin + context]
            if adds_bos:
                chunk[0] = llm.token_bos()
            llm.reset()
            llm.eval(chunk)
            logits = torch.from_numpy(np.array(llm.scores[context // 2 : context - 1])).double()
            targets = torch.tensor(chunk[context // 2 + 1 :])
            losses.append(torch.nn.functional.cross_entropy(logits, targets, reduction="none"))
        llm.close()
    nll = torch.cat(losses)
    mean, variance = float(nll.mean()), float((nll**2).mean() - nll.mean() ** 2)
    return {"perplexity": math.exp(mean), "standard_error": math.exp(mean) * math.sqrt(variance / (len(nll) - 1))}


def widen(path, to):
    with running():
        import llama_cpp

        how = llama_cpp.llama_model_quantize_default_params()
        how.ftype = llama_cpp.LLAMA_FTYPE_ALL_F32
        how.allow_requantize = True
        failed = llama_cpp.llama_model_quantize(str(path).encode(), str(to).encode(), ctypes.byref(how))
    if failed:
        raise RuntimeError(f"llama.cpp could not write {path.name} in float32")


def write_gguf(path, adds_bos):
    """A random Llama in float32 with a byte-level BPE. Both sides read this one file."""
    import gguf

    spelled = json.loads(byte_level().to_str())["model"]
    # transformers gives every BPE of a GGUF this token; without a row of its own it would have no embedding.
    tokens = [*sorted(spelled["vocab"], key=spelled["vocab"].get), "<|endoftext|>"]
    control, normal = int(gguf.TokenType.CONTROL), int(gguf.TokenType.NORMAL)
    file = gguf.GGUFWriter(path, "llama")
    file.add_context_length(SHAPE["context"])
    file.add_embedding_length(SHAPE["width"])
    file.add_block_count(SHAPE["layers"])
    file.add_feed_forward_length(SHAPE["inner"])
    file.add_head_count(SHAPE["heads"])
    file.add_head_count_kv(SHAPE["shared"])
    file.add_layer_norm_rms_eps(1e-5)
    file.add_rope_dimension_count(SHAPE["width"] // SHAPE["heads"])
    file.add_rope_freq_base(10000.0)
    file.add_vocab_size(len(tokens))
    file.add_file_type(gguf.LlamaFileType.ALL_F32)
    file.add_tokenizer_model("gpt2")
    file.add_tokenizer_pre("gpt-2")
    file.add_token_list(tokens)
    file.add_token_types([control, control, *[normal] * (len(tokens) - 3), control])
    file.add_token_merges([" ".join(pair) for pair in spelled["merges"]])
    file.add_bos_token_id(0)
    file.add_eos_token_id(1)
    file.add_add_bos_token(adds_bos)
    for name, tensor in tensors(len(tokens)):
        file.add_tensor(name, tensor)
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()
    return path


def tensors(vocabulary):
    width, inner = SHAPE["width"], SHAPE["inner"]
    shared = width // SHAPE["heads"] * SHAPE["shared"]
    block = {
        "attn_norm": (width,),
        "attn_q": (width, width),
        "attn_k": (shared, width),
        "attn_v": (shared, width),
        "attn_output": (width, width),
        "ffn_norm": (width,),
        "ffn_gate": (inner, width),
        "ffn_up": (inner, width),
        "ffn_down": (width, inner),
    }
    shapes = {"token_embd": (vocabulary, width), "output_norm": (width,), "output": (vocabulary, width)}
    shapes |= {f"blk.{n}.{name}": shape for n in range(SHAPE["layers"]) for name, shape in block.items()}
    generator = np.random.default_rng(0)
    for name, shape in shapes.items():
        centre = 1.0 if len(shape) == 1 else 0.0
        yield f"{name}.weight", generator.normal(centre, 0.3, shape).astype(np.float32)
