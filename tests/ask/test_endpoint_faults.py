"""Every fault of a server ends as documented, in time, and only with errors of ours."""

import pytest
from endpoint_faults import FAULTS, Fault, complaint, run


@pytest.fixture(autouse=True)
def nothing_leaves_this_machine(monkeypatch):
    from scripted_server import only_loopback

    only_loopback(monkeypatch)


@pytest.mark.parametrize("fault", FAULTS, ids=[fault.name for fault in FAULTS])
def test_a_fault_ends_as_documented(fault: Fault):
    found = run(fault)
    assert complaint(fault, found) == ""
    # A key that was sent is nowhere to be seen afterwards.
    assert "sk-test-0123456789" not in f"{found.error!r} {found.answers!r}"
