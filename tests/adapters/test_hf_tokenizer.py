"""Tokenizers of transformers: the prefix, BOS that is never doubled, special tokens in a text, and byte spans."""

import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from evalgpt import Document, Task, evaluate

pytest.importorskip("transformers", reason="needs the extra hf")

from support.hf_models import GROUPED, byte_level, save, save_tokenizer
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers.trainers import BpeTrainer, WordLevelTrainer

from evalgpt.adapters.huggingface.tokenizer import HFTokenizer
from evalgpt.core.plugins import load_plugins

pytestmark = pytest.mark.slow

TEXT = "every effort <s> moves\n you</s>.  Größe 😀😀 naïve  "
LONG = TEXT * 3
CORPUS = ["every effort moves you. I really like chocolate. Größe 😀 "] * 3


def adds(tokenizer, token, where="before"):
    template = f"{token} $A" if where == "before" else f"$A {token}"
    tokenizer.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[(token, tokenizer.token_to_id(token))]
    )
    return tokenizer


def metaspace(normalizer=None, prepend="always", fallback=True):
    """Like SentencePiece: spaces become U+2581, and what the vocabulary lacks becomes bytes, or <unk>."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=fallback, unk_token="<unk>", fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prepend, split=False)
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    single_bytes = [f"<0x{byte:02X}>" for byte in range(256)] if fallback else []
    trainer = BpeTrainer(vocab_size=400, special_tokens=["<unk>", "<s>", "</s>", *single_bytes], show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    replace = decoders.Replace("▁", " ")
    tokenizer.decoder = decoders.Sequence([replace, decoders.ByteFallback(), decoders.Fuse()])
    return tokenizer


def words():
    """Words and punctuation; spaces belong to no token, and most words are <unk>."""
    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = WordLevelTrainer(special_tokens=["<unk>", "<s>"], show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def trimming():
    """Byte-level with offsets that leave leading spaces out, and a space put before the text: it does not spell it."""
    tokenizer = byte_level()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    return tokenizer


def composing():
    tokenizer = byte_level()
    tokenizer.normalizer = normalizers.NFC()
    return tokenizer


BOTH = {"bos_token": "<s>", "eos_token": "</s>"}

PREFIXES = {
    "BOS, added": (lambda: adds(byte_level(), "<s>"), BOTH, 0, "BOS", True),
    "BOS, not added": (byte_level, BOTH, 0, "BOS", False),
    "BOS, EOS added behind": (lambda: adds(byte_level(), "</s>", "behind"), BOTH, 0, "BOS", False),
    "EOS only": (byte_level, {"eos_token": "</s>"}, 1, "EOS", False),
    "EOS only, put before texts": (lambda: adds(byte_level(), "</s>"), {"eos_token": "</s>"}, 1, "EOS", False),
    "neither": (byte_level, {"pad_token": "<s>"}, None, "none", False),
}

NORMALIZED = {
    "metaspace": metaspace,
    "metaspace, no byte fallback": lambda: metaspace(fallback=False),
    "metaspace, compatibility forms in lower case": lambda: metaspace(
        normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    ),
    "metaspace, accents dropped": lambda: metaspace(
        normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents(), normalizers.Strip()])
    ),
    "metaspace by normalizer": lambda: metaspace(
        normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]), prepend="never"
    ),
    "words": words,
    "byte-level, trimmed": trimming,
    "byte-level, composed": composing,
}
"""Tokenizers whose tokens do not spell the text."""


def load(folder, tokenizer, **settings):
    save_tokenizer(folder, tokenizer, **settings)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    return HFTokenizer(str(folder), {"local_files_only": True, "trust_remote_code": False})


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return load(tmp_path_factory.mktemp("plain"), byte_level(), **BOTH)


@pytest.fixture(scope="module")
def normalized(tmp_path_factory):
    return {name: load(tmp_path_factory.mktemp("t"), make(), bos_token="<s>") for name, make in NORMALIZED.items()}


class Text(Task):
    name = "text"

    def __init__(self, text):
        self.text = text

    def documents(self):
        yield Document("a", self.text)


def scored_windows(folder, variant, protocol, monkeypatch):
    """The windows that a protocol feeds to a model with this tokenizer, and the text's tokens."""
    make, settings = PREFIXES[variant][:2]
    save(folder)
    save_tokenizer(folder, make(), **settings)
    model = load_plugins().model(f"hf:{folder}", device="cpu")
    windows = []
    score = model.score
    monkeypatch.setattr(model, "score", lambda batch, *rest: windows.extend(batch) or score(batch, *rest))
    evaluation = evaluate(model, Text(LONG), protocol)
    assert evaluation.model.config["prefix"] == PREFIXES[variant][3]
    return sorted(windows, key=lambda window: window.begin), model.encode(LONG).ids


