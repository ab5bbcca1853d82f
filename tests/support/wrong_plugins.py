"""Plugins with one fault each: what the command line must refuse in one line. None needs torch."""

from types import SimpleNamespace

import numpy as np

import evalgpt
from evalgpt import Document, Encoding, Model, Task, TokenScores, Window
from evalgpt.protocols.exact import Exact

__all__ = ["MODELS", "PROTOCOLS", "TASKS", "make_model", "make_protocol", "make_task"]

TEXT = "every effort moves you, and chocolate too"


class Bytes(Model):
    """Every byte as likely as any other."""

    name = "wrong-model"
    fingerprint = "bytes-1"
    context_length = 16
    vocab_size = 256
    device = "cpu"
    dtype = "float32"

    def encode(self, text):
        return Encoding(list(text.encode()), [(i, i + 1) for i in range(len(text.encode()))])

    def decode(self, ids):
        return bytes(ids).decode(errors="replace")

    def score(self, windows, detail=None):
        return [self.answer(w, np.full(len(w.ids) - w.start, 5.5, np.float32), detail) for w in windows]

    def answer(self, window, nll, detail):
        return TokenScores(nll)


class Words(Task):
    name = "wrong-task"

    def documents(self):
        yield Document("one", TEXT)


class Meta(Exact):
    """The protocol exact under another name."""

    name = "wrong-protocol"


async def asynchronous(*_, **__):
    """No answer, but a promise of one."""


def raising(error):
    """A method that raises ``error``."""

    def method(*_, **__):
        raise error

    return method


def model(**attributes):
    return type("Wrong", (Bytes,), attributes)


def task(**attributes):
    return type("WrongTask", (Words,), attributes)


def protocol(**attributes):
    return type("WrongProtocol", (Meta,), {"__module__": __name__, **attributes})


def losses(change):
    """A model whose losses are ``change(nll)``."""
    return model(answer=lambda self, window, nll, detail: TokenScores(change(nll)))


def encoding(change):
    """A model whose encoding of a text is ``change(ids, spans)``."""
    return model(encode=lambda self, text: change(*(lambda e: (e.ids, e.byte_spans))(Bytes.encode(self, text))))


def document(**fields):
    """A task with one document."""
    return task(documents=lambda self: iter([Document(**{"id": "one", "text": TEXT, **fields})]))


def without(base, *names):
    """``base`` whose instances have none of ``names``."""

    def missing(self, key):
        if key in names:
            raise AttributeError(key)
        return object.__getattribute__(self, key)

    return type("Without", (base,), {"__getattribute__": missing})


class Huge(BaseException):
    """No Exception, as of a framework of its own."""


class Unprintable(Exception):  # noqa: N818
    def __str__(self):
        raise ValueError("no text")


class Exiting(Exception):  # noqa: N818
    def __str__(self):
        raise SystemExit(0)


def recursive(self, windows, detail=None):
    return recursive(self, windows, detail)


CYCLE: dict = {}
CYCLE["again"] = CYCLE


def nested(levels):
    value: dict = {}
    for _ in range(levels):
        value = {"deeper": value}
    return value


def not_built(error):
    def build():
        raise error

    return build


class NoScore(Model):
    name, fingerprint, context_length, vocab_size = "wrong-model", "x", 16, 256

    def encode(self, text):
        return Encoding([], None)

    def decode(self, ids):
        return ""


