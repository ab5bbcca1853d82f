"""SmolLM2 is loaded once for all tools, and let go with the last of them."""

import pytest


@pytest.fixture(scope="package")
def smollm2():
    from peers import parity

    wanted = parity.missing(*parity.SMOLLM2)
    if wanted:
        pytest.skip(f"needs {wanted}")
    return parity.smollm2()
