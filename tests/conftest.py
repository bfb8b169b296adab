"""Register the fixture plugins, one a concern (STYLE, Tests)."""

from hypothesis import settings

pytest_plugins = ["tests.fixtures.postgres", "tests.fixtures.cluster", "tests.fixtures.web", "tests.fixtures.browser"]

settings.register_profile("protheon", deadline=None)  # a slow machine is no defect; the time-out of a test bounds it
settings.register_profile("thorough", settings.get_profile("protheon"))  # tests/properties/effort.py: `make test-all`
settings.load_profile("protheon")
