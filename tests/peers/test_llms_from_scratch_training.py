"""The course's package against evalgpt train: gradients, and its own training loop step by step."""

import pytest

pytest.importorskip("transformers", reason="needs the extra hf")

import torch
from peers import parity, with_llms_from_scratch

import evalgpt
from evalgpt.core import Optimisation
from evalgpt.studies.training.log import Settings
from evalgpt.studies.training.loop import begin, train

parity.skip_without(*with_llms_from_scratch.NEEDS)

FIELDS = {"context_length": 64, "emb_dim": 32, "n_heads": 4, "n_layers": 2}
SPEC = "scratch:" + ",".join(f"{key}={value}" for key, value in FIELDS.items())

pytestmark = pytest.mark.usefixtures("one_thread")


class Silent:
    """Looks on and says nothing."""

    def updated(self, log):
        pass

    evaluated = sampled = updated

    def stopping(self):
        return False


def theirs(seed=123):
    with parity.running():
        from llms_from_scratch.ch04 import GPTModel

        torch.manual_seed(seed)
        return GPTModel({"vocab_size": 50257, "drop_rate": 0.1, "qkv_bias": False, **FIELDS})


def test_gradients_are_those_of_its_model_and_dropout_draws_as_its_does():
    model = evalgpt.load_plugins().model(SPEC, device="cpu")
    other = theirs().train()
    trainer = model.trainer(Optimisation())  # both generators now stand behind the weights
    ids = torch.arange(2 * 65).view(2, 65) * 37 % 50257
    loss = trainer._gradients([ids.tolist()])
    expected = torch.nn.functional.cross_entropy(other(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
    expected.backward()
    assert loss == pytest.approx(float(expected.detach()), rel=1e-6)
    ours = dict(model.module.named_parameters())
    for name, parameter in other.named_parameters():
        torch.testing.assert_close(ours[name].grad, parameter.grad, rtol=1e-4, atol=1e-7)


def test_its_own_loop_gives_the_same_losses_and_samples(tmp_path, capsys):
    text = parity.story(4400)
    model = evalgpt.load_plugins().model(SPEC, device="cpu")
    task, settings = parity.Texts(text), {"learning_rate": 3e-3, "epochs": 2, "eval_iter": 3, "sample_tokens": 50}
    protocol = evalgpt.load_plugins().protocol("book").bind(model)
    log = begin(model, task, protocol, Settings(model=SPEC, task="story", **settings), [])
    train(model, task, protocol, log, tmp_path, Silent())
    other, losses, printed = its_loop(text, capsys)
    found = [(e.course_train_loss, e.course_validation_loss) for e in log.evaluations if e.course_train_loss]
    assert len(found) == len(losses) > 3
    for ours, its in zip(found, losses, strict=True):
        assert ours == pytest.approx(its, abs=2e-5)
    weights = dict(model.module.named_parameters())
    for name, parameter in other.named_parameters():
        torch.testing.assert_close(weights[name].data, parameter.data, rtol=1e-3, atol=2e-4)
    for sample in log.samples:
        assert sample.text.replace("\n", " ") in printed


def its_loop(text, capsys):
    """Its model after train_model_simple, the losses that it logs, and what it prints."""
    with parity.running():
        import tiktoken
        from llms_from_scratch.ch02 import create_dataloader_v1
        from llms_from_scratch.ch05 import train_model_simple

        with_llms_from_scratch.use_our_tables()
        cut, how = int(0.9 * len(text)), {"batch_size": 2, "max_length": 64, "stride": 64, "num_workers": 0}
        loaders = [
            create_dataloader_v1(text[:cut], shuffle=True, drop_last=True, **how),
            create_dataloader_v1(text[cut:], shuffle=False, drop_last=False, **how),
        ]
        model = theirs()
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.1)
    capsys.readouterr()
    tokenizer = tiktoken.get_encoding("gpt2")
    device = torch.device("cpu")
    losses = train_model_simple(model, *loaders, optimizer, device, 2, 5, 3, "Every effort moves you", tokenizer)
    return model, list(zip(*losses[:2], strict=True)), capsys.readouterr().out