MODELS = {
    "factory returns None": lambda: None,
    "factory returns a class": lambda: Bytes,
    "factory returns a duck": lambda: SimpleNamespace(name="wrong-model"),
    "factory raises": not_built(ValueError("no such size")),
    "factory raises many lines": not_built(RuntimeError("first\nsecond\n" * 300)),
    "factory exits": not_built(SystemExit(0)),
    "factory exits with a text": not_built(SystemExit("bye")),
    "factory is out of memory": not_built(MemoryError()),
    "factory raises no Exception": not_built(Huge("odd")),
    "factory raises what has no text": not_built(Unprintable()),
    "factory raises what exits when it is told": not_built(Exiting()),
    "score raises what exits when it is told": model(score=raising(Exiting())),
    "a method is missing": NoScore,
    "spec cannot be set": model(spec=property(lambda self: "mine")),
    "name missing": without(Bytes, "name"),
    "name is a number": model(name=3),
    "name is empty": model(name=" "),
    "name is a kind of text": model(name=type("Kind", (str,), {})("wrong-model")),
    "name is half a surrogate pair": model(name="\ud800"),
    "fingerprint missing": without(Bytes, "fingerprint"),
    "fingerprint is bytes": model(fingerprint=b"abc"),
    "fingerprint raises": model(fingerprint=property(raising(OSError("weights are gone")))),
    "fingerprint exits": model(fingerprint=property(raising(SystemExit(0)))),
    "context_length missing": without(Bytes, "context_length"),
    "context_length is no int64": model(context_length=10**30),
    "vocab_size is no int64": model(vocab_size=10**30),
    "warnings raise": model(warnings=property(raising(OSError("gone")))),
    "warnings are a text": model(warnings="careful"),
    "warnings are numbers": model(warnings=[1, 2]),
    "context_length is zero": model(context_length=0),
    "context_length is None": model(context_length=None),
    "context_length is a float": model(context_length=16.0),
    "context_length is a text": model(context_length="16"),
    "vocab_size missing": without(Bytes, "vocab_size"),
    "vocab_size is below zero": model(vocab_size=-5),
    "vocab_size is true": model(vocab_size=True),
    "vocab_size raises": model(vocab_size=property(raising(KeyError("vocab")))),
    "prefix_id is beyond the vocabulary": model(prefix_id=256),
    "prefix_id is a text": model(prefix_id="<bos>"),
    "eos_ids is a number": model(eos_ids=0),
    "eos_ids holds a text": model(eos_ids=["<eos>"]),
    "unused_ids is beyond the vocabulary": model(unused_ids=range(250, 300)),
    "adds_bos is a text": model(adds_bos="no"),
    "trained is a text": model(trained="yes"),
    "cache_id is a number": model(cache_id=7),
    "cache_id raises": model(cache_id=property(raising(RuntimeError("unset")))),
    "shared_tokens is a text": model(shared_tokens="many"),
    "shared_tokens is negative": model(shared_tokens=-1),
    "config is a list": model(config=[1, 2]),
    "config contains itself": model(config=CYCLE),
    "config is nested deep": model(config=nested(5000)),
    "config has keys that JSON has not": model(config={(1, 2): 3}),
    "tokenizer is None": model(tokenizer=None),
    "runtime holds half a surrogate pair": model(runtime={"gpu": "\ud800"}),
    "device is None": model(device=None),
    "dtype is a type": model(dtype=np.float32),
    "score is no method": model(score=3),
    "score is async": model(score=asynchronous),
    "ids are beyond int64": model(encode=lambda self, text: Encoding([2**70] * 9, None)),
    "encode is no method": model(encode=None),
    "score takes no windows": model(score=lambda self: []),
    "score raises": model(score=raising(RuntimeError("kernel panic"))),
    "score raises StopIteration": model(score=raising(StopIteration())),
    "score raises GeneratorExit": model(score=raising(GeneratorExit())),
    "score raises no Exception": model(score=raising(Huge("odd"))),
    "score exits": model(score=raising(SystemExit(0))),
    "score calls itself": model(score=recursive),
    "score is out of memory": model(score=raising(MemoryError())),
    "score returns None": model(score=lambda self, windows, detail=None: None),
    "score returns a number": model(score=lambda self, windows, detail=None: 1.0),
    "score returns too few": model(score=lambda self, windows, detail=None: []),
    "score returns too many": model(score=lambda self, w, detail=None: Bytes.score(self, w) * 2),
    "score returns arrays": model(score=lambda self, w, detail=None: [s.nll for s in Bytes.score(self, w)]),
    "score returns a generator that raises": model(score=lambda self, w, detail=None: (1 / 0 for _ in w)),
    "losses are None": losses(lambda nll: None),
    "losses are a number": losses(lambda nll: 5.5),
    "losses are texts": losses(lambda nll: ["a"] * len(nll)),
    "losses are complex": losses(lambda nll: nll + 1j),
    "losses are truth values": losses(lambda nll: nll > 0),
    "losses are whole numbers": losses(lambda nll: nll.astype(np.int64)),
    "losses are objects": losses(lambda nll: np.array([object()] * len(nll))),
    "losses are ragged": losses(lambda nll: [[1.0], [1.0, 2.0]]),
    "losses are a matrix": losses(lambda nll: nll[:, None]),
    "losses are one short": losses(lambda nll: nll[1:]),
    "losses are NaN": losses(lambda nll: nll * np.nan),
    "losses are infinite": losses(lambda nll: nll * np.inf),
    "losses are infinite in float32": losses(lambda nll: nll.astype(np.float64) * 1e300),
    "losses are below zero": losses(lambda nll: -nll),
    "one loss is below zero": losses(lambda nll: np.where(np.arange(len(nll)) == 1, -0.01, nll).astype(np.float32)),
    "losses fail to be read": losses(lambda nll: type("Lazy", (), {"__array__": raising(RuntimeError("on cuda"))})()),
    "encode raises": model(encode=raising(KeyError("merges"))),
    "encode exits": model(encode=raising(SystemExit(0))),
    "encode returns None": model(encode=lambda self, text: None),
    "encode returns a list": encoding(lambda ids, spans: ids),
    "ids are None": encoding(lambda ids, spans: Encoding(None, None)),
    "ids are a text": encoding(lambda ids, spans: Encoding("abc", None)),
    "ids are texts": encoding(lambda ids, spans: Encoding(["a"] * len(ids), None)),
    "ids are floats": encoding(lambda ids, spans: Encoding([float(i) for i in ids], None)),
    "ids are a matrix": encoding(lambda ids, spans: Encoding([ids], None)),
    "ids are a set": encoding(lambda ids, spans: Encoding(set(ids), None)),
    "ids are below zero": encoding(lambda ids, spans: Encoding([-1, *ids], None)),
    "ids are beyond the vocabulary": encoding(lambda ids, spans: Encoding([*ids, 10**30], None)),
    "spans are too few": encoding(lambda ids, spans: Encoding(ids, spans[1:])),
    "spans are numbers": encoding(lambda ids, spans: Encoding(ids, list(range(len(ids))))),
    "spans are texts": encoding(lambda ids, spans: Encoding(ids, [("a", "b")] * len(ids))),
    "spans are one number": encoding(lambda ids, spans: Encoding(ids, 7)),
    "spans are beyond the text": encoding(lambda ids, spans: Encoding(ids, [(0, 10**9)] * len(ids))),
    "spans are below zero": encoding(lambda ids, spans: Encoding(ids, [(-5, -1)] * len(ids))),
    "spans end before they start": encoding(lambda ids, spans: Encoding(ids, [(b, a) for a, b in spans])),
    "spans go backwards": encoding(lambda ids, spans: Encoding(ids, spans[::-1])),
    "decode raises": model(prefix_id=0, decode=raising(ValueError("vocabulary"))),
    "decode returns bytes": model(prefix_id=0, decode=lambda self, ids: bytes(ids)),
    "decode returns None": model(prefix_id=0, decode=lambda self, ids: None),
}