@pytest.mark.parametrize("variant", PREFIXES)
def test_the_prefix_is_bos_else_eos_else_none(variant, tmp_path):
    make, settings, prefix_id, kind, adds_bos = PREFIXES[variant]
    tokenizer = load(tmp_path, make(), **settings)
    assert (tokenizer.prefix_id, tokenizer.prefix_kind, tokenizer.adds_bos) == (prefix_id, kind, adds_bos)


@pytest.mark.parametrize("variant", PREFIXES)
def test_special_tokens_are_neither_added_nor_read_from_a_text(variant, tmp_path):
    make, settings = PREFIXES[variant][:2]
    tokenizer = load(tmp_path, make(), **settings)
    ids = tokenizer.encode("<s>a</s>").ids
    assert not {0, 1} & set(ids)
    assert tokenizer.decode(ids) == "<s>a</s>"
    assert tokenizer.decode([0]) == "<s>"


@pytest.mark.parametrize("variant", PREFIXES)
def test_exact_puts_the_prefix_first_and_once(variant, tmp_path, monkeypatch):
    windows, ids = scored_windows(tmp_path, variant, "exact:context=16,stride=8", monkeypatch)
    prefix_id = PREFIXES[variant][2]
    first = list(windows[0].ids)
    assert first == (ids[:17] if prefix_id is None else [prefix_id, *ids[:16]])
    assert windows[0].begin == (0 if prefix_id is None else -1)
    assert not any({0, 1} & set(window.ids) for window in windows[1:])
    assert len(windows) > 3


@pytest.mark.parametrize("variant", PREFIXES)
def test_llama_cpp_overwrites_chunk_starts_only_where_bos_is_the_tokenizers_habit(variant, tmp_path, monkeypatch):
    windows, ids = scored_windows(tmp_path, variant, "llama.cpp:context=16", monkeypatch)
    adds_bos = PREFIXES[variant][4]
    text = [0, *ids] if adds_bos else ids
    chunks = [text[at : at + 16] for at in range(0, len(text) - 15, 16)]
    assert len(chunks) >= 3
    assert [list(w.ids) for w in windows] == [[0, *c[1:]] if adds_bos else c for c in chunks]


@settings(deadline=None)
@example("😀" * 3)
@example("<s> a</s>")
@example(" \n\t ")
@given(st.text())
def test_byte_level_tokens_tile_the_text_exactly(plain, text):
    encoding = plain.encode(text)
    assert plain.decode(encoding.ids) == text
    edges = [0, *(end for _, end in encoding.byte_spans)]
    assert [start for start, _ in encoding.byte_spans] == edges[:-1]
    assert edges[-1] == len(text.encode())
    for token, (start, end) in zip(encoding.ids, encoding.byte_spans, strict=True):
        assert plain.decode([token]) == text.encode()[start:end].decode(errors="replace")


def test_an_emoji_split_over_tokens_gives_each_its_bytes(plain):
    encoding = plain.encode("a😁")
    assert len(encoding.ids) > 2
    assert list(encoding.byte_spans)[-1][1] == 5
    assert all(start < end for start, end in encoding.byte_spans)


@pytest.mark.parametrize("name", NORMALIZED)
@settings(deadline=None, max_examples=60)
@example(TEXT)
@example("  leading,  and trailing  ")
@example("ﬁ Ａ½ é é")
@given(text=st.text(st.characters(codec="utf-8") | st.sampled_from(" aeyo.ß😀é\n")))
def test_other_tokens_cover_every_byte_in_order(normalized, name, text):
    encoding = normalized[name].encode(text)
    spans = list(encoding.byte_spans)
    assert len(spans) == len(encoding.ids)
    size = len(text.encode())
    assert all(0 <= start <= end <= size for start, end in spans)
    assert spans == sorted(spans)
    assert [end for _, end in spans] == sorted(end for _, end in spans)
    if spans:
        assert set().union(*(range(start, end) for start, end in spans)) == set(range(size))


