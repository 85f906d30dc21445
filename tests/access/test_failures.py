from __future__ import annotations

from daemon.access.failures import ALLOWED, Failures, network


def test_ten_a_minute_and_then_a_wait() -> None:
    failures = Failures()
    assert [failures.count("192.168.1.7", float(at)) for at in range(ALLOWED)] == [0.0] * ALLOWED
    assert failures.count("192.168.1.7", 10.0) == 50.0
    assert failures.count("192.168.1.7", 59.0) == 1.0
    assert failures.count("192.168.1.8", 59.0) == 0.0


def test_a_flood_does_not_keep_itself_out_for_ever() -> None:
    failures = Failures()
    passed = sum(failures.count("10.0.0.1", at / 10) == 0.0 for at in range(6000))
    assert passed == 10 * ALLOWED  # ten minutes of ten a second


def test_a_clock_that_is_set_back_shuts_nobody_out() -> None:
    failures = Failures()
    for _ in range(20):
        failures.count("10.0.0.1", 1e9)
    assert failures.count("10.0.0.1", 1e6) == 0.0


def test_a_host_has_one_network_of_ipv6() -> None:
    assert network("2001:db8:1:2::1") == network("2001:db8:1:2:ffff::9") == "2001:db8:1:2::/64"
    assert network("2001:db8:1:3::1") != network("2001:db8:1:2::1")
    assert network("192.168.1.7") == "192.168.1.7"
    assert network("") == ""


def test_addresses_are_forgotten_before_they_fill_the_memory() -> None:
    failures = Failures()
    for number in range(5000):
        failures.count(f"10.{number >> 8}.{number & 255}.1", 0.0)
    assert len(failures) == 1024