TASKS = {
    "factory returns None": lambda: None,
    "factory raises": not_built(FileNotFoundError(2, "no such file", "book.txt")),
    "factory exits": not_built(SystemExit(0)),
    "name missing": without(Words, "name"),
    "name is None": task(name=None),
    "default_protocol is None": task(default_protocol=None),
    "default_protocol is not there": task(default_protocol="exakt"),
    "long is a text": task(long="yes"),
    "documents is no method": task(documents=None),
    "documents raises": task(documents=raising(RuntimeError("server is away"))),
    "documents exits": task(documents=raising(SystemExit(0))),
    "documents raises after the first": task(documents=lambda self: (Document(f"{1 / (1 - n)}", TEXT) for n in (0, 1))),
    "documents returns None": task(documents=lambda self: None),
    "documents yields none": task(documents=lambda self: iter(())),
    "documents yields texts": task(documents=lambda self: iter([TEXT])),
    "documents yields None": task(documents=lambda self: iter([None])),
    "two documents of one id": task(documents=lambda self: iter([Document("one", TEXT)] * 2)),
    "text is bytes": document(text=b"abc"),
    "text is None": document(text=None),
    "text is half a surrogate pair": document(text="abc \ud800"),
    "context is a number": document(context=3),
    "id is a number": document(id=3),
    "id is empty": document(id=""),
    "group is None": document(group=None),
    "parts is a list": document(parts=["a", "b"]),
    "parts raises": document(parts=raising(OSError("disk"))),
    "parts yields bytes": document(parts=lambda: iter([b"abc"])),
    "metrics raises": task(metrics=raising(ZeroDivisionError("division by zero"))),
    "metrics exits": task(metrics=raising(SystemExit(0))),
    "metrics returns None": task(metrics=lambda self, rows: None),
    "metrics returns texts": task(metrics=lambda self, rows: {"accuracy": "high"}),
    "metrics returns None by name": task(metrics=lambda self, rows: {"accuracy": None}),
    "metrics names are numbers": task(metrics=lambda self, rows: {3: 1.0}),
}

