"""minicons: its IncrementalLMScorer on a folder.

It never scores the first id that it feeds. So plain sentences are evalgpt's ``exact:prefix=none``, and with
``bos_token=True``, or a tokenizer that adds BOS by itself, they are ``exact``. Its ``bow_correction`` moves the
probability of a word's end from one token to the next; evalgpt has no such correction, and it is left off.
"""

from peers.parity import Comparison, Texts, model_that_adds_bos, one_thread, running, small_model, version, worst

import evalgpt

PEER = "minicons"
NEEDS = ("minicons", "transformers")

SENTENCES = ("Every effort moves you.", "I really like chocolate, don't you?", "Größe 😀 matters.")


@one_thread()
def small(folder):
    plain, adding = small_model(folder / "plain"), model_that_adds_bos(folder / "adds-bos")
    return [
        *compared("random Llama", plain, "exact:prefix=none"),
        *compared("random Llama, bos_token=True", plain, "exact", bos_token=True),
        *compared("random Llama whose tokenizer adds BOS", adding, "exact"),
    ]


def compared(name, path, protocol, **how):
    with running():
        from minicons.scorer import IncrementalLMScorer

        scorer = IncrementalLMScorer(str(path), "cpu")
        means = scorer.sequence_score(list(SENTENCES), **how)
        tokens = scorer.token_score(list(SENTENCES), surprisal=True, **how)
    rows = evalgpt.evaluate(f"hf:{path}", Texts(*SENTENCES), protocol, device="cpu").rows
    surprisals = [value for sentence in tokens for _, value in sentence[1:]]
    losses = [value for row in rows for value in row.tokenized.nll]
    return [
        Comparison(PEER, version("minicons"), quantity, name, *worst(theirs, ours))
        for quantity, theirs, ours in (
            ("sequence_score, worst sentence", means, [-row.loss for row in rows]),
            ("token_score, worst token", surprisals, losses),
        )
    ]