def test_spaces_that_no_token_claims_go_to_the_token_behind_them(normalized):
    assert normalized["words"].encode(" every  effort ").byte_spans == [(0, 6), (6, 15)]


def test_bytes_of_one_character_share_it(normalized):
    encoding = normalized["metaspace"].encode("aé")
    assert encoding.byte_spans == [(0, 1), (0, 1), (1, 3), (1, 3)]


@pytest.mark.parametrize("added", ["<think>", "  ", "｜ß▁｜"])
def test_added_tokens_are_read_and_spelled(added, tmp_path):
    tokenizer = byte_level()
    tokenizer.add_tokens([AddedToken(added, normalized=False)])
    loaded = load(tmp_path, tokenizer, **BOTH)
    text = f"é{added}é"
    encoding = loaded.encode(text)
    assert loaded.decode(encoding.ids) == text
    end = 2 + len(added.encode())
    assert encoding.byte_spans == [(0, 1), (1, 2), (2, end), (end, end + 1), (end + 1, end + 2)]


def test_what_a_byte_level_vocabulary_lacks_has_spans_by_character(tmp_path):
    tokenizer = Tokenizer(models.BPE(vocab={"<unk>": 0, "<s>": 1, "a": 2, "▁": 3}, merges=[], unk_token="<unk>"))
    tokenizer.decoder = decoders.ByteLevel()
    encoding = load(tmp_path, tokenizer, bos_token="<s>").encode("aé▁")
    assert encoding.ids == [2, 0, 3]
    assert encoding.byte_spans == [(0, 1), (1, 3), (3, 6)]


def test_truncation_padding_and_clean_up_in_the_files_do_nothing(tmp_path):
    tokenizer = byte_level()
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=200)
    tidy = {
        "clean_up_tokenization_spaces": True,
        "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output": True,
    }
    loaded = load(tmp_path, tokenizer, model_max_length=4, **tidy, **BOTH)
    text = "every effort . It 's moving , you know !"
    assert loaded.decode(loaded.encode(text).ids) == text


def test_a_slow_tokenizer_has_no_byte_spans(tmp_path):
    save(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    config = {"tokenizer_class": "ByT5Tokenizer", "extra_ids": 0, "pad_token": "<pad>", "eos_token": "</s>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    model = load_plugins().model(f"hf:{tmp_path}", device="cpu")
    encoding = model.encode("Größe</s>")
    assert encoding.byte_spans is None
    assert len(encoding.ids) == len("Größe</s>".encode())
    assert model.decode(encoding.ids) == "Größe</s>"
    evaluation = evaluate(model, Text("Größe</s>"))
    assert evaluation.metrics.bytes == 11
    assert evaluation.model.config["prefix"] == "EOS"


def test_the_identity_is_of_the_vocabulary(tmp_path_factory, plain):
    again = load(tmp_path_factory.mktemp("same"), byte_level(), **BOTH)
    other = load(tmp_path_factory.mktemp("other"), metaspace(), **BOTH)
    assert again.identity == plain.identity
    assert other.identity["sha256"] != plain.identity["sha256"]


def test_a_run_says_that_the_tokenizer_composes_characters(tmp_path):
    """As Qwen2's, which normalises to NFC."""
    save(tmp_path, "Qwen2", GROUPED)
    tokenizer = byte_level()
    tokenizer.normalizer = normalizers.NFC()
    save_tokenizer(tmp_path, tokenizer)
    text = tmp_path / "a.txt"
    for content, changed in (("Gro\u0308ße moves you", True), ("Gr\u00f6ße moves you", False)):
        text.write_bytes(content.encode())
        found = evaluate(f"hf:{tmp_path}", f"text:{text}").verdicts
        assert ("changed_text" in [verdict.name for verdict in found]) == changed
