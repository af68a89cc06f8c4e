"""What preflight asks a host for: who uses apt."""

from plugins import load

host_probe = load("preflight/library/host_probe.py")


def test_a_first_boot_uses_apt_until_it_has_ended(tmp_path, monkeypatch):
    boot = tmp_path / "cloud-init"
    monkeypatch.setattr(host_probe, "APT_LOCKS", [])
    monkeypatch.setattr(host_probe, "FIRST_BOOT", boot)
    assert host_probe.apt_users() == []
    boot.mkdir()
    assert host_probe.apt_users() == ["cloud-init"]
    assert host_probe.wait_for_apt(0) == "cloud-init"
    (boot / "result.json").touch()
    assert host_probe.apt_users() == []
    (boot / "result.json").rename(boot / "disabled")
    assert host_probe.wait_for_apt(0) == ""
