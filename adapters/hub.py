"""The Hugging Face hub: is it there, and one line for each way in which it fails."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from evalgpt.core import EvaluationError

__all__ = ["explained", "hub_arguments"]


REACH_SECONDS = 10.0
"""How long the hub may take to answer before it counts as out of reach."""


def hub_arguments(name: str, revision: str | None) -> dict[str, Any]:
    """What to tell the hub's client for the repository ``name``: to keep to its cache if the hub cannot be reached.

    Asked for a file without a network, the client tries for the better part of a minute; one question first settles it.

    Raises:
        EvaluationError: there is no such repository, or neither a network nor a cached copy.
    """
    import huggingface_hub as hub
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        hub.HfApi().model_info(name, revision=revision, timeout=REACH_SECONDS)
    except HFValidationError:
        raise EvaluationError(f"there is no folder {name}, and it is not a name that the hub could know") from None
    except (RepositoryNotFoundError, RevisionNotFoundError):
        at = f" at revision {revision}" if revision else ""
        raise EvaluationError(f"the hub has no model {name}{at}, or it needs a login") from None
    except Exception as error:  # httpx, requests or the operating system, by the client's version
        if isinstance(hub.try_to_load_from_cache(name, "config.json", revision=revision), str):
            return {"local_files_only": True}
        raise EvaluationError(
            f"{name} is no folder here, and the hub cannot be reached ({type(error).__name__}); connect once, or give "
            f"a local folder as in ./{name.split('/')[-1]}"
        ) from error
    return {}


@contextlib.contextmanager
def explained(path: str) -> Iterator[None]:
    """Turn whatever transformers raises into one line that names the model.

    Raises:
        EvaluationError: with the reason.
    """
    try:
        yield
    except EvaluationError:
        raise
    except Exception as error:  # transformers, huggingface_hub, safetensors and gguf raise each their own
        raise EvaluationError(f"cannot load {path}: {_reason(error)}") from error


CUT = "a file of it is cut short or damaged"

KNOWN = {
    "trust_remote_code": "it brings Python code of its own, which only trust_remote_code=true runs",
    "Unrecognized configuration class": "transformers knows no causal language model of its kind",
    "Couldn't instantiate the backend tokenizer": "it has no tokenizer.json, nor what another tokenizer is built from",
    "Weights only load failed": "its weights are a pickle with more in it than tensors, which is not run",
    "Error while deserializing header": CUT,
    "unpack_from requires a buffer": CUT,
    "cannot reshape array of size": CUT,
}
"""What to say for messages that advise a Python programmer or name an inner detail."""


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    for mark, reason in KNOWN.items():
        if mark in text:
            return reason
    return (text if " " in text else f"{type(error).__name__} {text}".strip())[:300]
