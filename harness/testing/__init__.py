"""The conformance kit: is an adapter right? For plugin authors' own tests, and behind ``evalgpt check``.

In a test module::

    from evalgpt import testing

    @testing.parametrize(lambda: MyModel(seed=1), other=lambda: MyModel(seed=2))
    def test_my_model(check):
        check()

Without pytest, :func:`run_checks` gives an :class:`Outcome` for each. The idea of small named checks with expected
failures that must have a reason is scikit-learn's (``sklearn.utils.estimator_checks``).
"""

from __future__ import annotations

from evalgpt.core.rounding import tolerance_of
from evalgpt.testing.kit import CHECKS, Checked, Outcome, names, parametrize, run_check, run_checks
from evalgpt.testing.subject import CheckFailed, CheckSkipped, Subject

__all__ = [
    "CHECKS",
    "CheckFailed",
    "CheckSkipped",
    "Checked",
    "Outcome",
    "Subject",
    "names",
    "parametrize",
    "run_check",
    "run_checks",
    "tolerance_of",
]