PROTOCOLS = {
    "factory returns None": lambda: None,
    "bind raises": protocol(bind=raising(RuntimeError("unbound"))),
    "bind returns None": protocol(bind=lambda self, model: None),
    "settings raises": protocol(settings=raising(KeyError("stride"))),
    "settings are no JSON": protocol(settings=lambda self: {"model": object()}),
    "pieces raises": protocol(pieces=raising(ValueError("split"))),
    "pieces returns None": protocol(pieces=lambda self, text: None),
    "windows raises": protocol(windows=raising(IndexError("end"))),
    "windows exits": protocol(windows=raising(SystemExit(0))),
    "windows yields lists": protocol(windows=lambda self, tokens, split: iter([[1, 2, 3]])),
    "windows cannot be": protocol(windows=lambda self, tokens, split: (Window([1], 1) for _ in range(1))),
    "windows feed too much": protocol(windows=lambda self, tokens, split: iter([Window(tokens.ids, 1)])),
    "windows are beyond the text": protocol(windows=lambda self, t, split: iter([Window(t.ids[:9], 1, 10**9)])),
    "peer raises": protocol(peer=raising(OverflowError("too large"))),
    "peer returns texts": protocol(peer=lambda self, rows: {"perplexity": "low"}),
    "notes returns None": protocol(notes=lambda self, rows: None),
}


def make_model(argument, *, fault: str = ""):
    """A model with a fault."""
    return MODELS[fault]() if fault else Bytes()


def make_task(argument, *, fault: str = ""):
    """A task with a fault."""
    return TASKS[fault]() if fault else Words()


def make_protocol(argument, *, fault: str = "", context: int | None = None, stride: int | None = None):
    """A protocol with a fault."""
    return PROTOCOLS[fault]()


@evalgpt.hookimpl
def register_models(register):
    register("wrong-model", make_model)


@evalgpt.hookimpl
def register_tasks(register):
    register("wrong-task", make_task)


@evalgpt.hookimpl
def register_protocols(register):
    register("wrong-protocol", make_protocol)
