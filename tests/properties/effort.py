"""How hard to look: a few examples in `make test`, twenty times as many in `make test-all` (--hypothesis-profile=thorough)."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

THOROUGH = "thorough"
_FACTOR = 20


def examples(n: int) -> settings:
    """Look at n examples, or at many more; what an example uses of a module's fixtures is meant to be shared."""
    factor = _FACTOR if settings.get_current_profile_name() == THOROUGH else 1
    return settings(max_examples=n * factor, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
