"""Naive reference for five perplexity-windowing protocols: one plain loop each, nothing shared.

Every protocol function returns its scoring events in window order. An event is
(window_number, position, context): the window's number among windows that score something, the
index in t of the predicted token, and the token ids fed to the model before that prediction.
All losses are negative log-likelihoods in nats per token.
"""

import math

Event = tuple[int, int, tuple[int, ...]]


def exact(t: list[int], L: int, S: int, prefix: int | None) -> list[Event]:
    """Windows of L inputs every S tokens; each target is scored by the first window that reaches it.

    L and S count tokens, 1 <= S <= L. Losses for the events are in nats per token.
    """
    if not 1 <= S <= L:
        raise ValueError("need 1 <= S <= L")
    s = t if prefix is None else [prefix] + t
    events: list[Event] = []
    scored: set[int] = set()  # indices in s already scored
    window_number = 0
    k = 0
    while len(scored) < len(s) - 1:
        fed: list[int] = []
        scores_something = False
        for i in range(k * S, k * S + L):
            if i >= len(s):
                break
            fed.append(s[i])
            target = i + 1
            if target >= len(s) or target in scored:
                continue
            scored.add(target)
            scores_something = True
            position = target if prefix is None else target - 1
            events.append((window_number, position, tuple(fed)))
        if scores_something:
            window_number += 1
        k += 1
    return events


def lm_eval(t: list[int], L: int, prefix: int) -> list[Event]:
    """Rolling log-likelihood, one context token; a short last window gets more context, up to L inputs.

    L counts input tokens, L >= 1. Losses for the events are in nats per token.
    """
    if L < 1:
        raise ValueError("need L >= 1")
    events: list[Event] = []
    n = len(t)
    done = 0
    window_number = 0
    while done < n:
        new = min(L, n - done)
        fed: list[int] = []
        if window_number == 0:
            fed.append(prefix)
        else:
            context_len = L - new + 1  # 1 for a full window
            for i in range(done - context_len, done):
                fed.append(t[i])
        for position in range(done, done + new):
            events.append((window_number, position, tuple(fed)))
            fed.append(t[position])
        done += new
        window_number += 1
    return events


def hf_strided(t: list[int], L: int, S: int) -> list[Event]:
    """Strided loop with masked labels that the model shifts by one; no BOS.

    L and S count tokens, both >= 1. Losses for the events are in nats per token.
    """
    events: list[Event] = []
    n = len(t)
    prev_end = 0
    window_number = 0
    for begin in range(0, n, S):
        end = min(begin + L, n)
        trg_len = end - prev_end
        inputs = t[begin:end]
        is_label = [i >= len(inputs) - trg_len for i in range(len(inputs))]
        scores_something = False
        for i in range(1, len(inputs)):  # after the shift, the output at i - 1 is scored against label i
            if is_label[i]:
                events.append((window_number, begin + i, tuple(inputs[:i])))
                scores_something = True
        if scores_something:
            window_number += 1
        prev_end = end
        if end == n:
            break
    return events


def hf_targets(t: list[int], L: int, S: int) -> list[int]:
    """trg_len (tokens, before the shift by one) of each hf_strided window that scores something.

    The lengths are the weights that hf_averages puts on the windows' mean losses (nats per token).
    """
    lengths: list[int] = []
    n = len(t)
    prev_end = 0
    for begin in range(0, n, S):
        end = min(begin + L, n)
        trg_len = end - prev_end
        if end - begin > 1:
            lengths.append(trg_len)
        prev_end = end
        if end == n:
            break
    return lengths


def hf_averages(windows: list[tuple[list[float], int]]) -> tuple[float, float, float]:
    """(v1, v2, v3) perplexities (no unit) from each window's (losses in nats, trg_len in tokens).

    v1 weights the window means by trg_len, v2 equally, v3 by trg_len - 1.
    """
    sum_trg = sum_plain = sum_less_one = 0.0
    total_trg = total_less_one = 0
    for losses, trg_len in windows:
        mean = sum(losses) / len(losses)
        sum_trg += mean * trg_len
        sum_plain += mean
        sum_less_one += mean * (trg_len - 1)
        total_trg += trg_len
        total_less_one += trg_len - 1
    v1, v2, v3 = sum_trg / total_trg, sum_plain / len(windows), sum_less_one / total_less_one
    return math.exp(v1), math.exp(v2), math.exp(v3)


def llama_cpp(t: list[int], L: int, bos: int | None) -> list[Event]:
    """Disjoint chunks of L tokens, second half scored; bos, if any, replaces each chunk's first input.

    L counts tokens; ValueError when len(t) < 2 * L. Losses for the events are in nats per token.
    """
    if len(t) < 2 * L:
        raise ValueError("need at least 2 * L tokens")
    events: list[Event] = []
    window_number = 0
    for chunk in range(len(t) // L):
        start = chunk * L
        fed: list[int] = []
        scores_something = False
        for i in range(L):
            fed.append(bos if i == 0 and bos is not None else t[start + i])
            if L // 2 <= i <= L - 2:
                events.append((window_number, start + i + 1, tuple(fed)))
                scores_something = True
        if scores_something:
            window_number += 1
    return events


def llama_cpp_headline(losses: list[float]) -> tuple[float, float]:
    """(ppl, err), both without unit, from per-token losses in nats; err is 0.0 if the variance is not > 0."""
    count = len(losses)
    nll = sum(losses) / count
    variance = sum(loss * loss for loss in losses) / count - nll * nll
    ppl = math.exp(nll)
    if variance <= 0.0:  # one loss, or equal ones (rounding can take it below zero)
        return ppl, 0.0
    return ppl, ppl * math.sqrt(variance / (count - 1))


def book(t: list[int], L: int, S: int, drop_last: bool) -> list[Event]:
    """Input t[i:i+L], targets t[i+1:i+L+1], all scored; batches of 2, drop_last drops a lone last window.

    L and S count tokens, both >= 1. Losses for the events are in nats per token.
    """
    windows: list[tuple[int, list[int]]] = []
    for i in range(0, len(t) - L, S):
        windows.append((i, t[i : i + L]))
    if drop_last and len(windows) % 2 == 1:
        windows.pop()
    events: list[Event] = []
    for window_number, (start, inputs) in enumerate(windows):
        for j in range(len(inputs)):
            events.append((window_number, start + j + 1, tuple(inputs[: j + 1])))
    return events


def book_mean_of_batch_means(window_losses: list[list[float]], batch: int = 2) -> float:
    """Mean over batches of each batch's mean loss, in nats per token; a short last batch counts as one."""
    batch_means: list[float] = []
    for first in range(0, len(window_losses), batch):
        pooled: list[float] = []
        for losses in window_losses[first : first + batch]:
            pooled.extend(losses)
        batch_means.append(sum(pooled) / len(pooled))
    return sum(batch_means) / len(batch_means)
