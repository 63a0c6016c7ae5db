"""Fixtures that every test may use, and the promise that no skip stays unseen."""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

from edgekern import _core

# No deadlines: a slow machine is not a wrong answer. Failing examples print how to reproduce them.
settings.register_profile("dev", max_examples=25, deadline=None, print_blob=True)
settings.register_profile("ci", max_examples=200, deadline=None, print_blob=True)
settings.register_profile("nightly", max_examples=5000, deadline=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))

REPOSITORY = Path(__file__).resolve().parents[1]
DATA_ROOT = Path(os.environ.get("EDGEKERN_TEST_DATA") or REPOSITORY.parent / "shared" / "data")
NO_DATA = "test data is absent (EDGEKERN_TEST_DATA)"


@pytest.fixture(params=_core.available_isas())
def isa(request: pytest.FixtureRequest) -> str:
    """Each ISA that this machine can run, one after the other."""
    return str(request.param)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20261121)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The checkout that these tests belong to."""
    return REPOSITORY


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of real models and data; without it the test is skipped with one fixed reason."""
    if not DATA_ROOT.is_dir():
        pytest.skip(NO_DATA)
    return DATA_ROOT


@pytest.fixture(scope="session")
def required_isas() -> tuple[str, ...]:
    """The ISAs that this run has to execute: CI lists them, so that a missing one is an error and not a gap."""
    return tuple(os.environ.get("EDGEKERN_REQUIRED_ISAS", "").replace(",", " ").split())


def pytest_sessionstart(session: pytest.Session) -> None:
    missing = set(os.environ.get("EDGEKERN_REQUIRED_ISAS", "").replace(",", " ").split()) - set(_core.available_isas())
    if missing:
        raise pytest.UsageError(f"EDGEKERN_REQUIRED_ISAS names {sorted(missing)}, which this machine cannot run")


def _skips(reporter: object) -> Counter[str]:
    reports = getattr(reporter, "stats", {}).get("skipped", [])
    return Counter(str(report.longrepr[2]).removeprefix("Skipped: ") for report in reports)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for reason, count in _skips(terminalreporter).most_common():
        terminalreporter.write_line(f"skipped {count}: {reason}")


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """A test that needs data must run where the data is: skipping it there fails the whole run."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if DATA_ROOT.is_dir() and any(reason.startswith("test data") for reason in _skips(reporter)):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture
def no_float_kernels() -> Iterator[None]:
    """Every float operator on the host: for tests of host steps, which are the same whichever operator is one."""
    from graphs import without_float_kernels

    with without_float_kernels():
        yield
